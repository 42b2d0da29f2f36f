//! How long a backend takes to answer: the peak-sensitive moving average of Finagle's `PeakEwma`, in one word.
//!
//! A sample above the estimate replaces it at once; one below pulls it down by the time that has passed, with a time
//! constant of 10 s. Read later, an estimate decays, so a backend that was slow once gets another chance. The word is
//! `f32` seconds beside a stamp of wrapping milliseconds, so all workers share it in one atomic. No word with a sample is
//! 0, because no estimate is below [`LEAST`].

use std::time::Duration;

use super::{Candidate, Standing};
use crate::clock::Instant;

/// The time constant τ, in milliseconds: after it, 1/e of an old estimate is left.
const TAU_MILLIS: f32 = 10_000.0;

/// No sample is below a microsecond …
const LEAST: f32 = 1e-6;

/// … nor above a minute: failures while most of a pool fails double the estimates of each other, and the way back from
/// where that ends must not be long.
const MOST: f32 = 60.0;

/// A stamp less than this ahead of `now` was set a moment ago by a worker with a newer `now`; one further ahead is old,
/// from before the milliseconds wrapped.
const AHEAD_MILLIS: u32 = 60_000;

/// The response-time estimate of one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate(u64);

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

    fn at(seconds: f32, stamp: u32) -> Estimate {
        Estimate(u64::from(seconds.clamp(LEAST, MOST).to_bits()) << 32 | u64::from(stamp))
    }

    /// The seconds and the stamp.
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the word")]
    fn parts(self) -> Option<(f32, u32)> {
        (self.0 != 0).then_some((f32::from_bits((self.0 >> 32) as u32), self.0 as u32))
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
        let Some((seconds, stamp)) = self.parts() else {
            return Estimate::at(sample, now);
        };
        let age = age_millis(stamp, now);
        let later = if age == 0 { stamp } else { now };
        if sample > seconds {
            return Estimate::at(sample, later);
        }
        // 1 - exp(-age/τ), exact for the small ages of a busy backend
        let gain = -(-(age as f32) / TAU_MILLIS).exp_m1();
        Estimate::at(seconds + (sample - seconds) * gain, later)
    }

    /// After a failure that took `time_to_failure`, `median` being that of the backend's peers (see [`peer_median`]): the
    /// largest of the estimate, that time and twice the median, because a failure must never look fast.
    ///
    /// With neither an estimate nor a median there is nothing to be slower than: it stays unknown, and so reads as the
    /// median as soon as there is one, where a quick refusal kept as a sample would win every comparison.
    #[must_use]
    pub fn failed(self, time_to_failure: Duration, median: Option<Duration>, now: Instant) -> Estimate {
        let known = self.parts().map(|(seconds, _)| seconds);
        let twice = median.map(|median| 2.0 * median.as_secs_f32());
        match (known, twice) {
            (None, None) => Estimate::UNKNOWN,
            (known, twice) => {
                let floor = known.unwrap_or(LEAST).max(twice.unwrap_or(LEAST));
                Estimate::at(floor.max(time_to_failure.as_secs_f32()), now.wrapping_millis())
            }
        }
    }

    /// What it says at `now`, decayed; `None` without a sample.
    #[must_use]
    pub fn read(self, now: Instant) -> Option<Duration> {
        let (seconds, stamp) = self.parts()?;
        let age = age_millis(stamp, now.wrapping_millis());
        Some(Duration::from_secs_f32(seconds * decay(age)))
    }
}

/// How long ago `stamp` was, over the wrap of the milliseconds.
fn age_millis(stamp: u32, now: u32) -> u32 {
    let age = now.wrapping_sub(stamp);
    if age > u32::MAX - AHEAD_MILLIS { 0 } else { age }
}

/// What is left of an estimate after so long.
fn decay(age_millis: u32) -> f32 {
    (-(age_millis as f32) / TAU_MILLIS).exp()
}

