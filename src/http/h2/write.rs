//! Heads to HTTP/2: lower-case names in a map, the host as `:authority`. Which fields are written is decided by [`forward`],
//! the same as for HTTP/1.1.

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header, uri};

use crate::http::fields::{Edits, Forwarding, Scheme};
use crate::http::forward::{self, Connection, Lines, Ours, OwnAnswer, Reply};
use crate::http::head::{Field, Fields, Framing, RequestHead, ResponseHead, Version};
use crate::http::refusal::Refusal;

/// How many fields of ours a request has room for from the start, and how many a response. Room is for half as many again at
/// the least, and beyond some nine it is no longer among the sizes that an allocator has at hand.
const OURS: usize = 12;
const OURS_IN_RESPONSES: usize = 1;

/// The head of a request for a backend that is reached by `scheme`. One for a WebSocket becomes an extended CONNECT
/// (RFC 8441 §4), to which the caller adds `:protocol` and behind which the stream stays open.
///
/// # Errors
/// [`Refusal::RequestLineTooLong`] for a target beyond 64 KiB, and [`Refusal::HostInvalid`] for a host that no URI can have.
pub fn write_request(head: &RequestHead, how: &Forwarding<'_>, scheme: Scheme) -> Result<Request<()>, Refusal> {
    let edits = Edits::new(how.edits);
    let mut table = Table::with_capacity(head.fields.len() + OURS);
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
    let mut table = Table::with_capacity(head.fields.len() + OURS_IN_RESPONSES);
    forward::response(&mut table, head, how);
    table.response(if head.status == 101 { 200 } else { head.status })
}

/// The head of an interim response (1xx, 101 apart) as the backend sent it.
#[must_use]
pub fn write_interim(head: &ResponseHead) -> Response<()> {
    let mut table = Table::with_capacity(head.fields.len());
    forward::interim(&mut table, head);
    table.response(head.status)
}

