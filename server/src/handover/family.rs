//! A replica among its siblings: how it joins them, and how it leaves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::give::Handover;
use super::host::Host;
use super::{Group, HandoverAddress, claim};
use crate::accept::Owner;
use crate::clock::monotonic_ns;
use crate::event::Event;
use crate::listener::Sharing;
use crate::listeners::Listeners;
use crate::replica::{Order, Replica};
use crate::start_error::StartError;

/// How often a lame duck looks around for a sibling.
const LOOK_AROUND: Duration = Duration::from_millis(25);

/// A replica's place among its siblings.
pub(crate) struct Family {
    group: Group,
    host: Host,
}

impl Family {
    /// Claims a listener or binds one, then lets siblings in.
    pub(crate) async fn join(
        addr: SocketAddr,
        address: Option<HandoverAddress>,
        replica: &Arc<Replica>,
        listeners: &Arc<Listeners>,
    ) -> Result<Self, StartError> {
        let cannot_listen = |source| StartError::Listen { addr, source };
        let group_at = |addr| Group {
            address: address.clone().unwrap_or_else(|| HandoverAddress::of_service(addr)),
            replica: Arc::clone(replica),
            addr,
        };
        // Port 0 is everybody's own: there is nothing to claim.
        let claim = if addr.port() == 0 { None } else { claim::claim(&group_at(addr)).await };
        let group = if let Some(claim) = claim {
            let listener = claim.listener.try_clone().map_err(cannot_listen)?;
            listeners.add(listener, Owner::Own).map_err(cannot_listen)?;
            let group = group_at(addr);
            claim.confirm(&group).await;
            group
        } else {
            group_at(listeners.bind(addr, Sharing::ReusePort).map_err(cannot_listen)?)
        };
        replica.observer.emit(Event::Listening { addr: group.addr });
        let host = Host::start(group.clone(), Arc::clone(listeners))
            .map_err(|source| StartError::Handover { group: group.address.clone(), source })?;
        Ok(Self { group, host })
    }

    /// Gives everything to siblings, or, as long as there are none, is a lame duck. Says whether everything was answered
    /// before the deadline.
    pub(crate) async fn leave(&self, listeners: &Listeners, lame_duck: Duration, deadline: Instant) -> bool {
        let replica = &self.group.replica;
        listeners.close_gate();
        let mut lame_until = None;
        loop {
            if let Some(mut handover) = Handover::begin(&self.group, listeners, Some(self.host.slot)).await {
                replica.orders.give(Order::HandOver);
                replica.observer.emit(Event::HandoverBegun);
                tokio::select! {
                    is_drained = replica.wait_until_drained(deadline) => return is_drained,
                    () = handover.wait_until_lost() => {}
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
        listeners.drain_and_close().await;
        let closed_ns = monotonic_ns();
        replica.orders.give(Order::LastLook);
        replica.observer.emit_at(closed_ns, Event::ListenerClosed);
        replica.wait_until_drained(deadline).await
    }
}
