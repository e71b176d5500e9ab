//! Pass, fail, or inconclusive. Pure.
//!
//! A broken budget is a fail, whatever else is true of the run. A run whose budgets hold passes only if it could have
//! seen a failure; otherwise it is inconclusive and says why.

use serde::{Deserialize, Serialize};

use crate::budget::Budget;
use crate::failure::FailureClass;
use crate::recording::{CutShort, Recording};
use crate::summary::Summary;

/// A restart under fewer requests than this shows nothing.
const LEAST_PER_RESTART: u64 = 5;
/// A generator that is later than this at the 99th percentile does not keep its schedule.
pub(crate) const LATEST_MS: f64 = 100.0;

/// What a run says about its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every budget holds, and the run could have seen a failure.
    Pass,
    /// A budget is broken.
    Fail,
    /// The budgets hold, but the run could not have seen every failure.
    Inconclusive,
}

impl Verdict {
    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// One budget, held against the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BudgetResult {
    /// The budget.
    pub budget: Budget,
    /// What was seen: a count, or milliseconds; nothing if there was nothing to measure.
    pub seen: Option<f64>,
    /// Whether it holds; a latency of nothing does not.
    pub holds: bool,
}

/// The verdict with its reasons.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// Pass, fail or inconclusive.
    pub verdict: Verdict,
    /// Why, for people: the broken budgets, then what the run could not see.
    pub reasons: Vec<String>,
    /// Every budget with what was seen.
    pub budgets: Vec<BudgetResult>,
}

/// Judges a run of `restarts_asked` restarts by its budgets.
#[must_use]
pub fn judge(
    recording: &Recording,
    summary: &Summary,
    budgets: &[Budget],
    restarts_asked: usize,
) -> Judgement {
    let budgets: Vec<BudgetResult> = budgets
        .iter()
        .map(|budget| {
            let seen = summary.measure(budget);
            let holds = seen.is_some_and(|seen| budget.operator.holds(seen, budget.value));
            BudgetResult { budget: budget.clone(), seen, holds }
        })
        .collect();
    let broken: Vec<String> = budgets.iter().filter(|result| !result.holds).map(describe).collect();
    let blind = blind_spots(recording, summary, restarts_asked);
    let verdict = match (broken.is_empty(), blind.is_empty()) {
        (false, _) => Verdict::Fail,
        (true, false) => Verdict::Inconclusive,
        (true, true) => Verdict::Pass,
    };
    Judgement { verdict, reasons: [broken, blind].concat(), budgets }
}

fn describe(result: &BudgetResult) -> String {
    let unit = if result.budget.metric.is_latency() { " ms" } else { "" };
    match result.seen {
        Some(seen) => format!("budget {} is broken: {seen}{unit}", result.budget),
        None => format!("budget {} is broken: there was nothing to measure", result.budget),
    }
}

