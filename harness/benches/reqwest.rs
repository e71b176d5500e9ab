//! What does the harness take from its client? The cohorts `pooled` and `fresh`, through the load, the checks and the
//! recorder of a run, beside a bare reqwest loop with the same concurrency against the same server: requests a second.
//!
//! Both take turns; the ratio is the median of the rounds. Exits with 0 if each cohort reaches its target, 1 if one does
//! not, and 4 if it cannot be said: the throughput misses the target but the CPU time of a request does not, so it was a
//! neighbour who took the time.
//!
//! `cargo bench -p hitless --bench reqwest`

#[expect(dead_code, reason = "each bench uses a part of it")]
mod stage;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use stage::{BODY, PATIENCE, Run, Server, cpu_of_this_process, median, runtime};

/// The least share of the bare loop's throughput.
const TARGET: f64 = 0.95;
/// The cohorts, how many runs of each, and how long each is: a machine that others share is never the same for long, so that
/// many short turns tell more than a few long ones.
const COHORTS: [(&str, usize, Duration); 2] =
    [("pooled", 24, Duration::from_secs(1)), ("fresh", 16, Duration::from_secs(1))];
/// Requests in flight.
const CONCURRENCY: usize = 64;

fn main() -> ExitCode {
    Server::serve_if_asked();
    println!("{CONCURRENCY} requests in flight, each cohort beside a bare loop");
    let server = Server::start();
    let (mut is_missed, mut is_disturbed) = (false, false);
    for (cohort, rounds, length) in COHORTS {
        let scenario = stage::saturating(cohort, CONCURRENCY, &server.url);
        let harness = || stage::load(&scenario, length);
        let bare = || bare(cohort, &server.url, length);
        let (mut rates, mut costs) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            // Whoever comes first does so every other time.
            let (own, other) = if round % 2 == 0 {
                let own = harness();
                (own, bare())
            } else {
                let other = bare();
                (harness(), other)
            };
            println!(
                "round {round:>2}: {cohort} {:.0} req/s, {:.0} a second of CPU; bare {:.0}, {:.0}",
                own.rate(),
                own.rate_of_cpu(),
                other.rate(),
                other.rate_of_cpu()
            );
            rates.push(own.rate() / other.rate());
            costs.push(own.rate_of_cpu() / other.rate_of_cpu());
        }
        let (rate, cost) = (median(rates), median(costs));
        if rate < TARGET {
            if cost >= TARGET { is_disturbed = true } else { is_missed = true }
        }
        println!(
            "{cohort}: throughput {rate:.3} of the bare loop's, target {TARGET}; a second of CPU {cost:.3}"
        );
    }
    if is_missed {
        println!("missed");
        ExitCode::FAILURE
    } else if is_disturbed {
        println!("inconclusive: the CPU time is on target and the throughput is not; try a quieter machine");
        ExitCode::from(4)
    } else {
        println!("reached");
        ExitCode::SUCCESS
    }
}

/// What one would write without a harness: as many loops as requests may be in flight, each sends and reads the answer.
fn bare(cohort: &str, url: &str, length: Duration) -> Run {
    let (began, before) = (Instant::now(), cpu_of_this_process());
    let answered = runtime().block_on(async {
        let clients: Vec<reqwest::Client> = match cohort {
            "fresh" => vec![client(0)],
            _ => vec![client(usize::MAX)],
        };
        let loops = (0..CONCURRENCY).map(|number| {
            let (clients, url) = (clients.clone(), url.to_owned());
            tokio::spawn(async move {
                let mut answered = 0;
                while began.elapsed() < length {
                    let client = &clients[(number + answered) % clients.len()];
                    let answer = client.get(&url).send().await.expect("an answer");
                    assert_eq!(answer.bytes().await.expect("a body"), BODY);
                    answered += 1;
                }
                answered as u64
            })
        });
        let mut answered = 0;
        for one in loops.collect::<Vec<_>>() {
            answered += one.await.expect("no loop panics");
        }
        answered
    });
    Run { answered, took: began.elapsed(), cpu: cpu_of_this_process().saturating_sub(before) }
}

/// One that keeps so many connections.
fn client(kept: usize) -> reqwest::Client {
    let builder = reqwest::Client::builder().no_proxy().http1_only().timeout(PATIENCE);
    builder.pool_max_idle_per_host(kept).build().expect("a client")
}
