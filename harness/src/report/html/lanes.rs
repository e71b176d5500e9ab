//! Which replicas share a lane of the picture: one that was replaced, and whoever took its place.

use std::collections::HashMap;

use crate::analysis::replica_states::{ReplicaState, ReplicaStates};
use crate::analysis::report::Report;

/// More lanes than this are not drawn.
const MOST_LANES: usize = 24;

/// A lane: the lives of a replica and of its successors.
#[derive(Debug)]
pub(super) struct Lane<'a> {
    /// The first one's name.
    pub(super) name: &'a str,
    /// The lives, in the order of time.
    pub(super) lives: Vec<&'a ReplicaStates>,
}

impl Lane<'_> {
    /// Whether the life in this position has a successor.
    pub(super) fn is_succeeded(&self, position: usize) -> bool {
        position + 1 < self.lives.len()
    }
}

/// The lanes, in the order in which the replicas were first heard of.
pub(super) fn lanes(report: &Report) -> Vec<Lane<'_>> {
    let predecessors: HashMap<&str, &str> = report
        .restarts
        .iter()
        .filter_map(|restart| Some((&**restart.restart.successor.other()?, &*restart.restart.replica)))
        .collect();
    let mut lanes: Vec<Lane<'_>> = Vec::new();
    let mut positions: HashMap<&str, usize> = HashMap::new();
    for life in &report.replica_states {
        let known = predecessors.get(life.replica.as_str()).and_then(|before| positions.get(before)).copied();
        let position = known.unwrap_or(lanes.len());
        if position >= MOST_LANES {
            continue;
        }
        positions.insert(&life.replica, position);
        match lanes.get_mut(position) {
            Some(lane) => lane.lives.push(life),
            None => lanes.push(Lane { name: &life.replica, lives: vec![life] }),
        }
    }
    lanes
}

/// The stretches of a life: its states with their ends, the last one until `end`.
pub(super) fn stretches(life: &ReplicaStates, end: f64) -> impl Iterator<Item = (ReplicaState, f64, f64)> {
    life.states.iter().enumerate().map(move |(position, span)| {
        (span.state, span.t, life.states.get(position + 1).map_or(end, |next| next.t))
    })
}
