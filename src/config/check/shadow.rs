//! Which routes can never match, because whatever they match another route gets first.
//!
//! Precedence is fixed (design.md §5): exact host before the longest wildcard before any host; then exact path before the
//! longest prefix before regular expressions in file order before any path; then more header and method conditions before
//! fewer; then file order. A warning is given only where it is certain; a regular expression that happens to cover another
//! is not found.

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
        for (index, placed) in routes.iter().enumerate() {
            let Some(cover) = cover_of(routes, index) else { continue };
            let cover = &routes[cover];
            let message = format!("the route `{}` can never match", placed.route.name);
            let warning = Diagnostic::warning(message).label(placed.place, "never reached");
            let warning = warning.label(cover.place, format!("`{}` gets all of its requests", cover.route.name));
            self.faults.push(warning.help("remove it, or make its hosts, path, methods or headers narrower"));
        }
    }
}

/// The first of the routes that together take everything from the one at `index`.
///
/// Each pair of one of its hosts and one of its methods has to be taken by one other route.
fn cover_of(routes: &[Placed], index: usize) -> Option<usize> {
    let route = &routes[index].route;
    let mut first = None;
    for host in alternatives(&route.hosts) {
        for method in alternatives(&route.methods) {
            let takes = |other: &usize| *other != index && takes_all(routes, *other, index, host, method);
            let cover = (0..routes.len()).find(takes)?;
            first = first.or(Some(cover));
        }
    }
    first
}

/// Each item, or `None` once for "any".
fn alternatives<T>(items: &[T]) -> impl Iterator<Item = Option<&T>> {
    items.iter().map(Some).chain(items.is_empty().then_some(None))
}

/// Whether every request that the route at `loser` matches by this host and method is matched, and preferred, by `winner`.
fn takes_all(
    routes: &[Placed],
    winner: usize,
    loser: usize,
    host: Option<&HostPattern>,
    method: Option<&Arc<str>>,
) -> bool {
    let (ours, theirs) = (&routes[winner].route, &routes[loser].route);
    // Only the same pattern both covers the host and is no less exact.
    let same_host = match host {
        Some(host) => ours.hosts.contains(host),
        None => ours.hosts.is_empty(),
    };
    let covers_method = ours.methods.is_empty() || method.is_some_and(|method| ours.methods.contains(method));
    let covers_headers =
        ours.match_headers.iter().all(|needed| theirs.match_headers.iter().any(|has| implies(has, needed)));
    if !(same_host && covers_method && covers_headers) {
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
