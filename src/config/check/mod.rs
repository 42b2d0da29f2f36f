//! Values → [`Config`]: what the table of keys can not say. Names that have to exist, addresses, hosts, paths and headers
//! that have to be well formed, keys that exclude each other. All faults at once.
//!
//! The tree has been through [`conform`](super::conform): a value has the kind its key asks for, or is
//! [`Value::Faulty`] and was reported. Whatever is at fault here is reported and left out of what is built; a
//! [`Config`] comes out only when nothing was.

mod address;
mod breaker;
mod headers;
mod health;
mod listeners;
mod passthrough;
mod patterns;
mod pools;
mod recovery;
mod routes;
mod shadow;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::diagnostic::{Diagnostic, Faults, Place, Source};
use super::keys::{self, Key};
use super::read::{Entry, Node, Table, Value};
use super::{Config, Name, Reload, Runtime, Timeouts, words};

/// The longest name that logs and metrics have to carry.
const LONGEST_NAME: usize = 128;

/// The configuration that the tree means, unless there is any error.
pub fn check(root: &Table, sources: &[Source], faults: &mut Faults) -> Option<Config> {
    let mut checking = Checking::new(root, sources, faults);
    let defaults = default_timeouts(root);
    let breaker = checking.default_breaker(root);
    let mut pools: Vec<_> =
        entries(root, "pools").iter().filter_map(|entry| checking.pool(entry, &defaults, &breaker)).collect();
    let mut listeners: Vec<_> =
        entries(root, "listeners").iter().filter_map(|entry| checking.listener(entry, &defaults)).collect();
    checking.need_a_listener(root);
    if checking.faults.has_errors() {
        return None;
    }
    checking.warn_of_unused_pools();
    pools.sort_by(|a, b| a.name.cmp(&b.name));
    listeners.sort_by(|a, b| a.name.cmp(&b.name));
    Some(Config { runtime: runtime(root), reload: reload(root), listeners, pools })
}

/// What is known while the tree is walked.
struct Checking<'a> {
    faults: &'a mut Faults,
    sources: &'a [Source],
    /// Every pool that is defined, even if badly, and where.
    pools: BTreeMap<Name, Place>,
    /// Whether pools may be defined in a part of the file that could not be understood.
    pools_are_hidden: bool,
    used_pools: BTreeSet<Name>,
    /// Pools that hash on a part of HTTP requests, and where they say so.
    http_hashes: BTreeMap<Name, Place>,
    bound: Vec<address::Bound>,
}

