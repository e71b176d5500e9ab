//! The accept loop and the limit on connections.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::clock::monotonic_ns;
use crate::connection::{self, Rest};
use crate::event::Event;
use crate::replica::{Open, Replica};

/// How long the loop waits after the kernel had no descriptor or memory for a connection (`EMFILE`, `ENFILE`, `ENOMEM`;
/// accept(2)): the connection stays in the accept queue and trying again at once would only burn the CPU.
const PAUSE: Duration = Duration::from_millis(50);

/// The least time between two events about the limit on connections.
const COMPLAINT: Duration = Duration::from_secs(1);

/// Where connections enter: whoever has one can have it served.
#[derive(Debug, Clone)]
pub(crate) struct Entrance {
    pub(crate) replica: Arc<Replica>,
    pub(crate) router: Router,
}

impl Entrance {
    /// Serves a connection, of which `early` was already read, in a task of its own.
    pub(crate) fn admit(&self, stream: TcpStream, early: Bytes, permit: Option<OwnedSemaphorePermit>) {
        let open = Open::new(&self.replica, permit);
        let rest = Rest { stream, unread: early, open, turn: None };
        self.replica.connections.spawn(connection::serve(
            rest,
            self.router.clone(),
            Arc::clone(&self.replica),
        ));
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

/// Accepts from `listener` until `stop`, and gives it back.
pub(crate) async fn accept_until(
    listener: TcpListener,
    owner: Owner,
    entrance: Entrance,
    stop: CancellationToken,
) -> TcpListener {
    let accepting = async {
        let mut complained = None;
        loop {
            let permit = room(&entrance.replica, &mut complained).await;
            match listener.accept().await {
                Ok((stream, _)) => {
                    entrance.replica.traffic.accept(monotonic_ns());
                    if owner != Owner::Own {
                        entrance.replica.traffic.accepted_for_sibling.add(1);
                    }
                    entrance.admit(stream, Bytes::new(), permit);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    entrance.replica.observer.emit(Event::AcceptFailed { error: error.to_string() });
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = accepting => {}
    }
    listener
}

/// Accepts what waits in the queue, asking the kernel itself each time, until nothing does.
pub(crate) fn accept_rest(listener: &std::net::TcpListener, entrance: &Entrance) {
    while let Ok((stream, _)) = listener.accept() {
        let traffic = &entrance.replica.traffic;
        traffic.accept(monotonic_ns());
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(stream)
        {
            entrance.admit(stream, Bytes::new(), None);
        }
    }
}

/// Waits for room for one more connection, and complains about a full house no more often than [`COMPLAINT`].
async fn room(replica: &Replica, complained: &mut Option<Instant>) -> Option<OwnedSemaphorePermit> {
    if let Ok(permit) = Arc::clone(&replica.room).try_acquire_owned() {
        return Some(permit);
    }
    if complained.is_none_or(|at| at.elapsed() >= COMPLAINT) {
        *complained = Some(Instant::now());
        replica.observer.emit(Event::ConnectionLimit { max_connections: replica.limits.max_connections });
    }
    // The semaphore is never closed.
    Arc::clone(&replica.room).acquire_owned().await.ok()
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
