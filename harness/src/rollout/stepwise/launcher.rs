//! What starts and ends replicas in one place: a container engine, this machine's processes, or memory. The outside effects
//! stand here; the [fleet](super::fleet) keeps the books.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::output_reader::OutputReader;
use super::tracked_replica::{Losses, Provenance, TrackedReplica};
use crate::model::clock::Moment;
use crate::rollout::error::RolloutError;
use crate::rollout::replica::Replica;
use crate::scenario::{StopTimeout, Version};

/// What an operation of a launcher comes to.
pub(crate) type Outcome<'a, T> = BoxFuture<'a, Result<T, RolloutError>>;

/// What a health check says of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    Healthy,
    /// It is not healthy, or not yet.
    NotHealthy,
}

/// Starts and ends replicas. A launcher tells a replica's end, and the signals that it was sent, to the
/// [`TrackedReplica`]; everything else is told by the fleet.
pub(crate) trait Launcher: std::fmt::Debug + Send + Sync {
    /// The replicas of the run's beginning, to be made or found. From here on, an end that nobody asked for goes to
    /// `losses`, and so does whatever keeps the launcher from seeing such an end.
    fn members<'a>(&'a self, losses: &'a Losses) -> Outcome<'a, Vec<(Replica, Provenance)>>;

    /// Makes what stands behind a replica of this version, and does not start it; or takes charge of what was found.
    fn provide<'a>(&'a self, replica: &'a Arc<TrackedReplica>, version: Version) -> Outcome<'a, ()>;

    /// Starts its process; returns when the process began. `output` takes all that it writes.
    fn start<'a>(&'a self, replica: &'a Arc<TrackedReplica>, output: OutputReader) -> Outcome<'a, Moment>;

    /// Gives `output` what a replica that was found running writes from now on; says whether it has written `text` before.
    fn attach<'a>(
        &'a self,
        replica: &'a Arc<TrackedReplica>,
        output: OutputReader,
        text: Option<&'a str>,
    ) -> Outcome<'a, bool>;

    /// How long a replica may take to stop: what was given, or its own.
    fn stop_timeout<'a>(&'a self, replica: &'a TrackedReplica, given: StopTimeout) -> Outcome<'a, Duration>;

    /// Asks a replica's process to end. May wait for that, and for the kill after `timeout`.
    fn terminate<'a>(&'a self, replica: &'a TrackedReplica, timeout: StopTimeout) -> Outcome<'a, ()>;

    /// How long after its stop timeout a replica's end may be seen before it has to be forced.
    fn slack(&self) -> Duration;

    /// Forces the end of a replica that was asked to end and has not.
    fn force_end<'a>(&'a self, replica: &'a TrackedReplica, timeout: StopTimeout) -> Outcome<'a, ()>;

    /// What the check of its health says now; none if it has none.
    fn health<'a>(&'a self, replica: &'a TrackedReplica) -> Outcome<'a, Option<Health>>;

    /// Whether a replica listens in a network namespace of its own, where the target's port belongs to a proxy or to the
    /// engine; none if it has the harness's namespace.
    fn listens_by_itself<'a>(&'a self, replica: &'a TrackedReplica) -> Outcome<'a, Option<bool>>;

    /// Whether a replica that has the harness's network has a listener of the target's port; none if it has a network of its
    /// own, or if its sockets cannot be seen.
    fn holds_the_port<'a>(&'a self, _: &'a TrackedReplica) -> Outcome<'a, Option<bool>> {
        std::future::ready(Ok(None)).boxed()
    }

    /// What a user can do if the port cannot tell whether a replica is ready.
    fn instead_of_the_port(&self) -> &'static str;

    /// Removes what stands behind a replica that was stopped and does not come back.
    fn remove<'a>(&'a self, replica: &'a TrackedReplica) -> Outcome<'a, ()>;

    /// Starts a replica that was found running, if it does not run any more, and sees that it does.
    fn restore<'a>(&'a self, replica: &'a TrackedReplica) -> Outcome<'a, ()>;

    /// Removes everything that was made, whatever state it is in, and sees nothing more.
    fn dismantle(&self) -> Outcome<'_, ()>;
}