/// What the run could not have seen.
fn blind_spots(recording: &Recording, summary: &Summary, restarts_asked: usize) -> Vec<String> {
    let mut reasons = Vec::new();
    reasons.extend(recording.cut_short.as_ref().map(ToString::to_string));
    let done = recording.restarts.iter().filter(|restart| restart.answered.is_some()).count();
    if done < restarts_asked && recording.cut_short != Some(CutShort::FailureFound) {
        reasons.push(format!("only {done} of {restarts_asked} restarts were completed"));
    }
    let thin = recording.restarts.iter().filter(|restart| restart.tally.requests < LEAST_PER_RESTART).count();
    if thin > 0 {
        reasons.push(format!(
            "{thin} of {} restarts saw fewer than {LEAST_PER_RESTART} requests; raise --rate",
            recording.restarts.len()
        ));
    }
    for cohort in &summary.cohorts {
        let name = &cohort.name;
        if cohort.counts.requests == 0 {
            reasons.push(format!("cohort {name} saw no request to its end"));
        }
        if cohort.lateness_p99_ms > LATEST_MS {
            reasons.push(format!(
                "cohort {name} could not keep its schedule: {:.0} ms late at the 99th percentile; lower --rate or free \
                 the CPU",
                cohort.lateness_p99_ms
            ));
        }
        if let Some(count) = cohort.counts.by_class.get(&FailureClass::HarnessResource) {
            reasons.push(format!(
                "cohort {name}: the harness itself ran out of ports, descriptors or memory {count} times; lower --rate, \
                 or raise the limit that `hitless doctor` names"
            ));
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Moment;
    use crate::load::CohortTotals;
    use crate::recording::{CohortRecord, RestartRecord, Tally};

    fn at(ms: u64) -> Moment {
        Moment::from_nanoseconds(ms * 1_000_000)
    }

    /// One whole restart under 100 answered requests.
    fn clean() -> Recording {
        let mut phases: [Tally; 5] = std::array::from_fn(|_| Tally::new(3));
        let mut tally = Tally::new(2);
        for _ in 0..100 {
            phases[1].answered(Duration::from_millis(1));
            tally.answered(Duration::from_millis(1));
        }
        let restart = RestartRecord {
            replica: "a".into(),
            successor: None,
            round: 1,
            began: at(1),
            terminated: Some(at(1)),
            exited: Some(at(2)),
            started: Some(at(3)),
            ready: Some(at(4)),
            answered: Some(at(5)),
            exit_code: Some(0),
            killed: false,
            tally,
            account: serde_json::Map::new(),
        };
        let cohort = CohortRecord {
            name: "fresh",
            phases,
            totals: CohortTotals { sent: 100, ..CohortTotals::default() },
            lateness: hdrhistogram::Histogram::new(3).unwrap(),
            service: hdrhistogram::Histogram::new(3).unwrap(),
            waited: 0,
        };
        Recording { cohorts: vec![cohort], restarts: vec![restart], ..Recording::new(at(0)) }
    }

    fn verdict(recording: &Recording, budget: &str) -> Judgement {
        judge(recording, &Summary::of(recording), &[budget.parse().unwrap()], 1)
    }

    #[test]
    fn clean_run_passes_without_a_word() {
        let judgement = verdict(&clean(), "failed==0");
        assert_eq!(
            (judgement.verdict, judgement.reasons.len()),
            (Verdict::Pass, 0),
            "{:?}",
            judgement.reasons
        );
    }

    #[test]
    fn broken_budget_fails_even_if_the_run_was_interrupted() {
        let mut recording = clean();
        recording.cohorts[0].phases[1].failed(FailureClass::Refused);
        recording.cut_short = Some(CutShort::Interrupted);
        let judgement = verdict(&recording, "failed==0");
        assert_eq!(judgement.verdict, Verdict::Fail);
        assert_eq!(judgement.reasons, ["budget failed==0 is broken: 1", "the run was interrupted"]);
    }

    #[test]
    fn each_blind_spot_makes_a_clean_run_inconclusive() {
        type Spoil = fn(&mut Recording);
        let blind: [(&str, Spoil); 6] = [
            ("interrupted", |run| run.cut_short = Some(CutShort::Interrupted)),
            ("could not go on", |run| run.cut_short = Some(CutShort::RolloutFailed("a died".into()))),
            ("restarts were completed", |run| run.restarts[0].answered = None),
            ("saw fewer than", |run| run.restarts[0].tally = Tally::new(2)),
            ("could not keep its schedule", |run| run.cohorts[0].lateness.record_n(500_000, 10).unwrap()),
            ("ran out of ports", |run| run.cohorts[0].phases[1].failed(FailureClass::HarnessResource)),
        ];
        for (expected, spoil) in blind {
            let mut recording = clean();
            spoil(&mut recording);
            let judgement = verdict(&recording, "failed==0");
            assert_eq!(judgement.verdict, Verdict::Inconclusive, "{expected}");
            assert!(judgement.reasons[0].contains(expected), "{:?}", judgement.reasons);
        }
    }

    #[test]
    fn latency_of_nothing_breaks_its_budget() {
        let judgement = verdict(&clean(), "gap.p(99)<1s");
        assert_eq!(judgement.verdict, Verdict::Fail);
        assert_eq!(judgement.reasons, ["budget gap.p(99)<1s is broken: there was nothing to measure"]);
    }
}
