//! Request and response heads: a table of fields over one buffer, reused from message to message.
//!
//! A head owns its bytes (they are copied in once, when it is complete), so the connection's buffer is free for the body
//! and a head can be written again for another attempt. Names keep the case and order they came in.

use std::ops::Range;

use super::target::Target;

/// The protocol version a message was sent with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    #[default]
    Http11,
    /// HTTP/2
    Http2,
}

/// A request method; [`RequestHead::method_text`] has the token as it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the methods of RFC 9110 §9.3 and RFC 5789, by name")]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Connect,
    Trace,
    /// Any other token.
    Other,
}

impl Method {
    /// The method of this token; methods are case-sensitive (RFC 9110 §9.1).
    #[must_use]
    pub fn of(token: &[u8]) -> Method {
        match token {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"OPTIONS" => Method::Options,
            b"PATCH" => Method::Patch,
            b"CONNECT" => Method::Connect,
            b"TRACE" => Method::Trace,
            _ => Method::Other,
        }
    }

    /// Whether a request with it may be repeated without asking (RFC 9110 §9.2.2).
    #[must_use]
    pub fn is_idempotent(self) -> bool {
        matches!(self, Method::Get | Method::Head | Method::Put | Method::Delete | Method::Options | Method::Trace)
    }
}

/// How long a message's body is, decided by RFC 9112 §6.3 before anything is read of it.
///
/// In HTTP/2 the stream tells where a body ends (RFC 9113 §8.1): [`Framing::Chunked`] then means that its length was not
/// told, [`Framing::Length`] that it was, and [`Framing::ToClose`] is never there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    #[default]
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks; in HTTP/2, data of untold length.
    Chunked,
    /// Until the sender closes (responses only).
    ToClose,
}

/// Field names that the engine itself looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "field names, by name")]
pub enum Known {
    Other,
    Authorization,
    /// `Client-Cert`, `X-Client-Cert`, and any name that goes on behind one of them with a `-`.
    ClientCert,
    Connection,
    ContentLength,
    Cookie,
    Date,
    Expect,
    Forwarded,
    Host,
    Http2Settings,
    KeepAlive,
    ProxyAuthenticate,
    ProxyAuthorization,
    ProxyConnection,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    Via,
    XForwardedFor,
    XForwardedHost,
    /// Any other name that begins with `X-Forwarded-`.
    XForwardedOther,
    XForwardedPort,
    XForwardedProto,
    XRealIp,
    XRequestId,
}

impl Known {
    /// Which one a name is, compared without case.
    #[must_use]
    pub fn of(name: &[u8]) -> Known {
        let Some(first) = name.first() else { return Known::Other };
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        match (name.len(), first | 0x20) {
            (2, b't') if is(b"te") => Known::Te,
            (3, b'v') if is(b"via") => Known::Via,
            (4, b'h') if is(b"host") => Known::Host,
            (4, b'd') if is(b"date") => Known::Date,
            (6, b'c') if is(b"cookie") => Known::Cookie,
            (6, b'e') if is(b"expect") => Known::Expect,
            (7, b't') if is(b"trailer") => Known::Trailer,
            (7, b'u') if is(b"upgrade") => Known::Upgrade,
            (9, b'f') if is(b"forwarded") => Known::Forwarded,
            (9, b'x') if is(b"x-real-ip") => Known::XRealIp,
            (10, b'c') if is(b"connection") => Known::Connection,
            (10, b'k') if is(b"keep-alive") => Known::KeepAlive,
            (12, b'x') if is(b"x-request-id") => Known::XRequestId,
            (13, b'a') if is(b"authorization") => Known::Authorization,
            (14, b'c') if is(b"content-length") => Known::ContentLength,
            (14, b'h') if is(b"http2-settings") => Known::Http2Settings,
            (16, b'p') if is(b"proxy-connection") => Known::ProxyConnection,
            (17, b't') if is(b"transfer-encoding") => Known::TransferEncoding,
            (18, b'p') if is(b"proxy-authenticate") => Known::ProxyAuthenticate,
            (19, b'p') if is(b"proxy-authorization") => Known::ProxyAuthorization,
            (11.., b'c') if is_client_cert(name) => Known::ClientCert,
            (13.., b'x') if name[1] == b'-' && is_client_cert(&name[2..]) => Known::ClientCert,
            (_, b'x') => Known::forwarded(name),
            _ => Known::Other,
        }
    }

