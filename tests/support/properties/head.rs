//! Heads: however they come in and whatever follows them, the verdict is one, and what is accepted reads the same by the letter.

use std::fmt::Debug;

use evenkeel::http::h1::parse::{self, HeadLimits, Parsed, Refusal, UnderscoreNames};
use evenkeel::http::{Fields, Framing, Method, RequestHead, ResponseHead, Version};

use super::letter::{Asked, Rules};
use super::{cuts, letter};

/// Limits that even a small input reaches.
const TIGHT: HeadLimits =
    HeadLimits { head_bytes: 160, fields: 4, request_line: 48, underscore_names: UnderscoreNames::Reject };

/// Heads that say all there is to say: nothing of it may be left in one that is used again.
const TALKATIVE_REQUEST: &[u8] =
    b"POST /a?b HTTP/1.0\r\nHost: a:1\r\nContent-Length: 7\r\nConnection: keep-alive, close, x\r\n\r\n";
const TALKATIVE_RESPONSE: &[u8] = b"HTTP/1.0 304 Why\r\nContent-Length: 7\r\nConnection: keep-alive, close, x\r\n\r\n";

/// The head of a request.
pub fn request_head(input: &[u8]) -> bool {
    let mut accepted = false;
    for limits in [HeadLimits::default(), TIGHT] {
        let read = |input: &[u8], seen, head: &mut RequestHead| parse::request(input, seen, &limits, head);
        let Some((head, length)) = steady(input, TALKATIVE_REQUEST, read) else { continue };
        assert!(length <= limits.head_bytes + 4 && head.fields.len() <= limits.fields);
        reads_the_same_request(&input[..length], &head);
        accepted = true;
    }
    accepted
}

/// The head of a response.
pub fn response_head(input: &[u8]) -> bool {
    let mut accepted = false;
    for (limits, to) in
        [(HeadLimits::default(), Method::Get), (HeadLimits::default(), Method::Head), (TIGHT, Method::Get)]
    {
        let read = |input: &[u8], seen, head: &mut ResponseHead| parse::response(input, seen, &limits, to, head);
        let Some((head, length)) = steady(input, TALKATIVE_RESPONSE, read) else { continue };
        assert!(length <= limits.head_bytes && head.fields.len() <= limits.fields);
        reads_the_same_response(&input[..length], to, &head);
        accepted = true;
    }
    accepted
}

/// Reads a head in one piece and in many, followed by something and by nothing; returns it if it is complete, and its length.
fn steady<Head: Default + Debug>(
    input: &[u8],
    another: &[u8],
    read: impl Fn(&[u8], usize, &mut Head) -> Result<Parsed, Refusal>,
) -> Option<(Head, usize)> {
    let mut head = Head::default();
    let whole = read(input, 0, &mut head);
    let followed = [input, b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"].concat();
    // heads are used again, so one that has seen another message must do as well as a new one
    let mut used = Head::default();
    assert_eq!(read(another, 0, &mut used), Ok(Parsed::Complete(another.len())));
    let pieces = match whole {
        Ok(Parsed::Complete(length)) => &input[..length],
        _ => input,
    };
    let mut seen = 0;
    let mut dripped = Ok(Parsed::Partial);
    for cut in cuts(pieces) {
        assert_eq!(dripped, Ok(Parsed::Partial), "only the end decides");
        dripped = read(&pieces[..cut], seen, &mut used);
        seen = cut;
        if dripped.is_err() {
            break;
        }
    }
    match whole {
        Ok(Parsed::Complete(length)) => {
            assert_eq!(dripped, whole, "in pieces");
            assert_eq!(format!("{used:?}"), format!("{head:?}"), "in pieces");
            assert_eq!(read(&followed, 0, &mut used), whole, "with something behind it");
            assert_eq!(format!("{used:?}"), format!("{head:?}"), "with something behind it");
            Some((head, length))
        }
        Ok(Parsed::Partial) => {
            assert_eq!(dripped, whole, "in pieces");
            None
        }
        Err(_) => {
            // a head that drips in is read when its end is there, so the refusal may come later, but it comes
            assert!(!matches!(dripped, Ok(Parsed::Complete(_))), "accepted in pieces, refused as a whole: {whole:?}");
            assert!(read(&followed, 0, &mut used).is_err(), "a refusal is final");
            assert!(read(&followed, seen, &mut used).is_err(), "a refusal is final, in pieces too");
            None
        }
    }
}

fn reads_the_same_request(text: &[u8], head: &RequestHead) {
    let read = letter::request_head(text, Rules::Letter);
    let (read, length) = read.expect("what is accepted is a request by the letter");
    assert_eq!((length, read.method().as_bytes()), (text.len(), head.method_text()));
    assert!(read.start.ends_with(version(head.version)));
    assert_eq!(read.framing, by_letter(head.framing));
    let clear = read.fields.iter().filter(|(name, _)| !name.contains('_')).cloned();
    assert!(clear.eq(pairs(&head.fields)), "the fields are all there, those with underscores apart");
    if read.target().starts_with('/') {
        assert_eq!(head.target.query(), read.target().split_once('?').map(|(_, query)| query));
    }
}

fn reads_the_same_response(text: &[u8], to: Method, head: &ResponseHead) {
    let asked = Asked { head: to == Method::Head, old: false };
    let read = letter::answer_head(text, asked, Rules::Letter);
    let (read, length) = read.expect("what is accepted is a response by the letter");
    assert_eq!((length, read.status(), read.reason()), (text.len(), head.status, &*letter::text(head.reason())));
    assert!(read.start.starts_with(version(head.version)));
    assert_eq!(read.framing, by_letter(head.framing));
    assert!(read.fields.iter().cloned().eq(pairs(&head.fields)), "the fields are all there");
}

fn version(version: Version) -> &'static str {
    match version {
        Version::Http10 => "HTTP/1.0",
        Version::Http11 => "HTTP/1.1",
        Version::Http2 => unreachable!("it has no lines"),
    }
}

pub fn by_letter(framing: Framing) -> letter::Framing {
    match framing {
        Framing::None => letter::Framing::None,
        Framing::Length(length) => letter::Framing::Length(length),
        Framing::Chunked => letter::Framing::Chunked,
        Framing::ToClose => letter::Framing::ToClose,
    }
}

/// Names and values, as the letter has them.
pub fn pairs(fields: &Fields) -> impl Iterator<Item = (String, String)> {
    fields.iter().map(|field| (letter::text(field.name), letter::text(field.value)))
}
