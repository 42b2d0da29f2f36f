//! One worker's view of a snapshot: the snapshot, and the worker's own pickers for its pools.
//!
//! A pick and the lease of what was picked are two steps, between which another worker may take the last place. Then the
//! pick is made again without that backend, so the answer is a lease or the news that there is none. Neither step takes a
//! lock or allocates.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::ids::{ListenerId, PoolId};
use super::lease::{Hold, Lease};
use super::pool::Pool;
use super::{ListenerPlan, Snapshot};
use crate::balance::{AnyPicker, Ask, Candidate, Dice, Rung, Standing, Tried, climb};
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

impl std::fmt::Display for NoBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let why = match self.why {
            Why::Empty => "the pool has no backends",
            Why::Full => "all backends are at their limits",
            Why::Tried => "all usable backends were tried",
            Why::NoneUsable => "no backend is usable",
        };
        let Census { usable, down, open, full, draining, maintenance } = self.census;
        write!(f, "{why} (usable {usable}, down {down}, open {open}, full {full}, draining {draining}, ")?;
        write!(f, "in maintenance {maintenance})")
    }
}

impl NoBackend {
    fn of(pool: &Pool, now: Instant) -> NoBackend {
        let census = Census::of(pool, now);
        let why = if pool.backends.is_empty() {
            Why::Empty
        } else if census.full > 0 {
            Why::Full
        } else if census.usable > 0 {
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
}

/// What one worker has of a pool.
#[derive(Debug)]
struct WorkerPool {
    pool: Arc<Pool>,
    hold: Hold,
    /// Shared with the view before this one when the picker fits both, so that its place in the turn is not lost.
    picker: Rc<RefCell<AnyPicker>>,
}

impl WorkerPool {
    fn new(pool: &Arc<Pool>, previous: Option<&WorkerPool>, seed: u64) -> WorkerPool {
        let picker = match previous {
            Some(previous) if pool.picks_like(&previous.pool) => Rc::clone(&previous.picker),
            _ => Rc::new(RefCell::new(new_picker(pool, seed))),
        };
        let hold = Hold::new(Arc::clone(&pool.backends), pool.latency());
        WorkerPool { pool: Arc::clone(pool), hold, picker }
    }

    fn take(&self, now: Instant, key: u64, tried: &Tried, dice: &mut Dice) -> Option<Taken> {
        let backends = &*self.pool.backends;
        // What is lost to another worker here may be tried again later, so it is not put down in `tried`.
        let mut passed_over = *tried;
        loop {
            let mut ask = Ask { now, key, tried: &passed_over, dice, rung: Rung::Primaries };
            let (index, rung) = climb(&mut *self.picker.borrow_mut(), backends, &mut ask, self.pool.fail_open)?;
            if let Ok(lease) = self.hold.take(index, now) {
                return Some(Taken { lease, index, rung });
            }
            // Bounded: there is room for a few, and each time one more is passed over.
            if !passed_over.add(index) {
                return None;
            }
        }
    }
}

/// Pools of one worker must not start in step with each other, so the pool's name goes into the seed.
fn new_picker(pool: &Pool, seed: u64) -> AnyPicker {
    let seed = xxh3_64_with_seed(pool.name.as_bytes(), seed);
    AnyPicker::new(&pool.picking, &pool.backends, seed)
}

impl View {
    /// A view of `snapshot`. It goes on where `previous` is with every pool that is picked from as before; `seed` is the
    /// worker's.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>, previous: Option<&View>, seed: u64) -> View {
        let mut pools = Vec::new();
        for (id, pool) in snapshot.pools() {
            let before = previous.and_then(|previous| previous.worker_pool(id));
            pools.resize_with(id.index(), || None);
            pools.push(Some(WorkerPool::new(pool, before, seed)));
        }
        View { snapshot, pools }
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
        let Some(pool) = self.worker_pool(pool) else {
            return Err(NoBackend { why: Why::Empty, census: Census::default() });
        };
        let taken = pool.take(now, key, tried, dice).ok_or_else(|| NoBackend::of(&pool.pool, now))?;
        // With no room left it would be taken a second time, which no number of attempts comes to.
        tried.add(taken.index);
        Ok(taken)
    }

    fn worker_pool(&self, id: PoolId) -> Option<&WorkerPool> {
        self.pools.get(id.index())?.as_ref()
    }
}
