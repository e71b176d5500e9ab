//! Lines of `events.jsonl` as versions up to 0.1 wrote them, where today's differ. Read only.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::model::clock::{RunTime, milliseconds};
use crate::model::cohort::CohortKind;
use crate::model::failed_request::FailedRequest;
use crate::model::failure::{Cause, FailureClass};
use crate::model::lifecycle::LifecycleKind;
use crate::model::listener;
use crate::model::phase::Phase;

/// A failed request.
#[derive(Debug, Deserialize)]
pub struct Failure {
    cohort: CohortKind,
    number: u64,
    class: FailureClass,
    started_ms: RunTime,
    phase: Phase,
    restart: Option<usize>,
    nearest: Option<Nearest>,
    #[serde(default)]
    answered_by: Option<Arc<str>>,
    #[serde(default)]
    cause: Option<Cause>,
    connection_request: Option<u64>,
    #[serde(default)]
    on_kept_connection: Option<bool>,
    bytes_sent: Option<u64>,
    bytes_received: Option<u64>,
    hidden_by_retries: bool,
    detail: String,
}

/// The lifecycle event nearest to a failure.
#[derive(Debug, Deserialize)]
struct Nearest {
    replica: Arc<str>,
    event: LifecycleKind,
    offset_ms: f64,
}

impl Failure {
    /// The failed request that was seen at `t`.
    pub(crate) fn seen_at(self, t: RunTime) -> FailedRequest {
        let nearest = self.nearest.as_ref();
        FailedRequest {
            t,
            cohort: self.cohort,
            number: self.number,
            class: self.class,
            curl_exit: None,
            phase: self.phase,
            restart: self.restart,
            offset_ms: nearest.map(|nearest| nearest.offset_ms),
            event: nearest.map(|nearest| nearest.event),
            replica: nearest.map(|nearest| Arc::clone(&nearest.replica)),
            answered_by: self.answered_by,
            cause: self.cause,
            after_ms: milliseconds(t.since(self.started_ms)),
            blame: String::new(),
            connection_request: self.connection_request,
            on_kept_connection: self.on_kept_connection,
            bytes: self.bytes_sent.zip(self.bytes_received),
            hidden_by_retries: self.hidden_by_retries,
            detail: self.detail,
        }
        .told()
    }
}

/// A listener of the port.
#[derive(Debug, Deserialize)]
pub struct Listener {
    inode: u32,
    backlog: u32,
    waiting_max: u32,
    for_ms: f64,
}

impl Listener {
    /// The listener that was seen first at `first`.
    pub(crate) fn seen_at(&self, first: RunTime) -> listener::Listener {
        let Self { inode, backlog, waiting_max, for_ms } = *self;
        let last = first.plus(Duration::try_from_secs_f64(for_ms / 1e3).unwrap_or_default());
        listener::Listener { inode, first, last, waiting_max, backlog }
    }
}
