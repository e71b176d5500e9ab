//! From `events.jsonl` back to a recording, for a run that was killed before it could write its report. Counts, failures and
//! lifecycles are those of the run; latencies are exact to about 6 %, and what only the end of a run tells (connections,
//! the kernel's counters) is missing.

use std::io::BufRead;
use std::time::Duration;

use crate::model::cohort::CohortKind;
use crate::model::cut_short::CutShort;
use crate::model::failed_request::FailedRequest;
use crate::model::lifecycle::LifecycleEvent;
use crate::model::restart::RestartId;
use crate::record::events::line::{Event, Head, Line};
use crate::record::recording::{CohortRecord, Recording};

/// The lines are no run.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file cannot be read.
    #[error("line {0}: {1}")]
    Read(usize, std::io::Error),
    /// A line cannot be understood, and it is not the last one.
    #[error("line {0}: {1}")]
    BadLine(usize, serde_json::Error),
    /// The first line does not say what was run.
    #[error("the first line does not say what was run")]
    NoHead,
}

/// Makes a recording of a run's events. A last line that was not written to its end is left out.
///
/// # Errors
/// The lines cannot be read, or are none of ours.
pub fn replay(lines: impl BufRead) -> Result<Replayed, ReplayError> {
    let mut lines = lines.lines().enumerate().peekable();
    let mut replay: Option<Replay> = None;
    while let Some((number, text)) = lines.next() {
        let text = text.map_err(|error| ReplayError::Read(number + 1, error))?;
        match (serde_json::from_str::<Line>(&text), &mut replay) {
            (Ok(Line { event: Event::Run(head), .. }), None) => replay = Some(Replay::new(*head)),
            (Ok(line), Some(replay)) => replay.take(line),
            (Ok(_), None) => return Err(ReplayError::NoHead),
            (Err(_), Some(_)) if lines.peek().is_none() => {}
            (Err(error), _) => return Err(ReplayError::BadLine(number + 1, error)),
        }
    }
    replay.map(Replay::finish).ok_or(ReplayError::NoHead)
}

/// A run as its events tell it.
#[derive(Debug)]
pub struct Replayed {
    /// What was tested, where, and how it is judged.
    pub head: Head,
    /// What was seen.
    pub recording: Recording,
}

struct Replay {
    head: Head,
    recording: Recording,
    /// Failures since the last sample: the next one counts them.
    uncounted: Vec<FailedRequest>,
}

impl Replay {
    fn new(head: Head) -> Self {
        let cohorts = head.scenario.cohorts.iter().filter_map(|cohort| CohortKind::named(&cohort.name));
        let recording = Recording {
            cohorts: cohorts.map(|kind| CohortRecord::new(kind.name())).collect(),
            cut_short: Some(CutShort::Killed),
            ..Recording::new()
        };
        Self { head, recording, uncounted: Vec::new() }
    }

    fn take(&mut self, line: Line) {
        let at = line.t_ms;
        let recording = &mut self.recording;
        recording.ended = recording.ended.max(at);
        match line.event {
            Event::Run(_) | Event::Unknown => {}
            Event::LoadBegan => recording.load_began(at),
            Event::Lifecycle(event) => recording.take_event(LifecycleEvent { t: at, ..event }),
            Event::Restart { restart, step } => recording.take_step(RestartId(restart), at, step),
            Event::FailedRequest(failed) => self.uncounted.push(FailedRequest { t: at, ..*failed }),
            Event::Failure(failed) => self.uncounted.push(failed.seen_at(at)),
            Event::Sample { cohort, mut delta } => {
                self.uncounted.drain(..).for_each(|failure| recording.failures.add(failure));
                let position = recording.cohorts.iter().position(|record| record.name == cohort.name());
                if let Some(position) = position {
                    delta.cohort = position;
                    recording.add(&delta);
                }
            }
            Event::Timeline { width_ms, bucket } => {
                // Its middle lies in one bucket, also where its beginning was rounded.
                recording.add_to_timeline(at.plus(span(width_ms / 2.0)), &bucket);
            }
            Event::ListenerSeen(listener) => recording.listeners.add(listener),
            Event::Listener(seen) => recording.listeners.add(seen.seen_at(at)),
            Event::Stalled { for_ms } => recording.stalls.add(at, at.plus(span(for_ms))),
            Event::Dropped { for_ms, packets } => recording.drops.add(at, at.plus(span(for_ms)), packets),
            Event::LoadEnded { totals, kernel } => recording.load_ended(at, totals, kernel),
            Event::End { cut_short } => recording.cut_short = cut_short,
        }
    }

    fn finish(mut self) -> Replayed {
        let recording = &mut self.recording;
        if recording.load_began.is_some() && recording.load_ended.is_none() {
            recording.load_ended = Some(recording.ended);
        }
        recording.attach_accounts();
        // What is uncounted stays out: the kill came between a failure and the sample that counts it.
        let failed: u64 = recording
            .cohorts
            .iter()
            .flat_map(|cohort| &cohort.phases)
            .map(|tally| tally.failed.iter().sum::<u64>())
            .sum();
        recording.failures.set_cut(failed.saturating_sub(recording.failures.kept().len() as u64));
        Replayed { head: self.head, recording: self.recording }
    }
}

fn span(ms: f64) -> Duration {
    Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default()
}
