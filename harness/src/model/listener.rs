//! The listeners of the port, each with its own accept queue.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::clock::RunTime;

/// A listening socket of the port, as the kernel showed it at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// Its inode: what tells sockets apart, whoever holds them (`sock_diag(7)`).
    pub inode: u32,
    /// Connections that wait to be accepted.
    pub waiting: u32,
    /// Its backlog: how many connections may wait in its accept queue.
    pub backlog: u32,
}

/// A listening socket of the port, as it was seen over the run. A handover keeps it through many lives of the replicas that
/// hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Listener {
    /// What tells it from every other socket.
    pub inode: u32,
    /// When it was seen first, in milliseconds from the run's zero.
    #[serde(rename = "first_ms")]
    pub first: RunTime,
    /// When it was seen last.
    #[serde(rename = "last_ms")]
    pub last: RunTime,
    /// The most connections that were seen waiting in its accept queue.
    pub waiting_max: u32,
    /// How many may wait there.
    pub backlog: u32,
}

impl Listener {
    /// A listener that was seen once.
    #[must_use]
    pub const fn seen(at: RunTime, sighting: Sighting) -> Self {
        let Sighting { inode, waiting, backlog } = sighting;
        Self { inode, first: at, last: at, waiting_max: waiting, backlog }
    }
}

/// The listeners of a run, a bounded number of them.
#[derive(Debug, Clone, Default)]
pub struct ListenerRecords {
    by_inode: BTreeMap<u32, Listener>,
    left_out: u64,
}

impl ListenerRecords {
    /// How many are kept: those that were seen first.
    pub const MOST: usize = 4096;

    /// Adds what was seen of a listener.
    pub fn add(&mut self, seen: Listener) {
        if let Some(listener) = self.by_inode.get_mut(&seen.inode) {
            listener.backlog = seen.backlog;
            listener.waiting_max = listener.waiting_max.max(seen.waiting_max);
            listener.first = listener.first.min(seen.first);
            listener.last = listener.last.max(seen.last);
        } else if self.by_inode.len() < Self::MOST {
            self.by_inode.insert(seen.inode, seen);
        } else {
            self.left_out += 1;
        }
    }

    /// Each listener, in the order in which they were seen first.
    #[must_use]
    pub fn in_order(&self) -> Vec<Listener> {
        let mut listeners: Vec<Listener> = self.by_inode.values().copied().collect();
        listeners.sort_by_key(|listener| (listener.first, listener.inode));
        listeners
    }

    /// Whether there were more than are kept.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.left_out > 0
    }

    /// Takes everything out.
    pub(crate) fn take(&mut self) -> Vec<Listener> {
        std::mem::take(self).by_inode.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(inode: u32, ms: i64, waiting_max: u32) -> Listener {
        let at = RunTime::from_nanoseconds(ms * 1_000_000);
        Listener { inode, backlog: 4096, waiting_max, first: at, last: at }
    }

    #[test]
    fn listener_is_as_deep_as_it_was_at_its_deepest_for_as_long_as_it_was_seen() {
        let mut records = ListenerRecords::default();
        for look in [seen(9, 1, 0), seen(4, 2, 3), seen(9, 2, 7), seen(9, 3, 1)] {
            records.add(look);
        }
        let listeners = records.in_order();
        assert_eq!(listeners.iter().map(|listener| listener.inode).collect::<Vec<_>>(), [9, 4]);
        assert_eq!((listeners[0].waiting_max, listeners[1].waiting_max), (7, 3));
        assert_eq!((listeners[0].first, listeners[0].last), (seen(0, 1, 0).first, seen(0, 3, 0).first));
    }

    #[test]
    fn more_listeners_than_are_kept_are_said_to_be_missing() {
        let mut records = ListenerRecords::default();
        for inode in 0..=u32::try_from(ListenerRecords::MOST).unwrap() {
            records.add(seen(inode, 1, 0));
        }
        assert!(records.is_cut() && records.in_order().len() == ListenerRecords::MOST);
    }
}
