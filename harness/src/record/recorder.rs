//! The one place where everything that happens in a run comes together, on a thread of its own.
//!
//! Producers (load, runtime, rollout) send records and go on: no lock is taken on a request's path. The thread
//! (`recorder/scribe.rs`) lets observations wait for a moment before it places them, counts each once
//! (`recorder/pending.rs`), and hands what it has counted to the recording and to `events.jsonl` every second.

mod live;
mod pending;
mod rest;
mod scribe;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::model::fresh_connections::FreshConnectionRequests;
pub use live::Live;
use rest::{Rest, Waker};
use scribe::Scribe;

use crate::model::budget::Budget;
use crate::model::clock::Moment;
use crate::model::cohort::CohortPlan;
use crate::model::cut_short::CutShort;
use crate::model::lifecycle::{LifecycleEvent, LifecycleKind, Source};
use crate::model::listener::Listener;
use crate::model::observation::{CohortTotals, Observation};
use crate::model::phase::Phase;
use crate::model::restart::{RestartId, RestartStep};
use crate::model::sink::Sink;
use crate::record::events::EventLog;
use crate::record::recording::Recording;

/// So many observations may be on their way to the recorder. With more, nothing new is sent until it has caught up: the
/// requests are late, which the verdict knows, and the memory is bounded.
const MOST_ON_THE_WAY: usize = 100_000;
/// How long a replica that is ready may go without a request before clients are asked to open new connections.
const ASK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug)]
enum Record {
    Observation(Observation),
    Lifecycle(LifecycleEvent),
    Restart { id: RestartId, at: Moment, step: RestartStep },
    Phase { id: RestartId, at: Moment, phase: Phase },
    Listeners { at: Moment, seen: Vec<Listener> },
    Stall { from: Moment, to: Moment },
    Drop { from: Moment, to: Moment, packets: u64 },
    LoadBegan(Moment),
    LoadEnded { at: Moment, totals: Vec<CohortTotals>, kernel: BTreeMap<String, u64> },
    Close { cut_short: Option<CutShort>, reply: oneshot::Sender<Recording> },
}

/// A handle to the recorder; clones send to the same one.
#[derive(Debug, Clone)]
pub struct Recorder {
    records: mpsc::UnboundedSender<Record>,
    live: watch::Receiver<Live>,
    began: Moment,
    /// Observations that were sent and not yet taken.
    on_the_way: Arc<AtomicUsize>,
    fresh_connections: FreshConnectionRequests,
    waker: Waker,
}

impl Recorder {
    /// Starts the recorder's thread. Its zero is now. Any failure counts for [`Live::is_broken`].
    ///
    /// # Panics
    /// If the operating system gives no thread.
    #[must_use]
    pub fn start(cohorts: &[CohortPlan], log: EventLog) -> Self {
        Self::start_with_budgets(cohorts, &[], log)
    }

