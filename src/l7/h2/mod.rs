//! A client's HTTP/2 connection: its streams, each one request through one exchange, and how the connection ends.
//!
//! The `h2` crate speaks the protocol; here is what it leaves to its user: whose turn an end is, how much a client may ask
//! for, and how long it may take. The connection is one task, each of its streams another, which ends when the connection is
//! gone: then nobody is there to be answered.

mod back;
mod front;
mod streams;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use http::request::Parts;
use tokio::task::spawn_local;

pub(super) use self::back::{Streamed, StreamedSink, StreamedSource};
use self::front::Stream;
use self::streams::Incoming as IncomingBody;
use super::client::{After, Client};
use super::exchange;
use super::replies::Answer;
use super::request_id::RequestId;
use crate::clock::{self, Instant};
use crate::deadline::Deadline;
use crate::http::Refusal;
use crate::http::frames::Side;
use crate::http::h2::{Body, read_request};
use crate::local::{Desk, Local, Phase, Session};
use crate::proxy_protocol::Tls;
use crate::state::{ListenerId, ListenerPlan, Terms};
use crate::stream::{Incoming, Seen, Watched};
use crate::tls::Identity;

/// What a client may send on one stream, and on all of a connection together, before we have used any of it, in bytes
/// (security.md §2).
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What waits on one stream for its turn on the connection, in bytes.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams that a client resets before they were begun, and errors of its that we answer with a reset: with more the
/// connection ends (security.md R19).
const RESETS_AHEAD: usize = 20;
const RESETS_OF_OURS: usize = 200;
/// Reset streams that are remembered, so that what was under way for them is no fault.
const REMEMBERED: usize = 50;
/// What the `h2` crate adds for each field when it counts how large a head is (RFC 9113 §6.5.2).
const FIELD_OVERHEAD: usize = 32;

/// How long the end of a connection may take on which nothing is under way any more, and how long a client may need to hear
/// of it.
const FAREWELL: Duration = Duration::from_secs(2);

