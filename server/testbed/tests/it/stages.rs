//! The three stages of the story, each with what a client sees.

use crate::support::{Client, Failure, Replica, is_refused};

/// Starts a request that takes so long and waits until the replica is at it.
fn begin(replica: &Replica, delay: &str) -> Client {
    let mut client = replica.connect();
    client.ask(&format!("/?delay={delay}"));
    replica.wait_until_in_flight(1);
    client
}

#[test]
fn normal_ends_at_once_and_its_request_gets_an_empty_reply() {
    for (signal, number) in [("TERM", 15), ("INT", 2)] {
        let mut replica = Replica::start(&["--preset", "normal"]);
        let mut client = begin(&replica, "20s");
        replica.signal(signal);
        let (code, exit) = replica.wait();
        assert_eq!(code, 128 + number);
        assert_eq!(exit["cut"], 1);
        assert_eq!(client.try_answer().unwrap_err(), Failure::Empty);
        assert!(is_refused(replica.addr));
        assert!(!replica.events().contains(&"draining"));
    }
}

#[test]
fn graceful_finishes_its_request_while_new_connections_are_refused() {
    let mut replica = Replica::start(&["--preset", "graceful"]);
    let mut client = begin(&replica, "500ms");
    replica.terminate();
    replica.wait_for("listener_closed");
    assert!(is_refused(replica.addr));
    let answer = client.answer();
    assert_eq!((answer.status, answer.text()), (200, "hello world"));
    assert!(answer.is_last());
    let (code, exit) = replica.wait();
    assert_eq!(code, 0);
    assert_eq!((&exit["begun"], &exit["answered"], &exit["cut"]), (&1.into(), &1.into(), &0.into()));
}

/// The riddle: the listener's end comes long before the process's, and `log.Fatal` would have ended the process there.
#[test]
fn the_process_ends_when_the_drain_ends_and_not_when_the_listener_does() {
    let mut replica = Replica::start(&["--preset", "graceful"]);
    let mut client = begin(&replica, "500ms");
    replica.terminate();
    let closed = replica.wait_for("listener_closed");
    let last = replica.wait_for("last_response");
    let drained = replica.wait_for("drained");
    let (_, exit) = replica.wait();
    let at = |event: &serde_json::Value| event["mono_ns"].as_u64().unwrap();
    assert!(at(&closed) < at(&last) && at(&last) <= at(&drained) && at(&drained) <= at(&exit));
    assert!(at(&last) - at(&closed) > 100_000_000, "the request outlived the listener");
    assert_eq!(client.answer().text(), "hello world");
}

#[test]
fn a_life_is_logged_in_its_order() {
    let mut replica = Replica::start(&["--preset", "graceful"]);
    replica.connect().get("/");
    replica.terminate();
    replica.wait();
    assert_eq!(
        replica.events(),
        [
            "starting",
            "listening",
            "ready",
            "signal_received",
            "draining",
            "listener_closed",
            "last_response",
            "drained",
            "exit"
        ]
    );
}

#[test]
fn graceful_closes_idle_connections_also_those_that_sent_no_byte() {
    for preset in ["graceful", "reuseport"] {
        let mut replica = Replica::start(&["--preset", preset]);
        let mut used = replica.connect();
        assert_eq!(used.get("/").status, 200);
        let mut unused = replica.connect();
        replica.wait_until("connected", |account| account["connections"] == 2);
        replica.terminate();
        used.wait_until_closed();
        unused.wait_until_closed();
        let (code, exit) = replica.wait();
        assert_eq!((code, &exit["connections_closed_idle"]), (0, &2.into()));
    }
}

#[test]
fn graceful_answers_a_request_whose_head_is_half_here() {
    let mut replica = Replica::start(&["--preset", "graceful"]);
    let mut first = replica.connect();
    first.send("GET / HTTP/1.1\r\nho");
    let mut second = replica.connect();
    second.get("/");
    second.send("GET / HTTP/1.1\r\nho");
    first.wait_until_read();
    second.wait_until_read();
    replica.terminate();
    replica.wait_for("listener_closed");
    for client in [&mut first, &mut second] {
        client.send("st: test\r\n\r\n");
        let answer = client.answer();
        assert_eq!(answer.text(), "hello world");
        assert!(answer.is_last());
    }
    assert_eq!(replica.wait().0, 0);
}

