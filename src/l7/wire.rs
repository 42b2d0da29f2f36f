//! One side's HTTP/1.1 connection as a source and a sink of bodies, with what waits in its buffers.
//!
//! No body byte is copied, apart from small pieces that leave together with the head or framing before them. A buffer is
//! held only while something waits in it. Large bodies that are passed on as they come go through a kernel pipe.

use std::io;
use std::task::{Context, Poll, ready};

use super::body::{Piece, Sink, Source, SourceFault};
use crate::buffer::{Buffer, SMALLEST, Stride};
use crate::http::h1::body::{self, BodyFault, Decoder, Step};
use crate::http::h1::parse::HeadLimits;
use crate::http::{Fields, Framing};
use crate::pipe::{Buffers, Pipe};
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

    /// HTTP is left: everything that comes from here on is body up to the end of the direction, and so is what goes.
    pub fn leave_protocol(&mut self) {
        self.inbound.begin(Framing::ToClose);
        self.outbound.coding = Coding::Raw { ending: false };
    }

    /// Whether no byte waits in either direction.
    pub fn is_clean(&self) -> bool {
        self.inbound.is_empty() && self.outbound.is_flushed()
    }
}

/// What comes in on a wire.
#[derive(Debug)]
pub struct Inbound {
    /// Bytes that were read and not used; none is held while there are none.
    pub buffer: Option<Buffer>,
    decoder: Decoder,
    /// How many bytes at the buffer's start are body.
    ready: u32,
    /// Body that is passed on as it is; none is held while there is none in it.
    pipe: Option<Box<Pipe>>,
    stride: Stride,
    /// The sender has ended its direction.
    pub ended: bool,
}

impl Default for Inbound {
    fn default() -> Self {
        let decoder = Decoder::new(Framing::None);
        Inbound { buffer: None, decoder, ready: 0, pipe: None, stride: Stride::default(), ended: false }
    }
}

impl Inbound {
    /// A body with this framing begins at the next byte.
    pub fn begin(&mut self, framing: Framing) {
        self.decoder = Decoder::new(framing);
        self.ready = 0;
        if let Framing::Length(length) = framing {
            self.stride.expect(length);
        }
    }

    /// The body that has begun may have trailer fields only within these limits.
    pub fn limit_trailers(&mut self, limits: HeadLimits) {
        self.decoder.limit_trailers(limits);
    }

