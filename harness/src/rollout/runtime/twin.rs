//! The runtime's twin in memory, for tests: it writes down what it was asked to do, knows what runs, and gets into the
//! trouble that a test wants.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::host::engine::EngineError;
use crate::model::clock::Moment;
use crate::model::lifecycle::LifecycleKind;
use crate::model::observation::{Observation, Outcome};
use crate::model::sink::Sink;
use crate::rollout::AnswerWatch;
use crate::rollout::runtime::{Replica, Runtime, RuntimeError};
use crate::scenario::{Order, StopTimeout, Version};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    Nothing,
    /// No replica starts.
    Start,
    /// The first stop panics.
    PanicAtStop,
    /// A stop takes for ever.
    EndlessStop,
    /// The first replica that is to stop has died on its own.
    Death,
    /// Replicas get no request.
    NoAnswer,
    /// The engine cannot be reached at the orderly end.
    Retire,
    /// The engine cannot be reached at the clean-up.
    Dismantle,
}

/// A runtime in memory with two replicas, `a` and `b`.
pub(crate) struct Twin {
    sink: Arc<dyn Sink>,
    trouble: Trouble,
    asked: Mutex<Vec<String>>,
    running: Mutex<BTreeSet<Arc<str>>>,
    has_died: watch::Sender<bool>,
    is_stopping: watch::Sender<bool>,
}

impl Twin {
    pub(crate) fn new(trouble: Trouble, sink: Arc<dyn Sink>) -> Self {
        Self {
            sink,
            trouble,
            asked: Mutex::default(),
            running: Mutex::default(),
            has_died: watch::Sender::new(false),
            is_stopping: watch::Sender::new(false),
        }
    }

    /// What it was asked to do with replicas, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        locked(&self.asked).clone()
    }

    /// Who runs.
    pub(crate) fn running(&self) -> Vec<String> {
        locked(&self.running).iter().map(ToString::to_string).collect()
    }

    /// Waits until a replica was asked to stop.
    pub(crate) async fn wait_until_stopping(&self) {
        let mut is_stopping = self.is_stopping.subscribe();
        let _ = is_stopping.wait_for(|is_stopping| *is_stopping).await;
    }

    fn note(&self, what: &str, replica: &Replica) {
        locked(&self.asked).push(format!("{what} {}", replica.name));
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unreachable(operation: &str) -> RuntimeError {
    EngineError::Failed { operation: operation.to_owned(), reason: "it does not answer".to_owned() }.into()
}

impl AnswerWatch for Twin {
    /// A replica that is ready has answered.
    async fn wait_until_answered(&self, _: &str, _: Moment, _: Duration) -> bool {
        self.trouble != Trouble::NoAnswer
    }
}

impl Runtime for Twin {
    async fn assemble(&self) -> Result<Vec<Replica>, RuntimeError> {
        Ok(["a", "b"].map(|name| Replica { name: name.into() }).into())
    }

    async fn start(&self, replica: &Replica) -> Result<(), RuntimeError> {
        self.note("start", replica);
        if self.trouble == Trouble::Start {
            let replica = Arc::clone(&replica.name);
            return Err(RuntimeError::Replica { operation: "start", replica, reason: "no".into() });
        }
        locked(&self.running).insert(Arc::clone(&replica.name));
        self.sink.record_now(&replica.name, LifecycleKind::Started);
        Ok(())
    }

    /// The replica answers a request at once.
    async fn wait_until_ready(&self, replica: &Replica, _: Duration) -> Result<Moment, RuntimeError> {
        self.note("ready", replica);
        let now = self.sink.record_now(&replica.name, LifecycleKind::Ready);
        if self.trouble != Trouble::NoAnswer {
            self.sink.observe(Observation {
                replica: Some(Arc::clone(&replica.name)),
                ..Observation::at(now.relative_to(self.sink.zero()), Outcome::Answered)
            });
        }
        Ok(now)
    }

    async fn stop(&self, replica: &Replica, _: StopTimeout) -> Result<(), RuntimeError> {
        self.note("stop", replica);
        self.is_stopping.send_replace(true);
        match self.trouble {
            Trouble::PanicAtStop => panic!("the twin panics at a stop"),
            Trouble::EndlessStop => return std::future::pending().await,
            Trouble::Death => {
                self.has_died.send_replace(true);
                return std::future::pending().await;
            }
            _ => {}
        }
        locked(&self.running).remove(&replica.name);
        self.sink.record_now(&replica.name, LifecycleKind::Exited);
        Ok(())
    }

    async fn successor(
        &self,
        replica: &Replica,
        version: Version,
        _: Order,
    ) -> Result<Replica, RuntimeError> {
        let version = format!("{version:?}").to_lowercase();
        self.note(&format!("make {version} for"), replica);
        Ok(Replica { name: format!("{}+", replica.name).into() })
    }

    async fn discard(&self, replica: &Replica) -> Result<(), RuntimeError> {
        self.note("discard", replica);
        Ok(())
    }

    async fn unexpected_end(&self) -> RuntimeError {
        let mut has_died = self.has_died.subscribe();
        let _ = has_died.wait_for(|has_died| *has_died).await;
        RuntimeError::Died { replica: "a".into(), code: Some(1), reason: String::new() }
    }

    async fn retire(&self, _: StopTimeout) -> Result<(), RuntimeError> {
        locked(&self.asked).push("retire".into());
        match self.trouble {
            Trouble::Retire => Err(unreachable("stop the replicas")),
            _ => Ok(()),
        }
    }

    async fn dismantle(&self, _: StopTimeout) -> Result<(), RuntimeError> {
        locked(&self.asked).push("dismantle".into());
        if self.trouble == Trouble::Dismantle {
            return Err(unreachable("list containers"));
        }
        locked(&self.running).clear();
        Ok(())
    }
}
