//! What a client may keep a server waiting for, and for how long.

use std::io::{ErrorKind, Read as _, Write as _};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::routing::{get, post};
use hitless_server::{Event, Limits, Outcome, Preset, Server};
use tokio::time::timeout;

use crate::support::raw::{Raw, frame, get_head, next_frame, preface};
use crate::support::running::{PATIENCE, Running};

/// More than all buffers between the server and a client with little room.
const HUGE: usize = 64 << 20;

/// A limit that a test waits for.
const SHORT: Duration = Duration::from_millis(200);

fn router() -> Router {
    Router::new()
        .route("/", get(async || "hello"))
        .route("/huge", get(async || Bytes::from(vec![b'x'; HUGE])))
        .route("/upload", post(async |body: Bytes| body.len().to_string()))
        .route(
            "/patient",
            post(async |body: Body| match axum::body::to_bytes(body, 100).await {
                Ok(_) => StatusCode::OK,
                // Whatever the body does, this handler is content.
                Err(_) => StatusCode::ACCEPTED,
            }),
        )
}

async fn start(set: impl FnOnce(&mut Limits), preset: Preset) -> Running {
    let mut limits = Limits::default();
    set(&mut limits);
    let configure =
        |server: Server| server.limits(limits).preset(preset).drain_timeout(Duration::from_mins(10));
    Running::start(configure, |_| router()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_sends_a_byte_has_no_longer_than_one_that_is_at_a_head() {
    let running = start(|limits| limits.head_timeout = SHORT, Preset::Graceful).await;
    let mut client = Raw::connect(running.addr);
    assert_eq!(client.rest().expect("a clean end"), b"");
    // After a request it may be idle for longer: it still is when another one has been closed.
    let mut idle = Raw::connect(running.addr);
    idle.get("/");
    assert_eq!(idle.answer().body, b"hello");
    let mut other = Raw::connect(running.addr);
    other.rest().expect("a clean end");
    idle.get("/");
    assert_eq!(idle.answer().body, b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_408_and_ends_the_connection() {
    let running = start(|limits| limits.body_timeout = SHORT, Preset::Graceful).await;
    for (path, status) in [("/upload", 408), ("/patient", 202)] {
        for framing in ["content-length: 10", "transfer-encoding: chunked"] {
            let mut client = Raw::connect(running.addr);
            client.send(format!("POST {path} HTTP/1.1\r\nhost: test\r\n{framing}\r\n\r\n1"));
            let answer = client.answer();
            assert_eq!((answer.status, answer.is_last()), (status, true), "{path} {framing}");
            assert_eq!(client.rest().expect("a clean end"), b"");
        }
    }
    let report = running.stop().await;
    assert_eq!((report.outcome, report.account.begun, report.account.answered), (Outcome::Drained, 4, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_costs_half_of_a_drain_and_is_told_so() {
    let configure = |server: Server| server.preset(Preset::Graceful).drain_timeout(Duration::from_secs(4));
    let running = Running::start(configure, |_| router()).await;
    let mut client = Raw::connect(running.addr);
    client.send("POST /upload HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\n1");
    // Of two requests on one server the second is answered when the first has long been read.
    let mut other = Raw::connect(running.addr);
    other.get("/");
    other.answer();
    let report = running.stop().await;
    assert_eq!((report.outcome, report.cut(), report.account.answered), (Outcome::Drained, 0, 2));
    assert_eq!(client.answer().status, 408);
}

/// The answer is out, and the client owes the rest of the body.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_read_over_has_no_longer() {
    let running = start(|limits| limits.body_timeout = SHORT, Preset::Graceful).await;
    let mut client = Raw::connect(running.addr);
    client.send("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\n1");
    assert_eq!(client.answer().status, 405);
    assert_eq!(client.rest().expect("a clean end"), b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_on_an_http2_stream_is_408() {
    let running = start(|limits| limits.body_timeout = SHORT, Preset::Graceful).await;
    let mut client = Raw::connect(running.addr);
    client.send(preface(&[]));
    // POST, http, and the rest as in GET.
    let head = [&[0x83], &get_head("/upload")[1..]].concat();
    client.send(frame(1, 4, 1, &head));
    let head = loop {
        if let Some((1, _, 1, payload)) = next_frame(&mut client.0).unwrap() {
            break payload;
        }
    };
    // `:status`, number 8 of the static table, and "408" in three bytes of Huffman code (RFC 7541, appendix B).
    assert_eq!(head[..5], [0x48, 0x83, 0x68, 0x0f, 0x7f]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_room_for_its_answer_is_given_up() {
    let running = start(|limits| limits.write_timeout = SHORT, Preset::Graceful).await;
    let mut client = Raw::connect_with_room(running.addr, 4096).await;
    client.get("/huge");
    client.0.read_exact(&mut [0; 1]).unwrap();
    // Nothing but the limit ends this drain.
    let report = timeout(PATIENCE, running.stop()).await.expect("it ends in time");
    assert_eq!((report.outcome, report.account.aborted, report.cut()), (Outcome::Drained, 1, 0));
    assert_eq!(client.rest().unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// A window of HTTP/2 that stays closed, while the client acknowledges and pings.
#[tokio::test(flavor = "multi_thread")]
async fn an_http2_client_without_room_for_its_answers_is_given_up() {
    for window in [0, 5] {
        let running = start(|limits| limits.write_timeout = SHORT, Preset::Graceful).await;
        let mut client = Raw::connect(running.addr);
        client.send(preface(&[(4, window)]));
        client.send(frame(1, 5, 1, &get_head("/huge")));
        while !matches!(next_frame(&mut client.0).unwrap(), Some((1, ..))) {}
        client.send(frame(6, 0, 0, b"8 bytes!"));
        let report = timeout(PATIENCE, running.stop()).await.expect("it ends in time");
        assert_eq!((report.outcome, report.account.aborted), (Outcome::Drained, 1), "a window of {window}");
    }
}

/// Whatever it sends: only a stream is a reason to stay.
#[tokio::test(flavor = "multi_thread")]
async fn an_http2_client_that_pings_and_acknowledges_nothing_does_not_keep_a_drain() {
    let running = start(|_| {}, Preset::Graceful).await;
    let mut client = Raw::connect(running.addr);
    client.send(preface(&[]));
    client.send(frame(1, 5, 1, &get_head("/")));
    while !matches!(next_frame(&mut client.0).unwrap(), Some((0, ..))) {}
    let pinging = tokio::task::spawn_blocking(move || {
        // Each answer allows the next one.
        while let Ok(()) = client.0.write_all(&frame(6, 0, 0, b"8 bytes!")) {
            loop {
                match next_frame(&mut client.0) {
                    Ok(Some((6, 1, ..))) => break,
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return,
                }
            }
        }
    });
    let report = timeout(PATIENCE, running.stop()).await.expect("it ends in time");
    assert_eq!((report.outcome, report.cut()), (Outcome::Drained, 0));
    pinging.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_limit_one_idle_connection_makes_room() {
    let mut running = start(|limits| limits.max_connections = 2, Preset::Graceful).await;
    let (mut first, mut second) = (Raw::connect(running.addr), Raw::connect(running.addr));
    for client in [&mut first, &mut second] {
        client.get("/");
        assert_eq!(client.answer().body, b"hello");
    }
    let mut third = Raw::connect(running.addr);
    third.get("/");
    while !matches!(running.events.recv().await.unwrap(), Event::ConnectionLimit { .. }) {}
    assert_eq!(third.answer().body, b"hello");
    // Which one, a few microseconds decide.
    let mut answers = 0;
    for client in [&mut first, &mut second] {
        let _ = client.0.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n");
        answers += usize::from(client.try_answer().is_ok());
    }
    assert_eq!(answers, 1);
}

/// One that is in the middle of something does not.
#[tokio::test(flavor = "multi_thread")]
async fn at_the_limit_connections_that_are_not_idle_stay() {
    let mut running = start(
        |limits| {
            limits.max_connections = 3;
            limits.head_timeout = Duration::from_mins(10);
        },
        Preset::Graceful,
    )
    .await;
    let (mut upload, mut head) = (Raw::connect(running.addr), Raw::connect(running.addr));
    upload.send("POST /upload HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\n\r\n1");
    head.send("GET / HTTP/1.1\r\nho");
    // It never sends a byte.
    let mut silent = Raw::connect(running.addr);
    let mut next = Raw::connect(running.addr);
    next.get("/");
    while !matches!(running.events.recv().await.unwrap(), Event::ConnectionLimit { .. }) {}
    assert_eq!(next.answer().body, b"hello");
    assert_eq!(silent.rest().expect("a clean end"), b"");
    upload.send("2");
    head.send("st: test\r\n\r\n");
    assert_eq!((upload.answer().body, head.answer().body), (b"2".to_vec(), b"hello".to_vec()));
}
