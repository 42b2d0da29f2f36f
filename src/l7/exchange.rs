//! One request's way through us: route → attempts → response → record.
//!
//! An exchange is one task that owns both sides: it moves the request's body up while it waits for the response's head,
//! passes interim responses on, and moves the response's body down, in both directions at once where the client and the
//! backend want that. It names the protocol of neither side's bytes beyond what [`Wire`] offers.
//!
//! What it promises: a request is counted in flight exactly as long as it is; a response that the backend did not finish
//! never looks finished; a connection is used again only when both sides know where the next message begins.

use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::body::{Pump, PumpFault, Sink, SourceFault, Waits, Wire, WireSource};
use super::h1::{After, ClientTimeouts, Connection};
use super::replies::{self, Answer};
use super::request_id::RequestId;
use super::retry::{self, Next};
use super::upgrade;
use crate::balance::Tried;
use crate::clock;
use crate::config::{self, Timeouts};
use crate::http::fields::{self, Forwarding, Scheme};
use crate::http::h1::parse::{self, HeadLimits, Parsed};
use crate::http::h1::write::{self, Connection as Persistence, Reply};
use crate::http::{Framing, Version};
use crate::local::{Desk, Local, Phase};
use crate::outcome::{Outcome, Repeatable, Verdict};
use crate::state::{Action, HttpPlan, Lease, PoolId, Protocol, Route, RouteAsk, View};
use crate::stream::Stream;
use crate::upstream;

/// A request that can not be repeated takes an idle connection only when it was used this short a time ago: servers close
/// idle ones after 5 s and more, and one that is closed under a POST costs the client a 502.
const FRESH_ENOUGH: Duration = Duration::from_secs(4);

/// How many interim responses a backend may send before its final one (security.md checklist 7).
const MOST_INTERIM: u32 = 10;

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
        Opened::Response(running, framing) => bodies(connection, desk, running, framing).await,
        Opened::Tunnel(running) => upgrade::tunnel(connection, running).await,
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

/// An attempt that has got its response.
pub(super) struct Running {
    pub upstream: Wire,
    pub lease: Lease,
    pub timeouts: Timeouts,
    sending: Pump,
    /// The client's connection may be used again when all goes well.
    keep_client: bool,
    /// A deadline for the bodies is set.
    waiting: bool,
}

