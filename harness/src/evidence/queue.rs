//! How many connections wait in the accept queues of a port: what `ss -ltn` shows as Recv-Q.
//!
//! `/proc/net/tcp` shows it as `rx_queue` of a socket in state 0A, LISTEN (`get_tcp4_sock` in `net/ipv4/tcp_ipv4.c`:
//! `sk_ack_backlog`). Listening sockets come first in the file, so its beginning is enough: a busy machine has tens of
//! thousands of further lines.

use std::fs::File;
use std::io::Read;

/// Enough for the listeners of a machine, some 150 bytes each.
const BEGINNING: usize = 64 * 1024;

/// Connections waiting for all listeners of `port` together; none where there is no `/proc`.
pub(super) fn depth(port: u16) -> Option<u64> {
    let mut total = 0;
    let mut is_seen = false;
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        if let Some(text) = beginning(path) {
            is_seen = true;
            total += waiting(&text, port);
        }
    }
    is_seen.then_some(total)
}

/// Reads until something that does not listen shows up, or [`BEGINNING`] is full.
fn beginning(path: &str) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let (mut text, mut chunk) = (Vec::new(), [0; 4096]);
    while text.len() < BEGINNING {
        let read = file.read(&mut chunk).ok()?;
        text.extend_from_slice(&chunk[..read]);
        let last_lines = String::from_utf8_lossy(&chunk[..read]);
        if read == 0 || last_lines.lines().any(|line| state(line).is_some_and(|state| state != "0A")) {
            break;
        }
    }
    Some(String::from_utf8_lossy(&text).into_owned())
}

fn waiting(text: &str, port: u16) -> u64 {
    text.lines().filter_map(|line| listener(line, port)).sum()
}

/// The queue of the listener that a line describes, if it is one of `port`.
fn listener(line: &str, port: u16) -> Option<u64> {
    let mut fields = line.split_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    let queues = fields.next()?;
    let (_, local_port) = local.rsplit_once(':')?;
    let is_ours = state == "0A" && u16::from_str_radix(local_port, 16) == Ok(port);
    let (_, receive) = queues.split_once(':')?;
    is_ours.then(|| u64::from_str_radix(receive, 16).ok()).flatten()
}

fn state(line: &str) -> Option<&str> {
    let mut fields = line.split_whitespace();
    let is_numbered = fields.next()?.strip_suffix(':')?.parse::<u64>().is_ok();
    is_numbered.then(|| fields.nth(2)).flatten()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn connections_that_nobody_accepts_are_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(depth(address.port()), Some(0));
        let waiting: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
        assert_eq!(depth(address.port()), Some(3));
        for _ in &waiting {
            listener.accept().unwrap();
        }
        assert_eq!(depth(address.port()), Some(0));
    }
}
