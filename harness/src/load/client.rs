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

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::load::cohort::Payload;
    use crate::load::content::{Expectation, ExpectedBody};

    #[tokio::test]
    async fn headers_that_are_asked_for_are_sent_once_by_every_kind_of_client() {
        for kind in [CohortKind::Fresh, CohortKind::Pooled, CohortKind::Strict] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut headers = HeaderMap::new();
            headers.insert(http::header::HOST, HeaderValue::from_static("shop.test"));
            headers.insert("x-canary", HeaderValue::from_static("yes"));
            let plan = CohortPlan {
                kind,
                rate: 1.0,
                concurrency: 1,
                requests_per_connection: None,
                url: format!("http://{}/path", listener.local_addr().unwrap()),
                headers,
                delay: Duration::ZERO,
                payload: Payload::None,
                expectation: Expectation { status: 200, body: ExpectedBody::Any },
            };
            let answering = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    head.push(char::from(stream.read_u8().await.unwrap()));
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                head.to_ascii_lowercase()
            });
            let client = Client::build(&plan, Duration::from_secs(5)).unwrap();
            assert_eq!(client.request().await.outcome, Outcome::Answered, "{kind:?}");
            let head = answering.await.unwrap();
            assert!(head.starts_with("get /path http/1.1\r\n"), "{kind:?}: {head}");
            assert_eq!(head.matches("host: ").count(), 1, "{kind:?}: {head}");
            for line in ["host: shop.test\r\n", "x-canary: yes\r\n"] {
                assert!(head.contains(line), "{kind:?}: {head}");
            }
        }
    }
}
