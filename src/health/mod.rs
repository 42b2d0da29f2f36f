//! Active health checks: every backend of a pool with a check is asked at an interval whether it is well.
//!
//! One thread asks for all of them. It is apart from the control thread, so that ten thousand probes make no reload late,
//! and apart from the workers, so that neither makes the other wait: while control reads a large file, no probe's time runs
//! out. The thread is there once a configuration has a check. It is told of each configuration by its newest only, and
//! writes what it finds into [`Checkup`](crate::state::Checkup)s, where every pick reads it.

mod answer;
mod checker;
#[cfg(test)]
mod fixture;
mod grpc;
mod grpc_message;
mod h2;
mod http;
mod http2;
mod probe;
pub mod schedule;
mod streak;

use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinSet};

use crate::balance::Dice;
use crate::clock::{self, Instant};
use crate::config::{HealthCheck, HttpVersion, Name, OnDown};
use crate::proxy_protocol;
use crate::state::{BackendState, Health, Queue, Sessions, Snapshot};
use crate::tls::ClientTls;
use checker::{Shared, check, come_back};
pub use streak::{Finding, Streak, Transition};

/// For how long further cuts wait for each other: to wake every session is not cheap, and pools go down as a whole.
const CALM: Duration = Duration::from_millis(20);

/// How the sessions are woken whose backend went down: some are cut, and what waits for a response may go elsewhere.
type Wake = Box<dyn Fn() + Send>;

/// One backend that is asked.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What it is called in logs.
    pub name: Name,
    /// What is going on at it.
    pub state: Arc<BackendState>,
    /// Who waits for a place in its pool.
    pub queue: Arc<Queue>,
    /// How it is asked.
    pub check: Arc<HealthCheck>,
    /// Which PROXY header a connection to it begins with.
    pub announced: Option<proxy_protocol::Version>,
    /// What is agreed upon with it; `None`: it is spoken to in the clear.
    pub tls: Option<Arc<ClientTls>>,
    /// What its requests are spoken in.
    pub http_version: HttpVersion,
}

/// What is to be done under one configuration.
#[derive(Debug, Default)]
struct Order {
    subjects: Vec<Subject>,
    /// Those that nobody asks.
    unchecked: Vec<Arc<BackendState>>,
}

/// The checks of all backends. Dropping it ends them.
#[derive(Debug)]
pub struct Checkers {
    slots: usize,
    seed: u64,
    thread: Option<Thread>,
}

/// The thread, and how it is told. It ends when the orders do.
#[derive(Debug)]
struct Thread {
    orders: Option<watch::Sender<Arc<Order>>>,
    handle: Option<JoinHandle<()>>,
}

impl Checkers {
    /// Checks nothing yet. At most `slots` probes will be under way at once; `seed` decides what is left to chance.
    #[must_use]
    pub fn new(slots: usize, seed: u64) -> Checkers {
        Checkers { slots: slots.max(1), seed, thread: None }
    }

    /// Checks what `snapshot` says from now on. What it says as before goes on undisturbed. `wake` makes the sessions look
    /// whether they are cut; it is needed once, when the first check begins.
    ///
    /// # Errors
    /// The thread is needed and could not be made.
    pub fn follow(&mut self, snapshot: &Snapshot, wake: impl Fn() + Send + 'static) -> io::Result<()> {
        let order = Order::of(snapshot);
        if self.thread.is_none() && !order.subjects.is_empty() {
            self.thread = Some(Thread::start(self.slots, Box::new(wake), self.seed)?);
        }
        if let Some(orders) = self.thread.as_ref().and_then(|thread| thread.orders.as_ref()) {
            orders.send_replace(Arc::new(order));
        }
        Ok(())
    }
}

