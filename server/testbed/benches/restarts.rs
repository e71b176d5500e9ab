//! Two replicas restarted one after the other, as fast as they come back, under load that never pauses: how many requests
//! fail (none may), and what a restart costs in latency (p99 within the restarts at most twice p99 between them).
//!
//! The clients are as simple as can be, so that nothing is repeated or hidden: a *fresh* one opens a connection for each
//! request, a *kept* one uses one connection for ever and counts its end as a failure. Each sends on a schedule and its
//! latency counts from there, whether it came to send or not.
//!
//! `cargo bench -p hitless-testbed --bench restarts -- [--seconds 30] [--pause-ms 200] [--fresh 16] [--kept 48]
//! [--every-ms 10] [--preset handover]`; exits with 1 if anything failed or the ratio is above its target.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How much p99 may grow within restarts.
const TARGET: f64 = 2.0;
/// How long a client waits for anything.
const PATIENCE: Duration = Duration::from_secs(10);

struct Options {
    length: Duration,
    pause: Duration,
    fresh: u32,
    kept: u32,
    every: Duration,
    preset: String,
}

impl Options {
    fn from_args() -> Self {
        let mut options = Self {
            length: Duration::from_secs(30),
            pause: Duration::from_millis(200),
            fresh: 16,
            kept: 48,
            every: Duration::from_millis(10),
            preset: "handover".to_owned(),
        };
        let mut args = std::env::args().skip(1);
        while let Some(flag) = args.next() {
            let mut number = || args.next().and_then(|value| value.parse::<u32>().ok()).expect("a number");
            match flag.as_str() {
                "--seconds" => options.length = Duration::from_secs(number().into()),
                "--pause-ms" => options.pause = Duration::from_millis(number().into()),
                "--fresh" => options.fresh = number(),
                "--kept" => options.kept = number(),
                "--every-ms" => options.every = Duration::from_millis(number().into()),
                "--preset" => options.preset = args.next().expect("a preset"),
                // What cargo adds.
                "--bench" => {}
                other => panic!("no such option: {other}"),
            }
        }
        options
    }
}

fn main() -> ExitCode {
    let options = Options::from_args();
    let mut first = Replica::start("bench-a", "127.0.0.1:0", &options.preset);
    let addr = first.addr;
    let mut second = Replica::start("bench-b", &addr.to_string(), &options.preset);

    let begin = Instant::now();
    let end = begin + options.length;
    let (fresh, kept, every) = (options.fresh, options.kept, options.every);
    let load = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(run_load(addr, fresh, kept, every, begin, end))
    });

    let mut windows = Vec::new();
    std::thread::sleep(Duration::from_secs(1));
    while Instant::now() < end.checked_sub(Duration::from_secs(1)).unwrap_or(begin) {
        for replica in [&mut first, &mut second] {
            let from = begin.elapsed();
            replica.restart(&options.preset);
            windows.push((from, begin.elapsed()));
            std::thread::sleep(options.pause);
        }
    }
    let result = load.join().expect("the load ends");
    report(&options, &result, &windows)
}

fn report(options: &Options, result: &Load, windows: &[(Duration, Duration)]) -> ExitCode {
    let (mut within, mut between) = (Vec::new(), Vec::new());
    for &(scheduled, latency) in &result.answered {
        // A request belongs to a restart if any of its time does.
        let is_within = windows.iter().any(|&(from, to)| scheduled <= to && scheduled + latency >= from);
        if is_within { &mut within } else { &mut between }.push(latency);
    }
    let failed: usize = result.failed.values().sum();
    let took: Duration = windows.iter().map(|&(from, to)| to.saturating_sub(from)).sum();
    println!(
        "{}: {} restarts, {:.0} ms each; {} answered, {failed} failed {:?}",
        options.preset,
        windows.len(),
        took.as_secs_f64() * 1000.0 / windows.len() as f64,
        result.answered.len(),
        result.failed
    );
    println!("                      p50       p99     p99.9       max");
    for (name, latencies) in [("within restarts", &mut within), ("between restarts", &mut between)] {
        latencies.sort();
        let [p50, p99, p999, max] = [500, 990, 999, 1000].map(|permille| quantile(latencies, permille));
        println!(
            "{name:>16}  {p50:>6.2} ms {p99:>6.2} ms {p999:>6.2} ms {max:>6.2} ms  ({})",
            latencies.len()
        );
    }
    let ratio = quantile(&within, 990) / quantile(&between, 990);
    println!("p99 within / between: {ratio:.2}, target {TARGET}");
    if failed == 0 && ratio <= TARGET { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// In milliseconds, of sorted latencies.
fn quantile(sorted: &[Duration], permille: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * permille / 1000).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1000.0)
}

