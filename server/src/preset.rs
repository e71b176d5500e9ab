//! The four ways to stop.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::listener::Sharing;

/// What a server does with its clients when it is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Preset {
    /// Ends at once. Requests in flight break off (`curl: (52) Empty reply from server`), new ones are refused.
    Abort,
    /// Closes the listener and the idle connections, finishes what is in flight, ends. New connections are refused
    /// (`curl: (7)`), and requests on their way over an idle connection are lost.
    Graceful,
    /// [`Graceful`](Self::Graceful) on a port that a sibling shares (`SO_REUSEPORT`). Nothing is refused while the
    /// sibling listens, but what waits in the closed listener's accept queue is reset.
    ReusePort,
    /// Gives listeners and idle connections to a sibling, and busy connections after their response. Nothing is refused,
    /// reset or closed. Without a sibling: a lame duck for a while, see [`Server::lame_duck`](crate::Server::lame_duck).
    #[default]
    Handover,
}

impl Preset {
    /// All of them, from the bluntest to the gentlest.
    pub const ALL: [Self; 4] = [Self::Abort, Self::Graceful, Self::ReusePort, Self::Handover];

    /// The preset's name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Abort => "normal",
            Self::Graceful => "graceful",
            Self::ReusePort => "reuseport",
            Self::Handover => "handover",
        }
    }

    pub(crate) fn sharing(self) -> Sharing {
        match self {
            Self::Abort | Self::Graceful => Sharing::Exclusive,
            Self::ReusePort | Self::Handover => Sharing::ReusePort,
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Unknown preset name.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("no such preset `{0}`")]
pub struct UnknownPreset(String);

impl FromStr for Preset {
    type Err = UnknownPreset;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|preset| preset.name() == name)
            .ok_or_else(|| UnknownPreset(name.to_owned()))
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Preset {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_found_by_its_name() {
        for preset in Preset::ALL {
            assert_eq!(preset.name().parse(), Ok(preset));
        }
        assert!("brutal".parse::<Preset>().is_err());
    }
}
