//! Reads a report from disk: a report.json, or the events of a run that was killed before it could write one.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use crate::analysis::assemble::Context;
use crate::analysis::report::Report;
use crate::analysis::summary::Summary;
use crate::analysis::verdict::{Asked, judge};
use crate::record::replay::{Replayed, replay};

/// A report cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StoredReportError {
    /// A file cannot be read.
    #[error("failed to read {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is no report.
    #[error("{} is no report of hitless: {reason}", path.display())]
    NoReport {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Reads a report.json, an events.jsonl, or the directory that holds them. A directory without a report.json is that of a
/// run that was killed: its report is made from its events.
///
/// # Errors
/// Missing or unreadable report.
pub fn read(path: &Path) -> Result<Report, StoredReportError> {
    let path = match path {
        directory if directory.is_dir() => {
            let path = directory.join("report.json");
            if path.exists() { path } else { directory.join("events.jsonl") }
        }
        file => file.to_owned(),
    };
    let file = File::open(&path).map_err(|source| StoredReportError::Read { path: path.clone(), source })?;
    let no_report = |reason: String| StoredReportError::NoReport { path: path.clone(), reason };
    if path.extension().is_some_and(|extension| extension == "jsonl") {
        let replayed = replay(BufReader::new(file)).map_err(|error| no_report(error.to_string()))?;
        Ok(report_of(replayed))
    } else {
        serde_json::from_reader(BufReader::new(file)).map_err(|error| no_report(error.to_string()))
    }
}

/// Judges a replayed run.
#[must_use]
pub fn report_of(replayed: Replayed) -> Report {
    let Replayed { head, recording, wall } = replayed;
    let summary = Summary::of(&recording);
    let asked = Asked { replicas: head.scenario.replicas, rounds: head.scenario.rounds };
    let judgement = judge(&recording, &summary, &head.budgets, asked);
    let context = Context { run: head.run, command: head.command, environment: head.environment, wall };
    Report::assemble(&recording, summary, judgement, head.scenario, context)
}
