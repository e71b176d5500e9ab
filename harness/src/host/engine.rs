//! The connection to the container engine, and the calls that concern no single replica: versions, images, labels.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use bollard::models::{ContainerState, EventMessage};
use bollard::query_parameters::{
    BuildImageOptionsBuilder, BuilderVersion, EventsOptionsBuilder, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder, RemoveImageOptions,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::{Stream, StreamExt};

use crate::model::error_chain::chain;
use crate::model::sha256::Sha256;

/// The label that every container of a run carries; its value is the run's id.
pub const RUN_LABEL: &str = "dev.hitless.run";
/// The label that says which process owns the container, so that `hitless clean` leaves a living run alone.
pub const OWNER_LABEL: &str = "dev.hitless.owner";
/// The label of an image that says from which source it was built.
pub const SOURCE_LABEL: &str = "dev.hitless.source";

/// The label that says what an image is, and what our server's says (docker/Dockerfile).
pub(crate) const TITLE_LABEL: &str = "org.opencontainers.image.title";
pub(crate) const SERVER_TITLE: &str = "hitless-server";

/// A hung engine is given up after this long.
const CALL_TIMEOUT_S: u64 = 60;
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// The stop timeout of a container that says nothing of it (`StopTimeout` in the engine's API).
const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// The container engine cannot be reached, or refused something. The text is for people and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The container engine cannot be reached.
    #[error("{0}")]
    NoEngine(String),
    /// The engine refused an operation.
    #[error("failed to {operation}: {reason}")]
    Failed {
        /// What was tried.
        operation: String,
        /// What the engine said.
        reason: String,
    },
}

/// A container engine that answered.
#[derive(Debug, Clone)]
pub struct Engine {
    docker: Docker,
    address: Address,
}

/// Where an engine is looked for, and why there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `unix:///var/run/docker.sock`, `tcp://…`.
    pub host: String,
    /// Who said so.
    pub because: String,
}

/// What the engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineVersion {
    /// For example `Docker 20.10.24`.
    pub name: String,
    /// The API's newest version, for example `1.41`.
    pub api: String,
}

/// A container that carries a run's label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The run that made it.
    pub run: String,
    /// The process that owns it.
    pub owner: String,
}

impl Address {
    /// Finds out where the engine should be, as the docker command does: `DOCKER_HOST`, the current context, the
    /// system's socket, a rootless one.
    ///
    /// # Errors
    /// `DOCKER_HOST` or the context names something that cannot be used.
    pub fn find() -> Result<Self, EngineError> {
        if let Some(host) = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty()) {
            return Self { host, because: "DOCKER_HOST says so".into() }.checked();
        }
        if let Some(address) = Self::of_context() {
            return address.checked();
        }
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let rootless = std::env::var_os("XDG_RUNTIME_DIR").map(|dir| PathBuf::from(dir).join("docker.sock"));
        let candidates = [
            (Some(PathBuf::from("/var/run/docker.sock")), "the system's socket"),
            (rootless, "a rootless engine's socket"),
            (home.map(|home| home.join(".docker/run/docker.sock")), "Docker Desktop's socket"),
        ];
        let found = candidates.iter().find_map(|(path, what)| {
            let path = path.as_ref().filter(|path| path.exists())?;
            Some(Self { host: format!("unix://{}", path.display()), because: (*what).to_owned() })
        });
        Ok(found.unwrap_or_else(|| Self {
            host: "unix:///var/run/docker.sock".into(),
            because: "the default; no other socket was found".into(),
        }))
    }

    /// The current context of the docker command: `DOCKER_CONTEXT`, or `currentContext` of its configuration. A
    /// context's data lies under the SHA-256 of its name.
    fn of_context() -> Option<Self> {
        let config = std::env::var_os("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker")))?;
        let read = |path: PathBuf| -> Option<serde_json::Value> {
            serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
        };
        let name = std::env::var("DOCKER_CONTEXT").ok().filter(|name| !name.is_empty()).or_else(|| {
            Some(read(config.join("config.json"))?.get("currentContext")?.as_str()?.to_owned())
        })?;
        if name == "default" {
            return None;
        }
        let digest = Sha256::of(name.as_bytes());
        let meta = read(config.join("contexts/meta").join(digest).join("meta.json"))?;
        let host = meta.pointer("/Endpoints/docker/Host")?.as_str()?.to_owned();
        Some(Self { host, because: format!("the Docker context `{name}` says so") })
    }

    fn checked(self) -> Result<Self, EngineError> {
        let is_known = ["unix://", "tcp://", "http://"].iter().any(|scheme| self.host.starts_with(scheme));
        if is_known {
            return Ok(self);
        }
        Err(EngineError::NoEngine(format!(
            "{} cannot be used ({}): host networking needs an engine on this machine; write unix:///PATH or tcp://127.0.0.1:PORT",
            self.host, self.because
        )))
    }
}

