//! Which route a request takes.
//!
//! The precedence is fixed (design.md §5): exact host, then the longest wildcard, then any host; within those exact path,
//! longest prefix, regular expressions in file order, no path at all; then the route that asks for more of method and
//! headers; then file order. A better host whose routes do not match leaves the request to the lesser ones. All of that is
//! decided when the table is compiled: each host's routes lie in the order of their rank, and the first that matches wins.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::time::Duration;

use super::ids::PoolId;
use crate::config::{
    self, HeaderEdits, HeaderMatch, HeaderRules, HeaderValueMatch, HostPattern, Name, PathPattern, Retry,
};
use crate::http::Fields;

/// What of a request decides its route.
#[derive(Clone, Copy, Debug)]
pub struct RouteAsk<'a> {
    /// Lower case, without port and trailing dot.
    pub host: &'a str,
    /// Canonical, without the query.
    pub path: &'a str,
    /// The token as it came.
    pub method: &'a [u8],
    /// The request's fields.
    pub fields: &'a Fields,
}

/// One route, ready to be taken.
#[derive(Debug)]
pub struct Route {
    /// Its name.
    pub name: Name,
    /// What happens.
    pub action: Action,
    /// Changes to what is sent to the backend: the listener's, then the route's own; empty ones are left out.
    pub request_edits: Box<[Arc<HeaderEdits>]>,
    /// Changes to what is answered to the client, in the same order.
    pub response_edits: Box<[Arc<HeaderEdits>]>,
    /// When a request is tried again.
    pub retry: Retry,
    /// For a whole request; `None`: no limit.
    pub request_timeout: Option<Duration>,
    path: PathPattern,
    methods: Vec<Arc<str>>,
    headers: Vec<HeaderMatch>,
}

/// What a route does.
#[derive(Debug)]
pub enum Action {
    /// Forward to a pool.
    Forward(Split),
    /// Answer with a redirection.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// A URI with `{host}`, `{path}` and `{query}` in it.
        to: Arc<str>,
    },
    /// Answer 308 to the same place on `https://`.
    RedirectToHttps,
    /// Answer this.
    Respond {
        /// 200–599.
        status: u16,
        /// The body, may be empty.
        body: Arc<str>,
        /// Its type.
        content_type: Arc<str>,
    },
}

/// Pools with their shares of a route's requests; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// With the sum of the weights up to and including its own; pools of weight 0 are left out.
    pools: Box<[(u64, PoolId)]>,
    total: u64,
}

impl Split {
    /// The pools of positive weight; the configuration promises one.
    fn new(weighted: impl Iterator<Item = (PoolId, u32)>) -> Split {
        let mut total = 0;
        let mut pools = Vec::new();
        for (pool, weight) in weighted.filter(|&(_, weight)| weight > 0) {
            total += u64::from(weight);
            pools.push((total, pool));
        }
        assert!(!pools.is_empty(), "a checked split has a weight above 0");
        Split { pools: pools.into(), total }
    }

    /// The pool for a roll of the dice, which is uniform over all `u64`.
    #[must_use]
    pub fn choose(&self, roll: u64) -> PoolId {
        // The high half of the product is uniform below the total, without a division.
        let point = (u128::from(roll) * u128::from(self.total)) >> 64;
        let place = self.pools.partition_point(|&(up_to, _)| u128::from(up_to) <= point);
        self.pools[place].1
    }

    /// The pools that requests may go to.
    pub fn pools(&self) -> impl Iterator<Item = PoolId> {
        self.pools.iter().map(|&(_, pool)| pool)
    }
}

impl Route {
    fn matches(&self, ask: &RouteAsk<'_>) -> bool {
        path_matches(&self.path, ask.path)
            && (self.methods.is_empty() || self.methods.iter().any(|method| method.as_bytes() == ask.method))
            && self.headers.iter().all(|header| header_matches(header, ask.fields))
    }
}

fn path_matches(pattern: &PathPattern, path: &str) -> bool {
    match pattern {
        PathPattern::Any => true,
        PathPattern::Exact(exact) => path == exact,
        PathPattern::Prefix(prefix) => is_under(prefix, path),
        PathPattern::Regex(regex) => regex.is_match(path),
    }
}

