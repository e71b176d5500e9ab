//! What one connection has begun and finished: how it is known whether it is *idle*.
//!
//! hyper serves the requests and does not tell whether an HTTP/1 connection is idle, that is whether every request that
//! began has been answered down to the last byte in the kernel's buffer. Three counters say so: `begun` grows when the
//! router is called, `ended` when the response's body has been handed to hyper, and `flushed` catches up with `ended` when
//! hyper flushes, which it does only once its own buffer is empty. On HTTP/1 all of it happens within one task, so the
//! counters need no more than relaxed atomics. Only a request's body may be read elsewhere, also after the response: what
//! becomes of it is said together with the request's number, and wakes the connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::task::Context;
use std::time::Duration;

use futures_util::task::AtomicWaker;

use crate::clock::monotonic_ns;
use crate::idle::Idleness;
use crate::replica::Replica;

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// What an idle connection's client took too long for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// Part of a request head came, and then nothing more.
    Head,
    /// Nothing came.
    Request,
}

/// What one connection has begun and finished. Shared by its parts, all of which (HTTP/2 streams aside) are polled within
/// one task.
#[derive(Debug)]
pub(crate) struct ConnectionActivity {
    replica: Arc<Replica>,
    protocol: Protocol,
    client: SocketAddr,
    /// Requests for which the router was called.
    begun: AtomicU64,
    /// Responses whose body hyper has taken whole.
    ended: AtomicU64,
    /// Responses that are with the kernel.
    flushed: AtomicU64,
    /// How far the last request's body has been read: a [`Reading`] in the lowest bits, above it the request's number.
    reading: AtomicU64,
    /// Who waits until somebody has read it.
    reader: AtomicWaker,
    /// Nothing more is read from the client than the request under way needs.
    holds: AtomicBool,
    /// Bytes came since the last request began.
    heard: AtomicBool,
    /// Since when part of a head has been there; 0 when unknown.
    head_since_ns: AtomicU64,
    /// Since when nothing has been under way.
    idleness: Arc<Idleness>,
    /// The next response is the last one, whatever the order says.
    last: AtomicBool,
    /// No answer follows the one under way (or, on HTTP/2, the client was told to go): what is answered from now on stays in
    /// flight until the connection's end shows that the client has it.
    closing: AtomicBool,
    /// Answers that are with the kernel and wait for that.
    withheld: AtomicU64,
    /// When the last of them was finished.
    withheld_ns: AtomicU64,
    /// How often the application has asked for a piece of the last request's body.
    asked: AtomicU64,
    /// Whether it waits for one.
    waits_for_body: AtomicBool,
    /// The last request whose body did not come in time.
    timed_out: AtomicU64,
    /// Who reads over a body that the application did not read.
    left_over: AtomicWaker,
    /// Streams that have left HTTP: on HTTP/1 the connection, on HTTP/2 each of several.
    upgraded: AtomicU64,
    /// How many requests had begun when it was last asked whether it is quiet.
    asked_at: AtomicU64,
    /// On HTTP/2: answers, and pieces of them, that the client has no room for (or not yet), rather than that the
    /// application has nothing more for them.
    blocked: AtomicU64,
    /// Whether any of them went on since it was last asked whether they are stuck.
    moves: AtomicBool,
    /// Since when none has; 0 when unknown.
    stuck_since_ns: AtomicU64,
}

/// How far a request's body has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Reading {
    /// To its end.
    Done = 0,
    /// Not yet to its end.
    UnderWay = 1,
    /// The application dropped it unread. hyper, when it is polled next, reads over the rest if it is here already, and
    /// closes the connection if not.
    Dropped = 2,
}

impl Reading {
    const BITS: u64 = 0b11;

    fn of(self, request: u64) -> u64 {
        request << 2 | self as u64
    }

    fn is(self, word: u64) -> bool {
        word & Self::BITS == self as u64
    }
}

impl ConnectionActivity {
    pub(crate) fn new(
        replica: Arc<Replica>,
        protocol: Protocol,
        client: SocketAddr,
        idleness: Arc<Idleness>,
    ) -> Self {
        Self {
            replica,
            protocol,
            client,
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            reading: AtomicU64::new(Reading::Done.of(0)),
            reader: AtomicWaker::new(),
            holds: AtomicBool::new(false),
            heard: AtomicBool::new(false),
            head_since_ns: AtomicU64::new(0),
            idleness,
            last: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            withheld: AtomicU64::new(0),
            withheld_ns: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            waits_for_body: AtomicBool::new(false),
            timed_out: AtomicU64::new(0),
            left_over: AtomicWaker::new(),
            upgraded: AtomicU64::new(0),
            asked_at: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
            moves: AtomicBool::new(false),
            stuck_since_ns: AtomicU64::new(0),
        }
    }

