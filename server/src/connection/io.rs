//! The stream under hyper.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::Rest;
use crate::link::Link;
use crate::replica::Open;

/// The stream under hyper: it replays what was already read and tells the [`Link`] what hyper does.
pub(super) struct Io {
    /// Read from the stream before hyper came.
    early: Bytes,
    stream: TokioIo<TcpStream>,
    link: Arc<Link>,
    open: Open,
}

impl Io {
    pub(super) fn new(rest: Rest, link: Arc<Link>) -> Self {
        if !rest.unread.is_empty() {
            link.hear();
        }
        Self { early: rest.unread, stream: TokioIo::new(rest.stream), link, open: rest.open }
    }

    /// The connection without hyper, which had read `ahead` of what it understood.
    pub(super) fn into_rest(self, ahead: Bytes) -> Rest {
        let unread =
            if self.early.is_empty() { ahead } else { [&ahead[..], &self.early[..]].concat().into() };
        Rest { stream: self.stream.into_inner(), unread, open: self.open, turn: None }
    }

    /// Whether the client's end of the stream is over, without taking what comes before it.
    ///
    /// Nobody is woken once something is there: whoever holds looks after each poll whether the connection is idle and takes
    /// it away.
    fn poll_end(&self, context: &mut Context<'_>) -> Poll<()> {
        let stream = self.stream.inner();
        while self.early.is_empty() {
            if ready!(stream.poll_read_ready(context)).is_err() {
                return Poll::Ready(());
            }
            let look =
                || Ok(rustix::net::recv(stream, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT)?.1);
            match stream.try_io(Interest::READABLE, look) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => return Poll::Pending,
            }
        }
        Poll::Pending
    }

    /// Says a last word to the client; nobody waits for whether it arrives.
    pub(super) fn say(&self, words: &[u8]) {
        let _ = self.stream.inner().try_write(words);
    }
}

impl Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.link.is_held() && self.poll_end(context).is_pending() {
            return Poll::Pending;
        }
        if !self.early.is_empty() {
            let length = self.early.len().min(buffer.remaining());
            buffer.put_slice(&self.early[..length]);
            self.early.advance(length);
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.link.hear();
        }
        read
    }
}

impl Write for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if written.is_ready() {
            self.link.tell();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if let Poll::Ready(Ok(())) = flushed {
            self.link.flush();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        if written.is_ready() {
            self.link.tell();
        }
        written
    }
}
