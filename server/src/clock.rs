//! The two clocks of an event: monotonic to order and subtract, wall to read.
//!
//! `CLOCK_MONOTONIC` is one clock for all processes of a host, containers included (`clock_gettime(2)`), so events of
//! several replicas and the observations of a load generator beside them can be laid on one axis.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Monotonic time starts at boot: it is never negative and overflows in 584 years.
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Milliseconds since 1970 of the wall clock.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_time_does_not_go_back() {
        let first = monotonic_ns();
        assert!(monotonic_ns() >= first);
    }

    #[test]
    fn wall_time_is_after_2020() {
        assert!(unix_ms() > 1_577_836_800_000);
    }
}