    /// The same; failures are held against `budgets` while the run goes on.
    ///
    /// # Panics
    /// If the operating system gives no thread.
    #[must_use]
    pub fn start_with_budgets(cohorts: &[CohortPlan], budgets: &[Budget], log: EventLog) -> Self {
        let (records, inbox) = mpsc::unbounded_channel();
        let (publish, live) = watch::channel(Live::default());
        let began = log.began();
        let on_the_way = Arc::<AtomicUsize>::default();
        let scribe = Scribe::new(began, cohorts, budgets, log, publish, Arc::clone(&on_the_way));
        let rest = Arc::<Rest>::default();
        let rests = Arc::clone(&rest);
        let thread = std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || scribe.run(inbox, &rests))
            .expect("the operating system gives one more thread");
        let waker = Waker::new(thread.thread().clone(), rest);
        Self {
            records,
            live,
            began,
            on_the_way,
            fresh_connections: FreshConnectionRequests::default(),
            waker,
        }
    }

    /// The run's zero.
    #[must_use]
    pub const fn began(&self) -> Moment {
        self.began
    }

    /// Records something that the harness did to a replica, now; returns the moment.
    #[expect(clippy::must_use_candidate, reason = "the record is the point, the moment a convenience")]
    pub fn did(&self, replica: &Arc<str>, kind: LifecycleKind) -> Moment {
        let at = Moment::now();
        self.lifecycle(LifecycleEvent {
            at,
            replica: Arc::clone(replica),
            kind,
            source: Source::Harness,
            fields: serde_json::Map::new(),
        });
        at
    }

    /// Records that the rollout enters a phase with a restart.
    pub fn phase(&self, id: RestartId, at: Moment, phase: Phase) {
        self.send(Record::Phase { id, at, phase });
    }

    /// Records a step of a restart.
    pub fn restart(&self, id: RestartId, at: Moment, step: RestartStep) {
        self.send(Record::Restart { id, at, step });
    }

    /// Records that the load begins now.
    pub fn load_began(&self) {
        self.send(Record::LoadBegan(Moment::now()));
    }

    /// Records that nothing more is sent, what was begun, and how much the kernel's counters grew.
    pub fn load_ended(&self, at: Moment, totals: Vec<CohortTotals>, kernel: BTreeMap<String, u64>) {
        self.send(Record::LoadEnded { at, totals, kernel });
    }

    /// What the run looks like now, and a way to wait for changes.
    #[must_use]
    pub fn live(&self) -> watch::Receiver<Live> {
        self.live.clone()
    }

    /// What clients that keep their connections are asked for.
    #[must_use]
    pub fn fresh_connections(&self) -> FreshConnectionRequests {
        self.fresh_connections.clone()
    }

    /// Waits until `replica` has answered a request that was sent at or after `since`; true when it has, false when
    /// `patience` ran out. Clients that keep their connections are asked to open new ones meanwhile.
    pub async fn wait_until_answered(&self, replica: &str, since: Moment, patience: Duration) -> bool {
        let _hurry = self.waker.hurry();
        let mut live = self.live.clone();
        let ask = async {
            loop {
                tokio::time::sleep(ASK_EVERY).await;
                self.fresh_connections.ask();
            }
        };
        let has_answered = tokio::select! {
            biased;
            answered = live.wait_for(|live| live.has_answered(replica, since)) => answered.is_ok(),
            () = tokio::time::sleep(patience) => false,
            () = ask => unreachable!("it asks without an end"),
        };
        self.fresh_connections.enough();
        has_answered
    }

    /// Places everything that was seen and returns it.
    ///
    /// # Panics
    /// If the recorder's thread has panicked.
    pub async fn close(self, cut_short: Option<CutShort>) -> Recording {
        let (reply, recording) = oneshot::channel();
        self.send(Record::Close { cut_short, reply });
        self.waker.wake();
        recording.await.expect("the recorder's thread runs until it is closed")
    }

    fn send(&self, record: Record) {
        // The recorder ends only when it is closed; what comes after that belongs to no run.
        let _ = self.records.send(record);
    }
}

impl Sink for Recorder {
    fn observe(&self, observation: Observation) {
        self.on_the_way.fetch_add(1, Ordering::Relaxed);
        self.send(Record::Observation(observation));
    }

    fn lifecycle(&self, event: LifecycleEvent) {
        self.send(Record::Lifecycle(event));
    }

    fn listeners(&self, at: Moment, seen: Vec<Listener>) {
        self.send(Record::Listeners { at, seen });
    }

    fn stalled(&self, from: Moment, to: Moment) {
        self.send(Record::Stall { from, to });
    }

    fn dropped(&self, from: Moment, to: Moment, packets: u64) {
        self.send(Record::Drop { from, to, packets });
    }

    fn is_behind(&self) -> bool {
        self.on_the_way.load(Ordering::Relaxed) > MOST_ON_THE_WAY && !self.records.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cohort::CohortKind;
    use crate::model::observation::Outcome;

    #[tokio::test]
    async fn new_connections_are_asked_for_only_while_a_replica_waits_for_its_first_request() {
        let recorder = Recorder::start(&[CohortPlan::of(CohortKind::Pooled)], EventLog::discarding());
        let fresh_connections = recorder.fresh_connections();
        let since = Moment::now();
        assert!(!fresh_connections.is_wanted());
        let waiting = recorder.wait_until_answered("a", since, Duration::from_secs(30));
        let client = async {
            while !fresh_connections.is_wanted() {
                tokio::task::yield_now().await;
            }
            recorder.observe(Observation {
                replica: Some("a".into()),
                ..Observation::at(since, Outcome::Answered)
            });
        };
        let (has_answered, ()) = tokio::join!(waiting, client);
        assert!(has_answered);
        assert!(!fresh_connections.is_wanted(), "that was enough");
    }
}
