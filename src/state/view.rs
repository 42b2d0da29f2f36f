//! One worker's view of a snapshot: the snapshot, and the worker's own pickers for its pools.
//!
//! A pick and the lease of what was picked are two steps, between which another worker may take the last place. Then the
//! pick is made again without that backend, so the answer is a lease or the news that there is none. Neither step takes a
//! lock or allocates; only who finds all that could serve full, and may wait, joins the pool's queue.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::backend::{Refused, Turn};
use super::budget::{Budget, Permit};
use super::footing::Step;
use super::ids::{ListenerId, PoolId};
use super::lease::{Hold, Lease};
use super::pool::Pool;
use super::queue::Place;
use super::{ListenerPlan, Snapshot, Terms};
use crate::balance::{AnyPicker, Ask, Candidate, Dice, Lost, Missed, Rung, Standing, Tried, climb_and_take};
use crate::breaker::Entry;
use crate::clock::Instant;

/// A lease, and where it comes from.
#[derive(Debug)]
pub struct Taken {
    /// The use of the backend.
    pub lease: Lease,
    /// The backend's place in its pool.
    pub index: usize,
    /// The step of the ladder it stood on.
    pub rung: Rung,
}

/// There is no backend for a request now, which is a 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoBackend {
    /// The reason.
    pub why: Why,
    /// How the pool's backends stand, for the log.
    pub census: Census,
}

/// Why there is no backend for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// The pool has none.
    Empty,
    /// Those that could take it are at their limits.
    Full,
    /// Those that could take it were tried by this request already.
    Tried,
    /// None could take it.
    NoneUsable,
}

/// How many backends of a pool stand how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "one count for each Standing, by name")]
pub struct Census {
    pub usable: usize,
    pub down: usize,
    pub open: usize,
    pub full: usize,
    pub draining: usize,
    pub maintenance: usize,
}

impl Census {
    fn of(pool: &Pool, now: Instant) -> Census {
        let mut census = Census::default();
        for backend in &*pool.backends {
            *match backend.standing(now) {
                Standing::Usable => &mut census.usable,
                Standing::Down => &mut census.down,
                Standing::Open => &mut census.open,
                Standing::Full => &mut census.full,
                Standing::Draining => &mut census.draining,
                Standing::Maintenance => &mut census.maintenance,
            } += 1;
        }
        census
    }
}

impl std::fmt::Display for Census {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Census { usable, down, open, full, draining, maintenance } = self;
        write!(f, "usable {usable}, down {down}, open {open}, full {full}, draining {draining}, ")?;
        write!(f, "in maintenance {maintenance}")
    }
}

impl std::fmt::Display for NoBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let why = match self.why {
            Why::Empty => "the pool has no backends",
            Why::Full => "all backends are at their limits",
            Why::Tried => "all usable backends were tried",
            Why::NoneUsable => "no backend is usable",
        };
        write!(f, "{why} ({})", self.census)
    }
}

impl NoBackend {
    fn of(pool: &Pool, now: Instant, missed: Missed) -> NoBackend {
        let census = Census::of(pool, now);
        let why = if pool.backends.is_empty() {
            Why::Empty
        } else if missed == Missed::Full {
            Why::Full
        } else if census.usable + census.full > 0 {
            Why::Tried
        } else {
            Why::NoneUsable
        };
        NoBackend { why, census }
    }
}

/// One worker's snapshot plus its pickers.
#[derive(Debug)]
pub struct View {
    snapshot: Arc<Snapshot>,
    /// By [`PoolId`].
    pools: Vec<Option<WorkerPool>>,
    /// By [`ListenerId`]. The worker's own: its connections share them without writing to what other workers read.
    terms: Vec<Option<Rc<Terms>>>,
}

/// What one worker has of a pool.
#[derive(Debug)]
struct WorkerPool {
    pool: Arc<Pool>,
    hold: Hold,
    /// Shared with the view before this one when the picker fits both, so that its place in the turn is not lost.
    picker: Rc<RefCell<AnyPicker>>,
    /// Shared with the view before this one.
    budget: Rc<Budget>,
}

