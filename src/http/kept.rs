//! What is kept of a request's body so that it can be sent once more.
//!
//! Small bodies are kept whole; of one that is larger nothing is, as it can not be repeated anyway.

use super::Fields;

/// The largest body that is kept, in bytes (semantics.md §6).
pub const MOST_KEPT: usize = 16 * 1024;

/// The part of a body that was taken from its source, if it is kept, and how much of that was sent in this attempt.
#[derive(Debug, Default)]
pub struct Kept {
    bytes: Vec<u8>,
    sent: usize,
    trailers: Fields,
    keeping: Keeping,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Keeping {
    /// Nothing was taken yet, and what is taken will not be kept.
    #[default]
    Nothing,
    /// All that was taken is there.
    All,
    /// Some was taken that is not there.
    Lost,
}

impl Kept {
    /// A new body begins.
    pub fn begin(&mut self) {
        self.bytes.clear();
        self.sent = 0;
        self.trailers = Fields::default();
        self.keeping = Keeping::Nothing;
    }

    /// From now on what is taken is kept, unless some was taken already that was not.
    pub fn keep(&mut self) {
        if self.keeping == Keeping::Nothing {
            self.keeping = Keeping::All;
        }
    }

    /// Sends what is there once more.
    pub fn rewind(&mut self) {
        self.sent = 0;
    }

    /// Whether the body can be sent from its beginning.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.keeping != Keeping::Lost
    }

    /// What is to be sent before anything more is taken from the source.
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// So much of it was sent.
    pub fn consume(&mut self, count: usize) {
        self.sent += count;
    }

    /// Whether what is taken from the source is kept.
    #[must_use]
    pub fn keeps(&self) -> bool {
        self.keeping == Keeping::All
    }

    /// This is taken from the source and sent, if it [keeps](Kept::keeps) anything.
    pub fn take(&mut self, data: &[u8]) {
        if self.keeps() && self.bytes.len() + data.len() <= MOST_KEPT {
            self.bytes.extend_from_slice(data);
            self.sent = self.bytes.len();
        } else {
            self.lose();
        }
    }

    /// The trailer fields to send: those that the source gave in this attempt, or in one before.
    pub fn trailers(&mut self, given: Fields) -> Fields {
        if !self.keeps() {
            return given;
        }
        if !given.is_empty() {
            self.trailers = given;
        }
        self.trailers.clone()
    }

    /// Nothing is repeated any more: what is taken from here on need not be kept. What is unsent stays.
    pub fn settle(&mut self) {
        self.keeping = Keeping::Lost;
    }

    /// Something was taken from the source that is not kept. All was sent that was.
    pub fn lose(&mut self) {
        self.keeping = Keeping::Lost;
        self.bytes.clear();
        self.sent = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(whether: bool) -> Kept {
        let mut kept = Kept::default();
        if whether {
            kept.keep();
        }
        kept
    }

    #[test]
    fn a_small_body_can_be_sent_again_and_goes_on_where_it_was() {
        let mut kept = kept(true);
        kept.take(b"one ");
        kept.take(b"two ");
        assert_eq!(kept.unsent(), b"");
        kept.rewind();
        assert_eq!(kept.unsent(), b"one two ");
        kept.consume(5);
        assert_eq!(kept.unsent(), b"wo ");
        kept.consume(3);
        kept.take(b"three");
        kept.rewind();
        assert_eq!((kept.unsent(), kept.is_whole()), (&b"one two three"[..], true));
    }

    #[test]
    fn what_is_kept_stays_when_it_is_asked_for_again() {
        let mut kept = kept(true);
        kept.take(b"body");
        kept.keep();
        kept.rewind();
        assert_eq!(kept.unsent(), b"body");
    }

    #[test]
    fn a_body_beyond_the_bound_is_not_kept_at_all() {
        let mut kept = kept(true);
        kept.take(&[0; MOST_KEPT]);
        assert!(kept.is_whole());
        kept.take(&[0]);
        assert!(!kept.is_whole());
        kept.rewind();
        assert_eq!(kept.unsent(), b"");
    }

    #[test]
    fn what_is_not_to_be_kept_is_whole_until_some_of_it_is_taken() {
        let mut kept = kept(false);
        assert!(kept.is_whole());
        kept.take(b"x");
        assert!(!kept.is_whole() && kept.unsent().is_empty());
        kept.keep();
        assert!(!kept.is_whole(), "it is too late");
        kept.begin();
        assert!(kept.is_whole(), "the next body is another one");
    }

    #[test]
    fn what_was_not_sent_again_when_the_answer_came_is_sent_still() {
        let mut kept = kept(true);
        kept.take(b"body");
        kept.rewind();
        kept.settle();
        assert_eq!(kept.unsent(), b"body");
        kept.consume(4);
        kept.take(b"more");
        assert_eq!(kept.unsent(), b"");
    }
}
