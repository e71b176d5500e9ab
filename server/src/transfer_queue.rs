//! Where connections are handed in that go to siblings: which of them may leave its place now, and to whom.

use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use crate::listener;

/// Connections that leave their place for one sibling at the same time. The others are served on while they wait for
/// their turn: what a client notices of the move is the way of one connection and not the queue of all. A sibling that
/// hangs holds up so many, and for no longer than it is waited for.
const TURNS: usize = 16;

/// A connection under way.
#[derive(Debug)]
pub(crate) struct Gift {
    pub(crate) id: u64,
    pub(crate) descriptor: OwnedFd,
    pub(crate) unread: Bytes,
}

/// A gift and whoever waits for what becomes of it.
#[derive(Debug)]
pub(crate) struct Errand {
    pub(crate) gift: Gift,
    /// Told `None` when the gift was taken, or else given it back.
    done: oneshot::Sender<Option<Gift>>,
}

impl Errand {
    /// The sibling has it now. Whoever waits is gone only if the replica's time is over.
    pub(crate) fn finish(self) {
        let _ = self.done.send(None);
    }

    /// It stays here.
    pub(crate) fn give_back(self) {
        let _ = self.done.send(Some(self.gift));
    }
}

/// The near end of the way to one sibling. Closed when the sibling takes nothing any more.
#[derive(Debug)]
pub(crate) struct Lane {
    errands: mpsc::Sender<Errand>,
    /// Tickets for it.
    load: AtomicUsize,
}

impl Lane {
    pub(crate) fn new(errands: mpsc::Sender<Errand>) -> Arc<Self> {
        Arc::new(Self { errands, load: AtomicUsize::new(0) })
    }
}

#[derive(Debug, Default)]
struct Lanes {
    all: Vec<Arc<Lane>>,
    /// Which of those with the same load is next.
    next: usize,
}

#[derive(Debug, Default)]
struct Desk {
    lanes: Mutex<Lanes>,
    /// Told when there may be a turn.
    freed: Notify,
    /// Told when a connection was taken by nobody.
    refused: Notify,
    /// How long a connection that nobody takes is kept and tried again.
    patience: OnceLock<Duration>,
}

impl Desk {
    /// Nothing here panics while the lock is held.
    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A ticket for the lane that has the least to carry, if that is less than `below`, of those that are open and not
    /// in `tried`.
    fn ticket(self: &Arc<Self>, below: usize, tried: &[Arc<Lane>]) -> Option<Ticket> {
        let mut lanes = self.lanes();
        let (count, next) = (lanes.all.len(), lanes.next);
        let in_turn = (0..count).map(|step| (next + step) % count);
        let is_open = |lane: &Arc<Lane>| {
            !lane.errands.is_closed() && !tried.iter().any(|tried| Arc::ptr_eq(tried, lane))
        };
        let at = in_turn
            .filter(|&at| is_open(&lanes.all[at]))
            .min_by_key(|&at| lanes.all[at].load.load(Ordering::Relaxed))?;
        let lane = Arc::clone(&lanes.all[at]);
        // Grows under the lock only.
        if lane.load.load(Ordering::Relaxed) >= below {
            return None;
        }
        lane.load.fetch_add(1, Ordering::Relaxed);
        lanes.next = at + 1;
        Some(Ticket { desk: Arc::clone(self), lane })
    }
}

/// The right of one connection to leave its place now, for a certain sibling.
#[derive(Debug)]
pub(crate) struct Ticket {
    desk: Arc<Desk>,
    lane: Arc<Lane>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.lane.load.fetch_sub(1, Ordering::Relaxed);
        self.desk.freed.notify_one();
    }
}

/// See the [module](self). Shut as long as there is no sibling.
#[derive(Debug, Default)]
pub(crate) struct Outbox(Arc<Desk>);

