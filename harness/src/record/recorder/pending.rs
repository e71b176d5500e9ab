//! What was counted since it was last handed on. Each request is counted here, once; the recording and `events.jsonl` get
//! the sums.

use crate::model::clock::RunTime;
use crate::model::listener::{Listener, ListenerRecords, Sighting};
use crate::model::observation::{Observation, Outcome};
use crate::model::phase::Phase;
use crate::model::tally::record_us;
use crate::record::placement::Placement;
use crate::record::recording::{Bucket, CountsDelta, Timeline};

/// Counts by cohort, phase and restart, by stretch of the timeline, and by listener.
#[derive(Debug, Default)]
pub(super) struct Pending {
    deltas: Vec<CountsDelta>,
    /// By cohort, the position of the delta that was counted into last: most requests end where the last one did.
    latest: Vec<usize>,
    stretches: Vec<(RunTime, Bucket)>,
    listeners: ListenerRecords,
}

impl Pending {
    /// Counts the end of a request that was placed; `is_long` says that its latency says nothing of the server.
    pub(super) fn observe(
        &mut self,
        observation: &Observation,
        placement: &Placement,
        timeline: &Timeline,
        is_long: bool,
    ) {
        let Placement { spot, due, sent, .. } = *placement;
        let latency = observation.finished.since(observation.scheduled);
        let delta = self.delta(observation.cohort, spot);
        delta.in_restarts += u64::from(placement.is_in_restart);
        delta.waited += u64::from(observation.has_waited());
        delta.coverage.due += u64::from(due == spot);
        delta.coverage.sent += u64::from(sent == spot);
        record_us(&mut delta.lateness, observation.started.since(observation.scheduled));
        match &observation.outcome {
            Outcome::Answered => {
                delta.tally.answered(latency);
                record_us(&mut delta.service, observation.finished.since(observation.started));
            }
            Outcome::Failed(failure) => delta.tally.failed(failure.class),
        }
        if due != spot {
            self.delta(observation.cohort, due).coverage.due += 1;
        }
        if sent != spot {
            self.delta(observation.cohort, sent).coverage.sent += 1;
        }
        let stretch = self.stretch(observation.finished, timeline);
        match &observation.outcome {
            Outcome::Answered if is_long => stretch.tally.requests += 1,
            Outcome::Answered => stretch.tally.answered(latency),
            Outcome::Failed(failure) => stretch.tally.failed(failure.class),
        }
        if let (Outcome::Answered, Some(name)) = (&observation.outcome, &observation.replica) {
            stretch.answered_by(name);
        }
    }

    /// Counts a look at the listeners.
    pub(super) fn listeners(&mut self, at: RunTime, seen: Vec<Sighting>, timeline: &Timeline) {
        let waiting = seen.iter().map(|listener| u64::from(listener.waiting)).sum();
        let stretch = self.stretch(at, timeline);
        stretch.queue = stretch.queue.max(Some(waiting));
        for sighting in seen {
            self.listeners.add(Listener::seen(at, sighting));
        }
    }

    /// What was counted of each cohort, phase and restart.
    pub(super) fn take_deltas(&mut self) -> Vec<CountsDelta> {
        self.latest.clear();
        std::mem::take(&mut self.deltas)
    }

    /// What was counted of each stretch of the timeline, with its beginning, in the order of time.
    pub(super) fn take_stretches(&mut self) -> Vec<(RunTime, Bucket)> {
        let mut stretches = std::mem::take(&mut self.stretches);
        stretches.sort_by_key(|(began, _)| *began);
        stretches
    }

    /// What was seen of each listener.
    pub(super) fn take_listeners(&mut self) -> Vec<Listener> {
        self.listeners.take()
    }

    fn delta(&mut self, cohort: usize, (phase, restart): (Phase, Option<usize>)) -> &mut CountsDelta {
        let is_it =
            |delta: &CountsDelta| (delta.cohort, delta.phase, delta.restart) == (cohort, phase, restart);
        if self.latest.len() <= cohort {
            self.latest.resize(cohort + 1, usize::MAX);
        }
        let latest = self.latest[cohort];
        let position = if self.deltas.get(latest).is_some_and(is_it) {
            latest
        } else if let Some(known) = self.deltas.iter().rposition(is_it) {
            known
        } else {
            self.deltas.push(CountsDelta::new(cohort, phase, restart));
            self.deltas.len() - 1
        };
        self.latest[cohort] = position;
        &mut self.deltas[position]
    }

