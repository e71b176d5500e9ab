//! As much of HTTP/1.1 as a saboteur takes: whole requests in, answers out, both over any stream of bytes.

use std::io::{self, BufRead, Read, Write};
use std::time::Duration;

use crate::sabotage;

/// The body of every honest answer.
pub const HELLO: &str = "hello world";
/// As long as [`HELLO`], and not it.
pub const NOT_HELLO: &str = "hello there";

/// The longest request head that is read.
const MAX_HEAD: u64 = 16 * 1024;
/// The longest delay that a request may ask for.
const MAX_DELAY: Duration = Duration::from_mins(1);

/// A request that was read to the end of its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What `?delay=` asked for; zero without it.
    pub delay: Duration,
    /// Whether the client will close the connection after the answer (RFC 9112, section 9.6).
    pub is_last: bool,
    /// What it calls itself, its `x-request-id`; empty without one. The answer repeats it.
    pub id: String,
}

/// Reads one request; `None` if the client closed the connection instead.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidData`] for what is not a request of HTTP/1.1 with a counted body or none;
/// [`io::ErrorKind::UnexpectedEof`] for half of one.
pub fn read_request(stream: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut head = stream.by_ref().take(MAX_HEAD);
    let mut line = String::new();
    if head.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let target = line.split(' ').nth(1).ok_or(io::ErrorKind::InvalidData)?;
    let mut request = Request { delay: requested_delay(target)?, is_last: false, id: String::new() };
    let mut body_length = 0;
    loop {
        line.clear();
        if head.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let field = line.trim_end();
        if field.is_empty() {
            break;
        }
        let (name, value) = field.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            body_length = value.parse().map_err(|_| io::ErrorKind::InvalidData)?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(io::ErrorKind::InvalidData.into());
        } else if name.eq_ignore_ascii_case("connection") {
            request.is_last = value.eq_ignore_ascii_case("close");
        } else if name.eq_ignore_ascii_case("x-request-id") {
            value.clone_into(&mut request.id);
        }
    }
    if io::copy(&mut stream.by_ref().take(body_length), &mut io::sink())? < body_length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(request))
}

/// The `delay` of a request target's query.
fn requested_delay(target: &str) -> io::Result<Duration> {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let Some(value) = query.split('&').find_map(|pair| pair.strip_prefix("delay=")) else {
        return Ok(Duration::ZERO);
    };
    let delay = sabotage::duration(value).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(delay.min(MAX_DELAY))
}

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// It stays open for the next request.
    KeepAlive,
    /// It is closed, and the answer says so.
    Close,
}

/// Writes an answer to the request `id` in one piece: the status line, the head, and the first `sent` bytes of `body`, whose
/// whole length the head promises.
///
/// # Errors
///
/// Those of the stream.
pub fn write_answer(
    stream: &mut impl Write,
    status: &str,
    body: &str,
    sent: usize,
    id: &str,
    persistence: Persistence,
) -> io::Result<()> {
    let connection = match persistence {
        Persistence::KeepAlive => "",
        Persistence::Close => "connection: close\r\n",
    };
    let id = if id.is_empty() { String::new() } else { format!("x-request-id: {id}\r\n") };
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n", body.len());
    stream.write_all(format!("{head}{id}{connection}\r\n{}", &body[..sent]).as_bytes())
}

/// Writes an answer that declares no length and ends with its connection (RFC 9112, section 6.3); only the first `sent` bytes
/// of its body.
pub(crate) fn write_undeclared(stream: &mut impl Write, body: &str, sent: usize, id: &str) -> io::Result<()> {
    let id = if id.is_empty() { String::new() } else { format!("x-request-id: {id}\r\n") };
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n{id}connection: close\r\n\r\n");
    stream.write_all(format!("{head}{}", &body[..sent]).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut bytes: &[u8]) -> io::Result<Option<Request>> {
        read_request(&mut bytes)
    }

    #[test]
    fn a_request_is_read_to_the_end_of_its_body_and_no_further() {
        let mut bytes: &[u8] = b"POST /?delay=3s HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET";
        let request = read_request(&mut bytes).unwrap().unwrap();
        assert_eq!(request, Request { delay: Duration::from_secs(3), is_last: false, id: String::new() });
        assert_eq!(bytes, b"GET");
    }

    #[test]
    fn a_client_that_will_close_is_heard() {
        let request = read(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap().unwrap();
        assert!(request.is_last);
    }

    #[test]
    fn a_closed_connection_is_no_request_and_half_a_request_is_an_error() {
        assert_eq!(read(b"").unwrap(), None);
        for half in [&b"GET / HTTP/1.1\r\nHost: a"[..], b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab"] {
            assert_eq!(read(half).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn a_delay_is_bounded() {
        let request = read(b"GET /?delay=9000s HTTP/1.1\r\n\r\n").unwrap().unwrap();
        assert_eq!(request.delay, MAX_DELAY);
    }
}