    pub(crate) fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The address of the connection's other end.
    pub(crate) fn client(&self) -> SocketAddr {
        self.client
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Every request that began has been answered, the answers are with the kernel, and nothing else goes on.
    pub(crate) fn is_idle(&self) -> bool {
        self.begun.load(Relaxed) == self.flushed.load(Relaxed) && self.upgraded.load(Relaxed) == 0
    }

    /// On HTTP/2: tasks of requests have yet to notice that the connection is over.
    pub(crate) fn has_open_streams(&self) -> bool {
        self.protocol == Protocol::Http2 && !self.is_idle()
    }

    /// Idle, and no request began since this was asked before. What else comes (a PING) is no reason to stay.
    pub(crate) fn has_gone_quiet(&self) -> bool {
        let begun = self.begun.load(Relaxed);
        self.asked_at.swap(begun, Relaxed) == begun && self.is_idle()
    }

    /// On HTTP/2: an answer, or a piece of one, is to be sent.
    pub(crate) fn block(&self) {
        self.blocked.fetch_add(1, Relaxed);
    }

    /// It was sent, or the application is asked for more.
    pub(crate) fn unblock(&self) {
        self.blocked.fetch_sub(1, Relaxed);
        self.go_on();
    }

    pub(crate) fn go_on(&self) {
        self.moves.store(true, Relaxed);
    }

    /// Whether the client has had no room for any answer for longer than it may, as of `now_ns`; asked from time to time.
    pub(crate) fn is_stuck(&self, now_ns: u64) -> bool {
        let since = self.stuck_since_ns.load(Relaxed);
        let moves = self.moves.swap(false, Relaxed);
        if self.blocked.load(Relaxed) == 0 || moves || since == 0 {
            self.stuck_since_ns.store(now_ns, Relaxed);
            return false;
        }
        u128::from(now_ns.saturating_sub(since)) >= self.replica.limits.write_timeout.as_nanos()
    }

    /// What the client sends next is the beginning of a request, not the rest of a body that nobody read.
    pub(crate) fn is_between_requests(&self) -> bool {
        self.is_idle() && Reading::Done.is(self.reading.load(Relaxed))
    }

    /// The answer is out, but the application dropped the request's body unread, and hyper does not know it before it
    /// is polled once more: after that the connection is closed or between requests.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.is_idle() && Reading::Dropped.is(self.reading.load(Relaxed))
    }

    /// hyper was polled once more.
    pub(crate) fn settle(&self) {
        if self.is_unsettled() {
            // Nobody else writes once the body is dropped.
            self.reading.store(Reading::Done.of(self.begun.load(Relaxed)), Relaxed);
        }
    }

    /// Wakes the connection's task when somebody else has read the last request's body, or dropped it. Whoever looks
    /// afterwards misses nothing.
    pub(crate) fn wait_for_reader(&self, context: &Context<'_>) {
        self.reader.register(context.waker());
    }

    /// From now on nothing (or everything again) is read ahead.
    pub(crate) fn hold(&self, holds: bool) {
        self.holds.store(holds, Relaxed);
    }

    /// Whether what the client sends has to wait in the socket: only a body under way is read while holding.
    pub(crate) fn is_held(&self) -> bool {
        self.holds.load(Relaxed) && Reading::Done.is(self.reading.load(Relaxed))
    }

    pub(crate) fn is_last(&self) -> bool {
        self.last.load(Relaxed)
    }

    pub(crate) fn make_last(&self) {
        self.last.store(true, Relaxed);
    }

