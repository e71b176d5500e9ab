//! What a line of `events.jsonl` says. Written by [`EventLog`](super::EventLog), read by [`crate::record::replay`]: one type for
//! both, so that they cannot disagree.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::model::budget::Budget;
use crate::model::clock::milliseconds;
use crate::model::environment::Environment;
use crate::model::failure::{ByClass, Cause, FailureClass};
use crate::model::lifecycle::{LifecycleKind, Source};
use crate::model::phase::Phase;
use crate::model::restart::RestartStep;
use crate::model::scenario_info::ScenarioInfo;
use crate::model::tally::Tally;
use crate::record::recording::{Bucket, Coverage, Portion};

/// A line: when, in milliseconds from the run's zero, and what.
#[derive(Debug, Serialize, Deserialize)]
pub struct Line {
    /// When.
    pub t_ms: f64,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened, or was counted.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The first line: what is tested, where, and how it is judged.
    Run(Box<Head>),
    /// The load began.
    LoadBegan,
    /// Something in a replica's life, and who says so.
    Lifecycle {
        /// Whose.
        replica: Arc<str>,
        /// What.
        event: LifecycleKind,
        /// Who says so.
        source: Source,
        /// What else was said.
        fields: Map<String, Value>,
    },
    /// The rollout knows something of a restart that no lifecycle event tells.
    Restart {
        /// Which restart, counted from 0.
        restart: usize,
        /// What.
        #[serde(flatten)]
        step: RestartStep,
    },
    /// A failed request, placed.
    Failure(Box<Failed>),
    /// Requests of one cohort, in one phase, that ended since the last such line.
    Sample(Box<Sample>),
    /// A stretch of time; what is said of the same stretch twice adds up.
    Timeline(Box<Stretch>),
    /// A listener of the port was seen from then on; what is said of the same one twice is put together.
    Listener(SeenListener),
    /// The harness did not get to run from then on.
    Stalled {
        /// For so many milliseconds.
        for_ms: f64,
    },
    /// The kernel's table of connections was full, and it dropped packets, from then on.
    Dropped {
        /// For so many milliseconds.
        for_ms: f64,
        /// How many.
        packets: u64,
    },
    /// Nothing more was sent.
    LoadEnded {
        /// What each cohort began, in the order of the scenario.
        totals: Vec<Totals>,
        /// How much the kernel's counters grew.
        kernel: BTreeMap<String, u64>,
    },
    /// The last line, unless the run was killed.
    End {
        /// Why the run ended before its rollout did, if it did.
        cut_short: Option<String>,
    },
    /// What another version writes: a later one something new, an earlier one the phases, which follow from the restarts.
    #[serde(other)]
    Unknown,
}

/// What is known of a run when it begins.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Head {
    /// The version of the report's schema.
    pub schema_version: u32,
    /// The run's id.
    pub run: String,
    /// The command that repeats it.
    pub command: String,
    /// When it began, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// What is tested.
    pub scenario: ScenarioInfo,
    /// How it is judged.
    pub budgets: Vec<Budget>,
    /// The machine.
    pub environment: Environment,
}

/// A failed request.
#[derive(Debug, Serialize, Deserialize)]
pub struct Failed {
    /// Its cohort.
    pub cohort: String,
    /// Which request of the cohort, from 0.
    pub number: u64,
    /// What was seen.
    pub class: FailureClass,
    /// The exit code that curl would have ended with.
    pub curl_exit: Option<u8>,
    /// When it was sent.
    pub started_ms: f64,
    /// Where in the rollout.
    pub phase: Phase,
    /// Which restart, counted from 0.
    pub restart: Option<usize>,
    /// The nearest lifecycle event.
    pub nearest: Option<Nearest>,
    /// Who answered, if there was an answer that said so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub answered_by: Option<Arc<str>>,
    /// What caused it, as far as the evidence tells.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cause: Option<Cause>,
    /// Which request of its connection it was, from 1, if that is known.
    pub connection_request: Option<u64>,
    /// Whether its connection had carried another before, if that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub on_kept_connection: Option<bool>,
    /// Bytes sent for it, if they were counted.
    pub bytes_sent: Option<u64>,
    /// Bytes that came back.
    pub bytes_received: Option<u64>,
    /// Whether a client that repeats idempotent requests would have hidden it.
    pub hidden_by_retries: bool,
    /// The chain of errors.
    pub detail: String,
}

/// The lifecycle event nearest to a failure.
#[derive(Debug, Serialize, Deserialize)]
pub struct Nearest {
    /// Whose life.
    pub replica: Arc<str>,
    /// What happened.
    pub event: LifecycleKind,
    /// Milliseconds from the event to the failure.
    pub offset_ms: f64,
}

/// Requests of one cohort in one phase of one restart.
#[derive(Debug, Serialize, Deserialize)]
pub struct Sample {
    /// Which cohort.
    pub cohort: String,
    /// Which phase.
    pub phase: Phase,
    /// Which restart, counted from 0; none while steady.
    pub restart: Option<usize>,
    /// Counts and latencies.
    #[serde(flatten)]
    pub tally: TallyLine,
    /// Time from the actual start to the end.
    pub service: Sparse,
    /// How late the generator was.
    pub lateness: Sparse,
    /// Requests that waited because the cohort's concurrency was used up.
    pub waited: u64,
    /// Requests that were due in this phase, whenever they ended.
    #[serde(default)]
    pub due: u64,
    /// Requests that were sent in it.
    #[serde(default)]
    pub sent: u64,
    /// Requests that were under way in some restart.
    #[serde(default)]
    pub in_restarts: u64,
}

