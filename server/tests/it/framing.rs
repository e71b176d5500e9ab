//! Malformed HTTP/1 messages: none is taken for another one, and none hides a request behind it.

use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::Uri;

use crate::support::raw::Raw;
use crate::support::running::Running;

/// The paths that the application was asked for.
type Asked = Arc<Mutex<Vec<String>>>;

async fn start() -> (Running, Asked) {
    let asked = Asked::default();
    let note = async |State(asked): State<Asked>, uri: Uri, body: Bytes| {
        asked.lock().expect("no panic").push(uri.path().to_owned());
        body
    };
    let router = Router::new().fallback(note).with_state(Arc::clone(&asked));
    (Running::start(|server| server, |_| router).await, asked)
}

/// Sends it and the end of the stream, and reads all that comes: the statuses, and whether the last one closes.
fn talk(running: &Running, bytes: &[u8]) -> (Vec<u16>, bool) {
    let mut client = Raw::connect(running.addr);
    // The server may have closed before all of it is sent.
    let _ = client.0.write_all(bytes);
    client.half_close();
    let (mut statuses, mut is_last) = (Vec::new(), false);
    while let Ok(answer) = client.try_answer() {
        is_last = answer.is_last();
        if answer.status != 100 {
            statuses.push(answer.status);
        }
    }
    (statuses, is_last)
}

