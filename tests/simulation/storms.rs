//! Everything at once: no promise is broken, whatever the seed.

use evenkeel::balance::{Dice, Policy, Standing};
use evenkeel::breaker::{Latency, Mode, Settings};
use evenkeel::simulation::{Backend, Scenario, Service, What, run};

use super::{MS, SECOND, all_policies, over_seeds};

/// Backends of many kinds to which many things happen.
pub fn storm(seed: u64) -> Scenario {
    let dice = &mut Dice::seeded(seed ^ 0x5707_2d00);
    let count = 1 + dice.index(20);
    let backend = |_| Backend {
        weight: 1 + dice.below(5) as u32,
        backup: dice.below(4) == 0,
        max_connections: (dice.below(3) == 0).then_some(1 + dice.below(4) as u32),
        service: Service::Exponential((1 + dice.below(40) as u32) * MS),
        slots: 1 + dice.below(8) as u32,
    };
    let backends: Vec<Backend> = (0..count).map(backend).collect();
    let mut policies = all_policies(&backends);
    let policy = std::mem::replace(&mut policies[seed as usize % 8], Policy::RoundRobin);
    let mut scenario = Scenario::new(policy, backends);
    (scenario.lasts, scenario.workers) = (3 * SECOND, 1 + dice.index(4));
    (scenario.attempts, scenario.fail_open) = (1 + dice.below(3) as u32, dice.below(2) == 0);
    let standings =
        [Standing::Usable, Standing::Usable, Standing::Down, Standing::Open, Standing::Draining, Standing::Maintenance];
    for _ in 0..40 {
        let (at, backend) = (dice.below(3000) as u32 * MS, dice.index(count));
        let what = match dice.below(4) {
            0 => What::Slows(dice.unit() * 5.0),
            1 => What::Fails { share: dice.unit() - 0.3, after: dice.below(300) as u32 * MS },
            2 => What::Weighs(1 + dice.below(5) as u32),
            _ => What::Stands(standings[dice.index(standings.len())]),
        };
        scenario = scenario.change(at, backend, what);
    }
    scenario
}

#[test]
fn no_promise_is_broken_in_any_storm() {
    over_seeds(48, storm, |_| {});
}

/// The same with breakers of all kinds, and clients that leave.
pub fn storm_on_breakers(seed: u64) -> Scenario {
    let dice = &mut Dice::seeded(seed ^ 0xb4ea_4e40);
    let mut scenario = storm(seed);
    let open_for = (1 + dice.below(400)) as u32 * MS;
    let latency = Latency { quantile: 0.5 + dice.unit() / 2.0, above: dice.below(200) as u32 * MS };
    scenario.breaker = Some(Settings {
        mode: if dice.below(8) == 0 { Mode::Observe } else { Mode::Enforce },
        consecutive_failures: 1 + dice.below(6) as u32,
        failure_ratio: 0.05 + dice.unit() * 0.95,
        min_requests: 1 + dice.below(30) as u32,
        window: (1 + dice.below(3)) as u32 * SECOND,
        open_for,
        open_for_max: open_for * (1 + dice.below(8) as u32),
        half_open_probes: 1 + dice.below(4) as u32,
        max_open_ratio: 0.05 + dice.unit() * 0.95,
        latency: (dice.below(3) == 0).then_some(latency),
    });
    scenario.leaves = if dice.below(2) == 0 { 0.0 } else { dice.unit() * 0.3 };
    for _ in 0..10 {
        let (at, backend) = (dice.below(3000) as u32 * MS, dice.index(scenario.backends.len()));
        let share = if dice.below(3) == 0 { 0.0 } else { 1.0 };
        scenario = scenario.change(at, backend, What::Fails { share, after: dice.below(1000) as u32 * MS });
    }
    scenario
}

#[test]
fn no_promise_is_broken_in_any_storm_on_breakers() {
    let trips = std::cell::Cell::new(0);
    over_seeds(160, storm_on_breakers, |report| trips.set(trips.get() + report.trips.iter().sum::<u64>()));
    assert!(trips.get() > 160 || std::env::var("EVENKEEL_SEED").is_ok(), "{} trips are no storm", trips.get());
}

#[test]
fn a_seed_replays_to_the_last_pick() {
    assert_eq!(run(&storm(5), 5), run(&storm(5), 5));
    assert_ne!(run(&storm(5), 5).picks, run(&storm(5), 6).picks);
}
