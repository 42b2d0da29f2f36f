//! How long a backend takes to answer: the peak-sensitive moving average of Finagle's `PeakEwma`, in one word.
//!
//! A sample above the estimate replaces it at once; one below pulls it down by the time that has passed, with a time
//! constant of 10 s. Read later, an estimate decays, so a backend that was slow once gets another chance.
//!
//! Failures are kept apart from what was measured, as a level by which the estimate is multiplied when it is read.
//! Written into the average itself, "twice the median of the peers" would feed on itself: each backend's failures would
//! raise the median for the others', and one failure in a hundred would within seconds drive a busy pool's estimates to
//! no meaning at all. And twice would not be enough: a backend that fails at once never has anything in flight, so
//! under load it would still win nearly every comparison. So each failure doubles and each answer takes back half an
//! octave; from one failure in three on, the level climbs.
//!
//! The word: 4 bits of level, 28 of an `f32` of seconds (its sign and the three bits of its exponent that its range
//! leaves unused are cut off, no precision is), 32 of wrapping milliseconds. 0 is no sample.

use std::time::Duration;

use super::{Candidate, Standing};
use crate::clock::Instant;

/// The time constant τ, in milliseconds: after it, 1/e of an old estimate is left.
const TAU_MILLIS: f32 = 10_000.0;

/// No sample is below a microsecond or above 256 s; what lies beyond reads as these. The range leaves the bits for
/// levels.
const LEAST: f32 = 1e-6;
const MOST: f32 = 256.0;

/// The exponent below those of the range, as it stands in the bits of an `f32`.
const EXPONENT_BASE: u32 = 104 << 23;

/// Half octaves per failure.
const FAILURE: u32 = 2;

/// 64 times: even in an idle pool that has decayed within 5 τ, and the backend is tried again.
const MOST_LEVEL: u32 = 12;

/// A stamp less than this ahead of `now` was set a moment ago by a worker with a newer `now`; one further ahead is old,
/// from before the milliseconds wrapped.
const AHEAD_MILLIS: u32 = 60_000;

/// The response-time estimate of one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate(u64);

/// What is in the word.
#[derive(Clone, Copy)]
struct Parts {
    /// The average of what was measured.
    seconds: f32,
    /// Half octaves of failure.
    level: u32,
    /// The milliseconds of the last sample or failure.
    stamp: u32,
}

impl Parts {
    fn pack(self) -> Estimate {
        let seconds = self.seconds.clamp(LEAST, MOST).to_bits() - EXPONENT_BASE;
        Estimate(u64::from(self.level << 28 | seconds) << 32 | u64::from(self.stamp))
    }

    /// What is compared: the average with its failures.
    fn charged(self) -> f32 {
        if self.level == 0 { self.seconds } else { self.seconds * factor(self.level) }
    }
}

impl Estimate {
    /// No sample yet.
    pub const UNKNOWN: Estimate = Estimate(0);

