//! The `hitless` binary, run as a person runs it: arguments in; exit code, output and report out.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::artifacts;
use crate::lab::{Lab, MARK};

/// No run of the binary in these tests is meant to be longer.
const RUN_LIMIT: Duration = Duration::from_mins(2);

/// The place that runs with load take turns for: on two cores, two would measure each other. `hitless clean` takes its
/// turn too, since it removes what it finds. A lock on a file, so that it holds between processes as well.
struct Turn {
    _lock: File,
}

impl Turn {
    async fn take() -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hitless-tests.lock");
        let take = move || {
            let file = File::create(path)?;
            file.lock()?;
            Ok::<_, std::io::Error>(Self { _lock: file })
        };
        tokio::task::spawn_blocking(take).await.unwrap().unwrap()
    }
}

/// An invocation that is still to be started.
pub(crate) struct Hitless {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    report_directory: PathBuf,
    takes_turn: bool,
    /// How many descriptors it may have; as many as the test if not said.
    descriptors: Option<u32>,
}

impl Hitless {
    /// The binary with these arguments and nothing else.
    pub(crate) fn new(lab: &Lab, arguments: &[&str]) -> Self {
        Self {
            arguments: arguments.iter().map(ToString::to_string).collect(),
            environment: Vec::new(),
            report_directory: lab.directory().join("report"),
            takes_turn: true,
            descriptors: None,
        }
    }

    /// The binary with these arguments, while an invocation that has ended keeps the place that loads take turns for.
    pub(crate) fn beside(_ended: &Ended, lab: &Lab, arguments: &[&str]) -> Self {
        Self { takes_turn: false, ..Self::new(lab, arguments) }
    }

    /// `hitless run` against the port of the lab, with containers that carry its mark and a report in its directory.
    pub(crate) fn run(lab: &Lab, arguments: &[&str]) -> Self {
        let mark = format!("{MARK}={}", lab.mark());
        let run = Self::new(lab, &["run", "--url", &lab.url(), "--env", &mark]);
        let report_directory = run.report_directory.display().to_string();
        run.arguments(&["--report-dir", &report_directory]).arguments(arguments)
    }

    /// `hitless run` of one saboteur, which has to know its port and has no health check.
    pub(crate) async fn run_saboteur(lab: &Lab, sabotage: &str, arguments: &[&str]) -> Self {
        let image = artifacts::saboteur_image().await.reference();
        let sabotage = format!("SABOTEUR={sabotage}");
        let listen = format!("SABOTEUR_LISTEN=127.0.0.1:{}", lab.port);
        Self::run(lab, arguments)
            .arguments(&["--image", &image, "--replicas", "1"])
            .arguments(&["--env", &sabotage, "--env", &listen])
    }

    /// Adds arguments.
    pub(crate) fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// Sets a variable in the environment of the binary itself.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Gives it no more than so many descriptors.
    pub(crate) fn with_descriptors(self, most: u32) -> Self {
        Self { descriptors: Some(most), ..self }
    }

    /// Where it puts its report.
    pub(crate) fn report_directory(&self) -> &Path {
        &self.report_directory
    }

    /// Starts it when no other load is running.
    pub(crate) async fn start(self) -> Running {
        // Made before, so that a run is a run and not a build that says something of its own.
        artifacts::server_image().await;
        let binary = artifacts::hitless_binary().await;
        let turn = if self.takes_turn { Some(Turn::take().await) } else { None };
        let mut command = match self.descriptors {
            None => Command::new(binary),
            Some(most) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {most} && exec \"$0\" \"$@\"")]).arg(binary);
                shell
            }
        };
        let mut process = command
            .args(&self.arguments)
            .envs(self.environment)
            .current_dir(artifacts::workspace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Running {
            stdout: read(process.stdout.take().unwrap()),
            stderr: read(process.stderr.take().unwrap()),
            process,
            arguments: self.arguments,
            report: self.report_directory.join("report.json"),
            turn,
        }
    }

    /// Starts it and waits for its end.
    pub(crate) async fn end(self) -> Ended {
        self.start().await.end().await
    }
}

