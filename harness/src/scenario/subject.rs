//! What is restarted, and whose server it is.

use std::path::{Path, PathBuf};

use super::{LaunchSource, Preset, Program, ScenarioError};
use crate::options::Options;

/// The name of the image that `hitless image` builds and the presets run.
pub const SERVER_IMAGE: &str = "hitless-server:latest";

const MAX_REPLICAS: usize = 16;

/// The names of a Compose file, in the order in which Compose looks for them.
const COMPOSE_FILES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];

/// The Compose file of the working directory, or else of the nearest parent that has one, as Compose finds it.
fn compose_file() -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    let found = compose_file_above(&here);
    found.unwrap_or_else(|| PathBuf::from(COMPOSE_FILES[0]))
}

fn compose_file_above(directory: &Path) -> Option<PathBuf> {
    let in_each = |directory: &Path| COMPOSE_FILES.map(|name| directory.join(name));
    directory.ancestors().flat_map(in_each).find(|file| file.is_file())
}

/// Whose server answers: what an answer has to be, and which path is slow, is known of ours alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    /// Our own.
    Testbed,
    /// Anybody's.
    Custom,
}

/// What is restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Our server, under one of its presets.
    Testbed {
        /// How it stops.
        preset: Preset,
        /// What it is started from.
        source: LaunchSource,
    },
    /// Somebody's own server.
    Custom {
        /// What it is started from.
        source: LaunchSource,
    },
    /// The running services of a Compose project.
    Compose {
        /// The Compose file that they were started from.
        file: PathBuf,
        /// Which services; those that the target's port leads to if empty.
        services: Vec<String>,
    },
}

impl Subject {
    pub(super) fn from_options(options: &Options) -> Result<Self, ScenarioError> {
        let preset = options.preset.as_deref().map(Preset::from_option).transpose()?;
        match options.runtime.as_deref().unwrap_or("docker") {
            "docker" => {
                refuse_project(options)?;
                let said = options.image.clone().map(LaunchSource::Image);
                Ok(Self::started_from(preset, said, LaunchSource::our_image))
            }
            "process" => {
                refuse_project(options)?;
                let said = LaunchSource::program_of(options)?;
                Ok(Self::started_from(preset, said, || LaunchSource::Program(Program::OurServer)))
            }
            "compose" => {
                let unfit = "a running Compose project says this itself; leave it out";
                if let Some(preset) = preset {
                    return Err(ScenarioError::new("--preset", preset, unfit));
                }
                if let Some(image) = &options.image {
                    return Err(ScenarioError::new("--image", image, unfit));
                }
                if let Some(replicas) = options.replicas {
                    return Err(ScenarioError::new("--replicas", replicas, unfit));
                }
                if let Some(pair) = options.env.first() {
                    return Err(ScenarioError::new("--env", pair, unfit));
                }
                if let Some(command) = &options.command {
                    return Err(ScenarioError::new("--command", command, unfit));
                }
                if let Some(signal) = &options.stop_signal {
                    return Err(ScenarioError::new("--stop-signal", signal, unfit));
                }
                Ok(Self::Compose {
                    file: options.compose.clone().unwrap_or_else(compose_file),
                    services: options.service.clone(),
                })
            }
            "swarm" => Err(ScenarioError::new(
                "--runtime",
                "swarm",
                "this version rolls no services of a swarm; it knows docker, compose and process",
            )),
            other => {
                Err(ScenarioError::new("--runtime", other, "this version knows docker, compose and process"))
            }
        }
    }

    /// With a preset it is our server, whatever it is started from; without one only if nothing is said of that either.
    fn started_from(preset: Option<Preset>, said: Option<LaunchSource>, ours: fn() -> LaunchSource) -> Self {
        match (preset, said) {
            (None, Some(source)) => Self::Custom { source },
            (preset, said) => Self::Testbed {
                preset: preset.unwrap_or(Preset::Handover),
                source: said.unwrap_or_else(ours),
            },
        }
    }

    /// What the replicas are started from, if the run starts them: those of a Compose project run already.
    pub(crate) const fn source(&self) -> Option<&LaunchSource> {
        match self {
            Self::Testbed { source, .. } | Self::Custom { source } => Some(source),
            Self::Compose { .. } => None,
        }
    }

    /// Whether the replicas are processes of this machine, with no engine behind them.
    pub(super) const fn is_process(&self) -> bool {
        matches!(self.source(), Some(LaunchSource::Program(_)))
    }

