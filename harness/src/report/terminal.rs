//! The table at the end of a run, at most 80 columns wide.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use crate::analysis::report::{Report, RestartSummary};
use crate::analysis::summary::Latency;
use crate::analysis::verdict::Verdict;
use crate::model::failure::ByClass;
use crate::model::failure::FailureClass;
use crate::model::phase::Phase;
use crate::report::digest::{Ends, behind_schedule, bound, mean_phases};
use crate::report::headline::{advice, sentence};
use crate::report::text::{clipped, counted, short_ms, visible, wrapped};

/// The widest that anything here gets.
pub const WIDTH: u16 = 80;
/// How many failures are shown one by one.
const SHOWN_FAILURES: usize = 5;
/// How many ends that are no plain exit are told one by one.
const SHOWN_ENDS: usize = 10;
const SHOWN_REPLICAS: usize = 16;
const NAME_LENGTH: usize = 40;

/// Whether escape codes for colours may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A terminal that shows colours.
    Coloured,
    /// Anything else.
    Plain,
}

impl Style {
    /// `text` in the colour of a verdict.
    #[must_use]
    pub fn paint(self, verdict: Verdict, text: &str) -> String {
        let code = match verdict {
            Verdict::Pass => "32",
            Verdict::Fail => "31",
            Verdict::Inconclusive => "33",
        };
        match self {
            Self::Coloured => format!("\x1b[1;{code}m{text}\x1b[0m"),
            Self::Plain => text.to_owned(),
        }
    }
}

/// The report for a terminal: what was done, the cohorts, what failed and why, the verdict, and what to do.
#[must_use]
pub fn render(report: &Report, style: Style) -> String {
    let mut out = String::new();
    let complete = report.restarts.iter().filter(|restart| restart.is_complete).count();
    let done = format!(
        "{}: {} requests over {} of {} in {:.1} s",
        clipped(&report.scenario.subject, 200),
        report.totals.requests,
        counted(complete as u64, "restart"),
        counted(report.scenario.replicas as u64, "replica"),
        report.run.load_ms / 1e3,
    );
    line(&mut out, &done, 2);
    let _ = writeln!(out, "{}\n", cohort_table(report));
    for cohort in behind_schedule(report) {
        line(&mut out, &cohort, 2);
    }
    restarts(&mut out, report);
    answers(&mut out, report);
    resets(&mut out, report);
    failures(&mut out, report);
    verdict(&mut out, report, style);
    told(&mut out, report);
    out
}

/// The page's first sentence, and what it says to do.
fn told(out: &mut String, report: &Report) {
    let _ = writeln!(out);
    line(out, &visible(&sentence(report)), 0);
    let advice = advice(report);
    if !advice.is_empty() {
        let _ = writeln!(out, "\nWhat to do:");
    }
    for one in advice {
        line(out, &format!("- {}", visible(&one)), 2);
    }
}

/// One line, or several of [`WIDTH`] columns, the further ones behind `indent` spaces.
fn line(out: &mut String, text: &str, indent: usize) {
    let _ = writeln!(out, "{}", wrapped(text, usize::from(WIDTH), indent));
}

/// A table with this project's looks.
#[must_use]
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH)
        .set_header(header.to_vec());
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A table whose rows end with these words, each in the colour of its verdict. They are painted when the table is laid
/// out, since a colour's escape codes would be taken for text and torn.
#[must_use]
pub fn painted(table: &Table, style: Style, words: &[(Verdict, &str)]) -> String {
    let mut words = words.iter().peekable();
    let lines = table.to_string();
    let mut paint = |line: &str| {
        let (verdict, word) = words.peek()?;
        // The lines that follow the first one of a row have nothing in the last column.
        let rest = line.strip_suffix(' ').unwrap_or(line).strip_suffix(word)?.strip_suffix(' ')?;
        words.next();
        Some(format!("{rest} {}", style.paint(*verdict, word)))
    };
    let lines: Vec<String> =
        lines.lines().map(|line| paint(line).unwrap_or_else(|| line.to_owned())).collect();
    lines.join("\n")
}

fn cohort_table(report: &Report) -> Table {
    let mut table = table(&["cohort", "requests", "failed", "conns", "p50", "p99", "slowest", "95% bound"]);
    for cohort in &report.cohorts {
        let Latency { p50, p99, max, .. } = cohort.latency;
        table.add_row([
            clipped(&cohort.name, NAME_LENGTH),
            cohort.counts.requests.to_string(),
            cohort.counts.failed.to_string(),
            cohort.connections_opened.to_string(),
            short_ms(p50),
            short_ms(p99),
            short_ms(max),
            bound(cohort.upper_bound_per_million),
        ]);
    }
    table
}

