//! The replicas of a run, whatever launches them: which there are, what is known of each, and the order in which each is
//! started, stopped, waited for and let go.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Map;

use super::launcher::Launcher;
use super::life::{End, EndAsked, Life};
use super::output::OutputFiles;
use super::output_reader::OutputReader;
use super::readiness::ReadinessProbe;
use super::tracked_replica::{Loss, Losses, Provenance, TrackedReplica, locked};
use crate::host::engine::EngineError;
use crate::model::clock::Moment;
use crate::model::lifecycle::{LifecycleKind, Source};
use crate::model::sink::Sink;
use crate::rollout::error::RolloutError;
use crate::rollout::replica::Replica;
use crate::scenario::{Order, Scenario, StopTimeout, Version};

/// Exit code of a process that SIGKILL ended: 128 + 9.
const KILLED: i64 = 137;
/// How long a process may take until its end is seen once that was forced: it may hang in the kernel, and an engine has
/// to tidy up.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// The replicas of a run.
#[derive(Debug)]
pub(super) struct Fleet {
    launcher: Box<dyn Launcher>,
    sink: Arc<dyn Sink>,
    outputs: OutputFiles,
    readiness: ReadinessProbe,
    replicas: Mutex<Vec<Arc<TrackedReplica>>>,
    losses: Losses,
}

impl Fleet {
    /// No replicas yet. What happens in their lives goes to `sink`, what they write to `outputs`.
    pub(super) fn new(
        launcher: Box<dyn Launcher>,
        scenario: &Scenario,
        sink: Arc<dyn Sink>,
        outputs: OutputFiles,
    ) -> Self {
        let readiness = ReadinessProbe::of(scenario);
        Self { launcher, sink, outputs, readiness, replicas: Mutex::default(), losses: Losses::default() }
    }

    /// Makes every replica of the run's beginning, or finds those that run. Starts none.
    pub(super) async fn assemble(&self) -> Result<Vec<Replica>, RolloutError> {
        let members = self.launcher.members(&self.losses).await?;
        for (replica, provenance) in &members {
            self.add(replica, *provenance, Version::Current).await?;
        }
        Ok(members.into_iter().map(|(replica, _)| replica).collect())
    }

    async fn add(
        &self,
        replica: &Replica,
        provenance: Provenance,
        version: Version,
    ) -> Result<(), RolloutError> {
        let (sink, losses) = (Arc::clone(&self.sink), self.losses.clone());
        let tracked = Arc::new(TrackedReplica::new(replica.clone(), provenance, sink, losses));
        self.launcher.provide(&tracked, version).await?;
        locked(&self.replicas).push(tracked);
        Ok(())
    }

    fn all(&self) -> Vec<Arc<TrackedReplica>> {
        locked(&self.replicas).clone()
    }

    fn find(&self, name: &str) -> Option<Arc<TrackedReplica>> {
        locked(&self.replicas).iter().find(|replica| *replica.name == *name).cloned()
    }

    fn of(&self, replica: &Replica) -> Arc<TrackedReplica> {
        self.find(&replica.name).expect("the rollout asks only for replicas that the fleet gave it")
    }

    /// How many others run.
    fn siblings(&self, name: &str) -> usize {
        self.all().iter().filter(|other| *other.name != *name && other.is_running()).count()
    }

    /// Starts a replica that does not run, and records when its process began. Of one that runs it only takes the output.
    pub(super) async fn start(&self, replica: &Replica) -> Result<(), RolloutError> {
        let replica = self.of(replica);
        // What the last life wrote belongs to it, not to the next one.
        replica.finish_output().await;
        let (file, text) = (self.outputs.of(&replica.name), self.readiness.text());
        let output = OutputReader::new(file, Arc::clone(&replica), text.clone());
        if replica.is_running() {
            self.readiness.check_found(&replica, &*self.launcher).await?;
            if self.launcher.attach(&replica, output, text.as_deref()).await? {
                replica.take_ready(Moment::now());
            }
            return Ok(());
        }
        self.readiness.before_start(&replica, self.siblings(&replica.name));
        replica.life.send_modify(Life::begin);
        match self.launcher.start(&replica, output).await {
            Ok(began) => {
                replica.tell(began, LifecycleKind::Started, Source::Engine, Map::new());
                Ok(())
            }
            Err(error) => {
                replica.life.send_modify(|life| life.is_running = false);
                Err(error)
            }
        }
    }

    /// Waits until a started replica is ready; records, and returns, the moment at which it was.
    pub(super) async fn wait_until_ready(
        &self,
        replica: &Replica,
        patience: Duration,
    ) -> Result<Moment, RolloutError> {
        let replica = self.of(replica);
        let others = || self.siblings(&replica.name);
        self.readiness.wait_until_ready(&replica, &*self.launcher, others, patience).await
    }

    /// Waits until the target gives the first good answer, or `patience` is over.
    pub(super) async fn wait_until_first_answer(&self, patience: Duration) {
        self.readiness.wait_until_first_answer(patience).await;
    }

