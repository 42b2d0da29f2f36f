//! The TLS handshake of a client's connection, before anything else is said on it; or only its first message, where TLS passes
//! through.
//!
//! A client that says nothing holds nothing but its connection: only when its first bytes are there does it take a place
//! among the handshakes under way, of which a listener has so many at once on a worker. What they wait for is the client's
//! next message, and each holds some 20 KiB. The deadline counts from the beginning.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use super::hello;
use crate::client_hello::{Alert, ClientHello};
use crate::clock;
use crate::local::{Local, Phase};
use crate::state::{ListenerId, ListenerPlan};
use crate::stream::{Incoming, Plain, Secured, Stream};
use crate::tls::{Current, Demand};

/// How much is read and forgotten behind a handshake that has failed, in bytes, and for how long.
const LINGER_BYTES: usize = 64 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(2);

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
    /// What the handshake goes by; `None` where the first message is to say whether there is one.
    current: Option<Arc<Current>>,
    places: Places,
    limit: Duration,
}

impl Handshakes {
    /// Those of this listener, where it speaks TLS or lets it through.
    pub(super) fn terms(&self, plan: &ListenerPlan) -> Option<Terms> {
        let current = if plan.asks_for_hello() { None } else { Some(plan.tls.as_ref()?.current()) };
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

/// Shakes hands as the name asks that the client asks for. What is left of a connection where that failed is given back, as
/// the alert that says why is on its way.
async fn shake(current: &Current, plain: Plain) -> Result<Secured, (io::Error, Option<Plain>)> {
    let secured = |session, demand: &Demand| Secured::of_client(tokio_rustls::TlsStream::Server(session), demand);
    let failed = |(error, plain)| (error, Some(plain));
    if let Some(way) = current.only_way() {
        let handshake = TlsAcceptor::from(Arc::clone(&way.config)).accept(plain).into_fallible();
        return Ok(secured(handshake.await.map_err(failed)?, &way.demand));
    }
    let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), plain);
    let begun = match (&mut acceptor).await {
        Ok(begun) => begun,
        Err(error) => return Err((error, acceptor.take_io())),
    };
    let way = current.way(begun.client_hello().server_name());
    let handshake = begun.into_stream(Arc::clone(&way.config)).into_fallible();
    Ok(secured(handshake.await.map_err(failed)?, &way.demand))
}

/// Ends our direction, and reads and forgets what the client still sends, within bounds.
async fn linger(local: &Rc<Local>, mut plain: Plain) {
    let (mut deadline, mut left) = (local.deadline(), LINGER_BYTES);
    deadline.set(clock::now() + LINGER_TIME);
    poll_fn(|cx| {
        if deadline.poll(cx).is_ready() || ready!(Pin::new(&mut plain).poll_shutdown(cx)).is_err() {
            return Poll::Ready(());
        }
        while left > 0 {
            let mut bytes = [0; 1024];
            let mut space = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut plain).poll_read(cx, &mut space)) {
                Ok(()) if !space.filled().is_empty() => left = left.saturating_sub(space.filled().len()),
                _ => break,
            }
        }
        Poll::Ready(())
    })
    .await;
}

/// What becomes of a connection by its first message.
pub(super) enum Sorted {
    /// Its TLS ends here, and it has shaken hands.
    Secured(Incoming),
    /// It passes through as it came.
    Through(Incoming, Box<ClientHello>),
}

impl Terms {
    /// The connection after its handshake, or after its first message where that says that it passes through; `None` when
    /// that failed, took too long, or the worker stops.
    pub(super) async fn secure(self, local: &Rc<Local>, incoming: Incoming) -> Option<Sorted> {
        let (limit, peer) = (self.limit, incoming.peer);
        match self.current {
            Some(current) => in_time(local, peer, limit, pin!(self.places.terminate(local, current, incoming))).await,
            None => in_time(local, peer, limit, pin!(self.places.sort(local, incoming))).await,
        }
    }
}

impl Places {
    /// Shakes hands.
    async fn terminate(self, local: &Rc<Local>, current: Arc<Current>, incoming: Incoming) -> Option<Sorted> {
        let Incoming { mut stream, listener, peer, local: own, prefix } = incoming;
        begun(&mut stream, &prefix).await?;
        let place = self.free.acquire().await.ok()?;
        let stream = accept(local, &current, Plain::new(stream, prefix)?, peer, place).await?;
        Some(Sorted::Secured(Incoming { stream, listener, peer, local: own, prefix: Vec::new() }))
    }

    /// Reads the first message, and goes by it: as the newest view says, once it is whole.
    async fn sort(self, local: &Rc<Local>, incoming: Incoming) -> Option<Sorted> {
        let Incoming { mut stream, listener, peer, local: own, mut prefix } = incoming;
        let with = |stream, prefix| Incoming { stream, listener, peer, local: own, prefix };
        begun(&mut stream, &prefix).await?;
        let place = self.free.acquire().await.ok()?;
        let hello = match hello::hear(&mut stream, &mut prefix).await {
            Ok(hello) => hello,
            Err(why) => {
                tracing::debug!(?peer, %why, "connection refused");
                why.close(stream);
                return None;
            }
        };
        let Some(plan) = local.view().snapshot().listener(listener).cloned() else {
            stream.reset();
            return None;
        };
        if let Some((route, _)) = plan.through(&hello) {
            tracing::debug!(?peer, server_name = ?hello.server_name, route, "TLS passes through");
            return Some(Sorted::Through(with(stream, prefix), Box::new(hello)));
        }
        let Some(tls) = &plan.tls else {
            tracing::debug!(?peer, server_name = ?hello.server_name, "no route for a TLS connection");
            stream.say_and_close(&Alert::UnrecognizedName.record());
            return None;
        };
        let current = tls.current();
        drop(plan);
        let stream = accept(local, &current, Plain::new(stream, prefix)?, peer, place).await?;
        Some(Sorted::Secured(with(stream, Vec::new())))
    }
}

/// Waits until the client has said something; what came behind a PROXY header may be all that comes for now.
async fn begun(stream: &mut Stream, prefix: &[u8]) -> Option<()> {
    if prefix.is_empty() {
        poll_fn(|cx| stream.poll_readable(cx)).await.ok()?;
    }
    Some(())
}

/// Shakes hands, which has its place until it is done or has failed.
async fn accept(
    local: &Rc<Local>,
    current: &Current,
    plain: Plain,
    peer: Option<SocketAddr>,
    place: SemaphorePermit<'_>,
) -> Option<Stream> {
    let (error, left) = match shake(current, plain).await {
        Ok(secured) => return Some(Stream::Tls(Box::new(secured))),
        Err(failed) => failed,
    };
    tracing::debug!(?peer, %error, "TLS handshake failed");
    drop(place);
    linger(local, left?).await;
    None
}

/// What `work` comes to, unless it takes longer than `limit` or the worker stops.
async fn in_time<T>(
    local: &Rc<Local>,
    peer: Option<SocketAddr>,
    limit: Duration,
    mut work: Pin<&mut impl Future<Output = Option<T>>>,
) -> Option<T> {
    let session = local.session();
    let mut deadline = local.deadline();
    deadline.set(clock::now() + limit);
    poll_fn(|cx| {
        session.watch(cx);
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        if session.local().phase() == Phase::Cut {
            return Poll::Ready(None);
        }
        deadline.poll(cx).map(|()| {
            tracing::debug!(?peer, "TLS handshake took too long");
            None
        })
    })
    .await
}
