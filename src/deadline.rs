//! Deadlines that are moved often and pass seldom.
//!
//! A connection has one [`Deadline`] and sets it anew at every step of a request: that is a store into the worker's
//! [`Wheel`], no timer is touched. One task per worker turns the wheel. It sleeps until the earliest deadline it saw when
//! it last looked, wakes those that have passed, and looks for the next; a deadline that was moved on meanwhile costs
//! nothing. A worker without deadlines sleeps for ever.
//!
//! A timer of the runtime per connection was measured before: it cost an allocation and, whenever it became the earliest
//! one, a write to the runtime's own event descriptor and a wake-up for nothing.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::{self, Instant};

/// How long the wheel rests at least between two looks; deadlines pass at most this much late. A look at 10,000
/// connections takes some 20 µs, so this bounds it to a thousandth of a core.
pub const GRAIN: Duration = Duration::from_millis(20);

/// All deadlines of one worker.
#[derive(Debug, Default)]
pub struct Wheel {
    slots: RefCell<Slots>,
    /// When it last looked.
    looked: Cell<Instant>,
    /// When it looks next; `None`: when it is told to.
    next: Cell<Option<Instant>>,
    sooner: Notify,
}

#[derive(Debug, Default)]
struct Slots {
    all: Vec<Slot>,
    free: Vec<usize>,
}

#[derive(Debug, Default)]
struct Slot {
    due: Option<Instant>,
    waker: Option<Waker>,
}

impl Wheel {
    /// Turns the wheel for ever; one task of the worker.
    pub async fn turn(self: Rc<Self>) {
        loop {
            self.look(clock::now());
            let sooner = self.sooner.notified();
            match self.next.get() {
                None => sooner.await,
                // Losing either is nothing: the next look finds everything.
                Some(next) => tokio::select! {
                    () = tokio::time::sleep_until(clock::timer(next)) => {}
                    () = sooner => tokio::time::sleep(GRAIN).await,
                },
            }
        }
    }

    /// Wakes what has passed and finds the earliest of the rest.
    fn look(&self, now: Instant) {
        self.looked.set(now);
        let mut late = Vec::new();
        let mut next: Option<Instant> = None;
        for slot in &mut self.slots.borrow_mut().all {
            match slot.due {
                Some(due) if due <= now => late.extend(slot.waker.take()),
                Some(due) => next = Some(next.map_or(due, |next| next.min(due))),
                None => {}
            }
        }
        self.next.set(next.map(|next| next.max(now + GRAIN)));
        late.into_iter().for_each(Waker::wake);
    }

    /// A deadline at `at` was set: look in time for it.
    fn look_by(&self, at: Instant) {
        if self.next.get().is_none_or(|next| at < next) {
            self.next.set(Some(at));
            self.sooner.notify_one();
        }
    }
}

/// A point in time that a task must not wait beyond. Where a task has one for several waits together, it is the limit of
/// each.
#[derive(Debug)]
pub struct Deadline {
    wheel: Rc<Wheel>,
    slot: usize,
    limit: Instant,
}

