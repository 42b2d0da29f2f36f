//! What a request can see: one immutable [`Snapshot`] of one configuration, bound to the live state that outlives it.
//!
//! [`Snapshot::next`] makes the following snapshot out of a configuration and the one in force. It is a function: it reads
//! the previous snapshot as the registry of all backends and changes nothing, so a candidate can be made, looked at and
//! thrown away. A backend of the same key keeps its very state. What becomes of the states that were dropped, put back or
//! taken out by hand is said to them by [`Snapshot::settle`], once the snapshot is in force.
//!
//! Way of a request: [`View::listener`] → [`RouteTable::find`] → [`Split::choose`] → [`View::take`] → [`Lease`].

mod backend;
mod bell;
mod breaking;
mod budget;
#[cfg(test)]
mod fixture;
mod footing;
mod health;
mod ids;
mod key;
mod lease;
mod passthrough;
mod pool;
mod queue;
mod ramp;
mod registry;
mod route;
mod status;
mod terms;
mod view;

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::Arc;

use ipnet::IpNet;

use crate::client_hello::ClientHello;
use crate::clock::Instant;
use crate::config::{self, Address, Config, HttpVersions, Initial, Limits, Name, Service, Timeouts};
use crate::tls::{Materials, ServerTls};

pub use backend::{Backend, BackendKey, BackendState, Epoch, Refused, Transport, Turn};
pub use bell::{Bell, Bells, Listener};
use breaking::PoolBreaker;
pub use budget::Permit;
pub use health::{Checkup, Cuts, Health, Probed, Sessions};
use ids::Roster;
pub use ids::{ListenerId, PoolId};
pub use lease::Lease;
pub use passthrough::{Passthrough, Through};
pub use pool::{HashInput, Pool};
pub use queue::{Place, Queue};
use registry::Registry;
pub use route::{Action, Route, RouteAsk, RouteTable, Split, header_matches};
pub use status::{BackendStatus, BreakerStatus, PoolStatus};
pub use terms::Terms;
pub use view::{Census, NoBackend, Taken, View, Why};

/// One listener as a worker and a request see it.
#[derive(Debug)]
pub struct ListenerPlan {
    /// Its number.
    pub id: ListenerId,
    /// Its name.
    pub name: Name,
    /// Its addresses.
    pub bind: Vec<Address>,
    /// Its client-side deadlines.
    pub timeouts: Timeouts,
    /// How much a client may ask for.
    pub limits: Limits,
    /// Who may connect, and begins with a PROXY header; `None`: no such header is expected.
    pub proxy_protocol: Option<Vec<IpNet>>,
    /// TLS towards clients; `None`: they speak in the clear.
    pub tls: Option<Arc<ServerTls>>,
    /// TLS connections that pass through before it; `None`: all end here, or there is no TLS.
    pub passthrough: Option<Passthrough>,
    /// What is spoken there, and where it goes.
    pub protocol: Protocol,
}

/// What a listener speaks, and where it goes.
#[derive(Debug)]
pub enum Protocol {
    /// HTTP/1.1, by routes.
    Http(HttpPlan),
    /// Raw bytes, to one pool.
    Tcp {
        /// The pool.
        pool: PoolId,
    },
    /// TLS that does not end here, to pools by what it asks for.
    Passthrough(Passthrough),
}

impl ListenerPlan {
    /// Whether a connection has to begin with a hello that we read ourselves.
    #[must_use]
    pub fn asks_for_hello(&self) -> bool {
        self.passthrough.is_some() || matches!(self.protocol, Protocol::Passthrough(_))
    }

    /// By which route a TLS connection that begins with this hello passes through, and where to; `None`: by none, or it ends
    /// here.
    #[must_use]
    pub fn through(&self, hello: &ClientHello) -> Option<(&str, PoolId)> {
        match (&self.protocol, &self.passthrough) {
            (Protocol::Passthrough(table), _) | (_, Some(table)) => {
                table.find(hello).map(|route| (&*route.name, route.pool))
            }
            // The hello was read when the configuration was another one.
            (Protocol::Tcp { pool }, None) if self.tls.is_none() => Some(("default", *pool)),
            (Protocol::Tcp { .. } | Protocol::Http(_), None) => None,
        }
    }
}

