//! `hitless run`, the main job: one scenario from validation to report. Puts the parts together and decides nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{ArgMatches, Args, FromArgMatches};
use tokio_util::sync::CancellationToken;

use super::interrupt::interrupt;
use super::output::{OutputArgs, style};
use super::{CommandError, exit_code};
use crate::analysis::assemble::Context;
use crate::analysis::report::{Report, SCHEMA_VERSION};
use crate::analysis::summary::Summary;
use crate::analysis::verdict::{Asked, Verdict, judge};
use crate::artifacts::image::ImageError;
use crate::artifacts::program::ProgramError;
use crate::console;
use crate::experiment::{self, Experiment, ExperimentError};
use crate::host::engine::{Engine, EngineError};
use crate::host::limits;
use crate::model::clock::{Moment, WallOffset};
use crate::model::environment::Environment;
use crate::model::scenario_info::ScenarioInfo;
use crate::options::Options;
use crate::progress::{Display, Progress};
use crate::record::events::line::Head;
use crate::record::events::{EventLog, EventLogError};
use crate::record::recorder::Recorder;
use crate::report::files::{self, FilesError};
use crate::report::terminal;
use crate::rollout::error::RolloutError;
use crate::rollout::stepwise;
use crate::rollout::stepwise::output::OutputFiles;
use crate::scenario::{self, Scenario, ServerKind, Subject};

mod backend;

use crate::commands::run::backend::Backend;

/// Every flag is also a field of the scenario file; flags win.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// A scenario file (TOML); its fields are named like the flags.
    scenario: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

impl RunArgs {
    /// The options of the file and the flags, with a seed; and the command that repeats the run, without its secrets.
    pub(super) fn resolved(
        self,
        command: &str,
        flags: &ArgMatches,
    ) -> Result<(Options, String), CommandError> {
        let mut options = match &self.scenario {
            None => self.options.clone(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| CommandError::ScenarioFile(path.display().to_string(), error))?;
                let mut options = Options::from_toml(&text)?;
                // Only what the command line says; clap has checked it before.
                let _ = options.update_from_arg_matches(flags);
                options
            }
        };
        let seed = *options.seed.get_or_insert_with(scenario::any_seed);
        let said = Options { seed: Some(seed), ..self.options.redacted() };
        let file = self.scenario.iter().map(|path| path.to_string_lossy().into_owned());
        let words = ["hitless".to_owned(), command.to_owned()].into_iter().chain(file).chain(said.flags());
        Ok((options, words.map(|word| quoted(&word)).collect::<Vec<_>>().join(" ")))
    }
}

