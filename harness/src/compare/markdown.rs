//! A comparison as a comment on a change: outcome first, the numbers below.

use std::fmt::Write as _;

use crate::compare::failures::Scope;
use crate::compare::terminal::{rate_ratio, time, time_ratio};
use crate::compare::{Change, Comparison, Outcome, Side};
use crate::report::markdown::escaped;
use crate::report::text::{count, counted};

/// More reasons than these are counted only.
const MOST_REASONS: usize = 25;
const NAME_LENGTH: usize = 60;
const LINE_LENGTH: usize = 400;

/// The comparison as Markdown. Its first line is a mark by which a pipeline finds its own comment again.
#[must_use]
pub fn render(comparison: &Comparison) -> String {
    let mut out = String::from("<!-- hitless compare -->\n");
    let sign = match comparison.outcome {
        Outcome::NoRegression => "✅",
        Outcome::Regression => "❌",
        Outcome::Inconclusive => "⚠️",
    };
    let _ = writeln!(out, "### {sign} {}\n", headline(comparison));
    for reason in comparison.reasons.iter().take(MOST_REASONS) {
        let _ = writeln!(out, "- {}", escaped(reason, LINE_LENGTH));
    }
    if comparison.reasons.len() > MOST_REASONS {
        let _ = writeln!(out, "- and {} more", comparison.reasons.len() - MOST_REASONS);
    }
    let _ = writeln!(out, "\n| | base | new | ratio | |\n| --- | ---: | ---: | ---: | --- |");
    for row in &comparison.failures {
        let name = escaped(&row.name, NAME_LENGTH);
        let name = if row.scope == Scope::Total { name } else { format!("… {name}") };
        let _ = writeln!(
            out,
            "| {name} | {} | {} | {} | {} |",
            count(row.base.failed),
            count(row.new.failed),
            rate_ratio(row),
            word(row.change)
        );
    }
    for row in &comparison.timings {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            escaped(&row.name, NAME_LENGTH),
            time(row.base),
            time(row.new),
            time_ratio(row),
            word(row.change)
        );
    }
    let _ = writeln!(out, "\nbase: {}  \nnew: {}", side(&comparison.base), side(&comparison.new));
    if !comparison.differences.is_empty() {
        let differences: Vec<String> =
            comparison.differences.iter().map(|one| escaped(one, LINE_LENGTH)).collect();
        let _ = writeln!(out, "\nNot the same in both: {}.", differences.join("; "));
    }
    out
}

fn headline(comparison: &Comparison) -> &'static str {
    match comparison.outcome {
        Outcome::NoRegression => "No regression under restarts",
        Outcome::Regression => "Restarts cost more than before",
        Outcome::Inconclusive => "Nothing is worse, but it could have gone unseen",
    }
}

fn side(side: &Side) -> String {
    format!(
        "{}, {} over {}, {}, run {}",
        escaped(&side.subject, 200),
        counted(side.requests, "request"),
        counted(side.restarts as u64, "restart"),
        side.verdict.name(),
        escaped(&side.run, NAME_LENGTH),
    )
}

fn word(change: Change) -> String {
    match change {
        Change::Worse => "**worse**".to_owned(),
        other => other.name().to_owned(),
    }
}
