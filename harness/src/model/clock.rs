//! The run's one clock: `CLOCK_MONOTONIC` in nanoseconds.
//!
//! Every container of a host reads the same `CLOCK_MONOTONIC` (`clock_gettime(2)`; only a time namespace would shift
//! it, and container engines make none), so the moments that a server logs and the moments at which the load saw
//! something stand on one axis. The engine's own events carry wall-clock time and are moved onto that axis with
//! [`WallOffset`].

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A point in time: nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(u64);

impl Moment {
    /// This moment.
    #[must_use]
    pub fn now() -> Self {
        Self(nanoseconds_of(ClockId::Monotonic))
    }

    /// The moment at which the monotonic clock shows `nanoseconds`.
    #[must_use]
    pub const fn from_nanoseconds(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }

    /// Nanoseconds of the monotonic clock.
    #[must_use]
    pub const fn as_nanoseconds(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to this moment; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Milliseconds from `reference` to this moment, negative when it lies before.
    #[must_use]
    pub fn offset_ms(self, reference: Self) -> f64 {
        if self >= reference {
            milliseconds(self.since(reference))
        } else {
            -milliseconds(reference.since(self))
        }
    }

    /// This moment moved into the future.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// This moment moved into the past.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// A duration in milliseconds, rounded to a microsecond.
#[must_use]
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

/// How far the wall clock is ahead of the monotonic one, read once at the start of a run.
#[derive(Debug, Clone, Copy)]
pub struct WallOffset(u64);

impl WallOffset {
    /// Reads both clocks now.
    #[must_use]
    pub fn read() -> Self {
        Self(nanoseconds_of(ClockId::Realtime).saturating_sub(nanoseconds_of(ClockId::Monotonic)))
    }

    /// The offset under which the wall clock shows `unix_ms` at `moment`.
    #[must_use]
    pub const fn with(moment: Moment, unix_ms: u64) -> Self {
        Self(unix_ms.saturating_mul(1_000_000).saturating_sub(moment.0))
    }

    /// The moment at which the wall clock showed `unix_nanoseconds`.
    #[must_use]
    pub const fn moment_at(self, unix_nanoseconds: u64) -> Moment {
        Moment(unix_nanoseconds.saturating_sub(self.0))
    }

    /// The moment of a timestamp as RFC 3339 writes it; none if it is not one, or lies before 1970: an engine writes
    /// "never" as the year 1.
    #[must_use]
    pub fn moment_of(self, timestamp: Option<&str>) -> Option<Moment> {
        let time = humantime::parse_rfc3339(timestamp?).ok()?;
        let nanoseconds = time.duration_since(std::time::UNIX_EPOCH).ok()?.as_nanos();
        let moment = u64::try_from(nanoseconds).ok()?;
        (moment > 0).then(|| self.moment_at(moment))
    }

    /// Nanoseconds since 1970 at `moment`.
    #[must_use]
    pub const fn unix_ns(self, moment: Moment) -> u64 {
        moment.0.saturating_add(self.0)
    }

    /// Milliseconds since 1970 at `moment`.
    #[must_use]
    pub const fn unix_ms(self, moment: Moment) -> u64 {
        self.unix_ns(moment) / 1_000_000
    }
}

fn nanoseconds_of(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_have_a_sign() {
        let (early, late) = (Moment::from_nanoseconds(1_000_000), Moment::from_nanoseconds(3_500_000));
        assert!((late.offset_ms(early) - 2.5).abs() < 1e-9);
        assert!((early.offset_ms(late) + 2.5).abs() < 1e-9);
        assert_eq!(early.since(late), Duration::ZERO);
    }

    #[test]
    fn timestamps_of_an_engine_are_moments_and_its_never_is_none() {
        let offset = WallOffset::with(Moment::from_nanoseconds(0), 1_000_000_000_000);
        let moment = offset.moment_of(Some("2001-09-09T01:46:41.5Z"));
        assert_eq!(moment, Some(Moment::from_nanoseconds(1_500_000_000)));
        for never in [None, Some("0001-01-01T00:00:00Z"), Some("")] {
            assert_eq!(offset.moment_of(never), None, "{never:?}");
        }
    }

    #[test]
    fn wall_time_lands_on_the_monotonic_axis() {
        let offset = WallOffset::read();
        let now = Moment::now();
        let unix_ns = offset.unix_ms(now) * 1_000_000;
        let back = offset.moment_at(unix_ns);
        assert!(now.since(back) < Duration::from_millis(2), "{now:?} {back:?}");
    }
}
