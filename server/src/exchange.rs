//! One request and its response: the call of the router, the limits on the body, and the books.
//!
//! This is the path of every request, so it takes no lock, spawns nothing, and allocates nothing beyond what the router
//! needs.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper::service::Service;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tower_service::Service as _;

use crate::activity::{ConnectionActivity, Protocol};
use crate::framing;
use crate::timer::Timer;

type RouterFuture = <Router as tower_service::Service<Request<Body>>>::Future;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// hyper's service over the application's router.
#[derive(Debug, Clone)]
pub(crate) struct App {
    router: Router,
    activity: Arc<ConnectionActivity>,
}

impl App {
    pub(crate) fn new(router: Router, activity: Arc<ConnectionActivity>) -> Self {
        Self { router, activity }
    }

    pub(crate) fn activity(&self) -> Arc<ConnectionActivity> {
        Arc::clone(&self.activity)
    }
}

impl Service<Request<Incoming>> for App {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Handling;

    fn call(&self, request: Request<Incoming>) -> Handling {
        let (mut head, incoming) = request.into_parts();
        let activity = &self.activity;
        let has_body = !incoming.is_end_stream();
        let number = activity.begin(has_body);
        let mut handling = Handling {
            work: Work::Done,
            number,
            is_connect: head.method == Method::CONNECT,
            is_last: false,
            exchange: Some(Exchange::new(activity)),
        };
        let is_http1 = activity.protocol() == Protocol::Http1;
        let mut refusal = None;
        if is_http1 {
            handling.is_last = framing::is_last(&head);
            refusal = framing::refusal(&head);
            // Where a request ends whose framing is wrong, nobody knows.
            handling.is_last |= refusal.is_some();
        }
        let max_body = activity.replica().limits.max_body;
        if refusal.is_none() && incoming.size_hint().lower() > max_body {
            refusal = Some((StatusCode::PAYLOAD_TOO_LARGE, "the request body is too large\n"));
        }
        let body = if has_body {
            let limit = usize::try_from(max_body).unwrap_or(usize::MAX);
            let is_awaited = is_http1 && framing::expects_continue(&head.headers);
            Body::new(Upload {
                hint: incoming.size_hint(),
                body: Some(Limited::new(incoming, limit)),
                activity: Arc::clone(activity),
                request: number,
                is_awaited,
                is_failed: false,
                is_left: false,
                timer: Timer::default(),
                drain: DrainStart::Unknown,
            })
        } else {
            Body::empty()
        };
        if let Some((status, text)) = refusal {
            handling.work = Work::Refused { status, text };
            return handling;
        }
        head.extensions.insert(ConnectInfo(activity.client()));
        let future = self.router.clone().call(Request::from_parts(head, body));
        handling.work = Work::Routed { future };
        handling
    }
}

/// A request in the books, until its response ended or it was dropped.
#[derive(Debug)]
struct Exchange {
    activity: Arc<ConnectionActivity>,
    /// The response's body came to its end.
    is_whole: AtomicBool,
    /// Something of it was never sent.
    is_cut: AtomicBool,
}

impl Exchange {
    fn new(activity: &Arc<ConnectionActivity>) -> Self {
        Self {
            activity: Arc::clone(activity),
            is_whole: AtomicBool::new(false),
            is_cut: AtomicBool::new(false),
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.activity.end(*self.is_whole.get_mut() && !*self.is_cut.get_mut());
    }
}

pin_project_lite::pin_project! {
    #[project = WorkProjection]
    enum Work {
        Routed { #[pin] future: RouterFuture },
        Refused { status: StatusCode, text: &'static str },
        Done,
    }
}

pin_project_lite::pin_project! {
    /// The router at work on one request.
    pub(crate) struct Handling {
        #[pin]
        work: Work,
        number: u64,
        is_connect: bool,
        // No request follows on this connection, as the client says, or as it must be.
        is_last: bool,
        exchange: Option<Exchange>,
    }
}

impl Future for Handling {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let mut response = match this.work.as_mut().project() {
            WorkProjection::Routed { future } => match future.poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(response)) => response,
            },
            WorkProjection::Refused { status, text } => plain(*status, text),
            WorkProjection::Done => return Poll::Pending,
        };
        // With it goes what the router still holds of the request: then it is known whether anybody reads its body.
        this.work.set(Work::Done);
        let Some(exchange) = this.exchange.take() else { return Poll::Pending };
        let activity = &exchange.activity;
        let is_failure = response.status().is_client_error() || response.status().is_server_error();
        if is_failure && activity.is_body_timed_out(*this.number) {
            response = plain(StatusCode::REQUEST_TIMEOUT, "the request body took too long\n");
        }
        let (mut head, body) = response.into_parts();
        for (name, value) in &activity.replica().extra_headers {
            head.headers.insert(name.clone(), value.clone());
        }
        if activity.protocol() == Protocol::Http1 {
            let is_tunnel = *this.is_connect && head.status.is_success();
            if is_tunnel || head.status == StatusCode::SWITCHING_PROTOCOLS {
                activity.upgrade();
            } else {
                let must_say = activity.is_last()
                    || activity.replica().orders.current().is_last_answer()
                    || activity.is_body_dropped(*this.number);
                if must_say || *this.is_last {
                    head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
                    activity.close();
                } else if framing::has_token(&head.headers, "close") {
                    activity.close();
                }
            }
        }
        Poll::Ready(Ok(Response::from_parts(head, Answer::new(body, exchange))))
    }
}

