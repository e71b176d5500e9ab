//! What every test stands on: an engine, a port of its own, a directory, a bound on its time, and an end that leaves
//! nothing behind, however the test ends.

use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, TcpListener};
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{
    EventsOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder,
};
use futures_util::{FutureExt, StreamExt};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// No test is longer, whatever hangs; with the builds of a fresh checkout and the wait for its turn.
const TEST_LIMIT: Duration = Duration::from_mins(15);
/// No single wait for an event is longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// The name of the variable in the environment of every container that a test started, directly or through `hitless`.
pub(crate) const MARK: &str = "HITLESS_TESTS_LAB";

/// One runtime for all tests: testcontainers keeps one connection pool for the whole process, and a pool's connections
/// die with the runtime that drives them.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// What a test is given.
pub(crate) struct Lab {
    /// The engine.
    pub(crate) docker: Docker,
    /// A port that nobody else uses; replicas listen on it at every address.
    pub(crate) port: u16,
    name: String,
    directory: TempDir,
}

/// Why the tests cannot be run here.
///
/// A test returns it instead of panicking: one line, no backtrace.
pub(crate) struct NoEngine(bollard::errors::Error);

impl fmt::Debug for NoEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "the default socket".into());
        write!(f, "no Docker engine answers at {host}, and this test needs one: {}", self.0)
    }
}

/// What a test comes to, when it does not panic.
pub(crate) type Outcome = Result<(), NoEngine>;

/// Runs a test in a lab of its own.
pub(crate) fn run(test: impl AsyncFnOnce(&Lab)) -> Outcome {
    RUNTIME.block_on(async {
        let lab = Lab::new().await?;
        let ended = AssertUnwindSafe(tokio::time::timeout(TEST_LIMIT, test(&lab))).catch_unwind().await;
        lab.remove_containers().await;
        match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => panic!("the test took longer than {TEST_LIMIT:?}"),
            Err(panic) => resume_unwind(panic),
        }
    })
}

impl Lab {
    async fn new() -> Result<Self, NoEngine> {
        let docker = Docker::connect_with_defaults().map_err(NoEngine)?;
        let docker = docker.negotiate_version().await.map_err(NoEngine)?;
        let port = free_port();
        Ok(Self {
            docker,
            port,
            name: format!("{}-{port}", std::process::id()),
            directory: tempfile::tempdir().unwrap(),
        })
    }

    /// What marks the containers of this test.
    pub(crate) fn mark(&self) -> &str {
        &self.name
    }

    /// Where this test puts its files; gone with it.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The URL that all replicas of this test answer at.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// The ids of all containers of this test, running or not.
    pub(crate) async fn containers(&self) -> Vec<String> {
        let options = ListContainersOptionsBuilder::new().all(true).build();
        let listed = self.docker.list_containers(Some(options)).await.unwrap();
        let mut ours = Vec::new();
        for id in listed.into_iter().filter_map(|container| container.id) {
            if self.is_ours(&id).await {
                ours.push(id);
            }
        }
        ours
    }

    /// Waits for an event (`start`, `die`, ...) of a container of this test, one that is still there.
    ///
    /// Events of the past are seen too: the engine keeps them.
    pub(crate) async fn wait_for_container_event(&self, action: &str) {
        let filters = HashMap::from([("type", vec!["container"]), ("event", vec![action])]);
        let options = EventsOptionsBuilder::new().since("0").filters(&filters).build();
        let mut events = self.docker.events(Some(options));
        let wait = async {
            loop {
                let event = events.next().await.unwrap().unwrap();
                let id = event.actor.and_then(|actor| actor.id).unwrap();
                if self.is_ours(&id).await {
                    return;
                }
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "no event `{action}` of this test's containers in {PATIENCE:?}");
    }

    /// Waits until the engine's own check of a container's health says so.
    pub(crate) async fn wait_until_health_is(&self, id: &str, expected: &str) {
        let wait = async {
            loop {
                let inspected = self.docker.inspect_container(id, None::<InspectContainerOptions>).await;
                let health = inspected.unwrap().state.and_then(|state| state.health);
                let status = health.and_then(|health| health.status);
                if status.is_some_and(|status| status.as_ref() == expected) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "the health of {id} was not `{expected}` in {PATIENCE:?}");
    }

    /// Whether this container carries the mark; one that is gone does not.
    async fn is_ours(&self, id: &str) -> bool {
        let mark = format!("{MARK}={}", self.name);
        let inspected = self.docker.inspect_container(id, None::<InspectContainerOptions>).await;
        let environment = inspected.ok().and_then(|container| container.config).and_then(|config| config.env);
        environment.is_some_and(|variables| variables.contains(&mark))
    }

    async fn remove_containers(&self) {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        for id in self.containers().await {
            // One that is being removed by somebody else is as good as removed.
            let _ = self.docker.remove_container(&id, Some(options.clone())).await;
        }
    }
}

/// A port below the ephemeral ones, which the load takes for itself, that no other test of this process gets.
fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 10_000;
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| {
        let spread = std::process::id() % u32::from(COUNT);
        AtomicU16::new(u16::try_from(spread).unwrap())
    });
    (0..COUNT)
        .map(|_| FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT)
        .find(|&port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok())
        .unwrap()
}
