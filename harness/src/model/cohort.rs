//! What a cohort is: one stream of load with one connection policy.

use std::num::NonZeroU64;
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use serde::{Deserialize, Serialize};

use crate::model::expectation::Expectation;

/// A connection policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum CohortKind {
    /// A new connection for each request.
    Fresh,
    /// Connections are kept and used again, as an application's client does.
    Pooled,
    /// One request after another on known connections, nothing ever repeated: what happened to each is seen exactly.
    Strict,
    /// HTTP/2 with prior knowledge, many requests on few connections.
    H2,
    /// Requests that take long, so that some are in flight over every restart; a new connection each.
    Slow,
    /// Request bodies that are sent over a long time; a new connection each.
    Upload,
    /// Answers that arrive over a long time; a new connection each.
    Stream,
}

impl CohortKind {
    /// Every kind.
    pub const ALL: [Self; 7] =
        [Self::Fresh, Self::Pooled, Self::Strict, Self::H2, Self::Slow, Self::Upload, Self::Stream];

    /// The name on the command line and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Pooled => "pooled",
            Self::Strict => "strict",
            Self::H2 => "h2",
            Self::Slow => "slow",
            Self::Upload => "upload",
            Self::Stream => "stream",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether its requests take long on purpose: they run at a low rate, and their latency says nothing of the
    /// server.
    #[must_use]
    pub const fn is_long(self) -> bool {
        matches!(self, Self::Slow | Self::Upload | Self::Stream)
    }

    /// Whether a connection may carry more than one request.
    #[must_use]
    pub const fn reuses_connections(self) -> bool {
        matches!(self, Self::Pooled | Self::Strict | Self::H2)
    }
}

/// What a request sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// A GET without a body.
    None,
    /// A POST of so many bytes, evenly over a time.
    Body {
        /// How long the body is.
        bytes: u64,
        /// How long it takes to send.
        over: Duration,
    },
}

/// One stream of load.
#[derive(Debug, Clone, PartialEq)]
pub struct CohortPlan {
    /// Its connection policy.
    pub kind: CohortKind,
    /// Requests per second.
    pub rate: f64,
    /// How many may be in flight at once; past that, requests start late, and their latency says so.
    pub concurrency: usize,
    /// How many requests a connection of [`CohortKind::Strict`] carries before the client closes it; any number if none.
    pub requests_per_connection: Option<NonZeroU64>,
    /// Where its requests go.
    pub url: String,
    /// What its requests carry beyond what HTTP needs.
    pub headers: HeaderMap,
    /// The header in which each request carries a token of its own, which the server repeats in its answer: an answer with
    /// another request's token is a wrong one. A server that repeats nothing is not held to it.
    pub echo: Option<HeaderName>,
    /// How long a request is meant to take.
    pub delay: Duration,
    /// What each request sends.
    pub payload: Payload,
    /// What each answer has to be.
    pub expectation: Expectation,
}

#[cfg(test)]
impl CohortPlan {
    /// One request at a time, once a second, of which any answer with status 200 will do.
    pub(crate) fn of(kind: CohortKind) -> Self {
        use crate::model::expectation::ExpectedBody;
        Self {
            kind,
            rate: 1.0,
            concurrency: 1,
            requests_per_connection: None,
            url: "http://127.0.0.1/".into(),
            headers: HeaderMap::new(),
            echo: None,
            delay: Duration::ZERO,
            payload: Payload::None,
            expectation: Expectation { status: 200, body: ExpectedBody::Any },
        }
    }
}
