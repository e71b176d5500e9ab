//! One budget held against the run, and what excuses it. Pure.

use serde::{Deserialize, Serialize};

use crate::analysis::summary::Summary;
use crate::model::budget::{Budget, Metric};
use crate::record::recording::Recording;

/// What a dropped packet costs a new connection at least: the first retransmission's timeout (RFC 6298, section 2).
const RETRANSMISSION_MS: f64 = 1000.0;

/// One budget, held against the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct BudgetResult {
    /// The budget.
    pub budget: Budget,
    /// What was seen: a count, or milliseconds; nothing if there was nothing to measure.
    pub seen: Option<f64>,
    /// Whether it holds; one with nothing to measure does not.
    pub holds: bool,
    /// Why it may not be the server that broke it, if so: it says nothing then.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub excuse: Option<String>,
}

impl BudgetResult {
    /// Whether it is broken, and the server's fault.
    #[must_use]
    pub const fn is_broken(&self) -> bool {
        !self.holds && self.excuse.is_none()
    }

    /// Holds a budget against the run.
    pub(super) fn of(budget: &Budget, recording: &Recording, summary: &Summary) -> Self {
        let seen = summary.measure(budget);
        let holds = seen.is_some_and(|seen| budget.operator.holds(seen, budget.value));
        let excuse = if holds { None } else { excuse(recording, summary, budget, seen) };
        Self { budget: budget.clone(), seen, holds, excuse }
    }

    /// In words, one that does not hold.
    pub(super) fn describe(&self) -> String {
        let unit = if self.budget.metric.is_latency() { " ms" } else { "" };
        match (self.seen, &self.excuse) {
            (Some(seen), None) => format!("budget {} is broken: {seen}{unit}", self.budget),
            (Some(seen), Some(why)) => format!("budget {} is broken: {seen}{unit}; but {why}", self.budget),
            (None, _) => format!("budget {} cannot be judged: there was nothing to measure", self.budget),
        }
    }
}

/// Why a budget that does not hold may not be the server's fault, if there is a reason.
fn excuse(recording: &Recording, summary: &Summary, budget: &Budget, seen: Option<f64>) -> Option<String> {
    let Some(seen) = seen else { return Some("there was nothing to measure".to_owned()) };
    let share = match budget.metric {
        Metric::Percentile(percent) => 1.0 - percent / 100.0,
        Metric::Max => 0.0,
        // Counts only grow: what is too little may have become enough.
        _ if recording.cut_short.is_some() && seen < budget.value => {
            return Some("the run was cut short, and the harness cannot tell".to_owned());
        }
        _ => return None,
    };
    if have_drops_delayed(recording, summary, share, seen) {
        return Some("the kernel dropped packets, and the harness cannot tell".to_owned());
    }
    have_stalls_delayed(recording, share, seen - budget.value).then(|| {
        let longest = recording.stalls.longest.as_millis();
        format!("the harness itself was stalled, up to {longest} ms at a time, and cannot tell")
    })
}

/// Whether packets that the kernel dropped may explain a latency: it is as long as a new connection takes that has lost
/// one, and as many were dropped as the budget looks at requests.
fn have_drops_delayed(recording: &Recording, summary: &Summary, share: f64, seen: f64) -> bool {
    let packets = recording.drops.packets;
    packets > 0 && seen >= RETRANSMISSION_MS && packets as f64 >= share * summary.totals.requests as f64
}

