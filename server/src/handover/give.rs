//! The stopping side: listeners go to a sibling, and connections as they become idle.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::channel::{Channel, ChannelError};
use super::protocol::{MAX_UNREAD, Message, Reason};
use super::{Group, PATIENCE, Sibling};
use crate::accept::Owner;
use crate::event::Event;
use crate::lifecycle::State;
use crate::listener;
use crate::listeners::{Listed, Listeners};

/// Connections under way to one sibling whose answer is still out. The answers to all of them fit into the socket's
/// buffer, so a sibling can always answer at once, as it must.
const WINDOW: usize = 64;

/// Connections that leave their place at the same time. The others are served on while they wait for their turn: what a
/// client notices of the move is the way of one connection and not the queue of all.
const TURNS: usize = 16;

/// A connection under way.
#[derive(Debug)]
pub(crate) struct Gift {
    id: u64,
    pub(crate) descriptor: OwnedFd,
    pub(crate) unread: Bytes,
}

#[derive(Debug)]
struct Errand {
    gift: Gift,
    /// Told `None` when the gift was taken, or else given it back.
    done: oneshot::Sender<Option<Gift>>,
}

/// Where connections are handed in to be given to siblings; shut as long as there is no sibling.
#[derive(Debug)]
pub(crate) struct Outbox {
    lanes: Mutex<Vec<mpsc::Sender<Errand>>>,
    next: AtomicUsize,
    turns: Arc<Semaphore>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self { lanes: Mutex::default(), next: AtomicUsize::new(0), turns: Arc::new(Semaphore::new(TURNS)) }
    }
}

impl Outbox {
    /// The turn of an idle connection to leave its place; it lasts as long as the permit. Whoever becomes busy while it
    /// waits must drop the future, or it would keep others from theirs.
    pub(crate) fn turn(&self) -> impl Future<Output = Option<OwnedSemaphorePermit>> + Send + use<> {
        let turns = Arc::clone(&self.turns);
        // The semaphore is never closed.
        async move { turns.acquire_owned().await.ok() }
    }

    /// Gives a connection to some sibling. Back it comes if none takes it.
    pub(crate) async fn give(&self, descriptor: OwnedFd, unread: Bytes) -> Result<(), (OwnedFd, Bytes)> {
        let Ok(id) = listener::cookie(&descriptor) else { return Err((descriptor, unread)) };
        let mut gift = Gift { id, descriptor, unread };
        if gift.unread.len() > MAX_UNREAD {
            return Err((gift.descriptor, gift.unread));
        }
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        for turn in 0..lanes.len() {
            let (done, is_done) = oneshot::channel();
            let errand = Errand { gift, done };
            match lanes[(first + turn) % lanes.len()].send(errand).await {
                Ok(()) => match is_done.await {
                    Ok(Some(back)) => gift = back,
                    // Taken; or the lane was dropped with the gift, and the replica's time is over.
                    Ok(None) | Err(_) => return Ok(()),
                },
                Err(mpsc::error::SendError(errand)) => gift = errand.gift,
            }
        }
        Err((gift.descriptor, gift.unread))
    }

    fn open(&self, lanes: Vec<mpsc::Sender<Errand>>) {
        *self.lanes.lock().unwrap_or_else(PoisonError::into_inner) = lanes;
    }
}

/// Siblings that take connections, while this value lives.
#[derive(Debug)]
pub(crate) struct Handover {
    group: Group,
    lanes: JoinSet<()>,
}

impl Handover {
    /// Finds siblings and gives them the listeners. `None` if there is none that takes them all; those that were taken
    /// are gone then too, and the rest is tried again later.
    pub(crate) async fn begin(group: &Group, listeners: &Listeners, own_slot: Option<usize>) -> Option<Self> {
        let mut siblings = group.siblings(own_slot).await;
        siblings.retain(|sibling| sibling.state == State::Ready);
        for listed in listeners.listed() {
            let to = give_listener(group, &mut siblings, &listed).await?;
            listeners.let_go(listed.id).await;
            group.replica.traffic.listeners_given.add(1);
            group.replica.observer.emit(Event::ListenerGiven { to: to.to_string() });
        }
        if siblings.is_empty() || !listeners.is_empty() {
            return None;
        }
        let mut lanes = JoinSet::new();
        let senders = siblings.into_iter().map(|sibling| {
            let (sender, errands) = mpsc::channel(WINDOW);
            lanes.spawn(Lane::new(sibling, group.clone(), errands).run());
            sender
        });
        group.replica.outbox.open(senders.collect());
        Some(Self { group: group.clone(), lanes })
    }

    /// Returns when the last sibling is gone or takes nothing any more.
    pub(crate) async fn wait_until_lost(&mut self) {
        while self.lanes.join_next().await.is_some() {}
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        self.group.replica.outbox.open(Vec::new());
    }
}

