//! Since when a backend is back in service: where its slow start began.

use crate::clock::Instant;
use crate::sync::{AtomicU64, Ordering};

/// The instant of the latest return, in nanoseconds since the clock's origin; 0 for a backend that never was away.
#[derive(Debug)]
pub(super) struct Return(AtomicU64);

impl Return {
    pub(super) fn never() -> Return {
        Return(AtomicU64::new(0))
    }

    /// It returns at `now`, and not for the first time perhaps.
    pub(super) fn note(&self, now: Instant) {
        let nanos = now.since(Instant::ORIGIN).as_nanos();
        // Relaxed: the word is all there is to see. Whoever sees the return a moment before this word, because that is said
        // elsewhere, picks once more by the full weight.
        self.0.store(u64::try_from(nanos).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    }

    /// When that was, if it ever was.
    pub(super) fn at(&self) -> Option<Instant> {
        // Relaxed: see `note`.
        let nanos = self.0.load(Ordering::Relaxed);
        (nanos > 0).then(|| Instant::ORIGIN + std::time::Duration::from_nanos(nanos))
    }
}