impl Engine {
    /// Connects, asks for a sign of life and agrees on the API's version.
    ///
    /// # Errors
    /// [`EngineError::NoEngine`] if nothing answers; the text says where it was looked for and what to do.
    pub async fn connect() -> Result<Self, EngineError> {
        Self::at(Address::find()?).await
    }

    /// Connects to the engine at this address.
    ///
    /// # Errors
    /// [`EngineError::NoEngine`] if nothing answers there.
    pub async fn at(address: Address) -> Result<Self, EngineError> {
        let no_engine = |reason: String| {
            EngineError::NoEngine(format!(
                "no container engine answers at {} ({}): {reason}; start Docker or set DOCKER_HOST",
                address.host, address.because
            ))
        };
        let connected = match address.host.strip_prefix("unix://") {
            Some(path) => Docker::connect_with_unix(path, CALL_TIMEOUT_S, API_DEFAULT_VERSION),
            None => Docker::connect_with_http(&address.host, CALL_TIMEOUT_S, API_DEFAULT_VERSION),
        };
        let docker = connected.map_err(|error| no_engine(chain(&error)))?;
        match tokio::time::timeout(PING_TIMEOUT, docker.negotiate_version()).await {
            Ok(Ok(docker)) => Ok(Self { docker, address }),
            Ok(Err(error)) => Err(no_engine(chain(&error))),
            Err(_) => Err(no_engine(format!("no answer within {} s", PING_TIMEOUT.as_secs()))),
        }
    }

    /// Where it is.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// The bollard client, whose calls may take up to `timeout`.
    pub(crate) fn client(&self, timeout: Duration) -> Docker {
        self.docker.clone().with_timeout(timeout.max(Duration::from_secs(CALL_TIMEOUT_S)))
    }

