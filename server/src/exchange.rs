//! One request and its response: the call of the router, the limits on the body, and the books.
//!
//! This is the path of every request, so it takes no lock, spawns nothing, and allocates nothing beyond what the router
//! needs.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper::service::Service;
use tower_service::Service as _;

use crate::clock::monotonic_ns;
use crate::connection::Protocol;
use crate::replica::Replica;

type RouterFuture = <Router as tower_service::Service<Request<Body>>>::Future;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What one connection has begun and finished. Shared by its parts, all of which (HTTP/2 streams aside) are polled within
/// one task.
#[derive(Debug)]
pub(crate) struct Link {
    replica: Arc<Replica>,
    protocol: Protocol,
    /// Requests for which the router was called.
    begun: AtomicU64,
    /// Responses whose body hyper has taken whole.
    ended: AtomicU64,
    /// Responses that are with the kernel.
    flushed: AtomicU64,
    /// How far the current request's body has been read: a [`Reading`].
    reading: AtomicU8,
    /// Nothing more is read from the client than the request under way needs.
    holds: AtomicBool,
    /// Bytes came since the last request began.
    heard: AtomicBool,
    /// Since when part of a head has been there; 0 when unknown.
    head_since_ns: AtomicU64,
    /// When the last response was finished, or the connection opened.
    idle_since_ns: AtomicU64,
    /// The next response is the last one, whatever the order says.
    last: AtomicBool,
    /// The connection has left HTTP.
    upgraded: AtomicBool,
}

/// How far a request's body has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Reading {
    /// To its end.
    Done = 0,
    /// Not yet to its end.
    UnderWay = 1,
    /// The application dropped it unread. hyper, when it is polled next, reads over the rest if it is here already, and
    /// closes the connection if not.
    Dropped = 2,
}

impl Link {
    pub(crate) fn new(replica: Arc<Replica>, protocol: Protocol) -> Self {
        Self {
            replica,
            protocol,
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            reading: AtomicU8::new(Reading::Done as u8),
            holds: AtomicBool::new(false),
            heard: AtomicBool::new(false),
            head_since_ns: AtomicU64::new(0),
            idle_since_ns: AtomicU64::new(monotonic_ns()),
            last: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
        }
    }

    pub(crate) fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Every request that began has been answered, and the answers are with the kernel.
    pub(crate) fn is_idle(&self) -> bool {
        self.begun.load(Relaxed) == self.flushed.load(Relaxed)
    }

    /// What the client sends next is the beginning of a request, not the rest of a body that nobody read.
    pub(crate) fn is_between_requests(&self) -> bool {
        self.is_idle() && self.reading.load(Relaxed) == Reading::Done as u8
    }

    /// The answer is out, but the application dropped the request's body unread, and hyper does not know it before it
    /// is polled once more: after that the connection is closed or between requests.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.is_idle() && self.reading.load(Relaxed) == Reading::Dropped as u8
    }

    /// hyper was polled once more.
    pub(crate) fn settle(&self) {
        if self.is_unsettled() {
            self.reading.store(Reading::Done as u8, Relaxed);
        }
    }

    /// From now on nothing (or everything again) is read ahead.
    pub(crate) fn hold(&self, holds: bool) {
        self.holds.store(holds, Relaxed);
    }

    /// Whether what the client sends has to wait in the socket: only a body under way is read while holding.
    pub(crate) fn is_held(&self) -> bool {
        self.holds.load(Relaxed) && self.reading.load(Relaxed) == Reading::Done as u8
    }

    pub(crate) fn is_last(&self) -> bool {
        self.last.load(Relaxed)
    }

    pub(crate) fn make_last(&self) {
        self.last.store(true, Relaxed);
    }

    fn upgrade(&self) {
        if !self.upgraded.swap(true, Relaxed) {
            self.replica.ledger.upgrade();
        }
    }

    /// Bytes came from the client.
    pub(crate) fn hear(&self) {
        self.heard.store(true, Relaxed);
    }

    /// hyper's buffer is empty, and so everything that ended is with the kernel. HTTP/2 streams share a buffer, there the
    /// end of the body counts instead.
    pub(crate) fn flush(&self) {
        if self.protocol == Protocol::Http1 {
            let ended = self.ended.load(Relaxed);
            let finished = ended - self.flushed.load(Relaxed);
            if finished > 0 {
                self.flushed.store(ended, Relaxed);
                self.finish(finished);
            }
        }
    }

    pub(crate) fn idle_since_ns(&self) -> u64 {
        self.idle_since_ns.load(Relaxed)
    }

    /// Since when a part of the next request's head has been there, if it is; asked from time to time, the first time
    /// that a part is there is taken for its beginning.
    pub(crate) fn part_of_head_since(&self, now_ns: u64) -> Option<u64> {
        if !self.heard.load(Relaxed) {
            return None;
        }
        let since = self.head_since_ns.load(Relaxed);
        if since == 0 {
            self.head_since_ns.store(now_ns, Relaxed);
            return Some(now_ns);
        }
        Some(since)
    }

    fn begin(&self, reading: Reading) {
        self.replica.ledger.begin();
        self.begun.fetch_add(1, Relaxed);
        self.reading.store(reading as u8, Relaxed);
        self.heard.store(false, Relaxed);
        self.head_since_ns.store(0, Relaxed);
    }

    fn end(&self, is_whole: bool) {
        match self.protocol {
            Protocol::Http1 => {
                self.ended.fetch_add(1, Relaxed);
            }
            Protocol::Http2 => {
                self.flushed.fetch_add(1, Relaxed);
                if is_whole {
                    self.finish(1);
                } else {
                    self.replica.ledger.abort(1);
                }
            }
        }
    }

    fn finish(&self, count: u64) {
        let now = monotonic_ns();
        self.idle_since_ns.store(now, Relaxed);
        // Bytes that came while the request was served belonged to its body, as a rule.
        self.heard.store(false, Relaxed);
        self.replica.ledger.answer(count, now);
    }
}

