//! Whole pools on virtual time: the real snapshots, views, leases, queues, budgets, breakers and checks, with made-up
//! backends and clients, all from one seed.
//!
//! A run is a sequence of events (a request arrives, an attempt ends, a probe is due, the scenario changes something) taken
//! in the order of their virtual times. It reads no clock and opens no socket, so the same scenario and seed give the same
//! [`Report`] to the last pick. While it runs it keeps a ledger of its own, and after every event it looks at what must hold
//! whatever happens; the first broken promise ends it and stands in the report with the seed to replay it.
//!
//! What is real: everything of [`state`](crate::state) that a request can meet, [`breaker`](crate::breaker),
//! [`Streak`](crate::health::Streak), [`schedule`](crate::health::schedule) and [`retry`](crate::l7::retry). What is played:
//! the shells around them, in the order in which `l7/attempts.rs`, `l4/wait.rs` and `health/checker.rs` ask, do and tell.

mod account;
mod actor;
mod audit;
mod ledger;
mod promise;
mod report;
mod world;

use std::time::Duration;

use crate::breaker::Settings;
use crate::config::{HealthCheck, Policy, Retry, Service as Duty};
use crate::state::Health;

pub use promise::{Broken, Promise};
pub use report::{Pick, Report};

/// What happens in a run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The pool; indices elsewhere count from 0 in this order.
    pub backends: Vec<Backend>,
    /// Who gets the next request.
    pub policy: Policy,
    /// How many workers there are, each with a view of its own; a request arrives at any of them. At least 1.
    pub workers: usize,
    /// Mean requests a second; they arrive independently of each other (Poisson).
    pub rate: f64,
    /// For how long requests arrive; what is under way then still ends.
    pub lasts: Duration,
    /// How many different keys the requests have.
    pub clients: u64,
    /// What a request may be tried again for, and how often.
    pub retry: Retry,
    /// The share of the requests that may be.
    pub retry_budget: f64,
    /// This share of the requests may not be repeated once anything of them was sent.
    pub posts: f64,
    /// Whether backends that are down are tried when nothing else is left.
    pub fail_open: bool,
    /// With less than this share of the primaries well they are all tried alike; 0: never.
    pub panic_threshold: f64,
    /// How long a backend that comes back takes to have all of its weight; `None`: it has it at once.
    pub slow_start: Option<Duration>,
    /// How the breakers are set; `None`: there are none.
    pub breaker: Option<Settings>,
    /// How the backends are asked whether they are well; `None`: nobody asks.
    pub check: Option<HealthCheck>,
    /// How many may wait for a place at a backend.
    pub queue: usize,
    /// For how long.
    pub queue_timeout: Duration,
    /// How long an attempt waits for the head of its answer.
    pub response_header: Duration,
    /// This share of the requests is given up by its client within [`IMPATIENCE`], wherever it is then.
    pub leaves: f64,
    /// Who is called does what it is called for within this time.
    pub dawdles: Duration,
    /// What changes on the way, in any order.
    pub changes: Vec<Change>,
    /// Something that the shells do wrong, to see that it does not go unseen.
    pub fault: Option<Fault>,
}

/// How long a client waits at most that leaves.
pub const IMPATIENCE: Duration = Duration::from_millis(200);

impl Scenario {
    /// Two workers, 500 requests a second of 10 000 clients for 10 s, all of which may be repeated, with the documented
    /// defaults of a pool but for the breakers and the queue: there are none. Nobody leaves, nothing changes.
    #[must_use]
    pub fn new(policy: Policy, backends: Vec<Backend>) -> Scenario {
        Scenario {
            backends,
            policy,
            workers: 2,
            rate: 500.0,
            lasts: Duration::from_secs(10),
            clients: 10_000,
            retry: Retry::default(),
            retry_budget: 0.2,
            posts: 0.0,
            fail_open: true,
            panic_threshold: 0.0,
            slow_start: None,
            breaker: None,
            check: None,
            queue: 0,
            queue_timeout: Duration::from_secs(2),
            response_header: Duration::from_secs(30),
            leaves: 0.0,
            dawdles: Duration::ZERO,
            changes: Vec::new(),
            fault: None,
        }
    }

