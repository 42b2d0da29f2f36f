//! The TLS handshake of a client's connection, before anything else is said on it; or only its first message, where TLS passes
//! through.
//!
//! A client that says nothing holds nothing but its connection: only when its first bytes are there does it take a place
//! among the handshakes under way, of which a worker has so many at once. The deadline counts from the beginning.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::hello;
use crate::client_hello::{Alert, ClientHello};
use crate::clock;
use crate::local::{Local, Phase};
use crate::stream::{Incoming, Plain, Secured, Stream};

/// The places of one worker.
#[derive(Debug)]
pub(super) struct Handshakes(Semaphore);

impl Default for Handshakes {
    fn default() -> Self {
        Handshakes(Semaphore::new(AT_ONCE))
    }
}

/// How many handshakes a worker has under way at once. What they wait for is the client's next message, and each holds
/// some 20 KiB.
const AT_ONCE: usize = 1000;

/// What becomes of a connection by its first message.
pub(super) enum Sorted {
    /// Its TLS ends here, and it has shaken hands.
    Secured(Incoming),
    /// It passes through as it came.
    Through(Incoming, Box<ClientHello>),
}

impl Handshakes {
    /// The connection after its handshake; `None` when that failed, took too long, or the worker stops.
    pub(super) async fn secure(
        &self,
        local: &Rc<Local>,
        config: Arc<ServerConfig>,
        incoming: Incoming,
        limit: Duration,
    ) -> Option<Incoming> {
        let Incoming { mut stream, listener, peer, local: own, prefix } = incoming;
        let shaking = pin!(async {
            begun(&mut stream, &prefix).await?;
            let _place = self.0.acquire().await.ok()?;
            accept(config, stream, prefix, peer).await
        });
        let stream = in_time(local, peer, limit, shaking).await?;
        Some(Incoming { stream, listener, peer, local: own, prefix: Vec::new() })
    }

    /// Reads the first message, and goes by it: as the newest view says, once it is whole.
    pub(super) async fn sort(&self, local: &Rc<Local>, incoming: Incoming, limit: Duration) -> Option<Sorted> {
        let Incoming { mut stream, listener, peer, local: own, mut prefix } = incoming;
        let with = |stream, prefix| Incoming { stream, listener, peer, local: own, prefix };
        let sorting = pin!(async {
            begun(&mut stream, &prefix).await?;
            let _place = self.0.acquire().await.ok()?;
            let hello = match hello::hear(&mut stream, &mut prefix).await {
                Ok(hello) => hello,
                Err(why) => {
                    tracing::debug!(?peer, %why, "connection refused");
                    why.close(stream);
                    return None;
                }
            };
            let plan = local.view().snapshot().listener(listener).cloned();
            let Some(plan) = plan else {
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
            let config = Arc::clone(&tls.current().config);
            drop(plan);
            let stream = accept(config, stream, prefix, peer).await?;
            Some(Sorted::Secured(with(stream, Vec::new())))
        });
        in_time(local, peer, limit, sorting).await
    }
}

/// Waits until the client has said something; what came behind a PROXY header may be all that comes for now.
async fn begun(stream: &mut Stream, prefix: &[u8]) -> Option<()> {
    if prefix.is_empty() {
        poll_fn(|cx| stream.poll_readable(cx)).await.ok()?;
    }
    Some(())
}

/// Shakes hands on a connection of which `prefix` has been read.
async fn accept(
    config: Arc<ServerConfig>,
    stream: Stream,
    prefix: Vec<u8>,
    peer: Option<SocketAddr>,
) -> Option<Stream> {
    match TlsAcceptor::from(config).accept(Plain::new(stream, prefix)?).await {
        Ok(session) => Some(Stream::Tls(Box::new(Secured::new(tokio_rustls::TlsStream::Server(session))))),
        Err(error) => {
            tracing::debug!(?peer, %error, "TLS handshake failed");
            None
        }
    }
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
