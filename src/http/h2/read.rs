//! Heads from HTTP/2, by the rules for HTTP/1.1: sizes count as if the head had come as lines, values lose the white space
//! around them, and what is refused there is refused here. What only HTTP/1.1 can say is refused too.

use http::{HeaderMap, header, request, response};

use super::Body;
use crate::http::bytes::{NAME, UNDERSCORE, find_below_or_del, is_token, trim};
use crate::http::fields::may_trail;
use crate::http::framing::Notes;
use crate::http::grpc::is_grpc;
use crate::http::h1::parse::{HeadLimits, LONGEST_METHOD, UnderscoreNames};
use crate::http::head::{Fields, Known, Method, RequestHead, ResponseHead, Version};
use crate::http::refusal::Refusal;

/// Reads the head of a request. `protocol` is what an extended CONNECT asks for; one for `websocket` becomes the GET that asks
/// for it in HTTP/1.1, without a key. What `into` holds counts only where nothing is refused, its method also after a
/// refusal, GET where none could be read, and whether it is a call of gRPC.
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
    let content_type = parts.headers.get(header::CONTENT_TYPE);
    into.grpc = protocol.is_none() && content_type.is_some_and(|value| is_grpc(value.as_bytes()));
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
        if known == Known::Cookie && value.is_empty() {
            continue;
        }
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

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request, Response};

    use super::*;
    use crate::http::head::Framing;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn fill(map: &mut HeaderMap, fields: Pairs<'_>) {
        for (name, value) in fields {
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
    }

    fn parts(method: &str, uri: &str, fields: Pairs<'_>) -> request::Parts {
        let mut parts = Request::builder().method(method).uri(uri).body(()).unwrap().into_parts().0;
        fill(&mut parts.headers, fields);
        parts
    }

    fn read(parts: &request::Parts, protocol: Option<&str>, body: Body) -> Result<RequestHead, Refusal> {
        let mut head = RequestHead::default();
        read_request(parts, protocol, body, &HeadLimits::default(), &mut head).map(|()| head)
    }

    fn get(fields: Pairs<'_>) -> Result<RequestHead, Refusal> {
        read(&parts("GET", "https://a/", fields), None, Body::Ended)
    }

    fn post(fields: Pairs<'_>, body: Body) -> Result<RequestHead, Refusal> {
        read(&parts("POST", "https://a/", fields), None, body)
    }

    fn refused(fields: Pairs<'_>) -> Refusal {
        get(fields).expect_err("it breaks a rule")
    }

    fn answered(status: u16, fields: Pairs<'_>, to: Method, body: Body) -> Result<ResponseHead, Refusal> {
        let mut parts = Response::builder().status(status).body(()).unwrap().into_parts().0;
        fill(&mut parts.headers, fields);
        let mut head = ResponseHead::default();
        read_response(&parts, body, to, &HeadLimits::default(), &mut head).map(|()| head)
    }

    fn list(fields: &Fields) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        fields.iter().map(|field| (text(field.name), text(field.value))).collect()
    }

    #[test]
    fn a_usual_request_is_read_as_in_http11() {
        let fields = [
            ("user-agent", "x"),
            ("cookie", "a=b"),
            ("cookie", ""),
            ("cookie", "c=d"),
            ("x-a", " \tspaced "),
            ("te", "trailers"),
        ];
        let parts = parts("PUT", "https://Example.COM:8443/a/../b%2Ec?d", &fields);
        let head = read(&parts, None, Body::Follows).unwrap();
        assert_eq!((head.method, head.method_text(), head.version), (Method::Put, &b"PUT"[..], Version::Http2));
        assert_eq!((head.target.path_and_query(), head.target.authority()), ("/b.c?d", "example.com:8443"));
        assert_eq!((head.framing, head.keeps_alive()), (Framing::Chunked, true));
        let expected = [
            ("host", "Example.COM:8443"),
            ("user-agent", "x"),
            ("cookie", "a=b; c=d"),
            ("x-a", "spaced"),
            ("te", "trailers"),
        ];
        assert_eq!(list(&head.fields), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_head_is_read_anew_into_used_memory() {
        let mut head = post(&[("content-length", "5"), ("expect", "100-continue")], Body::Follows).unwrap();
        let parts = parts("GET", "http://b/c", &[]);
        read_request(&parts, None, Body::Ended, &HeadLimits::default(), &mut head).unwrap();
        assert_eq!((head.method, head.framing, head.expects_continue), (Method::Get, Framing::None, false));
        assert_eq!((head.target.path(), head.target.authority(), head.fields.len()), ("/c", "b", 1));
    }

    #[test]
    fn the_host_is_the_authority_or_the_field() {
        let named = |uri: &str, fields: Pairs<'_>| {
            read(&parts("GET", uri, fields), None, Body::Ended).map(|head| head.target.authority().to_owned())
        };
        assert_eq!(named("https://a/", &[]).as_deref(), Ok("a"));
        assert_eq!(named("/", &[("host", "B")]).as_deref(), Ok("b"));
        assert_eq!(named("https://a/", &[("host", "A.")]).as_deref(), Ok("a"));
        assert_eq!(named("/", &[]), Err(Refusal::HostMissing));
        assert_eq!(named("https://a/", &[("host", "b")]), Err(Refusal::HostDiffers));
        assert_eq!(named("https://a/", &[("host", "a"), ("host", "a")]), Err(Refusal::HostRepeated));
        assert_eq!(named("https://a/", &[("host", "\"")]), Err(Refusal::HostInvalid));
        assert_eq!(named("https://u@a/", &[]), Err(Refusal::HostInvalid));
        assert_eq!(named("ftp://a/", &[]), Err(Refusal::Scheme));
        let head = get(&[("host", "a")]).unwrap();
        assert_eq!(head.fields.values("host").count(), 1);
    }

    #[test]
    fn what_only_a_connection_of_http11_has_is_refused() {
        for field in [
            ("connection", "close"),
            ("keep-alive", "1"),
            ("proxy-connection", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("te", "gzip"),
            ("te", "trailers, gzip"),
        ] {
            assert_eq!(refused(&[field]), Refusal::ConnectionField, "{field:?}");
            assert_eq!(answered(200, &[field], Method::Get, Body::Follows).unwrap_err(), Refusal::ConnectionField);
        }
    }

    #[test]
    fn methods_and_targets_are_those_of_http11() {
        let line = |method: &str, uri: &str| read(&parts(method, uri, &[("host", "a")]), None, Body::Ended);
        assert_eq!(line("OPTIONS", "*").unwrap().target.path(), "*");
        assert_eq!(line("GET", "*").unwrap_err(), Refusal::Target);
        assert_eq!(line("CONNECT", "a:443").unwrap_err(), Refusal::MethodNotOffered);
        assert_eq!(line("TRACE", "/").unwrap_err(), Refusal::MethodNotOffered);
        assert_eq!(line(&"M".repeat(33), "/").unwrap_err(), Refusal::MethodTooLong);
        assert_eq!(line("M-SEARCH", "/").unwrap().method_text(), b"M-SEARCH");
        assert_eq!(line("GET", "/%00").unwrap_err(), Refusal::PercentEncoding);
        assert_eq!(line("GET", "/../a").unwrap_err(), Refusal::ClimbsAboveRoot);
        assert_eq!(line("GET", "/\u{e9}").unwrap_err(), Refusal::Target);
    }

    #[test]
    fn a_body_is_framed_by_its_length_or_by_its_stream() {
        let framed = |fields: Pairs<'_>, body| post(fields, body).map(|head| head.framing);
        assert_eq!(framed(&[], Body::Ended), Ok(Framing::None));
        assert_eq!(framed(&[], Body::Follows), Ok(Framing::Chunked));
        assert_eq!(framed(&[("content-length", "5")], Body::Follows), Ok(Framing::Length(5)));
        assert_eq!(framed(&[("content-length", "0")], Body::Ended), Ok(Framing::Length(0)));
        assert_eq!(framed(&[("content-length", "5")], Body::Ended), Err(Refusal::LengthWithoutBody));
        assert_eq!(framed(&[("content-length", "+5")], Body::Follows), Err(Refusal::LengthInvalid));
        let twice = [("content-length", "5"), ("content-length", "5")];
        assert_eq!(framed(&twice, Body::Follows), Err(Refusal::LengthRepeated));
    }

    #[test]
    fn a_continue_is_expected_only_where_a_body_follows() {
        let expects = [("expect", "100-continue")];
        assert!(post(&expects, Body::Follows).unwrap().expects_continue);
        assert!(!post(&expects, Body::Ended).unwrap().expects_continue);
        assert_eq!(refused(&[("expect", "more")]), Refusal::ExpectUnknown);
    }

    #[test]
    fn a_websocket_looks_as_in_http11() {
        let uri = "https://a/chat";
        let ask = |method: &str, protocol, fields: Pairs<'_>| {
            read(&parts(method, uri, fields), Some(protocol), Body::Follows)
        };
        let head = ask("CONNECT", "websocket", &[("sec-websocket-version", "13")]).unwrap();
        assert_eq!((head.method, head.method_text(), head.framing), (Method::Get, &b"GET"[..], Framing::None));
        assert!(head.connection.websocket);
        assert_eq!(head.target.path(), "/chat");
        assert_eq!(ask("CONNECT", "connect-udp", &[]).unwrap_err(), Refusal::ProtocolNotOffered);
        assert_eq!(Refusal::ProtocolNotOffered.status(), 501);
        assert_eq!(ask("GET", "websocket", &[]).unwrap_err(), Refusal::RequestLine);
        let with_body = ask("CONNECT", "websocket", &[("content-length", "5")]);
        assert_eq!(with_body.unwrap_err(), Refusal::LengthWithoutBody);
    }

    #[test]
    fn names_with_an_underscore_are_left_out_or_refused() {
        let fields = [("x_forwarded_for", "1.1.1.1"), ("content_length", "5"), ("x-a", "1")];
        assert_eq!(get(&fields).unwrap().fields.len(), 2);
        let strict = HeadLimits { underscore_names: UnderscoreNames::Reject, ..HeadLimits::default() };
        let parts = parts("GET", "https://a/", &fields);
        let got = read_request(&parts, None, Body::Ended, &strict, &mut RequestHead::default());
        assert_eq!(got, Err(Refusal::UnderscoreName));
        let mut trailers = HeaderMap::new();
        fill(&mut trailers, &fields);
        assert_eq!(read_trailers(&trailers, &strict).unwrap_err(), Refusal::UnderscoreName);
        assert_eq!(answered(200, &[("x_a", "1")], Method::Get, Body::Ended).unwrap().fields.len(), 1);
    }

    #[test]
    fn values_are_looked_at_again() {
        // the map takes neither, so they are asked for directly
        for bad in ["\0", "a\r\nb: c", "\x7f", "\x1f"] {
            assert_eq!(check(b"x-a", bad.as_bytes(), Underscores::Kept), Err(Refusal::FieldValue));
        }
        assert_eq!(check(b"x-a", b"\ta\xe9 ", Underscores::Kept), Ok(Some(Known::Other)));
        for bad in [&b""[..], b"a b", b"a:", b"\xe9"] {
            assert_eq!(check(bad, b"", Underscores::Kept), Err(Refusal::FieldName));
        }
    }

    #[test]
    fn sizes_count_as_in_http11() {
        let line = format!("GET /{} HTTP/1.1\r\nhost: a\r\nx-a: b\r\n\r\n", "p".repeat(20));
        let at = |limits: HeadLimits| {
            let parts = parts("GET", &format!("https://a/{}", "p".repeat(20)), &[("x-a", "b")]);
            read_request(&parts, None, Body::Ended, &limits, &mut RequestHead::default())
        };
        let usual = HeadLimits::default();
        assert_eq!(at(HeadLimits { head_bytes: line.len(), fields: 2, request_line: 34, ..usual }), Ok(()));
        assert_eq!(at(HeadLimits { head_bytes: line.len() - 1, ..usual }), Err(Refusal::HeadTooLarge));
        assert_eq!(at(HeadLimits { fields: 1, ..usual }), Err(Refusal::TooManyFields));
        assert_eq!(at(HeadLimits { request_line: 33, ..usual }), Err(Refusal::RequestLineTooLong));
        assert_eq!(refused(&[("cookie", "a"); 100]), Refusal::TooManyFields, "crumbs are fields");
        assert_eq!(get(&[("cookie", "a"); 99]).unwrap().fields.len(), 2);
    }

    #[test]
    fn a_response_is_framed_by_what_it_answers() {
        let framed = |status, fields: Pairs<'_>, to, body| {
            answered(status, fields, to, body).map(|head| (head.framing, head.told_length))
        };
        let length = [("content-length", "5")];
        assert_eq!(framed(200, &[], Method::Get, Body::Follows), Ok((Framing::Chunked, None)));
        assert_eq!(framed(200, &length, Method::Get, Body::Follows), Ok((Framing::Length(5), None)));
        assert_eq!(framed(200, &[], Method::Get, Body::Ended), Ok((Framing::Length(0), None)));
        assert_eq!(framed(200, &length, Method::Get, Body::Ended), Err(Refusal::LengthWithoutBody));
        assert_eq!(framed(200, &length, Method::Head, Body::Ended), Ok((Framing::None, Some(5))));
        assert_eq!(framed(304, &length, Method::Get, Body::Ended), Ok((Framing::None, Some(5))));
        assert_eq!(framed(204, &length, Method::Get, Body::Ended), Ok((Framing::None, None)));
        assert_eq!(framed(103, &[("link", "</a>")], Method::Get, Body::Follows), Ok((Framing::None, None)));
        assert!(answered(103, &[], Method::Get, Body::Follows).unwrap().is_interim());
        assert_eq!(framed(101, &[], Method::Get, Body::Follows), Err(Refusal::SwitchedInHttp2));
        assert_eq!(framed(600, &[], Method::Get, Body::Follows), Err(Refusal::StatusLine));
    }

    #[test]
    fn trailers_are_those_that_may_trail() {
        let mut map = HeaderMap::new();
        fill(
            &mut map,
            &[("grpc-status", "0"), ("content-type", "x"), ("host", "b"), ("x_a", "1"), ("checksum", " 1 ")],
        );
        let expected =
            [("grpc-status", "0"), ("checksum", "1")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(list(&read_trailers(&map, &HeadLimits::default()).unwrap()), expected);
        let few = HeadLimits { fields: 4, ..HeadLimits::default() };
        assert_eq!(read_trailers(&map, &few).unwrap_err(), Refusal::TooManyFields);
        let small = HeadLimits { head_bytes: 60, ..HeadLimits::default() };
        assert_eq!(read_trailers(&map, &small).unwrap_err(), Refusal::HeadTooLarge);
        fill(&mut map, &[("connection", "x")]);
        assert_eq!(read_trailers(&map, &HeadLimits::default()).unwrap_err(), Refusal::ConnectionField);
    }
}