impl Sample {
    /// What was counted of a cohort, its latencies to about 6 %, which makes a second of load some hundred bytes.
    #[must_use]
    pub fn of(portion: &Portion, cohort: &str) -> Self {
        Self {
            cohort: cohort.to_owned(),
            phase: portion.phase,
            restart: portion.restart,
            tally: TallyLine::from(&portion.tally),
            service: Sparse::from(&portion.service),
            lateness: Sparse::from(&portion.lateness),
            waited: portion.waited,
            due: portion.coverage.due,
            sent: portion.coverage.sent,
            in_restarts: portion.in_restarts,
        }
    }

    /// What was counted of the cohort at a position of the scenario.
    #[must_use]
    pub fn to_portion(&self, cohort: usize) -> Portion {
        let mut portion = Portion::new(cohort, self.phase, self.restart);
        self.tally.add_to(&mut portion.tally);
        self.service.add_to(&mut portion.service);
        self.lateness.add_to(&mut portion.lateness);
        let coverage = Coverage { due: self.due, sent: self.sent };
        Portion { waited: self.waited, coverage, in_restarts: self.in_restarts, ..portion }
    }
}

/// A stretch of the timeline.
#[derive(Debug, Serialize, Deserialize)]
pub struct Stretch {
    /// How long it is; it begins at the line's moment.
    pub width_ms: f64,
    /// Counts and latencies.
    #[serde(flatten)]
    pub tally: TallyLine,
    /// Answers by replica.
    pub replicas: BTreeMap<Arc<str>, u64>,
    /// The most connections that waited to be accepted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub queue: Option<u64>,
}

impl Stretch {
    /// What ended in a stretch so wide.
    #[must_use]
    pub fn of(stretch: &Bucket, width: Duration) -> Self {
        Self {
            width_ms: milliseconds(width),
            tally: TallyLine::from(&stretch.tally),
            replicas: stretch.replicas.clone(),
            queue: stretch.queue,
        }
    }

    /// What ended in it.
    #[must_use]
    pub fn into_bucket(self) -> Bucket {
        let mut bucket = Bucket { replicas: self.replicas, queue: self.queue, ..Bucket::new() };
        self.tally.add_to(&mut bucket.tally);
        bucket
    }
}

/// A listener of the port.
#[derive(Debug, Serialize, Deserialize)]
pub struct SeenListener {
    /// What tells it apart.
    pub inode: u32,
    /// How many connections may wait in its accept queue.
    pub backlog: u32,
    /// The most that were seen waiting.
    pub waiting_max: u32,
    /// For so many milliseconds it was seen.
    pub for_ms: f64,
}

/// What a cohort began.
#[derive(Debug, Serialize, Deserialize)]
pub struct Totals {
    /// Requests that were sent.
    pub sent: u64,
    /// Connections that were established.
    pub connections: u64,
    /// Requests that the client's pool repeated on its own.
    pub replayed: Option<u64>,
    /// Connections that the server closed while they were idle.
    pub closed_idle: Option<u64>,
}

/// Counts and latencies.
#[derive(Debug, Serialize, Deserialize)]
pub struct TallyLine {
    /// Requests whose end was seen.
    pub requests: u64,
    /// Failures by class.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub by_class: ByClass,
    /// Latencies of the answered ones.
    pub latency: Sparse,
}

impl From<&Tally> for TallyLine {
    fn from(tally: &Tally) -> Self {
        let by_class =
            FailureClass::ALL.into_iter().map(|class| (class, tally.of(class))).filter(|(_, n)| *n > 0);
        Self { requests: tally.requests, by_class: by_class.collect(), latency: Sparse::from(&tally.latency) }
    }
}

impl TallyLine {
    /// Adds what the line says to a tally.
    pub fn add_to(&self, tally: &mut Tally) {
        tally.requests += self.requests;
        for (class, failed) in &self.by_class {
            tally.failed[*class as usize] += failed;
        }
        self.latency.add_to(&mut tally.latency);
    }
}

/// A histogram of microseconds: each value that occurred, to about 6 %, and how often.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sparse(Vec<(u64, u64)>);

impl From<&Histogram<u64>> for Sparse {
    fn from(histogram: &Histogram<u64>) -> Self {
        let mut coarse = Histogram::<u64>::new(1).expect("a histogram has 1 to 5 significant digits");
        // An auto-resizing histogram takes every value of another.
        let _ = coarse.add(histogram);
        let recorded = coarse.iter_recorded();
        Self(recorded.map(|step| (step.value_iterated_to(), step.count_at_value())).collect())
    }
}

impl Sparse {
    /// Adds the values to a histogram.
    pub fn add_to(&self, histogram: &mut Histogram<u64>) {
        for (value, count) in &self.0 {
            // An auto-resizing histogram takes every value.
            let _ = histogram.record_n(*value, *count);
        }
    }
}
