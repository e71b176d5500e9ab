//! Replicas as processes of this machine, children of the harness, with no engine behind them. Each leads a process group
//! of its own; nothing of a group outlives its life, and no life the run.

mod child;
mod child_task;
pub(crate) mod mark;

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{join_all, ready};
use rustix::process::Signal;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio_util::task::AbortOnDropHandle;

use self::child::{Child, Launch};
use self::child_task::ChildTask;
use self::mark::Mark;
use super::launcher::{Health, Launcher, Outcome};
use super::output_reader::OutputReader;
use super::port::check_port;
use super::preset;
use super::tracked_replica::{Losses, Provenance, TrackedReplica, locked};
use crate::model::clock::Moment;
use crate::model::signals;
use crate::rollout::error::RolloutError;
use crate::rollout::replica::Replica;
use crate::scenario::{Preset, ReplicaSettings, Scenario, StopTimeout, Target, Version, Versions};

/// How long a process may take to stop if nothing is said.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Starts and ends the processes of one run.
#[derive(Debug)]
pub(super) struct ProcessLauncher {
    run: String,
    owner: String,
    commands: Versions<Vec<OsString>>,
    preset: Option<Preset>,
    replicas: usize,
    settings: ReplicaSettings,
    target: Target,
    slots: Mutex<HashMap<Arc<str>, ProcessSlot>>,
}

/// A replica's processes, one life after the other.
#[derive(Debug)]
struct ProcessSlot {
    version: Version,
    /// The task of the last life that began.
    task: Option<Arc<ChildTask>>,
}

impl ProcessLauncher {
    /// Processes that run these commands, each the program and its arguments. Nothing is started yet. `owner` says whose the
    /// processes are.
    pub(super) fn new(
        run: &str,
        owner: &str,
        commands: Versions<Vec<OsString>>,
        scenario: &Scenario,
    ) -> Self {
        Self {
            run: run.to_owned(),
            owner: owner.to_owned(),
            commands,
            preset: scenario.preset(),
            replicas: scenario.replicas,
            settings: scenario.settings.clone(),
            target: scenario.target.clone(),
            slots: Mutex::default(),
        }
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

    fn task_of(&self, replica: &TrackedReplica) -> Option<Arc<ChildTask>> {
        locked(&self.slots).get(&replica.name)?.task.clone()
    }

    fn spawn(&self, replica: &Arc<TrackedReplica>, output: OutputReader) -> Result<Moment, RolloutError> {
        let mut slots = locked(&self.slots);
        let slot = slots.get_mut(&replica.name).expect("a slot was provided for each replica of the fleet");
        let command = self.commands.of(slot.version);
        // Before it is there, so that no word of its own is earlier.
        let began = Moment::now();
        let spawned = Child::spawn(Launch { command, environment: self.environment(&replica.name) });
        let (child, written) = spawned.map_err(|error| {
            let program = command.first().map(|program| program.display().to_string()).unwrap_or_default();
            let reason =
                format!("`{program}` cannot be run: {error}; name a program that can with --command");
            replica.failed("start", reason)
        })?;
        replica.own_output(read(written, output));
        slot.task = Some(Arc::new(ChildTask::keep(child, self.mark(&replica.name), Arc::clone(replica))));
        Ok(began)
    }

    async fn send_stop_signal(&self, replica: &TrackedReplica) -> Result<(), RolloutError> {
        const DEFAULT: (&str, Signal) = ("SIGTERM", Signal::TERM);
        let said = self.settings.stop_signal.as_deref();
        // The scenario holds no other signals than those that are known.
        let (name, signal) = said.and_then(|name| Some((name, signals::named(name)?))).unwrap_or(DEFAULT);
        let at = Moment::now();
        if let Some(task) = self.task_of(replica) {
            let sent = task.signal(signal).await;
            sent.map_err(|error| replica.failed("stop", format!("{name}: {error}")))?;
            replica.take_signal(at, name);
        }
        Ok(())
    }

    async fn kill(&self, replica: &TrackedReplica) -> Result<(), RolloutError> {
        let at = Moment::now();
        if let Some(task) = self.task_of(replica) {
            let sent = task.kill().await;
            sent.map_err(|error| replica.failed("kill", error.to_string()))?;
            replica.take_signal(at, "SIGKILL");
        }
        Ok(())
    }

    /// Kills every process, and waits until each is gone. Nothing of that is recorded.
    async fn put_down_all(&self) -> Result<(), RolloutError> {
        let tasks: Vec<_> = locked(&self.slots)
            .iter()
            .filter_map(|(name, slot)| Some((Arc::clone(name), slot.task.clone()?)))
            .collect();
        let gone = join_all(tasks.into_iter().map(async |(replica, task)| {
            let reason = |error| format!("{error}; `hitless clean` tries it again");
            let failed = |error| RolloutError::Replica { operation: "kill", replica, reason: reason(error) };
            task.put_down().await.map_err(failed)
        }));
        gone.await.into_iter().collect()
    }
}

/// Reads what a life writes, until nothing is left that could write.
fn read(mut written: pipe::Receiver, mut output: OutputReader) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut chunk = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = written.read(&mut chunk).await {
            output.push(&chunk[..length]);
        }
        output.finish();
    }))
}

