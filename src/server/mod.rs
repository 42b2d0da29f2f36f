//! The server: listening sockets, the workers that accept on them, and the change from one configuration to the next.
//!
//! A [`Server`] lives on the control runtime. It owns every listening socket; the workers are lent copies. Sockets are known
//! by their address, so a reload touches only those whose address came or went, and it binds what is new before anything
//! else changes: either all of a configuration comes into force or none of it.
//!
//! What a connection is and what becomes of it stands in `l4` and `l7`; this room only brings it to a worker.

mod control;
pub mod daemon;
mod descriptors;
mod listener;
mod places;
mod receipt;
mod reception;
mod report;
mod retire;
mod sockets;
mod spread;
mod systemd;
mod worker;

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use crate::balance::Candidate;
use crate::clock::{self, Instant};
use crate::config::Config;
use crate::record::Collected;
use crate::state::{Backend, BackendState, ListenerId, Pool, Snapshot};
use control::Control;
use listener::Offer;
use places::{Place, Wanted};
pub use report::{Applied, BackendReport, Drained, Listening, StartError};
pub use sockets::BindFault;
use sockets::{Bound, SocketId, bind_all};
use spread::Acceptors;
use worker::Mail;

/// How often it is looked whether the last connection has ended, while the server drains.
const LOOK: Duration = Duration::from_millis(10);

/// How long connections that are cut may take to end.
const CUT_PATIENCE: Duration = Duration::from_secs(1);

/// Listening sockets and the workers behind them. Dropping it ends everything at once.
#[derive(Debug)]
pub struct Server {
    /// Before the control: when a server is dropped, the files of Unix sockets go first.
    bound: Vec<Bound>,
    control: Control,
}

impl Server {
    /// Binds everything that `config` listens on, or nothing, and starts the workers.
    ///
    /// Called on a tokio runtime, which stays the server's control runtime.
    ///
    /// # Errors
    /// An address can not be listened on, or a worker can not be started. Then nothing is left of it.
    pub async fn start(config: &Config) -> Result<Server, StartError> {
        descriptors::raise_limit();
        let workers = workers_of(config);
        let wanted = places::wanted(config);
        let bound = bind_all(&wanted.iter().collect::<Vec<_>>(), &[], workers).map_err(StartError::Listen)?;
        let control = Control::start(Snapshot::next(config, None), workers).await.map_err(StartError::Worker)?;
        let mut server = Server { bound: Vec::new(), control };
        server.listen(bound);
        Ok(server)
    }

    /// All addresses that are listened on, in the order of the configuration that brought them.
    #[must_use]
    pub fn listening(&self) -> Vec<Listening> {
        let one = |bound: &Bound| Listening { name: bound.listener.clone(), address: bound.address.clone() };
        self.bound.iter().map(one).collect()
    }

    /// Puts another configuration in force.
    ///
    /// Run it to its end: dropped half-way, addresses that were to go may be gone while the snapshot is still the old one.
    ///
    /// # Errors
    /// A new address can not be listened on. Then nothing has changed.
    pub async fn apply(&mut self, config: &Config) -> Result<Applied, StartError> {
        let wanted = places::wanted(config);
        let held: Vec<&Place> = self.bound.iter().map(|bound| &bound.place).collect();
        let missing = places::missing(&held, &wanted);
        let fresh = bind_all(&missing, &self.bound, self.control.workers()).map_err(StartError::Listen)?;

        let removed = self.unlisten(|place| places::owner(place, &wanted).is_none()).await;
        self.rename(&wanted);
        let before = self.control.snapshot();
        let next = Snapshot::next(config, Some(&before));
        let (backends_added, backends_removed) = log_backends(&before, &next);
        let (generation, owners) = (next.generation(), self.owners(&next));
        self.control.publish(next, owners, config.reload.drain_timeout).await;
        let added = fresh.len();
        self.listen(fresh);
        Ok(Applied {
            generation,
            addresses_added: added,
            addresses_removed: removed,
            backends_added,
            backends_removed,
            warnings: self.warnings(config),
        })
    }

    /// Every backend of every pool, in the order of the pools' numbers and the file.
    pub async fn observe(&self) -> Vec<BackendReport> {
        let mut records = add_up(self.control.observe().await);
        let (snapshot, now) = (self.control.snapshot(), clock::now());
        let pools = snapshot.pools().flat_map(|(_, pool)| pool.backends.iter().map(move |backend| (pool, backend)));
        let report = |(pool, backend): (&Arc<Pool>, &Backend)| BackendReport {
            pool: pool.name.clone(),
            backend: backend.name.clone(),
            address: backend.address().clone(),
            weight: backend.weight,
            standing: backend.standing(now),
            in_flight: backend.in_flight(),
            record: records.remove(&backend.state.id()).unwrap_or_default(),
        };
        pools.map(report).collect()
    }

    /// The next worker that has died, by a fault of this program. The clients that the kernel keeps sending to it would wait
    /// for ever, so whoever hears of it should end the process. Waits for ever when none dies; dropping it loses nothing.
    pub async fn worker_died(&mut self) -> usize {
        self.control.worker_died().await
    }

    /// Stops accepting, after those who wait already, lets connections finish for `grace` and cuts the rest.
    ///
    /// Dropping it leaves the connections as they are; dropping the server then ends them at once.
    pub async fn drain(&mut self, grace: Duration) -> Drained {
        let begun = clock::now();
        self.unlisten(|_| true).await;
        self.control.tell_all(|| Mail::Drain);
        self.quiet_by(begun + grace).await;
        let cut = self.control.connections();
        if cut > 0 {
            self.control.tell_all(|| Mail::CutAll);
            self.quiet_by(clock::now() + CUT_PATIENCE).await;
        }
        Drained { cut, took: clock::now().since(begun) }
    }

