//! The least rate at which a client has to move a body: `client_min_rate`.
//!
//! A deadline between two reads is met for ever by who sends one byte just before each. So a client has some time in hand. It
//! passes while the client is what is waited for, every byte gives back as much as it may take at the least rate, and when
//! nothing is left it is too slow. What can be in hand is bounded by the deadline between two reads, so that whoever was quick
//! may pause that long, and no longer. Over any time, then, at least the rate is kept up but for one such pause.

use std::time::Duration;

use crate::clock::Instant;

/// How long a request's body may take to come up to the rate.
const START: Duration = Duration::from_secs(10);

/// One body's way from or to a client.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// Bytes a second; 0: whatever.
    rate: u64,
    in_hand: Duration,
    /// As much can be in hand.
    most: Duration,
    /// Since when the client is waited for.
    since: Option<Instant>,
    /// Bytes that had moved then.
    moved: u64,
}

impl Pace {
    /// Of a request's body, which the client sends; `pause` is its deadline between two reads.
    pub(super) fn of_sender(rate: u64, pause: Duration) -> Pace {
        Pace { rate, in_hand: pause.min(START), most: pause, ..Pace::default() }
    }

    /// Of a call of gRPC, whose messages come when there is something to say: it has as long to come up to the rate as between
    /// two reads.
    pub(super) fn of_caller(rate: u64, pause: Duration) -> Pace {
        Pace { in_hand: pause, ..Pace::of_sender(rate, pause) }
    }

    /// Of a response, which the client takes; so much was `written` to it before. The kernel's buffers hide for a while
    /// how slow it is, and then how quick: what is in hand is all from the beginning.
    pub(super) fn of_taker(rate: u64, pause: Duration, written: u64) -> Pace {
        Pace { rate, in_hand: pause, most: pause, moved: written, ..Pace::default() }
    }

    /// So many bytes have moved in all at `now`, and from here on the client is waited for or is not; says until when
    /// it can be.
    pub(super) fn turn(&mut self, now: Instant, moved: u64, waiting: bool) -> Option<Instant> {
        if self.rate == 0 {
            return None;
        }
        if let Some(since) = self.since {
            self.in_hand = self.in_hand.saturating_sub(now.since(since));
        }
        let earned = (moved - self.moved).saturating_mul(1_000_000_000) / self.rate;
        self.in_hand = self.in_hand.saturating_add(Duration::from_nanos(earned)).min(self.most);
        self.moved = moved;
        self.since = waiting.then_some(now);
        waiting.then(|| now + self.in_hand)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Instant = Instant::ORIGIN;
    const PAUSE: Duration = Duration::from_secs(30);

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// When a client is cut that moves `bytes` every `gap`, if that is within an hour.
    fn cut_at(mut pace: Pace, bytes: u64, gap: Duration) -> Option<Duration> {
        let (mut now, mut moved) = (T0, 0);
        let mut due = pace.turn(now, moved, true)?;
        while now.since(T0) < Duration::from_secs(3600) {
            now = now + gap;
            if now > due {
                return Some(due.since(T0));
            }
            moved += bytes;
            due = pace.turn(now, moved, true)?;
        }
        None
    }

    #[test]
    fn a_sender_below_the_rate_is_cut_and_one_at_it_is_not() {
        let pace = Pace::of_sender(240, PAUSE);
        assert_eq!(cut_at(pace, 0, millis(100)), Some(START));
        let slow = cut_at(pace, 1, millis(1000)).unwrap();
        assert!(slow > START && slow < START + millis(100), "{slow:?}");
        assert!(cut_at(pace, 239, millis(1000)).unwrap() > Duration::from_secs(2100), "it is nearly quick enough");
        assert_eq!(cut_at(pace, 240, millis(1000)), None);
        assert_eq!(cut_at(pace, 24, millis(100)), None);
        assert_eq!(cut_at(pace, 240 * 10, START), None);
    }

    #[test]
    fn a_byte_just_before_each_deadline_between_two_reads_is_too_slow() {
        for pace in [Pace::of_sender(240, PAUSE), Pace::of_taker(240, PAUSE, 0)] {
            assert!(cut_at(pace, 1, PAUSE - millis(1000)).unwrap() < PAUSE + millis(10));
        }
    }

    #[test]
    fn who_was_quick_may_pause_and_no_longer_however_quick() {
        for quick in [240 * 30, 1 << 40] {
            let mut pace = Pace::of_sender(240, PAUSE);
            pace.turn(T0, 0, true);
            assert_eq!(pace.turn(T0 + millis(1), quick, true), Some(T0 + millis(1) + PAUSE));
        }
    }

    #[test]
    fn time_in_which_somebody_else_is_waited_for_is_not_the_clients() {
        let mut pace = Pace::of_sender(240, PAUSE);
        pace.turn(T0, 0, true);
        assert_eq!(pace.turn(T0 + millis(4000), 0, false), None);
        let later = T0 + Duration::from_secs(1000);
        assert_eq!(pace.turn(later, 0, true), Some(later + millis(6000)));
    }

    #[test]
    fn a_short_deadline_shortens_the_start_and_without_a_rate_there_is_none() {
        assert_eq!(Pace::of_sender(240, millis(500)).turn(T0, 0, true), Some(T0 + millis(500)));
        assert_eq!(cut_at(Pace::of_sender(0, PAUSE), 0, PAUSE), None);
        assert_eq!(Pace::of_taker(0, PAUSE, 7).turn(T0, 7, true), None);
    }

    #[test]
    fn what_was_written_before_earns_nothing() {
        let mut pace = Pace::of_taker(1, PAUSE, 1_000_000);
        pace.turn(T0, 1_000_000, true);
        assert_eq!(pace.turn(T0 + millis(20_000), 1_000_000, true), Some(T0 + PAUSE));
        assert_eq!(pace.turn(T0 + millis(25_000), 1_000_001, true), Some(T0 + PAUSE + millis(1000)));
    }
}