/// Serves one connection from its acceptance to its end; `seat` is let go of when nothing of it is left.
pub fn serve(local: &Rc<Local>, incoming: Incoming, seat: impl Sized + 'static) -> impl Future<Output = ()> + 'static {
    let local = Rc::clone(local);
    async move {
        if let Some(mut connection) = Connection::open(&local, incoming).await {
            poll_fn(|cx| connection.poll(cx)).await;
        }
        drop(seat);
    }
}

/// A client's connection.
struct Connection {
    h2: server::Connection<Watched, Bytes>,
    seen: Rc<Seen>,
    session: Session,
    deadline: Deadline,
    client: Whose,
    streams: Rc<UnderWay>,
    /// How many requests it has brought.
    requests: u32,
    course: Course,
}

/// Whose a connection is.
#[derive(Clone)]
struct Whose {
    listener: ListenerId,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    identity: Option<Arc<Identity>>,
    terms: Rc<Terms>,
    /// What is known of its TLS; `None` where all of it is in the clear.
    tls: Option<Rc<Tls>>,
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// It takes requests.
    Serving,
    /// Nothing is under way, since then.
    Idle(Instant),
    /// It was told then that it ends.
    Closing(Instant),
    /// The same, and nothing is under way, since then.
    Leaving { told: Instant, since: Instant },
    /// It was told that it ends at once for what its client did, then.
    Refused(Instant),
}

impl Connection {
    /// Agrees with the client on the terms of the protocol; `None` when it does not come to that.
    async fn open(local: &Rc<Local>, incoming: Incoming) -> Option<Connection> {
        let terms = local.view().terms(incoming.listener).cloned().unwrap_or_default();
        let Incoming { stream, listener, peer, local: own, prefix } = incoming;
        let (identity, tls) = (stream.identity().cloned(), stream.tls().map(Rc::new));
        let client = Whose { listener, peer, local: own, identity, terms, tls };
        let (session, mut deadline) = (local.session(), local.deadline());
        let (watched, seen) = Watched::new(stream, prefix, Side::Server);
        let mut handshake = std::pin::pin!(settings(&client.terms).handshake(watched));
        deadline.set(clock::now() + client.terms.header);
        let h2 = poll_fn(|cx| {
            session.watch(cx);
            if let Poll::Ready(agreed) = handshake.as_mut().poll(cx) {
                return Poll::Ready(
                    agreed.map_err(|error| tracing::debug!(peer = ?client.peer, %error, "no HTTP/2")).ok(),
                );
            }
            if local.phase() != Phase::Serving {
                return Poll::Ready(None);
            }
            deadline.poll(cx).map(|()| None)
        })
        .await?;
        let course = Course::Idle(clock::now());
        Some(Connection { h2, seen, session, deadline, client, streams: Rc::default(), requests: 0, course })
    }

    /// Goes on as far as it can; ready at its end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.session.watch(cx);
        loop {
            if self.poll_requests(cx).is_ready() || self.session.local().phase() == Phase::Cut {
                return Poll::Ready(());
            }
            self.streams.watch(cx);
            self.take_stock();
            if self.course_is_over() {
                self.take_leave();
                continue;
            }
            match ready!(self.poll_deadline(cx)) {
                Late::Idle => self.take_leave(),
                Late::Unfinished => self.refuse("a head did not come whole in time"),
                Late::Gone => return Poll::Ready(()),
            }
        }
    }

    /// Tells the client that nothing new is taken; what is under way is finished.
    fn take_leave(&mut self) {
        self.h2.graceful_shutdown();
        self.course = Course::Closing(clock::now());
    }

    /// Ends it for what its client did, with all that is under way.
    fn refuse(&mut self, why: &str) {
        tracing::debug!(peer = ?self.client.peer, why, "connection refused");
        self.h2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        self.course = Course::Refused(clock::now());
    }

    /// Begins the streams that the client has; ready when the connection has ended.
    fn poll_requests(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.h2.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => self.begin(request, respond),
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(peer = ?self.client.peer, %error, "connection failed");
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => match self.seen.flood() {
                    Some(flood) if !matches!(self.course, Course::Refused(_)) => self.refuse(flood.why()),
                    _ => return Poll::Pending,
                },
            }
        }
    }

    /// Begins a stream, on the terms that hold now. A client that was told long ago that none will be taken is not served for
    /// ever, though it may never say that it has heard it.
    fn begin(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        if let Course::Closing(told) | Course::Leaving { told, .. } = self.course
            && told + FAREWELL < clock::now()
        {
            return respond.send_reset(Reason::REFUSED_STREAM);
        }
        let local = self.session.local();
        if let Some(terms) = local.view().terms(self.client.listener)
            && !Rc::ptr_eq(terms, &self.client.terms)
        {
            self.client.terms = Rc::clone(terms);
        }
        self.requests = self.requests.saturating_add(1);
        let (head, body) = request.into_parts();
        let (mut desk, bodiless) = (local.desk(), body.is_end_stream());
        let Whose { listener, peer, local: own, identity, terms, tls } = self.client.clone();
        let wire = Stream::new(IncomingBody::new(body, terms.head), respond, tls);
        let (session, deadline) = (local.session(), local.deadline());
        let refused = read(&head, bodiless, &terms, &mut desk).err();
        let requests = self.requests;
        let client = Client { wire, session, deadline, listener, peer, local: own, identity, terms, requests };
        // It belongs to the worker's runtime, and ends soon after the connection: it sees that nobody is there any more.
        drop(spawn_local(answer(client, desk, refused, self.streams.one_more())));
        self.course = match self.course {
            Course::Serving | Course::Idle(_) => Course::Serving,
            // It was sent before the client knew.
            Course::Closing(told) | Course::Leaving { told, .. } => Course::Closing(told),
            refused @ Course::Refused(_) => refused,
        };
    }

    /// Notes since when nothing is under way, and nothing of what was said waits for the client to take it.
    fn take_stock(&mut self) {
        if self.streams.count.get() > 0 {
            return;
        }
        let waits = self.seen.stalled().is_some();
        self.course = match self.course {
            Course::Serving => Course::Idle(clock::now()),
            Course::Closing(told) => Course::Leaving { told, since: clock::now() },
            Course::Idle(_) if waits => Course::Idle(clock::now()),
            Course::Leaving { told, .. } if waits => Course::Leaving { told, since: clock::now() },
            since => since,
        };
    }

    /// Whether its client is to be told that nothing new is taken: there were enough requests, the worker or the listener
    /// takes leave, or it is of no use for any host.
    fn course_is_over(&self) -> bool {
        let local = self.session.local();
        matches!(self.course, Course::Serving | Course::Idle(_))
            && (self.requests >= self.client.terms.requests
                || local.phase() != Phase::Serving
                || local.view().listener(self.client.listener).is_none_or(|plan| self.is_outdated(plan)))
    }

    /// Whether none of the listener's hosts demands any more what was demanded of this client.
    fn is_outdated(&self, plan: &ListenerPlan) -> bool {
        let demanded = self.client.identity.as_ref().map(|identity| &identity.demand);
        plan.tls.as_ref().is_some_and(|tls| !tls.demands(demanded))
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Late> {
        let stalled = self.seen.stalled().map(|since| (since + self.client.terms.write, Late::Gone));
        let by_course = match self.course {
            _ if let Some(since) = self.seen.ending() => Some((since + FAREWELL, Late::Gone)),
            Course::Idle(since) => Some((since + self.client.terms.idle, Late::Idle)),
            Course::Leaving { since, .. } | Course::Refused(since) => Some((since + FAREWELL, Late::Gone)),
            Course::Serving | Course::Closing(_) => None,
        };
        let unfinished = self.seen.unfinished().filter(|_| !matches!(self.course, Course::Refused(_)));
        let unfinished = unfinished.map(|since| (since + self.client.terms.header, Late::Unfinished));
        let first = stalled.into_iter().chain(by_course).chain(unfinished).min_by_key(|(until, _)| *until);
        let Some((until, late)) = first else { return Poll::Pending };
        self.deadline.set(until);
        self.deadline.poll(cx).map(|()| late)
    }
}

