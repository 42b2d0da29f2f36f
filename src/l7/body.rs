//! Bodies on the way: a source that yields pieces, a sink that takes them, and the pump between the two.
//!
//! The exchange knows only [`Source`] and [`Sink`]; what stands here for HTTP/1.1 reads from and writes to one side of a
//! connection, a [`Wire`]. Pieces are lent from the source's buffer and written from there: no body byte is copied, apart
//! from small ones that leave together with the head before them.

use std::io;
use std::task::{Context, Poll, ready};

use crate::buffer::{Buffer, Buffers, LARGEST, SMALLEST};
use crate::http::h1::body::{self, Decoder, Step};
use crate::http::{Fields, Framing};
use crate::stream::{Reader, Stream, Writer};

/// A body that comes in.
pub trait Source {
    /// What there is next; `Data` until all of it is consumed.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, SourceFault>>;
    /// The data that is ready.
    fn data(&self) -> &[u8];
    /// Takes the first bytes of the data away.
    fn consume(&mut self, count: usize);
    /// The trailer fields, complete at the end.
    fn trailers(&self) -> &Fields;
}

/// What a source has ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of the body.
    Data,
    /// Nothing more: the body is complete.
    End,
}

/// Why a body did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceFault {
    /// The sender closed or reset.
    Cut,
    /// The sender broke the rules of its framing.
    Malformed,
}

/// Where a body goes.
pub trait Sink {
    /// Takes some of `data`; says how many bytes.
    fn poll_data(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>>;
    /// Ends the body.
    fn end(&mut self, trailers: &Fields);
    /// Ready when everything taken is with the kernel.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Bytes written so far, to see whether anything moves.
    fn written(&self) -> u64;
}

/// Which side of a pump failed.
#[derive(Debug)]
pub enum PumpFault {
    /// The source.
    Source(SourceFault),
    /// The sink.
    Sink,
}

/// What a pump waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// More from the source.
    ForSource,
    /// Room in the sink.
    ForSink,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    Running,
    Flushing,
    Done,
    Abandoned,
}

/// Moves one body from its source to its sink.
#[derive(Debug)]
pub struct Pump {
    course: Course,
    /// What it waited for when it was last polled.
    pub waits: Waits,
    /// Body bytes taken from the source.
    pub taken: u64,
    progress: u64,
}

impl Default for Pump {
    fn default() -> Self {
        Pump { course: Course::Running, waits: Waits::ForSource, taken: 0, progress: 0 }
    }
}

impl Pump {
    /// Whether there is something left to do.
    pub fn is_running(&self) -> bool {
        matches!(self.course, Course::Running | Course::Flushing)
    }

    /// Whether the whole body is with the sink.
    pub fn is_done(&self) -> bool {
        self.course == Course::Done
    }

    /// Gives up: its sink takes nothing more.
    pub fn abandon(&mut self) {
        self.course = Course::Abandoned;
    }

    /// Moves what can be moved; ready at the end of the body or at a fault.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Source,
        sink: &mut impl Sink,
    ) -> Poll<Result<(), PumpFault>> {
        loop {
            match self.course {
                Course::Running => ready!(self.poll_piece(cx, source, sink))?,
                Course::Flushing => {
                    self.waits = Waits::ForSink;
                    ready!(sink.poll_flush(cx)).map_err(|_| PumpFault::Sink)?;
                    self.course = Course::Done;
                }
                Course::Done | Course::Abandoned => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Source,
        sink: &mut impl Sink,
    ) -> Poll<Result<(), PumpFault>> {
        match source.poll_ready(cx) {
            Poll::Ready(Ok(Piece::Data)) => {
                self.waits = Waits::ForSink;
                let count = ready!(sink.poll_data(cx, source.data())).map_err(|_| PumpFault::Sink)?;
                source.consume(count);
                self.taken += count as u64;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(Piece::End)) => {
                sink.end(source.trailers());
                self.course = Course::Flushing;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(fault)) => Poll::Ready(Err(PumpFault::Source(fault))),
            Poll::Pending => {
                self.waits = Waits::ForSink;
                ready!(sink.poll_flush(cx)).map_err(|_| PumpFault::Sink)?;
                self.waits = Waits::ForSource;
                Poll::Pending
            }
        }
    }

    /// Whether anything moved since this was last asked.
    pub fn has_moved(&mut self, sink: &impl Sink) -> bool {
        let progress = self.taken + sink.written();
        let moved = progress != self.progress;
        self.progress = progress;
        moved
    }
}

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

    /// Whether another message may begin: in what was read already, or in what may still come.
    pub fn may_go_on(&self) -> bool {
        !self.ended || self.buffer.as_ref().is_some_and(|buffer| !buffer.is_empty())
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
            Poll::Ready(Ok(count)) => {
                self.inbound.ended |= count == 0;
                Poll::Ready(Ok(count > 0))
            }
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
                self.inbound.release_if_empty(self.buffers);
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

/// The largest memory for pending bytes that is kept for the next exchange: a head of the largest size fits.
const KEPT: usize = 64 * 1024;

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

    /// Works on this memory from now on.
    pub fn lend(&mut self, memory: Vec<u8>) {
        debug_assert!(self.pending.is_empty() && memory.is_empty(), "no byte of another message is lent along");
        self.pending = memory;
    }

    /// Gives the memory back, without a byte of what may still have waited in it: whoever gets it next is someone else.
    pub fn give_back(&mut self) -> Vec<u8> {
        self.sent = 0;
        let mut memory = std::mem::take(&mut self.pending);
        memory.clear();
        if memory.capacity() > KEPT { Vec::new() } else { memory }
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
    /// What goes out, to append a head.
    pub fn outbound(&mut self) -> &mut Outbound {
        self.outbound
    }

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
            self.outbound.pending.extend_from_slice(b"\r\n");
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
