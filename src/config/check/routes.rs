//! `[[listeners.NAME.routes]]`: which requests a route is for, and the one thing it does.

use std::sync::Arc;

use super::super::diagnostic::{Diagnostic, Place};
use super::super::read::{Entry, Node, Table};
use super::super::{
    Action, HeaderMatch, HeaderValueMatch, HostPattern, PathPattern, Repeats, Retry, RetryOn, Route, Timeouts,
    WeightedPool, keys, words,
};
use super::shadow::Placed;
use super::{Checking, entries, request_timeout};

/// The keys that say what a route does.
const ACTIONS: &[&str] = &["pool", "split", "redirect", "redirect_to_https", "respond"];

/// What stands for a part of the request in a redirection.
const PLACEHOLDERS: &[&str] = &["host", "path", "query"];

/// What a request may be tried again for, beside the statuses.
const REASONS: &[&str] = &["connect", "reset", "timeout"];

impl Checking<'_> {
    /// The route with this number, from 1.
    pub(super) fn route(&mut self, node: &Node, number: usize, listener: &Timeouts) -> Option<Placed> {
        let table = node.as_table()?;
        let name = match table.text("name") {
            Some((text, place)) => self.name("route", text, place),
            None => Some(format!("route-{number}").into()),
        };
        self.refuse_sni(table);
        let hosts = self.hosts(table);
        let path = self.route_path(table.node("path"));
        let methods = self.methods(table);
        let match_headers = self.header_matches(entries(table, "match_headers"));
        let action = self.action(node.place, table);
        let headers = self.header_rules(table);
        let retry = self.retry(table);
        let request_timeout = request_timeout(table.table("timeouts"), listener.request);
        let place = table.node("name").map_or(node.place, |name| name.place);
        let route = Route {
            name: name?,
            hosts: hosts?,
            path: path?,
            methods: methods?,
            match_headers: match_headers?,
            action: action?,
            headers,
            retry: retry?,
            request_timeout,
        };
        Some(Placed { route, place })
    }

    fn retry(&mut self, table: &Table) -> Option<Retry> {
        let Some(table) = table.table("retry") else { return Some(Retry::default()) };
        let attempts = table.integer("attempts").unwrap_or_else(|| keys::RETRY_ATTEMPTS.default_integer());
        let on = match table.list("on") {
            None => Retry::default().on,
            Some(nodes) => {
                let texts: Vec<_> = nodes.iter().filter_map(Node::as_text).collect();
                self.each_once("this reason is in the list", "remove one", texts.iter().copied());
                let on: Vec<_> = texts.iter().filter_map(|(text, place)| self.reason(text, *place)).collect();
                (on.len() == nodes.len()).then_some(on)?
            }
        };
        let repeats = match table.flag("non_idempotent") {
            Some(true) => Repeats::All,
            _ => Repeats::Idempotent,
        };
        Some(Retry { attempts: usize::try_from(attempts).unwrap_or(1), on, repeats })
    }

    fn reason(&mut self, text: &str, place: Place) -> Option<RetryOn> {
        let status = text.parse().ok().filter(|status| (400..=599).contains(status));
        let reason = match text {
            "connect" => Some(RetryOn::Connect),
            "reset" => Some(RetryOn::Reset),
            "timeout" => Some(RetryOn::Timeout),
            _ => status.map(RetryOn::Status),
        };
        if reason.is_none() {
            let help = match words::nearest(text, REASONS) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "write \"connect\", \"reset\", \"timeout\" or a status from \"400\" to \"599\"".into(),
            };
            self.error(place, format!("nothing is tried again for `{text}`"), help);
        }
        reason
    }

    /// The strings of a list that is there to narrow: an empty one would say nothing matches, and mean anything does.
    pub(super) fn narrowing<'t>(&mut self, table: &'t Table, key: &str) -> Vec<(&'t str, Place)> {
        let Some(node) = table.node(key) else { return Vec::new() };
        let nodes = node.as_list().unwrap_or_default();
        if nodes.is_empty() && node.as_list().is_some() {
            self.error(node.place, format!("`{key}` is empty"), format!("leave `{key}` out to match any"));
        }
        nodes.iter().filter_map(Node::as_text).collect()
    }

    fn hosts(&mut self, table: &Table) -> Option<Vec<HostPattern>> {
        let texts = self.narrowing(table, "hosts");
        let names = texts.iter().map(|(text, place)| (text.to_ascii_lowercase(), *place));
        self.each_once("the route names this host", "remove one", names);
        let hosts: Vec<HostPattern> = texts.iter().filter_map(|(text, place)| self.host(text, *place)).collect();
        is_whole(table, "hosts", hosts.len()).then_some(hosts)
    }

    fn methods(&mut self, table: &Table) -> Option<Vec<Arc<str>>> {
        let texts = self.narrowing(table, "methods");
        self.each_once("the route names this method", "remove one", texts.iter().copied());
        let methods = texts.iter().filter_map(|(text, place)| self.method(text, *place).map(Arc::from));
        let methods: Vec<Arc<str>> = methods.collect();
        is_whole(table, "methods", methods.len()).then_some(methods)
    }

    fn route_path(&mut self, node: Option<&Node>) -> Option<PathPattern> {
        let Some(node) = node else { return Some(PathPattern::Any) };
        let entry = self.only_entry(node, &keys::PATH)?;
        let (text, place) = entry.node.as_text()?;
        match entry.key.as_str() {
            "exact" => self.path(text, place).map(PathPattern::Exact),
            "prefix" => self.path(text, place).map(PathPattern::Prefix),
            _ => self.path_regex(text, place).map(PathPattern::Regex),
        }
    }

    /// Headers that have to be there.
    pub(super) fn header_matches(&mut self, fields: &[Entry]) -> Option<Vec<HeaderMatch>> {
        let names = fields.iter().map(|entry| (entry.key.to_ascii_lowercase(), entry.key_place));
        self.each_once("the header is named", "names are the same in upper and lower case; keep one", names);
        let matches: Vec<HeaderMatch> = fields.iter().filter_map(|entry| self.header_match(entry)).collect();
        (matches.len() == fields.len()).then_some(matches)
    }

    fn header_match(&mut self, entry: &Entry) -> Option<HeaderMatch> {
        let is_name = self.is_header_name(&entry.key, entry.key_place);
        let value = match entry.node.as_text() {
            Some((text, place)) => self.exact_value(text, place)?,
            None => self.header_match_table(&entry.node)?,
        };
        is_name.then(|| HeaderMatch { name: entry.key.to_ascii_lowercase(), value })
    }

    fn exact_value(&mut self, text: &str, place: Place) -> Option<HeaderValueMatch> {
        self.is_header_value(text, place).then(|| HeaderValueMatch::Exact(text.to_owned()))
    }

    fn header_match_table(&mut self, node: &Node) -> Option<HeaderValueMatch> {
        let entry = self.only_entry(node, &keys::HEADER_MATCH)?;
        match (entry.key.as_str(), entry.node.as_text()) {
            ("exact", Some((text, place))) => self.exact_value(text, place),
            ("regex", Some((text, place))) => self.regex(text, place).map(HeaderValueMatch::Regex),
            ("present", None) => match node.as_table()?.flag("present")? {
                true => Some(HeaderValueMatch::Present),
                false => {
                    self.error(
                        entry.node.place,
                        "`present` can only be true",
                        "leave the header out to match any request",
                    );
                    None
                }
            },
            _ => None,
        }
    }

    fn action(&mut self, place: Place, table: &Table) -> Option<Action> {
        let is_off = |entry: &Entry| entry.key == "redirect_to_https" && table.flag(&entry.key) == Some(false);
        let is_action = |entry: &&Entry| ACTIONS.contains(&entry.key.as_str()) && !is_off(entry);
        let actions: Vec<&Entry> = table.entries.iter().filter(is_action).collect();
        match actions[..] {
            [entry] => self.one_action(entry),
            [] => {
                let fault = Diagnostic::error("the route does nothing").at(place);
                let help = "write `pool = \"NAME\"`, or one of `split`, `redirect`, `redirect_to_https` and `respond`";
                self.missing(table, &keys::ROUTE, ACTIONS, fault.help(help));
                None
            }
            [first, ..] => {
                for entry in &actions {
                    self.one_action(entry);
                }
                let fault = Diagnostic::error("a route does exactly one thing").label(first.key_place, "this");
                let fault = actions[1..].iter().fold(fault, |fault, entry| fault.label(entry.key_place, "or this"));
                self.faults.push(fault.help("keep one of them"));
                None
            }
        }
    }

    fn one_action(&mut self, entry: &Entry) -> Option<Action> {
        match entry.key.as_str() {
            "pool" => {
                let pool = self.pool_reference(Some(&entry.node))?;
                Some(Action::Forward(vec![WeightedPool { pool, weight: 1 }]))
            }
            "split" => self.split(&entry.node),
            "redirect" => self.redirect(&entry.node),
            "respond" => self.respond(&entry.node),
            _ => Some(Action::RedirectToHttps),
        }
    }

    fn split(&mut self, node: &Node) -> Option<Action> {
        let nodes = node.as_list()?;
        let tables: Vec<(&Node, &Table)> = nodes.iter().filter_map(|node| Some((node, node.as_table()?))).collect();
        let named = tables.iter().filter_map(|(_, table)| table.text("pool"));
        self.each_once("the split names this pool", "add the weights up and name it once", named);
        let parts: Vec<WeightedPool> = tables.iter().filter_map(|(node, table)| self.split_part(node, table)).collect();
        if parts.len() < nodes.len() {
            return None;
        }
        if parts.iter().all(|part| part.weight == 0) {
            self.error(node.place, "no pool of the split has a share", "write at least one pool with a weight above 0");
            return None;
        }
        Some(Action::Forward(parts))
    }

    fn split_part(&mut self, node: &Node, table: &Table) -> Option<WeightedPool> {
        if table.node("pool").is_none() {
            let fault = Diagnostic::error("a part of a split needs its `pool`").at(node.place);
            self.missing(table, &keys::SPLIT, &["pool"], fault.help("write { pool = \"NAME\", weight = 1 }"));
        }
        let weight = table.integer("weight").unwrap_or_else(|| keys::SPLIT_WEIGHT.default_integer());
        if let Some(weight) = table.node("weight").filter(|_| weight == 0) {
            let warning = Diagnostic::warning("this pool gets no request").label(weight.place, "a share of nothing");
            self.faults.push(warning.help("give it a weight above 0, or remove it from the split"));
        }
        Some(WeightedPool {
            pool: self.pool_reference(table.node("pool"))?,
            weight: u32::try_from(weight).unwrap_or(1),
        })
    }

    fn redirect(&mut self, node: &Node) -> Option<Action> {
        let Some(table) = node.as_table() else {
            let (text, place) = node.as_text()?;
            return self.redirect_to(text, place, keys::REDIRECT_STATUS.default_integer());
        };
        let status = table.integer("status").unwrap_or_else(|| keys::REDIRECT_STATUS.default_integer());
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            let place = table.node("status").map_or(node.place, |status| status.place);
            self.error(
                place,
                format!("{status} is not a redirection to another place"),
                "write 301, 302, 303, 307 or 308",
            );
        }
        if table.node("to").is_none() {
            let fault = Diagnostic::error("a redirect needs where to").at(node.place);
            self.missing(table, &keys::REDIRECT, &["to"], fault.help("write { to = \"https://{host}{path}{query}\" }"));
        }
        let (text, place) = table.text("to")?;
        self.redirect_to(text, place, status)
    }

    fn redirect_to(&mut self, text: &str, place: Place, status: i64) -> Option<Action> {
        if let Some((message, help)) = redirect_fault(text) {
            self.error(place, message, help);
            return None;
        }
        Some(Action::Redirect { status: u16::try_from(status).ok()?, to: text.to_owned() })
    }

    fn respond(&mut self, node: &Node) -> Option<Action> {
        let table = node.as_table()?;
        if table.node("status").is_none() {
            let fault = Diagnostic::error("an answer needs its `status`").at(node.place);
            self.missing(table, &keys::RESPOND, &["status"], fault.help("write { status = 503, body = \"…\" }"));
        }
        let status = table.integer("status");
        let (body, body_place) = table.text("body").unwrap_or(("", node.place));
        if let Some(status @ (204 | 205 | 304)) = status
            && !body.is_empty()
        {
            self.error(
                body_place,
                format!("an answer {status} has no body"),
                "remove `body`, or choose another status",
            );
        }
        let fallback = keys::CONTENT_TYPE.default_text();
        let content_type = match table.text("content_type") {
            Some((text, place)) => self.is_header_value(text, place).then_some(text),
            None => Some(fallback),
        };
        Some(Action::Respond {
            status: u16::try_from(status?).ok()?,
            body: body.into(),
            content_type: content_type?.into(),
        })
    }
}

