//! The replicas' containers, once they exist: starts and stops them and waits for what that leads to. Creating and
//! removing them is not done here.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::models::HealthStatusEnum;
use bollard::query_parameters::{AttachContainerOptionsBuilder, StopContainerOptionsBuilder};
use futures_util::future::join_all;
use serde_json::Map;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::container::{Container, End, EndAsked, Life, locked};
use super::engine::{Engine, reason, status_of};
use super::follower::{self, Followed, Follower, Loss};
use super::reader::OutputReader;
use crate::clock::{Moment, WallOffset};
use crate::recorder::Recorder;
use crate::recording::{LifecycleEvent, LifecycleKind, Source};
use crate::runtime::output::OutputFiles;
use crate::runtime::probe::{Crowd, Port, Sight};
use crate::runtime::{Exit, Replica, RuntimeError};
use crate::scenario::{Readiness, Scenario};

/// Exit code of a process that SIGKILL ended: 128 + 9.
const KILLED: i64 = 137;
/// How long the engine's word that a container has ended may take after the engine has stopped it.
const EVENT_PATIENCE: Duration = Duration::from_secs(10);
/// What the engine may take beyond the stop timeout to stop a container.
const STOP_SLACK: Duration = Duration::from_secs(10);

/// The replicas' containers.
#[derive(Debug)]
pub(in crate::runtime) struct Containers {
    engine: Engine,
    recorder: Recorder,
    outputs: OutputFiles,
    readiness: Readiness,
    port: Port,
    wall: WallOffset,
    followed: Followed,
    follower: Mutex<Option<AbortOnDropHandle<()>>>,
    lost: watch::Sender<Option<Loss>>,
}

impl Containers {
    pub(in crate::runtime) fn new(
        engine: Engine,
        recorder: Recorder,
        outputs: OutputFiles,
        scenario: &Scenario,
    ) -> Self {
        Self {
            engine,
            recorder,
            outputs,
            readiness: scenario.readiness.clone(),
            port: Port::of(&scenario.target),
            wall: WallOffset::read(),
            followed: Followed::default(),
            follower: Mutex::default(),
            lost: watch::Sender::new(None),
        }
    }

    /// Follows what the engine says of the containers from `since` on.
    pub(in crate::runtime) fn follow(&self, since: Moment) {
        let follower = Follower {
            engine: self.engine.clone(),
            followed: Arc::clone(&self.followed),
            recorder: self.recorder.clone(),
            wall: self.wall,
            lost: self.lost.clone(),
            pause: follower::PAUSE,
        };
        let following = tokio::spawn(follower.run(self.wall.unix_ns(since)));
        *locked(&self.follower) = Some(AbortOnDropHandle::new(following));
    }

    /// Takes charge of a container that was made and not started.
    pub(in crate::runtime) fn adopt_made(&self, replica: &Replica, id: String) {
        self.adopt(replica, id, Life::default());
    }

    /// Takes charge of a container that was found running.
    pub(in crate::runtime) fn adopt_running(&self, replica: &Replica, id: String) {
        self.adopt(replica, id, Life::found(true));
    }

    fn adopt(&self, replica: &Replica, id: String, life: Life) {
        let container = Container::new(Arc::clone(&replica.name), id, life);
        locked(&self.followed).push(Arc::new(container));
    }

    /// Lets go of the container of a replica that was stopped for good, when all that it wrote is read; says which it was.
    pub(in crate::runtime) async fn disown(&self, replica: &Replica) -> String {
        let container = self.of(replica);
        container.finish_output().await;
        locked(&self.followed).retain(|other| other.id != container.id);
        container.id.clone()
    }

    /// Those that start from now on come in addition: what the port showed before the last stop says nothing of them.
    pub(in crate::runtime) fn forget_stop(&self) {
        self.port.forget_stop();
    }

    pub(in crate::runtime) fn count(&self) -> usize {
        locked(&self.followed).len()
    }

