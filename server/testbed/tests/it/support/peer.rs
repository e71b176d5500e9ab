//! The other side of the handover protocol, played by hand.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail as the test does")]

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use hitless_server::State;
use hitless_server::handover::protocol::{MAX_MESSAGE, Message, Versions};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{PATIENCE, Replica, unique};

/// The test's side of a channel.
pub struct Peer(pub Socket);

/// The address of a place in a group.
pub fn place(group: &str, slot: usize) -> SockAddr {
    SockAddr::unix(format!("\0{group}.{slot}")).unwrap()
}

/// A socket of the kind that siblings use.
pub fn socket() -> Socket {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

impl Peer {
    /// Connects to the replica at the first place of the group.
    pub fn connect(group: &str) -> Self {
        let socket = socket();
        socket.connect(&place(group, 0)).unwrap();
        Self(socket)
    }

    /// The next one that connects and says hello, answered.
    pub fn accept(listening: &Socket, hello: &Message<'_>) -> Self {
        let (channel, _) = listening.accept().unwrap();
        channel.set_read_timeout(Some(PATIENCE)).unwrap();
        let peer = Self(channel);
        let (bytes, _) = peer.hear();
        assert!(matches!(Message::decode(&bytes), Ok(Message::Hello { .. })));
        peer.say(hello);
        peer
    }

    pub fn send(&self, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptor.as_slice().is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(descriptor.as_slice())));
        }
        rustix::net::sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
    }

    pub fn say(&self, message: &Message<'_>) {
        self.send(&message.encode(), None);
    }

    /// Whether the other side can still be told something.
    pub fn is_heard(&self) -> bool {
        rustix::net::send(&self.0, &Message::Taken { id: 0 }.encode(), SendFlags::NOSIGNAL).is_ok()
    }

    /// Waits for the end of the channel, whatever is said before.
    pub fn wait_for_end(&self) {
        while !self.hear().0.is_empty() {}
    }

    /// Gives a listener of the replica's address, as from a sibling called `gone`; its cookie.
    pub fn give_listener(&self, addr: SocketAddr) -> u64 {
        let listener = listener(addr);
        let id = listener.cookie().unwrap();
        self.send(&Message::GiveListener { id, owner: "gone" }.encode(), Some(listener.as_fd()));
        self.expect(&Message::Taken { id });
        id
    }

    /// The next record and its descriptor; empty at the end.
    pub fn hear(&self) -> (Vec<u8>, Option<OwnedFd>) {
        let mut bytes = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let received = rustix::net::recvmsg(&self.0, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC);
        let length = received.map_or(0, |received| received.bytes);
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
            _ => None,
        });
        bytes.truncate(length);
        (bytes, descriptor)
    }

    pub fn expect(&self, expected: &Message<'_>) {
        let (bytes, _) = self.hear();
        assert_eq!(Message::decode(&bytes).as_ref(), Ok(expected));
    }

    /// Says who it is and hears who the other one is.
    pub fn greet(&self, addr: SocketAddr) {
        self.say(&hello(addr));
        let (bytes, _) = self.hear();
        assert!(matches!(Message::decode(&bytes), Ok(Message::Hello { .. })));
    }
}

/// What the test says first.
pub fn hello(addr: SocketAddr) -> Message<'static> {
    Message::Hello { versions: Versions::OURS, name: "test", state: State::Ready, addr, service: None }
}

/// A place in a group where the test waits for siblings.
pub fn host(place: &SockAddr) -> Socket {
    let listening = socket();
    listening.bind(place).unwrap();
    listening.listen(16).unwrap();
    listening
}

/// Every name of a group, taken by somebody who answers nobody.
pub fn claimed_names(group: &str) -> Vec<Socket> {
    let take = |slot| {
        let socket = socket();
        socket.bind(&place(group, slot)).unwrap();
        socket
    };
    (0..64).map(take).collect()
}

/// A listener beside that of the replica.
pub fn listener(addr: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&addr.into()).unwrap();
    socket.listen(16).unwrap();
    socket
}

/// A ready replica in a group of its own.
pub fn replica(extra: &[&str]) -> (Replica, String) {
    let group = unique("hitless-test");
    let address = format!("unix:@{group}");
    let args = [&["--handover", &address][..], extra].concat();
    (Replica::start(&args), group)
}

/// A sibling at the second place of the group that says it is ready, takes listeners, and does with the first connection
/// what `then` says.
pub fn sibling(group: &str, addr: SocketAddr, then: impl FnOnce(&Peer, u64, OwnedFd) + Send + 'static) {
    let listening = host(&place(group, 1));
    thread::spawn(move || {
        let peer = Peer::accept(&listening, &hello(addr));
        let mut listeners = Vec::new();
        loop {
            let (bytes, descriptor) = peer.hear();
            match Message::decode(&bytes).unwrap() {
                Message::GiveListener { id, .. } => {
                    listeners.extend(descriptor);
                    peer.say(&Message::Taken { id });
                }
                Message::GiveConnection { id, .. } => {
                    // No place any more for those who look around.
                    drop(listening);
                    then(&peer, id, descriptor.unwrap());
                    return;
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    });
}
