//! What a run of a case has to show, and whether it did. Pure.

use std::collections::BTreeSet;

use super::Outcome;
use crate::analysis::report::{Report, RestartSummary};
use crate::analysis::verdict::Verdict;
use crate::model::cut_short::CutShort;
use crate::model::failed_request::FailedRequest;
use crate::model::failure::FailureClass;
use crate::model::phase::Phase;

/// What has to be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Nothing: a pass.
    Clean,
    /// Whole restarts, and nothing but what the end of a listener may cost, see `is_of_the_queue`.
    Behaves,
    /// Failures of this class, and of no other.
    Only(FailureClass),
    /// Failures of this class, and perhaps of others that follow from it.
    AtLeast(FailureClass),
    /// Connections that were closed while they were idle, counted, and no other failure than an empty reply: whether a
    /// request meets the close is a race.
    ClosedIdle,
    /// Failures of this class while draining, and of no other at any time.
    WhileDraining(FailureClass),
    /// A replica that the engine has to kill.
    Killed,
    /// This exit code of each restarted replica, and no failure.
    ExitCode(i64),
    /// A replica that ends on its own: no pass, and it is said.
    Death,
    /// A run that cannot begin: no replica becomes ready.
    NotReady,
}

impl Expected {
    /// In words.
    pub(crate) fn words(self) -> String {
        match self {
            Self::Clean => "no failure, pass".to_owned(),
            Self::Behaves => "no failure".to_owned(),
            Self::Only(class) => format!("{class} only"),
            Self::AtLeast(class) => class.to_string(),
            Self::ClosedIdle => "closed while idle, counted".to_owned(),
            Self::WhileDraining(class) => format!("{class} while draining only"),
            Self::Killed => "killed at the stop timeout".to_owned(),
            Self::ExitCode(code) => format!("exit code {code}, no failure"),
            Self::Death => "its own end, no pass".to_owned(),
            Self::NotReady => "not ready in time".to_owned(),
        }
    }

    /// Holds a run against what had to be seen. A class that must not occur is wrong however busy the machine was; what
    /// had to occur and did not is wrong unless the run could not have shown it.
    pub(super) fn outcome(self, report: &Report) -> Outcome {
        // The harness's own interference says nothing of the server.
        let classes: BTreeSet<FailureClass> = report
            .failures
            .iter()
            .filter(|failure| failure.class.is_servers() && !is_of_the_queue(failure))
            .map(|failure| failure.class)
            .collect();
        let has_others = |allowed: FailureClass| classes.iter().any(|class| *class != allowed);
        let in_other_phases = |class| {
            report.failures.iter().any(|failure| failure.class == class && failure.phase != Phase::Draining)
        };
        let are_whole = !report.restarts.is_empty()
            && report.run.cut_short.is_none()
            && report.restarts.iter().all(|restart| restart.is_complete);
        let all_restarts =
            |is_so: fn(&RestartSummary) -> bool| are_whole && report.restarts.iter().all(is_so);
        let failed = report.verdict == Verdict::Fail;
        let is_short = report.totals.by_class.contains_key(&FailureClass::HarnessResource);
        let is_dead = has_died(report);
        let (is_seen, is_contradicted) = match self {
            Self::Clean => (report.verdict == Verdict::Pass, report.totals.failed > 0),
            Self::Behaves => (are_whole, !classes.is_empty()),
            Self::Only(class) => (failed && classes.contains(&class), has_others(class)),
            Self::AtLeast(class) => (failed && classes.contains(&class), false),
            Self::ClosedIdle => (closed_idle(report) > 0, has_others(FailureClass::EmptyReply)),
            Self::WhileDraining(class) => {
                (failed && classes.contains(&class), has_others(class) || in_other_phases(class))
            }
            Self::Killed => (
                all_restarts(|restart| restart.restart.killed),
                are_whole && !all_restarts(|restart| restart.restart.killed),
            ),
            Self::ExitCode(code) => {
                let has_code = |restart: &RestartSummary| {
                    restart.restart.exit_code == Some(code) && !restart.restart.killed
                };
                let are_right = report.restarts.iter().all(has_code);
                (are_whole && are_right, !classes.is_empty() || (are_whole && !are_right))
            }
            Self::Death => {
                (is_dead && report.verdict != Verdict::Pass, is_dead && report.verdict == Verdict::Pass)
            }
            Self::NotReady => (false, report.totals.requests > 0),
        };
        if is_contradicted {
            Outcome::Wrong
        } else if is_seen {
            Outcome::Right
        } else if report.verdict == Verdict::Inconclusive || is_short {
            Outcome::Unclear
        } else {
            Outcome::Wrong
        }
    }
}

/// Whether a failure is what the end of a listener may cost any server that closes one: the kernel resets what it had
/// completed and nobody had accepted. The saboteurs close theirs as carefully as can be, which leaves it rare.
fn is_of_the_queue(failure: &FailedRequest) -> bool {
    failure.class == FailureClass::ResetBeforeResponse
        && failure.phase == Phase::Draining
        && failure.connection_request == Some(1)
}

