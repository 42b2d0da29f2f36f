//! Smooth weighted round robin: by weight, and as evenly spread as weights allow.
//!
//! At each pick every usable backend's credit grows by its weight; the one with most credit wins (the first on a tie)
//! and pays the sum of all weights. Weights 5, 1, 1 give `a a b a c a a` where a block-wise scheme gives `a a a a a b
//! c`. A picker starts somewhere inside its own sequence, so that workers do not send their first requests to the same
//! backend.
//!
//! Other policies break ties with the same [`Smooth`].

use super::{Ask, Candidate, Dice, Picker, UNIT};

/// How many steps a start inside the sequence may cost, summed over the candidates.
const PHASE_STEPS: u64 = 1 << 14;

/// The smooth weighted round robin of one worker.
#[derive(Clone, Debug)]
pub struct WeightedRoundRobin {
    smooth: Smooth,
}

impl WeightedRoundRobin {
    /// A sequence over `among` at a place that the dice choose.
    #[must_use]
    pub fn new(among: &[impl Candidate], dice: &mut Dice) -> WeightedRoundRobin {
        WeightedRoundRobin { smooth: Smooth::seeded(among, dice) }
    }
}

impl Picker for WeightedRoundRobin {
    fn pick<C: Candidate>(&mut self, among: &[C], ask: &mut Ask<'_>) -> Option<usize> {
        self.smooth.fit(among.len());
        let usable = among.iter().enumerate().filter(|&(index, candidate)| ask.admits(index, candidate));
        self.smooth.choose(usable.map(|(index, candidate)| (index, candidate.weight_at(ask.now))))
    }
}

/// The credits behind it.
///
/// Each choice adds as much as it takes, so the credits sum to zero for ever, whichever candidates take part.
#[derive(Clone, Debug)]
pub(super) struct Smooth {
    credits: Vec<i64>,
}

impl Smooth {
    /// At the beginning of the sequence of `count` candidates.
    fn at_start(count: usize) -> Smooth {
        Smooth { credits: vec![0; count] }
    }

    /// Somewhere in the sequence of `among`; primaries and backups take turns among themselves, so each have their
    /// place.
    pub fn seeded(among: &[impl Candidate], dice: &mut Dice) -> Smooth {
        let mut smooth = Smooth::at_start(among.len());
        for backups in [false, true] {
            let side = among.iter().enumerate().filter(|(_, candidate)| candidate.is_backup() == backups);
            let side = side.map(|(index, candidate)| (index, candidate.weight().max(1)));
            let (count, total, divisor) = side.clone().fold((0, 0, 0), |(count, total, divisor), (_, weight)| {
                let weight = u64::from(weight);
                (count + 1, total + weight, greatest_common_divisor(weight, divisor))
            });
            let period = total / u64::max(divisor, 1);
            let affordable = PHASE_STEPS / u64::max(count, 1);
            for _ in 0..dice.below(period.min(affordable)) {
                smooth.choose(side.clone().map(|(index, weight)| (index, weight * UNIT)));
            }
        }
        smooth
    }

    /// Makes room for `count` candidates; allocates only when there are more than ever before.
    pub fn fit(&mut self, count: usize) {
        if self.credits.len() < count {
            self.credits.resize(count, 0);
        }
    }