/// Routes the request and brings it to where its response begins.
async fn open(view: Rc<View>, connection: &mut Connection, desk: &mut Desk, id: &mut RequestId) -> Opened {
    let plan = view.listener(connection.listener);
    let Some((plan, Protocol::Http(http))) = plan.map(|plan| (plan, &plan.protocol)) else {
        return Opened::Answer(Answer::plain(503).closing());
    };
    connection.timeouts = ClientTimeouts::of(&plan.timeouts);
    let peer = connection.peer.map(|peer| peer.ip());
    let trusted = peer.is_some_and(|peer| config::is_within(&http.trusted_proxies, peer));
    if let Some(given) = fields::given_request_id(&desk.request.fields, trusted).and_then(RequestId::given) {
        *id = given;
    }
    let target = &desk.request.target;
    let method = desk.request.method_text();
    let ask = RouteAsk { host: target.host(), path: target.path(), method, fields: &desk.request.fields };
    let Some(route) = http.routes.find(&ask) else { return Opened::Answer(Answer::plain(404)) };
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
            let taken = local.roll(|dice| self.view.take(self.pool, clock::now(), key, &mut tried, dice));
            let lease = match taken {
                Ok(taken) => taken.lease,
                Err(_) if !std::ptr::eq(self.view, &*local.view()) => return Opened::Outdated,
                Err(none) => {
                    tracing::debug!(pool = %pool.name, %none, "no backend");
                    return Opened::Answer(Answer::plain(failure.unwrap_or(503)));
                }
            };
            let failed = match self.attempt(connection, desk, lease).await {
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
    async fn attempt(&self, connection: &mut Connection, desk: &mut Desk, mut lease: Lease) -> Result<Opened, Failed> {
        let local = connection.session.local().clone();
        let timeouts = &self.view.pool(self.pool).timeouts;
        let backend = lease.state().id();
        let at_most = if repeatable(desk, true).idempotent { Duration::MAX } else { FRESH_ENOUGH };
        let mut idle = local.take_idle(backend, clock::now(), at_most);
        loop {
            let reused = idle.is_some();
            let failed = match self.reach(idle.take(), &lease, timeouts).await {
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

    async fn reach(&self, idle: Option<Stream>, lease: &Lease, timeouts: &Timeouts) -> Result<Stream, Outcome> {
        match idle {
            Some(stream) => Ok(stream),
            None => upstream::connect(lease.address(), timeouts.connect).await,
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
        let address = self.fallback_host(desk, lease);
        write::request(&mut upstream.outbound.pending, &desk.request, &self.forwarding(connection, &address));
        upstream.outbound.begin(desk.request.framing);
        let timeouts = &self.view.pool(self.pool).timeouts;
        if desk.request.framing != Framing::None {
            connection.deadline.set(clock::now() + connection.timeouts.body);
        }
        let mut talk = Talk {
            connection,
            upstream: &mut upstream,
            desk,
            lease,
            sending: Pump::default(),
            timeouts,
            reused,
            seen: 0,
            interim: 0,
            begun: false,
        };
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
        timeouts.tunnel_idle = timeouts.tunnel_idle.min(connection.timeouts.tunnel_idle);
        if response.status == 101 {
            self.write_head(connection, desk, Framing::None, Persistence::Upgrade);
            return Opened::Tunnel(Running { upstream, lease, timeouts, sending, keep_client: false, waiting: false });
        }
        let framing = write::reply_framing(response, desk.request.version);
        // An upgrade that was asked for and not given leaves doubt about what the bytes after it mean (security.md R2, R3).
        let keep_client = desk.request.keeps_alive()
            && !desk.request.connection.websocket
            && framing != Framing::ToClose
            && connection.wire.inbound.is_done()
            && connection.wire.inbound.may_go_on()
            && local.phase() == Phase::Serving;
        upstream.inbound.begin(response.framing);
        let persistence = if keep_client { Persistence::KeepAlive } else { Persistence::Close };
        self.write_head(connection, desk, framing, persistence);
        Opened::Response(Running { upstream, lease, timeouts, sending, keep_client, waiting: false }, framing)
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

    /// The `Host` for a request of HTTP/1.0 that names none: the backend's address, as HTTP/1.1 demands one.
    fn fallback_host(&self, desk: &Desk, lease: &Lease) -> String {
        let needed = desk.request.target.authority().is_empty();
        if needed { lease.address().to_string() } else { String::new() }
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

fn repeatable(desk: &Desk, untouched: bool) -> Repeatable {
    Repeatable { idempotent: desk.request.method.is_idempotent(), body_untouched: untouched }
}

/// Takes the memory of a backend's wire back.
fn put_away(local: &Local, desk: &mut Desk, upstream: &mut Wire) {
    upstream.inbound.release(&local.buffers);
    desk.to_backend = upstream.outbound.give_back();
}

/// The head's part of an attempt: the request goes up, interim responses come down, until the final head is there.
struct Talk<'a> {
    connection: &'a mut Connection,
    upstream: &'a mut Wire,
    desk: &'a mut Desk,
    lease: &'a mut Lease,
    sending: Pump,
    timeouts: &'a Timeouts,
    /// The connection was idle before.
    reused: bool,
    /// How much of the response's head was there when it was last looked at.
    seen: usize,
    interim: u32,
    /// Any byte of a response has come.
    begun: bool,
}

impl Talk<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Outcome>> {
        self.connection.session.watch(cx);
        self.poll_request(cx)?;
        if let Poll::Ready(got) = self.poll_response(cx) {
            return Poll::Ready(got);
        }
        if self.connection.session.local().phase() == Phase::Cut || self.lease.is_cut() {
            return Poll::Ready(Err(Outcome::Cut));
        }
        self.connection.deadline.poll(cx).map(|()| Err(self.late()))
    }

    /// Moves the request up; once it is sent, looks whether the client is still there.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Result<(), Outcome> {
        let local = self.connection.session.local().clone();
        let (mut from_client, mut to_client) = self.connection.wire.split(&local.buffers);
        if self.sending.is_running() {
            let (_, mut to_backend) = self.upstream.split(&local.buffers);
            match self.sending.poll(cx, &mut from_client, &mut to_backend) {
                Poll::Ready(Ok(())) => self.is_sent(),
                // It may have answered before it stopped listening: wait for that answer.
                Poll::Ready(Err(PumpFault::Sink)) => {
                    self.sending.abandon();
                    self.is_sent();
                }
                Poll::Ready(Err(PumpFault::Source(fault))) => return Err(client_fault(fault)),
                Poll::Pending => {
                    if self.sending.has_moved(&to_backend) {
                        let wait = match self.sending.waits {
                            Waits::ForSource => self.connection.timeouts.body,
                            Waits::ForSink => self.timeouts.response_body,
                        };
                        self.connection.deadline.set(clock::now() + wait);
                    }
                    return Ok(());
                }
            }
            let (mut from_client, _) = self.connection.wire.split(&local.buffers);
            return watch_client(&mut from_client, cx);
        }
        watch_client(&mut from_client, cx)?;
        match to_client.poll_flush(cx) {
            Poll::Ready(Err(_)) => Err(Outcome::ClientGone),
            _ => Ok(()),
        }
    }

    fn is_sent(&mut self) {
        let now = clock::now();
        self.lease.sent(now);
        self.connection.deadline.set(now + self.timeouts.response_header);
    }

    fn late(&self) -> Outcome {
        match (self.sending.is_running(), self.sending.waits) {
            (true, Waits::ForSource) => Outcome::ClientTimeout,
            (true, Waits::ForSink) => Outcome::BackendWriteTimeout,
            (false, _) => Outcome::ResponseHeaderTimeout,
        }
    }

    /// Reads heads until the final one; interim ones are passed on.
    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Outcome>> {
        let local = self.connection.session.local().clone();
        loop {
            let (mut from_backend, _) = self.upstream.split(&local.buffers);
            let limits = HeadLimits::default();
            let method = self.desk.request.method;
            match parse::response(from_backend.bytes(), self.seen, &limits, method, &mut self.desk.response) {
                Ok(Parsed::Complete(length)) => {
                    from_backend.begin(length, Framing::None);
                    self.seen = 0;
                    if !self.desk.response.is_interim() {
                        return Poll::Ready(self.accept());
                    }
                    self.pass_on_interim(cx)?;
                    continue;
                }
                Ok(Parsed::Partial) => self.seen = from_backend.bytes().len(),
                Err(refusal) => {
                    tracing::debug!(backend = %self.lease.backend().name, why = refusal.why(), "response refused");
                    return Poll::Ready(Err(Outcome::MalformedResponse));
                }
            }
            from_backend.make_room(2 * limits.head_bytes);
            match from_backend.poll_fill(cx) {
                Poll::Ready(Ok(true)) => self.begun = true,
                Poll::Ready(_) => return Poll::Ready(Err(self.closed())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// The backend closed before its head was complete.
    fn closed(&self) -> Outcome {
        if self.reused && !self.begun { Outcome::StaleIdle } else { Outcome::BackendClosed }
    }

    /// A switch of protocols is only for those who asked for it (security.md R2).
    fn accept(&self) -> Result<(), Outcome> {
        let switched = self.desk.response.status == 101;
        let asked = self.desk.request.connection.websocket && self.desk.response.connection.websocket;
        if switched && !asked { Err(Outcome::MalformedResponse) } else { Ok(()) }
    }

    fn pass_on_interim(&mut self, cx: &mut Context<'_>) -> Result<(), Outcome> {
        self.interim += 1;
        if self.interim > MOST_INTERIM {
            return Err(Outcome::MalformedResponse);
        }
        if self.desk.request.version == Version::Http11 {
            let local = self.connection.session.local();
            let (_, mut to_client) = self.connection.wire.split(&local.buffers);
            write::interim(&mut to_client.outbound().pending, &self.desk.response);
            if let Poll::Ready(Err(_)) = to_client.poll_flush(cx) {
                return Err(Outcome::ClientGone);
            }
        }
        Ok(())
    }
}

/// Reads ahead on the client's side: what comes is the next request, an orderly end is fine, a reset ends the exchange.
fn watch_client(from_client: &mut WireSource<'_>, cx: &mut Context<'_>) -> Result<(), Outcome> {
    from_client.poll_ahead(cx).map_err(|_| Outcome::ClientGone)
}

fn client_fault(fault: SourceFault) -> Outcome {
    match fault {
        SourceFault::Cut => Outcome::ClientGone,
        SourceFault::Malformed => Outcome::MalformedRequest,
    }
}

/// The bodies' part: moves the response down, and what is left of the request up, and puts everything away.
async fn bodies(connection: &mut Connection, desk: &mut Desk, mut running: Running, framing: Framing) -> After {
    let local = connection.session.local().clone();
    let mut answering = Pump::default();
    let outcome = poll_fn(|cx| running.poll_bodies(cx, connection, &mut answering)).await;
    let status = desk.response.status;
    let outcome = outcome.map_or_else(|fault| fault, |()| Outcome::Completed { status });
    let now = clock::now();
    local.ended(running.lease.state().id(), outcome);
    tracing::debug!(backend = %running.lease.backend().name, status, cause = outcome.code(), "request ended");
    let complete = matches!(outcome, Outcome::Completed { .. });
    let reusable = complete && running.sending.is_done() && running.leaves_connection(desk);
    put_away(&local, desk, &mut running.upstream);
    let Running { upstream, lease, timeouts, sending, keep_client, .. } = running;
    if reusable {
        local.put_idle(lease.state().id(), upstream.stream, now, timeouts.upstream_idle);
    }
    lease.finish(now, outcome);
    match outcome {
        Outcome::Completed { .. } if keep_client && connection.wire.inbound.may_go_on() => After::KeepAlive,
        Outcome::Completed { .. } if sending.is_done() && connection.wire.inbound.buffer.is_none() => After::Close,
        Outcome::Completed { .. } => After::Linger,
        _ if framing == Framing::ToClose => After::Reset,
        // The length or the missing last chunk tells; what was received before the cut arrives.
        Outcome::BackendCut | Outcome::MalformedResponse | Outcome::ResponseBodyTimeout => {
            if connection.flush().await {
                After::Close
            } else {
                After::Reset
            }
        }
        _ => After::Reset,
    }
}

impl Running {
    fn poll_bodies(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
        answering: &mut Pump,
    ) -> Poll<Result<(), Outcome>> {
        connection.session.watch(cx);
        let local = connection.session.local();
        let (mut from_client, mut to_client) = connection.wire.split(&local.buffers);
        let (mut from_backend, mut to_backend) = self.upstream.split(&local.buffers);
        if self.sending.is_running() {
            // A request that goes wrong now no longer matters to the response that is under way.
            if let Poll::Ready(Err(_)) = self.sending.poll(cx, &mut from_client, &mut to_backend) {
                self.sending.abandon();
            }
        }
        match answering.poll(cx, &mut from_backend, &mut to_client) {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(PumpFault::Source(SourceFault::Cut))) => return Poll::Ready(Err(Outcome::BackendCut)),
            Poll::Ready(Err(PumpFault::Source(SourceFault::Malformed))) => {
                return Poll::Ready(Err(Outcome::MalformedResponse));
            }
            Poll::Ready(Err(PumpFault::Sink)) => return Poll::Ready(Err(Outcome::ClientGone)),
            Poll::Pending => {}
        }
        if !self.sending.is_running() {
            watch_client(&mut from_client, cx)?;
        }
        if local.phase() == Phase::Cut || self.lease.is_cut() {
            return Poll::Ready(Err(Outcome::Cut));
        }
        let (wait, late) = match answering.waits {
            Waits::ForSource => (self.timeouts.response_body, Outcome::ResponseBodyTimeout),
            Waits::ForSink => (connection.timeouts.body, Outcome::ClientWriteTimeout),
        };
        let moved = answering.has_moved(&to_client) | self.sending.has_moved(&to_backend);
        if moved || !self.waiting {
            self.waiting = true;
            connection.deadline.set(clock::now() + wait);
        }
        connection.deadline.poll(cx).map(|()| Err(late))
    }

    /// Whether the backend's connection is where the next exchange can begin: there will be one, the backend said nothing
    /// against it, its body's end was told by its framing, and nothing came after it.
    fn leaves_connection(&self, desk: &Desk) -> bool {
        desk.response.keeps_alive()
            && !self.lease.state().is_draining()
            && !desk.request.connection.websocket
            && desk.response.framing != Framing::ToClose
            && self.upstream.is_clean()
            && !self.upstream.inbound.ended
    }
}
