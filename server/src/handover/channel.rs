//! A connection between two siblings: who may speak on it, and how a descriptor travels with a message. What the messages
//! mean is the protocol's.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net as unix;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::address::HandoverAddress;
use super::error::ChannelError;
use super::protocol::{MAX_MESSAGE, Message, ProtocolError};
use super::received::Received;

/// Descriptors that a received message has room for. One is all that any message carries; with room for a second a
/// message that brings more is seen as such instead of being cut without a word.
const DESCRIPTORS: usize = 2;

/// How long a full backlog is left alone.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);

/// A connection between two siblings of the same user.
#[derive(Debug)]
pub(crate) struct Channel {
    stream: UnixStream,
    /// Room for the longest message, so that not every one asks for its own.
    space: Mutex<Vec<u8>>,
}

impl Channel {
    /// Connects to the sibling at that place; `None` if there is none. As long as its backlog is full it is tried again.
    pub(crate) async fn connect(group: &HandoverAddress, slot: usize) -> Result<Option<Self>, ChannelError> {
        let socket = socket()?;
        let addr = group.socket_address(slot)?;
        while let Err(error) = rustix::net::connect(&socket, &addr).map_err(io::Error::from) {
            match error.kind() {
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => return Ok(None),
                // No event tells when there is room in a unix socket's backlog (connect(2), EAGAIN).
                io::ErrorKind::WouldBlock => tokio::time::sleep(BACKLOG_PAUSE).await,
                _ => return Err(error.into()),
            }
        }
        Self::new(UnixStream::from_std(unix::UnixStream::from(socket))?).map(Some)
    }

    /// Lets in only peers of our own effective user: they could share the port anyway (socket(7), `SO_REUSEPORT`).
    ///
    /// tokio asks for `SO_PEERCRED`, not rustix: a peer in another PID namespace, as in every other container, has the
    /// process id 0, which rustix's type cannot hold.
    pub(super) fn new(stream: UnixStream) -> Result<Self, ChannelError> {
        let peer = stream.peer_cred()?.uid();
        if peer == rustix::process::geteuid().as_raw() {
            Ok(Self { stream, space: Mutex::default() })
        } else {
            Err(ChannelError::OtherUser(peer))
        }
    }

    /// Sends one message, waiting until the peer has room for it.
    pub(crate) async fn send(
        &self,
        message: &Message<'_>,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<(), ChannelError> {
        debug_assert_eq!(message.carries_descriptor(), descriptor.is_some());
        let bytes = message.encode();
        self.stream.async_io(Interest::WRITABLE, || self.send_bytes(&bytes, descriptor)).await?;
        Ok(())
    }

    /// Sends one message now or not at all.
    pub(crate) fn send_now(&self, message: &Message<'_>) -> Result<(), ChannelError> {
        debug_assert!(!message.carries_descriptor());
        Ok(self.send_bytes(&message.encode(), None)?)
    }

    fn send_bytes(&self, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.as_slice();
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::other("no room for a descriptor"));
        }
        // A record goes as a whole or not at all. No SIGPIPE if the peer is gone.
        sendmsg(self.stream.as_fd(), &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The next message.
    pub(crate) async fn receive(&self) -> Result<Received, ChannelError> {
        loop {
            match self.stream.async_io(Interest::READABLE, || self.receive_bytes()).await {
                // A peer that ends with unread messages resets the socket, but what it had sent before is still to be
                // read behind the error (net/unix/af_unix.c, unix_release_sock).
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                Err(error) => return Err(error.into()),
                Ok(None) => return Err(ChannelError::Gone),
                Ok(Some(received)) => return received,
            }
        }
    }

    /// Ends the talk: what is sent from either side from now on fails (`EPIPE`). Both the peer's word and this are put to
    /// work under the lock of this end's socket (`net/unix/af_unix.c`, `unix_shutdown` and `unix_dgram_sendmsg`), so the
    /// word is here and can be read, or the peer knows that it is not heard.
    pub(crate) fn shut_down(&self) {
        // Cannot fail for a unix socket.
        let _ = rustix::net::shutdown(&self.stream, Shutdown::Both);
    }

    /// The next of the messages that were here when the talk was [shut down](Self::shut_down).
    pub(crate) fn receive_last(&self) -> Option<Received> {
        loop {
            match self.receive_bytes() {
                Ok(Some(Ok(received))) => return Some(received),
                // No message, or the error of a peer that ended, behind which its last messages wait.
                Ok(Some(Err(_))) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
                    ) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }

    fn receive_bytes(&self) -> io::Result<Option<Result<Received, ChannelError>>> {
        let mut bytes = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.resize(MAX_MESSAGE, 0);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            self.stream.as_fd(),
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        // Take every descriptor first, so that the unwanted ones are closed too.
        let mut descriptors: Vec<OwnedFd> = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Ok(Some(Err(ProtocolError::TooLong(received.bytes).into())));
        }
        let is_cut = received.flags.contains(ReturnFlags::CTRUNC);
        if descriptors.len() > 1 || is_cut && !descriptors.is_empty() {
            return Ok(Some(Err(ChannelError::Descriptors)));
        }
        let (bytes, descriptor) = (bytes[..received.bytes].to_vec(), descriptors.pop());
        Ok(Some(Ok(Received { bytes, descriptor, is_lost: is_cut })))
    }
}