/// Whether `path` begins with `prefix` and the prefix ends where a segment does.
fn is_under(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'))
}

/// Whether one of the fields of this name has the wanted value.
#[must_use]
pub fn header_matches(wanted: &HeaderMatch, fields: &Fields) -> bool {
    let mut values = fields.values(&wanted.name);
    match &wanted.value {
        HeaderValueMatch::Present => values.next().is_some(),
        HeaderValueMatch::Exact(exact) => values.any(|value| value == exact.as_bytes()),
        HeaderValueMatch::Regex(regex) => {
            values.any(|value| std::str::from_utf8(value).is_ok_and(|text| regex.is_match(text)))
        }
    }
}

/// Places in [`RouteTable::routes`], best rank first.
type Group = Vec<u32>;
/// Keys come from the configuration alone, so they need no random hash against collisions made on purpose.
type ByHost = HashMap<Box<str>, Group, BuildHasherDefault<DefaultHasher>>;

/// The routes of one listener.
#[derive(Debug, Default)]
pub struct RouteTable {
    routes: Vec<Route>,
    exact: ByHost,
    /// By suffix with its leading dot.
    wildcard: ByHost,
    /// The bytes of the longest wildcard suffix: longer ends of a host need no look.
    longest_wildcard: usize,
    any: Group,
}

impl RouteTable {
    /// Compiles the routes of a listener with its header rules; `resolve` knows the pools.
    #[must_use]
    pub fn compile(routes: &[config::Route], headers: &HeaderRules, resolve: impl Fn(&str) -> PoolId) -> RouteTable {
        let listener = EditsOf::new(headers);
        let mut table = RouteTable::default();
        for route in rank(routes) {
            table.add(&route.hosts, compile_route(route, &listener, &resolve));
        }
        table
    }

    /// Adds the route that comes next in rank.
    fn add(&mut self, hosts: &[HostPattern], route: Route) {
        let place = u32::try_from(self.routes.len()).expect("a file has fewer than 2^32 routes");
        self.routes.push(route);
        if hosts.is_empty() {
            self.any.push(place);
        }
        for host in hosts {
            let group = match host {
                HostPattern::Exact(name) => self.exact.entry(name.as_str().into()),
                HostPattern::Wildcard(suffix) => {
                    self.longest_wildcard = self.longest_wildcard.max(suffix.len());
                    self.wildcard.entry(suffix.as_str().into())
                }
            };
            group.or_default().push(place);
        }
    }

    /// The route for a request, `None` when none matches.
    #[must_use]
    pub fn find(&self, ask: &RouteAsk<'_>) -> Option<&Route> {
        self.find_exact(ask).or_else(|| self.find_wildcard(ask)).or_else(|| self.first(&self.any, ask))
    }

    fn find_exact(&self, ask: &RouteAsk<'_>) -> Option<&Route> {
        // An empty map would hash the host all the same.
        if self.exact.is_empty() {
            return None;
        }
        self.first(self.exact.get(ask.host)?, ask)
    }

    /// Looks from the longest end of the host to the shortest; before the dot stands at least one label.
    fn find_wildcard(&self, ask: &RouteAsk<'_>) -> Option<&Route> {
        if self.wildcard.is_empty() {
            return None;
        }
        let ends = ask.host.match_indices('.').map(|(dot, _)| dot).filter(|&dot| dot > 0).map(|dot| &ask.host[dot..]);
        ends.skip_while(|end| end.len() > self.longest_wildcard)
            .filter_map(|end| self.wildcard.get(end))
            .find_map(|group| self.first(group, ask))
    }

    fn first(&self, group: &[u32], ask: &RouteAsk<'_>) -> Option<&Route> {
        group.iter().map(|&place| &self.routes[place as usize]).find(|route| route.matches(ask))
    }

    /// All routes, best rank first.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }
}

/// The routes by rank, hosts left aside.
fn rank(routes: &[config::Route]) -> Vec<&config::Route> {
    let mut ranked: Vec<_> = routes.iter().enumerate().collect();
    ranked.sort_by_key(|&(place, route)| {
        let asks = route.match_headers.len() + usize::from(!route.methods.is_empty());
        (path_rank(routes, place), Reverse(asks), place)
    });
    ranked.into_iter().map(|(_, route)| route).collect()
}

