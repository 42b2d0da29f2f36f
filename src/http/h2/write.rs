//! Heads to HTTP/2: lower-case names in a map, the host as `:authority`. Which fields are written is decided by [`forward`],
//! the same as for HTTP/1.1.

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header, uri};

use crate::http::fields::{Edits, Forwarding, Scheme};
use crate::http::forward::{self, Connection, Lines, Ours, OwnAnswer, Reply};
use crate::http::head::{Field, Fields, Framing, RequestHead, ResponseHead, Version};
use crate::http::refusal::Refusal;

/// How many fields of ours a message has room for from the start.
const OURS: usize = 12;

/// The head of a request for a backend that is reached by `scheme`. One for a WebSocket becomes an extended CONNECT
/// (RFC 8441 §4), to which the caller adds `:protocol` and behind which the stream stays open.
///
/// # Errors
/// [`Refusal::RequestLineTooLong`] for a target beyond 64 KiB, and [`Refusal::HostInvalid`] for a host that no URI can have.
pub fn write_request(head: &RequestHead, how: &Forwarding<'_>, scheme: Scheme) -> Result<Request<()>, Refusal> {
    let edits = Edits::new(how.edits);
    let mut table = Table::for_copy_of(&head.fields);
    forward::request(&mut table, head, how, edits);
    let mut request = Request::new(());
    *request.version_mut() = http::Version::HTTP_2;
    *request.method_mut() = method(head)?;
    *request.uri_mut() = uri(head, edits.host().unwrap_or_else(|| forward::own_host(head, how)), scheme)?;
    *request.headers_mut() = table.map;
    Ok(request)
}

/// The head of a response for a client; `how.connection` says nothing here. A switch to WebSocket becomes the 200 that agrees
/// to an extended CONNECT.
#[must_use]
pub fn write_response(head: &ResponseHead, how: &Reply<'_>) -> Response<()> {
    let mut table = Table::for_copy_of(&head.fields);
    forward::response(&mut table, head, how);
    table.response(if head.status == 101 { 200 } else { head.status })
}

/// The head of an interim response (1xx, 101 apart) as the backend sent it.
#[must_use]
pub fn write_interim(head: &ResponseHead) -> Response<()> {
    let mut table = Table::for_copy_of(&head.fields);
    forward::interim(&mut table, head);
    table.response(head.status)
}

/// The head of an answer of our own; [`OwnAnswer::sent_body`] follows.
#[must_use]
pub fn write_own_answer(answer: &OwnAnswer<'_>) -> Response<()> {
    let mut table = Table::with_capacity(OURS);
    forward::own_answer(&mut table, answer);
    table.response(answer.status)
}

/// Trailer fields, all of them: those that may not trail were left out when they were read.
#[must_use]
pub fn write_trailers(trailers: &Fields) -> HeaderMap {
    let mut table = Table::with_capacity(trailers.len());
    table.copy(trailers, |_| true);
    table.map
}

fn method(head: &RequestHead) -> Result<http::Method, Refusal> {
    if head.connection.websocket {
        return Ok(http::Method::CONNECT);
    }
    http::Method::from_bytes(head.method_text()).map_err(|_| Refusal::RequestLine)
}

fn uri(head: &RequestHead, host: &str, scheme: Scheme) -> Result<Uri, Refusal> {
    let mut parts = uri::Parts::default();
    parts.scheme = Some(match scheme {
        Scheme::Http => uri::Scheme::HTTP,
        Scheme::Https => uri::Scheme::HTTPS,
    });
    parts.authority = Some(Authority::try_from(host).map_err(|_| Refusal::HostInvalid)?);
    parts.path_and_query = Some(path_and_query(head.target.path_and_query())?);
    Uri::from_parts(parts).map_err(|_| Refusal::RequestLineTooLong)
}

/// The target as the crate takes it: a few characters that RFC 3986 has in no URI, and HTTP/1.1 clients send all the same, are
/// encoded for it. Those who decode read the same.
fn path_and_query(text: &str) -> Result<PathAndQuery, Refusal> {
    if let Ok(plain) = PathAndQuery::try_from(text) {
        return Ok(plain);
    }
    let mut encoded = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '"' => encoded.push_str("%22"),
            '<' => encoded.push_str("%3C"),
            '>' => encoded.push_str("%3E"),
            '`' => encoded.push_str("%60"),
            c => encoded.push(c),
        }
    }
    PathAndQuery::try_from(encoded).map_err(|_| Refusal::RequestLineTooLong)
}

/// Fields on their way into a map.
struct Table {
    map: HeaderMap,
    /// The field of ours that was begun, and what of its value is there.
    begun: Option<&'static HeaderName>,
    value: Vec<u8>,
}

impl Table {
    fn with_capacity(fields: usize) -> Table {
        Table { map: HeaderMap::with_capacity(fields), begun: None, value: Vec::new() }
    }

    fn for_copy_of(fields: &Fields) -> Table {
        Table::with_capacity(fields.len() + OURS)
    }

    /// A field with a name or value that the map does not take is left out. There is none: what comes in is checked more
    /// strictly, and heads have far fewer fields than a map may.
    fn append(&mut self, name: HeaderName, value: HeaderValue) {
        let taken = self.map.try_append(name, value);
        debug_assert!(taken.is_ok(), "a map takes 24,000 fields, and a head 1,000");
    }

    fn response(self, status: u16) -> Response<()> {
        let mut response = Response::new(());
        *response.version_mut() = http::Version::HTTP_2;
        // Every status that is read or configured has three digits.
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
        *response.headers_mut() = self.map;
        response
    }
}

impl Lines for Table {
    const STREAMS: bool = true;

    fn copy(&mut self, fields: &Fields, mut keep: impl FnMut(Field<'_>) -> bool) {
        // One piece of memory for all values.
        let text = Bytes::copy_from_slice(fields.text());
        for (field, place) in fields.places() {
            if !keep(field) {
                continue;
            }
            let name = HeaderName::from_bytes(field.name);
            let value = HeaderValue::from_maybe_shared(text.slice(place));
            if let (Ok(name), Ok(value)) = (name, value) {
                self.append(name, value);
            }
        }
    }

    fn begin(&mut self, name: &'static Ours) {
        self.begun = Some(&name.name);
        self.value.clear();
    }

    fn value(&mut self) -> &mut Vec<u8> {
        &mut self.value
    }

    fn end(&mut self) {
        let value = HeaderValue::from_bytes(&self.value);
        if let (Some(name), Ok(value)) = (self.begun.take(), value) {
            self.append(name.clone(), value);
        }
    }

    fn field(&mut self, name: &str, value: &str) {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
            self.append(name, value);
        }
    }

    fn frame(&mut self, framing: Framing) {
        if let Framing::Length(length) = framing {
            self.append(header::CONTENT_LENGTH, length.into());
        }
    }

    /// The method asks, and the status agrees.
    fn upgrade(&mut self) {}

    fn take_trailers(&mut self) {
        self.append(header::TE, HeaderValue::from_static("trailers"));
    }

    /// Connections end with GOAWAY.
    fn persist(&mut self, _: Connection, _: Version) {}
}
