//! Whole pools on virtual time: the real pickers, estimates and breakers, made-up backends and clients, one seed.
//!
//! A run is a sequence of events (a request arrives, an attempt ends, the scenario changes something) taken in the
//! order of their virtual times. It reads no clock and opens no socket, so the same scenario and seed give the same
//! [`Report`] to the last pick. While it runs it checks what must hold whatever happens; the first broken promise ends
//! it and stands in the report with the seed to replay it.

mod promise;
mod report;
mod world;

use std::sync::Arc;
use std::time::Duration;

use crate::balance::{ConsistentHash, Policy, Standing, Table};
use crate::breaker::Settings;

pub use promise::{Broken, Promise};
pub use report::{Pick, Report};

/// What happens in a run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The pool; indices elsewhere count from 0 in this order.
    pub backends: Vec<Backend>,
    /// Who gets the next request.
    pub policy: Policy,
    /// How many workers there are, each with a picker of its own; a request arrives at any of them. At least 1.
    pub workers: usize,
    /// Mean requests a second; they arrive independently of each other (Poisson).
    pub rate: f64,
    /// For how long requests arrive; what is under way then still ends.
    pub lasts: Duration,
    /// How many different keys the requests have.
    pub clients: u64,
    /// Attempts in all for a request, each on another backend.
    pub attempts: u32,
    /// Whether backends that are down are tried when nothing else is left.
    pub fail_open: bool,
    /// With less than this share of the primaries well they are all tried alike; 0: never.
    pub panic_threshold: f64,
    /// How long a backend that comes back takes to have all of its weight; `None`: it has it at once.
    pub slow_start: Option<Duration>,
    /// How the breakers are set; `None`: there are none.
    pub breaker: Option<Settings>,
    /// This share of the requests is given up by its client half-way.
    pub leaves: f64,
    /// What changes on the way, in any order.
    pub changes: Vec<Change>,
}

impl Scenario {
    /// Two workers, 500 requests a second of 10 000 clients for 10 s, two attempts, fail-open, no panic, no slow start, no
    /// breakers, nobody leaving, nothing changing.
    #[must_use]
    pub fn new(policy: Policy, backends: Vec<Backend>) -> Scenario {
        let (rate, lasts) = (500.0, Duration::from_secs(10));
        let (workers, clients, attempts, fail_open, changes) = (2, 10_000, 2, true, Vec::new());
        let (panic_threshold, slow_start, breaker, leaves) = (0.0, None, None, 0.0);
        Scenario {
            backends,
            policy,
            workers,
            rate,
            lasts,
            clients,
            attempts,
            fail_open,
            panic_threshold,
            slow_start,
            breaker,
            leaves,
            changes,
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
    /// How long it works on one request.
    pub service: Service,
    /// How many requests it works on at full speed; with `n` times as many, each takes `n` times as long.
    pub slots: u32,
}

impl Backend {
    /// A primary of weight 1 without limits.
    #[must_use]
    pub fn new(service: Service) -> Backend {
        Backend { weight: 1, backup: false, max_connections: None, service, slots: u32::MAX }
    }

    /// The same with this weight.
    #[must_use]
    pub fn weight(self, weight: u32) -> Backend {
        Backend { weight, ..self }
    }
}

/// The table for [`Policy::ConsistentHash`] over these backends.
#[must_use]
pub fn table(backends: &[Backend]) -> Arc<Table> {
    ConsistentHash::table(&world::actors(backends))
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
    /// Its service times are this many times as long as at first; 1 is recovery.
    Slows(f64),
    /// This share of the attempts on it fails, each after this time: short for a refusal, long for one that hangs until
    /// a deadline.
    Fails {
        /// From 0 (recovery) to 1.
        share: f64,
        /// The time to failure.
        after: Duration,
    },
    /// What health check, breaker or administrator say of it from now on.
    Stands(Standing),
    /// A reload gives it this weight; every worker's picker is built anew, and what is under way goes on.
    Weighs(u32),
}

/// Lets `scenario` happen, all chance following from `seed`.
#[must_use]
pub fn run(scenario: &Scenario, seed: u64) -> Report {
    world::World::new(scenario, seed).run()
}
