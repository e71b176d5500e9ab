//! The states of a replica and the arithmetic of its requests. Pure: no clock, no socket, no task.
//!
//! A replica goes `Starting -> Ready -> Draining -> Stopped` and never back. [`RequestCounters`] counts what began and how it
//! ended; it is touched a few times a request by every serving thread, so it is a handful of relaxed atomics and nothing
//! else.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Where in its life a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[repr(u8)]
pub enum State {
    /// Not yet accepting.
    Starting = 0,
    /// May receive new traffic.
    Ready = 1,
    /// Told to stop: takes no new work, finishes what is in flight.
    Draining = 2,
    /// Nothing is served any more.
    Stopped = 3,
}

impl State {
    /// The state's name, as readiness answers and events spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }

    fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Starting,
            1 => Self::Ready,
            2 => Self::Draining,
            _ => Self::Stopped,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The state of one replica; it only moves forward.
#[derive(Debug)]
pub(crate) struct Lifecycle(AtomicU8);

impl Lifecycle {
    pub(crate) fn new() -> Self {
        Self(AtomicU8::new(State::Starting as u8))
    }

    pub(crate) fn state(&self) -> State {
        State::from_u8(self.0.load(Ordering::Acquire))
    }

    /// Moves to `to` unless the replica is already there or past it; says whether it moved.
    pub(crate) fn advance(&self, to: State) -> bool {
        self.0.fetch_max(to as u8, Ordering::AcqRel) < to as u8
    }
}

/// What began and how it ended, of one replica.
///
/// Alone on its cache lines: every request writes here, and what stands beside it in the
/// [`Replica`](crate::replica::Replica) is read by every request on every core.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct RequestCounters {
    begun: AtomicU64,
    answered: AtomicU64,
    aborted: AtomicU64,
    upgraded: AtomicU64,
    owed: AtomicU64,
    opened: AtomicU64,
    closed: AtomicU64,
    /// Monotonic nanoseconds of the last finished response; 0 before the first.
    last_response_ns: AtomicU64,
}

impl RequestCounters {
    /// A request's head was read.
    pub(crate) fn begin(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// `count` responses were finished at `now_ns`.
    pub(crate) fn answer(&self, count: u64, now_ns: u64) {
        self.last_response_ns.fetch_max(now_ns, Ordering::Relaxed);
        self.answered.fetch_add(count, Ordering::Relaxed);
    }

    /// `count` requests ended without a whole response: the client went away, or the request was cut.
    pub(crate) fn abort(&self, count: u64) {
        self.aborted.fetch_add(count, Ordering::Relaxed);
    }

    /// A connection has left HTTP (a WebSocket, say).
    pub(crate) fn upgrade(&self) {
        self.upgraded.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection that had left HTTP ended.
    pub(crate) fn end_upgraded(&self) {
        self.upgraded.fetch_sub(1, Ordering::Relaxed);
    }

    /// A connection is about to end whose client does not have all of its last answer, which was counted long before.
    pub(crate) fn owe(&self) {
        self.owed.fetch_add(1, Ordering::Relaxed);
    }

    /// It has, or it has broken off.
    pub(crate) fn settle(&self) {
        self.owed.fetch_sub(1, Ordering::Relaxed);
    }

    /// What would be lost if the replica ended now: requests in flight, connections that have left HTTP, and those that are
    /// about to end before their clients have everything.
    pub(crate) fn at_stake(&self) -> u64 {
        self.in_flight() + self.upgraded.load(Ordering::Relaxed) + self.owed.load(Ordering::Relaxed)
    }

    /// A connection is open here, accepted or taken over.
    pub(crate) fn open(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection is no longer here, closed or given away.
    pub(crate) fn close(&self) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    pub(crate) fn aborted(&self) -> u64 {
        self.aborted.load(Ordering::Relaxed)
    }

    /// Requests begun and not finished. The ends are read before the beginnings, so it never reads below zero.
    pub(crate) fn in_flight(&self) -> u64 {
        let ended = self.answered() + self.aborted();
        self.begun().saturating_sub(ended)
    }

    /// Connections that are open here.
    pub(crate) fn connections(&self) -> u64 {
        let closed = self.closed.load(Ordering::Relaxed);
        self.opened.load(Ordering::Relaxed).saturating_sub(closed)
    }

    /// When the last response was finished, if there was one.
    pub(crate) fn last_response_ns(&self) -> Option<u64> {
        Some(self.last_response_ns.load(Ordering::Relaxed)).filter(|&at| at != 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_state() -> impl Strategy<Value = State> {
        (0_u8..4).prop_map(State::from_u8)
    }

    proptest! {
        #[test]
        fn a_replica_never_goes_back(steps in proptest::collection::vec(any_state(), 0..32)) {
            let lifecycle = Lifecycle::new();
            for to in steps {
                let before = lifecycle.state();
                let moved = lifecycle.advance(to);
                prop_assert_eq!(moved, to > before);
                prop_assert_eq!(lifecycle.state(), before.max(to));
            }
        }

        #[test]
        fn in_flight_is_what_began_and_did_not_end(steps in proptest::collection::vec(0_u8..3, 0..200)) {
            let request_counters = RequestCounters::default();
            let mut open = 0_u64;
            for (now, step) in (1_u64..).zip(steps) {
                match step {
                    1 if open > 0 => { request_counters.answer(1, now); open -= 1; }
                    2 if open > 0 => { request_counters.abort(1); open -= 1; }
                    _ => { request_counters.begin(); open += 1; }
                }
                prop_assert_eq!(request_counters.in_flight(), open);
                prop_assert_eq!(request_counters.begun(), request_counters.answered() + request_counters.aborted() + open);
            }
        }
    }

    #[test]
    fn there_is_no_last_response_before_the_first() {
        let request_counters = RequestCounters::default();
        request_counters.begin();
        assert_eq!(request_counters.last_response_ns(), None);
        request_counters.answer(1, 7);
        assert_eq!(request_counters.last_response_ns(), Some(7));
    }

    #[test]
    fn connections_are_the_opened_less_the_closed() {
        let request_counters = RequestCounters::default();
        request_counters.open();
        request_counters.open();
        request_counters.close();
        assert_eq!(request_counters.connections(), 1);
    }
}
