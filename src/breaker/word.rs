//! The one word that all workers share of a breaker: its state with what belongs to it, the epoch, and how often it opened
//! in a row. One word, so that "is there a probe left, and may I have it?" is asked and answered in one step.
//!
//! From the top: 2 bits of state, 20 of epoch, 6 of doublings, 36 that each state uses as it likes. 0 is a new breaker.

use std::time::Duration;

use crate::clock::Instant;

const STATE_SHIFT: u32 = 62;
const EPOCH_SHIFT: u32 = 42;
const EPOCH_MASK: u64 = (1 << 20) - 1;
const DOUBLINGS_SHIFT: u32 = 36;
const DOUBLINGS_MASK: u64 = (1 << 6) - 1;
const REST_MASK: u64 = (1 << 36) - 1;
const PASSED_SHIFT: u32 = 16;
const HALF_OPEN_MASK: u64 = (1 << 16) - 1;

/// Counts transitions. After a million it begins anew: an answer would have to be late by exactly as many to be mistaken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch(u32);

impl Epoch {
    /// That of a new breaker.
    pub const FIRST: Epoch = Epoch(0);

    pub(super) fn next(self) -> Epoch {
        Epoch((self.0 + 1) & EPOCH_MASK as u32)
    }

    /// As a number, for what is to differ from epoch to epoch.
    pub(super) fn number(self) -> u32 {
        self.0
    }
}

/// A point in time in milliseconds, wrapping after two years: the end of an open time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Until(u64);

impl Until {
    #[expect(clippy::cast_possible_truncation, reason = "wrapping is the contract")]
    pub fn at(at: Instant) -> Until {
        Until(at.since(Instant::ORIGIN).as_millis() as u64 & REST_MASK)
    }

    /// Whether it has come. One that was passed more than a year ago, with nobody asking since, would read as to come.
    pub fn is_over(self, now: Instant) -> bool {
        Until::at(now).0.wrapping_sub(self.0) & REST_MASK <= REST_MASK / 2
    }

    /// How long it is until it comes.
    pub fn left(self, now: Instant) -> Duration {
        match self.is_over(now) {
            true => Duration::ZERO,
            false => Duration::from_millis(self.0.wrapping_sub(Until::at(now).0) & REST_MASK),
        }
    }
}

/// What is in the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    pub epoch: Epoch,
    /// How often it opened again from half-open since it was last closed.
    pub doublings: u32,
    pub course: Course,
}

/// The state and what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Course {
    /// All is let through.
    Closed {
        /// Failures since the last success, over all workers.
        failures: u32,
    },
    /// Nothing is let through until then.
    Open { until: Until },
    /// A few probes are let through.
    HalfOpen {
        /// Those under way.
        probing: u32,
        /// Those that succeeded.
        passed: u32,
    },
}

/// Whether a word is that of a closed breaker: what every pick asks.
pub(super) fn is_closed(word: u64) -> bool {
    word >> STATE_SHIFT == 0
}

/// The epoch of a word.
pub(super) fn epoch(word: u64) -> Epoch {
    Epoch((word >> EPOCH_SHIFT & EPOCH_MASK) as u32)
}

/// Whether a word is that of a breaker that is closed in this epoch, and nothing has failed since the last success: what
/// nearly every answer finds.
pub(super) fn is_calm(word: u64, epoch: Epoch) -> bool {
    word == u64::from(epoch.0) << EPOCH_SHIFT
}

impl Parts {
    #[expect(clippy::cast_possible_truncation, reason = "each part is masked to its width")]
    pub fn of(word: u64) -> Parts {
        let rest = word & REST_MASK;
        let course = match word >> STATE_SHIFT {
            0 => Course::Closed { failures: rest.min(u64::from(u32::MAX)) as u32 },
            1 => Course::Open { until: Until(rest) },
            _ => Course::HalfOpen {
                probing: (rest & HALF_OPEN_MASK) as u32,
                passed: (rest >> PASSED_SHIFT & HALF_OPEN_MASK) as u32,
            },
        };
        Parts { epoch: epoch(word), doublings: (word >> DOUBLINGS_SHIFT & DOUBLINGS_MASK) as u32, course }
    }

