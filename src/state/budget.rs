//! How many requests of a pool may be tried again: a share of those of the last ten seconds, and always a few at a time.
//!
//! Each worker counts its own requests and keeps to the share of them, so the share of the whole pool is kept as well and a
//! request that is not repeated writes nothing that another worker reads. The few that may be repeated at any time, so that
//! a quiet pool can repeat at all, are counted over all workers: only a repetition beyond the share touches that word.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Instant;
use crate::sync::{AtomicU64, Ordering};

/// How many repetitions may be under way at any time, whatever the share. Envoy and Finagle have three; of a backend that was
/// killed it takes five failures to open the breaker, and none of those five is to be lost.
const ALWAYS: u64 = 5;

/// The window and its parts.
const SECONDS: usize = 10;
const SECOND: Duration = Duration::from_secs(1);

/// The repetitions that a pool has under way beyond its share, over all workers.
#[derive(Debug)]
pub(super) struct Reserve(AtomicU64);

impl Default for Reserve {
    fn default() -> Self {
        Reserve(AtomicU64::new(0))
    }
}

impl Reserve {
    fn take(self: &Arc<Reserve>) -> Option<Permit> {
        // Relaxed: a count that guards no memory.
        let more = |under_way: u64| (under_way < ALWAYS).then_some(under_way + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Permit(Some(Arc::clone(self))))
    }
}

/// The leave to try a request once more; kept for as long as that attempt waits for its answer.
#[derive(Debug)]
#[must_use = "it lasts as long as the attempt waits"]
pub struct Permit(Option<Arc<Reserve>>);

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(reserve) = &self.0 {
            reserve.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// One worker's account of one pool.
#[derive(Debug, Default)]
pub(super) struct Budget {
    window: RefCell<Window>,
}

impl Budget {
    /// A request came.
    pub(super) fn request(&self, now: Instant) {
        let window = &mut *self.window.borrow_mut();
        window.turn(now);
        window.parts[window.at].requests += 1;
        window.sum.requests += 1;
    }

    /// Leave to try one again, if the share of the requests allows it, or the reserve.
    pub(super) fn repeat(&self, now: Instant, share: f64, reserve: &Arc<Reserve>) -> Option<Permit> {
        let window = &mut *self.window.borrow_mut();
        window.turn(now);
        if f64::from(window.sum.repeated + 1) > share * f64::from(window.sum.requests) {
            return reserve.take();
        }
        window.parts[window.at].repeated += 1;
        window.sum.repeated += 1;
        Some(Permit(None))
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    requests: u32,
    repeated: u32,
}

/// A ring of seconds.
#[derive(Debug, Default)]
struct Window {
    parts: [Counts; SECONDS],
    sum: Counts,
    at: usize,
    /// When the second at `at` is over.
    until: Instant,
}

impl Window {
    /// Moves on to the second of `now`; what is older than the window is forgotten.
    fn turn(&mut self, now: Instant) {
        if now < self.until {
            return;
        }
        let over = now.since(self.until).as_secs();
        for _ in 0..=over.min(SECONDS as u64) {
            self.at = (self.at + 1) % SECONDS;
            let forgotten = std::mem::take(&mut self.parts[self.at]);
            self.sum.requests -= forgotten.requests;
            self.sum.repeated -= forgotten.repeated;
        }
        self.until = match over < SECONDS as u64 {
            true => self.until + SECOND * (over as u32 + 1),
            false => now + SECOND,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Instant = Instant::ORIGIN;

    fn at(millis: u64) -> Instant {
        T0 + Duration::from_millis(millis)
    }

    /// A reserve of which nothing is left.
    fn exhausted() -> (Arc<Reserve>, Vec<Permit>) {
        let reserve = Arc::new(Reserve::default());
        let permits = (0..ALWAYS).map(|_| reserve.take().unwrap()).collect();
        (reserve, permits)
    }

    #[test]
    fn a_share_of_the_requests_may_be_repeated_and_no_more() {
        let ((reserve, _held), budget) = (exhausted(), Budget::default());
        (0..100).for_each(|_| budget.request(at(5)));
        let granted = (0..100).filter(|_| budget.repeat(at(5), 0.2, &reserve).is_some()).count();
        assert_eq!(granted, 20);
        budget.request(at(6));
        assert!(budget.repeat(at(6), 0.2, &reserve).is_none(), "101 requests make no 21");
    }

    #[test]
    fn a_few_at_a_time_always_may_over_all_workers() {
        let reserve = Arc::new(Reserve::default());
        let workers = [Budget::default(), Budget::default()];
        let ask = |worker: usize| workers[worker].repeat(T0, 0.2, &reserve);
        let first = ask(0);
        let held = [ask(1), ask(0), ask(1), ask(0)];
        assert!(first.is_some() && held.iter().all(Option::is_some));
        assert!(ask(0).is_none() && ask(1).is_none());
        drop(first);
        assert!(ask(1).is_some(), "one has ended");
        assert!(ask(1).is_some(), "and that one as well");
    }

    #[test]
    fn what_is_older_than_ten_seconds_counts_no_more() {
        let ((reserve, _held), budget) = (exhausted(), Budget::default());
        (0..10).for_each(|_| budget.request(at(500)));
        assert!(budget.repeat(at(9_000), 0.1, &reserve).is_some());
        assert!(budget.repeat(at(9_500), 0.1, &reserve).is_none());
        (0..10).for_each(|_| budget.request(at(10_000)));
        assert!(budget.repeat(at(10_900), 0.1, &reserve).is_none(), "the old requests are gone, the repetition is not");
        (0..10).for_each(|_| budget.request(at(10_950)));
        assert!(budget.repeat(at(10_960), 0.1, &reserve).is_some());
    }

    #[test]
    fn a_long_silence_forgets_everything() {
        let ((reserve, _held), budget) = (exhausted(), Budget::default());
        for hour in 0..5 {
            let now = T0 + Duration::from_secs(3600 * hour) + Duration::from_millis(hour * 137);
            assert!(budget.repeat(now, 1.0, &reserve).is_none());
            budget.request(now);
            assert!(budget.repeat(now, 1.0, &reserve).is_some());
        }
    }

    #[test]
    fn sums_are_those_of_the_last_ten_seconds_at_any_pace() {
        let budget = Budget::default();
        let mut dice = crate::balance::Dice::seeded(7);
        let (mut now, mut seen) = (T0, Vec::new());
        for _ in 0..20_000 {
            now = now + Duration::from_millis(dice.below(700));
            budget.request(now);
            seen.push(now);
            let sum = budget.window.borrow().sum.requests as usize;
            let within =
                |limit: u64| seen.iter().rev().take_while(|at| now.since(**at) < Duration::from_secs(limit)).count();
            assert!(sum >= within(9) && sum <= within(11), "{sum} of {} to {}", within(9), within(11));
        }
    }
}
