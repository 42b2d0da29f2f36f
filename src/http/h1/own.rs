//! Answers of our own: short, with the request's id, and never with a word about what stands behind us.

use crate::http::bytes::push_decimal;
use crate::http::forward::{self, OwnAnswer};

/// Appends an answer of our own, body included.
pub fn own_answer(out: &mut Vec<u8>, answer: &OwnAnswer<'_>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(out, answer.status.into());
    out.push(b' ');
    out.extend_from_slice(reason(answer.status).as_bytes());
    out.extend_from_slice(b"\r\n");
    forward::own_answer(out, answer);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(answer.sent_body());
}

/// The phrase that goes with a status of ours.
pub(super) fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        410 => "Gone",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        418 => "I'm a Teapot",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::forward::Connection;

    const ANSWER: OwnAnswer<'_> = OwnAnswer {
        status: 503,
        content_type: "text/plain; charset=utf-8",
        body: b"No backend.\n",
        request_id: "abc",
        connection: Connection::Close,
        extra: &[("Retry-After", "1")],
        edits: &[],
        head_request: false,
    };

    fn text(answer: &OwnAnswer<'_>) -> String {
        let mut out = Vec::new();
        own_answer(&mut out, answer);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_answer_of_our_own_is_complete() {
        let expected = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 12\r\n\
            X-Request-Id: abc\r\nRetry-After: 1\r\nConnection: close\r\n\r\nNo backend.\n";
        assert_eq!(text(&ANSWER), expected);
    }

    #[test]
    fn a_head_request_is_told_the_length_alone() {
        let answer = text(&OwnAnswer { head_request: true, ..ANSWER });
        assert!(answer.contains("Content-Length: 12\r\n") && answer.ends_with("\r\n\r\n"));
    }

    #[test]
    fn statuses_without_a_body_have_none() {
        for status in [204, 304] {
            let answer = text(&OwnAnswer { status, connection: Connection::KeepAlive, ..ANSWER });
            assert!(!answer.contains("Content-") && answer.ends_with("Connection: keep-alive\r\n\r\n"));
        }
        assert!(text(&OwnAnswer { status: 299, ..ANSWER }).starts_with("HTTP/1.1 299 \r\n"));
    }
}
