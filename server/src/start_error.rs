//! Why a server could not start.

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

use crate::admin::address::AdminAddress;
use crate::handover::HandoverAddress;
use crate::handover::membership::JoinError;

/// Why a server could not start. Once it serves, nothing that happens to it is an error: it is in the
/// [`StopReport`](crate::StopReport).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address cannot be bound.
    #[error("failed to listen on {addr}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The admin address cannot be bound, for another reason than that it is taken.
    #[error("failed to bind the admin listener {addr}")]
    Admin {
        /// The address.
        addr: AdminAddress,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The place where siblings find this replica cannot be taken.
    #[error("failed to join the handover group {group}")]
    Handover {
        /// The group.
        group: HandoverAddress,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Signal handlers cannot be installed.
    #[error("failed to install signal handlers")]
    Signals(#[source] io::Error),
}

impl From<JoinError> for StartError {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::Listen { addr, source } => Self::Listen { addr, source },
            JoinError::Group { group, source } => Self::Handover { group, source },
        }
    }
}
