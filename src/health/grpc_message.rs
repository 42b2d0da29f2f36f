//! The two messages of `grpc.health.v1.Health/Check`, by hand: a string in one, an enumeration in the other.
//!
//! The encodings are those of protocol buffers (varints, tags of field number and wire type) within gRPC's frame of five
//! bytes: whether it is compressed, and its length.

/// The message can not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The bytes before each message.
const FRAME: usize = 5;
/// Field 1 of wire type 2: a string.
const SERVICE: u8 = 1 << 3 | 2;
/// Field 1 of wire type 0: a varint.
const STATUS: u64 = 1 << 3;
/// No varint has more.
const MOST_VARINT_BYTES: usize = 10;

/// A `HealthCheckRequest` for this service, in its frame.
#[must_use]
pub fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    // A field that has its default is left out.
    if !service.is_empty() {
        message.push(SERVICE);
        push_varint(&mut message, service.len() as u64);
        message.extend_from_slice(service.as_bytes());
    }
    // A configuration file has not room for a longer one.
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut framed = Vec::with_capacity(FRAME + message.len());
    framed.push(0);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend(message);
    framed
}

/// The `ServingStatus` of a `HealthCheckResponse` in its frame.
///
/// # Errors
/// It is not exactly one such message, uncompressed.
pub fn serving_status(framed: &[u8]) -> Result<u64, Malformed> {
    let (frame, mut message) = framed.split_at_checked(FRAME).ok_or(Malformed)?;
    let [0, length @ ..] = frame else { return Err(Malformed) };
    let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    if message.len() != length {
        return Err(Malformed);
    }
    let mut status = 0;
    while !message.is_empty() {
        match take_varint(&mut message)? {
            // The last of several counts.
            STATUS => status = take_varint(&mut message)?,
            tag => skip(&mut message, tag)?,
        }
    }
    Ok(status)
}

fn push_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

fn take_varint(from: &mut &[u8]) -> Result<u64, Malformed> {
    let mut number = 0;
    for place in 0..MOST_VARINT_BYTES {
        let (&byte, rest) = from.split_first().ok_or(Malformed)?;
        *from = rest;
        // What does not fit is lost, as protocol buffers have it.
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Malformed)
}

/// Passes over the value of a field that we do not know.
fn skip(from: &mut &[u8], tag: u64) -> Result<(), Malformed> {
    let length = match tag & 7 {
        0 => return take_varint(from).map(drop),
        1 => 8,
        2 => usize::try_from(take_varint(from)?).map_err(|_| Malformed)?,
        5 => 4,
        _ => return Err(Malformed),
    };
    *from = from.get(length..).ok_or(Malformed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        let mut framed = vec![0];
        framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        framed.extend_from_slice(message);
        framed
    }

    #[test]
    fn a_request_names_its_service_or_nothing() {
        assert_eq!(request(""), [0, 0, 0, 0, 0]);
        assert_eq!(request("a.B"), [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        let long = request(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
    }

    #[test]
    fn a_status_is_read_and_unknown_fields_are_passed_over() {
        assert_eq!(serving_status(&framed(&[8, 1])), Ok(1));
        assert_eq!(serving_status(&framed(&[])), Ok(0), "a default is left out");
        let around = [0x12, 2, 9, 9, 0x18, 0x80, 1, 8, 2, 0x25, 1, 2, 3, 4, 0x29, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(serving_status(&framed(&around)), Ok(2));
    }

    #[test]
    fn what_is_not_one_whole_message_is_refused() {
        let whole = framed(&[8, 1]);
        let compressed = [&[1], &whole[1..]].concat();
        for wrong in [&whole[..6], &[&whole[..], b"x"].concat(), &compressed, &framed(&[8]), &framed(&[0x0a, 9]), b""] {
            assert_eq!(serving_status(wrong), Err(Malformed), "{wrong:?}");
        }
        assert_eq!(serving_status(&framed(&[0x80; 11])), Err(Malformed), "a varint without end");
        assert_eq!(serving_status(&framed(&[0x0b])), Err(Malformed), "a wire type that is no more");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = serving_status(&bytes);
            let _ = serving_status(&framed(&bytes));
        }

        #[test]
        fn a_number_is_taken_as_it_was_pushed(number: u64) {
            let mut bytes = Vec::new();
            push_varint(&mut bytes, number);
            prop_assert_eq!(take_varint(&mut &bytes[..]), Ok(number));
        }
    }
}