    /// The answer that begins now is the last one, or, on HTTP/2, the client is told to go.
    pub(crate) fn close(&self) {
        self.closing.store(true, Release);
        self.left_over.wake();
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Acquire)
    }

    /// Wakes whoever reads over a body when no answer follows.
    pub(crate) fn wait_for_close(&self, context: &Context<'_>) {
        self.left_over.register(context.waker());
    }

    /// The application dropped the body of this request, the last one that began, and nobody reads it over.
    pub(crate) fn is_body_dropped(&self, request: u64) -> bool {
        self.reading.load(Acquire) == Reading::Dropped.of(request)
    }

    /// The client did not send the body of this request in time.
    pub(crate) fn time_body_out(&self, request: u64) {
        self.timed_out.store(request, Release);
    }

    pub(crate) fn is_body_timed_out(&self, request: u64) -> bool {
        self.timed_out.load(Acquire) == request
    }

    /// On HTTP/1: a request is under way, and hyper has not yet handed its answer to the kernel.
    pub(crate) fn is_answering(&self) -> bool {
        self.protocol == Protocol::Http1
            && self.begun.load(Relaxed) != self.flushed.load(Relaxed)
            && self.upgraded.load(Relaxed) == 0
    }

    /// The application asks for a piece of a request's body.
    pub(crate) fn ask_for_body(&self) {
        self.asked.fetch_add(1, Release);
    }

    /// Whether there was none yet.
    pub(crate) fn wait_for_body(&self, waits: bool) {
        self.waits_for_body.store(waits, Release);
    }

    /// How often it has asked.
    pub(crate) fn body_asked(&self) -> u64 {
        self.asked.load(Acquire)
    }

    /// The body under way is not whole, although everything was read that came: the application has asked since it had asked
    /// so often, in vain.
    pub(crate) fn lacks_body(&self, asked: u64) -> bool {
        let reading = self.reading.load(Acquire);
        Reading::Dropped.is(reading)
            || Reading::UnderWay.is(reading) && self.waits_for_body.load(Acquire) && self.body_asked() > asked
    }

    /// The client may be in the middle of a message, or may speak something else than HTTP.
    pub(crate) fn may_hear_more(&self) -> bool {
        // A body that did not come in time is not waited for again.
        let is_read =
            Reading::Done.is(self.reading.load(Relaxed)) || self.is_body_timed_out(self.begun.load(Relaxed));
        // What comes behind the last request is none.
        let is_in_head = self.heard.load(Relaxed) && !self.is_closing();
        self.upgraded.load(Relaxed) > 0 || self.protocol == Protocol::Http1 && (is_in_head || !is_read)
    }

    /// Whether an answer waits for the client to have it.
    pub(crate) fn withholds(&self) -> bool {
        self.withheld.load(Relaxed) > 0
    }

    /// What was withheld is answered if the client has it, and was for nothing if it is lost.
    pub(crate) fn conclude(&self, is_whole: bool, is_lost: bool) {
        if !is_whole && !is_lost {
            return;
        }
        let count = self.withheld.swap(0, Relaxed);
        if count == 0 {
            return;
        }
        if is_whole {
            self.replica.request_counters.answer(count, self.withheld_ns.load(Relaxed));
        } else {
            self.replica.request_counters.abort(count);
        }
    }

    /// A stream leaves HTTP; on HTTP/1 the connection does, for the rest of its life.
    pub(crate) fn upgrade(&self) {
        self.upgraded.fetch_add(1, Relaxed);
        self.replica.request_counters.upgrade();
    }

    /// Bytes came from the client.
    pub(crate) fn on_read(&self) {
        self.heard.store(true, Relaxed);
    }

    /// hyper's buffer is empty, and so everything that ended is with the kernel. HTTP/2 streams share a buffer, there it
    /// counts that h2 let go of the last piece of the body.
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

    /// Whether an idle connection's client took too long, as of `now_ns`.
    pub(crate) fn overdue(&self, now_ns: u64) -> Option<Overdue> {
        let limits = &self.replica.limits;
        let exceeds =
            |since_ns: u64, limit: Duration| u128::from(now_ns.saturating_sub(since_ns)) >= limit.as_nanos();
        match self.part_of_head_since(now_ns) {
            Some(since) => exceeds(since, limits.head_timeout).then_some(Overdue::Head),
            None => exceeds(self.idleness.since_ns(), limits.idle_timeout).then_some(Overdue::Request),
        }
    }

    /// Whether it has to make room for another connection: idle, and not in the middle of a head.
    pub(crate) fn must_go(&self) -> bool {
        self.idleness.must_go()
            && self.is_idle()
            && (self.protocol == Protocol::Http2 || !self.heard.load(Relaxed))
    }

    /// Since when a part of the next request's head has been there, if it is; asked from time to time, the first time
    /// that a part is there is taken for its beginning. What comes on HTTP/2 may be anything, a PING say.
    fn part_of_head_since(&self, now_ns: u64) -> Option<u64> {
        if !self.heard.load(Relaxed) || self.protocol == Protocol::Http2 {
            return None;
        }
        let since = self.head_since_ns.load(Relaxed);
        if since == 0 {
            self.head_since_ns.store(now_ns, Relaxed);
            return Some(now_ns);
        }
        Some(since)
    }

    /// The router is called for a request, whose number this is.
    pub(crate) fn begin(&self, has_body: bool) -> u64 {
        let reading = if has_body { Reading::UnderWay } else { Reading::Done };
        self.replica.request_counters.begin();
        let request = self.begun.fetch_add(1, Relaxed) + 1;
        self.idleness.end();
        self.reading.store(reading.of(request), Relaxed);
        self.heard.store(false, Relaxed);
        self.head_since_ns.store(0, Relaxed);
        request
    }

    /// The body of this request has been read to its end.
    pub(crate) fn end_body(&self, request: u64) {
        self.leave_body(request, Reading::Done);
    }

    /// Nobody reads the body of this request any further.
    pub(crate) fn drop_body(&self, request: u64) {
        self.leave_body(request, Reading::Dropped);
    }

    /// Without effect if another request has begun since, on whose body the connection waits now. On HTTP/2 several bodies
    /// share the activity, and nobody asks.
    fn leave_body(&self, request: u64, how: Reading) {
        let under_way = Reading::UnderWay.of(request);
        if self.reading.compare_exchange(under_way, how.of(request), Relaxed, Relaxed).is_ok() {
            self.reader.wake();
        }
    }

    /// The response is over, `is_whole` or not.
    pub(crate) fn end(&self, is_whole: bool) {
        match self.protocol {
            Protocol::Http1 => {
                self.ended.fetch_add(1, Relaxed);
            }
            Protocol::Http2 => {
                self.flushed.fetch_add(1, Relaxed);
                if is_whole {
                    self.finish(1);
                } else {
                    self.replica.request_counters.abort(1);
                    if self.is_idle() {
                        self.idleness.begin(monotonic_ns());
                    }
                }
            }
        }
    }

    fn finish(&self, count: u64) {
        let now = monotonic_ns();
        if self.is_idle() {
            self.idleness.begin(now);
        }
        // Bytes that came while the request was served belonged to its body, as a rule.
        self.heard.store(false, Relaxed);
        if self.is_closing() {
            self.withheld_ns.store(now, Relaxed);
            self.withheld.fetch_add(count, Relaxed);
        } else {
            self.replica.request_counters.answer(count, now);
        }
    }
}

