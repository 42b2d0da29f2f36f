//! Who listens when a breaker changes: each worker, whose requests then leave a backend that is left alone; and on the control
//! thread who keeps the time, so that an open breaker becomes half-open also when nobody asks it.
//!
//! The workers are not told by way of control: it may be reading a large file just then.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock;
use crate::local::Local;
use crate::state::{Listener, Snapshot};

/// For how long further rings wait for each other: neither to wake every session nor to look at every backend is cheap, and
/// in an outage many breakers open together.
const CALM: Duration = Duration::from_millis(20);

/// Has a worker's sessions look at what they stand on, each time that a backend was withdrawn.
pub(super) async fn wake_sessions(local: Rc<Local>, mut withdrawn: Listener) {
    loop {
        withdrawn.rung().await;
        local.wake_all();
        tokio::time::sleep(CALM).await;
    }
}

/// Makes breakers half-open when their open time is over. It sleeps while none is open.
pub(super) async fn keep_time(snapshots: Arc<ArcSwap<Snapshot>>) {
    let mut opened = snapshots.load().bells().opened.listen();
    loop {
        let next = snapshots.load().turn_breakers(clock::now());
        // Cancelling loses nothing: a ring is heard the next time, and the sleep is begun anew.
        match next {
            Some(next) => tokio::select! {
                () = tokio::time::sleep_until(clock::timer(next)) => continue,
                () = opened.rung() => {}
            },
            None => opened.rung().await,
        }
        tokio::time::sleep(CALM).await;
    }
}
