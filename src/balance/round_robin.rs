//! Each usable backend in turn, weights ignored.
//!
//! The turn goes to the first usable one at or after the cursor, and the cursor moves behind the winner, so the
//! neighbour of a backend that is out does not get its turns on top of its own. Each worker starts at an offset of its
//! own: many workers with few requests each would otherwise all begin with the first backend.

use super::{Ask, Candidate, Dice, Picker};

/// The cursor of one worker.
#[derive(Clone, Debug)]
pub struct RoundRobin {
    next: usize,
}

impl RoundRobin {
    /// A cursor over `count` candidates at an offset that the dice choose.
    #[must_use]
    pub fn new(count: usize, dice: &mut Dice) -> RoundRobin {
        RoundRobin { next: dice.index(count) }
    }
}

impl Picker for RoundRobin {
    fn pick<C: Candidate>(&mut self, among: &[C], ask: &mut Ask<'_>) -> Option<usize> {
        let start = self.next.min(among.len());
        let index = (start..among.len()).chain(0..start).find(|&index| ask.admits(index, &among[index]))?;
        self.next = index + 1;
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Standing;
    use super::super::conformance::{Fake, picks};
    use super::*;

    #[test]
    fn each_gets_its_turn_whatever_its_weight() {
        let among = [Fake::new(1).weight(9), Fake::new(2), Fake::new(3)];
        assert_eq!(picks(&mut RoundRobin { next: 1 }, &among, 6), [1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn the_neighbour_of_one_that_is_down_gets_no_second_turn() {
        let among = [Fake::new(1), Fake::new(2).standing(Standing::Down), Fake::new(3)];
        assert_eq!(picks(&mut RoundRobin { next: 0 }, &among, 6), [0, 2, 0, 2, 0, 2]);
    }

    #[test]
    fn workers_start_at_different_backends() {
        let starts: std::collections::HashSet<usize> =
            (0..64).map(|seed| RoundRobin::new(4, &mut Dice::seeded(seed)).next).collect();
        assert_eq!(starts.len(), 4);
    }
}
