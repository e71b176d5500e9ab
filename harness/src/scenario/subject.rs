//! What is restarted, and whose server it is.

use std::path::PathBuf;

use super::{Options, Preset, ScenarioError};

/// The name of the image that `hitless image` builds and the presets run.
pub const SERVER_IMAGE: &str = "hitless-server:latest";

const MAX_REPLICAS: usize = 16;

/// Whose server answers: what an answer has to be, and which path is slow, is known of ours alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// Our own.
    Ours,
    /// Anybody's.
    Anybodys,
}

/// What is restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Our server, under one of its presets.
    Preset {
        /// How it stops.
        preset: Preset,
        /// The image, ours unless said otherwise.
        image: String,
    },
    /// Somebody's own image.
    Image {
        /// Its reference, as for `docker run`.
        image: String,
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
                if let Some(file) = &options.compose {
                    return Err(ScenarioError::new(
                        "--compose",
                        file.display(),
                        "it goes with --runtime compose",
                    ));
                }
                if let Some(service) = options.service.first() {
                    return Err(ScenarioError::new("--service", service, "it goes with --runtime compose"));
                }
                Ok(match (preset, options.image.clone()) {
                    (None, Some(image)) => Self::Image { image },
                    (preset, image) => Self::Preset {
                        preset: preset.unwrap_or(Preset::Handover),
                        image: image.unwrap_or_else(|| SERVER_IMAGE.to_owned()),
                    },
                })
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
                    file: options.compose.clone().unwrap_or_else(|| PathBuf::from("compose.yaml")),
                    services: options.service.clone(),
                })
            }
            other => Err(ScenarioError::new("--runtime", other, "this version knows docker and compose")),
        }
    }

    /// Whose server it is; that of a Compose project is known to those who looked into it.
    pub(super) const fn server(&self, project: Server) -> Server {
        match self {
            Self::Preset { .. } => Server::Ours,
            Self::Image { .. } => Server::Anybodys,
            Self::Compose { .. } => project,
        }
    }

    /// How many replicas there will be, so many being `asked` for.
    pub(super) fn replicas(&self, asked: Option<usize>) -> Result<usize, ScenarioError> {
        let default = match self {
            Self::Preset { preset, .. } => preset.replicas(),
            Self::Image { .. } | Self::Compose { .. } => 2,
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
            Self::Preset { preset, .. } if replicas > 1 && !preset.is_shared_port() => {
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