/// The head of an answer of our own; [`OwnAnswer::sent_body`] follows.
#[must_use]
pub fn write_own_answer(answer: &OwnAnswer<'_>) -> Response<()> {
    let mut table = Table::with_capacity(OURS_IN_RESPONSES + 4);
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

    fn begin(&mut self, name: Ours) {
        self.begun = Some(name.name);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::http::fields::{self, HeaderEdits};
    use crate::http::forward::reply_framing;
    use crate::http::h1::{parse, write};
    use crate::http::head::{Known, Method};
    use crate::http::websocket;

    const HOW: Forwarding<'_> = Forwarding { forwarded: true, via: true, ..fields::HOW };

    const REPLY: Reply<'_> = Reply {
        client: Version::Http2,
        framing: Framing::Length(5),
        connection: Connection::Close,
        edits: &[],
        via: true,
    };

    fn lines(map: &HeaderMap) -> Vec<String> {
        let line = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
        map.iter().map(line).collect()
    }

    fn read(input: &str) -> RequestHead {
        let mut head = RequestHead::default();
        parse::request(input.as_bytes(), 0, &parse::HeadLimits::default(), &mut head).unwrap();
        head
    }

    fn get(fields: &str) -> RequestHead {
        read(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
    }

    fn answer(input: &str, to: Method) -> ResponseHead {
        let mut head = ResponseHead::default();
        parse::response(input.as_bytes(), 0, &parse::HeadLimits::default(), to, &mut head).unwrap();
        head
    }

    fn edits(set: &[(&str, &str)], remove: &[&str]) -> [Arc<HeaderEdits>; 1] {
        let set = set.iter().map(|&(name, value)| (name.into(), value.into())).collect();
        [Arc::new(HeaderEdits { set, add: Vec::new(), remove: remove.iter().map(|&name| name.into()).collect() })]
    }

    #[test]
    fn a_request_has_the_fields_it_would_have_in_http11() {
        let head = read(
            "POST /a?b HTTP/1.1\r\nHost: A:80\r\nX-One: 1\r\nConnection: close, X-Gone\r\nX-Gone: 1\r\nX-ONE: 2\r\n\
             TE: trailers\r\nContent-Length: 3\r\nTrailer: Checksum\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
        );
        let out = write_request(&head, &HOW, Scheme::Http).unwrap();
        assert_eq!((out.method().as_str(), out.uri().to_string()), ("POST", "http://a:80/a?b".to_owned()));
        assert_eq!(out.version(), http::Version::HTTP_2);
        let expected = [
            "x-one: 1",
            "x-one: 2",
            "x-forwarded-for: 192.0.2.10",
            "x-forwarded-proto: https",
            "x-forwarded-host: a:80",
            "x-forwarded-port: 443",
            "x-request-id: ours",
            "forwarded: for=192.0.2.10;host=\"a:80\";proto=https",
            "via: 1.1 evenkeel",
            "trailer: Checksum",
            "content-length: 3",
            "te: trailers",
        ];
        assert_eq!(lines(out.headers()), expected);
    }

    #[test]
    fn edits_work_as_in_http11() {
        let rules = edits(&[("Host", "other:81"), ("X-Env", "live")], &["X-Debug", "X-Forwarded-For"]);
        let out =
            write_request(&get("X-Debug: 1\r\nx-env: 2\r\n"), &Forwarding { edits: &rules, ..HOW }, Scheme::Https);
        let out = out.unwrap();
        assert_eq!(out.uri(), "https://other:81/");
        assert_eq!(out.headers().get_all("x-env").iter().collect::<Vec<_>>(), ["live"]);
        assert!(!out.headers().contains_key("x-debug") && !out.headers().contains_key("x-forwarded-for"));
        let rules = edits(&[("Host", "a b")], &[]);
        let out = write_request(&get(""), &Forwarding { edits: &rules, ..HOW }, Scheme::Https);
        assert_eq!(out.unwrap_err(), Refusal::HostInvalid);
    }

    #[test]
    fn targets_that_no_uri_may_have_are_encoded() {
        let asked = |target: &str| {
            let head = read(&format!("OPTIONS {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
            write_request(&head, &HOW, Scheme::Http).map(|out| out.uri().path_and_query().unwrap().to_string())
        };
        assert_eq!(asked("*").as_deref(), Ok("*"));
        assert_eq!(asked("/<a>`\"{}|^?<b>\"`'").as_deref(), Ok("/%3Ca%3E%60%22{}|^?%3Cb%3E%22%60'"));
        for byte in 0x21..0x7fu8 {
            let byte = char::from(byte);
            if !"#\\%?./".contains(byte) {
                let target = format!("/{byte}?{byte}");
                assert!(asked(&target).is_ok(), "{target}");
            }
        }
        let mut head = read("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        head.target.set_path_and_query(format!("/{}", "a".repeat(70_000)).as_bytes()).unwrap();
        assert_eq!(write_request(&head, &HOW, Scheme::Http).unwrap_err(), Refusal::RequestLineTooLong);
    }

    #[test]
    fn a_websocket_of_http11_becomes_an_extended_connect() {
        let ask = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\nSec-WebSocket-Version: 13\r\n";
        let out = write_request(&get(ask), &HOW, Scheme::Https).unwrap();
        assert_eq!((out.method(), out.uri().to_string()), (&http::Method::CONNECT, "https://a/".to_owned()));
        assert_eq!(out.headers()["sec-websocket-version"], "13");
        for gone in ["sec-websocket-key", "upgrade", "connection", "te", "content-length"] {
            assert!(!out.headers().contains_key(gone), "{gone}");
        }
    }

    #[test]
    fn a_websocket_of_http2_becomes_one_of_http11_with_our_key() {
        let parts = Request::builder().method("CONNECT").uri("https://a/c").header("sec-websocket-key", "theirs");
        let parts = parts.header("sec-websocket-version", "13").body(()).unwrap().into_parts().0;
        let mut head = RequestHead::default();
        let limits = parse::HeadLimits::default();
        super::super::read_request(&parts, Some("websocket"), super::super::Body::Follows, &limits, &mut head).unwrap();
        let mut out = Vec::new();
        let key = websocket::websocket_key([7; 16]);
        write::request(&mut out, &head, &Forwarding { websocket_key: Some(&key), ..HOW });
        let out = String::from_utf8(out).unwrap();
        assert!(out.starts_with("GET /c HTTP/1.1\r\nHost: a\r\nsec-websocket-version: 13\r\n"), "{out}");
        let end = format!("Sec-WebSocket-Key: {key}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        assert!(out.ends_with(&end) && !out.contains("theirs"), "{out}");
        assert!(out.contains("Via: 2.0 evenkeel\r\n"));

        let accept = websocket::websocket_accept(key.as_bytes());
        let agreed = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\
             Sec-WebSocket-Protocol: chat\r\n\r\n"
        );
        let agreed = answer(&agreed, Method::Get);
        assert!(websocket::is_accepted(&agreed, key.as_bytes()));
        let reply = Reply { framing: Framing::None, connection: Connection::Upgrade, via: false, ..REPLY };
        let out = write_response(&agreed, &reply);
        assert_eq!(out.status(), 200);
        assert_eq!(lines(out.headers()), ["sec-websocket-protocol: chat"]);
    }

    #[test]
    fn an_agreement_of_http2_becomes_a_switch_of_http11() {
        let request =
            get("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n");
        let mut head = ResponseHead { status: 200, version: Version::Http2, ..ResponseHead::default() };
        websocket::agree(&mut head, &request);
        let mut out = Vec::new();
        let reply = Reply { client: Version::Http11, framing: Framing::None, connection: Connection::Upgrade, ..REPLY };
        write::response(&mut out, &head, &Reply { via: false, ..reply });
        let expected = "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
            Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_response_has_the_fields_it_would_have_in_http11() {
        let head = answer(
            "HTTP/1.1 201 Made\r\nConnection: close, X-Gone\r\nX-Gone: 1\r\nKeep-Alive: 5\r\nSet-Cookie: a\r\nset-cookie: b\r\n\
             Trailer: Checksum, Host\r\nTransfer-Encoding: chunked\r\n\r\n",
            Method::Get,
        );
        let rules = edits(&[("Server", "evenkeel")], &["X-Powered-By"]);
        let framing = reply_framing(&head, Version::Http2);
        let out = write_response(&head, &Reply { framing, edits: &rules, ..REPLY });
        assert_eq!(out.status(), 201);
        let expected = ["set-cookie: a", "set-cookie: b", "via: 1.1 evenkeel", "trailer: Checksum", "server: evenkeel"];
        assert_eq!(lines(out.headers()), expected);
    }

    #[test]
    fn lengths_are_told_where_they_were_told() {
        let told = |head: &ResponseHead| {
            let out =
                write_response(head, &Reply { framing: reply_framing(head, Version::Http2), via: false, ..REPLY });
            lines(out.headers()).join(" ")
        };
        let ok = "HTTP/1.1 200 OK\r\n";
        assert_eq!(told(&answer(&format!("{ok}Content-Length: 5\r\n\r\n"), Method::Get)), "content-length: 5");
        assert_eq!(told(&answer(&format!("{ok}Content-Length: 5\r\n\r\n"), Method::Head)), "content-length: 5");
        assert_eq!(told(&answer(&format!("{ok}Content-Length: 0\r\n\r\n"), Method::Get)), "content-length: 0");
        assert_eq!(told(&answer(&format!("{ok}\r\n"), Method::Get)), "");
        let mut grpc = ResponseHead { status: 200, version: Version::Http2, ..ResponseHead::default() };
        grpc.framing = Framing::Length(0);
        assert_eq!(told(&grpc), "", "its stream ended with its head");
        grpc.fields.push(Known::ContentLength, b"content-length", b"0");
        assert_eq!(told(&grpc), "content-length: 0");
    }

    #[test]
    fn interim_heads_and_trailers_pass() {
        let head = answer("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 5\r\n\r\n", Method::Get);
        let out = write_interim(&head);
        assert_eq!((out.status().as_u16(), lines(out.headers())), (103, vec!["link: </a>".to_owned()]));
        let mut trailers = Fields::new();
        trailers.push(Known::Other, b"Grpc-Status", b"0");
        trailers.push(Known::Other, b"Checksum", b"a\xe9");
        let out = write_trailers(&trailers);
        assert_eq!((out.len(), &out["grpc-status"]), (2, &HeaderValue::from_static("0")));
        assert_eq!(out["checksum"].as_bytes(), b"a\xe9");
    }

    #[test]
    fn an_answer_of_our_own_is_the_same_but_for_its_connection() {
        let own = OwnAnswer {
            status: 503,
            content_type: "text/plain",
            body: b"No.\n",
            request_id: "abc",
            connection: Connection::Close,
            extra: &[("Retry-After", "1")],
            edits: &[],
            head_request: false,
        };
        let out = write_own_answer(&own);
        let expected = ["content-type: text/plain", "content-length: 4", "x-request-id: abc", "retry-after: 1"];
        assert_eq!((out.status().as_u16(), lines(out.headers())), (503, expected.map(str::to_owned).to_vec()));
        assert_eq!(own.sent_body(), b"No.\n");
        assert_eq!(OwnAnswer { head_request: true, ..own }.sent_body(), b"");
        let none = OwnAnswer { status: 204, ..own };
        assert_eq!((none.sent_body(), lines(write_own_answer(&none).headers()).len()), (&b""[..], 2));
    }

    #[test]
    fn whatever_target_is_let_in_can_be_sent() {
        for byte in 0..=255u8 {
            for host in ["a", "a_b", "~", "-", "[::1]:1", "1.2.3.4", "_", "a:0"] {
                for target in [&b"/x"[..], b"/?x", b"/a/x/b", b"//x", b"/%", b"/a?%x"] {
                    let mut target = target.to_vec();
                    target.push(byte);
                    let mut head = RequestHead::default();
                    if head.target.set_path_and_query(&target).is_err()
                        || head.target.set_authority(host.as_bytes()).is_err()
                    {
                        continue;
                    }
                    head.method_text.extend_from_slice(b"GET");
                    let written = write_request(&head, &HOW, Scheme::Http);
                    assert!(written.is_ok(), "{host} {}", target.escape_ascii());
                }
            }
        }
    }
}