/// What the clients saw: when each answered request was due, since the beginning, and how long it took from there.
#[derive(Default)]
struct Load {
    answered: Vec<(Duration, Duration)>,
    failed: BTreeMap<String, usize>,
}

async fn run_load(
    addr: SocketAddr,
    fresh: u32,
    kept: u32,
    every: Duration,
    begin: Instant,
    end: Instant,
) -> Load {
    let load = Arc::new(Mutex::new(Load::default()));
    let clients = (0..fresh + kept).map(|number| {
        let load = Arc::clone(&load);
        let keeps = number >= fresh;
        // Spread over the interval.
        let offset = every * number / (fresh + kept);
        tokio::spawn(async move {
            let mut connection = None;
            let mut due = begin + offset;
            while due < end {
                tokio::time::sleep_until(due.into()).await;
                let asked = tokio::time::timeout(PATIENCE, ask(addr, &mut connection)).await;
                let mut load = load.lock().expect("no client panics");
                match asked.unwrap_or_else(|_| Err("timeout".to_owned())) {
                    Ok(()) => load.answered.push((due - begin, due.elapsed())),
                    Err(class) => {
                        let kind = if keeps { "kept" } else { "fresh" };
                        *load.failed.entry(format!("{kind}: {class}")).or_default() += 1;
                        connection = None;
                    }
                }
                if !keeps {
                    connection = None;
                }
                due += every;
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.expect("no client panics");
    }
    Arc::into_inner(load).expect("all clients ended").into_inner().expect("no client panics")
}

/// One request; the error is its class.
async fn ask(addr: SocketAddr, connection: &mut Option<TcpStream>) -> Result<(), String> {
    if connection.is_none() {
        let stream = TcpStream::connect(addr).await.map_err(|error| format!("connect {:?}", error.kind()))?;
        stream.set_nodelay(true).map_err(|error| format!("connect {:?}", error.kind()))?;
        *connection = Some(stream);
    }
    let stream = connection.as_mut().expect("just connected");
    let request = b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n";
    stream.write_all(request).await.map_err(|error| format!("write {:?}", error.kind()))?;
    let mut answer = Vec::with_capacity(512);
    while !answer.ends_with(b"\r\n\r\nhello world") {
        match stream.read_buf(&mut answer).await {
            Ok(0) if answer.is_empty() => return Err("empty reply".to_owned()),
            Ok(0) => return Err("truncated".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(format!("read {:?}", error.kind())),
        }
    }
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        return Err("status".to_owned());
    }
    if answer.windows(17).any(|window| window == b"connection: close") {
        return Err("told to close".to_owned());
    }
    Ok(())
}

struct Replica {
    child: Child,
    lines: Receiver<Value>,
    name: &'static str,
    addr: SocketAddr,
}

impl Replica {
    fn start(name: &'static str, listen: &str, preset: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hitless-server"))
            .args(["--name", name, "--listen", listen, "--preset", preset])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let stdout = child.stdout.take().expect("a pipe");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let line: Value = serde_json::from_str(&line).expect("a line of JSON");
                if line["level"] != "info" {
                    eprintln!("{line}");
                }
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut replica = Self { child, lines, name, addr: SocketAddr::from(([0; 4], 0)) };
        let addr = replica.wait_for("listening")["addr"].clone();
        replica.addr = addr.as_str().expect("an address").parse().expect("an address");
        replica.wait_for("ready");
        replica
    }

    fn wait_for(&self, event: &str) -> Value {
        loop {
            let line =
                self.lines.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("no {event}: {error}"));
            if line["event"] == event {
                return line;
            }
        }
    }

    fn restart(&mut self, preset: &str) {
        let status = Command::new("kill").arg(self.child.id().to_string()).status().expect("kill runs");
        assert!(status.success());
        let exit = self.wait_for("exit");
        assert_eq!(exit["cut"], 0, "{exit}");
        self.child.wait().expect("a child");
        *self = Self::start(self.name, &self.addr.to_string(), preset);
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
