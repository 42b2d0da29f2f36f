//! Who is let in: everybody, nobody, or a few; and how time makes a few of nobody.

use super::ticket::{Entry, Shut, Stake, Ticket};
use super::transition::{Reason, State, Transition};
use super::word::{self, Course};
use super::{Breaker, Mode, Settings};
use crate::clock::Instant;
use crate::sync::Ordering;

/// By time alone.
const DUE: Transition = Transition { from: State::Open, to: State::HalfOpen, reason: Reason::TimeIsOver };

impl Breaker {
    /// Whether a request that asks would be let in.
    #[must_use]
    pub fn admits(&self, now: Instant, settings: &Settings) -> bool {
        settings.mode == Mode::Observe || has_room(self.parts().course, now, settings)
    }

    /// How many requests that ask at once would be let in.
    #[must_use]
    pub fn room(&self, now: Instant, settings: &Settings) -> u32 {
        if settings.mode == Mode::Observe { u32::MAX } else { room(self.parts().course, now, settings) }
    }

    /// Lets a request in. The first one after the open time makes the breaker half-open.
    ///
    /// # Errors
    /// It is open, or all probes are under way.
    #[inline]
    pub fn admit(&self, now: Instant, settings: &Settings, entry: Entry) -> Result<(Ticket, Option<Transition>), Shut> {
        // Relaxed: see the type.
        let word = self.word.load(Ordering::Relaxed);
        if word::is_closed(word) {
            return Ok((Ticket::new(word::epoch(word), Stake::Counts), None));
        }
        self.admit_few(now, settings, entry)
    }

    /// Lets a request into a breaker that was not closed a moment ago.
    #[cold]
    fn admit_few(&self, now: Instant, settings: &Settings, entry: Entry) -> Result<(Ticket, Option<Transition>), Shut> {
        let mut parts = self.parts();
        loop {
            let next = match parts.course {
                Course::Closed { .. } => return Ok((Ticket::new(parts.epoch, Stake::Counts), None)),
                course if !has_room(course, now, settings) => {
                    let unheard = settings.mode == Mode::Observe || entry == Entry::Forced;
                    return if unheard { Ok((Ticket::UNHEARD, None)) } else { Err(Shut) };
                }
                Course::Open { .. } => parts.enter(Course::HalfOpen { probing: 1, passed: 0 }, parts.doublings),
                Course::HalfOpen { probing, passed } => parts.with(Course::HalfOpen { probing: probing + 1, passed }),
            };
            match self.exchange(parts, next) {
                Ok(()) => {
                    let began = matches!(parts.course, Course::Open { .. });
                    return Ok((Ticket::new(next.epoch, Stake::Probe), began.then_some(DUE)));
                }
                Err(now) => parts = now,
            }
        }
    }

    /// Makes it half-open if it is open and its time is over, for when nobody asks.
    pub fn half_open(&self, now: Instant) -> Option<Transition> {
        let parts = self.parts();
        self.change(parts.epoch, |parts| match parts.course {
            Course::Open { until } if until.is_over(now) => {
                Some(parts.enter(Course::HalfOpen { probing: 0, passed: 0 }, parts.doublings))
            }
            Course::Open { .. } | Course::Closed { .. } | Course::HalfOpen { .. } => None,
        })?;
        Some(DUE)
    }

    /// The request is over; a probe that came to nothing makes room for the next.
    pub fn give_back(&self, ticket: &mut Ticket) {
        if std::mem::replace(&mut ticket.stake, Stake::Nothing) == Stake::Probe {
            // Of an earlier epoch: its place is gone with that.
            let _ = self.change(ticket.epoch, |parts| match parts.course {
                Course::HalfOpen { probing, passed } => {
                    Some(parts.with(Course::HalfOpen { probing: probing.saturating_sub(1), passed }))
                }
                Course::Closed { .. } | Course::Open { .. } => None,
            });
        }
    }
}

/// Whether there is room for one more request.
fn has_room(course: Course, now: Instant, settings: &Settings) -> bool {
    room(course, now, settings) > 0
}

