//! What a rollout does to each replica.

use serde::{Deserialize, Serialize};

use super::{LaunchSource, ScenarioError, Subject};
use crate::model::phase::Phase;
use crate::options::Options;

/// What a rollout does to each replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Stop it, start it again.
    Restart,
    /// Put a container of another image, or a process of another program, into its place. Rounds alternate: there, and
    /// back again.
    Replace {
        /// The other image or program.
        with: LaunchSource,
        /// Which comes first.
        order: Order,
    },
}

impl Change {
    pub(super) fn from_options(options: &Options, subject: &Subject) -> Result<Self, ScenarioError> {
        let order = options.order.as_deref().map(Order::from_option).transpose()?;
        let Some(text) = &options.replace else {
            return match order {
                Some(order) => Err(ScenarioError::new("--order", order.name(), "it goes with --replace")),
                None => Ok(Self::Restart),
            };
        };
        let order = order.unwrap_or(Order::StartFirst);
        if let Subject::Testbed { preset, .. } = subject
            && order == Order::StartFirst
            && !preset.is_shared_port()
        {
            let remedy =
                format!("preset {preset} holds the port alone, so no two can run at once; use stop-first");
            return Err(ScenarioError::new("--order", order.name(), remedy));
        }
        match subject.source() {
            Some(source) => Ok(Self::Replace { with: source.another("--replace", text)?, order }),
            None => Err(ScenarioError::new(
                "--replace",
                text,
                "Compose replaces its own containers; use --runtime docker",
            )),
        }
    }

    /// What takes the replicas' place, if anything does.
    pub(crate) const fn other(&self) -> Option<&LaunchSource> {
        match self {
            Self::Restart => None,
            Self::Replace { with, .. } => Some(with),
        }
    }

    /// The phases that such a rollout goes through.
    #[must_use]
    pub const fn phases(&self) -> [Phase; 4] {
        match self {
            Self::Replace { order: Order::StartFirst, .. } => {
                [Phase::Steady, Phase::Starting, Phase::Overlap, Phase::Draining]
            }
            Self::Restart | Self::Replace { order: Order::StopFirst, .. } => {
                [Phase::Steady, Phase::Draining, Phase::Gap, Phase::Starting]
            }
        }
    }
}

/// The order of a replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The new replica is ready before the old one is told to stop.
    StartFirst,
    /// The old replica is gone before the new one is started.
    StopFirst,
}

impl Order {
    /// Both, the safer one first.
    pub const ALL: [Self; 2] = [Self::StartFirst, Self::StopFirst];

    fn from_option(name: &str) -> Result<Self, ScenarioError> {
        Self::ALL.into_iter().find(|order| order.name() == name).ok_or_else(|| {
            ScenarioError::new("--order", name, format!("it is {}", Self::ALL.map(Self::name).join(" or ")))
        })
    }

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::StartFirst => "start-first",
            Self::StopFirst => "stop-first",
        }
    }
}
