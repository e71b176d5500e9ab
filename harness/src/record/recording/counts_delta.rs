//! Some requests of a run, on their way into the recording.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::coverage::Coverage;
use crate::model::phase::Phase;
use crate::model::tally::{Tally, sparse};

/// Requests of one cohort that ended in one phase of one restart; and those that were due or sent there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CountsDelta {
    /// Which cohort, by its position in the scenario. An event says the cohort's name.
    #[serde(skip)]
    pub cohort: usize,
    /// Which phase.
    pub phase: Phase,
    /// Which restart, counted from 0; none while steady.
    pub restart: Option<usize>,
    /// Counts, and latencies in microseconds.
    #[serde(flatten)]
    pub tally: Tally,
    /// Time from the actual start to the end of the answered requests, in microseconds.
    #[serde(with = "sparse")]
    pub service: Histogram<u64>,
    /// How late the generator was, in microseconds.
    #[serde(with = "sparse")]
    pub lateness: Histogram<u64>,
    /// How many requests had to wait because the cohort's concurrency was used up.
    pub waited: u64,
    /// What the schedule asked of this phase and what was sent in it.
    #[serde(flatten)]
    pub coverage: Coverage,
    /// How many requests were under way in some restart.
    #[serde(default)]
    pub in_restarts: u64,
}

impl CountsDelta {
    /// Nothing yet.
    #[must_use]
    pub fn new(cohort: usize, phase: Phase, restart: Option<usize>) -> Self {
        let tally = Tally::new(3);
        let (service, lateness) = (tally.latency.clone(), tally.latency.clone());
        let coverage = Coverage::default();
        Self { cohort, phase, restart, tally, service, lateness, waited: 0, coverage, in_restarts: 0 }
    }
}
