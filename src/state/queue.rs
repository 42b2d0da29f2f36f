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
        let mut has_room = false;
        for backend in &**backends {
            has_room |= backend.state.await_release(backend.limit);
            self.awaited.insert(backend.state.id(), Arc::clone(&backend.state));
        }
        // Without those that left meanwhile the list is never longer than what is in use.
        self.awaited.retain(|_, state| !state.is_drained());
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

    /// A backend was taken, and so much room is left: gives up the place and calls the next if it is for him.
    pub(super) fn served(&mut self, room: usize) {
        self.state = Following::Served;
        let mut line = self.queue.lock();
        line.leave(self.number);
        let waker = if room > line.called.len() { line.call_behind(0) } else { None };
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
