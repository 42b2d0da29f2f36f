//! A pool as one snapshot holds it: its backends, bound to their states, and all that a pick and an attempt need to know.

use std::sync::Arc;

use super::backend::Backend;
use super::breaking::PoolBreaker;
use super::budget::Reserve;
use super::footing::Footing;
use super::lease::Latency;
use super::queue::Queue;
use crate::balance::{self, Candidate, ConsistentHash, Reach, Rung, Standing};
use crate::clock::Instant;
use crate::config::{self, HashOn, HealthCheck, HttpVersion, Name, Policy, Timeouts};
use crate::proxy_protocol;
use crate::tls::ClientTls;

/// How often a TCP connection is tried in all, the first included (semantics.md §6).
const ATTEMPTS: usize = 2;

/// What clients are told apart by when nothing else is said: one IPv4 address, one IPv6 network of a site's segment.
const CLIENT_ADDRESS: HashInput = HashInput::ClientAddress { ipv4_prefix: 32, ipv6_prefix: 64 };

/// What requests are told apart by, for the policies that hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashInput {
    /// Nothing; the key is 0.
    Nothing,
    /// The client's network.
    ClientAddress {
        /// How many leading bits of an IPv4 address count.
        ipv4_prefix: u8,
        /// How many leading bits of an IPv6 address count.
        ipv6_prefix: u8,
    },
    /// Path and query.
    Uri,
    /// The value of the field of this name, which is lower case.
    Header(String),
    /// The value of this cookie.
    Cookie(String),
    /// The value of this query parameter.
    Query(String),
}

impl HashInput {
    fn of(policy: &Policy) -> HashInput {
        match policy {
            Policy::IpHash { ipv4_prefix, ipv6_prefix, .. } => {
                HashInput::ClientAddress { ipv4_prefix: *ipv4_prefix, ipv6_prefix: *ipv6_prefix }
            }
            Policy::ConsistentHash { on } => HashInput::on(on),
            Policy::RoundRobin
            | Policy::WeightedRoundRobin
            | Policy::LeastConnections
            | Policy::LeastResponseTime
            | Policy::RandomTwoChoices => HashInput::Nothing,
        }
    }

    fn on(on: &HashOn) -> HashInput {
        match on {
            HashOn::ClientAddress => CLIENT_ADDRESS,
            HashOn::Uri => HashInput::Uri,
            HashOn::Header(name) => HashInput::Header(name.clone()),
            HashOn::Cookie(name) => HashInput::Cookie(name.clone()),
            HashOn::Query(name) => HashInput::Query(name.clone()),
        }
    }
}

/// A group of backends with one balancing policy.
#[derive(Debug)]
pub struct Pool {
    /// Its name.
    pub name: Name,
    /// Who gets the next request.
    pub policy: Policy,
    /// What requests are told apart by.
    pub hash_input: HashInput,
    /// In the order of the file; may be empty.
    pub backends: Arc<[Backend]>,
    /// Its backend-side deadlines.
    pub timeouts: Timeouts,
    /// How often a TCP connection is tried in all, the first included; at least 1. A request has its route's retries.
    pub attempts: usize,
    /// How many may wait in the queue; 0: nobody.
    pub queue_max: usize,
    /// Who waits for a place at a backend. It outlives configurations as the backends' states do.
    pub queue: Arc<Queue>,
    /// The share of its requests that may be tried again.
    pub retry_budget: f64,
    /// The repetitions beyond that share.
    pub(super) reserve: Arc<Reserve>,
    /// How it is found out whether its backends are well; `None`: they count as up.
    pub health_check: Option<Arc<HealthCheck>>,
    /// What is spoken with its backends, where its clients speak HTTP.
    pub http_version: HttpVersion,
    /// Which PROXY header each connection to its backends begins with.
    pub send_proxy_protocol: Option<proxy_protocol::Version>,
    /// TLS towards its backends; `None`: they are spoken to in the clear.
    pub tls: Option<Arc<ClientTls>>,
    /// What it does when too few of its backends are well.
    pub reach: Reach,
    /// On which rung its requests stand.
    pub(super) footing: Arc<Footing>,
    /// The policy as pickers are made from it, with the one table that all workers share.
    pub(super) picking: balance::Policy,
    /// What its breakers have in common; `None`: they are off.
    pub(super) breaker: Option<Arc<PoolBreaker>>,
}

