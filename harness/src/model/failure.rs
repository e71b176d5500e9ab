//! What can go wrong with a request: a bounded enum, each class with the curl exit code a person would have seen.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a client saw instead of the expected answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The kernel answered the connect with a reset: nobody listens (`ECONNREFUSED`).
    Refused,
    /// The handshake got no answer in time, for example because the accept queue was full.
    ConnectTimeout,
    /// The connection was reset before any byte of an answer arrived.
    ResetBeforeResponse,
    /// The connection was reset after the answer had begun.
    ResetMidResponse,
    /// The connection was closed before any answer arrived.
    EmptyReply,
    /// The connection was closed in the middle of the body.
    Truncated,
    /// The answer did not arrive in time.
    Timeout,
    /// The answer's status was not the expected one.
    HttpError,
    /// The answer's body was not the expected one.
    WrongBody,
    /// The harness itself was short of ports, descriptors, memory or CPU: never the server's fault.
    HarnessResource,
    /// None of the above; always shown with its text.
    Other,
}

impl FailureClass {
    /// Every class, in the order of reports.
    pub const ALL: [Self; 11] = [
        Self::Refused,
        Self::ConnectTimeout,
        Self::ResetBeforeResponse,
        Self::ResetMidResponse,
        Self::EmptyReply,
        Self::Truncated,
        Self::Timeout,
        Self::HttpError,
        Self::WrongBody,
        Self::HarnessResource,
        Self::Other,
    ];

    /// Whether a connection that was there broke under the request.
    #[must_use]
    pub const fn is_cut(self) -> bool {
        matches!(
            self,
            Self::ResetBeforeResponse | Self::ResetMidResponse | Self::EmptyReply | Self::Truncated
        )
    }

    /// The name used in budgets and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::ResetBeforeResponse => "reset_before_response",
            Self::ResetMidResponse => "reset_mid_response",
            Self::EmptyReply => "empty_reply",
            Self::Truncated => "truncated",
            Self::Timeout => "timeout",
            Self::HttpError => "http_error",
            Self::WrongBody => "wrong_body",
            Self::HarnessResource => "harness_resource",
            Self::Other => "other",
        }
    }

    /// The name in a sentence: "3 refused, 1 empty reply".
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::ConnectTimeout => "connect timeout",
            Self::ResetBeforeResponse => "reset before response",
            Self::ResetMidResponse => "reset in mid-response",
            Self::EmptyReply => "empty reply",
            Self::Truncated => "truncated",
            Self::Timeout => "timed out",
            Self::HttpError => "HTTP error",
            Self::WrongBody => "wrong body",
            Self::HarnessResource => "harness out of resources",
            Self::Other => "other",
        }
    }

    /// The exit code of `curl --fail --max-time ...` for the same event (curl's man page, "EXIT CODES"). A wrong body
    /// is 0, since curl does not know what to expect; `Other` has none.
    #[must_use]
    pub const fn curl_exit(self) -> Option<u8> {
        match self {
            Self::Refused => Some(7),
            Self::ConnectTimeout | Self::Timeout => Some(28),
            Self::ResetBeforeResponse | Self::ResetMidResponse => Some(56),
            Self::EmptyReply => Some(52),
            Self::Truncated => Some(18),
            Self::HttpError => Some(22),
            Self::WrongBody => Some(0),
            Self::HarnessResource => Some(45),
            Self::Other => None,
        }
    }

    /// Whether the server (or its absence) caused it, as opposed to the harness.
    #[must_use]
    pub const fn is_servers(self) -> bool {
        !matches!(self, Self::HarnessResource)
    }

    /// Whether it is nothing but silence, which the harness's own stalls may have caused as well.
    #[must_use]
    pub const fn is_silence(self) -> bool {
        matches!(self, Self::ConnectTimeout | Self::Timeout)
    }

    /// One sentence for people.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Refused => "connection refused: nobody listened",
            Self::ConnectTimeout => "the handshake got no answer in time",
            Self::ResetBeforeResponse => "connection reset before any answer",
            Self::ResetMidResponse => "connection reset in the middle of the answer",
            Self::EmptyReply => "empty reply: connection closed before any answer",
            Self::Truncated => "connection closed in the middle of the body",
            Self::Timeout => "no answer in time",
            Self::HttpError => "an unexpected status",
            Self::WrongBody => "an unexpected body",
            Self::HarnessResource => "the harness was short of ports, descriptors, memory or CPU",
            Self::Other => "something else",
        }
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// What caused a failure, where the class alone does not say it and the evidence does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The listener closed over a connection whose handshake was done and which nobody had accepted: the kernel resets
    /// it (`inet_csk_listen_stop` in its `inet_connection_sock.c`).
    AcceptQueue,
}

impl Cause {
    /// In words that end a sentence.
    #[must_use]
    pub const fn phrase(self) -> &'static str {
        match self {
            Self::AcceptQueue => "reset in the accept queue",
        }
    }
}

/// The text is no failure class.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such failure class")]
pub struct UnknownClass;

impl FromStr for FailureClass {
    type Err = UnknownClass;

    fn from_str(text: &str) -> Result<Self, UnknownClass> {
        Self::ALL.into_iter().find(|class| class.name() == text).ok_or(UnknownClass)
    }
}

/// A failed request: what it was, and the whole chain of errors behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub class: FailureClass,
    /// The error with every source behind it, outermost first, or what was unexpected about the answer.
    pub detail: String,
}

impl Failure {
    /// A failure of `class`, explained by `detail`.
    #[must_use]
    pub fn new(class: FailureClass, detail: impl Into<String>) -> Self {
        Self { class, detail: detail.into() }
    }
}

/// Failures by class, those that occurred.
pub type ByClass = BTreeMap<FailureClass, u64>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_read_back() {
        for class in FailureClass::ALL {
            assert_eq!(class.name().parse(), Ok(class));
            assert_eq!(serde_json::to_string(&class).unwrap(), format!("\"{class}\""));
        }
        assert_eq!("refuse".parse::<FailureClass>(), Err(UnknownClass));
    }
}
