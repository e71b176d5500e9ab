//! The replicas' containers, once they exist: starts and stops them, and turns what the engine and the servers say
//! into lifecycle events. Creating and removing them is not done here.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::models::{ContainerStateStatusEnum, EventMessage, HealthStatusEnum};
use bollard::query_parameters::{AttachContainerOptionsBuilder, StopContainerOptionsBuilder};
use futures_util::StreamExt;
use serde_json::{Map, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::engine::{Engine, reason, status_of};
use super::logline::{self, Tail};
use crate::clock::{Moment, WallOffset};
use crate::recorder::Recorder;
use crate::recording::{LifecycleEvent, LifecycleKind, Source};
use crate::runtime::output::{OutputFile, OutputFiles};
use crate::runtime::{Exit, Replica, RuntimeError, probe};
use crate::scenario::{Readiness, Scenario, Target};

/// Exit code of a process that SIGKILL ended: 128 + 9.
const KILLED: i64 = 137;
/// How long the rest of a stopped container's output may take to arrive.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(2);

/// The replicas' containers.
#[derive(Debug)]
pub(in crate::runtime) struct Containers {
    engine: Engine,
    recorder: Recorder,
    outputs: OutputFiles,
    readiness: Readiness,
    target: Target,
    wall: WallOffset,
    followed: Followed,
    events: Mutex<Option<JoinHandle<()>>>,
    died: watch::Sender<Option<(Arc<Container>, Option<i64>)>>,
}

/// Shared with the task that follows the engine's events.
type Followed = Arc<Mutex<Vec<Arc<Container>>>>;

/// One replica's container.
#[derive(Debug)]
struct Container {
    replica: Arc<str>,
    id: String,
    /// Whether its end is expected: told to stop, or not started yet.
    is_stopping: AtomicBool,
    was_killed: AtomicBool,
    ready: watch::Sender<Option<Moment>>,
    tail: Mutex<Tail>,
    output: Mutex<Option<JoinHandle<()>>>,
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
            target: scenario.target.clone(),
            wall: WallOffset::read(),
            followed: Followed::default(),
            events: Mutex::default(),
            died: watch::Sender::new(None),
        }
    }

    /// Takes charge of containers that exist, running or not, and follows what the engine says of them.
    pub(in crate::runtime) fn adopt(&self, containers: Vec<(Replica, String)>) {
        for (replica, id) in containers {
            self.adopt_one(&replica, id);
        }
        let follower = Follower {
            followed: Arc::clone(&self.followed),
            recorder: self.recorder.clone(),
            wall: self.wall,
            died: self.died.clone(),
        };
        let since = self.wall.unix_ms(Moment::now()) / 1000;
        let events = self.engine.events(since);
        *locked(&self.events) = Some(tokio::spawn(follower.run(events)));
    }

    /// Takes charge of one more.
    pub(in crate::runtime) fn adopt_one(&self, replica: &Replica, id: String) {
        locked(&self.followed).push(Arc::new(Container {
            replica: Arc::clone(&replica.name),
            id,
            is_stopping: AtomicBool::new(true),
            was_killed: AtomicBool::new(false),
            ready: watch::Sender::new(None),
            tail: Mutex::default(),
            output: Mutex::default(),
        }));
    }

    /// Lets go of a replica's container and says which it was.
    pub(in crate::runtime) fn disown(&self, replica: &Replica) -> String {
        let id = self.of(replica).id.clone();
        locked(&self.followed).retain(|container| container.id != id);
        id
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
        let docker = self.engine.client(Duration::ZERO);
        let failed = |error: &bollard::errors::Error| RuntimeError::Replica {
            operation: "start",
            replica: Arc::clone(&container.replica),
            reason: reason(error),
        };
        container.ready.send_replace(None);
        container.was_killed.store(false, Ordering::Release);
        // Attached before it starts, so that no line of its output is missed.
        let options = AttachContainerOptionsBuilder::new().stream(true).stdout(true).stderr(true).build();
        let attached =
            docker.attach_container(&container.id, Some(options)).await.map_err(|error| failed(&error))?;
        let reader = OutputReader {
            file: self.outputs.of(&container.replica),
            container: Arc::clone(&container),
            recorder: self.recorder.clone(),
            ready_text: match &self.readiness {
                Readiness::Log(text) => Some(text.clone()),
                _ => None,
            },
        };
        *locked(&container.output) = Some(tokio::spawn(reader.run(attached.output)));
        container.is_stopping.store(false, Ordering::Release);
        match docker.start_container(&container.id, None).await {
            Ok(()) => {}
            // 304: it runs already.
            Err(error) if status_of(&error) == Some(304) => {}
            Err(error) => {
                container.is_stopping.store(true, Ordering::Release);
                return Err(failed(&error));
            }
        }
        let inspected =
            docker.inspect_container(&container.id, None).await.map_err(|error| failed(&error))?;
        let started = inspected.state.as_ref().and_then(|state| self.moment(state.started_at.as_deref()));
        Ok(started.unwrap_or_else(Moment::now))
    }

    pub(in crate::runtime) async fn wait_until_ready(
        &self,
        replica: &Replica,
        patience: Duration,
    ) -> Result<Moment, RuntimeError> {
        let container = self.of(replica);
        let end = self.unexpected_end_of(Some(&container));
        let ready = self.ready(&container);
        tokio::select! {
            biased;
            ready = ready => ready,
            died = end => Err(died),
            () = tokio::time::sleep(patience) => Err(RuntimeError::NotReady {
                replica: Arc::clone(&container.replica),
                patience,
                reason: format!("waited for {}{}", self.readiness, locked(&container.tail).last_words()),
            }),
        }
    }

    async fn ready(&self, container: &Container) -> Result<Moment, RuntimeError> {
        let at = match &self.readiness {
            Readiness::Log(_) => self.said_ready(container).await,
            Readiness::Health => self.healthy(container).await?,
            Readiness::Auto if self.has_health_check(container).await? => tokio::select! {
                at = self.said_ready(container) => at,
                at = self.healthy(container) => at?,
            },
            Readiness::Auto | Readiness::Tcp => probe::until_connected(&self.target).await,
            Readiness::Http(path) => probe::until_answered(&self.target, path).await,
        };
        let is_known = *container.ready.borrow() == Some(at);
        if !is_known {
            self.recorder.lifecycle(LifecycleEvent {
                at,
                replica: Arc::clone(&container.replica),
                kind: LifecycleKind::Ready,
                source: Source::Harness,
                fields: Map::new(),
            });
        }
        Ok(at)
    }

    /// The container's output said that it is ready.
    async fn said_ready(&self, container: &Container) -> Moment {
        let mut ready = container.ready.subscribe();
        // The container owns the sender, so the wait cannot fail.
        let at = ready.wait_for(Option::is_some).await.ok().and_then(|at| *at);
        at.unwrap_or_else(Moment::now)
    }

    /// The engine's health check says that it is healthy. Its events may be late or missing on old engines, so it is
    /// asked, and asking costs the engine little.
    async fn healthy(&self, container: &Container) -> Result<Moment, RuntimeError> {
        const ASK_EVERY: Duration = Duration::from_millis(50);
        let docker = self.engine.client(Duration::ZERO);
        let failed = |reason: String| RuntimeError::Replica {
            operation: "check the health of",
            replica: Arc::clone(&container.replica),
            reason,
        };
        loop {
            let state = docker
                .inspect_container(&container.id, None)
                .await
                .map_err(|error| failed(reason(&error)))?
                .state
                .unwrap_or_default();
            match state.health.and_then(|health| health.status) {
                Some(HealthStatusEnum::HEALTHY) => return Ok(Moment::now()),
                None | Some(HealthStatusEnum::NONE | HealthStatusEnum::EMPTY) => {
                    return Err(failed(
                        "its image has no health check; use --ready tcp, http:/PATH or log:TEXT".into(),
                    ));
                }
                Some(_) => tokio::time::sleep(ASK_EVERY).await,
            }
        }
    }

    async fn has_health_check(&self, container: &Container) -> Result<bool, RuntimeError> {
        let inspected =
            self.engine.client(Duration::ZERO).inspect_container(&container.id, None).await.map_err(
                |error| RuntimeError::Replica {
                    operation: "inspect",
                    replica: Arc::clone(&container.replica),
                    reason: reason(&error),
                },
            )?;
        let status = inspected.state.and_then(|state| state.health).and_then(|health| health.status);
        Ok(!matches!(status, None | Some(HealthStatusEnum::NONE | HealthStatusEnum::EMPTY)))
    }

    pub(in crate::runtime) async fn stop(
        &self,
        replica: &Replica,
        timeout: Duration,
    ) -> Result<Exit, RuntimeError> {
        let container = self.of(replica);
        let docker = self.engine.client(timeout + Duration::from_secs(30));
        let failed = |reason: String| RuntimeError::Replica {
            operation: "stop",
            replica: Arc::clone(&container.replica),
            reason,
        };
        container.is_stopping.store(true, Ordering::Release);
        let asked = Moment::now();
        let options = StopContainerOptionsBuilder::new()
            .t(i32::try_from(timeout.as_secs()).unwrap_or(i32::MAX))
            .build();
        docker.stop_container(&container.id, Some(options)).await.map_err(|error| failed(reason(&error)))?;
        let gone = Moment::now();
        let state = docker
            .inspect_container(&container.id, None)
            .await
            .map_err(|error| failed(reason(&error)))?
            .state
            .unwrap_or_default();
        if state.status == Some(ContainerStateStatusEnum::RUNNING) {
            return Err(failed(
                "it still runs after the engine stopped it; does it have a restart policy?".into(),
            ));
        }
        // The last lines of its output belong to this life, not to the next one.
        let output = locked(&container.output).take();
        if let Some(mut output) = output
            && tokio::time::timeout(OUTPUT_PATIENCE, &mut output).await.is_err()
        {
            output.abort();
        }
        let is_late = gone.since(asked) >= timeout;
        let killed =
            container.was_killed.load(Ordering::Acquire) || (is_late && state.exit_code == Some(KILLED));
        Ok(Exit {
            at: self.moment(state.finished_at.as_deref()).unwrap_or(gone),
            code: state.exit_code,
            killed,
        })
    }

    pub(in crate::runtime) async fn unexpected_end(&self) -> RuntimeError {
        self.unexpected_end_of(None).await
    }

    async fn unexpected_end_of(&self, one: Option<&Arc<Container>>) -> RuntimeError {
        let mut died = self.died.subscribe();
        let matches = |death: &Option<(Arc<Container>, Option<i64>)>| match (death, one) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some((dead, _)), Some(one)) => Arc::ptr_eq(dead, one),
        };
        let death = died.wait_for(matches).await.ok().and_then(|death| death.clone());
        let Some((container, code)) = death else { return std::future::pending().await };
        // Its last words may still be on their way.
        let output = locked(&container.output).take();
        if let Some(output) = output {
            let _ = tokio::time::timeout(OUTPUT_PATIENCE, output).await;
        }
        let reason = locked(&container.tail).last_words();
        RuntimeError::Died { replica: Arc::clone(&container.replica), code, reason }
    }

    /// Stops all replicas at once.
    pub(in crate::runtime) async fn stop_all(&self, timeout: Duration) -> Result<(), RuntimeError> {
        let running: Vec<Arc<Container>> = locked(&self.followed)
            .iter()
            .filter(|one| !one.is_stopping.load(Ordering::Acquire))
            .cloned()
            .collect();
        let replicas: Vec<Replica> =
            running.iter().map(|one| Replica { name: Arc::clone(&one.replica) }).collect();
        for one in &replicas {
            self.recorder.did(&one.name, LifecycleKind::TerminateRequested);
        }
        let stopping = replicas.iter().map(|replica| self.stop(replica, timeout));
        futures_util::future::try_join_all(stopping).await.map(drop)
    }

    /// Starts every container that does not run.
    pub(in crate::runtime) async fn start_stopped(&self) -> Result<(), RuntimeError> {
        let containers: Vec<Arc<Container>> = locked(&self.followed).clone();
        let docker = self.engine.client(Duration::ZERO);
        let mut result = Ok(());
        for container in containers {
            let started = match docker.start_container(&container.id, None).await {
                Err(error) if status_of(&error) != Some(304) => Err(RuntimeError::Replica {
                    operation: "start",
                    replica: Arc::clone(&container.replica),
                    reason: reason(&error),
                }),
                _ => Ok(()),
            };
            result = result.and(started);
        }
        result
    }

    /// Stops following; ends of containers are expected from now on.
    pub(in crate::runtime) fn release(&self) {
        for container in locked(&self.followed).iter() {
            container.is_stopping.store(true, Ordering::Release);
        }
        if let Some(events) = locked(&self.events).take() {
            events.abort();
        }
    }

    /// The moment of one of the engine's timestamps; none for "never", which it writes as the year 1.
    fn moment(&self, timestamp: Option<&str>) -> Option<Moment> {
        let time = humantime::parse_rfc3339(timestamp?).ok()?;
        let nanoseconds = time.duration_since(std::time::UNIX_EPOCH).ok()?.as_nanos();
        Some(self.wall.moment_at(u64::try_from(nanoseconds).ok()?))
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        self.release();
    }
}

