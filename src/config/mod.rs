//! The configuration as Evenkeel means it: checked, typed and complete.
//!
//! A [`Config`] can only come out of [`check`](check::check), so no invalid value exists behind it: every pool a route names is there,
//! every pattern compiles, every duration is in its range. It holds what was meant, not what was written.

pub mod check;
pub mod conform;
pub mod diagnostic;
mod health;
pub mod keys;
pub mod load;
pub mod read;
pub mod reference;
pub mod schema;
mod shape;
mod tls;
pub mod watch;
mod words;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::breaker;
pub use crate::http::fields::HeaderEdits;
pub use crate::http::h1::parse::{HeadLimits, UnderscoreNames};
use crate::proxy_protocol;
pub use diagnostic::{Colour, Diagnostic, Report, Severity};
pub use health::{Aim, Expect, HealthCheck, HttpProbe, Initial, OnDown, Pattern, Probe};
pub use load::{Loaded, from_text, load};
pub use shape::Bytes;
pub use tls::{
    Certificate, ClientAuth, ClientFact, ListenerTls, Material, Offered, PoolTls, TlsVersion, Trust, Whence,
};
pub use words::counted;

/// A name given in the file to a listener, pool, route or backend.
pub type Name = Arc<str>;

/// A whole checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The process.
    pub runtime: Runtime,
    /// How the file is followed.
    pub reload: Reload,
    /// In order of their names; at least one.
    pub listeners: Vec<Listener>,
    /// In order of their names.
    pub pools: Vec<Pool>,
}

impl Config {
    /// The pool of this name.
    #[must_use]
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| &*pool.name == name)
    }
}

/// `[runtime]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// Worker threads; `None` is one per usable CPU.
    pub workers: Option<NonZeroU32>,
    /// How long a stop waits for what is under way. Default 30 s.
    pub shutdown_grace: Duration,
    /// Client connections of all listeners at once; `None`: half as many as files may be open.
    pub connections: Option<NonZeroU32>,
}

/// `[reload]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    /// Whether a change of the files is followed. Default true; SIGHUP works either way.
    pub watch: bool,
    /// How long a removed backend may finish what it has. Default 30 s.
    pub drain_timeout: Duration,
}

/// A place to listen on or to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// An IP address and port.
    Ip(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Ip(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The deadlines of one listener or pool; each falls back to `[defaults.timeouts]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the whole request head, from its first byte. Default 10 s.
    pub client_header: Duration,
    /// Between two reads of a request body, and two writes to a client. Default 30 s.
    pub client_body: Duration,
    /// `client_write`
    pub client_write: Duration,
    /// How much of a body a client has to send or take in each second in which it is waited for; 0: no matter how much.
    /// Default 240 bytes.
    pub client_min_rate: Bytes,
    /// For the next request on a keep-alive connection. Default 60 s.
    pub client_idle: Duration,
    /// For a TLS handshake with a client. Default 10 s.
    pub tls_handshake: Duration,
    /// For making a connection to a backend. Default 2 s.
    pub connect: Duration,
    /// From the last request byte to the response head. Default 30 s.
    pub response_header: Duration,
    /// Between two reads of a response body. Default 30 s.
    pub response_body: Duration,
    /// How long an unused connection to a backend is kept. Default 60 s.
    pub upstream_idle: Duration,
    /// For a TCP session or an upgraded connection in which no byte moves. Default 1 h.
    pub tunnel_idle: Duration,
    /// For a place at a backend, where all are at their limits. Default 2 s.
    pub queue: Duration,
    /// For a whole request; `None`, the default: no limit. Routes have resolved theirs.
    pub request: Option<Duration>,
}

/// `[listeners.NAME]`
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its name.
    pub name: Name,
    /// At least one address, none of them twice in the whole configuration (port 0 apart).
    pub bind: Vec<Address>,
    /// Each connection has to begin with a PROXY header, and come from one of these networks or over a Unix socket; `None`:
    /// no such header is expected.
    pub proxy_protocol: Option<Vec<IpNet>>,
    /// TLS towards clients; `None`: they speak in the clear.
    pub tls: Option<ListenerTls>,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Its client-side deadlines.
    pub timeouts: Timeouts,
    /// How much a client may ask for.
    pub limits: Limits,
}

/// `[listeners.NAME.limits]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What a request's head may be, and its trailer fields. Only for http.
    pub head: HeadLimits,
    /// Connections at once; `None`: only what `runtime.connections` allows.
    pub connections: Option<NonZeroU32>,
    /// Connections at once of one client; `None`: no limit.
    pub connections_per_ip: Option<NonZeroU32>,
    /// Requests on one connection, at least one. Default 10,000. Only for http.
    pub requests_per_connection: u32,
    /// Requests at once on one connection of HTTP/2, at least one. Default 100. Only for http.
    pub streams: u32,
    /// TLS handshakes that one worker has under way at once, at least one. Default 1000.
    pub handshakes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head: HeadLimits::default(),
            requests_per_connection: 10_000,
            streams: 100,
            handshakes: 1000,
            connections: None,
            connections_per_ip: None,
        }
    }
}

