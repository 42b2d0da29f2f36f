//! The client's side of an exchange, whatever protocol it speaks.
//!
//! An exchange reads the request's body from it and tells it the response: interim heads, one final head, a body. How that is
//! put into bytes, and what becomes of the connection afterwards, is for the protocol.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::body::{Sink, Source};
use super::wire::Wire;
use crate::clock;
use crate::deadline::Deadline;
use crate::http::ResponseHead;
use crate::http::forward::{OwnAnswer, Reply};
use crate::local::{Desk, Phase, Session};
use crate::pipe::Buffers;
use crate::proxy_protocol::Tls;
use crate::state::{ListenerId, Terms};
use crate::tls::Identity;

/// A protocol's way to take a request's body from a client and to give it a response.
pub(super) trait Front {
    /// Where the request's body comes from.
    type Source<'a>: Source
    where
        Self: 'a;
    /// Where the response's body goes.
    type Sink<'a>: Sink
    where
        Self: 'a;

    /// The request's body and the response's.
    fn split<'a>(&'a mut self, buffers: &'a Buffers) -> (Self::Source<'a>, Self::Sink<'a>);
    /// Looks whether the client is still there, though nothing of it is waited for; an error when it is gone.
    fn poll_gone(&mut self, buffers: &Buffers, cx: &mut Context<'_>) -> Result<(), Gone>;
    /// Tells an interim head. It leaves with what is flushed next.
    fn interim(&mut self, head: &ResponseHead);
    /// Tells the final head, behind which a body begins that is framed as `reply` has it.
    fn respond(&mut self, head: &ResponseHead, reply: &Reply<'_>);
    /// Tells a whole answer of our own.
    fn answer(&mut self, answer: &OwnAnswer<'_>);
    /// Whether the request's body has been read to its end.
    fn is_read(&self) -> bool;
    /// Whether the client can not say anything any more, though it may still listen.
    fn has_ended(&self) -> bool;
    /// Whether bytes of the client wait that nobody has asked for.
    fn holds_input(&self) -> bool;
    /// How many bytes of the response were written.
    fn written(&self) -> u64;
    /// Whether nobody on the way can read or change what is said.
    fn is_secure(&self) -> bool;
    /// What is known of its TLS, where that ends here.
    fn tls(&self) -> Option<Rc<Tls>>;
    /// The memory that heads were made in, when there will be no more.
    fn give_memory_back(&mut self) -> Vec<u8>;
    /// The connection itself, where a tunnel has all of it.
    fn raw(&mut self) -> Option<&mut Wire>;
    /// The protocol is left: from here on everything that comes and goes is body, in both directions.
    fn open_tunnel(&mut self);
}

/// The client has reset its connection, or its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// What one exchange with a client goes by.
pub(super) struct Client<F> {
    pub wire: F,
    pub session: Session,
    pub deadline: Deadline,
    pub listener: ListenerId,
    pub peer: Option<SocketAddr>,
    /// The address it came to; `None` over a Unix socket.
    pub local: Option<SocketAddr>,
    /// Who it is, where something was demanded of it in its TLS handshake.
    pub identity: Option<Arc<Identity>>,
    /// The listener's when the latest request began.
    pub terms: Rc<Terms>,
    /// How many requests its connection has brought, the one under way included.
    pub requests: u32,
}

/// What becomes of the client's connection after an exchange; where requests share one, of this request's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// The next request may come.
    KeepAlive,
    /// An orderly end.
    Close,
    /// An orderly end after which what the client still sends is read and forgotten, so that it gets its answer.
    Linger,
    /// An end in the middle of an answer, of which its length or the missing last chunk tells; TLS does not say that all was
    /// said.
    BreakOff,
    /// A reset: the answer is incomplete and must not look otherwise.
    Reset,
}

impl<F: Front> Client<F> {
    /// Writes what is pending; false when the client does not take it.
    pub(super) async fn flush(&mut self) -> bool {
        self.deadline.set(clock::now() + self.terms.write);
        let Client { wire, session, deadline, .. } = self;
        poll_fn(|cx| {
            session.watch(cx);
            let local = session.local();
            let (_, mut sink) = wire.split(&local.buffers);
            match sink.poll_flush(cx) {
                Poll::Ready(flushed) => Poll::Ready(flushed.is_ok()),
                Poll::Pending if local.phase() == Phase::Cut => Poll::Ready(false),
                Poll::Pending => deadline.poll(cx).map(|()| false),
            }
        })
        .await
    }

    /// Whether another request may follow the one on the desk, once both bodies are at their ends: the client wants that,
    /// may send more, and what comes will be requests. Bytes behind an upgrade that was not given may be anything
    /// (security.md R2, R3).
    pub(super) fn may_go_on(&self, desk: &Desk) -> bool {
        desk.request.keeps_alive()
            && !desk.request.connection.websocket
            && self.requests < self.terms.requests
            && self.session.local().phase() == Phase::Serving
    }

    /// Whether the client has ended its direction, and all that it sent was used.
    pub(super) fn is_over(&self) -> bool {
        self.wire.has_ended() && !self.wire.holds_input()
    }

    /// How it is closed after a whole answer. A client that may still send is given the time to read first: what comes in
    /// after a close is answered with a reset, which can take the answer with it.
    pub(super) fn farewell(&self, desk: &Desk) -> After {
        let last = self.wire.has_ended() || !desk.request.keeps_alive();
        if last && self.wire.is_read() && !self.wire.holds_input() { After::Close } else { After::Linger }
    }
}
