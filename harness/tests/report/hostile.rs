//! Servers that say what a reader, a browser, a terminal or a parser would obey. What such a run's files are built of is
//! what they are built of with harmless texts in the same places: nothing that a server says is markup, a command or a
//! control character.

use std::collections::BTreeMap;
use std::path::Path;

use hitless::analysis::report::Report;
use hitless::model::cut_short::CutShort;
use hitless::report::text::visible;
use hitless::report::{annotations, json};
use html5ever::tokenizer::states::RawKind;
use html5ever::tokenizer::{
    BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
};
use pulldown_cmark::{Event, Options, Parser};
use serde_json::Value;

use crate::metrics;
use crate::runs::{self, Run};

/// What no server should be able to bring into anything.
const HOSTILE: [&str; 14] = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script><!--",
    "]]><failure/>&lt;&#0;&quot;",
    "\" onmouseover=\"alert(1)\" x='y' `z`",
    "a | b |\n| --- | --- |\n\n# heading\n- item\n[link](javascript:alert(1)) ![](http://example.org/x)",
    "```\n</details>\n~~~ ---- <img src=x onerror=alert(1)> <!-- <?xml <![CDATA[",
    "\u{1b}[2J\u{1b}[31m\u{1b}]0;title\u{7}\u{9b}31m\r",
    "nul \0 bell \u{7} backspace \u{8} delete \u{7f} \u{fffe}\u{ffff}",
    "\u{202e}gnp.exe\u{2066}\u{200b}\u{feff}\u{2028}\u{2029}",
    "\n::error::stolen\n::set-output name=x::y",
    "%0A::error::stolen%0D%25",
    "\\\" \\n \n# EOF\nhitless_requests_total{} 1",
    "{{ x }} ${x} $(x) \\u003c/script> \\",
    "@everyone #1 http://example.org www.example.org ftp://example.org :smile: <b>",
];

/// Fields whose texts are the harness's own: enums, and budgets, which were checked when they were read.
const OWN: [&str; 9] = ["verdict", "phase", "class", "source", "state", "budget", "broke", "cohort", "event"];

/// Puts a text of its own for every text of a report, the same for the same one.
struct Texts {
    replaced: BTreeMap<String, String>,
    new: fn(usize) -> String,
}

impl Texts {
    fn replace(&mut self, text: &mut String) {
        let next = self.replaced.len();
        let another = self.replaced.entry(text.clone()).or_insert_with(|| (self.new)(next));
        text.clone_from(another);
    }

