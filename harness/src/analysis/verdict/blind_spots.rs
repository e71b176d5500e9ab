//! What a run could not have seen: too little load, no overlap, a harness that was short of something. Pure.

use std::time::Duration;

use super::Asked;
use crate::analysis::replica_states::replica_states;
use crate::analysis::summary::Summary;
use crate::model::cut_short::CutShort;
use crate::model::failure::FailureClass;
use crate::model::phase::Phase;
use crate::model::restart::Restart;
use crate::record::recording::{CohortRecord, Recording};

/// Restarts that saw fewer requests than this together show nothing.
const LEAST_IN_RESTARTS: u64 = 5;
/// A phase in which fewer requests than this were due says nothing of the generator.
const LEAST_DUE: u64 = 10;
/// A phase that is shorter than this in all its occurrences need not see a request.
const SHORTEST_PHASE: Duration = Duration::from_millis(10);

/// What the run could not have seen.
pub(super) fn blind_spots(recording: &Recording, summary: &Summary, asked: Asked) -> Vec<String> {
    let mut reasons = Vec::new();
    let restarts_asked = asked.replicas * asked.rounds as usize;
    reasons.extend(recording.cut_short.as_ref().map(ToString::to_string));
    let done = recording.restarts.iter().filter(|restart| restart.answered.is_some()).count();
    if done < restarts_asked && recording.cut_short != Some(CutShort::FailureFound) {
        reasons.push(format!("only {done} of {restarts_asked} restarts were completed"));
    }
    let seen = requests_in_restarts(recording);
    if !recording.restarts.is_empty() && seen < LEAST_IN_RESTARTS {
        reasons.push(format!(
            "all restarts together saw {seen} requests, fewer than {LEAST_IN_RESTARTS}; raise --rate or --rounds"
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
        if let Some(count) = cohort.totals.client.unverified {
            reasons.push(format!(
                "cohort {name}: {count} answers declare no length and differ in length, so one that was cut would look \
                 whole; ask for a path whose answers have a Content-Length, or are chunked"
            ));
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

/// How many requests were under way in some restart, or ended in one where it is not known what was under way.
fn requests_in_restarts(recording: &Recording) -> u64 {
    let under_way: u64 = recording.cohorts.iter().map(|cohort| cohort.in_restarts).sum();
    let ended: u64 = recording.restarts.iter().map(|restart| restart.tally.requests).sum();
    under_way.max(ended)
}

/// How many restarts of several replicas, or replacements, never left another replica ready beside the one that was
/// told to stop. Where one replica is restarted in place there is no other.
fn alone(recording: &Recording, replicas: usize) -> usize {
    let lives = replica_states(&recording.events);
    let is_alone = |restart: &&Restart| {
        let Some(stop_requested) = restart.stop_requested else { return false };
        if replicas < 2 && restart.successor.other().is_none() {
            return false;
        }
        let (from, to) = (stop_requested.ms(), restart.ended().ms());
        let others = lives.iter().filter(|life| *life.replica != *restart.replica);
        !others.into_iter().any(|life| life.is_ready_within(from, to))
    };
    recording.restarts.iter().filter(is_alone).count()
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
    use super::*;
    use crate::analysis::verdict::tests::verdict;
    use crate::analysis::verdict::{Judgement, Verdict, judge};
    use crate::model::lifecycle::{LifecycleEvent, LifecycleKind, Source};
    use crate::model::tally::Tally;
    use crate::record::recording::Coverage;
    use crate::samples::{at, recording};

    #[test]
    fn each_blind_spot_makes_a_clean_run_inconclusive() {
        type Spoil = fn(&mut Recording);
        let blind: [(&str, Spoil); 11] = [
            ("7 answers declare no length", |run| run.cohorts[0].totals.client.unverified = Some(7)),
            ("interrupted", |run| run.cut_short = Some(CutShort::Interrupted)),
            ("could not go on", |run| {
                run.cut_short = Some(CutShort::RolloutFailed { error: "a died".into() });
            }),
            ("restarts were completed", |run| run.restarts[0].answered = None),
            ("all restarts together saw 4 requests, fewer than 5", |run| {
                run.restarts[0].tally = Tally::new(2);
                run.cohorts[0].in_restarts = 4;
            }),
            ("of 100 requests that were due in phase draining it sent 49", |run| {
                run.cohorts[0].coverage[Phase::Draining.index()].sent = 49;
            }),
            ("cohort slow saw no request to its end", |run| run.cohorts.push(CohortRecord::new("slow"))),
            ("the kernel dropped 7 packets", |run| run.drops.add(at(1), at(2), 7)),
            ("no request under way in any restart", |run| run.cohorts[0].in_restarts = 0),
            ("no request was sent in phase gap, 20 ms", |run| {
                (run.load_began, run.load_ended) = (Some(at(0)), Some(at(1000)));
                run.phases.follow(0, vec![(at(30), Phase::Gap), (at(50), Phase::Steady)]);
                run.cohorts[0].coverage[0].sent = 1;
            }),
            ("was short of ports", |run| run.cohorts[0].phases[1].failed(FailureClass::HarnessResource)),
        ];
        for (expected, spoil) in blind {
            let mut recording = recording();
            spoil(&mut recording);
            let judgement = verdict(&recording, "failed==0");
            assert_eq!(judgement.verdict, Verdict::Inconclusive, "{expected}");
            assert!(judgement.reasons[0].contains(expected), "{:?}", judgement.reasons);
        }
    }

    #[test]
    fn short_restarts_that_saw_enough_requests_together_hide_no_failure() {
        let mut recording = recording();
        recording.restarts[0].tally = Tally::new(2);
        recording.cohorts[0].in_restarts = 5;
        assert_eq!(verdict(&recording, "failed==0").verdict, Verdict::Pass);
    }

    #[test]
    fn generator_that_is_late_and_sends_everything_in_its_phase_hides_no_failure() {
        let mut recording = recording();
        recording.cohorts[0].lateness.record_n(500_000, 100).unwrap();
        assert_eq!(verdict(&recording, "failed==0").verdict, Verdict::Pass);
    }

    #[test]
    fn phase_that_is_hardly_there_need_not_be_seen() {
        let mut recording = recording();
        (recording.load_began, recording.load_ended) = (Some(at(0)), Some(at(1000)));
        recording.phases.follow(0, vec![(at(30), Phase::Gap), (at(39), Phase::Steady)]);
        recording.cohorts[0].coverage[0] = Coverage { due: 1, sent: 1 };
        recording.cohorts[0].coverage[Phase::Gap.index()] = Coverage { due: 9, sent: 0 };
        let judgement = verdict(&recording, "failed==0");
        assert_eq!(judgement.verdict, Verdict::Pass, "{:?}", judgement.reasons);
    }

    /// The sample, with the lives of `server-a`, which is restarted from 1 to 4 ms, and of `server-b`, which becomes
    /// ready at `b_ready`.
    fn two_replicas(b_ready: i64) -> Judgement {
        let event = |ms, replica: &str, kind| LifecycleEvent {
            t: at(ms),
            replica: replica.into(),
            node: None,
            kind,
            source: Source::Harness,
            fields: serde_json::Map::new(),
        };
        let mut recording = recording();
        recording.events = vec![
            event(1, "server-a", LifecycleKind::TerminateRequested),
            event(2, "server-a", LifecycleKind::Exited),
            event(0, "server-b", LifecycleKind::StartRequested),
            event(b_ready, "server-b", LifecycleKind::Ready),
        ];
        recording.restarts.push(Restart { stop_requested: None, ..recording.restarts[0].clone() });
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
}
