//! The client's HTTP/1.1 connection: wait, read a head, have it answered, and whether the connection is used again.
//!
//! Requests are taken one after the other, so pipelined ones are answered in their order; what came ahead waits in the
//! buffer. Between two requests the connection holds no buffer.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::client::{After, Client, Front, Gone};
use super::exchange;
use super::replies::Answer;
use super::request_id::RequestId;
use super::wire::{Wire, WireSink, WireSource};
use crate::clock::{self, Instant};
use crate::http::forward::{OwnAnswer, Reply};
use crate::http::h1::parse::{self, Parsed};
use crate::http::h1::write;
use crate::http::{Framing, Refusal, ResponseHead};
use crate::local::{Desk, LAST_REQUEST, Local, Phase};
use crate::pipe::Buffers;
use crate::proxy_protocol::Tls;
use crate::state::{ListenerId, Terms};
use crate::stream::Incoming;

/// How much a lingering close reads and forgets, in bytes, and for how long.
const LINGER_BYTES: usize = 64 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(2);

/// A client's connection.
type Connection = Client<Wire>;

impl Front for Wire {
    type Source<'a> = WireSource<'a>;
    type Sink<'a> = WireSink<'a>;

    fn split<'a>(&'a mut self, buffers: &'a Buffers) -> (WireSource<'a>, WireSink<'a>) {
        Wire::split(self, buffers)
    }

    /// Reads ahead: what comes is the next request, an orderly end is fine.
    fn poll_gone(&mut self, buffers: &Buffers, cx: &mut Context<'_>) -> Result<(), Gone> {
        Wire::split(self, buffers).0.poll_ahead(cx).map_err(|_| Gone)
    }

    fn interim(&mut self, head: &ResponseHead) {
        write::interim(&mut self.outbound.pending, head);
    }

    fn respond(&mut self, head: &ResponseHead, reply: &Reply<'_>) {
        write::response(&mut self.outbound.pending, head, reply);
        self.outbound.begin(reply.framing);
    }

    fn answer(&mut self, answer: &OwnAnswer<'_>) {
        write::own_answer(&mut self.outbound.pending, answer);
    }

    fn is_read(&self) -> bool {
        self.inbound.is_done()
    }

    fn has_ended(&self) -> bool {
        self.inbound.ended
    }

    fn holds_input(&self) -> bool {
        !self.inbound.is_empty()
    }

    fn written(&self) -> u64 {
        self.outbound.written()
    }

    fn is_secure(&self) -> bool {
        self.stream.is_secure()
    }

    fn tls(&self) -> Option<Rc<Tls>> {
        self.stream.tls().map(Rc::new)
    }

    fn give_memory_back(&mut self) -> Vec<u8> {
        self.outbound.give_back()
    }

    fn raw(&mut self) -> Option<&mut Wire> {
        Some(self)
    }

    fn open_tunnel(&mut self) {
        self.leave_protocol();
    }
}

