//! Heads to bytes: always built anew, framing and connection always ours (security.md checklist 4).
//!
//! Fields keep their order and case. Which of them are written is decided by [`forward`], the same for HTTP/2.

use crate::http::bytes::{is_token, push_decimal};
use crate::http::fields::{Edits, Forwarding};
use crate::http::forward::{self, Lines, Ours};
use crate::http::head::{Field, Fields, Framing, RequestHead, ResponseHead, Version};

use super::own::reason;

pub use super::own::own_answer;
pub use crate::http::forward::{Connection, OwnAnswer, Reply, reply_framing};

/// Appends a request head for a backend.
pub fn request(out: &mut Vec<u8>, head: &RequestHead, how: &Forwarding<'_>) {
    let edits = Edits::new(how.edits);
    out.reserve(head.fields.written_length() + head.target.path_and_query().len() + 512);
    out.extend_from_slice(head.method_text());
    out.push(b' ');
    out.extend_from_slice(head.target.path_and_query().as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    out.field("Host", edits.host().unwrap_or_else(|| forward::own_host(head, how)));
    forward::request(out, head, how, edits);
    out.extend_from_slice(b"\r\n");
}

/// Appends a response head for a client.
pub fn response(out: &mut Vec<u8>, head: &ResponseHead, how: &Reply<'_>) {
    status_line(out, head);
    forward::response(out, head, how);
    out.extend_from_slice(b"\r\n");
}

/// Appends an interim response (1xx) as the backend sent it; only for clients that speak HTTP/1.1.
pub fn interim(out: &mut Vec<u8>, head: &ResponseHead) {
    status_line(out, head);
    forward::interim(out, head);
    out.extend_from_slice(b"\r\n");
}

const KEEP_ALIVE: &[u8] = b"Connection: keep-alive\r\n";
const CLOSE: &[u8] = b"Connection: close\r\n";
const UPGRADE: &[u8] = b"Connection: Upgrade\r\nUpgrade: websocket\r\n";
/// Said of our own hop (RFC 9110 §10.1.4). A tunnel has no trailers, so that there is one `Connection` at most.
const TRAILERS: &[u8] = b"Connection: TE\r\nTE: trailers\r\n";

fn status_line(out: &mut Vec<u8>, head: &ResponseHead) {
    out.reserve(head.fields.written_length() + head.reason().len() + 256);
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(out, head.status.into());
    out.push(b' ');
    out.extend_from_slice(match head.version {
        // it has no reason phrases, and some who read HTTP/1.1 show one to people
        Version::Http2 => reason(head.status).as_bytes(),
        Version::Http10 | Version::Http11 => head.reason(),
    });
    out.extend_from_slice(b"\r\n");
}

/// Lines of text, one field each.
impl Lines for Vec<u8> {
    const STREAMS: bool = false;

    #[inline]
    fn copy(&mut self, fields: &Fields, keep: impl FnMut(Field<'_>) -> bool) {
        fields.write(self, keep);
    }

    #[inline]
    fn begin(&mut self, name: Ours) {
        self.extend_from_slice(name.line.as_bytes());
    }

    #[inline]
    fn value(&mut self) -> &mut Vec<u8> {
        self
    }

    #[inline]
    fn end(&mut self) {
        self.extend_from_slice(b"\r\n");
    }

    #[inline]
    fn field(&mut self, name: &str, value: &str) {
        debug_assert!(is_token(name.as_bytes()), "a field name is a token: {name:?}");
        debug_assert!(
            !value.bytes().any(|byte| byte != b'\t' && byte.is_ascii_control()),
            "no control character: {value:?}"
        );
        for part in [name, ": ", value, "\r\n"] {
            self.extend_from_slice(part.as_bytes());
        }
    }

    #[inline]
    fn frame(&mut self, framing: Framing) {
        match framing {
            Framing::None | Framing::ToClose => {}
            Framing::Chunked => self.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            Framing::Length(length) => {
                self.extend_from_slice(b"Content-Length: ");
                push_decimal(self, length);
                self.extend_from_slice(b"\r\n");
            }
        }
    }

    #[inline]
    fn upgrade(&mut self) {
        self.extend_from_slice(UPGRADE);
    }

    #[inline]
    fn take_trailers(&mut self) {
        self.extend_from_slice(TRAILERS);
    }

    #[inline]
    fn persist(&mut self, connection: Connection, client: Version) {
        match (connection, client) {
            (Connection::KeepAlive, Version::Http11 | Version::Http2) => {}
            (Connection::KeepAlive, Version::Http10) => self.extend_from_slice(KEEP_ALIVE),
            (Connection::Close, _) => self.extend_from_slice(CLOSE),
            (Connection::Upgrade, _) => self.extend_from_slice(UPGRADE),
        }
    }
}

#[cfg(test)]
mod tests {

    use proptest::prelude::*;

    use super::super::parse::{self, HeadLimits, Parsed};
    use super::*;
    use crate::http::fields::{HOW, HeaderEdits, is_nominated};
    use crate::http::head::{Known, Method};

    const REPLY: Reply<'_> = Reply {
        client: Version::Http11,
        framing: Framing::Length(5),
        connection: Connection::KeepAlive,
        edits: &[],
        via: false,
    };

    /// What we add to every request that tells nothing itself.
    const ADDED: &str = "X-Forwarded-For: 192.0.2.10\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: a\r\n\
        X-Forwarded-Port: 443\r\nX-Request-Id: ours\r\n";

    fn read(input: &str) -> RequestHead {
        let mut head = RequestHead::default();
        parse::request(input.as_bytes(), 0, &HeadLimits::default(), &mut head).unwrap();
        head
    }

    fn forwarded_as(input: &str, how: &Forwarding<'_>) -> String {
        let mut out = Vec::new();
        request(&mut out, &read(input), how);
        String::from_utf8(out).unwrap()
    }

    /// A GET with these fields, forwarded.
    fn get(lines: &str, how: &Forwarding<'_>) -> String {
        forwarded_as(&format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"), how)
    }

    fn answered_as(input: &str, to: Method, how: &Reply<'_>) -> String {
        let mut head = ResponseHead::default();
        parse::response(input.as_bytes(), 0, &HeadLimits::default(), to, &mut head).unwrap();
        let mut out = Vec::new();
        response(&mut out, &head, &Reply { framing: reply_framing(&head, how.client), ..*how });
        String::from_utf8(out).unwrap()
    }

    fn edits(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> HeaderEdits {
        let pairs = |list: &[(&str, &str)]| list.iter().map(|&(name, value)| (name.into(), value.into())).collect();
        HeaderEdits { set: pairs(set), add: pairs(add), remove: remove.iter().map(|&name| name.into()).collect() }
    }

    #[test]
    fn a_usual_request_keeps_its_fields_in_order_and_case() {
        let input =
            "POST /a/../b?c HTTP/1.1\r\nhost: A:80\r\naCCept: */*\r\nX-B:1 \r\nContent-Length: 3\r\nx-a: 2\r\n\r\n";
        let expected = "POST /b?c HTTP/1.1\r\nHost: a:80\r\naCCept: */*\r\nX-B: 1\r\nx-a: 2\r\nX-Forwarded-For: 192.0.2.10\r\n\
            X-Forwarded-Proto: https\r\nX-Forwarded-Host: a:80\r\nX-Forwarded-Port: 443\r\nX-Request-Id: ours\r\n\
            Content-Length: 3\r\n\r\n";
        assert_eq!(forwarded_as(input, &HOW), expected);
    }

    #[test]
    fn framing_is_written_by_us() {
        assert_eq!(get("", &HOW), format!("GET / HTTP/1.1\r\nHost: a\r\n{ADDED}\r\n"));
        assert!(get("Content-Length: 0005\r\n", &HOW).ends_with("\r\nContent-Length: 5\r\n\r\n"));
        assert!(get("Content-Length: 0\r\n", &HOW).ends_with("\r\nContent-Length: 0\r\n\r\n"));
        assert!(get("transfer-encoding: CHUNKED\r\n", &HOW).ends_with("\r\nTransfer-Encoding: chunked\r\n\r\n"));
    }

    #[test]
    fn hop_by_hop_fields_stay_here() {
        let lines = "Connection: keep-alive, X-Mine\r\nKeep-Alive: 1\r\nProxy-Connection: x\r\nProxy-Authorization: x\r\nTE: gzip\r\n\
            Upgrade: h2c\r\nHTTP2-Settings: x\r\nTrailer: x\r\nx-mine: 1\r\nX-Other: 1\r\n";
        assert_eq!(get(lines, &HOW), format!("GET / HTTP/1.1\r\nHost: a\r\nX-Other: 1\r\n{ADDED}\r\n"));
    }

    #[test]
    fn a_client_can_not_nominate_away_what_others_rely_on() {
        let lines = "Connection: Host, Content-Length, Cookie, Authorization, X-Forwarded-For, X-Forwarded-Proto, X-Real-Ip, TE, \
            X-Forwarded-Prefix\r\nCookie: c\r\nAuthorization: d\r\nContent-Length: 3\r\nTE: gzip, Trailers\r\nX-Real-Ip: 1\r\n\
            X-Forwarded-Prefix: /p\r\nX-Forwarded-Proto: p\r\n";
        let out = get(lines, &Forwarding { trusted: true, ..HOW });
        for kept in [
            "Host: a\r\n",
            "Cookie: c\r\n",
            "Authorization: d\r\n",
            "Content-Length: 3\r\n",
            "TE: trailers\r\n",
            "X-Forwarded-For: 192.0.2.10\r\n",
            "X-Real-Ip: 1\r\n",
            "X-Forwarded-Prefix: /p\r\n",
            "X-Forwarded-Proto: p\r\n",
        ] {
            assert!(out.contains(kept), "{kept} in {out}");
        }
    }

    const STORY: &str = "X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2, 3.3.3.3\r\nX-Forwarded-Proto: http\r\n\
        X-Forwarded-Host: b\r\nX-Forwarded-Port: 80\r\nX-Forwarded-Prefix: /p\r\nX-Real-IP: 1.1.1.1\r\nForwarded: for=1.1.1.1\r\n\
        X-Request-Id: theirs\r\nVia: 1.1 them\r\n";

    #[test]
    fn what_an_untrusted_client_tells_of_its_way_is_replaced() {
        assert_eq!(get(STORY, &HOW), format!("GET / HTTP/1.1\r\nHost: a\r\nVia: 1.1 them\r\n{ADDED}\r\n"));
    }

    #[test]
    fn what_a_trusted_client_tells_of_its_way_is_kept_and_continued() {
        let out = get(STORY, &Forwarding { trusted: true, forwarded: true, via: true, ..HOW });
        let expected = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: b\r\nX-Forwarded-Port: 80\r\n\
            X-Forwarded-Prefix: /p\r\nX-Real-IP: 1.1.1.1\r\nForwarded: for=1.1.1.1\r\nVia: 1.1 them\r\n\
            X-Forwarded-For: 1.1.1.1, 2.2.2.2, 3.3.3.3, 192.0.2.10\r\nX-Request-Id: theirs\r\n\
            Forwarded: for=192.0.2.10;host=\"a\";proto=https\r\nVia: 1.1 evenkeel\r\n\r\n";
        assert_eq!(out, expected);
    }

    #[test]
    fn an_unfit_request_id_is_replaced_even_from_a_trusted_client() {
        let out = get("X-Request-Id: a b\r\n", &Forwarding { trusted: true, ..HOW });
        assert!(out.contains("X-Request-Id: ours\r\n") && !out.contains("a b"));
    }

    #[test]
    fn addresses_are_written_in_their_usual_form() {
        let six = Forwarding { peer: Some("2001:db8::1".parse().unwrap()), forwarded: true, ..HOW };
        let out = get("", &six);
        assert!(
            out.contains("X-Forwarded-For: 2001:db8::1\r\n") && out.contains("Forwarded: for=\"[2001:db8::1]\";host")
        );
        let mapped = Forwarding { peer: Some("::ffff:192.0.2.1".parse().unwrap()), forwarded: true, ..HOW };
        let out = get("", &mapped);
        assert!(out.contains("X-Forwarded-For: 192.0.2.1\r\n") && out.contains("Forwarded: for=192.0.2.1;host"));
        let unix = Forwarding { peer: None, forwarded: true, ..HOW };
        let out = get("X-Forwarded-For: 1.1.1.1\r\n", &unix);
        assert!(!out.contains("X-Forwarded-For") && out.contains("Forwarded: for=unknown;"));
    }

    #[test]
    fn a_request_without_a_host_gets_the_one_given() {
        let out = forwarded_as("GET / HTTP/1.0\r\n\r\n", &Forwarding { via: true, ..HOW });
        assert!(out.starts_with("GET / HTTP/1.1\r\nHost: fallback\r\n"));
        assert!(out.contains("X-Forwarded-Host: fallback\r\n") && out.contains("Via: 1.0 evenkeel\r\n"));
    }

    #[test]
    fn an_expectation_goes_on_only_where_it_counts() {
        assert!(get("Expect: 100-continue\r\nContent-Length: 5\r\n", &HOW).contains("\r\nExpect: 100-continue\r\n"));
        assert!(!get("Expect: 100-continue\r\n", &HOW).contains("Expect"));
        let twice = get("Expect: 100-continue\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n", &HOW);
        assert_eq!(twice.matches("Expect: ").count(), 1, "{twice}");
    }

    #[test]
    fn a_websocket_is_asked_for_anew() {
        let ask = "Connection: keep-alive, upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n";
        let out = get(ask, &HOW);
        assert!(out.contains("Sec-WebSocket-Version: 13\r\n"));
        assert!(out.ends_with("\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"));
        let out = get(&format!("{ask}Content-Length: 5\r\n"), &HOW);
        assert!(!out.contains("Upgrade") && !out.contains("upgrade"));
    }

    #[test]
    fn that_trailers_are_taken_is_said_of_our_own_hop() {
        let said = |lines: &str| {
            let out = get(lines, &HOW);
            let said = out.lines().filter(|line| line.starts_with("TE:") || line.starts_with("Connection:"));
            said.collect::<Vec<_>>().join(" | ")
        };
        for lines in ["TE: trailers\r\n", "Connection: TE\r\nTE: gzip;q=0.5, Trailers\r\n"] {
            assert_eq!(said(lines), "Connection: TE | TE: trailers");
        }
        assert_eq!(said("Connection: TE\r\nTE: gzip\r\n"), "");
        let upgrade = "Connection: Upgrade, TE\r\nUpgrade: websocket\r\nTE: trailers\r\n";
        assert_eq!(said(upgrade), "Connection: Upgrade", "one Connection, and no trailers in a tunnel");
    }

    #[test]
    fn trailers_are_announced_only_where_they_may_come() {
        let announced = "Trailer: Content-Length, Checksum,, a b\r\nTrailer: grpc-status\r\n";
        let out = get(&format!("{announced}Transfer-Encoding: chunked\r\n"), &HOW);
        assert!(out.contains("\r\nTrailer: Checksum, grpc-status\r\nTransfer-Encoding: chunked\r\n"), "{out}");
        assert!(!get(announced, &HOW).contains("Trailer"));
    }

    #[test]
    fn edits_remove_then_set_then_add() {
        let first = edits(
            &[("X-A", "set"), ("Host", "h"), ("X-Gone", "1"), ("Content-Length", "9")],
            &[("X-B", "added")],
            &["x-c", "X-Forwarded-For"],
        );
        let second = edits(&[], &[("Connection", "x"), ("X-D", "1")], &["X-Gone"]);
        let lines = "x-a: 1\r\nx-a: 2\r\nX-B: 1\r\nX-C: 1\r\n";
        let out = get(lines, &Forwarding { edits: &[first.into(), second.into()], ..HOW });
        let added = ADDED.strip_prefix("X-Forwarded-For: 192.0.2.10\r\n").unwrap();
        let expected =
            "GET / HTTP/1.1\r\nHost: h\r\nX-B: 1\r\n".to_owned() + added + "X-A: set\r\nX-B: added\r\nX-D: 1\r\n\r\n";
        assert_eq!(out, expected);
    }

    #[test]
    fn edits_can_not_take_the_host_away_or_double_it() {
        let all = edits(&[], &[("Host", "second")], &["Host"]);
        let out = get("", &Forwarding { edits: &[all.into()], ..HOW });
        assert!(out.starts_with("GET / HTTP/1.1\r\nHost: a\r\n") && !out.contains("second"));
    }

    #[test]
    fn responses_are_framed_for_the_client() {
        let ok = "HTTP/1.1 200 OK\r\nServer: x\r\n";
        let old = Reply { client: Version::Http10, ..REPLY };
        let sized = format!("{ok}Content-Length: 5\r\n\r\n");
        let chunked = format!("{ok}Transfer-Encoding: chunked\r\nTrailer: Checksum\r\n\r\n");
        let open = format!("{ok}\r\n");
        assert_eq!(answered_as(&sized, Method::Get, &REPLY), format!("{ok}Content-Length: 5\r\n\r\n"));
        let close = Reply { connection: Connection::Close, ..old };
        assert_eq!(answered_as(&chunked, Method::Get, &close), format!("{ok}Connection: close\r\n\r\n"));
        let expected = format!("{ok}Trailer: Checksum\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert_eq!(answered_as(&chunked, Method::Get, &REPLY), expected);
        assert_eq!(answered_as(&open, Method::Get, &REPLY), format!("{ok}Transfer-Encoding: chunked\r\n\r\n"));
        let kept = format!("{ok}Content-Length: 5\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(answered_as(&sized, Method::Get, &old), kept);
    }

    #[test]
    fn responses_without_a_body_say_what_they_were_told() {
        let length = "Content-Length: 5\r\n";
        let out = answered_as(&format!("HTTP/1.1 200 OK\r\n{length}\r\n"), Method::Head, &REPLY);
        assert_eq!(out, format!("HTTP/1.1 200 OK\r\n{length}\r\n"));
        let out = answered_as(&format!("HTTP/1.1 304 x\r\n{length}\r\n"), Method::Get, &REPLY);
        assert_eq!(out, format!("HTTP/1.1 304 x\r\n{length}\r\n"));
        let out = answered_as(&format!("HTTP/1.1 204 x\r\n{length}\r\n"), Method::Get, &REPLY);
        assert_eq!(out, "HTTP/1.1 204 x\r\n\r\n");
    }

    #[test]
    fn responses_lose_what_is_of_the_backends_hop() {
        let input = "HTTP/1.0 200 \r\nConnection: keep-alive, X-Mine\r\nKeep-Alive: 5\r\nX-Mine: 1\r\nProxy-Authenticate: x\r\n\
            Upgrade: h2\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 5\r\n\r\n";
        let via = Reply { via: true, ..REPLY };
        let expected =
            "HTTP/1.1 200 \r\nSet-Cookie: a\r\nSet-Cookie: b\r\nVia: 1.0 evenkeel\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(answered_as(input, Method::Get, &via), expected);
    }

    #[test]
    fn responses_are_edited() {
        let rules = edits(&[("Server", "evenkeel")], &[], &["X-Powered-By"]);
        let input = "HTTP/1.1 200 OK\r\nserver: y\r\nX-Powered-By: z\r\nContent-Length: 0\r\n\r\n";
        let out = answered_as(input, Method::Get, &Reply { edits: &[rules.into()], ..REPLY });
        assert_eq!(out, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nServer: evenkeel\r\n\r\n");
    }

    #[test]
    fn switching_and_interim_responses_have_no_framing() {
        let input = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n";
        let out = answered_as(input, Method::Get, &Reply { connection: Connection::Upgrade, ..REPLY });
        let expected = "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        assert_eq!(out, expected);
        let mut head = ResponseHead::default();
        let input = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\nContent-Length: 5\r\n\r\n";
        parse::response(input, 0, &HeadLimits::default(), Method::Get, &mut head).unwrap();
        let mut out = Vec::new();
        interim(&mut out, &head);
        assert_eq!(out, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    }

    fn line() -> impl Strategy<Value = String> {
        let known = [
            "Connection: close, x-a, te",
            "Connection: upgrade",
            "Upgrade: websocket",
            "Cookie: a=b",
            "TE: trailers",
            "Trailer: a",
            "X-Forwarded-For: 1.2.3.4",
            "X-Forwarded-Proto: http",
            "Expect: 100-continue",
            "Keep-Alive: x",
            "Via: 1.1 x",
        ];
        prop_oneof![
            2 => proptest::sample::select(known.to_vec()).prop_map(str::to_owned),
            3 => "[xX]-[a-e]{1,3}:[ \t]{0,2}[!-~\u{e9} \t]{0,12}",
        ]
    }

    /// What of a request must be the same for the next one who reads it.
    fn essence(head: &RequestHead) -> impl PartialEq + std::fmt::Debug {
        let target = (head.target.path_and_query().to_owned(), head.target.authority().to_owned());
        let upgrade = (head.connection.websocket, head.expects_continue);
        (head.method_text().to_vec(), target, head.framing, upgrade)
    }

    /// The client's own fields, those away that `Connection` names.
    fn own_fields(head: &RequestHead) -> Vec<(Vec<u8>, Vec<u8>)> {
        let own = head.fields.iter().filter(|field| matches!(field.known, Known::Other | Known::Cookie | Known::Via));
        let kept = own.filter(|field| !is_nominated(&head.fields, *field));
        kept.map(|field| (field.name.to_vec(), field.value.to_vec())).collect()
    }

    proptest! {
        #[test]
        fn what_is_forwarded_is_read_as_the_same_single_request(
            method in "[A-Z]{1,8}", path in "/([a-z/]|[a-z]\\.|%2e[a-z]|%2[fF]|%41|a/\\.\\./){0,8}(\\?[a-z=/%]{0,5})?",
            lines in proptest::collection::vec(line(), 0..8),
            body in proptest::sample::select(&["", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"][..]),
            trusted in any::<bool>(), more in any::<bool>(),
        ) {
            let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let input = format!("{method} {path} HTTP/1.1\r\nHost: A.b:81\r\n{lines}{body}\r\n");
            let mut head = RequestHead::default();
            let parsed = parse::request(input.as_bytes(), 0, &HeadLimits::default(), &mut head);
            prop_assume!(parsed.is_ok());
            let mut out = Vec::new();
            request(&mut out, &head, &Forwarding { trusted, forwarded: more, via: false, ..HOW });
            let mut again = RequestHead::default();
            let parsed = parse::request(&out, 0, &HeadLimits::default(), &mut again);
            prop_assert_eq!(parsed, Ok(Parsed::Complete(out.len())), "{}", String::from_utf8_lossy(&out));
            prop_assert_eq!(essence(&again), essence(&head));
            prop_assert_eq!(own_fields(&again), own_fields(&head));
            prop_assert!(!again.connection.nominates && !again.connection.close);
        }
    }
}
