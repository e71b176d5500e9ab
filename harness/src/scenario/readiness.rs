//! How a replica is known to be ready.

use std::fmt;

use super::{ScenarioError, Subject};
use crate::options::Options;

/// How a replica is known to be ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// A line of its output contains this text.
    Log(String),
    /// The health check if there is one, otherwise the port.
    Auto,
    /// The engine's health check says `healthy`.
    Health,
    /// The target's port accepts a connection. On a shared port, the replica's own listener is waited for.
    Tcp,
    /// A GET of this path is answered 2xx. Not per replica when the port is shared.
    Http(String),
}

impl fmt::Display for Readiness {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(text) => write!(out, "log:{text}"),
            Self::Auto => out.write_str("a health check or the port"),
            Self::Health => out.write_str("health"),
            Self::Tcp => out.write_str("tcp"),
            Self::Http(path) => write!(out, "http:{path}"),
        }
    }
}

impl Readiness {
    pub(super) fn from_options(options: &Options, subject: &Subject) -> Result<Self, ScenarioError> {
        let is_process = subject.is_process();
        match options.ready.as_deref() {
            None => Ok(match subject {
                Subject::Testbed { .. } => Self::Log("\"event\":\"ready\"".to_owned()),
                Subject::Custom { .. } if is_process => Self::Tcp,
                Subject::Custom { .. } | Subject::Compose { .. } => Self::Auto,
            }),
            Some("health") if is_process => {
                let remedy = "a process has no health check; it is tcp, http:/PATH or log:TEXT";
                Err(ScenarioError::new("--ready", "health", remedy))
            }
            Some("health") => Ok(Self::Health),
            Some("tcp") => Ok(Self::Tcp),
            Some(text) => match text.split_once(':') {
                Some(("log", line)) if !line.is_empty() => Ok(Self::Log(line.to_owned())),
                Some(("http", path)) if path.starts_with('/') => Ok(Self::Http(path.to_owned())),
                _ => Err(ScenarioError::new("--ready", text, "it is health, tcp, http:/PATH or log:TEXT")),
            },
        }
    }
}
