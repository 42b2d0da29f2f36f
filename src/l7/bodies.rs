//! The bodies' part of an exchange: the response goes down, what is left of the request goes up, and all is put away.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::backend::Upstream;
use super::body::{Pump, PumpFault, Repeating, Sink, SourceFault, Waits};
use super::client::{After, Client, Front};
use super::grpc::{Call, Whole, status_at_head};
use super::pace::Pace;
use super::talk::{overdue, watch_client};
use crate::clock::{self, Instant};
use crate::config::Timeouts;
use crate::deadline::Deadline;
use crate::http::{Fields, Framing, Kept, Known, grpc};
use crate::local::{Desk, Phase};
use crate::outcome::Outcome;
use crate::state::{Lease, Pool, Terms};

/// Why there is a running attempt wherever it is asked for.
pub(super) const IS_RUNNING: &str = "who has got a response has an attempt running";

/// Of a call whose time was over in the middle of its answer.
const TOO_LATE: &[u8] = b"The answer did not come to its end in time.";

/// An attempt that is connected. It stays in one place for as long as its exchange lasts, as it is large.
pub(super) struct Running {
    pub upstream: Upstream,
    pub lease: Lease,
    pub timeouts: Patience,
    pub sending: Pump,
    /// The client's connection may be used again when all goes well; known with the response's head.
    pub keep_client: bool,
    /// What is waited for; `None` before there is anything.
    pub late: Option<Late>,
    /// The call of gRPC that is under way, which tells of the backend when it ends.
    pub call: Option<Call>,
}

/// A wait.
#[derive(Clone, Copy)]
pub(super) struct Late {
    since: Instant,
    until: Instant,
    /// What it means when that passes.
    outcome: Outcome,
}

/// The pool's deadlines that still matter once the head has come.
pub(super) struct Patience {
    pub response_body: Duration,
    /// How long its connection is kept for others; `None`: it was announced as one client's, and is no one else's.
    pub upstream_idle: Option<Duration>,
    pub tunnel_idle: Duration,
    /// For the whole request.
    pub whole: Option<Whole>,
}

impl Patience {
    /// Those of a pool, behind a listener that lets a tunnel be idle so long, and a route that gives a request so much time.
    pub fn of(pool: &Pool, tunnel_idle: Duration, whole: Option<Whole>) -> Patience {
        let Timeouts { response_body, upstream_idle, tunnel_idle: own, .. } = pool.timeouts;
        let upstream_idle = pool.send_proxy_protocol.is_none().then_some(upstream_idle);
        Patience { response_body, upstream_idle, tunnel_idle: own.min(tunnel_idle), whole }
    }
}

/// The bodies' part: moves the response down, and what is left of the request up, and puts everything away.
pub(super) async fn run(
    client: &mut Client<impl Front>,
    desk: &mut Desk,
    slot: &mut Option<Running>,
    framing: Framing,
) -> After {
    let running = slot.as_mut().expect(IS_RUNNING);
    let local = client.session.local().clone();
    let Terms { min_rate, write, .. } = *client.terms;
    let mut answering = Pump::paced(Pace::of_taker(min_rate, write, client.wire.written()));
    desk.kept.settle();
    let outcome = poll_fn(|cx| running.poll_bodies(cx, client, &mut desk.kept, &mut answering)).await;
    let now = clock::now();
    let late_call = running.call.is_some() && outcome.is_err() && client.deadline.is_over_limit(now);
    client.deadline.limit(None);
    let outcome = match (outcome, &mut running.call) {
        (Err(fault), _) => fault,
        (Ok(()), Some(call)) => Outcome::Completed { status: call.is_over(now, &mut running.lease, &local) },
        (Ok(()), None) => {
            let status = status_at_head(&desk.request, &desk.response);
            Outcome::Completed { status: status.unwrap_or(desk.response.status) }
        }
    };
    let status = desk.response.status;
    local.ended(running.lease.state().id(), outcome);
    tracing::debug!(backend = %running.lease.backend().name, status, cause = outcome.code(), "request ended");
    let complete = matches!(outcome, Outcome::Completed { .. });
    let Running { upstream, lease, timeouts, keep_client, sending, .. } = slot.take().expect(IS_RUNNING);
    let reusable = complete && sending.is_done() && !lease.state().is_draining();
    if let Some(stream) = upstream.end(&local, desk).filter(|_| reusable)
        && let Some(keep) = timeouts.upstream_idle
    {
        local.put_idle(lease.state().id(), stream, now, keep);
    }
    lease.finish(now, outcome);
    if late_call {
        return end_late_call(client);
    }
    match outcome {
        Outcome::Completed { .. } if keep_client && !client.is_over() => After::KeepAlive,
        Outcome::Completed { .. } => client.farewell(desk),
        _ if framing == Framing::ToClose => After::Reset,
        // The length or the missing last chunk tells; what was received before the cut arrives.
        Outcome::BackendCut
        | Outcome::MalformedResponse
        | Outcome::ResponseBodyTimeout
        | Outcome::RequestTimeout
        | Outcome::RequestLate => {
            if client.flush().await {
                After::BreakOff
            } else {
                After::Reset
            }
        }
        _ => After::Reset,
    }
}

/// The time of a call of gRPC is over, which its client is told in the place that calls have for it. What stands before that
/// may be half a message, and is not what counts then.
fn end_late_call(client: &mut Client<impl Front>) -> After {
    let mut trailers = Fields::new();
    let code = grpc::DEADLINE_EXCEEDED.to_string();
    trailers.push(Known::Other, grpc::STATUS.as_bytes(), code.as_bytes());
    trailers.push(Known::Other, grpc::MESSAGE.as_bytes(), TOO_LATE);
    client.wire.split(&client.session.local().buffers).1.end(&trailers);
    After::Close
}

