//! What the machine is like: kernel, limits, CPUs. Reads `/proc`, changes nothing but this process's own limit.

use std::fs;

use std::sync::OnceLock;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// How many descriptors this process might open before it raised its limit.
static BEFORE: OnceLock<Option<u64>> = OnceLock::new();

/// `uname -r`.
#[must_use]
pub fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// `net.ipv4.tcp_migrate_req` of this network namespace, if the kernel has it (5.14 and later).
#[must_use]
pub fn tcp_migrate_req() -> Option<bool> {
    sysctl("net/ipv4/tcp_migrate_req").map(|value| value != "0")
}

/// First and last ephemeral port.
#[must_use]
pub fn ephemeral_ports() -> Option<(u16, u16)> {
    let text = sysctl("net/ipv4/ip_local_port_range")?;
    let mut numbers = text.split_whitespace().filter_map(|number| number.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

/// Whether the kernel gives out ports in `TIME_WAIT` for connections over loopback (`tcp_tw_reuse` in `ip-sysctl.rst`): it
/// tells old packets from new ones by their timestamps, and may be told not to.
#[must_use]
pub fn are_ports_reused() -> bool {
    has_reuse(&sysctl)
}

fn has_reuse(read: &dyn Fn(&str) -> Option<String>) -> bool {
    let is_on = |name| read(name).is_some_and(|value| matches!(value.as_str(), "1" | "2"));
    is_on("net/ipv4/tcp_tw_reuse") && is_on("net/ipv4/tcp_timestamps")
}

/// How many connections the kernel's connection tracking can remember; none if nothing is tracked.
#[must_use]
pub fn tracked_connections() -> Option<u64> {
    sysctl("net/netfilter/nf_conntrack_max")?.parse().ok()
}

/// How many descriptors this process may open now; none if unlimited.
#[must_use]
pub fn descriptor_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Raises what this process may open to the most that it may allow itself (`getrlimit(2)`): the soft limit is low for
/// programs that use `select(2)`, and this is none.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = BEFORE.set(limit.current);
    // Where this is forbidden, the lower limit stays, and `hitless doctor` tells it.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Gives a child the limit that this process was started with, so that it is as if a shell had started it.
///
/// # Errors
/// The kernel refuses it (`prlimit(2)`).
pub(crate) fn restore_descriptor_limit_of(child: Pid) -> rustix::io::Result<()> {
    let Some(current) = BEFORE.get() else { return Ok(()) };
    let maximum = getrlimit(Resource::Nofile).maximum;
    prlimit(Some(child), Resource::Nofile, Rlimit { current: *current, maximum }).map(drop)
}

/// How many CPUs this process may use.
#[must_use]
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn sysctl(name: &str) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/sys/{name}")).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_limit_is_raised_as_far_as_it_goes() {
        raise_descriptor_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(descriptor_limit(), limit.maximum);
    }

    #[test]
    fn ports_are_reused_unless_either_setting_forbids_it() {
        let with = |reuse: &'static str, timestamps: &'static str| {
            has_reuse(&move |name| {
                Some(if name == "net/ipv4/tcp_tw_reuse" { reuse } else { timestamps }.to_owned())
            })
        };
        assert!(with("2", "1") && with("1", "1") && with("2", "2"));
        assert!(!with("0", "1") && !with("2", "0"));
        assert!(!has_reuse(&|_| None));
    }
}
