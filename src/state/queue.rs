//! Who waits for a place at a pool's backends, and who is called next.
//!
//! A request that finds every backend that could serve it at its limit joins its pool's queue. From then on every release of
//! a backend of the pool says that it is awaited ([`BackendState::release`]), and the first in the queue who was not called
//! yet is called, on whichever worker it is. It is called, not served: it picks a backend itself, with its own worker's
//! picker, as every request does. Until then newcomers take no place that a limit leaves free, so nobody overtakes it.
//!
//! No call is lost. Whoever can not follow one (its client left at that moment) hands it on; whoever followed it in vain
//! (what is free is a backend it has tried already) leaves it to those behind; whoever is served and leaves room calls
//! the next. And no place is lost to a call that came too early: one who waits is called again by every later release.
//!
//! The queue is the one lock on the way of a request. It is touched only where a limit is reached, and never held while
//! anything is waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use super::backend::{Backend, BackendState};
use crate::sync::{Mutex, MutexGuard};

/// The queue of one pool, over all workers and all configurations that name the pool.
#[derive(Debug)]
pub struct Queue {
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    /// By the number of their arrival.
    places: BTreeMap<u64, Waiting>,
    /// Those of them that were called and have not followed yet.
    called: BTreeSet<u64>,
    next: u64,
    /// Whose releases say that they are awaited, by their id.
    awaited: BTreeMap<u64, Arc<BackendState>>,
    /// The backends whose states were put there last.
    of: Option<Arc<[Backend]>>,
}

#[derive(Default)]
struct Waiting {
    waker: Option<Waker>,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiting")
    }
}

impl Default for Queue {
    fn default() -> Self {
        Queue { line: Mutex::new(Line::default()) }
    }
}

impl Queue {
    /// A place behind all others, unless `most` wait already. `sees_room` says that a backend has room that is kept for
    /// those in the queue.
    pub(super) fn join(self: &Arc<Queue>, backends: &Arc<[Backend]>, most: usize, sees_room: bool) -> Option<Place> {
        let mut line = self.lock();
        if line.places.len() >= most {
            return None;
        }
        let number = line.next;
        line.next += 1;
        line.places.insert(number, Waiting::default());
        // In this order: a release that comes after the mark finds the place in the queue.
        let has_room = line.await_releases(backends) || sees_room;
        // Room that nobody was called for is what those before could not use. They are asked in turn, this one last.
        let waker = if has_room && line.called.is_empty() { line.call_behind(0) } else { None };
        drop(line);
        wake(waker);
        Some(Place { queue: Arc::clone(self), number, state: Following::No })
    }

    /// There may be room now: the first who was not called yet is called. For whoever gives a place back, and for whatever
    /// puts a backend back into use.
    pub fn call(&self) {
        let waker = self.lock().call_behind(0);
        wake(waker);
    }

    /// Calls everybody: what they wait for is no more.
    pub(super) fn call_all(&self) {
        let mut line = self.lock();
        let numbers: Vec<u64> = line.places.keys().copied().collect();
        line.called.extend(numbers);
        let wakers: Vec<Waker> = line.places.values_mut().filter_map(|waiting| waiting.waker.take()).collect();
        drop(line);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lock().places.len()
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        // Nothing in here panics half-way; if it ever did, what is there is still a queue.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Line {
    /// Calls the first from `number` on who was not called yet.
    #[must_use = "who is called must be woken"]
    fn call_behind(&mut self, number: u64) -> Option<Waker> {
        let Line { places, called, .. } = self;
        let (number, waiting) = places.range_mut(number..).find(|(number, _)| !called.contains(number))?;
        called.insert(*number);
        waiting.waker.take()
    }

    /// Sees to it that releases of these backends are awaited; true when that is new and one could be taken.
    fn await_releases(&mut self, backends: &Arc<[Backend]>) -> bool {
        if self.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, backends)) {
            return false;
        }
        // Without those that left meanwhile the list is never longer than what is in use. One that is left out and comes back
        // must not believe that it is awaited: nobody would ever tell it otherwise.
        self.awaited.retain(|_, state| {
            let is_drained = state.is_drained();
            if is_drained {
                state.await_no_more();
            }
            !is_drained
        });
        let mut has_room = false;
        for backend in &**backends {
            has_room |= backend.state.await_release(backend.limit);
            self.awaited.insert(backend.state.id(), Arc::clone(&backend.state));
        }
        self.of = Some(Arc::clone(backends));
        has_room
    }

    fn leave(&mut self, number: u64) {
        self.places.remove(&number);
        self.called.remove(&number);
        if self.places.is_empty() {
            std::mem::take(&mut self.awaited).values().for_each(|state| state.await_no_more());
            self.of = None;
        }
    }
}

