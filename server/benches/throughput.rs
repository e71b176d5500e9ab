//! Does it cost anything to be restartable? The same router under plain `axum::serve` and under
//! [`hitless_server::Server`], loaded by wrk in four ways, alternately, in child processes of this very program.
//!
//! Prints the ratio of the best runs, and medians beside it. Exits with 0 if every server reaches its target, 1 if one
//! does not, 2 if wrk is missing (Debian: `apt-get install wrk`), and 4 if it cannot be said: the throughput misses the
//! target but the server's CPU time for a request does not, so it was a neighbour who took the time.
//!
//! `cargo bench -p hitless-server --bench throughput [-- keep-alive fresh upload download]`

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitCode, Stdio};

use axum::Router;
use axum::body::Bytes;
use axum::routing::{get, post};
use hitless_server::{Event, Preset, Server};

/// Tells a child which server to be.
const ROLE: &str = "HITLESS_BENCH_ROLE";
/// Runs of each server under each workload.
const ROUNDS: usize = 16;
/// Seconds of each run.
const SECONDS: &str = "1";
/// Connections of wrk.
const CONNECTIONS: &str = "64";

/// Bytes of an upload and of a download.
const MEGABYTE: usize = 1024 * 1024;

/// A server under test and the least ratio to `axum::serve` that it may have.
struct Contender {
    role: &'static str,
    target: f64,
}

const CONTENDERS: [Contender; 2] =
    [Contender { role: "reuseport", target: 0.95 }, Contender { role: "handover", target: 0.97 }];

/// What wrk asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Workload {
    /// Eleven bytes, one request after the other on each connection.
    KeepAlive,
    /// The same, each on a new connection.
    Fresh,
    /// A request with a body of a megabyte.
    Upload,
    /// A response with one.
    Download,
}

impl Workload {
    const ALL: [Self; 4] = [Self::KeepAlive, Self::Fresh, Self::Upload, Self::Download];

    fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive",
            Self::Fresh => "fresh",
            Self::Upload => "upload",
            Self::Download => "download",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::KeepAlive | Self::Fresh => "/",
            Self::Upload => "/upload",
            Self::Download => "/download",
        }
    }

    /// What makes wrk's requests such ones; it has no flag for them.
    fn script(self) -> String {
        match self {
            Self::KeepAlive | Self::Download => String::new(),
            Self::Fresh => "wrk.headers['Connection'] = 'close'".to_owned(),
            Self::Upload => format!("wrk.method = 'POST' wrk.body = string.rep('x', {MEGABYTE})"),
        }
    }
}

fn main() -> ExitCode {
    if let Ok(role) = std::env::var(ROLE) {
        serve(&role);
        return ExitCode::SUCCESS;
    }
    if Command::new("wrk").arg("--version").output().is_err() {
        eprintln!("error: wrk is not installed (Debian: apt-get install wrk)");
        return ExitCode::from(2);
    }
    let wanted: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    println!("{CONNECTIONS} connections, {ROUNDS} rounds of {SECONDS} s, each server beside axum::serve");
    let (mut is_missed, mut is_disturbed) = (false, false);
    for workload in Workload::ALL {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == workload.name()) {
            continue;
        }
        for (contender, runs) in CONTENDERS.iter().zip(compare(workload)) {
            match contender.judge(workload, &runs) {
                Judgement::Reached => {}
                Judgement::Missed => is_missed = true,
                Judgement::Disturbed => is_disturbed = true,
            }
        }
    }
    if is_missed {
        ExitCode::FAILURE
    } else if is_disturbed {
        println!("inconclusive: the CPU time is on target and the throughput is not; try a quieter machine");
        ExitCode::from(4)
    } else {
        ExitCode::SUCCESS
    }
}

/// The runs of every contender, each with the run of `axum::serve` beside it.
fn compare(workload: Workload) -> Vec<Vec<(Run, Run)>> {
    let mut runs: Vec<Vec<(Run, Run)>> = CONTENDERS.iter().map(|_| Vec::new()).collect();
    for round in 1..=ROUNDS {
        for (contender, runs) in CONTENDERS.iter().zip(&mut runs) {
            // Whoever comes first does so every other time.
            let (own, base) = if round % 2 == 0 {
                let own = measure(contender.role, workload);
                (own, measure("axum", workload))
            } else {
                let base = measure("axum", workload);
                (measure(contender.role, workload), base)
            };
            println!(
                "{} {round:>2}: {:>9} {:.0} req/s at {:.2} us of CPU, axum::serve {:.0} at {:.2}",
                workload.name(),
                contender.role,
                own.rate,
                own.cost,
                base.rate,
                base.cost
            );
            runs.push((own, base));
        }
    }
    runs
}