/// An answer that the server gives by itself.
fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A response body that tells the books when it has been taken whole.
#[derive(Debug)]
pub(crate) struct Answer {
    body: Body,
    /// What the application has handed out and hyper has not taken.
    left: Bytes,
    entry: Entry,
    /// On HTTP/2: it waits for the client, not for the application.
    is_blocked: bool,
}

/// An answer's entry in the books.
#[derive(Debug)]
enum Entry {
    /// HTTP/1: what hyper has taken is counted when it flushes, see [`ConnectionActivity`].
    Own(Exchange),
    /// HTTP/2: h2 takes more than the client's window has room for, so what it has not sent yet stays in the books too.
    Shared(Arc<Exchange>),
}

impl Answer {
    fn new(body: Body, exchange: Exchange) -> Self {
        let entry = match exchange.activity.protocol() {
            Protocol::Http1 => Entry::Own(exchange),
            Protocol::Http2 => Entry::Shared(Arc::new(exchange)),
        };
        let mut answer = Self { body, left: Bytes::new(), entry, is_blocked: false };
        let is_whole = answer.body.is_end_stream();
        answer.note(is_whole);
        answer.block(!is_whole);
        answer
    }

    /// The next frame, on HTTP/2 cut to a bearable size.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.left.is_empty() {
            let frame = Pin::new(&mut self.body).poll_frame(context);
            if matches!(self.entry, Entry::Own(_)) {
                return frame;
            }
            match ready!(frame) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => self.left = bytes,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                end => return Poll::Ready(end),
            }
        }
        let length = self.left.len().min(MAX_PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(length)))))
    }

    fn block(&mut self, is_blocked: bool) {
        if let Entry::Shared(exchange) = &self.entry
            && self.is_blocked != is_blocked
        {
            self.is_blocked = is_blocked;
            if is_blocked { exchange.activity.block() } else { exchange.activity.unblock() }
        }
    }

    fn note(&self, is_whole: bool) {
        let exchange = match &self.entry {
            Entry::Own(exchange) => exchange,
            Entry::Shared(exchange) => exchange,
        };
        exchange.is_whole.store(is_whole, Relaxed);
    }
}

impl HttpBody for Answer {
    type Data = Piece;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, axum::Error>>> {
        let frame = self.poll_piece(context);
        match &frame {
            Poll::Ready(None) => self.note(true),
            // Nothing follows trailers.
            Poll::Ready(Some(Ok(frame))) => self.note(frame.is_trailers() || self.is_end_stream()),
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        // hyper asks when there is room for more.
        self.block(false);
        let goes_on = matches!(frame, Poll::Ready(Some(Ok(_)))) && !self.is_end_stream();
        self.block(goes_on);
        frame.map_ok(|frame| frame.map_data(|bytes| Piece::new(bytes, &self.entry)))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, left) = (self.body.size_hint(), self.left.len() as u64);
        match hint.exact() {
            Some(exact) => hint.set_exact(exact + left),
            None => hint.set_lower(hint.lower() + left),
        }
        hint
    }
}

/// The largest piece that is handed to h2 at once, as large as a frame of DATA. Until all of
/// a piece of the application's has been taken it is not asked for the next one, so that a stream whose client has no room
/// holds two of them at most: one that is with h2, and one that hyper holds until there is room.
const MAX_PIECE: usize = 16 * 1024;

/// A piece of a response's body. On HTTP/2 it keeps its request in the books until h2 has sent it.
#[derive(Debug)]
pub(crate) struct Piece {
    bytes: Bytes,
    exchange: Option<Arc<Exchange>>,
}

impl Piece {
    fn new(bytes: Bytes, entry: &Entry) -> Self {
        let exchange = match entry {
            Entry::Own(_) => None,
            Entry::Shared(exchange) => {
                exchange.activity.block();
                Some(Arc::clone(exchange))
            }
        };
        Self { bytes, exchange }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.block(false);
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        if let Some(exchange) = &self.exchange {
            exchange.activity.go_on();
        }
        self.bytes.advance(count);
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        if let Some(exchange) = &self.exchange {
            exchange.activity.go_on();
        }
        self.bytes.copy_to_bytes(length)
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(exchange) = &self.exchange {
            exchange.activity.unblock();
            if self.bytes.has_remaining() {
                exchange.is_cut.store(true, Relaxed);
            }
        }
    }
}

