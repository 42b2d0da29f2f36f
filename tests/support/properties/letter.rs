//! A second opinion: HTTP/1.1 messages read by the letter of RFC 9112 and RFC 9110, line by line and without any regard to
//! speed. It shares no code with the engine, so a message that both read alike has one meaning.

/// Why there is no message.
#[derive(Debug, PartialEq, Eq)]
pub enum Unread {
    /// It goes on beyond the input.
    Incomplete,
    /// This part is not as the grammar wants it.
    Wrong(&'static str),
}

type Read<T> = Result<T, Unread>;
type Field<'a> = (&'a [u8], &'a [u8]);

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    ToClose,
}

/// A head: what stands in its first line and its fields.
#[derive(Debug)]
pub struct Head<'a, Line> {
    pub line: Line,
    pub fields: Vec<Field<'a>>,
    pub framing: Framing,
    /// How many bytes it has.
    pub length: usize,
}

/// `method SP request-target SP HTTP-version`
#[derive(Debug)]
pub struct RequestLine<'a> {
    pub method: &'a [u8],
    pub target: &'a [u8],
    pub minor_version: u8,
}

/// `HTTP-version SP status-code SP [ reason-phrase ]`
#[derive(Debug)]
pub struct StatusLine<'a> {
    pub minor_version: u8,
    pub status: u16,
    pub reason: &'a [u8],
}

/// A body that is all there.
#[derive(Debug, PartialEq, Eq)]
pub struct Body<'a> {
    pub data: Vec<u8>,
    pub trailers: Vec<Field<'a>>,
    /// How many bytes it has on the wire.
    pub length: usize,
}

impl<'a, Line> Head<'a, Line> {
    /// Whether its field lines stand in the text it was read from in their one usual form, `name: value`.
    pub fn is_canonical(&self, text: &[u8]) -> bool {
        let lines = self.fields.iter().flat_map(|&(name, value)| [name, b": ", value, b"\r\n"]);
        let written: Vec<u8> = lines.chain([&b"\r\n"[..]]).flatten().copied().collect();
        let first_line = text.windows(2).position(|pair| pair == b"\r\n").map_or(0, |end| end + 2);
        text[first_line..self.length] == written
    }

    /// The values of all fields of this name.
    pub fn values(&self, name: &str) -> Vec<&'a [u8]> {
        values(&self.fields, name)
    }
}

/// The head of a request; empty lines before it are passed over (RFC 9112 §2.2).
pub fn request(input: &[u8]) -> Read<Head<'_, RequestLine<'_>>> {
    let mut rest = input;
    while let Some(after) = rest.strip_prefix(b"\r\n") {
        rest = after;
    }
    let (first, rest) = line(rest)?;
    let line = request_line(first).ok_or(Unread::Wrong("request line"))?;
    let (fields, rest) = fields(rest)?;
    let hosts = values(&fields, "host").len();
    if hosts > 1 || hosts == 0 && line.minor_version > 0 {
        return Err(Unread::Wrong("Host"));
    }
    let framing = framing(&fields, line.minor_version, Framing::None)?;
    Ok(Head { line, fields, framing, length: input.len() - rest.len() })
}

/// The head of the response to a request, HEAD or another.
pub fn response(input: &[u8], to_head: bool) -> Read<Head<'_, StatusLine<'_>>> {
    let (first, rest) = line(input)?;
    let line = status_line(first).ok_or(Unread::Wrong("status line"))?;
    let (fields, rest) = fields(rest)?;
    let told = framing(&fields, line.minor_version, Framing::ToClose)?;
    // RFC 9112 §6.3: these end with the head, whatever the fields say
    let bodiless = to_head || matches!(line.status, 100..=199 | 204 | 304);
    let framing = if bodiless { Framing::None } else { told };
    Ok(Head { line, fields, framing, length: input.len() - rest.len() })
}

/// The body that an input begins with; one that goes on to the close takes all of it.
pub fn body(framing: Framing, input: &[u8]) -> Read<Body<'_>> {
    let length = match framing {
        Framing::None => 0,
        Framing::ToClose => input.len(),
        Framing::Length(length) => usize::try_from(length).map_err(|_| Unread::Incomplete)?,
        Framing::Chunked => return chunked(input),
    };
    let data = input.get(..length).ok_or(Unread::Incomplete)?.to_vec();
    Ok(Body { data, trailers: Vec::new(), length })
}