/// How far the bodies are.
enum Moving {
    /// The response's is at its end.
    Done,
    /// Something is still to come; whether anything has moved.
    On { moved: bool },
}

impl Running {
    fn poll_bodies(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client<impl Front>,
        kept: &mut Kept,
        answering: &mut Pump,
    ) -> Poll<Result<(), Outcome>> {
        client.session.watch(cx);
        let moving = self.poll_pumps(cx, client, kept, answering);
        if let Some(call) = &mut self.call {
            call.has_come(answering.taken, &self.lease);
        }
        let moved = match moving {
            Ok(Moving::Done) => return Poll::Ready(Ok(())),
            Ok(Moving::On { moved }) => moved,
            Err(fault) => return Poll::Ready(Err(fault)),
        };
        let local = client.session.local();
        if !self.sending.is_running() {
            watch_client(&mut client.wire, &local.buffers, cx)?;
        }
        if local.phase() == Phase::Cut || self.lease.is_cut() {
            return Poll::Ready(Err(Outcome::Cut));
        }
        let late = match self.late {
            Some(late) if !moved => late,
            _ => self.wait(client, answering),
        };
        ready!(client.deadline.poll(cx));
        if self.is_healthy(client, late.until) {
            ready!(client.deadline.poll(cx));
        }
        Poll::Ready(Err(self.overdue(&client.deadline, late)))
    }

    /// Begins a new wait.
    fn wait(&mut self, client: &mut Client<impl Front>, answering: &mut Pump) -> Late {
        let since = clock::now();
        let (until, outcome) = self.patience(since, answering, client.wire.written(), client.terms.write);
        let healthy = self.call.as_ref().and_then(Call::is_healthy_at);
        client.deadline.set(healthy.map_or(until, |healthy| healthy.min(until)));
        *self.late.insert(Late { since, until, outcome })
    }

    /// Whether the deadline passed because a call has gone on for long enough, which is no reason not to wait on.
    fn is_healthy(&mut self, client: &mut Client<impl Front>, until: Instant) -> bool {
        let (Some(call), now) = (&mut self.call, clock::now()) else { return false };
        if call.is_healthy_at().is_none_or(|healthy| now < healthy) {
            return false;
        }
        call.is_healthy(now, &mut self.lease, client.session.local());
        client.deadline.set(until);
        true
    }

    /// What it means that the time is over.
    fn overdue(&self, deadline: &Deadline, late: Late) -> Outcome {
        let outcome = match (late.outcome, &self.call) {
            // Between messages nobody owes one; but who has not even begun well had his time like everybody else.
            (Outcome::TunnelIdle, Some(call))
                if deadline.is_over_limit(clock::now()) && call.is_healthy_at().is_some() =>
            {
                Outcome::ResponseBodyTimeout
            }
            (outcome, _) => outcome,
        };
        overdue(deadline, self.timeouts.whole, late.since, outcome)
    }

    /// Moves both bodies as far as they go.
    fn poll_pumps(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client<impl Front>,
        kept: &mut Kept,
        answering: &mut Pump,
    ) -> Result<Moving, Outcome> {
        let buffers = &client.session.local().buffers;
        let (mut from_client, mut to_client) = client.wire.split(buffers);
        let (mut from_backend, mut to_backend) = self.upstream.split(buffers);
        if self.sending.is_running() {
            // A request that goes wrong now no longer matters to the response that is under way.
            let mut from_client = Repeating { kept, source: &mut from_client };
            if let Poll::Ready(Err(_)) = self.sending.poll(cx, &mut from_client, &mut to_backend) {
                self.sending.abandon();
            }
        }
        let mut from_backend = Call::overhear(self.call.as_mut(), &mut from_backend);
        match answering.poll(cx, &mut from_backend, &mut to_client) {
            Poll::Ready(Ok(())) => Ok(Moving::Done),
            Poll::Ready(Err(PumpFault::Source(SourceFault::Cut))) => Err(Outcome::BackendCut),
            Poll::Ready(Err(PumpFault::Source(SourceFault::Malformed | SourceFault::TooLarge))) => {
                Err(Outcome::MalformedResponse)
            }
            Poll::Ready(Err(PumpFault::Sink)) => Err(Outcome::ClientGone),
            Poll::Pending => {
                let moved = answering.has_moved(&to_client) | self.sending.has_moved(&to_backend);
                Ok(Moving::On { moved })
            }
        }
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
        let owes =
            !stalled && self.sending.is_running() && self.sending.waits == Waits::ForSource && self.call.is_none();
        let sender = self.sending.pace.turn(now, self.sending.taken + answering.taken, owes);
        let taker = answering.pace.turn(now, written, stalled);
        let between = match stalled {
            true => (now + client_write, Outcome::ClientWriteTimeout),
            // A stream of messages is as quiet as what it tells of.
            false if self.call.is_some() => (now + self.timeouts.tunnel_idle, Outcome::TunnelIdle),
            false => (now + self.timeouts.response_body, Outcome::ResponseBodyTimeout),
        };
        let slow = sender.map(|until| (until, Outcome::ClientTimeout));
        let slow = slow.or(taker.map(|until| (until, Outcome::ClientWriteTimeout)));
        slow.filter(|slow| slow.0 < between.0).unwrap_or(between)
    }
}
