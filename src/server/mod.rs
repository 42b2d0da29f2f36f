//! The server: listening sockets, the workers that accept on them, and the change from one configuration to the next.
//!
//! A [`Server`] lives on the control runtime. It owns every listening socket; the workers are lent copies. Sockets are known
//! by their address, so a reload touches only those whose address came or went, and it binds what is new before anything
//! else changes: either all of a configuration comes into force or none of it.
//!
//! What a connection is and what becomes of it stands in `l4` and `l7`; this room only brings it to a worker.

mod admission;
mod bells;
mod clients;
mod control;
pub mod daemon;
mod descriptors;
mod handshake;
mod hello;
mod introduction;
mod listener;
mod places;
mod receipt;
mod reception;
mod renewal;
mod report;
mod retire;
mod sockets;
mod spread;
mod systemd;
mod worker;

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use crate::clock::{self, Instant};
use crate::config::Config;
use crate::record::Collected;
use crate::state::{BackendState, ListenerId, Pool, PoolId, PoolStatus, Snapshot};
use crate::tls::Materials;
use admission::Admission;
use control::Control;
use listener::Offer;
use places::{Place, Wanted};
pub use report::{Applied, BackendReport, Drained, Listening, PoolReport, StartError};
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
    /// How many files this process may have open.
    descriptors: u64,
}

impl Server {
    /// Binds everything that `config` listens on, or nothing, and starts the workers. `materials` were read for it.
    ///
    /// Called on a tokio runtime, which stays the server's control runtime.
    ///
    /// # Errors
    /// An address can not be listened on, or a worker can not be started. Then nothing is left of it.
    pub async fn start(config: &Config, materials: &Materials) -> Result<Server, StartError> {
        let descriptors = descriptors::raise_limit();
        let workers = workers_of(config);
        let wanted = places::wanted(config);
        let bound = bind_all(&wanted.iter().collect::<Vec<_>>(), &[], workers).map_err(StartError::Listen)?;
        let control = Control::start(Snapshot::next(config, materials, None), workers, Admission::new(descriptors / 2));
        let mut server = Server { bound: Vec::new(), control: control.await.map_err(StartError::Worker)?, descriptors };
        server.listen(bound);
        server.warnings(config).iter().for_each(|warning| tracing::warn!("{warning}"));
        Ok(server)
    }

    /// All addresses that are listened on, in the order of the configuration that brought them.
    #[must_use]
    pub fn listening(&self) -> Vec<Listening> {
        let one = |bound: &Bound| Listening { name: bound.listener.clone(), address: bound.address.clone() };
        self.bound.iter().map(one).collect()
    }

