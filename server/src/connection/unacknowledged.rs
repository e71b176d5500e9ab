//! How much of what was sent on a connection its client has not acknowledged.
//!
//! It is what the ioctl `SIOCOUTQ` says (tcp(7)), asked over `NETLINK_SOCK_DIAG` (`sock_diag(7)`): an ioctl needs unsafe code
//! and this does not. For a connection `idiag_wqueue` is `write_seq - snd_una` (`tcp_diag_get_info` in
//! `net/ipv4/tcp_diag.c`), and the FIN counts as one byte. It needs no privilege.

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::io::Errno;
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// `SOCK_DIAG_BY_FAMILY` (`linux/sock_diag.h`).
const BY_FAMILY: u16 = 20;
/// `NLMSG_ERROR` (`linux/netlink.h`).
const ERROR: u16 = 2;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
const TCP: u8 = 6;
/// `TCP_LISTEN` (`net/tcp_states.h`). The kernel falls back to the listener when there is no such connection.
const LISTEN: u8 = 10;
/// Bytes of a `nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of a `nlmsghdr` and an `inet_diag_req_v2`.
const QUESTION: usize = HEADER + 56;

/// Bytes between `local` and `peer` that are not acknowledged; `None` if the kernel has no such connection any more.
///
/// # Errors
/// The kernel does not answer `NETLINK_SOCK_DIAG`: it lacks the module, or a sandbox forbids it.
pub(crate) fn unacknowledged(local: SocketAddr, peer: SocketAddr) -> io::Result<Option<u32>> {
    let netlink = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(SOCK_DIAG),
    )?;
    sendto(&netlink, &question(local, peer), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    // The kernel answers within the call that asks.
    let mut answer = [0; 512];
    let (_, length) = recv(&netlink, &mut answer[..], RecvFlags::empty())?;
    read(&answer[..length.min(answer.len())])
}

fn question(local: SocketAddr, peer: SocketAddr) -> [u8; QUESTION] {
    let mut bytes = [0; QUESTION];
    let mut at = 0;
    let mut put = |field: &[u8]| {
        bytes[at..at + field.len()].copy_from_slice(field);
        at += field.len();
    };
    put(&u32::try_from(QUESTION).unwrap_or_default().to_ne_bytes());
    put(&BY_FAMILY.to_ne_bytes());
    put(&REQUEST.to_ne_bytes());
    // The sequence number and the sender's port, which the kernel fills in.
    put(&[0; 8]);
    let family = if local.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    put(&[family.as_raw().to_ne_bytes()[0], TCP, 0, 0]);
    // All states.
    put(&u32::MAX.to_ne_bytes());
    put(&local.port().to_be_bytes());
    put(&peer.port().to_be_bytes());
    for addr in [local.ip(), peer.ip()] {
        let mut field = [0; 16];
        match addr {
            IpAddr::V4(addr) => field[..4].copy_from_slice(&addr.octets()),
            IpAddr::V6(addr) => field = addr.octets(),
        }
        put(&field);
    }
    let scope = if let SocketAddr::V6(local) = local { local.scope_id() } else { 0 };
    put(&scope.to_ne_bytes());
    // `INET_DIAG_NOCOOKIE`, twice.
    put(&[0xff; 8]);
    bytes
}

fn read(answer: &[u8]) -> io::Result<Option<u32>> {
    let number = |at: usize| -> io::Result<u32> {
        let bytes = answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_ne_bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
    };
    // The type is in the lower half of the second number, in the memory's order.
    let kind = number(4)?.to_ne_bytes();
    match u16::from_ne_bytes([kind[0], kind[1]]) {
        BY_FAMILY if answer.get(HEADER + 1) == Some(&LISTEN) => Ok(None),
        // `idiag_wqueue`, the third of the numbers behind the socket's id.
        BY_FAMILY => number(HEADER + 60).map(Some),
        ERROR => {
            let error = number(HEADER)?.cast_signed().unsigned_abs().cast_signed();
            if error == Errno::NOENT.raw_os_error() {
                Ok(None)
            } else {
                Err(io::Error::from_raw_os_error(error))
            }
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair(at: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(at).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0, client)
    }

    #[test]
    fn what_the_client_has_no_room_for_is_not_acknowledged() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let (mut server, mut client) = pair(at);
            let (local, peer) = (server.local_addr().unwrap(), server.peer_addr().unwrap());
            assert_eq!(unacknowledged(local, peer).unwrap(), Some(0), "{at}");
            server.set_nonblocking(true).unwrap();
            let mut sent = 0;
            while let Ok(length) = server.write(&[0; 16_384]) {
                sent += length;
            }
            assert!(unacknowledged(local, peer).unwrap() > Some(0), "{at}");
            let mut received = vec![0; sent];
            client.read_exact(&mut received).unwrap();
            while unacknowledged(local, peer).unwrap() != Some(0) {
                std::thread::yield_now();
            }
            drop((server, client));
        }
    }

    #[test]
    fn a_connection_that_is_not_there_has_nothing_although_the_port_has_a_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        for local in [local, ([127, 0, 0, 1], 1).into()] {
            assert_eq!(unacknowledged(local, ([127, 0, 0, 1], 2).into()).unwrap(), None);
        }
    }
}
