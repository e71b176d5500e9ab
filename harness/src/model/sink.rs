//! Where observations go.

use std::sync::Arc;

use crate::model::clock::Moment;
use crate::model::lifecycle::{LifecycleEvent, LifecycleKind, Source};
use crate::model::listener::Sighting;
use crate::model::observation::Observation;
use crate::model::restart::{RestartId, RestartStep};

/// Takes what producers see: the load its requests, the rollout the replicas' lives, the host its sockets. Nothing here
/// waits, so it can be called between two requests.
pub trait Sink: std::fmt::Debug + Send + Sync {
    /// The run's zero: what is recorded is relative to it.
    fn zero(&self) -> Moment;

    /// A request has ended.
    fn observe(&self, observation: Observation);

    /// Something happened in a replica's life.
    fn lifecycle(&self, event: LifecycleEvent);

    /// The rollout knows something of a restart that no lifecycle event tells.
    fn restart(&self, id: RestartId, at: Moment, step: RestartStep);

    /// The harness did something to a replica, now; returns the moment.
    fn record_now(&self, replica: &Arc<str>, kind: LifecycleKind) -> Moment {
        let at = Moment::now();
        self.lifecycle(LifecycleEvent {
            t: at.relative_to(self.zero()),
            replica: Arc::clone(replica),
            node: None,
            kind,
            source: Source::Harness,
            fields: serde_json::Map::new(),
        });
        at
    }

    /// The listeners of the port looked like this at `at`.
    fn listeners(&self, at: Moment, seen: Vec<Sighting>);

    /// The harness did not get to run between two moments, although it had something to do.
    fn stalled(&self, from: Moment, to: Moment);

    /// The kernel dropped packets between two moments, since its table of connections was full.
    fn dropped(&self, from: Moment, to: Moment, packets: u64);

    /// Whether more observations wait to be taken than fit in bounded memory: nothing new should be sent until they are.
    fn is_behind(&self) -> bool;
}

/// A sink that keeps nothing.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Nowhere;

#[cfg(test)]
impl Sink for Nowhere {
    fn zero(&self) -> Moment {
        Moment::from_nanoseconds(0)
    }
    fn observe(&self, _: Observation) {}
    fn lifecycle(&self, _: LifecycleEvent) {}
    fn restart(&self, _: RestartId, _: Moment, _: RestartStep) {}
    fn listeners(&self, _: Moment, _: Vec<Sighting>) {}
    fn stalled(&self, _: Moment, _: Moment) {}
    fn dropped(&self, _: Moment, _: Moment, _: u64) {}
    fn is_behind(&self) -> bool {
        false
    }
}
