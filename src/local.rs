//! What one worker owns and lends to the connections it serves.
//!
//! Everything here belongs to one thread: the view of the snapshot, dice, buffers, idle connections, records and the list
//! of open sessions. Connections hold an `Rc<Local>`; nothing in it is locked. Borrows of its cells never cross an await.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};

use crate::balance::Dice;
use crate::clock::{self, Instant};
use crate::deadline::{Deadline, Wheel};
use crate::housing::Housing;
use crate::http::{Kept, RequestHead, ResponseHead};
use crate::outcome::Outcome;
use crate::pipe::Buffers;
use crate::record::{Collected, PoolEvent, Recorder};
use crate::state::{Lease, PoolId, Snapshot, Taken, View};
use crate::stream::Stream;
use crate::upstream::idle::IdleConnections;
use crate::upstream::shared::SharedConnections;

/// How long a keep-alive connection may wait for one more request when the worker drains. Closing at once would cut
/// off a request that is on its way.
pub const LAST_REQUEST: Duration = Duration::from_secs(1);

/// How often, at the most, idle connections that their backend has closed are looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// How many desks are kept for the next requests.
const DESKS: usize = 256;

/// How large a desk's memory may have become, in bytes for each of its parts, to be kept. Heads are seldom larger.
const DESK_BYTES: usize = 16 * 1024;

/// Whether a worker goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It does.
    Serving,
    /// Connections finish what they do and are not used again.
    Draining {
        /// Since when.
        since: Instant,
    },
    /// Every connection ends now.
    Cut,
}

/// The memory that one exchange works on, reused from request to request.
#[derive(Debug, Default)]
pub struct Desk {
    /// The client's request.
    pub request: RequestHead,
    /// The backend's response.
    pub response: ResponseHead,
    /// Bytes on their way to the client.
    pub to_client: Vec<u8>,
    /// Bytes on their way to the backend.
    pub to_backend: Vec<u8>,
    /// What is kept of the request's body, which is never more than 16 KiB.
    pub kept: Kept,
}

impl Desk {
    /// Forgets what is under way: the bytes that one client did not take are not the next one's. Memory that grew for an
    /// unusual message is given up.
    fn clear(&mut self) {
        for bytes in [&mut self.to_client, &mut self.to_backend] {
            bytes.clear();
            bytes.shrink_to(DESK_BYTES);
        }
        self.kept.begin();
        if self.request.fields.capacity() > DESK_BYTES {
            self.request = RequestHead::default();
        }
        if self.response.fields.capacity() > DESK_BYTES {
            self.response = ResponseHead::default();
        }
    }
}

/// One worker's own.
pub struct Local {
    /// Which worker, from 0.
    pub worker: usize,
    /// Its buffers.
    pub buffers: Buffers,
    /// Where its exchanges live that have a connection to themselves.
    pub housing: Housing,
    /// Where those live that share one.
    pub streams: Housing,
    seed: u64,
    snapshots: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    view: RefCell<Rc<View>>,
    dice: RefCell<Dice>,
    idle: RefCell<IdleConnections<Stream>>,
    /// Its connections of HTTP/2 to backends.
    pub shared: SharedConnections,
    sweeping: Cell<bool>,
    #[expect(clippy::vec_box, reason = "a desk goes to its connection and back as a pointer")]
    desks: RefCell<Vec<Box<Desk>>>,
    recorder: RefCell<Recorder>,
    sessions: RefCell<Sessions>,
    phase: Cell<Phase>,
    told: Cell<u64>,
    wheel: Rc<Wheel>,
    turning: Cell<bool>,
}

impl Local {
    /// The local state of worker `worker`; `seed` sets its pickers' phases and its dice.
    #[must_use]
    pub fn new(worker: usize, snapshots: Arc<ArcSwap<Snapshot>>, seed: u64) -> Rc<Local> {
        let mut cache = Cache::new(snapshots);
        let view = Rc::new(View::new(cache.load().clone(), None, worker, seed));
        Rc::new(Local {
            worker,
            buffers: Buffers::default(),
            housing: Housing::default(),
            streams: Housing::default(),
            seed,
            snapshots: RefCell::new(cache),
            view: RefCell::new(view),
            dice: RefCell::new(Dice::seeded(seed)),
            idle: RefCell::default(),
            shared: SharedConnections::default(),
            sweeping: Cell::new(false),
            desks: RefCell::default(),
            recorder: RefCell::default(),
            sessions: RefCell::default(),
            phase: Cell::new(Phase::Serving),
            told: Cell::new(0),
            wheel: Rc::default(),
            turning: Cell::new(false),
        })
    }

