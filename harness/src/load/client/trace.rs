//! What happens to a request inside reqwest, noted while it is polled: whether its pool repeated it on its own, and whether
//! a connection was opened for it.
//!
//! The pool (hyper-util) repeats a request that it had not begun to write when its connection went away. There is no
//! switch for it and no callback, but it says so, at trace level of the target [`TARGET`]. This module is the process's
//! tracing subscriber: it hears that one target, looks for that one message, and trace it for the request that is being
//! polled on this thread. The connector trace its part the same way.

use std::cell::Cell;
use std::fmt::{self, Write};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Once;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};

const TARGET: &str = "hyper_util::client::legacy::client";
const MESSAGE: &str = "unstarted request canceled";

/// What was noted of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct RequestTrace {
    /// How often the pool repeated it.
    pub(super) replays: u64,
    /// Whether a connection was asked for, since none was idle.
    pub(super) has_begun_to_connect: bool,
    /// Whether that connection was established while the request waited for it.
    pub(super) is_connected: bool,
}

thread_local! {
    /// The trace of the request that this thread is polling.
    static TRACE: Cell<RequestTrace> = const { Cell::new(RequestTrace { replays: 0, has_begun_to_connect: false, is_connected: false }) };
}

/// Lets `request` take trace.
pub(super) async fn noted<F: Future>(mut request: Pin<&mut F>) -> (F::Output, RequestTrace) {
    let mut trace = RequestTrace::default();
    let output = poll_fn(|context| {
        let others = TRACE.replace(trace);
        let polled = request.as_mut().poll(context);
        trace = TRACE.replace(others);
        polled
    })
    .await;
    (output, trace)
}

/// Changes the trace of the request that is being polled, if there is one.
pub(super) fn note(change: impl FnOnce(&mut RequestTrace)) {
    let mut trace = TRACE.get();
    change(&mut trace);
    TRACE.set(trace);
}

/// Makes this the process's subscriber, once. Where a program has set another one, replays are not counted.
pub(super) fn listen() {
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| {
        let _ = tracing::subscriber::set_global_default(Listener);
    });
}

struct Listener;

impl Subscriber for Listener {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target() == TARGET
    }

    fn event(&self, event: &Event<'_>) {
        let mut message = Message { is_replay: false };
        event.record(&mut message);
        if message.is_replay {
            note(|trace| trace.replays += 1);
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

struct Message {
    is_replay: bool,
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let mut prefix = Prefix { rest: MESSAGE };
            let _ = write!(prefix, "{value:?}");
            self.is_replay = prefix.rest.is_empty();
        }
    }
}

/// Compares what is written with [`MESSAGE`] and stops at the first difference: nothing is allocated or formatted to
/// its end.
struct Prefix {
    rest: &'static str,
}

impl Write for Prefix {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let length = self.rest.len().min(text.len());
        if self.rest.as_bytes()[..length] != text.as_bytes()[..length] {
            return Err(fmt::Error);
        }
        self.rest = &self.rest[length..];
        if self.rest.is_empty() { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn each_request_has_its_own_notes() {
        let one = pin!(async {
            note(|trace| trace.is_connected = true);
            let ((), inner) = noted(pin!(async { note(|trace| trace.replays += 2) })).await;
            tokio::task::yield_now().await;
            note(|trace| trace.replays += 1);
            inner
        });
        let other = pin!(tokio::task::yield_now());
        let (one, other) = (noted(one), noted(other));
        let ((inner, trace), ((), others)) = tokio::join!(one, other);
        assert_eq!(inner, RequestTrace { replays: 2, ..RequestTrace::default() });
        assert_eq!(trace, RequestTrace { replays: 1, is_connected: true, has_begun_to_connect: false });
        assert_eq!(others, RequestTrace::default());
    }
}
