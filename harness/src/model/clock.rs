//! The run's one clock: `CLOCK_MONOTONIC` in nanoseconds.
//!
//! Every container of a host reads the same `CLOCK_MONOTONIC` (`clock_gettime(2)`; only a time namespace would shift
//! it, and container engines make none), so the moments that a server logs and the moments at which the load saw
//! something stand on one axis. The engine's own events carry wall-clock time and are moved onto that axis with
//! [`WallOffset`].

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time: nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

    /// This moment on the axis of a run whose zero is `zero`.
    #[must_use]
    pub fn relative_to(self, zero: Self) -> RunTime {
        let signed = |nanoseconds: u64| i64::try_from(nanoseconds).unwrap_or(i64::MAX);
        RunTime(signed(self.0).saturating_sub(signed(zero.0)))
    }

    /// This moment moved into the future.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// A duration in milliseconds, rounded to a microsecond.
#[must_use]
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

/// A point in time relative to the run's zero, with a resolution of nanoseconds; negative before it. As JSON it is
/// milliseconds, rounded to a microsecond.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunTime(i64);

impl RunTime {
    /// The run's zero.
    pub const ZERO: Self = Self(0);
    /// Later than everything.
    pub const MAX: Self = Self(i64::MAX);

    /// So many nanoseconds from the run's zero.
    #[must_use]
    pub const fn from_nanoseconds(nanoseconds: i64) -> Self {
        Self(nanoseconds)
    }

    /// So many milliseconds from the run's zero; zero for what is no number.
    #[must_use]
    pub fn from_ms(ms: f64) -> Self {
        let size = Duration::try_from_secs_f64(ms.abs() / 1e3).unwrap_or_default();
        if ms < 0.0 { Self::ZERO.minus(size) } else { Self::ZERO.plus(size) }
    }

    /// Milliseconds from the run's zero, rounded to a microsecond.
    #[must_use]
    pub const fn ms(self) -> f64 {
        (self.0 / 1_000) as f64 / 1e3
    }

    /// The moment that is this far from `zero`.
    #[must_use]
    pub const fn after(self, zero: Moment) -> Moment {
        Moment(zero.0.saturating_add_signed(self.0))
    }

    /// The time from `earlier` to this one; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        let passed = self.0.saturating_sub(earlier.0);
        Duration::from_nanos(if passed > 0 { passed.unsigned_abs() } else { 0 })
    }

    /// Milliseconds from `reference` to this time, negative when it lies before.
    #[must_use]
    pub const fn ms_since(self, reference: Self) -> f64 {
        Self(self.0.saturating_sub(reference.0)).ms()
    }

    /// This time moved into the future.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// This time moved into the past.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX)))
    }
}

impl Serialize for RunTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.ms())
    }
}

impl<'de> Deserialize<'de> for RunTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        f64::deserialize(deserializer).map(Self::from_ms)
    }
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
impl schemars::JsonSchema for RunTime {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RunTime".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "number" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_have_a_sign() {
        let (early, late) = (Moment::from_nanoseconds(1_000_000), Moment::from_nanoseconds(3_500_000));
        let (forth, back) = (late.relative_to(early), early.relative_to(late));
        assert!((forth.ms() - 2.5).abs() < 1e-9 && (back.ms() + 2.5).abs() < 1e-9);
        assert!((back.ms_since(forth) + 5.0).abs() < 1e-9);
        assert_eq!((early.since(late), back.since(forth)), (Duration::ZERO, Duration::ZERO));
        assert_eq!((forth.after(early), back.after(late)), (late, early));
    }

    #[test]
    fn time_of_a_run_is_milliseconds_in_json() {
        for (text, nanoseconds) in [("2.5", 2_500_000), ("-0.001", -1_000), ("0.0", 0)] {
            let time: RunTime = serde_json::from_str(text).unwrap();
            assert_eq!(time, RunTime::from_nanoseconds(nanoseconds));
            assert_eq!(serde_json::to_string(&time).unwrap(), text);
        }
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
