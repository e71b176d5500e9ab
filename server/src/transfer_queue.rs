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
pub(crate) struct Transfer {
    pub(crate) id: u64,
    pub(crate) descriptor: OwnedFd,
    pub(crate) unread: Bytes,
}

/// A transfer and whoever waits for what becomes of it.
#[derive(Debug)]
pub(crate) struct PendingTransfer {
    pub(crate) transfer: Transfer,
    /// Told `None` when the transfer was taken, or else given it back.
    done: oneshot::Sender<Option<Transfer>>,
}

impl PendingTransfer {
    /// The sibling has it now. Whoever waits is gone only if the replica's time is over.
    pub(crate) fn finish(self) {
        let _ = self.done.send(None);
    }

    /// It stays here.
    pub(crate) fn give_back(self) {
        let _ = self.done.send(Some(self.transfer));
    }
}

/// The near end of the way to one sibling. Closed when the sibling takes nothing any more.
#[derive(Debug)]
pub(crate) struct PeerQueue {
    transfers: mpsc::Sender<PendingTransfer>,
    /// Tickets for it.
    load: AtomicUsize,
}

impl PeerQueue {
    pub(crate) fn new(transfers: mpsc::Sender<PendingTransfer>) -> Arc<Self> {
        Arc::new(Self { transfers, load: AtomicUsize::new(0) })
    }
}

#[derive(Debug, Default)]
struct PeerQueues {
    all: Vec<Arc<PeerQueue>>,
    /// Which of those with the same load is next.
    next: usize,
}

#[derive(Debug, Default)]
struct Shared {
    queues: Mutex<PeerQueues>,
    /// Told when there may be a turn.
    freed: Notify,
    /// Told when a connection was taken by nobody.
    refused: Notify,
    /// How long a connection that nobody takes is kept and tried again.
    patience: OnceLock<Duration>,
}

impl Shared {
    /// Nothing here panics while the lock is held.
    fn queues(&self) -> MutexGuard<'_, PeerQueues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A ticket for the queue that has the least to carry, if that is less than `below`, of those that are open and not
    /// in `tried`.
    fn ticket(self: &Arc<Self>, below: usize, tried: &[Arc<PeerQueue>]) -> Option<Ticket> {
        let mut queues = self.queues();
        let (count, next) = (queues.all.len(), queues.next);
        let in_turn = (0..count).map(|step| (next + step) % count);
        let is_open = |queue: &Arc<PeerQueue>| {
            !queue.transfers.is_closed() && !tried.iter().any(|tried| Arc::ptr_eq(tried, queue))
        };
        let at = in_turn
            .filter(|&at| is_open(&queues.all[at]))
            .min_by_key(|&at| queues.all[at].load.load(Ordering::Relaxed))?;
        let queue = Arc::clone(&queues.all[at]);
        // Grows under the lock only.
        if queue.load.load(Ordering::Relaxed) >= below {
            return None;
        }
        queue.load.fetch_add(1, Ordering::Relaxed);
        queues.next = at + 1;
        Some(Ticket { shared: Arc::clone(self), queue })
    }
}

/// The right of one connection to leave its place now, for a certain sibling.
#[derive(Debug)]
pub(crate) struct Ticket {
    shared: Arc<Shared>,
    queue: Arc<PeerQueue>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.queue.load.fetch_sub(1, Ordering::Relaxed);
        self.shared.freed.notify_one();
    }
}

/// See the [module](self). Shut as long as there is no sibling.
#[derive(Debug, Default)]
pub(crate) struct TransferQueue(Arc<Shared>);

