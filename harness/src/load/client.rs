//! One cohort's HTTP client: sends a request, reads the whole answer, checks it.

mod names;
mod pool;
mod replays;
mod strict;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use pool::PoolError;

use crate::load::cohort::{CohortKind, CohortPlan};
use crate::load::{ClientTotals, Outcome};

/// The header in which a replica gives its name.
pub(crate) const REPLICA_HEADER: &str = "x-replica";

/// A cohort's client.
#[derive(Debug)]
pub(crate) enum Client {
    /// reqwest, as an application uses it.
    Pool(pool::PoolClient),
    /// hyper's connections, one by one.
    Strict(strict::StrictClient),
}

/// How a request ended, who answered, and on what connection.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) outcome: Outcome,
    pub(crate) replica: Option<Arc<str>>,
    pub(crate) connection: Option<ConnectionUse>,
}

/// What is known of a request's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionUse {
    /// Which request of its connection it was, from 1.
    pub nth: u64,
    /// Bytes that the connection had carried to the server for this request.
    pub sent: Option<u64>,
    /// Bytes that had come back for this request.
    pub received: Option<u64>,
}

impl ConnectionUse {
    /// The only request of a new connection.
    pub(crate) const FIRST: Self = Self { nth: 1, sent: None, received: None };
}

impl Answer {
    /// A request that never got a connection; its own would have been new.
    const fn without_connection(outcome: Outcome) -> Self {
        Self { outcome, replica: None, connection: Some(ConnectionUse::FIRST) }
    }
}

impl Client {
    pub(crate) fn build(plan: &CohortPlan, request_timeout: Duration) -> Result<Self, PoolError> {
        match plan.kind {
            CohortKind::Strict => Ok(Self::Strict(strict::StrictClient::new(plan, request_timeout))),
            _ => pool::PoolClient::build(plan, request_timeout).map(Self::Pool),
        }
    }

    pub(crate) async fn request(&self) -> Answer {
        match self {
            Self::Pool(client) => client.request().await,
            Self::Strict(client) => client.request().await,
        }
    }

    pub(crate) fn totals(&self) -> ClientTotals {
        match self {
            Self::Pool(client) => client.totals(),
            Self::Strict(client) => client.totals(),
        }
    }
}
