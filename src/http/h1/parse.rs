//! Heads from bytes, strictly: what two programs could read differently is refused, never repaired (RFC 9112, security.md §1).
//!
//! One pass over the input finds line ends, names and values and checks them; nothing is copied before the head is
//! complete, and nothing is allocated once the head's buffers are warm. A head that drips in is not read again and
//! again: until its end is there only the new bytes are looked at.

use crate::http::bytes::{NAME, UNDERSCORE, find_below_or_del};
use crate::http::framing::{Authority, Notes};
use crate::http::head::{Fields, Known, Method, RequestHead, ResponseHead, Version};
use crate::http::target::Target;

pub use crate::http::refusal::Refusal;

/// How large a head may be, and what its names may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes in all.
    pub head_bytes: usize,
    /// Fields, those that are not forwarded included.
    pub fields: usize,
    /// Bytes of the request line.
    pub request_line: usize,
    /// What becomes of names with an underscore in requests.
    pub underscore_names: UnderscoreNames,
}

/// What becomes of a request's fields whose names have an underscore: programs behind us that turn `-` into `_`
/// (RFC 3875 §4.1.18) would take them for another field. Trailer fields with such names are never forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnderscoreNames {
    /// They are left out.
    #[default]
    Drop,
    /// The request is refused.
    Reject,
}

impl Default for HeadLimits {
    fn default() -> Self {
        HeadLimits {
            head_bytes: 32 * 1024,
            fields: 100,
            request_line: 8 * 1024,
            underscore_names: UnderscoreNames::Drop,
        }
    }
}

/// What came of an input that breaks no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A whole head that took so many bytes of the input.
    Complete(usize),
    /// The head goes on beyond the input.
    Partial,
}

/// No method that exists is longer; the longest registered one has 17 letters.
pub(in crate::http) const LONGEST_METHOD: usize = 32;
/// Empty lines passed over before a request line (RFC 9112 §2.2): some clients end a body with one too many.
const MOST_EMPTY_LINES: usize = 2;

/// Reads a request head from the beginning of `input`. `seen` is how much of it was there at the call before, 0 at the
/// first. What `into` holds counts only after [`Parsed::Complete`], its method also after a refusal: GET where none could be read.
///
/// # Errors
/// A head that breaks a rule is refused, as soon as that shows.
pub fn request(input: &[u8], seen: usize, limits: &HeadLimits, into: &mut RequestHead) -> Result<Parsed, Refusal> {
    if seen == 0 {
        into.clear();
    }
    let skipped = skip_empty_lines(input)?;
    let head = &input[skipped..];
    if seen > 0 && !has_end(head, seen.saturating_sub(skipped))? {
        return unfinished_request(head, limits);
    }
    into.clear();
    let window = &head[..head.len().min(limits.head_bytes)];
    match read_request(window, limits, into) {
        Ok(taken) => Ok(Parsed::Complete(skipped + taken)),
        Err(Stop::Partial) => unfinished_request(head, limits),
        Err(Stop::Refused(refusal)) => Err(refusal),
    }
}

/// Reads the head of a response to a request of method `to` from the beginning of `input`; `seen` and `into` as in [`request`].
///
/// # Errors
/// A head that breaks a rule is refused, as soon as that shows.
pub fn response(
    input: &[u8],
    seen: usize,
    limits: &HeadLimits,
    to: Method,
    into: &mut ResponseHead,
) -> Result<Parsed, Refusal> {
    if seen > 0 && !has_end(input, seen)? {
        return unfinished(input, limits);
    }
    into.clear();
    let window = &input[..input.len().min(limits.head_bytes)];
    match read_response(window, limits, to, into) {
        Ok(taken) => Ok(Parsed::Complete(taken)),
        Err(Stop::Partial) => unfinished(input, limits),
        Err(Stop::Refused(refusal)) => Err(refusal),
    }
}

/// Reads trailer fields: lines and the empty one that ends them, all there.
pub(super) fn trailers(input: &[u8], limits: &HeadLimits, into: &mut Fields) -> Result<(), Refusal> {
    into.clear();
    let underscores = match limits.underscore_names {
        // They are left out by who decides which fields may trail.
        UnderscoreNames::Drop => Underscores::Kept,
        UnderscoreNames::Reject => Underscores::Refused,
    };
    match read_fields(input, 0, limits, underscores, into, |_, _| Ok(())) {
        Ok(_) => Ok(()),
        Err(Stop::Partial) => Err(Refusal::FieldName),
        Err(Stop::Refused(refusal)) => Err(refusal),
    }
}

/// Why reading ends before the head does.
enum Stop {
    Partial,
    Refused(Refusal),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(refusal)
    }
}

fn skip_empty_lines(input: &[u8]) -> Result<usize, Refusal> {
    let mut at = 0;
    while input[at..].starts_with(b"\r\n") {
        at += 2;
        if at > MOST_EMPTY_LINES * 2 {
            return Err(Refusal::EmptyLines);
        }
    }
    Ok(at)
}

