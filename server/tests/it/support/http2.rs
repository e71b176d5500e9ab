//! One TCP connection that speaks HTTP/2 by hand, frame by frame (RFC 9113): it answers nothing by itself, so that a test
//! decides which PING is acknowledged.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a test waits for a frame before it calls it missing.
const PATIENCE: Duration = Duration::from_secs(20);

const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// What the server sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Data {
        stream: u32,
        bytes: Vec<u8>,
        is_last: bool,
    },
    Headers {
        stream: u32,
        is_last: bool,
    },
    Reset {
        stream: u32,
    },
    Ping([u8; 8]),
    Pong([u8; 8]),
    GoAway {
        last_stream: u32,
        code: u32,
    },
    /// SETTINGS and the like: what a test does not look at.
    Other(u8),
    /// The end of the connection.
    End,
}

/// "No new streams, please": the first step of a shutdown (RFC 9113, section 6.8).
pub const GO_AWAY_SOON: Frame = Frame::GoAway { last_stream: (1 << 31) - 1, code: 0 };

/// A client's end of a connection.
pub struct Http2Client {
    stream: TcpStream,
    next: u32,
}

impl Http2Client {
    /// Connects and greets; what the server greets with is read later.
    pub fn connect(addr: SocketAddr) -> Self {
        Self::connect_with_window(addr, 65_535)
    }

    /// The same, for a client that has room for so many bytes of each response.
    pub fn connect_with_window(addr: SocketAddr, window: u32) -> Self {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE).expect("a connection");
        stream.set_nodelay(true).expect("an open stream");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut client = Self { stream, next: 1 };
        client.stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("the preface is sent");
        // SETTINGS_INITIAL_WINDOW_SIZE.
        let [a, b, c, d] = window.to_be_bytes();
        client.send(0x4, 0, 0, &[0, 4, a, b, c, d]);
        client
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr().expect("an address")
    }

    /// Begins `GET path` and returns its stream.
    pub fn get(&mut self, path: &str) -> u32 {
        // Indexed fields of HPACK's static table (RFC 7541, appendix A): GET, http.
        self.headers(&[&[0x82, 0x86], &literal(4, path)[..], &literal(1, "test")].concat(), END_STREAM)
    }

    /// Asks for a WebSocket (RFC 8441) and returns its stream.
    pub fn open_websocket(&mut self, path: &str) -> u32 {
        let protocol = [&[0, 9][..], b":protocol", &[9], b"websocket"].concat();
        let version = [&[0, 21][..], b"sec-websocket-version", &[2], b"13"].concat();
        let head =
            [literal(2, "CONNECT"), vec![0x86], literal(4, path), literal(1, "test"), protocol, version];
        self.headers(&head.concat(), 0)
    }

    fn headers(&mut self, head: &[u8], flags: u8) -> u32 {
        let stream = self.next;
        self.next += 2;
        self.send(0x1, END_HEADERS | flags, stream, head);
        stream
    }

    pub fn data(&mut self, stream: u32, bytes: &[u8]) {
        self.send(0x0, 0, stream, bytes);
    }

    pub fn ping(&mut self, payload: [u8; 8]) {
        self.send(0x6, 0, 0, &payload);
    }

    pub fn pong(&mut self, payload: [u8; 8]) {
        self.send(0x6, ACK, 0, &payload);
    }

    /// Gives room for more bytes, on the connection (0) or on a stream.
    pub fn widen(&mut self, stream: u32, bytes: u32) {
        self.send(0x8, 0, stream, &bytes.to_be_bytes());
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
        let [a, b, c, d] = stream.to_be_bytes();
        let head = [length[1], length[2], length[3], kind, flags, a, b, c, d];
        self.stream.write_all(&[&head, payload].concat()).expect("the frame is sent");
    }

    /// Waits for the next frame.
    pub fn next(&mut self) -> Frame {
        let mut head = [0; 9];
        match self.stream.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Frame::End,
            Err(error) => panic!("no frame: {error}"),
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).expect("the frame's payload");
        let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().expect("four bytes"));
        let is_last = flags & END_STREAM != 0;
        match kind {
            0x0 => Frame::Data { stream, bytes: payload, is_last },
            0x1 => Frame::Headers { stream, is_last },
            0x3 => Frame::Reset { stream },
            0x6 if flags & ACK != 0 => Frame::Pong(payload.try_into().expect("eight bytes")),
            0x6 => Frame::Ping(payload.try_into().expect("eight bytes")),
            0x7 => Frame::GoAway { last_stream: number(0), code: number(4) },
            _ => Frame::Other(kind),
        }
    }

    /// Reads up to a frame that is so, and returns it with all before it.
    pub fn read_until(&mut self, is_it: impl Fn(&Frame) -> bool) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            let frame = self.next();
            let is_end = frame == Frame::End;
            frames.push(frame);
            if frames.last().is_some_and(&is_it) {
                return frames;
            }
            assert!(!is_end, "the connection ended after {frames:#?}");
        }
    }

    /// Reads the rest of a response's body.
    pub fn body(&mut self, of: u32) -> Vec<u8> {
        let is_end =
            |frame: &Frame| matches!(frame, Frame::Data { stream, is_last: true, .. } if *stream == of);
        body_of(&self.read_until(is_end), of)
    }

    /// Reads to the connection's end.
    pub fn rest(&mut self) -> Vec<Frame> {
        self.read_until(|frame| *frame == Frame::End)
    }
}

/// The bytes that `frames` have of a stream.
pub fn body_of(frames: &[Frame], of: u32) -> Vec<u8> {
    let pieces = frames.iter().filter_map(|frame| match frame {
        Frame::Data { stream, bytes, .. } if *stream == of => Some(&bytes[..]),
        _ => None,
    });
    pieces.collect::<Vec<_>>().concat()
}

/// A field whose name is in HPACK's static table: not indexed, not compressed (RFC 7541, section 6.2.2).
fn literal(name: u8, value: &str) -> Vec<u8> {
    [&[name, u8::try_from(value.len()).expect("a short value")], value.as_bytes()].concat()
}
