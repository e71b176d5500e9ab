//! HTTP/1 under the current [`Order`].

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use hyper::server::conn::http1;

use super::io::Io;
use super::parked::{ParkedConnection, head_timed_out};
use super::queue::Queue;
use super::watch::Watch;
use crate::activity::Overdue;
use crate::exchange::App;
use crate::replica::{Order, Replica};
use crate::transfer_queue::Ticket;

/// The most that hyper reads of a body at once, or holds back while the client reads slowly. A megabyte's upload takes 0.55
/// ms of CPU time with hyper's own 400 KB, 0.6 with this, 0.7 with 64 KB and 1.05 with 32 KB. An idle connection has less
/// than a head unread, and a client has to send many requests ahead to exceed what fits into a message to a sibling; such
/// a connection stays, and its next answer is the last one.
const MAX_BUFFER: usize = 256 * 1024;

/// Why hyper's hands were taken off an HTTP/1 connection.
#[derive(Debug)]
enum Turn {
    /// It ended by itself, or became something else (an upgrade).
    Over,
    /// It is idle and the order says that idle connections go; if to a sibling, it is its turn.
    Idle(Option<Ticket>),
    /// It is idle, and its client took too long.
    Overdue(Overdue),
    /// The drain timeout passed.
    Cut,
}

/// Serves HTTP/1 until the connection is over, or until it is idle and has to leave its place: then it is returned.
pub(super) async fn serve(
    io: Io,
    app: App,
    replica: &Replica,
    mut watch: Pin<&mut Watch<'_>>,
    unwanted: Option<u64>,
) -> Option<ParkedConnection> {
    let activity = app.activity();
    let mut builder = http1::Builder::new();
    builder.max_header_size(replica.limits.max_head).max_buf_size(MAX_BUFFER);
    if unwanted == Some(replica.orders.word()) {
        activity.make_last();
    }
    let mut connection = builder.serve_connection(io, app).with_upgrades();
    let mut queue = Queue::new(replica);
    let turn = poll_fn(|context| {
        let (order, word, timer) = watch.as_mut().look(context);
        if order == Order::Cut {
            return Poll::Ready(Turn::Cut);
        }
        let is_moved = order.moves_idle() && Some(word) != unwanted;
        loop {
            let is_between = activity.is_between_requests();
            if is_moved && is_between {
                let turn = if order == Order::HandOver {
                    queue.poll_turn(context).map(Some)
                } else {
                    Poll::Ready(None)
                };
                if let Poll::Ready(ticket) = turn {
                    return Poll::Ready(Turn::Idle(ticket));
                }
            } else {
                queue.leave();
            }
            // A busy one that has to go reads nothing beyond its request, so that it is idle after the response.
            activity.hold(is_moved && !is_between);
            let was_unsettled = activity.is_unsettled();
            if Pin::new(&mut connection).poll(context).is_ready() {
                return Poll::Ready(Turn::Over);
            }
            if was_unsettled {
                activity.settle();
            }
            if is_moved && !is_between {
                activity.wait_for_reader(context);
            }
            let has_come_to_rest = !is_between && activity.is_between_requests();
            if !(is_moved && (has_come_to_rest || activity.is_unsettled())) {
                break;
            }
        }
        if activity.must_go() {
            return Poll::Ready(Turn::Overdue(Overdue::Request));
        }
        let is_overdue = timer.filter(|_| activity.is_idle()).and_then(|now| activity.overdue(now));
        is_overdue.map_or(Poll::Pending, |overdue| Poll::Ready(Turn::Overdue(overdue)))
    })
    .await;
    match turn {
        // After an upgrade the stream lives on elsewhere, and it may read as it likes.
        Turn::Over => {
            activity.hold(false);
            None
        }
        Turn::Cut => None,
        Turn::Overdue(Overdue::Request) => {
            replica.connection_counters.connections_closed_idle.add(1);
            None
        }
        Turn::Overdue(Overdue::Head) => {
            connection.into_parts()?.io.write_now(&head_timed_out(replica));
            None
        }
        Turn::Idle(ticket) => {
            let parts = connection.into_parts()?;
            let parked = parts.io.into_parked(parts.read_buf)?;
            Some(ParkedConnection { turn: ticket, ..parked })
        }
    }
}