/// The HTTP side of a listener.
#[derive(Debug)]
pub struct HttpPlan {
    /// What clients may speak.
    pub versions: HttpVersions,
    /// Where a request goes.
    pub routes: RouteTable,
    /// Networks whose X-Forwarded-For and X-Request-Id are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether `Forwarded` is sent to backends too.
    pub forwarded: bool,
    /// Whether `Via` is added both ways.
    pub via: bool,
}

/// Everything that a request can see of one configuration.
#[derive(Debug)]
pub struct Snapshot {
    generation: u64,
    connections: Option<NonZeroU32>,
    /// By [`ListenerId`]; `None` for a name that is gone.
    listeners: Vec<Option<Arc<ListenerPlan>>>,
    /// By [`PoolId`]; `None` for a name that is gone.
    pools: Vec<Option<Arc<Pool>>>,
    /// By [`PoolId`], those of names that are gone included: somebody may still wait there.
    queues: Vec<Arc<Queue>>,
    /// Backends that are in no pool any more but may still be in use.
    retired: Vec<Arc<BackendState>>,
    bells: Arc<Bells>,
    listener_names: Roster,
    pool_names: Roster,
    /// Backends of this number and later ones are new with this snapshot, and not with the process.
    first_newcomer: u64,
    next_backend_id: u64,
}

impl Snapshot {
    /// The snapshot of `config`, with the `materials` that were read for it, that follows `previous`.
    ///
    /// Changes nothing that `previous` shares: until [`settle`](Snapshot::settle) it is a proposal.
    #[must_use]
    pub fn next(config: &Config, materials: &Materials, previous: Option<&Snapshot>) -> Snapshot {
        let mut registry = previous.map(Registry::of).unwrap_or_default();
        let mut pool_names = previous.map(|previous| previous.pool_names.clone()).unwrap_or_default();
        let mut queues = previous.map(|previous| previous.queues.clone()).unwrap_or_default();
        let bells = previous.map(|previous| Arc::clone(&previous.bells)).unwrap_or_default();
        let pools = plan_pools(config, materials, previous, &mut pool_names, &mut queues, &mut registry, &bells);
        let mut listener_names = previous.map(|previous| previous.listener_names.clone()).unwrap_or_default();
        let listeners = plan_listeners(config, materials, &mut listener_names, &pool_names);
        Snapshot {
            generation: previous.map_or(1, |previous| previous.generation + 1),
            connections: config.runtime.connections,
            listeners,
            pools,
            queues,
            first_newcomer: previous.map_or(u64::MAX, |previous| previous.next_backend_id),
            next_backend_id: registry.next_id(),
            retired: registry.into_retired(),
            bells,
            listener_names,
            pool_names,
        }
    }

    /// Counts snapshots that were in force, from 1.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How many client connections may be open in all; `None`: what the system allows.
    #[must_use]
    pub fn connections(&self) -> Option<NonZeroU32> {
        self.connections
    }

    /// The listener of this number, if this configuration has it.
    #[must_use]
    pub fn listener(&self, id: ListenerId) -> Option<&Arc<ListenerPlan>> {
        self.listeners.get(id.index())?.as_ref()
    }

    /// All listeners, in the order of their numbers.
    pub fn listeners(&self) -> impl Iterator<Item = &Arc<ListenerPlan>> {
        self.listeners.iter().flatten()
    }

    /// The pool of this number, if this configuration has it.
    #[must_use]
    pub fn pool(&self, id: PoolId) -> Option<&Arc<Pool>> {
        self.pools.get(id.index())?.as_ref()
    }

    /// The number of the pool of this name, if this configuration has it.
    #[must_use]
    pub fn pool_id(&self, name: &str) -> Option<PoolId> {
        let id = PoolId::new(self.pool_names.find(name)?);
        self.pool(id).map(|_| id)
    }

    /// All pools with their numbers, in the order of those.
    pub fn pools(&self) -> impl Iterator<Item = (PoolId, &Arc<Pool>)> {
        (0..).map(PoolId::new).zip(&self.pools).filter_map(|(id, pool)| Some((id, pool.as_ref()?)))
    }