impl Outbox {
    /// The turn of an idle connection to leave its place; it lasts as long as the ticket. Whoever becomes busy while it
    /// waits must drop the future, or it would keep others from theirs.
    pub(crate) fn turn(&self) -> impl Future<Output = Ticket> + Send + use<> {
        let desk = Arc::clone(&self.0);
        async move {
            loop {
                // First in line, then look: what is freed in between is noticed.
                let mut freed = pin!(desk.freed.notified());
                freed.as_mut().enable();
                if let Some(ticket) = desk.ticket(TURNS, &[]) {
                    return ticket;
                }
                freed.await;
            }
        }
    }

    /// Gives a connection to the sibling of its ticket, or else to another one. Back it comes if none takes it.
    pub(crate) async fn give(
        &self,
        ticket: Ticket,
        descriptor: OwnedFd,
        unread: Bytes,
    ) -> Result<(), (OwnedFd, Bytes)> {
        let given = self.try_all(ticket, descriptor, unread).await;
        if given.is_err() {
            self.0.refused.notify_one();
        }
        given
    }

    async fn try_all(
        &self,
        mut ticket: Ticket,
        descriptor: OwnedFd,
        unread: Bytes,
    ) -> Result<(), (OwnedFd, Bytes)> {
        let Ok(id) = listener::cookie(&descriptor) else { return Err((descriptor, unread)) };
        let mut gift = Gift { id, descriptor, unread };
        let mut tried = Vec::new();
        loop {
            let (done, is_done) = oneshot::channel();
            match ticket.lane.errands.send(Errand { gift, done }).await {
                Ok(()) => match is_done.await {
                    Ok(Some(back)) => gift = back,
                    // Taken; or the lane was dropped with the gift, and the replica's time is over.
                    Ok(None) | Err(_) => return Ok(()),
                },
                Err(mpsc::error::SendError(errand)) => gift = errand.gift,
            }
            tried.push(Arc::clone(&ticket.lane));
            // Nobody serves it meanwhile, so it does not wait for its turn again.
            match self.0.ticket(usize::MAX, &tried) {
                Some(next) => ticket = next,
                None => return Err((gift.descriptor, gift.unread)),
            }
        }
    }

    /// Waits until a connection was taken by nobody.
    pub(crate) async fn wait_until_refused(&self) {
        self.0.refused.notified().await;
    }

    /// From now on a connection that nobody takes is kept for so long.
    pub(crate) fn be_patient(&self, patience: Duration) {
        let _ = self.0.patience.set(patience);
    }

    /// Whether a connection that nobody takes since then is kept no longer.
    pub(crate) fn is_hopeless(&self, refused_since: Instant) -> bool {
        self.0.patience.get().is_some_and(|&patience| refused_since.elapsed() >= patience)
    }

    /// From now on these are the ways to siblings; without any it is shut.
    pub(crate) fn open(&self, lanes: Vec<Arc<Lane>>) {
        *self.0.lanes() = Lanes { all: lanes, next: 0 };
        self.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::Limits;
    use crate::event::Observer;
    use crate::handover::address::HandoverAddress;
    use crate::handover::channel::Channel;
    use crate::handover::lane::Carrier;
    use crate::handover::protocol::Message;
    use crate::handover::slot::Slot;
    use crate::handover::{Group, Sibling};
    use crate::lifecycle::State;
    use crate::replica::Replica;

    fn outbox(lanes: usize) -> (Outbox, Vec<mpsc::Receiver<Errand>>) {
        let outbox = Outbox::default();
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..lanes).map(|_| mpsc::channel(64)).unzip();
        outbox.open(senders.into_iter().map(Lane::new).collect());
        (outbox, receivers)
    }

    fn socket() -> OwnedFd {
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into()
    }

