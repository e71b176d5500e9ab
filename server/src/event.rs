//! What happens in a replica's life, as data. The server produces events; what becomes of them (a log line, a metric, a
//! test's assertion) is the observer's business.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::clock::{monotonic_ns, unix_ms};
use crate::counters::CountersSnapshot;
use crate::preset::Preset;

/// How much attention an event deserves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Level {
    /// The ordinary course of life.
    Info,
    /// Worth a look: something was refused, cut or fell back.
    Warn,
    /// Something could not be done.
    Error,
}

/// One event with its moment: what an observer is given. As JSON (feature `serde`) it is one flat object.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Record {
    /// `CLOCK_MONOTONIC` in nanoseconds, comparable across all processes of the host.
    pub mono_ns: u64,
    /// Wall clock in milliseconds since 1970.
    pub unix_ms: u64,
    /// How much attention it deserves.
    pub level: Level,
    /// The replica's name.
    pub replica: Arc<str>,
    /// What happened.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub event: Event,
}

impl Record {
    /// `event`, happening now.
    #[must_use]
    pub fn now(replica: Arc<str>, event: Event) -> Self {
        Self { mono_ns: monotonic_ns(), unix_ms: unix_ms(), level: event.level(), replica, event }
    }

    /// `event`, which happened at `mono_ns`, at or before now.
    #[must_use]
    pub fn at(mono_ns: u64, replica: Arc<str>, event: Event) -> Self {
        let ago_ms = monotonic_ns().saturating_sub(mono_ns) / 1_000_000;
        Self { mono_ns, unix_ms: unix_ms() - ago_ms, level: event.level(), replica, event }
    }
}

/// What happened. The variants stand in the order of a life.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(tag = "event", rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Event {
    /// The process is up; nothing is bound yet.
    Starting {
        /// Version of the application.
        version: String,
        /// The preset.
        preset: Preset,
        /// Process id, as the process itself sees it.
        pid: u32,
    },
    /// A setting that the preset does not use, so it changes nothing.
    SettingIgnored {
        /// The setting, as the method of [`Server`](crate::Server) that made it is called.
        setting: &'static str,
        /// The preset.
        preset: Preset,
    },
    /// The listener is bound (or claimed): the kernel completes handshakes from now on.
    Listening {
        /// The bound address, with the port that was really taken.
        addr: SocketAddr,
    },
    /// A listener that somebody left with a sibling is this replica's now, instead of a new one.
    ListenerClaimed {
        /// The sibling.
        from: String,
    },
    /// Another process holds the admin address: the replica serves without it and tries again.
    AdminUnavailable {
        /// The address.
        addr: String,
        /// The kernel's words.
        error: String,
    },
    /// The admin address, which was taken at the start, is this replica's now.
    AdminListening {
        /// The address.
        addr: String,
    },
    /// May receive new traffic.
    Ready,
    /// A sibling that stops gave a listener.
    ListenerTaken {
        /// The sibling.
        from: String,
    },
    /// A sibling that starts claimed a listener back.
    ListenerReturned {
        /// The sibling.
        to: String,
    },
    /// Something between siblings did not happen: a message from elsewhere, another version, a refusal.
    HandoverRefused {
        /// Why.
        reason: String,
        /// How many before it are not told, since there were more than a few in a second.
        untold: u64,
    },
    /// The limit on connections is reached: nothing more is accepted until one ends.
    ConnectionLimit {
        /// The limit.
        max_connections: usize,
    },
    /// The kernel refused to hand out a connection; the accept loop goes on after a pause.
    AcceptFailed {
        /// The kernel's words.
        error: String,
        /// How many before it are not told, since one is told in a second.
        untold: u64,
    },
    /// Told to stop.
    SignalReceived {
        /// `SIGTERM` or `SIGINT`; `request` when the application asked for it.
        signal: String,
    },
    /// Takes no new work from here on.
    Draining {
        /// Requests begun and not finished.
        in_flight: u64,
        /// Open connections.
        connections: u64,
    },
    /// A listener was given to a sibling, which accepts from it; new connections do not notice.
    ListenerGiven {
        /// The sibling.
        to: String,
    },
    /// Connections are given to siblings from here on.
    HandoverBegun,
    /// There is no sibling to give to: everything is still served, with `Connection: close`, for a while.
    LameDuck {
        /// For how long at most.
        for_ms: u64,
    },
    /// Nothing accepts from the replica's listeners any more, and nobody else does: new connections are refused.
    ListenerClosed,
    /// The moment at which the last response was finished.
    LastResponse,
    /// Everything in flight was answered.
    Drained,
    /// The drain timeout ended the drain.
    DrainTimeout {
        /// Requests that were cut.
        cut: u64,
    },
    /// The last event: the process ends now.
    Exit {
        /// The exit code.
        code: u8,
        /// What the replica did in its life.
        #[cfg_attr(feature = "serde", serde(flatten))]
        account: Box<CountersSnapshot>,
    },
}

impl Event {
    /// How much attention the event deserves.
    #[must_use]
    pub fn level(&self) -> Level {
        match self {
            Self::AdminUnavailable { .. }
            | Self::ConnectionLimit { .. }
            | Self::HandoverRefused { .. }
            | Self::LameDuck { .. }
            | Self::SettingIgnored { .. }
            | Self::DrainTimeout { .. } => Level::Warn,
            Self::AcceptFailed { .. } => Level::Error,
            Self::Exit { account, .. } if account.cut > 0 => Level::Warn,
            _ => Level::Info,
        }
    }
}

/// Where the server's events go: a name to sign with and a function to call.
#[derive(Clone)]
pub(crate) struct Observer {
    replica: Arc<str>,
    observe: Arc<dyn Fn(&Record) + Send + Sync>,
}

impl Observer {
    pub(crate) fn new(replica: Arc<str>, observe: Arc<dyn Fn(&Record) + Send + Sync>) -> Self {
        Self { replica, observe }
    }

    pub(crate) fn emit(&self, event: Event) {
        (self.observe)(&Record::now(Arc::clone(&self.replica), event));
    }

    pub(crate) fn emit_at(&self, mono_ns: u64, event: Event) {
        (self.observe)(&Record::at(mono_ns, Arc::clone(&self.replica), event));
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").field("replica", &self.replica).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "serde")]
    fn json(event: Event) -> serde_json::Value {
        serde_json::to_value(Record::now("a".into(), event)).unwrap()
    }

    #[cfg(feature = "serde")]
    #[test]
    fn a_record_is_one_flat_object() {
        let line = json(Event::Draining { in_flight: 2, connections: 3 });
        assert_eq!(line["event"], "draining");
        assert_eq!(line["replica"], "a");
        assert_eq!(line["level"], "info");
        assert_eq!(line["in_flight"], 2);
        assert!(line["mono_ns"].is_u64());
    }

    #[cfg(feature = "serde")]
    #[test]
    fn a_unit_event_carries_its_name() {
        assert_eq!(json(Event::ListenerClosed)["event"], "listener_closed");
    }

    #[cfg(feature = "serde")]
    #[test]
    fn the_preset_is_spelled_as_on_the_command_line() {
        let event = Event::Starting { version: "1".into(), preset: Preset::ReusePort, pid: 1 };
        assert_eq!(json(event)["preset"], "reuseport");
    }

    #[test]
    fn a_moment_in_the_past_has_the_wall_time_of_the_past() {
        let past = Record::at(monotonic_ns() - 5_000_000_000, "a".into(), Event::LastResponse);
        let now = Record::now("a".into(), Event::Ready);
        assert!((4_900..5_200).contains(&(now.unix_ms - past.unix_ms)));
    }
}
