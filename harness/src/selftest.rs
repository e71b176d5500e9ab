//! Proves on this machine that the harness sees what it should: it runs the saboteurs, servers that misbehave in one
//! known way, and checks that each is caught with the right class, and that servers that behave are called clean.
//!
//! A zero without a control proves nothing. The saboteurs are run like anybody's image, with nothing that our own server
//! has and others have not.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use crate::failure::FailureClass;
use crate::image::{self, Artifact, ImageError};
use crate::phase::Phase;
use crate::progress::Display;
use crate::report::terminal::{Style, painted, table};
use crate::report::{FailureInfo, Report, RestartInfo};
use crate::run::{RunError, run};
use crate::runtime::docker::engine::Engine;
use crate::scenario::{Options, SERVER_IMAGE, Scenario, ScenarioError};
use crate::verdict::Verdict;

/// How long a saboteur serves on after the signal: what it has not read by then it loses, and a busy machine makes it slow.
const LAME_DUCK: &str = "SABOTEUR_LAME_DUCK=800ms";

/// The name of the saboteurs' image.
pub const SABOTEUR_IMAGE: &str = "hitless-saboteur:latest";

/// A server, and what the harness has to say about it.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// What the server does.
    pub name: &'static str,
    subject: Subject,
    cohorts: &'static str,
    /// What has to be seen.
    pub expected: Expected,
}

#[derive(Debug, Clone, Copy)]
enum Subject {
    /// A mode of the saboteur.
    Saboteur(&'static str),
    /// Our own server.
    Handover,
}

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

/// Every case. The rates make each saboteur misbehave some dozens of times in its few seconds.
pub const CASES: [Case; 15] = [
    Case {
        name: "our server, handover",
        subject: Subject::Handover,
        cohorts: "fresh,strict",
        expected: Expected::Clean,
    },
    saboteur("behaves", "none", "fresh,strict", Expected::Behaves),
    saboteur(
        "drops 1 in 100 requests after reading them",
        "drops-after-reading:every=100",
        "fresh,strict",
        Expected::Only(FailureClass::EmptyReply),
    ),
    saboteur("closes idle connections at once", "closes-idle", "strict", Expected::ClosedIdle),
    saboteur("sends half a body", "half-body:every=100", "fresh", Expected::Only(FailureClass::Truncated)),
    saboteur(
        "answers with another body of the same length",
        "wrong-body:every=100",
        "fresh",
        Expected::Only(FailureClass::WrongBody),
    ),
    saboteur(
        "answers with the answer of the request before",
        "swaps-answers:every=100",
        "fresh",
        Expected::Only(FailureClass::WrongBody),
    ),
    saboteur(
        "answers 503 while draining",
        "unavailable-while-draining",
        "fresh",
        Expected::WhileDraining(FailureClass::HttpError),
    ),
    saboteur(
        "accepts and never answers",
        "never-answers:every=200",
        "fresh",
        Expected::AtLeast(FailureClass::Timeout),
    ),
    saboteur(
        "loses what arrives within 5 ms of SIGTERM",
        "drops-at-sigterm:within=5ms",
        "fresh=1000",
        Expected::WhileDraining(FailureClass::EmptyReply),
    ),
    saboteur("answers twice", "answers-twice:every=50", "strict", Expected::AtLeast(FailureClass::Other)),
    saboteur("ignores SIGTERM", "ignores-sigterm", "fresh", Expected::Killed),
    saboteur("exits 1", "exits-one", "fresh", Expected::ExitCode(1)),
    saboteur("dies on its own", "dies:requests=150", "fresh", Expected::Death),
    saboteur("never gets ready", "never-ready", "fresh", Expected::NotReady),
];

const fn saboteur(name: &'static str, mode: &'static str, cohorts: &'static str, expected: Expected) -> Case {
    Case { name, subject: Subject::Saboteur(mode), cohorts, expected }
}

/// How a case went.
#[derive(Debug)]
pub struct Finding {
    /// The case.
    pub case: &'static Case,
    /// What was seen, in words.
    pub seen: String,
    /// Whether that is what had to be seen.
    pub outcome: Outcome,
}

/// Whether a case showed what it had to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It did.
    Right,
    /// It did not.
    Wrong,
    /// The run could not have shown it: the machine was too busy, or it was interrupted.
    Unclear,
}

