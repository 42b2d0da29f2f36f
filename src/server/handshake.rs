//! The TLS handshake of a client's connection, before anything else is said on it.
//!
//! A client that says nothing holds nothing but its connection: only when its first bytes are there does it take a place
//! among the handshakes under way, of which a listener has so many at once on a worker. What they wait for is the client's
//! next message, and each holds some 20 KiB. The deadline counts from the beginning.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::sync::Semaphore;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use crate::clock;
use crate::local::{Local, Phase};
use crate::state::{ListenerId, ListenerPlan};
use crate::stream::{Incoming, Plain, Secured, Stream};
use crate::tls::{Current, Demand};

/// The places of one worker, by listener.
#[derive(Debug, Default)]
pub(super) struct Handshakes(RefCell<HashMap<ListenerId, Places>>);

/// The places of a listener on one worker, and how many they are.
#[derive(Clone, Debug)]
struct Places {
    limit: u32,
    free: Rc<Semaphore>,
}

/// How a handshake is to go.
pub(super) struct Terms {
    current: Arc<Current>,
    places: Places,
    limit: Duration,
}

impl Handshakes {
    /// Those of this listener, where it speaks TLS.
    pub(super) fn terms(&self, plan: &ListenerPlan) -> Option<Terms> {
        let current = plan.tls.as_ref()?.current();
        Some(Terms { current, places: self.places(plan), limit: plan.timeouts.tls_handshake })
    }

    /// With another limit than before, there are new places: who has an old one is under way and is not counted again. Names
    /// of listeners are few, so nothing is lost by keeping those that are gone.
    fn places(&self, plan: &ListenerPlan) -> Places {
        let limit = plan.limits.handshakes;
        let mut all = self.0.borrow_mut();
        let known = all.get(&plan.id).filter(|places| places.limit == limit);
        if let Some(places) = known {
            return places.clone();
        }
        let free = usize::try_from(limit).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let places = Places { limit, free: Rc::new(Semaphore::new(free)) };
        all.insert(plan.id, places.clone());
        places
    }
}

/// Shakes hands as the name asks that the client asks for.
async fn shake(current: &Current, plain: Plain) -> io::Result<Secured> {
    let secured = |session, demand: &Demand| Secured::of_client(tokio_rustls::TlsStream::Server(session), demand);
    if let Some(way) = current.only_way() {
        let session = TlsAcceptor::from(Arc::clone(&way.config)).accept(plain).await?;
        return Ok(secured(session, &way.demand));
    }
    let begun = LazyConfigAcceptor::new(Acceptor::default(), plain).await?;
    let way = current.way(begun.client_hello().server_name());
    let session = begun.into_stream(Arc::clone(&way.config)).await?;
    Ok(secured(session, &way.demand))
}

impl Terms {
    /// The connection after its handshake; `None` when that failed, took too long, or the worker stops.
    pub(super) async fn secure(self, local: &Rc<Local>, incoming: Incoming) -> Option<Incoming> {
        let Terms { current, places, limit } = self;
        let Incoming { mut stream, listener, peer, local: own, prefix } = incoming;
        let session = local.session();
        let mut deadline = local.deadline();
        deadline.set(clock::now() + limit);
        let mut shaking = pin!(async {
            // What came behind a PROXY header may be all that comes for now.
            if prefix.is_empty() {
                poll_fn(|cx| stream.poll_readable(cx)).await.ok()?;
            }
            let _place = places.free.acquire().await.ok()?;
            let plain = Plain::new(stream, prefix)?;
            match shake(&current, plain).await {
                Ok(secured) => Some(Stream::Tls(Box::new(secured))),
                Err(error) => {
                    tracing::debug!(?peer, %error, "TLS handshake failed");
                    None
                }
            }
        });
        let stream = poll_fn(|cx| {
            session.watch(cx);
            if let Poll::Ready(stream) = shaking.as_mut().poll(cx) {
                return Poll::Ready(stream);
            }
            if session.local().phase() == Phase::Cut {
                return Poll::Ready(None);
            }
            deadline.poll(cx).map(|()| {
                tracing::debug!(?peer, "TLS handshake took too long");
                None
            })
        });
        Some(Incoming { stream: stream.await?, listener, peer, local: own, prefix: Vec::new() })
    }
}
