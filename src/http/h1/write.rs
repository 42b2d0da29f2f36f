//! Heads to bytes: always built anew, framing and connection always ours (security.md checklist 4).
//!
//! Fields keep their order and case. What follows them is what we add: where the request comes from, how the body is framed,
//! what the configuration sets.

use std::io::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use crate::http::bytes::{is_token, members, push_decimal};
use crate::http::fields::{
    Forwarding, HeaderEdits, given_request_id, is_editable, is_nominated, is_of_this_hop, may_trail,
};
use crate::http::head::{Fields, Framing, Known, RequestHead, ResponseHead, Version};

/// What becomes of a client's connection after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// It is used again.
    KeepAlive,
    /// It is closed.
    Close,
    /// It becomes a WebSocket.
    Upgrade,
}

/// How a response is sent to a client.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// The version the client speaks.
    pub client: Version,
    /// How the body is framed for it, see [`reply_framing`].
    pub framing: Framing,
    /// What becomes of the connection.
    pub connection: Connection,
    /// Changes, applied one after the other.
    pub edits: &'a [Arc<HeaderEdits>],
    /// Whether `Via` is written.
    pub via: bool,
}

/// The framing of a response as a client of this version gets it: chunks where there is no length, or, for one that knows no
/// chunks, the end of the connection.
#[must_use]
pub fn reply_framing(head: &ResponseHead, client: Version) -> Framing {
    match (head.framing, client) {
        (Framing::Chunked | Framing::ToClose, Version::Http11) => Framing::Chunked,
        (Framing::Chunked | Framing::ToClose, Version::Http10) => Framing::ToClose,
        (told, _) => told,
    }
}

/// Appends a request head for a backend.
pub fn request(out: &mut Vec<u8>, head: &RequestHead, how: &Forwarding<'_>) {
    let edits = Edits::new(how.edits);
    out.reserve(head.fields.written_length() + head.target.path_and_query().len() + 512);
    out.extend_from_slice(head.method_text());
    out.push(b' ');
    out.extend_from_slice(head.target.path_and_query().as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    field(out, "Host", edits.host().unwrap_or_else(|| own_host(head, how)));
    let told = request_fields(out, head, how, edits);
    origin(out, head, how, edits, told);
    if head.framing == Framing::Chunked {
        trailer_names(out, &head.fields);
    }
    framing(out, head.framing);
    if accepts_trailers(&head.fields) {
        field(out, "TE", "trailers");
    }
    if head.connection.websocket {
        out.extend_from_slice(UPGRADE);
    }
    edits.write(out);
    out.extend_from_slice(b"\r\n");
}

/// Appends a response head for a client.
pub fn response(out: &mut Vec<u8>, head: &ResponseHead, how: &Reply<'_>) {
    let edits = Edits::new(how.edits);
    status_line(out, head);
    response_fields(out, head, edits);
    if how.via && edits.spare(b"Via") {
        field(out, "Via", via(head.version));
    }
    if how.framing == Framing::Chunked {
        trailer_names(out, &head.fields);
    }
    match head.told_length {
        Some(length) if how.framing == Framing::None => framing(out, Framing::Length(length)),
        _ => framing(out, how.framing),
    }
    match (how.connection, how.client) {
        (Connection::KeepAlive, Version::Http11) => {}
        (Connection::KeepAlive, Version::Http10) => out.extend_from_slice(KEEP_ALIVE),
        (Connection::Close, _) => out.extend_from_slice(CLOSE),
        (Connection::Upgrade, _) => out.extend_from_slice(UPGRADE),
    }
    edits.write(out);
    out.extend_from_slice(b"\r\n");
}

/// Appends an interim response (1xx) as the backend sent it; only for clients that speak HTTP/1.1.
pub fn interim(out: &mut Vec<u8>, head: &ResponseHead) {
    status_line(out, head);
    response_fields(out, head, Edits::new(&[]));
    out.extend_from_slice(b"\r\n");
}

/// An answer of our own.
#[derive(Clone, Copy, Debug)]
pub struct OwnAnswer<'a> {
    /// 200–599.
    pub status: u16,
    /// The media type of the body.
    pub content_type: &'a str,
    /// The body.
    pub body: &'a [u8],
    /// The id of the request.
    pub request_id: &'a str,
    /// What becomes of the connection.
    pub connection: Connection,
    /// More fields.
    pub extra: &'a [(&'a str, &'a str)],
    /// Changes, applied one after the other.
    pub edits: &'a [Arc<HeaderEdits>],
    /// Whether it answers a HEAD request: the body is then only told of.
    pub head_request: bool,
}

