//! `hitless run --runtime process` as a person runs it, without an engine: replicas are child processes, and nothing of
//! them is left, however a run ends.
//!
//! The servers are this very program in another role. Each calls home when it begins and holds the line until it ends:
//! both are events to wait for.

#![expect(clippy::unwrap_used, reason = "a step of a test that fails ends the test")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::{TcpListener, TcpSocket};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// No single wait in this file is longer.
const PATIENCE: Duration = Duration::from_mins(1);
/// What a server is, where it listens, and where it calls home.
const ROLE: &str = "HITLESS_TEST_ROLE";
const LISTEN: &str = "HITLESS_TEST_LISTEN";
const HOME: &str = "HITLESS_TEST_HOME";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\nconnection: close\r\n\r\nhello world";

/// In a child: plays its role until it is told to stop. Elsewhere: a test that has nothing to do.
#[test]
fn server_if_asked() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let version = if std::env::args().any(|argument| argument == "next") { "next" } else { "first" };
    let address = |name| std::env::var(name).unwrap().parse::<SocketAddr>().unwrap();
    let mut home = TcpStream::connect(address(HOME)).unwrap();
    writeln!(home, "{role} {version}").unwrap();
    if role == "lingers" {
        // Until it is killed: nobody at home says anything.
        let _ = home.read(&mut [0]);
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let code = runtime.block_on(serve(&role, address(LISTEN)));
    std::process::exit(code);
}

#[expect(clippy::zombie_processes, reason = "whoever keeps its parent has to end it")]
fn linger() {
    itself().env(ROLE, "lingers").spawn().unwrap();
}

async fn serve(role: &str, listen: SocketAddr) -> i32 {
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    if role == "stubborn" {
        linger();
    }
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(listen).unwrap();
    let listener = socket.listen(1024).unwrap();
    loop {
        let mut stream = tokio::select! {
            accepted = listener.accept() => accepted.unwrap().0,
            _ = terminate.recv() => if role == "stubborn" { continue } else { return 0 },
        };
        // A probe of the port sends nothing.
        if stream.read(&mut [0; 4096]).await.is_ok_and(|length| length > 0) {
            if role == "mortal" {
                eprintln!("out of luck");
                return 3;
            }
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, ANSWER).await;
        }
    }
}

/// This program in a role, as a command of its own.
fn itself() -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "server_if_asked", "--nocapture"]);
    command
}

/// Where a test's servers call, a port for them, and a place for the report.
struct Stage {
    home: TcpListener,
    port: u16,
    directory: TempDir,
}

/// A server that has called home and holds the line.
struct Life {
    /// Its role and its version.
    greeting: String,
    line: BufReader<tokio::net::TcpStream>,
}

/// A run of the binary.
struct Run(Child);

