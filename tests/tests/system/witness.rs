//! An outside witness beside the harness: curl in a loop, on the same server at the same time, sees the same.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::Curl;
use crate::hitless::Hitless;
use crate::lab::{self, Lab, Outcome};

/// The clocks of two processes that look at the same moment, and curl's own start, differ by less.
const SLACK_MS: f64 = 250.0;

#[test]
fn curl_in_a_loop_sees_the_refusals_and_the_empty_replies_that_the_report_tells_of() -> Outcome {
    lab::run(async |lab| {
        let curls = Curls::start(lab, &["/", "/?delay=300ms"]);
        let load = ["--rounds", "3", "--cohort", "fresh=100,slow=20", "--slow-delay", "300ms"];
        let ended = Hitless::run(lab, &[&["--preset", "normal"], &load[..]].concat()).end().await;
        let seen = curls.end().await;
        ended.assert_exit_code(1);
        let report = ended.report();
        for (class, code) in [("refused", 7), ("empty_reply", 52)] {
            let during: Vec<&Sighting> = seen
                .iter()
                .filter(|one| one.code == code && report.is_in_a_restart(one.at_ms, SLACK_MS))
                .collect();
            assert!(report.failed_as(&[class]) > 0, "no {class}: {ended}");
            assert!(!during.is_empty(), "curl never ended with {code} in a restart: {seen:?}\n{ended}");
        }
        let outside = seen.iter().filter(|one| report.is_steady(one.at_ms, SLACK_MS));
        for one in outside {
            assert_eq!(one.code, 0, "curl failed between restarts: {one:?}\n{ended}");
        }
    })
}

#[test]
fn curl_in_a_loop_sees_nothing_where_the_report_tells_of_nothing() -> Outcome {
    lab::run(async |lab| {
        let curls = Curls::start(lab, &["/", "/?delay=300ms"]);
        let load = ["--rounds", "2", "--cohort", "fresh=100,slow=20", "--slow-delay", "300ms"];
        let ended = Hitless::run(lab, &load).end().await;
        let seen = curls.end().await;
        ended.assert_held();
        let report = ended.report();
        let under_load: Vec<&Sighting> =
            seen.iter().filter(|one| report.is_under_load(one.at_ms, SLACK_MS)).collect();
        assert!(under_load.len() > 20, "{} curls are no witness: {ended}", under_load.len());
        for one in under_load {
            assert_eq!(one.code, 0, "{one:?}: {ended}");
        }
    })
}

/// What a curl ended with.
#[derive(Debug)]
struct Sighting {
    /// When it ended, in milliseconds since 1970.
    at_ms: f64,
    code: i32,
}

/// Curls, one after the other for each path, until they are told to end.
struct Curls {
    stop: watch::Sender<bool>,
    loops: Vec<JoinHandle<Vec<Sighting>>>,
}

impl Curls {
    fn start(lab: &Lab, paths: &[&'static str]) -> Self {
        let (stop, stopped) = watch::channel(false);
        let port = lab.port;
        let looping = |path: &'static str| {
            let stopped = stopped.clone();
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while !*stopped.borrow() {
                    let end = Curl::at(port, path).end().await;
                    seen.push(Sighting { at_ms: now_ms(), code: end.code.unwrap_or(-1) });
                    // A breath, so that two loops do not take a core from what they watch.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                seen
            })
        };
        let loops = paths.iter().map(|path| looping(path)).collect();
        Self { stop, loops }
    }

    async fn end(self) -> Vec<Sighting> {
        self.stop.send_replace(true);
        let mut seen = Vec::new();
        for one in self.loops {
            seen.extend(one.await.unwrap());
        }
        seen
    }
}

fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() * 1000.0
}
