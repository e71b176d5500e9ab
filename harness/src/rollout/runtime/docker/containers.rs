//! The replicas' containers, once they exist: starts and stops them and waits for what that leads to. Creating and
//! removing them is not done here.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::models::HealthStatusEnum;
use bollard::query_parameters::{AttachContainerOptionsBuilder, StopContainerOptionsBuilder};
use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::Map;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::container::Container;
use super::follower::{self, Followed, Follower, Loss};
use crate::host;
use crate::host::engine::{Engine, EngineError, reason, status_of};
use crate::model::clock::{Moment, WallOffset};
use crate::model::lifecycle::{LifecycleKind, Source};
use crate::model::sink::Sink;
use crate::rollout::runtime::life::{End, EndAsked, Life};
use crate::rollout::runtime::output::OutputFiles;
use crate::rollout::runtime::reader::OutputReader;
use crate::rollout::runtime::readiness::{Gate, Health, HealthCheck};
use crate::rollout::runtime::watched::{Watched, locked};
use crate::rollout::runtime::{Replica, RuntimeError};
use crate::scenario::{Scenario, StopTimeout};

/// Exit code of a process that SIGKILL ended: 128 + 9.
const KILLED: i64 = 137;
/// How long the engine's word that a container has ended may take after the engine has stopped it.
const EVENT_PATIENCE: Duration = Duration::from_secs(10);
/// What the engine may take beyond the stop timeout to stop a container.
const STOP_SLACK: Duration = Duration::from_secs(10);

/// The replicas' containers.
#[derive(Debug)]
pub(in crate::rollout::runtime) struct Containers {
    engine: Engine,
    sink: Arc<dyn Sink>,
    outputs: OutputFiles,
    gate: Gate,
    port: u16,
    wall: WallOffset,
    followed: Followed,
    follower: Mutex<Option<AbortOnDropHandle<()>>>,
    lost: watch::Sender<Option<Loss>>,
}

impl Containers {
    pub(in crate::rollout::runtime) fn new(
        engine: Engine,
        sink: Arc<dyn Sink>,
        outputs: OutputFiles,
        scenario: &Scenario,
    ) -> Self {
        Self {
            engine,
            sink,
            outputs,
            gate: Gate::of(scenario),
            port: scenario.target.port,
            wall: WallOffset::read(),
            followed: Followed::default(),
            follower: Mutex::default(),
            lost: watch::Sender::new(None),
        }
    }

    /// Follows what the engine says of the containers from `since` on.
    pub(in crate::rollout::runtime) fn follow(&self, since: Moment) {
        let follower = Follower {
            engine: self.engine.clone(),
            followed: Arc::clone(&self.followed),
            wall: self.wall,
            lost: self.lost.clone(),
            pause: follower::PAUSE,
        };
        let following = tokio::spawn(follower.run(self.wall.unix_ns(since)));
        *locked(&self.follower) = Some(AbortOnDropHandle::new(following));
    }

    /// Takes charge of a container that was made and not started.
    pub(in crate::rollout::runtime) fn adopt_made(&self, replica: &Replica, id: String) {
        self.adopt(replica, id, Life::default());
    }

    /// Takes charge of a container that was found running.
    pub(in crate::rollout::runtime) fn adopt_running(&self, replica: &Replica, id: String) {
        self.adopt(replica, id, Life::found(true));
    }

    fn adopt(&self, replica: &Replica, id: String, life: Life) {
        let watched = Arc::new(Watched::new(Arc::clone(&replica.name), life, Arc::clone(&self.sink)));
        locked(&self.followed).push(Container { id, watched });
    }

    /// Lets go of the container of a replica that was stopped for good, when all that it wrote is read; says which it was.
    pub(in crate::rollout::runtime) async fn disown(&self, replica: &Replica) -> String {
        let container = self.of(replica);
        container.watched.finish_output().await;
        locked(&self.followed).retain(|other| other.id != container.id);
        container.id
    }

    /// Those that start from now on come in addition: what the port showed before the last stop says nothing of them.
    pub(in crate::rollout::runtime) fn forget_stop(&self) {
        self.gate.forget_stop();
    }

    pub(in crate::rollout::runtime) fn count(&self) -> usize {
        locked(&self.followed).len()
    }

    /// What is known of each.
    pub(in crate::rollout::runtime) fn watched(&self) -> Vec<Arc<Watched>> {
        locked(&self.followed).iter().map(|container| Arc::clone(&container.watched)).collect()
    }

    fn of(&self, replica: &Replica) -> Container {
        let containers = locked(&self.followed);
        let found = containers.iter().find(|container| container.watched.name == replica.name);
        found.expect("the experiment asks only for replicas that the runtime gave it").clone()
    }