/// What a listener speaks.
#[derive(Clone, Debug)]
pub enum Protocol {
    /// HTTP, by routes.
    Http(Http),
    /// Raw bytes, to one pool.
    Tcp {
        /// The pool's name, which exists.
        pool: Name,
    },
    /// TLS that does not end here, to pools by what it asks for; at least one route asks for something.
    Passthrough(Vec<PassthroughRoute>),
}

/// TLS connections that go through to one pool: one of a tcp listener's `routes`, or of `tls.passthrough`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassthroughRoute {
    /// Its name; `route-N` or `passthrough-N` (counted from 1) when none is given.
    pub name: Name,
    /// What the client asks for; empty: anything, or nothing. A wildcard is one label here.
    pub sni: Vec<HostPattern>,
    /// Of which the client offers one; empty: any, or none.
    pub alpn: Vec<Name>,
    /// The pool's name, which exists.
    pub pool: Name,
}

/// Which protocols of HTTP clients may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersions {
    /// HTTP/1.0 and HTTP/1.1.
    H1,
    /// HTTP/2.
    H2,
    /// Whichever they choose.
    Both,
}

/// Which protocol of HTTP is spoken with backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1.
    #[default]
    H1,
    /// HTTP/2: over TLS by ALPN, else from the first byte (prior knowledge).
    H2,
}

/// The HTTP side of a listener.
#[derive(Clone, Debug)]
pub struct Http {
    /// What clients may speak.
    pub versions: HttpVersions,
    /// Networks whose X-Forwarded-For and X-Request-Id are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether `Forwarded` (RFC 7239) is sent to backends too. Default false.
    pub forwarded: bool,
    /// Whether `Via` is added both ways. Default false.
    pub via: bool,
    /// In file order; a listener's own `pool` (or `redirect_to_https`) is a last route that matches everything, named
    /// `default`.
    pub routes: Vec<Route>,
    /// Header rules for all of the listener's routes, applied before a route's own.
    pub headers: HeaderRules,
}

/// One `[[listeners.NAME.routes]]`
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name; `route-N` (counted from 1) when none is given.
    pub name: Name,
    /// Empty: any host.
    pub hosts: Vec<HostPattern>,
    /// What of the path must match.
    pub path: PathPattern,
    /// Upper-case tokens; empty: any.
    pub methods: Vec<Arc<str>>,
    /// All must match.
    pub match_headers: Vec<HeaderMatch>,
    /// What happens then.
    pub action: Action,
    /// What is changed in requests and responses.
    pub headers: HeaderRules,
    /// When a request is tried again.
    pub retry: Retry,
    /// For a whole request: its own, or its listener's; `None`: no limit.
    pub request_timeout: Option<Duration>,
}

/// `retry = { … }` of a route
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in all, the first included; at least 1. Default 2.
    pub attempts: usize,
    /// What a request is tried again for. Default a failed connect and a reset.
    pub on: Vec<RetryOn>,
    /// Which requests may be repeated when something was sent.
    pub repeats: Repeats,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { attempts: 2, on: vec![RetryOn::Connect, RetryOn::Reset], repeats: Repeats::Idempotent }
    }
}

/// What a request may be tried again for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RetryOn {
    /// No connection was made.
    Connect,
    /// The connection ended before an answer began.
    Reset,
    /// No answer came in time, or the request was not taken in time.
    Timeout,
    /// The backend answered with this status.
    Status(u16),
}

/// Which requests may be sent a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeats {
    /// Those whose method is idempotent.
    Idempotent,
    /// All: the writer of the file knows that it does no harm.
    All,
}

/// A host a route is for; lower case, without port and trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// This host.
    Exact(String),
    /// `*.example.com`, kept as `.example.com`: any host that ends so, with at least one label before it.
    Wildcard(String),
}

/// What of the canonical path must match.
#[derive(Clone, Debug)]
pub enum PathPattern {
    /// Any path.
    Any,
    /// This path.
    Exact(String),
    /// Paths that begin so; whole segments only (`/v1` matches `/v1` and `/v1/x`, not `/v10`; `/v1/` matches what begins so).
    Prefix(String),
    /// Paths in which this expression is found (anchors are the writer's).
    Regex(regex::Regex),
}

/// One header that must be there.
#[derive(Clone, Debug)]
pub struct HeaderMatch {
    /// Lower-case name.
    pub name: String,
    /// What its value must be.
    pub value: HeaderValueMatch,
}

impl PartialEq for HeaderMatch {
    /// Expressions are the same when they are written alike.
    fn eq(&self, other: &HeaderMatch) -> bool {
        use HeaderValueMatch::{Exact, Present, Regex};
        let alike = match (&self.value, &other.value) {
            (Present, Present) => true,
            (Exact(a), Exact(b)) => a == b,
            (Regex(a), Regex(b)) => a.as_str() == b.as_str(),
            (Present | Exact(_) | Regex(_), _) => false,
        };
        alike && self.name == other.name
    }
}

