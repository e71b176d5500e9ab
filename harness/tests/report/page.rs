//! `report.html` in a browser: its script runs to the end without an error, and every number that it shows is the one in
//! `report.json`.

use std::cell::RefCell;
use std::path::Path;
use std::process::Command;

use hitless::report::json;
use hitless::report::text::count;
use html5ever::tokenizer::{
    BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::hostile;
use crate::runs::{self, Run};

/// The names under which distributions have it.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// More than a page takes by far; then it is killed.
const PATIENCE_SECONDS: &str = "60";

/// What a browser made of a page.
struct Opened {
    /// The document after its script has run.
    document: String,
    /// What the console says.
    console: Vec<String>,
}

impl Opened {
    fn has_run_its_script(&self) -> bool {
        self.document.contains("data-script=\"done\"")
    }
}

fn open(page: &Path, fragment: &str) -> Opened {
    let is_there = |name: &&&str| Command::new(name).arg("--version").output().is_ok();
    let browser = BROWSERS.iter().find(is_there).unwrap_or_else(|| {
        panic!("no browser ({}); install one: apt-get install chromium", BROWSERS.join(", "));
    });
    let profile = tempfile::tempdir().expect("a directory for the browser");
    let output = Command::new("timeout")
        .args([
            "--kill-after=5",
            PATIENCE_SECONDS,
            browser,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
        ])
        .args([
            "--disable-dev-shm-usage",
            "--enable-logging=stderr",
            "--virtual-time-budget=10000",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}#{fragment}", page.display()))
        .output()
        .expect("timeout of coreutils can be started");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{browser}: {}\n{log}", output.status);
    Opened {
        document: String::from_utf8_lossy(&output.stdout).into_owned(),
        console: log.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect(),
    }
}

/// A number of a page: where in report.json it stands, its value, and how it is written.
#[derive(Debug, Default, Clone)]
struct Shown {
    at: String,
    value: String,
    text: String,
}

fn numbers(document: &str) -> Vec<Shown> {
    #[derive(Default)]
    struct Numbers {
        done: RefCell<Vec<Shown>>,
        open: RefCell<Option<Shown>>,
    }

    impl TokenSink for Numbers {
        type Handle = ();

        fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
            match token {
                Token::TagToken(Tag { kind: TagKind::StartTag, name, attrs, .. }) if &*name == "data" => {
                    let of = |wanted: &str| {
                        let found = attrs.iter().find(|attribute| &*attribute.name.local == wanted);
                        found.map(|attribute| attribute.value.to_string()).unwrap_or_default()
                    };
                    *self.open.borrow_mut() =
                        Some(Shown { at: of("data-at"), value: of("value"), text: String::new() });
                }
                Token::TagToken(Tag { kind: TagKind::EndTag, name, .. }) if &*name == "data" => {
                    self.done.borrow_mut().extend(self.open.borrow_mut().take());
                }
                Token::CharacterTokens(text) => {
                    if let Some(open) = self.open.borrow_mut().as_mut() {
                        open.text.push_str(&text);
                    }
                }
                _ => {}
            }
            TokenSinkResult::Continue
        }
    }

    let tokenizer = Tokenizer::new(Numbers::default(), TokenizerOpts::default());
    let input = BufferQueue::default();
    input.push_back(document.into());
    let _ = tokenizer.feed(&input);
    tokenizer.end();
    tokenizer.sink.done.into_inner()
}

/// The numbers that are not those of the report.
fn wrong(document: &str, report: &Value) -> Vec<Shown> {
    let is_wrong = |shown: &Shown| {
        let expected = report.pointer(&shown.at).and_then(Value::as_u64);
        expected.is_none_or(|number| shown.value != number.to_string() || shown.text != count(number))
    };
    numbers(document).into_iter().filter(is_wrong).collect()
}

fn rendered(run: &Run) -> (TempDir, Value) {
    let directory = run.written();
    runs::rendered(directory.path());
    let report = serde_json::from_str(&runs::text(directory.path(), "report.json")).expect("it is JSON");
    (directory, report)
}

#[test]
fn page_runs_without_an_error_and_shows_the_numbers_of_the_report() {
    for run in [Run::clean(), Run::failing()] {
        let (directory, report) = rendered(&run);
        let opened = open(&directory.path().join("report.html"), "");
        assert!(opened.console.is_empty(), "{:#?}", opened.console);
        assert!(opened.has_run_its_script(), "the script did not get to its end");
        let wrong = wrong(&opened.document, &report);
        assert!(wrong.is_empty(), "not what report.json says: {wrong:#?}");
        let numbers = numbers(&opened.document);
        let shows = |place: &str| numbers.iter().any(|shown| shown.at == place);
        for place in
            ["/totals/requests", "/totals/ok", "/totals/failed", "/cohorts/1/failed", "/phases/0/requests"]
        {
            assert!(shows(place), "{place} is not in the page");
        }
        for class in report["totals"]["by_class"].as_object().expect("counts by class").keys() {
            assert!(shows(&format!("/totals/by_class/{class}")), "{class} is not in the page");
        }
    }
}

#[test]
fn zooming_to_a_restart_tells_what_was_lost_in_it() {
    let (directory, report) = rendered(&Run::failing());
    let opened = open(&directory.path().join("report.html"), "zoom-3");
    assert!(opened.console.is_empty(), "{:#?}", opened.console);
    let restart = &report["restarts"][2];
    let shown = format!(
        "restart 3 of 4: {}, round {}, {} of {} requests failed",
        restart["replica"].as_str().unwrap_or_default(),
        restart["round"],
        restart["failed"],
        restart["requests"]
    );
    assert!(opened.document.contains(&shown), "{shown:?} is not shown");
    assert!(
        opened.document.contains("server-a: listener closed (says the server)"),
        "its events are not told"
    );
    assert!(opened.document.contains("class=\"lost\""), "what was lost between them is not told");
}

#[test]
fn page_of_hostile_servers_runs_no_script_but_its_own() {
    let directory = tempfile::tempdir().expect("a directory for the run");
    let report = json::render(&hostile::hostile());
    std::fs::write(directory.path().join("report.json"), report).expect("room for a report");
    runs::rendered(directory.path());
    for fragment in ["", "zoom-1"] {
        let opened = open(&directory.path().join("report.html"), fragment);
        // The policy would refuse any other script, and the console would say so.
        assert!(opened.console.is_empty(), "{:#?}", opened.console);
        assert!(opened.has_run_its_script(), "the script did not get to its end");
    }
}

/// The control: what the tests above look for is seen where it is.
#[test]
fn broken_pages_are_noticed() {
    let (directory, report) = rendered(&Run::failing());
    let written = runs::text(directory.path(), "report.html");
    let page = directory.path().join("broken.html");
    for (what, from, to) in [
        ("data that the script cannot read", "\"buckets\":[", "\"buckets\":}"),
        ("a script that is not the page's own", "\"use strict\";", "alert(1);"),
        ("a script of somebody else", "<header>", "<script>alert(1)</script><header>"),
    ] {
        let broken = written.replacen(from, to, 1);
        assert_ne!(broken, written, "{what}");
        std::fs::write(&page, broken).expect("room for a page");
        let opened = open(&page, "");
        assert!(!opened.console.is_empty(), "{what}: the console is silent");
    }
    let one_more = report["totals"]["requests"].as_u64().expect("a count") + 1;
    let from = format!("data-at=\"/totals/requests\">{}<", count(one_more - 1));
    let to = format!("data-at=\"/totals/requests\">{}<", count(one_more));
    assert_eq!(wrong(&written.replace(&from, &to), &report).len(), 1);
}
