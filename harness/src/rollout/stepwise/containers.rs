//! Replicas as containers, through the engine's API: made by the run ([`docker`]), or found in a Compose project
//! ([`compose`]).

pub(super) mod compose;
pub(super) mod docker;
mod follower;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::models::HealthStatusEnum;
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, LogsOptionsBuilder, StopContainerOptionsBuilder,
};
use futures_util::{FutureExt, StreamExt};
use tokio_util::task::AbortOnDropHandle;

use self::compose::ProjectContainers;
use self::docker::MadeContainers;
use self::follower::{Container, Followed, Follower};
use super::launcher::{Health, Launcher, Outcome};
use super::output_reader::{OutputReader, ReadyText};
use super::tracked_replica::{Losses, Provenance, TrackedReplica, locked};
use crate::host;
use crate::host::engine::{Engine, reason, status_of};
use crate::model::clock::{Moment, WallOffset};
use crate::rollout::error::RolloutError;
use crate::rollout::replica::Replica;
use crate::scenario::{StopTimeout, Version};

/// What the engine may take beyond the stop timeout to stop a container, and to say that it has ended.
const STOP_SLACK: Duration = Duration::from_secs(10);

/// Where the containers come from.
#[derive(Debug)]
pub(super) enum ContainerSource {
    Made(Box<MadeContainers>),
    Project(ProjectContainers),
}

impl From<MadeContainers> for ContainerSource {
    fn from(made: MadeContainers) -> Self {
        Self::Made(Box::new(made))
    }
}

impl From<ProjectContainers> for ContainerSource {
    fn from(project: ProjectContainers) -> Self {
        Self::Project(project)
    }
}

