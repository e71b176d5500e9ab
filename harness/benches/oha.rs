//! What does a request cost the harness's exact client? The cohort `strict` beside [oha](https://github.com/hatoo/oha), over
//! kept connections and with a new one for each request (`--requests-per-connection 1` beside `--disable-keepalive`):
//! requests a second of the client's CPU time, user and system, against the same server with the same concurrency. The
//! harness checks every answer and records it; oha counts.
//!
//! Both take turns; the ratio is the median of the rounds. Exits with 0 if both pairs reach the target, 1 if one does not,
//! and 2 if oha is missing: it is looked for in `$OHA` and on the path.
//!
//! `cargo bench -p hitless --bench oha`

mod stage;

use std::ffi::OsString;
use std::num::NonZeroU64;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use stage::{Run, Server, cpu_of_ended_children, median};

/// The least share of oha's requests a second of CPU time.
const TARGET: f64 = 1.0;
/// Requests on a connection, what oha is told for the same, how many runs of each, and how long each is: with more new
/// connections the ports would be used up.
const PAIRS: [(Option<NonZeroU64>, &[&str], usize, Duration); 2] = [
    (None, &[], 8, Duration::from_secs(4)),
    (NonZeroU64::new(1), &["--disable-keepalive"], 6, Duration::from_secs(2)),
];
/// Requests in flight.
const CONCURRENCY: usize = 64;

fn main() -> ExitCode {
    Server::serve_if_asked();
    let oha = std::env::var_os("OHA").unwrap_or_else(|| "oha".into());
    if Command::new(&oha).arg("--version").output().is_err() {
        eprintln!("error: oha is not installed (cargo install oha --locked, or say where it is in $OHA)");
        return ExitCode::from(2);
    }
    println!("{CONCURRENCY} requests in flight, the cohort strict beside oha");
    let server = Server::start();
    let mut is_missed = false;
    for (requests_per_connection, flags, rounds, length) in PAIRS {
        let mut scenario = stage::saturating("strict", CONCURRENCY, &server.url);
        scenario.cohorts[0].requests_per_connection = requests_per_connection;
        let connections = if requests_per_connection.is_some() { "new" } else { "kept" };
        let mut ratios = Vec::new();
        for round in 1..=rounds {
            // Whoever comes first does so every other time.
            let (own, base) = if round % 2 == 0 {
                let own = stage::load(&scenario, length);
                (own, run_oha(&oha, flags, length, &server.url))
            } else {
                let base = run_oha(&oha, flags, length, &server.url);
                (stage::load(&scenario, length), base)
            };
            println!(
                "round {round}: {connections} connections: {:.0} requests a second of CPU ({:.0} req/s); oha {:.0} ({:.0})",
                own.rate_of_cpu(),
                own.rate(),
                base.rate_of_cpu(),
                base.rate()
            );
            ratios.push(own.rate_of_cpu() / base.rate_of_cpu());
        }
        let ratio = median(ratios);
        is_missed |= ratio < TARGET;
        println!("{connections} connections: {ratio:.3} of oha's requests a second of CPU, target {TARGET}");
    }
    println!("{}", if is_missed { "missed" } else { "reached" });
    if is_missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn run_oha(oha: &OsString, flags: &[&str], length: Duration, url: &str) -> Run {
    let (began, before) = (Instant::now(), cpu_of_ended_children());
    let output = Command::new(oha)
        .args(["--no-tui", "--output-format", "json", "-c", &CONCURRENCY.to_string()])
        .args(["-z", &format!("{}s", length.as_secs()), "--wait-ongoing-requests-after-deadline"])
        .args(flags)
        .arg(url)
        .output()
        .expect("oha runs");
    let (took, cpu) = (began.elapsed(), cpu_of_ended_children().saturating_sub(before));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("oha tells it as JSON");
    let answered = told["statusCodeDistribution"]["200"].as_u64().expect("a count of answers");
    assert!(told["errorDistribution"].as_object().is_none_or(serde_json::Map::is_empty), "{told}");
    Run { answered, took, cpu }
}