impl<'a> Checking<'a> {
    fn new(root: &Table, sources: &'a [Source], faults: &'a mut Faults) -> Checking<'a> {
        let pools = entries(root, "pools").iter().map(|entry| (entry.key.as_str().into(), entry.key_place)).collect();
        let pools_are_hidden =
            root.table("pools").is_none() && root.entries.iter().any(|entry| entry.node.value == Value::Faulty);
        Checking {
            faults,
            sources,
            pools,
            pools_are_hidden,
            used_pools: BTreeSet::new(),
            http_hashes: BTreeMap::new(),
            bound: Vec::new(),
        }
    }

    fn error(&mut self, place: Place, message: impl Into<String>, help: impl Into<String>) {
        self.faults.push(Diagnostic::error(message).at(place).help(help));
    }

    fn need_a_listener(&mut self, root: &Table) {
        let is_hidden = root.entries.iter().any(|entry| entry.node.value == Value::Faulty);
        if entries(root, "listeners").is_empty() && !is_hidden {
            let fault = Diagnostic::error("there is no listener, so nothing would be served");
            self.faults.push_undefined(
                fault.help("write `[listeners.NAME]` with `bind = \"0.0.0.0:8080\"` and `pool = \"NAME\"`"),
            );
        }
    }

    /// Reports that none of `keys` is in the table, unless the writer tried and hit a key that does not exist.
    fn missing(&mut self, table: &Table, shape: &'static keys::Shape, wanted: &[&str], fault: Diagnostic) {
        let was_tried = |entry: &Entry| {
            shape.key(&entry.key).is_none() && wanted.iter().any(|name| words::may_mean(&entry.key, shape, name))
        };
        if !table.entries.iter().any(was_tried) {
            self.faults.push_absence(fault);
        }
    }

    /// The name, if it can be one.
    fn name(&mut self, what: &str, text: &str, place: Place) -> Option<Name> {
        let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        if !text.is_empty() && text.len() <= LONGEST_NAME && text.bytes().all(is_sound) {
            return Some(text.into());
        }
        let help = format!("use 1 to {LONGEST_NAME} ASCII letters, digits, `_`, `-` and `.`");
        self.error(place, format!("this can not be the name of a {what}"), help);
        None
    }

    /// The pool of this name, which is then in use.
    fn pool_reference(&mut self, node: Option<&Node>) -> Option<Name> {
        let (text, place) = node?.as_text()?;
        if let Some((name, _)) = self.pools.get_key_value(text) {
            let name = Arc::clone(name);
            self.used_pools.insert(Arc::clone(&name));
            return Some(name);
        }
        let names: Vec<&str> = self.pools.keys().map(|name| &**name).collect();
        let help = match words::nearest(text, &names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("write `[pools.{text}]` with `backends = [\"10.0.0.1:3000\"]`, or name a pool that exists"),
        };
        let fault = Diagnostic::error(format!("there is no pool `{text}`")).label(place, "not defined").help(help);
        if !self.pools_are_hidden {
            self.faults.push_undefined(fault);
        }
        None
    }

    fn warn_of_unused_pools(&mut self) {
        for (name, place) in &self.pools {
            if !self.used_pools.contains(name) {
                let warning = Diagnostic::warning(format!("nothing uses the pool `{name}`")).at(*place);
                self.faults
                    .push(warning.help(format!("name it in a listener or route: `pool = \"{name}\"`, or remove it")));
            }
        }
    }

    /// Reports each that is the same as an earlier one, with both places.
    fn each_once<T: Ord>(&mut self, what: &str, help: &str, items: impl IntoIterator<Item = (T, Place)>) {
        let mut seen: BTreeMap<T, Place> = BTreeMap::new();
        for (item, place) in items {
            if let Some(first) = seen.get(&item) {
                let fault =
                    Diagnostic::error(format!("{what} twice")).label(place, "again").label(*first, "first here");
                self.faults.push(fault.help(help));
            } else {
                seen.insert(item, place);
            }
        }
    }

    /// The one entry of a table that must have exactly one.
    fn only_entry<'t>(&mut self, node: &'t Node, shape: &'static keys::Shape) -> Option<&'t Entry> {
        let table = node.as_table()?;
        if let [entry] = &table.entries[..] {
            return Some(entry);
        }
        let names: Vec<&str> = shape.keys.iter().map(|key| key.name).collect();
        let message = format!("{} needs exactly one of {}", shape.what, words::quoted(&names));
        let message = message.replace(" and ", " or ");
        let fault = Diagnostic::error(message).at(node.place).help(format!("this one has {}", table.entries.len()));
        match table.entries.is_empty() {
            true => self.faults.push_absence(fault),
            false => self.faults.push(fault),
        }
        None
    }
}

fn entries<'t>(root: &'t Table, key: &str) -> &'t [Entry] {
    root.table(key).map_or(&[], |table| &table.entries)
}

fn runtime(root: &Table) -> Runtime {
    let table = root.table("runtime");
    Runtime {
        workers: table.and_then(|table| table.integer("workers")).and_then(to_count),
        shutdown_grace: duration(table, &keys::SHUTDOWN_GRACE),
        connections: table.and_then(|table| table.integer("connections")).and_then(to_count),
    }
}

fn reload(root: &Table) -> Reload {
    let table = root.table("reload");
    Reload {
        watch: table.and_then(|table| table.flag("watch")).unwrap_or(true),
        drain_timeout: duration(table, &keys::DRAIN_TIMEOUT),
    }
}

