//! Bodies: which of the bytes that come are data, and how chunks are written.
//!
//! The decoder is told of input and answers which part of it is data; it copies none. It can be stopped after any byte.
//! Chunks are never passed on as they came, only their data (security.md R8).

use std::fmt;

use super::parse::{self, HeadLimits, Refusal};
use crate::http::fields::may_trail;
use crate::http::head::{Fields, Framing};

/// Chunk extensions of one message in all: nobody reads them, so a few are tolerated and passed over.
const MOST_EXTENSION_BYTES: usize = 16 * 1024;
/// Sixteen digits are all that a 64-bit number has.
const MOST_SIZE_DIGITS: u8 = 16;
/// What follows the data of a chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// What the next bytes of a body are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// After `skip` bytes of framing come `length` bytes of data, at least one; both are taken together.
    Data {
        /// Bytes before the data.
        skip: usize,
        /// Bytes of data.
        length: usize,
    },
    /// So many bytes are framing, and more input is needed.
    More {
        /// Bytes taken.
        consumed: usize,
    },
    /// So many bytes are framing, and with them the body ends.
    End {
        /// Bytes taken.
        consumed: usize,
    },
}

/// What is wrong with a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFault {
    /// The sender closed before the end.
    Cut,
    /// A chunk's size is not one to sixteen hexadecimal digits, or too large.
    ChunkSize,
    /// A chunk's size or extension is not followed by CRLF.
    ChunkLine,
    /// A chunk's data is not followed by CRLF.
    ChunkEnd,
    /// More chunk extensions than anybody needs.
    ChunkExtensions,
    /// The trailer fields break a rule.
    Trailers(Refusal),
}

impl BodyFault {
    /// Whether it would be a body if it had less of something that we bound.
    #[must_use]
    pub fn is_excess(self) -> bool {
        matches!(self, BodyFault::Trailers(Refusal::TooManyFields | Refusal::HeadTooLarge))
    }

    /// One sentence for the log.
    #[must_use]
    pub fn why(self) -> &'static str {
        match self {
            BodyFault::Cut => "The body ends too early.",
            BodyFault::ChunkSize => "A chunk size is not a hexadecimal number in range.",
            BodyFault::ChunkLine => "A chunk size line does not end as it should.",
            BodyFault::ChunkEnd => "Chunk data is not followed by CRLF.",
            BodyFault::ChunkExtensions => "There are too many chunk extensions.",
            BodyFault::Trailers(refusal) => refusal.why(),
        }
    }
}

impl fmt::Display for BodyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.why())
    }
}

impl std::error::Error for BodyFault {}

/// Where in a body the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Done,
    ToClose,
    Length(u64),
    Chunk(u64),
    Between(Between),
    Trailers,
}

/// Where between the data of two chunks the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    DataReturn,
    DataLineFeed,
    Size { size: u64, digits: u8 },
    Extension { size: u64 },
    SizeLineFeed { size: u64 },
}

const FIRST_DIGIT: Place = Place::Between(Between::Size { size: 0, digits: 0 });

/// Finds the data in the bytes of one body.
#[derive(Clone, Debug)]
pub struct Decoder {
    place: Place,
    extension_bytes: usize,
    /// Few bodies have any, and every idle connection has a decoder.
    trailing: Option<Box<Trailing>>,
    limits: HeadLimits,
}

/// What comes behind the last chunk.
#[derive(Clone, Debug, Default)]
struct Trailing {
    /// The lines as they came.
    text: Vec<u8>,
    /// Those that may be forwarded, once all are there.
    fields: Fields,
}

impl Decoder {
    /// One for a body framed so.
    #[must_use]
    pub fn new(framing: Framing) -> Decoder {
        let place = match framing {
            Framing::None | Framing::Length(0) => Place::Done,
            Framing::Length(length) => Place::Length(length),
            Framing::Chunked => FIRST_DIGIT,
            Framing::ToClose => Place::ToClose,
        };
        let limits = HeadLimits::default();
        Decoder { place, extension_bytes: 0, trailing: None, limits }
    }

