//! The two directions of one HTTP/2 stream as a source and a sink of bodies, towards clients and towards backends alike.
//!
//! What a source has lent is counted as read, so that the other side may send more, when it is consumed and not before: a
//! slow taker holds its sender back. A sink takes no more than the other side's windows and the bound of what may wait here
//! allow.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};

use crate::http::h1::parse::HeadLimits;
use crate::http::{Fields, Framing, h2 as heads};
use crate::l7::body::{Piece, Sink, Source, SourceFault};

/// A sink takes at most so much at once: what fits into one frame.
const MOST_AT_ONCE: usize = 16 * 1024;

/// Frames with less data than this cost more memory than they carry.
const SMALL: usize = 256;

/// What comes in on a stream.
///
/// Behind a small frame everything that has come is gathered into one piece, also while its taker is stuck: what the crate
/// holds ready costs it more a frame than such a frame has, and it ends connections that make it hold much. A stream of short
/// messages is no attack, and is passed on in fewer frames so. Its window bounds what is gathered.
pub(in crate::l7) struct Incoming {
    stream: RecvStream,
    /// Data that was not consumed yet.
    held: Bytes,
    /// What came behind it.
    gathered: BytesMut,
    /// The latest frame was small.
    small: bool,
    /// How the data ends behind what is there, where that is known.
    data_end: Option<Result<(), SourceFault>>,
    trailers: Fields,
    limits: HeadLimits,
    ended: bool,
    /// It is no body until a tunnel is opened: what comes on it belongs to that.
    held_back: bool,
}

impl Incoming {
    /// The body on this stream, whose trailer fields have to keep to these limits.
    pub(in crate::l7) fn new(stream: RecvStream, limits: HeadLimits) -> Incoming {
        let ended = stream.is_end_stream();
        Incoming {
            stream,
            held: Bytes::new(),
            gathered: BytesMut::new(),
            small: false,
            data_end: None,
            trailers: Fields::new(),
            limits,
            ended,
            held_back: false,
        }
    }

    /// There is no body on it; what comes all the same is never read.
    pub(in crate::l7) fn refuse(&mut self) {
        self.ended = true;
    }

    /// There is no body on it, but a tunnel may be opened.
    pub(in crate::l7) fn hold_back(&mut self) {
        self.held_back = true;
    }

    /// What comes is the tunnel's.
    pub(in crate::l7) fn open_tunnel(&mut self) {
        self.held_back = false;
    }

    /// Whether the body has been read to its end.
    pub(in crate::l7) fn is_read(&self) -> bool {
        self.held_back || self.held.is_empty() && (self.ended || self.stream.is_end_stream())
    }

    /// Takes what is ready of a stream of small frames.
    fn gather(&mut self, cx: &mut Context<'_>) {
        while self.small && self.data_end.is_none() {
            match self.stream.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    self.small = data.len() < SMALL;
                    self.gathered.extend_from_slice(&data);
                }
                Poll::Ready(Some(Err(_))) => self.data_end = Some(Err(SourceFault::Cut)),
                Poll::Ready(None) => self.data_end = Some(Ok(())),
                Poll::Pending => break,
            }
        }
        if self.held.len() < SMALL && !self.gathered.is_empty() {
            let mut joined = BytesMut::with_capacity(self.held.len() + self.gathered.len());
            joined.extend_from_slice(&self.held);
            joined.extend_from_slice(&self.gathered);
            self.gathered.clear();
            self.held = joined.freeze();
        }
    }

    /// Whether the stream has ended, as far as is known; nothing of it has to be read.
    pub(in crate::l7) fn has_ended(&self) -> bool {
        self.stream.is_end_stream() || self.ended
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, SourceFault>> {
        if let Some(trailers) = ready!(self.stream.poll_trailers(cx)).map_err(|_| SourceFault::Cut)? {
            self.trailers =
                heads::read_trailers(&trailers, &self.limits).map_err(|refusal| match refusal.status() {
                    431 => SourceFault::TooLarge,
                    _ => SourceFault::Malformed,
                })?;
        }
        self.ended = true;
        Poll::Ready(Ok(Piece::End))
    }
}

