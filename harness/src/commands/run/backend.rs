//! Where the replicas of a run live: provides what they are started from, and makes the rollout of them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use super::RunError;
use crate::artifacts::checkout::Artifact;
use crate::artifacts::image::{self, Built};
use crate::artifacts::program;
use crate::console;
use crate::host::engine::Engine;
use crate::host::owner;
use crate::model::sink::Sink;
use crate::progress::Display;
use crate::rollout::error::RolloutError;
use crate::rollout::stepwise::Stepwise;
use crate::rollout::stepwise::output::OutputFiles;
use crate::rollout::stepwise::port::check_port;
use crate::scenario::{LaunchSource, Program, SERVER_IMAGE, Scenario, Subject, Versions};

/// Where the replicas of a run live, with all that it takes to start them.
#[derive(Debug)]
pub(super) enum Backend {
    /// In containers that are made of these images.
    Docker { engine: Engine, images: Versions<String> },
    /// In the running containers of a Compose project.
    Compose { engine: Engine, file: PathBuf, services: Vec<String> },
    /// In processes that run these commands.
    Process { commands: Versions<Vec<OsString>> },
}

impl Backend {
    /// Finds the engine, if there has to be one, and builds what has to be built.
    ///
    /// # Errors
    /// There is no engine, the port is taken, or something cannot be built.
    pub(super) async fn prepare(scenario: &Scenario, display: Display) -> Result<Self, RunError> {
        let replacement = scenario.change.other();
        match &scenario.subject {
            Subject::Compose { file, services } => {
                let engine = Engine::connect().await?;
                Ok(Self::Compose { engine, file: file.clone(), services: services.clone() })
            }
            Subject::Testbed { source: LaunchSource::Image(image), .. }
            | Subject::Custom { source: LaunchSource::Image(image) } => {
                let engine = Engine::connect().await?;
                // Before minutes are spent on building the image.
                check_port(&scenario.target)?;
                let is_ours = scenario.preset().is_some() && image == SERVER_IMAGE;
                if is_ours {
                    provide_image(&engine, display).await?;
                }
                let replacement = replacement.and_then(LaunchSource::image).map(ToOwned::to_owned);
                Ok(Self::Docker { engine, images: Versions { current: image.clone(), replacement } })
            }
            Subject::Testbed { source: LaunchSource::Program(first), .. }
            | Subject::Custom { source: LaunchSource::Program(first) } => {
                check_port(&scenario.target)?;
                let replacement = match replacement.and_then(LaunchSource::program) {
                    Some(other) => Some(words(other).await?),
                    None => None,
                };
                Ok(Self::Process { commands: Versions { current: words(first).await?, replacement } })
            }
        }
    }

    /// Who starts and stops the replicas, in a few words.
    ///
    /// # Errors
    /// The engine does not say what it is.
    pub(super) async fn engine(&self) -> Result<String, RolloutError> {
        match self {
            Self::Docker { engine, .. } | Self::Compose { engine, .. } => {
                let version = engine.version().await?;
                Ok(format!("{} (API {})", version.name, version.api))
            }
            Self::Process { .. } => Ok("processes of this machine".to_owned()),
        }
    }

    /// The rollout of the replicas that live here.
    pub(super) fn rollout(
        self,
        run: &str,
        scenario: &Scenario,
        sink: Arc<dyn Sink>,
        outputs: OutputFiles,
    ) -> Stepwise {
        let owner = owner::this_process();
        let names = (run, &*owner);
        match self {
            Self::Docker { engine, images } => {
                Stepwise::of_containers(engine, names, images, scenario, sink, outputs)
            }
            Self::Process { commands } => Stepwise::of_processes(names, commands, scenario, sink, outputs),
            Self::Compose { engine, file, services } => {
                Stepwise::of_project(engine, file, services, scenario, sink, outputs)
            }
        }
    }
}

/// Builds our server's image if it is missing or older than its source.
async fn provide_image(engine: &Engine, display: Display) -> Result<(), RunError> {
    let built = image::ensure(engine, &Artifact::SERVER, SERVER_IMAGE).await?;
    if built == Built::Now && display != Display::Quiet {
        console::note(&format!("built image {SERVER_IMAGE}"));
    }
    Ok(())
}

/// The words of a command that runs `program`, which is built if it has to be.
async fn words(program: &Program) -> Result<Vec<OsString>, RunError> {
    Ok(match program {
        Program::OurServer => vec![program::server().await?.into_os_string()],
        Program::Command(words) => words.iter().map(OsString::from).collect(),
    })
}
