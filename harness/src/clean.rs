//! Removes what an interrupted run left behind: containers that carry the run's label and whose harness is gone.

use crate::owner;
use crate::runtime::RuntimeError;
use crate::runtime::docker::engine::Engine;

/// What a clean-up did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Names of the removed containers.
    pub removed: Vec<String>,
    /// Names of the containers whose run goes on.
    pub in_use: Vec<String>,
}

/// Removes every container that a run left behind; with `all`, also those of runs that go on.
///
/// # Errors
/// The engine does not answer, or refuses to remove one; the others are removed all the same.
pub async fn clean(engine: &Engine, all: bool) -> Result<Cleaned, RuntimeError> {
    let mut cleaned = Cleaned::default();
    let mut result = Ok(());
    for container in engine.labelled(None).await? {
        if !all && owner::is_alive(&container.owner) {
            cleaned.in_use.push(container.name);
            continue;
        }
        match engine.remove(&container.id).await {
            Ok(()) => cleaned.removed.push(container.name),
            Err(error) => result = Err(error),
        }
    }
    result.map(|()| cleaned)
}
