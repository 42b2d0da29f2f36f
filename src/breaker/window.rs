//! What happened lately: answers and failures by the second, each worker writing its own.
//!
//! A window has one writer, so counting is a load and a store in a cache line that no other worker writes. It is summed
//! over all workers only when there was something to hold against the backend. A bucket says of which second and of which
//! epoch it is, so nothing ever has to be cleared: what is of another time does not count.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::word::Epoch;
use crate::clock::Instant;
use crate::sync::{AtomicU64, Ordering};

/// How many seconds a worker remembers. The bucket of the present one may be half full, so windows are shorter.
const BUCKETS: usize = 64;

/// The longest window.
pub const LONGEST: Duration = Duration::from_secs(60);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// An answer in good time.
    Answer,
    /// A good answer, but a slow one.
    SlowAnswer,
    /// A failure.
    Failure,
}

impl Event {
    /// One of it, in a bucket's word.
    fn one(self) -> u64 {
        match self {
            Event::Answer => 1,
            Event::SlowAnswer => 1 << 16 | 1,
            Event::Failure => 1 << 32,
        }
    }
}

/// Sums over a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Good answers, the slow ones included.
    pub answers: u64,
    pub slow: u64,
    pub failures: u64,
}

impl Tally {
    pub fn requests(self) -> u64 {
        self.answers + self.failures
    }
}

/// One second of one worker: from the top 12 bits that tell the second, 4 of the epoch, and three counts of 16.
#[derive(Clone, Copy)]
struct Bucket {
    tag: u64,
    counts: [u64; 3],
}

impl Bucket {
    const TAG_SHIFT: u32 = 48;
    const FULL: u64 = 0xffff;
    /// The highest bit of each count.
    const NEARLY_FULL: u64 = 0x8000_8000_8000;

    fn of(word: u64) -> Bucket {
        let counts = [word & Bucket::FULL, word >> 16 & Bucket::FULL, word >> 32 & Bucket::FULL];
        Bucket { tag: word >> Bucket::TAG_SHIFT, counts }
    }

    fn word(self) -> u64 {
        let [answers, slow, failures] = self.counts;
        self.tag << Bucket::TAG_SHIFT | failures << 32 | slow << 16 | answers
    }

    /// What the bucket of this second and epoch is marked with. The place in the ring tells the second modulo 64; the
    /// twelve bits above that begin anew after three days.
    fn tag(second: u64, epoch: Epoch) -> u64 {
        (second / BUCKETS as u64 % 4096) << 4 | u64::from(epoch.number() % 16)
    }

    /// Half of everything: what matters is the share, which is the same then.
    fn halved(self) -> Bucket {
        Bucket { counts: self.counts.map(|count| count.div_ceil(2)), ..self }
    }
}

/// One worker's memory of one backend.
#[derive(Debug)]
#[repr(align(64))]
pub struct Window {
    ring: [AtomicU64; BUCKETS],
}

