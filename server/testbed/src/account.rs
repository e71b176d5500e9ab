//! The saboteur's account of itself: counters, and JSON lines on stdout.
//!
//! Every line says what the `saboteur` did, and `at_ns` when: `CLOCK_MONOTONIC` in nanoseconds, one clock for all processes
//! of a machine, so that a line can be placed among a harness' own observations. The words are not those of our own
//! server's log, since a harness that reads that one must not do better here than with anybody's server. No text in a line
//! needs escaping.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::time::{ClockId, clock_gettime};

use crate::sabotage::Sabotage;

/// What has been done to how many requests so far.
#[derive(Debug, Default)]
pub struct CountersSnapshot {
    requests: AtomicU64,
    answered: AtomicU64,
    sabotaged: AtomicU64,
}

impl CountersSnapshot {
    /// Counts a request that was read to its end, and returns its number, from 1.
    pub fn request_read(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts a request whose whole answer was handed to the kernel.
    pub fn request_answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that was treated as its server's mode wants, and says so.
    pub fn request_sabotaged(&self, sabotage: Sabotage, ordinal: u64) {
        self.sabotaged.fetch_add(1, Ordering::Relaxed);
        line("sabotaged", format_args!(r#","mode":"{}","request":{ordinal}"#, sabotage.mode()));
    }

    /// The sum, on stdout: `requests` read, of these `answered` in full, and `sabotaged`.
    pub fn close(&self) {
        line(
            "account",
            format_args!(
                r#","requests":{},"answered":{},"sabotaged":{}"#,
                self.requests.load(Ordering::Relaxed),
                self.answered.load(Ordering::Relaxed),
                self.sabotaged.load(Ordering::Relaxed)
            ),
        );
    }
}

/// The process runs; it does not listen yet.
pub fn starting(sabotage: Sabotage) {
    line("starting", format_args!(r#","mode":"{sabotage}""#));
}

/// Connections are accepted from now on.
pub fn listening(address: SocketAddr) {
    line("listening", format_args!(r#","address":"{address}""#));
}

/// A signal arrived; whether it is obeyed is the mode's.
pub fn signal_received() {
    line("signal_received", format_args!(""));
}

/// New connections are refused from now on.
pub fn listener_closed() {
    line("listener_closed", format_args!(""));
}

/// One line, written at once and whole.
///
/// A stdout that nobody reads any more is no reason to stop: the clients are what counts.
fn line(what: &str, rest: std::fmt::Arguments<'_>) {
    let now = clock_gettime(ClockId::Monotonic);
    let line = format!("{{\"saboteur\":\"{what}\",\"at_ns\":{}{:09}{rest}}}\n", now.tv_sec, now.tv_nsec);
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush());
}
