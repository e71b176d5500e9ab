//! What a run leaves behind: plain data, filled by the [`recorder`](crate::recorder), read by the
//! [`summary`](crate::summary). Its size does not grow with the number of requests.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::failure::{Cause, FailureClass};
use crate::load::{CohortTotals, ConnectionUse};
use crate::phase::{Phase, Phases};
use crate::shortage::{Drops, Stalls};

/// Something that happened in a replica's life.
#[derive(Debug, Clone)]
pub struct LifecycleEvent {
    /// When.
    pub at: Moment,
    /// To whom.
    pub replica: Arc<str>,
    /// What.
    pub kind: LifecycleKind,
    /// Who says so.
    pub source: Source,
    /// What else was said: the fields of a server's log line, an exit code, a signal.
    pub fields: serde_json::Map<String, serde_json::Value>,
}

/// What happened in a replica's life, in the order in which it usually happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LifecycleKind {
    /// The harness asked for its start.
    StartRequested,
    /// Its process began.
    Started,
    /// Its socket listens.
    Listening,
    /// It says, or its check says, that it is ready.
    Ready,
    /// The harness asked for its end.
    TerminateRequested,
    /// The engine sent it the stop signal.
    SignalSent,
    /// It received the signal.
    SignalReceived,
    /// It began to drain.
    Draining,
    /// It closed its listener.
    ListenerClosed,
    /// It claimed a listener that a sibling held.
    ListenerClaimed,
    /// It took a listener from a sibling that stops.
    ListenerTaken,
    /// It gave a listener back to a sibling that starts.
    ListenerReturned,
    /// It gave its listener to a sibling.
    ListenerGiven,
    /// It began to give its connections to siblings.
    HandoverBegun,
    /// It found no sibling and serves on for a while.
    LameDuck,
    /// Its last response was finished.
    LastResponse,
    /// Everything in flight was finished.
    Drained,
    /// The drain timeout ran out.
    DrainTimeout,
    /// The engine killed it.
    Killed,
    /// It says that it ends.
    Exiting,
    /// Its process is gone.
    Exited,
}

impl LifecycleKind {
    /// The name in reports; also the `event` of our own server's log line, for those that it logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::StartRequested => "start_requested",
            Self::Started => "started",
            Self::Listening => "listening",
            Self::Ready => "ready",
            Self::TerminateRequested => "terminate_requested",
            Self::SignalSent => "signal_sent",
            Self::SignalReceived => "signal_received",
            Self::Draining => "draining",
            Self::ListenerClosed => "listener_closed",
            Self::ListenerClaimed => "listener_claimed",
            Self::ListenerTaken => "listener_taken",
            Self::ListenerReturned => "listener_returned",
            Self::ListenerGiven => "listener_given",
            Self::HandoverBegun => "handover_begun",
            Self::LameDuck => "lame_duck",
            Self::LastResponse => "last_response",
            Self::Drained => "drained",
            Self::DrainTimeout => "drain_timeout",
            Self::Killed => "killed",
            Self::Exiting => "exiting",
            Self::Exited => "exited",
        }
    }

    /// In words that complete "3 ms after server-b …".
    #[must_use]
    pub const fn phrase(self) -> &'static str {
        match self {
            Self::StartRequested => "was asked to start",
            Self::Started => "began",
            Self::Listening => "opened its listener",
            Self::Ready => "became ready",
            Self::TerminateRequested => "was asked to stop",
            Self::SignalSent => "was sent the signal",
            Self::SignalReceived => "received the signal",
            Self::Draining => "began to drain",
            Self::ListenerClosed => "closed its listener",
            Self::ListenerClaimed => "claimed its listener",
            Self::ListenerTaken => "took a listener over",
            Self::ListenerReturned => "gave a listener back",
            Self::ListenerGiven => "handed its listener over",
            Self::HandoverBegun => "began to hand its connections over",
            Self::LameDuck => "found no sibling",
            Self::LastResponse => "finished its last response",
            Self::Drained => "had drained",
            Self::DrainTimeout => "reached its drain timeout",
            Self::Killed => "was killed",
            Self::Exiting | Self::Exited => "ended",
        }
    }
}

