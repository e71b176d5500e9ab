//! The testbed's handlers.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /?delay=3s` | `hello world`, after the delay |
//! | `POST /upload` | `<bytes> <checksum>\n`: how long the body was and its FNV-1a hash, 64 bits in hex |
//! | `GET /events?every=1s` | server-sent events: a running number every so often, and `retry: 100` as the last one before a stop |
//! | `GET /stream?bytes=N&over=3s` | N bytes, sent evenly over the time; byte number i is `(31 * i + i / 256) % 256` |
//!
//! An `x-request-id` is repeated in the answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRef, FromRequestParts, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, IntoResponseParts, Response, ResponseParts};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use hitless_server::Drain;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, LengthLimitError};
use serde::Deserialize;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// The most that `/stream` sends in one answer.
const MAX_STREAM: u64 = 1 << 30;
/// Pieces of a `/stream` answer, if it takes time and has as many bytes.
const PIECES: u64 = 20;
/// The largest piece of a `/stream` answer.
const MAX_PIECE: u64 = 64 * 1024;

/// How soon an event stream's client should connect again when it is told to.
const RETRY: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy)]
struct Delays {
    usual: Duration,
    longest: Duration,
}

#[derive(Debug, Clone)]
struct Shared {
    delays: Delays,
    drain: Drain,
}

impl FromRef<Shared> for Delays {
    fn from_ref(shared: &Shared) -> Self {
        shared.delays
    }
}

impl FromRef<Shared> for Drain {
    fn from_ref(shared: &Shared) -> Self {
        shared.drain.clone()
    }
}

/// The testbed's routes: `GET /` takes `usual` unless the request asks for another time, up to `longest`.
pub(crate) fn router(usual: Duration, longest: Duration, drain: Drain) -> Router {
    Router::new()
        .route("/", get(hello))
        .route("/upload", post(upload))
        .route("/stream", get(stream))
        .route("/events", get(events))
        .with_state(Shared { delays: Delays { usual, longest }, drain })
}

/// What the request calls itself, repeated in the answer: a client that gives each request a name of its own sees whether
/// an answer is another request's.
#[derive(Debug)]
struct Echo(Option<HeaderValue>);

impl Echo {
    const HEADER: HeaderName = HeaderName::from_static("x-request-id");
}

impl<S: Sync> FromRequestParts<S> for Echo {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.headers.remove(Self::HEADER)))
    }
}

impl IntoResponseParts for Echo {
    type Error = Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Infallible> {
        if let Some(name) = self.0 {
            parts.headers_mut().insert(Self::HEADER, name);
        }
        Ok(parts)
    }
}

#[derive(Debug, Deserialize)]
struct HelloQuery {
    delay: Option<String>,
}

async fn hello(
    echo: Echo,
    State(delays): State<Delays>,
    Query(query): Query<HelloQuery>,
) -> Result<(Echo, &'static str), Refusal> {
    let delay = query.delay.map_or(Ok(delays.usual), |text| delays.parse("delay", &text))?;
    if !delay.is_zero() {
        sleep(delay).await;
    }
    Ok((echo, "hello world"))
}

async fn upload(echo: Echo, mut body: Body) -> Result<(Echo, String), Refusal> {
    let (mut length, mut checksum) = (0_u64, Fnv1a::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Refusal::of_body(&error))?;
        if let Some(data) = frame.data_ref() {
            length += data.len() as u64;
            checksum.add(data);
        }
    }
    Ok((echo, format!("{length} {:016x}\n", checksum.0)))
}

#[derive(Debug, Deserialize)]
struct StreamQuery {
    bytes: u64,
    over: Option<String>,
}

async fn stream(
    echo: Echo,
    State(delays): State<Delays>,
    Query(query): Query<StreamQuery>,
) -> Result<Response, Refusal> {
    if query.bytes > MAX_STREAM {
        return Err(Refusal::bad(format!("bytes={} is above the limit of {MAX_STREAM}", query.bytes)));
    }
    let over = query.over.map_or(Ok(Duration::ZERO), |text| delays.parse("over", &text))?;
    let mut response = (echo, Body::new(Pieces::new(query.bytes, over))).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}

#[derive(Debug, Deserialize)]
struct EventsQuery {
    every: Option<String>,
}

