//! What a command prints, and what it gives to the pipeline that it runs in.

use std::io::{self, Write};

use clap::{Args, ValueEnum};

use crate::analysis::report::Report;
use crate::console;
use crate::progress::Display;
use crate::report::terminal::Style;
use crate::report::{annotations, json, markdown};

/// What is printed; the files of the report are written in any case.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct OutputArgs {
    /// What goes to stdout: text for people, or json, which is report.json and nothing else.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Text, help_heading = "Output")]
    pub(super) format: Format,
    /// Show no progress, and no table at the end: the exit code and the report say it all.
    #[arg(long, short, help_heading = "Output")]
    pub(super) quiet: bool,
}

/// What goes to stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Text,
    /// For scripts.
    Json,
}

impl OutputArgs {
    pub(super) fn display(self) -> Display {
        if self.quiet { Display::Quiet } else { progress() }
    }

    /// Prints a report as it was asked for, and gives it to the pipeline if there is one.
    pub(super) fn tell(self, report: &Report, text: impl FnOnce() -> String) -> io::Result<()> {
        publish(report);
        match self.format {
            Format::Json => console::print(&json::render(report)),
            Format::Text if self.quiet => Ok(()),
            Format::Text => console::print(&text()),
        }
    }
}

pub(super) fn progress() -> Display {
    if console::is_stderr_terminal() { Display::Terminal } else { Display::Lines }
}

/// Colours only on a terminal, and not if the user does not want any (no-color.org).
pub(super) fn style() -> Style {
    let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if console::is_stdout_terminal() && !is_unwanted { Style::Coloured } else { Style::Plain }
}

/// Gives a report to GitHub's runner: the summary to the job's page, the annotations to its log. On stderr, which the
/// runner reads too, so that stdout holds what was asked for.
pub(super) fn publish(report: &Report) {
    if std::env::var_os("GITHUB_ACTIONS").is_some_and(|value| value == "true") {
        console::note(annotations::render(report).trim_end_matches('\n'));
    }
    if let Some(path) = std::env::var_os("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty()) {
        let summary = std::fs::OpenOptions::new().append(true).create(true).open(&path);
        if let Err(error) = summary.and_then(|mut file| writeln!(file, "{}", markdown::render(report))) {
            console::note(&format!("warning: failed to write the summary to {}: {error}", path.display()));
        }
    }
}
