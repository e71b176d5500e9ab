//! The containers that a run makes of images, and removes again.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::{ContainerCreateBody, HealthConfig, HostConfig};
use bollard::query_parameters::CreateContainerOptionsBuilder;
use futures_util::StreamExt;
use tokio_util::task::TaskTracker;

use crate::host::engine::{Engine, OWNER_LABEL, RUN_LABEL, reason, status_of};
use crate::rollout::error::RolloutError;
use crate::rollout::replica::Replica;
use crate::rollout::stepwise::port::check_port;
use crate::rollout::stepwise::preset;
use crate::scenario::{Preset, Readiness, ReplicaSettings, Scenario, Target, Version, Versions};

/// So many containers are removed at once; more would only wait for each other in the engine.
const REMOVED_AT_ONCE: usize = 8;

/// The containers of one run.
#[derive(Debug)]
pub(in crate::rollout::stepwise) struct MadeContainers {
    run: String,
    owner: String,
    preset: Option<Preset>,
    images: Versions<String>,
    replicas: usize,
    settings: ReplicaSettings,
    target: Target,
    readiness: Readiness,
    /// Containers that are being made; the engine goes on with each, whether anything waits for it or not.
    creations: TaskTracker,
}

impl MadeContainers {
    /// Containers of these images. Nothing is made yet. `owner` says whose the containers are.
    pub(in crate::rollout::stepwise) fn new(
        run: &str,
        owner: &str,
        images: Versions<String>,
        scenario: &Scenario,
    ) -> Self {
        Self {
            run: run.to_owned(),
            owner: owner.to_owned(),
            preset: scenario.preset(),
            images,
            replicas: scenario.replicas,
            settings: scenario.settings.clone(),
            target: scenario.target.clone(),
            readiness: scenario.readiness.clone(),
            creations: TaskTracker::new(),
        }
    }

    /// The replicas that a run begins with.
    pub(super) fn members(&self) -> impl Iterator<Item = Replica> {
        Replica::first(self.replicas)
    }

    /// Checks that the port is free and the images are there.
    pub(super) async fn check(&self, engine: &Engine) -> Result<(), RolloutError> {
        check_port(&self.target)?;
        for image in self.images.iter() {
            if engine.image_labels(image).await?.is_none() {
                return Err(missing_image(image));
            }
        }
        Ok(())
    }

    /// Makes a container and does not start it; returns its id.
    pub(super) async fn create(
        &self,
        engine: &Engine,
        name: &str,
        version: Version,
    ) -> Result<String, RolloutError> {
        let image = self.images.of(version);
        let options =
            CreateContainerOptionsBuilder::new().name(&format!("hitless-{}-{name}", self.run)).build();
        let (docker, body) = (engine.client(Duration::ZERO), self.body(name, image));
        // A task, which goes on when an interrupt drops this wait: the clean-up has to know when it is through.
        let creation =
            self.creations.spawn(async move { docker.create_container(Some(options), body).await });
        let failed = |reason| RolloutError::Replica { operation: "create", replica: name.into(), reason };
        match creation.await.map_err(|error| failed(error.to_string()))? {
            Ok(created) => Ok(created.id),
            Err(error) if status_of(&error) == Some(404) => Err(missing_image(image)),
            Err(error) => Err(failed(reason(&error))),
        }
    }

    fn body(&self, name: &str, image: &str) -> ContainerCreateBody {
        let mut env: Vec<String> = Vec::new();
        let mut host = HostConfig {
            network_mode: Some("host".to_owned()),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            ..HostConfig::default()
        };
        if let Some(preset) = self.preset {
            let ours = preset::environment(preset, &self.run, name, &self.target);
            env.extend(ours.map(|(key, value)| format!("{key}={value}")));
            host.readonly_rootfs = Some(true);
            host.cap_drop = Some(vec!["ALL".to_owned()]);
        }
        // What the user says comes last: the last one of a name wins.
        env.extend(self.settings.env.iter().map(|(key, value)| format!("{key}={value}")));
        ContainerCreateBody {
            image: Some(image.to_owned()),
            env: Some(env),
            cmd: Some(self.settings.arguments.clone()).filter(|arguments| !arguments.is_empty()),
            stop_signal: self.settings.stop_signal.clone(),
            labels: Some(HashMap::from([
                (RUN_LABEL.to_owned(), self.run.clone()),
                (OWNER_LABEL.to_owned(), self.owner.clone()),
            ])),
            // Each check is a process in the container; where nobody reads them, they would only disturb the run.
            healthcheck: matches!(self.readiness, Readiness::Log(_))
                .then(|| HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        }
    }

    /// Removes by label, not from memory, and when nothing is being made any more: a container whose creation was
    /// interrupted is found as well.
    pub(super) async fn remove_all(&self, engine: &Engine) -> Result<(), RolloutError> {
        self.creations.close();
        self.creations.wait().await;
        let left = engine.labelled(Some(&self.run)).await?;
        let removals = left.into_iter().map(|container| async move { engine.remove(&container.id).await });
        let removed: Vec<_> =
            futures_util::stream::iter(removals).buffer_unordered(REMOVED_AT_ONCE).collect().await;
        Ok(removed.into_iter().collect::<Result<(), _>>()?)
    }
}

fn missing_image(image: &str) -> RolloutError {
    RolloutError::MissingImage(format!(
        "image `{image}` is not on this engine; build it, or `docker pull {image}`"
    ))
}
