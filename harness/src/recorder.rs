//! The one place where everything that happens in a run comes together, on a thread of its own.
//!
//! Producers (load, runtime, rollout) send records and go on: no lock is taken on a request's path. Observations wait
//! here for a moment before they are placed, since a replica's log line or the engine's event may arrive after the
//! request that it explains. Owns `events.jsonl`; whatever was seen is on disk about a second later, however the run
//! ends.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::Moment;
use crate::events::EventLog;
use crate::failure::{Failure, FailureClass};
use crate::load::cohort::{CohortKind, CohortPlan};
use crate::load::{CohortTotals, ConnectionUse, Observation, Outcome};
use crate::phase::{Phase, Phases};
use crate::recording::{
    CohortRecord, CutShort, FailureRecord, LifecycleEvent, LifecycleKind, Nearest, Recording, RestartRecord,
    Source, Tally, Timeline, record_us,
};
use crate::shortage::Stalls;

/// How long an observation waits for the events that explain it.
const HOLD: Duration = Duration::from_millis(1500);
/// How long the recorder rests after it has taken what was there. A thread that sleeps costs every request a system call
/// to wake it; one that comes back a thousand times a second costs none.
const REST: Duration = Duration::from_millis(1);
/// How many records are taken at once.
const BATCH: usize = 4096;
/// So many observations may be on their way to the recorder. With more, nothing new is sent until it has caught up: the
/// requests are late, which the verdict knows, and the memory is bounded.
const MOST_ON_THE_WAY: usize = 100_000;
/// How many failures a recording keeps with all they say; the rest is counted.
pub(crate) const KEPT_FAILURES: usize = 1000;
/// How far back the nearest lifecycle event is looked for.
const NEAREST_WITHIN: usize = 256;

/// A restart, counted from 0 in the order of the rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartId(pub usize);

/// What the rollout did, or learnt about a restart.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum RestartStep {
    /// It was taken up.
    Began {
        /// Who.
        replica: Arc<str>,
        /// In which round, from 1.
        round: u32,
    },
    /// Another takes its place.
    Succeeded {
        /// Who.
        by: Arc<str>,
    },
    /// The stop was asked for.
    Terminated,
    /// The process is gone.
    Exited {
        /// Its exit code.
        code: Option<i64>,
        /// Whether the engine had to kill it.
        killed: bool,
    },
    /// It was started again.
    Started,
    /// It is ready again.
    Ready,
    /// It has answered a request again.
    Answered,
}

#[derive(Debug)]
enum Record {
    Observation(Observation),
    Lifecycle(LifecycleEvent),
    Restart { id: RestartId, at: Moment, step: RestartStep },
    Phase { id: RestartId, at: Moment, phase: Phase },
    Queue { at: Moment, depth: u64 },
    Stall { from: Moment, to: Moment },
    Drop { from: Moment, to: Moment, packets: u64 },
    LoadBegan(Moment),
    LoadEnded { at: Moment, totals: Vec<CohortTotals>, kernel: BTreeMap<String, u64> },
    Close { cut_short: Option<CutShort>, reply: oneshot::Sender<Recording> },
}

/// What a run looks like from outside while it goes on.
#[derive(Debug, Clone, Default)]
pub struct Live {
    /// Requests whose end was seen.
    pub requests: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Failures by class, by position in `FailureClass::ALL`.
    pub by_class: [u64; FailureClass::ALL.len()],
    /// The phase, and whose restart it is.
    pub phase: Option<(Phase, Arc<str>)>,
    /// Restarts that were begun.
    pub restarts: usize,
    /// Whose was the last of them.
    pub restarting: Option<Arc<str>>,
    /// Restarts that came to their end: the replica was ready again and answered.
    pub ended: usize,
    /// For each replica that gave its name: the latest start of a request that it answered.
    answered_by_name: BTreeMap<Arc<str>, Moment>,
    /// The latest start of any request that was answered.
    answered: Option<Moment>,
}

impl Live {
    /// Whether `replica` has answered a request that was sent at or after `since`. A replica that never gives its
    /// name is taken to have answered when anybody has.
    fn has_answered(&self, replica: &str, since: Moment) -> bool {
        self.answered_by_name.get(replica).copied().or(self.answered).is_some_and(|started| started >= since)
    }
}

