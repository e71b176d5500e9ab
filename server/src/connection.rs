//! One connection, from its first byte to its end: which protocol it speaks, its requests, and what the current
//! [`Order`] asks of it.
//!
//! hyper serves the requests; this module knows what hyper does not tell: whether an HTTP/1 connection is *idle*, that
//! is whether every request that began has been answered down to the last byte in the kernel's buffer. Three counters of
//! the [`Link`] say so: `begun` grows when the router is called, `ended` when the response's body has been handed to
//! hyper, and `flushed` catches up with `ended` when hyper flushes, which it does only once its own buffer is empty.
//! All of it happens within one task, so the counters need no more than relaxed atomics.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use bytes::{Buf, Bytes, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::net::RecvFlags;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::clock::monotonic_ns;
use crate::exchange::{App, Link};
use crate::replica::{Open, Order, Orders, Replica};

/// What an HTTP/2 client sends first (RFC 9113, section 3.4). No HTTP/1 request begins like it.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The first read of a connection; most request heads fit.
const FIRST_READ: usize = 2048;

/// How long a client that has just connected has time for its first byte before it counts as idle. Go's
/// `Server.Shutdown` spares such connections too (`StateNew`, five seconds).
const GRACE: Duration = Duration::from_millis(200);

/// What a client that takes too long for a request head is told.
const HEAD_TIMED_OUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// A connection with no request under way: its stream, and what was read of it and not yet understood.
#[derive(Debug)]
pub(crate) struct Rest {
    pub(crate) stream: TcpStream,
    pub(crate) unread: Bytes,
    pub(crate) open: Open,
    /// Its turn to go to a sibling, if it has it.
    pub(crate) turn: Option<OwnedSemaphorePermit>,
}

/// Serves one connection to its end, or to the point where a sibling serves it on.
pub(crate) async fn serve(mut rest: Rest, router: Router, replica: Arc<Replica>) {
    // The word of the orders under which no sibling took the connection: it stays until there is another order.
    let mut unwanted = None;
    loop {
        let (next, protocol) = match recognize(rest, &replica, unwanted).await {
            Recognized::Over => return,
            Recognized::Speaks(protocol, rest) => (rest, Some(protocol)),
            Recognized::Moves(rest) => (rest, None),
        };
        let moving = match protocol {
            None => next,
            Some(protocol) => {
                let link = Arc::new(Link::new(Arc::clone(&replica), protocol));
                let app = App::new(router.clone(), Arc::clone(&link));
                let io = Io::new(next, link);
                let left = match protocol {
                    Protocol::Http1 => serve_http1(io, app, &replica, unwanted).await,
                    Protocol::Http2 => {
                        serve_http2(io, app, &replica).await;
                        None
                    }
                };
                let Some(rest) = left else { return };
                rest
            }
        };
        let word = replica.orders.word();
        let left = match Order::from_word(word) {
            Order::HandOver => hand_over(moving, &replica).await,
            Order::LastLook => look_again(moving, &replica),
            Order::CloseIdle if moving.unread.is_empty() => {
                replica.traffic.connections_closed_idle.add(1);
                None
            }
            // Part of a request is here already, so it is not idle: it gets its answer, and that is the last one.
            _ => Some(moving),
        };
        let Some(left) = left else { return };
        rest = left;
        unwanted = Some(word);
    }
}

/// Gives the connection to a sibling, or has it back.
async fn hand_over(rest: Rest, replica: &Replica) -> Option<Rest> {
    let Rest { stream, unread, open, turn } = rest;
    // Out of the reactor before the descriptor goes: see the handover's documentation.
    let Ok(stream) = stream.into_std() else { return None };
    let given = replica.outbox.give(stream.into(), unread).await;
    drop(turn);
    match given {
        Ok(()) => None,
        Err((descriptor, unread)) => {
            let stream = TcpStream::from_std(std::net::TcpStream::from(descriptor)).ok()?;
            Some(Rest { stream, unread, open, turn: None })
        }
    }
}

