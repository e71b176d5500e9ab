//! How long the recorder's thread waits between two looks at what came in, and who shortens the wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

/// A thread that sleeps until it is woken costs every request a system call; one that comes back hundreds of times a second
/// takes a core from requests in flight each time.
const USUAL: Duration = Duration::from_millis(50);
/// The interval while something waits for what the recorder is about to see.
const SHORT: Duration = Duration::from_millis(4);

/// The recorder thread's interval, and how many wait for it.
#[derive(Debug, Default)]
pub(super) struct PollInterval {
    waiting: AtomicUsize,
}

impl PollInterval {
    /// Waits, on the recorder's thread; not at all if it was [woken](Waker::wake) since the last time.
    pub(super) fn wait(&self) {
        thread::park_timeout(self.length());
    }

    fn length(&self) -> Duration {
        if self.waiting.load(Ordering::Relaxed) > 0 { SHORT } else { USUAL }
    }
}

/// Wakes the recorder's thread; clones wake the same one.
#[derive(Debug, Clone)]
pub(super) struct Waker {
    thread: Thread,
    interval: Arc<PollInterval>,
}

impl Waker {
    pub(super) const fn new(thread: Thread, interval: Arc<PollInterval>) -> Self {
        Self { thread, interval }
    }

    /// Ends the wait, or the next one if the thread does not wait now.
    pub(super) fn wake(&self) {
        self.thread.unpark();
    }

    /// Keeps the interval short until the guard is dropped.
    pub(super) fn shorten_interval(&self) -> ShortInterval {
        self.interval.waiting.fetch_add(1, Ordering::Relaxed);
        self.wake();
        ShortInterval(Arc::clone(&self.interval))
    }
}

/// Keeps the recorder's poll interval short until it is dropped.
#[derive(Debug)]
pub struct ShortInterval(Arc<PollInterval>);

impl Drop for ShortInterval {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interval_is_short_while_something_waits() {
        let interval = Arc::<PollInterval>::default();
        let waker = Waker::new(thread::current(), Arc::clone(&interval));
        assert_eq!(interval.length(), USUAL);
        let (one, other) = (waker.shorten_interval(), waker.clone().shorten_interval());
        assert_eq!(interval.length(), SHORT);
        drop(one);
        assert_eq!(interval.length(), SHORT, "another still waits");
        drop(other);
        assert_eq!(interval.length(), USUAL);
    }
}