    /// Name and versions.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn version(&self) -> Result<EngineVersion, EngineError> {
        let version =
            self.docker.version().await.map_err(|error| failed("ask the engine for its version", &error))?;
        let name = version
            .platform
            .map(|platform| platform.name)
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "Docker".to_owned());
        Ok(EngineVersion {
            name: format!("{name} {}", version.version.unwrap_or_default()).trim().to_owned(),
            api: version.api_version.unwrap_or_default(),
        })
    }

    /// Where its containers' host network is.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn host_network(&self) -> Result<HostNetwork, EngineError> {
        let info = self.docker.info().await.map_err(|error| failed("ask the engine about itself", &error))?;
        let security = info.security_options.unwrap_or_default();
        Ok(HostNetwork::of(&security, &info.operating_system.unwrap_or_default()))
    }

    /// The labels of an image, or none if there is no such image.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn image_labels(&self, image: &str) -> Result<Option<HashMap<String, String>>, EngineError> {
        match self.docker.inspect_image(image).await {
            Ok(found) => Ok(Some(found.config.and_then(|config| config.labels).unwrap_or_default())),
            Err(error) if status_of(&error) == Some(404) => Ok(None),
            Err(error) => Err(failed(&format!("inspect image {image}"), &error)),
        }
    }

    /// The id of an image, or none if there is no such image.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn image_id(&self, image: &str) -> Result<Option<String>, EngineError> {
        match self.docker.inspect_image(image).await {
            Ok(found) => Ok(found.id),
            Err(error) if status_of(&error) == Some(404) => Ok(None),
            Err(error) => Err(failed(&format!("inspect image {image}"), &error)),
        }
    }

    /// Removes an image that nobody uses and nothing names; one that is in use or named stays.
    pub async fn remove_image(&self, id: &str) {
        let _ = self.docker.remove_image(id, None::<RemoveImageOptions>, None).await;
    }

    /// Builds an image from a build context with a `Dockerfile` in it, without pulling anything.
    ///
    /// # Errors
    /// The engine refuses the context or a step fails.
    pub async fn build_image(
        &self,
        tag: &str,
        labels: &HashMap<String, String>,
        context: Vec<u8>,
    ) -> Result<(), EngineError> {
        let options = BuildImageOptionsBuilder::new()
            .dockerfile("Dockerfile")
            .t(tag)
            .rm(true)
            .forcerm(true)
            .labels(labels)
            // BuildKit needs a session; the classic builder of every engine does what a FROM scratch image needs.
            .version(BuilderVersion::BuilderV1)
            .build();
        let mut steps = self.docker.build_image(options, None, Some(bollard::body_full(context.into())));
        while let Some(step) = steps.next().await {
            let step = step.map_err(|error| failed(&format!("build image {tag}"), &error))?;
            if let Some(detail) = step.error_detail {
                let reason = detail.message.unwrap_or_else(|| "a step failed".to_owned());
                return Err(EngineError::Failed { operation: format!("build image {tag}"), reason });
            }
        }
        Ok(())
    }

    /// Every container that carries the run's label, of one run or of all.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn labelled(&self, run: Option<&str>) -> Result<Vec<Labelled>, EngineError> {
        let label = run.map_or_else(|| RUN_LABEL.to_owned(), |run| format!("{RUN_LABEL}={run}"));
        let found = self.list("label", &[label]).await?;
        Ok(found
            .into_iter()
            .map(|container| Labelled {
                id: container.id,
                name: container.name,
                run: container.labels.get(RUN_LABEL).cloned().unwrap_or_default(),
                owner: container.labels.get(OWNER_LABEL).cloned().unwrap_or_default(),
            })
            .collect())
    }

    pub(crate) async fn list(&self, filter: &str, values: &[String]) -> Result<Vec<Listed>, EngineError> {
        let filters = HashMap::from([(filter, values.to_vec())]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let found = self
            .docker
            .list_containers(Some(options))
            .await
            .map_err(|error| failed("list containers", &error))?;
        Ok(found
            .into_iter()
            .filter_map(|container| {
                let id = container.id?;
                let first =
                    container.names.unwrap_or_default().into_iter().next().unwrap_or_else(|| id.clone());
                Some(Listed {
                    name: first.trim_start_matches('/').to_owned(),
                    labels: container.labels.unwrap_or_default(),
                    is_running: container.state == Some(bollard::models::ContainerSummaryStateEnum::RUNNING),
                    image: container.image.unwrap_or_default(),
                    is_on_host_network: container.host_config.and_then(|host| host.network_mode).as_deref()
                        == Some("host"),
                    published: container
                        .ports
                        .unwrap_or_default()
                        .into_iter()
                        .filter_map(|port| port.public_port)
                        .collect(),
                    id,
                })
            })
            .collect())
    }

    /// Removes a container, running or not. One that is gone already is fine.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn remove(&self, id: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match self.docker.remove_container(id, Some(options)).await {
            Ok(()) => Ok(()),
            Err(error) if matches!(status_of(&error), Some(404 | 409)) => Ok(()),
            Err(error) => Err(failed(&format!("remove container {id}"), &error)),
        }
    }

    /// The engine's events of all containers, from `since` (nanoseconds since 1970) on.
    pub(crate) fn events(
        &self,
        since: u64,
    ) -> impl Stream<Item = Result<EventMessage, bollard::errors::Error>> + Send + '_ {
        let filters = HashMap::from([("type", vec!["container".to_owned()])]);
        let since = format!("{}.{:09}", since / 1_000_000_000, since % 1_000_000_000);
        let options = EventsOptionsBuilder::new().since(&since).filters(&filters).build();
        self.docker.events(Some(options))
    }

    /// Where a container's process listens, and which of its ports the host's `port` leads to.
    ///
    /// # Errors
    /// There is no such container, or the engine does not answer.
    pub(crate) async fn network_of(&self, id: &str, port: u16) -> Result<Network, bollard::errors::Error> {
        let container = self.docker.inspect_container(id, None).await?;
        let mode = container.host_config.and_then(|config| config.network_mode);
        let ports = container.network_settings.and_then(|settings| settings.ports).unwrap_or_default();
        let leads_here = |bound: &bollard::models::PortBinding| {
            bound.host_port.as_deref().and_then(|bound| bound.parse().ok()) == Some(port)
        };
        let published = ports.iter().find(|(_, bound)| bound.iter().flatten().any(leads_here));
        Ok(Network {
            is_host: mode.as_deref() == Some("host"),
            process: container.state.and_then(|state| u32::try_from(state.pid?).ok()).unwrap_or(0),
            port: published.and_then(|(name, _)| name.split('/').next()?.parse().ok()),
        })
    }

    /// How long a container may take to stop before the engine kills it, as it says itself.
    ///
    /// # Errors
    /// There is no such container, or the engine does not answer.
    pub(crate) async fn stop_timeout_of(&self, id: &str) -> Result<Duration, bollard::errors::Error> {
        let own =
            self.docker.inspect_container(id, None).await?.config.and_then(|config| config.stop_timeout);
        let seconds = own.and_then(|seconds| u64::try_from(seconds).ok());
        Ok(seconds.map_or(DEFAULT_STOP_TIMEOUT, Duration::from_secs))
    }

    /// The state of a container.
    ///
    /// # Errors
    /// There is no such container, or the engine does not answer.
    pub(crate) async fn state_of(&self, id: &str) -> Result<ContainerState, bollard::errors::Error> {
        Ok(self.docker.inspect_container(id, None).await?.state.unwrap_or_default())
    }
}