impl Stage {
    async fn new() -> Self {
        Self {
            home: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(),
            port: free_port(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// `hitless run` of servers of this role, a short one if the further arguments say nothing else.
    fn run(&self, role: &str, arguments: &[&str]) -> Run {
        Run(self.command(role, arguments).spawn().unwrap())
    }

    fn command(&self, role: &str, arguments: &[&str]) -> Command {
        let servers = [
            format!("--env={ROLE}={role}"),
            format!("--env={LISTEN}=127.0.0.1:{}", self.port),
            format!("--env={HOME}={}", self.home.local_addr().unwrap()),
            format!("--report-dir={}", self.directory.path().display()),
        ];
        let mut command =
            hitless(&["run", "--runtime=process", "--cohort=fresh=100", "--settle=0s", "--quiet"]);
        command.args(servers).args(arguments);
        if !arguments.iter().any(|argument| argument.starts_with("--command")) {
            command.arg(format!("--command={}", self::command(&[])));
        }
        if !arguments.iter().any(|argument| argument.starts_with("--url")) {
            command.arg(format!("--url=http://127.0.0.1:{}/", self.port));
        }
        if !arguments.iter().any(|argument| argument.starts_with("--lead")) {
            command.arg("--lead=300ms");
        }
        command
    }

    /// The next server that calls home.
    async fn next(&self) -> Life {
        let call = async {
            let mut line = BufReader::new(self.home.accept().await.unwrap().0);
            let mut greeting = String::new();
            line.read_line(&mut greeting).await.unwrap();
            Life { greeting: greeting.trim().to_owned(), line }
        };
        tokio::time::timeout(PATIENCE, call).await.expect("a server calls home in time")
    }

    /// The next servers that call home.
    async fn next_ones(&self, count: usize) -> Vec<Life> {
        let mut lives = Vec::new();
        while lives.len() < count {
            lives.push(self.next().await);
        }
        lives
    }

    /// Waits until these are gone, and fails the test if anything else of this stage is there.
    async fn assert_nothing_left(&self, lives: Vec<Life>) {
        for life in lives {
            life.ended().await;
        }
        let home = format!("{HOME}={}", self.home.local_addr().unwrap());
        for process in std::fs::read_dir("/proc").unwrap() {
            let environment = std::fs::read(process.unwrap().path().join("environ")).unwrap_or_default();
            let is_of_this_stage = environment.split(|byte| *byte == 0).any(|text| text == home.as_bytes());
            assert!(!is_of_this_stage, "a process is left");
        }
    }

    fn report(&self) -> Value {
        let path = self.directory.path().join("report.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }
}

impl Life {
    /// Waits until its process is gone.
    async fn ended(mut self) {
        let mut rest = Vec::new();
        let end = tokio::time::timeout(PATIENCE, self.line.read_to_end(&mut rest)).await;
        assert!(end.is_ok(), "`{}` still runs", self.greeting);
    }
}

impl Run {
    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.0.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    async fn end(self) -> Output {
        tokio::time::timeout(PATIENCE, self.0.wait_with_output())
            .await
            .expect("the run ends in time")
            .unwrap()
    }
}

/// The binary, on a machine without an engine.
fn hitless(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hitless"));
    command
        .args(arguments)
        .env("DOCKER_HOST", "unix:///nonexistent/docker.sock")
        .current_dir(Path::new(env!("CARGO_TARGET_TMPDIR")))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// This program as a value of `--command` or `--replace`.
fn command(further: &[&str]) -> String {
    let command = itself();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|word| format!("'{}'", word.to_str().unwrap()));
    quoted.chain(further.iter().map(ToString::to_string)).collect::<Vec<_>>().join(" ")
}

/// A port below the ephemeral ones, which the load takes for itself, that no other test of this process gets.
fn free_port() -> u16 {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 6_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap();
    (0..COUNT)
        .map(|_| FIRST + (spread + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT)
        .find(|port| std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok())
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Fails the test unless the run was carried out and its budget held. On a busy machine it may say that it could not have
/// seen every failure.
#[track_caller]
fn assert_held(output: &Output, report: &Value) {
    assert!(matches!(output.status.code(), Some(0 | 4)), "{}: {}", stderr(output), report["reasons"]);
    assert!(report["run"]["cut_short"].is_null(), "{}", report["run"]["cut_short"]);
}

#[tokio::test]
async fn replicas_are_rolled_without_an_engine() {
    let stage = Stage::new().await;
    let run = stage.run("serves", &["--replicas=2", "--rounds=1", "--budget=wrong_body==0"]);
    let (lives, output) = tokio::join!(stage.next_ones(4), run.end());
    let report = stage.report();
    assert_held(&output, &report);
    assert_eq!(report["environment"]["engine"], "processes of this machine");
    assert!(
        report["scenario"]["subject"].as_str().unwrap().starts_with("program "),
        "{}",
        report["scenario"]
    );
    assert!(report["scenario"]["image"].is_null());
    let restarts = report["restarts"].as_array().unwrap();
    assert_eq!(restarts.len(), 2);
    for restart in restarts {
        assert_eq!((&restart["exit_code"], &restart["killed"]), (&0.into(), &false.into()), "{restart}");
    }
    let told: Vec<&str> = events(&report, "server-a");
    assert_eq!(
        told,
        [
            "start_requested",
            "started",
            "ready",
            "terminate_requested",
            "signal_sent",
            "exited",
            "start_requested",
            "started",
            "ready",
            "terminate_requested",
            "signal_sent",
            "exited"
        ]
    );
    stage.assert_nothing_left(lives).await;
}

/// What the report tells of a replica, in order.
fn events<'a>(report: &'a Value, replica: &str) -> Vec<&'a str> {
    let events = report["events"].as_array().unwrap().iter().filter(|event| event["replica"] == replica);
    events.map(|event| event["event"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn replica_that_does_not_stop_is_killed_with_all_that_it_started() {
    let stage = Stage::new().await;
    let arguments = ["--replicas=1", "--rounds=1", "--stop-timeout=200ms", "--budget=wrong_body==0"];
    let run = stage.run("stubborn", &arguments);
    let (lives, output) = tokio::join!(stage.next_ones(4), run.end());
    let report = stage.report();
    assert_held(&output, &report);
    let restart = &report["restarts"][0];
    assert_eq!((&restart["exit_code"], &restart["killed"]), (&137.into(), &true.into()), "{restart}");
    assert_eq!(lives.iter().filter(|life| life.greeting.starts_with("lingers")).count(), 2);
    stage.assert_nothing_left(lives).await;
}

#[tokio::test]
async fn server_that_leaves_the_process_group_ends_with_its_replica_and_that_is_told() {
    let stage = Stage::new().await;
    let script = format!("setsid {} & wait", command(&[]));
    let wrapped = format!("--command=sh -c {}", shlex::try_quote(&script).unwrap());
    let arguments = ["--replicas=1", "--rounds=1", "--budget=wrong_body==0", "--ready=tcp", wrapped.as_str()];
    let run = stage.run("serves", &arguments);
    let (lives, output) = tokio::join!(stage.next_ones(2), run.end());
    let report = stage.report();
    assert_held(&output, &report);
    let restart = &report["restarts"][0];
    assert_eq!(restart["killed"], true, "the shell had ended, and hitless killed what it left: {restart}");
    stage.assert_nothing_left(lives).await;
}

#[tokio::test]
async fn replica_that_dies_on_its_own_ends_the_run_with_its_last_words() {
    let stage = Stage::new().await;
    let run = stage.run("mortal", &["--replicas=1", "--budget=wrong_body==0"]);
    let (life, output) = tokio::join!(stage.next(), run.end());
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let why = stage.report()["run"]["cut_short"].clone();
    assert_eq!((&why["reason"], &why["replica"]), (&"replica_died".into(), &"server-a".into()), "{why}");
    assert_eq!(why["code"], 3, "{why}");
    assert!(why["last_words"].to_string().contains("out of luck"), "{why}");
    stage.assert_nothing_left(vec![life]).await;
}

#[tokio::test]
async fn interrupted_run_leaves_no_process_and_keeps_what_it_saw() {
    for interrupt in [Signal::INT, Signal::TERM] {
        let stage = Stage::new().await;
        let run = stage.run("serves", &["--replicas=2", "--rounds=100"]);
        // Two that begin, and the second life of one of them.
        let lives = stage.next_ones(3).await;
        run.signal(interrupt);
        let output = run.end().await;
        assert!(matches!(output.status.code(), Some(1 | 4)), "{}", stderr(&output));
        let reasons = stage.report()["reasons"].to_string();
        assert!(reasons.contains("interrupted"), "{reasons}");
        stage.assert_nothing_left(lives).await;
    }
}

/// The files below a directory, with their content.
fn files_below(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: PathBuf| {
        if path.is_dir() { files_below(&path) } else { vec![(path.clone(), std::fs::read(path).unwrap())] }
    };
    entries.flat_map(read).collect()
}

#[tokio::test]
async fn secrets_stand_in_no_file_and_on_no_line_of_a_run() {
    const SECRET: &str = "s3cr3t-hunter2";
    let stage = Stage::new().await;
    let url = format!("--url=http://user:{SECRET}@127.0.0.1:{}/", stage.port);
    let (header, env) = (format!("--header=Authorization: Bearer {SECRET}"), format!("--env=TOKEN={SECRET}"));
    let mut arguments = vec!["--replicas=1", "--rounds=1", "--budget=failed<0", "--header-env=x-key=X_KEY"];
    arguments.extend([url.as_str(), &header, &env]);
    let mut command = stage.command("serves", &arguments);
    command.env("X_KEY", SECRET).env("GITHUB_ACTIONS", "true");
    let run = Run(command.spawn().unwrap());
    let (lives, output) = tokio::join!(stage.next_ones(2), run.end());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let files = files_below(stage.directory.path());
    assert!(files.iter().any(|(path, _)| path.ends_with("report.html")));
    let printed = [output.stdout, output.stderr].map(|bytes| (PathBuf::from("the terminal"), bytes));
    for (path, content) in files.into_iter().chain(printed) {
        let text = String::from_utf8_lossy(&content);
        assert!(!text.contains(SECRET), "{}: {text}", path.display());
    }
    let report = stage.report();
    assert_eq!(report["scenario"]["options"]["header"][0], "Authorization: (redacted)");
    assert_eq!(report["scenario"]["options"]["header-env"][0], "x-key=X_KEY");
    stage.assert_nothing_left(lives).await;
}

#[tokio::test]
async fn run_whose_stderr_nobody_reads_ends_at_a_signal_and_leaves_no_process() {
    for interrupt in [Signal::INT, Signal::TERM, Signal::HUP] {
        let stage = Stage::new().await;
        let mut command = stage.command("serves", &["--replicas=1", "--rounds=100"]);
        let mut child = command.spawn().unwrap();
        drop(child.stderr.take());
        let run = Run(child);
        let lives = stage.next_ones(2).await;
        run.signal(interrupt);
        let output = run.end().await;
        assert!(matches!(output.status.code(), Some(1 | 4)), "{interrupt:?}: {:?}", output.status);
        assert!(stage.report()["reasons"].to_string().contains("interrupted"));
        stage.assert_nothing_left(lives).await;
    }
}

#[tokio::test]
async fn what_was_asked_for_and_cannot_be_written_is_an_error() {
    let stage = Stage::new().await;
    let run = stage.run("serves", &["--replicas=1", "--rounds=1", "--budget=wrong_body==0"]);
    let (lives, _) = tokio::join!(stage.next_ones(2), run.end());
    let full = || Stdio::from(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let directory = stage.directory.path().to_str().unwrap();
    let mut command = hitless(&["report", directory, "--format=json"]);
    let output = command.stdout(full()).spawn().unwrap().wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).starts_with("error: failed to write to stdout: "), "{}", stderr(&output));
    for arguments in [&["report", directory][..], &["--help"], &["run", "--no-such-flag"]] {
        let mut command = hitless(arguments);
        let ended = command.stdout(full()).stderr(full()).status().await.unwrap();
        assert!(matches!(ended.code(), Some(2 | 3)), "{arguments:?}: {ended}");
    }
    stage.assert_nothing_left(lives).await;
}

#[tokio::test]
async fn file_that_cannot_be_written_costs_neither_the_verdict_nor_the_other_files() {
    let stage = Stage::new().await;
    // Nothing can be renamed onto a directory that is not empty.
    std::fs::create_dir_all(stage.directory.path().join("report.html/taken")).unwrap();
    let mut command = stage.command("serves", &["--replicas=1", "--rounds=1", "--budget=wrong_body==0"]);
    let run = Run(command.spawn().unwrap());
    let (lives, output) = tokio::join!(stage.next_ones(2), run.end());
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("report.html") && stderr(&output).contains("--report-dir"),
        "{}",
        stderr(&output)
    );
    assert_eq!(stage.report()["budgets"][0]["holds"], true);
    stage.assert_nothing_left(lives).await;
}

#[tokio::test]
async fn argument_that_is_no_utf_8_is_a_usage_error() {
    use std::os::unix::ffi::OsStrExt;
    let mut command = hitless(&["run", "--preset"]);
    let output = command.arg(std::ffi::OsStr::from_bytes(b"\xff")).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[tokio::test]
async fn clean_ends_what_a_killed_run_left_and_leaves_a_run_that_goes_on_alone() {
    let (killed, living) = (Stage::new().await, Stage::new().await);
    // Long before their first restart.
    let [run, goes_on] =
        [&killed, &living].map(|stage| stage.run("stubborn", &["--replicas=1", "--lead=5m"]));
    let (left, used) = (killed.next_ones(2).await, living.next_ones(2).await);
    run.signal(Signal::KILL);
    assert_eq!(run.end().await.status.code(), None);

    let cleaned = Run(hitless(&["clean"]).spawn().unwrap()).end().await;
    let said = String::from_utf8_lossy(&cleaned.stdout).into_owned();
    assert_eq!(cleaned.status.code(), Some(0), "{said}{}", stderr(&cleaned));
    assert_eq!(said.matches("removed process ").count(), 2, "{said}");
    assert!(said.contains("(server-a of run ") && said.contains("its run goes on"), "{said}");
    assert!(stderr(&cleaned).contains("no container was looked for"), "{}", stderr(&cleaned));
    killed.assert_nothing_left(left).await;
    goes_on.signal(Signal::INT);
    assert_eq!(goes_on.end().await.status.code(), Some(4));
    let reasons = living.report()["reasons"].to_string();
    assert!(reasons.contains("interrupted") && !reasons.contains("on its own"), "{reasons}");
    living.assert_nothing_left(used).await;
}

#[tokio::test]
async fn other_program_takes_the_place_of_the_first_and_gives_it_back_in_either_order() {
    for order in ["start-first", "stop-first"] {
        let stage = Stage::new().await;
        let replace = format!("--replace={}", command(&["next"]));
        let order_flag = format!("--order={order}");
        let arguments = ["--replicas=1", "--rounds=2", &replace, &order_flag, "--budget=wrong_body==0"];
        let run = stage.run("serves", &arguments);
        let (lives, output) = tokio::join!(stage.next_ones(3), run.end());
        assert_held(&output, &stage.report());
        let versions: Vec<&str> = lives.iter().map(|life| life.greeting.as_str()).collect();
        assert_eq!(versions, ["serves first", "serves next", "serves first"], "{order}");
        let successor = if order == "start-first" { "server-a.2".into() } else { Value::Null };
        assert_eq!(stage.report()["restarts"][0]["successor"], successor, "{order}");
        stage.assert_nothing_left(lives).await;
    }
}

#[tokio::test]
async fn program_that_is_not_there_is_named() {
    let url = format!("--url=http://127.0.0.1:{}/", free_port());
    let arguments = ["run", "--runtime=process", "--command=./no-such-shop --port 80", &url, "--quiet"];
    let directory = tempfile::tempdir().unwrap();
    let report = format!("--report-dir={}", directory.path().display());
    let output = Run(hitless(&arguments).arg(report).spawn().unwrap()).end().await;
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let told = stderr(&output);
    for word in ["./no-such-shop", "server-a", "--command"] {
        assert!(told.contains(word), "{told}");
    }
    assert_eq!(told.trim().lines().count(), 1, "{told}");
}

#[tokio::test]
async fn doctor_says_what_is_possible_without_an_engine() {
    let port = free_port().to_string();
    let output = Run(hitless(&["doctor", "--port", &port]).spawn().unwrap()).end().await;
    assert_eq!(output.status.code(), Some(3), "what a run does by default is not possible");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("--runtime process` needs none"), "{told}");
    assert!(told.contains("--runtime process needs no engine"), "{told}");
}