/// A socket for the talk of two siblings, of either end.
pub(super) fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::handover::protocol::MAX_UNREAD;
    use crate::handover::rendezvous::Rendezvous;

    pub(in crate::handover) fn group(test: &str) -> HandoverAddress {
        HandoverAddress::Abstract(format!("hitless-test.{}.{test}", std::process::id()))
    }

    async fn pair(test: &str) -> (Rendezvous, Channel, Channel) {
        let group = group(test);
        let slot = Rendezvous::take(&group).await.unwrap();
        let near = Channel::connect(&group, slot.number).await.unwrap().unwrap();
        let far = slot.accept().await.unwrap();
        (slot, near, far)
    }

    #[tokio::test]
    async fn a_descriptor_travels_with_its_message() {
        let (_slot, near, far) = pair("descriptor").await;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let give = Message::GiveListener { id: 7, owner: "a" };
        near.send(&give, Some(listener.as_fd())).await.unwrap();
        let mut received = far.receive().await.unwrap();
        let (message, descriptor) = received.split().unwrap();
        assert_eq!(message, give);
        let received = std::net::TcpListener::from(descriptor.unwrap());
        assert_eq!(received.local_addr().unwrap(), listener.local_addr().unwrap());
    }

    #[tokio::test]
    async fn a_missing_or_an_unasked_descriptor_is_an_error() {
        let (_slot, near, far) = pair("unasked").await;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        near.send_bytes(&Message::Claim.encode(), Some(listener.as_fd())).unwrap();
        near.send_bytes(&Message::GiveListener { id: 1, owner: "a" }.encode(), None).unwrap();
        for _ in 0..2 {
            let received = far.receive().await.unwrap();
            assert!(matches!(received.message(), Err(ChannelError::Descriptors)));
        }
    }

    #[tokio::test]
    async fn the_longest_message_fits_and_a_longer_one_is_refused() {
        let (_slot, near, far) = pair("long").await;
        let unread = vec![7; MAX_UNREAD];
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let give = Message::GiveConnection { id: 1, unread: &unread };
        near.send(&give, Some(socket.as_fd())).await.unwrap();
        assert_eq!(far.receive().await.unwrap().message().unwrap(), give);
        near.send_bytes(&vec![0; MAX_MESSAGE + 1], None).unwrap();
        assert!(matches!(far.receive().await, Err(ChannelError::Protocol(ProtocolError::TooLong(_)))));
    }

    #[tokio::test]
    async fn what_a_peer_sent_before_it_ended_is_still_read() {
        let (_slot, near, far) = pair("reset").await;
        near.send_now(&Message::Claim).unwrap();
        far.send_now(&Message::Taken { id: 5 }).unwrap();
        // Ends with a message unread, which resets the other side.
        drop(far);
        assert_eq!(near.receive().await.unwrap().message().unwrap(), Message::Taken { id: 5 });
        assert!(matches!(near.receive().await, Err(ChannelError::Gone)));
    }

    #[tokio::test]
    async fn after_the_end_of_the_talk_nothing_is_said_and_what_was_said_is_heard() {
        let (_slot, near, far) = pair("end").await;
        far.send_now(&Message::Taken { id: 5 }).unwrap();
        far.send_bytes(b"nonsense", None).unwrap();
        far.send_now(&Message::Taken { id: 6 }).unwrap();
        near.send_now(&Message::Claim).unwrap();
        near.shut_down();
        assert!(matches!(far.send_now(&Message::Taken { id: 7 }), Err(error) if error.is_of_the_peer()));
        // Nor can it be fooled by what still waits for it.
        assert_eq!(far.receive().await.unwrap().message().unwrap(), Message::Claim);
        assert!(far.send_now(&Message::Taken { id: 8 }).is_err());
        assert_eq!(near.receive_last().unwrap().message().unwrap(), Message::Taken { id: 5 });
        assert!(near.receive_last().unwrap().message().is_err());
        assert_eq!(near.receive_last().unwrap().message().unwrap(), Message::Taken { id: 6 });
        assert!(near.receive_last().is_none());
    }

    #[tokio::test]
    async fn a_full_backlog_is_waited_for() {
        let group = group("backlog");
        let slot = Rendezvous::take(&group).await.unwrap();
        let mut early = Vec::new();
        let mut late = loop {
            let mut connecting = Box::pin(Channel::connect(&group, slot.number));
            match futures_util::poll!(connecting.as_mut()) {
                std::task::Poll::Ready(connected) => early.push(connected.unwrap().unwrap()),
                std::task::Poll::Pending => break connecting,
            }
        };
        assert!(early.len() >= 128, "{}", early.len());
        slot.accept().await.unwrap();
        assert!(late.as_mut().await.unwrap().is_some());
    }
}
