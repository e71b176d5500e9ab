//! A comparison for a terminal, at most 80 columns wide.

use std::fmt::Write as _;

use crate::compare::failures::{FailureRow, Scope};
use crate::compare::timings::{Median, TimingRow};
use crate::compare::{Change, Comparison, Outcome, Side};
use crate::report::terminal::{Style, WIDTH, table};
use crate::report::text::{clipped, count, counted, short_ms, visible, wrapped};

const NAME_LENGTH: usize = 24;

/// The comparison as text: the runs, what differs, the numbers, the outcome last.
#[must_use]
pub fn render(comparison: &Comparison, style: Style) -> String {
    let mut out = String::new();
    side(&mut out, "base", &comparison.base);
    side(&mut out, "new ", &comparison.new);
    if !comparison.differences.is_empty() {
        let differences: Vec<String> = comparison.differences.iter().map(|one| clipped(one, 200)).collect();
        line(&mut out, &format!("not the same in both: {}", differences.join("; ")));
    }
    let mut table = table(&["", "base", "new", "ratio", ""]);
    for row in &comparison.failures {
        table.add_row(failure_cells(row));
    }
    for row in &comparison.timings {
        table.add_row(timing_cells(row));
    }
    let _ = writeln!(out, "\n{table}\n");
    for reason in &comparison.reasons {
        line(&mut out, &format!("- {}", visible(reason)));
    }
    let word = comparison.outcome.name().to_uppercase();
    let _ = writeln!(out, "{}", style.paint(comparison.outcome.verdict(), &word));
    if comparison.outcome == Outcome::Inconclusive {
        line(&mut out, "Nothing that was compared is worse, but it could have gone unseen.");
    }
    out
}

fn side(out: &mut String, name: &str, side: &Side) {
    let text = format!(
        "{name}  {}: {} over {}, {} ({})",
        clipped(&side.subject, 200),
        counted(side.requests, "request"),
        counted(side.restarts as u64, "restart"),
        side.verdict.name(),
        clipped(&side.run, 60),
    );
    let _ = writeln!(out, "{}", wrapped(&text, usize::from(WIDTH), 6));
}

fn line(out: &mut String, text: &str) {
    let _ = writeln!(out, "{}", wrapped(text, usize::from(WIDTH), 2));
}

fn failure_cells(row: &FailureRow) -> [String; 5] {
    let name = clipped(&row.name, NAME_LENGTH);
    [
        if row.scope == Scope::Total { name } else { format!("  {name}") },
        count(row.base.failed),
        count(row.new.failed),
        rate_ratio(row),
        word(row.change),
    ]
}

fn timing_cells(row: &TimingRow) -> [String; 5] {
    [clipped(&row.name, NAME_LENGTH), time(row.base), time(row.new), time_ratio(row), word(row.change)]
}

/// How many times the rate.
pub(super) fn rate_ratio(row: &FailureRow) -> String {
    if row.base.rate() <= 0.0 || row.new.requests == 0 {
        return "-".to_owned();
    }
    ratio(row.base.rate(), row.new.rate())
}

/// How many times as long.
pub(super) fn time_ratio(row: &TimingRow) -> String {
    match (row.base, row.new) {
        (Some(base), Some(new)) if base.median_ms > 0.0 => ratio(base.median_ms, new.median_ms),
        _ => "-".to_owned(),
    }
}

fn ratio(base: f64, new: f64) -> String {
    format!("{:.2}x", new / base)
}

/// A median.
pub(super) fn time(sample: Option<Median>) -> String {
    sample.map_or_else(|| "-".to_owned(), |sample| short_ms(sample.median_ms))
}

fn word(change: Change) -> String {
    match change {
        Change::Worse => "WORSE".to_owned(),
        other => other.name().to_owned(),
    }
}
