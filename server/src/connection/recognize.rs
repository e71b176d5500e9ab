//! Which protocol a connection speaks, by its first bytes.

use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, sleep_until};

use super::{FIRST_READ, Rest, head_timed_out};
use crate::link::Protocol;
use crate::replica::{Order, Replica};

/// What an HTTP/2 client sends first (RFC 9113, section 3.4). No HTTP/1 request begins like it.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a client that has just connected has time for its first byte before it counts as idle. Go's
/// `Server.Shutdown` spares such connections too (`StateNew`, five seconds).
const GRACE: Duration = Duration::from_millis(200);

/// What became of a connection of which it was not known what it speaks.
pub(super) enum Recognized {
    /// It ended, or took too long.
    Over,
    /// It speaks that.
    Speaks(Protocol, Rest),
    /// The order says that it leaves its place.
    Moves(Rest),
}

/// Reads until the protocol is clear.
pub(super) async fn recognize(mut rest: Rest, replica: &Replica, unwanted: Option<u64>) -> Recognized {
    if let Some(protocol) = protocol_of(&rest.unread) {
        return Recognized::Speaks(protocol, rest);
    }
    let mut bytes = BytesMut::from(&rest.unread[..]);
    let limits = &replica.limits;
    let patience = if bytes.is_empty() { limits.idle_timeout } else { limits.head_timeout };
    let mut timer = pin!(sleep_until(Instant::now() + patience));
    let mut turn = pin!(replica.outbox.turn());
    let grace_ends = Instant::now() + GRACE;
    loop {
        let changed = replica.orders.changed();
        let word = replica.orders.word();
        let order = Order::from_word(word);
        let may_wait = matches!(order, Order::CloseIdle | Order::LastLook);
        let has_grace = may_wait && bytes.is_empty() && Instant::now() < grace_ends;
        let is_moved = order.moves_idle() && Some(word) != unwanted && !has_grace;
        if order == Order::Cut {
            return Recognized::Over;
        }
        if is_moved && order != Order::HandOver {
            rest.unread = bytes.freeze();
            return Recognized::Moves(rest);
        }
        if let Some(protocol) = protocol_of(&bytes) {
            rest.unread = bytes.freeze();
            return Recognized::Speaks(protocol, rest);
        }
        tokio::select! {
            biased;
            () = changed => continue,
            () = sleep_until(grace_ends), if has_grace => continue,
            ticket = &mut turn, if is_moved => {
                rest.turn = Some(ticket);
                rest.unread = bytes.freeze();
                return Recognized::Moves(rest);
            }
            readable = rest.stream.readable() => if readable.is_err() { return Recognized::Over },
            () = &mut timer => {
                if bytes.is_empty() {
                    replica.traffic.connections_closed_idle.add(1);
                } else {
                    let _ = rest.stream.try_write(&head_timed_out(replica));
                }
                return Recognized::Over;
            }
        }
        let is_first = bytes.is_empty();
        bytes.reserve(FIRST_READ);
        match rest.stream.try_read_buf(&mut bytes) {
            Ok(0) => return Recognized::Over,
            Ok(_) if is_first => timer.as_mut().reset(Instant::now() + limits.head_timeout),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Recognized::Over,
        }
    }
}

/// Decides by the first bytes, as soon as they suffice.
fn protocol_of(bytes: &[u8]) -> Option<Protocol> {
    let length = bytes.len().min(HTTP2_PREFACE.len());
    if bytes[..length] != HTTP2_PREFACE[..length] {
        Some(Protocol::Http1)
    } else if length == HTTP2_PREFACE.len() {
        Some(Protocol::Http2)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_http2_preface_is_recognized_only_when_it_is_whole() {
        for length in 0..HTTP2_PREFACE.len() {
            assert_eq!(protocol_of(&HTTP2_PREFACE[..length]), None);
        }
        assert_eq!(protocol_of(HTTP2_PREFACE), Some(Protocol::Http2));
    }

    #[test]
    fn methods_that_begin_like_the_preface_are_http1() {
        for head in ["POST / HTTP/1.1\r\n", "PUT / HTTP/1.1\r\n", "PROPFIND / HTTP/1.1\r\n"] {
            assert_eq!(protocol_of(head.as_bytes()), Some(Protocol::Http1));
        }
    }

    proptest! {
        #[test]
        fn more_bytes_never_change_a_decision(bytes in proptest::collection::vec(any::<u8>(), 0..64), cut in 0_usize..64) {
            let cut = cut.min(bytes.len());
            if let Some(early) = protocol_of(&bytes[..cut]) {
                prop_assert_eq!(protocol_of(&bytes), Some(early));
            }
        }
    }
}
