//! Why something that was given is refused.

use std::fmt;

/// Why something that was given is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The sibling is stopping too.
    Stopping,
    /// The sibling holds as much as it may.
    Full,
    /// It is not what the message said: the wrong kind of socket, or one of another address.
    Wrong,
}

impl Reason {
    /// The reason in words, for a log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stopping => "the sibling is stopping too",
            Self::Full => "the sibling holds as much as it may",
            Self::Wrong => "it is not the socket that the message said",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
