//! `junit.xml` against the rules of the schema that Jenkins' xUnit plugin has (junit-10.xsd), by `xmllint`; and what its
//! cases say, against the verdict.

use std::path::Path;
use std::process::Command;

use hitless::analysis::report::Report;
use hitless::analysis::verdict::Verdict;
use hitless::stored_report;

use crate::runs::{self, Run};
use crate::tools;

/// Whether there is no `xmllint`; the test that asks cannot run then.
fn lacks_xmllint() -> bool {
    let is_there = Command::new("xmllint").arg("--version").output().is_ok();
    if !is_there {
        tools::lack("xmllint (apt-get install libxml2-utils)");
    }
    !is_there
}

/// What `xmllint` says against a file; nothing if it is valid.
fn objections(file: &Path) -> Option<String> {
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/junit.xsd");
    let output =
        Command::new("xmllint").args(["--noout", "--nonet", "--schema"]).arg(schema).arg(file).output();
    let output = output.expect("xmllint can be started");
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn junit_of_every_kind_of_run_is_valid() {
    if lacks_xmllint() {
        return;
    }
    for run in [Run::clean(), Run::failing(), Run { is_replacing: true, ..Run::failing() }] {
        let directory = run.written();
        runs::rendered(directory.path());
        assert_eq!(objections(&directory.path().join("junit.xml")), None, "{run:?}");
    }
}

#[test]
fn junit_with_a_word_of_its_own_is_refused() {
    if lacks_xmllint() {
        return;
    }
    let directory = Run::failing().written();
    runs::rendered(directory.path());
    let written = runs::text(directory.path(), "junit.xml");
    let file = directory.path().join("junit.xml");
    for (word, another) in
        [("testcase", "case"), (" time=", " duration="), (" failures=\"", " failures=\"some")]
    {
        std::fs::write(&file, written.replace(word, another)).expect("room for the changed file");
        assert!(objections(&file).is_some(), "{another} goes unnoticed");
    }
}

/// How many failures and errors there are, counted by hand and as the document says itself.
fn outcomes(report: &Report) -> (usize, usize) {
    let text = hitless::report::junit::render(report);
    let document = roxmltree::Document::parse(&text).expect("junit.xml is well-formed");
    let counted = |name: &str| document.descendants().filter(|node| node.has_tag_name(name)).count();
    let said = |name: &str| document.root_element().attribute(name).and_then(|text| text.parse().ok());
    let found = (counted("failure"), counted("error"));
    assert_eq!((said("failures"), said("errors")), (Some(found.0), Some(found.1)));
    found
}

#[test]
fn broken_budgets_and_the_restarts_that_broke_them_are_the_failures() {
    let outcomes_of = |budgets: &[&'static str], run: Run| {
        let report = Run { budgets: budgets.to_vec(), ..run }.report();
        (report.verdict, outcomes(&report))
    };
    let (four_restarts, fail) = (4, Verdict::Fail);
    assert_eq!(
        outcomes_of(&["failed==0"], Run::failing()),
        (fail, (1 + four_restarts, 1)),
        "and one harness interference"
    );
    let clean = outcomes_of(&["failed==0"], Run::clean());
    assert_eq!(clean, (Verdict::Pass, (0, 0)));
    assert_eq!(
        outcomes_of(&["failed<1000", "max<5ms"], Run::failing()),
        (fail, (1, 1)),
        "no restart broke the latency's budget by losing something"
    );
    assert_eq!(outcomes_of(&["pooled.failed==0", "requests==1"], Run::failing()), (fail, (1, 1)));
    assert_eq!(
        outcomes_of(&["fresh.reset==0", "failed<1000"], Run::failing()),
        (fail, (1 + four_restarts, 1))
    );
    assert_eq!(outcomes_of(&["failed<1000"], Run::failing()), (Verdict::Inconclusive, (0, 1)));
}

#[test]
fn what_says_nothing_of_the_server_is_an_error() {
    let mut report = Run { budgets: vec!["max<5ms"], ..Run::clean() }.report();
    assert_eq!(outcomes(&report), (1, 0));
    report.budgets[0].excuse = Some("the harness itself was stalled".to_owned());
    assert_eq!(outcomes(&report), (0, 1), "the machine may have broken it");

    let mut lines = Run::clean().lines();
    lines.pop();
    let directory = tempfile::tempdir().expect("a directory for the run");
    runs::write(&lines, directory.path());
    let cut_short = stored_report::read(directory.path()).expect("the events are a run");
    assert_eq!((cut_short.verdict, outcomes(&cut_short)), (Verdict::Inconclusive, (0, 1)));
}

#[test]
fn names_with_control_characters_are_well_formed_and_shown() {
    let mut report = Run::failing().report();
    report.scenario.subject = "image \u{1b}[31m\u{0}]]><x a=\"&\">".to_owned();
    let text = hitless::report::junit::render(&report);
    let document = roxmltree::Document::parse(&text).expect("junit.xml is well-formed");
    let case = document.descendants().find(|node| node.has_tag_name("testcase")).expect("a case");
    assert_eq!(case.attribute("classname"), Some("hitless.image-␛[31m␀]]><x-a=\"&\">.budgets"));
}
