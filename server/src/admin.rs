//! This very replica's health, readiness, metrics and account, on a listener of its own: the main port is shared with
//! siblings, so an answer from there would be anybody's.
//!
//! It answers from the start to the end of [`Server::run`](crate::Server::run), through the whole drain. It tells
//! nothing but counts, so the abstract socket, which has no permissions (unix(7)), needs none.
//!
//! Any user of the network namespace can take an abstract name first. Then the replica serves without an admin listener,
//! reports [`Event::AdminUnavailable`], and tries again every [`RETRY`]. Where such users are not trusted, use a path
//! (`unix:/PATH`) in a directory that only the service's user can enter. Of the connections to a unix socket, other users
//! can hold half at most.

pub(crate) mod address;
pub(crate) mod health;

use std::io;
use std::net;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use self::address::AdminAddress;
use crate::event::Event;
use crate::lifecycle::State;
use crate::replica::Replica;

/// Admin connections at once.
const MAX_CONNECTIONS: usize = 32;

/// Those of other users among them; the rest is reserved for the replica's own user and root.
const MAX_STRANGERS: usize = MAX_CONNECTIONS / 2;

/// How long an admin connection may live.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often a taken address is tried again. No event tells that it is free.
const RETRY: Duration = Duration::from_millis(500);

/// The admin listener, or the attempts to get one; it goes down with this value.
#[derive(Debug)]
pub(crate) struct Admin {
    task: AbortHandle,
    /// The socket's file, once it is bound.
    file: Arc<OnceLock<PathBuf>>,
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(path) = self.file.get() {
            // Best effort: a file left behind is replaced at the next start.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Binds `addr` and answers for `replica`. If another process holds the address, this is reported as an event, and the
/// address is tried again until the replica ends.
///
/// # Errors
///
/// Every other reason why it cannot be bound: a mistake in the configuration, which time does not mend.
pub(crate) fn serve(addr: AdminAddress, replica: Arc<Replica>) -> io::Result<Admin> {
    let file = Arc::new(OnceLock::new());
    let task = match bind(&addr, &file) {
        Ok(listener) => tokio::spawn(listener.serve(routes(replica))),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let unavailable = Event::AdminUnavailable { addr: addr.to_string(), error: error.to_string() };
            replica.observer.emit(unavailable);
            let file = Arc::clone(&file);
            tokio::spawn(async move {
                let listener = loop {
                    tokio::time::sleep(RETRY).await;
                    if let Ok(listener) = bind(&addr, &file) {
                        break listener;
                    }
                };
                replica.observer.emit(Event::AdminListening { addr: addr.to_string() });
                listener.serve(routes(replica)).await;
            })
        }
        Err(error) => return Err(error),
    };
    Ok(Admin { task: task.abort_handle(), file })
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    async fn serve(self, router: Router) {
        match self {
            Self::Tcp(listener) => accept(|| listener.accept(), |_| true, router).await,
            Self::Unix(listener) => accept(|| listener.accept(), is_of_own_user, router).await,
        }
    }
}

/// Whether the client runs as the replica's own user, or as root.
fn is_of_own_user(client: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    client.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

fn bind(addr: &AdminAddress, file: &OnceLock<PathBuf>) -> io::Result<Listener> {
    match addr {
        AdminAddress::Tcp(addr) => {
            let listener = net::TcpListener::bind(addr)?;
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener).map(Listener::Tcp)
        }
        AdminAddress::Abstract(name) => {
            let name = unix::SocketAddr::from_abstract_name(name)?;
            from_unix(unix::UnixListener::bind_addr(&name)?)
        }
        AdminAddress::Path(path) => {
            remove_stale(path)?;
            let listener = unix::UnixListener::bind(path)?;
            // Bound once: whoever binds stops trying.
            let _ = file.set(path.clone());
            from_unix(listener)
        }
    }
}

fn from_unix(listener: unix::UnixListener) -> io::Result<Listener> {
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener).map(Listener::Unix)
}

/// Removes the socket file of a dead process. One that still answers stays, and binding it will fail.
///
/// It does not wait: connect(2) on a blocking socket would, for a process with a full backlog.
fn remove_stale(path: &Path) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&socket, &SocketAddrUnix::new(path)?).map_err(io::Error::from) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

/// Serves each client that `next` brings, as long as there is room for it. A stranger that finds none is turned away at
/// once; a client of the own user waits.
async fn accept<S, A, F, N>(mut next: N, is_own: impl Fn(&S) -> bool, router: Router)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    F: Future<Output = io::Result<(S, A)>>,
    N: FnMut() -> F,
{
    let all = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
    loop {
        let Ok((stream, _)) = next().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let stranger = if is_own(&stream) {
            None
        } else {
            let Ok(permit) = Arc::clone(&strangers).try_acquire_owned() else { continue };
            Some(permit)
        };
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&all).acquire_owned().await else { return };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false);
            let served = builder.serve_connection(TokioIo::new(stream), service);
            // A client that went away or dawdled is its own problem.
            let _ = tokio::time::timeout(PATIENCE, served).await;
            drop((permit, stranger));
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
    ([(header::CONTENT_TYPE, kind)], replica.snapshot(0).to_open_metrics(&replica.name))
}

