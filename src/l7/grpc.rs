//! How a backend is judged by its answer to a call of gRPC, which tells at its end how the call went.
//!
//! Where the head is all there is, it tells at once. Else the verdict comes with the trailer fields, or when a stream has gone
//! on for [`HEALTHY`]: a stream that lasts for days must not keep a breaker waiting that is half-open. How quick the backend is
//! shows in the time to the first message.

use std::task::{Context, Poll};
use std::time::Duration;

use super::body::{Piece, Source, SourceFault};
use crate::clock::{self, Instant};
use crate::http::{Fields, Framing, RequestHead, ResponseHead, grpc};
use crate::local::Local;
use crate::outcome::{self, Caller, Verdict};
use crate::pipe::Pipe;
use crate::state::Lease;

/// A stream that has gone on for so long is a success, whatever becomes of it.
const HEALTHY: Duration = Duration::from_secs(10);

/// The status that a backend is judged by as soon as the head of its answer is there: that of HTTP, or for an answer to a call
/// one that says the same as the call's. `None` where the end of the answer has to be waited for.
///
/// An answer that is none of gRPC's is no matter of calls, whatever its request said of itself: or any client could open the
/// breakers of a website.
pub(super) fn status_at_head(request: &RequestHead, response: &ResponseHead) -> Option<u16> {
    if !request.grpc || response.status != 200 || !grpc::is_call(&response.fields) {
        return Some(response.status);
    }
    let is_all = matches!(response.framing, Framing::None | Framing::Length(0));
    grpc::status(&response.fields).filter(|_| is_all).map(|code| outcome::status_of_grpc(code, caller(request)))
}

fn caller(request: &RequestHead) -> Caller {
    if grpc::timeout(&request.fields).is_some() { Caller::Hurried } else { Caller::Patient }
}

/// A call whose answer is under way, and what is to be learned from it.
pub(super) struct Call {
    caller: Caller,
    /// When the head of the answer came.
    begun: Instant,
    /// How long after the request its first message came.
    took: Option<Duration>,
    /// How it has ended, by the trailer fields.
    told: Option<u32>,
    judged: bool,
}

impl Call {
    /// One whose answer has begun at `now`.
    pub(super) fn begin(request: &RequestHead, now: Instant) -> Call {
        Call { caller: caller(request), begun: now, took: None, told: None, judged: false }
    }

    /// The source of its answer, overheard.
    pub(super) fn overhear<'a, S>(call: Option<&'a mut Call>, source: &'a mut S) -> Overheard<'a, S> {
        Overheard { source, told: call.map(|call| &mut call.told) }
    }

    /// So many bytes of the answer have come by now.
    pub(super) fn has_come(&mut self, bytes: u64, lease: &Lease) {
        if bytes > 0 && self.took.is_none() {
            self.took = Some(clock::now().since(lease.sent_at()));
        }
    }

    /// When it will have gone on for long enough; `None` when that has been said.
    pub(super) fn is_healthy_at(&self) -> Option<Instant> {
        (!self.judged).then(|| self.begun + HEALTHY)
    }

    /// It has gone on for long enough.
    pub(super) fn is_healthy(&mut self, now: Instant, lease: &mut Lease, local: &Local) {
        self.judge(now, Verdict::Good, lease, local);
    }

    /// It has come to its end; says which status of HTTP says the same. Who ends an answer and says nothing has failed.
    pub(super) fn is_over(&mut self, now: Instant, lease: &mut Lease, local: &Local) -> u16 {
        let status = outcome::status_of_grpc(self.told.unwrap_or(grpc::UNKNOWN), self.caller);
        self.judge(now, Verdict::of_status(status), lease, local);
        status
    }

    fn judge(&mut self, now: Instant, verdict: Verdict, lease: &mut Lease, local: &Local) {
        if std::mem::replace(&mut self.judged, true) {
            return;
        }
        let took = self.took.unwrap_or_else(|| now.since(lease.sent_at()));
        lease.responded_after(now, took, verdict);
        local.responded(lease.state().id(), took);
    }
}

/// A source whose trailer fields are looked at as they pass, where they may tell how a call ended.
pub(super) struct Overheard<'a, S> {
    source: &'a mut S,
    told: Option<&'a mut Option<u32>>,
}

