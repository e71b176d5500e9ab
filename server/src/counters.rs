//! What a replica counted: one snapshot, told as JSON (`/account`, the `exit` event) and as OpenMetrics (`/metrics`).

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::monotonic_ns;
use crate::lifecycle::{RequestCounters, State};

/// Counters beside the requests' own: how connections and listeners came and went.
#[derive(Debug, Default)]
pub(crate) struct ConnectionCounters {
    pub(crate) accepted: Counter,
    pub(crate) accepted_for_sibling: Counter,
    pub(crate) listeners_given: Counter,
    pub(crate) listeners_taken: Counter,
    pub(crate) listeners_claimed: Counter,
    pub(crate) listeners_returned: Counter,
    pub(crate) connections_given: Counter,
    pub(crate) connections_taken: Counter,
    pub(crate) connections_closed_idle: Counter,
    pub(crate) handover_refused: Counter,
    /// Monotonic nanoseconds of the last accepted connection; 0 before the first.
    last_accept_ns: AtomicU64,
    /// Monotonic nanoseconds of the signal to stop; 0 before it.
    signal_ns: AtomicU64,
    /// Requests that had been answered then.
    answered_before: AtomicU64,
}

impl ConnectionCounters {
    pub(crate) fn accept(&self, now_ns: u64) {
        self.accepted.add(1);
        self.last_accept_ns.store(now_ns, Ordering::Relaxed);
    }

    /// The replica was told to stop at `now_ns`, when so many requests had been answered.
    pub(crate) fn stop(&self, now_ns: u64, answered: u64) {
        self.answered_before.store(answered, Ordering::Relaxed);
        self.signal_ns.store(now_ns, Ordering::Release);
    }

    fn signal_ns(&self) -> Option<u64> {
        Some(self.signal_ns.load(Ordering::Acquire)).filter(|&at| at != 0)
    }
}

/// A count that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a replica has done since it started.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CountersSnapshot {
    /// Where in its life the replica is.
    pub state: State,
    /// Connections accepted, those accepted for a sibling included.
    pub accepted: u64,
    /// Requests whose head was read.
    pub begun: u64,
    /// Requests whose whole response went to the kernel; of those that are the last on their connection, only if the client
    /// has acknowledged it.
    pub answered: u64,
    /// Requests that ended without a whole response because their client went away or broke off.
    pub aborted: u64,
    /// Of these, requests answered after the signal to stop.
    pub drained: u64,
    /// Requests begun and not finished.
    pub in_flight: u64,
    /// Requests that were in flight when the replica ended, connections that had left HTTP (a WebSocket), and connections
    /// whose client had not acknowledged all of an answer that was counted before the stop.
    pub cut: u64,
    /// Connections open now.
    pub connections: u64,
    /// When the last connection was accepted, in monotonic nanoseconds; 0 if none was.
    pub last_accept_ns: u64,
    /// When the last response was finished, in monotonic nanoseconds; 0 if none was.
    pub last_response_ns: u64,
    /// When the replica was told to stop, in monotonic nanoseconds; `None` before.
    pub signal_ns: Option<u64>,
    /// From there to the last accepted connection, in nanoseconds; 0 if that was earlier, `None` if there is no such span.
    pub signal_to_last_accept_ns: Option<u64>,
    /// From there to the end of the last response, likewise.
    pub signal_to_last_response_ns: Option<u64>,
    /// From there to the end of the replica, of which this account is then a part; `None` before it has ended.
    pub signal_to_exit_ns: Option<u64>,
    /// Idle connections that the replica closed of its own accord.
    pub connections_closed_idle: u64,
    /// Connections accepted from a listener that a sibling had bound.
    pub accepted_for_sibling: u64,
    /// Listeners given to a sibling.
    pub listeners_given: u64,
    /// Listeners taken from a sibling that stopped.
    pub listeners_taken: u64,
    /// Listeners claimed from a sibling when this replica started.
    pub listeners_claimed: u64,
    /// Listeners given back to a sibling that claimed them.
    pub listeners_returned: u64,
    /// Established connections given to a sibling.
    pub connections_given: u64,
    /// Established connections taken from a sibling.
    pub connections_taken: u64,
    /// What did not happen between siblings: foreign messages, other users, refusals.
    pub handover_refused: u64,
}

