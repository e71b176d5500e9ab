//! `summary.md`: the report for a job's page or a comment, verdict first, the rest folded.

use std::fmt::Write as _;

use crate::analysis::report::Report;
use crate::analysis::verdict::Verdict;
use crate::model::phase::Phase;
use crate::report::digest::{self, bound, classes, seen};
use crate::report::headline::{advice, sentence};
use crate::report::text::{clipped, count, short_ms};

/// GitHub shows at most 1 MiB a step; with these a summary stays far below, whatever the names in it.
const MOST_RESTARTS: usize = 100;
const MOST_FAILURES: usize = 25;
const MOST_ROWS: usize = 50;
const NAME_LENGTH: usize = 60;

/// The text of `summary.md`.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    let sign = match report.verdict {
        Verdict::Pass => "✅",
        Verdict::Fail => "❌",
        Verdict::Inconclusive => "⚠️",
    };
    let _ = writeln!(out, "### {sign} {}\n", escaped(&sentence(report), usize::MAX));
    for reason in report.blind_spots.iter().take(MOST_ROWS) {
        let _ = writeln!(out, "- {}", escaped(reason, 300));
    }
    for step in advice(report) {
        let _ = writeln!(out, "\n{}", escaped(&step, usize::MAX));
    }
    budgets(&mut out, report);
    cohorts(&mut out, report);
    folded(&mut out, &format!("Restarts ({})", count(report.restarts.len() as u64)), &restarts(report));
    folded(&mut out, &format!("Failures ({})", count(report.totals.failed)), &failures(report));
    folded(&mut out, "Machine, and how to run it again", &machine(report));
    out
}

fn budgets(out: &mut String, report: &Report) {
    let _ = writeln!(out, "\n| budget | seen | |\n| --- | ---: | --- |");
    for result in report.budgets.iter().take(MOST_ROWS) {
        let word = match (result.holds, &result.excuse) {
            (true, _) => "holds",
            (false, None) => "**broken**",
            (false, Some(_)) => "broken, the machine may be why",
        };
        let _ = writeln!(
            out,
            "| {} | {} | {word} |",
            escaped(&result.budget.to_string(), NAME_LENGTH),
            seen(result)
        );
    }
}

fn cohorts(out: &mut String, report: &Report) {
    let _ = writeln!(
        out,
        "\n| cohort | requests | failed | | p50 | p99 | slowest | 95 % bound |\n\
         | --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |"
    );
    for cohort in report.cohorts.iter().take(MOST_ROWS) {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            escaped(&cohort.name, NAME_LENGTH),
            count(cohort.counts.requests),
            count(cohort.counts.failed),
            classes(&cohort.counts.by_class),
            short_ms(cohort.latency.p50),
            short_ms(cohort.latency.p99),
            short_ms(cohort.latency.max),
            bound(cohort.upper_bound_per_million),
        );
    }
    for cohort in digest::behind_schedule(report).iter().take(MOST_ROWS) {
        let _ = writeln!(out, "\n{}", escaped(cohort, usize::MAX));
    }
}

fn restarts(report: &Report) -> String {
    let mut out = String::from(
        "| # | replica | round | at | draining | gap | starting | requests | failed | |\n\
         | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n",
    );
    let (shown, left_out) = digest::restarts(report, MOST_RESTARTS);
    for (index, restart) in shown {
        let phase = |phase| restart.phases.get(&phase).map_or_else(|| "–".to_owned(), |ms| short_ms(*ms));
        let _ = writeln!(
            out,
            "| {} | {} | {} | {:.2} s | {} | {} | {} | {} | {} | {} |",
            index + 1,
            escaped(&restart.restart.replica, NAME_LENGTH),
            restart.restart.round,
            restart.restart.began.ms() / 1e3,
            phase(Phase::Draining),
            phase(Phase::Gap),
            phase(Phase::Starting),
            count(restart.counts.requests),
            count(restart.counts.failed),
            classes(&restart.counts.by_class),
        );
    }
    if left_out > 0 {
        let _ = writeln!(out, "\n{} more are in report.json.", count(left_out));
    }
    out
}

fn failures(report: &Report) -> String {
    if report.failures.is_empty() {
        return String::new();
    }
    let mut out = String::from("| at | cohort | curl | what happened |\n| ---: | --- | ---: | --- |\n");
    for failure in report.failures.iter().take(MOST_FAILURES) {
        let curl = failure.curl_exit.map_or_else(|| "–".to_owned(), |code| format!("({code})"));
        let _ = writeln!(
            out,
            "| {:.3} s | {} | {curl} | {} |",
            failure.t.ms() / 1e3,
            escaped(failure.cohort.name(), NAME_LENGTH),
            escaped(&failure.blame, 400),
        );
    }
    let total: u64 = report.totals.by_class.values().sum();
    if total > MOST_FAILURES as u64 {
        let _ = writeln!(out, "\nThe first {MOST_FAILURES} of {}.", count(total));
    }
    out
}

fn machine(report: &Report) -> String {
    let machine = &report.environment;
    format!(
        "{}\n\nkernel {}, {}, {} CPUs, run {} with hitless {}\n",
        code_block(&report.run.command),
        escaped(&machine.kernel, NAME_LENGTH),
        escaped(&machine.engine, NAME_LENGTH),
        machine.cpus,
        escaped(&report.run.id, NAME_LENGTH),
        escaped(&report.run.hitless, NAME_LENGTH),
    )
}

fn folded(out: &mut String, title: &str, content: &str) {
    if !content.is_empty() {
        let _ = writeln!(out, "\n<details><summary>{title}</summary>\n\n{content}\n</details>");
    }
}

/// Text as it is, whatever Markdown or HTML would make of it: every sign that could mean something is escaped, also
/// those that would mention somebody, show an emoji or link to an issue or a page (GitHub Flavored Markdown, "Backslash
/// escapes", "Entity references", "Autolinks").
pub(crate) fn escaped(text: &str, most: usize) -> String {
    let mut out = String::with_capacity(text.len());
    let text = clipped(text, most);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let is_before_word = characters.peek().is_some_and(|next| !next.is_whitespace());
        match character {
            '<' | '>' | '&' | '@' | '#' | '|' => {
                let _ = write!(out, "&#{};", u32::from(character));
            }
            ':' if is_before_word => out.push_str("&#58;"),
            '.' if out.to_ascii_lowercase().ends_with("www") => out.push_str("&#46;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '~' | '$' => {
                out.push('\\');
                out.push(character);
            }
            other => out.push(other),
        }
    }
    out
}

/// A block of code, fenced by more backticks than the text has in a row.
fn code_block(text: &str) -> String {
    let text = clipped(text, 2_000);
    let longest = text.split(|character| character != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}sh\n{text}\n{fence}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_is_markup() {
        assert_eq!(
            escaped("a|b <script> @who #1 `x` *y*", 99),
            "a&#124;b &#60;script&#62; &#64;who &#35;1 \\`x\\` \\*y\\*"
        );
        assert_eq!(code_block("echo ```` done"), "`````sh\necho ```` done\n`````");
    }
}