/// A request that must not be served, and closes the connection, so that what follows is no request.
const REFUSED: &[(&str, u16)] = &[
    // Host (RFC 9112, section 3.2).
    ("GET /a HTTP/1.1\r\n\r\n", 400),
    ("GET /a HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", 400),
    ("GET /a HTTP/1.1\r\nhost: a\r\nHost: b\r\n\r\n", 400),
    ("GET /a HTTP/1.1\r\nhost: a b\r\n\r\n", 400),
    ("GET /a HTTP/1.1\r\nhost: user@a\r\n\r\n", 400),
    ("GET /a HTTP/1.1\r\nhost : a\r\n\r\n", 400),
    ("GET http://a/a HTTP/1.1\r\n\r\n", 400),
    ("GET /a HTTP/1.0\r\nhost: a\r\nhost: b\r\n\r\n", 400),
    // Transfer codings (section 6.1 and 6.3).
    ("POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    (
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        501,
    ),
    ("POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: identity, chunked\r\n\r\n0\r\n\r\n", 501),
    ("POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    ("POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
    ("POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    ("POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    ("POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    ("POST /a HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    // Lengths (section 6.2 and 6.3).
    ("POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx", 400),
    ("POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 1, 2\r\n\r\nx", 400),
    ("POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\nx", 400),
    ("POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\nx", 400),
    ("POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 0x1\r\n\r\nx", 400),
    ("POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 1 1\r\n\r\nx", 400),
    ("POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999\r\n\r\nx", 400),
    ("POST /a HTTP/1.1\r\nhost: a\r\ncontent-length:\r\n\r\nx", 400),
    // Lines and names (section 2.2, 5 and 5.2).
    ("GET  /a HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    ("GET /a b HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    ("GET /a HTTP/1.1\r\nhost: a\r\n x: folded\r\n\r\n", 400),
    ("GET /a HTTP/1.1\r\n x: y\r\nhost: a\r\n\r\n", 400),
    ("GET /a HTTP/1.1\r\nhost: a\r\nx\r\n\r\n", 400),
    ("GET /a HTTP/1.1\r\nhost: a\r\n: x\r\n\r\n", 400),
    ("GET /a HTTP/1.1\r\nhost: a\r\nx: a\rb\r\n\r\n", 400),
    ("GET /a HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n", 400),
    ("GET /a HTTP/2.0\r\nhost: a\r\n\r\n", 400),
    ("GET /a HTTP/9.9\r\nhost: a\r\n\r\n", 400),
    ("GET /a\r\n\r\n", 400),
    ("G\0T /a HTTP/1.1\r\nhost: a\r\n\r\n", 400),
];

/// Chunks that are none (section 7.1): their request may have reached the application, but nothing follows it.
const BAD_CHUNKS: &[&str] = &[
    "x\r\n",
    "\r\n",
    "-1\r\nx\r\n0\r\n\r\n",
    "+1\r\nx\r\n0\r\n\r\n",
    "0x1\r\nx\r\n0\r\n\r\n",
    "1 1\r\nx\r\n0\r\n\r\n",
    "1\nx\r\n0\r\n\r\n",
    "1\r\nxy\r\n0\r\n\r\n",
    "1\r\nx0\r\n\r\n",
    "1;a=\nb\r\nx\r\n0\r\n\r\n",
    "10000000000000001\r\nx\r\n0\r\n\r\n",
    "ffffffffffffffffffff\r\nx\r\n0\r\n\r\n",
    "1\r\nx\n0\r\n\r\n",
    "0\r\nx: y\r\n",
];

const NEXT: &str = "GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_none_is_refused_and_hides_nothing() {
    let (running, asked) = start().await;
    for (request, status) in REFUSED {
        for next in ["", NEXT] {
            let said = talk(&running, format!("{request}{next}").as_bytes());
            assert_eq!(said, (vec![*status], true), "{request:?} {next:?}");
        }
    }
    assert_eq!(*asked.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_are_none_hide_nothing() {
    let (running, asked) = start().await;
    for chunks in BAD_CHUNKS {
        let head = "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        let (statuses, is_last) = talk(&running, format!("{head}{chunks}{NEXT}").as_bytes());
        assert!(statuses.is_empty() || statuses == [400] && is_last, "{chunks:?}: {statuses:?}");
    }
    assert_eq!(*asked.lock().unwrap(), Vec::<String>::new());
}

/// Both are legal, and the request behind is served.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_well_formed_is_served_with_the_request_behind_it() {
    let (running, asked) = start().await;
    for request in [
        "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx",
        "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx",
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n\r\n01;a=b\r\nx\r\n000\r\n\r\n",
        "GET /a HTTP/1.1\r\nhost:\r\n\r\n",
        "GET http://a/a HTTP/1.1\r\nhost: a\r\n\r\n",
        "\r\nGET /a HTTP/1.1\r\nhost: [::1]:80\r\n\r\n",
        "GET /a HTTP/1.1\nhost: a\n\n",
        "OPTIONS /a HTTP/1.1\r\nhost: a:80\r\n\r\n",
    ] {
        let (statuses, _) = talk(&running, format!("{request}{NEXT}").as_bytes());
        assert_eq!(statuses, [200, 200], "{request:?}");
        assert_eq!(std::mem::take(&mut *asked.lock().unwrap()), ["/a", "/hidden"], "{request:?}");
    }
}

/// Whoever takes the one for the length and whoever takes the other part ways here (section 6.1): chunked counts, and the
/// connection ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_length_and_a_coding_is_the_last_one() {
    let (running, asked) = start().await;
    let chunks = "0\r\n\r\n";
    for framing in [
        "content-length: 5\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 5",
        "content-length: 100\r\ntransfer-encoding: chunked",
    ] {
        let said = talk(
            &running,
            format!("POST /a HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n{chunks}{NEXT}").as_bytes(),
        );
        assert_eq!(said, (vec![200], true), "{framing}");
        assert_eq!(std::mem::take(&mut *asked.lock().unwrap()), ["/a"], "{framing}");
    }
}

/// hyper reads trailers up to a carriage return, and so beyond those that end in line feeds: with trailers the request is
/// the last one, and its client knows that nothing behind it was served.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_trailers_says_that_it_is_the_last_one() {
    let (running, asked) = start().await;
    for trailers in ["x: y\r\n\r\n", "x: y\n\n", "\n"] {
        let request =
            format!("POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n{trailers}");
        let (statuses, is_last) = talk(&running, format!("{request}{NEXT}").as_bytes());
        assert!(is_last && statuses.len() == 1, "{trailers:?}: {statuses:?}");
        let asked = std::mem::take(&mut *asked.lock().unwrap());
        assert!(!asked.contains(&"/hidden".to_owned()), "{trailers:?}");
    }
}

/// Whatever the pieces are in which it comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_means_the_same_byte_by_byte() {
    let (running, asked) = start().await;
    let request =
        "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n2;a=b\r\nyz\r\n0\r\n\r\n";
    let mut client = Raw::connect(running.addr);
    for byte in format!("{request}{NEXT}").bytes() {
        client.send([byte]);
    }
    assert_eq!(client.answer().body, b"xyz");
    assert_eq!(client.answer().status, 200);
    assert_eq!(*asked.lock().unwrap(), ["/a", "/hidden"]);
}

/// A head without an end is bounded, and so are its fields.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_end_is_refused() {
    let (running, asked) = start().await;
    let long_name = format!("GET /a HTTP/1.1\r\nhost: a\r\n{}: x\r\n\r\n", "n".repeat(100_000));
    let many = format!("GET /a HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(10_000));
    let long_path = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(100_000));
    for request in [long_name, many, long_path] {
        let mut client = Raw::connect(running.addr);
        client.send(&request);
        let mut answer = [0; 12];
        client.0.read_exact(&mut answer).expect("an answer");
        assert!(answer == *b"HTTP/1.1 431" || answer == *b"HTTP/1.1 414", "{answer:?}");
        client.rest().expect("a clean end");
    }
    assert_eq!(*asked.lock().unwrap(), Vec::<String>::new());
}
