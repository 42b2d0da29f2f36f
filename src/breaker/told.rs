//! What a breaker makes of what it is told: answers and failures, and what they add up to.

use std::time::Duration;

use super::ticket::{Stake, Ticket};
use super::transition::{Reason, State, Transition};
use super::window::{Event, Moment, Tally, Window};
use super::word::{self, Course, Epoch, Until, open_time};
use super::{Breaker, HAIR, Settings};
use crate::balance::hash_key;
use crate::clock::Instant;
use crate::sync::Ordering;

/// Who tells of an end, and where and when: what [`Breaker::succeed`] and [`Breaker::fail`] go by.
#[derive(Clone, Copy, Debug)]
pub struct Teller<'a, R> {
    /// The time.
    pub now: Instant,
    /// The settings in force.
    pub settings: &'a Settings,
    /// The worker's own window on the breaker.
    pub window: &'a Window,
    /// What the backend is known by; open times of different backends shall not be in step.
    pub identity: u64,
    /// Asked for leave before it opens; what it gives is held until that is done.
    pub reserve: R,
}

impl Breaker {
    /// A good answer came after `took`. When it was one too many that is slow, leave to open is asked for as with a failure.
    #[inline]
    pub fn succeed<P>(
        &self,
        ticket: &mut Ticket,
        took: Duration,
        tell: &Teller<'_, impl Fn() -> Option<P>>,
    ) -> Option<Transition> {
        let is_slow = tell.settings.latency.is_some_and(|latency| took > latency.above);
        // Relaxed: see the type.
        let is_calm = word::is_calm(self.word.load(Ordering::Relaxed), ticket.epoch);
        if ticket.stake == Stake::Counts && is_calm && !is_slow {
            ticket.count(Event::Answer, tell);
            return None;
        }
        self.succeed_in_trouble(ticket, is_slow, tell)
    }

    /// A good answer where something failed, or is slow, or late.
    #[cold]
    fn succeed_in_trouble<P>(
        &self,
        ticket: &mut Ticket,
        is_slow: bool,
        tell: &Teller<'_, impl Fn() -> Option<P>>,
    ) -> Option<Transition> {
        match ticket.stake {
            Stake::Counts => self.answered(ticket, is_slow, tell),
            Stake::Probe if is_slow => self.fail(ticket, tell),
            Stake::Probe => {
                ticket.stake = Stake::Probed;
                self.passed(ticket.epoch, tell.settings)
            }
            Stake::Answered | Stake::Probed | Stake::Nothing => None,
        }
    }

    /// A failure happened. When it is one too many, leave to open is asked for.
    #[cold]
    pub fn fail<P>(&self, ticket: &mut Ticket, tell: &Teller<'_, impl Fn() -> Option<P>>) -> Option<Transition> {
        match std::mem::replace(&mut ticket.stake, Stake::Nothing) {
            Stake::Counts => self.failed(ticket.epoch, None, tell),
            Stake::Answered => self.failed(ticket.epoch, Some(ticket.answered), tell),
            Stake::Probe | Stake::Probed => self.reopen(ticket.epoch, tell),
            Stake::Nothing => None,
        }
    }

    fn answered<P>(
        &self,
        ticket: &mut Ticket,
        is_slow: bool,
        tell: &Teller<'_, impl Fn() -> Option<P>>,
    ) -> Option<Transition> {
        let parts = self.parts();
        let Course::Closed { failures } = parts.course else { return None };
        if parts.epoch != ticket.epoch {
            return None;
        }
        ticket.count(if is_slow { Event::SlowAnswer } else { Event::Answer }, tell);
        if failures > 0 {
            let _ = self.change(ticket.epoch, |parts| match parts.course {
                Course::Closed { failures: 1.. } => Some(parts.with(Course::Closed { failures: 0 })),
                _ => None,
            });
        }
        let latency = tell.settings.latency.filter(|_| is_slow)?;
        let Tally { answers, slow, .. } = self.windows.sum(tell.now, tell.settings.window, ticket.epoch);
        let is_too_slow = slow as f64 > (1.0 - latency.quantile) * answers as f64 + HAIR;
        if answers < u64::from(tell.settings.min_requests) || !is_too_slow {
            return None;
        }
        let _held = (tell.reserve)()?;
        let window = tell.settings.window;
        let above = latency.above;
        self.open(ticket.epoch, tell, |open_for| Reason::Slow { slow, answers, above, window, open_for })
    }

