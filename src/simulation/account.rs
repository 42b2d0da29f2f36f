//! The retry budget, said again in other words: every request and every repetition with its time, and a count at the end.

use std::collections::VecDeque;

use crate::clock::Instant;

/// The window of the share.
const SECONDS: u64 = 10;

/// How many may be under way beyond the share, over all workers.
pub(super) const BEYOND: usize = 5;

/// What one worker may repeat, by whole seconds from the beginning.
#[derive(Debug, Default)]
pub(super) struct Account {
    requests: VecDeque<u64>,
    repeated: VecDeque<u64>,
}

impl Account {
    pub fn request(&mut self, now: Instant) {
        self.turn(now);
        self.requests.push_back(second(now));
    }

    /// One is tried again; whether the share has room for it.
    pub fn repeat(&mut self, now: Instant, share: f64) -> bool {
        self.turn(now);
        let is_within = (self.repeated.len() + 1) as f64 <= share * self.requests.len() as f64;
        if is_within {
            self.repeated.push_back(second(now));
        }
        is_within
    }

    fn turn(&mut self, now: Instant) {
        for times in [&mut self.requests, &mut self.repeated] {
            while times.front().is_some_and(|then| then + SECONDS <= second(now)) {
                times.pop_front();
            }
        }
    }
}

fn second(at: Instant) -> u64 {
    at.since(Instant::ORIGIN).as_secs()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_share_of_the_last_ten_seconds_may_be_repeated() {
        let at = |seconds| Instant::ORIGIN + Duration::from_secs(seconds);
        let mut account = Account::default();
        (0..10).for_each(|_| account.request(at(0)));
        assert!(account.repeat(at(3), 0.2) && account.repeat(at(9), 0.2) && !account.repeat(at(9), 0.2));
        (0..10).for_each(|_| account.request(at(10)));
        assert!(!account.repeat(at(12), 0.2), "the first requests are forgotten, their repetitions are not");
        assert!(account.repeat(at(13), 0.2) && !account.repeat(at(13), 0.2));
    }
}