    /// The word to store; 0 is no sample.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// What [`Estimate::to_bits`] gave.
    #[must_use]
    pub fn from_bits(bits: u64) -> Estimate {
        Estimate(bits)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the word")]
    fn parts(self) -> Option<Parts> {
        let (high, stamp) = ((self.0 >> 32) as u32, self.0 as u32);
        let seconds = f32::from_bits((high & 0x0fff_ffff) + EXPONENT_BASE);
        self.is_sampled().then_some(Parts { seconds, level: high >> 28, stamp })
    }

    /// Whether there is a sample behind it.
    #[must_use]
    pub fn is_sampled(self) -> bool {
        self != Estimate::UNKNOWN
    }

    /// With a sample that was complete at `now`.
    #[must_use]
    pub fn observe(self, sample: Duration, now: Instant) -> Estimate {
        let sample = sample.as_secs_f32();
        let now = now.wrapping_millis();
        let Some(Parts { seconds, level, stamp }) = self.parts() else {
            return Parts { seconds: sample, level: 0, stamp: now }.pack();
        };
        let age = age_millis(stamp, now);
        // 1 - exp(-age/τ), exact for the small ages of a busy backend
        let gain = -(-(age as f32) / TAU_MILLIS).exp_m1();
        let seconds = if sample > seconds { sample } else { seconds + (sample - seconds) * gain };
        Parts { seconds, level: level_after_answer(level, gain), stamp: if age == 0 { stamp } else { now } }.pack()
    }

    /// After a failure that took `time_to_failure`, `median` being that of the backend's peers (see [`peer_median`]):
    /// it reads as no less than it did, than that time and than twice the median, because a failure must never look
    /// fast.
    ///
    /// With neither an estimate nor a median there is nothing to be slower than: it stays unknown, and so reads as the
    /// median as soon as there is one, where a quick refusal kept as a sample would win every comparison.
    #[must_use]
    pub fn failed(self, time_to_failure: Duration, median: Option<Duration>, now: Instant) -> Estimate {
        let before = self.parts();
        if before.is_none() && median.is_none() {
            return Estimate::UNKNOWN;
        }
        let (seconds, level) = before.map_or((LEAST, 0), |parts| (parts.seconds, parts.level));
        let level = MOST_LEVEL.min(level + FAILURE);
        // the level at least doubles, so the average never rises above the median for it, and medians do not feed on it
        let twice_median = median.map_or(LEAST, |median| 2.0 * median.as_secs_f32() / factor(level));
        let seconds = seconds.max(time_to_failure.as_secs_f32()).max(twice_median);
        Parts { seconds, level, stamp: now.wrapping_millis() }.pack()
    }

    /// The same without its failures.
    fn measured(self) -> Estimate {
        self.parts().map_or(self, |parts| Parts { level: 0, ..parts }.pack())
    }

    /// What it says at `now`, decayed; `None` without a sample.
    #[must_use]
    pub fn read(self, now: Instant) -> Option<Duration> {
        let parts = self.parts()?;
        let age = age_millis(parts.stamp, now.wrapping_millis());
        Some(Duration::from_secs_f32(parts.charged() * decay(age)))
    }
}

/// By how much a level multiplies.
fn factor(level: u32) -> f32 {
    (level as f32 / 2.0).exp2()
}

/// What is left of a level at an answer: it has decayed like the rest, and then half an octave less.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a level, rounded down")]
fn level_after_answer(level: u32, gain: f32) -> u32 {
    if level == 0 {
        return 0;
    }
    let left = factor(level) - (factor(level) - 1.0) * gain;
    // a hair more, so that a level from which nothing has decayed is not rounded to the one below
    ((2.0 * left.log2() + 0.01) as u32).saturating_sub(1)
}

/// How long ago `stamp` was, over the wrap of the milliseconds.
fn age_millis(stamp: u32, now: u32) -> u32 {
    let age = now.wrapping_sub(stamp);
    if age > u32::MAX - AHEAD_MILLIS { 0 } else { age }
}

/// What is left of an estimate after so long.
fn decay(age_millis: u32) -> f32 {
    let age = age_millis as f32 / TAU_MILLIS;
    // up to a tenth of a second 1 - x is as good as the exponential, and in a busy pool most ages are below that
    if age <= 0.01 { 1.0 - age } else { (-age).exp() }
}

/// The median of what was measured of the peers of the backend at `failing`, for [`Estimate::failed`]; `None` when none
/// has a sample. Peers are those that may take requests at `now` or are merely full.
#[must_use]
pub fn peer_median<C: Candidate>(among: &[C], failing: usize, now: Instant) -> Option<Duration> {
    let (before, after) = among.split_at(failing.min(among.len()));
    let peers = after.iter().skip(1).chain(before);
    let works = |peer: &&C| matches!(peer.standing(now), Standing::Usable | Standing::Full);
    let sampled = peers.filter(works).map(|peer| peer.latency().measured()).filter(|estimate| estimate.is_sampled());
    Panel::read(sampled, now).median().map(Duration::from_secs_f32)
}

/// The estimates of up to [`Panel::MOST`] backends, read side by side so that they can be compared.
///
/// Only their ratios matter, so they are decayed to the time of the freshest rather than to now: after a quiet night
/// the order in which a pool went to sleep is still there. Decay forgives but does not flatter: it takes an estimate no
/// lower than half of the lowest in the panel. Without that floor, a backend that comes back after a minute would read
/// as next to nothing and get every request until its first answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panel {
    /// NaN is no sample.
    seconds: [f32; Panel::MOST],
    len: usize,
}

impl Panel {
    /// How many are read at most; further ones are left out.
    pub const MOST: usize = 16;

