//! Which fields are forwarded, and what is believed of them.
//!
//! Hop-by-hop fields never pass (RFC 9110 §7.6.1), nor do those that `Connection` nominates, except where a client could
//! use that to hide what we or the backend rely on (security.md R13). What says where a request comes from is taken over
//! from trusted peers only.

use std::net::IpAddr;
use std::sync::Arc;

use super::bytes::{is_token, members, trim};
use super::head::{Field, Fields, Known};

/// How a request reaches us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// Its name in URIs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// What is known of a request's way to us, and what is to be changed before it is forwarded.
#[derive(Clone, Copy, Debug)]
pub struct Forwarding<'a> {
    /// The client's address; `None` for one that comes by a Unix socket.
    pub peer: Option<IpAddr>,
    /// Whether that client is a trusted proxy: what it says of the way before it is believed.
    pub trusted: bool,
    /// How the request came.
    pub scheme: Scheme,
    /// The port it came to; `None` for a Unix socket.
    pub port: Option<u16>,
    /// Our id of the request; an acceptable one from a trusted client goes before it.
    pub request_id: &'a str,
    /// What is told of the client's certificate, name by name; `None` where nothing is to be told.
    pub client_cert: Option<&'a [(&'static str, String)]>,
    /// The `Host` of a request that named none (HTTP/1.0).
    pub fallback_host: &'a str,
    /// The `Sec-WebSocket-Key` for a backend that speaks HTTP/1.1, where the client speaks HTTP/2, which has none.
    pub websocket_key: Option<&'a str>,
    /// Whether `Forwarded` is written.
    pub forwarded: bool,
    /// Whether `Via` is written.
    pub via: bool,
    /// Changes, applied one after the other.
    pub edits: &'a [Arc<HeaderEdits>],
}

/// Changes to a list of fields; removed first, then set, then added. Names are kept as written and compared without case.
///
/// What belongs to framing and the connection can not be changed, see [`is_editable`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Replaces all fields of the name by one.
    pub set: Vec<(String, String)>,
    /// Appends one.
    pub add: Vec<(String, String)>,
    /// Removes all of the name.
    pub remove: Vec<String>,
}

impl HeaderEdits {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// Whether it takes away what was there under this name.
    pub(super) fn replaces(&self, name: &[u8]) -> bool {
        let is_it = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        self.remove.iter().any(|other| is_it(other)) || self.set.iter().any(|(other, _)| is_it(other))
    }
}

/// Changes of several levels (listener, route, …): a later one has the last word about what the earlier ones wrote.
#[derive(Clone, Copy)]
pub(super) struct Edits<'a> {
    levels: &'a [Arc<HeaderEdits>],
}

impl<'a> Edits<'a> {
    /// Those of these levels, the first to be applied first.
    pub(super) fn new(levels: &'a [Arc<HeaderEdits>]) -> Edits<'a> {
        let levels = if levels.iter().all(|level| level.is_empty()) { &[] } else { levels };
        Edits { levels }
    }

    /// Whether a field that was there before all changes stays.
    pub(super) fn spare(self, name: &[u8]) -> bool {
        !self.levels.iter().any(|level| level.replaces(name))
    }

    /// The `Host` that is set last, if one is.
    pub(super) fn host(self) -> Option<&'a str> {
        let set = self.levels.iter().flat_map(|level| &level.set);
        set.filter(|(name, _)| name.eq_ignore_ascii_case("host")).map(|(_, value)| &**value).next_back()
    }

    /// What is set and added and not taken away again by a later level.
    pub(super) fn brought(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.levels.iter().enumerate().flat_map(move |(at, level)| {
            let later = Edits { levels: &self.levels[at + 1..] };
            let all = level.set.iter().chain(&level.add);
            all.filter(move |(name, _)| brings(name) && later.spare(name.as_bytes()))
                .map(|(name, value)| (&**name, &**value))
        })
    }
}

/// Whether a change may bring a field of this name as one of its own; `Host` has its place already.
fn brings(name: &str) -> bool {
    is_editable(name) && !name.eq_ignore_ascii_case("host")
}

/// Whether edits may touch fields of this name: not those that frame the message or belong to the connection.
#[must_use]
pub fn is_editable(name: &str) -> bool {
    is_token(name.as_bytes()) && reserved(name).is_none()
}

/// What a field that is not for editing is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// How the message is framed, and who waits for whom while it is sent.
    Framing,
    /// The connection, of which each side of us has its own.
    Connection,
}

/// Why fields of this name are not for editing; `None` for all others, even where it can not be a name at all.
#[must_use]
pub fn reserved(name: &str) -> Option<Reserved> {
    match Known::of(name.as_bytes()) {
        Known::Expect => Some(Reserved::Framing),
        known => of_this_hop(known),
    }
}

