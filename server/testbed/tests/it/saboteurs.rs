//! Each saboteur does what its mode says and nothing else, seen over a raw connection, and its account agrees.
//!
//! No container and no HTTP library: what stands here holds without the harness, which is to be tested with it.

#![expect(clippy::unwrap_used, reason = "a step of a test that fails ends the test")]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;

/// No single wait in this file is longer.
const PATIENCE: Duration = Duration::from_secs(10);
const WHOLE: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 11\r\n\r\nhello world";
const LAST: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 11\r\nconnection: close\r\n\r\nhello world";

/// A saboteur's process, killed when the test is done with it.
struct Saboteur {
    process: Child,
    stdout: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Saboteur {
    /// Starts one on an address of its own, without waiting for anything.
    fn spawn(sabotage: &str, host: Ipv4Addr) -> Self {
        let address = SocketAddr::from((host, 18_080));
        let mut process = Command::new(env!("CARGO_BIN_EXE_saboteur"))
            .env("SABOTEUR", sabotage)
            .env("SABOTEUR_LISTEN", address.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        Self { process, stdout, address }
    }

    /// Starts one and waits until it listens. `host` is a loopback address that no other test here uses.
    fn listening(sabotage: &str, host: u8) -> Self {
        let mut saboteur = Self::spawn(sabotage, Ipv4Addr::new(127, 0, 77, host));
        saboteur.wait_for("listening");
        saboteur
    }

    /// Reads the log up to the first line that says that it did this.
    fn wait_for(&mut self, deed: &str) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.stdout.read_line(&mut line).unwrap() > 0, "the saboteur ended without `{deed}`");
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["saboteur"] == deed {
                return line;
            }
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends one request on a connection of its own and returns all that comes back until the server closes it.
    fn ask_once(&self) -> String {
        let mut stream = self.connect();
        ask(&mut stream, "/", "connection: close\r\n");
        read_to_end(&mut stream)
    }

    fn terminate(&self) {
        let status = Command::new("kill").arg(self.process.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Reads the closing account, `(requests, answered, sabotaged)`, and waits for the end.
    fn account(mut self) -> ((u64, u64, u64), ExitStatus) {
        let account = self.wait_for("account");
        let count = |name: &str| account[name].as_u64().unwrap();
        let counts = (count("requests"), count("answered"), count("sabotaged"));
        (counts, self.process.wait().unwrap())
    }
}

impl Drop for Saboteur {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn ask(stream: &mut TcpStream, target: &str, fields: &str) {
    write!(stream, "GET {target} HTTP/1.1\r\nhost: test\r\n{fields}\r\n").unwrap();
}

fn read_to_end(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Reads as much as `expected` is long, and compares.
fn expect(stream: &mut TcpStream, expected: &str) {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), expected);
}

#[test]
fn none_keeps_a_connection_alive_and_answers_what_is_in_flight_at_the_signal() {
    let mut saboteur = Saboteur::listening("none", 1);
    let mut stream = saboteur.connect();
    for _ in 0..3 {
        ask(&mut stream, "/", "");
        expect(&mut stream, WHOLE);
    }
    // In flight for longer than the lame-duck period, so that the listener closes meanwhile.
    ask(&mut stream, "/?delay=1500ms", "");
    assert_eq!(saboteur.ask_once(), LAST);
    saboteur.terminate();
    saboteur.wait_for("listener_closed");
    assert_eq!(TcpStream::connect(saboteur.address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(read_to_end(&mut stream), LAST);
    let (counts, status) = saboteur.account();
    assert_eq!((counts, status.code()), ((5, 5, 0), Some(0)));
}

#[test]
fn never_ready_lives_and_never_listens() {
    let mut saboteur = Saboteur::spawn("never-ready", Ipv4Addr::new(127, 0, 77, 2));
    saboteur.wait_for("starting");
    assert_eq!(TcpStream::connect(saboteur.address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    saboteur.terminate();
    saboteur.wait_for("signal_received");
    assert_eq!(saboteur.process.wait().unwrap().code(), Some(0));
}

#[test]
fn ignores_sigterm_goes_on_serving_until_it_is_killed() {
    let mut saboteur = Saboteur::listening("ignores-sigterm", 3);
    saboteur.terminate();
    saboteur.wait_for("signal_received");
    assert_eq!(saboteur.ask_once(), LAST);
    saboteur.process.kill().unwrap();
    assert_eq!(saboteur.process.wait().unwrap().signal(), Some(9));
}

#[test]
fn dies_at_the_request_that_it_was_told() {
    let saboteur = Saboteur::listening("dies:requests=3", 4);
    assert_eq!((saboteur.ask_once().as_str(), saboteur.ask_once().as_str()), (LAST, LAST));
    assert_eq!(saboteur.ask_once(), "");
    let (counts, status) = saboteur.account();
    assert_eq!((counts, status.code()), ((3, 2, 1), Some(1)));
}

#[test]
fn dies_on_its_own_after_its_first_request() {
    let saboteur = Saboteur::listening("dies:after=50ms", 5);
    assert_eq!(saboteur.ask_once(), LAST);
    let (counts, status) = saboteur.account();
    assert_eq!((counts, status.code()), ((1, 1, 0), Some(1)));
}

#[test]
fn exits_one_leaves_cleanly_but_for_its_exit_code() {
    let saboteur = Saboteur::listening("exits-one", 6);
    assert_eq!(saboteur.ask_once(), LAST);
    saboteur.terminate();
    let (counts, status) = saboteur.account();
    assert_eq!((counts, status.code()), ((1, 1, 0), Some(1)));
}

#[test]
fn drops_after_reading_closes_one_in_n_without_a_byte() {
    let saboteur = Saboteur::listening("drops-after-reading:every=3", 7);
    let answers: Vec<String> = (0..6).map(|_| saboteur.ask_once()).collect();
    assert_eq!(answers, [LAST, LAST, "", LAST, LAST, ""]);
    saboteur.terminate();
    assert_eq!(saboteur.account().0, (6, 4, 2));
}

#[test]
fn closes_idle_closes_without_having_said_so() {
    let saboteur = Saboteur::listening("closes-idle", 8);
    let mut stream = saboteur.connect();
    ask(&mut stream, "/", "");
    assert_eq!(read_to_end(&mut stream), WHOLE);
    saboteur.terminate();
    assert_eq!(saboteur.account().0, (1, 1, 1));
}

#[test]
fn half_body_sends_less_than_it_promised() {
    let saboteur = Saboteur::listening("half-body:every=1", 9);
    assert_eq!(saboteur.ask_once(), LAST.replace(" world", ""));
    saboteur.terminate();
    assert_eq!(saboteur.account().0, (1, 0, 1));
}

#[test]
fn wrong_body_has_the_right_length() {
    let saboteur = Saboteur::listening("wrong-body:every=1", 10);
    assert_eq!(saboteur.ask_once(), LAST.replace("world", "there"));
    saboteur.terminate();
    assert_eq!(saboteur.account().0, (1, 0, 1));
}

#[test]
fn swaps_answers_answers_with_what_the_request_before_called_itself() {
    let saboteur = Saboteur::listening("swaps-answers:every=2", 15);
    let mut stream = saboteur.connect();
    for (id, repeated) in [("a", "a"), ("b", "a"), ("c", "c")] {
        ask(&mut stream, "/", &format!("x-request-id: {id}\r\n"));
        let head = WHOLE.replace("\r\n\r\n", &format!("\r\nx-request-id: {repeated}\r\n\r\n"));
        expect(&mut stream, &head);
    }
    saboteur.terminate();
    drop(stream);
    assert_eq!(saboteur.account().0, (3, 2, 1));
}

#[test]
fn unavailable_while_draining_answers_503_after_the_signal_and_not_before() {
    let mut saboteur = Saboteur::listening("unavailable-while-draining", 11);
    let mut stream = saboteur.connect();
    ask(&mut stream, "/", "");
    expect(&mut stream, WHOLE);
    saboteur.terminate();
    saboteur.wait_for("signal_received");
    ask(&mut stream, "/", "");
    assert!(read_to_end(&mut stream).starts_with("HTTP/1.1 503 "));
    assert_eq!(saboteur.account().0, (2, 1, 1));
}

#[test]
fn never_answers_holds_the_connection_and_says_nothing() {
    let mut saboteur = Saboteur::listening("never-answers:every=1", 12);
    let mut stream = saboteur.connect();
    ask(&mut stream, "/", "");
    saboteur.wait_for("sabotaged");
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    saboteur.terminate();
    assert_eq!(saboteur.account().0, (1, 0, 1));
}

#[test]
fn drops_at_sigterm_loses_only_what_arrives_in_its_window() {
    let mut saboteur = Saboteur::listening("drops-at-sigterm:within=60s", 13);
    assert_eq!(saboteur.ask_once(), LAST);
    let mut late = saboteur.connect();
    ask(&mut late, "/", "");
    expect(&mut late, WHOLE);
    saboteur.terminate();
    saboteur.wait_for("signal_received");
    ask(&mut late, "/", "");
    assert_eq!(read_to_end(&mut late), "");
    assert_eq!(saboteur.account().0, (3, 2, 1));
}

#[test]
fn answers_twice_sends_one_answer_too_many() {
    let saboteur = Saboteur::listening("answers-twice:every=1", 14);
    assert_eq!(saboteur.ask_once(), format!("{LAST}{LAST}"));
    saboteur.terminate();
    assert_eq!(saboteur.account().0, (1, 1, 1));
}

#[test]
fn a_variable_that_makes_no_sense_is_one_line_and_exit_code_2() {
    let output = Command::new(env!("CARGO_BIN_EXE_saboteur")).env("SABOTEUR", "sings").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "saboteur: SABOTEUR: `sings` names no mode of the saboteur\n"
    );
}

#[test]
fn listens_late_is_not_there_before_its_time_and_behaves_afterwards() {
    let mut saboteur = Saboteur::spawn("listens-late:by=200ms", Ipv4Addr::new(127, 0, 77, 40));
    let at = |line: &Value| line["at_ns"].as_u64().unwrap();
    let (starting, listening) = (saboteur.wait_for("starting"), saboteur.wait_for("listening"));
    assert!(at(&listening) - at(&starting) >= 200_000_000, "{starting} {listening}");
    assert!(saboteur.ask_once().ends_with("hello world"));
    saboteur.terminate();
    let (counts, status) = saboteur.account();
    assert_eq!((counts, status.code()), ((1, 1, 0), Some(0)));
}
