//! What the end-to-end tests share: the real binary, scripted origins, raw-byte clients, and waiting for conditions.
//!
//! Everything is blocking and on threads: a test reads like the conversation it is about. Nothing here waits a fixed time;
//! what does not come before [`DEADLINE`] fails the test with the daemon's log.

pub mod client;
pub mod daemon;
pub mod file;
#[allow(dead_code, reason = "for the tests of HTTP/2")]
pub mod frames;
pub mod gate;
#[allow(dead_code, reason = "for the tests of HTTP/2")]
pub mod h2;
pub mod message;
pub mod notify;
pub mod origin;
#[allow(dead_code, reason = "for the tests of all pairs of protocols")]
pub mod sides;
pub mod tls;
pub mod wire;

use std::time::{Duration, Instant};

pub use client::{Client, Response};
pub use daemon::{Daemon, Finished, Launch, run};
#[allow(unused_imports, reason = "not every test asks whose failure it was")]
pub use file::{FAILED, TELLING};
pub use file::{backends, raw, web};
pub use gate::Gate;
pub use message::{End, Head};
pub use notify::NotifySocket;
pub use origin::{Deaf, Origin, Request, Unlistened};
pub use wire::{Ending, Wire};

/// How long anything may take that is expected to happen; generous, because machines that run tests are busy.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Polls until `condition` holds; fails the test with `what` when it does not before the deadline.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// So many bytes that repeat only after a prime number of them, so that lost, doubled and swapped pieces show.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 65_521 % 251) as u8).collect()
}
