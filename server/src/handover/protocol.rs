//! The messages that siblings exchange, as bytes. Pure: no socket, no descriptor, no clock.
//!
//! Each message is one record of a `SOCK_SEQPACKET` socket, so the kernel keeps the borders (unix(7)). Numbers are
//! big-endian.
//!
//! ```text
//!   0      4         5      6
//!   +------+---------+------+----------------------------------------+
//!   | HTLS | version | kind | fields of that kind, and nothing after |
//!   +------+---------+------+----------------------------------------+
//! ```
//!
//! The first six bytes stay as they are for ever, and so does the *hello*: its header names the newest version that the
//! sender speaks, its first field the oldest, and a newer version may only add to its end. So any two replicas understand
//! each other's first message, and know the newest version that both speak, in which they go on. If there is none, they
//! are no siblings, and both know it.
//!
//! Since version 2 a hello ends with the name of the service, which is empty if there is none. Two replicas are siblings
//! only if they name the same service, or if neither names any; a replica that speaks version 1 alone names none. The
//! other messages have not changed, and their headers still say version 1.
//!
//! | kind | from | with a descriptor | means |
//! | --- | --- | --- | --- |
//! | 1 hello | both | no | who I am, where I serve, in which state |
//! | 2 give listener | stopping | the listener | accept from this too |
//! | 3 give connection | stopping | the connection | serve this on; these bytes of it I have read |
//! | 4 taken | sibling | no | it is mine now, drop your copy |
//! | 5 refused | sibling | no | it stays yours |
//! | 6 claim | starting | no | have you a listener for me? |
//! | 7 offer | sibling | the listener | accept from this; I go on until you say that you do |
//! | 8 nothing | sibling | no | I have none |
//! | 9 claimed | starting | no | I accept from it, drop your copy |

use std::net::SocketAddr;

use thiserror::Error;

use self::fields::{Reader, cut_name, put_addr, put_name};
use crate::lifecycle::State;

mod fields;
mod reason;
mod versions;

pub use fields::MAX_NAME;
pub use reason::Reason;
pub use versions::{MESSAGE_VERSION, OLDEST_VERSION, VERSION, Versions};

/// The longest message, header included.
pub const MAX_MESSAGE: usize = 160 * 1024;

/// The most bytes of a connection that can travel with it.
pub const MAX_UNREAD: usize = 128 * 1024;

const MAGIC: [u8; 4] = *b"HTLS";

const HELLO: u8 = 1;

/// The first version whose hello names the service.
const NAMES_SERVICE: u8 = 2;

/// A message between siblings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// The first message of either side.
    Hello {
        /// What it speaks.
        versions: Versions,
        /// The replica's name; longer ones are cut.
        name: &'a str,
        /// In which state it is.
        state: State,
        /// Where it serves.
        addr: SocketAddr,
        /// The service that it is a replica of, if that has a name; longer ones are cut. Written since version 2.
        service: Option<&'a str>,
    },
    /// Take this listener.
    GiveListener {
        /// The socket's cookie: the same number in every process that holds the socket.
        id: u64,
        /// Who bound it or claimed it last.
        owner: &'a str,
    },
    /// Take this connection.
    GiveConnection {
        /// The socket's cookie.
        id: u64,
        /// What was read of it and not yet understood.
        unread: &'a [u8],
    },
    /// What was given is taken.
    Taken {
        /// Its cookie.
        id: u64,
    },
    /// What was given is not taken.
    Refused {
        /// Its cookie.
        id: u64,
        /// Why.
        reason: Reason,
    },
    /// A starting replica asks for a listener.
    Claim,
    /// A listener for the one that claimed.
    Offer {
        /// Its cookie.
        id: u64,
        /// Who owned it before.
        owner: &'a str,
    },
    /// There is no listener to offer.
    Nothing,
    /// The claimed listener is being accepted from.
    Claimed {
        /// Its cookie.
        id: u64,
    },
}

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// Not from a replica at all.
    #[error("not a message of this protocol")]
    Foreign,
    /// In another version of the protocol.
    #[error("a message of protocol version {0} instead of {MESSAGE_VERSION}")]
    OtherVersion(u8),
    /// From a replica that speaks none of our versions.
    #[error("protocol versions {0} instead of {ours}", ours = Versions::OURS)]
    NoCommonVersion(Versions),
    /// Longer than any message.
    #[error("a message of {0} bytes")]
    TooLong(usize),
    /// The fields do not fit the kind.
    #[error("a malformed message of kind {0}")]
    Malformed(u8),
}

