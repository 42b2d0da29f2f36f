//! The table of every key: where it stands, what it may be, what it is when absent, and what it means.
//!
//! The reader ([`conform`](super::conform)), the reference ([`reference`](super::reference)) and the JSON Schema
//! ([`schema`](super::schema)) are made from it. A key that is not here does not exist.

mod health;
mod tls;

use std::time::Duration;

pub use health::{CHECK_INTERVAL, CHECK_JITTER, CHECK_TIMEOUT, EXPECT, FALL, HEALTH_CHECK, PROBE_METHODS, RISE};
use health::{FAIL_OPEN, HEALTH_CHECK_KEY, PANIC_THRESHOLD};
use tls::{ALPN, LISTENER_TLS_KEY, POOL_TLS_KEY, SNI};
pub use tls::{CERTIFICATE, CLIENT_AUTH, LISTENER_TLS, PASSTHROUGH, POOL_TLS};

use crate::breaker::LONGEST_WINDOW;

pub use super::shape::{Absent, Bytes, Form, Key, Shape, parse_bytes, parse_duration};
use Absent::{Default, Means, Required};

const HOUR: u64 = 3600;
const DAY: Form = Form::Duration(Duration::from_secs(24 * HOUR));
const WEEK: Form = Form::Duration(Duration::from_secs(7 * 24 * HOUR));

const POOL_NAME: Form = Form::Text("pool name");
const REGEX: Form = Form::Text("regular expression");
const HEADER_NAME: Form = Form::Text("header name");
const HEADER_VALUE: Form = Form::Text("header value");

/// The whole file.
pub static FILE: Shape = Shape {
    what: "the file",
    heading: Some("The file"),
    doc: "The top level. At least one listener has to be there.",
    keys: &[
        Key {
            name: "include",
            forms: &[Form::List(&[Form::Text("path")])],
            absent: Means("nothing is included"),
            doc: "More files, read as if they stood in this one. Paths are relative to this file; `*` in the last part \
                  stands for any characters, and a pattern that matches nothing is fine. A name that is defined in two \
                  files is a fault. Included files can not include others.",
        },
        Key { name: "runtime", forms: &[Form::Table(&RUNTIME)], absent: Means("all defaults"), doc: "The process." },
        Key {
            name: "reload",
            forms: &[Form::Table(&RELOAD)],
            absent: Means("all defaults"),
            doc: "How changes of the file are followed.",
        },
        Key {
            name: "defaults",
            forms: &[Form::Table(&DEFAULTS)],
            absent: Means("all defaults"),
            doc: "What listeners and pools fall back to.",
        },
        Key {
            name: "listeners",
            forms: &[Form::Map("listener", &[Form::Table(&LISTENER)])],
            absent: Required,
            doc: "Where connections are accepted, by name.",
        },
        Key {
            name: "pools",
            forms: &[Form::Map("pool", &[Form::Table(&POOL)])],
            absent: Means("no pool"),
            doc: "Groups of backends, by name.",
        },
    ],
};

static RUNTIME: Shape = Shape {
    what: "[runtime]",
    heading: Some("[runtime]"),
    doc: "The process. A change of `workers` needs a restart.",
    keys: &[WORKERS, SHUTDOWN_GRACE, CONNECTIONS],
};

const WORKERS: Key = Key {
    name: "workers",
    forms: &[Form::Choice(&["auto"]), Form::Integer(1, 256)],
    absent: Default("\"auto\""),
    doc: "How many threads serve. `\"auto\"` is one for each CPU the process may use.",
};
/// `runtime.shutdown_grace`
pub const SHUTDOWN_GRACE: Key = Key {
    name: "shutdown_grace",
    forms: &[DAY],
    absent: Default("\"30s\""),
    doc: "How long a stop waits for requests and sessions under way before it cuts them.",
};

const CONNECTIONS: Key = Key {
    name: "connections",
    forms: &[Form::Integer(1, u32::MAX as i64)],
    absent: Means("half as many as files may be open (`LimitNOFILE=`)"),
    doc: "How many client connections may be open at once, over all listeners. More are not accepted until some end: they \
          wait in the kernel's queue.",
};

static RELOAD: Shape = Shape {
    what: "[reload]",
    heading: Some("[reload]"),
    doc: "How a change of the file, or of an included one, is followed.",
    keys: &[
        Key {
            name: "watch",
            forms: &[Form::Bool],
            absent: Default("true"),
            doc: "Whether the files are watched and followed by themselves. SIGHUP makes them be read again either way.",
        },
        DRAIN_TIMEOUT,
    ],
};

/// `reload.drain_timeout`
pub const DRAIN_TIMEOUT: Key = Key {
    name: "drain_timeout",
    forms: &[DAY],
    absent: Default("\"30s\""),
    doc: "How long a backend that was removed, or put into maintenance, may finish what it has before it is cut.",
};

static DEFAULTS: Shape = Shape {
    what: "[defaults]",
    heading: None,
    doc: "",
    keys: &[
        Key {
            name: "timeouts",
            forms: &[Form::Table(&DEFAULT_TIMEOUTS)],
            absent: Means("the defaults below"),
            doc: "The deadlines of every listener and pool that does not set its own.",
        },
        Key {
            name: "breaker",
            forms: &[Form::Table(&DEFAULT_BREAKER)],
            absent: Means("the defaults below"),
            doc: "The breakers of every pool that does not set its own.",
        },
    ],
};

/// Declares one deadline as a key with its default, and as the same key of a listener or pool, which falls back to it.
macro_rules! deadline {
    ($key:ident, $fallback:ident, $name:literal, $most:expr, $default:literal, $doc:literal) => {
        const $key: Key = Key { name: $name, forms: &[$most], absent: Default($default), doc: $doc };
        const $fallback: Key =
            Key { name: $name, forms: &[$most], absent: Means(concat!("`defaults.timeouts.", $name, "`")), doc: $doc };
    };
}