/// Appends an answer of our own, body included.
pub fn own_answer(out: &mut Vec<u8>, answer: &OwnAnswer<'_>) {
    let bodiless = matches!(answer.status, 204 | 304);
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(out, answer.status.into());
    out.push(b' ');
    out.extend_from_slice(reason(answer.status).as_bytes());
    out.extend_from_slice(b"\r\n");
    if !bodiless {
        field(out, "Content-Type", answer.content_type);
        framing(out, Framing::Length(answer.body.len() as u64));
    }
    field(out, "X-Request-Id", answer.request_id);
    for (name, value) in answer.extra {
        field(out, name, value);
    }
    Edits::new(answer.edits).write(out);
    // said always: what the client asked for, and with which version, may be what could not be read
    out.extend_from_slice(match answer.connection {
        Connection::KeepAlive => KEEP_ALIVE,
        Connection::Close => CLOSE,
        Connection::Upgrade => UPGRADE,
    });
    out.extend_from_slice(b"\r\n");
    if !bodiless && !answer.head_request {
        out.extend_from_slice(answer.body);
    }
}

const KEEP_ALIVE: &[u8] = b"Connection: keep-alive\r\n";
const CLOSE: &[u8] = b"Connection: close\r\n";
const UPGRADE: &[u8] = b"Connection: Upgrade\r\nUpgrade: websocket\r\n";

fn status_line(out: &mut Vec<u8>, head: &ResponseHead) {
    out.reserve(head.fields.written_length() + head.reason().len() + 256);
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(out, head.status.into());
    out.push(b' ');
    out.extend_from_slice(head.reason());
    out.extend_from_slice(b"\r\n");
}

fn own_host<'a>(head: &'a RequestHead, how: &Forwarding<'a>) -> &'a str {
    match head.target.authority() {
        "" => how.fallback_host,
        authority => authority,
    }
}

/// Which of the fields that tell of the way before us were forwarded.
#[derive(Clone, Copy, Default)]
struct Told {
    host: bool,
    port: bool,
    scheme: bool,
}

/// Writes those of the client's fields that are forwarded as they are.
fn request_fields(out: &mut Vec<u8>, head: &RequestHead, how: &Forwarding<'_>, edits: Edits<'_>) -> Told {
    let mut told = Told::default();
    let nominates = head.connection.nominates;
    head.fields.write(out, |field| {
        let forwarded = match field.known {
            Known::Other => true,
            Known::Host | Known::XForwardedFor | Known::XRequestId => false,
            Known::Expect => head.expects_continue,
            Known::Forwarded | Known::XRealIp | Known::XForwardedOther => how.trusted,
            Known::XForwardedHost => how.trusted && mark(&mut told.host),
            Known::XForwardedPort => how.trusted && mark(&mut told.port),
            Known::XForwardedProto => how.trusted && mark(&mut told.scheme),
            known => !is_of_this_hop(known),
        };
        forwarded && !(nominates && is_nominated(&head.fields, field)) && edits.spare(field.name)
    });
    told
}

fn mark(flag: &mut bool) -> bool {
    *flag = true;
    true
}

/// Writes where the request comes from.
fn origin(out: &mut Vec<u8>, head: &RequestHead, how: &Forwarding<'_>, edits: Edits<'_>, told: Told) {
    if edits.spare(b"X-Forwarded-For") {
        forwarded_for(out, &head.fields, how);
    }
    if !told.scheme && edits.spare(b"X-Forwarded-Proto") {
        field(out, "X-Forwarded-Proto", how.scheme.name());
    }
    if !told.host && edits.spare(b"X-Forwarded-Host") {
        field(out, "X-Forwarded-Host", own_host(head, how));
    }
    if !told.port && edits.spare(b"X-Forwarded-Port") {
        out.extend_from_slice(b"X-Forwarded-Port: ");
        push_decimal(out, how.port.into());
        out.extend_from_slice(b"\r\n");
    }
    if edits.spare(b"X-Request-Id") {
        field(out, "X-Request-Id", given_request_id(&head.fields, how.trusted).unwrap_or(how.request_id));
    }
    if how.forwarded && edits.spare(b"Forwarded") {
        forwarded(out, head, how);
    }
    if how.via && edits.spare(b"Via") {
        field(out, "Via", via(head.version));
    }
}

/// One `X-Forwarded-For` with what a trusted client told and the client itself.
fn forwarded_for(out: &mut Vec<u8>, fields: &Fields, how: &Forwarding<'_>) {
    let mut list = List::new("X-Forwarded-For: ");
    if how.trusted {
        for told in fields.iter().filter(|field| field.known == Known::XForwardedFor && !field.value.is_empty()) {
            list.next(out);
            out.extend_from_slice(told.value);
        }
    }
    if let Some(peer) = how.peer {
        list.next(out);
        push_address(out, peer);
    }
    list.end(out);
}

