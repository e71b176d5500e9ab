//! `hitless` leaves nothing behind, however a run ends; what only a kill can leave, `hitless clean` takes away, and
//! nothing else.

use crate::artifacts;
use crate::hitless::Hitless;
use crate::lab::{self, Outcome};
use crate::replica::Replica;

const LOAD: [&str; 6] = ["--rate", "400", "--cohort", "fresh", "--budget", "refused==0"];
const RUN: [&str; 4] = ["--preset", "reuseport", "--rounds", "1"];
/// Long enough to be interrupted in the midst of it.
const LONG_RUN: [&str; 4] = ["--preset", "reuseport", "--rounds", "100"];

#[test]
fn run_that_passes_leaves_no_container() -> Outcome {
    lab::run(async |lab| {
        let ended = Hitless::run(lab, &[&RUN[..], &LOAD].concat()).end().await;
        ended.assert_held();
        assert_eq!(lab.containers().await, [""; 0]);
    })
}

#[test]
fn run_that_breaks_its_budget_leaves_no_container() -> Outcome {
    lab::run(async |lab| {
        let ended =
            Hitless::run(lab, &[&RUN[..], &LOAD[..4], &["--budget", "requests==0"]].concat()).end().await;
        ended.assert_exit_code(1);
        assert_eq!(lab.containers().await, [""; 0]);
    })
}

#[test]
fn run_that_fails_half_way_leaves_no_container() -> Outcome {
    lab::run(async |lab| {
        // The second replica cannot have the port, which the first one owns alone.
        let image = artifacts::server_image().await.reference();
        let listen = format!("HITLESS_LISTEN=127.0.0.1:{}", lab.port);
        let subject =
            ["--image", &image, "--replicas", "2", "--env", "HITLESS_PRESET=graceful", "--env", &listen];
        let ended = Hitless::run(lab, &subject).end().await;
        ended.assert_exit_code(3);
        assert!(ended.stderr.contains("replica server-b ended on its own"), "{ended}");
        assert_eq!(lab.containers().await, [""; 0]);
    })
}

#[test]
fn interrupted_run_leaves_no_container_and_keeps_what_it_saw() -> Outcome {
    lab::run(async |lab| {
        for signal in ["INT", "TERM"] {
            let running = Hitless::run(lab, &[&LONG_RUN[..], &LOAD].concat()).start().await;
            lab.wait_for_container_event("die").await;
            running.signal(signal).await;
            let ended = running.end().await;
            ended.assert_exit_code(4);
            assert_eq!(lab.containers().await, [""; 0]);
            let report = ended.report();
            assert!(report.reasons().contains("the run was interrupted"), "{ended}");
            assert!(report.total("requests") > 0, "{ended}");
        }
    })
}

#[test]
fn run_that_is_interrupted_before_its_replicas_are_ready_leaves_no_container() -> Outcome {
    lab::run(async |lab| {
        let ready = ["--ready", "log:never said"];
        let running = Hitless::run_saboteur(lab, "never-ready", &ready).await.start().await;
        lab.wait_for_container_event("start").await;
        running.signal("INT").await;
        let ended = running.end().await;
        ended.assert_exit_code(4);
        assert_eq!(lab.containers().await, [""; 0]);
    })
}

#[test]
fn clean_removes_what_a_killed_run_left_and_nothing_else() -> Outcome {
    lab::run(async |lab| {
        let killed = Hitless::run(lab, &[&LONG_RUN[..], &LOAD].concat()).start().await;
        lab.wait_for_container_event("die").await;
        killed.signal("KILL").await;
        // Holds its place, so that no other test's run is there to be cleaned.
        let killed = killed.end().await;
        assert_eq!(killed.status.code(), None);
        assert_eq!(lab.containers().await.len(), 2, "{killed}");

        let bystander = Replica::saboteur(lab, "never-ready", "starting").await;
        let cleaned = Hitless::beside(&killed, lab, &["clean"]).end().await;
        cleaned.assert_exit_code(0);
        assert_eq!(lab.containers().await, [bystander.id()]);
        assert!(bystander.is_running().await);
    })
}

#[test]
fn killed_run_has_a_report_of_what_it_saw_until_then() -> Outcome {
    lab::run(async |lab| {
        let run = Hitless::run(lab, &[&LONG_RUN[..], &LOAD].concat());
        let directory = run.report_directory().to_owned();
        let killed = run.start().await;
        killed.wait_until_it_recorded("restart").await;
        killed.signal("KILL").await;
        let killed = killed.end().await;
        assert!(!directory.join("report.json").exists(), "it had no time to write one: {killed}");

        let told = Hitless::beside(&killed, lab, &["report", directory.to_str().unwrap()]).end().await;
        told.assert_exit_code(4);
        let report = told.report();
        assert_eq!(report.verdict(), "inconclusive");
        assert!(report.reasons().contains("the run was killed"), "{told}");
        assert!(!report.restarts().is_empty(), "{told}");
        Hitless::beside(&killed, lab, &["clean"]).end().await.assert_exit_code(0);
    })
}
