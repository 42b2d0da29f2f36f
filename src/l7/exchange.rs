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
use std::task::{Context, Poll};
use std::time::Duration;

use super::bodies::{self, Running, put_away};
use super::body::Pump;
use super::h1::{After, Connection};
use super::replies::{self, Answer};
use super::request_id::RequestId;
use super::retry::{self, Charge, Next};
use super::talk::{Talk, watch_client};
use super::upgrade;
use super::wire::Wire;
use crate::balance::Tried;
use crate::clock;
use crate::config::{self, Address, Repeats};
use crate::http::fields::{self, Forwarding, Scheme};
use crate::http::h1::write::{self, Connection as Persistence, Reply};
use crate::http::{Framing, MOST_KEPT};
use crate::l4::wait::{Unserved, Waiting, Wanted, wait};
use crate::local::{Desk, Local, Phase};
use crate::outcome::{Outcome, Repeatable, Verdict};
use crate::record::PoolEvent;
use crate::state::{Action, HttpPlan, Lease, Permit, PoolId, Protocol, Route, RouteAsk, View};
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
    let mut waiting = Waiting::default();
    // The view lives for the head's part of the exchange only; a long body keeps its lease and no more.
    let opened = loop {
        match open(local.view(), connection, desk, &mut id, &mut waiting).await {
            // Who waits in a queue follows every reload until its time is over.
            Opened::Outdated if waiting.has_place() => {}
            Opened::Outdated if looks > 1 => looks -= 1,
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
async fn open(
    view: Rc<View>,
    connection: &mut Connection,
    desk: &mut Desk,
    id: &mut RequestId,
    waiting: &mut Waiting,
) -> Opened {
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
            way.attempts(connection, desk, waiting).await
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

/// A response whose head has come.
struct Answered {
    upstream: Wire,
    sending: Pump,
    request: Repeatable,
}

/// How one attempt ended that did not bring the response.
struct Failed {
    outcome: Outcome,
    request: Repeatable,
}

/// Where a request stands between its attempts.
struct Tries<'a> {
    way: &'a Way<'a>,
    key: u64,
    tried: Tried,
    /// Attempts that are left after the one under way.
    left: usize,
    /// The backend of the next attempt, where that was taken before the one under way was given up.
    next: Option<Lease>,
    /// Leave for the attempt under way.
    permit: Option<Permit>,
}

impl Tries<'_> {
    /// What is to be done after an attempt that ended so.
    fn after(&self, outcome: Outcome, request: Repeatable) -> Next {
        retry::next(outcome, request, &self.way.route.retry, self.left)
    }

    /// Whether the pool's retry budget allows one more attempt.
    fn is_permitted(&mut self, local: &Local) -> bool {
        let Way { view, pool, id, .. } = *self.way;
        self.permit = view.permit_retry(pool, clock::now());
        let permitted = self.permit.is_some();
        local.happened(pool, if permitted { PoolEvent::Retried } else { PoolEvent::RetryRefused });
        if !permitted {
            tracing::debug!(pool = %view.pool(pool).name, id, "the retry budget is used up");
        }
        permitted
    }

    /// Takes another backend while the one under way could still be relied on, or its answer be passed on: only where there
    /// is one at once. False: all stays as it is.
    fn goes_elsewhere(&mut self, local: &Local, outcome: Outcome, request: Repeatable) -> bool {
        if !matches!(self.after(outcome, request), Next::AnotherBackend(_)) {
            return false;
        }
        let (view, mut tried) = (self.way.view, self.tried);
        let taken = local.roll(|dice| view.take(self.way.pool, clock::now(), self.key, &mut tried, dice));
        let Ok(taken) = taken else { return false };
        let permitted = self.is_permitted(local);
        if permitted {
            (self.tried, self.next) = (tried, Some(taken.lease));
        }
        permitted
    }
}

impl<'a> Way<'a> {
    /// Tries backends until one responds or no attempt is left.
    async fn attempts(&'a self, connection: &mut Connection, desk: &mut Desk, waiting: &mut Waiting) -> Opened {
        let local = connection.session.local().clone();
        let pool = self.view.pool(self.pool);
        let now = clock::now();
        self.view.count_request(self.pool, now);
        desk.kept.begin(self.idempotent(desk));
        let (key, tried, left) = (self.key(desk), Tried::default(), self.route.retry.attempts);
        let mut tries = Tries { way: self, key, tried, left, next: None, permit: None };
        let mut failure = None;
        loop {
            tries.left -= 1;
            let lease = match tries.next.take() {
                Some(lease) => Ok(lease),
                None => self.lease(connection, &mut tries, waiting).await,
            };
            let lease = match lease {
                Ok(lease) => lease,
                Err(Unserved::Outdated) => return Opened::Outdated,
                Err(unserved) => return self.unserved(connection, unserved, failure),
            };
            let failed = match self.attempt(connection, desk, lease, &mut tries).await {
                Ok(opened) => return opened,
                Err(failed) => failed,
            };
            tracing::debug!(pool = %pool.name, cause = failed.outcome.code(), id = self.id, "attempt failed");
            desk.kept.rewind();
            if tries.next.is_some() {
                continue;
            }
            let Some(status) = failed.outcome.own_status() else { return Opened::ClientGone };
            let again = match tries.after(failed.outcome, failed.request) {
                Next::AnotherBackend(Charge::Free) => true,
                Next::AnotherBackend(Charge::Budget) => tries.is_permitted(&local),
                Next::FreshConnection | Next::GiveUp => false,
            };
            if !again {
                let answer = Answer::plain(status);
                return Opened::Answer(if connection.wire.inbound.is_done() { answer } else { answer.closing() });
            }
            failure = Some(status);
        }
    }

    /// A backend: at once, or after a wait in the pool's queue.
    async fn lease(
        &self,
        connection: &mut Connection,
        tries: &mut Tries<'_>,
        waiting: &mut Waiting,
    ) -> Result<Lease, Unserved> {
        let local = connection.session.local().clone();
        let (now, tried) = (clock::now(), &mut tries.tried);
        let none = match local.roll(|dice| self.view.take(self.pool, now, tries.key, tried, dice)) {
            Ok(taken) => return Ok(taken.lease),
            Err(none) => none,
        };
        let wanted = Wanted { view: self.view, pool: self.pool, key: tries.key };
        let Connection { wire, session, deadline, .. } = connection;
        let had_ended = wire.inbound.ended;
        let watch = |cx: &mut Context<'_>| {
            watch_client(&mut wire.split(&local.buffers).0, cx)?;
            // Nothing was done for it yet, and who closes his side now, and not with his request, has given up as a rule.
            if wire.inbound.ended && !had_ended { Err(Outcome::ClientGone) } else { Ok(()) }
        };
        // In a block of its own: it is seldom needed, and would be a part of every exchange.
        Box::pin(wait(session, deadline, &wanted, tried, none, waiting, watch)).await.map(|taken| taken.lease)
    }

    /// The answer where there is no backend; `failure` is how an earlier attempt is answered for.
    fn unserved(&self, connection: &Connection, unserved: Unserved, failure: Option<u16>) -> Opened {
        let pool = self.view.pool(self.pool);
        let status = failure.unwrap_or(503);
        let busy = Answer::busy(status, pool.timeouts.queue);
        match unserved {
            // It may still read: who closed only his own side gets an answer, and nobody else minds it.
            Unserved::Ended(Outcome::ClientGone) if connection.wire.inbound.ended => Opened::Answer(busy.closing()),
            Unserved::Ended(Outcome::ClientGone) => Opened::ClientGone,
            Unserved::Ended(_) | Unserved::Outdated => Opened::Answer(Answer::plain(status).closing()),
            Unserved::Busy => {
                tracing::debug!(pool = %pool.name, id = self.id, "all backends are busy");
                Opened::Answer(busy)
            }
            Unserved::Nobody(none) => {
                tracing::debug!(pool = %pool.name, id = self.id, %none, "no backend");
                Opened::Answer(Answer::plain(status))
            }
        }
    }

    /// One attempt on one backend: on an idle connection if there is one, and once more on a fresh one when that was stale.
    async fn attempt(
        &self,
        connection: &mut Connection,
        desk: &mut Desk,
        mut lease: Lease,
        tries: &mut Tries<'_>,
    ) -> Result<Opened, Failed> {
        let local = connection.session.local().clone();
        let timeouts = &self.view.pool(self.pool).timeouts;
        let backend = lease.state().id();
        // What will be kept can be sent again when a stale connection shows.
        let small = match desk.request.framing {
            Framing::None => true,
            Framing::Length(length) => length <= MOST_KEPT as u64,
            _ => false,
        };
        let repeats = small && desk.kept.is_whole() && self.idempotent(desk);
        let at_most = if repeats { Duration::MAX } else { FRESH_ENOUGH };
        let mut idle = local.take_idle(backend, clock::now(), at_most);
        loop {
            let reused = idle.is_some();
            let failed = match reach(connection, idle.take(), &lease, timeouts.connect).await {
                Ok(stream) => match self.converse(connection, desk, &mut lease, stream, reused, tries).await {
                    Ok(answered) => return self.answered(connection, desk, lease, answered, tries),
                    Err(failed) => failed,
                },
                Err(outcome) => {
                    let (idempotent, body_kept) = (self.idempotent(desk), desk.kept.is_whole());
                    Failed { outcome, request: Repeatable { idempotent, body_kept, sent: false, heard: false } }
                }
            };
            if tries.after(failed.outcome, failed.request) != Next::FreshConnection {
                local.ended(backend, failed.outcome);
                lease.finish(clock::now(), failed.outcome);
                return Err(failed);
            }
            desk.kept.rewind();
        }
    }

    /// Passes the response on whose head has come, unless its status is one for which the route tries another backend, and
    /// there is one. Then it is thrown away, and its connection with what may still come on it.
    fn answered(
        &self,
        connection: &mut Connection,
        desk: &mut Desk,
        mut lease: Lease,
        answered: Answered,
        tries: &mut Tries<'_>,
    ) -> Result<Opened, Failed> {
        let Answered { mut upstream, sending, request } = answered;
        let (local, status) = (connection.session.local(), desk.response.status);
        let outcome = Outcome::Completed { status };
        if status < 400 || !tries.goes_elsewhere(local, outcome, request) {
            return Ok(self.begin_response(connection, desk, upstream, lease, sending));
        }
        let now = clock::now();
        lease.responded(now, Verdict::of_status(status));
        local.responded(lease.state().id(), now.since(lease.sent_at()));
        local.ended(lease.state().id(), outcome);
        lease.finish(now, outcome);
        put_away(local, desk, &mut upstream);
        Err(Failed { outcome, request })
    }

    /// Sends the request, passes interim responses on, and reads the head of the final response into `desk.response`.
    async fn converse(
        &self,
        connection: &mut Connection,
        desk: &mut Desk,
        lease: &mut Lease,
        stream: Stream,
        reused: bool,
        tries: &mut Tries<'_>,
    ) -> Result<Answered, Failed> {
        let mut upstream = Wire::new(stream);
        upstream.outbound.lend(std::mem::take(&mut desk.to_backend));
        let address = Self::fallback_host(desk, lease);
        write::request(&mut upstream.outbound.pending, &desk.request, &self.forwarding(connection, &address));
        upstream.outbound.begin(desk.request.framing);
        let timeouts = &self.view.pool(self.pool).timeouts;
        let local = connection.session.local().clone();
        let mut talk = Talk::new(connection, &mut upstream, desk, lease, timeouts, reused);
        let repeats = self.route.retry.repeats;
        let got = poll_fn(|cx| match talk.poll(cx) {
            Poll::Pending if !talk.is_withdrawn() => Poll::Pending,
            Poll::Ready(got) if got != Err(Outcome::Cut) || local.phase() == Phase::Cut => Poll::Ready(got),
            // The backend is given up by others, or cut off: this request need not share its fate.
            _ if tries.goes_elsewhere(&local, Outcome::Withdrawn, talk.repeatable(repeats)) => {
                Poll::Ready(Err(Outcome::Withdrawn))
            }
            otherwise => otherwise,
        })
        .await;
        let (request, sending) = (talk.repeatable(repeats), talk.sending);
        match got {
            Ok(()) => Ok(Answered { upstream, sending, request }),
            Err(outcome) => {
                put_away(&local, desk, &mut upstream);
                Err(Failed { outcome, request })
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

    /// Whether the request may be sent a second time, so that its body is worth keeping.
    fn idempotent(&self, desk: &Desk) -> bool {
        self.route.retry.repeats == Repeats::All || desk.request.method.is_idempotent()
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
