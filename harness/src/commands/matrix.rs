//! `hitless matrix`: the presets one after the other under the same load: the seed's story as one table, and whether it is still true.
//!
//! `normal` and `graceful` lose requests by design, so their own verdicts are no verdict on the whole: what counts is that
//! each preset loses what it is known to lose, and nothing else.

pub mod table;

use std::path::Path;

use clap::ArgMatches;
use tokio_util::sync::CancellationToken;

use super::interrupt::interrupt;
use super::output::{Format, publish, style};
use super::run::{Ran, RunArgs};
use super::{CommandError, exit_code};
use crate::analysis::report::Report;
use crate::analysis::verdict::Verdict;
use crate::commands::run::{RunError, run};
use crate::console;
use crate::model::cohort::CohortKind;
use crate::options::Options;
use crate::progress::Display;
use crate::report::digest::Ends;
use crate::report::json;
use crate::scenario::{Preset, Scenario, ScenarioError};

pub(super) const EXIT_CODES: &str = "\
normal and graceful lose requests by design, so what counts is whether each preset loses what
it is known to lose, and nothing else.

Exit codes:
  0  each preset did as is known of it
  1  one did not
  2  usage or scenario error
  3  environment: no container engine, port taken, image missing, ...
  4  inconclusive: a run could not have shown it, or the matrix was interrupted";

pub(super) async fn execute(args: RunArgs, flags: &ArgMatches) -> Result<u8, CommandError> {
    let (output, (options, command)) = (args.output, args.resolved("matrix", flags)?);
    let scenarios = scenarios(&options, &Preset::ALL)?;
    let runs = carry_out(&scenarios, &command, output.display(), &interrupt()).await?;
    runs.iter().for_each(Ran::note_unwritten);
    let is_written = runs.iter().all(|ran| ran.unwritten.is_none());
    let (reports, directories): (Vec<_>, Vec<_>) =
        runs.into_iter().map(|ran| (ran.report, ran.directory)).unzip();
    let findings = judge(&reports);
    reports.iter().for_each(publish);
    match output.format {
        Format::Json => console::print(&json::render_all(&reports))?,
        Format::Text if output.quiet => {}
        Format::Text => {
            console::print(&format!("{}\n", table::render(&findings, style())))?;
            for directory in directories {
                console::print(&format!("report: {}\n", directory.display()))?;
            }
        }
    }
    Ok(match Known::of_all(&findings, scenarios.len()).verdict() {
        Verdict::Fail => 1,
        _ if !is_written => 3,
        verdict => exit_code(verdict),
    })
}

/// One preset's scenario for each preset; `options` say the rest.
///
/// # Errors
/// The options cannot be used with some preset.
pub fn scenarios(options: &Options, presets: &[Preset]) -> Result<Vec<Scenario>, ScenarioError> {
    presets
        .iter()
        .map(|preset| {
            let name = preset.name().to_owned();
            let report_dir = options.report_dir.as_deref().unwrap_or(Path::new("hitless-report/matrix"));
            let options = Options {
                report_dir: Some(report_dir.join(&name)),
                preset: Some(name),
                replicas: options.replicas.filter(|_| preset.is_shared_port()),
                ..options.clone()
            };
            Scenario::from_options(&options)
        })
        .collect()
}

/// Carries out every scenario; stops at the first that cannot be carried out, or when interrupted.
///
/// # Errors
/// The environment did not play along.
pub async fn carry_out(
    scenarios: &[Scenario],
    command: &str,
    display: Display,
    interrupt: &CancellationToken,
) -> Result<Vec<Ran>, RunError> {
    let mut reports = Vec::with_capacity(scenarios.len());
    for scenario in scenarios {
        if interrupt.is_cancelled() {
            break;
        }
        if display != Display::Quiet {
            console::note(&scenario.subject_name());
        }
        reports.push(run(scenario, command, display, interrupt).await?);
    }
    Ok(reports)
}

/// A preset's run, and what it says of what is known of the preset.
#[derive(Debug, Clone, Copy)]
pub struct Finding<'a> {
    /// The run.
    pub report: &'a Report,
    /// Whether it lost what was to be lost.
    pub known: Known,
}

/// Holds each run against what is known of its preset.
#[must_use]
pub fn judge(reports: &[Report]) -> Vec<Finding<'_>> {
    reports.iter().map(|report| Finding { report, known: Known::of(report) }).collect()
}

/// What a preset's run says of what is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It lost what it is known to lose, and nothing else.
    Confirmed,
    /// It did not.
    Refuted,
    /// The run could not have shown it.
    Unclear,
}

