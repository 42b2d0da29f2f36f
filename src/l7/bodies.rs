//! The bodies' part of an exchange: the response goes down, what is left of the request goes up, and all is put away.

use std::future::poll_fn;
use std::task::{Context, Poll};

use super::body::{Pump, PumpFault, SourceFault, Waits};
use super::h1::{After, Connection};
use super::talk::watch_client;
use super::wire::Wire;
use crate::clock;
use crate::config::Timeouts;
use crate::http::Framing;
use crate::local::{Desk, Local, Phase};
use crate::outcome::Outcome;
use crate::state::Lease;

/// An attempt that has got its response.
pub(super) struct Running {
    pub upstream: Wire,
    pub lease: Lease,
    pub timeouts: Timeouts,
    pub sending: Pump,
    /// The client's connection may be used again when all goes well.
    pub keep_client: bool,
    /// A deadline for the bodies is set.
    pub waiting: bool,
}

/// The bodies' part: moves the response down, and what is left of the request up, and puts everything away.
pub(super) async fn run(connection: &mut Connection, desk: &mut Desk, mut running: Running, framing: Framing) -> After {
    let local = connection.session.local().clone();
    let mut answering = Pump::default();
    let outcome = poll_fn(|cx| running.poll_bodies(cx, connection, &mut answering)).await;
    let status = desk.response.status;
    let outcome = outcome.map_or_else(|fault| fault, |()| Outcome::Completed { status });
    let now = clock::now();
    local.ended(running.lease.state().id(), outcome);
    tracing::debug!(backend = %running.lease.backend().name, status, cause = outcome.code(), "request ended");
    let complete = matches!(outcome, Outcome::Completed { .. });
    let reusable = complete && running.sending.is_done() && running.leaves_connection(desk);
    put_away(&local, desk, &mut running.upstream);
    let Running { upstream, lease, timeouts, keep_client, .. } = running;
    if reusable {
        local.put_idle(lease.state().id(), upstream.stream, now, timeouts.upstream_idle);
    }
    lease.finish(now, outcome);
    match outcome {
        Outcome::Completed { .. } if keep_client && !connection.wire.inbound.is_over() => After::KeepAlive,
        Outcome::Completed { .. } => connection.farewell(desk),
        _ if framing == Framing::ToClose => After::Reset,
        // The length or the missing last chunk tells; what was received before the cut arrives.
        Outcome::BackendCut | Outcome::MalformedResponse | Outcome::ResponseBodyTimeout => {
            if connection.flush().await {
                After::Close
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
        answering: &mut Pump,
    ) -> Poll<Result<(), Outcome>> {
        connection.session.watch(cx);
        let local = connection.session.local();
        let (mut from_client, mut to_client) = connection.wire.split(&local.buffers);
        let (mut from_backend, mut to_backend) = self.upstream.split(&local.buffers);
        if self.sending.is_running() {
            // A request that goes wrong now no longer matters to the response that is under way.
            if let Poll::Ready(Err(_)) = self.sending.poll(cx, &mut from_client, &mut to_backend) {
                self.sending.abandon();
            }
        }
        match answering.poll(cx, &mut from_backend, &mut to_client) {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(PumpFault::Source(SourceFault::Cut))) => return Poll::Ready(Err(Outcome::BackendCut)),
            Poll::Ready(Err(PumpFault::Source(SourceFault::Malformed))) => {
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
        let (wait, late) = match answering.waits {
            Waits::ForSource => (self.timeouts.response_body, Outcome::ResponseBodyTimeout),
            Waits::ForSink => (connection.timeouts.body, Outcome::ClientWriteTimeout),
        };
        let moved = answering.has_moved(&to_client) | self.sending.has_moved(&to_backend);
        if moved || !self.waiting {
            self.waiting = true;
            connection.deadline.set(clock::now() + wait);
        }
        connection.deadline.poll(cx).map(|()| Err(late))
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