/// Fields that are about this connection or this message's framing: never forwarded, written by us where needed.
pub(super) fn is_of_this_hop(known: Known) -> bool {
    of_this_hop(known).is_some()
}

fn of_this_hop(known: Known) -> Option<Reserved> {
    match known {
        Known::ContentLength | Known::Te | Known::Trailer | Known::TransferEncoding => Some(Reserved::Framing),
        Known::Connection
        | Known::Http2Settings
        | Known::KeepAlive
        | Known::ProxyAuthenticate
        | Known::ProxyAuthorization
        | Known::ProxyConnection
        | Known::Upgrade => Some(Reserved::Connection),
        _ => None,
    }
}

/// Whether a field is one that `Connection` names and may take away.
pub(super) fn is_nominated(fields: &Fields, field: Field<'_>) -> bool {
    matches!(field.known, Known::Other | Known::Date | Known::Via)
        && fields
            .iter()
            .filter(|other| other.known == Known::Connection)
            .flat_map(|other| members(other.value))
            .any(|option| option.eq_ignore_ascii_case(field.name))
}

/// Names that RFC 9110 §6.5.1 keeps out of trailers, besides all that [`Known`] names: who acted on a head must not learn
/// something else afterwards.
const NEVER_TRAILING: [&str; 24] = [
    "accept-encoding",
    "age",
    "alt-svc",
    "cache-control",
    "content-encoding",
    "content-location",
    "content-range",
    "content-type",
    "expires",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "location",
    "max-forwards",
    "pragma",
    "range",
    "retry-after",
    "set-cookie",
    "strict-transport-security",
    "vary",
    "warning",
    "www-authenticate",
];

/// Whether a field of this name may follow a body.
pub(super) fn may_trail(known: Known, name: &[u8]) -> bool {
    known == Known::Other
        && !name.contains(&b'_')
        && !NEVER_TRAILING.iter().any(|never| name.eq_ignore_ascii_case(never.as_bytes()))
}

/// The address of the client that a request really comes from: the peer, or, as long as those who tell are trusted, what
/// they tell in `X-Forwarded-For`, read from its end. Where that becomes unreadable the last readable one counts.
#[must_use]
pub fn client_address(fields: &Fields, peer: IpAddr, trusted: impl Fn(IpAddr) -> bool) -> IpAddr {
    let mut client = peer.to_canonical();
    if !trusted(client) {
        return client;
    }
    let told = fields.iter().rev().filter(|field| field.known == Known::XForwardedFor);
    for entry in told.flat_map(|field| members(field.value).rev()) {
        let Some(address) = read_address(entry) else { return client };
        client = address;
        if !trusted(client) {
            return client;
        }
    }
    client
}

/// Reads `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` and `[2001:db8::1]:80`.
fn read_address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(trim(entry)).ok()?;
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse().map(|with_port: std::net::SocketAddr| with_port.ip()).ok());
    address.map(|address: IpAddr| address.to_canonical())
}

/// Whether an `X-Request-Id` may be taken over: 1 to 128 token characters.
#[must_use]
pub fn accept_request_id(id: &[u8]) -> bool {
    id.len() <= 128 && is_token(id)
}

/// The `X-Request-Id` that a trusted client gave, if it is acceptable.
#[must_use]
pub fn given_request_id(fields: &Fields, trusted: bool) -> Option<&str> {
    let given = fields.find(Known::XRequestId).filter(|id| trusted && accept_request_id(id))?;
    std::str::from_utf8(given).ok()
}