/// Whether every item of the list under this key was understood.
pub(super) fn is_whole(table: &Table, key: &str, understood: usize) -> bool {
    table.node(key).is_none_or(|node| node.as_list().is_some_and(|nodes| nodes.len() == understood && understood > 0))
}

/// What is wrong with the target of a redirection, and what to write.
fn redirect_fault(text: &str) -> Option<(String, String)> {
    let example = "write such as \"https://www.example.com{path}{query}\"".to_owned();
    if let Some(c) = text.chars().find(|c| !c.is_ascii_graphic() || "\"<>\\^`|".contains(*c)) {
        return Some((
            format!("`{}` can not stand in a URI", c.escape_debug()),
            "write it as `%` and its two digits".into(),
        ));
    }
    for piece in text.split('{').skip(1) {
        let name = piece.split_once('}').map(|(name, _)| name);
        match name {
            Some(name) if PLACEHOLDERS.contains(&name) => {}
            Some(name) => {
                let known = "`{host}`, `{path}` and `{query}` are known".to_owned();
                let help =
                    words::nearest(name, PLACEHOLDERS).map_or(known, |near| format!("did you mean `{{{near}}}`?"));
                return Some((format!("nothing is called `{{{name}}}`"), help));
            }
            None => return Some(("a `{` without its `}`".into(), example)),
        }
    }
    if text.matches('}').count() != text.matches('{').count() {
        return Some(("a `}` without its `{`".into(), example));
    }
    if text.contains('$') {
        return Some(("variables are not written with `$` here".into(), "use `{host}`, `{path}` and `{query}`".into()));
    }
    let scheme = text.split(':').next().filter(|scheme| text.len() > scheme.len());
    let has_scheme = scheme.is_some_and(|scheme| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    });
    if has_scheme || text.starts_with('/') || text.starts_with("{path}") {
        return None;
    }
    Some((format!("`{text}` does not say where to"), example))
}

