//! What was seen of one cohort.

use hdrhistogram::Histogram;

use super::counts_delta::CountsDelta;
use super::coverage::Coverage;
use crate::model::cohort::CohortKind;
use crate::model::observation::CohortTotals;
use crate::model::phase::Phase;
use crate::model::tally::Tally;

/// One cohort's share of the run.
#[derive(Debug, Clone)]
pub struct CohortRecord {
    /// The cohort's name.
    pub name: &'static str,
    /// By phase, by position in [`Phase::ALL`].
    pub phases: [Tally; Phase::ALL.len()],
    /// What was begun.
    pub totals: CohortTotals,
    /// How late the generator was, in microseconds.
    pub lateness: Histogram<u64>,
    /// Time from the actual start to the end of the answered requests, in microseconds.
    pub service: Histogram<u64>,
    /// How many requests had to wait because the cohort's concurrency was used up.
    pub waited: u64,
    /// What the schedule asked of each phase and what was sent in it, by position in [`Phase::ALL`].
    pub coverage: [Coverage; Phase::ALL.len()],
    /// How many requests were under way in some restart: sent in it, or before it and not yet answered.
    pub in_restarts: u64,
}

impl CohortRecord {
    /// Nothing seen yet.
    ///
    /// # Panics
    /// Never: the histograms' precision is a constant that they take.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        let microseconds = || Histogram::new(3).expect("a histogram has 1 to 5 significant digits");
        Self {
            name,
            phases: std::array::from_fn(|_| Tally::new(3)),
            totals: CohortTotals::default(),
            lateness: microseconds(),
            service: microseconds(),
            waited: 0,
            coverage: [Coverage::default(); Phase::ALL.len()],
            in_restarts: 0,
        }
    }

    /// Whether its requests take long on purpose: their latency says nothing of the server.
    pub(super) fn is_long(&self) -> bool {
        CohortKind::named(self.name).is_some_and(CohortKind::is_long)
    }

    /// Adds some of its requests.
    pub(super) fn add(&mut self, delta: &CountsDelta) {
        let phase = delta.phase.index();
        self.phases[phase].add(&delta.tally);
        // Auto-resizing histograms of the same precision take each other.
        let _ = self.lateness.add(&delta.lateness);
        let _ = self.service.add(&delta.service);
        self.waited += delta.waited;
        self.in_restarts += delta.in_restarts;
        self.coverage[phase].due += delta.coverage.due;
        self.coverage[phase].sent += delta.coverage.sent;
    }
}
