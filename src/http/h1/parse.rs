//! Heads from bytes, strictly: what two programs could read differently is refused, never repaired (RFC 9112, security.md §1).
//!
//! One pass over the input finds line ends, names and values and checks them; nothing is copied before the head is
//! complete, and nothing is allocated once the head's buffers are warm. A head that drips in is not read again and
//! again: until its end is there only the new bytes are looked at.

use super::framing::{Authority, Notes};
use crate::http::bytes::{NAME, UNDERSCORE, find_below_or_del};
use crate::http::head::{Fields, Known, Method, RequestHead, ResponseHead, Version};
use crate::http::target::Target;

pub use crate::http::refusal::Refusal;

/// How large a head may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes in all.
    pub head_bytes: usize,
    /// Fields, those that are not forwarded included.
    pub fields: usize,
    /// Bytes of the request line.
    pub request_line: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        HeadLimits { head_bytes: 32 * 1024, fields: 100, request_line: 8 * 1024 }
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
const LONGEST_METHOD: usize = 32;
/// Empty lines passed over before a request line (RFC 9112 §2.2): some clients end a body with one too many.
const MOST_EMPTY_LINES: usize = 2;

/// Reads a request head from the beginning of `input`. `seen` is how much of it was there at the call before, 0 at the
/// first. What `into` holds counts only after [`Parsed::Complete`].
///
/// # Errors
/// A head that breaks a rule is refused, as soon as that shows.
pub fn request(input: &[u8], seen: usize, limits: &HeadLimits, into: &mut RequestHead) -> Result<Parsed, Refusal> {
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
    match read_fields(input, 0, limits, Underscores::Kept, into, |_, _| Ok(())) {
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
    let end = read_fields(input, line_end, limits, Underscores::Dropped, &mut into.fields, |known, value| {
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

/// What becomes of fields whose names have an underscore: programs behind us that turn `-` into `_` would take them for
/// another field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Underscores {
    Kept,
    Dropped,
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
