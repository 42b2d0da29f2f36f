//! One TCP connection: pick a backend, connect, relay.

pub mod relay;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::balance::Tried;
use crate::clock;
use crate::deadline::Deadline;
use crate::local::{Local, Phase, Session};
use crate::outcome::{Outcome, Verdict};
use crate::state::{Lease, Protocol, View};
use crate::stream::{Incoming, Stream};
use crate::upstream;
use relay::{Side, relay};

/// Serves one connection from its acceptance to its end.
pub async fn serve(local: Rc<Local>, incoming: Incoming) {
    let session = local.session();
    let mut deadline = local.deadline();
    let Some((backend, lease, idle)) = reach_backend(&session, &mut deadline, &incoming).await else {
        // Nobody can serve it: a reset, because an orderly end would look like an empty answer.
        incoming.stream.reset();
        return;
    };
    let serial = lease.state().id();
    let outcome = run(&session, &lease, &mut deadline, idle, incoming, backend).await;
    local.ended(serial, outcome);
    lease.finish(clock::now(), outcome);
    tracing::debug!(backend = serial, cause = outcome.code(), "session ended");
}

/// Relays, and passes a reset of one side on to the other.
async fn run(
    session: &Session,
    lease: &Lease,
    deadline: &mut Deadline,
    idle: Duration,
    incoming: Incoming,
    mut backend: Stream,
) -> Outcome {
    let mut client = incoming.stream;
    let held = (!incoming.prefix.is_empty()).then(|| {
        let mut buffer = session.local().buffers.blocks.take(incoming.prefix.len());
        buffer.put(&incoming.prefix);
        buffer
    });
    let client_side = Side { stream: &mut client, held };
    let backend_side = Side { stream: &mut backend, held: None };
    let outcome = relay(session, lease, deadline, idle, client_side, backend_side).await;
    match outcome {
        Outcome::ClientGone => backend.reset(),
        Outcome::BackendClosed | Outcome::SessionCut => client.reset(),
        _ => {}
    }
    outcome
}

/// A backend of the listener's pool that is connected, and for how long the session may be idle.
type Reached = (Stream, Lease, Duration);

/// How often a connection is placed anew because the configuration changed under it.
const LOOKS: usize = 3;

/// A connected backend by the newest view.
async fn reach_backend(session: &Session, deadline: &mut Deadline, incoming: &Incoming) -> Option<Reached> {
    let local = session.local();
    for _ in 0..LOOKS {
        let view = local.view();
        let reached = reach_by(&view, session, deadline, incoming).await;
        if reached.is_some() || Rc::ptr_eq(&view, &local.view()) {
            return reached;
        }
    }
    None
}

/// A connected backend of the listener's pool; another is tried when the first can not be reached.
async fn reach_by(view: &View, session: &Session, deadline: &mut Deadline, incoming: &Incoming) -> Option<Reached> {
    let local: &Local = session.local();
    let plan = view.listener(incoming.listener)?;
    let Protocol::Tcp { pool } = plan.protocol else { return None };
    let settings = view.pool(pool);
    let idle = settings.timeouts.tunnel_idle.min(plan.timeouts.tunnel_idle);
    let key = settings.key_of_address(incoming.peer.map(|peer| peer.ip()));
    let mut tried = Tried::default();
    for _ in 0..settings.attempts {
        let begin = clock::now();
        let taken = local.roll(|dice| view.take(pool, begin, key, &mut tried, dice));
        let mut lease = match taken {
            Ok(taken) => taken.lease,
            Err(none) => {
                tracing::debug!(pool = %settings.name, %none, "no backend");
                return None;
            }
        };
        match connect(session, &lease, deadline, settings.timeouts.connect).await {
            Ok(stream) => {
                let now = clock::now();
                lease.responded(now, Verdict::Good);
                local.responded(lease.state().id(), now.since(begin));
                return Some((stream, lease, idle));
            }
            Err(outcome) => {
                local.ended(lease.state().id(), outcome);
                lease.finish(clock::now(), outcome);
            }
        }
    }
    None
}

/// A connection to the backend of `lease`, unless the session is cut before it stands.
async fn connect(
    session: &Session,
    lease: &Lease,
    deadline: &mut Deadline,
    limit: Duration,
) -> Result<Stream, Outcome> {
    let mut connecting = pin!(upstream::connect(lease.address()));
    deadline.set(clock::now() + limit);
    poll_fn(|cx| {
        session.watch(cx);
        match connecting.as_mut().poll(cx) {
            Poll::Pending if session.local().phase() == Phase::Cut || lease.session_is_cut() => {
                Poll::Ready(Err(Outcome::Cut))
            }
            Poll::Pending => deadline.poll(cx).map(|()| Err(Outcome::ConnectTimeout)),
            reached => reached,
        }
    })
    .await
}
