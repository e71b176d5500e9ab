//! `events.jsonl`: one JSON object a line, written while the run goes on, so that a run that is interrupted, or killed,
//! leaves what was seen. Times are milliseconds from the run's zero. `Event` in `events/line.rs` lists the lines;
//! [`replay`](crate::record::replay) makes a report of them.

pub mod line;
mod v1;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::clock::{Moment, RunTime, milliseconds};
use crate::model::cohort::CohortKind;
use crate::model::failed_request::FailedRequest;
use crate::model::lifecycle::LifecycleEvent;
use crate::model::listener::Listener;
use crate::model::observation::CohortTotals;
use crate::model::restart::RestartStep;
use crate::record::recording::{Bucket, CountsDelta, Recording};
use line::{Event, Head, Line};

/// More failures than this are counted in the samples only, so that a run against nothing does not fill a disk.
const MOST_FAILURES: u64 = 100_000;

/// The file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to create {}: {source}", path.display())]
pub struct EventLogError {
    path: PathBuf,
    source: std::io::Error,
}

/// Writes `events.jsonl`.
#[derive(Debug)]
pub struct EventLog {
    out: Option<BufWriter<File>>,
    zero: Moment,
    failures: u64,
    is_broken: bool,
}

impl EventLog {
    /// Creates the file in `directory`; its first line is `head`. The run's zero is now.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(directory: &Path, head: Head) -> Result<Self, EventLogError> {
        let path = directory.join("events.jsonl");
        let file = File::create(&path).map_err(|source| EventLogError { path, source })?;
        let mut log = Self { out: Some(BufWriter::new(file)), ..Self::discarding() };
        log.write(RunTime::ZERO, Event::Run(Box::new(head)));
        log.flush();
        Ok(log)
    }

    /// A log that keeps nothing, for runs that need no file.
    #[must_use]
    pub fn discarding() -> Self {
        Self { out: None, zero: Moment::now(), failures: 0, is_broken: false }
    }

    /// The run's zero.
    pub(crate) const fn zero(&self) -> Moment {
        self.zero
    }

    pub(crate) fn load_began(&mut self, at: RunTime) {
        self.write(at, Event::LoadBegan);
    }

    pub(crate) fn lifecycle(&mut self, event: &LifecycleEvent) {
        self.write(event.t, Event::Lifecycle(event.clone()));
        self.flush();
    }

    pub(crate) fn restart(&mut self, at: RunTime, restart: usize, step: RestartStep) {
        self.write(at, Event::Restart { restart, step });
        self.flush();
    }

    pub(crate) fn failure(&mut self, failure: &FailedRequest) {
        self.failures += 1;
        if self.failures <= MOST_FAILURES && self.out.is_some() {
            self.write(failure.t, Event::FailedRequest(Box::new(failure.clone())));
        }
    }

    /// Writes what was counted of a cohort in a phase of a restart since the last time.
    pub(crate) fn delta(&mut self, at: RunTime, delta: &CountsDelta, cohort: CohortKind) {
        if self.out.is_some() {
            self.write(at, Event::Sample { cohort, delta: Box::new(delta.clone()) });
        }
    }

    /// Writes what was counted of a stretch of the timeline since the last time.
    pub(crate) fn stretch(&mut self, began: RunTime, width: Duration, bucket: &Bucket) {
        if self.out.is_some() {
            let width_ms = milliseconds(width);
            self.write(began, Event::Timeline { width_ms, bucket: Box::new(bucket.clone()) });
        }
    }

    /// Writes what was seen of a listener since the last time.
    pub(crate) fn listener(&mut self, listener: Listener) {
        self.write(listener.first, Event::ListenerSeen(listener));
    }

    pub(crate) fn stalled(&mut self, from: RunTime, to: RunTime) {
        self.write(from, Event::Stalled { for_ms: milliseconds(to.since(from)) });
    }

    pub(crate) fn dropped(&mut self, from: RunTime, to: RunTime, packets: u64) {
        self.write(from, Event::Dropped { for_ms: milliseconds(to.since(from)), packets });
    }

    pub(crate) fn load_ended(
        &mut self,
        at: RunTime,
        totals: &[CohortTotals],
        kernel: &BTreeMap<String, u64>,
    ) {
        self.write(at, Event::LoadEnded { totals: totals.to_vec(), kernel: kernel.clone() });
    }

    pub(crate) fn close(&mut self, recording: &Recording) {
        let cut_short = recording.cut_short.clone();
        self.write(recording.ended, Event::End { cut_short });
        self.flush();
    }

    fn write(&mut self, at: RunTime, event: Event) {
        let Some(out) = &mut self.out else { return };
        let line = Line { t_ms: at, event };
        let is_written = serde_json::to_writer(&mut *out, &line).is_ok() && out.write_all(b"\n").is_ok();
        if !is_written {
            self.give_up();
        }
    }

    /// Puts what was written on disk.
    pub(crate) fn flush(&mut self) {
        if self.out.as_mut().is_some_and(|out| out.flush().is_err()) {
            self.give_up();
        }
    }

    /// A full disk must not end the experiment.
    fn give_up(&mut self) {
        self.out = None;
        self.is_broken = true;
    }

    /// Whether something could not be written; the rest is missing then.
    pub(crate) const fn is_broken(&self) -> bool {
        self.is_broken
    }
}
