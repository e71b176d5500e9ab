//! What the machine, rather than the server, kept from the clients: time to run, and packets. Plain data; the
//! [`recorder`](crate::record::recorder) holds silent requests against it, the [`verdict`](crate::analysis::verdict) broken latency budgets.

use std::collections::VecDeque;
use std::time::Duration;

use crate::model::clock::RunTime;

/// How many of the latest are kept: more than a request's time can hold.
const KEPT: usize = 4096;

/// When the harness did not get to run although it had something to do: the machine was busy with something else.
#[derive(Debug, Clone, Default)]
pub struct Stalls {
    /// How long all of them were; what several threads saw at once counts once.
    pub total: Duration,
    /// How long the longest of a single thread was.
    pub longest: Duration,
    /// The latest ones, each from when it should have run until it did.
    latest: VecDeque<(RunTime, RunTime)>,
}

impl Stalls {
    /// Adds that of one thread. They come in the order of their ends; where several overlap, that time counts once.
    pub fn add(&mut self, mut from: RunTime, mut to: RunTime) {
        self.longest = self.longest.max(to.since(from));
        while let Some(&(begun, ended)) = self.latest.back().filter(|(_, ended)| *ended >= from) {
            self.latest.pop_back();
            self.total -= ended.since(begun);
            (from, to) = (from.min(begun), to.max(ended));
        }
        self.total += to.since(from);
        if self.latest.len() == KEPT {
            self.latest.pop_front();
        }
        self.latest.push_back((from, to));
    }

    /// How long the harness was stalled between two moments, as far back as is known.
    #[must_use]
    pub fn within(&self, from: RunTime, to: RunTime) -> Duration {
        self.latest.iter().map(|stall| stall.1.min(to).since(stall.0.max(from))).sum()
    }

    /// Whether stalls excuse a server's silence: a harness that was stalled for a quarter of the time may have had no
    /// chance to read what was there, and a server on the same machine none to write it.
    #[must_use]
    pub fn excuse(stalled: Duration, silence: Duration) -> bool {
        !stalled.is_zero() && stalled * 4 >= silence
    }
}

/// When the kernel dropped packets because its table of tracked connections was full (`nf_conntrack: table full, dropping
/// packet`; `nf_conntrack_in` in the kernel's `nf_conntrack_core.c`). What it drops first are new connections: no server
/// sees them, and their clients try again after a second.
#[derive(Debug, Clone, Default)]
pub struct Drops {
    /// How many packets.
    pub packets: u64,
    /// The latest looks that found some, each with the look before it.
    latest: VecDeque<(RunTime, RunTime)>,
}

impl Drops {
    /// Adds packets that were dropped between two looks.
    pub fn add(&mut self, from: RunTime, to: RunTime, packets: u64) {
        self.packets += packets;
        if self.latest.len() == KEPT {
            self.latest.pop_front();
        }
        self.latest.push_back((from, to));
    }

    /// Whether packets were dropped between two moments: that excuses a server's silence, since it may not have been
    /// asked.
    #[must_use]
    pub fn touch(&self, from: RunTime, to: RunTime) -> bool {
        self.latest.iter().any(|drop| drop.0 <= to && from <= drop.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_excused_when_the_harness_was_stalled_for_a_quarter_of_it() {
        let at = |ms: i64| RunTime::from_nanoseconds(ms * 1_000_000);
        let mut stalls = Stalls::default();
        stalls.add(at(100), at(200));
        stalls.add(at(300), at(400));
        assert_eq!(stalls.within(at(150), at(350)), Duration::from_millis(100));
        assert_eq!(stalls.within(at(200), at(300)), Duration::ZERO);
        assert_eq!((stalls.total, stalls.longest), (Duration::from_millis(200), Duration::from_millis(100)));
        // Seen from other threads as well.
        stalls.add(at(310), at(400));
        stalls.add(at(250), at(420));
        stalls.add(at(410), at(500));
        assert_eq!(stalls.within(at(0), at(1_000)), Duration::from_millis(350));
        assert_eq!((stalls.total, stalls.longest), (Duration::from_millis(350), Duration::from_millis(170)));
        assert!(Stalls::excuse(Duration::from_millis(100), Duration::from_millis(400)));
        assert!(!Stalls::excuse(Duration::from_millis(100), Duration::from_millis(401)));
        assert!(!Stalls::excuse(Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn silence_is_excused_when_packets_were_dropped_meanwhile() {
        let at = |ms: i64| RunTime::from_nanoseconds(ms * 1_000_000);
        let mut drops = Drops::default();
        assert!(!drops.touch(at(0), at(1000)));
        drops.add(at(100), at(125), 7);
        assert!(drops.touch(at(110), at(5000)) && drops.touch(at(0), at(100)));
        assert!(!drops.touch(at(126), at(5000)));
        assert_eq!(drops.packets, 7);
    }
}
