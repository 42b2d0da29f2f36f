//! What policies do to whole pools over many workers, on virtual time and over many seeds.
//!
//! A failing test names its seed; `EVENKEEL_SEED=7 cargo test --test simulation NAME` replays that one alone.

mod faults;
mod policies;
mod protection;
mod recovery;
mod storms;

use std::time::Duration;

use evenkeel::config::{HashOn, Policy};
use evenkeel::simulation::{Backend, Failure, Report, Scenario, Service, What, run};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const US: Duration = Duration::from_micros(1);

/// Runs `check` on a report of each seed, or of the one that `EVENKEEL_SEED` asks for.
fn over_seeds(count: u64, scenario: impl Fn(u64) -> Scenario, check: impl Fn(&Report)) {
    let asked = std::env::var("EVENKEEL_SEED").ok().map(|seed| seed.parse().expect("EVENKEEL_SEED is a number"));
    for seed in asked.map_or(0..count, |seed: u64| seed..seed + 1) {
        let replay = Replay(seed);
        let report = run(&scenario(seed), seed);
        if let Some(broken) = &report.broken {
            panic!("{broken}");
        }
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

/// This share of its connections is refused after this time.
fn refuses(share: f64, after: Duration) -> What {
    What::Fails { share, how: Failure::Refuses(after) }
}

fn ip_hash(bounded_load: Option<f64>) -> Policy {
    Policy::IpHash { ipv4_prefix: 32, ipv6_prefix: 64, bounded_load }
}

fn consistent_hash() -> Policy {
    Policy::ConsistentHash { on: HashOn::ClientAddress }
}

fn all_policies() -> [Policy; 8] {
    [
        Policy::RoundRobin,
        Policy::WeightedRoundRobin,
        Policy::LeastConnections,
        ip_hash(None),
        ip_hash(Some(1.25)),
        Policy::LeastResponseTime,
        Policy::RandomTwoChoices,
        consistent_hash(),
    ]
}

fn alike(count: usize, service: Service) -> Vec<Backend> {
    vec![Backend::new(service); count]
}

fn about(share: f64, fair: f64, by: f64) {
    assert!((share - fair).abs() <= by, "a share of {share:.3}, not {fair:.3} ± {by}");
}
