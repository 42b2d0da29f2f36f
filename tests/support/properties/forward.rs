//! Forwarding: whatever was read as one message is written as exactly one, the same for us and by the letter, and what is of
//! one connection stays there.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use evenkeel::http::fields::{Forwarding, HeaderEdits, Scheme};
use evenkeel::http::h1::parse::{self, HeadLimits, Parsed};
use evenkeel::http::h1::write::{self, Connection, Reply};
use evenkeel::http::{Framing, Method, RequestHead, ResponseHead, Version};

use super::body::{Received, receive, send};
use super::head::{by_letter, pairs};
use super::letter::{self, Asked, Rules, Stop};

/// Fields that are about one connection, or about how a body goes over it.
pub(super) const OF_ONE_HOP: [&str; 11] = [
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Fields of requests that we write, or that have rules of their own; looked at one by one.
pub(super) const OURS: [&str; 11] = [
    "expect",
    "forwarded",
    "host",
    "via",
    "x-debug",
    "x-edge",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-request-id",
];

static EDITS: LazyLock<[Arc<HeaderEdits>; 1]> = LazyLock::new(|| {
    let edge = ("X-Edge".to_owned(), "ours".to_owned());
    [Arc::new(HeaderEdits { set: vec![edge], add: Vec::new(), remove: vec!["X-Debug".to_owned()] })]
});

const FOUR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 10));
const SIX: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// A stranger, a trusted proxy of whom all is believed and told, and somebody behind a Unix socket whose fields are edited.
pub(super) fn ways() -> [Forwarding<'static>; 3] {
    let stranger = Forwarding {
        peer: Some(FOUR),
        trusted: false,
        scheme: Scheme::Https,
        port: Some(443),
        request_id: "ours",
        fallback_host: "fallback",
        websocket_key: None,
        client_cert: None,
        forwarded: false,
        via: false,
        edits: &[],
    };
    let trusted = Forwarding { peer: Some(SIX), trusted: true, forwarded: true, via: true, ..stranger };
    let edited = Forwarding { peer: None, port: None, edits: &*EDITS, ..stranger };
    [stranger, trusted, edited]
}

/// The input as a request, to a backend.
pub fn forward_request(input: &[u8]) -> bool {
    let mut head = RequestHead::default();
    let Ok(Parsed::Complete(length)) = parse::request(input, 0, &HeadLimits::default(), &mut head) else {
        return false;
    };
    let rest = &input[length..];
    let body = receive(head.framing, rest, &[rest.len()]);
    for how in ways() {
        let mut out = Vec::new();
        write::request(&mut out, &head, &how);
        one_request(&out, &head, &how);
        if let Ok(body) = &body {
            one_body(&out, head.framing, body, |text| letter::request_head(text, Rules::Clean));
        }
    }
    true
}

pub(super) fn one_request(out: &[u8], head: &RequestHead, how: &Forwarding<'_>) {
    let mut again = RequestHead::default();
    let limits = HeadLimits {
        head_bytes: usize::MAX / 2,
        fields: usize::MAX,
        request_line: usize::MAX / 2,
        ..HeadLimits::default()
    };
    assert_eq!(parse::request(out, 0, &limits, &mut again), Ok(Parsed::Complete(out.len())), "{}", out.escape_ascii());
    assert_eq!(essence(&again, ""), essence(head, how.fallback_host));
    assert!(!again.connection.nominates && !again.connection.close && again.version == Version::Http11);

    let read = letter::request_head(out, Rules::Clean);
    let (read, length) = read.expect("what is forwarded is a clean request");
    assert_eq!((length, read.framing), (out.len(), by_letter(head.framing)));
    assert!(read.is_canonical(out), "{}", out.escape_ascii());
    assert_eq!(
        read.start.as_bytes(),
        [head.method_text(), b" ", head.target.path_and_query().as_bytes(), b" HTTP/1.1"].concat()
    );
    assert_eq!(read.values("host"), [again.target.authority()]);
    let trailers = read.values("te");
    assert!(trailers.is_empty() || trailers == ["trailers"], "{trailers:?}");
    let options: &[&str] = match (head.connection.websocket, trailers.is_empty()) {
        (true, _) => &["Upgrade"],
        (false, false) => &["TE"],
        (false, true) => &[],
    };
    assert_eq!(read.values("connection"), options);
    let stay =
        ["http2-settings", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "x-debug"];
    let edited = !how.edits.is_empty();
    for name in stay.iter().take(if edited { stay.len() } else { stay.len() - 1 }) {
        assert!(read.values(name).is_empty(), "{name} is forwarded");
    }
    assert!(!edited || read.values("x-edge") == ["ours"]);
    let expects = read.values("expect");
    assert_eq!(expects.len(), usize::from(head.expects_continue));
    assert!(expects.iter().all(|value| value.eq_ignore_ascii_case("100-continue")));
    names_the_peer(&read.values("x-forwarded-for"), how);
    tells_the_way(&read, head, how);
    let ours = |name: &str| OF_ONE_HOP.iter().chain(&OURS).any(|ours| name.eq_ignore_ascii_case(ours));
    let kept = pairs(&head.fields).filter(|(name, _)| !ours(name) && is_passed_up(name, head, how.trusted));
    assert!(read.fields.iter().filter(|(name, _)| !ours(name)).cloned().eq(kept), "all others pass as they came");
}