#[cfg(test)]
mod tests {
    use super::super::super::Protocol;
    use super::super::testing::{POOLS, assert_said, meant};
    use super::*;

    #[test]
    fn a_redirection_is_a_uri_with_known_placeholders() {
        for fine in ["https://x.example{path}{query}", "/new{query}", "https://{host}/", "{path}", "mailto:a@b.example"]
        {
            assert_eq!(redirect_fault(fine), None, "{fine}");
        }
        for (wrong, part) in [
            ("https://x/{pth}", "did you mean `{path}`?"),
            ("https://$host$request_uri", "use `{host}`"),
            ("https://x/{path", "{path}"),
            ("https://x/path}", "{path}"),
            ("www.example.com", "https://www.example.com"),
            ("https://x/a b", "two digits"),
            ("", "https://"),
        ] {
            let (message, help) = redirect_fault(wrong).unwrap();
            assert!(help.contains(part), "{wrong}: {message}: {help}");
        }
    }

    fn with(route: &str) -> String {
        format!(
            "{POOLS}[listeners.w]\nbind = '127.0.0.1:1'\n[[listeners.w.routes]]\n{route}\n\
             [listeners.both]\nbind = '127.0.0.1:2'\nroutes = [{{ split = [{{ pool = 'a' }}, {{ pool = 'b' }}] }}]\n"
        )
    }