/// Who says that something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The harness, which did it.
    Harness,
    /// The container engine.
    Engine,
    /// The server, in its log.
    Server,
}

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
}

/// How much of its load a phase has seen. A generator that stands still sends what was due in one phase in another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Requests that were due in it.
    pub due: u64,
    /// Requests that were sent in it, whenever they were due.
    pub sent: u64,
}

/// One restart, or replacement, of one replica.
#[derive(Debug, Clone)]
pub struct RestartRecord {
    /// Who.
    pub replica: Arc<str>,
    /// Who took its place, if it was replaced under another name.
    pub successor: Option<Arc<str>>,
    /// In which round, from 1.
    pub round: u32,
    /// When the harness took it up.
    pub began: Moment,
    /// When the harness asked for the stop.
    pub terminated: Option<Moment>,
    /// When the process was gone.
    pub exited: Option<Moment>,
    /// When it was started again.
    pub started: Option<Moment>,
    /// When it was ready again.
    pub ready: Option<Moment>,
    /// When it had answered a request again.
    pub answered: Option<Moment>,
    /// The process's exit code.
    pub exit_code: Option<i64>,
    /// Whether the engine had to kill it.
    pub killed: bool,
    /// Requests that ended from the stop until it was ready again. Latencies leave out cohorts that are slow on purpose.
    pub tally: Tally,
    /// What the server logged of its own end: the fields of its `exit` line.
    pub account: serde_json::Map<String, serde_json::Value>,
}

impl RestartRecord {
    /// When the old process was gone and the new one ready, or the last of these that is known.
    #[must_use]
    pub fn ended(&self) -> Moment {
        [self.terminated, self.exited, self.started, self.ready]
            .into_iter()
            .flatten()
            .fold(self.began, Moment::max)
    }
}

/// A failed request, placed.
#[derive(Debug, Clone)]
pub struct FailureRecord {
    /// When the client saw it.
    pub at: Moment,
    /// When the request was sent.
    pub started: Moment,
    /// Its cohort.
    pub cohort: &'static str,
    /// Which request of the cohort, from 0.
    pub number: u64,
    /// What was seen.
    pub class: FailureClass,
    /// The chain of errors.
    pub detail: String,
    /// What is known of its connection.
    pub connection: Option<ConnectionUse>,
    /// Whether a client that repeats idempotent requests would have hidden it.
    pub is_hidden_by_retries: bool,
    /// Where in the rollout.
    pub phase: Phase,
    /// Which restart, counted from 0.
    pub restart: Option<usize>,
    /// The lifecycle event nearest in time, if there was one.
    pub nearest: Option<Nearest>,
    /// Who answered, if there was an answer that said so.
    pub answered_by: Option<Arc<str>>,
    /// What caused it, as far as the evidence tells.
    pub cause: Option<Cause>,
}

/// The failures that are kept with all they say: some of each restart and class, so that a run whose first restart loses
/// thousands still shows what the later ones lost. The rest is counted.
#[derive(Debug, Default)]
pub struct KeptFailures {
    kept: Vec<FailureRecord>,
    counts: HashMap<(Option<usize>, FailureClass), usize>,
    /// How often the share of each restart and class was halved.
    halvings: u32,
    cut: u64,
}

impl KeptFailures {
    /// How many are kept at most.
    pub const MOST: usize = 1000;
    /// How many of a restart and class, unless there are too many of these.
    const SHARE: usize = 64;
    /// How many times as many of those that belong to no restart.
    const STEADY: usize = 8;

    /// Keeps a failure, or counts it.
    pub fn add(&mut self, failure: FailureRecord) {
        let share = self.share(failure.restart);
        let count = self.counts.entry((failure.restart, failure.class)).or_default();
        if *count >= share {
            self.cut += 1;
            return;
        }
        if self.kept.len() == Self::MOST && !self.make_room() {
            self.cut += 1;
            return;
        }
        // Room may have been made by halving the shares.
        let share = self.share(failure.restart);
        let count = self.counts.entry((failure.restart, failure.class)).or_default();
        if *count >= share {
            self.cut += 1;
        } else {
            *count += 1;
            self.kept.push(failure);
        }
    }

