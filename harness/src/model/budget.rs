//! Budgets: what a run may cost, in the grammar of k6's thresholds. Parsing and comparing only; the numbers that a
//! budget is held against come from [`crate::analysis::summary`].
//!
//! ```text
//! budget  := [ scope "." ] metric operator value
//! scope   := cohort name | phase name
//! metric  := "failed" | "requests" | "ok" | a failure class | "reset" | "replayed" | "killed" | "p(" percent ")" | "med"
//!          | "max"
//! operator:= "==" | "!=" | "<" | "<=" | ">" | ">="
//! value   := number | duration ("250ms", "1.5s"; a bare number is milliseconds for latencies)
//! ```
//!
//! `failed==0`, `refused==0`, `p(99)<250ms`, `fresh.empty_reply==0`, `draining.failed<3`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::failure::FailureClass;
use crate::model::phase::Phase;

/// A condition that a run has to meet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
#[serde(try_from = "String", into = "String")]
pub struct Budget {
    /// What the metric is taken over: a cohort or a phase by name, or the whole run.
    pub scope: Option<String>,
    /// What is counted or measured.
    pub metric: Metric,
    /// How it is compared.
    pub operator: Operator,
    /// What it is compared with: a count, or milliseconds.
    pub value: f64,
    text: String,
}

/// What a budget counts or measures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Metric {
    /// Requests that failed for any reason but the harness's own interference.
    Failed,
    /// Requests that were sent.
    Requests,
    /// Requests that were answered as expected.
    Ok,
    /// Requests that failed in one class.
    Class(FailureClass),
    /// Both kinds of reset together.
    Reset,
    /// Requests that the client's pool repeated on its own.
    Replayed,
    /// Requests that were never written, since their kept connection was found closed.
    Unsent,
    /// The share of failed requests, from 0 to 1.
    Rate,
    /// Restarts whose replica did not stop in time and was killed.
    Killed,
    /// A percentile of the latency, in milliseconds.
    Percentile(f64),
    /// The slowest answer, in milliseconds.
    Max,
    /// The fastest answer, in milliseconds.
    Min,
    /// The mean latency, in milliseconds.
    Average,
}

impl Metric {
    /// Whether the value is a latency, as opposed to a count.
    #[must_use]
    pub const fn is_latency(self) -> bool {
        matches!(self, Self::Percentile(_) | Self::Max | Self::Min | Self::Average)
    }

    /// Whether failures of this class are among what is counted.
    #[must_use]
    pub const fn counts(self, class: FailureClass) -> bool {
        match self {
            Self::Failed | Self::Rate => class.is_servers(),
            Self::Class(counted) => counted as u8 == class as u8,
            Self::Reset => {
                matches!(class, FailureClass::ResetBeforeResponse | FailureClass::ResetMidResponse)
            }
            _ => false,
        }
    }

    /// Whether failures are what is counted.
    #[must_use]
    pub const fn is_of_failures(self) -> bool {
        matches!(self, Self::Failed | Self::Rate | Self::Class(_) | Self::Reset)
    }
}

/// A budget that counts failures, held against them one by one while a run goes on.
#[derive(Debug, Clone)]
pub(crate) struct FailureCount {
    budget: Budget,
    seen: u32,
}

impl FailureCount {
    /// None if the budget is about something else, or wants failures rather than none.
    pub(crate) fn of(budget: &Budget) -> Option<Self> {
        let is_limit = matches!(budget.operator, Operator::Equal | Operator::Less | Operator::LessOrEqual);
        (budget.metric.is_of_failures() && budget.metric != Metric::Rate && is_limit)
            .then(|| Self { budget: budget.clone(), seen: 0 })
    }

    /// Counts a failure, if it is one of those that the budget counts; says whether the budget is broken, whatever comes
    /// next.
    pub(crate) fn add(&mut self, cohort: &str, phase: Phase, class: FailureClass) -> bool {
        let is_in_scope =
            self.budget.scope.as_deref().is_none_or(|scope| scope == cohort || scope == phase.name());
        let is_counted = self.budget.metric.counts(class);
        self.seen = self.seen.saturating_add(u32::from(is_in_scope && is_counted));
        let seen = f64::from(self.seen);
        match self.budget.operator {
            Operator::Less => seen >= self.budget.value,
            _ => seen > self.budget.value,
        }
    }
}

/// How a budget compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

