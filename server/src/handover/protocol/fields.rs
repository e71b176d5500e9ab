//! The fields of a message: how each kind of value is written and read. Knows no message.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::reason::Reason;
use crate::lifecycle::State;

/// The longest name of a replica or a service, in bytes of UTF-8.
pub const MAX_NAME: usize = 255;

/// As much of a name as a message can hold.
pub(super) fn cut_name(name: &str) -> &str {
    let mut end = name.len().min(MAX_NAME);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

pub(super) fn put_name(bytes: &mut Vec<u8>, name: &str) {
    let name = cut_name(name);
    bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    bytes.extend_from_slice(name.as_bytes());
}

/// A port, and the scope of an IPv6 address: without it a link-local address is not the whole address.
pub(super) fn put_addr(bytes: &mut Vec<u8>, addr: SocketAddr) {
    match addr {
        SocketAddr::V4(addr) => {
            bytes.push(4);
            bytes.extend_from_slice(&addr.ip().octets());
        }
        SocketAddr::V6(addr) => {
            bytes.push(6);
            bytes.extend_from_slice(&addr.ip().octets());
            bytes.extend_from_slice(&addr.scope_id().to_be_bytes());
        }
    }
    bytes.extend_from_slice(&addr.port().to_be_bytes());
}

/// What is left of a message's fields; each method takes one off the front.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(fields: &'a [u8]) -> Self {
        Self(fields)
    }

    /// Whether everything was taken.
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(super) fn name(&mut self) -> Option<&'a str> {
        let length = usize::from(self.u8()?);
        let (name, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(name).ok()
    }

    pub(super) fn state(&mut self) -> Option<State> {
        let value = self.u8()?;
        [State::Starting, State::Ready, State::Draining, State::Stopped]
            .into_iter()
            .find(|&state| state as u8 == value)
    }

    pub(super) fn reason(&mut self) -> Option<Reason> {
        let value = self.u8()?;
        [Reason::Stopping, Reason::Full, Reason::Wrong].into_iter().find(|&reason| reason as u8 == value)
    }

    pub(super) fn addr(&mut self) -> Option<SocketAddr> {
        match self.u8()? {
            4 => {
                let ip = Ipv4Addr::from(self.array::<4>()?);
                Some((ip, u16::from_be_bytes(self.array()?)).into())
            }
            6 => {
                let ip = Ipv6Addr::from(self.array::<16>()?);
                let scope_id = u32::from_be_bytes(self.array()?);
                Some(SocketAddrV6::new(ip, u16::from_be_bytes(self.array()?), 0, scope_id).into())
            }
            _ => None,
        }
    }
}