/// What became of a target.
enum Judgement {
    Reached,
    Missed,
    Disturbed,
}

impl Contender {
    fn judge(&self, workload: Workload, runs: &[(Run, Run)]) -> Judgement {
        let (role, target, workload) = (self.role, self.target, workload.name());
        // A neighbour on the machine only ever slows a run down: the best of many is the one least disturbed.
        let best = |rates: &mut dyn Iterator<Item = f64>| rates.fold(0.0, f64::max);
        let (own, base) =
            (best(&mut runs.iter().map(|run| run.0.rate)), best(&mut runs.iter().map(|run| run.1.rate)));
        let rate = median(runs.iter().map(|(own, base)| own.rate / base.rate).collect());
        let cost = median(runs.iter().map(|(own, base)| own.cost / base.cost).collect());
        println!(
            "{workload}, {role}: best {own:.0} req/s to {base:.0}, ratio {:.3}, target {target}",
            own / base
        );
        println!("{workload}, {role}: medians: throughput {rate:.3}, CPU time of a request {cost:.3}");
        if own / base >= target {
            Judgement::Reached
        } else if cost <= 1.0 / target {
            Judgement::Disturbed
        } else {
            Judgement::Missed
        }
    }
}

fn router() -> Router {
    let megabyte = Bytes::from(vec![b'x'; MEGABYTE]);
    Router::new()
        .route("/", get(async || "hello world"))
        .route("/upload", post(async |body: Bytes| body.len().to_string()))
        .route("/download", get(async move || megabyte))
}

/// Serves on a free port, which it prints, until it is killed.
fn serve(role: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        if role == "axum" {
            use axum::serve::ListenerExt;
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            println!("{}", listener.local_addr().expect("an address"));
            // Like ours: without it the comparison would measure Nagle's algorithm.
            let listener = listener.tap_io(|stream| stream.set_nodelay(true).expect("an open stream"));
            axum::serve(listener, router()).await.expect("it serves");
            return;
        }
        let preset: Preset = role.parse().expect("a preset");
        Server::new(([127, 0, 0, 1], 0))
            .preset(preset)
            .on_event(|record| {
                if let Event::Listening { addr } = record.event {
                    println!("{addr}");
                    std::io::stdout().flush().expect("a reader");
                }
            })
            .run(router())
            .await
            .expect("it serves");
    });
}

/// A server that is killed when the run is over.
struct Subject(Child);

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One run of one server.
struct Run {
    /// Requests a second.
    rate: f64,
    /// Microseconds of the server's CPU time for each request: what a busy neighbour disturbs least.
    cost: f64,
}

fn measure(role: &str, workload: Workload) -> Run {
    let program = std::env::current_exe().expect("this program");
    let child = Command::new(program).env(ROLE, role).stdout(Stdio::piped()).spawn().expect("a child");
    let mut subject = Subject(child);
    let stdout = subject.0.stdout.take().expect("a pipe");
    let mut addr = String::new();
    BufReader::new(stdout).read_line(&mut addr).expect("an address");
    let before = cpu_microseconds(subject.0.id());
    let mut script = tempfile::NamedTempFile::new().expect("a file");
    script.write_all(workload.script().as_bytes()).expect("a script");
    let output = Command::new("wrk")
        .args(["-t1", "-c", CONNECTIONS, "-d", SECONDS, "-s"])
        .arg(script.path())
        .arg(format!("http://{}{}", addr.trim(), workload.path()))
        .output()
        .expect("wrk runs");
    let cpu = cpu_microseconds(subject.0.id()) - before;
    let output = String::from_utf8_lossy(&output.stdout);
    let find =
        |text: &str| output.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("{output}"));
    let requests =
        find(" requests in ").split_whitespace().next().and_then(|count| count.parse::<f64>().ok());
    let rate = find("Requests/sec:").split_whitespace().last().and_then(|rate| rate.parse::<f64>().ok());
    Run { rate: rate.expect("a rate"), cost: cpu / requests.expect("a count") }
}

/// CPU time of all threads of a process (`/proc/PID/task/TID/schedstat`, see the kernel's sched-stats.rst).
fn cpu_microseconds(process: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("a running process");
    let nanoseconds: f64 = tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|stat| stat.split(' ').next()?.parse::<f64>().ok())
        .sum();
    nanoseconds / 1000.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