    /// The view of the newest snapshot. Asked once per unit of work; not kept longer than the work's beginning.
    pub fn view(&self) -> Rc<View> {
        let mut snapshots = self.snapshots.borrow_mut();
        let newest = snapshots.load();
        let mut view = self.view.borrow_mut();
        if !Arc::ptr_eq(newest, view.snapshot()) {
            *view = Rc::new(View::new(newest.clone(), Some(&view), self.worker, self.seed));
        }
        view.clone()
    }

    /// Closes idle connections to backends that take nothing new by the newest snapshot, and forgets what was seen of those
    /// that are gone. For when that snapshot is settled: from then on none of either comes in any more.
    pub fn forget_departed(&self) {
        let view = self.view();
        let (in_service, known) = (view.snapshot().in_service(), view.snapshot().known());
        self.idle.borrow_mut().retain_backends(|backend| in_service.contains(&backend));
        self.shared.retain_backends(|backend| in_service.contains(&backend));
        self.recorder.borrow_mut().retain(|backend| known.contains(&backend));
    }

    /// Rolls the worker's dice.
    pub fn roll<R>(&self, with: impl FnOnce(&mut Dice) -> R) -> R {
        with(&mut self.dice.borrow_mut())
    }

    /// How many client connections are open.
    pub fn connections(&self) -> usize {
        self.sessions.borrow().open
    }

    /// Whether the worker goes on.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Connections finish what they do; idle ones wait [`LAST_REQUEST`] for one more request.
    pub fn drain(&self) {
        if self.phase.get() == Phase::Serving {
            self.phase.set(Phase::Draining { since: clock::now() });
            self.wake_all();
        }
    }

    /// Every connection ends now.
    pub fn cut_all(&self) {
        self.phase.set(Phase::Cut);
        self.wake_all();
    }

