//! One request after another on known connections, nothing ever repeated: hyper's `client::conn`, without a pool.
//!
//! Told apart here: a connection that the server closed while it was idle (no request was lost, it is counted), a
//! request that was never written because its connection went away at that moment, and one that was written and
//! dropped.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

use super::name_interner::NameInterner;
use super::sources::sources;
use super::{Answer, MOST_HEADERS, REPLICA_HEADER};
use crate::load::classify::{Stage, classify_connect, classify_hyper};
use crate::load::content::{Check, check_token};
use crate::load::undeclared::{UndeclaredLengths, is_undeclared};
use crate::model::cohort::CohortPlan;
use crate::model::error_chain::chain;
use crate::model::expectation::Expectation;
use crate::model::failure::{Failure, FailureClass};
use crate::model::fresh_connections::FreshConnectionRequests;
use crate::model::observation::ConnectionUse;
use crate::model::observation::{ClientTotals, Outcome};

/// As long as there are fewer connections, a request opens one instead of using an idle one: a restart then meets
/// many idle connections, not just the one or two that the rate needs.
const KEPT: usize = 32;

#[derive(Debug)]
pub(crate) struct StrictClient {
    address: SocketAddr,
    uri: http::Uri,
    headers: HeaderMap,
    echo: Option<HeaderName>,
    sources: Vec<Option<IpAddr>>,
    requests_per_connection: Option<NonZeroU64>,
    expectation: Expectation,
    timeout: Duration,
    idle: Mutex<VecDeque<Connection>>,
    opened: AtomicU64,
    alive: Arc<AtomicU64>,
    closed_idle: AtomicU64,
    unsent: AtomicU64,
    undeclared: UndeclaredLengths,
    fresh_connections: FreshConnectionRequests,
    names: NameInterner,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    traffic: Arc<Traffic>,
    /// What the server did on it that no server may do.
    breach: Arc<OnceLock<String>>,
    /// The server has said that it closes it: no other request may follow (RFC 9112, section 9.6).
    is_last: bool,
    requests: u64,
    _alive: Alive,
}

/// Counts the connections that exist.
#[derive(Debug)]
struct Alive(Arc<AtomicU64>);

