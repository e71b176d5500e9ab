//! What was seen of one restart, step by step.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::clock::RunTime;
use crate::model::lifecycle::{LifecycleEvent, LifecycleKind};
use crate::model::phase::Phase;
use crate::model::tally::Tally;

/// A restart, counted from 0 in the order of the rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartId(pub usize);

/// What the rollout knows of a restart that no lifecycle event tells.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum RestartStep {
    /// The rollout has turned to this replica.
    Began {
        /// The replica.
        replica: Arc<str>,
        /// In which round, from 1.
        round: u32,
    },
    /// Another replica takes its place.
    Succeeded {
        /// The other replica.
        by: Arc<str>,
    },
    /// Nothing takes its place.
    Removed,
    /// It, or its successor, has answered a request again.
    Answered,
    /// A step that earlier versions wrote beside the lifecycle event that tells the same.
    #[serde(other)]
    Told,
}

/// What comes after the process that a restart ends.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Option<Arc<str>>", into = "Option<Arc<str>>")]
pub enum Successor {
    /// The same replica, started again. Not written.
    #[default]
    Itself,
    /// Another replica, under this name.
    Replica(Arc<str>),
    /// Nothing: the rollout removes the replica. Written as `null`.
    Nothing,
}

impl Successor {
    /// Whether the same replica is started again.
    #[must_use]
    pub const fn is_itself(&self) -> bool {
        matches!(self, Self::Itself)
    }

    /// The other replica, if there is one.
    #[must_use]
    pub const fn other(&self) -> Option<&Arc<str>> {
        match self {
            Self::Replica(name) => Some(name),
            Self::Itself | Self::Nothing => None,
        }
    }
}

impl From<Option<Arc<str>>> for Successor {
    fn from(written: Option<Arc<str>>) -> Self {
        written.map_or(Self::Nothing, Self::Replica)
    }
}

impl From<Successor> for Option<Arc<str>> {
    fn from(successor: Successor) -> Self {
        successor.other().cloned()
    }
}

/// One restart, replacement or removal of one replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Restart {
    /// The replica.
    pub replica: Arc<str>,
    /// What comes after it: absent if it is started again, the name of the replica that takes its place, or null if nothing
    /// does.
    #[serde(skip_serializing_if = "Successor::is_itself", default)]
    #[cfg_attr(test, schemars(with = "Option<Arc<str>>"))]
    pub successor: Successor,
    /// In which round, from 1.
    pub round: u32,
    /// When the rollout turned to it, in milliseconds from the run's zero.
    #[serde(rename = "t")]
    pub began: RunTime,
    /// From when on a balancer should have sent nothing more to it.
    #[serde(rename = "withdrawn_ms", skip_serializing_if = "Option::is_none", default)]
    pub withdrawn: Option<RunTime>,
    /// When the stop was asked for.
    #[serde(rename = "terminated_ms", skip_serializing_if = "Option::is_none", default)]
    pub stop_requested: Option<RunTime>,
    /// When the process was gone.
    #[serde(rename = "exited_ms", skip_serializing_if = "Option::is_none", default)]
    pub exited: Option<RunTime>,
    /// When it was started again.
    #[serde(rename = "started_ms", skip_serializing_if = "Option::is_none", default)]
    pub started: Option<RunTime>,
    /// When it was ready again.
    #[serde(rename = "ready_ms", skip_serializing_if = "Option::is_none", default)]
    pub ready: Option<RunTime>,
    /// When it had answered a request again.
    #[serde(rename = "answered_ms", skip_serializing_if = "Option::is_none", default)]
    pub answered: Option<RunTime>,
    /// The process's exit code.
    pub exit_code: Option<i64>,
    /// Whether it had to be killed.
    pub killed: bool,
    /// What the server logged of its own end: the fields of its `exit` line.
    pub account: serde_json::Map<String, serde_json::Value>,
    /// Requests that ended from the stop until it was ready again. Latencies leave out cohorts that are slow on purpose.
    #[serde(skip, default = "Tally::coarse")]
    pub tally: Tally,
}

impl Restart {
    /// The rollout turned to the replica, and nothing else is known yet.
    pub(crate) fn new(replica: Arc<str>, round: u32, began: RunTime) -> Self {
        Self {
            replica,
            successor: Successor::Itself,
            round,
            began,
            withdrawn: None,
            stop_requested: None,
            exited: None,
            started: None,
            ready: None,
            answered: None,
            exit_code: None,
            killed: false,
            account: serde_json::Map::new(),
            tally: Tally::new(2),
        }
    }