    fn of(&self, replica: &Replica) -> Arc<Container> {
        let containers = locked(&self.followed);
        let found = containers.iter().find(|container| container.replica == replica.name);
        Arc::clone(found.expect("the experiment asks only for replicas that the runtime gave it"))
    }

    pub(in crate::runtime) async fn start(&self, replica: &Replica) -> Result<Moment, RuntimeError> {
        let container = self.of(replica);
        // What the last life wrote belongs to it, not to the next one.
        container.finish_output().await;
        // Attached before it starts, so that no line of its output is missed.
        self.attach(&container).await?;
        if container.life.borrow().is_running {
            return Ok(Moment::now());
        }
        *locked(&container.crowd) = self.port.crowd_of_start(self.siblings(&container));
        container.life.send_modify(Life::begin);
        let docker = self.engine.client(Duration::ZERO);
        match docker.start_container(&container.id, None).await {
            Ok(()) => {}
            // 304: somebody else has started it.
            Err(error) if status_of(&error) == Some(304) => {}
            Err(error) => {
                container.life.send_modify(|life| life.is_running = false);
                return Err(container.failed("start", reason(&error)));
            }
        }
        let state = self.engine.state_of(&container.id).await;
        let state = state.map_err(|error| container.failed("start", reason(&error)))?;
        // The engine takes its time after the process has begun; a process that has written something has begun.
        let told = self.wall.moment_of(state.started_at.as_deref()).unwrap_or_else(Moment::now);
        let started = container.life.borrow().first_sign.map_or(told, |sign| sign.min(told));
        self.tell(&container, started, LifecycleKind::Started, Source::Engine);
        Ok(started)
    }

    /// How many others run.
    fn siblings(&self, container: &Container) -> usize {
        let followed = locked(&self.followed);
        followed.iter().filter(|other| other.id != container.id && other.life.borrow().is_running).count()
    }

    /// Reads what the container writes from now on.
    async fn attach(&self, container: &Arc<Container>) -> Result<(), RuntimeError> {
        let options = AttachContainerOptionsBuilder::new().stream(true).stdout(true).stderr(true).build();
        let attached =
            self.engine.client(Duration::ZERO).attach_container(&container.id, Some(options)).await;
        let attached = attached.map_err(|error| container.failed("start", reason(&error)))?;
        let reader = OutputReader {
            file: self.outputs.of(&container.replica),
            container: Arc::clone(container),
            recorder: self.recorder.clone(),
            ready_text: match &self.readiness {
                Readiness::Log(text) => Some(text.clone()),
                _ => None,
            },
        };
        container.own_output(AbortOnDropHandle::new(tokio::spawn(reader.run(attached.output))));
        Ok(())
    }

    pub(in crate::runtime) async fn wait_until_ready(
        &self,
        replica: &Replica,
        patience: Duration,
    ) -> Result<Moment, RuntimeError> {
        let container = self.of(replica);
        let ready = self.ready(&container);
        tokio::select! {
            biased;
            ready = ready => ready,
            died = container.death() => Err(died),
            () = tokio::time::sleep(patience) => Err(RuntimeError::NotReady {
                replica: Arc::clone(&container.replica),
                patience,
                reason: self.waited_for(&container),
            }),
        }
    }

    fn waited_for(&self, container: &Container) -> String {
        let last_words = locked(&container.tail).last_words();
        match (&self.readiness, *locked(&container.crowd)) {
            (Readiness::Auto | Readiness::Tcp | Readiness::Http(_), Crowd::Listeners(least)) => format!(
                "waited for {} and {least} listeners of the port, which has {}{last_words}",
                self.readiness,
                self.port.told(),
            ),
            _ => format!("waited for {}{last_words}", self.readiness),
        }
    }

