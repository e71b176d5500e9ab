//! The addresses that new connections come from.
//!
//! A connection's four numbers (two addresses, two ports) are used again only after `TIME_WAIT`, and there are about 28,000
//! ports a source address. Where the kernel gives out ports whose `TIME_WAIT` is a second old, as it does on loopback
//! unless it is told otherwise (`tcp_tw_reuse` in the kernel's `ip-sysctl.rst`, `tcp_twsk_unique` in its `tcp_ipv4.c`), no
//! client that leaves the choice of the port to connect(2) runs out of them. One that binds its source address first
//! chooses its port in bind(2), which knows nothing of that. So addresses are spread only where ports are not given out
//! again; and a table of tracked connections grows with neither.

use std::net::{IpAddr, Ipv4Addr};

use crate::host::limits;

/// How many addresses of 127.0.0.0/8, all of which is local, connections are spread over.
const SPREAD: u8 = 64;

/// The source addresses of connections to `target`, to be taken in turn; none leaves the choice to the kernel.
pub(super) fn sources(target: IpAddr) -> Vec<Option<IpAddr>> {
    let can_spread = matches!(target, IpAddr::V4(address) if address.is_loopback());
    if can_spread && !limits::are_ports_reused() {
        (1..=SPREAD).map(|last| Some(Ipv4Addr::new(127, 0, 0, last).into())).collect()
    } else {
        vec![None]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_loopback_can_be_spread() {
        assert_eq!(sources("192.0.2.7".parse().unwrap()), [None]);
        assert_eq!(sources("::1".parse().unwrap()), [None]);
    }
}
