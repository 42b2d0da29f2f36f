//! `[pools.NAME.health_check]`: the keys of active health checks.

use super::{DAY, Form, HEADER_MATCH, HEADER_VALUE, Key, REGEX, Shape};
use crate::config::shape::Absent::{Default, Means};

/// The methods that a probe may use: those that ask and change nothing, and POST for who answers nothing else.
pub const PROBE_METHODS: &[&str] = &["GET", "HEAD", "OPTIONS", "POST"];

/// `pools.*.health_check` in a pool.
pub(super) const HEALTH_CHECK_KEY: Key = Key {
    name: "health_check",
    forms: &[Form::Text("check"), Form::Table(&HEALTH_CHECK)],
    absent: Means("no checks: every backend counts as up"),
    doc: "How it is found out whether a backend is well: `\"tcp\"`, `\"GET /healthz\"`, `\"grpc\"`, or a table. A backend \
          that is down gets nothing, unless nothing else is left (`fail_open`).",
};

/// `pools.*.fail_open`
pub(super) const FAIL_OPEN: Key = Key {
    name: "fail_open",
    forms: &[Form::Bool],
    absent: Default("true"),
    doc: "Whether backends that are down are tried when no other can serve, so that a wrong check is not an outage. \
          `false`: such requests are answered 503.",
};

/// `pools.*.panic_threshold`
pub(super) const PANIC_THRESHOLD: Key = Key {
    name: "panic_threshold",
    forms: &[Form::Zero, Form::Number(0.0, 1.0)],
    absent: Default("0"),
    doc: "With less than this share of the backends well that are no backups, and no backup well either, nothing said of \
          them is believed: all that are no backups are used alike, those that are down and those that their breakers hold \
          back too, so that the few that are well are not overrun. Those at their `max_connections` are well, and get no \
          more; those drained or in maintenance do not count and get nothing. 0: never. Not with `fail_open = false`.",
};

/// `[pools.NAME.health_check]`
pub static HEALTH_CHECK: Shape = Shape {
    what: "a health check",
    heading: Some("[pools.NAME.health_check]"),
    doc: "Each backend is asked at an interval, on a connection of its own, by one thread for all of them. `fall` failures one \
          after the other take a backend down, `rise` successes bring it back. No probe of a backend begins before the one \
          before has ended. A pool with `tls` is asked over TLS, also at another `port` or `address`. A \
          backend keeps its state over reloads; in `maintenance` it is not asked.",
    keys: &[
        Key {
            name: "type",
            forms: &[Form::Choice(&["tcp", "http", "grpc"])],
            absent: Means("`http` with a `path`, `grpc` with a `service`, else `tcp`"),
            doc: "`tcp`: a connection can be made. `http`: a request is answered as expected, in the pool's `http_version` \
                  where the backend itself is asked, and else in HTTP/1.1. `grpc`: `grpc.health.v1.Health/Check` over HTTP/2 \
                  answers SERVING.",
        },
        Key { name: "method", forms: &[Form::Choice(PROBE_METHODS)], absent: Default("\"GET\""), doc: "Only http." },
        Key {
            name: "path",
            forms: &[Form::Text("path")],
            absent: Default("\"/\""),
            doc: "Only http: path and query of the request, as they are sent.",
        },
        Key {
            name: "host",
            forms: &[Form::Text("host name")],
            absent: Means("the backend's address"),
            doc: "Only http and grpc: the request's `Host`, or `:authority`.",
        },
        Key {
            name: "headers",
            forms: &[Form::Map("header name", &[HEADER_VALUE])],
            absent: Means("`User-Agent: evenkeel`"),
            doc: "Only http: more headers of the request.",
        },
        Key {
            name: "service",
            forms: &[Form::Text("service name")],
            absent: Means("the server as a whole"),
            doc: "Only grpc: the service that is asked for.",
        },
        Key {
            name: "expect",
            forms: &[Form::Table(&EXPECT)],
            absent: Means("a status from 200 to 399"),
            doc: "Only http: what a good answer is. All that is written has to hold.",
        },
        CHECK_INTERVAL,
        Key {
            name: "fast_interval",
            forms: &[DAY],
            absent: Means("`interval`"),
            doc: "The interval while a backend is going down or up, or was not asked yet.",
        },
        Key {
            name: "down_interval",
            forms: &[DAY],
            absent: Means("`interval`"),
            doc: "The interval while a backend is down.",
        },
        CHECK_TIMEOUT,
        RISE,
        FALL,
        CHECK_JITTER,
        Key {
            name: "initial",
            forms: &[Form::Choice(&["up", "down"])],
            absent: Default("\"up\""),
            doc: "What a new backend is before it was asked. `down`: its first probe decides, and until then it gets nothing, \
                  unless no other can serve (`fail_open`).",
        },
        Key {
            name: "on_down",
            forms: &[Form::Choice(&["keep_sessions", "close_sessions"])],
            absent: Default("\"keep_sessions\""),
            doc: "What becomes of the TCP sessions and upgraded connections (WebSocket) of a backend that goes down.",
        },
        Key {
            name: "port",
            forms: &[Form::Integer(1, 65_535)],
            absent: Means("the backend's port"),
            doc: "Another port of the backend's address to ask.",
        },
        Key {
            name: "address",
            forms: &[Form::Text("address")],
            absent: Means("the backend's address"),
            doc: "Another address to ask, for every backend of the pool: `\"10.0.0.9:9000\"` or `\"unix:/path\"`.",
        },
    ],
};

