//! A TCP or Unix stream under one name, with the ways to end it that tests care about.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

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
}

impl Wire {
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
        }
    }

    pub fn try_clone(&self) -> Wire {
        match self {
            Wire::Tcp(stream) => stream.try_clone().map(Wire::Tcp),
            Wire::Unix(stream) => stream.try_clone().map(Wire::Unix),
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
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Tcp(stream) => stream.write(bytes),
            Wire::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
