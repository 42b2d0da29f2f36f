//! The TLS handshake of a client's connection, before anything else is said on it.
//!
//! A client that says nothing holds nothing but its connection: only when its first bytes are there does it take a place
//! among the handshakes under way, of which a worker has so many at once. The deadline counts from the beginning.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

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
        let session = local.session();
        let mut deadline = local.deadline();
        deadline.set(clock::now() + limit);
        let mut shaking = pin!(async {
            // What came behind a PROXY header may be all that comes for now.
            if prefix.is_empty() {
                poll_fn(|cx| stream.poll_readable(cx)).await.ok()?;
            }
            let _place = self.0.acquire().await.ok()?;
            let plain = Plain::new(stream, prefix)?;
            match TlsAcceptor::from(config).accept(plain).await {
                Ok(session) => Some(Stream::Tls(Box::new(Secured::new(tokio_rustls::TlsStream::Server(session))))),
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