    /// Sets how many trailer fields there may be, and how large.
    pub fn limit_trailers(&mut self, limits: HeadLimits) {
        self.limits = limits;
    }

    /// Whether the body has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.place == Place::Done
    }

    /// How much is still to come, where the length was told.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        match self.place {
            Place::Done => Some(0),
            Place::Length(length) => Some(length),
            _ => None,
        }
    }

    /// The trailer fields that may be forwarded; there are none before the end, and none the second time.
    #[must_use]
    pub fn take_trailers(&mut self) -> Fields {
        self.trailing.take().map(|trailing| trailing.fields).unwrap_or_default()
    }

    /// Takes the next input; to be called again with what follows the bytes taken.
    ///
    /// # Errors
    /// A body that breaks a rule; the connection it came by is of no further use.
    pub fn decode(&mut self, input: &[u8]) -> Result<Step, BodyFault> {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            match self.place {
                Place::Done => return Ok(Step::End { consumed: at }),
                _ if rest.is_empty() => return Ok(Step::More { consumed: at }),
                Place::ToClose => return Ok(Step::Data { skip: at, length: rest.len() }),
                Place::Length(left) => {
                    let length = at_most(left, rest.len());
                    let left = left - length as u64;
                    self.place = if left == 0 { Place::Done } else { Place::Length(left) };
                    return Ok(Step::Data { skip: at, length });
                }
                Place::Chunk(left) => {
                    let length = at_most(left, rest.len());
                    let left = left - length as u64;
                    self.place = if left == 0 { Place::Between(Between::DataReturn) } else { Place::Chunk(left) };
                    return Ok(Step::Data { skip: at, length });
                }
                Place::Between(between) => {
                    self.place = self.after(between, rest[0])?;
                    at += 1;
                }
                Place::Trailers => at += self.hear_trailers(rest)?,
            }
        }
    }

    /// How many of the next bytes are data and nothing else, whatever they are.
    #[must_use]
    pub fn plain(&self) -> u64 {
        match self.place {
            Place::ToClose => u64::MAX,
            Place::Length(left) => left,
            _ => 0,
        }
    }

    /// So many of the [`Decoder::plain`] bytes came by another way than through [`Decoder::decode`].
    pub fn pass(&mut self, count: usize) {
        debug_assert!(count as u64 <= self.plain(), "framing is decoded, never passed over");
        if let Place::Length(left) = self.place {
            let left = left.saturating_sub(count as u64);
            self.place = if left == 0 { Place::Done } else { Place::Length(left) };
        }
    }

    /// Takes the news that the sender closed.
    ///
    /// # Errors
    /// [`BodyFault::Cut`] where the body was not complete.
    pub fn eof(&mut self) -> Result<(), BodyFault> {
        match self.place {
            Place::Done | Place::ToClose => {
                self.place = Place::Done;
                Ok(())
            }
            _ => Err(BodyFault::Cut),
        }
    }

    /// Where a byte between the data of two chunks leads.
    fn after(&mut self, between: Between, byte: u8) -> Result<Place, BodyFault> {
        match (between, byte) {
            (Between::DataReturn, b'\r') => Ok(Place::Between(Between::DataLineFeed)),
            (Between::DataLineFeed, b'\n') => Ok(FIRST_DIGIT),
            (Between::DataReturn | Between::DataLineFeed, _) => Err(BodyFault::ChunkEnd),
            (Between::Size { digits: 1.., size } | Between::Extension { size }, b'\r') => {
                Ok(Place::Between(Between::SizeLineFeed { size }))
            }
            (Between::Size { digits: 1.., size }, b';') => self.extend(size),
            (Between::Size { size, digits }, _) => longer_size(size, digits, byte),
            (Between::Extension { size }, b'\t' | 0x20..=0x7e | 0x80..) => self.extend(size),
            (Between::SizeLineFeed { size: 0 }, b'\n') => Ok(Place::Trailers),
            (Between::SizeLineFeed { size }, b'\n') => Ok(Place::Chunk(size)),
            (Between::Extension { .. } | Between::SizeLineFeed { .. }, _) => Err(BodyFault::ChunkLine),
        }
    }

    fn extend(&mut self, size: u64) -> Result<Place, BodyFault> {
        self.extension_bytes += 1;
        if self.extension_bytes > MOST_EXTENSION_BYTES {
            return Err(BodyFault::ChunkExtensions);
        }
        Ok(Place::Between(Between::Extension { size }))
    }

    /// Gathers trailer lines until the empty one and reads them then; returns how many bytes were taken.
    fn hear_trailers(&mut self, input: &[u8]) -> Result<usize, BodyFault> {
        if self.trailing.is_none() && input.starts_with(b"\r\n") {
            self.place = Place::Done;
            return Ok(2);
        }
        let trailing = self.trailing.get_or_insert_default();
        let mut taken = 0;
        while let Some(offset) = memchr::memchr(b'\n', &input[taken..]) {
            trailing.gather(&input[taken..=taken + offset], &self.limits)?;
            taken += offset + 1;
            if !trailing.text.ends_with(b"\r\n") {
                return Err(BodyFault::Trailers(Refusal::BareLineFeed));
            }
            if trailing.text == b"\r\n" || trailing.text.ends_with(b"\n\r\n") {
                trailing.read(&self.limits)?;
                self.place = Place::Done;
                return Ok(taken);
            }
        }
        trailing.gather(&input[taken..], &self.limits)?;
        Ok(input.len())
    }
}