    /// Everything below `value`; `key` is where it stands.
    fn replace_all(&mut self, value: &mut Value, key: &str) {
        match value {
            Value::String(_) if OWN.contains(&key) => {}
            Value::String(text) => self.replace(text),
            Value::Array(list) => {
                for value in list {
                    self.replace_all(value, if key == "broke" { key } else { "" });
                }
            }
            Value::Object(object) => {
                let is_named_outside = ["replicas", "kernel", "account"].contains(&key);
                let fields = std::mem::take(object).into_iter().map(|(mut field, mut value)| {
                    self.replace_all(&mut value, &field);
                    if is_named_outside {
                        self.replace(&mut field);
                    }
                    (field, value)
                });
                *object = fields.collect();
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// A failing run in which every text that is not the harness's own is `new`.
fn report_with(new: fn(usize) -> String) -> Report {
    let mut report = Run { is_replacing: true, ..Run::failing() }.report();
    report.run.cut_short = Some(CutShort::Told("why".to_owned()));
    report.reasons.push("what the run could not see".to_owned());
    report.blind_spots.push("what the run could not see".to_owned());
    report.budgets[1].holds = false;
    report.budgets[1].excuse = Some("why the machine may have broken it".to_owned());
    for restart in &mut report.restarts {
        restart.restart.account.insert("reason".to_owned(), "signal".into());
    }
    let mut value = serde_json::to_value(&report).expect("a report is plain data");
    Texts { replaced: BTreeMap::new(), new }.replace_all(&mut value, "");
    serde_json::from_value(value).expect("it is still a report")
}

pub(crate) fn hostile() -> Report {
    report_with(|index| format!("{}{index}", HOSTILE[index % HOSTILE.len()]))
}

pub(crate) fn harmless() -> Report {
    report_with(|index| format!("word{index}"))
}

/// What the binary writes and prints of a report that lies in its directory.
pub(crate) struct Rendered {
    pub(crate) html: String,
    pub(crate) junit: String,
    pub(crate) markdown: String,
    pub(crate) metrics: String,
    pub(crate) terminal: String,
}

pub(crate) fn rendered(report: &Report) -> Rendered {
    let directory = tempfile::tempdir().expect("a directory for the run");
    std::fs::write(directory.path().join("report.json"), json::render(report)).expect("room for a report");
    rendered_in(directory.path())
}

pub(crate) fn rendered_in(directory: &Path) -> Rendered {
    let output = runs::rendered(directory);
    let [html, junit, markdown, metrics] =
        ["report.html", "junit.xml", "summary.md", "metrics.txt"].map(|name| runs::text(directory, name));
    let terminal = String::from_utf8(output.stdout).expect("the terminal's text is UTF-8");
    Rendered { html, junit, markdown, metrics, terminal }
}

/// The tags of a page as a browser's tokenizer reads it, with the names of their attributes.
pub(crate) fn tags(html: &str) -> Vec<String> {
    #[derive(Default)]
    struct Tags(std::cell::RefCell<Vec<String>>);

    impl TokenSink for Tags {
        type Handle = ();

        fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
            let Token::TagToken(Tag { kind, name, attrs, .. }) = token else {
                assert!(!matches!(token, Token::CommentToken(_)), "a comment");
                return TokenSinkResult::Continue;
            };
            let attributes: Vec<_> = attrs.iter().map(|attribute| attribute.name.local.to_string()).collect();
            self.0.borrow_mut().push(format!("{kind:?} {name} {}", attributes.join(" ")));
            match (kind, &*name) {
                (TagKind::StartTag, "script") => TokenSinkResult::RawData(RawKind::ScriptData),
                (TagKind::StartTag, "style") => TokenSinkResult::RawData(RawKind::Rawtext),
                (TagKind::StartTag, "title") => TokenSinkResult::RawData(RawKind::Rcdata),
                _ => TokenSinkResult::Continue,
            }
        }
    }

    let tokenizer = Tokenizer::new(Tags::default(), TokenizerOpts::default());
    let input = BufferQueue::default();
    input.push_back(html.into());
    let _ = tokenizer.feed(&input);
    tokenizer.end();
    tokenizer.sink.0.into_inner()
}

/// The elements of a document with the names of their attributes.
pub(crate) fn elements(xml: &str) -> Vec<String> {
    let document = roxmltree::Document::parse(xml).expect("junit.xml is well-formed");
    assert!(
        document.descendants().all(|node| !node.is_comment() && !node.is_pi()),
        "comments or instructions"
    );
    let elements = document.descendants().filter(roxmltree::Node::is_element).map(|element| {
        let attributes: Vec<_> = element.attributes().map(|attribute| attribute.name()).collect();
        format!("{} {}", element.tag_name().name(), attributes.join(" "))
    });
    elements.collect()
}

/// The blocks, spans and raw HTML of a text, as GitHub reads it.
pub(crate) fn blocks(markdown: &str) -> Vec<String> {
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_GFM;
    let blocks = Parser::new_ext(markdown, options).filter_map(|event| match event {
        Event::Start(tag) => Some(format!("{tag:?}")),
        Event::End(tag) => Some(format!("end of {tag:?}")),
        Event::Html(html) | Event::InlineHtml(html) => Some(html.to_string()),
        Event::Text(_) | Event::SoftBreak => None,
        other => Some(format!("{other:?}")),
    });
    blocks.collect()
}

fn assert_same(what: &str, hostile: &[String], harmless: &[String]) {
    let differs = hostile.iter().zip(harmless).position(|(one, other)| one != other);
    if let Some(at) = differs {
        let near = |all: &[String]| all[at.saturating_sub(2)..(at + 3).min(all.len())].to_vec();
        panic!("{what}: {:#?}\nwith harmless texts: {:#?}", near(hostile), near(harmless));
    }
    assert_eq!(hostile.len(), harmless.len(), "{what}");
}

/// Control characters other than a line's end.
pub(crate) fn controls(text: &str) -> String {
    text.chars().filter(|character| character.is_control() && *character != '\n').collect()
}

#[test]
fn page_is_built_the_same() {
    let (hostile, harmless) = (rendered(&hostile()).html, rendered(&harmless()).html);
    assert_same("report.html", &tags(&hostile), &tags(&harmless));
    assert_eq!(tags(&hostile).iter().filter(|tag| tag.starts_with("StartTag script")).count(), 2);
    assert_eq!(controls(&hostile), "");
}

#[test]
fn page_data_is_json_with_the_texts_made_visible() {
    let report = hostile();
    let html = rendered(&report).html;
    let (_, data) =
        html.split_once(r#"<script type="application/json" id="data">"#).expect("the page's data");
    let (data, _) = data.split_once("</script>").expect("the data ends");
    let data: Value = serde_json::from_str(data).expect("the data is JSON");
    let first = visible(&report.replica_states[0].replica);
    let names = data["replicas"].as_array().expect("the replicas' names");
    let known = |name: &Value| first.starts_with(name.as_str().unwrap_or_default().trim_end_matches('…'));
    assert!(names.iter().any(known), "{first:?} is not in {names:?}");
}

#[test]
fn junit_is_built_the_same() {
    let (hostile, harmless) = (rendered(&hostile()).junit, rendered(&harmless()).junit);
    assert_same("junit.xml", &elements(&hostile), &elements(&harmless));
    assert_eq!(controls(&hostile), "");
    assert!(!hostile.contains(['\u{fffe}', '\u{ffff}']), "characters that XML 1.0 does not have");
}

#[test]
fn summary_is_built_the_same() {
    let (hostile, harmless) = (rendered(&hostile()).markdown, rendered(&harmless()).markdown);
    assert_same("summary.md", &blocks(&hostile), &blocks(&harmless));
    assert_eq!(controls(&hostile), "");
    let prose = prose(&hostile);
    for link in ["http://example", "www.example", "ftp://example", "@everyone", "#1 "] {
        assert!(!prose.contains(link), "GitHub makes a link of {link:?}");
    }
}

/// What is no block of code: in one nothing is a link.
fn prose(markdown: &str) -> String {
    let mut fence: Option<&str> = None;
    let outside = markdown.lines().filter(|line| {
        let ticks = &line[..line.len() - line.trim_start_matches('`').len()];
        match fence {
            None if ticks.len() >= 3 => fence = Some(ticks),
            None => return true,
            Some(opening) if *line == opening => fence = None,
            Some(_) => {}
        }
        false
    });
    outside.collect::<Vec<_>>().join("\n")
}

#[test]
fn metrics_are_built_the_same() {
    let families = |text: &str| -> Vec<String> {
        let samples = metrics::parse(text);
        samples.iter().map(|sample| format!("{} {:?}", sample.name, sample.labels.keys())).collect()
    };
    let (hostile, harmless) = (rendered(&hostile()).metrics, rendered(&harmless()).metrics);
    assert_same("metrics.txt", &families(&hostile), &families(&harmless));
    assert_eq!(controls(&hostile), "");
}

#[test]
fn terminal_obeys_nothing() {
    let text = rendered(&hostile()).terminal;
    assert_eq!(controls(&text), "");
    assert!(
        text.chars()
            .all(|character| visible(&character.to_string()) == character.to_string() || character == '\n')
    );
}

#[test]
fn annotations_are_ours_alone() {
    let (hostile, harmless) = (annotations::render(&hostile()), annotations::render(&harmless()));
    let commands =
        |text: &str| text.lines().map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect();
    let (hostile_commands, harmless_commands): (Vec<String>, Vec<String>) =
        (commands(&hostile), commands(&harmless));
    assert_same("annotations", &hostile_commands, &harmless_commands);
    assert_eq!(controls(&hostile), "");
    for line in hostile.lines() {
        assert_eq!(line.match_indices("::").next().map(|(at, _)| at), Some(0), "{line}");
        assert!(!line.contains("%0A::"), "the runner would put a line's end before a command: {line}");
    }
}

/// The same from the events on: the names that a server gives, its log lines, what an error says of an answer.
#[test]
fn run_whose_servers_are_hostile_is_told_the_same() {
    let render = |text: &dyn Fn(&str) -> String| {
        let directory = Run::failing().written();
        let events = runs::text(directory.path(), "events.jsonl");
        let said = ["server-a", "server-b", "connection reset by peer (os error 104)", "hitless-server:dev"];
        let events = said.iter().fold(events, |events, word| {
            let replaced = serde_json::to_string(&text(word)).expect("a text");
            events.replace(word, replaced.trim_matches('"'))
        });
        std::fs::write(directory.path().join("events.jsonl"), events).expect("room for the events");
        rendered_in(directory.path())
    };
    let hostile = render(&|word| format!("{}{word}", HOSTILE.join(" ").replace('"', "'")));
    let harmless = render(&str::to_owned);
    assert_same("report.html", &tags(&hostile.html), &tags(&harmless.html));
    assert_same("junit.xml", &elements(&hostile.junit), &elements(&harmless.junit));
    assert_same("summary.md", &blocks(&hostile.markdown), &blocks(&harmless.markdown));
    assert_eq!(metrics::parse(&hostile.metrics).len(), metrics::parse(&harmless.metrics).len());
    for text in [&hostile.html, &hostile.junit, &hostile.markdown, &hostile.metrics, &hostile.terminal] {
        assert_eq!(controls(text), "");
    }
}
