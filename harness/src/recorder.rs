//! The one place where everything that happens in a run comes together, on a thread of its own.
//!
//! Producers (load, runtime, rollout) send records and go on: no lock is taken on a request's path. Observations wait
//! here for a moment before they are placed, since a replica's log line or the engine's event may arrive after the
//! request that it explains. Owns `events.jsonl`; whatever was seen is on disk about a second later, however the run
//! ends.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::budget::{Budget, FailureCount};
use crate::clock::Moment;
use crate::events::EventLog;
use crate::failure::{Failure, FailureClass};
use crate::load::cohort::CohortPlan;
use crate::load::{CohortTotals, Observation, Outcome};
use crate::phase::Phase;
use crate::placement::{self, Placement};
use crate::recording::{
    CohortRecord, CutShort, FailureRecord, LifecycleEvent, LifecycleKind, Recording, RestartRecord, Source,
    Tally, Timeline, record_us,
};

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
/// How long a replica that is ready may go without a request before clients are asked to open new connections.
const NEWCOMERS_EVERY: Duration = Duration::from_millis(100);
/// How many replicas' latest answers are known while a run goes on: those that answered last, if there are more.
const KNOWN_REPLICAS: usize = 64;

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
    /// Whether some failure breaks a budget that counts failures, whatever comes next; if no budget does, whether
    /// there was one at all. Known when failures are placed, a moment after they were seen.
    pub is_broken: bool,
    /// For each replica that gave its name: the latest start of a request that it answered.
    answered_by_name: BTreeMap<Arc<str>, Moment>,
    /// The latest start of any request that was answered.
    answered: Option<Moment>,
}

impl Live {
    /// Notes that `name` has answered a request that was sent at `started`.
    fn note_answer(&mut self, name: &Arc<str>, started: Moment) {
        if let Some(latest) = self.answered_by_name.get_mut(name) {
            *latest = started.max(*latest);
            return;
        }
        if self.answered_by_name.len() == KNOWN_REPLICAS
            && let Some(oldest) = self.answered_by_name.iter().min_by_key(|(_, latest)| **latest)
        {
            let oldest = Arc::clone(oldest.0);
            self.answered_by_name.remove(&oldest);
        }
        self.answered_by_name.insert(Arc::clone(name), started);
    }

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
    newcomers: Newcomers,
}

/// How many new connections clients that keep theirs are asked to open: a replica that comes back meets no request if
/// every client stays where it is.
#[derive(Debug, Clone, Default)]
pub struct Newcomers(Arc<AtomicU64>);

impl Newcomers {
    /// Asks for one more.
    pub(crate) fn ask(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Asks for no more.
    fn enough(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Whether whoever asks is to open a new connection; each asking is answered once.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
            && self
                .0
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |wanted| wanted.checked_sub(1))
                .is_ok()
    }
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
        let scribe = Scribe {
            on_the_way: Arc::clone(&on_the_way),
            ..Scribe::new(began, cohorts, budgets, log, publish)
        };
        std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || scribe.run(inbox))
            .expect("the operating system gives one more thread");
        Self { records, live, began, on_the_way, newcomers: Newcomers::default() }
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

    /// What clients that keep their connections are asked for.
    #[must_use]
    pub fn newcomers(&self) -> Newcomers {
        self.newcomers.clone()
    }

    /// Waits until `replica` has answered a request that was sent at or after `since`; true when it has, false when
    /// `patience` ran out. Clients that keep their connections are asked to open new ones meanwhile.
    pub async fn wait_until_answered(&self, replica: &str, since: Moment, patience: Duration) -> bool {
        let mut live = self.live.clone();
        let ask = async {
            loop {
                tokio::time::sleep(NEWCOMERS_EVERY).await;
                self.newcomers.ask();
            }
        };
        let has_answered = tokio::select! {
            biased;
            answered = live.wait_for(|live| live.has_answered(replica, since)) => answered.is_ok(),
            () = tokio::time::sleep(patience) => false,
            () = ask => unreachable!("it asks without an end"),
        };
        self.newcomers.enough();
        has_answered
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
    cohorts: Vec<CohortPlan>,
    counts: Vec<FailureCount>,
    waiting: VecDeque<Observation>,
    log: EventLog,
    live: Live,
    publish: watch::Sender<Live>,
    on_the_way: Arc<AtomicUsize>,
}

impl Scribe {
    fn new(
        began: Moment,
        cohorts: &[CohortPlan],
        budgets: &[Budget],
        log: EventLog,
        publish: watch::Sender<Live>,
    ) -> Self {
        let records = cohorts.iter().map(|plan| CohortRecord::new(plan.kind.name())).collect();
        Self {
            recording: Recording { cohorts: records, ..Recording::new(began) },
            cohorts: cohorts.to_vec(),
            counts: budgets.iter().filter_map(FailureCount::of).collect(),
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
                    self.live.note_answer(name, observation.started);
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
        let plan = &self.cohorts[observation.cohort];
        let is_long = plan.kind.is_long();
        let placement = Placement::of(&observation, plan.delay, &self.recording.phases);
        let (phase, restart) = placement.spot;
        let latency = observation.finished.since(observation.scheduled);
        self.log.observe(&observation, &placement, &self.recording.timeline, is_long);
        let recording = &mut self.recording;
        let cohort = &mut recording.cohorts[observation.cohort];
        record_us(&mut cohort.lateness, observation.started.since(observation.scheduled));
        cohort.waited += u64::from(observation.has_waited());
        cohort.coverage[placement.due.0.index()].due += 1;
        cohort.coverage[placement.sent.0.index()].sent += 1;
        cohort.in_restarts += u64::from(placement.is_in_restart);
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
            Outcome::Failed(Failure { class, ref detail }) => {
                cohort.phases[phase.index()].failed(class);
                bucket.tally.failed(class);
                if let Some(index) = restart {
                    recording.restarts[index].tally.failed(class);
                }
                let detail = detail.clone();
                self.failed(&observation, &placement, class, detail);
            }
        }
    }