    fn forwarded(name: &[u8]) -> Known {
        const PREFIX: &[u8] = b"x-forwarded-";
        let Some((prefix, rest)) = name.split_at_checked(PREFIX.len()) else { return Known::Other };
        if !prefix.eq_ignore_ascii_case(PREFIX) {
            return Known::Other;
        }
        let is = |known: &[u8]| rest.eq_ignore_ascii_case(known);
        match rest.len() {
            3 if is(b"for") => Known::XForwardedFor,
            4 if is(b"host") => Known::XForwardedHost,
            4 if is(b"port") => Known::XForwardedPort,
            5 if is(b"proto") => Known::XForwardedProto,
            _ => Known::XForwardedOther,
        }
    }
}

/// Whether a name is one of those that tell of a client's certificate (RFC 9440 and ours), an `X-` before it left away.
fn is_client_cert(name: &[u8]) -> bool {
    let (start, rest) = name.split_at(name.len().min(11));
    start.eq_ignore_ascii_case(b"client-cert") && matches!(rest.first(), None | Some(b'-'))
}

/// One field of a table: where its name and value lie.
#[derive(Clone, Copy, Debug)]
struct Entry {
    name: Span,
    value: Span,
    known: Known,
    /// The bytes from its name on are exactly `name: value` and CRLF: it can be copied as it lies.
    plain: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    fn new(range: Range<usize>) -> Span {
        Span { start: range.start as u32, end: range.end as u32 }
    }

    fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end as usize]
    }
}

/// One field as it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Which of the names the engine knows it is.
    pub known: Known,
    /// The name as it came.
    pub name: &'a [u8],
    /// The value without the white space around it.
    pub value: &'a [u8],
}

/// A table of fields over one buffer.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    bytes: Vec<u8>,
    table: Vec<Entry>,
}

impl Fields {
    /// None yet, and no memory.
    #[must_use]
    pub const fn new() -> Fields {
        Fields { bytes: Vec::new(), table: Vec::new() }
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.table.clear();
    }

    /// How many bytes of text fit without more memory.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Copies a field in.
    pub fn push(&mut self, known: Known, name: &[u8], value: &[u8]) {
        let start = self.bytes.len();
        for part in [name, b": ", value, b"\r\n"] {
            self.bytes.extend_from_slice(part);
        }
        let value_start = start + name.len() + 2;
        let name = Span::new(start..start + name.len());
        let value = Span::new(value_start..value_start + value.len());
        self.table.push(Entry { name, value, known, plain: true });
    }

    /// Makes the value of the field copied in last longer.
    pub(super) fn lengthen(&mut self, separator: &[u8], more: &[u8]) {
        let Some(entry) = self.table.last_mut() else { return };
        self.bytes.truncate(entry.value.end as usize);
        self.bytes.extend_from_slice(separator);
        self.bytes.extend_from_slice(more);
        entry.value.end = self.bytes.len() as u32;
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// Takes all fields of this name out.
    pub(super) fn remove(&mut self, name: &str) {
        let bytes = &self.bytes;
        self.table.retain(|entry| !entry.name.of(bytes).eq_ignore_ascii_case(name.as_bytes()));
    }

    /// The text that all of them lie in.
    pub(super) fn text(&self) -> &[u8] {
        &self.bytes
    }

    /// All of them, and where in the text their values lie.
    pub(super) fn places(&self) -> impl Iterator<Item = (Field<'_>, Range<usize>)> {
        self.table.iter().map(|entry| (self.field(entry), entry.value.start as usize..entry.value.end as usize))
    }

    /// Notes where a field lies in a text that [`Fields::adopt`] copies in afterwards, before anything else is copied.
    #[inline]
    pub(super) fn note(&mut self, known: Known, name: Range<usize>, value: Range<usize>, plain: bool) {
        self.table.push(Entry { name: Span::new(name), value: Span::new(value), known, plain });
    }

    /// Copies in the text of all noted fields at once.
    pub(super) fn adopt(&mut self, text: &[u8]) {
        self.bytes.extend_from_slice(text);
    }

    /// How many bytes they need at most when written.
    pub(super) fn written_length(&self) -> usize {
        self.bytes.len() + self.table.len() * 4
    }

    /// Writes those that `keep` wants, as `name: value` lines in their order. Neighbours that lie ready are copied in one go.
    pub(super) fn write(&self, out: &mut Vec<u8>, mut keep: impl FnMut(Field<'_>) -> bool) {
        let mut run = 0..0;
        for entry in &self.table {
            if !keep(self.field(entry)) {
                continue;
            }
            let line = entry.name.start as usize..entry.value.end as usize + 2;
            if entry.plain && run.end == line.start {
                run.end = line.end;
                continue;
            }
            out.extend_from_slice(&self.bytes[run]);
            run = line;
            if !entry.plain {
                for part in [entry.name.of(&self.bytes), b": ", entry.value.of(&self.bytes), b"\r\n"] {
                    out.extend_from_slice(part);
                }
                run = 0..0;
            }
        }
        out.extend_from_slice(&self.bytes[run]);
    }

    fn field(&self, entry: &Entry) -> Field<'_> {
        Field { known: entry.known, name: entry.name.of(&self.bytes), value: entry.value.of(&self.bytes) }
    }

    /// All of them, in the order they came.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Field<'_>> {
        self.table.iter().map(|entry| self.field(entry))
    }