    /// Notes a step.
    pub(crate) fn take_step(&mut self, at: RunTime, step: RestartStep) {
        match step {
            RestartStep::Began { .. } | RestartStep::Told => {}
            RestartStep::Succeeded { by } => self.successor = Successor::Replica(by),
            RestartStep::Removed => self.successor = Successor::Nothing,
            RestartStep::Answered => self.answered = Some(at),
        }
    }

    /// Notes a lifecycle event if it belongs to this restart; says whether it does. Who says what arrives in the order of
    /// their clocks: a server may log that it is ready before the engine says that it began.
    pub(crate) fn take_event(&mut self, event: &LifecycleEvent) -> bool {
        let is_old = event.replica == self.replica;
        let is_new_life = match &self.successor {
            Successor::Itself => is_old && self.exited.is_some(),
            Successor::Replica(name) => event.replica == *name,
            Successor::Nothing => false,
        };
        match event.kind {
            LifecycleKind::Withdrawn if is_old && self.withdrawn.is_none() && self.exited.is_none() => {
                self.withdrawn = Some(event.t);
            }
            LifecycleKind::TerminateRequested if is_old && self.stop_requested.is_none() => {
                self.stop_requested = Some(event.t);
            }
            LifecycleKind::Killed if is_old && self.stop_requested.is_some() && !self.is_started_again() => {
                self.killed = true;
            }
            LifecycleKind::Exited if is_old && self.stop_requested.is_some() && self.exited.is_none() => {
                self.exited = Some(event.t);
                self.exit_code = event.fields.get("code").and_then(serde_json::Value::as_i64);
            }
            LifecycleKind::Started if is_new_life && self.started.is_none() => self.started = Some(event.t),
            LifecycleKind::Ready if is_new_life && self.ready.is_none() => self.ready = Some(event.t),
            _ => return false,
        }
        true
    }

    /// The phases that follow from what is known, each with its beginning.
    #[must_use]
    pub fn phases(&self) -> Vec<(RunTime, Phase)> {
        let moments = [self.withdrawn, self.stop_requested, self.exited, self.started, self.ready];
        let moments: BTreeSet<RunTime> = moments.into_iter().flatten().collect();
        let mut phases: Vec<(RunTime, Phase)> = Vec::new();
        for at in moments {
            let phase = self.phase_at(at);
            if phases.last().is_none_or(|last| last.1 != phase) {
                phases.push((at, phase));
            }
        }
        phases
    }

    /// What the restart is in at a moment: the old process's end comes first, then what is missing, then what is there twice.
    fn phase_at(&self, at: RunTime) -> Phase {
        let is_past = |moment: Option<RunTime>| moment.is_some_and(|moment| moment <= at);
        let is_next_there = is_past(self.started) || is_past(self.ready);
        if is_past(self.stop_requested) && !is_past(self.exited) {
            Phase::Draining
        } else if is_past(self.exited) && !is_next_there && self.successor != Successor::Nothing {
            Phase::Gap
        } else if is_past(self.started) && !is_past(self.ready) {
            Phase::Starting
        } else if is_past(self.withdrawn) && !is_past(self.exited) {
            Phase::Withdrawing
        } else if is_past(self.ready) && !is_past(self.exited) {
            Phase::Overlap
        } else {
            Phase::Steady
        }
    }

    /// Whether the next process has the old one's name and was started: a kill after that is the next process's.
    fn is_started_again(&self) -> bool {
        self.successor.is_itself() && self.started.is_some()
    }

    /// When the old process was gone and the new one ready, or the last of these that is known.
    #[must_use]
    pub fn ended(&self) -> RunTime {
        [self.withdrawn, self.stop_requested, self.exited, self.started, self.ready]
            .into_iter()
            .flatten()
            .fold(self.began, RunTime::max)
    }
}

#[cfg(test)]
mod tests {
    use LifecycleKind as K;

    use super::*;
    use crate::model::lifecycle::Source;

    fn event(ms: i64, replica: &str, kind: LifecycleKind) -> LifecycleEvent {
        let fields = serde_json::json!({"code": 137});
        LifecycleEvent {
            t: RunTime::from_nanoseconds(ms * 1_000_000),
            replica: replica.into(),
            node: None,
            kind,
            source: Source::Engine,
            fields: fields.as_object().cloned().unwrap_or_default(),
        }
    }

    /// The phases after these events, each with its millisecond.
    fn phases(restart: &mut Restart, events: &[(i64, &str, LifecycleKind)]) -> Vec<(i64, Phase)> {
        for (ms, replica, kind) in events {
            restart.take_event(&event(*ms, replica, *kind));
        }
        let ms = |time: RunTime| i64::try_from(time.since(RunTime::ZERO).as_millis()).unwrap();
        restart.phases().into_iter().map(|(from, phase)| (ms(from), phase)).collect()
    }

