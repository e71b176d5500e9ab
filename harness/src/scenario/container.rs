//! How the replicas' containers differ from what their image says.

use super::{Options, ScenarioError};

/// What is said beyond the image; what is left out, the image says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerSettings {
    /// Environment, beyond what the preset sets; the last one of a name wins.
    pub env: Vec<(String, String)>,
    /// The arguments after the image's entrypoint, as in `docker run IMAGE ARG...`; the image's own if empty.
    pub command: Vec<String>,
    /// What the engine sends to stop it, for example `SIGQUIT`.
    pub stop_signal: Option<String>,
}

impl ContainerSettings {
    pub(super) fn from_options(options: &Options) -> Result<Self, ScenarioError> {
        Ok(Self {
            env: environment(&options.env)?,
            command: options.command.as_deref().map(command).transpose()?.unwrap_or_default(),
            stop_signal: options.stop_signal.as_deref().map(stop_signal).transpose()?,
        })
    }
}

fn command(text: &str) -> Result<Vec<String>, ScenarioError> {
    match shlex::split(text) {
        Some(words) if words.is_empty() => {
            Err(ScenarioError::new("--command", text, "name at least one argument, or leave it out"))
        }
        Some(words) => Ok(words),
        None => Err(ScenarioError::new("--command", text, "a quote is open; quote as in a shell")),
    }
}

/// The names of signal(7), or a number. The engine knows which of them exist and refuses the others when the container
/// is made.
fn stop_signal(text: &str) -> Result<String, ScenarioError> {
    let is_name = text.strip_prefix("SIG").is_some_and(|name| {
        name.starts_with(|first: char| first.is_ascii_uppercase())
            && name
                .chars()
                .all(|char| char.is_ascii_uppercase() || char.is_ascii_digit() || "+-".contains(char))
    });
    let is_number = text.parse::<u8>().is_ok_and(|number| (1..=64).contains(&number));
    if is_name || is_number {
        Ok(text.to_owned())
    } else {
        Err(ScenarioError::new("--stop-signal", text, "write a name like SIGTERM, or a number from 1 to 64"))
    }
}

fn environment(pairs: &[String]) -> Result<Vec<(String, String)>, ScenarioError> {
    pairs
        .iter()
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(ScenarioError::new("--env", pair, "write KEY=VALUE")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_is_split_as_a_shell_does_it() {
        let options =
            Options { command: Some("serve --title 'two words' \\$HOME".into()), ..Options::default() };
        let settings = ContainerSettings::from_options(&options).unwrap();
        assert_eq!(settings.command, ["serve", "--title", "two words", "$HOME"]);
    }

    #[test]
    fn signals_are_named_or_numbered() {
        for good in ["SIGTERM", "SIGRTMIN+3", "3", "64"] {
            assert_eq!(stop_signal(good).as_deref(), Ok(good));
        }
        for bad in ["", "SIG", "sigterm", "TERM", "0", "65", "SIG TERM"] {
            assert!(stop_signal(bad).is_err(), "{bad}");
        }
    }
}