/// The median of what the peers of the backend at `failing` say at `now`, for [`Estimate::failed`]; `None` when none has a
/// sample. Peers are those that may take requests or are merely full: what is down or open looks slow by its own failures.
#[must_use]
pub fn peer_median<C: Candidate>(among: &[C], failing: usize, now: Instant) -> Option<Duration> {
    let (before, after) = among.split_at(failing.min(among.len()));
    let peers = after.iter().skip(1).chain(before);
    let works = |peer: &&C| matches!(peer.standing(now), Standing::Usable | Standing::Full);
    let sampled = peers.filter(works).map(C::latency).filter(|estimate| estimate.is_sampled());
    Panel::read(sampled, now).median().map(Duration::from_secs_f32)
}

/// The estimates of up to [`Panel::MOST`] backends, read side by side so that they can be compared.
///
/// Only their ratios matter, so they are decayed to the time of the freshest rather than to now: after a quiet night the
/// order in which a pool went to sleep is still there. Decay forgives but does not flatter: it takes an estimate no lower
/// than the lowest that was measured in the panel. Without that floor, a backend that comes back after a minute would
/// read as next to nothing and get every request until its first answer.
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
            if let Some((peak, stamp)) = estimate.parts() {
                (panel.seconds[slot], ages[slot]) = (peak, age_millis(stamp, now));
            }
        }
        let freshest = ages.into_iter().min().unwrap_or(0);
        // f32::min and f32::max pass over NaN, so this is about those with a sample
        let lowest = panel.seconds().iter().copied().fold(f32::NAN, f32::min);
        for (seconds, age) in panel.seconds.iter_mut().zip(ages).take(panel.len) {
            if !seconds.is_nan() {
                *seconds = (*seconds * decay(age - freshest)).max(lowest);
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

    /// With those without a sample reading as the median, or all alike when none has one.
    pub fn filled(mut self) -> Panel {
        if self.seconds().iter().any(|seconds| seconds.is_nan()) {
            let stand_in = self.median().unwrap_or(1.0);
            for seconds in self.seconds[..self.len].iter_mut().filter(|seconds| seconds.is_nan()) {
                *seconds = stand_in;
            }
        }
        self
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
        close(fast.failed(MS / 10, None, at(2)).read(at(2)), 10 * MS);
        close(fast.failed(300 * MS, Some(20 * MS), at(2)).read(at(2)), 300 * MS);
        close(Estimate::UNKNOWN.failed(MS / 10, Some(20 * MS), at(2)).read(at(2)), 40 * MS);
        assert_eq!(Estimate::UNKNOWN.failed(MS / 10, None, at(2)), Estimate::UNKNOWN);
    }

    #[test]
    fn failures_of_a_whole_pool_end_at_a_bound() {
        let (mut a, mut b) = (Estimate::UNKNOWN.observe(MS, at(1)), Estimate::UNKNOWN.observe(MS, at(1)));
        for _ in 0..200 {
            a = a.failed(MS, b.read(at(1)), at(1));
            b = b.failed(MS, a.read(at(1)), at(1));
        }
        close(a.read(at(1)), Duration::from_secs(60));
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
    fn decay_makes_no_estimate_better_than_the_best_measured() {
        let gone = Estimate::UNKNOWN.observe(100 * MS, at(0));
        let busy = Estimate::UNKNOWN.observe(50 * MS, at(600));
        assert_eq!(Panel::read([gone, busy].into_iter(), at(600)).seconds(), [0.05, 0.05]);
    }

    #[test]
    fn a_quiet_night_does_not_mix_up_the_order() {
        let estimates = [30, 10, 20].map(|ms| Estimate::UNKNOWN.observe(ms * MS, at(1)));
        assert_eq!(Panel::read(estimates.into_iter(), at(40_000)).seconds(), [0.03, 0.01, 0.02]);
    }
}
