//! Hosts, paths, regular expressions and tokens as routes compare them.

use std::net::{IpAddr, Ipv6Addr};

use regex::Regex;

use super::super::HostPattern;
use super::super::diagnostic::{Diagnostic, Place};
use super::Checking;
use crate::http::target::canonical_path;
use crate::http::{Refusal, is_token};

impl Checking<'_> {
    /// A host pattern, lower case, without trailing dot.
    pub(super) fn host(&mut self, text: &str, place: Place) -> Option<HostPattern> {
        let lower = text.to_ascii_lowercase();
        let host = lower.strip_suffix('.').unwrap_or(&lower);
        if let Some(help) = host_help(host) {
            self.error(place, format!("`{text}` is not a host name"), help);
            return None;
        }
        Some(match host.strip_prefix('*') {
            Some(rest) => HostPattern::Wildcard(rest.to_owned()),
            None => HostPattern::Exact(host.to_owned()),
        })
    }

    /// A server name as clients ask for it in TLS, or a wildcard for one label.
    pub(super) fn server_name(&mut self, text: &str, place: Place) -> Option<HostPattern> {
        let name = text.strip_suffix('.').unwrap_or(text);
        let is_address = text.starts_with('[') || text.parse::<IpAddr>().is_ok();
        let help = match name.strip_prefix("*.").unwrap_or(name) {
            "*" => "leave `sni` out to match every name",
            _ if is_address => "clients that connect to an address ask for no name: leave `sni` out to match them",
            rest if rest.contains('*') => "`*` can only stand for the whole first label: \"*.example.com\"",
            _ => return self.host(text, place),
        };
        self.error(place, format!("`{text}` is not a server name"), help);
        None
    }

    /// A path as it is compared: in canonical form.
    pub(super) fn path(&mut self, text: &str, place: Place) -> Option<String> {
        if !text.starts_with('/') {
            self.error(place, format!("the path `{text}` does not begin with `/`"), rootless_help(text));
            return None;
        }
        if text.contains(['?', '#']) {
            let help = "only the path is compared: leave out everything from `?` or `#` on";
            self.error(place, format!("`{text}` is more than a path"), help);
            return None;
        }
        match canonical_path(encoded(text.trim_end()).as_bytes()) {
            Ok(canonical) if canonical == text => {
                self.warn_of_placeholders(text, place);
                Some(canonical)
            }
            Ok(canonical) => {
                let message = format!("no request has the path `{}` in this form", text.escape_debug());
                let help = format!("paths are compared as they are sent on, in canonical form: write \"{canonical}\"");
                self.error(place, message, help);
                None
            }
            Err(refusal) => {
                let message = format!("a request with the path `{}` is refused", text.escape_debug());
                self.error(place, message, refusal_help(refusal));
                None
            }
        }
    }

    /// What stands for anything in the files of other programs is a character like any other here.
    fn warn_of_placeholders(&mut self, text: &str, place: Place) {
        let help = match (text.split_once('*'), text.split_once('{')) {
            (Some((before, "")), _) => format!("write {{ prefix = \"{before}\" }}"),
            (Some(_), _) => "write { regex = '…' } with `[^/]*` for a part of a segment".to_owned(),
            (None, Some(_)) => "write { regex = '…' } with `[^/]+` for a segment".to_owned(),
            (None, None) => return,
        };
        let warning = Diagnostic::warning(format!("`*` and `{{` stand for themselves in the path `{text}`"));
        self.faults.push(warning.at(place).help(help));
    }

    /// A regular expression that paths are compared with.
    pub(super) fn path_regex(&mut self, text: &str, place: Place) -> Option<Regex> {
        if let Some(c) = text.chars().find(|c| !c.is_ascii()) {
            let encoded = encoded(c.encode_utf8(&mut [0; 4]));
            let warning = Diagnostic::warning(format!("no path has a `{c}`: they are compared percent-encoded"));
            self.faults.push(warning.at(place).help(format!("write `{encoded}` for it")));
        }
        self.regex(text, place)
    }

    /// A regular expression that compiles.
    pub(super) fn regex(&mut self, text: &str, place: Place) -> Option<Regex> {
        Regex::new(text)
            .map_err(|fault| {
                let why = fault.to_string();
                // The library draws the expression and a caret of its own; its last line says what is wrong.
                let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                let help = "the syntax is that of the Rust crate `regex`: https://docs.rs/regex/#syntax";
                self.error(place, format!("this is not a regular expression: {why}"), help);
            })
            .ok()
    }

    /// A method in upper case.
    pub(super) fn method(&mut self, text: &str, place: Place) -> Option<String> {
        if !is_token(text.as_bytes()) {
            self.error(place, format!("`{}` is not a method", text.escape_debug()), "write \"GET\", \"POST\" …");
            return None;
        }
        let upper = text.to_ascii_uppercase();
        if upper != text {
            self.error(place, format!("`{text}` is not in upper case, as methods are"), format!("write \"{upper}\""));
            return None;
        }
        if matches!(text, "CONNECT" | "TRACE") {
            self.error(place, format!("{text} is refused before any route is looked at"), "remove it");
            return None;
        }
        Some(upper)
    }
}

