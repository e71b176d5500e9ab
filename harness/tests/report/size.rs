//! However long a run, what is written of it can be opened, sent and shown.

use std::sync::Arc;

use hitless::analysis::report::Report;
use hitless::model::restart::Successor;
use hitless::record::replay::replay;
use hitless::report::{html, json, junit, markdown};

use crate::runs::{self, Run};
use hitless::stored_report::report_of;

const MIB: usize = 1 << 20;

fn assert_bounded(report: &Report, what: &str) {
    let page = html::render(report).len();
    assert!(page < html::MOST_BYTES, "report.html of {what} has {page} bytes");
    let summary = markdown::render(report).len();
    assert!(summary < MIB, "summary.md of {what} has {summary} bytes, and GitHub shows 1 MiB");
    let junit = junit::render(report).len();
    assert!(junit < 2 * MIB, "junit.xml of {what} has {junit} bytes");
}

#[test]
fn million_requests_over_a_thousand_restarts_fit() {
    let directory = Run::biggest().written();
    let events = std::fs::File::open(directory.path().join("events.jsonl")).expect("the events");
    let replayed = replay(std::io::BufReader::new(events)).expect("the events are a run");
    let report = report_of(replayed);
    assert_eq!((report.totals.requests, report.restarts.len()), (1_000_000, 1_000));
    assert_eq!((report.totals.failed, report.failures.len()), (1_000, 1_000));
    assert_bounded(&report, "a million requests");
    let most = 20 * MIB;
    assert!(json::render(&report).len() < most, "report.json");
}

#[test]
fn thousand_replacements_with_long_names_fit() {
    let mut report = Run { is_replacing: true, ..Run::biggest() }.report();
    let long = |name: &mut String| name.push_str(&"-<&\">".repeat(50));
    let long_name = |name: &mut Arc<str>| *name = format!("{name}{}", "-<&\">".repeat(50)).into();
    report.replicas.iter_mut().for_each(|replica| long(&mut replica.name));
    report.replica_states.iter_mut().for_each(|life| long(&mut life.replica));
    report.restarts.iter_mut().for_each(|restart| long_name(&mut restart.restart.replica));
    for restart in &mut report.restarts {
        if let Successor::Replica(name) = &mut restart.restart.successor {
            long_name(name);
        }
    }
    report.failures.iter_mut().for_each(|failure| long(&mut failure.blame));
    assert_bounded(&report, "a thousand replacements");
}

#[test]
fn five_thousand_restarts_fit() {
    let report = Run { rounds: 2_500, every_ms: 81.92, requests: 100, ..Run::biggest() }.report();
    assert_eq!(report.restarts.len(), 5_000);
    assert_bounded(&report, "five thousand restarts");
}

#[test]
fn what_is_left_out_of_the_page_is_said() {
    let directory = Run::biggest().written();
    runs::rendered(directory.path());
    let page = runs::text(directory.path(), "report.html");
    // Every one of them lost something.
    let rows = page.matches("id=\"restart-").count();
    assert!(
        rows == 1_000 || page.contains(&format!("{} more restarts are in report.json", 1_000 - rows)),
        "{rows}"
    );
    assert!(page.contains("of 1,000 failures are shown"), "the failures that are not shown are not counted");
}