#[test]
fn reuseport_leaves_the_port_to_its_sibling() {
    let mut first = Replica::start(&["--preset", "reuseport"]);
    let listen = first.addr.to_string();
    let mut client = begin(&first, "500ms");
    let second = Replica::start_at(&listen, &["--preset", "reuseport"]);
    first.terminate();
    first.wait_for("listener_closed");
    for _ in 0..50 {
        assert_eq!(second.connect().get("/").replica(), second.name);
    }
    assert_eq!(client.answer().replica(), first.name);
    assert_eq!(first.wait().0, 0);
}

#[test]
fn an_exclusive_port_cannot_be_shared() {
    let first = Replica::start(&["--preset", "graceful"]);
    let output = crate::support::run(&[
        "--listen",
        &first.addr.to_string(),
        "--name",
        &crate::support::unique("second"),
    ]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn the_drain_timeout_cuts_and_counts() {
    let mut replica = Replica::start(&["--preset", "graceful", "--drain-timeout", "200ms"]);
    let mut client = begin(&replica, "20s");
    replica.terminate();
    assert_eq!(replica.wait_for("drain_timeout")["cut"], 1);
    let (code, exit) = replica.wait();
    assert_eq!((code, &exit["cut"]), (3, &1.into()));
    assert_eq!(client.try_answer().unwrap_err(), Failure::Empty);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut replica = Replica::start(&["--preset", "graceful"]);
    let mut client = begin(&replica, "20s");
    replica.terminate();
    replica.wait_for("draining");
    replica.signal("INT");
    let (code, exit) = replica.wait();
    assert_eq!((code, &exit["cut"]), (130, &1.into()));
    assert_eq!(client.try_answer().unwrap_err(), Failure::Empty);
}

#[test]
fn health_and_readiness_are_of_this_very_replica_although_the_port_is_shared() {
    let mut first = Replica::start(&["--preset", "reuseport"]);
    let second = Replica::start_at(&first.addr.to_string(), &["--preset", "reuseport"]);
    assert_eq!(first.health(), (0, "ready\n".to_owned()));
    first.terminate();
    assert_eq!(first.wait().0, 0);
    assert_eq!(second.health(), (0, "ready\n".to_owned()));
    let (code, line) = first.health();
    assert_eq!(code, 1);
    assert!(line.starts_with("not ready: no answer at unix:@hitless-server."), "{line}");
}

#[test]
fn a_request_that_finishes_during_the_drain_is_answered_while_readiness_says_draining() {
    let mut replica = Replica::start(&["--preset", "graceful"]);
    let mut client = begin(&replica, "1s");
    replica.terminate();
    replica.wait_for("draining");
    assert_eq!(replica.ask("/readyz"), (503, "draining\n".to_owned()));
    assert_eq!(replica.health(), (1, "not ready: draining\n".to_owned()));
    assert_eq!(client.answer().status, 200);
    assert_eq!(replica.wait().0, 0);
}

#[test]
fn uploads_and_streams_under_way_finish() {
    let mut replica = Replica::start(&["--preset", "graceful"]);
    let mut upload = replica.connect();
    upload.send("POST /upload HTTP/1.1\r\nhost: test\r\ncontent-length: 6\r\n\r\nfoo");
    let mut stream = replica.connect();
    stream.ask("/stream?bytes=5000&over=500ms");
    replica.wait_until_in_flight(2);
    replica.terminate();
    replica.wait_for("listener_closed");
    upload.send("bar");
    assert_eq!(upload.answer().text(), "6 85944171f73967e8\n");
    let answer = stream.answer();
    assert!((0_u64..).zip(&answer.body).all(|(i, &byte)| byte == (31 * i + i / 256).to_le_bytes()[0]));
    assert_eq!(answer.body.len(), 5000);
    assert_eq!(replica.wait().0, 0);
}
