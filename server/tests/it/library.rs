//! The library in somebody else's axum application, in this very process.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ws::{CloseFrame, Message, WebSocketUpgrade};
use axum::extract::{ConnectInfo, State};
use axum::routing::{any, get, post};
use hitless_server::{Drain, Event, HandoverAddress, Limits, Outcome, Preset, RECONNECT_CLOSE_CODE, Server};
use http_body_util::BodyExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::support::http2::{Frame, Http2Client, body_of};
use crate::support::running::{PATIENCE, Running, read_until};

#[tokio::test]
async fn run_returns_what_was_done_when_the_drain_ends() {
    let running = Running::start(
        |server| server.preset(Preset::Graceful),
        |_| Router::new().route("/", get(async || "hello")),
    )
    .await;
    let mut client = TcpStream::connect(running.addr).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    read_until(&mut client, b"hello").await.unwrap();
    let report = running.stop().await;
    assert_eq!((report.outcome, report.exit_status()), (Outcome::Drained, 0));
    assert_eq!((report.account.begun, report.account.answered, report.cut()), (1, 1, 0));
}

/// The signal comes from within the handler: the request that is in flight then is answered whole.
#[tokio::test]
async fn a_request_that_stops_the_server_is_answered() {
    let (stop, mut stopped) = mpsc::channel::<()>(1);
    let (listening, mut is_listening) = mpsc::unbounded_channel();
    let server = Server::new(([127, 0, 0, 1], 0))
        .preset(Preset::Graceful)
        .stop_when(async move { stopped.recv().await.unwrap_or_default() })
        .on_event(move |record| {
            if let Event::Listening { addr } = record.event {
                listening.send(addr).expect("the test listens");
            }
        });
    let drain = server.drain();
    let router = Router::new().route(
        "/stop",
        get(async move || {
            stop.send(()).await.expect("the server waits");
            drain.started().await;
            "stopping"
        }),
    );
    let task = tokio::spawn(server.run(router));
    let mut client = TcpStream::connect(is_listening.recv().await.unwrap()).await.unwrap();
    client.write_all(b"GET /stop HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    read_until(&mut client, b"stopping").await.unwrap();
    assert_eq!(task.await.unwrap().unwrap().outcome, Outcome::Drained);
}

/// Limits that would panic, or serve nobody, if they were taken at their word.
#[tokio::test]
async fn limits_out_of_bounds_serve_all_the_same() {
    let mut limits = Limits::default();
    limits.max_connections = 0;
    limits.max_head = 0;
    limits.head_timeout = Duration::MAX;
    limits.idle_timeout = Duration::MAX;
    for preset in [Preset::Graceful, Preset::Handover] {
        let running = Running::start(
            |server| {
                let server = server.preset(preset).limits(limits).stream_grace(Duration::MAX);
                match preset {
                    Preset::Handover => {
                        server.lame_duck(Duration::MAX).drain_timeout(Duration::from_millis(50))
                    }
                    _ => server.drain_timeout(Duration::MAX),
                }
            },
            |_| Router::new().route("/", get(async || "hello")),
        )
        .await;
        let mut client = TcpStream::connect(running.addr).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        read_until(&mut client, b"hello").await.unwrap();
        drop(client);
        assert_eq!(running.stop().await.outcome, Outcome::Drained, "{preset}");
    }
}

/// A sibling of the group `group` whose answers say who it is and who asks.
async fn start_sibling(addr: SocketAddr, group: &HandoverAddress, name: &'static str) -> Running {
    let configure = |server: Server| server.name(name).handover(group.clone());
    let handler = async move |ConnectInfo(client): ConnectInfo<SocketAddr>| format!("{name} {client};");
    Running::start_at(addr, configure, |_| Router::new().route("/", get(handler))).await
}

#[tokio::test]
async fn handlers_know_the_clients_address_before_and_after_a_handover() {
    let group: HandoverAddress = format!("unix:@hitless-test.{}", std::process::id()).parse().unwrap();
    let first = start_sibling(([127, 0, 0, 1], 0).into(), &group, "first").await;
    let mut client = TcpStream::connect(first.addr).await.unwrap();
    let local = client.local_addr().unwrap();
    let mut ask = async || {
        client.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        String::from_utf8(read_until(&mut client, b";").await.unwrap()).unwrap()
    };
    let answer = ask().await;
    assert!(answer.ends_with(&format!("first {local};")), "{answer}");
    let second = start_sibling(first.addr, &group, "second").await;
    assert_eq!(first.stop().await.account.connections_given, 1);
    let answer = ask().await;
    assert!(answer.ends_with(&format!("second {local};")), "{answer}");
    drop(second);
}

/// A handler may answer before it has read the request's body, and have it read elsewhere.
#[tokio::test]
async fn a_connection_moves_as_soon_as_its_body_is_read_elsewhere() {
    let group: HandoverAddress = format!("unix:@hitless-test.{}.late", std::process::id()).parse().unwrap();
    let (release, released) = watch::channel(false);
    let (read, mut is_read) = mpsc::unbounded_channel();
    let handler = async move |mut body: Body| {
        let (mut released, read) = (released.clone(), read.clone());
        tokio::spawn(async move {
            body.frame().await.expect("the first piece").expect("a whole body");
            released.wait_for(|is_released| *is_released).await.expect("the test runs");
            read.send(axum::body::to_bytes(body, 10).await).expect("the test listens");
        });
        "early;"
    };
    let configure = |server: Server| server.name("first").handover(group.clone());
    let first = Running::start(configure, |_| Router::new().route("/", post(handler))).await;
    let mut client = TcpStream::connect(first.addr).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 3\r\n\r\nfo").await.unwrap();
    read_until(&mut client, b"early;").await.unwrap();
    client.write_all(b"o").await.unwrap();
    let second = start_sibling(first.addr, &group, "second").await;
    let Running { mut events, stop, task, .. } = first;
    stop.send(()).unwrap();
    while !matches!(events.recv().await.expect("the server runs"), Event::HandoverBegun) {}
    release.send(true).unwrap();
    assert_eq!(is_read.recv().await.unwrap().unwrap(), "o");
    let report = timeout(PATIENCE, task).await.unwrap().unwrap();
    assert_eq!((report.outcome, report.account.connections_given), (Outcome::Drained, 1));
    client.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    let answer = String::from_utf8(read_until(&mut client, b";").await.unwrap()).unwrap();
    assert!(answer.contains("second"), "{answer}");
    drop(second);
}

#[tokio::test]
async fn handlers_know_the_clients_address_over_http2() {
    let running = Running::start(
        |server| server.preset(Preset::Graceful),
        |_| {
            let handler = async |ConnectInfo(client): ConnectInfo<SocketAddr>| client.port().to_string();
            Router::new().route("/", get(handler))
        },
    )
    .await;
    let addr = running.addr;
    let ask = move || {
        let mut client = Http2Client::connect(addr);
        let stream = client.get("/");
        (client.body(stream), client.local_addr().port().to_string())
    };
    let (body, port) = spawn_blocking(ask).await.unwrap();
    assert_eq!(body, port.into_bytes());
}

async fn websocket(State(drain): State<Drain>, upgrade: WebSocketUpgrade) -> axum::response::Response {
    upgrade.on_upgrade(async move |mut socket| {
        while let Some(Ok(message)) = tokio::select! {
            message = socket.recv() => message,
            () = drain.started() => None,
        } {
            if socket.send(message).await.is_err() {
                return;
            }
        }
        let close = CloseFrame { code: RECONNECT_CLOSE_CODE, reason: "restart".into() };
        let _ = socket.send(Message::Close(Some(close))).await;
    })
}

fn websocket_router(drain: Drain) -> Router {
    // GET over HTTP/1, CONNECT over HTTP/2 (RFC 8441).
    Router::new().route("/", any(websocket)).with_state(drain)
}

async fn open_websocket(addr: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(addr).await.expect("a connection");
    let handshake = b"GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                      sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(handshake).await.expect("the handshake is sent");
    let answer = read_until(&mut client, b"\r\n\r\n").await.expect("an answer");
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    // A masked text frame "hi", with a mask of zeros (RFC 6455, section 5.2), and its echo.
    client.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).await.expect("a frame is sent");
    let echo = read_until(&mut client, b"hi").await.expect("an echo");
    assert_eq!(echo, [0x81, 2, b'h', b'i']);
    client
}

