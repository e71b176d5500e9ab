//! What a client sees of a restart under the preset `handover`: nothing.

use crate::support::{Client, Failure, Replica, UPLOADED, connection_to, is_refused, unique};
use serde_json::Value;

const HANDOVER: &[&str] = &["--preset", "handover"];

/// Two ready replicas on one port.
fn pair() -> (Replica, Replica) {
    let first = Replica::start(HANDOVER);
    let second = Replica::start_at(&first.addr.to_string(), HANDOVER);
    (first, second)
}

/// Starts a replica anew under its name, on its port.
fn restart(replica: &Replica) -> Replica {
    Replica::start_named(&replica.name, &replica.addr.to_string(), HANDOVER)
}

fn stop(mut replica: Replica) -> Value {
    replica.terminate();
    let (code, exit) = replica.wait();
    assert_eq!((code, &exit["cut"]), (0, &0.into()), "{exit:#}");
    exit
}

#[test]
fn handover_is_the_default() {
    let mut replica = Replica::launch(&unique("default"), "127.0.0.1:0", &[]);
    assert_eq!(replica.wait_for("starting")["preset"], "handover");
    replica.wait_for("ready");
}

#[test]
fn an_idle_connection_lives_on_in_the_sibling() {
    let (first, second) = pair();
    let mut client = connection_to(&first);
    let exit = stop(first);
    assert_eq!((&exit["listeners_given"], &exit["connections_given"]), (&1.into(), &1.into()));
    assert_eq!(client.get("/").replica(), second.name);
    let account = second.account();
    assert_eq!((&account["listeners_taken"], &account["connections_taken"]), (&1.into(), &1.into()));
}

#[test]
fn a_connection_that_has_sent_no_byte_lives_on_too() {
    let (first, second) = pair();
    let mut clients: Vec<_> = (0..32).map(|_| first.connect()).collect();
    second.wait_until("accepted", |account| {
        account["accepted"].as_u64().unwrap() + first.account()["accepted"].as_u64().unwrap() >= 32
    });
    let exit = stop(first);
    assert!(exit["connections_given"].as_u64().unwrap() > 0);
    for client in &mut clients {
        assert_eq!(client.get("/").replica(), second.name);
    }
}

#[test]
fn half_a_request_head_travels_with_its_connection() {
    let (first, second) = pair();
    // The first request of a connection, and a later one.
    let mut later = connection_to(&first);
    later.send("GET / HTTP/1.1\r\nho");
    let mut fresh: Vec<_> = (0..16).map(|_| first.connect()).collect();
    for client in &mut fresh {
        client.send("GET / HTTP/1.1\r\nho");
    }
    fresh.push(later);
    for client in &fresh {
        client.wait_until_read();
    }
    stop(first);
    for client in &mut fresh {
        client.send("st: test\r\n\r\n");
        let answer = client.answer();
        assert_eq!((answer.text(), answer.replica()), ("hello world", second.name.as_str()));
        assert!(!answer.is_last());
    }
}

