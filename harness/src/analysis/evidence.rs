//! What others say of the same run: the kernel's counters, the depth of the accept queues, the servers' own accounts.
//! The clients' word is held against theirs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::analysis::summary::Counts;
use crate::model::lifecycle::{LifecycleEvent, LifecycleKind, Source};
use crate::model::listener::Listener;
use crate::record::recording::Recording;

/// What others say of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Evidence {
    /// How much the kernel's counters grew over the load; those that did not are left out. They count everything in
    /// this network namespace, not this run alone.
    pub kernel: BTreeMap<String, u64>,
    /// The most connections that were seen waiting in the listeners' accept queues together.
    pub accept_queue_max: Option<u64>,
    /// Each listener of the port by itself, in the order in which they were seen first; the first ones, if there were
    /// thousands.
    #[serde(default)]
    pub listeners: Vec<Listener>,
    /// The servers' own accounts beside the clients'.
    pub reconciliation: Option<Reconciliation>,
}

impl Evidence {
    /// What others say of a run whose clients counted `totals`.
    #[must_use]
    pub fn of(recording: &Recording, totals: &Counts) -> Self {
        Self {
            kernel: recording.kernel.clone(),
            accept_queue_max: recording.accept_queue_max,
            listeners: recording.listeners.in_order(),
            reconciliation: reconcile(recording, totals),
        }
    }
}

/// The servers' own accounts, added up over every life, beside the clients'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Reconciliation {
    /// How many processes were started.
    pub lives: u64,
    /// How many of them left an account.
    pub accounts: u64,
    /// Requests whose head the servers read.
    pub begun: u64,
    /// Responses that the servers finished.
    pub answered: u64,
    /// Requests that the servers cut.
    pub cut: u64,
    /// Whole answers that the clients saw, expected or not.
    pub seen: u64,
    /// `answered - seen`: nothing, if every life left an account and nobody else sent requests. A positive difference
    /// are answers that no client took, a negative one answers that no account holds.
    pub difference: i64,
    /// Connections that the clients established: the kernel finished the handshake.
    #[serde(default)]
    pub opened: u64,
    /// Connections that the servers accepted; none if their accounts do not say.
    #[serde(default)]
    pub accepted: Option<u64>,
}

impl Reconciliation {
    /// `accepted - opened`: a negative difference are connections that were established and that no server ever took,
    /// which died in an accept queue, or that no account holds; a positive one are those of others.
    #[must_use]
    pub fn connection_difference(&self) -> Option<i64> {
        self.accepted.map(|accepted| signed(accepted) - signed(self.opened))
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Compares what the servers logged at their ends with what the clients saw. None if no server gave an account, or if one
/// did of a life that began before the run, as in a Compose project: it holds requests that are not the run's.
#[must_use]
pub fn reconcile(recording: &Recording, totals: &Counts) -> Option<Reconciliation> {
    use crate::model::failure::FailureClass;
    let told = |kind, source| {
        recording.events.iter().filter(move |event| event.kind == kind && event.source == source)
    };
    let accounts: Vec<_> = told(LifecycleKind::Exiting, Source::Server).collect();
    let is_the_runs = |account: &&LifecycleEvent| {
        told(LifecycleKind::Started, Source::Engine)
            .any(|start| start.replica == account.replica && start.t <= account.t)
    };
    if accounts.is_empty() || !accounts.iter().all(is_the_runs) {
        return None;
    }
    let sum =
        |field: &str| -> u64 { accounts.iter().filter_map(|event| event.fields.get(field)?.as_u64()).sum() };
    let unexpected = [FailureClass::HttpError, FailureClass::WrongBody];
    let seen = totals.ok + unexpected.iter().filter_map(|class| totals.by_class.get(class)).sum::<u64>();
    let answered = sum("answered");
    let says_accepted = accounts.iter().any(|event| event.fields.contains_key("accepted"));
    Some(Reconciliation {
        lives: told(LifecycleKind::Started, Source::Engine).count() as u64,
        accounts: accounts.len() as u64,
        begun: sum("begun"),
        answered,
        cut: sum("cut"),
        seen,
        difference: signed(answered) - signed(seen),
        opened: recording.cohorts.iter().map(|cohort| cohort.totals.client.connections).sum(),
        accepted: says_accepted.then(|| sum("accepted")),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::clock::RunTime;
    use crate::record::recording::CohortRecord;

    fn event(at: i64, kind: LifecycleKind, source: Source, fields: &serde_json::Value) -> LifecycleEvent {
        let fields = fields.as_object().cloned().unwrap_or_default();
        LifecycleEvent {
            t: RunTime::from_nanoseconds(at),
            replica: "a".into(),
            node: None,
            kind,
            source,
            fields,
        }
    }

    #[test]
    fn accounts_of_all_lives_are_added_up() {
        let mut recording = Recording::new();
        let totals = Counts { requests: 12, ok: 10, failed: 2, by_class: BTreeMap::new() };
        assert_eq!(reconcile(&recording, &totals), None, "nobody gave an account");
        for (at, answered) in [(1, 4), (3, 6)] {
            let account = json!({"begun": answered + 1, "answered": answered, "cut": 1, "accepted": 3});
            recording.events.push(event(at, LifecycleKind::Started, Source::Engine, &json!({})));
            recording.events.push(event(at + 1, LifecycleKind::Exiting, Source::Server, &account));
        }
        recording.events.push(event(5, LifecycleKind::Started, Source::Engine, &json!({})));
        let reconciled = reconcile(&recording, &totals).unwrap();
        assert_eq!((reconciled.lives, reconciled.accounts), (3, 2), "the last one was cut short");
        assert_eq!((reconciled.begun, reconciled.answered, reconciled.cut), (12, 10, 2));
        assert_eq!((reconciled.seen, reconciled.difference), (10, 0));
        assert_eq!((reconciled.opened, reconciled.accepted), (0, Some(6)));
        let mut fresh = CohortRecord::new("fresh");
        fresh.totals.client.connections = 8;
        recording.cohorts.push(fresh);
        let reconciled = reconcile(&recording, &totals).unwrap();
        assert_eq!(reconciled.connection_difference(), Some(-2), "two died in an accept queue");
    }

    #[test]
    fn account_of_a_life_that_began_before_the_run_is_not_held_against_it() {
        let mut recording = Recording::new();
        let account = json!({"begun": 5000, "answered": 5000, "cut": 0});
        recording.events.push(event(1, LifecycleKind::Exiting, Source::Server, &account));
        recording.events.push(event(2, LifecycleKind::Started, Source::Engine, &json!({})));
        let totals = Counts { requests: 10, ok: 10, failed: 0, by_class: BTreeMap::new() };
        assert_eq!(reconcile(&recording, &totals), None);
    }
}
