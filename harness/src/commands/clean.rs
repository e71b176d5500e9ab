//! `hitless clean`: removes what an interrupted run left behind: containers that carry the run's label and processes that carry its mark,
//! if their harness is gone.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;

use super::CommandError;
use crate::console;
use crate::host::engine::{Engine, EngineError};
use crate::host::owner::{Owner, owner};
use crate::rollout::error::RolloutError;
use crate::rollout::stepwise::process::mark::{Marked, find_marked};

/// A killed process is gone at once, unless it hangs in the kernel; one that it was just starting is seen the next time.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const MOST_LOOKS: u32 = 500;

#[derive(Debug, Args)]
pub(super) struct CleanArgs {
    /// Also those of runs that go on, or may go on elsewhere.
    #[arg(long)]
    all: bool,
}

pub(super) async fn execute(args: &CleanArgs) -> Result<u8, CommandError> {
    let cleaned = clean(args.all).await?;
    for name in &cleaned.removed {
        console::print(&format!("removed {name}\n"))?;
    }
    for name in &cleaned.in_use {
        console::print(&format!("left {name}: its run goes on (--all removes it too)\n"))?;
    }
    for name in &cleaned.out_of_sight {
        console::print(&format!(
            "left {name}: its run is of another host or container (--all removes it too)\n"
        ))?;
    }
    match &cleaned.no_engine {
        None if cleaned.is_empty() => console::print("nothing is left of any run\n")?,
        None => {}
        Some(why) => {
            if cleaned.is_empty() {
                console::print("no process is left of any run\n")?;
            }
            console::note(&format!("warning: no container was looked for: {why}"));
        }
    }
    Ok(0)
}

/// What a clean-up did.
#[derive(Debug, Default, PartialEq, Eq)]
struct Cleaned {
    /// Names of the removed containers, and the processes that were ended.
    pub removed: Vec<String>,
    /// Those whose run goes on.
    pub in_use: Vec<String>,
    /// Those whose run cannot be seen from here: that of another host or container.
    pub out_of_sight: Vec<String>,
    /// Why no container was looked for, if none was.
    pub no_engine: Option<String>,
}

impl Cleaned {
    /// Whether nothing of any run was found.
    #[must_use]
    fn is_empty(&self) -> bool {
        [&self.removed, &self.in_use, &self.out_of_sight].into_iter().all(Vec::is_empty)
    }

    /// Where something is written down that is not removed; none if it is to be removed.
    fn left(&mut self, label: &str, all: bool) -> Option<&mut Vec<String>> {
        match owner(label) {
            _ if all => None,
            Owner::Gone => None,
            Owner::Runs => Some(&mut self.in_use),
            Owner::OutOfSight => Some(&mut self.out_of_sight),
        }
    }
}

/// Removes every container and ends every process that a run left behind; with `all`, also those of runs that go on, or
/// may go on elsewhere. Without an engine, the processes alone.
///
/// # Errors
/// The engine refuses to remove a container, or a process cannot be ended; the others are removed all the same.
async fn clean(all: bool) -> Result<Cleaned, RolloutError> {
    let mut cleaned = Cleaned::default();
    let ended = end_processes(&mut cleaned, all).await;
    let removed = match Engine::connect().await {
        Ok(engine) => remove_containers(&engine, &mut cleaned, all).await,
        Err(error) => {
            cleaned.no_engine = Some(error.to_string());
            Ok(())
        }
    };
    ended.and(removed).map(|()| cleaned)
}

async fn end_processes(cleaned: &mut Cleaned, all: bool) -> Result<(), RolloutError> {
    let mut ended = BTreeSet::new();
    let mut result = Ok(());
    for look in 0..MOST_LOOKS {
        let mut is_anything_there = false;
        for marked in find_marked() {
            if let Some(left) = cleaned.left(&marked.mark.owner, all) {
                if look == 0 {
                    left.push(marked.to_string());
                }
                continue;
            }
            is_anything_there = true;
            match marked.kill() {
                Ok(()) if ended.insert(marked.id) => cleaned.removed.push(marked.to_string()),
                Ok(()) => {}
                Err(error) => result = Err(not_ended(&marked, error.to_string())),
            }
        }
        if !is_anything_there || result.is_err() {
            return result;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let reason = "some of them are still there; look for what they wait for with `ps`".to_owned();
    Err(EngineError::Failed { operation: "end the processes of a run".to_owned(), reason }.into())
}

fn not_ended(marked: &Marked, reason: String) -> RolloutError {
    EngineError::Failed { operation: format!("end {marked}"), reason }.into()
}

async fn remove_containers(engine: &Engine, cleaned: &mut Cleaned, all: bool) -> Result<(), RolloutError> {
    let mut result = Ok(());
    for container in engine.labelled(None).await? {
        if let Some(left) = cleaned.left(&container.owner, all) {
            left.push(container.name);
            continue;
        }
        match engine.remove(&container.id).await {
            Ok(()) => cleaned.removed.push(container.name),
            Err(error) => result = Err(error),
        }
    }
    result.map_err(RolloutError::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::owner::this_process;

    #[test]
    fn only_what_nobody_owns_is_removed_unless_all_is() {
        let mut cleaned = Cleaned::default();
        let is_left = |cleaned: &mut Cleaned, label: &str, all| {
            let left = cleaned.left(label, all);
            left.map(|left| left.push(label.to_owned())).is_some()
        };
        let (here, elsewhere) = (this_process(), format!("elsewhere-{}", this_process()));
        assert!(is_left(&mut cleaned, &here, false) && is_left(&mut cleaned, &elsewhere, false));
        assert_eq!((&cleaned.in_use, &cleaned.out_of_sight), (&vec![here.clone()], &vec![elsewhere.clone()]));
        assert!(!is_left(&mut cleaned, "nobody", false));
        assert!(!is_left(&mut cleaned, &here, true) && !is_left(&mut cleaned, &elsewhere, true));
    }
}