/// Closes the connection unless a request is already here.
fn look_again(mut rest: Rest, replica: &Replica) -> Option<Rest> {
    if rest.unread.is_empty() {
        let mut bytes = [0; FIRST_READ];
        // Asks the kernel itself: tokio would trust what it last heard of the socket.
        match rustix::net::recv(&rest.stream, &mut bytes[..], RecvFlags::DONTWAIT) {
            Ok((_, length)) if length > 0 => rest.unread = Bytes::copy_from_slice(&bytes[..length]),
            _ => {
                replica.traffic.connections_closed_idle.add(1);
                return None;
            }
        }
    }
    Some(rest)
}

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    /// Decides by the first bytes, as soon as they suffice.
    fn of(bytes: &[u8]) -> Option<Self> {
        let length = bytes.len().min(HTTP2_PREFACE.len());
        if bytes[..length] != HTTP2_PREFACE[..length] {
            Some(Self::Http1)
        } else if length == HTTP2_PREFACE.len() {
            Some(Self::Http2)
        } else {
            None
        }
    }
}

/// What became of a connection of which it was not known what it speaks.
enum Recognized {
    /// It ended, or took too long.
    Over,
    /// It speaks that.
    Speaks(Protocol, Rest),
    /// The order says that it leaves its place.
    Moves(Rest),
}

/// Reads until the protocol is clear.
async fn recognize(mut rest: Rest, replica: &Replica, unwanted: Option<u64>) -> Recognized {
    if let Some(protocol) = Protocol::of(&rest.unread) {
        return Recognized::Speaks(protocol, rest);
    }
    let mut bytes = BytesMut::from(&rest.unread[..]);
    let limits = &replica.limits;
    let patience = if bytes.is_empty() { limits.idle_timeout } else { limits.head_timeout };
    let mut timer = pin!(sleep_until(Instant::now() + patience));
    let mut turn = pin!(replica.outbox.turn());
    let grace_ends = Instant::now() + GRACE;
    loop {
        let changed = replica.orders.changed();
        let word = replica.orders.word();
        let order = Order::from_word(word);
        let may_wait = matches!(order, Order::CloseIdle | Order::LastLook);
        let has_grace = may_wait && bytes.is_empty() && Instant::now() < grace_ends;
        let is_moved = order.moves_idle() && Some(word) != unwanted && !has_grace;
        if order == Order::Cut {
            return Recognized::Over;
        }
        if is_moved && order != Order::HandOver {
            rest.unread = bytes.freeze();
            return Recognized::Moves(rest);
        }
        if let Some(protocol) = Protocol::of(&bytes) {
            rest.unread = bytes.freeze();
            return Recognized::Speaks(protocol, rest);
        }
        tokio::select! {
            biased;
            () = changed => continue,
            () = sleep_until(grace_ends), if has_grace => continue,
            permit = &mut turn, if is_moved => {
                rest.turn = permit;
                rest.unread = bytes.freeze();
                return Recognized::Moves(rest);
            }
            readable = rest.stream.readable() => if readable.is_err() { return Recognized::Over },
            () = &mut timer => {
                if bytes.is_empty() {
                    replica.traffic.connections_closed_idle.add(1);
                } else {
                    let _ = rest.stream.try_write(HEAD_TIMED_OUT);
                }
                return Recognized::Over;
            }
        }
        let is_first = bytes.is_empty();
        bytes.reserve(FIRST_READ);
        match rest.stream.try_read_buf(&mut bytes) {
            Ok(0) => return Recognized::Over,
            Ok(_) if is_first => timer.as_mut().reset(Instant::now() + limits.head_timeout),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Recognized::Over,
        }
    }
}

/// The stream under hyper: it replays what was already read and tells the [`Link`] what hyper does.
pub(crate) struct Io {
    /// Read from the stream before hyper came.
    early: Bytes,
    stream: TokioIo<TcpStream>,
    link: Arc<Link>,
    open: Open,
}

impl Io {
    fn new(rest: Rest, link: Arc<Link>) -> Self {
        if !rest.unread.is_empty() {
            link.hear();
        }
        Self { early: rest.unread, stream: TokioIo::new(rest.stream), link, open: rest.open }
    }

    /// The connection without hyper, which had read `ahead` of what it understood.
    fn into_rest(self, ahead: Bytes) -> Rest {
        let unread =
            if self.early.is_empty() { ahead } else { [&ahead[..], &self.early[..]].concat().into() };
        Rest { stream: self.stream.into_inner(), unread, open: self.open, turn: None }
    }

    /// Says a last word to the client; nobody waits for whether it arrives.
    fn say(&self, words: &[u8]) {
        let _ = self.stream.inner().try_write(words);
    }
}

