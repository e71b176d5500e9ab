//! HTTP/2 clients that want to keep a server busy: each is shut out or slowed down, the others are served, and memory stays
//! bounded. The numbers are those of the attacks' descriptions, cut to what a test may take.

use std::convert::Infallible;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use futures_util::stream;
use hitless_server::{Limits, Outcome, Preset};
use tokio::time::timeout;

use crate::support::raw::{Raw, frame, get_head, next_frame, preface};
use crate::support::running::{PATIENCE, Running};

/// The handlers under way, and the most that there were at once.
#[derive(Debug, Default)]
struct Work {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// One of them.
struct Busy(Arc<Work>);

impl Busy {
    fn at(work: &Arc<Work>) -> Self {
        let now = work.now.fetch_add(1, SeqCst) + 1;
        work.most.fetch_max(now, SeqCst);
        Self(Arc::clone(work))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, SeqCst);
    }
}

async fn start() -> (Running, Arc<Work>) {
    let work = Arc::new(Work::default());
    let busy = Arc::clone(&work);
    let wait = async move || {
        let _busy = Busy::at(&busy);
        std::future::pending::<&'static str>().await
    };
    let router = Router::new()
        .route("/", get(async || "hello"))
        .route("/wait", get(wait))
        .route("/piece", get(async || Bytes::from(vec![b'x'; 65_536])));
    let mut limits = Limits::default();
    limits.write_timeout = Duration::from_millis(500);
    let configure = |server: hitless_server::Server| server.preset(Preset::Graceful).limits(limits);
    (Running::start(configure, |_| router).await, work)
}

/// Another client is served, and the server drains: of the flood nothing stays.
async fn survives(running: Running, flooder: Raw) {
    let mut other = Raw::connect(running.addr);
    other.get("/");
    assert_eq!(other.answer().body, b"hello");
    drop((other, flooder));
    let report = timeout(PATIENCE, running.stop()).await.expect("it ends in time");
    assert_eq!((report.outcome, report.cut(), report.account.in_flight), (Outcome::Drained, 0, 0));
}

/// Sends until the server refuses; says how many were sent.
fn flood(client: &mut Raw, count: u32, mut piece: impl FnMut(u32) -> Vec<u8>) -> u32 {
    client.0.set_write_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    (0..count).find(|&number| client.0.write_all(&piece(number)).is_err()).unwrap_or(count)
}

/// Reads to the end and returns the code of the last GOAWAY, if there was one.
fn go_away(client: &mut Raw) -> Option<u32> {
    let mut code = None;
    while let Ok(Some((kind, _, _, payload))) = next_frame(&mut client.0) {
        if kind == 7 {
            code = payload.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
        }
    }
    code
}

const PROTOCOL_ERROR: u32 = 1;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

/// CVE-2023-44487: requests that are reset as soon as they are sent.
#[tokio::test(flavor = "multi_thread")]
async fn rapid_resets_end_the_connection() {
    let (running, work) = start().await;
    let mut client = Raw::connect(running.addr);
    client.send(preface(&[]));
    flood(&mut client, 20_000, |number| {
        let stream = 2 * number + 1;
        [frame(1, 5, stream, &get_head("/wait")), frame(3, 0, stream, &8_u32.to_be_bytes())].concat()
    });
    assert!(matches!(go_away(&mut client), Some(ENHANCE_YOUR_CALM) | None));
    assert!(work.most.load(SeqCst) <= 200, "{work:?}");
    survives(running, client).await;
    assert_eq!(work.now.load(SeqCst), 0);
}

/// CVE-2025-8671: errors of the client's that make the server reset its own streams.
#[tokio::test(flavor = "multi_thread")]
async fn resets_that_the_server_is_made_to_send_end_the_connection() {
    let (running, work) = start().await;
    let mut client = Raw::connect(running.addr);
    client.send(preface(&[]));
    let sent = flood(&mut client, 20_000, |number| {
        let stream = 2 * number + 1;
        // A WINDOW_UPDATE of nothing is an error of its stream.
        [frame(1, 5, stream, &get_head("/wait")), frame(8, 0, stream, &[0; 4])].concat()
    });
    assert!(go_away(&mut client).is_some() || sent < 20_000);
    assert!(work.most.load(SeqCst) <= 200, "{work:?}");
    survives(running, client).await;
}

/// VU#421644: a head that never ends.
#[tokio::test(flavor = "multi_thread")]
async fn endless_continuation_frames_end_the_connection() {
    let (running, _) = start().await;
    let mut client = Raw::connect(running.addr);
    client.send(preface(&[]));
    client.send(frame(1, 1, 1, &get_head("/")));
    let field = [&[0, 1, b'x', 100][..], &[b'y'; 100]].concat();
    let sent = flood(&mut client, 20_000, |_| frame(9, 0, 1, &field));
    assert!(sent < 20_000 || go_away(&mut client).is_some());
    survives(running, client).await;
}

/// CVE-2019-9512 and 9515: each asks for an answer, and the client reads none.
#[tokio::test(flavor = "multi_thread")]
async fn pings_and_settings_whose_answers_nobody_reads_end_the_connection() {
    for piece in [frame(6, 0, 0, b"8 bytes!"), frame(4, 0, 0, &[0, 4, 0, 0, 0, 1])] {
        let (running, _) = start().await;
        let mut client = Raw::connect_with_room(running.addr, 4096).await;
        client.send(preface(&[]));
        let many = piece.repeat(1000);
        // As much as all buffers of the kernel hold, and more.
        let sent = flood(&mut client, 2000, |_| many.clone());
        assert!(sent < 2000, "the server took {sent} thousand");
        survives(running, client).await;
    }
}

