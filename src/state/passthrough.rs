//! Which pool a TLS connection goes to that passes through, by what its first message asks for.
//!
//! The precedence is that of hosts: exact name, then the wildcard above it, then any name or none; within those a route that
//! asks for a protocol before one that does not, then file order. A better name whose routes ask for other protocols leaves
//! the connection to the lesser ones.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};

use super::ids::PoolId;
use crate::client_hello::ClientHello;
use crate::config::{HostPattern, Name, PassthroughRoute};

/// Places in [`Passthrough::routes`], best rank first.
type Group = Vec<usize>;
/// Keys come from the configuration alone, so they need no random hash against collisions made on purpose.
type ByName = HashMap<Box<str>, Group, BuildHasherDefault<DefaultHasher>>;

/// The routes of one listener.
#[derive(Debug, Default)]
pub struct Passthrough {
    routes: Vec<Through>,
    exact: ByName,
    /// By suffix with its leading dot.
    wildcard: ByName,
    any: Group,
}

/// One route, ready to be taken.
#[derive(Debug)]
pub struct Through {
    /// Its name.
    pub name: Name,
    /// Where it leads.
    pub pool: PoolId,
    alpn: Vec<Name>,
}

impl Through {
    fn matches(&self, hello: &ClientHello) -> bool {
        let is_wanted = |offered: &[u8]| self.alpn.iter().any(|wanted| wanted.as_bytes() == offered);
        self.alpn.is_empty() || hello.protocols().any(is_wanted)
    }
}

impl Passthrough {
    /// Compiles routes; `resolve` knows the pools.
    #[must_use]
    pub fn compile(routes: &[PassthroughRoute], resolve: impl Fn(&str) -> PoolId) -> Passthrough {
        let mut table = Passthrough::default();
        let (by_protocol, others) = routes.iter().partition::<Vec<_>, _>(|route| !route.alpn.is_empty());
        for route in by_protocol.into_iter().chain(others) {
            let through = Through { name: route.name.clone(), pool: resolve(&route.pool), alpn: route.alpn.clone() };
            table.add(&route.sni, through);
        }
        table
    }

    /// Adds the route that comes next in rank.
    fn add(&mut self, names: &[HostPattern], route: Through) {
        let place = self.routes.len();
        self.routes.push(route);
        if names.is_empty() {
            self.any.push(place);
        }
        for name in names {
            let group = match name {
                HostPattern::Exact(name) => self.exact.entry(name.as_str().into()),
                HostPattern::Wildcard(suffix) => self.wildcard.entry(suffix.as_str().into()),
            };
            group.or_default().push(place);
        }
    }

    /// The route for a connection that begins so, `None` when none matches.
    #[must_use]
    pub fn find(&self, hello: &ClientHello) -> Option<&Through> {
        let name = hello.server_name.as_deref();
        let exact = name.and_then(|name| self.exact.get(name));
        let wildcard = name.and_then(|name| self.wildcard.get(&name[name.find('.')?..]));
        let ranked = [exact, wildcard, Some(&self.any)].into_iter().flatten().flatten();
        ranked.map(|&place| &self.routes[place]).find(|route| route.matches(hello))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Protocol, from_text};

    /// The routes of a tcp listener, each written as an inline table; pools are called by their numbers.
    fn table(routes: &[&str]) -> Passthrough {
        let pools: String =
            (0..routes.len()).map(|n| format!("pools.p{n}.backends = ['127.0.0.1:{}']\n", n + 1)).collect();
        let routes: Vec<_> = (0..).zip(routes).map(|(n, route)| format!("{{ pool = 'p{n}', {route} }}")).collect();
        let listener = format!("bind = '127.0.0.1:0', protocol = 'tcp', routes = [{}]", routes.join(", "));
        let loaded = from_text("test.toml", &format!("{pools}listeners.t = {{ {listener} }}\n")).unwrap();
        let Protocol::Passthrough(routes) = &loaded.config.listeners[0].protocol else { panic!("it has routes") };
        Passthrough::compile(routes, |name| PoolId::new(name[1..].parse().unwrap()))
    }

    fn hello(name: &str, protocols: &[&str]) -> ClientHello {
        ClientHello::asking((!name.is_empty()).then_some(name), protocols)
    }

    /// The place of the route that such a connection takes.
    fn taken(table: &Passthrough, name: &str, protocols: &[&str]) -> Option<usize> {
        table.find(&hello(name, protocols)).map(|route| route.pool.index())
    }

    #[test]
    fn an_exact_name_beats_a_wildcard_beats_any_and_a_wildcard_is_one_label() {
        let table =
            table(&["sni = ['*.example.com']", "sni = ['db.example.com', 'x']", "sni = ['*.db.example.com']", ""]);
        for (name, place) in [
            ("db.example.com", 1),
            ("x", 1),
            ("www.example.com", 0),
            ("a.db.example.com", 2),
            ("a.www.example.com", 3),
            ("example.com", 3),
            ("com", 3),
            ("", 3),
        ] {
            assert_eq!(taken(&table, name, &["h2"]), Some(place), "{name}");
        }
    }

    #[test]
    fn a_protocol_goes_before_none_and_others_leave_it_to_lesser_names() {
        let table = table(&[
            "sni = ['a.x']",
            "sni = ['a.x', 'b.x'], alpn = ['h2', 'h3']",
            "sni = ['*.x'], alpn = ['acme-tls/1']",
            "alpn = ['postgresql']",
        ]);
        assert_eq!(taken(&table, "a.x", &["http/1.1", "h2"]), Some(1));
        assert_eq!(taken(&table, "a.x", &["http/1.1"]), Some(0));
        assert_eq!(taken(&table, "b.x", &["acme-tls/1"]), Some(2));
        assert_eq!(taken(&table, "b.x", &["postgresql"]), Some(3));
        assert_eq!(taken(&table, "", &["postgresql"]), Some(3));
        for (name, protocols) in [("b.x", &["H2"][..]), ("b.x", &[]), ("", &["h2"]), ("", &[])] {
            assert_eq!(taken(&table, name, protocols), None, "{name} {protocols:?}");
        }
    }
}
