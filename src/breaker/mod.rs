//! Whether a backend that fails is left alone for a while: closed, open, half-open (semantics.md §5).
//!
//! A breaker is one word that all workers share, and a window of outcomes for each worker. A request is let in with a
//! [`Ticket`]; how it ends is told with that ticket. Answers in the steady state write nothing that is shared: the word
//! changes with a failure, with the first success after one, with a probe, and with a transition. Time alone turns open
//! into half-open, when somebody next asks, or looks at the time. What belongs to an earlier epoch is not heard.
//!
//! Whether *one more* breaker of a pool may open is not decided here: [`Breaker::fail`] asks its caller, who sees the pool
//! (see [`Peers`] and [`Gate`]).

mod gate;
mod settings;
mod transition;
mod window;
mod word;

use std::sync::Arc;
use std::time::Duration;

use crate::balance::hash_key;
use crate::clock::Instant;
use crate::sync::{AtomicU64, Ordering};
use window::{Event, Moment, Tally, Windows};
use word::{Course, Parts, Until, open_time};

pub use gate::{Denied, Gate, Inside, News, Peers};
pub use settings::{Latency, Mode, Settings};
pub use transition::{Reason, State, Transition};
pub use window::{LONGEST as LONGEST_WINDOW, Window};
pub use word::Epoch;

/// By how much a product of a share and a count may miss the count it stands for.
const HAIR: f64 = 1e-9;

/// Whether a request may be turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It goes elsewhere then.
    Asked,
    /// There is nowhere else: it goes in, uncounted, whatever the breaker says.
    Forced,
}

/// The breaker lets nobody in now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shut;

/// What one request has to do with a breaker. A probe's has to be [given back](Breaker::give_back).
#[derive(Debug)]
pub struct Ticket {
    epoch: Epoch,
    /// When it was counted as an answer, if it was.
    answered: Moment,
    stake: Stake,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stake {
    /// None: its end is not heard.
    Nothing,
    /// One request of a closed breaker.
    Counts,
    /// One that was counted as an answer but can still fail.
    Answered,
    /// One of the few that a half-open breaker lets through.
    Probe,
    /// One that has given its place to the next but can still fail.
    Probed,
}

impl Ticket {
    /// That of a request whose end is not heard.
    pub const UNHEARD: Ticket = Ticket { epoch: Epoch::FIRST, stake: Stake::Nothing, answered: Moment::NONE };

    fn new(epoch: Epoch, stake: Stake) -> Ticket {
        Ticket { epoch, stake, answered: Moment::NONE }
    }

    /// Counts it as an answer.
    fn count(&mut self, event: Event, tell: &Teller<'_>) {
        (self.stake, self.answered) = (Stake::Answered, Moment::of(tell.now));
        tell.window.add(tell.now, self.epoch, event);
    }

    /// Whether it holds one of the places of a half-open breaker.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.stake == Stake::Probe
    }
}

/// Where and when an end is told: what [`Breaker::succeed`] and [`Breaker::fail`] go by.
#[derive(Clone, Copy, Debug)]
pub struct Teller<'a> {
    /// The time.
    pub now: Instant,
    /// The settings in force.
    pub settings: &'a Settings,
    /// The worker's own window on the breaker.
    pub window: &'a Window,
    /// What the backend is known by; open times of different backends shall not be in step.
    pub identity: u64,
}

/// One backend's breaker.
///
/// # Orderings
/// All of the word are relaxed: it is the whole state, no memory is published through it, and every thread agrees on the
/// order of its changes.
#[derive(Debug)]
pub struct Breaker {
    word: AtomicU64,
    /// How often it opened.
    trips: AtomicU64,
    windows: Windows,
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker { word: AtomicU64::new(0), trips: AtomicU64::new(0), windows: Windows::default() }
    }
}

impl Breaker {
    /// The window of the worker of this number, from 0: only that worker's thread may tell with it.
    #[must_use]
    pub fn window(&self, worker: usize) -> Arc<Window> {
        self.windows.of(worker)
    }