#[tokio::test]
async fn a_websocket_is_closed_with_service_restart_under_every_draining_strategy() {
    for preset in [Preset::Graceful, Preset::ReusePort, Preset::Handover] {
        let lame = Duration::from_millis(50);
        let running = Running::start(|server| server.preset(preset).lame_duck(lame), websocket_router).await;
        let mut client = open_websocket(running.addr).await;
        let reading = tokio::spawn(async move { read_until(&mut client, b"restart").await });
        let report = running.stop().await;
        assert_eq!((report.outcome, report.cut()), (Outcome::Drained, 0), "{preset}");
        let frame = reading.await.unwrap().unwrap();
        // A close frame: its code, 1012, and its reason.
        assert_eq!(frame, [&[0x88, 9, 0x03, 0xf4][..], b"restart"].concat());
    }
}

#[tokio::test]
async fn a_websocket_that_does_not_leave_is_cut_and_counted() {
    let running = Running::start(
        |server| {
            server
                .preset(Preset::Graceful)
                .drain_timeout(Duration::from_millis(100))
                .stream_grace(Duration::from_mins(1))
        },
        websocket_router,
    )
    .await;
    let _client = open_websocket(running.addr).await;
    let report = running.stop().await;
    assert_eq!((report.outcome, report.cut(), report.exit_status()), (Outcome::TimedOut, 1, 3));
}

