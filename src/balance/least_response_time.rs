//! The backend with the smallest expected wait: `estimate × (in_flight + 1) / weight`.
//!
//! The estimate is the peak-sensitive average of [`Estimate`](super::Estimate). Up to 16 candidates are all looked at;
//! above that two are drawn by weight and compared, because many workers that act on the same, slightly stale estimates
//! would herd to one backend. A backend without a sample reads as the median of its sampled peers at every pick, so a
//! new one is neither flooded until its first answer nor left out. Ties, and what is nearly one, go by smooth weighted
//! round robin.

use super::contenders::{Contender, Contenders, draw_two};
use super::latency::Panel;
use super::weighted_round_robin::Smooth;
use super::{Ask, Candidate, Dice, Estimate, Picker};

/// Waits within a tenth of the smallest are as good as it. Without that, in a quiet pool all requests would go to
/// whichever backend is a hair faster, and one that was slow would wait for its share until the last percent of its old
/// estimate is gone.
const TIE: f32 = 1.1;

/// Least response time, with what one worker needs for it.
#[derive(Clone, Debug)]
pub struct LeastResponseTime {
    contenders: Contenders,
    ties: Smooth,
}

impl LeastResponseTime {
    /// For `among`; the dice choose where the turns of ties begin.
    #[must_use]
    pub fn new(among: &[impl Candidate], dice: &mut Dice) -> LeastResponseTime {
        LeastResponseTime { contenders: Contenders::with_room(among.len()), ties: Smooth::seeded(among, dice) }
    }
}

impl Picker for LeastResponseTime {
    fn pick<C: Candidate>(&mut self, among: &[C], ask: &mut Ask<'_>) -> Option<usize> {
        self.ties.fit(among.len());
        let (running, favoured) = self.contenders.compete(among, ask);
        if running.len() <= Panel::MOST {
            let panel = Panel::read(running.iter().map(|contender| among[contender.index].latency()), ask.now);
            return quickest(running, favoured, panel, &mut self.ties);
        }
        let (first, second) = draw_two(running, favoured, ask.dice)?;
        let start = ask.dice.index(running.len());
        let pair = [running[first], running[second]];
        let panel = Panel::read(pair_then_peers(among, running, pair, start), ask.now);
        quickest(&pair, favoured.map(|_| 0), panel, &mut self.ties)
    }
}

/// The estimates of the pair, and when one of them has none, those of peers from `start` on for the median.
fn pair_then_peers<C: Candidate>(
    among: &[C],
    running: &[Contender],
    pair: [Contender; 2],
    start: usize,
) -> impl Iterator<Item = Estimate> {
    let pair = pair.map(|contender| among[contender.index].latency());
    let wanted = if pair.iter().all(|estimate| estimate.is_sampled()) { 0 } else { Panel::MOST };
    let peers = running[start..].iter().chain(&running[..start]).map(|contender| among[contender.index].latency());
    pair.into_iter().chain(peers.filter(|estimate| estimate.is_sampled()).take(wanted))
}

/// The index of the one with the smallest wait, its estimate standing at the same place in `panel`; or the favoured one if it
/// is as good.
fn quickest(running: &[Contender], favoured: Option<usize>, mut panel: Panel, ties: &mut Smooth) -> Option<usize> {
    panel.fill();
    let mut waits = [f32::INFINITY; Panel::MOST];
    for ((wait, contender), seconds) in waits.iter_mut().zip(running).zip(panel.seconds()) {
        *wait = seconds * (contender.in_flight as f32 + 1.0) / contender.weight as f32;
    }
    let waits = &waits[..running.len()];
    let good_enough = waits.iter().copied().fold(f32::INFINITY, f32::min) * TIE;
    if let Some(place) = favoured.filter(|&place| waits[place] <= good_enough) {
        return Some(running[place].index);
    }
    let tied = running.iter().zip(waits).filter(|&(_, wait)| *wait <= good_enough);
    ties.choose(tied.map(|(contender, _)| (contender.index, contender.weight)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::conformance::{Fake, NOW, picks, shares};
    use super::*;

    fn sampled(id: u64, micros: u64) -> Fake {
        Fake::new(id).latency(Estimate::UNKNOWN.observe(Duration::from_micros(micros), NOW))
    }

    fn picker(among: &[Fake]) -> LeastResponseTime {
        LeastResponseTime::new(among, &mut Dice::seeded(1))
    }

    #[test]
    fn the_smallest_wait_by_weight_and_load_wins() {
        let among = [sampled(1, 10_000).in_flight(3), sampled(2, 30_000), sampled(3, 60_000).weight(3).in_flight(0)];
        assert_eq!(picks(&mut picker(&among), &among, 1), [2]);
    }

    #[test]
    fn sub_millisecond_latencies_decide_on_a_lan() {
        let among = [sampled(1, 200), sampled(2, 170), sampled(3, 210)];
        assert_eq!(picks(&mut picker(&among), &among, 3), [1, 1, 1]);
    }

    #[test]
    fn a_cold_backend_reads_as_the_median_of_its_peers() {
        let among = [sampled(1, 10_000), sampled(2, 20_000), sampled(3, 90_000), Fake::new(4)];
        let load = |loads: [u32; 4]| {
            let mut among = among.clone();
            among.iter_mut().zip(loads).for_each(|(fake, load)| *fake = fake.clone().in_flight(load));
            picks(&mut picker(&among), &among, 1)[0]
        };
        assert_eq!(load([0, 0, 0, 0]), 0);
        assert_eq!(load([3, 3, 0, 0]), 3);
        assert_eq!(load([3, 1, 0, 1]), 0);
        assert_eq!(load([8, 3, 0, 4]), 1, "the cold one is not picked again before its first answer");
    }

    #[test]
    fn near_ties_and_a_pool_without_any_sample_are_shared_by_weight() {
        let among = [Fake::new(1), Fake::new(2), Fake::new(3)];
        assert_eq!(shares(&mut picker(&among), &among, 300), [100, 100, 100]);
        let among = [sampled(1, 500), sampled(2, 520), sampled(3, 600)];
        assert_eq!(shares(&mut picker(&among), &among, 300), [150, 150, 0]);
    }

    #[test]
    fn in_a_large_pool_the_slower_of_two_drawn_is_left_out_and_cold_ones_get_their_part() {
        let mut among: Vec<Fake> = (0..40).map(|id| sampled(id, 1000 + id)).collect();
        among[39] = sampled(39, 90_000);
        among[7] = Fake::new(7);
        let shares = shares(&mut picker(&among), &among, 8000);
        assert_eq!(shares[39], 0);
        assert!((20..400).contains(&shares[7]), "{shares:?}");
    }
}
