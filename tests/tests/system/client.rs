//! Clients that hide nothing: a raw connection, and curl, the witness of the seed's story.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::lab::{Lab, PATIENCE};

/// One request on a connection of its own, whose answer is still to be read.
pub(crate) struct InFlight(TcpStream);

impl InFlight {
    /// Sends a request, which has to take a while, and returns when the server has read it.
    pub(crate) async fn begin(lab: &Lab, target: &str) -> Self {
        let sent = Self::send(lab, target).await;
        wait_until_read(lab.port, Some(sent.0.local_addr().unwrap().port())).await;
        sent
    }

    async fn send(lab: &Lab, target: &str) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", lab.port)).await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        Self(stream)
    }

    /// Everything that comes back until the server closes the connection.
    pub(crate) async fn answer(mut self) -> io::Result<String> {
        let mut text = String::new();
        let read = self.0.read_to_string(&mut text);
        tokio::time::timeout(PATIENCE, read).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))?;
        Ok(text)
    }
}

/// One request on a connection of its own, and everything that comes back.
pub(crate) async fn ask(lab: &Lab, target: &str) -> io::Result<String> {
    InFlight::send(lab, target).await.answer().await
}

/// Whether a new connection is refused at this moment.
pub(crate) async fn is_refused(lab: &Lab) -> bool {
    let connected = TcpStream::connect(("127.0.0.1", lab.port)).await;
    connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// A running curl.
pub(crate) struct Curl {
    process: Child,
    /// What it says about its connection (`--verbose`), as far as it was read.
    stderr: BufReader<tokio::process::ChildStderr>,
    said: String,
}

/// What curl came to.
pub(crate) struct CurlEnd {
    /// 0, 7 for "connection refused", 52 for "empty reply from server", 56 for a reset.
    pub(crate) code: Option<i32>,
    pub(crate) body: String,
    /// What a person sees.
    pub(crate) message: String,
}

impl Curl {
    /// Starts one; nothing is known of it yet.
    pub(crate) fn start(lab: &Lab, target: &str) -> Self {
        Self::at(lab.port, target)
    }

    /// The same, where the lab is out of reach.
    pub(crate) fn at(port: u16, target: &str) -> Self {
        let mut process = Command::new("curl")
            .args(["--silent", "--show-error", "--verbose", "--noproxy", "*", "--max-time", "30"])
            .arg(format!("http://127.0.0.1:{port}{target}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run curl: {error}"));
        let stderr = BufReader::new(process.stderr.take().unwrap());
        Self { process, stderr, said: String::new() }
    }

    /// Starts one, and returns when the server has read its request.
    pub(crate) async fn in_flight(lab: &Lab, target: &str) -> Self {
        let mut curl = Self::start(lab, target);
        // curl shows a request when it has sent it.
        while !curl.said.contains("> GET ") {
            let read = curl.stderr.read_line(&mut curl.said).await.unwrap();
            assert!(read > 0, "curl ended before it sent a request: {}", curl.said);
        }
        wait_until_read(lab.port, None).await;
        curl
    }

    /// Waits for its end.
    pub(crate) async fn end(mut self) -> CurlEnd {
        let mut body = String::new();
        let mut stdout = self.process.stdout.take().unwrap();
        stdout.read_to_string(&mut body).await.unwrap();
        self.stderr.read_to_string(&mut self.said).await.unwrap();
        let status: ExitStatus = self.process.wait().await.unwrap();
        let message = self.said.lines().rev().find(|line| line.starts_with("curl: ")).unwrap_or_default();
        CurlEnd { code: status.code(), body, message: message.to_owned() }
    }
}

/// Waits until the server side of one connection, or of every one, has been accepted and has nothing left to read.
///
/// On the loopback a byte is in the other side's receive queue when `write` returns, so an empty queue means that the
/// server took it. `/proc/net/tcp` shows the queue, and inode 0 for a connection that nobody has accepted yet.
async fn wait_until_read(server_port: u16, client_port: Option<u16>) {
    let wait = async {
        loop {
            let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
            let mut connections = table
                .lines()
                .skip(1)
                .filter_map(Connection::parse)
                .filter(|connection| connection.local_port == server_port)
                .filter(|connection| client_port.is_none_or(|port| connection.remote_port == port))
                .peekable();
            if connections.peek().is_some()
                && connections.all(|connection| connection.is_accepted && connection.unread == 0)
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "no server on port {server_port} had a request in flight in {PATIENCE:?}");
}

/// An established connection, seen from one of its ends.
struct Connection {
    local_port: u16,
    remote_port: u16,
    unread: u32,
    is_accepted: bool,
}

impl Connection {
    /// A line of `/proc/net/tcp` (proc(5), and `Documentation/networking/proc_net_tcp.rst` of the kernel).
    fn parse(line: &str) -> Option<Self> {
        const ESTABLISHED: &str = "01";
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let port = |address: &str| u16::from_str_radix(address.split_once(':')?.1, 16).ok();
        let [_, local, remote, state, queues, _, _, _, _, inode, ..] = fields[..] else { return None };
        if state != ESTABLISHED {
            return None;
        }
        Some(Self {
            local_port: port(local)?,
            remote_port: port(remote)?,
            unread: u32::from_str_radix(queues.split_once(':')?.1, 16).ok()?,
            is_accepted: inode != "0",
        })
    }
}
