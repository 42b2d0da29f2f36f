//! The run itself: the events in the order of their times, and a look at every promise after each.

mod pool;
mod requests;
mod waits;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::actor::{Actor, exponential};
use super::ledger::Ledger;
use super::{Broken, Promise, Report, Scenario, What, audit};
use crate::balance::{Candidate, Dice, Standing};
use crate::clock::Instant;
use crate::config::{Config, Service as Duty};
use crate::health::Finding;
use crate::outcome::Outcome;
use crate::state::{Backend, PoolId, Snapshot, View};
use pool::Checker;
use requests::Request;

/// Where a run begins.
const BEGIN: Instant = Instant::ORIGIN;

/// For how long breakers are let alone before they are asked for their probes.
const LATER: Duration = Duration::from_secs(86_400);

/// A request, at one of its stages: what was planned for an earlier one is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Whose {
    request: u64,
    stage: u64,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// A change of the scenario, by its index.
    Change(usize),
    /// A request arrives, and the next one is due.
    Arrival,
    /// The head of an answer comes; then the rest takes so long and ends so.
    Head(Whose, u16, Duration, Outcome),
    /// An attempt ends.
    End(Whose, Outcome),
    /// Who waits does what it was woken for.
    Call(Whose),
    /// Who waits has waited long enough.
    Late(Whose),
    /// Somebody keeps the breakers' time.
    Clock,
    /// A client leaves, wherever its request is.
    Leave(u64),
    /// A backend is asked by the check of this number.
    Probe(usize, u64),
    /// It is known how it was, of a probe that began then.
    Probed(usize, u64, Finding, Instant),
}

/// One of the things to come: by time, then in the order in which they were planned.
struct Planned {
    at: Instant,
    number: u64,
    event: Event,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Planned) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Planned) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    /// The greatest is the next.
    fn cmp(&self, other: &Planned) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// What is to come.
#[derive(Default)]
struct Agenda {
    heap: BinaryHeap<Planned>,
    planned: u64,
}

impl Agenda {
    fn plan(&mut self, at: Instant, event: Event) {
        self.planned += 1;
        self.heap.push(Planned { at, number: self.planned, event });
    }

    fn next(&mut self) -> Option<(Instant, Event)> {
        self.heap.pop().map(|planned| (planned.at, planned.event))
    }
}

struct Worker {
    view: View,
    dice: Dice,
}

/// Everything in a run.
pub(super) struct World<'a> {
    scenario: &'a Scenario,
    /// As the machines are set up.
    told: &'a Scenario,
    seed: u64,
    /// The chance of all that is played; workers have their own.
    dice: Dice,
    now: Instant,
    actors: Vec<Actor>,
    config: Config,
    snapshot: Arc<Snapshot>,
    pool: PoolId,
    workers: Vec<Worker>,
    checkers: Vec<Checker>,
    agenda: Agenda,
    requests: BTreeMap<u64, Request>,
    arrivals: u64,
    stages: u64,
    /// Who was woken since the last event, told by the wakers.
    woken: Arc<Mutex<Vec<Whose>>>,
    /// The requests of those of them who are on their way.
    called: Vec<u64>,
    ledger: Ledger,
    /// When the breakers' time is looked at next.
    clock: Option<Instant>,
    /// The sum of all losses that were looked at.
    losses: u64,
    report: Report,
}

