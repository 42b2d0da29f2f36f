//! One request's way through us: route → attempts → response → record.
//!
//! An exchange is one task that owns both sides: it moves the request's body up while it waits for the response's head,
//! passes interim responses on, and moves the response's body down, in both directions at once where the client and the
//! backend want that. It names the protocol of neither side's bytes beyond what [`Wire`] offers.
//!
//! What it promises: a request is counted in flight exactly as long as it is; a response that the backend did not finish
//! never looks finished; a connection is used again only when both sides know where the next message begins.

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::bodies::{self, Running, put_away};
use super::body::Pump;
use super::h1::{After, Connection};
use super::replies::{self, Answer};
use super::request_id::RequestId;
use super::retry::{self, Next};
use super::talk::{Talk, watch_client};
use super::upgrade;
use super::wire::Wire;
use crate::balance::Tried;
use crate::clock::{self, Instant};
use crate::config::{self, Address};
use crate::http::Framing;
use crate::http::fields::{self, Forwarding, Scheme};
use crate::http::h1::write::{self, Connection as Persistence, Reply};
use crate::local::{Desk, Phase};
use crate::outcome::{Outcome, Repeatable, Verdict};
use crate::state::{Action, HttpPlan, Lease, PoolId, Protocol, Route, RouteAsk, View};
use crate::stream::Stream;
use crate::upstream;

/// A request that can not be repeated takes an idle connection only when it was used this short a time ago: servers close
/// idle ones after 5 s and more, and one that is closed under a POST costs the client a 502.
const FRESH_ENOUGH: Duration = Duration::from_secs(4);

/// How often a request is routed anew because the configuration changed under it.
const LOOKS: u32 = 3;

/// Sends the request on the desk to a backend, or answers it ourselves.
pub(super) async fn run(connection: &mut Connection, desk: &mut Desk) -> After {
    let local = connection.session.local().clone();
    let mut id = local.roll(RequestId::roll);
    let mut looks = LOOKS;
    // The view lives for the head's part of the exchange only; a long body keeps its lease and no more.
    let opened = loop {
        looks -= 1;
        match open(local.view(), connection, desk, &mut id).await {
            Opened::Outdated if looks > 0 => {}
            opened => break opened,
        }
    };
    match opened {
        Opened::Outdated => Answer::plain(503).send(connection, desk, id.as_str()).await,
        Opened::Answer(answer) => answer.send(connection, desk, id.as_str()).await,
        Opened::Response(running, framing) => bodies::run(connection, desk, running, framing).await,
        Opened::Tunnel(running) => upgrade::tunnel(connection, desk, running).await,
        Opened::ClientGone => After::Close,
    }
}

/// What the head's part of an exchange comes to.
enum Opened {
    /// We answer.
    Answer(Answer),
    /// A backend answers: the head is pending to the client, a body with this framing follows.
    Response(Running, Framing),
    /// The backend has switched protocols.
    Tunnel(Running),
    /// There is no backend by this view, but there is a newer one.
    Outdated,
    /// Nobody is left to be answered.
    ClientGone,
}

/// Routes the request and brings it to where its response begins.
async fn open(view: Rc<View>, connection: &mut Connection, desk: &mut Desk, id: &mut RequestId) -> Opened {
    let plan = view.listener(connection.listener);
    let Some((plan, Protocol::Http(http))) = plan.map(|plan| (plan, &plan.protocol)) else {
        return Opened::Answer(Answer::plain(503).closing());
    };
    let peer = connection.peer.map(|peer| peer.ip());
    let trusted = peer.is_some_and(|peer| config::is_within(&http.trusted_proxies, peer));
    if let Some(given) = fields::given_request_id(&desk.request.fields, trusted).and_then(RequestId::given) {
        *id = given;
    }
    let target = &desk.request.target;
    let method = desk.request.method_text();
    let ask = RouteAsk { host: target.host(), path: target.path(), method, fields: &desk.request.fields };
    let Some(route) = http.routes.find(&ask) else {
        tracing::debug!(listener = %plan.name, id = id.as_str(), "no route");
        return Opened::Answer(Answer::plain(404));
    };
    tracing::debug!(listener = %plan.name, route = %route.name, id = id.as_str(), "routed");
    match &route.action {
        Action::Forward(split) => {
            let pool = split.choose(connection.session.local().roll(|dice| dice.next()));
            let way = Way { view: &view, http, route, pool, peer, trusted, id: id.as_str() };
            way.attempts(connection, desk).await
        }
        own => Opened::Answer(replies::of_route(own, target).edited(&route.response_edits)),
    }
}

