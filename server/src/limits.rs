//! What one replica is ready to bear from its clients.

use std::time::Duration;

use tokio::sync::Semaphore;

/// What one replica is ready to bear from its clients.
///
/// [`Server::limits`](crate::Server::limits) takes a value that is out of its bounds for the nearest one within.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections open at once, at least one. At the limit nothing more is accepted until one ends: new clients wait in
    /// the accept queue, where a sibling or a later moment may find them, and nobody is turned away with an error.
    /// Connections that a sibling hands over come in beyond the limit, since they cannot wait outside; they count, and
    /// nothing is accepted before the number is below the limit again. Each needs a descriptor (getrlimit(2),
    /// `RLIMIT_NOFILE`): the binary raises its soft limit to the hard one, an application does that for itself.
    pub max_connections: usize,
    /// Bytes of a request body; above it the answer is 413.
    pub max_body: u64,
    /// Bytes of a request head, from [`MIN_HEAD`](Self::MIN_HEAD) to [`MAX_HEAD`](Self::MAX_HEAD); above it the answer is
    /// 431.
    pub max_head: usize,
    /// How long a client may take for a request head, from its first byte; at least [`MIN_TIMEOUT`](Self::MIN_TIMEOUT).
    /// Enforced within a quarter more; then the answer is 408 and the connection closes.
    pub head_timeout: Duration,
    /// How long a connection may stay open without a request before it is closed; at least
    /// [`MIN_TIMEOUT`](Self::MIN_TIMEOUT). Enforced within a quarter more.
    pub idle_timeout: Duration,
}

impl Limits {
    /// The least that `max_head` may be: hyper's smallest buffer.
    pub const MIN_HEAD: usize = 8192;
    /// The most that `max_head` may be: what fits into one message to a sibling.
    pub const MAX_HEAD: usize = 65_536;
    /// The least that a timeout may be: a timer's resolution.
    pub const MIN_TIMEOUT: Duration = Duration::from_millis(1);

    /// The same, with each value within its bounds.
    pub(crate) fn bounded(self) -> Self {
        Self {
            max_connections: self.max_connections.clamp(1, Semaphore::MAX_PERMITS),
            max_body: self.max_body,
            max_head: self.max_head.clamp(Self::MIN_HEAD, Self::MAX_HEAD),
            head_timeout: self.head_timeout.clamp(Self::MIN_TIMEOUT, FOREVER),
            idle_timeout: self.idle_timeout.clamp(Self::MIN_TIMEOUT, FOREVER),
        }
    }
}

/// A time that nobody lives to see the end of, and that can be added to any moment. `Duration::MAX` cannot: `Instant`
/// panics.
pub(crate) const FOREVER: Duration = Duration::from_hours(100 * 365 * 24);

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_body: 64 * 1024 * 1024,
            max_head: 32 * 1024,
            head_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_mins(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_within_its_bounds() {
        assert_eq!(Limits::default().bounded(), Limits::default());
    }

    #[test]
    fn what_is_out_of_bounds_becomes_the_nearest_within() {
        let least = Limits {
            max_connections: 0,
            max_body: 0,
            max_head: 0,
            head_timeout: Duration::ZERO,
            idle_timeout: Duration::ZERO,
        };
        let bounded = least.bounded();
        assert_eq!((bounded.max_connections, bounded.max_head), (1, Limits::MIN_HEAD));
        assert_eq!((bounded.head_timeout, bounded.idle_timeout), (Limits::MIN_TIMEOUT, Limits::MIN_TIMEOUT));
        let most = Limits {
            max_connections: usize::MAX,
            max_body: u64::MAX,
            max_head: usize::MAX,
            head_timeout: Duration::MAX,
            idle_timeout: Duration::MAX,
        };
        let bounded = most.bounded();
        assert_eq!(bounded.max_head, Limits::MAX_HEAD);
        // Neither panics.
        let _ = Semaphore::new(bounded.max_connections);
        let _ = tokio::time::Instant::now() + bounded.head_timeout + bounded.idle_timeout;
    }
}
