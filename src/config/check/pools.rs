//! `[pools.NAME]`: its backends, its algorithm with the keys that belong to it, and what looks odd about it.

use super::super::diagnostic::{Diagnostic, Place};
use super::super::read::{Entry, Node, Table};
use super::super::{Address, Backend, HashOn, HttpVersion, Name, Policy, Pool, Service, Timeouts, keys};
use super::breaker::Breaker;
use super::{Checking, own_timeouts, to_count};
use crate::http::is_token;
use crate::proxy_protocol::{Tlvs, Version};

/// A backend and the places that later faults and warnings point at.
struct Placed {
    backend: Backend,
    address_place: Place,
    name_place: Place,
    weight_place: Option<Place>,
}

fn sent(version: &str, tlvs: Tlvs) -> Version {
    if version == "v1" { Version::V1 } else { Version::V2(tlvs) }
}

impl Checking<'_> {
    pub(super) fn pool(&mut self, entry: &Entry, defaults: &Timeouts, breaker: &Breaker) -> Option<Pool> {
        let name = self.name("pool", &entry.key, entry.key_place);
        let table = entry.node.as_table()?;
        if table.node("backends").is_none() {
            let fault = Diagnostic::error(format!("the pool `{}` has no `backends`", entry.key)).at(entry.key_place);
            let fault = fault.help("write `backends = [\"10.0.0.1:3000\"]`");
            self.missing(table, &keys::POOL, &["backends"], fault);
        }
        let nodes = table.list("backends").unwrap_or_default();
        let backends: Vec<Placed> = nodes.iter().filter_map(|node| self.backend(node)).collect();
        self.backends_differ(&backends);
        let policy = self.policy(table)?;
        if table.list("backends").is_some() && backends.len() == nodes.len() {
            self.warn_of_idle_pool(entry, &backends);
        }
        if let (Policy::ConsistentHash { on }, Some(node)) = (&policy, table.node("hash_on"))
            && *on != HashOn::ClientAddress
        {
            self.http_hashes.insert(entry.key.as_str().into(), node.place);
        }
        if policy == Policy::RoundRobin {
            self.warn_of_ignored_weights(table, &backends);
        }
        let backends: Vec<Backend> = backends.into_iter().map(|placed| placed.backend).collect();
        let health_check = self.health_check(table, &backends);
        let fail_open = self.fail_open(table);
        let breaker = self.breaker(table, breaker).into_settings();
        let slow_start = self.slow_start(table);
        let panic_threshold = self.panic_threshold(table, fail_open, breaker.is_some());
        self.warn_of_idle_queue(table, &backends);
        let tls = table.entry("tls").map(|tls| self.pool_tls(entry, tls, &backends));
        let (queue, mut timeouts) = (table.table("queue"), own_timeouts(table, defaults));
        if let Some(timeout) = queue.and_then(|queue| queue.duration("timeout")) {
            timeouts.queue = timeout;
        }
        let max = queue.and_then(|queue| queue.integer("max")).unwrap_or_else(|| keys::QUEUE_MAX.default_integer());
        Some(Pool {
            name: name?,
            policy,
            backends,
            slow_start,
            timeouts,
            health_check,
            fail_open,
            panic_threshold,
            breaker,
            queue: usize::try_from(max).unwrap_or_default(),
            retry_budget: table.number("retry_budget").unwrap_or_else(|| keys::RETRY_BUDGET.default_number()),
            http_version: self.http_version(table),
            send_proxy_protocol: self.sent_proxy_protocol(table),
            tls: match tls {
                Some(None) => return None,
                Some(understood) => understood,
                None => None,
            },
        })
    }

    /// The header that connections begin with.
    fn sent_proxy_protocol(&mut self, pool: &Table) -> Option<Version> {
        let table = match pool.text("send_proxy_protocol") {
            Some((version, _)) => return Some(sent(version, Tlvs::default())),
            None => pool.table("send_proxy_protocol")?,
        };
        let (version, place) = table.text("version").map_or(("v2", None), |(version, place)| (version, Some(place)));
        if let (Some(tlvs), Some(place), "v1") = (table.entry("tlvs"), place, version) {
            let fault = Diagnostic::error("a PROXY header of version 1 has no room for `tlvs`");
            let fault = fault.label(place, "a line of text").label(tlvs.key_place, "does not fit into it");
            self.faults.push(fault.help("write `version = \"v2\"`, or leave out `tlvs`"));
        }
        let written = table.list("tlvs").unwrap_or_default();
        let has = |name| written.iter().any(|node| matches!(node.as_text(), Some((text, _)) if text == name));
        Some(sent(version, Tlvs { alpn: has("alpn"), authority: has("authority"), ssl: has("ssl") }))
    }

    /// Who a connection announces as its client can not be many.
    fn http_version(&mut self, table: &Table) -> HttpVersion {
        let shared = table.entry("http_version").filter(|_| matches!(table.text("http_version"), Some(("h2", _))));
        let Some(shared) = shared else { return HttpVersion::H1 };
        if let Some(announced) = table.entry("send_proxy_protocol") {
            let fault = Diagnostic::error("a connection of HTTP/2 is shared by clients, and a PROXY header names one");
            let fault =
                fault.label(shared.key_place, "shares connections").label(announced.key_place, "names the client");
            self.faults.push(fault.help("keep one of them; backends learn of HTTP clients by `X-Forwarded-For`"));
        }
        HttpVersion::H2
    }

    /// A queue in which nobody can ever stand is probably a limit that was forgotten.
    fn warn_of_idle_queue(&mut self, table: &Table, backends: &[Backend]) {
        let is_meant = |queue: &Table| queue.node("max").is_none() || queue.integer("max").is_some_and(|max| max > 0);
        let entry = table.entry("queue").filter(|_| table.table("queue").is_some_and(is_meant));
        if let Some(entry) = entry
            && !backends.is_empty()
            && backends.iter().all(|backend| backend.max_connections.is_none())
        {
            let warning = Diagnostic::warning("nobody will ever wait in this queue").at(entry.key_place);
            self.faults.push(warning.help("give the backends their `max_connections`, or remove the queue"));
        }
    }

    fn backend(&mut self, node: &Node) -> Option<Placed> {
        if let Some((text, place)) = node.as_text() {
            let address = self.backend_address(text, place)?;
            let backend = Backend {
                name: text.into(),
                address,
                weight: 1,
                max_connections: None,
                backup: false,
                service: Service::Active,
            };
            return Some(Placed { backend, address_place: place, name_place: place, weight_place: None });
        }
        self.backend_table(node, node.as_table()?)
    }

    fn backend_table(&mut self, node: &Node, table: &Table) -> Option<Placed> {
        let service = self.service(table);
        let name = table.text("name").map(|(text, place)| (self.name("backend", text, place), place));
        if table.node("address").is_none() {
            let fault = Diagnostic::error("a backend needs its `address`").at(node.place);
            self.missing(table, &keys::BACKEND, &["address"], fault.help("write `address = \"10.0.0.1:3000\"`"));
        }
        let (text, address_place) = table.text("address")?;
        let address = self.backend_address(text, address_place)?;
        let (name, name_place) = match name {
            Some((name, place)) => (name?, place),
            None => (Name::from(text), address_place),
        };
        let weight = table.integer("weight").unwrap_or_else(|| keys::BACKEND_WEIGHT.default_integer());
        let backend = Backend {
            name,
            address,
            weight: u32::try_from(weight).unwrap_or(1),
            max_connections: table.integer("max_connections").and_then(to_count),
            backup: table.flag("backup").unwrap_or(false),
            service,
        };
        let weight_place = table.node("weight").map(|node| node.place);
        Some(Placed { backend, address_place, name_place, weight_place })
    }

    fn service(&mut self, table: &Table) -> Service {
        let is_on = |key: &str| table.node(key).filter(|_| table.flag(key) == Some(true));
        match (is_on("drain"), is_on("maintenance")) {
            (None, None) => Service::Active,
            (Some(_), None) => Service::Drain,
            (None, Some(_)) => Service::Maintenance,
            (Some(drain), Some(maintenance)) => {
                let fault = Diagnostic::error("a backend can not be drained and in maintenance at once");
                let fault = fault.label(maintenance.place, "in maintenance").label(drain.place, "drained");
                self.faults.push(fault.help("keep `drain` to let it finish what it has, or `maintenance` to stop it"));
                Service::Active
            }
        }
    }

    fn backends_differ(&mut self, backends: &[Placed]) {
        let addresses = backends.iter().map(|placed| (placed.backend.address.clone(), placed.address_place));
        let help = "a pool has each address once; for a larger share give it a `weight`";
        self.each_once::<Address>("this address is in the pool", help, addresses);
        // Who has no name is called by its address, and that was compared.
        let named = backends.iter().filter(|placed| placed.name_place != placed.address_place);
        let names = named.map(|placed| (placed.backend.name.clone(), placed.name_place));
        self.each_once::<Name>("this name is in the pool", "give each backend its own name", names);
    }

    fn policy(&mut self, table: &Table) -> Option<Policy> {
        let chosen = match table.node("balance") {
            Some(node) => node.as_text()?.0,
            None => "round_robin",
        };
        self.refuse_options_of_others(table, chosen);
        Some(match chosen {
            "weighted_round_robin" => Policy::WeightedRoundRobin,
            "least_connections" => Policy::LeastConnections,
            "least_response_time" => Policy::LeastResponseTime,
            "random_two_choices" => Policy::RandomTwoChoices,
            "ip_hash" => Policy::IpHash {
                ipv4_prefix: prefix(table, &keys::HASH_IPV4_PREFIX),
                ipv6_prefix: prefix(table, &keys::HASH_IPV6_PREFIX),
                bounded_load: table.number("bounded_load"),
            },
            "consistent_hash" => Policy::ConsistentHash { on: self.hash_on(table.node("hash_on"))? },
            _ => Policy::RoundRobin,
        })
    }

    fn refuse_options_of_others(&mut self, table: &Table, chosen: &str) {
        let options = [
            ("hash_on", "consistent_hash"),
            ("hash_ipv4_prefix", "ip_hash"),
            ("hash_ipv6_prefix", "ip_hash"),
            ("bounded_load", "ip_hash"),
        ];
        for (key, owner) in options {
            let Some(entry) = table.entry(key).filter(|_| owner != chosen) else { continue };
            let fault = Diagnostic::error(format!("`{key}` has no effect with `{chosen}`")).at(entry.key_place);
            let fault = match table.node("balance") {
                Some(node) => fault.label(node.place, "the algorithm"),
                None => fault,
            };
            self.faults.push(fault.help(format!("write `balance = \"{owner}\"`, or remove `{key}`")));
        }
    }

    fn hash_on(&mut self, node: Option<&Node>) -> Option<HashOn> {
        let Some(node) = node else { return Some(HashOn::ClientAddress) };
        if let Some((text, _)) = node.as_text() {
            return Some(if text == "uri" { HashOn::Uri } else { HashOn::ClientAddress });
        }
        let entry = self.only_entry(node, &keys::HASH_ON)?;
        let (text, place) = entry.node.as_text()?;
        match entry.key.as_str() {
            "header" => self.is_header_name(text, place).then(|| HashOn::Header(text.to_ascii_lowercase())),
            "cookie" if is_token(text.as_bytes()) => Some(HashOn::Cookie(text.to_owned())),
            "query" if !text.is_empty() && !text.contains(['&', '=', '#', '?']) => Some(HashOn::Query(text.to_owned())),
            kind => {
                self.error(
                    place,
                    format!("`{text}` is not the name of a {kind}"),
                    "write the name only, without its value",
                );
                None
            }
        }
    }

    fn warn_of_idle_pool(&mut self, entry: &Entry, backends: &[Placed]) {
        if backends.iter().any(|placed| placed.backend.service == Service::Active) {
            return;
        }
        let why =
            if backends.is_empty() { "has no backend" } else { "has only backends that are drained or in maintenance" };
        let warning = Diagnostic::warning(format!("the pool `{}` {why}", entry.key)).at(entry.key_place);
        self.faults.push(warning.help("every request for it will be answered 503, every connection closed"));
    }

    fn warn_of_ignored_weights(&mut self, table: &Table, backends: &[Placed]) {
        let weighted = backends.iter().filter(|placed| placed.backend.weight != 1);
        let mut places = weighted.filter_map(|placed| placed.weight_place);
        let Some(first) = places.next() else { return };
        let warning = Diagnostic::warning("`round_robin` ignores weights").label(first, "has no effect");
        let warning = places.take(4).fold(warning, Diagnostic::at);
        let warning = match table.node("balance") {
            Some(node) => warning.label(node.place, "the algorithm"),
            None => warning,
        };
        self.faults.push(warning.help("write `balance = \"weighted_round_robin\"`, or remove the weights"));
    }
}

