//! A machine whose cores are all busy with something else: a run ends with right figures or says that it cannot tell, and
//! never calls a server that behaves a failure, nor one that does not a pass.

use std::process::{Child, Command, Stdio};
use std::thread::available_parallelism;

use crate::hitless::Hitless;
use crate::lab::{self, Outcome};

const PASS: i32 = 0;
const FAIL: i32 = 1;
const INCONCLUSIVE: i32 = 4;

/// Processes that do nothing but use up the CPU, two a core; killed when dropped.
struct Neighbours(Vec<Child>);

impl Neighbours {
    fn move_in() -> Self {
        let spin =
            || Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn().unwrap();
        Self((0..2 * available_parallelism().unwrap().get()).map(|_| spin()).collect())
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn busy_machine_makes_no_failures_of_a_server_that_loses_nothing() -> Outcome {
    lab::run(async |lab| {
        let load =
            ["--rounds", "2", "--rate", "150", "--cohort", "fresh,pooled,slow", "--slow-delay", "500ms"];
        let running = Hitless::run(lab, &[&["--preset", "handover"], &load[..]].concat()).start().await;
        let neighbours = Neighbours::move_in();
        let ended = running.end().await;
        drop(neighbours);
        let code = ended.status.code().unwrap();
        assert!([PASS, INCONCLUSIVE].contains(&code), "a false failure: {ended}");
        let report = ended.report();
        assert_eq!(report.total("failed"), 0, "{ended}");
        assert_eq!(code == INCONCLUSIVE, report.reasons() != "[]", "it says why, if it cannot tell: {ended}");
    })
}

#[test]
fn busy_machine_hides_no_saboteur() -> Outcome {
    lab::run(async |lab| {
        let load = ["--rounds", "2", "--rate", "200", "--cohort", "fresh"];
        let ready = ["--ready", r#"log:"saboteur":"listening""#];
        let sabotage = "drops-after-reading:every=100";
        let run = Hitless::run_saboteur(lab, sabotage, &[&load[..], &ready].concat()).await;
        let running = run.start().await;
        let neighbours = Neighbours::move_in();
        let ended = running.end().await;
        drop(neighbours);
        // What was dropped was seen, and that is a failure however late the harness was.
        assert_eq!(ended.status.code(), Some(FAIL), "a false pass: {ended}");
        assert!(ended.report().failed_as(&["empty_reply"]) > 0, "{ended}");
    })
}
