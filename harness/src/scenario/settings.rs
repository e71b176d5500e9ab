//! How the replicas differ from what their image, or their program, says itself.

use super::{ScenarioError, Subject};
use crate::model::signals;
use crate::options::{Options, redacted_pair};

/// What is said beyond the image or the program; what is left out, these say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplicaSettings {
    /// Environment, beyond what the preset sets; the last one of a name wins.
    pub env: Vec<(String, String)>,
    /// The arguments after the image's entrypoint, as in `docker run IMAGE ARG...`; the image's own if empty. Those of a
    /// program stand with it.
    pub arguments: Vec<String>,
    /// What is sent to stop it, for example `SIGQUIT`. Of a process, one that has a name in signal(7), or its number.
    pub stop_signal: Option<String>,
}

impl ReplicaSettings {
    pub(super) fn from_options(options: &Options, subject: &Subject) -> Result<Self, ScenarioError> {
        let is_process = subject.is_process();
        let arguments = options.command.as_deref().filter(|_| !is_process);
        let stop_signal = options.stop_signal.as_deref().map(stop_signal).transpose()?;
        if let Some(text) = stop_signal.as_deref().filter(|text| is_process && signals::named(text).is_none())
        {
            let remedy = "a process is sent no signal of that name; write one like SIGTERM or SIGQUIT";
            return Err(ScenarioError::new("--stop-signal", text, remedy));
        }
        Ok(Self {
            env: environment(&options.env)?,
            arguments: arguments.map(|text| words("--command", text)).transpose()?.unwrap_or_default(),
            stop_signal,
        })
    }
}

/// Splits a command as a shell does it.
pub(super) fn words(field: &'static str, text: &str) -> Result<Vec<String>, ScenarioError> {
    match shlex::split(text) {
        Some(words) if words.is_empty() => {
            Err(ScenarioError::new(field, text, "name at least one word, or leave it out"))
        }
        Some(words) => Ok(words),
        None => Err(ScenarioError::new(field, text, "a quote is open; quote as in a shell")),
    }
}

/// The names of signal(7), or a number. An engine knows which of them exist and refuses the others when the container
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
            None if !pair.is_empty() => std::env::var(pair)
                .map(|value| (pair.clone(), value))
                .map_err(|error| ScenarioError::new("--env", pair, format!("{error}; write KEY=VALUE"))),
            _ => Err(ScenarioError::new("--env", redacted_pair(pair), "write KEY=VALUE")),
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
        let subject = Subject::from_options(&options).unwrap();
        let settings = ReplicaSettings::from_options(&options, &subject).unwrap();
        assert_eq!(settings.arguments, ["serve", "--title", "two words", "$HOME"]);
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

    #[test]
    fn process_is_sent_only_what_can_be_sent_to_it() {
        let asked = |runtime: &str, signal: &str| {
            let (runtime, stop_signal) = (Some(runtime.to_owned()), Some(signal.to_owned()));
            let options = Options { runtime, stop_signal, ..Options::default() };
            let subject = Subject::from_options(&options)?;
            ReplicaSettings::from_options(&options, &subject).map(|settings| settings.stop_signal)
        };
        assert_eq!(asked("process", "SIGQUIT"), Ok(Some("SIGQUIT".to_owned())));
        assert_eq!(asked("process", "3"), Ok(Some("3".to_owned())));
        let error = asked("process", "SIGRTMIN+3").unwrap_err().to_string();
        assert!(error.starts_with("--stop-signal: `SIGRTMIN+3`: a process is sent no"), "{error}");
        assert!(asked("docker", "SIGRTMIN+3").is_ok(), "an engine knows it");
    }
}
