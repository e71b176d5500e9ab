//! Requests as an application's client sends them. The only user of reqwest.

use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::names::Names;
use super::{Answer, ConnectionUse, REPLICA_HEADER, replays};
use crate::failure::Failure;
use crate::load::classify::{Stage, classify, is_unprocessed};
use crate::load::cohort::{CohortKind, CohortPlan, Payload};
use crate::load::content::{Check, Expectation, pattern};
use crate::load::{ClientTotals, Outcome};

/// A connection's four numbers are used again only after TIME_WAIT, and there are about 28,000 ports a source address.
/// All of 127.0.0.0/8 is local, so fresh connections to loopback come from this many addresses in turn.
const SOURCES: u8 = 16;
/// HTTP/2 puts everything on one connection; several clients keep connections to more than one replica.
const H2_CONNECTIONS: usize = 8;
/// How often a request may meet a connection that goes away before it is given up.
const MOST_REFUSALS: u32 = 3;
/// An upload is sent in this many pieces.
const PIECES: u64 = 20;

/// The client could not be built.
#[derive(Debug, thiserror::Error)]
#[error("failed to build an HTTP client: {0}")]
pub struct PoolError(reqwest::Error);

/// Clients that take turns; one is the rule.
#[derive(Debug)]
pub(crate) struct PoolClient {
    kind: CohortKind,
    clients: Vec<reqwest::Client>,
    next: AtomicU64,
    url: reqwest::Url,
    payload: Payload,
    expectation: Expectation,
    connections: Arc<AtomicU64>,
    replayed: Arc<AtomicU64>,
    names: Names,
}

impl PoolClient {
    pub(crate) fn build(plan: &CohortPlan, request_timeout: Duration) -> Result<Self, PoolError> {
        replays::listen();
        let url: reqwest::Url =
            plan.url.parse().expect("a scenario's URLs were parsed when it was validated");
        let connections = Arc::new(AtomicU64::new(0));
        let sources: Vec<Option<IpAddr>> = match plan.kind {
            CohortKind::Fresh if is_loopback_v4(&url) => {
                (1..=SOURCES).map(|last| Some(Ipv4Addr::new(127, 0, 0, last).into())).collect()
            }
            CohortKind::H2 => vec![None; H2_CONNECTIONS],
            _ => vec![None],
        };
        let build = |source: Option<IpAddr>| {
            let builder = reqwest::Client::builder()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                // Beside the pool's own replay, which has no switch and is counted, reqwest must add none.
                .retry(reqwest::retry::never())
                .default_headers(plan.headers.clone())
                .local_address(source)
                .connect_timeout(request_timeout)
                .timeout(request_timeout + plan.delay)
                .connector_layer(CountConnections(Arc::clone(&connections)));
            let builder = match plan.kind {
                CohortKind::H2 => builder.http2_prior_knowledge().pool_idle_timeout(None),
                CohortKind::Pooled => builder.http1_only().pool_idle_timeout(None),
                _ => builder.http1_only().pool_max_idle_per_host(0),
            };
            builder.build().map_err(PoolError)
        };
        Ok(Self {
            kind: plan.kind,
            clients: sources.into_iter().map(build).collect::<Result<_, _>>()?,
            next: AtomicU64::new(0),
            url,
            payload: plan.payload,
            expectation: plan.expectation.clone(),
            connections,
            replayed: Arc::default(),
            names: Names::default(),
        })
    }

    pub(crate) fn totals(&self) -> ClientTotals {
        ClientTotals {
            connections: self.connections.load(Ordering::Relaxed),
            replayed: Some(self.replayed.load(Ordering::Relaxed)).filter(|_| self.kind.reuses_connections()),
            closed_idle: None,
        }
    }

    pub(crate) async fn request(&self) -> Answer {
        // Only a pool can replay; for the others the count would always be nothing.
        let (outcome, replica) = if self.kind.reuses_connections() {
            replays::counted(&self.replayed, self.exchange()).await
        } else {
            self.exchange().await
        };
        let connection = (!self.kind.reuses_connections()).then_some(ConnectionUse::FIRST);
        Answer { outcome, replica, connection }
    }

    async fn exchange(&self) -> (Outcome, Option<Arc<str>>) {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.clients.len() as u64;
        let client = &self.clients[usize::try_from(turn).unwrap_or(0)];
        let request = match self.payload {
            Payload::None => client.get(self.url.clone()),
            Payload::Body { bytes, over } => client
                .post(self.url.clone())
                .header(reqwest::header::CONTENT_LENGTH, bytes)
                .body(reqwest::Body::wrap_stream(pieces(bytes, over))),
        };
        let mut response = match self.send(request).await {
            Ok(response) => response,
            Err(error) => return (Outcome::Failed(classify(&error, Stage::Head)), None),
        };
        let replica = self.names.name(response.headers().get(REPLICA_HEADER));
        let mut check = Check::new(&self.expectation, response.status().as_u16());
        match read_body(&mut response, &mut check).await {
            Ok(()) => (check.finish(), replica),
            Err(failure) => (Outcome::Failed(failure), replica),
        }
    }

