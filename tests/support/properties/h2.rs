//! Heads in HTTP/2: what is read of one means the same as in HTTP/1.1, and again when it is written in either protocol.

use evenkeel::http::fields::{Forwarding, Scheme};
use evenkeel::http::h1::parse::{self, HeadLimits, Parsed};
use evenkeel::http::h1::write::{self, Connection, Reply};
use evenkeel::http::h2::{self, Body};
use evenkeel::http::{Fields, Framing, Method, RequestHead, ResponseHead, Version, websocket};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, request, response};

use super::forward::{OF_ONE_HOP, OURS, essence, is_passed_up, one_request, ways};
use super::head::pairs;
use super::letter::{self, Rules};

/// No limits, for what we wrote ourselves.
const WIDE: HeadLimits = HeadLimits {
    head_bytes: usize::MAX / 2,
    fields: usize::MAX,
    request_line: usize::MAX / 2,
    underscore_names: parse::UnderscoreNames::Reject,
};

/// The input as the head of a request, response or trailer in either protocol. In HTTP/2 its first line is
/// `METHOD URI [PROTOCOL]` or `STATUS`; what follows are its fields, one a line.
pub fn h2_head(input: &[u8]) -> bool {
    let accepted =
        [lines_as_request(input), lines_as_response(input), stream_as_request(input), stream_as_response(input)];
    if let Ok(trailers) = h2::read_trailers(&fields(input), &HeadLimits::default()) {
        let again = h2::read_trailers(&h2::write_trailers(&trailers), &WIDE).expect("what passed passes again");
        assert_eq!(sorted(&again, |_| true), sorted(&trailers, |_| true));
    }
    accepted.contains(&true)
}

fn lines_as_request(input: &[u8]) -> bool {
    let mut head = RequestHead::default();
    let parsed = parse::request(input, 0, &HeadLimits::default(), &mut head);
    if !matches!(parsed, Ok(Parsed::Complete(_))) {
        return false;
    }
    ways().iter().for_each(|how| request_as_stream(&head, how));
    true
}

fn lines_as_response(input: &[u8]) -> bool {
    let mut head = ResponseHead::default();
    let parsed = parse::response(input, 0, &HeadLimits::default(), Method::Get, &mut head);
    if !matches!(parsed, Ok(Parsed::Complete(_))) {
        return false;
    }
    response_as_stream(&head, Method::Get);
    true
}

fn stream_as_request(input: &[u8]) -> bool {
    let Some((parts, protocol)) = request_parts(input) else { return false };
    let (mut head, mut accepted) = (RequestHead::default(), false);
    for body in [Body::Ended, Body::Follows] {
        let verdict = h2::read_request(&parts, protocol.as_deref(), body, &HeadLimits::default(), &mut head);
        let mut fresh = RequestHead::default();
        let same = h2::read_request(&parts, protocol.as_deref(), body, &HeadLimits::default(), &mut fresh);
        assert_eq!(verdict, same);
        if verdict.is_err() {
            continue;
        }
        assert_eq!(format!("{head:?}"), format!("{fresh:?}"), "on new memory and on used");
        accepted = true;
        for how in ways() {
            request_as_lines(&head, &how);
            request_as_stream(&head, &how);
        }
    }
    accepted
}

fn request_as_lines(head: &RequestHead, how: &Forwarding<'_>) {
    let mut out = Vec::new();
    if !head.connection.websocket {
        write::request(&mut out, head, how);
        return one_request(&out, head, how);
    }
    let key = websocket::websocket_key([1; 16]);
    write::request(&mut out, head, &Forwarding { websocket_key: Some(&key), ..*how });
    let mut again = RequestHead::default();
    assert_eq!(parse::request(&out, 0, &WIDE, &mut again), Ok(Parsed::Complete(out.len())), "{}", out.escape_ascii());
    assert_eq!(essence(&again, ""), essence(head, how.fallback_host));
    assert!(again.fields.values("sec-websocket-key").eq([key.as_bytes()]));
    letter::request_head(&out, Rules::Clean).expect("what is forwarded is a clean request");
}

fn request_as_stream(head: &RequestHead, how: &Forwarding<'_>) {
    let out = h2::write_request(head, how, Scheme::Https).expect("every target and host can be written");
    nothing_of_a_connection(out.headers());
    let (parts, ()) = out.into_parts();
    let protocol = head.connection.websocket.then_some("websocket");
    assert_eq!(parts.method == http::Method::CONNECT, protocol.is_some());
    let ended = protocol.is_none() && matches!(head.framing, Framing::None | Framing::Length(0));
    let body = if ended { Body::Ended } else { Body::Follows };
    let mut again = RequestHead::default();
    h2::read_request(&parts, protocol, body, &WIDE, &mut again).expect("what is written can be read");
    assert_eq!((again.method_text(), again.framing), (head.method_text(), head.framing));
    assert_eq!(encoded(again.target.path_and_query()), encoded(head.target.path_and_query()));
    let authority = if head.target.authority().is_empty() { how.fallback_host } else { head.target.authority() };
    assert_eq!(again.target.authority(), authority);
    assert_eq!(again.expects_continue, head.expects_continue);
    assert_eq!(again.connection.websocket, head.connection.websocket);
    let ours = |name: &str| {
        OF_ONE_HOP.iter().chain(&OURS).any(|ours| name.eq_ignore_ascii_case(ours))
            || head.connection.websocket && name.eq_ignore_ascii_case("sec-websocket-key")
    };
    let kept = sorted(&head.fields, |name| !ours(name) && is_passed_up(name, head, how.trusted));
    assert_eq!(sorted(&again.fields, |name| !ours(name)), kept, "all others pass as they came");
}

