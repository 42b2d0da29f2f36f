//! One canonical form of host and path: what is routed by is what is forwarded (security.md R14).
//!
//! Paths lose their dot segments, doubled slashes and needless percent-encodings, and everything two programs could
//! read differently is refused. The canonical form of a canonical path is itself. A query is checked and otherwise left alone.

use std::net::Ipv6Addr;

use super::refusal::Refusal;

/// What a request is for: canonical path, query and authority.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// Path, and `?query` if there is one; ASCII.
    text: String,
    path_length: usize,
    /// `host[:port]`, empty when the request named none; ASCII.
    authority: String,
    host_length: usize,
}

impl Target {
    /// The canonical path; `*` for `OPTIONS *`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text[..self.path_length]
    }

    /// The path, and `?query` if there is one: what stands in a request line.
    #[must_use]
    pub fn path_and_query(&self) -> &str {
        &self.text
    }

    /// The query without its `?`; an empty one is one.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.text.get(self.path_length + 1..)
    }

    /// The host: lower case, without port and trailing dot; an IPv6 address has its brackets. Empty when the request named
    /// none (HTTP/1.0 only).
    #[must_use]
    pub fn host(&self) -> &str {
        &self.authority[..self.host_length]
    }

    /// What goes into the `Host` field: the host, and `:port` if there was one.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.text.clear();
        self.path_length = 0;
        self.authority.clear();
        self.host_length = 0;
    }

    /// Takes `*`, the target of an OPTIONS request for the server itself.
    pub fn set_asterisk(&mut self) {
        self.text.clear();
        self.text.push('*');
        self.path_length = 1;
    }

    /// Takes a path with an optional query (origin-form, RFC 9112 §3.2.1).
    ///
    /// # Errors
    /// What may not stand in a path or query is refused.
    pub fn set_path_and_query(&mut self, raw: &[u8]) -> Result<(), Refusal> {
        let (path, query) = match memchr::memchr(b'?', raw) {
            Some(mark) => (&raw[..mark], &raw[mark..]),
            None => (raw, &raw[raw.len()..]),
        };
        self.text.clear();
        canonical_into(path, &mut self.text)?;
        self.path_length = self.text.len();
        if !query.is_empty() {
            self.text.push_str(checked_query(query)?);
        }
        Ok(())
    }

    /// Takes a host with an optional port: the `Host` field, or the authority of an absolute target.
    ///
    /// # Errors
    /// What is not a name of letters, digits, `-`, `.`, `_` and `~`, or an address, is refused.
    pub fn set_authority(&mut self, raw: &[u8]) -> Result<(), Refusal> {
        self.authority.clear();
        self.host_length = 0;
        let rest = if raw.first() == Some(&b'[') { self.take_ipv6(raw)? } else { self.take_name(raw)? };
        self.host_length = self.authority.len();
        match rest {
            [] | b":" => Ok(()),
            [b':', port @ ..] => self.take_port(port),
            _ => Err(Refusal::HostInvalid),
        }
    }

    /// Keeps the name that `raw` begins with and returns what follows it.
    fn take_name<'a>(&mut self, raw: &'a [u8]) -> Result<&'a [u8], Refusal> {
        let end = raw.iter().position(|&byte| !is_unreserved(byte)).unwrap_or(raw.len());
        let name = raw[..end].strip_suffix(b".").unwrap_or(&raw[..end]);
        let mut previous = b'.';
        let empty_label = name.iter().any(|&byte| std::mem::replace(&mut previous, byte) == b'.' && byte == b'.');
        if name.is_empty() || empty_label || name.ends_with(b".") {
            return Err(Refusal::HostInvalid);
        }
        self.authority.push_str(ascii(name).ok_or(Refusal::HostInvalid)?);
        self.authority.make_ascii_lowercase();
        Ok(&raw[end..])
    }

    /// Keeps the bracketed address that `raw` begins with, in the form RFC 5952 gives it, and returns what follows it.
    fn take_ipv6<'a>(&mut self, raw: &'a [u8]) -> Result<&'a [u8], Refusal> {
        let close = memchr::memchr(b']', raw).ok_or(Refusal::HostInvalid)?;
        let text = ascii(&raw[1..close]).ok_or(Refusal::HostInvalid)?;
        let address: Ipv6Addr = text.parse().map_err(|_| Refusal::HostInvalid)?;
        self.authority.push('[');
        self.authority.push_str(&address.to_string());
        self.authority.push(']');
        Ok(&raw[close + 1..])
    }

    fn take_port(&mut self, digits: &[u8]) -> Result<(), Refusal> {
        if digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
            return Err(Refusal::HostInvalid);
        }
        let text = ascii(digits).ok_or(Refusal::HostInvalid)?;
        let port: u16 = text.parse().map_err(|_| Refusal::HostInvalid)?;
        self.authority.push(':');
        if digits[0] == b'0' {
            self.authority.push_str(&port.to_string());
        } else {
            self.authority.push_str(text);
        }
        Ok(())
    }
}