/// One more `Forwarded` (RFC 7239); what a trusted client told stands before it.
fn forwarded(out: &mut Vec<u8>, head: &RequestHead, how: &Forwarding<'_>) {
    out.extend_from_slice(b"Forwarded: for=");
    match how.peer.map(|peer| peer.to_canonical()) {
        None => out.extend_from_slice(b"unknown"),
        Some(peer @ IpAddr::V4(_)) => push_address(out, peer),
        Some(peer @ IpAddr::V6(_)) => {
            out.extend_from_slice(b"\"[");
            push_address(out, peer);
            out.extend_from_slice(b"]\"");
        }
    }
    for part in [";host=\"", own_host(head, how), "\";proto=", how.scheme.name(), "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

fn push_address(out: &mut Vec<u8>, address: IpAddr) {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            for (place, octet) in address.octets().into_iter().enumerate() {
                if place > 0 {
                    out.push(b'.');
                }
                push_decimal(out, octet.into());
            }
        }
        IpAddr::V6(address) => write!(out, "{address}").expect("writing to a vector does not fail"),
    }
}

fn response_fields(out: &mut Vec<u8>, head: &ResponseHead, edits: Edits<'_>) {
    let nominates = head.connection.nominates;
    head.fields.write(out, |field| {
        !is_of_this_hop(field.known) && !(nominates && is_nominated(&head.fields, field)) && edits.spare(field.name)
    });
}

fn via(version: Version) -> &'static str {
    match version {
        Version::Http10 => "1.0 evenkeel",
        Version::Http11 => "1.1 evenkeel",
    }
}

fn framing(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::None | Framing::ToClose => {}
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Framing::Length(length) => {
            out.extend_from_slice(b"Content-Length: ");
            push_decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Announces the trailer fields that will be let through.
fn trailer_names(out: &mut Vec<u8>, fields: &Fields) {
    let mut list = List::new("Trailer: ");
    let announced = fields.iter().filter(|field| field.known == Known::Trailer).flat_map(|field| members(field.value));
    for name in announced.filter(|name| is_token(name) && may_trail(Known::of(name), name)) {
        list.next(out);
        out.extend_from_slice(name);
    }
    list.end(out);
}

fn accepts_trailers(fields: &Fields) -> bool {
    let told = fields.iter().filter(|field| field.known == Known::Te);
    told.flat_map(|field| members(field.value)).any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}

fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    debug_assert!(is_token(name.as_bytes()), "a field name is a token: {name:?}");
    debug_assert!(
        !value.bytes().any(|byte| byte != b'\t' && byte.is_ascii_control()),
        "no control character: {value:?}"
    );
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// A field with a list for its value, which is not written at all when nothing is in it.
struct List {
    start: &'static str,
    empty: bool,
}

impl List {
    fn new(start: &'static str) -> List {
        List { start, empty: true }
    }

    /// Writes what stands before the next member.
    fn next(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.empty { self.start.as_bytes() } else { b", " });
        self.empty = false;
    }

    fn end(self, out: &mut Vec<u8>) {
        if !self.empty {
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Changes of several levels (listener, route, …): a later one has the last word about what the earlier ones wrote.
#[derive(Clone, Copy)]
struct Edits<'a> {
    levels: &'a [Arc<HeaderEdits>],
}

impl<'a> Edits<'a> {
    fn new(levels: &'a [Arc<HeaderEdits>]) -> Edits<'a> {
        let levels = if levels.iter().all(|level| level.is_empty()) { &[] } else { levels };
        Edits { levels }
    }

    /// Whether a field that was there before all changes stays.
    fn spare(self, name: &[u8]) -> bool {
        !self.levels.iter().any(|level| level.replaces(name))
    }

    /// The `Host` that is set last, if one is.
    fn host(self) -> Option<&'a str> {
        let set = self.levels.iter().flat_map(|level| &level.set);
        set.filter(|(name, _)| name.eq_ignore_ascii_case("host")).map(|(_, value)| &**value).last()
    }

    /// Writes what is set and added and not taken away again by a later level.
    fn write(self, out: &mut Vec<u8>) {
        for (at, level) in self.levels.iter().enumerate() {
            let later = Edits { levels: &self.levels[at + 1..] };
            for (name, value) in level.set.iter().chain(&level.add) {
                if is_editable(name) && !name.eq_ignore_ascii_case("host") && later.spare(name.as_bytes()) {
                    field(out, name, value);
                }
            }
        }
    }
}

/// The phrase that goes with a status of ours.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        410 => "Gone",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        418 => "I'm a Teapot",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