impl<'a> Message<'a> {
    /// Whether exactly one descriptor belongs to the message (otherwise none does).
    #[must_use]
    pub fn carries_descriptor(&self) -> bool {
        matches!(self, Self::GiveListener { .. } | Self::GiveConnection { .. } | Self::Offer { .. })
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Hello { .. } => HELLO,
            Self::GiveListener { .. } => 2,
            Self::GiveConnection { .. } => 3,
            Self::Taken { .. } => 4,
            Self::Refused { .. } => 5,
            Self::Claim => 6,
            Self::Offer { .. } => 7,
            Self::Nothing => 8,
            Self::Claimed { .. } => 9,
        }
    }

    /// The message as bytes. Whoever gives a connection keeps to [`MAX_UNREAD`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(&MAGIC);
        let version = if let Self::Hello { versions, .. } = self { versions.newest } else { MESSAGE_VERSION };
        bytes.extend_from_slice(&[version, self.kind()]);
        match self {
            Self::Hello { versions, name, state, addr, service } => {
                bytes.push(versions.oldest);
                put_name(&mut bytes, name);
                bytes.push(*state as u8);
                put_addr(&mut bytes, *addr);
                if versions.newest >= NAMES_SERVICE {
                    put_name(&mut bytes, service.unwrap_or_default());
                }
            }
            Self::GiveListener { id, owner } | Self::Offer { id, owner } => {
                bytes.extend_from_slice(&id.to_be_bytes());
                put_name(&mut bytes, owner);
            }
            Self::GiveConnection { id, unread } => {
                bytes.extend_from_slice(&id.to_be_bytes());
                bytes.extend_from_slice(unread);
            }
            Self::Taken { id } | Self::Claimed { id } => bytes.extend_from_slice(&id.to_be_bytes()),
            Self::Refused { id, reason } => {
                bytes.extend_from_slice(&id.to_be_bytes());
                bytes.push(*reason as u8);
            }
            Self::Claim | Self::Nothing => {}
        }
        bytes
    }

    /// Reads one message.
    ///
    /// # Errors
    ///
    /// If `bytes` are anything but one whole message of this version, or one whole hello of any.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, ProtocolError> {
        if bytes.len() > MAX_MESSAGE {
            return Err(ProtocolError::TooLong(bytes.len()));
        }
        let (magic, rest) = bytes.split_first_chunk::<4>().ok_or(ProtocolError::Foreign)?;
        if *magic != MAGIC {
            return Err(ProtocolError::Foreign);
        }
        let (&version, rest) = rest.split_first().ok_or(ProtocolError::Foreign)?;
        let (&kind, fields) = rest.split_first().ok_or(ProtocolError::Foreign)?;
        let fields = Reader::new(fields);
        let message = match (version, kind) {
            (newest, HELLO) => Self::decode_hello(newest, fields),
            (MESSAGE_VERSION, _) => Self::decode_fields(kind, fields),
            _ => return Err(ProtocolError::OtherVersion(version)),
        };
        message.ok_or(ProtocolError::Malformed(kind))
    }

    fn decode_hello(newest: u8, mut fields: Reader<'a>) -> Option<Self> {
        let versions = Versions { oldest: fields.u8()?, newest };
        let (name, state, addr) = (fields.name()?, fields.state()?, fields.addr()?);
        let service = if newest >= NAMES_SERVICE { Some(fields.name()?) } else { None };
        let service = service.filter(|service| !service.is_empty());
        let hello = Self::Hello { versions, name, state, addr, service };
        // What a newer version adds is its own business.
        let is_whole = fields.is_empty() || newest > VERSION;
        (is_whole && versions.oldest <= newest).then_some(hello)
    }

    fn decode_fields(kind: u8, mut fields: Reader<'a>) -> Option<Self> {
        let message = match kind {
            2 => Self::GiveListener { id: fields.u64()?, owner: fields.name()? },
            3 => {
                let (id, unread) = (fields.u64()?, fields.rest());
                if unread.len() > MAX_UNREAD {
                    return None;
                }
                Self::GiveConnection { id, unread }
            }
            4 => Self::Taken { id: fields.u64()? },
            5 => Self::Refused { id: fields.u64()?, reason: fields.reason()? },
            6 => Self::Claim,
            7 => Self::Offer { id: fields.u64()?, owner: fields.name()? },
            8 => Self::Nothing,
            9 => Self::Claimed { id: fields.u64()? },
            _ => return None,
        };
        fields.is_empty().then_some(message)
    }
}

