//! After a 101: the two connections become one tunnel.

use super::bodies::{IS_RUNNING, Running};
use super::h1::{After, Connection};
use super::wire::Wire;
use crate::clock;
use crate::l4::relay::{Side, relay};
use crate::local::Desk;
use crate::outcome::Outcome;

/// Sends the pending 101 and relays what follows, whatever it is, until the tunnel ends.
pub(super) async fn tunnel(connection: &mut Connection, desk: &mut Desk, slot: &mut Option<Running>) -> After {
    let mut running = slot.take().expect(IS_RUNNING);
    let local = connection.session.local().clone();
    let outcome = if connection.flush().await {
        clear(connection, desk, &mut running);
        match relay_both(connection, &mut running).await {
            // It has sent its 101.
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
            running.upstream.stream.reset();
            After::Close
        }
        Outcome::SessionCut => After::Reset,
        _ => After::Close,
    }
}

/// Gives back what the exchange worked on: a tunnel may last for days and needs none of it.
fn clear(connection: &mut Connection, desk: &mut Desk, running: &mut Running) {
    let mut desk = std::mem::take(desk);
    desk.to_client = connection.wire.outbound.give_back();
    desk.to_backend = running.upstream.outbound.give_back();
    connection.session.local().give_desk(Box::new(desk));
}

async fn relay_both(connection: &mut Connection, running: &mut Running) -> Outcome {
    let Connection { wire, session, deadline, .. } = connection;
    let Wire { stream, inbound, .. } = wire;
    let client = Side { stream, held: inbound.buffer.take() };
    let backend = Side { stream: &mut running.upstream.stream, held: running.upstream.inbound.buffer.take() };
    relay(session, &running.lease, deadline, running.timeouts.tunnel_idle, client, backend).await
}
