//! `health_check` of a pool: the short form, the table, and which keys go together.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::super::diagnostic::{Diagnostic, Place};
use super::super::read::{Entry, Node, Table, Value};
use super::super::{
    Address, Aim, Backend, Expect, HealthCheck, HttpProbe, Initial, OnDown, Pattern, Probe, keys, words,
};
use super::{Checking, duration, entries};
use crate::http::target::Target;

/// What a health check is written as, in advice.
const SHORT_FORMS: &str = "write \"GET /healthz\", \"tcp\" or \"grpc\"";

/// Which keys say something to some types only.
const OWNERS: &[(&str, &[&str])] = &[
    ("method", &["http"]),
    ("path", &["http"]),
    ("headers", &["http"]),
    ("expect", &["http"]),
    ("host", &["http", "grpc"]),
    ("service", &["grpc"]),
];

impl Checking<'_> {
    /// What the pool's `health_check` means; `None` for a pool without, or with a faulty one.
    pub(super) fn health_check(&mut self, pool: &Table, backends: &[Backend]) -> Option<Arc<HealthCheck>> {
        let entry = pool.entry("health_check")?;
        let check = match entry.node.as_text() {
            Some((text, place)) => self.short_check(text, place).map(|probe| self.check_of(probe, None)),
            None => self.check_table(entry.node.as_table()?, backends),
        };
        if pool.list("backends").is_some_and(<[Node]>::is_empty) {
            let fault = Diagnostic::error("a health check of a pool without backends").at(entry.key_place);
            self.faults.push(fault.help("write the backends that it is for, or remove `health_check`"));
        }
        check.map(Arc::new)
    }

    /// Whether backends that are down are a last resort.
    pub(super) fn fail_open(&mut self, pool: &Table) -> bool {
        if let Some(entry) = pool.entry("fail_open")
            && pool.entry("health_check").is_none()
        {
            let warning = Diagnostic::warning("`fail_open` has no effect without `health_check`").at(entry.key_place);
            self.faults
                .push(warning.help("only a health check takes a backend down: write one, or remove `fail_open`"));
        }
        pool.flag("fail_open").unwrap_or(true)
    }

    fn short_check(&mut self, text: &str, place: Place) -> Option<Probe> {
        match text.trim() {
            "tcp" => return Some(Probe::Tcp),
            "grpc" => return Some(Probe::Grpc { service: String::new(), host: None }),
            _ => {}
        }
        let Some((method, path)) = text.split_once(' ') else {
            let message = format!("`{}` is not a health check", text.escape_debug());
            self.error(place, message, short_help(text.trim()));
            return None;
        };
        if !keys::PROBE_METHODS.contains(&method) {
            let help = format!("write {}, in upper case, and the path", words::listed(keys::PROBE_METHODS));
            self.error(place, format!("`{}` is not a method for a health check", method.escape_debug()), help);
            return None;
        }
        let path = self.probe_path(path, place)?;
        let (method, host) = (method.to_owned(), None);
        Some(Probe::Http(Box::new(HttpProbe { method, path, host, headers: Vec::new(), expect: Expect::default() })))
    }

    fn check_table(&mut self, table: &Table, backends: &[Backend]) -> Option<HealthCheck> {
        let kind = self.check_type(table)?;
        self.refuse_keys_of_other_types(table, kind);
        let probe = match kind {
            "http" => self.http_probe(table).map(|probe| Probe::Http(Box::new(probe))),
            "grpc" => {
                let service = table.text("service").map_or("", |(text, _)| text).to_owned();
                self.probe_host(table).map(|host| Probe::Grpc { service, host })
            }
            _ => Some(Probe::Tcp),
        };
        let aim = self.aim(table, backends);
        let mut check = self.check_of(probe?, Some(table));
        check.aim = aim?;
        Some(check)
    }

    /// The type that is written, or the one that the keys are of.
    fn check_type<'t>(&mut self, table: &'t Table) -> Option<&'t str> {
        match table.node("type") {
            Some(node) => node.as_text().map(|(kind, _)| kind),
            None if table.entry("path").is_some() => Some("http"),
            None if table.entry("service").is_some() => Some("grpc"),
            None => Some("tcp"),
        }
    }

    fn refuse_keys_of_other_types(&mut self, table: &Table, kind: &str) {
        for (key, owners) in OWNERS.iter().filter(|(_, owners)| !owners.contains(&kind)) {
            let Some(entry) = table.entry(key) else { continue };
            let fault = Diagnostic::error(format!("`{key}` has no effect on a {kind} check")).at(entry.key_place);
            let fault = match table.node("type") {
                Some(node) => fault.label(node.place, "the type"),
                None => fault,
            };
            self.faults.push(fault.help(format!("write `type = \"{}\"`, or remove `{key}`", owners[0])));
        }
    }

    /// The rest of a check: its times and counts, and what follows from it.
    fn check_of(&mut self, probe: Probe, table: Option<&Table>) -> HealthCheck {
        let interval = duration(table, &keys::CHECK_INTERVAL);
        let own = |key| table.and_then(|table| table.duration(key)).unwrap_or(interval);
        let says = |key, word| table.and_then(|table| table.text(key)).is_some_and(|(text, _)| text == word);
        HealthCheck {
            probe,
            aim: Aim::Backend,
            interval,
            fast_interval: own("fast_interval"),
            down_interval: own("down_interval"),
            timeout: self.check_timeout(table, interval),
            rise: count(table, &keys::RISE),
            fall: count(table, &keys::FALL),
            jitter: jitter(table),
            initial: if says("initial", "down") { Initial::Down } else { Initial::Up },
            on_down: if says("on_down", "close_sessions") { OnDown::CloseSessions } else { OnDown::KeepSessions },
        }
    }

    fn check_timeout(&mut self, table: Option<&Table>, interval: Duration) -> Duration {
        let timeout = table.and_then(|table| table.entry("timeout"));
        let Some((entry, Value::Duration(written))) = timeout.map(|entry| (entry, &entry.node.value)) else {
            return keys::CHECK_TIMEOUT.default_duration().min(interval);
        };
        if *written > interval {
            let fault = Diagnostic::error("the `timeout` of a health check is longer than its `interval`");
            let fault = fault.label(entry.node.place, "a probe may take this long");
            let (fault, help) = match table.and_then(|table| table.node("interval")) {
                Some(node) => (fault.label(node.place, "and the next one is due after this"), "the `interval`"),
                None => (fault, "the `interval`, which is 2s when it is not written"),
            };
            self.faults.push(fault.help(format!("write a `timeout` of at most {help}, or a longer `interval`")));
        }
        *written
    }

    fn aim(&mut self, table: &Table, backends: &[Backend]) -> Option<Aim> {
        match (table.entry("port"), table.entry("address")) {
            (None, None) => Some(Aim::Backend),
            (None, Some(entry)) => {
                let (text, place) = entry.node.as_text()?;
                self.backend_address(text, place).map(Aim::Address)
            }
            (Some(entry), None) => self.aim_at_port(entry, table.integer("port")?, backends),
            (Some(port), Some(address)) => {
                let fault = Diagnostic::error("a health check has a `port` or an `address`, not both");
                let fault = fault.label(address.key_place, "this has a port already").label(port.key_place, "and this");
                self.faults.push(fault.help("keep one of them"));
                None
            }
        }
    }

    fn aim_at_port(&mut self, entry: &Entry, port: i64, backends: &[Backend]) -> Option<Aim> {
        let unix = backends.iter().find(|backend| matches!(backend.address, Address::Unix(_)));
        if let Some(backend) = unix {
            let fault = Diagnostic::error(format!("`{}` has no other port", backend.address)).at(entry.key_place);
            self.faults.push(fault.help("a Unix socket has no ports: write `address`, or remove `port`"));
            return None;
        }
        u16::try_from(port).ok().map(Aim::Port)
    }

    fn http_probe(&mut self, table: &Table) -> Option<HttpProbe> {
        let method = table.text("method").map_or("GET", |(text, _)| text);
        let path = match table.text("path") {
            Some((text, place)) => self.probe_path(text, place),
            None => Some("/".to_owned()),
        };
        let host = self.probe_host(table);
        let headers = self.probe_headers(table);
        let expect = self.expect(table.entry("expect"), method);
        Some(HttpProbe { method: method.to_owned(), path: path?, host: host?, headers, expect: expect? })
    }

    /// Path and query, as they are sent.
    fn probe_path(&mut self, text: &str, place: Place) -> Option<String> {
        let is_sound = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
        if is_sound && Target::default().set_path_and_query(text.as_bytes()).is_ok() {
            return Some(text.to_owned());
        }
        let help = match text.split_once("://") {
            Some(_) => "write only what stands behind the host, such as \"/healthz\"; the host goes into `host`",
            None => "write it as it stands in a request, such as \"/healthz?full=1\"",
        };
        self.error(place, format!("`{}` is not a path to ask for", text.escape_debug()), help);
        None
    }

    /// The inner `None`: none is written.
    fn probe_host(&mut self, table: &Table) -> Option<Option<String>> {
        let Some((text, place)) = table.text("host") else { return Some(None) };
        if Target::default().set_authority(text.as_bytes()).is_ok() {
            return Some(Some(text.to_owned()));
        }
        let help = "write a name or address, with a port if need be: \"app.example.com\"";
        self.error(place, format!("`{}` is not a host", text.escape_debug()), help);
        None
    }

    fn probe_headers(&mut self, table: &Table) -> Vec<(String, String)> {
        let fields = entries(table, "headers");
        for entry in fields.iter().filter(|entry| entry.key.eq_ignore_ascii_case("host")) {
            self.error(entry.key_place, "`Host` has a key of its own", "write `host = \"…\"`");
        }
        self.request_fields(fields)
    }

    fn expect(&mut self, entry: Option<&Entry>, method: &str) -> Option<Expect> {
        let Some(entry) = entry else { return Some(Expect::default()) };
        let table = entry.node.as_table()?;
        if table.entries.is_empty() {
            self.error(entry.key_place, "`expect` is empty", "leave it out to expect a status from 200 to 399");
        }
        self.refuse_body_of_head(table, method);
        let status = self.statuses(table.node("status"));
        let body_contains = self.body_text(table);
        let body_regex = match table.text("body_regex") {
            Some((text, place)) => self.regex(text, place).map(|regex| Some(Pattern(regex))),
            None => Some(None),
        };
        let headers = self.header_matches(entries(table, "headers"));
        Some(Expect { status: status?, body_contains, body_regex: body_regex?, headers: headers? })
    }

    fn refuse_body_of_head(&mut self, expect: &Table, method: &str) {
        let body_keys = ["body_contains", "body_regex"].iter().filter_map(|key| expect.entry(key));
        for entry in body_keys.filter(|_| method == "HEAD") {
            let fault = Diagnostic::error("a HEAD request is answered without a body").at(entry.key_place);
            self.faults.push(fault.help(format!("write `method = \"GET\"`, or remove `{}`", entry.key)));
        }
    }

    fn body_text(&mut self, expect: &Table) -> Option<String> {
        let (text, place) = expect.text("body_contains")?;
        if text.is_empty() {
            self.error(place, "every body contains nothing", "write the text that a good answer has");
        }
        Some(text.to_owned())
    }

    fn statuses(&mut self, node: Option<&Node>) -> Option<Vec<RangeInclusive<u16>>> {
        let Some(node) = node else { return Some(Expect::default().status) };
        let Some(nodes) = node.as_list() else { return self.status_range(node).map(|range| vec![range]) };
        if nodes.is_empty() {
            self.error(node.place, "`status` is empty", "leave it out to expect a status from 200 to 399");
            return None;
        }
        let ranges: Vec<_> = nodes.iter().filter_map(|node| self.status_range(node)).collect();
        (ranges.len() == nodes.len()).then_some(ranges)
    }

    fn status_range(&mut self, node: &Node) -> Option<RangeInclusive<u16>> {
        if let Value::Integer(status) = node.value {
            return u16::try_from(status).ok().map(|status| status..=status);
        }
        let (text, place) = node.as_text()?;
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        if let (Some(first), Some(last)) = (status(first), status(last))
            && first <= last
        {
            return Some(first..=last);
        }
        self.error(place, format!("`{}` is not a range of statuses", text.escape_debug()), status_help(text));
        None
    }
}

