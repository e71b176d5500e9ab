//! The way of connections to one sibling: several under way at once, each answered.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::error::ChannelError;
use super::parcel::Parcel;
use super::protocol::{MAX_UNREAD, Message, Reason};
use super::{Group, Sibling};
use crate::transfer_queue::{Errand, Lane};

/// Connections under way to one sibling whose answer is still out. The answers to all of them fit into the socket's
/// buffer, so a sibling can always answer at once, as it must.
const WINDOW: usize = 64;

/// How long a sibling may owe an answer. It gives each in a moment of its own, but a machine may be so busy that the moment
/// is late, and whoever waits in vain is served on by somebody who stops.
const ANSWER: Duration = Duration::from_secs(1);

/// Carries connections to one sibling until it takes nothing any more.
pub(crate) struct Carrier {
    sibling: Sibling,
    group: Group,
    errands: mpsc::Receiver<Errand>,
    under_way: VecDeque<Errand>,
    /// Since when the sibling owes an answer.
    waiting_since: Instant,
}

impl Carrier {
    pub(crate) fn new(sibling: Sibling, group: Group) -> (Arc<Lane>, Self) {
        let (sender, errands) = mpsc::channel(WINDOW);
        let under_way = VecDeque::with_capacity(WINDOW);
        (Lane::new(sender), Self { sibling, group, errands, under_way, waiting_since: Instant::now() })
    }

    pub(crate) async fn run(mut self) {
        let Err(error) = self.carry().await else { return };
        if !matches!(error, ChannelError::Gone) {
            self.group.refuse(&error);
        }
        self.errands.close();
        // From here on the sibling cannot say that it takes anything, and drops what it has. What it said before is
        // heard, so whatever is unanswered after that was not taken.
        self.sibling.channel.shut_down();
        while let Some(parcel) = self.sibling.channel.receive_last() {
            // Only words about what is under way count now.
            let _ = self.settle(&parcel);
        }
        for errand in self.under_way.drain(..) {
            errand.give_back();
        }
        while let Some(errand) = self.errands.recv().await {
            errand.give_back();
        }
    }

    /// Ends with an error when the sibling takes nothing any more, and without one when nobody gives any more.
    async fn carry(&mut self) -> Result<(), ChannelError> {
        let mut is_open = true;
        while is_open || !self.under_way.is_empty() {
            tokio::select! {
                // If this process was the one that slept, the answers are here.
                biased;
                parcel = self.sibling.channel.receive() => {
                    self.settle(&parcel?)?;
                    self.waiting_since = Instant::now();
                }
                () = sleep_until(self.waiting_since + ANSWER), if !self.under_way.is_empty() => {
                    return Err(ChannelError::Silent);
                }
                errand = self.errands.recv(), if is_open && self.under_way.len() < WINDOW => match errand {
                    Some(errand) => self.send(errand).await?,
                    None => is_open = false,
                },
            }
        }
        Ok(())
    }

    /// Hears one answer. An error means that there will be no other.
    fn settle(&mut self, answer: &Parcel) -> Result<(), ChannelError> {
        let (id, refusal) = match answer.message()? {
            Message::Taken { id } => (id, None),
            Message::Refused { id, reason } => (id, Some(reason)),
            _ => return Err(ChannelError::OutOfTurn),
        };
        // Answers come in the order of the gifts, but a word that something was taken is believed in any order.
        let at = self.under_way.iter().position(|errand| errand.gift.id == id);
        let errand = at.and_then(|at| self.under_way.remove(at)).ok_or(ChannelError::OutOfTurn)?;
        let Some(reason) = refusal else {
            self.group.replica.traffic.connections_given.add(1);
            errand.finish();
            return Ok(());
        };
        errand.give_back();
        let refused = ChannelError::Refused(reason);
        if reason == Reason::Stopping {
            return Err(refused);
        }
        // It may have room again.
        self.group.refuse(&refused);
        Ok(())
    }

    async fn send(&mut self, errand: Errand) -> Result<(), ChannelError> {
        if errand.gift.unread.len() > MAX_UNREAD {
            // No message can hold it, to whomever it goes.
            errand.give_back();
            return Ok(());
        }
        let message = Message::GiveConnection { id: errand.gift.id, unread: &errand.gift.unread };
        let sent = self.sibling.channel.send(&message, Some(errand.gift.descriptor.as_fd()));
        match timeout(ANSWER, sent).await.unwrap_or(Err(ChannelError::Silent)) {
            Ok(()) => {
                if self.under_way.is_empty() {
                    self.waiting_since = Instant::now();
                }
                self.under_way.push_back(errand);
                Ok(())
            }
            Err(error) => {
                errand.give_back();
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
