//! One request and its response: the call of the router, the limits on the body, and the books.
//!
//! This is the path of every request, so it takes no lock, spawns nothing, and allocates nothing beyond what the router
//! needs.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper::service::Service;
use tower_service::Service as _;

use crate::link::{Link, Protocol};

type RouterFuture = <Router as tower_service::Service<Request<Body>>>::Future;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

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
        let (mut head, incoming) = request.into_parts();
        let has_body = !incoming.is_end_stream();
        let number = self.link.begin(has_body);
        let exchange = Some(Exchange::new(&self.link));
        let is_connect = head.method == Method::CONNECT;
        let max_body = self.link.replica().limits.max_body;
        if incoming.size_hint().lower() > max_body {
            self.link.drop_body(number);
            return Handling { work: Work::TooLarge, is_connect, exchange };
        }
        let body = if has_body {
            let limit = usize::try_from(max_body).unwrap_or(usize::MAX);
            Body::new(Upload {
                body: Limited::new(incoming, limit),
                link: Arc::clone(&self.link),
                request: number,
                is_read: false,
            })
        } else {
            Body::empty()
        };
        head.extensions.insert(ConnectInfo(self.link.client()));
        let future = self.router.clone().call(Request::from_parts(head, body));
        Handling { work: Work::Routed { future }, is_connect, exchange }
    }
}

/// A request in the books, until its response ended or it was dropped.
#[derive(Debug)]
struct Exchange {
    link: Arc<Link>,
    /// The response's body came to its end.
    is_whole: AtomicBool,
    /// Something of it was never sent.
    is_cut: AtomicBool,
}

impl Exchange {
    fn new(link: &Arc<Link>) -> Self {
        Self { link: Arc::clone(link), is_whole: AtomicBool::new(false), is_cut: AtomicBool::new(false) }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.link.end(*self.is_whole.get_mut() && !*self.is_cut.get_mut());
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
        is_connect: bool,
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
        for (name, value) in &link.replica().stamp {
            head.headers.insert(name.clone(), value.clone());
        }
        if link.protocol() == Protocol::Http1 {
            let is_tunnel = *this.is_connect && head.status.is_success();
            if is_tunnel || head.status == StatusCode::SWITCHING_PROTOCOLS {
                link.upgrade();
            } else if link.is_last() || link.replica().orders.current().is_last_answer() {
                head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
        }
        Poll::Ready(Ok(Response::from_parts(head, Answer::new(body, exchange))))
    }
}

/// A response body that tells the books when it has been taken whole.
#[derive(Debug)]
pub(crate) struct Answer {
    body: Body,
    entry: Entry,
}

/// An answer's entry in the books.
#[derive(Debug)]
enum Entry {
    /// HTTP/1: what hyper has taken is counted when it flushes, see [`Link`].
    Own(Exchange),
    /// HTTP/2: h2 takes more than the client's window has room for, so what it has not sent yet stays in the books too.
    Shared(Arc<Exchange>),
}

impl Answer {
    fn new(body: Body, exchange: Exchange) -> Self {
        let entry = match exchange.link.protocol() {
            Protocol::Http1 => Entry::Own(exchange),
            Protocol::Http2 => Entry::Shared(Arc::new(exchange)),
        };
        let answer = Self { body, entry };
        answer.note(answer.body.is_end_stream());
        answer
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
        let frame = Pin::new(&mut self.body).poll_frame(context);
        match &frame {
            Poll::Ready(None) => self.note(true),
            // Nothing follows trailers.
            Poll::Ready(Some(Ok(frame))) => self.note(frame.is_trailers() || self.body.is_end_stream()),
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        frame.map_ok(|frame| {
            frame.map_data(|bytes| Piece {
                bytes,
                exchange: match &self.entry {
                    Entry::Own(_) => None,
                    Entry::Shared(exchange) => Some(Arc::clone(exchange)),
                },
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A piece of a response's body. On HTTP/2 it keeps its request in the books until h2 has sent it.
#[derive(Debug)]
pub(crate) struct Piece {
    bytes: Bytes,
    exchange: Option<Arc<Exchange>>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        self.bytes.copy_to_bytes(length)
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(exchange) = &self.exchange
            && self.bytes.has_remaining()
        {
            exchange.is_cut.store(true, Relaxed);
        }
    }
}

/// A request body under its limit, which tells the [`Link`] when it has been read to its end.
#[derive(Debug)]
struct Upload {
    body: Limited<Incoming>,
    link: Arc<Link>,
    /// The request's number on its connection.
    request: u64,
    /// hyper itself says so only when it looks at the body again, which it does not after an early response.
    is_read: bool,
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.is_read {
            return Poll::Ready(None);
        }
        let frame = Pin::new(&mut self.body).poll_frame(context);
        self.is_read = match &frame {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(_))) => self.body.is_end_stream(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => false,
        };
        if self.is_read {
            self.link.end_body(self.request);
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
        self.link.drop_body(self.request);
    }
}
