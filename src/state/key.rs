//! The number that a hashing policy goes by, taken from a request or a connection.
//!
//! A request without the asked header, cookie or query parameter is told apart by its client's address: it has to go
//! somewhere, and so it goes to the same place next time. Without an address either (a Unix socket) the key is 0.

use std::net::IpAddr;

use super::pool::{HashInput, Pool};
use crate::balance::{hash_key, ip_key};
use crate::http::{Known, RequestHead};

impl Pool {
    /// The key of a connection from `client`.
    #[must_use]
    pub fn key_of_address(&self, client: Option<IpAddr>) -> u64 {
        match (&self.hash_input, client) {
            (HashInput::Nothing, _) | (_, None) => 0,
            (HashInput::ClientAddress { ipv4_prefix, ipv6_prefix }, Some(client)) => {
                ip_key(client, *ipv4_prefix, *ipv6_prefix)
            }
            (_, Some(client)) => ip_key(client, 32, 64),
        }
    }

    /// The key of a request; `client` is asked only where the address is needed.
    pub fn key_of_request(&self, request: &RequestHead, client: impl Fn() -> Option<IpAddr>) -> u64 {
        let told = match &self.hash_input {
            HashInput::Nothing => return 0,
            HashInput::ClientAddress { .. } => None,
            HashInput::Uri => Some(request.target.path_and_query().as_bytes()),
            HashInput::Header(name) => request.fields.values(name).next(),
            HashInput::Cookie(name) => cookie(request, name),
            HashInput::Query(name) => request.target.query().and_then(|query| parameter(query, name)),
        };
        told.map_or_else(|| self.key_of_address(client()), hash_key)
    }
}

/// The value of a cookie (RFC 6265 §4.2.1).
fn cookie<'a>(request: &'a RequestHead, name: &str) -> Option<&'a [u8]> {
    let fields = request.fields.iter().filter(|field| field.known == Known::Cookie);
    let pairs = fields.flat_map(|field| field.value.split(|&byte| byte == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| value_of(pair, name))
}

/// The raw value of a query parameter.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a [u8]> {
    query.as_bytes().split(|&byte| byte == b'&').find_map(|pair| value_of(pair, name))
}

fn value_of<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;
    use crate::http::h1::parse::{self, HeadLimits};

    fn request(text: &str) -> RequestHead {
        let mut head = RequestHead::default();
        parse::request(text.as_bytes(), 0, &HeadLimits::default(), &mut head).expect("the test wrote a good request");
        head
    }

    #[test]
    fn cookies_and_parameters_are_found_by_their_whole_name() {
        let head = request("GET /?xid=1&id=2 HTTP/1.1\r\nHost: a\r\nCookie: xsid=1; sid=abc\r\nCookie: t=9\r\n\r\n");
        assert_eq!(cookie(&head, "sid"), Some(&b"abc"[..]));
        assert_eq!(cookie(&head, "t"), Some(&b"9"[..]));
        assert_eq!(cookie(&head, "si"), None);
        assert_eq!(parameter(head.target.query().unwrap(), "id"), Some(&b"2"[..]));
        assert_eq!(parameter("id", "id"), None);
    }
}
