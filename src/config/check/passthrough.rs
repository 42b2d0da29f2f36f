//! TLS that passes through: the `routes` of a tcp listener, and `tls.passthrough` of any.

use std::collections::BTreeSet;

use super::super::diagnostic::{Diagnostic, Place};
use super::super::read::{Entry, Node, Table};
use super::super::{HostPattern, Name, PassthroughRoute, Protocol, keys};
use super::Checking;
use super::routes::is_whole;

/// What a route of a tcp listener can have.
const KEYS: &[&str] = &["name", "sni", "alpn", "pool"];

/// The longest name of a protocol (RFC 7301 §3.1).
const LONGEST_PROTOCOL: usize = 255;

/// A route, and where it is written.
struct Written {
    route: PassthroughRoute,
    place: Place,
}

impl Checking<'_> {
    /// A tcp listener that has `routes`, with its own `pool` as a last one for all others. `protocol` is where it says that it
    /// is one.
    pub(super) fn tcp_routes(&mut self, routes: &Entry, table: &Table, protocol: Place) -> Option<Protocol> {
        if let Some(tls) = table.entry("tls") {
            let fault =
                Diagnostic::error("the routes of a tcp listener are for TLS that passes through, and here it ends");
            let fault = fault.label(routes.key_place, "these routes").label(tls.key_place, "it ends by this");
            self.faults.push(
                fault.help("write `[[listeners.NAME.tls.passthrough]]` for what passes through, or remove `tls`"),
            );
        }
        let nodes = routes.node.as_list()?;
        for entry in nodes.iter().filter_map(Node::as_table).flat_map(|route| &route.entries) {
            if !KEYS.contains(&entry.key.as_str()) && keys::ROUTE.key(&entry.key).is_some() {
                self.not_for_tcp(entry, protocol);
            }
        }
        let written = self.passthroughs(nodes, "route", &keys::ROUTE);
        let is_by_name = |written: &Written| !written.route.sni.is_empty() || !written.route.alpn.is_empty();
        let (is_told_apart, is_understood) = (written.iter().any(is_by_name), written.len() == nodes.len());
        if is_understood && !is_told_apart {
            let fault = Diagnostic::error("no route of this tcp listener has `sni` or `alpn`").at(routes.key_place);
            self.faults.push(
                fault.help("write `sni = [\"db.example.com\"]` in a route, or only `pool = \"NAME\"` in the listener"),
            );
        }
        let otherwise = match table.entry("pool") {
            Some(entry) => {
                let (name, pool) = ("default".into(), self.tcp_pool(&entry.node)?);
                let route = PassthroughRoute { name, sni: Vec::new(), alpn: Vec::new(), pool };
                Some(Written { route, place: entry.key_place })
            }
            None => None,
        };
        let routes = self.differ(written.into_iter().chain(otherwise).collect());
        is_understood.then_some(Protocol::Passthrough(routes))
    }

    /// What `tls` lets pass through.
    pub(super) fn tls_passthrough(&mut self, table: &Table) -> Option<Vec<PassthroughRoute>> {
        let Some(node) = table.node("passthrough") else { return Some(Vec::new()) };
        let nodes = node.as_list()?;
        for node in nodes {
            let Some(table) = node.as_table() else { continue };
            if table.node("sni").is_none() && table.node("alpn").is_none() {
                let fault = Diagnostic::error("without `sni` and `alpn` everything would pass through").at(node.place);
                let help = "write `sni = [\"db.example.com\"]`; for everything, write a tcp listener without `tls`";
                self.missing(table, &keys::PASSTHROUGH, &["sni", "alpn"], fault.help(help));
            }
        }
        let written = self.passthroughs(nodes, "passthrough", &keys::PASSTHROUGH);
        let is_understood = written.len() == nodes.len();
        let routes = self.differ(written);
        is_understood.then_some(routes)
    }

    /// Those that were understood.
    fn passthroughs(&mut self, nodes: &[Node], what: &str, shape: &'static keys::Shape) -> Vec<Written> {
        let numbered = (1..).zip(nodes);
        numbered.filter_map(|(number, node)| self.passthrough(node, number, what, shape)).collect()
    }

    fn passthrough(&mut self, node: &Node, number: usize, what: &str, shape: &'static keys::Shape) -> Option<Written> {
        let table = node.as_table()?;
        let name = match table.text("name") {
            Some((text, place)) => self.name("route", text, place),
            None => Some(format!("{what}-{number}").into()),
        };
        let (sni, alpn) = (self.sni(table), self.alpn(table));
        if table.node("pool").is_none() {
            self.needs(table, shape, "pool", node.place, "write `pool = \"NAME\"`");
        }
        let pool = self.tcp_pool(table.node("pool")?);
        let place = table.node("name").map_or(node.place, |name| name.place);
        Some(Written { route: PassthroughRoute { name: name?, sni: sni?, alpn: alpn?, pool: pool? }, place })
    }

    fn sni(&mut self, table: &Table) -> Option<Vec<HostPattern>> {
        let texts = self.narrowing(table, "sni");
        let names = texts.iter().map(|(text, place)| (text.to_ascii_lowercase(), *place));
        self.each_once("the route has this server name", "remove one", names);
        let names: Vec<_> = texts.iter().filter_map(|(text, place)| self.server_name(text, *place)).collect();
        is_whole(table, "sni", names.len()).then_some(names)
    }

    fn alpn(&mut self, table: &Table) -> Option<Vec<Name>> {
        let texts = self.narrowing(table, "alpn");
        self.each_once("the route has this protocol", "remove one", texts.iter().copied());
        let names: Vec<Name> = texts.iter().filter_map(|(text, place)| self.protocol_name(text, *place)).collect();
        is_whole(table, "alpn", names.len()).then_some(names)
    }

    fn protocol_name(&mut self, text: &str, place: Place) -> Option<Name> {
        if (1..=LONGEST_PROTOCOL).contains(&text.len()) {
            return Some(text.into());
        }
        let help = format!("write 1 to {LONGEST_PROTOCOL} bytes, such as \"h2\" or \"http/1.1\"");
        self.error(place, "this can not be the name of a protocol", help);
        None
    }

    /// Reports routes that ask for the same, or are called the same.
    fn differ(&mut self, written: Vec<Written>) -> Vec<PassthroughRoute> {
        let names = written.iter().map(|written| (Name::clone(&written.route.name), written.place));
        self.each_once("the listener has this route name", "give each its own name", names);
        let asks = written.iter().flat_map(|written| asks(&written.route).into_iter().map(|ask| (ask, written.place)));
        let help = "the second would get nothing: remove its server name or protocol, or one of them";
        self.each_once("connections of the same `sni` and `alpn` are sent somewhere", help, asks);
        written.into_iter().map(|written| written.route).collect()
    }

    fn not_for_tcp(&mut self, entry: &Entry, protocol: Place) {
        let key = &entry.key;
        let fault = Diagnostic::error(format!("`{key}` has no meaning in a route of a tcp listener"));
        let fault = fault.label(entry.key_place, "a part of an HTTP request").label(protocol, "this makes it one");
        self.faults.push(fault.help(match key.as_str() {
            "hosts" => "write `sni = [\"db.example.com\"]`, for the name that a TLS client asks for".to_owned(),
            "split" => "write `pool = \"NAME\"`".to_owned(),
            _ => format!("remove `{key}`, or write `protocol = \"http\"`"),
        }));
    }

    /// Reports what only TLS that passes through can be told by, in a route of requests.
    pub(super) fn refuse_sni(&mut self, route: &Table) {
        for entry in route.entries.iter().filter(|entry| matches!(entry.key.as_str(), "sni" | "alpn")) {
            let fault = Diagnostic::error(format!("`{}` has no meaning in a route of an http listener", entry.key));
            let help = "write `hosts` for the host of requests; what TLS passes through unread is said in \
                        `[[listeners.NAME.tls.passthrough]]`, or in the routes of a listener with `protocol = \"tcp\"`";
            self.faults.push(fault.at(entry.key_place).help(help));
        }
    }
}

