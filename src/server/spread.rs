//! How open connections are counted over the workers, and when an accepted one is handed to a less busy worker.
//!
//! The kernel spreads connections over the workers' sockets by a hash of the addresses, which is uneven when there are
//! few. So a worker that has just accepted compares its own count with those of two others and hands the connection
//! over when it is *clearly* busier: `own > 1.25 × other + 2`. Handing over costs a wake-up and a cold cache, so small
//! differences are left alone. Where only one worker accepts (a Unix socket) nothing else spreads, and any
//! difference counts.

use std::sync::Arc;

use crate::sync::{AtomicU64, Ordering};

/// Who accepts on a listening address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acceptors {
    /// Every worker, each on a socket of its own.
    Every,
    /// One worker for all.
    One,
}

impl Acceptors {
    fn is_busier(self, own: u64, other: u64) -> bool {
        match self {
            Acceptors::Every => own * 4 > other * 5 + 8,
            Acceptors::One => own > other,
        }
    }

    /// The worker that worker `own` hands a fresh connection to, or `None` to keep it. `turn` counts up with every
    /// question, so that over time all others are compared with, two at a time.
    pub(super) fn hand_to(self, own: usize, loads: &Loads, turn: usize) -> Option<usize> {
        let workers = loads.workers();
        let others = workers - 1;
        let least = (0..others.min(2))
            .map(|step| (own + 1 + (turn + step) % others) % workers)
            .min_by_key(|&other| loads.of(other))?;
        self.is_busier(loads.of(own), loads.of(least)).then_some(least)
    }
}

/// Open client connections of every worker. Each count lies alone in its cache lines, its reference count beside it,
/// because every worker writes its own all the time.
#[derive(Debug)]
pub(super) struct Loads(Box<[Arc<Count>]>);

// All orderings here are relaxed: a count stands for nothing but itself, and a stale one only hands over a little
// less evenly.
#[derive(Debug)]
#[repr(align(128))]
struct Count(AtomicU64);

impl Loads {
    /// For this many workers, at least one.
    pub(super) fn new(workers: usize) -> Arc<Loads> {
        Arc::new(Loads((0..workers).map(|_| Arc::new(Count(AtomicU64::new(0)))).collect()))
    }

    fn workers(&self) -> usize {
        self.0.len()
    }

    /// Connections of one worker.
    pub(super) fn of(&self, worker: usize) -> u64 {
        self.0[worker].0.load(Ordering::Relaxed)
    }

    /// Connections of all workers.
    pub(super) fn total(&self) -> u64 {
        (0..self.workers()).map(|worker| self.of(worker)).sum()
    }

    /// Counts one connection for a worker, until what is returned is dropped.
    pub(super) fn open(&self, worker: usize) -> Open {
        let count = Arc::clone(&self.0[worker]);
        count.0.fetch_add(1, Ordering::Relaxed);
        Open(count)
    }
}

/// One connection being counted.
#[derive(Debug)]
pub(super) struct Open(Arc<Count>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(counts: &[usize]) -> (Arc<Loads>, Vec<Open>) {
        let loads = Loads::new(counts.len());
        let open = counts.iter().enumerate().flat_map(|(worker, &count)| (0..count).map(move |_| worker));
        let open = open.map(|worker| loads.open(worker)).collect();
        (loads, open)
    }

    #[test]
    fn a_lone_worker_keeps_everything() {
        let (loads, _open) = loads(&[100]);
        assert_eq!(Acceptors::Every.hand_to(0, &loads, 0), None);
        assert_eq!(Acceptors::One.hand_to(0, &loads, 7), None);
    }

    #[test]
    fn a_small_difference_is_left_alone_and_a_clear_one_is_not() {
        for (own, other, handed) in [(2, 0, false), (3, 0, true), (127, 100, false), (128, 100, true)] {
            let (loads, _open) = loads(&[own, other]);
            assert_eq!(Acceptors::Every.hand_to(0, &loads, 0), handed.then_some(1), "{own} and {other}");
        }
    }

    #[test]
    fn a_lone_acceptor_hands_over_at_any_difference() {
        let (two, _open) = loads(&[1, 0]);
        assert_eq!(Acceptors::One.hand_to(0, &two, 0), Some(1));
        let (even, _open) = loads(&[1, 1]);
        assert_eq!(Acceptors::One.hand_to(0, &even, 0), None);
    }

    #[test]
    fn the_less_busy_of_two_others_gets_it() {
        let (loads, _open) = loads(&[20, 9, 3]);
        for turn in 0..4 {
            assert_eq!(Acceptors::Every.hand_to(0, &loads, turn), Some(2));
        }
    }

    #[test]
    fn every_other_worker_is_compared_with_in_turn() {
        let (loads, _open) = loads(&[9, 9, 9, 9, 0, 9]);
        let found = (0..5).filter(|&turn| Acceptors::Every.hand_to(1, &loads, turn) == Some(4)).count();
        assert_eq!(found, 2, "two of five turns look at the idle one");
        let itself = (0..5).any(|turn| Acceptors::Every.hand_to(4, &loads, turn).is_some());
        assert!(!itself, "the idle one hands nothing over");
    }

    #[test]
    fn a_count_ends_with_its_connection() {
        let (loads, open) = loads(&[2, 1]);
        assert_eq!((loads.of(0), loads.total()), (2, 3));
        drop(open);
        assert_eq!(loads.total(), 0);
    }
}
