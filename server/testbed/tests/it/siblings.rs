//! Siblings that are not what they should be: of another version, of no protocol at all, with the wrong descriptor, or
//! dead at the wrong moment. The test plays the other side of the protocol by hand.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail as the test does")]

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::thread;

use crate::support::peer::{Peer, hello, host, listener, place, replica, sibling};
use crate::support::{Client, PATIENCE, Replica, unique};
use hitless_server::State;
use hitless_server::handover::protocol::{MAX_MESSAGE, Message, ProtocolError, Reason, Versions};

/// The replica is as it was, and has said why.
fn is_unharmed(replica: &mut Replica, reason: &str) {
    let refused = replica.wait_for("handover_refused");
    assert!(refused["reason"].as_str().unwrap().contains(reason), "{refused}");
    assert_eq!(refused["level"], "warn");
    assert_eq!(replica.connect().get("/").status, 200);
    let account = replica.account();
    assert_eq!((&account["listeners_taken"], &account["connections_taken"]), (&0.into(), &0.into()));
}

#[test]
fn garbage_changes_nothing_and_is_logged() {
    let (mut replica, group) = replica(&[]);
    let peer = Peer::connect(&group);
    peer.send(b"GET / HTTP/1.1\r\n\r\n", None);
    is_unharmed(&mut replica, "not a message of this protocol");
}

#[test]
fn another_version_learns_ours_and_is_no_sibling() {
    let (mut replica, group) = replica(&[]);
    let peer = Peer::connect(&group);
    let mut bytes = Message::Claim.encode();
    bytes[4] = 99;
    peer.send(&bytes, None);
    let (bytes, _) = peer.hear();
    assert!(matches!(Message::decode(&bytes), Ok(Message::Hello { .. })));
    assert!(peer.hear().0.is_empty(), "the channel ends");
    is_unharmed(&mut replica, &ProtocolError::OtherVersion(99).to_string());
}

/// A sibling that speaks versions 98 and 99 only, in the words of the one hello that all versions have in common.
const FOREIGN: Versions = Versions { oldest: 98, newest: 99 };

fn hello_in(versions: Versions, addr: SocketAddr) -> Message<'static> {
    Message::Hello { versions, name: "test", state: State::Ready, addr, service: None }
}

#[test]
fn a_stopping_replica_whose_only_sibling_is_of_foreign_versions_is_a_lame_duck() {
    let (mut replica, group) = replica(&["--lame-duck", "5s"]);
    let mut client = replica.connect();
    client.get("/");
    let (listening, addr) = (host(&place(&group, 1)), replica.addr);
    let sibling = thread::spawn(move || {
        let peer = Peer::accept(&listening, &hello_in(FOREIGN, addr));
        drop(listening);
        assert!(peer.hear().0.is_empty(), "nothing is given");
    });
    replica.terminate();
    let refused = replica.wait_for("handover_refused");
    assert_eq!(refused["reason"], "protocol versions 98 to 99 instead of 1 to 2");
    replica.wait_for("lame_duck");
    sibling.join().unwrap();
    assert!(client.get("/").is_last());
    client.wait_until_closed();
    let (code, exit) = replica.wait();
    assert_eq!((code, &exit["cut"]), (0, &0.into()), "{exit:#}");
}

#[test]
fn a_starting_replica_claims_nothing_from_a_sibling_of_foreign_versions() {
    let group = unique("hitless-test");
    let listening = host(&place(&group, 0));
    let holder = listener("127.0.0.1:0".parse().unwrap());
    let addr = holder.local_addr().unwrap().as_socket().unwrap();
    let sibling = thread::spawn(move || {
        let peer = Peer::accept(&listening, &hello_in(FOREIGN, addr));
        assert!(peer.hear().0.is_empty(), "nothing is claimed");
    });
    let mut replica = Replica::start_at(&addr.to_string(), &["--handover", &format!("unix:@{group}")]);
    sibling.join().unwrap();
    assert!(replica.events().contains(&"handover_refused"));
    assert_eq!(replica.account()["listeners_claimed"], 0);
    drop(holder);
    assert_eq!(replica.connect().get("/").status, 200);
    replica.terminate();
    assert_eq!(replica.wait().0, 0);
}

