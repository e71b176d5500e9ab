//! Two runs side by side: is the new one worse than the base? Pure: from two reports to one [`Comparison`], which the
//! sinks below render.
//!
//! Two runs of the same thing never give the same numbers, so a difference alone is no regression:
//!
//! - **Failures.** If the base lost nothing, any failure of the new run is a regression whatever chance says, unless a
//!   budget of the new run counts it and holds. Otherwise the rate of failures has to grow by the tolerance, and by more
//!   than chance allows ([`failures`]). In total, by class and by cohort.
//! - **Budgets.** One that held in the base and is broken in the new run is a regression.
//! - **Times.** Each restart gives one value: the p99 of the requests in its window, how long it drained, how long nobody
//!   was there, how long the next process took. None are judged if a generator was late: that machine was too busy to
//!   tell. The new run's values have to lie above the base's (rank-sum test), and
//!   their median above the base's by the tolerance and by a floor, both beyond what the new run was slower at between
//!   its restarts too ([`timings`]).
//!
//! What differs between the runs on purpose, their presets for example, is said and is no error. Only what both runs have
//! is compared.

pub mod failures;
pub mod markdown;
pub mod ranks;
pub mod terminal;
pub mod timings;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::analysis::report::Report;
use crate::analysis::verdict::Verdict;
use crate::compare::failures::FailureRow;
use crate::compare::timings::TimingRow;
use crate::report::text::{count, counted};
use crate::stored_report::{self, StoredReportError};

/// The version of the comparison's JSON. It grows when a field changes its meaning or goes away.
pub const COMPARISON_VERSION: u32 = 1;
/// How many times as much counts as worse, unless something else is asked for.
pub const DEFAULT_TOLERANCE: f64 = 2.0;

/// A file cannot be compared: exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// It cannot be read, or is none of ours.
    #[error("{0}; give a report.json or the directory of a run")]
    Unreadable(#[from] StoredReportError),
    /// More requests failed than there were.
    #[error(
        "{}: failed of cohort `{cohort}` is {failed}, more than its {requests} requests; this file was changed by hand, \
         make it again with `hitless report`",
        path.display()
    )]
    Counts {
        /// Which.
        path: PathBuf,
        /// Whose counts.
        cohort: String,
        /// What it says of failures.
        failed: u64,
        /// What it says of requests.
        requests: u64,
    },
}

/// What the comparison came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing that was compared is worse.
    NoRegression,
    /// Something is.
    Regression,
    /// Nothing is, but one of the runs could not have shown it.
    Inconclusive,
}

impl Outcome {
    /// The verdict that has the same colour and exit code.
    #[must_use]
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::NoRegression => Verdict::Pass,
            Self::Regression => Verdict::Fail,
            Self::Inconclusive => Verdict::Inconclusive,
        }
    }

    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoRegression => "no regression",
            Self::Regression => "regression",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// What became of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Worse, beyond noise.
    Worse,
    /// Nothing beyond noise.
    Same,
    /// Better, beyond noise.
    Better,
    /// Shown only: there is too little of it, or it is not what is judged.
    NotJudged,
}

impl Change {
    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Worse => "worse",
            Self::Same => "same",
            Self::Better => "better",
            Self::NotJudged => "not judged",
        }
    }
}

/// One of the two runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    /// The run's id.
    pub run: String,
    /// What was tested, in a few words.
    pub subject: String,
    /// What the run itself came to.
    pub verdict: Verdict,
    /// Its requests.
    pub requests: u64,
    /// Its restarts.
    pub restarts: usize,
    /// What it could not have seen.
    pub blind_spots: Vec<String>,
}

impl Side {
    fn of(report: &Report) -> Self {
        Self {
            run: report.run.id.clone(),
            subject: report.scenario.subject.clone(),
            verdict: report.verdict,
            requests: report.totals.requests,
            restarts: report.restarts.len(),
            blind_spots: report.blind_spots.clone(),
        }
    }
}

