//! HTTP/2 frame by frame, for what no good client does: frames are written by hand, and what comes back is read as frames.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::DEADLINE;

/// What a client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 0x1;
pub const ACK: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;
pub const PADDED: u8 = 0x8;

/// Error codes (RFC 9113 §7).
pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// The settings that the tests look at or change (RFC 9113 §6.5.2).
pub const HEADER_TABLE_SIZE: u16 = 1;
pub const MAX_CONCURRENT_STREAMS: u16 = 3;
pub const INITIAL_WINDOW_SIZE: u16 = 4;
pub const MAX_HEADER_LIST_SIZE: u16 = 6;

/// A frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// Any frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&[a, b, c, kind, flags][..], &stream.to_be_bytes(), payload].concat()
}

pub fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<_> =
        settings.iter().flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    frame(SETTINGS, 0, 0, &payload)
}

pub fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

pub fn ping() -> Vec<u8> {
    frame(PING, 0, 0, b"12345678")
}

/// A whole head that ends its stream.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &head("GET", path, &[]))
}

/// A whole head behind which a body follows.
pub fn post(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &head("POST", path, &[]))
}

/// The fields of a request to `test`, encoded.
pub fn head(method: &str, path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "test")];
    block(&[&pseudo[..], fields].concat())
}

/// Fields as they are, each as a literal that is not remembered (RFC 7541 §6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// A field that is remembered (RFC 7541 §6.2.1).
pub fn remembered(name: &str, value: &str) -> Vec<u8> {
    let mut field = block(&[(name, value)]);
    field[0] = 0x40;
    field
}

/// The field that was remembered last, in one byte (RFC 7541 §6.1, behind the 61 of the static table).
pub const LAST_REMEMBERED: u8 = 0x80 | 62;

/// A length with a prefix of seven bits (RFC 7541 §5.1).
fn integer(into: &mut Vec<u8>, length: usize) {
    if length < 127 {
        into.push(length as u8);
        return;
    }
    into.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        into.push((rest % 128 + 128) as u8);
        rest /= 128;
    }
    into.push(rest as u8);
}

/// The status in a block of a client that lets nothing be remembered ([`HEADER_TABLE_SIZE`] 0).
#[track_caller]
pub fn status_of(block: &[u8]) -> u16 {
    // Changes of the table's size come first (RFC 7541 §4.2).
    let block: Vec<_> = block.iter().copied().skip_while(|byte| byte & 0xe0 == 0x20).collect();
    match block[0] {
        indexed @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
        // A literal whose name is that of one of these.
        literal if (8..=14).contains(&(literal & if literal & 0x40 == 0 { 0x0f } else { 0x3f })) => digits(&block[1..]),
        other => panic!("a status comes first, not {other:#x} in {block:x?}"),
    }
}

/// Three digits, with Huffman's code or without (RFC 7541 §5.2, appendix B).
fn digits(text: &[u8]) -> u16 {
    let (huffman, length) = (text[0] & 0x80 != 0, usize::from(text[0] & 0x7f));
    let text = &text[1..=length];
    if !huffman {
        return std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).expect("three digits");
    }
    let bits: String = text.iter().map(|byte| format!("{byte:08b}")).collect();
    let (mut at, mut number) = (0, 0);
    for _ in 0..3 {
        let short = u16::from_str_radix(&bits[at..at + 5], 2).expect("bits");
        let (digit, length) = match short {
            0..=2 => (short, 5),
            _ => (u16::from_str_radix(&bits[at..at + 6], 2).expect("bits") - 0x19 + 3, 6),
        };
        (number, at) = (number * 10 + digit, at + length);
    }
    number
}

/// A connection on which frames are written by hand.
pub struct Raw {
    stream: TcpStream,
    /// What was read of it.
    bytes: Vec<u8>,
}

