//! What a person meant by a word that is not a key or value: a slip of the fingers, a word of another program, a key in
//! the wrong place, or something a later version will have.

use std::time::Duration;

use super::diagnostic::{Diagnostic, Place};
use super::keys::{self, Key, Shape};
use super::read::{Entry, Value};

/// Other programs' words for the deadline of a whole request.
const WHOLE_REQUEST: &[&str] = &["request_timeout", "total", "overall", "route", "max_duration", "per_request"];

/// Other programs' words for deadlines, each written in one key.
const TIMEOUTS: &[&str] = &[
    "timeout",
    "client_timeout",
    "server_timeout",
    "connect_timeout",
    "read_timeout",
    "send_timeout",
    "idle_timeout",
    "keepalive_timeout",
    "keep_alive_timeout",
    "request_timeout",
    "timeout_client",
    "timeout_server",
    "timeout_connect",
    "proxy_connect_timeout",
    "proxy_read_timeout",
];

const SERVICE_MANAGER: &str =
    "as whom and how the process runs is for the service manager: see systemd/evenkeel.service";

/// Words of other programs by the kind of table they are written in.
const FOREIGN: &[(&str, &[&str], &str)] = &[
    (
        "the file",
        &[
            "upstream",
            "upstreams",
            "cluster",
            "clusters",
            "service",
            "services",
            "backend",
            "backends",
            "pool",
            "target_group",
        ],
        "a group of backends is a pool here: write `[pools.NAME]` with `backends = [\"10.0.0.1:3000\"]`",
    ),
    (
        "the file",
        &[
            "server",
            "servers",
            "frontend",
            "frontends",
            "entrypoints",
            "entry_points",
            "listen",
            "listener",
            "virtual_host",
        ],
        "what accepts connections is a listener here: write `[listeners.NAME]` with `bind = \"0.0.0.0:8080\"`",
    ),
    ("the file", &["route", "routes", "routers"], "routes belong to a listener: write `[[listeners.NAME.routes]]`"),
    ("the file", &["global", "process", "settings"], "what belongs to the process is in `[runtime]`"),
    ("the file", &["worker_processes", "nbthread", "threads", "workers"], "write `[runtime]` with `workers = 4`"),
    ("the file", &["user", "group", "daemon", "pid", "pidfile", "chroot"], SERVICE_MANAGER),
    ("[runtime]", &["user", "group", "daemon", "pid", "pidfile", "chroot"], SERVICE_MANAGER),
    ("[runtime]", &["worker_processes", "nbthread", "threads", "nproc", "cpus"], "write `workers`"),
    ("[runtime]", &["grace", "grace_period", "shutdown_timeout", "stop_timeout"], "write `shutdown_grace = \"30s\"`"),
    ("the file", &["includes", "import", "imports"], "write `include = [\"conf.d/*.toml\"]`"),
    ("the file", &["timeouts", "timeout"], "write `[defaults.timeouts]`"),
    ("a listener", &["listen", "address", "addresses", "port", "addr", "host"], "write `bind = \"0.0.0.0:8080\"`"),
    ("a listener", &["mode", "type"], "write `protocol = \"http\"` or `protocol = \"tcp\"`"),
    (
        "a listener",
        &["location", "locations", "rules", "route", "paths", "acl"],
        "write `[[listeners.NAME.routes]]` with `path = { prefix = \"/\" }`",
    ),
    (
        "a listener",
        &["server_name", "server_names", "hosts", "virtual_hosts"],
        "hosts belong to a route: write `[[listeners.NAME.routes]]` with `hosts = [\"www.example.com\"]`",
    ),
    (
        "a listener",
        &[
            "proxy_pass",
            "default_backend",
            "use_backend",
            "backend",
            "backends",
            "upstream",
            "cluster",
            "service",
            "servers",
        ],
        "a listener forwards to a pool by its name: write `pool = \"NAME\"`, and the servers into `[pools.NAME]`",
    ),
    ("a listener", TIMEOUTS, "write `[listeners.NAME.timeouts]` with `client_header`, `client_body` or `client_idle`"),
    (
        "a route",
        &["retries", "retry_on", "proxy_next_upstream", "proxy_next_upstream_tries", "num_retries"],
        "write `retry = { attempts = 2, on = [\"connect\", \"503\"] }`",
    ),
    (
        "a pool",
        &["maxqueue", "max_queue", "timeout_queue", "queue_timeout", "max_pending_requests"],
        "write `queue = { max = 100, timeout = \"2s\" }`",
    ),
    (
        "a pool",
        &["retries", "retry", "retry_on", "max_retries", "proxy_next_upstream"],
        "retries belong to a route: write `retry = { attempts = 2 }` there; a pool has their `retry_budget`",
    ),
    (
        "a listener",
        &["underscores_in_headers", "ignore_invalid_headers", "headers_with_underscores_action", "underscores"],
        "write `underscore_names = \"drop\"` or `underscore_names = \"reject\"`",
    ),
    (
        "a listener",
        &["http_version", "http2", "h2", "h2c", "grpc", "alpn"],
        "write `http_versions = [\"h1\", \"h2\"]`; a pool has `http_version`",
    ),
    (
        "a pool",
        &["http_versions", "http2", "h2", "h2c", "grpc", "proxy_http_version", "alpn"],
        "write `http_version = \"h2\"`; a listener has `http_versions`",
    ),
    (
        "a listener",
        &["accept_proxy", "proxy_protocol_accept", "send_proxy_protocol"],
        "write `proxy_protocol = { accept = true, trusted = [\"10.0.0.0/8\"] }`; a pool has `send_proxy_protocol`",
    ),
    (
        "a pool",
        &["send_proxy", "send_proxy_v2", "proxy_protocol", "proxy_protocol_version"],
        "write `send_proxy_protocol = \"v2\"`; a listener has `proxy_protocol`",
    ),
    (
        "a pool",
        &["ssl", "https", "proxy_ssl", "ca", "sni", "verify", "insecure_skip_verify", "tls_ca"],
        "write `tls = {}`, with `ca = \"ca.pem\"` or `sni = \"app.internal\"` in it where they are needed",
    ),
    (
        "the tls of a pool",
        &["server_name", "servername", "hostname", "name", "verifyhost", "proxy_ssl_name"],
        "write `sni = \"app.internal\"`",
    ),
    (
        "the tls of a pool",
        &["ca_file", "cafile", "ca_cert", "cacert", "root_ca", "trusted_certificate"],
        "write `ca = \"ca.pem\"`",
    ),
    (
        "the tls of a pool",
        &["verify", "insecure", "skip_verify", "ssl_verify", "tls_verify"],
        "certificates are verified unless you write `insecure_skip_verify = true`",
    ),
    ("a listener", &["redirect_https", "https_redirect", "force_https"], "write `redirect_to_https = true`"),
    ("a listener", &["real_ip", "set_real_ip_from", "trusted"], "write `trusted_proxies = [\"10.0.0.0/8\"]`"),
    (
        "a listener",
        &["large_client_header_buffers", "client_header_buffer_size", "max_header_size", "max_request_headers_kb"],
        "write `limits = { header_bytes = \"32KiB\" }`",
    ),
    (
        "[runtime]",
        &["maxconn", "max_conn", "max_connections", "worker_connections", "global_connections"],
        "write `connections = 10000`",
    ),
    (
        "a listener",
        &["maxconn", "max_conn", "max_connections", "connections"],
        "write `limits = { connections = 10000 }`",
    ),
    (
        "a listener",
        &["limit_conn", "connections_per_ip", "max_connections_per_ip", "src_conn_cur"],
        "write `limits = { connections_per_ip = 200 }`",
    ),
    ("the limits of a listener", &["maxconn", "max_conn", "max_connections"], "write `connections`"),
    (
        "the limits of a listener",
        &["per_ip", "limit_conn", "max_connections_per_ip", "connections_per_client", "max_connections_per_client"],
        "write `connections_per_ip`",
    ),
    (
        "a listener",
        &["keepalive_requests", "max_requests", "max_requests_per_connection", "max_keepalive_requests"],
        "write `limits = { requests_per_connection = 10000 }`",
    ),
    (
        "the limits of a listener",
        &["keepalive_requests", "max_requests", "requests", "max_requests_per_connection"],
        "write `requests_per_connection`",
    ),
    ("the limits of a listener", &["header_size", "max_header_size", "head_bytes"], "write `header_bytes`"),
    ("the limits of a listener", &["header_count", "max_headers", "max_headers_count"], "write `headers`"),
    ("the limits of a listener", &["uri", "uri_length", "max_uri", "url"], "write `request_line`"),
    ("a route", &["server_name", "server_names", "host", "domains"], "write `hosts = [\"www.example.com\"]`"),
    (
        "a route",
        &["host_sni", "sni_host", "sni_hosts", "req_ssl_sni", "ssl_fc_sni", "filter_chain_match"],
        "write `sni = [\"db.example.com\"]`, in a listener with `protocol = \"tcp\"`",
    ),
    (
        "a listener",
        &["sni", "ssl_preread", "tls_passthrough", "ssl_passthrough", "passthrough"],
        "write `routes = [{ sni = [\"db.example.com\"], pool = \"NAME\" }]` with `protocol = \"tcp\"`, or \
         `[[listeners.NAME.tls.passthrough]]`",
    ),
    ("a route", &["location", "prefix", "uri", "path_prefix"], "write `path = { prefix = \"/\" }`"),
    ("a route", &["exact", "path_exact"], "write `path = { exact = \"/\" }`"),
    ("a route", &["regex", "path_regex"], "write `path = { regex = '^/' }`"),
    (
        "a route",
        &[
            "proxy_pass",
            "default_backend",
            "use_backend",
            "backend",
            "upstream",
            "cluster",
            "service",
            "target",
            "servers",
        ],
        "write `pool = \"NAME\"`",
    ),
    (
        "a route",
        &["pools", "backends", "weighted_clusters", "weights"],
        "write `split = [{ pool = \"NAME\", weight = 95 }, …]`",
    ),
    ("a route", &["method"], "write `methods = [\"GET\"]`"),
    (
        "a route",
        &["match", "header", "headers_match", "header_match"],
        "write `match_headers = { \"X-Env\" = \"canary\" }`",
    ),
    ("a route", &["return", "response", "static_response"], "write `respond = { status = 503, body = \"…\" }`"),
    ("a path", &["equals", "equal", "full"], "write `exact`"),
    ("a path", &["starts_with", "begins_with", "path_prefix"], "write `prefix`"),
    ("a path", &["regexp", "pattern", "re"], "write `regex`"),
    ("a header match", &["equals", "value"], "write `exact`"),
    ("a redirect", &["url", "uri", "location", "target"], "write `to`"),
    ("a redirect", &["code"], "write `status`"),
    ("an answer", &["code"], "write `status`"),
    ("an answer", &["text", "content"], "write `body`"),
    ("changes to headers", &["append"], "write `add`"),
    ("changes to headers", &["replace", "overwrite"], "write `set`"),
    ("changes to headers", &["delete", "del", "hide", "unset"], "write `remove`"),
    (
        "a pool",
        &[
            "server",
            "servers",
            "targets",
            "target",
            "endpoints",
            "members",
            "nodes",
            "hosts",
            "upstreams",
            "address",
            "addresses",
        ],
        "write `backends = [\"10.0.0.1:3000\"]`",
    ),
    (
        "a pool",
        &["lb_policy", "lb", "algorithm", "strategy", "lb_method", "policy", "method", "load_balancing"],
        "write `balance = \"least_connections\"`",
    ),
    ("a pool", TIMEOUTS, "write `[pools.NAME.timeouts]` with `connect`, `response_header` or `response_body`"),
    ("[defaults.timeouts]", &["client", "http_request"], "write `client_header` or `client_body`"),
    ("[defaults.timeouts]", WHOLE_REQUEST, "write `request = \"60s\"`"),
    ("[defaults.timeouts]", &["server", "read", "response", "backend"], "write `response_header` or `response_body`"),
    ("[defaults.timeouts]", &["http_keep_alive", "keepalive", "keep_alive", "idle"], "write `client_idle`"),
    ("[defaults.timeouts]", &["tunnel"], "write `tunnel_idle`"),
    (
        "the timeouts of a listener",
        &["min_rate", "minrate", "client_rate", "min_request_body_data_rate"],
        "write `client_min_rate = \"240B\"`",
    ),
    ("the timeouts of a listener", &["client", "http_request"], "write `client_header` or `client_body`"),
    ("the timeouts of a listener", WHOLE_REQUEST, "write `request = \"60s\"`"),
    ("the timeouts of a route", WHOLE_REQUEST, "write `request = \"60s\"`"),
    ("a route", TIMEOUTS, "write `timeouts = { request = \"60s\" }`; the others belong to its listener or its pool"),
    (
        "the timeouts of a pool",
        &["request", "request_timeout", "total", "route", "max_duration"],
        "a deadline for whole requests belongs to a listener or a route: write `timeouts = { request = \"60s\" }` there",
    ),
    (
        "the timeouts of a listener",
        &["send", "send_timeout", "write", "client_send", "write_timeout"],
        "write `client_write = \"30s\"`",
    ),
    ("the timeouts of a listener", &["http_keep_alive", "keepalive", "keep_alive", "idle"], "write `client_idle`"),
    (
        "the timeouts of a pool",
        &["server", "read", "response", "backend"],
        "write `response_header` or `response_body`",
    ),
    ("a pool", &["hash_key", "hash", "hash_policy"], "write `balance = \"consistent_hash\"` and `hash_on = \"uri\"`"),
    ("a pool", &["bounded", "load_factor", "hash_balance_factor"], "write `bounded_load = 1.25`"),
    (
        "a pool",
        &["health_checks", "healthcheck", "check", "checks", "health", "httpchk", "option_httpchk"],
        "write `health_check = \"GET /healthz\"` or `health_check = \"tcp\"`",
    ),
    (
        "a backend",
        &["health_check", "health_checks", "healthcheck", "check", "inter", "rise", "fall"],
        "backends are checked by their pool: write `[pools.NAME]` with `health_check = \"GET /healthz\"`",
    ),
    ("a health check", &["uri", "url", "endpoint", "request_path"], "write `path = \"/healthz\"`"),
    ("a health check", &["inter", "period", "every", "interval_seconds"], "write `interval = \"2s\"`"),
    ("a health check", &["fastinter", "unhealthy_edge_interval"], "write `fast_interval = \"500ms\"`"),
    ("a health check", &["downinter", "unhealthy_interval"], "write `down_interval = \"5s\"`"),
    ("a health check", &["healthy_threshold", "passes", "success_threshold", "up"], "write `rise = 2`"),
    (
        "a health check",
        &["unhealthy_threshold", "fails", "failure_threshold", "max_fails", "retries"],
        "write `fall = 3`",
    ),
    ("a health check", &["hostname", "authority", "sni"], "write `host = \"app.example.com\"`"),
    (
        "a health check",
        &["status", "expected_statuses", "match", "response"],
        "write `expect = { status = \"200-299\" }`",
    ),
    ("a health check", &["body", "string", "rstring"], "write `expect = { body_contains = \"ok\" }`"),
    ("a health check", &["grpc_service", "service_name"], "write `service = \"package.Service\"`"),
    ("a health check", &["protocol", "mode", "scheme", "kind"], "write `type = \"http\"`, `\"tcp\"` or `\"grpc\"`"),
    ("`expect`", &["code", "codes", "statuses", "rstatus"], "write `status`"),
    ("`expect`", &["body", "string", "contains"], "write `body_contains`"),
    ("`expect`", &["regex", "rstring", "body_matches"], "write `body_regex`"),
    ("a backend", &["maxconn", "max_conns", "max_conn", "max_requests", "limit"], "write `max_connections`"),
    ("a backend", &["down", "disabled", "disable", "enabled"], "write `maintenance = true`"),
    ("a backend", &["draining"], "write `drain = true`"),
    (
        "a backend",
        &["max_fails", "fail_timeout"],
        "write `consecutive_failures` and `open_for` in `[pools.NAME.breaker]`",
    ),
    (
        "a pool",
        &["circuit_breaker", "circuit_breakers", "outlier_detection", "max_fails", "fail_timeout", "breakers"],
        "write `[pools.NAME.breaker]` with `consecutive_failures = 5` and `open_for = \"5s\"`",
    ),
    ("a pool", SLOW_START, "write `slow_start = \"30s\"`"),
    ("a backend", SLOW_START, "write `[pools.NAME]` with `slow_start = \"30s\"`"),
    ("a pool", &["healthy_panic_threshold", "panic", "panic_mode"], "write `panic_threshold = 0.5`"),
    ("the breaker of a pool", FAILURES_IN_A_ROW, "write `consecutive_failures = 5`"),
    ("[defaults.breaker]", FAILURES_IN_A_ROW, "write `consecutive_failures = 5`"),
    ("the breaker of a pool", EJECTED_SHARE, "write `max_open_ratio = 0.5`"),
    ("[defaults.breaker]", EJECTED_SHARE, "write `max_open_ratio = 0.5`"),
    ("the breaker of a pool", OPEN_TIME, "write `open_for = \"5s\"`"),
    ("[defaults.breaker]", OPEN_TIME, "write `open_for = \"5s\"`"),
    ("the breaker of a pool", ON_AND_OFF, "write `mode = \"off\"` for no breaker"),
    ("[defaults.breaker]", ON_AND_OFF, "write `mode = \"off\"` for no breakers"),
    (
        "a backend",
        &["host", "port", "addr", "ip", "url", "server", "target", "socket"],
        "write `address = \"10.0.0.1:3000\"`",
    ),
    ("a backend", &["id", "label"], "write `name`"),
    ("a backend", &["backup_server", "standby"], "write `backup = true`"),
];