impl Launcher for ProcessLauncher {
    fn members<'a>(&'a self, _: &'a Losses) -> Outcome<'a, Vec<(Replica, Provenance)>> {
        let checked = check_port(&self.target);
        let members = || Replica::first(self.replicas).map(|replica| (replica, Provenance::Made)).collect();
        ready(checked.map(|()| members())).boxed()
    }

    fn provide<'a>(&'a self, replica: &'a Arc<TrackedReplica>, version: Version) -> Outcome<'a, ()> {
        locked(&self.slots).insert(Arc::clone(&replica.name), ProcessSlot { version, task: None });
        ready(Ok(())).boxed()
    }

    fn start<'a>(&'a self, replica: &'a Arc<TrackedReplica>, output: OutputReader) -> Outcome<'a, Moment> {
        ready(self.spawn(replica, output)).boxed()
    }

    /// No process is found running, and one that was started here has its reader.
    fn attach<'a>(
        &'a self,
        _: &'a Arc<TrackedReplica>,
        _: OutputReader,
        _: Option<&'a str>,
    ) -> Outcome<'a, bool> {
        ready(Ok(false)).boxed()
    }

    fn stop_timeout<'a>(&'a self, _: &'a TrackedReplica, given: StopTimeout) -> Outcome<'a, Duration> {
        ready(Ok(given.or(STOP_TIMEOUT))).boxed()
    }

    fn terminate<'a>(&'a self, replica: &'a TrackedReplica, _: StopTimeout) -> Outcome<'a, ()> {
        self.send_stop_signal(replica).boxed()
    }

    /// Nothing but the fleet kills it.
    fn slack(&self) -> Duration {
        Duration::ZERO
    }

    fn force_end<'a>(&'a self, replica: &'a TrackedReplica, _: StopTimeout) -> Outcome<'a, ()> {
        self.kill(replica).boxed()
    }

    /// Nothing checks the health of a process.
    fn health<'a>(&'a self, _: &'a TrackedReplica) -> Outcome<'a, Option<Health>> {
        ready(Ok(None)).boxed()
    }

    fn listens_by_itself<'a>(&'a self, _: &'a TrackedReplica) -> Outcome<'a, Option<bool>> {
        ready(Ok(None)).boxed()
    }

    fn instead_of_the_port(&self) -> &'static str {
        "use --ready log:TEXT"
    }

    fn remove<'a>(&'a self, replica: &'a TrackedReplica) -> Outcome<'a, ()> {
        locked(&self.slots).remove(&replica.name);
        ready(Ok(())).boxed()
    }

    fn restore<'a>(&'a self, _: &'a TrackedReplica) -> Outcome<'a, ()> {
        ready(Ok(())).boxed()
    }

    fn dismantle(&self) -> Outcome<'_, ()> {
        self.put_down_all().boxed()
    }
}
