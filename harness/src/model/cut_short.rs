//! Why a run ended before its rollout did.

use std::fmt;

/// Why a run ended before its rollout did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CutShort {
    /// A failure was found, and the run was to look for one.
    FailureFound,
    /// Somebody pressed Ctrl-C, or sent SIGTERM.
    Interrupted,
    /// The rollout could not go on; the text says why.
    RolloutFailed(String),
    /// The harness was killed, and this is what its events say.
    Killed,
}

const ROLLOUT_FAILED: &str = "the rollout could not go on: ";

impl CutShort {
    /// Reads what was displayed.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        [Self::Interrupted, Self::FailureFound, Self::Killed]
            .into_iter()
            .find(|reason| reason.to_string() == text)
            .unwrap_or_else(|| {
                Self::RolloutFailed(text.strip_prefix(ROLLOUT_FAILED).unwrap_or(text).to_owned())
            })
    }
}

impl fmt::Display for CutShort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FailureFound => out.write_str("the first failure ended the run, as asked"),
            Self::Interrupted => out.write_str("the run was interrupted"),
            Self::RolloutFailed(why) => write!(out, "{ROLLOUT_FAILED}{why}"),
            Self::Killed => out.write_str("the run was killed; this is what its events.jsonl says"),
        }
    }
}
