//! Pass, fail, or inconclusive. Pure.
//!
//! A broken budget is a fail, whatever else is true of the run, with these exceptions, which leave it inconclusive:
//!
//! - There was nothing to measure: no request in the budget's scope, no latency.
//! - The run was cut short, and more requests could still have met the budget.
//! - What the harness itself may have caused by being short of CPU. What a client is told (refused, reset, empty, truncated,
//!   an unexpected answer) stays a failure however busy the machine is. Silence is not told by anybody: a timeout of which
//!   the harness was stalled for a quarter counts as the harness's own shortage. A latency budget whose excess the harness's
//!   stalls explain, or packets that the kernel dropped, cannot be judged.
//!
//! A run whose budgets hold passes only if it could have seen a failure; otherwise it is inconclusive and says why. A late
//! generator makes latencies longer, never shorter, and hides no failure as long as every phase sees its requests: what
//! counts is whether each cohort sent in each phase what was due in it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::budget::{Budget, Metric};
use crate::failure::FailureClass;
use crate::lives::lives;
use crate::phase::Phase;
use crate::recording::{CohortRecord, CutShort, Recording, RestartRecord};
use crate::summary::Summary;

/// A restart under fewer requests than this shows nothing.
const LEAST_PER_RESTART: u64 = 5;
/// Latencies of a generator that is later than this at the 99th percentile are not those of the server.
pub(crate) const LATEST_MS: f64 = 100.0;
/// A phase in which fewer requests than this were due says nothing of the generator.
const LEAST_DUE: u64 = 10;
/// A phase that is shorter than this in all its occurrences need not see a request.
const SHORTEST_PHASE: Duration = Duration::from_millis(10);
/// What a dropped packet costs a new connection at least: the first retransmission's timeout (RFC 6298, section 2).
const RETRANSMISSION_MS: f64 = 1000.0;

/// What a run says about its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

/// One budget, held against the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
        budgets.iter().map(|budget| held_against(recording, summary, budget)).collect();
    let blind_spots = blind_spots(recording, summary, asked);
    let verdict = if budgets.iter().any(BudgetResult::is_broken) {
        Verdict::Fail
    } else if budgets.iter().all(|result| result.holds) && blind_spots.is_empty() {
        Verdict::Pass
    } else {
        Verdict::Inconclusive
    };
    let told = budgets.iter().filter(|result| !result.holds).map(describe);
    let reasons = told.chain(blind_spots.iter().cloned()).collect();
    Judgement { verdict, reasons, blind_spots, budgets }
}

fn held_against(recording: &Recording, summary: &Summary, budget: &Budget) -> BudgetResult {
    let seen = summary.measure(budget);
    let holds = seen.is_some_and(|seen| budget.operator.holds(seen, budget.value));
    let excuse = if holds { None } else { excuse(recording, summary, budget, seen) };
    BudgetResult { budget: budget.clone(), seen, holds, excuse }
}

