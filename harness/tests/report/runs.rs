//! Runs, told as an `events.jsonl` tells them, with the harness's own types; and what the binary makes of them.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use hdrhistogram::Histogram;
use hitless::analysis::report::{Report, SCHEMA_VERSION};
use hitless::model::clock::RunTime;
use hitless::model::cohort::CohortKind;
use hitless::model::environment::Environment;
use hitless::model::failed_request::FailedRequest;
use hitless::model::failure::FailureClass;
use hitless::model::lifecycle::{LifecycleEvent, LifecycleKind, Source};
use hitless::model::listener::Listener;
use hitless::model::observation::{ClientTotals, CohortTotals};
use hitless::model::phase::Phase;
use hitless::model::restart::RestartStep;
use hitless::model::scenario_info::{CohortInfo, ScenarioInfo};
use hitless::model::tally::Tally;
use hitless::record::events::line::{Event, Head, Line};
use hitless::record::recording::{Bucket, CountsDelta, Coverage};
use hitless::stored_report;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// When the load begins, in milliseconds from the run's zero.
const LOAD_BEGAN: f64 = 200.0;
/// How many stretches of the timeline a restart takes.
const STRETCHES: u32 = 8;

/// A run of two replicas that are restarted in turn under `fresh` and `pooled` load.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// How often each replica is restarted.
    pub(crate) rounds: u32,
    /// How long it takes from one restart to the next, in milliseconds.
    pub(crate) every_ms: f64,
    /// Requests from one restart to the next, the failed ones among them.
    pub(crate) requests: u64,
    /// What fails in each restart.
    pub(crate) lost: Vec<FailureClass>,
    /// The only restart, from 0, in which it does, if not in every one.
    pub(crate) lost_in: Option<usize>,
    /// What every failure says of itself.
    pub(crate) detail: String,
    /// What the run is held against.
    pub(crate) budgets: Vec<&'static str>,
    /// Whether a new replica takes the place of the old one.
    pub(crate) is_replacing: bool,
}

impl Run {
    /// Four restarts, nothing lost.
    pub(crate) fn clean() -> Self {
        Self {
            rounds: 2,
            every_ms: 1_000.0,
            requests: 1_000,
            lost: Vec::new(),
            lost_in: None,
            detail: "connection reset by peer (os error 104)".to_owned(),
            budgets: vec!["failed==0", "fresh.p(99)<250ms"],
            is_replacing: false,
        }
    }

    /// The same, and in every restart something of every class is lost.
    pub(crate) fn failing() -> Self {
        Self { lost: FailureClass::ALL.to_vec(), ..Self::clean() }
    }

    /// Sixty restarts, and something is lost in one of them.
    pub(crate) fn failing_once() -> Self {
        Self { rounds: 30, lost_in: Some(36), ..Self::failing() }
    }

    /// More is lost than a report keeps one by one.
    pub(crate) fn lossy() -> Self {
        let lost = [FailureClass::Refused, FailureClass::EmptyReply].repeat(40);
        Self { rounds: 10, lost, ..Self::clean() }
    }

    /// A million requests over a thousand restarts, with as many failures as a report keeps, each with much to say.
    pub(crate) fn biggest() -> Self {
        Self {
            rounds: 500,
            every_ms: 819.2,
            lost: vec![FailureClass::ResetBeforeResponse],
            detail: "error sending request: connection error: ".repeat(25),
            ..Self::clean()
        }
    }

    /// Writes the run's `events.jsonl` into a new directory.
    pub(crate) fn written(&self) -> TempDir {
        let directory = tempfile::tempdir().expect("a directory for the run");
        write(&self.lines(), directory.path());
        directory
    }

    /// The report of the run.
    pub(crate) fn report(&self) -> Report {
        stored_report::read(self.written().path()).expect("the events are a run")
    }

