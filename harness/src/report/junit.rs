//! `junit.xml`: a case for each budget, for each restart, and for the run itself. A broken budget is a failure, and so
//! is a restart whose losses broke one; what says nothing of the server (a budget that the machine may have broken, a
//! replica that did not come back, what the run could not see) is an error. There are failures in it if and only if the
//! verdict is `fail`, and errors whenever it is `inconclusive`.
//!
//! Only what the schema of Jenkins' xUnit plugin (junit-10.xsd) knows is written.

use std::time::Duration;

use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};

use crate::analysis::report::{Report, RestartSummary};
use crate::analysis::verdict::BudgetResult;
use crate::report::digest::seen;
use crate::report::text::{clipped, counted};

/// Restarts beyond this get no case of their own, unless something is to be said of them.
const MOST_RESTARTS: usize = 1_000;
const MOST_FAILURES_A_CASE: usize = 10;
const NAME_LENGTH: usize = 80;

/// The text of `junit.xml`.
///
/// # Panics
/// Never: it is written into memory.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut document = quick_junit::Report::new("hitless");
    document.set_time(duration(report.run.duration_ms));
    document.add_test_suites([budgets(report), restarts(report), run(report)]);
    let text = document.to_string().expect("text is written into memory");
    // quick-junit counts the skipped cases of the whole document, which junit-10.xsd knows of a suite alone. The first
    // such attribute is that one: before it stands only our own name.
    text.replacen(" skipped=\"0\"", "", 1)
}

fn suite(report: &Report, name: &str, cases: impl IntoIterator<Item = TestCase>) -> TestSuite {
    let subject = clipped(&report.scenario.subject, NAME_LENGTH).replace(' ', "-");
    let class = format!("hitless.{subject}.{name}");
    let mut suite = TestSuite::new(name);
    suite.add_test_cases(cases.into_iter().map(|mut case| {
        case.set_classname(class.as_str());
        case
    }));
    suite.set_time(suite.test_cases.iter().filter_map(|case| case.time).sum());
    suite
}

fn case(name: String, ms: f64, status: TestCaseStatus) -> TestCase {
    let mut case = TestCase::new(name, status);
    case.set_time(duration(ms));
    case
}

fn failure(message: String) -> TestCaseStatus {
    told(NonSuccessKind::Failure, "failure", message)
}

fn error(message: String) -> TestCaseStatus {
    told(NonSuccessKind::Error, "error", message)
}

fn told(kind: NonSuccessKind, name: &str, message: String) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind);
    status.set_message(message).set_type(name);
    status
}

fn budgets(report: &Report) -> TestSuite {
    let cases = report
        .budgets
        .iter()
        .map(|result| case(clipped(&result.budget.to_string(), NAME_LENGTH), 0.0, budget(result)));
    suite(report, "budgets", cases)
}

fn budget(result: &BudgetResult) -> TestCaseStatus {
    let seen = format!("seen: {}", seen(result));
    match &result.excuse {
        _ if result.holds => TestCaseStatus::success(),
        None => failure(seen),
        Some(why) => error(format!("{seen}; but {}", clipped(why, 400))),
    }
}

fn restarts(report: &Report) -> TestSuite {
    let cases = report
        .restarts
        .iter()
        .enumerate()
        .filter(|(index, info)| *index < MOST_RESTARTS || !info.is_complete || !info.broke.is_empty())
        .map(|(index, info)| {
            let replica = clipped(&info.restart.replica, NAME_LENGTH);
            let name = format!("restart {}: {replica}, round {}", index + 1, info.restart.round);
            case(name, info.duration_ms, restart(report, index, info))
        });
    suite(report, "restarts", cases)
}

/// Losses within budget are no failure of anything.
fn restart(report: &Report, index: usize, info: &RestartSummary) -> TestCaseStatus {
    if info.broke.is_empty() {
        return if info.is_complete {
            TestCaseStatus::success()
        } else {
            error("it did not come back and answer".to_owned())
        };
    }
    let broke: Vec<String> =
        info.broke.iter().map(|budget| clipped(&budget.to_string(), NAME_LENGTH)).collect();
    let back = if info.is_complete { "" } else { "; it did not come back and answer" };
    let mut status = failure(format!(
        "{} of {} failed, which counts against {}{back}",
        info.counts.failed,
        counted(info.counts.requests, "request"),
        broke.join(", ")
    ));
    let blames: Vec<String> = report
        .failures
        .iter()
        .filter(|failure| failure.restart == Some(index))
        .take(MOST_FAILURES_A_CASE)
        .map(|failure| {
            format!("{}: {}", clipped(failure.cohort.name(), NAME_LENGTH), clipped(&failure.blame, 400))
        })
        .collect();
    status.set_description(blames.join("\n"));
    status
}

fn run(report: &Report) -> TestSuite {
    let blind: Vec<String> = report.blind_spots.iter().map(|reason| clipped(reason, 400)).collect();
    let status = if blind.is_empty() { TestCaseStatus::success() } else { error(blind.join("; ")) };
    suite(report, "run", [case("could have seen every failure".to_owned(), report.run.duration_ms, status)])
}

/// A report from elsewhere may hold any number.
fn duration(ms: f64) -> Duration {
    Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default()
}