impl Operator {
    /// The longer spellings come first, so that `<=` is not read as `<`.
    const SPELLINGS: [(&'static str, Self); 6] = [
        ("==", Self::Equal),
        ("!=", Self::NotEqual),
        ("<=", Self::LessOrEqual),
        (">=", Self::GreaterOrEqual),
        ("<", Self::Less),
        (">", Self::Greater),
    ];

    /// Whether `seen` meets the condition against `wanted`.
    #[must_use]
    pub fn holds(self, seen: f64, wanted: f64) -> bool {
        // Counts are whole and far below 2^53: they compare exactly.
        let is_equal = (seen - wanted).abs() < f64::EPSILON;
        match self {
            Self::Equal => is_equal,
            Self::NotEqual => !is_equal,
            Self::Less => seen < wanted,
            Self::LessOrEqual => seen <= wanted,
            Self::Greater => seen > wanted,
            Self::GreaterOrEqual => seen >= wanted,
        }
    }
}

/// The text is no budget.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// There is no comparison in it.
    #[error("it has no comparison; write for example 'failed==0'")]
    NoOperator,
    /// The metric is unknown.
    #[error(
        "`{0}` is no metric; there are failed, rate, requests, ok, reset, replayed, unsent, killed, avg, min, max, med, p(N) and the failure classes"
    )]
    UnknownMetric(String),
    /// The percentile is not in (0, 100].
    #[error("`{0}` is no percentile; write for example p(99)")]
    BadPercentile(String),
    /// The value cannot be read.
    #[error("`{0}` is no {1}")]
    BadValue(String, &'static str),
}

impl FromStr for Budget {
    type Err = BudgetError;

    fn from_str(text: &str) -> Result<Self, BudgetError> {
        let text = text.trim();
        let (at, spelling, operator) = Operator::SPELLINGS
            .into_iter()
            .filter_map(|(spelling, operator)| text.find(spelling).map(|at| (at, spelling, operator)))
            .min_by_key(|(at, spelling, _)| (*at, usize::MAX - spelling.len()))
            .ok_or(BudgetError::NoOperator)?;
        let (left, right) = (text[..at].trim(), text[at + spelling.len()..].trim());
        let (scope, metric) = match left.split_once('.') {
            // The dot of `p(99.9)` separates nothing.
            Some((scope, metric)) if !scope.contains('(') => (Some(scope.trim().to_owned()), metric.trim()),
            _ => (None, left),
        };
        let metric = parse_metric(metric)?;
        let value = parse_value(right, metric)?;
        Ok(Self { scope, metric, operator, value, text: text.to_owned() })
    }
}

fn parse_metric(text: &str) -> Result<Metric, BudgetError> {
    if let Some(inner) = text.strip_prefix("p(").and_then(|rest| rest.strip_suffix(')')) {
        return match inner.trim().parse::<f64>() {
            Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(Metric::Percentile(percent)),
            _ => Err(BudgetError::BadPercentile(text.to_owned())),
        };
    }
    match text {
        "failed" => Ok(Metric::Failed),
        "requests" => Ok(Metric::Requests),
        "ok" => Ok(Metric::Ok),
        "reset" => Ok(Metric::Reset),
        "replayed" => Ok(Metric::Replayed),
        "unsent" => Ok(Metric::Unsent),
        "rate" => Ok(Metric::Rate),
        "killed" => Ok(Metric::Killed),
        "max" => Ok(Metric::Max),
        "min" => Ok(Metric::Min),
        "avg" => Ok(Metric::Average),
        "med" => Ok(Metric::Percentile(50.0)),
        class => class.parse().map(Metric::Class).map_err(|_| BudgetError::UnknownMetric(class.to_owned())),
    }
}

fn parse_value(text: &str, metric: Metric) -> Result<f64, BudgetError> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    if metric.is_latency() {
        number
            .or_else(|| humantime::parse_duration(text).ok().map(crate::model::clock::milliseconds))
            .or_else(|| fractional_duration(text))
            .ok_or_else(|| BudgetError::BadValue(text.to_owned(), "duration; write for example 250ms"))
    } else if metric == Metric::Rate {
        let percent = text.strip_suffix('%').and_then(|percent| percent.trim().parse::<f64>().ok());
        let share = percent.map_or(number, |percent| Some(percent / 100.0));
        share
            .filter(|share| (0.0..=1.0).contains(share))
            .ok_or_else(|| BudgetError::BadValue(text.to_owned(), "share; write for example 0.1% or 0.001"))
    } else {
        number.ok_or_else(|| BudgetError::BadValue(text.to_owned(), "number"))
    }
}

