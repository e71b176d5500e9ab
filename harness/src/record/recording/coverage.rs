//! Whether the load was there: what the schedule asked of a phase, and what was sent in it.

/// How much of its load a phase has seen. A generator that stands still sends what was due in one phase in another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Requests that were due in it.
    pub due: u64,
    /// Requests that were sent in it, whenever they were due.
    pub sent: u64,
}
