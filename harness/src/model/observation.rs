//! What became of one request, and what a cohort's client counted.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::clock::RunTime;
use crate::model::failure::Failure;

/// One request, from its scheduled start to its end.
#[derive(Debug, Clone)]
pub struct Observation {
    /// Which cohort, by its position in the scenario.
    pub cohort: usize,
    /// Which request of the cohort, from 0.
    pub number: u64,
    /// When it should have started: latency counts from here.
    pub scheduled: RunTime,
    /// When the generator got round to it, or would have if the cohort's concurrency had not been used up. Later than
    /// scheduled means that the harness was short of CPU.
    pub dispatched: RunTime,
    /// When it was sent: later than dispatched if the cohort's concurrency was used up.
    pub started: RunTime,
    /// When the answer was complete, or the failure known.
    pub finished: RunTime,
    /// How it ended.
    pub outcome: Outcome,
    /// Who answered, if the answer said so, even if it was not the expected one.
    pub replica: Option<Arc<str>>,
    /// What is known of its connection, if it failed.
    pub connection: Option<Box<ConnectionUse>>,
}

impl Observation {
    /// A request that was due and sent at `started`, and ended 10 ms later.
    #[cfg(test)]
    pub(crate) fn at(started: RunTime, outcome: Outcome) -> Self {
        Self {
            cohort: 0,
            number: 0,
            scheduled: started,
            dispatched: started,
            started,
            finished: started.plus(Duration::from_millis(10)),
            outcome,
            replica: None,
            connection: None,
        }
    }

    /// Whether it waited, because its cohort's concurrency was used up.
    #[must_use]
    pub fn has_waited(&self) -> bool {
        self.started.since(self.dispatched) > Duration::from_millis(1)
    }
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As expected: status, body, length.
    Answered,
    /// Any other way.
    Failed(Box<Failure>),
}

impl Outcome {
    /// A failure.
    #[must_use]
    pub fn failed(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }

    /// This outcome, unless it is an answer and something was wrong with it after all.
    #[must_use]
    pub(crate) fn unless(self, wrong: Option<Failure>) -> Self {
        match (self, wrong) {
            (Self::Answered, Some(failure)) => Self::failed(failure),
            (outcome, _) => outcome,
        }
    }
}

/// How many requests and connections a cohort began. What was begun and never observed was cut by the end of the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CohortTotals {
    /// Requests that were sent.
    pub sent: u64,
    /// What its client counted.
    #[serde(flatten)]
    pub client: ClientTotals,
}

/// What a cohort's client counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientTotals {
    /// Connections that were established.
    pub connections: u64,
    /// Requests that the client's pool repeated on its own; none where nothing can be repeated.
    pub replayed: Option<u64>,
    /// Requests whose kept connection was found closed before a byte of them was written: they went to another connection,
    /// as every client sends them. None where the client cannot see it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unsent: Option<u64>,
    /// Connections that the server closed while they were idle; none where the client cannot see it.
    pub closed_idle: Option<u64>,
    /// Answers that end with their connection and differ in length, so that one that was cut would look whole; none if there
    /// are none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unverified: Option<u64>,
}

/// What is known of a request's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionUse {
    /// Which request of its connection it was, from 1; none if its connection was kept and nobody counted.
    pub nth: Option<u64>,
    /// Bytes that the connection had carried to the server for this request.
    pub sent: Option<u64>,
    /// Bytes that had come back for this request.
    pub received: Option<u64>,
}

impl ConnectionUse {
    /// The only request of a new connection.
    pub(crate) const FIRST: Self = Self { nth: Some(1), sent: None, received: None };
    /// Some later request of a connection.
    pub(crate) const LATER: Self = Self { nth: None, sent: None, received: None };

    /// Whether its connection had carried another request before.
    #[must_use]
    pub fn is_kept(self) -> bool {
        self.nth != Some(1)
    }
}