    /// Waits until no connection is open, or for the deadline.
    async fn quiet_by(&self, deadline: Instant) {
        while self.control.connections() > 0 && clock::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Lends the workers copies of new sockets and keeps these.
    fn listen(&mut self, fresh: Vec<Bound>) {
        let owners: HashMap<_, _> = {
            let snapshot = self.control.snapshot();
            fresh.iter().filter_map(|bound| Some((bound.id, listener_id(&snapshot, &bound.listener)?))).collect()
        };
        let mut offers: Vec<Vec<Offer>> = (0..self.control.workers()).map(|_| Vec::new()).collect();
        for (nth, bound) in fresh.iter().enumerate() {
            tracing::info!(listener = %bound.listener, address = %bound.address, "listening");
            if let Some(owner) = owners.get(&bound.id) {
                offer(bound, nth, *owner, &mut offers);
            }
        }
        for (worker, offers) in offers.into_iter().enumerate() {
            self.control.tell(worker, Mail::Listen(offers));
        }
        self.bound.extend(fresh);
    }

    /// Gives up the addresses that `is_over` names; says how many.
    async fn unlisten(&mut self, is_over: impl Fn(&Place) -> bool) -> usize {
        let over: Vec<Bound> = self.bound.extract_if(.., |bound| is_over(&bound.place)).collect();
        for bound in &over {
            tracing::info!(listener = %bound.listener, address = %bound.address, "no longer listening");
        }
        let (count, ids) = (over.len(), over.iter().map(|bound| bound.id).collect::<Vec<_>>());
        // Ours go first, so that the workers' are the last: they close them in the same step in which nobody waits any more.
        drop(over);
        if count > 0 && !self.control.unlisten(&ids).await {
            tracing::warn!("a worker takes long to stop accepting");
        }
        count
    }

    /// Addresses that stay can be another listener's from now on.
    fn rename(&mut self, wanted: &[Wanted]) {
        for bound in &mut self.bound {
            if let Some(owner) = places::owner(&bound.place, wanted) {
                bound.listener = owner.clone();
            }
        }
    }

    fn owners(&self, snapshot: &Snapshot) -> Vec<(SocketId, ListenerId)> {
        let owner = |bound: &Bound| Some((bound.id, listener_id(snapshot, &bound.listener)?));
        self.bound.iter().filter_map(owner).collect()
    }

    fn warnings(&self, config: &Config) -> Vec<String> {
        let (now, wanted) = (self.control.workers(), workers_of(config));
        let changed = now != wanted;
        let sentence = || format!("runtime.workers stays {now} until the next start; the file asks for {wanted}");
        changed.then(sentence).into_iter().collect()
    }
}

fn workers_of(config: &Config) -> usize {
    match config.runtime.workers {
        Some(workers) => usize::try_from(workers.get()).unwrap_or(usize::MAX),
        // Where the system does not say, one worker serves as well.
        None => available_parallelism().map_or(1, NonZero::get),
    }
}

fn listener_id(snapshot: &Snapshot, name: &str) -> Option<ListenerId> {
    snapshot.listeners().find(|plan| &*plan.name == name).map(|plan| plan.id)
}

/// Shares the sockets of an address out: one for each worker, or the only one to the `nth`, so that several such
/// addresses do not all burden the first.
fn offer(bound: &Bound, nth: usize, listener: ListenerId, offers: &mut [Vec<Offer>]) {
    let first = match bound.acceptors() {
        Acceptors::Every => 0,
        Acceptors::One => nth % offers.len(),
    };
    for (socket, offers) in bound.sockets.iter().zip(&mut offers[first..]) {
        match socket.try_clone() {
            Ok(socket) => offers.push(Offer {
                id: bound.id,
                socket,
                address: bound.address.clone(),
                acceptors: bound.acceptors(),
                listener,
            }),
            Err(error) => tracing::error!(address = %bound.address, %error, "a worker cannot accept here"),
        }
    }
}

fn add_up(collected: Vec<Collected>) -> Collected {
    let mut sum = Collected::new();
    for (backend, record) in collected.into_iter().flatten() {
        sum.entry(backend).or_default().add(&record);
    }
    sum
}

/// Logs which backends came and went, and counts them.
fn log_backends(before: &Snapshot, after: &Snapshot) -> (usize, usize) {
    let (before, after) = (states(before), states(after));
    let added: Vec<_> = after.iter().filter(|(id, _)| !before.contains_key(id)).collect();
    let removed: Vec<_> = before.iter().filter(|(id, _)| !after.contains_key(id)).collect();
    for (_, state) in &added {
        tracing::info!(pool = %state.key().pool, address = %state.key().address, "backend added");
    }
    for (_, state) in &removed {
        let in_flight = state.in_flight();
        tracing::info!(pool = %state.key().pool, address = %state.key().address, in_flight, "backend removed");
    }
    (added.len(), removed.len())
}

fn states(snapshot: &Snapshot) -> HashMap<u64, Arc<BackendState>> {
    let backends = snapshot.pools().flat_map(|(_, pool)| pool.backends.iter());
    backends.map(|backend| (backend.state.id(), Arc::clone(&backend.state))).collect()
}
