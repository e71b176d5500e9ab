//! Replicas as processes of this machine, children of the harness, with no engine behind them. Each leads a process group
//! of its own; nothing of a group outlives its life, and no life the run.

mod child;
mod keeper;
pub(crate) mod mark;

use std::ffi::OsString;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::Map;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use self::child::{Child, Launch};
use self::keeper::{KILL_PATIENCE, Keeper};
use self::mark::Mark;
use super::life::{End, EndAsked, Life};
use super::output::OutputFiles;
use super::preset;
use super::probe::check_port;
use super::reader::OutputReader;
use super::readiness::{Gate, Health, HealthCheck};
use super::watched::{Watched, locked, stop_all};
use super::{Replica, Runtime, RuntimeError};
use crate::model::clock::Moment;
use crate::model::lifecycle::{LifecycleKind, Source};
use crate::model::signals;
use crate::model::sink::Sink;
use crate::scenario::{Order, Preset, ReplicaSettings, Scenario, StopTimeout, Target, Version, Versions};

/// How long a process may take to stop if nothing is said.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Makes the processes of one run and ends them again.
#[derive(Debug)]
pub struct ProcessRuntime {
    run: String,
    owner: String,
    commands: Versions<Vec<OsString>>,
    preset: Option<Preset>,
    replicas: usize,
    settings: ReplicaSettings,
    target: Target,
    gate: Gate,
    sink: Arc<dyn Sink>,
    outputs: OutputFiles,
    places: Mutex<Vec<Arc<Place>>>,
    lost: watch::Sender<Option<Arc<Watched>>>,
}

/// A replica's place, in which one life comes after the other.
#[derive(Debug)]
struct Place {
    watched: Arc<Watched>,
    version: Version,
    /// Who keeps the last life that began.
    keeper: Mutex<Option<Arc<Keeper>>>,
}

impl ProcessRuntime {
    /// A runtime for processes that run these commands, each the program and its arguments. Nothing is started yet. `owner`
    /// says whose the processes are.
    #[must_use]
    pub fn new(
        run: &str,
        owner: &str,
        commands: Versions<Vec<OsString>>,
        scenario: &Scenario,
        sink: Arc<dyn Sink>,
        outputs: OutputFiles,
    ) -> Self {
        Self {
            run: run.to_owned(),
            owner: owner.to_owned(),
            commands,
            preset: scenario.preset(),
            replicas: scenario.replicas,
            settings: scenario.settings.clone(),
            target: scenario.target.clone(),
            gate: Gate::of(scenario),
            sink,
            outputs,
            places: Mutex::default(),
            lost: watch::Sender::new(None),
        }
    }

    fn adopt(&self, replica: &Replica, version: Version) {
        let watched = Watched::new(Arc::clone(&replica.name), Life::default(), Arc::clone(&self.sink));
        let place = Place { watched: Arc::new(watched), version, keeper: Mutex::default() };
        locked(&self.places).push(Arc::new(place));
    }

    fn of(&self, replica: &Replica) -> Arc<Place> {
        let places = locked(&self.places);
        let found = places.iter().find(|place| place.watched.name == replica.name);
        Arc::clone(found.expect("the experiment asks only for replicas that the runtime gave it"))
    }

    fn watched(&self) -> Vec<Arc<Watched>> {
        locked(&self.places).iter().map(|place| Arc::clone(&place.watched)).collect()
    }

    /// How many others run.
    fn siblings(&self, name: &str) -> usize {
        let places = locked(&self.places);
        places.iter().filter(|other| *other.watched.name != *name && other.is_running()).count()
    }