const SLOW_START: &[&str] = &["slowstart", "slow_start_config", "slow_start_window", "warmup", "warm_up"];
const FAILURES_IN_A_ROW: &[&str] =
    &["consecutive_5xx", "consecutive", "max_fails", "failures", "threshold", "max_failures"];
const EJECTED_SHARE: &[&str] = &["max_ejection_percent", "max_ejection_ratio", "max_open"];
const OPEN_TIME: &[&str] =
    &["base_ejection_time", "fail_timeout", "timeout", "recovery_time", "fallback_duration", "recovery_duration"];
const ON_AND_OFF: &[&str] = &["enabled", "enable", "disabled", "off", "active"];

/// Words for things that this version does not have, wherever they are written.
const LATER: &[(&[&str], &str)] = &[
    (&["admin", "metrics", "dashboard", "stats", "status"], "an admin endpoint"),
    (&["log", "logs", "logging", "access_log", "error_log"], "logging keys; see `--log-level`"),
    (&["tls", "ssl"], "TLS here"),
    (&["acme"], "certificates by ACME"),
    (&["rate_limit", "rate_limits", "client_max_body_size"], "limits on rates and bodies"),
    (&["http3", "h3", "quic"], "HTTP/3"),
    (&["cache", "compression", "gzip", "auth", "basic_auth"], "filters"),
    (&["sticky", "session_affinity"], "sticky cookies; `ip_hash` and `consistent_hash` keep a client with a backend"),
    (&["resolver", "resolvers", "dns"], "name resolution"),
];

