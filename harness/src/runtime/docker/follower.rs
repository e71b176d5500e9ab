//! Turns the engine's events into what is known of the containers' lives, and into lifecycle events.
//!
//! A stream of events that breaks off is taken up again where it ended: the engine keeps its last events.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::models::EventMessage;
use futures_util::StreamExt;
use serde_json::{Map, json};
use tokio::sync::watch;

use super::container::{Container, locked};
use super::engine::{Engine, reason};
use crate::clock::{Moment, WallOffset};
use crate::recorder::Recorder;
use crate::recording::{LifecycleEvent, LifecycleKind, Source};

/// A stream that breaks off is taken up again after so long,
const PAUSE: Duration = Duration::from_millis(250);
/// and given up when it has broken off so often in a row, each time at once.
const MOST_BREAKS: u32 = 20;
/// A stream that lasted so long did not break off at once.
const LASTED: Duration = Duration::from_secs(5);

/// The containers that are followed; shared with who makes and removes them.
pub(super) type Followed = Arc<Mutex<Vec<Arc<Container>>>>;

/// What ends a run from outside.
#[derive(Debug, Clone)]
pub(super) enum Loss {
    /// A replica ended although nobody asked it to.
    Replica(Arc<Container>),
    /// The engine's events cannot be heard any more.
    Events(String),
}

/// Follows the engine's events until it is dropped.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) engine: Engine,
    pub(super) followed: Followed,
    pub(super) recorder: Recorder,
    pub(super) wall: WallOffset,
    pub(super) lost: watch::Sender<Option<Loss>>,
}

impl Follower {
    /// Takes every event from `since` on, nanoseconds since 1970.
    pub(super) async fn run(self, mut since: u64) {
        let mut breaks = 0;
        loop {
            let began = Moment::now();
            let why = self.follow(&mut since).await;
            breaks = if Moment::now().since(began) >= LASTED { 1 } else { breaks + 1 };
            if breaks >= MOST_BREAKS {
                self.lost.send_replace(Some(Loss::Events(why)));
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Takes events until the stream ends; says why it did.
    async fn follow(&self, since: &mut u64) -> String {
        let mut events = pin!(self.engine.events(*since));
        loop {
            match events.next().await {
                Some(Ok(event)) => {
                    if let Some(time) = event.time_nano.and_then(|time| u64::try_from(time).ok()) {
                        *since = time.saturating_add(1).max(*since);
                    }
                    self.take(&event).await;
                }
                Some(Err(error)) => return reason(&error),
                None => return "the engine ended the stream of its events".to_owned(),
            }
        }
    }

    async fn take(&self, event: &EventMessage) {
        let actor = event.actor.clone().unwrap_or_default();
        let id = actor.id.unwrap_or_default();
        let found = locked(&self.followed).iter().find(|container| container.id == id).cloned();
        let Some(container) = found else { return };
        let attributes = actor.attributes.unwrap_or_default();
        let at = event
            .time_nano
            .and_then(|time| u64::try_from(time).ok())
            .map_or_else(Moment::now, |time| self.wall.moment_at(time));
        match event.action.as_deref() {
            Some("kill") => self.take_signal(&container, at, &attributes),
            Some("die") => self.take_end(&container, at, &attributes).await,
            _ => {}
        }
    }

    fn take_signal(&self, container: &Container, at: Moment, attributes: &HashMap<String, String>) {
        let signal = attributes.get("signal").cloned().unwrap_or_default();
        let is_kill = matches!(signal.as_str(), "9" | "SIGKILL" | "KILL");
        if is_kill {
            container.life.send_modify(|life| life.was_killed = true);
        }
        let kind = if is_kill { LifecycleKind::Killed } else { LifecycleKind::SignalSent };
        self.tell(container, at, kind, Map::from_iter([("signal".to_owned(), json!(signal))]));
    }

    /// The event comes when the engine has tidied up, tens of milliseconds after the process's end; the container's
    /// state says when that was.
    async fn take_end(&self, container: &Arc<Container>, told: Moment, attributes: &HashMap<String, String>) {
        let state = self.engine.state_of(&container.id).await.unwrap_or_default();
        let runs_again = state.running.unwrap_or(false);
        let finished = self.wall.moment_of(state.finished_at.as_deref()).filter(|at| *at <= told);
        let at = if runs_again { told } else { finished.unwrap_or(told) };
        let code = attributes.get("exitCode").and_then(|code| code.parse::<i64>().ok());
        // Told before it is known: who waits for the end goes on to the next phase, and that comes after it.
        self.tell(container, at, LifecycleKind::Exited, Map::from_iter([("code".to_owned(), json!(code))]));
        let mut is_expected = true;
        container.life.send_modify(|life| is_expected = life.take_end(at, code, runs_again).is_expected);
        if !is_expected {
            self.lost.send_replace(Some(Loss::Replica(Arc::clone(container))));
        }
    }

    fn tell(
        &self,
        container: &Container,
        at: Moment,
        kind: LifecycleKind,
        fields: Map<String, serde_json::Value>,
    ) {
        let replica = Arc::clone(&container.replica);
        self.recorder.lifecycle(LifecycleEvent { at, replica, kind, source: Source::Engine, fields });
    }
}