/// Each pair of a name and a protocol that the route is for; `None` is any.
fn asks(route: &PassthroughRoute) -> BTreeSet<(Option<HostPattern>, Option<Name>)> {
    let names = route.sni.iter().cloned().map(Some).chain(route.sni.is_empty().then_some(None));
    let protocols = || route.alpn.iter().cloned().map(Some).chain(route.alpn.is_empty().then_some(None));
    names.flat_map(|name| protocols().map(move |protocol| (name.clone(), protocol))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{POOLS, assert_said, meant};
    use super::*;

    /// A tcp listener with these lines, and one that uses both pools.
    fn tcp(lines: &str) -> String {
        format!(
            "{POOLS}[listeners.both]\nbind = '127.0.0.9:9'\nroutes = [{{ split = [{{ pool = 'a' }}, {{ pool = 'b' }}] }}]\n\
             [listeners.t]\nbind = '127.0.0.1:1'\nprotocol = 'tcp'\n{lines}\n"
        )
    }

    /// A listener with TLS and these that pass through.
    fn tls(passthrough: &str) -> String {
        format!(
            "{}pool = 'a'\ntls = {{ certificates = [{{ cert = 'c', key = 'k' }}], passthrough = {passthrough} }}",
            tcp("")
        )
    }

    #[test]
    fn routes_of_a_tcp_listener_end_with_its_pool() {
        let config =
            meant(&tcp("pool = 'b'\nroutes = [{ sni = ['DB.example.com.', '*.x'], alpn = ['h2'], pool = 'a' }]"));
        let Protocol::Passthrough(routes) = &config.listeners[1].protocol else { panic!("it has routes") };
        let sni = vec![HostPattern::Exact("db.example.com".to_owned()), HostPattern::Wildcard(".x".to_owned())];
        let first = PassthroughRoute { name: "route-1".into(), sni, alpn: vec!["h2".into()], pool: "a".into() };
        let last = PassthroughRoute { name: "default".into(), sni: vec![], alpn: vec![], pool: "b".into() };
        assert_eq!(routes, &[first, last]);
        assert!(matches!(meant(&tcp("pool = 'a'\nroutes = []")).listeners[1].protocol, Protocol::Tcp { .. }));
    }

    #[test]
    fn what_passes_through_beside_tls_is_understood() {
        let config = meant(&tls("[{ sni = ['a.b'], pool = 'b' }, { name = 'x', alpn = ['h2'], pool = 'a' }]"));
        let passthrough = &config.listeners[1].tls.as_ref().unwrap().passthrough;
        assert_eq!(passthrough.iter().map(|route| &*route.name).collect::<Vec<_>>(), ["passthrough-1", "x"]);
    }

    #[test]
    fn faults_of_routes_are_told_apart() {
        for (routes, parts) in [
            ("{ sni = ['x'], pool = 'c' }", &["there is no pool `c`"][..]),
            ("{ sni = ['x'] }", &["a route needs `pool`"]),
            ("{ sni = [], pool = 'a' }", &["leave `sni` out"]),
            ("{ sni = ['a b'], pool = 'a' }", &["not a host name"]),
            ("{ sni = ['x:443'], pool = 'a' }", &["\"x\""]),
            ("{ sni = ['a.*.x'], pool = 'a' }", &["the whole first label"]),
            ("{ sni = ['*x.y'], pool = 'a' }", &["the whole first label"]),
            ("{ sni = ['*.*.x'], pool = 'a' }", &["the whole first label"]),
            ("{ sni = ['*'], pool = 'a' }", &["leave `sni` out to match every name"]),
            ("{ sni = ['10.0.0.1'], pool = 'a' }", &["ask for no name"]),
            ("{ sni = ['[::1]'], pool = 'a' }", &["ask for no name"]),
            ("{ sni = ['x', 'X'], pool = 'a' }", &["this server name twice"]),
            ("{ alpn = ['h2', 'h2'], pool = 'a' }", &["this protocol twice"]),
            ("{ alpn = [''], pool = 'a' }", &["can not be the name of a protocol"]),
            ("{ sni = ['x'], pool = 'a' }, { sni = ['y', 'x'], pool = 'b' }", &["same `sni` and `alpn`", "twice"]),
            ("{ sni = ['x'], pool = 'a' }, { pool = 'a' }, { pool = 'b' }", &["same `sni` and `alpn`"]),
            ("{ name = 'r', sni = ['x'], pool = 'a' }, { name = 'r', sni = ['y'], pool = 'b' }", &["route name twice"]),
            ("{ pool = 'a' }", &["no route of this tcp listener has `sni` or `alpn`"]),
            (
                "{ hosts = ['x'], sni = ['x'], pool = 'a' }",
                &["`hosts` has no meaning in a route of a tcp", "write `sni"],
            ),
            ("{ sni = ['x'], pool = 'a', retry = {} }", &["`retry` has no meaning", "protocol = \"http\""]),
        ] {
            assert_said(&tcp(&format!("routes = [{routes}]")), parts);
        }
        assert_said(
            &tcp("pool = 'a'\nroutes = [{ sni = ['x'], pool = 'a' }, { pool = 'b' }]"),
            &["same `sni` and `alpn`"],
        );
        let ends = "routes = [{ sni = ['x'], pool = 'a' }]\ntls = { certificates = [{ cert = 'c', key = 'k' }] }";
        assert_said(&tcp(ends), &["here it ends", "tls.passthrough"]);
        assert_said(&tls("[{ pool = 'b' }]"), &["everything would pass through"]);
        assert_said(&tls("[{ sni = ['x'], pool = 'b' }, { sni = ['x'], pool = 'a' }]"), &["same `sni` and `alpn`"]);
        assert_said(&tls("[{ sni = ['x'] }, { sni = ['y'], pool = 'b' }]"), &["a passthrough needs `pool`"]);
        let http = "[listeners.w]\nbind = '127.0.0.1:2'\nroutes = [{ sni = ['x'], pool = 'a' }]";
        assert_said(
            &format!("{}pool = 'a'\n{http}", tcp("")),
            &["`sni` has no meaning in a route of an http listener"],
        );
    }

    #[test]
    fn different_protocols_of_one_name_are_different() {
        meant(&tcp(
            "routes = [{ sni = ['x'], alpn = ['h2'], pool = 'a' }, { sni = ['x'], pool = 'b' }, { alpn = ['h2'], pool = 'b' }]",
        ));
    }

    #[test]
    fn a_pool_that_hashes_on_requests_is_a_warning() {
        let text = "[listeners.t]\nbind = '127.0.0.1:1'\nprotocol = 'tcp'\nroutes = [{ sni = ['x'], pool = 'c' }]\n\
                    [pools.c]\nbalance = 'consistent_hash'\nhash_on = 'uri'\nbackends = ['10.0.0.1:80']";
        assert_said(text, &["warning: the pool `c` hashes on what a tcp connection does not have"]);
    }
}
