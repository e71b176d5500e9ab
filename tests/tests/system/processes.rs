//! Replicas as processes of this machine, with no engine: our server loses nothing, and a program that loses something is
//! caught and counted.

use crate::artifacts;
use crate::hitless::{Ended, Hitless};
use crate::lab::{self, Lab, Outcome};
use crate::own_image::account;

/// No engine is where these runs would look for one.
fn run(lab: &Lab, arguments: &[&str]) -> Hitless {
    let run = Hitless::run(lab, &["--runtime", "process"]).arguments(arguments);
    run.env("DOCKER_HOST", "unix:///nonexistent/docker.sock")
}

#[test]
fn handover_between_processes_loses_nothing_and_the_accounts_match() -> Outcome {
    lab::run(async |lab| {
        // A process is back within some dozens of milliseconds: fewer requests would see little of it.
        let load = [
            "--cohort",
            "fresh=1000,pooled=200,strict=200,slow=20",
            "--slow-delay",
            "200ms",
            "--rounds",
            "3",
        ];
        let ended = run(lab, &load).end().await;
        ended.assert_held();
        let report = ended.report();
        assert_eq!(report.total("failed"), 0, "{ended}");
        assert_eq!(report.restarts().len(), 6, "{ended}");
        assert_accounts_match(&ended, 8);
        assert_eq!(lab.containers().await, [""; 0]);
    })
}

/// Every life of a server has left an account, and together they hold what the clients saw.
#[track_caller]
fn assert_accounts_match(ended: &Ended, lives: u64) {
    let told = ended.report().reconciliation();
    for (count, expected) in [("lives", lives), ("accounts", lives), ("difference", 0), ("cut", 0)] {
        assert_eq!(told[count], expected, "{count} of {told}: {ended}");
    }
    assert_eq!(told["accepted"], told["opened"], "{told}: {ended}");
}

#[test]
fn graceful_process_refuses_what_comes_while_it_is_down() -> Outcome {
    lab::run(async |lab| {
        let ended =
            run(lab, &["--preset", "graceful", "--cohort", "fresh=1000", "--rounds", "3"]).end().await;
        ended.assert_exit_code(1);
        assert!(ended.report().failed_as(&["refused"]) > 0, "{ended}");
    })
}

#[test]
fn losses_of_anybodys_program_are_counted_as_it_counts_them_itself() -> Outcome {
    lab::run(async |lab| {
        let listen = format!("SABOTEUR_LISTEN=127.0.0.1:{}", lab.port);
        let program = format!("'{}'", artifacts::saboteur_binary().await.display());
        let subject = ["--command", &program, "--replicas", "1", "--env", &listen];
        let sabotage = ["--env", "SABOTEUR=drops-after-reading:every=500", "--expect-body", "hello world"];
        let load = ["--cohort", "fresh=500,strict=500", "--rounds", "1", "--lead", "2s"];
        let ready = ["--ready", r#"log:"saboteur":"listening""#];
        let ended = run(lab, &[&subject[..], &sabotage, &load, &ready].concat()).end().await;
        ended.assert_exit_code(1);
        let (account, report) = (account(lab, "server-a"), ended.report());
        assert_eq!(account["lives"], 2, "{ended}");
        assert!(account["sabotaged"] > 0, "{account:?}: {ended}");
        assert_eq!(report.failed_as(&["empty_reply"]), account["sabotaged"], "{account:?}: {ended}");
    })
}