deadline!(
    CLIENT_HEADER,
    OWN_CLIENT_HEADER,
    "client_header",
    DAY,
    "\"10s\"",
    "For a whole request head, from its first byte; and for that first byte on a new connection."
);
deadline!(CLIENT_BODY, OWN_CLIENT_BODY, "client_body", DAY, "\"30s\"", "Between two reads of a request's body.");
deadline!(
    CLIENT_WRITE,
    OWN_CLIENT_WRITE,
    "client_write",
    DAY,
    "\"30s\"",
    "Between two writes of a response, for a client that takes nothing of it. The response is then cut by a reset."
);
deadline!(
    CLIENT_IDLE,
    OWN_CLIENT_IDLE,
    "client_idle",
    DAY,
    "\"60s\"",
    "For the next request on a connection kept alive."
);
deadline!(
    TLS_HANDSHAKE,
    OWN_TLS_HANDSHAKE,
    "tls_handshake",
    DAY,
    "\"10s\"",
    "For a TLS handshake with a client, from the moment it is connected; where TLS passes through, for its first message."
);
deadline!(
    CONNECT,
    OWN_CONNECT,
    "connect",
    DAY,
    "\"2s\"",
    "For making a connection to a backend, its TLS handshake included."
);
deadline!(
    RESPONSE_HEADER,
    OWN_RESPONSE_HEADER,
    "response_header",
    DAY,
    "\"30s\"",
    "From the last byte of the request to the head of the response."
);
deadline!(
    RESPONSE_BODY,
    OWN_RESPONSE_BODY,
    "response_body",
    DAY,
    "\"30s\"",
    "Between two reads of a response's body, and between two writes of a request to a backend that takes nothing. In an answer \
     to a call of gRPC, which may be quiet between its messages, `tunnel_idle` counts instead."
);
deadline!(
    UPSTREAM_IDLE,
    OWN_UPSTREAM_IDLE,
    "upstream_idle",
    DAY,
    "\"60s\"",
    "How long an unused connection to a backend is kept for the next request."
);
deadline!(
    TUNNEL_IDLE,
    OWN_TUNNEL_IDLE,
    "tunnel_idle",
    WEEK,
    "\"1h\"",
    "For a TCP session, an upgraded connection (WebSocket) or an answer to a call of gRPC in which no byte moves."
);

const QUEUE: Key = Key {
    name: "queue",
    forms: &[DAY],
    absent: Default("\"2s\""),
    doc: "For a place at a backend, where all that could serve are at their `max_connections`. A pool sets its own in \
          `queue.timeout`.",
};

/// A deadline that there need not be.
const DAY_OR_OFF: &[Form] = &[Form::Choice(&["off"]), DAY];
const REQUEST_DOC: &str = "For a request as a whole: from the end of its head to the last byte of the answer, with all waiting, \
                           all attempts and both bodies. When it is over before the answer has begun, the client gets 504, or \
                           408 where it still owes its body; later the answer is cut off, so that it does not look whole. It \
                           counts as the backend's failure only where that one had us wait for at least half of the time in \
                           one piece. Upgraded connections (WebSocket) have none from their beginning on. Of a call of gRPC, \
                           `grpc-timeout` counts where it is shorter, and is nobody's failure; the client gets \
                           DEADLINE_EXCEEDED, also in the middle of an answer.";
/// `defaults.timeouts.request`
pub const REQUEST: Key = Key { name: "request", forms: DAY_OR_OFF, absent: Default("\"off\""), doc: REQUEST_DOC };
const OWN_REQUEST: Key =
    Key { name: "request", forms: DAY_OR_OFF, absent: Means("`defaults.timeouts.request`"), doc: REQUEST_DOC };
const ROUTE_REQUEST: Key =
    Key { name: "request", forms: DAY_OR_OFF, absent: Means("that of its listener"), doc: REQUEST_DOC };

/// `timeouts` of a route
static ROUTE_TIMEOUTS: Shape =
    Shape { what: "the timeouts of a route", heading: None, doc: "", keys: &[ROUTE_REQUEST] };

const RATE: Form = Form::Bytes(Bytes(0), Bytes(1 << 30));
const MIN_RATE_DOC: &str = "How many bytes a client has to send of a request's body, and take of a response, in each second \
                            in which it is what we wait for. A request's body has 10 s to come up to it (`client_body`, \
                            where that is shorter), a response `client_write`; whoever was quick enough may pause as long \
                            as these. A request that is too slow is answered 408, or reset when its answer has begun; so is a response. \
                            A call of gRPC has all of `client_body` to come up to it, and need not any more when it is being \
                            answered. `\"0B\"`: any rate will do.";
/// `defaults.timeouts.client_min_rate`
pub const CLIENT_MIN_RATE: Key =
    Key { name: "client_min_rate", forms: &[RATE], absent: Default("\"240B\""), doc: MIN_RATE_DOC };
const OWN_CLIENT_MIN_RATE: Key = Key {
    name: "client_min_rate",
    forms: &[RATE],
    absent: Means("`defaults.timeouts.client_min_rate`"),
    doc: MIN_RATE_DOC,
};

/// `[defaults.timeouts]`
pub static DEFAULT_TIMEOUTS: Shape = Shape {
    what: "[defaults.timeouts]",
    heading: Some("[defaults.timeouts]"),
    doc: "The deadlines of every listener and pool that does not set its own.",
    keys: &[
        CLIENT_HEADER,
        CLIENT_BODY,
        CLIENT_WRITE,
        CLIENT_MIN_RATE,
        CLIENT_IDLE,
        TLS_HANDSHAKE,
        CONNECT,
        RESPONSE_HEADER,
        RESPONSE_BODY,
        UPSTREAM_IDLE,
        TUNNEL_IDLE,
        QUEUE,
        REQUEST,
    ],
};

/// Declares one key of the breakers with its default, and as the same key of a pool, which falls back to it.
macro_rules! breaker {
    ($key:ident, $own:ident, $name:literal, $form:expr, $default:literal, $doc:literal) => {
        const $key: Key = Key { name: $name, forms: &[$form], absent: Default($default), doc: $doc };
        const $own: Key =
            Key { name: $name, forms: &[$form], absent: Means(concat!("`defaults.breaker.", $name, "`")), doc: $doc };
    };
}

