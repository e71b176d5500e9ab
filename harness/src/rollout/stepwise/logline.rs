//! A replica's output, line by line. Our server logs JSON with the monotonic clock; anybody else's output is kept
//! for error messages only. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::model::clock::Moment;
use crate::model::lifecycle::LifecycleKind;

const LONGEST_LINE: usize = 8 * 1024;
const TAIL_LINES: usize = 20;
const SHOWN_LINE: usize = 200;
/// A log line that claims to be further off than this was not stamped by this machine's monotonic clock.
const PLAUSIBLE: Duration = Duration::from_mins(1);

/// A line of our server's log.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Logged {
    pub(super) at: Moment,
    pub(super) kind: LifecycleKind,
    pub(super) fields: Map<String, Value>,
}

/// Reads a line that arrived `now`; none if it is not a lifecycle event of our server.
pub(super) fn parse(line: &str, now: Moment) -> Option<Logged> {
    let Value::Object(mut fields) = serde_json::from_str(line).ok()? else { return None };
    let at = plausible(fields.remove("mono_ns")?.as_u64()?, now).unwrap_or(now);
    let kind = kind_of(fields.remove("event")?.as_str()?)?;
    for known in ["unix_ms", "level", "replica"] {
        fields.remove(known);
    }
    Some(Logged { at, kind, fields })
}

/// The moment that a line that arrived `now` carries, whatever event of our server it is.
pub(super) fn stamp(line: &str, now: Moment) -> Option<Moment> {
    let Value::Object(fields) = serde_json::from_str(line).ok()? else { return None };
    plausible(fields.get("mono_ns")?.as_u64()?, now)
}

fn plausible(nanoseconds: u64, now: Moment) -> Option<Moment> {
    let stamp = Moment::from_nanoseconds(nanoseconds);
    let is_plausible = now.since(stamp) <= PLAUSIBLE && stamp.since(now) <= Duration::from_millis(50);
    is_plausible.then_some(stamp)
}

fn kind_of(event: &str) -> Option<LifecycleKind> {
    Some(match event {
        "listening" => LifecycleKind::Listening,
        "ready" => LifecycleKind::Ready,
        "signal_received" => LifecycleKind::SignalReceived,
        "draining" => LifecycleKind::Draining,
        "listener_closed" => LifecycleKind::ListenerClosed,
        "listener_claimed" => LifecycleKind::ListenerClaimed,
        "listener_taken" => LifecycleKind::ListenerTaken,
        "listener_returned" => LifecycleKind::ListenerReturned,
        "listener_given" => LifecycleKind::ListenerGiven,
        "handover_begun" => LifecycleKind::HandoverBegun,
        "lame_duck" => LifecycleKind::LameDuck,
        "last_response" => LifecycleKind::LastResponse,
        "drained" => LifecycleKind::Drained,
        "drain_timeout" => LifecycleKind::DrainTimeout,
        "exit" => LifecycleKind::Exiting,
        _ => return None,
    })
}

/// Cuts a stream of chunks into lines; a line without end is cut at [`LONGEST_LINE`].
#[derive(Debug, Default)]
pub(super) struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// The lines that `chunk` completes.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for byte in chunk {
            let is_end = matches!(*byte, b'\n' | b'\r');
            if is_end || self.pending.len() >= LONGEST_LINE {
                lines.extend(self.rest());
            }
            if !is_end {
                self.pending.push(*byte);
            }
        }
        lines
    }

    /// What was begun and not ended yet.
    pub(super) fn begun(&self) -> &[u8] {
        &self.pending
    }

    /// What was begun and not ended.
    pub(super) fn rest(&mut self) -> Option<String> {
        let line = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        (!line.is_empty()).then_some(line)
    }
}

fn shown(line: &str) -> String {
    let shown: String = line.chars().take(SHOWN_LINE).collect();
    shown.escape_debug().to_string().replace("\\\"", "\"")
}

/// The last lines of a replica's output.
#[derive(Debug, Default)]
pub(super) struct Tail {
    lines: VecDeque<String>,
    /// A line that has no end yet.
    begun: Option<String>,
}

impl Tail {
    pub(super) fn push(&mut self, line: &str) {
        if self.lines.len() == TAIL_LINES {
            self.lines.pop_front();
        }
        self.begun = None;
        self.lines.push_back(shown(line));
    }

    /// A line was begun, and its end has not come yet.
    pub(super) fn begin(&mut self, beginning: &[u8]) {
        self.begun = Some(shown(&String::from_utf8_lossy(beginning)));
    }

    /// The last line, as the end of an error message on one line.
    pub(super) fn last_words(&self) -> String {
        let last = self.begun.as_ref().or(self.lines.back());
        last.map_or_else(|| ", and it said nothing".to_owned(), |line| format!("; it last said: {line}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Moment = Moment::from_nanoseconds(100_000_000_000);

    #[test]
    fn our_servers_lines_carry_their_own_moment() {
        let line = r#"{"mono_ns":99999000000,"unix_ms":1,"level":"info","replica":"a","event":"exit","code":0,"cut":2}"#;
        let logged = parse(line, NOW).unwrap();
        assert_eq!(logged.at, Moment::from_nanoseconds(99_999_000_000));
        assert_eq!(logged.kind, LifecycleKind::Exiting);
        assert_eq!(Value::Object(logged.fields), serde_json::json!({"code": 0, "cut": 2}));
    }

    #[test]
    fn implausible_clock_is_replaced_by_the_arrival() {
        for stamp in ["5", "900000000000"] {
            let line = format!(r#"{{"mono_ns":{stamp},"event":"ready"}}"#);
            assert_eq!(parse(&line, NOW).unwrap().at, NOW);
            assert_eq!(super::stamp(&line, NOW), None);
        }
        let starting = r#"{"mono_ns":99999000000,"event":"starting"}"#;
        assert_eq!(
            stamp(starting, NOW),
            Some(Moment::from_nanoseconds(99_999_000_000)),
            "no lifecycle event"
        );
    }

    #[test]
    fn other_lines_are_no_events() {
        for line in ["", "GET / 200", "{}", "[1]", r#"{"event":"ready"}"#, r#"{"mono_ns":1,"event":"lunch"}"#]
        {
            assert_eq!(parse(line, NOW), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_they_arrive(text in "[a-z\r\n]{0,200}", cut in 1usize..10) {
            let mut lines = Lines::default();
            let mut seen: Vec<String> = text.as_bytes().chunks(cut).flat_map(|chunk| lines.push(chunk)).collect();
            seen.extend(lines.rest());
            let expected: Vec<&str> = text.split(['\r', '\n']).filter(|line| !line.is_empty()).collect();
            prop_assert_eq!(seen, expected);
        }

        #[test]
        fn no_line_panics(line in "\\PC{0,100}") {
            let _ = parse(&line, NOW);
        }
    }
}