impl Pool {
    /// Binds a configured pool to its backends, in the configuration's order, and to its queue. What is costly to build is
    /// taken over from `previous` when nothing that shapes it changed.
    pub(super) fn new(
        config: &config::Pool,
        backends: Arc<[Backend]>,
        queue: &Arc<Queue>,
        breaker: Option<Arc<PoolBreaker>>,
        tls: Option<&Arc<ClientTls>>,
        previous: Option<&Pool>,
    ) -> Pool {
        let picking = match previous {
            Some(previous) if picks_alike((&config.policy, &backends), (&previous.policy, &previous.backends)) => {
                previous.picking.clone()
            }
            _ => picking(&config.policy, &backends),
        };
        Pool {
            name: config.name.clone(),
            policy: config.policy.clone(),
            hash_input: HashInput::of(&config.policy),
            backends,
            timeouts: config.timeouts.clone(),
            attempts: ATTEMPTS,
            queue_max: config.queue,
            queue: Arc::clone(queue),
            retry_budget: config.retry_budget,
            reserve: previous.map(|previous| Arc::clone(&previous.reserve)).unwrap_or_default(),
            health_check: config.health_check.clone(),
            http_version: config.http_version,
            send_proxy_protocol: config.send_proxy_protocol,
            tls: tls.cloned(),
            reach: Reach { fail_open: config.fail_open, panic_threshold: config.panic_threshold },
            footing: previous.map(|previous| Arc::clone(&previous.footing)).unwrap_or_default(),
            picking,
            breaker,
        }
    }

    /// Whether a picker made for `other` fits this pool.
    pub(super) fn picks_like(&self, other: &Pool) -> bool {
        picks_alike((&self.policy, &self.backends), (&other.policy, &other.backends))
    }

    /// On which rung of the ladder its requests stand. It is that of the latest, but for a moment after a lower one.
    #[must_use]
    pub fn rung(&self) -> Rung {
        self.footing.rung()
    }

    /// How many more its backends may have at `now`: those that work, or else those that are tried instead.
    pub(super) fn room(&self, now: Instant) -> usize {
        let room = |stands: &dyn Fn(Standing, bool) -> bool, room: &dyn Fn(&Backend) -> usize| {
            let such = self.backends.iter().filter(|backend| stands(backend.standing(now), backend.backup));
            such.fold((false, 0), |(_, sum): (bool, usize), backend| (true, sum.saturating_add(room(backend))))
        };
        // In panic, and where nobody works, they are taken whatever their breakers say.
        if self.reach.panics(&self.backends, now) {
            return room(&|standing, backup| Rung::Panic.holds(standing, backup), &Backend::room).1;
        }
        let are_tried = |standing, _| standing == Standing::Open || self.reach.fail_open && standing == Standing::Down;
        match room(&|standing, _| matches!(standing, Standing::Usable | Standing::Full), &|it| it.room_by_all(now)) {
            (true, room) => room,
            (false, _) => room(&are_tried, &Backend::room).1,
        }
    }

    /// Whether its policy reads latency estimates.
    pub(super) fn latency(&self) -> Latency {
        match self.policy {
            Policy::LeastResponseTime => Latency::Read,
            _ => Latency::Unread,
        }
    }
}

/// Whether nothing that shapes a picker differs: the last column of the table in design.md §4, and which backends are
/// backups, because those have no place in a hash table.
fn picks_alike(a: (&Policy, &[Backend]), b: (&Policy, &[Backend])) -> bool {
    let alike = |(a, b): (&Backend, &Backend)| {
        a.state.key() == b.state.key() && (a.weight, a.limit, a.backup) == (b.weight, b.limit, b.backup)
    };
    a.0 == b.0 && a.1.len() == b.1.len() && a.1.iter().zip(b.1).all(alike)
}

/// The policy over these backends; builds the table of one that has one.
fn picking(policy: &Policy, backends: &[Backend]) -> balance::Policy {
    match policy {
        Policy::RoundRobin => balance::Policy::RoundRobin,
        Policy::WeightedRoundRobin => balance::Policy::WeightedRoundRobin,
        Policy::LeastConnections => balance::Policy::LeastConnections,
        Policy::IpHash { bounded_load, .. } => balance::Policy::IpHash { bounded_load: *bounded_load },
        Policy::LeastResponseTime => balance::Policy::LeastResponseTime,
        Policy::RandomTwoChoices => balance::Policy::RandomTwoChoices,
        Policy::ConsistentHash { .. } => balance::Policy::ConsistentHash { table: ConsistentHash::table(backends) },
    }
}
