//! A message as it came through a channel, and whether what came with it fits. Reads no socket.

use std::os::fd::OwnedFd;

use super::error::ChannelError;
use super::protocol::Message;

/// A message as it came, with its descriptor.
#[derive(Debug)]
pub(crate) struct Received {
    pub(super) bytes: Vec<u8>,
    pub(super) descriptor: Option<OwnedFd>,
    /// A descriptor came, and this process had no number left for it (`EMFILE`): the kernel dropped it.
    pub(super) is_lost: bool,
}

impl Received {
    /// The message alone.
    pub(crate) fn message(&self) -> Result<Message<'_>, ChannelError> {
        let message = Message::decode(&self.bytes)?;
        if message.carries_descriptor() == (self.descriptor.is_some() || self.is_lost) {
            Ok(message)
        } else {
            Err(ChannelError::Descriptors)
        }
    }

    /// The message and its descriptor. One that should have a descriptor comes without only if this process had no
    /// number left for it.
    pub(crate) fn split(&mut self) -> Result<(Message<'_>, Option<OwnedFd>), ChannelError> {
        let descriptor = self.descriptor.take();
        let message = Message::decode(&self.bytes)?;
        if message.carries_descriptor() == (descriptor.is_some() || self.is_lost) {
            Ok((message, descriptor))
        } else {
            Err(ChannelError::Descriptors)
        }
    }
}
