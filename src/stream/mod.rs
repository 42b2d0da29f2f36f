//! One byte stream to a client or a backend, whatever it runs over, and its two halves.
//!
//! The halves borrow the stream, so one task reads and writes both sides of an exchange without locks. A short read is noted as
//! "nothing more there": the next poll costs no system call.

mod secured;
mod socket;
mod watched;

use std::io::{self, IoSlice, Read};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use rustix::net::SendFlags;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::buffer::{Blocks, Buffer};
use crate::pipe::Pipe;
use crate::proxy_protocol::Tls;
use crate::state::ListenerId;
use crate::tls::Identity;
pub use secured::{Plain, Secured};
pub use socket::Socket;
pub use watched::{Seen, Watched};

/// A connected byte stream.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
    /// Over TLS, whatever is under that.
    Tls(Box<Secured>),
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
    /// In the clear.
    Plain(Socket<'a>),
    /// Of a TLS stream.
    Tls(&'a Secured),
}

/// The writing half of a stream.
#[derive(Debug)]
pub enum Writer<'a> {
    /// In the clear.
    Plain(Socket<'a>),
    /// Of a TLS stream.
    Tls(&'a Secured),
}

impl Stream {
    /// Whether nobody on the way can read or change what is said on it.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        matches!(self, Stream::Tls(_))
    }

    /// Whether this is what both sides have agreed to speak (ALPN), which they can over TLS only.
    #[must_use]
    pub fn speaks(&self, protocol: &str) -> bool {
        matches!(self, Stream::Tls(stream) if stream.speaks(protocol))
    }

    /// The client, where something was demanded of it in the handshake.
    #[must_use]
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        match self {
            Stream::Tls(stream) => stream.identity(),
            Stream::Tcp(_) | Stream::Unix(_) => None,
        }
    }

    /// What is known of a client's TLS, where that ends here.
    #[must_use]
    pub fn tls(&self) -> Option<Tls> {
        match self {
            Stream::Tls(stream) => stream.tls(),
            Stream::Tcp(_) | Stream::Unix(_) => None,
        }
    }

    /// Waits until there is something to read, or an end.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(stream) => stream.poll_read_ready(cx),
            Stream::Unix(stream) => stream.poll_read_ready(cx),
            Stream::Tls(_) => Poll::Ready(Ok(())),
        }
    }

    /// Its two halves.
    pub fn split(&mut self) -> (Reader<'_>, Writer<'_>) {
        match self {
            Stream::Tcp(stream) => (Reader::Plain(Socket::Tcp(stream)), Writer::Plain(Socket::Tcp(stream))),
            Stream::Unix(stream) => (Reader::Plain(Socket::Unix(stream)), Writer::Plain(Socket::Unix(stream))),
            Stream::Tls(stream) => (Reader::Tls(stream), Writer::Tls(stream)),
        }
    }

    /// Closes it so that the other side sees a reset, not an orderly end. A Unix socket knows only the orderly one.
    pub fn reset(self) {
        // Failing means that it is gone already: then there is nobody left to tell.
        let abandon = |stream: &TcpStream| drop(socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)));
        match &self {
            Stream::Tcp(stream) => abandon(stream),
            Stream::Unix(_) => {}
            Stream::Tls(stream) => stream.with_tcp(abandon),
        }
    }

    /// Closes it in order: over TLS that is said, as far as it can be without waiting.
    pub fn close(self) {
        if let Stream::Tls(stream) = &self {
            // Who is gone does not hear it, nor who takes nothing.
            let _ = stream.poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }

    /// Says this and closes it, now and without waiting for anything: what does not fit into the kernel's buffers is lost. What
    /// has come in already is read first, as far as it is little, because closing with unread bytes would be a reset.
    pub fn say_and_close(self, words: &[u8]) {
        let socket = match &self {
            Stream::Tcp(stream) => socket2::SockRef::from(stream),
            Stream::Unix(stream) => socket2::SockRef::from(stream),
            // Not in the clear.
            Stream::Tls(_) => return self.reset(),
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
            Stream::Tls(stream) => return stream.is_silent(),
        };
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// For libraries that ask for tokio's traits; the data plane has its own halves.
impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, space: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            // The libraries' space has never been filled mostly, and is much.
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, space),
            // Tokio takes a short read for all that there is.
            Stream::Unix(stream) => Socket::Unix(stream).poll_read_into(cx, space),
            Stream::Tls(stream) => stream.poll_read(cx, space),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.split().1.poll_write_one(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.split().1.poll_write_parts(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.split().1.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.split().1.poll_shutdown(cx)
    }
}

impl Reader<'_> {
    /// Reads into the buffer in `slot`, which is not full, or into one of at most `size` bytes that is taken for it; 0 is the
    /// end. While there is nothing to read, an empty buffer is given back.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        slot: &mut Option<Buffer>,
        blocks: &Blocks,
        size: usize,
    ) -> Poll<io::Result<usize>> {
        let take = || blocks.take_at_most(size);
        let read = match self {
            Reader::Plain(socket) => socket.poll_read(cx, slot, take),
            Reader::Tls(stream) => {
                let buffer = slot.get_or_insert_with(take);
                let mut space = ReadBuf::new(buffer.space());
                let read = stream.poll_read(cx, &mut space);
                let count = space.filled().len();
                buffer.filled(count);
                read.map_ok(|()| count)
            }
        };
        if read.is_pending()
            && let Some(empty) = slot.take_if(|buffer| buffer.is_empty())
        {
            blocks.give(empty);
        }
        read
    }

    /// Moves at most `most` bytes into `pipe`, which is empty; 0 when only a read can tell what there is ([`Pipe::fill`]).
    pub fn poll_fill_pipe(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe, most: usize) -> Poll<io::Result<usize>> {
        match self {
            Reader::Plain(socket) => socket.poll_fill(cx, pipe, most),
            Reader::Tls(_) => Poll::Ready(Ok(0)),
        }
    }
}

