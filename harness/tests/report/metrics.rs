//! `metrics.txt` by the grammar of Prometheus' text format 0.0.4 (prometheus.io, "Exposition formats"), as far as it is used.

use std::collections::{BTreeMap, BTreeSet};

use crate::runs::Run;
use hitless::report::metrics;

/// A line that is no comment.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// The samples; panics at what the grammar does not have.
pub(crate) fn parse(text: &str) -> Vec<Sample> {
    let body = text.strip_suffix('\n').expect("the last line ends");
    let mut families: BTreeSet<String> = BTreeSet::new();
    let mut family = (String::new(), String::new());
    let mut seen = BTreeSet::new();
    let mut samples = Vec::new();
    for line in body.split('\n') {
        if let Some(about) = line.strip_prefix("# ") {
            let [word, name, rest] = about.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            match word {
                "HELP" => {
                    assert!(families.insert(name.to_owned()), "family {name} is there twice");
                    family = (name.to_owned(), String::new());
                }
                // What Pushgateway and node_exporter know.
                "TYPE" => {
                    assert!(name == family.0 && ["counter", "gauge", "summary"].contains(&rest), "{line}");
                    rest.clone_into(&mut family.1);
                }
                _ => panic!("{line}"),
            }
            continue;
        }
        let sample = sample(line);
        assert_eq!(sample.name, family.0, "a sample outside of its family");
        assert!(!family.1.is_empty(), "a family without a type: {line}");
        assert!(family.1 != "counter" || (sample.value >= 0.0 && sample.name.ends_with("_total")), "{line}");
        assert!(seen.insert((sample.name.clone(), sample.labels.clone())), "twice: {line}");
        samples.push(sample);
    }
    samples
}

fn sample(line: &str) -> Sample {
    let (name, rest) = line.split_once('{').unwrap_or_else(|| panic!("no labels: {line}"));
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    let mut rest = rest;
    while !rest.starts_with('}') {
        let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
        assert!(is_name(label), "{line}");
        let (value, after) = quoted(after).unwrap_or_else(|| panic!("a value without its end: {line}"));
        assert!(labels.insert(label.to_owned(), value).is_none(), "a label twice: {line}");
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    let value = rest.strip_prefix("} ").and_then(|value| value.parse().ok());
    Sample { name: name.to_owned(), labels, value: value.unwrap_or_else(|| panic!("no value: {line}")) }
}

/// A label's value up to its closing quote, and what comes after.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    loop {
        match characters.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => value.push(match characters.next()?.1 {
                'n' => '\n',
                escaped @ ('\\' | '"') => escaped,
                _ => return None,
            }),
            (_, other) => value.push(other),
        }
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text.chars().all(|character| character.is_ascii_alphanumeric() || character == '_')
}

#[test]
fn metrics_say_what_the_report_says() {
    let report = Run::failing().report();
    let samples = parse(&metrics::render(&report));
    let sum = |name: &str| {
        samples.iter().filter(|sample| sample.name == name).map(|sample| sample.value).sum::<f64>()
    };
    let lost: u64 = report.totals.by_class.values().sum();
    let counts = [
        ("hitless_requests_total", report.totals.requests),
        ("hitless_failures_total", lost),
        ("hitless_restarts_total", report.restarts.len() as u64),
        ("hitless_verdict", 1),
        ("hitless_run_info", 1),
    ];
    for (name, count) in counts {
        assert!((sum(name) - count as f64).abs() < f64::EPSILON, "{name}: {} instead of {count}", sum(name));
    }
}

#[test]
fn metrics_are_read_by_a_parser_of_somebody_else() {
    let read = |text: &str| openmetrics_parser::prometheus::parse_prometheus(text);
    for run in [Run::clean(), Run::failing()] {
        let text = metrics::render(&run.report());
        let exposition = read(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(exposition.families.len(), text.matches("# TYPE ").count());
        assert!(read(&text.replace(" gauge\n", " stateset\n")).is_err(), "a type that it does not know");
    }
}

#[test]
fn promtool_has_nothing_to_say_where_it_is_installed() {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let started = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = started else { return };
    let text = metrics::render(&Run::failing().report());
    promtool.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    let output = promtool.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