fn status(text: &str) -> Option<u16> {
    let is_status = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|status| is_status && (100..=599).contains(status))
}

fn status_help(text: &str) -> String {
    match text.as_bytes() {
        [class @ b'1'..=b'5', b'x' | b'X', b'x' | b'X'] => {
            let class = char::from(*class);
            format!("write \"{class}00-{class}99\"")
        }
        _ => "write a status from 100 to 599 or a range of them: 200, \"200-299\"".into(),
    }
}

fn short_help(text: &str) -> String {
    match text.split_once("://") {
        Some((_, rest)) => {
            let path = rest.find('/').map_or("/", |at| &rest[at..]);
            format!("write \"GET {path}\"; the host goes into the table form: `{{ path = \"{path}\", host = \"…\" }}`")
        }
        None if text.starts_with('/') => format!("write \"GET {text}\""),
        None if text.eq_ignore_ascii_case("http") => "write the path as well: \"GET /healthz\"".into(),
        None => SHORT_FORMS.into(),
    }
}

fn count(table: Option<&Table>, key: &keys::Key) -> u8 {
    let written = table.and_then(|table| table.integer(key.name));
    u8::try_from(written.unwrap_or_else(|| key.default_integer())).unwrap_or(u8::MAX)
}

fn jitter(table: Option<&Table>) -> f64 {
    let table = table.filter(|table| table.entry("jitter").is_some());
    match table {
        // It has to be written as 0 to be no number above 0.
        Some(table) => table.number("jitter").unwrap_or(0.0),
        None => keys::CHECK_JITTER.default_number(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_said, meant, said};
    use super::*;

    const BACKENDS: &str = "backends = ['10.0.0.1:80']\n";

    fn with(pool: &str) -> String {
        format!("listeners.w = {{ bind = '127.0.0.1:0', pool = 'p' }}\n[pools.p]\n{BACKENDS}{pool}")
    }

    fn check(text: &str) -> HealthCheck {
        let config = meant(&with(&format!("health_check = {text}")));
        HealthCheck::clone(config.pools[0].health_check.as_ref().unwrap())
    }

    fn http(text: &str) -> HttpProbe {
        match check(text).probe {
            Probe::Http(probe) => *probe,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_written_has_the_documented_default() {
        let check = check("'tcp'");
        let seconds = Duration::from_secs;
        assert_eq!((check.interval, check.fast_interval, check.down_interval), (seconds(2), seconds(2), seconds(2)));
        assert_eq!((check.timeout, check.rise, check.fall, check.jitter), (seconds(1), 2, 3, 0.1));
        assert_eq!((check.probe, check.aim), (Probe::Tcp, Aim::Backend));
        assert_eq!((check.initial, check.on_down), (Initial::Up, OnDown::KeepSessions));
        let config = meant(&with(""));
        assert!(config.pools[0].health_check.is_none() && config.pools[0].fail_open);
    }

    #[test]
    fn the_short_form_is_the_table_of_the_same_meaning() {
        assert_eq!(check("'GET /healthz?full=1'"), check("{ path = '/healthz?full=1' }"));
        assert_eq!(check("'HEAD /'"), check("{ type = 'http', method = 'HEAD' }"));
        assert_eq!(check("'tcp'"), check("{}"));
        assert_eq!(check("'grpc'"), check("{ type = 'grpc' }"));
    }

    #[test]
    fn the_table_is_taken_as_it_is_written() {
        let check = check(
            "{ path = '/h', interval = '4s', fast_interval = '500ms', down_interval = '9s', timeout = '3s', rise = 5, \
             fall = 1, jitter = 0, initial = 'down', on_down = 'close_sessions', port = 9000 }",
        );
        let millis = Duration::from_millis;
        assert_eq!(
            (check.interval, check.fast_interval, check.down_interval),
            (millis(4000), millis(500), millis(9000))
        );
        assert_eq!((check.timeout, check.rise, check.fall, check.jitter), (millis(3000), 5, 1, 0.0));
        assert_eq!((check.initial, check.on_down, check.aim), (Initial::Down, OnDown::CloseSessions, Aim::Port(9000)));
        assert_eq!(super::tests::check("{ jitter = 0.25 }").jitter, 0.25);
        let elsewhere = super::tests::check("{ address = '10.0.0.9:9' }").aim;
        assert_eq!(elsewhere, Aim::Address(Address::Ip(([10, 0, 0, 9], 9).into())));
        let grpc = super::tests::check("{ service = 'a.B', host = 'x' }").probe;
        assert_eq!(grpc, Probe::Grpc { service: "a.B".into(), host: Some("x".into()) });
    }

    #[test]
    fn a_good_answer_is_what_is_written_of_it() {
        let expect = http("{ path = '/', expect = { status = ['200-204', 304, '418'] } }").expect;
        assert_eq!(expect, Expect { status: vec![200..=204, 304..=304, 418..=418], ..Expect::default() });
        assert_eq!(http("{ path = '/', expect = { status = 204 } }").expect.status, [204..=204]);
        let probe = http(
            "{ path = '/', host = 'app.example.com:81', headers = { X-Who = 'lb' }, expect = { body_contains = 'ok', \
             body_regex = '^ok$', headers = { X-Env = 'live', X-Any = { present = true } } } }",
        );
        assert_eq!(probe.host.as_deref(), Some("app.example.com:81"));
        assert_eq!(probe.headers, [("X-Who".to_owned(), "lb".to_owned())]);
        assert!(probe.expect.asks_for_body() && probe.expect.status == [200..=399]);
        assert_eq!(probe.expect.headers.len(), 2);
    }

    #[test]
    fn a_short_interval_shortens_the_default_timeout() {
        assert_eq!(check("{ interval = '300ms' }").timeout, Duration::from_millis(300));
    }

    #[test]
    fn what_can_not_be_meant_is_refused_with_advice() {
        for (wrong, parts) in [
            ("'/healthz'", &["test.toml:4:16", "is not a health check", "write \"GET /healthz\""][..]),
            ("'http://10.0.0.1:80/up'", &["write \"GET /up\""]),
            ("'http'", &["write the path as well"]),
            ("'ping'", &["write \"GET /healthz\", \"tcp\" or \"grpc\""]),
            ("'get /'", &["`get` is not a method", "in upper case"]),
            ("'GET healthz'", &["`healthz` is not a path to ask for"]),
            ("'GET /a b'", &["`/a b` is not a path to ask for"]),
            ("{ path = 'http://x/y' }", &["the host goes into `host`"]),
            ("{ fall = 0 }", &["0 is out of range for `fall`", "from 1 to 100", "test.toml:4:25"]),
            ("{ rise = 101 }", &["out of range"]),
            ("{ jitter = 1 }", &["out of range for `jitter`"]),
            ("{ jitter = 0.6 }", &["up to 0.5"]),
            ("{ timeout = '3s' }", &["longer than its `interval`", "which is 2s when it is not written"]),
            ("{ timeout = '3s', interval = '1s' }", &["a probe may take this long", "the next one is due after this"]),
            ("{ timeout = '1' }", &["add the unit"]),
            ("{ type = 'tcp', path = '/' }", &["`path` has no effect on a tcp check", "write `type = \"http\"`"]),
            ("{ expect = { body_contains = 'ok' } }", &["`expect` has no effect on a tcp check"]),
            ("{ type = 'grpc', method = 'GET' }", &["`method` has no effect on a grpc check"]),
            ("{ path = '/', service = 's' }", &["`service` has no effect on a http check"]),
            ("{ path = '/', expect = { body_regex = '(' } }", &["not a regular expression", "unclosed group"]),
            ("{ path = '/', expect = { body_contains = '' } }", &["every body contains nothing"]),
            ("{ path = '/', method = 'HEAD', expect = { body_contains = 'x' } }", &["HEAD", "without a body"]),
            ("{ path = '/', method = 'DELETE' }", &["\"GET\""]),
            ("{ path = '/', expect = {} }", &["`expect` is empty"]),
            ("{ path = '/', expect = { status = [] } }", &["`status` is empty"]),
            ("{ path = '/', expect = { status = '2xx' } }", &["write \"200-299\""]),
            ("{ path = '/', expect = { status = ['300-200'] } }", &["is not a range of statuses"]),
            ("{ path = '/', expect = { status = 600 } }", &["out of range"]),
            ("{ path = '/', expect = { code = 200 } }", &["write `status`"]),
            ("{ path = '/', headers = { Host = 'x' } }", &["write `host = \"…\"`"]),
            ("{ path = '/', headers = { Connection = 'x' } }", &["can not touch `Connection`"]),
            ("{ path = '/', host = 'a b' }", &["is not a host"]),
            ("{ port = 9, address = '10.0.0.1:9' }", &["not both"]),
            ("{ address = 'localhost:9' }", &["127.0.0.1:9"]),
            ("{ uri = '/' }", &["write `path"]),
            ("{ unhealthy_threshold = 3 }", &["write `fall"]),
        ] {
            assert_said(&with(&format!("health_check = {wrong}")), parts);
        }
    }

    #[test]
    fn a_check_needs_backends_that_it_can_be_made_on() {
        let pool = |text: &str| format!("listeners.w = {{ bind = '127.0.0.1:0', pool = 'p' }}\n[pools.p]\n{text}");
        let report = said(&pool("backends = []\nhealth_check = 'tcp'"));
        assert!(report.to_string().contains("a health check of a pool without backends"), "{report}");
        assert_said(&pool("backends = ['unix:/run/a']\nhealth_check = { port = 9 }"), &["has no other port"]);
    }

    #[test]
    fn fail_open_without_a_check_is_pointed_out() {
        assert_said(&with("fail_open = false"), &["warning: `fail_open` has no effect without `health_check`"]);
        assert!(!meant(&with("fail_open = false\nhealth_check = 'tcp'")).pools[0].fail_open);
    }
}