/// A place in a queue. Dropping it leaves the queue.
#[derive(Debug)]
#[must_use = "dropping it leaves the queue at once"]
pub struct Place {
    queue: Arc<Queue>,
    number: u64,
    state: Following,
}

/// Whether a call is being followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Following {
    No,
    Yes,
    /// It led to a backend: the place is given up.
    Served,
}

impl Place {
    /// Ready when called. Then it is tried to take a backend.
    pub fn poll_called(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut line = self.queue.lock();
        if line.called.remove(&self.number) {
            self.state = Following::Yes;
            return Poll::Ready(());
        }
        if let Some(waiting) = line.places.get_mut(&self.number) {
            match &waiting.waker {
                Some(waker) if waker.will_wake(cx.waker()) => {}
                _ => waiting.waker = Some(cx.waker().clone()),
            }
        }
        Poll::Pending
    }

    /// Whether it is a place in this queue.
    pub(super) fn is_in(&self, queue: &Arc<Queue>) -> bool {
        Arc::ptr_eq(&self.queue, queue)
    }

    /// How many before it were called and have not followed yet: so many places are theirs.
    pub(super) fn called_before(&self) -> usize {
        self.queue.lock().called.range(..self.number).count()
    }

    /// One of these was taken, and so much room is left: gives up the place and calls the next if it is for him.
    pub(super) fn served(&mut self, backends: &Arc<[Backend]>, room: usize) {
        self.state = Following::Served;
        let mut line = self.queue.lock();
        line.leave(self.number);
        // Who is left may know nothing of backends that a reload has brought, and there may be room before they are awaited.
        let has_room = !line.places.is_empty() && line.await_releases(backends);
        let waker = if has_room || room > line.called.len() { line.call_behind(0) } else { None };
        drop(line);
        wake(waker);
    }

    /// None of these could be taken, though there is so much room; true when it has to be tried once more, because their
    /// releases are awaited only from now on.
    pub(super) fn refused(&mut self, backends: &Arc<[Backend]>, room: usize) -> bool {
        self.state = Following::No;
        let mut line = self.queue.lock();
        if line.await_releases(backends) {
            return true;
        }
        // Called again meanwhile: what is free now may be for this one.
        let waker = match room > line.called.len() {
            true => line.call_behind(self.number + 1),
            false => None,
        };
        drop(line);
        wake(waker);
        false
    }

