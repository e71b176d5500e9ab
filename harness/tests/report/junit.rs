//! `junit.xml` against the rules of the schema that Jenkins' xUnit plugin has (junit-10.xsd), by `xmllint`.

use std::path::Path;
use std::process::Command;

use crate::runs::{self, Run};

/// What `xmllint` says against a file; nothing if it is valid.
fn objections(file: &Path) -> Option<String> {
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/junit.xsd");
    let output =
        Command::new("xmllint").args(["--noout", "--nonet", "--schema"]).arg(schema).arg(file).output();
    let output = output.unwrap_or_else(|error| {
        panic!("xmllint cannot be started ({error}); install it: apt-get install libxml2-utils")
    });
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn junit_of_every_kind_of_run_is_valid() {
    for run in [Run::clean(), Run::failing(), Run { is_replacing: true, ..Run::failing() }] {
        let directory = run.written();
        runs::rendered(directory.path());
        assert_eq!(objections(&directory.path().join("junit.xml")), None, "{run:?}");
    }
}

#[test]
fn junit_with_a_word_of_its_own_is_refused() {
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

#[test]
fn broken_budgets_and_lossy_restarts_are_the_failures() {
    let report = Run::failing().report();
    let text = hitless::report::junit::render(&report);
    let document = roxmltree::Document::parse(&text).expect("junit.xml is well-formed");
    let failures = document.descendants().filter(|node| node.has_tag_name("failure")).count();
    let broken = report.budgets.iter().filter(|result| !result.holds).count();
    let lossy = report.restarts.iter().filter(|restart| restart.counts.failed > 0).count();
    assert!(broken > 0 && lossy > 0);
    assert_eq!(failures, broken + lossy);
    assert_eq!(document.root_element().attribute("failures"), Some(failures.to_string().as_str()));
}
