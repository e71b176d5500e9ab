//! What keeps a rollout from going on. The texts are for people and say what to do.

use std::sync::Arc;
use std::time::Duration;

use crate::host::engine::EngineError;
use crate::model::cut_short::{CutShort, death};

/// The rollout could not go on.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// The container engine cannot be reached, or refused something.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An image is not there and cannot be built here.
    #[error("{0}")]
    MissingImage(String),
    /// The port is in use by another program.
    #[error("{0}")]
    PortTaken(String),
    /// There are no replicas to roll.
    #[error("{0}")]
    NoReplicas(String),
    /// One operation on one replica failed.
    #[error("failed to {operation} replica {replica}: {reason}")]
    Replica {
        /// What was tried.
        operation: &'static str,
        /// The replica.
        replica: Arc<str>,
        /// What the engine said.
        reason: String,
    },
    /// Nothing that can be seen from here tells whether a replica is ready.
    #[error("cannot tell whether replica {replica} is ready: {reason}")]
    UnknownReadiness {
        /// The replica.
        replica: Arc<str>,
        /// Why, and which flag helps.
        reason: String,
    },
    /// A replica was not ready in time.
    #[error("replica {replica} was not ready within {}: {reason}", humantime::format_duration(*.patience))]
    NotReady {
        /// The replica.
        replica: Arc<str>,
        /// How long it was given.
        patience: Duration,
        /// What was seen instead.
        reason: String,
    },
    /// A replica that is ready gets no request, or answers none.
    #[error("replica {replica} was ready but answered no request within {}", humantime::format_duration(*.patience))]
    NoAnswer {
        /// The replica.
        replica: Arc<str>,
        /// How long it was given.
        patience: Duration,
    },
    /// A replica ended although nobody asked it to.
    #[error("{}", death(.replica, *.code, .last_words, *.left_running))]
    Died {
        /// The replica.
        replica: Arc<str>,
        /// Its exit code.
        code: Option<i64>,
        /// The last lines of its output.
        last_words: String,
        /// How many processes that it had started were still running.
        left_running: usize,
    },
}

impl RolloutError {
    /// Whether a program went to the background, so that the harness ended what it left running.
    #[must_use]
    pub const fn is_background(&self) -> bool {
        matches!(self, Self::Died { code: Some(0), left_running: 1.., .. })
    }
}

impl From<RolloutError> for CutShort {
    fn from(error: RolloutError) -> Self {
        match error {
            RolloutError::Died { replica, code, last_words, left_running } => {
                Self::ReplicaDied { replica, code, last_words, left_running }
            }
            other => Self::RolloutFailed { error: other.to_string() },
        }
    }
}