/// For how many more requests there is room.
fn room(course: Course, now: Instant, settings: &Settings) -> u32 {
    match course {
        Course::Closed { .. } => u32::MAX,
        Course::Open { until } if until.is_over(now) => settings.half_open_probes,
        Course::Open { .. } => 0,
        Course::HalfOpen { probing, .. } => settings.half_open_probes.saturating_sub(probing),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    use super::super::fixture::{Bench, path, secs};
    use super::*;
    use crate::breaker::Outlook;

    #[test]
    fn time_alone_makes_it_half_open_and_probes_close_it() {
        let bench = Bench::due();
        assert_eq!(bench.state(), State::HalfOpen);
        let (mut first, transition) = bench.breaker.admit(bench.now, &bench.settings, Entry::Asked).unwrap();
        assert_eq!(path(transition), Some((State::Open, State::HalfOpen)));
        assert!(first.is_probe());
        assert_eq!(bench.succeed(&mut first), None);
        assert_eq!(bench.request_succeeds(), None);
        let closed = bench.request_succeeds().unwrap();
        assert_eq!((closed.from, closed.to), (State::HalfOpen, State::Closed));
        assert_eq!(closed.reason, Reason::ProbesSucceeded { probes: 3 });
        assert_eq!(bench.request_fails(), None, "what failed before does not count any more");
    }

    #[test]
    fn it_is_half_open_when_its_time_is_over_also_if_nobody_asks() {
        let bench = Bench::with(Settings { consecutive_failures: 1, ..Settings::default() });
        assert_eq!(bench.breaker.half_open(bench.now), None, "it is closed");
        let Some(Reason::Consecutive { open_for, .. }) = bench.request_fails().map(|opened| opened.reason) else {
            panic!("one failure is enough")
        };
        let Outlook::Open { left } = bench.breaker.outlook(bench.now) else { panic!("it has just opened") };
        assert!(left <= open_for && left + Duration::from_millis(1) > open_for, "{left:?} of {open_for:?}");
        let early = bench.now + left - Duration::from_millis(1);
        assert_eq!(bench.breaker.half_open(early), None);
        let due = bench.now + left;
        let turned = bench.breaker.half_open(due).unwrap();
        assert_eq!((path(Some(turned)), turned.reason), (Some((State::Open, State::HalfOpen)), Reason::TimeIsOver));
        assert_eq!(bench.breaker.half_open(due), None, "once");
        let bench = Bench { now: due, ..bench };
        assert_eq!(bench.probing(), 0);
        assert_eq!(bench.breaker.room(due, &bench.settings), 3);
        assert_eq!(std::iter::from_fn(|| bench.admit()).filter(Ticket::is_probe).count(), 3);
        assert_eq!(bench.breaker.room(due, &bench.settings), 0);
    }

    #[test]
    fn a_dropped_probe_makes_room_for_the_next_and_says_nothing() {
        let bench = Bench::due();
        let mut held: Vec<_> = std::iter::from_fn(|| bench.admit()).collect();
        assert_eq!(held.len(), 3);
        bench.breaker.give_back(&mut held[0]);
        bench.breaker.give_back(&mut held[0]);
        assert_eq!(bench.probing(), 2, "only once");
        assert!(bench.admit().is_some());
        assert!(bench.admit().is_none());
    }

    #[test]
    fn a_jump_of_years_finds_it_due_and_closed_ones_clean() {
        let mut bench = Bench::new();
        for _ in 0..4 {
            bench.request_fails();
        }
        for _ in 0..7 {
            bench.request_succeeds();
            bench.request_fails();
        }
        bench.wait(secs(64 * 100_000));
        for _ in 0..30 {
            bench.request_succeeds();
        }
        assert_eq!(bench.request_fails(), None);
        bench.request_succeeds();
        bench.open();
        bench.wait(secs(300 * 86_400));
        assert_eq!(bench.state(), State::HalfOpen);
        assert!(bench.admit().is_some_and(|ticket| ticket.is_probe()));
    }

    #[test]
    fn thousands_at_the_same_instant_get_the_few_probes_and_no_more() {
        let bench = Bench::due();
        let (barrier, admitted) = (Barrier::new(8), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    barrier.wait();
                    for _ in 0..1000 {
                        // Held for ever: a ticket has no end of its own.
                        admitted.fetch_add(u32::from(bench.admit().is_some()), std::sync::atomic::Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), 3);
        assert_eq!(bench.probing(), 3);
        assert!(!bench.breaker.admits(bench.now, &bench.settings));
    }

    #[test]
    fn who_is_forced_gets_in_and_is_not_heard() {
        let bench = Bench::due();
        let _probes: Vec<_> = std::iter::from_fn(|| bench.admit()).collect();
        let before = bench.breaker.parts();
        let (mut forced, none) = bench.breaker.admit(bench.now, &bench.settings, Entry::Forced).unwrap();
        assert!(!forced.is_probe() && none.is_none());
        assert_eq!(bench.fail(&mut forced), None);
        bench.breaker.give_back(&mut forced);
        assert_eq!(bench.breaker.parts(), before);
    }

    #[test]
    fn when_it_observes_it_decides_as_ever_and_lets_all_through() {
        let mut bench = Bench::with(Settings { mode: Mode::Observe, ..Settings::default() });
        let opened = (0..5).filter_map(|_| bench.request_fails()).last();
        assert_eq!(path(opened), Some((State::Closed, State::Open)));
        assert!(bench.breaker.admits(bench.now, &bench.settings));
        assert_eq!(bench.request_fails(), None, "let through, and not heard");
        bench.wait(secs(10));
        (0..2).for_each(|_| assert_eq!(bench.request_succeeds(), None));
        assert_eq!(path(bench.request_succeeds()), Some((State::HalfOpen, State::Closed)));
    }
}
