//! Answers of our own: short, with the request's id, and never with a word about what stands behind us.

use std::sync::Arc;

use super::write::{CLOSE, Connection, KEEP_ALIVE, UPGRADE, edited, field, framing};
use crate::http::bytes::push_decimal;
use crate::http::fields::{Edits, HeaderEdits};
use crate::http::head::Framing;

/// An answer of our own.
#[derive(Clone, Copy, Debug)]
pub struct OwnAnswer<'a> {
    /// 200–599.
    pub status: u16,
    /// The media type of the body.
    pub content_type: &'a str,
    /// The body.
    pub body: &'a [u8],
    /// The id of the request.
    pub request_id: &'a str,
    /// What becomes of the connection.
    pub connection: Connection,
    /// More fields.
    pub extra: &'a [(&'a str, &'a str)],
    /// Changes, applied one after the other.
    pub edits: &'a [Arc<HeaderEdits>],
    /// Whether it answers a HEAD request: the body is then only told of.
    pub head_request: bool,
}

/// Appends an answer of our own, body included.
pub fn own_answer(out: &mut Vec<u8>, answer: &OwnAnswer<'_>) {
    let bodiless = matches!(answer.status, 204 | 304);
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(out, answer.status.into());
    out.push(b' ');
    out.extend_from_slice(reason(answer.status).as_bytes());
    out.extend_from_slice(b"\r\n");
    if !bodiless {
        field(out, "Content-Type", answer.content_type);
        framing(out, Framing::Length(answer.body.len() as u64));
    }
    field(out, "X-Request-Id", answer.request_id);
    for (name, value) in answer.extra {
        field(out, name, value);
    }
    edited(out, Edits::new(answer.edits));
    // said always: what the client asked for, and with which version, may be what could not be read
    out.extend_from_slice(match answer.connection {
        Connection::KeepAlive => KEEP_ALIVE,
        Connection::Close => CLOSE,
        Connection::Upgrade => UPGRADE,
    });
    out.extend_from_slice(b"\r\n");
    if !bodiless && !answer.head_request {
        out.extend_from_slice(answer.body);
    }
}

/// The phrase that goes with a status of ours.
fn reason(status: u16) -> &'static str {
    match status {
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
