//! What of gRPC over HTTP/2 is ours to read and to write: which requests are calls, how long they may take, how they ended,
//! and answers of our own (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>). Messages pass unread.

use std::fmt::Write as _;
use std::time::Duration;

use super::head::Fields;

/// The media type of our own answers to calls.
pub const CONTENT_TYPE: &str = "application/grpc";

/// The field that tells how a call ended.
pub const STATUS: &str = "grpc-status";

/// The field that says more about that.
pub const MESSAGE: &str = "grpc-message";

/// What is not known to be anything else.
pub const UNKNOWN: u32 = 2;
/// The time of a call was over.
pub const DEADLINE_EXCEEDED: u32 = 4;
/// There is too much of something.
pub const RESOURCE_EXHAUSTED: u32 = 8;
/// There is no such method.
pub const UNIMPLEMENTED: u32 = 12;
/// Something that must hold does not.
pub const INTERNAL: u32 = 13;
/// Nobody is there to be called now.
pub const UNAVAILABLE: u32 = 14;

/// The highest status there is.
const LAST: u32 = 16;

/// How much of a text becomes a message, in bytes.
const MOST_MESSAGE: usize = 1024;

/// Whether a message of this `Content-Type` belongs to a call. gRPC-Web is another protocol, which has its trailer fields in
/// the body.
#[must_use]
pub fn is_grpc(content_type: &[u8]) -> bool {
    let Some((name, rest)) = content_type.split_at_checked(CONTENT_TYPE.len()) else { return false };
    name.eq_ignore_ascii_case(CONTENT_TYPE.as_bytes()) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// Whether these are the fields of a head that belongs to a call.
#[must_use]
pub fn is_call(fields: &Fields) -> bool {
    fields.values("content-type").next().is_some_and(is_grpc)
}

/// How long a call may take, by what it says itself; `None` where it does not say so, or not as the protocol has it: up to
/// eight digits and a unit.
#[must_use]
pub fn timeout(fields: &Fields) -> Option<Duration> {
    let mut told = fields.values("grpc-timeout");
    let (first, another) = (told.next()?, told.next());
    if another.is_some() { None } else { read_timeout(first) }
}

fn read_timeout(told: &[u8]) -> Option<Duration> {
    let (unit, digits) = told.split_last()?;
    if digits.len() > 8 {
        return None;
    }
    let number = number(digits)?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The number of these few digits.
fn number(digits: &[u8]) -> Option<u64> {
    let all = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    all.then(|| digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// How a call ended by these fields; `None` where they do not say it. A status that does not exist reads as UNKNOWN, as every
/// client reads it.
#[must_use]
pub fn status(fields: &Fields) -> Option<u32> {
    let told = fields.values(STATUS).next()?;
    let known = |number: u64| u32::try_from(number).ok().filter(|code| *code <= LAST);
    Some(Some(told).filter(|told| told.len() <= 2).and_then(number).and_then(known).unwrap_or(UNKNOWN))
}

/// The status of our own answer to a call, where another request would have got this one of HTTP.
///
/// As clients themselves read HTTP answers that no gRPC server gave
/// (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>), and where that knows less than we do: our 504
/// and 408 tell of a time that was over while the call may have been carried out, so nobody is invited to repeat it at once;
/// 413, 414 and 431 tell of too much, 501 of what is not offered, and a 421 is served on another connection.
#[must_use]
pub fn of_http_status(status: u16) -> u32 {
    match status {
        400 | 500 => INTERNAL,
        401 => 16,
        403 => 7,
        404 | 501 => UNIMPLEMENTED,
        408 | 504 => DEADLINE_EXCEEDED,
        413 | 414 | 431 => RESOURCE_EXHAUSTED,
        421 | 429 | 502 | 503 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// A text as `grpc-message` has it: percent-encoded, what is beyond a bound left out.
#[must_use]
pub fn message(text: &str) -> String {
    let text = text.trim_end();
    let mut message = String::with_capacity(text.len().min(MOST_MESSAGE) + 8);
    for byte in text.bytes().take(MOST_MESSAGE) {
        match byte {
            b' '..=b'~' if byte != b'%' => message.push(char::from(byte)),
            byte => write!(message, "%{byte:02X}").expect("writing to a string does not fail"),
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::super::Known;
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::new();
        for (name, value) in pairs {
            fields.push(Known::Other, name.as_bytes(), value.as_bytes());
        }
        fields
    }

    #[test]
    fn a_call_is_told_by_its_content_type_and_grpc_web_is_none() {
        for yes in ["application/grpc", "application/grpc+proto", "Application/gRPC+json", "application/grpc; a=b"] {
            assert!(is_grpc(yes.as_bytes()), "{yes}");
        }
        for no in ["", "application/grp", "application/grpc-web", "application/grpc-web+proto", "application/grpcx"] {
            assert!(!is_grpc(no.as_bytes()), "{no}");
        }
        assert!(is_call(&fields(&[("content-type", "application/grpc")])) && !is_call(&fields(&[])));
    }

    #[test]
    fn a_timeout_is_digits_and_a_unit_and_nothing_else() {
        let read = |told: &str| timeout(&fields(&[("grpc-timeout", told)]));
        for (told, expected) in [
            ("2H", Duration::from_secs(7200)),
            ("3M", Duration::from_secs(180)),
            ("4S", Duration::from_secs(4)),
            ("150m", Duration::from_millis(150)),
            ("0n", Duration::ZERO),
            ("7u", Duration::from_micros(7)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(read(told), Some(expected), "{told}");
        }
        for wrong in ["", "S", "1", "1s", "+1S", "-1S", "1.5S", " 1S", "1 S", "1SS", "123456789S", "1h"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(timeout(&fields(&[("grpc-timeout", "1S"), ("grpc-timeout", "2S")])), None);
    }

    #[test]
    fn a_status_is_a_number_that_exists_and_anything_else_is_unknown() {
        let read = |told: &str| status(&fields(&[("grpc-status", told)]));
        for (told, code) in [("0", 0), ("14", 14), ("16", 16), ("05", 5)] {
            assert_eq!(read(told), Some(code));
        }
        for wrong in ["", "17", "99", "-1", "OK", "0x1", "000"] {
            assert_eq!(read(wrong), Some(UNKNOWN), "{wrong}");
        }
        assert_eq!(status(&fields(&[("grpc-message", "0")])), None);
    }

    #[test]
    fn our_answers_have_the_status_that_clients_would_read_from_them_or_a_better_one() {
        for (http, code) in [(400, 13), (401, 16), (403, 7), (404, 12), (429, 14), (502, 14), (503, 14), (418, 2)] {
            assert_eq!(of_http_status(http), code, "{http}");
        }
        for (http, code) in [(504, 4), (408, 4), (413, 8), (431, 8), (501, 12), (421, 14)] {
            assert_eq!(of_http_status(http), code, "{http}");
        }
    }

    #[test]
    fn a_message_has_only_what_a_field_can_carry() {
        assert_eq!(message("There is nothing here.\n"), "There is nothing here.");
        assert_eq!(message("100% ö\nb"), "100%25 %C3%B6%0Ab");
        assert!(message(&"x".repeat(100_000)).len() <= MOST_MESSAGE);
    }
}