impl WorkerPool {
    fn new(pool: &Arc<Pool>, previous: Option<&WorkerPool>, worker: usize, seed: u64) -> WorkerPool {
        let picker = match previous {
            Some(previous) if pool.picks_like(&previous.pool) => Rc::clone(&previous.picker),
            _ => Rc::new(RefCell::new(new_picker(pool, seed))),
        };
        let hold = Hold::new(Arc::clone(&pool.backends), pool.latency(), Arc::clone(&pool.queue), worker);
        let budget = previous.map(|previous| Rc::clone(&previous.budget)).unwrap_or_default();
        WorkerPool { pool: Arc::clone(pool), hold, picker, budget }
    }

    /// Whether the queue is as long as it may be, and there is room for more than are in it, who are on their way then: nobody
    /// need be sent away.
    fn has_room_beside_a_full_queue(&self, now: Instant) -> bool {
        let waiting = self.pool.queue.waiting();
        waiting > 0 && waiting >= self.pool.queue_max && self.pool.room(now) > waiting
    }

    /// Picks and takes. What is taken is put down in `tried`.
    fn take(&self, turn: Turn, now: Instant, key: u64, tried: &mut Tried, dice: &mut Dice) -> Result<Taken, NoBackend> {
        let pool = &*self.pool;
        let take = |index, rung| self.hold.take(index, now, turn, entry(rung)).map_err(lost);
        let ask = Ask { now, key, tried, dice, rung: Rung::Primaries };
        let picker = &mut *self.picker.borrow_mut();
        let (lease, index, rung) = climb_and_take(picker, &pool.backends, ask, pool.reach, take)
            .map_err(|missed| NoBackend::of(pool, now, missed))?;
        // Where somebody goes who could not stay at his first backend says nothing of the pool.
        if (rung != Rung::Primaries || !pool.footing.is_usual()) && tried.is_empty() {
            tell_rung(pool, rung, now);
        }
        // With no room left it would be taken a second time, which no number of attempts comes to.
        tried.add(index);
        Ok(Taken { lease, index, rung })
    }
}

/// Says it once when requests of `pool` begin or cease to stand on another rung than the primaries.
#[cold]
fn tell_rung(pool: &Pool, rung: Rung, now: Instant) {
    let Some(Step { from, to }) = pool.footing.stand(rung, now) else { return };
    let (name, backends, from, is_usual) = (&pool.name, Census::of(pool, now), from.name(), to == Rung::Primaries);
    match is_usual {
        true => tracing::info!(pool = %name, from, to = to.name(), %backends, "pool is served by its primaries again"),
        false => {
            tracing::warn!(pool = %name, from, to = to.name(), %backends, "pool is not served by its primaries alone")
        }
    }
}

fn lost(refused: Refused) -> Lost {
    match refused {
        Refused::Draining => Lost::Leaving,
        Refused::Full | Refused::Queued => Lost::NoRoom,
        Refused::Shut => Lost::Shut,
    }
}

/// On the upper rungs a breaker turns away; on the lower ones there is nobody else, and in panic it is not believed.
fn entry(rung: Rung) -> Entry {
    match rung {
        Rung::Primaries | Rung::Backups => Entry::Asked,
        Rung::Panic | Rung::BreakerOpen | Rung::FailOpen => Entry::Forced,
    }
}

/// Pools of one worker must not start in step with each other, so the pool's name goes into the seed.
fn new_picker(pool: &Pool, seed: u64) -> AnyPicker {
    let seed = xxh3_64_with_seed(pool.name.as_bytes(), seed);
    AnyPicker::new(&pool.picking, &pool.backends, seed)
}

