//! How the processes of a run are marked, and found again when nobody remembers them: by variables in their environment,
//! which everything that they start inherits. A process that overwrites its environment, as some do to show a title, is
//! not found.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::Duration;
use std::{fmt, fs, io};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The run that a process belongs to.
const RUN: &str = "HITLESS_RUN";
/// The harness that started it (see [`owner`](crate::host::owner)).
const OWNER: &str = "HITLESS_OWNER";
/// The replica that it is, or that started it.
const REPLICA: &str = "HITLESS_REPLICA";

/// Whose a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) run: String,
    pub(crate) owner: String,
    pub(crate) replica: String,
}

/// A process that carries a mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Marked {
    pub(crate) id: i32,
    pub(crate) mark: Mark,
}

impl Mark {
    /// The variables that a process carries.
    pub(super) fn environment(&self) -> [(&'static str, OsString); 3] {
        [(RUN, &self.run), (OWNER, &self.owner), (REPLICA, &self.replica)]
            .map(|(name, value)| (name, OsString::from(value)))
    }

    /// Reads an environment as the kernel shows it: variables that end with a zero byte (`proc_pid_environ(5)`).
    fn read(environment: &[u8]) -> Option<Self> {
        let value = |name: &str| {
            let mut variables = environment.split(|byte| *byte == 0);
            let value = variables.find_map(|text| text.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
            Some(String::from_utf8_lossy(value).into_owned())
        };
        Some(Self { run: value(RUN)?, owner: value(OWNER)?, replica: value(REPLICA)? })
    }
}

impl Marked {
    /// Kills it, if it still carries its mark. Does nothing to one that has ended.
    ///
    /// # Errors
    /// This user may not.
    pub(crate) fn kill(&self) -> io::Result<()> {
        let Some(id) = Pid::from_raw(self.id) else { return Ok(()) };
        // Held before it is looked at again: what has its number then is what is killed (`pidfd_open(2)`).
        let killed = pidfd_open(id, PidfdFlags::empty()).and_then(|held| {
            let is_same = mark_of(self.id).as_ref() == Some(&self.mark);
            if is_same { pidfd_send_signal(held, Signal::KILL) } else { Ok(()) }
        });
        match killed {
            Err(Errno::SRCH) => Ok(()),
            killed => Ok(killed?),
        }
    }
}

impl fmt::Display for Marked {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "process {} ({} of run {})", self.id, self.mark.replica, self.mark.run)
    }
}

/// Every process that carries a mark and that this user may look at, but not this one.
pub(crate) fn find_marked() -> Vec<Marked> {
    let own = i32::try_from(std::process::id()).ok();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id| Some(*id) != own).filter_map(|id| Some(Marked { id, mark: mark_of(id)? })).collect()
}

/// Kills every process that carries this mark and has not ended by itself after a moment, and what they start meanwhile; says
/// how many there were. One that has changed its process group or its session is found all the same.
pub(super) fn kill_all(mark: &Mark) -> usize {
    /// A helper that ends with the first process, such as one that reads its output, does so within these.
    const LOOKS_BEFORE: u32 = 100;
    const MOST_LOOKS: u32 = 1000;
    let mut killed = BTreeSet::new();
    for look in 0..MOST_LOOKS {
        let found: Vec<Marked> = find_marked().into_iter().filter(|marked| marked.mark == *mark).collect();
        if found.is_empty() {
            break;
        }
        for marked in found.into_iter().filter(|_| look >= LOOKS_BEFORE) {
            if marked.kill().is_ok() {
                killed.insert(marked.id);
            }
        }
        // A killed process keeps its environment until the kernel has let go of it.
        std::thread::sleep(Duration::from_millis(1));
    }
    killed.len()
}

/// The mark of a process that runs; one that has ended has no environment any more.
fn mark_of(id: i32) -> Option<Mark> {
    Mark::read(&fs::read(format!("/proc/{id}/environ")).ok()?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    use super::*;

    fn mark() -> Mark {
        Mark { run: "20260101-000000-abcd".into(), owner: "here@1/2/3".into(), replica: "server-a".into() }
    }

    #[test]
    fn mark_is_read_from_an_environment_that_holds_all_of_it() {
        let whole = b"PATH=/bin\0HITLESS_RUN=r\0HITLESS_OWNER=o\0XHITLESS_REPLICA=x\0HITLESS_REPLICA=a=b\0";
        let read = Mark { run: "r".into(), owner: "o".into(), replica: "a=b".into() };
        assert_eq!(Mark::read(whole), Some(read));
        for lacking in [&b""[..], b"\0\0", b"HITLESS_RUN=r\0HITLESS_OWNER=o\0", b"HITLESS_RUNNER=r\0"] {
            assert_eq!(Mark::read(lacking), None);
        }
    }

    #[test]
    fn process_is_found_by_its_mark_until_it_has_ended() {
        let mut command = Command::new("cat");
        command.envs(mark().environment()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // For a moment after it was spawned a process has no environment: the kernel is still setting it up.
        child.stdin.as_mut().unwrap().write_all(b".").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let id = i32::try_from(child.id()).unwrap();
        let marked = Marked { id, mark: mark() };
        assert_eq!(mark_of(id), Some(mark()));
        assert!(find_marked().contains(&marked));

        let others = Marked { id, mark: Mark { run: "another".into(), ..mark() } };
        others.kill().unwrap();
        assert_eq!(mark_of(id), Some(mark()), "it is not the one that was meant");
        marked.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert!(!find_marked().contains(&marked));
        marked.kill().unwrap();
    }
}
