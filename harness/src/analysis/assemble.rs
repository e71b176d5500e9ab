//! From a recording, its numbers and its verdict to one [`Report`]. Pure.

use std::time::Duration;

use crate::analysis::evidence::Evidence;
use crate::analysis::lives::lives;
use crate::analysis::report::{
    BucketInfo, EventInfo, FailureInfo, ReplicaInfo, Report, RestartInfo, RunInfo, SCHEMA_VERSION,
    TimelineInfo,
};
use crate::analysis::summary::{Summary, counts, latency, per_million};
use crate::analysis::verdict::{BudgetResult, Judgement};
use crate::model::budget::Budget;
use crate::model::clock::{Moment, WallOffset, milliseconds};
use crate::model::environment::Environment;
use crate::model::failure::FailureClass;
use crate::model::lifecycle::LifecycleEvent;
use crate::model::phase::Phase;
use crate::model::restart::RestartRecord;
use crate::model::scenario_info::ScenarioInfo;
use crate::record::recording::{Bucket, FailureRecord, Recording, Timeline};

/// More events than this are counted only. A restart makes about fifteen.
const MOST_EVENTS: usize = 20_000;

/// What a report needs beside the recording.
#[derive(Debug, Clone)]
pub struct Context {
    /// The run's id.
    pub run: String,
    /// The command that repeats it.
    pub command: String,
    /// The machine.
    pub environment: Environment,
    /// The wall clock at the run's zero is read from this.
    pub wall: WallOffset,
}

impl Report {
    /// Puts together what is told about a run.
    #[must_use]
    pub fn assemble(
        recording: &Recording,
        summary: Summary,
        judgement: Judgement,
        scenario: ScenarioInfo,
        context: Context,
    ) -> Self {
        let zero = recording.began;
        let load = match (recording.load_began, recording.load_ended) {
            (Some(began), Some(ended)) => ended.since(began),
            _ => Duration::ZERO,
        };
        let restarts = recording.restarts.iter().enumerate().map(|(index, restart)| RestartInfo {
            broke: broke(recording, index, &judgement.budgets),
            ..restart_info(restart, zero)
        });
        let restarts = restarts.collect();
        let evidence = Evidence::of(recording, &summary.totals, zero);
        Self {
            schema_version: SCHEMA_VERSION,
            run: RunInfo {
                id: context.run,
                hitless: env!("CARGO_PKG_VERSION").to_owned(),
                started_unix_ms: context.wall.unix_ms(zero),
                duration_ms: milliseconds(recording.ended.since(zero)),
                load_ms: milliseconds(load),
                command: context.command,
                cut_short: recording.cut_short.as_ref().map(ToString::to_string),
            },
            verdict: judgement.verdict,
            reasons: judgement.reasons,
            blind_spots: judgement.blind_spots,
            budgets: judgement.budgets,
            scenario,
            totals: summary.totals,
            cohorts: summary.cohorts,
            phases: summary.phases,
            replicas: replicas(recording),
            lives: lives(&recording.events, zero),
            restarts,
            events: events(&recording.events, zero),
            events_cut: recording.events.len().saturating_sub(MOST_EVENTS) as u64,
            lossy_restarts: summary.lossy_restarts,
            failures: recording.failures.kept().iter().map(|failure| failure_info(failure, zero)).collect(),
            failures_cut: recording.failures.cut(),
            timeline: timeline_info(&recording.timeline, zero),
            evidence,
            environment: context.environment,
        }
    }
}

fn replicas(recording: &Recording) -> Vec<ReplicaInfo> {
    let total: u64 = recording.answered_by.values().sum();
    recording
        .answered_by
        .iter()
        .map(|(name, answered)| ReplicaInfo {
            name: name.to_string(),
            answered: *answered,
            share: *answered as f64 / total.max(1) as f64,
        })
        .collect()
}

fn restart_info(restart: &RestartRecord, zero: Moment) -> RestartInfo {
    let stretch = |from: Option<Moment>, to: Option<Moment>| Some(milliseconds(to?.since(from?)));
    let phases = [
        (Phase::Draining, stretch(restart.terminated, restart.exited)),
        (
            Phase::Gap,
            stretch(restart.exited, restart.started.filter(|started| Some(*started) > restart.exited)),
        ),
        (Phase::Starting, stretch(restart.started, restart.ready)),
        (Phase::Overlap, stretch(restart.ready, restart.terminated.filter(|at| Some(*at) > restart.ready))),
    ];
    RestartInfo {
        replica: restart.replica.to_string(),
        round: restart.round,
        successor: restart.successor.as_ref().map(ToString::to_string),
        t: restart.began.offset_ms(zero),
        duration_ms: milliseconds(restart.ended().since(restart.began)),
        // Two moments that are known by one thing only are no stretch of time.
        phases: phases
            .into_iter()
            .filter_map(|(phase, ms)| Some((phase, ms.filter(|ms| *ms > 0.0)?)))
            .collect(),
        first_answer_ms: stretch(restart.ready, restart.answered),
        exit_code: restart.exit_code,
        killed: restart.killed,
        is_complete: restart.answered.is_some(),
        counts: counts(&restart.tally),
        latency: latency(&restart.tally.latency),
        upper_bound_per_million: per_million(&restart.tally),
        broke: Vec::new(),
        account: restart.account.clone(),
    }
}

