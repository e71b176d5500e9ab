//! What all tasks of one running replica share: its state, its counts, its limits, and the order that its connections
//! follow.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use tokio::sync::{Notify, futures::Notified};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use crate::accept_failures::AcceptFailures;
use crate::clock::monotonic_ns;
use crate::connection_limit::{ConnectionLimit, ConnectionPermit};
use crate::counters::{ConnectionCounters, CountersSnapshot};
use crate::event::Observer;
use crate::idle::{IdleConnections, Idleness};
use crate::lifecycle::{Lifecycle, RequestCounters, State};
use crate::limits::Limits;
use crate::transfer_queue::TransferQueue;

/// What every connection does from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Order {
    /// Ordinary service.
    Serve = 0,
    /// Close at once when idle; when busy, answer with `Connection: close`.
    CloseIdle = 1,
    /// Go to a sibling when idle; when busy, after the response.
    HandOver = 2,
    /// Stay open, answer with `Connection: close`.
    LameDuck = 3,
    /// Close when idle, after a last look for a request that is already here; answer with `Connection: close`.
    LastLook = 4,
    /// Stop now, whatever is in flight.
    Cut = 5,
}

impl Order {
    const ALL: [Self; 6] =
        [Self::Serve, Self::CloseIdle, Self::HandOver, Self::LameDuck, Self::LastLook, Self::Cut];

    pub(crate) fn from_word(word: u64) -> Self {
        let low = word & 0xff;
        Self::ALL.into_iter().find(|&order| order as u64 == low).unwrap_or(Self::Cut)
    }

    /// Whether an HTTP/1 answer must say that it is the last one.
    pub(crate) fn is_last_answer(self) -> bool {
        matches!(self, Self::CloseIdle | Self::LameDuck | Self::LastLook | Self::Cut)
    }

    /// Whether an idle HTTP/1 connection has to leave its place.
    pub(crate) fn moves_idle(self) -> bool {
        matches!(self, Self::CloseIdle | Self::HandOver | Self::LastLook)
    }
}

/// The current order, and a way to notice the next one without a lock on the path of a request.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    /// The order in the low byte, above it the number of changes: a change there and back is still a change.
    word: AtomicU64,
    changed: Notify,
}

impl Orders {
    pub(crate) fn current(&self) -> Order {
        Order::from_word(self.word.load(Ordering::Acquire))
    }

    /// Changes whenever the order does.
    pub(crate) fn word(&self) -> u64 {
        self.word.load(Ordering::Acquire)
    }

    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Sets the order, if it is another one, and wakes every connection. Orders come from one task
    /// only, the one that runs the server.
    pub(crate) fn give(&self, order: Order) {
        let word = self.word.load(Ordering::Acquire);
        if Order::from_word(word) == order {
            return;
        }
        self.set(word, order);
    }

    /// Gives the same order once more: whoever could not follow it tries again.
    pub(crate) fn repeat(&self) {
        let word = self.word.load(Ordering::Acquire);
        self.set(word, Order::from_word(word));
    }

    fn set(&self, word: u64, order: Order) {
        let changes = (word >> 8) + 1;
        self.word.store(changes << 8 | order as u64, Ordering::Release);
        self.changed.notify_waiters();
    }
}

/// Everything shared. One for each [`Server::run`](crate::Server::run).
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) name: Arc<str>,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) request_counters: RequestCounters,
    pub(crate) connection_counters: ConnectionCounters,
    pub(crate) limits: Limits,
    /// Headers that every answer carries.
    pub(crate) extra_headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) observer: Observer,
    pub(crate) orders: Orders,
    /// Room for connections.
    pub(crate) connection_limit: Arc<ConnectionLimit>,
    /// Which of them could make room.
    pub(crate) idle_connections: IdleConnections,
    pub(crate) accept_failures: AcceptFailures,
    /// Cancelled when the drain begins.
    pub(crate) draining: CancellationToken,
    /// How long a client may then be silent in the middle of a body.
    drain_patience: OnceLock<Duration>,
    /// Every connection, upgraded ones too, holds a token or runs as a task of this tracker.
    pub(crate) connections: TaskTracker,
    /// Where connections are handed in that go to a sibling.
    pub(crate) outbox: TransferQueue,
}

