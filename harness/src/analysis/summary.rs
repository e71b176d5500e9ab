//! From a recording to numbers. Pure.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::analysis::confidence::upper_bound;
use crate::model::budget::{Budget, Metric};
use crate::model::cohort::CohortKind;
use crate::model::failure::ByClass;
use crate::model::failure::FailureClass;
use crate::model::phase::Phase;
use crate::model::tally::Tally;
use crate::record::recording::{CohortRecord, Recording};

/// Latencies in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Latency {
    /// The median.
    pub p50: f64,
    /// Nine of ten are at most this.
    pub p90: f64,
    /// 99 of 100 are.
    pub p99: f64,
    /// 999 of 1,000 are.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

/// Counts of a cohort, a phase, or everything.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Counts {
    /// Requests whose end was seen.
    pub requests: u64,
    /// Those that were answered as expected.
    pub ok: u64,
    /// Those that failed; the harness's own interference is not among them.
    pub failed: u64,
    /// Failures by class, interference included.
    #[cfg_attr(test, schemars(extend("propertyNames" = serde_json::json!({"enum": FailureClass::ALL}))))]
    pub by_class: ByClass,
}

/// One cohort in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct CohortSummary {
    /// Its name.
    pub name: String,
    /// Its counts.
    #[serde(flatten)]
    pub counts: Counts,
    /// From the scheduled start.
    pub latency: Latency,
    /// From the actual start.
    pub service_time: Latency,
    /// Connections that were established.
    pub connections_opened: u64,
    /// Requests that the client's pool repeated on its own, and so hid; none where it cannot.
    pub replayed: Option<u64>,
    /// Requests that were never written, since their kept connection was found closed; they went to another one. None where
    /// the client cannot see it.
    #[serde(default)]
    pub unsent: Option<u64>,
    /// Connections that the server closed while they were idle; none where the client cannot see it.
    pub closed_idle: Option<u64>,
    /// Requests that were cut off by the end of the run, neither answered nor failed.
    pub abandoned: u64,
    /// Requests that waited because the cohort's concurrency was used up.
    pub waited: u64,
    /// How late the generator was, at the 99th percentile, in milliseconds.
    pub lateness_p99_ms: f64,
    /// The 95 % upper bound of the failures, per million requests.
    pub upper_bound_per_million: Option<f64>,
}

/// One phase in numbers, over all cohorts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct PhaseSummary {
    /// Which.
    pub phase: Phase,
    /// Its counts.
    #[serde(flatten)]
    pub counts: Counts,
    /// From the scheduled start, of cohorts that are not slow on purpose.
    pub latency: Latency,
    /// The 95 % upper bound of the failures, per million requests.
    pub upper_bound_per_million: Option<f64>,
}

/// How many restarts lost something. Failures come in bursts, one restart loses many or none, so this says more of the
/// next restart than a bound per request, which takes requests for independent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct LossyRestarts {
    /// Restarts that were completed, or lost something.
    pub restarts: u64,
    /// Those of them in which a request failed.
    pub lossy: u64,
    /// The 95 % upper bound of the share of restarts that lose something, from 0 to 1; none without a restart.
    pub upper_bound: Option<f64>,
}

/// A run in numbers.
#[derive(Debug)]
pub struct Summary {
    /// Everything together.
    pub totals: Counts,
    /// By cohort, in the scenario's order.
    pub cohorts: Vec<CohortSummary>,
    /// By phase; phases in which nothing ended are left out.
    pub phases: Vec<PhaseSummary>,
    /// How many restarts lost something.
    pub lossy_restarts: LossyRestarts,
    killed: Option<u64>,
    /// Everything together; as for the phases, without the latencies of cohorts that are slow on purpose.
    all: Tally,
    by_cohort: Vec<(String, Tally)>,
    by_phase: Vec<(Phase, Tally)>,
}