/// Where one request goes and with what: borrowed from the view while its head is under way.
struct Way<'a> {
    view: &'a View,
    http: &'a HttpPlan,
    route: &'a Route,
    pool: PoolId,
    peer: Option<IpAddr>,
    trusted: bool,
    id: &'a str,
}

/// How one attempt ended that brought no response.
struct Failed {
    outcome: Outcome,
    untouched: bool,
}

impl Way<'_> {
    /// Tries backends until one responds or no attempt is left.
    async fn attempts(&self, connection: &mut Connection, desk: &mut Desk) -> Opened {
        let local = connection.session.local().clone();
        let pool = self.view.pool(self.pool);
        let key = self.key(desk);
        let mut tried = Tried::default();
        let mut left = pool.attempts;
        let mut failure = None;
        loop {
            left -= 1;
            let now = clock::now();
            let taken = local.roll(|dice| self.view.take(self.pool, now, key, &mut tried, dice));
            let lease = match taken {
                Ok(taken) => taken.lease,
                Err(_) if !std::ptr::eq(self.view, &*local.view()) => return Opened::Outdated,
                Err(none) => {
                    tracing::debug!(pool = %pool.name, %none, "no backend");
                    return Opened::Answer(Answer::plain(failure.unwrap_or(503)));
                }
            };
            let failed = match self.attempt(connection, desk, lease, now).await {
                Ok(opened) => return opened,
                Err(failed) => failed,
            };
            tracing::debug!(pool = %pool.name, cause = failed.outcome.code(), id = self.id, "attempt failed");
            let Some(status) = failed.outcome.own_status() else { return Opened::ClientGone };
            let request = repeatable(desk, failed.untouched);
            if retry::next(failed.outcome, request, left) != Next::AnotherBackend {
                let answer = Answer::plain(status);
                return Opened::Answer(if connection.wire.inbound.is_done() { answer } else { answer.closing() });
            }
            failure = Some(status);
        }
    }

    /// One attempt on one backend: on an idle connection if there is one, and once more on a fresh one when that was stale.
    async fn attempt(
        &self,
        connection: &mut Connection,
        desk: &mut Desk,
        mut lease: Lease,
        begin: Instant,
    ) -> Result<Opened, Failed> {
        let local = connection.session.local().clone();
        let timeouts = &self.view.pool(self.pool).timeouts;
        let backend = lease.state().id();
        // A body is on its way by the time a stale connection shows.
        let bodiless = matches!(desk.request.framing, Framing::None | Framing::Length(0));
        let repeats = Outcome::StaleIdle.may_repeat(repeatable(desk, bodiless));
        let mut idle = local.take_idle(backend, begin, if repeats { Duration::MAX } else { FRESH_ENOUGH });
        loop {
            let reused = idle.is_some();
            let failed = match reach(connection, idle.take(), &lease, timeouts.connect).await {
                Ok(stream) => match self.converse(connection, desk, &mut lease, stream, reused).await {
                    Ok((upstream, sending)) => {
                        return Ok(self.begin_response(connection, desk, upstream, lease, sending));
                    }
                    Err(failed) => failed,
                },
                Err(outcome) => Failed { outcome, untouched: true },
            };
            if retry::next(failed.outcome, repeatable(desk, failed.untouched), 0) != Next::FreshConnection {
                local.ended(backend, failed.outcome);
                lease.finish(clock::now(), failed.outcome);
                return Err(failed);
            }
        }
    }

    /// Sends the request, passes interim responses on, and reads the head of the final response into `desk.response`.
    async fn converse(
        &self,
        connection: &mut Connection,
        desk: &mut Desk,
        lease: &mut Lease,
        stream: Stream,
        reused: bool,
    ) -> Result<(Wire, Pump), Failed> {
        let mut upstream = Wire::new(stream);
        upstream.outbound.lend(std::mem::take(&mut desk.to_backend));
        let address = Self::fallback_host(desk, lease);
        write::request(&mut upstream.outbound.pending, &desk.request, &self.forwarding(connection, &address));
        upstream.outbound.begin(desk.request.framing);
        let timeouts = &self.view.pool(self.pool).timeouts;
        let mut talk = Talk::new(connection, &mut upstream, desk, lease, timeouts, reused);
        let got = poll_fn(|cx| talk.poll(cx)).await;
        let sending = talk.sending;
        match got {
            Ok(()) => Ok((upstream, sending)),
            Err(outcome) => {
                put_away(connection.session.local(), desk, &mut upstream);
                Err(Failed { outcome, untouched: sending.taken == 0 })
            }
        }
    }

    /// The final head has come: judges the backend by it and makes the head for the client ready.
    fn begin_response(
        &self,
        connection: &mut Connection,
        desk: &mut Desk,
        mut upstream: Wire,
        mut lease: Lease,
        sending: Pump,
    ) -> Opened {
        let response = &desk.response;
        let now = clock::now();
        lease.responded(now, Verdict::of_status(response.status));
        let local = connection.session.local();
        local.responded(lease.state().id(), now.since(lease.sent_at()));
        let mut timeouts = self.view.pool(self.pool).timeouts.clone();
        timeouts.tunnel_idle = timeouts.tunnel_idle.min(connection.terms.tunnel_idle);
        if response.status == 101 {
            self.write_head(connection, desk, Framing::None, Persistence::Upgrade);
            return Opened::Tunnel(Running { upstream, lease, timeouts, sending, keep_client: false, late: None });
        }
        let framing = write::reply_framing(response, desk.request.version);
        let keep_client = connection.may_go_on(desk)
            && framing != Framing::ToClose
            && connection.wire.inbound.is_done()
            && !connection.wire.inbound.is_over();
        upstream.inbound.begin(response.framing);
        let persistence = if keep_client { Persistence::KeepAlive } else { Persistence::Close };
        self.write_head(connection, desk, framing, persistence);
        Opened::Response(Running { upstream, lease, timeouts, sending, keep_client, late: None }, framing)
    }

    fn write_head(&self, connection: &mut Connection, desk: &Desk, framing: Framing, persistence: Persistence) {
        let reply = Reply {
            client: desk.request.version,
            framing,
            connection: persistence,
            edits: &self.route.response_edits,
            via: self.http.via,
        };
        write::response(&mut connection.wire.outbound.pending, &desk.response, &reply);
        connection.wire.outbound.begin(framing);
    }

    /// The `Host` for a request of HTTP/1.0 that names none, as HTTP/1.1 demands one: the backend's address, where that can
    /// be a host.
    fn fallback_host(desk: &Desk, lease: &Lease) -> Cow<'static, str> {
        match lease.address() {
            _ if !desk.request.target.authority().is_empty() => "".into(),
            Address::Ip(address) => address.to_string().into(),
            Address::Unix(_) => "localhost".into(),
        }
    }

    fn forwarding<'b>(&'b self, connection: &Connection, fallback_host: &'b str) -> Forwarding<'b> {
        Forwarding {
            peer: self.peer,
            trusted: self.trusted,
            scheme: Scheme::Http,
            port: connection.local_port,
            request_id: self.id,
            fallback_host,
            forwarded: self.http.forwarded,
            via: self.http.via,
            edits: &self.route.request_edits,
        }
    }

    /// The number that hashing policies go by.
    fn key(&self, desk: &Desk) -> u64 {
        let client = || {
            let trusted = |address| config::is_within(&self.http.trusted_proxies, address);
            self.peer.map(|peer| fields::client_address(&desk.request.fields, peer, trusted))
        };
        self.view.pool(self.pool).key_of_request(&desk.request, client)
    }
}

/// A connection to the backend of `lease`: the idle one, or a new one. While it is made we look whether it is still wanted.
async fn reach(
    connection: &mut Connection,
    idle: Option<Stream>,
    lease: &Lease,
    limit: Duration,
) -> Result<Stream, Outcome> {
    if let Some(stream) = idle {
        return Ok(stream);
    }
    let mut connecting = pin!(upstream::connect(lease.address()));
    let Connection { wire, session, deadline, .. } = connection;
    deadline.set(clock::now() + limit);
    poll_fn(|cx| {
        session.watch(cx);
        if let Poll::Ready(reached) = connecting.as_mut().poll(cx) {
            return Poll::Ready(reached);
        }
        let local = session.local();
        watch_client(&mut wire.split(&local.buffers).0, cx)?;
        if local.phase() == Phase::Cut || lease.is_cut() {
            return Poll::Ready(Err(Outcome::Cut));
        }
        deadline.poll(cx).map(|()| Err(Outcome::ConnectTimeout))
    })
    .await
}

fn repeatable(desk: &Desk, untouched: bool) -> Repeatable {
    Repeatable { idempotent: desk.request.method.is_idempotent(), body_untouched: untouched }
}