impl Alive {
    fn new(count: &Arc<AtomicU64>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl StrictClient {
    pub(crate) fn new(
        plan: &CohortPlan,
        request_timeout: Duration,
        fresh_connections: FreshConnectionRequests,
    ) -> Self {
        let url: url::Url = plan.url.parse().expect("a scenario's URLs were parsed when it was validated");
        let address = url
            .socket_addrs(|| None)
            .ok()
            .and_then(|addresses| addresses.first().copied())
            .expect("a scenario's URL has an address and a port");
        Self {
            address,
            uri: url[url::Position::BeforePath..]
                .parse()
                .expect("what is a URL's path is an origin-form target"),
            headers: {
                let host = HeaderValue::from_str(&address.to_string()).expect("an address is a header value");
                let mut headers = plan.headers.clone();
                headers.entry(header::HOST).or_insert(host);
                headers
            },
            echo: plan.echo.clone(),
            sources: sources(address.ip()),
            requests_per_connection: plan.requests_per_connection,
            expectation: plan.expectation.clone(),
            timeout: request_timeout + plan.delay,
            idle: Mutex::default(),
            opened: AtomicU64::new(0),
            alive: Arc::default(),
            closed_idle: AtomicU64::new(0),
            unsent: AtomicU64::new(0),
            undeclared: UndeclaredLengths::default(),
            fresh_connections,
            names: NameInterner::default(),
        }
    }

    pub(crate) fn totals(&self) -> ClientTotals {
        ClientTotals {
            connections: self.opened.load(Ordering::Relaxed),
            replayed: Some(0),
            unsent: Some(self.unsent.load(Ordering::Relaxed)),
            closed_idle: Some(self.closed_idle.load(Ordering::Relaxed)),
            unverified: self.undeclared.unverified(),
        }
    }

    pub(crate) async fn request(&self, token: u64) -> Answer {
        let deadline = tokio::time::Instant::now() + self.timeout;
        loop {
            if let Some(answer) = self.request_once(token, deadline).await {
                return answer;
            }
            self.unsent.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends a request; nothing if its kept connection was found closed before a byte of it was written. Then the server
    /// has not lost it: it goes to another connection, and is counted.
    async fn request_once(&self, token: u64, deadline: tokio::time::Instant) -> Option<Answer> {
        let late = |class| {
            let detail = format!("nothing within {}", humantime::format_duration(self.timeout));
            Outcome::failed(Failure::new(class, detail))
        };
        let mut connection = match tokio::time::timeout_at(deadline, self.connection()).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(failure)) => return Some(Answer::without_connection(Outcome::failed(failure))),
            Err(_) => return Some(Answer::without_connection(late(FailureClass::ConnectTimeout))),
        };
        connection.requests += 1;
        let (sent, received) = connection.traffic.counts();
        let is_last = self.requests_per_connection.is_some_and(|most| connection.requests >= most.get());
        let (outcome, replica) = tokio::time::timeout_at(deadline, self.ask(&mut connection, token, is_last))
            .await
            .unwrap_or_else(|_| (late(FailureClass::Timeout), None));
        let (sent_now, received_now) = connection.traffic.counts();
        let used = ConnectionUse {
            nth: Some(connection.requests),
            sent: Some(sent_now - sent),
            received: Some(received_now - received),
        };
        if is_unsent(&outcome, used) {
            return None;
        }
        if outcome == Outcome::Answered && !is_last && !connection.is_last {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push_back(connection);
        }
        Some(Answer { outcome, replica, connection: Some(used) })
    }

    async fn connection(&self) -> Result<Connection, Failure> {
        match self.take_idle().await? {
            Some(connection) => Ok(connection),
            None => self.open().await,
        }
    }

    /// The connection that has been idle longest, unless there are still too few.
    ///
    /// # Errors
    /// The server broke the protocol on it while it was idle: it sent what nobody had asked for.
    async fn take_idle(&self) -> Result<Option<Connection>, Failure> {
        if self.fresh_connections.is_wanted() {
            // One comes, one goes.
            drop(self.pop_idle());
            return Ok(None);
        }
        loop {
            if self.alive.load(Ordering::Relaxed) < KEPT as u64 {
                return Ok(None);
            }
            let Some(mut connection) = self.pop_idle() else { return Ok(None) };
            // Nothing has been given to hyper yet: whoever is found closed here has lost no request.
            if connection.sender.ready().await.is_ok() {
                return Ok(Some(connection));
            }
            if let Some(breach) = connection.breach.get() {
                let detail = format!("after request {} of its connection: {breach}", connection.requests);
                return Err(Failure::new(FailureClass::Other, detail));
            }
            self.closed_idle.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn pop_idle(&self) -> Option<Connection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    async fn open(&self) -> Result<Connection, Failure> {
        let stream = self.connect().await.map_err(|error| classify_connect(&error))?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        let traffic = Arc::new(Traffic::default());
        let counted = Counted { stream, traffic: Arc::clone(&traffic) };
        let (sender, connection) = http1::Builder::new()
            .max_headers(MOST_HEADERS)
            .allow_obsolete_multiline_headers_in_responses(true)
            .handshake(TokioIo::new(counted))
            .await
            .map_err(|error| classify_hyper(&error, Stage::Head, None))?;
        let breach = Arc::new(OnceLock::new());
        let told = Arc::clone(&breach);
        // It ends with its sender or its stream.
        tokio::spawn(async move {
            if let Err(error) = connection.await
                && is_breach(&error)
            {
                let _ = told.set(chain(&error));
            }
        });
        Ok(Connection {
            sender,
            traffic,
            breach,
            is_last: false,
            requests: 0,
            _alive: Alive::new(&self.alive),
        })
    }

    async fn connect(&self) -> std::io::Result<TcpStream> {
        let turn = self.opened.load(Ordering::Relaxed) % self.sources.len() as u64;
        let stream = match self.sources[usize::try_from(turn).unwrap_or(0)] {
            Some(source) => {
                let socket = TcpSocket::new_v4()?;
                socket.bind((source, 0).into())?;
                socket.connect(self.address).await?
            }
            None => TcpStream::connect(self.address).await?,
        };
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn ask(
        &self,
        connection: &mut Connection,
        token: u64,
        is_last: bool,
    ) -> (Outcome, Option<Arc<str>>) {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        if is_last {
            // The server need not wait for a next one (RFC 9112, section 9.6), and closes first.
            request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(echo) = &self.echo {
            request.headers_mut().insert(echo.clone(), HeaderValue::from(token));
        }
        let received_before = connection.traffic.counts().1;
        let response = match connection.sender.send_request(request).await {
            Ok(response) => response,
            Err(error) => {
                let received = connection.traffic.counts().1 - received_before;
                return (Outcome::failed(classify_hyper(&error, Stage::Head, Some(received))), None);
            }
        };
        connection.is_last = says_close(response.headers());
        let replica = self.names.name(response.headers().get(REPLICA_HEADER));
        let returned = self.echo.as_ref().and_then(|echo| response.headers().get(echo));
        let swapped = check_token(token, returned);
        let is_undeclared = is_undeclared(response.headers());
        let mut check = Check::new(&self.expectation, response.status().as_u16());
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let checked = match frame {
                Ok(frame) => frame.data_ref().map_or(Ok(()), |data| check.take(data)),
                Err(error) => Err(classify_hyper(&error, Stage::Body, None)),
            };
            if let Err(failure) = checked {
                return (Outcome::failed(check.cut_by(failure)), replica);
            }
        }
        let length = check.length();
        let mut outcome = check.finish().unless(swapped);
        if is_undeclared && outcome == Outcome::Answered {
            outcome = outcome.unless(self.undeclared.judge(length));
        }
        (outcome, replica)
    }
}

/// Whether `Connection: close` is among a message's header lines.
fn says_close(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::CONNECTION).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|option| option.trim().eq_ignore_ascii_case("close"))
}

/// Whether a request was never written to its kept connection, because the server had closed or reset that before. A new
/// connection that is closed at once has lost its request: curl writes into it and gets no reply.
fn is_unsent(outcome: &Outcome, used: ConnectionUse) -> bool {
    let Outcome::Failed(failure) = outcome else { return false };
    used.is_kept()
        && used.sent == Some(0)
        && used.received == Some(0)
        && matches!(failure.class, FailureClass::EmptyReply | FailureClass::ResetBeforeResponse)
}

/// Whether a connection ended because the server sent what is no answer to anything, rather than by closing or
/// resetting it.
fn is_breach(error: &hyper::Error) -> bool {
    let is_end = error.is_canceled()
        || error.is_closed()
        || error.is_incomplete_message()
        || error.is_shutdown()
        || error.is_timeout()
        || error.is_body_write_aborted();
    !is_end && std::error::Error::source(error).is_none_or(|source| !source.is::<std::io::Error>())
}

/// How many bytes a connection has carried.
#[derive(Debug, Default)]
struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Traffic {
    fn counts(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }
}

/// A stream that counts.
#[derive(Debug)]
struct Counted {
    stream: TcpStream,
    traffic: Arc<Traffic>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.traffic.received.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(written)) = polled {
            self.traffic.sent.fetch_add(written as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use hyper::client::conn::http1::handshake;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;
    use crate::model::cohort::CohortKind;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    fn client(address: SocketAddr) -> StrictClient {
        let plan = CohortPlan { url: format!("http://{address}/"), ..CohortPlan::of(CohortKind::Strict) };
        StrictClient::new(&plan, Duration::from_secs(5), FreshConnectionRequests::default())
    }

    async fn read_head(stream: &mut TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
    }

    /// Answers the first request of each connection, then says so and hands the connection over.
    async fn answers_once() -> (SocketAddr, mpsc::Receiver<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (give, take) = mpsc::channel(KEPT + 1);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                read_head(&mut stream).await;
                stream.write_all(ANSWER).await.unwrap();
                give.send(stream).await.unwrap();
            }
        });
        (address, take)
    }

    /// Opens as many connections as are kept; each has carried one request.
    async fn filled(client: &StrictClient, servers: &mut mpsc::Receiver<TcpStream>) -> Vec<TcpStream> {
        let mut streams = Vec::new();
        for _ in 0..KEPT {
            let answer = client.request(0).await;
            assert_eq!(answer.outcome, Outcome::Answered);
            assert_eq!(answer.connection.and_then(|used| used.nth), Some(1));
            streams.push(servers.recv().await.unwrap());
        }
        streams
    }

    #[tokio::test]
    async fn connection_that_was_closed_while_idle_is_counted_and_loses_no_request() {
        let (address, mut servers) = answers_once().await;
        let client = client(address);
        drop(filled(&client, &mut servers).await);
        // Until the client has read the end of each of them; then none is left to lose a request on.
        let all_closed = async {
            while client.idle.lock().unwrap().iter().any(|connection| !connection.sender.is_closed()) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), all_closed).await.unwrap();
        // Each finds one of them closed, and opens another in its place.
        let _streams = filled(&client, &mut servers).await;
        assert_eq!(client.totals().closed_idle, Some(KEPT as u64));
        assert_eq!(client.totals().connections, 2 * KEPT as u64);
    }

