//! A sibling that says anything, in any order, with any descriptor, to a replica that runs in this very process. Whatever
//! it says:
//!
//! - the replica answers the next sibling, and gives no listener away but those that it was given;
//! - a connection that it took is served, and one that it did not take is read by nobody.
//!
//! ```sh
//! mkdir -p fuzz/corpus/session
//! RUSTC_BOOTSTRAP=1 cargo fuzz run session fuzz/corpus/session fuzz/seeds/session -- -max_total_time=600
//! ```
//!
//! in `server/`: what it finds goes to the first directory, what it begins with is in the second. A nightly compiler needs
//! no `RUSTC_BOOTSTRAP`.

#![no_main]

use std::collections::HashSet;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use axum::{Router, routing::get};
use hitless_server::handover::protocol::{MAX_MESSAGE, Message, Reason, Versions};
use hitless_server::{Event, HandoverAddress, Server, State};
use libfuzzer_sys::fuzz_target;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::signal::unix::{SignalKind, signal};

/// The steps of one talk; their answers fit into the socket's buffer.
const MAX_STEPS: usize = 48;

/// How long anything may take before it counts as a hang.
const PATIENCE: Duration = Duration::from_secs(20);

/// The replica, and what the test needs to look like its sibling.
struct Stage {
    group: String,
    addr: SocketAddr,
    /// Where connections come from that look as if the replica had accepted them.
    elsewhere: TcpListener,
    udp: UdpSocket,
}

static STAGE: LazyLock<Stage> = LazyLock::new(|| {
    let group = format!("hitless-fuzz.{}", std::process::id());
    let (listening, is_listening) = mpsc::channel();
    let server = Server::new(([127, 0, 0, 1], 0))
        .name("fuzzed")
        .without_signals()
        .handover(HandoverAddress::Abstract(group.clone()))
        .on_event(move |record| match record.event {
            Event::Listening { addr } => drop(listening.send(addr)),
            Event::Ready => drop(listening.send(([0, 0, 0, 0], 0).into())),
            _ => {}
        });
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        // In a program whose `main` is not Rust's nobody ignores this signal, and a client that is gone would be the end.
        let _pipe = runtime.block_on(async { signal(SignalKind::pipe()) }).expect("a handler");
        let router = Router::new().route("/", get(async || "hello"));
        runtime.block_on(server.run(router)).expect("it starts")
    });
    let addr = is_listening.recv().expect("an address");
    is_listening.recv().expect("it is ready");
    let elsewhere = TcpListener::bind("127.0.0.1:0").expect("a port");
    Stage { group, addr, elsewhere, udp: UdpSocket::bind("127.0.0.1:0").expect("a port") }
});

/// What a byte of the input says about the next descriptor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Right,
    Absent,
    Udp,
    Elsewhere,
    Twice,
}

impl Kind {
    fn of(byte: u8) -> Self {
        match byte % 8 {
            0 => Self::Absent,
            1 => Self::Udp,
            2 => Self::Elsewhere,
            3 => Self::Twice,
            _ => Self::Right,
        }
    }
}

/// The bytes of the input that are not used yet.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.byte()?).min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        Some(bytes)
    }
}

/// A connection that the replica is given: its own end, of which a copy stays here, and the client's.
struct Gift {
    id: u64,
    end: Socket,
    client: TcpStream,
    is_whole: bool,
    /// Given once and alone, as it should be.
    is_proper: bool,
}

/// One talk with the replica.
struct Talk {
    channel: Socket,
    listeners: HashSet<u64>,
    gifts: Vec<Gift>,
    offered: Option<u64>,
}

impl Talk {
    fn begin() -> Self {
        let channel = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
        channel.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let place = SockAddr::unix(format!("\0{}.0", STAGE.group)).expect("an address");
        channel.connect(&place).expect("the replica has its place");
        Self { channel, listeners: HashSet::new(), gifts: Vec::new(), offered: None }
    }

