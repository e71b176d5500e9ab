//! The one place where everything that happens in a run comes together, on a thread of its own.
//!
//! Producers (load, runtime, rollout) send records and go on: no lock is taken on a request's path. The thread
//! (`recorder/thread.rs`) lets observations wait for a moment before it places them, counts each once
//! (`recorder/pending.rs`), and hands what it has counted to the recording and to `events.jsonl` every second.

mod live;
mod pending;
mod poll_interval;
mod thread;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{mpsc, oneshot, watch};

pub use live::Live;
pub use poll_interval::ShortInterval;
use poll_interval::{PollInterval, Waker};
use thread::RecorderThread;

use crate::model::budget::Budget;
use crate::model::clock::{Moment, RunTime};
use crate::model::cohort::CohortPlan;
use crate::model::cut_short::CutShort;
use crate::model::lifecycle::LifecycleEvent;
use crate::model::listener::Sighting;
use crate::model::observation::{CohortTotals, Observation};
use crate::model::restart::{RestartId, RestartStep};
use crate::model::sink::Sink;
use crate::record::events::EventLog;
use crate::record::recording::Recording;

/// So many observations may be on their way to the recorder. With more, nothing new is sent until it has caught up: the
/// requests are late, which the verdict knows, and the memory is bounded.
const MOST_ON_THE_WAY: usize = 100_000;

#[derive(Debug)]
enum Record {
    Observation(Observation),
    Lifecycle(LifecycleEvent),
    Restart { id: RestartId, at: RunTime, step: RestartStep },
    Listeners { at: RunTime, seen: Vec<Sighting> },
    Stall { from: RunTime, to: RunTime },
    Drop { from: RunTime, to: RunTime, packets: u64 },
    LoadBegan(RunTime),
    LoadEnded { at: RunTime, totals: Vec<CohortTotals>, kernel: BTreeMap<String, u64> },
    Close { cut_short: Option<CutShort>, reply: oneshot::Sender<Recording> },
}

/// A handle to the recorder; clones send to the same one.
#[derive(Debug, Clone)]
pub struct Recorder {
    records: mpsc::UnboundedSender<Record>,
    live: watch::Receiver<Live>,
    zero: Moment,
    /// Observations that were sent and not yet taken.
    on_the_way: Arc<AtomicUsize>,
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
        let zero = log.zero();
        let on_the_way = Arc::<AtomicUsize>::default();
        let recording = RecorderThread::new(zero, cohorts, budgets, log, publish, Arc::clone(&on_the_way));
        let interval = Arc::<PollInterval>::default();
        let waits = Arc::clone(&interval);
        let thread = std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || recording.run(inbox, &waits))
            .expect("the operating system gives one more thread");
        let waker = Waker::new(thread.thread().clone(), interval);
        Self { records, live, zero, on_the_way, waker }
    }

    /// Records that the load begins now.
    pub fn load_began(&self) {
        self.send(Record::LoadBegan(self.time(Moment::now())));
    }

    /// Records that nothing more is sent, what was begun, and how much the kernel's counters grew.
    pub fn load_ended(&self, at: Moment, totals: Vec<CohortTotals>, kernel: BTreeMap<String, u64>) {
        let at = self.time(at);
        self.send(Record::LoadEnded { at, totals, kernel });
    }

    /// What the run looks like now, and a way to wait for changes.
    #[must_use]
    pub fn live(&self) -> watch::Receiver<Live> {
        self.live.clone()
    }

    /// Makes the recorder look more often at what comes in, until the guard is dropped.
    #[must_use]
    pub fn shorten_interval(&self) -> ShortInterval {
        self.waker.shorten_interval()
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

    fn time(&self, moment: Moment) -> RunTime {
        moment.relative_to(self.zero)
    }

    fn send(&self, record: Record) {
        // The recorder ends only when it is closed; what comes after that belongs to no run.
        let _ = self.records.send(record);
    }
}

impl Sink for Recorder {
    fn zero(&self) -> Moment {
        self.zero
    }

    fn observe(&self, observation: Observation) {
        self.on_the_way.fetch_add(1, Ordering::Relaxed);
        self.send(Record::Observation(observation));
    }

    fn lifecycle(&self, event: LifecycleEvent) {
        self.send(Record::Lifecycle(event));
    }

    fn restart(&self, id: RestartId, at: Moment, step: RestartStep) {
        self.send(Record::Restart { id, at: self.time(at), step });
    }

    fn listeners(&self, at: Moment, seen: Vec<Sighting>) {
        self.send(Record::Listeners { at: self.time(at), seen });
    }

    fn stalled(&self, from: Moment, to: Moment) {
        self.send(Record::Stall { from: self.time(from), to: self.time(to) });
    }

    fn dropped(&self, from: Moment, to: Moment, packets: u64) {
        self.send(Record::Drop { from: self.time(from), to: self.time(to), packets });
    }

    fn is_behind(&self) -> bool {
        self.on_the_way.load(Ordering::Relaxed) > MOST_ON_THE_WAY && !self.records.is_closed()
    }
}
