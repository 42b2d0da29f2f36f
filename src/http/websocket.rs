//! The opening of a WebSocket between HTTP/1.1, which switches a connection by key and accept value (RFC 6455 §4), and HTTP/2,
//! which has extended CONNECT (RFC 8441). In our heads it is the GET and the 101 of HTTP/1.1, whoever is behind them.

use aws_lc_rs::digest;

use super::bytes::trim;
use super::head::{Framing, RequestHead, ResponseHead, Version};

const KEY: &str = "Sec-WebSocket-Key";
const ACCEPT: &str = "Sec-WebSocket-Accept";
/// What is hashed behind a key (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The `Sec-WebSocket-Key` made of 16 random bytes.
#[must_use]
pub fn websocket_key(random: [u8; 16]) -> String {
    base64(&random)
}

/// The `Sec-WebSocket-Accept` that answers a key.
#[must_use]
pub fn websocket_accept(key: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(trim(key));
    context.update(GUID);
    base64(context.finish().as_ref())
}

/// Whether a response agrees to the switch that was asked for with this key: with one accept value, the right one.
#[must_use]
pub fn is_accepted(response: &ResponseHead, key: &[u8]) -> bool {
    let mut told = response.fields.values(ACCEPT);
    let right = told.next().is_some_and(|told| told == websocket_accept(key).as_bytes());
    right && told.next().is_none()
}

/// The key that a client sent with its request.
#[must_use]
pub fn given_key(request: &RequestHead) -> Option<&[u8]> {
    request.fields.values(KEY).next()
}

/// Turns the answer of a backend that speaks HTTP/2 to an extended CONNECT into the one that HTTP/1.1 would have given: a 2xx
/// becomes a 101, with the accept value that answers the client's key if it sent one. Others are no agreement and stay.
pub fn agree(response: &mut ResponseHead, request: &RequestHead) {
    if response.version != Version::Http2 || !(200..300).contains(&response.status) {
        return;
    }
    response.status = 101;
    response.framing = Framing::None;
    response.told_length = None;
    response.connection.websocket = true;
    response.fields.remove(ACCEPT);
    if let Some(key) = given_key(request) {
        let accept = websocket_accept(key);
        response.fields.push(super::Known::Other, ACCEPT.as_bytes(), accept.as_bytes());
    }
}

/// RFC 4648 §4, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let word = (0..3).fold(0u32, |word, at| word << 8 | u32::from(three.get(at).copied().unwrap_or(0)));
        for digit in 0..4 {
            let six = word >> (18 - 6 * digit) & 63;
            text.push(if digit <= three.len() { char::from(ALPHABET[six as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_as_base64() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(websocket_key(*b"the sample nonce"), "dGhlIHNhbXBsZSBub25jZQ==");
    }

    #[test]
    fn the_accept_value_is_that_of_the_rfc() {
        assert_eq!(websocket_accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    fn answer(fields: &[(&str, &str)]) -> ResponseHead {
        let mut head = ResponseHead { status: 101, ..ResponseHead::default() };
        for (name, value) in fields {
            head.fields.push(super::super::Known::Other, name.as_bytes(), value.as_bytes());
        }
        head
    }

    #[test]
    fn only_the_one_right_value_accepts() {
        let key = b"dGhlIHNhbXBsZSBub25jZQ==";
        let right = ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(is_accepted(&answer(&[right]), key));
        assert!(!is_accepted(&answer(&[]), key));
        assert!(!is_accepted(&answer(&[right, right]), key));
        assert!(!is_accepted(&answer(&[(right.0, "s3pPLMBiTxaQ9kYGzzhZRbK+xOO=")]), key));
        assert!(!is_accepted(&answer(&[right]), b"another"));
    }

    #[test]
    fn an_agreement_in_http2_becomes_a_switch() {
        let mut request = RequestHead::default();
        request.fields.push(super::super::Known::Other, KEY.as_bytes(), b"dGhlIHNhbXBsZSBub25jZQ==");
        let mut response = answer(&[("x-a", "1"), ("sec-websocket-accept", "theirs")]);
        (response.status, response.version, response.framing) = (200, Version::Http2, Framing::Chunked);
        agree(&mut response, &request);
        assert_eq!((response.status, response.framing), (101, Framing::None));
        assert!(response.connection.websocket && is_accepted(&response, b"dGhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!(response.fields.len(), 2);

        let mut refused = answer(&[]);
        (refused.status, refused.version) = (403, Version::Http2);
        agree(&mut refused, &request);
        assert_eq!((refused.status, refused.connection.websocket), (403, false));
    }
}
