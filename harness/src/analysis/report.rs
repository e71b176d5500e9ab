//! What is told about a run: the content of `report.json`. Plain data; `assemble` fills it, the renderers read it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::analysis::evidence::Evidence;
use crate::analysis::lives::Life;
use crate::analysis::summary::{CohortSummary, Counts, Latency, LossyRestarts, PhaseSummary};
use crate::analysis::verdict::{BudgetResult, Verdict};
use crate::model::budget::Budget;
use crate::model::environment::Environment;
use crate::model::failure::{Cause, FailureClass};
use crate::model::lifecycle::{LifecycleKind, Source};
use crate::model::phase::Phase;
use crate::model::scenario_info::ScenarioInfo;

/// The version of `report.json`'s schema. It grows when a field changes its meaning or goes away.
pub const SCHEMA_VERSION: u32 = 1;

/// A run, as it is told. Moments (`t`, `*_ms` fields named for a moment) are milliseconds from the run's zero.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Which run.
    pub run: RunInfo,
    /// Pass, fail, or inconclusive.
    pub verdict: Verdict,
    /// Why, if it is not a plain pass.
    pub reasons: Vec<String>,
    /// Those of the reasons that are no broken budget: what the run could not see.
    #[serde(default)]
    pub blind_spots: Vec<String>,
    /// The budgets, with what was seen.
    pub budgets: Vec<BudgetResult>,
    /// What was tested, and how.
    pub scenario: ScenarioInfo,
    /// Everything together.
    pub totals: Counts,
    /// By cohort.
    pub cohorts: Vec<CohortSummary>,
    /// By phase.
    pub phases: Vec<PhaseSummary>,
    /// By replica: who answered how much.
    pub replicas: Vec<ReplicaInfo>,
    /// The replicas' lives: what each was doing when.
    #[serde(default)]
    pub lives: Vec<Life>,
    /// The restarts, in order.
    pub restarts: Vec<RestartInfo>,
    /// How many restarts lost something.
    #[serde(default)]
    pub lossy_restarts: LossyRestarts,
    /// What happened in the replicas' lives, in the order of time.
    #[serde(default)]
    pub events: Vec<EventInfo>,
    /// How many events are not in the list.
    #[serde(default)]
    pub events_cut: u64,
    /// Failures: the first of each restart and class.
    pub failures: Vec<FailureInfo>,
    /// How many failures are not in the list.
    pub failures_cut: u64,
    /// The run over time.
    pub timeline: TimelineInfo,
    /// What the kernel and the servers say of it.
    #[serde(default)]
    pub evidence: Evidence,
    /// The machine.
    pub environment: Environment,
}

/// Which run it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Its id; the containers' label, the processes' mark.
    pub id: String,
    /// The harness's version.
    pub hitless: String,
    /// When it began, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// How long it took, from the first replica's start to the last one's end.
    pub duration_ms: f64,
    /// How long requests were sent.
    pub load_ms: f64,
    /// The command that repeats it.
    pub command: String,
    /// Why the run ended before its rollout did, if it did.
    #[serde(default)]
    pub cut_short: Option<String>,
}

/// Who answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaInfo {
    /// The name that it gave in its answers.
    pub name: String,
    /// How many requests it answered as expected.
    pub answered: u64,
    /// Its share of all answers that gave a name.
    pub share: f64,
}

/// One restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestartInfo {
    /// Who.
    pub replica: String,
    /// Who took its place, if it was replaced under another name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub successor: Option<String>,
    /// In which round, from 1.
    pub round: u32,
    /// When it began: for a restart the moment at which the stop was asked for.
    pub t: f64,
    /// How long it took until the last thing that is known of it, in milliseconds.
    #[serde(default)]
    pub duration_ms: f64,
    /// How long each phase took, in milliseconds.
    pub phases: BTreeMap<Phase, f64>,
    /// From ready until it had answered a request, in milliseconds.
    pub first_answer_ms: Option<f64>,
    /// The process's exit code.
    pub exit_code: Option<i64>,
    /// Whether it had to be killed.
    pub killed: bool,
    /// Whether it came back and answered.
    pub is_complete: bool,
    /// Requests that ended from the stop until it was ready again, and those of them that failed.
    #[serde(flatten)]
    pub counts: Counts,
    /// Latencies in that window, of cohorts that are not slow on purpose.
    pub latency: Latency,
    /// The 95 % upper bound of the failures in that window, per million requests.
    #[serde(default)]
    pub upper_bound_per_million: Option<f64>,
    /// The broken budgets that what was lost in it counts against.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub broke: Vec<Budget>,
    /// What the server logged of its own end.
    pub account: serde_json::Map<String, serde_json::Value>,
}

/// Something that happened in a replica's life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventInfo {
    /// When.
    pub t: f64,
    /// To whom.
    pub replica: String,
    /// What.
    pub event: LifecycleKind,
    /// Who says so.
    pub source: Source,
}

/// One failed request, placed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailureInfo {
    /// When the client saw it.
    pub t: f64,
    /// Its cohort.
    pub cohort: String,
    /// Which request of the cohort, from 0.
    pub number: u64,
    /// What was seen.
    pub class: FailureClass,
    /// The exit code that curl would have ended with.
    pub curl_exit: Option<u8>,
    /// Where in the rollout.
    pub phase: Phase,
    /// Which restart, counted from 0.
    pub restart: Option<usize>,
    /// Milliseconds from the lifecycle event `event`; negative if the failure came first.
    pub offset_ms: Option<f64>,
    /// The nearest lifecycle event.
    pub event: Option<String>,
    /// Whose life that was.
    pub replica: Option<String>,
    /// Who answered, if there was an answer that said so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub answered_by: Option<String>,
    /// What caused it, where the evidence says more than the class.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cause: Option<Cause>,
    /// How long the request had run, in milliseconds.
    pub after_ms: f64,
    /// All of that in a sentence.
    pub blame: String,
    /// Which request of its connection it was, from 1, if that is known.
    pub connection_request: Option<u64>,
    /// Bytes sent and received for it, if they were counted.
    pub bytes: Option<(u64, u64)>,
    /// Whether a client that repeats idempotent requests would have hidden it.
    pub hidden_by_retries: bool,
    /// The chain of errors.
    pub detail: String,
}

/// The run over time, in equal buckets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimelineInfo {
    /// When the first bucket begins.
    pub began_ms: f64,
    /// How long each is.
    pub width_ms: f64,
    /// The buckets.
    pub buckets: Vec<BucketInfo>,
}

/// One bucket of the timeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BucketInfo {
    /// Requests answered as expected.
    pub ok: u64,
    /// Failures by class.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub by_class: BTreeMap<FailureClass, u64>,
    /// The median latency of cohorts that are not slow on purpose, in milliseconds.
    pub p50: f64,
    /// Their 99th percentile.
    pub p99: f64,
    /// Their slowest.
    pub max: f64,
    /// Answers by replica.
    pub replicas: BTreeMap<String, u64>,
    /// The most connections that waited to be accepted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub queue: Option<u64>,
}
