//! Tracks a replica's state, for every launcher: the harness asks, the launcher tells of the process, and the process's
//! output tells the rest. No I/O of its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::life::{End, EndAsked, Life};
use super::logline::Tail;
use super::port::ExpectedListeners;
use crate::model::clock::Moment;
use crate::model::lifecycle::{LifecycleEvent, LifecycleKind, Source};
use crate::model::sink::Sink;
use crate::rollout::error::RolloutError;
use crate::rollout::replica::Replica;

/// How long the rest of an ended process's output may take to arrive.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(2);

/// Where a replica comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Provenance {
    /// The run makes it, and removes it.
    Made,
    /// It was found running, and is left running.
    Found,
}

/// What ends a run from outside.
#[derive(Debug, Clone)]
pub(super) enum Loss {
    /// A replica ended although nobody asked it to.
    Replica(Arc<str>),
    /// The ends of replicas cannot be seen any more.
    Sight {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        reason: String,
    },
}

/// Where the first loss of a run is told; clones are the same place.
#[derive(Debug, Clone)]
pub(crate) struct Losses(watch::Sender<Option<Loss>>);

impl Default for Losses {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Losses {
    pub(super) fn tell(&self, loss: Loss) {
        self.0.send_if_modified(|first| {
            let is_first = first.is_none();
            if is_first {
                *first = Some(loss);
            }
            is_first
        });
    }