    pub(in crate::rollout::runtime) async fn start(&self, replica: &Replica) -> Result<(), RuntimeError> {
        let Container { id, watched } = self.of(replica);
        // What the last life wrote belongs to it, not to the next one.
        watched.finish_output().await;
        // Attached before it starts, so that no line of its output is missed.
        self.attach(&id, &watched).await?;
        if watched.life.borrow().is_running {
            return Ok(());
        }
        self.gate.before_start(&watched, self.siblings(&id));
        watched.life.send_modify(Life::begin);
        let docker = self.engine.client(Duration::ZERO);
        match docker.start_container(&id, None).await {
            Ok(()) => {}
            // 304: somebody else has started it.
            Err(error) if status_of(&error) == Some(304) => {}
            Err(error) => {
                watched.life.send_modify(|life| life.is_running = false);
                return Err(watched.failed("start", reason(&error)));
            }
        }
        let state = self.engine.state_of(&id).await;
        let state = state.map_err(|error| watched.failed("start", reason(&error)))?;
        // The engine takes its time after the process has begun; a process that has written something has begun.
        let told = self.wall.moment_of(state.started_at.as_deref()).unwrap_or_else(Moment::now);
        let started = watched.life.borrow().first_sign.map_or(told, |sign| sign.min(told));
        watched.tell(started, LifecycleKind::Started, Source::Engine, Map::new());
        Ok(())
    }

    /// How many others run.
    fn siblings(&self, id: &str) -> usize {
        let followed = locked(&self.followed);
        followed.iter().filter(|other| other.id != id && other.watched.life.borrow().is_running).count()
    }

    /// Reads what the container writes from now on.
    async fn attach(&self, id: &str, watched: &Arc<Watched>) -> Result<(), RuntimeError> {
        let options = AttachContainerOptionsBuilder::new().stream(true).stdout(true).stderr(true).build();
        let attached = self.engine.client(Duration::ZERO).attach_container(id, Some(options)).await;
        let mut output = attached.map_err(|error| watched.failed("start", reason(&error)))?.output;
        let mut reader =
            OutputReader::new(self.outputs.of(&watched.name), Arc::clone(watched), self.gate.text());
        let reading = tokio::spawn(async move {
            while let Some(Ok(chunk)) = output.next().await {
                reader.push(&chunk.into_bytes());
            }
            reader.finish();
        });
        watched.own_output(AbortOnDropHandle::new(reading));
        Ok(())
    }

    pub(in crate::rollout::runtime) async fn wait_until_ready(
        &self,
        replica: &Replica,
        patience: Duration,
    ) -> Result<Moment, RuntimeError> {
        let container = self.of(replica);
        let check = EngineCheck { engine: &self.engine, container: &container, port: self.port };
        let others = || self.siblings(&container.id);
        self.gate.wait_until_ready(&container.watched, &check, others, patience).await
    }

    /// Stops a replica and waits for its end. One that was told to stop before is waited for and not told again.
    pub(in crate::rollout::runtime) async fn stop(
        &self,
        replica: &Replica,
        timeout: StopTimeout,
    ) -> Result<(), RuntimeError> {
        let container = self.of(replica);
        let watched = &container.watched;
        self.gate.before_stop();
        let asked = Moment::now();
        let end = tokio::select! {
            biased;
            end = self.end(&container, timeout) => end?,
            died = watched.death() => return Err(died),
        };
        if end.runs_again {
            return Err(watched.failed(
                "stop",
                "it runs again after the engine stopped it; does it have a restart policy?",
            ));
        }
        // The engine's word of the kill may be missing.
        let is_late = end.at.since(asked) >= self.own_timeout(&container, timeout).await?;
        if is_late && end.code == Some(KILLED) && !watched.life.borrow().was_killed {
            watched.take_signal(end.at, "SIGKILL");
        }
        Ok(())
    }

    /// Asks for the end of the life that is now, if nobody has, and waits for it.
    async fn end(&self, container: &Container, timeout: StopTimeout) -> Result<End, RuntimeError> {
        let mut asked = EndAsked::Before(0);
        let watched = &container.watched;
        watched.life.send_modify(|life| asked = life.ask_to_end());
        let number = match asked {
            EndAsked::Now(number) => {
                self.tell_engine_to_stop(container, timeout).await?;
                number
            }
            EndAsked::Before(number) => {
                let patience = self.own_timeout(container, timeout).await? + STOP_SLACK;
                if let Ok(end) = tokio::time::timeout(patience, watched.end_of(number)).await {
                    return Ok(end);
                }
                // The engine would have killed it by now, had it been told.
                self.tell_engine_to_stop(container, timeout).await?;
                number
            }
        };
        tokio::time::timeout(EVENT_PATIENCE, watched.end_of(number)).await.map_err(|_| {
            watched.failed("stop", "the engine stopped it, but did not say within 10 s that it has ended")
        })
    }

    async fn tell_engine_to_stop(
        &self,
        container: &Container,
        timeout: StopTimeout,
    ) -> Result<(), RuntimeError> {
        // Without a number the engine takes the container's own.
        let options = match timeout {
            StopTimeout::Own => None,
            StopTimeout::Given(given) => {
                let seconds = i32::try_from(given.as_secs()).unwrap_or(i32::MAX);
                Some(StopContainerOptionsBuilder::new().t(seconds).build())
            }
        };
        let longest = self.own_timeout(container, timeout).await?;
        let docker = self.engine.client(longest + STOP_SLACK + STOP_SLACK);
        let stopped = docker.stop_container(&container.id, options).await;
        stopped.map_err(|error| container.watched.failed("stop", reason(&error)))
    }