impl<S: Source> Source for Overheard<'_, S> {
    fn poll_ready(&mut self, cx: &mut Context<'_>, piped: bool) -> Poll<Result<Piece, SourceFault>> {
        self.source.poll_ready(cx, piped)
    }

    fn data(&self) -> &[u8] {
        self.source.data()
    }

    fn pipe(&mut self) -> Option<&mut Pipe> {
        self.source.pipe()
    }

    fn consume(&mut self, count: usize) {
        self.source.consume(count);
    }

    fn take_trailers(&mut self) -> Fields {
        let trailers = self.source.take_trailers();
        if let Some(told) = &mut self.told {
            **told = grpc::status(&trailers);
        }
        trailers
    }
}

/// How long a request may take as a whole, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whole {
    pub limit: Duration,
    /// It is the client's own deadline: what is not done by then is nobody's failure.
    pub is_clients: bool,
}

impl Whole {
    /// The shorter of what its route gives this request and of what the request gives itself.
    pub(super) fn of(route: Option<Duration>, request: &RequestHead) -> Option<Whole> {
        let own = if request.grpc { grpc::timeout(&request.fields) } else { None };
        match (own, route) {
            (Some(own), route) if route.is_none_or(|route| own < route) => Some(Whole { limit: own, is_clients: true }),
            (_, route) => route.map(|limit| Whole { limit, is_clients: false }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Known;

    fn call(fields: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead::default();
        head.grpc = true;
        for (name, value) in fields {
            head.fields.push(Known::Other, name.as_bytes(), value.as_bytes());
        }
        head
    }

    fn answer(status: u16, framing: Framing, fields: &[(&str, &str)]) -> ResponseHead {
        let mut head = ResponseHead::default();
        (head.status, head.framing) = (status, framing);
        for (name, value) in fields {
            head.fields.push(Known::Other, name.as_bytes(), value.as_bytes());
        }
        head
    }

    const TYPE: (&str, &str) = ("content-type", "application/grpc");

    #[test]
    fn only_a_head_that_is_all_of_an_answer_to_a_call_tells_how_it_went() {
        let all = Framing::Length(0);
        let ended = |code| answer(200, all, &[TYPE, ("grpc-status", code)]);
        assert_eq!(status_at_head(&call(&[]), &ended("14")), Some(503));
        assert_eq!(status_at_head(&call(&[]), &ended("5")), Some(404));
        assert_eq!(status_at_head(&call(&[]), &ended("4")), Some(504));
        assert_eq!(status_at_head(&call(&[("grpc-timeout", "1n")]), &ended("4")), Some(408));
        assert_eq!(status_at_head(&call(&[]), &answer(200, Framing::Chunked, &[TYPE, ("grpc-status", "14")])), None);
        assert_eq!(status_at_head(&call(&[]), &answer(200, all, &[TYPE])), None);
        assert_eq!(status_at_head(&call(&[]), &answer(502, Framing::Chunked, &[TYPE])), Some(502));
    }

    #[test]
    fn an_answer_that_is_none_of_grpcs_and_one_to_no_call_are_judged_by_their_status() {
        let page = answer(200, Framing::Chunked, &[("content-type", "text/html")]);
        assert_eq!(status_at_head(&call(&[]), &page), Some(200));
        let ended = answer(200, Framing::Length(0), &[TYPE, ("grpc-status", "14")]);
        assert_eq!(status_at_head(&RequestHead::default(), &ended), Some(200));
    }

    #[test]
    fn the_shorter_deadline_counts_and_only_a_call_has_one_of_its_own() {
        let second = Duration::from_secs(1);
        let whole = |limit, is_clients| Some(Whole { limit, is_clients });
        let hurried = call(&[("grpc-timeout", "1S")]);
        assert_eq!(Whole::of(None, &hurried), whole(second, true));
        assert_eq!(Whole::of(Some(second * 2), &hurried), whole(second, true));
        assert_eq!(Whole::of(Some(second / 2), &hurried), whole(second / 2, false));
        assert_eq!(Whole::of(None, &call(&[("grpc-timeout", "soon")])), None);
        let mut other = hurried;
        other.grpc = false;
        assert_eq!(Whole::of(None, &other), None);
    }
}
