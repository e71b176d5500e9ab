//! Reads a report from disk: a report.json, or the events of a run that was killed before it could write one.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use crate::analysis::assemble::Context;
use crate::analysis::report::Report;
use crate::analysis::report::SCHEMA_VERSION;
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
    /// A report of a later version.
    #[error(
        "{}: schema_version is {found}, and this hitless reads up to {SCHEMA_VERSION}; make both reports with one version of \
         hitless",
        path.display()
    )]
    Schema {
        /// Which file.
        path: PathBuf,
        /// What it says.
        found: u32,
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

/// The file that a path leads to: itself, or a directory's report.json, or its events.jsonl, or those of the newest run in a
/// directory of runs.
#[must_use]
pub fn located(path: &Path) -> PathBuf {
    if !path.is_dir() {
        return path.to_owned();
    }
    let of_run = |run: &Path| {
        ["report.json", "events.jsonl"].map(|name| run.join(name)).into_iter().find(|file| file.is_file())
    };
    let runs = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let newest = || {
        runs.filter_map(|run| of_run(&run))
            .max_by_key(|file| file.metadata().and_then(|about| about.modified()).ok())
    };
    of_run(path).or_else(newest).unwrap_or_else(|| path.join("events.jsonl"))
}

/// Reads a report.json, an events.jsonl, or the directory that holds them, or a directory of such directories: the newest run. A directory without a report.json is that of a
/// run that was killed: its report is made from its events.
///
/// # Errors
/// Missing or unreadable report.
pub fn read(path: &Path) -> Result<Report, StoredReportError> {
    let path = located(path);
    let unreadable = |source| StoredReportError::Read { path: path.clone(), source };
    let no_report = |reason: String| StoredReportError::NoReport { path: path.clone(), reason };
    if path.extension().is_some_and(|extension| extension == "jsonl") {
        let file = File::open(&path).map_err(unreadable)?;
        let replayed = replay(BufReader::new(file)).map_err(|error| no_report(error.to_string()))?;
        check_version(&path, replayed.head.schema_version)?;
        Ok(report_of(replayed))
    } else {
        let text = std::fs::read_to_string(&path).map_err(unreadable)?;
        let Versioned { schema_version } =
            serde_json::from_str(&text).map_err(|error| no_report(error.to_string()))?;
        check_version(&path, schema_version)?;
        serde_json::from_str(&text).map_err(|error| no_report(error.to_string()))
    }
}

/// The part of a report that every version has.
#[derive(serde::Deserialize)]
struct Versioned {
    schema_version: u32,
}

fn check_version(path: &Path, found: u32) -> Result<(), StoredReportError> {
    if found > SCHEMA_VERSION {
        return Err(StoredReportError::Schema { path: path.to_owned(), found });
    }
    Ok(())
}

/// Judges a replayed run.
#[must_use]
pub fn report_of(replayed: Replayed) -> Report {
    let Replayed { head, recording } = replayed;
    let summary = Summary::of(&recording);
    let asked = Asked { replicas: head.scenario.replicas, rounds: head.scenario.rounds };
    let judgement = judge(&recording, &summary, &head.budgets, asked);
    let context = Context {
        run: head.run,
        command: head.command,
        environment: head.environment,
        started_unix_ms: head.started_unix_ms,
    };
    Report::assemble(&recording, summary, judgement, head.scenario, context)
}