/// How the advice begins when nothing is near to the word.
const NO_GUESS: &str = "known here";

/// Other programs' words for algorithms.
const ALGORITHMS: &[(&[&str], &str)] = &[
    (&["leastconn", "least_conn", "least_connection", "least_request", "least_requests"], "least_connections"),
    (&["roundrobin", "rr", "round-robin"], "round_robin"),
    (&["static-rr", "weighted", "wrr", "weighted_roundrobin", "smooth"], "weighted_round_robin"),
    (&["source", "iphash", "source_ip", "client_ip", "sticky"], "ip_hash"),
    (&["random", "p2c", "power_of_two", "two_choices", "two_random_choices"], "random_two_choices"),
    (
        &["least_time", "fastest", "peak_ewma", "ewma", "latency", "least_latency", "response_time"],
        "least_response_time",
    ),
    (&["hash", "maglev", "ring_hash", "ketama", "consistent", "uri", "rendezvous"], "consistent_hash"),
];

/// The fault of a key that does not exist in a table of this shape.
#[must_use]
pub fn unknown_key(entry: &Entry, shape: &'static Shape) -> Diagnostic {
    let key = &entry.key;
    let whose = if shape.what == "the file" { "at the top of the file" } else { shape.what };
    let message = if shape.what == "the file" {
        format!("there is no key `{key}` {whose}")
    } else {
        format!("there is no key `{key}` in {whose}")
    };
    let fault = Diagnostic::error(message).label(entry.key_place, "unknown key");
    let help = key_help(key, shape);
    let heading = shape.heading.and_then(|heading| heading.strip_suffix("NAME]"));
    match (&entry.node.value, heading) {
        // `[listeners.www.example.com]`: TOML takes the dots of a name for its own.
        (Value::Table(_), Some(heading)) if help.starts_with(NO_GUESS) => {
            fault.help(format!("a name with dots stands in quotes: `{heading}\"NAME.{key}\"]`"))
        }
        _ => fault.help(help),
    }
}

