//! What the machine is like: kernel, limits, CPUs. Reads `/proc`, changes nothing.

use std::fs;

use rustix::process::{Resource, getrlimit};

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

/// How many CPUs this process may use.
#[must_use]
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn sysctl(name: &str) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/sys/{name}")).ok()?.trim().to_owned())
}