impl Summary {
    /// The numbers of a recording.
    #[must_use]
    pub fn of(recording: &Recording) -> Self {
        let by_cohort: Vec<(String, Tally)> = recording
            .cohorts
            .iter()
            .map(|cohort| (cohort.name.to_owned(), sum(cohort.phases.iter())))
            .collect();
        let by_phase: Vec<(Phase, Tally)> = Phase::ALL
            .into_iter()
            .map(|phase| {
                let tallies =
                    recording.cohorts.iter().map(|cohort| (cohort.name, &cohort.phases[phase.index()]));
                (phase, sum_of_cohorts(tallies))
            })
            .collect();
        let all = sum_of_cohorts(by_cohort.iter().map(|(name, tally)| (name.as_str(), tally)));
        let killed = recording.restarts.iter().filter(|restart| restart.killed).count() as u64;
        Self {
            totals: counts(&all),
            cohorts: recording
                .cohorts
                .iter()
                .zip(&by_cohort)
                .map(|(record, (_, tally))| cohort(record, tally))
                .collect(),
            phases: by_phase
                .iter()
                .filter(|(_, tally)| tally.requests > 0)
                .map(|(phase, tally)| PhaseSummary {
                    phase: *phase,
                    counts: counts(tally),
                    latency: latency(&tally.latency),
                    upper_bound_per_million: per_million(tally),
                })
                .collect(),
            lossy_restarts: lossy_restarts(recording),
            killed: (!recording.restarts.is_empty()).then_some(killed),
            all,
            by_cohort,
            by_phase,
        }
    }

    /// What the clients of one cohort, or of all that can see it, counted; none if none of them can.
    fn counted(&self, scope: Option<&str>, count: impl Fn(&CohortSummary) -> Option<u64>) -> Option<f64> {
        let cohorts = self.cohorts.iter().filter(|cohort| scope.is_none_or(|name| cohort.name == name));
        let seen: Vec<u64> = cohorts.filter_map(count).collect();
        (!seen.is_empty()).then(|| seen.iter().sum::<u64>() as f64)
    }

    /// What a budget's metric amounts to in this run: a count, or milliseconds. None if the run has nothing to measure
    /// it by: no such scope, no request whose failures could be counted, a latency of nothing.
    #[must_use]
    pub fn measure(&self, budget: &Budget) -> Option<f64> {
        let tally = match budget.scope.as_deref() {
            None => &self.all,
            Some(scope) => {
                self.by_cohort.iter().find(|(name, _)| name == scope).map(|(_, tally)| tally).or_else(
                    || self.by_phase.iter().find(|(phase, _)| phase.name() == scope).map(|(_, tally)| tally),
                )?
            }
        };
        match budget.metric {
            Metric::Requests => return Some(tally.requests as f64),
            Metric::Killed => return self.killed.map(|killed| killed as f64),
            _ if tally.requests == 0 => return None,
            Metric::Replayed => return self.counted(budget.scope.as_deref(), |cohort| cohort.replayed),
            Metric::Unsent => return self.counted(budget.scope.as_deref(), |cohort| cohort.unsent),
            _ => {}
        }
        let milliseconds = |microseconds: u64| microseconds as f64 / 1e3;
        let has_latency = !tally.latency.is_empty();
        Some(match budget.metric {
            Metric::Failed => tally.failures() as f64,
            Metric::Ok => tally.ok() as f64,
            Metric::Class(class) => tally.of(class) as f64,
            Metric::Reset => resets(tally) as f64,
            Metric::Percentile(percent) if has_latency => {
                milliseconds(tally.latency.value_at_quantile(percent / 100.0))
            }
            Metric::Max if has_latency => milliseconds(tally.latency.max()),
            Metric::Min if has_latency => milliseconds(tally.latency.min()),
            Metric::Average if has_latency => tally.latency.mean() / 1e3,
            Metric::Rate => tally.failures() as f64 / (tally.ok() + tally.failures()).max(1) as f64,
            _ => return None,
        })
    }
}

/// Both kinds of reset.
#[must_use]
pub const fn resets(tally: &Tally) -> u64 {
    tally.of(FailureClass::ResetBeforeResponse) + tally.of(FailureClass::ResetMidResponse)
}

