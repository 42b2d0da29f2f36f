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
