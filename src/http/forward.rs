//! Which fields a message has when it leaves us: decided once, whichever protocol writes them.
//!
//! What came is copied in its order, and behind it stands what we add: where a request comes from, how the body is framed,
//! what the configuration sets. How a field is written is up to the `Lines` they go to.

use std::io::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderName;

use super::bytes::{is_token, members, push_decimal};
use super::fields::{Edits, Forwarding, HeaderEdits, given_request_id, is_nominated, is_of_this_hop, may_trail};
use super::head::{Field, Fields, Framing, Known, RequestHead, ResponseHead, Version};

/// What becomes of a client's connection after a response; says nothing in HTTP/2.
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
        (Framing::Chunked | Framing::ToClose, Version::Http11 | Version::Http2) => Framing::Chunked,
        (Framing::Chunked | Framing::ToClose, Version::Http10) => Framing::ToClose,
        (told, _) => told,
    }
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

impl<'a> OwnAnswer<'a> {
    /// The body as far as it is sent: not to HEAD, nor with a status that has none.
    #[must_use]
    pub fn sent_body(&self) -> &'a [u8] {
        if self.is_bodiless() || self.head_request { &[] } else { self.body }
    }

    fn is_bodiless(&self) -> bool {
        matches!(self.status, 204 | 304)
    }
}

/// A field name of ours as each protocol writes it.
#[derive(Clone, Copy)]
pub(super) struct Ours {
    /// With the colon and the space behind it.
    pub line: &'static str,
    pub name: &'static HeaderName,
}

/// Constants, so that copying a name into lines takes no call; the map's form of it can not be one.
macro_rules! ours {
    ($($known:ident: $line:literal, $name:literal;)*) => {
        $(const $known: Ours = {
            static NAME: HeaderName = HeaderName::from_static($name);
            Ours { line: $line, name: &NAME }
        };)*
    };
}

ours! {
    CONTENT_TYPE: "Content-Type: ", "content-type";
    FORWARDED: "Forwarded: ", "forwarded";
    SEC_WEBSOCKET_KEY: "Sec-WebSocket-Key: ", "sec-websocket-key";
    TRAILER: "Trailer: ", "trailer";
    VIA: "Via: ", "via";
    X_FORWARDED_FOR: "X-Forwarded-For: ", "x-forwarded-for";
    X_FORWARDED_HOST: "X-Forwarded-Host: ", "x-forwarded-host";
    X_FORWARDED_PORT: "X-Forwarded-Port: ", "x-forwarded-port";
    X_FORWARDED_PROTO: "X-Forwarded-Proto: ", "x-forwarded-proto";
    X_REQUEST_ID: "X-Request-Id: ", "x-request-id";
}

/// Where the fields of a message are written to.
pub(super) trait Lines {
    /// Whether a message is a stream of its own: HTTP/2. Where a body ends needs no field then, trailer fields may stand
    /// behind every body, and a WebSocket is asked for without a key.
    const STREAMS: bool;

