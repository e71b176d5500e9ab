//! `junit.xml`: a case for each budget, for each restart, and for the run itself. A broken budget is a failure, and so
//! is a restart that lost requests which a budget forbids; what the run could not see is an error.
//!
//! Only what the schema of Jenkins' xUnit plugin (junit-10.xsd) knows is written. It is XML without any void element,
//! so that maud, which escapes what it is given, can write it.

use maud::{Markup, PreEscaped, html};

use crate::report::text::{clipped, counted, short_ms};
use crate::report::{Report, RestartInfo};
use crate::verdict::{BudgetResult, Verdict};

/// Restarts beyond this get no case of their own, unless something is to be said of them.
const MOST_RESTARTS: usize = 1_000;
const MOST_FAILURES_A_CASE: usize = 10;
const NAME_LENGTH: usize = 80;
const LINE: PreEscaped<&str> = PreEscaped("\n");

/// The text of `junit.xml`.
#[must_use]
pub fn render(report: &Report) -> String {
    let suites = [budgets(report), restarts(report), run(report)];
    let all = || suites.iter().flat_map(|suite| &suite.cases);
    let document = html! {
        (PreEscaped("<?xml version=\"1.0\" encoding=\"UTF-8\"?>")) (LINE)
        testsuites name="hitless" tests=(all().count()) failures=(failures(all())) errors=(errors(all()))
            time=(seconds(report.run.duration_ms)) {
            (LINE)
            @for suite in &suites { (suite.render()) (LINE) }
        }
        (LINE)
    };
    document.into_string()
}

struct Suite {
    name: &'static str,
    class: String,
    cases: Vec<Case>,
}

struct Case {
    name: String,
    duration_ms: f64,
    outcome: Outcome,
}

/// How a case ended, and if it is no success: in a line, and in all its lines.
enum Outcome {
    Success,
    Failure(String, Vec<String>),
    Error(String),
}

impl Suite {
    fn new(report: &Report, name: &'static str, cases: Vec<Case>) -> Self {
        let subject = clipped(&report.scenario.subject, NAME_LENGTH).replace(' ', "-");
        Self { name, class: format!("hitless.{subject}.{name}"), cases }
    }

    fn render(&self) -> Markup {
        let duration = self.cases.iter().map(|case| case.duration_ms).sum();
        html! {
            testsuite name=(self.name) tests=(self.cases.len()) failures=(failures(self.cases.iter()))
                errors=(errors(self.cases.iter())) time=(seconds(duration)) {
                (LINE)
                @for case in &self.cases {
                    testcase name=(case.name) classname=(self.class) time=(seconds(case.duration_ms)) {
                        @match &case.outcome {
                            Outcome::Success => {}
                            Outcome::Failure(message, lines) => {
                                failure message=(message) type="failure" { (lines.join("\n")) }
                            }
                            Outcome::Error(message) => { error message=(message) type="error" {} }
                        }
                    }
                    (LINE)
                }
            }
        }
    }
}

fn failures<'a>(cases: impl Iterator<Item = &'a Case>) -> usize {
    cases.filter(|case| matches!(case.outcome, Outcome::Failure(..))).count()
}

fn errors<'a>(cases: impl Iterator<Item = &'a Case>) -> usize {
    cases.filter(|case| matches!(case.outcome, Outcome::Error(_))).count()
}

fn budgets(report: &Report) -> Suite {
    let cases = report.budgets.iter().map(|result| Case {
        name: clipped(&result.budget.to_string(), NAME_LENGTH),
        duration_ms: 0.0,
        outcome: budget(result),
    });
    Suite::new(report, "budgets", cases.collect())
}

fn budget(result: &BudgetResult) -> Outcome {
    if result.holds {
        return Outcome::Success;
    }
    let seen = match result.seen {
        None => "there was nothing to measure".to_owned(),
        Some(ms) if result.budget.metric.is_latency() => format!("seen: {}", short_ms(ms)),
        Some(seen) => format!("seen: {seen}"),
    };
    Outcome::Failure(seen, Vec::new())
}

fn restarts(report: &Report) -> Suite {
    let cases = report
        .restarts
        .iter()
        .enumerate()
        .map(|(index, info)| {
            let replica = clipped(&info.replica, NAME_LENGTH);
            Case {
                name: format!("restart {}: {replica}, round {}", index + 1, info.round),
                duration_ms: info.duration_ms,
                outcome: restart(report, index, info),
            }
        })
        .enumerate()
        .filter(|(index, case)| *index < MOST_RESTARTS || !matches!(case.outcome, Outcome::Success))
        .map(|(_, case)| case);
    Suite::new(report, "restarts", cases.collect())
}

fn restart(report: &Report, index: usize, info: &RestartInfo) -> Outcome {
    if !info.is_complete {
        return Outcome::Error("it did not come back and answer".to_owned());
    }
    // Losses within budget are no failure of anything.
    let is_loss_forbidden = report.verdict == Verdict::Fail
        && report.budgets.iter().any(|result| !result.holds && !result.budget.metric.is_latency());
    if info.counts.failed == 0 || !is_loss_forbidden {
        return Outcome::Success;
    }
    let blames = report
        .failures
        .iter()
        .filter(|failure| failure.restart == Some(index))
        .take(MOST_FAILURES_A_CASE)
        .map(|failure| {
            format!("{}: {}", clipped(&failure.cohort, NAME_LENGTH), clipped(&failure.blame, 400))
        });
    let message = format!("{} of {} failed", info.counts.failed, counted(info.counts.requests, "request"));
    Outcome::Failure(message, blames.collect())
}

fn run(report: &Report) -> Suite {
    let blind: Vec<String> = report.blind_spots.iter().map(|reason| clipped(reason, 400)).collect();
    let case = Case {
        name: "could have seen every failure".to_owned(),
        duration_ms: report.run.duration_ms,
        outcome: if blind.is_empty() { Outcome::Success } else { Outcome::Error(blind.join("; ")) },
    };
    Suite::new(report, "run", vec![case])
}

fn seconds(ms: f64) -> String {
    format!("{:.3}", ms / 1e3)
}
