//! The pool of a run: its configuration, its reloads and its health checks.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::super::{Fault, Scenario};
use super::{Event, World};
use crate::balance::Dice;
use crate::clock::Instant;
use crate::config::{self, Address, Config, Name};
use crate::health::schedule::{self, Asked};
use crate::health::{Finding, Streak, Subject};
use crate::state::{Health, PoolId, Sessions, Snapshot, View};
use crate::tls::Materials;

/// The pool's name.
const POOL: &str = "app";

/// What is not said of it otherwise is as in any file.
const FILE: &str = "[listeners.web]\nbind = '127.0.0.1:1'\npool = 'app'\n[pools.app]\nbackends = ['127.0.0.1:2']\n";

pub(super) fn config(scenario: &Scenario) -> Config {
    let mut config = config::from_text("simulation", FILE).expect("the file is fine").config;
    let pool = &mut config.pools[0];
    pool.policy = scenario.policy.clone();
    pool.breaker.clone_from(&scenario.breaker);
    pool.health_check = scenario.check.clone().map(Arc::new);
    (pool.queue, pool.retry_budget, pool.fail_open) = (scenario.queue, scenario.retry_budget, scenario.fail_open);
    (pool.panic_threshold, pool.slow_start) = (scenario.panic_threshold, scenario.slow_start);
    let like = pool.backends.remove(0);
    let backend = |(number, backend): (u16, &super::super::Backend)| config::Backend {
        name: Name::from(number.to_string()),
        address: Address::Ip(([127, 0, 0, 1], number).into()),
        weight: backend.weight,
        max_connections: backend.max_connections.and_then(NonZeroU32::new),
        backup: backend.backup,
        ..like.clone()
    };
    pool.backends = (1..).zip(&scenario.backends).map(backend).collect();
    config
}

/// The next snapshot, in force, and the pool's number.
pub(super) fn snapshot(config: &Config, previous: Option<&Snapshot>, now: Instant) -> (Arc<Snapshot>, PoolId) {
    let snapshot = Snapshot::next(config, &Materials::default(), previous);
    let pool = snapshot.pool_id(POOL).expect("it is in every configuration");
    snapshot.admit(now);
    (Arc::new(snapshot), pool)
}

/// The check of one backend.
pub(super) struct Checker {
    subject: Subject,
    streak: Streak,
    asked: Asked,
    dice: Dice,
    /// How often it began or ended; what was planned before is void.
    number: u64,
}

impl World<'_> {
    pub(super) fn reload(&mut self, index: usize, change: impl FnOnce(&mut config::Backend)) {
        change(&mut self.config.pools[0].backends[index]);
        (self.snapshot, _) = snapshot(&self.config, Some(&self.snapshot), self.now);
        for (number, worker) in self.workers.iter_mut().enumerate() {
            let seed = worker.dice.next();
            worker.view = View::new(Arc::clone(&self.snapshot), Some(&worker.view), number, seed);
        }
        self.snapshot.settle();
        self.snapshot.call_waiting();
    }

    pub(super) fn begin_checks(&mut self) {
        let Some(check) = self.told.check.clone().map(Arc::new) else { return };
        let pool = Arc::clone(self.snapshot.pool(self.pool).expect("it is there"));
        for backend in &*pool.backends {
            let (state, queue) = (Arc::clone(&backend.state), Arc::clone(&pool.queue));
            let subject = Subject {
                name: backend.name.clone(),
                state,
                queue,
                check: Arc::clone(&check),
                announced: None,
                tls: None,
                http_version: config::HttpVersion::H1,
            };
            let streak = Streak::resume(subject.state.checkup().health(), &check);
            let dice = Dice::seeded(self.dice.next());
            self.checkers.push(Checker { subject, streak, asked: Asked::Never, dice, number: 0 });
        }
        (0..self.checkers.len()).for_each(|index| self.checks_follow(index, true));
    }

    /// A backend is asked from now on, or not.
    pub(super) fn checks_follow(&mut self, index: usize, is_asked: bool) {
        let Some(checker) = self.checkers.get_mut(index) else { return };
        checker.number += 1;
        let health = checker.subject.state.checkup().health();
        (checker.streak, checker.asked) = (Streak::resume(health, &checker.subject.check), Asked::Never);
        if is_asked {
            let at = schedule::first(&checker.subject.check, health, self.now, &mut checker.dice);
            self.agenda.plan(at, Event::Probe(index, checker.number));
        }
    }

    pub(super) fn probe(&mut self, index: usize, number: u64) {
        let checker = &self.checkers[index];
        if checker.number == number {
            let (takes, finding) = self.actors[index].probe(checker.subject.check.timeout, &mut self.dice);
            self.agenda.plan(self.now + takes, Event::Probed(index, number, finding, self.now));
        }
    }

    pub(super) fn probed(&mut self, index: usize, number: u64, finding: Finding, began: Instant) {
        let checker = &mut self.checkers[index];
        if checker.number != number {
            return;
        }
        checker.asked = Asked::Before;
        if let Some(transition) = checker.streak.observe(finding) {
            checker.subject.follow(transition, self.now);
            if self.scenario.fault == Some(Fault::Flatters) && transition.to.is_down() {
                checker.subject.state.checkup().say(Health::Up, Sessions::Kept);
            }
        }
        let health = checker.streak.health();
        let check = &checker.subject.check;
        let at = schedule::next(check, health, checker.asked, began, self.now, &mut checker.dice);
        self.agenda.plan(at, Event::Probe(index, number));
        self.ledger.found(index, finding);
    }

    /// Says it of a backend in the way its check would.
    pub(super) fn say(&mut self, index: usize, health: Health) {
        let pool = self.workers[0].view.pool(self.pool);
        let state = &pool.backends[index].state;
        let was_down = state.checkup().health().is_down();
        if was_down && !health.is_down() {
            state.come_back(self.now);
        }
        state.checkup().say(health, Sessions::Kept);
        match (was_down, health.is_down()) {
            (false, true) => state.withdraw(),
            (true, false) => pool.queue.call(),
            _ => {}
        }
        self.ledger.is_said(index, health);
    }
}
