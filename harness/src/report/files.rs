//! The files of a report: which there are, and where a report is read from.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use crate::replay::replay;
use crate::report::{Report, html, json, junit, markdown, openmetrics};

/// A file of a report cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file cannot be written.
    #[error("failed to write {}: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file cannot be read.
    #[error("failed to read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is no report.
    #[error("{} is no report of hitless: {reason}", path.display())]
    NoReport {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The files, in the order in which they are written: whoever waits for report.json finds the others.
const FILES: [&str; 5] = ["report.html", "junit.xml", "summary.md", "metrics.txt", "report.json"];

/// Writes every file of the report into `directory`.
///
/// # Errors
/// A file cannot be written.
pub fn write(report: &Report, directory: &Path) -> Result<(), FilesError> {
    let texts = [html::render, junit::render, markdown::render, openmetrics::render, json::render];
    for (name, render) in FILES.into_iter().zip(texts) {
        replace(directory, name, &render(report))?;
    }
    Ok(())
}

/// Writes a file whole, or not at all.
fn replace(directory: &Path, name: &str, text: &str) -> Result<(), FilesError> {
    let path = directory.join(name);
    let unfinished = directory.join(format!(".{name}.unfinished"));
    std::fs::write(&unfinished, text)
        .and_then(|()| std::fs::rename(&unfinished, &path))
        .map_err(|source| FilesError::Write { path, source })
}

/// Removes what an earlier run left in `directory`, so that nothing there is taken for a report of the next one.
pub fn clear(directory: &Path) {
    for name in FILES {
        // What is not there need not be removed; what cannot be removed will not be written either, and that is told.
        let _ = std::fs::remove_file(directory.join(name));
    }
}

/// Reads a report: a report.json, an events.jsonl, or the directory in which they lie. A directory without a
/// report.json is that of a run that was killed, and its events are made into one.
///
/// # Errors
/// There is none, or it is none.
pub fn read(path: &Path) -> Result<Report, FilesError> {
    let path = match path {
        directory if directory.is_dir() => {
            let path = directory.join("report.json");
            if path.exists() { path } else { directory.join("events.jsonl") }
        }
        file => file.to_owned(),
    };
    let file = File::open(&path).map_err(|source| FilesError::Read { path: path.clone(), source })?;
    let no_report = |reason: String| FilesError::NoReport { path: path.clone(), reason };
    if path.extension().is_some_and(|extension| extension == "jsonl") {
        replay(BufReader::new(file)).map_err(|error| no_report(error.to_string()))
    } else {
        serde_json::from_reader(BufReader::new(file)).map_err(|error| no_report(error.to_string()))
    }
}
