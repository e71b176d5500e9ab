//! Counts and latencies of some requests, whichever they are.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::model::failure::FailureClass;

/// Counts and latencies of some requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Requests whose end was seen.
    pub requests: u64,
    /// Failures by class, by position in [`FailureClass::ALL`].
    #[serde(rename = "by_class", with = "by_class", skip_serializing_if = "by_class::is_empty", default)]
    pub failed: [u64; FailureClass::ALL.len()],
    /// Latencies of the answered ones, from the scheduled start, in microseconds.
    #[serde(with = "sparse")]
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

    /// Nothing counted, and little room taken.
    pub(crate) fn coarse() -> Self {
        Self::new(1)
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

/// Counts by class, those that are not zero, by the class's name.
mod by_class {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::model::failure::{ByClass, FailureClass};

    type Counts = [u64; FailureClass::ALL.len()];

    pub(super) fn is_empty(counts: &Counts) -> bool {
        counts.iter().all(|count| *count == 0)
    }

    pub(super) fn serialize<S: Serializer>(counts: &Counts, serializer: S) -> Result<S::Ok, S::Error> {
        let by_class = FailureClass::ALL.into_iter().map(|class| (class, counts[class as usize]));
        by_class.filter(|(_, count)| *count > 0).collect::<ByClass>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Counts, D::Error> {
        let mut counts = Counts::default();
        for (class, count) in ByClass::deserialize(deserializer)? {
            counts[class as usize] = count;
        }
        Ok(counts)
    }
}

/// A histogram as the values that occurred, to about 6 %, each with how often: a second of load takes some hundred bytes.
pub(crate) mod sparse {
    use hdrhistogram::Histogram;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        histogram: &Histogram<u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut coarse = Histogram::<u64>::new(1).expect("a histogram has 1 to 5 significant digits");
        // An auto-resizing histogram takes every value of another.
        let _ = coarse.add(histogram);
        let recorded = coarse.iter_recorded();
        let steps: Vec<(u64, u64)> =
            recorded.map(|step| (step.value_iterated_to(), step.count_at_value())).collect();
        steps.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Histogram<u64>, D::Error> {
        let mut histogram = Histogram::<u64>::new(3).expect("a histogram has 1 to 5 significant digits");
        for (value, count) in Vec::<(u64, u64)>::deserialize(deserializer)? {
            // An auto-resizing histogram takes every value.
            let _ = histogram.record_n(value, count);
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tally_comes_back_from_json_with_its_counts_and_nearly_its_latencies() {
        let mut tally = Tally::new(3);
        (1..=100).for_each(|ms| tally.answered(Duration::from_millis(ms)));
        tally.failed(FailureClass::Refused);
        let json = serde_json::to_value(&tally).unwrap();
        assert_eq!(json["by_class"], serde_json::json!({"refused": 1}));
        let back: Tally = serde_json::from_value(json).unwrap();
        assert_eq!((back.requests, back.failed), (tally.requests, tally.failed));
        let median = |tally: &Tally| tally.latency.value_at_quantile(0.5) as f64;
        assert!((median(&back) / median(&tally) - 1.0).abs() < 0.07);
    }

    #[test]
    fn harness_shortage_is_no_failure_of_the_server() {
        let mut tally = Tally::new(3);
        tally.failed(FailureClass::HarnessResource);
        tally.failed(FailureClass::Refused);
        tally.answered(Duration::from_millis(3));
        assert_eq!((tally.requests, tally.failures(), tally.ok()), (3, 1, 1));
    }
}
