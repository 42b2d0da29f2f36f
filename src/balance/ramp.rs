//! Slow start: how much of its weight a backend has that has come back.
//!
//! It begins with a hundredth and has all of it when the pool's `slow_start` is over, and in between as much as the time
//! that has passed. Weights are handled in hundredths for that, so that the lightest can ramp in whole numbers too.

use std::time::Duration;

/// One unit of configured weight.
pub const UNIT: u32 = 100;

/// `weight` in hundredths, `back_for` this long of the time that its return takes.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "it is no more than the full weight")]
pub fn ramped(weight: u32, back_for: Duration, slow_start: Duration) -> u32 {
    let full = weight * UNIT;
    if back_for >= slow_start {
        return full;
    }
    // A day is 8.64e13 ns and the heaviest weight 1e5 hundredths, so only what no file can say needs the wider numbers.
    let grown = u128::from(full - weight) * back_for.as_nanos() / slow_start.as_nanos();
    weight + grown as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_weight_grows_in_a_straight_line_from_a_hundredth_to_all_of_it() {
        let after = |weight, percent: u32| ramped(weight, DAY / 100 * percent, DAY);
        assert_eq!([0, 1, 50, 99, 100, 101].map(|percent| after(1, percent)), [1, 1, 50, 99, 100, 100]);
        assert_eq!([0, 10, 50, 100].map(|percent| after(1000, percent)), [1000, 10_900, 50_500, 100_000]);
        let steps: Vec<u32> = (0..=1000).map(|part| ramped(7, DAY / 1000 * part, DAY)).collect();
        assert!(steps.is_sorted() && steps.windows(2).all(|pair| pair[1] - pair[0] <= 1), "{steps:?}");
    }

    #[test]
    fn without_a_time_to_take_it_is_all_there_at_once() {
        assert_eq!(ramped(3, Duration::ZERO, Duration::ZERO), 300);
        assert_eq!(ramped(3, Duration::MAX, Duration::from_nanos(1)), 300);
    }
}
