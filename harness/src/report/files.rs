//! The files of a report.

use std::path::{Path, PathBuf};

use crate::analysis::report::Report;
use crate::report::{html, json, junit, markdown, metrics};

/// A file of a report cannot be written.
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
}

/// The files, in the order in which they are written: whoever waits for report.json finds the others.
const FILES: [&str; 5] = ["report.html", "junit.xml", "summary.md", "metrics.txt", "report.json"];

/// Writes every file of the report into `directory`; one that cannot be written keeps no other from being written.
///
/// # Errors
/// The first file that cannot be written.
pub fn write(report: &Report, directory: &Path) -> Result<(), FilesError> {
    let texts = [html::render, junit::render, markdown::render, metrics::render, json::render];
    let mut written = Ok(());
    for (name, render) in FILES.into_iter().zip(texts) {
        written = written.and(replace(directory, name, &render(report)));
    }
    written
}

/// Writes a file whole, or not at all.
fn replace(directory: &Path, name: &str, text: &str) -> Result<(), FilesError> {
    let path = directory.join(name);
    let unfinished = directory.join(format!(".{name}.unfinished"));
    std::fs::write(&unfinished, text).and_then(|()| std::fs::rename(&unfinished, &path)).map_err(|source| {
        // On a full disk it takes the room of the next file.
        let _ = std::fs::remove_file(&unfinished);
        FilesError::Write { path, source }
    })
}

/// Removes what an earlier run left in `directory`, so that nothing there is taken for a report of the next one.
pub fn clear(directory: &Path) {
    for name in FILES {
        // What is not there need not be removed; what cannot be removed will not be written either, and that is told.
        let _ = std::fs::remove_file(directory.join(name));
    }
}
