//! One request's way through us: route → attempts → response → record.
//!
//! An exchange is one task that owns both sides: it moves the request's body up while it waits for the response's head,
//! passes interim responses on, and moves the response's body down, in both directions at once where the client and the
//! backend want that. It names the protocol of neither side's bytes beyond what [`Wire`] offers.
//!
//! What it promises: a request is counted in flight exactly as long as it is; a response that the backend did not finish
//! never looks finished; a connection is used again only when both sides know where the next message begins.

use std::borrow::Cow;
use std::net::IpAddr;

use super::bodies::{self, Running};
use super::client::{After, Client, Front};
use super::grpc::{Call, Whole, status_at_head};
use super::replies::{self, Answer};
use super::request_id::RequestId;
use super::upgrade;
use crate::clock::{self, Instant};
use crate::config::{self, Address, Repeats};
use crate::http::Framing;
use crate::http::fields::{self, Forwarding, Scheme};
use crate::http::forward::{self, Connection as Persistence, Reply};
use crate::l4::wait::Waiting;
use crate::local::{Desk, Local};
use crate::outcome::Verdict;
use crate::state::{Action, HttpPlan, Lease, PoolId, Protocol, Route, RouteAsk, View};

/// How often a request is routed anew because the configuration changed under it.
const LOOKS: u32 = 3;

/// Sends the request on the desk to a backend, or answers it ourselves.
pub(super) async fn run(client: &mut Client<impl Front>, desk: &mut Desk) -> After {
    let local = client.session.local().clone();
    let mut id = local.roll(RequestId::roll);
    let mut looks = LOOKS;
    let mut course = Course::default();
    desk.kept.begin();
    // The view lives for the head's part of the exchange only; a long body keeps its lease and no more.
    let opened = loop {
        match open(&local, client, desk, &mut id, &mut course).await {
            // Who waits in a queue follows every reload until its time is over.
            Opened::Outdated if course.waiting.has_place() => {}
            Opened::Outdated if looks > 1 => looks -= 1,
            opened => break opened,
        }
    };
    if !matches!(opened, Opened::Response(_)) {
        // What we answer has its own time, and a tunnel as long as it likes.
        client.deadline.limit(None);
    }
    match opened {
        Opened::Response(framing) => bodies::run(client, desk, &mut course.running, framing).await,
        Opened::Tunnel => upgrade::tunnel(client, desk, &mut course.running).await,
        Opened::Outdated => Answer::plain(503).send(client, desk, id.as_str()).await,
        Opened::Answer(answer) => answer.send(client, desk, id.as_str()).await,
        Opened::ClientGone => After::Close,
    }
}

/// How far an exchange has come, which stays when it is routed anew.
#[derive(Default)]
pub(super) struct Course {
    /// When the first attempt began.
    pub begun: Option<Instant>,
    /// Attempts that were made.
    pub made: usize,
    /// The attempt under way.
    pub running: Option<Running>,
    /// The wait for a backend.
    pub waiting: Waiting,
}

/// What the head's part of an exchange comes to.
pub(super) enum Opened {
    /// We answer.
    Answer(Answer),
    /// The backend of the running attempt answers: the head is pending to the client, a body with this framing follows.
    Response(Framing),
    /// That backend has switched protocols.
    Tunnel,
    /// There is no backend by this view, but there is a newer one.
    Outdated,
    /// Nobody is left to be answered.
    ClientGone,
}

/// Routes the request and brings it to where its response begins.
async fn open(
    local: &Local,
    client: &mut Client<impl Front>,
    desk: &mut Desk,
    id: &mut RequestId,
    course: &mut Course,
) -> Opened {
    let view = local.view();
    let plan = view.listener(client.listener);
    let Some((plan, Protocol::Http(http))) = plan.map(|plan| (plan, &plan.protocol)) else {
        return Opened::Answer(Answer::plain(503).closing());
    };
    let peer = client.peer.map(|peer| peer.ip());
    let trusted = peer.is_some_and(|peer| config::is_within(&http.trusted_proxies, peer));
    if let Some(given) = fields::given_request_id(&desk.request.fields, trusted).and_then(RequestId::given) {
        *id = given;
    }
    let target = &desk.request.target;
    if let Some(answer) = replies::misdirected(plan, client.identity.as_deref(), target.host()) {
        return Opened::Answer(answer);
    }
    let method = desk.request.method_text();
    let ask = RouteAsk { host: target.host(), path: target.path(), method, fields: &desk.request.fields };
    let Some(route) = http.routes.find(&ask) else {
        tracing::debug!(listener = %plan.name, id = id.as_str(), "no route");
        return Opened::Answer(Answer::plain(404));
    };
    tracing::debug!(listener = %plan.name, route = %route.name, id = id.as_str(), "routed");
    match &route.action {
        Action::Forward(split) => {
            let pool = split.choose(local.roll(|dice| dice.next()));
            let whole = Whole::of(route.request_timeout, &desk.request);
            let way = Way { local, view: &view, http, route, pool, whole, peer, trusted, id: id.as_str() };
            way.attempts(client, desk, course).await
        }
        own => Opened::Answer(replies::of_route(own, target).edited(&route.response_edits)),
    }
}