    fn failed<P>(
        &self,
        epoch: Epoch,
        answered: Option<Moment>,
        tell: &Teller<'_, impl Fn() -> Option<P>>,
    ) -> Option<Transition> {
        let counted = self.change(epoch, |parts| match parts.course {
            Course::Closed { failures } => Some(parts.with(Course::Closed { failures: failures.saturating_add(1) })),
            Course::Open { .. } | Course::HalfOpen { .. } => None,
        })?;
        if let Some(then) = answered {
            tell.window.retract(tell.now, then, epoch);
        }
        tell.window.add(tell.now, epoch, Event::Failure);
        let Course::Closed { failures } = counted.course else { return None };
        if failures >= tell.settings.consecutive_failures {
            let _held = (tell.reserve)()?;
            return self.open(epoch, tell, |open_for| Reason::Consecutive { failures, open_for });
        }
        let window = tell.settings.window;
        let tally = self.windows.sum(tell.now, window, epoch);
        let (failures, requests) = (tally.failures, tally.requests());
        let is_share = failures as f64 + HAIR >= tell.settings.failure_ratio * requests as f64;
        if requests < u64::from(tell.settings.min_requests) || !is_share {
            return None;
        }
        let _held = (tell.reserve)()?;
        self.open(epoch, tell, |open_for| Reason::Ratio { failures, requests, window, open_for })
    }

    /// From closed to open.
    fn open(
        &self,
        epoch: Epoch,
        tell: &Teller<'_, impl Sized>,
        reason: impl FnOnce(Duration) -> Reason,
    ) -> Option<Transition> {
        let open_for = self.open_time(epoch, 0, tell);
        let until = Until::at(tell.now + open_for);
        self.change(epoch, |parts| match parts.course {
            Course::Closed { .. } => Some(parts.enter(Course::Open { until }, 0)),
            Course::Open { .. } | Course::HalfOpen { .. } => None,
        })?;
        Some(self.tripped(State::Closed, reason(open_for)))
    }

    /// From half-open to open: one failure does.
    fn reopen(&self, epoch: Epoch, tell: &Teller<'_, impl Sized>) -> Option<Transition> {
        let mut open_for = Duration::ZERO;
        self.change(epoch, |parts| match parts.course {
            Course::HalfOpen { .. } => {
                let doublings = parts.doublings + 1;
                open_for = self.open_time(epoch, doublings, tell);
                Some(parts.enter(Course::Open { until: Until::at(tell.now + open_for) }, doublings))
            }
            Course::Closed { .. } | Course::Open { .. } => None,
        })?;
        Some(self.tripped(State::HalfOpen, Reason::ProbeFailed { open_for }))
    }

    fn tripped(&self, from: State, reason: Reason) -> Transition {
        // Relaxed: a count that nothing depends on.
        self.trips.fetch_add(1, Ordering::Relaxed);
        Transition { from, to: State::Open, reason }
    }

    /// A probe succeeded, which makes room for the next, or closes the breaker.
    fn passed(&self, epoch: Epoch, settings: &Settings) -> Option<Transition> {
        let next = self.change(epoch, |parts| match parts.course {
            Course::HalfOpen { passed, .. } if passed + 1 >= settings.half_open_probes => {
                Some(parts.enter(Course::Closed { failures: 0 }, 0))
            }
            Course::HalfOpen { probing, passed } => {
                Some(parts.with(Course::HalfOpen { probing: probing.saturating_sub(1), passed: passed + 1 }))
            }
            Course::Closed { .. } | Course::Open { .. } => None,
        })?;
        let reason = Reason::ProbesSucceeded { probes: settings.half_open_probes };
        let is_closed = matches!(next.course, Course::Closed { .. });
        is_closed.then_some(Transition { from: State::HalfOpen, to: State::Closed, reason })
    }

