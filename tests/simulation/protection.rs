//! What breakers and the ladder make of backends that fail.

use std::time::Duration;

use evenkeel::balance::Rung;
use evenkeel::breaker::Settings;
use evenkeel::config::{Aim, HealthCheck, Initial, OnDown, Policy, Probe};
use evenkeel::simulation::{Backend, Failure, Scenario, Service, What};
use evenkeel::state::Health;

use super::{MS, SECOND, about, alike, over_seeds, refuses};

#[test]
fn a_backend_that_fails_gets_its_probes_and_its_share_again_when_it_is_well() {
    for after in [MS, 2 * SECOND] {
        let scenario = |_| {
            let scenario = Scenario::new(Policy::RoundRobin, alike(4, Service::Exponential(10 * MS)));
            let fails = |share| refuses(share, after);
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
            let fails = |share| refuses(share, MS);
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
            scenario = scenario.change(second * SECOND, 0, refuses(share, MS));
        }
        Scenario { breaker: Some(Settings::default()), lasts: 60 * SECOND, ..scenario }
    };
    over_seeds(4, scenario, |report| {
        assert!(report.failures[0] < 60 && report.failed == 0, "{:?}", report.failures);
        assert!(report.trips[0] >= 2, "{:?}", report.trips);
    });
}

#[test]
fn without_fail_open_a_pool_that_is_down_answers_nothing_and_with_it_goes_on() {
    for fail_open in [false, true] {
        let scenario = |_| {
            let mut scenario = Scenario::new(Policy::LeastConnections, alike(2, Service::Constant(MS)));
            (scenario.fail_open, scenario.lasts) = (fail_open, 2 * SECOND);
            let down = What::IsSaid(Health::Down);
            scenario.change(SECOND, 0, down).change(SECOND, 1, down)
        };
        over_seeds(2, scenario, |report| {
            let on_last_rung = report.picks.iter().filter(|pick| pick.rung == Rung::FailOpen).count();
            assert_eq!(on_last_rung > 0, fail_open);
            assert_eq!(report.without_backend == 0, fail_open);
        });
    }
}

/// A check that is quick to find out.
fn check() -> HealthCheck {
    let (interval, timeout) = (200 * MS, 100 * MS);
    HealthCheck {
        probe: Probe::Tcp,
        aim: Aim::Backend,
        interval,
        fast_interval: interval / 2,
        down_interval: interval,
        timeout,
        rise: 2,
        fall: 3,
        jitter: 0.1,
        initial: Initial::Up,
        on_down: OnDown::KeepSessions,
    }
}

#[test]
fn requests_that_wait_for_a_backend_which_hangs_are_late_and_not_failed() {
    let scenario = |_| {
        let hangs = |share| What::Fails { share, how: Failure::Hangs };
        let scenario = Scenario::new(Policy::RoundRobin, alike(4, Service::Exponential(10 * MS)));
        let scenario = scenario.change(2 * SECOND, 0, hangs(1.0)).change(6 * SECOND, 0, hangs(0.0));
        Scenario { check: Some(check()), rate: 300.0, ..scenario }
    };
    over_seeds(6, scenario, |report| {
        assert_eq!((report.failed, report.without_backend), (0, 0));
        assert!(report.elsewhere > 10, "{} were tried elsewhere", report.elsewhere);
        let latest = report.latency(1.0).expect("some are answered");
        assert!(latest < SECOND, "the latest is answered after {latest:?}");
        assert_eq!(report.share_during(0, 3 * SECOND..6 * SECOND), 0.0, "it is down");
        about(report.share_during(0, 7 * SECOND..Duration::MAX), 0.25, 0.02);
    });
}

#[test]
fn a_health_path_that_is_wrong_everywhere_is_no_outage() {
    let scenario = |_| {
        let scenario = Scenario::new(Policy::LeastConnections, alike(3, Service::Exponential(10 * MS)));
        let scenario = (0..3).fold(scenario, |scenario, backend| scenario.change(SECOND, backend, What::Denies(true)));
        Scenario { check: Some(check()), ..scenario }
    };
    over_seeds(3, scenario, |report| {
        assert_eq!((report.failed, report.without_backend), (0, 0));
        let last = report.picks.last().expect("there are some");
        assert_eq!(last.rung, Rung::FailOpen);
    });
}

#[test]
fn a_crowd_waits_in_the_queue_and_is_served_in_turn() {
    let scenario = |_| {
        let backends = vec![Backend { max_connections: Some(2), ..Backend::new(Service::Constant(20 * MS)) }; 2];
        let scenario = Scenario::new(Policy::LeastConnections, backends);
        Scenario { queue: 100, rate: 170.0, ..scenario }
    };
    over_seeds(4, scenario, |report| {
        assert_eq!((report.failed, report.without_backend), (0, 0));
        assert!(report.queued > 100 && report.peaks == [2, 2], "{} have waited", report.queued);
    });
}
