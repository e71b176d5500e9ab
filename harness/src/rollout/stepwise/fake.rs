//! A launcher in memory, for tests: it writes down what it was asked to do, knows what runs, and gets into the trouble that
//! a test wants. Everything else is the real rollout.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, pending, ready};
use tokio::sync::watch;

use super::Stepwise;
use super::launcher::{Health, Launcher, Outcome};
use super::output::OutputFiles;
use super::output_reader::OutputReader;
use super::tracked_replica::{Losses, Provenance, TrackedReplica, locked};
use crate::host::engine::EngineError;
use crate::model::clock::Moment;
use crate::model::sink::Sink;
use crate::rollout::AnswerWatch;
use crate::rollout::error::RolloutError;
use crate::rollout::replica::Replica;
use crate::scenario::{Scenario, StopTimeout, Version};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    Nothing,
    /// No replica starts.
    Start,
    /// The first stop panics.
    PanicAtStop,
    /// The first stop takes for ever, until the replica is killed.
    EndlessStop,
    /// `b` dies when another replica is to stop.
    Death,
    /// The engine cannot be reached at the orderly end, after two stops.
    Retire,
    /// The engine cannot be reached at the clean-up.
    Dismantle,
}

/// Two replicas in memory, `a` and `b`; clones are the same ones.
#[derive(Debug, Clone)]
pub(crate) struct FakeLauncher(Arc<State>);

#[derive(Debug)]
struct State {
    trouble: Trouble,
    asked: Mutex<Vec<String>>,
    replicas: Mutex<BTreeMap<Arc<str>, Arc<TrackedReplica>>>,
    /// Those whose readiness was asked for since their last start.
    checked: Mutex<BTreeSet<Arc<str>>>,
    is_stopping: watch::Sender<bool>,
}

impl FakeLauncher {
    pub(crate) fn new(trouble: Trouble) -> Self {
        Self(Arc::new(State {
            trouble,
            asked: Mutex::default(),
            replicas: Mutex::default(),
            checked: Mutex::default(),
            is_stopping: watch::Sender::new(false),
        }))
    }

    /// A rollout of its replicas.
    pub(crate) fn rollout(&self, scenario: &Scenario, sink: Arc<dyn Sink>) -> Stepwise {
        Stepwise::new(Box::new(self.clone()), scenario, sink, OutputFiles::nowhere())
    }

    /// What it was asked to do, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        locked(&self.0.asked).clone()
    }

    /// Which replicas run.
    pub(crate) fn running(&self) -> Vec<String> {
        let replicas = locked(&self.0.replicas);
        replicas.values().filter(|one| one.is_running()).map(|one| one.name.to_string()).collect()
    }

    /// Waits until a replica was asked to stop.
    pub(crate) async fn wait_until_stopping(&self) {
        let mut is_stopping = self.0.is_stopping.subscribe();
        let _ = is_stopping.wait_for(|is_stopping| *is_stopping).await;
    }

    fn note(&self, what: &str, replica: &TrackedReplica) {
        locked(&self.0.asked).push(format!("{what} {}", replica.name));
    }

    async fn stop(&self, replica: &TrackedReplica) -> Result<(), RolloutError> {
        self.note("stop", replica);
        self.0.is_stopping.send_replace(true);
        let stops = self.asked().iter().filter(|asked| asked.starts_with("stop")).count();
        match self.0.trouble {
            Trouble::PanicAtStop => panic!("the fake panics at a stop"),
            Trouble::EndlessStop if stops == 1 => return pending().await,
            Trouble::Death => {
                let other = locked(&self.0.replicas).get("b").map(Arc::clone);
                if let Some(other) = other {
                    other.take_end(Moment::now(), Some(1), false);
                }
                return pending().await;
            }
            Trouble::Retire if stops > 2 => return Err(unreachable("stop the replicas")),
            _ => {}
        }
        replica.take_end(Moment::now(), Some(0), false);
        Ok(())
    }
}

