//! What GitHub shows beside a job: a line for the verdict and one for each kind of failure (GitHub Docs, "Workflow
//! commands for GitHub Actions").

use std::fmt::Write as _;

use crate::report::Report;
use crate::report::headline::sentence;
use crate::report::text::{clipped, count};
use crate::verdict::Verdict;

/// GitHub shows ten errors and ten warnings a step.
const MOST: usize = 9;

/// The lines; nothing for a run that passed.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    let level = match report.verdict {
        Verdict::Pass => return out,
        Verdict::Fail => "error",
        Verdict::Inconclusive => "warning",
    };
    let title = format!("hitless: {}", clipped(&report.scenario.subject, 80));
    line(&mut out, level, &title, &sentence(report));
    for (class, failed) in report.totals.by_class.iter().take(MOST) {
        let first = report.failures.iter().find(|failure| failure.class == *class);
        let example = first.map_or_else(String::new, |failure| {
            format!(", the first one at {:.3} s: {}", failure.t / 1e3, clipped(&failure.blame, 300))
        });
        line(&mut out, "error", &title, &format!("{} {}{example}", count(*failed), class.label()));
    }
    for reason in report.blind_spots.iter().take(MOST) {
        line(&mut out, "warning", &title, &clipped(reason, 400));
    }
    out
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