/// A client that greeted over a WebSocket over HTTP/2, and heard the echo.
async fn open_websocket_over_http2(addr: SocketAddr) -> (Http2Client, u32) {
    let open = move || {
        let mut client = Http2Client::connect(addr);
        let stream = client.open_websocket("/");
        client.read_until(|frame| *frame == Frame::Headers { stream, is_last: false });
        client.data(stream, &[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']);
        let frames = client.read_until(|frame| matches!(frame, Frame::Data { .. }));
        assert_eq!(body_of(&frames, stream), [0x81, 2, b'h', b'i']);
        (client, stream)
    };
    spawn_blocking(open).await.expect("an echo")
}

#[tokio::test]
async fn a_websocket_over_http2_is_closed_with_service_restart() {
    let running = Running::start(|server| server.preset(Preset::Graceful), websocket_router).await;
    let (mut client, stream) = open_websocket_over_http2(running.addr).await;
    let reading = spawn_blocking(move || client.rest());
    let report = running.stop().await;
    assert_eq!((report.outcome, report.cut()), (Outcome::Drained, 0));
    let said = body_of(&reading.await.unwrap(), stream);
    assert_eq!(said, [&[0x88, 9, 0x03, 0xf4][..], b"restart"].concat());
}

#[tokio::test]
async fn a_websocket_over_http2_that_does_not_leave_is_cut_and_counted() {
    let running = Running::start(
        |server| {
            server
                .preset(Preset::Graceful)
                // Longer than a client without streams has.
                .drain_timeout(Duration::from_millis(2500))
                .stream_grace(Duration::from_mins(1))
        },
        websocket_router,
    )
    .await;
    let _client = open_websocket_over_http2(running.addr).await;
    let report = running.stop().await;
    assert_eq!((report.outcome, report.cut(), report.exit_status()), (Outcome::TimedOut, 1, 3));
}