/// A request's way to us, for tests of what is written of it.
#[cfg(test)]
pub(super) const HOW: Forwarding<'_> = Forwarding {
    peer: Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 10))),
    trusted: false,
    scheme: Scheme::Https,
    port: Some(443),
    request_id: "ours",
    fallback_host: "fallback",
    websocket_key: None,
    client_cert: None,
    forwarded: false,
    via: false,
    edits: &[],
};

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in list {
            fields.push(Known::of(name.as_bytes()), name.as_bytes(), value.as_bytes());
        }
        fields
    }

    fn client(told: &[&str], peer: &str) -> String {
        let told: Vec<_> = told.iter().map(|value| ("X-Forwarded-For", *value)).collect();
        let trusted = |address: IpAddr| address.to_string().starts_with("10.");
        client_address(&fields(&told), peer.parse().unwrap(), trusted).to_string()
    }

    #[test]
    fn the_client_is_the_last_one_that_nobody_trusted_vouches_for() {
        assert_eq!(client(&["1.1.1.1"], "9.9.9.9"), "9.9.9.9");
        assert_eq!(client(&[], "10.0.0.1"), "10.0.0.1");
        assert_eq!(client(&["1.1.1.1"], "10.0.0.1"), "1.1.1.1");
        assert_eq!(client(&["1.1.1.1"], "::ffff:10.0.0.1"), "1.1.1.1");
        assert_eq!(client(&["6.6.6.6, 1.1.1.1 , 10.0.0.2"], "10.0.0.1"), "1.1.1.1");
        assert_eq!(client(&["6.6.6.6", "1.1.1.1", "10.0.0.2"], "10.0.0.1"), "1.1.1.1");
        assert_eq!(client(&["10.0.0.3, 10.0.0.2"], "10.0.0.1"), "10.0.0.3");
        assert_eq!(client(&["1.1.1.1, unknown, 10.0.0.2"], "10.0.0.1"), "10.0.0.2");
        assert_eq!(client(&["1.1.1.1:80"], "10.0.0.1"), "1.1.1.1");
        assert_eq!(client(&["[2001:db8::1]:80"], "10.0.0.1"), "2001:db8::1");
        assert_eq!(client(&["[2001:db8::1]"], "10.0.0.1"), "2001:db8::1");
        assert_eq!(client(&["2001:db8::1"], "10.0.0.1"), "2001:db8::1");
    }

    #[test]
    fn request_ids_are_tokens_from_trusted_clients() {
        assert!(accept_request_id(b"a-1_2.3"));
        assert!(accept_request_id(&[b'a'; 128]));
        for bad in [&b""[..], b"a b", b"a\"", b"a,b", &[b'a'; 129]] {
            assert!(!accept_request_id(bad));
        }
        let told = fields(&[("x-request-id", "abc")]);
        assert_eq!(given_request_id(&told, true), Some("abc"));
        assert_eq!(given_request_id(&told, false), None);
        assert_eq!(given_request_id(&fields(&[("x-request-id", "a b")]), true), None);
    }

    #[test]
    fn known_names_are_known_in_any_case() {
        let all = [
            ("Authorization", Known::Authorization),
            ("CONNECTION", Known::Connection),
            ("content-length", Known::ContentLength),
            ("Cookie", Known::Cookie),
            ("Date", Known::Date),
            ("Expect", Known::Expect),
            ("Forwarded", Known::Forwarded),
            ("hOST", Known::Host),
            ("HTTP2-Settings", Known::Http2Settings),
            ("Keep-Alive", Known::KeepAlive),
            ("Proxy-Authenticate", Known::ProxyAuthenticate),
            ("Proxy-Authorization", Known::ProxyAuthorization),
            ("Proxy-Connection", Known::ProxyConnection),
            ("TE", Known::Te),
            ("Trailer", Known::Trailer),
            ("Transfer-Encoding", Known::TransferEncoding),
            ("Upgrade", Known::Upgrade),
            ("Via", Known::Via),
            ("Client-Cert", Known::ClientCert),
            ("Client-Cert-Chain", Known::ClientCert),
            ("X-Client-Cert", Known::ClientCert),
            ("X-Client-Cert-Subject", Known::ClientCert),
            ("X-Forwarded-For", Known::XForwardedFor),
            ("X-Forwarded-Host", Known::XForwardedHost),
            ("X-Forwarded-Port", Known::XForwardedPort),
            ("X-Forwarded-Proto", Known::XForwardedProto),
            ("X-Forwarded-Prefix", Known::XForwardedOther),
            ("X-Real-IP", Known::XRealIp),
            ("X-Request-ID", Known::XRequestId),
        ];
        for (name, known) in all {
            assert_eq!(Known::of(name.as_bytes()), known, "{name}");
            assert_eq!(Known::of(name.to_lowercase().as_bytes()), known, "{name}");
            let by_beginning = known == Known::XForwardedOther || name.contains("-Cert-");
            assert_eq!(Known::of(format!("{name}x").as_bytes()) == known, by_beginning, "{name}x");
        }
        for other in [
            "",
            "X",
            "Accept",
            "Hosts",
            "XForwarded-For",
            "X-Forwarded",
            "X-Client-Cer",
            "XyClient-Cert",
            "X-Client-Certain",
        ] {
            assert_eq!(Known::of(other.as_bytes()), Known::Other, "{other}");
        }
    }

    #[test]
    fn framing_and_connection_are_not_for_editing() {
        for name in [
            "content-length",
            "Transfer-Encoding",
            "connection",
            "Upgrade",
            "TE",
            "Trailer",
            "Expect",
            "a b",
            "",
            "a\r\n",
        ] {
            assert!(!is_editable(name), "{name}");
        }
        for name in ["Host", "X-Forwarded-For", "Server", "Via", "x_y"] {
            assert!(is_editable(name), "{name}");
        }
    }
}