/// Turns the engine's events into lifecycle events.
struct Follower {
    followed: Followed,
    recorder: Recorder,
    wall: WallOffset,
    died: watch::Sender<Option<(Arc<Container>, Option<i64>)>>,
}

impl Follower {
    async fn run(
        self,
        events: impl futures_util::Stream<Item = Result<EventMessage, bollard::errors::Error>> + Send,
    ) {
        let mut events = std::pin::pin!(events);
        while let Some(Ok(event)) = events.next().await {
            self.take(&event);
        }
    }

    fn take(&self, event: &EventMessage) {
        let actor = event.actor.clone().unwrap_or_default();
        let id = actor.id.unwrap_or_default();
        let found = locked(&self.followed).iter().find(|container| container.id == id).cloned();
        let Some(container) = found else { return };
        let attributes = actor.attributes.unwrap_or_default();
        let at = event
            .time_nano
            .and_then(|time| u64::try_from(time).ok())
            .map_or_else(Moment::now, |time| self.wall.moment_at(time));
        let (kind, fields) = match event.action.as_deref() {
            Some("start") => (LifecycleKind::Started, Map::new()),
            Some("kill") => {
                let signal = attributes.get("signal").cloned().unwrap_or_default();
                let is_kill = matches!(signal.as_str(), "9" | "SIGKILL" | "KILL");
                if is_kill {
                    container.was_killed.store(true, Ordering::Release);
                }
                let kind = if is_kill { LifecycleKind::Killed } else { LifecycleKind::SignalSent };
                (kind, Map::from_iter([("signal".to_owned(), json!(signal))]))
            }
            Some("die") => {
                let code = attributes.get("exitCode").and_then(|code| code.parse::<i64>().ok());
                if !container.is_stopping.load(Ordering::Acquire) {
                    self.died.send_replace(Some((Arc::clone(&container), code)));
                }
                (LifecycleKind::Exited, Map::from_iter([("code".to_owned(), json!(code))]))
            }
            _ => return,
        };
        self.recorder.lifecycle(LifecycleEvent {
            at,
            replica: Arc::clone(&container.replica),
            kind,
            source: Source::Engine,
            fields,
        });
    }
}

