//! What `handover` promises: restarts and upgrades that no client notices, under every kind of connection.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::client;
use crate::hitless::{Ended, Hitless};
use crate::lab::{self, Outcome};
use crate::replica::Replica;

/// The version of the image that replaces the other one.
const NEXT_VERSION: &str = "9.9.9-next";

/// Every kind of request that is short, and some that are in flight over each restart.
const LOAD: [&str; 6] = ["--rate", "150", "--slow-delay", "200ms", "--settle", "0ms"];

#[test]
fn fifty_restarts_lose_nothing_and_close_no_kept_connection() -> Outcome {
    lab::run(async |lab| {
        let cohorts = ["--cohort", "fresh,pooled,strict,h2,slow=20", "--rounds", "25"];
        let ended = Hitless::run(lab, &[&LOAD[..], &cohorts].concat()).end().await;
        assert_nothing_lost(&ended, 50);
        let report = ended.report();
        assert_eq!(report.cohort_total("strict", "closed_idle"), 0, "a kept connection was closed: {ended}");
    })
}

#[test]
fn upgrade_there_and_back_loses_nothing_in_either_order() -> Outcome {
    lab::run(async |lab| {
        let next = "hitless-server:next";
        // Another version of the same source: another binary, which says so in its answers.
        let image = Hitless::new(lab, &["image", "--tag", next]).env("HITLESS_VERSION", NEXT_VERSION);
        image.end().await.assert_exit_code(0);
        for order in ["start-first", "stop-first"] {
            let replace = [
                "--replace",
                next,
                "--order",
                order,
                "--rounds",
                "2",
                "--cohort",
                "fresh,pooled,strict,slow=20",
            ];
            let run = Hitless::run(lab, &[&LOAD[..], &replace].concat());
            let output = run.report_directory().join("output");
            let ended = run.end().await;
            assert_nothing_lost(&ended, 4);
            let expected = BTreeSet::from([env!("CARGO_PKG_VERSION").to_owned(), NEXT_VERSION.to_owned()]);
            assert_eq!(versions_that_answered(&output), expected, "{order}: {ended}");
        }
    })
}

#[test]
fn uploads_and_streams_under_way_arrive_whole() -> Outcome {
    lab::run(async |lab| {
        // Short ones beside them, or nothing would be sent in the moment of a start.
        let load = ["--cohort", "fresh,upload=10,stream=10", "--slow-delay", "1s", "--rounds", "2"];
        let ended = Hitless::run(lab, &load).end().await;
        assert_nothing_lost(&ended, 4);
    })
}

#[test]
fn another_user_gets_no_listener_and_the_replica_says_who_asked_and_serves_on() -> Outcome {
    const OTHER_USER: &str = "4242";
    lab::run(async |lab| {
        let server = Replica::ready(lab, "handover", "a").await;
        let intruder = Replica::ended_as(lab, OTHER_USER, "handover", "b").await;
        assert_eq!(intruder.exit_code().await, 1, "{}", intruder.stderr().await);
        server.wait_for_event("handover_refused").await;
        let answer = client::ask(lab, "/").await.unwrap();
        assert!(answer.ends_with("hello world"), "{answer}");
        let log = server.log().await;
        let refused: Vec<_> = log.iter().filter(|line| line["event"] == "handover_refused").collect();
        for line in refused {
            assert!(line["reason"].as_str().is_some_and(|reason| reason.contains(OTHER_USER)), "{line}");
        }
        assert!(log.iter().all(|line| line["event"] != "listener_returned"), "{log:?}");
    })
}

/// The versions of the replicas that answered something, as they say in what is kept of their output.
fn versions_that_answered(output: &Path) -> BTreeSet<String> {
    let mut versions = BTreeSet::new();
    for file in std::fs::read_dir(output).unwrap() {
        let mut version = None;
        for line in std::fs::read_to_string(file.unwrap().path()).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            match line["event"].as_str() {
                Some("starting") => version = line["version"].as_str().map(ToOwned::to_owned),
                Some("exit") if line["answered"].as_u64() > Some(0) => versions.extend(version.take()),
                _ => {}
            }
        }
    }
    versions
}

fn assert_nothing_lost(ended: &Ended, restarts: usize) {
    ended.assert_held();
    let report = ended.report();
    assert_eq!(report.total("failed"), 0, "{ended}");
    assert_eq!(report.restarts().len(), restarts, "{ended}");
}
