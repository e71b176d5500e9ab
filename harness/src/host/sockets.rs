//! Which processes hold a listener, as the links in `/proc/PID/fd` show it (`proc_pid_fd(5)`).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::{fs, io};

use super::listeners::Listeners;

/// Whether the process `id`, or another one of its PID namespace (`pid_namespaces(7)`), holds a listener of `port`; none if
/// that cannot be seen from here. Of a process in the harness's own PID namespace only its descendants are looked at.
pub(crate) fn holds_listener(id: u32, port: u16) -> Option<bool> {
    let listeners = Listeners::of(port).ok()?.look().ok()?;
    let inodes: BTreeSet<u64> = listeners.into_iter().map(|listener| u64::from(listener.inode)).collect();
    let first = holds_any(id, &inodes).ok()?;
    let others = relatives(id)?;
    Some(first || others.into_iter().any(|other| holds_any(other, &inodes).unwrap_or(false)))
}

/// The other processes that belong to the process `id`.
fn relatives(id: u32) -> Option<Vec<u32>> {
    let namespace = |id: &str| fs::read_link(format!("/proc/{id}/ns/pid")).ok();
    let theirs = namespace(&id.to_string())?;
    let is_own = namespace("self") == Some(theirs.clone());
    let running = fs::read_dir("/proc").ok()?.flatten();
    let ids: Vec<u32> = running.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let belongs = |other: u32| {
        if is_own {
            is_descendant(other, id)
        } else {
            namespace(&other.to_string()).as_ref() == Some(&theirs)
        }
    };
    Some(ids.into_iter().filter(|&other| other != id && belongs(other)).collect())
}

fn is_descendant(mut id: u32, ancestor: u32) -> bool {
    while id > 1 {
        match parent(id) {
            Some(parent) if parent == ancestor => return true,
            Some(parent) => id = parent,
            None => return false,
        }
    }
    false
}

fn parent(id: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The second field is the command's name in parentheses and may hold spaces; the parent is field 4.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn holds_any(id: u32, inodes: &BTreeSet<u64>) -> io::Result<bool> {
    let descriptors = fs::read_dir(PathBuf::from(format!("/proc/{id}/fd")))?;
    let sockets = descriptors.flatten().filter_map(|entry| {
        let link = fs::read_link(entry.path()).ok()?;
        link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok()
    });
    Ok(sockets.into_iter().any(|inode| inodes.contains(&inode)))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn listener_belongs_to_the_process_that_holds_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(holds_listener(std::process::id(), port), Some(true));
        // The listener is closed on exec, so a child does not have it.
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        assert!(is_descendant(child.id(), std::process::id()));
        assert_eq!(holds_listener(child.id(), port), Some(false));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(holds_listener(u32::MAX, port), None);
    }
}
