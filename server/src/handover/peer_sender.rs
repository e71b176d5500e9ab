//! The way of connections to one sibling: several under way at once, each answered.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::error::ChannelError;
use super::protocol::{MAX_UNREAD, Message, Reason};
use super::received::Received;
use super::{Group, Sibling};
use crate::transfer_queue::{PeerQueue, PendingTransfer};

/// Connections under way to one sibling whose answer is still out. The answers to all of them fit into the socket's
/// buffer, so a sibling can always answer at once, as it must.
const WINDOW: usize = 64;

/// How long a sibling may owe an answer. It gives each in a moment of its own, but a machine may be so busy that the moment
/// is late, and whoever waits in vain is served on by somebody who stops.
const ANSWER: Duration = Duration::from_secs(1);

/// Carries connections to one sibling until it takes nothing any more.
pub(crate) struct PeerSender {
    sibling: Sibling,
    group: Group,
    transfers: mpsc::Receiver<PendingTransfer>,
    under_way: VecDeque<PendingTransfer>,
    /// Since when the sibling owes an answer.
    waiting_since: Instant,
}

impl PeerSender {
    pub(crate) fn new(sibling: Sibling, group: Group) -> (Arc<PeerQueue>, Self) {
        let (sender, transfers) = mpsc::channel(WINDOW);
        let under_way = VecDeque::with_capacity(WINDOW);
        (PeerQueue::new(sender), Self { sibling, group, transfers, under_way, waiting_since: Instant::now() })
    }

    pub(crate) async fn run(mut self) {
        let Err(error) = self.carry().await else { return };
        if !matches!(error, ChannelError::Gone) {
            self.group.refuse(&error);
        }
        self.transfers.close();
        // From here on the sibling cannot say that it takes anything, and drops what it has. What it said before is
        // heard, so whatever is unanswered after that was not taken.
        self.sibling.channel.shut_down();
        while let Some(received) = self.sibling.channel.receive_last() {
            // Only words about what is under way count now.
            let _ = self.settle(&received);
        }
        for pending in self.under_way.drain(..) {
            pending.give_back();
        }
        while let Some(pending) = self.transfers.recv().await {
            pending.give_back();
        }
    }

    /// Ends with an error when the sibling takes nothing any more, and without one when nobody gives any more.
    async fn carry(&mut self) -> Result<(), ChannelError> {
        let mut is_open = true;
        while is_open || !self.under_way.is_empty() {
            tokio::select! {
                // If this process was the one that slept, the answers are here.
                biased;
                received = self.sibling.channel.receive() => {
                    self.settle(&received?)?;
                    self.waiting_since = Instant::now();
                }
                () = sleep_until(self.waiting_since + ANSWER), if !self.under_way.is_empty() => {
                    return Err(ChannelError::Silent);
                }
                pending = self.transfers.recv(), if is_open && self.under_way.len() < WINDOW => match pending {
                    Some(pending) => self.send(pending).await?,
                    None => is_open = false,
                },
            }
        }
        Ok(())
    }

    /// Hears one answer. An error means that there will be no other.
    fn settle(&mut self, answer: &Received) -> Result<(), ChannelError> {
        let (id, refusal) = match answer.message()? {
            Message::Taken { id } => (id, None),
            Message::Refused { id, reason } => (id, Some(reason)),
            _ => return Err(ChannelError::OutOfTurn),
        };
        // Answers come in the order of the transfers, but a word that something was taken is believed in any order.
        let at = self.under_way.iter().position(|pending| pending.transfer.id == id);
        let pending = at.and_then(|at| self.under_way.remove(at)).ok_or(ChannelError::OutOfTurn)?;
        let Some(reason) = refusal else {
            self.group.replica.connection_counters.connections_given.add(1);
            pending.finish();
            return Ok(());
        };
        pending.give_back();
        let refused = ChannelError::Refused(reason);
        if reason == Reason::Stopping {
            return Err(refused);
        }
        // It may have room again.
        self.group.refuse(&refused);
        Ok(())
    }

    async fn send(&mut self, pending: PendingTransfer) -> Result<(), ChannelError> {
        if pending.transfer.unread.len() > MAX_UNREAD {
            // No message can hold it, to whomever it goes.
            pending.give_back();
            return Ok(());
        }
        let message = Message::GiveConnection { id: pending.transfer.id, unread: &pending.transfer.unread };
        let sent = self.sibling.channel.send(&message, Some(pending.transfer.descriptor.as_fd()));
        match timeout(ANSWER, sent).await.unwrap_or(Err(ChannelError::Silent)) {
            Ok(()) => {
                if self.under_way.is_empty() {
                    self.waiting_since = Instant::now();
                }
                self.under_way.push_back(pending);
                Ok(())
            }
            Err(error) => {
                pending.give_back();
                match error {
                    error @ ChannelError::Silent => Err(error),
                    error if error.is_of_the_peer() => Err(ChannelError::Gone),
                    // Too many descriptors under way in the whole system (ETOOMANYREFS, unix(7)), or no memory: the next
                    // may go.
                    error => {
                        self.group.refuse(&error);
                        Ok(())
                    }
                }
            }
        }
    }
}
