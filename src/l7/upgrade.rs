//! After a 101: the two connections become one tunnel.

use super::body::Wire;
use super::exchange::Running;
use super::h1::{After, Connection};
use crate::clock;
use crate::l4::relay::{Side, relay};
use crate::outcome::Outcome;

/// Sends the pending 101 and relays what follows, whatever it is, until the tunnel ends.
pub(super) async fn tunnel(connection: &mut Connection, mut running: Running) -> After {
    let local = connection.session.local().clone();
    let outcome =
        if connection.flush().await { relay_both(connection, &mut running).await } else { Outcome::ClientGone };
    local.ended(running.lease.state().id(), outcome);
    tracing::debug!(backend = %running.lease.backend().name, cause = outcome.code(), "tunnel ended");
    running.lease.finish(clock::now(), outcome);
    match outcome {
        Outcome::ClientGone => {
            running.upstream.stream.reset();
            After::Close
        }
        Outcome::BackendCut => After::Reset,
        _ => After::Close,
    }
}

async fn relay_both(connection: &mut Connection, running: &mut Running) -> Outcome {
    let Connection { wire, session, deadline, .. } = connection;
    let Wire { stream, inbound, .. } = wire;
    let client = Side { stream, held: inbound.buffer.take() };
    let backend = Side { stream: &mut running.upstream.stream, held: running.upstream.inbound.buffer.take() };
    relay(session, &running.lease, deadline, running.timeouts.tunnel_idle, client, backend).await
}
