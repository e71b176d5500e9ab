//! From `events.jsonl` back to a recording, for a run that was killed before it could write its report. Counts, failures and
//! lifecycles are those of the run; latencies are exact to about 6 %, and what only the end of a run tells (connections,
//! the kernel's counters) is missing.

use std::io::BufRead;
use std::time::Duration;

use crate::model::clock::{Moment, WallOffset};
use crate::model::cohort::CohortKind;
use crate::model::cut_short::CutShort;
use crate::model::lifecycle::LifecycleEvent;
use crate::model::listener::Listener;
use crate::model::observation::{ClientTotals, CohortTotals, ConnectionUse};
use crate::model::restart::RestartId;
use crate::record::events::line::{Event, Failed, Head, Line, Sample, SeenListener, Totals};
use crate::record::recording::{CohortRecord, FailureRecord, Nearest, Recording};

/// The run's zero: late enough for what happened before it.
const ZERO: Moment = Moment::from_nanoseconds(3_600_000_000_000);

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
    /// Wall-clock time on the recording's axis.
    pub wall: WallOffset,
}

struct Replay {
    head: Head,
    recording: Recording,
    /// Failures since the last sample: the next one counts them.
    uncounted: Vec<FailureRecord>,
}

impl Replay {
    fn new(head: Head) -> Self {
        let cohorts = head.scenario.cohorts.iter().filter_map(|cohort| CohortKind::named(&cohort.name));
        let recording = Recording {
            cohorts: cohorts.map(|kind| CohortRecord::new(kind.name())).collect(),
            cut_short: Some(CutShort::Killed),
            ..Recording::new(ZERO)
        };
        Self { head, recording, uncounted: Vec::new() }
    }

    fn take(&mut self, line: Line) {
        let at = moment(line.t_ms);
        let recording = &mut self.recording;
        recording.ended = recording.ended.max(at);
        match line.event {
            Event::Run(_) | Event::Unknown => {}
            Event::LoadBegan => recording.load_began(at),
            Event::Lifecycle { replica, event, source, fields } => {
                recording.take_event(LifecycleEvent { at, replica, kind: event, source, fields });
            }
            Event::Restart { restart, step } => recording.take_step(RestartId(restart), at, step),
            Event::Failure(failed) => self.failure(at, *failed),
            Event::Sample(sample) => {
                self.uncounted.drain(..).for_each(|failure| recording.failures.add(failure));
                self.sample(&sample);
            }
            Event::Timeline(stretch) => {
                // Its middle lies in one bucket, also where its beginning was rounded.
                let middle = at.plus(span(stretch.width_ms / 2.0));
                recording.add_to_timeline(middle, &stretch.into_bucket());
            }
            Event::Listener(seen) => recording.listeners.add(listener(at, &seen)),
            Event::Stalled { for_ms } => recording.stalls.add(at, at.plus(span(for_ms))),
            Event::Dropped { for_ms, packets } => recording.drops.add(at, at.plus(span(for_ms)), packets),
            Event::LoadEnded { totals, kernel } => recording.load_ended(at, totals.iter().map(begun), kernel),
            Event::End { cut_short } => {
                recording.cut_short = cut_short.as_deref().map(CutShort::from_text);
            }
        }
    }

    fn failure(&mut self, at: Moment, failed: Failed) {
        let Some(kind) = CohortKind::named(&failed.cohort) else { return };
        let connection = match (failed.connection_request, failed.on_kept_connection) {
            (None, None | Some(false)) => None,
            (nth, _) => Some(ConnectionUse { nth, sent: failed.bytes_sent, received: failed.bytes_received }),
        };
        self.uncounted.push(FailureRecord {
            at,
            started: moment(failed.started_ms),
            cohort: kind.name(),
            number: failed.number,
            class: failed.class,
            detail: failed.detail,
            connection,
            answered_by: failed.answered_by,
            cause: failed.cause,
            is_hidden_by_retries: failed.hidden_by_retries,
            phase: failed.phase,
            restart: failed.restart,
            nearest: failed.nearest.map(|nearest| Nearest {
                replica: nearest.replica,
                kind: nearest.event,
                offset_ms: nearest.offset_ms,
            }),
        });
    }

    fn sample(&mut self, sample: &Sample) {
        let cohort = self.recording.cohorts.iter().position(|cohort| cohort.name == sample.cohort);
        if let Some(cohort) = cohort {
            self.recording.add(&sample.to_portion(cohort));
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
        let wall = WallOffset::with(ZERO, self.head.started_unix_ms);
        Replayed { head: self.head, recording: self.recording, wall }
    }
}

const fn begun(totals: &Totals) -> CohortTotals {
    let client = ClientTotals {
        connections: totals.connections,
        replayed: totals.replayed,
        closed_idle: totals.closed_idle,
    };
    CohortTotals { sent: totals.sent, client }
}

fn listener(first: Moment, seen: &SeenListener) -> Listener {
    let SeenListener { inode, backlog, waiting_max, for_ms } = *seen;
    Listener { inode, backlog, waiting_max, first, last: first.plus(span(for_ms)) }
}

fn moment(t_ms: f64) -> Moment {
    if t_ms < 0.0 { ZERO.minus(span(-t_ms)) } else { ZERO.plus(span(t_ms)) }
}

fn span(ms: f64) -> Duration {
    Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default()
}