/// Kind of path, then the longer prefix, then the file order of regular expressions, in which routes that share an
/// expression stand together, so that what they ask for beyond it decides between them.
fn path_rank(routes: &[config::Route], place: usize) -> (u8, Reverse<usize>, usize) {
    match &routes[place].path {
        PathPattern::Exact(_) => (0, Reverse(0), 0),
        PathPattern::Prefix(prefix) => (1, Reverse(prefix.len()), 0),
        PathPattern::Regex(regex) => {
            let first = routes.iter().position(|other| is_regex(&other.path, regex.as_str()));
            (2, Reverse(0), first.unwrap_or(place))
        }
        PathPattern::Any => (3, Reverse(0), 0),
    }
}

fn is_regex(pattern: &PathPattern, text: &str) -> bool {
    matches!(pattern, PathPattern::Regex(regex) if regex.as_str() == text)
}

/// Header rules that routes can share; `None` where there is nothing to do.
struct EditsOf {
    request: Option<Arc<HeaderEdits>>,
    response: Option<Arc<HeaderEdits>>,
}

impl EditsOf {
    fn new(rules: &HeaderRules) -> EditsOf {
        let share = |edits: &HeaderEdits| (!edits.is_empty()).then(|| Arc::new(edits.clone()));
        EditsOf { request: share(&rules.request), response: share(&rules.response) }
    }
}

fn compile_route(route: &config::Route, listener: &EditsOf, resolve: &impl Fn(&str) -> PoolId) -> Route {
    let own = EditsOf::new(&route.headers);
    Route {
        name: route.name.clone(),
        action: compile_action(&route.action, resolve),
        request_edits: listener.request.iter().chain(&own.request).cloned().collect(),
        response_edits: listener.response.iter().chain(&own.response).cloned().collect(),
        path: route.path.clone(),
        methods: route.methods.clone(),
        headers: route.match_headers.clone(),
        retry: route.retry.clone(),
        request_timeout: route.request_timeout,
    }
}

