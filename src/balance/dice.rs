//! The dice of one worker: seeded, so that every draw of a test or a simulation can be replayed.
//!
//! Not for secrets: who sees enough draws can foretell the next.

use xxhash_rust::xxh3::xxh3_64;

/// A sequence of pseudo-random numbers that follows from its seed alone.
#[derive(Clone, Debug)]
pub struct Dice(fastrand::Rng);

impl Dice {
    /// Dice whose rolls follow from `seed`; neighbouring seeds give unrelated rolls.
    #[must_use]
    pub fn seeded(seed: u64) -> Dice {
        Dice(fastrand::Rng::with_seed(xxh3_64(&seed.to_le_bytes())))
    }

    /// Any number.
    #[expect(clippy::should_implement_trait, reason = "dice never run out, so they are no iterator")]
    pub fn next(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// A number from 0 up to, but not including, `n`; 0 when `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.0.u64(..n) }
    }

    /// An index into something of length `len`; 0 when that is empty.
    pub fn index(&mut self, len: usize) -> usize {
        if len == 0 { 0 } else { self.0.usize(..len) }
    }

    /// A number from 0 up to, but not including, 1.
    pub fn unit(&mut self) -> f64 {
        self.0.f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_rolls_the_same() {
        let (mut a, mut b, mut c) = (Dice::seeded(7), Dice::seeded(7), Dice::seeded(8));
        let rolls: Vec<u64> = (0..8).map(|_| a.next()).collect();
        assert_eq!(rolls, (0..8).map(|_| b.next()).collect::<Vec<_>>());
        assert_ne!(rolls, (0..8).map(|_| c.next()).collect::<Vec<_>>());
    }

    #[test]
    fn rolls_stay_below_their_bound_and_reach_every_number_under_it() {
        let mut dice = Dice::seeded(1);
        let mut seen = [false; 6];
        for _ in 0..200 {
            seen[dice.index(6)] = true;
            assert!(dice.below(3) < 3);
            assert!((0.0..1.0).contains(&dice.unit()));
        }
        assert_eq!(seen, [true; 6]);
        assert_eq!((dice.below(0), dice.index(0)), (0, 0));
    }
}
