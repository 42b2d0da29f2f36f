//! A bell that a worker rings when a breaker has changed, and that others hear on threads of their own.
//!
//! Who rings does no more than that: a count goes up and the listeners' tasks are woken. Several rings before a listener looks
//! are one to him, and none is lost. The lock is held for as long as that takes; a request touches it only when a breaker
//! changes its state by it.

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::sync::{Mutex, MutexGuard};

/// The bells of all breakers, the same in every configuration of a process.
#[derive(Debug, Default)]
pub struct Bells {
    /// Backends were withdrawn because their breakers opened: for who has requests that wait for them.
    pub withdrawn: Arc<Bell>,
    /// Breakers opened, or may be other ones now: for who keeps their time.
    pub opened: Arc<Bell>,
}

/// Something that can be rung and heard.
pub struct Bell {
    tower: Mutex<Tower>,
}

#[derive(Default)]
struct Tower {
    rung: u64,
    /// Those who heard all of it and wait for more.
    waiting: Vec<Waker>,
}

impl Default for Bell {
    fn default() -> Self {
        Bell { tower: Mutex::new(Tower::default()) }
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bell")
    }
}

impl Bell {
    /// All who listen hear it.
    pub fn ring(&self) {
        let mut tower = self.lock();
        tower.rung += 1;
        let waiting = std::mem::take(&mut tower.waiting);
        drop(tower);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Listens from now on.
    #[must_use]
    pub fn listen(self: &Arc<Bell>) -> Listener {
        Listener { heard: self.lock().rung, bell: Arc::clone(self) }
    }

    fn lock(&self) -> MutexGuard<'_, Tower> {
        // Nothing in here panics half-way; if it ever did, a count is still a count.
        self.tower.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who listens to a bell.
#[derive(Debug)]
pub struct Listener {
    bell: Arc<Bell>,
    heard: u64,
}

impl Listener {
    /// Waits until it is rung, if it was not since the last time. Cancelling loses nothing.
    pub async fn rung(&mut self) {
        poll_fn(|cx| self.poll_rung(cx)).await;
    }

    fn poll_rung(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut tower = self.bell.lock();
        if tower.rung != self.heard {
            self.heard = tower.rung;
            return Poll::Ready(());
        }
        if !tower.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            tower.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn each_listener_hears_of_any_number_of_rings_once_and_of_none_before_he_came() {
        let (bell, woken) = (Arc::new(Bell::default()), Arc::new(Woken::default()));
        bell.ring();
        let mut listeners = [bell.listen(), bell.listen()];
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        for listener in &mut listeners {
            assert!(listener.poll_rung(&mut cx).is_pending() && listener.poll_rung(&mut cx).is_pending());
        }
        (0..3).for_each(|_| bell.ring());
        assert_eq!(woken.0.load(Ordering::SeqCst), 1, "one task, which has not looked yet");
        for listener in &mut listeners {
            assert!(listener.poll_rung(&mut cx).is_ready() && listener.poll_rung(&mut cx).is_pending());
        }
        bell.ring();
        assert_eq!(woken.0.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_ring_from_another_thread_is_never_lost() {
        let (bell, rings) = (Arc::new(Bell::default()), 10_000);
        let mut listener = bell.listen();
        struct Thread(std::thread::Thread);
        impl Wake for Thread {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Waker::from(Arc::new(Thread(std::thread::current())));
        std::thread::scope(|scope| {
            scope.spawn(|| (0..rings).for_each(|_| bell.ring()));
            while bell.lock().rung < rings || listener.heard < rings {
                if listener.poll_rung(&mut Context::from_waker(&waker)).is_pending() && listener.heard < rings {
                    std::thread::park_timeout(std::time::Duration::from_secs(60));
                }
            }
        });
    }
}
