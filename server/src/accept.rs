//! The accept loop and the limit on connections.

use std::io;
use std::net;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::accept_failures::REPORT_EVERY;
use crate::clock::monotonic_ns;
use crate::connection::{self, ParkedConnection};
use crate::connection_limit::{ConnectionLimit, ConnectionPermit};
use crate::event::Event;
use crate::listener;
use crate::replica::{Open, Replica};

/// How long the loop waits after the kernel had no descriptor or memory for a connection (`EMFILE`, `ENFILE`, `ENOMEM`;
/// accept(2)): the connection stays in the accept queue and trying again at once would only burn the CPU.
const PAUSE: Duration = Duration::from_millis(50);

/// How often a listener that is about to close is tried again after such an error.
const LAST_TRIES: u32 = 10;

/// How often the longest idle connections are asked to make room while somebody waits.
const MAKE_ROOM: Duration = Duration::from_millis(100);

/// Where connections enter: whoever has one can have it served.
#[derive(Debug, Clone)]
pub(crate) struct Entrance {
    pub(crate) replica: Arc<Replica>,
    pub(crate) router: Router,
}

impl Entrance {
    /// Serves a connection, of which `early` was already read, in a task of its own.
    pub(crate) fn admit(&self, stream: TcpStream, early: Bytes, permit: ConnectionPermit) {
        self.serve(stream, early, permit, false);
    }

    fn serve(&self, stream: TcpStream, early: Bytes, permit: ConnectionPermit, is_new: bool) {
        let open = Open::new(&self.replica, permit);
        let parked = ParkedConnection { stream, unread: early, open, turn: None, is_new };
        self.replica.connections.spawn(connection::serve(
            parked,
            self.router.clone(),
            Arc::clone(&self.replica),
        ));
    }

    /// Counts a connection that was just accepted and serves it.
    fn welcome(&self, stream: net::TcpStream, owner: &Owner, permit: ConnectionPermit) -> io::Result<()> {
        let connection_counters = &self.replica.connection_counters;
        connection_counters.accept(monotonic_ns());
        if *owner != Owner::Own {
            connection_counters.accepted_for_sibling.add(1);
        }
        self.serve(TcpStream::from_std(stream)?, Bytes::new(), permit, true);
        Ok(())
    }

    fn complain(&self, error: &io::Error) {
        if let Some(untold) = self.replica.accept_failures.due(Instant::now()) {
            self.replica.observer.emit(Event::AcceptFailed { error: error.to_string(), untold });
        }
    }
}

/// Whose listener it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    /// This replica's.
    Own,
    /// That of a sibling of this name, which is not there (any more).
    Sibling(Arc<str>),
}

/// Accepts from `listener` until `stop`.
///
/// A permit is taken only when somebody waits in this very accept queue: a loop that held one while it waited would keep it
/// from the loops of the other listeners.
pub(crate) async fn accept_until(
    listener: AsyncFd<Arc<net::TcpListener>>,
    owner: Owner,
    entrance: Entrance,
    stop: CancellationToken,
) {
    let accepting = async {
        let mut complained = None;
        // An error here means that the runtime ends.
        while let Ok(mut ready) = listener.readable().await {
            let Some(permit) = permit(&entrance.replica, ready.get_inner(), &mut complained).await else {
                // An event that came since this one was looked at stays.
                ready.clear_ready();
                continue;
            };
            let accepted = ready.try_io(|listener| listener::accept(listener.get_ref()));
            let Ok(accepted) = accepted else { continue };
            match accepted.and_then(|stream| entrance.welcome(stream, &owner, permit)) {
                Err(error) if !is_of_one_connection(&error) => {
                    entrance.complain(&error);
                    tokio::time::sleep(PAUSE).await;
                }
                _ => {}
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = accepting => {}
    }
}

/// Accepts what waits in the queue, asking the kernel itself each time, until nothing does: within the limit on
/// connections, no later than the deadline, and no more than an accept queue can hold, so that clients who keep coming
/// do not keep the replica.
pub(crate) async fn accept_rest(
    listener: &net::TcpListener,
    owner: &Owner,
    entrance: &Entrance,
    deadline: Instant,
) {
    let mut complained = None;
    let mut tries = LAST_TRIES;
    for _ in 0..listener::BACKLOG {
        let permit = timeout_at(deadline, permit(&entrance.replica, listener, &mut complained)).await;
        let Ok(Some(permit)) = permit else { return };
        let accepted = listener::accept(listener);
        match accepted.and_then(|stream| entrance.welcome(stream, owner, permit)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) if !is_of_one_connection(&error) => {
                entrance.complain(&error);
                tries -= 1;
                if tries == 0 || Instant::now() >= deadline {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
            _ => {}
        }
    }
}

/// Waits for room for one more connection, and complains about a full house no more often than [`REPORT_EVERY`]. Meanwhile the
/// longest idle connections are asked to make room. `None` if there is no room and nobody waits for it (any more): what
/// tokio last heard of the listener may be old.
async fn permit(
    replica: &Replica,
    listener: &net::TcpListener,
    complained: &mut Option<Instant>,
) -> Option<ConnectionPermit> {
    if let Some(permit) = replica.connection_limit.try_acquire() {
        return Some(permit);
    }
    if !listener::has_waiting(listener) {
        return None;
    }
    let max_connections = replica.limits.max_connections;
    if complained.is_none_or(|at| at.elapsed() >= REPORT_EVERY) {
        *complained = Some(Instant::now());
        replica.observer.emit(Event::ConnectionLimit { max_connections });
    }
    let waiting = Waiting::for_permit(&replica.connection_limit);
    loop {
        replica.idle_connections.make_room(max_connections, monotonic_ns());
        if let Ok(permit) = timeout(MAKE_ROOM, replica.connection_limit.acquire()).await {
            drop(waiting);
            return Some(permit);
        }
        if !listener::has_waiting(listener) {
            return None;
        }
    }
}

/// Somebody who waits for a permit.
struct Waiting<'a>(&'a ConnectionLimit);

impl<'a> Waiting<'a> {
    fn for_permit(limit: &'a ConnectionLimit) -> Self {
        limit.begin_wait(monotonic_ns());
        Self(limit)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.end_wait();
    }
}

/// Whether accept(2) passed on an error of the connection that it would have returned, so that the next may be fine.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::TimedOut
    )
}