    fn route(text: &str) -> Route {
        let config = meant(&with(text));
        let Protocol::Http(http) = &config.listeners[1].protocol else { panic!("w speaks http") };
        http.routes[0].clone()
    }

    #[test]
    fn conditions_are_kept_in_the_form_they_are_compared_in() {
        let route = route(
            "hosts = ['WWW.Example.com.', '*.example.com']\npath = { prefix = '/v1/' }\nmethods = ['GET']\n\
             match_headers = { X-Env = 'canary', Cookie = { regex = 'a=' }, X-Any = { present = true } }\npool = 'a'",
        );
        assert_eq!(
            route.hosts,
            [HostPattern::Exact("www.example.com".into()), HostPattern::Wildcard(".example.com".into())]
        );
        assert!(matches!(route.path, PathPattern::Prefix(path) if path == "/v1/"));
        let names: Vec<&str> = route.match_headers.iter().map(|header| header.name.as_str()).collect();
        assert_eq!(names, ["x-env", "cookie", "x-any"]);
    }

    #[test]
    fn every_action_is_understood() {
        let split = route("split = [{ pool = 'a', weight = 95 }, { pool = 'b', weight = 5 }]");
        assert!(matches!(split.action, Action::Forward(parts) if parts.iter().map(|part| part.weight).eq([95, 5])));
        assert!(matches!(route("redirect = '/x{query}'").action, Action::Redirect { status: 308, .. }));
        assert!(matches!(route("redirect = { to = '/x', status = 302 }").action, Action::Redirect { status: 302, .. }));
        assert!(matches!(route("redirect_to_https = true").action, Action::RedirectToHttps));
        let Action::Respond { status, body, content_type } = route("respond = { status = 503, body = 'no' }").action
        else {
            panic!("not a response");
        };
        assert_eq!((status, &*body, &*content_type), (503, "no", "text/plain; charset=utf-8"));
    }

