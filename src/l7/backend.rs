//! The backend's side of an attempt, whatever protocol is spoken with it.
//!
//! An attempt sends one request, reads heads until the final one, and then has two bodies on the way.

use std::task::{Context, Poll, ready};

use super::wire::{Wire, WireSink, WireSource};
use crate::http::fields::Forwarding;
use crate::http::h1::parse::{self, HeadLimits, Parsed};
use crate::http::h1::write;
use crate::http::{Framing, Method, Refusal, ResponseHead};
use crate::local::{Desk, Local};
use crate::pipe::Buffers;
use crate::stream::Stream;

/// A backend's HTTP/1.1 connection for the length of an attempt.
pub(super) struct Upstream {
    pub wire: Wire,
    /// How much of the response's head was there when it was last looked at.
    seen: usize,
    /// Any byte of a response has come.
    heard: bool,
}

/// Why no head of a response came.
#[derive(Debug)]
pub(super) enum HeadFault {
    /// It breaks a rule.
    Refused(Refusal),
    /// The backend closed before it was complete; whether anything had come of it.
    Closed { heard: bool },
}

impl Upstream {
    /// A connection on which nothing is under way.
    pub(super) fn new(stream: Stream) -> Upstream {
        Upstream { wire: Wire::new(stream), seen: 0, heard: false }
    }

    /// Makes the head of the request on the desk ready and begins the body behind it.
    pub(super) fn send(&mut self, desk: &mut Desk, how: &Forwarding<'_>) {
        self.wire.outbound.lend(std::mem::take(&mut desk.to_backend));
        write::request(&mut self.wire.outbound.pending, &desk.request, how);
        self.wire.outbound.begin(desk.request.framing);
    }

    /// The response's body and the request's.
    pub(super) fn split<'a>(&'a mut self, buffers: &'a Buffers) -> (WireSource<'a>, WireSink<'a>) {
        self.wire.split(buffers)
    }

    /// Reads the next head, interim or final; says how many bytes it had.
    pub(super) fn poll_head(
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

    /// The final head was accepted: a body with this framing follows.
    pub(super) fn begin(&mut self, framing: Framing) {
        self.wire.inbound.begin(framing);
    }

    /// Whether any byte of the request was sent.
    pub(super) fn has_sent(&self) -> bool {
        self.wire.outbound.written() > 0
    }

    /// The connection itself, where a tunnel has all of it.
    pub(super) fn raw(&mut self) -> Option<&mut Wire> {
        Some(&mut self.wire)
    }

    /// The protocol is left: from here on everything that comes and goes is body, in both directions.
    pub(super) fn open_tunnel(&mut self) {
        self.wire.leave_protocol();
    }

    /// The memory that the head was made in, when there will be no more.
    pub(super) fn give_memory_back(&mut self) -> Vec<u8> {
        self.wire.outbound.give_back()
    }

    /// Ends it so that the backend sees that it is not complete.
    pub(super) fn reset(self) {
        self.wire.stream.reset();
    }

    /// Gives the memory back that it works on, and the connection for the next exchange, if nothing speaks against that: the
    /// backend did not, its body's end was told by its framing, and nothing came after it.
    pub(super) fn end(mut self, local: &Local, desk: &mut Desk) -> Option<Stream> {
        let reusable = desk.response.keeps_alive()
            && !desk.request.connection.websocket
            && desk.response.framing != Framing::ToClose
            && self.wire.is_clean()
            && !self.wire.inbound.ended;
        self.wire.inbound.release(&local.buffers);
        desk.to_backend = self.wire.outbound.give_back();
        reusable.then_some(self.wire.stream)
    }
}