    /// It waits no longer, and not for want of room: the call is for the next, who may fare better or as well not wait.
    pub(super) fn give_up(&mut self) {
        self.state = Following::Yes;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.state == Following::Served {
            return;
        }
        let mut line = self.queue.lock();
        let owes_a_call = self.state == Following::Yes || line.called.contains(&self.number);
        line.leave(self.number);
        let waker = if owes_a_call { line.call_behind(0) } else { None };
        drop(line);
        wake(waker);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::time::{Duration, Instant as Clock};

    use proptest::prelude::*;

    use super::super::fixture::{backend, of_pools, pool};
    use super::super::{Health, Lease, PoolId, Sessions, Snapshot, View, Why};
    use super::*;
    use crate::balance::{Dice, Tried};
    use crate::clock::Instant;
    use crate::config::{self, Policy};

    const T0: Instant = Instant::ORIGIN;

    /// How often somebody was woken.
    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn limited(limits: &[u32]) -> config::Pool {
        let backend =
            |(port, limit): (u16, &u32)| config::Backend { max_connections: NonZeroU32::new(*limit), ..backend(port) };
        pool("app", Policy::LeastConnections, (1..).zip(limits).map(backend).collect())
    }

    fn snapshot(limits: &[u32], most: usize, previous: Option<&Snapshot>) -> Arc<Snapshot> {
        let snapshot = Snapshot::next(
            &of_pools(vec![config::Pool { queue: most, ..limited(limits) }]),
            &crate::tls::Materials::default(),
            previous,
        );
        snapshot.settle();
        Arc::new(snapshot)
    }

    /// A worker, and what it does for those who come to it.
    struct Worker {
        view: View,
        pool: PoolId,
        dice: Dice,
    }

    impl Worker {
        fn new(snapshot: &Arc<Snapshot>, seed: u64) -> Worker {
            let pool = snapshot.pool_id("app").unwrap();
            Worker { view: View::new(Arc::clone(snapshot), None, 0, seed), pool, dice: Dice::seeded(seed) }
        }

        fn come(&mut self, tried: &mut Tried) -> Result<Lease, Option<Place>> {
            let taken = self.view.take(self.pool, T0, 0, tried, &mut self.dice);
            taken.map(|taken| taken.lease).map_err(|none| self.view.join(self.pool, &none))
        }

        fn follow(&mut self, place: &mut Place, tried: &mut Tried) -> Result<Lease, Why> {
            let taken = self.view.take_waiting(self.pool, place, T0, 0, tried, &mut self.dice);
            taken.map(|taken| taken.lease).map_err(|none| none.why)
        }

        fn waits(&mut self) -> Place {
            self.come(&mut Tried::default()).unwrap_err().expect("there is room in the queue")
        }

        fn queue(&self) -> &Arc<Queue> {
            &self.view.pool(self.pool).queue
        }

        fn in_flight(&self) -> Vec<u32> {
            self.view.pool(self.pool).backends.iter().map(|backend| backend.state.in_flight()).collect()
        }
    }

    fn is_called(place: &mut Place) -> bool {
        place.poll_called(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn none_tried() -> Tried {
        Tried::default()
    }

    #[test]
    fn who_waits_is_woken_by_a_release_on_another_worker_and_nobody_overtakes() {
        let snapshot = snapshot(&[1], 10, None);
        let (mut one, mut other) = (Worker::new(&snapshot, 1), Worker::new(&snapshot, 2));
        let held = one.come(&mut none_tried()).unwrap();
        let mut first = other.waits();
        let bell = Arc::new(Bell::default());
        assert!(first.poll_called(&mut Context::from_waker(&Waker::from(bell.clone()))).is_pending());
        drop(held);
        assert_eq!(bell.0.load(Ordering::SeqCst), 1);
        let mut second = one.waits();
        assert!(!is_called(&mut second), "the place that is free is the first one's");
        assert!(is_called(&mut first));
        let held = other.follow(&mut first, &mut none_tried()).unwrap();
        assert!(!is_called(&mut second));
        drop(held);
        assert!(is_called(&mut second));
        let held = one.follow(&mut second, &mut none_tried()).unwrap();
        assert_eq!((one.queue().waiting(), one.in_flight()), (0, vec![1]));
        drop(held);
        assert!(one.come(&mut none_tried()).is_ok(), "with nobody waiting all is as before");
    }

    #[test]
    fn a_call_that_is_not_followed_is_handed_on() {
        let snapshot = snapshot(&[1], 10, None);
        let mut worker = Worker::new(&snapshot, 1);
        let held = worker.come(&mut none_tried()).unwrap();
        let (called, mut following, mut last) = (worker.waits(), worker.waits(), worker.waits());
        drop(held);
        drop(called);
        assert!(is_called(&mut following));
        drop(following);
        assert!(is_called(&mut last), "also by one who was about to");
        assert!(worker.follow(&mut last, &mut none_tried()).is_ok());
    }

    #[test]
    fn who_can_not_use_what_is_free_leaves_it_to_those_behind() {
        let snapshot = snapshot(&[1, 1], 10, None);
        let mut worker = Worker::new(&snapshot, 1);
        let held = [worker.come(&mut none_tried()).unwrap(), worker.come(&mut none_tried()).unwrap()];
        let mut tried = none_tried();
        tried.add(0);
        let Err(Some(mut picky)) = worker.come(&mut tried) else { panic!("all are full") };
        let mut easy = worker.waits();
        let [a, b] = held;
        let (first, second) = if a.backend().name.as_ref() == "1" { (a, b) } else { (b, a) };
        drop(first);
        assert!(is_called(&mut picky) && !is_called(&mut easy));
        assert_eq!(worker.follow(&mut picky, &mut tried).unwrap_err(), Why::Full);
        assert!(is_called(&mut easy));
        let _first = worker.follow(&mut easy, &mut none_tried()).unwrap();
        drop(second);
        assert!(is_called(&mut picky), "it has kept its place");
        assert!(worker.follow(&mut picky, &mut tried).is_ok());
    }

    #[test]
    fn room_that_nobody_in_the_queue_can_use_is_for_a_newcomer() {
        let snapshot = snapshot(&[1, 1], 10, None);
        let mut worker = Worker::new(&snapshot, 1);
        let held = [worker.come(&mut none_tried()).unwrap(), worker.come(&mut none_tried()).unwrap()];
        let mut tried = none_tried();
        tried.add(0);
        let Err(Some(mut picky)) = worker.come(&mut tried) else { panic!("all are full") };
        let (first, _second): (Vec<Lease>, Vec<Lease>) =
            held.into_iter().partition(|lease| lease.backend().name.as_ref() == "1");
        drop(first);
        assert!(is_called(&mut picky));
        assert_eq!(worker.follow(&mut picky, &mut tried).unwrap_err(), Why::Full);
        let mut newcomer = worker.waits();
        assert!(is_called(&mut picky), "everybody is asked in turn");
        assert_eq!(worker.follow(&mut picky, &mut tried).unwrap_err(), Why::Full);
        assert!(is_called(&mut newcomer));
        assert!(worker.follow(&mut newcomer, &mut none_tried()).is_ok());
    }

    #[test]
    fn a_full_queue_takes_nobody_and_one_of_no_length_never_does() {
        let first = snapshot(&[1], 1, None);
        let mut worker = Worker::new(&first, 1);
        let _held = worker.come(&mut none_tried()).unwrap();
        let place = worker.waits();
        assert!(worker.come(&mut none_tried()).unwrap_err().is_none());
        drop(place);
        assert!(worker.come(&mut none_tried()).unwrap_err().is_some(), "who leaves frees the place");
        let second = snapshot(&[1], 0, Some(&first));
        assert!(Worker::new(&second, 1).come(&mut none_tried()).unwrap_err().is_none());
    }

    #[test]
    fn beside_a_full_queue_there_may_be_room_for_one_more() {
        let snapshot = snapshot(&[2], 1, None);
        let mut worker = Worker::new(&snapshot, 1);
        let held = [worker.come(&mut none_tried()).unwrap(), worker.come(&mut none_tried()).unwrap()];
        let mut place = worker.waits();
        let [one, other] = held;
        drop(one);
        assert!(worker.come(&mut none_tried()).unwrap_err().is_none(), "that place is for who waits");
        drop(other);
        let _held = worker.come(&mut none_tried()).expect("the other is not");
        assert!(worker.come(&mut none_tried()).unwrap_err().is_none());
        assert!(is_called(&mut place));
        assert!(worker.follow(&mut place, &mut none_tried()).is_ok());
    }

    #[test]
    fn a_reload_that_makes_room_calls_one_after_the_other() {
        let first = snapshot(&[1], 10, None);
        let mut worker = Worker::new(&first, 1);
        let _held = worker.come(&mut none_tried()).unwrap();
        let mut places = [worker.waits(), worker.waits(), worker.waits(), worker.waits()];
        let second = snapshot(&[3], 10, Some(&first));
        second.call_waiting();
        let mut worker = Worker::new(&second, 1);
        let mut held = Vec::new();
        for place in &mut places[..2] {
            assert!(is_called(place));
            held.push(worker.follow(place, &mut none_tried()).unwrap());
        }
        assert!(!is_called(&mut places[2]), "that is all the room there is");
        let third = snapshot(&[0], 10, Some(&second));
        third.call_waiting();
        let mut worker = Worker::new(&third, 1);
        for place in &mut places[2..] {
            assert!(is_called(place), "there is no limit any more");
            held.push(worker.follow(place, &mut none_tried()).unwrap());
        }
        assert_eq!(worker.in_flight(), [5]);
    }

    #[test]
    fn a_new_backend_is_awaited_from_the_first_look_at_it_on() {
        let first = snapshot(&[1], 10, None);
        let mut worker = Worker::new(&first, 1);
        let _held = worker.come(&mut none_tried()).unwrap();
        let mut place = worker.waits();
        let second = snapshot(&[1, 1], 10, Some(&first));
        let mut worker = Worker::new(&second, 1);
        let newcomer = worker.come(&mut none_tried()).expect("nobody knows of the new one yet");
        second.call_waiting();
        assert!(is_called(&mut place));
        assert_eq!(worker.follow(&mut place, &mut none_tried()).unwrap_err(), Why::Full);
        drop(newcomer);
        assert!(is_called(&mut place));
    }

    #[test]
    fn one_that_was_away_while_somebody_waited_is_for_anybody_when_it_is_back() {
        let app = |service, previous: Option<&Snapshot>| {
            let mut pool = config::Pool { queue: 10, ..limited(&[1, 1]) };
            pool.backends[1].service = service;
            let snapshot = Snapshot::next(&of_pools(vec![pool]), &crate::tls::Materials::default(), previous);
            snapshot.settle();
            Arc::new(snapshot)
        };
        let first = app(config::Service::Active, None);
        let mut worker = Worker::new(&first, 1);
        let held = [worker.come(&mut none_tried()).unwrap(), worker.come(&mut none_tried()).unwrap()];
        let mut place = worker.waits();
        let second = app(config::Service::Maintenance, Some(&first));
        let mut worker = Worker::new(&second, 1);
        let (away, here): (Vec<Lease>, Vec<Lease>) =
            held.into_iter().partition(|lease| lease.backend().name.as_ref() == "2");
        drop(away);
        assert!(is_called(&mut place));
        assert_eq!(worker.follow(&mut place, &mut none_tried()).unwrap_err(), Why::Full);
        drop(here);
        assert!(is_called(&mut place));
        let _here = worker.follow(&mut place, &mut none_tried()).unwrap();
        let third = app(config::Service::Active, Some(&second));
        assert!(Worker::new(&third, 1).come(&mut none_tried()).is_ok(), "nobody waits");
    }

    #[test]
    fn when_the_pool_is_gone_all_are_called() {
        let first = snapshot(&[1], 10, None);
        let mut worker = Worker::new(&first, 1);
        let _held = worker.come(&mut none_tried()).unwrap();
        let mut places = [worker.waits(), worker.waits()];
        let second = Snapshot::next(&of_pools(Vec::new()), &crate::tls::Materials::default(), Some(&first));
        second.call_waiting();
        assert!(places.iter_mut().all(is_called));
        let third = snapshot(&[1], 10, Some(&second));
        assert!(Arc::ptr_eq(Worker::new(&third, 1).queue(), worker.queue()), "a name keeps its queue");
    }

    #[test]
    fn when_the_last_that_works_goes_down_one_after_the_other_is_told() {
        let mut pool = limited(&[1]);
        pool.fail_open = false;
        let snapshot = Arc::new(Snapshot::next(&of_pools(vec![pool]), &crate::tls::Materials::default(), None));
        let mut worker = Worker::new(&snapshot, 1);
        let _held = worker.come(&mut none_tried()).unwrap();
        let places = [worker.waits(), worker.waits(), worker.waits()];
        let state = &worker.view.pool(worker.pool).backends[0].state;
        state.checkup().say(Health::Down, Sessions::Kept);
        worker.queue().call();
        for mut place in places {
            assert!(is_called(&mut place));
            assert_eq!(worker.follow(&mut place, &mut none_tried()).unwrap_err(), Why::NoneUsable);
        }
        assert_eq!(worker.queue().waiting(), 0);
    }

    #[test]
    fn one_that_is_down_takes_nobody_while_one_that_works_is_merely_full() {
        let drained = config::Backend { service: config::Service::Drain, ..backend(9) };
        let mut pool = limited(&[1]);
        pool.backends.push(drained);
        let snapshot = Arc::new(Snapshot::next(&of_pools(vec![pool]), &crate::tls::Materials::default(), None));
        snapshot.settle();
        let mut worker = Worker::new(&snapshot, 1);
        let held = worker.come(&mut none_tried()).unwrap();
        let mut place = worker.waits();
        assert!(!is_called(&mut place), "the drained one has no room for anybody");
        drop(held);
        assert!(is_called(&mut place));
    }

    #[test]
    fn places_at_those_that_are_down_are_none_where_they_are_not_tried() {
        let app = config::Pool { queue: 10, fail_open: false, ..limited(&[1, 1]) };
        let pool = Snapshot::next(&of_pools(vec![app]), &crate::tls::Materials::default(), None);
        pool.settle();
        let mut worker = Worker::new(&Arc::new(pool), 1);
        let held = worker.come(&mut none_tried()).unwrap();
        let pool = worker.view.pool(worker.pool);
        assert_eq!(pool.room(T0), 1);
        for backend in &*pool.backends {
            backend.state.checkup().say(Health::Down, Sessions::Kept);
        }
        assert_eq!(pool.room(T0), 0);
        drop(held);
    }

    /// What one may do next; numbers choose among those whom it can happen to.
    #[derive(Clone, Debug)]
    enum Step {
        Comes(usize),
        Finishes(usize),
        Leaves(usize),
        /// One who was called follows, in whatever order.
        Follows(usize),
        Reloads(Vec<u32>),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..3usize).prop_map(Step::Comes),
            4 => any::<usize>().prop_map(Step::Finishes),
            1 => any::<usize>().prop_map(Step::Leaves),
            5 => any::<usize>().prop_map(Step::Follows),
            1 => prop::collection::vec(1..4u32, 1..4).prop_map(Step::Reloads),
        ]
    }

    struct Waiter {
        number: usize,
        worker: usize,
        place: Place,
        bell: Arc<Bell>,
        heard: usize,
    }

    /// All that happens to one pool.
    struct Play {
        snapshot: Arc<Snapshot>,
        workers: Vec<Worker>,
        waiters: Vec<Waiter>,
        held: Vec<Lease>,
        /// The numbers of those who have waited and were served.
        served: Vec<usize>,
        arrivals: usize,
        most: usize,
        reloaded: bool,
    }

    impl Play {
        fn new(limits: &[u32], most: usize) -> Play {
            let snapshot = snapshot(limits, most, None);
            let workers = (0..3).map(|seed| Worker::new(&snapshot, seed)).collect();
            Play {
                snapshot,
                workers,
                waiters: Vec::new(),
                held: Vec::new(),
                served: Vec::new(),
                arrivals: 0,
                most,
                reloaded: false,
            }
        }

        fn act(&mut self, step: Step) {
            let of = |count: usize, choice: usize| (count > 0).then(|| choice % count);
            match step {
                Step::Comes(worker) => self.comes(worker),
                Step::Finishes(choice) => drop(of(self.held.len(), choice).map(|nth| self.held.swap_remove(nth))),
                Step::Leaves(choice) => drop(of(self.waiters.len(), choice).map(|nth| self.waiters.remove(nth))),
                Step::Follows(choice) => drop(of(self.waiters.len(), choice).map(|nth| self.follows(nth))),
                Step::Reloads(limits) => {
                    self.reloaded = true;
                    self.snapshot = snapshot(&limits, self.most, Some(&self.snapshot));
                    self.workers = (0..3).map(|seed| Worker::new(&self.snapshot, seed)).collect();
                    self.snapshot.call_waiting();
                }
            }
        }

        fn comes(&mut self, worker: usize) {
            let number = self.arrivals;
            self.arrivals += 1;
            let spare = self.waiters.len() >= self.most && self.room() > self.waiters.len();
            match self.workers[worker].come(&mut Tried::default()) {
                Ok(lease) => {
                    self.held.push(lease);
                    // A backend that is new with a reload is not awaited before the first who waits has looked at it.
                    assert!(self.waiters.is_empty() || self.reloaded || spare, "nobody overtakes");
                }
                Err(Some(place)) => {
                    self.waiters.push(Waiter { number, worker, place, bell: Arc::default(), heard: 0 });
                    self.polls(self.waiters.len() - 1);
                }
                Err(None) => assert_eq!(self.waiters.len(), self.most, "only a full queue sends away"),
            }
        }

        /// One looks whether it was called, as when its task begins to wait.
        fn polls(&mut self, nth: usize) {
            let waiter = &mut self.waiters[nth];
            let waker = Waker::from(waiter.bell.clone());
            if waiter.place.poll_called(&mut Context::from_waker(&waker)).is_ready() {
                self.tries(nth);
            }
        }

        /// One does what it was woken for; true when it was.
        fn follows(&mut self, nth: usize) -> bool {
            let woken = self.waiters[nth].is_woken();
            if woken {
                let waiter = &mut self.waiters[nth];
                waiter.heard = waiter.bell.0.load(Ordering::SeqCst);
                self.polls(nth);
            }
            woken
        }

        fn tries(&mut self, nth: usize) {
            let waiter = &mut self.waiters[nth];
            match self.workers[waiter.worker].follow(&mut waiter.place, &mut Tried::default()) {
                Ok(lease) => {
                    self.held.push(lease);
                    self.served.push(self.waiters.remove(nth).number);
                }
                Err(why) => {
                    assert_eq!(why, Why::Full);
                    self.polls(nth);
                }
            }
        }

        fn limits(&self) -> Vec<u32> {
            let pool = self.workers[0].view.pool(self.workers[0].pool);
            pool.backends.iter().map(|backend| backend.limit.map_or(u32::MAX, NonZeroU32::get)).collect()
        }

        /// Everybody who was woken does what he was woken for, the last first.
        fn quiet(&mut self) {
            while let Some(nth) = self.waiters.iter().rposition(Waiter::is_woken) {
                self.follows(nth);
            }
        }

        fn room(&self) -> usize {
            self.workers[0].view.pool(self.workers[0].pool).room(T0)
        }
    }

    impl Waiter {
        fn is_woken(&self) -> bool {
            self.bell.0.load(Ordering::SeqCst) > self.heard
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_waiter_is_lost_none_overtaken_no_limit_exceeded_and_all_sums_end_at_zero(
            limits in prop::collection::vec(1..4u32, 1..4), most in 0..6usize,
            steps in prop::collection::vec(any_step(), 0..80), quiet: bool,
        ) {
            let mut play = Play::new(&limits, most);
            for step in steps {
                play.act(step);
                if !play.reloaded {
                    for (in_flight, limit) in play.workers[0].in_flight().into_iter().zip(play.limits()) {
                        prop_assert!(in_flight <= limit);
                    }
                }
                if quiet {
                    play.quiet();
                    prop_assert!(play.waiters.is_empty() || play.room() == 0, "nobody waits while there is room");
                    let first = play.waiters.first().map_or(usize::MAX, |waiter| waiter.number);
                    prop_assert!(play.served.drain(..).all(|number| number < first), "who came first is served first");
                }
            }
            play.quiet();
            prop_assert!(play.waiters.is_empty() || play.room() == 0, "nobody waits while there is room");
            while !play.waiters.is_empty() {
                prop_assert!(!play.held.is_empty(), "those who wait would wait for ever");
                let waiting = play.waiters.len();
                let first = play.waiters[0].number;
                play.held.pop();
                play.quiet();
                if play.waiters.len() < waiting {
                    prop_assert!(play.waiters.iter().all(|waiter| waiter.number > first), "the first is served first");
                }
            }
            play.held.clear();
            let worker = &mut play.workers[0];
            prop_assert!(worker.in_flight().iter().all(|in_flight| *in_flight == 0));
            prop_assert_eq!(worker.queue().waiting(), 0);
            prop_assert!(worker.come(&mut Tried::default()).is_ok(), "all is as before");
        }
    }

    #[test]
    fn workers_that_race_lose_nobody() {
        const ROUNDS: usize = 3_000;
        let snapshot = snapshot(&[1, 2], 10, None);
        let over = Clock::now() + Duration::from_secs(60);
        let work = |seed| {
            let (mut worker, mut dice) = (Worker::new(&snapshot, seed), Dice::seeded(seed));
            let (mut waited, limits) = (0, [1, 2]);
            for _ in 0..ROUNDS {
                let lease = match worker.come(&mut Tried::default()) {
                    Ok(lease) => Some(lease),
                    Err(place) => {
                        let mut place = place.expect("four workers are no ten");
                        waited += 1;
                        let gives_up = dice.below(10) == 0;
                        let waker = Waker::from(Arc::new(Thread(std::thread::current())));
                        loop {
                            assert!(Clock::now() < over, "a call was lost");
                            if place.poll_called(&mut Context::from_waker(&waker)).is_ready() {
                                match worker.follow(&mut place, &mut Tried::default()) {
                                    _ if gives_up => break None,
                                    Ok(lease) => break Some(lease),
                                    Err(_) => continue,
                                }
                            }
                            std::thread::park_timeout(Duration::from_secs(61));
                        }
                    }
                };
                let in_flight = worker.in_flight();
                assert!(in_flight.iter().zip(limits).all(|(in_flight, limit)| *in_flight <= limit), "{in_flight:?}");
                std::thread::yield_now();
                drop(lease);
            }
            waited
        };
        let waited: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|seed| scope.spawn(move || work(seed))).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        let mut worker = Worker::new(&snapshot, 9);
        assert_eq!((worker.in_flight(), worker.queue().waiting()), (vec![0, 0], 0), "{waited} have waited");
        assert!(worker.come(&mut Tried::default()).is_ok());
    }

    struct Thread(std::thread::Thread);

    impl Wake for Thread {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    /// Run as the models of `backend.rs` are.
    #[cfg(evenkeel_loom)]
    mod loom_models {
        use super::super::super::backend::{BackendKey, BackendState, Transport};
        use super::super::super::lease::{Hold, Latency};
        use super::super::super::{Lease, Turn};
        use super::*;
        use crate::breaker::Entry;
        use crate::config::{Address, Service};
        use loom::thread;

        /// A backend with one place, and its queue.
        fn pool() -> (Arc<[Backend]>, Arc<Queue>) {
            let key = BackendKey {
                pool: "app".into(),
                address: Address::Unix("/run/app".into()),
                transport: Transport::Plain,
            };
            let backend = Backend {
                name: "a".into(),
                weight: 1,
                limit: NonZeroU32::new(1),
                backup: false,
                service: Service::Active,
                slow_start: None,
                breaker: None,
                state: Arc::new(BackendState::new(0, key)),
            };
            ([backend].into(), Arc::default())
        }

        fn hold(pool: &(Arc<[Backend]>, Arc<Queue>)) -> Hold {
            Hold::new(Arc::clone(&pool.0), Latency::Unread, Arc::clone(&pool.1), 0)
        }

        /// What a worker does for one who comes: the lease, or a place that is not called yet.
        fn come(pool: &(Arc<[Backend]>, Arc<Queue>)) -> Result<Lease, Place> {
            if let Ok(lease) = hold(pool).take(0, T0, Turn::Newcomer, Entry::Asked) {
                return Ok(lease);
            }
            let mut place = pool.1.join(&pool.0, 9, false).expect("there is room in the queue");
            follow(pool, &mut place).ok_or(place)
        }

        /// The lease, if the place was called and there is one.
        fn follow(pool: &(Arc<[Backend]>, Arc<Queue>), place: &mut Place) -> Option<Lease> {
            while is_called(place) {
                let taken = hold(pool).take(0, T0, Turn::Waiter, Entry::Asked);
                let room = pool.0[0].room();
                match taken {
                    Ok(lease) => {
                        place.served(&pool.0, room);
                        return Some(lease);
                    }
                    Err(_) => drop(place.refused(&pool.0, room)),
                }
            }
            None
        }

        #[test]
        fn who_joins_while_the_place_becomes_free_gets_it() {
            loom::model(|| {
                let pool = Arc::new(pool());
                let held = come(&pool).ok();
                let other = {
                    let pool = Arc::clone(&pool);
                    thread::spawn(move || come(&pool).err())
                };
                drop(held);
                if let Some(mut place) = other.join().unwrap() {
                    assert!(follow(&pool, &mut place).is_some(), "it would wait for ever");
                }
                assert_eq!((pool.0[0].state.in_flight(), pool.1.waiting()), (0, 0));
            });
        }

        #[test]
        fn a_waiter_who_leaves_as_he_is_called_leaves_the_call_to_the_next() {
            loom::model(|| {
                let pool = Arc::new(pool());
                let held = come(&pool).ok();
                let (first, mut second) = (come(&pool).unwrap_err(), come(&pool).unwrap_err());
                let leaver = thread::spawn(move || drop(first));
                drop(held);
                leaver.join().unwrap();
                assert!(follow(&pool, &mut second).is_some(), "the call was lost");
                assert_eq!((pool.0[0].state.in_flight(), pool.1.waiting()), (0, 0));
            });
        }

        #[test]
        fn a_newcomer_never_overtakes_who_waits_and_comes_after_him() {
            loom::model(|| {
                let pool = Arc::new(pool());
                let held = come(&pool).ok();
                let mut first = come(&pool).unwrap_err();
                let newcomer = {
                    let pool = Arc::clone(&pool);
                    thread::spawn(move || come(&pool).expect_err("the place is another's"))
                };
                drop(held);
                let lease = follow(&pool, &mut first);
                let mut newcomer = newcomer.join().unwrap();
                let lease = lease.or_else(|| follow(&pool, &mut first));
                drop(lease.expect("who waits is called"));
                assert!(follow(&pool, &mut newcomer).is_some(), "and then the other");
                assert_eq!((pool.0[0].state.in_flight(), pool.1.waiting()), (0, 0));
            });
        }

        #[test]
        fn a_place_given_back_while_the_last_waiter_leaves_is_for_anybody() {
            loom::model(|| {
                let pool = Arc::new(pool());
                let held = come(&pool).ok();
                let last = come(&pool).unwrap_err();
                let leaver = thread::spawn(move || drop(last));
                drop(held);
                leaver.join().unwrap();
                assert!(come(&pool).is_ok());
            });
        }
    }
}
