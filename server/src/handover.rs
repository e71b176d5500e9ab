//! A restart that nobody can see: what a stopping replica holds goes to a sibling.
//!
//! # The cast
//!
//! Replicas of one service serve the same address with `SO_REUSEPORT`, each with a listener of its own, and each takes a
//! place in a group of unix sockets (`SOCK_SEQPACKET`). There is no leader and no memory: a replica finds its siblings by
//! trying all places, and asks them who they are.
//!
//! - **Stopping** (`give`): connect to every ready sibling, give the listeners to them in turn, give each idle connection
//!   to the one with the least under way (`transfer_queue`, `peer_sender`), then each busy connection after its response.
//! - **Starting** (`claim`): ask the siblings for a listener that somebody left with them, and bind a new one only if
//!   there is none. So a group never has more listeners than it once had replicas at the same time.
//! - **Running** (`receiver`): answer both.
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
//! - *The claimer dies or hangs between the offer and its word*: the holder sees the channel end, or waits half a second,
//!   and simply goes on.
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
//! word is in the giver's socket.
//!
//! A sibling may hang. A timeout alone would not do: a giver that waited in vain and resumed would read beside a sibling
//! that was only slow. So a giver that has waited long enough first makes sure that the sibling *cannot* say that it takes
//! anything any more: it shuts the channel down, and then hears what was said before (`Channel::shut_down` names the lock
//! of the kernel that puts the two in order). What is unanswered then was not taken: a sibling that wakes up later finds
//! the transfer, fails to say that it took it, and drops its copy. The giver does the same after an answer that it does not
//! understand. What comes back goes to the next sibling. Each sibling gets the connections of its own turns only, so one
//! that hangs delays a few connections once and the others not at all. (As long as it hangs, its unread copies keep those
//! sockets open: whoever closes one without a last answer closes it for itself, and the client hears of it when the sibling
//! wakes up or ends.)
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
//! # Versions
//!
//! Old and new replicas meet in every upgrade. Each says which versions of the protocol it speaks, see [`protocol`]; two
//! that have none in common are no siblings, and a stopping one of them is a lame duck.
//!
//! # Who may join
//!
//! Replicas of one service. Two programs of one user on one port look like siblings unless they name their services
//! ([`Server::service`](crate::Server::service)). Only equal names are siblings; replicas that name none are siblings
//! of each other. So a service that gets a name is another one to its replicas that have none yet, and the first restart
//! with the name is one without a sibling.
//!
//! Peers of the same effective user (`SO_PEERCRED`), the condition that the kernel makes for sharing the port. Whoever
//! passes it could as well serve the port itself. What comes is still looked at: one bounded message of a known version,
//! one descriptor where one belongs, and of the right kind (a TCP listener of our address, or a connection of
//! our port). Anything else changes nothing, ends the channel and is logged (a few times a second, the rest as a number).
//!
//! An abstract name has no permissions: whoever shares the network namespace can take the names of the group before the
//! replicas do, or connect again and again. They get nothing, but they can keep siblings from finding each other: a replica
//! without a place serves all the same, and stops as a lame duck if its siblings cannot be reached. Where such users are
//! not trusted, use a directory that only the service's user can enter (`unix:/DIRECTORY`, mode 0700). A directory that
//! other users can write to, or that belongs to another user than root or the replica's own, is refused at start.
//!
//! User 65534 is what the kernel calls any user that has no number in the own user namespace (`user_namespaces(7)`). A replica
//! that runs as 65534 cannot tell them from its own; run it as another user, as the image does (65532).

pub(crate) mod address;
pub(crate) mod channel;
pub(crate) mod claim;
mod directory;
mod error;
pub(crate) mod give;
pub(crate) mod membership;
pub(crate) mod peer_sender;
pub mod protocol;
mod received;
pub(crate) mod receiver;
mod refusals;
pub(crate) mod rendezvous;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

pub use self::address::{BadHandoverAddress, HandoverAddress};
use self::channel::Channel;
use self::error::ChannelError;
use self::protocol::{Message, ProtocolError, Versions};
use self::refusals::Refusals;
use self::rendezvous::SLOTS;
use crate::accept::Owner;
use crate::event::Event;
use crate::lifecycle::State;
use crate::replica::Replica;

