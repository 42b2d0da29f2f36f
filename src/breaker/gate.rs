//! How many breakers of a pool may be open, and the gate that they pass one at a time to become so.
//!
//! Whether one more may open is asked of all backends of the pool, which takes several looks; two that asked at once could
//! both be told yes. So a breaker opens only inside the gate, one word for the pool. Nobody waits there: a failure that
//! finds it taken leaves the question to the next failure. There is no count that could go wrong with a reload.

use std::fmt;

use super::HAIR;
use crate::clock::Instant;
use crate::sync::{AtomicU64, Ordering};

/// After a no it is not asked again for this long: in an outage every request would look at all backends.
const HOLD_OFF: u64 = 100;

/// A no is told, and again only after a time without any.
const QUIET: u64 = 60_000;

/// What of a pool decides whether one more of its breakers may open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// All backends of the pool.
    pub backends: usize,
    /// Those of the others whose breaker is not closed.
    pub open: usize,
    /// Those of the others that are well and whose breaker is closed.
    pub serving: usize,
}

/// Why a breaker stays closed though its backend fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// As many are open as may be.
    Places {
        /// So many.
        open: usize,
        /// Of so many backends.
        backends: usize,
    },
    /// No other backend could serve.
    LastUsable,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Denied::Places { open, backends } => write!(f, "{open} of {backends} are open, which is max_open_ratio"),
            Denied::LastUsable => write!(f, "it is the last usable backend"),
        }
    }
}

impl Peers {
    /// Whether one more breaker may open, when at most this share of the pool may. One always may, as long as another
    /// backend serves.
    ///
    /// # Errors
    /// Says what is against it.
    pub fn allow_one_more(self, max_open_ratio: f64) -> Result<(), Denied> {
        let places = (max_open_ratio * self.backends as f64 + HAIR).floor().max(1.0);
        if self.serving == 0 {
            Err(Denied::LastUsable)
        } else if self.open as f64 >= places {
            Err(Denied::Places { open: self.open, backends: self.backends })
        } else {
            Ok(())
        }
    }
}

/// A pool's gate: 63 bits of the milliseconds of the last no, 0 for none, and one that says whether somebody is inside.
#[derive(Debug)]
pub struct Gate(AtomicU64);

impl Default for Gate {
    fn default() -> Self {
        Gate(AtomicU64::new(0))
    }
}

impl Gate {
    const TAKEN: u64 = 1 << 63;

    /// Goes in, unless somebody else is inside or there was a no a moment ago.
    pub fn enter(&self, now: Instant) -> Option<Inside<'_>> {
        // Relaxed: the exchange below decides.
        let word = self.0.load(Ordering::Relaxed);
        let is_soon = word != 0 && millis(now).saturating_sub(word) < HOLD_OFF;
        if word & Gate::TAKEN != 0 || is_soon {
            return None;
        }
        // Acquire: who goes in sees the breakers that were opened by those who left.
        self.0.compare_exchange(word, word | Gate::TAKEN, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(Inside { gate: self, denied: word })
    }
}

/// The proof of being inside. Dropping it is leaving.
#[derive(Debug)]
#[must_use = "dropping it leaves the gate"]
pub struct Inside<'a> {
    gate: &'a Gate,
    denied: u64,
}

/// Whether a no is news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It is to be told.
    Fresh,
    /// It was told lately.
    Stale,
}

impl Inside<'_> {
    /// Leaves with a no.
    pub fn deny(mut self, now: Instant) -> News {
        let before = std::mem::replace(&mut self.denied, millis(now));
        let is_news = before == 0 || self.denied.saturating_sub(before) >= QUIET;
        if is_news { News::Fresh } else { News::Stale }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        // Release: what was opened inside is seen by who comes next.
        self.gate.0.store(self.denied, Ordering::Release);
    }
}

/// Never 0, which means never.
fn millis(at: Instant) -> u64 {
    let millis = at.since(Instant::ORIGIN).as_millis();
    u64::try_from(millis).unwrap_or(u64::MAX).saturating_add(1) & !Gate::TAKEN
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::ORIGIN + Duration::from_millis(millis)
    }

    #[test]
    fn half_of_a_pool_may_open_and_one_always_may_but_never_the_last() {
        let allow = |backends, open, serving, ratio| Peers { backends, open, serving }.allow_one_more(ratio);
        assert_eq!(allow(4, 1, 2, 0.5), Ok(()));
        assert_eq!(allow(4, 2, 1, 0.5), Err(Denied::Places { open: 2, backends: 4 }));
        assert_eq!(allow(3, 0, 2, 0.5), Ok(()));
        assert_eq!(allow(3, 1, 1, 0.5), Err(Denied::Places { open: 1, backends: 3 }));
        assert_eq!(allow(2, 0, 1, 0.1), Ok(()), "one always may");
        assert_eq!(allow(1, 0, 0, 1.0), Err(Denied::LastUsable));
        assert_eq!(allow(4, 1, 0, 1.0), Err(Denied::LastUsable));
        assert_eq!(allow(10, 0, 9, 0.1), Ok(()));
        assert_eq!(allow(30, 2, 9, 0.1), Ok(()), "0.1 × 30 is 3");
    }

    #[test]
    fn one_at_a_time_is_inside() {
        let gate = Gate::default();
        let inside = gate.enter(at(5)).unwrap();
        assert!(gate.enter(at(500)).is_none());
        drop(inside);
        assert!(gate.enter(at(5)).is_some());
    }

    #[test]
    fn a_no_holds_for_a_moment_and_is_news_after_a_minute_of_quiet() {
        let gate = Gate::default();
        assert_eq!(gate.enter(at(0)).unwrap().deny(at(0)), News::Fresh);
        assert!(gate.enter(at(HOLD_OFF - 1)).is_none());
        let mut now = HOLD_OFF;
        for _ in 0..1000 {
            assert_eq!(gate.enter(at(now)).unwrap().deny(at(now)), News::Stale);
            now += HOLD_OFF;
        }
        drop(gate.enter(at(now)).unwrap());
        now += QUIET;
        assert_eq!(gate.enter(at(now)).unwrap().deny(at(now)), News::Fresh);
    }
}
