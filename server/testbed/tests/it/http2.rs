//! HTTP/2 clients of a replica that stops, and those that stay away too long.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::Replica;
use crate::support::http2::{Frame, GO_AWAY_SOON, Http2Client, body_of};

/// Reads the first step of a shutdown, and returns the PING whose answer allows the second.
fn told_to_go(client: &mut Http2Client) -> [u8; 8] {
    let frames = client.read_until(|frame| matches!(frame, Frame::Ping(_)));
    assert!(frames.contains(&GO_AWAY_SOON), "{frames:?}");
    match frames.last() {
        Some(Frame::Ping(payload)) => *payload,
        _ => unreachable!("that is where it stopped"),
    }
}

const HANDOVER: &[&str] = &["--preset", "handover"];

/// Two ready replicas on one port.
fn pair() -> (Replica, Replica) {
    let first = Replica::start(HANDOVER);
    let second = Replica::start_at(&first.addr.to_string(), HANDOVER);
    (first, second)
}

/// The replica's exit event, once it has drained.
fn drained(mut replica: Replica) -> serde_json::Value {
    let (code, exit) = replica.wait();
    assert_eq!((code, &exit["cut"]), (0, &0.into()), "{exit:#}");
    exit
}

#[test]
fn a_client_is_told_to_go_in_two_steps_and_what_it_asked_for_is_answered() {
    for preset in ["graceful", "handover"] {
        let replica = Replica::start(&["--preset", preset]);
        // Only a handover's end depends on it.
        let _sibling = (preset == "handover")
            .then(|| Replica::start_at(&replica.addr.to_string(), &["--preset", preset]));
        let mut client = http2_connection_to(&replica);
        let first = client.get("/?delay=300ms");
        replica.wait_until_in_flight(1);
        replica.terminate();
        let ping = told_to_go(&mut client);
        // Sent before the client knew: between the two steps a stream is still taken.
        let second = client.get("/?delay=600ms");
        client.pong(ping);
        let frames = client.rest();
        assert!(frames.contains(&Frame::GoAway { last_stream: second, code: 0 }), "{preset}: {frames:?}");
        for stream in [first, second] {
            assert_eq!(body_of(&frames, stream), b"hello world", "{preset}: {frames:?}");
        }
        let exit = drained(replica);
        assert_eq!(exit["begun"], exit["answered"], "{preset}");
    }
}

/// A connection that `replica` serves: the kernel chooses, and the account tells.
fn http2_connection_to(replica: &Replica) -> Http2Client {
    for _ in 0..1000 {
        let begun = replica.account()["begun"].as_u64();
        let mut client = Http2Client::connect(replica.addr);
        let stream = client.get("/");
        client.body(stream);
        if replica.account()["begun"].as_u64() > begun {
            return client;
        }
    }
    panic!("never connected to {}", replica.name);
}

#[test]
fn a_client_that_answers_no_ping_does_not_hold_up_the_drain() {
    let (first, _second) = pair();
    let mut client = http2_connection_to(&first);
    first.terminate();
    told_to_go(&mut client);
    let exit = drained(first);
    assert_eq!(exit["connections_closed_idle"], 1);
    assert_eq!(client.rest(), [Frame::End]);
}

#[test]
fn an_idle_client_that_answers_no_ping_loses_its_place() {
    let replica = Replica::start(&["--idle-timeout", "200ms", "--max-connections", "1"]);
    let mut client = Http2Client::connect(replica.addr);
    let stream = client.get("/");
    assert_eq!(client.body(stream), b"hello world");
    told_to_go(&mut client);
    assert_eq!(client.rest(), [Frame::End]);
    assert_eq!(replica.connect().get("/").status, 200);
}

/// h2 holds what has no room in the client's window, after the application's body has ended.
#[test]
fn a_response_that_has_no_room_at_the_client_is_in_flight() {
    let replica = Replica::start(&["--preset", "graceful"]);
    let mut client = Http2Client::connect_with_window(replica.addr, 5);
    let stream = client.get("/");
    let is_data = |frame: &Frame| matches!(frame, Frame::Data { .. });
    let frames = client.read_until(is_data);
    assert_eq!(body_of(&frames, stream), b"hello");
    replica.wait_until_in_flight(1);
    replica.terminate();
    told_to_go(&mut client);
    client.widen(stream, 100);
    assert_eq!(client.body(stream), b" world");
    let exit = drained(replica);
    assert_eq!((&exit["answered"], &exit["aborted"]), (&1.into(), &0.into()));
}

#[test]
fn pings_are_no_part_of_a_request() {
    let replica = Replica::start(&["--head-timeout", "1ms", "--idle-timeout", "400ms"]);
    let mut client = Http2Client::connect(replica.addr);
    let begin = Instant::now();
    let stream = client.get("/");
    client.body(stream);
    // The server looks at its clients every millisecond, and each look finds that something came.
    loop {
        client.ping([7; 8]);
        let frames = client.read_until(|frame| matches!(frame, Frame::Pong(_)) || *frame == GO_AWAY_SOON);
        if frames.contains(&GO_AWAY_SOON) {
            break;
        }
    }
    assert!(begin.elapsed() >= Duration::from_millis(400), "told to go after {:?}", begin.elapsed());
}

#[test]
fn streams_in_flight_finish() {
    let replica = Replica::start(&["--preset", "graceful"]);
    let url = format!("http://{}/?delay=500ms", replica.addr);
    let client = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
            let response = client.get(url).send().await.unwrap();
            let answer = (response.version(), response.text().await.unwrap());
            // The client stays, and its connection with it.
            (answer, client)
        })
    });
    replica.wait_until_in_flight(1);
    replica.terminate();
    let ((version, text), _client) = client.join().unwrap();
    assert_eq!((version, text.as_str()), (reqwest::Version::HTTP_2, "hello world"));
    let exit = drained(replica);
    assert_eq!(exit["answered"], 1);
}

#[test]
fn a_pooled_client_loses_nothing_over_restarts() {
    let (mut first, mut second) = pair();
    let url = format!("http://{}/?delay=50ms", first.addr);
    let client = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
            for _ in 0..40 {
                let response = client.get(&url).send().await.unwrap();
                assert_eq!(response.text().await.unwrap(), "hello world");
            }
        });
    });
    for replica in [&mut first, &mut second] {
        replica.terminate();
        assert_eq!(replica.wait().0, 0);
        *replica = Replica::start_named(&replica.name, &replica.addr.to_string(), HANDOVER);
    }
    client.join().unwrap();
}