fn key_help(key: &str, shape: &'static Shape) -> String {
    let folded = snake_case(key);
    let foreign = FOREIGN.iter().find(|(what, words, _)| *what == shape.what && words.contains(&folded.as_str()));
    if let Some((_, _, help)) = foreign {
        return (*help).into();
    }
    let names: Vec<&str> = shape.keys.iter().map(|known| known.name).collect();
    if names.contains(&folded.as_str()) {
        return format!("did you mean `{folded}`?");
    }
    if let Some((_, what)) = LATER.iter().find(|(words, _)| words.contains(&folded.as_str())) {
        return format!("this version does not have {what}");
    }
    if let Some(heading) = home_of(&folded) {
        return match heading.starts_with('[') {
            true => format!("`{folded}` belongs in `{heading}`"),
            false => format!("`{folded}` belongs at the top of the file, before every `[heading]`"),
        };
    }
    match nearest(&folded, &names) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("{NO_GUESS}: {}", quoted(&names)),
    }
}

/// `lb-policy`, `lbPolicy` and `LB_POLICY` as `lb_policy`.
fn snake_case(key: &str) -> String {
    let mut folded = String::with_capacity(key.len());
    let mut after_lower = false;
    for c in key.chars() {
        if c.is_ascii_uppercase() && after_lower {
            folded.push('_');
        }
        after_lower = c.is_ascii_lowercase();
        folded.push(if c == '-' { '_' } else { c.to_ascii_lowercase() });
    }
    folded
}