    /// Tells a replica to stop and waits until its process is gone; after `timeout` it is killed. The end, and a kill, are
    /// recorded before this returns. One that was told to stop before is waited for and not told again.
    pub(super) async fn stop(&self, replica: &Replica, timeout: StopTimeout) -> Result<(), RolloutError> {
        let replica = self.of(replica);
        self.readiness.before_stop();
        let asked = Moment::now();
        let end = tokio::select! {
            biased;
            end = self.end(&replica, timeout) => end?,
            died = replica.death() => return Err(died),
        };
        if end.runs_again {
            return Err(
                replica.failed("stop", "it runs again after it was stopped; does it have a restart policy?")
            );
        }
        // An engine's word of the kill may be missing.
        let is_late = end.at.since(asked) >= self.launcher.stop_timeout(&replica, timeout).await?;
        if is_late && end.code == Some(KILLED) && !replica.life.borrow().was_killed {
            replica.take_signal(end.at, "SIGKILL");
        }
        Ok(())
    }

    /// Asks for the end of the life that is now, if nobody has, and waits for it.
    async fn end(&self, replica: &TrackedReplica, timeout: StopTimeout) -> Result<End, RolloutError> {
        let asked = replica.ask_to_end();
        let number = asked.number();
        let patience = self.launcher.stop_timeout(replica, timeout).await? + self.launcher.slack();
        if let EndAsked::Now(_) = asked {
            self.launcher.terminate(replica, timeout).await?;
        }
        if let Ok(end) = tokio::time::timeout(patience, replica.end_of(number)).await {
            return Ok(end);
        }
        self.launcher.force_end(replica, timeout).await?;
        tokio::time::timeout(END_PATIENCE, replica.end_of(number))
            .await
            .map_err(|_| replica.failed("stop", "its end was forced and cannot be seen after 10 s"))
    }

    /// Makes, and does not start, a replica of this version that takes the place of `replica`: beside it, under another
    /// name, or after it was [discarded](Self::discard), under its own.
    pub(super) async fn successor(
        &self,
        replica: &Replica,
        version: Version,
        order: Order,
    ) -> Result<Replica, RolloutError> {
        // A version may have other listeners than the one before.
        self.readiness.forget_stop();
        let successor = replica.successor(order);
        self.add(&successor, Provenance::Made, version).await?;
        Ok(successor)
    }

    /// Removes a replica that was stopped and does not come back, when all that it wrote is read.
    pub(super) async fn discard(&self, replica: &Replica) -> Result<(), RolloutError> {
        let replica = self.of(replica);
        replica.finish_output().await;
        locked(&self.replicas).retain(|other| other.name != replica.name);
        self.launcher.remove(&replica).await
    }

    /// Waits until some replica ends although nobody asked it to. Never returns otherwise.
    pub(super) async fn unexpected_end(&self) -> RolloutError {
        match self.losses.first().await {
            Loss::Replica(name) => match self.find(&name) {
                Some(replica) => replica.death().await,
                None => std::future::pending().await,
            },
            Loss::Sight { operation, reason } => {
                EngineError::Failed { operation: operation.to_owned(), reason }.into()
            }
        }
    }

    /// Ends the replicas that were made in an orderly way, all at once, and reads all that they wrote.
    pub(super) async fn retire(&self, timeout: StopTimeout) -> Result<(), RolloutError> {
        let running =
            self.all().into_iter().filter(|one| one.provenance == Provenance::Made && one.is_running());
        let stopping = running.map(async |replica| {
            if !replica.life.borrow().is_asked_to_end() {
                self.sink.record_now(&replica.name, LifecycleKind::TerminateRequested);
            }
            let stopped = self.stop(&replica.replica(), timeout).await;
            replica.finish_output().await;
            stopped
        });
        join_all(stopping).await.into_iter().collect()
    }

    /// Removes what was made, whatever state it is in, and leaves running what was found running. A replica that is on its
    /// way to its end may take up to `timeout` until it can be started again.
    pub(super) async fn dismantle(&self, timeout: StopTimeout) -> Result<(), RolloutError> {
        let (made, found): (Vec<_>, Vec<_>) =
            self.all().into_iter().partition(|replica| replica.provenance == Provenance::Made);
        let restored = join_all(found.iter().map(|replica| self.restore(replica, timeout))).await;
        let dismantled = self.launcher.dismantle().await;
        join_all(made.iter().map(|replica| replica.finish_output())).await;
        restored.into_iter().chain([dismantled]).collect()
    }

    async fn restore(&self, replica: &TrackedReplica, timeout: StopTimeout) -> Result<(), RolloutError> {
        let life = *replica.life.borrow();
        // A stop that was given up goes on in the engine: a start would come too early and do nothing.
        let stopped = if life.is_running && life.is_asked_to_end() {
            self.end(replica, timeout).await.map(drop)
        } else {
            Ok(())
        };
        self.launcher.restore(replica).await?;
        stopped
    }

    /// How many replicas there are.
    pub(super) fn len(&self) -> usize {
        locked(&self.replicas).len()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for replica in self.all() {
            // Its task holds it, and it holds the task.
            replica.drop_output();
        }
    }
}
