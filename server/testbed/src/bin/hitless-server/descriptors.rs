//! Room for descriptors: each connection has one, and many engines start a process with room for 1024.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are no connection: listeners, siblings, the admin listener's clients, the runtime.
const OTHERS: u64 = 256;

/// Raises the soft limit to the hard one (getrlimit(2), `RLIMIT_NOFILE`), and says what is wrong if that is too few for so
/// many connections. The soft limit is low only for programs that use select(2), which this one does not.
pub(crate) fn make_room_for(max_connections: usize) -> Option<String> {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let (available, remedy) = match raised {
        Ok(()) => (limit.maximum, "raise the hard limit on open files (ulimit -Hn)"),
        Err(_) => (limit.current, "raise the limit on open files (ulimit -n)"),
    };
    let needed = u64::try_from(max_connections).unwrap_or(u64::MAX).saturating_add(OTHERS);
    // No limit at all is `None`.
    let available = available.filter(|&available| available < needed)?;
    Some(format!(
        "{available} descriptors are too few for {max_connections} connections: {remedy} to {needed} or lower \
         --max-connections"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_and_too_little_room_is_said() {
        let hard = getrlimit(Resource::Nofile).maximum;
        assert_eq!(make_room_for(1), None);
        assert_eq!(getrlimit(Resource::Nofile).current, hard);
        if let Some(hard) = hard {
            let warning = make_room_for(usize::try_from(hard).unwrap()).unwrap();
            assert!(warning.starts_with(&format!("{hard} descriptors are too few")), "{warning}");
        }
    }
}
