//! How an admin address is written. Opens nothing.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

/// Where a replica answers questions about itself: `unix:@NAME` (abstract), `unix:/PATH` or `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdminAddress {
    /// An abstract unix socket: lives in the network namespace, leaves no file (unix(7)).
    Abstract(String),
    /// A unix socket in the file system.
    Path(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
}

impl AdminAddress {
    /// The address that a replica of this name has by default.
    #[must_use]
    pub fn of_replica(name: &str) -> Self {
        Self::Abstract(format!("hitless-server.{name}.admin"))
    }
}

/// An admin address that cannot be read.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{0}` is not an admin address: use unix:@NAME, unix:/PATH or HOST:PORT")]
pub struct BadAdminAddress(String);

impl FromStr for AdminAddress {
    type Err = BadAdminAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadAdminAddress(text.to_owned());
        let Some(name) = text.strip_prefix("unix:") else {
            return text.parse().map(Self::Tcp).map_err(|_| bad());
        };
        match name.strip_prefix('@') {
            // sun_path holds 108 bytes, of which an abstract name's leading NUL is one.
            Some(name) if (1..=107).contains(&name.len()) && !name.contains('\0') => {
                Ok(Self::Abstract(name.to_owned()))
            }
            None if name.starts_with('/') && name.len() < 108 => Ok(Self::Path(name.into())),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Abstract(name) => write!(f, "unix:@{name}"),
            Self::Path(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(addr) => addr.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_they_are_written() {
        for text in ["unix:@a.admin", "unix:/run/a.sock", "127.0.0.1:9000", "[::1]:9000"] {
            assert_eq!(text.parse::<AdminAddress>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_said_so() {
        let long = format!("unix:@{}", "x".repeat(108));
        for text in ["", "unix:", "unix:@", "unix:relative", "localhost", "8080", long.as_str()] {
            let error = text.parse::<AdminAddress>().unwrap_err().to_string();
            assert!(error.contains("unix:@NAME"), "{text}: {error}");
        }
    }
}