impl Source for &mut Incoming {
    fn poll_ready(&mut self, cx: &mut Context<'_>, _: bool) -> Poll<Result<Piece, SourceFault>> {
        loop {
            if !self.held.is_empty() {
                self.gather(cx);
                return Poll::Ready(Ok(Piece::Data));
            }
            if self.ended || self.held_back {
                return Poll::Ready(Ok(Piece::End));
            }
            match self.data_end {
                Some(Ok(())) => return self.poll_end(cx),
                Some(Err(fault)) => return Poll::Ready(Err(fault)),
                None => {}
            }
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.small = data.len() < SMALL;
                    self.held = data;
                }
                Some(Err(_)) => return Poll::Ready(Err(SourceFault::Cut)),
                None => return self.poll_end(cx),
            }
        }
    }

    fn data(&self) -> &[u8] {
        &self.held
    }

    fn consume(&mut self, count: usize) {
        self.held.advance(count);
        if self.held.is_empty() && !self.gathered.is_empty() {
            self.held = self.gathered.split().freeze();
        }
        // It fails for a stream that is gone, and then nobody waits for it.
        let _ = self.stream.flow_control().release_capacity(count);
    }

    fn take_trailers(&mut self) -> Fields {
        std::mem::take(&mut self.trailers)
    }
}

/// What goes out on a stream, behind its head.
pub(in crate::l7) struct Outgoing {
    stream: SendStream<Bytes>,
    /// How much is missing of a body whose length was told: with its last byte goes the stream's end.
    left: Option<u64>,
    written: u64,
    ended: bool,
}

impl Outgoing {
    /// A body that is framed so; the end of the stream has been said with the head where there is none.
    pub(in crate::l7) fn new(stream: SendStream<Bytes>, framing: Framing) -> Outgoing {
        let left = if let Framing::Length(length) = framing { Some(length) } else { None };
        Outgoing { stream, left, written: 0, ended: framing == Framing::None }
    }

    /// No body, but perhaps a tunnel: the stream stays open.
    pub(in crate::l7) fn held_back(stream: SendStream<Bytes>) -> Outgoing {
        Outgoing { stream, left: None, written: 0, ended: true }
    }

    /// What goes is the tunnel's.
    pub(in crate::l7) fn open_tunnel(&mut self) {
        self.ended = false;
    }

    /// How many bytes of the body were taken.
    pub(in crate::l7) fn written(&self) -> u64 {
        self.written
    }

    /// Whether its end has been said.
    pub(in crate::l7) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Ends the stream at once, so that the other side sees that it is not complete.
    pub(in crate::l7) fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }

    /// Whether the other side has ended the stream or the connection.
    pub(in crate::l7) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_reset(cx).map(drop)
    }

    /// Says all of a short body at once.
    pub(in crate::l7) fn say(&mut self, body: Bytes) {
        self.written += body.len() as u64;
        self.ended = true;
        // It fails for a stream that is gone; who polls it next is told.
        let _ = self.stream.send_data(body, true);
    }

    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        if self.stream.capacity() == 0 {
            self.stream.reserve_capacity(wanted);
            while self.stream.capacity() == 0 {
                match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                }
            }
        }
        Poll::Ready(Ok(self.stream.capacity().min(wanted)))
    }
}

impl Sink for &mut Outgoing {
    fn poll_data(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let room = ready!(self.poll_room(cx, data.len().min(MOST_AT_ONCE)))?;
        self.left = self.left.map(|left| left.saturating_sub(room as u64));
        let last = self.left == Some(0);
        let sent = self.stream.send_data(Bytes::copy_from_slice(&data[..room]), last);
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        self.ended |= last;
        self.written += room as u64;
        Poll::Ready(Ok(room))
    }

    fn end(&mut self, trailers: &Fields) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        // Both fail for a stream that is gone; who polls it next is told.
        let _ = match trailers.is_empty() {
            true => self.stream.send_data(Bytes::new(), true),
            false => self.stream.send_trailers(heads::write_trailers(trailers)),
        };
    }

    /// What was taken is with the connection, which holds no more of it than the windows allow.
    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn written(&self) -> u64 {
        self.written
    }
}