/// What of a request must be the same for the next one who reads it.
pub(super) fn essence<'a>(head: &'a RequestHead, fallback_host: &'a str) -> impl PartialEq + std::fmt::Debug + 'a {
    let authority = if head.target.authority().is_empty() { fallback_host } else { head.target.authority() };
    let target = (head.target.path_and_query(), authority);
    (head.method_text(), target, head.framing, head.connection.websocket, head.expects_continue)
}

pub(super) fn is_passed_up(name: &str, head: &RequestHead, trusted: bool) -> bool {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    if is("x-real-ip") || name.to_ascii_lowercase().starts_with("x-forwarded-") {
        return trusted;
    }
    is("cookie") || is("authorization") || is("x-request-id") || !is_nominated(name, pairs(&head.fields))
}

/// Whether a `Connection` field names it.
fn is_nominated(name: &str, fields: impl Iterator<Item = (String, String)>) -> bool {
    let fields: Vec<_> = fields.collect();
    let options = letter::named(&fields, "connection");
    let mut options = options.iter().flat_map(|value| value.split(',')).map(|option| option.trim_matches([' ', '\t']));
    options.any(|option| option.eq_ignore_ascii_case(name))
}

/// The client's address is the last thing that is told of the way, and for a stranger the only one.
fn names_the_peer(told: &[&str], how: &Forwarding<'_>) {
    let peer = how.peer.map(|peer| peer.to_string());
    match (told, peer) {
        ([], None) => {}
        ([told], Some(peer)) if how.trusted => assert!(told.ends_with(&peer)),
        ([told], Some(peer)) => assert_eq!(*told, peer),
        (told, peer) => panic!("{peer:?} is told as {told:?}"),
    }
}

/// What says how a request came is ours, or a trusted client's where it says something.
fn tells_the_way(read: &letter::Message, head: &RequestHead, how: &Forwarding<'_>) {
    let port = how.port.map(|port| port.to_string());
    let host = if head.target.authority().is_empty() { how.fallback_host } else { head.target.authority() };
    let ours = [
        ("x-forwarded-host", Some(host)),
        ("x-forwarded-port", port.as_deref()),
        ("x-forwarded-proto", Some(how.scheme.name())),
    ];
    for (name, ours) in ours {
        let theirs: Vec<_> = head.fields.values(name).map(letter::text).collect();
        let expected: Vec<_> = ours.map(str::to_owned).into_iter().collect();
        assert_eq!(read.values(name), if how.trusted && !theirs.is_empty() { theirs } else { expected }, "{name}");
    }
    let ids = read.values("x-request-id");
    assert!(ids.len() == 1 && (how.trusted || ids == ["ours"]), "{ids:?}");
    let theirs = head.fields.values("forwarded").filter(|_| how.trusted).count();
    assert_eq!(read.values("forwarded").len(), theirs + usize::from(how.forwarded));
}

/// The input as a response, to clients of both versions that asked with GET and with HEAD.
pub fn forward_response(input: &[u8]) -> bool {
    let mut accepted = false;
    for to in [Method::Get, Method::Head] {
        let mut head = ResponseHead::default();
        let parsed = parse::response(input, 0, &HeadLimits::default(), to, &mut head);
        let Ok(Parsed::Complete(length)) = parsed else { continue };
        accepted = true;
        let body = receive(head.framing, &input[length..], &[input.len() - length]);
        for client in [Version::Http11, Version::Http10] {
            // neither means anything to an old client, which is never sent one
            if client == Version::Http11 || !head.is_interim() && head.status != 101 {
                answer(&head, to, client, body.as_ref().ok());
            }
        }
    }
    accepted
}

