//! What policies do to whole pools over many workers, on virtual time and over many seeds.
//!
//! A failing test names its seed; `EVENKEEL_SEED=7 cargo test --test simulation NAME` replays that one alone.

#[path = "simulation/recovery.rs"]
mod recovery;

use std::time::Duration;

use evenkeel::balance::{Dice, Policy, Rung, Standing};
use evenkeel::breaker::{Latency, Mode, Settings};
use evenkeel::simulation::{Backend, Report, Scenario, Service, What, run, table};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const US: Duration = Duration::from_micros(1);

/// Runs `check` on a report of each seed, or of the one that `EVENKEEL_SEED` asks for.
fn over_seeds(count: u64, scenario: impl Fn(u64) -> Scenario, check: impl Fn(&Report)) {
    let asked = std::env::var("EVENKEEL_SEED").ok().map(|seed| seed.parse().expect("EVENKEEL_SEED is a number"));
    for seed in asked.map_or(0..count, |seed: u64| seed..seed + 1) {
        let replay = Replay(seed);
        let report = run(&scenario(seed), seed);
        assert_eq!(report.broken, None);
        check(&report);
        drop(replay);
    }
}

/// Says how to replay when a check panics under it.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with EVENKEEL_SEED={}", self.0);
        }
    }
}

fn all_policies(backends: &[Backend]) -> [Policy; 8] {
    [
        Policy::RoundRobin,
        Policy::WeightedRoundRobin,
        Policy::LeastConnections,
        Policy::IpHash { bounded_load: None },
        Policy::IpHash { bounded_load: Some(1.25) },
        Policy::LeastResponseTime,
        Policy::RandomTwoChoices,
        Policy::ConsistentHash { table: table(backends) },
    ]
}

fn alike(count: usize, service: Service) -> Vec<Backend> {
    vec![Backend::new(service); count]
}

fn about(share: f64, fair: f64, by: f64) {
    assert!((share - fair).abs() <= by, "a share of {share:.3}, not {fair:.3} ± {by}");
}