impl Deadline {
    /// One that is not set, on this wheel.
    #[must_use]
    pub fn on(wheel: &Rc<Wheel>) -> Deadline {
        let mut slots = wheel.slots.borrow_mut();
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.all.push(Slot::default());
            slots.all.len() - 1
        });
        Deadline { wheel: Rc::clone(wheel), slot, limit: Instant::NEVER }
    }

    /// From the next [`Deadline::set`] on it is never later than `limit`; `None`: as late as it is set.
    pub fn limit(&mut self, limit: Option<Instant>) {
        self.limit = limit.unwrap_or(Instant::NEVER);
    }

    /// Whether the limit is over, and not only a wait of its own.
    #[must_use]
    pub fn is_over_limit(&self, now: Instant) -> bool {
        self.limit <= now
    }

    /// Moves it to `at`, or to the limit where that is sooner.
    pub fn set(&mut self, at: Instant) {
        let at = at.min(self.limit);
        self.wheel.slots.borrow_mut().all[self.slot].due = Some(at);
        self.wheel.look_by(at);
    }

    /// Ready when it has passed; pending for ever when none is set.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let slot = &mut self.wheel.slots.borrow_mut().all[self.slot];
        match slot.due {
            Some(due) if due <= self.wheel.looked.get() => return Poll::Ready(()),
            Some(_) => {}
            None => return Poll::Pending,
        }
        match &slot.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => slot.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let mut slots = self.wheel.slots.borrow_mut();
        slots.all[self.slot] = Slot::default();
        slots.free.push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    async fn passes_after(deadline: &mut Deadline) -> Duration {
        let begin = clock::now();
        std::future::poll_fn(|cx| deadline.poll(cx)).await;
        clock::now().since(begin)
    }

    fn is_pending(deadline: &mut Deadline) -> impl Future<Output = bool> {
        std::future::poll_fn(|cx| Poll::Ready(deadline.poll(cx).is_pending()))
    }

    /// Runs `test` while the wheel turns.
    async fn turning<T>(wheel: &Rc<Wheel>, test: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            () = Rc::clone(wheel).turn() => unreachable!("a wheel turns for ever"),
            done = test => done,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_passes_at_its_time_when_moved_later_and_when_moved_earlier() {
        let wheel = Rc::default();
        turning(&wheel, async {
            let mut deadline = Deadline::on(&wheel);
            deadline.set(clock::now() + secs(10));
            assert!(is_pending(&mut deadline).await);
            deadline.set(clock::now() + secs(30));
            let late = passes_after(&mut deadline).await;
            assert!(late >= secs(30) && late < secs(31), "{late:?}");

            deadline.set(clock::now() + secs(60));
            assert!(is_pending(&mut deadline).await);
            deadline.set(clock::now() + secs(2));
            let early = passes_after(&mut deadline).await;
            assert!(early >= secs(2) && early < secs(3), "{early:?}");
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn no_wait_lasts_beyond_the_limit_until_that_is_lifted() {
        let wheel = Rc::default();
        turning(&wheel, async {
            let mut deadline = Deadline::on(&wheel);
            deadline.limit(Some(clock::now() + secs(5)));
            for wait in [secs(2), secs(2)] {
                deadline.set(clock::now() + wait);
                assert!(passes_after(&mut deadline).await >= wait);
                assert!(!deadline.is_over_limit(clock::now()), "only the wait is over");
            }
            deadline.set(clock::now() + secs(100));
            assert!(passes_after(&mut deadline).await < secs(2) && deadline.is_over_limit(clock::now()));
            deadline.limit(None);
            deadline.set(clock::now() + secs(100));
            assert!(passes_after(&mut deadline).await >= secs(100) && !deadline.is_over_limit(clock::now()));
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_not_set_never_passes() {
        let wheel = Rc::default();
        turning(&wheel, async {
            let mut deadline = Deadline::on(&wheel);
            assert!(tokio::time::timeout(secs(100), passes_after(&mut deadline)).await.is_err());
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn each_of_many_passes_at_its_own_time_and_a_dropped_one_leaves_its_slot() {
        let wheel = Rc::default();
        turning(&wheel, async {
            let mut deadlines: Vec<_> = (0..50).map(|_| Deadline::on(&wheel)).collect();
            let begin = clock::now();
            for (n, deadline) in (1..).zip(&mut deadlines) {
                deadline.set(begin + secs(n));
            }
            for (n, deadline) in (1..).zip(&mut deadlines) {
                passes_after(deadline).await;
                let passed = clock::now().since(begin);
                assert!(passed >= secs(n) && passed <= secs(n) + 2 * GRAIN, "{n}: {passed:?}");
            }
            deadlines.clear();
            drop(Deadline::on(&wheel));
            assert_eq!(wheel.slots.borrow().all.len(), 50);
        })
        .await;
    }
}