/// Whether someone who wrote `key` in a table of this shape probably meant `wanted`.
#[must_use]
pub fn may_mean(key: &str, shape: &'static Shape, wanted: &str) -> bool {
    let help = key_help(key, shape);
    !help.starts_with(NO_GUESS) && help.contains(&format!("`{wanted}"))
}

/// The heading under which a key of this name is known, if it is only one.
fn home_of(name: &str) -> Option<&'static str> {
    let mut homes: Vec<&'static str> = Vec::new();
    keys::every(&mut |_, shape: &'static Shape, key: &'static Key| {
        let heading = shape.heading.filter(|heading| key.name == name && !homes.contains(heading));
        homes.extend(heading);
    });
    match homes[..] {
        [heading] => Some(heading),
        _ => None,
    }
}

/// The fault of a value that is not one of the choices.
#[must_use]
pub fn unknown_choice(key: &str, found: &str, place: Place, choices: &[&str], expected: &str) -> Diagnostic {
    let fault = Diagnostic::error(format!("`{found}` is not a value of `{key}`")).label(place, "unknown value");
    let folded = found.to_lowercase();
    let foreign = ALGORITHMS.iter().find(|(words, ours)| choices.contains(ours) && words.contains(&folded.as_str()));
    if let Some((_, ours)) = foreign {
        return fault.help(format!("that is `{ours}` here"));
    }
    match nearest(&folded.replace(['-', ' '], "_"), choices) {
        Some(near) => fault.help(format!("did you mean `{near}`?")),
        None => fault.help(format!("write {expected}")),
    }
}