/// `1.5s` and `0.5ms`, which humantime does not read.
fn fractional_duration(text: &str) -> Option<f64> {
    let (number, factor) = match text.strip_suffix("ms") {
        Some(number) => (number, 1.0),
        None => (text.strip_suffix('s')?, 1e3),
    };
    number.trim().parse::<f64>().ok().filter(|number| *number >= 0.0).map(|number| number * factor)
}

impl fmt::Display for Budget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl TryFrom<String> for Budget {
    type Error = BudgetError;

    fn try_from(text: String) -> Result<Self, BudgetError> {
        text.parse()
    }
}

impl From<Budget> for String {
    fn from(budget: Budget) -> Self {
        budget.text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Budget, BudgetError> {
        text.parse()
    }

    #[test]
    fn the_documented_forms_are_read() {
        let budget = parse("failed==0").unwrap();
        assert_eq!((budget.scope, budget.metric, budget.operator), (None, Metric::Failed, Operator::Equal));
        let budget = parse(" p(99.9) < 250ms ").unwrap();
        assert_eq!((budget.metric, budget.value), (Metric::Percentile(99.9), 250.0));
        assert_eq!((budget.scope, budget.operator), (None, Operator::Less));
        let budget = parse("fresh.empty_reply<=3").unwrap();
        assert_eq!(budget.scope.as_deref(), Some("fresh"));
        assert_eq!(budget.metric, Metric::Class(FailureClass::EmptyReply));
        assert_eq!(budget.operator, Operator::LessOrEqual);
        let budget = parse("slow.p(99.5)<1.5s").unwrap();
        assert_eq!((budget.scope.as_deref(), budget.value), (Some("slow"), 1500.0));
    }

    #[test]
    fn what_is_no_budget_says_why() {
        assert_eq!(parse("failed"), Err(BudgetError::NoOperator));
        assert_eq!(parse("faild==0"), Err(BudgetError::UnknownMetric("faild".into())));
        assert_eq!(parse("p(0)<1ms"), Err(BudgetError::BadPercentile("p(0)".into())));
        assert_eq!(parse("p(101)<1ms"), Err(BudgetError::BadPercentile("p(101)".into())));
        assert!(matches!(parse("failed==none"), Err(BudgetError::BadValue(..))));
        assert!(matches!(parse("failed==-1"), Err(BudgetError::BadValue(..))));
        assert!(matches!(parse("failed==NaN"), Err(BudgetError::BadValue(..))));
        assert!(matches!(parse("p(50)<5 parsecs"), Err(BudgetError::BadValue(..))));
    }

    #[test]
    fn failures_are_counted_by_the_metrics_that_name_them() {
        let counted = |metric: &str| {
            let budget = parse(&format!("{metric}==0")).unwrap();
            FailureClass::ALL.into_iter().filter(|class| budget.metric.counts(*class)).count()
        };
        assert_eq!(
            ["failed", "reset", "refused", "harness_resource", "requests", "replayed", "max"].map(counted),
            [10, 2, 1, 1, 0, 0, 0]
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn a_budget_reads_back_from_its_own_text(
            scope in proptest::option::of("[a-z]{1,8}"),
            metric in proptest::sample::select(vec!["failed", "ok", "refused", "reset", "p(99)", "max"]),
            operator in proptest::sample::select(vec!["==", "!=", "<", "<=", ">", ">="]),
            value in 0u32..1_000_000,
        ) {
            let scope = scope.map(|scope| format!("{scope}.")).unwrap_or_default();
            let budget = parse(&format!("{scope}{metric}{operator}{value}")).unwrap();
            prop_assert_eq!(parse(&budget.to_string()).unwrap(), budget);
        }

        #[test]
        fn an_operator_and_its_opposite_never_both_hold(seen in 0u32..10, wanted in 0u32..10) {
            let (seen, wanted) = (f64::from(seen), f64::from(wanted));
            prop_assert_ne!(Operator::Equal.holds(seen, wanted), Operator::NotEqual.holds(seen, wanted));
            prop_assert_ne!(Operator::Less.holds(seen, wanted), Operator::GreaterOrEqual.holds(seen, wanted));
            prop_assert_ne!(Operator::Greater.holds(seen, wanted), Operator::LessOrEqual.holds(seen, wanted));
        }
    }
}
