//! The listening socket. The only user of socket2.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SocketFlags, accept_with};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// Length of the accept queue that is asked for. The kernel cuts it to `net.core.somaxconn` (4096 by default), see
/// listen(2).
pub(crate) const BACKLOG: i32 = 4096;

/// Who may listen on the same address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Nobody else.
    Exclusive,
    /// Processes of the same effective user that also set `SO_REUSEPORT` before they bind (socket(7)).
    ReusePort,
}

/// A bound, listening, non-blocking socket.
///
/// `SO_REUSEADDR` is on, as Go and std have it: without it a restart would fail while old connections are in TIME_WAIT.
/// `TCP_NODELAY` is on too: Linux passes it on to every accepted connection (tcp(7)), which saves a system call for each.
pub(crate) fn bind(addr: SocketAddr, sharing: Sharing) -> io::Result<TcpListener> {
    let socket =
        Socket::new(Domain::for_address(addr), Type::STREAM.cloexec().nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if sharing == Sharing::ReusePort {
        socket.set_reuse_port(true)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive())?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A client whose host is gone without a word is noticed after two minutes: probes begin when nothing has come for a minute
/// (nginx and Go do the same, with other times). Accepted connections inherit it (tcp(7), socket(7)).
fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(Duration::from_mins(1))
        .with_interval(Duration::from_secs(15))
        .with_retries(4)
}

/// The next connection of the accept queue, non-blocking from the start (accept4(2)).
pub(crate) fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    Ok(accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?.into())
}

/// Whether a connection waits in the accept queue, asking the kernel itself. If it does not say: there may be one.
pub(crate) fn has_waiting(listener: &TcpListener) -> bool {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&at_once)).map_or(true, |ready| ready > 0)
}

/// A number that is the same for a socket in every process that holds it, and of no other socket until the next boot
/// (`SO_COOKIE`, socket(7)).
pub(crate) fn cookie(socket: &impl AsFd) -> io::Result<u64> {
    SockRef::from(socket).cookie()
}

/// A descriptor from a sibling as the listener that it should be: TCP, listening, shared, and at `addr`.
pub(crate) fn adopt_listener(descriptor: OwnedFd, addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = adopt(descriptor)?;
    let is_right = socket.is_listener()? && socket.reuse_port()? && local_addr(&socket)? == addr;
    if is_right { Ok(socket.into()) } else { Err(wrong("not a listener of this address")) }
}

/// A descriptor from a sibling as the connection that it should be: TCP, not listening, of the port of `addr`.
///
/// Whether the client is still there is not asked: if not, serving it finds out.
pub(crate) fn adopt_connection(descriptor: OwnedFd, addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = adopt(descriptor)?;
    let is_right = !socket.is_listener()? && local_addr(&socket)?.port() == addr.port();
    if is_right { Ok(socket.into()) } else { Err(wrong("not a connection of this port")) }
}

fn adopt(descriptor: OwnedFd) -> io::Result<Socket> {
    let socket = Socket::from(descriptor);
    let is_tcp = [Domain::IPV4, Domain::IPV6].contains(&socket.domain()?)
        && socket.r#type()? == Type::STREAM
        && socket.protocol()? == Some(Protocol::TCP);
    if !is_tcp {
        return Err(wrong("not a TCP socket"));
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn local_addr(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| wrong("not a socket with an internet address"))
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;

    fn anywhere() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    #[test]
    fn an_exclusive_port_cannot_be_shared() {
        let first = bind(anywhere(), Sharing::Exclusive).unwrap();
        let addr = first.local_addr().unwrap();
        for sharing in [Sharing::Exclusive, Sharing::ReusePort] {
            assert_eq!(bind(addr, sharing).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        }
    }

    #[test]
    fn accepted_connections_are_probed_when_they_are_silent() {
        let listener = bind(anywhere(), Sharing::Exclusive).unwrap();
        listener.set_nonblocking(false).unwrap();
        assert!(!has_waiting(&listener));
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(has_waiting(&listener));
        let stream = accept(&listener).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_mins(1));
    }

    #[test]
    fn a_reuseport_listener_accepts_a_sibling() {
        let first = bind(anywhere(), Sharing::ReusePort).unwrap();
        bind(first.local_addr().unwrap(), Sharing::ReusePort).unwrap();
    }

    #[test]
    fn accepted_connections_inherit_nodelay() {
        let listener = bind(anywhere(), Sharing::Exclusive).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        assert!(stream.nodelay().unwrap());
    }

    #[test]
    fn a_listener_is_adopted_only_if_it_is_shared_and_of_the_same_address() {
        let listener = bind(anywhere(), Sharing::ReusePort).unwrap();
        let addr = listener.local_addr().unwrap();
        let copy = || OwnedFd::from(listener.try_clone().unwrap());
        assert_eq!(adopt_listener(copy(), addr).unwrap().local_addr().unwrap(), addr);
        assert!(adopt_listener(copy(), anywhere()).is_err());
        let exclusive = bind(anywhere(), Sharing::Exclusive).unwrap();
        let addr = exclusive.local_addr().unwrap();
        assert!(adopt_listener(exclusive.into(), addr).is_err());
    }

    #[test]
    fn only_a_connection_of_the_port_is_adopted_as_one() {
        let listener = bind(anywhere(), Sharing::ReusePort).unwrap();
        let addr = listener.local_addr().unwrap();
        let client = TcpStream::connect(addr).unwrap();
        let server = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        };
        assert!(adopt_connection(server.try_clone().unwrap().into(), addr).is_ok());
        assert!(adopt_connection(client.into(), addr).is_err());
        assert!(adopt_connection(listener.into(), addr).is_err());
        assert!(adopt_connection(UdpSocket::bind(addr).unwrap().into(), addr).is_err());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(adopt_connection(file.into(), addr).is_err());
        assert!(adopt_listener(server.into(), addr).is_err());
    }

    #[test]
    fn a_cookie_is_of_the_socket_and_not_of_the_descriptor() {
        let first = bind(anywhere(), Sharing::Exclusive).unwrap();
        let second = bind(anywhere(), Sharing::Exclusive).unwrap();
        let cookie_of = |socket: &TcpListener| cookie(socket).unwrap();
        assert_eq!(cookie_of(&first), cookie_of(&first.try_clone().unwrap()));
        assert_ne!(cookie_of(&first), cookie_of(&second));
    }
}
