//! Which routes can never match, because whatever they match another route gets first.
//!
//! Precedence is fixed (design.md §5): exact host before the longest wildcard before any host; then exact path before the
//! longest prefix before regular expressions in file order before any path; then more header and method conditions before
//! fewer; then file order. A warning is given only where it is certain; a regular expression that happens to cover another
//! is not found.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::diagnostic::{Diagnostic, Place};
use super::super::{HeaderMatch, HeaderValueMatch, HostPattern, PathPattern, Route};
use super::Checking;

/// A route and where it stands.
pub(super) struct Placed {
    pub(super) route: Route,
    pub(super) place: Place,
}

impl Checking<'_> {
    /// Warns of every route that can never match.
    pub(super) fn warn_of_shadowed_routes(&mut self, routes: &[Placed]) {
        let rivals = Rivals::new(routes);
        for (index, placed) in routes.iter().enumerate() {
            let Some(cover) = cover_of(routes, &rivals, index) else { continue };
            let cover = &routes[cover];
            let message = format!("the route `{}` can never match", placed.route.name);
            let warning = Diagnostic::warning(message).label(placed.place, "never reached");
            let warning = warning.label(cover.place, format!("`{}` gets all of its requests", cover.route.name));
            self.faults.push(warning.help("remove it, or make its hosts, path, methods or headers narrower"));
        }
    }
}

/// Routes by host pattern and path: only the same host pattern both covers a host and is no less exact, and only the same
/// path, or the prefix of all paths, covers one. Comparing all with all would take seconds for ten thousand routes.
struct Rivals<'a>(BTreeMap<(Option<&'a HostPattern>, PathKey<'a>), Vec<usize>>);