    /// Whose server it is; that of a Compose project is known to those who looked into it.
    pub(super) const fn server(&self, project: ServerKind) -> ServerKind {
        match self {
            Self::Testbed { .. } => ServerKind::Testbed,
            Self::Custom { .. } => ServerKind::Custom,
            Self::Compose { .. } => project,
        }
    }

    /// How many replicas there will be, so many being `asked` for.
    pub(super) fn replicas(&self, asked: Option<usize>) -> Result<usize, ScenarioError> {
        let default = match self {
            Self::Testbed { preset, .. } => preset.replicas(),
            // Most servers cannot share their port. Of a project, what runs decides.
            Self::Custom { .. } | Self::Compose { .. } => 1,
        };
        let replicas = asked.unwrap_or(default);
        if replicas == 0 || replicas > MAX_REPLICAS {
            return Err(ScenarioError::new(
                "--replicas",
                replicas,
                format!("it is from 1 to {MAX_REPLICAS}"),
            ));
        }
        match self {
            Self::Testbed { preset, .. } if replicas > 1 && !preset.is_shared_port() => {
                Err(ScenarioError::new(
                    "--replicas",
                    replicas,
                    format!("preset {preset} holds the port alone; use 1, or another preset"),
                ))
            }
            _ => Ok(replicas),
        }
    }
}

/// What is said of a Compose project goes with one alone.
fn refuse_project(options: &Options) -> Result<(), ScenarioError> {
    let remedy = "it goes with --runtime compose";
    if let Some(file) = &options.compose {
        return Err(ScenarioError::new("--compose", file.display(), remedy));
    }
    match options.service.first() {
        Some(service) => Err(ScenarioError::new("--service", service, remedy)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(change: impl FnOnce(&mut Options)) -> Result<Subject, String> {
        let mut options = Options { runtime: Some("process".into()), ..Options::default() };
        change(&mut options);
        Subject::from_options(&options).map_err(|error| error.to_string())
    }

    #[test]
    fn compose_file_is_the_nearest_one_under_any_of_its_names() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(root.path().join("docker-compose.yml"), "").unwrap();
        assert_eq!(compose_file_above(&deep), Some(root.path().join("docker-compose.yml")));
        for name in ["docker-compose.yaml", "compose.yml", "compose.yaml"] {
            std::fs::write(root.path().join("a").join(name), "").unwrap();
            assert_eq!(compose_file_above(&deep), Some(root.path().join("a").join(name)));
        }
    }

    #[test]
    fn process_runs_our_server_or_anybodys_program() {
        let program = |words: &[&str]| {
            LaunchSource::Program(Program::Command(words.iter().map(ToString::to_string).collect()))
        };
        let ours = LaunchSource::Program(Program::OurServer);
        assert_eq!(
            subject(|_| {}),
            Ok(Subject::Testbed { preset: Preset::Handover, source: ours }),
            "nothing said is our server"
        );
        assert_eq!(
            subject(|options| options.command = Some("./shop --port 80".into())),
            Ok(Subject::Custom { source: program(&["./shop", "--port", "80"]) })
        );
        let other_build = |options: &mut Options| {
            options.preset = Some("reuseport".into());
            options.command = Some("/opt/hitless-server".into());
        };
        assert_eq!(
            subject(other_build),
            Ok(Subject::Testbed { preset: Preset::Reuseport, source: program(&["/opt/hitless-server"]) }),
            "with a preset a program is our server, as an image is"
        );
    }

    #[test]
    fn process_is_refused_what_only_containers_have() {
        let refused = [
            (
                subject(|options| options.image = Some("shop:1".into())),
                "--image: `shop:1`: a process has no image",
            ),
            (
                subject(|options| options.compose = Some("compose.yaml".into())),
                "--compose: `compose.yaml`: it goes with --runtime compose",
            ),
            (
                subject(|options| options.service = vec!["web".into()]),
                "--service: `web`: it goes with --runtime compose",
            ),
        ];
        for (result, beginning) in refused {
            let error = result.unwrap_err();
            assert!(error.starts_with(beginning), "{error}");
        }
    }

    #[test]
    fn swarm_is_refused_with_what_there_is() {
        let error = subject(|options| options.runtime = Some("swarm".into())).unwrap_err();
        assert!(error.starts_with("--runtime: `swarm`: ") && error.contains("process"), "{error}");
    }
}
