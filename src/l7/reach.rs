//! The way to a backend, before anything of the request is said to it: on an idle connection, on one that is shared, or on one
//! that is made for it. Whoever waits here is watched, and may still leave for another backend.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::backend::Upstream;
use super::client::{Client, Front};
use super::exchange::Way;
use super::h2::Streamed;
use super::talk::{overdue, watch_client};
use crate::clock;
use crate::config::HttpVersion;
use crate::http::fields::Scheme;
use crate::local::Phase;
use crate::outcome::Outcome;
use crate::state::{Lease, Pool};
use crate::stream::Stream;
use crate::tls::{H2, HTTP_1, HTTP_2};
use crate::upstream::shared::{Asking, Found};
use crate::upstream::{self, Approach};

impl Way<'_> {
    /// A connection to the backend of `lease`: the idle one, or a new one. While it is made we look whether it is still
    /// wanted, and whether the request leaves for another backend.
    pub(super) async fn reach(
        &self,
        client: &mut Client<impl Front>,
        idle: Option<Stream>,
        asking: Asking,
        lease: &Lease,
        limit: Duration,
        leaves: &mut impl FnMut(&mut Context<'_>) -> bool,
    ) -> Result<Upstream, Outcome> {
        if let Some(stream) = idle {
            return Ok(Upstream::over(stream));
        }
        let pool = self.view.pool(self.pool);
        let announcement = upstream::announcement(pool, client.peer, client.local, || client.wire.tls());
        let mut connecting = pin!(self.connect(pool, lease, &announcement, asking));
        let Client { wire, session, deadline, .. } = client;
        let begun = clock::now();
        deadline.set(begun + limit);
        poll_fn(|cx| {
            session.watch(cx);
            if let Poll::Ready(reached) = connecting.as_mut().poll(cx) {
                return Poll::Ready(reached);
            }
            let local = session.local();
            watch_client(wire, &local.buffers, cx)?;
            if leaves(cx) {
                return Poll::Ready(Err(Outcome::Withdrawn));
            }
            if local.phase() == Phase::Cut || lease.is_cut() {
                return Poll::Ready(Err(Outcome::Cut));
            }
            deadline.poll(cx).map(|()| Err(overdue(deadline, self.whole, begun, Outcome::ConnectTimeout)))
        })
        .await
    }

    /// A connection that is made, or shared with others.
    async fn connect(
        &self,
        pool: &Pool,
        lease: &Lease,
        announcement: &[u8],
        asking: Asking,
    ) -> Result<Upstream, Outcome> {
        let (address, tls) = (lease.address(), pool.tls.as_deref());
        let approach = |alpn| Approach { address, announcement, tls, alpn };
        if pool.http_version == HttpVersion::H1 {
            return upstream::connect(approach(HTTP_1)).await.map(Upstream::over);
        }
        let scheme = if tls.is_some() { Scheme::Https } else { Scheme::Http };
        loop {
            let place = match self.local.shared.find(lease.state().id(), asking).await {
                Found::Place(place) => place,
                Found::Making(making) => {
                    let stream = upstream::connect(approach(HTTP_2)).await?;
                    if tls.is_some() && !stream.speaks(H2) {
                        tracing::debug!(%address, "the backend does not agree to HTTP/2 (ALPN)");
                        return Err(Outcome::TlsHandshakeFailed);
                    }
                    let made = making.made(stream, pool.timeouts.upstream_idle).await;
                    let place = made.map_err(|error| {
                        tracing::debug!(%address, %error, "the backend does not speak HTTP/2");
                        Outcome::ConnectFailed
                    })?;
                    if asking == Asking::Tunnel {
                        // It has to say what it can do first.
                        continue;
                    }
                    place
                }
            };
            if asking == Asking::Tunnel && !place.offers_tunnels() {
                return Err(Outcome::NotOffered);
            }
            return Ok(Upstream::H2(Box::new(Streamed::new(place, scheme))));
        }
    }
}
