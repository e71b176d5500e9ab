//! `hitless report`: renders a run's report again.

use std::path::PathBuf;

use clap::Args;

use super::output::{OutputArgs, style};
use super::{CommandError, exit_code};
use crate::report::{files, terminal};
use crate::stored_report;

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// The directory of the run, or one of these files.
    path: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn execute(args: &ReportArgs) -> Result<u8, CommandError> {
    let report = stored_report::read(&args.path)?;
    let directory = if args.path.is_dir() { &args.path } else { args.path.parent().unwrap_or(&args.path) };
    files::write(&report, directory)?;
    args.output.tell(&report, || terminal::render(&report, style()))?;
    Ok(exit_code(report.verdict))
}
