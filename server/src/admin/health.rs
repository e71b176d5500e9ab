//! The client's side: asking a replica whether it is ready.

use std::io::{self, Read, Write};
use std::net;
use std::os::unix::net as unix;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tokio::net::UnixStream;

use super::address::AdminAddress;

/// The most that is read of a health answer.
const MAX_ANSWER: u64 = 4096;

/// What a replica says about its readiness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Whether it may receive new traffic.
    pub is_ready: bool,
    /// The state in its own words.
    pub state: String,
}

/// Asks the replica at `addr` whether it is ready. It blocks, and is cheap enough for a health check that a container
/// engine runs every second.
///
/// Another user can take the name of a unix socket, so an answer counts only if the socket belongs to this process's own
/// effective user or to root (`SO_PEERCRED`, unix(7)). Root believes every user. Over TCP nothing tells users apart.
///
/// # Errors
///
/// If nothing listens there, if the socket belongs to another user
/// ([`PermissionDenied`](io::ErrorKind::PermissionDenied)), or if no replica answers within `timeout`.
pub fn ask_ready(addr: &AdminAddress, timeout: Duration) -> io::Result<Readiness> {
    match addr {
        AdminAddress::Abstract(name) => {
            ask_unix(&SocketAddrUnix::new_abstract_name(name.as_bytes())?, timeout)
        }
        AdminAddress::Path(path) => ask_unix(&SocketAddrUnix::new(path)?, timeout),
        AdminAddress::Tcp(addr) => {
            let stream = net::TcpStream::connect_timeout(addr, timeout)?;
            stream.set_read_timeout(Some(timeout))?;
            stream.set_write_timeout(Some(timeout))?;
            ask(stream)
        }
    }
}

fn ask_unix(addr: &SocketAddrUnix, timeout: Duration) -> io::Result<Readiness> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // The time to send is also the time that connect(2) waits for room in the backlog (socket(7)).
    set_socket_timeout(&socket, Timeout::Send, Some(timeout))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(timeout))?;
    connect(&socket, addr)?;
    let stream = unix::UnixStream::from(socket);
    let (peer, own) = (user_of_peer(&stream)?, rustix::process::geteuid().as_raw());
    if !is_trusted(peer, own) {
        let line = format!("the socket belongs to user {peer}, and this process runs as user {own}");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, line));
    }
    ask(stream)
}

/// Whether user `own` believes what user `peer` says.
const fn is_trusted(peer: u32, own: u32) -> bool {
    peer == own || peer == 0 || own == 0
}

/// The effective user of the process that listens at the other end.
///
/// tokio asks for `SO_PEERCRED`, not rustix: a peer in another PID namespace has the process id 0, which rustix's type
/// cannot hold. tokio registers each stream with a runtime, so there is one for a moment.
fn user_of_peer(stream: &unix::UnixStream) -> io::Result<u32> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    stream.set_nonblocking(true)?;
    let peer = {
        let _entered = runtime.enter();
        UnixStream::from_std(stream.try_clone()?).and_then(|stream| stream.peer_cred())
    };
    // The caller may be inside a runtime, where waiting for another one's end is not allowed.
    runtime.shutdown_background();
    stream.set_nonblocking(false)?;
    Ok(peer?.uid())
}

fn ask(mut stream: impl Read + Write) -> io::Result<Readiness> {
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    parse_readiness(&answer)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an answer of a replica"))
}

fn parse_readiness(answer: &[u8]) -> Option<Readiness> {
    let answer = std::str::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?;
    let state = body.trim();
    let is_ready = match status {
        "200" => true,
        "503" => false,
        _ => return None,
    };
    let is_word = !state.is_empty() && state.bytes().all(|byte| byte.is_ascii_lowercase());
    is_word.then(|| Readiness { is_ready, state: state.to_owned() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_own_user_and_root_are_believed_except_by_root() {
        assert!(is_trusted(1000, 1000) && is_trusted(0, 1000) && is_trusted(1000, 0));
        assert!(!is_trusted(1001, 1000));
    }

    #[tokio::test]
    async fn the_user_of_the_other_end_is_known_inside_a_runtime_too() {
        let (near, _far) = unix::UnixStream::pair().unwrap();
        assert_eq!(user_of_peer(&near).unwrap(), rustix::process::geteuid().as_raw());
    }

    #[test]
    fn a_replica_that_accepts_no_question_is_not_waited_for() {
        let name = format!("hitless-test.{}.full", std::process::id());
        let addr = SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap();
        let socket = |flags| socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        let listener = socket(SocketFlags::CLOEXEC);
        rustix::net::bind(&listener, &addr).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let mut waiting = Vec::new();
        loop {
            let client = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
            if connect(&client, &addr).is_err() {
                break;
            }
            waiting.push(client);
        }
        let asked = ask_ready(&AdminAddress::Abstract(name), Duration::from_millis(20));
        assert_eq!(asked.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn readiness_is_read_from_an_answer() {
        let ready = parse_readiness(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n").unwrap();
        assert_eq!(ready, Readiness { is_ready: true, state: "ready".into() });
        let draining = parse_readiness(b"HTTP/1.1 503 Service Unavailable\r\n\r\ndraining\n").unwrap();
        assert_eq!(draining, Readiness { is_ready: false, state: "draining".into() });
    }

    proptest! {
        #[test]
        fn garbage_is_never_ready(answer in proptest::collection::vec(any::<u8>(), 0..256)) {
            prop_assert_eq!(parse_readiness(&answer), None);
        }
    }
}
