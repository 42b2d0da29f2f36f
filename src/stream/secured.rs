//! A TLS stream over a plain one, and its two halves.
//!
//! TLS has one state for both directions, so the halves share it; only one task polls them, never at the same time.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use rustix::net::SendFlags;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::coop::unconstrained;
use tokio_rustls::TlsStream;

use super::{Socket, Stream};
use crate::proxy_protocol::Tls;
use crate::tls::{Demand, Identity, known};

/// A connection that TLS is spoken over.
#[derive(Debug)]
pub struct Plain {
    under: Under,
    /// Bytes of it that were read already; they come first.
    prefix: Vec<u8>,
}

#[derive(Debug)]
enum Under {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Plain {
    /// A plain stream, of which `prefix` has been read already; `None` for one that is secured itself.
    #[must_use]
    pub fn new(stream: Stream, prefix: Vec<u8>) -> Option<Plain> {
        let under = match stream {
            Stream::Tcp(stream) => Under::Tcp(stream),
            Stream::Unix(stream) => Under::Unix(stream),
            Stream::Tls(_) => return None,
        };
        Some(Plain { under, prefix })
    }

    fn socket(&self) -> Socket<'_> {
        match &self.under {
            Under::Tcp(stream) => Socket::Tcp(stream),
            Under::Unix(stream) => Socket::Unix(stream),
        }
    }
}

impl AsyncRead for Plain {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, space: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return self.socket().poll_read_into(cx, space);
        }
        let count = self.prefix.len().min(space.remaining());
        space.put_slice(&self.prefix[..count]);
        self.prefix.drain(..count);
        if self.prefix.is_empty() {
            self.prefix = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Plain {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.socket().poll_write(cx, bytes, SendFlags::empty())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.socket().poll_write_parts(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket().shut_down())
    }
}

/// A connection after its TLS handshake.
#[derive(Debug)]
pub struct Secured {
    session: RefCell<TlsStream<Plain>>,
    identity: Option<Arc<Identity>>,
}

impl Secured {
    /// What a handshake has come to.
    #[must_use]
    pub fn new(session: impl Into<TlsStream<Plain>>) -> Secured {
        Secured { session: RefCell::new(session.into()), identity: None }
    }

    /// The same with a client of whom this was demanded.
    #[must_use]
    pub fn of_client(session: impl Into<TlsStream<Plain>>, demand: &Demand) -> Secured {
        let session = session.into();
        let identity = |demand| Arc::new(Identity::new(demand, session.get_ref().1.peer_certificates()));
        let identity = demand.as_ref().map(identity);
        Secured { session: RefCell::new(session), identity }
    }

    pub(super) fn identity(&self) -> Option<&Arc<Identity>> {
        self.identity.as_ref()
    }

    /// What is known of a client's TLS; `None` towards a backend.
    pub(super) fn tls(&self) -> Option<Tls> {
        match &*self.session.borrow() {
            TlsStream::Server(session) => Some(known(session.get_ref().1, self.identity.as_deref())),
            TlsStream::Client(_) => None,
        }
    }

    /// Does something to the TCP socket under it, if there is one.
    pub(super) fn with_tcp(&self, act: impl FnOnce(&TcpStream)) {
        if let Socket::Tcp(stream) = self.session.borrow().get_ref().0.socket() {
            act(stream);
        }
    }

    /// Whether this is what both sides have agreed to speak on top of TLS.
    pub(super) fn speaks(&self, protocol: &str) -> bool {
        self.session.borrow().get_ref().1.alpn_protocol() == Some(protocol.as_bytes())
    }

    /// Whether there is nothing to read, nor an end, nor an error. What belongs to TLS itself, such as tickets for a later
    /// resumption, is read and dealt with by this.
    pub(super) fn is_silent(&self) -> bool {
        let mut byte = [0];
        let mut space = ReadBuf::new(&mut byte);
        // Where a task has used up its turn, reading would otherwise be put off, and an end not seen.
        let look = pin!(unconstrained(poll_fn(|cx| self.poll_read(cx, &mut space))));
        look.poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    pub(super) fn poll_read(&self, cx: &mut Context<'_>, space: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.session.borrow_mut()).poll_read(cx, space)
    }

    /// Takes some of these; what is not on its way yet waits for [`Secured::poll_flush`].
    pub(super) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.session.borrow_mut()).poll_write(cx, bytes)
    }

    /// The same of several pieces.
    pub(super) fn poll_write_parts(&self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.session.borrow_mut()).poll_write_vectored(cx, parts)
    }

    /// Puts everything that was taken on its way.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.session.borrow_mut()).poll_flush(cx)
    }

    /// Says that nothing more comes (close_notify), then ends the direction.
    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut *self.session.borrow_mut()).poll_shutdown(cx)
    }
}