breaker!(
    MODE,
    OWN_MODE,
    "mode",
    Form::Choice(&["enforce", "observe", "off"]),
    "\"enforce\"",
    "`enforce`: a backend whose breaker is open gets nothing. `observe`: breakers open and close and the log tells, but \
     everything is let through. `off`: there are none."
);
breaker!(
    CONSECUTIVE_FAILURES,
    OWN_CONSECUTIVE_FAILURES,
    "consecutive_failures",
    Form::Integer(1, 1_000_000),
    "5",
    "So many failures in a row open it: connections that were refused or took too long, resets, time-outs, answers 5xx \
     other than 501 and 505, and of gRPC UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS and no status at all. What \
     clients or Evenkeel did never counts, nor does the end of a deadline that the call brought with it."
);
breaker!(
    FAILURE_RATIO,
    OWN_FAILURE_RATIO,
    "failure_ratio",
    Form::Number(0.0, 1.0),
    "0.5",
    "This share of failures within the `window` opens it too."
);
breaker!(
    MIN_REQUESTS,
    OWN_MIN_REQUESTS,
    "min_requests",
    Form::Integer(1, 1_000_000),
    "20",
    "Shares count only when there were so many requests within the `window`."
);
breaker!(
    WINDOW,
    OWN_WINDOW,
    "window",
    Form::Duration(LONGEST_WINDOW),
    "\"10s\"",
    "How far back shares look, in whole seconds."
);
breaker!(
    OPEN_FOR,
    OWN_OPEN_FOR,
    "open_for",
    DAY,
    "\"5s\"",
    "How long it stays open at first; twice as long each time a probe fails. One fifth more or less by chance."
);
breaker!(
    OPEN_FOR_MAX,
    OWN_OPEN_FOR_MAX,
    "open_for_max",
    DAY,
    "\"60s\"",
    "How long it stays open at most, chance apart."
);
breaker!(
    HALF_OPEN_PROBES,
    OWN_HALF_OPEN_PROBES,
    "half_open_probes",
    Form::Integer(1, 1000),
    "3",
    "When its time is over so many requests at once are let through, over all workers. As many successes close it, one \
     failure opens it again."
);
breaker!(
    MAX_OPEN_RATIO,
    OWN_MAX_OPEN_RATIO,
    "max_open_ratio",
    Form::Number(0.0, 1.0),
    "0.5",
    "At most this share of a pool's backends is left alone at once, but always one may be. The last usable backend never \
     is, whatever is written here."
);

const LATENCY_FORM: Form = Form::Table(&LATENCY);
const LATENCY_DOC: &str = "Opens it for slowness too: when this quantile of the response times within the `window` is above \
                           the bound. A slow probe counts as failed.";
const BREAKER_LATENCY: Key =
    Key { name: "latency", forms: &[LATENCY_FORM], absent: Means("slowness opens no breaker"), doc: LATENCY_DOC };
const OWN_BREAKER_LATENCY: Key =
    Key { name: "latency", forms: &[LATENCY_FORM], absent: Means("`defaults.breaker.latency`"), doc: LATENCY_DOC };

/// `latency` of the breakers
pub static LATENCY: Shape = Shape {
    what: "`latency`",
    heading: None,
    doc: "",
    keys: &[
        Key {
            name: "quantile",
            forms: &[Form::Number(0.0, 1.0)],
            absent: Default("0.99"),
            doc: "The quantile: `0.99` leaves one answer of a hundred out of account.",
        },
        Key {
            name: "above",
            forms: &[DAY],
            absent: Required,
            doc: "The bound, from the last byte of a request to the head of its response; for tcp, for the connection.",
        },
    ],
};

/// `[defaults.breaker]`
pub static DEFAULT_BREAKER: Shape = Shape {
    what: "[defaults.breaker]",
    heading: Some("[defaults.breaker]"),
    doc: "The breakers of every pool that does not set its own: each backend has one, which opens when the backend fails \
          and keeps requests from it for a while. Where no other backend is usable, it gets them all the same.",
    keys: &[
        MODE,
        CONSECUTIVE_FAILURES,
        FAILURE_RATIO,
        MIN_REQUESTS,
        WINDOW,
        OPEN_FOR,
        OPEN_FOR_MAX,
        HALF_OPEN_PROBES,
        MAX_OPEN_RATIO,
        BREAKER_LATENCY,
    ],
};

static POOL_BREAKER: Shape = Shape {
    what: "the breaker of a pool",
    heading: Some("[pools.NAME.breaker]"),
    doc: "When a backend that fails is left alone for a while. A change holds from the next request on; breakers that are \
          open stay so.",
    keys: &[
        OWN_MODE,
        OWN_CONSECUTIVE_FAILURES,
        OWN_FAILURE_RATIO,
        OWN_MIN_REQUESTS,
        OWN_WINDOW,
        OWN_OPEN_FOR,
        OWN_OPEN_FOR_MAX,
        OWN_HALF_OPEN_PROBES,
        OWN_MAX_OPEN_RATIO,
        OWN_BREAKER_LATENCY,
    ],
};

static LISTENER_TIMEOUTS: Shape = Shape {
    what: "the timeouts of a listener",
    heading: Some("[listeners.NAME.timeouts]"),
    doc: "The deadlines on the client's side. A tcp listener has only `tunnel_idle` and `tls_handshake`.",
    keys: &[
        OWN_CLIENT_HEADER,
        OWN_CLIENT_BODY,
        OWN_CLIENT_WRITE,
        OWN_CLIENT_MIN_RATE,
        OWN_CLIENT_IDLE,
        OWN_TLS_HANDSHAKE,
        OWN_TUNNEL_IDLE,
        OWN_REQUEST,
    ],
};

static POOL_TIMEOUTS: Shape = Shape {
    what: "the timeouts of a pool",
    heading: Some("[pools.NAME.timeouts]"),
    doc: "The deadlines on the backends' side. Where both a listener and its pool set `tunnel_idle`, the shorter counts.",
    keys: &[OWN_CONNECT, OWN_RESPONSE_HEADER, OWN_RESPONSE_BODY, OWN_UPSTREAM_IDLE, OWN_TUNNEL_IDLE],
};

