//! What a run looks like from outside while it goes on.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::clock::RunTime;
use crate::model::failure::FailureClass;
use crate::model::observation::{Observation, Outcome};
use crate::model::phase::Phase;

/// How many replicas' latest answers are known while a run goes on: those that answered last, if there are more.
const KNOWN_REPLICAS: usize = 64;

/// What a run looks like from outside while it goes on.
#[derive(Debug, Clone, Default)]
pub struct Live {
    /// Requests whose end was seen.
    pub requests: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Failures by class, by position in `FailureClass::ALL`.
    pub by_class: [u64; FailureClass::ALL.len()],
    /// The phase, and whose restart it is.
    pub phase: Option<(Phase, Arc<str>)>,
    /// Restarts that were begun.
    pub restarts: usize,
    /// Whose was the last of them.
    pub restarting: Option<Arc<str>>,
    /// Restarts that came to their end: the replica was ready again and answered.
    pub ended: usize,
    /// Whether some failure breaks a budget that counts failures, whatever comes next; if no budget does, whether
    /// there was one at all. Known when failures are placed, a moment after they were seen.
    pub is_broken: bool,
    /// For each replica that gave its name: the latest start of a request that it answered.
    answered_by_name: BTreeMap<Arc<str>, RunTime>,
    /// The latest start of any request that was answered.
    answered: Option<RunTime>,
}

impl Live {
    /// Counts the end of a request, as soon as it is known.
    pub(super) fn observe(&mut self, observation: &Observation) {
        self.requests += 1;
        match &observation.outcome {
            Outcome::Answered => {
                self.answered = self.answered.max(Some(observation.started));
                if let Some(name) = &observation.replica {
                    self.note_answer(name, observation.started);
                }
            }
            Outcome::Failed(failure) => {
                self.failed += u64::from(failure.class.is_servers());
                self.by_class[failure.class as usize] += 1;
            }
        }
    }

    /// A failure of `class` turned out to be the harness's own.
    pub(super) fn excuse(&mut self, class: FailureClass) {
        self.failed -= u64::from(class.is_servers());
        self.by_class[class as usize] -= 1;
        self.by_class[FailureClass::HarnessResource as usize] += 1;
    }

    /// Notes that `name` has answered a request that was sent at `started`.
    fn note_answer(&mut self, name: &Arc<str>, started: RunTime) {
        if let Some(latest) = self.answered_by_name.get_mut(name) {
            *latest = started.max(*latest);
            return;
        }
        if self.answered_by_name.len() == KNOWN_REPLICAS
            && let Some(oldest) = self.answered_by_name.iter().min_by_key(|(_, latest)| **latest)
        {
            let oldest = Arc::clone(oldest.0);
            self.answered_by_name.remove(&oldest);
        }
        self.answered_by_name.insert(Arc::clone(name), started);
    }

    /// Whether `replica` has answered a request that was sent at or after `since`. A replica that never gives its
    /// name is taken to have answered when anybody has.
    #[must_use]
    pub fn has_answered(&self, replica: &str, since: RunTime) -> bool {
        self.answered_by_name.get(replica).copied().or(self.answered).is_some_and(|started| started >= since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replica_that_answered_last_is_known_however_many_there_were() {
        let mut live = Live::default();
        for number in 0..1000 {
            live.note_answer(&format!("server-a.{number}").into(), RunTime::from_nanoseconds(number));
        }
        assert_eq!(live.answered_by_name.len(), KNOWN_REPLICAS);
        assert!(live.has_answered("server-a.999", RunTime::from_nanoseconds(999)));
        assert!(!live.has_answered("server-a.999", RunTime::from_nanoseconds(1000)));
    }
}