    /// The same, with `what` happening to `backend` at `at`.
    #[must_use]
    pub fn change(mut self, at: Duration, backend: usize, what: What) -> Scenario {
        self.changes.push(Change { at, backend, what });
        self
    }
}

/// One made-up backend, as it is at first.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Its weight.
    pub weight: u32,
    /// Whether it is only for when no primary is usable.
    pub backup: bool,
    /// How many requests it may have at once.
    pub max_connections: Option<u32>,
    /// How long it works on one request until the head of the answer is there.
    pub service: Service,
    /// How long the rest of the answer takes then.
    pub body: Duration,
    /// How many requests it works on at full speed; with `n` times as many, each takes `n` times as long.
    pub slots: u32,
}

impl Backend {
    /// A primary of weight 1 without limits, whose answers have no body.
    #[must_use]
    pub fn new(service: Service) -> Backend {
        Backend { weight: 1, backup: false, max_connections: None, service, body: Duration::ZERO, slots: u32::MAX }
    }

    /// The same with this weight.
    #[must_use]
    pub fn weight(self, weight: u32) -> Backend {
        Backend { weight, ..self }
    }
}

/// How long the work on one request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Always this.
    Constant(Duration),
    /// Exponentially distributed about this mean.
    Exponential(Duration),
}

/// Something that happens to a backend on the way.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// When, from the beginning.
    pub at: Duration,
    /// To which backend.
    pub backend: usize,
    /// What.
    pub what: What,
}

/// What can happen to a backend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    /// Its service times are this many times as long as at first; 1 is recovery. Its probes are slower too.
    Slows(f64),
    /// This share of what is asked of it fails like this, requests and probes alike; 0 is recovery.
    Fails {
        /// From 0 to 1.
        share: f64,
        /// In which way.
        how: Failure,
    },
    /// Its probes fail, whatever its requests do; or they do as its requests again.
    Denies(bool),
    /// Its health check says this from now on; for pools without a check.
    IsSaid(Health),
    /// A reload puts it into service, or takes it out.
    Serves(Duty),
    /// A reload gives it this weight.
    Weighs(u32),
}

/// In which way a backend fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There is no connection to it, which is known after this time.
    Refuses(Duration),
    /// It closes the connection before it answers, after this time.
    Resets(Duration),
    /// It answers with this status, after as long as a good answer takes.
    Answers(u16),
    /// It never answers.
    Hangs,
    /// It answers, and closes this long after, before all of the answer was there.
    Breaks(Duration),
}

/// What a shell can do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does not give back what a client had that left.
    Leaks,
    /// It passes over all backends but the last.
    Skips,
    /// It forgets what a request has tried.
    Forgets,
    /// It does not hear that it is called.
    IsDeaf,
    /// It sends away who is called.
    GivesUp,
    /// It lets the last who waits go first.
    Overtakes,
    /// It keeps waiting for the answer of a backend that is not to be relied on any more.
    Clings,
    /// It tries again without leave.
    Insists,
    /// It says of a backend that went down that it is up.
    Flatters,
}

/// Lets `scenario` happen, all chance following from `seed`.
#[must_use]
pub fn run(scenario: &Scenario, seed: u64) -> Report {
    run_told(scenario, scenario, seed)
}

/// The same, with the machines set up as `told` has it while what they promise is measured by `scenario`: where the two differ
/// in what is promised, a promise must break. Backends, traffic and changes are those of `scenario`.
#[must_use]
pub fn run_told(scenario: &Scenario, told: &Scenario, seed: u64) -> Report {
    world::World::new(scenario, told, seed).run()
}