/// `[listeners.NAME]`
pub static LISTENER: Shape = Shape {
    what: "a listener",
    heading: Some("[listeners.NAME]"),
    doc: "Where connections are accepted. A listener needs a `pool`, or, when it speaks http, at least one of `pool`, \
          `routes` and `redirect_to_https`; `pool` or `redirect_to_https` is what happens when no route matches. The `routes` \
          of a tcp listener tell TLS connections by their server names, without ending them: they have only `name`, `sni`, \
          `alpn` and `pool`. A connection that none matches is closed with the alert `unrecognized_name`; one that is not \
          TLS is closed.",
    keys: &[
        Key {
            name: "bind",
            forms: &[Form::Text("address"), Form::List(&[Form::Text("address")])],
            absent: Required,
            doc: "`\"0.0.0.0:8080\"`, `\"[::]:8080\"`, `\"unix:/path\"`, or a list of them. Port 0 lets the system choose. \
                  An IPv6 address takes no IPv4 connections: write both.",
        },
        Key {
            name: "protocol",
            forms: &[Form::Choice(&["http", "tcp"])],
            absent: Default("\"http\""),
            doc: "`http` understands HTTP/1.1 and HTTP/2 and has routes; `tcp` passes bytes to one pool, or TLS to pools by `sni`.",
        },
        LISTENER_TLS_KEY,
        Key {
            name: "proxy_protocol",
            forms: &[Form::Table(&PROXY_PROTOCOL)],
            absent: Means("connections begin with what the client says"),
            doc: "Each connection begins with a header of the PROXY protocol, in which a proxy says who its client is.",
        },
        Key {
            name: "pool",
            forms: &[POOL_NAME],
            absent: Means("requests that no route matches are answered 404"),
            doc: "The pool for everything (that no route matches).",
        },
        Key {
            name: "redirect_to_https",
            forms: &[Form::Bool],
            absent: Default("false"),
            doc: "Answers everything (that no route matches) with 308 to the same place on `https://`.",
        },
        Key {
            name: "routes",
            forms: &[Form::List(&[Form::Table(&ROUTE)])],
            absent: Means("no routes"),
            doc: "What happens to which requests.",
        },
        Key {
            name: "http_versions",
            forms: &[Form::List(&[Form::Choice(&["h1", "h2"])])],
            absent: Means("`[\"h1\", \"h2\"]` with `tls`, `[\"h1\"]` without"),
            doc: "What its clients may speak: HTTP/1 (`h1`), HTTP/2 (`h2`) or both. Over TLS they choose by ALPN. Without `tls`, \
                  HTTP/2 is for those who begin with it (prior knowledge, RFC 9113 §3.3); an upgrade from HTTP/1.1 is not \
                  offered. Only for http.",
        },
        Key {
            name: "trusted_proxies",
            forms: &[Form::List(&[Form::Text("network")])],
            absent: Means("none is believed"),
            doc: "Addresses and networks (`\"10.0.0.0/8\"`) whose `X-Forwarded-*` and `X-Request-Id` are believed.",
        },
        Key {
            name: "forwarded",
            forms: &[Form::Bool],
            absent: Default("false"),
            doc: "Whether backends are sent `Forwarded` (RFC 7239) beside `X-Forwarded-*`.",
        },
        Key {
            name: "via",
            forms: &[Form::Bool],
            absent: Default("false"),
            doc: "Whether `Via` is added to requests and responses.",
        },
        Key {
            name: "underscore_names",
            forms: &[Form::Choice(&["drop", "reject"])],
            absent: Default("\"drop\""),
            doc: "What becomes of request headers whose names have an underscore. Programs that turn `-` into `_`, as CGI does, \
                  would take `X_Forwarded_For` for `X-Forwarded-For`, so none is ever forwarded. `drop`: they are left out. \
                  `reject`: the request is answered 400 and the connection closed, for trailer fields too.",
        },
        Key {
            name: "headers",
            forms: &[Form::Table(&HEADERS)],
            absent: Means("nothing is changed"),
            doc: "Changes to the headers of all of its requests and responses, made before those of a route.",
        },
        Key {
            name: "timeouts",
            forms: &[Form::Table(&LISTENER_TIMEOUTS)],
            absent: Means("`[defaults.timeouts]`"),
            doc: "Its own deadlines.",
        },
        Key {
            name: "limits",
            forms: &[Form::Table(&LIMITS)],
            absent: Means("the defaults below"),
            doc: "How much clients may ask for.",
        },
    ],
};

/// `proxy_protocol` of a listener
pub static PROXY_PROTOCOL: Shape = Shape {
    what: "`proxy_protocol`",
    heading: None,
    doc: "",
    keys: &[
        Key {
            name: "accept",
            forms: &[Form::Bool],
            absent: Required,
            doc: "Whether each connection has to begin with a PROXY header, of version 1 or 2, before TLS and everything else. \
                  One without it, with a malformed one, or whose header is not whole within 3 s is closed. The client is from \
                  then on who the header says it is: for `X-Forwarded-For`, `trusted_proxies`, `ip_hash`, logs and \
                  `connections_per_ip`. With `LOCAL` or `UNKNOWN` it stays the proxy, which `connections_per_ip` does not \
                  count. TLVs are ignored.",
        },
        Key {
            name: "trusted",
            forms: &[Form::List(&[Form::Text("network")])],
            absent: Means("only who connects over a Unix socket"),
            doc: "Addresses and networks of the proxies. Connections of others are closed, as nobody else may say who a client \
                  is. Who may open a Unix socket of `bind` is believed too.",
        },
    ],
};

/// `[listeners.NAME.limits]`
pub static LIMITS: Shape = Shape {
    what: "the limits of a listener",
    heading: Some("[listeners.NAME.limits]"),
    doc: "How much clients may ask for. A change holds for the next request and the next connection; what is open stays. A \
          tcp listener has only `connections` and `connections_per_ip`.",
    keys: &[
        HEADER_BYTES,
        HEADERS_LIMIT,
        REQUEST_LINE,
        REQUESTS_PER_CONNECTION,
        STREAMS,
        LISTENER_CONNECTIONS,
        CONNECTIONS_PER_IP,
        HANDSHAKES,
    ],
};