impl Known {
    /// Holds a run against what is known of its preset. Nothing is known of what is no preset of ours.
    #[must_use]
    pub fn of(report: &Report) -> Self {
        let Some(preset) = report.scenario.preset.as_deref().and_then(Preset::named) else {
            return Self::Unclear;
        };
        let Ends { refused, empty, resets, other } = Ends::of(&report.totals.by_class);
        let unanswered_fresh = report
            .cohorts
            .iter()
            .find(|cohort| cohort.name == CohortKind::Fresh.name())
            .map_or(0, |fresh| Ends::of(&fresh.counts.by_class).empty);
        let (is_seen, is_more_seen) = match preset {
            Preset::Normal => (empty + resets > 0, false),
            Preset::Graceful => (refused > 0, unanswered_fresh > 0),
            Preset::Reuseport => (true, refused + unanswered_fresh > 0),
            Preset::Handover => (true, refused + empty + resets + other > 0),
        };
        match report.verdict {
            _ if is_more_seen => Self::Refuted,
            Verdict::Inconclusive => Self::Unclear,
            _ if is_seen => Self::Confirmed,
            _ => Self::Refuted,
        }
    }

    /// What a matrix of `asked` presets says as a whole: refuted if one is, unclear if one is or was not run.
    #[must_use]
    pub fn of_all(findings: &[Finding<'_>], asked: usize) -> Self {
        let has = |known| findings.iter().any(|finding| finding.known == known);
        if has(Self::Refuted) {
            Self::Refuted
        } else if has(Self::Unclear) || findings.len() < asked {
            Self::Unclear
        } else {
            Self::Confirmed
        }
    }

    /// The verdict that it amounts to.
    #[must_use]
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::Confirmed => Verdict::Pass,
            Self::Refuted => Verdict::Fail,
            Self::Unclear => Verdict::Inconclusive,
        }
    }
}

/// What each preset is known to lose.
pub(crate) const fn known_of(preset: Preset) -> &'static str {
    match preset {
        Preset::Normal => "loses requests in flight",
        Preset::Graceful => "refuses new connections, drops none that it accepted",
        Preset::Reuseport => "refuses nothing, drops none that it accepted, may reset",
        Preset::Handover => "loses nothing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::failure::FailureClass;
    use crate::model::phase::Phase;
    use crate::samples::report;

    const fn lost(class: FailureClass) -> (FailureClass, Phase) {
        (class, Phase::Draining)
    }

    fn of(preset: Preset, failures: &[(FailureClass, Phase)]) -> Report {
        let mut report = report(failures);
        report.scenario.preset = Some(preset.name().to_owned());
        report
    }

    #[test]
    fn each_preset_is_held_against_what_it_is_known_to_lose() {
        use FailureClass::{EmptyReply, Refused, ResetBeforeResponse};
        use Known::{Confirmed, Refuted};
        let cases = [
            (Preset::Normal, vec![EmptyReply, Refused], Confirmed),
            (Preset::Normal, vec![ResetBeforeResponse], Confirmed),
            (Preset::Normal, vec![], Refuted),
            (Preset::Graceful, vec![Refused], Confirmed),
            (Preset::Graceful, vec![], Refuted),
            (Preset::Graceful, vec![Refused, EmptyReply], Refuted),
            (Preset::Reuseport, vec![], Confirmed),
            (Preset::Reuseport, vec![ResetBeforeResponse], Confirmed),
            (Preset::Reuseport, vec![Refused], Refuted),
            (Preset::Reuseport, vec![EmptyReply], Refuted),
            (Preset::Handover, vec![], Confirmed),
            (Preset::Handover, vec![FailureClass::Timeout], Refuted),
        ];
        for (preset, classes, known) in cases {
            let failures: Vec<_> = classes.iter().copied().map(lost).collect();
            assert_eq!(Known::of(&of(preset, &failures)), known, "{preset} {classes:?}");
        }
    }

    #[test]
    fn whole_matrix_is_confirmed_only_if_every_preset_was_run_and_is() {
        let normal = of(Preset::Normal, &[lost(FailureClass::EmptyReply)]);
        let handover = of(Preset::Handover, &[]);
        let unclear = Report { verdict: Verdict::Inconclusive, ..handover.clone() };
        let refuted = of(Preset::Handover, &[lost(FailureClass::Refused)]);
        let all = |reports: &[&Report]| {
            let reports: Vec<Report> = reports.iter().map(|report| (*report).clone()).collect();
            Known::of_all(&judge(&reports), 2)
        };
        assert_eq!(all(&[&normal, &handover]), Known::Confirmed, "normal fails, as it should");
        assert_eq!(all(&[&normal]), Known::Unclear, "interrupted");
        assert_eq!(all(&[&normal, &unclear]), Known::Unclear);
        assert_eq!(all(&[&unclear, &refuted]), Known::Refuted);
    }
}