    /// What a process finds in its environment beside what this one has itself.
    fn environment(&self, name: &str) -> Vec<(OsString, OsString)> {
        let mut environment: Vec<(OsString, OsString)> = Vec::new();
        if let Some(preset) = self.preset {
            let ours = preset::environment(preset, &self.run, name, &self.target);
            environment.extend(ours.map(|(key, value)| (key.into(), value.into())));
        }
        // What the user says wins, but for the mark, by which the process is found again.
        environment.extend(self.settings.env.iter().map(|(key, value)| (key.into(), value.into())));
        let mark = self.mark(name);
        environment.extend(mark.environment().map(|(key, value)| (key.into(), value)));
        environment
    }

    /// What everything that a replica starts carries.
    fn mark(&self, name: &str) -> Mark {
        Mark { run: self.run.clone(), owner: self.owner.clone(), replica: name.to_owned() }
    }

    /// Reads what a life writes, until nobody is left who could write.
    fn read(&self, mut output: pipe::Receiver, watched: &Arc<Watched>) {
        let mut reader =
            OutputReader::new(self.outputs.of(&watched.name), Arc::clone(watched), self.gate.text());
        let reading = tokio::spawn(async move {
            let mut chunk = vec![0; 16 * 1024];
            while let Ok(length @ 1..) = output.read(&mut chunk).await {
                reader.push(&chunk[..length]);
            }
            reader.finish();
        });
        watched.own_output(AbortOnDropHandle::new(reading));
    }

    /// Asks for the end of the life that is now, if nobody has, and waits for it; kills it after `timeout`.
    async fn end(&self, place: &Place, timeout: StopTimeout) -> Result<End, RuntimeError> {
        let watched = &place.watched;
        let mut asked = EndAsked::Before(0);
        watched.life.send_modify(|life| asked = life.ask_to_end());
        let number = match asked {
            EndAsked::Now(number) => {
                place.send_stop_signal(self.settings.stop_signal.as_deref()).await?;
                number
            }
            EndAsked::Before(number) => number,
        };
        if let Ok(end) = tokio::time::timeout(timeout.or(STOP_TIMEOUT), watched.end_of(number)).await {
            return Ok(end);
        }
        place.kill().await?;
        tokio::time::timeout(KILL_PATIENCE, watched.end_of(number))
            .await
            .map_err(|_| watched.failed("stop", "it was killed and is still there after 10 s"))
    }
}

impl Place {
    fn is_running(&self) -> bool {
        self.watched.life.borrow().is_running
    }

    fn keeper(&self) -> Option<Arc<Keeper>> {
        locked(&self.keeper).clone()
    }

    async fn send_stop_signal(&self, said: Option<&str>) -> Result<(), RuntimeError> {
        const DEFAULT: (&str, Signal) = ("SIGTERM", Signal::TERM);
        // The scenario holds no other signals than those that are known.
        let (name, signal) = said.and_then(|name| Some((name, signals::named(name)?))).unwrap_or(DEFAULT);
        let at = Moment::now();
        if let Some(keeper) = self.keeper() {
            let sent = keeper.signal(signal).await;
            sent.map_err(|error| self.watched.failed("stop", format!("{name}: {error}")))?;
            self.watched.take_signal(at, name);
        }
        Ok(())
    }

    async fn kill(&self) -> Result<(), RuntimeError> {
        let at = Moment::now();
        if let Some(keeper) = self.keeper() {
            let sent = keeper.kill().await;
            sent.map_err(|error| self.watched.failed("kill", error.to_string()))?;
            self.watched.take_signal(at, "SIGKILL");
        }
        Ok(())
    }

    async fn put_down(&self) -> Result<(), RuntimeError> {
        let Some(keeper) = self.keeper() else { return Ok(()) };
        let gone = keeper.put_down().await;
        gone.map_err(|error| self.watched.failed("kill", format!("{error}; `hitless clean` tries it again")))
    }
}

impl Runtime for ProcessRuntime {
    async fn assemble(&self) -> Result<Vec<Replica>, RuntimeError> {
        check_port(&self.target)?;
        let replicas: Vec<Replica> = Replica::first(self.replicas).collect();
        for replica in &replicas {
            self.adopt(replica, Version::Current);
        }
        Ok(replicas)
    }