impl Order {
    fn of(snapshot: &Snapshot) -> Order {
        let subjects = snapshot.checked().filter_map(|(pool, backend)| {
            let check = Arc::clone(pool.health_check.as_ref()?);
            let (state, queue) = (Arc::clone(&backend.state), Arc::clone(&pool.queue));
            let (announced, tls) = (pool.send_proxy_protocol, pool.tls.clone());
            let (name, http_version) = (backend.name.clone(), pool.http_version);
            Some(Subject { name, state, queue, check, announced, tls, http_version })
        });
        Order { subjects: subjects.collect(), unchecked: snapshot.unchecked().cloned().collect() }
    }
}

impl Thread {
    fn start(slots: usize, wake: Wake, seed: u64) -> io::Result<Thread> {
        let (orders, received) = watch::channel(Arc::default());
        let (ready, started) = sync_channel(1);
        let handle = thread::Builder::new().name("health".to_owned()).spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            // Whoever waits for it has the error, or sees the channel closed.
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(error))),
            };
            let _ = ready.send(Ok(()));
            run(&runtime, received, wake, Shared::new(slots, Dice::seeded(seed)));
        })?;
        // A matter of microseconds: a runtime is made.
        started.recv().map_err(io::Error::other)??;
        Ok(Thread { orders: Some(orders), handle: Some(handle) })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.orders = None;
        // No step of it takes longer than to judge one answer. If it panicked, the log says so.
        let _ = self.handle.take().map(JoinHandle::join);
    }
}

fn run(runtime: &LocalRuntime, mut orders: watch::Receiver<Arc<Order>>, wake: Wake, shared: Rc<Shared>) {
    runtime.block_on(async move {
        let mut station = Station { shared: Rc::clone(&shared), lanes: HashMap::new(), tasks: JoinSet::new() };
        // Owned by the runtime, which ends with this.
        tokio::task::spawn_local(pass_on(shared, wake));
        loop {
            // Cancelling loses nothing: an order stays until it is looked at, and an ended task until it is reaped.
            tokio::select! {
                biased;
                changed = orders.changed() => match changed {
                    Ok(()) => {
                        let order = Arc::clone(&orders.borrow_and_update());
                        station.follow(&order);
                    }
                    Err(_) => return,
                },
                Some(ended) = station.tasks.join_next() => station.reap(ended),
            }
        }
    });
}

/// Wakes the sessions when a backend went down, for all that do at about the same time at once.
async fn pass_on(shared: Rc<Shared>, wake: Wake) {
    loop {
        shared.fallen.notified().await;
        wake();
        tokio::time::sleep(CALM).await;
    }
}

/// Who is asked, and by which task.
struct Station {
    shared: Rc<Shared>,
    lanes: HashMap<u64, Lane>,
    tasks: JoinSet<()>,
}

struct Lane {
    subject: Subject,
    task: AbortHandle,
}

impl Station {
    /// Leaves alone who is asked as before; begins and ends the rest.
    fn follow(&mut self, order: &Order) {
        let mut before = std::mem::take(&mut self.lanes);
        for subject in &order.subjects {
            match before.remove(&subject.state.id()) {
                Some(lane) if lane.subject.is_asked_like(subject) => {
                    self.lanes.insert(subject.state.id(), lane);
                }
                Some(lane) => {
                    lane.task.abort();
                    lane.subject.settle_for(subject);
                    self.begin(subject.clone());
                }
                None => self.begin(subject.clone()),
            }
        }
        before.values().for_each(|lane| lane.task.abort());
        let held_down = order.unchecked.iter().filter(|state| state.checkup().health() != Health::Up);
        for state in held_down {
            let before = state.checkup().health();
            if before.is_down() {
                come_back(state, before, clock::now());
            }
            state.checkup().say(Health::Up, Sessions::Kept);
        }
    }

    fn begin(&mut self, subject: Subject) {
        let checker = check(subject.clone(), Rc::clone(&self.shared), async |subject: &Subject| {
            let (address, tls) = (&subject.state.key().address, subject.tls.as_deref());
            probe::ask(&subject.check, address, subject.announced, tls, subject.http_version).await
        });
        let task = self.tasks.spawn_local(checker);
        self.lanes.insert(subject.state.id(), Lane { subject, task });
    }

