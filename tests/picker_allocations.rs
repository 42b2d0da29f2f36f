//! Picking allocates nothing, whichever the policy: counted by an allocator of the test's own.

#[path = "support/allocations.rs"]
mod allocations;

use std::time::Duration;

use allocations::allocations;
use evenkeel::balance::{
    AnyPicker, Ask, Candidate, ConsistentHash, Dice, Estimate, Policy, Reach, Rung, Standing, Tried, climb, hash_key,
    peer_median,
};
use evenkeel::clock::Instant;

const REACH: Reach = Reach { fail_open: true, panic_threshold: 0.0 };

struct Backend {
    id: u64,
    standing: Standing,
    latency: Estimate,
}

impl Candidate for Backend {
    fn weight(&self) -> u32 {
        1 + (self.id % 3) as u32
    }

    fn standing(&self, _: Instant) -> Standing {
        self.standing
    }

    fn in_flight(&self) -> u32 {
        (self.id % 2) as u32
    }

    fn latency(&self) -> Estimate {
        self.latency
    }

    fn is_backup(&self) -> bool {
        self.id % 7 == 6
    }

    fn identity(&self) -> u64 {
        hash_key(&self.id.to_le_bytes())
    }
}

/// Of every kind: sampled and cold, usable and not.
fn pool(count: u64) -> Vec<Backend> {
    let sampled = Estimate::UNKNOWN.observe(Duration::from_millis(3), Instant::ORIGIN);
    let backend = |id| Backend {
        id,
        standing: if id % 5 == 4 { Standing::Down } else { Standing::Usable },
        latency: if id % 4 == 3 { Estimate::UNKNOWN } else { sampled },
    };
    (0..count).map(backend).collect()
}

fn policies(among: &[Backend]) -> [Policy; 8] {
    [
        Policy::RoundRobin,
        Policy::WeightedRoundRobin,
        Policy::LeastConnections,
        Policy::IpHash { bounded_load: None },
        Policy::IpHash { bounded_load: Some(1.25) },
        Policy::LeastResponseTime,
        Policy::RandomTwoChoices,
        Policy::ConsistentHash { table: ConsistentHash::table(among) },
    ]
}

#[test]
fn the_allocator_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
}

#[test]
fn no_policy_allocates_when_it_picks() {
    for count in [1, 2, 16, 60] {
        let among = pool(count);
        let dice = &mut Dice::seeded(1);
        for policy in policies(&among) {
            let mut picker = AnyPicker::new(&policy, &among, 1);
            let allocated = allocations(|| {
                for number in 0..200u64 {
                    let mut tried = Tried::default();
                    while let Some((index, _)) = {
                        let key = hash_key(&number.to_le_bytes());
                        let mut ask = Ask { now: Instant::ORIGIN, key, tried: &tried, dice, rung: Rung::Primaries };
                        climb(&mut picker, &among, &mut ask, REACH)
                    } {
                        std::hint::black_box(peer_median(&among, index, Instant::ORIGIN));
                        if !tried.add(index) {
                            break;
                        }
                    }
                }
            });
            assert_eq!(allocated, 0, "{policy:?} among {count}");
        }
    }
}
