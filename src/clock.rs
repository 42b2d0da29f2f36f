//! The one place that reads time.
//!
//! Everything that decides takes an [`Instant`] as an argument; only shells call [`now`]. An instant counts nanoseconds
//! from an origin of this process, so it fits into one atomic word, and tests make theirs by hand:
//! `Instant::ORIGIN + Duration::from_secs(3)`. The clock underneath is tokio's, so paused tests move it.

use std::ops::{Add, Sub};
use std::sync::OnceLock;
use std::time::Duration;

/// A point in time, in nanoseconds since the process's origin (584 years fit).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The origin of the clock; the instant from which hand-made times count.
    pub const ORIGIN: Instant = Instant(0);

    /// Later than any that comes.
    pub const NEVER: Instant = Instant(u64::MAX);

    /// The time from `earlier` to this, zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Whole milliseconds since the origin, wrapping after 49 days: the stamp that fits beside an estimate in one word.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "wrapping is the contract")]
    pub fn wrapping_millis(self) -> u32 {
        (self.0 / 1_000_000) as u32
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    /// Saturates at the end of time.
    fn add(self, by: Duration) -> Instant {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(nanos))
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;

    /// Saturates at the origin.
    fn sub(self, by: Duration) -> Instant {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_sub(nanos))
    }
}

fn origin() -> tokio::time::Instant {
    static ORIGIN: OnceLock<tokio::time::Instant> = OnceLock::new();
    *ORIGIN.get_or_init(tokio::time::Instant::now)
}

/// The current time.
#[must_use]
pub fn now() -> Instant {
    let origin = origin();
    Instant::ORIGIN + tokio::time::Instant::now().saturating_duration_since(origin)
}

/// The same point as tokio's timers want it.
#[must_use]
pub fn timer(at: Instant) -> tokio::time::Instant {
    origin() + at.since(Instant::ORIGIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_saturate() {
        let t0 = Instant::ORIGIN + Duration::from_secs(3);
        assert_eq!((t0 + Duration::from_secs(2)).since(t0), Duration::from_secs(2));
        assert_eq!(t0.since(t0 + Duration::from_secs(2)), Duration::ZERO);
        assert_eq!(t0 - Duration::from_secs(9), Instant::ORIGIN);
    }

    #[test]
    fn a_timer_stands_for_the_same_point() {
        let at = now() + Duration::from_secs(5);
        let distance = timer(at).saturating_duration_since(tokio::time::Instant::now());
        assert!(distance > Duration::from_secs(4) && distance <= Duration::from_secs(5));
    }
}