/// Where the host network of an engine's containers is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostNetwork {
    /// The network of the engine's machine.
    Machine,
    /// A network namespace of the engine's own: it runs without root.
    Rootless,
    /// A virtual machine: the engine is Docker Desktop's.
    VirtualMachine,
}

impl HostNetwork {
    /// Goes by what the engine's `/info` says (`SecurityOptions`, `OperatingSystem`).
    fn of(security: &[String], system: &str) -> Self {
        if security.iter().any(|option| option.split(',').any(|part| part == "name=rootless")) {
            Self::Rootless
        } else if system.contains("Docker Desktop") {
            Self::VirtualMachine
        } else {
            Self::Machine
        }
    }
}

/// A container's place in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    /// It has the host's network namespace.
    pub(crate) is_host: bool,
    /// Its first process, as this host numbers it; 0 if it does not run.
    pub(crate) process: u32,
    /// Its port that the host's port leads to, if the engine publishes it.
    pub(crate) port: Option<u16>,
}

/// A container as the engine lists it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listed {
    pub(crate) id: String,
    pub(crate) name: String,
    /// Its own, and those of its image.
    pub(crate) labels: HashMap<String, String>,
    pub(crate) is_running: bool,
    /// The image's reference.
    pub(crate) image: String,
    pub(crate) is_on_host_network: bool,
    /// The host's ports that lead to it.
    pub(crate) published: Vec<u16>,
}

/// The HTTP status that the engine answered with.
pub(crate) const fn status_of(error: &bollard::errors::Error) -> Option<u16> {
    match error {
        bollard::errors::Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

pub(crate) fn failed(operation: &str, error: &bollard::errors::Error) -> EngineError {
    EngineError::Failed { operation: operation.to_owned(), reason: reason(error) }
}

/// What the engine said, on one line.
pub(crate) fn reason(error: &bollard::errors::Error) -> String {
    let text = match error {
        bollard::errors::Error::DockerResponseServerError { message, .. } => message.clone(),
        other => chain(other),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_network_is_where_the_engine_says_that_it_runs() {
        let of = |option: &str, system| HostNetwork::of(&[option.to_owned()], system);
        assert_eq!(of("name=seccomp,profile=builtin", "Debian GNU/Linux 13"), HostNetwork::Machine);
        assert_eq!(of("name=rootless", "Debian GNU/Linux 13"), HostNetwork::Rootless);
        assert_eq!(of("name=cgroupns", "Docker Desktop"), HostNetwork::VirtualMachine);
    }
}
