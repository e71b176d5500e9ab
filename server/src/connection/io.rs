//! The stream under hyper.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::end;
use super::parked::ParkedConnection;
use crate::activity::ConnectionActivity;
use crate::replica::Open;
use crate::timer::Timer;

/// How long a client that has shut down its write side waits for the next byte of its answer. It may want the answer
/// (RFC 9112, section 9.6, allows it), or it may be gone: only what is sent to it tells the two apart.
const HALF_CLOSED: Duration = Duration::from_secs(5);

/// The stream under hyper: it replays what was already read and tells the [`ConnectionActivity`] what hyper does. Wherever it is
/// dropped, by hyper or by the application after an upgrade, its connection [ends in stages](end).
pub(super) struct Io {
    /// Read from the stream before hyper came.
    early: Bytes,
    /// There until the connection moves or ends.
    held: Option<Held>,
    activity: Arc<ConnectionActivity>,
    /// Runs while the client has no room for what is sent.
    blocked: Timer,
    /// Runs since the client shut down its write side, or since something was sent to it afterwards.
    half_closed: Timer,
    /// How often the request's body had been asked for when the client's end was seen.
    asked: u64,
}

/// The stream with its entry in the books.
struct Held {
    stream: TokioIo<TcpStream>,
    open: Open,
}

/// What a look into the socket found.
enum Look {
    /// Bytes, or an error that reading returns.
    Something,
    /// The client's end of the stream is over.
    End,
}

impl Io {
    pub(super) fn new(parked: ParkedConnection, activity: Arc<ConnectionActivity>) -> Self {
        if !parked.unread.is_empty() {
            activity.on_read();
        }
        let held = Held { stream: TokioIo::new(parked.stream), open: parked.open };
        Self {
            early: parked.unread,
            held: Some(held),
            activity,
            blocked: Timer::default(),
            half_closed: Timer::default(),
            asked: 0,
        }
    }

    /// Both ends of the connection, this one first.
    pub(super) fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        let stream = self.held.as_ref()?.stream.inner();
        Some((stream.local_addr().ok()?, stream.peer_addr().ok()?))
    }

    /// The connection without hyper, which had read `ahead` of what it understood. `None` if it broke off.
    pub(super) fn into_parked(mut self, ahead: Bytes) -> Option<ParkedConnection> {
        let Held { stream, open } = self.held.take()?;
        let unread =
            if self.early.is_empty() { ahead } else { [&ahead[..], &self.early[..]].concat().into() };
        Some(ParkedConnection { stream: stream.into_inner(), unread, open, turn: None, is_new: false })
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TokioIo<TcpStream>>> {
        match &mut self.held {
            Some(held) => Ok(Pin::new(&mut held.stream)),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Looks into the socket without taking anything. Nobody is woken later if something is there.
    fn poll_look(&self, context: &mut Context<'_>) -> Poll<Look> {
        let Some(held) = &self.held else { return Poll::Ready(Look::Something) };
        let stream = held.stream.inner();
        loop {
            if ready!(stream.poll_read_ready(context)).is_err() {
                return Poll::Ready(Look::Something);
            }
            let look =
                || Ok(rustix::net::recv(stream, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT)?.1);
            match stream.try_io(Interest::READABLE, look) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) => return Poll::Ready(Look::End),
                Ok(_) | Err(_) => return Poll::Ready(Look::Something),
            }
        }
    }

    /// Whether hyper is told that the client's end is over. If the request under way is whole, that has to wait: hyper
    /// would drop it, and the client may only have said that it asks nothing more.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.activity.is_answering() {
            return Poll::Ready(());
        }
        if !self.half_closed.is_running() {
            self.asked = self.activity.body_asked();
            // The application may not have seen yet that the body is whole; the next look tells.
            context.waker().wake_by_ref();
        } else if self.activity.lacks_body(self.asked) {
            return Poll::Ready(());
        }
        // While the client has no room for the answer, the limit on that counts.
        if self.blocked.is_running() {
            let _ = self.half_closed.poll(context, HALF_CLOSED);
            return Poll::Pending;
        }
        self.half_closed.poll(context, HALF_CLOSED)
    }

    /// What hyper wrote, in the books.
    fn note_write(&mut self, written: &Poll<io::Result<usize>>, context: &mut Context<'_>) -> io::Result<()> {
        if written.is_ready() {
            self.blocked.stop();
            if self.half_closed.is_running() {
                self.half_closed.stop();
                let _ = self.half_closed.poll(context, HALF_CLOSED);
            }
        } else if self.blocked.poll(context, self.activity.replica().limits.write_timeout).is_ready() {
            // What the client does not take is thrown away at once instead of waiting in the kernel.
            if let Some(held) = self.held.take() {
                let _ = held.stream.inner().set_zero_linger();
            }
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    /// Says a last word to the client.
    pub(super) fn write_now(&self, words: &[u8]) {
        if let Some(held) = &self.held {
            let _ = held.stream.inner().try_write(words);
        }
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        let Some(Held { stream, open }) = self.held.take() else { return };
        let stream = stream.into_inner();
        let look = rustix::net::recv(&stream, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        // If the client has closed, and what it sent is read, nothing can come any more that would draw a reset; if it has
        // broken off, it had had time to read. Then there is nothing to wait for but the streams' own tasks.
        let is_over = match look.map(|(_, length)| length) {
            Ok(0) => !self.half_closed.is_running(),
            Ok(_) | Err(Errno::AGAIN) => false,
            Err(_) => true,
        };
        if is_over && !self.activity.has_open_streams() {
            self.activity.conclude(true, false);
        } else {
            end::begin(stream, open, Arc::clone(&self.activity), self.half_closed.is_running());
        }
    }
}

impl Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let is_held = self.activity.is_held();
        if !self.early.is_empty() {
            if is_held {
                return Poll::Pending;
            }
            let length = self.early.len().min(buffer.remaining());
            buffer.put_slice(&self.early[..length]);
            self.early.advance(length);
            return Poll::Ready(Ok(()));
        }
        if is_held || self.activity.is_answering() {
            match ready!(self.poll_look(context)) {
                // Whoever holds looks after each poll whether the connection is idle and takes it away.
                Look::Something if is_held => return Poll::Pending,
                Look::Something => {}
                Look::End => {
                    ready!(self.poll_end(context));
                    return Poll::Ready(Ok(()));
                }
            }
        }
        let read = self.stream()?.poll_read(context, buffer);
        if read.is_ready() {
            self.activity.on_read();
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
        let written = self.stream()?.poll_write(context, bytes);
        self.note_write(&written, context)?;
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.stream()?.poll_flush(context);
        if let Poll::Ready(Ok(())) = flushed {
            self.activity.flush();
            // What hyper was not told of the client's end it may hear now; nothing else would wake it.
            if self.half_closed.is_running() && !self.activity.is_answering() {
                context.waker().wake_by_ref();
            }
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.stream()?.poll_write_vectored(context, slices);
        self.note_write(&written, context)?;
        written
    }
}
