//! What the replicas write to stdout and stderr, kept beside the report: they are gone when it is read.
//!
//! A file that cannot be written costs its content and nothing else: it is no reason to end a run.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The folder in a report's directory.
const FOLDER: &str = "output";
/// How much of one replica's output is kept, over all its lives, in bytes.
const MOST: u64 = 16 << 20;

/// Where the replicas' output goes: `output/<replica>.log` in a report's directory.
#[derive(Debug, Clone)]
pub struct OutputFiles {
    folder: PathBuf,
}

impl OutputFiles {
    /// Output beside the report in `directory`, without what an earlier run left there.
    #[must_use]
    pub fn in_directory(directory: &Path) -> Self {
        let folder = directory.join(FOLDER);
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "log") {
                let _ = fs::remove_file(entry.path());
            }
        }
        Self { folder }
    }

    /// Output that is not kept.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Self {
        Self { folder: PathBuf::from("/dev/null") }
    }

    /// The end of a replica's file.
    pub(super) fn of(&self, replica: &str) -> OutputFile {
        let name: String =
            replica.chars().map(|char| if char.is_ascii_alphanumeric() { char } else { '-' }).collect();
        let opened = fs::create_dir_all(&self.folder).and_then(|()| {
            let path = self.folder.join(format!("{name}.log"));
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            Ok(OutputFile { room: MOST.saturating_sub(file.metadata()?.len()), file: Some(file) })
        });
        opened.unwrap_or(OutputFile { room: 0, file: None })
    }
}

/// One replica's file, at its end.
#[derive(Debug)]
pub(super) struct OutputFile {
    file: Option<File>,
    room: u64,
}

impl OutputFile {
    /// Appends what fits.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        let Some(file) = &mut self.file else { return };
        let fits = usize::try_from(self.room).unwrap_or(usize::MAX).min(bytes.len());
        let written = file.write_all(&bytes[..fits]);
        self.room -= fits as u64;
        if written.is_err() {
            self.file = None;
        } else if fits < bytes.len() {
            let _ =
                writeln!(file, "\n[hitless keeps {} MiB of a replica's output; the rest is cut]", MOST >> 20);
            self.file = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_of_a_replica_share_a_file_and_the_next_run_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("output/server-a.log");
        let files = OutputFiles::in_directory(directory.path());
        files.of("server-a").append(b"one\n");
        files.of("server-a").append(b"two\n");
        files.of("../b").append(b"elsewhere\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert!(directory.path().join("output/---b.log").exists());
        drop(OutputFiles::in_directory(directory.path()));
        assert!(!path.exists());
    }

    #[test]
    fn output_without_end_is_cut_and_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = OutputFiles::in_directory(directory.path()).of("server-a");
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..20 {
            file.append(&chunk);
        }
        let kept = fs::read_to_string(directory.path().join("output/server-a.log")).unwrap();
        assert!(kept.ends_with("the rest is cut]\n"), "{}", &kept[kept.len() - 100..]);
        assert!(kept.len() as u64 <= MOST + 100);
    }
}