fn prefix(table: &Table, key: &keys::Key) -> u8 {
    let bits = table.integer(key.name).unwrap_or_else(|| key.default_integer());
    u8::try_from(bits).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_said, meant};
    use super::*;

    fn with(pool: &str) -> String {
        format!("listeners.w = {{ bind = '127.0.0.1:0', pool = 'p' }}\n[pools.p]\n{pool}")
    }

    fn policy(pool: &str) -> Policy {
        meant(&with(&format!("backends = ['10.0.0.1:80']\n{pool}"))).pools[0].policy.clone()
    }

    #[test]
    fn strings_and_tables_mix_and_keep_their_order() {
        let config = meant(&with(
            "balance = 'least_connections'\nbackends = ['10.0.0.2:80', { address = '[::1]:80', name = 'six', weight = 3, \
             max_connections = 9, backup = true, drain = true }, 'unix:/run/x']",
        ));
        let backends = &config.pools[0].backends;
        let names: Vec<&str> = backends.iter().map(|backend| &*backend.name).collect();
        assert_eq!(names, ["10.0.0.2:80", "six", "unix:/run/x"]);
        assert_eq!((backends[1].weight, backends[1].max_connections.map(u32::from)), (3, Some(9)));
        assert_eq!((backends[1].backup, backends[1].service), (true, Service::Drain));
        assert_eq!(backends[2].address, Address::Unix("/run/x".into()));
    }

    #[test]
    fn each_algorithm_has_its_own_options() {
        assert_eq!(
            policy("balance = 'ip_hash'\nhash_ipv4_prefix = 24\nbounded_load = 2"),
            Policy::IpHash { ipv4_prefix: 24, ipv6_prefix: 64, bounded_load: Some(2.0) }
        );
        assert_eq!(policy("balance = 'consistent_hash'"), Policy::ConsistentHash { on: HashOn::ClientAddress });
        assert_eq!(
            policy("balance = 'consistent_hash'\nhash_on = { header = 'X-User' }"),
            Policy::ConsistentHash { on: HashOn::Header("x-user".into()) }
        );
        for (wrong, part) in [
            ("bounded_load = 1.5", "has no effect with `round_robin`"),
            ("balance = 'ip_hash'\nhash_on = 'uri'", "write `balance = \"consistent_hash\"`"),
            (
                "balance = 'consistent_hash'\nhash_on = { header = 'a', cookie = 'b' }",
                "exactly one of `header`, `cookie` or `query`",
            ),
            ("balance = 'consistent_hash'\nhash_on = { query = 'a=b' }", "not the name of a query"),
            ("balance = 'ip_hash'\nbounded_load = 1.0", "above 1"),
            ("balance = 'ip_hash'\nbounded_load = nan", "above 1"),
            ("balance = 'leastconn'", "that is `least_connections` here"),
            ("balance = 'maglev'", "that is `consistent_hash` here"),
            ("balance = 'least_conections'", "did you mean `least_connections`?"),
        ] {
            assert_said(&with(&format!("backends = ['10.0.0.1:80']\n{wrong}")), &[part]);
        }
    }

    #[test]
    fn what_differs_only_in_writing_is_the_same_address() {
        assert_said(
            &with("backends = ['10.0.0.1:80', { address = '[::ffff:10.0.0.1]:80', weight = 1 }]"),
            &["this address is in the pool twice", "first here", "again"],
        );
        assert_said(
            &with("backends = [{ name = 'x', address = '10.0.0.1:80' }, { name = 'x', address = '10.0.0.2:80' }]"),
            &["this name is in the pool twice"],
        );
    }

    #[test]
    fn a_pool_has_its_queue_and_its_retry_budget() {
        let pool = |lines: &str| {
            let text = format!("backends = [{{ address = '10.0.0.1:80', max_connections = 5 }}]\n{lines}");
            let pool = meant(&format!("defaults.timeouts.queue = '3s'\n{}", with(&text))).pools.remove(0);
            (pool.queue, pool.timeouts.queue.as_millis(), pool.retry_budget)
        };
        assert_eq!(pool(""), (100, 3000, 0.2), "whoever limits backends has a queue before them");
        assert_eq!(pool("queue = { max = 0 }\nretry_budget = 1"), (0, 3000, 1.0));
        assert_eq!(pool("queue = { timeout = '250ms' }\nretry_budget = 0.05"), (100, 250, 0.05));
    }

    #[test]
    fn a_header_tells_no_more_than_is_asked_for() {
        let pool =
            |keys: &str| meant(&with(&format!("backends = ['10.0.0.1:80']\n{keys}"))).pools[0].send_proxy_protocol;
        let (nothing, all) = (Tlvs::default(), Tlvs { alpn: true, authority: true, ssl: true });
        for (written, version) in [
            ("", None),
            ("send_proxy_protocol = 'v1'", Some(Version::V1)),
            ("send_proxy_protocol = { version = 'v1' }", Some(Version::V1)),
            ("send_proxy_protocol = 'v2'", Some(Version::V2(nothing))),
            ("send_proxy_protocol = {}", Some(Version::V2(nothing))),
            ("send_proxy_protocol = { tlvs = ['ssl'] }", Some(Version::V2(Tlvs { ssl: true, ..nothing }))),
            ("send_proxy_protocol = { version = 'v2', tlvs = ['alpn', 'ssl', 'authority'] }", Some(Version::V2(all))),
        ] {
            assert_eq!(pool(written), version, "{written}");
        }
    }

    #[test]
    fn faults_of_backends_are_told_apart() {
        for (wrong, part) in [
            ("backends = ['localhost:3000']", "write \"127.0.0.1:3000\""),
            ("backends = ['10.0.0.1:0']", "not an address to connect to"),
            ("backends = [{ weight = 2 }]", "needs its `address`"),
            ("backends = [{ address = '10.0.0.1:80', drain = true, maintenance = true }]", "at once"),
            ("backends = [{ address = '10.0.0.1:80', maxconn = 3 }]", "write `max_connections`"),
            ("backends = [{ address = '10.0.0.1:80', weight = 1001 }]", "from 1 to 1000"),
            ("balance = 'ip_hash'", "has no `backends`"),
            ("backends = ['10.0.0.1:80']\noutlier_detection = {}", "write `[pools.NAME.breaker]`"),
            ("backends = ['10.0.0.1:80']\nretry_budget = 1.5", "above 0 and up to 1"),
            ("backends = ['10.0.0.1:80']\nretry_budget = 0", "above 0 and up to 1"),
            ("backends = ['10.0.0.1:80']\nmaxqueue = 5", "write `queue = {"),
            ("backends = ['10.0.0.1:80']\nqueue = { max = -1 }", "-1"),
            ("backends = ['10.0.0.1:80']\nqueue = { max = 'many' }", "whole number"),
            ("backends = ['10.0.0.1:80']\nretry = {}", "retries belong to a route"),
            ("backends = ['10.0.0.1:80']\nsend_proxy_protocol = 'v3'", "`v1`"),
            (
                "backends = ['10.0.0.1:80']\nsend_proxy_protocol = { version = 'v1', tlvs = ['ssl'] }",
                "write `version = \"v2\"`, or leave out `tlvs`",
            ),
            (
                "backends = ['10.0.0.1:80']\nsend_proxy_protocol = { tlvs = ['sni'] }",
                "write \"alpn\", \"authority\" or \"ssl\"",
            ),
            ("backends = ['10.0.0.1:80']\nhttp_version = 'h3'", "`h1`"),
            ("backends = ['10.0.0.1:80']\nhttp_version = 'h2'\nsend_proxy_protocol = 'v1'", "is shared by clients"),
            ("backends = ['10.0.0.1:80']\nsend_proxy = true", "write `send_proxy_protocol = \"v2\"`"),
        ] {
            assert_said(&with(wrong), &[part]);
        }
    }

    #[test]
    fn what_looks_odd_is_a_warning() {
        for (odd, part) in [
            ("backends = []", "warning: the pool `p` has no backend"),
            ("backends = [{ address = '10.0.0.1:80', drain = true }]", "drained or in maintenance"),
            ("backends = [{ address = '10.0.0.1:80', weight = 2 }]", "warning: `round_robin` ignores weights"),
            ("backends = ['10.0.0.1:80']\nqueue = { max = 5 }", "warning: nobody will ever wait in this queue"),
        ] {
            assert_said(&with(odd), &[part]);
        }
        meant(&with("balance = 'ip_hash'\nbackends = [{ address = '10.0.0.1:80', weight = 2 }]"));
    }
}
