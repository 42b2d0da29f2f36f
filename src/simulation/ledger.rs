//! What a run knows of its pool by itself: it counts what it does and what it is told, and asks the machines for nothing but
//! the states of their breakers, whose thresholds are theirs to know.

use super::Scenario;
use super::account::{Account, BEYOND};
use super::promise::{Promise, panics};
use crate::balance::{Standing, Tried};
use crate::breaker::{Breaker, Mode, Settings, State};
use crate::clock::Instant;
use crate::config::{HealthCheck, Initial, Service as Duty};
use crate::health::Finding;
use crate::state::{Health, Turn};

/// What is known of one backend.
#[derive(Debug)]
pub(super) struct Known {
    pub limit: Option<u32>,
    pub is_backup: bool,
    pub duty: Duty,
    pub is_down: bool,
    /// Findings one after the other that speak against what is said of it.
    row: u8,
    was_asked: bool,
    pub in_flight: u32,
    /// The breaker's state, how often it opened, and the probes under way since it last did.
    pub state: State,
    trips: u64,
    probes: u32,
    /// How often it went down or open, and how often it came back into service.
    pub losses: u64,
    pub restores: u64,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Ledger {
    pub backends: Vec<Known>,
    settings: Option<Settings>,
    check: Option<HealthCheck>,
    share: f64,
    fail_open: bool,
    threshold: f64,
    /// How many may wait.
    most: usize,
    accounts: Vec<Account>,
    /// Repetitions under way beyond the share.
    beyond: usize,
    /// The requests that wait in the queue, in the order of their coming.
    pub line: Vec<u64>,
}

impl Ledger {
    pub fn new(scenario: &Scenario) -> Ledger {
        let starts_down = scenario.check.as_ref().is_some_and(|check| check.initial == Initial::Down);
        let known = |backend: &super::Backend| Known {
            limit: backend.max_connections,
            is_backup: backend.backup,
            duty: Duty::Active,
            is_down: starts_down,
            row: 0,
            was_asked: !starts_down,
            in_flight: 0,
            state: State::Closed,
            trips: 0,
            probes: 0,
            losses: 0,
            restores: 0,
        };
        Ledger {
            backends: scenario.backends.iter().map(known).collect(),
            settings: scenario.breaker.clone(),
            check: scenario.check.clone(),
            share: scenario.retry_budget,
            fail_open: scenario.fail_open,
            threshold: scenario.panic_threshold,
            most: scenario.queue,
            accounts: (0..scenario.workers.max(1)).map(|_| Account::default()).collect(),
            beyond: 0,
            line: Vec::new(),
        }
    }

    /// How a backend stands for somebody whose turn this is.
    pub fn standing(&self, index: usize, turn: Turn) -> Standing {
        let known = &self.backends[index];
        let others_wait = turn == Turn::Newcomer && known.limit.is_some() && !self.line.is_empty();
        match known.duty {
            Duty::Maintenance => Standing::Maintenance,
            Duty::Drain => Standing::Draining,
            Duty::Active if known.is_down => Standing::Down,
            Duty::Active if self.is_held_back(known) => Standing::Open,
            Duty::Active if others_wait || known.room() == 0 => Standing::Full,
            Duty::Active => Standing::Usable,
        }
    }

    fn is_held_back(&self, known: &Known) -> bool {
        let Some(settings) = self.settings.as_ref().filter(|settings| settings.mode == Mode::Enforce) else {
            return false;
        };
        match known.state {
            State::Closed => false,
            State::HalfOpen => known.probes >= settings.half_open_probes,
            State::Open => true,
        }
    }

    /// How many more those backends may have that this request has not tried and that stand so for who waits.
    pub fn room(&self, tried: &Tried, stands: impl Fn(Standing) -> bool) -> usize {
        let such = |&index: &usize| !tried.contains(index) && stands(self.standing(index, Turn::Waiter));
        let room = |index: usize| self.room_of(&self.backends[index]);
        (0..self.backends.len()).filter(such).map(room).fold(0, usize::saturating_add)
    }

    /// How many more all may have: those that work, or else those that are tried instead.
    pub fn room_for_all(&self) -> usize {
        let nothing = Tried::default();
        if self.panics() {
            let among = |known: &&Known| !known.is_backup && known.duty == Duty::Active;
            let such = self.backends.iter().filter(among);
            return such.map(|known| known.room() as usize).fold(0, usize::saturating_add);
        }
        match self.has_working() {
            true => self.room(&nothing, |standing| matches!(standing, Standing::Usable | Standing::Full)),
            false => {
                let is_tried = |standing| standing == Standing::Open || self.fail_open && standing == Standing::Down;
                self.room(&nothing, is_tried)
            }
        }
    }

    /// Whether so few are well that all primaries are tried alike.
    pub fn panics(&self) -> bool {
        let stands = |index: usize| (self.standing(index, Turn::Waiter), self.backends[index].is_backup);
        self.threshold > 0.0 && panics(&(0..self.backends.len()).map(stands).collect::<Vec<_>>(), self.threshold)
    }

    /// Whether a backend works, with room or without.
    pub fn has_working(&self) -> bool {
        self.has(Standing::Usable) || self.has(Standing::Full)
    }

    /// Whether a backend stands so for who waits.
    pub fn has(&self, standing: Standing) -> bool {
        (0..self.backends.len()).any(|index| self.standing(index, Turn::Waiter) == standing)
    }

