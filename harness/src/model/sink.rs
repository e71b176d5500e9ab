//! Where observations go.

use crate::model::clock::Moment;
use crate::model::lifecycle::LifecycleEvent;
use crate::model::listener::Listener;
use crate::model::observation::Observation;

/// Takes what producers see: the load its requests, the rollout the replicas' lives, the host its sockets. Nothing here
/// waits, so it can be called between two requests.
pub trait Sink: std::fmt::Debug + Send + Sync {
    /// A request has ended.
    fn observe(&self, observation: Observation);

    /// Something happened in a replica's life.
    fn lifecycle(&self, event: LifecycleEvent);

    /// The listeners of the port looked like this at `at`.
    fn listeners(&self, at: Moment, seen: Vec<Listener>);

    /// The harness did not get to run between two moments, although it had something to do.
    fn stalled(&self, from: Moment, to: Moment);

    /// The kernel dropped packets between two moments, since its table of connections was full.
    fn dropped(&self, from: Moment, to: Moment, packets: u64);

    /// Whether more observations wait to be taken than fit in bounded memory: nothing new should be sent until they are.
    fn is_behind(&self) -> bool;
}
