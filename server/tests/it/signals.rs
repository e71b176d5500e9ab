//! Whose signals they are: the library in an application that handles its own.
//!
//! A signal is for a whole process, so each test runs the application in a child process: this very program, told by
//! [`ROLE`] to be it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::{Router, routing::get};
use hitless_server::{Event, Outcome, Preset, Server};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

/// Tells a child that it is the application.
const ROLE: &str = "HITLESS_TEST_APPLICATION";
const PATIENCE: Duration = Duration::from_secs(20);

fn is_application() -> bool {
    std::env::var_os(ROLE).is_some()
}

/// The application, killed when dropped.
struct Application {
    child: Child,
    lines: Receiver<String>,
}

impl Application {
    /// Runs a test of this program as an application.
    fn start(test: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args([&format!("signals::{test}"), "--exact", "--nocapture"])
            .env(ROLE, "1")
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let (sender, lines) = channel();
        let stdout = child.stdout.take().expect("a pipe");
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines.map(|line| sender.send(line)).find(Result::is_err)
        });
        Self { child, lines }
    }

    /// Waits for a line with these words, and returns what follows them: the test harness prints the test's name before
    /// the first line.
    fn wait_for(&mut self, words: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|error| panic!("no `{words}`: {error}"));
            if let Some((_, rest)) = line.split_once(words) {
                return rest.to_owned();
            }
        }
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args(["-s", signal, &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ask(addr: &str, path: &str) -> TcpStream {
    let mut client = TcpStream::connect(addr).expect("a connection");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    write!(client, "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").expect("a request");
    client
}

fn answer(mut client: TcpStream) -> String {
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn a_server_without_signals_leaves_them_to_the_application() {
    if is_application() {
        return serve_without_signals();
    }
    let mut application = Application::start("a_server_without_signals_leaves_them_to_the_application");
    let addr = application.wait_for("listening ");
    application.signal("TERM");
    application.wait_for("the application heard SIGTERM");
    assert!(answer(ask(&addr, "/")).ends_with("hello"));
    application.signal("INT");
    assert_eq!(application.wait_for("outcome "), "Drained");
}

#[tokio::main(flavor = "current_thread")]
async fn serve_without_signals() {
    let mut terminate = signal(SignalKind::terminate()).expect("a handler");
    let mut interrupt = signal(SignalKind::interrupt()).expect("a handler");
    let server = Server::new(([127, 0, 0, 1], 0))
        .preset(Preset::Graceful)
        .without_signals()
        .stop_when(async move { interrupt.recv().await.unwrap_or_default() })
        .on_event(|record| {
            if let Event::Listening { addr } = record.event {
                println!("listening {addr}");
            }
        });
    tokio::spawn(async move {
        terminate.recv().await;
        println!("the application heard SIGTERM");
    });
    let report = server.run(Router::new().route("/", get(async || "hello"))).await.expect("it starts");
    println!("outcome {:?}", report.outcome);
}

/// An application that stops its servers itself when it hears the signal that they hear too.
#[test]
fn a_signal_after_the_application_asked_to_stop_cuts_nothing() {
    if is_application() {
        return stop_and_wait_for_a_signal();
    }
    let mut application = Application::start("a_signal_after_the_application_asked_to_stop_cuts_nothing");
    let addr = application.wait_for("listening ");
    let client = ask(&addr, "/stop");
    application.wait_for("draining");
    application.signal("TERM");
    assert!(answer(client).ends_with("heard it"));
    assert_eq!(application.wait_for("outcome "), "Drained");
}

#[tokio::main(flavor = "current_thread")]
async fn stop_and_wait_for_a_signal() {
    let (stop, stopped) = oneshot::channel::<()>();
    let (heard, mut is_heard) = watch::channel(false);
    let server = Server::new(([127, 0, 0, 1], 0))
        .preset(Preset::Graceful)
        .stop_when(async { drop(stopped.await) })
        .on_event(move |record| match &record.event {
            Event::Listening { addr } => println!("listening {addr}"),
            Event::Draining { .. } => println!("draining"),
            Event::SignalReceived { signal } if signal == "SIGTERM" => drop(heard.send(true)),
            _ => {}
        });
    let stop = Arc::new(Mutex::new(Some(stop)));
    let handler = async move || {
        drop(stop.lock().expect("not poisoned").take());
        is_heard.wait_for(|is_heard| *is_heard).await.expect("the server runs");
        "heard it"
    };
    let report = server.run(Router::new().route("/stop", get(handler))).await.expect("it starts");
    assert_eq!(report.outcome, Outcome::Drained);
    println!("outcome {:?}", report.outcome);
}