async fn events(
    State(delays): State<Delays>,
    State(drain): State<Drain>,
    Query(query): Query<EventsQuery>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    let every = query.every.map_or(Ok(Duration::from_secs(1)), |text| delays.parse("every", &text))?;
    let numbers = stream::unfold(0_u64, move |number| async move {
        if number > 0 {
            sleep(every.max(Duration::from_millis(1))).await;
        }
        Some((Ok(Event::default().data(number.to_string())), number + 1))
    });
    let goodbye = Event::default().retry(RETRY).event("goodbye").data("reconnect");
    Ok(Sse::new(drain.end(numbers, Ok(goodbye))))
}

impl Delays {
    fn parse(self, name: &str, text: &str) -> Result<Duration, Refusal> {
        let delay = humantime::parse_duration(text).map_err(|error| {
            Refusal::bad(format!("{name}={text} is not a time like 3s or 250ms: {error}"))
        })?;
        if delay > self.longest {
            let longest = humantime::format_duration(self.longest);
            return Err(Refusal::bad(format!("{name}={text} is above the limit of {longest} (--max-delay)")));
        }
        Ok(delay)
    }
}

/// Why a request is not answered as it wished.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    text: String,
}

impl Refusal {
    fn bad(text: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, text }
    }

    fn of_body(error: &axum::Error) -> Self {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if error.is::<LengthLimitError>() {
                let text = "the request body is too large".to_owned();
                return Self { status: StatusCode::PAYLOAD_TOO_LARGE, text };
            }
            cause = error.source();
        }
        Self::bad(format!("the request body broke off: {error}"))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, self.text + "\n").into_response()
    }
}

/// FNV-1a, 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>).
#[derive(Debug, Clone, Copy)]
struct Fnv1a(u64);

impl Fnv1a {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Byte number `index` of every `/stream` answer. It repeats only after 64 KiB, so that a swapped or a missing piece shows.
fn stream_byte(index: u64) -> u8 {
    (31 * index + index / 256).to_le_bytes()[0]
}

/// A body of known length, sent in pieces evenly over a time.
#[derive(Debug)]
struct Pieces {
    sent: u64,
    total: u64,
    begin: Instant,
    over: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Pieces {
    fn new(total: u64, over: Duration) -> Self {
        let begin = Instant::now();
        Self { sent: 0, total, begin, over, timer: Box::pin(sleep_until(begin)) }
    }

    fn piece(&self) -> u64 {
        let even = if self.over.is_zero() { MAX_PIECE } else { self.total.div_ceil(PIECES) };
        even.clamp(1, MAX_PIECE).min(self.total - self.sent)
    }

    /// When the piece that follows `sent` bytes is due: the first at once, the end of the last when the time is over.
    fn due(&self, sent: u64) -> Instant {
        if self.total == 0 {
            return self.begin;
        }
        self.begin + self.over.mul_f64(sent as f64 / self.total as f64)
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.sent == self.total {
            return Poll::Ready(None);
        }
        if self.timer.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        let end = self.sent + self.piece();
        let piece: Bytes = (self.sent..end).map(stream_byte).collect();
        self.sent = end;
        let due = self.due(end);
        self.timer.as_mut().reset(due);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.sent == self.total
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.total - self.sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_fnv_1a() {
        // Test vectors of the reference implementation.
        for (text, expected) in
            [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)]
        {
            let mut checksum = Fnv1a::new();
            checksum.add(text.as_bytes());
            assert_eq!(checksum.0, expected, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_has_its_length_its_bytes_and_its_time() {
        for (total, over) in [(0, 0), (1, 3), (10_000, 3), (300_000, 0)] {
            let begin = Instant::now();
            let body = Pieces::new(total, Duration::from_secs(over)).collect().await.unwrap().to_bytes();
            assert_eq!(body.len() as u64, total);
            assert!((0..).zip(body.iter()).all(|(index, &byte)| byte == stream_byte(index)));
            assert!(begin.elapsed() <= Duration::from_secs(over) + Duration::from_millis(5));
            assert!(total < 2 || begin.elapsed() >= Duration::from_secs(over).mul_f64(0.9));
        }
    }

    #[test]
    fn a_delay_above_the_limit_is_refused_with_the_limit() {
        let delays = Delays { usual: Duration::ZERO, longest: Duration::from_secs(30) };
        let refusal = delays.parse("delay", "31s").unwrap_err();
        assert_eq!(refusal.status, StatusCode::BAD_REQUEST);
        assert!(refusal.text.contains("30s"), "{}", refusal.text);
        assert_eq!(delays.parse("delay", "30s").unwrap(), Duration::from_secs(30));
    }
}