fn duration(table: Option<&Table>, key: &Key) -> Duration {
    table.and_then(|table| table.duration(key.name)).unwrap_or_else(|| key.default_duration())
}

fn to_count(number: i64) -> Option<NonZeroU32> {
    u32::try_from(number).ok().and_then(NonZeroU32::new)
}

fn default_timeouts(root: &Table) -> Timeouts {
    let mut timeouts = Timeouts {
        client_header: Duration::ZERO,
        client_body: Duration::ZERO,
        client_write: Duration::ZERO,
        client_min_rate: keys::CLIENT_MIN_RATE.default_bytes(),
        client_idle: Duration::ZERO,
        tls_handshake: Duration::ZERO,
        connect: Duration::ZERO,
        response_header: Duration::ZERO,
        response_body: Duration::ZERO,
        upstream_idle: Duration::ZERO,
        tunnel_idle: Duration::ZERO,
        queue: Duration::ZERO,
        request: None,
    };
    let table = root.table("defaults").and_then(|table| table.table("timeouts"));
    for key in keys::DEFAULT_TIMEOUTS.keys {
        if let Some(slot) = slot(&mut timeouts, key.name) {
            *slot = duration(table, key);
        }
    }
    set_min_rate(table, &mut timeouts);
    timeouts.request = request_timeout(table, None);
    timeouts
}

/// The deadline for a whole request as this table of timeouts has it.
fn request_timeout(table: Option<&Table>, otherwise: Option<Duration>) -> Option<Duration> {
    match table.and_then(|table| table.node(keys::REQUEST.name)).map(|node| &node.value) {
        Some(Value::Duration(value)) => Some(*value),
        Some(Value::Text(_)) => None,
        _ => otherwise,
    }
}

fn set_min_rate(table: Option<&Table>, timeouts: &mut Timeouts) {
    if let Some(rate) = table.and_then(|table| table.bytes(keys::CLIENT_MIN_RATE.name)) {
        timeouts.client_min_rate = rate;
    }
}

/// The defaults, with what the table's own `timeouts` set.
fn own_timeouts(table: &Table, defaults: &Timeouts) -> Timeouts {
    let mut timeouts = defaults.clone();
    for entry in entries(table, "timeouts") {
        if let (Value::Duration(value), Some(slot)) = (&entry.node.value, slot(&mut timeouts, &entry.key)) {
            *slot = *value;
        }
    }
    set_min_rate(table.table("timeouts"), &mut timeouts);
    timeouts.request = request_timeout(table.table("timeouts"), defaults.request);
    timeouts
}

fn slot<'t>(timeouts: &'t mut Timeouts, name: &str) -> Option<&'t mut Duration> {
    Some(match name {
        "client_header" => &mut timeouts.client_header,
        "client_body" => &mut timeouts.client_body,
        "client_write" => &mut timeouts.client_write,
        "client_idle" => &mut timeouts.client_idle,
        "tls_handshake" => &mut timeouts.tls_handshake,
        "connect" => &mut timeouts.connect,
        "response_header" => &mut timeouts.response_header,
        "response_body" => &mut timeouts.response_body,
        "upstream_idle" => &mut timeouts.upstream_idle,
        "tunnel_idle" => &mut timeouts.tunnel_idle,
        "queue" => &mut timeouts.queue,
        _ => return None,
    })
}

/// What the tests of this room are written with.
#[cfg(test)]
mod testing {
    use crate::config::{Config, Report, from_text};

    /// Two pools, and a listener that uses both unless the test writes its own.
    pub(super) const POOLS: &str = "[pools.a]\nbackends = ['10.0.0.1:80']\n[pools.b]\nbackends = ['10.0.0.2:80']\n";

    /// What is said about this text, errors or warnings.
    pub(super) fn said(text: &str) -> Report {
        match from_text("test.toml", text) {
            Ok(loaded) => loaded.warnings,
            Err(report) => report,
        }
    }

