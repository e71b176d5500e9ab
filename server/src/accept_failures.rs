//! How often a failure of accept(2) is told.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The least time between two events about the limit on connections, and between two about failures.
pub(crate) const REPORT_EVERY: Duration = Duration::from_secs(1);

/// How often is told that the kernel gives no connections: it may refuse each of them, many times a second, on each of
/// several listeners.
#[derive(Debug, Default)]
pub(crate) struct AcceptFailures(Mutex<(Option<Instant>, u64)>);

impl AcceptFailures {
    /// Whether one more, now, is told, and if so, how many before it were not.
    pub(crate) fn due(&self, now: Instant) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, unreported) = &mut *told;
        if at.is_some_and(|at| now.saturating_duration_since(at) < REPORT_EVERY) {
            *unreported += 1;
            return None;
        }
        *at = Some(now);
        Some(std::mem::take(unreported))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_once_a_second_and_counted() {
        let failures = AcceptFailures::default();
        let now = Instant::now();
        assert_eq!((0..100).filter_map(|_| failures.due(now)).collect::<Vec<_>>(), [0]);
        assert_eq!(failures.due(now + REPORT_EVERY / 2), None);
        assert_eq!(failures.due(now + REPORT_EVERY), Some(100));
        assert_eq!(failures.due(now + 2 * REPORT_EVERY), Some(0));
    }
}
