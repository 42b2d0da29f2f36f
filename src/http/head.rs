//! Request and response heads: a table of fields over one buffer, reused from message to message.
//!
//! A head owns its bytes (they are copied in once, when it is complete), so the connection's buffer is free for the body
//! and a head can be written again for another attempt. Names keep the case and order they came in.

use super::target::Target;

/// The protocol version a message was sent with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    #[default]
    Http11,
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
        matches!(
            self,
            Method::Get | Method::Head | Method::Put | Method::Delete | Method::Options | Method::Trace
        )
    }
}

/// How long a message's body is, decided by RFC 9112 §6.3 before anything is read of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    #[default]
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks.
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
    XForwardedPort,
    XForwardedProto,
    XRealIp,
    XRequestId,
}

/// One field of a table: where its name and value lie.
#[derive(Clone, Copy, Debug)]
struct Entry {
    name: Span,
    value: Span,
    known: Known,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Span {
    start: u32,
    length: u32,
}

impl Span {
    fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..(self.start + self.length) as usize]
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
    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.table.clear();
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
        let name = self.keep(name);
        let value = self.keep(value);
        self.table.push(Entry { name, value, known });
    }

    #[expect(clippy::cast_possible_truncation, reason = "heads are bounded far below 4 GiB")]
    fn keep(&mut self, text: &[u8]) -> Span {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(text);
        Span { start, length: text.len() as u32 }
    }

    /// All of them, in the order they came.
    pub fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.table.iter().map(|entry| Field {
            known: entry.known,
            name: entry.name.of(&self.bytes),
            value: entry.value.of(&self.bytes),
        })
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
    /// (security.md checklist 5).
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
    /// `Expect: 100-continue` is there (and a body, and HTTP/1.1).
    pub expects_continue: bool,
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

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.method_text.clear();
        self.target.clear();
        self.fields.clear();
        self.framing = Framing::None;
        self.connection = ConnectionOptions::default();
        self.expects_continue = false;
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
        Version::Http11 => !connection.close,
        Version::Http10 => connection.keep_alive && !connection.close,
    }
}