/// Where one request goes and with what: borrowed from the view while its head is under way.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    pub local: &'a Local,
    pub view: &'a View,
    http: &'a HttpPlan,
    pub route: &'a Route,
    pub pool: PoolId,
    /// How long all of it may take.
    pub whole: Option<Whole>,
    peer: Option<IpAddr>,
    trusted: bool,
    pub id: &'a str,
}

impl Way<'_> {
    /// The final head has come: judges the backend by it, where that can be, and makes the head for the client ready.
    pub(super) fn begin_response(
        &self,
        client: &mut Client<impl Front>,
        desk: &mut Desk,
        running: &mut Running,
    ) -> Opened {
        let response = &desk.response;
        let now = clock::now();
        let Running { upstream, lease, .. } = running;
        match status_at_head(&desk.request, response) {
            Some(status) => {
                lease.responded(now, Verdict::of_status(status));
                self.local.responded(lease.state().id(), now.since(lease.sent_at()));
            }
            None => running.call = Some(Call::begin(&desk.request, now)),
        }
        if response.status == 101 {
            self.write_head(client, desk, Framing::None, Persistence::Upgrade);
            return Opened::Tunnel;
        }
        let framing = forward::reply_framing(response, desk.request.version);
        let keep_client =
            client.may_go_on(desk) && framing != Framing::ToClose && client.wire.is_read() && !client.is_over();
        upstream.begin(response.framing);
        running.keep_client = keep_client;
        let persistence = if keep_client { Persistence::KeepAlive } else { Persistence::Close };
        self.write_head(client, desk, framing, persistence);
        Opened::Response(framing)
    }

    fn write_head(&self, client: &mut Client<impl Front>, desk: &Desk, framing: Framing, persistence: Persistence) {
        let reply = Reply {
            client: desk.request.version,
            framing,
            connection: persistence,
            edits: &self.route.response_edits,
            via: self.http.via,
        };
        client.wire.respond(&desk.response, &reply);
    }

    /// The `Host` for a request of HTTP/1.0 that names none, as HTTP/1.1 demands one: the backend's address, where that can
    /// be a host.
    pub(super) fn fallback_host(desk: &Desk, lease: &Lease) -> Cow<'static, str> {
        match lease.address() {
            _ if !desk.request.target.authority().is_empty() => "".into(),
            Address::Ip(address) => address.to_string().into(),
            Address::Unix(_) => "localhost".into(),
        }
    }

    pub(super) fn forwarding<'b>(&'b self, client: &'b Client<impl Front>, fallback_host: &'b str) -> Forwarding<'b> {
        Forwarding {
            peer: self.peer,
            trusted: self.trusted,
            scheme: if client.wire.is_secure() { Scheme::Https } else { Scheme::Http },
            port: client.local.map(|local| local.port()),
            request_id: self.id,
            fallback_host,
            websocket_key: None,
            client_cert: client.identity.as_ref().and_then(|identity| identity.fields()),
            forwarded: self.http.forwarded,
            via: self.http.via,
            edits: &self.route.request_edits,
        }
    }

    /// Whether the request may be sent a second time, so that its body is worth keeping.
    pub(super) fn idempotent(&self, desk: &Desk) -> bool {
        self.route.retry.repeats == Repeats::All || desk.request.method.is_idempotent()
    }

    /// The number that hashing policies go by.
    pub(super) fn key(&self, desk: &Desk) -> u64 {
        let client = || {
            let trusted = |address| config::is_within(&self.http.trusted_proxies, address);
            self.peer.map(|peer| fields::client_address(&desk.request.fields, peer, trusted))
        };
        self.view.pool(self.pool).key_of_request(&desk.request, client)
    }
}