/// Whether the empty line that ends a head is there; looks only at what is new, and refuses lone line feeds at once.
fn has_end(head: &[u8], seen: usize) -> Result<bool, Refusal> {
    for offset in memchr::memchr_iter(b'\n', head.get(seen..).unwrap_or_default()) {
        let (line, _) = head.split_at(seen + offset);
        if !line.ends_with(b"\r") {
            return Err(Refusal::BareLineFeed);
        }
        if line.ends_with(b"\n\r") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A head without its end: partial, or already too large.
fn unfinished(head: &[u8], limits: &HeadLimits) -> Result<Parsed, Refusal> {
    if head.len() >= limits.head_bytes { Err(Refusal::HeadTooLarge) } else { Ok(Parsed::Partial) }
}

/// The same where the first line has a bound of its own.
fn unfinished_request(head: &[u8], limits: &HeadLimits) -> Result<Parsed, Refusal> {
    let line = head.get(..limits.request_line.saturating_add(2));
    if line.is_some_and(|line| memchr::memchr(b'\n', line).is_none()) {
        return Err(Refusal::RequestLineTooLong);
    }
    unfinished(head, limits)
}

fn read_request(input: &[u8], limits: &HeadLimits, into: &mut RequestHead) -> Result<usize, Stop> {
    let mut notes = Notes::default();
    let method_end = find_method_end(input)?;
    let method = &input[..method_end];
    into.method = Method::of(method);
    if matches!(into.method, Method::Connect | Method::Trace) {
        return Err(Refusal::MethodNotOffered.into());
    }
    let target_start = method_end + 1;
    let target_end = find_below_or_del::<0x21>(input, target_start).ok_or(Stop::Partial)?;
    let target = &input[target_start..target_end];
    let (version, line_end) = read_version(input, target_end)?;
    if line_end - 2 > limits.request_line {
        return Err(Refusal::RequestLineTooLong.into());
    }
    into.version = version;
    into.method_text.extend_from_slice(method);
    let authority = read_target(target, into.method, &mut into.target)?;
    let underscores = match limits.underscore_names {
        UnderscoreNames::Drop => Underscores::Dropped,
        UnderscoreNames::Reject => Underscores::Refused,
    };
    let end = read_fields(input, line_end, limits, underscores, &mut into.fields, |known, value| {
        notes.take_request(known, value)
    })?;
    notes.settle_request(authority, into)?;
    Ok(end)
}

fn find_method_end(input: &[u8]) -> Result<usize, Stop> {
    for (at, &byte) in input.iter().enumerate() {
        match byte {
            b' ' if at > 0 => return Ok(at),
            _ if NAME[byte as usize] == 0 => return Err(wrong_line(&input[at..], Refusal::RequestLine)),
            _ if at == LONGEST_METHOD => return Err(Refusal::MethodTooLong.into()),
            _ => {}
        }
    }
    Err(Stop::Partial)
}

/// Reads ` HTTP/1.x` and CRLF; returns the version and where the next line begins.
fn read_version(input: &[u8], at: usize) -> Result<(Version, usize), Stop> {
    const LENGTH: usize = b" HTTP/1.1\r\n".len();
    let rest = &input[at..];
    match rest.first_chunk::<LENGTH>() {
        Some(b" HTTP/1.1\r\n") => Ok((Version::Http11, at + LENGTH)),
        Some(b" HTTP/1.0\r\n") => Ok((Version::Http10, at + LENGTH)),
        _ => Err(wrong_version(rest)),
    }
}

/// What is wrong about a text that should begin with a version and a line end, or that it only is too short.
fn wrong_version(rest: &[u8]) -> Stop {
    const PATTERN: &[u8] = b" HTTP/d.d\r\n";
    for (at, &expected) in PATTERN.iter().enumerate() {
        match rest.get(at) {
            None => return Stop::Partial,
            Some(digit) if expected == b'd' && digit.is_ascii_digit() => {}
            Some(&byte) if byte == expected => {}
            Some(_) if expected == b'\n' => return Refusal::BareCarriageReturn.into(),
            Some(_) => return wrong_line(&rest[at..], Refusal::RequestLine),
        }
    }
    Refusal::Version.into()
}

/// The refusal for a byte that may not stand where it stands: one of its own for wrong line ends.
fn wrong_line(from: &[u8], otherwise: Refusal) -> Stop {
    match from {
        [b'\n', ..] => Refusal::BareLineFeed.into(),
        [b'\r'] => Stop::Partial,
        [b'\r', next, ..] if *next != b'\n' => Refusal::BareCarriageReturn.into(),
        _ => otherwise.into(),
    }
}

/// Takes the target over; returns whether it named an authority of its own (absolute-form, RFC 9112 §3.2.2).
fn read_target(raw: &[u8], method: Method, into: &mut Target) -> Result<Authority, Refusal> {
    if raw.first() == Some(&b'/') {
        into.set_path_and_query(raw)?;
        return Ok(Authority::FromHost);
    }
    if raw == b"*" && method == Method::Options {
        into.set_asterisk();
        return Ok(Authority::FromHost);
    }
    let rest = strip_scheme(raw).ok_or(Refusal::Target)?;
    let end = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    into.set_authority(authority)?;
    match path {
        [] if method == Method::Options => into.set_asterisk(),
        [b'/', ..] => into.set_path_and_query(path)?,
        _ => into.set_path_and_query(&[b"/", path].concat())?,
    }
    Ok(Authority::FromTarget)
}

fn strip_scheme(raw: &[u8]) -> Option<&[u8]> {
    [&b"http://"[..], b"https://"].into_iter().find_map(|scheme| {
        let (start, rest) = raw.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    })
}

fn read_response(input: &[u8], limits: &HeadLimits, to: Method, into: &mut ResponseHead) -> Result<usize, Stop> {
    let mut notes = Notes::default();
    let fields_start = read_status_line(input, into)?;
    let end = read_fields(input, fields_start, limits, Underscores::Kept, &mut into.fields, |known, value| {
        notes.take(known, value)
    })?;
    notes.settle_response(to, into)?;
    Ok(end)
}

fn read_status_line(input: &[u8], into: &mut ResponseHead) -> Result<usize, Stop> {
    const START: usize = b"HTTP/1.1 200".len();
    let end = end_of_text(input, 0, Refusal::StatusLine)?;
    let line = &input[..end];
    let (start, rest) = line.split_first_chunk::<START>().ok_or(Refusal::StatusLine)?;
    into.version = match &start[..9] {
        b"HTTP/1.1 " => Version::Http11,
        b"HTTP/1.0 " => Version::Http10,
        _ => return Err(Refusal::StatusLine.into()),
    };
    into.status = read_status(&start[9..]).ok_or(Refusal::StatusLine)?;
    match rest {
        [] => {}
        [b' ', reason @ ..] => into.reason.extend_from_slice(reason),
        _ => return Err(Refusal::StatusLine.into()),
    }
    Ok(end + 2)
}

fn read_status(digits: &[u8]) -> Option<u16> {
    let mut status = 0;
    for digit in digits {
        status = status * 10 + u16::from(digit.checked_sub(b'0').filter(|&digit| digit < 10)?);
    }
    (100..600).contains(&status).then_some(status)
}

/// Where the CRLF stands that ends a text of no control characters but tabs.
#[inline]
fn end_of_text(input: &[u8], from: usize, otherwise: Refusal) -> Result<usize, Stop> {
    let mut at = from;
    loop {
        at = find_below_or_del::<0x20>(input, at).ok_or(Stop::Partial)?;
        match &input[at..] {
            [b'\r', b'\n', ..] => return Ok(at),
            [b'\t', ..] => at += 1,
            rest => return Err(wrong_line(rest, otherwise)),
        }
    }
}

/// What becomes of fields whose names have an underscore.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Underscores {
    Kept,
    Dropped,
    Refused,
}

/// Reads field lines up to and with the empty one; returns where that ends. `note` sees each of the known ones.
#[inline]
fn read_fields<'a>(
    input: &'a [u8],
    start: usize,
    limits: &HeadLimits,
    underscores: Underscores,
    into: &mut Fields,
    mut note: impl FnMut(Known, &'a [u8]) -> Result<(), Refusal>,
) -> Result<usize, Stop> {
    let mut at = start;
    let mut count = 0;
    loop {
        let (name_end, classes) = find_name_end(input, at);
        if input.get(name_end) != Some(&b':') || name_end == at {
            check_end(input, at, name_end)?;
            break;
        }
        let value_start = skip_space(input, name_end + 1);
        let line_end = end_of_text(input, value_start, Refusal::FieldValue)?;
        let value_end = trim_end(input, value_start, line_end);
        count += 1;
        if count > limits.fields {
            return Err(Refusal::TooManyFields.into());
        }
        if underscores == Underscores::Kept || classes & UNDERSCORE == 0 {
            let known = Known::of(&input[at..name_end]);
            if known != Known::Other {
                note(known, &input[value_start..value_end])?;
            }
            let plain = value_start == name_end + 2 && input[name_end + 1] == b' ' && value_end == line_end;
            into.note(known, at - start..name_end - start, value_start - start..value_end - start, plain);
        } else if underscores == Underscores::Refused {
            return Err(Refusal::UnderscoreName.into());
        }
        at = line_end + 2;
    }
    into.adopt(&input[start..at]);
    Ok(at + 2)
}

/// Where the token that begins at `from` ends, and what kinds of bytes it has.
#[inline]
fn find_name_end(input: &[u8], from: usize) -> (usize, u8) {
    let mut classes = 0;
    let mut at = from;
    while let Some(&byte) = input.get(at) {
        let class = NAME[byte as usize];
        if class == 0 {
            break;
        }
        classes |= class;
        at += 1;
    }
    (at, classes)
}

/// Checks that a line that is no field is the empty one that ends them all.
#[cold]
fn check_end(input: &[u8], start: usize, name_end: usize) -> Result<(), Stop> {
    match &input[name_end..] {
        [] => Err(Stop::Partial),
        [b'\r', b'\n', ..] if name_end == start => Ok(()),
        [b' ' | b'\t', ..] if name_end == start => Err(Refusal::FoldedField.into()),
        [b' ' | b'\t', ..] => Err(Refusal::SpaceBeforeColon.into()),
        rest => Err(wrong_line(rest, Refusal::FieldName)),
    }
}

#[inline]
fn skip_space(input: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(b' ' | b'\t') = input.get(at) {
        at += 1;
    }
    at
}

#[inline]
fn trim_end(input: &[u8], start: usize, end: usize) -> usize {
    let mut at = end;
    while at > start && matches!(input[at - 1], b' ' | b'\t') {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::head::{Framing, Version};

    fn parse(input: &[u8]) -> Result<(Parsed, RequestHead), Refusal> {
        let mut head = RequestHead::default();
        request(input, 0, &HeadLimits::default(), &mut head).map(|parsed| (parsed, head))
    }

    /// The head of a request that must be fine and take all of the input.
    fn fine(input: &[u8]) -> RequestHead {
        match parse(input) {
            Ok((Parsed::Complete(taken), head)) if taken == input.len() => head,
            other => panic!("{:?} gave {other:?}", String::from_utf8_lossy(input)),
        }
    }

    fn refused(input: &[u8]) -> Refusal {
        match parse(input) {
            Err(refusal) => refusal,
            Ok((parsed, _)) => panic!("{:?} gave {parsed:?}", String::from_utf8_lossy(input)),
        }
    }

    fn answer_to(to: Method, input: &[u8]) -> Result<(Parsed, ResponseHead), Refusal> {
        let mut head = ResponseHead::default();
        response(input, 0, &HeadLimits::default(), to, &mut head).map(|parsed| (parsed, head))
    }

    fn fine_answer(to: Method, input: &[u8]) -> ResponseHead {
        match answer_to(to, input) {
            Ok((Parsed::Complete(taken), head)) if taken == input.len() => head,
            other => panic!("{:?} gave {other:?}", String::from_utf8_lossy(input)),
        }
    }

    fn refused_answer(input: &[u8]) -> Refusal {
        match answer_to(Method::Get, input) {
            Err(refusal) => refusal,
            Ok((parsed, _)) => panic!("{:?} gave {parsed:?}", String::from_utf8_lossy(input)),
        }
    }

    /// A GET with these lines between the request line and the end.
    fn get(lines: &str) -> Vec<u8> {
        format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n").into_bytes()
    }

    fn list(fields: &Fields) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        fields.iter().map(|field| (text(field.name), text(field.value))).collect()
    }

    #[test]
    fn a_usual_request_is_read_in_full() {
        let input =
            b"POST /a/b?c=d HTTP/1.1\r\nHost: Example.COM:8080\r\nX-One:1\r\nX-Two: \t two words \t\r\nX-Empty:\r\n\
            Content-Length: 5\r\nConnection: keep-alive\r\n\r\nhello";
        let (parsed, head) = parse(input).unwrap();
        assert_eq!(parsed, Parsed::Complete(input.len() - 5));
        assert_eq!((head.method, head.method_text(), head.version), (Method::Post, &b"POST"[..], Version::Http11));
        assert_eq!((head.target.path(), head.target.query()), ("/a/b", Some("c=d")));
        assert_eq!((head.target.host(), head.target.authority()), ("example.com", "example.com:8080"));
        assert_eq!(head.framing, Framing::Length(5));
        assert!(head.keeps_alive() && head.connection.keep_alive && !head.connection.nominates);
        let fields: Vec<_> = list(&head.fields);
        let expected = [
            ("Host", "Example.COM:8080"),
            ("X-One", "1"),
            ("X-Two", "two words"),
            ("X-Empty", ""),
            ("Content-Length", "5"),
            ("Connection", "keep-alive"),
        ];
        assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_head_is_read_anew_into_used_memory() {
        let mut head = fine(b"POST /x?y HTTP/1.0\r\nHost: a\r\nContent-Length: 1\r\nConnection: close, x\r\n\r\n");
        request(&get("X: y\r\n"), 0, &HeadLimits::default(), &mut head).unwrap();
        assert_eq!((head.method, head.method_text(), head.version), (Method::Get, &b"GET"[..], Version::Http11));
        assert_eq!((head.framing, head.target.path_and_query()), (Framing::None, "/"));
        assert_eq!(head.connection, crate::http::head::ConnectionOptions::default());
        assert_eq!(head.fields.len(), 2);
    }

    #[test]
    fn request_lines_have_one_form() {
        for good in ["GET / HTTP/1.1", "get / HTTP/1.1", "M-SEARCH / HTTP/1.1", "OPTIONS * HTTP/1.1", "GET / HTTP/1.0"]
        {
            fine(format!("{good}\r\nHost: a\r\n\r\n").as_bytes());
        }
        let cases = [
            ("GET  / HTTP/1.1", Refusal::RequestLine),
            ("GET  HTTP/1.1", Refusal::Target),
            ("GET /  HTTP/1.1", Refusal::RequestLine),
            (" GET / HTTP/1.1", Refusal::RequestLine),
            ("GET\t/ HTTP/1.1", Refusal::RequestLine),
            ("GET /\tHTTP/1.1", Refusal::RequestLine),
            ("GET / HTTP/1.1 ", Refusal::RequestLine),
            ("GET / http/1.1", Refusal::RequestLine),
            ("GET / HTTP/1.10", Refusal::RequestLine),
            ("GET /", Refusal::RequestLine),
            ("GET", Refusal::RequestLine),
            ("G@T / HTTP/1.1", Refusal::RequestLine),
            ("GET\0 / HTTP/1.1", Refusal::RequestLine),
            ("GET / HTTP/2.0", Refusal::Version),
            ("PRI * HTTP/2.0", Refusal::Version),
            ("GET / HTTP/1.2", Refusal::Version),
            ("GET / HTTP/0.9", Refusal::Version),
            ("GET * HTTP/1.1", Refusal::Target),
            ("GET a HTTP/1.1", Refusal::Target),
            ("GET /a\u{e9} HTTP/1.1", Refusal::Target),
            ("GET /a\\b HTTP/1.1", Refusal::Target),
            ("GET /a#b HTTP/1.1", Refusal::Target),
            ("GET /?a#b HTTP/1.1", Refusal::Target),
            ("GET /%zz HTTP/1.1", Refusal::PercentEncoding),
            ("GET /%00 HTTP/1.1", Refusal::PercentEncoding),
            ("GET /../a HTTP/1.1", Refusal::ClimbsAboveRoot),
            ("CONNECT a:443 HTTP/1.1", Refusal::MethodNotOffered),
            ("TRACE / HTTP/1.1", Refusal::MethodNotOffered),
        ];
        for (line, refusal) in cases {
            assert_eq!(refused(format!("{line}\r\nHost: a\r\n\r\n").as_bytes()), refusal, "{line}");
        }
    }

    #[test]
    fn statuses_tell_what_was_wrong() {
        let cases = [
            (Refusal::RequestLine, 400),
            (Refusal::LengthAndCoding, 400),
            (Refusal::RequestLineTooLong, 414),
            (Refusal::ExpectUnknown, 417),
            (Refusal::HeadTooLarge, 431),
            (Refusal::TooManyFields, 431),
            (Refusal::CodingUnknown, 501),
            (Refusal::MethodNotOffered, 501),
            (Refusal::Version, 505),
        ];
        for (refusal, status) in cases {
            assert_eq!(refusal.status(), status, "{refusal:?}");
            assert!(refusal.to_string().ends_with('.'));
        }
    }

    #[test]
    fn up_to_two_empty_lines_before_a_request_are_passed_over() {
        let request = get("");
        for count in 0..=2 {
            fine(&[b"\r\n".repeat(count), request.clone()].concat());
        }
        assert_eq!(refused(&[b"\r\n".repeat(3), request.clone()].concat()), Refusal::EmptyLines);
        assert_eq!(refused(&[&b"\n"[..], &request].concat()), Refusal::BareLineFeed);
        assert_eq!(refused(&[&b"\r"[..], &request].concat()), Refusal::BareCarriageReturn);
    }

    #[test]
    fn lines_end_with_crlf_and_nothing_else() {
        assert_eq!(refused(b"GET / HTTP/1.1\nHost: a\r\n\r\n"), Refusal::BareLineFeed);
        assert_eq!(refused(b"GET / HTTP/1.1\r\nHost: a\n\r\n"), Refusal::BareLineFeed);
        assert_eq!(refused(b"GET / HTTP/1.1\r\nHost: a\r\n\n"), Refusal::BareLineFeed);
        assert_eq!(refused(b"GET / HTTP/1.1\r\nHost: a\r\nX\n\r\n"), Refusal::BareLineFeed);
        assert_eq!(refused(b"GET / HTTP/1.1\r\nHost: a\rb: c\r\n\r\n"), Refusal::BareCarriageReturn);
        assert_eq!(refused(b"GET / HTTP/1.1\r\nHost: a\r\n\rX: y\r\n\r\n"), Refusal::BareCarriageReturn);
        assert_eq!(refused(b"GET / HTTP/1.1\rX"), Refusal::BareCarriageReturn);
    }

    #[test]
    fn fields_have_one_form() {
        for good in
            ["X: y", "X:y", "X:\ty\t", "X:", "!#$%&'*+-.^`|~9: y", "X: \u{e9}", "X: a\tb", "X: \"(),/:;<=>?@[]{}"]
        {
            fine(&get(&format!("{good}\r\n")));
        }
        let cases = [
            ("X : y", Refusal::SpaceBeforeColon),
            ("X\t: y", Refusal::SpaceBeforeColon),
            (" X: y", Refusal::FoldedField),
            ("X: y\r\n z", Refusal::FoldedField),
            ("X: y\r\n\tz", Refusal::FoldedField),
            (": y", Refusal::FieldName),
            ("X", Refusal::FieldName),
            ("X(: y", Refusal::FieldName),
            ("X\u{e9}: y", Refusal::FieldName),
            ("X\0: y", Refusal::FieldName),
            ("X: y\0", Refusal::FieldValue),
            ("X: \u{1}y", Refusal::FieldValue),
            ("X: y\u{7f}z", Refusal::FieldValue),
            ("X: y\u{b}", Refusal::FieldValue),
        ];
        for (line, refusal) in cases {
            assert_eq!(refused(&get(&format!("{line}\r\n"))), refusal, "{line:?}");
        }
    }

    #[test]
    fn names_with_an_underscore_are_dropped_from_requests_and_kept_in_responses() {
        let head = fine(&get("Content_Length: 5\r\nX_Forwarded_For: 1\r\nX-A: 1\r\n"));
        assert_eq!(head.framing, Framing::None);
        assert_eq!(list(&head.fields).len(), 2);
        let head = fine_answer(Method::Get, b"HTTP/1.1 200 OK\r\nX_A: 1\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(list(&head.fields).len(), 2);
    }

    #[test]
    fn names_with_an_underscore_are_refused_where_they_are_not_wanted() {
        let strict = HeadLimits { underscore_names: UnderscoreNames::Reject, ..HeadLimits::default() };
        let read = |lines: &str| request(&get(lines), 0, &strict, &mut RequestHead::default()).map(drop);
        assert_eq!(read("X-A: a_b\r\nXA-: 1\r\n"), Ok(()));
        for name in ["X_A", "_", "Content_Length", "X-Forwarded_For", "A_"] {
            assert_eq!(read(&format!("{name}: 1\r\n")), Err(Refusal::UnderscoreName), "{name}");
            let mut fields = Fields::default();
            let line = format!("{name}: 1\r\n\r\n");
            assert_eq!(
                trailers(line.as_bytes(), &strict, &mut fields),
                Err(Refusal::UnderscoreName),
                "{name} as a trailer"
            );
        }
        let answer = b"HTTP/1.1 200 OK\r\nX_A: 1\r\nContent-Length: 0\r\n\r\n";
        assert!(response(answer, 0, &strict, Method::Get, &mut ResponseHead::default()).is_ok(), "backends may");
    }

    #[test]
    fn there_is_exactly_one_host() {
        let with = |lines: &str| format!("GET / HTTP/1.1\r\n{lines}\r\n").into_bytes();
        for good in ["a", "a.b:80", "A-b.c_d~", "127.0.0.1:8080", "[::1]", "[::1]:80", "a:", "a."] {
            fine(&with(&format!("Host: {good}\r\n")));
        }
        assert_eq!(refused(&with("")), Refusal::HostMissing);
        assert_eq!(refused(&with("Host: a\r\nhost: a\r\n")), Refusal::HostRepeated);
        let bad = [
            "", ".", ".a", "a..b", "a,b", "a b", "a/b", "a@b", "a\"", "\u{e9}", "a%41", "a:b", "a:65536", "a:1:2",
            "[::1", "::1", "[::1]x", "[g]", "a:000080", "http://a", "a\\b", "a;b", "*",
        ];
        for host in bad {
            assert_eq!(refused(&with(&format!("Host: {host}\r\n"))), Refusal::HostInvalid, "{host:?}");
        }
        assert_eq!(fine(b"GET / HTTP/1.0\r\n\r\n").target.authority(), "");
        assert_eq!(refused(b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"), Refusal::HostRepeated);
    }

    #[test]
    fn the_authority_of_an_absolute_target_wins() {
        let head = fine(b"GET http://B.example:81/x?y HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((head.target.authority(), head.target.path_and_query()), ("b.example:81", "/x?y"));
        let head = fine(b"GET HTTPS://b?y HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((head.target.authority(), head.target.path_and_query()), ("b", "/?y"));
        let head = fine(b"OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((head.target.authority(), head.target.path()), ("b", "*"));
        assert_eq!(refused(b"GET http://b/ HTTP/1.1\r\n\r\n"), Refusal::HostMissing);
        assert_eq!(refused(b"GET http://b/ HTTP/1.1\r\nHost: \"\r\n\r\n"), Refusal::HostInvalid);
        assert_eq!(refused(b"GET http://u@b/ HTTP/1.1\r\nHost: b\r\n\r\n"), Refusal::HostInvalid);
        assert_eq!(refused(b"GET http:///x HTTP/1.1\r\nHost: b\r\n\r\n"), Refusal::HostInvalid);
        assert_eq!(refused(b"GET ftp://b/ HTTP/1.1\r\nHost: b\r\n\r\n"), Refusal::Target);
        assert_eq!(refused(b"GET b:80 HTTP/1.1\r\nHost: b\r\n\r\n"), Refusal::Target);
    }

    #[test]
    fn a_body_is_framed_in_one_way_or_the_request_is_refused() {
        let framed = |lines: &str| fine(&get(lines)).framing;
        assert_eq!(framed(""), Framing::None);
        assert_eq!(framed("Content-Length: 0\r\n"), Framing::Length(0));
        assert_eq!(framed("content-length: 9223372036854775807\r\n"), Framing::Length(i64::MAX as u64));
        assert_eq!(framed("Transfer-Encoding: chunked\r\n"), Framing::Chunked);
        assert_eq!(framed("transfer-encoding: \tCHUNKED \r\n"), Framing::Chunked);
        for bad in [
            "",
            "+5",
            "-5",
            "0x5",
            "5_0",
            "5,5",
            "5 5",
            "5a",
            "1.0",
            "9223372036854775808",
            "18446744073709551616",
            "\u{0663}",
        ] {
            assert_eq!(refused(&get(&format!("Content-Length: {bad}\r\n"))), Refusal::LengthInvalid, "{bad:?}");
        }
        let cases = [
            ("Content-Length: 5\r\nContent-Length: 5\r\n", Refusal::LengthRepeated),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", Refusal::LengthRepeated),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Refusal::LengthAndCoding),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Refusal::LengthAndCoding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Refusal::CodingMalformed),
            ("Transfer-Encoding: chunked, chunked\r\n", Refusal::CodingMalformed),
            ("Transfer-Encoding: chunked,\r\n", Refusal::CodingMalformed),
            ("Transfer-Encoding: \"chunked\"\r\n", Refusal::CodingMalformed),
            ("Transfer-Encoding: chunked;a=b\r\n", Refusal::CodingMalformed),
            ("Transfer-Encoding:\r\n", Refusal::CodingMalformed),
            ("Transfer-Encoding: xchunked\r\n", Refusal::CodingUnknown),
            ("Transfer-Encoding: gzip, chunked\r\n", Refusal::CodingUnknown),
            ("Transfer-Encoding: chunked, identity\r\n", Refusal::CodingUnknown),
            ("Transfer-Encoding: identity\r\n", Refusal::CodingUnknown),
        ];
        for (lines, refusal) in cases {
            assert_eq!(refused(&get(lines)), refusal, "{lines:?}");
        }
        assert_eq!(refused(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Refusal::CodingInOldVersion);
        assert_eq!(fine(b"POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\n").framing, Framing::Length(5));
        assert_eq!(fine(b"POST / HTTP/1.0\r\n\r\n").framing, Framing::None);
    }

    #[test]
    fn a_continue_is_expected_only_where_a_body_follows() {
        let head = fine(&get("Expect: 100-Continue\r\nContent-Length: 5\r\n"));
        assert!(head.expects_continue);
        assert!(!fine(&get("Expect: 100-continue\r\n")).expects_continue);
        assert!(!fine(&get("Expect: 100-continue\r\nContent-Length: 0\r\n")).expects_continue);
        assert!(!fine(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").expects_continue);
        assert_eq!(refused(&get("Expect: 200-ok\r\n")), Refusal::ExpectUnknown);
        assert_eq!(refused(&get("Expect:\r\n")), Refusal::ExpectUnknown);
    }

    #[test]
    fn connection_options_are_understood() {
        let options = |lines: &str| fine(&get(lines)).connection;
        assert!(options("Connection: Close\r\n").close);
        assert!(options("Connection: x, ,KEEP-alive\r\n").keep_alive);
        assert!(options("Connection: close\r\nConnection: X-Secret\r\n").nominates);
        assert!(!options("Connection: close, keep-alive, upgrade, TE\r\n").nominates);
        assert!(!fine(&get("Connection: close\r\n")).keeps_alive());
        let many = |count: usize| get(&format!("Connection: {}\r\n", vec!["a"; count].join(",")));
        fine(&many(32));
        assert_eq!(refused(&many(33)), Refusal::TooManyOptions);
        assert!(!fine(b"GET / HTTP/1.0\r\n\r\n").keeps_alive());
        assert!(fine(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").keeps_alive());
    }

    #[test]
    fn only_a_bodiless_get_for_websocket_upgrades() {
        let websocket = |lines: &str| fine(&get(lines)).connection.websocket;
        assert!(websocket("Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"));
        assert!(!websocket("Upgrade: websocket\r\n"));
        assert!(!websocket("Connection: upgrade\r\n"));
        assert!(!websocket("Connection: upgrade\r\nUpgrade: h2c\r\n"));
        assert!(!websocket("Connection: upgrade\r\nUpgrade: websocket, h2c\r\n"));
        assert!(!websocket("Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: websocket\r\n"));
        assert!(!websocket("Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n"));
        assert!(!websocket("Connection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n"));
        let post = fine(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        assert!(!post.connection.websocket);
        let old = fine(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        assert!(!old.connection.websocket);
    }

    #[test]
    fn heads_are_bounded_whether_complete_or_not() {
        let limits = HeadLimits { head_bytes: 200, fields: 3, request_line: 50, ..HeadLimits::default() };
        let at = |input: &[u8]| request(input, 0, &limits, &mut RequestHead::default());
        let line = |length: usize| format!("GET /{} HTTP/1.1\r\n", "a".repeat(length - 14));
        let fields = "Host: a\r\n\r\n";
        assert!(matches!(at(format!("{}{fields}", line(50)).as_bytes()), Ok(Parsed::Complete(_))));
        assert_eq!(at(format!("{}{fields}", line(51)).as_bytes()), Err(Refusal::RequestLineTooLong));
        assert_eq!(at(&line(60).as_bytes()[..51]), Ok(Parsed::Partial));
        assert_eq!(at(&line(60).as_bytes()[..52]), Err(Refusal::RequestLineTooLong));

        let sized = |size: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(size - 32));
        assert_eq!(at(sized(200).as_bytes()), Ok(Parsed::Complete(200)));
        assert_eq!(at(sized(201).as_bytes()), Err(Refusal::HeadTooLarge));
        assert_eq!(at(&sized(300).as_bytes()[..199]), Ok(Parsed::Partial));
        assert_eq!(at(&sized(300).as_bytes()[..200]), Err(Refusal::HeadTooLarge));
        let dripped = request(&sized(300).as_bytes()[..200], 199, &limits, &mut RequestHead::default());
        assert_eq!(dripped, Err(Refusal::HeadTooLarge));

        assert!(matches!(at(&get("X: 1\r\nX: 2\r\n")), Ok(Parsed::Complete(_))));
        assert_eq!(at(&get("X: 1\r\nX: 2\r\nX_: 3\r\n")), Err(Refusal::TooManyFields));
        let method = |length: usize| format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(length));
        assert!(matches!(at(method(32).as_bytes()), Ok(Parsed::Complete(_))));
        assert_eq!(at(method(33).as_bytes()), Err(Refusal::MethodTooLong));
    }

    #[test]
    fn a_lone_line_feed_that_drips_in_is_refused_at_once() {
        let input = b"GET / HTTP/1.1\r\nHost: a\n";
        let last = request(input, input.len() - 1, &HeadLimits::default(), &mut RequestHead::default());
        assert_eq!(last, Err(Refusal::BareLineFeed));
    }

    #[test]
    fn status_lines_have_one_form() {
        let with = |line: &str| format!("{line}\r\nContent-Length: 0\r\n\r\n").into_bytes();
        for (line, status, reason) in [
            ("HTTP/1.1 200 OK", 200, "OK"),
            ("HTTP/1.1 200 ", 200, ""),
            ("HTTP/1.1 200", 200, ""),
            ("HTTP/1.0 599 \tNot  so\u{e9}", 599, "\tNot  so\u{e9}"),
        ] {
            let head = fine_answer(Method::Get, &with(line));
            assert_eq!((head.status, head.reason()), (status, reason.as_bytes()), "{line}");
        }
        let bad = [
            "",
            "HTTP/1.1",
            "HTTP/1.1 20",
            "HTTP/1.1 2000",
            "HTTP/1.1 099 x",
            "HTTP/1.1 600 x",
            "HTTP/1.1  200 x",
            "HTTP/1.1 20x x",
            "HTTP/2 200 x",
            "HTTP/1.2 200 x",
            "http/1.1 200 x",
            " HTTP/1.1 200 x",
            "HTTP/1.1\t200 x",
            "HTTP/1.1 200\tx",
            "HTTP/1.1 200 \0",
            "HTTP/1.1 +20 x",
        ];
        for line in bad {
            assert_eq!(refused_answer(&with(line)), Refusal::StatusLine, "{line:?}");
        }
        assert_eq!(refused_answer(b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n"), Refusal::BareLineFeed);
    }

    #[test]
    fn a_response_is_framed_by_what_it_answers() {
        let framing = |to, start: &str, lines: &str| {
            let head = fine_answer(to, format!("{start}\r\n{lines}\r\n").as_bytes());
            (head.framing, head.told_length)
        };
        let ok = "HTTP/1.1 200 OK";
        assert_eq!(framing(Method::Get, ok, ""), (Framing::ToClose, None));
        assert_eq!(framing(Method::Get, ok, "Content-Length: 5\r\n"), (Framing::Length(5), None));
        assert_eq!(framing(Method::Get, ok, "Transfer-Encoding: chunked\r\n"), (Framing::Chunked, None));
        assert_eq!(framing(Method::Head, ok, "Content-Length: 5\r\n"), (Framing::None, Some(5)));
        assert_eq!(framing(Method::Head, ok, "Transfer-Encoding: chunked\r\n"), (Framing::None, None));
        for status in ["204", "100", "103", "101"] {
            let start = format!("HTTP/1.1 {status} x");
            assert_eq!(framing(Method::Get, &start, "Content-Length: 5\r\n"), (Framing::None, None));
        }
        assert_eq!(framing(Method::Get, "HTTP/1.1 304 x", "Content-Length: 5\r\n"), (Framing::None, Some(5)));
        assert_eq!(framing(Method::Get, "HTTP/1.0 200 x", "Content-Length: 5\r\n"), (Framing::Length(5), None));
    }

    #[test]
    fn a_response_with_doubtful_framing_is_refused() {
        let cases = [
            ("HTTP/1.1 200 x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", Refusal::LengthAndCoding),
            ("HTTP/1.1 200 x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", Refusal::LengthRepeated),
            ("HTTP/1.1 200 x\r\nContent-Length: 5, 5\r\n\r\n", Refusal::LengthInvalid),
            ("HTTP/1.1 200 x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Refusal::CodingUnknown),
            ("HTTP/1.0 200 x\r\nTransfer-Encoding: chunked\r\n\r\n", Refusal::CodingInOldVersion),
            ("HTTP/1.1 200 x\r\nX: a\r\n b\r\n\r\n", Refusal::FoldedField),
            ("HTTP/1.1 200 x\r\nX : a\r\n\r\n", Refusal::SpaceBeforeColon),
            ("HTTP/1.1 200 x\r\nX: a\nY: b\r\n\r\n", Refusal::BareLineFeed),
        ];
        for (input, refusal) in cases {
            assert_eq!(refused_answer(input.as_bytes()), refusal, "{input:?}");
        }
    }

    /// Parts that heads, good and bad ones, are made of.
    fn part() -> impl Strategy<Value = Vec<u8>> {
        let known = [
            "GET ",
            "POST ",
            "/ ",
            "/a/../b?c ",
            "http://h/ ",
            "HTTP/1.1",
            "HTTP/1.1 200 OK",
            "\r\n",
            "\r\n",
            "\r\n",
            "\r\n\r\n",
            "\n",
            "\r",
            "Host: a",
            "Host: a\r\n",
            "X: y\r\n",
            " ",
            "\t",
            ":",
            "Content-Length: 5\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Connection: close, x\r\n",
            "a_b: c\r\n",
        ];
        prop_oneof![
            8 => proptest::sample::select(known.to_vec()).prop_map(|text| text.as_bytes().to_vec()),
            1 => proptest::collection::vec(any::<u8>(), 0..20),
        ]
    }

    fn almost_a_head() -> impl Strategy<Value = Vec<u8>> {
        let start = proptest::sample::select(&["", "GET / HTTP/1.1\r\nHost: a\r\n", "HTTP/1.1 200 OK\r\n"][..]);
        let parts = proptest::collection::vec(part(), 0..12);
        let end = proptest::sample::select(&["", "\r\n", "\r\n\r\n"][..]);
        (start, parts, end).prop_map(|(start, parts, end)| [start.as_bytes(), &parts.concat(), end.as_bytes()].concat())
    }

    /// What a request is when its bytes come up to each of these places, one after the other.
    fn dripped(input: &[u8], stops: &[usize]) -> Result<(Parsed, RequestHead), Refusal> {
        let mut head = RequestHead::default();
        let mut seen = 0;
        for &stop in stops {
            match request(&input[..stop], seen, &HeadLimits::default(), &mut head)? {
                Parsed::Partial => seen = stop,
                complete => return Ok((complete, head)),
            }
        }
        Ok((Parsed::Partial, head))
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(input in almost_a_head(), limit in 0..200usize) {
            let limits = HeadLimits { head_bytes: limit, fields: 5, request_line: limit / 2, ..HeadLimits::default() };
            let _ = parse(&input);
            let _ = request(&input, 0, &limits, &mut RequestHead::default());
            let _ = answer_to(Method::Get, &input);
            let _ = response(&input, limit.min(input.len()), &limits, Method::Head, &mut ResponseHead::default());
        }

        #[test]
        fn a_request_is_the_same_however_it_is_split(
            input in almost_a_head(), mut stops in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6)
        ) {
            let mut stops: Vec<_> = stops.drain(..).map(|stop| stop.index(input.len() + 1)).collect();
            stops.push(input.len());
            stops.sort_unstable();
            match (parse(&input), dripped(&input, &stops)) {
                (Ok((Parsed::Complete(taken), whole)), Ok((Parsed::Complete(same), split))) => {
                    prop_assert_eq!(taken, same);
                    prop_assert_eq!(whole.framing, split.framing);
                    prop_assert_eq!(whole.target.path_and_query(), split.target.path_and_query());
                    prop_assert_eq!(list(&whole.fields), list(&split.fields));
                }
                (Ok((Parsed::Partial, _)), Ok((Parsed::Partial, _))) => {}
                // what drips in is checked line by line only when it is all there
                (Err(_), Err(_) | Ok((Parsed::Partial, _))) => {}
                (whole, split) => prop_assert!(false, "{whole:?} against {split:?}"),
            }
        }
    }
}
