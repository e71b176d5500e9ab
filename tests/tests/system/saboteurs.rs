//! Servers that misbehave in one known way, under the harness: it has to see it, and must not call it a pass.
//!
//! Run as any other image is, with nothing that only our own server has. A budget of refused connections would not be
//! broken by any of them.

use crate::hitless::Hitless;
use crate::lab::{self, Outcome};

const LOAD: [&str; 8] =
    ["--rounds", "1", "--rate", "400", "--cohort", "fresh", "--ready", r#"log:"saboteur":"listening""#];

#[test]
fn replica_that_never_gets_ready_is_given_up_after_the_ready_timeout() -> Outcome {
    lab::run(async |lab| {
        let patience = ["--ready-timeout", "2s"];
        let ended =
            Hitless::run_saboteur(lab, "never-ready", &[&LOAD[..], &patience].concat()).await.end().await;
        ended.assert_exit_code(3);
        assert!(ended.stderr.contains("ready"), "{ended}");
        assert_eq!(lab.containers().await, [""; 0]);
    })
}

#[test]
fn replica_that_ignores_sigterm_is_killed_at_the_stop_timeout_and_the_report_says_so() -> Outcome {
    lab::run(async |lab| {
        let patience = ["--stop-timeout", "2s"];
        let ended =
            Hitless::run_saboteur(lab, "ignores-sigterm", &[&LOAD[..], &patience].concat()).await.end().await;
        assert_ne!(ended.status.code(), Some(0), "{ended}");
        let restarts = ended.report().restarts();
        assert_eq!(restarts.len(), 1, "{ended}");
        assert_eq!(restarts[0]["killed"], true, "{}", restarts[0]);
        assert_eq!(restarts[0]["exit_code"], 128 + 9, "{}", restarts[0]);
        assert_eq!(lab.containers().await, [""; 0]);
    })
}

#[test]
fn replica_that_dies_on_its_own_is_no_pass_and_the_report_says_so() -> Outcome {
    lab::run(async |lab| {
        // A budget that this death does not break: the verdict has to come from the death.
        let budget = ["--budget", "wrong_body==0"];
        let ended =
            Hitless::run_saboteur(lab, "dies:requests=100", &[&LOAD[..], &budget].concat()).await.end().await;
        assert_ne!(ended.status.code(), Some(0), "{ended}");
        let report = ended.report();
        assert_ne!(report.verdict(), "pass", "{ended}");
        let told = format!("{}{}", report.reasons(), ended.stderr);
        assert!(told.contains("on its own"), "the death is not told: {ended}\nreasons: {}", report.reasons());
        assert_eq!(lab.containers().await, [""; 0]);
    })
}

#[test]
fn replica_that_leaves_with_exit_code_1_has_it_in_the_report() -> Outcome {
    lab::run(async |lab| {
        let ended = Hitless::run_saboteur(lab, "exits-one", &LOAD).await.end().await;
        let restarts = ended.report().restarts();
        assert_eq!(restarts.len(), 1, "{ended}");
        assert_eq!(restarts[0]["exit_code"], 1, "{}", restarts[0]);
        assert_eq!(restarts[0]["killed"], false, "{}", restarts[0]);
    })
}

#[test]
fn each_sabotage_is_told_as_the_class_that_it_is() -> Outcome {
    /// The class that has to occur, and others that the same sabotage may take on.
    const CLASSES: [(&str, &[&str]); 7] = [
        ("drops-after-reading:every=20", &["empty_reply"]),
        ("drops-at-sigterm:within=100ms", &["empty_reply"]),
        ("half-body:every=20", &["truncated"]),
        ("wrong-body:every=20", &["wrong_body"]),
        ("swaps-answers:every=20", &["wrong_body"]),
        ("unavailable-while-draining", &["http_error"]),
        // The end of the process closes what it held open, sooner than the client's patience ends.
        ("never-answers:every=20", &["timeout", "empty_reply"]),
    ];
    lab::run(async |lab| {
        let arguments =
            ["--expect-body", "hello world", "--request-timeout", "500ms", "--echo-header", "x-request-id"];
        let arguments = [&LOAD[..], &arguments].concat();
        for (sabotage, classes) in CLASSES {
            let ended = Hitless::run_saboteur(lab, sabotage, &arguments).await.end().await;
            ended.assert_exit_code(1);
            let report = ended.report();
            // The restart of a single replica costs refused connections and resets, and nothing else.
            let by_restart = report.failed_as(&["refused", "reset_before_response"]);
            assert!(report.failed_as(&classes[..1]) > 0, "no {}: {ended}", classes[0]);
            let by_sabotage = report.failed_as(classes);
            assert_eq!(report.total("failed"), by_sabotage + by_restart, "{sabotage}: {ended}");
        }
    })
}