fn answer(head: &ResponseHead, to: Method, client: Version, body: Option<&Received>) {
    let framing = write::reply_framing(head, client);
    let connection = match (head.status, framing) {
        (101, _) => Connection::Upgrade,
        (_, Framing::ToClose) => Connection::Close,
        _ => Connection::KeepAlive,
    };
    for (edits, via) in [(&[][..], false), (&EDITS[..], true)] {
        let mut out = Vec::new();
        if head.is_interim() {
            write::interim(&mut out, head);
        } else {
            write::response(&mut out, head, &Reply { client, framing, connection, edits, via });
        }
        let asked = Asked { head: to == Method::Head, old: client == Version::Http10 };
        one_response(&out, head, to, framing, connection, asked);
        if let Some(body) = body {
            one_body(&out, framing, body, |text| letter::answer_head(text, asked, Rules::Clean));
        }
    }
}

fn one_response(out: &[u8], head: &ResponseHead, to: Method, framing: Framing, connection: Connection, asked: Asked) {
    let mut again = ResponseHead::default();
    let limits =
        HeadLimits { head_bytes: usize::MAX / 2, fields: usize::MAX, request_line: 0, ..HeadLimits::default() };
    let parsed = parse::response(out, 0, &limits, to, &mut again);
    assert_eq!(parsed, Ok(Parsed::Complete(out.len())), "{}", out.escape_ascii());
    assert_eq!((again.status, again.reason(), again.framing), (head.status, head.reason(), framing));
    assert_eq!(again.told_length, head.told_length);
    assert_eq!((again.connection.nominates, again.connection.close), (false, connection == Connection::Close));

    let (read, length) = letter::answer_head(out, asked, Rules::Clean).expect("what is answered is a clean response");
    assert_eq!((length, read.framing), (out.len(), by_letter(framing)));
    assert!(read.is_canonical(out), "{}", out.escape_ascii());
    assert_eq!((read.status(), read.reason()), (head.status, &*letter::text(head.reason())));
    for name in ["http2-settings", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te"]
    {
        assert!(read.values(name).is_empty(), "{name} is forwarded");
    }
    let ours = |name: &str| {
        let ours = OF_ONE_HOP.iter().chain(&["via", "x-edge", "x-debug"]);
        ours.into_iter().any(|ours| name.eq_ignore_ascii_case(ours))
    };
    let protected = |name: &str| {
        let name = name.to_ascii_lowercase();
        OURS.iter().chain(&["authorization", "cookie", "x-real-ip"]).any(|other| name == *other)
            || name.starts_with("x-forwarded-")
    };
    let kept = pairs(&head.fields)
        .filter(|(name, _)| !ours(name) && (protected(name) || !is_nominated(name, pairs(&head.fields))));
    assert!(read.fields.iter().filter(|(name, _)| !ours(name)).cloned().eq(kept), "all others pass as they came");
}

/// Head and body together are one message with nothing left over, or, where the body was cut, less than one.
fn one_body(
    head: &[u8],
    framing: Framing,
    body: &Received,
    read: impl Fn(&[u8]) -> Result<(letter::Message, usize), Stop>,
) {
    if framing == Framing::ToClose && !body.complete {
        return; // only a reset tells that one, which is none of this room's business
    }
    let message = [head, &send(framing, body)].concat();
    let (read_head, length) = read(&message).expect("the head is still one");
    assert_eq!((length, read_head.framing), (head.len(), by_letter(framing)), "a body does not change its head");
    match letter::body(&message[length..], read_head.framing, Rules::Clean) {
        Ok((read, body_length)) => {
            assert!(body.complete, "a cut body does not look whole");
            assert_eq!((length + body_length, &read.body), (message.len(), &body.data));
            let told = framing == Framing::Chunked;
            assert!(read.trailers.into_iter().eq(pairs(&body.trailers).filter(|_| told)));
        }
        Err(stop) => assert!(!body.complete && stop == Stop::More, "{stop:?}"),
    }
}
