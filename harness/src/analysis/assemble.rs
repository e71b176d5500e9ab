//! From a recording, its numbers and its verdict to one [`Report`]. Pure.

use std::sync::Arc;
use std::time::Duration;

use crate::analysis::evidence::Evidence;
use crate::analysis::replica_states::replica_states;
use crate::analysis::report::{
    BucketSummary, ReplicaInfo, Report, RestartSummary, RunInfo, SCHEMA_VERSION, TimelineSummary,
};
use crate::analysis::summary::{Summary, counts, latency, per_million};
use crate::analysis::verdict::{BudgetResult, Judgement};
use crate::model::budget::Budget;
use crate::model::clock::{RunTime, milliseconds};
use crate::model::environment::Environment;
use crate::model::failure::FailureClass;
use crate::model::lifecycle::LifecycleEvent;
use crate::model::phase::Phase;
use crate::model::restart::Restart;
use crate::model::scenario_info::ScenarioInfo;
use crate::model::tally::Tally;
use crate::record::recording::{Bucket, Recording, Timeline};

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
    /// The wall clock at the run's zero, in milliseconds since 1970.
    pub started_unix_ms: u64,
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
        let load = match (recording.load_began, recording.load_ended) {
            (Some(began), Some(ended)) => ended.since(began),
            _ => Duration::ZERO,
        };
        let restarts = recording.restarts.iter().enumerate().map(|(index, restart)| RestartSummary {
            broke: broke(recording, index, &judgement.budgets),
            ..restart_summary(restart)
        });
        let restarts = restarts.collect();
        let evidence = Evidence::of(recording, &summary.totals);
        Self {
            schema_version: SCHEMA_VERSION,
            run: RunInfo {
                id: context.run,
                hitless: env!("CARGO_PKG_VERSION").to_owned(),
                started_unix_ms: context.started_unix_ms,
                duration_ms: recording.ended.ms(),
                load_ms: milliseconds(load),
                command: context.command,
                cut_short: recording.cut_short.clone(),
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
            replica_states: replica_states(&recording.events),
            restarts,
            events: events(&recording.events),
            events_cut: recording.events.len().saturating_sub(MOST_EVENTS) as u64,
            lossy_restarts: summary.lossy_restarts,
            failures: recording.failures.kept().to_vec(),
            failures_cut: recording.failures.cut(),
            timeline: timeline_summary(&recording.timeline),
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

fn restart_summary(restart: &Restart) -> RestartSummary {
    let stretch = |from: Option<RunTime>, to: Option<RunTime>| Some(milliseconds(to?.since(from?)));
    let phases = [
        (Phase::Withdrawing, stretch(restart.withdrawn, restart.stop_requested)),
        (Phase::Draining, stretch(restart.stop_requested, restart.exited)),
        (
            Phase::Gap,
            stretch(restart.exited, restart.started.filter(|started| Some(*started) > restart.exited)),
        ),
        (Phase::Starting, stretch(restart.started, restart.ready)),
        (
            Phase::Overlap,
            stretch(restart.ready, restart.stop_requested.filter(|at| Some(*at) > restart.ready)),
        ),
    ];
    RestartSummary {
        restart: Restart { tally: Tally::coarse(), ..restart.clone() },
        duration_ms: milliseconds(restart.ended().since(restart.began)),
        // Two moments that are known by one thing only are no stretch of time.
        phases: phases
            .into_iter()
            .filter_map(|(phase, ms)| Some((phase, ms.filter(|ms| *ms > 0.0)?)))
            .collect(),
        first_answer_ms: stretch(restart.ready, restart.answered),
        is_complete: restart.answered.is_some(),
        counts: counts(&restart.tally),
        latency: latency(&restart.tally.latency),
        upper_bound_per_million: per_million(&restart.tally),
        broke: Vec::new(),
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
                && (failure.cohort.name() == scope || failure.phase.name() == scope)
        }),
    };
    let counts_some = |budget: &Budget| {
        let counted = |class: &FailureClass| budget.metric.counts(*class);
        FailureClass::ALL.into_iter().filter(counted).any(|class| is_lost(class, budget.scope.as_deref()))
    };
    let broken = budgets.iter().filter(|result| result.is_broken()).map(|result| &result.budget);
    broken.filter(|budget| counts_some(budget)).cloned().collect()
}

/// The first events, in the order of time; what else was said of them stays in `events.jsonl`.
fn events(recorded: &[LifecycleEvent]) -> Vec<LifecycleEvent> {
    let told = |event: &LifecycleEvent| LifecycleEvent {
        t: event.t,
        replica: Arc::clone(&event.replica),
        node: event.node.clone(),
        kind: event.kind,
        source: event.source,
        fields: serde_json::Map::new(),
    };
    let mut events: Vec<LifecycleEvent> = recorded.iter().take(MOST_EVENTS).map(told).collect();
    events.sort_by_key(|event| event.t);
    events
}

fn timeline_summary(timeline: &Timeline) -> TimelineSummary {
    TimelineSummary {
        began_ms: timeline.began.ms(),
        width_ms: milliseconds(timeline.width),
        buckets: timeline.buckets.iter().map(bucket_summary).collect(),
    }
}

fn bucket_summary(bucket: &Bucket) -> BucketSummary {
    let (counts, latency) = (counts(&bucket.tally), latency(&bucket.tally.latency));
    BucketSummary {
        ok: counts.ok,
        by_class: counts.by_class,
        p50: latency.p50,
        p99: latency.p99,
        max: latency.max,
        replicas: bucket.replicas.iter().map(|(name, count)| (name.to_string(), *count)).collect(),
        queue: bucket.queue,
    }
}