    /// Whether no more may wait, and there is room for more than do.
    pub fn has_spare_room(&self) -> bool {
        let waiting = self.line.len();
        waiting > 0 && waiting >= self.most && self.room_for_all() > waiting
    }

    fn room_of(&self, known: &Known) -> usize {
        let by_limit = known.room() as usize;
        match &self.settings {
            Some(settings) if known.state == State::HalfOpen && !known.is_down && !self.is_held_back(known) => {
                let is_enforced = settings.mode == Mode::Enforce;
                let probes = settings.half_open_probes.saturating_sub(known.probes) as usize;
                if is_enforced { by_limit.min(probes) } else { by_limit }
            }
            _ => by_limit,
        }
    }

    /// One more is in flight; whether it is a probe, and since which opening.
    pub fn take(&mut self, index: usize, is_asked: bool) -> Result<Option<u64>, Promise> {
        let known = &mut self.backends[index];
        known.in_flight += 1;
        if known.limit.is_some_and(|limit| known.in_flight > limit) {
            return Err(Promise::WithinItsLimit);
        }
        let Some(settings) = &self.settings else { return Ok(None) };
        let has_room = known.state == State::HalfOpen && known.probes < settings.half_open_probes;
        if has_room {
            known.probes += 1;
            return Ok(Some(known.trips));
        }
        let is_barred = is_asked && settings.mode == Mode::Enforce && known.state != State::Closed;
        if is_barred { Err(Promise::OnlyProbesPassAnOpenBreaker) } else { Ok(None) }
    }

    /// One less is in flight.
    pub fn release(&mut self, index: usize) -> Result<(), Promise> {
        let known = &mut self.backends[index];
        known.in_flight = known.in_flight.checked_sub(1).ok_or(Promise::InFlightIsBalanced)?;
        Ok(())
    }

    /// A probe made room for the next, if its time is not over.
    pub fn give_back(&mut self, index: usize, probes: Option<u64>) {
        let known = &mut self.backends[index];
        if probes == Some(known.trips) && known.state != State::Closed {
            known.probes -= 1;
        }
    }

    /// Looks at a breaker; true when it opened since the last look, from closed.
    pub fn look_at(&mut self, index: usize, breaker: &Breaker, now: Instant) -> bool {
        let known = &mut self.backends[index];
        let (trips, state, before) = (breaker.trips(), breaker.state(now), known.state);
        let has_tripped = trips != known.trips;
        if has_tripped || state == State::Closed {
            known.probes = 0;
        }
        if has_tripped && self.settings.as_ref().is_some_and(|settings| settings.mode == Mode::Enforce) {
            known.losses += 1;
        }
        (known.trips, known.state) = (trips, state);
        has_tripped && before == State::Closed
    }

    /// Whether more breakers are open than may be.
    pub fn is_too_open(&self) -> bool {
        let Some(settings) = &self.settings else { return false };
        let open = self.backends.iter().filter(|known| known.state != State::Closed).count();
        open > 1 && open as f64 > settings.max_open_ratio * self.backends.len() as f64 + 1e-6
    }

    /// Whether another backend than this could serve, if it had room.
    pub fn has_another(&self, index: usize) -> bool {
        let serves = |known: &Known| known.duty == Duty::Active && !known.is_down && known.state == State::Closed;
        self.backends.iter().enumerate().any(|(other, known)| other != index && serves(known))
    }

    /// A probe of a backend ended so.
    pub fn found(&mut self, index: usize, finding: Finding) {
        let Some(check) = &self.check else { return };
        let known = &mut self.backends[index];
        let speaks_for = (finding == Finding::Good) != known.is_down;
        if !std::mem::replace(&mut known.was_asked, true) && finding == Finding::Good {
            known.is_down = false;
        } else if speaks_for {
            known.row = 0;
        } else {
            known.row += 1;
            if known.row >= if known.is_down { check.rise } else { check.fall } {
                self.turn(index, finding == Finding::Bad);
            }
        }
    }

    /// It is said of a backend that it is this.
    pub fn is_said(&mut self, index: usize, health: Health) {
        if self.backends[index].is_down != health.is_down() {
            self.turn(index, health.is_down());
        }
    }

    fn turn(&mut self, index: usize, is_down: bool) {
        let known = &mut self.backends[index];
        known.losses += u64::from(is_down);
        (known.is_down, known.row) = (is_down, 0);
    }

    pub fn serves(&mut self, index: usize, duty: Duty) {
        let known = &mut self.backends[index];
        known.restores += u64::from(known.duty != Duty::Active && duty == Duty::Active);
        known.duty = duty;
    }

    /// A request came to this worker.
    pub fn request(&mut self, worker: usize, now: Instant) {
        self.accounts[worker].request(now);
    }

    /// One is tried again if it `may`; whether that is beyond the share.
    pub fn repeat(&mut self, worker: usize, now: Instant, may: bool) -> Result<bool, Promise> {
        let is_beyond = !self.accounts[worker].repeat(now, self.share);
        let has_leave = !is_beyond || self.beyond < BEYOND;
        self.beyond += usize::from(may && is_beyond);
        if may == has_leave { Ok(may && is_beyond) } else { Err(Promise::BudgetIsKept) }
    }

    /// One that was beyond the share waits no more.
    pub fn repeated(&mut self) {
        self.beyond -= 1;
    }
}

impl Known {
    pub fn room(&self) -> u32 {
        self.limit.unwrap_or(u32::MAX).saturating_sub(self.in_flight)
    }
}
