//! A restart that nobody can see: what a stopping replica holds goes to a sibling.
//!
//! # The cast
//!
//! Replicas of one service serve the same address with `SO_REUSEPORT`, each with a listener of its own, and each takes a
//! place in a group of unix sockets (`SOCK_SEQPACKET`). There is no leader and no memory: a replica finds its siblings by
//! trying all places, and asks them who they are.
//!
//! - **Stopping** (`give`): connect to every ready sibling, give each listener to one of them, give the idle
//!   connections to them in turn, then each busy connection after its response.
//! - **Starting** (`claim`): ask the siblings for a listener that somebody left with them, and bind a new one only if
//!   there is none. So a group never has more listeners than it once had replicas at the same time.
//! - **Running** (`host`): answer both.
//!
//! The messages are in [`protocol`].
//!
//! ```text
//!   A is told to stop           B                            A comes back
//!   hello ───────────────────>
//!         <─────────────────── hello, ready
//!   give listener + fd ──────> accepts from it too
//!         <─────────────────── taken
//!   accepts no more
//!   give connection + fd ────> serves it on
//!         <─────────────────── taken                         (many at once)
//!   ends
//!                              <──────────────────────────── hello, claim
//!                              offer + fd ─────────────────> accepts from it too
//!                              <──────────────────────────── claimed
//!                              accepts no more               ready
//! ```
//!
//! # The one rule about listeners
//!
//! *A process closes its descriptor of a listener only after another process has said that it accepts from it.* Closing
//! the last descriptor resets what waits in the accept queue; closing any other loses nothing. Everything else about
//! listeners is harmless by nature: two processes may accept from one socket, and each connection goes to exactly one.
//! Hence these cases need no more thought:
//!
//! - *A claim in progress*: the holder accepts until the claimer says that it does. In between both do.
//! - *The claimer dies between the offer and its word*: the holder sees the channel end and simply goes on.
//! - *The same listener comes twice, or to two siblings* (the first one's answer was lost): it is known by its cookie,
//!   and held twice it is only held more safely.
//! - *A sibling dies while it holds our listener*: its descriptor closes, and so does the accept queue, if nobody else
//!   has one. Nobody can mend a kill; the restarted replica finds nothing to claim and binds anew.
//! - *A replica never comes back*: its listener stays with the sibling, is given on when that one stops, and goes to
//!   whichever replica starts next, of whatever name. A replica holds at most 64.
//!
//! # The one rule about connections
//!
//! *At any time exactly one process reads from a connection.* The giver stops reading before it sends, and resumes only
//! if the sibling refused, or ended without having said that it took the connection. The sibling begins only after its
//! word is in the giver's socket. There is no timeout between the two: a giver that waited in vain and resumed would
//! read beside a sibling that was only slow. The drain timeout bounds the wait, and it ends the giver.
//!
//! What a client sends in the meantime is either in hyper's buffer, and travels as bytes, or in the socket, and travels
//! with it. Nothing is in a third place, because the stream leaves tokio's reactor (`into_std`) before its descriptor is
//! sent: an `epoll` registration belongs to the open file, not to the descriptor (epoll(7)), so it would survive here
//! and fire for a socket that is read elsewhere; and the receiver registers anew and asks the kernel itself instead of
//! trusting a readiness that was cached before.
//!
//! A connection can move when each request that began has been answered down to the last byte in the kernel (see
//! `connection`), so neither response bytes nor half a request body stay behind. Half a request *head* travels as bytes.
//! HTTP/2 connections do not move, their compression state and windows are hyper's; they get GOAWAY in two steps.
//!
//! # Both told to stop at once
//!
//! A replica that was told to stop takes nothing any more, and says so. The gate is closed under the same lock under
//! which something is taken *and* the answer to the giver is sent, so nothing can be taken by a process that has already
//! counted what it must drain, and nothing is taken that the giver believes to be its own.
//!
//! With nobody to give to, a replica becomes a lame duck: for a while it goes on accepting and answering, with
//! `Connection: close` on each answer, and keeps looking for a sibling, which may be the next generation that just
//! starts; it claims the listener or is given everything. After that time the listener is drained and closed, and each
//! idle connection is closed after a last look into its socket.
//!
//! # Who may join
//!
//! Peers of the same effective user (`SO_PEERCRED`), the condition that the kernel makes for sharing the port. Whoever
//! passes it could as well serve the port itself. What comes is still looked at: one bounded message of a known version,
//! one descriptor where one belongs, and of the right kind (a TCP listener of our address, or a connection of
//! our port). Anything else changes nothing, ends the channel and is logged.

pub(crate) mod channel;
pub(crate) mod claim;
pub(crate) mod family;
pub(crate) mod give;
pub(crate) mod host;
pub mod protocol;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

pub use self::channel::{BadHandoverAddress, HandoverAddress};
use self::channel::{Channel, ChannelError, SLOTS};
use self::protocol::Message;
use crate::event::Event;
use crate::lifecycle::State;
use crate::replica::Replica;

/// How long a sibling may take to say who it is.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a replica knows of its group.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) address: HandoverAddress,
    pub(crate) replica: Arc<Replica>,
    /// Where this replica serves.
    pub(crate) addr: SocketAddr,
}

/// A sibling that said who it is.
#[derive(Debug)]
pub(crate) struct Sibling {
    pub(crate) channel: Channel,
    pub(crate) name: Arc<str>,
    pub(crate) state: State,
}

impl Group {
    /// All siblings that answer.
    async fn siblings(&self, own_slot: Option<usize>) -> Vec<Sibling> {
        let others = (0..SLOTS).filter(|&slot| Some(slot) != own_slot);
        let mut siblings = Vec::new();
        let mut greetings = Vec::new();
        for slot in others {
            match Channel::connect(&self.address, slot) {
                Ok(Some(channel)) => greetings.push(self.greet(channel)),
                Ok(None) => {}
                Err(error) => self.refuse(&error),
            }
        }
        for greeted in join_all(greetings).await {
            match greeted {
                Ok(sibling) => siblings.push(sibling),
                // It ended in the meantime.
                Err(ChannelError::Gone) => {}
                Err(error) => self.refuse(&error),
            }
        }
        siblings
    }

    async fn greet(&self, channel: Channel) -> Result<Sibling, ChannelError> {
        let greeting = async {
            channel.send(&self.hello(), None).await?;
            let parcel = channel.receive().await?;
            match parcel.message()? {
                Message::Hello { name, state, addr } if addr == self.addr => Ok((name.into(), state)),
                _ => Err(ChannelError::OutOfTurn),
            }
        };
        let (name, state) = timeout(PATIENCE, greeting).await.unwrap_or(Err(ChannelError::Silent))?;
        Ok(Sibling { channel, name, state })
    }

    fn hello(&self) -> Message<'_> {
        Message::Hello { name: &self.replica.name, state: self.replica.lifecycle.state(), addr: self.addr }
    }

    fn refuse(&self, error: &ChannelError) {
        self.replica.observer.emit(Event::HandoverRefused { reason: error.to_string() });
    }
}
