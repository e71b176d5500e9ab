//! Where replicas live: the one interface between the experiment and the outside world.
//!
//! The rollout sees this trait and nothing behind it; its in-memory twin in the tests shows that.

pub mod compose;
pub mod docker;
mod life;
mod logline;
pub mod output;
mod preset;
pub mod probe;
pub mod process;
mod reader;
mod readiness;
#[cfg(test)]
pub(crate) mod twin;
mod watched;

use std::sync::Arc;
use std::time::Duration;

use crate::host::engine::EngineError;
use crate::model::clock::Moment;
use crate::model::cut_short::death;
use crate::scenario::{Order, StopTimeout, Version};

/// One replica: a name, under which it also answers if it says who it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Replica {
    /// Unique in the run.
    pub name: Arc<str>,
}

impl Replica {
    /// The replicas that a run begins with: `server-a`, `server-b`, …
    fn first(count: usize) -> impl Iterator<Item = Self> {
        ('a'..='z').take(count).map(|letter| Self { name: format!("server-{letter}").into() })
    }

    /// The one that takes its place. It has the name of one that is gone, or a number beside one that runs: `server-a.2` after
    /// `server-a`, then `server-a.3`.
    fn successor(&self, order: Order) -> Self {
        let name = &*self.name;
        let numbered =
            name.rsplit_once('.').and_then(|(stem, number)| Some((stem, number.parse::<u32>().ok()?)));
        match (order, numbered) {
            (Order::StopFirst, _) => self.clone(),
            (Order::StartFirst, Some((stem, number))) => {
                Self { name: format!("{stem}.{}", number + 1).into() }
            }
            (Order::StartFirst, None) => Self { name: format!("{name}.2").into() },
        }
    }
}

/// Something that the experiment needs from the outside world failed. The text is for people and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The container engine cannot be reached, or refused something.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An image is not there and cannot be built here.
    #[error("{0}")]
    MissingImage(String),
    /// The port is in use by somebody else.
    #[error("{0}")]
    PortTaken(String),
    /// There are no replicas to roll.
    #[error("{0}")]
    NoReplicas(String),
    /// One operation on one replica failed.
    #[error("failed to {operation} replica {replica}: {reason}")]
    Replica {
        /// What was tried.
        operation: &'static str,
        /// On whom.
        replica: Arc<str>,
        /// What the engine said.
        reason: String,
    },
    /// A replica was not ready in time.
    #[error("replica {replica} was not ready within {}: {reason}", humantime::format_duration(*.patience))]
    NotReady {
        /// Who.
        replica: Arc<str>,
        /// How long it was given.
        patience: Duration,
        /// What was seen instead.
        reason: String,
    },
    /// A replica ended although nobody asked it to.
    #[error("{}", death(.replica, *.code, .reason))]
    Died {
        /// Who.
        replica: Arc<str>,
        /// Its exit code.
        code: Option<i64>,
        /// Its last words.
        reason: String,
    },
}

/// Starts and stops replicas. What happens in their lives goes to the sink that the implementation was made with.
pub trait Runtime: Send + Sync {
    /// Brings every replica up to the point where [`start`](Runtime::start) can start it, or finds those that run.
    fn assemble(&self) -> impl Future<Output = Result<Vec<Replica>, RuntimeError>> + Send;

    /// Starts a replica that does not run, and records when its process began. Does nothing to one that runs.
    fn start(&self, replica: &Replica) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Waits until a started replica is ready; records, and returns, the moment at which it was.
    fn wait_until_ready(
        &self,
        replica: &Replica,
        patience: Duration,
    ) -> impl Future<Output = Result<Moment, RuntimeError>> + Send;

    /// Tells a replica to stop and waits until its process is gone; after `timeout` it is killed. The end, and a kill, are
    /// recorded before this returns.
    fn stop(
        &self,
        replica: &Replica,
        timeout: StopTimeout,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Makes, and does not start, a replica of this version that takes the place of `replica`: beside it, under another
    /// name, or after it was [discarded](Runtime::discard), under its own.
    fn successor(
        &self,
        replica: &Replica,
        version: Version,
        order: Order,
    ) -> impl Future<Output = Result<Replica, RuntimeError>> + Send;

    /// Removes a replica that was stopped and does not come back.
    fn discard(&self, replica: &Replica) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Waits until some replica ends although nobody asked it to. Never returns otherwise.
    fn unexpected_end(&self) -> impl Future<Output = RuntimeError> + Send;

    /// Ends the replicas in an orderly way after a whole run, those that this runtime made.
    fn retire(&self, timeout: StopTimeout) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Removes what this runtime made, whatever state it is in; leaves running what it found running. One that is on its
    /// way to its end may take up to `timeout` until it can be started again.
    fn dismantle(&self, timeout: StopTimeout) -> impl Future<Output = Result<(), RuntimeError>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successor_has_the_name_of_one_that_is_gone_or_the_next_number_beside_one_that_runs() {
        let first = Replica::first(2).next().unwrap();
        assert_eq!(first.successor(Order::StopFirst), first);
        let second = first.successor(Order::StartFirst);
        assert_eq!((&*first.name, &*second.name), ("server-a", "server-a.2"));
        assert_eq!(&*second.successor(Order::StartFirst).name, "server-a.3");
        assert_eq!(second.successor(Order::StopFirst), second);
    }
}
