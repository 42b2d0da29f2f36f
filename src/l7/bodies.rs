//! The bodies' part of an exchange: the response goes down, what is left of the request goes up, and all is put away.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use super::body::{Pump, PumpFault, Repeating, Sink, SourceFault, Waits};
use super::h1::{After, Connection};
use super::pace::Pace;
use super::talk::{overdue, watch_client};
use super::wire::Wire;
use crate::clock::{self, Instant};
use crate::config::Timeouts;
use crate::http::{Framing, Kept};
use crate::local::{Desk, Local, Phase};
use crate::outcome::Outcome;
use crate::state::{Lease, Pool, Terms};

/// Why there is a running attempt wherever it is asked for.
pub(super) const IS_RUNNING: &str = "who has got a response has an attempt running";

/// An attempt that is connected. It stays in one place for as long as its exchange lasts, as it is large.
pub(super) struct Running {
    pub upstream: Wire,
    pub lease: Lease,
    pub timeouts: Patience,
    pub sending: Pump,
    /// The client's connection may be used again when all goes well; known with the response's head.
    pub keep_client: bool,
    /// What it means when the deadline passes, and since when it is waited; `None` before one is set.
    pub late: Option<(Outcome, Instant)>,
}

/// The pool's deadlines that still matter once the head has come.
pub(super) struct Patience {
    pub response_body: Duration,
    /// How long its connection is kept for others; `None`: it was announced as one client's, and is no one else's.
    pub upstream_idle: Option<Duration>,
    pub tunnel_idle: Duration,
    /// For the whole request.
    pub whole: Option<Duration>,
}

impl Patience {
    /// Those of a pool, behind a listener that lets a tunnel be idle so long, and a route that gives a request so much time.
    pub fn of(pool: &Pool, tunnel_idle: Duration, whole: Option<Duration>) -> Patience {
        let Timeouts { response_body, upstream_idle, tunnel_idle: own, .. } = pool.timeouts;
        let upstream_idle = pool.send_proxy_protocol.is_none().then_some(upstream_idle);
        Patience { response_body, upstream_idle, tunnel_idle: own.min(tunnel_idle), whole }
    }
}

/// The bodies' part: moves the response down, and what is left of the request up, and puts everything away.
pub(super) async fn run(
    connection: &mut Connection,
    desk: &mut Desk,
    slot: &mut Option<Running>,
    framing: Framing,
) -> After {
    let running = slot.as_mut().expect(IS_RUNNING);
    let local = connection.session.local().clone();
    let Terms { min_rate, write, .. } = *connection.terms;
    let mut answering = Pump::paced(Pace::of_taker(min_rate, write, connection.wire.outbound.written()));
    desk.kept.settle();
    let outcome = poll_fn(|cx| running.poll_bodies(cx, connection, &mut desk.kept, &mut answering)).await;
    connection.deadline.limit(None);
    let status = desk.response.status;
    let outcome = outcome.map_or_else(|fault| fault, |()| Outcome::Completed { status });
    let now = clock::now();
    local.ended(running.lease.state().id(), outcome);
    tracing::debug!(backend = %running.lease.backend().name, status, cause = outcome.code(), "request ended");
    let complete = matches!(outcome, Outcome::Completed { .. });
    let reusable = complete && running.sending.is_done() && running.leaves_connection(desk);
    put_away(&local, desk, &mut running.upstream);
    let Running { upstream, lease, timeouts, keep_client, .. } = slot.take().expect(IS_RUNNING);
    if reusable && let Some(keep) = timeouts.upstream_idle {
        local.put_idle(lease.state().id(), upstream.stream, now, keep);
    }
    lease.finish(now, outcome);
    match outcome {
        Outcome::Completed { .. } if keep_client && !connection.wire.inbound.is_over() => After::KeepAlive,
        Outcome::Completed { .. } => connection.farewell(desk),
        _ if framing == Framing::ToClose => After::Reset,
        // The length or the missing last chunk tells; what was received before the cut arrives.
        Outcome::BackendCut
        | Outcome::MalformedResponse
        | Outcome::ResponseBodyTimeout
        | Outcome::RequestTimeout
        | Outcome::RequestLate => {
            if connection.flush().await {
                After::BreakOff
            } else {
                After::Reset
            }
        }
        _ => After::Reset,
    }
}