impl Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.link.is_held() {
            // Nobody is woken for it: who holds looks after each poll whether the connection is idle and takes it away.
            return Poll::Pending;
        }
        if !self.early.is_empty() {
            let length = self.early.len().min(buffer.remaining());
            buffer.put_slice(&self.early[..length]);
            self.early.advance(length);
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.link.hear();
        }
        read
    }
}

impl Write for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if let Poll::Ready(Ok(())) = flushed {
            self.link.flush();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
}

/// Why hyper's hands were taken off an HTTP/1 connection.
#[derive(Debug)]
enum Turn {
    /// It ended by itself, or became something else (an upgrade).
    Over,
    /// It is idle and the order says that idle connections go; if to a sibling, it is its turn.
    Idle(Option<OwnedSemaphorePermit>),
    /// Part of a request head came, and then nothing more for too long.
    HeadTimedOut,
    /// Nothing came for too long.
    IdleTimedOut,
    /// The drain timeout passed.
    Cut,
}

/// Serves HTTP/1 until the connection is over, or until it is idle and has to leave its place: then it is returned.
async fn serve_http1(io: Io, app: App, replica: &Replica, unwanted: Option<u64>) -> Option<Rest> {
    let link = app.link();
    let mut builder = http1::Builder::new();
    builder.max_header_size(replica.limits.max_head).max_buf_size(replica.limits.max_head);
    if unwanted == Some(replica.orders.word()) {
        link.make_last();
    }
    let mut watch = pin!(Watch::new(replica));
    let mut connection = builder.serve_connection(io, app).with_upgrades();
    let mut queue = Queue { replica, place: None };
    let turn = poll_fn(|context| {
        let (order, word, timer) = watch.as_mut().look(context);
        if order == Order::Cut {
            return Poll::Ready(Turn::Cut);
        }
        let is_moved = order.moves_idle() && Some(word) != unwanted;
        loop {
            let is_between = link.is_between_requests();
            if is_moved && is_between {
                let turn =
                    if order == Order::HandOver { queue.poll_turn(context) } else { Poll::Ready(None) };
                if let Poll::Ready(permit) = turn {
                    return Poll::Ready(Turn::Idle(permit));
                }
            } else {
                queue.leave();
            }
            // A busy one that has to go reads nothing beyond its request, so that it is idle after the response.
            link.hold(is_moved && !is_between);
            let was_unsettled = link.is_unsettled();
            if Pin::new(&mut connection).poll(context).is_ready() {
                return Poll::Ready(Turn::Over);
            }
            if was_unsettled {
                link.settle();
            }
            let has_come_to_rest = !is_between && link.is_between_requests();
            if !(is_moved && (has_come_to_rest || link.is_unsettled())) {
                break;
            }
        }
        let is_overdue = timer.filter(|_| link.is_idle()).and_then(|now| link.overdue(now));
        is_overdue.map_or(Poll::Pending, Poll::Ready)
    })
    .await;
    match turn {
        // After an upgrade the stream lives on elsewhere, and it may read as it likes.
        Turn::Over => {
            link.hold(false);
            None
        }
        Turn::Cut => None,
        Turn::IdleTimedOut => {
            replica.traffic.connections_closed_idle.add(1);
            None
        }
        Turn::HeadTimedOut => {
            connection.into_parts()?.io.say(HEAD_TIMED_OUT);
            None
        }
        Turn::Idle(permit) => {
            let parts = connection.into_parts()?;
            let rest = parts.io.into_rest(parts.read_buf);
            Some(Rest { turn: permit, ..rest })
        }
    }
}

/// An idle connection's place in the queue of those that go to a sibling.
struct Queue<'a> {
    replica: &'a Replica,
    place: Option<Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>>,
}

impl Queue<'_> {
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Option<OwnedSemaphorePermit>> {
        self.place.get_or_insert_with(|| Box::pin(self.replica.outbox.turn())).as_mut().poll(context)
    }

    fn leave(&mut self) {
        self.place = None;
    }
}

impl Link {
    /// Whether an idle connection's client took too long, as of `now_ns`.
    fn overdue(&self, now_ns: u64) -> Option<Turn> {
        let limits = &self.replica().limits;
        let exceeds =
            |since_ns: u64, limit: Duration| u128::from(now_ns.saturating_sub(since_ns)) >= limit.as_nanos();
        match self.part_of_head_since(now_ns) {
            Some(since) => exceeds(since, limits.head_timeout).then_some(Turn::HeadTimedOut),
            None => exceeds(self.idle_since_ns(), limits.idle_timeout).then_some(Turn::IdleTimedOut),
        }
    }
}

