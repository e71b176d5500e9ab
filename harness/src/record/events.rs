//! `events.jsonl`: one JSON object a line, written while the run goes on, so that a run that is interrupted, or killed,
//! leaves what was seen. Times are milliseconds from the run's zero. `Event` in `events/line.rs` lists the lines;
//! [`replay`](crate::record::replay) makes a report of them.

pub mod line;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::clock::{Moment, milliseconds};
use crate::model::lifecycle::LifecycleEvent;
use crate::model::listener::Listener;
use crate::model::observation::{CohortTotals, ConnectionUse};
use crate::model::restart::RestartStep;
use crate::record::recording::{Bucket, FailureRecord, Portion, Recording};
use line::{Event, Failed, Head, Line, Nearest, Sample, SeenListener, Stretch, Totals};

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
    began: Moment,
    failures: u64,
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
        log.write(log.began, Event::Run(Box::new(head)));
        log.flush();
        Ok(log)
    }

    /// A log that keeps nothing, for runs that need no file.
    #[must_use]
    pub fn discarding() -> Self {
        Self { out: None, began: Moment::now(), failures: 0 }
    }

    /// The run's zero.
    pub(crate) const fn began(&self) -> Moment {
        self.began
    }

    pub(crate) fn load_began(&mut self, at: Moment) {
        self.write(at, Event::LoadBegan);
    }

    pub(crate) fn lifecycle(&mut self, event: &LifecycleEvent) {
        let line = Event::Lifecycle {
            replica: event.replica.clone(),
            event: event.kind,
            source: event.source,
            fields: event.fields.clone(),
        };
        self.write(event.at, line);
        self.flush();
    }

    pub(crate) fn restart(&mut self, at: Moment, restart: usize, step: RestartStep) {
        self.write(at, Event::Restart { restart, step });
    }

    pub(crate) fn failure(&mut self, failure: &FailureRecord) {
        self.failures += 1;
        if self.failures > MOST_FAILURES {
            return;
        }
        let failed = Failed {
            cohort: failure.cohort.to_owned(),
            number: failure.number,
            class: failure.class,
            curl_exit: failure.class.curl_exit(),
            started_ms: failure.started.offset_ms(self.began),
            phase: failure.phase,
            restart: failure.restart,
            nearest: failure.nearest.as_ref().map(|nearest| Nearest {
                replica: nearest.replica.clone(),
                event: nearest.kind,
                offset_ms: nearest.offset_ms,
            }),
            answered_by: failure.answered_by.clone(),
            cause: failure.cause,
            connection_request: failure.connection.and_then(|used| used.nth),
            on_kept_connection: failure.connection.map(ConnectionUse::is_kept),
            bytes_sent: failure.connection.and_then(|used| used.sent),
            bytes_received: failure.connection.and_then(|used| used.received),
            hidden_by_retries: failure.is_hidden_by_retries,
            detail: failure.detail.clone(),
        };
        self.write(failure.at, Event::Failure(Box::new(failed)));
    }

    /// Writes what was counted of a cohort in a phase of a restart since the last time.
    pub(crate) fn portion(&mut self, at: Moment, portion: &Portion, cohort: &str) {
        if self.out.is_some() {
            self.write(at, Event::Sample(Box::new(Sample::of(portion, cohort))));
        }
    }

    /// Writes what was counted of a stretch of the timeline since the last time.
    pub(crate) fn stretch(&mut self, began: Moment, width: Duration, stretch: &Bucket) {
        if self.out.is_some() {
            self.write(began, Event::Timeline(Box::new(Stretch::of(stretch, width))));
        }
    }

    /// Writes what was seen of a listener since the last time.
    pub(crate) fn listener(&mut self, listener: &Listener) {
        let seen = SeenListener {
            inode: listener.inode,
            backlog: listener.backlog,
            waiting_max: listener.waiting_max,
            for_ms: milliseconds(listener.last.since(listener.first)),
        };
        self.write(listener.first, Event::Listener(seen));
    }

    pub(crate) fn stalled(&mut self, from: Moment, to: Moment) {
        self.write(from, Event::Stalled { for_ms: milliseconds(to.since(from)) });
    }

    pub(crate) fn dropped(&mut self, from: Moment, to: Moment, packets: u64) {
        self.write(from, Event::Dropped { for_ms: milliseconds(to.since(from)), packets });
    }

    pub(crate) fn load_ended(&mut self, at: Moment, totals: &[CohortTotals], kernel: &BTreeMap<String, u64>) {
        let totals = totals.iter().map(|totals| Totals {
            sent: totals.sent,
            connections: totals.client.connections,
            replayed: totals.client.replayed,
            closed_idle: totals.client.closed_idle,
        });
        self.write(at, Event::LoadEnded { totals: totals.collect(), kernel: kernel.clone() });
    }

    pub(crate) fn close(&mut self, recording: &Recording) {
        let cut_short = recording.cut_short.as_ref().map(ToString::to_string);
        self.write(recording.ended, Event::End { cut_short });
        self.flush();
    }

    fn write(&mut self, at: Moment, event: Event) {
        let Some(out) = &mut self.out else { return };
        let line = Line { t_ms: at.offset_ms(self.began), event };
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

    /// A full disk must not end the experiment; it is said once.
    fn give_up(&mut self) {
        self.out = None;
        eprintln!("warning: events.jsonl cannot be written any more; the run goes on without it");
    }
}
