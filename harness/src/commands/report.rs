//! `hitless report`: renders a run's report again.

use std::path::PathBuf;

use clap::Args;

use super::output::{OutputArgs, style};
use super::{CommandError, exit_code};
use crate::report::{files, terminal};
use crate::stored_report;

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// The directory of the run, one of these files, or a directory of runs: the newest one.
    #[arg(default_value = "hitless-report")]
    path: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn execute(args: &ReportArgs) -> Result<u8, CommandError> {
    let path = stored_report::located(&args.path);
    let report = stored_report::read(&path)?;
    files::write(&report, path.parent().unwrap_or(&path))?;
    args.output.tell(&report, || terminal::render(&report, style()))?;
    Ok(exit_code(report.verdict))
}
