//! Where the replicas of one service find each other: how it is written, and which socket is at which place of it. Opens
//! nothing.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use rustix::net::SocketAddrUnix;
use thiserror::Error;

/// Where the replicas of one service find each other: `unix:@NAME` (abstract) or `unix:/DIRECTORY`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandoverAddress {
    /// Names in the abstract namespace, which belongs to the network namespace (unix(7)): containers with host
    /// networking share it without a volume, and a dead replica leaves nothing behind.
    Abstract(String),
    /// Sockets in a directory, for replicas that share a volume instead.
    Directory(PathBuf),
}

impl HandoverAddress {
    /// The address that replicas serving at `addr` have by default.
    #[must_use]
    pub fn of_service(addr: SocketAddr) -> Self {
        Self::Abstract(format!("hitless-server.{addr}"))
    }

    pub(super) fn socket_address(&self, slot: usize) -> io::Result<SocketAddrUnix> {
        Ok(match self {
            Self::Abstract(name) => SocketAddrUnix::new_abstract_name(format!("{name}.{slot}").as_bytes())?,
            Self::Directory(_) => SocketAddrUnix::new(self.path(slot).unwrap_or_default())?,
        })
    }

    pub(super) fn path(&self, slot: usize) -> Option<PathBuf> {
        match self {
            Self::Abstract(_) => None,
            Self::Directory(directory) => Some(directory.join(format!("{slot}.sock"))),
        }
    }
}

/// A handover address that cannot be read.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{0}` is not a handover address: use unix:@NAME or unix:/DIRECTORY")]
pub struct BadHandoverAddress(String);

impl FromStr for HandoverAddress {
    type Err = BadHandoverAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.strip_prefix("unix:").unwrap_or_default();
        match name.strip_prefix('@') {
            // sun_path holds 108 bytes: a leading NUL, the name, and the slot's number.
            Some(name) if (1..=100).contains(&name.len()) && !name.contains('\0') => {
                Ok(Self::Abstract(name.to_owned()))
            }
            None if name.starts_with('/') && name.len() <= 98 => Ok(Self::Directory(name.into())),
            _ => Err(BadHandoverAddress(text.to_owned())),
        }
    }
}

impl fmt::Display for HandoverAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Abstract(name) => write!(f, "unix:@{name}"),
            Self::Directory(directory) => write!(f, "unix:{}", directory.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_they_are_written() {
        for text in ["unix:@web", "unix:/run/web"] {
            assert_eq!(text.parse::<HandoverAddress>().unwrap().to_string(), text);
        }
        for text in ["", "web", "unix:", "unix:@", "unix:web", "127.0.0.1:80"] {
            assert!(text.parse::<HandoverAddress>().is_err(), "{text}");
        }
    }
}
