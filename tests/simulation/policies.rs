//! Shares, latencies and stickiness: what each policy makes of a pool.

use std::time::Duration;

use evenkeel::config::{Policy, Service as Duty};
use evenkeel::simulation::{Backend, Report, Scenario, Service, What, run};
use evenkeel::state::Health;

use super::{MS, SECOND, US, about, alike, all_policies, consistent_hash, ip_hash, over_seeds, refuses};

#[test]
fn shares_follow_weights_over_all_workers() {
    let service = Service::Constant(40 * MS);
    let backends: Vec<Backend> = [1, 2, 5].map(|weight| Backend::new(service).weight(weight)).to_vec();
    for policy in all_policies() {
        let by = match policy {
            Policy::RoundRobin | Policy::WeightedRoundRobin => 0.005,
            Policy::IpHash { bounded_load: Some(_), .. } => 0.08,
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
    for policy in all_policies() {
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
fn absent_from(at: Duration, gone: What, back: What) -> impl Fn(u64) -> Scenario {
    move |_| {
        let scenario = Scenario::new(Policy::LeastResponseTime, alike(4, Service::Constant(50 * MS)));
        let scenario = scenario.change(at, 3, gone).change(40 * SECOND, 3, back);
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
    over_seeds(
        4,
        absent_from(Duration::ZERO, What::Serves(Duty::Maintenance), What::Serves(Duty::Active)),
        takes_its_part_and_no_more,
    );
}

#[test]
fn a_backend_that_was_away_is_not_flooded_for_its_old_estimate() {
    over_seeds(
        4,
        absent_from(3 * SECOND, What::IsSaid(Health::Down), What::IsSaid(Health::Up)),
        takes_its_part_and_no_more,
    );
}

/// Backend 0 of four fails this share of its attempts at once, from 1 s to 21 s.
fn failing(share: f64, rate: f64) -> impl Fn(u64) -> Scenario {
    move |_| {
        let scenario = Scenario::new(Policy::LeastResponseTime, alike(4, Service::Exponential(20 * MS)));
        let fails = |share| refuses(share, 50 * US);
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
            scenario = scenario.change(2 * SECOND, backend, refuses(1.0, MS)).change(
                (4 + backend as u32) * SECOND,
                backend,
                refuses(0.0, MS),
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
    for policy in [ip_hash(None), consistent_hash()] {
        let scenario = |_| {
            let scenario =
                Scenario { clients: 1, lasts: 4 * SECOND, ..Scenario::new(policy.clone(), backends.clone()) };
            let owner = run(&scenario, 0).picks[0].backend;
            scenario.change(2 * SECOND, owner, What::IsSaid(Health::Down))
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