    async fn ready(&self, container: &Container) -> Result<Moment, RuntimeError> {
        let at = match &self.readiness {
            Readiness::Log(_) => said_ready(container).await,
            Readiness::Health => self.healthy(container).await?,
            Readiness::Auto if self.has_health_check(container).await? => tokio::select! {
                at = said_ready(container) => at,
                at = self.healthy(container) => at?,
            },
            Readiness::Auto | Readiness::Tcp => {
                self.crowded(container).await?;
                self.port.until_connected().await
            }
            Readiness::Http(path) => {
                let crowd = self.crowded(container).await?;
                self.port.until_answered(path, crowd).await
            }
        };
        let is_known = container.life.borrow().ready == Some(at);
        if !is_known {
            self.tell(container, at, LifecycleKind::Ready, Source::Harness);
        }
        Ok(at)
    }

    /// The port shows the replica's listener beside those of the others; nobody can answer for one that is alone.
    async fn crowded(&self, container: &Container) -> Result<Crowd, RuntimeError> {
        let crowd = *locked(&container.crowd);
        let why = match crowd {
            Crowd::Opaque => "others answered on its port while it was down",
            _ => match self.port.until_shown(crowd).await {
                Sight::Shown => return Ok(crowd),
                Sight::Blind if self.siblings(container) == 0 => return Ok(Crowd::Alone),
                Sight::Blind => "the listeners of its port cannot be seen from here, and others answer there",
            },
        };
        Err(container.failed(
            "tell the readiness of",
            format!("{why}, so the port cannot tell; give its image a health check, or use --ready log:TEXT"),
        ))
    }

    /// The engine's health check says that it is healthy. Its events may be late or missing on old engines, so it is
    /// asked, and asking costs the engine little.
    async fn healthy(&self, container: &Container) -> Result<Moment, RuntimeError> {
        const ASK_EVERY: Duration = Duration::from_millis(50);
        loop {
            match self.health(container).await? {
                Some(HealthStatusEnum::HEALTHY) => return Ok(Moment::now()),
                None => {
                    return Err(container.failed(
                        "check the health of",
                        "its image has no health check; use --ready tcp, http:/PATH or log:TEXT",
                    ));
                }
                Some(_) => tokio::time::sleep(ASK_EVERY).await,
            }
        }
    }

    async fn has_health_check(&self, container: &Container) -> Result<bool, RuntimeError> {
        Ok(self.health(container).await?.is_some())
    }

    /// What the health check says; none if there is none.
    async fn health(&self, container: &Container) -> Result<Option<HealthStatusEnum>, RuntimeError> {
        let state = self.engine.state_of(&container.id).await;
        let state = state.map_err(|error| container.failed("check the health of", reason(&error)))?;
        let status = state.health.and_then(|health| health.status);
        Ok(status.filter(|status| !matches!(status, HealthStatusEnum::NONE | HealthStatusEnum::EMPTY)))
    }

    /// Stops a replica and waits for its end. One that was told to stop before is waited for and not told again.
    pub(in crate::runtime) async fn stop(
        &self,
        replica: &Replica,
        timeout: Duration,
    ) -> Result<Exit, RuntimeError> {
        let container = self.of(replica);
        self.port.note_before_stop();
        let asked = Moment::now();
        let end = tokio::select! {
            biased;
            end = self.end(&container, timeout) => end?,
            died = container.death() => return Err(died),
        };
        if end.runs_again {
            return Err(container.failed(
                "stop",
                "it runs again after the engine stopped it; does it have a restart policy?",
            ));
        }
        let is_late = end.at.since(asked) >= timeout;
        let was_killed = container.life.borrow().was_killed;
        let killed = was_killed || (is_late && end.code == Some(KILLED));
        Ok(Exit { at: end.at, code: end.code, killed })
    }

    /// Asks for the end of the life that is now, if nobody has, and waits for it.
    async fn end(&self, container: &Container, timeout: Duration) -> Result<End, RuntimeError> {
        let mut asked = EndAsked::Before(0);
        container.life.send_modify(|life| asked = life.ask_to_end());
        let number = match asked {
            EndAsked::Now(number) => {
                self.tell_engine_to_stop(container, timeout).await?;
                number
            }
            EndAsked::Before(number) => {
                let patience = timeout + STOP_SLACK;
                if let Ok(end) = tokio::time::timeout(patience, container.end_of(number)).await {
                    return Ok(end);
                }
                // The engine would have killed it by now, had it been told.
                self.tell_engine_to_stop(container, timeout).await?;
                number
            }
        };
        tokio::time::timeout(EVENT_PATIENCE, container.end_of(number)).await.map_err(|_| {
            container.failed("stop", "the engine stopped it, but did not say within 10 s that it has ended")
        })
    }