/// `listeners.*.limits.header_bytes`
pub const HEADER_BYTES: Key = Key {
    name: "header_bytes",
    forms: &[Form::Bytes(Bytes(1 << 10), Bytes(256 << 10))],
    absent: Default("\"32KiB\""),
    doc: "A request's head, from the method to the empty line. A larger one is answered 431 and the connection closed, \
          and so are larger trailer fields behind a body.",
};
/// `listeners.*.limits.headers`
pub const HEADERS_LIMIT: Key = Key {
    name: "headers",
    forms: &[Form::Integer(1, 1000)],
    absent: Default("100"),
    doc: "How many header fields a request may have. With more it is answered 431 and the connection closed, and so \
          it is with more trailer fields.",
};
/// `listeners.*.limits.request_line`
pub const REQUEST_LINE: Key = Key {
    name: "request_line",
    forms: &[Form::Bytes(Bytes(64), Bytes(256 << 10))],
    absent: Default("\"8KiB\""),
    doc: "A request's first line: method, target and version. A longer one is answered 414 and the connection closed.",
};
/// `listeners.*.limits.requests_per_connection`
pub const REQUESTS_PER_CONNECTION: Key = Key {
    name: "requests_per_connection",
    forms: &[Form::Integer(1, u32::MAX as i64)],
    absent: Default("10000"),
    doc: "How many requests a client may send on one connection. The last one is answered with `Connection: close`, in \
          HTTP/2 with a GOAWAY.",
};
/// `listeners.*.limits.streams`
pub const STREAMS: Key = Key {
    name: "streams",
    forms: &[Form::Integer(1, 10_000)],
    absent: Default("100"),
    doc: "How many requests a client may have under way at once on one connection of HTTP/2. It is told so; who begins more \
          is refused those (REFUSED_STREAM).",
};
const LISTENER_CONNECTIONS: Key = Key {
    name: "connections",
    forms: &[Form::Integer(1, u32::MAX as i64)],
    absent: Means("only `runtime.connections`"),
    doc: "How many connections may be open at once, over all its addresses. More are not accepted until some end: they \
          wait in the kernel's queue.",
};
/// `listeners.*.limits.handshakes`
pub const HANDSHAKES: Key = Key {
    name: "handshakes",
    forms: &[Form::Integer(1, u32::MAX as i64)],
    absent: Default("1000"),
    doc: "How many TLS handshakes a worker may have under way at once. More wait their turn, within `tls_handshake`; a client \
          that has said nothing yet takes no place. Each holds some 20 KiB. Only with `tls`.",
};
const CONNECTIONS_PER_IP: Key = Key {
    name: "connections_per_ip",
    forms: &[Form::Integer(1, u32::MAX as i64)],
    absent: Means("no limit"),
    doc: "How many connections one client may have open at once: an IPv4 address, or an IPv6 network of 64 bits. More are \
          refused at once: answered 503 and closed (http), or reset (tcp). Connections of `trusted_proxies` and over a Unix \
          socket are not counted, nor those that were open when this was first set.",
};

const ROUTE_NAME: Key = Key {
    name: "name",
    forms: &[Form::Text("name")],
    absent: Means("`route-1`, `passthrough-1` …, by its place"),
    doc: "What it is called in logs. No two of a listener are the same.",
};

/// `[[listeners.NAME.routes]]`
pub static ROUTE: Shape = Shape {
    what: "a route",
    heading: Some("[[listeners.NAME.routes]]"),
    doc: "All conditions that are written have to hold. When several routes match a request, an exact host comes before \
          the longest wildcard before any host; then an exact path before the longest prefix before regular expressions \
          in their order before any path; then more header and method conditions before fewer; then the order in the \
          file. A route does exactly one of `pool`, `split`, `redirect`, `redirect_to_https` and `respond`. Routes of a \
          tcp listener have only `name`, `sni`, `alpn` and `pool`.",
    keys: &[
        ROUTE_NAME,
        SNI,
        ALPN,
        Key {
            name: "hosts",
            forms: &[Form::List(&[Form::Text("host name")])],
            absent: Means("any host"),
            doc: "`\"www.example.com\"`, or `\"*.example.com\"` for all names below it. Without port.",
        },
        Key {
            name: "path",
            forms: &[Form::Table(&PATH)],
            absent: Means("any path"),
            doc: "What the path has to be: exactly one of the following.",
        },
        Key {
            name: "methods",
            forms: &[Form::List(&[Form::Text("method")])],
            absent: Means("any method"),
            doc: "`\"GET\"`, `\"POST\"` …, in upper case.",
        },
        Key {
            name: "match_headers",
            forms: &[Form::Map("header name", &[HEADER_VALUE, Form::Table(&HEADER_MATCH)])],
            absent: Means("any headers"),
            doc: "Headers that have to be there, each with its exact value or a table of one of the following.",
        },
        Key {
            name: "pool",
            forms: &[POOL_NAME],
            absent: Means("another action"),
            doc: "Action: forward to this pool.",
        },
        Key {
            name: "split",
            forms: &[Form::List(&[Form::Table(&SPLIT)])],
            absent: Means("another action"),
            doc: "Action: forward to several pools by weight.",
        },
        Key {
            name: "redirect",
            forms: &[Form::Text("URI"), Form::Table(&REDIRECT)],
            absent: Means("another action"),
            doc: "Action: answer with a redirection (308) to this URI, in which `{host}`, `{path}` and `{query}` (with \
                  its `?`) stand for those of the request.",
        },
        Key {
            name: "redirect_to_https",
            forms: &[Form::Bool],
            absent: Default("false"),
            doc: "Action: answer 308 to the same place on `https://`.",
        },
        Key {
            name: "respond",
            forms: &[Form::Table(&RESPOND)],
            absent: Means("another action"),
            doc: "Action: answer this, without a backend.",
        },
        Key {
            name: "retry",
            forms: &[Form::Table(&RETRY)],
            absent: Means("the defaults below"),
            doc: "When a request is tried again on another backend. Never once any part of an answer has gone to the client, \
                  and only as often as the pool's `retry_budget` allows.",
        },
        Key {
            name: "timeouts",
            forms: &[Form::Table(&ROUTE_TIMEOUTS)],
            absent: Means("those of its listener"),
            doc: "The one deadline that a route can have of its own.",
        },
        Key {
            name: "headers",
            forms: &[Form::Table(&HEADERS)],
            absent: Means("nothing is changed"),
            doc: "Changes to the headers of its requests and responses.",
        },
    ],
};

/// `retry` of a route
pub static RETRY: Shape =
    Shape { what: "`retry`", heading: None, doc: "", keys: &[RETRY_ATTEMPTS, RETRY_ON, RETRY_NON_IDEMPOTENT] };

