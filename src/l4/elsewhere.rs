//! When somebody whose backend is not to be relied on any more asks for another one: as soon as that is known, and where none
//! was to be had, once more whenever the worker's sessions are told to look, and after a pause. In between nothing has
//! changed that could help, however often the task is woken by what comes from its client or its backend.

use std::task::Context;
use std::time::Duration;

use crate::clock;
use crate::deadline::Deadline;
use crate::local::Local;
use crate::state::Lease;

/// The pause after which it is asked again: a place has become free meanwhile, or a retry's leave.
const PAUSE: Duration = Duration::from_millis(100);

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