    async fn tell_engine_to_stop(
        &self,
        container: &Container,
        timeout: Duration,
    ) -> Result<(), RuntimeError> {
        let seconds = i32::try_from(timeout.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::new().t(seconds).build();
        let docker = self.engine.client(timeout + STOP_SLACK + STOP_SLACK);
        let stopped = docker.stop_container(&container.id, Some(options)).await;
        stopped.map_err(|error| container.failed("stop", reason(&error)))
    }

    pub(in crate::runtime) async fn unexpected_end(&self) -> RuntimeError {
        let mut losses = self.lost.subscribe();
        // The sender is owned here, so the wait ends only with a loss.
        let first = losses.wait_for(Option::is_some).await.ok().and_then(|loss| loss.clone());
        match first {
            Some(Loss::Replica(container)) => container.death().await,
            Some(Loss::Events(reason)) => {
                RuntimeError::Engine { operation: "follow the engine's events".to_owned(), reason }
            }
            None => std::future::pending().await,
        }
    }

    /// Stops all replicas at once, and reads all that they wrote.
    pub(in crate::runtime) async fn stop_all(&self, timeout: Duration) -> Result<(), RuntimeError> {
        let containers = locked(&self.followed).clone();
        let stopping = containers.iter().filter(|one| one.life.borrow().is_running).map(async |one| {
            if !one.life.borrow().is_asked_to_end() {
                self.recorder.did(&one.replica, LifecycleKind::TerminateRequested);
            }
            let stopped = self.stop(&Replica { name: Arc::clone(&one.replica) }, timeout).await;
            one.finish_output().await;
            stopped.map(drop)
        });
        join_all(stopping).await.into_iter().collect()
    }

    /// Starts every container that does not run, or is about to end, and sees that they run.
    pub(in crate::runtime) async fn start_stopped(&self, timeout: Duration) -> Result<(), RuntimeError> {
        let containers = locked(&self.followed).clone();
        let starting = containers.iter().map(|container| self.start_if_stopped(container, timeout));
        join_all(starting).await.into_iter().collect()
    }

    async fn start_if_stopped(&self, container: &Container, timeout: Duration) -> Result<(), RuntimeError> {
        let life = *container.life.borrow();
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
                return Err(container.failed("start", reason(&error)));
            }
            _ => {}
        }
        let state = self.engine.state_of(&container.id).await;
        match state.map_err(|error| container.failed("start", reason(&error)))?.running {
            Some(true) => stopped,
            _ => Err(container.failed("start", "it does not run after it was started")),
        }
    }

    /// Stops following: what happens to the containers from now on is nobody's concern.
    pub(in crate::runtime) fn release(&self) {
        drop(locked(&self.follower).take());
    }

    /// Waits until all that the containers wrote is read, with a bound; they have to be gone.
    pub(in crate::runtime) async fn finish_outputs(&self) {
        let containers = locked(&self.followed).clone();
        join_all(containers.iter().map(|container| container.finish_output())).await;
    }

    fn tell(&self, container: &Container, at: Moment, kind: LifecycleKind, source: Source) {
        let replica = Arc::clone(&container.replica);
        self.recorder.lifecycle(LifecycleEvent { at, replica, kind, source, fields: Map::new() });
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        self.release();
        for container in locked(&self.followed).iter() {
            // Its task holds the container, which holds the task.
            container.drop_output();
        }
    }
}

/// The container's output said that it is ready.
async fn said_ready(container: &Container) -> Moment {
    let mut life = container.life.subscribe();
    // The container owns the sender, so the wait cannot fail.
    let at = life.wait_for(|life| life.ready.is_some()).await.ok().and_then(|life| life.ready);
    at.unwrap_or_else(Moment::now)
}
