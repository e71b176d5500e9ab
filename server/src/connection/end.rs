//! The end of a connection, in stages.
//!
//! To close a TCP connection at once is to risk its last answer: if bytes of the client are unread then, or come later, the
//! kernel answers them with a reset, and a reset discards what the client has not read and what the server has not sent
//! (RFC 9112, section 9.6). So every connection that this side ends is ended here: the write side is shut down, what still
//! comes is read and thrown away, and the socket is closed when the client has closed too, or when the kernel says that the
//! client has all of it.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::Shutdown;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, sleep_until};

use super::unacknowledged::unacknowledged;
use crate::activity::ConnectionActivity;
use crate::lifecycle::RequestCounters;
use crate::replica::{Open, Order};

/// How long a client that was in the middle of a message may be silent before it is taken to have stopped sending.
const SILENCE: Duration = Duration::from_secs(2);

/// How long an end may take in all; nginx's `lingering_time` is the same. A drain's end may come before.
const PATIENCE: Duration = Duration::from_secs(30);

/// The first look at what is acknowledged. Most clients have closed by then. Each further look comes after twice the time.
const FIRST_LOOK: Duration = Duration::from_millis(2);

/// The longest time between two looks.
const LAST_LOOK: Duration = Duration::from_millis(500);

/// How long the tasks of an HTTP/2 connection's requests have to notice its end, so that they are in the books before the
/// last connection of a drain is gone. They are woken at once.
const STREAMS: Duration = Duration::from_millis(100);

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The client has closed, or has everything.
    Whole,
    /// The client broke off or stayed away while something was not acknowledged.
    Lost,
    /// The replica ended first.
    Cut,
}

/// Ends a connection of whose answers `activity` keeps the books, in a task of its own. A replica that stops at once does not
/// wait, and neither does a runtime that ends.
///
/// `is_half_closed`: the client had closed its side before the answer was out, so that its end says nothing about the answer.
pub(super) fn begin(stream: TcpStream, open: Open, activity: Arc<ConnectionActivity>, is_half_closed: bool) {
    if open.replica().orders.current() == Order::Cut {
        return;
    }
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(async move {
            let last = Last {
                is_sending: activity.may_hear_more(),
                is_half_closed,
                is_in_books: activity.withholds(),
            };
            let end = in_stages(&stream, &open, last, Some(&activity)).await;
            let begin = Instant::now();
            while end != End::Cut && activity.has_open_streams() && begin.elapsed() < STREAMS {
                sleep(FIRST_LOOK).await;
            }
            activity.conclude(end == End::Whole, end == End::Lost);
            // The books first: whoever waits for the last connection looks into them.
            drop(activity);
            drop(open);
        });
    }
}

/// What was last known of the client.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Last {
    /// It may be in the middle of a message: that it has everything is not enough, it is read on until it is silent for
    /// [`SILENCE`].
    pub(super) is_sending: bool,
    /// It had shut down its write side.
    pub(super) is_half_closed: bool,
    /// The last answer counts as in flight.
    pub(super) is_in_books: bool,
}

/// A connection whose client does not have all of an answer that was already counted, in the books for as long as it is held.
pub(super) struct Owed<'a>(&'a RequestCounters);

impl<'a> Owed<'a> {
    /// `owed` as it is from now on.
    pub(super) fn set(owed: &mut Option<Self>, is_owed: bool, request_counters: &'a RequestCounters) {
        if !is_owed {
            *owed = None;
        } else if owed.is_none() {
            request_counters.owe();
            *owed = Some(Self(request_counters));
        }
    }
}

impl Drop for Owed<'_> {
    fn drop(&mut self) {
        self.0.settle();
    }
}

/// Ends the connection, of whose answers `activity` keeps the books.
pub(super) async fn in_stages(
    stream: &TcpStream,
    open: &Open,
    last: Last,
    activity: Option<&ConnectionActivity>,
) -> End {
    let orders = &open.replica().orders;
    let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else { return End::Whole };
    if rustix::net::shutdown(stream, Shutdown::Write).is_err() {
        return End::Whole;
    }
    let begin = Instant::now();
    let (mut heard, mut wait, mut next_look) = (begin, FIRST_LOOK, begin + FIRST_LOOK);
    // Whether something was not acknowledged when last asked.
    let mut is_owed = false;
    let mut owed = None;
    // Whether the kernel's event is waited for: once between two looks, since some sockets are writable for ever.
    let mut awaits_event = !last.is_sending;
    loop {
        let mut changed = pin!(orders.changed());
        changed.as_mut().enable();
        if orders.current() == Order::Cut {
            return End::Cut;
        }
        let looks = tokio::select! {
            () = changed => false,
            ready = stream.readable(), if !last.is_half_closed => {
                match ready.and_then(|()| discard(stream)) {
                    Ok(0) => return End::Whole,
                    Ok(_) => heard = Instant::now(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) if is_owed => return End::Lost,
                    Err(_) => return End::Whole,
                }
                false
            }
            // The kernel tells that the FIN was acknowledged as it tells of any change of state: by an event that finds the
            // socket writable (`tcp_rcv_state_process`, from FIN_WAIT1 to FIN_WAIT2, and `tcp_poll`, both in net/ipv4).
            _ = stream.writable(), if awaits_event => {
                let _ = stream.try_io(Interest::WRITABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
                awaits_event = false;
                true
            }
            () = sleep_until(next_look) => {
                wait = (wait * 2).min(LAST_LOOK);
                next_look = Instant::now() + wait;
                awaits_event = !last.is_sending;
                true
            }
        };
        if looks {
            let is_silent = heard.elapsed() >= SILENCE;
            let rest = unacknowledged(local, peer);
            if let (Ok(Some(0)), Some(activity)) = (&rest, activity) {
                // However long it goes on, its answers are where they should be.
                activity.conclude(true, false);
            }
            match rest {
                // Nothing follows the FIN, which is the last byte of it.
                Ok(Some(0)) if is_silent || !last.is_sending => return End::Whole,
                Ok(Some(rest)) => {
                    is_owed = rest > 0;
                    Owed::set(&mut owed, is_owed && !last.is_in_books, &open.replica().request_counters);
                }
                Ok(None) if last.is_half_closed => return if is_owed { End::Lost } else { End::Whole },
                Err(_) if is_silent => return End::Whole,
                // If it is gone, reading says why.
                Ok(None) | Err(_) => {}
            }
        }
        if begin.elapsed() >= PATIENCE {
            return if is_owed { End::Lost } else { End::Whole };
        }
    }
}

/// Reads once, and forgets it.
fn discard(stream: &TcpStream) -> io::Result<usize> {
    stream.try_read(&mut [0; 16 * 1024])
}
