//! Removes what an interrupted run left behind: containers that carry the run's label and whose harness is gone.

use crate::owner::{Owner, owner};
use crate::runtime::RuntimeError;
use crate::runtime::docker::engine::Engine;

/// What a clean-up did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Names of the removed containers.
    pub removed: Vec<String>,
    /// Names of the containers whose run goes on.
    pub in_use: Vec<String>,
    /// Names of the containers whose run cannot be seen from here: that of another host or container.
    pub out_of_sight: Vec<String>,
}

/// Removes every container that a run left behind; with `all`, also those of runs that go on, or may go on elsewhere.
///
/// # Errors
/// The engine does not answer, or refuses to remove one; the others are removed all the same.
pub async fn clean(engine: &Engine, all: bool) -> Result<Cleaned, RuntimeError> {
    let mut cleaned = Cleaned::default();
    let mut result = Ok(());
    for container in engine.labelled(None).await? {
        match owner(&container.owner) {
            Owner::Runs if !all => {
                cleaned.in_use.push(container.name);
                continue;
            }
            Owner::OutOfSight if !all => {
                cleaned.out_of_sight.push(container.name);
                continue;
            }
            _ => {}
        }
        match engine.remove(&container.id).await {
            Ok(()) => cleaned.removed.push(container.name),
            Err(error) => result = Err(error),
        }
    }
    result.map(|()| cleaned)
}
