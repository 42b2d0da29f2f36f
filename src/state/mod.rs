//! What a request can see: one immutable [`Snapshot`] of one configuration, bound to the live state that outlives it.
//!
//! [`Snapshot::next`] makes the following snapshot out of a configuration and the one in force. It is a function: it reads
//! the previous snapshot as the registry of all backends and changes nothing, so a candidate can be made, looked at and
//! thrown away. A backend of the same key keeps its very state. What becomes of the states that were dropped, put back or
//! taken out by hand is said to them by [`Snapshot::settle`], once the snapshot is in force.
//!
//! Way of a request: [`View::listener`] → [`RouteTable::find`] → [`Split::choose`] → [`View::take`] → [`Lease`].

mod backend;
mod ids;
mod key;
mod lease;
mod pool;
mod route;
mod view;

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::{self, Address, Config, Name, Service, Timeouts};

pub use backend::{Backend, BackendKey, BackendState, Epoch, Refused, Transport};
use ids::Roster;
pub use ids::{ListenerId, PoolId};
pub use lease::Lease;
pub use pool::{HashInput, Pool};
pub use route::{Action, Route, RouteAsk, RouteTable, Split};
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
}

/// The HTTP side of a listener.
#[derive(Debug)]
pub struct HttpPlan {
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
    /// By [`ListenerId`]; `None` for a name that is gone.
    listeners: Vec<Option<Arc<ListenerPlan>>>,
    /// By [`PoolId`]; `None` for a name that is gone.
    pools: Vec<Option<Arc<Pool>>>,
    /// Backends that are in no pool any more but may still be in use.
    retired: Vec<Arc<BackendState>>,
    listener_names: Roster,
    pool_names: Roster,
    next_backend_id: u64,
}

impl Snapshot {
    /// The snapshot of `config` that follows `previous`.
    ///
    /// Changes nothing that `previous` shares: until [`settle`](Snapshot::settle) it is a proposal.
    #[must_use]
    pub fn next(config: &Config, previous: Option<&Snapshot>) -> Snapshot {
        let mut registry = Registry::of(previous);
        let mut pool_names = previous.map(|previous| previous.pool_names.clone()).unwrap_or_default();
        let pools = plan_pools(config, previous, &mut pool_names, &mut registry);
        let mut listener_names = previous.map(|previous| previous.listener_names.clone()).unwrap_or_default();
        let listeners = plan_listeners(config, &mut listener_names, &pool_names);
        Snapshot {
            generation: previous.map_or(1, |previous| previous.generation + 1),
            listeners,
            pools,
            next_backend_id: registry.next_id,
            retired: registry.into_retired(),
            listener_names,
            pool_names,
        }
    }

    /// Counts snapshots that were in force, from 1.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
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
        let id = PoolId::from(self.pool_names.find(name)?);
        self.pool(id).map(|_| id)
    }

    /// All pools with their numbers, in the order of those.
    pub fn pools(&self) -> impl Iterator<Item = (PoolId, &Arc<Pool>)> {
        (0..).map(PoolId::from).zip(&self.pools).filter_map(|(id, pool)| Some((id, pool.as_ref()?)))
    }

    /// Says to every backend whether it is in service: the one side effect, for when this snapshot has come into force.
    ///
    /// A backend that is retired, drained or in maintenance takes nothing new from here on, also not from workers that still
    /// have an older view; one that came back is in service again. Doing it twice is the same as once.
    pub fn settle(&self) {
        for backend in self.backends() {
            match backend.service {
                Service::Active => backend.state.restore(),
                Service::Drain | Service::Maintenance => backend.state.drain(),
            }
        }
        self.retired.iter().for_each(|state| state.drain());
    }

    /// The backends whose uses end: when none is in flight any more, or by [`BackendState::cut`] when
    /// `reload.drain_timeout` is over. Those that are in no pool any more, and those in maintenance; a backend that is only
    /// drained by hand has all the time it needs.
    pub fn ending(&self) -> impl Iterator<Item = &Arc<BackendState>> {
        let in_maintenance = self.backends().filter(|backend| backend.service == Service::Maintenance);
        self.retired.iter().chain(in_maintenance.map(|backend| &backend.state))
    }

    /// The backends that are in no pool any more.
    #[must_use]
    pub fn retired(&self) -> &[Arc<BackendState>] {
        &self.retired
    }

    /// Whether the backend whose state has this number is in a pool.
    #[must_use]
    pub fn has_backend(&self, id: u64) -> bool {
        self.backends().any(|backend| backend.state.id() == id)
    }

    fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.pools.iter().flatten().flat_map(|pool| pool.backends.iter())
    }
}