impl Running {
    fn poll_bodies(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
        kept: &mut Kept,
        answering: &mut Pump,
    ) -> Poll<Result<(), Outcome>> {
        connection.session.watch(cx);
        let local = connection.session.local();
        let (mut from_client, mut to_client) = connection.wire.split(&local.buffers);
        let (mut from_backend, mut to_backend) = self.upstream.split(&local.buffers);
        if self.sending.is_running() {
            // A request that goes wrong now no longer matters to the response that is under way.
            let mut from_client = Repeating { kept, source: &mut from_client };
            if let Poll::Ready(Err(_)) = self.sending.poll(cx, &mut from_client, &mut to_backend) {
                self.sending.abandon();
            }
        }
        match answering.poll(cx, &mut from_backend, &mut to_client) {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(PumpFault::Source(SourceFault::Cut))) => return Poll::Ready(Err(Outcome::BackendCut)),
            Poll::Ready(Err(PumpFault::Source(SourceFault::Malformed | SourceFault::TooLarge))) => {
                return Poll::Ready(Err(Outcome::MalformedResponse));
            }
            Poll::Ready(Err(PumpFault::Sink)) => return Poll::Ready(Err(Outcome::ClientGone)),
            Poll::Pending => {}
        }
        if !self.sending.is_running() {
            watch_client(&mut from_client, cx)?;
        }
        if local.phase() == Phase::Cut || self.lease.is_cut() {
            return Poll::Ready(Err(Outcome::Cut));
        }
        let moved = answering.has_moved(&to_client) | self.sending.has_moved(&to_backend);
        let (late, since) = match self.late {
            Some(late) if !moved => late,
            _ => {
                let now = clock::now();
                let (until, late) = self.patience(now, answering, to_client.written(), connection.terms.write);
                connection.deadline.set(until);
                *self.late.insert((late, now))
            }
        };
        let deadline = &mut connection.deadline;
        deadline.poll(cx).map(|()| Err(overdue(deadline, self.timeouts.whole, since, late)))
    }

    /// Until when what is waited for now may take, and what it means when it takes longer. So much was `written` to the
    /// client.
    fn patience(
        &mut self,
        now: Instant,
        answering: &mut Pump,
        written: u64,
        client_write: Duration,
    ) -> (Instant, Outcome) {
        let stalled = answering.waits == Waits::ForSink;
        // A client that sends while it is answered may be slow in one as long as the other moves.
        let owes = !stalled && self.sending.is_running() && self.sending.waits == Waits::ForSource;
        let sender = self.sending.pace.turn(now, self.sending.taken + answering.taken, owes);
        let taker = answering.pace.turn(now, written, stalled);
        let between = match stalled {
            true => (now + client_write, Outcome::ClientWriteTimeout),
            false => (now + self.timeouts.response_body, Outcome::ResponseBodyTimeout),
        };
        let slow = sender.map(|until| (until, Outcome::ClientTimeout));
        let slow = slow.or(taker.map(|until| (until, Outcome::ClientWriteTimeout)));
        slow.filter(|slow| slow.0 < between.0).unwrap_or(between)
    }

    /// Whether the backend's connection is where the next exchange can begin: there will be one, the backend said nothing
    /// against it, its body's end was told by its framing, and nothing came after it.
    fn leaves_connection(&self, desk: &Desk) -> bool {
        desk.response.keeps_alive()
            && !self.lease.state().is_draining()
            && !desk.request.connection.websocket
            && desk.response.framing != Framing::ToClose
            && self.upstream.is_clean()
            && !self.upstream.inbound.ended
    }
}

/// Takes the memory of a backend's wire back.
pub(super) fn put_away(local: &Local, desk: &mut Desk, upstream: &mut Wire) {
    upstream.inbound.release(&local.buffers);
    desk.to_backend = upstream.outbound.give_back();
}
