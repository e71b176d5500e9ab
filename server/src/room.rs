//! Room for connections: how many may be open at once, and who waits until one ends.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

/// Room for a number of connections, and for those that come from a sibling even if there is none.
#[derive(Debug)]
pub(crate) struct Room {
    free: Semaphore,
    /// Connections inside beyond the limit: as many ends make no room.
    beyond: Mutex<usize>,
    /// Since when somebody has been waiting, in monotonic nanoseconds; 0 while nobody is.
    short_since_ns: AtomicU64,
}

/// How long somebody has to wait for room before the replica says that it is full.
const SHORT: Duration = Duration::from_secs(1);

/// A connection's place inside, for as long as it is held.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Room>);

impl Room {
    pub(crate) fn new(limit: usize) -> Self {
        Self { free: Semaphore::new(limit), beyond: Mutex::new(0), short_since_ns: AtomicU64::new(0) }
    }

    /// A seat, if one is free.
    pub(crate) fn try_enter(self: &Arc<Self>) -> Option<Seat> {
        self.free.try_acquire().ok()?.forget();
        Some(Seat(Arc::clone(self)))
    }

    /// A seat, as soon as one is free; first come, first served.
    pub(crate) async fn enter(self: &Arc<Self>) -> Seat {
        // The semaphore is never closed.
        if let Ok(permit) = self.free.acquire().await {
            permit.forget();
        }
        Seat(Arc::clone(self))
    }

    /// Somebody waits for a seat, as of `now_ns`.
    pub(crate) fn begin_wait(&self, now_ns: u64) {
        let _ = self.short_since_ns.compare_exchange(0, now_ns, Relaxed, Relaxed);
    }

    /// Somebody got one.
    pub(crate) fn end_wait(&self) {
        self.short_since_ns.store(0, Relaxed);
    }

    /// Whether somebody has been waiting for long, as of `now_ns`.
    pub(crate) fn is_short(&self, now_ns: u64) -> bool {
        let since = self.short_since_ns.load(Relaxed);
        since != 0 && u128::from(now_ns.saturating_sub(since)) >= SHORT.as_nanos()
    }

    /// A seat at once, beyond the limit if it must be; nobody else enters before the number is below the limit again.
    pub(crate) fn squeeze_in(self: &Arc<Self>) -> Seat {
        let mut beyond = self.beyond.lock().unwrap_or_else(PoisonError::into_inner);
        match self.free.try_acquire() {
            Ok(permit) => permit.forget(),
            Err(_) => *beyond += 1,
        }
        Seat(Arc::clone(self))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut beyond = self.0.beyond.lock().unwrap_or_else(PoisonError::into_inner);
        match beyond.checked_sub(1) {
            Some(fewer) => *beyond = fewer,
            None => self.0.free.add_permits(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn whoever_squeezes_in_counts_and_is_made_up_for() {
        let room = Arc::new(Room::new(2));
        let first = room.try_enter().unwrap();
        let second = room.squeeze_in();
        let third = room.squeeze_in();
        let fourth = room.squeeze_in();
        assert!(room.try_enter().is_none());
        drop((first, third));
        assert!(room.try_enter().is_none(), "two are inside, as many as there is room for");
        drop(fourth);
        let fifth = room.try_enter().unwrap();
        assert!(room.try_enter().is_none());
        drop((second, fifth));
        let _all = [room.try_enter().unwrap(), room.try_enter().unwrap()];
        assert!(room.try_enter().is_none());
    }

    #[tokio::test]
    async fn whoever_waits_enters_when_one_leaves() {
        let room = Arc::new(Room::new(1));
        let seat = room.enter().await;
        let mut next = Box::pin(room.enter());
        assert!(next.as_mut().now_or_never().is_none());
        drop(seat);
        next.await;
    }
}