    pub(crate) fn lines(&self) -> Vec<Line> {
        let restarts = self.rounds as usize * 2;
        let mut lines = vec![at(0.0, Event::Run(Box::new(self.head()))), at(LOAD_BEGAN, Event::LoadBegan)];
        for (replica, t) in [("server-a", 10.0), ("server-b", 20.0)] {
            for (after, event) in [(0.0, LifecycleKind::StartRequested), (30.0, LifecycleKind::Started)] {
                lines.push(lifecycle(t + after, replica.into(), event, Source::Engine, json!({})));
            }
            lines.push(lifecycle(t + 60.0, replica.into(), LifecycleKind::Ready, Source::Server, json!({})));
        }
        for index in 0..restarts {
            self.restart(&mut lines, index);
        }
        let ended = self.began(restarts);
        let requests = self.requests * restarts as u64;
        let totals = |replayed| {
            let connections = if replayed == Some(0) { 32 } else { requests / 2 };
            let client = ClientTotals {
                connections,
                replayed,
                unsent: replayed,
                closed_idle: replayed,
                unverified: None,
            };
            CohortTotals { sent: requests / 2, client }
        };
        for inode in [4711, 4712] {
            let (first, last) = (RunTime::from_ms(100.0), RunTime::from_ms(ended - 100.0));
            let seen = Listener { inode, first, last, waiting_max: 7 - inode % 2, backlog: 4096 };
            lines.push(at(100.0, Event::ListenerSeen(seen)));
        }
        let kernel = [("TcpExtListenOverflows".to_owned(), 3), ("TcpOutRsts".to_owned(), 41)].into();
        lines.push(at(ended, Event::LoadEnded { totals: vec![totals(None), totals(Some(0))], kernel }));
        lines.push(at(ended + 100.0, Event::End { cut_short: None }));
        lines
    }

    pub(crate) fn head(&self) -> Head {
        let url = "http://127.0.0.1:8080/";
        let cohort = |name: &str| CohortInfo {
            name: name.to_owned(),
            rate: 500.0,
            concurrency: 64,
            url: url.to_owned(),
        };
        Head {
            schema_version: SCHEMA_VERSION,
            run: "20260102-030405-1a2b".to_owned(),
            command: "hitless run --preset graceful".to_owned(),
            started_unix_ms: 1_767_323_045_000,
            scenario: ScenarioInfo {
                subject: "preset graceful".to_owned(),
                preset: Some("graceful".to_owned()),
                image: Some("hitless-server:dev".to_owned()),
                replicas: 2,
                rounds: self.rounds,
                url: url.to_owned(),
                cohorts: vec![cohort("fresh"), cohort("pooled")],
                seed: 7,
                options: Map::from_iter([("settle".to_owned(), json!("500ms"))]),
            },
            budgets: self.budgets.iter().map(|text| text.parse().expect("a budget")).collect(),
            environment: Environment {
                kernel: "6.18.0".to_owned(),
                tcp_migrate_req: Some(false),
                engine: "Docker 20.10.24".to_owned(),
                cpus: 2,
            },
        }
    }

    fn lost(&self, restart: usize) -> &[FailureClass] {
        if self.lost_in.is_none_or(|only| only == restart) { &self.lost } else { &[] }
    }

    fn began(&self, index: usize) -> f64 {
        LOAD_BEGAN + 300.0 + self.every_ms * index as f64
    }

    /// Who is restarted, and who is ready afterwards.
    fn names(&self, index: usize) -> (Arc<str>, Arc<str>) {
        let letter = if index.is_multiple_of(2) { 'a' } else { 'b' };
        let named = |generation: usize| {
            if self.is_replacing && generation > 0 {
                format!("server-{letter}-{generation}").into()
            } else {
                format!("server-{letter}").into()
            }
        };
        (named(index / 2), named(index / 2 + usize::from(self.is_replacing)))
    }

