//! The same key to the same backend, by one look into a Maglev table (Eisenbud et al., NSDI 2016).
//!
//! The table is built once from identities and weights of the primaries and shared by all workers; their order does not
//! matter. A change of the pool moves the share of what changed and a little more, the error of the table. When the
//! owner of a key may not be used, the key goes to the best of the others by rendezvous hashing: only the owner's keys
//! move, they spread over all others, and the answer is found, or found missing, in one pass. Backups have no places in
//! the table; on their rung all keys go by rendezvous.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::ip_hash::rendezvous;
use super::{Ask, Candidate, Picker};

/// A prime (Maglev's permutations need one), and large beside a hundred backends, which keeps shares within a percent.
const PLACES: usize = 65_537;

/// Fixed for ever, like that of keys: where a backend's walk through the table starts, and how far its steps are.
const START_SEED: u64 = 0x6d61_676c_6576_0001;
const STEP_SEED: u64 = 0x6d61_676c_6576_0002;

/// Who owns which part of the keys.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    /// An index at each place; empty for a pool without primaries.
    owners: Box<[u16]>,
}

impl Table {
    /// The owner of `key`.
    fn owner(&self, key: u64) -> Option<usize> {
        let place = key.checked_rem(self.owners.len() as u64)?;
        self.owners.get(usize::try_from(place).ok()?).map(|&index| usize::from(index))
    }
}

/// One backend's way through the table.
struct Walker {
    index: u16,
    identity: u64,
    weight: u64,
    place: usize,
    step: usize,
    /// It takes a place when the round times its weight has reached this.
    due: u64,
}

impl Walker {
    fn new(index: u16, identity: u64, weight: u32) -> Walker {
        let hash = |seed, below: usize| (xxh3_64_with_seed(&identity.to_le_bytes(), seed) % below as u64) as usize;
        let (place, step) = (hash(START_SEED, PLACES), 1 + hash(STEP_SEED, PLACES - 1));
        Walker { index, identity, weight: u64::from(weight.max(1)), place, step, due: 0 }
    }

    /// Walks on to the next free place and takes it. There is one: steps of any size reach every place of a prime
    /// number.
    fn take(&mut self, owners: &mut [Option<u16>]) {
        while owners[self.place].is_some() {
            self.place = (self.place + self.step) % PLACES;
        }
        owners[self.place] = Some(self.index);
    }
}

/// Consistent hashing over the key of the request.
#[derive(Clone, Debug)]
pub struct ConsistentHash {
    table: Arc<Table>,
}

impl ConsistentHash {
    /// A picker over a table built for the same candidates in the same order.
    #[must_use]
    pub fn new(table: Arc<Table>) -> ConsistentHash {
        ConsistentHash { table }
    }

    /// The table over `among`; costs some milliseconds.
    #[must_use]
    pub fn table(among: &[impl Candidate]) -> Arc<Table> {
        let walkers = (0..).zip(among).filter(|(_, candidate)| !candidate.is_backup());
        let mut walkers: Vec<Walker> =
            walkers.map(|(index, candidate)| Walker::new(index, candidate.identity(), candidate.weight())).collect();
        walkers.sort_unstable_by_key(|walker| walker.identity);
        Arc::new(Table { owners: fill(&mut walkers) })
    }
}

/// Lets the walkers take places in rounds, each as often as its weight is of the largest, until none is free.
fn fill(walkers: &mut [Walker]) -> Box<[u16]> {
    let Some(most) = walkers.iter().map(|walker| walker.weight).max() else {
        return Box::default();
    };
    let mut owners = vec![None; PLACES];
    let mut free = PLACES;
    for round in 0.. {
        for walker in walkers.iter_mut() {
            if free == 0 {
                return owners.into_iter().flatten().collect();
            }
            if round * walker.weight >= walker.due {
                walker.due += most;
                walker.take(&mut owners);
                free -= 1;
            }
        }
    }
    Box::default()
}

impl Picker for ConsistentHash {
    fn pick<C: Candidate>(&mut self, among: &[C], ask: &mut Ask<'_>) -> Option<usize> {
        let owner = self.table.owner(ask.key);
        let admitted = owner.filter(|&index| among.get(index).is_some_and(|candidate| ask.admits(index, candidate)));
        admitted.or_else(|| rendezvous(among, ask))
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{Fake, pick_for, picks};
    use super::super::hash_key;
    use super::*;

    fn counts(table: &Table, of: usize) -> Vec<usize> {
        let mut counts = vec![0; of];
        table.owners.iter().for_each(|&owner| counts[usize::from(owner)] += 1);
        counts
    }

    #[test]
    fn places_are_owned_by_weight() {
        let among = [Fake::new(1).weight(3), Fake::new(2), Fake::new(3).weight(2), Fake::new(4).backup()];
        let counts = counts(&ConsistentHash::table(&among), 4);
        for (count, weight) in counts.iter().zip([3, 1, 2, 0]) {
            assert!(count.abs_diff(PLACES * weight / 6) <= 6, "{counts:?}");
        }
    }

    #[test]
    fn the_lightest_beside_the_heaviest_still_owns_something() {
        let mut among: Vec<Fake> = (0..100).map(|id| Fake::new(id).weight(1000)).collect();
        among.push(Fake::new(100));
        assert!(counts(&ConsistentHash::table(&among), 101)[100] > 0);
    }

    #[test]
    fn the_order_in_the_file_does_not_matter() {
        let among: Vec<Fake> = (0..5).map(Fake::new).collect();
        let reversed: Vec<Fake> = among.iter().rev().cloned().collect();
        let (forth, back) = (ConsistentHash::table(&among), ConsistentHash::table(&reversed));
        assert!(forth.owners.iter().zip(&back.owners).all(|(forth, back)| *forth == 4 - back));
    }

    #[test]
    fn clients_never_move_between_releases() {
        let among: Vec<Fake> = (0..5).map(|id| Fake::new(id).weight(1 + id as u32 % 2)).collect();
        let mut picker = ConsistentHash::new(ConsistentHash::table(&among));
        assert_eq!(picks(&mut picker, &among, 12), [1, 1, 0, 1, 4, 1, 0, 4, 3, 4, 3, 4]);
    }

    #[test]
    fn a_pool_of_backups_only_goes_by_rendezvous() {
        let among = [Fake::new(1).backup(), Fake::new(2).backup()];
        let mut picker = ConsistentHash::new(ConsistentHash::table(&among));
        assert_eq!(pick_for(&mut picker, &among, hash_key(b"x")), None);
        assert_eq!(picker.table.owner(7), None);
    }
}
