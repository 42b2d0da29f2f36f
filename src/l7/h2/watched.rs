//! The bytes under a connection of HTTP/2, with an eye on them: what control frames its client sends, and since when it takes
//! nothing of what is to be written.
//!
//! The end lingers: what a client sends after we have closed is answered with a reset, which can take away what it has not
//! read yet; so it is read and forgotten until the client has closed as well.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::{self, Instant};
use crate::http::frames::{Flood, Meter, Side};
use crate::stream::Stream;

/// How much is read and forgotten at the end, in bytes.
const LINGER_BYTES: usize = 64 * 1024;

/// A client's connection. What was read of it before it was known to speak HTTP/2 comes first.
pub(super) struct Watched {
    stream: Stream,
    prefix: Vec<u8>,
    seen: Rc<Seen>,
    end: End,
}

/// How far its end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Ahead,
    /// Our side is closed, and so much of the client's is still read and forgotten.
    Lingers(usize),
}

/// What is known of a connection's bytes.
pub(super) struct Seen {
    meter: RefCell<Meter>,
    flood: Cell<Option<Flood>>,
    stalled: Cell<Option<Instant>>,
    ending: Cell<Option<Instant>>,
}

impl Seen {
    /// What the client sends too much of. From then on nothing of it is read.
    pub(super) fn flood(&self) -> Option<Flood> {
        self.flood.get()
    }

    /// Since when the client takes nothing though there is something to write.
    pub(super) fn stalled(&self) -> Option<Instant> {
        self.stalled.get()
    }

    /// Since when it is being closed, all having been said.
    pub(super) fn ending(&self) -> Option<Instant> {
        self.ending.get()
    }

    /// Since when the client is in the middle of a head, behind which alone anything else can come.
    pub(super) fn unfinished(&self) -> Option<Instant> {
        self.meter.borrow().unfinished()
    }

    fn read(&self, bytes: &[u8]) {
        if let Err(flood) = self.meter.borrow_mut().feed(bytes, clock::now()) {
            self.flood.set(Some(flood));
        }
    }

    /// So many bytes of these were written.
    fn wrote(&self, parts: &[IoSlice<'_>], written: &Poll<io::Result<usize>>) {
        self.went(written);
        let Poll::Ready(Ok(mut left)) = *written else { return };
        let mut meter = self.meter.borrow_mut();
        for part in parts {
            let count = left.min(part.len());
            meter.sent(&part[..count]);
            left -= count;
        }
    }

    fn went<T>(&self, written: &Poll<T>) {
        match written {
            Poll::Ready(_) => self.stalled.set(None),
            Poll::Pending if self.stalled.get().is_none() => self.stalled.set(Some(clock::now())),
            Poll::Pending => {}
        }
    }
}

impl Watched {
    /// The stream behind `prefix`, from its client's very first byte.
    pub(super) fn new(stream: Stream, prefix: Vec<u8>) -> (Watched, Rc<Seen>) {
        let meter = RefCell::new(Meter::new(Side::Server, clock::now()));
        let seen = Seen { meter, flood: Cell::new(None), stalled: Cell::new(None), ending: Cell::new(None) };
        let seen = Rc::new(seen);
        (Watched { stream, prefix, seen: Rc::clone(&seen), end: End::Ahead }, seen)
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, space: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.seen.flood.get().is_some() {
            return Poll::Pending;
        }
        let before = space.filled().len();
        if self.prefix.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, space))?;
        } else {
            let count = self.prefix.len().min(space.remaining());
            space.put_slice(&self.prefix[..count]);
            self.prefix.drain(..count);
        }
        self.seen.read(&space.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.seen.wrote(&[IoSlice::new(bytes)], &written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.seen.wrote(parts, &written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.seen.went(&flushed);
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.seen.ending.get().is_none() {
            self.seen.ending.set(Some(clock::now()));
        }
        if self.end == End::Ahead {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.end = End::Lingers(LINGER_BYTES);
        }
        let mut bytes = [0; 1024];
        while let End::Lingers(left @ 1..) = self.end {
            let mut space = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut space)) {
                Ok(()) if !space.filled().is_empty() => self.end = End::Lingers(left.saturating_sub(space.filled().len())),
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