impl Raw {
    /// Connects and says the preface and these settings, besides that nothing is to be remembered.
    #[track_caller]
    pub fn connect(address: &str, more: &[(u16, u32)]) -> Raw {
        let mut raw = Raw::silent(address);
        raw.send([PREFACE, &settings(&[&[(HEADER_TABLE_SIZE, 0)], more].concat())].concat());
        raw
    }

    /// Connects and says nothing.
    #[track_caller]
    pub fn silent(address: &str) -> Raw {
        Raw::with_buffer(address, None)
    }

    /// The same, with a kernel's buffer of this size for what comes.
    #[track_caller]
    pub fn with_buffer(address: &str, size: Option<usize>) -> Raw {
        let address: SocketAddr = address.parse().expect("an IP address and port");
        let socket =
            Socket::new(Domain::for_address(address), Type::STREAM, None).expect("descriptors are not used up");
        if let Some(size) = size {
            socket.set_recv_buffer_size(size).expect("an open socket");
        }
        socket.connect(&address.into()).expect("it accepts");
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true).expect("a connected stream");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline above zero");
        stream.set_write_timeout(Some(DEADLINE)).expect("a deadline above zero");
        Raw { stream, bytes: Vec::new() }
    }

    /// The backend's end of a connection that was accepted, behind the preface; `None` when none comes.
    pub fn accepted(stream: TcpStream) -> Option<Raw> {
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        stream.set_write_timeout(Some(DEADLINE)).ok()?;
        let mut raw = Raw { stream, bytes: Vec::new() };
        let mut preface = [0; PREFACE.len()];
        raw.stream.read_exact(&mut preface).ok()?;
        (preface == PREFACE).then_some(raw)
    }

    /// The stream of the next request; `None` when the connection has ended.
    pub fn request(&mut self) -> Option<u32> {
        loop {
            let frame = self.next()?;
            if frame.kind == HEADERS {
                return Some(frame.stream);
            }
        }
    }

    /// Sends bytes; false when the other side has gone, or takes none before the deadline.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// The next frame; `None` when the connection has ended, however that was.
    #[track_caller]
    pub fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.take() {
                return Some(frame);
            }
            let mut bytes = [0; 16 * 1024];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => self.bytes.extend_from_slice(&bytes[..count]),
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {
                    panic!("no frame and no end within {DEADLINE:?}")
                }
                Err(_) => return None,
            }
        }
    }

    fn take(&mut self) -> Option<Frame> {
        let &[a, b, c, kind, flags, s, t, u, v, ..] = &self.bytes[..] else { return None };
        let end = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
        let payload = self.bytes.get(9..end)?.to_vec();
        self.bytes.drain(..end);
        Some(Frame { kind, flags, stream: u32::from_be_bytes([s, t, u, v]), payload })
    }

    /// The next frame of this kind on this stream; others are passed over.
    #[track_caller]
    pub fn expect(&mut self, kind: u8, stream: u32) -> Frame {
        let mut others = Vec::new();
        while let Some(frame) = self.next() {
            if frame.kind == kind && frame.stream == stream {
                return frame;
            }
            others.push((frame.kind, frame.stream, frame.payload.len()));
        }
        panic!("the connection ended without a frame of kind {kind} on stream {stream}, after {others:?}");
    }

    /// The status of the answer on this stream.
    #[track_caller]
    pub fn status(&mut self, stream: u32) -> u16 {
        status_of(&self.expect(HEADERS, stream).payload)
    }

    /// What becomes of a request on this stream: an answer's status, or the code of a reset.
    #[track_caller]
    pub fn fate(&mut self, stream: u32) -> Result<u16, u32> {
        while let Some(frame) = self.next() {
            match frame.kind {
                HEADERS if frame.stream == stream => return Ok(status_of(&frame.payload)),
                RST_STREAM if frame.stream == stream => return Err(code(&frame.payload)),
                GOAWAY => panic!("GOAWAY {} {}", code(&frame.payload[4..]), frame.payload[8..].escape_ascii()),
                _ => {}
            }
        }
        panic!("the connection ended before anything came on stream {stream}");
    }

    /// Reads to the end of the connection, which has to come; the code of the last GOAWAY if there was one.
    #[track_caller]
    pub fn ending(&mut self) -> Option<u32> {
        let mut last = None;
        while let Some(frame) = self.next() {
            if frame.kind == GOAWAY {
                last = Some(code(&frame.payload[4..]));
            }
        }
        last
    }

    /// Sends the same again and again until the connection is ended by the other side, and reads what comes; for `patience` at
    /// most. Gives the code of its GOAWAY if one was seen, and whether it has ended.
    pub fn flood(&mut self, bytes: &[u8], patience: Duration) -> (Option<u32>, bool) {
        self.stream.set_nonblocking(true).expect("a connected stream");
        let (begun, mut last, mut unsent) = (Instant::now(), None, &[][..]);
        let ended = loop {
            if begun.elapsed() > patience {
                break false;
            }
            if unsent.is_empty() {
                unsent = bytes;
            }
            match self.stream.write(unsent) {
                Ok(count) => unsent = &unsent[count..],
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(_) => break true,
            }
            if !self.read_what_is_there() {
                break true;
            }
            while let Some(frame) = self.take() {
                if frame.kind == GOAWAY {
                    last = Some(code(&frame.payload[4..]));
                }
            }
        };
        while let Some(frame) = self.take() {
            if frame.kind == GOAWAY {
                last = Some(code(&frame.payload[4..]));
            }
        }
        self.stream.set_nonblocking(false).expect("a connected stream");
        (last, ended)
    }

    /// Whether the connection goes on.
    fn read_what_is_there(&mut self) -> bool {
        let mut bytes = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return false,
                Ok(count) => self.bytes.extend_from_slice(&bytes[..count]),
                Err(fault) => return fault.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }

    /// Sends as much as the kernel takes, and forgets what comes; says how many bytes, and whether the connection has ended.
    pub fn send_what_fits(&mut self, bytes: &[u8]) -> (usize, bool) {
        self.stream.set_nonblocking(true).expect("a connected stream");
        let (sent, broken) = match self.stream.write(bytes) {
            Ok(count) => (count, false),
            Err(fault) => (0, fault.kind() != io::ErrorKind::WouldBlock),
        };
        let ended = broken || !self.read_what_is_there();
        self.bytes.clear();
        self.stream.set_nonblocking(false).expect("a connected stream");
        if sent < bytes.len() {
            std::thread::sleep(Duration::from_millis(1));
        }
        (sent, ended)
    }

    /// Sends as much as the kernel takes, and reads nothing; says whether the connection was reset.
    pub fn send_what_fits_unread(&mut self, bytes: &[u8]) -> bool {
        self.stream.set_nonblocking(true).expect("a connected stream");
        let sent = self.stream.write(bytes);
        self.stream.set_nonblocking(false).expect("a connected stream");
        self.is_cut() || sent.is_err_and(|fault| fault.kind() != io::ErrorKind::WouldBlock)
    }

    /// The next frame on this stream; `None` when the connection ends before.
    #[track_caller]
    pub fn next_of_stream(&mut self, stream: u32) -> Option<Frame> {
        loop {
            let frame = self.next()?;
            if frame.stream == stream {
                return Some(frame);
            }
        }
    }

    /// Whether the other side has ended it, of which nothing is read.
    pub fn is_cut(&self) -> bool {
        !matches!(self.stream.take_error(), Ok(None))
    }

    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}

/// A backend that speaks HTTP/2 as the script does, which gets each connection on a thread of its own; its address.
pub fn backend(script: impl Fn(Raw) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = listener.local_addr().expect("a bound socket has an address").to_string();
    let script = Arc::new(script);
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let script = Arc::clone(&script);
            std::thread::spawn(move || Raw::accepted(stream).map(|raw| script(raw)));
        }
    });
    address
}

/// The error code that these bytes begin with.
pub fn code(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
