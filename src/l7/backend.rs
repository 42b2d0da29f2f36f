//! The backend's side of an attempt, whatever protocol is spoken with it.
//!
//! An attempt sends one request, reads heads until the final one, and then has two bodies on the way.

use std::io;
use std::task::{Context, Poll, ready};

use super::body::{Piece, Sink, Source, SourceFault};
use super::h2::{Streamed, StreamedSink, StreamedSource};
use super::wire::{Wire, WireSink, WireSource};
use crate::clock::Instant;
use crate::http::fields::Forwarding;
use crate::http::h1::parse::{self, HeadLimits, Parsed};
use crate::http::h1::write;
use crate::http::{Fields, Framing, Method, Refusal, RequestHead, ResponseHead, Version, websocket};
use crate::local::{Desk, Local};
use crate::outcome::Outcome;
use crate::pipe::{Buffers, Pipe};
use crate::stream::Stream;

/// A backend for the length of an attempt.
#[expect(clippy::large_enum_variant, reason = "the usual one needs no block of its own")]
pub(super) enum Upstream {
    /// On a connection of HTTP/1.1 that nobody else uses.
    H1(Wired),
    /// On a stream of HTTP/2, beside others.
    H2(Box<Streamed>),
}

/// A backend's HTTP/1.1 connection.
pub(super) struct Wired {
    wire: Wire,
    /// How much of the response's head was there when it was last looked at.
    seen: usize,
    /// Any byte of a response has come.
    heard: bool,
    /// What the backend's agreement to a WebSocket has to answer, where it was us who asked so.
    key: Option<String>,
}

/// Why no head of a response came.
#[derive(Debug)]
pub(super) enum HeadFault {
    /// It breaks a rule.
    Refused(Refusal),
    /// The request can not be put into the backend's protocol.
    Unsaid(Refusal),
    /// The backend closed before it was complete; whether anything had come of it.
    Closed { heard: bool },
}

impl Upstream {
    /// A connection on which nothing is under way.
    pub(super) fn over(stream: Stream) -> Upstream {
        Upstream::H1(Wired { wire: Wire::new(stream), seen: 0, heard: false, key: None })
    }

    /// Whether its connection was there before.
    pub(super) fn is_reused(&self) -> bool {
        matches!(self, Upstream::H2(stream) if stream.is_reused())
    }

    /// Makes the head of the request on the desk ready and begins the body behind it. `roll_key` gives the key of a WebSocket
    /// where the client has none, as in HTTP/2, and the backend wants one.
    pub(super) fn send(&mut self, desk: &mut Desk, how: &Forwarding<'_>, roll_key: impl FnOnce() -> String) {
        match self {
            Upstream::H1(Wired { wire, key, .. }) => {
                if desk.request.connection.websocket && desk.request.version == Version::Http2 {
                    *key = Some(roll_key());
                }
                wire.outbound.lend(std::mem::take(&mut desk.to_backend));
                let how = Forwarding { websocket_key: key.as_deref(), ..*how };
                write::request(&mut wire.outbound.pending, &desk.request, &how);
                wire.outbound.begin(desk.request.framing);
            }
            Upstream::H2(stream) => stream.send(&desk.request, how),
        }
    }

    /// The response's body and the request's.
    pub(super) fn split<'a>(&'a mut self, buffers: &'a Buffers) -> (UpstreamSource<'a>, UpstreamSink<'a>) {
        match self {
            Upstream::H1(wired) => {
                let (source, sink) = wired.wire.split(buffers);
                (UpstreamSource::H1(source), UpstreamSink::H1(sink))
            }
            Upstream::H2(stream) => {
                let (source, sink) = stream.split();
                (UpstreamSource::H2(source), UpstreamSink::H2(sink))
            }
        }
    }

    /// Reads the next head, interim or final; says how many bytes it had.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &Buffers,
        method: Method,
        head: &mut ResponseHead,
    ) -> Poll<Result<usize, HeadFault>> {
        match self {
            Upstream::H1(wired) => wired.poll_head(cx, buffers, method, head),
            Upstream::H2(stream) => stream.poll_head(cx, method, head),
        }
    }

    /// Whether the response, if it agrees to a WebSocket, does so as was asked. It reads as one of HTTP/1.1 then.
    pub(super) fn agrees(&self, request: &RequestHead, response: &mut ResponseHead) -> bool {
        match self {
            Upstream::H1(Wired { key: Some(key), .. }) => websocket::is_accepted(response, key.as_bytes()),
            Upstream::H1(_) => true,
            Upstream::H2(_) => {
                if request.connection.websocket {
                    websocket::agree(response, request);
                }
                true
            }
        }
    }

    /// The final head was accepted: a body with this framing follows.
    pub(super) fn begin(&mut self, framing: Framing) {
        match self {
            Upstream::H1(wired) => wired.wire.inbound.begin(framing),
            Upstream::H2(stream) => stream.begin(framing),
        }
    }

    /// Whether the backend may have seen anything of the request.
    pub(super) fn has_sent(&self) -> bool {
        match self {
            Upstream::H1(wired) => wired.wire.outbound.written() > 0,
            Upstream::H2(stream) => stream.has_sent(),
        }
    }

    /// The connection itself, where a tunnel has all of it.
    pub(super) fn raw(&mut self) -> Option<&mut Wire> {
        match self {
            Upstream::H1(wired) => Some(&mut wired.wire),
            Upstream::H2(_) => None,
        }
    }

    /// The protocol is left: from here on everything that comes and goes is body, in both directions.
    pub(super) fn open_tunnel(&mut self) {
        match self {
            Upstream::H1(wired) => wired.wire.leave_protocol(),
            Upstream::H2(stream) => stream.open_tunnel(),
        }
    }

    /// Ready when the backend has reset its stream.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            // It shows when something is written.
            Upstream::H1(_) => Poll::Pending,
            Upstream::H2(stream) => stream.poll_gone(cx),
        }
    }

    /// The memory that the head was made in, when there will be no more.
    pub(super) fn give_memory_back(&mut self) -> Vec<u8> {
        match self {
            Upstream::H1(wired) => wired.wire.outbound.give_back(),
            Upstream::H2(_) => Vec::new(),
        }
    }

    /// Ends it so that the backend sees that it is not complete.
    pub(super) fn reset(self) {
        match self {
            Upstream::H1(wired) => wired.wire.stream.reset(),
            // A stream that is let go of before its end is reset (CANCEL).
            Upstream::H2(stream) => drop(stream),
        }
    }

    /// What it means for the connection that an attempt has failed so; it was sent then.
    pub(super) fn failed(&self, outcome: Outcome, sent: Instant) {
        if let (Upstream::H2(stream), Outcome::ResponseHeaderTimeout) = (self, outcome) {
            stream.answer_is_late(sent);
        }
    }

    /// Gives the memory back that it works on, and the connection for the next exchange, if it was this one's alone and
    /// nothing speaks against that: the backend did not, its body's end was told by its framing, and nothing came after it.
    pub(super) fn end(self, local: &Local, desk: &mut Desk) -> Option<Stream> {
        let Upstream::H1(Wired { mut wire, .. }) = self else { return None };
        let reusable = desk.response.keeps_alive()
            && !desk.request.connection.websocket
            && desk.response.framing != Framing::ToClose
            && wire.is_clean()
            && !wire.inbound.ended;
        wire.inbound.release(&local.buffers);
        desk.to_backend = wire.outbound.give_back();
        reusable.then_some(wire.stream)
    }
}