    /// How long a container may take to stop: what was given, or what it says itself.
    async fn own_timeout(
        &self,
        container: &Container,
        timeout: StopTimeout,
    ) -> Result<Duration, RuntimeError> {
        match timeout {
            StopTimeout::Given(given) => Ok(given),
            StopTimeout::Own => {
                let own = self.engine.stop_timeout_of(&container.id).await;
                own.map_err(|error| container.watched.failed("stop", reason(&error)))
            }
        }
    }

    pub(in crate::rollout::runtime) async fn unexpected_end(&self) -> RuntimeError {
        let mut losses = self.lost.subscribe();
        // The sender is owned here, so the wait ends only with a loss.
        let first = losses.wait_for(Option::is_some).await.ok().and_then(|loss| loss.clone());
        match first {
            Some(Loss::Replica(watched)) => watched.death().await,
            Some(Loss::Events(reason)) => {
                EngineError::Failed { operation: "follow the engine's events".to_owned(), reason }.into()
            }
            None => std::future::pending().await,
        }
    }

    /// Starts every container that does not run, or is about to end, and sees that they run.
    pub(in crate::rollout::runtime) async fn start_stopped(
        &self,
        timeout: StopTimeout,
    ) -> Result<(), RuntimeError> {
        let containers = locked(&self.followed).clone();
        let starting = containers.iter().map(|container| self.start_if_stopped(container, timeout));
        join_all(starting).await.into_iter().collect()
    }

    async fn start_if_stopped(
        &self,
        container: &Container,
        timeout: StopTimeout,
    ) -> Result<(), RuntimeError> {
        let watched = &container.watched;
        let life = *watched.life.borrow();
        // A stop that was given up goes on in the engine: a start would come too early and do nothing.
        let stopped = if life.is_running && life.is_asked_to_end() {
            self.end(container, timeout).await.map(drop)
        } else {
            Ok(())
        };
        let docker = self.engine.client(Duration::ZERO);
        match docker.start_container(&container.id, None).await {
            // 304: it runs already.
            Err(error) if status_of(&error) != Some(304) => {
                return Err(watched.failed("start", reason(&error)));
            }
            _ => {}
        }
        let state = self.engine.state_of(&container.id).await;
        match state.map_err(|error| watched.failed("start", reason(&error)))?.running {
            Some(true) => stopped,
            _ => Err(watched.failed("start", "it does not run after it was started")),
        }
    }

    /// Stops following: what happens to the containers from now on is nobody's concern.
    pub(in crate::rollout::runtime) fn release(&self) {
        drop(locked(&self.follower).take());
    }

    /// Waits until all that the containers wrote is read, with a bound; they have to be gone.
    pub(in crate::rollout::runtime) async fn finish_outputs(&self) {
        join_all(self.watched().iter().map(|watched| watched.finish_output())).await;
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        self.release();
        for watched in self.watched() {
            // Its task holds it, and it holds the task.
            watched.drop_output();
        }
    }
}

/// The health check of a container, which the engine carries out.
struct EngineCheck<'a> {
    engine: &'a Engine,
    container: &'a Container,
    /// The target's.
    port: u16,
}

impl HealthCheck for EngineCheck<'_> {
    const INSTEAD_OF_THE_PORT: &'static str = "give its image a health check, or use --ready log:TEXT";

    async fn health(&self) -> Result<Option<Health>, RuntimeError> {
        let Container { id, watched } = self.container;
        let state = self.engine.state_of(id).await;
        let state = state.map_err(|error| watched.failed("check the health of", reason(&error)))?;
        Ok(match state.health.and_then(|health| health.status) {
            None | Some(HealthStatusEnum::NONE | HealthStatusEnum::EMPTY) => None,
            Some(HealthStatusEnum::HEALTHY) => Some(Health::Healthy),
            Some(_) => Some(Health::NotHealthy),
        })
    }

    async fn listens_by_itself(&self) -> Result<Option<bool>, RuntimeError> {
        let Container { id, watched } = self.container;
        let found = self.engine.network_of(id, self.port).await;
        let network = found.map_err(|error| watched.failed("tell the readiness of", reason(&error)))?;
        if network.is_host {
            return Ok(None);
        }
        match host::is_shared(network.process) {
            Some(true) => return Ok(None),
            Some(false) => {}
            // It has just ended, or the engine is another machine's.
            None if network.process == 0 => return Ok(Some(false)),
            None => {
                let reason = "its network namespace cannot be seen from here, and what answers on the target's port need not be \
                     this replica; give it a health check and use --ready health, or use --ready log:TEXT";
                return Err(watched.failed("tell the readiness of", reason));
            }
        }
        let ports = host::listening_ports(network.process).unwrap_or_default();
        Ok(Some(network.port.map_or(!ports.is_empty(), |port| ports.contains(&port))))
    }
}