impl Default for Window {
    fn default() -> Self {
        Window { ring: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Window {
    /// Counts `event`. Only one thread does that.
    #[inline]
    pub(super) fn add(&self, now: Instant, epoch: Epoch, event: Event) {
        self.change(now, epoch, |word| {
            let room = if word & Bucket::NEARLY_FULL == 0 { word } else { Bucket::of(word).halved().word() };
            room + event.one()
        });
    }

    /// Takes back an answer that was counted `then` and has turned out a failure, unless that is too long ago to matter.
    pub(super) fn retract(&self, now: Instant, then: Moment, epoch: Epoch) {
        let age = Moment::of(now).0.wrapping_sub(then.0);
        if usize::from(age) >= BUCKETS {
            return;
        }
        self.change(now - Duration::from_secs(age.into()), epoch, |word| {
            let mut bucket = Bucket::of(word);
            bucket.counts[0] = bucket.counts[0].saturating_sub(1);
            bucket.counts[1] = bucket.counts[1].min(bucket.counts[0]);
            bucket.word()
        });
    }

    fn change(&self, at: Instant, epoch: Epoch, change: impl FnOnce(u64) -> u64) {
        let second = second(at);
        let tag = Bucket::tag(second, epoch);
        let bucket = self.bucket(second);
        // Relaxed: the word is the whole bucket, and nobody else writes it.
        let word = bucket.load(Ordering::Relaxed);
        let is_its_own = word >> Bucket::TAG_SHIFT == tag;
        bucket.store(change(if is_its_own { word } else { tag << Bucket::TAG_SHIFT }), Ordering::Relaxed);
    }

    fn bucket(&self, second: u64) -> &AtomicU64 {
        &self.ring[second as usize % BUCKETS]
    }

    fn sum(&self, seconds: std::ops::RangeInclusive<u64>, epoch: Epoch) -> Tally {
        let mut tally = Tally::default();
        for second in seconds {
            // Relaxed: a count that is made at this moment is in this sum or in the next.
            let bucket = Bucket::of(self.bucket(second).load(Ordering::Relaxed));
            if bucket.tag == Bucket::tag(second, epoch) {
                let [answers, slow, failures] = bucket.counts;
                tally.answers += answers;
                tally.slow += slow;
                tally.failures += failures;
            }
        }
        tally
    }
}

/// A second, of which the low bits are kept: enough to tell those that a window holds from the hours after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment(u16);

impl Moment {
    pub const NONE: Moment = Moment(0);

    #[expect(clippy::cast_possible_truncation, reason = "wrapping is the contract")]
    pub fn of(at: Instant) -> Moment {
        Moment(second(at) as u16)
    }
}

fn second(at: Instant) -> u64 {
    at.since(Instant::ORIGIN).as_secs()
}

/// The windows of all workers, made when a worker first asks for its own and kept: a list that only grows, up to the number
/// of workers, and is read without a lock.
#[derive(Debug, Default)]
pub(super) struct Windows {
    first: OnceLock<Box<Link>>,
}

#[derive(Debug, Default)]
struct Link {
    window: Arc<Window>,
    next: OnceLock<Box<Link>>,
}

impl Windows {
    /// The window of the worker of this number, from 0.
    pub fn of(&self, worker: usize) -> Arc<Window> {
        let mut link = self.first.get_or_init(Box::default);
        for _ in 0..worker {
            link = link.next.get_or_init(Box::default);
        }
        Arc::clone(&link.window)
    }

    /// What all workers counted in `epoch` during the `window` that ends now.
    pub fn sum(&self, now: Instant, window: Duration, epoch: Epoch) -> Tally {
        let last = second(now);
        let first = last.saturating_sub(window.min(LONGEST).as_secs().saturating_sub(1));
        let mut tally = Tally::default();
        let mut link = self.first.get();
        while let Some(Link { window, next }) = link.map(|link| &**link) {
            let its = window.sum(first..=last, epoch);
            tally.answers += its.answers;
            tally.slow += its.slow;
            tally.failures += its.failures;
            link = next.get();
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const TEN: Duration = Duration::from_secs(10);
    const EPOCH: fn() -> Epoch = Epoch::default;

    fn at(seconds: u64) -> Instant {
        Instant::ORIGIN + Duration::from_secs(seconds)
    }

    fn tally(answers: u64, slow: u64, failures: u64) -> Tally {
        Tally { answers, slow, failures }
    }

    #[test]
    fn workers_add_up_and_what_is_older_than_the_window_does_not_count() {
        let windows = Windows::default();
        windows.of(2).add(at(100), EPOCH(), Event::Answer);
        windows.of(0).add(at(105), EPOCH(), Event::SlowAnswer);
        windows.of(2).add(at(109), EPOCH(), Event::Failure);
        assert_eq!(windows.sum(at(109), TEN, EPOCH()), tally(2, 1, 1));
        assert_eq!(windows.sum(at(110), TEN, EPOCH()), tally(1, 1, 1));
        assert_eq!(windows.sum(at(119), TEN, EPOCH()), Tally::default());
        assert!(Arc::ptr_eq(&windows.of(1), &windows.of(1)) && !Arc::ptr_eq(&windows.of(1), &windows.of(2)));
    }

    #[test]
    fn a_jump_over_many_rounds_of_the_ring_finds_it_empty() {
        let windows = Windows::default();
        let own = windows.of(0);
        (0..64).for_each(|second| own.add(at(second), EPOCH(), Event::Failure));
        for jump in [64, 128, 64 * 4095] {
            assert_eq!(windows.sum(at(63 + jump), LONGEST, EPOCH()), Tally::default(), "{jump} s later");
        }
        own.add(at(63 + 640), EPOCH(), Event::Answer);
        assert_eq!(windows.sum(at(63 + 640), LONGEST, EPOCH()), tally(1, 0, 0));
    }

    #[test]
    fn what_was_counted_in_another_epoch_does_not_count() {
        let windows = Windows::default();
        windows.of(0).add(at(5), EPOCH(), Event::Failure);
        let later = EPOCH().next();
        assert_eq!(windows.sum(at(5), TEN, later), Tally::default());
        windows.of(0).add(at(5), later, Event::Answer);
        assert_eq!(windows.sum(at(5), TEN, later), tally(1, 0, 0));
    }

    #[test]
    fn an_answer_that_turned_out_a_failure_is_taken_back() {
        let windows = Windows::default();
        let own = windows.of(0);
        own.add(at(5), EPOCH(), Event::SlowAnswer);
        own.add(at(30), EPOCH(), Event::Answer);
        own.retract(at(30), Moment::of(at(5)), EPOCH());
        own.retract(at(30), Moment::of(at(5)), EPOCH());
        assert_eq!(windows.sum(at(30), LONGEST, EPOCH()), tally(1, 0, 0));
        own.retract(at(30 + 64), Moment::of(at(30)), EPOCH());
        assert_eq!(windows.sum(at(30), LONGEST, EPOCH()), tally(1, 0, 0), "too late");
    }

    #[test]
    fn more_than_fits_keeps_its_shares() {
        let windows = Windows::default();
        let own = windows.of(0);
        for number in 0..1_000_000 {
            own.add(at(5), EPOCH(), if number % 4 == 0 { Event::Failure } else { Event::Answer });
        }
        let Tally { answers, failures, .. } = windows.sum(at(5), TEN, EPOCH());
        let share = failures as f64 / (answers + failures) as f64;
        assert!((share - 0.25).abs() < 0.01 && answers > 15_000, "{failures} of {answers}");
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![Just(Event::Answer), Just(Event::SlowAnswer), Just(Event::Failure)]
    }

    proptest! {
        #[test]
        fn a_window_sums_what_a_list_of_events_would(
            events in prop::collection::vec((0..9u64, 0..3usize, any_event()), 1..200),
            seconds in 1..=60u64,
        ) {
            let windows = Windows::default();
            let (mut now, mut list) = (0, VecDeque::new());
            for (pause, worker, event) in events {
                now += pause;
                windows.of(worker).add(at(now), EPOCH(), event);
                list.push_back((now, event));
                list.retain(|(then, _)| then + seconds > now);
                let count = |wanted| list.iter().filter(|(_, event)| *event == wanted).count() as u64;
                let (slow, failures) = (count(Event::SlowAnswer), count(Event::Failure));
                let expected = tally(count(Event::Answer) + slow, slow, failures);
                prop_assert_eq!(windows.sum(at(now), Duration::from_secs(seconds), EPOCH()), expected);
            }
        }
    }
}