impl Wired {
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &Buffers,
        method: Method,
        head: &mut ResponseHead,
    ) -> Poll<Result<usize, HeadFault>> {
        let (mut source, _) = self.wire.split(buffers);
        let limits = HeadLimits::default();
        loop {
            match parse::response(source.bytes(), self.seen, &limits, method, head) {
                Ok(Parsed::Complete(length)) => {
                    source.begin(length, Framing::None);
                    self.seen = 0;
                    return Poll::Ready(Ok(length));
                }
                Ok(Parsed::Partial) => self.seen = source.bytes().len(),
                Err(refusal) => return Poll::Ready(Err(HeadFault::Refused(refusal))),
            }
            // Past the limit, so that it is the parser that refuses.
            source.make_room(2 * limits.head_bytes);
            match ready!(source.poll_fill(cx)) {
                Ok(true) => self.heard = true,
                _ => return Poll::Ready(Err(HeadFault::Closed { heard: self.heard })),
            }
        }
    }
}

/// Where a response's body comes from.
pub(super) enum UpstreamSource<'a> {
    H1(WireSource<'a>),
    H2(StreamedSource<'a>),
}

impl Source for UpstreamSource<'_> {
    fn poll_ready(&mut self, cx: &mut Context<'_>, piped: bool) -> Poll<Result<Piece, SourceFault>> {
        match self {
            UpstreamSource::H1(source) => source.poll_ready(cx, piped),
            UpstreamSource::H2(source) => source.poll_ready(cx, piped),
        }
    }

    fn data(&self) -> &[u8] {
        match self {
            UpstreamSource::H1(source) => source.data(),
            UpstreamSource::H2(source) => source.data(),
        }
    }

    fn pipe(&mut self) -> Option<&mut Pipe> {
        match self {
            UpstreamSource::H1(source) => source.pipe(),
            UpstreamSource::H2(source) => source.pipe(),
        }
    }

    fn consume(&mut self, count: usize) {
        match self {
            UpstreamSource::H1(source) => source.consume(count),
            UpstreamSource::H2(source) => source.consume(count),
        }
    }

    fn take_trailers(&mut self) -> Fields {
        match self {
            UpstreamSource::H1(source) => source.take_trailers(),
            UpstreamSource::H2(source) => source.take_trailers(),
        }
    }
}

/// Where a request's body goes.
pub(super) enum UpstreamSink<'a> {
    H1(WireSink<'a>),
    H2(StreamedSink<'a>),
}

impl Sink for UpstreamSink<'_> {
    fn poll_data(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            UpstreamSink::H1(sink) => sink.poll_data(cx, data),
            UpstreamSink::H2(sink) => sink.poll_data(cx, data),
        }
    }

    fn takes_pipes(&self) -> bool {
        match self {
            UpstreamSink::H1(sink) => sink.takes_pipes(),
            UpstreamSink::H2(sink) => sink.takes_pipes(),
        }
    }

    fn poll_pipe(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        match self {
            UpstreamSink::H1(sink) => sink.poll_pipe(cx, pipe),
            UpstreamSink::H2(sink) => sink.poll_pipe(cx, pipe),
        }
    }

    fn end(&mut self, trailers: &Fields) {
        match self {
            UpstreamSink::H1(sink) => sink.end(trailers),
            UpstreamSink::H2(sink) => sink.end(trailers),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            UpstreamSink::H1(sink) => sink.poll_flush(cx),
            UpstreamSink::H2(sink) => sink.poll_flush(cx),
        }
    }

    fn written(&self) -> u64 {
        match self {
            UpstreamSink::H1(sink) => sink.written(),
            UpstreamSink::H2(sink) => sink.written(),
        }
    }
}