    fn restart(&self, lines: &mut Vec<Line>, index: usize) {
        use LifecycleKind as K;
        let began = self.began(index);
        let part = |share: f64| began + self.every_ms * share;
        let (replica, successor) = self.names(index);
        let lost = self.lost(index).len() as u64;
        let accepted = self.requests / 2 - lost;
        let account =
            json!({"begun": self.requests, "answered": self.requests - lost, "cut": 0, "accepted": accepted});
        let events = [
            (0.0, &replica, K::TerminateRequested, Source::Harness),
            (0.002, &replica, K::SignalSent, Source::Engine),
            (0.003, &replica, K::SignalReceived, Source::Server),
            (0.004, &replica, K::Draining, Source::Server),
            (0.005, &replica, K::ListenerClosed, Source::Server),
            (0.2, &replica, K::LastResponse, Source::Server),
            (0.21, &replica, K::Drained, Source::Server),
            (0.22, &replica, K::Exiting, Source::Server),
            (0.23, &replica, K::Exited, Source::Engine),
            (0.25, &successor, K::StartRequested, Source::Harness),
            (0.3, &successor, K::Started, Source::Engine),
            (0.4, &successor, K::Listening, Source::Server),
            (0.41, &successor, K::Ready, Source::Server),
        ];
        let round = u32::try_from(index / 2).unwrap_or(u32::MAX) + 1;
        let step = |share, step| at(part(share), Event::Restart { restart: index, step });
        lines.push(step(0.0, RestartStep::Began { replica: Arc::clone(&replica), round }));
        for (share, who, kind, source) in events {
            if self.is_replacing && kind == K::StartRequested {
                lines.push(step(share, RestartStep::Succeeded { by: Arc::clone(&successor) }));
            }
            let fields = match kind {
                K::Exiting => account.clone(),
                K::Exited => json!({"code": 0}),
                _ => json!({}),
            };
            lines.push(lifecycle(part(share), Arc::clone(who), kind, source, fields));
        }
        lines.push(step(0.42, RestartStep::Answered));
        self.load(lines, index);
    }

    /// The requests from a restart to the next: a tenth of them while it drains, some while it is down, the rest afterwards.
    fn load(&self, lines: &mut Vec<Line>, index: usize) {
        let began = self.began(index);
        let (replica, successor) = self.names(index);
        let (_, sibling) = self.names(index + 1);
        for (number, class) in self.lost(index).iter().enumerate() {
            let failed = self.failed(index, number, *class, &replica);
            lines.push(at(failed.t.ms(), Event::FailedRequest(Box::new(failed))));
        }
        let end = began + self.every_ms - 1.0;
        for cohort in [CohortKind::Fresh, CohortKind::Pooled] {
            let lost: &[FailureClass] = if cohort == CohortKind::Fresh { self.lost(index) } else { &[] };
            let (draining, down) = (self.requests / 20 + lost.len() as u64, self.requests / 100);
            for (phase, restart, requests, lost) in [
                (Phase::Draining, Some(index), draining, lost),
                (Phase::Gap, Some(index), down, &[]),
                (Phase::Starting, Some(index), down, &[]),
                (Phase::Steady, None, self.requests / 2 - draining - 2 * down, &[]),
            ] {
                let answered = requests - lost.len() as u64;
                let delta = CountsDelta {
                    tally: tally(requests, lost),
                    service: latencies(answered),
                    lateness: histogram([(40, requests)]),
                    coverage: Coverage { due: requests, sent: requests },
                    in_restarts: if restart.is_some() { requests } else { 0 },
                    ..CountsDelta::new(0, phase, restart)
                };
                lines.push(at(end, Event::Sample { cohort, delta: Box::new(delta) }));
            }
        }
        let width = self.every_ms / f64::from(STRETCHES);
        for nth in 0..STRETCHES {
            let (requests, lost): (u64, &[FailureClass]) =
                (self.requests / u64::from(STRETCHES), if nth == 0 { self.lost(index) } else { &[] });
            let answered = requests - lost.len() as u64;
            let replicas = if nth < 4 {
                [(Arc::clone(&sibling), answered)].into()
            } else {
                [(Arc::clone(&sibling), answered / 2), (Arc::clone(&successor), answered - answered / 2)]
                    .into()
            };
            let bucket = Bucket { tally: tally(requests, lost), replicas, queue: Some(u64::from(nth)) };
            let stretch = Event::Timeline { width_ms: width, bucket: Box::new(bucket) };
            lines.push(at(began + width * f64::from(nth), stretch));
        }
    }

