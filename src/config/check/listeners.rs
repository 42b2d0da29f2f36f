//! `[listeners.NAME]`: its addresses, and what belongs to the protocol it speaks.

use ipnet::IpNet;

use super::super::diagnostic::{Diagnostic, Place};
use super::super::read::{Entry, Node, Table};
use super::super::{
    Action, Address, HeadLimits, HeaderRules, Http, HttpVersions, Limits, Listener, Name, PathPattern, Protocol, Retry,
    Route, Timeouts, UnderscoreNames, WeightedPool, keys,
};
use super::shadow::Placed;
use super::{Checking, own_timeouts, to_count};

/// What only an http listener can have.
const HTTP_KEYS: &[&str] =
    &["redirect_to_https", "http_versions", "trusted_proxies", "forwarded", "via", "underscore_names", "headers"];

/// Which of its limits only an http listener can have.
const HTTP_LIMITS: &[&str] = &["header_bytes", "headers", "request_line", "requests_per_connection", "streams"];

impl Checking<'_> {
    pub(super) fn listener(&mut self, entry: &Entry, defaults: &Timeouts) -> Option<Listener> {
        let name = self.name("listener", &entry.key, entry.key_place);
        let table = entry.node.as_table()?;
        let bind = self.bind(entry, table);
        let timeouts = own_timeouts(table, defaults);
        let protocol = match table.text("protocol") {
            Some(("tcp", place)) => self.tcp(entry, table, place),
            _ => Some(Protocol::Http(self.http(entry, table, &timeouts))),
        };
        let limits = self.limits(table.table("limits"), underscore_names(table));
        let tls = match table.entry("tls") {
            Some(entry) => {
                self.refuse_a_circle(table, entry);
                if let Some(("tcp", place)) = table.text("protocol") {
                    self.refuse_forward(entry, place);
                }
                Some(self.listener_tls(entry)?)
            }
            None => {
                self.refuse_handshakes(table);
                None
            }
        };
        let proxy_protocol = match table.entry("proxy_protocol") {
            Some(entry) => self.proxy_protocol(entry, &bind)?,
            None => None,
        };
        Some(Listener { name: name?, bind, proxy_protocol, tls, protocol: protocol?, timeouts, limits })
    }

    /// Whose PROXY headers are believed, `Some(None)` where none are expected; `None` where that is faulty.
    fn proxy_protocol(&mut self, entry: &Entry, bind: &[Address]) -> Option<Option<Vec<IpNet>>> {
        let table = entry.node.as_table()?;
        if table.node("accept").is_none() {
            let help = "write `proxy_protocol = { accept = true, trusted = [\"10.0.0.0/8\"] }`";
            self.needs(table, &keys::PROXY_PROTOCOL, "accept", entry.key_place, help);
        }
        let nodes = table.list("trusted").unwrap_or_default();
        let texts = nodes.iter().filter_map(|node| node.as_text());
        let trusted: Vec<IpNet> = texts.filter_map(|(text, place)| self.trusted_network(text, place)).collect();
        let accept = table.flag("accept")?;
        let has_ip = bind.iter().any(|address| matches!(address, Address::Ip(_)));
        if accept && has_ip && nodes.is_empty() {
            let fault = Diagnostic::error("`proxy_protocol` trusts nobody, so every connection would be closed");
            let fault = fault.at(table.node("trusted").map_or(entry.key_place, |node| node.place));
            let help = "write the addresses or networks of the proxies: `trusted = [\"10.0.0.0/8\"]`";
            self.missing(table, &keys::PROXY_PROTOCOL, &["trusted"], fault.help(help));
        }
        Some(accept.then_some(trusted))
    }

    /// A network whose word on who a client is goes.
    fn trusted_network(&mut self, text: &str, place: Place) -> Option<IpNet> {
        let network = self.network(text, place)?;
        if network.prefix_len() == 0 {
            let warning = Diagnostic::warning(format!("`{text}` lets anybody say who they are")).at(place);
            self.faults.push(warning.help("write the addresses of the proxies only"));
        }
        Some(network)
    }

    fn limits(&mut self, table: Option<&Table>, underscore_names: UnderscoreNames) -> Limits {
        let bytes = |key: &keys::Key| table.and_then(|table| table.bytes(key.name)).unwrap_or(key.default_bytes());
        let (head, line) = (bytes(&keys::HEADER_BYTES), bytes(&keys::REQUEST_LINE));
        if let Some(written) = table.and_then(|table| table.node("request_line")).filter(|_| line > head) {
            let help = format!("write at most \"{head}\" (`header_bytes`), or raise that");
            self.error(written.place, "a request line can not be larger than the head it begins", help);
        }
        let head = HeadLimits {
            head_bytes: head.as_usize(),
            fields: count(table, &keys::HEADERS_LIMIT),
            request_line: line.as_usize(),
            underscore_names,
        };
        let limit = |name: &str| table.and_then(|table| table.integer(name)).and_then(to_count);
        Limits {
            head,
            requests_per_connection: count(table, &keys::REQUESTS_PER_CONNECTION),
            streams: count(table, &keys::STREAMS),
            connections: limit("connections"),
            connections_per_ip: limit("connections_per_ip"),
            handshakes: count(table, &keys::HANDSHAKES),
        }
    }

    fn bind(&mut self, entry: &Entry, table: &Table) -> Vec<Address> {
        let name = Name::from(entry.key.as_str());
        let Some(node) = table.node("bind") else {
            let fault = Diagnostic::error(format!("the listener `{name}` has no `bind`")).at(entry.key_place);
            self.missing(table, &keys::LISTENER, &["bind"], fault.help("write `bind = \"0.0.0.0:8080\"`"));
            return Vec::new();
        };
        let one = std::slice::from_ref(node);
        let nodes = node.as_list().unwrap_or(one);
        if nodes.is_empty() {
            self.error(node.place, "`bind` has no address", "write at least one: \"0.0.0.0:8080\"");
        }
        let texts = nodes.iter().filter_map(|node| node.as_text());
        texts.filter_map(|(text, place)| self.bind_address(text, place, &name)).collect()
    }

    fn tcp(&mut self, entry: &Entry, table: &Table, protocol: Place) -> Option<Protocol> {
        for entry in &table.entries {
            if HTTP_KEYS.contains(&entry.key.as_str()) {
                self.http_only(&entry.key, entry.key_place, protocol);
            }
        }
        for entry in super::entries(table, "limits") {
            if HTTP_LIMITS.contains(&entry.key.as_str()) {
                self.http_only(&entry.key, entry.key_place, protocol);
            }
        }
        for entry in super::entries(table, "timeouts") {
            let http_only = entry.key.starts_with("client_") || entry.key == keys::REQUEST.name;
            if http_only && keys::DEFAULT_TIMEOUTS.key(&entry.key).is_some() {
                self.http_only(&entry.key, entry.key_place, protocol);
            }
        }
        if let Some(routes) = table.entry("routes").filter(|routes| routes.node.as_list() != Some(&[])) {
            return self.tcp_routes(routes, table, protocol);
        }
        if table.node("pool").is_none() {
            let fault =
                Diagnostic::error(format!("the tcp listener `{}` has no `pool`", entry.key)).at(entry.key_place);
            self.missing(
                table,
                &keys::LISTENER,
                &["pool"],
                fault.help("write `pool = \"NAME\"`, or `routes` with `sni`"),
            );
        }
        Some(Protocol::Tcp { pool: self.tcp_pool(table.node("pool")?)? })
    }

    /// The pool of this name, for tcp connections.
    pub(super) fn tcp_pool(&mut self, reference: &Node) -> Option<Name> {
        let pool = self.pool_reference(Some(reference))?;
        if let Some(hash_on) = self.http_hashes.get(&pool) {
            let warning =
                Diagnostic::warning(format!("the pool `{pool}` hashes on what a tcp connection does not have"));
            let warning = warning.label(reference.place, "used for tcp").label(*hash_on, "a part of an HTTP request");
            self.faults.push(warning.help("its connections are hashed by the client's address; use a pool of its own"));
        }
        Some(pool)
    }

    pub(super) fn http_only(&mut self, key: &str, place: Place, protocol: Place) {
        let fault = Diagnostic::error(format!("`{key}` has no meaning on a tcp listener")).at(place);
        let fault = fault.label(protocol, "this makes it one");
        self.faults.push(fault.help(format!("remove `{key}`, or write `protocol = \"http\"`")));
    }

    fn http(&mut self, entry: &Entry, table: &Table, timeouts: &Timeouts) -> Http {
        let nodes = table.list("routes").unwrap_or_default();
        let mut placed: Vec<Placed> = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            placed.extend(self.route(node, index + 1, timeouts));
        }
        self.route_names_differ(&placed);
        placed.extend(self.default_route(table, &placed, timeouts));
        let may_have_routes = table.node("routes").is_some_and(|_| table.list("routes").is_none());
        if nodes.is_empty() && !may_have_routes {
            self.need_an_action(entry, table);
        }
        self.warn_of_shadowed_routes(&placed);
        let proxies = table.list("trusted_proxies").unwrap_or_default();
        let proxies = proxies.iter().filter_map(|node| node.as_text());
        Http {
            versions: self.http_versions(table),
            trusted_proxies: proxies.filter_map(|(text, place)| self.network(text, place)).collect(),
            forwarded: table.flag("forwarded").unwrap_or(false),
            via: table.flag("via").unwrap_or(false),
            routes: placed.into_iter().map(|placed| placed.route).collect(),
            headers: self.header_rules(table),
        }
    }

    fn http_versions(&mut self, table: &Table) -> HttpVersions {
        let Some((written, nodes)) = table.node("http_versions").zip(table.list("http_versions")) else {
            return if table.node("tls").is_some() { HttpVersions::Both } else { HttpVersions::H1 };
        };
        let has = |version| nodes.iter().filter_map(Node::as_text).any(|(text, _)| text == version);
        match (has("h1"), has("h2")) {
            (true, true) => HttpVersions::Both,
            (false, true) => HttpVersions::H2,
            (true, false) => HttpVersions::H1,
            // What else it may name was said to be no version.
            (false, false) if !nodes.is_empty() => HttpVersions::Both,
            (false, false) => {
                self.error(written.place, "`http_versions` has no version", "write `[\"h1\", \"h2\"]` or one of them");
                HttpVersions::Both
            }
        }
    }

    /// Without routes there has to be something else that happens.
    fn need_an_action(&mut self, entry: &Entry, table: &Table) {
        let redirects = table.node("redirect_to_https").is_some_and(|_| table.flag("redirect_to_https") != Some(false));
        if table.node("pool").is_some() || redirects {
            return;
        }
        let fault = Diagnostic::error(format!("the listener `{}` does nothing with its requests", entry.key));
        let help = "write `pool = \"NAME\"`, `[[listeners.NAME.routes]]` or `redirect_to_https = true`";
        self.missing(table, &keys::LISTENER, &["pool", "[[", "redirect"], fault.at(entry.key_place).help(help));
    }

    /// The route `default` for what no other matches.
    fn default_route(&mut self, table: &Table, routes: &[Placed], timeouts: &Timeouts) -> Option<Placed> {
        let redirect = table.entry("redirect_to_https").filter(|_| table.flag("redirect_to_https") == Some(true));
        let pool = table.entry("pool");
        if let (Some(pool), Some(redirect)) = (pool, redirect) {
            let fault = Diagnostic::error("a listener can not have both `pool` and `redirect_to_https`");
            let fault =
                fault.label(redirect.key_place, "redirects everything").label(pool.key_place, "forwards everything");
            self.faults.push(fault.help("keep one of them"));
        }
        let (entry, action) = match (redirect, pool) {
            (Some(redirect), _) => (redirect, Action::RedirectToHttps),
            (None, Some(pool)) => {
                let name = self.pool_reference(Some(&pool.node))?;
                (pool, Action::Forward(vec![WeightedPool { pool: name, weight: 1 }]))
            }
            (None, None) => return None,
        };
        if let Some(taken) = routes.iter().find(|placed| &*placed.route.name == "default") {
            let fault = Diagnostic::error("the name `default` is taken").label(taken.place, "by this route");
            let fault = fault.label(entry.key_place, "the route for what no other matches is called `default`");
            self.faults.push(fault.help("give the route another name"));
        }
        let route = Route {
            name: "default".into(),
            hosts: Vec::new(),
            path: PathPattern::Any,
            methods: Vec::new(),
            match_headers: Vec::new(),
            action,
            headers: HeaderRules::default(),
            retry: Retry::default(),
            request_timeout: timeouts.request,
        };
        Some(Placed { route, place: entry.key_place })
    }

    fn route_names_differ(&mut self, routes: &[Placed]) {
        let names = routes.iter().map(|placed| (placed.route.name.clone(), placed.place));
        let help = "give each its own name; a route without one is called `route-1`, `route-2` … by its place";
        self.each_once::<Name>("the listener has this route name", help, names);
    }
}