fn compile_action(action: &config::Action, resolve: &impl Fn(&str) -> PoolId) -> Action {
    match action {
        config::Action::Forward(pools) => {
            Action::Forward(Split::new(pools.iter().map(|share| (resolve(&share.pool), share.weight))))
        }
        config::Action::Redirect { status, to } => Action::Redirect { status: *status, to: to.as_str().into() },
        config::Action::RedirectToHttps => Action::RedirectToHttps,
        config::Action::Respond { status, body, content_type } => {
            Action::Respond { status: *status, body: body.clone(), content_type: content_type.clone() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::WeightedPool;
    use crate::http::Known;
    use regex::Regex;

    fn route(name: &str) -> config::Route {
        config::Route {
            name: name.into(),
            hosts: Vec::new(),
            path: PathPattern::Any,
            methods: Vec::new(),
            match_headers: Vec::new(),
            action: config::Action::RedirectToHttps,
            headers: HeaderRules::default(),
            retry: config::Retry::default(),
            request_timeout: None,
        }
    }

    fn host(name: &str, pattern: &str) -> config::Route {
        let pattern = match pattern.strip_prefix('*') {
            Some(suffix) => HostPattern::Wildcard(suffix.to_owned()),
            None => HostPattern::Exact(pattern.to_owned()),
        };
        config::Route { hosts: vec![pattern], ..route(name) }
    }

    fn exact(path: &str) -> PathPattern {
        PathPattern::Exact(path.to_owned())
    }

    fn prefix(path: &str) -> PathPattern {
        PathPattern::Prefix(path.to_owned())
    }

    fn regex(path: &str) -> PathPattern {
        PathPattern::Regex(Regex::new(path).unwrap())
    }

    fn header(name: &str, value: HeaderValueMatch) -> HeaderMatch {
        HeaderMatch { name: name.to_owned(), value }
    }

    fn table(routes: &[config::Route]) -> RouteTable {
        RouteTable::compile(routes, &HeaderRules::default(), |_| PoolId::new(0))
    }

    fn fields(of: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in of {
            fields.push(Known::Other, name.as_bytes(), value.as_bytes());
        }
        fields
    }

    /// The name of the route that a GET for this takes, `-` for none.
    fn taken<'a>(table: &'a RouteTable, host: &str, path: &str) -> &'a str {
        let fields = Fields::default();
        table.find(&RouteAsk { host, path, method: b"GET", fields: &fields }).map_or("-", |route| &*route.name)
    }

    #[test]
    fn an_exact_host_beats_the_longest_wildcard_beats_any() {
        let table = table(&[
            route("any"),
            host("short", "*.example.com"),
            host("long", "*.eu.example.com"),
            host("exact", "a.eu.example.com"),
        ]);
        for (host, name) in [
            ("a.eu.example.com", "exact"),
            ("b.eu.example.com", "long"),
            ("x.b.eu.example.com", "long"),
            ("eu.example.com", "short"),
            ("b.example.com", "short"),
            ("example.com", "any"),
            (".example.com", "any"),
            ("notexample.com", "any"),
            ("", "any"),
        ] {
            assert_eq!(taken(&table, host, "/"), name, "{host}");
        }
    }

    #[test]
    fn a_better_host_without_a_match_leaves_the_request_to_lesser_ones() {
        let table = table(&[
            config::Route { path: exact("/exact"), ..host("exact", "www.eu.example.com") },
            config::Route { path: exact("/long"), ..host("long", "*.eu.example.com") },
            config::Route { path: exact("/short"), ..host("short", "*.example.com") },
            config::Route { path: exact("/any"), ..route("any") },
        ]);
        for name in ["exact", "long", "short", "any"] {
            assert_eq!(taken(&table, "www.eu.example.com", &format!("/{name}")), name);
        }
        assert_eq!(taken(&table, "www.eu.example.com", "/"), "-");
    }

    #[test]
    fn an_exact_path_beats_the_longest_prefix_beats_expressions_beats_none() {
        let table = table(&[
            route("none"),
            config::Route { path: regex("^/a"), ..route("first expression") },
            config::Route { path: regex("z$"), ..route("second expression") },
            config::Route { path: prefix("/a/b"), ..route("short") },
            config::Route { path: prefix("/a/b/c"), ..route("long") },
            config::Route { path: exact("/a/b/c"), ..route("exact") },
        ]);
        for (path, name) in [
            ("/a/b/c", "exact"),
            ("/a/b/c/", "long"),
            ("/a/b/cd", "short"),
            ("/a/b", "short"),
            ("/a/bc", "first expression"),
            ("/a/z", "first expression"),
            ("/z", "second expression"),
            ("/", "none"),
        ] {
            assert_eq!(taken(&table, "", path), name, "{path}");
        }
    }

    #[test]
    fn a_prefix_matches_whole_segments() {
        for (pattern, path, matches) in [
            ("/v1", "/v1", true),
            ("/v1", "/v1/x", true),
            ("/v1", "/v10", false),
            ("/v1/", "/v1/x", true),
            ("/v1/", "/v1/", true),
            ("/v1/", "/v1", false),
            ("/", "/anything", true),
            ("/", "*", false),
        ] {
            assert_eq!(is_under(pattern, path), matches, "{pattern} {path}");
        }
    }

    #[test]
    fn on_equal_paths_the_route_that_asks_for_more_wins_and_then_the_file_order() {
        let beta = || header("x-beta", HeaderValueMatch::Present);
        let table = table(&[
            config::Route { path: prefix("/a"), ..route("first") },
            config::Route { path: prefix("/a"), ..route("second") },
            config::Route { path: prefix("/a"), match_headers: vec![beta()], ..route("header") },
            config::Route { path: prefix("/a"), methods: vec!["GET".into()], ..route("method") },
            config::Route {
                path: prefix("/a"),
                match_headers: vec![beta()],
                methods: vec!["POST".into()],
                ..route("both")
            },
        ]);
        let (with, without) = (fields(&[("X-Beta", "1")]), fields(&[]));
        for (method, fields, name) in [
            (&b"POST"[..], &with, "both"),
            (b"GET", &with, "header"),
            (b"GET", &without, "method"),
            (b"PUT", &without, "first"),
            (b"get", &without, "first"),
        ] {
            let found = table.find(&RouteAsk { host: "", path: "/a", method, fields }).unwrap();
            assert_eq!(&*found.name, name);
        }
    }

    #[test]
    fn routes_that_share_an_expression_differ_by_what_they_ask_beyond_it() {
        let table = table(&[
            config::Route { path: regex("^/a"), ..route("plain") },
            config::Route { path: regex("^/a/b"), methods: vec!["GET".into()], ..route("later") },
            config::Route { path: regex("^/a"), methods: vec!["GET".into()], ..route("method") },
        ]);
        assert_eq!(taken(&table, "", "/a/b"), "method");
    }

    #[test]
    fn all_headers_must_match_and_any_field_of_the_name_may() {
        let table = table(&[config::Route {
            match_headers: vec![
                header("x-tier", HeaderValueMatch::Exact("gold".to_owned())),
                header("x-build", HeaderValueMatch::Regex(Regex::new("^2[0-9]$").unwrap())),
            ],
            ..route("gold")
        }]);
        for (fields, matches) in [
            (fields(&[("X-Tier", "gold"), ("X-Build", "21")]), true),
            (fields(&[("x-tier", "iron"), ("x-tier", "gold"), ("x-build", "29")]), true),
            (fields(&[("X-Tier", "gold")]), false),
            (fields(&[("X-Tier", "Gold"), ("X-Build", "21")]), false),
            (fields(&[("X-Tier", "gold"), ("X-Build", "213")]), false),
        ] {
            let found = table.find(&RouteAsk { host: "", path: "/", method: b"GET", fields: &fields });
            assert_eq!(found.is_some(), matches, "{fields:?}");
        }
    }

    #[test]
    fn a_value_that_is_not_text_matches_no_expression() {
        let all = header("x", HeaderValueMatch::Regex(Regex::new("").unwrap()));
        let table = table(&[config::Route { match_headers: vec![all], ..route("text") }]);
        let mut fields = Fields::default();
        fields.push(Known::Other, b"x", b"\xff");
        assert!(table.find(&RouteAsk { host: "", path: "/", method: b"GET", fields: &fields }).is_none());
    }

    #[test]
    fn a_listeners_edits_come_before_the_routes_own_and_empty_ones_are_left_out() {
        let edits = |name: &str| HeaderEdits { remove: vec![name.to_owned()], ..HeaderEdits::default() };
        let listener = HeaderRules { request: edits("listener"), response: HeaderEdits::default() };
        let own = HeaderRules { request: edits("route"), response: edits("route") };
        let routes = [config::Route { headers: own, ..route("edited") }];
        let table = RouteTable::compile(&routes, &listener, |_| PoolId::new(0));
        let route = table.routes().next().unwrap();
        let names = |edits: &[Arc<HeaderEdits>]| edits.iter().flat_map(|e| e.remove.clone()).collect::<Vec<_>>();
        assert_eq!(names(&route.request_edits), ["listener", "route"]);
        assert_eq!(names(&route.response_edits), ["route"]);
    }

    #[test]
    fn a_split_follows_its_weights_and_never_chooses_a_weight_of_zero() {
        let shares = [("a", 95), ("off", 0), ("b", 5)];
        let pools = shares.map(|(pool, weight)| WeightedPool { pool: pool.into(), weight }).to_vec();
        let resolve = |name: &str| PoolId::new(u32::from(name.as_bytes()[0]));
        let (a, b) = (resolve("a"), resolve("b"));
        let Action::Forward(split) = compile_action(&config::Action::Forward(pools), &resolve) else {
            panic!("forwards");
        };
        let step = u64::MAX / 1000;
        let chosen: Vec<_> = (0..1000).map(|n| split.choose(n * step + step / 2)).collect();
        assert_eq!(chosen.iter().filter(|&&pool| pool == a).count(), 950);
        assert_eq!(chosen.iter().filter(|&&pool| pool == b).count(), 50);
        assert_eq!(split.choose(0), a);
        assert_eq!(split.choose(u64::MAX), b);
        assert!(split.pools().eq([a, b]));
    }
}