/// The canonical form of a path, for patterns that are compared with [`Target::path`].
///
/// # Errors
/// A path that would be refused in a request is refused here too.
pub fn canonical_path(path: &[u8]) -> Result<String, Refusal> {
    let mut out = String::with_capacity(path.len());
    canonical_into(path, &mut out)?;
    Ok(out)
}

/// What a byte of a path asks for.
const PLAIN: u8 = 0;
const LOOK: u8 = 1;
const BAD: u8 = 2;

static PATH: [u8; 256] = {
    let mut table = [BAD; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        table[byte] = PLAIN;
        byte += 1;
    }
    table[b'#' as usize] = BAD;
    table[b'?' as usize] = BAD;
    table[b'\\' as usize] = BAD;
    table[b'%' as usize] = LOOK;
    table[b'.' as usize] = LOOK;
    table[b'/' as usize] = LOOK;
    table
};

/// Letters, digits and four marks (RFC 3986 §2.3): what never needs an encoding, and all that a name of a host may have here.
/// RFC 3986 §3.2.2 allows more in names, which no resolver knows and programs read differently: encodings, commas, quotes.
static UNRESERVED: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128u8 {
        table[byte as usize] = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        byte += 1;
    }
    table
};

fn is_unreserved(byte: u8) -> bool {
    UNRESERVED[byte as usize]
}

/// Bytes that were found to be ASCII, as text.
fn ascii(text: &[u8]) -> Option<&str> {
    std::str::from_utf8(text).ok()
}

fn checked_query(query: &[u8]) -> Result<&str, Refusal> {
    let allowed = query.iter().all(|&byte| byte.is_ascii_graphic() && byte != b'#');
    if allowed { ascii(query).ok_or(Refusal::Target) } else { Err(Refusal::Target) }
}

fn canonical_into(path: &[u8], out: &mut String) -> Result<(), Refusal> {
    if path.first() != Some(&b'/') {
        return Err(Refusal::Target);
    }
    if is_canonical(path)? {
        out.push_str(ascii(path).ok_or(Refusal::Target)?);
        return Ok(());
    }
    rebuild(path, out)
}

/// Whether nothing is to be done about a path; `/.` counts as something, whatever follows.
fn is_canonical(path: &[u8]) -> Result<bool, Refusal> {
    let mut previous = 0;
    let mut canonical = true;
    for &byte in path {
        match PATH[byte as usize] {
            PLAIN => {}
            LOOK => canonical &= byte != b'%' && previous != b'/',
            _ => return Err(Refusal::Target),
        }
        previous = byte;
    }
    Ok(canonical)
}

/// Builds the path anew, segment by segment: decoded first, so that an encoded dot segment is one; an empty segment
/// counts as not there, so that `..` after it leaves the segment before.
fn rebuild(path: &[u8], out: &mut String) -> Result<(), Refusal> {
    let mut directory = true;
    for segment in path[1..].split(|&byte| byte == b'/') {
        let start = out.len();
        out.push('/');
        decode_unreserved(segment, out)?;
        directory = match &out[start + 1..] {
            "" | "." => {
                out.truncate(start);
                true
            }
            ".." => {
                out.truncate(start);
                let parent = out.rfind('/').ok_or(Refusal::ClimbsAboveRoot)?;
                out.truncate(parent);
                true
            }
            _ => false,
        };
    }
    if directory {
        out.push('/');
    }
    Ok(())
}

/// Decodes what needs no encoding and gives what stays encoded upper-case digits (RFC 3986 §6.2.2).
fn decode_unreserved(mut segment: &[u8], out: &mut String) -> Result<(), Refusal> {
    while let [first, rest @ ..] = segment {
        if *first != b'%' {
            out.push(char::from(*first));
            segment = rest;
            continue;
        }
        let [high, low, rest @ ..] = rest else { return Err(Refusal::PercentEncoding) };
        let byte = hex(*high)? << 4 | hex(*low)?;
        match byte {
            0 => return Err(Refusal::PercentEncoding),
            _ if is_unreserved(byte) => out.push(char::from(byte)),
            _ => {
                out.push('%');
                out.push(char::from(high.to_ascii_uppercase()));
                out.push(char::from(low.to_ascii_uppercase()));
            }
        }
        segment = rest;
    }
    Ok(())
}

