//! `hitless compare`: holds one run against another.

use std::path::PathBuf;

use clap::Args;

use super::output::{Format, style};
use super::{CommandError, exit_code};
use crate::compare::{self, Comparison, DEFAULT_TOLERANCE};
use crate::console;

pub(super) const EXIT_CODES: &str = "\
A base without failures makes any failure of the new run a regression, unless a budget of the
new run counts it and holds; so is a budget that held in the base and is broken now. Otherwise
failures have to be more by the tolerance and than chance explains. Times have to be longer by
the tolerance and by a floor (50 ms for the p99, 500 ms for a phase), and in most restarts;
that takes four restarts in each run.

Exit codes:
  0  no regression
  1  a regression
  2  usage error, or a file that is no report
  4  inconclusive: nothing is worse, but one of the runs could not have shown it";

#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    /// What to compare with: a report.json, the directory of a run, or a directory of runs: the newest one.
    base: PathBuf,
    /// The run in question.
    new: PathBuf,
    /// How many times as much counts as worse: failures per request, p99 in restarts, length of a phase.
    #[arg(long, value_name = "RATIO", default_value_t = DEFAULT_TOLERANCE, value_parser = tolerance)]
    tolerance: f64,
    /// What goes to stdout: text for people, or json for scripts.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Text, help_heading = "Output")]
    format: Format,
    /// Print Markdown instead, for a comment on a change.
    #[arg(long, conflicts_with = "format", help_heading = "Output")]
    markdown: bool,
    /// Print nothing: the exit code says it all.
    #[arg(long, short, conflicts_with = "markdown", help_heading = "Output")]
    quiet: bool,
}

/// A ratio that can be a tolerance.
fn tolerance(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ratio) if ratio.is_finite() && ratio >= 1.0 => Ok(ratio),
        _ => Err("a tolerance is a number from 1 on, for example 1.5".to_owned()),
    }
}

pub(super) fn execute(args: &CompareArgs) -> Result<u8, CommandError> {
    let (base, new) = (compare::read(&args.base)?, compare::read(&args.new)?);
    let comparison = Comparison::of(&base, &new, args.tolerance);
    match args.format {
        _ if args.markdown => console::print(&compare::markdown::render(&comparison))?,
        Format::Json => console::print(&compare::json(&comparison))?,
        Format::Text if args.quiet => {}
        Format::Text => console::print(&compare::terminal::render(&comparison, style()))?,
    }
    Ok(exit_code(comparison.outcome.verdict()))
}
