//! One replica as the harness watches it: the harness asks, whoever runs the replica tells of its process, and the
//! process's output tells the rest. No I/O of its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::life::{End, Life};
use super::logline::Tail;
use super::probe::Crowd;
use super::{Replica, Runtime, RuntimeError};
use crate::model::clock::Moment;
use crate::model::lifecycle::{LifecycleEvent, LifecycleKind, Source};
use crate::model::sink::Sink;
use crate::scenario::StopTimeout;

/// How long the rest of an ended process's output may take to arrive.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(2);

/// One replica, and what is known of it.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) name: Arc<str>,
    pub(super) life: watch::Sender<Life>,
    /// What the port has to show before a probe of it says anything about this replica.
    pub(super) crowd: Mutex<Crowd>,
    pub(super) tail: Mutex<Tail>,
    sink: Arc<dyn Sink>,
    output: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// What an end was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Somebody asked for it.
    AskedFor,
    /// Nobody did.
    Death,
}

impl Watched {
    pub(super) fn new(name: Arc<str>, life: Life, sink: Arc<dyn Sink>) -> Self {
        Self {
            name,
            life: watch::Sender::new(life),
            crowd: Mutex::new(Crowd::Alone),
            tail: Mutex::default(),
            sink,
            output: Mutex::default(),
        }
    }

    /// Its name, as the rollout knows it.
    pub(super) fn replica(&self) -> Replica {
        Replica { name: Arc::clone(&self.name) }
    }

    /// Records something in its life.
    pub(super) fn tell(&self, at: Moment, kind: LifecycleKind, source: Source, fields: Map<String, Value>) {
        let replica = Arc::clone(&self.name);
        let t = at.relative_to(self.sink.zero());
        self.sink.lifecycle(LifecycleEvent { t, replica, kind, source, fields });
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
        self.life.send_modify(|life| life.was_killed = true);
        let fields = json!({"signal": "SIGKILL", "by": "hitless", "processes_left": processes});
        let Value::Object(fields) = fields else { return };
        self.tell(at, LifecycleKind::Killed, Source::Harness, fields);
    }

    /// Its process has ended.
    pub(super) fn take_end(&self, at: Moment, code: Option<i64>, runs_again: bool) -> Ending {
        // Told before it is known: who waits for the end goes on to the next phase, and that comes after it.
        let fields = Map::from_iter([("code".to_owned(), json!(code))]);
        self.tell(at, LifecycleKind::Exited, Source::Engine, fields);
        let mut is_expected = true;
        self.life.send_modify(|life| is_expected = life.take_end(at, code, runs_again).is_expected);
        if is_expected { Ending::AskedFor } else { Ending::Death }
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
    pub(super) async fn death(&self) -> RuntimeError {
        let mut life = self.life.subscribe();
        let code = match life.wait_for(Life::has_died).await {
            Ok(life) => life.end.and_then(|end| end.code),
            Err(_) => None,
        };
        // Its last words may still be on their way.
        self.finish_output().await;
        let reason = locked(&self.tail).last_words();
        RuntimeError::Died { replica: Arc::clone(&self.name), code, reason }
    }

    /// That something could not be done with this replica.
    pub(super) fn failed(&self, operation: &'static str, reason: impl Into<String>) -> RuntimeError {
        RuntimeError::Replica { operation, replica: Arc::clone(&self.name), reason: reason.into() }
    }
}

/// Stops those that run, all at once, and reads all that they wrote.
pub(super) async fn stop_all<R: Runtime>(
    runtime: &R,
    all: Vec<Arc<Watched>>,
    timeout: StopTimeout,
) -> Result<(), RuntimeError> {
    let stopping = all.iter().filter(|one| one.life.borrow().is_running).map(async |one| {
        if !one.life.borrow().is_asked_to_end() {
            one.sink.record_now(&one.name, LifecycleKind::TerminateRequested);
        }
        let stopped = runtime.stop(&one.replica(), timeout).await;
        one.finish_output().await;
        stopped.map(drop)
    });
    join_all(stopping).await.into_iter().collect()
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
        let watched = Watched::new("a".into(), Life::found(true), Arc::new(Nowhere));
        locked(&watched.tail).push("out of memory");
        watched.life.send_modify(|life| {
            life.take_end(Moment::from_nanoseconds(5), Some(3), false);
        });
        let told = watched.death().await.to_string();
        assert_eq!(told, "replica a ended on its own with exit code 3; it last said: out of memory");
    }
}
