//! Every listener that this replica accepts from: its own, and those it holds for siblings that are gone.
//!
//! It is also the gate through which anything comes from a sibling. Once the gate is closed (the replica stops), nothing
//! is taken any more; what was taken before is in the books before the drain looks at them. Both happen under one lock,
//! and so does the answer to the sibling: it hears "taken" before the gate can close, or not at all.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::{Interest, unix::AsyncFd};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::accept::{Entrance, Owner, accept_rest, accept_until};
use crate::listener::{self, Sharing};

/// Listeners that one replica holds at most, its own included.
pub(crate) const MAX_LISTENERS: usize = 64;

/// One listener and the task that accepts from it, which ends with this value.
#[derive(Debug)]
struct Held {
    id: u64,
    owner: Owner,
    /// One descriptor for the task and for whoever sends it; the last of them closes it.
    socket: Arc<TcpListener>,
    is_offered: bool,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Books {
    is_closed: bool,
    held: Vec<Held>,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Listeners {
    entrance: Entrance,
    books: Mutex<Books>,
    /// Told when what was offered is no longer so.
    settled: Notify,
}

/// A listener that is to be given: the socket to send, and the names to send with it.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) id: u64,
    pub(crate) owner: Owner,
    pub(crate) socket: Arc<TcpListener>,
}

/// Why something is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// The replica stops.
    Stopping,
    /// It holds as many listeners as it may.
    Full,
}

impl Listeners {
    pub(crate) fn new(entrance: Entrance) -> Self {
        Self { entrance, books: Mutex::default(), settled: Notify::new() }
    }

    /// Nothing here panics while the lock is held; were it so, the books would still be whole.
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Binds a listener of this replica's own and accepts from it. Returns its address, with the port that was really
    /// taken.
    pub(crate) fn bind(&self, addr: SocketAddr, sharing: Sharing) -> io::Result<SocketAddr> {
        let listener = listener::bind(addr, sharing)?;
        let addr = listener.local_addr()?;
        self.add(listener, Owner::Own)?;
        Ok(addr)
    }

    /// Accepts from `listener` from now on.
    pub(crate) fn add(&self, listener: TcpListener, owner: Owner) -> io::Result<()> {
        let held = self.hold(listener, owner)?;
        self.books().held.push(held);
        Ok(())
    }

