//! What is told about a run: the content of `report.json`. Plain data; `assemble` fills it, the renderers read it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::analysis::evidence::Evidence;
use crate::analysis::replica_states::ReplicaStates;
use crate::analysis::summary::{CohortSummary, Counts, Latency, LossyRestarts, PhaseSummary};
use crate::analysis::verdict::{BudgetResult, Verdict};
use crate::model::budget::Budget;
use crate::model::cut_short::CutShort;
use crate::model::environment::Environment;
use crate::model::failed_request::FailedRequest;
use crate::model::failure::ByClass;
#[cfg(test)]
use crate::model::failure::FailureClass;
use crate::model::lifecycle::LifecycleEvent;
use crate::model::phase::Phase;
use crate::model::restart::Restart;
use crate::model::scenario_info::ScenarioInfo;

/// The version of `report.json`'s schema. It grows when a field changes its meaning or goes away.
pub const SCHEMA_VERSION: u32 = 2;

/// A run, as it is told. Moments (`t`, `*_ms` fields named for a moment) are milliseconds from the run's zero.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
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
    #[serde(rename = "lives", default)]
    pub replica_states: Vec<ReplicaStates>,
    /// The restarts, in order.
    pub restarts: Vec<RestartSummary>,
    /// How many restarts lost something.
    #[serde(default)]
    pub lossy_restarts: LossyRestarts,
    /// What happened in the replicas' lives, in the order of time.
    #[serde(default)]
    pub events: Vec<LifecycleEvent>,
    /// How many events are not in the list.
    #[serde(default)]
    pub events_cut: u64,
    /// Failures: the first of each restart and class.
    pub failures: Vec<FailedRequest>,
    /// How many failures are not in the list.
    pub failures_cut: u64,
    /// The run over time.
    pub timeline: TimelineSummary,
    /// What the kernel and the servers say of it.
    #[serde(default)]
    pub evidence: Evidence,
    /// The machine.
    pub environment: Environment,
}

/// Which run it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
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
    pub cut_short: Option<CutShort>,
}

/// Who answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct ReplicaInfo {
    /// The name that it gave in its answers.
    pub name: String,
    /// How many requests it answered as expected.
    pub answered: u64,
    /// Its share of all answers that gave a name.
    pub share: f64,
}

/// One restart in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct RestartSummary {
    /// What happened.
    #[serde(flatten)]
    pub restart: Restart,
    /// How long it took until the last thing that is known of it, in milliseconds.
    #[serde(default)]
    pub duration_ms: f64,
    /// How long each phase took, in milliseconds.
    #[cfg_attr(test, schemars(extend("propertyNames" = serde_json::json!({"enum": Phase::ALL}))))]
    pub phases: BTreeMap<Phase, f64>,
    /// From ready until it had answered a request, in milliseconds.
    pub first_answer_ms: Option<f64>,
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
}

/// The run over time, in equal buckets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct TimelineSummary {
    /// When the first bucket begins.
    pub began_ms: f64,
    /// How long each is.
    pub width_ms: f64,
    /// The buckets.
    pub buckets: Vec<BucketSummary>,
}

/// One bucket of the timeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct BucketSummary {
    /// Requests answered as expected.
    pub ok: u64,
    /// Failures by class.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    #[cfg_attr(test, schemars(extend("propertyNames" = serde_json::json!({"enum": FailureClass::ALL}))))]
    pub by_class: ByClass,
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use schemars::generate::SchemaSettings;

    use super::*;

    /// With `UPDATE_SCHEMAS=1` in the environment the file is written instead.
    #[test]
    fn committed_schema_is_the_derived_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/report.schema.json");
        let settings = SchemaSettings::draft2020_12().for_serialize();
        let mut schema = settings.into_generator().into_root_schema_for::<Report>();
        schema.insert("title".to_owned(), "report.json of hitless".into());
        let derived = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            std::fs::write(&path, &derived).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap();
        assert!(
            committed == derived,
            "run `UPDATE_SCHEMAS=1 cargo test -p hitless schema` and look at the difference"
        );
    }
}
