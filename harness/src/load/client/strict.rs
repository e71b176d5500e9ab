//! One request after another on known connections, nothing ever repeated: hyper's `client::conn`, without a pool.
//!
//! Told apart here: a connection that the server closed while it was idle (no request was lost, it is counted), a
//! request that was never written because its connection went away at that moment, and one that was written and
//! dropped.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

use super::names::Names;
use super::{Answer, ConnectionUse, REPLICA_HEADER};
use crate::cause::chain;
use crate::failure::{Failure, FailureClass};
use crate::load::classify::{Stage, classify_connect, classify_hyper};
use crate::load::cohort::CohortPlan;
use crate::load::content::{Check, Expectation};
use crate::load::{ClientTotals, Outcome};

/// As long as there are fewer connections, a request opens one instead of using an idle one: a restart then meets
/// many idle connections, not just the one or two that the rate needs.
const KEPT: usize = 32;

/// How many source addresses connections are spread over.
const SOURCES: u8 = 64;

#[derive(Debug)]
pub(crate) struct StrictClient {
    address: SocketAddr,
    uri: http::Uri,
    headers: HeaderMap,
    requests_per_connection: Option<NonZeroU64>,
    expectation: Expectation,
    timeout: Duration,
    idle: Mutex<VecDeque<Connection>>,
    opened: AtomicU64,
    alive: Arc<AtomicU64>,
    closed_idle: AtomicU64,
    names: Names,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    traffic: Arc<Traffic>,
    /// What the server did on it that no server may do.
    breach: Arc<OnceLock<String>>,
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
    pub(crate) fn new(plan: &CohortPlan, request_timeout: Duration) -> Self {
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
            requests_per_connection: plan.requests_per_connection,
            expectation: plan.expectation.clone(),
            timeout: request_timeout + plan.delay,
            idle: Mutex::default(),
            opened: AtomicU64::new(0),
            alive: Arc::default(),
            closed_idle: AtomicU64::new(0),
            names: Names::default(),
        }
    }

    pub(crate) fn totals(&self) -> ClientTotals {
        ClientTotals {
            connections: self.opened.load(Ordering::Relaxed),
            replayed: Some(0),
            closed_idle: Some(self.closed_idle.load(Ordering::Relaxed)),
        }
    }

    pub(crate) async fn request(&self) -> Answer {
        let deadline = tokio::time::Instant::now() + self.timeout;
        let late = |class| {
            let detail = format!("nothing within {}", humantime::format_duration(self.timeout));
            Outcome::Failed(Failure::new(class, detail))
        };
        let mut connection = match tokio::time::timeout_at(deadline, self.connection()).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(failure)) => return Answer::without_connection(Outcome::Failed(failure)),
            Err(_) => return Answer::without_connection(late(FailureClass::ConnectTimeout)),
        };
        connection.requests += 1;
        let (sent, received) = connection.traffic.counts();
        let (outcome, replica) = tokio::time::timeout_at(deadline, self.ask(&mut connection))
            .await
            .unwrap_or_else(|_| (late(FailureClass::Timeout), None));
        let (sent_now, received_now) = connection.traffic.counts();
        let used = ConnectionUse {
            nth: connection.requests,
            sent: Some(sent_now - sent),
            received: Some(received_now - received),
        };
        let is_used_up = self.requests_per_connection.is_some_and(|most| connection.requests >= most.get());
        if outcome == Outcome::Answered && !is_used_up {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push_back(connection);
        }
        Answer { outcome, replica, connection: Some(used) }
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
        loop {
            if self.alive.load(Ordering::Relaxed) < KEPT as u64 {
                return Ok(None);
            }
            let next = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(mut connection) = next else { return Ok(None) };
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

    async fn open(&self) -> Result<Connection, Failure> {
        let stream = self.connect().await.map_err(|error| classify_connect(&error))?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        let traffic = Arc::new(Traffic::default());
        let counted = Counted { stream, traffic: Arc::clone(&traffic) };
        let (sender, connection) = handshake(TokioIo::new(counted))
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
        Ok(Connection { sender, traffic, breach, requests: 0, _alive: Alive::new(&self.alive) })
    }

    /// Takes the next source address: one alone has some 28,000 ports, each of which rests after its connection.
    async fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = if self.address.ip().is_loopback() && self.address.is_ipv4() {
            let turn = u8::try_from(self.opened.load(Ordering::Relaxed) % u64::from(SOURCES)).unwrap_or(0);
            let socket = TcpSocket::new_v4()?;
            socket.bind((Ipv4Addr::new(127, 0, 0, 1 + turn), 0).into())?;
            socket.connect(self.address).await?
        } else {
            TcpStream::connect(self.address).await?
        };
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn ask(&self, connection: &mut Connection) -> (Outcome, Option<Arc<str>>) {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let received_before = connection.traffic.counts().1;
        let response = match connection.sender.send_request(request).await {
            Ok(response) => response,
            Err(error) => {
                let received = connection.traffic.counts().1 - received_before;
                return (Outcome::Failed(classify_hyper(&error, Stage::Head, Some(received))), None);
            }
        };
        let replica = self.names.name(response.headers().get(REPLICA_HEADER));
        let mut check = Check::new(&self.expectation, response.status().as_u16());
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let taken = match frame {
                Ok(frame) => frame.data_ref().map_or(Ok(()), |data| check.take(data)),
                Err(error) => Err(classify_hyper(&error, Stage::Body, None)),
            };
            if let Err(failure) = taken {
                return (Outcome::Failed(failure), replica);
            }
        }
        (check.finish(), replica)
    }
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
