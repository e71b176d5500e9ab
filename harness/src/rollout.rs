//! Who changes the replicas under load: the one interface between the experiment and what it measures.

pub mod error;
pub mod replica;
pub mod stepwise;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::model::clock::Moment;
use crate::rollout::error::RolloutError;

/// A rollout, whoever makes the change. What it does, and what it sees of the replicas' lives, goes to the sink that it was
/// made with.
pub trait Rollout: Send + Sync {
    /// Brings the replicas up, or finds them, and waits until each is ready; says how many there are.
    fn assemble(&self) -> BoxFuture<'_, Result<usize, RolloutError>>;

    /// Makes the change, from beginning to end, while load runs.
    fn perform<'a>(&'a self, answers: &'a dyn AnswerWatch) -> BoxFuture<'a, Result<(), RolloutError>>;

    /// Waits until some replica ends although nobody asked it to. Never returns otherwise.
    fn unexpected_end(&self) -> BoxFuture<'_, RolloutError>;

    /// Ends in an orderly way what [`assemble`](Self::assemble) brought up, after a whole run.
    fn retire(&self) -> BoxFuture<'_, Result<(), RolloutError>>;

    /// Removes what was brought up, whatever state it is in; leaves running what was found running.
    fn dismantle(&self) -> BoxFuture<'_, Result<(), RolloutError>>;
}

/// Says when a replica has answered requests.
pub trait AnswerWatch: Send + Sync {
    /// Waits until `replica` has answered a request that was sent at or after `since`; true when it has, false when
    /// `patience` ran out.
    fn wait_until_answered<'a>(
        &'a self,
        replica: &'a Arc<str>,
        since: Moment,
        patience: Duration,
    ) -> BoxFuture<'a, bool>;
}