impl TransferQueue {
    /// The turn of an idle connection to leave its place; it lasts as long as the ticket. Whoever becomes busy while it
    /// waits must drop the future, or it would keep others from theirs.
    pub(crate) fn turn(&self) -> impl Future<Output = Ticket> + Send + use<> {
        let shared = Arc::clone(&self.0);
        async move {
            loop {
                // First in line, then look: what is freed in between is noticed.
                let mut freed = pin!(shared.freed.notified());
                freed.as_mut().enable();
                if let Some(ticket) = shared.ticket(TURNS, &[]) {
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
        let mut transfer = Transfer { id, descriptor, unread };
        let mut tried = Vec::new();
        loop {
            let (done, is_done) = oneshot::channel();
            match ticket.queue.transfers.send(PendingTransfer { transfer, done }).await {
                Ok(()) => match is_done.await {
                    Ok(Some(back)) => transfer = back,
                    // Taken; or the queue was dropped with the transfer, and the replica's time is over.
                    Ok(None) | Err(_) => return Ok(()),
                },
                Err(mpsc::error::SendError(pending)) => transfer = pending.transfer,
            }
            tried.push(Arc::clone(&ticket.queue));
            // Nobody serves it meanwhile, so it does not wait for its turn again.
            match self.0.ticket(usize::MAX, &tried) {
                Some(next) => ticket = next,
                None => return Err((transfer.descriptor, transfer.unread)),
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
    pub(crate) fn open(&self, queues: Vec<Arc<PeerQueue>>) {
        *self.0.queues() = PeerQueues { all: queues, next: 0 };
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
    use crate::handover::peer_sender::PeerSender;
    use crate::handover::protocol::Message;
    use crate::handover::rendezvous::Rendezvous;
    use crate::handover::{Group, Sibling};
    use crate::lifecycle::State;
    use crate::replica::Replica;

    fn transfer_queue(queues: usize) -> (TransferQueue, Vec<mpsc::Receiver<PendingTransfer>>) {
        let transfer_queue = TransferQueue::default();
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..queues).map(|_| mpsc::channel(64)).unzip();
        transfer_queue.open(senders.into_iter().map(PeerQueue::new).collect());
        (transfer_queue, receivers)
    }

    fn socket() -> OwnedFd {
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into()
    }

    #[test]
    fn a_queue_that_hangs_takes_no_more_than_its_own_turns() {
        let (transfer_queue, _transfers) = transfer_queue(2);
        let now = || transfer_queue.turn().now_or_never();
        let hanging = now().unwrap();
        // The other queue's tickets come back at once, those of the first never do.
        let mut held = Vec::new();
        for _ in 0..1000 {
            let ticket = now().unwrap();
            if Arc::ptr_eq(&ticket.queue, &hanging.queue) {
                held.push(ticket);
            }
        }
        assert!(held.len() < TURNS, "{}", held.len());
    }

    #[test]
    fn turns_are_shared_out_evenly_and_end() {
        let (transfer_queue, _transfers) = transfer_queue(3);
        let tickets: Vec<_> = (0..3 * TURNS).map(|_| transfer_queue.turn().now_or_never().unwrap()).collect();
        for ticket in &tickets {
            assert_eq!(ticket.queue.load.load(Ordering::Relaxed), TURNS);
        }
        assert!(transfer_queue.turn().now_or_never().is_none());
    }

    #[tokio::test]
    async fn whoever_waits_gets_the_turn_that_comes_back() {
        let (transfer_queue, _transfers) = transfer_queue(1);
        let mut tickets: Vec<_> = (0..TURNS).map(|_| transfer_queue.turn().now_or_never().unwrap()).collect();
        let mut gives_up = Box::pin(transfer_queue.turn());
        let mut waits = Box::pin(transfer_queue.turn());
        assert!(gives_up.as_mut().now_or_never().is_none() && waits.as_mut().now_or_never().is_none());
        drop(tickets.pop());
        drop(gives_up);
        waits.await;
    }

    #[tokio::test]
    async fn whoever_waits_while_it_is_shut_gets_a_turn_when_it_opens() {
        let (transfer_queue, _transfers) = transfer_queue(0);
        let mut waits = Box::pin(transfer_queue.turn());
        assert!(waits.as_mut().now_or_never().is_none());
        let (sender, _transfers) = mpsc::channel(1);
        transfer_queue.open(vec![PeerQueue::new(sender)]);
        waits.await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_back_from_a_silent_sibling_cannot_be_taken_by_it_any_more() {
        let address = HandoverAddress::Abstract(format!("hitless-test.{}.silent", std::process::id()));
        let slot = Rendezvous::take(&address).await.unwrap();
        let channel = Channel::connect(&address, slot.number).await.unwrap().unwrap();
        let far = slot.accept().await.unwrap();
        let observer = Observer::new("a".into(), Arc::new(|_| {}));
        let replica = Arc::new(Replica::new("a".into(), Limits::default(), Vec::new(), observer));
        let group = Group::new(address, replica, ([127, 0, 0, 1], 80).into());
        let sibling = Sibling { channel, name: "b".into(), state: State::Ready };
        let (queue, sender) = PeerSender::new(sibling, group);
        let transfer_queue = TransferQueue::default();
        transfer_queue.open(vec![Arc::clone(&queue)]);
        // Keeps the sender at work after it has given everything back, as another connection would.
        let _under_way = queue.transfers.reserve().await.unwrap();
        let sender = tokio::spawn(sender.run());
        let ticket = transfer_queue.turn().await;
        transfer_queue.give(ticket, socket(), Bytes::new()).await.unwrap_err();
        assert!(!sender.is_finished());
        assert!(far.send_now(&Message::Taken { id: 1 }).is_err());
    }

    #[tokio::test]
    async fn what_one_sibling_does_not_take_goes_to_the_next_and_then_comes_back() {
        let (transfer_queue, mut transfers) = transfer_queue(2);
        let ticket = transfer_queue.turn().await;
        let (mut second, mut first) = (transfers.pop().unwrap(), transfers.pop().unwrap());
        let siblings = async {
            first.recv().await.unwrap().give_back();
            second.recv().await.unwrap().give_back();
        };
        let (given, ()) =
            tokio::join!(transfer_queue.give(ticket, socket(), Bytes::from_static(b"GET")), siblings);
        assert_eq!(given.unwrap_err().1, "GET");
        let ticket = transfer_queue.turn().await;
        drop(first);
        let siblings = async { second.recv().await.unwrap().finish() };
        let (given, ()) = tokio::join!(transfer_queue.give(ticket, socket(), Bytes::new()), siblings);
        assert!(given.is_ok());
    }
}
