//! Reads one life's output of a replica: kept beside the report, and heard for what our own server says of itself.

use std::sync::Arc;

use serde_json::Map;

use super::logline;
use super::output::OutputFile;
use super::watched::{Watched, locked};
use crate::model::clock::Moment;
use crate::model::lifecycle::{LifecycleKind, Source};

/// Reads one life's output of a replica, however it arrives.
#[derive(Debug)]
pub(super) struct OutputReader {
    file: OutputFile,
    watched: Arc<Watched>,
    /// The text that says that the replica is ready, if one does.
    ready_text: Option<String>,
    pending: logline::Lines,
}

impl OutputReader {
    pub(super) fn new(file: OutputFile, watched: Arc<Watched>, ready_text: Option<String>) -> Self {
        Self { file, watched, ready_text, pending: logline::Lines::default() }
    }

    /// Takes what was written.
    pub(super) fn push(&mut self, chunk: &[u8]) {
        self.file.append(chunk);
        for line in self.pending.push(chunk) {
            self.take(&line);
        }
    }

    /// Nothing more is written: takes the line that was not ended.
    pub(super) fn finish(mut self) {
        if let Some(line) = self.pending.rest() {
            self.take(&line);
        }
    }

    fn take(&self, line: &str) {
        let now = Moment::now();
        self.take_sign(line, now);
        let logged = logline::parse(line, now);
        let is_ready_text = self.ready_text.as_deref().is_some_and(|text| line.contains(text));
        let says_ready = logged.as_ref().is_some_and(|logged| logged.kind == LifecycleKind::Ready);
        if is_ready_text || says_ready {
            let at = logged.as_ref().map_or(now, |logged| logged.at);
            self.watched.life.send_modify(|life| life.ready = Some(at));
        }
        if let Some(logged) = logged {
            self.watched.tell(logged.at, logged.kind, Source::Server, logged.fields);
        } else if is_ready_text {
            self.watched.tell(now, LifecycleKind::Ready, Source::Server, Map::new());
        }
        locked(&self.watched.tail).push(line);
    }

    /// A process that writes has begun, whatever is said of it later.
    fn take_sign(&self, line: &str, now: Moment) {
        self.watched.life.send_if_modified(|life| {
            let is_first = life.first_sign.is_none();
            if is_first {
                life.first_sign = Some(logline::stamp(line, now).unwrap_or(now));
            }
            is_first
        });
    }
}
