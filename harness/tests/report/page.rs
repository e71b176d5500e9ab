//! `report.html` in a browser: its script runs to the end without an error, and every number that it shows is the one in
//! `report.json`. What a reader does with it is in [`crate::reader`].

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::process::Command;

use hitless::model::failure::ByClass;
use hitless::report::digest::{bound, seen};
use hitless::report::json;
use hitless::report::text::{count, short_ms};
use html5ever::tokenizer::{
    BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::hostile;
use crate::runs::{self, Run};
use crate::tools;

/// The names under which distributions have it.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// More than a page takes by far; then it is killed.
const PATIENCE_SECONDS: &str = "60";

/// What a browser made of a page.
pub(crate) struct Opened {
    /// The document after its script has run.
    pub(crate) document: String,
    /// What the console says.
    pub(crate) console: Vec<String>,
}

impl Opened {
    fn has_run_its_script(&self) -> bool {
        self.document.contains("data-script=\"done\"")
    }
}

fn browser() -> Option<&'static str> {
    BROWSERS.into_iter().find(|name| Command::new(name).arg("--version").output().is_ok())
}

/// Whether there is no browser; the test that asks cannot run then.
pub(crate) fn lacks_browser() -> bool {
    let is_there = browser().is_some();
    if !is_there {
        tools::lack("a browser (apt-get install chromium)");
    }
    !is_there
}

