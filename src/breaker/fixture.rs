//! A breaker and one worker, for this room's tests.

use std::sync::Arc;
use std::time::Duration;

use super::word::Course;
use super::{Breaker, Entry, Settings, State, Teller, Ticket, Transition, Window};
use crate::clock::Instant;

pub const T0: Instant = Instant::ORIGIN;

/// Leave is given.
type Reserve = fn() -> Option<()>;

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A breaker, and one worker that tells it things.
pub struct Bench {
    pub breaker: Breaker,
    pub settings: Settings,
    pub window: Arc<Window>,
    pub now: Instant,
}

impl Bench {
    pub fn new() -> Bench {
        let breaker = Breaker::default();
        let window = breaker.window(0);
        Bench { breaker, settings: Settings::default(), window, now: T0 + secs(1000) }
    }

    pub fn with(settings: Settings) -> Bench {
        Bench { settings, ..Bench::new() }
    }

    /// One that has just opened, and is due at once.
    pub fn due() -> Bench {
        let mut bench = Bench::new();
        bench.open();
        bench
    }

    pub fn open(&mut self) {
        let opened = (0..self.settings.consecutive_failures).filter_map(|_| self.request_fails()).last();
        assert_eq!(opened.map(|opened| opened.to), Some(State::Open));
        self.wait(self.settings.open_for_max * 2);
    }

    pub fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    pub fn tell(&self) -> Teller<'_, Reserve> {
        Teller { now: self.now, settings: &self.settings, window: &self.window, identity: 7, reserve: || Some(()) }
    }

    pub fn admit(&self) -> Option<Ticket> {
        self.breaker.admit(self.now, &self.settings, Entry::Asked).ok().map(|(ticket, _)| ticket)
    }

    pub fn succeed(&self, ticket: &mut Ticket) -> Option<Transition> {
        self.succeed_after(Duration::ZERO, ticket)
    }

    pub fn succeed_after(&self, took: Duration, ticket: &mut Ticket) -> Option<Transition> {
        self.breaker.succeed(ticket, took, &self.tell())
    }

    pub fn fail(&self, ticket: &mut Ticket) -> Option<Transition> {
        self.breaker.fail(ticket, &self.tell())
    }

    pub fn request_fails(&self) -> Option<Transition> {
        self.fail(&mut self.admit().unwrap())
    }

    pub fn request_succeeds(&self) -> Option<Transition> {
        self.succeed(&mut self.admit().unwrap())
    }

    pub fn state(&self) -> State {
        self.breaker.state(self.now)
    }

    pub fn probing(&self) -> u32 {
        match self.breaker.parts().course {
            Course::HalfOpen { probing, .. } => probing,
            other => panic!("{other:?}"),
        }
    }
}

pub fn path(transition: Option<Transition>) -> Option<(State, State)> {
    transition.map(|transition| (transition.from, transition.to))
}