impl Drop for ConnectionActivity {
    /// The connection is gone: what was not finished never will be.
    fn drop(&mut self) {
        let unfinished = self.begun.load(Relaxed) - self.flushed.load(Relaxed) + self.withheld.load(Relaxed);
        if unfinished > 0 {
            self.replica.request_counters.abort(unfinished);
        }
        for _ in 0..self.upgraded.load(Relaxed) {
            self.replica.request_counters.end_upgraded();
        }
    }
}

/// An HTTP/2 stream that has left HTTP, in the books for as long as it is held.
#[derive(Debug)]
pub(crate) struct Upgraded(Arc<ConnectionActivity>);

impl Upgraded {
    pub(crate) fn of(activity: &Arc<ConnectionActivity>) -> Self {
        activity.upgrade();
        Self(Arc::clone(activity))
    }
}

impl Drop for Upgraded {
    fn drop(&mut self) {
        self.0.upgraded.fetch_sub(1, Relaxed);
        self.0.replica.request_counters.end_upgraded();
        if self.0.is_idle() {
            self.0.idleness.begin(monotonic_ns());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Wake, Waker};

    use super::*;
    use crate::event::Observer;
    use crate::limits::Limits;

    #[derive(Default)]
    struct Bell(AtomicBool);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Relaxed);
        }
    }

    fn activity() -> ConnectionActivity {
        let observer = Observer::new("a".into(), Arc::new(|_| {}));
        let replica = Replica::new("a".into(), Limits::default(), Vec::new(), observer);
        let idleness = replica.idle_connections.add();
        ConnectionActivity::new(Arc::new(replica), Protocol::Http1, ([127, 0, 0, 1], 1).into(), idleness)
    }

    #[test]
    fn a_connection_is_between_requests_when_the_answer_is_out_and_the_body_read() {
        let activity = activity();
        let request = activity.begin(true);
        activity.end(true);
        assert!(!activity.is_idle(), "not flushed yet");
        activity.flush();
        assert!(activity.is_idle() && !activity.is_between_requests());
        activity.end_body(request);
        assert!(activity.is_between_requests());
    }

    #[test]
    fn the_late_reader_of_an_earlier_body_says_nothing_about_the_next_one() {
        let activity = activity();
        let first = activity.begin(true);
        activity.end(true);
        activity.flush();
        let second = activity.begin(true);
        activity.end(true);
        activity.flush();
        activity.hold(true);
        for leave in [ConnectionActivity::end_body, ConnectionActivity::drop_body] {
            leave(&activity, first);
            assert!(!activity.is_held() && !activity.is_between_requests() && !activity.is_unsettled());
        }
        activity.drop_body(second);
        assert!(activity.is_unsettled());
        activity.settle();
        assert!(activity.is_between_requests());
    }

    #[test]
    fn whoever_waits_for_a_reader_is_woken() {
        let activity = activity();
        let request = activity.begin(true);
        let bell = Arc::new(Bell::default());
        activity.wait_for_reader(&Context::from_waker(&Waker::from(Arc::clone(&bell))));
        activity.end_body(request);
        assert!(bell.0.load(Relaxed));
    }
}