fn unreachable(operation: &str) -> RolloutError {
    EngineError::Failed { operation: operation.to_owned(), reason: "it does not answer".to_owned() }.into()
}

impl Launcher for FakeLauncher {
    fn members<'a>(&'a self, _: &'a Losses) -> Outcome<'a, Vec<(Replica, Provenance)>> {
        ready(Ok(["a", "b"].map(|name| (Replica::named(name), Provenance::Made)).into())).boxed()
    }

    fn provide<'a>(&'a self, replica: &'a Arc<TrackedReplica>, version: Version) -> Outcome<'a, ()> {
        self.note(&format!("make {}", format!("{version:?}").to_lowercase()), replica);
        locked(&self.0.replicas).insert(Arc::clone(&replica.name), Arc::clone(replica));
        ready(Ok(())).boxed()
    }

    fn start<'a>(&'a self, replica: &'a Arc<TrackedReplica>, _: OutputReader) -> Outcome<'a, Moment> {
        self.note("start", replica);
        locked(&self.0.checked).remove(&replica.name);
        let started = match self.0.trouble {
            Trouble::Start => Err(replica.failed("start", "no")),
            _ => Ok(Moment::now()),
        };
        ready(started).boxed()
    }

    fn attach<'a>(
        &'a self,
        _: &'a Arc<TrackedReplica>,
        _: OutputReader,
        _: Option<&'a str>,
    ) -> Outcome<'a, bool> {
        ready(Ok(false)).boxed()
    }

    fn stop_timeout<'a>(&'a self, _: &'a TrackedReplica, given: StopTimeout) -> Outcome<'a, Duration> {
        ready(Ok(given.or(Duration::from_secs(1)))).boxed()
    }

    fn terminate<'a>(&'a self, replica: &'a TrackedReplica, _: StopTimeout) -> Outcome<'a, ()> {
        self.stop(replica).boxed()
    }

    fn slack(&self) -> Duration {
        Duration::ZERO
    }

    fn force_end<'a>(&'a self, replica: &'a TrackedReplica, _: StopTimeout) -> Outcome<'a, ()> {
        self.note("kill", replica);
        replica.take_end(Moment::now(), Some(137), false);
        ready(Ok(())).boxed()
    }

    fn health<'a>(&'a self, replica: &'a TrackedReplica) -> Outcome<'a, Option<Health>> {
        if locked(&self.0.checked).insert(Arc::clone(&replica.name)) {
            self.note("ready", replica);
        }
        ready(Ok(Some(Health::Healthy))).boxed()
    }

    fn listens_by_itself<'a>(&'a self, _: &'a TrackedReplica) -> Outcome<'a, Option<bool>> {
        ready(Ok(None)).boxed()
    }

    fn instead_of_the_port(&self) -> &'static str {
        "there is nothing else"
    }

    fn remove<'a>(&'a self, replica: &'a TrackedReplica) -> Outcome<'a, ()> {
        self.note("discard", replica);
        locked(&self.0.replicas).remove(&replica.name);
        ready(Ok(())).boxed()
    }

    fn restore<'a>(&'a self, _: &'a TrackedReplica) -> Outcome<'a, ()> {
        ready(Ok(())).boxed()
    }

    fn dismantle(&self) -> Outcome<'_, ()> {
        locked(&self.0.asked).push("dismantle".into());
        locked(&self.0.replicas).clear();
        let dismantled = match self.0.trouble {
            Trouble::Dismantle => Err(unreachable("list containers")),
            _ => Ok(()),
        };
        ready(dismantled).boxed()
    }
}

/// Answers that come at once, or never.
pub(crate) struct Answers(pub(crate) bool);

impl AnswerWatch for Answers {
    fn wait_until_answered<'a>(&'a self, _: &'a Arc<str>, _: Moment, _: Duration) -> BoxFuture<'a, bool> {
        ready(self.0).boxed()
    }
}