impl CountersSnapshot {
    pub(crate) fn new(
        state: State,
        request_counters: &RequestCounters,
        connection_counters: &ConnectionCounters,
        cut: u64,
    ) -> Self {
        let signal_ns = connection_counters.signal_ns();
        let before = connection_counters.answered_before.load(Ordering::Relaxed);
        let since_signal = |at: u64| signal_ns.filter(|_| at != 0).map(|signal| at.saturating_sub(signal));
        let last_accept_ns = connection_counters.last_accept_ns.load(Ordering::Relaxed);
        let last_response_ns = request_counters.last_response_ns().unwrap_or(0);
        let exit_ns = if state == State::Stopped { monotonic_ns() } else { 0 };
        Self {
            state,
            drained: signal_ns.map_or(0, |_| request_counters.answered().saturating_sub(before)),
            signal_ns,
            signal_to_last_accept_ns: since_signal(last_accept_ns),
            signal_to_last_response_ns: since_signal(last_response_ns),
            signal_to_exit_ns: since_signal(exit_ns),
            accepted: connection_counters.accepted.get(),
            answered: request_counters.answered(),
            aborted: request_counters.aborted(),
            in_flight: request_counters.in_flight(),
            begun: request_counters.begun(),
            cut,
            connections: request_counters.connections(),
            last_accept_ns,
            last_response_ns,
            connections_closed_idle: connection_counters.connections_closed_idle.get(),
            accepted_for_sibling: connection_counters.accepted_for_sibling.get(),
            listeners_given: connection_counters.listeners_given.get(),
            listeners_taken: connection_counters.listeners_taken.get(),
            listeners_claimed: connection_counters.listeners_claimed.get(),
            listeners_returned: connection_counters.listeners_returned.get(),
            connections_given: connection_counters.connections_given.get(),
            connections_taken: connection_counters.connections_taken.get(),
            handover_refused: connection_counters.handover_refused.get(),
        }
    }

    /// The account as one JSON object: the fields in their order, `null` for `None`.
    #[must_use]
    pub fn to_json(&self) -> String {
        let numbers = [
            ("accepted", Some(self.accepted)),
            ("begun", Some(self.begun)),
            ("answered", Some(self.answered)),
            ("aborted", Some(self.aborted)),
            ("drained", Some(self.drained)),
            ("in_flight", Some(self.in_flight)),
            ("cut", Some(self.cut)),
            ("connections", Some(self.connections)),
            ("last_accept_ns", Some(self.last_accept_ns)),
            ("last_response_ns", Some(self.last_response_ns)),
            ("signal_ns", self.signal_ns),
            ("signal_to_last_accept_ns", self.signal_to_last_accept_ns),
            ("signal_to_last_response_ns", self.signal_to_last_response_ns),
            ("signal_to_exit_ns", self.signal_to_exit_ns),
            ("connections_closed_idle", Some(self.connections_closed_idle)),
            ("accepted_for_sibling", Some(self.accepted_for_sibling)),
            ("listeners_given", Some(self.listeners_given)),
            ("listeners_taken", Some(self.listeners_taken)),
            ("listeners_claimed", Some(self.listeners_claimed)),
            ("listeners_returned", Some(self.listeners_returned)),
            ("connections_given", Some(self.connections_given)),
            ("connections_taken", Some(self.connections_taken)),
            ("handover_refused", Some(self.handover_refused)),
        ];
        // A state's name has nothing that JSON escapes.
        let mut text = format!("{{\"state\":\"{}\"", self.state);
        for (name, number) in numbers {
            // Writing to a String cannot fail.
            let _ = match number {
                Some(number) => write!(text, ",\"{name}\":{number}"),
                None => write!(text, ",\"{name}\":null"),
            };
        }
        text.push('}');
        text
    }

