//! The listeners of a port: how many there are, and how many connections wait in the accept queue of each, which is what
//! `ss -ltn` shows as Recv-Q.
//!
//! Asks the kernel over `NETLINK_SOCK_DIAG` for the listeners alone (`sock_diag(7)`): for a listening socket `idiag_rqueue`
//! is `sk_ack_backlog` and `idiag_wqueue` is `sk_max_ack_backlog` (`tcp_diag_get_info` in `net/ipv4/tcp_diag.c`). `/proc/net/tcp` tells the same, but the kernel
//! walks its whole table of connections for each read of it, which costs milliseconds.

use std::io;

use crate::model::listener::Sighting;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

/// A way to ask about the listeners of one port.
#[derive(Debug)]
pub(crate) struct Listeners {
    socket: Socket,
    port: u16,
    /// The number of the last question: what is left of an answer that was given up belongs to an earlier one.
    asked: u32,
}

impl Listeners {
    /// Opens a way to the kernel; needs no privilege.
    ///
    /// # Errors
    /// The kernel has no `NETLINK_SOCK_DIAG`.
    pub(crate) fn of(port: u16) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // The answer is there when the question has been sent: nothing is waited for.
        socket.set_non_blocking(true)?;
        Ok(Self { socket, port, asked: 0 })
    }

    /// Looks at all listeners of the port, of this network namespace.
    ///
    /// # Errors
    /// The kernel did not answer, or not with what it was asked for.
    pub(crate) fn look(&mut self) -> io::Result<Vec<Sighting>> {
        let mut look = Vec::new();
        self.ask(AF_INET, &SocketId::new_v4(), &mut look)?;
        self.ask(AF_INET6, &SocketId::new_v6(), &mut look)?;
        Ok(look)
    }

    fn ask(&mut self, family: u8, any: &SocketId, look: &mut Vec<Sighting>) -> io::Result<()> {
        self.asked = self.asked.wrapping_add(1);
        self.socket.send(&self.question(family, any), 0)?;
        loop {
            let (answer, _) = self.socket.recv_from_full()?;
            let mut rest = &answer[..];
            while !rest.is_empty() {
                let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                // Messages are padded to four bytes (`NLMSG_ALIGN`, netlink(7)).
                let length = (message.header.length as usize).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                if message.header.sequence_number != self.asked {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(listener)) => {
                        look.push(Sighting {
                            inode: listener.header.inode,
                            waiting: listener.header.recv_queue,
                            backlog: listener.header.send_queue,
                        });
                    }
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }

    fn question(&self, family: u8, any: &SocketId) -> Vec<u8> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        header.sequence_number = self.asked;
        let request = InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::LISTEN,
            socket_id: SocketId { source_port: self.port, ..any.clone() },
        };
        let mut question = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        question.finalize();
        let mut bytes = vec![0; question.buffer_len()];
        question.serialize(&mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;

    fn inode_of(listener: &TcpListener) -> u32 {
        // `socket:[1234]`, proc_pid_fd(5).
        let link = std::fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        let text = link.to_str().unwrap().strip_prefix("socket:[").unwrap().strip_suffix("]").unwrap();
        text.parse().unwrap()
    }

    #[test]
    fn connections_that_nobody_accepts_are_counted() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(any).unwrap();
            let address = listener.local_addr().unwrap();
            let mut listeners = Listeners::of(address.port()).unwrap();
            let empty = listeners.look().unwrap();
            assert_eq!(empty.iter().map(|seen| seen.waiting).collect::<Vec<_>>(), [0]);
            assert_eq!(empty[0].inode, inode_of(&listener));
            assert_eq!(empty[0].backlog, 128, "what the standard library asks for");
            let waiting: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
            assert_eq!(listeners.look().unwrap(), [Sighting { waiting: 3, ..empty[0] }]);
            for _ in &waiting {
                listener.accept().unwrap();
            }
            assert_eq!(
                listeners.look().unwrap(),
                empty,
                "what was accepted is a connection, not one that waits"
            );
            drop(listener);
            assert_eq!(listeners.look().unwrap(), []);
        }
    }
}