pub(crate) fn open(page: &Path, fragment: &str) -> Opened {
    let browser = browser().expect("a test that opens a page looks for a browser first");
    let profile = tempfile::tempdir().expect("a directory for the browser");
    let output = Command::new("timeout")
        .args(["--kill-after=5", PATIENCE_SECONDS, browser])
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom"])
        // A page in a frame of another file can be touched by it: that is how a reader is played.
        .args(["--allow-file-access-from-files", "--window-size=1400,1000"])
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

/// A number of a page: where in report.json it stands, and how it is written.
#[derive(Debug, Default, Clone)]
struct Shown {
    at: String,
    text: String,
}

/// Every element with `data-at`, and every cell that its table knows by `data-cells`; in a row with `data-of` it stands
/// below that.
fn numbers(document: &str) -> Vec<Shown> {
    #[derive(Default)]
    struct Numbers {
        done: RefCell<Vec<Shown>>,
        open: RefCell<Option<(String, Shown)>>,
        row: RefCell<String>,
        cells: RefCell<Vec<String>>,
        cell: Cell<usize>,
    }

    impl TokenSink for Numbers {
        type Handle = ();

        fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
            match token {
                Token::TagToken(Tag { kind: TagKind::StartTag, name, attrs, .. }) => {
                    let of = |wanted: &str| {
                        let found = attrs.iter().find(|attribute| &*attribute.name.local == wanted);
                        found.map(|attribute| attribute.value.to_string())
                    };
                    match &*name {
                        "table" => {
                            let cells = of("data-cells").unwrap_or_default();
                            *self.cells.borrow_mut() = cells.split(' ').map(str::to_owned).collect();
                        }
                        "tr" => {
                            *self.row.borrow_mut() = of("data-of").unwrap_or_default();
                            self.cell.set(0);
                        }
                        _ => {}
                    }
                    let of_table = || {
                        let cell = self.cell.replace(self.cell.get() + 1);
                        self.cells.borrow().get(cell).filter(|at| !["", "-"].contains(&at.as_str())).cloned()
                    };
                    if let Some(at) = of("data-at").or_else(|| (&*name == "td").then(of_table).flatten()) {
                        let at = if at.starts_with('/') { at } else { format!("{}{at}", self.row.borrow()) };
                        *self.open.borrow_mut() = Some((name.to_string(), Shown { at, text: String::new() }));
                    }
                }
                Token::TagToken(Tag { kind: TagKind::EndTag, name, .. }) => {
                    let is_its_end = self.open.borrow().as_ref().is_some_and(|(open, _)| **open == *name);
                    if is_its_end {
                        self.done.borrow_mut().extend(self.open.borrow_mut().take().map(|(_, shown)| shown));
                    }
                }
                Token::CharacterTokens(text) => {
                    if let Some((_, open)) = self.open.borrow_mut().as_mut() {
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

/// How a number of report.json is written in the page.
fn written(at: &str, number: &Value, report: &Value) -> Option<String> {
    let field = at.rsplit('/').next().unwrap_or_default();
    let whole = number.as_u64();
    let fraction = || number.as_f64();
    let is_latency = at.contains("/latency/") || at.contains("/phases/") && at.starts_with("/restarts/");
    let text = match field {
        "upper_bound_per_million" => bound(fraction()),
        "share" => format!("{:.1} %", fraction()? * 100.0),
        "load_ms" => format!("{:.1} s", fraction()? / 1e3),
        "t" => format!("{:.2} s", fraction()? / 1e3),
        "rate" => fraction()?.to_string(),
        "lateness_p99_ms" => short_ms(fraction()?),
        "seen" if at.starts_with("/budgets/") => {
            let (budget, _) = at.rsplit_once('/')?;
            seen(&serde_json::from_value(report.pointer(budget)?.clone()).ok()?)
        }
        "by_class" => {
            let by_class: ByClass = serde_json::from_value(number.clone()).ok()?;
            let told = by_class.iter().map(|(class, failed)| format!("{} {}", class.label(), count(*failed)));
            told.collect::<Vec<_>>().concat()
        }
        _ if number.is_null() => "–".to_owned(),
        // Where nothing was answered there is no latency.
        _ if is_latency && fraction()? <= 0.0 => "–".to_owned(),
        _ if is_latency => short_ms(fraction()?),
        _ => count(whole?),
    };
    Some(text)
}

/// The numbers that are not those of the report. A phase that was not measured is not in it.
fn wrong(document: &str, report: &Value) -> Vec<Shown> {
    let is_wrong = |shown: &Shown| match report.pointer(&shown.at) {
        None => !(shown.at.contains("/phases/") && shown.text == "–"),
        Some(number) => written(&shown.at, number, report).is_none_or(|text| shown.text != text),
    };
    numbers(document).into_iter().filter(is_wrong).collect()
}

/// What in the tables looks like a number and does not say where it stands.
fn untold(document: &str) -> Vec<String> {
    let tables = document.split("<table").skip(1).filter(|table| !table.starts_with(" data-cells"));
    let cells = tables.flat_map(|table| table.split("<td class=\"n").skip(1));
    let cells = cells.map(|cell| cell.split("</td>").next().unwrap_or_default());
    cells.filter(|cell| !cell.contains("data-at")).map(str::to_owned).collect()
}

pub(crate) fn rendered(run: &Run) -> (TempDir, Value) {
    let directory = run.written();
    runs::rendered(directory.path());
    let report = serde_json::from_str(&runs::text(directory.path(), "report.json")).expect("it is JSON");
    (directory, report)
}

#[test]
fn page_runs_without_an_error_and_shows_the_numbers_of_the_report() {
    if lacks_browser() {
        return;
    }
    let replacing = Run { is_replacing: true, ..Run::failing() };
    for run in [Run::clean(), Run::failing(), replacing, Run::lossy()] {
        let (directory, report) = rendered(&run);
        let opened = open(&directory.path().join("report.html"), "");
        assert!(opened.console.is_empty(), "{:#?}", opened.console);
        assert!(opened.has_run_its_script(), "the script did not get to its end");
        let wrong = wrong(&opened.document, &report);
        assert!(wrong.is_empty(), "not what report.json says: {wrong:#?}");
        assert_eq!(untold(&opened.document), [""; 0], "numbers that no test looks at");
        let numbers = numbers(&opened.document);
        let shows = |place: &str| numbers.iter().any(|shown| shown.at == place);
        for place in [
            "/totals/requests",
            "/totals/ok",
            "/totals/failed",
            "/cohorts/1/failed",
            "/cohorts/0/latency/p99",
            "/cohorts/0/upper_bound_per_million",
            "/phases/0/requests",
            "/restarts/2/phases/draining",
            "/restarts/2/failed",
            "/budgets/0/seen",
            "/run/load_ms",
        ] {
            assert!(shows(place), "{place} is not in the page");
        }
        for class in report["totals"]["by_class"].as_object().expect("counts by class").keys() {
            assert!(shows(&format!("/totals/by_class/{class}")), "{class} is not in the page");
        }
    }
}

#[test]
fn zooming_to_a_restart_tells_what_was_lost_in_it() {
    if lacks_browser() {
        return;
    }
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
    if lacks_browser() {
        return;
    }
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
    if lacks_browser() {
        return;
    }
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
    let place = "data-at=\"/totals/requests\">";
    let more = written.replace(place, &format!("{place}1"));
    assert_eq!(wrong(&more, &report).len(), 1);
    let later = written.replacen("<td class=\"n\">0.50 s", "<td class=\"n\">10.50 s", 1);
    assert_eq!(wrong(&later, &report).len(), 1);
    assert_eq!(untold(&written.replacen("data-at=\"/budgets/0/seen\"", "", 1)).len(), 1);
}
