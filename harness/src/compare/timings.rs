//! Times around the restarts of two runs. Pure.
//!
//! One value a restart, and ranks and medians instead of means: a single stall of the machine is no regression. A machine
//! that was slower throughout is none either: by what the answers between the restarts got slower, those in the restarts
//! may.

use serde::Serialize;

use crate::analysis::report::{Report, RestartSummary};
use crate::compare::Change;
use crate::compare::ranks::{least_likelihood, likelihood, median};
use crate::model::phase::Phase;
use crate::report::text::short_ms;

/// Chance may look like a regression so often, for each time. Four restarts against four can just say that much.
const LEVEL: f64 = 0.02;
/// A p99 that grew by less does not count, however often it doubled.
const LATENCY_FLOOR_MS: f64 = 50.0;
/// The same for a phase: an engine needs now 0.2 and now 0.6 s to start a container.
const PHASE_FLOOR_MS: f64 = 500.0;
/// Latencies of a generator that is later than this at the 99th percentile are not those of the server.
const LATEST_MS: f64 = 100.0;
/// The p99 of fewer answers is their maximum.
const LEAST_ANSWERS: u64 = 20;

/// One time in a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Median {
    /// The median over the restarts, in milliseconds.
    pub median_ms: f64,
    /// Over how many values.
    pub values: usize,
}

/// One time in both runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TimingRow {
    /// Which.
    pub name: String,
    /// The base run's, if it has such a time.
    pub base: Option<Median>,
    /// The new run's.
    pub new: Option<Median>,
    /// How likely such ranks would be if nothing had changed, if that was asked.
    pub likelihood: Option<f64>,
    /// What became of it.
    pub change: Change,
    /// Whether both runs have it, too seldom to say anything.
    pub is_thin: bool,
}

impl TimingRow {
    /// What happened, for people.
    #[must_use]
    pub fn sentence(&self) -> String {
        let shown =
            |sample: Option<Median>| sample.map_or_else(|| "none".to_owned(), |one| short_ms(one.median_ms));
        format!(
            "{}: {} in base, {} in new, median over the restarts",
            self.name,
            shown(self.base),
            shown(self.new)
        )
    }
}

/// The p99 in the restarts' windows, that of the steady time between them, and how long each phase took.
#[must_use]
pub(crate) fn rows(base: &Report, new: &Report, tolerance: f64) -> Vec<TimingRow> {
    let (old_steady, new_steady) = (steady(base), steady(new));
    let rule = Rule {
        tolerance,
        growth_ms: median(&new_steady).unwrap_or_default() - median(&old_steady).unwrap_or_default(),
    };
    let is_judged = !is_late(base) && !is_late(new);
    let row = |name: &str, base: &[f64], new: &[f64], floor_ms: f64| {
        if is_judged { rule.row(name, base, new, floor_ms) } else { shown(name, base, new) }
    };
    let mut rows = vec![
        row("p99 in restarts", &latencies(base), &latencies(new), LATENCY_FLOOR_MS),
        shown("p99 between them", &old_steady, &new_steady),
    ];
    for phase in Phase::ALL.into_iter().filter(|phase| phase.is_restart()) {
        let (old, now) = (stretches(base, phase), stretches(new, phase));
        if !old.is_empty() || !now.is_empty() {
            rows.push(row(phase.name(), &old, &now, PHASE_FLOOR_MS));
        }
    }
    rows
}

struct Rule {
    tolerance: f64,
    /// By how much the new run was slower between its restarts.
    growth_ms: f64,
}

impl Rule {
    fn row(&self, name: &str, base: &[f64], new: &[f64], floor_ms: f64) -> TimingRow {
        let row = shown(name, base, new);
        let (Some(old), Some(now)) = (row.base, row.new) else { return row };
        if least_likelihood(base.len(), new.len()) > LEVEL {
            return TimingRow { is_thin: true, ..row };
        }
        let is_longer = |from: f64, to: f64| to >= self.tolerance * from && to - from >= floor_ms;
        let (up, down) = (likelihood(base, new), likelihood(new, base));
        let change = if up <= LEVEL && is_longer(old.median_ms + self.growth_ms.max(0.0), now.median_ms) {
            Change::Worse
        } else if down <= LEVEL && is_longer(now.median_ms + (-self.growth_ms).max(0.0), old.median_ms) {
            Change::Better
        } else {
            Change::Same
        };
        TimingRow { likelihood: Some(up), change, ..row }
    }
}

/// A row that is not judged.
fn shown(name: &str, base: &[f64], new: &[f64]) -> TimingRow {
    let sample = |values: &[f64]| median(values).map(|median_ms| Median { median_ms, values: values.len() });
    TimingRow {
        name: name.to_owned(),
        base: sample(base),
        new: sample(new),
        likelihood: None,
        change: Change::NotJudged,
        is_thin: false,
    }
}

fn latencies(report: &Report) -> Vec<f64> {
    let has_answers =
        |restart: &&RestartSummary| restart.counts.ok >= LEAST_ANSWERS && restart.latency.p99 > 0.0;
    report.restarts.iter().filter(has_answers).map(|restart| restart.latency.p99).collect()
}

fn stretches(report: &Report, phase: Phase) -> Vec<f64> {
    report.restarts.iter().filter_map(|restart| restart.phases.get(&phase).copied()).collect()
}

/// The p99 of each stretch of the timeline that touches no restart.
fn steady(report: &Report) -> Vec<f64> {
    let timeline = &report.timeline;
    let touches = |from: f64, to: f64| {
        report.restarts.iter().any(|restart| {
            restart.restart.began.ms() < to && from < restart.restart.began.ms() + restart.duration_ms
        })
    };
    let mut from = timeline.began_ms;
    let mut values = Vec::new();
    for bucket in &timeline.buckets {
        let to = from + timeline.width_ms;
        if bucket.p99 > 0.0 && !touches(from, to) {
            values.push(bucket.p99);
        }
        from = to;
    }
    values
}

/// A machine on which the generator was late was too busy to measure anything by.
fn is_late(report: &Report) -> bool {
    report.cohorts.iter().any(|cohort| cohort.lateness_p99_ms > LATEST_MS)
}
