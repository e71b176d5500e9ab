//! Siblings and claimers that hang or misbehave in the middle of a handover, and replicas that are full: nothing is lost,
//! nothing is served twice, and nobody waits for them for long.

use std::thread;

use crate::support::peer::{Peer, hello, host, place, replica, sibling};
use crate::support::{Client, Replica, connection_to};
use hitless_server::handover::protocol::{Message, Reason};

#[test]
fn a_sibling_that_hangs_in_the_middle_of_a_handover_loses_nothing_and_delays_no_other() {
    let mut first = Replica::start(&[]);
    let addr = first.addr.to_string();
    let (mut second, third) = (Replica::start_at(&addr, &[]), Replica::start_at(&addr, &[]));
    let mut clients: Vec<_> = (0..40).map(|_| connection_to(&first)).collect();
    clients.iter_mut().for_each(Client::begin_upload);
    first.wait_until_in_flight(40);
    first.terminate();
    first.wait_for("handover_begun");
    second.freeze();
    for client in &mut clients {
        client.end_upload();
        assert!(!client.answer().is_last());
        client.ask("/");
    }
    // Answered by the third, those that were under way to the second too, or by the first while they wait for their turn.
    for client in &mut clients {
        let answer = client.answer();
        assert!(answer.replica() != second.name && !answer.is_last());
    }
    let (code, exit) = first.wait();
    assert_eq!((code, &exit["cut"], &exit["connections_given"]), (0, &0.into(), &40.into()), "{exit:#}");
    assert!(!first.events().contains(&"lame_duck"));
    // The second wakes up and finds gifts that are not its own any more.
    second.thaw();
    second.wait_for("handover_refused");
    assert_eq!(second.account()["connections_taken"], 0);
    for client in &mut clients {
        assert_eq!(client.get("/").replica(), third.name);
    }
}

#[test]
fn a_sibling_that_never_answers_is_given_up_and_cannot_answer_later() {
    let (mut replica, group) = replica(&["--lame-duck", "5s"]);
    let mut client = replica.connect();
    client.get("/");
    let (sender, is_heard) = std::sync::mpsc::channel();
    sibling(&group, replica.addr, move |peer, _, descriptor| {
        peer.wait_for_end();
        sender.send(peer.is_heard()).unwrap();
        drop(descriptor);
    });
    replica.terminate();
    assert_eq!(replica.wait_for("handover_refused")["reason"], "no answer in time");
    replica.wait_for("lame_duck");
    let answer = client.get("/");
    assert_eq!((answer.replica(), answer.is_last()), (replica.name.as_str(), true));
    assert!(!is_heard.recv().unwrap());
    let (code, exit) = replica.wait();
    assert_eq!((code, &exit["connections_given"]), (0, &0.into()));
}

#[test]
fn a_sibling_that_was_only_late_is_given_everything_after_all() {
    let (mut replica, group) = replica(&["--lame-duck", "50s", "--drain-timeout", "60s"]);
    let mut client = replica.connect();
    client.get("/");
    let (listening, addr) = (host(&place(&group, 1)), replica.addr);
    let sibling = thread::spawn(move || {
        // The first talk ends without an answer; in the second one everything is taken.
        let late = Peer::accept(&listening, &hello(addr));
        let Ok(Message::GiveListener { id, .. }) = Message::decode(&late.hear().0) else { panic!() };
        late.say(&Message::Taken { id });
        late.wait_for_end();
        let peer = Peer::accept(&listening, &hello(addr));
        let (bytes, descriptor) = peer.hear();
        let Ok(Message::GiveConnection { id, .. }) = Message::decode(&bytes) else { panic!() };
        peer.say(&Message::Taken { id });
        peer.wait_for_end();
        drop(descriptor);
    });
    replica.terminate();
    let (code, exit) = replica.wait();
    assert_eq!((code, &exit["connections_given"]), (0, &1.into()), "{exit:#}");
    assert!(!replica.events().contains(&"lame_duck"));
    sibling.join().unwrap();
}

#[test]
fn after_an_answer_that_is_none_the_sibling_cannot_take_what_it_was_given() {
    let (mut replica, group) = replica(&["--lame-duck", "5s"]);
    let mut clients = [replica.connect(), replica.connect()];
    for client in &mut clients {
        client.get("/");
    }
    let (sender, is_heard) = std::sync::mpsc::channel();
    sibling(&group, replica.addr, move |peer, id, _| {
        let (bytes, other) = peer.hear();
        let Ok(Message::GiveConnection { id: second, .. }) = Message::decode(&bytes) else { panic!() };
        // Out of order, and after nonsense: a word that something was taken counts all the same.
        peer.say(&Message::Taken { id: second });
        peer.say(&Message::Claim);
        peer.wait_for_end();
        sender.send((peer.is_heard(), id, other)).unwrap();
    });
    replica.terminate();
    assert_eq!(replica.wait_for("handover_refused")["reason"], "a message out of turn");
    replica.wait_for("lame_duck");
    let (is_heard, _, taken) = is_heard.recv().unwrap();
    assert!(!is_heard && taken.is_some());
    drop(taken);
    // One was taken (and ended); the other one is still the replica's.
    let mut answers = 0;
    for client in &mut clients {
        client.ask("/");
        answers += usize::from(client.try_answer().is_ok());
    }
    assert_eq!(answers, 1);
    let (code, exit) = replica.wait();
    assert_eq!((code, &exit["connections_given"]), (0, &1.into()));
}