/// `retry.attempts`
pub const RETRY_ATTEMPTS: Key = Key {
    name: "attempts",
    forms: &[Form::Integer(1, 10)],
    absent: Default("2"),
    doc: "How often a request is tried in all, the first time included, each time on another backend. 1: never again.",
};
/// `retry.on`
pub const RETRY_ON: Key = Key {
    name: "on",
    forms: &[Form::List(&[Form::Text("reason")])],
    absent: Means("`[\"connect\", \"reset\"]`"),
    doc: "What a request is tried again for. `\"connect\"`: no connection was made; nothing was sent, so it holds for every \
          request, and outside the budget. `\"reset\"`: the connection ended before an answer \
          began. `\"timeout\"`: `response_header` passed, or the backend took no more of the request for `response_body`. A \
          status from `\"400\"` to `\"599\"`: the backend answered with it; the last attempt's answer is passed on, whatever it \
          is. An answer of gRPC that is a head alone counts as the status that means the same, UNAVAILABLE as `\"503\"`. Where something was sent, only requests are repeated whose method is idempotent (GET, HEAD, OPTIONS, TRACE, \
          PUT, DELETE), and of whose body no more than 16 KiB had been read.",
};
/// `retry.non_idempotent`
pub const RETRY_NON_IDEMPOTENT: Key = Key {
    name: "non_idempotent",
    forms: &[Form::Bool],
    absent: Default("false"),
    doc: "Whether the other methods (POST, PATCH …) are repeated as well: a backend may then act on a request twice.",
};

/// `path` of a route
pub static PATH: Shape = Shape {
    what: "a path",
    heading: None,
    doc: "",
    keys: &[
        Key {
            name: "exact",
            forms: &[Form::Text("path")],
            absent: Means("one of the others"),
            doc: "This path and no other.",
        },
        Key {
            name: "prefix",
            forms: &[Form::Text("path")],
            absent: Means("one of the others"),
            doc: "Paths that begin so, by whole segments: `/v1` matches `/v1` and `/v1/x` but not `/v10`; `/v1/` matches \
                  what begins with it.",
        },
        Key {
            name: "regex",
            forms: &[REGEX],
            absent: Means("one of the others"),
            doc: "Paths in which this is found; anchor it with `^` and `$` as needed. Single quotes save doubling `\\`.",
        },
    ],
};

/// A value of `match_headers` as a table
pub static HEADER_MATCH: Shape = Shape {
    what: "a header match",
    heading: None,
    doc: "",
    keys: &[
        Key { name: "exact", forms: &[HEADER_VALUE], absent: Means("one of the others"), doc: "This value." },
        Key {
            name: "regex",
            forms: &[REGEX],
            absent: Means("one of the others"),
            doc: "A value in which this is found.",
        },
        Key { name: "present", forms: &[Form::Bool], absent: Means("one of the others"), doc: "`true`: any value." },
    ],
};

/// One of a route's `split`
pub static SPLIT: Shape = Shape {
    what: "a part of a split",
    heading: None,
    doc: "",
    keys: &[Key { name: "pool", forms: &[POOL_NAME], absent: Required, doc: "The pool." }, SPLIT_WEIGHT],
};

/// `split[].weight`
pub const SPLIT_WEIGHT: Key = Key {
    name: "weight",
    forms: &[Form::Integer(0, 1000)],
    absent: Default("1"),
    doc: "Its share of the sum of weights.",
};

/// `redirect` as a table
pub static REDIRECT: Shape = Shape {
    what: "a redirect",
    heading: None,
    doc: "",
    keys: &[Key { name: "to", forms: &[Form::Text("URI")], absent: Required, doc: "Where to." }, REDIRECT_STATUS],
};

/// `redirect.status`
pub const REDIRECT_STATUS: Key = Key {
    name: "status",
    forms: &[Form::Integer(301, 308)],
    absent: Default("308"),
    doc: "301, 302, 303, 307 or 308. Only 307 and 308 keep the method.",
};

/// `respond`
pub static RESPOND: Shape = Shape {
    what: "an answer",
    heading: None,
    doc: "",
    keys: &[
        Key { name: "status", forms: &[Form::Integer(200, 599)], absent: Required, doc: "The status." },
        Key { name: "body", forms: &[Form::Prose], absent: Default("\"\""), doc: "The body, as it is." },
        CONTENT_TYPE,
    ],
};

/// `respond.content_type`
pub const CONTENT_TYPE: Key = Key {
    name: "content_type",
    forms: &[HEADER_VALUE],
    absent: Default("\"text/plain; charset=utf-8\""),
    doc: "What the body is.",
};

static HEADERS: Shape = Shape {
    what: "`headers`",
    heading: None,
    doc: "",
    keys: &[
        Key {
            name: "request",
            forms: &[Form::Table(&HEADER_EDITS)],
            absent: Means("nothing is changed"),
            doc: "What is changed in requests before they go to a backend: first `remove`, then `set`, then `add`.",
        },
        Key {
            name: "response",
            forms: &[Form::Table(&HEADER_EDITS)],
            absent: Means("nothing is changed"),
            doc: "What is changed in responses before they go to the client: first `remove`, then `set`, then `add`.",
        },
    ],
};

static HEADER_EDITS: Shape = Shape {
    what: "changes to headers",
    heading: None,
    doc: "",
    keys: &[
        Key {
            name: "set",
            forms: &[Form::Map("header name", &[HEADER_VALUE])],
            absent: Means("none"),
            doc: "Headers that are to have this value, whatever they had.",
        },
        Key {
            name: "add",
            forms: &[Form::Map("header name", &[HEADER_VALUE])],
            absent: Means("none"),
            doc: "Headers that are appended to what is there.",
        },
        Key {
            name: "remove",
            forms: &[Form::List(&[HEADER_NAME])],
            absent: Means("none"),
            doc: "Headers that are taken out.",
        },
    ],
};

/// The values of `balance`.
pub const ALGORITHMS: &[&str] = &[
    "round_robin",
    "weighted_round_robin",
    "least_connections",
    "ip_hash",
    "least_response_time",
    "random_two_choices",
    "consistent_hash",
];

