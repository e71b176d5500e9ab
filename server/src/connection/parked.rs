//! A connection between two requests, and how it ends there.

use bytes::Bytes;
use tokio::net::TcpStream;

use super::end::{self, Last};
use crate::replica::{Open, Replica};
use crate::transfer_queue::Ticket;

/// The first read of a connection; most request heads fit.
pub(super) const FIRST_READ: usize = 2048;

/// A connection with no request under way: its stream, and what was read of it and not yet understood.
#[derive(Debug)]
pub(crate) struct ParkedConnection {
    pub(crate) stream: TcpStream,
    pub(crate) unread: Bytes,
    pub(crate) open: Open,
    /// Its turn to go to a sibling, if it has it.
    pub(crate) turn: Option<Ticket>,
    /// Its client has just connected and has sent nothing yet.
    pub(crate) is_new: bool,
}

/// Ends a connection that nothing is under way on.
pub(super) async fn close_idle(parked: ParkedConnection, replica: &Replica) {
    replica.connection_counters.connections_closed_idle.add(1);
    end::in_stages(&parked.stream, &parked.open, Last::default(), None).await;
}

/// What a client that takes too long for a request head is told.
pub(super) fn head_timed_out(replica: &Replica) -> Vec<u8> {
    let mut words = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n".to_vec();
    for (name, value) in &replica.extra_headers {
        words.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    words.extend(b"\r\n");
    words
}
