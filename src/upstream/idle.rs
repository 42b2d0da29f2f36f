//! Idle connections: which to use again, which to close.
//!
//! One worker's, by backend, last in first out: the warmest is used first and the others grow old and are closed. It
//! holds anything, so it can be reasoned about without sockets; the caller looks whether a connection is still silent.

use std::time::Duration;

use crate::clock::Instant;
use crate::serial::BySerial;

/// How many idle connections one worker keeps to one backend. A burst above it is served by connections that are closed
/// after their answer.
pub const MOST: usize = 512;

#[derive(Debug)]
struct Idle<C> {
    connection: C,
    since: Instant,
    until: Instant,
}

/// The idle connections of one worker, by the serial number of the backend's state.
#[derive(Debug)]
pub struct IdleConnections<C> {
    backends: BySerial<Vec<Idle<C>>>,
}

impl<C> Default for IdleConnections<C> {
    fn default() -> Self {
        IdleConnections { backends: BySerial::default() }
    }
}

impl<C> IdleConnections<C> {
    /// Keeps a connection for `keep`; gives it back (to be closed) when there are enough.
    pub fn put(&mut self, backend: u64, connection: C, now: Instant, keep: Duration) -> Option<C> {
        let stack = self.backends.entry(backend).or_default();
        if stack.len() >= MOST {
            return Some(connection);
        }
        stack.push(Idle { connection, since: now, until: now + keep });
        None
    }

    /// The connection that was put last, if it has not been idle for longer than `at_most`.
    pub fn take(&mut self, backend: u64, now: Instant, at_most: Duration) -> Option<C> {
        let stack = self.backends.get_mut(&backend)?;
        let last = stack.last()?;
        let usable = now < last.until && now.since(last.since) <= at_most;
        // The last one is the youngest: when it is too old, all are.
        if usable { stack.pop().map(|idle| idle.connection) } else { None }
    }

    /// Removes those whose time is over and those that `is_alive` denies; the earliest time at which there is something to
    /// remove again, `None` when none are left.
    pub fn sweep(&mut self, now: Instant, mut is_alive: impl FnMut(&C) -> bool) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        self.backends.retain(|_, stack| {
            stack.retain(|idle| now < idle.until && is_alive(&idle.connection));
            let first = stack.iter().map(|idle| idle.until).min();
            next = [next, first].into_iter().flatten().min();
            !stack.is_empty()
        });
        next
    }

    /// Removes all to backends that `keeps` denies.
    pub fn retain_backends(&mut self, mut keeps: impl FnMut(u64) -> bool) {
        self.backends.retain(|backend, _| keeps(*backend));
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.backends.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(60);
    const ANY: Duration = Duration::MAX;

    fn t(seconds: u64) -> Instant {
        Instant::ORIGIN + Duration::from_secs(seconds)
    }

    #[test]
    fn the_last_put_is_taken_first_and_only_for_its_backend() {
        let mut idle = IdleConnections::default();
        idle.put(1, "old", t(0), KEEP);
        idle.put(1, "new", t(1), KEEP);
        assert_eq!(idle.take(2, t(2), ANY), None);
        assert_eq!(idle.take(1, t(2), ANY), Some("new"));
        assert_eq!(idle.take(1, t(2), ANY), Some("old"));
        assert_eq!(idle.take(1, t(2), ANY), None);
    }

    #[test]
    fn what_is_too_old_is_not_taken() {
        let mut idle = IdleConnections::default();
        idle.put(1, (), t(0), KEEP);
        assert_eq!(idle.take(1, t(5), Duration::from_secs(4)), None);
        assert_eq!(idle.take(1, t(60), ANY), None);
        assert_eq!(idle.take(1, t(59), ANY), Some(()));
    }

    #[test]
    fn a_sweep_removes_the_old_and_the_dead_and_tells_when_to_come_again() {
        let mut idle = IdleConnections::default();
        idle.put(1, 'a', t(0), KEEP);
        idle.put(1, 'b', t(10), KEEP);
        idle.put(2, 'c', t(20), KEEP);
        assert_eq!(idle.sweep(t(61), |_| true), Some(t(70)));
        assert_eq!(idle.sweep(t(62), |&connection| connection != 'b'), Some(t(80)));
        assert_eq!(idle.sweep(t(80), |_| true), None);
        assert!(idle.is_empty());
    }

    #[test]
    fn no_more_than_the_most_are_kept() {
        let mut idle = IdleConnections::default();
        for n in 0..MOST {
            assert_eq!(idle.put(1, n, t(0), KEEP), None);
        }
        assert_eq!(idle.put(1, MOST, t(0), KEEP), Some(MOST));
    }
}
