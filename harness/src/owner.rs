//! Whose a container is: the process that made it, so that `hitless clean` leaves a living run alone.

use std::fs;

/// This process, as a label: host, process id, and when the process began (field 22 of `/proc/PID/stat`, in clock
/// ticks since boot, `proc_pid_stat(5)`), since process ids are used again.
#[must_use]
pub fn this_process() -> String {
    let pid = std::process::id();
    format!("{}/{pid}/{}", host(), began(pid).unwrap_or(0))
}

/// Whether the process that a label names still runs on this host. A label of another host, or none that can be
/// read, belongs to nobody here.
#[must_use]
pub fn is_alive(label: &str) -> bool {
    let mut parts = label.split('/');
    let (Some(label_host), Some(pid), Some(began_then)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let (Ok(pid), Ok(began_then)) = (pid.parse(), began_then.parse::<u64>()) else { return false };
    label_host == host() && began(pid) == Some(began_then)
}

fn host() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

fn began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command's name in parentheses and may hold spaces.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?;
    // The state is field 3; 18 fields further is 22. A zombie does nothing any more.
    if state == "Z" { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_others_are_not() {
        let label = this_process();
        assert!(is_alive(&label), "{label}");
        let (rest, began) = label.rsplit_once('/').unwrap();
        let reused = format!("{rest}/{}", began.parse::<u64>().unwrap() + 1);
        assert!(!is_alive(&reused), "the same process id, begun at another time");
        assert!(!is_alive(&format!("elsewhere-{label}")));
        for garbage in ["", "a/b/c", "host/1", "///"] {
            assert!(!is_alive(garbage), "{garbage}");
        }
    }
}
