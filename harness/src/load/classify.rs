//! From a client's error to a failure class. Reads the chain of errors by type, never by text.
//!
//! What reqwest and hyper make of an event on the wire was tried case by case against raw TCP servers; the tests below
//! repeat it.

use std::error::Error;
use std::io;

use crate::model::error_chain::chain;
use crate::model::failure::{Failure, FailureClass};

/// How far a request had come when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// No head of an answer had arrived.
    Head,
    /// The head had arrived, the body not to its end.
    Body,
}

/// The class of a client's error, with the text of its whole chain.
#[must_use]
pub fn classify(error: &reqwest::Error, stage: Stage) -> Failure {
    let class = from_facts(&ErrorFacts::of(error), stage);
    Failure::new(class, chain(error))
}

/// The class of a failed connect.
#[must_use]
pub fn classify_connect(error: &io::Error) -> Failure {
    let facts = ErrorFacts {
        is_connect: true,
        io: Some(error.kind()),
        errno: error.raw_os_error(),
        ..ErrorFacts::default()
    };
    Failure::new(from_facts(&facts, Stage::Head), format!("failed to connect: {}", chain(error)))
}

/// The class of hyper's error on a known connection; `received` is how many bytes of an answer had arrived.
#[must_use]
pub fn classify_hyper(error: &hyper::Error, stage: Stage, received: Option<u64>) -> Failure {
    let mut facts = ErrorFacts { is_timeout: error.is_timeout(), ..ErrorFacts::default() };
    facts.read(error);
    let class = match from_facts(&facts, stage) {
        // A part of a head, then the end.
        FailureClass::EmptyReply if received > Some(0) => FailureClass::Truncated,
        FailureClass::ResetBeforeResponse if received > Some(0) => FailureClass::ResetMidResponse,
        class => class,
    };
    let never_written = if facts.is_unwritten { "never written: " } else { "" };
    Failure::new(class, format!("{never_written}{}", chain(error)))
}

/// Whether HTTP/2 itself says that the server did not process the request: it met a GOAWAY without an error, or its
/// stream was refused (RFC 9113, sections 6.8 and 8.7).
#[must_use]
pub fn is_unprocessed(error: &reqwest::Error) -> bool {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(h2) = inner.downcast_ref::<h2::Error>() {
            let reason = h2.reason();
            return h2.is_remote()
                && ((h2.is_go_away() && reason == Some(h2::Reason::NO_ERROR))
                    || (h2.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM)));
        }
        source = inner.source();
    }
    false
}

/// What the chain of errors shows.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one predicate of hyper's or reqwest's error, read once"
)]
struct ErrorFacts {
    /// It happened while connecting.
    is_connect: bool,
    /// A timeout of ours ran out.
    is_timeout: bool,
    /// The peer closed before the message was complete.
    is_incomplete: bool,
    /// The connection went away before the request was written.
    is_unwritten: bool,
    /// The server reset the HTTP/2 stream or went away from it.
    is_h2_refusal: bool,
    /// The kind of the innermost I/O error.
    io: Option<io::ErrorKind>,
    /// The `errno` of the innermost I/O error that has one.
    errno: Option<i32>,
}

impl ErrorFacts {
    fn of(error: &reqwest::Error) -> Self {
        let mut facts =
            Self { is_connect: error.is_connect(), is_timeout: error.is_timeout(), ..Self::default() };
        if let Some(source) = error.source() {
            facts.read(source);
        }
        facts
    }

