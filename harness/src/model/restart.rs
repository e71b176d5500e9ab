//! What was seen of one restart, step by step.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::clock::Moment;
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
    /// It, or its successor, has answered a request again.
    Answered,
    /// A step that earlier versions wrote beside the lifecycle event that tells the same.
    #[serde(other)]
    Told,
}

/// One restart, or replacement, of one replica.
#[derive(Debug, Clone)]
pub struct RestartRecord {
    /// Who.
    pub replica: Arc<str>,
    /// Who took its place, if it was replaced under another name.
    pub successor: Option<Arc<str>>,
    /// In which round, from 1.
    pub round: u32,
    /// When the harness took it up.
    pub began: Moment,
    /// When the harness asked for the stop.
    pub terminated: Option<Moment>,
    /// When the process was gone.
    pub exited: Option<Moment>,
    /// When it was started again.
    pub started: Option<Moment>,
    /// When it was ready again.
    pub ready: Option<Moment>,
    /// When it had answered a request again.
    pub answered: Option<Moment>,
    /// The process's exit code.
    pub exit_code: Option<i64>,
    /// Whether it had to be killed.
    pub killed: bool,
    /// Requests that ended from the stop until it was ready again. Latencies leave out cohorts that are slow on purpose.
    pub tally: Tally,
    /// What the server logged of its own end: the fields of its `exit` line.
    pub account: serde_json::Map<String, serde_json::Value>,
}

impl RestartRecord {
    /// The replica was taken up, and nothing else is known yet.
    pub(crate) fn new(replica: Arc<str>, round: u32, began: Moment) -> Self {
        Self {
            replica,
            successor: None,
            round,
            began,
            terminated: None,
            exited: None,
            started: None,
            ready: None,
            answered: None,
            exit_code: None,
            killed: false,
            tally: Tally::new(2),
            account: serde_json::Map::new(),
        }
    }

    /// Notes a step.
    pub(crate) fn take_step(&mut self, at: Moment, step: RestartStep) {
        match step {
            RestartStep::Began { .. } | RestartStep::Told => {}
            RestartStep::Succeeded { by } => self.successor = Some(by),
            RestartStep::Answered => self.answered = Some(at),
        }
    }

    /// The phase that begins with a lifecycle event, if the event belongs to this restart and begins one; notes the event.
    pub(crate) fn take_event(&mut self, event: &LifecycleEvent) -> Option<Phase> {
        let is_old = event.replica == self.replica;
        let is_new = event.replica == *self.successor.as_ref().unwrap_or(&self.replica);
        let may_start = self.successor.is_some() || self.exited.is_some();
        match event.kind {
            LifecycleKind::TerminateRequested if is_old && self.terminated.is_none() => {
                self.terminated = Some(event.at);
                Some(Phase::Draining)
            }
            LifecycleKind::Killed
                if is_old && self.terminated.is_some() && self.started_after_exit().is_none() =>
            {
                self.killed = true;
                None
            }
            LifecycleKind::Exited if is_old && self.terminated.is_some() && self.exited.is_none() => {
                self.exited = Some(event.at);
                self.exit_code = event.fields.get("code").and_then(serde_json::Value::as_i64);
                Some(if self.ready.is_some() { Phase::Steady } else { Phase::Gap })
            }
            LifecycleKind::Started if is_new && may_start && self.started.is_none() => {
                self.started = Some(event.at);
                Some(Phase::Starting)
            }
            LifecycleKind::Ready if is_new && self.started.is_some() && self.ready.is_none() => {
                self.ready = Some(event.at);
                Some(if self.terminated.is_some() { Phase::Steady } else { Phase::Overlap })
            }
            _ => None,
        }
    }

    /// When the next process of the same name was started; a kill after that is the next process's.
    fn started_after_exit(&self) -> Option<Moment> {
        self.started.filter(|started| self.exited.is_some_and(|exited| exited <= *started))
    }

    /// When the old process was gone and the new one ready, or the last of these that is known.
    #[must_use]
    pub fn ended(&self) -> Moment {
        [self.terminated, self.exited, self.started, self.ready]
            .into_iter()
            .flatten()
            .fold(self.began, Moment::max)
    }
}

#[cfg(test)]
mod tests {
    use LifecycleKind as K;

    use super::*;
    use crate::model::lifecycle::Source;

    fn event(ms: u64, replica: &str, kind: LifecycleKind) -> LifecycleEvent {
        let fields = serde_json::json!({"code": 137});
        LifecycleEvent {
            at: Moment::from_nanoseconds(ms * 1_000_000),
            replica: replica.into(),
            kind,
            source: Source::Engine,
            fields: fields.as_object().cloned().unwrap_or_default(),
        }
    }

    /// The phases that these events begin, each with its millisecond.
    fn phases(restart: &mut RestartRecord, events: &[(u64, &str, LifecycleKind)]) -> Vec<(u64, Phase)> {
        let events = events.iter().map(|(ms, replica, kind)| (*ms, event(*ms, replica, *kind)));
        events.filter_map(|(ms, event)| Some((ms, restart.take_event(&event)?))).collect()
    }

    fn restart() -> RestartRecord {
        RestartRecord::new("a".into(), 1, Moment::from_nanoseconds(0))
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
        assert_eq!((restart.exit_code, restart.killed), (Some(137), false));
        assert_eq!(restart.ended(), Moment::from_nanoseconds(7_000_000));
    }

    #[test]
    fn successor_that_starts_first_overlaps_and_then_the_old_one_drains() {
        let mut restart = restart();
        restart.take_step(Moment::from_nanoseconds(0), RestartStep::Succeeded { by: "a+".into() });
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