/// The broken budgets that count something which was lost in a restart. Those on a cohort or a phase are known by the
/// failures that were kept.
fn broke(recording: &Recording, index: usize, budgets: &[BudgetResult]) -> Vec<Budget> {
    let tally = &recording.restarts[index].tally;
    let is_lost = |class: FailureClass, scope: Option<&str>| match scope {
        None => tally.of(class) > 0,
        Some(scope) => recording.failures.kept().iter().any(|failure| {
            (failure.restart, failure.class) == (Some(index), class)
                && (failure.cohort == scope || failure.phase.name() == scope)
        }),
    };
    let counts_some = |budget: &Budget| {
        let counted = |class: &FailureClass| budget.metric.counts(*class);
        FailureClass::ALL.into_iter().filter(counted).any(|class| is_lost(class, budget.scope.as_deref()))
    };
    let broken = budgets.iter().filter(|result| result.is_broken()).map(|result| &result.budget);
    broken.filter(|budget| counts_some(budget)).cloned().collect()
}

fn events(recorded: &[LifecycleEvent], zero: Moment) -> Vec<EventInfo> {
    let mut events: Vec<EventInfo> = recorded
        .iter()
        .take(MOST_EVENTS)
        .map(|event| EventInfo {
            t: event.at.offset_ms(zero),
            replica: event.replica.to_string(),
            event: event.kind,
            source: event.source,
        })
        .collect();
    events.sort_by(|one, other| one.t.total_cmp(&other.t));
    events
}

fn failure_info(failure: &FailureRecord, zero: Moment) -> FailureInfo {
    FailureInfo {
        t: failure.at.offset_ms(zero),
        cohort: failure.cohort.to_owned(),
        number: failure.number,
        class: failure.class,
        curl_exit: failure.class.curl_exit(),
        phase: failure.phase,
        restart: failure.restart,
        offset_ms: failure.nearest.as_ref().map(|nearest| nearest.offset_ms),
        event: failure.nearest.as_ref().map(|nearest| nearest.kind.name().to_owned()),
        replica: failure.nearest.as_ref().map(|nearest| nearest.replica.to_string()),
        after_ms: milliseconds(failure.at.since(failure.started)),
        blame: blame(failure),
        answered_by: failure.answered_by.as_ref().map(ToString::to_string),
        cause: failure.cause,
        connection_request: failure.connection.and_then(|used| used.nth),
        bytes: failure.connection.and_then(|used| used.sent.zip(used.received)),
        hidden_by_retries: failure.is_hidden_by_retries,
        detail: failure.detail.clone(),
    }
}

/// "3.1 ms after server-b received the signal (draining): connection reset before any answer".
fn blame(failure: &FailureRecord) -> String {
    let place = failure.nearest.as_ref().map_or_else(String::new, |nearest| {
        let side = if nearest.offset_ms < 0.0 { "before" } else { "after" };
        format!("{:.1} ms {side} {} {} ", nearest.offset_ms.abs(), nearest.replica, nearest.kind.phrase())
    });
    let request = match failure.connection.map(|used| used.nth) {
        None => String::new(),
        Some(None) => ", on a kept connection".to_owned(),
        Some(Some(1)) => ", first request of its connection".to_owned(),
        Some(Some(nth)) => format!(", request {nth} of its connection"),
    };
    let answered =
        failure.answered_by.as_ref().map_or_else(String::new, |name| format!(", answered by {name}"));
    let cause = failure.cause.map_or_else(String::new, |cause| format!(", {}", cause.phrase()));
    format!("{place}({}{request}): {}{cause}{answered}", failure.phase, failure.class.meaning())
}

fn timeline_info(timeline: &Timeline, zero: Moment) -> TimelineInfo {
    TimelineInfo {
        began_ms: timeline.began.offset_ms(zero),
        width_ms: milliseconds(timeline.width),
        buckets: timeline.buckets.iter().map(bucket_info).collect(),
    }
}

fn bucket_info(bucket: &Bucket) -> BucketInfo {
    let (counts, latency) = (counts(&bucket.tally), latency(&bucket.tally.latency));
    BucketInfo {
        ok: counts.ok,
        by_class: counts.by_class,
        p50: latency.p50,
        p99: latency.p99,
        max: latency.max,
        replicas: bucket.replicas.iter().map(|(name, count)| (name.to_string(), *count)).collect(),
        queue: bucket.queue,
    }
}
