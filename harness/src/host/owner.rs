//! Whose a container or a process is: the harness that started it, so that `hitless clean` leaves a living run alone.

use std::fs;

/// What is known of the process that a label names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// It runs.
    Runs,
    /// It ran here and does not any more, or the label names nobody.
    Gone,
    /// It ran on another host, or in another container, and cannot be seen from here.
    OutOfSight,
}

/// This process, as a label: host, process id, and when the process began (field 22 of `/proc/PID/stat`, in clock
/// ticks since boot, `proc_pid_stat(5)`), since process ids are used again.
#[must_use]
pub fn this_process() -> String {
    let pid = std::process::id();
    format!("{}/{pid}/{}", host(), began(pid).unwrap_or(0))
}

/// What has become of the process that a label names.
#[must_use]
pub fn owner(label: &str) -> Owner {
    let mut parts = label.split('/');
    let (Some(label_host), Some(pid), Some(began_then)) = (parts.next(), parts.next(), parts.next()) else {
        return Owner::Gone;
    };
    let (Ok(pid), Ok(began_then)) = (pid.parse(), began_then.parse::<u64>()) else { return Owner::Gone };
    if label_host != host() {
        return Owner::OutOfSight;
    }
    if began(pid) == Some(began_then) { Owner::Runs } else { Owner::Gone }
}

/// This host's name and the namespace that its process ids belong to (`pid_namespaces(7)`): two containers of one host
/// may have the same name, and each has a process 1.
fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned());
    let namespace = fs::read_link("/proc/self/ns/pid").ok();
    let digits = namespace.map(|link| link.to_string_lossy().chars().filter(char::is_ascii_digit).collect());
    let digits: String = digits.unwrap_or_default();
    format!("{name}@{digits}")
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
    fn this_process_runs_and_others_are_gone_or_out_of_sight() {
        let label = this_process();
        assert_eq!(owner(&label), Owner::Runs, "{label}");
        let (rest, began) = label.rsplit_once('/').unwrap();
        let reused = format!("{rest}/{}", began.parse::<u64>().unwrap() + 1);
        assert_eq!(owner(&reused), Owner::Gone, "the same process id, begun at another time");
        assert_eq!(owner(&format!("elsewhere-{label}")), Owner::OutOfSight);
        let (name, rest) = label.split_once('@').unwrap();
        assert_eq!(owner(&format!("{name}@1{rest}")), Owner::OutOfSight, "another container of this host");
        for garbage in ["", "a/b/c", "host/1", "///"] {
            assert_eq!(owner(garbage), Owner::Gone, "{garbage}");
        }
    }
}
