//! Streams that would last for ever are told when to say goodbye: an event stream, a WebSocket, a long poll.
//!
//! They cannot be moved to a sibling, since what they mean lives in the application. Each has its own way to make the
//! client come again, and the application uses it when [`Drain::started`] resolves:
//!
//! - *Server-sent events*: end the stream; the browser connects again by itself, after the time of the last `retry` field
//!   (HTML standard, section 9.2.6). [`Drain::end`] does the ending.
//! - *WebSocket*: close with [`RECONNECT_CLOSE_CODE`] (RFC 6455, section 7.4; registered as "Service Restart").
//! - *Long poll*: answer "nothing new".

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::Stream;
use futures_util::stream::StreamExt as _;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// WebSocket close code 1012, "Service Restart": the client should connect again.
pub const RECONNECT_CLOSE_CODE: u16 = 1012;

/// Tells handlers of long-lived streams that the server stops. Cheap to clone; from [`Server::drain`](crate::Server::drain).
#[derive(Debug, Clone)]
pub struct Drain(CancellationToken);

impl Drain {
    /// Resolves when it is time to say goodbye: when the server was told to stop and
    /// [`stream_grace`](crate::Server::stream_grace) has passed. At once if that has been.
    pub async fn started(&self) {
        self.0.cancelled().await;
    }

    /// Whether it is time to say goodbye.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.0.is_cancelled()
    }

    /// `stream` until it is time to say goodbye, then `last`, then the end.
    pub fn end<S: Stream>(&self, stream: S, last: S::Item) -> impl Stream<Item = S::Item> + use<S> {
        let stopped =
            UntilDrain { stream: Box::pin(stream), drain: Box::pin(self.0.clone().cancelled_owned()) };
        let mut last = Some(last);
        let drain = self.0.clone();
        stopped.chain(futures_util::stream::poll_fn(move |_| {
            Poll::Ready(if drain.is_cancelled() { last.take() } else { None })
        }))
    }
}

struct UntilDrain<S> {
    stream: Pin<Box<S>>,
    drain: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<S: Stream> Stream for UntilDrain<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        if self.drain.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        self.stream.as_mut().poll_next(context)
    }
}

/// The server's end of [`Drain`].
#[derive(Debug)]
pub(crate) struct DrainSource(CancellationToken);

impl DrainSource {
    pub(crate) fn new() -> Self {
        Self(CancellationToken::new())
    }

    pub(crate) fn watch(&self) -> Drain {
        Drain(self.0.clone())
    }

    /// Starts the drain of long-lived streams after a while.
    pub(crate) fn start_after(&self, time: Duration) -> Countdown {
        if time.is_zero() {
            self.0.cancel();
            return Countdown(None);
        }
        let token = self.0.clone();
        Countdown(Some(tokio::spawn(async move {
            tokio::time::sleep(time).await;
            token.cancel();
        })))
    }
}

/// A drain that is about to start; it does not any more once this is dropped.
#[derive(Debug)]
pub(crate) struct Countdown(Option<JoinHandle<()>>);

impl Drop for Countdown {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn a_stream_ends_with_its_last_word_when_the_drain_starts() {
        let source = DrainSource::new();
        let drain = source.watch();
        let endless = stream::iter([1, 2]).chain(stream::pending());
        let mut stream = Box::pin(drain.end(endless, 99));
        assert_eq!((stream.next().await, stream.next().await), (Some(1), Some(2)));
        let _countdown = source.start_after(Duration::ZERO);
        assert_eq!((stream.next().await, stream.next().await), (Some(99), None));
    }

    #[tokio::test]
    async fn a_stream_that_ends_by_itself_has_no_last_word() {
        let source = DrainSource::new();
        let all: Vec<_> = source.watch().end(stream::iter([1, 2]), 99).collect().await;
        assert_eq!(all, [1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn goodbye_waits_its_time() {
        let source = DrainSource::new();
        let drain = source.watch();
        let _countdown = source.start_after(Duration::from_secs(3));
        let begin = tokio::time::Instant::now();
        drain.started().await;
        assert_eq!(begin.elapsed().as_secs(), 3);
        assert!(drain.has_started());
    }
}
