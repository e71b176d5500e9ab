//! The running side: what siblings that stop bring is taken, what siblings that start claim is given back.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::channel::Channel;
use super::error::ChannelError;
use super::protocol::{Message, Reason};
use super::received::Received;
use super::rendezvous::Rendezvous;
use super::{Group, PATIENCE};
use crate::accept::Owner;
use crate::clock::monotonic_ns;
use crate::event::Event;
use crate::listener;
use crate::listeners::{Closed, Listeners};

/// Channels at once. For one more, that one is closed which has been silent for longest: a giver whose channel ends keeps
/// what was not answered, and connects again.
const MAX_CHANNELS: usize = 64;

/// Answers siblings at a place in the group. Both the place and the talk under way are given up with this value.
#[derive(Debug)]
pub(crate) struct Receiver {
    task: AbortHandle,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    /// Answers siblings from now on.
    pub(crate) fn start(slot: Rendezvous, group: Group, listeners: Arc<Listeners>) -> Self {
        Self { task: tokio::spawn(welcome(slot, group, listeners)).abort_handle() }
    }
}

async fn welcome(slot: Rendezvous, group: Group, listeners: Arc<Listeners>) {
    let mut sessions = JoinSet::new();
    let mut activities: Vec<Arc<Activity>> = Vec::new();
    loop {
        let accepted = slot.accept().await;
        while sessions.try_join_next().is_some() {}
        match accepted {
            Ok(channel) => {
                if sessions.len() >= MAX_CHANNELS {
                    close_most_silent(&activities);
                    // It waits for a message, or is about to.
                    sessions.join_next().await;
                }
                // Those of sessions that have ended.
                activities.retain(|activity| Arc::strong_count(activity) > 1);
                let activity = Arc::new(Activity::new());
                activities.push(Arc::clone(&activity));
                let (group, listeners) = (group.clone(), Arc::clone(&listeners));
                sessions.spawn(PeerSession { channel, group, listeners, activity }.run());
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

/// Closes the channel that has been silent for longest, of those that have not said hello if there are any.
fn close_most_silent(activities: &[Arc<Activity>]) {
    let open = activities.iter().filter(|activity| !activity.closed.is_cancelled());
    let rank = |activity: &&Arc<Activity>| {
        (activity.is_greeted.load(Ordering::Relaxed), activity.heard_ns.load(Ordering::Relaxed))
    };
    if let Some(activity) = open.min_by_key(rank) {
        activity.closed.cancel();
    }
}

/// What is known of a channel while its session runs.
#[derive(Debug)]
struct Activity {
    /// Whether the peer has said hello.
    is_greeted: AtomicBool,
    /// When the last message came, or the channel itself.
    heard_ns: AtomicU64,
    /// Ends the session as soon as no message waits for it.
    closed: CancellationToken,
}

impl Activity {
    fn new() -> Self {
        let heard_ns = AtomicU64::new(monotonic_ns());
        Self { is_greeted: AtomicBool::new(false), heard_ns, closed: CancellationToken::new() }
    }
}

/// One sibling at the other end.
struct PeerSession {
    channel: Channel,
    group: Group,
    listeners: Arc<Listeners>,
    activity: Arc<Activity>,
}

impl PeerSession {
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
        let first = timeout(PATIENCE, self.receive()).await.unwrap_or(Err(ChannelError::Silent))?;
        // A sibling that speaks none of our versions learns which they are, whatever it said.
        self.channel.send_now(&self.group.hello())?;
        let (name, _) = self.group.identify(&first.message()?)?;
        self.activity.is_greeted.store(true, Ordering::Relaxed);
        loop {
            let mut received = self.next(offered.is_some()).await?;
            match received.split()? {
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
                        self.group.replica.connection_counters.listeners_returned.add(1);
                        self.group.replica.observer.emit(Event::ListenerReturned { to: name.to_string() });
                    }
                }
                _ => return Err(ChannelError::OutOfTurn),
            }
        }
    }

    /// The next message. A giver may take its time; a claimer has nothing to do but to accept from what it was offered, and
    /// as long as it does not say so, the listener can be given to nobody else.
    async fn next(&self, is_claimed: bool) -> Result<Received, ChannelError> {
        if is_claimed {
            timeout(PATIENCE, self.receive()).await.unwrap_or(Err(ChannelError::Silent))
        } else {
            self.receive().await
        }
    }

    async fn receive(&self) -> Result<Received, ChannelError> {
        let received = tokio::select! {
            // What is here already is answered, whatever follows.
            biased;
            received = self.channel.receive() => received,
            () = self.activity.closed.cancelled() => Err(ChannelError::MostSilent),
        };
        self.activity.heard_ns.store(monotonic_ns(), Ordering::Relaxed);
        received
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
            self.group.replica.connection_counters.listeners_taken.add(1);
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
            self.group.replica.connection_counters.connections_taken.add(1);
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
        _receiver: Receiver,
    }

    async fn start(address: &HandoverAddress, service: Option<&str>) -> Running {
        let observer = Observer::new("test".into(), Arc::new(|_| {}));
        let replica = Arc::new(Replica::new("test".into(), Limits::default(), Vec::new(), observer));
        replica.lifecycle.advance(State::Ready);
        let listeners =
            Arc::new(Listeners::new(Entrance { replica: Arc::clone(&replica), router: Router::new() }));
        let addr = "127.0.0.1:1".parse().unwrap();
        let mut group = Group::new(address.clone(), replica, addr).of_service(service);
        let slot = Rendezvous::take(address).await.unwrap();
        group.slot = Some(slot.number);
        let receiver = Receiver::start(slot, group.clone(), listeners);
        Running { group, _receiver: receiver }
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

    /// A channel that has said hello.
    async fn greeted(running: &Running, address: &HandoverAddress) -> Channel {
        let channel = Channel::connect(address, 0).await.unwrap().unwrap();
        channel.send_now(&running.group.hello()).unwrap();
        channel.receive().await.unwrap();
        channel
    }

    async fn is_closed(channel: &Channel) -> bool {
        let received = timeout(Duration::from_secs(20), channel.receive()).await;
        matches!(received.expect("the channel ends"), Err(ChannelError::Gone))
    }

    /// Asks for a listener, which there is not.
    async fn is_answered(channel: &Channel) -> bool {
        if channel.send_now(&Message::Claim).is_err() {
            return false;
        }
        channel.receive().await.is_ok_and(|received| received.message().unwrap() == Message::Nothing)
    }

    #[tokio::test]
    async fn silent_channels_do_not_keep_a_sibling_out() {
        let address = crate::handover::channel::tests::group("silent");
        let (running, other) = (start(&address, None).await, start(&address, None).await);
        let mut silent = Vec::new();
        for _ in 0..MAX_CHANNELS {
            silent.push(greeted(&running, &address).await);
        }
        assert!(is_answered(&silent[0]).await);
        assert_eq!(other.group.siblings().await.len(), 1);
        // The second one had been silent for longest.
        assert!(is_closed(&silent[1]).await);
        assert!(is_answered(&silent[0]).await && is_answered(&silent[2]).await);
    }

    #[tokio::test]
    async fn a_channel_without_a_hello_is_closed_before_one_with() {
        let address = crate::handover::channel::tests::group("mute");
        let (running, other) = (start(&address, None).await, start(&address, None).await);
        let mut silent = Vec::new();
        for _ in 1..MAX_CHANNELS {
            silent.push(greeted(&running, &address).await);
        }
        let mute = Channel::connect(&address, 0).await.unwrap().unwrap();
        assert_eq!(other.group.siblings().await.len(), 1);
        assert!(is_closed(&mute).await);
        assert!(is_answered(&silent[0]).await);
    }
}