/// Starts and ends the replicas' containers.
#[derive(Debug)]
pub(super) struct ContainerLauncher {
    engine: Engine,
    source: ContainerSource,
    /// The target's.
    port: u16,
    wall: WallOffset,
    followed: Followed,
    follower: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl ContainerLauncher {
    pub(super) fn new(engine: Engine, source: ContainerSource, port: u16) -> Self {
        Self {
            engine,
            source,
            port,
            wall: WallOffset::read(),
            followed: Followed::default(),
            follower: Mutex::default(),
        }
    }

    /// Follows what the engine says of the containers from `since` on.
    fn follow(&self, since: Moment, losses: &Losses) {
        let follower = Follower {
            engine: self.engine.clone(),
            followed: Arc::clone(&self.followed),
            wall: self.wall,
            losses: losses.clone(),
            pause: follower::PAUSE,
        };
        let following = tokio::spawn(follower.run(self.wall.unix_ns(since)));
        *locked(&self.follower) = Some(AbortOnDropHandle::new(following));
    }

    fn id_of(&self, replica: &TrackedReplica) -> String {
        let containers = locked(&self.followed);
        let found = containers.iter().find(|container| container.replica.name == replica.name);
        found.expect("a container was provided for each replica of the fleet").id.clone()
    }

    /// Reads what the container writes from now on.
    async fn read(&self, replica: &TrackedReplica, mut reader: OutputReader) -> Result<(), RolloutError> {
        let options = AttachContainerOptionsBuilder::new().stream(true).stdout(true).stderr(true).build();
        let id = self.id_of(replica);
        let attached = self.engine.client(Duration::ZERO).attach_container(&id, Some(options)).await;
        let mut output = attached.map_err(|error| replica.failed("start", reason(&error)))?.output;
        let reading = tokio::spawn(async move {
            while let Some(Ok(chunk)) = output.next().await {
                reader.push(&chunk.into_bytes());
            }
            reader.finish();
        });
        replica.own_output(AbortOnDropHandle::new(reading));
        Ok(())
    }

    /// Whether the container has written `text` since it was started.
    async fn has_written(&self, replica: &TrackedReplica, text: &str) -> Result<bool, RolloutError> {
        let failed = |error| replica.failed("read the log of", reason(&error));
        let id = self.id_of(replica);
        let state = self.engine.state_of(&id).await.map_err(failed)?;
        let started = self.wall.moment_of(state.started_at.as_deref());
        // Whole seconds: the engine knows no others here.
        let since = started.map_or(0, |at| self.wall.unix_ns(at) / 1_000_000_000);
        let since = i32::try_from(since).unwrap_or(0);
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).since(since).build();
        let docker = self.engine.client(STOP_SLACK);
        let mut log = docker.logs(&id, Some(options));
        let mut text = ReadyText::new(text.to_owned());
        while let Some(chunk) = log.next().await {
            if text.is_in(&chunk.map_err(failed)?.into_bytes()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn start_container(&self, replica: &TrackedReplica) -> Result<(), RolloutError> {
        let docker = self.engine.client(Duration::ZERO);
        match docker.start_container(&self.id_of(replica), None).await {
            Ok(()) => Ok(()),
            // 304: it runs already.
            Err(error) if status_of(&error) == Some(304) => Ok(()),
            Err(error) => Err(replica.failed("start", reason(&error))),
        }
    }

    async fn find_network(&self, replica: &TrackedReplica) -> Result<Option<bool>, RolloutError> {
        let found = self.engine.network_of(&self.id_of(replica), self.port).await;
        let network = found.map_err(|error| replica.failed("tell the readiness of", reason(&error)))?;
        if network.is_host {
            return Ok(None);
        }
        match host::is_shared(network.process) {
            Some(true) => return Ok(None),
            Some(false) => {}
            // It has just ended, or the engine is another machine's.
            None if network.process == 0 => return Ok(Some(false)),
            None => {
                let reason = "its network namespace cannot be seen from here, and what answers on the target's port need \
                              not be this replica; give it a health check and use --ready health, or use --ready log:TEXT";
                let (replica, reason) = (Arc::clone(&replica.name), reason.to_owned());
                return Err(RolloutError::UnknownReadiness { replica, reason });
            }
        }
        let ports = host::listening_ports(network.process).unwrap_or_default();
        Ok(Some(network.port.map_or(!ports.is_empty(), |port| ports.contains(&port))))
    }
}

impl Launcher for ContainerLauncher {
    fn members<'a>(&'a self, losses: &'a Losses) -> Outcome<'a, Vec<(Replica, Provenance)>> {
        async move {
            let asked = Moment::now();
            let members = match &self.source {
                ContainerSource::Made(made) => {
                    made.check(&self.engine).await?;
                    made.members().map(|replica| (replica, Provenance::Made)).collect()
                }
                ContainerSource::Project(project) => {
                    let found = project.find(&self.engine).await?;
                    found.into_iter().map(|replica| (replica, Provenance::Found)).collect()
                }
            };
            self.follow(asked, losses);
            Ok(members)
        }
        .boxed()
    }

    fn provide<'a>(&'a self, replica: &'a Arc<TrackedReplica>, version: Version) -> Outcome<'a, ()> {
        async move {
            let id = match &self.source {
                ContainerSource::Made(made) => made.create(&self.engine, &replica.name, version).await?,
                ContainerSource::Project(project) => project.id_of(replica)?,
            };
            locked(&self.followed).push(Container { id, replica: Arc::clone(replica) });
            Ok(())
        }
        .boxed()
    }

    fn start<'a>(&'a self, replica: &'a Arc<TrackedReplica>, output: OutputReader) -> Outcome<'a, Moment> {
        async move {
            // Attached before it starts, so that no line of its output is missed.
            self.read(replica, output).await?;
            self.start_container(replica).await?;
            let state = self.engine.state_of(&self.id_of(replica)).await;
            let state = state.map_err(|error| replica.failed("start", reason(&error)))?;
            // The engine takes its time after the process has begun; a process that has written something has begun.
            let told = self.wall.moment_of(state.started_at.as_deref()).unwrap_or_else(Moment::now);
            Ok(replica.life.borrow().first_sign.map_or(told, |sign| sign.min(told)))
        }
        .boxed()
    }

    fn attach<'a>(
        &'a self,
        replica: &'a Arc<TrackedReplica>,
        output: OutputReader,
        text: Option<&'a str>,
    ) -> Outcome<'a, bool> {
        async move {
            self.read(replica, output).await?;
            match text {
                Some(text) => self.has_written(replica, text).await,
                None => Ok(false),
            }
        }
        .boxed()
    }

    /// A container has a stop timeout of its own.
    fn stop_timeout<'a>(&'a self, replica: &'a TrackedReplica, given: StopTimeout) -> Outcome<'a, Duration> {
        async move {
            match given {
                StopTimeout::Given(given) => Ok(given),
                StopTimeout::Own => {
                    let own = self.engine.stop_timeout_of(&self.id_of(replica)).await;
                    own.map_err(|error| replica.failed("stop", reason(&error)))
                }
            }
        }
        .boxed()
    }

    /// The engine waits for the end, and kills.
    fn terminate<'a>(&'a self, replica: &'a TrackedReplica, timeout: StopTimeout) -> Outcome<'a, ()> {
        async move {
            // Without a number the engine takes the container's own.
            let options = match timeout {
                StopTimeout::Own => None,
                StopTimeout::Given(given) => {
                    let seconds = i32::try_from(given.as_secs()).unwrap_or(i32::MAX);
                    Some(StopContainerOptionsBuilder::new().t(seconds).build())
                }
            };
            let longest = self.stop_timeout(replica, timeout).await?;
            let docker = self.engine.client(longest + STOP_SLACK + STOP_SLACK);
            let stopped = docker.stop_container(&self.id_of(replica), options).await;
            stopped.map_err(|error| replica.failed("stop", reason(&error)))
        }
        .boxed()
    }

    fn slack(&self) -> Duration {
        STOP_SLACK
    }

    /// The engine would have killed it by now, had it been told.
    fn force_end<'a>(&'a self, replica: &'a TrackedReplica, timeout: StopTimeout) -> Outcome<'a, ()> {
        self.terminate(replica, timeout)
    }

    /// The engine carries the check out.
    fn health<'a>(&'a self, replica: &'a TrackedReplica) -> Outcome<'a, Option<Health>> {
        async move {
            let state = self.engine.state_of(&self.id_of(replica)).await;
            let state = state.map_err(|error| replica.failed("check the health of", reason(&error)))?;
            Ok(match state.health.and_then(|health| health.status) {
                None | Some(HealthStatusEnum::NONE | HealthStatusEnum::EMPTY) => None,
                Some(HealthStatusEnum::HEALTHY) => Some(Health::Healthy),
                Some(_) => Some(Health::NotHealthy),
            })
        }
        .boxed()
    }

    fn listens_by_itself<'a>(&'a self, replica: &'a TrackedReplica) -> Outcome<'a, Option<bool>> {
        self.find_network(replica).boxed()
    }

    fn holds_the_port<'a>(&'a self, replica: &'a TrackedReplica) -> Outcome<'a, Option<bool>> {
        async move {
            let found = self.engine.network_of(&self.id_of(replica), self.port).await;
            let network = found.map_err(|error| replica.failed("tell the readiness of", reason(&error)))?;
            match host::is_shared(network.process) {
                Some(true) => Ok(host::holds_listener(network.process, self.port)),
                _ => Ok(None),
            }
        }
        .boxed()
    }

    fn instead_of_the_port(&self) -> &'static str {
        "give its image a health check, or use --ready log:TEXT"
    }

    fn remove<'a>(&'a self, replica: &'a TrackedReplica) -> Outcome<'a, ()> {
        async move {
            let id = self.id_of(replica);
            locked(&self.followed).retain(|other| other.id != id);
            match &self.source {
                ContainerSource::Made(_) => Ok(self.engine.remove(&id).await?),
                ContainerSource::Project(_) => Ok(()),
            }
        }
        .boxed()
    }

    fn restore<'a>(&'a self, replica: &'a TrackedReplica) -> Outcome<'a, ()> {
        async move {
            self.start_container(replica).await?;
            let state = self.engine.state_of(&self.id_of(replica)).await;
            match state.map_err(|error| replica.failed("start", reason(&error)))?.running {
                Some(true) => Ok(()),
                _ => Err(replica.failed("start", "it does not run after it was started")),
            }
        }
        .boxed()
    }

    fn dismantle(&self) -> Outcome<'_, ()> {
        async move {
            drop(locked(&self.follower).take());
            match &self.source {
                ContainerSource::Made(made) => made.remove_all(&self.engine).await,
                ContainerSource::Project(_) => Ok(()),
            }
        }
        .boxed()
    }
}
