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
    /// `RLIMIT_NOFILE`): the binary raises its soft limit to the hard one, an application does that for itself. When the limit
    /// is reached, connections that have been idle longest, and for a second at least, make room.
    ///
    /// Each costs memory: about 3 KB while it is idle and 14 KB in the middle of a body; up to 300 KB on HTTP/1 while its
    /// client has no room for an answer; and on HTTP/2, besides up to 1 MB of request bodies that no handler has read, up to
    /// two pieces of each answer under way, as large as the application makes them: with pieces of 64 KB and 100 streams
    /// 11 MB were measured, and 7 MB with windows that stayed closed from the start.
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
    /// [`MIN_TIMEOUT`](Self::MIN_TIMEOUT). Enforced within a quarter more. For the first byte of a new connection
    /// [`head_timeout`](Self::head_timeout) counts.
    pub idle_timeout: Duration,
    /// How long the application may wait for the next piece of a request's body; at least
    /// [`MIN_TIMEOUT`](Self::MIN_TIMEOUT). After that the body ends with an error, and a handler that then fails (a status
    /// of 400 or more) is answered for with 408. 60 seconds by default, as nginx's `client_body_timeout`; in a drain half the
    /// drain timeout, but two seconds at least, if that is less.
    pub body_timeout: Duration,
    /// How long a client may have no room for the next byte of an answer; at least [`MIN_TIMEOUT`](Self::MIN_TIMEOUT). After
    /// that its connection is reset. 60 seconds by default, as nginx's `send_timeout`.
    pub write_timeout: Duration,
    /// Streams that one HTTP/2 connection may have open at once (`SETTINGS_MAX_CONCURRENT_STREAMS`), at least one; 100 by
    /// default, the least that RFC 9113, section 6.5.2, recommends.
    pub max_streams: u32,
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
            body_timeout: self.body_timeout.clamp(Self::MIN_TIMEOUT, FOREVER),
            write_timeout: self.write_timeout.clamp(Self::MIN_TIMEOUT, FOREVER),
            max_streams: self.max_streams.max(1),
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
            body_timeout: Duration::from_mins(1),
            write_timeout: Duration::from_mins(1),
            max_streams: 100,
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
            body_timeout: Duration::ZERO,
            write_timeout: Duration::ZERO,
            max_streams: 0,
        };
        let bounded = least.bounded();
        assert_eq!((bounded.max_connections, bounded.max_head), (1, Limits::MIN_HEAD));
        assert_eq!((bounded.head_timeout, bounded.idle_timeout), (Limits::MIN_TIMEOUT, Limits::MIN_TIMEOUT));
        assert_eq!((bounded.body_timeout, bounded.write_timeout), (Limits::MIN_TIMEOUT, Limits::MIN_TIMEOUT));
        assert_eq!(bounded.max_streams, 1);
        let most = Limits {
            max_connections: usize::MAX,
            max_body: u64::MAX,
            max_head: usize::MAX,
            head_timeout: Duration::MAX,
            idle_timeout: Duration::MAX,
            body_timeout: Duration::MAX,
            write_timeout: Duration::MAX,
            max_streams: u32::MAX,
        };
        let bounded = most.bounded();
        assert_eq!(bounded.max_head, Limits::MAX_HEAD);
        // Neither panics.
        let _ = Semaphore::new(bounded.max_connections);
        let _ = tokio::time::Instant::now() + bounded.head_timeout + bounded.idle_timeout;
        let _ = tokio::time::Instant::now() + bounded.body_timeout + bounded.write_timeout;
    }
}
