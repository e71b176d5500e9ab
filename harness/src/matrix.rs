//! The presets one after the other under the same load: the seed's story as one table.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use crate::load::cohort::CohortKind;
use crate::progress::Display;
use crate::report::Report;
use crate::report::digest::Ends;
use crate::report::terminal::{Style, painted, table};
use crate::report::text::short_ms;
use crate::run::{RunError, run};
use crate::scenario::{Options, Preset, Scenario, ScenarioError};

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
) -> Result<Vec<(Report, PathBuf)>, RunError> {
    let mut reports = Vec::with_capacity(scenarios.len());
    for scenario in scenarios {
        if interrupt.is_cancelled() {
            break;
        }
        if display != Display::Quiet {
            eprintln!("{}", scenario.subject_name());
        }
        reports.push(run(scenario, command, display, interrupt).await?);
    }
    Ok(reports)
}

/// The table: one preset a row.
#[must_use]
pub fn render(reports: &[Report], style: Style) -> String {
    let mut table = table(&[
        "preset", "requests", "refused", "empty", "resets", "other", "slowest", "share %", "verdict",
    ]);
    for report in reports {
        let Ends { refused, empty, resets, other } = Ends::of(&report.totals.by_class);
        table.add_row([
            report.scenario.preset.clone().unwrap_or_else(|| report.scenario.subject.clone()),
            report.totals.requests.to_string(),
            refused.to_string(),
            empty.to_string(),
            resets.to_string(),
            other.to_string(),
            short_ms(slowest(report)),
            shares(report),
            report.verdict.name().to_owned(),
        ]);
    }
    let verdicts: Vec<_> = reports.iter().map(|report| (report.verdict, report.verdict.name())).collect();
    painted(&table, style, &verdicts)
}

/// The slowest answer of the cohorts that are not slow on purpose.
fn slowest(report: &Report) -> f64 {
    let fast = report
        .cohorts
        .iter()
        .filter(|cohort| !CohortKind::named(&cohort.name).is_some_and(CohortKind::is_long));
    fast.map(|cohort| cohort.latency.max).fold(0.0, f64::max)
}

/// Each replica's share of the answers, in the order of their names.
fn shares(report: &Report) -> String {
    let shares: Vec<String> =
        report.replicas.iter().map(|replica| format!("{:.0}", replica.share * 100.0)).collect();
    shares.join(":")
}