/// `[pools.NAME]`
pub static POOL: Shape = Shape {
    what: "a pool",
    heading: Some("[pools.NAME]"),
    doc: "A group of backends that serve the same, and who of them gets the next request or connection.",
    keys: &[
        Key {
            name: "backends",
            forms: &[Form::List(&[Form::Text("address"), Form::Table(&BACKEND)])],
            absent: Required,
            doc: "Its servers: addresses (`\"10.0.0.11:3000\"`, `\"[2001:db8::1]:3000\"`, `\"unix:/path\"`) and tables, \
                  mixed as needed.",
        },
        Key {
            name: "balance",
            forms: &[Form::Choice(ALGORITHMS)],
            absent: Default("\"round_robin\""),
            doc: "`round_robin`: each in turn, weights ignored. `weighted_round_robin`: in turn by weight, evenly mixed. \
                  `least_connections`: who has the fewest requests under way for its weight. `ip_hash`: a client's address \
                  stays with one backend. `least_response_time`: who answers fastest for the load it has, by a \
                  response time that remembers peaks for some 10 s; answers within 10 % of each other count as \
                  equal, and a backend that fails does not look fast for it. `random_two_choices`: the less busy of two chosen by chance. `consistent_hash`: the same key \
                  (`hash_on`) stays with one backend.",
        },
        Key {
            name: "hash_on",
            forms: &[Form::Choice(&["client_address", "uri"]), Form::Table(&HASH_ON)],
            absent: Default("\"client_address\""),
            doc: "Only with `consistent_hash`: what is hashed, the client's address, path and query, or one of the \
                  following. An HTTP request that lacks it, and a TCP connection, is hashed by the client's address.",
        },
        HASH_IPV4_PREFIX,
        HASH_IPV6_PREFIX,
        Key {
            name: "bounded_load",
            forms: &[Form::Number(1.0, 100.0)],
            absent: Means("no bound"),
            doc: "Only with `ip_hash`: no backend takes more than this multiple of the mean load, such as `1.25`; what is \
                  above it goes to the client's next backend.",
        },
        SLOW_START,
        HEALTH_CHECK_KEY,
        FAIL_OPEN,
        PANIC_THRESHOLD,
        Key {
            name: "timeouts",
            forms: &[Form::Table(&POOL_TIMEOUTS)],
            absent: Means("`[defaults.timeouts]`"),
            doc: "Its own deadlines.",
        },
        Key {
            name: "breaker",
            forms: &[Form::Table(&POOL_BREAKER)],
            absent: Means("`[defaults.breaker]`"),
            doc: "Its own breakers.",
        },
        Key {
            name: "queue",
            forms: &[Form::Table(&POOL_QUEUE)],
            absent: Means("the defaults below"),
            doc: "How requests (http) and connections (tcp) wait while every backend that could serve is at its \
                  `max_connections`; they get their places in the order in which they came. Who finds the queue full, or \
                  waits too long, is answered 503 with `Retry-After` (http) or reset (tcp). A reload sends nobody away: who \
                  waits goes on by the new file, and keeps the place if that still leads to this pool.",
        },
        RETRY_BUDGET,
        POOL_TLS_KEY,
        Key {
            name: "http_version",
            forms: &[Form::Choice(&["h1", "h2"])],
            absent: Default("\"h1\""),
            doc: "What is spoken with its backends: HTTP/1.1, or HTTP/2, over TLS by ALPN and else from the first byte (prior \
                  knowledge). Requests share connections of HTTP/2: up to 100 are on each at once, or as many as the backend \
                  allows, and a worker has at most 8 of them to a backend. Calls of gRPC need HTTP/2 here. Health checks by \
                  `http` speak the same, but for those of another address or port. tcp listeners pass on whatever comes.",
        },
        Key {
            name: "send_proxy_protocol",
            forms: &[SENT_VERSIONS, Form::Table(&SEND_PROXY_PROTOCOL)],
            absent: Means("none is sent"),
            doc: "Begins each connection to a backend with a header of the PROXY protocol, which says from where the client has \
                  come to which address of ours. A client of a Unix socket is announced as `UNKNOWN` (v1) or `LOCAL` (v2), and \
                  so are health checks, unless they ask at another address or port. For http each request has a \
                  connection of its own then: one that is used again would bring a client under another's name.",
        },
    ],
};

const SENT_VERSIONS: Form = Form::Choice(&["v1", "v2"]);

/// `send_proxy_protocol` of a pool
pub static SEND_PROXY_PROTOCOL: Shape = Shape {
    what: "`send_proxy_protocol`",
    heading: None,
    doc: "",
    keys: &[
        Key { name: "version", forms: &[SENT_VERSIONS], absent: Default("\"v2\""), doc: "The version of the header." },
        Key {
            name: "tlvs",
            forms: &[Form::List(&[Form::Choice(&["alpn", "authority", "ssl"])])],
            absent: Means("nothing but addresses"),
            doc: "Only with version 2: what of a client's TLS is told as well, where there is any. `alpn`: the protocol that was \
                  agreed on. `authority`: the server name that it has asked for, also where its TLS passes through. `ssl`: the \
                  version of TLS and the cipher suite by OpenSSL's names, whether it has shown a certificate, and the common \
                  name in that. What a proxy before us has told of it is never passed on, and of clients without an address \
                  (Unix sockets) nothing is told.",
        },
    ],
};

/// `pools.*.slow_start`
const SLOW_START: Key = Key {
    name: "slow_start",
    forms: &[DAY],
    absent: Means("all of its weight at once"),
    doc: "How long a backend that comes back takes to have all of its weight, from 1 % on in a straight line: one that was \
          down, or left alone by its breaker, or drained or in maintenance, or that a reload has brought; not at the start \
          of the process. Until then it gets no more than its share of all weights, however idle it is, and less where it is \
          busier or slower than the others. Where all of a pool come back at once, they serve all. Not with `round_robin`, \
          which ignores weights, and not with `ip_hash` and `consistent_hash`, which would send the same client here and \
          there, and differently in each instance.",
};

/// `queue` of a pool
pub static POOL_QUEUE: Shape = Shape {
    what: "`queue`",
    heading: None,
    doc: "",
    keys: &[
        QUEUE_MAX,
        Key {
            name: "timeout",
            forms: &[DAY],
            absent: Means("`defaults.timeouts.queue`"),
            doc: "How long one waits at most.",
        },
    ],
};

