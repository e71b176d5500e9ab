//! How long the recorder's thread rests between two looks at what came in, and who cuts the rest short.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

/// A thread that sleeps until it is called costs every request a system call to wake it; one that comes back hundreds of
/// times a second takes a core from requests in flight each time. Nobody needs to know sooner, except who waits.
const REST: Duration = Duration::from_millis(50);
/// The same while somebody waits for what the recorder is about to see.
const SHORT_REST: Duration = Duration::from_millis(4);

/// Who waits for the thread.
#[derive(Debug, Default)]
pub(super) struct Rest {
    waiting: AtomicUsize,
}

impl Rest {
    /// Rests, on the recorder's thread; not at all if it was [woken](Waker::wake) since the last time.
    pub(super) fn take(&self) {
        thread::park_timeout(self.length());
    }

    fn length(&self) -> Duration {
        if self.waiting.load(Ordering::Relaxed) > 0 { SHORT_REST } else { REST }
    }
}

/// Wakes the recorder's thread; clones wake the same one.
#[derive(Debug, Clone)]
pub(super) struct Waker {
    thread: Thread,
    rest: Arc<Rest>,
}

impl Waker {
    pub(super) const fn new(thread: Thread, rest: Arc<Rest>) -> Self {
        Self { thread, rest }
    }

    /// Ends the rest, or the next one if there is none.
    pub(super) fn wake(&self) {
        self.thread.unpark();
    }

    /// Keeps the rests short until it is dropped.
    pub(super) fn hurry(&self) -> Hurry {
        self.rest.waiting.fetch_add(1, Ordering::Relaxed);
        self.wake();
        Hurry(Arc::clone(&self.rest))
    }
}

/// Somebody waits.
#[derive(Debug)]
pub(super) struct Hurry(Arc<Rest>);

impl Drop for Hurry {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_are_short_while_somebody_waits() {
        let rest = Arc::<Rest>::default();
        let waker = Waker::new(thread::current(), Arc::clone(&rest));
        assert_eq!(rest.length(), REST);
        let (one, other) = (waker.hurry(), waker.clone().hurry());
        assert_eq!(rest.length(), SHORT_REST);
        drop(one);
        assert_eq!(rest.length(), SHORT_REST, "another still waits");
        drop(other);
        assert_eq!(rest.length(), REST);
    }
}