/// The counts of a tally.
#[must_use]
pub fn counts(tally: &Tally) -> Counts {
    let by_class =
        FailureClass::ALL.into_iter().map(|class| (class, tally.of(class))).filter(|(_, n)| *n > 0);
    Counts {
        requests: tally.requests,
        ok: tally.ok(),
        failed: tally.failures(),
        by_class: by_class.collect(),
    }
}

/// The percentiles of a histogram of microseconds, in milliseconds.
#[must_use]
pub fn latency(microseconds: &Histogram<u64>) -> Latency {
    let at = |quantile| microseconds.value_at_quantile(quantile) as f64 / 1e3;
    if microseconds.is_empty() {
        return Latency::default();
    }
    Latency {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: microseconds.max() as f64 / 1e3,
    }
}

fn cohort(record: &CohortRecord, tally: &Tally) -> CohortSummary {
    CohortSummary {
        name: record.name.to_owned(),
        counts: counts(tally),
        latency: latency(&tally.latency),
        service_time: latency(&record.service),
        connections_opened: record.totals.client.connections,
        replayed: record.totals.client.replayed,
        unsent: record.totals.client.unsent,
        closed_idle: record.totals.client.closed_idle,
        abandoned: record.totals.sent.saturating_sub(tally.requests),
        waited: record.waited,
        lateness_p99_ms: latency(&record.lateness).p99,
        upper_bound_per_million: per_million(tally),
    }
}

/// The 95 % upper bound of a tally's failures, per million requests; the harness's own interference tried nothing.
#[must_use]
pub fn per_million(tally: &Tally) -> Option<f64> {
    upper_bound(tally.failures(), tally.ok() + tally.failures()).map(|bound| bound * 1e6)
}

fn lossy_restarts(recording: &Recording) -> LossyRestarts {
    let (mut restarts, mut lossy) = (0, 0);
    for restart in &recording.restarts {
        let is_lossy = restart.tally.failures() > 0;
        restarts += u64::from(restart.answered.is_some() || is_lossy);
        lossy += u64::from(is_lossy);
    }
    LossyRestarts { restarts, lossy, upper_bound: upper_bound(lossy, restarts) }
}

/// Everything of some cohorts, each with its name, but for the latencies of those that are slow on purpose.
fn sum_of_cohorts<'a>(tallies: impl Iterator<Item = (&'a str, &'a Tally)>) -> Tally {
    let mut total = Tally::new(3);
    for (name, tally) in tallies {
        if CohortKind::named(name).is_some_and(CohortKind::is_long) {
            total.add_counts(tally);
        } else {
            total.add(tally);
        }
    }
    total
}

