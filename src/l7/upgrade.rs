//! After a switch of protocols: the two sides become one tunnel.
//!
//! Where both are connections of their own, they are relayed as such. Where one of them is a stream among others, what it
//! carries is moved as bodies are, in both directions, until both have ended.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use super::bodies::{IS_RUNNING, Running};
use super::body::{Pump, PumpFault};
use super::client::{After, Client, Front};
use super::wire::Wire;
use crate::clock;
use crate::l4::relay::{Side, relay};
use crate::local::{Desk, Phase};
use crate::outcome::Outcome;

/// Sends the pending head and relays what follows, whatever it is, until the tunnel ends.
pub(super) async fn tunnel<F: Front>(client: &mut Client<F>, desk: &mut Desk, slot: &mut Option<Running>) -> After {
    let mut running = slot.take().expect(IS_RUNNING);
    let local = client.session.local().clone();
    let outcome = if client.flush().await {
        clear(client, desk, &mut running);
        match move_both(client, &mut running).await {
            // It has agreed to the switch.
            Outcome::BackendClosed => Outcome::SessionCut,
            outcome => outcome,
        }
    } else {
        Outcome::ClientGone
    };
    local.ended(running.lease.state().id(), outcome);
    tracing::debug!(backend = %running.lease.backend().name, cause = outcome.code(), "tunnel ended");
    running.lease.finish(clock::now(), outcome);
    match outcome {
        Outcome::ClientGone => {
            running.upstream.reset();
            After::Close
        }
        Outcome::SessionCut => After::Reset,
        _ => After::Close,
    }
}

/// Gives back what the exchange worked on: a tunnel may last for days and needs none of it.
fn clear(client: &mut Client<impl Front>, desk: &mut Desk, running: &mut Running) {
    let mut desk = std::mem::take(desk);
    desk.to_client = client.wire.give_memory_back();
    desk.to_backend = running.upstream.give_memory_back();
    client.session.local().give_desk(Box::new(desk));
}

async fn move_both<F: Front>(client: &mut Client<F>, running: &mut Running) -> Outcome {
    let idle = running.timeouts.tunnel_idle;
    if let (Some(from), Some(to)) = (client.wire.raw(), running.upstream.raw()) {
        let (from, to) = (side(from), side(to));
        return relay(&client.session, &running.lease, &mut client.deadline, idle, from, to).await;
    }
    client.wire.open_tunnel();
    running.upstream.open_tunnel();
    let mut tunnel = Tunnel { up: Pump::default(), down: Pump::default(), idle };
    client.deadline.set(clock::now() + idle);
    poll_fn(|cx| tunnel.poll(cx, client, running)).await
}

fn side(wire: &mut Wire) -> Side<'_> {
    Side { stream: &mut wire.stream, held: wire.inbound.buffer.take() }
}

/// A tunnel of which one side at least is a stream among others.
struct Tunnel {
    up: Pump,
    down: Pump,
    idle: Duration,
}

impl Tunnel {
    fn poll<F: Front>(&mut self, cx: &mut Context<'_>, client: &mut Client<F>, running: &mut Running) -> Poll<Outcome> {
        client.session.watch(cx);
        let moved = match self.poll_pumps(cx, client, running) {
            Ok(moved) => moved,
            Err(ending) => return Poll::Ready(ending),
        };
        if self.up.is_done() && self.down.is_done() {
            return Poll::Ready(Outcome::Completed { status: 0 });
        }
        let local = client.session.local();
        // Who has ended his direction says nothing any more that would show that he has gone.
        if self.up.is_done() && client.wire.poll_gone(&local.buffers, cx).is_err() {
            return Poll::Ready(Outcome::ClientGone);
        }
        if self.down.is_done() && running.upstream.poll_gone(cx).is_ready() {
            return Poll::Ready(Outcome::SessionCut);
        }
        if local.phase() == Phase::Cut || running.lease.session_is_cut() {
            return Poll::Ready(Outcome::Cut);
        }
        if moved {
            client.deadline.set(clock::now() + self.idle);
        }
        client.deadline.poll(cx).map(|()| Outcome::TunnelIdle)
    }

    /// Moves what there is in both directions; says whether that was anything.
    fn poll_pumps<F: Front>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client<F>,
        running: &mut Running,
    ) -> Result<bool, Outcome> {
        let buffers = &client.session.local().buffers;
        let (mut from_client, mut to_client) = client.wire.split(buffers);
        let (mut from_backend, mut to_backend) = running.upstream.split(buffers);
        match self.up.poll(cx, &mut from_client, &mut to_backend) {
            Poll::Ready(Err(PumpFault::Source(_))) => return Err(Outcome::ClientGone),
            Poll::Ready(Err(PumpFault::Sink)) => return Err(Outcome::SessionCut),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        match self.down.poll(cx, &mut from_backend, &mut to_client) {
            Poll::Ready(Err(PumpFault::Source(_))) => return Err(Outcome::SessionCut),
            Poll::Ready(Err(PumpFault::Sink)) => return Err(Outcome::ClientGone),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        Ok(self.up.has_moved(&to_backend) | self.down.has_moved(&to_client))
    }
}