/// A handle to the recorder; clones send to the same one.
#[derive(Debug, Clone)]
pub struct Recorder {
    records: mpsc::UnboundedSender<Record>,
    live: watch::Receiver<Live>,
    began: Moment,
    /// Observations that were sent and not yet taken.
    on_the_way: Arc<AtomicUsize>,
}

impl Recorder {
    /// Starts the recorder's thread. Its zero is now.
    ///
    /// # Panics
    /// If the operating system gives no thread.
    #[must_use]
    pub fn start(cohorts: &[CohortPlan], log: EventLog) -> Self {
        let (records, inbox) = mpsc::unbounded_channel();
        let (publish, live) = watch::channel(Live::default());
        let began = log.began();
        let on_the_way = Arc::<AtomicUsize>::default();
        let scribe =
            Scribe { on_the_way: Arc::clone(&on_the_way), ..Scribe::new(began, cohorts, log, publish) };
        std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || scribe.run(inbox))
            .expect("the operating system gives one more thread");
        Self { records, live, began, on_the_way }
    }

    /// The run's zero.
    #[must_use]
    pub const fn began(&self) -> Moment {
        self.began
    }

    /// Records the end of a request.
    pub fn observe(&self, observation: Observation) {
        self.on_the_way.fetch_add(1, Ordering::Relaxed);
        self.send(Record::Observation(observation));
    }

    /// Waits while more observations are on their way than the recorder should have to keep.
    pub async fn wait_until_it_keeps_up(&self) {
        while self.on_the_way.load(Ordering::Relaxed) > MOST_ON_THE_WAY && !self.records.is_closed() {
            tokio::time::sleep(REST).await;
        }
    }

    /// Records something in a replica's life.
    pub fn lifecycle(&self, event: LifecycleEvent) {
        self.send(Record::Lifecycle(event));
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

    /// Records how many connections wait to be accepted.
    pub fn queue(&self, at: Moment, depth: u64) {
        self.send(Record::Queue { at, depth });
    }

    /// Records that the harness did not get to run although it had something to do.
    pub(crate) fn stalled(&self, from: Moment, to: Moment) {
        self.send(Record::Stall { from, to });
    }

    /// Records that the kernel dropped packets, since its table of connections was full.
    pub(crate) fn dropped(&self, from: Moment, to: Moment, packets: u64) {
        self.send(Record::Drop { from, to, packets });
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

    /// Waits until `replica` has answered a request that was sent at or after `since`; true when it has, false when
    /// `patience` ran out.
    pub async fn wait_until_answered(&self, replica: &str, since: Moment, patience: Duration) -> bool {
        let mut live = self.live.clone();
        let answered = live.wait_for(|live| live.has_answered(replica, since));
        matches!(tokio::time::timeout(patience, answered).await, Ok(Ok(_)))
    }

    /// Places everything that was seen and returns it.
    ///
    /// # Panics
    /// If the recorder's thread has panicked.
    pub async fn close(self, cut_short: Option<CutShort>) -> Recording {
        let (reply, recording) = oneshot::channel();
        self.send(Record::Close { cut_short, reply });
        recording.await.expect("the recorder's thread runs until it is closed")
    }

    fn send(&self, record: Record) {
        // The recorder ends only when it is closed; what comes after that belongs to no run.
        let _ = self.records.send(record);
    }
}

/// The thread's state: the recording so far, and what is still to be placed.
struct Scribe {
    recording: Recording,
    kinds: Vec<CohortKind>,
    waiting: VecDeque<Observation>,
    log: EventLog,
    live: Live,
    publish: watch::Sender<Live>,
    on_the_way: Arc<AtomicUsize>,
}

impl Scribe {
    fn new(began: Moment, cohorts: &[CohortPlan], log: EventLog, publish: watch::Sender<Live>) -> Self {
        let microseconds = || Histogram::new(3).expect("a histogram has 1 to 5 significant digits");
        let cohort_records = cohorts.iter().map(|plan| CohortRecord {
            name: plan.kind.name(),
            phases: std::array::from_fn(|_| Tally::new(3)),
            totals: CohortTotals::default(),
            lateness: microseconds(),
            service: microseconds(),
            waited: 0,
        });
        let recording = Recording { cohorts: cohort_records.collect(), ..Recording::new(began) };
        let kinds = cohorts.iter().map(|plan| plan.kind).collect();
        Self {
            recording,
            kinds,
            waiting: VecDeque::new(),
            log,
            live: Live::default(),
            publish,
            on_the_way: Arc::default(),
        }
    }

    fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Record>) {
        let mut batch = Vec::with_capacity(BATCH);
        while inbox.blocking_recv_many(&mut batch, BATCH) > 0 {
            let is_all = batch.len() < BATCH;
            for record in batch.drain(..) {
                match record {
                    Record::Close { cut_short, reply } => {
                        let _ = reply.send(self.finish(cut_short));
                        return;
                    }
                    other => self.take(other),
                }
            }
            self.place_until(Moment::now().minus(HOLD));
            self.log.tick(&self.recording);
            self.publish.send_replace(self.live.clone());
            if is_all {
                std::thread::sleep(REST);
            }
        }
    }

    fn take(&mut self, record: Record) {
        match record {
            Record::Observation(observation) => self.observe(observation),
            Record::Lifecycle(event) => {
                self.log.lifecycle(&event);
                self.recording.events.push(event);
            }
            Record::Restart { id, at, step } => self.restart(id, at, step),
            Record::Phase { id, at, phase } => self.phase(id, at, phase),
            Record::LoadBegan(at) => {
                self.recording.load_began = Some(at);
                self.recording.timeline = Timeline::new(at);
                self.log.load_began(at);
            }
            Record::Queue { at, depth } => {
                self.log.queue(at, depth, &self.recording.timeline);
                self.recording.accept_queue_max = self.recording.accept_queue_max.max(Some(depth));
                let bucket = self.recording.timeline.at(at);
                bucket.queue = bucket.queue.max(Some(depth));
            }
            Record::Stall { from, to } => {
                self.log.stalled(from, to);
                self.recording.stalls.add(from, to);
            }
            Record::Drop { from, to, packets } => {
                self.log.dropped(from, to, packets);
                self.recording.drops.add(from, to, packets);
            }
            Record::LoadEnded { at, totals, kernel } => {
                self.recording.load_ended = Some(at);
                self.recording.kernel = kernel;
                self.log.load_ended(at, &totals, &self.recording);
                for (cohort, totals) in self.recording.cohorts.iter_mut().zip(totals) {
                    cohort.totals = totals;
                }
            }
            Record::Close { .. } => unreachable!("the loop ends with it"),
        }
    }

    fn observe(&mut self, observation: Observation) {
        self.on_the_way.fetch_sub(1, Ordering::Relaxed);
        self.live.requests += 1;
        match &observation.outcome {
            Outcome::Answered => {
                self.live.answered = self.live.answered.max(Some(observation.started));
                if let Some(name) = &observation.replica {
                    let latest =
                        self.live.answered_by_name.entry(Arc::clone(name)).or_insert(observation.started);
                    *latest = observation.started.max(*latest);
                }
            }
            Outcome::Failed(failure) => {
                self.live.failed += u64::from(failure.class.is_servers());
                self.live.by_class[failure.class as usize] += 1;
            }
        }
        self.waiting.push_back(observation);
    }

    fn restart(&mut self, id: RestartId, at: Moment, step: RestartStep) {
        if let RestartStep::Began { replica, .. } = &step {
            self.live.restarts += 1;
            self.live.restarting = Some(Arc::clone(replica));
        }
        self.live.ended += usize::from(matches!(step, RestartStep::Answered));
        self.log.restart(at, id.0, step.clone());
        self.recording.take_step(id, at, step);
    }

    fn phase(&mut self, id: RestartId, at: Moment, phase: Phase) {
        let Some(record) = self.recording.restarts.get(id.0) else { return };
        self.live.phase = Some((phase, Arc::clone(&record.replica)));
        let restart = phase.is_restart().then_some(id.0);
        self.log.phase(at, phase, restart, &record.replica, record.round);
        self.recording.phases.enter(at, phase, restart);
    }

    /// Places what ended at or before `settled`. Records arrive nearly in the order of their ends; one that is behind
    /// a later one waits a little longer.
    fn place_until(&mut self, settled: Moment) {
        while self.waiting.front().is_some_and(|observation| observation.finished <= settled) {
            if let Some(observation) = self.waiting.pop_front() {
                self.place(observation);
            }
        }
    }

    fn place(&mut self, mut observation: Observation) {
        self.excuse(&mut observation);
        let happened = moment_of(&observation, &self.recording.phases);
        let (phase, restart) = self.recording.phases.at(happened);
        let latency = observation.finished.since(observation.scheduled);
        let is_long = self.kinds[observation.cohort].is_long();
        self.log.observe(&observation, phase, restart, &self.recording.timeline, is_long);
        let recording = &mut self.recording;
        let cohort = &mut recording.cohorts[observation.cohort];
        record_us(&mut cohort.lateness, observation.started.since(observation.scheduled));
        cohort.waited += u64::from(observation.has_waited());
        let bucket = recording.timeline.at(observation.finished);
        match observation.outcome {
            Outcome::Answered => {
                cohort.phases[phase.index()].answered(latency);
                record_us(&mut cohort.service, observation.finished.since(observation.started));
                let window = restart.map(|index| &mut recording.restarts[index].tally);
                for tally in window.into_iter().chain([&mut bucket.tally]) {
                    if is_long {
                        tally.requests += 1;
                    } else {
                        tally.answered(latency);
                    }
                }
                if let Some(name) = observation.replica {
                    *bucket.replicas.entry(Arc::clone(&name)).or_default() += 1;
                    *recording.answered_by.entry(name).or_default() += 1;
                }
            }
            Outcome::Failed(Failure { class, detail }) => {
                cohort.phases[phase.index()].failed(class);
                bucket.tally.failed(class);
                if let Some(index) = restart {
                    recording.restarts[index].tally.failed(class);
                }
                let failure = FailureRecord {
                    at: observation.finished,
                    started: observation.started,
                    cohort: cohort.name,
                    number: observation.number,
                    class,
                    detail,
                    connection: observation.connection,
                    is_hidden_by_retries: is_hidden_by_retries(
                        self.kinds[observation.cohort],
                        class,
                        observation.connection,
                    ),
                    phase,
                    restart,
                    nearest: nearest(&recording.events, happened),
                };
                self.log.failure(&failure);
                if recording.failures.len() < KEPT_FAILURES {
                    recording.failures.push(failure);
                } else {
                    recording.failures_cut += 1;
                }
            }
        }
    }

    /// Silence says nothing of the server if the harness could not listen, or the kernel lost the question: see
    /// [`Stalls::excuse`] and [`Drops::touch`](crate::shortage::Drops::touch).
    fn excuse(&mut self, observation: &mut Observation) {
        let Outcome::Failed(failure) = &mut observation.outcome else { return };
        if !failure.class.is_silence() {
            return;
        }
        let (from, to) = (observation.started, observation.finished);
        let stalled = self.recording.stalls.within(from, to);
        let excuse = if Stalls::excuse(stalled, to.since(from)) {
            format!("the harness was stalled for {} ms of it", stalled.as_millis())
        } else if self.recording.drops.touch(from, to) {
            "the kernel dropped packets meanwhile, since its table of connections was full".to_owned()
        } else {
            return;
        };
        self.live.failed -= 1;
        self.live.by_class[failure.class as usize] -= 1;
        self.live.by_class[FailureClass::HarnessResource as usize] += 1;
        *failure = Failure::new(FailureClass::HarnessResource, format!("{}: {excuse}", failure.detail));
    }

    fn finish(mut self, cut_short: Option<CutShort>) -> Recording {
        self.place_until(Moment::from_nanoseconds(u64::MAX));
        self.recording.ended = Moment::now();
        self.recording.cut_short = cut_short;
        attach_accounts(&mut self.recording);
        self.log.close(&self.recording);
        self.publish.send_replace(self.live);
        self.recording
    }
}