/// What it means that time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Late {
    /// No request has come for long enough: it is told that none will be taken.
    Idle,
    /// The client has stopped in the middle of a head, behind which alone anything else can come.
    Unfinished,
    /// The client does not take part in it any more.
    Gone,
}

/// What a client is granted by the protocol (security.md §2).
fn settings(terms: &Terms) -> server::Builder {
    let list = terms.head.head_bytes + terms.head.fields * FIELD_OVERHEAD;
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(terms.streams)
        .max_header_list_size(u32::try_from(list).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESETS_AHEAD)
        .max_local_error_reset_streams(Some(RESETS_OF_OURS))
        .max_concurrent_reset_streams(REMEMBERED)
        .enable_connect_protocol();
    builder
}

/// The streams of a connection that are under way.
#[derive(Default)]
struct UnderWay {
    count: Cell<usize>,
    /// Who is to know when there is none any more.
    waker: RefCell<Option<Waker>>,
}

/// One of them.
struct OneMore(Rc<UnderWay>);

impl UnderWay {
    fn one_more(self: &Rc<Self>) -> OneMore {
        self.count.set(self.count.get() + 1);
        OneMore(Rc::clone(self))
    }

    fn watch(&self, cx: &Context<'_>) {
        match &mut *self.waker.borrow_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }
}

impl Drop for OneMore {
    fn drop(&mut self) {
        let left = self.0.count.get() - 1;
        self.0.count.set(left);
        if left == 0
            && let Some(waker) = &*self.0.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }
}

/// Reads a head into `desk`, here and not in the stream's task, which would carry it about.
fn read(head: &Parts, bodiless: bool, terms: &Terms, desk: &mut Desk) -> Result<(), Refusal> {
    let protocol = head.extensions.get::<Protocol>().map(Protocol::as_str);
    let body = if bodiless { Body::Ended } else { Body::Follows };
    read_request(head, protocol, body, &terms.head, &mut desk.request)
}

/// Answers the one request of a stream, which is on the desk; if it was refused, with that.
async fn answer(mut client: Client<Stream>, mut desk: Box<Desk>, refused: Option<Refusal>, _one: OneMore) {
    let local = Rc::clone(client.session.local());
    let after = local.streams.house(|| respond(&mut client, &mut desk, refused)).await;
    local.give_desk(desk);
    client.wire.end(after);
}

async fn respond(client: &mut Client<Stream>, desk: &mut Desk, refused: Option<Refusal>) -> After {
    let Some(refusal) = refused else {
        if desk.request.connection.websocket {
            client.wire.hold_back();
        }
        return exchange::run(client, desk).await;
    };
    tracing::debug!(peer = ?client.peer, why = refusal.why(), "request refused");
    let id = client.session.local().roll(RequestId::roll);
    Answer::refusal(refusal).closing().send(client, desk, id.as_str()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_task<F>(_: impl FnOnce(Client<Stream>, Box<Desk>, Option<Refusal>, OneMore) -> F) -> usize {
        size_of::<F>()
    }

    /// To this the runtime adds 104 bytes and rounds up to a multiple of 128. Up to 1,032 bytes glibc has blocks at hand, which
    /// each request takes one of.
    #[test]
    fn the_task_of_a_stream_is_small() {
        let size = size_of_task(answer);
        assert!(size <= 792, "{size} bytes");
    }
}
