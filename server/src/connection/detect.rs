//! Which protocol a connection speaks, by its first bytes.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, sleep_until};

use super::end::{self, Last};
use super::parked::{FIRST_READ, ParkedConnection, close_idle, head_timed_out};
use super::queue::Queue;
use super::watch::Watch;
use crate::activity::Protocol;
use crate::replica::{Order, Replica};
use crate::transfer_queue::Ticket;

/// What an HTTP/2 client sends first (RFC 9113, section 3.4). No HTTP/1 request begins like it.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a client that has just connected has time for its first byte before it counts as idle. Go's
/// `Server.Shutdown` spares such connections too (`StateNew`, five seconds).
const GRACE: Duration = Duration::from_millis(200);

/// What became of a connection of which it was not known what it speaks.
pub(super) enum Detected {
    /// It ended, or took too long.
    Over,
    /// It speaks that.
    Speaks(Protocol, ParkedConnection),
    /// The order says that it leaves its place.
    Moves(ParkedConnection),
}

/// Why it is not waited for any longer.
enum Found {
    Over,
    TooLate,
    Speaks(Protocol),
    Moves(Option<Ticket>),
}

/// Reads until the protocol is clear.
pub(super) async fn detect(
    mut parked: ParkedConnection,
    replica: &Replica,
    mut watch: Pin<&mut Watch<'_>>,
    unwanted: Option<u64>,
) -> Detected {
    if let Some(protocol) = protocol_of(&parked.unread) {
        return Detected::Speaks(protocol, parked);
    }
    let mut bytes = BytesMut::from(&parked.unread[..]);
    // Since when the client has been silent, or at its head.
    let mut since = Instant::now();
    let mut grace = None;
    let mut queue = Queue::new(replica);
    let found = poll_fn(|context| {
        loop {
            let (order, word, timer) = watch.as_mut().look(context);
            let may_wait = matches!(order, Order::CloseIdle | Order::LastLook) && bytes.is_empty();
            let has_grace = may_wait
                && grace
                    .get_or_insert_with(|| Box::pin(sleep_until(since + GRACE)))
                    .as_mut()
                    .poll(context)
                    .is_pending();
            let is_moved = order.moves_idle() && Some(word) != unwanted && !has_grace;
            if order == Order::Cut {
                return Poll::Ready(Found::Over);
            }
            if is_moved && order != Order::HandOver {
                return Poll::Ready(Found::Moves(None));
            }
            if let Some(protocol) = protocol_of(&bytes) {
                return Poll::Ready(Found::Speaks(protocol));
            }
            if !is_moved {
                queue.leave();
            } else if let Poll::Ready(ticket) = queue.poll_turn(context) {
                return Poll::Ready(Found::Moves(Some(ticket)));
            }
            let Poll::Ready(readable) = parked.stream.poll_read_ready(context) else {
                let limits = &replica.limits;
                let is_idle = bytes.is_empty() && !parked.is_new;
                let patience = if is_idle { limits.idle_timeout } else { limits.head_timeout };
                let is_late = timer.is_some() && since.elapsed() >= patience;
                let must_go = bytes.is_empty() && parked.open.idleness().must_go();
                return if is_late || must_go { Poll::Ready(Found::TooLate) } else { Poll::Pending };
            };
            let is_first = bytes.is_empty();
            bytes.reserve(FIRST_READ);
            match readable.and_then(|()| parked.stream.try_read_buf(&mut bytes)) {
                Ok(0) => return Poll::Ready(Found::Over),
                Ok(_) if is_first => since = Instant::now(),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(Found::Over),
            }
        }
    })
    .await;
    parked.is_new &= bytes.is_empty();
    parked.unread = bytes.freeze();
    match found {
        Found::Over => Detected::Over,
        Found::TooLate => {
            if parked.unread.is_empty() {
                close_idle(parked, replica).await;
            } else {
                let _ = parked.stream.try_write(&head_timed_out(replica));
                let last = Last { is_sending: true, ..Last::default() };
                end::in_stages(&parked.stream, &parked.open, last, None).await;
            }
            Detected::Over
        }
        Found::Speaks(protocol) => Detected::Speaks(protocol, parked),
        Found::Moves(turn) => Detected::Moves(ParkedConnection { turn, ..parked }),
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