    async fn start(&self, replica: &Replica) -> Result<(), RuntimeError> {
        let place = self.of(replica);
        let watched = &place.watched;
        if place.is_running() {
            return Ok(());
        }
        // What the last life wrote belongs to it, not to the next one.
        watched.finish_output().await;
        self.gate.before_start(watched, self.siblings(&watched.name));
        watched.life.send_modify(Life::begin);
        let command = self.commands.of(place.version);
        // Before it is there, so that no word of its own is earlier.
        let started = Moment::now();
        let spawned = Child::spawn(Launch { command, environment: self.environment(&watched.name) });
        let (child, output) = spawned.map_err(|error| {
            watched.life.send_modify(|life| life.is_running = false);
            let program = command.first().map(|program| program.display().to_string()).unwrap_or_default();
            let reason =
                format!("`{program}` cannot be run: {error}; name a program that can with --command");
            watched.failed("start", reason)
        })?;
        self.read(output, watched);
        watched.tell(started, LifecycleKind::Started, Source::Engine, Map::new());
        let keeper = Keeper::keep(child, self.mark(&watched.name), Arc::clone(watched), self.lost.clone());
        *locked(&place.keeper) = Some(Arc::new(keeper));
        Ok(())
    }

    async fn wait_until_ready(&self, replica: &Replica, patience: Duration) -> Result<Moment, RuntimeError> {
        let place = self.of(replica);
        let others = || self.siblings(&replica.name);
        self.gate.wait_until_ready(&place.watched, &NoCheck, others, patience).await
    }

    async fn stop(&self, replica: &Replica, timeout: StopTimeout) -> Result<(), RuntimeError> {
        let place = self.of(replica);
        self.gate.before_stop();
        tokio::select! {
            biased;
            end = self.end(&place, timeout) => end.map(drop),
            died = place.watched.death() => Err(died),
        }
    }

    async fn successor(
        &self,
        replica: &Replica,
        version: Version,
        order: Order,
    ) -> Result<Replica, RuntimeError> {
        // A version may have other listeners than the one before.
        self.gate.forget_stop();
        let successor = replica.successor(order);
        self.adopt(&successor, version);
        Ok(successor)
    }

    async fn discard(&self, replica: &Replica) -> Result<(), RuntimeError> {
        self.of(replica).watched.finish_output().await;
        locked(&self.places).retain(|place| place.watched.name != replica.name);
        Ok(())
    }

    async fn unexpected_end(&self) -> RuntimeError {
        let mut losses = self.lost.subscribe();
        // The sender is owned here, so the wait ends only with a loss.
        let first = losses.wait_for(Option::is_some).await.ok().and_then(|lost| lost.clone());
        match first {
            Some(watched) => watched.death().await,
            None => std::future::pending().await,
        }
    }

    async fn retire(&self, timeout: StopTimeout) -> Result<(), RuntimeError> {
        stop_all(self, self.watched(), timeout).await
    }

    async fn dismantle(&self, _timeout: StopTimeout) -> Result<(), RuntimeError> {
        let places = locked(&self.places).clone();
        let gone = join_all(places.iter().map(|place| place.put_down())).await;
        join_all(places.iter().map(|place| place.watched.finish_output())).await;
        gone.into_iter().collect()
    }
}

impl Drop for ProcessRuntime {
    fn drop(&mut self) {
        for watched in self.watched() {
            // Its task holds it, and it holds the task.
            watched.drop_output();
        }
    }
}

/// Nobody checks the health of a process.
struct NoCheck;

impl HealthCheck for NoCheck {
    const INSTEAD_OF_THE_PORT: &'static str = "use --ready log:TEXT";

    async fn health(&self) -> Result<Option<Health>, RuntimeError> {
        Ok(None)
    }

    async fn listens_by_itself(&self) -> Result<Option<bool>, RuntimeError> {
        Ok(None)
    }
}