    #[tokio::test]
    async fn request_that_was_read_and_dropped_is_an_empty_reply_with_its_number_and_bytes() {
        let (address, mut servers) = answers_once().await;
        let client = client(address);
        let mut streams = filled(&client, &mut servers).await;
        let dropping = async {
            let mut stream = streams.remove(0);
            read_head(&mut stream).await;
        };
        let (answer, ()) = tokio::join!(client.request(0), dropping);
        let Outcome::Failed(failure) = answer.outcome else { panic!("it was answered") };
        assert_eq!(failure.class, FailureClass::EmptyReply, "{}", failure.detail);
        assert!(!failure.detail.contains("never written"), "{}", failure.detail);
        let used = answer.connection.unwrap();
        assert_eq!((used.nth, used.received), (Some(2), Some(0)));
        assert!(used.sent.is_some_and(|sent| sent > 0), "{used:?}");
        assert_eq!(client.totals().closed_idle, Some(0));
    }

    #[tokio::test]
    async fn request_that_was_never_written_says_so() {
        let (ours, _theirs) = tokio::io::duplex(64);
        let (mut sender, connection) = handshake::<_, Empty<Bytes>>(TokioIo::new(ours)).await.unwrap();
        // The connection's task goes away between the question whether it is there and the request.
        drop(connection);
        let error = sender.send_request(Request::new(Empty::new())).await.unwrap_err();
        let failure = classify_hyper(&error, Stage::Head, Some(0));
        assert_eq!(failure.class, FailureClass::EmptyReply, "{}", failure.detail);
        assert!(failure.detail.starts_with("never written: "), "{}", failure.detail);
    }

