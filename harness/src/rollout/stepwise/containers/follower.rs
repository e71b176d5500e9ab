//! Turns the engine's events into what is known of the containers' lives, and into lifecycle events.
//!
//! A stream of events that breaks off is taken up again where it ended: the engine keeps its last events.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::host::engine::{Engine, reason};
use crate::model::clock::{Moment, WallOffset};
use crate::rollout::stepwise::tracked_replica::{Loss, Losses, TrackedReplica, locked};
use bollard::models::EventMessage;
use futures_util::StreamExt;

/// A stream that breaks off is taken up again after so long,
pub(super) const PAUSE: Duration = Duration::from_millis(250);
/// and given up when it has broken off so often in a row, each time at once.
const MOST_BREAKS: u32 = 20;
/// A stream that lasted so long did not break off at once.
const LASTED: Duration = Duration::from_secs(5);

/// One replica's container.
#[derive(Debug, Clone)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) replica: Arc<TrackedReplica>,
}

/// The containers that are followed; shared with the launcher.
pub(super) type Followed = Arc<Mutex<Vec<Container>>>;

/// Follows the engine's events until it is dropped.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) engine: Engine,
    pub(super) followed: Followed,
    pub(super) wall: WallOffset,
    pub(super) losses: Losses,
    /// How long it waits before it takes up a stream that broke off.
    pub(super) pause: Duration,
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
                self.losses.tell(Loss::Sight { operation: "follow the engine's events", reason: why });
                return;
            }
            tokio::time::sleep(self.pause).await;
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
            Some("kill") => {
                let signal = attributes.get("signal").map(String::as_str).unwrap_or_default();
                container.replica.take_signal(at, signal);
            }
            Some("die") => self.take_end(&container, at, &attributes).await,
            _ => {}
        }
    }

    /// The event comes when the engine has tidied up, tens of milliseconds after the process's end; the container's
    /// state says when that was.
    async fn take_end(&self, container: &Container, told: Moment, attributes: &HashMap<String, String>) {
        let state = self.engine.state_of(&container.id).await.unwrap_or_default();
        let runs_again = state.running.unwrap_or(false);
        let finished = self.wall.moment_of(state.finished_at.as_deref()).filter(|at| *at <= told);
        let at = if runs_again { told } else { finished.unwrap_or(told) };
        let code = attributes.get("exitCode").and_then(|code| code.parse::<i64>().ok());
        container.replica.take_end(at, code, runs_again);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::sync::watch;
    use tokio_util::task::AbortOnDropHandle;

    use super::*;
    use crate::host::engine::Address;
    use crate::model::sink::Nowhere;
    use crate::rollout::replica::Replica;
    use crate::rollout::stepwise::tracked_replica::Provenance;

    const WALL: WallOffset = WallOffset::with(Moment::from_nanoseconds(0), 1_000_000_000_000);

    /// What an engine's stream of events does, connection by connection.
    #[derive(Clone, Copy)]
    enum Stream {
        /// It ends after these events.
        Breaks(&'static [&'static str]),
        /// It stays open after these events.
        Holds(&'static [&'static str]),
    }

    /// An engine that knows one container, `c1`, which ended at 2001-09-09T01:46:45Z, and tells what it is given to tell.
    /// The last stream is repeated.
    struct Stub {
        engine: Engine,
        asked_since: watch::Receiver<Vec<String>>,
        _directory: TempDir,
        _serving: AbortOnDropHandle<()>,
    }

    impl Stub {
        async fn telling(streams: &'static [Stream]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("engine.sock");
            let (asked, asked_since) = watch::channel(Vec::new());
            let serving = serve(UnixListener::bind(&path).unwrap(), streams, asked);
            let serving = AbortOnDropHandle::new(tokio::spawn(serving));
            Self { engine: engine_at(&path).await, asked_since, _directory: directory, _serving: serving }
        }

        /// Follows its events, with a container that runs.
        fn followed(&self) -> (Arc<TrackedReplica>, Losses, AbortOnDropHandle<()>) {
            let losses = Losses::default();
            let (sink, found) = (Arc::new(Nowhere), Provenance::Found);
            let replica = Arc::new(TrackedReplica::new(Replica::named("a"), found, sink, losses.clone()));
            let container = Container { id: "c1".into(), replica: Arc::clone(&replica) };
            let follower = Follower {
                engine: self.engine.clone(),
                followed: Arc::new(Mutex::new(vec![container])),
                wall: WALL,
                losses: losses.clone(),
                pause: Duration::from_millis(1),
            };
            (replica, losses, AbortOnDropHandle::new(tokio::spawn(follower.run(1_000_000_000_000_000_000))))
        }
    }

    async fn engine_at(path: &Path) -> Engine {
        let host = format!("unix://{}", path.display());
        Engine::at(Address { host, because: "the test says so".into() }).await.unwrap()
    }

    async fn serve(listener: UnixListener, streams: &'static [Stream], asked: watch::Sender<Vec<String>>) {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(answer(stream, streams, asked.clone()));
        }
    }

    /// Answers one request, whose head arrives at once, and closes the connection.
    async fn answer(
        mut stream: UnixStream,
        streams: &'static [Stream],
        asked: watch::Sender<Vec<String>>,
    ) -> std::io::Result<()> {
        let mut head = vec![0; 4096];
        let length = stream.read(&mut head).await?;
        let head = String::from_utf8_lossy(&head[..length]).into_owned();
        let target = head.split(' ').nth(1).unwrap_or_default();
        let mut json = String::new();
        let mut is_held = false;
        if target.contains("/events") {
            let since =
                target.split(['?', '&']).find_map(|pair| pair.strip_prefix("since=")).unwrap_or_default();
            let mut nth = 0;
            asked.send_modify(|asked| {
                nth = asked.len();
                asked.push(since.to_owned());
            });
            let events = match streams[nth.min(streams.len() - 1)] {
                Stream::Breaks(events) => events,
                Stream::Holds(events) => {
                    is_held = true;
                    events
                }
            };
            json = events.concat();
        } else if target.contains("/containers/") {
            json = r#"{"Id":"c1","State":{"Running":false,"FinishedAt":"2001-09-09T01:46:45Z"}}"#.to_owned();
        } else if target.contains("/version") {
            json = r#"{"ApiVersion":"1.41","MinAPIVersion":"1.12"}"#.to_owned();
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n";
        stream.write_all(format!("{head}{json}").as_bytes()).await?;
        if is_held {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    /// At 5.1 s after 2001-09-09T01:46:40Z, the stubs' zero.
    const DIE: &str = concat!(
        r#"{"Action":"die","Actor":{"ID":"c1","Attributes":{"exitCode":"7"}},"timeNano":1000000005100000000}"#,
        "\n"
    );
    const KILL: &str = concat!(
        r#"{"Action":"kill","Actor":{"ID":"c1","Attributes":{"signal":"9"}},"timeNano":1000000005000000000}"#,
        "\n"
    );

    #[tokio::test]
    async fn end_is_the_process_own_and_not_the_engines_word_of_it() {
        let stub = Stub::telling(&[Stream::Holds(&[KILL, DIE])]).await;
        let (replica, _losses, _following) = stub.followed();
        replica.ask_to_end();
        let end = tokio::time::timeout(Duration::from_secs(30), replica.end_of(1)).await.unwrap();
        assert_eq!((end.at, end.code), (Moment::from_nanoseconds(5_000_000_000), Some(7)));
        assert!(replica.life.borrow().was_killed);
    }

    #[tokio::test]
    async fn stream_that_breaks_off_is_taken_up_where_it_ended() {
        let stub =
            Stub::telling(&[Stream::Breaks(&[KILL]), Stream::Breaks(&[]), Stream::Holds(&[DIE])]).await;
        let (replica, losses, _following) = stub.followed();
        let loss = tokio::time::timeout(Duration::from_secs(30), losses.first()).await.unwrap();
        assert!(matches!(loss, Loss::Replica(_)), "nobody asked for this end");
        assert!(replica.life.borrow().has_died());
        let since = ["1000000000.000000000", "1000000005.000000001", "1000000005.000000001"];
        assert_eq!(*stub.asked_since.borrow(), since);
    }

    #[tokio::test]
    async fn stream_that_always_breaks_off_is_given_up() {
        let stub = Stub::telling(&[Stream::Breaks(&[])]).await;
        let (_replica, losses, _following) = stub.followed();
        let loss = tokio::time::timeout(Duration::from_secs(30), losses.first()).await.unwrap();
        assert!(matches!(loss, Loss::Sight { .. }));
        assert_eq!(stub.asked_since.borrow().len(), MOST_BREAKS as usize);
    }
}