    /// Those that are kept, in the order in which they were added.
    #[must_use]
    pub fn kept(&self) -> &[FailureRecord] {
        &self.kept
    }

    /// How many were added and are not kept.
    #[must_use]
    pub const fn cut(&self) -> u64 {
        self.cut
    }

    /// Counts failures of which nothing else is known.
    pub(crate) fn set_cut(&mut self, cut: u64) {
        self.cut = cut;
    }

    fn share(&self, restart: Option<usize>) -> usize {
        let times = if restart.is_some() { 1 } else { Self::STEADY };
        ((Self::SHARE >> self.halvings.min(6)) * times).max(1)
    }

    /// Halves the shares until there is room; false if each has one already.
    fn make_room(&mut self) -> bool {
        while self.kept.len() >= Self::MOST && self.halvings < 9 {
            self.halvings += 1;
            self.counts.clear();
            let mut kept = std::mem::take(&mut self.kept);
            let before = kept.len();
            kept.retain(|failure| {
                let share = self.share(failure.restart);
                let count = self.counts.entry((failure.restart, failure.class)).or_default();
                *count += 1;
                if *count > share {
                    *count = share;
                    return false;
                }
                true
            });
            self.cut += (before - kept.len()) as u64;
            self.kept = kept;
        }
        self.kept.len() < Self::MOST
    }
}

/// The lifecycle event nearest to a failure.
#[derive(Debug, Clone)]
pub struct Nearest {
    /// Whose life.
    pub replica: Arc<str>,
    /// What happened.
    pub kind: LifecycleKind,
    /// Milliseconds from the event to the failure; negative if the failure came first.
    pub offset_ms: f64,
}

/// A stretch of time, for the picture of the run.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// What ended in it. Latencies leave out cohorts that are slow on purpose.
    pub tally: Tally,
    /// Answers by replica.
    pub replicas: BTreeMap<Arc<str>, u64>,
    /// The most connections that waited to be accepted; none if nobody looked.
    pub queue: Option<u64>,
}

impl Bucket {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self { tally: Tally::new(1), replicas: BTreeMap::new(), queue: None }
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
    pub began: Moment,
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
    pub const fn new(began: Moment) -> Self {
        Self { began, width: Duration::from_millis(25), buckets: Vec::new() }
    }

    /// The bucket of `moment`; what lies before the beginning counts into the first.
    pub fn at(&mut self, moment: Moment) -> &mut Bucket {
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

    /// When the bucket of `moment` begins, and how long it is.
    pub(crate) fn stretch_of(&self, moment: Moment) -> (Moment, Duration) {
        let width = self.width.as_nanos();
        let whole = moment.since(self.began).as_nanos() / width * width;
        (self.began.plus(Duration::from_nanos(u64::try_from(whole).unwrap_or(u64::MAX))), self.width)
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

/// Why a run ended before its rollout did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CutShort {
    /// A failure was found, and the run was to look for one.
    FailureFound,
    /// Somebody pressed Ctrl-C, or sent SIGTERM.
    Interrupted,
    /// The rollout could not go on; the text says why.
    RolloutFailed(String),
    /// The harness was killed, and this is what its events say.
    Killed,
}

const ROLLOUT_FAILED: &str = "the rollout could not go on: ";

impl CutShort {
    /// Reads what was displayed.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        [Self::Interrupted, Self::FailureFound, Self::Killed]
            .into_iter()
            .find(|reason| reason.to_string() == text)
            .unwrap_or_else(|| {
                Self::RolloutFailed(text.strip_prefix(ROLLOUT_FAILED).unwrap_or(text).to_owned())
            })
    }
}

impl fmt::Display for CutShort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FailureFound => out.write_str("the first failure ended the run, as asked"),
            Self::Interrupted => out.write_str("the run was interrupted"),
            Self::RolloutFailed(why) => write!(out, "{ROLLOUT_FAILED}{why}"),
            Self::Killed => out.write_str("the run was killed; this is what its events.jsonl says"),
        }
    }
}

