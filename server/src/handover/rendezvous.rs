//! A replica's place in the group: taking one that is free, and hearing the siblings that connect to it. What is said then
//! is the channel's.

use std::fs;
use std::io;
use std::os::unix::net as unix;
use std::path::PathBuf;

use rustix::net::SocketAddrUnix;
use tokio::net::UnixListener;

use super::address::HandoverAddress;
use super::channel::{Channel, socket};
use super::directory;
use super::error::ChannelError;

/// Replicas of one group: so many can find each other.
pub(crate) const SLOTS: usize = 64;

/// A place in the group: siblings connect to it.
#[derive(Debug)]
pub(crate) struct Rendezvous {
    pub(crate) number: usize,
    listener: UnixListener,
    path: Option<PathBuf>,
}

impl Rendezvous {
    /// Takes the first free place.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if all places are taken, and those of [`directory::lock`].
    pub(crate) async fn take(group: &HandoverAddress) -> io::Result<Self> {
        // Held while places are taken in a directory, so that nobody removes a file that somebody just made.
        let _lock = match group {
            HandoverAddress::Abstract(_) => None,
            HandoverAddress::Directory(directory) => Some(directory::lock(directory).await?),
        };
        for number in 0..SLOTS {
            let path = group.path(number);
            if let Some(path) = &path
                && is_refused(group, number)
            {
                let _ = fs::remove_file(path);
            }
            match listen(&group.socket_address(number)?) {
                Ok(listener) => return Ok(Self { number, listener, path }),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "all places of the group are taken"))
    }

    /// The next sibling that connects, if it is one of us.
    pub(crate) async fn accept(&self) -> Result<Channel, ChannelError> {
        let (stream, _) = self.listener.accept().await?;
        Channel::new(stream)
    }
}

impl Drop for Rendezvous {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Best effort: a file left behind is removed when its place is taken again.
            let _ = fs::remove_file(path);
        }
    }
}

fn listen(addr: &SocketAddrUnix) -> io::Result<UnixListener> {
    let socket = socket()?;
    rustix::net::bind(&socket, addr)?;
    rustix::net::listen(&socket, 128)?;
    UnixListener::from_std(unix::UnixListener::from(socket))
}

/// Whether a socket file is there and nobody listens behind it.
fn is_refused(group: &HandoverAddress, slot: usize) -> bool {
    let connected = socket().and_then(|socket| {
        let addr = group.socket_address(slot)?;
        Ok(rustix::net::connect(&socket, &addr)?)
    });
    connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::handover::channel::tests::group;
    use crate::handover::protocol::Message;

    #[tokio::test]
    async fn places_are_taken_one_after_the_other_and_free_again() {
        let group = group("places");
        let first = Rendezvous::take(&group).await.unwrap();
        let second = Rendezvous::take(&group).await.unwrap();
        assert_eq!((first.number, second.number), (0, 1));
        drop(first);
        assert!(Channel::connect(&group, 0).await.unwrap().is_none());
        assert_eq!(Rendezvous::take(&group).await.unwrap().number, 0);
    }

    #[tokio::test]
    async fn a_directory_is_as_good_and_a_dead_replicas_file_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let group = HandoverAddress::Directory(directory.path().to_owned());
        drop(unix::UnixListener::bind(directory.path().join("0.sock")).unwrap());
        assert!(directory.path().join("0.sock").exists());
        let slot = Rendezvous::take(&group).await.unwrap();
        assert_eq!(slot.number, 0);
        let accepted = async { slot.accept().await.unwrap() };
        let near = Channel::connect(&group, 0).await.unwrap().unwrap();
        let far = tokio::time::timeout(Duration::from_secs(5), accepted).await.unwrap();
        near.send_now(&Message::Claim).unwrap();
        assert_eq!(far.receive().await.unwrap().message().unwrap(), Message::Claim);
        drop(slot);
        assert!(!directory.path().join("0.sock").exists());
    }
}