fn restarts(out: &mut String, report: &Report) {
    if report.restarts.is_empty() {
        return;
    }
    let stretches: Vec<String> =
        mean_phases(report).into_iter().map(|(phase, ms)| format!("{phase} {}", short_ms(ms))).collect();
    if !stretches.is_empty() {
        line(out, &format!("a restart on average: {}", stretches.join(", ")), 2);
    }
    let unusual: Vec<String> = report.restarts.iter().filter_map(unusual_end).collect();
    for end in unusual.iter().take(SHOWN_ENDS) {
        line(out, end, 2);
    }
    if unusual.len() > SHOWN_ENDS {
        line(out, &format!("and {} more ended so", unusual.len() - SHOWN_ENDS), 2);
    }
}

fn unusual_end(restart: &RestartSummary) -> Option<String> {
    let replica = clipped(&restart.restart.replica, NAME_LENGTH);
    match restart.restart.exit_code {
        _ if restart.restart.killed => Some(format!(
            "{replica} did not stop in time and was killed (round {}, after {})",
            restart.restart.round,
            short_ms(restart.phases.get(&Phase::Draining).copied().unwrap_or_default())
        )),
        Some(code) if code != 0 => {
            Some(format!("{replica} ended with exit code {code} (round {})", restart.restart.round))
        }
        _ => None,
    }
}

fn answers(out: &mut String, report: &Report) {
    if report.replicas.is_empty() {
        return;
    }
    let shares: Vec<String> = report
        .replicas
        .iter()
        .take(SHOWN_REPLICAS)
        .map(|replica| format!("{} {:.0} %", clipped(&replica.name, NAME_LENGTH), replica.share * 100.0))
        .collect();
    let rest = if report.replicas.len() > SHOWN_REPLICAS { ", ..." } else { "" };
    line(out, &format!("answered by: {}{rest}", shares.join(", ")), 2);
}

/// Always said, resets above all.
fn resets(out: &mut String, report: &Report) {
    let Ends { refused, empty, resets, other } = Ends::of(&report.totals.by_class);
    let _ =
        writeln!(out, "refused {refused}, empty replies {empty}, resets {resets}, other failures {other}");
}

fn failures(out: &mut String, report: &Report) {
    if report.failures.is_empty() {
        return;
    }
    let mut table = table(&["failure", "curl", "requests", "while"]);
    for (class, count) in &report.totals.by_class {
        table.add_row([
            class.to_string(),
            class.curl_exit().map_or_else(|| "-".to_owned(), |code| format!("({code})")),
            count.to_string(),
            phases_of(report, *class),
        ]);
    }
    let _ = writeln!(out, "\n{table}\n\nthe first of them:");
    for failure in report.failures.iter().take(SHOWN_FAILURES) {
        let cohort = clipped(failure.cohort.name(), NAME_LENGTH);
        line(out, &format!("{:8.3} s  {cohort}  {}", failure.t.ms() / 1e3, visible(&failure.blame)), 12);
        if failure.class == FailureClass::Other {
            line(out, &format!("- {}", clipped(&failure.detail, 400)), 2);
        }
    }
}

fn phases_of(report: &Report, class: FailureClass) -> String {
    let in_phase = |by_class: &ByClass| by_class.get(&class).copied().unwrap_or_default();
    let parts: Vec<String> = report
        .phases
        .iter()
        .filter(|phase| in_phase(&phase.counts.by_class) > 0)
        .map(|phase| format!("{} {}", phase.phase, in_phase(&phase.counts.by_class)))
        .collect();
    parts.join(", ")
}

fn verdict(out: &mut String, report: &Report, style: Style) {
    let _ = writeln!(out);
    for reason in &report.reasons {
        line(out, &format!("- {}", visible(reason)), 2);
    }
    let held: Vec<String> = report
        .budgets
        .iter()
        .filter(|result| result.holds)
        .map(|result| clipped(&result.budget.to_string(), 100))
        .collect();
    let budgets = if held.is_empty() { String::new() } else { format!(" (held: {})", held.join(", ")) };
    let word = report.verdict.name().to_uppercase();
    // Colours take no column: the line is wrapped without them.
    let plain = wrapped(&format!("{word}{budgets}"), usize::from(WIDTH), 2);
    let _ = writeln!(out, "{}", plain.replacen(&word, &style.paint(report.verdict, &word), 1));
}
