//! A replica among its siblings: how it joins them, and how it leaves.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::give::Handover;
use super::receiver::Receiver;
use super::rendezvous::Rendezvous;
use super::{Group, HandoverAddress, claim};
use crate::accept::Owner;
use crate::clock::monotonic_ns;
use crate::event::Event;
use crate::listener::Sharing;
use crate::listeners::Listeners;
use crate::replica::{Order, Replica};

/// How often a lame duck looks around for a sibling.
const LOOK_AROUND: Duration = Duration::from_millis(25);

/// How soon connections that no sibling took, because all were full, are tried again.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// Why a replica could not join its siblings.
#[derive(Debug)]
pub(crate) enum JoinError {
    /// The address cannot be bound.
    Listen { addr: SocketAddr, source: io::Error },
    /// The group cannot be used.
    Group { group: HandoverAddress, source: io::Error },
}

/// A replica's place among its siblings.
pub(crate) struct Membership {
    group: Group,
    _receiver: Option<Receiver>,
}

impl Membership {
    /// Lets siblings in, then claims a listener from one of them or binds a new one. In this order, since a sibling that
    /// has let go of its listener relies on us: nothing that can fail comes after the claim.
    pub(crate) async fn join(
        addr: SocketAddr,
        address: Option<HandoverAddress>,
        service: Option<&str>,
        replica: &Arc<Replica>,
        listeners: &Arc<Listeners>,
    ) -> Result<Self, JoinError> {
        let cannot_listen = |source| JoinError::Listen { addr, source };
        // Port 0 is everybody's own: there is nothing to claim, and the place depends on the port.
        let is_own = addr.port() == 0;
        let addr =
            if is_own { listeners.bind(addr, Sharing::ReusePort).map_err(cannot_listen)? } else { addr };
        let address = address.unwrap_or_else(|| HandoverAddress::of_service(addr));
        let mut group = Group::new(address, Arc::clone(replica), addr).of_service(service);
        let receiver = let_siblings_in(&mut group, listeners).await?;
        if !is_own {
            if let Some(claim) = claim::claim(&group).await {
                let listener = claim.listener.try_clone().map_err(cannot_listen)?;
                listeners.add(listener, Owner::Own).map_err(cannot_listen)?;
                claim.confirm(&group).await;
            } else {
                listeners.bind(addr, Sharing::ReusePort).map_err(cannot_listen)?;
            }
        }
        replica.observer.emit(Event::Listening { addr });
        Ok(Self { group, _receiver: receiver })
    }

    /// Gives everything to siblings, or, as long as there are none, is a lame duck. Says whether everything was answered
    /// before the deadline.
    pub(crate) async fn leave(&self, listeners: &Listeners, lame_duck: Duration, deadline: Instant) -> bool {
        let replica = &self.group.replica;
        listeners.close_gate();
        replica.outbox.be_patient(lame_duck);
        let mut lame_until = None;
        let mut may_begin_again = true;
        loop {
            let begun = timeout_at(deadline, Handover::begin(&self.group, listeners)).await;
            if let Ok(Some(mut handover)) = begun {
                if replica.orders.current() == Order::HandOver {
                    replica.orders.repeat();
                } else {
                    replica.orders.give(Order::HandOver);
                }
                replica.observer.emit(Event::HandoverBegun);
                tokio::select! {
                    is_drained = replica.wait_until_drained(deadline) => return is_drained,
                    () = handover.wait_until_lost() => {}
                    () = try_the_refused_again(replica) => {}
                }
                // On a busy machine a sibling may have been late and no more; nobody needs to be sent away for that.
                if std::mem::take(&mut may_begin_again) {
                    continue;
                }
            }
            replica.orders.give(Order::LameDuck);
            let until = *lame_until.get_or_insert_with(|| {
                let for_ms = u64::try_from(lame_duck.as_millis()).unwrap_or(u64::MAX);
                replica.observer.emit(Event::LameDuck { for_ms });
                (Instant::now() + lame_duck).min(deadline)
            });
            if listeners.is_empty() && replica.wait_until_drained(Instant::now()).await {
                return true;
            }
            if Instant::now() >= until {
                break;
            }
            tokio::time::sleep(LOOK_AROUND.min(until - Instant::now())).await;
        }
        // Idle connections make room for those that wait in the accept queue.
        replica.orders.give(Order::LastLook);
        if listeners.drain_and_close(deadline).await {
            replica.observer.emit_at(monotonic_ns(), Event::ListenerClosed);
        }
        replica.wait_until_drained(deadline).await
    }
}

/// Has connections that no sibling took try again, until somebody else ends it.
async fn try_the_refused_again(replica: &Replica) {
    loop {
        replica.outbox.wait_until_refused().await;
        tokio::time::sleep(TRY_AGAIN).await;
        replica.orders.repeat();
    }
}

/// Takes a place in the group and answers siblings there. If others hold all places, or the lock, whoever they are, the
/// replica serves without one: siblings do not find it, but it finds them.
async fn let_siblings_in(
    group: &mut Group,
    listeners: &Arc<Listeners>,
) -> Result<Option<Receiver>, JoinError> {
    match Rendezvous::take(&group.address).await {
        Ok(slot) => {
            group.slot = Some(slot.number);
            Ok(Some(Receiver::start(slot, group.clone(), Arc::clone(listeners))))
        }
        Err(source) if matches!(source.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::WouldBlock) => {
            group.refuse(&source.into());
            Ok(None)
        }
        Err(source) => Err(JoinError::Group { group: group.address.clone(), source }),
    }
}