/// Reads one life's output of a container.
struct OutputReader {
    file: OutputFile,
    container: Arc<Container>,
    recorder: Recorder,
    ready_text: Option<String>,
}

impl OutputReader {
    async fn run(
        mut self,
        mut output: impl futures_util::Stream<
            Item = Result<bollard::container::LogOutput, bollard::errors::Error>,
        > + Unpin
        + Send,
    ) {
        let mut pending = logline::Lines::default();
        while let Some(Ok(chunk)) = output.next().await {
            let chunk = chunk.into_bytes();
            self.file.append(&chunk);
            for line in pending.push(&chunk) {
                self.take(&line);
            }
        }
        if let Some(line) = pending.rest() {
            self.take(&line);
        }
    }

    fn take(&self, line: &str) {
        let now = Moment::now();
        let logged = logline::parse(line, now);
        let is_ready_text = self.ready_text.as_deref().is_some_and(|text| line.contains(text));
        let says_ready = logged.as_ref().is_some_and(|logged| logged.kind == LifecycleKind::Ready);
        if is_ready_text || says_ready {
            let at = logged.as_ref().map_or(now, |logged| logged.at);
            self.container.ready.send_replace(Some(at));
        }
        if let Some(logged) = logged {
            self.recorder.lifecycle(LifecycleEvent {
                at: logged.at,
                replica: Arc::clone(&self.container.replica),
                kind: logged.kind,
                source: Source::Server,
                fields: logged.fields,
            });
        } else if is_ready_text {
            self.recorder.lifecycle(LifecycleEvent {
                at: now,
                replica: Arc::clone(&self.container.replica),
                kind: LifecycleKind::Ready,
                source: Source::Server,
                fields: Map::new(),
            });
        }
        locked(&self.container.tail).push(line);
    }
}

/// The data of these locks is whole after every statement, so a panic elsewhere does not spoil it.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
