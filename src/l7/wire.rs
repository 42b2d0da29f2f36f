//! One side's HTTP/1.1 connection as a source and a sink of bodies, with what waits in its buffers.
//!
//! No body byte is copied, apart from small pieces that leave together with the head or framing before them. A buffer is
//! held only while something waits in it.

use std::io;
use std::task::{Context, Poll, ready};

use super::body::{Piece, Sink, Source, SourceFault};
use crate::buffer::{Buffer, Buffers, LARGEST, SMALLEST};
use crate::http::h1::body::{self, Decoder, Step};
use crate::http::{Fields, Framing};
use crate::stream::{Reader, Stream, Writer};

/// One HTTP/1.1 connection with what is on its way in and out.
#[derive(Debug)]
pub struct Wire {
    /// The connection.
    pub stream: Stream,
    /// What comes in.
    pub inbound: Inbound,
    /// What goes out.
    pub outbound: Outbound,
}

impl Wire {
    /// A connection on which nothing is under way.
    pub fn new(stream: Stream) -> Wire {
        Wire { stream, inbound: Inbound::default(), outbound: Outbound::default() }
    }

    /// Its two halves.
    pub fn split<'a>(&'a mut self, buffers: &'a Buffers) -> (WireSource<'a>, WireSink<'a>) {
        let (reader, writer) = self.stream.split();
        (WireSource { reader, inbound: &mut self.inbound, buffers }, WireSink { writer, outbound: &mut self.outbound })
    }

    /// Whether no byte waits in either direction.
    pub fn is_clean(&self) -> bool {
        self.inbound.buffer.as_ref().is_none_or(Buffer::is_empty) && self.outbound.is_flushed()
    }
}

/// What comes in on a wire.
#[derive(Debug)]
pub struct Inbound {
    /// Bytes that were read and not used; none is held while there are none.
    pub buffer: Option<Buffer>,
    decoder: Decoder,
    /// How many bytes at the buffer's start are body.
    ready: usize,
    /// The size of the next block.
    size: usize,
    /// The sender has ended its direction.
    pub ended: bool,
}

impl Default for Inbound {
    fn default() -> Self {
        Inbound { buffer: None, decoder: Decoder::new(Framing::None), ready: 0, size: SMALLEST, ended: false }
    }
}

impl Inbound {
    /// A body with this framing begins at the next byte.
    pub fn begin(&mut self, framing: Framing) {
        self.decoder = Decoder::new(framing);
        self.ready = 0;
    }

    /// Whether the body has been read to its end.
    pub fn is_done(&self) -> bool {
        self.decoder.is_done() && self.ready == 0
    }

    /// Takes bytes away that are not body.
    pub fn consume(&mut self, count: usize, buffers: &Buffers) {
        if let Some(buffer) = &mut self.buffer {
            buffer.consume(count);
        }
        self.release_if_empty(buffers);
    }

    /// Gives the buffer back when nothing waits in it.
    pub fn release_if_empty(&mut self, buffers: &Buffers) {
        if self.buffer.as_ref().is_some_and(Buffer::is_empty)
            && let Some(buffer) = self.buffer.take()
        {
            buffers.give(buffer);
        }
    }

    /// Whether the sender has ended its direction and all that it sent was used.
    pub fn is_over(&self) -> bool {
        self.ended && self.buffer.as_ref().is_none_or(Buffer::is_empty)
    }

    /// Forgets everything and gives the buffer back.
    pub fn release(&mut self, buffers: &Buffers) {
        if let Some(buffer) = self.buffer.take() {
            buffers.give(buffer);
        }
    }
}

/// The incoming half of a wire.
#[derive(Debug)]
pub struct WireSource<'a> {
    reader: Reader<'a>,
    inbound: &'a mut Inbound,
    buffers: &'a Buffers,
}

impl WireSource<'_> {
    /// The unread bytes, whatever they are.
    pub fn bytes(&self) -> &[u8] {
        self.inbound.buffer.as_ref().map_or(&[], Buffer::data)
    }

    /// Takes bytes away that are not body.
    pub fn discard(&mut self, count: usize) {
        self.inbound.consume(count, self.buffers);
    }

    /// A head of `length` bytes has been read: takes it away and begins the body behind it.
    pub fn begin(&mut self, length: usize, framing: Framing) {
        self.discard(length);
        self.inbound.begin(framing);
    }

    /// Moves the unread bytes to a block of twice the size when theirs is full and smaller than `at_most`.
    pub fn make_room(&mut self, at_most: usize) {
        let Some(full) = self.inbound.buffer.take_if(|buffer| buffer.is_full() && buffer.size() < at_most) else {
            return;
        };
        let mut larger = self.buffers.take(full.size() * 2);
        larger.put(full.data());
        self.buffers.give(full);
        self.inbound.buffer = Some(larger);
    }

    /// Reads more; false is the end. A full buffer is an error: nobody reads on without consuming.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let size = self.inbound.size;
        let buffer = self.inbound.buffer.get_or_insert_with(|| self.buffers.take(size));
        if buffer.is_full() {
            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
        }
        match self.reader.poll_read(cx, buffer) {
            Poll::Ready(Ok(0)) => {
                self.inbound.ended = true;
                self.inbound.release_if_empty(self.buffers);
                Poll::Ready(Ok(false))
            }
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(true)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                self.inbound.size = (size / 2).max(SMALLEST);
                self.inbound.release_if_empty(self.buffers);
                Poll::Pending
            }
        }
    }

    /// Reads what the sender says ahead of its turn, as far as the buffer goes: an error when it has reset. An orderly
    /// end is noted and is no error.
    pub fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Result<(), io::Error> {
        while !self.inbound.ended && !self.inbound.buffer.as_ref().is_some_and(Buffer::is_full) {
            match self.poll_fill(cx) {
                Poll::Ready(read) => read?,
                Poll::Pending => break,
            };
        }
        Ok(())
    }

    /// Decodes what the buffer holds: the next piece, or `None` when more must be read.
    fn decode(&mut self) -> Result<Option<Piece>, SourceFault> {
        loop {
            if self.inbound.ready > 0 {
                return Ok(Some(Piece::Data));
            }
            if self.inbound.decoder.is_done() {
                return Ok(Some(Piece::End));
            }
            let Some(buffer) = self.inbound.buffer.as_mut().filter(|buffer| !buffer.is_empty()) else {
                return Ok(None);
            };
            match self.inbound.decoder.decode(buffer.data()).map_err(|_| SourceFault::Malformed)? {
                Step::Data { skip, length } => {
                    buffer.consume(skip);
                    self.inbound.ready = length;
                }
                Step::End { consumed } => buffer.consume(consumed),
                Step::More { consumed } => {
                    buffer.consume(consumed);
                    return Ok(None);
                }
            }
        }
    }
}