impl Recording {
    /// Notes a step of a restart.
    pub(crate) fn take_step(&mut self, id: RestartId, at: Moment, step: RestartStep) {
        if let RestartStep::Began { replica, round } = &step {
            self.restarts.push(RestartRecord {
                replica: Arc::clone(replica),
                successor: None,
                round: *round,
                began: at,
                terminated: None,
                exited: None,
                started: None,
                ready: None,
                answered: None,
                exit_code: None,
                killed: false,
                tally: Tally::new(2),
                account: serde_json::Map::new(),
            });
        }
        let Some(record) = self.restarts.get_mut(id.0) else { return };
        match step {
            RestartStep::Began { .. } => {}
            RestartStep::Succeeded { by } => record.successor = Some(by),
            RestartStep::Terminated => record.terminated = Some(at),
            RestartStep::Exited { code, killed } => {
                (record.exited, record.exit_code, record.killed) = (Some(at), code, killed);
            }
            RestartStep::Started => record.started = Some(at),
            RestartStep::Ready => record.ready = Some(at),
            RestartStep::Answered => record.answered = Some(at),
        }
    }
}

/// When what happened to a request did happen, as far as can be told. A failure to connect, and silence, are seen after
/// their cause: one that is seen when all is steady again, and whose request began in a restart, is that restart's.
fn moment_of(observation: &Observation, phases: &Phases) -> Moment {
    use FailureClass::{ConnectTimeout, Refused, Timeout};
    let is_seen_late = match &observation.outcome {
        Outcome::Failed(failure) => matches!(failure.class, Refused | ConnectTimeout | Timeout),
        Outcome::Answered => false,
    };
    let (seen_in, _) = phases.at(observation.finished);
    if is_seen_late && seen_in == Phase::Steady { observation.started } else { observation.finished }
}

