//! Reads one life's output of a container: kept beside the report, and heard for what our own server says of itself.

use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use serde_json::Map;

use super::container::{Container, locked};
use super::logline;
use crate::clock::Moment;
use crate::recorder::Recorder;
use crate::recording::{LifecycleEvent, LifecycleKind, Source};
use crate::runtime::output::OutputFile;

/// Reads one life's output of a container.
pub(super) struct OutputReader {
    pub(super) file: OutputFile,
    pub(super) container: Arc<Container>,
    pub(super) recorder: Recorder,
    /// The text that says that the replica is ready, if one does.
    pub(super) ready_text: Option<String>,
}

impl OutputReader {
    /// Reads to the end.
    pub(super) async fn run(
        mut self,
        mut output: impl Stream<Item = Result<bollard::container::LogOutput, bollard::errors::Error>>
        + Unpin
        + Send,
    ) {
        let mut pending = logline::Lines::default();
        while let Some(Ok(chunk)) = output.next().await {
            let chunk = chunk.into_bytes();
            self.file.append(&chunk);
            for line in pending.push(&chunk) {
                self.take(&line);
            }
        }
        if let Some(line) = pending.rest() {
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
            self.container.life.send_modify(|life| life.ready = Some(at));
        }
        if let Some(logged) = logged {
            self.tell(logged.at, logged.kind, logged.fields);
        } else if is_ready_text {
            self.tell(now, LifecycleKind::Ready, Map::new());
        }
        locked(&self.container.tail).push(line);
    }

    /// A process that writes has begun, whatever the engine says later.
    fn take_sign(&self, line: &str, now: Moment) {
        self.container.life.send_if_modified(|life| {
            let is_first = life.first_sign.is_none();
            if is_first {
                life.first_sign = Some(logline::stamp(line, now).unwrap_or(now));
            }
            is_first
        });
    }

    fn tell(&self, at: Moment, kind: LifecycleKind, fields: Map<String, serde_json::Value>) {
        let replica = Arc::clone(&self.container.replica);
        self.recorder.lifecycle(LifecycleEvent { at, replica, kind, source: Source::Server, fields });
    }
}