    /// Reads `estimates` at `now`.
    pub fn read(estimates: impl Iterator<Item = Estimate>, now: Instant) -> Panel {
        let now = now.wrapping_millis();
        let mut panel = Panel { seconds: [f32::NAN; Panel::MOST], len: 0 };
        let mut ages = [u32::MAX; Panel::MOST];
        for (slot, estimate) in estimates.take(Panel::MOST).enumerate() {
            panel.len = slot + 1;
            if let Some(parts) = estimate.parts() {
                (panel.seconds[slot], ages[slot]) = (parts.charged(), age_millis(parts.stamp, now));
            }
        }
        let freshest = ages[..panel.len].iter().copied().min().unwrap_or(0);
        // f32::min and f32::max pass over NaN, so this is about those with a sample
        let floor = panel.seconds().iter().copied().fold(f32::NAN, f32::min) / 2.0;
        for (seconds, age) in panel.seconds.iter_mut().zip(ages).take(panel.len) {
            if !seconds.is_nan() {
                *seconds = (*seconds * decay(age - freshest)).max(floor);
            }
        }
        panel
    }

    /// The median of those with a sample, the mean of the middle two when they are an even number.
    pub fn median(&self) -> Option<f32> {
        let mut sorted = self.seconds;
        // NaN sorts behind every number
        sorted[..self.len].sort_unstable_by(f32::total_cmp);
        let sampled = sorted.iter().take_while(|seconds| !seconds.is_nan()).count();
        let (low, high) = (sorted.get(sampled.checked_sub(1)? / 2)?, sorted.get(sampled / 2)?);
        Some(f32::midpoint(*low, *high))
    }

    /// Lets those without a sample read as the median, or all alike when none has one.
    pub fn fill(&mut self) {
        if self.seconds().iter().any(|seconds| seconds.is_nan()) {
            let stand_in = self.median().unwrap_or(1.0);
            for seconds in self.seconds[..self.len].iter_mut().filter(|seconds| seconds.is_nan()) {
                *seconds = stand_in;
            }
        }
    }