/// Gives one listener to the first sibling that takes it; those that do not are dropped from the list.
async fn give_listener(group: &Group, siblings: &mut Vec<Sibling>, listed: &Listed) -> Option<Arc<str>> {
    while let Some(sibling) = siblings.first() {
        let given = timeout(PATIENCE, offer_to(group, &sibling.channel, listed)).await;
        match given.unwrap_or(Err(ChannelError::Silent)) {
            Ok(Ok(())) => return Some(Arc::clone(&sibling.name)),
            Ok(Err(reason)) => refused(group, reason),
            Err(error) => group.refuse(&error),
        }
        // Without an answer the listener may have been taken all the same. That is no harm: two may accept from it.
        siblings.remove(0);
    }
    None
}

fn refused(group: &Group, reason: Reason) {
    group.replica.observer.emit(Event::HandoverRefused { reason: reason.name().to_owned() });
}

async fn offer_to(
    group: &Group,
    channel: &Channel,
    listed: &Listed,
) -> Result<Result<(), Reason>, ChannelError> {
    let owner = match &listed.owner {
        Owner::Own => &group.replica.name,
        Owner::Sibling(name) => name,
    };
    let message = Message::GiveListener { id: listed.id, owner };
    channel.send(&message, Some(listed.descriptor.as_fd())).await?;
    match channel.receive().await?.message()? {
        Message::Taken { id } if id == listed.id => Ok(Ok(())),
        Message::Refused { id, reason } if id == listed.id => Ok(Err(reason)),
        _ => Err(ChannelError::OutOfTurn),
    }
}

/// The way of connections to one sibling: several under way at once, answered in their order.
struct Lane {
    sibling: Sibling,
    group: Group,
    errands: mpsc::Receiver<Errand>,
    under_way: VecDeque<Errand>,
}

impl Lane {
    fn new(sibling: Sibling, group: Group, errands: mpsc::Receiver<Errand>) -> Self {
        Self { sibling, group, errands, under_way: VecDeque::with_capacity(WINDOW) }
    }

    async fn run(mut self) {
        let Err(error) = self.carry().await else { return };
        if !matches!(error, ChannelError::Gone) {
            self.group.refuse(&error);
        }
        // Whatever the sibling said before it ended has been heard, so what is unanswered was not taken.
        self.errands.close();
        for errand in self.under_way.drain(..) {
            give_back(errand);
        }
        while let Some(errand) = self.errands.recv().await {
            give_back(errand);
        }
    }

    /// Ends with an error when the sibling takes nothing any more, and without one when nobody gives any more.
    async fn carry(&mut self) -> Result<(), ChannelError> {
        let mut is_open = true;
        while is_open || !self.under_way.is_empty() {
            tokio::select! {
                errand = self.errands.recv(), if is_open && self.under_way.len() < WINDOW => match errand {
                    Some(errand) => self.send(errand).await?,
                    None => is_open = false,
                },
                parcel = self.sibling.channel.receive() => {
                    let answer = parcel?;
                    let Some(errand) = self.under_way.pop_front() else { return Err(ChannelError::OutOfTurn) };
                    match answer.message() {
                        Ok(Message::Taken { id }) if id == errand.gift.id => {
                            self.group.replica.traffic.connections_given.add(1);
                            // Whoever waits is gone only if the replica's time is over.
                            let _ = errand.done.send(None);
                        }
                        Ok(Message::Refused { id, reason }) if id == errand.gift.id => {
                            give_back(errand);
                            if reason == Reason::Stopping {
                                refused(&self.group, reason);
                                return self.wait_for_the_rest().await;
                            }
                        }
                        other => {
                            self.under_way.push_front(errand);
                            return Err(other.err().unwrap_or(ChannelError::OutOfTurn));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    async fn send(&mut self, errand: Errand) -> Result<(), ChannelError> {
        let message = Message::GiveConnection { id: errand.gift.id, unread: &errand.gift.unread };
        match self.sibling.channel.send(&message, Some(errand.gift.descriptor.as_fd())).await {
            Ok(()) => self.under_way.push_back(errand),
            Err(error) if error.is_of_the_peer() => {
                give_back(errand);
                return self.wait_for_the_rest().await;
            }
            // Too many descriptors under way in the whole system (ETOOMANYREFS, unix(7)), or no memory: the next may go.
            Err(error) => {
                self.group.refuse(&error);
                give_back(errand);
            }
        }
        Ok(())
    }

    /// The sibling stops or is gone: hear what it still has to say about what is under way to it, and then end.
    async fn wait_for_the_rest(&mut self) -> Result<(), ChannelError> {
        while let Some(errand) = self.under_way.front() {
            let answer = self.sibling.channel.receive().await?;
            let is_taken = matches!(answer.message()?, Message::Taken { id } if id == errand.gift.id);
            let Some(errand) = self.under_way.pop_front() else { break };
            if is_taken {
                self.group.replica.traffic.connections_given.add(1);
                let _ = errand.done.send(None);
            } else {
                give_back(errand);
            }
        }
        Err(ChannelError::Gone)
    }
}

fn give_back(errand: Errand) {
    let Errand { gift, done } = errand;
    // Whoever waits is gone only if the replica's time is over.
    let _ = done.send(Some(gift));
}