    fn failed(
        &self,
        restart: usize,
        number: usize,
        class: FailureClass,
        replica: &Arc<str>,
    ) -> FailedRequest {
        let offset_ms = 1.0 + number as f64;
        FailedRequest {
            t: RunTime::from_ms(self.began(restart) + self.every_ms * 0.005 + offset_ms),
            cohort: CohortKind::Fresh,
            number: self.requests * restart as u64 / 2 + number as u64,
            class,
            curl_exit: None,
            phase: Phase::Draining,
            restart: Some(restart),
            offset_ms: Some(offset_ms),
            event: Some(LifecycleKind::ListenerClosed),
            replica: Some(Arc::clone(replica)),
            answered_by: None,
            cause: None,
            after_ms: 2.0,
            blame: String::new(),
            connection_request: Some(1),
            on_kept_connection: Some(false),
            bytes: Some((78, 0)),
            hidden_by_retries: class == FailureClass::EmptyReply,
            detail: self.detail.clone(),
        }
        .told()
    }
}

/// Writes lines as an `events.jsonl`.
pub(crate) fn write(lines: &[Line], directory: &Path) {
    let mut out = BufWriter::new(File::create(directory.join("events.jsonl")).expect("an events.jsonl"));
    for line in lines {
        serde_json::to_writer(&mut out, line).expect("a line is plain data");
        out.write_all(b"\n").expect("room for a line");
    }
    out.flush().expect("room for the lines");
}

/// `hitless report`, outside of any pipeline and terminal.
pub(crate) fn hitless_report(path: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hitless"));
    command.arg("report").arg(path).env_remove("GITHUB_ACTIONS").env_remove("GITHUB_STEP_SUMMARY");
    command
}

/// Has the binary render a directory; panics if it could not.
pub(crate) fn rendered(directory: &Path) -> Output {
    let output = hitless_report(directory).output().expect("the binary can be started");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 1 | 4)), "{:?}: {errors}", output.status);
    output
}

/// A file of a directory.
pub(crate) fn text(directory: &Path, name: &str) -> String {
    std::fs::read_to_string(directory.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn at(t_ms: f64, event: Event) -> Line {
    Line { t_ms: RunTime::from_ms(t_ms), event }
}

fn lifecycle(t_ms: f64, replica: Arc<str>, event: LifecycleKind, source: Source, fields: Value) -> Line {
    let fields = if let Value::Object(fields) = fields { fields } else { Map::new() };
    at(
        t_ms,
        Event::Lifecycle(LifecycleEvent {
            t: RunTime::from_ms(t_ms),
            replica,
            node: None,
            kind: event,
            source,
            fields,
        }),
    )
}

fn tally(requests: u64, lost: &[FailureClass]) -> Tally {
    let mut tally = Tally::new(1);
    for class in lost {
        tally.failed(*class);
    }
    tally.requests = requests;
    tally.latency = latencies(requests - lost.len() as u64);
    tally
}

/// Most in half a millisecond, one in a hundred in ten.
fn latencies(answered: u64) -> Histogram<u64> {
    histogram([(500, answered - answered / 100), (10_000, answered / 100)])
}

fn histogram<const N: usize>(values: [(u64, u64); N]) -> Histogram<u64> {
    let mut histogram = Histogram::new(1).expect("one significant digit");
    for (microseconds, times) in values {
        histogram.record_n(microseconds, times).expect("it grows");
    }
    histogram
}