    /// Some backend was cut or withdrawn, or a listener removed: every session looks at what it stands on again.
    pub fn wake_all(&self) {
        self.told.set(self.told.get() + 1);
        let wakers = self.sessions.borrow_mut().take_wakers();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// How often the sessions were told to look.
    pub fn told(&self) -> u64 {
        self.told.get()
    }

    /// Notes that an attempt got its response head, or its connection.
    pub fn responded(&self, backend: u64, after: Duration) {
        self.recorder.borrow_mut().responded(backend, after);
    }

    /// Notes that an attempt has ended.
    pub fn ended(&self, backend: u64, outcome: Outcome) {
        self.recorder.borrow_mut().ended(backend, outcome);
    }

    /// Notes what happened at a pool.
    pub fn happened(&self, pool: PoolId, event: PoolEvent) {
        self.recorder.borrow_mut().happened(pool.index(), event);
    }

    /// The lease of a backend that is used now; notes on which rung of the ladder it was found.
    #[inline]
    pub fn lease(&self, pool: PoolId, taken: Taken) -> Lease {
        if let Some(event) = PoolEvent::on(taken.rung) {
            self.happened(pool, event);
        }
        taken.lease
    }

    /// What this worker saw of each backend that is not gone yet, and of the pools.
    pub fn collect(&self) -> Collected {
        self.recorder.borrow().collect()
    }

    /// A desk for an exchange.
    pub fn desk(&self) -> Box<Desk> {
        self.desks.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a desk back.
    pub fn give_desk(&self, mut desk: Box<Desk>) {
        let mut desks = self.desks.borrow_mut();
        if desks.len() < DESKS {
            desk.clear();
            desks.push(desk);
        }
    }

    /// An idle connection to this backend that was used no longer than `at_most` ago and that the backend has not closed.
    pub fn take_idle(&self, backend: u64, now: Instant, at_most: Duration) -> Option<Stream> {
        loop {
            let stream = self.idle.borrow_mut().take(backend, now, at_most)?;
            if stream.is_silent() {
                return Some(stream);
            }
        }
    }

    /// Keeps a connection for `keep`, or closes it when there are enough.
    pub fn put_idle(self: &Rc<Self>, backend: u64, stream: Stream, now: Instant, keep: Duration) {
        if self.phase.get() != Phase::Serving {
            return;
        }
        drop(self.idle.borrow_mut().put(backend, stream, now, keep));
        if !self.sweeping.replace(true) {
            // Owned by the worker's runtime: it ends by itself when nothing is idle or the worker is gone.
            tokio::task::spawn_local(sweep(Rc::downgrade(self)));
        }
    }

    /// A deadline for one connection.
    pub fn deadline(&self) -> Deadline {
        if !self.turning.replace(true) {
            // Owned by the worker's runtime, with which it ends.
            tokio::task::spawn_local(Rc::clone(&self.wheel).turn());
        }
        Deadline::on(&self.wheel)
    }

    /// Registers a client connection for as long as the session lives.
    pub fn session(self: &Rc<Self>) -> Session {
        let slot = self.sessions.borrow_mut().open();
        Session { local: self.clone(), slot }
    }
}

/// Closes idle connections when their time is over, or soon after their backend has closed them.
async fn sweep(local: Weak<Local>) {
    let mut next = clock::now() + SWEEP;
    loop {
        tokio::time::sleep_until(clock::timer(next)).await;
        let Some(local) = local.upgrade() else { return };
        let now = clock::now();
        let Some(first) = local.idle.borrow_mut().sweep(now, Stream::is_silent) else {
            local.sweeping.set(false);
            return;
        };
        next = first.min(now + SWEEP);
    }
}

/// The open client connections of a worker, so that they can be counted and woken.
#[derive(Debug, Default)]
struct Sessions {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
    open: usize,
}

impl Sessions {
    fn open(&mut self) -> usize {
        self.open += 1;
        self.free.pop().unwrap_or_else(|| {
            self.wakers.push(None);
            self.wakers.len() - 1
        })
    }

    fn close(&mut self, slot: usize) {
        self.open -= 1;
        self.wakers[slot] = None;
        self.free.push(slot);
    }

    fn take_wakers(&mut self) -> Vec<Waker> {
        self.wakers.iter_mut().filter_map(Option::take).collect()
    }
}

/// A client connection's place in its worker's list.
pub struct Session {
    local: Rc<Local>,
    slot: usize,
}

impl Session {
    /// Whose it is.
    pub fn local(&self) -> &Rc<Local> {
        &self.local
    }

    /// Lets the task of `cx` be woken when the worker's phase changes or a backend is cut; called at every poll.
    pub fn watch(&self, cx: &Context<'_>) {
        let waker = &mut self.local.sessions.borrow_mut().wakers[self.slot];
        match waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            other => *other = Some(cx.waker().clone()),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.local.sessions.borrow_mut().close(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Known;

    #[test]
    fn a_desk_forgets_what_was_under_way_and_keeps_its_usual_memory() {
        let mut desk = Desk { to_client: b"not taken".to_vec(), to_backend: b"not sent".to_vec(), ..Desk::default() };
        desk.request.fields.push(Known::Other, b"a", b"b");
        let usual = desk.to_client.as_ptr();
        desk.clear();
        assert!(desk.to_client.is_empty() && desk.to_backend.is_empty());
        assert_eq!(desk.to_client.as_ptr(), usual);
        assert!(desk.request.fields.capacity() > 0);
    }

    #[test]
    fn memory_for_unusual_messages_is_given_up() {
        let mut desk = Desk { to_client: vec![0; 1 << 20], to_backend: vec![0; 1 << 20], ..Desk::default() };
        desk.request.fields.push(Known::Other, b"a", &[b'b'; 2 * DESK_BYTES]);
        desk.response.fields.push(Known::Other, b"a", &[b'b'; 2 * DESK_BYTES]);
        desk.clear();
        let kept = [
            desk.to_client.capacity(),
            desk.to_backend.capacity(),
            desk.request.fields.capacity(),
            desk.response.fields.capacity(),
        ];
        assert!(kept.iter().all(|&bytes| bytes <= DESK_BYTES), "{kept:?}");
    }
}