#[test]
fn a_busy_connection_is_handed_over_after_its_response() {
    let (mut first, second) = pair();
    let mut client = connection_to(&first);
    client.begin_upload();
    first.wait_until_in_flight(1);
    first.terminate();
    first.wait_for("handover_begun");
    // The next request comes with the end of the one that it is still busy with; whoever answers it, it is answered.
    client.send("barGET / HTTP/1.1\r\nhost: test\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.replica(), answer.is_last()), (first.name.as_str(), false));
    assert_eq!(answer.text(), UPLOADED);
    let answer = client.answer();
    assert_eq!((answer.status, answer.is_last()), (200, false));
    let (code, exit) = first.wait();
    assert_eq!((code, &exit["connections_given"]), (0, &1.into()));
    assert!((1..=2).contains(&exit["drained"].as_u64().unwrap()), "{exit:#}");
    for span in ["signal_to_last_response_ns", "signal_to_exit_ns"] {
        assert!(exit[span].as_u64().unwrap() > 0, "{exit:#}");
    }
    assert_eq!(client.get("/").replica(), second.name);
}

#[test]
fn what_comes_while_a_connection_is_busy_is_answered_by_the_sibling() {
    let (mut first, second) = pair();
    let mut client = connection_to(&first);
    client.ask("/?delay=1s");
    first.wait_until_in_flight(1);
    first.terminate();
    first.wait_for("handover_begun");
    client.ask("/");
    let names = [first.name.as_str(), second.name.as_str()];
    assert_eq!([client.answer().replica(), client.answer().replica()], names);
}

#[test]
fn an_upload_under_way_finishes_where_it_began_and_its_connection_lives_on() {
    let (mut first, second) = pair();
    let mut client = connection_to(&first);
    client.begin_upload();
    first.wait_until_in_flight(1);
    first.terminate();
    first.wait_for("handover_begun");
    client.end_upload();
    let answer = client.answer();
    assert_eq!((answer.text(), answer.replica()), (UPLOADED, first.name.as_str()));
    assert_eq!(first.wait().0, 0);
    assert_eq!(client.get("/").replica(), second.name);
}

#[test]
fn a_connection_whose_request_body_nobody_read_lives_on() {
    let (first, second) = pair();
    let mut client = connection_to(&first);
    client.send("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 3\r\n\r\nfoo");
    assert_eq!(client.answer().status, 405);
    stop(first);
    assert_eq!(client.get("/").replica(), second.name);
}

#[test]
fn the_restarted_replica_claims_its_listener_back() {
    let (first, second) = pair();
    let name = first.name.clone();
    let addr = first.addr.to_string();
    stop(first);
    let mut first = Replica::launch(&name, &addr, HANDOVER);
    assert_eq!(first.wait_for("listener_claimed")["from"], second.name.as_str());
    first.wait_for("ready");
    assert_eq!(first.account()["listeners_claimed"], 1);
    second.wait_until("returned", |account| account["listeners_returned"] == 1);
    // Both get their share of new connections again.
    first.addr = second.addr;
    connection_to(&first);
    connection_to(&second);
}

/// The first line of the promise: a connection from before the first restart, and half a head sent before the signal.
#[test]
fn one_connection_outlives_twenty_restarts_of_both_replicas() {
    let (mut first, mut second) = pair();
    let mut client = first.connect();
    let port = client.local_addr();
    client.get("/");
    for round in 0..20 {
        for replica in [&mut first, &mut second] {
            let is_half = round % 2 == 0;
            if is_half {
                client.send("GET / HTTP/1.1\r\nho");
            }
            replica.terminate();
            let (code, exit) = replica.wait();
            assert_eq!((code, &exit["connections_closed_idle"]), (0, &0.into()), "{exit:#}");
            if is_half {
                client.send("st: test\r\n\r\n");
            } else {
                client.ask("/");
            }
            let answer = client.answer();
            assert_eq!((answer.status, answer.text(), answer.is_last()), (200, "hello world", false));
            *replica = restart(replica);
        }
    }
    assert_eq!(client.local_addr(), port);
    assert_eq!(first.account()["listeners_claimed"], 1);
}

/// So long that no test waits for its end.
const LONG_LAME_DUCK: &[&str] = &["--preset", "handover", "--lame-duck", "50s", "--drain-timeout", "60s"];

#[test]
fn without_a_sibling_a_lame_duck_answers_and_says_that_it_closes() {
    let mut replica = Replica::start(LONG_LAME_DUCK);
    let mut client = replica.connect();
    client.get("/");
    replica.terminate();
    replica.wait_for("lame_duck");
    let answer = client.get("/");
    assert_eq!((answer.status, answer.is_last()), (200, true));
    client.wait_until_closed();
    // New connections are served too.
    assert!(replica.connect().get("/").is_last());
}

#[test]
fn after_the_lame_duck_nobody_listens_and_idle_connections_are_closed() {
    let mut replica = Replica::start(&["--preset", "handover", "--lame-duck", "0s"]);
    let mut idle = replica.connect();
    idle.get("/");
    replica.terminate();
    replica.wait_for("listener_closed");
    idle.wait_until_closed();
    let (code, exit) = replica.wait();
    assert_eq!((code, &exit["connections_closed_idle"]), (0, &1.into()));
    assert!(is_refused(replica.addr));
}

#[test]
fn clients_that_wait_in_the_accept_queue_at_the_end_are_still_answered() {
    let mut replica =
        Replica::start(&["--preset", "handover", "--lame-duck", "0s", "--max-connections", "2"]);
    let mut idle = [replica.connect(), replica.connect()];
    for client in &mut idle {
        client.get("/");
    }
    // The house is full: they wait outside.
    let mut waiting: Vec<_> = (0..8).map(|_| replica.connect()).collect();
    for client in &mut waiting {
        client.ask("/");
    }
    replica.terminate();
    for client in &mut waiting {
        let answer = client.answer();
        assert_eq!((answer.status, answer.is_last()), (200, true));
    }
    let (code, exit) = replica.wait();
    assert_eq!((code, &exit["accepted"]), (0, &10.into()));
    // An answer is with the client a moment before it is counted.
    assert!((8..=10).contains(&exit["drained"].as_u64().unwrap()), "{exit:#}");
}

#[test]
fn both_told_to_stop_at_once_answer_what_was_begun_what_is_idle_and_what_is_new() {
    let (mut first, mut second) = pair();
    let mut busy = [connection_to(&first), connection_to(&second)];
    let mut idle = [connection_to(&first), connection_to(&second)];
    busy.iter_mut().for_each(Client::begin_upload);
    first.wait_until_in_flight(1);
    second.wait_until_in_flight(1);
    // Neither sees its signal before the other one has it too.
    for replica in [&first, &second] {
        replica.freeze();
    }
    for replica in [&first, &second] {
        replica.terminate();
    }
    let mut new: Vec<_> = (0..16).map(|_| first.connect()).collect();
    for client in idle.iter_mut().chain(&mut new) {
        client.ask("/");
    }
    busy.iter_mut().for_each(Client::end_upload);
    for replica in [&first, &second] {
        replica.thaw();
    }
    for client in idle.iter_mut().chain(&mut new) {
        assert_eq!(client.answer().text(), "hello world");
    }
    for client in &mut busy {
        assert_eq!(client.answer().text(), UPLOADED);
    }
    for replica in [&mut first, &mut second] {
        let (code, exit) = replica.wait();
        assert_eq!((code, &exit["cut"]), (0, &0.into()), "{exit:#}");
    }
}

#[test]
fn a_second_signal_ends_a_lame_duck_at_once() {
    let mut replica = Replica::start(LONG_LAME_DUCK);
    let _client = replica.connect();
    replica.terminate();
    replica.wait_for("lame_duck");
    replica.terminate();
    let (code, exit) = replica.wait();
    assert_eq!((code, &exit["cut"]), (143, &0.into()));
    assert!(is_refused(replica.addr));
}

#[test]
fn a_second_signal_ends_a_handover_at_once_and_takes_nothing_from_the_sibling() {
    let (mut first, second) = pair();
    let (mut busy, mut idle) = (connection_to(&first), connection_to(&first));
    busy.begin_upload();
    first.wait_until_in_flight(1);
    first.terminate();
    first.wait_for("handover_begun");
    first.wait_until("given", |account| account["connections_given"] == 1);
    first.signal("INT");
    let (code, exit) = first.wait();
    assert_eq!((code, &exit["cut"]), (130, &1.into()), "{exit:#}");
    assert!(matches!(busy.try_answer().unwrap_err(), Failure::Empty | Failure::Reset));
    assert_eq!(idle.get("/").replica(), second.name);
    for _ in 0..50 {
        assert_eq!(second.connect().get("/").replica(), second.name);
    }
}

#[test]
fn a_lame_duck_gives_everything_to_the_next_generation() {
    let mut old = Replica::start(LONG_LAME_DUCK);
    let mut client = old.connect();
    client.get("/");
    let mut unread = old.connect();
    unread.send("GET / HTTP/1.1\r\nho");
    unread.wait_until_read();
    old.terminate();
    old.wait_for("lame_duck");
    let new = Replica::start_at(&old.addr.to_string(), HANDOVER);
    let (code, exit) = old.wait();
    assert_eq!((code, &exit["connections_closed_idle"]), (0, &0.into()), "{exit:#}");
    assert!(!old.events().contains(&"listener_closed"));
    assert_eq!(client.get("/").replica(), new.name);
    unread.send("st: test\r\n\r\n");
    assert_eq!(unread.answer().replica(), new.name);
    assert_eq!(new.connect().get("/").status, 200);
}

#[test]
fn listeners_held_for_others_are_given_on() {
    let (first, second) = pair();
    let third = Replica::start_at(&first.addr.to_string(), HANDOVER);
    let addr = first.addr;
    let mut client = connection_to(&first);
    stop(first);
    // Whoever of the two took the first's listener, the other one ends up with all three.
    stop(second);
    let account = third.account();
    assert_eq!(account["listeners_taken"], 2, "{account:#}");
    for _ in 0..50 {
        assert_eq!(Client::connect(addr).unwrap().get("/").replica(), third.name);
    }
    assert_eq!(client.get("/").replica(), third.name);
    assert!(third.account()["accepted_for_sibling"].as_u64().unwrap() > 0);
}

#[test]
fn connections_are_shared_out_among_several_siblings() {
    let (first, second) = pair();
    let third = Replica::start_at(&first.addr.to_string(), HANDOVER);
    let mut clients: Vec<_> = (0..10).map(|_| connection_to(&first)).collect();
    let exit = stop(first);
    assert!(exit["connections_given"].as_u64().unwrap() >= 10);
    let names: Vec<_> = clients.iter_mut().map(|client| client.get("/").replica().to_owned()).collect();
    for sibling in [&second, &third] {
        assert!(names.iter().filter(|name| **name == sibling.name).count() >= 3, "{names:?}");
    }
}

#[test]
fn a_sibling_killed_while_it_holds_our_listener_is_no_obstacle_to_come_back() {
    let (first, second) = pair();
    let (name, addr) = (first.name.clone(), first.addr);
    stop(first);
    second.signal("KILL");
    drop(second);
    assert!(is_refused(addr));
    let first = Replica::start_named(&name, &addr.to_string(), HANDOVER);
    assert_eq!(first.account()["listeners_claimed"], 0);
    assert_eq!(first.connect().get("/").replica(), name);
}

#[test]
fn a_replica_that_was_killed_comes_back_beside_its_sibling() {
    let (mut first, second) = pair();
    first.signal("KILL");
    first.wait_for_end();
    let first = restart(&first);
    let mut client = connection_to(&first);
    stop(first);
    assert_eq!(client.get("/").replica(), second.name);
}

#[test]
fn a_sibling_of_another_preset_is_no_sibling() {
    let first = Replica::start(HANDOVER);
    let second = Replica::start_at(&first.addr.to_string(), &["--preset", "reuseport"]);
    let mut first = first;
    first.terminate();
    first.wait_for("lame_duck");
    assert_eq!(first.wait().0, 0);
    assert_eq!(second.connect().get("/").replica(), second.name);
}

#[test]
fn a_request_that_outlasts_the_drain_is_cut_and_counted() {
    let mut first = Replica::start(&["--preset", "handover", "--drain-timeout", "300ms"]);
    let second = Replica::start_at(&first.addr.to_string(), HANDOVER);
    let mut client = connection_to(&first);
    client.begin_upload();
    first.wait_until_in_flight(1);
    first.terminate();
    assert_eq!(first.wait_for("drain_timeout")["cut"], 1);
    assert_eq!(first.wait().0, 3);
    assert!(matches!(client.try_answer().unwrap_err(), Failure::Empty | Failure::Reset));
    assert_eq!(second.connect().get("/").status, 200);
}

#[test]
fn replicas_may_share_a_directory_instead_of_a_network_namespace() {
    let directory = tempfile::tempdir().unwrap();
    let group = format!("unix:{}", directory.path().display());
    let args = ["--preset", "handover", "--handover", &group];
    let first = Replica::start(&args);
    let second = Replica::start_at(&first.addr.to_string(), &args);
    let mut client = connection_to(&first);
    stop(first);
    assert_eq!(client.get("/").replica(), second.name);
}

#[test]
fn an_event_stream_is_told_to_connect_again() {
    let (mut first, second) = pair();
    let mut client = connection_to(&first);
    client.ask("/events?every=20ms");
    first.wait_until_in_flight(1);
    first.terminate();
    let (code, exit) = first.wait();
    assert_eq!((code, &exit["cut"]), (0, &0.into()));
    let text = client.read_chunked();
    assert!(text.contains("data: 0\n"), "{text}");
    assert!(text.contains("retry: 100\n"), "{text}");
    // Not even this connection ended.
    assert_eq!(client.get("/").replica(), second.name);
}