/// Connections that the server closed while they were idle.
pub(super) fn closed_idle(report: &Report) -> u64 {
    report.cohorts.iter().filter_map(|cohort| cohort.closed_idle).sum()
}

/// Whether a replica ended without being told to.
pub(super) fn has_died(report: &Report) -> bool {
    matches!(report.run.cut_short, Some(CutShort::ReplicaDied { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::selftest::CASES;
    use crate::commands::selftest::finding::describe;
    use crate::samples::report;

    fn seen(class: FailureClass) -> Report {
        report(&[(class, Phase::Draining)])
    }

    /// What has to be seen, and runs that show it.
    fn right() -> Vec<(Expected, Report)> {
        let with = |change: fn(&mut Report)| {
            let mut report = report(&[]);
            change(&mut report);
            report
        };
        let mut all = vec![
            (Expected::Clean, report(&[])),
            (Expected::Behaves, report(&[])),
            (Expected::ClosedIdle, with(|report| report.cohorts[0].closed_idle = Some(3))),
            (
                Expected::Killed,
                with(|report| report.restarts.iter_mut().for_each(|one| one.restart.killed = true)),
            ),
            (
                Expected::ExitCode(1),
                with(|report| report.restarts.iter_mut().for_each(|one| one.restart.exit_code = Some(1))),
            ),
            (
                Expected::Death,
                with(|report| {
                    report.verdict = Verdict::Inconclusive;
                    report.run.cut_short = Some(CutShort::ReplicaDied {
                        replica: "server-a".into(),
                        code: Some(1),
                        last_words: String::new(),
                        left_running: 0,
                    });
                }),
            ),
        ];
        for case in CASES {
            if let Expected::Only(class) | Expected::AtLeast(class) | Expected::WhileDraining(class) =
                case.expected
            {
                all.push((case.expected, seen(class)));
            }
        }
        all
    }

    #[test]
    fn what_has_to_be_seen_is_right() {
        for (expected, report) in right() {
            assert_eq!(expected.outcome(&report), Outcome::Right, "{expected:?}: {}", describe(&report));
        }
    }

    #[test]
    fn classifier_with_one_class_broken_is_caught() {
        for case in CASES {
            let (Expected::Only(right) | Expected::WhileDraining(right) | Expected::AtLeast(right)) =
                case.expected
            else {
                continue;
            };
            for wrong in FailureClass::ALL.into_iter().filter(|class| *class != right && class.is_servers()) {
                assert_eq!(case.expected.outcome(&seen(wrong)), Outcome::Wrong, "{}: {wrong}", case.name);
            }
            assert_eq!(case.expected.outcome(&report(&[])), Outcome::Wrong, "{}: nothing", case.name);
        }
        for class in FailureClass::ALL.into_iter().filter(|class| class.is_servers()) {
            assert_eq!(Expected::Clean.outcome(&seen(class)), Outcome::Wrong, "{class}");
            assert_eq!(Expected::Behaves.outcome(&seen(class)), Outcome::Wrong, "{class}");
        }
    }

    #[test]
    fn losses_outside_of_the_drain_are_wrong_where_only_the_drain_may_lose() {
        let class = FailureClass::HttpError;
        let report = report(&[(class, Phase::Draining), (class, Phase::Steady)]);
        assert_eq!(Expected::WhileDraining(class).outcome(&report), Outcome::Wrong);
        assert_eq!(Expected::Only(class).outcome(&report), Outcome::Right);
    }

    #[test]
    fn run_that_could_not_have_shown_it_is_unclear_and_what_contradicts_is_wrong_all_the_same() {
        let busy = |mut report: Report| {
            report.verdict = Verdict::Inconclusive;
            report.restarts.truncate(1);
            report.restarts[0].is_complete = false;
            report
        };
        for (expected, _) in right() {
            let told = expected.outcome(&busy(report(&[])));
            assert_eq!(told, Outcome::Unclear, "{expected:?}");
        }
        let mut cut = report(&[]);
        (cut.run.cut_short, cut.verdict) = (Some(CutShort::Interrupted), Verdict::Inconclusive);
        assert_eq!(Expected::Behaves.outcome(&cut), Outcome::Unclear, "it was cut short after its restarts");
        assert_eq!(Expected::Clean.outcome(&busy(seen(FailureClass::Refused))), Outcome::Wrong);
        let short = report(&[(FailureClass::HarnessResource, Phase::Steady)]);
        assert_eq!(Expected::Clean.outcome(&short), Outcome::Unclear, "the harness's own interference");
        let silent = report(&[
            (FailureClass::HarnessResource, Phase::Steady),
            (FailureClass::EmptyReply, Phase::Draining),
        ]);
        let timeout = Expected::AtLeast(FailureClass::Timeout);
        assert_eq!(timeout.outcome(&silent), Outcome::Unclear, "its timeouts may be among the interference");
        assert_eq!(Expected::NotReady.outcome(&report(&[])), Outcome::Wrong, "it was under load");
    }
}