/// The name of a service as it arrives at a sibling: cut to what a message holds, and `None` if it is empty.
#[must_use]
pub(super) fn service_name(name: &str) -> Option<&str> {
    Some(cut_name(name)).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddrV6};

    use proptest::prelude::*;

    use super::*;

    /// A message that owns what it is made of.
    #[derive(Debug, Clone)]
    struct Parts {
        kind: u8,
        id: u64,
        versions: Versions,
        name: String,
        unread: Vec<u8>,
        addr: SocketAddr,
        state: State,
        reason: Reason,
    }

    impl Parts {
        fn message(&self) -> Message<'_> {
            let (id, name) = (self.id, self.name.as_str());
            match self.kind {
                1 => Message::Hello {
                    versions: self.versions,
                    name,
                    state: self.state,
                    addr: self.addr,
                    service: (self.versions.newest >= NAMES_SERVICE)
                        .then_some(name)
                        .filter(|name| !name.is_empty()),
                },
                2 => Message::GiveListener { id, owner: name },
                3 => Message::GiveConnection { id, unread: &self.unread },
                4 => Message::Taken { id },
                5 => Message::Refused { id, reason: self.reason },
                6 => Message::Claim,
                7 => Message::Offer { id, owner: name },
                8 => Message::Nothing,
                _ => Message::Claimed { id },
            }
        }
    }

    fn any_parts() -> impl Strategy<Value = Parts> {
        let states = prop_oneof![Just(State::Starting), Just(State::Ready), Just(State::Draining)];
        let reasons = prop_oneof![Just(Reason::Stopping), Just(Reason::Full), Just(Reason::Wrong)];
        let unread = proptest::collection::vec(any::<u8>(), 0..300);
        let addr = (any::<IpAddr>(), any::<u16>(), any::<u32>());
        let versions = (any::<u8>(), any::<u8>());
        (1_u8..=9, any::<u64>(), versions, "\\PC{0,60}", unread, addr, states, reasons).prop_map(
            |(kind, id, versions, name, unread, (ip, port, scope_id), state, reason)| Parts {
                kind,
                id,
                versions: Versions { oldest: versions.0.min(versions.1), newest: versions.0.max(versions.1) },
                name,
                unread,
                addr: match ip {
                    IpAddr::V4(ip) => (ip, port).into(),
                    IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, scope_id).into(),
                },
                state,
                reason,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(parts in any_parts()) {
            let message = parts.message();
            let bytes = message.encode();
            prop_assert!(bytes.len() <= MAX_MESSAGE);
            prop_assert_eq!(Message::decode(&bytes), Ok(message));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Message::decode(&bytes);
        }

        #[test]
        fn no_fields_make_the_reader_panic(kind: u8, fields in proptest::collection::vec(any::<u8>(), 0..64)) {
            let version = if kind == HELLO { VERSION } else { MESSAGE_VERSION };
            let bytes = [&MAGIC[..], &[version, kind], &fields].concat();
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }

        #[test]
        fn a_message_that_breaks_off_is_none(parts in any_parts(), cut in 0_usize..64) {
            let bytes = parts.message().encode();
            let cut = cut.min(bytes.len().saturating_sub(1));
            // The bytes of a connection have no length of their own: the record's border is theirs.
            if parts.kind != 3 || cut < 14 {
                prop_assert!(Message::decode(&bytes[..cut]).is_err());
            }
        }

        #[test]
        fn another_version_is_known_as_such(parts in any_parts(), version: u8) {
            prop_assume!(version != MESSAGE_VERSION && parts.kind != HELLO);
            let mut bytes = parts.message().encode();
            bytes[4] = version;
            prop_assert_eq!(Message::decode(&bytes), Err(ProtocolError::OtherVersion(version)));
        }
    }

    #[test]
    fn a_hello_of_a_newer_version_is_understood_with_what_it_adds() {
        let addr = "[fe80::1%3]:80".parse().unwrap();
        let versions = Versions { oldest: 1, newest: VERSION + 1 };
        let hello = Message::Hello { versions, name: "a", state: State::Ready, addr, service: Some("web") };
        let mut bytes = hello.encode();
        bytes.extend_from_slice(b"more");
        assert_eq!(Message::decode(&bytes), Ok(hello));
        // Of our own version there is no more.
        bytes[4] = VERSION;
        assert_eq!(Message::decode(&bytes), Err(ProtocolError::Malformed(HELLO)));
        let nonsense = Versions { oldest: 3, newest: 2 };
        let bytes =
            Message::Hello { versions: nonsense, name: "a", state: State::Ready, addr, service: None }
                .encode();
        assert_eq!(Message::decode(&bytes), Err(ProtocolError::Malformed(HELLO)));
    }

    /// What the first release wrote, and what it reads of ours: everything before the service's name.
    #[test]
    fn a_hello_is_that_of_the_first_release_with_the_services_name_at_its_end() {
        let first = b"HTLS\x01\x01\x01\x01a\x01\x04\x7f\x00\x00\x01\x00\x50";
        let addr = "127.0.0.1:80".parse().unwrap();
        let hello =
            |versions, service| Message::Hello { versions, name: "a", state: State::Ready, addr, service };
        let versions = Versions { oldest: 1, newest: 1 };
        assert_eq!(Message::decode(first), Ok(hello(versions, None)));
        assert_eq!(hello(versions, Some("web")).encode(), first);
        let mut second = first.to_vec();
        second[4] = 2;
        second.extend_from_slice(b"\x03web");
        assert_eq!(hello(Versions::OURS, Some("web")).encode(), second);
        assert_eq!(Message::decode(&second), Ok(hello(Versions::OURS, Some("web"))));
        // Other messages have not changed.
        assert_eq!(Message::Claim.encode(), b"HTLS\x01\x06");
    }

    #[test]
    fn a_long_name_is_cut_at_a_character() {
        let name = "é".repeat(200);
        let bytes = Message::GiveListener { id: 1, owner: &name }.encode();
        let Ok(Message::GiveListener { owner, .. }) = Message::decode(&bytes) else { panic!("no message") };
        assert_eq!(owner, "é".repeat(127));
    }

    #[test]
    fn more_bytes_than_may_travel_are_refused() {
        let unread = vec![0; MAX_UNREAD + 1];
        let bytes = Message::GiveConnection { id: 1, unread: &unread }.encode();
        assert_eq!(Message::decode(&bytes), Err(ProtocolError::Malformed(3)));
        assert_eq!(Message::decode(&vec![0; MAX_MESSAGE + 1]), Err(ProtocolError::TooLong(MAX_MESSAGE + 1)));
    }
}
