//! Failures of two runs: in total, by class, by cohort. Pure.
//!
//! Beyond chance means: if nothing had changed, at least so many of all failures would fall into the new run at most once
//! in a thousand times. Failures come in clusters, a restart that loses one request often loses many; their counts are
//! therefore divided by how much more they vary from restart to restart than independent ones would (the index of
//! dispersion, as in quasi-Poisson regression). The base alone says how large a cluster may be: a new run that lost
//! hundreds in one restart is no excuse for itself.
//!
//! Failures are counted over the whole run, and held against the requests during restarts, where they happen: a run with
//! longer pauses has more requests and the same losses. What fails between restarts is held against the requests there.

use serde::Serialize;

use crate::analysis::confidence::second_at_least;
use crate::analysis::report::Report;
use crate::analysis::summary::{CohortSummary, Counts};
use crate::compare::Change;
use crate::model::failure::FailureClass;
use crate::report::text::count;

/// Chance may look like a regression so often, for each number.
const LEVEL: f64 = 0.001;

/// What a row counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Every failure.
    Total,
    /// Those of one class.
    Class,
    /// Those of one cohort.
    Cohort,
}

/// Failures among requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Share {
    /// How many failed.
    pub failed: u64,
    /// Of how many.
    pub requests: u64,
    /// Those of the requests that were there to fail so: see the module.
    pub exposed: f64,
}

impl Share {
    /// Failures of each request that was there to fail.
    #[must_use]
    pub fn rate(self) -> f64 {
        if self.exposed > 0.0 { self.failed as f64 / self.exposed } else { 0.0 }
    }
}

/// One count of failures in both runs, over the cohorts that both have.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FailureRow {
    /// What is counted.
    pub scope: Scope,
    /// The class or the cohort; `failed` for the total.
    pub name: String,
    /// The base run's.
    pub base: Share,
    /// The new run's.
    pub new: Share,
    /// How likely so many in the new run would be if nothing had changed.
    pub likelihood: f64,
    /// What became of it.
    pub change: Change,
}

impl FailureRow {
    /// What happened, for people.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Self { name, base, new, likelihood, .. } = self;
        let seen = format!(
            "{} of {} failed in base, {} of {} in new",
            count(base.failed),
            count(base.requests),
            count(new.failed),
            count(new.requests)
        );
        match self.scope {
            Scope::Total if *likelihood > LEVEL => format!(
                "{seen}: base lost nothing and new did (p = {likelihood:.2} that this is chance: more --rounds make it \
                 surer)"
            ),
            Scope::Total => seen,
            Scope::Class | Scope::Cohort => format!("{name}: {seen}"),
        }
    }
}

/// What is worse. A worse total says it all; the classes and cohorts stand in the table.
#[must_use]
pub(crate) fn reasons(rows: &[FailureRow]) -> Vec<String> {
    let worse: Vec<&FailureRow> = rows.iter().filter(|row| row.change == Change::Worse).collect();
    let is_total = worse.iter().any(|row| row.scope == Scope::Total);
    worse.into_iter().filter(|row| !is_total || row.scope == Scope::Total).map(FailureRow::sentence).collect()
}

/// What decides whether a count is worse.
struct Rule {
    tolerance: f64,
    /// Failures come in lumps of about so many.
    dispersion: f64,
    /// Whether the base lost nothing at all.
    is_base_clean: bool,
}

impl Rule {
    fn row(&self, scope: Scope, name: &str, base: Share, new: Share, is_allowed: bool) -> FailureRow {
        let likelihood = self.likelihood(base, new);
        let is_first = self.is_base_clean && new.failed > 0 && !is_allowed;
        let change = if is_first || self.is_more(base, new) {
            Change::Worse
        } else if self.is_more(new, base) {
            Change::Better
        } else {
            Change::Same
        };
        FailureRow { scope, name: name.to_owned(), base, new, likelihood, change }
    }

    /// More in `second`, by the tolerance and beyond chance.
    fn is_more(&self, first: Share, second: Share) -> bool {
        second.failed > 0
            && second.rate() >= self.tolerance * first.rate()
            && self.likelihood(first, second) <= LEVEL
    }

    fn likelihood(&self, first: Share, second: Share) -> f64 {
        let exposed = first.exposed + second.exposed;
        if exposed <= 0.0 {
            return 1.0;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most the count that it came from"
        )]
        let lumps = |share: Share| ((share.failed as f64 / self.dispersion) as u64).max(share.failed.min(1));
        second_at_least(lumps(first), lumps(second), second.exposed / exposed)
    }
}

