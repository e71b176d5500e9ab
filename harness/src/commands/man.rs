//! `hitless man`: the manual pages.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory};

use super::{Cli, CommandError};
use crate::console;

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Where the pages go: `hitless.1`, `hitless-run.1` and so on.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub(super) fn execute(args: &ManArgs) -> Result<u8, CommandError> {
    match &args.output {
        None => console::print_bytes(&manual()?)?,
        Some(directory) => write_manual(directory)
            .map_err(|error| CommandError::Manual(directory.display().to_string(), error))?,
    }
    Ok(0)
}

/// The program's manual page.
fn manual() -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    Ok(page)
}

/// Writes the program's manual page and one for each of its commands.
fn write_manual(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), directory)
}

#[cfg(test)]
mod tests {
    use super::super::tests::names;
    use super::*;

    #[test]
    fn every_command_has_a_manual_page_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        write_manual(directory.path()).unwrap();
        let page = |name: &str| std::fs::read_to_string(directory.path().join(format!("{name}.1"))).unwrap();
        assert!(names().len() > 5);
        let names = names().into_iter().map(|command| format!("hitless-{command}"));
        for name in names.chain(["hitless".to_owned()]) {
            let titles: Vec<String> =
                page(&name).lines().filter(|line| line.starts_with(".TH")).map(ToOwned::to_owned).collect();
            assert_eq!(titles.len(), 1, "{name}: {titles:?}");
            assert!(titles[0].starts_with(&format!(".TH {name} 1")), "{titles:?}");
        }
        assert_eq!(String::from_utf8(manual().unwrap()).unwrap().matches("\n.TH").count(), 1);
        for flag in [r"\-\-budget", r"\-\-until\-failure", r"\-\-report\-dir"] {
            assert!(page("hitless-run").contains(flag), "{flag}");
        }
    }
}
