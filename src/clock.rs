//! The one place that reads time.
//!
//! Everything that decides takes an [`Instant`] as an argument; only shells call [`now`]. An instant counts nanoseconds
//! from an origin of this process, so it fits into one atomic word, and tests make theirs by hand:
//! `Instant::ORIGIN + Duration::from_secs(3)`. The clock underneath is tokio's, so paused tests move it.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// A point of the calendar, in whole seconds since 1970 began (UTC): for what the outside world dates, such as
/// certificates. Whoever measures or waits takes an [`Instant`], which nobody can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date(pub i64);

/// Seconds of a day.
const DAY: i64 = 86_400;

/// Days of 400 years, after which the calendar repeats itself.
const ERA: i64 = 146_097;

impl Date {
    /// Whole days from `earlier` to this, rounded down; negative when it is not earlier.
    #[must_use]
    pub fn days_since(self, earlier: Date) -> i64 {
        (self.0 - earlier.0).div_euclid(DAY)
    }

    /// Year, month and day.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "months and days are small; years are told for dates that people name"
    )]
    pub fn civil(self) -> (i32, u8, u8) {
        // Years are counted from March here, so that a leap day is the last of its year; a month's first day is then 30.6 days
        // a month behind that, rounded. 719468 days lie between the first of March of the year 0 and 1970.
        let days = self.0.div_euclid(DAY) + 719_468;
        let (era, day) = (days.div_euclid(ERA), days.rem_euclid(ERA));
        let year = (day - day / 1460 + day / 36_524 - day / (ERA - 1)) / 365;
        let of_year = day - (365 * year + year / 4 - year / 100);
        let month = (5 * of_year + 2) / 153;
        let of_month = of_year - (153 * month + 2) / 5 + 1;
        let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        ((era * 400 + year + next) as i32, month as u8, of_month as u8)
    }
}

/// As `2026-04-01`; with `{:#}` as `2026-04-01T12:30:00Z` (RFC 3339).
impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.civil();
        write!(f, "{year:04}-{month:02}-{day:02}")?;
        if !f.alternate() {
            return Ok(());
        }
        let second = self.0.rem_euclid(DAY);
        write!(f, "T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
    }
}

/// What the system's calendar says.
#[must_use]
pub fn today() -> Date {
    let seconds = |length: Duration| i64::try_from(length.as_secs()).unwrap_or(i64::MAX);
    // A clock before 1970 is wrong, but can be told all the same.
    Date(match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => seconds(since),
        Err(before) => -seconds(before.duration()),
    })
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
    fn a_date_is_told_as_in_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(format!("{:#}", Date(seconds)), text);
            assert_eq!(Date(seconds).to_string(), text[..10]);
        }
        assert!(today() > Date(1_700_000_000));
    }

    #[test]
    fn a_day_counts_when_it_is_over() {
        let noon = Date(DAY / 2);
        for (seconds, days) in [(0, 0), (DAY - 1, 0), (DAY, 1), (-1, -1), (-DAY, -1)] {
            assert_eq!(Date(noon.0 + seconds).days_since(noon), days, "{seconds}");
        }
    }

    #[test]
    fn a_timer_stands_for_the_same_point() {
        let at = now() + Duration::from_secs(5);
        let distance = timer(at).saturating_duration_since(tokio::time::Instant::now());
        assert!(distance > Duration::from_secs(4) && distance <= Duration::from_secs(5));
    }
}