/// What to write when this (lower case, without trailing dot) is not a host pattern.
fn host_help(host: &str) -> Option<String> {
    if let Some((_, rest)) = host.split_once("://") {
        let name = rest.split(['/', ':']).next().unwrap_or_default();
        return Some(format!("write only the host name: \"{name}\""));
    }
    if let Some(inner) = host.strip_prefix('[') {
        let is_ipv6 = inner
            .strip_suffix(']')
            .is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok_and(|address| address.to_string() == inner));
        return (!is_ipv6)
            .then(|| "write an IPv6 address in its shortest form and without port: \"[2001:db8::1]\"".into());
    }
    if let Some((name, _)) = host.split_once(['/', ':']) {
        return Some(format!("write only the host name, without port or path: \"{name}\""));
    }
    if !host.is_ascii() {
        return Some("write it in its ASCII form (punycode), which begins with `xn--`".into());
    }
    if host == "*" {
        return Some("leave `hosts` out to match every host".into());
    }
    let name = host.strip_prefix("*.").unwrap_or(host);
    if name.contains('*') {
        return Some("`*` can only stand for the first labels: \"*.example.com\"".into());
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let is_name = name.len() <= 253 && name.split('.').all(is_label);
    (!is_name).then(|| "write a name of letters, digits, `-` and `.`, such as \"www.example.com\"".into())
}

/// What to write instead of a path that does not begin with `/`.
fn rootless_help(text: &str) -> String {
    if text.starts_with(['^', '~']) || text.ends_with('$') {
        return format!("write {{ regex = '{}' }}", text.trim_start_matches(['~', '*', ' ']));
    }
    match text.split_once("://") {
        Some((_, rest)) => {
            let path = rest.find('/').map_or("/", |root| &rest[root..]);
            format!("write \"{path}\", and the host into `hosts`")
        }
        None => format!("write \"/{text}\""),
    }
}

/// What to write instead of a path whose requests are refused.
fn refusal_help(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::PercentEncoding => "two hexadecimal digits follow a `%`, but not `00`; write `%25` for a `%` itself",
        Refusal::ClimbsAboveRoot => "it leads above the root: leave out the `..`",
        _ => "control characters and `\\` can not stand in a path: write one such as \"/v1/\"",
    }
}

/// Spaces and what is not ASCII as browsers send them.
fn encoded(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b' ' | 128.. => text.push_str(&format!("%{byte:02X}")),
            _ => text.push(char::from(byte)),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::testing::{POOLS, assert_said, meant};
    use super::*;

    fn with(path: &str) -> String {
        format!(
            "listeners.w = {{ bind = '127.0.0.1:1', pool = 'b', routes = [{{ path = {{ {path} }}, pool = 'a' }}] }}\n{POOLS}"
        )
    }

    #[test]
    fn a_path_is_what_requests_have_once_they_are_canonical() {
        for path in ["/", "/v1/", "/a|b\"<>^`}", "/%C3%BC%2F~", "/a;b=c,d", "/..."] {
            meant(&with(&format!("exact = '{path}'")));
        }
        for (path, write) in [
            ("/a//b", "/a/b"),
            ("/a/./b/../c", "/a/c"),
            ("/a/..", "/"),
            ("/%61%2f%7e", "/a%2F~"),
            ("/a b", "/a%20b"),
            ("/v1 ", "/v1"),
            ("/bücher", "/b%C3%BCcher"),
        ] {
            assert_said(&with(&format!("prefix = '{path}'")), &["in this form", &format!("write \"{write}\"")]);
        }
    }

    #[test]
    fn a_path_whose_requests_are_refused_says_why() {
        for (path, part) in [
            ("'/%'", "`%25`"),
            ("'/%zz'", "`%25`"),
            ("'/%00'", "not `00`"),
            ("'/../a'", "above the root"),
            ("'/a\\b'", "`\\`"),
            ("\"/a\\nb\"", "control characters"),
        ] {
            assert_said(&with(&format!("exact = {path}")), &["is refused", part]);
        }
    }

    #[test]
    fn paths_as_other_programs_write_them_are_understood() {
        for (path, part) in [
            ("prefix = '/api/*'", "warning: `*` and `{` stand for themselves"),
            ("prefix = '/api/*'", "write { prefix = \"/api/\" }"),
            ("exact = '/users/{id}'", "`[^/]+`"),
            ("exact = '^/a$'", "write { regex = '^/a$' }"),
            ("exact = 'https://x.example/a'", "write \"/a\""),
            ("regex = '^/ü'", "write `%C3%BC`"),
        ] {
            assert_said(&with(path), &[part]);
        }
    }

    #[test]
    fn only_host_names_are_hosts() {
        for fine in ["example.com", "*.example.com", "localhost", "10.0.0.1", "[2001:db8::1]", "a_b.example"] {
            assert_eq!(host_help(fine), None, "{fine}");
        }
        for (wrong, part) in [
            ("https://example.com/x", "\"example.com\""),
            ("example.com:8080", "\"example.com\""),
            ("bücher.example", "punycode"),
            ("*", "leave `hosts` out"),
            ("www.*.com", "first labels"),
            ("*example.com", "first labels"),
            ("[::0]", "shortest form"),
            ("", "such as"),
            ("a..b", "such as"),
        ] {
            assert!(host_help(wrong).is_some_and(|help| help.contains(part)), "{wrong}: {:?}", host_help(wrong));
        }
    }
}