fn describe(result: &BudgetResult) -> String {
    let unit = if result.budget.metric.is_latency() { " ms" } else { "" };
    match (result.seen, &result.excuse) {
        (Some(seen), None) => format!("budget {} is broken: {seen}{unit}", result.budget),
        (Some(seen), Some(why)) => format!("budget {} is broken: {seen}{unit}; but {why}", result.budget),
        (None, _) => format!("budget {} cannot be judged: there was nothing to measure", result.budget),
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

/// How many restarts of several replicas, or replacements, never left another replica ready beside the one that was
/// told to stop. Where one replica is restarted in place there is no other.
fn alone(recording: &Recording, replicas: usize) -> usize {
    let lives = lives(&recording.events, recording.began);
    let is_alone = |restart: &&RestartRecord| {
        let Some(terminated) = restart.terminated else { return false };
        if replicas < 2 && restart.successor.is_none() {
            return false;
        }
        let (from, to) = (terminated.offset_ms(recording.began), restart.ended().offset_ms(recording.began));
        let others = lives.iter().filter(|life| *life.replica != *restart.replica);
        !others.into_iter().any(|life| life.is_ready_within(from, to))
    };
    recording.restarts.iter().filter(is_alone).count()
}

/// What the run could not have seen.
fn blind_spots(recording: &Recording, summary: &Summary, asked: Asked) -> Vec<String> {
    let mut reasons = Vec::new();
    let restarts_asked = asked.replicas * asked.rounds as usize;
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
    if recording.drops.packets > 0 {
        reasons.push(format!(
            "the kernel dropped {} packets, since its table of tracked connections was full; lower the rate of fresh \
             connections, or raise net.netfilter.nf_conntrack_max",
            recording.drops.packets
        ));
    }
    let alone = alone(recording, asked.replicas);
    if alone > 0 {
        reasons.push(format!(
            "no overlap: in {alone} of {} restarts no other replica was ready meanwhile, so nothing was rolled",
            recording.restarts.len()
        ));
    }
    reasons.extend(phases_without_load(recording));
    for (cohort, summed) in recording.cohorts.iter().zip(&summary.cohorts) {
        let name = &summed.name;
        if summed.counts.requests == 0 {
            reasons.push(format!("cohort {name} saw no request to its end"));
        }
        reasons.extend(thin_phases(cohort));
        if !recording.restarts.is_empty() && is_covered(cohort) && cohort.in_restarts == 0 {
            reasons.push(format!("cohort {name} had no request under way in any restart; raise its rate"));
        }
        if let Some(count) = summed.counts.by_class.get(&FailureClass::HarnessResource) {
            reasons.push(format!(
                "cohort {name}: the harness itself was short of ports, descriptors, memory or CPU {count} times; lower \
                 --rate, free the CPU, or raise the limit that `hitless doctor` names"
            ));
        }
    }
    reasons
}

/// Whether it is known what was sent in which phase: events that an older version wrote do not say it.
fn is_covered(cohort: &CohortRecord) -> bool {
    cohort.coverage.iter().any(|coverage| coverage.sent > 0)
}

/// The phases that the run went through and in which nobody sent anything.
fn phases_without_load(recording: &Recording) -> Vec<String> {
    let (Some(began), Some(ended)) = (recording.load_began, recording.load_ended) else { return Vec::new() };
    if !recording.cohorts.iter().any(is_covered) {
        return Vec::new();
    }
    let unseen = Phase::ALL.into_iter().filter_map(|phase| {
        let time = recording.phases.time_in(phase, began, ended);
        let is_seen = recording.cohorts.iter().any(|cohort| cohort.coverage[phase.index()].sent > 0);
        (time >= SHORTEST_PHASE && !is_seen).then(|| {
            format!("no request was sent in phase {phase}, {} ms in all; raise --rate", time.as_millis())
        })
    });
    unseen.collect()
}

/// The phases in which a cohort sent less than half of what was due.
fn thin_phases(cohort: &CohortRecord) -> Vec<String> {
    let thin = Phase::ALL.into_iter().filter_map(|phase| {
        let coverage = cohort.coverage[phase.index()];
        (coverage.due >= LEAST_DUE && coverage.sent * 2 < coverage.due).then(|| {
            format!(
                "cohort {} could not keep its schedule: of {} requests that were due in phase {phase} it sent {}; {} of \
                 all waited for a free place; lower --rate, raise --concurrency or free the CPU",
                cohort.name, coverage.due, coverage.sent, cohort.waited
            )
        })
    });
    thin.collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Moment;
    use crate::load::CohortTotals;
    use crate::recording::{Coverage, LifecycleEvent, LifecycleKind, Source, Tally};

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
        let mut cohort = CohortRecord {
            phases,
            totals: CohortTotals { sent: 100, ..CohortTotals::default() },
            in_restarts: 100,
            ..CohortRecord::new("fresh")
        };
        cohort.coverage[1] = Coverage { due: 100, sent: 100 };
        Recording { cohorts: vec![cohort], restarts: vec![restart], ..Recording::new(at(0)) }
    }

    fn verdict(recording: &Recording, budget: &str) -> Judgement {
        judge(
            recording,
            &Summary::of(recording),
            &[budget.parse().unwrap()],
            Asked { replicas: 1, rounds: 1 },
        )
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
        let blind: [(&str, Spoil); 10] = [
            ("interrupted", |run| run.cut_short = Some(CutShort::Interrupted)),
            ("could not go on", |run| run.cut_short = Some(CutShort::RolloutFailed("a died".into()))),
            ("restarts were completed", |run| run.restarts[0].answered = None),
            ("saw fewer than", |run| run.restarts[0].tally = Tally::new(2)),
            ("of 100 requests that were due in phase draining it sent 49", |run| {
                run.cohorts[0].coverage[1].sent = 49;
            }),
            ("cohort slow saw no request to its end", |run| run.cohorts.push(CohortRecord::new("slow"))),
            ("the kernel dropped 7 packets", |run| run.drops.add(at(1), at(2), 7)),
            ("no request under way in any restart", |run| run.cohorts[0].in_restarts = 0),
            ("no request was sent in phase gap, 20 ms", |run| {
                (run.load_began, run.load_ended) = (Some(at(0)), Some(at(1000)));
                run.phases.enter(at(30), Phase::Gap, Some(0));
                run.phases.enter(at(50), Phase::Steady, None);
                run.cohorts[0].coverage[0].sent = 1;
            }),
            ("was short of ports", |run| run.cohorts[0].phases[1].failed(FailureClass::HarnessResource)),
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
    fn what_cannot_be_measured_is_inconclusive() {
        for budget in ["gap.p(99)<1s", "gap.failed==0"] {
            let judgement = verdict(&clean(), budget);
            assert_eq!(judgement.verdict, Verdict::Inconclusive);
            assert_eq!(
                judgement.reasons,
                [format!("budget {budget} cannot be judged: there was nothing to measure")]
            );
        }
    }

    #[test]
    fn too_few_requests_fail_a_whole_run_and_leave_a_cut_one_inconclusive() {
        let mut recording = clean();
        assert_eq!(verdict(&recording, "requests>=1000").verdict, Verdict::Fail);
        recording.cut_short = Some(CutShort::Interrupted);
        let judgement = verdict(&recording, "requests>=1000");
        assert_eq!(judgement.verdict, Verdict::Inconclusive);
        assert!(judgement.reasons[0].contains("cut short"), "{:?}", judgement.reasons);
        assert_eq!(verdict(&recording, "requests<50").verdict, Verdict::Fail, "more would not help");
        assert_eq!(verdict(&recording, "p(99)<0.1ms").verdict, Verdict::Fail, "what was seen was seen");
    }

    #[test]
    fn hunt_that_found_a_failure_is_a_fail_and_misses_no_restarts() {
        let mut recording = clean();
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

    #[test]
    fn generator_that_is_late_and_sends_everything_in_its_phase_hides_no_failure() {
        let mut recording = clean();
        recording.cohorts[0].lateness.record_n(500_000, 100).unwrap();
        assert_eq!(verdict(&recording, "failed==0").verdict, Verdict::Pass);
    }

    #[test]
    fn phase_that_is_hardly_there_need_not_be_seen() {
        let mut recording = clean();
        (recording.load_began, recording.load_ended) = (Some(at(0)), Some(at(1000)));
        recording.phases.enter(at(30), Phase::Gap, Some(0));
        recording.phases.enter(at(39), Phase::Steady, None);
        recording.cohorts[0].coverage[0] = Coverage { due: 1, sent: 1 };
        recording.cohorts[0].coverage[2] = Coverage { due: 9, sent: 0 };
        let judgement = verdict(&recording, "failed==0");
        assert_eq!(judgement.verdict, Verdict::Pass, "{:?}", judgement.reasons);
    }

    /// `clean` with one answer after `latency` and so many dropped packets.
    fn dropped(latency: u64, packets: u64, budget: &str) -> Verdict {
        let mut recording = clean();
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

    /// `clean`, with the lives of `a`, which is restarted from 1 to 4 ms, and of `b`, which becomes ready at `b_ready`.
    fn two_replicas(b_ready: u64) -> Judgement {
        let event = |ms, replica: &str, kind| LifecycleEvent {
            at: at(ms),
            replica: replica.into(),
            kind,
            source: Source::Harness,
            fields: serde_json::Map::new(),
        };
        let mut recording = clean();
        recording.events = vec![
            event(1, "a", LifecycleKind::TerminateRequested),
            event(2, "a", LifecycleKind::Exited),
            event(0, "b", LifecycleKind::StartRequested),
            event(b_ready, "b", LifecycleKind::Ready),
        ];
        recording.restarts.push(RestartRecord { terminated: None, ..recording.restarts[0].clone() });
        let summary = Summary::of(&recording);
        judge(&recording, &summary, &["failed==0".parse().unwrap()], Asked { replicas: 2, rounds: 1 })
    }

    #[test]
    fn restart_without_another_replica_that_is_ready_shows_nothing_of_rolling() {
        assert_eq!(two_replicas(0).verdict, Verdict::Pass, "{:?}", two_replicas(0).reasons);
        assert_eq!(two_replicas(3).verdict, Verdict::Pass, "a moment is enough");
        let judgement = two_replicas(5);
        assert_eq!(judgement.verdict, Verdict::Inconclusive);
        assert!(judgement.reasons[0].contains("no overlap: in 1 of 2"), "{:?}", judgement.reasons);
    }

    /// `clean` over a second, all of its requests answered after `latency`, the harness stalled for `stall` at once.
    fn stalled(latency: u64, stall: u64, budget: &str) -> Verdict {
        judged(latency, stall, budget).verdict
    }

    fn judged(latency: u64, stall: u64, budget: &str) -> Judgement {
        let mut recording = clean();
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
