//! What was counted since the last samples were written: the only state that the event log keeps.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::line::{Event, Sample, Sparse, Stretch, TallyLine};
use crate::clock::{Moment, milliseconds};
use crate::load::{Observation, Outcome};
use crate::phase::Phase;
use crate::placement::Placement;
use crate::recording::{Bucket, Tally, record_us};

/// Counts by cohort, phase and restart, and by stretch of the timeline. Latencies are kept to about 6 %, which makes a
/// second of load some hundred bytes.
#[derive(Debug, Default)]
pub(super) struct Pending {
    cohorts: BTreeMap<(usize, Phase, Option<usize>), Counted>,
    stretches: BTreeMap<(Moment, Duration), Bucket>,
}

#[derive(Debug)]
struct Counted {
    tally: Tally,
    service: Histogram<u64>,
    lateness: Histogram<u64>,
    waited: u64,
    due: u64,
    sent: u64,
    in_restarts: u64,
}

impl Counted {
    fn new() -> Self {
        let Tally { latency: service, .. } = Tally::new(1);
        Self {
            tally: Tally::new(1),
            lateness: service.clone(),
            service,
            waited: 0,
            due: 0,
            sent: 0,
            in_restarts: 0,
        }
    }
}

impl Pending {
    /// Counts the end of a request that was placed; `is_long` says that its latency says nothing of the server.
    pub(super) fn observe(
        &mut self,
        observation: &Observation,
        placement: &Placement,
        stretch: (Moment, Duration),
        is_long: bool,
    ) {
        let Placement { spot, due, sent, .. } = *placement;
        self.at(observation.cohort, due).due += 1;
        self.at(observation.cohort, sent).sent += 1;
        let (phase, restart) = spot;
        let counted = self.cohorts.entry((observation.cohort, phase, restart)).or_insert_with(Counted::new);
        counted.in_restarts += u64::from(placement.is_in_restart);
        let bucket = self.stretches.entry(stretch).or_default();
        record_us(&mut counted.lateness, observation.started.since(observation.scheduled));
        counted.waited += u64::from(observation.has_waited());
        match &observation.outcome {
            Outcome::Answered => {
                let latency = observation.finished.since(observation.scheduled);
                counted.tally.answered(latency);
                record_us(&mut counted.service, observation.finished.since(observation.started));
                if is_long {
                    bucket.tally.requests += 1;
                } else {
                    bucket.tally.answered(latency);
                }
                if let Some(name) = &observation.replica {
                    *bucket.replicas.entry(name.clone()).or_default() += 1;
                }
            }
            Outcome::Failed(failure) => {
                counted.tally.failed(failure.class);
                bucket.tally.failed(failure.class);
            }
        }
    }

    fn at(&mut self, cohort: usize, (phase, restart): (Phase, Option<usize>)) -> &mut Counted {
        self.cohorts.entry((cohort, phase, restart)).or_insert_with(Counted::new)
    }

    /// Counts a look at the accept queues.
    pub(super) fn queue(&mut self, depth: u64, stretch: (Moment, Duration)) {
        let bucket = self.stretches.entry(stretch).or_default();
        bucket.queue = bucket.queue.max(Some(depth));
    }

    /// Everything that was counted, as lines: each with its moment, or none for now.
    pub(super) fn drain(&mut self, cohorts: &[&'static str]) -> Vec<(Option<Moment>, Event)> {
        let samples =
            std::mem::take(&mut self.cohorts).into_iter().map(|((cohort, phase, restart), counted)| {
                let sample = Sample {
                    cohort: cohorts.get(cohort).copied().unwrap_or_default().to_owned(),
                    phase,
                    restart,
                    tally: TallyLine::from(&counted.tally),
                    service: Sparse::from(&counted.service),
                    lateness: Sparse::from(&counted.lateness),
                    waited: counted.waited,
                    due: counted.due,
                    sent: counted.sent,
                    in_restarts: counted.in_restarts,
                };
                (None, Event::Sample(Box::new(sample)))
            });
        let stretches = std::mem::take(&mut self.stretches).into_iter().map(|((began, width), bucket)| {
            let stretch = Stretch {
                width_ms: milliseconds(width),
                tally: TallyLine::from(&bucket.tally),
                replicas: bucket.replicas,
                queue: bucket.queue,
            };
            (Some(began), Event::Timeline(Box::new(stretch)))
        });
        samples.chain(stretches).collect()
    }
}
