//! The id of a request: what our answers, the backend's log and ours have in common.

use crate::balance::Dice;

/// The longest id that is taken over from a trusted proxy.
const LONGEST: usize = 128;

/// An id of 1 to 128 token characters, kept without an allocation.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestId {
    text: [u8; LONGEST],
    length: u8,
}

impl RequestId {
    /// A new one: 32 hexadecimal digits. It tells requests apart; it is no secret.
    pub(super) fn roll(dice: &mut Dice) -> RequestId {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; LONGEST];
        for half in text[..32].chunks_exact_mut(16) {
            let mut bits = dice.next();
            for digit in half {
                *digit = DIGITS[(bits & 15) as usize];
                bits >>= 4;
            }
        }
        RequestId { text, length: 32 }
    }

    /// One that was given; `None` when it is too long.
    pub(super) fn given(id: &str) -> Option<RequestId> {
        let mut text = [0; LONGEST];
        text.get_mut(..id.len())?.copy_from_slice(id.as_bytes());
        Some(RequestId { text, length: u8::try_from(id.len()).ok()? })
    }

    pub(super) fn as_str(&self) -> &str {
        // Made from a str or from digits only, so this never comes out empty.
        std::str::from_utf8(&self.text[..usize::from(self.length)]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_are_hexadecimal() {
        let mut dice = Dice::seeded(1);
        let (one, two) = (RequestId::roll(&mut dice), RequestId::roll(&mut dice));
        assert_eq!(one.as_str().len(), 32);
        assert!(one.as_str().bytes().all(|digit| digit.is_ascii_hexdigit()));
        assert_ne!(one.as_str(), two.as_str());
    }

    #[test]
    fn a_given_id_is_kept_up_to_its_longest() {
        assert_eq!(RequestId::given("abc-1").unwrap().as_str(), "abc-1");
        assert_eq!(RequestId::given(&"x".repeat(LONGEST)).unwrap().as_str().len(), LONGEST);
        assert!(RequestId::given(&"x".repeat(LONGEST + 1)).is_none());
    }
}
