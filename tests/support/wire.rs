//! A TCP, Unix or TLS stream under one name, with the ways to end it that tests care about.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};
use socket2::SockRef;

use super::DEADLINE;

/// How the other side ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By a FIN.
    Closed,
    /// By a RST.
    Reset,
}

/// A connected stream; every read has the tests' deadline.
#[derive(Debug)]
pub enum Wire {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// The side of an origin; its handshake is done by [`Wire::shake`].
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

/// What came of the handshake of a client.
#[derive(Clone, Debug)]
pub struct Shaken {
    /// An old session was taken up again.
    pub resumed: bool,
    /// The name that was asked for.
    pub name: Option<String>,
    /// Whether the client showed a certificate.
    pub has_shown: bool,
    /// What is spoken.
    pub alpn: Option<String>,
}

impl Wire {
    /// A connection on which TLS is to be spoken.
    pub fn tls(stream: TcpStream, config: Arc<ServerConfig>) -> Wire {
        let Wire::Tcp(stream) = Wire::tcp(stream) else { unreachable!("it is TCP") };
        let session = ServerConnection::new(config).expect("a good configuration");
        Wire::Tls(Box::new(StreamOwned::new(session, stream)))
    }

    /// Shakes hands; nothing comes of it on a plain stream.
    pub fn shake(&mut self) -> io::Result<Option<Shaken>> {
        let Wire::Tls(stream) = self else { return Ok(None) };
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Some(Shaken {
            resumed: stream.conn.handshake_kind() == Some(HandshakeKind::Resumed),
            name: stream.conn.server_name().map(str::to_owned),
            has_shown: stream.conn.peer_certificates().is_some(),
            alpn: stream.conn.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
        }))
    }

    pub fn tcp(stream: TcpStream) -> Wire {
        stream.set_nodelay(true).expect("a connected stream takes options");
        Wire::Tcp(stream).with_deadline()
    }

    pub fn unix(stream: UnixStream) -> Wire {
        Wire::Unix(stream).with_deadline()
    }

    /// Connects to an address as a `listening` line or a configuration writes it.
    pub fn connect(address: &str) -> io::Result<Wire> {
        match address.strip_prefix("unix:") {
            Some(path) => UnixStream::connect(path).map(Wire::unix),
            None => TcpStream::connect(address).map(Wire::tcp),
        }
    }

    fn with_deadline(self) -> Wire {
        let options = self.options();
        options.set_read_timeout(Some(DEADLINE)).expect("a deadline above zero");
        options.set_write_timeout(Some(DEADLINE)).expect("a deadline above zero");
        self
    }

    fn options(&self) -> SockRef<'_> {
        match self {
            Wire::Tcp(stream) => SockRef::from(stream),
            Wire::Unix(stream) => SockRef::from(stream),
            Wire::Tls(stream) => SockRef::from(&stream.sock),
        }
    }

    /// A second handle; of TLS that of what is under it.
    pub fn try_clone(&self) -> Wire {
        match self {
            Wire::Tcp(stream) => stream.try_clone().map(Wire::Tcp),
            Wire::Unix(stream) => stream.try_clone().map(Wire::Unix),
            Wire::Tls(stream) => stream.sock.try_clone().map(Wire::Tcp),
        }
        .expect("descriptors are not used up")
    }

    /// Whether bytes wait to be read now.
    pub fn has_more(&self) -> bool {
        let Wire::Tcp(stream) = self else { panic!("only asked of TCP") };
        stream.set_nonblocking(true).expect("a connected stream");
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false).expect("a connected stream");
        matches!(peeked, Ok(1))
    }

    /// Sends a FIN and goes on reading.
    pub fn finish_writing(&self) {
        self.options().shutdown(Shutdown::Write).expect("a stream that is still connected");
    }

    /// Says in TLS that nothing more comes (close_notify).
    pub fn say_end(&mut self) {
        let Wire::Tls(stream) = self else { panic!("only said in TLS") };
        stream.conn.send_close_notify();
        drop(stream.flush());
    }

    /// Changes the keys, which is a message of TLS itself.
    pub fn change_keys(&mut self) {
        let Wire::Tls(stream) = self else { panic!("only done in TLS") };
        stream.conn.refresh_traffic_keys().expect("TLS 1.3 was agreed upon");
        drop(stream.flush());
    }

    /// Ends with a RST instead of a FIN (a Unix stream knows no such thing and is closed).
    pub fn reset(self) {
        if let Wire::Tcp(stream) = &self {
            SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("a TCP stream lingers");
        }
    }
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Tcp(stream) => stream.read(into),
            Wire::Unix(stream) => stream.read(into),
            Wire::Tls(stream) => stream.read(into),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Tcp(stream) => stream.write(bytes),
            Wire::Unix(stream) => stream.write(bytes),
            Wire::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Wire::Tcp(_) | Wire::Unix(_) => Ok(()),
            Wire::Tls(stream) => stream.flush(),
        }
    }
}

/// Reads what is left and tells how it ended.
pub fn read_to_ending(from: &mut impl Read) -> io::Result<(Vec<u8>, Ending)> {
    let mut bytes = Vec::new();
    match from.read_to_end(&mut bytes) {
        Ok(_) => Ok((bytes, Ending::Closed)),
        Err(fault) if is_reset(&fault) => Ok((bytes, Ending::Reset)),
        Err(fault) => Err(fault),
    }
}

/// Whether a fault says that the other side reset the connection.
pub fn is_reset(fault: &io::Error) -> bool {
    matches!(fault.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}
