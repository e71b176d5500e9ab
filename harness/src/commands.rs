//! The command line: one file a command. Here is what they share: the dispatch, the errors and the exit codes.

mod clean;
mod compare;
mod completions;
mod doctor;
mod image;
mod interrupt;
mod man;
pub mod matrix;
mod output;
mod report;
pub mod run;
pub mod selftest;

use std::io;
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::analysis::verdict::Verdict;
use crate::artifacts::checkout::CheckoutError;
use crate::artifacts::image::ImageError;
use crate::compare::CompareError;
use crate::console;
use crate::host::engine::EngineError;
use crate::host::limits;
use crate::options::OptionsError;
use crate::report::files::FilesError;
use crate::rollout::error::RolloutError;
use crate::scenario::ScenarioError;
use crate::stored_report::StoredReportError;

const EXIT_CODES: &str = "\
Exit codes:
  0  pass: every budget holds
  1  a budget is broken
  2  usage or scenario error
  3  environment: no container engine, port taken, image missing, ...
  4  inconclusive: the budgets hold, but the run could not have seen a failure
     (interrupted, too little load, a late generator, out of ports or descriptors)";

/// Rolls containers under HTTP load and says which requests were lost, when, and why.
#[derive(Debug, Parser)]
#[command(name = "hitless", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Restart every replica in turn while requests run without a pause, and judge what was lost.
    #[command(after_help = EXIT_CODES)]
    Run(run::RunArgs),
    /// Run our server's presets one after the other and compare them in one table.
    #[command(after_help = matrix::EXIT_CODES)]
    Matrix(run::RunArgs),
    /// Render a run's report again, from its report.json, or from its events.jsonl if the run was killed. The exit code
    /// is that of the run's verdict.
    #[command(after_help = EXIT_CODES)]
    Report(report::ReportArgs),
    /// Hold one run against another: exit code 1 if the new one is worse, beyond noise.
    #[command(after_help = compare::EXIT_CODES)]
    Compare(compare::CompareArgs),
    /// Look at everything that a run depends on; each finding comes with its remedy.
    Doctor(doctor::DoctorArgs),
    /// Prove that the harness sees what it should: run servers that misbehave in one known way, and catch each.
    Selftest(selftest::SelftestArgs),
    /// Remove the containers, and end the processes, that interrupted runs left behind.
    Clean(clean::CleanArgs),
    /// Build the server's image from this checkout, without a registry.
    Image(image::ImageArgs),
    /// Print the completions for a shell.
    Completions(completions::CompletionsArgs),
    /// Print the manual page, in roff, or write it and one for each command into a directory.
    Man(man::ManArgs),
}

/// What ends the program early; each kind has its exit code.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Usage(#[from] ScenarioError),
    #[error(transparent)]
    Options(#[from] OptionsError),
    #[error("scenario file `{0}`: {1}")]
    ScenarioFile(String, io::Error),
    #[error(transparent)]
    Run(#[from] run::RunError),
    #[error(transparent)]
    Runtime(#[from] RolloutError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Checkout(#[from] CheckoutError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Selftest(#[from] selftest::SelftestError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    StoredReport(#[from] StoredReportError),
    #[error(transparent)]
    Compare(#[from] CompareError),
    #[error("failed to write the manual into {0}: {1}; choose another directory with --output")]
    Manual(String, io::Error),
    #[error("failed to write to stdout: {0}")]
    Stdout(#[from] io::Error),
}

impl CommandError {
    const fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_)
            | Self::Options(_)
            | Self::ScenarioFile(..)
            | Self::Files(_)
            | Self::StoredReport(_)
            | Self::Compare(_)
            | Self::Manual(..) => 2,
            Self::Run(error) if error.is_usage() => 2,
            Self::Run(run::RunError::Interrupted) => 4,
            Self::Run(_)
            | Self::Runtime(_)
            | Self::Engine(_)
            | Self::Checkout(_)
            | Self::Image(_)
            | Self::Selftest(_)
            | Self::Stdout(_) => 3,
        }
    }
}

/// Does what the command line says.
///
/// # Panics
/// If the operating system gives no thread.
#[must_use]
pub fn main() -> ExitCode {
    limits::raise_descriptor_limit();
    // Not in the binary: what a future is made of is compiled where it is run, and here that happens once.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("the operating system gives some more threads").block_on(parse_and_execute())
}

async fn parse_and_execute() -> ExitCode {
    let parsed =
        Cli::command().try_get_matches().and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return usage(&error),
    };
    let flags = matches.subcommand().map(|(_, flags)| flags);
    let done = execute(cli.command, flags.unwrap_or(&matches)).await;
    ExitCode::from(done.unwrap_or_else(|error| {
        console::note(&format!("error: {error}"));
        error.exit_code()
    }))
}

/// Help and version, which were asked for; or what is wrong with the command line.
fn usage(error: &clap::Error) -> ExitCode {
    // Not clap's own `exit`, which panics where nothing can be written.
    let is_printed = error.print().is_ok();
    let code = if error.use_stderr() || is_printed { error.exit_code() } else { 3 };
    ExitCode::from(u8::try_from(code).unwrap_or(2))
}

async fn execute(command: Command, flags: &ArgMatches) -> Result<u8, CommandError> {
    match command {
        Command::Run(args) => run::execute(args, flags).await,
        Command::Matrix(args) => matrix::execute(args, flags).await,
        Command::Report(args) => report::execute(&args),
        Command::Compare(args) => compare::execute(&args),
        Command::Doctor(args) => doctor::execute(&args).await,
        Command::Selftest(args) => selftest::execute(&args).await,
        Command::Clean(args) => clean::execute(&args).await,
        Command::Image(args) => image::execute(&args).await,
        Command::Completions(args) => completions::execute(&args),
        Command::Man(args) => man::execute(&args),
    }
}

const fn exit_code(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Pass => 0,
        Verdict::Fail => 1,
        Verdict::Inconclusive => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// The names of the commands that a person is shown.
    pub(super) fn names() -> Vec<String> {
        let command = Cli::command();
        command.get_subcommands().map(|command| command.get_name().to_owned()).collect()
    }
}
