//! One connection, from its first byte to its end: which protocol it speaks, its requests, and what the current
//! [`Order`] asks of it.
//!
//! hyper serves the requests; the [`Link`] knows what hyper does not tell, whether the connection is idle.

mod end;
mod http1;
mod http2;
mod io;
mod queue;
mod recognize;
mod unacknowledged;
mod watch;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use axum::Router;
use bytes::Bytes;
use rustix::net::RecvFlags;
use tokio::net::TcpStream;
use tokio::time::Instant;

use self::end::Last;
use self::io::Io;
use self::recognize::{Recognized, recognize};
use self::watch::Watch;
use crate::exchange::App;
use crate::link::{Link, Protocol};
use crate::replica::{Open, Order, Replica};
use crate::transfer_queue::Ticket;

/// The first read of a connection; most request heads fit.
const FIRST_READ: usize = 2048;

/// A connection with no request under way: its stream, and what was read of it and not yet understood.
#[derive(Debug)]
pub(crate) struct Rest {
    pub(crate) stream: TcpStream,
    pub(crate) unread: Bytes,
    pub(crate) open: Open,
    /// Its turn to go to a sibling, if it has it.
    pub(crate) turn: Option<Ticket>,
    /// Its client has just connected and has sent nothing yet.
    pub(crate) is_new: bool,
}

/// Serves one connection to its end, or to the point where a sibling serves it on.
pub(crate) async fn serve(mut rest: Rest, router: Router, replica: Arc<Replica>) {
    // The word of the orders under which no sibling took the connection: it stays until there is another order.
    let mut unwanted = None;
    // It fails only if the client has broken off.
    let Ok(client) = rest.stream.peer_addr() else { return };
    let idleness = Arc::clone(rest.open.idleness());
    poll_fn(|context| {
        idleness.is_served_by(context.waker());
        Poll::Ready(())
    })
    .await;
    let mut refused_since = None;
    let mut watch = pin!(Watch::new(&replica));
    loop {
        let (next, protocol) = match recognize(rest, &replica, watch.as_mut(), unwanted).await {
            Recognized::Over => return,
            Recognized::Speaks(protocol, rest) => (rest, Some(protocol)),
            Recognized::Moves(rest) => (rest, None),
        };
        let moving = match protocol {
            None => next,
            Some(protocol) => {
                let link = Arc::new(Link::new(Arc::clone(&replica), protocol, client, Arc::clone(&idleness)));
                let app = App::new(router.clone(), Arc::clone(&link));
                let io = Io::new(next, link);
                let left = match protocol {
                    Protocol::Http1 => http1::serve(io, app, &replica, watch.as_mut(), unwanted).await,
                    Protocol::Http2 => {
                        http2::serve(io, app, &replica, watch.as_mut()).await;
                        None
                    }
                };
                let Some(rest) = left else { return };
                rest
            }
        };
        let word = replica.orders.word();
        let left = match Order::from_word(word) {
            Order::HandOver => match hand_over(moving, &replica).await {
                Some(rest) if replica.outbox.is_hopeless(*refused_since.get_or_insert_with(Instant::now)) => {
                    look_again(rest, &replica).await
                }
                left => left,
            },
            Order::LastLook => look_again(moving, &replica).await,
            Order::CloseIdle if moving.unread.is_empty() => {
                close_idle(moving, &replica).await;
                None
            }
            // Part of a request is here already, so it is not idle: it gets its answer, and that is the last one.
            _ => Some(Rest { turn: None, ..moving }),
        };
        let Some(left) = left else { return };
        rest = left;
        unwanted = Some(word);
    }
}

/// Gives the connection to a sibling, or has it back.
async fn hand_over(rest: Rest, replica: &Replica) -> Option<Rest> {
    let Rest { stream, unread, open, turn, is_new } = rest;
    // Out of the reactor before the descriptor goes: see the handover's documentation.
    let Ok(stream) = stream.into_std() else { return None };
    let given = match turn {
        Some(ticket) => replica.outbox.give(ticket, stream.into(), unread).await,
        // It left its place for another order: it goes on here.
        None => Err((stream.into(), unread)),
    };
    match given {
        Ok(()) => None,
        Err((descriptor, unread)) => {
            let stream = TcpStream::from_std(std::net::TcpStream::from(descriptor)).ok()?;
            Some(Rest { stream, unread, open, turn: None, is_new })
        }
    }
}

/// Ends a connection that nothing is under way on.
async fn close_idle(rest: Rest, replica: &Replica) {
    replica.traffic.connections_closed_idle.add(1);
    end::in_stages(&rest.stream, &rest.open, Last::default(), None).await;
}

/// Closes the connection unless a request is already here.
async fn look_again(mut rest: Rest, replica: &Replica) -> Option<Rest> {
    if rest.unread.is_empty() {
        let mut bytes = [0; FIRST_READ];
        // Asks the kernel itself: tokio would trust what it last heard of the socket.
        match rustix::net::recv(&rest.stream, &mut bytes[..], RecvFlags::DONTWAIT) {
            Ok((_, length)) if length > 0 => rest.unread = Bytes::copy_from_slice(&bytes[..length]),
            _ => {
                close_idle(rest, replica).await;
                return None;
            }
        }
    }
    Some(rest)
}

/// What a client that takes too long for a request head is told.
fn head_timed_out(replica: &Replica) -> Vec<u8> {
    let mut words = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n".to_vec();
    for (name, value) in &replica.stamp {
        words.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    words.extend(b"\r\n");
    words
}