    /// Puts back into service what was out of it and is in service here: for just before this snapshot comes into force, so
    /// that its first request finds all of its backends. These, and those that are new, come back at `now`.
    pub fn admit(&self, now: Instant) {
        for Backend { state, .. } in self.in_use() {
            let is_new = state.id() >= self.first_newcomer && state.came_back().is_none();
            if is_new || state.is_draining() {
                state.come_back(now);
            }
            state.restore();
        }
    }

    /// Says to every backend whether it is in service: for when this snapshot is in force and no worker begins anything by
    /// the one before it. Said earlier, a request that goes by the old one could find all of its backends leaving.
    ///
    /// A backend that is retired, drained or in maintenance takes nothing new from here on; one that came back is in service
    /// again. Doing it twice is the same as once.
    pub fn settle(&self) {
        self.in_use().for_each(|backend| backend.state.restore());
        let held_back = self.backends().filter(|backend| backend.service != Service::Active);
        held_back.map(|backend| &backend.state).chain(&self.retired).for_each(|state| state.drain());
    }

    /// Calls who waits in the queues: for when this snapshot has come into force, by which there may be more room. Those whose
    /// pool is gone are all called, of the others one, who calls the next as long as there is room.
    pub fn call_waiting(&self) {
        for (number, queue) in (0..).zip(&self.queues) {
            match self.pool(PoolId::new(number)) {
                Some(_) => queue.call(),
                None => queue.call_all(),
            }
        }
    }

    /// The bells of all breakers, which are the same in every configuration.
    #[must_use]
    pub fn bells(&self) -> &Bells {
        &self.bells
    }

    /// Makes the breakers half-open whose open time is over at `now`, and calls who waits for a place at such a backend. Says
    /// when to come again; `None`: when another one has [opened](Bells::opened).
    pub fn turn_breakers(&self, now: Instant) -> Option<Instant> {
        self.pools.iter().flatten().filter_map(|pool| pool.turn_breakers(now)).min()
    }

    /// The backends that must be empty in the end: once [`BackendState::is_drained`] there is nothing to do, and when
    /// `reload.drain_timeout` is over they are [cut](BackendState::cut). Those that are in no pool any more, and those in
    /// maintenance; a backend that is only drained by hand has all the time it needs.
    pub fn ending(&self) -> impl Iterator<Item = &Arc<BackendState>> {
        let in_maintenance = self.backends().filter(|backend| backend.service == Service::Maintenance);
        self.retired.iter().chain(in_maintenance.map(|backend| &backend.state))
    }

    /// The backends that are to be asked whether they are well, with their pool: those of pools with a health check, but for
    /// those in maintenance, which may be anything.
    pub fn checked(&self) -> impl Iterator<Item = (&Pool, &Backend)> {
        let pools = self.pools.iter().flatten().filter(|pool| pool.health_check.is_some());
        let backends = pools.flat_map(|pool| pool.backends.iter().map(move |backend| (&**pool, backend)));
        backends.filter(|(_, backend)| backend.service != Service::Maintenance)
    }

    /// The backends that nobody asks any more or ever asked, which therefore count as up.
    pub fn unchecked(&self) -> impl Iterator<Item = &Arc<BackendState>> {
        let pools = self.pools.iter().flatten().filter(|pool| pool.health_check.is_none());
        pools.flat_map(|pool| pool.backends.iter().map(|backend| &backend.state))
    }

    /// The backends that are in no pool any more.
    #[must_use]
    pub fn retired(&self) -> &[Arc<BackendState>] {
        &self.retired
    }

    /// The numbers of the backends that may be given something new.
    #[must_use]
    pub fn in_service(&self) -> HashSet<u64> {
        self.in_use().map(|backend| backend.state.id()).collect()
    }

    /// The numbers of all backends that are in a pool, or in none any more but may still be in use.
    #[must_use]
    pub fn known(&self) -> HashSet<u64> {
        let in_pools = self.backends().map(|backend| &backend.state);
        in_pools.chain(&self.retired).map(|state| state.id()).collect()
    }

