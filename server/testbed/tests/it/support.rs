//! A replica as a child process, its events, and a client that sees every byte.
//!
//! Nothing here sleeps to synchronise: a test waits for an event that the replica logs, or for bytes.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(unreachable_pub, reason = "shared by several test programs, public to each")]

#[path = "../../../tests/it/support/http2.rs"]
pub mod http2;
pub mod peer;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a test waits for anything before it calls it missing.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What an upload is answered.
pub const UPLOADED: &str = "6 85944171f73967e8\n";

/// A running replica; killed when dropped.
pub struct Replica {
    child: Child,
    lines: Receiver<Value>,
    seen: Vec<Value>,
    pub name: String,
    pub addr: SocketAddr,
}

/// A name that no other test uses at the same time.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The binary, with an environment of its own.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hitless-server"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HITLESS_")) {
        command.env_remove(name);
    }
    command
}

/// Runs the binary to its end.
pub fn run(args: &[&str]) -> Output {
    command().args(args).output().expect("the binary runs")
}

impl Replica {
    /// Starts a replica and waits until it is ready.
    pub fn start(args: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", args)
    }

    /// Starts a replica at an address and waits until it is ready.
    pub fn start_at(listen: &str, args: &[&str]) -> Self {
        Self::start_named(&unique("replica"), listen, args)
    }

    /// Starts a replica of a certain name.
    pub fn start_named(name: &str, listen: &str, args: &[&str]) -> Self {
        let mut replica = Self::launch(name, listen, args);
        let listening = replica.wait_for("listening");
        replica.addr = listening["addr"].as_str().expect("an address").parse().expect("an address");
        replica.wait_for("ready");
        replica
    }

    /// Starts a replica and waits for nothing.
    pub fn launch(name: &str, listen: &str, args: &[&str]) -> Self {
        let mut child = command()
            .args(["--name", name, "--listen", listen])
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let (sender, lines) = channel();
        let stdout = child.stdout.take().expect("a pipe");
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { child, lines, seen: Vec::new(), name: name.to_owned(), addr }
    }