impl Outcome {
    /// What the self-test says as a whole: wrong if a case is, unclear if one is or was not carried out.
    #[must_use]
    pub fn of_all(findings: &[Finding]) -> Self {
        let has = |outcome| findings.iter().any(|finding| finding.outcome == outcome);
        if has(Self::Wrong) {
            Self::Wrong
        } else if has(Self::Unclear) || findings.len() < CASES.len() {
            Self::Unclear
        } else {
            Self::Right
        }
    }

    /// The verdict that it amounts to.
    #[must_use]
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::Right => Verdict::Pass,
            Self::Wrong => Verdict::Fail,
            Self::Unclear => Verdict::Inconclusive,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Right => "ok",
            Self::Wrong => "WRONG",
            Self::Unclear => "unclear",
        }
    }
}

/// The self-test could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum SelftestError {
    /// The saboteurs' image could not be built.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A case could not be carried out, for another reason than the one it tests.
    #[error("case `{case}`: {source}")]
    Run {
        /// Which.
        case: &'static str,
        /// Why.
        source: Box<RunError>,
    },
    /// A case's scenario is wrong.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] crate::runtime::RuntimeError),
}

/// Carries out every case; their reports go below `directory`.
///
/// # Errors
/// The environment did not play along.
pub async fn carry_out(
    url: &str,
    directory: &Path,
    display: Display,
    interrupt: &CancellationToken,
) -> Result<Vec<Finding>, SelftestError> {
    let engine = Engine::connect().await?;
    image::ensure(&engine, &Artifact::SABOTEUR, SABOTEUR_IMAGE).await?;
    let mut findings = Vec::with_capacity(CASES.len());
    for (number, case) in CASES.iter().enumerate() {
        if interrupt.is_cancelled() {
            break;
        }
        if display != Display::Quiet {
            eprintln!("{}/{}: {}", number + 1, CASES.len(), case.name);
        }
        let scenario = scenario(case, number, url, directory)?;
        let result = run(&scenario, "hitless selftest", Display::Quiet, interrupt).await;
        findings.push(judge(case, result)?);
    }
    Ok(findings)
}

fn scenario(case: &Case, number: usize, url: &str, directory: &Path) -> Result<Scenario, ScenarioError> {
    let port = url.rsplit(':').next().unwrap_or("8080").trim_end_matches('/').to_owned();
    let directory: PathBuf =
        directory.join(format!("{:02}-{}", number + 1, case.name.replace([' ', ','], "-")));
    let common = Options {
        url: Some(url.to_owned()),
        rounds: Some(1),
        cohort: vec![case.cohorts.to_owned()],
        rate: Some(400.0),
        settle: Some("300ms".to_owned()),
        lead: Some("500ms".to_owned()),
        // A handshake that meets a closing listener is repeated after a second.
        request_timeout: Some("3s".to_owned()),
        stop_timeout: Some("3s".to_owned()),
        ready_timeout: Some("5s".to_owned()),
        report_dir: Some(directory),
        ..Options::default()
    };
    let options = match case.subject {
        Subject::Handover => {
            Options { preset: Some("handover".to_owned()), image: Some(SERVER_IMAGE.to_owned()), ..common }
        }
        Subject::Saboteur(mode) => Options {
            image: Some(SABOTEUR_IMAGE.to_owned()),
            env: vec![
                format!("SABOTEUR={mode}"),
                format!("SABOTEUR_LISTEN=0.0.0.0:{port}"),
                LAME_DUCK.to_owned(),
            ],
            expect_body: Some("hello world".to_owned()),
            echo_header: Some("x-request-id".to_owned()),
            ready: Some("log:\"listening\"".to_owned()),
            ..common
        },
    };
    Scenario::from_options(&options)
}

fn judge(case: &'static Case, result: Result<(Report, PathBuf), RunError>) -> Result<Finding, SelftestError> {
    let finding = |seen: String, outcome| Finding { case, seen, outcome };
    match result {
        Ok((report, _)) => Ok(finding(describe(&report), outcome(case.expected, &report))),
        Err(error) if case.expected == Expected::NotReady && is_not_ready(&error) => {
            Ok(finding("not ready in time".to_owned(), Outcome::Right))
        }
        Err(source) => Err(SelftestError::Run { case: case.name, source: Box::new(source) }),
    }
}

fn is_not_ready(error: &RunError) -> bool {
    use crate::experiment::ExperimentError;
    use crate::runtime::RuntimeError;
    matches!(error, RunError::Experiment(ExperimentError::Runtime(RuntimeError::NotReady { .. })))
}

