//! The containers of a Compose project: found, rolled in place, left running.

mod project;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use project::{Chosen, Project, SERVICE_LABEL};

use crate::host::engine::Engine;
use crate::rollout::error::RolloutError;
use crate::rollout::replica::Replica;
use crate::rollout::stepwise::tracked_replica::{TrackedReplica, locked};
use crate::scenario::ServerKind;

/// The containers of a Compose project's services.
#[derive(Debug)]
pub(in crate::rollout::stepwise) struct ProjectContainers {
    file: PathBuf,
    services: Vec<String>,
    port: u16,
    /// The containers' ids, by their names.
    found: Mutex<HashMap<String, String>>,
}

impl ProjectContainers {
    /// Those of the services of `file` that run; those that the target's port leads to if `services` is empty.
    pub(in crate::rollout::stepwise) fn new(file: PathBuf, services: Vec<String>, port: u16) -> Self {
        Self { file, services, port, found: Mutex::default() }
    }

    /// Finds them.
    pub(super) async fn find(&self, engine: &Engine) -> Result<Vec<Replica>, RolloutError> {
        let chosen = find(engine, &self.file, &self.services, self.port).await?;
        let replicas = chosen.iter().map(|one| Replica::named(&one.name)).collect();
        locked(&self.found).extend(chosen.into_iter().map(|one| (one.name, one.id)));
        Ok(replicas)
    }

    /// Which container a replica is.
    pub(super) fn id_of(&self, replica: &TrackedReplica) -> Result<String, RolloutError> {
        let id = locked(&self.found).get(&*replica.name).cloned();
        id.ok_or_else(|| replica.failed("replace", "Compose makes its own containers"))
    }
}

/// Whose server the services are: ours only if each of them is.
///
/// # Errors
/// [`RolloutError::NoReplicas`] if there are none, or if it is not clear which are meant.
pub async fn server_of(
    engine: &Engine,
    file: &Path,
    services: &[String],
    port: u16,
) -> Result<ServerKind, RolloutError> {
    let chosen = find(engine, file, services, port).await?;
    Ok(if chosen.iter().all(|one| one.is_ours) { ServerKind::Testbed } else { ServerKind::Custom })
}

async fn find(
    engine: &Engine,
    file: &Path,
    services: &[String],
    port: u16,
) -> Result<Vec<Chosen>, RolloutError> {
    let canonical = std::fs::canonicalize(file).map_err(|error| {
        RolloutError::NoReplicas(format!("compose file {}: {error}; name it with --compose", file.display()))
    })?;
    let listed = engine.list("label", &[SERVICE_LABEL.to_owned()]).await?;
    let name = std::env::var("COMPOSE_PROJECT_NAME").ok().filter(|name| !name.is_empty());
    let chosen =
        Project::of(&canonical, name.as_deref(), listed).and_then(|project| project.choose(services, port));
    chosen.map_err(|reason| RolloutError::NoReplicas(format!("{}: {reason}", file.display())))
}