impl Replica {
    pub(crate) fn new(
        name: Arc<str>,
        limits: Limits,
        extra_headers: Vec<(HeaderName, HeaderValue)>,
        observer: Observer,
    ) -> Self {
        Self {
            name,
            lifecycle: Lifecycle::new(),
            request_counters: RequestCounters::default(),
            connection_counters: ConnectionCounters::default(),
            limits,
            extra_headers,
            observer,
            orders: Orders::default(),
            connection_limit: Arc::new(ConnectionLimit::new(limits.max_connections)),
            idle_connections: IdleConnections::default(),
            accept_failures: AcceptFailures::default(),
            draining: CancellationToken::new(),
            drain_patience: OnceLock::new(),
            connections: TaskTracker::new(),
            outbox: TransferQueue::default(),
        }
    }

    /// The drain begins: from now on a client may be silent for so long in the middle of a body.
    pub(crate) fn begin_drain(&self, patience: Duration) {
        // A replica drains once.
        let _ = self.drain_patience.set(patience);
        self.draining.cancel();
    }

    /// How long a client may be silent in the middle of a body.
    pub(crate) fn body_patience(&self) -> Duration {
        let usual = self.limits.body_timeout;
        self.drain_patience.get().map_or(usual, |&patience| usual.min(patience))
    }

    /// Waits until no connection is left, upgraded ones included; says whether that was before the deadline.
    pub(crate) async fn wait_until_drained(&self, deadline: Instant) -> bool {
        self.connections.close();
        timeout_at(deadline, self.connections.wait()).await.is_ok()
    }

    /// Whether it should get new connections: it is ready, and nobody has been waiting for room for long.
    pub(crate) fn is_ready(&self) -> bool {
        self.lifecycle.state() == State::Ready && !self.connection_limit.is_exhausted(monotonic_ns())
    }

    /// The account as of now.
    pub(crate) fn snapshot(&self, cut: u64) -> CountersSnapshot {
        CountersSnapshot::new(self.lifecycle.state(), &self.request_counters, &self.connection_counters, cut)
    }
}

/// An open connection in the books, for as long as it is held.
#[derive(Debug)]
pub(crate) struct Open {
    replica: Arc<Replica>,
    idleness: Arc<Idleness>,
    _token: TaskTrackerToken,
    _permit: ConnectionPermit,
}

impl Open {
    pub(crate) fn new(replica: &Arc<Replica>, permit: ConnectionPermit) -> Self {
        replica.request_counters.open();
        Self {
            replica: Arc::clone(replica),
            idleness: replica.idle_connections.add(),
            _token: replica.connections.token(),
            _permit: permit,
        }
    }

    pub(crate) fn idleness(&self) -> &Arc<Idleness> {
        &self.idleness
    }

    pub(crate) fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.replica.idle_connections.remove(&self.idleness);
        self.replica.request_counters.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_order_there_and_back_is_noticed() {
        let orders = Orders::default();
        let seen = orders.word();
        let changed = orders.changed();
        orders.give(Order::CloseIdle);
        orders.give(Order::Serve);
        changed.await;
        assert_ne!(orders.word(), seen);
        assert_eq!(orders.current(), Order::Serve);
    }

    #[tokio::test]
    async fn an_order_that_is_repeated_is_noticed() {
        let orders = Orders::default();
        orders.give(Order::HandOver);
        let seen = orders.word();
        let changed = orders.changed();
        orders.repeat();
        changed.await;
        assert_ne!(orders.word(), seen);
        assert_eq!(orders.current(), Order::HandOver);
    }

    #[test]
    fn every_order_survives_its_word() {
        let orders = Orders::default();
        for order in Order::ALL {
            orders.give(order);
            assert_eq!(orders.current(), order);
        }
    }
}
