//! The bytes under a connection of HTTP/2, with an eye on them: what control frames the other side sends, when it was heard
//! last, and since when it takes nothing of what is to be written.
//!
//! The end of a client's connection lingers: what it sends after we have closed is answered with a reset, which can take away
//! what it has not read yet; so that is read and forgotten until it has closed as well.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Stream;
use crate::clock::{self, Instant};
use crate::http::frames::{Flood, Meter, Side};

/// How much of a client's is read and forgotten at the end, in bytes.
const LINGER_BYTES: usize = 64 * 1024;

/// A connection that speaks HTTP/2. What was read of it before that was known comes first.
pub struct Watched {
    stream: Stream,
    prefix: Vec<u8>,
    seen: Rc<Seen>,
    end: End,
}

/// How far its end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nobody has closed it; so many bytes will be read and forgotten then.
    Ahead(usize),
    /// Our side is closed; so many are left.
    Lingers(usize),
}

/// What is known of a connection's bytes.
pub struct Seen {
    meter: RefCell<Meter>,
    flood: Cell<Option<Flood>>,
    heard: Cell<Option<Instant>>,
    stalled: Cell<Option<Instant>>,
    ending: Cell<Option<Instant>>,
}

impl Seen {
    /// What the other side sends too much of. From then on nothing of it is read.
    #[must_use]
    pub fn flood(&self) -> Option<Flood> {
        self.flood.get()
    }

    /// When something came last; `None` before anything did.
    #[must_use]
    pub fn heard(&self) -> Option<Instant> {
        self.heard.get()
    }

    /// Since when the other side takes nothing though there is something to write.
    #[must_use]
    pub fn stalled(&self) -> Option<Instant> {
        self.stalled.get()
    }

    /// Since when it is being closed, all having been said.
    #[must_use]
    pub fn ending(&self) -> Option<Instant> {
        self.ending.get()
    }

    /// Since when the other side is in the middle of a head, behind which alone anything else can come.
    #[must_use]
    pub fn unfinished(&self) -> Option<Instant> {
        self.meter.borrow().unfinished()
    }

    fn read(&self, bytes: &[u8]) {
        let now = clock::now();
        self.heard.set(Some(now));
        if let Err(flood) = self.meter.borrow_mut().feed(bytes, now) {
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
    /// The stream behind `prefix`, from the very first byte; which side of it we are.
    #[must_use]
    pub fn new(stream: Stream, prefix: Vec<u8>, side: Side) -> (Watched, Rc<Seen>) {
        let meter = RefCell::new(Meter::new(side, clock::now()));
        let seen = Rc::new(Seen {
            meter,
            flood: Cell::new(None),
            heard: Cell::new(None),
            stalled: Cell::new(None),
            ending: Cell::new(None),
        });
        let end = End::Ahead(if side == Side::Server { LINGER_BYTES } else { 0 });
        (Watched { stream, prefix, seen: Rc::clone(&seen), end }, seen)
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
        if let End::Ahead(lingers) = self.end {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.end = End::Lingers(lingers);
        }
        let mut bytes = [0; 1024];
        while let End::Lingers(left @ 1..) = self.end {
            let mut space = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut space)) {
                Ok(()) if !space.filled().is_empty() => {
                    self.end = End::Lingers(left.saturating_sub(space.filled().len()))
                }
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