/// Reads a stream to its end, whatever happens meanwhile.
fn read(mut stream: impl tokio::io::AsyncRead + Unpin + Send + 'static) -> JoinHandle<String> {
    tokio::spawn(async move {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A running binary; killed if the test lets go of it.
pub(crate) struct Running {
    process: Child,
    stdout: JoinHandle<String>,
    stderr: JoinHandle<String>,
    arguments: Vec<String>,
    report: PathBuf,
    turn: Option<Turn>,
}

impl Running {
    /// Sends it a signal, such as `INT`.
    pub(crate) async fn signal(&self, signal: &str) {
        let id = self.process.id().unwrap().to_string();
        let status = Command::new("kill").args(["-s", signal, &id]).status().await.unwrap();
        assert!(status.success());
    }

    /// Waits, with a bound, until its `events.jsonl` holds an event of this kind.
    pub(crate) async fn wait_until_it_recorded(&self, kind: &str) {
        let events = self.report.with_file_name("events.jsonl");
        let sought = format!("\"type\":\"{kind}\"");
        let recorded = async {
            while !fs::read_to_string(&events).is_ok_and(|lines| lines.contains(&sought)) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let is_recorded = tokio::time::timeout(RUN_LIMIT, recorded).await.is_ok();
        assert!(is_recorded, "`hitless {}` recorded no {kind} in {RUN_LIMIT:?}", self.arguments.join(" "));
    }

    /// Waits for its end, with a bound. The result keeps its turn until it is dropped.
    pub(crate) async fn end(mut self) -> Ended {
        let Ok(status) = tokio::time::timeout(RUN_LIMIT, self.process.wait()).await else {
            panic!("`hitless {}` did not end in {RUN_LIMIT:?}", self.arguments.join(" "));
        };
        Ended {
            status: status.unwrap(),
            arguments: self.arguments.join(" "),
            stdout: self.stdout.await.unwrap(),
            stderr: self.stderr.await.unwrap(),
            report: Report::read(&self.report),
            _turn: self.turn,
        }
    }
}

/// What an invocation came to.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    arguments: String,
    report: Option<Report>,
    _turn: Option<Turn>,
}

impl Ended {
    /// Fails the test, with all that was said, unless this is the exit code.
    #[track_caller]
    pub(crate) fn assert_exit_code(&self, expected: i32) {
        assert_eq!(self.status.code(), Some(expected), "exit code of {self}");
    }

    /// Fails the test unless every budget held. On a machine that is busy with something else a run may say that it could
    /// not have seen every failure, for want of CPU and for nothing else: what it did see was clean all the same.
    #[track_caller]
    pub(crate) fn assert_held(&self) {
        const INCONCLUSIVE: i32 = 4;
        /// What the verdict says of a harness that did not get to run.
        const BUSY: [&str; 2] = ["could not keep its schedule", "the harness itself was short of"];
        if self.status.code() != Some(INCONCLUSIVE) {
            return self.assert_exit_code(0);
        }
        for reason in self.report().0["reasons"].as_array().unwrap() {
            let reason = reason.as_str().unwrap();
            assert!(BUSY.iter().any(|busy| reason.contains(busy)), "{reason}: {self}");
        }
    }

    /// The report; the test fails if there is none.
    #[track_caller]
    pub(crate) fn report(&self) -> &Report {
        self.report.as_ref().unwrap_or_else(|| panic!("no report.json of {self}"))
    }

    /// Fails the test unless stderr is one line that names all of this.
    #[track_caller]
    pub(crate) fn assert_one_line_about(&self, words: &[&str]) {
        let lines: Vec<&str> = self.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
        assert_eq!(lines.len(), 1, "one line on stderr is expected of {self}");
        for word in words {
            assert!(lines[0].contains(word), "no `{word}` in the message of {self}");
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { arguments, stdout, stderr, status, report, .. } = self;
        let totals = report.as_ref().map_or(Value::Null, |report| report.0["totals"].clone());
        write!(f, "`hitless {arguments}` ({status})\nstdout: {stdout}\nstderr: {stderr}\ntotals: {totals}")
    }
}

/// `report.json`, read through the few questions that tests ask of it.
pub(crate) struct Report(Value);

impl Report {
    fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        Some(Self(serde_json::from_str(&text).unwrap()))
    }

    /// `pass`, `fail` or `inconclusive`.
    pub(crate) fn verdict(&self) -> &str {
        self.0["verdict"].as_str().unwrap()
    }

    /// Why, one text a reason.
    pub(crate) fn reasons(&self) -> String {
        self.0["reasons"].to_string()
    }

    /// A count of the totals: `requests`, `ok`, `failed`.
    pub(crate) fn total(&self, count: &str) -> u64 {
        self.0["totals"][count].as_u64().unwrap()
    }

    /// How many requests failed with one of these classes, in all cohorts.
    pub(crate) fn failed_as(&self, classes: &[&str]) -> u64 {
        sum(&self.0["totals"], classes)
    }

    /// How many requests of one cohort failed with one of these classes.
    pub(crate) fn cohort_failed_as(&self, cohort: &str, classes: &[&str]) -> u64 {
        sum(self.cohort(cohort), classes)
    }

    /// A count of one cohort: `requests`, `ok`, `failed`.
    pub(crate) fn cohort_total(&self, cohort: &str, count: &str) -> u64 {
        self.cohort(cohort)[count].as_u64().unwrap()
    }

    fn cohort(&self, name: &str) -> &Value {
        let cohorts = self.0["cohorts"].as_array().unwrap();
        cohorts.iter().find(|cohort| cohort["name"] == name).unwrap()
    }

    /// The names of the cohorts.
    pub(crate) fn cohorts(&self) -> Vec<&str> {
        self.0["cohorts"].as_array().unwrap().iter().map(|cohort| cohort["name"].as_str().unwrap()).collect()
    }

    /// One entry a restart, in their order.
    pub(crate) fn restarts(&self) -> &[Value] {
        self.0["restarts"].as_array().unwrap()
    }

    /// Whether this moment, in milliseconds since 1970, falls into a restart, or within `slack` of one.
    pub(crate) fn is_in_a_restart(&self, unix_ms: f64, slack: f64) -> bool {
        let t = unix_ms - self.began();
        self.restarts().iter().any(|restart| {
            let from = number(&restart["t"]);
            from - slack <= t && t <= from + number(&restart["duration_ms"]) + slack
        })
    }

    /// Whether requests were sent at this moment, in milliseconds since 1970, and for `slack` before and after it.
    pub(crate) fn is_under_load(&self, unix_ms: f64, slack: f64) -> bool {
        let timeline = &self.0["timeline"];
        let (from, t) = (number(&timeline["began_ms"]), unix_ms - self.began());
        from + slack <= t && t <= from + number(&self.0["run"]["load_ms"]) - slack
    }

    /// Whether this moment, in milliseconds since 1970, is under load and no restart is within `slack` of it.
    pub(crate) fn is_steady(&self, unix_ms: f64, slack: f64) -> bool {
        self.is_under_load(unix_ms, slack) && !self.is_in_a_restart(unix_ms, slack)
    }

    /// When the run began, in milliseconds since 1970.
    fn began(&self) -> f64 {
        number(&self.0["run"]["started_unix_ms"])
    }

    /// The servers' own accounts beside the clients'.
    pub(crate) fn reconciliation(&self) -> &Value {
        &self.0["evidence"]["reconciliation"]
    }

    /// The failures that are told one by one.
    pub(crate) fn failures(&self) -> &[Value] {
        self.0["failures"].as_array().unwrap()
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// A class that does not occur may be left out.
fn sum(counts: &Value, classes: &[&str]) -> u64 {
    classes.iter().map(|class| counts["by_class"][class].as_u64().unwrap_or(0)).sum()
}