    #[test]
    fn request_is_unsent_only_if_a_kept_connection_took_no_byte_of_it() {
        let used = |nth, sent| ConnectionUse { nth: Some(nth), sent: Some(sent), received: Some(0) };
        let failed = |class| Outcome::failed(Failure::new(class, ""));
        let empty = failed(FailureClass::EmptyReply);
        assert!(is_unsent(&empty, used(2, 0)));
        assert!(is_unsent(&failed(FailureClass::ResetBeforeResponse), used(7, 0)));
        assert!(!is_unsent(&empty, used(2, 78)), "it was written");
        assert!(!is_unsent(&empty, used(1, 0)), "a new connection was closed at once");
        assert!(!is_unsent(&failed(FailureClass::Timeout), used(2, 0)));
        assert!(!is_unsent(&Outcome::Answered, used(2, 0)));
    }

    #[tokio::test]
    async fn request_whose_kept_connection_goes_away_before_it_is_written_is_unsent() {
        let (address, _servers) = answers_once().await;
        let client = client(address);
        let (ours, _theirs) = tokio::io::duplex(64);
        let (mut sender, connection) = handshake::<_, Empty<Bytes>>(TokioIo::new(ours)).await.unwrap();
        let serving = tokio::spawn(connection);
        sender.ready().await.unwrap();
        // Between the question whether it is there and the request.
        serving.abort();
        let _ = serving.await;
        let mut gone = Connection {
            sender,
            traffic: Arc::default(),
            breach: Arc::default(),
            is_last: false,
            requests: 4,
            _alive: Alive::new(&client.alive),
        };
        let (outcome, _) = client.ask(&mut gone, 0, false).await;
        let (sent, received) = gone.traffic.counts();
        let used = ConnectionUse { nth: Some(gone.requests), sent: Some(sent), received: Some(received) };
        assert!(is_unsent(&outcome, used), "{outcome:?}");
    }

    #[tokio::test]
    async fn connection_that_the_server_says_it_closes_is_not_closed_while_idle() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = client(listener.local_addr().unwrap());
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await;
            let many = "x-many: folded\r\n value\r\n".repeat(200);
            let head = format!("HTTP/1.1 200 OK\r\nconnection: Close\r\n{many}content-length: 2\r\n\r\nok");
            stream.write_all(head.as_bytes()).await.unwrap();
        };
        let (answer, ()) = tokio::join!(client.request(0), answering);
        assert_eq!(answer.outcome, Outcome::Answered, "200 headers, and some of them folded");
        assert!(client.idle.lock().unwrap().is_empty(), "it is not kept");
        assert_eq!(client.totals().closed_idle, Some(0));
    }

    #[tokio::test]
    async fn last_request_of_a_connection_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let plan = CohortPlan {
            url: format!("http://{}/", listener.local_addr().unwrap()),
            requests_per_connection: NonZeroU64::new(1),
            ..CohortPlan::of(CohortKind::Strict)
        };
        let client = StrictClient::new(&plan, Duration::from_secs(5), FreshConnectionRequests::default());
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                head.push(char::from(stream.read_u8().await.unwrap()));
            }
            stream.write_all(ANSWER).await.unwrap();
            head.to_ascii_lowercase()
        };
        let (answer, head) = tokio::join!(client.request(0), answering);
        assert_eq!(answer.outcome, Outcome::Answered);
        assert!(head.contains("connection: close\r\n"), "{head}");
        assert!(client.idle.lock().unwrap().is_empty(), "it is not kept");
    }

    #[tokio::test]
    async fn newcomer_takes_the_place_of_a_kept_connection() {
        let (address, mut servers) = answers_once().await;
        let client = client(address);
        let _streams = filled(&client, &mut servers).await;
        client.fresh_connections.ask();
        let answer = client.request(0).await;
        assert_eq!(answer.connection.and_then(|used| used.nth), Some(1), "on a new connection");
        assert_eq!(client.totals().connections, KEPT as u64 + 1);
        assert_eq!(client.idle.lock().unwrap().len(), KEPT, "one came, one went");
    }
}