    /// Whether it is closed: what every pick asks.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        word::is_closed(self.word.load(Ordering::Relaxed))
    }

    /// Its state. An open one whose time is over is half-open.
    #[must_use]
    pub fn state(&self, now: Instant) -> State {
        match self.parts().course {
            Course::Closed { .. } => State::Closed,
            Course::Open { until } if !until.is_over(now) => State::Open,
            Course::Open { .. } | Course::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// How often it has opened.
    #[must_use]
    pub fn trips(&self) -> u64 {
        // Relaxed: a count that nothing depends on.
        self.trips.load(Ordering::Relaxed)
    }

    /// Whether a request that asks would be let in.
    #[must_use]
    pub fn admits(&self, now: Instant, settings: &Settings) -> bool {
        settings.mode == Mode::Observe || has_room(self.parts().course, now, settings)
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
                    let transition = began.then_some(Transition {
                        from: State::Open,
                        to: State::HalfOpen,
                        reason: Reason::TimeIsOver,
                    });
                    return Ok((Ticket::new(next.epoch, Stake::Probe), transition));
                }
                Err(now) => parts = now,
            }
        }
    }

    /// How much longer it stays open, which is nothing when the next who asks makes it half-open; `None` when it is not open.
    #[must_use]
    pub fn open_for(&self, now: Instant) -> Option<Duration> {
        match self.parts().course {
            Course::Open { until } => Some(until.left(now)),
            Course::Closed { .. } | Course::HalfOpen { .. } => None,
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
        Some(Transition { from: State::Open, to: State::HalfOpen, reason: Reason::TimeIsOver })
    }

    /// A good answer came after `took`. When it was one too many that is slow, `reserve` is asked as for a failure.
    #[inline]
    pub fn succeed<P>(
        &self,
        ticket: &mut Ticket,
        took: Duration,
        tell: &Teller<'_>,
        reserve: impl FnOnce() -> Option<P>,
    ) -> Option<Transition> {
        let is_slow = tell.settings.latency.is_some_and(|latency| took > latency.above);
        // Relaxed: see the type.
        let is_calm = word::is_calm(self.word.load(Ordering::Relaxed), ticket.epoch);
        if ticket.stake == Stake::Counts && is_calm && !is_slow {
            ticket.count(Event::Answer, tell);
            return None;
        }
        self.succeed_in_trouble(ticket, is_slow, tell, reserve)
    }

    /// A good answer where something failed, or is slow, or late.
    #[cold]
    fn succeed_in_trouble<P>(
        &self,
        ticket: &mut Ticket,
        is_slow: bool,
        tell: &Teller<'_>,
        reserve: impl FnOnce() -> Option<P>,
    ) -> Option<Transition> {
        match ticket.stake {
            Stake::Counts => self.answered(ticket, is_slow, tell, reserve),
            Stake::Probe if is_slow => self.fail(ticket, tell, reserve),
            Stake::Probe => {
                ticket.stake = Stake::Probed;
                self.passed(ticket.epoch, tell.settings)
            }
            Stake::Answered | Stake::Probed | Stake::Nothing => None,
        }
    }

    /// A failure happened. When it is one too many, `reserve` is asked for leave to open; what it gives is held until that
    /// is done.
    #[cold]
    pub fn fail<P>(
        &self,
        ticket: &mut Ticket,
        tell: &Teller<'_>,
        reserve: impl FnOnce() -> Option<P>,
    ) -> Option<Transition> {
        match std::mem::replace(&mut ticket.stake, Stake::Nothing) {
            Stake::Counts => self.failed(ticket.epoch, None, tell, reserve),
            Stake::Answered => self.failed(ticket.epoch, Some(ticket.answered), tell, reserve),
            Stake::Probe | Stake::Probed => self.reopen(ticket.epoch, tell),
            Stake::Nothing => None,
        }
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

    fn answered<P>(
        &self,
        ticket: &mut Ticket,
        is_slow: bool,
        tell: &Teller<'_>,
        reserve: impl FnOnce() -> Option<P>,
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
        let _held = reserve()?;
        let window = tell.settings.window;
        let above = latency.above;
        self.open(ticket.epoch, tell, |open_for| Reason::Slow { slow, answers, above, window, open_for })
    }

    fn failed<P>(
        &self,
        epoch: Epoch,
        answered: Option<Moment>,
        tell: &Teller<'_>,
        reserve: impl FnOnce() -> Option<P>,
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
            let _held = reserve()?;
            return self.open(epoch, tell, |open_for| Reason::Consecutive { failures, open_for });
        }
        let window = tell.settings.window;
        let tally = self.windows.sum(tell.now, window, epoch);
        let (failures, requests) = (tally.failures, tally.requests());
        let is_share = failures as f64 + HAIR >= tell.settings.failure_ratio * requests as f64;
        if requests < u64::from(tell.settings.min_requests) || !is_share {
            return None;
        }
        let _held = reserve()?;
        self.open(epoch, tell, |open_for| Reason::Ratio { failures, requests, window, open_for })
    }

    /// From closed to open.
    fn open(&self, epoch: Epoch, tell: &Teller<'_>, reason: impl FnOnce(Duration) -> Reason) -> Option<Transition> {
        let open_for = self.open_time(epoch, 0, tell);
        let until = Until::at(tell.now + open_for);
        self.change(epoch, |parts| match parts.course {
            Course::Closed { .. } => Some(parts.enter(Course::Open { until }, 0)),
            Course::Open { .. } | Course::HalfOpen { .. } => None,
        })?;
        Some(self.tripped(State::Closed, reason(open_for)))
    }

    /// From half-open to open: one failure does.
    fn reopen(&self, epoch: Epoch, tell: &Teller<'_>) -> Option<Transition> {
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
    fn open_time(&self, epoch: Epoch, doublings: u32, tell: &Teller<'_>) -> Duration {
        let chance = hash_key(&(tell.identity ^ u64::from(epoch.number()) << 40).to_le_bytes());
        open_time(tell.settings.open_for, tell.settings.open_for_max, doublings, chance)
    }

    /// Makes a change in this epoch, unless it is over or `change` has none; says what the word is then.
    fn change(&self, epoch: Epoch, mut change: impl FnMut(Parts) -> Option<Parts>) -> Option<Parts> {
        let mut parts = self.parts();
        loop {
            let next = change(parts).filter(|_| parts.epoch == epoch)?;
            match self.exchange(parts, next) {
                Ok(()) => return Some(next),
                Err(now) => parts = now,
            }
        }
    }

    fn exchange(&self, from: Parts, to: Parts) -> Result<(), Parts> {
        // Relaxed: see the type.
        let changed = self.word.compare_exchange(from.word(), to.word(), Ordering::Relaxed, Ordering::Relaxed);
        changed.map(|_| ()).map_err(Parts::of)
    }

    fn parts(&self) -> Parts {
        // Relaxed: see the type.
        Parts::of(self.word.load(Ordering::Relaxed))
    }
}

/// Whether there is room for one more request.
fn has_room(course: Course, now: Instant, settings: &Settings) -> bool {
    match course {
        Course::Closed { .. } => true,
        Course::Open { until } => until.is_over(now),
        Course::HalfOpen { probing, .. } => probing < settings.half_open_probes,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicU32;

    use proptest::prelude::*;

    use super::*;

    const T0: Instant = Instant::ORIGIN;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A breaker, and one worker that tells it things.
    struct Bench {
        breaker: Breaker,
        settings: Settings,
        window: Arc<Window>,
        now: Instant,
    }

    impl Bench {
        fn new() -> Bench {
            let breaker = Breaker::default();
            let window = breaker.window(0);
            Bench { breaker, settings: Settings::default(), window, now: T0 + secs(1000) }
        }

        fn with(settings: Settings) -> Bench {
            Bench { settings, ..Bench::new() }
        }

        /// One that has just opened, and is due at once.
        fn due() -> Bench {
            let mut bench = Bench::new();
            bench.open();
            bench
        }

        fn open(&mut self) {
            let opened = (0..self.settings.consecutive_failures).filter_map(|_| self.request_fails()).last();
            assert_eq!(opened.map(|opened| opened.to), Some(State::Open));
            self.wait(self.settings.open_for_max * 2);
        }

        fn wait(&mut self, time: Duration) {
            self.now = self.now + time;
        }

        fn tell(&self) -> Teller<'_> {
            Teller { now: self.now, settings: &self.settings, window: &self.window, identity: 7 }
        }

        fn admit(&self) -> Option<Ticket> {
            self.breaker.admit(self.now, &self.settings, Entry::Asked).ok().map(|(ticket, _)| ticket)
        }

        fn succeed(&self, ticket: &mut Ticket) -> Option<Transition> {
            self.succeed_after(Duration::ZERO, ticket)
        }

        fn succeed_after(&self, took: Duration, ticket: &mut Ticket) -> Option<Transition> {
            self.breaker.succeed(ticket, took, &self.tell(), || Some(()))
        }

        fn fail(&self, ticket: &mut Ticket) -> Option<Transition> {
            self.breaker.fail(ticket, &self.tell(), || Some(()))
        }

        fn request_fails(&self) -> Option<Transition> {
            self.fail(&mut self.admit().unwrap())
        }

        fn request_succeeds(&self) -> Option<Transition> {
            self.succeed(&mut self.admit().unwrap())
        }

        fn state(&self) -> State {
            self.breaker.state(self.now)
        }

        fn probing(&self) -> u32 {
            match self.breaker.parts().course {
                Course::HalfOpen { probing, .. } => probing,
                other => panic!("{other:?}"),
            }
        }
    }

    fn path(transition: Option<Transition>) -> Option<(State, State)> {
        transition.map(|transition| (transition.from, transition.to))
    }

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
        assert_eq!((bench.breaker.open_for(bench.now), bench.breaker.half_open(bench.now)), (None, None), "closed");
        let Some(Reason::Consecutive { open_for, .. }) = bench.request_fails().map(|opened| opened.reason) else {
            panic!("one failure is enough")
        };
        let left = bench.breaker.open_for(bench.now).unwrap();
        assert!(left <= open_for && left + Duration::from_millis(1) > open_for, "{left:?} of {open_for:?}");
        let early = bench.now + left - Duration::from_millis(1);
        assert_eq!(bench.breaker.half_open(early), None);
        let due = bench.now + left;
        assert_eq!(bench.breaker.open_for(due), Some(Duration::ZERO));
        let turned = bench.breaker.half_open(due).unwrap();
        assert_eq!((path(Some(turned)), turned.reason), (Some((State::Open, State::HalfOpen)), Reason::TimeIsOver));
        assert_eq!((bench.breaker.open_for(due), bench.breaker.half_open(due)), (None, None), "once");
        let bench = Bench { now: due, ..bench };
        assert_eq!(bench.probing(), 0);
        assert_eq!(std::iter::from_fn(|| bench.admit()).filter(Ticket::is_probe).count(), 3);
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
    fn without_leave_it_stays_closed_and_asks_again_with_the_next_failure() {
        let bench = Bench::new();
        let mut asked = 0;
        for _ in 0..10 {
            let mut ticket = bench.admit().unwrap();
            let denied = bench.breaker.fail(&mut ticket, &bench.tell(), || {
                asked += 1;
                None::<()>
            });
            assert_eq!(denied, None);
        }
        assert_eq!(asked, 6);
        assert_eq!(bench.state(), State::Closed);
        assert_eq!(path(bench.request_fails()), Some((State::Closed, State::Open)));
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

    /// What can be done to a breaker.
    #[derive(Clone, Debug)]
    enum Step {
        Admit,
        Succeed(usize),
        Fail(usize),
        Drop(usize),
        Wait(u64),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Admit),
            2 => any::<usize>().prop_map(Step::Succeed),
            3 => any::<usize>().prop_map(Step::Fail),
            1 => any::<usize>().prop_map(Step::Drop),
            1 => (0..20_000u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn it_goes_its_three_ways_only_and_never_has_more_probes_than_it_may(
            steps in prop::collection::vec(any_step(), 1..400),
        ) {
            let mut bench = Bench::new();
            let mut held: Vec<Ticket> = Vec::new();
            let mut state = State::Closed;
            for step in steps {
                let place = |number: usize, held: &[Ticket]| number % held.len().max(1);
                let transition = match step {
                    Step::Admit => match bench.breaker.admit(bench.now, &bench.settings, Entry::Asked) {
                        Ok((ticket, transition)) => {
                            prop_assert!(bench.state() != State::Open);
                            held.push(ticket);
                            transition
                        }
                        Err(Shut) => {
                            prop_assert!(bench.state() != State::Closed);
                            None
                        }
                    },
                    Step::Succeed(number) => {
                        let place = place(number, &held);
                        held.get_mut(place).and_then(|ticket| bench.succeed(ticket))
                    }
                    Step::Fail(number) if !held.is_empty() => {
                        let mut ticket = held.swap_remove(place(number, &held));
                        let transition = bench.fail(&mut ticket);
                        bench.breaker.give_back(&mut ticket);
                        transition
                    }
                    Step::Drop(number) if !held.is_empty() => {
                        bench.breaker.give_back(&mut held.swap_remove(place(number, &held)));
                        None
                    }
                    Step::Wait(millis) => {
                        bench.wait(Duration::from_millis(millis));
                        None
                    }
                    Step::Fail(_) | Step::Drop(_) => None,
                };
                if let Some(Transition { from, to, .. }) = transition {
                    prop_assert_eq!(from, state);
                    prop_assert!(matches!(
                        (from, to),
                        (State::Closed, State::Open)
                            | (State::Open, State::HalfOpen)
                            | (State::HalfOpen, State::Open | State::Closed)
                    ));
                    state = to;
                }
                let parts = bench.breaker.parts();
                if let Course::HalfOpen { probing, passed } = parts.course {
                    let own = held.iter().filter(|ticket| ticket.is_probe() && ticket.epoch == parts.epoch).count();
                    prop_assert_eq!(probing as usize, own);
                    prop_assert!(probing <= 3 && passed < 3);
                }
            }
            held.iter_mut().for_each(|ticket| bench.breaker.give_back(ticket));
            if let Course::HalfOpen { probing, .. } = bench.breaker.parts().course {
                prop_assert_eq!(probing, 0);
            }
        }
    }

    /// Run as the models of `state/backend.rs` are.
    #[cfg(evenkeel_loom)]
    mod loom_models {
        use loom::thread;

        use super::*;

        /// Ratios are left out: they need many requests.
        fn strict() -> Settings {
            Settings { consecutive_failures: 2, half_open_probes: 1, window: secs(1), ..Settings::default() }
        }

        /// With the windows of both workers: how they are made is the standard library's business, of which loom sees
        /// nothing.
        fn shared() -> Breaker {
            let breaker = Breaker::default();
            drop(breaker.window(1));
            breaker
        }

        fn tell<R>(breaker: &Breaker, worker: usize, now: Instant, what: impl FnOnce(&Teller<'_>) -> R) -> R {
            let window = breaker.window(worker);
            what(&Teller { now, settings: &strict(), window: &window, identity: 7 })
        }

        fn fails(breaker: &Breaker, worker: usize, now: Instant) -> Option<Transition> {
            let (mut ticket, _) = breaker.admit(now, &strict(), Entry::Asked).ok()?;
            tell(breaker, worker, now, |tell| breaker.fail(&mut ticket, tell, || Some(())))
        }

        /// One whose open time is over at the returned time.
        fn due() -> (Arc<Breaker>, Instant) {
            let breaker = Arc::new(shared());
            assert_eq!(fails(&breaker, 0, T0), None);
            assert!(fails(&breaker, 0, T0).is_some());
            (breaker, T0 + secs(100))
        }

        #[test]
        fn two_failures_at_once_open_it_once() {
            loom::model(|| {
                let breaker = Arc::new(shared());
                let workers: Vec<_> = (0..2)
                    .map(|worker| {
                        let breaker = Arc::clone(&breaker);
                        thread::spawn(move || fails(&breaker, worker, T0).is_some())
                    })
                    .collect();
                let opened = workers.into_iter().filter_map(|worker| worker.join().unwrap().then_some(())).count();
                assert_eq!(opened, 1);
                assert_eq!((breaker.state(T0), breaker.trips()), (State::Open, 1));
            });
        }

        #[test]
        fn of_two_that_want_the_one_probe_one_gets_it_and_what_is_given_back_is_there() {
            loom::model(|| {
                let (breaker, now) = due();
                let workers: Vec<_> = (0..2)
                    .map(|_| {
                        let breaker = Arc::clone(&breaker);
                        thread::spawn(move || {
                            let Ok((ticket, began)) = breaker.admit(now, &strict(), Entry::Asked) else {
                                return (None, false);
                            };
                            (Some(ticket), began.is_some())
                        })
                    })
                    .collect();
                let ends: Vec<_> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
                assert_eq!(ends.iter().filter(|(_, began)| *began).count(), 1, "one tells of it");
                let mut probes: Vec<_> = ends.into_iter().filter_map(|(ticket, _)| ticket).collect();
                assert_eq!(probes.len(), 1);
                probes.iter_mut().for_each(|ticket| breaker.give_back(ticket));
                assert!(breaker.admit(now, &strict(), Entry::Asked).is_ok());
            });
        }

        #[test]
        fn of_the_clock_and_a_request_one_makes_it_half_open_and_the_request_is_a_probe() {
            loom::model(|| {
                let (breaker, now) = due();
                let clock = {
                    let breaker = Arc::clone(&breaker);
                    thread::spawn(move || breaker.half_open(now).is_some())
                };
                let (ticket, began) = breaker.admit(now, &strict(), Entry::Asked).unwrap();
                assert!(ticket.is_probe());
                assert!(clock.join().unwrap() != began.is_some(), "one tells of it");
                assert!(matches!(breaker.parts().course, Course::HalfOpen { probing: 1, passed: 0 }));
            });
        }

        #[test]
        fn a_probe_that_comes_back_while_another_asks_leaves_no_place_lost() {
            loom::model(|| {
                let (breaker, now) = due();
                let (mut probe, _) = breaker.admit(now, &strict(), Entry::Asked).unwrap();
                let other = {
                    let breaker = Arc::clone(&breaker);
                    thread::spawn(move || {
                        if let Ok((mut ticket, _)) = breaker.admit(now, &strict(), Entry::Asked) {
                            breaker.give_back(&mut ticket);
                        }
                    })
                };
                breaker.give_back(&mut probe);
                other.join().unwrap();
                assert!(matches!(breaker.parts().course, Course::HalfOpen { probing: 0, passed: 0 }));
            });
        }

        #[test]
        fn a_late_failure_beside_a_probe_that_closes_it_is_not_heard() {
            loom::model(|| {
                let breaker = Arc::new(shared());
                let (mut late, _) = breaker.admit(T0, &strict(), Entry::Asked).unwrap();
                fails(&breaker, 0, T0);
                fails(&breaker, 0, T0);
                let now = T0 + secs(100);
                let (mut probe, _) = breaker.admit(now, &strict(), Entry::Asked).unwrap();
                let other = {
                    let breaker = Arc::clone(&breaker);
                    thread::spawn(move || tell(&breaker, 1, now, |tell| breaker.fail(&mut late, tell, || Some(()))))
                };
                let closed =
                    tell(&breaker, 0, now, |tell| breaker.succeed(&mut probe, Duration::ZERO, tell, || Some(())));
                assert_eq!(other.join().unwrap(), None);
                assert_eq!(path(closed), Some((State::HalfOpen, State::Closed)));
                assert_eq!(breaker.parts().course, Course::Closed { failures: 0 });
            });
        }

        /// Two backends of two, one place: they see each other through the gate alone.
        #[test]
        fn of_two_that_open_at_once_one_stays_closed() {
            loom::model(|| {
                let pool = Arc::new((Gate::default(), [shared(), shared()]));
                for breaker in &pool.1 {
                    fails(breaker, 0, T0);
                }
                let opens = |pool: &(Gate, [Breaker; 2]), own: usize| {
                    let (gate, breakers) = pool;
                    let (mut ticket, _) = breakers[own].admit(T0, &strict(), Entry::Asked).unwrap();
                    tell(&breakers[own], own, T0, |tell| {
                        breakers[own].fail(&mut ticket, tell, || {
                            let inside = gate.enter(T0)?;
                            let closed = usize::from(breakers[1 - own].is_closed());
                            let peers = Peers { backends: 2, open: 1 - closed, serving: closed };
                            peers.allow_one_more(0.5).is_ok().then_some(inside)
                        })
                    })
                };
                let other = {
                    let pool = Arc::clone(&pool);
                    thread::spawn(move || opens(&pool, 1).is_some())
                };
                let own = opens(&pool, 0).is_some();
                let other = other.join().unwrap();
                assert!(!(own && other), "both are open");
                assert!(own || other, "whoever is first, opens");
            });
        }
    }
}