/// Backends of many kinds to which many things happen.
fn storm(seed: u64) -> Scenario {
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
fn storm_on_breakers(seed: u64) -> Scenario {
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
fn a_backend_that_fails_gets_its_probes_and_its_share_again_when_it_is_well() {
    for after in [MS, 2 * SECOND] {
        let scenario = |_| {
            let scenario = Scenario::new(Policy::RoundRobin, alike(4, Service::Exponential(10 * MS)));
            let fails = |share| What::Fails { share, after };
            let scenario = scenario.change(SECOND, 0, fails(1.0)).change(61 * SECOND, 0, fails(0.0));
            Scenario { breaker: Some(Settings::default()), lasts: 180 * SECOND, rate: 200.0, ..scenario }
        };
        over_seeds(4, scenario, |report| {
            let tried = report.picks.iter().filter(|pick| pick.backend == 0);
            let tried = tried.filter(|pick| pick.at > 4 * SECOND && pick.at < 61 * SECOND).count();
            assert!(tried <= 3 * 6, "{tried} attempts while it fails, after {after:?}");
            assert!(report.trips[0] >= 4 && report.trips[1..] == [0, 0, 0], "{:?}", report.trips);
            assert_eq!((report.failed, report.without_backend), (0, 0));
            about(report.share_during(0, 150 * SECOND..Duration::MAX), 0.25, 0.01);
        });
    }
}

#[test]
fn a_pool_that_fails_as_a_whole_keeps_the_half_of_it_in_use() {
    let scenario = |_| {
        let mut scenario = Scenario::new(Policy::LeastConnections, alike(6, Service::Constant(10 * MS)));
        for backend in 0..6 {
            let fails = |share| What::Fails { share, after: MS };
            scenario = scenario.change(SECOND, backend, fails(1.0)).change(8 * SECOND, backend, fails(0.0));
        }
        Scenario { breaker: Some(Settings::default()), lasts: 40 * SECOND, ..scenario }
    };
    over_seeds(4, scenario, |report| {
        assert_eq!(report.without_backend, 0);
        let used = (0..6).filter(|backend| report.share_during(*backend, 2 * SECOND..8 * SECOND) > 0.1).count();
        assert_eq!(used, 3);
        for backend in 0..6 {
            about(report.share_during(backend, 35 * SECOND..Duration::MAX), 1.0 / 6.0, 0.05);
        }
    });
}

#[test]
fn one_that_flaps_is_left_alone_for_longer_each_time() {
    let scenario = |_| {
        let mut scenario = Scenario::new(Policy::RoundRobin, alike(3, Service::Constant(MS)));
        for second in 1..60 {
            let share = f64::from(u8::from(second % 4 != 0));
            scenario = scenario.change(second * SECOND, 0, What::Fails { share, after: MS });
        }
        Scenario { breaker: Some(Settings::default()), lasts: 60 * SECOND, ..scenario }
    };
    over_seeds(4, scenario, |report| {
        assert!(report.failures[0] < 60 && report.failed == 0, "{:?}", report.failures);
        assert!(report.trips[0] >= 2, "{:?}", report.trips);
    });
}

#[test]
fn a_seed_replays_to_the_last_pick() {
    assert_eq!(run(&storm(5), 5), run(&storm(5), 5));
    assert_ne!(run(&storm(5), 5).picks, run(&storm(5), 6).picks);
}

#[test]
fn shares_follow_weights_over_all_workers() {
    let service = Service::Constant(40 * MS);
    let backends: Vec<Backend> = [1, 2, 5].map(|weight| Backend::new(service).weight(weight)).to_vec();
    for policy in all_policies(&backends) {
        let by = match policy {
            Policy::RoundRobin | Policy::WeightedRoundRobin => 0.005,
            Policy::IpHash { bounded_load: Some(_) } => 0.08,
            // load per weight is what is levelled, which at a few in flight is not quite the share
            Policy::LeastResponseTime => 0.09,
            _ => 0.06,
        };
        let ignores_weights = matches!(policy, Policy::RoundRobin);
        let scenario =
            |_| Scenario { workers: 4, lasts: 5 * SECOND, ..Scenario::new(policy.clone(), backends.clone()) };
        over_seeds(4, scenario, |report| {
            for (backend, weight) in [1.0, 2.0, 5.0].into_iter().enumerate() {
                about(report.share(backend), if ignores_weights { 1.0 / 3.0 } else { weight / 8.0 }, by);
            }
        });
    }
}

#[test]
fn a_reload_that_changes_a_weight_changes_the_share() {
    let backends = alike(4, Service::Constant(40 * MS));
    for policy in all_policies(&backends) {
        let expected = if matches!(policy, Policy::RoundRobin) { 0.25 } else { 0.5 };
        let scenario = |_| Scenario::new(policy.clone(), backends.clone()).change(5 * SECOND, 0, What::Weighs(3));
        over_seeds(2, scenario, |report| {
            about(report.share_during(0, Duration::ZERO..5 * SECOND), 0.25, 0.06);
            about(report.share_during(0, 6 * SECOND..Duration::MAX), expected, 0.09);
        });
    }
}

#[test]
fn least_connections_counts_over_all_workers() {
    // nothing ends while requests arrive, so each pick must level what all workers have given
    let scenario = |_| {
        let backends = alike(5, Service::Constant(60 * SECOND));
        Scenario { workers: 8, lasts: 3 * SECOND, ..Scenario::new(Policy::LeastConnections, backends) }
    };
    over_seeds(10, scenario, |report| {
        let (least, most) = (report.peaks.iter().min().expect("five"), report.peaks.iter().max().expect("some"));
        assert!(most - least <= 1, "{:?}", report.peaks);
    });
}

#[test]
fn least_connections_and_two_choices_keep_off_a_slow_backend() {
    let scenario =
        |policy| Scenario::new(policy, alike(4, Service::Exponential(10 * MS))).change(SECOND, 0, What::Slows(20.0));
    over_seeds(4, |_| scenario(Policy::RoundRobin), |report| about(report.share(0), 0.25, 0.01));
    for policy in [Policy::LeastConnections, Policy::RandomTwoChoices, Policy::LeastResponseTime] {
        over_seeds(
            4,
            |_| scenario(policy.clone()),
            |report| {
                let share = report.share_during(0, 2 * SECOND..10 * SECOND);
                assert!(share < 0.15, "{policy:?} gives {share:.3} to the slow one");
            },
        );
    }
}

#[test]
fn least_response_time_tells_lan_latencies_apart() {
    let scenario = |_| {
        let backends = [200, 300, 900].map(|us| Backend::new(Service::Constant(us * US))).to_vec();
        Scenario { lasts: 4 * SECOND, rate: 2000.0, ..Scenario::new(Policy::LeastResponseTime, backends) }
    };
    over_seeds(6, scenario, |report| {
        let shares = [0, 1, 2].map(|backend| report.share(backend));
        assert!(shares[0] > 0.6 && shares[0] > 2.0 * shares[1] && shares[1] > shares[2], "{shares:?}");
    });
}

#[test]
fn a_backend_that_was_slow_is_not_starved_of_its_share() {
    let (slow, well) = (5 * SECOND, 20 * SECOND);
    let five_taus_later = well + 50 * SECOND;
    // exact service times are the hard case: no chance answer lifts a slower estimate over its peers'
    for (rate, service) in [
        (40.0, Service::Constant(10 * MS)),
        (400.0, Service::Constant(10 * MS)),
        (400.0, Service::Exponential(10 * MS)),
    ] {
        let scenario = |_| {
            let scenario = Scenario::new(Policy::LeastResponseTime, alike(4, service));
            let scenario = Scenario { rate, lasts: five_taus_later + 40 * SECOND, ..scenario };
            scenario.change(slow, 0, What::Slows(10.0)).change(well, 0, What::Slows(1.0))
        };
        over_seeds(3, scenario, |report| {
            let while_slow = report.share_during(0, slow + 2 * SECOND..well);
            assert!(while_slow < 0.1, "{while_slow:.3} while slow");
            let share = report.share_during(0, five_taus_later..Duration::MAX);
            assert!(share >= 0.8 * 0.25, "{share:.3} after five time constants, {service:?}, {rate} a second");
        });
    }
}

/// Backend 3 is not usable from the given time on, and comes back at 40 s.
fn absent_from(at: Duration, standing: Standing) -> impl Fn(u64) -> Scenario {
    move |_| {
        let scenario = Scenario::new(Policy::LeastResponseTime, alike(4, Service::Constant(50 * MS)));
        let scenario =
            scenario.change(at, 3, What::Stands(standing)).change(40 * SECOND, 3, What::Stands(Standing::Usable));
        Scenario { rate: 400.0, lasts: 42 * SECOND, ..scenario }
    }
}

fn takes_its_part_and_no_more(report: &Report) {
    let until_its_first_answer = 40 * SECOND..40 * SECOND + 50 * MS;
    let share = report.share_during(3, until_its_first_answer);
    assert!(share > 0.15 && share < 0.75, "{share:.3} before its first answer");
    let most = report.peaks[..3].iter().max().expect("some");
    assert!(report.peaks[3] <= most + most / 2, "{:?}", report.peaks);
    about(report.share_during(3, 41 * SECOND..42 * SECOND), 0.25, 0.1);
}

#[test]
fn a_cold_backend_is_not_flooded_until_its_first_answer() {
    over_seeds(4, absent_from(Duration::ZERO, Standing::Maintenance), takes_its_part_and_no_more);
}

#[test]
fn a_backend_that_was_away_is_not_flooded_for_its_old_estimate() {
    over_seeds(4, absent_from(3 * SECOND, Standing::Down), takes_its_part_and_no_more);
}

/// Backend 0 of four fails this share of its attempts at once, from 1 s to 21 s.
fn failing(share: f64, rate: f64) -> impl Fn(u64) -> Scenario {
    move |_| {
        let scenario = Scenario::new(Policy::LeastResponseTime, alike(4, Service::Exponential(20 * MS)));
        let fails = |share| What::Fails { share, after: 50 * US };
        Scenario { rate, lasts: 90 * SECOND, ..scenario }.change(SECOND, 0, fails(share)).change(
            21 * SECOND,
            0,
            fails(0.0),
        )
    }
}

#[test]
fn a_backend_that_fails_at_once_does_not_look_fast_and_is_forgiven() {
    for rate in [50.0, 300.0] {
        over_seeds(3, failing(1.0, rate), |report| {
            let share = report.share_during(0, 2 * SECOND..21 * SECOND);
            assert!(share < 0.03, "the failing one has {share:.3} of {rate} a second");
            assert_eq!(report.failed, 0, "the second attempt is on another backend");
            assert!(report.picks.iter().filter(|pick| pick.again).all(|pick| pick.backend != 0));
            let share = report.share_during(0, 71 * SECOND..Duration::MAX);
            assert!(share > 0.05, "{share:.3} five time constants after its last failure");
        });
    }
}

#[test]
fn a_failure_in_a_hundred_costs_no_more_than_a_part_of_the_share() {
    over_seeds(3, failing(0.01, 300.0), |report| {
        about(report.share_during(0, 2 * SECOND..21 * SECOND), 0.25, 0.1);
    });
}

#[test]
fn a_pool_that_failed_as_a_whole_shares_evenly_when_it_is_back() {
    let scenario = |_| {
        let mut scenario = Scenario::new(Policy::LeastResponseTime, alike(3, Service::Exponential(10 * MS)));
        (scenario.lasts, scenario.rate) = (90 * SECOND, 200.0);
        for backend in 0..3 {
            scenario = scenario.change(2 * SECOND, backend, What::Fails { share: 1.0, after: MS }).change(
                (4 + backend as u32) * SECOND,
                backend,
                What::Fails { share: 0.0, after: MS },
            );
        }
        scenario
    };
    over_seeds(4, scenario, |report| {
        for backend in 0..3 {
            about(report.share_during(backend, 60 * SECOND..90 * SECOND), 1.0 / 3.0, 0.12);
        }
    });
}

#[test]
fn the_same_client_stays_with_its_backend_until_that_goes_down() {
    let backends = alike(5, Service::Constant(MS));
    for policy in [Policy::IpHash { bounded_load: None }, Policy::ConsistentHash { table: table(&backends) }] {
        let scenario = |_| {
            let scenario =
                Scenario { clients: 1, lasts: 4 * SECOND, ..Scenario::new(policy.clone(), backends.clone()) };
            let owner = run(&scenario, 0).picks[0].backend;
            scenario.change(2 * SECOND, owner, What::Stands(Standing::Down))
        };
        over_seeds(2, scenario, |report| {
            let owner = report.picks[0].backend;
            let heir = report.picks.last().expect("picks").backend;
            assert_ne!(owner, heir);
            let expected = |at: Duration| if at < 2 * SECOND { owner } else { heir };
            assert!(report.picks.iter().all(|pick| pick.backend == expected(pick.at)));
        });
    }
}

#[test]
fn without_fail_open_a_pool_that_is_down_answers_nothing_and_with_it_goes_on() {
    for fail_open in [false, true] {
        let scenario = |_| {
            let mut scenario = Scenario::new(Policy::LeastConnections, alike(2, Service::Constant(MS)));
            (scenario.fail_open, scenario.lasts) = (fail_open, 2 * SECOND);
            let down = What::Stands(Standing::Down);
            scenario.change(SECOND, 0, down).change(SECOND, 1, down)
        };
        over_seeds(2, scenario, |report| {
            let on_last_rung = report.picks.iter().filter(|pick| pick.rung == Rung::FailOpen).count();
            assert_eq!(on_last_rung > 0, fail_open);
            assert_eq!(report.without_backend == 0, fail_open);
        });
    }
}
