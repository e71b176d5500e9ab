//! Failures of two runs: in total, by class, by cohort. Pure.
//!
//! Beyond chance means: if nothing had changed, at least so many of all failures would fall into the new run at most once
//! in a thousand times. Failures come in clusters, a restart that loses one request often loses many; their counts are
//! therefore divided by how much more they vary from restart to restart than independent ones would (the index of
//! dispersion, as in quasi-Poisson regression).

use serde::Serialize;

use crate::budget::Metric;
use crate::compare::Change;
use crate::confidence::second_at_least;
use crate::failure::FailureClass;
use crate::report::Report;
use crate::report::text::count;
use crate::summary::{CohortSummary, Counts};

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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// How many failed.
    pub failed: u64,
    /// Of how many.
    pub requests: u64,
}

impl Share {
    fn rate(self) -> f64 {
        self.failed as f64 / self.requests.max(1) as f64
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
                "{seen}: base kept failed==0 and new does not (p = {likelihood:.2} that this is chance: more --rounds \
                 make it surer)"
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
    /// Whether no failure is what was promised.
    expects_none: bool,
}

impl Rule {
    fn row(&self, scope: Scope, name: &str, base: Share, new: Share) -> FailureRow {
        let likelihood = self.likelihood(base, new);
        let is_broken = self.expects_none && base.failed == 0 && new.failed > 0;
        let change = if is_broken || self.is_more(base, new) {
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
        let requests = first.requests + second.requests;
        if requests == 0 {
            return 1.0;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most the count that it came from"
        )]
        let lumps = |share: Share| ((share.failed as f64 / self.dispersion) as u64).max(share.failed.min(1));
        second_at_least(lumps(first), lumps(second), second.requests as f64 / requests as f64)
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
    let total = |pick: fn(&(&CohortSummary, &CohortSummary)) -> Counts, class: Option<FailureClass>| {
        pairs.iter().map(pick).fold(Share::default(), |sum, counts| Share {
            failed: sum.failed
                + class.map_or(counts.failed, |class| counts.by_class.get(&class).copied().unwrap_or(0)),
            requests: sum.requests + counts.requests,
        })
    };
    let both =
        |class| (total(|pair| pair.0.counts.clone(), class), total(|pair| pair.1.counts.clone(), class));
    let (all_base, all_new) = both(None);
    let rule = Rule {
        tolerance,
        dispersion: dispersion(&[base, new]),
        expects_none: all_base.failed == 0 && !allows_failures(new),
    };
    let mut rows = vec![rule.row(Scope::Total, "failed", all_base, all_new)];
    for class in FailureClass::ALL.into_iter().filter(|class| class.is_servers()) {
        let (base, new) = both(Some(class));
        if base.failed + new.failed > 0 {
            rows.push(rule.row(Scope::Class, class.name(), base, new));
        }
    }
    for (old, now) in pairs {
        let share =
            |cohort: &CohortSummary| Share { failed: cohort.counts.failed, requests: cohort.counts.requests };
        if old.counts.failed + now.counts.failed > 0 {
            rows.push(rule.row(Scope::Cohort, &old.name, share(old), share(now)));
        }
    }
    rows
}

/// Whether the run's own budgets speak of failures and hold: then those it has are within them.
fn allows_failures(report: &Report) -> bool {
    let mut about_failures = report
        .budgets
        .iter()
        .filter(|result| matches!(result.budget.metric, Metric::Failed | Metric::Class(_) | Metric::Reset))
        .peekable();
    about_failures.peek().is_some() && about_failures.all(|result| result.holds)
}

/// How much more the failures of a restart vary than independent ones would: chi squared over its degrees of freedom,
/// around each run's own rate; at least 1.
fn dispersion(reports: &[&Report]) -> f64 {
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
}
