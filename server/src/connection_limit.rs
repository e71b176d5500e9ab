//! The limit on connections: how many may be open at once, and who waits until one ends.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

/// Permits for a number of connections, and for those that come from a sibling even if none is free.
#[derive(Debug)]
pub(crate) struct ConnectionLimit {
    semaphore: Semaphore,
    /// Connections inside beyond the limit: as many ends free nothing.
    beyond: Mutex<usize>,
    /// Since when somebody has been waiting, in monotonic nanoseconds; 0 while nobody is.
    exhausted_since_ns: AtomicU64,
}

/// How long somebody has to wait for a permit before the replica says that it is full.
const SHORT: Duration = Duration::from_secs(1);

/// A connection's place inside, for as long as it is held.
#[derive(Debug)]
pub(crate) struct ConnectionPermit(Arc<ConnectionLimit>);

impl ConnectionLimit {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            semaphore: Semaphore::new(limit),
            beyond: Mutex::new(0),
            exhausted_since_ns: AtomicU64::new(0),
        }
    }

    /// A permit, if one is free.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<ConnectionPermit> {
        self.semaphore.try_acquire().ok()?.forget();
        Some(ConnectionPermit(Arc::clone(self)))
    }

    /// A permit, as soon as one is free; first come, first served.
    pub(crate) async fn acquire(self: &Arc<Self>) -> ConnectionPermit {
        // The semaphore is never closed.
        if let Ok(permit) = self.semaphore.acquire().await {
            permit.forget();
        }
        ConnectionPermit(Arc::clone(self))
    }

    /// Somebody waits for a permit, as of `now_ns`.
    pub(crate) fn begin_wait(&self, now_ns: u64) {
        let _ = self.exhausted_since_ns.compare_exchange(0, now_ns, Relaxed, Relaxed);
    }

    /// Somebody got one.
    pub(crate) fn end_wait(&self) {
        self.exhausted_since_ns.store(0, Relaxed);
    }

    /// Whether somebody has been waiting for long, as of `now_ns`.
    pub(crate) fn is_exhausted(&self, now_ns: u64) -> bool {
        let since = self.exhausted_since_ns.load(Relaxed);
        since != 0 && u128::from(now_ns.saturating_sub(since)) >= SHORT.as_nanos()
    }

    /// A permit at once, beyond the limit if it must be; nobody else enters before the number is below the limit again.
    pub(crate) fn acquire_beyond(self: &Arc<Self>) -> ConnectionPermit {
        let mut beyond = self.beyond.lock().unwrap_or_else(PoisonError::into_inner);
        match self.semaphore.try_acquire() {
            Ok(permit) => permit.forget(),
            Err(_) => *beyond += 1,
        }
        ConnectionPermit(Arc::clone(self))
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut beyond = self.0.beyond.lock().unwrap_or_else(PoisonError::into_inner);
        match beyond.checked_sub(1) {
            Some(fewer) => *beyond = fewer,
            None => self.0.semaphore.add_permits(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn permit_beyond_the_limit_counts_and_is_made_up_for() {
        let limit = Arc::new(ConnectionLimit::new(2));
        let first = limit.try_acquire().unwrap();
        let second = limit.acquire_beyond();
        let third = limit.acquire_beyond();
        let fourth = limit.acquire_beyond();
        assert!(limit.try_acquire().is_none());
        drop((first, third));
        assert!(limit.try_acquire().is_none(), "two are inside, as many as the limit allows");
        drop(fourth);
        let fifth = limit.try_acquire().unwrap();
        assert!(limit.try_acquire().is_none());
        drop((second, fifth));
        let _all = [limit.try_acquire().unwrap(), limit.try_acquire().unwrap()];
        assert!(limit.try_acquire().is_none());
    }

    #[tokio::test]
    async fn next_in_line_gets_the_permit_that_is_given_back() {
        let limit = Arc::new(ConnectionLimit::new(1));
        let permit = limit.acquire().await;
        let mut next = Box::pin(limit.acquire());
        assert!(next.as_mut().now_or_never().is_none());
        drop(permit);
        next.await;
    }
}
