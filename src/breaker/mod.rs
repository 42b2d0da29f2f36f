//! Whether a backend that fails is left alone for a while: closed, open, half-open (semantics.md §5).
//!
//! A breaker is one word that all workers share, and a window of outcomes for each worker. A request is let in with a
//! [`Ticket`]; how it ends is told with that ticket. Answers in the steady state write nothing that is shared: the word
//! changes with a failure, with the first success after one, with a probe, and with a transition. Time alone turns open
//! into half-open, when somebody next asks. What belongs to an earlier epoch is not heard.
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
use window::{Event, Tally, Windows};
use word::{Course, Parts, Until, open_time};

pub use gate::{Denied, Gate, Inside, News, Peers};
pub use settings::{Latency, Mode, Settings};
pub use transition::{Reason, State, Transition};
pub use window::{LONGEST as LONGEST_WINDOW, Window};
pub use word::Epoch;

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
    stake: Stake,
    /// When it was counted as an answer.
    answered: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stake {
    /// None: its end is not heard.
    Nothing,
    /// One request of a closed breaker.
    Counts,
    /// One of the few that a half-open breaker lets through.
    Probe,
    /// One that has given its place to the next but can still fail.
    Probed,
}

impl Ticket {
    /// That of a request whose end is not heard.
    pub const UNHEARD: Ticket = Ticket { epoch: Epoch::FIRST, stake: Stake::Nothing, answered: None };

    fn new(epoch: Epoch, stake: Stake) -> Ticket {
        Ticket { epoch, stake, answered: None }
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

    /// Whether it has opened since this ticket was given out: what waits on it had better be tried elsewhere.
    #[must_use]
    pub fn has_opened_since(&self, ticket: &Ticket) -> bool {
        let parts = self.parts();
        ticket.stake != Stake::Nothing && parts.epoch != ticket.epoch && matches!(parts.course, Course::Open { .. })
    }

    /// Lets a request in. The first one after the open time makes the breaker half-open.
    ///
    /// # Errors
    /// It is open, or all probes are under way.
    pub fn admit(&self, now: Instant, settings: &Settings, entry: Entry) -> Result<(Ticket, Option<Transition>), Shut> {
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

    /// A good answer came after `took`. When it was one too many that is slow, `reserve` is asked as for a failure.
    pub fn succeed<P>(
        &self,
        ticket: &mut Ticket,
        took: Duration,
        tell: &Teller<'_>,
        reserve: impl FnOnce() -> Option<P>,
    ) -> Option<Transition> {
        let is_slow = tell.settings.latency.is_some_and(|latency| took > latency.above);
        match ticket.stake {
            Stake::Counts => self.answered(ticket, is_slow, tell, reserve),
            Stake::Probe if is_slow => self.fail(ticket, tell, reserve),
            Stake::Probe => {
                ticket.stake = Stake::Probed;
                self.passed(ticket.epoch, tell.settings)
            }
            Stake::Probed | Stake::Nothing => None,
        }
    }

    /// A failure happened. When it is one too many, `reserve` is asked for leave to open; what it gives is held until that
    /// is done.
    pub fn fail<P>(
        &self,
        ticket: &mut Ticket,
        tell: &Teller<'_>,
        reserve: impl FnOnce() -> Option<P>,
    ) -> Option<Transition> {
        match std::mem::replace(&mut ticket.stake, Stake::Nothing) {
            Stake::Counts => self.failed(ticket, tell, reserve),
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
        ticket.answered = Some(tell.now);
        tell.window.add(tell.now, ticket.epoch, if is_slow { Event::SlowAnswer } else { Event::Answer });
        if failures > 0 {
            let _ = self.change(ticket.epoch, |parts| match parts.course {
                Course::Closed { failures: 1.. } => Some(parts.with(Course::Closed { failures: 0 })),
                _ => None,
            });
        }
        let latency = tell.settings.latency.filter(|_| is_slow)?;
        let Tally { answers, slow, .. } = self.windows.sum(tell.now, tell.settings.window, ticket.epoch);
        let is_too_slow = slow as f64 > (1.0 - latency.quantile) * answers as f64;
        if answers < u64::from(tell.settings.min_requests) || !is_too_slow {
            return None;
        }
        let _held = reserve()?;
        let window = tell.settings.window;
        let above = latency.above;
        self.open(ticket.epoch, tell, |open_for| Reason::Slow { slow, answers, above, window, open_for })
    }

    fn failed<P>(&self, ticket: &Ticket, tell: &Teller<'_>, reserve: impl FnOnce() -> Option<P>) -> Option<Transition> {
        let counted = self.change(ticket.epoch, |parts| match parts.course {
            Course::Closed { failures } => Some(parts.with(Course::Closed { failures: failures.saturating_add(1) })),
            Course::Open { .. } | Course::HalfOpen { .. } => None,
        })?;
        if let Some(then) = ticket.answered {
            tell.window.retract(then, ticket.epoch);
        }
        tell.window.add(tell.now, ticket.epoch, Event::Failure);
        let Course::Closed { failures } = counted.course else { return None };
        if failures >= tell.settings.consecutive_failures {
            let _held = reserve()?;
            return self.open(ticket.epoch, tell, |open_for| Reason::Consecutive { failures, open_for });
        }
        let window = tell.settings.window;
        let tally = self.windows.sum(tell.now, window, ticket.epoch);
        let (failures, requests) = (tally.failures, tally.requests());
        let is_share = failures as f64 >= tell.settings.failure_ratio * requests as f64;
        if requests < u64::from(tell.settings.min_requests) || !is_share {
            return None;
        }
        let _held = reserve()?;
        self.open(ticket.epoch, tell, |open_for| Reason::Ratio { failures, requests, window, open_for })
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
