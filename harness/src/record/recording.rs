//! What a run leaves behind: plain data, filled by the [`recorder`](crate::record::recorder) or by [`replay`](crate::record::replay), read
//! by the [`summary`](crate::analysis::summary). Its size does not grow with the number of requests.

mod cohort;
mod counts_delta;
mod coverage;
mod failures;
mod timeline;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use cohort::CohortRecord;
pub use counts_delta::CountsDelta;
pub use coverage::Coverage;
pub use failures::KeptFailures;
pub use timeline::{Bucket, Timeline};

use crate::model::clock::RunTime;
use crate::model::cut_short::CutShort;
use crate::model::interference::{Drops, Stalls};
use crate::model::lifecycle::{LifecycleEvent, LifecycleKind};
use crate::model::listener::ListenerRecords;
use crate::model::observation::CohortTotals;
use crate::model::phase::Phases;
use crate::model::restart::{Restart, RestartId, RestartStep};

/// So many restarts may be under way at a time, and hear of what belongs to them.
const AT_ONCE: usize = 64;

/// Everything that a run leaves behind.
#[derive(Debug)]
pub struct Recording {
    /// When the load began.
    pub load_began: Option<RunTime>,
    /// When nothing more was sent.
    pub load_ended: Option<RunTime>,
    /// When the recorder was closed.
    pub ended: RunTime,
    /// The replicas' lives, in the order of arrival.
    pub events: Vec<LifecycleEvent>,
    /// The phases.
    pub phases: Phases,
    /// The restarts, in order.
    pub restarts: Vec<Restart>,
    /// The cohorts, in the scenario's order.
    pub cohorts: Vec<CohortRecord>,
    /// Some failures of each restart and class.
    pub failures: KeptFailures,
    /// Answers by replica; those that do not say who they are, are under no name.
    pub answered_by: BTreeMap<Arc<str>, u64>,
    /// The run over time.
    pub timeline: Timeline,
    /// How much the kernel's counters grew over the load.
    pub kernel: BTreeMap<String, u64>,
    /// The most connections that were seen waiting to be accepted, in all queues together.
    pub accept_queue_max: Option<u64>,
    /// The listeners that were seen, each with its own accept queue.
    pub listeners: ListenerRecords,
    /// When the harness was short of CPU.
    pub stalls: Stalls,
    /// When the kernel dropped packets because its table of connections was full.
    pub drops: Drops,
    /// Whether events.jsonl could not be written to its end.
    pub is_log_broken: bool,
    /// Why it ended early, if it did.
    pub cut_short: Option<CutShort>,
}

impl Default for Recording {
    fn default() -> Self {
        Self::new()
    }
}

impl Recording {
    /// A run that has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            load_began: None,
            load_ended: None,
            ended: RunTime::ZERO,
            events: Vec::new(),
            phases: Phases::new(),
            restarts: Vec::new(),
            cohorts: Vec::new(),
            failures: KeptFailures::default(),
            answered_by: BTreeMap::new(),
            timeline: Timeline::new(RunTime::ZERO),
            kernel: BTreeMap::new(),
            accept_queue_max: None,
            listeners: ListenerRecords::default(),
            stalls: Stalls::default(),
            drops: Drops::default(),
            is_log_broken: false,
            cut_short: None,
        }
    }

    /// Notes that the load began.
    pub(crate) fn load_began(&mut self, at: RunTime) {
        self.load_began = Some(at);
        self.timeline = Timeline::new(at);
    }

    /// Notes that nothing more is sent, what each cohort began, and how much the kernel's counters grew.
    pub(crate) fn load_ended(
        &mut self,
        at: RunTime,
        totals: impl IntoIterator<Item = CohortTotals>,
        kernel: BTreeMap<String, u64>,
    ) {
        self.load_ended = Some(at);
        self.kernel = kernel;
        for (cohort, totals) in self.cohorts.iter_mut().zip(totals) {
            cohort.totals = totals;
        }
    }

    /// Adds requests to their cohort, their phase and their restart.
    pub(crate) fn add(&mut self, delta: &CountsDelta) {
        let Some(cohort) = self.cohorts.get_mut(delta.cohort) else { return };
        cohort.add(delta);
        let Some(restart) = delta.restart.and_then(|index| self.restarts.get_mut(index)) else { return };
        if cohort.is_long() {
            restart.tally.add_counts(&delta.tally);
        } else {
            restart.tally.add(&delta.tally);
        }
    }

    /// Adds what ended in a stretch of time around `middle`.
    pub(crate) fn add_to_timeline(&mut self, middle: RunTime, stretch: &Bucket) {
        for (name, answered) in &stretch.replicas {
            *self.answered_by.entry(Arc::clone(name)).or_default() += answered;
        }
        self.accept_queue_max = self.accept_queue_max.max(stretch.queue);
        self.timeline.at(middle).add(stretch);
    }

    /// Notes a step of a restart.
    pub(crate) fn take_step(&mut self, id: RestartId, at: RunTime, step: RestartStep) {
        if let RestartStep::Began { replica, round } = &step {
            self.restarts.push(Restart::new(Arc::clone(replica), *round, at));
        }
        if let Some(record) = self.restarts.get_mut(id.0) {
            record.take_step(at, step);
        }
    }

    /// Notes something in a replica's life. What the load saw of it belongs to the latest restart that it can be of, from which
    /// the phases follow; what comes after the load belongs to none.
    pub(crate) fn take_event(&mut self, event: LifecycleEvent) {
        if self.load_ended.is_none() {
            let latest = (0..self.restarts.len()).rev().take(AT_ONCE);
            let taken = latest.into_iter().find(|index| self.restarts[*index].take_event(&event));
            if let Some(index) = taken {
                self.phases.follow(index, self.restarts[index].phases());
            }
        }
        self.events.push(event);
    }

    /// Gives each restart what its replica logged about its own end: its first such line after it was told to stop.
    pub(crate) fn attach_accounts(&mut self) {
        for restart in &mut self.restarts {
            let Some(stop_requested) = restart.stop_requested else { continue };
            let account = self.events.iter().find(|event| {
                event.kind == LifecycleKind::Exiting
                    && event.replica == restart.replica
                    && event.t >= stop_requested
            });
            if let Some(event) = account {
                restart.account.clone_from(&event.fields);
            }
        }
    }
}
