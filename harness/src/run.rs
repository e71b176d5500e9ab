//! The main job: one scenario from validation to report. Puts the parts together and decides nothing.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use crate::analysis::assemble::Context;
use crate::analysis::report::{Report, SCHEMA_VERSION};
use crate::analysis::summary::Summary;
use crate::analysis::verdict::{Asked, judge};
use crate::artifacts::image::ImageError;
use crate::artifacts::program::ProgramError;
use crate::experiment::{Experiment, ExperimentError};
use crate::host::engine::{Engine, EngineError};
use crate::host::limits;
use crate::model::clock::{Moment, WallOffset};
use crate::model::environment::Environment;
use crate::model::scenario_info::ScenarioInfo;
use crate::progress::{Display, Progress};
use crate::record::events::line::Head;
use crate::record::events::{EventLog, EventLogError};
use crate::record::recorder::Recorder;
use crate::report::files::{self, FilesError};
use crate::rollout::runtime::output::OutputFiles;
use crate::rollout::runtime::{RuntimeError, compose};
use crate::scenario::{Scenario, Server, Subject};

mod venue;

use venue::Venue;

/// A run could not be carried out: exit code 3, if not said otherwise.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Somebody pressed Ctrl-C, or sent SIGTERM, before there was anything to see: exit code 4.
    #[error("interrupted before the run began")]
    Interrupted,
    /// Before the experiment.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
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
    /// The report cannot be written.
    #[error(transparent)]
    Files(#[from] FilesError),
}

/// Whose server a scenario is about. Of a Compose project only the engine knows.
///
/// # Errors
/// There is no engine, or no such project runs.
pub async fn server_of(scenario: &Scenario) -> Result<Server, RunError> {
    match &scenario.subject {
        Subject::Preset { .. } => Ok(Server::Ours),
        Subject::Own { .. } => Ok(Server::Anybodys),
        Subject::Compose { file, services } => {
            let engine = Engine::connect().await?;
            Ok(compose::server_of(&engine, file, services, scenario.target.port).await?)
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
) -> Result<(Report, PathBuf), RunError> {
    let venue = unless_interrupted(interrupt, Venue::prepare(scenario, display)).await??;
    let environment = Environment {
        kernel: limits::kernel(),
        tcp_migrate_req: limits::tcp_migrate_req(),
        engine: venue.engine().await?,
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
    let (Experiment { recording, loose_ends }, replicas) = {
        // How many replicas a project has is known when its containers are looked up.
        let is_project = matches!(scenario.subject, Subject::Compose { .. });
        let restarts = (!is_project).then_some(scenario.replicas * scenario.rounds as usize);
        let _progress = Progress::show(display, recorder.live(), restarts);
        let outputs = OutputFiles::in_directory(&directory);
        venue.carry_out(&id, scenario, recorder, outputs, interrupt).await?
    };
    let scenario = &Scenario { replicas, ..scenario.clone() };
    let summary = Summary::of(&recording);
    let mut judgement =
        judge(&recording, &summary, &scenario.budgets, Asked { replicas, rounds: scenario.rounds });
    for loose_end in loose_ends {
        eprintln!("warning: {loose_end}");
        judgement.reasons.push(format!("when all was seen: {loose_end}"));
    }
    let context = Context { run: id, command: command.to_owned(), environment, started_unix_ms };
    let report = Report::assemble(&recording, summary, judgement, ScenarioInfo::of(scenario), context);
    files::write(&report, &directory)?;
    Ok((report, directory))
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
