//! Whether the load was there: what the schedule asked of a phase, and what was sent in it.

use serde::{Deserialize, Serialize};

/// How much of its load a phase has seen. A generator that stands still sends what was due in one phase in another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Requests that were due in it.
    #[serde(default)]
    pub due: u64,
    /// Requests that were sent in it, whenever they were due.
    #[serde(default)]
    pub sent: u64,
}