impl Source for WireSource<'_> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, SourceFault>> {
        loop {
            if let Some(piece) = self.decode()? {
                return Poll::Ready(Ok(piece));
            }
            let more = ready!(self.poll_fill(cx)).map_err(|_| SourceFault::Cut)?;
            if !more {
                self.inbound.decoder.eof().map_err(|_| SourceFault::Cut)?;
            }
        }
    }

    fn data(&self) -> &[u8] {
        &self.bytes()[..self.inbound.ready]
    }

    fn consume(&mut self, count: usize) {
        let Some(buffer) = &mut self.inbound.buffer else { return };
        let whole = buffer.is_full() && count == buffer.size();
        buffer.consume(count);
        self.inbound.ready -= count;
        if whole && self.inbound.size < LARGEST {
            self.inbound.size = (buffer.size() * 2).min(LARGEST);
        }
        self.inbound.release_if_empty(self.buffers);
    }

    fn trailers(&self) -> &Fields {
        self.inbound.decoder.trailers()
    }
}

/// Pieces up to this size leave together with what is written before them.
const SMALL: usize = 4 * 1024;

/// How a body is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Coding {
    /// As it is: its length is told in the head, or its end is the connection's.
    #[default]
    Plain,
    /// In chunks; so many bytes of the begun chunk are missing.
    Chunked { missing: usize },
}

/// What goes out on a wire.
#[derive(Debug, Default)]
pub struct Outbound {
    /// Heads, framing and small pieces that wait to be written.
    pub pending: Vec<u8>,
    /// How many of them were.
    sent: usize,
    coding: Coding,
    written: u64,
}

impl Outbound {
    /// A body with this framing follows the pending head.
    pub fn begin(&mut self, framing: Framing) {
        self.coding = if framing == Framing::Chunked { Coding::Chunked { missing: 0 } } else { Coding::Plain };
    }

    /// Whether nothing waits to be written.
    pub fn is_flushed(&self) -> bool {
        self.pending.is_empty()
    }

    fn wrote(&mut self, count: usize) -> usize {
        self.written += count as u64;
        let own = count.min(self.pending.len() - self.sent);
        self.sent += own;
        if self.sent == self.pending.len() {
            self.pending.clear();
            self.sent = 0;
        }
        count - own
    }
}

/// The outgoing half of a wire.
#[derive(Debug)]
pub struct WireSink<'a> {
    writer: Writer<'a>,
    outbound: &'a mut Outbound,
}

impl WireSink<'_> {
    /// Ends the outgoing direction.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.poll_shutdown(cx)
    }

    fn poll_plain(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if data.len() <= SMALL && self.outbound.pending.len() <= SMALL {
            self.outbound.pending.extend_from_slice(data);
            return Poll::Ready(Ok(data.len()));
        }
        loop {
            let before = &self.outbound.pending[self.outbound.sent..];
            let count = ready!(self.writer.poll_write(cx, before, data))?;
            let taken = self.outbound.wrote(count);
            if taken > 0 {
                return Poll::Ready(Ok(taken));
            }
        }
    }
}

impl Sink for WireSink<'_> {
    fn poll_data(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let Coding::Chunked { missing } = self.outbound.coding else { return self.poll_plain(cx, data) };
        let missing = if missing == 0 {
            body::chunk_head(&mut self.outbound.pending, data.len());
            self.outbound.coding = Coding::Chunked { missing: data.len() };
            data.len()
        } else {
            missing
        };
        let taken = ready!(self.poll_plain(cx, &data[..data.len().min(missing)]))?;
        self.outbound.coding = Coding::Chunked { missing: missing - taken };
        if taken == missing {
            self.outbound.pending.extend_from_slice(body::CHUNK_END);
        }
        Poll::Ready(Ok(taken))
    }

    fn end(&mut self, trailers: &Fields) {
        if matches!(self.outbound.coding, Coding::Chunked { .. }) {
            body::last_chunk(&mut self.outbound.pending, trailers);
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbound.is_flushed() {
            let pending = &self.outbound.pending[self.outbound.sent..];
            let count = ready!(self.writer.poll_write(cx, pending, &[]))?;
            self.outbound.wrote(count);
        }
        Poll::Ready(Ok(()))
    }

    fn written(&self) -> u64 {
        self.outbound.written
    }
}
