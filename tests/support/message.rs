//! HTTP/1.1 messages as the tests read them: strictly, because what Evenkeel writes has to be canonical.

use std::io::{self, BufRead, Read};

use super::wire::is_reset;

/// A start line and its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub start: String,
    pub fields: Vec<(String, String)>,
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Where its own framing says.
    Complete,
    /// By a FIN, which is the framing of a body that has no other.
    Closed,
    /// By a FIN before its framing was fulfilled.
    Cut,
    /// By a RST.
    Reset,
}

/// How the length of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    ToClose,
}

/// A body as it came.
#[derive(Clone, Debug)]
pub struct Body {
    pub bytes: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    pub end: End,
}

impl Head {
    /// The next head, `None` when the connection ended before its first byte.
    pub fn read(from: &mut impl BufRead) -> io::Result<Option<Head>> {
        let Some(start) = line(from)? else { return Ok(None) };
        Ok(Some(Head { start, fields: fields(from)? }))
    }

    /// The value of the only field of this name.
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        let values = self.values(name);
        assert!(values.len() < 2, "{name} is there {} times in {self:?}", values.len());
        values.first().copied()
    }

    /// The values of all fields of this name.
    pub fn values(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// Whether a list field of this name has this member.
    pub fn lists(&self, name: &str, member: &str) -> bool {
        let mut members = self.values(name).into_iter().flat_map(|value| value.split(','));
        members.any(|other| other.trim().eq_ignore_ascii_case(member))
    }

    /// How long the body behind it is when nothing else is known than the head.
    #[track_caller]
    pub fn framing(&self, otherwise: Framing) -> Framing {
        match (self.field("transfer-encoding"), self.field("content-length")) {
            (Some("chunked"), None) => Framing::Chunked,
            (None, Some(length)) => Framing::Length(length.parse().expect("a length is a number")),
            (None, None) => otherwise,
            other => panic!("framing that must never be sent: {other:?}"),
        }
    }
}

impl Body {
    /// Reads a body; whatever ends it early is told in [`Body::end`].
    pub fn read(from: &mut impl BufRead, framing: Framing) -> Body {
        let mut body = Body { bytes: Vec::new(), trailers: Vec::new(), end: End::Complete };
        let read = match framing {
            Framing::None => Ok(()),
            Framing::Length(length) => exactly(from, length, &mut body.bytes),
            Framing::Chunked => chunks(from, &mut body),
            Framing::ToClose => from.read_to_end(&mut body.bytes).map(|_| body.end = End::Closed),
        };
        match read {
            Ok(()) => {}
            Err(fault) if fault.kind() == io::ErrorKind::UnexpectedEof => body.end = End::Cut,
            Err(fault) if is_reset(&fault) => body.end = End::Reset,
            Err(fault) => panic!("a body came to a standstill after {} bytes: {fault}", body.bytes.len()),
        }
        body
    }
}

fn exactly(from: &mut impl BufRead, length: u64, into: &mut Vec<u8>) -> io::Result<()> {
    let came = from.take(length).read_to_end(into)?;
    if came as u64 == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn chunks(from: &mut impl BufRead, body: &mut Body) -> io::Result<()> {
    loop {
        let size = line(from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let size = u64::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("not the size of a chunk: {size:?}"));
        if size == 0 {
            body.trailers = fields(from)?;
            return Ok(());
        }
        exactly(from, size, &mut body.bytes)?;
        let end = line(from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        assert!(end.is_empty(), "more data in a chunk than its size: {end:?}");
    }
}

fn fields(from: &mut impl BufRead) -> io::Result<Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        let line = line(from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if line.is_empty() {
            return Ok(fields);
        }
        let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("not a field: {line:?}"));
        fields.push((name.to_owned(), value.trim().to_owned()));
    }
}

/// A line without its end, `None` when there is not a byte more.
fn line(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if from.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let text = line.strip_suffix(b"\r\n").unwrap_or_else(|| panic!("a bare line feed: {:?}", line.escape_ascii()));
    Ok(Some(String::from_utf8_lossy(text).into_owned()))
}