/// Serves one connection from its acceptance to its end; `seat` is let go of when nothing of it is left.
///
/// The connection is made here and not in the task: what a task is handed keeps its place in it until the end, beside what
/// is made of it.
pub fn serve(local: &Rc<Local>, incoming: Incoming, seat: impl Sized + 'static) -> impl Future<Output = ()> + 'static {
    let mut connection = Connection::new(local, incoming);
    async move {
        let ending = connection.serve().await;
        connection.end(ending);
        drop(seat);
    }
}

impl Client<Wire> {
    fn new(local: &Rc<Local>, incoming: Incoming) -> Connection {
        let mut wire = Wire::new(incoming.stream);
        if !incoming.prefix.is_empty() {
            let mut buffer = local.buffers.blocks.take(incoming.prefix.len());
            buffer.put(&incoming.prefix);
            wire.inbound.buffer = Some(buffer);
        }
        let terms = local.view().terms(incoming.listener).cloned();
        Connection {
            identity: wire.stream.identity().cloned(),
            wire,
            session: local.session(),
            deadline: local.deadline(),
            listener: incoming.listener,
            peer: incoming.peer,
            local: incoming.local,
            terms: terms.unwrap_or_default(),
            requests: 0,
        }
    }

    /// Answers one request after the other; says how it is to end when there will be none any more.
    async fn serve(&mut self) -> After {
        let local = Rc::clone(self.session.local());
        let mut wait = self.terms.header;
        while self.request_has_begun() || self.request_begins(wait).await {
            let mut desk = local.desk();
            // Housed, so that the connection keeps no room for it while it idles.
            let after = local.housing.house(|| self.answer_one(&mut desk)).await;
            self.take_up(&mut desk);
            local.give_desk(desk);
            match after {
                After::KeepAlive => {}
                After::Linger => {
                    self.linger().await;
                    return After::Close;
                }
                ending => return ending,
            }
            wait = self.terms.idle;
        }
        After::Close
    }

    /// Whether bytes of the next request came ahead.
    fn request_has_begun(&self) -> bool {
        self.wire.inbound.buffer.is_some()
    }

    /// Waits for the first bytes of a request; false when none will come. What it holds, an idle connection holds.
    fn request_begins(&mut self, at_most: Duration) -> impl Future<Output = bool> {
        let latest = clock::now() + at_most;
        poll_fn(move |cx| self.poll_request_begins(cx, latest))
    }

    fn poll_request_begins(&mut self, cx: &mut Context<'_>, latest: Instant) -> Poll<bool> {
        if self.wire.inbound.ended {
            return Poll::Ready(false);
        }
        self.session.watch(cx);
        let local = self.session.local();
        let (mut source, _) = self.wire.split(&local.buffers);
        match source.poll_fill(cx) {
            Poll::Ready(Ok(more)) => return Poll::Ready(more),
            Poll::Ready(Err(_)) => return Poll::Ready(false),
            Poll::Pending => {}
        }
        let Some(until) = idle_until(local, self.listener, latest) else { return Poll::Ready(false) };
        self.deadline.set(until);
        self.deadline.poll(cx).map(|()| false)
    }

    /// Reads one request and answers it.
    async fn answer_one(&mut self, desk: &mut Desk) -> After {
        self.wire.outbound.lend(std::mem::take(&mut desk.to_client));
        // A listener that has just gone lets what it has begun come to its end, on the terms it began with.
        if let Some(terms) = self.session.local().view().terms(self.listener)
            && !Rc::ptr_eq(terms, &self.terms)
        {
            self.terms = Rc::clone(terms);
        }
        self.requests = self.requests.saturating_add(1);
        match self.read_head(desk).await {
            Ok(()) => exchange::run(self, desk).await,
            Err(HeadFault::Refused(refusal)) => {
                tracing::debug!(peer = ?self.peer, why = refusal.why(), "request refused");
                self.answer_unread(desk, Answer::refusal(refusal)).await
            }
            Err(HeadFault::Late) => self.answer_unread(desk, Answer::plain(408)).await,
            Err(HeadFault::Gone) => After::Close,
        }
    }

    /// Answers a request that was not read whole: nobody knows where the next would begin. If its method was read and is
    /// HEAD, the answer has no body either.
    async fn answer_unread(&mut self, desk: &mut Desk, answer: Answer) -> After {
        let id = self.session.local().roll(RequestId::roll);
        answer.closing().send(self, desk, id.as_str()).await
    }

    /// Reads the head of a request into `desk.request` and begins its body.
    async fn read_head(&mut self, desk: &mut Desk) -> Result<(), HeadFault> {
        let Terms { head: limits, header, .. } = *self.terms;
        let mut seen = 0;
        let Client { wire, session, deadline, .. } = self;
        let mut limit: Option<Instant> = None;
        poll_fn(|cx| {
            session.watch(cx);
            let local = session.local();
            let (mut source, _) = wire.split(&local.buffers);
            loop {
                match parse::request(source.bytes(), seen, &limits, &mut desk.request) {
                    Ok(Parsed::Complete(length)) => {
                        source.begin(length, desk.request.framing);
                        wire.inbound.limit_trailers(limits);
                        return Poll::Ready(Ok(()));
                    }
                    Ok(Parsed::Partial) => seen = source.bytes().len(),
                    Err(refusal) => return Poll::Ready(Err(HeadFault::Refused(refusal))),
                }
                // Past the limit, so that it is the parser that refuses.
                source.make_room(2 * limits.head_bytes);
                match source.poll_fill(cx) {
                    Poll::Ready(Ok(true)) => {}
                    Poll::Ready(_) => return Poll::Ready(Err(HeadFault::Gone)),
                    Poll::Pending => break,
                }
            }
            if local.phase() == Phase::Cut {
                return Poll::Ready(Err(HeadFault::Gone));
            }
            deadline.set(*limit.get_or_insert_with(|| clock::now() + header));
            deadline.poll(cx).map(|()| Err(HeadFault::Late))
        })
        .await
    }

    /// Puts the desk's memory back and gives up the buffer when nothing waits in it.
    fn take_up(&mut self, desk: &mut Desk) {
        desk.to_client = self.wire.outbound.give_back();
        self.wire.inbound.begin(Framing::None);
        let local = self.session.local().clone();
        self.wire.inbound.release_if_empty(&local.buffers);
    }

    fn end(mut self, how: After) {
        self.wire.inbound.release(&self.session.local().buffers);
        match how {
            After::Reset => self.wire.stream.reset(),
            After::BreakOff => drop(self.wire.stream),
            After::KeepAlive | After::Close | After::Linger => self.wire.stream.close(),
        }
    }

    /// Ends our direction and forgets what the client still sends, within bounds: closing with unread bytes would reset
    /// the connection and could take the answer with it.
    fn linger(&mut self) -> impl Future<Output = ()> {
        self.deadline.set(clock::now() + LINGER_TIME);
        let mut left = LINGER_BYTES;
        poll_fn(move |cx| {
            self.session.watch(cx);
            let local = self.session.local();
            if local.phase() == Phase::Cut || self.deadline.poll(cx).is_ready() {
                return Poll::Ready(());
            }
            poll_forget(&mut self.wire, &local.buffers, &mut left, cx)
        })
    }
}

/// Ends our direction, then reads and forgets up to `left` bytes.
fn poll_forget(wire: &mut Wire, buffers: &Buffers, left: &mut usize, cx: &mut Context<'_>) -> Poll<()> {
    let (mut source, mut sink) = wire.split(buffers);
    if ready!(sink.poll_shutdown(cx)).is_err() {
        return Poll::Ready(());
    }
    loop {
        let waiting = source.bytes().len();
        source.discard(waiting);
        *left = left.saturating_sub(waiting);
        if *left == 0 || !matches!(ready!(source.poll_fill(cx)), Ok(true)) {
            return Poll::Ready(());
        }
    }
}

/// Until when a connection without a request is kept; `None` when it ends now.
fn idle_until(local: &Local, listener: ListenerId, latest: Instant) -> Option<Instant> {
    match local.phase() {
        Phase::Cut => None,
        Phase::Draining { since } => Some(latest.min(since + LAST_REQUEST)),
        Phase::Serving => local.view().listener(listener).map(|_| latest),
    }
}

/// Why no head was read.
enum HeadFault {
    /// It breaks a rule.
    Refused(Refusal),
    /// It did not come in time.
    Late,
    /// The client went.
    Gone,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As large as what counts a connection.
    type Seat = [u64; 7];

    fn size_of_task<F>(_: impl FnOnce(&'static Rc<Local>, Incoming) -> F) -> usize {
        size_of::<F>()
    }

    /// To this the runtime adds 104 bytes and rounds up to a multiple of 128; some 670 bytes more were measured beside the
    /// task. So 664 would still keep an idle connection within 1.5 KiB, and 536 leave one step to spare.
    #[test]
    fn a_connection_keeps_no_room_for_an_exchange_while_it_idles() {
        let size = size_of_task(|local, incoming| serve(local, incoming, Seat::default()));
        assert!(size <= 536, "{size} bytes");
    }
}
