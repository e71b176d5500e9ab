//! What a line of `events.jsonl` says. Written by [`EventLog`](super::EventLog), read by [`crate::record::replay`]: one type for
//! both, so that they cannot disagree.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::v1;
use crate::model::budget::Budget;
use crate::model::clock::RunTime;
use crate::model::cohort::CohortKind;
use crate::model::cut_short::CutShort;
use crate::model::environment::Environment;
use crate::model::failed_request::FailedRequest;
use crate::model::lifecycle::LifecycleEvent;
use crate::model::listener::Listener;
use crate::model::observation::CohortTotals;
use crate::model::restart::RestartStep;
use crate::model::scenario_info::ScenarioInfo;
use crate::record::recording::{Bucket, CountsDelta};

/// A line: when, in milliseconds from the run's zero, and what.
#[derive(Debug, Serialize, Deserialize)]
pub struct Line {
    /// When.
    pub t_ms: RunTime,
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
    Lifecycle(LifecycleEvent),
    /// The rollout knows something of a restart that no lifecycle event tells.
    Restart {
        /// Which restart, counted from 0.
        restart: usize,
        /// What.
        #[serde(flatten)]
        step: RestartStep,
    },
    /// A failed request, placed.
    FailedRequest(Box<FailedRequest>),
    /// The same, as versions up to 0.1 wrote it.
    #[serde(skip_serializing)]
    Failure(Box<v1::Failure>),
    /// Requests of one cohort, in one phase, that ended since the last such line.
    Sample {
        /// Which cohort.
        cohort: CohortKind,
        /// Counts and latencies.
        #[serde(flatten)]
        delta: Box<CountsDelta>,
    },
    /// A stretch of time, which begins at the line's moment; what is said of the same stretch twice adds up.
    Timeline {
        /// How long it is.
        width_ms: f64,
        /// What ended in it.
        #[serde(flatten)]
        bucket: Box<Bucket>,
    },
    /// A listener of the port was seen; what is said of the same one twice is put together.
    ListenerSeen(Listener),
    /// The same, as versions up to 0.1 wrote it.
    #[serde(skip_serializing)]
    Listener(v1::Listener),
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
        totals: Vec<CohortTotals>,
        /// How much the kernel's counters grew.
        kernel: BTreeMap<String, u64>,
    },
    /// The last line, unless the run was killed.
    End {
        /// Why the run ended before its rollout did, if it did.
        cut_short: Option<CutShort>,
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