fn stream_as_response(input: &[u8]) -> bool {
    let Some(parts) = response_parts(input) else { return false };
    let mut accepted = false;
    for (to, body) in [(Method::Get, Body::Ended), (Method::Get, Body::Follows), (Method::Head, Body::Ended)] {
        let mut head = ResponseHead::default();
        if h2::read_response(&parts, body, to, &HeadLimits::default(), &mut head).is_err() {
            continue;
        }
        accepted = true;
        response_as_lines(&head, to);
        response_as_stream(&head, to);
    }
    accepted
}

fn reply(head: &ResponseHead, client: Version) -> Reply<'static> {
    let framing = write::reply_framing(head, client);
    Reply { client, framing, connection: Connection::KeepAlive, edits: &[], via: false }
}

fn response_as_lines(head: &ResponseHead, to: Method) {
    let (mut out, mut again) = (Vec::new(), ResponseHead::default());
    if head.is_interim() {
        write::interim(&mut out, head);
    } else {
        write::response(&mut out, head, &reply(head, Version::Http11));
    }
    assert_eq!(
        parse::response(&out, 0, &WIDE, to, &mut again),
        Ok(Parsed::Complete(out.len())),
        "{}",
        out.escape_ascii()
    );
    assert_eq!((again.status, again.framing, again.told_length), (head.status, head.framing, head.told_length));
    assert!(!again.connection.nominates && !again.connection.close);
}

fn response_as_stream(head: &ResponseHead, to: Method) {
    let out = if head.is_interim() {
        h2::write_interim(head)
    } else {
        h2::write_response(head, &reply(head, Version::Http2))
    };
    nothing_of_a_connection(out.headers());
    let (parts, ()) = out.into_parts();
    if head.status == 101 {
        return assert_eq!(parts.status, 200, "a switch is an agreement here");
    }
    let ended = !head.is_interim() && matches!(head.framing, Framing::None | Framing::Length(0));
    let mut again = ResponseHead::default();
    let body = if ended { Body::Ended } else { Body::Follows };
    h2::read_response(&parts, body, to, &WIDE, &mut again).expect("what is written can be read");
    let framing = if head.framing == Framing::ToClose { Framing::Chunked } else { head.framing };
    assert_eq!((again.status, again.framing, again.told_length), (head.status, framing, head.told_length));
}

fn nothing_of_a_connection(fields: &HeaderMap) {
    for name in OF_ONE_HOP.iter().filter(|name| !["content-length", "te", "trailer"].contains(name)) {
        assert!(!fields.contains_key(*name), "{name} is forwarded");
    }
    assert!(fields.get_all("te").iter().all(|value| value == "trailers"));
}

/// Fields whose names `keep` wants, in no order; all that tells of cookies as one.
fn sorted(fields: &Fields, keep: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let (mut cookies, mut all) = (Vec::new(), Vec::new());
    for (name, value) in pairs(fields).filter(|(name, _)| keep(name)) {
        match name.to_ascii_lowercase() {
            name if name == "cookie" => cookies.push(value),
            name => all.push((name, value)),
        }
    }
    cookies.retain(|value| !value.is_empty());
    all.push(("cookie".to_owned(), cookies.join("; ")));
    all.sort();
    all
}

/// With the characters encoded that no URI may have, and HTTP/1.1 clients send.
fn encoded(target: &str) -> String {
    target.replace('"', "%22").replace('<', "%3C").replace('>', "%3E").replace('`', "%60")
}

fn lines(input: &[u8]) -> impl Iterator<Item = &[u8]> {
    input.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

fn request_parts(input: &[u8]) -> Option<(request::Parts, Option<String>)> {
    let line = std::str::from_utf8(lines(input).next()?).ok()?;
    let mut words = line.splitn(3, ' ');
    let request = Request::builder().method(words.next()?).uri(words.next()?).body(()).ok()?;
    let (mut parts, ()) = request.into_parts();
    parts.headers = fields(input);
    Some((parts, words.next().map(str::to_owned)))
}

fn response_parts(input: &[u8]) -> Option<response::Parts> {
    let (mut parts, ()) = Response::builder().status(lines(input).next()?).body(()).ok()?.into_parts();
    parts.headers = fields(input);
    Some(parts)
}

/// The fields below the first line that a map takes.
fn fields(input: &[u8]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for line in lines(input).skip(1) {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let (name, value) = (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(&line[colon + 1..]));
        if let (Ok(name), Ok(value)) = (name, value) {
            map.append(name, value);
        }
    }
    map
}
