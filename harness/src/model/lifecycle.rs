//! What happened in the replicas' lives, and who says so.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::clock::RunTime;

/// Something that happened in a replica's life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct LifecycleEvent {
    /// When.
    #[serde(default)]
    pub t: RunTime,
    /// Whose life it is.
    pub replica: Arc<str>,
    /// The machine that the replica runs on, where there are several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<Arc<str>>,
    /// What happened.
    #[serde(rename = "event")]
    pub kind: LifecycleKind,
    /// Who says so.
    pub source: Source,
    /// What else was said: the fields of a server's log line, an exit code, a signal.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty", default)]
    pub fields: serde_json::Map<String, serde_json::Value>,
}

/// What happened in a replica's life, in the order in which it usually happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LifecycleKind {
    /// The harness asked for its start.
    StartRequested,
    /// Its process began.
    Started,
    /// Its socket listens.
    Listening,
    /// It says, or its check says, that it is ready.
    Ready,
    /// A balancer may send requests to it.
    Admitted,
    /// A balancer should send nothing more to it.
    Withdrawn,
    /// The harness asked for its end.
    TerminateRequested,
    /// It was sent the stop signal.
    SignalSent,
    /// It received the signal.
    SignalReceived,
    /// It began to drain.
    Draining,
    /// It closed its listener.
    ListenerClosed,
    /// It claimed a listener that a sibling held.
    ListenerClaimed,
    /// It took a listener from a sibling that stops.
    ListenerTaken,
    /// It gave a listener back to a sibling that starts.
    ListenerReturned,
    /// It gave its listener to a sibling.
    ListenerGiven,
    /// It began to give its connections to siblings.
    HandoverBegun,
    /// It found no sibling and serves on for a while.
    LameDuck,
    /// Its last response was finished.
    LastResponse,
    /// Everything in flight was finished.
    Drained,
    /// The drain timeout ran out.
    DrainTimeout,
    /// It was killed.
    Killed,
    /// It says that it ends.
    Exiting,
    /// Its process is gone.
    Exited,
}

impl LifecycleKind {
    /// The name in reports; also the `event` of our own server's log line, for those that it logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::StartRequested => "start_requested",
            Self::Started => "started",
            Self::Listening => "listening",
            Self::Ready => "ready",
            Self::Admitted => "admitted",
            Self::Withdrawn => "withdrawn",
            Self::TerminateRequested => "terminate_requested",
            Self::SignalSent => "signal_sent",
            Self::SignalReceived => "signal_received",
            Self::Draining => "draining",
            Self::ListenerClosed => "listener_closed",
            Self::ListenerClaimed => "listener_claimed",
            Self::ListenerTaken => "listener_taken",
            Self::ListenerReturned => "listener_returned",
            Self::ListenerGiven => "listener_given",
            Self::HandoverBegun => "handover_begun",
            Self::LameDuck => "lame_duck",
            Self::LastResponse => "last_response",
            Self::Drained => "drained",
            Self::DrainTimeout => "drain_timeout",
            Self::Killed => "killed",
            Self::Exiting => "exiting",
            Self::Exited => "exited",
        }
    }

    /// In words that complete "3 ms after server-b …".
    #[must_use]
    pub const fn phrase(self) -> &'static str {
        match self {
            Self::StartRequested => "was asked to start",
            Self::Started => "began",
            Self::Listening => "opened its listener",
            Self::Ready => "became ready",
            Self::Admitted => "was admitted to the balancer",
            Self::Withdrawn => "was withdrawn from the balancer",
            Self::TerminateRequested => "was asked to stop",
            Self::SignalSent => "was sent the signal",
            Self::SignalReceived => "received the signal",
            Self::Draining => "began to drain",
            Self::ListenerClosed => "closed its listener",
            Self::ListenerClaimed => "claimed its listener",
            Self::ListenerTaken => "took a listener over",
            Self::ListenerReturned => "gave a listener back",
            Self::ListenerGiven => "handed its listener over",
            Self::HandoverBegun => "began to hand its connections over",
            Self::LameDuck => "found no sibling",
            Self::LastResponse => "finished its last response",
            Self::Drained => "had drained",
            Self::DrainTimeout => "reached its drain timeout",
            Self::Killed => "was killed",
            Self::Exiting | Self::Exited => "ended",
        }
    }
}

/// Who says that something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The harness, which did it.
    Harness,
    /// Who runs it: the container engine, or for processes the operating system.
    Engine,
    /// The server, in its log.
    Server,
}