    /// Waits for the first one.
    pub(super) async fn first(&self) -> Loss {
        let mut losses = self.0.subscribe();
        let first = losses.wait_for(Option::is_some).await.ok().and_then(|loss| loss.clone());
        first.expect("the sender is owned here, so the wait ends with what it waited for")
    }
}

/// One replica, and what is known of it.
#[derive(Debug)]
pub(crate) struct TrackedReplica {
    pub(super) name: Arc<str>,
    pub(super) provenance: Provenance,
    pub(super) life: watch::Sender<Life>,
    /// What the port has to show before a probe of it says anything about this replica.
    pub(super) expected_listeners: Mutex<ExpectedListeners>,
    pub(super) tail: Mutex<Tail>,
    sink: Arc<dyn Sink>,
    losses: Losses,
    output: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl TrackedReplica {
    pub(super) fn new(replica: Replica, provenance: Provenance, sink: Arc<dyn Sink>, losses: Losses) -> Self {
        let is_running = provenance == Provenance::Found;
        Self {
            name: replica.name,
            provenance,
            life: watch::Sender::new(Life::found(is_running)),
            expected_listeners: Mutex::new(ExpectedListeners::Alone),
            tail: Mutex::default(),
            sink,
            losses,
            output: Mutex::default(),
        }
    }

    /// Its name, as the rollout knows it.
    pub(super) fn replica(&self) -> Replica {
        Replica { name: Arc::clone(&self.name) }
    }

    pub(super) fn is_running(&self) -> bool {
        self.life.borrow().is_running
    }

    /// The life that is now is to end.
    pub(super) fn ask_to_end(&self) -> EndAsked {
        let mut asked = EndAsked::Before(0);
        self.life.send_modify(|life| asked = life.ask_to_end());
        asked
    }

    /// It is ready, as its output or its log says.
    pub(super) fn take_ready(&self, at: Moment) {
        let is_known = self.life.borrow().ready.is_some();
        if !is_known {
            self.life.send_modify(|life| life.ready = Some(at));
            self.tell(at, LifecycleKind::Ready, Source::Server, Map::new());
        }
    }

    /// Records something in its life.
    pub(super) fn tell(&self, at: Moment, kind: LifecycleKind, source: Source, fields: Map<String, Value>) {
        let replica = Arc::clone(&self.name);
        let t = at.relative_to(self.sink.zero());
        self.sink.lifecycle(LifecycleEvent { t, replica, node: None, kind, source, fields });
    }

    /// Its process was sent a signal; `signal` is its name or number, as whoever sent it says it.
    pub(super) fn take_signal(&self, at: Moment, signal: &str) {
        // An engine may tell of the signal after the end that it brought.
        let ended = self.life.borrow().end.map(|end| end.at);
        let at = ended.map_or(at, |ended| at.min(ended));
        let is_kill = matches!(signal, "9" | "SIGKILL" | "KILL");
        if is_kill {
            self.life.send_modify(|life| life.was_killed = true);
        }
        let kind = if is_kill { LifecycleKind::Killed } else { LifecycleKind::SignalSent };
        self.tell(at, kind, Source::Engine, Map::from_iter([("signal".to_owned(), json!(signal))]));
    }

    /// Its first process has ended and left others, which were killed: as in a container, nothing outlives the first.
    pub(super) fn take_kill_of_rest(&self, at: Moment, processes: usize) {
        self.life.send_modify(|life| {
            life.was_killed = true;
            life.left_running = processes;
        });
        let fields = json!({"signal": "SIGKILL", "by": "hitless", "processes_left": processes});
        let Value::Object(fields) = fields else { return };
        self.tell(at, LifecycleKind::Killed, Source::Harness, fields);
    }

    /// Its process has ended. An end that nobody asked for is a loss.
    pub(super) fn take_end(&self, at: Moment, code: Option<i64>, runs_again: bool) {
        // Told before it is known: who waits for the end goes on to the next phase, and that comes after it.
        let fields = Map::from_iter([("code".to_owned(), json!(code))]);
        self.tell(at, LifecycleKind::Exited, Source::Engine, fields);
        let mut is_expected = true;
        self.life.send_modify(|life| is_expected = life.take_end(at, code, runs_again).is_expected);
        if !is_expected {
            self.losses.tell(Loss::Replica(Arc::clone(&self.name)));
        }
    }

    /// Gives it the task that reads its output; the task ends with it.
    pub(super) fn own_output(&self, reader: AbortOnDropHandle<()>) {
        *locked(&self.output) = Some(reader);
    }

    /// Waits until all that the ended life has written is read, with a bound.
    pub(super) async fn finish_output(&self) {
        let output = locked(&self.output).take();
        if let Some(output) = output {
            let _ = tokio::time::timeout(OUTPUT_PATIENCE, output).await;
        }
    }

    /// Reads no more of its output.
    pub(super) fn drop_output(&self) {
        drop(locked(&self.output).take());
    }

    /// Waits for the end of the life with this number.
    pub(super) async fn end_of(&self, number: u64) -> End {
        let mut life = self.life.subscribe();
        let life = life.wait_for(|life| life.end_of(number).is_some()).await;
        let end = life.ok().and_then(|life| life.end_of(number));
        end.expect("the sender is owned here, so the wait ends with what it waited for")
    }

    /// Waits until its output says that it is ready.
    pub(super) async fn said_ready(&self) -> Moment {
        let mut life = self.life.subscribe();
        // The sender is owned here, so the wait cannot fail.
        let at = life.wait_for(|life| life.ready.is_some()).await.ok().and_then(|life| life.ready);
        at.unwrap_or_else(Moment::now)
    }

    /// Waits until a life ends although nobody asked it to; says so with its last words.
    pub(super) async fn death(&self) -> RolloutError {
        let mut life = self.life.subscribe();
        let (code, left_running) = match life.wait_for(Life::has_died).await {
            Ok(life) => (life.end.and_then(|end| end.code), life.left_running),
            Err(_) => (None, 0),
        };
        // Its last words may still be on their way.
        self.finish_output().await;
        let last_words = locked(&self.tail).last_words();
        RolloutError::Died { replica: Arc::clone(&self.name), code, last_words, left_running }
    }

    /// That something could not be done with this replica.
    pub(super) fn failed(&self, operation: &'static str, reason: impl Into<String>) -> RolloutError {
        RolloutError::Replica { operation, replica: Arc::clone(&self.name), reason: reason.into() }
    }
}

/// The data of these locks is whole after every statement, so a panic elsewhere does not spoil it.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::sink::Nowhere;

    #[tokio::test]
    async fn death_is_told_with_code_and_last_words() {
        let replica = Replica::named("a");
        let tracked = TrackedReplica::new(replica, Provenance::Found, Arc::new(Nowhere), Losses::default());
        locked(&tracked.tail).push("out of memory");
        tracked.life.send_modify(|life| {
            life.take_end(Moment::from_nanoseconds(5), Some(3), false);
        });
        let told = tracked.death().await.to_string();
        assert_eq!(told, "replica a ended on its own with exit code 3; it last said: out of memory");
    }
}