pub(super) async fn execute(args: RunArgs, flags: &ArgMatches) -> Result<u8, CommandError> {
    let (output, (options, command)) = (args.output, args.resolved("run", flags)?);
    let mut scenario = Scenario::from_options(&options)?;
    if server_of(&scenario).await? == ServerKind::Custom {
        scenario = Scenario::of_project(&options, ServerKind::Custom)?;
    }
    let ran = run(&scenario, &command, output.display(), &interrupt()).await?;
    ran.note_unwritten();
    let Ran { report, directory, .. } = &ran;
    output.tell(report, || {
        let again = match report.verdict {
            Verdict::Pass => String::new(),
            Verdict::Fail | Verdict::Inconclusive => format!("again: {}\n", report.run.command),
        };
        format!("{}{again}report: {}\n", terminal::render(report, style()), directory.display())
    })?;
    Ok(ran.exit_code())
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_=./:,@+%".contains(character);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A run could not be carried out: exit code 3, if not said otherwise.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Somebody pressed Ctrl-C, or sent SIGTERM, before there was anything to see: exit code 4.
    #[error("interrupted before the run began")]
    Interrupted,
    /// Before the experiment.
    #[error(transparent)]
    Runtime(#[from] RolloutError),
    /// The container engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The server's image could not be built.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// There is no program for the processes.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The experiment.
    #[error(transparent)]
    Experiment(#[from] ExperimentError),
    /// The report's directory cannot be made.
    #[error("failed to create {}: {source}; choose another with --report-dir", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The event log cannot be written.
    #[error(transparent)]
    EventLog(#[from] EventLogError),
}

impl RunError {
    /// Whether a flag is missing, and the error names it.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        matches!(self, Self::Experiment(ExperimentError::Rollout(RolloutError::UnknownReadiness { .. })))
    }
}

/// Whose server a scenario is about. Of a Compose project only the engine knows.
///
/// # Errors
/// There is no engine, or no such project runs.
pub async fn server_of(scenario: &Scenario) -> Result<ServerKind, RunError> {
    match &scenario.subject {
        Subject::Testbed { .. } => Ok(ServerKind::Testbed),
        Subject::Custom { .. } => Ok(ServerKind::Custom),
        Subject::Compose { file, services } => {
            let engine = Engine::connect().await?;
            Ok(stepwise::server_of(&engine, file, services, scenario.target.port).await?)
        }
    }
}

/// A run that was carried out.
#[derive(Debug)]
pub struct Ran {
    /// What was seen.
    pub report: Report,
    /// Where the report's files are.
    pub directory: PathBuf,
    /// Why some file of the report could not be written. It takes nothing away from the verdict.
    pub unwritten: Option<FilesError>,
}

impl Ran {
    /// The exit code: a broken budget comes before a file that could not be written, and that before a doubt.
    pub(super) fn exit_code(&self) -> u8 {
        match self.report.verdict {
            Verdict::Fail => 1,
            _ if self.unwritten.is_some() => 3,
            verdict => exit_code(verdict),
        }
    }

    /// Says which file could not be written, if one could not.
    pub(super) fn note_unwritten(&self) {
        if let Some(error) = &self.unwritten {
            console::note(&format!("error: {error}; choose another directory with --report-dir"));
        }
    }
}

/// Carries out a scenario and writes its report.
///
/// # Errors
/// The environment did not play along; whatever had been made is removed.
pub async fn run(
    scenario: &Scenario,
    command: &str,
    display: Display,
    interrupt: &CancellationToken,
) -> Result<Ran, RunError> {
    let backend = unless_interrupted(interrupt, Backend::prepare(scenario, display)).await??;
    let environment = Environment {
        kernel: limits::kernel(),
        tcp_migrate_req: limits::tcp_migrate_req(),
        engine: backend.engine().await?,
        cpus: limits::cpus(),
    };
    let id = run_id();
    let started_unix_ms = WallOffset::read().unix_ms(Moment::now());
    let directory = scenario.report_dir.clone().unwrap_or_else(|| Path::new("hitless-report").join(&id));
    std::fs::create_dir_all(&directory)
        .map_err(|source| RunError::Directory { path: directory.clone(), source })?;
    files::clear(&directory);
    let head = Head {
        schema_version: SCHEMA_VERSION,
        run: id.clone(),
        command: command.to_owned(),
        started_unix_ms,
        scenario: ScenarioInfo::of(scenario),
        budgets: scenario.budgets.clone(),
        environment: environment.clone(),
    };
    let log = EventLog::create(&directory, head)?;
    let recorder = Recorder::start_with_budgets(&scenario.cohorts, &scenario.budgets, log);
    let Experiment { recording, replicas, cleanup_errors } = {
        // How many replicas a project has is known when its containers are looked up.
        let is_project = matches!(scenario.subject, Subject::Compose { .. });
        let restarts = (!is_project).then_some(scenario.replicas * scenario.rounds as usize);
        let _progress = Progress::show(display, recorder.live(), restarts);
        let outputs = OutputFiles::in_directory(&directory);
        let rollout = backend.rollout(&id, scenario, Arc::new(recorder.clone()), outputs);
        experiment::run(scenario, &rollout, recorder, interrupt).await?
    };
    let scenario = &Scenario { replicas, ..scenario.clone() };
    let summary = Summary::of(&recording);
    let mut judgement =
        judge(&recording, &summary, &scenario.budgets, Asked { replicas, rounds: scenario.rounds });
    if recording.is_log_broken {
        console::note(
            "warning: events.jsonl could not be written to its end; the report was made without it",
        );
    }
    for cleanup_error in cleanup_errors {
        console::note(&format!("warning: {cleanup_error}"));
        judgement.reasons.push(format!("when all was seen: {cleanup_error}"));
    }
    let context = Context { run: id, command: command.to_owned(), environment, started_unix_ms };
    let report = Report::assemble(&recording, summary, judgement, ScenarioInfo::of(scenario), context);
    let unwritten = files::write(&report, &directory).err();
    Ok(Ran { report, directory, unwritten })
}

/// Waits for something that takes minutes, and drops it when the interrupt comes.
async fn unless_interrupted<T>(
    interrupt: &CancellationToken,
    wait: impl Future<Output = T>,
) -> Result<T, RunError> {
    tokio::select! {
        biased;
        () = interrupt.cancelled() => Err(RunError::Interrupted),
        done = wait => Ok(done),
    }
}

/// A name for a run: when it began, in UTC, and something that two runs of one second differ in.
fn run_id() -> String {
    let now = std::time::SystemTime::now();
    let digits: String =
        humantime::format_rfc3339_seconds(now).to_string().chars().filter(char::is_ascii_digit).collect();
    let (day, time) = digits.split_at(8);
    let mixed = u64::from(std::process::id()) ^ (Moment::now().as_nanoseconds() >> 10);
    format!("{day}-{time}-{:04x}", mixed & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wait_that_takes_minutes_hears_the_interrupt() {
        let interrupt = CancellationToken::new();
        assert_eq!(unless_interrupted(&interrupt, async { 5 }).await.unwrap(), 5);
        let waiting = unless_interrupted(&interrupt, std::future::pending::<()>());
        let (waited, ()) = tokio::join!(waiting, async { interrupt.cancel() });
        assert!(matches!(waited, Err(RunError::Interrupted)));
    }
}
