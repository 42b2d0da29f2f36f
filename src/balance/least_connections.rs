//! The backend with the least `in_flight / weight`, counted over all workers.
//!
//! Ties are the common case on a quiet pool (everything is at 0), so they are shared out by smooth weighted round robin
//! among the tied rather than sent to the first.

use super::contenders::Contenders;
use super::weighted_round_robin::Smooth;
use super::{Ask, Candidate, Dice, Picker};

/// Least connections, with what one worker needs to share out ties.
#[derive(Clone, Debug)]
pub struct LeastConnections {
    contenders: Contenders,
    ties: Smooth,
}

impl LeastConnections {
    /// For `among`; the dice choose where the turns of ties begin.
    #[must_use]
    pub fn new(among: &[impl Candidate], dice: &mut Dice) -> LeastConnections {
        LeastConnections { contenders: Contenders::with_room(among.len()), ties: Smooth::seeded(among, dice) }
    }
}

impl Picker for LeastConnections {
    fn pick<C: Candidate>(&mut self, among: &[C], ask: &mut Ask<'_>) -> Option<usize> {
        self.ties.fit(among.len());
        let (running, favoured) = self.contenders.compete(among, ask);
        let least = running.iter().min_by(|a, b| a.compare_load(b))?;
        if let Some(favoured) = favoured.map(|place| &running[place]).filter(|one| one.compare_load(least).is_eq()) {
            return Some(favoured.index);
        }
        let tied = running.iter().filter(|contender| contender.compare_load(least).is_eq());
        self.ties.choose(tied.map(|contender| (contender.index, contender.weight)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{Fake, picks, shares};
    use super::*;

    fn picker(among: &[Fake]) -> LeastConnections {
        LeastConnections::new(among, &mut Dice::seeded(1))
    }

    #[test]
    fn the_least_loaded_by_weight_is_picked() {
        let among = [Fake::new(1).in_flight(2), Fake::new(2).weight(4).in_flight(7), Fake::new(3).in_flight(3)];
        assert_eq!(picks(&mut picker(&among), &among, 3), [1, 1, 1]);
    }

    #[test]
    fn ties_do_not_go_to_the_first() {
        let among = [Fake::new(1).in_flight(1), Fake::new(2), Fake::new(3), Fake::new(4)];
        assert_eq!(shares(&mut picker(&among), &among, 300), [0, 100, 100, 100]);
    }

    #[test]
    fn ties_are_shared_by_weight() {
        let among = [Fake::new(1).weight(3), Fake::new(2)];
        assert_eq!(shares(&mut picker(&among), &among, 400), [300, 100]);
    }
}
