//! The running side: what siblings that stop bring is taken, what siblings that start claim is given back.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::channel::{Channel, ChannelError};
use super::parcel::Parcel;
use super::protocol::{Message, Reason};
use super::slot::Slot;
use super::{Group, PATIENCE};
use crate::accept::Owner;
use crate::event::Event;
use crate::listener;
use crate::listeners::{Closed, Listeners};

/// Channels at once; siblings beyond wait until one ends.
const MAX_CHANNELS: usize = 64;

/// Answers siblings at a place in the group. Both the place and the talk under way are given up with this value.
#[derive(Debug)]
pub(crate) struct Host {
    task: AbortHandle,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Host {
    /// Answers siblings from now on.
    pub(crate) fn start(slot: Slot, group: Group, listeners: Arc<Listeners>) -> Self {
        Self { task: tokio::spawn(welcome(slot, group, listeners)).abort_handle() }
    }
}

async fn welcome(slot: Slot, group: Group, listeners: Arc<Listeners>) {
    let room = Arc::new(Semaphore::new(MAX_CHANNELS));
    let mut sessions = JoinSet::new();
    // The semaphore is never closed.
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        let accepted = slot.accept().await;
        while sessions.try_join_next().is_some() {}
        match accepted {
            Ok(channel) => {
                let session = Session { channel, group: group.clone(), listeners: Arc::clone(&listeners) };
                sessions.spawn(async move {
                    session.run().await;
                    drop(permit);
                });
            }
            Err(error) => {
                group.refuse(&error);
                if matches!(error, ChannelError::Io(_)) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

/// One sibling at the other end.
struct Session {
    channel: Channel,
    group: Group,
    listeners: Arc<Listeners>,
}

impl Session {
    async fn run(self) {
        let mut offered = None;
        let ended = self.converse(&mut offered).await;
        if let Some(id) = offered {
            self.listeners.keep(id);
        }
        match ended {
            // Its business here is over.
            Ok(()) | Err(ChannelError::Gone) => {}
            Err(error) => self.group.refuse(&error),
        }
    }

    async fn converse(&self, offered: &mut Option<u64>) -> Result<(), ChannelError> {
        let first = timeout(PATIENCE, self.channel.receive()).await.unwrap_or(Err(ChannelError::Silent))?;
        // A sibling that speaks none of our versions learns which they are, whatever it said.
        self.channel.send_now(&self.group.hello())?;
        let (name, _) = self.group.recognize(&first.message()?)?;
        loop {
            let mut parcel = self.next(offered.is_some()).await?;
            match parcel.split()? {
                (Message::GiveListener { id, owner }, Some(descriptor)) => {
                    self.take_listener(id, owner, descriptor, &name)?;
                }
                (Message::GiveConnection { id, unread }, Some(descriptor)) => {
                    self.take_connection(id, unread, descriptor)?;
                }
                (Message::GiveListener { id, .. } | Message::GiveConnection { id, .. }, None) => {
                    self.group.refuse(&ChannelError::NoDescriptorLeft);
                    self.answer(id, Err(Closed::Full))?;
                }
                (Message::Claim, None) if offered.is_none() => self.offer(&name, offered).await?,
                (Message::Claimed { id }, None) if *offered == Some(id) => {
                    *offered = None;
                    if self.listeners.let_go(id).await {
                        self.group.replica.traffic.listeners_returned.add(1);
                        self.group.replica.observer.emit(Event::ListenerReturned { to: name.to_string() });
                    }
                }
                _ => return Err(ChannelError::OutOfTurn),
            }
        }
    }

    /// The next message. A giver may take its time; a claimer has nothing to do but to accept from what it was offered, and
    /// as long as it does not say so, the listener can be given to nobody else.
    async fn next(&self, is_claimed: bool) -> Result<Parcel, ChannelError> {
        if is_claimed {
            timeout(PATIENCE, self.channel.receive()).await.unwrap_or(Err(ChannelError::Silent))
        } else {
            self.channel.receive().await
        }
    }

    async fn offer(&self, claimer: &Arc<str>, offered: &mut Option<u64>) -> Result<(), ChannelError> {
        let Some(listed) = self.listeners.offer(claimer) else {
            return self.channel.send_now(&Message::Nothing);
        };
        *offered = Some(listed.id);
        let offer = Message::Offer { id: listed.id, owner: self.group.name_of(&listed.owner) };
        let sent = self.channel.send(&offer, Some(listed.socket.as_fd()));
        timeout(PATIENCE, sent).await.unwrap_or(Err(ChannelError::Silent))
    }

    fn take_listener(
        &self,
        id: u64,
        owner: &str,
        descriptor: OwnedFd,
        from: &Arc<str>,
    ) -> Result<(), ChannelError> {
        let Ok(listener) = listener::adopt_listener(descriptor, self.group.addr) else {
            self.channel.send_now(&Message::Refused { id, reason: Reason::Wrong })?;
            return Err(ChannelError::OutOfTurn);
        };
        let mut is_taken = false;
        let owner = Owner::Sibling(owner.into());
        self.listeners.take(listener, owner, |verdict| {
            is_taken = verdict.is_ok();
            self.answer(id, verdict)
        })?;
        if is_taken {
            self.group.replica.traffic.listeners_taken.add(1);
            self.group.replica.observer.emit(Event::ListenerTaken { from: from.to_string() });
        }
        Ok(())
    }

    fn take_connection(&self, id: u64, unread: &[u8], descriptor: OwnedFd) -> Result<(), ChannelError> {
        let Ok(stream) = listener::adopt_connection(descriptor, self.group.addr) else {
            return self.channel.send_now(&Message::Refused { id, reason: Reason::Wrong });
        };
        let mut is_taken = false;
        self.listeners.admit(stream, Bytes::copy_from_slice(unread), |verdict| {
            is_taken = verdict.is_ok();
            self.answer(id, verdict)
        })?;
        if is_taken {
            self.group.replica.traffic.connections_taken.add(1);
        }
        Ok(())
    }

    fn answer(&self, id: u64, verdict: Result<(), Closed>) -> Result<(), ChannelError> {
        self.channel.send_now(&match verdict {
            Ok(()) => Message::Taken { id },
            Err(Closed::Stopping) => Message::Refused { id, reason: Reason::Stopping },
            Err(Closed::Full) => Message::Refused { id, reason: Reason::Full },
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;

    use super::*;
    use crate::Limits;
    use crate::accept::Entrance;
    use crate::event::Observer;
    use crate::handover::address::HandoverAddress;
    use crate::lifecycle::State;
    use crate::replica::Replica;

    /// A replica that answers siblings, and how it sees its group.
    struct Running {
        group: Group,
        _host: Host,
    }

    async fn start(address: &HandoverAddress, service: Option<&str>) -> Running {
        let observer = Observer::new("test".into(), Arc::new(|_| {}));
        let replica = Arc::new(Replica::new("test".into(), Limits::default(), Vec::new(), observer));
        replica.lifecycle.advance(State::Ready);
        let listeners =
            Arc::new(Listeners::new(Entrance { replica: Arc::clone(&replica), router: Router::new() }));
        let addr = "127.0.0.1:1".parse().unwrap();
        let mut group = Group::new(address.clone(), replica, addr).of_service(service);
        let slot = Slot::take(address).await.unwrap();
        group.slot = Some(slot.number);
        let host = Host::start(slot, group.clone(), listeners);
        Running { group, _host: host }
    }

    #[tokio::test]
    async fn only_replicas_of_the_same_service_are_siblings() {
        let address = crate::handover::channel::tests::group("services");
        let names = [Some("web"), Some("web"), Some("shop"), None, Some("")];
        let mut running = Vec::new();
        for name in names {
            running.push(start(&address, name).await);
        }
        let mut siblings = Vec::new();
        for one in &running {
            siblings.push(one.group.siblings().await.len());
        }
        // An empty name is none.
        assert_eq!(siblings, [1, 1, 0, 1, 1]);
    }
}