impl View {
    /// A view of `snapshot` for the worker of this number. It goes on where `previous` is with every pool that is picked
    /// from as before; `seed` is the worker's. Pickers that are new start elsewhere in each generation: where a file changes every few requests, the
    /// same backends would else be first each time.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>, previous: Option<&View>, worker: usize, seed: u64) -> View {
        let seed = seed.wrapping_add(snapshot.generation());
        let mut pools = Vec::new();
        for (id, pool) in snapshot.pools() {
            let before = previous.and_then(|previous| previous.worker_pool(id));
            pools.resize_with(id.index(), || None);
            pools.push(Some(WorkerPool::new(pool, before, worker, seed)));
        }
        let terms_of = |plan: &Option<Arc<ListenerPlan>>| plan.as_ref().map(|plan| Rc::new(Terms::of(plan)));
        let terms = snapshot.listeners.iter().map(terms_of).collect();
        View { snapshot, pools, terms }
    }

    /// The snapshot it shows.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The listener of this number, if this configuration has it.
    #[must_use]
    pub fn listener(&self, id: ListenerId) -> Option<&ListenerPlan> {
        self.snapshot.listener(id).map(|plan| &**plan)
    }

    /// What the listener of this number grants a client, if this configuration has it.
    #[must_use]
    pub fn terms(&self, id: ListenerId) -> Option<&Rc<Terms>> {
        self.terms.get(id.index())?.as_ref()
    }

    /// The pool that a listener or route of this very view names.
    ///
    /// # Panics
    /// When the number comes from elsewhere and this configuration has no such pool.
    #[must_use]
    pub fn pool(&self, id: PoolId) -> &Pool {
        &self.worker_pool(id).expect("a view has every pool that its listeners and routes name").pool
    }

    /// Picks a backend of `pool` and takes it. `tried` is what the request has tried so far; what is taken is put down
    /// there. `key` is what the policy hashes on, 0 for policies that do not.
    ///
    /// # Errors
    /// Says why there is none.
    pub fn take(
        &self,
        pool: PoolId,
        now: Instant,
        key: u64,
        tried: &mut Tried,
        dice: &mut Dice,
    ) -> Result<Taken, NoBackend> {
        let pool = self.existing(pool)?;
        match pool.take(Turn::Newcomer, now, key, tried, dice) {
            Err(none) if none.why == Why::Full && pool.has_room_beside_a_full_queue(now) => {
                pool.take(Turn::Waiter, now, key, tried, dice)
            }
            taken => taken,
        }
    }

    /// A place in the queue of `pool` for who was refused because of `none`; `None` when waiting is of no use, or too many
    /// wait already.
    #[must_use]
    pub fn join(&self, pool: PoolId, none: &NoBackend) -> Option<Place> {
        let pool = &self.worker_pool(pool)?.pool;
        let sees_room = none.census.usable > 0;
        let waits = none.why == Why::Full && pool.queue_max > 0;
        if waits { pool.queue.join(&pool.backends, pool.queue_max, sees_room) } else { None }
    }

    /// Whether `place` is one in the queue of `pool`.
    #[must_use]
    pub fn is_place_in(&self, pool: PoolId, place: &Place) -> bool {
        self.worker_pool(pool).is_some_and(|pool| place.is_in(&pool.pool.queue))
    }

    /// As [`take`](View::take), for who has waited at `place` and was called, or does not want to wait any longer. On success
    /// the place is given up.
    ///
    /// # Errors
    /// Says why there is none. If the backends are [full](Why::Full) the place is kept, and it will be called again; else to wait
    /// on is of no use, which those behind are to find out as well when the place is dropped.
    pub fn take_waiting(
        &self,
        pool: PoolId,
        place: &mut Place,
        now: Instant,
        key: u64,
        tried: &mut Tried,
        dice: &mut Dice,
    ) -> Result<Taken, NoBackend> {
        let pool = self.existing(pool)?;
        loop {
            let before = place.called_before();
            let taken = match before > 0 && pool.pool.room(now) <= before {
                // What is free is for those who came earlier and are on their way.
                true => Err(NoBackend::of(&pool.pool, now, Missed::Full)),
                false => pool.take(Turn::Waiter, now, key, tried, dice),
            };
            let room = pool.pool.room(now);
            match taken {
                Ok(taken) => {
                    place.served(&pool.pool.backends, room);
                    return Ok(taken);
                }
                Err(none) if !place.refused(&pool.pool.backends, room) => {
                    if none.why != Why::Full {
                        place.give_up();
                    }
                    return Err(none);
                }
                Err(_) => {}
            }
        }
    }

    /// Counts a request for the retry budget of `pool`.
    pub fn count_request(&self, pool: PoolId, now: Instant) {
        if let Some(pool) = self.worker_pool(pool) {
            pool.budget.request(now);
        }
    }

    /// Leave to try a request of `pool` once more, if its retry budget allows it.
    #[must_use]
    pub fn permit_retry(&self, pool: PoolId, now: Instant) -> Option<Permit> {
        let pool = self.worker_pool(pool)?;
        pool.budget.repeat(now, pool.pool.retry_budget, &pool.pool.reserve)
    }

    fn existing(&self, id: PoolId) -> Result<&WorkerPool, NoBackend> {
        self.worker_pool(id).ok_or(NoBackend { why: Why::Empty, census: Census::default() })
    }

    fn worker_pool(&self, id: PoolId) -> Option<&WorkerPool> {
        self.pools.get(id.index())?.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::config::{self, HashOn, Policy, Service};
    use crate::state::fixture::{backend, of_pools, pool, round_robin};
    use crate::state::{Health, Sessions};

    const T0: Instant = Instant::ORIGIN;
    const SEED: u64 = 7;

    fn snapshot(pools: Vec<config::Pool>, previous: Option<&View>) -> Arc<Snapshot> {
        let snapshot = Snapshot::next(
            &of_pools(pools),
            &crate::tls::Materials::default(),
            previous.map(|previous| &**previous.snapshot()),
        );
        snapshot.settle();
        Arc::new(snapshot)
    }

    fn view(pools: Vec<config::Pool>, previous: Option<&View>) -> View {
        View::new(snapshot(pools, previous), previous, 0, SEED)
    }

    fn id(view: &View) -> PoolId {
        view.snapshot().pool_id("app").unwrap()
    }

    /// The place of what one request gets, which ends at once.
    fn pick(view: &View) -> usize {
        take(view, &mut Tried::default()).unwrap().index
    }

    fn take(view: &View, tried: &mut Tried) -> Result<Taken, NoBackend> {
        view.take(id(view), T0, 0, tried, &mut Dice::seeded(1))
    }

    fn limited(port: u16, limit: u32) -> config::Backend {
        config::Backend { max_connections: NonZeroU32::new(limit), ..backend(port) }
    }

    #[test]
    fn an_unrelated_change_leaves_the_turn_where_it_is() {
        let first = view(vec![round_robin("app", &[1, 2, 3])], None);
        let before = pick(&first);
        let second = view(vec![round_robin("app", &[1, 2, 3]), round_robin("other", &[9])], Some(&first));
        assert_eq!(pick(&second), (before + 1) % 3);
        assert_eq!(pick(&first), (before + 2) % 3, "what still runs on the old view takes its turn with the new one");
    }

    #[test]
    fn what_shapes_a_picker_rebuilds_it_for_that_pool() {
        let app = |backends| vec![pool("app", Policy::RoundRobin, backends)];
        let first = view(app(vec![backend(1), backend(2)]), None);
        let shares = |pools| {
            let second = view(pools, Some(&first));
            let picker = |view: &View| Rc::clone(&view.worker_pool(id(view)).unwrap().picker);
            Rc::ptr_eq(&picker(&first), &picker(&second))
        };
        let service = config::Backend { service: Service::Drain, name: "other".into(), ..backend(2) };
        assert!(shares(app(vec![backend(1), service])), "a picker asks for the standing each time");
        assert!(!shares(app(vec![backend(2), backend(1)])), "order");
        assert!(!shares(app(vec![backend(1), limited(2, 9)])), "limit");
        assert!(!shares(app(vec![backend(1), config::Backend { weight: 2, ..backend(2) }])), "weight");
        assert!(!shares(app(vec![backend(1), backend(3)])), "address");
        assert!(!shares(app(vec![backend(1)])), "removal");
        assert!(!shares(vec![pool("app", Policy::RandomTwoChoices, vec![backend(1), backend(2)])]), "policy");
    }

    #[test]
    fn pickers_that_each_reload_rebuilds_do_not_all_begin_with_the_same_backend() {
        let app = |weight| pool("app", Policy::RoundRobin, vec![config::Backend { weight, ..backend(1) }, backend(2)]);
        let mut latest = view(vec![app(1)], None);
        let mut shares = [0; 2];
        for round in 0..100 {
            latest = view(vec![app(1 + round % 2)], Some(&latest));
            shares[pick(&latest)] += 1;
        }
        assert!(shares.iter().all(|share| *share > 25), "{shares:?}");
    }

    #[test]
    fn pools_of_one_worker_do_not_start_in_step() {
        let ports: Vec<u16> = (1..=100).collect();
        let view = view(vec![round_robin("api", &ports), round_robin("app", &ports)], None);
        let start = |name| {
            let id = view.snapshot().pool_id(name).unwrap();
            view.take(id, T0, 0, &mut Tried::default(), &mut Dice::seeded(1)).unwrap().index
        };
        assert_ne!(start("api"), start("app"));
    }

    #[test]
    fn a_request_never_gets_the_same_backend_twice() {
        let view = view(vec![round_robin("app", &[1, 2])], None);
        let mut tried = Tried::default();
        let first = take(&view, &mut tried).unwrap();
        let second = take(&view, &mut tried).unwrap();
        assert_ne!(first.index, second.index);
        assert_eq!(take(&view, &mut tried).unwrap_err().why, Why::Tried);
    }

    #[test]
    fn a_full_pool_says_so_and_a_finished_use_makes_room() {
        let view = view(vec![pool("app", Policy::LeastConnections, vec![limited(1, 1), limited(2, 1)])], None);
        let held = [take(&view, &mut Tried::default()).unwrap(), take(&view, &mut Tried::default()).unwrap()];
        assert_ne!(held[0].index, held[1].index);
        let refused = take(&view, &mut Tried::default()).unwrap_err();
        assert_eq!(refused, NoBackend { why: Why::Full, census: Census { full: 2, ..Census::default() } });
        let [first, _second] = held;
        let index = first.index;
        drop(first);
        assert_eq!(pick(&view), index);
    }

    #[test]
    fn a_backup_serves_only_when_no_primary_can() {
        let backup = config::Backend { backup: true, ..backend(2) };
        let view = view(vec![pool("app", Policy::RoundRobin, vec![limited(1, 1), backup])], None);
        let first = take(&view, &mut Tried::default()).unwrap();
        assert_eq!((first.index, first.rung), (0, Rung::Primaries));
        let second = take(&view, &mut Tried::default()).unwrap();
        assert_eq!((second.index, second.rung), (1, Rung::Backups));
    }

    #[test]
    fn one_that_is_down_is_passed_over_at_the_next_pick_and_is_the_last_resort() {
        let with = |fail_open| vec![config::Pool { fail_open, ..round_robin("app", &[1, 2]) }];
        let first = view(with(true), None);
        let states: Vec<_> = first.pool(id(&first)).backends.iter().map(|backend| Arc::clone(&backend.state)).collect();
        states[0].checkup().say(Health::Down, Sessions::Kept);
        assert_eq!([pick(&first), pick(&first), pick(&first)], [1, 1, 1]);
        states[1].checkup().say(Health::GoingUp { successes: 1, rise: 2 }, Sessions::Kept);
        assert_eq!(take(&first, &mut Tried::default()).unwrap().rung, Rung::FailOpen);
        let second = view(with(false), Some(&first));
        let refused = take(&second, &mut Tried::default()).unwrap_err();
        assert_eq!(refused, NoBackend { why: Why::NoneUsable, census: Census { down: 2, ..Census::default() } });
        states[1].checkup().say(Health::GoingDown { failures: 1, fall: 3 }, Sessions::Kept);
        assert_eq!(pick(&second), 1);
    }

    /// The share of the second of two, of which the first was always there.
    fn share_of_the_second(view: &View, now: Instant) -> f64 {
        let (mut dice, mut its) = (Dice::seeded(1), 0);
        for _ in 0..2000 {
            its += view.take(id(view), now, 0, &mut Tried::default(), &mut dice).unwrap().index;
        }
        its as f64 / 2000.0
    }

    #[test]
    fn a_backend_that_comes_back_gets_its_share_little_by_little_over_any_reload() {
        let seconds = Duration::from_secs;
        for policy in
            [Policy::WeightedRoundRobin, Policy::LeastConnections, Policy::LeastResponseTime, Policy::RandomTwoChoices]
        {
            let with = |slow_start| {
                let backends = vec![backend(1), backend(2)];
                vec![config::Pool { slow_start, ..pool("app", policy.clone(), backends) }]
            };
            let first = view(with(Some(seconds(100))), None);
            assert!((share_of_the_second(&first, T0) - 0.5).abs() < 0.05);
            first.pool(id(&first)).backends[1].state.come_back(T0 + seconds(1000));
            for (after, share) in [(0, 0.01), (25, 0.2), (50, 1.0 / 3.0), (100, 0.5), (900, 0.5)] {
                let found = share_of_the_second(&first, T0 + seconds(1000 + after));
                assert!((found - share).abs() < 0.05, "{found} after {after} s by {policy:?}");
            }
            let second = view(with(Some(seconds(50))), Some(&first));
            assert!((share_of_the_second(&second, T0 + seconds(1025)) - 1.0 / 3.0).abs() < 0.05);
            let off = view(with(None), Some(&second));
            assert!((share_of_the_second(&off, T0 + seconds(1000)) - 0.5).abs() < 0.05);
        }
    }

    #[test]
    fn an_only_backend_serves_however_little_it_has_of_its_weight() {
        let only = pool("app", Policy::LeastResponseTime, vec![limited(1, 2)]);
        let view = view(vec![config::Pool { slow_start: Some(Duration::from_secs(100)), ..only }], None);
        view.pool(id(&view)).backends[0].state.come_back(T0);
        let _held = [take(&view, &mut Tried::default()).unwrap(), take(&view, &mut Tried::default()).unwrap()];
        assert_eq!(take(&view, &mut Tried::default()).unwrap_err().why, Why::Full);
    }

    #[test]
    fn with_too_few_well_all_primaries_are_used_and_the_pool_says_so() {
        let with = |panic_threshold| {
            let backends = vec![backend(1), backend(2), limited(3, 1), config::Backend { backup: true, ..backend(4) }];
            vec![config::Pool { panic_threshold, ..pool("app", Policy::RoundRobin, backends) }]
        };
        let view = view(with(0.5), None);
        let say = |index: usize, health| {
            view.pool(id(&view)).backends[index].state.checkup().say(health, Sessions::Kept);
        };
        say(1, Health::Down);
        say(3, Health::Down);
        assert_eq!((pick(&view), view.pool(id(&view)).rung()), (0, Rung::Primaries));
        let _busy = view.pool(id(&view)).backends[2].state.take(None).unwrap();
        assert_eq!([pick(&view), pick(&view)], [0, 0], "one that is full is well: two of three are");
        say(2, Health::Down);
        let mut picked: Vec<_> = (0..3)
            .map(|_| {
                let taken = take(&view, &mut Tried::default()).unwrap();
                assert_eq!(taken.rung, Rung::Panic);
                taken.index
            })
            .collect();
        picked.sort_unstable();
        picked.dedup();
        assert_eq!(picked, [0, 1], "the one at its limit takes no more, down or not");
        assert_eq!(view.pool(id(&view)).rung(), Rung::Panic);
        say(3, Health::Up);
        assert_eq!(
            [pick(&view), pick(&view)],
            [0, 0],
            "a backup that is well is enough for the verdicts to be believed"
        );
    }

    #[test]
    fn a_pool_says_its_rung_by_first_attempts_and_keeps_it_over_reloads() {
        let backup = config::Backend { backup: true, ..backend(2) };
        let with = || vec![pool("app", Policy::RoundRobin, vec![backend(1), backup.clone()])];
        let first = view(with(), None);
        let rung = |view: &View| view.pool(id(view)).rung();
        let mut tried = Tried::default();
        take(&first, &mut tried).unwrap();
        assert_eq!((take(&first, &mut tried).unwrap().rung, rung(&first)), (Rung::Backups, Rung::Primaries));
        first.pool(id(&first)).backends[0].state.checkup().say(Health::Down, Sessions::Kept);
        pick(&first);
        let second = view(with(), Some(&first));
        assert_eq!(rung(&second), Rung::Backups);
        second.pool(id(&second)).backends[0].state.checkup().say(Health::Up, Sessions::Kept);
        pick(&second);
        assert_eq!(rung(&second), Rung::Backups, "not at once");
        let later = T0 + Duration::from_secs(60);
        second.take(id(&second), later, 0, &mut Tried::default(), &mut Dice::seeded(1)).unwrap();
        assert_eq!((rung(&second), rung(&first)), (Rung::Primaries, Rung::Primaries));
    }

    #[test]
    fn none_is_said_with_its_reason() {
        let held_back = [Service::Drain, Service::Maintenance]
            .map(|service| config::Backend { service, ..backend(service as u16) })
            .to_vec();
        let held_back = view(vec![pool("app", Policy::LeastResponseTime, held_back)], None);
        let census = Census { draining: 1, maintenance: 1, ..Census::default() };
        let refused = take(&held_back, &mut Tried::default()).unwrap_err();
        assert_eq!(refused, NoBackend { why: Why::NoneUsable, census });
        let empty = view(vec![round_robin("app", &[])], None);
        assert_eq!(take(&empty, &mut Tried::default()).unwrap_err().why, Why::Empty);
    }

    #[test]
    fn an_older_view_can_not_take_what_a_newer_snapshot_retired() {
        let first = view(vec![round_robin("app", &[1, 2])], None);
        let _second = view(vec![round_robin("app", &[1])], Some(&first));
        for _ in 0..4 {
            assert_eq!(pick(&first), 0);
        }
    }

    #[test]
    fn workers_that_race_for_the_last_places_never_exceed_a_limit() {
        let backends = vec![limited(1, 1), limited(2, 1), limited(3, 2)];
        let snapshot = snapshot(vec![pool("app", Policy::LeastConnections, backends)], None);
        let held = [const { AtomicU32::new(0) }; 3];
        let work = |worker| {
            let view = View::new(Arc::clone(&snapshot), None, worker, SEED + worker as u64);
            for _ in 0..20_000 {
                let Ok(taken) = take(&view, &mut Tried::default()) else { continue };
                let limit = view.pool(id(&view)).backends[taken.index].limit.unwrap();
                assert!(held[taken.index].fetch_add(1, Ordering::AcqRel) < limit.get());
                held[taken.index].fetch_sub(1, Ordering::AcqRel);
                drop(taken);
            }
        };
        std::thread::scope(|scope| {
            for worker in 0..4 {
                scope.spawn(move || work(worker));
            }
        });
        let (_, pool) = snapshot.pools().next().unwrap();
        assert!(pool.backends.iter().all(|backend| backend.state.in_flight() == 0));
    }

    #[test]
    fn every_policy_takes_and_gives_back_through_a_view() {
        let hash = Policy::ConsistentHash { on: HashOn::Uri };
        let ip_hash = Policy::IpHash { ipv4_prefix: 32, ipv6_prefix: 64, bounded_load: Some(1.25) };
        for policy in [
            Policy::RoundRobin,
            Policy::WeightedRoundRobin,
            Policy::LeastConnections,
            ip_hash,
            Policy::LeastResponseTime,
            Policy::RandomTwoChoices,
            hash,
        ] {
            let view = view(vec![pool("app", policy.clone(), vec![limited(1, 1), limited(2, 1), limited(3, 1)])], None);
            let held: Vec<_> = (0..3).map(|_| take(&view, &mut Tried::default()).unwrap()).collect();
            assert_eq!(take(&view, &mut Tried::default()).unwrap_err().why, Why::Full, "{policy:?}");
            drop(held);
            assert!(view.pool(id(&view)).backends.iter().all(|backend| backend.in_flight() == 0), "{policy:?}");
        }
    }
}
