//! Pass, fail, or inconclusive. Pure.
//!
//! A broken budget is a fail, whatever else is true of the run, with these exceptions, which leave it inconclusive:
//!
//! - There was nothing to measure: no request in the budget's scope, no latency.
//! - The run was cut short, and more requests could still have met the budget.
//! - What the harness itself may have caused by being short of CPU. What a client is told (refused, reset, empty, truncated,
//!   an unexpected answer) stays a failure however busy the machine is. Silence is not told by anybody: a timeout of which
//!   the harness was stalled for a quarter counts as the harness's own interference. A latency budget whose excess the harness's
//!   stalls explain, or packets that the kernel dropped, cannot be judged.
//!
//! A run whose budgets hold passes only if it could have seen a failure; otherwise it is inconclusive and says why. A late
//! generator makes latencies longer, never shorter, and hides no failure as long as every phase sees its requests: what
//! counts is whether each cohort sent in each phase what was due in it.

use serde::{Deserialize, Serialize};

use self::blind_spots::blind_spots;
use crate::analysis::summary::Summary;
use crate::model::budget::Budget;
use crate::record::recording::Recording;

mod blind_spots;
mod budget_result;

pub use budget_result::BudgetResult;

/// What a run says about its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every budget holds, and the run could have seen a failure.
    Pass,
    /// A budget is broken.
    Fail,
    /// No budget is known to be broken, but the run could not have seen every failure.
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

/// The verdict with its reasons.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// Pass, fail or inconclusive.
    pub verdict: Verdict,
    /// Why, for people: the broken budgets, then what the run could not see.
    pub reasons: Vec<String>,
    /// Those of them that are no broken budget: what the run could not see.
    pub blind_spots: Vec<String>,
    /// Every budget with what was seen.
    pub budgets: Vec<BudgetResult>,
}

/// What a run was to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// How many replicas there are.
    pub replicas: usize,
    /// How often each was to be restarted.
    pub rounds: u32,
}

/// Judges a run by its budgets.
#[must_use]
pub fn judge(recording: &Recording, summary: &Summary, budgets: &[Budget], asked: Asked) -> Judgement {
    let budgets: Vec<BudgetResult> =
        budgets.iter().map(|budget| BudgetResult::of(budget, recording, summary)).collect();
    let blind_spots = blind_spots(recording, summary, asked);
    let verdict = if budgets.iter().any(BudgetResult::is_broken) {
        Verdict::Fail
    } else if budgets.iter().all(|result| result.holds) && blind_spots.is_empty() {
        Verdict::Pass
    } else {
        Verdict::Inconclusive
    };
    let told = budgets.iter().filter(|result| !result.holds).map(BudgetResult::describe);
    let reasons = told.chain(blind_spots.iter().cloned()).collect();
    Judgement { verdict, reasons, blind_spots, budgets }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cut_short::CutShort;
    use crate::model::failure::FailureClass;
    use crate::samples::recording;

    pub(super) fn verdict(recording: &Recording, budget: &str) -> Judgement {
        judge(
            recording,
            &Summary::of(recording),
            &[budget.parse().unwrap()],
            Asked { replicas: 1, rounds: 1 },
        )
    }

    #[test]
    fn clean_run_passes_without_a_word() {
        let judgement = verdict(&recording(), "failed==0");
        assert_eq!(
            (judgement.verdict, judgement.reasons.len()),
            (Verdict::Pass, 0),
            "{:?}",
            judgement.reasons
        );
    }

    #[test]
    fn broken_budget_fails_even_if_the_run_was_interrupted() {
        let mut recording = recording();
        recording.cohorts[0].phases[1].failed(FailureClass::Refused);
        recording.cut_short = Some(CutShort::Interrupted);
        let judgement = verdict(&recording, "failed==0");
        assert_eq!(judgement.verdict, Verdict::Fail);
        assert_eq!(judgement.reasons, ["budget failed==0 is broken: 1", "the run was interrupted"]);
    }

    #[test]
    fn what_cannot_be_measured_is_inconclusive() {
        for budget in ["gap.p(99)<1s", "gap.failed==0"] {
            let judgement = verdict(&recording(), budget);
            assert_eq!(judgement.verdict, Verdict::Inconclusive);
            assert_eq!(
                judgement.reasons,
                [format!("budget {budget} cannot be judged: there was nothing to measure")]
            );
        }
    }

    #[test]
    fn hunt_that_found_a_failure_is_a_fail_and_misses_no_restarts() {
        let mut recording = recording();
        recording.cohorts[0].phases[1].failed(FailureClass::Refused);
        recording.restarts[0].answered = None;
        recording.cut_short = Some(CutShort::FailureFound);
        let judgement = verdict(&recording, "failed==0");
        assert_eq!(judgement.verdict, Verdict::Fail);
        assert_eq!(
            judgement.reasons,
            ["budget failed==0 is broken: 1", "the first failure ended the run, as asked"]
        );
    }
}