impl Trailing {
    fn gather(&mut self, text: &[u8], limits: &HeadLimits) -> Result<(), BodyFault> {
        if self.text.len() + text.len() > limits.head_bytes {
            return Err(BodyFault::Trailers(Refusal::HeadTooLarge));
        }
        if self.text.capacity() - self.text.len() < text.len() {
            // doubled as vectors are, but never beyond the limit: somebody may let them drip in over thousands of connections
            let doubled = (2 * self.text.len()).min(limits.head_bytes).max(self.text.len() + text.len());
            self.text.reserve_exact(doubled - self.text.len());
        }
        self.text.extend_from_slice(text);
        Ok(())
    }

    /// Reads what was gathered and gives its memory up.
    fn read(&mut self, limits: &HeadLimits) -> Result<(), BodyFault> {
        let text = std::mem::take(&mut self.text);
        let mut all = Fields::default();
        parse::trailers(&text, limits, &mut all).map_err(BodyFault::Trailers)?;
        for field in all.iter().filter(|field| may_trail(field.known, field.name)) {
            self.fields.push(field.known, field.name, field.value);
        }
        Ok(())
    }
}

fn at_most(left: u64, there: usize) -> usize {
    usize::try_from(left).map_or(there, |left| left.min(there))
}

/// A chunk size with one more digit.
fn longer_size(size: u64, digits: u8, byte: u8) -> Result<Place, BodyFault> {
    let digit = char::from(byte).to_digit(16).ok_or(match (digits, byte) {
        (1.., b'\n') => BodyFault::ChunkLine,
        _ => BodyFault::ChunkSize,
    })?;
    // the sixteenth digit must leave the highest bit free: some programs read sizes as signed
    if digits == MOST_SIZE_DIGITS || size >= 1 << 59 {
        return Err(BodyFault::ChunkSize);
    }
    Ok(Place::Between(Between::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }))
}

/// Appends what goes before the data of a chunk; [`CHUNK_END`] goes after it. A length of 0 would end the body: nothing is
/// appended for it.
pub fn chunk_head(out: &mut Vec<u8>, length: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    if length == 0 {
        return;
    }
    let count = (usize::BITS - length.leading_zeros()).div_ceil(4);
    out.extend((0..count).rev().map(|place| DIGITS[length >> (place * 4) & 15]));
    out.extend_from_slice(b"\r\n");
}

