//! Bodies: however they are cut, their data is the same, and it is the data that the letter says.

use evenkeel::http::h1::body::{BodyFault, CHUNK_END, Decoder, Step, chunk_head, last_chunk};
use evenkeel::http::{Fields, Framing};

use super::head::{by_letter, pairs};
use super::letter::{Rules, Stop};
use super::{cuts, letter};

/// What came of a body after which its sender closed.
#[derive(Debug)]
pub struct Received {
    pub data: Vec<u8>,
    pub trailers: Fields,
    /// How many bytes were taken.
    pub length: usize,
    pub complete: bool,
}

/// A chunked body.
pub fn chunked(input: &[u8]) -> bool {
    let whole = receive(Framing::Chunked, input, &[input.len()]);
    let bytewise: Vec<_> = (1..=input.len()).collect();
    for cuts in [cuts(input), bytewise] {
        let pieces = receive(Framing::Chunked, input, &cuts);
        assert_eq!(format!("{pieces:?}"), format!("{whole:?}"), "cut at {cuts:?}");
    }
    let Ok(received) = whole else { return false };
    let read = letter::body(input, letter::Framing::Chunked, Rules::Letter);
    if !received.complete {
        assert!(read.is_err(), "by the letter it is complete: {read:?}");
        return false;
    }
    let (read, length) = read.expect("what is accepted is a chunked body by the letter");
    assert_eq!((length, &read.body), (received.length, &received.data));
    let mut of_letter = read.trailers.iter();
    assert!(pairs(&received.trailers).all(|kept| of_letter.any(|field| *field == kept)), "trailers are not made up");
    assert!(received.trailers.len() <= 100 && received.data.len() < received.length);
    sends_the_same(Framing::Chunked, &received);
    true
}

/// Takes a body that comes up to each of these places, one after the other, and then no further.
pub fn receive(framing: Framing, input: &[u8], cuts: &[usize]) -> Result<Received, BodyFault> {
    let mut decoder = Decoder::new(framing);
    let (mut data, mut at) = (Vec::new(), 0);
    for &cut in cuts {
        loop {
            match decoder.decode(&input[at..cut])? {
                Step::Data { skip, length } => {
                    assert!(length > 0, "data is at least a byte");
                    data.extend_from_slice(&input[at + skip..at + skip + length]);
                    at += skip + length;
                }
                Step::More { consumed } => {
                    at += consumed;
                    assert_eq!(at, cut, "framing is taken as it comes");
                    break;
                }
                Step::End { consumed } => {
                    at += consumed;
                    break;
                }
            }
        }
    }
    let complete = decoder.eof().is_ok();
    Ok(Received { data, trailers: decoder.take_trailers(), length: at, complete })
}

/// A body as it is sent on, framed so; one that did not come whole lacks its end.
pub fn send(framing: Framing, body: &Received) -> Vec<u8> {
    let mut out = Vec::new();
    if framing != Framing::Chunked {
        return body.data.clone();
    }
    for piece in body.data.chunks(1 + body.data.len() / 3) {
        chunk_head(&mut out, piece.len());
        out.extend_from_slice(piece);
        out.extend_from_slice(CHUNK_END);
    }
    if body.complete {
        last_chunk(&mut out, &body.trailers);
    }
    out
}

/// Whoever receives what is sent on reads the same data and trailers, and nothing besides.
pub fn sends_the_same(framing: Framing, body: &Received) {
    let sent = send(framing, body);
    let read = letter::body(&sent, by_letter(framing), Rules::Clean);
    if !body.complete {
        assert_eq!(read.err(), Some(Stop::More), "a cut body does not look whole");
        return;
    }
    let (read, length) = read.expect("what is sent is a clean body");
    assert_eq!((length, &read.body), (sent.len(), &body.data));
    if framing == Framing::Chunked {
        assert!(!read.extended && read.trailers.into_iter().eq(pairs(&body.trailers)));
    }
}
