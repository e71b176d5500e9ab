//! Replicas as the running services of a Compose project: found, rolled in place, left running.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::host::engine::Engine;
use crate::model::clock::Moment;
use crate::model::sink::Sink;
use crate::rollout::runtime::docker::Containers;
use crate::rollout::runtime::output::OutputFiles;
use crate::rollout::runtime::{Replica, Runtime, RuntimeError};
use crate::scenario::{Order, Scenario, ServerKind, StopTimeout, Version};

mod project;

use project::{Chosen, Project, SERVICE_LABEL};

/// Rolls the containers of a Compose project.
#[derive(Debug)]
pub struct ComposeRuntime {
    engine: Engine,
    file: PathBuf,
    services: Vec<String>,
    port: u16,
    containers: Containers,
}

impl ComposeRuntime {
    /// A runtime for the services of `file` that run; those that the target's port leads to if `services` is empty.
    #[must_use]
    pub fn new(
        engine: Engine,
        file: PathBuf,
        services: Vec<String>,
        scenario: &Scenario,
        sink: Arc<dyn Sink>,
        outputs: OutputFiles,
    ) -> Self {
        let containers = Containers::new(engine.clone(), sink, outputs, scenario);
        Self { engine, file, services, port: scenario.target.port, containers }
    }

    /// How many replicas were found.
    #[must_use]
    pub fn replicas(&self) -> usize {
        self.containers.count()
    }
}

/// Whose server the services are: ours only if each of them is.
///
/// # Errors
/// [`RuntimeError::NoReplicas`] if there are none, or if it is not clear which are meant.
pub async fn server_of(
    engine: &Engine,
    file: &Path,
    services: &[String],
    port: u16,
) -> Result<ServerKind, RuntimeError> {
    let chosen = find(engine, file, services, port).await?;
    Ok(if chosen.iter().all(|one| one.is_ours) { ServerKind::Testbed } else { ServerKind::Custom })
}

async fn find(
    engine: &Engine,
    file: &Path,
    services: &[String],
    port: u16,
) -> Result<Vec<Chosen>, RuntimeError> {
    let canonical = std::fs::canonicalize(file).map_err(|error| {
        RuntimeError::NoReplicas(format!("compose file {}: {error}; name it with --compose", file.display()))
    })?;
    let listed = engine.list("label", &[SERVICE_LABEL.to_owned()]).await?;
    let name = std::env::var("COMPOSE_PROJECT_NAME").ok().filter(|name| !name.is_empty());
    let chosen =
        Project::of(&canonical, name.as_deref(), listed).and_then(|project| project.choose(services, port));
    chosen.map_err(|reason| RuntimeError::NoReplicas(format!("{}: {reason}", file.display())))
}

impl Runtime for ComposeRuntime {
    async fn assemble(&self) -> Result<Vec<Replica>, RuntimeError> {
        let asked = Moment::now();
        let chosen = find(&self.engine, &self.file, &self.services, self.port).await?;
        self.containers.follow(asked);
        let adopted = chosen.into_iter().map(|one| {
            let replica = Replica { name: one.name.into() };
            self.containers.adopt_running(&replica, one.id);
            replica
        });
        Ok(adopted.collect())
    }

    async fn start(&self, replica: &Replica) -> Result<(), RuntimeError> {
        self.containers.start(replica).await
    }

    async fn wait_until_ready(&self, replica: &Replica, patience: Duration) -> Result<Moment, RuntimeError> {
        self.containers.wait_until_ready(replica, patience).await
    }

    async fn stop(&self, replica: &Replica, timeout: StopTimeout) -> Result<(), RuntimeError> {
        self.containers.stop(replica, timeout).await
    }

    async fn successor(&self, replica: &Replica, _: Version, _: Order) -> Result<Replica, RuntimeError> {
        let reason = "Compose makes its own containers".to_owned();
        Err(RuntimeError::Replica { operation: "replace", replica: Arc::clone(&replica.name), reason })
    }

    async fn discard(&self, _: &Replica) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn unexpected_end(&self) -> RuntimeError {
        self.containers.unexpected_end().await
    }

    async fn retire(&self, _timeout: StopTimeout) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// What was found running is left running: a replica that an interrupted rollout left stopped is started again.
    async fn dismantle(&self, timeout: StopTimeout) -> Result<(), RuntimeError> {
        let result = self.containers.start_stopped(timeout).await;
        self.containers.release();
        result
    }
}
