//! What was seen of one restart, step by step.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::clock::Moment;
use crate::model::tally::Tally;

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
        /// Whether it had to be killed.
        killed: bool,
    },
    /// It was started again.
    Started,
    /// It is ready again.
    Ready,
    /// It has answered a request again.
    Answered,
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
    /// Whether it had to be killed.
    pub killed: bool,
    /// Requests that ended from the stop until it was ready again. Latencies leave out cohorts that are slow on purpose.
    pub tally: Tally,
    /// What the server logged of its own end: the fields of its `exit` line.
    pub account: serde_json::Map<String, serde_json::Value>,
}

impl RestartRecord {
    /// The replica was taken up, and nothing else is known yet.
    pub(crate) fn new(replica: Arc<str>, round: u32, began: Moment) -> Self {
        Self {
            replica,
            successor: None,
            round,
            began,
            terminated: None,
            exited: None,
            started: None,
            ready: None,
            answered: None,
            exit_code: None,
            killed: false,
            tally: Tally::new(2),
            account: serde_json::Map::new(),
        }
    }

    /// Notes a step.
    pub(crate) fn take(&mut self, at: Moment, step: RestartStep) {
        match step {
            RestartStep::Began { .. } => {}
            RestartStep::Succeeded { by } => self.successor = Some(by),
            RestartStep::Terminated => self.terminated = Some(at),
            RestartStep::Exited { code, killed } => {
                (self.exited, self.exit_code, self.killed) = (Some(at), code, killed);
            }
            RestartStep::Started => self.started = Some(at),
            RestartStep::Ready => self.ready = Some(at),
            RestartStep::Answered => self.answered = Some(at),
        }
    }

    /// When the old process was gone and the new one ready, or the last of these that is known.
    #[must_use]
    pub fn ended(&self) -> Moment {
        [self.terminated, self.exited, self.started, self.ready]
            .into_iter()
            .flatten()
            .fold(self.began, Moment::max)
    }
}
