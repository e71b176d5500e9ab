//! `hitless completions`: the completions for a shell.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, CommandError};
use crate::console;

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// Which shell.
    shell: Shell,
}

pub(super) fn execute(args: &CompletionsArgs) -> Result<u8, CommandError> {
    console::print_bytes(&completions(args.shell))?;
    Ok(0)
}

fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hitless", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::super::tests::names;
    use super::*;

    #[test]
    fn completions_know_the_values_of_flags_that_have_few() {
        let script = String::from_utf8(completions(Shell::Bash)).unwrap();
        for value in ["reuseport", "compose", "stop-first"] {
            assert!(script.contains(value), "{value}");
        }
    }

    #[test]
    fn completions_know_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(completions(shell)).unwrap();
            let words: Vec<&str> =
                script.split(|sign: char| !sign.is_ascii_alphanumeric() && sign != '-').collect();
            for command in names() {
                assert!(words.contains(&command.as_str()), "{shell}: {command}");
            }
        }
    }
}
