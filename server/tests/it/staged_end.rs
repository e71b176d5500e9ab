//! The end of a connection never costs its last answer, and an answer that the client does not have counts as cut.

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ws::{CloseFrame, Message, WebSocketUpgrade};
use axum::routing::{any, get, post};
use futures_util::stream::{self, StreamExt as _};
use hitless_server::{Event, Limits, Outcome, Preset, RECONNECT_CLOSE_CODE, Server};
use tokio::sync::watch;

use crate::support::raw::{Raw, frame, get_head, next_frame, preface};
use crate::support::running::Running;

/// More than a client with little room takes at once, and less than the kernel keeps for it here.
const LARGE: usize = 1_000_000;

fn router() -> Router {
    Router::new()
        .route("/", get(async || "hello"))
        .route("/large", get(async || Bytes::from(vec![b'x'; LARGE])))
        .route("/upload", post(async |body: Bytes| body.len().to_string()))
}

async fn start(configure: impl FnOnce(Server) -> Server) -> Running {
    Running::start(configure, |_| router()).await
}

/// Asks the server to stop and waits until it drains.
async fn begin_drain(running: Running) -> tokio::task::JoinHandle<hitless_server::StopReport> {
    let Running { mut events, stop, task, .. } = running;
    stop.send(()).expect("it runs");
    while !matches!(events.recv().await.expect("the server runs"), Event::ListenerClosed) {}
    task
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_upload_is_answered_although_the_client_sends_all_of_it_first() {
    let mut limits = Limits::default();
    limits.max_body = 1000;
    let running = start(|server| server.limits(limits)).await;
    for framing in ["content-length: 8000000", "transfer-encoding: chunked"] {
        let mut client = Raw::connect(running.addr);
        client.send(format!("POST /upload HTTP/1.1\r\nhost: test\r\n{framing}\r\n\r\n"));
        let is_chunked = framing.starts_with("transfer");
        for _ in 0..80 {
            if is_chunked {
                client.send("186a0\r\n");
            }
            client.send(vec![b'x'; 100_000]);
            if is_chunked {
                client.send("\r\n");
            }
        }
        let answer = client.answer();
        assert_eq!((answer.status, answer.is_last()), (413, true), "{framing}");
        assert_eq!(client.rest().expect("a clean end"), b"", "{framing}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_none_is_answered_although_more_follows() {
    let running = start(|server| server).await;
    let long = [&b"GET / HTTP/1.1\r\nx: "[..], &vec![b'y'; 2_000_000], b"\r\n\r\n"].concat();
    let bad = [&b"GET /\0 HTTP/1.1\r\n\r\n"[..], &vec![b'y'; 1_000_000]].concat();
    for (bytes, status) in [(long, 431), (bad, 400)] {
        let mut client = Raw::connect(running.addr);
        client.send(bytes);
        let answer = client.answer();
        assert_eq!((answer.status, answer.is_last()), (status, true));
        client.rest().expect("a clean end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_behind_the_last_request_does_not_cut_its_answer() {
    let running = start(|server| server.preset(Preset::Graceful)).await;
    let mut client = Raw::connect_with_room(running.addr, 32_768).await;
    client.get("/large");
    client.0.read_exact(&mut [0; 1]).unwrap();
    let task = begin_drain(running).await;
    client.get("/");
    let mut answer = Vec::new();
    client.0.read_to_end(&mut answer).expect("a clean end");
    assert!(answer.ends_with(&vec![b'x'; LARGE]), "{} bytes", answer.len());
    let report = task.await.unwrap();
    assert_eq!((report.outcome, report.account.answered, report.cut()), (Outcome::Drained, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_the_client_has_no_room_for_is_cut_and_counted() {
    let configure =
        |server: Server| server.preset(Preset::Graceful).drain_timeout(Duration::from_millis(300));
    let running = start(configure).await;
    let mut client = Raw::connect_with_room(running.addr, 4096).await;
    client.send("GET /large HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    client.0.read_exact(&mut [0; 1]).unwrap();
    let report = running.stop().await;
    assert_eq!((report.outcome, report.exit_status(), report.cut()), (Outcome::TimedOut, 3, 1));
    assert_eq!((report.account.begun, report.account.answered), (1, 0));
}

/// The rest of the answer comes when the client has been told to go for good, so that nothing but the answer keeps the
/// connection.
#[tokio::test(flavor = "multi_thread")]
async fn window_updates_behind_the_last_frame_do_not_cut_an_http2_answer() {
    let (release, released) = watch::channel(false);
    let late = async move || {
        let rest = async move {
            released.clone().wait_for(|is_released| *is_released).await.expect("the test runs");
            Ok(Bytes::from(vec![b'x'; LARGE]))
        };
        let first = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"x"))]);
        Body::from_stream(first.chain(stream::once(rest)))
    };
    let configure = |server: Server| server.preset(Preset::Graceful);
    let running = Running::start(configure, |_| Router::new().route("/late", get(late))).await;
    let mut client = Raw::connect_with_room(running.addr, 32_768).await;
    // SETTINGS_INITIAL_WINDOW_SIZE and a WINDOW_UPDATE of the connection: room for all of it.
    client.send(preface(&[(4, 1 << 24)]));
    client.send(frame(8, 0, 0, &(1_u32 << 24).to_be_bytes()));
    client.send(frame(1, 5, 1, &get_head("/late")));
    let (mut running, mut task, mut received) = (Some(running), None, 0);
    while let Some((kind, flags, _, payload)) = next_frame(&mut client.0).expect("a clean end") {
        match kind {
            0 => {
                received += payload.len();
                let length = u32::try_from(payload.len()).unwrap().max(1).to_be_bytes();
                // The server may have closed by then, which is no reason to lose anything.
                let _ = client.0.write_all(&frame(8, 0, 0, &length));
                if let Some(running) = running.take() {
                    task = Some(begin_drain(running).await);
                }
            }
            4 if flags == 0 => client.send(frame(4, 1, 0, &[])),
            6 if flags == 0 => client.send(frame(6, 1, 0, &payload)),
            // The last stream that was taken.
            7 if payload[..4] == [0, 0, 0, 1] => drop(release.send(true)),
            _ => {}
        }
    }
    assert_eq!(received, LARGE + 1);
    let report = task.expect("an answer began").await.unwrap();
    assert_eq!((report.outcome, report.account.answered, report.cut()), (Outcome::Drained, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_answer_that_the_client_has_no_room_for_is_cut_and_counted() {
    let configure =
        |server: Server| server.preset(Preset::Graceful).drain_timeout(Duration::from_millis(1500));
    let running = start(configure).await;
    let mut client = Raw::connect_with_room(running.addr, 4096).await;
    client.send(preface(&[(4, 1 << 24)]));
    client.send(frame(8, 0, 0, &(1_u32 << 24).to_be_bytes()));
    // Its headers tell that it began; the client reads nothing further.
    client.send(frame(1, 5, 1, &get_head("/large")));
    while !matches!(next_frame(&mut client.0).unwrap(), Some((1, ..))) {}
    let report = running.stop().await;
    assert_eq!((report.outcome, report.exit_status(), report.cut()), (Outcome::TimedOut, 3, 1));
}

/// A client that neither closes nor reads its end is not waited for once it has everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_when_the_clients_have_everything_whether_or_not_they_close() {
    for preset in [Preset::Graceful, Preset::ReusePort, Preset::Handover] {
        let configure = |server: Server| server.preset(preset).drain_timeout(Duration::from_mins(10));
        let running = start(configure).await;
        let mut idle = Raw::connect(running.addr);
        idle.get("/");
        assert_eq!(idle.answer().body, b"hello");
        let mut late = Raw::connect(running.addr);
        late.get("/");
        assert_eq!(late.answer().body, b"hello");
        late.send("GET / HTTP/1.1\r\n");
        late.send("host: test\r\nconnection: close\r\n\r\n");
        assert_eq!(late.answer().body, b"hello");
        let report = running.stop().await;
        assert_eq!((report.outcome, report.account.answered, report.cut()), (Outcome::Drained, 3, 0));
        assert_eq!(idle.rest().expect("a clean end"), b"", "{preset}");
        assert_eq!(late.rest().expect("a clean end"), b"", "{preset}");
    }
}

/// The peer answers a Close frame with its own (RFC 6455, section 5.5.1), and may do so in its own time.
#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_client_can_answer_the_close_frame() {
    let running = Running::start(
        |server| server.preset(Preset::Graceful),
        |drain| {
            let handler = async move |upgrade: WebSocketUpgrade| {
                upgrade.on_upgrade(async move |mut socket| {
                    drain.started().await;
                    let close = CloseFrame { code: RECONNECT_CLOSE_CODE, reason: "restart".into() };
                    let _ = socket.send(Message::Close(Some(close))).await;
                })
            };
            Router::new().route("/", any(handler))
        },
    )
    .await;
    let mut client = Raw::connect(running.addr);
    client.send(
        "GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(client.answer().status, 101);
    let task = begin_drain(running).await;
    let frame = client.rest().expect("a clean end");
    assert_eq!(frame, [&[0x88, 9, 0x03, 0xf4][..], b"restart"].concat());
    // A socket that was closed answers the first of them with a reset, and then the next one fails.
    for _ in 0..10 {
        client.send([0x88, 0x80, 0, 0, 0, 0]);
        tokio::task::yield_now().await;
    }
    drop(client);
    let report = task.await.unwrap();
    assert_eq!((report.outcome, report.cut()), (Outcome::Drained, 0));
}
