//! Replicas as containers that the run makes and removes, through the engine's API. Below this module stands the only
//! user of bollard.

mod container;
mod containers;
mod follower;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{ContainerCreateBody, HealthConfig, HostConfig};
use bollard::query_parameters::CreateContainerOptionsBuilder;
use futures_util::StreamExt;
use tokio_util::task::TaskTracker;

use crate::host::engine::{Engine, OWNER_LABEL, RUN_LABEL, reason, status_of};
pub(super) use containers::Containers;

use crate::model::clock::Moment;
use crate::model::sink::Sink;
use crate::rollout::runtime::output::OutputFiles;
use crate::rollout::runtime::probe::check_port;
use crate::rollout::runtime::watched::stop_all;
use crate::rollout::runtime::{Replica, Runtime, RuntimeError, preset};
use crate::scenario::{
    Order, Preset, Readiness, ReplicaSettings, Scenario, StopTimeout, Target, Version, Versions,
};

/// So many containers are removed at once; more would only wait for each other in the engine.
const REMOVED_AT_ONCE: usize = 8;

/// Makes the containers of one run and removes them again.
#[derive(Debug)]
pub struct DockerRuntime {
    engine: Engine,
    run: String,
    owner: String,
    preset: Option<Preset>,
    images: Versions<String>,
    replicas: usize,
    settings: ReplicaSettings,
    target: Target,
    readiness: Readiness,
    containers: Containers,
    /// Containers that are being made; the engine goes on with each, whether anybody waits for it or not.
    creations: TaskTracker,
}

impl DockerRuntime {
    /// A runtime for containers of these images. Nothing is made yet. `owner` says whose the containers are.
    #[must_use]
    pub fn new(
        engine: Engine,
        run: &str,
        owner: &str,
        images: Versions<String>,
        scenario: &Scenario,
        sink: Arc<dyn Sink>,
        outputs: OutputFiles,
    ) -> Self {
        let containers = Containers::new(engine.clone(), sink, outputs, scenario);
        Self {
            engine,
            run: run.to_owned(),
            owner: owner.to_owned(),
            preset: scenario.preset(),
            images,
            replicas: scenario.replicas,
            settings: scenario.settings.clone(),
            target: scenario.target.clone(),
            readiness: scenario.readiness.clone(),
            containers,
            creations: TaskTracker::new(),
        }
    }

    async fn create(&self, name: &str, image: &str) -> Result<String, RuntimeError> {
        let options =
            CreateContainerOptionsBuilder::new().name(&format!("hitless-{}-{name}", self.run)).build();
        let (docker, body) = (self.engine.client(Duration::ZERO), self.body(name, image));
        // A task, which goes on when an interrupt drops this wait: the clean-up has to know when it is through.
        let creation =
            self.creations.spawn(async move { docker.create_container(Some(options), body).await });
        let failed = |reason| RuntimeError::Replica { operation: "create", replica: name.into(), reason };
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
}

impl Runtime for DockerRuntime {
    async fn assemble(&self) -> Result<Vec<Replica>, RuntimeError> {
        check_port(&self.target)?;
        for image in self.images.iter() {
            if self.engine.image_labels(image).await?.is_none() {
                return Err(missing_image(image));
            }
        }
        self.containers.follow(Moment::now());
        let mut replicas = Vec::with_capacity(self.replicas);
        for replica in Replica::first(self.replicas) {
            let id = self.create(&replica.name, &self.images.current).await?;
            self.containers.adopt_made(&replica, id);
            replicas.push(replica);
        }
        Ok(replicas)
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

    async fn successor(
        &self,
        replica: &Replica,
        version: Version,
        order: Order,
    ) -> Result<Replica, RuntimeError> {
        // A version may have other listeners than the one before.
        self.containers.forget_stop();
        let successor = replica.successor(order);
        let id = self.create(&successor.name, self.images.of(version)).await?;
        self.containers.adopt_made(&successor, id);
        Ok(successor)
    }

    async fn discard(&self, replica: &Replica) -> Result<(), RuntimeError> {
        let id = self.containers.disown(replica).await;
        Ok(self.engine.remove(&id).await?)
    }

    async fn unexpected_end(&self) -> RuntimeError {
        self.containers.unexpected_end().await
    }

    async fn retire(&self, timeout: StopTimeout) -> Result<(), RuntimeError> {
        stop_all(self, self.containers.watched(), timeout).await
    }

    /// Removes by label, not from memory, and when nothing is being made any more: a container whose creation was
    /// interrupted is found as well.
    async fn dismantle(&self, _timeout: StopTimeout) -> Result<(), RuntimeError> {
        self.containers.release();
        self.creations.close();
        self.creations.wait().await;
        let left = self.engine.labelled(Some(&self.run)).await?;
        let removals =
            left.into_iter().map(|container| async move { self.engine.remove(&container.id).await });
        let removed: Vec<_> =
            futures_util::stream::iter(removals).buffer_unordered(REMOVED_AT_ONCE).collect().await;
        self.containers.finish_outputs().await;
        Ok(removed.into_iter().collect::<Result<(), _>>()?)
    }
}

fn missing_image(image: &str) -> RuntimeError {
    RuntimeError::MissingImage(format!(
        "image `{image}` is not on this engine; build it, or `docker pull {image}`"
    ))
}