    /// Sends a record; the replica may have ended the talk.
    fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let _ = rustix::net::sendmsg(&self.channel, &[IoSlice::new(bytes)], &mut control, flags);
    }

    fn send_with(&self, message: &Message<'_>, kind: Kind, right: &impl AsFd) {
        let right = right.as_fd();
        let descriptors: &[_] = match kind {
            Kind::Right => &[right],
            Kind::Absent => &[],
            Kind::Udp => &[STAGE.udp.as_fd()],
            Kind::Elsewhere => &[STAGE.elsewhere.as_fd()],
            Kind::Twice => &[right, STAGE.udp.as_fd()],
        };
        self.send(&message.encode(), descriptors);
    }

    /// The next record; `None` at the end.
    fn hear(&self) -> Option<(Vec<u8>, Option<OwnedFd>)> {
        let mut bytes = vec![0; MAX_MESSAGE];
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut slices = [IoSliceMut::new(&mut bytes)];
            let heard =
                rustix::net::recvmsg(&self.channel, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC);
            let length = match heard {
                Ok(heard) => heard.bytes,
                // The replica ended with a message unread; what it said before is behind the error.
                Err(rustix::io::Errno::CONNRESET) => continue,
                Err(error) => panic!("the replica neither answers nor ends: {error}"),
            };
            let descriptor = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
                _ => None,
            });
            bytes.truncate(length);
            return (length > 0).then_some((bytes, descriptor));
        }
    }

    /// One step as the input says it.
    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        let hello = |versions| Message::Hello {
            versions,
            name: "fuzz",
            state: State::Ready,
            addr: STAGE.addr,
            service: None,
        };
        match input.byte()? % 12 {
            0 => self.send(input.bytes()?, &[]),
            1..=3 => self.send(&hello(Versions::OURS).encode(), &[]),
            4 => {
                let (one, other) = (input.byte()?, input.byte()?);
                let versions = Versions { oldest: one.min(other), newest: one.max(other) };
                self.send(&hello(versions).encode(), &[]);
            }
            5 => {
                let kind = Kind::of(input.byte()?);
                let listener = shared_listener();
                let id = listener.cookie().expect("a cookie");
                self.listeners.insert(id);
                self.send_with(&Message::GiveListener { id, owner: "fuzz" }, kind, &listener);
            }
            6 | 7 => {
                let (kind, unread) = (Kind::of(input.byte()?), input.bytes()?);
                self.give_connection(kind, unread);
            }
            8 => {
                let kind = if input.byte()? < 250 { Kind::Absent } else { Kind::Right };
                self.send_with(&Message::Claim, kind, &STAGE.udp);
            }
            9 => {
                let id = self.offered.unwrap_or_else(|| u64::from(input.byte().unwrap_or(0)));
                self.send(&Message::Claimed { id }.encode(), &[]);
            }
            10 => self.send(&Message::Nothing.encode(), &[]),
            _ => {
                // As if it were the giver.
                let id = u64::from(input.byte()?);
                self.send(&Message::Taken { id }.encode(), &[]);
                self.send(&Message::Refused { id, reason: Reason::Full }.encode(), &[]);
            }
        }
        Some(())
    }

    fn give_connection(&mut self, kind: Kind, unread: &[u8]) {
        let (end, client) = connection();
        let id = end.cookie().expect("a cookie");
        self.send_with(&Message::GiveConnection { id, unread }, kind, &end);
        let is_proper = kind == Kind::Right;
        self.gifts.push(Gift { id, end, client, is_whole: unread.is_empty(), is_proper });
    }

    /// Hears everything that the replica has to say, and holds it against what it was given.
    fn end(mut self) {
        self.channel.shutdown(std::net::Shutdown::Write).expect("an open socket");
        let mut taken = HashSet::new();
        while let Some((bytes, descriptor)) = self.hear() {
            match Message::decode(&bytes).expect("a replica says what can be read") {
                Message::Taken { id } => {
                    let was_given =
                        self.listeners.contains(&id) || self.gifts.iter().any(|gift| gift.id == id);
                    assert!(was_given && taken.insert(id), "taken and never given: {id}");
                }
                Message::Offer { id, .. } => is_a_gift(id, &descriptor.expect("an offer's listener")),
                Message::Hello { .. } | Message::Refused { .. } | Message::Nothing => {}
                other => panic!("a host does not say {other:?}"),
            }
        }
        for gift in self.gifts.drain(..) {
            if taken.contains(&gift.id) {
                assert!(gift.is_proper);
                is_served(gift);
            } else {
                is_read_by_nobody(gift);
            }
        }
    }
}

