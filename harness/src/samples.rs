//! A recording and a report for the tests of those that read them.

use std::time::Duration;

use crate::analysis::assemble::Context;
use crate::analysis::report::Report;
use crate::analysis::summary::Summary;
use crate::analysis::verdict::{Asked, judge};
use crate::model::clock::RunTime;
use crate::model::cohort::CohortKind;
use crate::model::environment::Environment;
use crate::model::failed_request::FailedRequest;
use crate::model::failure::FailureClass;
use crate::model::observation::CohortTotals;
use crate::model::phase::Phase;
use crate::model::restart::{Restart, Successor};
use crate::model::scenario_info::ScenarioInfo;
use crate::model::tally::Tally;
use crate::options::Options;
use crate::record::recording::{CohortRecord, Coverage, Recording};
use crate::scenario::Scenario;

/// So many milliseconds from the run's zero.
pub(crate) fn at(ms: i64) -> RunTime {
    RunTime::from_nanoseconds(ms * 1_000_000)
}

/// One whole restart of `server-a` under a hundred answered requests of `fresh`.
pub(crate) fn recording() -> Recording {
    let mut cohort = CohortRecord {
        totals: CohortTotals { sent: 100, ..CohortTotals::default() },
        in_restarts: 100,
        ..CohortRecord::new("fresh")
    };
    cohort.coverage[Phase::Draining.index()] = Coverage { due: 100, sent: 100 };
    let mut tally = Tally::new(2);
    for _ in 0..100 {
        cohort.phases[Phase::Draining.index()].answered(Duration::from_millis(1));
        tally.answered(Duration::from_millis(1));
    }
    let restart = Restart {
        replica: "server-a".into(),
        successor: Successor::Itself,
        withdrawn: None,
        round: 1,
        began: at(1),
        stop_requested: Some(at(1)),
        exited: Some(at(2)),
        started: Some(at(3)),
        ready: Some(at(4)),
        answered: Some(at(5)),
        exit_code: Some(0),
        killed: false,
        tally,
        account: serde_json::Map::new(),
    };
    Recording { cohorts: vec![cohort], restarts: vec![restart], ..Recording::new() }
}

/// The same with a second such restart, and these failures.
pub(crate) fn report(failures: &[(FailureClass, Phase)]) -> Report {
    let mut recording = recording();
    recording.restarts.push(recording.restarts[0].clone());
    for (number, (class, phase)) in (0..).zip(failures) {
        let restart = phase.is_restart().then_some(0);
        recording.cohorts[0].phases[phase.index()].failed(*class);
        if let Some(index) = restart {
            recording.restarts[index].tally.failed(*class);
        }
        recording.failures.add(FailedRequest {
            t: at(10),
            cohort: CohortKind::Fresh,
            number,
            class: *class,
            curl_exit: class.curl_exit(),
            phase: *phase,
            restart,
            offset_ms: None,
            event: None,
            replica: None,
            answered_by: None,
            cause: None,
            after_ms: 1.0,
            blame: String::new(),
            connection_request: Some(2),
            on_kept_connection: Some(true),
            bytes: None,
            hidden_by_retries: false,
            detail: "seen".to_owned(),
        });
    }
    let options = Options { rounds: Some(2), replicas: Some(1), ..Options::default() };
    let scenario = Scenario::from_options(&options).unwrap();
    let summary = Summary::of(&recording);
    let judgement =
        judge(&recording, &summary, &scenario.budgets, Asked { replicas: scenario.replicas, rounds: 2 });
    let context = Context {
        run: "sample".to_owned(),
        command: "hitless run".to_owned(),
        environment: Environment::default(),
        started_unix_ms: 0,
    };
    Report::assemble(&recording, summary, judgement, ScenarioInfo::of(&scenario), context)
}