    /// A checker ends only when it is told to. One that panicked is a fault of ours: its backend must not stay for ever as it
    /// was just then.
    fn reap(&mut self, ended: Result<(), JoinError>) {
        let Some(error) = ended.err().filter(JoinError::is_panic) else { return };
        let lane = self.lanes.values().find(|lane| lane.task.id() == error.id());
        if let Some(subject) = lane.map(|lane| lane.subject.clone()) {
            tracing::error!(backend = %subject.name, "a health probe panicked; the backend is asked on");
            self.begin(subject);
        }
    }
}

impl Subject {
    /// Says of the backend what its probes changed at `now`, and tells those whom it concerns: who waits for a response of one
    /// that went down, and who waits for a place. Where it was the last that worked, there is nothing to wait for any more.
    pub fn follow(&self, transition: Transition, now: Instant) {
        let checkup = self.state.checkup();
        if transition.is_turn() && !transition.to.is_down() {
            come_back(&self.state, transition.from, now);
        }
        checkup.say(transition.to, self.sessions(transition));
        if !transition.is_turn() {
            return;
        }
        checkup.note_change(now);
        if transition.to.is_down() {
            self.state.withdraw();
        }
        self.queue.call();
    }

    fn sessions(&self, transition: Transition) -> Sessions {
        let goes_down = transition.is_turn() && transition.to.is_down();
        if goes_down && self.check.on_down == OnDown::CloseSessions { Sessions::Cut } else { Sessions::Kept }
    }

    /// Whether nothing changes for the task that asks it.
    fn is_asked_like(&self, other: &Subject) -> bool {
        let same_tls = match (&self.tls, &other.tls) {
            (Some(own), Some(other)) => own.is_like(other),
            (own, other) => own.is_none() && other.is_none(),
        };
        let spoken = (self.announced, self.http_version) == (other.announced, other.http_version);
        let alike = self.name == other.name && spoken && same_tls;
        alike && (Arc::ptr_eq(&self.check, &other.check) || self.check == other.check)
    }