    /// Puts another configuration in force, with the materials that were read for it.
    ///
    /// Run it to its end: dropped half-way, addresses that were to go may be gone while the snapshot is still the old one.
    ///
    /// # Errors
    /// A new address can not be listened on. Then nothing has changed.
    pub async fn apply(&mut self, config: &Config, materials: &Materials) -> Result<Applied, StartError> {
        let wanted = places::wanted(config);
        let held: Vec<&Place> = self.bound.iter().map(|bound| &bound.place).collect();
        let missing = places::missing(&held, &wanted);
        let fresh = bind_all(&missing, &self.bound, self.control.workers()).map_err(StartError::Listen)?;

        let removed = self.unlisten(|place| places::owner(place, &wanted).is_none()).await;
        self.rename(&wanted);
        let before = self.control.snapshot();
        let next = Snapshot::next(config, materials, Some(&before));
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

    /// How every pool and its backends stand now, in the order of the pools' numbers and the file. Asks no worker.
    #[must_use]
    pub fn status(&self) -> Vec<PoolStatus> {
        let now = clock::now();
        self.control.snapshot().pools().map(|(_, pool)| pool.status(now)).collect()
    }

    /// Every backend of every pool, in the order of the pools' numbers and the file.
    pub async fn observe(&self) -> Vec<BackendReport> {
        let mut records = add_up(self.control.observe().await).backends;
        let (snapshot, now) = (self.control.snapshot(), clock::now());
        let of_pool = |pool: &Pool| {
            let ids = pool.backends.iter().map(|backend| backend.state.id());
            let records: Vec<_> = ids.map(|id| records.remove(&id).unwrap_or_default()).collect();
            let report = |(status, record)| BackendReport { pool: pool.name.clone(), status, record };
            pool.status(now).backends.into_iter().zip(records).map(report).collect::<Vec<_>>()
        };
        snapshot.pools().map(|(_, pool)| &**pool).flat_map(of_pool).collect()
    }

    /// Every pool, in the order of their numbers.
    pub async fn observe_pools(&self) -> Vec<PoolReport> {
        let records = add_up(self.control.observe().await).pools;
        let snapshot = self.control.snapshot();
        let report = |(id, pool): (PoolId, &Arc<Pool>)| PoolReport {
            pool: pool.name.clone(),
            rung: pool.rung(),
            waiting: pool.queue.waiting(),
            record: records.get(id.index()).copied().unwrap_or_default(),
        };
        snapshot.pools().map(report).collect()
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
    fn listen(&mut self, mut fresh: Vec<Bound>) {
        let snapshot = self.control.snapshot();
        let mut offers: Vec<Vec<Offer>> = (0..self.control.workers()).map(|_| Vec::new()).collect();
        for (nth, bound) in fresh.iter_mut().enumerate() {
            tracing::info!(listener = %bound.listener, address = %bound.address, "listening");
            if let Some(owner) = listener_id(&snapshot, &bound.listener) {
                offer(bound, nth, owner, &mut offers);
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
        let workers = (now != wanted)
            .then(|| format!("runtime.workers stays {now} until the next start; the file asks for {wanted}"));
        let descriptors = self.descriptors;
        let asked = config.runtime.connections.filter(|asked| u64::from(asked.get()) > descriptors / 2);
        let connections = asked.map(|asked| {
            format!("runtime.connections is {asked}, but only {descriptors} files may be open: a connection and the one to its backend are two (LimitNOFILE= in systemd, `ulimit -n` in a shell)")
        });
        workers.into_iter().chain(connections).collect()
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

/// Shares the copies of an address's sockets out: one for each worker, or the only one to the `nth`, so that several such
/// addresses do not all burden the first.
fn offer(bound: &mut Bound, nth: usize, listener: ListenerId, offers: &mut [Vec<Offer>]) {
    let (id, acceptors) = (bound.id, bound.acceptors());
    let first = match acceptors {
        Acceptors::Every => 0,
        Acceptors::One => nth % offers.len(),
    };
    for (socket, offers) in std::mem::take(&mut bound.copies).into_iter().zip(&mut offers[first..]) {
        offers.push(Offer { id, socket, address: bound.address.clone(), acceptors, listener });
    }
}

fn add_up(collected: Vec<Collected>) -> Collected {
    let mut sum = Collected::default();
    collected.into_iter().for_each(|one| sum.add(one));
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

/// By number, so that they are logged in the order in which they came.
fn states(snapshot: &Snapshot) -> BTreeMap<u64, Arc<BackendState>> {
    let backends = snapshot.pools().flat_map(|(_, pool)| pool.backends.iter());
    backends.map(|backend| (backend.state.id(), Arc::clone(&backend.state))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Address, Bytes, Limits, Listener, Policy, Protocol, Reload, Runtime, Service, Timeouts};
    use std::net::SocketAddr;
    use std::num::NonZeroU32;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream, UnixStream};

    const DEADLINE: Duration = Duration::from_secs(10);

    fn timeouts() -> Timeouts {
        let all = Duration::from_secs(30);
        Timeouts {
            client_header: all,
            client_body: all,
            client_write: all,
            client_min_rate: Bytes::default(),
            client_idle: all,
            tls_handshake: all,
            connect: all,
            response_header: all,
            response_body: all,
            upstream_idle: all,
            tunnel_idle: all,
            queue: all,
            request: None,
        }
    }

    /// Raw listeners on one pool.
    fn config(workers: u32, listeners: &[(&str, Vec<Address>)], backends: &[SocketAddr]) -> Config {
        let listener = |(name, bind): &(&str, Vec<Address>)| Listener {
            proxy_protocol: None,
            tls: None,
            name: (*name).into(),
            bind: bind.clone(),
            protocol: Protocol::Tcp { pool: "app".into() },
            timeouts: timeouts(),
            limits: Limits::default(),
        };
        let backend = |address: &SocketAddr| config::Backend {
            name: address.to_string().into(),
            address: Address::Ip(*address),
            weight: 1,
            max_connections: None,
            backup: false,
            service: Service::Active,
        };
        let backends = backends.iter().map(backend).collect();
        Config {
            runtime: Runtime {
                workers: NonZeroU32::new(workers),
                shutdown_grace: Duration::from_secs(5),
                connections: None,
            },
            reload: Reload { watch: false, drain_timeout: Duration::ZERO },
            listeners: listeners.iter().map(listener).collect(),
            pools: vec![config::Pool {
                name: "app".into(),
                policy: Policy::RoundRobin,
                backends,
                slow_start: None,
                timeouts: timeouts(),
                breaker: None,
                queue: 0,
                retry_budget: 0.2,
                health_check: None,
                http_version: config::HttpVersion::H1,
                send_proxy_protocol: None,
                tls: None,
                fail_open: true,
                panic_threshold: 0.0,
            }],
        }
    }

    fn loopback(port: u16) -> Address {
        Address::Ip(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    fn ip(address: &Address) -> SocketAddr {
        match address {
            Address::Ip(address) => *address,
            Address::Unix(path) => panic!("{} is no IP address", path.display()),
        }
    }

    /// A backend that sends back what it gets.
    async fn origin() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reader, mut writer) = client.split();
                    // The end of a connection is what it is made for.
                    let _ = tokio::io::copy(&mut reader, &mut writer).await;
                });
            }
        });
        address
    }

    async fn connect(server: &Server, nth: usize) -> TcpStream {
        TcpStream::connect(ip(&server.listening()[nth].address)).await.unwrap()
    }

    async fn echoes<S: AsyncReadExt + AsyncWriteExt + Unpin>(stream: &mut S) -> bool {
        let mut answer = [0; 5];
        let exchange = async {
            stream.write_all(b"hello").await?;
            stream.read_exact(&mut answer).await
        };
        let done = tokio::time::timeout(DEADLINE, exchange).await.expect("an answer or an end in time");
        done.is_ok() && &answer == b"hello"
    }

    async fn until(what: &str, mut condition: impl FnMut() -> bool) {
        let poll = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(DEADLINE, poll).await.expect(what);
    }

    #[tokio::test]
    async fn every_connection_is_served_and_counted() {
        let origin = origin().await;
        let server =
            Server::start(&config(2, &[("raw", vec![loopback(0)])], &[origin]), &Materials::default()).await.unwrap();
        assert_eq!(&*server.listening()[0].name, "raw");
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut client = connect(&server, 0).await;
            assert!(echoes(&mut client).await);
            clients.push(client);
        }
        assert_eq!(server.control.connections(), 20);
        assert_eq!(server.observe().await[0].status.in_flight, 20);
        drop(clients);
        until("all connections end", || server.control.connections() == 0).await;
        let report = server.observe().await.remove(0);
        assert_eq!((&*report.pool, report.status.address, report.status.in_flight), ("app", Address::Ip(origin), 0));
        assert_eq!((report.record.attempts, report.record.failures), (20, 0));
    }

