//! This very replica's health, readiness, metrics and account, on a listener of its own: the main port is shared with
//! siblings, so an answer from there would be anybody's.
//!
//! It answers from the start to the end of [`Server::run`](crate::Server::run), through the whole drain. It tells
//! nothing but counts, so the abstract socket, which has no permissions (unix(7)), needs none. Nor
//! has it an owner: whoever shares the network namespace can take it first, and then the replica does not start. Where such
//! users are not trusted, use a path (`unix:/PATH`) in a directory that only the service's user can enter.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{self, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use crate::lifecycle::State;
use crate::replica::Replica;

/// Admin connections at once.
const MAX_CONNECTIONS: usize = 32;

/// How long an admin connection may live.
const PATIENCE: Duration = Duration::from_secs(5);

/// The most that is read of a health answer.
const MAX_ANSWER: u64 = 4096;

/// Where a replica answers questions about itself: `unix:@NAME` (abstract), `unix:/PATH` or `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdminAddress {
    /// An abstract unix socket: lives in the network namespace, leaves no file (unix(7)).
    Abstract(String),
    /// A unix socket in the file system.
    Path(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
}

impl AdminAddress {
    /// The address that a replica of this name has by default.
    #[must_use]
    pub fn of_replica(name: &str) -> Self {
        Self::Abstract(format!("hitless-server.{name}.admin"))
    }
}

/// An admin address that cannot be read.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{0}` is not an admin address: use unix:@NAME, unix:/PATH or HOST:PORT")]
pub struct BadAdminAddress(String);

impl FromStr for AdminAddress {
    type Err = BadAdminAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadAdminAddress(text.to_owned());
        let Some(name) = text.strip_prefix("unix:") else {
            return text.parse().map(Self::Tcp).map_err(|_| bad());
        };
        match name.strip_prefix('@') {
            // sun_path holds 108 bytes, of which an abstract name's leading NUL is one.
            Some(name) if (1..=107).contains(&name.len()) && !name.contains('\0') => {
                Ok(Self::Abstract(name.to_owned()))
            }
            None if name.starts_with('/') && name.len() < 108 => Ok(Self::Path(name.into())),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Abstract(name) => write!(f, "unix:@{name}"),
            Self::Path(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(addr) => addr.fmt(f),
        }
    }
}

/// The running admin listener; it goes down with this value.
#[derive(Debug)]
pub(crate) struct Admin {
    task: AbortHandle,
    path: Option<PathBuf>,
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(path) = &self.path {
            // Best effort: a file left behind is replaced at the next start.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Binds `addr` and answers for `replica`.
pub(crate) fn serve(addr: &AdminAddress, replica: Arc<Replica>) -> io::Result<Admin> {
    let router = routes(replica);
    let (task, path) = match addr {
        AdminAddress::Tcp(addr) => {
            let listener = net::TcpListener::bind(addr)?;
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            (tokio::spawn(async move { accept(|| listener.accept(), router).await }), None)
        }
        AdminAddress::Abstract(name) => {
            let name = unix::SocketAddr::from_abstract_name(name)?;
            let listener = from_unix(unix::UnixListener::bind_addr(&name)?)?;
            (tokio::spawn(async move { accept(|| listener.accept(), router).await }), None)
        }
        AdminAddress::Path(path) => {
            remove_stale(path)?;
            let listener = from_unix(unix::UnixListener::bind(path)?)?;
            (tokio::spawn(async move { accept(|| listener.accept(), router).await }), Some(path.clone()))
        }
    };
    Ok(Admin { task: task.abort_handle(), path })
}

fn from_unix(listener: unix::UnixListener) -> io::Result<UnixListener> {
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Removes the socket file of a dead process. One that still answers stays, and binding it will fail.
fn remove_stale(path: &Path) -> io::Result<()> {
    match unix::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

async fn accept<S, A, F, N>(mut next: N, router: Router)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    F: Future<Output = io::Result<(S, A)>>,
    N: FnMut() -> F,
{
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // The semaphore is never closed.
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        let Ok((stream, _)) = next().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false);
            let served = builder.serve_connection(TokioIo::new(stream), service);
            // A client that went away or dawdled is its own problem.
            let _ = tokio::time::timeout(PATIENCE, served).await;
            drop(permit);
        });
    }
}

