//! The run itself: the queue of events, the made-up backends, and what each event does.

mod breaking;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::{Backend, Broken, Pick, Promise, Report, Scenario, Service, What, promise};
use crate::balance::{
    AnyPicker, Ask, Candidate, ConsistentHash, Dice, Estimate, Lost, Policy, Reach, Rung, Standing, Tried, UNIT,
    climb_and_take, hash_key, peer_median, ramped,
};
use crate::breaker::{Breaker, Settings, Ticket};
use crate::clock::Instant;

/// Where a run begins.
const BEGIN: Instant = Instant::ORIGIN;

/// One backend on its way through the run.
pub(super) struct Actor {
    backend: Backend,
    identity: u64,
    standing: Standing,
    in_flight: u32,
    latency: Estimate,
    slowness: f64,
    failing: (f64, Duration),
    breaker: Breaker,
    settings: Option<Settings>,
    /// Its slow start, and when the latest began.
    slow_start: Option<Duration>,
    returned: Option<Instant>,
    /// How often the breaker changed its state, and the probes that were let in since it last did.
    changes: u64,
    probes: u32,
}

impl Candidate for Actor {
    fn weight(&self) -> u32 {
        self.backend.weight
    }

    fn weight_at(&self, now: Instant) -> u32 {
        match (self.slow_start, self.returned) {
            (Some(slow_start), Some(at)) => ramped(self.backend.weight, now.since(at), slow_start),
            _ => self.backend.weight * UNIT,
        }
    }

    fn standing(&self, now: Instant) -> Standing {
        match self.standing {
            Standing::Usable if self.is_held_back(now) => Standing::Open,
            Standing::Usable if self.is_full() => Standing::Full,
            standing => standing,
        }
    }

    fn in_flight(&self) -> u32 {
        self.in_flight
    }

    fn latency(&self) -> Estimate {
        self.latency
    }

    fn is_backup(&self) -> bool {
        self.backend.backup
    }

    fn identity(&self) -> u64 {
        self.identity
    }
}

impl Actor {
    fn is_held_back(&self, now: Instant) -> bool {
        self.settings.as_ref().is_some_and(|settings| !self.breaker.admits(now, settings))
    }

    fn is_full(&self) -> bool {
        self.backend.max_connections.is_some_and(|most| self.in_flight >= most)
    }

    /// How long an attempt that begins now takes, and whether it fails.
    fn begin(&mut self, dice: &mut Dice) -> (Duration, Ending) {
        self.in_flight += 1;
        let (share, after) = self.failing;
        if dice.unit() < share {
            return (after, Ending::Fails);
        }
        let crowd = f64::max(1.0, f64::from(self.in_flight) / f64::from(self.backend.slots.max(1)));
        let alone = match self.backend.service {
            Service::Constant(time) => time,
            Service::Exponential(mean) => exponential(mean.as_secs_f64(), dice),
        };
        (alone.mul_f64(self.slowness * crowd), Ending::Answers)
    }

    pub fn change(&mut self, what: What) {
        match what {
            What::Slows(times) => self.slowness = times.max(0.0),
            What::Fails { share, after } => self.failing = (share, after),
            What::Stands(standing) => self.standing = standing,
            What::Weighs(weight) => self.backend.weight = weight,
        }
    }
}

fn exponential(mean_seconds: f64, dice: &mut Dice) -> Duration {
    Duration::from_secs_f64(-(1.0 - dice.unit()).ln() * mean_seconds)
}

/// The backends as a run begins with them.
pub(super) fn actors(backends: &[Backend]) -> Vec<Actor> {
    let actor = |(number, backend): (u64, &Backend)| Actor {
        backend: backend.clone(),
        identity: hash_key(&number.to_le_bytes()),
        standing: Standing::Usable,
        in_flight: 0,
        latency: Estimate::UNKNOWN,
        slowness: 1.0,
        failing: (0.0, Duration::ZERO),
        breaker: Breaker::default(),
        settings: None,
        slow_start: None,
        returned: None,
        changes: 0,
        probes: 0,
    };
    (0..).zip(backends).map(actor).collect()
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    Answers,
    Fails,
    /// Its client has gone.
    IsLeft,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A change of the scenario, by its index.
    Change(usize),
    /// A request arrives, and the next one is due.
    Arrival,
    /// The attempt of the request at this place ends.
    End(usize, Ending),
}