/// Two runs, compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// [`COMPARISON_VERSION`].
    pub schema_version: u32,
    /// What it came to.
    pub outcome: Outcome,
    /// Why, if it is not a plain "no regression": what is worse, then what could not be seen.
    pub reasons: Vec<String>,
    /// How many times as much counts as worse.
    pub tolerance: f64,
    /// What the new run is held against.
    pub base: Side,
    /// The run in question.
    pub new: Side,
    /// In what the runs differ that is not their outcome.
    pub differences: Vec<String>,
    /// Failures: in total, by class, by cohort.
    pub failures: Vec<FailureRow>,
    /// Times around the restarts.
    pub timings: Vec<TimingRow>,
}

impl Comparison {
    /// Holds `new` against `base`; `tolerance` times as much is worse, at least 1.
    #[must_use]
    pub fn of(base: &Report, new: &Report, tolerance: f64) -> Self {
        let failures = failures::rows(base, new, tolerance);
        let timings = timings::rows(base, new, tolerance);
        let (old_side, new_side) = (Side::of(base), Side::of(new));
        let mut reasons = failures::reasons(&failures);
        reasons.extend(timings.iter().filter(|row| row.change == Change::Worse).map(TimingRow::sentence));
        let (broken, untested) = newly_broken(base, new);
        reasons.extend(broken);
        let is_worse = !reasons.is_empty();
        let mut doubts = doubts(&old_side, &new_side, failures.is_empty(), &timings);
        doubts.extend(untested);
        let outcome = match (is_worse, doubts.is_empty()) {
            (true, _) => Outcome::Regression,
            (false, true) => Outcome::NoRegression,
            (false, false) => Outcome::Inconclusive,
        };
        reasons.extend(doubts);
        Self {
            schema_version: COMPARISON_VERSION,
            outcome,
            reasons,
            tolerance,
            base: old_side,
            new: new_side,
            differences: differences(base, new),
            failures,
            timings,
        }
    }
}

/// The comparison for scripts.
///
/// # Panics
/// Never: it is plain data.
#[must_use]
pub fn json(comparison: &Comparison) -> String {
    serde_json::to_string_pretty(comparison).expect("a comparison is plain data") + "\n"
}

/// Reads a report that is to be compared: a report.json or the directory of a run.
///
/// # Errors
/// There is none, it is none, or it cannot be compared.
pub fn read(path: &Path) -> Result<Report, CompareError> {
    let report = stored_report::read(path)?;
    match report.cohorts.iter().find(|cohort| cohort.counts.failed > cohort.counts.requests) {
        Some(cohort) => Err(CompareError::Counts {
            path: path.to_owned(),
            cohort: cohort.name.clone(),
            failed: cohort.counts.failed,
            requests: cohort.counts.requests,
        }),
        None => Ok(report),
    }
}

/// The new run's broken budgets, if the base passed: those that held in the base, and those of which it says nothing,
/// since it had no such budget or not the same cohorts. And the losses of cohorts that it had not.
fn newly_broken(base: &Report, new: &Report) -> (Vec<String>, Vec<String>) {
    let names = |report: &Report| -> BTreeSet<String> {
        report.cohorts.iter().map(|cohort| cohort.name.clone()).collect()
    };
    let (old, now) = (names(base), names(new));
    let (mut broken, mut untested) = (Vec::new(), Vec::new());
    let is_failing = base.verdict == Verdict::Pass && new.verdict == Verdict::Fail;
    for result in new.budgets.iter().filter(|result| is_failing && result.is_broken()) {
        let budget = &result.budget;
        let held = base.budgets.iter().any(|other| other.budget == *budget && other.holds);
        let has_scope = budget.scope.as_ref().map_or(old == now, |scope| old.contains(scope) || old == now);
        if held && has_scope {
            broken.push(format!("budget {budget} held in base and is broken in new"));
        } else {
            untested.push(format!("budget {budget} is broken in new, and base does not say whether it held"));
        }
    }
    untested.extend(failures::only_in_new(base, new).into_iter().map(|cohort| {
        format!("cohort {} is only in new, and lost {}", cohort.name, count(cohort.counts.failed))
    }));
    (broken, untested)
}

