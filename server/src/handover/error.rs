//! What can go wrong between two siblings.

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

use super::protocol::{ProtocolError, Reason};

/// What went wrong between two siblings.
#[derive(Debug, Error)]
pub(crate) enum ChannelError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Protocol(#[from] ProtocolError),
    #[error("the peer runs as user {0}")]
    OtherUser(u32),
    #[error("the peer is gone")]
    Gone,
    #[error("a message with the wrong number of descriptors")]
    Descriptors,
    #[error("no descriptor left for what came")]
    NoDescriptorLeft,
    #[error("a message out of turn")]
    OutOfTurn,
    #[error("the peer serves {0}")]
    OtherAddress(SocketAddr),
    #[error("the peer is a replica of {}", service_in_words(.0.as_deref()))]
    OtherService(Option<String>),
    #[error("no answer in time")]
    Silent,
    #[error("too many channels, of which the peer's was silent for longest")]
    MostSilent,
    #[error("{0}")]
    Refused(Reason),
}

impl ChannelError {
    /// Whether nothing can be sent to this peer any more.
    pub(crate) fn is_of_the_peer(&self) -> bool {
        match self {
            Self::Io(error) => matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
            ),
            _ => true,
        }
    }
}

fn service_in_words(service: Option<&str>) -> String {
    service.map_or_else(|| "a service without a name".to_owned(), |name| format!("service `{name}`"))
}