    /// What was read, in order.
    pub fn seconds(&self) -> &[f32] {
        &self.seconds[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::Fake;
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(seconds: u64) -> Instant {
        Instant::ORIGIN + Duration::from_secs(seconds)
    }

    fn close(read: Option<Duration>, expected: Duration) {
        let read = read.expect("a sample");
        let off = read.as_secs_f64() / expected.as_secs_f64() - 1.0;
        assert!(off.abs() < 0.001, "{read:?}, not {expected:?}");
    }

    #[test]
    fn a_slow_sample_counts_at_once_and_a_fast_one_by_the_time_that_passed() {
        let slow = Estimate::UNKNOWN.observe(10 * MS, at(0)).observe(100 * MS, at(1));
        close(slow.read(at(1)), 100 * MS);
        let faster = slow.observe(10 * MS, at(11));
        close(faster.read(at(11)), Duration::from_secs_f64(0.010 + 0.090 * (-1f64).exp()));
    }

    #[test]
    fn reading_later_decays() {
        let estimate = Estimate::UNKNOWN.observe(100 * MS, at(5));
        close(estimate.read(at(15)), Duration::from_secs_f64(0.1 * (-1f64).exp()));
        assert_eq!(Estimate::UNKNOWN.read(at(15)), None);
    }

    #[test]
    fn thousands_of_samples_in_a_millisecond_weigh_what_the_time_weighs() {
        let mut estimate = Estimate::UNKNOWN.observe(100 * MS, at(1));
        for step in 0..100_000 {
            estimate = estimate.observe(MS, at(1) + step * Duration::from_micros(100));
        }
        close(estimate.read(at(11)), Duration::from_secs_f64(0.001 + 0.099 * (-1f64).exp()));
    }

    #[test]
    fn the_word_is_lossless_and_never_zero_with_a_sample() {
        let estimate = Estimate::UNKNOWN.observe(Duration::ZERO, Instant::ORIGIN);
        assert_ne!(estimate.to_bits(), 0);
        assert_eq!(Estimate::from_bits(estimate.to_bits()), estimate);
        assert_eq!(Estimate::from_bits(0), Estimate::UNKNOWN);
        close(estimate.read(Instant::ORIGIN), Duration::from_micros(1));
    }

    #[test]
    fn lan_latencies_stay_apart() {
        let quick = Estimate::UNKNOWN.observe(Duration::from_micros(180), at(1));
        let slower = Estimate::UNKNOWN.observe(Duration::from_micros(190), at(1));
        assert!(quick.read(at(1)) < slower.read(at(1)));
    }

    #[test]
    fn the_stamp_may_wrap() {
        let wrap = Duration::from_millis(1 << 32);
        let before = Instant::ORIGIN + wrap - Duration::from_secs(5);
        let estimate = Estimate::UNKNOWN.observe(100 * MS, before);
        close(estimate.read(before + Duration::from_secs(10)), Duration::from_secs_f64(0.1 * (-1f64).exp()));
        let observed = estimate.observe(10 * MS, before + Duration::from_secs(10));
        assert!(observed.read(before + Duration::from_secs(10)) < Some(45 * MS));
    }

    #[test]
    fn a_worker_with_an_older_now_neither_decays_nor_turns_the_stamp_back() {
        let estimate = Estimate::UNKNOWN.observe(100 * MS, at(20));
        assert_eq!(estimate.observe(10 * MS, at(19)), estimate);
        close(estimate.read(at(19)), 100 * MS);
        close(estimate.observe(200 * MS, at(19)).read(at(20)), 200 * MS);
    }

    #[test]
    fn a_failure_must_not_look_fast() {
        let fast = Estimate::UNKNOWN.observe(10 * MS, at(1));
        close(fast.failed(MS / 10, Some(20 * MS), at(2)).read(at(2)), 40 * MS);
        close(fast.failed(MS / 10, None, at(2)).read(at(2)), 20 * MS);
        assert!(fast.failed(300 * MS, Some(20 * MS), at(2)).read(at(2)) >= Some(300 * MS));
        close(Estimate::UNKNOWN.failed(MS / 10, Some(20 * MS), at(2)).read(at(2)), 40 * MS);
        assert_eq!(Estimate::UNKNOWN.failed(MS / 10, None, at(2)), Estimate::UNKNOWN);
        let far_below = Estimate::UNKNOWN.observe(MS / 100, at(1)).failed(MS / 100, Some(9000 * MS), at(2));
        close(far_below.read(at(2)), 18_000 * MS);
    }

    #[test]
    fn failure_after_failure_weighs_more_and_answers_take_it_back() {
        let mut estimate = Estimate::UNKNOWN.observe(10 * MS, at(1));
        for _ in 0..20 {
            estimate = estimate.failed(MS, Some(10 * MS), at(2));
        }
        close(estimate.read(at(2)), 640 * MS);
        let answered = estimate.observe(10 * MS, at(2));
        close(answered.read(at(2)), Duration::from_secs_f64(0.640 / 2f64.sqrt()));
        let answered = (0..11).fold(answered, |estimate, _| estimate.observe(10 * MS, at(2)));
        close(answered.read(at(2)), 10 * MS);
        close(estimate.observe(10 * MS, at(52)).read(at(52)), 10 * MS);
    }

    #[test]
    fn failures_of_a_whole_pool_do_not_feed_on_each_other() {
        let sampled = Fake::new(0).latency(Estimate::UNKNOWN.observe(10 * MS, at(1)));
        let mut among = [sampled.clone(), sampled];
        for turn in 0..400 {
            let failing = turn % 2;
            let median = peer_median(&among, failing, at(1));
            let failed = among[failing].latency.failed(MS, median, at(1));
            among[failing] = among[failing].clone().latency(failed);
            close(peer_median(&among, failing, at(1)), 10 * MS);
        }
    }

    #[test]
    fn the_median_is_that_of_working_peers_with_a_sample() {
        let sampled = |ms: u32| Fake::new(0).latency(Estimate::UNKNOWN.observe(ms * MS, at(1)));
        let among = [
            sampled(5),
            sampled(500),
            sampled(10),
            Fake::new(4),
            sampled(20).standing(Standing::Full),
            sampled(900).standing(Standing::Down),
        ];
        close(peer_median(&among, 1, at(1)), 10 * MS);
        close(peer_median(&among, 0, at(1)), 20 * MS);
        close(peer_median(&among, 3, at(1)), 15 * MS);
        assert_eq!(peer_median(&among[3..4], 0, at(1)), None);
        assert_eq!(peer_median(&among[..1], 0, at(1)), None);
    }

    #[test]
    fn decay_makes_no_estimate_much_better_than_the_best_measured() {
        let gone = Estimate::UNKNOWN.observe(100 * MS, at(0));
        let busy = Estimate::UNKNOWN.observe(50 * MS, at(600));
        assert_eq!(Panel::read([gone, busy].into_iter(), at(600)).seconds(), [0.025, 0.05]);
    }

    #[test]
    fn a_quiet_night_does_not_mix_up_the_order() {
        let estimates = [30, 10, 20].map(|ms| Estimate::UNKNOWN.observe(ms * MS, at(1)));
        assert_eq!(Panel::read(estimates.into_iter(), at(40_000)).seconds(), [0.03, 0.01, 0.02]);
    }
}