    #[test]
    fn what_is_not_written_of_retries_is_the_default() {
        assert_eq!(route("pool = 'a'").retry, Retry::default());
        assert_eq!(route("pool = 'a'\nretry = {}").retry, Retry::default());
        let retry = route("pool = 'a'\nretry = { attempts = 3, on = ['timeout', '503'], non_idempotent = true }").retry;
        let on = vec![RetryOn::Timeout, RetryOn::Status(503)];
        assert_eq!(retry, Retry { attempts: 3, on, repeats: Repeats::All });
        assert_eq!(route("pool = 'a'\nretry = { on = [] }").retry.on, []);
        let default = Retry::default().attempts as i64;
        assert_eq!(keys::RETRY_ATTEMPTS.default_integer(), default);
    }

    #[test]
    fn header_rules_keep_names_and_order() {
        let route = route(
            "pool = 'a'\n[listeners.w.routes.headers]\nrequest = { set = { Host = 'x', X-B = '1', X-A = '2' }, remove = ['Cookie'] }",
        );
        let names: Vec<&str> = route.headers.request.set.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["Host", "X-B", "X-A"]);
        assert_eq!(route.headers.request.remove, ["Cookie"]);
    }

    #[test]
    fn faults_of_routes_are_told_apart() {
        for (wrong, part) in [
            ("hosts = ['x']", "the route does nothing"),
            ("pool = 'a'\nredirect_to_https = true", "exactly one thing"),
            ("pool = 'a'\nhosts = []", "leave `hosts` out"),
            ("pool = 'a'\nhosts = ['x', 'X']", "this host twice"),
            ("pool = 'a'\nhosts = ['x:80']", "\"x\""),
            ("pool = 'a'\npath = '/x'", "{ prefix = \"/x\" }"),
            ("pool = 'a'\npath = {}", "exactly one of"),
            ("pool = 'a'\npath = { exact = '/a', prefix = '/b' }", "exactly one of"),
            ("pool = 'a'\npath = { exact = 'a' }", "write \"/a\""),
            ("pool = 'a'\npath = { exact = '/a/../b' }", "write \"/b\""),
            ("pool = 'a'\npath = { exact = '/a?b' }", "from `?` or `#` on"),
            ("pool = 'a'\npath = { regex = '(' }", "unclosed group"),
            ("pool = 'a'\nmethods = ['get']", "write \"GET\""),
            ("pool = 'a'\nmethods = ['CONNECT']", "refused"),
            ("pool = 'a'\nmatch_headers = { 'X Y' = 'a' }", "not a header name"),
            ("pool = 'a'\nmatch_headers = { X = { present = false } }", "can only be true"),
            ("split = []", "no pool of the split"),
            ("split = [{ pool = 'a' }, { pool = 'a' }]", "names this pool twice"),
            ("redirect = { to = '/x', status = 304 }", "301, 302, 303, 307 or 308"),
            ("respond = { body = 'x' }", "needs its `status`"),
            ("respond = { status = 204, body = 'x' }", "no body"),
            ("pool = 'a'\nheaders.request.set = { Content-Length = '1' }", "smuggled"),
            ("pool = 'a'\nheaders.request.remove = ['Host']", "use `set`"),
            ("pool = 'a'\nheaders.response.add = { X = ' x' }", "write \"x\""),
            ("pool = 'a'\nheaders.response.add = { X = '1', x = '2' }", "named twice"),
            ("proxy_pass = 'a'", "write `pool = \"NAME\"`"),
            ("pool = 'a'\nretry = { attempts = 0 }", "from 1 to 10"),
            ("pool = 'a'\nretry = { on = ['conect'] }", "did you mean `connect`?"),
            ("pool = 'a'\nretry = { on = ['200'] }", "from \"400\" to \"599\""),
            ("pool = 'a'\nretry = { on = ['503', '503'] }", "this reason is in the list twice"),
        ] {
            assert_said(&with(wrong), &[part]);
        }
    }

    #[test]
    fn a_share_of_nothing_is_a_warning() {
        assert_said(
            &with("split = [{ pool = 'a', weight = 0 }, { pool = 'b' }]"),
            &["warning: this pool gets no request"],
        );
    }
}