    fn hold(&self, listener: TcpListener, owner: Owner) -> io::Result<Held> {
        let id = listener::cookie(&listener)?;
        let socket = Arc::new(listener);
        let stop = CancellationToken::new();
        #[expect(
            deprecated,
            reason = "what came instead is unsafe, for types that may close or change their descriptor; \
                      this one owns it"
        )]
        let listener = AsyncFd::with_interest(Arc::clone(&socket), Interest::READABLE)?;
        let accepting = accept_until(listener, owner.clone(), self.entrance.clone(), stop.clone());
        Ok(Held { id, owner, socket, is_offered: false, stop, task: tokio::spawn(accepting) })
    }

    /// Takes a sibling's listener, if `answer` gets out. One that is held already is only answered: the same socket came
    /// twice.
    pub(crate) fn take<E>(
        &self,
        listener: TcpListener,
        owner: Owner,
        answer: impl FnOnce(Result<(), Closed>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut books = self.books();
        let id = listener::cookie(&listener).ok();
        if books.is_closed {
            return answer(Err(Closed::Stopping));
        }
        if books.held.iter().any(|held| Some(held.id) == id) {
            return answer(Ok(()));
        }
        if books.held.len() >= MAX_LISTENERS {
            return answer(Err(Closed::Full));
        }
        let Ok(held) = self.hold(listener, owner) else {
            return answer(Err(Closed::Full));
        };
        let answered = answer(Ok(()));
        // Shared with the sender, a listener is safe with or without us: keep it even if the answer did not get out.
        books.held.push(held);
        answered
    }

    /// Takes a sibling's connection, if `answer` gets out.
    pub(crate) fn admit<E>(
        &self,
        stream: std::net::TcpStream,
        unread: Bytes,
        answer: impl FnOnce(Result<(), Closed>) -> Result<(), E>,
    ) -> Result<(), E> {
        let books = self.books();
        if books.is_closed {
            return answer(Err(Closed::Stopping));
        }
        let Ok(stream) = tokio::net::TcpStream::from_std(stream) else {
            return answer(Err(Closed::Full));
        };
        // A connection without an answer stays the sender's: there must never be two that read from it.
        answer(Ok(()))?;
        self.entrance.admit(stream, unread, self.entrance.replica.connection_limit.acquire_beyond());
        drop(books);
        Ok(())
    }

    /// From now on nothing is taken.
    pub(crate) fn close_gate(&self) {
        self.books().is_closed = true;
    }

    /// Everything that is held and not just being offered.
    pub(crate) fn listed(&self) -> Vec<Listed> {
        self.books().held.iter().filter(|held| !held.is_offered).map(Held::listed).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.books().held.is_empty()
    }

    /// A listener for a starting replica: one that it left here, or else one of anybody who is gone, or else, when this
    /// replica stops, one of its own.
    pub(crate) fn offer(&self, claimer: &str) -> Option<Listed> {
        let mut books = self.books();
        let is_stopping = books.is_closed;
        let rank = |held: &Held| match &held.owner {
            Owner::Sibling(name) if &**name == claimer => Some(0),
            Owner::Sibling(_) => Some(1),
            Owner::Own if is_stopping => Some(2),
            Owner::Own => None,
        };
        let candidates = books.held.iter_mut().filter(|held| !held.is_offered);
        let (_, held) =
            candidates.filter_map(|held| Some((rank(held)?, held))).min_by_key(|(rank, _)| *rank)?;
        held.is_offered = true;
        Some(held.listed())
    }

    /// The one to whom it was offered did not take it.
    pub(crate) fn keep(&self, id: u64) {
        for held in self.books().held.iter_mut().filter(|held| held.id == id) {
            held.is_offered = false;
        }
        self.settled.notify_waiters();
    }

    /// Waits until nothing is just being offered. A host keeps that short.
    pub(crate) async fn wait_until_settled(&self) {
        loop {
            let mut settled = pin!(self.settled.notified());
            settled.as_mut().enable();
            if !self.books().held.iter().any(|held| held.is_offered) {
                return;
            }
            settled.await;
        }
    }

    /// Somebody else accepts from it: stop accepting and drop this process's copies. Says whether it was held.
    pub(crate) async fn let_go(&self, id: u64) -> bool {
        let held = {
            let mut books = self.books();
            let at = books.held.iter().position(|held| held.id == id);
            at.map(|at| books.held.swap_remove(at))
        };
        self.settled.notify_waiters();
        match held {
            Some(held) => {
                held.stop().await;
                true
            }
            None => false,
        }
    }

    /// Closes all listeners at once, whatever waits in their accept queues.
    pub(crate) async fn close(&self) {
        for held in self.empty() {
            held.stop().await;
        }
    }

    /// Accepts what waits, no later than the deadline, then closes. What comes between the last look and the close is
    /// still reset; nobody can help that who has no sibling. Says whether there was anything to close.
    pub(crate) async fn drain_and_close(&self, deadline: Instant) -> bool {
        let held = self.empty();
        let is_any = !held.is_empty();
        for held in held {
            let owner = held.owner.clone();
            let socket = held.stop().await;
            accept_rest(&socket, &owner, &self.entrance, deadline).await;
        }
        is_any
    }

    fn empty(&self) -> Vec<Held> {
        let held = std::mem::take(&mut self.books().held);
        self.settled.notify_waiters();
        held
    }
}

impl Held {
    fn listed(&self) -> Listed {
        Listed { id: self.id, owner: self.owner.clone(), socket: Arc::clone(&self.socket) }
    }

    /// Ends the task; the socket stays open as long as what is returned.
    async fn stop(mut self) -> Arc<TcpListener> {
        self.stop.cancel();
        // It neither panics nor was it aborted; were it so, it would have ended too.
        let _ = (&mut self.task).await;
        Arc::clone(&self.socket)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.task.abort();
    }
}
