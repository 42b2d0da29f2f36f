//! Two different usable backends drawn by weight, and of them the one with the smaller `in_flight / weight`.
//!
//! Two draws are nearly as even as looking at all (Mitzenmacher, "The Power of Two Choices in Randomized Load
//! Balancing", 1996) and do not herd when many balancers act on the same counts. On a tie the first drawn wins, which
//! keeps shares by weight.

use super::contenders::{Contenders, draw_two};
use super::{Ask, Candidate, Picker};

/// The power of two choices.
#[derive(Clone, Debug)]
pub struct TwoChoices {
    contenders: Contenders,
}

impl TwoChoices {
    /// With room for `count` candidates.
    #[must_use]
    pub fn new(count: usize) -> TwoChoices {
        TwoChoices { contenders: Contenders::with_room(count) }
    }
}

impl Picker for TwoChoices {
    fn pick<C: Candidate>(&mut self, among: &[C], ask: &mut Ask<'_>) -> Option<usize> {
        let (running, favoured) = self.contenders.compete(among, ask);
        let (first, second) = draw_two(running, favoured, ask.dice)?;
        let (first, second) = (&running[first], &running[second]);
        Some(if second.compare_load(first).is_lt() { second.index } else { first.index })
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{Fake, shares};
    use super::*;

    #[test]
    fn the_busiest_of_all_is_never_picked() {
        let among = [Fake::new(1).in_flight(9), Fake::new(2).in_flight(8), Fake::new(3), Fake::new(4)];
        let shares = shares(&mut TwoChoices::new(4), &among, 2000);
        assert_eq!(shares[0], 0);
        assert!(shares[1] > 200 && shares[2] > 500 && shares[3] > 500, "{shares:?}");
    }

    #[test]
    fn idle_backends_share_by_weight() {
        let among = [Fake::new(1).weight(3), Fake::new(2), Fake::new(3).weight(2)];
        let shares = shares(&mut TwoChoices::new(3), &among, 12_000);
        for (share, fair) in shares.iter().zip([6000usize, 2000, 4000]) {
            assert!(share.abs_diff(fair) < 300, "{shares:?}");
        }
    }
}
