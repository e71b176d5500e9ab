//! The stopping side: listeners go to siblings, and the ways are opened on which connections follow as they become idle.

use std::os::fd::AsFd;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::channel::Channel;
use super::error::ChannelError;
use super::peer_sender::PeerSender;
use super::protocol::{Message, Reason};
use super::{Group, PATIENCE, Sibling};
use crate::event::Event;
use crate::lifecycle::State;
use crate::listeners::{Listed, Listeners};

/// Siblings that take connections, while this value lives.
#[derive(Debug)]
pub(crate) struct Handover {
    group: Group,
    senders: JoinSet<()>,
}

impl Handover {
    /// Finds siblings and gives them the listeners. `None` if there is none that takes them all; those that were taken
    /// are gone then too, and the rest is tried again later.
    pub(crate) async fn begin(group: &Group, listeners: &Listeners) -> Option<Self> {
        let mut siblings = group.siblings().await;
        siblings.retain(|sibling| sibling.state == State::Ready);
        give_listeners(group, &mut siblings, listeners).await?;
        if !listeners.is_empty() {
            // The rest is being claimed: a moment later it is gone, or to be given after all.
            timeout(2 * PATIENCE, listeners.wait_until_settled()).await.ok()?;
            give_listeners(group, &mut siblings, listeners).await?;
        }
        if siblings.is_empty() || !listeners.is_empty() {
            return None;
        }
        let mut senders = JoinSet::new();
        let ends = siblings.into_iter().map(|sibling| {
            let (queue, sender) = PeerSender::new(sibling, group.clone());
            senders.spawn(sender.run());
            queue
        });
        group.replica.outbox.open(ends.collect());
        Some(Self { group: group.clone(), senders })
    }

    /// Returns when the last sibling is gone or takes nothing any more.
    pub(crate) async fn wait_until_lost(&mut self) {
        while self.senders.join_next().await.is_some() {}
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        self.group.replica.outbox.open(Vec::new());
    }
}

/// Gives every listener that is not just being claimed, each to the next sibling; `None` if one is taken by nobody.
async fn give_listeners(group: &Group, siblings: &mut Vec<Sibling>, listeners: &Listeners) -> Option<()> {
    let mut next = 0;
    for listed in listeners.listed() {
        let to = give_listener(group, siblings, &mut next, &listed).await?;
        listeners.let_go(listed.id).await;
        group.replica.connection_counters.listeners_given.add(1);
        group.replica.observer.emit(Event::ListenerGiven { to: to.to_string() });
    }
    Some(())
}

/// Gives one listener to the next sibling that takes it. Those that take nothing any more are dropped from the list.
async fn give_listener(
    group: &Group,
    siblings: &mut Vec<Sibling>,
    next: &mut usize,
    listed: &Listed,
) -> Option<Arc<str>> {
    for _ in 0..siblings.len() {
        let at = *next % siblings.len();
        let sibling = &siblings[at];
        let given = timeout(PATIENCE, offer_to(group, &sibling.channel, listed)).await;
        match given.unwrap_or(Err(ChannelError::Silent)) {
            Ok(()) => {
                *next = at + 1;
                return Some(Arc::clone(&sibling.name));
            }
            // As many listeners as it may hold; it may have room for connections.
            Err(error @ ChannelError::Refused(Reason::Full)) => {
                group.refuse(&error);
                *next = at + 1;
            }
            // Without an answer the listener may have been taken all the same. That is no harm: two may accept from it.
            Err(error) => {
                group.refuse(&error);
                siblings.remove(at);
                *next = at;
            }
        }
    }
    None
}

async fn offer_to(group: &Group, channel: &Channel, listed: &Listed) -> Result<(), ChannelError> {
    let owner = group.name_of(&listed.owner);
    channel.send(&Message::GiveListener { id: listed.id, owner }, Some(listed.socket.as_fd())).await?;
    match channel.receive().await?.message()? {
        Message::Taken { id } if id == listed.id => Ok(()),
        Message::Refused { id, reason } if id == listed.id => Err(ChannelError::Refused(reason)),
        _ => Err(ChannelError::OutOfTurn),
    }
}