/// `pools.*.queue.max`
pub const QUEUE_MAX: Key = Key {
    name: "max",
    forms: &[Form::Integer(0, 1_000_000)],
    absent: Default("100"),
    doc: "How many may wait at once, over all workers. 0: nobody waits.",
};

/// `pools.*.retry_budget`
pub const RETRY_BUDGET: Key = Key {
    name: "retry_budget",
    forms: &[Form::Number(0.0, 1.0)],
    absent: Default("0.2"),
    doc: "How many of its requests may be tried again, as a share of all of the last 10 s, so that trying again never \
          becomes a load of its own; five at a time always may. Where it is used up, the client gets the answer of the \
          first attempt. What waits for a backend when a health check finds that down goes to another one without \
          counting here, and so does what a backend hangs up on whose breaker opens by that.",
};

/// `pools.*.hash_ipv4_prefix`
pub const HASH_IPV4_PREFIX: Key = Key {
    name: "hash_ipv4_prefix",
    forms: &[Form::Integer(1, 32)],
    absent: Default("32"),
    doc: "Only with `ip_hash`: how many leading bits of an IPv4 address count.",
};
/// `pools.*.hash_ipv6_prefix`
pub const HASH_IPV6_PREFIX: Key = Key {
    name: "hash_ipv6_prefix",
    forms: &[Form::Integer(1, 128)],
    absent: Default("64"),
    doc: "Only with `ip_hash`: how many leading bits of an IPv6 address count.",
};

/// `hash_on` as a table
pub static HASH_ON: Shape = Shape {
    what: "`hash_on`",
    heading: None,
    doc: "",
    keys: &[
        Key {
            name: "header",
            forms: &[HEADER_NAME],
            absent: Means("one of the others"),
            doc: "The value of this header.",
        },
        Key {
            name: "cookie",
            forms: &[Form::Text("cookie name")],
            absent: Means("one of the others"),
            doc: "The value of this cookie.",
        },
        Key {
            name: "query",
            forms: &[Form::Text("parameter name")],
            absent: Means("one of the others"),
            doc: "The value of this parameter of the query.",
        },
    ],
};

/// `[[pools.NAME.backends]]`
pub static BACKEND: Shape = Shape {
    what: "a backend",
    heading: Some("[[pools.NAME.backends]]"),
    doc: "One server of a pool, where its address alone does not say enough.",
    keys: &[
        Key {
            name: "address",
            forms: &[Form::Text("address")],
            absent: Required,
            doc: "Its IP address and port, or `unix:/path`. No two backends of a pool have the same.",
        },
        Key {
            name: "name",
            forms: &[Form::Text("name")],
            absent: Means("its address"),
            doc: "What it is called in logs. No two of a pool are the same.",
        },
        BACKEND_WEIGHT,
        Key {
            name: "max_connections",
            forms: &[Form::Integer(1, u32::MAX as i64)],
            absent: Means("no limit"),
            doc: "How many requests (http) or connections (tcp) it gets at once, over all workers. More wait in the pool's \
                  `queue`.",
        },
        Key {
            name: "backup",
            forms: &[Form::Bool],
            absent: Default("false"),
            doc: "Whether it is used only when none of the others can be.",
        },
        Key {
            name: "drain",
            forms: &[Form::Bool],
            absent: Default("false"),
            doc: "Whether it finishes what it has and gets nothing new.",
        },
        Key {
            name: "maintenance",
            forms: &[Form::Bool],
            absent: Default("false"),
            doc: "Whether it gets nothing, and what it still has is cut after `reload.drain_timeout`.",
        },
    ],
};

/// `pools.*.backends[].weight`
pub const BACKEND_WEIGHT: Key = Key {
    name: "weight",
    forms: &[Form::Integer(1, 1000)],
    absent: Default("1"),
    doc: "Its share compared to the others. Every algorithm but `round_robin` heeds it.",
};

/// Calls `visit` with the path pattern (`listeners.*.routes[].path.prefix`) of every key, the shape it belongs to and
/// the key itself, in the order of the table.
pub fn every(visit: &mut dyn FnMut(&str, &'static Shape, &'static Key)) {
    walk(&FILE, "", visit);
}

fn walk(shape: &'static Shape, prefix: &str, visit: &mut dyn FnMut(&str, &'static Shape, &'static Key)) {
    for key in shape.keys {
        let path = if prefix.is_empty() { key.name.to_owned() } else { format!("{prefix}.{}", key.name) };
        visit(&path, shape, key);
        walk_forms(key.forms, &path, visit);
    }
}

fn walk_forms(forms: &'static [Form], path: &str, visit: &mut dyn FnMut(&str, &'static Shape, &'static Key)) {
    for form in forms {
        match form {
            Form::Table(shape) => walk(shape, path, visit),
            Form::List(element) => walk_forms(element, &format!("{path}[]"), visit),
            Form::Map(_, value) => walk_forms(value, &format!("{path}.*"), visit),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_value_its_key_may_have() {
        every(&mut |path, _, key| {
            let Default(text) = key.absent else { return };
            let fits = key.forms.iter().any(|form| match form {
                Form::Text(_) | Form::Prose => text.starts_with('"'),
                Form::Choice(choices) => choices.contains(&text.trim_matches('"')),
                Form::Duration(most) => parse_duration(text.trim_matches('"')).is_some_and(|value| value <= *most),
                Form::Bytes(least, most) => {
                    parse_bytes(text.trim_matches('"')).is_some_and(|value| (*least..=*most).contains(&value))
                }
                Form::Integer(least, most) => text.parse().is_ok_and(|value: i64| (*least..=*most).contains(&value)),
                Form::Zero => text == "0",
                Form::Number(..) => text.parse::<f64>().is_ok(),
                Form::Bool => text == "true" || text == "false",
                Form::List(_) | Form::Table(_) | Form::Map(..) => false,
            });
            assert!(fits, "{path} = {text}");
        });
    }

    #[test]
    fn every_key_is_documented_once() {
        let mut paths = std::collections::BTreeSet::new();
        every(&mut |path, _, key| {
            assert!(!key.doc.is_empty(), "{path}");
            assert!(paths.insert(path.to_owned()), "{path} stands twice in the table");
        });
        assert!(paths.contains("listeners.*.routes[].path.prefix"));
    }
}