    /// The next among those that take part, given as index and weight in hundredths, which may be another each time.
    pub fn choose(&mut self, taking_part: impl Iterator<Item = (usize, u32)>) -> Option<usize> {
        let mut total = 0;
        let mut best: Option<(usize, i64)> = None;
        for (index, weight) in taking_part {
            let gain = i64::from(weight.max(1));
            let credit = &mut self.credits[index];
            *credit += gain;
            total += gain;
            if best.is_none_or(|(_, most)| *credit > most) {
                best = Some((index, *credit));
            }
        }
        let (index, _) = best?;
        self.credits[index] -= total;
        Some(index)
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{Fake, picks};
    use super::*;

    fn at_start(count: usize) -> WeightedRoundRobin {
        WeightedRoundRobin { smooth: Smooth::at_start(count) }
    }

    #[test]
    fn five_one_one_is_spread_as_a_a_b_a_c_a_a() {
        let among = [Fake::new(1).weight(5), Fake::new(2), Fake::new(3)];
        let sequence = [0, 0, 1, 0, 2, 0, 0];
        assert_eq!(picks(&mut at_start(3), &among, 14), [sequence, sequence].concat());
    }

    #[test]
    fn a_seeded_start_is_a_place_inside_the_same_sequence() {
        let among = [Fake::new(1).weight(5), Fake::new(2), Fake::new(3)];
        let endless = [0, 0, 1, 0, 2, 0, 0].repeat(3);
        let mut starts = std::collections::HashSet::new();
        for seed in 0..100 {
            let seen = picks(&mut WeightedRoundRobin::new(&among, &mut Dice::seeded(seed)), &among, 14);
            starts.insert((0..7).find(|&phase| endless[phase..phase + 14] == seen).expect("a rotation"));
        }
        assert_eq!(starts.len(), 7);
    }

    #[test]
    fn a_start_in_a_large_pool_is_cheap() {
        let among: Vec<Fake> = (0..4000).map(|id| Fake::new(id).weight(997)).collect();
        let mut picker = WeightedRoundRobin::new(&among, &mut Dice::seeded(1));
        assert_eq!(picks(&mut picker, &among, 1).len(), 1);
    }

    #[test]
    fn credits_sum_to_zero_whoever_takes_part() {
        let mut dice = Dice::seeded(5);
        let mut smooth = Smooth::at_start(6);
        for _ in 0..5000 {
            let part = dice.below(64);
            smooth.choose((0..6).filter(|i| part >> i & 1 == 1).map(|i| (i, (1 + i as u32 * 7) * UNIT)));
            assert_eq!(smooth.credits.iter().sum::<i64>(), 0);
            assert!(smooth.credits.iter().all(|credit| credit.abs() < 60_000), "{:?}", smooth.credits);
        }
    }

    /// All weights change with every pick, as they do while backends of any weight come back, alone and together.
    #[test]
    fn credits_stay_within_a_round_while_weights_ramp() {
        let mut dice = Dice::seeded(5);
        let mut smooth = Smooth::at_start(6);
        let mut ramps = [100; 6];
        for _ in 0..100_000 {
            if dice.below(1000) == 0 {
                ramps[dice.index(6)] = 1;
            }
            ramps.iter_mut().for_each(|ramp| *ramp = UNIT.min(*ramp + dice.below(2) as u32));
            smooth.choose(ramps.iter().enumerate().map(|(index, ramp)| (index, ramp * 1000)));
            assert_eq!(smooth.credits.iter().sum::<i64>(), 0);
            assert!(smooth.credits.iter().all(|credit| credit.abs() <= 600_000), "{:?}", smooth.credits);
        }
    }

    #[test]
    fn the_others_keep_their_even_turns_while_one_ramps() {
        let among = |percent| [Fake::new(1).weight(2), Fake::new(2), Fake::new(3).ramp(percent)];
        let (mut picker, mut turns, mut its) = (at_start(3), Vec::new(), Vec::new());
        for number in 0..10_000 {
            let index = picks(&mut picker, &among(1 + number / 101), 1)[0];
            if index == 2 { its.push(number) } else { turns.push(index) }
        }
        // One of the others' turns may wait for another round, never for two.
        assert!(turns.windows(5).all(|five| (3..=4).contains(&five.iter().filter(|index| **index == 0).count())));
        let (early, late) = its.iter().partition::<Vec<u32>, _>(|number| **number < 5000);
        assert!(
            (300..500).contains(&early.len()) && (850..1150).contains(&late.len()),
            "{} {}",
            early.len(),
            late.len()
        );
        assert!(late.windows(2).all(|pair| pair[1] - pair[0] <= 8), "evenly spread");
    }

    #[test]
    fn a_pool_that_has_grown_is_served_whole() {
        let among = [Fake::new(1), Fake::new(2), Fake::new(3)];
        let mut seen = picks(&mut at_start(1), &among, 3);
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2]);
    }
}
