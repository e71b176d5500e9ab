//! What GitHub shows beside a job: a line for the verdict, for each broken budget, for each kind of failure, and for what
//! the run could not see (GitHub Docs, "Workflow commands for GitHub Actions"). Only what the server is to blame for is
//! an error.

use std::fmt::Write as _;

use crate::analysis::report::Report;
use crate::analysis::verdict::{BudgetResult, Verdict};
use crate::model::failure::FailureClass;
use crate::report::digest::{classed, seen};
use crate::report::headline::sentence;
use crate::report::text::clipped;

/// GitHub shows ten errors and ten warnings a step.
const MOST: usize = 10;

/// The lines; nothing for a run that passed.
#[must_use]
pub fn render(report: &Report) -> String {
    if report.verdict == Verdict::Pass {
        return String::new();
    }
    let title = format!("hitless: {}", clipped(&report.scenario.subject, 80));
    let lines: Vec<(Level, String)> =
        std::iter::once((Level::of(report.verdict == Verdict::Fail), sentence(report)))
            .chain(report.budgets.iter().filter(|result| !result.holds).map(budget))
            .chain(report.totals.by_class.iter().map(|(class, failed)| losses(report, *class, *failed)))
            .chain(report.blind_spots.iter().map(|spot| (Level::Warning, clipped(spot, 400))))
            .collect();
    let mut out = String::new();
    for level in [Level::Error, Level::Warning] {
        for (_, message) in lines.iter().filter(|(of, _)| *of == level).take(MOST) {
            line(&mut out, level.name(), &title, message);
        }
    }
    out
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Error,
    Warning,
}

impl Level {
    const fn of(is_error: bool) -> Self {
        if is_error { Self::Error } else { Self::Warning }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

fn budget(result: &BudgetResult) -> (Level, String) {
    let excuse =
        result.excuse.as_ref().map_or_else(String::new, |why| format!("; but {}", clipped(why, 300)));
    let budget = clipped(&result.budget.to_string(), 80);
    (Level::of(result.is_broken()), format!("budget {budget} is broken: {}{excuse}", seen(result)))
}

/// Failures of one class: an error if a broken budget counts them.
fn losses(report: &Report, class: FailureClass, failed: u64) -> (Level, String) {
    let first = report.failures.iter().find(|failure| failure.class == class);
    let example = first.map_or_else(String::new, |failure| {
        format!(", the first one at {:.3} s: {}", failure.t.ms() / 1e3, clipped(&failure.blame, 300))
    });
    let is_forbidden =
        report.budgets.iter().any(|result| result.is_broken() && result.budget.metric.counts(class));
    (Level::of(is_forbidden), format!("{}{example}", classed(failed, class)))
}

fn line(out: &mut String, level: &str, title: &str, message: &str) {
    let _ = writeln!(out, "::{level} title={}::{}", property(title), data(message));
}

/// The runner's own escapes (`toCommandValue` and `escapeProperty` in actions/toolkit, packages/core/src/command.ts).
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_begin_another_command() {
        let mut out = String::new();
        line(&mut out, "error", "a:b,c", "100%\n::set-env name=x::y");
        assert_eq!(out, "::error title=a%3Ab%2Cc::100%25%0A::set-env name=x::y\n");
    }
}