    /// The account in the OpenMetrics text format, version 1.0.0, labelled with the replica's name.
    #[must_use]
    pub fn to_open_metrics(&self, replica: &str) -> String {
        let counters = [
            ("connections_accepted", "Connections accepted.", self.accepted),
            ("requests_begun", "Requests whose head was read.", self.begun),
            ("requests_answered", "Requests answered whole.", self.answered),
            ("requests_drained", "Requests answered after the signal to stop.", self.drained),
            ("requests_aborted", "Requests whose client went away.", self.aborted),
            ("requests_cut", "Requests in flight when the replica ended.", self.cut),
            (
                "connections_closed_idle",
                "Idle connections closed by the replica.",
                self.connections_closed_idle,
            ),
            (
                "connections_accepted_for_sibling",
                "Accepted from a sibling's listener.",
                self.accepted_for_sibling,
            ),
            ("connections_given", "Established connections given to a sibling.", self.connections_given),
            ("connections_taken", "Established connections taken from a sibling.", self.connections_taken),
            ("listeners_given", "Listeners given to a sibling.", self.listeners_given),
            ("listeners_taken", "Listeners taken from a stopping sibling.", self.listeners_taken),
            ("listeners_claimed", "Listeners claimed when this replica started.", self.listeners_claimed),
            ("listeners_returned", "Listeners given back to a starting sibling.", self.listeners_returned),
            ("handover_refused", "Foreign messages and refusals between siblings.", self.handover_refused),
        ];
        let gauges = [
            ("requests_in_flight", "Requests begun and not finished.", self.in_flight),
            ("connections_open", "Connections open now.", self.connections),
            ("ready", "1 while the replica may receive new traffic.", u64::from(self.state == State::Ready)),
        ];
        let replica = escape_label(replica);
        let mut text = String::with_capacity(4096);
        for (name, help, value) in counters {
            metric(&mut text, name, "counter", "_total", help, &replica, value);
        }
        for (name, help, value) in gauges {
            metric(&mut text, name, "gauge", "", help, &replica, value);
        }
        text.push_str("# EOF\n");
        text
    }
}

fn metric(text: &mut String, name: &str, kind: &str, suffix: &str, help: &str, replica: &str, value: u64) {
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "# HELP hitless_{name} {help}\n# TYPE hitless_{name} {kind}\n\
         hitless_{name}{suffix}{{replica=\"{replica}\"}} {value}\n"
    );
}

fn escape_label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> CountersSnapshot {
        let (request_counters, connection_counters) =
            (RequestCounters::default(), ConnectionCounters::default());
        request_counters.begin();
        request_counters.begin();
        request_counters.answer(1, 5);
        connection_counters.accept(4);
        CountersSnapshot::new(State::Ready, &request_counters, &connection_counters, 0)
    }

    #[test]
    fn open_metrics_names_every_counter_once_and_ends() {
        let text = account().to_open_metrics("a");
        assert!(text.contains("hitless_requests_begun_total{replica=\"a\"} 2\n"), "{text}");
        assert!(text.contains("hitless_requests_in_flight{replica=\"a\"} 1\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
        let mut names: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let total = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), total);
    }

    #[test]
    fn what_happened_after_the_signal_is_told_in_spans() {
        let (request_counters, connection_counters) =
            (RequestCounters::default(), ConnectionCounters::default());
        request_counters.answer(2, 30);
        connection_counters.accept(20);
        let account = |state| CountersSnapshot::new(state, &request_counters, &connection_counters, 0);
        let spans = |account: &CountersSnapshot| {
            (account.signal_to_last_accept_ns, account.signal_to_last_response_ns)
        };
        let before = account(State::Ready);
        assert_eq!((before.signal_ns, before.drained, spans(&before)), (None, 0, (None, None)));
        connection_counters.stop(25, request_counters.answered());
        let early = account(State::Draining);
        assert_eq!((early.drained, spans(&early)), (0, (Some(0), Some(5))));
        request_counters.answer(3, 40);
        connection_counters.accept(37);
        let late = account(State::Draining);
        assert_eq!((late.drained, spans(&late)), (3, (Some(12), Some(15))));
        assert_eq!(late.signal_to_exit_ns, None);
        assert!(account(State::Stopped).signal_to_exit_ns.is_some_and(|span| span > 0));
    }

    #[test]
    fn json_has_the_numbers_and_null_for_what_is_not_there() {
        let json: serde_json::Value = serde_json::from_str(&account().to_json()).unwrap();
        assert_eq!(
            (&json["state"], &json["begun"], &json["answered"]),
            (&"ready".into(), &2.into(), &1.into())
        );
        assert!(json.as_object().unwrap()["signal_ns"].is_null(), "{json}");
    }

    #[cfg(feature = "serde")]
    #[test]
    fn json_is_what_serde_makes_of_the_account_byte_for_byte() {
        let (request_counters, connection_counters) =
            (RequestCounters::default(), ConnectionCounters::default());
        let before = CountersSnapshot::new(State::Starting, &request_counters, &connection_counters, 0);
        connection_counters.accept(20);
        request_counters.answer(2, 30);
        connection_counters.stop(25, 1);
        let after = CountersSnapshot::new(State::Stopped, &request_counters, &connection_counters, 7);
        for account in [before, after] {
            assert_eq!(account.to_json(), serde_json::to_string(&account).unwrap());
        }
    }

    #[test]
    fn a_label_cannot_break_out_of_its_quotes() {
        assert_eq!(escape_label("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