/// Appends the end of a chunked body with its trailer fields.
pub fn last_chunk(out: &mut Vec<u8>, trailers: &Fields) {
    out.extend_from_slice(b"0\r\n");
    trailers.write(out, |field| may_trail(field.known, field.name));
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything that came of a body: its data, the bytes taken, its trailers.
    #[derive(Debug, PartialEq)]
    struct Read {
        data: Vec<u8>,
        taken: usize,
        done: bool,
        trailers: Vec<(String, String)>,
    }

    /// Reads a body that comes up to each of these places, one after the other, and then no further.
    fn read(framing: Framing, input: &[u8], stops: &[usize]) -> Result<Read, BodyFault> {
        let mut decoder = Decoder::new(framing);
        let (mut data, mut taken) = (Vec::new(), 0);
        for &stop in stops {
            loop {
                match decoder.decode(&input[taken..stop])? {
                    Step::Data { skip, length } => {
                        assert!(length > 0);
                        data.extend_from_slice(&input[taken + skip..taken + skip + length]);
                        taken += skip + length;
                    }
                    Step::More { consumed } => {
                        taken += consumed;
                        assert_eq!(taken, stop, "framing is taken as it comes");
                        break;
                    }
                    Step::End { consumed } => {
                        taken += consumed;
                        break;
                    }
                }
            }
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let trailers = decoder.take_trailers().iter().map(|field| (text(field.name), text(field.value))).collect();
        Ok(Read { data, taken, done: decoder.is_done(), trailers })
    }

    fn chunked(input: &[u8]) -> Result<Read, BodyFault> {
        read(Framing::Chunked, input, &[input.len()])
    }

    #[test]
    fn a_length_is_counted_to_its_end() {
        let read = |input: &[u8]| read(Framing::Length(5), input, &[input.len()]).unwrap();
        let body = read(b"helloGET");
        assert_eq!((&body.data[..], body.taken, body.done), (&b"hello"[..], 5, true));
        assert!(!read(b"hell").done);
        let mut decoder = Decoder::new(Framing::Length(5));
        assert_eq!(decoder.remaining(), Some(5));
        assert_eq!(decoder.decode(b"hel"), Ok(Step::Data { skip: 0, length: 3 }));
        assert_eq!((decoder.remaining(), decoder.eof()), (Some(2), Err(BodyFault::Cut)));
        assert_eq!(decoder.decode(b""), Ok(Step::More { consumed: 0 }));
        assert_eq!(decoder.decode(b"lo!"), Ok(Step::Data { skip: 0, length: 2 }));
        assert_eq!((decoder.decode(b"!"), decoder.eof()), (Ok(Step::End { consumed: 0 }), Ok(())));
    }

    #[test]
    fn no_body_takes_no_byte() {
        for framing in [Framing::None, Framing::Length(0)] {
            let mut decoder = Decoder::new(framing);
            assert!(decoder.is_done());
            assert_eq!(decoder.decode(b"GET"), Ok(Step::End { consumed: 0 }));
        }
    }

    #[test]
    fn only_a_body_to_the_close_ends_by_closing() {
        let mut decoder = Decoder::new(Framing::ToClose);
        assert_eq!(decoder.decode(b"abc"), Ok(Step::Data { skip: 0, length: 3 }));
        assert_eq!((decoder.is_done(), decoder.remaining()), (false, None));
        assert_eq!((decoder.eof(), decoder.is_done()), (Ok(()), true));
        for part in ["", "5", "5\r\nhello", "5\r\nhello\r\n", "0\r\n", "0\r\n\r"] {
            let mut decoder = Decoder::new(Framing::Chunked);
            let _ = decoder.decode(part.as_bytes());
            assert_eq!(decoder.eof(), Err(BodyFault::Cut), "{part:?}");
        }
    }

    #[test]
    fn chunks_become_their_data() {
        let body = chunked(b"5\r\nhello\r\n00A;x=\"y\"\r\n, world!!!\r\n0;last\r\n\r\nGET").unwrap();
        assert_eq!((&body.data[..], body.done), (&b"hello, world!!!"[..], true));
        assert_eq!(body.taken, b"5\r\nhello\r\n00A;x=\"y\"\r\n, world!!!\r\n0;last\r\n\r\n".len());
    }

    #[test]
    fn chunk_sizes_have_one_form() {
        for good in ["0\r\n\r\n", "000\r\n\r\n", "0;\r\n\r\n", "0;a\tb\r\n\r\n", "0000000000000000\r\n\r\n"] {
            assert!(chunked(good.as_bytes()).unwrap().done, "{good:?}");
        }
        assert!(chunked(b"7fffffffffffffff\r\nx").is_ok());
        let cases: [(&[u8], BodyFault); 22] = [
            (b"\r\n", BodyFault::ChunkSize),
            (b"\n", BodyFault::ChunkSize),
            (b";a\r\n", BodyFault::ChunkSize),
            (b"0x5\r\n", BodyFault::ChunkSize),
            (b"+5\r\n", BodyFault::ChunkSize),
            (b"-5\r\n", BodyFault::ChunkSize),
            (b"5_0\r\n", BodyFault::ChunkSize),
            (b" 5\r\n", BodyFault::ChunkSize),
            (b"5 \r\n", BodyFault::ChunkSize),
            (b"5\t;a\r\n", BodyFault::ChunkSize),
            (b"g\r\n", BodyFault::ChunkSize),
            (b"8000000000000000\r\n", BodyFault::ChunkSize),
            (b"00000000000000005\r\n", BodyFault::ChunkSize),
            (b"5\nhello\r\n", BodyFault::ChunkLine),
            (b"5\rhello\r\n", BodyFault::ChunkLine),
            (b"5;a\nhello\r\n", BodyFault::ChunkLine),
            (b"5;a\0\r\nhello", BodyFault::ChunkLine),
            (b"5;a\x7f\r\nhello", BodyFault::ChunkLine),
            (b"5\r\nhello\n", BodyFault::ChunkEnd),
            (b"5\r\nhello0\r\n", BodyFault::ChunkEnd),
            (b"5\r\nhello\rx", BodyFault::ChunkEnd),
            (b"5\r\nhello!\r\n", BodyFault::ChunkEnd),
        ];
        for (input, fault) in cases {
            assert_eq!(chunked(input), Err(fault), "{:?}", String::from_utf8_lossy(input));
        }
    }

    #[test]
    fn chunk_extensions_are_bounded_over_the_whole_message() {
        let chunk = format!("1;{}\r\nx\r\n", "e".repeat(1023));
        assert!(chunked(format!("{}0\r\n\r\n", chunk.repeat(16)).as_bytes()).unwrap().done);
        assert_eq!(chunked(format!("{}0;\r\n\r\n", chunk.repeat(16)).as_bytes()), Err(BodyFault::ChunkExtensions));
    }

    #[test]
    fn trailers_are_strict_and_filtered() {
        let text = "0\r\nGrpc-Status: 0\r\nContent-Length: 5\r\nHost: x\r\nAuthorization: x\r\nX-Forwarded-For: x\r\n\
            X-Forwarded-Any: x\r\nTransfer-Encoding: x\r\nSet-Cookie: x\r\na_b: x\r\nConnection: x\r\ndigest:y\r\n\r\n";
        let body = chunked(text.as_bytes()).unwrap();
        let kept = [("Grpc-Status", "0"), ("digest", "y")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!((body.trailers, body.taken), (kept.to_vec(), text.len()));
        let cases = [
            ("0\r\n\n", Refusal::BareLineFeed),
            ("0\r\nX: y\n\r\n", Refusal::BareLineFeed),
            ("0\r\nX: y\r\n\n", Refusal::BareLineFeed),
            ("0\r\nX : y\r\n\r\n", Refusal::SpaceBeforeColon),
            ("0\r\nX: y\r\n z\r\n\r\n", Refusal::FoldedField),
            ("0\r\nX: \0\r\n\r\n", Refusal::FieldValue),
            ("0\r\nGET / HTTP/1.1\r\n\r\n", Refusal::SpaceBeforeColon),
            ("0\r\n\rX: y\r\n\r\n", Refusal::BareCarriageReturn),
        ];
        for (input, refusal) in cases {
            assert_eq!(chunked(input.as_bytes()), Err(BodyFault::Trailers(refusal)), "{input:?}");
        }
        let many = |count| chunked(format!("0\r\n{}\r\n", "X: y\r\n".repeat(count)).as_bytes());
        assert_eq!(many(100).unwrap().trailers.len(), 100);
        assert_eq!(many(101), Err(BodyFault::Trailers(Refusal::TooManyFields)));
        let long = |size| chunked(format!("0\r\nX: {}\r\n\r\n", "y".repeat(size)).as_bytes());
        assert!(long(32 * 1024 - 7).unwrap().done);
        assert_eq!(long(32 * 1024 - 6), Err(BodyFault::Trailers(Refusal::HeadTooLarge)));
        assert!(many(101).is_err_and(BodyFault::is_excess) && long(32 * 1024).is_err_and(BodyFault::is_excess));
        assert!(!chunked(b"0\r\nX : y\r\n\r\n").is_err_and(BodyFault::is_excess));
    }

    #[test]
    fn chunk_heads_are_hexadecimal() {
        for length in [1, 9, 10, 15, 16, 255, 256, 65_536, 1 << 40, usize::MAX] {
            let mut out = Vec::new();
            chunk_head(&mut out, length);
            assert_eq!(out, format!("{length:x}\r\n").as_bytes());
        }
        let mut out = Vec::new();
        chunk_head(&mut out, 0);
        assert!(out.is_empty(), "a chunk of nothing would end the body");
    }

    #[test]
    fn what_may_not_trail_is_not_written_either() {
        let mut trailers = Fields::default();
        for name in ["Checksum", "Content-Length"] {
            trailers.push(crate::http::head::Known::of(name.as_bytes()), name.as_bytes(), b"1");
        }
        let mut out = Vec::new();
        last_chunk(&mut out, &trailers);
        assert_eq!(out, b"0\r\nChecksum: 1\r\n\r\n");
    }

    fn almost_chunks() -> impl Strategy<Value = Vec<u8>> {
        let known = [
            "5\r\nhello\r\n",
            "1;x\r\n!\r\n",
            "0\r\n",
            "\r\n",
            "X: y\r\n",
            "A",
            "\r",
            "\n",
            ";",
            "0\r\n\r\n",
            "Host: z\r\n",
        ];
        let part = prop_oneof![
            9 => proptest::sample::select(known.to_vec()).prop_map(|text| text.as_bytes().to_vec()),
            1 => proptest::collection::vec(any::<u8>(), 0..8),
        ];
        proptest::collection::vec(part, 0..10).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn a_body_is_the_same_however_it_is_split(
            input in almost_chunks(), stops in proptest::collection::vec(any::<proptest::sample::Index>(), 0..8)
        ) {
            let mut stops: Vec<_> = stops.into_iter().map(|stop| stop.index(input.len() + 1)).collect();
            stops.push(input.len());
            stops.sort_unstable();
            prop_assert_eq!(chunked(&input), read(Framing::Chunked, &input, &stops));
            let bytewise: Vec<_> = (0..=input.len()).collect();
            prop_assert_eq!(chunked(&input), read(Framing::Chunked, &input, &bytewise));
        }

        #[test]
        fn what_is_written_in_chunks_is_read_again(pieces in proptest::collection::vec("[a-z\r\n]{1,40}", 0..6)) {
            let mut out = Vec::new();
            for piece in &pieces {
                chunk_head(&mut out, piece.len());
                out.extend_from_slice(piece.as_bytes());
                out.extend_from_slice(CHUNK_END);
            }
            last_chunk(&mut out, &Fields::default());
            let body = chunked(&out).unwrap();
            prop_assert_eq!(body.data, pieces.concat().into_bytes());
            prop_assert!(body.done && body.taken == out.len());
        }
    }
}