    fn in_use(&self) -> impl Iterator<Item = &Backend> {
        self.backends().filter(|backend| backend.service == Service::Active)
    }

    fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.pools.iter().flatten().flat_map(|pool| pool.backends.iter())
    }
}

fn plan_pools(
    config: &Config,
    materials: &Materials,
    previous: Option<&Snapshot>,
    names: &mut Roster,
    queues: &mut Vec<Arc<Queue>>,
    registry: &mut Registry,
    bells: &Arc<Bells>,
) -> Vec<Option<Arc<Pool>>> {
    let mut pools = Vec::new();
    for pool in &config.pools {
        let id = PoolId::new(names.enrol(&pool.name));
        let before = previous.and_then(|previous| previous.pool(id)).map(|pool| &**pool);
        let kept = before.and_then(|before| before.breaker.as_deref());
        let breaker = pool.breaker.as_ref().map(|settings| Arc::new(PoolBreaker::next(settings, kept, bells)));
        let bound = |backend| bind(backend, pool, breaker.clone(), registry);
        let backends = pool.backends.iter().map(bound).collect();
        queues.resize_with(queues.len().max(id.index() + 1), Arc::default);
        let tls = pool.tls.as_ref().map(|_| materials.pool(&pool.name).expect(MATERIALS));
        put(&mut pools, id.index(), Pool::new(pool, backends, &queues[id.index()], breaker.clone(), tls, before));
    }
    pools
}

fn bind(
    backend: &config::Backend,
    pool: &config::Pool,
    breaker: Option<Arc<PoolBreaker>>,
    registry: &mut Registry,
) -> Backend {
    let initial = pool.health_check.as_ref().map_or(Initial::Up, |check| check.initial);
    let transport = pool.tls.as_ref().map_or(Transport::Plain, |tls| Transport::Tls { settings: tls.digest() });
    let key = BackendKey { pool: pool.name.clone(), address: backend.address.clone(), transport };
    Backend {
        name: backend.name.clone(),
        weight: backend.weight,
        slow_start: pool.slow_start,
        limit: backend.max_connections,
        backup: backend.backup,
        service: backend.service,
        breaker,
        state: registry.state(key, initial),
    }
}

fn plan_listeners(
    config: &Config,
    materials: &Materials,
    names: &mut Roster,
    pools: &Roster,
) -> Vec<Option<Arc<ListenerPlan>>> {
    let mut listeners = Vec::new();
    for listener in &config.listeners {
        let id = ListenerId::new(names.enrol(&listener.name));
        let plan = ListenerPlan {
            id,
            name: listener.name.clone(),
            bind: listener.bind.clone(),
            timeouts: listener.timeouts.clone(),
            limits: listener.limits.clone(),
            proxy_protocol: listener.proxy_protocol.clone(),
            passthrough: plan_passthrough(listener, pools),
            tls: listener.tls.as_ref().map(|_| Arc::clone(materials.listener(&listener.name).expect(MATERIALS))),
            protocol: plan_protocol(&listener.protocol, pools),
        };
        put(&mut listeners, id.index(), plan);
    }
    listeners
}

/// What holds of a configuration and its materials.
const MATERIALS: &str = "materials are read for the very configuration they are used with";

/// The number of a pool that the configuration names.
fn resolve(pools: &Roster, name: &str) -> PoolId {
    PoolId::new(pools.find(name).expect("a checked configuration has every pool it names"))
}

fn plan_passthrough(listener: &config::Listener, pools: &Roster) -> Option<Passthrough> {
    let routes = &listener.tls.as_ref()?.passthrough;
    (!routes.is_empty()).then(|| Passthrough::compile(routes, |name| resolve(pools, name)))
}

fn plan_protocol(protocol: &config::Protocol, pools: &Roster) -> Protocol {
    let resolve = |name: &str| resolve(pools, name);
    match protocol {
        config::Protocol::Passthrough(routes) => Protocol::Passthrough(Passthrough::compile(routes, resolve)),
        config::Protocol::Tcp { pool } => Protocol::Tcp { pool: resolve(pool) },
        config::Protocol::Http(http) => Protocol::Http(HttpPlan {
            versions: http.versions,
            routes: RouteTable::compile(&http.routes, &http.headers, resolve),
            trusted_proxies: http.trusted_proxies.clone(),
            forwarded: http.forwarded,
            via: http.via,
        }),
    }
}