#[test]
fn a_sibling_of_a_newer_version_that_speaks_ours_too_is_a_sibling() {
    let (mut replica, group) = replica(&[]);
    let versions = Versions { oldest: 1, newest: 99 };
    let peer = Peer::connect(&group);
    let mut newer = hello_in(versions, replica.addr).encode();
    newer.extend_from_slice(b"what a newer version adds");
    peer.send(&newer, None);
    let (bytes, _) = peer.hear();
    assert!(matches!(Message::decode(&bytes), Ok(Message::Hello { .. })));
    peer.give_listener(replica.addr);
    drop(peer);
    let (listening, addr) = (host(&place(&group, 1)), replica.addr);
    let sibling = thread::spawn(move || {
        let peer = Peer::accept(&listening, &hello_in(versions, addr));
        let mut taken = 0;
        loop {
            let (bytes, _descriptor) = peer.hear();
            match Message::decode(&bytes) {
                Ok(Message::GiveListener { id, .. }) => peer.say(&Message::Taken { id }),
                _ => return taken,
            }
            taken += 1;
        }
    });
    replica.terminate();
    assert_eq!(replica.wait().0, 0);
    assert_eq!(sibling.join().unwrap(), 2);
}

#[test]
fn a_message_that_is_too_long_changes_nothing() {
    let (mut replica, group) = replica(&[]);
    let peer = Peer::connect(&group);
    peer.greet(replica.addr);
    peer.send(&vec![b'H'; MAX_MESSAGE + 1], None);
    is_unharmed(&mut replica, "bytes");
}

#[test]
fn a_replica_of_another_address_is_no_sibling() {
    let (mut replica, group) = replica(&[]);
    let peer = Peer::connect(&group);
    peer.say(&hello("127.0.0.1:1".parse().unwrap()));
    is_unharmed(&mut replica, "the peer serves 127.0.0.1:1");
}

#[test]
fn the_wrong_kind_of_descriptor_is_refused() {
    let (mut replica, group) = replica(&[]);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    for descriptor in [udp.as_fd(), elsewhere.as_fd(), file.as_fd()] {
        let peer = Peer::connect(&group);
        peer.greet(replica.addr);
        peer.send(&Message::GiveConnection { id: 1, unread: b"" }.encode(), Some(descriptor));
        peer.expect(&Message::Refused { id: 1, reason: Reason::Wrong });
        peer.send(&Message::GiveListener { id: 2, owner: "test" }.encode(), Some(descriptor));
        peer.expect(&Message::Refused { id: 2, reason: Reason::Wrong });
        is_unharmed(&mut replica, "out of turn");
    }
}

#[test]
fn a_descriptor_where_none_belongs_changes_nothing() {
    let (mut replica, group) = replica(&[]);
    let peer = Peer::connect(&group);
    peer.greet(replica.addr);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.send(&Message::Claim.encode(), Some(udp.as_fd()));
    is_unharmed(&mut replica, "descriptors");
}

#[test]
fn a_claim_that_is_never_confirmed_leaves_the_listener_where_it_is() {
    let (replica, group) = replica(&[]);
    let listener = listener(replica.addr);
    let id = listener.cookie().unwrap();
    let giver = Peer::connect(&group);
    giver.greet(replica.addr);
    giver.send(&Message::GiveListener { id, owner: "gone" }.encode(), Some(listener.as_fd()));
    giver.expect(&Message::Taken { id });
    drop((giver, listener));
    for _ in 0..2 {
        let claimer = Peer::connect(&group);
        claimer.greet(replica.addr);
        claimer.say(&Message::Claim);
        let (bytes, descriptor) = claimer.hear();
        assert_eq!(Message::decode(&bytes), Ok(Message::Offer { id, owner: "gone" }));
        drop((claimer, descriptor));
        // It goes on accepting from both listeners.
        for _ in 0..50 {
            assert_eq!(replica.connect().get("/").status, 200);
        }
        assert_eq!(replica.account()["listeners_returned"], 0);
    }
    let claimer = Peer::connect(&group);
    claimer.greet(replica.addr);
    claimer.say(&Message::Claim);
    let (_, descriptor) = claimer.hear();
    claimer.say(&Message::Claimed { id });
    replica.wait_until("returned", |account| account["listeners_returned"] == 1);
    claimer.say(&Message::Claim);
    claimer.expect(&Message::Nothing);
    drop(descriptor);
}

#[test]
fn a_connection_is_served_on_when_its_sibling_dies_before_it_took_it() {
    let (mut replica, group) = replica(&["--lame-duck", "5s"]);
    let mut client = replica.connect();
    client.get("/");
    sibling(&group, replica.addr, |_, _, descriptor| drop(descriptor));
    replica.terminate();
    replica.wait_for("lame_duck");
    let answer = client.get("/");
    assert_eq!((answer.replica(), answer.is_last()), (replica.name.as_str(), true));
    let (code, exit) = replica.wait();
    assert_eq!((code, &exit["connections_given"]), (0, &0.into()));
}

