//! How often a failure of accept(2) is told.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The least time between two events about the limit on connections, and between two about failures.
pub(crate) const TOLD_EVERY: Duration = Duration::from_secs(1);

/// How often is told that the kernel gives no connections: it may refuse each of them, many times a second, on each of
/// several listeners.
#[derive(Debug, Default)]
pub(crate) struct AcceptFailures(Mutex<(Option<Instant>, u64)>);

impl AcceptFailures {
    /// Whether one more, now, is told, and if so, how many before it were not.
    pub(crate) fn tell(&self, now: Instant) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, untold) = &mut *told;
        if at.is_some_and(|at| now.saturating_duration_since(at) < TOLD_EVERY) {
            *untold += 1;
            return None;
        }
        *at = Some(now);
        Some(std::mem::take(untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_once_a_second_and_counted() {
        let failures = AcceptFailures::default();
        let now = Instant::now();
        assert_eq!((0..100).filter_map(|_| failures.tell(now)).collect::<Vec<_>>(), [0]);
        assert_eq!(failures.tell(now + TOLD_EVERY / 2), None);
        assert_eq!(failures.tell(now + TOLD_EVERY), Some(100));
        assert_eq!(failures.tell(now + 2 * TOLD_EVERY), Some(0));
    }
}
