//! Requests as an application's client sends them. The only user of reqwest.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::connector::WatchConnects;
use super::name_interner::NameInterner;
use super::sources::sources;
use super::trace::{self, RequestTrace};
use super::{Answer, MOST_HEADERS, REPLICA_HEADER};
use crate::load::classify::{Stage, classify, is_unprocessed};
use crate::load::content::{Check, check_token};
use crate::load::undeclared::{UndeclaredLengths, is_undeclared};
use crate::model::cohort::{CohortKind, CohortPlan, Payload};
use crate::model::expectation::{Expectation, pattern};
use crate::model::failure::{Failure, FailureClass};
use crate::model::fresh_connections::FreshConnectionRequests;
use crate::model::observation::ConnectionUse;
use crate::model::observation::{ClientTotals, Outcome};

/// A pool hands out the connection that came back last, so that one alone keeps no more than the rate needs. As many
/// clients in turn keep as many connections at least, and a restart meets many of them idle.
pub(in crate::load) const POOLS: usize = 16;
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

/// Clients that take turns.
#[derive(Debug)]
pub(crate) struct PoolClient {
    recipe: Recipe,
    clients: Vec<RwLock<reqwest::Client>>,
    url: reqwest::Url,
    echo: Option<HeaderName>,
    payload: Payload,
    expectation: Expectation,
    replayed: AtomicU64,
    undeclared: UndeclaredLengths,
    fresh_connections: FreshConnectionRequests,
    names: NameInterner,
}

/// How a cohort's clients are made.
#[derive(Debug)]
struct Recipe {
    kind: CohortKind,
    headers: HeaderMap,
    connect_timeout: Duration,
    timeout: Duration,
    connections: Arc<AtomicU64>,
}

impl Recipe {
    fn client(&self, source: Option<IpAddr>) -> Result<reqwest::Client, PoolError> {
        let builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            // Beside the pool's own replay, which has no switch and is counted, reqwest must add none.
            .retry(reqwest::retry::never().max_retries_per_request(0))
            // As much as curl takes, so that nothing is lost that a person would have got.
            .http1_max_headers(MOST_HEADERS)
            .http1_allow_obsolete_multiline_headers_in_responses(true)
            .default_headers(self.headers.clone())
            .local_address(source)
            .timeout(self.timeout)
            .connector_layer(WatchConnects {
                timeout: self.connect_timeout,
                count: Arc::clone(&self.connections),
            });
        let builder = match self.kind {
            CohortKind::H2 => builder.http2_prior_knowledge().pool_idle_timeout(None),
            CohortKind::Pooled => builder.http1_only().pool_idle_timeout(None),
            _ => builder.http1_only().pool_max_idle_per_host(0),
        };
        builder.build().map_err(PoolError)
    }
}