impl Drop for Link {
    /// The connection is gone: what was not finished never will be.
    fn drop(&mut self) {
        let unfinished = self.begun.load(Relaxed) - self.flushed.load(Relaxed);
        if unfinished > 0 {
            self.replica.ledger.abort(unfinished);
        }
        if self.upgraded.load(Relaxed) {
            self.replica.ledger.end_upgraded();
        }
    }
}

/// hyper's service over the application's router.
#[derive(Debug, Clone)]
pub(crate) struct App {
    router: Router,
    link: Arc<Link>,
}

impl App {
    pub(crate) fn new(router: Router, link: Arc<Link>) -> Self {
        Self { router, link }
    }

    pub(crate) fn link(&self) -> Arc<Link> {
        Arc::clone(&self.link)
    }
}

impl Service<Request<Incoming>> for App {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Handling;

    fn call(&self, request: Request<Incoming>) -> Handling {
        let (head, incoming) = request.into_parts();
        let has_body = !incoming.is_end_stream();
        self.link.begin(if has_body { Reading::UnderWay } else { Reading::Done });
        let exchange = Exchange { link: Arc::clone(&self.link), is_whole: false };
        let max_body = self.link.replica.limits.max_body;
        if incoming.size_hint().lower() > max_body {
            self.link.reading.store(Reading::Dropped as u8, Relaxed);
            return Handling { work: Work::TooLarge, exchange: Some(exchange) };
        }
        let body = if has_body {
            let limit = usize::try_from(max_body).unwrap_or(usize::MAX);
            Body::new(Upload { body: Limited::new(incoming, limit), link: Arc::clone(&self.link) })
        } else {
            Body::empty()
        };
        let future = self.router.clone().call(Request::from_parts(head, body));
        Handling { work: Work::Routed { future }, exchange: Some(exchange) }
    }
}

/// A request in the books, until its response ended or it was dropped.
#[derive(Debug)]
struct Exchange {
    link: Arc<Link>,
    is_whole: bool,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.link.end(self.is_whole);
    }
}

pin_project_lite::pin_project! {
    #[project = WorkProjection]
    enum Work {
        Routed { #[pin] future: RouterFuture },
        TooLarge,
    }
}

pin_project_lite::pin_project! {
    /// The router at work on one request.
    pub(crate) struct Handling {
        #[pin]
        work: Work,
        exchange: Option<Exchange>,
    }
}

impl Future for Handling {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = match this.work.project() {
            WorkProjection::Routed { future } => match future.poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(response)) => response,
            },
            WorkProjection::TooLarge => {
                let mut response = Response::new(Body::from("the request body is too large\n"));
                *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
                response
            }
        };
        let Some(exchange) = this.exchange.take() else { return Poll::Pending };
        let (mut head, body) = response.into_parts();
        let link = &exchange.link;
        for (name, value) in &link.replica.stamp {
            head.headers.insert(name.clone(), value.clone());
        }
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            link.upgrade();
        }
        let is_last = link.is_last() || link.replica.orders.current().is_last_answer();
        if is_last && link.protocol == Protocol::Http1 && head.status != StatusCode::SWITCHING_PROTOCOLS {
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(Ok(Response::from_parts(head, Answer::new(body, exchange))))
    }
}

/// A response body that tells the books when it has been taken whole.
#[derive(Debug)]
pub(crate) struct Answer {
    body: Body,
    exchange: Exchange,
}

impl Answer {
    fn new(body: Body, mut exchange: Exchange) -> Self {
        exchange.is_whole = body.is_end_stream();
        Self { body, exchange }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        match &frame {
            Poll::Ready(None) => self.exchange.is_whole = true,
            Poll::Ready(Some(Ok(_))) => self.exchange.is_whole = self.body.is_end_stream(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request body under its limit, which tells the [`Link`] when it has been read to its end.
#[derive(Debug)]
struct Upload {
    body: Limited<Incoming>,
    link: Arc<Link>,
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        let is_read = match &frame {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(_))) => self.body.is_end_stream(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => false,
        };
        if is_read {
            self.link.reading.store(Reading::Done as u8, Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // On HTTP/2 several bodies share the link, and nobody asks.
        let _ = self.link.reading.compare_exchange(
            Reading::UnderWay as u8,
            Reading::Dropped as u8,
            Relaxed,
            Relaxed,
        );
    }
}
