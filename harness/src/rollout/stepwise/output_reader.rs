//! Reads one life's output of a replica: kept beside the report, and heard for what our own server says of itself.

use std::sync::Arc;

use super::logline;
use super::output::OutputFile;
use super::tracked_replica::{TrackedReplica, locked};
use crate::model::clock::Moment;
use crate::model::lifecycle::{LifecycleKind, Source};

/// Reads one life's output of a replica, however it arrives.
#[derive(Debug)]
pub(crate) struct OutputReader {
    file: OutputFile,
    replica: Arc<TrackedReplica>,
    /// The text that says that the replica is ready, if one does.
    ready_text: Option<ReadyText>,
    pending: logline::Lines,
}

impl OutputReader {
    pub(super) fn new(file: OutputFile, replica: Arc<TrackedReplica>, ready_text: Option<String>) -> Self {
        Self { file, replica, ready_text: ready_text.map(ReadyText::new), pending: logline::Lines::default() }
    }

    /// Takes what was written.
    pub(super) fn push(&mut self, chunk: &[u8]) {
        self.file.append(chunk);
        let is_ready = self.ready_text.as_mut().is_some_and(|text| text.is_in(chunk));
        for line in self.pending.push(chunk) {
            self.take(&line);
        }
        if is_ready {
            self.replica.take_ready(Moment::now());
        }
        if !self.pending.begun().is_empty() {
            // What has no end yet is said all the same.
            locked(&self.replica.tail).begin(self.pending.begun());
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
        if let Some(logged) = logged {
            if logged.kind == LifecycleKind::Ready {
                self.replica.life.send_modify(|life| life.ready = Some(logged.at));
            }
            self.replica.tell(logged.at, logged.kind, Source::Server, logged.fields);
        }
        locked(&self.replica.tail).push(line);
    }

    /// A process that writes has begun, whatever is said of it later.
    fn take_sign(&self, line: &str, now: Moment) {
        self.replica.life.send_if_modified(|life| {
            let is_first = life.first_sign.is_none();
            if is_first {
                life.first_sign = Some(logline::stamp(line, now).unwrap_or(now));
            }
            is_first
        });
    }
}

/// Looks for a text in output that comes in pieces, wherever they are cut and whether a line ends there or not.
#[derive(Debug)]
pub(super) struct ReadyText {
    text: String,
    /// The last bytes of what came before: the text may have begun there.
    before: Vec<u8>,
}

impl ReadyText {
    pub(super) fn new(text: String) -> Self {
        Self { text, before: Vec::new() }
    }

    /// Whether the text ends in this piece.
    pub(super) fn is_in(&mut self, piece: &[u8]) -> bool {
        self.before.extend_from_slice(piece);
        let text = self.text.as_bytes();
        let is_found = self.before.windows(text.len().max(1)).any(|window| window == text);
        let keep = if is_found { 0 } else { text.len().saturating_sub(1) };
        self.before.drain(..self.before.len().saturating_sub(keep));
        is_found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_found_wherever_the_output_is_cut_and_without_an_end_of_line() {
        let output = [&[b'.'; 8190][..], b"now serving"].concat();
        for cut in [1, 3, 8192, 100_000] {
            let mut text = ReadyText::new("now serving".into());
            let found = output.chunks(cut).filter(|piece| text.is_in(piece)).count();
            assert_eq!(found, 1, "in pieces of {cut}");
        }
        let mut text = ReadyText::new("now serving".into());
        assert!(!text.is_in(b"now ") && !text.is_in(b"and then serving"));
        assert!(text.is_in(b"50 %\rnow serving\r"));
    }
}
