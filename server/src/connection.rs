//! One connection, from its first byte to its end: which protocol it speaks, its requests, and what the current
//! [`Order`] asks of it.
//!
//! hyper serves the requests; the [`ConnectionActivity`] knows what hyper does not tell, whether the connection is idle.

mod detect;
mod end;
mod http1;
mod http2;
mod io;
mod parked;
mod queue;
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

use self::detect::{Detected, detect};
use self::io::Io;
pub(crate) use self::parked::ParkedConnection;
use self::parked::{FIRST_READ, close_idle};
use self::watch::Watch;
use crate::activity::{ConnectionActivity, Protocol};
use crate::exchange::App;
use crate::replica::{Order, Replica};

/// Serves one connection to its end, or to the point where a sibling serves it on.
pub(crate) async fn serve(mut parked: ParkedConnection, router: Router, replica: Arc<Replica>) {
    // The word of the orders under which no sibling took the connection: it stays until there is another order.
    let mut unwanted = None;
    // It fails only if the client has broken off.
    let Ok(client) = parked.stream.peer_addr() else { return };
    let idleness = Arc::clone(parked.open.idleness());
    poll_fn(|context| {
        idleness.is_served_by(context.waker());
        Poll::Ready(())
    })
    .await;
    let mut refused_since = None;
    let mut watch = pin!(Watch::new(&replica));
    loop {
        let (next, protocol) = match detect(parked, &replica, watch.as_mut(), unwanted).await {
            Detected::Over => return,
            Detected::Speaks(protocol, parked) => (parked, Some(protocol)),
            Detected::Moves(parked) => (parked, None),
        };
        let moving = match protocol {
            None => next,
            Some(protocol) => {
                let activity = Arc::new(ConnectionActivity::new(
                    Arc::clone(&replica),
                    protocol,
                    client,
                    Arc::clone(&idleness),
                ));
                let app = App::new(router.clone(), Arc::clone(&activity));
                let io = Io::new(next, activity);
                let left = match protocol {
                    Protocol::Http1 => http1::serve(io, app, &replica, watch.as_mut(), unwanted).await,
                    Protocol::Http2 => {
                        http2::serve(io, app, &replica, watch.as_mut()).await;
                        None
                    }
                };
                let Some(parked) = left else { return };
                parked
            }
        };
        let word = replica.orders.word();
        let left = match Order::from_word(word) {
            Order::HandOver => match hand_over(moving, &replica).await {
                Some(parked)
                    if replica.outbox.is_hopeless(*refused_since.get_or_insert_with(Instant::now)) =>
                {
                    look_again(parked, &replica).await
                }
                left => left,
            },
            Order::LastLook => look_again(moving, &replica).await,
            Order::CloseIdle if moving.unread.is_empty() => {
                close_idle(moving, &replica).await;
                None
            }
            // Part of a request is here already, so it is not idle: it gets its answer, and that is the last one.
            _ => Some(ParkedConnection { turn: None, ..moving }),
        };
        let Some(left) = left else { return };
        parked = left;
        unwanted = Some(word);
    }
}

/// Gives the connection to a sibling, or has it back.
async fn hand_over(parked: ParkedConnection, replica: &Replica) -> Option<ParkedConnection> {
    let ParkedConnection { stream, unread, open, turn, is_new } = parked;
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
            Some(ParkedConnection { stream, unread, open, turn: None, is_new })
        }
    }
}

/// Closes the connection unless a request is already here.
async fn look_again(mut parked: ParkedConnection, replica: &Replica) -> Option<ParkedConnection> {
    if parked.unread.is_empty() {
        let mut bytes = [0; FIRST_READ];
        // Asks the kernel itself: tokio would trust what it last heard of the socket.
        match rustix::net::recv(&parked.stream, &mut bytes[..], RecvFlags::DONTWAIT) {
            Ok((_, length)) if length > 0 => parked.unread = Bytes::copy_from_slice(&bytes[..length]),
            _ => {
                close_idle(parked, replica).await;
                return None;
            }
        }
    }
    Some(parked)
}