/// What is to come: by time, then in the order in which it was planned.
#[derive(Default)]
struct Agenda {
    heap: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    planned: u64,
}

impl Agenda {
    fn plan(&mut self, at: Instant, event: Event) {
        self.planned += 1;
        self.heap.push(Reverse((at, self.planned, event)));
    }

    fn next(&mut self) -> Option<(Instant, Event)> {
        self.heap.pop().map(|Reverse((at, _, event))| (at, event))
    }
}

/// One request under way.
#[derive(Clone, Copy)]
struct Request {
    key: u64,
    worker: usize,
    arrived: Instant,
    tried: Tried,
    attempts: u32,
    /// Its attempt under way: on which backend, and since when.
    backend: usize,
    since: Instant,
    /// When it is a probe of the backend's breaker: since which of its changes.
    probes: Option<u64>,
}

struct Worker {
    picker: AnyPicker,
    dice: Dice,
}

/// Everything in a run.
pub(super) struct World<'a> {
    scenario: &'a Scenario,
    seed: u64,
    /// The chance of arrivals and service times; pickers have their own.
    dice: Dice,
    now: Instant,
    actors: Vec<Actor>,
    workers: Vec<Worker>,
    agenda: Agenda,
    /// Requests by place, and the places free for the next.
    requests: Vec<Request>,
    /// What each has to do with its backend's breaker, by the same places.
    tickets: Vec<Ticket>,
    free: Vec<usize>,
    report: Report,
}