fn hex(digit: u8) -> Result<u8, Refusal> {
    char::from(digit).to_digit(16).map(|digit| digit as u8).ok_or(Refusal::PercentEncoding)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_have_one_form() {
        let cases = [
            ("/", "/"),
            ("/a", "/a"),
            ("/a/", "/a/"),
            ("/a.b/c..d/e%2Ff", "/a.b/c..d/e%2Ff"),
            ("//", "/"),
            ("//a///b//", "/a/b/"),
            ("/.", "/"),
            ("/./a", "/a"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/../b", "/b"),
            ("/a/b/../", "/a/"),
            ("/a//../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/%2e/b", "/a/b"),
            ("/...", "/..."),
            ("/.well-known/x", "/.well-known/x"),
            ("/%61%7e%2D%5f", "/a~-_"),
            ("/%c3%a9", "/%C3%A9"),
            ("/%2f%5c%3f%23%20", "/%2F%5C%3F%23%20"),
            ("/%252e", "/%252e"),
            ("/a;b=c,d", "/a;b=c,d"),
            ("/a|b[c]{d}\"<>^`'", "/a|b[c]{d}\"<>^`'"),
        ];
        for (raw, expected) in cases {
            assert_eq!(canonical_path(raw.as_bytes()).as_deref(), Ok(expected), "{raw}");
        }
    }

    #[test]
    fn paths_that_could_be_read_differently_are_refused() {
        let cases: [(&[u8], Refusal); 18] = [
            (b"", Refusal::Target),
            (b"a", Refusal::Target),
            (b"/a b", Refusal::Target),
            (b"/a\\b", Refusal::Target),
            (b"/a#b", Refusal::Target),
            (b"/a?b", Refusal::Target),
            (b"/\0", Refusal::Target),
            (b"/\x7f", Refusal::Target),
            (b"/\xc3\xa9", Refusal::Target),
            (b"/%", Refusal::PercentEncoding),
            (b"/%4", Refusal::PercentEncoding),
            (b"/%/4", Refusal::PercentEncoding),
            (b"/%+1", Refusal::PercentEncoding),
            (b"/%00", Refusal::PercentEncoding),
            (b"/..", Refusal::ClimbsAboveRoot),
            (b"/a/../..", Refusal::ClimbsAboveRoot),
            (b"/a//../../b", Refusal::ClimbsAboveRoot),
            (b"/%2e%2e/a", Refusal::ClimbsAboveRoot),
        ];
        for (raw, refusal) in cases {
            assert_eq!(canonical_path(raw), Err(refusal), "{:?}", String::from_utf8_lossy(raw));
        }
    }

    #[test]
    fn queries_are_checked_and_left_alone() {
        let mut target = Target::default();
        target.set_path_and_query(b"/a/../b?x=%zz&y=/../?\\").unwrap();
        assert_eq!((target.path(), target.query()), ("/b", Some("x=%zz&y=/../?\\")));
        target.set_path_and_query(b"/?").unwrap();
        assert_eq!((target.query(), target.path_and_query()), (Some(""), "/?"));
        target.set_path_and_query(b"/").unwrap();
        assert_eq!(target.query(), None);
        for bad in [&b"/?a#"[..], b"/?a b", b"/?\xff", b"/?\0"] {
            assert_eq!(target.set_path_and_query(bad), Err(Refusal::Target));
        }
    }

    #[test]
    fn hosts_have_one_form() {
        let cases = [
            ("Example.COM", "example.com", "example.com"),
            ("example.com.", "example.com", "example.com"),
            ("example.com.:8080", "example.com", "example.com:8080"),
            ("example.com:", "example.com", "example.com"),
            ("a:0080", "a", "a:80"),
            ("192.0.2.1:80", "192.0.2.1", "192.0.2.1:80"),
            ("[2001:DB8:0:0::1]:443", "[2001:db8::1]", "[2001:db8::1]:443"),
        ];
        let mut target = Target::default();
        for (raw, host, authority) in cases {
            target.set_authority(raw.as_bytes()).unwrap();
            assert_eq!((target.host(), target.authority()), (host, authority), "{raw}");
        }
        target.clear();
        assert_eq!((target.host(), target.authority(), target.path(), target.query()), ("", "", "", None));
    }

    proptest! {
        #[test]
        fn a_canonical_path_is_its_own_canonical_form(path in "/([a-c.]|/|%2[eEfF]|%6[1z]|\\.\\.|%|[!-~]){0,20}") {
            if let Ok(canonical) = canonical_path(path.as_bytes()) {
                prop_assert_eq!(canonical_path(canonical.as_bytes()), Ok(canonical.clone()));
                let calm = canonical.split('/').skip(1).all(|segment| segment != "." && segment != "..");
                prop_assert!(calm && !canonical.contains("//"), "{canonical}");
            }
        }

        #[test]
        fn a_canonical_authority_is_its_own_canonical_form(raw in "[a-cA-C.:0-9\\[\\]-]{0,12}") {
            let mut target = Target::default();
            if target.set_authority(raw.as_bytes()).is_ok() {
                let (host, authority) = (target.host().to_owned(), target.authority().to_owned());
                target.set_authority(authority.as_bytes()).unwrap();
                prop_assert_eq!((target.host(), target.authority()), (&*host, &*authority));
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(raw in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut target = Target::default();
            let _ = target.set_authority(&raw);
            let _ = target.set_path_and_query(&raw);
            let _ = target.set_path_and_query(&[b"/", &raw[..]].concat());
        }
    }
}