fn routes(replica: Arc<Replica>) -> Router {
    Router::new()
        .route("/healthz", get(async || "live\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/account", get(account))
        .with_state(replica)
}

async fn readyz(Shared(replica): Shared<Arc<Replica>>) -> impl IntoResponse {
    let state = replica.lifecycle.state();
    if replica.is_ready() {
        return (StatusCode::OK, format!("{state}\n"));
    }
    // At its limit on connections it would let new ones wait.
    let word = if state == State::Ready { "full" } else { state.name() };
    (StatusCode::SERVICE_UNAVAILABLE, format!("{word}\n"))
}

async fn metrics(Shared(replica): Shared<Arc<Replica>>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], replica.account(0).to_open_metrics(&replica.name))
}

async fn account(Shared(replica): Shared<Arc<Replica>>) -> impl IntoResponse {
    // Numbers and plain names always become JSON.
    let json = serde_json::to_string(&replica.account(0)).unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], json)
}

/// What a replica says about its readiness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Whether it may receive new traffic.
    pub is_ready: bool,
    /// The state in its own words.
    pub state: String,
}

/// Asks the replica at `addr` whether it is ready. Blocking, without a runtime: cheap enough for a health check that a
/// container engine runs every second.
///
/// # Errors
///
/// If nobody listens there, or what answers within `timeout` is not a replica.
pub fn ask_ready(addr: &AdminAddress, timeout: Duration) -> io::Result<Readiness> {
    match addr {
        AdminAddress::Abstract(name) => {
            ask_unix(&SocketAddrUnix::new_abstract_name(name.as_bytes())?, timeout)
        }
        AdminAddress::Path(path) => ask_unix(&SocketAddrUnix::new(path)?, timeout),
        AdminAddress::Tcp(addr) => {
            let stream = net::TcpStream::connect_timeout(addr, timeout)?;
            stream.set_read_timeout(Some(timeout))?;
            stream.set_write_timeout(Some(timeout))?;
            ask(stream)
        }
    }
}

fn ask_unix(addr: &SocketAddrUnix, timeout: Duration) -> io::Result<Readiness> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // The time to send is also the time that connect(2) waits for room in the backlog (socket(7)).
    set_socket_timeout(&socket, Timeout::Send, Some(timeout))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(timeout))?;
    connect(&socket, addr)?;
    ask(unix::UnixStream::from(socket))
}

fn ask(mut stream: impl Read + Write) -> io::Result<Readiness> {
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    parse_readiness(&answer)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an answer of a replica"))
}

fn parse_readiness(answer: &[u8]) -> Option<Readiness> {
    let answer = std::str::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?;
    let state = body.trim();
    let is_ready = match status {
        "200" => true,
        "503" => false,
        _ => return None,
    };
    let is_word = !state.is_empty() && state.bytes().all(|byte| byte.is_ascii_lowercase());
    is_word.then(|| Readiness { is_ready, state: state.to_owned() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_read_as_they_are_written() {
        for text in ["unix:@a.admin", "unix:/run/a.sock", "127.0.0.1:9000", "[::1]:9000"] {
            assert_eq!(text.parse::<AdminAddress>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_replica_that_accepts_no_question_is_not_waited_for() {
        let name = format!("hitless-test.{}.full", std::process::id());
        let addr = SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap();
        let socket = |flags| socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        let listener = socket(SocketFlags::CLOEXEC);
        rustix::net::bind(&listener, &addr).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let mut waiting = Vec::new();
        loop {
            let client = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
            if connect(&client, &addr).is_err() {
                break;
            }
            waiting.push(client);
        }
        let asked = ask_ready(&AdminAddress::Abstract(name), Duration::from_millis(20));
        assert_eq!(asked.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn what_is_no_address_is_said_so() {
        let long = format!("unix:@{}", "x".repeat(108));
        for text in ["", "unix:", "unix:@", "unix:relative", "localhost", "8080", long.as_str()] {
            let error = text.parse::<AdminAddress>().unwrap_err().to_string();
            assert!(error.contains("unix:@NAME"), "{text}: {error}");
        }
    }

    #[test]
    fn readiness_is_read_from_an_answer() {
        let ready = parse_readiness(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n").unwrap();
        assert_eq!(ready, Readiness { is_ready: true, state: "ready".into() });
        let draining = parse_readiness(b"HTTP/1.1 503 Service Unavailable\r\n\r\ndraining\n").unwrap();
        assert_eq!(draining, Readiness { is_ready: false, state: "draining".into() });
    }

    proptest! {
        #[test]
        fn garbage_is_never_ready(answer in proptest::collection::vec(any::<u8>(), 0..256)) {
            prop_assert_eq!(parse_readiness(&answer), None);
        }
    }
}