    /// What the old check said is kept until the new one has found out; what the old one counted is not the new one's.
    fn settle_for(&self, new: &Subject) {
        let checkup = new.state.checkup();
        if self.check != new.check {
            checkup.say(checkup.health().settled(), Sessions::Kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::{check as usual, subject};
    use super::*;

    fn station() -> Station {
        let shared = Shared::new(1, Dice::seeded(1));
        Station { shared, lanes: HashMap::new(), tasks: JoinSet::new() }
    }

    fn order(subjects: &[&Subject]) -> Order {
        Order { subjects: subjects.iter().map(|&subject| subject.clone()).collect(), unchecked: Vec::new() }
    }

    fn on_local(test: impl AsyncFnOnce()) {
        let mut runtime = Builder::new_current_thread();
        runtime.enable_all().start_paused(true).build_local(LocalOptions::default()).unwrap().block_on(test());
    }

    fn task(station: &Station, subject: &Subject) -> tokio::task::Id {
        station.lanes[&subject.state.id()].task.id()
    }

    #[test]
    fn who_is_asked_as_before_keeps_its_task_and_the_others_come_and_go() {
        on_local(async || {
            let mut station = station();
            let (kept, gone, new) = (subject(1, usual()), subject(2, usual()), subject(3, usual()));
            station.follow(&order(&[&kept, &gone]));
            let (first, ended) = (task(&station, &kept), station.lanes[&2].task.clone());
            let alike = Subject { check: Arc::new(usual()), ..kept.clone() };
            station.follow(&order(&[&new, &alike]));
            assert_eq!(task(&station, &kept), first);
            assert_eq!(station.lanes.len(), 2);
            assert!(station.tasks.join_next().await.unwrap().unwrap_err().is_cancelled());
            assert!(ended.is_finished());
        });
    }

    #[test]
    fn a_changed_check_keeps_up_and_down_and_counts_anew() {
        on_local(async || {
            let mut station = station();
            let (rising, falling) = (subject(1, usual()), subject(2, usual()));
            station.follow(&order(&[&rising, &falling]));
            rising.state.checkup().say(Health::GoingUp { successes: 1, rise: 2 }, Sessions::Kept);
            falling.state.checkup().say(Health::GoingDown { failures: 2, fall: 3 }, Sessions::Kept);
            let first = task(&station, &rising);
            let changed = |subject: &Subject| {
                let check = HealthCheck { interval: Duration::from_secs(9), ..usual() };
                Subject { check: Arc::new(check), ..subject.clone() }
            };
            station.follow(&order(&[&changed(&rising), &changed(&falling)]));
            assert_ne!(task(&station, &rising), first);
            let said = |subject: &Subject| subject.state.checkup().health();
            assert_eq!((said(&rising), said(&falling)), (Health::Down, Health::Up));
        });
    }

    #[test]
    fn a_new_name_alone_counts_nothing_anew() {
        on_local(async || {
            let mut station = station();
            let falling = subject(1, usual());
            station.follow(&order(&[&falling]));
            let counted = Health::GoingDown { failures: 2, fall: 3 };
            falling.state.checkup().say(counted, Sessions::Kept);
            station.follow(&order(&[&Subject { name: "b".into(), ..falling.clone() }]));
            assert_eq!(falling.state.checkup().health(), counted);
        });
    }

    #[test]
    fn a_backend_that_nobody_asks_any_more_counts_as_up() {
        on_local(async || {
            let mut station = station();
            let (unchecked, removed) = (subject(1, usual()), subject(2, usual()));
            station.follow(&order(&[&unchecked, &removed]));
            for subject in [&unchecked, &removed] {
                subject.state.checkup().say(Health::Down, Sessions::Kept);
            }
            station.follow(&Order { subjects: Vec::new(), unchecked: vec![Arc::clone(&unchecked.state)] });
            assert_eq!(unchecked.state.checkup().health(), Health::Up);
            assert!(unchecked.state.came_back().is_some() && removed.state.came_back().is_none());
            assert_eq!(removed.state.checkup().health(), Health::Down, "it may be put back");
        });
    }

    #[test]
    fn a_checker_that_panicked_is_begun_again() {
        on_local(async || {
            let mut station = station();
            let subject = subject(1, usual());
            let task = station.tasks.spawn_local(async { panic!("on purpose") });
            station.lanes.insert(1, Lane { subject: subject.clone(), task });
            let ended = station.tasks.join_next().await.unwrap();
            station.reap(ended);
            assert!(!station.lanes[&1].task.is_finished());
        });
    }

    #[test]
    fn sessions_that_are_cut_together_are_woken_together() {
        on_local(async || {
            let (shared, woken) = (Shared::new(1, Dice::seeded(1)), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
            let counting = Arc::clone(&woken);
            // The counter is read when nothing else runs.
            let order = std::sync::atomic::Ordering::Relaxed;
            let wake: Wake = Box::new(move || {
                counting.fetch_add(1, order);
            });
            tokio::task::spawn_local(pass_on(Rc::clone(&shared), wake));
            for _ in 0..1000 {
                shared.fallen.notify_one();
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(2 * CALM).await;
            assert!((1..=2).contains(&woken.load(order)), "{woken:?}");
        });
    }

    #[test]
    fn no_thread_is_made_for_nothing_and_one_ends_with_its_owner() {
        let config = |check: &str| {
            let text = format!(
                "listeners.w = {{ bind = '127.0.0.1:0', pool = 'p' }}\npools.p = {{ backends = ['127.0.0.1:1']{check} }}"
            );
            Snapshot::next(
                &crate::config::from_text("test.toml", &text).unwrap().config,
                &crate::tls::Materials::default(),
                None,
            )
        };
        let mut checkers = Checkers::new(1, 1);
        checkers.follow(&config(""), || {}).unwrap();
        assert!(checkers.thread.is_none());
        checkers.follow(&config(", health_check = 'tcp'"), || {}).unwrap();
        assert!(checkers.thread.is_some());
        drop(checkers);
    }
}