async fn serve_http2(io: Io, app: App, replica: &Replica) {
    let link = app.link();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let max_head = u32::try_from(replica.limits.max_head).unwrap_or(u32::MAX);
    builder.max_header_list_size(max_head).enable_connect_protocol();
    let mut watch = pin!(Watch::new(replica));
    let mut connection = pin!(builder.serve_connection(io, app));
    let mut is_leaving = false;
    poll_fn(|context| {
        if connection.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let (order, _, timer) = watch.as_mut().look(context);
        if order == Order::Cut {
            return Poll::Ready(());
        }
        let is_overdue = timer.is_some_and(|now| link.is_idle() && link.overdue(now).is_some());
        if (order != Order::Serve || is_overdue) && !is_leaving {
            // GOAWAY in two steps (RFC 9113, section 6.8): "no new streams, please", then, after a round trip, the last
            // stream that was taken. Streams in flight finish; one poll more sends the first step.
            is_leaving = true;
            connection.as_mut().graceful_shutdown();
            context.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;
}

pin_project_lite::pin_project! {
    /// A connection's eye on the orders and on the clock.
    ///
    /// Both are polled once for each change and then left alone, since polling a `Notified` takes a lock that all
    /// connections share. That is enough: within a task every wake-up polls the whole task, so what was registered with
    /// the first waker wakes it the next time too.
    struct Watch<'a> {
        orders: &'a Orders,
        // The order's word for which `changed` is armed.
        armed: Option<u64>,
        #[pin]
        changed: tokio::sync::futures::Notified<'a>,
        interval: Duration,
        // Whether `timer` is registered.
        is_timed: bool,
        #[pin]
        timer: Sleep,
    }
}

impl<'a> Watch<'a> {
    fn new(replica: &'a Replica) -> Self {
        // Four looks for each timeout: it is enforced within a quarter more than it says.
        let limits = &replica.limits;
        let interval = (limits.head_timeout.min(limits.idle_timeout) / 4).max(Duration::from_millis(1));
        Self {
            orders: &replica.orders,
            armed: None,
            changed: replica.orders.changed(),
            interval,
            is_timed: false,
            timer: sleep_until(Instant::now() + interval),
        }
    }

    /// The current order with its word, and the time in monotonic nanoseconds when it is time to look for overdue clients.
    fn look(self: Pin<&mut Self>, context: &mut Context<'_>) -> (Order, u64, Option<u64>) {
        let mut this = self.project();
        let mut word = this.orders.word();
        if *this.armed != Some(word) {
            // First register, then read: a change after the registration wakes the task, one before it is read here.
            loop {
                this.changed.set(this.orders.changed());
                if this.changed.as_mut().poll(context).is_pending() {
                    break;
                }
            }
            word = this.orders.word();
            *this.armed = Some(word);
        }
        let mut timer = None;
        if !*this.is_timed || this.timer.is_elapsed() {
            if *this.is_timed {
                this.timer.as_mut().reset(Instant::now() + *this.interval);
                timer = Some(monotonic_ns());
            }
            // An interval that is over before it is registered makes the task come again at once.
            if this.timer.as_mut().poll(context).is_ready() {
                context.waker().wake_by_ref();
            }
            *this.is_timed = true;
        }
        (Order::from_word(word), word, timer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_http2_preface_is_recognized_only_when_it_is_whole() {
        for length in 0..HTTP2_PREFACE.len() {
            assert_eq!(Protocol::of(&HTTP2_PREFACE[..length]), None);
        }
        assert_eq!(Protocol::of(HTTP2_PREFACE), Some(Protocol::Http2));
    }

    #[test]
    fn methods_that_begin_like_the_preface_are_http1() {
        for head in ["POST / HTTP/1.1\r\n", "PUT / HTTP/1.1\r\n", "PROPFIND / HTTP/1.1\r\n"] {
            assert_eq!(Protocol::of(head.as_bytes()), Some(Protocol::Http1));
        }
    }

    proptest! {
        #[test]
        fn more_bytes_never_change_a_decision(bytes in proptest::collection::vec(any::<u8>(), 0..64), cut in 0_usize..64) {
            let cut = cut.min(bytes.len());
            if let Some(early) = Protocol::of(&bytes[..cut]) {
                prop_assert_eq!(Protocol::of(&bytes), Some(early));
            }
        }
    }
}
