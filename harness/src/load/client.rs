//! One cohort's HTTP client: sends a request, reads the whole answer, checks it.

mod connector;
mod name_interner;
mod pool;
mod sources;
mod strict;
mod trace;

use std::sync::Arc;
use std::time::Duration;

#[cfg(test)]
pub(in crate::load) use pool::POOLS;
pub(crate) use pool::PoolError;

use crate::model::cohort::{CohortKind, CohortPlan};
use crate::model::fresh_connections::FreshConnectionRequests;
use crate::model::observation::ConnectionUse;
use crate::model::observation::{ClientTotals, Outcome};

/// The header in which a replica gives its name.
pub(crate) const REPLICA_HEADER: &str = "x-replica";

/// How many header lines an answer may have.
pub(crate) const MOST_HEADERS: usize = 1000;

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

impl Answer {
    /// What is known of the connection, if the request failed: it explains nothing else.
    pub(crate) fn connection_of_failure(&self) -> Option<Box<ConnectionUse>> {
        match self.outcome {
            Outcome::Answered => None,
            Outcome::Failed(_) => self.connection.map(Box::new),
        }
    }

    /// A request that never got a connection; its own would have been new.
    const fn without_connection(outcome: Outcome) -> Self {
        Self { outcome, replica: None, connection: Some(ConnectionUse::FIRST) }
    }
}

impl Client {
    pub(crate) fn build(
        plan: &CohortPlan,
        request_timeout: Duration,
        fresh_connections: FreshConnectionRequests,
    ) -> Result<Self, PoolError> {
        match plan.kind {
            CohortKind::Strict => {
                Ok(Self::Strict(strict::StrictClient::new(plan, request_timeout, fresh_connections)))
            }
            _ => pool::PoolClient::build(plan, request_timeout, fresh_connections).map(Self::Pool),
        }
    }

    /// Sends a request. `token` tells it from every other of the run; `turn` says which of the cohort's clients sends it,
    /// where there are several.
    pub(crate) async fn request(&self, token: u64, turn: usize) -> Answer {
        match self {
            Self::Pool(client) => client.request(token, turn).await,
            Self::Strict(client) => client.request(token).await,
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
    use crate::model::expectation::{Expectation, ExpectedBody};

    #[tokio::test]
    async fn headers_that_are_asked_for_are_sent_once_by_every_kind_of_client() {
        for kind in [CohortKind::Fresh, CohortKind::Pooled, CohortKind::Strict] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut headers = HeaderMap::new();
            headers.insert(http::header::HOST, HeaderValue::from_static("shop.test"));
            headers.insert("x-canary", HeaderValue::from_static("yes"));
            let plan = CohortPlan {
                url: format!("http://{}/path", listener.local_addr().unwrap()),
                headers,
                ..CohortPlan::of(kind)
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
            let client =
                Client::build(&plan, Duration::from_secs(5), FreshConnectionRequests::default()).unwrap();
            assert_eq!(client.request(0, 0).await.outcome, Outcome::Answered, "{kind:?}");
            let head = answering.await.unwrap();
            assert!(head.starts_with("get /path http/1.1\r\n"), "{kind:?}: {head}");
            assert_eq!(head.matches("host: ").count(), 1, "{kind:?}: {head}");
            for line in ["host: shop.test\r\n", "x-canary: yes\r\n"] {
                assert!(head.contains(line), "{kind:?}: {head}");
            }
        }
    }

    /// Of its answers, none of which declares a length, every 25th is cut in half.
    async fn cuts_undeclared_answers() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            for number in 1_u64.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let body = if number.is_multiple_of(25) { "hello" } else { "hello world" };
                stream.write_all(format!("HTTP/1.1 200 OK\r\n\r\n{body}").as_bytes()).await.unwrap();
            }
        });
        url
    }

    #[tokio::test]
    async fn cut_answer_that_declares_no_length_is_truncated_for_every_kind_of_client() {
        use crate::model::failure::FailureClass;
        for kind in [CohortKind::Fresh, CohortKind::Pooled, CohortKind::Strict] {
            let plan = CohortPlan { url: cuts_undeclared_answers().await, ..CohortPlan::of(kind) };
            let client =
                Client::build(&plan, Duration::from_secs(5), FreshConnectionRequests::default()).unwrap();
            for number in 1..=30 {
                let class = match client.request(number, 0).await.outcome {
                    Outcome::Answered => None,
                    Outcome::Failed(failure) => Some(failure.class),
                };
                assert_eq!(class, (number == 25).then_some(FailureClass::Truncated), "{kind:?}: {number}");
            }
            assert_eq!(client.totals().unverified, None, "{kind:?}");
        }
    }

    #[tokio::test]
    async fn answer_to_another_request_is_a_wrong_body_for_every_kind_of_client() {
        for kind in [CohortKind::Fresh, CohortKind::Pooled, CohortKind::Strict] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let plan = CohortPlan {
                url: format!("http://{}/", listener.local_addr().unwrap()),
                echo: Some(http::HeaderName::from_static("x-request-id")),
                expectation: Expectation { status: 200, body: ExpectedBody::Text("ok".into()) },
                ..CohortPlan::of(kind)
            };
            // Three answers: with the request's own token, without one, and with the one before.
            let answering = tokio::spawn(async move {
                for answer in ["x-request-id: 7\r\n", "", "x-request-id: 8\r\n"] {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") {
                        head.push(char::from(stream.read_u8().await.unwrap()));
                    }
                    assert_eq!(head.matches("x-request-id: ").count(), 1, "{head}");
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n{answer}\r\nok"
                    );
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
            let client =
                Client::build(&plan, Duration::from_secs(5), FreshConnectionRequests::default()).unwrap();
            assert_eq!(client.request(7, 0).await.outcome, Outcome::Answered, "{kind:?}");
            assert_eq!(
                client.request(8, 0).await.outcome,
                Outcome::Answered,
                "{kind:?}: it need not be repeated"
            );
            let Outcome::Failed(failure) = client.request(9, 0).await.outcome else {
                panic!("{kind:?}: it was not seen")
            };
            assert_eq!(
                failure.class,
                crate::model::failure::FailureClass::WrongBody,
                "{kind:?}: {}",
                failure.detail
            );
            assert!(failure.detail.contains("\"8\" instead of \"9\""), "{}", failure.detail);
            answering.await.unwrap();
        }
    }
}