async fn account(Shared(replica): Shared<Arc<Replica>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], replica.snapshot(0).to_json())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::mpsc;

    use super::health::ask_ready;
    use super::*;
    use crate::Limits;
    use crate::event::Observer;

    /// A replica, and its events in turn.
    fn replica() -> (Arc<Replica>, mpsc::UnboundedReceiver<Event>) {
        let (sender, events) = mpsc::unbounded_channel();
        let sender = Mutex::new(sender);
        let observer = Observer::new(
            "test".into(),
            Arc::new(move |record| {
                let _ = sender.lock().unwrap().send(record.event.clone());
            }),
        );
        (Arc::new(Replica::new("test".into(), Limits::default(), Vec::new(), observer)), events)
    }

    async fn answers_when_its_address_is_free(addr: AdminAddress, held: impl Send) {
        let (replica, mut events) = replica();
        let _admin = serve(addr.clone(), replica).unwrap();
        let first = events.recv().await.unwrap();
        assert!(matches!(first, Event::AdminUnavailable { .. }), "{first:?}");
        drop(held);
        let next = tokio::time::timeout(Duration::from_secs(20), events.recv()).await.unwrap();
        let next = next.unwrap();
        assert!(matches!(next, Event::AdminListening { .. }), "{next:?}");
        let asking = tokio::task::spawn_blocking(move || ask_ready(&addr, Duration::from_secs(20)));
        assert_eq!(asking.await.unwrap().unwrap().state, "starting");
    }

    #[tokio::test]
    async fn a_taken_abstract_name_is_reported_and_tried_again() {
        let name = format!("hitless-test.{}.taken", std::process::id());
        let address = unix::SocketAddr::from_abstract_name(&name).unwrap();
        let held = unix::UnixListener::bind_addr(&address).unwrap();
        answers_when_its_address_is_free(AdminAddress::Abstract(name), held).await;
    }

    #[tokio::test]
    async fn a_taken_path_is_reported_and_tried_again_and_its_file_removed_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let held = unix::UnixListener::bind(&path).unwrap();
        answers_when_its_address_is_free(AdminAddress::Path(path.clone()), held).await;
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_taken_port_is_reported_and_tried_again() {
        let held = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = held.local_addr().unwrap();
        answers_when_its_address_is_free(AdminAddress::Tcp(addr), held).await;
    }

    #[tokio::test]
    async fn an_address_that_can_never_be_bound_is_an_error() {
        let (replica, _events) = replica();
        assert!(serve(AdminAddress::Path("/nonexistent/admin.sock".into()), replica).is_err());
    }

    #[tokio::test]
    async fn a_process_with_a_full_backlog_does_not_hold_up_the_start() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = || socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        let (holder, addr) = (socket(), SocketAddrUnix::new(&path).unwrap());
        rustix::net::bind(&holder, &addr).unwrap();
        rustix::net::listen(&holder, 0).unwrap();
        let mut waiting = Vec::new();
        loop {
            let client = socket();
            if connect(&client, &addr).is_err() {
                break;
            }
            waiting.push(client);
        }
        let (replica, mut events) = replica();
        let _admin = serve(AdminAddress::Path(path), replica).unwrap();
        let first = events.recv().await.unwrap();
        assert!(matches!(first, Event::AdminUnavailable { .. }), "{first:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn silent_strangers_leave_room_for_the_own_user() {
        let (sender, clients) = mpsc::unbounded_channel::<DuplexStream>();
        let clients = Arc::new(tokio::sync::Mutex::new(clients));
        let next = move || {
            let clients = Arc::clone(&clients);
            async move { clients.lock().await.recv().await.map(|client| (client, ())).ok_or(io::Error::other("")) }
        };
        let seen = std::sync::atomic::AtomicUsize::new(0);
        let count = 2 * MAX_CONNECTIONS;
        let is_own = move |_: &DuplexStream| seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed) >= count;
        let (replica, _events) = replica();
        let accepting = tokio::spawn(async move { accept(next, is_own, routes(replica)).await });
        let connect = || {
            let (near, far) = duplex(1024);
            sender.send(far).unwrap();
            near
        };
        let mut strangers: Vec<_> = (0..count).map(|_| connect()).collect();
        let mut own = connect();
        own.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let answered = own.read_to_string(&mut answer);
        tokio::time::timeout(PATIENCE / 2, answered).await.expect("the own user is served at once").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        // The strangers beyond their share were turned away.
        let turned_away = strangers.split_off(MAX_STRANGERS);
        for mut client in turned_away {
            assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        }
        accepting.abort();
    }
}
