//! Which byte may stand where: tables and scans that the parsers of this room share.

/// The byte may stand in a token (RFC 9110 §5.6.2).
pub(super) const TOKEN: u8 = 1;
/// The byte is an underscore, a token character that names from clients may not have.
pub(super) const UNDERSCORE: u8 = 2;

/// For each byte, whether it may stand in a token, and whether it is an underscore.
pub(super) static NAME: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        if is_token_byte(byte as u8) {
            table[byte] = TOKEN;
        }
        byte += 1;
    }
    table[b'_' as usize] = TOKEN | UNDERSCORE;
    table
};

const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

/// Whether this is a token (RFC 9110 §5.6.2): one or more of its characters and nothing else.
#[must_use]
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| NAME[byte as usize] != 0)
}

const ONES: u64 = u64::MAX / 255;
const HIGHS: u64 = ONES << 7;

/// Where the first byte below `LEAST`, or DEL, stands at or after `from`; `LEAST` is at most 128.
///
/// Eight bytes at a time: a subtraction sets the high bit of each byte that is too small. A borrow may mark a byte above a
/// true hit as well, never one below it, so the lowest mark is right.
#[inline]
pub(super) fn find_below_or_del<const LEAST: u64>(input: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(eight) = input.get(at..at + 8).and_then(|slice| slice.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*eight);
        let small = word.wrapping_sub(ONES * LEAST) & !word;
        let other = word ^ (ONES * 0x7f);
        let del = other.wrapping_sub(ONES) & !other;
        let marks = (small | del) & HIGHS;
        if marks != 0 {
            return Some(at + marks.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    let rest = input.get(at..)?;
    rest.iter().position(|&byte| u64::from(byte) < LEAST || byte == 0x7f).map(|offset| at + offset)
}

/// The text without spaces and tabs at its ends.
pub(super) fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// The members of a comma-separated list, trimmed; empty ones are passed over (RFC 9110 §5.6.1.2).
pub(super) fn members(list: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    list.split(|&byte| byte == b',').map(trim).filter(|member| !member.is_empty())
}

/// Appends a number in decimal.
pub(super) fn push_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_found_wherever_it_stands() {
        for byte in 0..=255 {
            for length in 0..20 {
                for place in 0..length {
                    let mut text = vec![b'a'; length];
                    text[place] = byte;
                    let expected = (byte < 0x20 || byte == 0x7f).then_some(place);
                    assert_eq!(find_below_or_del::<0x20>(&text, 0), expected, "{byte} at {place} of {length}");
                    let expected = (byte < 0x21 || byte == 0x7f).then_some(place);
                    assert_eq!(find_below_or_del::<0x21>(&text, 0), expected, "{byte} at {place} of {length}");
                }
            }
        }
    }

    #[test]
    fn the_first_of_several_is_found() {
        assert_eq!(find_below_or_del::<0x20>(b"aaaa\x7f\x00\x80\xff\r\n", 0), Some(4));
        assert_eq!(find_below_or_del::<0x20>(b"\xff\x80\x9f\x80\x80\x81\x20\x21\r\n", 0), Some(8));
        assert_eq!(find_below_or_del::<0x20>(b"\raaaaaaaaaaaaaaa", 1), None);
        assert_eq!(find_below_or_del::<0x20>(b"abc", 7), None);
    }

    #[test]
    fn tokens_have_no_separators() {
        for byte in 0..=255u8 {
            let separator = b"\"(),/:;<=>?@[\\]{} ".contains(&byte);
            assert_eq!(is_token(&[byte]), byte.is_ascii_graphic() && !separator, "{byte}");
        }
        assert!(!is_token(b""));
    }

    #[test]
    fn numbers_are_written_in_decimal() {
        for number in [0, 7, 10, 4096, u64::MAX] {
            let mut out = Vec::new();
            push_decimal(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }
}