impl Writer<'_> {
    /// Writes some of `first`, then of `second`, in one system call; says how many bytes of both together.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, first: &[u8], second: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(match (first, second) {
            (only, []) | ([], only) => self.poll_write_one(cx, only),
            _ => self.poll_write_parts(cx, &[IoSlice::new(first), IoSlice::new(second)]),
        })?;
        // A stream that takes nothing of something would be polled for ever.
        if written == 0 { Poll::Ready(Err(io::ErrorKind::WriteZero.into())) } else { Poll::Ready(Ok(written)) }
    }

    fn poll_write_one(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Writer::Plain(socket) => socket.poll_write(cx, bytes, SendFlags::empty()),
            Writer::Tls(stream) => stream.poll_write(cx, bytes),
        }
    }

    fn poll_write_parts(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Writer::Plain(socket) => socket.poll_write_parts(cx, parts),
            Writer::Tls(stream) => stream.poll_write_parts(cx, parts),
        }
    }

    /// Puts on its way what was written; over TLS alone something can have stayed behind.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Writer::Plain(_) => Poll::Ready(Ok(())),
            Writer::Tls(stream) => stream.poll_flush(cx),
        }
    }

    /// Whether it is written over TLS. Then there is no [`Writer::poll_drain_pipe`], as the kernel encrypts nothing, and an
    /// end has to be said with [`Writer::poll_shutdown`].
    #[must_use]
    pub fn is_secure(&self) -> bool {
        matches!(self, Writer::Tls(_))
    }

    /// Writes some of the last bytes, which go no further before [`Writer::poll_shutdown`]: together with the end.
    pub fn poll_write_last(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Writer::Plain(socket) => socket.poll_write(cx, bytes, SendFlags::MORE),
            Writer::Tls(_) => self.poll_write(cx, bytes, &[]),
        }
    }

    /// Writes some of what waits in `pipe`, which is something; says how many bytes.
    pub fn poll_drain_pipe(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        match self {
            Writer::Plain(socket) => match ready!(socket.poll_drain(cx, pipe))? {
                // As with a write.
                0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                moved => Poll::Ready(Ok(moved)),
            },
            Writer::Tls(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        }
    }

    /// Ends the writing direction.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Writer::Plain(socket) => Poll::Ready(socket.shut_down()),
            Writer::Tls(stream) => stream.poll_shutdown(cx),
        }
    }
}