#[test]
fn a_connection_is_served_on_when_its_sibling_refuses_it() {
    let (mut replica, group) = replica(&["--lame-duck", "5s"]);
    let mut client = replica.connect();
    client.get("/");
    sibling(&group, replica.addr, |peer, id, _| {
        peer.say(&Message::Refused { id, reason: Reason::Stopping });
    });
    replica.terminate();
    replica.wait_for("lame_duck");
    assert!(client.get("/").is_last());
    assert_eq!(replica.wait().0, 0);
}

#[test]
fn a_replica_that_gave_its_listener_away_does_not_say_that_it_closed_it() {
    let (mut replica, group) = replica(&["--lame-duck", "50ms"]);
    let mut idle = replica.connect();
    idle.get("/");
    sibling(&group, replica.addr, |peer, id, _| {
        peer.say(&Message::Refused { id, reason: Reason::Stopping });
    });
    replica.terminate();
    idle.wait_until_closed();
    let (code, exit) = replica.wait();
    assert_eq!((code, &exit["connections_closed_idle"]), (0, &1.into()));
    let events = replica.events();
    assert!(events.contains(&"listener_given") && !events.contains(&"listener_closed"), "{events:?}");
}

#[test]
fn a_connection_that_a_sibling_took_before_it_died_is_not_served_twice() {
    let (mut replica, group) = replica(&[]);
    let mut client = replica.connect();
    client.get("/");
    let (sender, taken) = std::sync::mpsc::channel();
    sibling(&group, replica.addr, move |peer, id, descriptor| {
        peer.say(&Message::Taken { id });
        sender.send(TcpStream::from(descriptor)).unwrap();
    });
    replica.terminate();
    let (code, exit) = replica.wait();
    assert_eq!((code, &exit["connections_given"]), (0, &1.into()));
    // The whole request is there for the one who took it.
    client.ask("/");
    let mut stream = taken.recv_timeout(PATIENCE).unwrap();
    stream.set_nonblocking(false).unwrap();
    let mut head = [0; 16];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"GET / HTTP/1.1\r\n");
}

#[test]
fn what_was_read_of_a_request_travels_with_its_connection() {
    let (mut replica, group) = replica(&[]);
    let mut client = replica.connect();
    client.get("/");
    client.send("GET / HT");
    client.wait_until_read();
    let listening = host(&place(&group, 1));
    let addr = replica.addr;
    let served = thread::spawn(move || {
        let (channel, _) = listening.accept().unwrap();
        let peer = Peer(channel);
        peer.hear();
        peer.say(&hello(addr));
        loop {
            let (bytes, descriptor) = peer.hear();
            match Message::decode(&bytes) {
                Ok(Message::GiveListener { id, .. }) => peer.say(&Message::Taken { id }),
                Ok(Message::GiveConnection { id, unread }) => {
                    let unread = unread.to_vec();
                    peer.say(&Message::Taken { id });
                    if !unread.is_empty() {
                        return (unread, descriptor);
                    }
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    });
    replica.terminate();
    let (unread, _descriptor) = served.join().unwrap();
    assert_eq!(unread, b"GET / HT");
    assert_eq!(replica.wait().0, 0);
}

#[test]
fn a_sibling_that_does_not_answer_is_no_sibling() {
    let (mut replica, group) = replica(&["--lame-duck", "100ms"]);
    let _listening = host(&place(&group, 1));
    replica.terminate();
    let refused = replica.wait_for("handover_refused");
    assert_eq!(refused["reason"], "no answer in time");
    assert_eq!(replica.wait().0, 0);
}

#[test]
fn a_starting_replica_is_not_held_up_by_a_broken_sibling() {
    let group = unique("hitless-test");
    let listening = host(&place(&group, 0));
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = holder.local_addr().unwrap();
    drop(holder);
    let breaker = thread::spawn(move || {
        let (channel, _) = listening.accept().unwrap();
        Peer(channel).send(b"nonsense", None);
    });
    let replica = Replica::start_at(&addr.to_string(), &["--handover", &format!("unix:@{group}")]);
    breaker.join().unwrap();
    assert_eq!(Client::connect(replica.addr).unwrap().get("/").status, 200);
}
