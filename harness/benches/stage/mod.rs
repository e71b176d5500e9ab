//! What the benches stand on: a server in a child process, the harness's own load as a run makes it, and CPU times.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use axum::serve::ListenerExt;
use hitless::analysis::report::SCHEMA_VERSION;
use hitless::analysis::summary::Summary;
use hitless::load::Load;
use hitless::model::clock::{Moment, WallOffset};
use hitless::model::environment::Environment;
use hitless::model::fresh_connections::FreshConnectionRequests;
use hitless::model::scenario_info::ScenarioInfo;
use hitless::model::sink::Sink;
use hitless::options::Options;
use hitless::record::events::EventLog;
use hitless::record::events::line::Head;
use hitless::record::recorder::Recorder;
use hitless::scenario::Scenario;

/// What the binary itself uses.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tells a child that it is the server.
const ROLE: &str = "HITLESS_BENCH_SERVER";
/// What the server answers.
pub(crate) const BODY: &str = "hello world";
/// How long a client waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What came out of some seconds of load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// Requests that were answered as expected.
    pub(crate) answered: u64,
    /// How long it took.
    pub(crate) took: Duration,
    /// The client's CPU time, user and system.
    pub(crate) cpu: Duration,
}

impl Run {
    /// Requests a second.
    pub(crate) fn rate(&self) -> f64 {
        self.answered as f64 / self.took.as_secs_f64()
    }

    /// Requests a second of CPU time.
    pub(crate) fn rate_of_cpu(&self) -> f64 {
        self.answered as f64 / self.cpu.as_secs_f64()
    }
}

/// Plain axum in a child process of this very program; killed when dropped.
pub(crate) struct Server {
    child: Child,
    /// Where it answers.
    pub(crate) url: String,
}

impl Server {
    /// In the child: serves until it is killed. Elsewhere: does nothing.
    pub(crate) fn serve_if_asked() {
        if std::env::var_os(ROLE).is_some() {
            runtime().block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
                println!("http://{}/", listener.local_addr().expect("an address"));
                // Without it the benches would measure Nagle's algorithm.
                let listener = listener.tap_io(|stream| stream.set_nodelay(true).expect("an open stream"));
                let router = Router::new().route("/", get(async || BODY));
                axum::serve(listener, router).await.expect("it serves");
            });
        }
    }

    /// Starts it.
    pub(crate) fn start() -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program).env(ROLE, "").stdout(Stdio::piped()).spawn().expect("a child");
        let mut url = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut url).expect("an address");
        Self { child, url: url.trim().to_owned() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A runtime like the one of `hitless` itself.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

/// A scenario of one cohort whose schedule asks for more than any machine can do: all of `concurrency` is always in use.
pub(crate) fn saturating(cohort: &str, concurrency: usize, url: &str) -> Scenario {
    let options = Options {
        url: Some(url.to_owned()),
        cohort: vec![format!("{cohort}=1000000")],
        concurrency: Some(concurrency),
        ..Options::default()
    };
    Scenario::from_options(&options).expect("a valid scenario")
}

/// A recorder as a run has it, with an `events.jsonl`.
pub(crate) fn recorder(scenario: &Scenario, directory: &std::path::Path) -> Recorder {
    let head = Head {
        schema_version: SCHEMA_VERSION,
        run: "bench".to_owned(),
        command: "cargo bench".to_owned(),
        started_unix_ms: WallOffset::read().unix_ms(Moment::now()),
        scenario: ScenarioInfo::of(scenario),
        budgets: scenario.budgets.clone(),
        environment: Environment::default(),
    };
    Recorder::start(&scenario.cohorts, EventLog::create(directory, head).expect("a file in a new directory"))
}

/// Starts the load of a scenario, observed by `recorder`.
pub(crate) fn start(scenario: &Scenario, recorder: &Recorder) -> Load {
    let sink: Arc<dyn Sink> = Arc::new(recorder.clone());
    Load::start(&scenario.cohorts, PATIENCE, &sink, &FreshConnectionRequests::default()).expect("a client")
}

/// The harness's load for `length`, its checks and its recording included.
pub(crate) fn load(scenario: &Scenario, length: Duration) -> Run {
    let directory = tempfile::tempdir().expect("a directory");
    let (began, before) = (Instant::now(), cpu_of_this_process());
    let (recording, took) = runtime().block_on(async {
        let recorder = recorder(scenario, directory.path());
        let load = start(scenario, &recorder);
        recorder.load_began();
        tokio::time::sleep(length).await;
        let totals = load.finish(PATIENCE).await;
        let took = began.elapsed();
        recorder.load_ended(Moment::now(), totals, BTreeMap::new());
        (recorder.close(None).await, took)
    });
    // What is still to be placed in the end belongs to the cost.
    let cpu = cpu_of_this_process().saturating_sub(before);
    let totals = Summary::of(&recording).totals;
    assert_eq!(totals.requests, totals.ok, "every request is answered: {totals:?}");
    Run { answered: totals.ok, took, cpu }
}

/// CPU time of this process, of threads that have ended as well, but not of its children.
pub(crate) fn cpu_of_this_process() -> Duration {
    cpu_times([13, 14])
}

/// CPU time of the children that have ended and were waited for.
pub(crate) fn cpu_of_ended_children() -> Duration {
    cpu_times([15, 16])
}

/// Fields of `/proc/self/stat`, counted from 0, in hundredths of a second (`proc_pid_stat(5)`).
fn cpu_times(fields: [usize; 2]) -> Duration {
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    // The name of the program, field 1, may contain anything but ends with the last parenthesis.
    let after_name = stat.rsplit_once(") ").expect("a name in parentheses").1;
    let values: Vec<&str> = after_name.split(' ').collect();
    fields.iter().map(|field| TICK * values[field - 2].parse::<u32>().expect("a number")).sum()
}

/// The middle of some ratios.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let upper = values.len() / 2;
    if values.len().is_multiple_of(2) {
        f64::midpoint(values[upper - 1], values[upper])
    } else {
        values[upper]
    }
}
