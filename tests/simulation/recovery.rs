//! Slow starts and panic: how a backend comes back to a pool that is at work, and how a pool is served that has few well.

use std::time::Duration;

use evenkeel::balance::Rung;
use evenkeel::breaker::Settings;
use evenkeel::config::Policy;
use evenkeel::simulation::{Report, Scenario, Service, What};
use evenkeel::state::Health;

use super::{MS, SECOND, about, alike, over_seeds, refuses};

/// The policies that go by weights at each pick.
const RAMPING: [Policy; 4] =
    [Policy::WeightedRoundRobin, Policy::LeastConnections, Policy::LeastResponseTime, Policy::RandomTwoChoices];

const BACK: Duration = Duration::from_secs(15);
const SLOW_START: Duration = Duration::from_secs(50);

/// Backend 0 of four is down for ten seconds and then comes back slowly.
fn returning(policy: &Policy, rate: f64, service: Service) -> Scenario {
    let scenario = Scenario::new(policy.clone(), alike(4, service));
    let scenario = Scenario { rate, slow_start: Some(SLOW_START), lasts: BACK + 2 * SLOW_START, ..scenario };
    scenario.change(5 * SECOND, 0, What::IsSaid(Health::Down)).change(BACK, 0, What::IsSaid(Health::Up))
}

/// The share that a backend is to have of four while it has on average this part of its weight.
fn fair(part: f64) -> f64 {
    part / (3.0 + part)
}

fn comes_back_in_a_line(report: &Report, policy: &Policy) {
    let by = if matches!(policy, Policy::WeightedRoundRobin) { 0.01 } else { 0.035 };
    assert_eq!(report.share_during(0, 5 * SECOND..BACK), 0.0);
    let tenth = SLOW_START / 10;
    let shares: Vec<f64> =
        (0..10).map(|step| report.share_during(0, BACK + tenth * step..BACK + tenth * (step + 1))).collect();
    for (step, share) in shares.iter().enumerate() {
        let expected = fair((step as f64 + 0.5) / 10.0);
        assert!((share - expected).abs() < by, "{share:.3} for {expected:.3} of {shares:.3?} by {policy:?}");
    }
    assert!(shares[0] < 0.06 && shares[2] < shares[5] && shares[5] < shares[9], "{shares:.3?} by {policy:?}");
    about(report.share_during(0, BACK + SLOW_START..Duration::MAX), 0.25, 0.03);
    assert_eq!((report.failed, report.without_backend), (0, 0));
}

#[test]
fn in_a_busy_pool_a_returning_backends_share_grows_in_a_line_to_its_fair_share() {
    for policy in &RAMPING {
        let scenario = |_| returning(policy, 400.0, Service::Constant(300 * MS));
        over_seeds(3, scenario, |report| comes_back_in_a_line(report, policy));
    }
}

#[test]
fn in_a_quiet_pool_as_well() {
    for policy in &RAMPING {
        let scenario = |_| returning(policy, 100.0, Service::Constant(MS));
        over_seeds(3, scenario, |report| comes_back_in_a_line(report, policy));
    }
}

#[test]
fn without_a_slow_start_it_has_its_share_at_once() {
    for policy in &RAMPING {
        let scenario = |_| Scenario { slow_start: None, ..returning(policy, 400.0, Service::Constant(50 * MS)) };
        over_seeds(2, scenario, |report| about(report.share_during(0, BACK..BACK + SECOND), 0.25, 0.1));
    }
}

#[test]
fn a_breaker_that_closes_again_begins_a_slow_start() {
    let scenario = |_| {
        let scenario = Scenario::new(Policy::WeightedRoundRobin, alike(4, Service::Constant(10 * MS)));
        let scenario = scenario.change(SECOND, 0, refuses(1.0, MS)).change(2 * SECOND, 0, refuses(0.0, MS));
        let (slow_start, breaker) = (Some(1000 * SECOND), Some(Settings::default()));
        Scenario { slow_start, breaker, lasts: 60 * SECOND, ..scenario }
    };
    over_seeds(3, scenario, |report| {
        assert!(report.trips[0] > 0);
        // Twenty seconds after it closed it has some two of a hundred parts, and the others all of theirs.
        let share = report.share_during(0, 20 * SECOND..40 * SECOND);
        assert!(share > 0.002 && share < 0.03, "{share:.3}");
    });
}

#[test]
fn a_pool_that_comes_back_as_a_whole_serves_all_at_once_and_evenly() {
    for policy in &RAMPING {
        let scenario = |_| {
            let mut scenario = Scenario::new(policy.clone(), alike(3, Service::Constant(20 * MS)));
            (scenario.slow_start, scenario.fail_open) = (Some(1000 * SECOND), false);
            for backend in 0..3 {
                scenario = scenario.change(SECOND, backend, What::IsSaid(Health::Down));
                scenario = scenario.change(2 * SECOND, backend, What::IsSaid(Health::Up));
            }
            scenario
        };
        over_seeds(2, scenario, |report| {
            let last_refusal = 2 * SECOND;
            let picks = report.picks.iter().filter(|pick| pick.at > last_refusal).count();
            assert!((3800..4200).contains(&picks), "{picks} of 500 a second for eight seconds");
            (0..3)
                .for_each(|backend| about(report.share_during(backend, last_refusal..Duration::MAX), 1.0 / 3.0, 0.06));
        });
    }
}

#[test]
fn in_panic_the_few_that_are_well_are_not_overrun() {
    for (panic_threshold, share) in [(0.0, 1.0), (0.5, 0.25)] {
        let scenario = |_| {
            let mut scenario = Scenario::new(Policy::RoundRobin, alike(4, Service::Constant(5 * MS)));
            scenario.panic_threshold = panic_threshold;
            for backend in 1..4 {
                scenario = scenario.change(SECOND, backend, What::IsSaid(Health::Down));
                scenario = scenario.change(8 * SECOND, backend, What::IsSaid(Health::Up));
            }
            scenario
        };
        over_seeds(3, scenario, |report| {
            about(report.share_during(0, SECOND..8 * SECOND), share, 0.01);
            about(report.share_during(0, 8 * SECOND..Duration::MAX), 0.25, 0.01);
            let in_panic = report.picks.iter().filter(|pick| pick.rung == Rung::Panic);
            let (mut count, mut within) = (0, true);
            in_panic.for_each(|pick| (count, within) = (count + 1, within && pick.at < 8 * SECOND));
            assert_eq!((count > 0, within), (panic_threshold > 0.0, true));
            assert_eq!(report.without_backend, 0);
        });
    }
}