    /// What lies before the timeline counts into its first stretch.
    fn stretch(&mut self, moment: RunTime, timeline: &Timeline) -> &mut Bucket {
        let moment = moment.max(timeline.began);
        let is_it =
            |stretch: &(RunTime, Bucket)| stretch.0 <= moment && moment.since(stretch.0) < timeline.width;
        let position = if let Some(known) = self.stretches.iter().rposition(is_it) {
            known
        } else {
            self.stretches.push((timeline.stretch_of(moment), Bucket::new()));
            self.stretches.len() - 1
        };
        &mut self.stretches[position].1
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::failure::{Failure, FailureClass};
    use crate::model::phase::Phases;

    const fn at(ms: i64) -> RunTime {
        RunTime::from_nanoseconds(ms * 1_000_000)
    }

    /// Steady, from 10 ms on the gap of restart 0, steady again from 20 ms on.
    fn phases() -> Phases {
        let mut phases = Phases::new();
        phases.follow(0, vec![(at(10), Phase::Gap), (at(20), Phase::Steady)]);
        phases
    }

    fn observed(scheduled: i64, started: i64, finished: i64, outcome: Outcome) -> Observation {
        Observation {
            scheduled: at(scheduled),
            started: at(started),
            finished: at(finished),
            ..Observation::at(at(scheduled), outcome)
        }
    }

    fn counted(observations: &[Observation]) -> Pending {
        let (mut pending, timeline, phases) = (Pending::default(), Timeline::new(at(0)), phases());
        for observation in observations {
            let placement = Placement::of(observation, Duration::ZERO, &phases);
            pending.observe(observation, &placement, &timeline, false);
        }
        pending
    }

    #[test]
    fn request_counts_where_it_ended_was_due_and_was_sent() {
        let mut pending = counted(&[
            observed(5, 15, 25, Outcome::Answered),
            observed(15, 16, 17, Outcome::failed(Failure::new(FailureClass::Refused, ""))),
        ]);
        let deltas = pending.take_deltas();
        assert_eq!(deltas.len(), 2, "steady and gap");
        let of = |phase| deltas.iter().find(|delta| delta.phase == phase).unwrap();
        let (steady, gap) = (of(Phase::Steady), of(Phase::Gap));
        assert_eq!((steady.tally.requests, steady.tally.ok()), (1, 1));
        assert_eq!((steady.coverage.due, steady.coverage.sent), (1, 0));
        assert_eq!((gap.tally.requests, gap.tally.of(FailureClass::Refused)), (1, 1));
        assert_eq!((gap.coverage.due, gap.coverage.sent), (1, 2));
        assert_eq!((gap.restart, gap.in_restarts, steady.in_restarts), (Some(0), 1, 1));
        assert_eq!((steady.lateness.len(), steady.service.len(), gap.service.len()), (1, 1, 0));
        assert!(pending.take_deltas().is_empty(), "handed on once");
    }

    #[test]
    fn stretches_are_those_of_the_timeline_in_the_order_of_time() {
        let named = |finished, name: &str| Observation {
            replica: Some(name.into()),
            ..observed(finished, finished, finished, Outcome::Answered)
        };
        let mut pending = counted(&[named(30, "a"), named(24, "a"), named(26, "b"), named(49, "a")]);
        let stretches = pending.take_stretches();
        let shape: Vec<_> = stretches.iter().map(|(began, bucket)| (*began, bucket.tally.requests)).collect();
        assert_eq!(shape, [(at(0), 1), (at(25), 3)]);
        assert_eq!(stretches[1].1.replicas.get("a"), Some(&2));
    }

    #[test]
    fn queues_of_all_listeners_together_are_the_timelines_and_each_is_kept_by_itself() {
        let look = |inode, waiting| Sighting { inode, backlog: 8, waiting };
        let mut pending = Pending::default();
        for waiting in [(2, 3), (4, 0)] {
            let seen = vec![look(1, waiting.0), look(2, waiting.1)];
            pending.listeners(at(1), seen, &Timeline::new(at(0)));
        }
        assert_eq!(pending.take_stretches()[0].1.queue, Some(5));
        let listeners = pending.take_listeners();
        assert_eq!(listeners.iter().map(|one| one.waiting_max).collect::<Vec<_>>(), [4, 3]);
    }
}