    fn failed(
        &mut self,
        observation: &Observation,
        placement: &Placement,
        class: FailureClass,
        detail: String,
    ) {
        let recording = &mut self.recording;
        let (phase, restart) = placement.spot;
        let failure = FailureRecord {
            at: observation.finished,
            started: observation.started,
            cohort: recording.cohorts[observation.cohort].name,
            number: observation.number,
            class,
            detail,
            connection: observation.connection,
            is_hidden_by_retries: placement::is_hidden_by_retries(class, observation.connection),
            phase,
            restart,
            nearest: placement::nearest(&recording.events, placement.happened),
            answered_by: observation.replica.clone(),
            cause: placement::cause(class, observation.connection, &recording.events, placement.happened),
        };
        self.log.failure(&failure);
        if self.counts.is_empty() {
            self.live.is_broken |= class.is_servers();
        }
        for count in &mut self.counts {
            self.live.is_broken |= count.add(failure.cohort, phase, class);
        }
        recording.failures.add(failure);
    }

    /// Calls a failure what it is if the machine, and not the server, may have caused it.
    fn excuse(&mut self, observation: &mut Observation) {
        let Some(excuse) = placement::excuse(observation, &self.recording.stalls, &self.recording.drops)
        else {
            return;
        };
        let Outcome::Failed(failure) = &mut observation.outcome else { return };
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
    use crate::load::cohort::{CohortKind, Payload};
    use crate::load::content::{Expectation, ExpectedBody};

    fn plan(kind: CohortKind) -> CohortPlan {
        CohortPlan {
            kind,
            rate: 1.0,
            concurrency: 1,
            requests_per_connection: None,
            url: "http://127.0.0.1/".into(),
            headers: http::HeaderMap::new(),
            echo: None,
            delay: Duration::ZERO,
            payload: Payload::None,
            expectation: Expectation { status: 200, body: ExpectedBody::Any },
        }
    }

    fn observed(outcome: Outcome, started: Moment, replica: Option<&str>) -> Observation {
        Observation {
            cohort: 0,
            number: 0,
            scheduled: started,
            dispatched: started,
            started,
            finished: started.plus(Duration::from_millis(10)),
            outcome,
            replica: replica.map(Arc::from),
            connection: None,
        }
    }

    fn failed(class: FailureClass) -> Outcome {
        Outcome::Failed(Failure::new(class, ""))
    }

    /// Whether failures, placed, break one of these budgets.
    fn breaks(budgets: &[&str], classes: &[FailureClass], stall: bool) -> bool {
        let budgets: Vec<Budget> = budgets.iter().map(|text| text.parse().unwrap()).collect();
        let (publish, _live) = watch::channel(Live::default());
        let cohorts = [plan(CohortKind::Fresh)];
        let mut scribe = Scribe::new(Moment::now(), &cohorts, &budgets, EventLog::discarding(), publish);
        let began = scribe.recording.began;
        scribe.on_the_way.store(classes.len(), Ordering::Relaxed);
        if stall {
            scribe.take(Record::Stall { from: began, to: began.plus(Duration::from_millis(10)) });
        }
        for class in classes {
            scribe.take(Record::Observation(observed(failed(*class), began, None)));
        }
        scribe.place_until(Moment::from_nanoseconds(u64::MAX));
        scribe.live.is_broken
    }

    #[test]
    fn hunt_ends_at_a_failure_that_the_budgets_count() {
        use FailureClass::{Refused, Timeout};
        assert!(breaks(&["failed==0"], &[Refused], false));
        assert!(breaks(&[], &[Refused], false));
        assert!(breaks(&["p(99)<1s"], &[Refused], false), "no budget counts failures");
        assert!(!breaks(&["empty_reply==0"], &[Refused], false), "the budgets allow it");
        assert!(!breaks(&["failed<3"], &[Refused; 2], false));
        assert!(breaks(&["failed<3"], &[Refused; 3], false));
        assert!(!breaks(&["slow.failed==0"], &[Refused], false));
        assert!(breaks(&["failed==0"], &[Timeout], false));
        assert!(!breaks(&["failed==0"], &[Timeout], true), "the harness was stalled all the while");
    }

    #[test]
    fn replica_that_answered_last_is_known_however_many_there_were() {
        let mut live = Live::default();
        for number in 0..1000 {
            live.note_answer(&format!("server-a.{number}").into(), Moment::from_nanoseconds(number));
        }
        assert_eq!(live.answered_by_name.len(), KNOWN_REPLICAS);
        assert!(live.has_answered("server-a.999", Moment::from_nanoseconds(999)));
        assert!(!live.has_answered("server-a.999", Moment::from_nanoseconds(1000)));
    }

    #[tokio::test]
    async fn new_connections_are_asked_for_only_while_a_replica_waits_for_its_first_request() {
        let recorder = Recorder::start(&[plan(CohortKind::Pooled)], EventLog::discarding());
        let newcomers = recorder.newcomers();
        let since = Moment::now();
        assert!(!newcomers.is_wanted());
        let waiting = recorder.wait_until_answered("a", since, Duration::from_secs(30));
        let client = async {
            while !newcomers.is_wanted() {
                tokio::task::yield_now().await;
            }
            recorder.observe(observed(Outcome::Answered, since, Some("a")));
        };
        let (has_answered, ()) = tokio::join!(waiting, client);
        assert!(has_answered);
        assert!(!newcomers.is_wanted(), "that was enough");
    }
}
