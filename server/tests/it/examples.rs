//! The examples, over a restart with a sibling beside them: what their clients are told, and that they can come again.

#[path = "../../examples/chat.rs"]
#[allow(dead_code, reason = "its `main` serves another port")]
mod chat;
#[path = "../../examples/events.rs"]
#[allow(dead_code, reason = "its `main` serves another port")]
mod events;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use hitless_server::{Drain, HandoverAddress, Outcome, Server};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::running::{Running, read_until};

/// How long after the signal the examples say goodbye here.
const GOODBYE_AFTER: Duration = Duration::from_millis(300);

async fn start(
    name: &'static str,
    addr: SocketAddr,
    group: &str,
    router: impl FnOnce(Drain) -> Router,
) -> Running {
    let group: HandoverAddress =
        format!("unix:@hitless-test.{}.{group}", std::process::id()).parse().expect("an address");
    let configure = |server: Server| server.name(name).handover(group).stream_grace(GOODBYE_AFTER);
    Running::start_at(addr, configure, router).await
}

/// An address for two replicas.
fn anywhere() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// Sends a masked text frame, with a mask of zeros (RFC 6455, section 5.2), and waits until it comes back to all.
async fn say(client: &mut TcpStream, word: &str) {
    let length = u8::try_from(word.len()).expect("a short word");
    let frame = [&[0x81, 0x80 | length, 0, 0, 0, 0], word.as_bytes()].concat();
    client.write_all(&frame).await.expect("a frame is sent");
    let echo = read_until(client, word.as_bytes()).await.expect("an echo");
    assert_eq!(echo, [&[0x81, length], word.as_bytes()].concat());
}

async fn enter_chat(addr: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(addr).await.expect("a connection");
    let handshake = b"GET /chat HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                      sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(handshake).await.expect("the handshake is sent");
    let answer = read_until(&mut client, b"\r\n\r\n").await.expect("an answer");
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    client
}

#[tokio::test]
async fn a_chat_goes_on_with_the_sibling_after_service_restart() {
    let first = start("first", anywhere(), "chat", chat::router).await;
    let addr = first.addr;
    let mut client = enter_chat(addr).await;
    say(&mut client, "before").await;
    let second = start("second", addr, "chat", chat::router).await;
    let told_to_stop = Instant::now();
    let reading = tokio::spawn(async move {
        let frame = read_until(&mut client, b"restart").await.unwrap();
        (frame, told_to_stop.elapsed())
    });
    let report = first.stop().await;
    assert_eq!((report.outcome, report.cut()), (Outcome::Drained, 0));
    let (frame, after) = reading.await.unwrap();
    // A close frame with 1012, "service restart", and not before its time.
    assert_eq!(frame, [&[0x88, 9, 0x03, 0xf4][..], b"restart"].concat());
    assert!(after >= GOODBYE_AFTER, "{after:?}");
    let mut client = enter_chat(addr).await;
    say(&mut client, "after").await;
    drop(second);
}

#[tokio::test]
async fn an_event_stream_ends_with_when_to_come_again_and_goes_on_with_the_sibling() {
    let first = start("first", anywhere(), "events", events::router).await;
    let mut client = TcpStream::connect(first.addr).await.unwrap();
    client.write_all(b"GET /numbers HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    read_until(&mut client, b"data: 0\n\n\r\n").await.unwrap();
    let second = start("second", first.addr, "events", events::router).await;
    let report = first.stop().await;
    assert_eq!((report.outcome, report.cut(), report.account.connections_given), (Outcome::Drained, 0, 1));
    let goodbye = String::from_utf8(read_until(&mut client, b"\r\n0\r\n\r\n").await.unwrap()).unwrap();
    assert!(goodbye.ends_with("retry: 100\n\n\r\n0\r\n\r\n"), "{goodbye}");
    // Not even the connection ended.
    client.write_all(b"GET /numbers HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    read_until(&mut client, b"data: 0\n\n\r\n").await.unwrap();
    drop(second);
}
