//! The running side: what siblings that stop bring is taken, what siblings that start claim is given back.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::channel::{Channel, ChannelError, Slot};
use super::protocol::{Message, Reason};
use super::{Group, PATIENCE};
use crate::accept::Owner;
use crate::event::Event;
use crate::listener;
use crate::listeners::{Closed, Listeners};

/// Channels at once; siblings beyond wait until one ends.
const MAX_CHANNELS: usize = 64;

/// A taken place in the group; given up with this value.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) slot: usize,
    task: AbortHandle,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Host {
    /// Takes a place in the group and answers siblings from now on.
    pub(crate) fn start(group: Group, listeners: Arc<Listeners>) -> io::Result<Self> {
        let slot = Slot::take(&group.address)?;
        let number = slot.number;
        let task = tokio::spawn(welcome(slot, group, listeners)).abort_handle();
        Ok(Self { slot: number, task })
    }
}

async fn welcome(slot: Slot, group: Group, listeners: Arc<Listeners>) {
    let room = Arc::new(Semaphore::new(MAX_CHANNELS));
    // The semaphore is never closed.
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        match slot.accept().await {
            Ok(channel) => {
                let session = Session { channel, group: group.clone(), listeners: Arc::clone(&listeners) };
                tokio::spawn(async move {
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
        // A sibling of another version learns ours, whatever it said.
        self.channel.send_now(&self.group.hello())?;
        let name: Arc<str> = match first.message()? {
            Message::Hello { name, addr, .. } if addr == self.group.addr => name.into(),
            _ => return Err(ChannelError::OutOfTurn),
        };
        loop {
            let mut parcel = self.channel.receive().await?;
            match parcel.split()? {
                (Message::GiveListener { id, owner }, Some(descriptor)) => {
                    self.take_listener(id, owner, descriptor, &name)?;
                }
                (Message::GiveConnection { id, unread }, Some(descriptor)) => {
                    self.take_connection(id, unread, descriptor)?;
                }
                (Message::Claim, None) if offered.is_none() => match self.listeners.offer(&name) {
                    Some(listed) => {
                        *offered = Some(listed.id);
                        let owner = match &listed.owner {
                            Owner::Own => &self.group.replica.name,
                            Owner::Sibling(name) => name,
                        };
                        let offer = Message::Offer { id: listed.id, owner };
                        self.channel.send(&offer, Some(std::os::fd::AsFd::as_fd(&listed.descriptor))).await?;
                    }
                    None => self.channel.send_now(&Message::Nothing)?,
                },
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
