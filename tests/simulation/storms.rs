//! Everything at once: no promise is broken, whatever the seed.

use std::cell::RefCell;
use std::time::Duration;

use evenkeel::balance::{Dice, Rung};
use evenkeel::breaker::{Latency, Mode, Settings};
use evenkeel::config::{Aim, HealthCheck, Initial, OnDown, Policy, Probe, Repeats, Retry, RetryOn, Service as Duty};
use evenkeel::simulation::{Backend, Failure, Report, Scenario, Service, What, run};
use evenkeel::state::Health;

use super::{MS, SECOND, all_policies, over_seeds, refuses};

const LASTS: Duration = Duration::from_secs(2);

fn millis(dice: &mut Dice, most: u64) -> Duration {
    Duration::from_millis(dice.below(most))
}

fn one_of<T: Copy>(dice: &mut Dice, all: &[T]) -> T {
    all[dice.index(all.len())]
}

/// Backends of many kinds, and requests that may be repeated or not.
fn pool(seed: u64) -> Scenario {
    let dice = &mut Dice::seeded(seed ^ 0x5707_2d00);
    let (count, is_tight) = (1 + dice.index(12), dice.below(2) == 0);
    let mut backend = || Backend {
        weight: 1 + dice.below(5) as u32,
        backup: dice.below(4) == 0,
        max_connections: (is_tight || dice.below(4) == 0).then_some(1 + dice.below(4) as u32),
        service: Service::Exponential((1 + dice.below(40) as u32) * MS),
        body: if dice.below(3) == 0 { 5 * MS } else { Duration::ZERO },
        slots: 1 + dice.below(8) as u32,
    };
    let backends: Vec<Backend> = (0..count).map(|_| backend()).collect();
    let mut policies = all_policies();
    let policy = std::mem::replace(&mut policies[seed as usize % 8], Policy::RoundRobin);
    let mut scenario = Scenario::new(policy, backends);
    let dice = &mut Dice::seeded(seed ^ 0x9001);
    (scenario.lasts, scenario.workers, scenario.rate) = (LASTS, 1 + dice.index(4), 100.0 + dice.unit() * 500.0);
    (scenario.fail_open, scenario.retry_budget) = (dice.below(2) == 0, 0.02 + dice.unit() * 0.4);
    let mut on = vec![RetryOn::Connect, RetryOn::Reset];
    on.extend((dice.below(2) == 0).then_some(RetryOn::Timeout));
    on.extend((dice.below(2) == 0).then_some(RetryOn::Status(503)));
    let repeats = if dice.below(4) == 0 { Repeats::All } else { Repeats::Idempotent };
    scenario.retry = Retry { attempts: 1 + dice.index(4), on, repeats };
    scenario.posts = dice.unit() * 0.4;
    scenario.response_header = 50 * MS + millis(dice, 500);
    scenario
}

/// Failures of all kinds, slowness, reloads, and recovery from each.
fn troubles(mut scenario: Scenario, seed: u64) -> Scenario {
    let dice = &mut Dice::seeded(seed ^ 0x7e0b);
    let duties = [Duty::Active, Duty::Active, Duty::Drain, Duty::Maintenance];
    for _ in 0..40 {
        let (at, backend) = (millis(dice, 2000), dice.index(scenario.backends.len()));
        let how = match dice.below(6) {
            0 => Failure::Refuses(millis(dice, 100)),
            1 => Failure::Resets(millis(dice, 300)),
            2 => Failure::Answers(500 + dice.below(4) as u16),
            3 => Failure::Breaks(millis(dice, 20)),
            _ => Failure::Hangs,
        };
        let what = match dice.below(8) {
            0 => What::Slows(dice.unit() * 10.0),
            1 => What::Weighs(1 + dice.below(5) as u32),
            2 => What::Serves(one_of(dice, &duties)),
            3 => What::Denies(dice.below(3) == 0),
            _ => What::Fails { share: one_of(dice, &[0.0, 0.0, 0.5, 1.0, 1.0]), how },
        };
        scenario = scenario.change(at, backend, what);
    }
    scenario
}