/// Everything that a run leaves behind.
#[derive(Debug)]
pub struct Recording {
    /// When the recorder was started: the run's zero.
    pub began: Moment,
    /// When the load began.
    pub load_began: Option<Moment>,
    /// When nothing more was sent.
    pub load_ended: Option<Moment>,
    /// When the recorder was closed.
    pub ended: Moment,
    /// The replicas' lives, in the order of arrival.
    pub events: Vec<LifecycleEvent>,
    /// The phases.
    pub phases: Phases,
    /// The restarts, in order.
    pub restarts: Vec<RestartRecord>,
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
    /// The most connections that were seen waiting to be accepted.
    pub accept_queue_max: Option<u64>,
    /// When the harness was short of CPU.
    pub stalls: Stalls,
    /// When the kernel dropped packets because its table of connections was full.
    pub drops: Drops,
    /// Why it ended early, if it did.
    pub cut_short: Option<CutShort>,
}

/// Records a duration in microseconds. What is longer than a day is a day: the histogram grows with its largest value.
pub fn record_us(histogram: &mut Histogram<u64>, duration: Duration) {
    const DAY_US: u128 = 86_400_000_000;
    // An auto-resizing histogram takes every value.
    let _ = histogram.record(duration.as_micros().min(DAY_US) as u64);
}

impl Recording {
    /// A run that began at `began` and has seen nothing yet.
    #[must_use]
    pub fn new(began: Moment) -> Self {
        Self {
            began,
            load_began: None,
            load_ended: None,
            ended: began,
            events: Vec::new(),
            phases: Phases::new(),
            restarts: Vec::new(),
            cohorts: Vec::new(),
            failures: KeptFailures::default(),
            answered_by: BTreeMap::new(),
            timeline: Timeline::new(began),
            kernel: BTreeMap::new(),
            accept_queue_max: None,
            stalls: Stalls::default(),
            drops: Drops::default(),
            cut_short: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn harness_shortage_is_no_failure_of_the_server() {
        let mut tally = Tally::new(3);
        tally.failed(FailureClass::HarnessResource);
        tally.failed(FailureClass::Refused);
        tally.answered(Duration::from_millis(3));
        assert_eq!((tally.requests, tally.failures(), tally.ok()), (3, 1, 1));
    }

    fn failure(restart: Option<usize>, number: u64, class: FailureClass) -> FailureRecord {
        FailureRecord {
            at: Moment::from_nanoseconds(number),
            started: Moment::from_nanoseconds(number),
            cohort: "fresh",
            number,
            class,
            detail: String::new(),
            connection: None,
            is_hidden_by_retries: false,
            phase: Phase::Gap,
            restart,
            nearest: None,
            answered_by: None,
            cause: None,
        }
    }

    #[test]
    fn every_restart_and_class_keeps_failures_however_many_there_are_before() {
        let mut failures = KeptFailures::default();
        for number in 0..5_000 {
            failures.add(failure(Some(0), number, FailureClass::Refused));
        }
        assert_eq!(
            (failures.kept().len(), failures.cut()),
            (64, 4_936),
            "a restart takes its share and no more"
        );
        for restart in 1..900 {
            for number in 0..100 {
                failures.add(failure(Some(restart), number, FailureClass::Refused));
            }
        }
        failures.add(failure(Some(900), 7, FailureClass::EmptyReply));
        assert!(failures.kept().len() <= KeptFailures::MOST);
        assert_eq!(failures.kept().len() as u64 + failures.cut(), 5_000 + 899 * 100 + 1, "none is forgotten");
        for restart in 0..=900 {
            assert!(
                failures.kept().iter().any(|failure| failure.restart == Some(restart)),
                "restart {restart}"
            );
        }
        let numbers: Vec<u64> = failures.kept().iter().take(1).map(|failure| failure.number).collect();
        assert_eq!(numbers, [0], "the first ones are kept");
    }

    #[test]
    fn failures_of_no_restart_are_kept_in_greater_number() {
        let mut failures = KeptFailures::default();
        for number in 0..600 {
            failures.add(failure(None, number, FailureClass::EmptyReply));
        }
        assert_eq!((failures.kept().len(), failures.cut()), (512, 88));
    }

    proptest! {
        #[test]
        fn timeline_loses_nothing_and_stays_bounded(offsets in proptest::collection::vec(0u64..10_000_000, 1..300)) {
            let began = Moment::from_nanoseconds(1_000);
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
