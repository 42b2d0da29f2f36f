//! One request's stream on a client's HTTP/2 connection.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;

use super::streams::{Incoming, Outgoing};
use crate::http::forward::{Connection, OwnAnswer, Reply};
use crate::http::{Fields, Framing, ResponseHead, h2 as heads};
use crate::l7::body::Sink;
use crate::l7::client::{After, Front, Gone};
use crate::l7::wire::Wire;
use crate::pipe::Buffers;
use crate::proxy_protocol::Tls;

/// A request's stream.
pub(super) struct Stream {
    request: Incoming,
    response: Response,
    tls: Option<Rc<Tls>>,
}

/// How far the response is.
enum Response {
    /// Its final head has not been told.
    Ahead(SendResponse<Bytes>),
    /// Its body is under way.
    Begun(Outgoing),
    /// The client has gone before its head was told.
    Failed,
}

impl Response {
    /// Whether the client has ended the stream or the connection.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Response::Ahead(respond) => respond.poll_reset(cx).map(drop),
            Response::Begun(response) => response.poll_reset(cx),
            Response::Failed => Poll::Ready(()),
        }
    }
}

impl Stream {
    /// One on which a request has just begun.
    pub(super) fn new(request: Incoming, respond: SendResponse<Bytes>, tls: Option<Rc<Tls>>) -> Stream {
        Stream { request, response: Response::Ahead(respond), tls }
    }

    /// Ends it. What the client still sends after a whole answer is not wanted, which it is told by the connection.
    pub(super) fn end(self, how: After) {
        match (how, self.response) {
            (After::KeepAlive | After::Close | After::Linger, Response::Begun(_)) => {}
            (_, Response::Begun(mut response)) => response.reset(Reason::INTERNAL_ERROR),
            (_, Response::Ahead(mut respond)) => respond.send_reset(Reason::INTERNAL_ERROR),
            (_, Response::Failed) => {}
        }
    }

    /// A request that may open a tunnel has come, and no body of it will.
    pub(super) fn hold_back(&mut self) {
        self.request.hold_back();
    }

    fn tell(&mut self, head: http::Response<()>, framing: Framing, connection: Connection) {
        let Response::Ahead(respond) = &mut self.response else { return };
        let tunnel = connection == Connection::Upgrade;
        self.response = match respond.send_response(head, framing == Framing::None && !tunnel) {
            Ok(stream) if tunnel => Response::Begun(Outgoing::held_back(stream)),
            Ok(stream) => Response::Begun(Outgoing::new(stream, framing)),
            Err(error) => {
                tracing::debug!(%error, "response not taken");
                Response::Failed
            }
        };
    }
}

impl Front for Stream {
    type Source<'a> = &'a mut Incoming;
    type Sink<'a> = ResponseSink<'a>;

    fn split<'a>(&'a mut self, _: &'a Buffers) -> (&'a mut Incoming, ResponseSink<'a>) {
        (&mut self.request, ResponseSink(&mut self.response))
    }

    fn poll_gone(&mut self, _: &Buffers, cx: &mut Context<'_>) -> Result<(), Gone> {
        if self.response.poll_reset(cx).is_ready() { Err(Gone) } else { Ok(()) }
    }

    fn interim(&mut self, head: &ResponseHead) {
        if let Response::Ahead(respond) = &mut self.response {
            // It fails for a stream that is gone; who polls it next is told.
            let _ = respond.send_informational(heads::write_interim(head));
        }
    }

    fn respond(&mut self, head: &ResponseHead, reply: &Reply<'_>) {
        self.tell(heads::write_response(head, reply), reply.framing, reply.connection);
    }

    fn answer(&mut self, answer: &OwnAnswer<'_>) {
        let body = answer.sent_body();
        let framing = if body.is_empty() { Framing::None } else { Framing::Length(body.len() as u64) };
        self.tell(heads::write_own_answer(answer), framing, answer.connection);
        if let Response::Begun(response) = &mut self.response
            && !body.is_empty()
        {
            response.say(Bytes::copy_from_slice(body));
        }
    }

    fn is_read(&self) -> bool {
        self.request.is_read()
    }

    /// Who has ended a stream can begin another.
    fn has_ended(&self) -> bool {
        false
    }

    fn holds_input(&self) -> bool {
        false
    }

    fn written(&self) -> u64 {
        if let Response::Begun(response) = &self.response { response.written() } else { 0 }
    }

    fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    fn tls(&self) -> Option<Rc<Tls>> {
        self.tls.clone()
    }

    fn give_memory_back(&mut self) -> Vec<u8> {
        Vec::new()
    }

    fn raw(&mut self) -> Option<&mut Wire> {
        None
    }

    fn open_tunnel(&mut self) {
        self.request.open_tunnel();
        if let Response::Begun(response) = &mut self.response {
            response.open_tunnel();
        }
    }
}

/// Where the response's body goes, once its head was told.
pub(super) struct ResponseSink<'a>(&'a mut Response);

impl ResponseSink<'_> {
    fn body(&mut self) -> Option<&mut Outgoing> {
        if let Response::Begun(body) = self.0 { Some(body) } else { None }
    }
}

impl Sink for ResponseSink<'_> {
    fn poll_data(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.body() {
            Some(mut body) => body.poll_data(cx, data),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn end(&mut self, trailers: &Fields) {
        if let Some(mut body) = self.body() {
            body.end(trailers);
        }
    }

    /// What was taken is with the connection. A client that is gone is told of here as well, since one whose body the backend does
    /// not take is not read from.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0.poll_reset(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    fn written(&self) -> u64 {
        if let Response::Begun(body) = &*self.0 { body.written() } else { 0 }
    }
}
