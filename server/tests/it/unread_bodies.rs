//! A handler need not read the body of its request: the next request on the connection is answered, or the answer says that
//! none will be.

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::routing::{get, post};
use hitless_server::Limits;
use http_body_util::BodyExt as _;

use crate::support::raw::Raw;
use crate::support::running::Running;

fn router() -> Router {
    Router::new()
        .route("/", get(async || "hello"))
        .route("/ignore", post(async || "ignored"))
        .route("/refuse", post(async |_: Body| (StatusCode::UNAUTHORIZED, "who are you?")))
        .route(
            "/half",
            post(async |mut body: Body| {
                body.frame().await.expect("a piece").expect("a whole piece");
                "half of it"
            }),
        )
}

async fn start() -> Running {
    let mut limits = Limits::default();
    limits.max_body = 100_000;
    Running::start(|server| server.limits(limits), |_| router()).await
}

/// What the kernel accepts at once, and what it does not: 404, 405, 401, and handlers that leave the body alone.
const PATHS: [&str; 5] = ["/nowhere", "/", "/ignore", "/refuse", "/half"];

#[tokio::test(flavor = "multi_thread")]
async fn a_short_body_that_nobody_reads_does_not_cost_the_next_request() {
    let running = start().await;
    for path in PATHS {
        for length in [1, 10, 20_000, 65_536] {
            let mut client = Raw::connect(running.addr);
            client.send(format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n"));
            // Half of it before the answer, half of it afterwards.
            client.send(vec![b'x'; length / 2]);
            if path == "/half" && length == 1 {
                client.send("x");
                client.answer();
            } else {
                assert!(!client.answer().is_last(), "{path} {length}");
                client.send(vec![b'x'; length - length / 2]);
            }
            client.get("/");
            assert_eq!(client.answer().body, b"hello", "{path} {length}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_a_long_body_says_that_it_is_the_last() {
    let running = start().await;
    for path in PATHS {
        for framing in ["content-length: 90000", "content-length: 9000000", "transfer-encoding: chunked"] {
            let mut client = Raw::connect(running.addr);
            client.send(format!("POST {path} HTTP/1.1\r\nhost: test\r\n{framing}\r\n\r\n"));
            client.send(if framing.starts_with("transfer") { "1\r\nx\r\n" } else { "x" });
            assert!(client.answer().is_last(), "{path} {framing}");
            assert_eq!(client.rest().expect("a clean end"), b"", "{path} {framing}");
        }
    }
}

/// Whether the client sends its body after a final answer, nobody knows (RFC 9110, section 10.1.1).
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_instead_of_100_continue_says_that_it_is_the_last() {
    let running = start().await;
    for path in ["/nowhere", "/", "/ignore", "/refuse"] {
        for does_send in [false, true] {
            let mut client = Raw::connect(running.addr);
            client.send(format!(
                "POST {path} HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 10\r\n\r\n"
            ));
            let answer = client.answer();
            assert!(answer.status >= 200 && answer.is_last(), "{path}: {answer:?}");
            if does_send {
                client.send("0123456789");
            }
            assert_eq!(client.rest().expect("a clean end"), b"", "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_asked_for_is_announced_with_100_continue() {
    let running = start().await;
    let mut client = Raw::connect(running.addr);
    client.send("POST /half HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 10\r\n\r\n");
    assert_eq!(client.answer().status, 100);
    client.send("0123456789");
    assert_eq!(client.answer().body, b"half of it");
    client.get("/");
    assert_eq!(client.answer().body, b"hello");
}
