//! The candidates that may be the answer, read once per pick.
//!
//! In-flight counts and standings are shared between workers and move while a policy looks at them. A policy that goes
//! over its candidates more than once reads them here once, so all its passes see the same numbers. The room is
//! reserved when the picker is built and used again for every pick.
//!
//! A backend that comes back by a slow start has nothing to do, so it would win every comparison of loads, and a weight that
//! divides a load of 0 does not change that; where the load counts the request to come, it would win none until the most of
//! its slow start is over. So lots are drawn by what each has of its weight: a ramping backend competes only for the requests
//! that fall to it, and for those it stands with all of its weight. It gets no more than its growing share, and less where
//! it is busier or slower than the others.

use std::cmp::Ordering;

use super::{Ask, Candidate, Dice, UNIT};

/// One candidate as it was when it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contender {
    pub index: usize,
    /// In hundredths.
    pub weight: u32,
    pub in_flight: u32,
}

impl Contender {
    /// Compares `in_flight / weight` of the two without dividing.
    pub fn compare_load(&self, other: &Contender) -> Ordering {
        let this = u64::from(self.in_flight) * u64::from(other.weight);
        this.cmp(&(u64::from(other.in_flight) * u64::from(self.weight)))
    }
}

/// The room for them.
#[derive(Clone, Debug)]
pub(super) struct Contenders {
    running: Vec<Contender>,
    /// Whether one has not all of its weight.
    ramps: bool,
}

impl Contenders {
    /// Room for `count` of them.
    pub fn with_room(count: usize) -> Contenders {
        Contenders { running: Vec::with_capacity(count), ramps: false }
    }

    /// Reads all that `ask` admits, in the order of `among`, with what each has of its weight.
    pub fn gather<C: Candidate>(&mut self, among: &[C], ask: &Ask<'_>) -> &[Contender] {
        let Contenders { running, ramps } = self;
        running.clear();
        *ramps = false;
        let admitted = among.iter().enumerate().filter(|&(index, candidate)| ask.admits(index, candidate));
        running.extend(admitted.map(|(index, candidate)| {
            let weight = candidate.weight_at(ask.now).max(1);
            *ramps |= weight < candidate.weight() * UNIT;
            Contender { index, weight, in_flight: candidate.in_flight() }
        }));
        running
    }

    /// Those of them that compete for this request, each with all of its weight, and the place of the ramping one to which it
    /// falls if nothing speaks against it.
    pub fn compete<C: Candidate>(&mut self, among: &[C], ask: &mut Ask<'_>) -> (&[Contender], Option<usize>) {
        self.gather(among, ask);
        let favoured = if self.ramps { self.draw_lots(among, ask.dice) } else { None };
        (&self.running, favoured)
    }

    /// Leaves those that have most of their weights, as a rule all of it, and the one on which the lot falls.
    #[cold]
    fn draw_lots<C: Candidate>(&mut self, among: &[C], dice: &mut Dice) -> Option<usize> {
        let full = |contender: &Contender| (among[contender.index].weight() * UNIT).max(1);
        // In percent, as weights of different sizes come back in steps of different sizes.
        let percent = |contender: &Contender| contender.weight * 100 / full(contender);
        let most = self.running.iter().map(percent).max()?;
        let drawn = self.running[place_at(&self.running, dice.below(total_weight(&self.running)), None)?];
        self.running.retain_mut(|contender| {
            let stays = percent(contender) == most || contender.index == drawn.index;
            contender.weight = full(contender);
            stays
        });
        let is_favoured = |contender: &Contender| percent(&drawn) < most && contender.index == drawn.index;
        self.running.iter().position(is_favoured)
    }
}

/// The sum of their weights.
pub(super) fn total_weight(running: &[Contender]) -> u64 {
    running.iter().map(|contender| u64::from(contender.weight)).sum()
}

/// The places in `running` of two different ones, the first of which is the `favoured` if there is one, drawn by weight
/// without replacement; the only one twice, and `None` of none.
pub(super) fn draw_two(running: &[Contender], favoured: Option<usize>, dice: &mut Dice) -> Option<(usize, usize)> {
    let total = total_weight(running);
    let first = match favoured {
        Some(place) => place,
        None => place_at(running, dice.below(total), None)?,
    };
    let left = total - u64::from(running[first].weight);
    let second = place_at(running, dice.below(left), Some(first)).unwrap_or(first);
    Some((first, second))
}

/// The place in which `mark` falls when the weights, without that of `except`, are laid end to end.
fn place_at(running: &[Contender], mut mark: u64, except: Option<usize>) -> Option<usize> {
    running.iter().enumerate().filter(|&(place, _)| Some(place) != except).find_map(|(place, contender)| {
        let weight = u64::from(contender.weight);
        if mark < weight {
            return Some(place);
        }
        mark -= weight;
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contender(index: usize, weight: u32, in_flight: u32) -> Contender {
        Contender { index, weight, in_flight }
    }

    #[test]
    fn load_is_compared_by_weight_without_rounding() {
        let (light, heavy) = (contender(0, 1, 3_000_000_000), contender(1, 4_000_000_000, 4_000_000_000));
        assert_eq!(heavy.compare_load(&light), Ordering::Less);
        assert_eq!(contender(0, 3, 1).compare_load(&contender(1, 6, 2)), Ordering::Equal);
    }

    #[test]
    fn two_drawn_are_different_and_come_by_weight() {
        let running = [contender(0, 6, 0), contender(1, 3, 0), contender(2, 1, 0)];
        let mut dice = Dice::seeded(3);
        let mut firsts = [0u32; 3];
        for _ in 0..10_000 {
            let (first, second) = draw_two(&running, None, &mut dice).unwrap();
            assert_ne!(first, second);
            firsts[first] += 1;
        }
        assert!(firsts[0].abs_diff(6000) < 200 && firsts[1].abs_diff(3000) < 200, "{firsts:?}");
    }

    #[test]
    fn of_one_the_only_one_is_drawn_and_of_none_none() {
        let mut dice = Dice::seeded(3);
        assert_eq!(draw_two(&[contender(4, 2, 0)], None, &mut dice), Some((0, 0)));
        assert_eq!(draw_two(&[], None, &mut dice), None);
    }
}
