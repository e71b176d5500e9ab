//! How our own server stops.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ScenarioError;

/// How our own server stops: the seed's three stages, and the one past them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Ends at once, requests in flight or not.
    Normal,
    /// Closes the listener and the idle connections, finishes the rest.
    Graceful,
    /// The same, beside a sibling on the same port.
    Reuseport,
    /// Gives listener and idle connections to a sibling.
    Handover,
}

impl Preset {
    /// Every preset, in the order of the story.
    pub const ALL: [Self; 4] = [Self::Normal, Self::Graceful, Self::Reuseport, Self::Handover];

    /// The name on the command line and in `HITLESS_PRESET`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Graceful => "graceful",
            Self::Reuseport => "reuseport",
            Self::Handover => "handover",
        }
    }

    /// The preset of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|preset| preset.name() == name)
    }

    pub(super) fn from_option(name: &str) -> Result<Self, ScenarioError> {
        Self::named(name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            ScenarioError::new("--preset", name, format!("it is one of {names}"))
        })
    }

    /// How many replicas it needs at least to show what it does: one holds the port alone, or two share it.
    #[must_use]
    pub const fn replicas(self) -> usize {
        match self {
            Self::Normal | Self::Graceful => 1,
            Self::Reuseport | Self::Handover => 2,
        }
    }

    /// Whether several replicas can listen on one port.
    #[must_use]
    pub const fn is_shared_port(self) -> bool {
        matches!(self, Self::Reuseport | Self::Handover)
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}