/// The one of `known` that is so near to `word` that it was probably meant.
#[must_use]
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    // A word of that length is no slip of the fingers, and comparing it takes long.
    if word.len() > 64 {
        return None;
    }
    let distances = known.iter().map(|candidate| (strsim::osa_distance(word, candidate), *candidate));
    let (distance, candidate) = distances.min_by_key(|(distance, _)| *distance)?;
    let is_near = distance <= (candidate.chars().count() / 3).max(1) && distance < word.chars().count();
    is_near.then_some(candidate)
}

/// `500ms`, `90s`: as the file has it.
#[must_use]
pub fn time(time: Duration) -> String {
    if time.subsec_millis() == 0 { format!("{}s", time.as_secs()) } else { format!("{}ms", time.as_millis()) }
}

/// `1 pool`, `2 pools`
#[must_use]
pub fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// `"a", "b" or "c"`
#[must_use]
pub fn listed(words: &[&str]) -> String {
    enumerate(words, '"', "or")
}

/// `` `a`, `b` and `c` ``
#[must_use]
pub fn quoted(words: &[&str]) -> String {
    enumerate(words, '`', "and")
}

fn enumerate(words: &[&str], quote: char, conjunction: &str) -> String {
    let mut text = String::new();
    for (index, word) in words.iter().enumerate() {
        match index {
            0 => {}
            index if index + 1 == words.len() => text.push_str(&format!(" {conjunction} ")),
            _ => text.push_str(", "),
        }
        text.push(quote);
        text.push_str(word);
        text.push(quote);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help(key: &str, shape: &'static Shape) -> String {
        key_help(key, shape)
    }

    #[test]
    fn slips_other_words_and_misplaced_keys_are_understood() {
        for (key, shape, part) in [
            ("balanc", &keys::POOL, "did you mean `balance`?"),
            ("hashOn", &keys::POOL, "did you mean `hash_on`?"),
            ("max-connections", &keys::POOL, "belongs in `[[pools.NAME.backends]]`"),
            ("upstream", &keys::FILE, "[pools.NAME]"),
            ("server", &keys::FILE, "[listeners.NAME]"),
            ("backends", &keys::FILE, "pool"),
            ("servers", &keys::POOL, "backends"),
            ("lb_policy", &keys::POOL, "balance"),
            ("port", &keys::LISTENER, "bind"),
            ("balance", &keys::LISTENER, "belongs in `[pools.NAME]`"),
            ("weight", &keys::POOL, "belongs in `[[pools.NAME.backends]]`"),
            ("include", &keys::POOL, "belongs at the top of the file"),
            ("connect_timeout", &keys::POOL, "[pools.NAME.timeouts]"),
            ("healthcheck", &keys::POOL, "health_check"),
            ("health_check", &keys::LISTENER, "belongs in `[pools.NAME]`"),
            ("outlier_detection", &keys::POOL, "[pools.NAME.breaker]"),
            ("max_ejection_percent", &keys::DEFAULT_BREAKER, "max_open_ratio"),
            ("http_version", &keys::LISTENER, "write `http_versions = [\"h1\", \"h2\"]`"),
            ("http2", &keys::LISTENER, "write `http_versions"),
            ("http_versions", &keys::POOL, "write `http_version = \"h2\"`"),
            ("grpc", &keys::POOL, "write `http_version = \"h2\"`"),
            ("http3", &keys::LISTENER, "this version does not have HTTP/3"),
            ("xyzzy", &keys::POOL, "known here: `backends`"),
        ] {
            assert!(help(key, shape).contains(part), "{key}: {}", help(key, shape));
        }
    }

    /// `tls` and `status` are keys of some tables and mean what is not there in others.
    #[test]
    fn nothing_that_has_a_key_is_said_to_be_missing() {
        keys::every(&mut |path, _, key| {
            let missing = LATER.iter().any(|(words, _)| words.contains(&key.name));
            assert!(!missing || ["tls", "status"].contains(&key.name), "{path}");
        });
    }

    #[test]
    fn no_foreign_word_is_a_key_of_the_table_it_is_explained_for() {
        keys::every(&mut |path, shape, key| {
            for (what, words, _) in FOREIGN {
                assert!(*what != shape.what || !words.contains(&key.name), "{path}");
            }
        });
    }

    #[test]
    fn every_foreign_word_is_explained_for_a_table_that_exists() {
        let mut shapes = std::collections::BTreeSet::new();
        keys::every(&mut |_, shape, _| {
            shapes.insert(shape.what);
        });
        for (what, _, _) in FOREIGN {
            assert!(shapes.contains(what), "{what}");
        }
    }

    #[test]
    fn a_word_far_from_all_is_not_guessed() {
        assert_eq!(nearest("zzz", &["abc", "pool"]), None);
        assert_eq!(nearest("pol", &["abc", "pool"]), Some("pool"));
        assert_eq!(nearest("a", &["b"]), None);
    }
}
