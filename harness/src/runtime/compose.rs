//! Replicas as the running services of a Compose project: found, rolled in place, left running.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Moment;
use crate::recorder::Recorder;
use crate::runtime::docker::Containers;
use crate::runtime::docker::engine::Engine;
use crate::runtime::output::OutputFiles;
use crate::runtime::{Exit, Replica, Runtime, RuntimeError};
use crate::scenario::{Order, Scenario};

const DIRECTORY_LABEL: &str = "com.docker.compose.project.working_dir";
const SERVICE_LABEL: &str = "com.docker.compose.service";
const NUMBER_LABEL: &str = "com.docker.compose.container-number";

/// Rolls the containers of a Compose project.
#[derive(Debug)]
pub struct ComposeRuntime {
    engine: Engine,
    file: PathBuf,
    services: Vec<String>,
    containers: Containers,
}

impl ComposeRuntime {
    /// A runtime for the services of `file` that run; all of them if `services` is empty.
    #[must_use]
    pub fn new(
        engine: Engine,
        file: PathBuf,
        services: Vec<String>,
        scenario: &Scenario,
        recorder: Recorder,
        outputs: OutputFiles,
    ) -> Self {
        let containers = Containers::new(engine.clone(), recorder, outputs, scenario);
        Self { engine, file, services, containers }
    }

    /// How many replicas were found.
    #[must_use]
    pub fn replicas(&self) -> usize {
        self.containers.count()
    }

    /// Both Compose versions label a container with the directory of the file that it came from.
    async fn find(&self) -> Result<Vec<(Replica, String)>, RuntimeError> {
        let file = std::fs::canonicalize(&self.file).map_err(|error| {
            RuntimeError::NoReplicas(format!(
                "compose file {}: {error}; name it with --compose",
                self.file.display()
            ))
        })?;
        let directory = file.parent().unwrap_or(&file).display().to_string();
        let listed = self.engine.list("label", &[format!("{DIRECTORY_LABEL}={directory}")]).await?;
        let mut found: Vec<(Replica, String)> = listed
            .into_iter()
            .filter(|container| container.is_running)
            .filter_map(|container| {
                let service = container.labels.get(SERVICE_LABEL)?;
                let is_wanted = self.services.is_empty() || self.services.contains(service);
                let number = container.labels.get(NUMBER_LABEL).map_or("1", String::as_str);
                let name = if number == "1" { service.clone() } else { format!("{service}-{number}") };
                is_wanted.then(|| (Replica { name: Arc::from(name) }, container.id.clone()))
            })
            .collect();
        found.sort();
        Ok(found)
    }
}

impl Runtime for ComposeRuntime {
    async fn assemble(&self) -> Result<Vec<Replica>, RuntimeError> {
        let asked = Moment::now();
        let found = self.find().await?;
        let names: Vec<&str> = found.iter().map(|(replica, _)| &*replica.name).collect();
        let missing = self.services.iter().find(|service| {
            !names.iter().any(|name| name == service || name.starts_with(&format!("{service}-")))
        });
        if let Some(service) = missing {
            let running = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(RuntimeError::NoReplicas(format!(
                "service `{service}` of {} does not run (running: {running}); `docker compose up -d` first",
                self.file.display()
            )));
        }
        if found.is_empty() {
            return Err(RuntimeError::NoReplicas(format!(
                "no service of {} runs; `docker compose up -d` first",
                self.file.display()
            )));
        }
        self.containers.follow(asked);
        let adopted = found.into_iter().map(|(replica, id)| {
            self.containers.adopt_running(&replica, id);
            replica
        });
        Ok(adopted.collect())
    }

    async fn start(&self, replica: &Replica) -> Result<Moment, RuntimeError> {
        self.containers.start(replica).await
    }

    async fn wait_until_ready(&self, replica: &Replica, patience: Duration) -> Result<Moment, RuntimeError> {
        self.containers.wait_until_ready(replica, patience).await
    }

    async fn stop(&self, replica: &Replica, timeout: Duration) -> Result<Exit, RuntimeError> {
        self.containers.stop(replica, timeout).await
    }

    async fn successor(&self, replica: &Replica, _: Option<&str>, _: Order) -> Result<Replica, RuntimeError> {
        let reason = "Compose makes its own containers".to_owned();
        Err(RuntimeError::Replica { operation: "replace", replica: Arc::clone(&replica.name), reason })
    }

    async fn discard(&self, _: &Replica) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn unexpected_end(&self) -> RuntimeError {
        self.containers.unexpected_end().await
    }

    async fn retire(&self, _timeout: Duration) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// What was found running is left running: a replica that an interrupted rollout left stopped is started again.
    async fn dismantle(&self, timeout: Duration) -> Result<(), RuntimeError> {
        let result = self.containers.start_stopped(timeout).await;
        self.containers.release();
        result
    }
}