#[test]
fn a_claimer_that_hangs_does_not_keep_a_listener_from_the_next_sibling() {
    let (mut first, group) = replica(&["--lame-duck", "50s", "--drain-timeout", "60s"]);
    let giver = Peer::connect(&group);
    giver.greet(first.addr);
    let id = giver.give_listener(first.addr);
    drop(giver);
    let claimer = Peer::connect(&group);
    claimer.greet(first.addr);
    claimer.say(&Message::Claim);
    claimer.expect(&Message::Offer { id, owner: "gone" });
    let address = format!("unix:@{group}");
    let second = Replica::start_at(&first.addr.to_string(), &["--handover", &address]);
    first.terminate();
    let (code, exit) = first.wait();
    assert_eq!((code, &exit["listeners_given"]), (0, &2.into()), "{exit:#}");
    assert!(!first.events().contains(&"lame_duck"), "a claim is a matter of a moment");
    claimer.wait_for_end();
    drop(claimer);
    for _ in 0..50 {
        assert_eq!(second.connect().get("/").status, 200);
    }
}

/// A sibling that takes listeners and answers the offer of a connection, `answers` times in all.
fn picky(group: &str, replica: &Replica, reasons: Vec<Option<Reason>>) -> thread::JoinHandle<usize> {
    let listening = host(&place(group, 1));
    let addr = replica.addr;
    thread::spawn(move || {
        let peer = Peer::accept(&listening, &hello(addr));
        let mut reasons = reasons.into_iter();
        let (mut held, mut refused) = (Vec::new(), 0);
        loop {
            let (bytes, descriptor) = peer.hear();
            match Message::decode(&bytes) {
                Ok(Message::GiveListener { id, .. }) => peer.say(&Message::Taken { id }),
                Ok(Message::GiveConnection { id, .. }) => {
                    match reasons.next().unwrap_or(Some(Reason::Full)) {
                        Some(reason) => {
                            refused += 1;
                            peer.say(&Message::Refused { id, reason });
                            continue;
                        }
                        None => peer.say(&Message::Taken { id }),
                    }
                }
                _ => return refused,
            }
            held.extend(descriptor);
        }
    })
}

#[test]
fn a_connection_that_was_refused_for_want_of_room_is_offered_again() {
    let (mut replica, group) = replica(&["--lame-duck", "50s", "--drain-timeout", "60s"]);
    let mut client = replica.connect();
    client.get("/");
    let sibling = picky(&group, &replica, vec![Some(Reason::Full), Some(Reason::Full), None]);
    replica.terminate();
    let (code, exit) = replica.wait();
    assert_eq!((code, &exit["connections_given"]), (0, &1.into()), "{exit:#}");
    assert_eq!(sibling.join().unwrap(), 2);
    drop(client);
}

#[test]
fn a_connection_that_nobody_has_room_for_is_not_kept_to_the_end_of_the_drain() {
    let (mut replica, group) = replica(&["--lame-duck", "300ms", "--drain-timeout", "60s"]);
    let (mut idle, mut at_work) = (replica.connect(), replica.connect());
    idle.get("/");
    at_work.get("/");
    let sibling = picky(&group, &replica, Vec::new());
    replica.terminate();
    replica.wait_for("handover_refused");
    // Whoever comes while it waits meets the last answer, like that of a lame duck.
    let answer = at_work.get("/");
    assert_eq!((answer.replica(), answer.is_last()), (replica.name.as_str(), true));
    idle.wait_until_closed();
    let (code, exit) = replica.wait();
    assert_eq!((code, &exit["cut"], &exit["connections_closed_idle"]), (0, &0.into(), &1.into()), "{exit:#}");
    assert!(sibling.join().unwrap() > 2);
    assert!(!replica.events().contains(&"drain_timeout"));
}

#[test]
fn a_full_house_serves_each_of_its_accept_queues() {
    let (replica, group) = replica(&["--max-connections", "1"]);
    let giver = Peer::connect(&group);
    giver.greet(replica.addr);
    for _ in 0..3 {
        giver.give_listener(replica.addr);
    }
    for _ in 0..100 {
        assert_eq!(replica.connect().get("/").status, 200);
    }
}

#[test]
fn listeners_are_given_to_different_siblings() {
    let first = Replica::start(&[]);
    let addr = first.addr.to_string();
    let others: Vec<_> = (0..3).map(|_| Replica::start_at(&addr, &[])).collect();
    let [mut second, third, fourth] = others.try_into().ok().unwrap();
    let mut first = first;
    first.terminate();
    assert_eq!(first.wait_for("listener_given")["to"], second.name.as_str());
    assert_eq!(first.wait().0, 0);
    second.terminate();
    assert_eq!(second.wait().0, 0);
    for replica in [&third, &fourth] {
        assert_eq!(replica.account()["listeners_taken"], 1);
    }
}

#[test]
fn a_process_without_a_free_descriptor_refuses_a_connection_and_goes_on() {
    let (mut replica, group) = replica(&[]);
    let giver = Peer::connect(&group);
    giver.greet(replica.addr);
    let limit = |current| {
        let pid = rustix::process::Pid::from_raw(replica.pid().try_into().unwrap());
        let maximum = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        let limit = rustix::process::Rlimit { current, maximum };
        rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit).unwrap().current
    };
    let old = limit(Some(3));
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let gift = Message::GiveConnection { id: 1, unread: b"" }.encode();
    giver.send(&gift, Some(std::os::fd::AsFd::as_fd(&udp)));
    giver.expect(&Message::Refused { id: 1, reason: Reason::Full });
    let listener = Message::GiveListener { id: 2, owner: "gone" }.encode();
    giver.send(&listener, Some(std::os::fd::AsFd::as_fd(&udp)));
    giver.expect(&Message::Refused { id: 2, reason: Reason::Full });
    limit(old);
    // The channel lives on.
    giver.give_listener(replica.addr);
    assert!(replica.wait_for("handover_refused")["reason"].as_str().unwrap().contains("descriptor"));
}
