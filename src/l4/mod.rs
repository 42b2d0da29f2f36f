//! One TCP connection: pick a backend (or wait for one), connect, relay.

pub mod elsewhere;
pub mod relay;
pub mod wait;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::balance::Tried;
use crate::buffer::{Blocks, Buffer, SMALLEST};
use crate::client_hello::ClientHello;
use crate::clock;
use crate::deadline::Deadline;
use crate::local::{Local, Phase, Session};
use crate::outcome::{Outcome, Verdict};
use crate::proxy_protocol::Tls;
use crate::record::PoolEvent;
use crate::state::{Lease, Protocol, View};
use crate::stream::{Incoming, Stream};
use crate::tls::RAW;
use crate::upstream::{self, Approach};
use elsewhere::Elsewhere;
use relay::{Side, relay};
use wait::{Unserved, Waiting, Wanted, wait};

/// Serves one connection from its acceptance to its end. With `hello`, the first message in its prefix, it is TLS that passes
/// through: then that says where to.
pub async fn serve(local: Rc<Local>, mut incoming: Incoming, hello: Option<Box<ClientHello>>) {
    let session = local.session();
    let mut deadline = local.deadline();
    let Some((backend, lease, idle)) = reach_backend(&session, &mut deadline, &mut incoming, hello).await else {
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
    let Incoming { stream: mut client, prefix, .. } = incoming;
    let held = (!prefix.is_empty()).then(|| {
        let mut buffer = session.local().buffers.blocks.take(prefix.len());
        buffer.put(&prefix);
        buffer
    });
    // Not its memory for as long as the session lasts.
    drop(prefix);
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

/// A backend that is connected, and for how long the session may be idle.
type Reached = (Stream, Lease, Duration);

/// How often a connection is placed anew because the configuration changed under it.
const LOOKS: usize = 3;

/// A connected backend by the newest view.
async fn reach_backend(
    session: &Session,
    deadline: &mut Deadline,
    incoming: &mut Incoming,
    hello: Option<Box<ClientHello>>,
) -> Option<Reached> {
    let local = session.local();
    let (mut looks, mut waiting) = (LOOKS, Waiting::default());
    while looks > 0 {
        let view = local.view();
        let reached = reach_by(&view, session, deadline, incoming, hello.as_deref(), &mut waiting).await;
        if reached.is_some() || Rc::ptr_eq(&view, &local.view()) {
            return reached;
        }
        // Who waits in a queue follows every reload until its time is over.
        looks -= usize::from(!waiting.has_place());
    }
    None
}

/// A connected backend of the pool that the connection goes to; another is tried when the first can not be reached.
async fn reach_by(
    view: &View,
    session: &Session,
    deadline: &mut Deadline,
    incoming: &mut Incoming,
    hello: Option<&ClientHello>,
    waiting: &mut Waiting,
) -> Option<Reached> {
    let local: &Local = session.local();
    let plan = view.listener(incoming.listener)?;
    let pool = match (hello, &plan.protocol) {
        (Some(hello), _) => plan.through(hello)?.1,
        (None, Protocol::Tcp { pool }) => *pool,
        (None, Protocol::Http(_) | Protocol::Passthrough(_)) => return None,
    };
    let settings = view.pool(pool);
    let idle = settings.timeouts.tunnel_idle.min(plan.timeouts.tunnel_idle);
    let key = settings.key_of_address(incoming.peer.map(|peer| peer.ip()));
    let told = || hello.map_or_else(|| incoming.stream.tls(), |hello| Some(asked_for(hello)));
    let announcement = upstream::announcement(settings, incoming.peer, incoming.local, told);
    let wanted = Wanted { view, pool, key };
    let (mut tried, mut next, mut elsewhere) = (Tried::default(), None, Elsewhere::default());
    for left in (0..settings.attempts).rev() {
        if left + 1 < settings.attempts {
            local.happened(pool, PoolEvent::RetriedFree);
        }
        let taken = match next.take() {
            Some(lease) => Ok(lease),
            None => lease(session, deadline, &wanted, &mut tried, incoming, waiting).await,
        };
        let mut lease = match taken {
            Ok(lease) => lease,
            Err(unserved) => {
                tracing::debug!(pool = %settings.name, ?unserved, "no backend");
                return None;
            }
        };
        let leaves = |cx: &mut Context<'_>| {
            let leaves = left > 0 && elsewhere.is_due(&lease, local, cx);
            if leaves {
                next = another(local, &wanted, &mut tried);
                if next.is_none() {
                    elsewhere.in_vain(local, cx);
                }
            }
            next.is_some()
        };
        let (address, tls) = (lease.address(), settings.tls.as_deref());
        let approach = Approach { address, announcement: &announcement, tls, alpn: RAW };
        match connect(session, &lease, deadline, settings.timeouts.connect, approach, leaves).await {
            Ok(stream) => {
                let now = clock::now();
                lease.responded(now, Verdict::Good);
                local.responded(lease.state().id(), now.since(lease.sent_at()));
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

/// What is known of TLS that passes through: the client offers protocols, and which is agreed on is not to be seen.
fn asked_for(hello: &ClientHello) -> Tls {
    Tls { authority: hello.server_name.clone(), ..Tls::default() }
}

/// Another backend while the one before it could still be relied on: only if there is one at once that is well.
fn another(local: &Local, wanted: &Wanted<'_>, tried: &mut Tried) -> Option<Lease> {
    let mut with = *tried;
    let taken = local.roll(|dice| wanted.view.take(wanted.pool, clock::now(), wanted.key, &mut with, dice));
    let taken = taken.ok().filter(|taken| taken.rung <= elsewhere::LOWEST)?;
    *tried = with;
    Some(local.lease(wanted.pool, taken))
}

/// A backend: at once, or after a wait in the pool's queue.
async fn lease(
    session: &Session,
    deadline: &mut Deadline,
    wanted: &Wanted<'_>,
    tried: &mut Tried,
    incoming: &mut Incoming,
    waiting: &mut Waiting,
) -> Result<Lease, Unserved> {
    let (local, now) = (session.local(), clock::now());
    let none = match local.roll(|dice| wanted.view.take(wanted.pool, now, wanted.key, tried, dice)) {
        Ok(taken) => return Ok(local.lease(wanted.pool, taken)),
        Err(none) => none,
    };
    let Incoming { stream, prefix, .. } = incoming;
    let mut held = (!prefix.is_empty()).then(|| {
        let mut buffer = local.buffers.blocks.take(prefix.len());
        buffer.put(prefix);
        buffer
    });
    let watch = |cx: &mut Context<'_>| watch_client(stream, &mut held, &local.buffers.blocks, cx);
    // In a block of its own: it is seldom needed, and would be a part of every session.
    let taken = Box::pin(wait(session, deadline, wanted, tried, none, waiting, watch)).await;
    *prefix = held.as_ref().map(|held| held.data().to_vec()).unwrap_or_default();
    held.into_iter().for_each(|held| local.buffers.blocks.give(held));
    taken.map(|taken| local.lease(wanted.pool, taken))
}

/// Reads ahead what a waiting client says, to see whether it is still there. One that has said nothing and ended its side
/// has left: it waits for nothing.
fn watch_client(
    stream: &mut Stream,
    held: &mut Option<Buffer>,
    buffers: &Blocks,
    cx: &mut Context<'_>,
) -> Result<(), Outcome> {
    let (mut reader, _) = stream.split();
    while !held.as_ref().is_some_and(Buffer::is_full) {
        match reader.poll_read(cx, held, buffers, SMALLEST) {
            Poll::Ready(Ok(0)) if held.as_ref().is_none_or(Buffer::is_empty) => return Err(Outcome::ClientGone),
            Poll::Ready(Err(_)) => return Err(Outcome::ClientGone),
            Poll::Ready(Ok(1..)) => {}
            Poll::Ready(Ok(0)) | Poll::Pending => break,
        }
    }
    Ok(())
}

/// A connection to the backend of `lease`, unless the session is cut before it stands, or leaves for another one.
async fn connect(
    session: &Session,
    lease: &Lease,
    deadline: &mut Deadline,
    limit: Duration,
    approach: Approach<'_>,
    mut leaves: impl FnMut(&mut Context<'_>) -> bool,
) -> Result<Stream, Outcome> {
    let mut connecting = pin!(upstream::connect(approach));
    deadline.set(clock::now() + limit);
    poll_fn(|cx| {
        session.watch(cx);
        match connecting.as_mut().poll(cx) {
            Poll::Pending if session.local().phase() == Phase::Cut || lease.session_is_cut() => {
                Poll::Ready(Err(Outcome::Cut))
            }
            Poll::Pending if leaves(cx) => Poll::Ready(Err(Outcome::Withdrawn)),
            Poll::Pending => deadline.poll(cx).map(|()| Err(Outcome::ConnectTimeout)),
            reached => reached,
        }
    })
    .await
}
