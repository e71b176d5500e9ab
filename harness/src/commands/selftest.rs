//! `hitless selftest`: proves on this machine that the harness sees what it should: it runs the saboteurs, servers that misbehave in one
//! known way, and checks that each is caught with the right class, and that servers that behave are called clean.
//!
//! A zero without a control proves nothing. The saboteurs are run like anybody's image, with nothing that our own server
//! has and others have not.

use std::path::{Path, PathBuf};

use clap::Args;
use tokio_util::sync::CancellationToken;

use self::finding::describe;
use super::interrupt::interrupt;
use super::output::{progress, style};
use super::{CommandError, exit_code};
use crate::artifacts::checkout::Artifact;
use crate::artifacts::image::{self, ImageError};
use crate::commands::run::{Ran, RunError, run};
use crate::console;
use crate::host::engine::{Engine, EngineError};
use crate::progress::Display;
use crate::scenario::ScenarioError;

mod case;
mod expected;
mod finding;
pub mod table;

pub use case::{CASES, Case, SABOTEUR_IMAGE};
pub use expected::Expected;
pub use finding::{Finding, Outcome};

#[derive(Debug, Args)]
pub(super) struct SelftestArgs {
    /// Where the servers listen.
    #[arg(long, default_value = "http://127.0.0.1:8080/")]
    url: String,
    /// Where the reports of the cases go.
    #[arg(long, default_value = "hitless-report/selftest")]
    report_dir: PathBuf,
}

pub(super) async fn execute(args: &SelftestArgs) -> Result<u8, CommandError> {
    let findings = carry_out(&args.url, &args.report_dir, progress(), &interrupt()).await?;
    console::print(&format!("{}\n", table::render(&findings, style())))?;
    Ok(exit_code(Outcome::of_all(&findings).verdict()))
}

/// The self-test could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum SelftestError {
    /// The saboteurs' image could not be built.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A case could not be carried out, for another reason than the one it tests.
    #[error("case `{case}`: {source}")]
    Run {
        /// Which.
        case: &'static str,
        /// Why.
        source: Box<RunError>,
    },
    /// A case's scenario is wrong.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Carries out every case; their reports go below `directory`.
///
/// # Errors
/// The environment did not play along.
pub async fn carry_out(
    url: &str,
    directory: &Path,
    display: Display,
    interrupt: &CancellationToken,
) -> Result<Vec<Finding>, SelftestError> {
    let engine = Engine::connect().await?;
    image::ensure(&engine, &Artifact::SABOTEUR, SABOTEUR_IMAGE).await?;
    let mut findings = Vec::with_capacity(CASES.len());
    for (number, case) in CASES.iter().enumerate() {
        if interrupt.is_cancelled() {
            break;
        }
        if display != Display::Quiet {
            console::note(&format!("{}/{}: {}", number + 1, CASES.len(), case.name));
        }
        let scenario = case.scenario(number, url, directory)?;
        let result = run(&scenario, "hitless selftest", Display::Quiet, interrupt).await;
        findings.push(judge(case, result)?);
    }
    Ok(findings)
}

fn judge(case: &'static Case, result: Result<Ran, RunError>) -> Result<Finding, SelftestError> {
    let finding = |seen: String, outcome| Finding { case, seen, outcome };
    match result {
        Ok(Ran { report, .. }) => Ok(finding(describe(&report), case.expected.outcome(&report))),
        Err(error) if case.expected == Expected::NotReady && is_not_ready(&error) => {
            Ok(finding("not ready in time".to_owned(), Outcome::Right))
        }
        Err(source) => Err(SelftestError::Run { case: case.name, source: Box::new(source) }),
    }
}

fn is_not_ready(error: &RunError) -> bool {
    use crate::experiment::ExperimentError;
    use crate::rollout::error::RolloutError;
    matches!(error, RunError::Experiment(ExperimentError::Rollout(RolloutError::NotReady { .. })))
}
