//! The starting side: a listener that somebody left with a sibling is claimed back.

use std::net::TcpListener;

use tokio::time::timeout;

use super::error::ChannelError;
use super::protocol::Message;
use super::{Group, PATIENCE, Sibling};
use crate::event::Event;
use crate::listener;

/// A listener that a sibling offers. The sibling goes on accepting from it until [`Claim::confirm`].
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) listener: TcpListener,
    id: u64,
    from: Sibling,
}

/// Asks the siblings, one after the other, for a listener.
pub(crate) async fn claim(group: &Group) -> Option<Claim> {
    for sibling in group.siblings().await {
        match timeout(PATIENCE, ask(group, &sibling)).await.unwrap_or(Err(ChannelError::Silent)) {
            Ok(Some((id, listener))) => return Some(Claim { listener, id, from: sibling }),
            Ok(None) | Err(ChannelError::Gone) => {}
            Err(error) => group.refuse(&error),
        }
    }
    None
}

async fn ask(group: &Group, sibling: &Sibling) -> Result<Option<(u64, TcpListener)>, ChannelError> {
    sibling.channel.send(&Message::Claim, None).await?;
    let mut received = sibling.channel.receive().await?;
    match received.split()? {
        (Message::Offer { id, .. }, Some(descriptor)) => {
            let listener = listener::adopt_listener(descriptor, group.addr)?;
            if listener::cookie(&listener)? == id {
                Ok(Some((id, listener)))
            } else {
                Err(ChannelError::OutOfTurn)
            }
        }
        (Message::Offer { .. }, None) => Err(ChannelError::NoDescriptorLeft),
        (Message::Nothing, None) => Ok(None),
        _ => Err(ChannelError::OutOfTurn),
    }
}

impl Claim {
    /// Tells the sibling that this process accepts from the listener now.
    pub(crate) async fn confirm(self, group: &Group) {
        let said = timeout(PATIENCE, self.from.channel.send(&Message::Claimed { id: self.id }, None)).await;
        group.replica.connection_counters.listeners_claimed.add(1);
        group.replica.observer.emit(Event::ListenerClaimed { from: self.from.name.to_string() });
        if let Ok(Err(error)) = said {
            // The sibling is gone or goes on accepting beside us; either is fine.
            group.refuse(&error);
        }
    }
}