/// The most of a body that is read over if the application does not read it. Above it, and where the length is not known, the
/// answer says `Connection: close` instead (RFC 9112, section 9.3, leaves the choice). A client sends as much without
/// waiting for an answer, and reading it costs less than another connection.
const READ_OVER: u64 = 64 * 1024;

/// The client did not send the next piece of a body in time.
#[derive(Debug, Error)]
#[error("the request body took too long")]
struct BodyTimedOut;

/// A request body under its limits, which tells the [`ConnectionActivity`] when it has been read to its end.
///
/// hyper would close a connection whose body the application drops unread, unless the rest is here already, and would not
/// say so in the answer. So what is dropped here is read over if it is short, and if not, the answer is the last one.
struct Upload {
    /// `None` when it has been read: hyper itself says so only when it looks at the body again, which it does not after an
    /// early response.
    body: Option<Limited<Incoming>>,
    /// What is left of it, as the client has announced it.
    hint: SizeHint,
    activity: Arc<ConnectionActivity>,
    /// The request's number on its connection.
    request: u64,
    /// The client may wait for `100 Continue`, which hyper sends when the body is asked for.
    is_awaited: bool,
    /// It broke off, was too long, or took too long.
    is_failed: bool,
    /// It is being read over: when it is dropped again, that is its end.
    is_left: bool,
    timer: Timer,
    drain: DrainStart,
}

/// Whether the replica drains, as far as a body knows.
enum DrainStart {
    /// Nobody has asked yet.
    Unknown,
    Awaited(Pin<Box<WaitForCancellationFutureOwned>>),
    Seen,
}

impl DrainStart {
    /// Whether it begins just now. It wakes the task when it does.
    fn poll_begin(&mut self, context: &mut Context<'_>, activity: &ConnectionActivity) -> Poll<()> {
        if let Self::Unknown = self {
            *self = Self::Awaited(Box::pin(activity.replica().draining.clone().cancelled_owned()));
        }
        let Self::Awaited(drain) = self else { return Poll::Pending };
        ready!(drain.as_mut().poll(context));
        *self = Self::Seen;
        Poll::Ready(())
    }
}

impl Upload {
    fn note(&mut self, frame: &Poll<Option<Result<Frame<Bytes>, BoxError>>>) {
        self.activity.wait_for_body(frame.is_pending());
        let Poll::Ready(frame) = frame else { return };
        self.timer.stop();
        let is_read = match (frame, &self.body) {
            (None, _) => true,
            (Some(Ok(frame)), Some(body)) => {
                if frame.is_trailers() && self.activity.protocol() == Protocol::Http1 {
                    // hyper takes trailers that end in a mere line feed for the beginning of more of them, and with them the
                    // request behind. Whoever sent it must know that it was not read.
                    self.activity.make_last();
                }
                frame.is_trailers() || body.is_end_stream()
            }
            (Some(_), _) => {
                self.is_failed = true;
                false
            }
        };
        if let Some(body) = &self.body {
            self.hint = body.size_hint();
        }
        if is_read {
            self.body = None;
            self.activity.end_body(self.request);
        }
    }

    /// Whether what is left is short enough to be read over, and will come.
    fn can_be_read_over(&self) -> bool {
        self.activity.protocol() == Protocol::Http1
            && !self.is_failed
            && !self.is_left
            && !self.is_awaited
            && !self.activity.is_closing()
            && self.hint.exact().is_some_and(|rest| rest <= READ_OVER)
    }

    /// Reads to the end, unless no answer follows: then nobody needs it.
    async fn read_over(mut self) {
        poll_fn(|context| {
            loop {
                self.activity.wait_for_close(context);
                if self.activity.is_closing() {
                    return Poll::Ready(());
                }
                match ready!(Pin::new(&mut self).poll_frame(context)) {
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Poll::Ready(()),
                }
            }
        })
        .await;
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.is_failed {
            return Poll::Ready(None);
        }
        self.is_awaited = false;
        self.activity.ask_for_body();
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = Pin::new(body).poll_frame(context);
        self.note(&frame);
        if frame.is_pending() {
            let activity = Arc::clone(&self.activity);
            if self.drain.poll_begin(context, &activity).is_ready() {
                // The time that counts from now on begins now.
                self.timer.stop();
            }
            ready!(self.timer.poll(context, activity.replica().body_patience()));
            self.is_failed = true;
            self.activity.time_body_out(self.request);
            return Poll::Ready(Some(Err(BodyTimedOut.into())));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Limited::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Limited::size_hint)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.body.is_none() {
            return;
        }
        if self.can_be_read_over()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(
                Self {
                    body: self.body.take(),
                    hint: self.hint,
                    activity: Arc::clone(&self.activity),
                    request: self.request,
                    is_awaited: false,
                    is_failed: false,
                    is_left: true,
                    timer: Timer::default(),
                    drain: DrainStart::Unknown,
                }
                .read_over(),
            );
            return;
        }
        self.activity.drop_body(self.request);
    }
}