/// Holds a run against what had to be seen. A class that must not occur is wrong however busy the machine was; what had to
/// occur and did not is wrong unless the run could not have shown it.
fn outcome(expected: Expected, report: &Report) -> Outcome {
    // The harness's own shortages say nothing of the server.
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
    let all_restarts = |is_so: fn(&RestartInfo) -> bool| are_whole && report.restarts.iter().all(is_so);
    let failed = report.verdict == Verdict::Fail;
    let is_short = report.totals.by_class.contains_key(&FailureClass::HarnessResource);
    let is_dead = report.reasons.iter().any(|reason| reason.contains("ended on its own"));
    let (is_seen, is_contradicted) = match expected {
        Expected::Clean => (report.verdict == Verdict::Pass, report.totals.failed > 0),
        Expected::Behaves => (are_whole, !classes.is_empty()),
        Expected::Only(class) => (failed && classes.contains(&class), has_others(class)),
        Expected::AtLeast(class) => (failed && classes.contains(&class), false),
        Expected::ClosedIdle => (closed_idle(report) > 0, has_others(FailureClass::EmptyReply)),
        Expected::WhileDraining(class) => {
            (failed && classes.contains(&class), has_others(class) || in_other_phases(class))
        }
        Expected::Killed => {
            (all_restarts(|restart| restart.killed), are_whole && !all_restarts(|restart| restart.killed))
        }
        Expected::ExitCode(code) => {
            let has_code = |restart: &RestartInfo| restart.exit_code == Some(code) && !restart.killed;
            let are_right = report.restarts.iter().all(has_code);
            (are_whole && are_right, !classes.is_empty() || (are_whole && !are_right))
        }
        Expected::Death => {
            (is_dead && report.verdict != Verdict::Pass, is_dead && report.verdict == Verdict::Pass)
        }
        Expected::NotReady => (false, report.totals.requests > 0),
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

/// Whether a failure is what the end of a listener may cost any server that closes one: the kernel resets what it had
/// completed and nobody had accepted. The saboteurs close theirs as carefully as can be, which leaves it rare.
fn is_of_the_queue(failure: &FailureInfo) -> bool {
    failure.class == FailureClass::ResetBeforeResponse
        && failure.phase == Phase::Draining
        && failure.connection_request == Some(1)
}

/// Connections that the server closed while they were idle.
fn closed_idle(report: &Report) -> u64 {
    report.cohorts.iter().filter_map(|cohort| cohort.closed_idle).sum()
}

fn describe(report: &Report) -> String {
    let mut parts: Vec<String> =
        report.totals.by_class.iter().map(|(class, count)| format!("{class} {count}")).collect();
    if parts.is_empty() {
        parts.push(format!("0 of {} failed", report.totals.requests));
    }
    if closed_idle(report) > 0 {
        parts.push(format!("{} closed while idle", closed_idle(report)));
    }
    let killed = report.restarts.iter().filter(|restart| restart.killed).count();
    if killed > 0 {
        parts.push(format!("killed {killed}"));
    }
    let mut codes: Vec<i64> = report.restarts.iter().filter_map(|restart| restart.exit_code).collect();
    codes.dedup();
    if codes.iter().any(|code| *code != 0) && killed == 0 {
        parts.push(format!(
            "exit code {}",
            codes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ));
    }
    if report.reasons.iter().any(|reason| reason.contains("ended on its own")) {
        parts.push("ended on its own".to_owned());
    }
    parts.push(report.verdict.name().to_owned());
    parts.join(", ")
}

impl Expected {
    /// In words.
    fn words(self) -> String {
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
}

/// The table: one case a row.
#[must_use]
pub fn render(findings: &[Finding], style: Style) -> String {
    let mut table = table(&["server", "expected", "seen", ""]);
    let mut words = Vec::new();
    for finding in findings {
        let word = (finding.outcome.verdict(), finding.outcome.word());
        words.push(word);
        table.add_row([
            finding.case.name.to_owned(),
            finding.case.expected.words(),
            finding.seen.clone(),
            word.1.to_owned(),
        ]);
    }
    painted(&table, style, &words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::report;

    #[test]
    fn table_of_the_findings_keeps_its_80_columns_and_its_words_whole() {
        let findings: Vec<Finding> = CASES
            .iter()
            .map(|case| Finding {
                case,
                seen: "refused 1,234, and ".repeat(6) + "ok",
                outcome: if case.name.len() % 2 == 0 { Outcome::Right } else { Outcome::Wrong },
            })
            .collect();
        let plain = render(&findings, Style::Plain);
        assert!(plain.lines().all(|line| line.chars().count() <= 80), "{plain}");
        let coloured = render(&findings, Style::Coloured);
        let right = findings.iter().filter(|finding| finding.outcome == Outcome::Right).count();
        assert_eq!(coloured.matches("\u{1b}[1;32mok\u{1b}[0m").count(), right, "{coloured}");
        assert_eq!(
            coloured.matches("\u{1b}[1;31mWRONG\u{1b}[0m").count(),
            findings.len() - right,
            "{coloured}"
        );
    }

    #[test]
    fn every_case_is_a_scenario_that_can_be_run() {
        for (number, case) in CASES.iter().enumerate() {
            let scenario = scenario(case, number, "http://127.0.0.1:8080/", Path::new("x"));
            assert!(scenario.is_ok(), "{}: {:?}", case.name, scenario.err());
        }
    }

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
            (Expected::Killed, with(|report| report.restarts.iter_mut().for_each(|one| one.killed = true))),
            (
                Expected::ExitCode(1),
                with(|report| report.restarts.iter_mut().for_each(|one| one.exit_code = Some(1))),
            ),
            (
                Expected::Death,
                with(|report| {
                    report.verdict = Verdict::Inconclusive;
                    report.reasons = vec!["replica server-a ended on its own".to_owned()];
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
            assert_eq!(outcome(expected, &report), Outcome::Right, "{expected:?}: {}", describe(&report));
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
                assert_eq!(outcome(case.expected, &seen(wrong)), Outcome::Wrong, "{}: {wrong}", case.name);
            }
            assert_eq!(outcome(case.expected, &report(&[])), Outcome::Wrong, "{}: nothing", case.name);
        }
        for class in FailureClass::ALL.into_iter().filter(|class| class.is_servers()) {
            assert_eq!(outcome(Expected::Clean, &seen(class)), Outcome::Wrong, "{class}");
            assert_eq!(outcome(Expected::Behaves, &seen(class)), Outcome::Wrong, "{class}");
        }
    }

    #[test]
    fn losses_outside_of_the_drain_are_wrong_where_only_the_drain_may_lose() {
        let class = FailureClass::HttpError;
        let report = report(&[(class, Phase::Draining), (class, Phase::Steady)]);
        assert_eq!(outcome(Expected::WhileDraining(class), &report), Outcome::Wrong);
        assert_eq!(outcome(Expected::Only(class), &report), Outcome::Right);
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
            let told = outcome(expected, &busy(report(&[])));
            assert_eq!(told, Outcome::Unclear, "{expected:?}");
        }
        let mut cut = report(&[]);
        (cut.run.cut_short, cut.verdict) = (Some("interrupted".to_owned()), Verdict::Inconclusive);
        assert_eq!(outcome(Expected::Behaves, &cut), Outcome::Unclear, "it was cut short after its restarts");
        assert_eq!(outcome(Expected::Clean, &busy(seen(FailureClass::Refused))), Outcome::Wrong);
        let short = report(&[(FailureClass::HarnessResource, Phase::Steady)]);
        assert_eq!(outcome(Expected::Clean, &short), Outcome::Unclear, "the harness's own shortage");
        let silent = report(&[
            (FailureClass::HarnessResource, Phase::Steady),
            (FailureClass::EmptyReply, Phase::Draining),
        ]);
        let timeout = Expected::AtLeast(FailureClass::Timeout);
        assert_eq!(outcome(timeout, &silent), Outcome::Unclear, "its timeouts may be among the shortages");
        assert_eq!(outcome(Expected::NotReady, &report(&[])), Outcome::Wrong, "it was under load");
    }

    #[test]
    fn one_wrong_case_makes_all_wrong_and_one_missing_makes_them_unclear() {
        let findings = |outcome: fn(usize) -> Outcome, count: usize| -> Vec<Finding> {
            let case = |number: usize| Finding {
                case: &CASES[number],
                seen: String::new(),
                outcome: outcome(number),
            };
            (0..count).map(case).collect()
        };
        let all = CASES.len();
        assert_eq!(Outcome::of_all(&findings(|_| Outcome::Right, all)), Outcome::Right);
        assert_eq!(Outcome::of_all(&findings(|_| Outcome::Right, all - 1)), Outcome::Unclear);
        let one = |number| if number == 3 { Outcome::Wrong } else { Outcome::Unclear };
        assert_eq!(Outcome::of_all(&findings(one, all)), Outcome::Wrong);
        let coloured = render(&findings(one, all), Style::Coloured);
        assert_eq!(coloured.matches("\u{1b}[1;31mWRONG").count(), 1, "{coloured}");
    }
}
