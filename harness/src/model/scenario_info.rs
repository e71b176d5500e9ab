//! What a run tested, as its events and its report say it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What was tested.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct ScenarioInfo {
    /// In a few words.
    pub subject: String,
    /// Our server's preset, if it was our server.
    pub preset: Option<String>,
    /// The image, if the run chose one.
    pub image: Option<String>,
    /// How many replicas were rolled.
    pub replicas: usize,
    /// How often each.
    pub rounds: u32,
    /// Where the requests went.
    pub url: String,
    /// The cohorts' plans.
    pub cohorts: Vec<CohortInfo>,
    /// Seed of the restarts' jitter.
    pub seed: u64,
    /// Every option, given or taken by default, by the name of its flag; without secrets.
    #[serde(default)]
    pub options: Map<String, Value>,
}

/// One cohort's plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct CohortInfo {
    /// Its name.
    pub name: String,
    /// Requests per second.
    pub rate: f64,
    /// Most requests in flight.
    pub concurrency: usize,
    /// Where its requests went.
    pub url: String,
}