/// A listener that could be a sibling's.
fn shared_listener() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_port(true).expect("an option");
    socket.bind(&STAGE.addr.into()).expect("a shared port");
    socket.listen(1).expect("a listener");
    socket
}

/// A connection of the replica's port that the replica did not accept: its end and the client's.
fn connection() -> (Socket, TcpStream) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed) % (1 << 22);
    let source = Ipv4Addr::from(0x7f40_0001 + number);
    let end = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    end.set_reuse_address(true).expect("an option");
    end.set_linger(Some(Duration::ZERO)).expect("an option");
    end.bind(&SocketAddrV4::new(source, STAGE.addr.port()).into()).expect("an address");
    end.connect(&STAGE.elsewhere.local_addr().expect("an address").into()).expect("a connection");
    let (client, _) = STAGE.elsewhere.accept().expect("a client");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    (end, client)
}

/// What the replica offers is a listener that it was given by a sibling, never its own.
fn is_a_gift(id: u64, descriptor: &OwnedFd) {
    let socket = socket2::SockRef::from(descriptor);
    assert_eq!(socket.cookie().expect("a cookie"), id);
    assert!(socket.is_listener().expect("an option"));
}

fn is_served(gift: Gift) {
    let Gift { mut client, is_whole, .. } = gift;
    if is_whole {
        client.write_all(b"GET / HTTP/1.1\r\nhost: fuzz\r\n\r\n").expect("a connection");
        let mut head = [0; 12];
        client.read_exact(&mut head).expect("an answer");
        assert_eq!(&head, b"HTTP/1.1 200");
    }
}

fn is_read_by_nobody(gift: Gift) {
    let Gift { mut end, mut client, .. } = gift;
    client.write_all(b"mine").expect("a connection");
    end.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    end.set_nonblocking(false).expect("an option");
    let mut bytes = [0; 4];
    end.read_exact(&mut bytes).expect("what the client sent");
    assert_eq!(&bytes, b"mine");
}

/// Claims back everything that the replica holds for others; its own listener is not among it.
fn claim_everything() {
    let talk = Talk::begin();
    let hello = Message::Hello {
        versions: Versions::OURS,
        name: "claimer",
        state: State::Starting,
        addr: STAGE.addr,
        service: None,
    };
    talk.send(&hello.encode(), &[]);
    let (bytes, _) = talk.hear().expect("a hello");
    assert!(matches!(Message::decode(&bytes), Ok(Message::Hello { .. })));
    for _ in 0..=64 {
        talk.send(&Message::Claim.encode(), &[]);
        let (bytes, descriptor) = talk.hear().expect("an answer");
        match Message::decode(&bytes).expect("a message") {
            Message::Offer { id, .. } => {
                is_a_gift(id, &descriptor.expect("an offer's listener"));
                talk.send(&Message::Claimed { id }.encode(), &[]);
            }
            Message::Nothing => {
                TcpStream::connect(STAGE.addr).expect("the replica's own listener is where it was");
                return;
            }
            other => panic!("not an answer to a claim: {other:?}"),
        }
    }
    panic!("a replica holds no more than 64 listeners");
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let mut talk = Talk::begin();
    for _ in 0..MAX_STEPS {
        if talk.step(&mut input).is_none() {
            break;
        }
    }
    talk.end();
    claim_everything();
});