impl<'a> World<'a> {
    pub fn new(scenario: &'a Scenario, seed: u64) -> World<'a> {
        let mut dice = Dice::seeded(seed);
        let mut actors = actors(&scenario.backends);
        for actor in &mut actors {
            actor.settings.clone_from(&scenario.breaker);
            actor.slow_start = scenario.slow_start;
        }
        let mut worker = |_| Worker {
            picker: AnyPicker::new(&scenario.policy, &actors, dice.next()),
            dice: Dice::seeded(dice.next()),
        };
        let workers = (0..scenario.workers.max(1)).map(&mut worker).collect();
        let mut agenda = Agenda::default();
        for (index, change) in scenario.changes.iter().enumerate() {
            agenda.plan(BEGIN + change.at, Event::Change(index));
        }
        let counts = scenario.backends.len();
        let report = Report { peaks: vec![0; counts], failures: vec![0; counts], ..Report::default() };
        let (requests, tickets, free) = (Vec::new(), Vec::new(), Vec::new());
        World { scenario, seed, dice, now: BEGIN, actors, workers, agenda, requests, tickets, free, report }
    }

    pub fn run(mut self) -> Report {
        self.plan_arrival();
        while let Some((at, event)) = self.agenda.next() {
            self.now = at;
            if let Err(promise) = self.step(event).and_then(|()| self.check_balance()) {
                self.broke(promise);
                break;
            }
        }
        self.report.trips = self.actors.iter().map(|actor| actor.breaker.trips()).collect();
        if self.report.broken.is_none() && !self.have_probes_come_back() {
            self.broke(Promise::ProbesComeBack);
        }
        self.report.latencies.sort_unstable();
        self.report
    }

    fn broke(&mut self, promise: Promise) {
        self.report.broken = Some(Broken { promise, at: self.elapsed(), seed: self.seed });
    }

    fn step(&mut self, event: Event) -> Result<(), Promise> {
        match event {
            Event::Change(index) => {
                let change = self.scenario.changes[index];
                if let Some(actor) = self.actors.get_mut(change.backend) {
                    let was_usable = actor.standing == Standing::Usable;
                    actor.change(change.what);
                    if !was_usable && actor.standing == Standing::Usable {
                        actor.returned = Some(self.now);
                    }
                }
                if matches!(change.what, What::Weighs(_)) {
                    self.rebuild_pickers();
                }
                Ok(())
            }
            Event::Arrival => {
                self.plan_arrival();
                let request = self.arrive();
                self.attempt(request)
            }
            Event::End(place, ending) => self.end(place, ending),
        }
    }

    fn rebuild_pickers(&mut self) {
        let policy = match &self.scenario.policy {
            Policy::ConsistentHash { .. } => Policy::ConsistentHash { table: ConsistentHash::table(&self.actors) },
            other => other.clone(),
        };
        for worker in &mut self.workers {
            worker.picker = AnyPicker::new(&policy, &self.actors, worker.dice.next());
        }
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

    fn arrive(&mut self) -> Request {
        let key = hash_key(&self.dice.below(self.scenario.clients).to_le_bytes());
        let worker = self.dice.index(self.workers.len());
        let (now, tried) = (self.now, Tried::default());
        Request { key, worker, arrived: now, tried, attempts: 0, backend: 0, since: now, probes: None }
    }

    /// Gives the request to a backend, or ends it where there is none.
    fn attempt(&mut self, mut request: Request) -> Result<(), Promise> {
        let Worker { picker, dice } = &mut self.workers[request.worker];
        let ask = Ask { now: self.now, key: request.key, tried: &request.tried, dice, rung: Rung::Primaries };
        let Scenario { fail_open, panic_threshold, .. } = *self.scenario;
        let (actors, reach) = (&self.actors, Reach { fail_open, panic_threshold });
        let has_room = |index: usize| !actors[index].is_full();
        let take = |index, _| if has_room(index) { Ok(()) } else { Err(Lost::NoRoom) };
        let found = climb_and_take(picker, actors, ask, reach, take);
        let picked = found.map(|((), index, _)| index).ok();
        promise::of_pick(actors, &request.tried, reach, self.now, has_room, picked)?;
        let Ok(((), backend, rung)) = found else {
            self.report.without_backend += 1;
            return Ok(());
        };
        let again = request.attempts > 0;
        self.report.picks.push(Pick { at: self.elapsed(), backend, rung, again });
        request.attempts += 1;
        (request.backend, request.since) = (backend, self.now);
        let ticket = self.pass_breaker(&mut request, rung)?;
        let (mut takes, mut ending) = self.actors[backend].begin(&mut self.dice);
        if self.scenario.leaves > 0.0 && self.dice.unit() < self.scenario.leaves {
            (takes, ending) = (takes / 2, Ending::IsLeft);
        }
        let place = self.settle(request, ticket);
        self.agenda.plan(self.now + takes, Event::End(place, ending));
        self.check_limit(backend)
    }

    fn settle(&mut self, request: Request, ticket: Ticket) -> usize {
        if let Some(place) = self.free.pop() {
            (self.requests[place], self.tickets[place]) = (request, ticket);
            return place;
        }
        self.requests.push(request);
        self.tickets.push(ticket);
        self.requests.len() - 1
    }

    /// Ends an attempt, and begins another one where it failed and that is allowed.
    fn end(&mut self, place: usize, ending: Ending) -> Result<(), Promise> {
        self.free.push(place);
        let mut request = self.requests[place];
        let backend = request.backend;
        let took = self.now.since(request.since);
        self.learn(backend, took, ending);
        self.tell_breaker(place, took, ending)?;
        let actor = &mut self.actors[backend];
        actor.in_flight = actor.in_flight.checked_sub(1).ok_or(Promise::InFlightIsBalanced)?;
        match ending {
            Ending::Answers => {
                self.report.latencies.push(self.now.since(request.arrived));
                return Ok(());
            }
            Ending::IsLeft => return Ok(()),
            Ending::Fails => {}
        }
        self.report.failures[backend] += 1;
        if request.attempts < self.scenario.attempts && request.tried.add(backend) {
            return self.attempt(request);
        }
        self.report.failed += 1;
        Ok(())
    }

    fn learn(&mut self, backend: usize, took: Duration, ending: Ending) {
        let latency = self.actors[backend].latency;
        self.actors[backend].latency = match ending {
            Ending::Answers => latency.observe(took, self.now),
            Ending::IsLeft => latency,
            Ending::Fails => latency.failed(took, peer_median(&self.actors, backend, self.now), self.now),
        };
    }

    fn check_limit(&mut self, backend: usize) -> Result<(), Promise> {
        let actor = &self.actors[backend];
        let peak = &mut self.report.peaks[backend];
        *peak = (*peak).max(actor.in_flight);
        let most = actor.backend.max_connections.unwrap_or(u32::MAX);
        if actor.in_flight > most { Err(Promise::WithinItsLimit) } else { Ok(()) }
    }

    fn check_balance(&self) -> Result<(), Promise> {
        let under_way = self.requests.len() - self.free.len();
        let counted: u64 = self.actors.iter().map(|actor| u64::from(actor.in_flight)).sum();
        if counted == under_way as u64 { Ok(()) } else { Err(Promise::InFlightIsBalanced) }
    }
}
