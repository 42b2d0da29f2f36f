//! One byte stream to a client or a backend, whatever it runs over, and its two halves.
//!
//! The halves borrow the stream, so one task reads and writes both sides of an exchange without locks. Reads go through
//! tokio's `poll_read`, which notes a short read as "nothing more there": the next poll costs no system call.

use std::io::{self, IoSlice, Read};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{SendFlags, send};
use tokio::io::Interest;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

use crate::buffer::Buffer;
use crate::pipe::Pipe;
use crate::state::ListenerId;

/// A connected byte stream.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

/// A connection that a listener has accepted.
#[derive(Debug)]
pub struct Incoming {
    /// The connection.
    pub stream: Stream,
    /// Whose it is.
    pub listener: ListenerId,
    /// The client's address; `None` over a Unix socket.
    pub peer: Option<SocketAddr>,
    /// Our own address; `None` over a Unix socket.
    pub local: Option<SocketAddr>,
    /// Bytes that were read before the connection was handed on, at most a small buffer's worth.
    pub prefix: Vec<u8>,
}

/// The reading half of a stream.
#[derive(Debug)]
pub enum Reader<'a> {
    /// Of a TCP stream.
    Tcp(tcp::ReadHalf<'a>),
    /// Of a Unix stream.
    Unix(unix::ReadHalf<'a>),
}

/// The writing half of a stream.
#[derive(Debug)]
pub enum Writer<'a> {
    /// Of a TCP stream.
    Tcp(tcp::WriteHalf<'a>),
    /// Of a Unix stream.
    Unix(unix::WriteHalf<'a>),
}

impl Stream {
    /// Its two halves.
    pub fn split(&mut self) -> (Reader<'_>, Writer<'_>) {
        match self {
            Stream::Tcp(stream) => {
                let (reader, writer) = stream.split();
                (Reader::Tcp(reader), Writer::Tcp(writer))
            }
            Stream::Unix(stream) => {
                let (reader, writer) = stream.split();
                (Reader::Unix(reader), Writer::Unix(writer))
            }
        }
    }

    /// Closes it so that the other side sees a reset, not an orderly end. A Unix socket knows only the orderly one.
    pub fn reset(self) {
        if let Stream::Tcp(stream) = &self {
            // Failing means that it is gone already: then there is nobody left to tell.
            let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// Says this and closes it, now and without waiting for anything: what does not fit into the kernel's buffers is lost. What
    /// has come in already is read first, as far as it is little, because closing with unread bytes would be a reset.
    pub fn say_and_close(self, words: &[u8]) {
        let socket = match &self {
            Stream::Tcp(stream) => socket2::SockRef::from(stream),
            Stream::Unix(stream) => socket2::SockRef::from(stream),
        };
        let mut unread = [0; 4096];
        for _ in 0..4 {
            if !matches!((&*socket).read(&mut unread), Ok(1..)) {
                break;
            }
        }
        // Whoever does not take it, or is gone, does not hear it.
        let _ = socket.send(words);
    }

    /// Whether it is silent and open: nothing to read, no end, no error. Asked of an idle connection before it is used.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        let mut byte = [0];
        let read = match self {
            Stream::Tcp(stream) => stream.try_read(&mut byte),
            Stream::Unix(stream) => stream.try_read(&mut byte),
        };
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Reader<'_> {
    /// Reads into the space of `buffer`, which is not full; 0 is the end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut Buffer) -> Poll<io::Result<usize>> {
        let mut space = ReadBuf::new(buffer.space());
        ready!(match self {
            Reader::Tcp(half) => Pin::new(half).poll_read(cx, &mut space),
            Reader::Unix(half) => Pin::new(half).poll_read(cx, &mut space),
        })?;
        let count = space.filled().len();
        buffer.filled(count);
        Poll::Ready(Ok(count))
    }

    /// Moves at most `most` bytes into `pipe`, which is empty; 0 when only a read can tell what there is ([`Pipe::fill`]).
    pub fn poll_fill_pipe(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe, most: usize) -> Poll<io::Result<usize>> {
        match self {
            Reader::Tcp(half) => {
                let stream: &TcpStream = half.as_ref();
                ready!(stream.poll_read_ready(cx))?;
                Poll::Ready(stream.try_io(Interest::READABLE, || pipe.fill(stream, most)))
            }
            Reader::Unix(half) => {
                let stream: &UnixStream = half.as_ref();
                ready!(stream.poll_read_ready(cx))?;
                Poll::Ready(stream.try_io(Interest::READABLE, || pipe.fill(stream, most)))
            }
        }
    }
}

impl Writer<'_> {
    /// Writes some of `first`, then of `second`, in one system call; says how many bytes of both together.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, first: &[u8], second: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(match (first, second) {
            (only, []) | ([], only) => self.poll_write_one(cx, only),
            _ => self.poll_write_both(cx, &[IoSlice::new(first), IoSlice::new(second)]),
        })?;
        // A stream that takes nothing of something would be polled for ever.
        if written == 0 { Poll::Ready(Err(io::ErrorKind::WriteZero.into())) } else { Poll::Ready(Ok(written)) }
    }

    fn poll_write_one(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Writer::Tcp(half) => Pin::new(half).poll_write(cx, bytes),
            Writer::Unix(half) => Pin::new(half).poll_write(cx, bytes),
        }
    }

    fn poll_write_both(&mut self, cx: &mut Context<'_>, both: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Writer::Tcp(half) => Pin::new(half).poll_write_vectored(cx, both),
            Writer::Unix(half) => Pin::new(half).poll_write_vectored(cx, both),
        }
    }

    /// Writes some of the last bytes, which go no further before [`Writer::poll_shutdown`]: together with the end.
    pub fn poll_write_last(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Writer::Tcp(half) = self else { return self.poll_write(cx, bytes, &[]) };
        let stream: &TcpStream = half.as_ref();
        loop {
            ready!(stream.poll_write_ready(cx))?;
            let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
            let sent = stream.try_io(Interest::WRITABLE, || Ok(send(stream, bytes, flags)?));
            if !would_block(&sent) {
                return Poll::Ready(sent);
            }
        }
    }

    /// Writes some of what waits in `pipe`, which is something; says how many bytes.
    pub fn poll_drain_pipe(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        loop {
            let moved = match self {
                Writer::Tcp(half) => {
                    let stream: &TcpStream = half.as_ref();
                    ready!(stream.poll_write_ready(cx))?;
                    stream.try_io(Interest::WRITABLE, || pipe.drain(stream))
                }
                Writer::Unix(half) => {
                    let stream: &UnixStream = half.as_ref();
                    ready!(stream.poll_write_ready(cx))?;
                    stream.try_io(Interest::WRITABLE, || pipe.drain(stream))
                }
            };
            match moved {
                // As with a write.
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                moved if !would_block(&moved) => return Poll::Ready(moved),
                _ => {}
            }
        }
    }

    /// Ends the writing direction.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Writer::Tcp(half) => Pin::new(half).poll_shutdown(cx),
            Writer::Unix(half) => Pin::new(half).poll_shutdown(cx),
        }
    }
}

/// Tokio has noted then that it has to wait for the socket.
fn would_block(moved: &io::Result<usize>) -> bool {
    matches!(moved, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