    /// Reads an error and all its sources.
    fn read(&mut self, error: &(dyn Error + 'static)) {
        let mut next = Some(error);
        while let Some(inner) = next {
            if let Some(hyper) = inner.downcast_ref::<hyper::Error>() {
                self.is_incomplete |= hyper.is_incomplete_message();
                self.is_unwritten |= hyper.is_canceled() || hyper.is_closed();
            }
            if let Some(h2) = inner.downcast_ref::<h2::Error>() {
                self.is_h2_refusal |= h2.is_remote() && (h2.is_reset() || h2.is_go_away());
                self.io = h2.get_io().map(io::Error::kind).or(self.io);
            }
            if let Some(io) = inner.downcast_ref::<io::Error>() {
                self.io = Some(io.kind());
                self.errno = io.raw_os_error().or(self.errno);
            }
            next = inner.source();
        }
    }
}

fn from_facts(facts: &ErrorFacts, stage: Stage) -> FailureClass {
    if is_interference(facts) {
        return FailureClass::HarnessResource;
    }
    if facts.is_timeout || facts.io == Some(io::ErrorKind::TimedOut) {
        return if facts.is_connect { FailureClass::ConnectTimeout } else { FailureClass::Timeout };
    }
    // EPIPE is the second write after a reset.
    let is_reset = matches!(
        facts.io,
        Some(io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe)
    );
    let is_reset = is_reset || facts.is_h2_refusal;
    let is_cut = facts.is_incomplete || facts.io == Some(io::ErrorKind::UnexpectedEof);
    match stage {
        Stage::Head if facts.io == Some(io::ErrorKind::ConnectionRefused) => FailureClass::Refused,
        Stage::Head if is_reset => FailureClass::ResetBeforeResponse,
        // Accepted and closed again before the request was written: curl writes into it and finds it closed.
        Stage::Head if is_cut || facts.is_unwritten => FailureClass::EmptyReply,
        Stage::Body if is_reset => FailureClass::ResetMidResponse,
        Stage::Body if is_cut => FailureClass::Truncated,
        Stage::Head | Stage::Body => FailureClass::Other,
    }
}

/// Out of ports (`EADDRNOTAVAIL`, with a bound source `EADDRINUSE`), descriptors (`EMFILE`, `ENFILE`) or memory
/// (`ENOBUFS`, `ENOMEM`): connect(2), socket(2).
fn is_interference(facts: &ErrorFacts) -> bool {
    const EMFILE_AND_FRIENDS: [i32; 4] = [24, 23, 105, 12];
    facts.errno.is_some_and(|errno| EMFILE_AND_FRIENDS.contains(&errno))
        || matches!(
            facts.io,
            Some(io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse | io::ErrorKind::OutOfMemory)
        )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// A server that does `act` with each connection, and what a client that asks it once sees.
    async fn seen<F, Fut>(act: F) -> Failure
    where
        F: Fn(TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                act(stream).await;
            }
        });
        let failure = ask(&url).await;
        server.abort();
        failure
    }

    async fn ask(url: &str) -> Failure {
        let client = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .connect_timeout(Duration::from_millis(400))
            .timeout(Duration::from_millis(500))
            .build()
            .unwrap();
        match client.get(url).send().await {
            Err(error) => classify(&error, Stage::Head),
            Ok(response) => match response.bytes().await {
                Err(error) => classify(&error, Stage::Body),
                Ok(body) => panic!("the answer was fine: {body:?}"),
            },
        }
    }

    async fn read_request(stream: &mut TcpStream) {
        let mut head = [0; 4096];
        let _ = stream.read(&mut head).await.unwrap();
    }

    fn reset(stream: TcpStream) {
        // A linger of zero turns the close into a reset (socket(7)).
        stream.set_zero_linger().unwrap();
        drop(stream);
    }

    #[tokio::test]
    async fn nobody_listens_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(ask(&format!("http://{address}/")).await.class, FailureClass::Refused);
    }

    #[tokio::test]
    async fn close_after_reading_is_an_empty_reply() {
        let failure = seen(|mut stream| async move {
            read_request(&mut stream).await;
        })
        .await;
        assert_eq!(failure.class, FailureClass::EmptyReply, "{}", failure.detail);
    }

    #[tokio::test]
    async fn reset_after_reading_is_a_reset_before_the_response() {
        let failure = seen(|mut stream| async move {
            read_request(&mut stream).await;
            reset(stream);
        })
        .await;
        assert_eq!(failure.class, FailureClass::ResetBeforeResponse, "{}", failure.detail);
    }

    #[tokio::test]
    async fn reset_at_once_is_a_reset_before_the_response() {
        let failure = seen(|stream| async move { reset(stream) }).await;
        assert_eq!(failure.class, FailureClass::ResetBeforeResponse, "{}", failure.detail);
    }

    #[tokio::test]
    async fn half_a_body_is_truncated() {
        for head in ["content-length: 10\r\n\r\nhalf", "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
            let failure = seen(move |mut stream| async move {
                read_request(&mut stream).await;
                stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}").as_bytes()).await.unwrap();
            })
            .await;
            assert_eq!(failure.class, FailureClass::Truncated, "{head:?}: {}", failure.detail);
        }
    }

    #[tokio::test]
    async fn reset_in_the_body_is_a_reset_mid_response() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        // A reset discards what the client has not read yet, so the server waits until the head was seen.
        let (head_seen, wait_for_head) = tokio::sync::oneshot::channel();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
            wait_for_head.await.unwrap();
            reset(stream);
        });
        let response = reqwest::Client::builder().no_proxy().build().unwrap().get(&url).send().await.unwrap();
        head_seen.send(()).unwrap();
        let failure = classify(&response.bytes().await.unwrap_err(), Stage::Body);
        server.await.unwrap();
        assert_eq!(failure.class, FailureClass::ResetMidResponse, "{}", failure.detail);
    }

    #[tokio::test]
    async fn silence_is_a_timeout() {
        let failure = seen(|mut stream| async move {
            read_request(&mut stream).await;
            std::future::pending::<()>().await;
        })
        .await;
        assert_eq!(failure.class, FailureClass::Timeout, "{}", failure.detail);
    }

    #[tokio::test]
    async fn garbage_is_other_and_keeps_its_text() {
        let failure = seen(|mut stream| async move {
            read_request(&mut stream).await;
            stream.write_all(b"what do you want?\r\n\r\n").await.unwrap();
        })
        .await;
        assert_eq!(failure.class, FailureClass::Other);
        assert!(failure.detail.contains("invalid HTTP"), "{}", failure.detail);
    }

    #[test]
    fn own_shortages_come_first() {
        for (errno, kind) in [
            (Some(24), io::ErrorKind::Other),
            (Some(99), io::ErrorKind::AddrNotAvailable),
            (Some(98), io::ErrorKind::AddrInUse),
            (Some(105), io::ErrorKind::Other),
        ] {
            let facts = ErrorFacts { is_connect: true, io: Some(kind), errno, ..ErrorFacts::default() };
            assert_eq!(from_facts(&facts, Stage::Head), FailureClass::HarnessResource, "{errno:?}");
        }
    }

    #[tokio::test]
    async fn address_that_this_machine_does_not_have_is_the_harness_own_shortage() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        // An address of the documentation's network (RFC 5737): bind(2) answers EADDRNOTAVAIL, as it does without ports.
        let nowhere: std::net::IpAddr = "192.0.2.1".parse().unwrap();
        let client = reqwest::Client::builder().no_proxy().local_address(nowhere).build().unwrap();
        let failure = classify(&client.get(&url).send().await.unwrap_err(), Stage::Head);
        assert_eq!(failure.class, FailureClass::HarnessResource, "{}", failure.detail);
    }

    #[tokio::test]
    async fn accept_queue_that_is_full_and_stays_so_is_a_connect_timeout() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        // A backlog of 0 holds one finished handshake (sk_acceptq_is_full in the kernel's sock.h); nobody accepts.
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let _waiting = TcpStream::connect(address).await.unwrap();
        let failure = ask(&format!("http://{address}/")).await;
        assert_eq!(failure.class, FailureClass::ConnectTimeout, "{}", failure.detail);
    }

    #[test]
    fn timeout_while_connecting_is_a_connect_timeout() {
        let facts = ErrorFacts { is_connect: true, is_timeout: true, ..ErrorFacts::default() };
        assert_eq!(from_facts(&facts, Stage::Head), FailureClass::ConnectTimeout);
    }
}
