//! What hitless 0.1 wrote, with schema 1, is read: its report.json, and its events.jsonl without one.

use std::path::{Path, PathBuf};
use std::process::Command;

use hitless::analysis::report::Report;
use hitless::model::cohort::CohortKind;
use hitless::model::failed_request::FailedRequest;
use hitless::model::lifecycle::LifecycleKind;
use hitless::stored_report;

use crate::runs;

fn old(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/schema-1").join(name)
}

fn read(name: &str) -> Report {
    stored_report::read(&old(name)).expect("a report of an earlier version")
}

#[test]
fn report_and_events_of_the_same_old_run_tell_the_same() {
    let (report, events) = (read("report.json"), read("events.jsonl"));
    assert_eq!((report.schema_version, events.schema_version), (1, 2), "the second is made now");
    assert_eq!((report.totals.requests, report.totals.failed), (34, 4));
    assert_eq!(report.totals, events.totals);
    assert_eq!((report.verdict, &report.run.cut_short), (events.verdict, &events.run.cut_short));
    assert_eq!(report.failures, events.failures.iter().map(as_in_schema_1).collect::<Vec<_>>());
    let first = &report.failures[0];
    assert_eq!((first.cohort, first.event.is_some()), (CohortKind::Pooled, true));
    let (one, other) = (&report.restarts[0].phases, &events.restarts[0].phases);
    assert!(one.keys().eq(other.keys()), "they follow from the lifecycle events: {one:?} {other:?}");
    let is_rounded = |(one, other): (&f64, &f64)| (one - other).abs() < 0.002;
    assert!(one.values().zip(other.values()).all(is_rounded), "{one:?} {other:?}");
    assert_eq!(report.events, events.events);
    assert!(report.events.iter().any(|event| event.kind == LifecycleKind::TerminateRequested));
    assert_eq!(report.evidence.listeners, events.evidence.listeners);
}

/// A failed request without what schema 1 did not say.
fn as_in_schema_1(failed: &FailedRequest) -> FailedRequest {
    FailedRequest { on_kept_connection: None, ..failed.clone() }
}

#[test]
fn old_report_is_compared_with_one_of_today() {
    let today = runs::Run::clean().written();
    runs::rendered(today.path());
    let compared = Command::new(env!("CARGO_BIN_EXE_hitless"))
        .arg("compare")
        .args([&old("report.json"), today.path()])
        .output()
        .expect("the binary can be started");
    let told = String::from_utf8_lossy(&compared.stdout);
    assert_eq!(compared.status.code(), Some(4), "the old run is too short to tell: {told}");
    assert!(told.contains("preset normal"), "{told}");
}
