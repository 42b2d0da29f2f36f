//! A client that sends what bytes it likes and sees exactly what comes back.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};

use super::message::{Body, Framing};
use super::wire::{is_reset, read_to_ending};
use super::{End, Ending, Head, Wire};

/// One connection to a listener.
pub struct Client {
    reader: BufReader<Wire>,
}

/// A final response and the interim ones before it.
#[derive(Clone, Debug)]
pub struct Response {
    pub interim: Vec<Head>,
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    pub end: End,
}

impl Client {
    /// Connects to an address as a `listening` line writes it.
    #[track_caller]
    pub fn connect(address: &str) -> Client {
        match Client::try_connect(address) {
            Some(client) => client,
            None => panic!("nothing accepts at {address}"),
        }
    }

    /// Connects, `None` when nothing listens there.
    pub fn try_connect(address: &str) -> Option<Client> {
        Wire::connect(address).ok().map(Client::of)
    }

    /// Connects from this loopback address (all of 127.0.0.0/8 is ours).
    pub fn connect_from(source: &str, address: &str) -> Client {
        let source: IpAddr = source.parse().expect("an IP address");
        let target: SocketAddr = address.parse().expect("an IP address and port");
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None).expect("descriptors are not used up");
        socket.bind(&SocketAddr::new(source, 0).into()).expect("loopback is ours");
        socket.connect(&target.into()).expect("the listener accepts");
        Client::of(Wire::tcp(TcpStream::from(socket)))
    }

    fn of(wire: Wire) -> Client {
        Client { reader: BufReader::new(wire) }
    }

    /// Sends bytes; a peer that has gone shows in what is read next.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        match self.reader.get_mut().write_all(bytes.as_ref()) {
            Err(fault) if !is_reset(&fault) => panic!("sending came to a standstill: {fault}"),
            _ => {}
        }
    }

    /// A second handle for sending while this one reads.
    pub fn sender(&self) -> Wire {
        self.reader.get_ref().try_clone()
    }

    /// The next head, interim or not.
    #[track_caller]
    pub fn head(&mut self) -> Head {
        let head = Head::read(&mut self.reader).expect("a head comes whole");
        head.expect("a head comes before the connection ends")
    }

    /// The next final response, whatever the request was (HEAD: see [`Client::response_to_head`]).
    #[track_caller]
    pub fn response(&mut self) -> Response {
        let (interim, head) = self.final_head();
        let framing = match status_of(&head) {
            101 | 204 | 304 => Framing::None,
            _ => head.framing(Framing::ToClose),
        };
        self.finish(interim, head, framing)
    }

    /// The next final response when the request was a HEAD.
    #[track_caller]
    pub fn response_to_head(&mut self) -> Response {
        let (interim, head) = self.final_head();
        self.finish(interim, head, Framing::None)
    }

    /// The body behind a final head that was taken.
    #[track_caller]
    #[allow(dead_code, reason = "for the tests of all pairs of protocols")]
    pub fn body_behind(&mut self, head: Head) -> Response {
        let framing = head.framing(Framing::ToClose);
        self.finish(Vec::new(), head, framing)
    }

    #[track_caller]
    fn final_head(&mut self) -> (Vec<Head>, Head) {
        let mut interim = Vec::new();
        loop {
            let head = self.head();
            match status_of(&head) {
                100 | 102..=199 => interim.push(head),
                _ => return (interim, head),
            }
        }
    }

    fn finish(&mut self, interim: Vec<Head>, head: Head, framing: Framing) -> Response {
        let body = Body::read(&mut self.reader, framing);
        Response { interim, head, body: body.bytes, trailers: body.trailers, end: body.end }
    }

    /// Sends a GET for this path and reads the response.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        self.response()
    }

    /// Sends a POST with this body and reads the response.
    #[track_caller]
    pub fn post(&mut self, path: &str, body: &str) -> Response {
        self.send(format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        self.response()
    }

    /// Asks for a WebSocket on this path; what follows a 101 is the test's.
    pub fn ask_for_websocket(&mut self, path: &str) {
        self.send(format!(
            "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ));
    }

    /// Exactly so many bytes.
    #[track_caller]
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.reader.read_exact(&mut bytes).expect("as many bytes as expected come");
        bytes
    }

    /// Exactly so many bytes; `None` when the connection ends before.
    pub fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.reader.read_exact(&mut bytes).ok().map(|()| bytes)
    }

    /// Waits until something can be read, and leaves it there.
    #[track_caller]
    pub fn await_bytes(&mut self) {
        let there = self.reader.fill_buf().expect("something comes");
        assert!(!there.is_empty(), "the connection ended before anything came");
    }

    /// Sends text and expects the same back: the other end echoes.
    #[track_caller]
    pub fn expect_echo(&mut self, text: &str) {
        self.send(text);
        let echo = self.bytes(text.len());
        assert_eq!(String::from_utf8_lossy(&echo), text);
    }

    /// What is left to read and how the connection ended.
    #[track_caller]
    pub fn rest(&mut self) -> (Vec<u8>, Ending) {
        read_to_ending(&mut self.reader).expect("the connection is ended by the other side")
    }

    /// How the connection ended; not a byte may come before.
    #[track_caller]
    pub fn ending(&mut self) -> Ending {
        let (rest, ending) = self.rest();
        assert!(rest.is_empty(), "unexpected bytes: {:?}", rest.escape_ascii().to_string());
        ending
    }

    /// Whether the connection is still open with nothing to read.
    pub fn is_open(&self) -> bool {
        let Wire::Tcp(stream) = self.reader.get_ref() else { panic!("only asked of TCP") };
        stream.set_nonblocking(true).expect("a connected stream");
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false).expect("a connected stream");
        matches!(peeked, Err(fault) if fault.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Sends a FIN and goes on reading.
    pub fn finish_writing(&self) {
        self.reader.get_ref().finish_writing();
    }

    /// Ends with a RST.
    pub fn reset(self) {
        self.reader.into_inner().reset();
    }
}

impl Response {
    pub fn status(&self) -> u16 {
        status_of(&self.head)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Fails unless it is this status with this body, complete.
    #[track_caller]
    pub fn assert(&self, status: u16, body: &str) {
        assert_eq!((self.status(), self.text().as_str()), (status, body), "{self:?}");
        assert!(self.looks_complete(), "{self:?}");
    }

    /// Whether a client would take the body for whole.
    pub fn looks_complete(&self) -> bool {
        matches!(self.end, End::Complete | End::Closed)
    }
}

fn status_of(head: &Head) -> u16 {
    let status = head.start.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.unwrap_or_else(|| panic!("not a status line: {:?}", head.start))
}