    /// What is meant by this text, which has to be without fault.
    pub(super) fn meant(text: &str) -> Config {
        match from_text("test.toml", text) {
            Ok(loaded) => loaded.config,
            Err(report) => panic!("{report}"),
        }
    }

    /// Asserts that there is exactly one diagnostic, and that its rendering has each of these parts.
    #[track_caller]
    pub(super) fn assert_said(text: &str, parts: &[&str]) {
        let report = said(text);
        assert_eq!(report.diagnostics.len(), 1, "of\n{text}\n{report}");
        let rendered = report.to_string();
        for part in parts {
            assert!(rendered.contains(part), "{part:?} of\n{text}\nin\n{rendered}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Bytes;
    use super::testing::{assert_said, meant, said};
    use super::*;

    #[test]
    fn what_is_not_written_has_the_documented_default() {
        let config = meant("listeners.w = { bind = '127.0.0.1:0', pool = 'a' }\npools.a.backends = ['10.0.0.1:80']");
        assert_eq!(
            config.runtime,
            Runtime { workers: None, shutdown_grace: Duration::from_secs(30), connections: None }
        );
        assert_eq!(config.reload, Reload { watch: true, drain_timeout: Duration::from_secs(30) });
        let timeouts = &config.listeners[0].timeouts;
        assert_eq!(timeouts, &config.pools[0].timeouts);
        assert_eq!((timeouts.client_header, timeouts.connect), (Duration::from_secs(10), Duration::from_secs(2)));
        assert_eq!((timeouts.client_body, timeouts.client_write), (Duration::from_secs(30), Duration::from_secs(30)));
        assert_eq!(timeouts.client_min_rate, Bytes(240));
        assert_eq!((timeouts.client_idle, timeouts.tunnel_idle), (Duration::from_secs(60), Duration::from_secs(3600)));
        assert_eq!(config.pools[0].policy, super::super::Policy::RoundRobin);
    }

    #[test]
    fn a_timeout_falls_back_to_the_defaults_table() {
        let config = meant(
            "defaults.timeouts = { connect = '7s', tunnel_idle = '2d', client_min_rate = '1KiB' }\n\
             listeners.w = { bind = '127.0.0.1:0', pool = 'a', timeouts = { client_idle = '5s' } }\n\
             listeners.x = { bind = '127.0.0.1:0', pool = 'a', timeouts = { client_min_rate = '0B' } }\n\
             pools.a = { backends = ['10.0.0.1:80'], timeouts = { connect = '100ms' } }",
        );
        assert_eq!(config.pools[0].timeouts.connect, Duration::from_millis(100));
        assert_eq!(config.listeners[0].timeouts.client_min_rate, Bytes(1024), "a rate too");
        assert_eq!(config.listeners[1].timeouts.client_min_rate, Bytes(0));
        assert_eq!(config.listeners[0].timeouts.client_idle, Duration::from_secs(5));
        assert_eq!(config.pools[0].timeouts.tunnel_idle, Duration::from_secs(2 * 86400));
    }

    #[test]
    fn a_whole_request_has_no_deadline_unless_the_nearest_word_about_it_gives_one() {
        let of = |defaults: &str, listener: &str, route: &str| {
            let text = format!(
                "defaults.timeouts = {{ {defaults} }}\npools.a.backends = ['10.0.0.1:80']\n\
                 listeners.w = {{ bind = '127.0.0.1:0', pool = 'a', timeouts = {{ {listener} }}, \
                 routes = [{{ path = {{ exact = '/x' }}, pool = 'a', timeouts = {{ {route} }} }}] }}"
            );
            let super::super::Protocol::Http(http) = &meant(&text).listeners[0].protocol else {
                panic!("it speaks http")
            };
            [0, 1].map(|route: usize| http.routes[route].request_timeout.map(|time| time.as_secs()))
        };
        assert_eq!(of("", "", ""), [None, None]);
        assert_eq!(of("request = '1s'", "", ""), [Some(1), Some(1)]);
        assert_eq!(of("request = '1s'", "request = '2s'", ""), [Some(2), Some(2)]);
        assert_eq!(of("request = '1s'", "request = '2s'", "request = '3s'"), [Some(3), Some(2)]);
        assert_eq!(of("request = '1s'", "", "request = 'off'"), [None, Some(1)]);
        assert_eq!(of("request = '1s'", "request = 'off'", ""), [None, None]);
        assert_eq!(of("request = 'off'", "", "request = '3s'"), [Some(3), None]);
    }

    #[test]
    fn a_deadline_for_whole_requests_that_makes_no_sense_is_refused() {
        let text = |timeouts: &str| {
            format!(
                "defaults.timeouts = {{ {timeouts} }}\nlisteners.w = {{ bind = '127.0.0.1:0', pool = 'a' }}\npools.a.backends = ['10.0.0.1:80']"
            )
        };
        for (wrong, parts) in [
            ("request = '0s'", &["out of range"][..]),
            ("request = '25h'", &["out of range"]),
            ("request = 'none'", &["not a duration", "or \"off\""]),
            ("request = 30", &["can not be", "\"30s\""]),
            ("request_timeout = '1s'", &["write `request = \"60s\"`"]),
        ] {
            assert_said(&text(wrong), parts);
        }
        let pool = "listeners.w = { bind = '127.0.0.1:0', pool = 'a' }\n\
                    pools.a = { backends = ['10.0.0.1:80'], timeouts = { request = '1s' } }";
        assert_said(pool, &["belongs to a listener or a route"]);
    }

    #[test]
    fn a_pool_that_is_not_there_is_guessed() {
        let text = |name: &str| {
            format!("listeners.w = {{ bind = '127.0.0.1:0', pool = '{name}' }}\npools.shop.backends = ['10.0.0.1:80']")
        };
        assert_said(&text("shpo"), &["there is no pool `shpo`", "test.toml:1:46", "did you mean `shop`?"]);
        assert_said(&text("other"), &["[pools.other]"]);
    }

    #[test]
    fn a_pool_that_nothing_uses_is_a_warning() {
        let text = "listeners.w = { bind = '127.0.0.1:0', pool = 'a' }\n\
                    pools = { a = { backends = ['10.0.0.1:80'] }, z = { backends = ['10.0.0.1:81'] } }";
        assert_said(text, &["warning: nothing uses the pool `z`"]);
    }

    #[test]
    fn nothing_at_all_says_how_to_begin() {
        assert_said("", &["there is no listener", "[listeners.NAME]"]);
    }

    #[test]
    fn a_slip_does_not_make_further_faults() {
        for text in [
            "listeners.w = { bnd = '127.0.0.1:0', pool = 'a' }\npools.a.backends = ['10.0.0.1:80']",
            "listeners.w = { bind = '127.0.0.1:0', pool = 'a' }\npools.a.servers = ['10.0.0.1:80']",
            "listeners.w = { bind = '127.0.0.1:0', pool = 'a' }\nupstream.a.servers = ['10.0.0.1:80']",
            "listeners.w = { bind = '127.0.0.1:0', pool = 'a' }\npools.a.backends = [10.0.0.1:80]",
            "listeners.w = { bind = '127.0.0.1:0', pool = 3 }\npools.a.backends = ['10.0.0.1:80']",
            "listener.w = { bind = '127.0.0.1:0', pool = 'a' }\npools.a.backends = ['10.0.0.1:80']",
        ] {
            assert_eq!(said(text).diagnostics.len(), 1, "{}", said(text));
        }
    }

    #[test]
    fn names_are_for_logs_and_metrics() {
        let text = "listeners.'my web' = { bind = '127.0.0.1:0', pool = 'a' }\npools.a.backends = ['10.0.0.1:80']";
        assert_said(text, &["can not be the name of a listener", "ASCII letters"]);
    }
}