/// A chunked body (RFC 9112 §7.1). What an extension says is not looked at.
fn chunked(input: &[u8]) -> Read<Body<'_>> {
    let mut data = Vec::new();
    let mut rest = input;
    loop {
        let (first, after) = line(rest)?;
        let digits = first.split(|&byte| byte == b';').next().unwrap_or_default();
        let size = hexadecimal(digits).ok_or(Unread::Wrong("chunk size"))?;
        if size == 0 {
            let (trailers, after) = fields(after)?;
            return Ok(Body { data, trailers, length: input.len() - after.len() });
        }
        let size = usize::try_from(size).map_err(|_| Unread::Incomplete)?;
        let (chunk, after) = after.split_at_checked(size).ok_or(Unread::Incomplete)?;
        data.extend_from_slice(chunk);
        rest = match after {
            [b'\r', b'\n', rest @ ..] => rest,
            [] | [b'\r'] => return Err(Unread::Incomplete),
            _ => return Err(Unread::Wrong("chunk end")),
        };
    }
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    let sound = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
    u64::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| sound)?, 16).ok()
}

/// The text before the first CRLF, in which no other control character but tabs stands, and what follows.
fn line(input: &[u8]) -> Read<(&[u8], &[u8])> {
    let end = input.windows(2).position(|pair| pair == b"\r\n").ok_or(Unread::Incomplete)?;
    let line = &input[..end];
    if line.iter().any(|&byte| byte != b'\t' && byte.is_ascii_control()) {
        return Err(Unread::Wrong("control character"));
    }
    Ok((line, &input[end + 2..]))
}

/// Field lines up to the empty one.
fn fields(input: &[u8]) -> Read<(Vec<Field<'_>>, &[u8])> {
    let mut fields = Vec::new();
    let mut rest = input;
    loop {
        let (text, after) = line(rest)?;
        rest = after;
        if text.is_empty() {
            return Ok((fields, rest));
        }
        let colon = text.iter().position(|&byte| byte == b':').ok_or(Unread::Wrong("no colon"))?;
        if !is_token(&text[..colon]) {
            return Err(Unread::Wrong("field name"));
        }
        fields.push((&text[..colon], trim(&text[colon + 1..])));
    }
}

fn request_line(line: &[u8]) -> Option<RequestLine<'_>> {
    let parts: Vec<_> = line.split(|&byte| byte == b' ').collect();
    let [method, target, version] = parts[..] else { return None };
    let sound = is_token(method) && !target.is_empty() && target.iter().all(u8::is_ascii_graphic);
    sound.then_some(RequestLine { method, target, minor_version: minor_version(version)? })
}

/// The space after the status code may be missing: RFC 9112 §4 wants it, many backends leave it away.
fn status_line(line: &[u8]) -> Option<StatusLine<'_>> {
    let mut parts = line.splitn(3, |&byte| byte == b' ');
    let minor_version = minor_version(parts.next()?)?;
    let digits = parts.next().filter(|digits| digits.len() == 3 && digits.iter().all(u8::is_ascii_digit))?;
    let status = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(StatusLine { minor_version, status, reason: parts.next().unwrap_or_default() })
}

fn minor_version(version: &[u8]) -> Option<u8> {
    match version {
        b"HTTP/1.1" => Some(1),
        b"HTTP/1.0" => Some(0),
        _ => None,
    }
}

/// RFC 9112 §6.3, where whatever it calls an error or a doubt is an error.
fn framing(fields: &[Field<'_>], minor_version: u8, otherwise: Framing) -> Read<Framing> {
    match (&values(fields, "transfer-encoding")[..], &values(fields, "content-length")[..]) {
        ([], []) => Ok(otherwise),
        ([], [digits]) if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
            let length = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
            length.map(Framing::Length).ok_or(Unread::Wrong("Content-Length"))
        }
        ([coding], []) if minor_version > 0 && coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        _ => Err(Unread::Wrong("framing")),
    }
}

/// The values of all fields of this name.
pub fn values<'a>(fields: &[Field<'a>], name: &str) -> Vec<&'a [u8]> {
    let named = fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes()));
    named.map(|&(_, value)| value).collect()
}

fn is_token(text: &[u8]) -> bool {
    let of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(of_token)
}

/// Without the optional white space around it.
pub fn trim(text: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !matches!(byte, b' ' | b'\t');
    let start = text.iter().position(is_text).unwrap_or(text.len());
    let end = text.iter().rposition(is_text).map_or(start, |last| last + 1);
    &text[start..end]
}