    #[test]
    fn a_lane_that_hangs_takes_no_more_than_its_own_turns() {
        let (outbox, _errands) = outbox(2);
        let now = || outbox.turn().now_or_never();
        let hanging = now().unwrap();
        // The other lane's tickets come back at once, those of the first never do.
        let mut held = Vec::new();
        for _ in 0..1000 {
            let ticket = now().unwrap();
            if Arc::ptr_eq(&ticket.lane, &hanging.lane) {
                held.push(ticket);
            }
        }
        assert!(held.len() < TURNS, "{}", held.len());
    }

    #[test]
    fn turns_are_shared_out_evenly_and_end() {
        let (outbox, _errands) = outbox(3);
        let tickets: Vec<_> = (0..3 * TURNS).map(|_| outbox.turn().now_or_never().unwrap()).collect();
        for ticket in &tickets {
            assert_eq!(ticket.lane.load.load(Ordering::Relaxed), TURNS);
        }
        assert!(outbox.turn().now_or_never().is_none());
    }

    #[tokio::test]
    async fn whoever_waits_gets_the_turn_that_comes_back() {
        let (outbox, _errands) = outbox(1);
        let mut tickets: Vec<_> = (0..TURNS).map(|_| outbox.turn().now_or_never().unwrap()).collect();
        let mut gives_up = Box::pin(outbox.turn());
        let mut waits = Box::pin(outbox.turn());
        assert!(gives_up.as_mut().now_or_never().is_none() && waits.as_mut().now_or_never().is_none());
        drop(tickets.pop());
        drop(gives_up);
        waits.await;
    }

    #[tokio::test]
    async fn whoever_waits_while_it_is_shut_gets_a_turn_when_it_opens() {
        let (outbox, _errands) = outbox(0);
        let mut waits = Box::pin(outbox.turn());
        assert!(waits.as_mut().now_or_never().is_none());
        let (sender, _errands) = mpsc::channel(1);
        outbox.open(vec![Lane::new(sender)]);
        waits.await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_back_from_a_silent_sibling_cannot_be_taken_by_it_any_more() {
        let address = HandoverAddress::Abstract(format!("hitless-test.{}.silent", std::process::id()));
        let slot = Slot::take(&address).await.unwrap();
        let channel = Channel::connect(&address, slot.number).await.unwrap().unwrap();
        let far = slot.accept().await.unwrap();
        let observer = Observer::new("a".into(), Arc::new(|_| {}));
        let replica = Arc::new(Replica::new("a".into(), Limits::default(), Vec::new(), observer));
        let group = Group::new(address, replica, ([127, 0, 0, 1], 80).into());
        let sibling = Sibling { channel, name: "b".into(), state: State::Ready };
        let (lane, carrier) = Carrier::new(sibling, group);
        let outbox = Outbox::default();
        outbox.open(vec![Arc::clone(&lane)]);
        // Keeps the carrier at work after it has given everything back, as another connection would.
        let _under_way = lane.errands.reserve().await.unwrap();
        let carrier = tokio::spawn(carrier.run());
        let ticket = outbox.turn().await;
        outbox.give(ticket, socket(), Bytes::new()).await.unwrap_err();
        assert!(!carrier.is_finished());
        assert!(far.send_now(&Message::Taken { id: 1 }).is_err());
    }

    #[tokio::test]
    async fn what_one_sibling_does_not_take_goes_to_the_next_and_then_comes_back() {
        let (outbox, mut errands) = outbox(2);
        let ticket = outbox.turn().await;
        let (mut second, mut first) = (errands.pop().unwrap(), errands.pop().unwrap());
        let siblings = async {
            first.recv().await.unwrap().give_back();
            second.recv().await.unwrap().give_back();
        };
        let (given, ()) = tokio::join!(outbox.give(ticket, socket(), Bytes::from_static(b"GET")), siblings);
        assert_eq!(given.unwrap_err().1, "GET");
        let ticket = outbox.turn().await;
        drop(first);
        let siblings = async { second.recv().await.unwrap().finish() };
        let (given, ()) = tokio::join!(outbox.give(ticket, socket(), Bytes::new()), siblings);
        assert!(given.is_ok());
    }
}