fn sum<'a>(tallies: impl Iterator<Item = &'a Tally>) -> Tally {
    let mut total = Tally::new(3);
    tallies.for_each(|tally| total.add(tally));
    total
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::clock::RunTime;
    use crate::model::observation::{ClientTotals, CohortTotals};
    use crate::model::restart::Restart;

    /// Two cohorts: `fresh` answered 98 in steady and lost 2 while draining, `slow` answered one.
    pub(crate) fn recording() -> Recording {
        let cohort = |name, sent| CohortRecord {
            totals: CohortTotals {
                sent,
                client: ClientTotals {
                    connections: sent,
                    replayed: Some(3),
                    unsent: None,
                    closed_idle: None,
                    unverified: None,
                },
            },
            ..CohortRecord::new(name)
        };
        let (mut fresh, mut slow) = (cohort("fresh", 101), cohort("slow", 1));
        for ms in 1..=98 {
            fresh.phases[Phase::Steady.index()].answered(Duration::from_millis(ms));
        }
        fresh.phases[Phase::Draining.index()].failed(FailureClass::Refused);
        fresh.phases[Phase::Draining.index()].failed(FailureClass::ResetBeforeResponse);
        slow.phases[Phase::Draining.index()].answered(Duration::from_secs(3));
        Recording { cohorts: vec![fresh, slow], ..Recording::new() }
    }

    fn measure(budget: &str) -> Option<f64> {
        Summary::of(&recording()).measure(&budget.parse().unwrap())
    }

    #[test]
    fn cohorts_and_phases_add_up_to_the_totals() {
        let summary = Summary::of(&recording());
        assert_eq!((summary.totals.requests, summary.totals.ok, summary.totals.failed), (101, 99, 2));
        assert_eq!(summary.cohorts[0].abandoned, 1, "101 sent, 100 seen");
        let by_cohort: u64 = summary.cohorts.iter().map(|cohort| cohort.counts.requests).sum();
        let by_phase: u64 = summary.phases.iter().map(|phase| phase.counts.requests).sum();
        assert_eq!((by_cohort, by_phase), (101, 101));
        assert_eq!(summary.phases.len(), 2, "phases in which nothing ended are left out");
    }

    #[test]
    fn budgets_are_measured_over_their_scope() {
        assert_eq!(measure("failed==0"), Some(2.0));
        assert_eq!(measure("slow.failed==0"), Some(0.0));
        assert_eq!(measure("draining.refused==0"), Some(1.0));
        assert_eq!(measure("steady.refused==0"), Some(0.0));
        assert_eq!(measure("reset==0"), Some(1.0));
        assert_eq!(measure("requests>0"), Some(101.0));
        let median = measure("fresh.med<1s").unwrap();
        assert!((median - 49.0).abs() < 1.0, "{median}");
        assert_eq!(measure("fresh.replayed==0"), Some(3.0));
        assert_eq!(measure("gap.max<1s"), None, "nothing was answered in the gap");
    }

    #[test]
    fn latencies_of_requests_that_are_slow_on_purpose_count_for_their_own_cohort_only() {
        assert!((measure("slow.max<1s").unwrap() - 3000.0).abs() < 3.0);
        assert!((measure("max<1s").unwrap() - 98.0).abs() < 1.0);
        assert_eq!(measure("draining.max<1s"), None, "nothing but a slow one was answered");
        let draining = &Summary::of(&recording()).phases[1];
        assert_eq!((draining.counts.ok, draining.latency), (1, Latency::default()));
    }

    #[test]
    fn budget_over_no_requests_measures_nothing() {
        assert_eq!(measure("gap.failed==0"), None);
        assert_eq!(measure("gap.ok==0"), None);
        assert_eq!(measure("gap.requests>0"), Some(0.0));
    }

    /// A restart in which `failed` requests were refused.
    fn restart(failed: usize, is_killed: bool) -> Restart {
        let at = RunTime::from_nanoseconds(1);
        let mut tally = Tally::new(2);
        (0..failed).for_each(|_| tally.failed(FailureClass::Refused));
        tally.failed(FailureClass::HarnessResource);
        Restart {
            replica: "a".into(),
            successor: crate::model::restart::Successor::Itself,
            withdrawn: None,
            round: 1,
            began: at,
            stop_requested: Some(at),
            exited: Some(at),
            started: Some(at),
            ready: Some(at),
            answered: Some(at),
            exit_code: Some(0),
            killed: is_killed,
            tally,
            account: serde_json::Map::new(),
        }
    }

    #[test]
    fn restarts_are_counted_as_they_come_whatever_number_of_requests_each_lost() {
        let none = recording();
        assert_eq!(Summary::of(&none).measure(&"killed==0".parse().unwrap()), None, "nothing was restarted");
        let mut some = recording();
        some.restarts = vec![restart(7, false), restart(0, true), restart(0, false)];
        let summary = Summary::of(&some);
        assert_eq!(summary.measure(&"killed==0".parse().unwrap()), Some(1.0));
        let lossy = summary.lossy_restarts;
        assert_eq!((lossy.restarts, lossy.lossy), (3, 1));
        some.restarts[0] = restart(0, false);
        let bound = Summary::of(&some).lossy_restarts.upper_bound.unwrap();
        assert!((bound - (1.0 - 0.05_f64.powf(1.0 / 3.0))).abs() < 1e-9, "{bound}");
    }

    #[test]
    fn shortages_of_the_harness_are_no_trials() {
        let mut tally = Tally::new(3);
        (0..10).for_each(|_| tally.answered(Duration::from_millis(1)));
        let before = per_million(&tally);
        (0..1000).for_each(|_| tally.failed(FailureClass::HarnessResource));
        assert_eq!(per_million(&tally), before);
    }
}
