//! Heads to bytes: always built anew, framing and connection always ours (security.md checklist 4).
//!
//! Fields keep their order and case. What follows them is what we add: where the request comes from, how the body is framed,
//! what the configuration sets.

use std::io::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use crate::http::bytes::{is_token, members, push_decimal};
use crate::http::fields::{Edits, Forwarding, HeaderEdits, given_request_id, is_nominated, is_of_this_hop, may_trail};
use crate::http::head::{Fields, Framing, Known, RequestHead, ResponseHead, Version};

pub use super::own::{OwnAnswer, own_answer};

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
    edited(out, edits);
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
    edited(out, edits);
    out.extend_from_slice(b"\r\n");
}

/// Appends an interim response (1xx) as the backend sent it; only for clients that speak HTTP/1.1.
pub fn interim(out: &mut Vec<u8>, head: &ResponseHead) {
    status_line(out, head);
    response_fields(out, head, Edits::new(&[]));
    out.extend_from_slice(b"\r\n");
}

pub(super) const KEEP_ALIVE: &[u8] = b"Connection: keep-alive\r\n";
pub(super) const CLOSE: &[u8] = b"Connection: close\r\n";
pub(super) const UPGRADE: &[u8] = b"Connection: Upgrade\r\nUpgrade: websocket\r\n";

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
            // not to be edited: both sides must agree on who waits for whom
            Known::Expect => return head.expects_continue,
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
        let stays_here = is_of_this_hop(field.known) || nominates && is_nominated(&head.fields, field);
        !stays_here && edits.spare(field.name)
    });
}

fn via(version: Version) -> &'static str {
    match version {
        Version::Http10 => "1.0 evenkeel",
        Version::Http11 => "1.1 evenkeel",
    }
}

/// The field that frames a body.
pub(super) fn framing(out: &mut Vec<u8>, framing: Framing) {
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

/// What the configuration sets and adds.
pub(super) fn edited(out: &mut Vec<u8>, edits: Edits<'_>) {
    for (name, value) in edits.brought() {
        field(out, name, value);
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

/// A field of ours.
pub(super) fn field(out: &mut Vec<u8>, name: &str, value: &str) {
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