    /// Sends a request. One that HTTP/2 itself says was not processed goes to another connection, as every client of
    /// HTTP/2 does, and is counted as replayed.
    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, reqwest::Error> {
        if self.kind != CohortKind::H2 {
            return request.send().await;
        }
        for _ in 0..MOST_REFUSALS {
            let Some(again) = request.try_clone() else { break };
            match again.send().await {
                Err(error) if is_unprocessed(&error) => self.replayed.fetch_add(1, Ordering::Relaxed),
                result => return result,
            };
        }
        request.send().await
    }
}

fn is_loopback_v4(url: &reqwest::Url) -> bool {
    url.host_str().and_then(|host| host.parse::<Ipv4Addr>().ok()).is_some_and(|address| address.is_loopback())
}

async fn read_body(response: &mut reqwest::Response, check: &mut Check<'_>) -> Result<(), Failure> {
    while let Some(chunk) = response.chunk().await.map_err(|error| classify(&error, Stage::Body))? {
        check.take(&chunk)?;
    }
    Ok(())
}

/// A body of `bytes` bytes of [`pattern`], sent evenly over a time.
fn pieces(
    bytes: u64,
    over: Duration,
) -> impl futures_util::Stream<Item = Result<Vec<u8>, std::convert::Infallible>> + Send + 'static {
    let began = tokio::time::Instant::now();
    futures_util::stream::unfold(0_u64, move |sent| async move {
        if sent >= bytes {
            return None;
        }
        tokio::time::sleep_until(began + over.mul_f64(sent as f64 / bytes as f64)).await;
        let end = (sent + bytes.div_ceil(PIECES)).min(bytes);
        Some((Ok((sent..end).map(pattern).collect()), end))
    })
}

/// Counts the connections that a client establishes.
#[derive(Debug, Clone)]
struct CountConnections(Arc<AtomicU64>);

impl<S> tower_layer::Layer<S> for CountConnections {
    type Service = CountedConnector<S>;

    fn layer(&self, connector: S) -> CountedConnector<S> {
        CountedConnector { connector: Arc::new(connector), count: Arc::clone(&self.0) }
    }
}

/// The pool clones its connector for every request, and connects for few: what it clones is cheap.
#[derive(Debug)]
struct CountedConnector<S> {
    connector: Arc<S>,
    count: Arc<AtomicU64>,
}

impl<S> Clone for CountedConnector<S> {
    fn clone(&self) -> Self {
        Self { connector: Arc::clone(&self.connector), count: Arc::clone(&self.count) }
    }
}

impl<S, T> tower_service::Service<T> for CountedConnector<S>
where
    S: tower_service::Service<T> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    T: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // The clone that connects is asked.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: T) -> Self::Future {
        let (mut connector, count) = (S::clone(&self.connector), Arc::clone(&self.count));
        Box::pin(async move {
            poll_fn(|context| connector.poll_ready(context)).await?;
            let connection = connector.call(target).await?;
            count.fetch_add(1, Ordering::Relaxed);
            Ok(connection)
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::load::content::ExpectedBody;

    fn plan(kind: CohortKind, url: String) -> CohortPlan {
        CohortPlan {
            kind,
            rate: 1.0,
            concurrency: 8,
            requests_per_connection: None,
            url,
            headers: http::HeaderMap::new(),
            delay: Duration::ZERO,
            payload: Payload::None,
            expectation: Expectation { status: 200, body: ExpectedBody::Any },
        }
    }

    /// Answers each connection's first request and closes without saying so.
    async fn closes_after_each_answer() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut head = [0; 1024];
                    if stream.read(&mut head).await.is_ok_and(|read| read > 0) {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                    }
                });
            }
        });
        url
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn silent_replays_of_the_pool_are_counted() {
        let url = closes_after_each_answer().await;
        let client =
            Arc::new(PoolClient::build(&plan(CohortKind::Pooled, url), Duration::from_secs(5)).unwrap());
        // Whether one request meets a connection that was just closed is a race; with many at once, some do.
        let asking = (0..32).map(|_| {
            let client = Arc::clone(&client);
            tokio::spawn(async move {
                for _ in 0..1_000 {
                    if client.totals().replayed > Some(0) {
                        return;
                    }
                    client.request().await;
                }
            })
        });
        futures_util::future::join_all(asking).await;
        assert!(client.totals().replayed > Some(0), "32,000 requests, and not one replay was seen");
    }

    #[tokio::test]
    async fn fresh_requests_are_never_replayed_and_open_one_connection_each() {
        let url = closes_after_each_answer().await;
        let client = PoolClient::build(&plan(CohortKind::Fresh, url), Duration::from_secs(5)).unwrap();
        for _ in 0..40 {
            assert_eq!(client.request().await.outcome, Outcome::Answered);
        }
        assert_eq!(client.totals(), ClientTotals { connections: 40, replayed: None, closed_idle: None });
    }
}