/// Whether the harness's own stalls may explain a latency: the longest was as long as what is too much, and all of them
/// took at least the share of the run that the budget looks at.
fn have_stalls_delayed(recording: &Recording, share: f64, excess_ms: f64) -> bool {
    let (Some(began), Some(ended)) = (recording.load_began, recording.load_ended) else { return false };
    let stalls = &recording.stalls;
    !stalls.total.is_zero()
        && stalls.total.as_secs_f64() >= share * ended.since(began).as_secs_f64()
        && stalls.longest.as_secs_f64() * 1e3 >= excess_ms
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::analysis::verdict::tests::verdict;
    use crate::analysis::verdict::{Judgement, Verdict};
    use crate::model::cut_short::CutShort;
    use crate::samples::{at, recording};

    #[test]
    fn too_few_requests_fail_a_whole_run_and_leave_a_cut_one_inconclusive() {
        let mut recording = recording();
        assert_eq!(verdict(&recording, "requests>=1000").verdict, Verdict::Fail);
        recording.cut_short = Some(CutShort::Interrupted);
        let judgement = verdict(&recording, "requests>=1000");
        assert_eq!(judgement.verdict, Verdict::Inconclusive);
        assert!(judgement.reasons[0].contains("cut short"), "{:?}", judgement.reasons);
        assert_eq!(verdict(&recording, "requests<50").verdict, Verdict::Fail, "more would not help");
        assert_eq!(verdict(&recording, "p(99)<0.1ms").verdict, Verdict::Fail, "what was seen was seen");
    }

    /// The sample with one answer after `latency` and so many dropped packets.
    fn dropped(latency: u64, packets: u64, budget: &str) -> Verdict {
        let mut recording = recording();
        recording.cohorts[0].phases[1].answered(Duration::from_millis(latency));
        recording.drops.add(at(100), at(125), packets);
        verdict(&recording, budget).verdict
    }

    #[test]
    fn dropped_packets_explain_only_what_a_retransmission_takes_and_as_many_as_they_are() {
        assert_eq!(dropped(1100, 1, "max<250ms"), Verdict::Inconclusive);
        assert_eq!(dropped(900, 1, "max<250ms"), Verdict::Fail, "too short for a retransmission");
        assert_eq!(dropped(1100, 1, "p(99.5)<250ms"), Verdict::Inconclusive);
        assert_eq!(dropped(1100, 1, "p(90)<0.5ms"), Verdict::Fail, "one packet does not delay one in ten");
    }

    /// The sample over a second, all of its requests answered after `latency`, the harness stalled for `stall` at once.
    fn stalled(latency: u64, stall: i64, budget: &str) -> Verdict {
        judged(latency, stall, budget).verdict
    }

    fn judged(latency: u64, stall: i64, budget: &str) -> Judgement {
        let mut recording = recording();
        (recording.load_began, recording.load_ended) = (Some(at(0)), Some(at(1000)));
        for _ in 0..10 {
            recording.cohorts[0].phases[1].answered(Duration::from_millis(latency));
        }
        if stall > 0 {
            recording.stalls.add(at(500), at(500 + stall));
        }
        verdict(&recording, budget)
    }

    #[test]
    fn excuse_stands_beside_its_budget_and_is_no_blind_spot() {
        let judgement = judged(300, 100, "p(95)<250ms");
        assert!(judgement.budgets[0].excuse.is_some() && !judgement.budgets[0].is_broken());
        assert!(
            judgement.reasons[0].contains("; but the harness itself was stalled"),
            "{:?}",
            judgement.reasons
        );
        assert_eq!(judgement.blind_spots, [""; 0]);
        assert!(judged(300, 0, "p(95)<250ms").budgets[0].is_broken());
    }

    #[test]
    fn latency_that_stalls_of_the_harness_explain_is_inconclusive() {
        assert_eq!(stalled(300, 100, "p(95)<250ms"), Verdict::Inconclusive);
        assert_eq!(stalled(300, 0, "p(95)<250ms"), Verdict::Fail);
        assert_eq!(
            stalled(300, 40, "p(95)<250ms"),
            Verdict::Fail,
            "too short for what is too much, and too rare"
        );
        assert_eq!(stalled(900, 100, "p(95)<250ms"), Verdict::Fail, "too short for what is too much");
        assert_eq!(stalled(300, 100, "requests==0"), Verdict::Fail, "stalls change no counts");
    }
}
