//! What the page's script needs for zoom and hover: the numbers of the picture, as compact JSON.

use std::collections::HashMap;

use serde::Serialize;

use crate::analysis::replica_states::ReplicaState;
use crate::analysis::report::{BucketSummary, Report, RestartSummary};
use crate::model::failed_request::FailedRequest;
use crate::model::failure::ByClass;
use crate::model::failure::FailureClass;
use crate::model::lifecycle::LifecycleEvent;
use crate::model::lifecycle::{LifecycleKind, Source};
use crate::report::html::Limits;
use crate::report::html::axis::Axis;
use crate::report::text::clipped;

const NAME_LENGTH: usize = 60;

/// Positions instead of names and tuples instead of objects, since the page carries thousands of them. The script's
/// head says how it reads them.
#[derive(Serialize)]
struct Data {
    from: f64,
    to: f64,
    began: f64,
    width: f64,
    buckets: Vec<Bucket>,
    replicas: Vec<String>,
    classes: Vec<&'static str>,
    lives: Vec<ReplicaStates>,
    restarts: Vec<Restart>,
    restarts_cut: usize,
    events: Vec<Event>,
    failures: Vec<Failure>,
    failures_cut: u64,
}

/// Answered, median, 99th percentile, slowest, failures by class, answers by replica, accept queue.
#[derive(Serialize)]
struct Bucket(u64, f64, f64, f64, Vec<(usize, u64)>, Vec<(usize, u64)>, Option<u64>);

/// Whose, and from when on it was in which state.
#[derive(Serialize)]
struct ReplicaStates(usize, Vec<(f64, ReplicaState)>);

/// Beginning, duration, replica, round, requests, failed, failures by class.
#[derive(Serialize)]
struct Restart(f64, f64, usize, u32, u64, u64, Vec<(usize, u64)>);

/// When, to whom, what, who says so.
#[derive(Serialize)]
struct Event(f64, usize, LifecycleKind, Source);

/// When, in which class.
#[derive(Serialize)]
struct Failure(f64, usize);

/// The page's data: JSON that can stand inside a script element, since nothing in it can end the element.
pub(super) fn data(report: &Report, axis: Axis, limits: Limits) -> String {
    let mut names = Names::default();
    let states: usize = report.replica_states.iter().map(|life| life.states.len()).sum();
    // Part of a life would be taken for the whole.
    let lives = report.replica_states.iter().filter(|_| states <= limits.states);
    let data = Data {
        from: axis.from,
        to: axis.to,
        began: report.timeline.began_ms,
        width: report.timeline.width_ms,
        buckets: report.timeline.buckets.iter().map(|bucket| names.bucket(bucket)).collect(),
        classes: FailureClass::ALL.map(FailureClass::label).to_vec(),
        restarts_cut: report.restarts.len().saturating_sub(limits.zooms),
        lives: lives
            .map(|life| {
                let states = life.states.iter().map(|span| (tenths(span.t), span.state));
                ReplicaStates(names.position(&life.replica), states.collect())
            })
            .collect(),
        restarts: report.restarts.iter().take(limits.zooms).map(|restart| names.restart(restart)).collect(),
        events: worth_showing(report, limits.events).map(|event| names.event(event)).collect(),
        failures: report.failures.iter().map(failure).collect(),
        failures_cut: report.failures_cut,
        replicas: names.in_order,
    };
    // In JSON, `<` can only stand inside a string.
    serde_json::to_string(&data).unwrap_or_default().replace('<', "\\u003c")
}

/// The replicas' names, each once.
#[derive(Default)]
struct Names {
    in_order: Vec<String>,
    positions: HashMap<String, usize>,
}

impl Names {
    fn position(&mut self, name: &str) -> usize {
        if let Some(position) = self.positions.get(name) {
            return *position;
        }
        self.in_order.push(clipped(name, NAME_LENGTH));
        self.positions.insert(name.to_owned(), self.in_order.len() - 1);
        self.in_order.len() - 1
    }

    fn bucket(&mut self, bucket: &BucketSummary) -> Bucket {
        let failed = by_class(&bucket.by_class);
        let answered =
            bucket.replicas.iter().map(|(name, answered)| (self.position(name), *answered)).collect();
        let [p50, p99, max] = [bucket.p50, bucket.p99, bucket.max].map(hundredths);
        Bucket(bucket.ok, p50, p99, max, failed, answered, bucket.queue)
    }

    fn restart(&mut self, restart: &RestartSummary) -> Restart {
        Restart(
            hundredths(restart.restart.began.ms()),
            hundredths(restart.duration_ms),
            self.position(&restart.restart.replica),
            restart.restart.round,
            restart.counts.requests,
            restart.counts.failed,
            by_class(&restart.counts.by_class),
        )
    }

    fn event(&mut self, event: &LifecycleEvent) -> Event {
        Event(hundredths(event.t.ms()), self.position(&event.replica), event.kind, event.source)
    }
}

fn by_class(by_class: &ByClass) -> Vec<(usize, u64)> {
    by_class.iter().map(|(class, failed)| (*class as usize, *failed)).collect()
}

fn failure(failure: &FailedRequest) -> Failure {
    Failure(hundredths(failure.t.ms()), failure.class as usize)
}

/// All events if they are not too many, otherwise those of the restarts with failures first.
fn worth_showing(report: &Report, most: usize) -> impl Iterator<Item = &LifecycleEvent> {
    let is_failing = |event: &LifecycleEvent| {
        // Restarts follow one another: the last one that began before the event is the event's.
        let next = report.restarts.partition_point(|restart| restart.restart.began <= event.t);
        next.checked_sub(1).is_some_and(|index| report.restarts[index].counts.failed > 0)
    };
    let is_crowded = report.events.len() > most;
    report.events.iter().filter(move |event| !is_crowded || is_failing(event)).take(most)
}

fn tenths(ms: f64) -> f64 {
    (ms * 10.0).round() / 10.0
}

fn hundredths(ms: f64) -> f64 {
    (ms * 100.0).round() / 100.0
}
