//! The run as it was over time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::clock::RunTime;
use crate::model::tally::Tally;

/// A stretch of time, for the picture of the run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bucket {
    /// What ended in it. Latencies leave out cohorts that are slow on purpose.
    #[serde(flatten)]
    pub tally: Tally,
    /// Answers by replica.
    pub replicas: BTreeMap<Arc<str>, u64>,
    /// The most connections that waited to be accepted; none if nobody looked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub queue: Option<u64>,
}

impl Bucket {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self { tally: Tally::new(1), replicas: BTreeMap::new(), queue: None }
    }

    /// Counts an answer of a replica.
    pub(crate) fn answered_by(&mut self, replica: &Arc<str>) {
        if let Some(count) = self.replicas.get_mut(replica) {
            *count += 1;
        } else {
            self.replicas.insert(Arc::clone(replica), 1);
        }
    }

    /// Adds another bucket's content.
    pub fn add(&mut self, other: &Self) {
        self.tally.add(&other.tally);
        self.queue = self.queue.max(other.queue);
        for (replica, count) in &other.replicas {
            *self.replicas.entry(Arc::clone(replica)).or_default() += count;
        }
    }
}

impl Default for Bucket {
    fn default() -> Self {
        Self::new()
    }
}

/// The run as it was over time, in equal buckets whose width doubles when there are too many.
#[derive(Debug, Clone)]
pub struct Timeline {
    /// The first bucket's beginning.
    pub began: RunTime,
    /// How long each bucket is.
    pub width: Duration,
    /// The buckets.
    pub buckets: Vec<Bucket>,
}

impl Timeline {
    /// More than this many buckets are merged in pairs.
    const MOST: usize = 1024;

    /// An empty timeline.
    #[must_use]
    pub const fn new(began: RunTime) -> Self {
        Self { began, width: Duration::from_millis(25), buckets: Vec::new() }
    }

    /// The bucket of `moment`; what lies before the beginning counts into the first.
    pub fn at(&mut self, moment: RunTime) -> &mut Bucket {
        let position = loop {
            let position = (moment.since(self.began).as_nanos() / self.width.as_nanos()) as usize;
            if position < Self::MOST {
                break position;
            }
            self.halve();
        };
        if position >= self.buckets.len() {
            self.buckets.resize_with(position + 1, Bucket::new);
        }
        &mut self.buckets[position]
    }

    /// When the bucket of `moment` begins.
    pub(crate) fn stretch_of(&self, moment: RunTime) -> RunTime {
        let width = self.width.as_nanos();
        let whole = moment.since(self.began).as_nanos() / width * width;
        self.began.plus(Duration::from_nanos(u64::try_from(whole).unwrap_or(u64::MAX)))
    }

    fn halve(&mut self) {
        self.width *= 2;
        let mut merged = Vec::with_capacity(Self::MOST);
        for pair in self.buckets.chunks(2) {
            let mut bucket = pair[0].clone();
            if let Some(second) = pair.get(1) {
                bucket.add(second);
            }
            merged.push(bucket);
        }
        self.buckets = merged;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn timeline_loses_nothing_and_stays_bounded(offsets in proptest::collection::vec(0u64..10_000_000, 1..300)) {
            let began = RunTime::from_nanoseconds(1_000);
            let mut timeline = Timeline::new(began);
            for offset in &offsets {
                timeline.at(began.plus(Duration::from_millis(*offset))).tally.answered(Duration::ZERO);
            }
            let total: u64 = timeline.buckets.iter().map(|bucket| bucket.tally.requests).sum();
            prop_assert_eq!(total, offsets.len() as u64);
            prop_assert!(timeline.buckets.len() <= Timeline::MOST);
        }
    }
}
