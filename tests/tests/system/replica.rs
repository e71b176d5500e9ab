//! One container of the server's image or a saboteur's, for the tests that look at it closely; gone when dropped.

use std::time::Duration;

use bollard::query_parameters::{KillContainerOptionsBuilder, StopContainerOptionsBuilder};
use serde_json::Value;
use testcontainers::core::{ExecCommand, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, ImageExt};
use tokio::io::AsyncBufReadExt;

use crate::artifacts::{Image, saboteur_image, server_image};
use crate::lab::{Lab, MARK, PATIENCE};

/// A container under test.
pub(crate) struct Replica<'a> {
    lab: &'a Lab,
    container: ContainerAsync<GenericImage>,
}

impl<'a> Replica<'a> {
    /// A server with this preset, ready.
    pub(crate) async fn ready(lab: &'a Lab, preset: &str, name: &str) -> Self {
        Self::ready_with(lab, preset, name, &[]).await
    }

    /// A server with this preset and further variables, ready.
    pub(crate) async fn ready_with(lab: &'a Lab, preset: &str, name: &str, env: &[(&str, &str)]) -> Self {
        let ready = WaitFor::message_on_stdout(r#""event":"ready""#);
        Self::start(lab, ready, server(lab, preset, name, env).await).await
    }

    /// A server that is not expected to get ready: it has ended when this returns.
    pub(crate) async fn ended(lab: &'a Lab, preset: &str, name: &str, env: &[(&str, &str)]) -> Self {
        let exited = WaitFor::exit(testcontainers::core::wait::ExitWaitStrategy::new());
        Self::start(lab, exited, server(lab, preset, name, env).await).await
    }

    /// The same as another user, which a container decides for itself.
    pub(crate) async fn ended_as(lab: &'a Lab, user: &str, preset: &str, name: &str) -> Self {
        let exited = WaitFor::exit(testcontainers::core::wait::ExitWaitStrategy::new());
        Self::start(lab, exited, server(lab, preset, name, &[]).await.with_user(user)).await
    }

    /// A saboteur that said that it did this.
    pub(crate) async fn saboteur(lab: &'a Lab, sabotage: &str, deed: &str) -> Self {
        let request = base(lab, saboteur_image().await)
            .with_env_var("SABOTEUR", sabotage)
            .with_env_var("SABOTEUR_LISTEN", format!("127.0.0.1:{}", lab.port));
        Self::start(lab, WaitFor::message_on_stdout(format!(r#""saboteur":"{deed}""#)), request).await
    }

    async fn start(lab: &'a Lab, wait: WaitFor, request: ContainerRequest<GenericImage>) -> Self {
        let request = request.with_ready_conditions(vec![wait]).with_startup_timeout(PATIENCE);
        Self { lab, container: request.start().await.unwrap() }
    }

    /// The engine's id of the container.
    pub(crate) fn id(&self) -> &str {
        self.container.id()
    }

    /// Sends a signal to the process, which is PID 1 in its container.
    pub(crate) async fn signal(&self, signal: &str) {
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        self.lab.docker.kill_container(self.id(), Some(options)).await.unwrap();
    }

    /// `docker stop`: returns when the container has stopped, by itself or killed after `timeout`.
    pub(crate) async fn stop(&self, timeout: Duration) {
        let seconds = i32::try_from(timeout.as_secs()).unwrap();
        let options = StopContainerOptionsBuilder::new().t(seconds).build();
        self.lab.docker.stop_container(self.id(), Some(options)).await.unwrap();
    }

    /// Waits until the process has ended, and returns its exit code.
    pub(crate) async fn exit_code(&self) -> i64 {
        let wait = async {
            loop {
                if let Some(code) = self.container.exit_code().await.unwrap() {
                    return code;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("it did not end in {PATIENCE:?}"))
    }

    /// Whether the container runs.
    pub(crate) async fn is_running(&self) -> bool {
        self.container.is_running().await.unwrap()
    }

    /// Runs a command in the container and returns its exit code.
    pub(crate) async fn exec(&self, command: &[&str]) -> i64 {
        let mut result = self.container.exec(ExecCommand::new(command.iter().copied())).await.unwrap();
        // Reading to the end is waiting for the end.
        result.stdout_to_vec().await.unwrap();
        result.exit_code().await.unwrap().unwrap()
    }

    /// Waits until the engine's own health check says so.
    pub(crate) async fn wait_until_health_is(&self, expected: &str) {
        self.lab.wait_until_health_is(self.id(), expected).await;
    }

    /// Waits for a line of the log with this event.
    pub(crate) async fn wait_for_event(&self, event: &str) {
        let mut lines = self.container.stdout(true).lines();
        let wait = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if serde_json::from_str::<Value>(&line).is_ok_and(|line| line["event"] == event) {
                    return;
                }
            }
            panic!("the log ended without `{event}`");
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "no `{event}` in the log in {PATIENCE:?}");
    }

    /// The whole log; every line has to be JSON.
    pub(crate) async fn log(&self) -> Vec<Value> {
        let text = String::from_utf8(self.container.stdout_to_vec().await.unwrap()).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")))
            .collect()
    }

    /// What it wrote on stderr.
    pub(crate) async fn stderr(&self) -> String {
        String::from_utf8(self.container.stderr_to_vec().await.unwrap()).unwrap()
    }
}

/// A container of the server's image, with all that compose.yaml takes away from it taken away.
async fn server(lab: &Lab, preset: &str, name: &str, env: &[(&str, &str)]) -> ContainerRequest<GenericImage> {
    let request = base(lab, server_image().await)
        .with_env_var("HITLESS_PRESET", preset)
        // Admin sockets are named after the replica, in one namespace for the whole host.
        .with_env_var("HITLESS_NAME", format!("{name}-{}", lab.mark()))
        .with_env_var("HITLESS_LISTEN", format!("127.0.0.1:{}", lab.port))
        .with_readonly_rootfs(true)
        .with_cap_drop("ALL")
        .with_security_opt("no-new-privileges");
    env.iter().fold(request, |request, &(name, value)| request.with_env_var(name, value))
}

fn base(lab: &Lab, image: Image) -> ContainerRequest<GenericImage> {
    GenericImage::new(image.name, image.tag).with_network("host").with_env_var(MARK, lab.mark())
}
