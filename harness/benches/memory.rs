//! Does a long run need more memory than a short one? The resident memory of the harness after ten million requests is at
//! most 1.1 times that after one million.
//!
//! Observations go through the recorder of a run, with its `events.jsonl`, at a steady rate: they are placed in phases,
//! counted, and one in a thousand is a failure. With `--real` they come from the load: the cohort `strict`, as fast as it
//! goes, which takes ten to twenty minutes. Exits with 0 if the ratio is on target and with 1 if it is not.
//!
//! `cargo bench -p hitless --bench memory [-- --real]`

#[expect(dead_code, reason = "each bench uses a part of it")]
mod stage;

use std::process::ExitCode;
use std::time::Duration;

use hitless::model::clock::Moment;
use hitless::model::failure::{Failure, FailureClass};
use hitless::model::observation::{Observation, Outcome};
use hitless::model::sink::Sink;
use hitless::record::recorder::Recorder;
use stage::{PATIENCE, Server, runtime};

/// The most that ten times the requests may take.
const TARGET: f64 = 1.1;
/// When the memory is looked at.
const LOOKS: [u64; 2] = [1_000_000, 10_000_000];
/// Observations of each step, and how often there is one: 100,000 a second, the most that a scenario may ask for.
const STEP: (u64, Duration) = (1_000, Duration::from_millis(10));
/// Requests in flight.
const CONCURRENCY: usize = 64;

fn main() -> ExitCode {
    Server::serve_if_asked();
    let is_real = std::env::args().any(|argument| argument == "--real");
    let server = Server::start();
    let scenario = stage::saturating("strict", CONCURRENCY, &server.url);
    let directory = tempfile::tempdir().expect("a directory");
    let looks = runtime().block_on(async {
        let recorder = stage::recorder(&scenario, directory.path());
        recorder.load_began();
        if is_real {
            let load = stage::start(&scenario, &recorder);
            let looks = [look(&recorder, LOOKS[0]).await, look(&recorder, LOOKS[1]).await];
            load.finish(PATIENCE).await;
            looks
        } else {
            let made = tokio::spawn(make_observations(recorder.clone()));
            let looks = [look(&recorder, LOOKS[0]).await, look(&recorder, LOOKS[1]).await];
            made.await.expect("no panic");
            looks
        }
    });
    for (requests, kilobytes) in LOOKS.into_iter().zip(looks) {
        println!("after {requests:>10} requests: {kilobytes} kB resident at most");
    }
    let ratio = looks[1] as f64 / looks[0] as f64;
    println!("ratio {ratio:.3}, target {TARGET}");
    if ratio <= TARGET { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The most resident memory so far, in kB, when so many requests have been recorded.
async fn look(recorder: &Recorder, requests: u64) -> u64 {
    recorder.live().wait_for(|live| live.requests >= requests).await.expect("the recorder runs");
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("proc_pid_status(5)");
    peak.trim_end_matches("kB").trim().parse().expect("a number")
}

async fn make_observations(recorder: Recorder) {
    let mut steps = tokio::time::interval(STEP.1);
    for step in 0..LOOKS[1] / STEP.0 {
        steps.tick().await;
        let first = step * STEP.0;
        let now = Moment::now().relative_to(recorder.zero());
        for number in first..first + STEP.0 {
            let outcome = if number % 1_000 == 0 {
                Outcome::failed(Failure::new(
                    FailureClass::EmptyReply,
                    "connection closed before message completed",
                ))
            } else {
                Outcome::Answered
            };
            let began = now.minus(Duration::from_micros(number % 5_000));
            recorder.observe(Observation {
                cohort: 0,
                number,
                scheduled: began,
                dispatched: began,
                started: began,
                finished: now,
                outcome,
                replica: Some(if number % 2 == 0 { "server-a".into() } else { "server-b".into() }),
                connection: None,
            });
        }
    }
}