    /// Whether the body has been read to its end.
    pub fn is_done(&self) -> bool {
        self.decoder.is_done() && self.ready == 0 && self.pipe.is_none()
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
            buffers.blocks.give(buffer);
        }
    }

    /// Whether all that came was used.
    pub fn is_empty(&self) -> bool {
        self.buffer.as_ref().is_none_or(Buffer::is_empty) && self.pipe.is_none()
    }

    /// Forgets everything and gives back what it lies in.
    pub fn release(&mut self, buffers: &Buffers) {
        if let Some(buffer) = self.buffer.take() {
            buffers.blocks.give(buffer);
        }
        self.release_pipe(buffers);
    }

    fn release_pipe(&mut self, buffers: &Buffers) {
        if let Some(pipe) = self.pipe.take() {
            buffers.pipes.give(pipe);
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
        let mut larger = self.buffers.blocks.take(full.size() * 2);
        larger.put(full.data());
        self.buffers.blocks.give(full);
        self.inbound.buffer = Some(larger);
    }

    /// Reads more; false is the end. A full buffer is an error: nobody reads on without consuming.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let size = self.inbound.stride.size();
        if self.inbound.buffer.as_ref().is_some_and(Buffer::is_full) {
            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
        }
        match self.reader.poll_read(cx, &mut self.inbound.buffer, &self.buffers.blocks, size) {
            Poll::Ready(Ok(0)) => {
                self.inbound.ended = true;
                self.inbound.release_if_empty(self.buffers);
                Poll::Ready(Ok(false))
            }
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(true)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                self.inbound.stride.stalled();
                Poll::Pending
            }
        }
    }

    /// Whether what comes next had better go through a pipe: all that was read is used, and much follows that is body and
    /// nothing else.
    fn is_for_pipe(&self) -> bool {
        self.inbound.stride.is_for_pipes() && self.inbound.decoder.plain() >= SMALLEST as u64 && self.inbound.is_empty()
    }

    /// Moves body into a pipe; false when a read has to tell what there is, or there is no pipe.
    fn poll_fill_pipe(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let Some(mut pipe) = self.buffers.pipes.take() else { return Poll::Ready(Ok(false)) };
        let most = usize::try_from(self.inbound.decoder.plain()).unwrap_or(usize::MAX);
        match self.reader.poll_fill_pipe(cx, &mut pipe, most) {
            Poll::Ready(Ok(count @ 1..)) => {
                self.inbound.decoder.pass(count);
                self.inbound.pipe = Some(pipe);
                Poll::Ready(Ok(true))
            }
            nothing => {
                self.buffers.pipes.give(pipe);
                if nothing.is_pending() {
                    self.inbound.stride.stalled();
                }
                nothing.map_ok(|_| false)
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
            if self.inbound.ready > 0 || self.inbound.pipe.is_some() {
                return Ok(Some(Piece::Data));
            }
            if self.inbound.decoder.is_done() {
                return Ok(Some(Piece::End));
            }
            let Some(buffer) = self.inbound.buffer.as_mut().filter(|buffer| !buffer.is_empty()) else {
                return Ok(None);
            };
            match self.inbound.decoder.decode(buffer.data()).map_err(source_fault)? {
                Step::Data { skip, length } => {
                    buffer.consume(skip);
                    self.inbound.ready = in_block(length);
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

fn source_fault(fault: BodyFault) -> SourceFault {
    if fault.is_excess() { SourceFault::TooLarge } else { SourceFault::Malformed }
}

impl Source for WireSource<'_> {
    fn poll_ready(&mut self, cx: &mut Context<'_>, piped: bool) -> Poll<Result<Piece, SourceFault>> {
        loop {
            if let Some(piece) = self.decode()? {
                return Poll::Ready(Ok(piece));
            }
            if piped && self.is_for_pipe() && ready!(self.poll_fill_pipe(cx)).map_err(|_| SourceFault::Cut)? {
                continue;
            }
            let more = ready!(self.poll_fill(cx)).map_err(|_| SourceFault::Cut)?;
            if !more {
                self.inbound.decoder.eof().map_err(|_| SourceFault::Cut)?;
            }
        }
    }

    fn data(&self) -> &[u8] {
        &self.bytes()[..self.inbound.ready as usize]
    }

    fn pipe(&mut self) -> Option<&mut Pipe> {
        self.inbound.pipe.as_deref_mut()
    }

    fn consume(&mut self, count: usize) {
        if let Some(pipe) = &self.inbound.pipe {
            if pipe.held() == 0 {
                self.inbound.stride.piped(count);
                self.inbound.release_pipe(self.buffers);
            }
            return;
        }
        let Some(buffer) = &mut self.inbound.buffer else { return };
        let whole = buffer.is_full() && count == buffer.size();
        buffer.consume(count);
        self.inbound.ready -= in_block(count);
        if whole {
            self.inbound.stride.passed(buffer.size());
        }
        self.inbound.release_if_empty(self.buffers);
    }

    fn take_trailers(&mut self) -> Fields {
        self.inbound.decoder.take_trailers()
    }
}

/// A number of bytes that lie in one block.
fn in_block(count: usize) -> u32 {
    u32::try_from(count).expect("blocks have at most 256 KiB")
}

/// Pieces up to this size leave together with what is written before them.
const SMALL: usize = 4 * 1024;

/// So much memory for what is pending stays when it is written; a larger head is no reason to hold more while bodies move.
const KEPT: usize = 16 * 1024;

/// How a body is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Coding {
    /// As it is: its length is told in the head, or its end is the connection's.
    #[default]
    Plain,
    /// In chunks; so many bytes of the begun chunk are missing.
    Chunked { missing: usize },
    /// As it is, and its end is that of the direction; whether it has come.
    Raw { ending: bool },
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
        memory
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Whether nothing waits to be written.
    pub fn is_flushed(&self) -> bool {
        self.pending.is_empty()
    }

    /// Ends the body.
    fn end(&mut self, trailers: &Fields) {
        match &mut self.coding {
            Coding::Plain => {}
            Coding::Chunked { .. } => body::last_chunk(&mut self.pending, trailers),
            Coding::Raw { ending } => *ending = true,
        }
    }

    /// So many bytes were written: what was pending first; says how many came after that.
    fn wrote(&mut self, count: usize) -> usize {
        self.written += count as u64;
        let own = count.min(self.pending.len() - self.sent);
        self.sent += own;
        if self.sent == self.pending.len() {
            self.pending.clear();
            self.sent = 0;
            if self.pending.capacity() > KEPT {
                self.pending.shrink_to(KEPT);
            }
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

    fn takes_pipes(&self) -> bool {
        matches!(self.outbound.coding, Coding::Plain | Coding::Raw { .. }) && !self.writer.is_secure()
    }

    fn poll_pipe(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx))?;
        let count = ready!(self.writer.poll_drain_pipe(cx, pipe))?;
        self.outbound.written += count as u64;
        Poll::Ready(Ok(count))
    }

    fn end(&mut self, trailers: &Fields) {
        self.outbound.end(trailers);
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbound.is_flushed() {
            let pending = &self.outbound.pending[self.outbound.sent..];
            let count = ready!(self.writer.poll_write(cx, pending, &[]))?;
            self.outbound.wrote(count);
        }
        match self.outbound.coding {
            Coding::Raw { ending: true } => self.writer.poll_shutdown(cx),
            _ => self.writer.poll_flush(cx),
        }
    }

    fn written(&self) -> u64 {
        self.outbound.written
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::super::body::{Pump, PumpFault};
    use super::*;
    use crate::buffer::LARGEST;
    use crate::http::Known;

    /// A wire and the other end of it.
    fn wire() -> (Wire, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Wire::new(Stream::Unix(ours)), theirs)
    }

    /// Bytes that repeat only after a prime number of them.
    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at % 251) as u8).collect()
    }

    async fn pump(from: &mut Wire, to: &mut Wire, buffers: &Buffers) -> Result<(), PumpFault> {
        let mut pump = Pump::default();
        poll_fn(|cx| {
            let ((mut source, _), (_, mut sink)) = (from.split(buffers), to.split(buffers));
            pump.poll(cx, &mut source, &mut sink)
        })
        .await
    }

    /// Sends this in, framed so, and gives what comes out, framed so, and whether the source was whole.
    async fn through(sent: Vec<u8>, inward: Framing, outward: Framing) -> (Vec<u8>, bool) {
        let buffers = Buffers::default();
        let ((mut from, mut sender), (mut to, mut receiver)) = (wire(), wire());
        from.inbound.begin(inward);
        to.outbound.begin(outward);
        let sending = tokio::spawn(async move { sender.write_all(&sent).await });
        let receiving = tokio::spawn(async move {
            let mut received = Vec::new();
            receiver.read_to_end(&mut received).await.map(|_| received)
        });
        let whole = pump(&mut from, &mut to, &buffers).await.is_ok();
        assert!(!whole || from.inbound.is_empty(), "nothing is left when all is done");
        drop((from, to));
        drop(sending.await.unwrap());
        (receiving.await.unwrap().unwrap(), whole)
    }

    /// The data of a chunked body, which must be whole and have nothing behind it.
    fn unchunked(mut coded: &[u8]) -> Vec<u8> {
        let (mut decoder, mut data) = (Decoder::new(Framing::Chunked), Vec::new());
        loop {
            match decoder.decode(coded).unwrap() {
                Step::Data { skip, length } => {
                    data.extend_from_slice(&coded[skip..skip + length]);
                    coded = &coded[skip + length..];
                }
                Step::End { consumed } => {
                    assert_eq!(consumed, coded.len(), "nothing stands behind the end");
                    return data;
                }
                Step::More { .. } => panic!("the end is missing"),
            }
        }
    }

    #[tokio::test]
    async fn a_body_of_any_size_becomes_chunks_and_its_data_stays() {
        for size in [1, SMALL - 1, SMALL, SMALL + 1, SMALLEST, 3 * SMALLEST + 1, 3 * LARGEST + 7] {
            let (coded, whole) = through(pattern(size), Framing::ToClose, Framing::Chunked).await;
            assert!(whole && unchunked(&coded) == pattern(size), "{size}");
        }
    }

    #[tokio::test]
    async fn chunks_of_any_size_become_plain_data() {
        for size in [1, 7, SMALL, SMALLEST + 1, LARGEST] {
            let data = pattern(LARGEST + 3);
            let mut coded = Vec::new();
            // Small chunks of all of it would be many; a few say the same.
            for chunk in data.chunks(size).take(2000) {
                body::chunk_head(&mut coded, chunk.len());
                coded.extend_from_slice(chunk);
                coded.extend_from_slice(body::CHUNK_END);
            }
            body::last_chunk(&mut coded, &Fields::default());
            let (plain, whole) = through(coded, Framing::Chunked, Framing::ToClose).await;
            assert!(whole && plain == data[..data.len().min(2000 * size)], "{size}");
        }
    }

    #[tokio::test]
    async fn a_body_that_is_cut_or_broken_gets_no_end() {
        let (coded, whole) = through(b"5\r\nhello\r\n".to_vec(), Framing::Chunked, Framing::Chunked).await;
        assert!(!whole && !coded.ends_with(b"0\r\n\r\n"), "{}", coded.escape_ascii());
        let (coded, whole) = through(b"5\r\nhello\r\nx".to_vec(), Framing::Chunked, Framing::Chunked).await;
        assert!(!whole && !coded.ends_with(b"0\r\n\r\n"), "{}", coded.escape_ascii());
        let (_, whole) = through(b"hell".to_vec(), Framing::Length(5), Framing::Length(5)).await;
        assert!(!whole);
    }

    #[tokio::test]
    async fn a_large_body_of_known_length_goes_through_a_pipe_and_what_follows_it_does_not() {
        let buffers = Buffers::default();
        let ((mut from, mut sender), (mut to, mut receiver)) = (wire(), wire());
        let body = pattern(3 * LARGEST + 1);
        from.inbound.begin(Framing::Length(body.len() as u64));
        to.outbound.begin(Framing::Length(body.len() as u64));
        to.outbound.pending.extend_from_slice(b"head\r\n\r\n");
        let sent = [&body[..], b"HTTP/1.1 200 OK\r\n"].concat();
        let sending = tokio::spawn(async move {
            sender.write_all(&sent).await.unwrap();
            sender
        });
        let mut received = vec![0; body.len() + 8];
        let mut pump = Pump::default();
        let moving = poll_fn(|cx| {
            let ((mut source, _), (_, mut sink)) = (from.split(&buffers), to.split(&buffers));
            pump.poll(cx, &mut source, &mut sink)
        });
        let (moved, read) = tokio::join!(moving, receiver.read_exact(&mut received));
        assert!(moved.is_ok() && read.is_ok() && buffers.pipes.free() == 1);
        assert!(received == [b"head\r\n\r\n", &body[..]].concat());
        assert_eq!((pump.taken, to.outbound.written), (body.len() as u64, received.len() as u64));
        assert!(from.inbound.is_done() && from.inbound.pipe.is_none());
        let _sender = sending.await.unwrap();
        if from.inbound.is_empty() {
            assert!(poll_fn(|cx| from.split(&buffers).0.poll_fill(cx)).await.unwrap());
        }
        assert_eq!(from.split(&buffers).0.bytes(), b"HTTP/1.1 200 OK\r\n");
    }

    #[tokio::test]
    async fn a_piped_body_that_is_cut_gets_no_end() {
        let mut body = pattern(LARGEST);
        body.pop();
        let length = Framing::Length(LARGEST as u64);
        let (plain, whole) = through(body.clone(), length, length).await;
        assert!(!whole && body.starts_with(&plain));
    }

    #[tokio::test]
    async fn a_body_that_is_forgotten_in_its_pipe_is_nobody_elses() {
        let buffers = Buffers::default();
        let (mut from, mut sender) = wire();
        from.inbound.begin(Framing::Length(LARGEST as u64));
        sender.write_all(b"secret").await.unwrap();
        let piece = poll_fn(|cx| from.split(&buffers).0.poll_ready(cx, true)).await;
        assert!(matches!(piece, Ok(Piece::Data)) && from.inbound.pipe.is_some() && !from.is_clean());
        from.inbound.release(&buffers);
        assert_eq!(buffers.pipes.take().unwrap().held(), 0);
    }

    #[tokio::test]
    async fn trailers_follow_the_last_chunk() {
        let sent = b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n".to_vec();
        let (coded, whole) = through(sent.clone(), Framing::Chunked, Framing::Chunked).await;
        assert_eq!((whole, coded), (true, sent));
    }

    #[tokio::test]
    async fn a_small_body_leaves_in_one_piece_with_the_head_before_it() {
        let buffers = Buffers::default();
        let (mut to, mut receiver) = wire();
        to.outbound.pending.extend_from_slice(b"head\r\n\r\n");
        to.outbound.begin(Framing::Length(4));
        let taken = poll_fn(|cx| to.split(&buffers).1.poll_data(cx, b"body")).await.unwrap();
        assert_eq!((taken, to.outbound.written), (4, 0));
        poll_fn(|cx| to.split(&buffers).1.poll_flush(cx)).await.unwrap();
        assert!(to.outbound.is_flushed() && to.outbound.written == 12);
        let mut received = [0; 12];
        receiver.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"head\r\n\r\nbody");
    }

    #[tokio::test]
    async fn what_waits_to_be_written_is_bounded_when_nobody_reads() {
        let buffers = Buffers::default();
        let (mut to, _receiver) = wire();
        to.outbound.begin(Framing::Chunked);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while to.split(&buffers).1.poll_data(&mut cx, b"a small piece").is_ready() {
            assert!(to.outbound.pending.len() < 3 * SMALL, "{}", to.outbound.pending.len());
        }
        assert!(to.outbound.pending.len() < 3 * SMALL);
    }

    #[tokio::test]
    async fn blocks_grow_while_they_are_drained_whole_and_shrink_when_the_sender_stalls() {
        let buffers = Buffers::default();
        let (mut from, _sender) = wire();
        from.inbound.begin(Framing::ToClose);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for times in 0..7 {
            let size = from.inbound.stride.size();
            assert_eq!(size, (SMALLEST << times).min(LARGEST));
            let mut full = buffers.blocks.take(size);
            full.put(&pattern(size));
            from.inbound.buffer = Some(full);
            let (mut source, _) = from.split(&buffers);
            assert!(matches!(source.poll_ready(&mut cx, false), Poll::Ready(Ok(Piece::Data))));
            source.consume(size);
        }
        while from.inbound.stride.size() > SMALLEST {
            let before = from.inbound.stride.size();
            assert!(from.split(&buffers).0.poll_fill(&mut cx).is_pending());
            assert_eq!(from.inbound.stride.size(), before / 2);
            assert!(from.inbound.buffer.is_none(), "nothing is held for a sender that stalls");
        }
    }

    #[tokio::test]
    async fn a_block_drained_in_pieces_does_not_grow() {
        let buffers = Buffers::default();
        let (mut from, _sender) = wire();
        from.inbound.begin(Framing::ToClose);
        let mut full = buffers.blocks.take(SMALLEST);
        full.put(&pattern(SMALLEST));
        from.inbound.buffer = Some(full);
        let (mut source, _) = from.split(&buffers);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(source.poll_ready(&mut cx, false).is_ready());
        source.consume(1);
        source.consume(SMALLEST - 1);
        assert_eq!(from.inbound.stride.size(), SMALLEST);
    }

    /// Reads ahead until this holds.
    async fn read_ahead(from: &mut Wire, buffers: &Buffers, until: impl Fn(&Inbound) -> bool) {
        poll_fn(|cx| {
            from.split(buffers).0.poll_ahead(cx).unwrap();
            if until(&from.inbound) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    #[tokio::test]
    async fn reading_ahead_stops_at_a_full_block_and_notes_the_end() {
        let buffers = Buffers::default();
        let (mut from, mut sender) = wire();
        sender.write_all(&pattern(SMALLEST + 5)).await.unwrap();
        drop(sender);
        read_ahead(&mut from, &buffers, |inbound| inbound.buffer.as_ref().is_some_and(Buffer::is_full)).await;
        assert!(!from.inbound.ended);
        from.inbound.consume(SMALLEST, &buffers);
        read_ahead(&mut from, &buffers, |inbound| inbound.ended).await;
        assert!(!from.inbound.is_empty(), "five bytes are unused");
        from.inbound.consume(5, &buffers);
        assert!(from.inbound.is_empty() && from.inbound.buffer.is_none());
    }

    #[tokio::test]
    async fn a_block_that_became_too_small_for_a_head_is_exchanged_for_a_larger_one() {
        let buffers = Buffers::default();
        let (mut from, mut sender) = wire();
        sender.write_all(&pattern(SMALLEST)).await.unwrap();
        poll_fn(|cx| from.split(&buffers).0.poll_fill(cx)).await.unwrap();
        from.split(&buffers).0.make_room(2 * SMALLEST);
        assert_eq!(from.split(&buffers).0.bytes(), pattern(SMALLEST));
        assert_eq!(from.inbound.buffer.as_ref().map(Buffer::size), Some(2 * SMALLEST));
        from.split(&buffers).0.make_room(4 * SMALLEST);
        assert_eq!(from.inbound.buffer.as_ref().map(Buffer::size), Some(2 * SMALLEST), "it is not full");
    }

    #[test]
    fn trailers_are_only_written_behind_chunks() {
        let mut trailers = Fields::default();
        trailers.push(Known::Other, b"X-Sum", b"1");
        let mut outbound = Outbound::default();
        outbound.begin(Framing::Length(0));
        outbound.end(&trailers);
        assert!(outbound.is_flushed());
        outbound.begin(Framing::Chunked);
        outbound.end(&trailers);
        assert_eq!(outbound.pending, b"0\r\nX-Sum: 1\r\n\r\n");
    }
}
