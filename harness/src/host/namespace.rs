//! The listeners of another network namespace, as `/proc/PID/net/tcp` of a process in it shows them (`proc_pid_net(5)`).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::{fs, io};

/// `TCP_LISTEN` (`net/tcp_states.h` of the kernel).
const LISTEN: &str = "0A";

/// The ports on which somebody listens in the namespace of the process `id`, but for those that only the namespace itself can
/// reach.
///
/// # Errors
/// The process has ended, is another machine's, or this user may not look.
pub(crate) fn listening_ports(id: u32) -> io::Result<BTreeSet<u16>> {
    let mut ports = parse(&fs::read_to_string(format!("/proc/{id}/net/tcp"))?);
    // A kernel without IPv6 has no such file.
    ports.extend(
        fs::read_to_string(format!("/proc/{id}/net/tcp6")).map(|text| parse(&text)).unwrap_or_default(),
    );
    Ok(ports)
}

/// Whether the process `id` shares this process's network namespace; none if it cannot be seen from here.
pub(crate) fn is_shared(id: u32) -> Option<bool> {
    let theirs = fs::read_link(format!("/proc/{id}/ns/net")).ok()?;
    Some(theirs == fs::read_link("/proc/self/ns/net").ok()?)
}

fn parse(table: &str) -> BTreeSet<u16> {
    let listening = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, state) = (fields.next()?, fields.nth(1)?);
        let (address, port) = local.split_once(':')?;
        let is_reachable = state == LISTEN && !address_of(address)?.is_loopback();
        is_reachable.then(|| u16::from_str_radix(port, 16).ok()).flatten()
    });
    listening.collect()
}

/// An address as the kernel writes it: words of four bytes in the machine's order, in hexadecimal digits.
fn address_of(text: &str) -> Option<IpAddr> {
    let words =
        text.as_bytes().chunks(8).map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok());
    let bytes: Vec<u8> =
        words.collect::<Option<Vec<u32>>>()?.into_iter().flat_map(u32::to_ne_bytes).collect();
    match <[u8; 4]>::try_from(&*bytes) {
        Ok(bytes) => Some(Ipv4Addr::from(bytes).into()),
        Err(_) => Some(Ipv6Addr::from(<[u8; 16]>::try_from(&*bytes).ok()?).to_canonical()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn listeners_of_the_table_are_those_that_others_can_reach() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n\
            0: 00000000:1F90 00000000:0000 0A 00000000:00000000\n\
            1: 0B00007F:A001 00000000:0000 0A 00000000:00000000\n\
            2: 020011AC:0050 00000000:0000 0A 00000000:00000000\n\
            3: 020011AC:1F91 030011AC:C001 01 00000000:00000000\n";
        assert_eq!(parse(table), [80, 8080].into(), "not the engine's resolver, and no connection");
        let six = "head\n0: 00000000000000000000000000000000:0051 00000000000000000000000000000000:0000 0A\n\
            1: 0000000000000000FFFF00000100007F:0052 00000000000000000000000000000000:0000 0A\n";
        assert_eq!(parse(six), [81].into());
    }

    #[test]
    fn own_namespace_shows_what_this_process_opens() {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let id = std::process::id();
        assert!(listening_ports(id).unwrap().contains(&port));
        assert_eq!(is_shared(id), Some(true));
        drop(listener);
        assert!(!listening_ports(id).unwrap().contains(&port));
        assert!(listening_ports(u32::MAX).is_err());
    }
}