/// The backends that are known while a snapshot is made.
struct Registry {
    /// Those of the previous snapshot that the next one has not asked for yet, in their order.
    waiting: HashMap<BackendKey, Known>,
    next_id: u64,
}

/// A backend of the previous snapshot.
struct Known {
    state: Arc<BackendState>,
    /// It was retired there already, so it is draining since.
    was_retired: bool,
}

impl Registry {
    fn of(previous: Option<&Snapshot>) -> Registry {
        let Some(previous) = previous else {
            return Registry { waiting: HashMap::new(), next_id: 0 };
        };
        let live = previous.backends().map(|backend| (&backend.state, false));
        let retired = previous.retired.iter().map(|state| (state, true));
        let known = |(state, was_retired): (&Arc<BackendState>, bool)| {
            (state.key().clone(), Known { state: Arc::clone(state), was_retired })
        };
        Registry { waiting: live.chain(retired).map(known).collect(), next_id: previous.next_backend_id }
    }

    /// The state of `key`: the one it has, or a new one.
    fn state(&mut self, key: BackendKey) -> Arc<BackendState> {
        if let Some(known) = self.waiting.remove(&key) {
            return known.state;
        }
        let id = self.next_id;
        self.next_id += 1;
        Arc::new(BackendState::new(id, key))
    }

    /// Those that nobody asked for, by age. One that was in service until now stays even when it is idle: a worker may
    /// take it until it is told to drain. One that drains already stays for as long as something is in flight.
    fn into_retired(self) -> Vec<Arc<BackendState>> {
        let in_use = |known: &Known| !known.was_retired || known.state.in_flight() > 0;
        let mut retired: Vec<_> = self.waiting.into_values().filter(in_use).map(|known| known.state).collect();
        retired.sort_by_key(|state| state.id());
        retired
    }
}

fn plan_pools(
    config: &Config,
    previous: Option<&Snapshot>,
    names: &mut Roster,
    registry: &mut Registry,
) -> Vec<Option<Arc<Pool>>> {
    let mut pools = Vec::new();
    for pool in &config.pools {
        let id = PoolId::from(names.enrol(&pool.name));
        let backends = pool.backends.iter().map(|backend| bind(backend, &pool.name, registry)).collect();
        let before = previous.and_then(|previous| previous.pool(id));
        put(&mut pools, id.index(), Pool::new(pool, backends, before.map(|pool| &**pool)));
    }
    pools
}

fn bind(backend: &config::Backend, pool: &Name, registry: &mut Registry) -> Backend {
    let key = BackendKey { pool: pool.clone(), address: backend.address.clone(), transport: Transport::Plain };
    Backend {
        name: backend.name.clone(),
        weight: backend.weight,
        limit: backend.max_connections,
        backup: backend.backup,
        service: backend.service,
        state: registry.state(key),
    }
}

fn plan_listeners(config: &Config, names: &mut Roster, pools: &Roster) -> Vec<Option<Arc<ListenerPlan>>> {
    let mut listeners = Vec::new();
    for listener in &config.listeners {
        let id = ListenerId::from(names.enrol(&listener.name));
        let plan = ListenerPlan {
            id,
            name: listener.name.clone(),
            bind: listener.bind.clone(),
            timeouts: listener.timeouts.clone(),
            protocol: plan_protocol(&listener.protocol, pools),
        };
        put(&mut listeners, id.index(), plan);
    }
    listeners
}

fn plan_protocol(protocol: &config::Protocol, pools: &Roster) -> Protocol {
    let resolve = |name: &str| PoolId::from(pools.find(name).expect("a checked configuration has every pool it names"));
    match protocol {
        config::Protocol::Tcp { pool } => Protocol::Tcp { pool: resolve(pool) },
        config::Protocol::Http(http) => Protocol::Http(HttpPlan {
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