/// What a header's value must be.
#[derive(Clone, Debug)]
pub enum HeaderValueMatch {
    /// Anything.
    Present,
    /// Exactly this.
    Exact(String),
    /// The expression is found in it.
    Regex(regex::Regex),
}

/// What a route does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Forward to one of these pools by weight; one pool is a list of one. Names exist, weights sum to more than 0.
    Forward(Vec<WeightedPool>),
    /// Answer with a redirection.
    Redirect {
        /// 301, 302, 303, 307 or 308 (default).
        status: u16,
        /// A URI; `{host}`, `{path}` and `{query}` (with its `?`) stand for the request's.
        to: String,
    },
    /// Answer 308 to the same place on `https://` (port 443).
    RedirectToHttps,
    /// Answer this.
    Respond {
        /// 200–599.
        status: u16,
        /// The body, may be empty.
        body: Arc<str>,
        /// Default `text/plain; charset=utf-8`.
        content_type: Arc<str>,
    },
}

/// One pool of a `split`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedPool {
    /// The pool's name.
    pub pool: Name,
    /// Its share of the sum of weights.
    pub weight: u32,
}

/// `headers = { request = { set, add, remove }, response = { … } }`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderRules {
    /// Applied to what is forwarded to the backend.
    pub request: HeaderEdits,
    /// Applied to what is answered to the client.
    pub response: HeaderEdits,
}

/// `[pools.NAME]`
#[derive(Clone, Debug)]
pub struct Pool {
    /// Its name.
    pub name: Name,
    /// Who gets the next request.
    pub policy: Policy,
    /// In file order, no address twice; may be empty (every request is then answered 503, with a lint).
    pub backends: Vec<Backend>,
    /// How long a backend that comes back takes to have all of its weight; `None`: it has it at once. Only with policies that
    /// go by weights at each pick.
    pub slow_start: Option<Duration>,
    /// Its backend-side deadlines.
    pub timeouts: Timeouts,
    /// When a failing backend is left alone for a while; `None`: never.
    pub breaker: Option<breaker::Settings>,
    /// How many may wait for a place at a backend; 0: nobody.
    pub queue: usize,
    /// The share of its requests that may be tried again, above 0 and up to 1.
    pub retry_budget: f64,
    /// How it is found out whether its backends are well; `None`: they count as up.
    pub health_check: Option<Arc<HealthCheck>>,
    /// Whether backends that are down are tried when nothing else is left. Default true.
    pub fail_open: bool,
    /// With less than this share of the primaries well, and no backup either, all primaries are tried alike; 0 (default):
    /// never. Above 0 only with `fail_open`.
    pub panic_threshold: f64,
    /// What is spoken with its backends, where its clients speak HTTP.
    pub http_version: HttpVersion,
    /// Which PROXY header each connection to its backends begins with; `None`: none.
    pub send_proxy_protocol: Option<proxy_protocol::Version>,
    /// TLS towards its backends; `None`: they are spoken to in the clear.
    pub tls: Option<PoolTls>,
}

/// `balance = …`, with what belongs to the algorithm.
#[derive(Clone, Debug, PartialEq)]
pub enum Policy {
    /// `round_robin` (default)
    RoundRobin,
    /// `weighted_round_robin`
    WeightedRoundRobin,
    /// `least_connections`
    LeastConnections,
    /// `ip_hash`
    IpHash {
        /// How many leading bits of an IPv4 address count. Default 32.
        ipv4_prefix: u8,
        /// How many leading bits of an IPv6 address count. Default 64.
        ipv6_prefix: u8,
        /// No backend takes more than this multiple of the mean load; more than 1. `None`: unbounded (default).
        bounded_load: Option<f64>,
    },
    /// `least_response_time`
    LeastResponseTime,
    /// `random_two_choices`
    RandomTwoChoices,
    /// `consistent_hash`
    ConsistentHash {
        /// What is hashed. Default the client's address.
        on: HashOn,
    },
}

/// `hash_on = …` of a pool with `consistent_hash`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// `"client_address"`: as `ip_hash` with its defaults.
    ClientAddress,
    /// `"uri"`: path and query.
    Uri,
    /// `{ header = "X-User" }`, lower case here.
    Header(String),
    /// `{ cookie = "sid" }`
    Cookie(String),
    /// `{ query = "id" }`
    Query(String),
}

/// One server of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its name; the address as written when none is given.
    pub name: Name,
    /// Where it is.
    pub address: Address,
    /// 1–1000, default 1.
    pub weight: u32,
    /// Concurrent requests (L7) or connections (L4) over all workers; `None`: unlimited.
    pub max_connections: Option<NonZeroU32>,
    /// Used only when no primary is usable.
    pub backup: bool,
    /// Whether an administrator holds it back.
    pub service: Service,
}

/// Whether an administrator holds a backend back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// No.
    Active,
    /// `drain = true`: finishes what it has, takes nothing new.
    Drain,
    /// `maintenance = true`: takes nothing; what it has is cut after `reload.drain_timeout`.
    Maintenance,
}

/// Whether `address` lies in one of `networks`; an IPv4 address in IPv6 clothes counts as IPv4.
#[must_use]
pub fn is_within(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}