/// CVE-2019-9518: frames without content, for ever. They cost no more than they cost the client.
#[tokio::test(flavor = "multi_thread")]
async fn empty_frames_keep_nobody_from_being_served() {
    let (running, _) = start().await;
    let mut client = Raw::connect(running.addr);
    client.send(preface(&[]));
    let head = [&[0x83], &get_head("/")[1..]].concat();
    client.send(frame(1, 4, 1, &head));
    flood(&mut client, 20_000, |_| frame(0, 0, 1, &[]));
    survives(running, client).await;
}

/// A small head that unpacks to a large one (an "HPACK bomb"): the limit is on what is unpacked.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_unpacks_to_too_much_is_refused() {
    let (running, _) = start().await;
    let mut client = Raw::connect(running.addr);
    client.send(preface(&[]));
    // Put into the dynamic table once (4 KB), and then named by one byte, ten thousand times.
    let value = vec![b'y'; 4000];
    let entry = [&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e][..], &value].concat();
    let bomb = [&get_head("/")[..], &entry, &vec![0xbe; 10_000]].concat();
    client.send(frame(1, 5, 1, &bomb));
    loop {
        match next_frame(&mut client.0).expect("an answer") {
            // 431: `:status` and three bytes of Huffman code; or the stream or the connection ends.
            Some((1, _, 1, head)) => {
                assert_eq!(head[..2], [0x48, 0x83], "{head:x?}");
                break;
            }
            Some((3 | 7, ..)) | None => break,
            Some(_) => {}
        }
    }
    survives(running, client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_hpack_and_no_frame_ends_the_connection() {
    for (bytes, expected) in [
        // An index that is not in any table; a table that is larger than allowed; an integer that overflows.
        (frame(1, 5, 1, &[0xff, 0xff, 0x7f]), COMPRESSION_ERROR),
        (frame(1, 5, 1, &[0x3f, 0xe1, 0xff, 0xff, 0x7f]), COMPRESSION_ERROR),
        (frame(1, 5, 1, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]), COMPRESSION_ERROR),
        // A stream of the server's, a CONTINUATION of nothing, DATA of a stream that is none.
        (frame(1, 5, 2, &get_head("/")), PROTOCOL_ERROR),
        (frame(9, 4, 1, &get_head("/")), PROTOCOL_ERROR),
        (frame(0, 1, 1, b"x"), PROTOCOL_ERROR),
    ] {
        let (running, _) = start().await;
        let mut client = Raw::connect(running.addr);
        client.send(preface(&[]));
        client.send(&bytes);
        let code = go_away(&mut client);
        // h2 calls some errors of HPACK errors of the protocol.
        assert!(code == Some(expected) || code == Some(PROTOCOL_ERROR), "{bytes:x?}: {code:?}");
        survives(running, client).await;
    }
}

/// However many streams a client opens at once, so many are served.
#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_the_limit_are_refused() {
    let (running, work) = start().await;
    let mut client = Raw::connect(running.addr);
    client.send(preface(&[]));
    for number in 0..150 {
        client.send(frame(1, 5, 2 * number + 1, &get_head("/wait")));
    }
    let mut refused = 0;
    while refused < 50 {
        match next_frame(&mut client.0).expect("a frame").expect("the connection stays") {
            // RST_STREAM with REFUSED_STREAM.
            (3, _, _, code) if code == 7_u32.to_be_bytes() => refused += 1,
            (3, _, stream, code) => panic!("stream {stream} ended with {code:?}"),
            _ => {}
        }
    }
    assert!(work.most.load(SeqCst) <= 100, "{work:?}");
    survives(running, client).await;
}

/// What a stream holds while its client has no room does not grow with the number of pieces.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_room_asks_the_application_for_no_second_piece() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let pieces = async move || {
        let piece = move || {
            count.fetch_add(1, SeqCst);
            Ok::<_, Infallible>(Bytes::from(vec![b'x'; 65_536]))
        };
        Body::from_stream(stream::repeat_with(piece))
    };
    let router = Router::new().route("/pieces", get(pieces));
    let running = Running::start(|server| server, |_| router).await;
    let mut client = Raw::connect(running.addr);
    client.send(preface(&[(4, 1)]));
    client.send(frame(1, 5, 1, &get_head("/pieces")));
    while !matches!(next_frame(&mut client.0).unwrap(), Some((0, ..))) {}
    // By the time of a PING's answer it has asked for all that it asks for.
    for _ in 0..10 {
        client.send(frame(6, 0, 0, b"8 bytes!"));
        while !matches!(next_frame(&mut client.0).unwrap(), Some((6, 1, ..))) {}
    }
    assert_eq!(asked.load(SeqCst), 1);
}

/// CVE-2019-9517: the client asks for everything and takes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_no_answer_is_given_up() {
    let (running, _) = start().await;
    let mut client = Raw::connect(running.addr);
    // One byte of room in each stream.
    client.send(preface(&[(4, 1)]));
    for number in 0..100 {
        client.send(frame(1, 5, 2 * number + 1, &get_head("/piece")));
    }
    // Its connection ends, with nothing done by anybody.
    while let Ok(Some(_)) = next_frame(&mut client.0) {}
    survives(running, client).await;
}
