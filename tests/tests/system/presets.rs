//! Each preset loses the requests that it is known to lose, and no others: the harness sees what is there.
//!
//! A test that only sees zeros proves little; `normal` and `graceful` are here so that something is lost.

use crate::hitless::{Hitless, Report};
use crate::lab::{self, Outcome};

/// Short, but enough that every phase sees load.
const LOAD: [&str; 6] = ["--rounds", "2", "--rate", "300", "--cohort", "fresh,slow"];
/// A connection that the kernel had promised and the listener's end took away; nobody had accepted it.
const RESETS: [&str; 2] = ["reset_before_response", "reset_mid_response"];

#[test]
fn normal_loses_requests_that_are_in_flight() -> Outcome {
    lab::run(async |lab| {
        let ended = Hitless::run(lab, &[&["--preset", "normal"], &LOAD[..]].concat()).end().await;
        ended.assert_exit_code(1);
        let report = ended.report();
        assert_eq!(report.verdict(), "fail");
        assert_accounts_add_up(report);
        let lost = |cohort| {
            report.cohort_failed_as(cohort, &["empty_reply"]) + report.cohort_failed_as(cohort, &RESETS)
        };
        assert!(lost("slow") > 0, "no slow request was lost: {ended}");
        assert_restarts(report, 2, 128 + 15);
    })
}

#[test]
fn graceful_refuses_connections_and_finishes_what_it_accepted() -> Outcome {
    lab::run(async |lab| {
        let ended = Hitless::run(lab, &[&["--preset", "graceful"], &LOAD[..]].concat()).end().await;
        ended.assert_exit_code(1);
        let report = ended.report();
        assert_eq!(report.verdict(), "fail");
        assert_accounts_add_up(report);
        assert!(report.failed_as(&["refused"]) > 0, "nothing was refused: {ended}");
        assert_eq!(report.cohort_failed_as("fresh", &["empty_reply", "truncated"]), 0, "{ended}");
        // What else a slow request may meet, it meets before anybody accepted it.
        let unaccepted = ["refused", "reset_before_response", "connect_timeout"];
        let lost = report.cohort_total("slow", "failed") - report.cohort_failed_as("slow", &unaccepted);
        assert_eq!(lost, 0, "an accepted slow request was lost: {ended}");
        assert_restarts(report, 2, 0);
    })
}

#[test]
fn reuseport_neither_refuses_nor_leaves_a_fresh_connection_without_an_answer() -> Outcome {
    lab::run(async |lab| {
        let budgets = ["--preset", "reuseport", "--budget", "refused==0", "--budget", "empty_reply==0"];
        let ended = Hitless::run(lab, &[&budgets[..], &LOAD[..]].concat()).end().await;
        ended.assert_held();
        let report = ended.report();
        assert_accounts_add_up(report);
        assert_eq!(report.failed_as(&["refused", "empty_reply", "truncated", "wrong_body"]), 0, "{ended}");
        // Resets of the accept queue may occur: they are stage 3's own, and are told as what they are.
        assert_eq!(report.total("failed"), report.failed_as(&RESETS), "{ended}");
        assert_restarts(report, 4, 0);
    })
}

#[test]
fn handover_loses_nothing_on_fresh_kept_alive_or_slow_connections() -> Outcome {
    lab::run(async |lab| {
        let load = ["--rounds", "2", "--rate", "300", "--cohort", "fresh,pooled,slow"];
        let ended = Hitless::run(lab, &[&["--preset", "handover"], &load[..]].concat()).end().await;
        ended.assert_held();
        let report = ended.report();
        assert_eq!(report.total("failed"), 0, "{ended}");
        for cohort in ["fresh", "pooled", "slow"] {
            assert!(report.cohort_total(cohort, "ok") > 0, "{cohort}: {ended}");
        }
        assert_restarts(report, 4, 0);
    })
}

#[test]
fn failures_are_placed_at_the_replica_and_the_phase_that_caused_them() -> Outcome {
    lab::run(async |lab| {
        let load = ["--rounds", "1", "--rate", "300", "--cohort", "fresh"];
        let ended = Hitless::run(lab, &[&["--preset", "graceful"], &load[..]].concat()).end().await;
        ended.assert_exit_code(1);
        let refused: Vec<_> =
            ended.report().failures().iter().filter(|failure| failure["class"] == "refused").collect();
        assert!(!refused.is_empty(), "{ended}");
        for failure in refused {
            assert_eq!(failure["curl_exit"], 7, "{failure}");
            assert_ne!(failure["phase"], "steady", "{failure}");
            assert!(failure["replica"].as_str().is_some_and(|name| !name.is_empty()), "{failure}");
            assert!(failure["offset_ms"].is_number(), "{failure}");
        }
    })
}

/// Every request is either answered or failed, in each cohort and in sum.
fn assert_accounts_add_up(report: &Report) {
    let cohorts = ["fresh", "slow"];
    for count in ["requests", "ok", "failed"] {
        let sum: u64 = cohorts.iter().map(|cohort| report.cohort_total(cohort, count)).sum();
        assert_eq!(sum, report.total(count), "{count}");
    }
    assert_eq!(report.total("requests"), report.total("ok") + report.total("failed"));
}

/// So many restarts, each of which ended by itself and with this exit code.
fn assert_restarts(report: &Report, count: usize, exit_code: i64) {
    assert_eq!(report.restarts().len(), count);
    for restart in report.restarts() {
        assert_eq!(restart["exit_code"], exit_code, "{restart}");
        assert_eq!(restart["killed"], false, "{restart}");
    }
}
