//! An attempt's stream on a connection of HTTP/2 to a backend.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::ext::Protocol;
use h2::{Error, Reason, SendStream};

use super::streams::{Incoming, Outgoing};
use crate::clock::Instant;
use crate::http::fields::{Forwarding, Scheme};
use crate::http::h1::parse::HeadLimits;
use crate::http::h2::{Body, read_response, write_request};
use crate::http::{Fields, Framing, Method, Refusal, RequestHead, ResponseHead};
use crate::l7::backend::HeadFault;
use crate::l7::body::{Piece, Sink, Source, SourceFault};
use crate::upstream::shared::Place;

/// A request's stream, and its response's.
pub(in crate::l7) struct Streamed {
    request: Option<Outgoing>,
    response: Response,
    /// The backend says that it has done nothing for it.
    unprocessed: bool,
    scheme: Scheme,
    /// Given back when all of the above is gone.
    place: Place,
}

/// How far the response is.
enum Response {
    /// Nothing was asked, or the connection took no request.
    None,
    /// HTTP/2 has no words for the request.
    Unsaid(Refusal),
    /// Its final head has not come.
    Ahead(ResponseFuture),
    /// Its body is under way.
    Begun(Incoming),
}

impl Streamed {
    /// One that has said nothing yet, on a backend's connection that is reached so.
    pub(in crate::l7) fn new(place: Place, scheme: Scheme) -> Streamed {
        Streamed { request: None, response: Response::None, unprocessed: false, scheme, place }
    }

    /// Whether its connection was there before.
    pub(in crate::l7) fn is_reused(&self) -> bool {
        self.place.reused
    }

    /// Sends the head of a request. What goes wrong with it is told by the wait for the response.
    pub(in crate::l7) fn send(&mut self, head: &RequestHead, how: &Forwarding<'_>) {
        let mut request = match write_request(head, how, self.scheme) {
            Ok(request) => request,
            Err(refusal) => return self.response = Response::Unsaid(refusal),
        };
        let tunnel = head.connection.websocket;
        if tunnel {
            request.extensions_mut().insert(Protocol::from_static("websocket"));
        }
        let bodiless = head.framing == Framing::None && !tunnel;
        match self.place.requests().send_request(request, bodiless) {
            Ok((response, stream)) => {
                self.request = Some(outgoing(stream, head.framing, tunnel));
                self.response = Response::Ahead(response);
            }
            Err(error) => {
                tracing::debug!(%error, "request not taken");
                self.unprocessed = true;
            }
        }
    }

    /// Waits for the next head, interim or final; says how many bytes it has.
    pub(in crate::l7) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        method: Method,
        head: &mut ResponseHead,
    ) -> Poll<Result<usize, HeadFault>> {
        let limits = HeadLimits::default();
        let response = match &mut self.response {
            Response::Ahead(response) => response,
            Response::Unsaid(refusal) => return Poll::Ready(Err(HeadFault::Unsaid(*refusal))),
            Response::None | Response::Begun(_) => return Poll::Ready(Err(HeadFault::Closed { heard: false })),
        };
        if let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
            let (parts, ()) = interim.into_parts();
            return Poll::Ready(read(&parts, Body::Follows, method, &limits, head));
        }
        match ready!(Pin::new(response).poll(cx)) {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                let told = if body.is_end_stream() { Body::Ended } else { Body::Follows };
                self.response = Response::Begun(Incoming::new(body, limits));
                Poll::Ready(read(&parts, told, method, &limits, head))
            }
            Err(error) => Poll::Ready(Err(self.closed(&error))),
        }
    }

    fn closed(&mut self, error: &Error) -> HeadFault {
        tracing::debug!(%error, "no response");
        // Streams that a GOAWAY leaves out were not begun either (RFC 9113 §6.8).
        self.unprocessed = error.reason() == Some(Reason::REFUSED_STREAM) || (error.is_go_away() && error.is_remote());
        HeadFault::Closed { heard: !self.unprocessed && error.is_reset() }
    }

    /// Whether the backend may have begun to work on it.
    pub(in crate::l7) fn has_sent(&self) -> bool {
        self.request.is_some() && !self.unprocessed
    }

    /// The response's body and the request's.
    pub(in crate::l7) fn split(&mut self) -> (StreamedSource<'_>, StreamedSink<'_>) {
        let source = if let Response::Begun(body) = &mut self.response { Some(body) } else { None };
        (StreamedSource(source), StreamedSink(self.request.as_mut()))
    }

    /// The final head was accepted. Where it says that no body follows, none does, whatever is sent as one: to a client of
    /// HTTP/1.1 that would be the next answer (security.md checklist 9).
    pub(in crate::l7) fn begin(&mut self, framing: Framing) {
        if let (Response::Begun(body), Framing::None) = (&mut self.response, framing) {
            body.refuse();
        }
    }

    /// From here on everything that comes and goes is body.
    pub(in crate::l7) fn open_tunnel(&mut self) {
        if let Some(request) = &mut self.request {
            request.open_tunnel();
        }
    }

    /// Ready when the backend has reset the stream, or ended the connection.
    pub(in crate::l7) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.request {
            Some(request) => request.poll_reset(cx),
            None => Poll::Pending,
        }
    }

    /// An answer has not come in time to what was sent then.
    pub(in crate::l7) fn answer_is_late(&self, sent: Instant) {
        self.place.answer_is_late(sent);
    }
}

impl Drop for Streamed {
    /// A stream that is let go of before both its sides have ended is reset (CANCEL).
    fn drop(&mut self) {
        let heard = matches!(&self.response, Response::Begun(body) if body.has_ended());
        if self.request.as_ref().is_some_and(|request| !(heard && request.has_ended())) {
            self.place.reset();
        }
    }
}

fn outgoing(stream: SendStream<Bytes>, framing: Framing, tunnel: bool) -> Outgoing {
    if tunnel { Outgoing::held_back(stream) } else { Outgoing::new(stream, framing) }
}

fn read(
    parts: &http::response::Parts,
    body: Body,
    method: Method,
    limits: &HeadLimits,
    head: &mut ResponseHead,
) -> Result<usize, HeadFault> {
    read_response(parts, body, method, limits, head).map_err(HeadFault::Refused)?;
    Ok(parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum())
}

/// Where the response's body comes from, once its head has come.
pub(in crate::l7) struct StreamedSource<'a>(Option<&'a mut Incoming>);

impl Source for StreamedSource<'_> {
    fn poll_ready(&mut self, cx: &mut Context<'_>, piped: bool) -> Poll<Result<Piece, SourceFault>> {
        match &mut self.0 {
            Some(body) => body.poll_ready(cx, piped),
            None => Poll::Ready(Err(SourceFault::Cut)),
        }
    }

    fn data(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |body| body.data())
    }

    fn consume(&mut self, count: usize) {
        if let Some(body) = &mut self.0 {
            body.consume(count);
        }
    }

    fn take_trailers(&mut self) -> Fields {
        self.0.as_mut().map(|body| body.take_trailers()).unwrap_or_default()
    }
}

/// Where the request's body goes, once its head was sent.
pub(in crate::l7) struct StreamedSink<'a>(Option<&'a mut Outgoing>);

impl Sink for StreamedSink<'_> {
    fn poll_data(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Some(body) => body.poll_data(cx, data),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn end(&mut self, trailers: &Fields) {
        if let Some(body) = &mut self.0 {
            body.end(trailers);
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Some(body) => body.poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn written(&self) -> u64 {
        self.0.as_ref().map_or(0, |body| body.written())
    }
}
