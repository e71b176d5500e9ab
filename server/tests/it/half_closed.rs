//! A client that shuts down its write side after its request still gets its answer; one that is gone is not waited for.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::routing::{get, post};
use hitless_server::{Outcome, Preset};
use http_body_util::BodyExt as _;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::support::raw::Raw;
use crate::support::running::{PATIENCE, Running};

const LARGE: usize = 1_000_000;

async fn count(mut body: Body) -> Result<String, StatusCode> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| StatusCode::BAD_REQUEST)?;
        // The end of the body is found later than the client's.
        yield_now().await;
        length += frame.data_ref().map_or(0, Bytes::len);
    }
    Ok(length.to_string())
}

fn router(begun: mpsc::UnboundedSender<()>, released: &'static Semaphore) -> Router {
    let slow = async move || {
        begun.send(()).expect("the test listens");
        released.acquire().await.expect("it is never closed").forget();
        "slow"
    };
    Router::new()
        .route("/", get(async || "hello"))
        .route("/slow", get(slow))
        .route("/large", get(async || Bytes::from(vec![b'x'; LARGE])))
        .route("/count", post(count))
        .route("/spawned", post(async |body: Body| tokio::spawn(count(body)).await.expect("no panic")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_shut_down_its_write_side_is_answered() {
    static RELEASED: Semaphore = Semaphore::const_new(0);
    let (begun, mut has_begun) = mpsc::unbounded_channel();
    let running = Running::start(|server| server, |_| router(begun, &RELEASED)).await;
    let mut client = Raw::connect(running.addr);
    client.get("/");
    client.half_close();
    assert_eq!(client.answer().body, b"hello");
    assert_eq!(client.rest().expect("a clean end"), b"");

    let mut client = Raw::connect(running.addr);
    client.get("/slow");
    client.half_close();
    has_begun.recv().await.unwrap();
    RELEASED.add_permits(1);
    assert_eq!(client.answer().body, b"slow");
    assert_eq!(client.rest().expect("a clean end"), b"");

    let mut client = Raw::connect_with_room(running.addr, 4096).await;
    client.get("/large");
    client.half_close();
    assert_eq!(client.answer().body.len(), LARGE);
    assert_eq!(client.rest().expect("a clean end"), b"");

    // Two at once: both are answered.
    let mut client = Raw::connect(running.addr);
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\nGET / HTTP/1.1\r\nhost: test\r\n\r\n");
    client.half_close();
    assert_eq!((client.answer().body, client.answer().body), (b"hello".to_vec(), b"hello".to_vec()));
    assert_eq!(client.rest().expect("a clean end"), b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_ends_with_the_write_side_is_answered() {
    static RELEASED: Semaphore = Semaphore::const_new(0);
    let running = Running::start(|server| server, |_| router(mpsc::unbounded_channel().0, &RELEASED)).await;
    for path in ["/count", "/spawned"] {
        for is_chunked in [false, true] {
            let mut client = Raw::connect(running.addr);
            let framing = if is_chunked { "transfer-encoding: chunked" } else { "content-length: 1000000" };
            client.send(format!("POST {path} HTTP/1.1\r\nhost: test\r\n{framing}\r\n\r\n"));
            if is_chunked {
                client.send("f4240\r\n");
            }
            client.send(vec![b'x'; LARGE]);
            if is_chunked {
                client.send("\r\n0\r\n\r\n");
            }
            client.half_close();
            assert_eq!(client.answer().body, b"1000000", "{path} {framing}");
            assert_eq!(client.rest().expect("a clean end"), b"");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_is_an_error_to_its_handler() {
    static RELEASED: Semaphore = Semaphore::const_new(0);
    let running = Running::start(|server| server, |_| router(mpsc::unbounded_channel().0, &RELEASED)).await;
    for framing in ["content-length: 10\r\n\r\n", "transfer-encoding: chunked\r\n\r\na\r\n"] {
        let mut client = Raw::connect(running.addr);
        client.send(format!("POST /count HTTP/1.1\r\nhost: test\r\n{framing}01234"));
        client.half_close();
        assert_eq!(client.answer().status, 400, "{framing}");
        assert_eq!(client.rest().expect("a clean end"), b"", "{framing}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_gone_does_not_keep_a_drain() {
    static RELEASED: Semaphore = Semaphore::const_new(0);
    let (begun, mut has_begun) = mpsc::unbounded_channel();
    let configure = |server: hitless_server::Server| {
        server.preset(Preset::Graceful).drain_timeout(std::time::Duration::from_mins(10))
    };
    let running = Running::start(configure, |_| router(begun, &RELEASED)).await;
    let mut client = Raw::connect(running.addr);
    client.get("/slow");
    has_begun.recv().await.unwrap();
    drop(client);
    let report = timeout(PATIENCE, running.stop()).await.expect("it ends in time");
    assert_eq!((report.outcome, report.cut(), report.account.aborted), (Outcome::Drained, 0, 1));
}
