//! Counts the requests that reqwest's pool repeats on its own.
//!
//! The pool (hyper-util) repeats a request that it had not begun to write when its connection went away. There is no
//! switch for it and no callback, but it says so, at trace level of the target [`TARGET`]. This module is the process's
//! tracing subscriber: it hears that one target, looks for that one message, and counts it for the cohort whose
//! request is being polled.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};

const TARGET: &str = "hyper_util::client::legacy::client";
const MESSAGE: &str = "unstarted request canceled";

tokio::task_local! {
    /// Where the request that is being polled counts its replays.
    static COUNTER: Arc<AtomicU64>;
}

/// Lets `request` count its replays in `counter`.
pub(super) async fn counted<F: Future>(counter: &Arc<AtomicU64>, request: F) -> F::Output {
    COUNTER.scope(Arc::clone(counter), request).await
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
            let _ = COUNTER.try_with(|counter| counter.fetch_add(1, Ordering::Relaxed));
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
