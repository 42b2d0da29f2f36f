//! Hosts, paths, regular expressions and tokens as routes compare them.

use std::net::Ipv6Addr;

use regex::Regex;

use super::super::HostPattern;
use super::super::diagnostic::Place;
use super::Checking;

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

    /// A path as it is compared: in canonical form.
    pub(super) fn path(&mut self, text: &str, place: Place) -> Option<String> {
        if !text.starts_with('/') {
            self.error(place, format!("the path `{text}` does not begin with `/`"), format!("write \"/{text}\""));
            return None;
        }
        if text.contains(['?', '#']) {
            let help = "only the path is compared: leave out everything from `?` or `#` on";
            self.error(place, format!("`{text}` is more than a path"), help);
            return None;
        }
        match canonical_path(text.as_bytes()) {
            Ok(canonical) if canonical == text => Some(canonical),
            Ok(canonical) => {
                let message = format!("no request has the path `{text}` in this form");
                self.error(place, message, format!("paths are compared in canonical form: write \"{canonical}\""));
                None
            }
            Err(fault) => {
                self.error(
                    place,
                    format!("`{}` is not a path: {fault}", text.escape_debug()),
                    "write a path such as \"/v1/\"",
                );
                None
            }
        }
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
        if !is_token(text) {
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

/// RFC 9110 §5.6.2.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
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

/// The form in which paths are compared and forwarded: unreserved characters decoded, other escapes in upper case, runs
/// of `/` merged, dot segments removed (RFC 3986 §6.2.2, in this order because a decoded `.` can make a dot segment).
fn canonical_path(path: &[u8]) -> Result<String, String> {
    let decoded = normal_escapes(path)?;
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_open = true;
    for segment in decoded.split('/').filter(|segment| !segment.is_empty()) {
        ends_open = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    let mut canonical = format!("/{}", segments.join("/"));
    if (ends_open || decoded.ends_with('/')) && !segments.is_empty() {
        canonical.push('/');
    }
    Ok(canonical)
}

/// Every byte as it is or as `%XX`, whichever is its normal form.
fn normal_escapes(path: &[u8]) -> Result<String, String> {
    let mut text = String::with_capacity(path.len());
    let mut rest = path;
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'%' => {
                let digits = after.first_chunk::<2>().and_then(|digits| str::from_utf8(digits).ok());
                let is_hex = |digits: &&str| digits.bytes().all(|digit| digit.is_ascii_hexdigit());
                let decoded = digits.filter(is_hex).and_then(|digits| u8::from_str_radix(digits, 16).ok());
                let decoded = decoded.ok_or("`%` is not followed by two hexadecimal digits")?;
                rest = &after[2..];
                if is_unreserved(decoded) {
                    text.push(char::from(decoded))
                } else {
                    text.push_str(&format!("%{decoded:02X}"))
                }
            }
            b'\\' => return Err("it has a backslash".into()),
            0..=31 | 127 => return Err("it has a control character".into()),
            b' ' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' | 128.. => {
                text.push_str(&format!("%{byte:02X}"))
            }
            _ => text.push(char::from(*byte)),
        }
    }
    Ok(text)
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_canonical_form() {
        for (path, canonical) in [
            ("/", "/"),
            ("/v1/", "/v1/"),
            ("/a//b", "/a/b"),
            ("/a/./b/../c", "/a/c"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/../a", "/a"),
            ("/%61%2f%7e", "/a%2F~"),
            ("/%2e%2E/x", "/x"),
            ("/ü", "/%C3%BC"),
        ] {
            let once = canonical_path(path.as_bytes()).unwrap();
            assert_eq!(once, canonical, "{path}");
            assert_eq!(canonical_path(once.as_bytes()).unwrap(), once);
        }
        for wrong in ["/%", "/%2", "/%zz", "/%+1", "/\\", "/\n"] {
            assert!(canonical_path(wrong.as_bytes()).is_err(), "{wrong}");
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
