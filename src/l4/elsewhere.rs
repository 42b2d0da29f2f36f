//! When somebody whose backend is not to be relied on any more asks for another one: as soon as that is known, and where none
//! was to be had, once more whenever the worker's sessions are told to look, and after a pause. In between nothing has
//! changed that could help, however often the task is woken by what comes from its client or its backend.
//!
//! He goes only to one that is well. Where the ladder ends with backends that are down or held back, the one he has may
//! still answer and they most likely will not: a pool that is slow as a whole would lose all that it has under way.

use std::task::Context;
use std::time::Duration;

use crate::balance::Rung;
use crate::clock;
use crate::deadline::Deadline;
use crate::local::Local;
use crate::state::Lease;

/// The pause after which it is asked again: a place has become free meanwhile, or a retry's leave.
const PAUSE: Duration = Duration::from_millis(100);

/// The lowest step of the ladder on which somebody is found another backend while his own may still answer.
pub const LOWEST: Rung = Rung::Backups;

/// Somebody who may want to go elsewhere.
#[derive(Debug, Default)]
pub struct Elsewhere {
    /// How often the sessions had been told to look when it was asked last.
    asked: Option<u64>,
    pause: Option<Deadline>,
}

impl Elsewhere {
    /// Whether another backend than that of `lease` is to be asked for now.
    pub fn is_due(&mut self, lease: &Lease, local: &Local, cx: &mut Context<'_>) -> bool {
        if !lease.is_withdrawn() {
            return false;
        }
        let is_over = self.pause.as_mut().is_some_and(|pause| pause.poll(cx).is_ready());
        let is_news = self.asked.replace(local.told()) != Some(local.told());
        if is_over {
            self.pause = None;
        }
        is_over || is_news
    }

    /// There was none: the task of `cx` is woken when it is time to ask again.
    pub fn in_vain(&mut self, local: &Local, cx: &mut Context<'_>) {
        let pause = self.pause.get_or_insert_with(|| local.deadline());
        pause.set(clock::now() + PAUSE);
        // Set for later: this only leaves the waker.
        let _ = pause.poll(cx);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Waker;

    use arc_swap::ArcSwap;
    use tokio::runtime::{Builder, LocalOptions};

    use super::*;
    use crate::balance::Tried;
    use crate::config::from_text;
    use crate::state::Snapshot;

    /// Often enough for whatever else wakes a task.
    const WAKES: usize = 1000;

    #[test]
    fn however_often_it_is_woken_it_asks_when_told_to_look_and_after_each_pause() {
        let runtime =
            Builder::new_current_thread().enable_all().start_paused(true).build_local(LocalOptions::default());
        runtime.unwrap().block_on(async {
            let file = "listeners.w = { bind = '127.0.0.1:0', pool = 'p' }\npools.p.backends = ['127.0.0.1:1']";
            let snapshot =
                Snapshot::next(&from_text("test.toml", file).unwrap().config, &crate::tls::Materials::default(), None);
            let local = Local::new(0, Arc::new(ArcSwap::from_pointee(snapshot)), 1);
            let view = local.view();
            let pool = view.snapshot().pool_id("p").unwrap();
            let taken = local.roll(|dice| view.take(pool, clock::now(), 0, &mut Tried::default(), dice));
            let (lease, mut elsewhere) = (taken.unwrap().lease, Elsewhere::default());
            let mut cx = Context::from_waker(Waker::noop());
            let mut asks = |in_vain: bool| {
                let due = (0..WAKES).filter(|_| elsewhere.is_due(&lease, &local, &mut cx)).count();
                if in_vain {
                    elsewhere.in_vain(&local, &mut cx);
                }
                due
            };
            assert_eq!(asks(false), 0, "its backend is as good as any");
            lease.state().withdraw();
            assert_eq!((asks(false), asks(false)), (1, 0));
            local.wake_all();
            assert_eq!((asks(true), asks(false)), (1, 0));
            for _ in 0..10 {
                tokio::time::sleep(2 * PAUSE).await;
                assert_eq!((asks(true), asks(false)), (1, 0));
            }
            tokio::time::sleep(2 * PAUSE).await;
            assert_eq!(asks(false), 1);
            tokio::time::sleep(10 * PAUSE).await;
            assert_eq!(asks(false), 0, "who may not go has no pause to wait for");
        });
    }
}
