//! What replicas are started from, which says where they live as well.

use std::fmt;

use super::settings::words;
use super::{SERVER_IMAGE, ScenarioError};
use crate::options::Options;

/// What a replica is started from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaunchSource {
    /// An image, as for `docker run`: the replica is a container.
    Image(String),
    /// A program: the replica is a process of this machine.
    Program(Program),
}

/// What a process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// Our server's binary, wherever it is found.
    OurServer,
    /// A program and its arguments; the first one is the program.
    Command(Vec<String>),
}

impl LaunchSource {
    /// What containers are started from if nothing is said: our server's image.
    pub(super) fn our_image() -> Self {
        Self::Image(SERVER_IMAGE.to_owned())
    }

    /// What the options say that processes are started from, if anything.
    pub(super) fn program_of(options: &Options) -> Result<Option<Self>, ScenarioError> {
        if let Some(image) = &options.image {
            let remedy = "a process has no image; name a program with --command";
            return Err(ScenarioError::new("--image", image, remedy));
        }
        let command = options.command.as_deref().map(|text| words("--command", text)).transpose()?;
        Ok(command.map(|words| Self::Program(Program::Command(words))))
    }

    /// Something of the same kind, as the text says it: another image, or another program.
    pub(super) fn another(&self, field: &'static str, text: &str) -> Result<Self, ScenarioError> {
        Ok(match self {
            Self::Image(_) => Self::Image(text.to_owned()),
            Self::Program(_) => Self::Program(Program::Command(words(field, text)?)),
        })
    }

    /// The image, if it is one.
    #[must_use]
    pub fn image(&self) -> Option<&str> {
        match self {
            Self::Image(image) => Some(image),
            Self::Program(_) => None,
        }
    }

    /// The program, if it is one.
    #[must_use]
    pub const fn program(&self) -> Option<&Program> {
        match self {
            Self::Program(program) => Some(program),
            Self::Image(_) => None,
        }
    }
}

/// The program without its arguments, which may hold secrets.
impl fmt::Display for Program {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OurServer => out.write_str("hitless-server"),
            Self::Command(words) => out.write_str(words.first().map_or("", String::as_str)),
        }
    }
}