    /// Copies those of `fields` that `keep` wants, in their order.
    fn copy(&mut self, fields: &Fields, keep: impl FnMut(Field<'_>) -> bool);

    /// Begins a field of ours.
    fn begin(&mut self, name: Ours);

    /// Where the value goes of a field that was begun.
    fn value(&mut self) -> &mut Vec<u8>;

    /// Ends a field that was begun.
    fn end(&mut self);

    /// Writes a field whose name is told by the configuration.
    fn field(&mut self, name: &str, value: &str);

    /// Writes what frames a body.
    fn frame(&mut self, framing: Framing);

    /// Asks for a switch to WebSocket, or agrees to it.
    fn upgrade(&mut self);

    /// Says that trailer fields are taken.
    fn take_trailers(&mut self);

    /// Says what becomes of the connection of a client.
    fn persist(&mut self, connection: Connection, client: Version);

    /// Writes a field of ours.
    #[inline]
    fn ours(&mut self, name: Ours, value: &str) {
        self.begin(name);
        self.value().extend_from_slice(value.as_bytes());
        self.end();
    }
}

/// Writes the fields of a request on its way to a backend, the host apart.
pub(super) fn request<L: Lines>(to: &mut L, head: &RequestHead, how: &Forwarding<'_>, edits: Edits<'_>) {
    let told = request_fields(to, head, how, edits);
    origin(to, head, how, edits, told);
    if announces::<L>(head.framing) {
        trailer_names(to, &head.fields);
    }
    to.frame(head.framing);
    if head.connection.websocket {
        if let Some(key) = how.websocket_key.filter(|_| !L::STREAMS) {
            to.ours(SEC_WEBSOCKET_KEY, key);
        }
        to.upgrade();
    } else if accepts_trailers(&head.fields) {
        to.take_trailers();
    }
    brought(to, edits);
}

/// Writes the fields of a response on its way to a client.
pub(super) fn response<L: Lines>(to: &mut L, head: &ResponseHead, how: &Reply<'_>) {
    let edits = Edits::new(how.edits);
    response_fields(to, head, edits);
    if how.via && edits.spare(b"Via") {
        to.ours(VIA, via(head.version));
    }
    if announces::<L>(how.framing) {
        trailer_names(to, &head.fields);
    }
    to.frame(match (how.framing, head.told_length) {
        (Framing::None, Some(length)) => Framing::Length(length),
        // The stream's end says it, as it did on its way to us: a gRPC status that came in the head needs no length.
        (Framing::Length(0), _) if L::STREAMS && is_untold(head) => Framing::None,
        (framing, _) => framing,
    });
    to.persist(how.connection, how.client);
    brought(to, edits);
}

/// Writes the fields of an interim response as the backend sent them.
pub(super) fn interim(to: &mut impl Lines, head: &ResponseHead) {
    response_fields(to, head, Edits::new(&[]));
}

/// Writes the fields of an answer of our own.
pub(super) fn own_answer<L: Lines>(to: &mut L, answer: &OwnAnswer<'_>) {
    if !answer.is_bodiless() {
        to.ours(CONTENT_TYPE, answer.content_type);
        // Of a stream its end says as much, and a call of gRPC that is answered by a head alone has no length.
        if !(L::STREAMS && answer.body.is_empty()) {
            to.frame(Framing::Length(answer.body.len() as u64));
        }
    }
    to.ours(X_REQUEST_ID, answer.request_id);
    for (name, value) in answer.extra {
        to.field(name, value);
    }
    brought(to, Edits::new(answer.edits));
    // said always: what the client asked for, and with which version, may be what could not be read
    to.persist(answer.connection, Version::Http10);
}

/// The host that a request is for, edits apart.
pub(super) fn own_host<'a>(head: &'a RequestHead, how: &Forwarding<'a>) -> &'a str {
    match head.target.authority() {
        "" => how.fallback_host,
        authority => authority,
    }
}

/// Which of the fields that are forwarded once, or written by us where they are missing, were forwarded.
#[derive(Clone, Copy, Default)]
struct Told {
    expect: bool,
    host: bool,
    port: bool,
    scheme: bool,
}

/// Writes those of the client's fields that are forwarded as they are.
fn request_fields<L: Lines>(to: &mut L, head: &RequestHead, how: &Forwarding<'_>, edits: Edits<'_>) -> Told {
    let mut told = Told::default();
    let nominates = head.connection.nominates;
    let other_key = head.connection.websocket && (L::STREAMS || how.websocket_key.is_some());
    // one question for each field of a usual request
    let unusual = nominates || other_key;
    let stays_here = |field: Field<'_>| {
        nominates && is_nominated(&head.fields, field)
            || other_key && field.name.eq_ignore_ascii_case(b"Sec-WebSocket-Key")
    };
    to.copy(&head.fields, |field| {
        let forwarded = match field.known {
            Known::Other => true,
            Known::Host | Known::XForwardedFor | Known::XRequestId => false,
            // not to be edited: both sides must agree on who waits for whom
            Known::Expect => return head.expects_continue && !std::mem::replace(&mut told.expect, true),
            Known::ClientCert => how.trusted && how.client_cert.is_none(),
            Known::Forwarded | Known::XRealIp | Known::XForwardedOther => how.trusted,
            Known::XForwardedHost => how.trusted && mark(&mut told.host),
            Known::XForwardedPort => how.trusted && mark(&mut told.port),
            Known::XForwardedProto => how.trusted && mark(&mut told.scheme),
            known => !is_of_this_hop(known),
        };
        forwarded && !(unusual && stays_here(field)) && edits.spare(field.name)
    });
    told
}

fn mark(flag: &mut bool) -> bool {
    *flag = true;
    true
}

/// Writes where the request comes from.
fn origin(to: &mut impl Lines, head: &RequestHead, how: &Forwarding<'_>, edits: Edits<'_>, told: Told) {
    if edits.spare(b"X-Forwarded-For") {
        forwarded_for(to, &head.fields, how);
    }
    if !told.scheme && edits.spare(b"X-Forwarded-Proto") {
        to.ours(X_FORWARDED_PROTO, how.scheme.name());
    }
    if !told.host && edits.spare(b"X-Forwarded-Host") {
        to.ours(X_FORWARDED_HOST, own_host(head, how));
    }
    if let Some(port) = how.port
        && !told.port
        && edits.spare(b"X-Forwarded-Port")
    {
        to.begin(X_FORWARDED_PORT);
        push_decimal(to.value(), port.into());
        to.end();
    }
    if edits.spare(b"X-Request-Id") {
        to.ours(X_REQUEST_ID, given_request_id(&head.fields, how.trusted).unwrap_or(how.request_id));
    }
    for (name, value) in how.client_cert.unwrap_or_default() {
        if edits.spare(name.as_bytes()) {
            to.field(name, value);
        }
    }
    if how.forwarded && edits.spare(b"Forwarded") {
        forwarded(to, head, how);
    }
    if how.via && edits.spare(b"Via") {
        to.ours(VIA, via(head.version));
    }
}

/// One `X-Forwarded-For` with what a trusted client told and the client itself.
fn forwarded_for(to: &mut impl Lines, fields: &Fields, how: &Forwarding<'_>) {
    let mut list = List::new(X_FORWARDED_FOR);
    if how.trusted {
        for told in fields.iter().filter(|field| field.known == Known::XForwardedFor && !field.value.is_empty()) {
            list.next(to).extend_from_slice(told.value);
        }
    }
    if let Some(peer) = how.peer {
        push_address(list.next(to), peer);
    }
    list.end(to);
}

/// One more `Forwarded` (RFC 7239); what a trusted client told stands before it.
fn forwarded(to: &mut impl Lines, head: &RequestHead, how: &Forwarding<'_>) {
    to.begin(FORWARDED);
    let value = to.value();
    value.extend_from_slice(b"for=");
    match how.peer.map(|peer| peer.to_canonical()) {
        None => value.extend_from_slice(b"unknown"),
        Some(peer @ IpAddr::V4(_)) => push_address(value, peer),
        Some(peer @ IpAddr::V6(_)) => {
            value.extend_from_slice(b"\"[");
            push_address(value, peer);
            value.extend_from_slice(b"]\"");
        }
    }
    for part in [";host=\"", own_host(head, how), "\";proto=", how.scheme.name()] {
        value.extend_from_slice(part.as_bytes());
    }
    to.end();
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

fn response_fields<L: Lines>(to: &mut L, head: &ResponseHead, edits: Edits<'_>) {
    let nominates = head.connection.nominates;
    let no_key = L::STREAMS && head.status == 101;
    to.copy(&head.fields, |field| {
        let stays_here = is_of_this_hop(field.known)
            || nominates && is_nominated(&head.fields, field)
            || no_key && field.name.eq_ignore_ascii_case(b"Sec-WebSocket-Accept");
        !stays_here && edits.spare(field.name)
    });
}

/// Whether the length of an empty body was told by the stream's end alone.
fn is_untold(head: &ResponseHead) -> bool {
    head.version == Version::Http2 && head.fields.find(Known::ContentLength).is_none()
}

fn via(version: Version) -> &'static str {
    match version {
        Version::Http10 => "1.0 evenkeel",
        Version::Http11 => "1.1 evenkeel",
        Version::Http2 => "2.0 evenkeel",
    }
}

/// What the configuration sets and adds.
fn brought(to: &mut impl Lines, edits: Edits<'_>) {
    for (name, value) in edits.brought() {
        to.field(name, value);
    }
}

/// Whether trailer fields may follow a body that is framed so.
fn announces<L: Lines>(framing: Framing) -> bool {
    framing == Framing::Chunked || L::STREAMS && framing != Framing::None
}

/// Announces the trailer fields that will be let through.
fn trailer_names(to: &mut impl Lines, fields: &Fields) {
    let mut list = List::new(TRAILER);
    let announced = fields.iter().filter(|field| field.known == Known::Trailer).flat_map(|field| members(field.value));
    for name in announced.filter(|name| is_token(name) && may_trail(Known::of(name), name)) {
        list.next(to).extend_from_slice(name);
    }
    list.end(to);
}

fn accepts_trailers(fields: &Fields) -> bool {
    let told = fields.iter().filter(|field| field.known == Known::Te);
    told.flat_map(|field| members(field.value)).any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}

/// A field with a list for its value, which is not written at all when nothing is in it.
struct List {
    name: Ours,
    empty: bool,
}

impl List {
    fn new(name: Ours) -> List {
        List { name, empty: true }
    }

    /// Writes what stands before the next member, and says where that goes.
    fn next<'a>(&mut self, to: &'a mut impl Lines) -> &'a mut Vec<u8> {
        if self.empty {
            to.begin(self.name);
            self.empty = false;
            return to.value();
        }
        let value = to.value();
        value.extend_from_slice(b", ");
        value
    }

    fn end(self, to: &mut impl Lines) {
        if !self.empty {
            to.end();
        }
    }
}
