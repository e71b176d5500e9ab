//! Which connections are idle, and since when: at the limit on connections the longest idle one makes room.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use futures_util::task::AtomicWaker;

use crate::clock::monotonic_ns;

/// A connection that has been idle for less than this stays: its client may be between two requests.
const SPARED: Duration = Duration::from_secs(1);

/// So many connections are asked to go at once, at most: each look goes through all of them.
const AT_ONCE: usize = 8;

/// All open connections of a replica.
#[derive(Debug, Default)]
pub(crate) struct IdleConnections {
    next: AtomicU64,
    all: Mutex<HashMap<u64, Arc<Idleness>>>,
}

/// Since when one connection has been idle. Its task looks whether it is asked to go.
#[derive(Debug)]
pub(crate) struct Idleness {
    id: u64,
    /// In monotonic nanoseconds; 0 while it is not.
    since_ns: AtomicU64,
    must_go: AtomicBool,
    task: AtomicWaker,
}

impl IdleConnections {
    /// A connection that is open and idle from now on, until it is [removed](Self::remove).
    pub(crate) fn add(&self) -> Arc<Idleness> {
        let idleness = Arc::new(Idleness {
            id: self.next.fetch_add(1, Relaxed),
            since_ns: AtomicU64::new(monotonic_ns()),
            must_go: AtomicBool::new(false),
            task: AtomicWaker::new(),
        });
        self.all().insert(idleness.id, Arc::clone(&idleness));
        idleness
    }

    pub(crate) fn remove(&self, idleness: &Idleness) {
        self.all().remove(&idleness.id);
    }

    /// Asks the connections that have been idle longest, as of `now_ns`, to go: an eighth of `limit`, a few at most. Says
    /// how many.
    pub(crate) fn make_room(&self, limit: usize, now_ns: u64) -> usize {
        let count = (limit / 8).clamp(1, AT_ONCE);
        let spared = u64::try_from(SPARED.as_nanos()).unwrap_or(u64::MAX);
        // Those found so far, the longest idle one first.
        let mut longest: Vec<(u64, Arc<Idleness>)> = Vec::with_capacity(count + 1);
        for idleness in self.all().values() {
            let since = idleness.since_ns.load(Relaxed);
            let is_long = since != 0 && now_ns.saturating_sub(since) >= spared;
            if is_long && !idleness.must_go.load(Relaxed) {
                let at = longest.partition_point(|(other, _)| *other <= since);
                longest.insert(at, (since, Arc::clone(idleness)));
                longest.truncate(count);
            }
        }
        for (_, idleness) in &longest {
            idleness.must_go.store(true, Relaxed);
            idleness.task.wake();
        }
        longest.len()
    }

    /// Nothing here panics while the lock is held; were it so, the map would still be whole.
    fn all(&self) -> MutexGuard<'_, HashMap<u64, Arc<Idleness>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idleness {
    pub(crate) fn begin(&self, now_ns: u64) {
        self.since_ns.store(now_ns, Relaxed);
    }

    pub(crate) fn end(&self) {
        self.since_ns.store(0, Relaxed);
        self.must_go.store(false, Relaxed);
    }

    /// In monotonic nanoseconds; 0 if it is not idle.
    pub(crate) fn since_ns(&self) -> u64 {
        self.since_ns.load(Relaxed)
    }

    /// Whether it has to make room for another one.
    pub(crate) fn must_go(&self) -> bool {
        self.must_go.load(Relaxed)
    }

    /// The task that serves it, whose waker stays the same.
    pub(crate) fn is_served_by(&self, task: &Waker) {
        self.task.register(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_idle_ones_go_and_busy_ones_stay() {
        let connections = IdleConnections::default();
        let all: Vec<_> = (0..20).map(|_| connections.add()).collect();
        let spared = u64::try_from(SPARED.as_nanos()).unwrap();
        for (since, idleness) in (1..).zip(&all) {
            idleness.begin(since);
        }
        all[0].end();
        connections.remove(&all[1]);
        assert_eq!(connections.make_room(24, spared), 0, "all of them are spared");
        assert_eq!(connections.make_room(24, spared + 100), 3);
        let gone: Vec<_> = (0..20).filter(|&at| all[at].must_go()).collect();
        assert_eq!(gone, [2, 3, 4]);
        assert_eq!(connections.make_room(1, spared + 100), 1);
        assert!(all[5].must_go());
        all[5].end();
        assert!(!all[5].must_go(), "a request came first");
    }
}