/// Why a regression could have gone unseen.
fn doubts(base: &Side, new: &Side, has_no_common_cohort: bool, timings: &[TimingRow]) -> Vec<String> {
    let mut doubts = Vec::new();
    if has_no_common_cohort {
        doubts.push("no cohort is in both runs; give both the same --cohort".to_owned());
    }
    for (name, side) in [("base", base), ("new", new)] {
        if side.verdict == Verdict::Inconclusive && side.blind_spots.is_empty() {
            doubts.push(format!("the {name} run is inconclusive"));
        }
        doubts.extend(side.blind_spots.iter().map(|spot| format!("the {name} run: {spot}")));
    }
    if timings.iter().any(|row| row.is_thin) {
        doubts.push(format!(
            "{} in base and {} in new are too few to compare their times; raise --rounds",
            counted(base.restarts as u64, "restart"),
            counted(new.restarts as u64, "restart")
        ));
    }
    doubts
}

/// Options whose difference is told in other words, or says nothing.
const TOLD_OTHERWISE: [&str; 8] =
    ["preset", "image", "replicas", "rounds", "rate", "cohort", "seed", "report-dir"];

/// The options that are not the same in both runs; nothing if a run is of a version that did not write them.
fn option_differences(base: &Map<String, Value>, new: &Map<String, Value>) -> Vec<String> {
    if base.is_empty() || new.is_empty() {
        return Vec::new();
    }
    let text = |value: Option<&Value>| match value {
        None => "none".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(list)) => list
            .iter()
            .map(|one| one.as_str().map_or_else(|| one.to_string(), ToOwned::to_owned))
            .collect::<Vec<_>>()
            .join(", "),
        Some(other) => other.to_string(),
    };
    let names: BTreeSet<&String> = base.keys().chain(new.keys()).collect();
    names
        .into_iter()
        .filter(|name| !TOLD_OTHERWISE.contains(&name.as_str()) && base.get(*name) != new.get(*name))
        .map(|name| format!("--{name} {} -> {}", text(base.get(name)), text(new.get(name))))
        .collect()
}

/// What was asked of the runs, and of the machines, where it is not the same.
fn differences(base: &Report, new: &Report) -> Vec<String> {
    let facts = |report: &Report| -> Vec<(&'static str, String)> {
        let (scenario, machine) = (&report.scenario, &report.environment);
        vec![
            ("subject", scenario.subject.clone()),
            ("image", scenario.image.clone().unwrap_or_else(|| "none".to_owned())),
            ("replicas", scenario.replicas.to_string()),
            ("rounds", scenario.rounds.to_string()),
            ("kernel", machine.kernel.clone()),
            (
                "tcp_migrate_req",
                machine.tcp_migrate_req.map_or_else(|| "unknown".to_owned(), |on| on.to_string()),
            ),
            ("engine", machine.engine.clone()),
            ("CPUs", machine.cpus.to_string()),
            ("hitless", report.run.hitless.clone()),
        ]
    };
    let mut differences: Vec<String> = facts(base)
        .into_iter()
        .zip(facts(new))
        .filter(|((_, old), (_, now))| old != now)
        .map(|((name, old), (_, now))| format!("{name} {old} -> {now}"))
        .collect();
    differences.extend(option_differences(&base.scenario.options, &new.scenario.options));
    for cohort in &base.scenario.cohorts {
        match new.scenario.cohorts.iter().find(|other| other.name == cohort.name) {
            None => differences.push(format!("cohort {} only in base", cohort.name)),
            Some(other) if (other.rate - cohort.rate).abs() > f64::EPSILON => {
                differences
                    .push(format!("{} {} -> {} requests a second", cohort.name, cohort.rate, other.rate));
            }
            Some(_) => {}
        }
    }
    for cohort in &new.scenario.cohorts {
        if !base.scenario.cohorts.iter().any(|other| other.name == cohort.name) {
            let failed =
                new.cohorts.iter().find(|other| other.name == cohort.name).map_or(0, |one| one.counts.failed);
            differences.push(format!("cohort {} only in new ({failed} failed)", cohort.name));
        }
    }
    differences
}
