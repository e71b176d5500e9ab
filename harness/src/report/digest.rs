//! What more than one sink says of a report, each said in one way: which restarts are worth showing, how a restart went
//! on average, failures in words, what a budget saw.

use std::cmp::Reverse;

use crate::analysis::report::{Report, RestartSummary};
use crate::analysis::verdict::BudgetResult;
use crate::model::failure::ByClass;
use crate::model::failure::FailureClass;
use crate::model::phase::Phase;
use crate::report::text::{clipped, count, counted, rounded, short_ms};

const NAME_LENGTH: usize = 40;

/// A cohort that sent less than this share of what was planned says so.
const KEPT_UP: f64 = 0.95;
/// Of fewer requests than this a share says nothing.
const LEAST_PLANNED: f64 = 100.0;

/// The cohorts that sent less than planned, a sentence each: their latencies grow with the length of the run.
#[must_use]
pub fn behind_schedule(report: &Report) -> Vec<String> {
    let seconds = report.run.load_ms / 1e3;
    let planned = report.scenario.cohorts.iter();
    let behind = planned.filter_map(|plan| {
        let sent = report.cohorts.iter().find(|cohort| cohort.name == plan.name)?.counts.requests as f64;
        let due = plan.rate * seconds;
        (due >= LEAST_PLANNED && sent < KEPT_UP * due).then(|| {
            format!(
                "{}: {} requests a second instead of {}, with {} in flight at most; its latencies count from the scheduled \
                 start",
                clipped(&plan.name, NAME_LENGTH),
                rounded(sent / seconds),
                rounded(plan.rate),
                plan.concurrency
            )
        })
    });
    behind.collect()
}

/// Failures as people count them. Resets are neither "refused" nor "empty reply", and are easily overlooked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ends {
    /// Nobody listened.
    pub refused: u64,
    /// Closed before any answer.
    pub empty: u64,
    /// Both kinds of reset.
    pub resets: u64,
    /// Every other failure; the harness's own interference is not.
    pub other: u64,
}

impl Ends {
    /// Those of these classes.
    #[must_use]
    pub fn of(by_class: &ByClass) -> Self {
        let mut ends = Self::default();
        for (class, failed) in by_class.iter().filter(|(class, _)| class.is_servers()) {
            *match class {
                FailureClass::Refused => &mut ends.refused,
                FailureClass::EmptyReply => &mut ends.empty,
                FailureClass::ResetBeforeResponse | FailureClass::ResetMidResponse => &mut ends.resets,
                _ => &mut ends.other,
            } += failed;
        }
        ends
    }
}

/// Up to `most` restarts with their positions, in the order of time, those that lost something or did not come back
/// before the others; and how many are left out.
#[must_use]
pub fn restarts(report: &Report, most: usize) -> (Vec<(usize, &RestartSummary)>, u64) {
    let mut shown: Vec<(usize, &RestartSummary)> = report.restarts.iter().enumerate().collect();
    shown.sort_by_key(|(index, restart)| (!is_notable(restart), *index));
    let left_out = shown.len().saturating_sub(most) as u64;
    shown.truncate(most);
    shown.sort_by_key(|(index, _)| *index);
    (shown, left_out)
}

/// Whether a restart lost something, or did not come back.
#[must_use]
pub const fn is_notable(restart: &RestartSummary) -> bool {
    restart.counts.failed > 0 || !restart.is_complete
}

/// How long each phase took on average, in milliseconds, where it was measured.
#[must_use]
pub fn mean_phases(report: &Report) -> Vec<(Phase, f64)> {
    let mean = |phase: Phase| {
        let times: Vec<f64> =
            report.restarts.iter().filter_map(|one| one.phases.get(&phase).copied()).collect();
        (!times.is_empty()).then(|| (phase, times.iter().sum::<f64>() / times.len() as f64))
    };
    Phase::ALL.into_iter().filter_map(mean).collect()
}

/// "604 refused, 14 empty replies": the most frequent first.
#[must_use]
pub fn classes(by_class: &ByClass) -> String {
    let mut classes: Vec<(FailureClass, u64)> =
        by_class.iter().map(|(class, failed)| (*class, *failed)).collect();
    classes.sort_by_key(|(_, failed)| Reverse(*failed));
    let parts: Vec<String> = classes.into_iter().map(|(class, failed)| classed(failed, class)).collect();
    parts.join(", ")
}

/// "1 refused", "2 empty replies".
#[must_use]
pub fn classed(failed: u64, class: FailureClass) -> String {
    match class {
        FailureClass::EmptyReply
        | FailureClass::ConnectTimeout
        | FailureClass::HttpError
        | FailureClass::WrongBody => counted(failed, class.label()),
        _ => format!("{} {}", count(failed), class.label()),
    }
}

/// What a budget saw: `12`, `250 ms`, `nothing to measure`.
#[must_use]
pub fn seen(result: &BudgetResult) -> String {
    match result.seen {
        None => "nothing to measure".to_owned(),
        Some(ms) if result.budget.metric.is_latency() => short_ms(ms),
        Some(number) => rounded(number),
    }
}

/// A bound per million requests, never rounded down: `189,623 ppm`.
#[must_use]
pub fn bound(per_million: Option<f64>) -> String {
    per_million.map_or_else(|| "–".to_owned(), |bound| format!("{} ppm", rounded(bound.ceil())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::scenario_info::CohortInfo;
    use crate::samples;

    #[test]
    fn cohort_that_sent_less_than_planned_says_so() {
        let told = |rate: f64, requests: u64| {
            let mut report = samples::report(&[]);
            report.run.load_ms = 10_000.0;
            report.cohorts[0].counts.requests = requests;
            let name = report.cohorts[0].name.clone();
            report.scenario.cohorts = vec![CohortInfo { name, rate, concurrency: 64, url: String::new() }];
            behind_schedule(&report)
        };
        let [sentence] = &told(2_000.0, 13_700)[..] else { panic!("there is one cohort") };
        assert!(
            sentence.starts_with("fresh: 1,370 requests a second instead of 2,000, with 64 in flight"),
            "{sentence}"
        );
        assert_eq!(told(2_000.0, 19_900), [""; 0], "as good as all");
        assert_eq!(told(5.0, 20), [""; 0], "too few to say");
    }

    #[test]
    fn failures_are_told_in_words() {
        let by_class = ByClass::from([
            (FailureClass::Refused, 1),
            (FailureClass::EmptyReply, 14),
            (FailureClass::ResetMidResponse, 2),
            (FailureClass::WrongBody, 3),
            (FailureClass::HarnessResource, 9),
        ]);
        assert_eq!(
            classes(&by_class),
            "14 empty replies, 9 harness out of resources, 3 wrong bodies, 2 reset in mid-response, 1 refused"
        );
        assert_eq!(Ends::of(&by_class), Ends { refused: 1, empty: 14, resets: 2, other: 3 });
        assert_eq!(bound(Some(189_622.1)), "189,623 ppm");
    }
}
