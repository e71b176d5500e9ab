//! The presets' runs as one table, at most 80 columns wide.

use std::fmt::Write as _;

use crate::analysis::report::Report;
use crate::analysis::summary::Counts;
use crate::analysis::verdict::Verdict;
use crate::commands::matrix::{Finding, Known, known_of};
use crate::model::cohort::CohortKind;
use crate::report::digest::Ends;
use crate::report::terminal::{Style, painted, table};
use crate::report::text::{clipped, short_ms};
use crate::scenario::Preset;

/// The table: one preset a row, and one for each of its cohorts; below it, what is known of each preset and whether it
/// was seen.
#[must_use]
pub fn render(findings: &[Finding<'_>], style: Style) -> String {
    let mut table = table(&[
        "preset", "requests", "refused", "empty", "resets", "other", "slowest", "share %", "verdict",
    ]);
    for Finding { report, .. } in findings {
        let name = report.scenario.preset.clone().unwrap_or_else(|| report.scenario.subject.clone());
        let verdict = report.verdict.name().to_owned();
        table.add_row(row(name, &report.totals, slowest(report), shares(report), verdict));
        for cohort in &report.cohorts {
            let name = format!("- {}", clipped(&cohort.name, 7));
            table.add_row(row(name, &cohort.counts, cohort.latency.max, String::new(), String::new()));
        }
    }
    let verdicts = findings.iter().map(|finding| finding.report.verdict);
    let words: Vec<(Verdict, &str)> = verdicts.map(|verdict| (verdict, verdict.name())).collect();
    let mut text = painted(&table, style, &words);
    text.push('\n');
    for Finding { report, known } in findings {
        let Some(preset) = report.scenario.preset.as_deref().and_then(Preset::named) else { continue };
        let word = style.paint(known.verdict(), word(*known));
        let _ = write!(text, "\n{preset} {}: {word}", known_of(preset));
    }
    text
}

const fn word(known: Known) -> &'static str {
    match known {
        Known::Confirmed => "as known",
        Known::Refuted => "NOT as known",
        Known::Unclear => "unclear",
    }
}

fn row(name: String, counts: &Counts, slowest_ms: f64, share: String, verdict: String) -> [String; 9] {
    let Ends { refused, empty, resets, other } = Ends::of(&counts.by_class);
    [
        name,
        counts.requests.to_string(),
        refused.to_string(),
        empty.to_string(),
        resets.to_string(),
        other.to_string(),
        short_ms(slowest_ms),
        share,
        verdict,
    ]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::matrix::judge;
    use crate::model::failure::FailureClass;
    use crate::model::phase::Phase;
    use crate::samples::report;

    #[test]
    fn colours_take_no_column() {
        let of = |preset: Preset, failures| {
            let mut report = report(failures);
            report.scenario.preset = Some(preset.name().to_owned());
            report
        };
        let lost = [(FailureClass::EmptyReply, Phase::Draining)];
        let reports = [of(Preset::Normal, &lost), of(Preset::Handover, &[])];
        let findings = judge(&reports);
        let (plain, coloured) = (render(&findings, Style::Plain), render(&findings, Style::Coloured));
        let bare = coloured.replace("\u{1b}[0m", "");
        let bare =
            ["32", "31", "33"].iter().fold(bare, |text, code| text.replace(&format!("\u{1b}[1;{code}m"), ""));
        let trimmed = |text: &str| text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        assert_eq!(trimmed(&bare), trimmed(&plain));
        assert_eq!(coloured.matches("\u{1b}[1;31mfail").count(), 1, "{coloured}");
        assert_eq!(coloured.matches("\u{1b}[1;32mpass").count(), 1, "{coloured}");
        assert!(plain.lines().all(|line| line.chars().count() <= 80), "{plain}");
        assert!(plain.contains("- fresh") && plain.contains("handover loses nothing: as known"), "{plain}");
    }
}