/// Puts `value` at its place in a table that may have holes.
fn put<T>(table: &mut Vec<Option<Arc<T>>>, place: usize, value: T) {
    if table.len() <= place {
        table.resize(place + 1, None);
    }
    table[place] = Some(Arc::new(value));
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use proptest::sample::subsequence;

    use super::fixture::{backend, config, http, of_pools, pool, round_robin, tcp};
    use super::*;
    use crate::config::{HashOn, Policy};

    /// The snapshot of these pools after `previous`, in force.
    fn settled(pools: Vec<config::Pool>, previous: Option<&Snapshot>) -> Snapshot {
        let snapshot = Snapshot::next(&of_pools(pools), &Materials::default(), previous);
        snapshot.settle();
        snapshot
    }

    fn in_pool(snapshot: &Snapshot, name: &str) -> Arc<Pool> {
        Arc::clone(snapshot.pool(snapshot.pool_id(name).unwrap()).unwrap())
    }

    fn state(snapshot: &Snapshot, pool: &str, index: usize) -> Arc<BackendState> {
        Arc::clone(&in_pool(snapshot, pool).backends[index].state)
    }

    #[test]
    fn a_weight_a_limit_or_the_order_changes_no_state() {
        let first = settled(vec![round_robin("app", &[1, 2])], None);
        let mut heavy = backend(1);
        (heavy.weight, heavy.max_connections, heavy.name) = (7, std::num::NonZeroU32::new(3), "other".into());
        let second = settled(vec![pool("app", Policy::LeastConnections, vec![backend(2), heavy])], Some(&first));
        assert!(Arc::ptr_eq(&state(&first, "app", 0), &state(&second, "app", 1)));
        assert!(Arc::ptr_eq(&state(&first, "app", 1), &state(&second, "app", 0)));
        assert_eq!(in_pool(&second, "app").backends[1].weight, 7);
        assert!(second.retired().is_empty());
        assert_eq!(second.generation(), 2);
    }

    #[test]
    fn what_a_reload_brings_or_puts_back_comes_back_and_nothing_else_does() {
        let at = |seconds| Instant::ORIGIN + std::time::Duration::from_secs(seconds);
        let held = |service, port| config::Backend { service, ..backend(port) };
        let app = |backends| vec![pool("app", Policy::WeightedRoundRobin, backends)];
        let published = |backends, previous: &Snapshot, now| {
            let next = Snapshot::next(&of_pools(app(backends)), &crate::tls::Materials::default(), Some(previous));
            next.admit(now);
            next.settle();
            next
        };
        let returns = |snapshot: &Snapshot| -> Vec<_> {
            in_pool(snapshot, "app").backends.iter().map(|backend| backend.state.came_back()).collect()
        };
        let began =
            settled(app(vec![backend(1), held(Service::Drain, 2), held(Service::Maintenance, 3), backend(4)]), None);
        assert_eq!(returns(&began), [None; 4], "at the start of the process nobody comes back");
        let same = published(vec![backend(1), held(Service::Maintenance, 2), held(Service::Drain, 3)], &began, at(10));
        assert_eq!(returns(&same), [None; 3], "not yet");
        let next = published((1..=5).map(backend).collect(), &same, at(20));
        let expected = [None, Some(at(20)), Some(at(20)), Some(at(20)), Some(at(20))];
        assert_eq!(returns(&next), expected, "two put back by hand, one removed before, one new");
        let last = published((1..=5).map(backend).collect(), &next, at(30));
        assert_eq!(returns(&last), expected, "a reload that changes nothing begins nothing anew");
        last.admit(at(40));
        assert_eq!(returns(&last), expected);
    }

    #[test]
    fn the_same_address_in_two_pools_has_two_states() {
        let snapshot = settled(vec![round_robin("api", &[1]), round_robin("app", &[1])], None);
        assert_ne!(state(&snapshot, "api", 0).id(), state(&snapshot, "app", 0).id());
    }

    #[test]
    fn a_removed_backend_drains_and_comes_back_with_what_it_had() {
        let first = settled(vec![round_robin("app", &[1, 2])], None);
        let removed = state(&first, "app", 1);
        removed.take(None).unwrap();
        let second = settled(vec![round_robin("app", &[1])], Some(&first));
        assert!(removed.is_draining());
        assert!(Arc::ptr_eq(&second.retired()[0], &removed));
        let third = settled(vec![round_robin("app", &[1, 2])], Some(&second));
        assert!(Arc::ptr_eq(&state(&third, "app", 1), &removed));
        assert!(third.retired().is_empty());
        assert!(!removed.is_draining());
        assert_eq!(removed.in_flight(), 1);
    }

    #[test]
    fn a_removed_backend_is_remembered_until_it_is_drained() {
        let first = settled(vec![round_robin("app", &[1, 2])], None);
        state(&first, "app", 1).take(None).unwrap();
        let second = settled(vec![], Some(&first));
        assert_eq!(second.retired().len(), 2, "also the idle one: until now it could be taken");
        let third = settled(vec![], Some(&second));
        assert_eq!(third.retired().len(), 1);
        third.retired()[0].release();
        assert!(settled(vec![], Some(&third)).retired().is_empty());
    }

    #[test]
    fn a_proposal_that_is_dropped_leaves_no_trace() {
        let first = settled(vec![round_robin("app", &[1])], None);
        let kept = state(&first, "app", 0);
        let proposal = Snapshot::next(&of_pools(vec![round_robin("other", &[1])]), &Materials::default(), Some(&first));
        assert_eq!(proposal.retired().len(), 1);
        drop(proposal);
        assert!(kept.take(None).is_ok());
        let second = settled(vec![round_robin("app", &[1])], Some(&first));
        assert_eq!(second.generation(), 2);
        assert_eq!(second.pool_id("app"), first.pool_id("app"));
        assert_eq!(second.pool_id("other"), None);
    }

    #[test]
    fn maintenance_ends_what_is_there_and_a_drain_by_hand_does_not() {
        let with = |service| config::Backend { service, ..backend(1) };
        let app = |service| vec![pool("app", Policy::RoundRobin, vec![with(service)])];
        let first = settled(app(Service::Active), None);
        let state = state(&first, "app", 0);
        let second = settled(app(Service::Drain), Some(&first));
        assert!(state.is_draining());
        assert_eq!(second.ending().count(), 0);
        let third = settled(app(Service::Maintenance), Some(&second));
        assert!(third.ending().all(|ending| Arc::ptr_eq(ending, &state)));
        assert_eq!(third.ending().count(), 1);
        state.cut();
        let fourth = settled(app(Service::Active), Some(&third));
        assert!(!state.is_cut() && !state.is_draining());
        assert_eq!(fourth.ending().count(), 0);
    }

    #[test]
    fn health_survives_what_leaves_the_backend_the_same_and_new_ones_begin_as_the_check_says() {
        let checked = |ports: &[u16], initial, service| {
            let text = match initial {
                Initial::Up => "'tcp'",
                Initial::Down => "{ initial = 'down' }",
            };
            let text = format!(
                "listeners.w = {{ bind = '127.0.0.1:0', pool = 'p' }}\n\
                 pools.p = {{ backends = ['10.0.0.1:1'], health_check = {text} }}"
            );
            let check = config::from_text("test.toml", &text).unwrap().config.pools[0].health_check.clone();
            let backends = ports.iter().map(|&port| config::Backend { service, ..backend(port) }).collect();
            vec![config::Pool { health_check: check, ..pool("app", Policy::RoundRobin, backends) }]
        };
        let first = settled(checked(&[1], Initial::Up, Service::Active), None);
        let kept = state(&first, "app", 0);
        assert_eq!(kept.checkup().health(), Health::Up);
        kept.checkup().say(Health::Down, Sessions::Kept);
        let second = settled(checked(&[1, 2], Initial::Down, Service::Drain), Some(&first));
        let said = |snapshot: &Snapshot, index| state(snapshot, "app", index).checkup().health();
        assert_eq!((said(&second, 0), said(&second, 1)), (Health::Down, Health::Unasked));
        assert_eq!((second.checked().count(), second.unchecked().count()), (2, 0), "draining ones are asked on");
        let third = settled(checked(&[1, 2], Initial::Up, Service::Maintenance), Some(&second));
        assert_eq!((third.checked().count(), third.unchecked().count()), (0, 0));
        assert_eq!((said(&third, 0), said(&third, 1)), (Health::Down, Health::Unasked));
        let fourth = settled(vec![round_robin("app", &[1, 2])], Some(&third));
        assert_eq!((fourth.checked().count(), fourth.unchecked().count()), (0, 2));
    }

    #[test]
    fn a_name_keeps_its_number_and_no_other_name_gets_it() {
        let of = |names: &[&str]| {
            let pools = names.iter().map(|name| round_robin(name, &[1])).collect();
            config(names.iter().map(|name| tcp(name, name)).collect(), pools)
        };
        let first = Snapshot::next(&of(&["a", "b"]), &Materials::default(), None);
        let second = Snapshot::next(&of(&["b", "c"]), &Materials::default(), Some(&first));
        let third = Snapshot::next(&of(&["a", "b", "c"]), &Materials::default(), Some(&second));
        assert_eq!(second.pool_id("b"), first.pool_id("b"));
        assert_eq!(third.pool_id("a"), first.pool_id("a"));
        assert_eq!(second.pool_id("a"), None);
        let numbers = |snapshot: &Snapshot| snapshot.listeners().map(|plan| plan.id.index()).collect::<Vec<_>>();
        assert_eq!((numbers(&first), numbers(&second), numbers(&third)), (vec![0, 1], vec![1, 2], vec![0, 1, 2]));
        for plan in third.listeners() {
            let Protocol::Tcp { pool } = plan.protocol else { panic!("all are tcp") };
            assert_eq!(third.pool(pool).unwrap().name, plan.name);
        }
    }

    #[test]
    fn the_hash_table_is_built_again_only_for_what_shapes_it() {
        let hashed = |backends| vec![pool("app", Policy::ConsistentHash { on: HashOn::Uri }, backends)];
        let table = |snapshot: &Snapshot| match &in_pool(snapshot, "app").picking {
            crate::balance::Policy::ConsistentHash { table } => Arc::clone(table),
            other => panic!("{other:?}"),
        };
        let first = settled(hashed(vec![backend(1), backend(2)]), None);
        let renamed = config::Backend { name: "other".into(), ..backend(2) };
        let second = settled(hashed(vec![backend(1), renamed]), Some(&first));
        assert!(Arc::ptr_eq(&table(&first), &table(&second)));
        let backup = config::Backend { backup: true, ..backend(2) };
        let third = settled(hashed(vec![backend(1), backup]), Some(&second));
        assert!(!Arc::ptr_eq(&table(&second), &table(&third)));
    }

    const NAMES: [&str; 3] = ["a", "b", "c"];

    fn any_backend(port: u16) -> impl Strategy<Value = config::Backend> {
        let service =
            prop_oneof![3 => Just(Service::Active), 1 => Just(Service::Drain), 1 => Just(Service::Maintenance)];
        (1..4u32, any::<bool>(), service).prop_map(move |(weight, backup, service)| config::Backend {
            weight,
            backup,
            service,
            ..backend(port)
        })
    }

    fn any_pool(name: &'static str) -> impl Strategy<Value = config::Pool> {
        let ports = subsequence(vec![1u16, 2, 3, 4], 0..=4).prop_shuffle();
        let backends = ports.prop_flat_map(|ports| ports.into_iter().map(any_backend).collect::<Vec<_>>());
        let policy = prop_oneof![Just(Policy::RoundRobin), Just(Policy::LeastConnections)];
        (backends, policy).prop_map(move |(backends, policy)| pool(name, policy, backends))
    }

    fn any_config() -> impl Strategy<Value = Config> {
        let pools = subsequence(NAMES.to_vec(), 0..=3)
            .prop_flat_map(|names| names.into_iter().map(any_pool).collect::<Vec<_>>());
        let listeners = subsequence(NAMES.to_vec(), 0..=3);
        (pools, listeners).prop_map(|(pools, listeners)| config(listeners.into_iter().map(http).collect(), pools))
    }

    /// What workers do between two reloads: numbers that choose backends to take, and how many of the uses end.
    fn any_traffic() -> impl Strategy<Value = (Vec<usize>, usize)> {
        (prop::collection::vec(0..100usize, 0..8), 0..8usize)
    }

    type Word = (u32, bool, bool, Epoch);

    fn word(state: &BackendState) -> Word {
        (state.in_flight(), state.is_draining(), state.is_cut(), state.epoch())
    }

    /// Everything that `snapshot` knows, by key.
    fn known(snapshot: &Snapshot) -> BTreeMap<String, Arc<BackendState>> {
        let live = snapshot.backends().map(|backend| &backend.state);
        let named = |state: &Arc<BackendState>| (format!("{:?}", state.key()), Arc::clone(state));
        live.chain(snapshot.retired()).map(named).collect()
    }

    fn live_keys(snapshot: &Snapshot) -> BTreeSet<String> {
        snapshot.backends().map(|backend| format!("{:?}", backend.state.key())).collect()
    }

    proptest! {
        #[test]
        fn state_goes_with_the_key_and_with_nothing_else(
            steps in prop::collection::vec((any_config(), any_traffic()), 2..6),
        ) {
            let mut previous = Snapshot::next(&of_pools(Vec::new()), &Materials::default(), None);
            let mut uses: Vec<Arc<BackendState>> = Vec::new();
            let (mut highest_id, mut numbers) = (None, BTreeMap::new());
            for (config, (takes, ends)) in steps {
                let before = known(&previous);
                let words: Vec<Word> = before.values().map(|state| word(state)).collect();
                let next = Snapshot::next(&config, &Materials::default(), Some(&previous));
                prop_assert_eq!(words, before.values().map(|state| word(state)).collect::<Vec<_>>(), "pure");

                let after = known(&next);
                let live = live_keys(&next);
                for (key, state) in &after {
                    match before.get(key) {
                        Some(same) => prop_assert!(Arc::ptr_eq(same, state), "{} kept", key),
                        None => prop_assert!(highest_id < Some(state.id()), "{} is new", key),
                    }
                }
                for (key, state) in &before {
                    let retires = !live.contains(key) && !state.is_drained();
                    let retired = next.retired().iter().any(|retired| Arc::ptr_eq(retired, state));
                    prop_assert_eq!(retired, retires, "{} retired", key);
                }
                prop_assert_eq!(live.len(), config.pools.iter().map(|pool| pool.backends.len()).sum::<usize>());
                highest_id = highest_id.max(after.values().map(|state| state.id()).max());

                for (id, pool) in next.pools() {
                    let first = *numbers.entry(pool.name.clone()).or_insert(id);
                    prop_assert_eq!(first, id, "a name keeps its number");
                }
                prop_assert_eq!(numbers.values().collect::<BTreeSet<_>>().len(), numbers.len());
                prop_assert_eq!(next.listeners().count(), config.listeners.len());

                next.settle();
                let once: Vec<Word> = after.values().map(|state| word(state)).collect();
                next.settle();
                prop_assert_eq!(once, after.values().map(|state| word(state)).collect::<Vec<_>>(), "twice is once");
                for backend in next.backends() {
                    prop_assert_eq!(backend.state.is_draining(), backend.service != Service::Active);
                }
                prop_assert!(next.retired().iter().all(|state| state.is_draining()));

                let states: Vec<_> = after.into_values().collect();
                for state in takes.iter().filter_map(|take| states.get(take % states.len().max(1))) {
                    if state.take(None).is_ok() {
                        uses.push(Arc::clone(state));
                    }
                }
                uses.drain(..ends.min(uses.len())).for_each(|state| {
                    state.release();
                });
                previous = next;
            }
        }
    }
}
