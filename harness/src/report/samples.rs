//! A report for the tests of those that read reports.

use std::time::Duration;

use crate::clock::{Moment, WallOffset};
use crate::failure::FailureClass;
use crate::load::ConnectionUse;
use crate::phase::Phase;
use crate::recording::{CohortRecord, Coverage, FailureRecord, Recording, RestartRecord, Tally};
use crate::report::assemble::Context;
use crate::report::{Report, ScenarioInfo};
use crate::runtime::Environment;
use crate::scenario::{Options, Scenario};
use crate::summary::Summary;
use crate::verdict::{Asked, judge};

/// Two whole restarts under a hundred answered requests of `fresh`, and these failures.
pub(crate) fn report(failures: &[(FailureClass, Phase)]) -> Report {
    let at = |ms: u64| Moment::from_nanoseconds(ms * 1_000_000);
    let mut cohort = CohortRecord { in_restarts: 100, ..CohortRecord::new("fresh") };
    cohort.coverage[Phase::Draining.index()] = Coverage { due: 100, sent: 100 };
    let mut recording = Recording::new(at(0));
    let mut tally = Tally::new(2);
    for _ in 0..100 {
        cohort.phases[Phase::Draining.index()].answered(Duration::from_millis(1));
        tally.answered(Duration::from_millis(1));
    }
    let restart = RestartRecord {
        replica: "server-a".into(),
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
    recording.restarts = vec![restart.clone(), restart];
    for (number, (class, phase)) in (0..).zip(failures) {
        let restart = phase.is_restart().then_some(0);
        cohort.phases[phase.index()].failed(*class);
        if let Some(index) = restart {
            recording.restarts[index].tally.failed(*class);
        }
        recording.failures.add(FailureRecord {
            at: at(10),
            started: at(9),
            cohort: "fresh",
            number,
            class: *class,
            detail: "seen".to_owned(),
            connection: Some(ConnectionUse { nth: Some(2), sent: None, received: None }),
            is_hidden_by_retries: false,
            phase: *phase,
            restart,
            nearest: None,
            answered_by: None,
            cause: None,
        });
    }
    recording.cohorts = vec![cohort];
    let options = Options { rounds: Some(2), replicas: Some(1), ..Options::default() };
    let scenario = Scenario::from_options(&options).unwrap();
    let summary = Summary::of(&recording);
    let judgement =
        judge(&recording, &summary, &scenario.budgets, Asked { replicas: scenario.replicas, rounds: 2 });
    let context = Context {
        run: "sample".to_owned(),
        command: "hitless run".to_owned(),
        environment: Environment::default(),
        wall: WallOffset::with(at(0), 0),
    };
    Report::assemble(&recording, summary, judgement, ScenarioInfo::of(&scenario), context)
}
