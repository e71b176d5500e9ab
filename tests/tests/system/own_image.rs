//! Images that are not ours: run as they are, with what can be said about any image, and held to their own account.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::artifacts;
use crate::hitless::Hitless;
use crate::lab::{self, Lab, Outcome};

#[test]
fn losses_of_a_saboteur_are_counted_as_it_counts_them_itself() -> Outcome {
    lab::run(async |lab| {
        let load = ["--rounds", "1", "--cohort", "fresh=400,strict=800", "--lead", "4s"];
        let expected = ["--expect-body", "hello world", "--ready", r#"log:"saboteur":"listening""#];
        let arguments = [&load[..], &expected].concat();
        let ended =
            Hitless::run_saboteur(lab, "drops-after-reading:every=2000", &arguments).await.end().await;
        ended.assert_exit_code(1);
        let account = account(lab, "server-a");
        assert_eq!(account["lives"], 2, "{ended}");
        assert!(account["sabotaged"] > 0, "{account:?}: {ended}");
        let report = ended.report();
        assert_eq!(report.failed_as(&["empty_reply"]), account["sabotaged"], "{account:?}: {ended}");
        // The load begins when one request beside it has had a good answer.
        assert_eq!(report.total("ok") + 1, account["answered"], "{account:?}: {ended}");
    })
}

/// Five requests in 100,000, ten times: some five minutes, so by hand.
/// `cargo test -p hitless-tests --test system needle -- --ignored`
#[test]
#[ignore = "takes five minutes"]
fn needle_of_five_in_100_000_is_found_ten_times_of_ten() -> Outcome {
    lab::run(async |lab| {
        let load = ["--rounds", "1", "--cohort", "fresh=1000,strict=4000", "--lead", "10500ms"];
        let expected = ["--expect-body", "hello world", "--ready", r#"log:"saboteur":"listening""#];
        let arguments = [&load[..], &expected, &["--budget", "empty_reply==0"]].concat();
        for round in 1..=10 {
            let ended =
                Hitless::run_saboteur(lab, "drops-after-reading:every=20000", &arguments).await.end().await;
            ended.assert_exit_code(1);
            let (account, report) = (account(lab, "server-a"), ended.report());
            assert!(report.total("requests") >= 100_000, "round {round}: {ended}");
            assert!((4..=6).contains(&account["sabotaged"]), "round {round}: {account:?}: {ended}");
            assert_eq!(report.failed_as(&["empty_reply"]), account["sabotaged"], "round {round}: {ended}");
        }
    })
}

#[test]
fn command_and_stop_signal_reach_the_container() -> Outcome {
    lab::run(async |lab| {
        let image = artifacts::server_image().await.reference();
        let command = format!("--preset graceful --listen 127.0.0.1:{}", lab.port);
        let subject =
            ["--image", &image, "--replicas", "1", "--command", &command, "--stop-signal", "SIGINT"];
        let load = ["--rounds", "1", "--cohort", "fresh=100", "--header", "Host: shop.test"];
        let expected =
            ["--expect-body", "hello world", "--budget", "wrong_body==0", "--budget", "timeout==0"];
        let ended = Hitless::run(lab, &[&subject[..], &load, &expected].concat()).end().await;
        ended.assert_held();
        let output = output(lab, "server-a");
        let told: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let received: Vec<_> = told.iter().filter(|line| line["event"] == "signal_received").collect();
        assert_eq!(received.len(), 2, "one end for each of two lives: {output}");
        for line in received {
            assert_eq!(line["signal"], "SIGINT", "{line}");
        }
    })
}

#[test]
fn replica_that_listens_late_is_not_taken_for_ready_because_its_sibling_answers() -> Outcome {
    lab::run(async |lab| {
        let image = artifacts::saboteur_image().await.reference();
        let listen = format!("SABOTEUR_LISTEN=127.0.0.1:{}", lab.port);
        let subject = ["--image", &image, "--env", "SABOTEUR=listens-late:by=1s", "--env", &listen];
        let load = ["--replicas", "2", "--rounds", "1", "--cohort", "fresh=100", "--budget", "refused==0"];
        for ready in [&["--ready", "tcp"][..], &["--ready", "http:/"], &[]] {
            let ended = Hitless::run(lab, &[&subject[..], &load, ready].concat()).end().await;
            ended.assert_held();
            assert_eq!(ended.report().restarts().len(), 2, "{ended}");
            for restart in ended.report().restarts() {
                let starting = restart["phases"]["starting"].as_f64().unwrap();
                // Its beginning is known by a line that may be a while on its way.
                assert!(starting >= 800.0, "ready before it listened: {restart}");
            }
        }
    })
}

#[test]
fn harness_without_descriptors_blames_itself_and_not_the_server() -> Outcome {
    lab::run(async |lab| {
        // Each request is in flight for a second: more than twice as many as there are descriptors.
        let load =
            ["--preset", "reuseport", "--rounds", "1", "--cohort", "fresh=50,slow=150", "--slow-delay", "1s"];
        let budgets = ["--budget", "refused==0", "--budget", "empty_reply==0", "--budget", "timeout==0"];
        let run = Hitless::run(lab, &[&load[..], &budgets].concat()).with_descriptors(72);
        let ended = run.end().await;
        ended.assert_exit_code(4);
        let report = ended.report();
        assert!(report.failed_as(&["harness_resource"]) > 0, "{ended}");
        let blamed =
            report.total("failed") - report.failed_as(&["reset_before_response", "reset_mid_response"]);
        assert_eq!(blamed, 0, "stage 3 costs resets and nothing else: {ended}");
        assert_eq!(lab.containers().await, [""; 0]);
    })
}

/// What a saboteur says that it did, added up over its lives.
pub(crate) fn account(lab: &Lab, replica: &str) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for line in output(lab, replica).lines() {
        let Ok(Value::Object(account)) = serde_json::from_str(line) else { continue };
        if account["saboteur"] == "account" {
            *sums.entry("lives".to_owned()).or_default() += 1;
            for (name, count) in account {
                *sums.entry(name).or_default() += count.as_u64().unwrap_or(0);
            }
        }
    }
    sums
}

/// What a replica wrote, over all its lives.
fn output(lab: &Lab, replica: &str) -> String {
    let path = lab.directory().join("report/output").join(format!("{replica}.log"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
