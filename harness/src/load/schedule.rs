//! When requests are due. Pure arithmetic.

use std::time::Duration;

/// An open-loop schedule: request `n` is due at a fixed time, whatever became of the requests before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    interval_ns: f64,
    offset_ns: f64,
}

impl Schedule {
    /// `rate` requests per second. Streams of one run are shifted against each other, `position` of `streams`, so
    /// that they do not all send at the same instants.
    #[must_use]
    pub fn new(rate: f64, position: usize, streams: usize) -> Self {
        let interval_ns = 1e9 / rate;
        Self { interval_ns, offset_ns: interval_ns * position as f64 / streams.max(1) as f64 }
    }

    /// The time from the schedule's start to request `number`. Never accumulates rounding: each is computed from the
    /// start.
    #[must_use]
    pub fn due(&self, number: u64) -> Duration {
        Duration::from_secs_f64((number as f64).mul_add(self.interval_ns, self.offset_ns) / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_are_evenly_spaced() {
        let schedule = Schedule::new(4.0, 0, 1);
        let due: Vec<u128> = (0..5).map(|number| schedule.due(number).as_millis()).collect();
        assert_eq!(due, [0, 250, 500, 750, 1000]);
    }

    #[test]
    fn streams_are_shifted_against_each_other() {
        assert_eq!(Schedule::new(100.0, 1, 4).due(0), Duration::from_micros(2500));
    }

    proptest! {
        #[test]
        fn schedule_keeps_its_rate_however_long(rate in 0.1f64..100_000.0, number in 1u64..1_000_000_000) {
            let schedule = Schedule::new(rate, 0, 1);
            prop_assert!(schedule.due(number) >= schedule.due(number - 1));
            let seconds = schedule.due(number).as_secs_f64();
            let expected = number as f64 / rate;
            prop_assert!((seconds - expected).abs() <= 1e-9_f64.max(expected * 1e-12) + 1e-9);
        }
    }
}
