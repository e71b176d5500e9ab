//! The kernel's own counters of this network namespace: `/proc/net/netstat` and `/proc/net/snmp` (proc(5), snmp
//! counters in the kernel's `Documentation/networking/snmp_counter.rst`).

use std::collections::BTreeMap;
use std::fs;

/// The counters that say something about lost connections.
const WATCHED: [&str; 12] = [
    "AttemptFails",
    "EstabResets",
    "OutRsts",
    "ListenOverflows",
    "ListenDrops",
    "TCPReqQFullDrop",
    "TCPMigrateReqSuccess",
    "TCPMigrateReqFailure",
    "TCPAbortOnClose",
    "TCPAbortOnData",
    "TCPTimeouts",
    "RetransSegs",
];

/// Counters at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelCounters(BTreeMap<String, u64>);

impl KernelCounters {
    /// Reads them; empty where there is no `/proc`.
    #[must_use]
    pub fn read() -> Self {
        let texts =
            ["/proc/net/netstat", "/proc/net/snmp"].map(|path| fs::read_to_string(path).unwrap_or_default());
        Self(texts.iter().flat_map(|text| parse(text)).collect())
    }

    /// What grew since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> BTreeMap<String, u64> {
        let grown = self.0.iter().filter_map(|(name, now)| {
            let growth = now.saturating_sub(earlier.0.get(name).copied().unwrap_or(0));
            (growth > 0).then(|| (name.clone(), growth))
        });
        grown.collect()
    }
}

/// Lines come in pairs: names, then numbers, both after the same word.
fn parse(text: &str) -> Vec<(String, u64)> {
    let lines: Vec<&str> = text.lines().collect();
    let pairs = lines.chunks_exact(2).filter(|pair| pair[0].starts_with("Tcp"));
    pairs
        .flat_map(|pair| pair[0].split_whitespace().zip(pair[1].split_whitespace()))
        .filter(|(name, _)| WATCHED.contains(name))
        .filter_map(|(name, number)| Some((name.to_owned(), number.parse().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 2 3\n\
                        IpExt: ListenDrops\nIpExt: 9\nTcp: OutRsts\nTcp: 4\n";

    #[test]
    fn watched_counters_are_read_by_name() {
        let expected = [("ListenOverflows", 2), ("ListenDrops", 3), ("OutRsts", 4)];
        assert_eq!(parse(TEXT), expected.map(|(name, number)| (name.to_owned(), number)));
    }

    #[test]
    fn only_growth_is_told() {
        let earlier = KernelCounters(BTreeMap::from([("OutRsts".into(), 4), ("ListenDrops".into(), 3)]));
        let later = KernelCounters(BTreeMap::from([("OutRsts".into(), 9), ("ListenDrops".into(), 3)]));
        assert_eq!(later.since(&earlier), BTreeMap::from([("OutRsts".to_owned(), 5)]));
    }

    #[test]
    fn this_kernel_has_them() {
        assert!(KernelCounters::read().0.contains_key("ListenOverflows"));
    }
}