    /// Chance without dice: it differs from backend to backend and from time to time.
    fn open_time(&self, epoch: Epoch, doublings: u32, tell: &Teller<'_, impl Sized>) -> Duration {
        let chance = hash_key(&(tell.identity ^ u64::from(epoch.number()) << 40).to_le_bytes());
        open_time(tell.settings.open_for, tell.settings.open_for_max, doublings, chance)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::Latency;
    use super::super::fixture::{Bench, path, secs};
    use super::*;

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not_let_them() {
        let bench = Bench::new();
        for _ in 0..4 {
            assert_eq!(bench.request_fails(), None);
        }
        assert_eq!(bench.request_succeeds(), None);
        for _ in 0..4 {
            assert_eq!(bench.request_fails(), None);
        }
        let opened = bench.request_fails().unwrap();
        assert_eq!((opened.from, opened.to), (State::Closed, State::Open));
        let Reason::Consecutive { failures: 5, open_for } = opened.reason else { panic!("{opened:?}") };
        assert!(open_for >= secs(4) && open_for <= secs(6), "{open_for:?}");
        assert_eq!(bench.state(), State::Open);
        assert!(bench.admit().is_none());
        assert_eq!(bench.breaker.trips(), 1);
    }

    #[test]
    fn a_share_of_failures_opens_it_when_there_were_enough_requests() {
        let bench = Bench::new();
        let mut opened = None;
        let mut requests = 0;
        while opened.is_none() && requests < 40 {
            assert_eq!(bench.request_succeeds(), None);
            opened = bench.request_fails();
            requests += 2;
        }
        assert_eq!(requests, 20);
        let reason = opened.unwrap().reason;
        assert!(matches!(reason, Reason::Ratio { failures: 10, requests: 20, .. }), "{reason:?}");
        assert!(reason.to_string().starts_with("10 of 20 requests failed within 10s, open for "), "{reason}");
    }

    #[test]
    fn less_than_the_share_or_older_than_the_window_opens_nothing() {
        let mut bench = Bench::new();
        for _ in 0..1000 {
            assert_eq!((bench.request_succeeds(), bench.request_succeeds(), bench.request_fails()), (None, None, None));
        }
        let mut bench_of_old = Bench::new();
        for _ in 0..10 {
            bench_of_old.request_succeeds();
            assert_eq!(bench_of_old.request_fails(), None);
            bench_of_old.wait(secs(2));
            bench.wait(secs(2));
        }
        assert_eq!(bench.state(), State::Closed);
        assert_eq!(bench_of_old.state(), State::Closed, "20 requests, but 10 within the window");
    }

    #[test]
    fn successes_in_the_steady_state_leave_the_shared_word_alone() {
        let bench = Bench::new();
        let before = bench.breaker.parts();
        let mut held: Vec<_> = (0..50).map(|_| bench.admit().unwrap()).collect();
        held.iter_mut().for_each(|ticket| assert_eq!(bench.succeed(ticket), None));
        held.iter_mut().for_each(|ticket| bench.breaker.give_back(ticket));
        assert_eq!(bench.breaker.parts(), before);
    }

    #[test]
    fn a_probe_that_fails_opens_it_for_twice_as_long_up_to_the_limit_and_closing_forgets_that() {
        let mut bench = Bench::due();
        let mut times = Vec::new();
        for _ in 0..6 {
            let reason = bench.request_fails().unwrap().reason;
            let Reason::ProbeFailed { open_for } = reason else { panic!("{reason:?}") };
            bench.wait(open_for - Duration::from_millis(2));
            assert_eq!(bench.state(), State::Open);
            bench.wait(Duration::from_millis(2));
            assert_eq!(bench.state(), State::HalfOpen);
            times.push(open_for.as_secs_f64());
        }
        for (time, about) in times.iter().zip([10.0, 20.0, 40.0, 60.0, 60.0, 60.0]) {
            assert!((time / about - 1.0).abs() <= 0.2, "{times:?}");
        }
        for _ in 0..3 {
            bench.request_succeeds();
        }
        let opened = (0..5).filter_map(|_| bench.request_fails()).last().unwrap();
        assert!(matches!(opened.reason, Reason::Consecutive { open_for, .. } if open_for <= secs(6)), "{opened:?}");
        assert_eq!(bench.breaker.trips(), 8);
    }

    #[test]
    fn a_success_of_a_probe_whose_request_then_fails_opens_it_again() {
        let bench = Bench::due();
        let mut probe = bench.admit().unwrap();
        assert_eq!(bench.succeed(&mut probe), None);
        assert_eq!(bench.probing(), 0);
        assert_eq!(path(bench.fail(&mut probe)), Some((State::HalfOpen, State::Open)));
    }

    #[test]
    fn an_answer_of_an_earlier_epoch_is_not_heard() {
        let mut bench = Bench::new();
        let [mut early, mut late, mut latest] = std::array::from_fn(|_| bench.admit().unwrap());
        bench.open();
        assert_eq!(bench.fail(&mut early), None);
        let mut probe = bench.admit().unwrap();
        let before = bench.breaker.parts();
        assert_eq!(bench.succeed(&mut late), None, "no success of a probe");
        assert_eq!(bench.fail(&mut late), None, "no failure of one");
        bench.breaker.give_back(&mut late);
        assert_eq!(bench.breaker.parts(), before);
        bench.succeed(&mut probe);
        bench.request_succeeds();
        let mut last = bench.admit().unwrap();
        let mut lost = bench.admit().unwrap();
        assert_eq!(path(bench.succeed(&mut last)), Some((State::HalfOpen, State::Closed)));
        let closed = bench.breaker.parts();
        assert_eq!((bench.fail(&mut lost), bench.fail(&mut latest), bench.fail(&mut last)), (None, None, None));
        assert_eq!(bench.breaker.parts(), closed);
    }

    #[test]
    fn without_leave_it_stays_closed_and_asks_again_with_the_next_failure() {
        let bench = Bench::new();
        let asked = Cell::new(0);
        let reserve = || {
            asked.set(asked.get() + 1);
            None::<()>
        };
        let Teller { now, settings, window, identity, .. } = bench.tell();
        let tell = Teller { now, settings, window, identity, reserve };
        for _ in 0..10 {
            assert_eq!(bench.breaker.fail(&mut bench.admit().unwrap(), &tell), None);
        }
        assert_eq!(asked.get(), 6);
        assert_eq!(bench.state(), State::Closed);
        assert_eq!(path(bench.request_fails()), Some((State::Closed, State::Open)));
    }

    #[test]
    fn slow_answers_open_it_when_the_quantile_is_above_the_bound() {
        let latency = Some(Latency { quantile: 0.9, above: secs(2) });
        let bench = Bench::with(Settings { latency, ..Settings::default() });
        for _ in 0..18 {
            assert_eq!(bench.succeed_after(secs(2), &mut bench.admit().unwrap()), None, "not above");
        }
        assert_eq!(bench.succeed_after(secs(3), &mut bench.admit().unwrap()), None, "too few requests");
        assert_eq!(bench.succeed_after(secs(3), &mut bench.admit().unwrap()), None, "2 of 20 are the tenth left out");
        let opened = bench.succeed_after(secs(3), &mut bench.admit().unwrap()).unwrap();
        assert!(matches!(opened.reason, Reason::Slow { slow: 3, answers: 21, .. }), "{opened:?}");
        let bench = Bench { now: bench.now + secs(7), ..bench };
        let slow = bench.succeed_after(secs(3), &mut bench.admit().unwrap());
        assert_eq!(path(slow), Some((State::HalfOpen, State::Open)), "a slow probe has failed");
    }

    #[test]
    fn an_answer_whose_body_fails_is_a_failure_and_no_answer() {
        let bench = Bench::new();
        for number in 0..20 {
            let mut ticket = bench.admit().unwrap();
            assert_eq!(bench.succeed(&mut ticket), None);
            let opened = bench.fail(&mut ticket);
            assert_eq!(opened.is_some(), number == 19, "{number}");
            assert!(opened.is_none_or(|opened| matches!(opened.reason, Reason::Ratio { requests: 20, .. })));
        }
    }

    #[test]
    fn new_settings_hold_from_the_next_record_on() {
        let mut bench = Bench::new();
        (0..2).for_each(|_| assert_eq!(bench.request_fails(), None));
        bench.settings.consecutive_failures = 3;
        assert!(bench.request_fails().is_some());
        bench.wait(secs(10));
        bench.request_succeeds();
        bench.settings.half_open_probes = 2;
        assert_eq!(path(bench.request_succeeds()), Some((State::HalfOpen, State::Closed)));
    }
}
