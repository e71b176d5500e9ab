//! From what happened to the replicas to the state that each was in, over time. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::lifecycle::{LifecycleEvent, LifecycleKind};

/// What a replica is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ReplicaState {
    /// There is no process.
    Stopped,
    /// Its process runs, and it is not ready yet.
    Starting,
    /// It may receive new traffic.
    Ready,
    /// It was told to stop, and its process still runs.
    Draining,
}

impl ReplicaState {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 4] = [Self::Stopped, Self::Starting, Self::Ready, Self::Draining];

    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }

    /// The state after an event. Who says what arrives in the order of their clocks, which may disagree by
    /// milliseconds: a server logs that it is ready before the engine says that it began.
    const fn after(self, event: LifecycleKind) -> Self {
        match (self, event) {
            (Self::Stopped, LifecycleKind::Started | LifecycleKind::Listening) => Self::Starting,
            (Self::Stopped | Self::Starting, LifecycleKind::Ready) => Self::Ready,
            (
                Self::Starting | Self::Ready,
                LifecycleKind::TerminateRequested
                | LifecycleKind::SignalSent
                | LifecycleKind::SignalReceived
                | LifecycleKind::Draining,
            ) => Self::Draining,
            (_, LifecycleKind::Exited) => Self::Stopped,
            (state, _) => state,
        }
    }

    /// What a replica was doing before the first thing that is known of it: one that is told to stop was ready.
    const fn before(first: LifecycleKind) -> Self {
        match first {
            LifecycleKind::StartRequested
            | LifecycleKind::Started
            | LifecycleKind::Listening
            | LifecycleKind::Ready => Self::Stopped,
            _ => Self::Ready,
        }
    }
}

/// A replica's life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct ReplicaStates {
    /// Whose.
    pub replica: String,
    /// The machine that it runs on, where there are several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<Arc<str>>,
    /// Its states, each until the next one begins; the last one until the run's end.
    pub states: Vec<StateSpan>,
}

impl ReplicaStates {
    /// Whether the replica was ready at some moment from `from` to `to`, in milliseconds of the run.
    #[must_use]
    pub fn is_ready_within(&self, from: f64, to: f64) -> bool {
        let ends = self.states.iter().skip(1).map(|next| next.t).chain([f64::INFINITY]);
        let mut spans = self.states.iter().zip(ends);
        spans.any(|(span, end)| span.state == ReplicaState::Ready && span.t <= to && end >= from)
    }
}

/// From when on a replica was in a state.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct StateSpan {
    /// The first moment, in milliseconds from the run's zero.
    pub t: f64,
    /// What it was doing.
    pub state: ReplicaState,
}

/// The replicas' lives, in the order in which they are first heard of.
#[must_use]
pub fn replica_states(events: &[LifecycleEvent]) -> Vec<ReplicaStates> {
    let mut in_order: Vec<&LifecycleEvent> = events.iter().collect();
    in_order.sort_by_key(|event| event.t);
    let mut lives: Vec<ReplicaStates> = Vec::new();
    let mut positions: HashMap<&str, usize> = HashMap::new();
    for event in in_order {
        let position = *positions.entry(&event.replica).or_insert_with(|| {
            let state = ReplicaState::before(event.kind);
            lives.push(ReplicaStates {
                replica: event.replica.to_string(),
                node: None,
                states: vec![StateSpan { t: 0.0, state }],
            });
            lives.len() - 1
        });
        if lives[position].node.is_none() {
            lives[position].node.clone_from(&event.node);
        }
        let states = &mut lives[position].states;
        let now = states.last().map_or(ReplicaState::Stopped, |span| span.state);
        let next = now.after(event.kind);
        if next != now {
            states.push(StateSpan { t: event.t.ms().max(0.0), state: next });
        }
    }
    lives
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::clock::RunTime;
    use crate::model::lifecycle::Source;

    fn event(ms: i64, replica: &str, kind: LifecycleKind) -> LifecycleEvent {
        LifecycleEvent {
            t: RunTime::from_nanoseconds(ms * 1_000_000),
            replica: replica.into(),
            node: None,
            kind,
            source: Source::Engine,
            fields: serde_json::Map::new(),
        }
    }

    fn states(events: &[LifecycleEvent]) -> Vec<Vec<(f64, ReplicaState)>> {
        let lives = replica_states(events);
        lives.iter().map(|life| life.states.iter().map(|span| (span.t, span.state)).collect()).collect()
    }

    #[test]
    fn restart_takes_a_replica_through_every_state() {
        use LifecycleKind as K;
        let kinds = [
            (1, K::StartRequested),
            (2, K::Started),
            (3, K::Listening),
            (4, K::Ready),
            (5, K::TerminateRequested),
            (6, K::Draining),
            (7, K::Exiting),
            (8, K::Exited),
            (9, K::Ready),
            (10, K::Started),
        ];
        let events: Vec<_> = kinds.into_iter().map(|(ms, kind)| event(ms, "a", kind)).collect();
        let expected = [
            (0.0, ReplicaState::Stopped),
            (2.0, ReplicaState::Starting),
            (4.0, ReplicaState::Ready),
            (5.0, ReplicaState::Draining),
            (8.0, ReplicaState::Stopped),
            (9.0, ReplicaState::Ready),
        ];
        assert_eq!(states(&events), [expected], "the engine's late word that it began changes nothing");
    }

    #[test]
    fn replica_is_on_the_node_that_its_first_event_with_one_names() {
        let on = |node: &str, event: LifecycleEvent| LifecycleEvent { node: Some(node.into()), ..event };
        let events =
            [event(1, "a", LifecycleKind::Started), on("node-2", event(2, "a", LifecycleKind::Ready))];
        assert_eq!(replica_states(&events)[0].node.as_deref(), Some("node-2"));
    }

    #[test]
    fn replica_that_ran_before_was_ready_until_it_was_told_to_stop() {
        let events = [
            event(7, "b", LifecycleKind::Exited),
            event(3, "a", LifecycleKind::SignalReceived),
            event(9, "a", LifecycleKind::Exited),
        ];
        let a = vec![(0.0, ReplicaState::Ready), (3.0, ReplicaState::Draining), (9.0, ReplicaState::Stopped)];
        let b = vec![(0.0, ReplicaState::Ready), (7.0, ReplicaState::Stopped)];
        assert_eq!(states(&events), [a, b], "in the order of time, whatever the order of arrival");
    }
}