/// How long a sibling may take for any answer. None of them needs more than a moment of its own.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a replica knows of its group.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) address: HandoverAddress,
    pub(crate) replica: Arc<Replica>,
    /// Where this replica serves.
    pub(crate) addr: SocketAddr,
    /// The name of the service, if it has one.
    service: Option<Arc<str>>,
    /// This replica's own place, if it has one.
    pub(crate) slot: Option<usize>,
    refusals: Arc<Refusals>,
}

/// A sibling that said who it is.
#[derive(Debug)]
pub(crate) struct Sibling {
    pub(crate) channel: Channel,
    pub(crate) name: Arc<str>,
    pub(crate) state: State,
}

impl Group {
    pub(crate) fn new(address: HandoverAddress, replica: Arc<Replica>, addr: SocketAddr) -> Self {
        Self { address, replica, addr, service: None, slot: None, refusals: Arc::default() }
    }

    /// The group's replicas of the service of that name only; without one, those that name no service either.
    pub(crate) fn of_service(mut self, name: Option<&str>) -> Self {
        self.service = name.and_then(protocol::service_name).map(Arc::from);
        self
    }

    /// All siblings that answer, beginning with the next place after our own, so that not everybody turns to the same.
    async fn siblings(&self) -> Vec<Sibling> {
        let first = self.slot.map_or(0, |slot| slot + 1);
        let places = (first..first + SLOTS).map(|place| place % SLOTS);
        let others = places.filter(|&place| Some(place) != self.slot);
        let mut siblings = Vec::new();
        for greeted in join_all(others.map(|place| self.greet(place))).await {
            match greeted {
                Ok(sibling) => siblings.extend(sibling),
                // It ended in the meantime.
                Err(ChannelError::Gone) => {}
                Err(error) => self.refuse(&error),
            }
        }
        siblings
    }

    /// The sibling at that place, if there is one.
    async fn greet(&self, place: usize) -> Result<Option<Sibling>, ChannelError> {
        let greeting = async {
            let Some(channel) = Channel::connect(&self.address, place).await? else { return Ok(None) };
            channel.send(&self.hello(), None).await?;
            let received = channel.receive().await?;
            let (name, state) = self.identify(&received.message()?)?;
            Ok(Some(Sibling { channel, name, state }))
        };
        timeout(PATIENCE, greeting).await.unwrap_or(Err(ChannelError::Silent))
    }

    fn hello(&self) -> Message<'_> {
        let (name, state) = (&self.replica.name, self.replica.lifecycle.state());
        Message::Hello {
            versions: Versions::OURS,
            name,
            state,
            addr: self.addr,
            service: self.service.as_deref(),
        }
    }

    /// Who says hello, if it is one of us.
    fn identify(&self, hello: &Message<'_>) -> Result<(Arc<str>, State), ChannelError> {
        match *hello {
            Message::Hello { versions, .. } if versions.common(Versions::OURS).is_none() => {
                Err(ProtocolError::NoCommonVersion(versions).into())
            }
            Message::Hello { addr, .. } if addr != self.addr => Err(ChannelError::OtherAddress(addr)),
            Message::Hello { service, .. } if service != self.service.as_deref() => {
                Err(ChannelError::OtherService(service.map(str::to_owned)))
            }
            Message::Hello { name, state, .. } => Ok((name.into(), state)),
            _ => Err(ChannelError::OutOfTurn),
        }
    }

    /// The name of a listener's owner.
    fn name_of<'a>(&'a self, owner: &'a Owner) -> &'a str {
        match owner {
            Owner::Own => &self.replica.name,
            Owner::Sibling(name) => name,
        }
    }

    fn refuse(&self, error: &ChannelError) {
        self.replica.connection_counters.handover_refused.add(1);
        if let Some(untold) = self.refusals.due(Instant::now()) {
            self.replica.observer.emit(Event::HandoverRefused { reason: error.to_string(), untold });
        }
    }
}