    fn restart() -> Restart {
        Restart::new("a".into(), 1, RunTime::from_nanoseconds(0))
    }

    #[test]
    fn restart_in_place_drains_leaves_a_gap_and_starts() {
        let mut restart = restart();
        let events = [
            (1, "b", K::Ready),
            (2, "a", K::Ready),
            (3, "a", K::TerminateRequested),
            (4, "b", K::TerminateRequested),
            (5, "a", K::Exited),
            (6, "a", K::Started),
            (7, "a", K::Ready),
            (8, "a", K::Ready),
        ];
        let expected = [(3, Phase::Draining), (5, Phase::Gap), (6, Phase::Starting), (7, Phase::Steady)];
        assert_eq!(phases(&mut restart, &events), expected);
        let mut late = self::restart();
        let by_arrival = [events[2], events[4], events[6], events[5]];
        assert_eq!(phases(&mut late, &by_arrival), expected, "the engine's word came after the server's");
        assert_eq!((restart.exit_code, restart.killed), (Some(137), false));
        assert_eq!(restart.ended(), RunTime::from_nanoseconds(7_000_000));
    }

    #[test]
    fn successor_that_starts_first_overlaps_and_then_the_old_one_drains() {
        let mut restart = restart();
        restart.take_step(RunTime::from_nanoseconds(0), RestartStep::Succeeded { by: "a+".into() });
        let events = [
            (1, "a+", K::Started),
            (2, "a+", K::Ready),
            (3, "a", K::TerminateRequested),
            (4, "a", K::Exited),
        ];
        let expected = [(1, Phase::Starting), (2, Phase::Overlap), (3, Phase::Draining), (4, Phase::Steady)];
        assert_eq!(phases(&mut restart, &events), expected);
    }

    #[test]
    fn replica_that_nothing_succeeds_is_withdrawn_drains_and_leaves_no_gap() {
        let mut restart = restart();
        restart.take_step(RunTime::from_nanoseconds(0), RestartStep::Removed);
        let events = [
            (1, "a", K::Withdrawn),
            (3, "a", K::TerminateRequested),
            (4, "a", K::Exited),
            (5, "a", K::Started),
        ];
        let expected = [(1, Phase::Withdrawing), (3, Phase::Draining), (4, Phase::Steady)];
        assert_eq!(phases(&mut restart, &events), expected);
    }

    #[test]
    fn successor_that_is_ready_after_the_old_one_drains_leaves_no_overlap() {
        let mut restart = restart();
        restart.take_step(RunTime::from_nanoseconds(0), RestartStep::Succeeded { by: "a+".into() });
        let events = [
            (1, "a+", K::Started),
            (2, "a", K::Withdrawn),
            (3, "a", K::TerminateRequested),
            (4, "a", K::Exited),
            (5, "a+", K::Ready),
        ];
        let expected = [(1, Phase::Starting), (3, Phase::Draining), (4, Phase::Starting), (5, Phase::Steady)];
        assert_eq!(phases(&mut restart, &events), expected);
    }

    #[test]
    fn successor_comes_back_from_json() {
        for (successor, json) in [
            (Successor::Itself, None),
            (Successor::Replica("b".into()), Some(serde_json::json!("b"))),
            (Successor::Nothing, Some(serde_json::Value::Null)),
        ] {
            let restart = Restart { successor: successor.clone(), ..restart() };
            let written = serde_json::to_value(&restart).unwrap();
            assert_eq!(written.get("successor"), json.as_ref());
            assert_eq!(serde_json::from_value::<Restart>(written).unwrap().successor, successor);
        }
    }

    #[test]
    fn kill_belongs_to_the_stop_also_when_it_is_told_after_the_end() {
        for kill in [4, 6] {
            let mut restart = restart();
            let mut events =
                vec![(3, "a", K::TerminateRequested), (5, "a", K::Exited), (kill, "a", K::Killed)];
            events.sort_by_key(|event| event.0);
            phases(&mut restart, &events);
            assert!(restart.killed, "told at {kill} ms");
        }
        let mut before = restart();
        phases(&mut before, &[(1, "a", K::Killed), (3, "a", K::TerminateRequested)]);
        assert!(!before.killed, "nobody had asked it to stop yet");
    }

    #[test]
    fn kill_of_the_next_process_is_not_this_restarts() {
        let mut restart = restart();
        let events =
            [(3, "a", K::TerminateRequested), (5, "a", K::Exited), (6, "a", K::Started), (9, "a", K::Killed)];
        phases(&mut restart, &events);
        assert!(!restart.killed);
    }
}