/// Every count: the total, the classes and the cohorts with failures in either run. Nothing if no cohort is in both.
#[must_use]
pub(crate) fn rows(base: &Report, new: &Report, tolerance: f64) -> Vec<FailureRow> {
    let pairs: Vec<(&CohortSummary, &CohortSummary)> = base
        .cohorts
        .iter()
        .filter_map(|old| Some((old, new.cohorts.iter().find(|now| now.name == old.name)?)))
        .collect();
    if pairs.is_empty() {
        return Vec::new();
    }
    let (old_cohorts, new_cohorts): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
    let exposure = Exposure::of(base, new);
    let both = |class| (share(&old_cohorts, class, exposure.base), share(&new_cohorts, class, exposure.new));
    let (all_base, all_new) = both(None);
    let rule = Rule { tolerance, dispersion: dispersion(base, new), is_base_clean: all_base.failed == 0 };
    let is_allowed = |class: FailureClass| allows(new, &new_cohorts, class);
    let classes = || FailureClass::ALL.into_iter().filter(|class| class.is_servers());
    let is_all_allowed = classes().all(is_allowed);
    let mut rows = vec![rule.row(Scope::Total, "failed", all_base, all_new, is_all_allowed)];
    for class in classes() {
        let (base, new) = both(Some(class));
        if base.failed + new.failed > 0 {
            rows.push(rule.row(Scope::Class, class.name(), base, new, is_allowed(class)));
        }
    }
    for (old, now) in pairs {
        if old.counts.failed + now.counts.failed > 0 {
            let (base, now_share) = (share(&[old], None, exposure.base), share(&[now], None, exposure.new));
            let is_allowed = classes().all(|class| allows(new, &[now], class));
            rows.push(rule.row(Scope::Cohort, &old.name, base, now_share, is_allowed));
        }
    }
    rows
}

/// What cohorts that only the new run has lost, where its own budgets do not allow it.
pub(crate) fn only_in_new<'a>(base: &Report, new: &'a Report) -> Vec<&'a CohortSummary> {
    let is_known = |cohort: &&CohortSummary| base.cohorts.iter().any(|old| old.name == cohort.name);
    let is_lossy = |cohort: &&CohortSummary| {
        FailureClass::ALL.into_iter().any(|class| class.is_servers() && !allows(new, &[*cohort], class))
    };
    new.cohorts.iter().filter(|cohort| !is_known(cohort)).filter(is_lossy).collect()
}

/// The failures of some cohorts, of one class or of all.
fn share(cohorts: &[&CohortSummary], class: Option<FailureClass>, exposed: f64) -> Share {
    let requests: u64 = cohorts.iter().map(|cohort| cohort.counts.requests).sum();
    let failed = |cohort: &&CohortSummary| match class {
        None => cohort.counts.failed,
        Some(class) => of_class(cohort, class),
    };
    Share { failed: cohorts.iter().map(failed).sum(), requests, exposed: requests as f64 * exposed }
}

fn of_class(cohort: &CohortSummary, class: FailureClass) -> u64 {
    cohort.counts.by_class.get(&class).copied().unwrap_or(0)
}

/// Whether the run's own budgets allow what these cohorts lost in `class`: one that counts the class where it failed, in
/// the whole run or in each cohort, holds. A budget on another class allows nothing, neither does one on another cohort.
fn allows(report: &Report, cohorts: &[&CohortSummary], class: FailureClass) -> bool {
    let is_held = |scope: Option<&str>| {
        report.budgets.iter().any(|result| {
            result.holds && result.budget.metric.counts(class) && result.budget.scope.as_deref() == scope
        })
    };
    let lossy = || cohorts.iter().filter(|cohort| of_class(cohort, class) > 0);
    is_held(None) || lossy().all(|cohort| is_held(Some(&cohort.name)))
}

/// Which part of each run's requests was there to fail.
#[derive(Debug, Clone, Copy)]
struct Exposure {
    base: f64,
    new: f64,
}

impl Exposure {
    fn of(base: &Report, new: &Report) -> Self {
        let during = |pick: fn(&Counts) -> u64, report: &Report| -> u64 {
            report.restarts.iter().map(|restart| pick(&restart.counts)).sum()
        };
        let requests = |report: &Report| during(|counts| counts.requests, report);
        let (failed, lost): (u64, u64) = [base, new]
            .into_iter()
            .map(|report| (report.totals.failed, during(|counts| counts.failed, report)))
            .fold((0, 0), |sum, next| (sum.0 + next.0, sum.1 + next.1));
        if requests(base) == 0 || requests(new) == 0 {
            return Self { base: 1.0, new: 1.0 };
        }
        let in_restarts = if failed == 0 { 1.0 } else { (lost as f64 / failed as f64).min(1.0) };
        let part = |report: &Report| {
            let restarting = (requests(report) as f64 / report.totals.requests.max(1) as f64).min(1.0);
            in_restarts * restarting + (1.0 - in_restarts) * (1.0 - restarting)
        };
        Self { base: part(base), new: part(new) }
    }
}

/// How much more the failures of a restart vary than independent ones would, at least 1: chi squared over its degrees of
/// freedom, around each run's own rate. Lumps are no larger than the base alone shows, or than what it loses in a restart.
fn dispersion(base: &Report, new: &Report) -> f64 {
    let variation = |reports: &[&Report]| {
        let (mut squares, mut freedom) = (0.0, 0);
        for report in reports {
            let counts =
                || report.restarts.iter().map(|restart| &restart.counts).filter(|counts| counts.requests > 0);
            let failed: u64 = counts().map(|counts| counts.failed).sum();
            let requests: u64 = counts().map(|counts| counts.requests).sum();
            if failed == 0 {
                continue;
            }
            for counts in counts() {
                let expected = failed as f64 * counts.requests as f64 / requests as f64;
                squares += (counts.failed as f64 - expected).powi(2) / expected;
            }
            freedom += counts().count() - 1;
        }
        if freedom == 0 { 1.0 } else { (squares / freedom as f64).max(1.0) }
    };
    let lost = base.restarts.iter().map(|restart| restart.counts.failed).sum::<u64>() as f64;
    let most = variation(&[base]).max(1.0 + lost / base.restarts.len().max(1) as f64);
    variation(&[base, new]).min(most)
}