    /// Waits for the next event of that name.
    pub fn wait_for(&mut self, event: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line["event"] == event {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no event `{event}` in time after {:#?}", self.seen),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("{} ended without the event `{event}` after {:#?}", self.name, self.seen)
                }
            }
        }
    }

    /// Names of the events so far.
    pub fn events(&self) -> Vec<&str> {
        self.seen.iter().filter_map(|line| line["event"].as_str()).collect()
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args(["-s", signal, &self.child.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(status.success());
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops the process in its tracks, as a hang would, until [`thaw`](Self::thaw).
    pub fn freeze(&self) {
        self.signal("STOP");
        let deadline = Instant::now() + PATIENCE;
        let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.expect("a task").path().join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_none_or(|rest| rest.starts_with('T') || rest.is_empty())
        };
        let tasks = format!("/proc/{}/task", self.pid());
        while !std::fs::read_dir(&tasks).expect("a process").all(is_stopped) {
            assert!(Instant::now() < deadline, "{} does not stop", self.name);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn thaw(&self) {
        self.signal("CONT");
    }

    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Waits for the process's end: its exit code and its `exit` event.
    ///
    /// Success must be a drain: a replica that waited for its drain timeout and then found nothing to cut ends with 0 too.
    pub fn wait(&mut self) -> (i32, Value) {
        let exit = self.wait_for("exit");
        let code = self.wait_for_end();
        assert!(
            code != 0 || self.events().contains(&"drained"),
            "{} did not drain: {:#?}",
            self.name,
            self.seen
        );
        (code, exit)
    }

    /// Waits for the process's end.
    pub fn wait_for_end(&mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < deadline, "{} did not end", self.name);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// A new connection to the replica's port.
    pub fn connect(&self) -> Client {
        Client::connect(self.addr).expect("a connection")
    }

    /// Waits until the replica's own account says so.
    pub fn wait_until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let account = self.account();
            if is_so(&account) {
                return account;
            }
            assert!(Instant::now() < deadline, "never {what}: {account:#}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until so many requests are in flight.
    pub fn wait_until_in_flight(&self, count: u64) {
        self.wait_until("in flight", |account| account["in_flight"] == count);
    }

    /// The replica's own account, from its admin listener.
    pub fn account(&self) -> Value {
        let (_, body) = self.ask("/account");
        serde_json::from_str(&body).expect("an account")
    }

    /// Asks the replica's admin listener.
    pub fn ask(&self, path: &str) -> (u16, String) {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("hitless-server.{}.admin", self.name);
        let name = std::os::unix::net::SocketAddr::from_abstract_name(name).expect("a name");
        let mut stream = std::os::unix::net::UnixStream::connect_addr(&name).expect("an admin listener");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.split(' ').nth(1).expect("a status").parse().expect("a status"), body.to_owned())
    }

    /// `hitless-server health` for this replica: exit code and line.
    pub fn health(&self) -> (i32, String) {
        let output = run(&["health", "--name", &self.name]);
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection that `replica` serves (the kernel chooses).
pub fn connection_to(replica: &Replica) -> Client {
    for _ in 0..1000 {
        let mut client = replica.connect();
        if client.get("/").replica() == replica.name {
            return client;
        }
    }
    panic!("never connected to {}", replica.name);
}

/// One TCP connection that speaks HTTP/1.1 by hand.
pub struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// A whole response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    pub fn replica(&self) -> &str {
        self.header("x-replica").expect("every answer names its replica")
    }

    pub fn is_last(&self) -> bool {
        self.header("connection") == Some("close")
    }
}

/// What came instead of a response.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// The connection ended before the first byte: `curl: (52)`.
    Empty,
    /// The connection ended within the response.
    Cut,
    /// The connection was reset: `curl: (56)`.
    Reset,
}

impl Client {
    pub fn connect(addr: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, unread: Vec::new() })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr().expect("an address")
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the request is sent");
    }

    /// Waits until the server has read all that was sent: until the receive queue of its end of the connection, as
    /// proc(5) tells it, is empty.
    pub fn wait_until_read(&self) {
        let hex = |addr: SocketAddr| match addr {
            SocketAddr::V4(addr) => {
                format!("{:08X}:{:04X}", u32::from_ne_bytes(addr.ip().octets()), addr.port())
            }
            SocketAddr::V6(_) => panic!("tests use IPv4"),
        };
        let server = hex(self.stream.peer_addr().expect("an address"));
        let client = hex(self.local_addr());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let table = std::fs::read_to_string("/proc/net/tcp").expect("the table of connections");
            let is_read =
                table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|fields| {
                    fields.get(1) == Some(&server.as_str())
                        && fields.get(2) == Some(&client.as_str())
                        && fields.get(4).is_some_and(|queues| queues.ends_with(":00000000"))
                });
            if is_read {
                return;
            }
            assert!(Instant::now() < deadline, "the server does not read");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Begins a request that is in flight until the test [ends](Self::end_upload) it.
    pub fn begin_upload(&mut self) {
        self.send("POST /upload HTTP/1.1\r\nhost: test\r\ncontent-length: 6\r\n\r\nfoo");
    }

    /// Sends the rest of it; the answer is [`UPLOADED`].
    pub fn end_upload(&mut self) {
        self.send("bar");
    }

    /// Sends a GET request and does not wait for its answer.
    pub fn ask(&mut self, path: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"));
    }

    pub fn get(&mut self, path: &str) -> Answer {
        self.ask(path);
        self.answer()
    }

    pub fn answer(&mut self) -> Answer {
        self.try_answer().expect("an answer")
    }

    /// Reads one response of known length.
    pub fn try_answer(&mut self) -> Result<Answer, Failure> {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            self.read_more()?;
        };
        let head = String::from_utf8_lossy(&self.unread[..end]).into_owned();
        self.unread.drain(..end);
        let status = head.split(' ').nth(1).expect("a status").parse().expect("a status");
        let mut answer = Answer { status, head, body: Vec::new() };
        let length: usize =
            answer.header("content-length").map_or(0, |length| length.parse().expect("a length"));
        while self.unread.len() < length {
            self.read_more()
                .map_err(|failure| if failure == Failure::Empty { Failure::Cut } else { failure })?;
        }
        answer.body = self.unread.drain(..length).collect();
        Ok(answer)
    }

    /// Reads a response of unknown length to its end, chunk sizes and all.
    pub fn read_chunked(&mut self) -> String {
        let is_end = |unread: &[u8]| unread.windows(5).position(|window| window == b"0\r\n\r\n");
        let end = loop {
            if let Some(at) = is_end(&self.unread) {
                break at + 5;
            }
            self.read_more().expect("the rest of the response");
        };
        String::from_utf8_lossy(&self.unread.drain(..end).collect::<Vec<_>>()).into_owned()
    }

    /// Waits until the server has closed the connection; fails if anything else comes first.
    pub fn wait_until_closed(&mut self) {
        assert_eq!(self.read_more(), Err(Failure::Empty));
    }

    fn read_more(&mut self) -> Result<(), Failure> {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) if self.unread.is_empty() => Err(Failure::Empty),
            Ok(0) => Err(Failure::Cut),
            Ok(length) => {
                self.unread.extend_from_slice(&chunk[..length]);
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Err(Failure::Reset),
            Err(error) => panic!("no answer: {error}"),
        }
    }
}

/// Whether a new connection to `addr` is refused.
pub fn is_refused(addr: SocketAddr) -> bool {
    TcpStream::connect(addr).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}
