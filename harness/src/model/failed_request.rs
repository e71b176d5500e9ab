//! A failed request, placed in the rollout: what the recorder keeps, and what events.jsonl and report.json say of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::clock::RunTime;
use crate::model::cohort::CohortKind;
use crate::model::failure::{Cause, FailureClass};
use crate::model::lifecycle::LifecycleKind;
use crate::model::phase::Phase;

/// A failed request, placed in the rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct FailedRequest {
    /// When the client saw it, in milliseconds from the run's zero.
    #[serde(default)]
    pub t: RunTime,
    /// Its cohort.
    pub cohort: CohortKind,
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
    pub event: Option<LifecycleKind>,
    /// Whose life that was.
    pub replica: Option<Arc<str>>,
    /// Who answered, if there was an answer that said so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub answered_by: Option<Arc<str>>,
    /// What caused it, where the evidence says more than the class.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cause: Option<Cause>,
    /// How long the request had run, in milliseconds.
    pub after_ms: f64,
    /// All of that in a sentence.
    pub blame: String,
    /// Which request of its connection it was, from 1, if that is known.
    pub connection_request: Option<u64>,
    /// Whether its connection had carried another request before, if that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub on_kept_connection: Option<bool>,
    /// Bytes sent and received for it, if they were counted.
    pub bytes: Option<(u64, u64)>,
    /// Whether a client that repeats idempotent requests would have hidden it.
    pub hidden_by_retries: bool,
    /// The chain of errors.
    pub detail: String,
}

impl FailedRequest {
    /// "3.1 ms after server-b received the signal (draining): connection reset before any answer".
    #[must_use]
    pub fn sentence(&self) -> String {
        let place = match (self.offset_ms, &self.replica, self.event) {
            (Some(offset), Some(replica), Some(event)) => {
                let side = if offset < 0.0 { "before" } else { "after" };
                format!("{:.1} ms {side} {replica} {} ", offset.abs(), event.phrase())
            }
            _ => String::new(),
        };
        let request = match (self.connection_request, self.on_kept_connection) {
            (None, None | Some(false)) => String::new(),
            (None, Some(true)) => ", on a kept connection".to_owned(),
            (Some(1), _) => ", first request of its connection".to_owned(),
            (Some(nth), _) => format!(", request {nth} of its connection"),
        };
        let answered =
            self.answered_by.as_ref().map_or_else(String::new, |name| format!(", answered by {name}"));
        let cause = self.cause.map_or_else(String::new, |cause| format!(", {}", cause.phrase()));
        format!("{place}({}{request}): {}{cause}{answered}", self.phase, self.class.meaning())
    }

    /// The same, with what follows from the rest filled in: the sentence and curl's exit code.
    #[must_use]
    pub fn told(mut self) -> Self {
        self.curl_exit = self.class.curl_exit();
        self.blame = self.sentence();
        self
    }
}