fn breaker(seed: u64) -> Settings {
    let dice = &mut Dice::seeded(seed ^ 0xb4ea_4e40);
    let open_for = MS + millis(dice, 300);
    let latency = Latency { quantile: 0.5 + dice.unit() / 2.0, above: millis(dice, 200) };
    Settings {
        mode: if dice.below(8) == 0 { Mode::Observe } else { Mode::Enforce },
        consecutive_failures: 1 + dice.below(6) as u32,
        failure_ratio: 0.05 + dice.unit() * 0.95,
        min_requests: 1 + dice.below(30) as u32,
        window: (1 + dice.below(3)) as u32 * SECOND,
        open_for,
        open_for_max: open_for * (1 + dice.below(8) as u32),
        half_open_probes: 1 + dice.below(4) as u32,
        max_open_ratio: if dice.below(2) == 0 { 1.0 } else { 0.05 + dice.unit() * 0.95 },
        latency: (dice.below(3) == 0).then_some(latency),
    }
}

fn check(seed: u64) -> HealthCheck {
    let dice = &mut Dice::seeded(seed ^ 0xc4ec_4000);
    let interval = 20 * MS + millis(dice, 200);
    let mut up_to = |most: Duration| most.mul_f64(0.2 + 0.8 * dice.unit());
    let (fast_interval, down_interval, timeout) = (up_to(interval), up_to(2 * interval), up_to(interval));
    HealthCheck {
        probe: Probe::Tcp,
        aim: Aim::Backend,
        interval,
        fast_interval,
        down_interval,
        timeout,
        rise: 1 + dice.below(4) as u8,
        fall: 1 + dice.below(4) as u8,
        jitter: dice.unit() * 0.5,
        initial: one_of(dice, &[Initial::Up, Initial::Up, Initial::Down]),
        on_down: one_of(dice, &[OnDown::KeepSessions, OnDown::CloseSessions]),
    }
}

/// All of it, with a queue, checks, breakers, slow starts, panic and clients that leave.
pub fn storm(seed: u64) -> Scenario {
    let mut scenario = troubles(pool(seed), seed);
    let dice = &mut Dice::seeded(seed ^ 0xa11);
    scenario.breaker = (dice.below(8) > 0).then(|| breaker(seed));
    scenario.check = (dice.below(8) > 0).then(|| check(seed));
    (scenario.queue, scenario.queue_timeout) = (dice.index(30), MS + millis(dice, 300));
    scenario.leaves = if dice.below(2) == 0 { 0.0 } else { dice.unit() * 0.3 };
    scenario.slow_start = (dice.below(3) > 0).then(|| millis(dice, 3000));
    scenario.panic_threshold = if dice.below(3) > 0 { 0.0 } else { dice.unit() };
    scenario.dawdles = if dice.below(2) == 0 { Duration::ZERO } else { millis(dice, 5) };
    scenario
}

#[test]
fn no_promise_is_broken_in_any_storm() {
    let sums = RefCell::new([0; 9]);
    over_seeds(160, storm, |report| {
        let picked_on = |rung| report.picks.iter().filter(|pick| pick.rung == rung).count() as u64;
        let Report { queued, repeated, elsewhere, left, without_backend, .. } = *report;
        let (trips, panic) = (report.trips.iter().sum(), picked_on(Rung::Panic));
        let (open, down) = (picked_on(Rung::BreakerOpen), picked_on(Rung::FailOpen));
        let more = [queued, repeated, elsewhere, left, without_backend, trips, panic, open, down];
        sums.borrow_mut().iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
    });
    let sums = sums.into_inner();
    let is_storm = sums.iter().all(|sum| *sum > 100);
    assert!(is_storm || std::env::var("EVENKEEL_SEED").is_ok(), "{sums:?} is no storm");
}

/// The same without checks and breakers: who is down is said by script.
fn calm(seed: u64) -> Scenario {
    let mut scenario = pool(seed);
    let dice = &mut Dice::seeded(seed ^ 0xca11);
    for _ in 0..20 {
        let (at, backend) = (millis(dice, 2000), dice.index(scenario.backends.len()));
        let what = match dice.below(2) {
            0 => refuses(dice.unit() - 0.3, millis(dice, 300)),
            _ => What::IsSaid(one_of(dice, &[Health::Up, Health::Up, Health::Down])),
        };
        scenario = scenario.change(at, backend, what);
    }
    scenario
}

#[test]
fn no_promise_is_broken_without_checks_breakers_and_queues() {
    over_seeds(40, calm, |_| {});
}

#[test]
fn a_seed_replays_to_the_last_pick() {
    assert_eq!(run(&storm(5), 5), run(&storm(5), 5));
    assert_ne!(run(&storm(5), 5).picks, run(&storm(5), 6).picks);
}