/// A path pattern as far as it is the same as another.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum PathKey<'a> {
    Any,
    Exact(&'a str),
    Prefix(&'a str),
    Regex(&'a str),
}

impl<'a> From<&'a PathPattern> for PathKey<'a> {
    fn from(path: &'a PathPattern) -> PathKey<'a> {
        match path {
            PathPattern::Any => PathKey::Any,
            PathPattern::Exact(path) => PathKey::Exact(path),
            PathPattern::Prefix(path) => PathKey::Prefix(path),
            PathPattern::Regex(regex) => PathKey::Regex(regex.as_str()),
        }
    }
}

impl<'a> Rivals<'a> {
    fn new(routes: &'a [Placed]) -> Rivals<'a> {
        let mut rivals = BTreeMap::<_, Vec<usize>>::new();
        for (index, placed) in routes.iter().enumerate() {
            for host in alternatives(&placed.route.hosts) {
                rivals.entry((host, PathKey::from(&placed.route.path))).or_default().push(index);
            }
        }
        Rivals(rivals)
    }

    /// Those that may take what a route with this path gets for this host.
    fn of(&self, host: Option<&'a HostPattern>, path: &'a PathPattern) -> impl Iterator<Item = usize> {
        let same = self.0.get(&(host, PathKey::from(path)));
        let root = self.0.get(&(host, PathKey::Prefix("/")));
        same.into_iter().chain(root).flatten().copied()
    }
}

/// The first of the routes that together take everything from the one at `index`.
///
/// Each pair of one of its hosts and one of its methods has to be taken by one other route.
fn cover_of(routes: &[Placed], rivals: &Rivals<'_>, index: usize) -> Option<usize> {
    let route = &routes[index].route;
    let mut first = None;
    for host in alternatives(&route.hosts) {
        for method in alternatives(&route.methods) {
            let takes = |rival: &usize| *rival != index && takes_all(routes, *rival, index, method);
            let cover = rivals.of(host, &route.path).find(takes)?;
            first = first.or(Some(cover));
        }
    }
    first
}

/// Each item, or `None` once for "any".
fn alternatives<T>(items: &[T]) -> impl Iterator<Item = Option<&T>> {
    items.iter().map(Some).chain(items.is_empty().then_some(None))
}

/// Whether every request that the route at `loser` matches by this method and a host they share is matched, and preferred,
/// by `winner`.
fn takes_all(routes: &[Placed], winner: usize, loser: usize, method: Option<&Arc<str>>) -> bool {
    let (ours, theirs) = (&routes[winner].route, &routes[loser].route);
    let covers_method = ours.methods.is_empty() || method.is_some_and(|method| ours.methods.contains(method));
    let covers_headers =
        ours.match_headers.iter().all(|needed| theirs.match_headers.iter().any(|has| implies(has, needed)));
    if !(covers_method && covers_headers) {
        return false;
    }
    match by_path(&ours.path, &theirs.path) {
        Path::Apart => false,
        Path::Before => true,
        Path::SameRegex => winner < loser,
        Path::Same => {
            let (our, their) = (conditions(ours), conditions(theirs));
            our > their || our == their && winner < loser
        }
    }
}

/// How one path pattern stands to another.
enum Path {
    /// It does not cover the other, or gives way to it.
    Apart,
    /// It covers the other and comes first.
    Before,
    /// They are the same expression, which file order decides before anything else.
    SameRegex,
    /// They are the same.
    Same,
}

fn by_path(ours: &PathPattern, theirs: &PathPattern) -> Path {
    use PathPattern::{Any, Exact, Prefix, Regex};
    match (ours, theirs) {
        (Exact(a), Exact(b)) | (Prefix(a), Prefix(b)) if a == b => Path::Same,
        (Any, Any) => Path::Same,
        (Regex(a), Regex(b)) if a.as_str() == b.as_str() => Path::SameRegex,
        // Every path begins with `/`.
        (Prefix(root), Regex(_) | Any) if root == "/" => Path::Before,
        _ => Path::Apart,
    }
}

/// How many conditions on headers and the method a route has.
fn conditions(route: &Route) -> usize {
    route.match_headers.len() + usize::from(!route.methods.is_empty())
}

/// Whether a request for which `has` holds is one for which `needed` holds.
fn implies(has: &HeaderMatch, needed: &HeaderMatch) -> bool {
    has.name == needed.name
        && match (&has.value, &needed.value) {
            (_, HeaderValueMatch::Present) => true,
            (HeaderValueMatch::Exact(a), HeaderValueMatch::Exact(b)) => a == b,
            (HeaderValueMatch::Regex(a), HeaderValueMatch::Regex(b)) => a.as_str() == b.as_str(),
            (HeaderValueMatch::Exact(a), HeaderValueMatch::Regex(b)) => b.is_match(a),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::super::testing::said;

    /// The names of the routes that are said to never match, of routes written as one inline table a line.
    fn dead(routes: &str) -> Vec<String> {
        let routes = routes.lines().map(|route| format!("{{ {route}, pool = 'a' }}")).collect::<Vec<_>>().join(", ");
        let report = said(&format!(
            "pools.a.backends = ['10.0.0.1:80']\n[listeners.w]\nbind = '127.0.0.1:1'\nroutes = [{routes}]\n"
        ));
        let name = |message: &str| message.split('`').nth(1).map(str::to_owned);
        report.diagnostics.iter().filter_map(|diagnostic| name(&diagnostic.message)).collect()
    }

    #[test]
    fn the_later_of_two_equal_routes_never_matches() {
        assert_eq!(dead("hosts = ['x']\nhosts = ['x']"), ["route-2"]);
        assert_eq!(dead("path = { prefix = '/a' }\npath = { prefix = '/a' }, methods = ['GET']"), [""; 0]);
        assert_eq!(dead("methods = ['GET', 'POST']\nmethods = ['GET']"), ["route-2"]);
        assert_eq!(dead("path = { regex = 'a' }\npath = { regex = 'a' }, methods = ['GET']"), ["route-2"]);
        assert_eq!(dead("path = { regex = 'a' }, methods = ['GET']\npath = { regex = 'a' }"), [""; 0]);
    }

    #[test]
    fn several_routes_can_take_all_of_one() {
        assert_eq!(dead("methods = ['GET']\nmethods = ['POST']\nmethods = ['GET', 'POST']"), ["route-3"]);
        assert_eq!(dead("hosts = ['x']\nhosts = ['y']\nhosts = ['y', 'x']"), ["route-3"]);
        assert_eq!(dead("hosts = ['x']\nhosts = ['y', 'x']"), [""; 0]);
    }

    #[test]
    fn precedence_and_not_order_decides() {
        assert_eq!(dead("path = { regex = 'a' }\npath = { prefix = '/' }"), ["route-1"]);
        assert_eq!(dead("path = { prefix = '/' }\npath = { exact = '/a' }"), [""; 0]);
        assert_eq!(dead("hosts = ['*.x']\nhosts = ['a.x']\npath = { exact = '/a' }"), [""; 0]);
        assert_eq!(dead("match_headers = { A = '1' }\nmatch_headers = { A = '1', B = '2' }"), [""; 0]);
        assert_eq!(dead("match_headers = { A = { present = true } }\nmatch_headers = { A = '1' }"), ["route-2"]);
        assert_eq!(dead("match_headers = { A = '1' }\nmatch_headers = { A = { present = true } }"), [""; 0]);
    }

    #[test]
    fn what_is_for_the_rest_never_matches_after_a_route_for_everything() {
        let report = said(
            "pools.a.backends = ['10.0.0.1:80']\n[listeners.w]\nbind = '127.0.0.1:1'\npool = 'a'\nroutes = [{ pool = 'a' }]\n",
        );
        assert!(report.to_string().contains("warning: the route `default` can never match"), "{report}");
    }
}