/// Whether a client that repeats an idempotent request once, when its kept connection broke before any answer, would
/// have reported success: what Go's `net/http` does (`shouldRetryRequest` in its transport.go).
fn is_hidden_by_retries(kind: CohortKind, class: FailureClass, connection: Option<ConnectionUse>) -> bool {
    let is_reused = connection.map_or(kind.reuses_connections(), |used| used.nth > 1);
    is_reused && matches!(class, FailureClass::EmptyReply | FailureClass::ResetBeforeResponse)
}

/// The lifecycle event nearest to `moment`, among the latest ones. A server that logs knows best when it did what; the
/// engine's and the harness's word counts where there is no such log.
fn nearest(events: &[LifecycleEvent], moment: Moment) -> Option<Nearest> {
    let latest = &events[events.len().saturating_sub(NEAREST_WITHIN)..];
    let has_log = latest.iter().any(|event| event.source == Source::Server);
    latest
        .iter()
        .filter(|event| !has_log || event.source == Source::Server)
        .min_by_key(|event| event.at.since(moment).max(moment.since(event.at)))
        .map(|event| Nearest {
            replica: Arc::clone(&event.replica),
            kind: event.kind,
            offset_ms: moment.offset_ms(event.at),
        })
}

/// Gives each restart what its replica logged about its own end: its first such line after it was told to stop.
pub(crate) fn attach_accounts(recording: &mut Recording) {
    for restart in &mut recording.restarts {
        let Some(terminated) = restart.terminated else { continue };
        let account = recording.events.iter().find(|event| {
            event.kind == LifecycleKind::Exiting && event.replica == restart.replica && event.at >= terminated
        });
        if let Some(event) = account {
            restart.account.clone_from(&event.fields);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(nanoseconds: u64) -> Moment {
        Moment::from_nanoseconds(nanoseconds)
    }

    /// A request that began at 15 and whose failure was seen at `finished`, around a gap from 10 to 20.
    fn phase_of(class: FailureClass, finished: u64) -> Phase {
        let mut phases = Phases::new();
        phases.enter(at(10), Phase::Gap, Some(0));
        phases.enter(at(20), Phase::Steady, None);
        let observation = Observation {
            cohort: 0,
            number: 0,
            scheduled: at(14),
            dispatched: at(14),
            started: at(15),
            finished: at(finished),
            outcome: Outcome::Failed(Failure::new(class, "")),
            replica: None,
            connection: None,
        };
        phases.at(moment_of(&observation, &phases)).0
    }

    #[test]
    fn connect_that_was_refused_in_the_gap_is_the_gaps_even_if_it_is_seen_after_it() {
        assert_eq!(phase_of(FailureClass::Refused, 19), Phase::Gap);
        assert_eq!(phase_of(FailureClass::Refused, 21), Phase::Gap);
        assert_eq!(phase_of(FailureClass::Timeout, 5000), Phase::Gap);
    }

    #[test]
    fn connection_that_breaks_when_all_is_steady_again_is_no_restarts() {
        assert_eq!(phase_of(FailureClass::EmptyReply, 21), Phase::Steady);
        assert_eq!(phase_of(FailureClass::Truncated, 5000), Phase::Steady);
    }
}