    pub fn word(self) -> u64 {
        let (state, rest) = match self.course {
            Course::Closed { failures } => (0, u64::from(failures)),
            Course::Open { until } => (1, until.0),
            Course::HalfOpen { probing, passed } => {
                (2, u64::from(probing) & HALF_OPEN_MASK | (u64::from(passed) & HALF_OPEN_MASK) << PASSED_SHIFT)
            }
        };
        let doublings = u64::from(self.doublings).min(DOUBLINGS_MASK);
        state << STATE_SHIFT | u64::from(self.epoch.0) << EPOCH_SHIFT | doublings << DOUBLINGS_SHIFT | rest
    }

    /// The same with another course in the same epoch.
    pub fn with(self, course: Course) -> Parts {
        Parts { course, ..self }
    }

    /// The next epoch.
    pub fn enter(self, course: Course, doublings: u32) -> Parts {
        Parts { epoch: self.epoch.next(), doublings, course }
    }
}

/// The time to stay open: doubled for each time in a row, at most `most`, and up to a fifth more or less by `chance`.
pub(super) fn open_time(first: Duration, most: Duration, doublings: u32, chance: u64) -> Duration {
    let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
    let time = first.saturating_mul(factor).min(most);
    // 16 bits of chance are plenty to keep backends out of step.
    time.mul_f64(0.8 + 0.4 * (chance & 0xffff) as f64 / 65_536.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_new_breaker_is_all_zeroes() {
        let new = Parts { epoch: Epoch::default(), doublings: 0, course: Course::Closed { failures: 0 } };
        assert_eq!(Parts::of(0), new);
        assert_eq!(new.word(), 0);
        assert!(is_closed(0));
    }

    #[test]
    fn the_epoch_begins_anew_without_touching_its_neighbours() {
        let last = Parts { epoch: Epoch(EPOCH_MASK as u32), doublings: 3, course: Course::Closed { failures: 7 } };
        let next = last.enter(last.course, 3);
        assert_eq!(Parts::of(next.word()), Parts { epoch: Epoch(0), ..last });
    }

    #[test]
    fn a_time_is_over_from_its_moment_on_also_across_the_wrap() {
        let two_years = Duration::from_millis(REST_MASK + 1);
        for at in [Duration::from_secs(5), two_years - Duration::from_millis(3), two_years * 3] {
            let at = Instant::ORIGIN + at;
            let until = Until::at(at);
            assert!(!until.is_over(at - Duration::from_millis(1)) && !until.is_over(at - Duration::from_secs(86_400)));
            assert!(until.is_over(at) && until.is_over(at + Duration::from_secs(30 * 86_400)));
            let late = Duration::from_millis(4_321);
            assert_eq!(
                (until.left(at), until.left(at + late), until.left(at - late)),
                (Duration::ZERO, Duration::ZERO, late)
            );
        }
    }

    #[test]
    fn the_open_time_doubles_up_to_its_limit_within_a_fifth() {
        let (first, most) = (Duration::from_secs(5), Duration::from_secs(60));
        for (doublings, about) in [(0, 5), (1, 10), (2, 20), (3, 40), (4, 60), (40, 60), (63, 60)] {
            for chance in [0, 0x8000, 0xffff, u64::MAX] {
                let time = open_time(first, most, doublings, chance).as_secs_f64();
                let about = f64::from(about);
                assert!(time >= 0.799 * about && time <= 1.201 * about, "{doublings} doublings: {time}");
            }
        }
        assert_ne!(open_time(first, most, 0, 1), open_time(first, most, 0, 0x7000));
    }

    fn any_course() -> impl Strategy<Value = Course> {
        prop_oneof![
            any::<u32>().prop_map(|failures| Course::Closed { failures }),
            (0..=REST_MASK).prop_map(|until| Course::Open { until: Until(until) }),
            (0..65_536u32, 0..65_536u32).prop_map(|(probing, passed)| Course::HalfOpen { probing, passed }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_put_in_comes_out(epoch in 0..=EPOCH_MASK as u32, doublings in 0..64u32, course in any_course()) {
            let parts = Parts { epoch: Epoch(epoch), doublings, course };
            prop_assert_eq!(Parts::of(parts.word()), parts);
            prop_assert_eq!(is_closed(parts.word()), matches!(course, Course::Closed { .. }));
            let calm = Course::Closed { failures: 0 };
            prop_assert_eq!(is_calm(parts.word(), Epoch(epoch)), course == calm && doublings == 0);
            let calm = Parts { doublings: 0, course: calm, ..parts };
            prop_assert!(is_calm(calm.word(), Epoch(epoch)) && !is_calm(calm.word(), Epoch(epoch).next()));
        }
    }
}
