//! Counts and latencies of some requests, whichever they are.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::model::failure::FailureClass;

/// Counts and latencies of some requests.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Requests whose end was seen.
    pub requests: u64,
    /// Failures by class, by position in [`FailureClass::ALL`].
    pub failed: [u64; FailureClass::ALL.len()],
    /// Latencies of the answered ones, from the scheduled start, in microseconds.
    pub latency: Histogram<u64>,
}

impl Tally {
    /// Nothing counted; latencies with `digits` significant digits.
    ///
    /// # Panics
    /// If `digits` is not from 1 to 5.
    #[must_use]
    pub fn new(digits: u8) -> Self {
        let latency = Histogram::new(digits).expect("a histogram has 1 to 5 significant digits");
        Self { requests: 0, failed: [0; FailureClass::ALL.len()], latency }
    }

    /// Counts one answered request.
    pub fn answered(&mut self, latency: Duration) {
        self.requests += 1;
        record_us(&mut self.latency, latency);
    }

    /// Counts one failed request.
    pub const fn failed(&mut self, class: FailureClass) {
        self.requests += 1;
        self.failed[class as usize] += 1;
    }

    /// Adds another tally's requests to this one.
    pub fn add(&mut self, other: &Self) {
        self.add_counts(other);
        // An auto-resizing histogram of the same or higher precision takes any other.
        let _ = self.latency.add(&other.latency);
    }

    /// Adds another tally's counts, and none of its latencies, to this one.
    pub fn add_counts(&mut self, other: &Self) {
        self.requests += other.requests;
        for (mine, theirs) in self.failed.iter_mut().zip(other.failed) {
            *mine += theirs;
        }
    }

    /// Failures of one class.
    #[must_use]
    pub const fn of(&self, class: FailureClass) -> u64 {
        self.failed[class as usize]
    }

    /// Failures that are not the harness's own.
    #[must_use]
    pub fn failures(&self) -> u64 {
        FailureClass::ALL.into_iter().filter(|class| class.is_servers()).map(|class| self.of(class)).sum()
    }

    /// Requests that were answered as expected.
    #[must_use]
    pub fn ok(&self) -> u64 {
        self.requests - self.failed.iter().sum::<u64>()
    }
}

/// Records a duration in microseconds. What is longer than a day is a day: the histogram grows with its largest value.
pub fn record_us(histogram: &mut Histogram<u64>, duration: Duration) {
    const DAY_US: u128 = 86_400_000_000;
    // An auto-resizing histogram takes every value.
    let _ = histogram.record(duration.as_micros().min(DAY_US) as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harness_shortage_is_no_failure_of_the_server() {
        let mut tally = Tally::new(3);
        tally.failed(FailureClass::HarnessResource);
        tally.failed(FailureClass::Refused);
        tally.answered(Duration::from_millis(3));
        assert_eq!((tally.requests, tally.failures(), tally.ok()), (3, 1, 1));
    }
}