    #[tokio::test]
    async fn a_session_whose_first_backend_refuses_is_counted_as_tried_elsewhere() {
        let refusing = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let backends = [origin().await, refusing];
        let server =
            Server::start(&config(1, &[("raw", vec![loopback(0)])], &backends), &Materials::default()).await.unwrap();
        for _ in 0..4 {
            assert!(echoes(&mut connect(&server, 0).await).await);
        }
        let report = server.observe_pools().await.remove(0);
        // Whoever was tried second is followed by the one that refuses.
        assert!((3..=4).contains(&report.record.retried_free), "{report:?}");
        assert_eq!((&*report.pool, report.record.retried), ("app", 0), "it costs no budget");
    }

    #[tokio::test]
    async fn a_unix_socket_is_spread_over_all_workers_and_unlinked_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("raw.sock");
        let listeners = [("raw", vec![Address::Unix(path.clone())])];
        let server = Server::start(&config(3, &listeners, &[origin().await]), &Materials::default()).await.unwrap();
        let mut clients = Vec::new();
        for _ in 0..9 {
            let mut client = UnixStream::connect(&path).await.unwrap();
            assert!(echoes(&mut client).await);
            clients.push(client);
        }
        assert_eq!(server.control.connections_by_worker(), [3, 3, 3]);
        drop(server);
        assert!(!path.exists());
        assert!(!echoes(&mut clients[0]).await, "dropping the server ends everything");
    }

    #[tokio::test]
    async fn a_second_server_on_the_address_fails_and_the_first_serves_on() {
        let origin = origin().await;
        let first =
            Server::start(&config(2, &[("raw", vec![loopback(0)])], &[origin]), &Materials::default()).await.unwrap();
        let taken = first.listening()[0].address.clone();
        let refused =
            Server::start(&config(2, &[("raw", vec![loopback(0), taken.clone()])], &[origin]), &Materials::default())
                .await;
        let text = refused.unwrap_err().to_string();
        let expected = "for listener \"raw\": address already in use (another process has it)";
        assert_eq!(text, format!("cannot listen on {taken} {expected}"));
        for _ in 0..8 {
            assert!(echoes(&mut connect(&first, 0).await).await);
        }
    }

    #[tokio::test]
    async fn a_reload_that_can_not_bind_changes_nothing() {
        let (old, new) = (origin().await, origin().await);
        let occupied = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = occupied.local_addr().unwrap().port();
        let mut server =
            Server::start(&config(2, &[("raw", vec![loopback(0)])], &[old]), &Materials::default()).await.unwrap();
        let before = server.listening();
        let wrong = config(2, &[("other", vec![loopback(0), loopback(port)])], &[new]);
        assert!(
            matches!(server.apply(&wrong, &Materials::default()).await, Err(StartError::Listen(faults)) if faults.len() == 1)
        );
        assert_eq!(server.listening(), before);
        assert_eq!(server.control.snapshot().generation(), 1);
        assert_eq!(server.observe().await[0].status.address, Address::Ip(old));
        assert!(echoes(&mut connect(&server, 0).await).await);
    }

    #[tokio::test]
    async fn a_reload_touches_only_addresses_that_came_or_went() {
        let origin = origin().await;
        let mut server =
            Server::start(&config(2, &[("raw", vec![loopback(0)])], &[origin]), &Materials::default()).await.unwrap();
        let fixed = server.listening()[0].address.clone();
        // From here on the port is named; the chosen one was known by its listener.
        drop(server);
        server =
            Server::start(&config(2, &[("raw", vec![fixed.clone(), loopback(0)])], &[origin]), &Materials::default())
                .await
                .unwrap();
        let (kept, gone) = (server.bound[0].id, ip(&server.listening()[1].address));
        let mut session = connect(&server, 0).await;
        assert!(echoes(&mut session).await);

        let renamed = config(2, &[("shop", vec![fixed.clone()]), ("new", vec![loopback(0)])], &[origin]);
        let applied = server.apply(&renamed, &Materials::default()).await.unwrap();
        assert_eq!((applied.generation, applied.addresses_added, applied.addresses_removed), (2, 1, 1));
        assert_eq!(server.bound[0].id, kept);
        assert_eq!(&*server.listening()[0].name, "shop");
        assert!(echoes(&mut session).await, "a session on a kept backend lives on");
        assert!(echoes(&mut connect(&server, 0).await).await);
        assert!(echoes(&mut connect(&server, 1).await).await);
        assert!(TcpStream::connect(gone).await.is_err());
        server.apply(&renamed, &Materials::default()).await.unwrap();
        assert_eq!(server.bound[0].id, kept);
    }

    #[tokio::test]
    async fn a_removed_backend_is_cut_when_its_time_is_over() {
        let (old, new) = (origin().await, origin().await);
        let listeners = [("raw", vec![loopback(0)])];
        let mut server = Server::start(&config(2, &listeners, &[old]), &Materials::default()).await.unwrap();
        let mut session = connect(&server, 0).await;
        assert!(echoes(&mut session).await);
        let applied = server.apply(&config(2, &listeners, &[new]), &Materials::default()).await.unwrap();
        assert_eq!((applied.backends_added, applied.backends_removed), (1, 1));
        let ended = tokio::time::timeout(DEADLINE, session.read(&mut [0])).await.expect("the session is cut");
        assert!(matches!(ended, Ok(0) | Err(_)));
        assert!(echoes(&mut connect(&server, 0).await).await);
    }

    #[tokio::test]
    async fn a_retired_snapshot_is_dropped_once_every_worker_has_moved_on() {
        let origin = origin().await;
        let listeners = [("raw", vec![loopback(0)])];
        let mut server = Server::start(&config(2, &listeners, &[origin]), &Materials::default()).await.unwrap();
        let first = Arc::downgrade(&server.control.snapshot());
        server.apply(&config(2, &listeners, &[]), &Materials::default()).await.unwrap();
        until("idle workers let go of it", || first.strong_count() == 0).await;
    }

    #[tokio::test]
    async fn what_was_seen_of_a_backend_stays_through_reloads_and_goes_with_it() {
        let (kept, gone) = (origin().await, origin().await);
        let listeners = [("raw", vec![loopback(0)])];
        let mut server = Server::start(&config(2, &listeners, &[kept, gone]), &Materials::default()).await.unwrap();
        for _ in 0..4 {
            assert!(echoes(&mut connect(&server, 0).await).await);
        }
        until("all sessions end", || server.control.connections() == 0).await;
        server
            .apply(
                &config(2, &[listeners[0].clone(), ("more", vec![loopback(0)])], &[gone, kept]),
                &Materials::default(),
            )
            .await
            .unwrap();
        let seen: u64 = server.observe().await.iter().map(|report| report.record.attempts).sum();
        assert_eq!(seen, 4);
        for _ in 0..2 {
            server.apply(&config(2, &listeners, &[kept]), &Materials::default()).await.unwrap();
        }
        let remembered = add_up(server.control.observe().await).backends;
        let kept = server.control.snapshot().known();
        assert!(remembered.keys().all(|backend| kept.contains(backend)), "{:?} of {kept:?}", remembered.keys());
        assert!(server.observe().await[0].record.attempts > 0);
    }

    #[tokio::test]
    async fn another_number_of_workers_is_a_warning() {
        let listeners = [("raw", vec![loopback(0)])];
        let mut server = Server::start(&config(2, &listeners, &[]), &Materials::default()).await.unwrap();
        assert_eq!(
            server.apply(&config(2, &listeners, &[]), &Materials::default()).await.unwrap().warnings,
            [] as [String; 0]
        );
        let applied = server.apply(&config(1, &listeners, &[]), &Materials::default()).await.unwrap();
        let expected = "runtime.workers stays 2 until the next start; the file asks for 1";
        assert_eq!(applied.warnings, [expected]);
        assert_eq!(server.control.workers(), 2);
    }

    #[tokio::test]
    async fn more_connections_than_files_may_be_open_is_a_warning() {
        let listeners = [("raw", vec![loopback(0)])];
        let mut server = Server::start(&config(1, &listeners, &[]), &Materials::default()).await.unwrap();
        server.descriptors = 200;
        for (asked, warned) in [(100, false), (101, true)] {
            let mut config = config(1, &listeners, &[]);
            config.runtime.connections = NonZeroU32::new(asked);
            let warnings = server.apply(&config, &Materials::default()).await.unwrap().warnings;
            assert_eq!(warnings.iter().any(|warning| warning.contains("only 200 files")), warned, "{warnings:?}");
        }
    }

    #[tokio::test]
    async fn a_drain_closes_the_port_and_cuts_who_stays() {
        let origin = origin().await;
        let mut server =
            Server::start(&config(2, &[("raw", vec![loopback(0)])], &[origin]), &Materials::default()).await.unwrap();
        let mut stays = connect(&server, 0).await;
        assert!(echoes(&mut stays).await);
        let address = ip(&server.listening()[0].address);
        let drained = server.drain(Duration::from_millis(50)).await;
        assert_eq!(drained.cut, 1);
        assert!(drained.took >= Duration::from_millis(50) && drained.took < DEADLINE, "{:?}", drained.took);
        assert_eq!(server.control.connections(), 0);
        assert!(TcpStream::connect(address).await.is_err());
        assert!(!echoes(&mut stays).await);
    }

    #[tokio::test]
    async fn who_has_connected_before_a_drain_is_served() {
        let origin = origin().await;
        let mut server =
            Server::start(&config(2, &[("raw", vec![loopback(0)])], &[origin]), &Materials::default()).await.unwrap();
        let address = ip(&server.listening()[0].address);
        // Connected without letting the workers' answers in: some of these still wait to be accepted.
        let connect = |_| TcpStream::from_std(nonblocking(std::net::TcpStream::connect(address).unwrap())).unwrap();
        let clients: Vec<_> = (0..32).map(connect).collect();
        let exchange = async {
            for mut client in clients {
                assert!(echoes(&mut client).await);
            }
        };
        let (drained, ()) = tokio::join!(server.drain(DEADLINE), exchange);
        assert_eq!(drained.cut, 0);
    }

    fn nonblocking(stream: std::net::TcpStream) -> std::net::TcpStream {
        stream.set_nonblocking(true).unwrap();
        stream
    }

    #[tokio::test]
    async fn a_drain_without_connections_is_over_at_once() {
        let mut server =
            Server::start(&config(2, &[("raw", vec![loopback(0)])], &[]), &Materials::default()).await.unwrap();
        let drained = server.drain(Duration::from_secs(3600)).await;
        assert_eq!(drained.cut, 0);
        assert!(drained.took < DEADLINE);
    }
}