    /// The value of the first field with this known name.
    #[must_use]
    pub fn find(&self, known: Known) -> Option<&[u8]> {
        self.table.iter().find(|entry| entry.known == known).map(|entry| entry.value.of(&self.bytes))
    }

    /// The values of all fields of this name, compared without case.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(|field| field.name.eq_ignore_ascii_case(name.as_bytes())).map(|field| field.value)
    }
}

/// What the `Connection` and `Upgrade` fields of a message ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// `close` is among the options.
    pub close: bool,
    /// `keep-alive` is among the options.
    pub keep_alive: bool,
    /// `upgrade` is among the options and `Upgrade` names exactly `websocket`: the one protocol switched to
    /// (security.md checklist 5). In HTTP/2, the request is an extended CONNECT for it (RFC 8441), and the answer takes it.
    pub websocket: bool,
    /// Options other than the three well-known ones are there: fields are nominated as hop-by-hop.
    pub nominates: bool,
}

/// The head of a request: complete, and not refused by any rule that depends on the head alone.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    pub(super) method_text: Vec<u8>,
    /// The version the client speaks.
    pub version: Version,
    /// The canonical target: what is routed by and what is forwarded.
    pub target: Target,
    /// How long the body is.
    pub framing: Framing,
    /// What `Connection` asks for.
    pub connection: ConnectionOptions,
    /// `Expect: 100-continue` is there (and a body, and not HTTP/1.0).
    pub expects_continue: bool,
    /// It is a call of gRPC, which there is over HTTP/2 alone.
    pub grpc: bool,
    /// Its fields.
    pub fields: Fields,
}

impl RequestHead {
    /// The method as it came.
    #[must_use]
    pub fn method_text(&self) -> &[u8] {
        &self.method_text
    }

    /// Whether the client lets the connection be used again (RFC 9112 §9.3).
    #[must_use]
    pub fn keeps_alive(&self) -> bool {
        keeps_alive(self.version, self.connection)
    }

    /// Empties it and keeps its memory: nothing of it shapes what is answered to the next one.
    pub fn clear(&mut self) {
        self.method = Method::default();
        self.version = Version::default();
        self.method_text.clear();
        self.target.clear();
        self.fields.clear();
        self.framing = Framing::None;
        self.connection = ConnectionOptions::default();
        self.expects_continue = false;
        self.grpc = false;
    }
}

/// The head of a response.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    /// 100–599.
    pub status: u16,
    pub(super) reason: Vec<u8>,
    /// The version the backend speaks.
    pub version: Version,
    /// How long the body is, the request's method considered.
    pub framing: Framing,
    /// The length that a response without a body tells of one (HEAD, 304), forwarded as it is.
    pub told_length: Option<u64>,
    /// What `Connection` asks for.
    pub connection: ConnectionOptions,
    /// Its fields.
    pub fields: Fields,
}

impl ResponseHead {
    /// The reason phrase as it came, may be empty.
    #[must_use]
    pub fn reason(&self) -> &[u8] {
        &self.reason
    }

    /// Whether it is interim (1xx, 101 apart): another head follows.
    #[must_use]
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// Whether the backend lets the connection be used again (RFC 9112 §9.3).
    #[must_use]
    pub fn keeps_alive(&self) -> bool {
        keeps_alive(self.version, self.connection)
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.status = 0;
        self.reason.clear();
        self.fields.clear();
        self.framing = Framing::None;
        self.told_length = None;
        self.connection = ConnectionOptions::default();
    }
}

fn keeps_alive(version: Version, connection: ConnectionOptions) -> bool {
    match version {
        Version::Http11 | Version::Http2 => !connection.close,
        Version::Http10 => connection.keep_alive && !connection.close,
    }
}