/// `pools.*.health_check.interval`
pub const CHECK_INTERVAL: Key = Key {
    name: "interval",
    forms: &[DAY],
    absent: Default("\"2s\""),
    doc: "From the beginning of one probe to the beginning of the next.",
};

/// `pools.*.health_check.timeout`
pub const CHECK_TIMEOUT: Key = Key {
    name: "timeout",
    forms: &[DAY],
    absent: Default("\"1s\""),
    doc: "For a whole probe, at most `interval`; where `interval` is shorter than a second, that is the default.",
};

/// `pools.*.health_check.rise`
pub const RISE: Key = Key {
    name: "rise",
    forms: &[Form::Integer(1, 100)],
    absent: Default("2"),
    doc: "How many successes one after the other bring a backend up.",
};

/// `pools.*.health_check.fall`
pub const FALL: Key = Key {
    name: "fall",
    forms: &[Form::Integer(1, 100)],
    absent: Default("3"),
    doc: "How many failures one after the other take a backend down.",
};

/// `pools.*.health_check.jitter`
pub const CHECK_JITTER: Key = Key {
    name: "jitter",
    forms: &[Form::Zero, Form::Number(0.0, 0.5)],
    absent: Default("0.1"),
    doc: "By which share each interval is longer or shorter by chance, so that probes do not come all at once.",
};

/// `expect` of a health check
pub static EXPECT: Shape = Shape {
    what: "`expect`",
    heading: None,
    doc: "",
    keys: &[
        Key {
            name: "status",
            forms: &[STATUS, STATUS_RANGE, Form::List(&[STATUS, STATUS_RANGE])],
            absent: Default("\"200-399\""),
            doc: "A status, a range of them, or a list of both: `[204, \"300-399\"]`.",
        },
        Key {
            name: "body_contains",
            forms: &[Form::Text("text")],
            absent: Means("any body"),
            doc: "A text in the first 64 KiB of the body.",
        },
        Key {
            name: "body_regex",
            forms: &[REGEX],
            absent: Means("any body"),
            doc: "An expression that is found in the first 64 KiB of the body.",
        },
        Key {
            name: "headers",
            forms: &[Form::Map("header name", &[HEADER_VALUE, Form::Table(&HEADER_MATCH)])],
            absent: Means("any headers"),
            doc: "Headers that have to be there, each with its exact value or a table of one of the following.",
        },
    ],
};

const STATUS: Form = Form::Integer(100, 599);
const STATUS_RANGE: Form = Form::Text("range of statuses");