impl PoolClient {
    pub(crate) fn build(
        plan: &CohortPlan,
        request_timeout: Duration,
        fresh_connections: FreshConnectionRequests,
    ) -> Result<Self, PoolError> {
        trace::listen();
        let url: reqwest::Url =
            plan.url.parse().expect("a scenario's URLs were parsed when it was validated");
        let address = url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse().ok());
        let clients = match plan.kind {
            CohortKind::H2 => vec![None; H2_CONNECTIONS],
            CohortKind::Pooled => vec![None; POOLS],
            _ => address.map_or_else(|| vec![None], sources),
        };
        let recipe = Recipe {
            kind: plan.kind,
            headers: plan.headers.clone(),
            connect_timeout: request_timeout,
            timeout: request_timeout + plan.delay,
            connections: Arc::default(),
        };
        Ok(Self {
            clients: clients
                .into_iter()
                .map(|source| recipe.client(source).map(RwLock::new))
                .collect::<Result<_, _>>()?,
            recipe,
            url,
            echo: plan.echo.clone(),
            payload: plan.payload,
            expectation: plan.expectation.clone(),
            replayed: AtomicU64::new(0),
            undeclared: UndeclaredLengths::default(),
            fresh_connections,
            names: NameInterner::default(),
        })
    }

    pub(crate) fn totals(&self) -> ClientTotals {
        ClientTotals {
            connections: self.recipe.connections.load(Ordering::Relaxed),
            replayed: self.keeps_connections().then(|| self.replayed.load(Ordering::Relaxed)),
            unsent: None,
            closed_idle: None,
            unverified: self.undeclared.unverified(),
        }
    }

    const fn keeps_connections(&self) -> bool {
        self.recipe.kind.reuses_connections()
    }

    pub(crate) async fn request(&self, token: u64, turn: usize) -> Answer {
        let ((mut outcome, replica), trace) = trace::noted(pin!(self.exchange(token, turn))).await;
        if trace.replays > 0 {
            self.replayed.fetch_add(trace.replays, Ordering::Relaxed);
        }
        if let Outcome::Failed(failure) = &mut outcome
            && failure.class == FailureClass::Timeout
            && trace.has_begun_to_connect
            && !trace.is_connected
        {
            // The time for the whole request is up before the time for its connect.
            failure.class = FailureClass::ConnectTimeout;
        }
        let connection = self.connection(trace, &outcome);
        Answer { outcome, replica, connection: Some(connection) }
    }

    /// What is known of a request's connection. A pool that has no idle one begins to open one, and takes what comes
    /// first: that one, or one that another request gives back.
    fn connection(&self, trace: RequestTrace, outcome: &Outcome) -> ConnectionUse {
        use FailureClass::{ConnectTimeout, HarnessResource, Refused};
        let has_none = match outcome {
            Outcome::Failed(failure) => {
                matches!(failure.class, Refused | ConnectTimeout | HarnessResource)
                    && trace.has_begun_to_connect
            }
            Outcome::Answered => false,
        };
        if !self.keeps_connections() || trace.is_connected || has_none {
            ConnectionUse::FIRST
        } else {
            ConnectionUse::LATER
        }
    }

    /// The client whose turn it is. A newcomer comes with a client of its own, and stays.
    fn client(&self, turn: usize) -> reqwest::Client {
        let client = &self.clients[turn % self.clients.len()];
        if self.keeps_connections()
            && self.fresh_connections.is_wanted()
            && let Ok(newcomer) = self.recipe.client(None)
        {
            client.write().unwrap_or_else(PoisonError::into_inner).clone_from(&newcomer);
            return newcomer;
        }
        client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn exchange(&self, token: u64, turn: usize) -> (Outcome, Option<Arc<str>>) {
        let client = self.client(turn);
        let mut uploaded = None;
        let mut request = match self.payload {
            Payload::None => client.get(self.url.clone()),
            Payload::Body { bytes, over } => client
                .post(self.url.clone())
                .header(reqwest::header::CONTENT_LENGTH, bytes)
                .body(reqwest::Body::wrap_stream(pieces(
                    bytes,
                    over,
                    Arc::clone(uploaded.insert(Arc::default())),
                ))),
        };
        if let Some(echo) = &self.echo {
            request = request.header(echo.clone(), HeaderValue::from(token));
        }
        let sent = match self.recipe.kind {
            CohortKind::H2 => self.send_until_processed(request).await,
            _ => request.send().await,
        };
        let mut response = match sent {
            Ok(response) => response,
            Err(error) => {
                let failure = self.with_upload(classify(&error, Stage::Head), uploaded.as_deref());
                return (Outcome::failed(failure), None);
            }
        };
        let replica = self.names.name(response.headers().get(REPLICA_HEADER));
        let repeated = self.echo.as_ref().and_then(|echo| response.headers().get(echo));
        let swapped = check_token(token, repeated);
        // A stream of HTTP/2 has an end of its own.
        let is_undeclared = self.recipe.kind != CohortKind::H2 && is_undeclared(response.headers());
        let mut check = Check::new(&self.expectation, response.status().as_u16());
        match read_body(&mut response, &mut check).await {
            Ok(()) => {
                let length = check.length();
                let mut outcome = check.finish().unless(swapped);
                if is_undeclared && outcome == Outcome::Answered {
                    outcome = outcome.unless(self.undeclared.judge(length));
                }
                (outcome, replica)
            }
            Err(failure) => (Outcome::failed(check.cut_by(failure)), replica),
        }
    }

    /// A failure that also says how much of an upload the connection had taken.
    fn with_upload(&self, mut failure: Failure, uploaded: Option<&AtomicU64>) -> Failure {
        if let (Payload::Body { bytes, .. }, Some(uploaded)) = (self.payload, uploaded) {
            let uploaded = uploaded.load(Ordering::Relaxed);
            failure.detail =
                format!("{uploaded} of {bytes} bytes of the upload were taken: {}", failure.detail);
        }
        failure
    }

    /// Sends a request. One that HTTP/2 itself says was not processed goes to another connection, as every client of
    /// HTTP/2 does, and is counted as replayed.
    async fn send_until_processed(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, reqwest::Error> {
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

async fn read_body(response: &mut reqwest::Response, check: &mut Check<'_>) -> Result<(), Failure> {
    while let Some(chunk) = response.chunk().await.map_err(|error| classify(&error, Stage::Body))? {
        check.take(&chunk)?;
    }
    Ok(())
}

/// A body of `bytes` bytes of [`pattern`], sent evenly over a time; counts those that the connection has taken.
fn pieces(
    bytes: u64,
    over: Duration,
    uploaded: Arc<AtomicU64>,
) -> impl futures_util::Stream<Item = Result<Vec<u8>, std::convert::Infallible>> + Send + 'static {
    let began = tokio::time::Instant::now();
    futures_util::stream::unfold((0_u64, uploaded), move |(sent, uploaded)| async move {
        if sent >= bytes {
            return None;
        }
        tokio::time::sleep_until(began + over.mul_f64(sent as f64 / bytes as f64)).await;
        let end = (sent + bytes.div_ceil(PIECES)).min(bytes);
        uploaded.store(end, Ordering::Relaxed);
        Some((Ok((sent..end).map(pattern).collect()), (end, uploaded)))
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    fn plan(kind: CohortKind, url: String) -> CohortPlan {
        CohortPlan { concurrency: 8, url, ..CohortPlan::of(kind) }
    }

    fn built(kind: CohortKind, url: String) -> PoolClient {
        PoolClient::build(&plan(kind, url), Duration::from_secs(5), FreshConnectionRequests::default())
            .unwrap()
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
        let client = Arc::new(built(CohortKind::Pooled, url));
        // Whether one request meets a connection that was just closed is a race; with many at once, some do.
        let asking = (0..32).map(|turn| {
            let client = Arc::clone(&client);
            tokio::spawn(async move {
                for _ in 0..1_000 {
                    if client.totals().replayed > Some(0) {
                        return;
                    }
                    client.request(0, turn).await;
                }
            })
        });
        futures_util::future::join_all(asking).await;
        assert!(client.totals().replayed > Some(0), "32,000 requests, and not one replay was seen");
    }

    #[tokio::test]
    async fn fresh_requests_are_never_replayed_and_open_one_connection_each() {
        let url = closes_after_each_answer().await;
        let client = built(CohortKind::Fresh, url);
        for turn in 0..40 {
            assert_eq!(client.request(0, turn).await.outcome, Outcome::Answered);
        }
        assert_eq!(client.totals(), ClientTotals { connections: 40, ..ClientTotals::default() });
    }

    /// Answers each connection's requests up to the one of that number, which it reads and drops.
    async fn drops_the_request_number(dropped: u64) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut head = [0; 1024];
                    let mut number = 0;
                    while stream.read(&mut head).await.is_ok_and(|read| read > 0) {
                        number += 1;
                        if number == dropped {
                            return;
                        }
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                    }
                });
            }
        });
        url
    }

    #[tokio::test]
    async fn kept_connection_is_told_from_a_new_one_also_when_the_request_fails() {
        let client = built(CohortKind::Pooled, drops_the_request_number(1).await);
        let answer = client.request(0, 0).await;
        assert_ne!(answer.outcome, Outcome::Answered);
        assert_eq!(answer.connection, Some(ConnectionUse::FIRST));
        let client = built(CohortKind::Pooled, drops_the_request_number(2).await);
        for turn in 0..POOLS {
            let answer = client.request(0, turn).await;
            assert_eq!((answer.outcome, answer.connection), (Outcome::Answered, Some(ConnectionUse::FIRST)));
        }
        assert_eq!(client.totals().connections, POOLS as u64, "each of the clients keeps one");
        let answer = client.request(0, 0).await;
        assert_ne!(answer.outcome, Outcome::Answered);
        assert_eq!(answer.connection, Some(ConnectionUse::LATER));
    }

    #[tokio::test]
    async fn newcomer_opens_a_connection_and_stays() {
        let client = built(CohortKind::Pooled, drops_the_request_number(u64::MAX).await);
        for turn in 0..2 * POOLS {
            client.request(0, turn).await;
        }
        assert_eq!(client.totals().connections, POOLS as u64);
        client.fresh_connections.ask();
        assert_eq!(client.request(0, 0).await.connection, Some(ConnectionUse::FIRST));
        for turn in 0..POOLS {
            assert_eq!(client.request(0, turn).await.connection, Some(ConnectionUse::LATER));
        }
        assert_eq!(client.totals().connections, POOLS as u64 + 1);
    }

    #[tokio::test]
    async fn silence_before_a_connection_is_a_connect_timeout_whichever_timer_ends_it() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        // A backlog of 0 holds one finished handshake (sk_acceptq_is_full in the kernel's sock.h); nobody accepts.
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let _waiting = TcpStream::connect(address).await.unwrap();
        let plan = plan(CohortKind::Fresh, format!("http://{address}/"));
        let client =
            PoolClient::build(&plan, Duration::from_millis(300), FreshConnectionRequests::default()).unwrap();
        let Outcome::Failed(failure) = client.request(0, 0).await.outcome else { panic!("it was answered") };
        assert_eq!(failure.class, FailureClass::ConnectTimeout, "{}", failure.detail);
    }

    /// A server that says goodbye to the first HTTP/2 connection before it has processed anything on it.
    async fn goes_away_once(processed: u32) -> String {
        use http_body_util::Full;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // Its settings, then GOAWAY without an error (RFC 9113, sections 6.5 and 6.8).
            let mut frames = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
            frames.extend([0, 0, 8, 7, 0, 0, 0, 0, 0]);
            frames.extend(processed.to_be_bytes());
            frames.extend([0; 4]);
            let mut preface = [0; 24];
            stream.read_exact(&mut preface).await.unwrap();
            stream.write_all(&frames).await.unwrap();
            loop {
                let (next, _) = listener.accept().await.unwrap();
                let service = hyper::service::service_fn(async |_| {
                    Ok::<_, std::convert::Infallible>(hyper::Response::new(Full::new(bytes::Bytes::from(
                        "ok",
                    ))))
                });
                tokio::spawn(async move {
                    let io = hyper_util::rt::TokioIo::new(next);
                    let executor = hyper_util::rt::TokioExecutor::new();
                    let _ = hyper::server::conn::http2::Builder::new(executor)
                        .serve_connection(io, service)
                        .await;
                });
            }
        });
        url
    }

    #[tokio::test]
    async fn request_that_a_goaway_left_unprocessed_is_repeated_and_counted() {
        let client = built(CohortKind::H2, goes_away_once(0).await);
        let answer = client.request(0, 0).await;
        assert_eq!(answer.outcome, Outcome::Answered, "another connection took it");
        assert_eq!(client.totals().replayed, Some(1));
    }

    #[tokio::test]
    async fn request_that_a_goaway_says_was_processed_is_not_repeated() {
        let client = built(CohortKind::H2, goes_away_once(1).await);
        let answer = client.request(0, 0).await;
        assert_ne!(answer.outcome, Outcome::Answered);
        assert_eq!(client.totals().replayed, Some(0));
    }
}
