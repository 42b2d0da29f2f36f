//! Heads from HTTP/2, by the rules for HTTP/1.1: sizes count as if the head had come as lines, values lose the white space
//! around them, and what is refused there is refused here. What only HTTP/1.1 can say is refused too.

use http::{HeaderMap, request, response};

use super::Body;
use crate::http::bytes::{NAME, UNDERSCORE, find_below_or_del, is_token, trim};
use crate::http::fields::may_trail;
use crate::http::framing::Notes;
use crate::http::h1::parse::{HeadLimits, LONGEST_METHOD, UnderscoreNames};
use crate::http::head::{Fields, Known, Method, RequestHead, ResponseHead, Version};
use crate::http::refusal::Refusal;

/// Reads the head of a request. `protocol` is what an extended CONNECT asks for; one for `websocket` becomes the GET that asks
/// for it in HTTP/1.1, without a key. What `into` holds counts only where nothing is refused, its method also after a
/// refusal: GET where none could be read.
///
/// # Errors
/// A head that breaks a rule is refused.
pub fn read_request(
    parts: &request::Parts,
    protocol: Option<&str>,
    body: Body,
    limits: &HeadLimits,
    into: &mut RequestHead,
) -> Result<(), Refusal> {
    into.clear();
    into.version = Version::Http2;
    read_method(parts.method.as_str(), protocol, into)?;
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let line = into.method_text.len() + path.len() + " ".len() + " HTTP/1.1".len();
    if line > limits.request_line {
        return Err(Refusal::RequestLineTooLong);
    }
    let mut size = Size::begin(limits, line)?;
    let mut notes = Notes::default();
    read_target(parts, path, &mut size, into)?;
    let underscores = match limits.underscore_names {
        UnderscoreNames::Drop => Underscores::Dropped,
        UnderscoreNames::Reject => Underscores::Refused,
    };
    let has_authority = parts.uri.authority().is_some();
    read_fields(&parts.headers, &mut size, underscores, &mut into.fields, |known, value| {
        notes.take_request(known, value)?;
        Ok(known != Known::Host || !has_authority)
    })?;
    notes.settle_stream_request(body, into)
}

/// Reads the head of a response to a request of method `to`; `into` as in [`read_request`].
///
/// # Errors
/// A head that breaks a rule is refused.
pub fn read_response(
    parts: &response::Parts,
    body: Body,
    to: Method,
    limits: &HeadLimits,
    into: &mut ResponseHead,
) -> Result<(), Refusal> {
    into.clear();
    into.version = Version::Http2;
    into.status = parts.status.as_u16();
    match into.status {
        101 => return Err(Refusal::SwitchedInHttp2),
        100..600 => {}
        _ => return Err(Refusal::StatusLine),
    }
    let mut size = Size::begin(limits, "HTTP/1.1 200 ".len())?;
    let mut notes = Notes::default();
    read_fields(&parts.headers, &mut size, Underscores::Kept, &mut into.fields, |known, value| {
        notes.take(known, value)?;
        Ok(true)
    })?;
    notes.settle_stream_response(to, body, into)
}

/// Reads trailer fields: those that may be forwarded.
///
/// # Errors
/// Those that break a rule are refused, whether they would be forwarded or not.
pub fn read_trailers(trailers: &HeaderMap, limits: &HeadLimits) -> Result<Fields, Refusal> {
    let underscores = match limits.underscore_names {
        UnderscoreNames::Drop => Underscores::Dropped,
        UnderscoreNames::Reject => Underscores::Refused,
    };
    let mut fields = Fields::new();
    let mut size = Size { limits, bytes: 0, fields: 0 };
    for (name, value) in trailers {
        let (name, value) = (name.as_str().as_bytes(), trim(value.as_bytes()));
        size.add(name, value)?;
        let known = check(name, value, underscores)?;
        if known.is_some_and(|known| may_trail(known, name)) {
            fields.push(Known::Other, name, value);
        }
    }
    Ok(fields)
}

fn read_method(method: &str, protocol: Option<&str>, into: &mut RequestHead) -> Result<(), Refusal> {
    match (Method::of(method.as_bytes()), protocol) {
        (Method::Connect, Some("websocket")) => {
            into.method_text.extend_from_slice(b"GET");
            into.connection.websocket = true;
            return Ok(());
        }
        (Method::Connect, Some(_)) => return Err(Refusal::ProtocolNotOffered),
        // it belongs to CONNECT alone (RFC 8441 §4)
        (_, Some(_)) => return Err(Refusal::RequestLine),
        (method, None) => into.method = method,
    }
    if matches!(into.method, Method::Connect | Method::Trace) {
        return Err(Refusal::MethodNotOffered);
    }
    if method.len() > LONGEST_METHOD {
        return Err(Refusal::MethodTooLong);
    }
    if !is_token(method.as_bytes()) {
        return Err(Refusal::RequestLine);
    }
    into.method_text.extend_from_slice(method.as_bytes());
    Ok(())
}

