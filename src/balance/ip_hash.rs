//! The same client to the same backend, by weighted rendezvous hashing.
//!
//! Every candidate scores `-ln(u) / weight`, `u` being a number between 0 and 1 hashed from the request's key and the
//! candidate's identity, and the lowest score wins: each has its share by weight (rendezvous hashing of Thaler and
//! Ravishankar, 1998, with the logarithmic weights of Schindelhauer and Schomaker, 2005). Nothing is stored, so all
//! workers, restarts and instances agree; a backend that leaves moves only its own clients, and one that comes takes
//! only its share. The cost grows with the pool.
//!
//! With a bounded load (Mirrokni, Thorup and Zadimoghaddam 2016) a candidate that has more than its multiple of the
//! mean is passed over for the next best score.

use std::cmp::Ordering;

use super::contenders::{Contender, Contenders, total_weight};
use super::{Ask, Candidate, Picker};

/// Odd numbers without a pattern, fixed for ever: others would move every client. Keys and identities are hashes
/// already, so two multiplications are enough to make one number of both.
const MIX: [u64; 3] = [0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93, 0xa5a3_5625_9ac6_95b3];

/// Weighted rendezvous hashing over the key of the request.
#[derive(Clone, Debug)]
pub struct IpHash {
    contenders: Contenders,
    bounded_load: Option<f64>,
}

impl IpHash {
    /// With room for `count` candidates; `bounded_load` is the multiple of the mean load that none may exceed.
    #[must_use]
    pub fn new(count: usize, bounded_load: Option<f64>) -> IpHash {
        IpHash { contenders: Contenders::with_room(count), bounded_load }
    }
}

impl Picker for IpHash {
    fn pick<C: Candidate>(&mut self, among: &[C], ask: &mut Ask<'_>) -> Option<usize> {
        let Some(multiple) = self.bounded_load else {
            return rendezvous(among, ask);
        };
        let running = self.contenders.gather(among, ask);
        let bound = Bound::of(running, multiple);
        let with_room = running.iter().filter(|contender| bound.leaves_room(contender));
        lowest_score(with_room.map(|contender| (contender.index, &among[contender.index])), ask.key)
    }
}

/// The admitted candidate with the lowest score.
pub(super) fn rendezvous<C: Candidate>(among: &[C], ask: &Ask<'_>) -> Option<usize> {
    let admitted = among.iter().enumerate().filter(|&(index, candidate)| ask.admits(index, candidate));
    lowest_score(admitted, ask.key)
}

/// Of equal scores, which no two identities should give, the lower identity's: the order in the file never matters.
fn lowest_score<'a, C: Candidate + 'a>(running: impl Iterator<Item = (usize, &'a C)>, key: u64) -> Option<usize> {
    let bids = running.map(|(index, candidate)| Bid {
        index,
        hash: mix(mix(key ^ MIX[0], candidate.identity() ^ MIX[1]), MIX[2]),
        weight: candidate.weight().max(1),
        identity: candidate.identity(),
    });
    bids.min_by(|a, b| a.compare_score(b).then(a.identity.cmp(&b.identity))).map(|bid| bid.index)
}

/// What a candidate offers for a key.
struct Bid {
    index: usize,
    hash: u64,
    weight: u32,
    identity: u64,
}

impl Bid {
    /// With equal weights the larger hash has the lower score, which saves the logarithms.
    fn compare_score(&self, other: &Bid) -> Ordering {
        if self.weight == other.weight {
            return other.hash.cmp(&self.hash);
        }
        self.score().total_cmp(&other.score())
    }

    fn score(&self) -> f64 {
        // 53 bits and a half step: strictly between 0 and 1, so the logarithm is finite and below 0
        let unit = ((self.hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -unit.ln() / f64::from(self.weight)
    }
}

/// The two halves of a product folded into one: every bit of the result hangs on all bits of both.
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

/// How much a candidate may have.
struct Bound {
    /// In flight per unit of weight.
    per_weight: f64,
}

impl Bound {
    /// `multiple` of the mean, the request to come included. As it is above 1, at least one candidate is always below
    /// it.
    fn of(running: &[Contender], multiple: f64) -> Bound {
        let in_flight: u64 = running.iter().map(|contender| u64::from(contender.in_flight)).sum();
        Bound { per_weight: multiple.max(1.0) * (in_flight + 1) as f64 / total_weight(running) as f64 }
    }

    fn leaves_room(&self, contender: &Contender) -> bool {
        f64::from(contender.in_flight) < (self.per_weight * f64::from(contender.weight)).ceil()
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{Fake, pick_for, picks};
    use super::*;

    #[test]
    fn the_order_in_the_file_does_not_matter() {
        let among: Vec<Fake> = (0..7).map(Fake::new).collect();
        let reversed: Vec<Fake> = among.iter().rev().cloned().collect();
        for key in 0..500 {
            let forth = pick_for(&mut IpHash::new(7, None), &among, key).unwrap();
            let back = pick_for(&mut IpHash::new(7, None), &reversed, key).unwrap();
            assert_eq!(forth, 6 - back);
        }
    }

    #[test]
    fn clients_never_move_between_releases() {
        let among: Vec<Fake> = (0..5).map(|id| Fake::new(id).weight(1 + id as u32 % 2)).collect();
        assert_eq!(picks(&mut IpHash::new(5, None), &among, 12), [0, 3, 2, 3, 0, 0, 3, 3, 1, 0, 0, 3]);
    }

    #[test]
    fn a_loaded_owner_is_passed_over_and_comes_back() {
        let among: Vec<Fake> = (0..4).map(Fake::new).collect();
        let owner = pick_for(&mut IpHash::new(4, None), &among, 42).unwrap();
        let mut busy = among.clone();
        busy.iter_mut().for_each(|fake| *fake = fake.clone().in_flight(10));
        assert_eq!(pick_for(&mut IpHash::new(4, Some(1.25)), &busy, 42), Some(owner), "all alike: within its bound");
        busy[owner] = busy[owner].clone().in_flight(30);
        assert_ne!(pick_for(&mut IpHash::new(4, Some(1.25)), &busy, 42), Some(owner));
        assert_eq!(pick_for(&mut IpHash::new(4, None), &busy, 42), Some(owner));
        assert_eq!(pick_for(&mut IpHash::new(4, Some(1.25)), &among, 42), Some(owner));
    }

    #[test]
    fn a_bounded_load_always_leaves_an_answer() {
        let mut dice = super::super::Dice::seeded(9);
        for key in 0..2000 {
            let count = 1 + dice.index(5);
            let fake = |id| Fake::new(id).weight(1 + dice.below(9) as u32).in_flight(dice.below(40) as u32);
            let among: Vec<Fake> = (0..count as u64).map(fake).collect();
            assert!(pick_for(&mut IpHash::new(count, Some(1.01)), &among, key).is_some());
        }
    }
}