fn underscore_names(table: &Table) -> UnderscoreNames {
    match table.text("underscore_names") {
        Some(("reject", _)) => UnderscoreNames::Reject,
        _ => UnderscoreNames::Drop,
    }
}

/// A whole number that is never below zero, or the key's default.
fn count<T: TryFrom<i64> + Default>(table: Option<&Table>, key: &keys::Key) -> T {
    let written = table.and_then(|table| table.integer(key.name));
    written.unwrap_or(key.default_integer()).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{POOLS, assert_said, meant};
    use super::*;

    fn with(listeners: &str) -> String {
        format!(
            "{POOLS}{listeners}\n[listeners.both]\nbind = '127.0.0.9:9'\nroutes = [{{ split = [{{ pool = 'a' }}, {{ pool = 'b' }}] }}]\n"
        )
    }

    fn http(config: &crate::config::Config, name: &str) -> Http {
        let listener = config.listeners.iter().find(|listener| &*listener.name == name).unwrap();
        let Protocol::Http(http) = &listener.protocol else { panic!("{name} speaks tcp") };
        http.clone()
    }

    #[test]
    fn what_is_for_the_rest_is_a_last_route_named_default() {
        let config = meant(&with(
            "[listeners.w]\nbind = '127.0.0.1:1'\npool = 'a'\nroutes = [{ hosts = ['x'], pool = 'b' }]\n\
             [listeners.s]\nbind = '127.0.0.1:2'\nredirect_to_https = true",
        ));
        let names =
            |name: &str| http(&config, name).routes.iter().map(|route| route.name.to_string()).collect::<Vec<_>>();
        assert_eq!(names("w"), ["route-1", "default"]);
        assert_eq!(names("s"), ["default"]);
        assert!(matches!(http(&config, "s").routes[0].action, Action::RedirectToHttps));
    }

    #[test]
    fn several_addresses_and_proxies_are_understood() {
        let config = meant(&with(
            "[listeners.w]\nbind = ['0.0.0.0:80', '[::]:80', 'unix:/run/w']\npool = 'a'\ntrusted_proxies = ['10.0.0.0/8', '::1']",
        ));
        assert_eq!(config.listeners[1].bind.len(), 3);
        assert_eq!(http(&config, "w").trusted_proxies.len(), 2);
    }

    #[test]
    fn clients_may_speak_what_is_written_and_over_tls_both() {
        let versions = |lines: &str| {
            let config = meant(&with(&format!("[listeners.w]\nbind = '127.0.0.1:1'\npool = 'a'\n{lines}")));
            http(&config, "w").versions
        };
        assert_eq!(versions(""), HttpVersions::H1);
        assert_eq!(versions("tls.certificates = [{ cert = 'a', key = 'b' }]"), HttpVersions::Both);
        assert_eq!(versions("http_versions = ['h1', 'h2']"), HttpVersions::Both);
        assert_eq!(versions("http_versions = ['h2']"), HttpVersions::H2);
        assert_eq!(
            versions("tls.certificates = [{ cert = 'a', key = 'b' }]\nhttp_versions = ['h1']"),
            HttpVersions::H1
        );
    }

    #[test]
    fn who_may_send_a_proxy_header_is_said_or_nobody_may() {
        let trusted = |lines: &str| {
            let config = meant(&with(&format!("[listeners.w]\npool = 'a'\n{lines}")));
            config.listeners.into_iter().find(|listener| &*listener.name == "w").unwrap().proxy_protocol
        };
        let accept = "bind = '127.0.0.1:1'\nproxy_protocol = { accept = true, trusted = ['10.0.0.0/8', '::1'] }";
        assert_eq!(trusted(accept).map(|networks| networks.len()), Some(2));
        assert_eq!(trusted(&accept.replace("true", "false")), None);
        assert_eq!(trusted("bind = 'unix:/run/w'\nproxy_protocol.accept = true"), Some(Vec::new()));
        for (wrong, parts) in [
            ("{ accept = true }", &["trusts nobody", "trusted = ["][..]),
            ("{ accept = true, trusted = [] }", &["trusts nobody"]),
            ("{ accept = true, trust = ['10.0.0.0/8'] }", &["`trusted`"]),
            ("{ accept = true, trusted = ['10.0.0.1/8'] }", &["\"10.0.0.0/8\""]),
            ("{ trusted = ['10.0.0.0/8'] }", &["needs `accept`"]),
            ("{ accept = true, trusted = ['0.0.0.0/0'] }", &["warning: `0.0.0.0/0` lets anybody"]),
            ("true", &["proxy_protocol"]),
        ] {
            let text = format!("[listeners.w]\nbind = '127.0.0.1:1'\npool = 'a'\nproxy_protocol = {wrong}");
            assert_said(&with(&text), parts);
        }
    }

    #[test]
    fn faults_of_listeners_are_told_apart() {
        for (wrong, parts) in [
            ("pool = 'a'", &["no `bind`"][..]),
            ("bind = '127.0.0.1:1'", &["does nothing with its requests"]),
            ("bind = '127.0.0.1:1'\nroutes = []", &["does nothing with its requests"]),
            ("bind = ':80'\npool = 'a'", &["\"0.0.0.0:80\"", "\"[::]:80\""]),
            ("bind = []\npool = 'a'", &["no address"]),
            ("bind = ['127.0.0.1:1', '127.0.0.1:1']\npool = 'a'", &["bound twice"]),
            ("bind = '0.0.0.0:9'\npool = 'a'", &["can not both be bound", "by the listener `both`"]),
            ("bind = '127.0.0.1:1'\npool = 'a'\nredirect_to_https = true", &["both `pool` and `redirect_to_https`"]),
            ("bind = '127.0.0.1:1'\npool = 'a'\ntrusted_proxies = ['10.0.0.1/8']", &["\"10.0.0.0/8\"", "\"10.0.0.1\""]),
            ("bind = '127.0.0.1:1'\npool = 'a'\nprotocol = 'https'", &["not a value of `protocol`"]),
            ("bind = '127.0.0.1:1'\npool = 'a'\nhttp_versions = []", &["no version"]),
            ("bind = '127.0.0.1:1'\npool = 'a'\nhttp_versions = ['h3']", &["not a value of `http_versions`"]),
            (
                "bind = '127.0.0.1:1'\nprotocol = 'tcp'\npool = 'a'\nhttp_versions = ['h1']",
                &["no meaning on a tcp listener"],
            ),
            ("bind = '127.0.0.1:1'\nprotocol = 'tcp'", &["the tcp listener `w` has no `pool`"]),
            ("bind = '127.0.0.1:1'\nprotocol = 'tcp'\npool = 'a'\nvia = true", &["no meaning on a tcp listener"]),
            (
                "bind = '127.0.0.1:1'\nprotocol = 'tcp'\npool = 'a'\nunderscore_names = 'drop'",
                &["no meaning on a tcp listener"],
            ),
            (
                "bind = '127.0.0.1:1'\npool = 'a'\nunderscore_names = 'allow'",
                &["not a value of `underscore_names`", "\"reject\""],
            ),
            (
                "bind = '127.0.0.1:1'\nprotocol = 'tcp'\npool = 'a'\nlimits.headers = 9",
                &["`headers` has no meaning on a tcp listener"],
            ),
            (
                "bind = '127.0.0.1:1'\npool = 'a'\nlimits = { header_bytes = '4KiB', request_line = '5KiB' }",
                &["a request line can not be larger", "at most \"4KiB\""],
            ),
            (
                "bind = '127.0.0.1:1'\nprotocol = 'tcp'\npool = 'a'\ntimeouts.client_idle = '1s'",
                &["no meaning on a tcp"],
            ),
            (
                "bind = '127.0.0.1:1'\nprotocol = 'tcp'\npool = 'a'\ntimeouts.request = '1s'",
                &["`request` has no meaning on a tcp"],
            ),
            (
                "bind = '127.0.0.1:1'\npool = 'a'\nroutes = [{ name = 'default', hosts = ['x'], pool = 'a' }]",
                &["the name `default` is taken"],
            ),
            (
                "bind = '127.0.0.1:1'\nroutes = [{ name = 'route-2', hosts = ['x'], pool = 'a' }, { hosts = ['y'], pool = 'a' }]",
                &["route name twice"],
            ),
        ] {
            assert_said(&with(&format!("[listeners.w]\n{wrong}")), parts);
        }
    }

    #[test]
    fn limits_that_are_not_written_are_those_of_the_table() {
        let listener = |limits: &str| {
            meant(&with(&format!("[listeners.w]\nbind = '127.0.0.1:1'\npool = 'a'\n{limits}"))).listeners[1]
                .limits
                .clone()
        };
        let limits = listener("");
        let underscore_names = UnderscoreNames::Drop;
        let head = HeadLimits { head_bytes: 32 * 1024, fields: 100, request_line: 8 * 1024, underscore_names };
        assert_eq!((limits.head, limits.requests_per_connection), (head, 10_000));
        assert_eq!((limits.connections, limits.connections_per_ip), (None, None));
        let head = listener("limits = { header_bytes = '4KiB', headers = 7, request_line = '1KiB' }").head;
        assert_eq!(head, HeadLimits { head_bytes: 4096, fields: 7, request_line: 1024, underscore_names });
        assert_eq!(listener("underscore_names = 'reject'").head.underscore_names, UnderscoreNames::Reject);
        assert_eq!(listener("underscore_names = 'drop'").head.underscore_names, UnderscoreNames::Drop);
        assert_eq!(listener("limits.header_bytes = '4KiB'").head.head_bytes, 4096, "though lines might be longer");
    }

    #[test]
    fn a_tcp_listener_has_no_http_key_to_hash_on() {
        let text = "[listeners.t]\nbind = '127.0.0.1:1'\nprotocol = 'tcp'\npool = 'c'\n\
                    [pools.c]\nbalance = 'consistent_hash'\nhash_on = 'uri'\nbackends = ['10.0.0.1:80']";
        assert_said(text, &["warning: the pool `c` hashes on what a tcp connection does not have"]);
    }
}