/// Takes the target over; an authority becomes the `Host` that it would be in HTTP/1.1.
fn read_target(parts: &request::Parts, path: &str, size: &mut Size<'_>, into: &mut RequestHead) -> Result<(), Refusal> {
    // Where there is no authority the scheme was looked at by the crate, which can not hand it on alone.
    if !matches!(parts.uri.scheme_str(), None | Some("http" | "https")) {
        return Err(Refusal::Scheme);
    }
    match path {
        "*" if into.method == Method::Options => into.target.set_asterisk(),
        path => into.target.set_path_and_query(path.as_bytes())?,
    }
    if let Some(authority) = parts.uri.authority() {
        let authority = authority.as_str().as_bytes();
        size.add(b"host", authority)?;
        into.target.set_authority(authority)?;
        into.fields.push(Known::Host, b"host", authority);
    }
    Ok(())
}

/// How large a head is that has come so far, and may be.
struct Size<'a> {
    limits: &'a HeadLimits,
    bytes: usize,
    fields: usize,
}

impl Size<'_> {
    /// That of a head with a first line of so many bytes.
    fn begin(limits: &HeadLimits, line: usize) -> Result<Size<'_>, Refusal> {
        let bytes = line + "\r\n\r\n".len();
        if bytes > limits.head_bytes { Err(Refusal::HeadTooLarge) } else { Ok(Size { limits, bytes, fields: 0 }) }
    }

    fn add(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        self.fields += 1;
        self.bytes += name.len() + ": ".len() + value.len() + "\r\n".len();
        if self.fields > self.limits.fields {
            return Err(Refusal::TooManyFields);
        }
        if self.bytes > self.limits.head_bytes { Err(Refusal::HeadTooLarge) } else { Ok(()) }
    }
}

/// What becomes of fields whose names have an underscore.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Underscores {
    Kept,
    Dropped,
    Refused,
}

/// Copies fields in that `keep`, which sees each of the known ones, wants. Crumbs of a cookie become one field again.
fn read_fields<'a>(
    from: &'a HeaderMap,
    size: &mut Size<'_>,
    underscores: Underscores,
    into: &mut Fields,
    mut keep: impl FnMut(Known, &'a [u8]) -> Result<bool, Refusal>,
) -> Result<(), Refusal> {
    let mut previous = Known::Other;
    for (name, value) in from {
        let (name, value) = (name.as_str().as_bytes(), trim(value.as_bytes()));
        size.add(name, value)?;
        let Some(known) = check(name, value, underscores)? else { continue };
        // The map gives all values of a name one after the other.
        if known == Known::Cookie && previous == Known::Cookie {
            into.lengthen(b"; ", value);
            continue;
        }
        previous = known;
        if known == Known::Other || keep(known, value)? {
            into.push(known, name, value);
        }
    }
    Ok(())
}

/// Checks one field; `None` is one that is left out.
fn check(name: &[u8], value: &[u8], underscores: Underscores) -> Result<Option<Known>, Refusal> {
    let (mut lowest, mut classes) = (u8::MAX, 0);
    for &byte in name {
        lowest = lowest.min(NAME[byte as usize]);
        classes |= NAME[byte as usize];
    }
    if name.is_empty() || lowest == 0 {
        return Err(Refusal::FieldName);
    }
    if !is_text(value) {
        return Err(Refusal::FieldValue);
    }
    if classes & UNDERSCORE != 0 && underscores != Underscores::Kept {
        return if underscores == Underscores::Refused { Err(Refusal::UnderscoreName) } else { Ok(None) };
    }
    match Known::of(name) {
        Known::Connection | Known::KeepAlive | Known::ProxyConnection | Known::TransferEncoding | Known::Upgrade => {
            Err(Refusal::ConnectionField)
        }
        Known::Te if !value.eq_ignore_ascii_case(b"trailers") => Err(Refusal::ConnectionField),
        known => Ok(Some(known)),
    }
}

/// Whether a value has no control characters but tabs.
fn is_text(value: &[u8]) -> bool {
    let mut at = 0;
    while let Some(found) = find_below_or_del::<0x20>(value, at) {
        if value[found] != b'\t' {
            return false;
        }
        at = found + 1;
    }
    true
}