impl<'a> World<'a> {
    pub fn new(scenario: &'a Scenario, told: &'a Scenario, seed: u64) -> World<'a> {
        let mut dice = Dice::seeded(seed);
        let config = pool::config(told);
        let (snapshot, pool) = pool::snapshot(&config, None, BEGIN);
        let worker = |number| {
            let view = View::new(Arc::clone(&snapshot), None, number, dice.next());
            Worker { view, dice: Dice::seeded(dice.next()) }
        };
        let workers = (0..scenario.workers.max(1)).map(worker).collect();
        let counts = scenario.backends.len();
        let mut world = World {
            scenario,
            told,
            seed,
            dice,
            now: BEGIN,
            actors: scenario.backends.iter().map(Actor::new).collect(),
            config,
            snapshot,
            pool,
            workers,
            checkers: Vec::new(),
            agenda: Agenda::default(),
            requests: BTreeMap::new(),
            arrivals: 0,
            stages: 0,
            woken: Arc::default(),
            called: Vec::new(),
            ledger: Ledger::new(scenario),
            clock: None,
            losses: 0,
            report: Report { peaks: vec![0; counts], failures: vec![0; counts], ..Report::default() },
        };
        world.begin_checks();
        for (index, change) in scenario.changes.iter().enumerate() {
            world.agenda.plan(BEGIN + change.at, Event::Change(index));
        }
        world
    }

    pub fn run(mut self) -> Report {
        self.plan_arrival();
        while let Some((at, event)) = self.agenda.next() {
            self.now = at;
            let is_over = self.requests.is_empty() && self.now > BEGIN + self.scenario.lasts;
            if is_over {
                break;
            }
            if let Err(promise) = self.step(event) {
                self.broke(promise, Some(event));
                break;
            }
        }
        self.finish()
    }

    fn finish(mut self) -> Report {
        self.report.trips = self.backends().iter().map(|backend| backend.state.breaker().trips()).collect();
        if self.report.broken.is_none()
            && let Err(promise) = self.check_end()
        {
            self.broke(promise, None);
        }
        self.report.latencies.sort_unstable();
        self.report
    }

    fn broke(&mut self, promise: Promise, event: Option<Event>) {
        let (at, seed) = (self.elapsed(), self.seed);
        let stands: Vec<Standing> = self.backends().iter().map(|backend| backend.standing(self.now)).collect();
        let Ledger { backends, line, .. } = &self.ledger;
        let scene = format!("{event:?} among {stands:?}, known as {backends:?}, with {line:?} in the queue");
        self.report.broken = Some(Broken { promise, at, seed, scene });
    }

    fn step(&mut self, event: Event) -> Result<(), Promise> {
        for index in 0..self.actors.len() {
            self.look_at_breaker(index)?;
        }
        match event {
            Event::Change(index) => self.change(index),
            Event::Arrival => {
                self.plan_arrival();
                self.arrive()
            }
            Event::Head(whose, status, rest, end) => self.head(whose, status, rest, end),
            Event::End(whose, outcome) => self.end(whose, outcome),
            Event::Call(whose) => {
                let on_its_way = self.called.iter().position(|number| *number == whose.request);
                self.called.swap_remove(on_its_way.expect("who follows was called"));
                self.follow(whose, false)
            }
            Event::Late(whose) => self.follow(whose, true),
            Event::Clock => {
                self.clock = None;
                Ok(())
            }
            Event::Leave(request) => self.leave(request),
            Event::Probe(index, number) => {
                self.probe(index, number);
                Ok(())
            }
            Event::Probed(index, number, finding, began) => {
                self.probed(index, number, finding, began);
                Ok(())
            }
        }?;
        self.give_up_lost_ones()?;
        self.keep_time();
        self.pass_calls_on();
        self.check()
    }

    fn change(&mut self, index: usize) -> Result<(), Promise> {
        let change = self.scenario.changes[index];
        self.actors[change.backend].change(change.what);
        match change.what {
            What::IsSaid(health) => self.say(change.backend, health),
            What::Serves(duty) => self.reload(change.backend, |backend| backend.service = duty),
            What::Weighs(weight) => self.reload(change.backend, |backend| backend.weight = weight),
            What::Slows(_) | What::Fails { .. } | What::Denies(_) => {}
        }
        if let What::Serves(duty) = change.what {
            self.ledger.serves(change.backend, duty);
            self.checks_follow(change.backend, duty != Duty::Maintenance);
        }
        Ok(())
    }

    /// Who was woken does something about it, soon.
    fn pass_calls_on(&mut self) {
        let woken = std::mem::take(&mut *self.woken.lock().expect("nobody panics with it"));
        for whose in woken {
            let at = self.now + self.scenario.dawdles.mul_f64(self.dice.unit());
            self.called.push(whose.request);
            self.agenda.plan(at, Event::Call(whose));
        }
    }

    /// Open breakers become half-open at their time, though nobody asks.
    fn keep_time(&mut self) {
        let next = self.snapshot.turn_breakers(self.now);
        if let Some(next) = next.filter(|next| self.clock.is_none_or(|planned| *next < planned)) {
            self.clock = Some(next);
            self.agenda.plan(next, Event::Clock);
        }
    }

    fn backends(&self) -> Arc<[Backend]> {
        Arc::clone(&self.workers[0].view.pool(self.pool).backends)
    }

    fn look_at_breaker(&mut self, index: usize) -> Result<(), Promise> {
        let pool = self.workers[0].view.pool(self.pool);
        let has_opened = self.ledger.look_at(index, pool.backends[index].state.breaker(), self.now);
        if has_opened { audit::of_opening(&self.ledger, index) } else { Ok(()) }
    }

    fn check(&self) -> Result<(), Promise> {
        let pool = self.workers[0].view.pool(self.pool);
        audit::of_counts(&self.ledger, &pool.backends)?;
        // What they were told otherwise shows in what they do.
        if std::ptr::eq(self.scenario, self.told) {
            audit::of_standings(&self.ledger, &pool.backends, self.now)?;
        }
        audit::of_queue(&self.ledger, pool.queue.waiting(), self.scenario.queue)?;
        if self.called.is_empty() { self.check_waiting() } else { Ok(()) }
    }

    fn check_end(&self) -> Result<(), Promise> {
        let pool = self.workers[0].view.pool(self.pool);
        if pool.backends.iter().any(|backend| backend.state.in_flight() > 0) {
            return Err(Promise::InFlightIsBalanced);
        }
        audit::of_queue(&self.ledger, pool.queue.waiting(), 0)?;
        let Some(settings) = &self.scenario.breaker else { return Ok(()) };
        pool.backends.iter().try_for_each(|backend| audit::of_probes(backend, settings, self.now + LATER))
    }

    fn elapsed(&self) -> Duration {
        self.now.since(BEGIN)
    }

    fn plan_arrival(&mut self) {
        let at = self.now + exponential(1.0 / self.scenario.rate, &mut self.dice);
        if at < BEGIN + self.scenario.lasts {
            self.agenda.plan(at, Event::Arrival);
        }
    }
}
