//! Deciding where a request goes allocates nothing: route, split, pick, lease and its end.

#[path = "support/allocations.rs"]
mod allocations;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use allocations::allocations;
use evenkeel::balance::{Dice, Tried};
use evenkeel::clock::Instant;
use evenkeel::config::{
    self, Address, Backend, Bytes, Config, HashOn, HeaderRules, HostPattern, Http, HttpVersion, HttpVersions, Limits,
    Listener, PathPattern, Policy, Pool, Protocol, Reload, Runtime, Service, Timeouts, WeightedPool,
};
use evenkeel::http::Fields;
use evenkeel::outcome::{Outcome, Verdict};
use evenkeel::state::{Action, RouteAsk, Snapshot, View};

const SECOND: Duration = Duration::from_secs(1);

fn timeouts() -> Timeouts {
    Timeouts {
        client_header: SECOND,
        client_body: SECOND,
        client_write: SECOND,
        client_min_rate: Bytes::default(),
        client_idle: SECOND,
        tls_handshake: SECOND,
        connect: SECOND,
        response_header: SECOND,
        response_body: SECOND,
        upstream_idle: SECOND,
        tunnel_idle: SECOND,
        queue: SECOND,
        request: None,
    }
}

fn pool(number: usize, policy: Policy) -> Pool {
    let backend = |port: u16| Backend {
        name: "backend".into(),
        address: Address::Ip(([127, 0, 0, 1], port).into()),
        weight: u32::from(port),
        max_connections: NonZeroU32::new(1),
        backup: port == 3,
        service: Service::Active,
    };
    let backends = (1..=3).map(backend).collect();
    Pool {
        name: format!("pool{number}").into(),
        policy,
        backends,
        slow_start: None,
        timeouts: timeouts(),
        breaker: Some(evenkeel::breaker::Settings::default()),
        health_check: None,
        http_version: HttpVersion::H1,
        send_proxy_protocol: None,
        tls: None,
        fail_open: true,
        panic_threshold: 0.0,
        queue: 10,
        retry_budget: 0.2,
    }
}

fn pools() -> Vec<Pool> {
    let policies = [
        Policy::RoundRobin,
        Policy::WeightedRoundRobin,
        Policy::LeastConnections,
        Policy::IpHash { ipv4_prefix: 32, ipv6_prefix: 64, bounded_load: Some(1.25) },
        Policy::LeastResponseTime,
        Policy::RandomTwoChoices,
        Policy::ConsistentHash { on: HashOn::Uri },
    ];
    policies.into_iter().enumerate().map(|(number, policy)| pool(number, policy)).collect()
}

fn route(hosts: Vec<HostPattern>, path: PathPattern, pools: &[Pool]) -> config::Route {
    let shares = pools.iter().map(|pool| WeightedPool { pool: pool.name.clone(), weight: 1 });
    config::Route {
        name: "route".into(),
        hosts,
        path,
        methods: Vec::new(),
        match_headers: Vec::new(),
        action: config::Action::Forward(shares.collect()),
        headers: HeaderRules::default(),
        retry: config::Retry::default(),
        request_timeout: None,
    }
}

/// One listener whose routes go to pools of every policy.
fn config() -> Config {
    let pools = pools();
    let exact = HostPattern::Exact("www.example.com".to_owned());
    let wildcard = HostPattern::Wildcard(".example.com".to_owned());
    let routes = vec![
        route(vec![exact], PathPattern::Exact("/only".to_owned()), &pools),
        route(vec![wildcard], PathPattern::Prefix("/v1".to_owned()), &pools),
        route(Vec::new(), PathPattern::Any, &pools),
    ];
    let http = Http {
        versions: HttpVersions::H1,
        trusted_proxies: Vec::new(),
        forwarded: false,
        via: false,
        routes,
        headers: HeaderRules::default(),
    };
    let listener = Listener {
        proxy_protocol: None,
        tls: None,
        name: "web".into(),
        bind: Vec::new(),
        protocol: Protocol::Http(http),
        timeouts: timeouts(),
        limits: Limits::default(),
    };
    Config {
        runtime: Runtime { workers: None, shutdown_grace: SECOND, connections: None },
        reload: Reload { watch: true, drain_timeout: SECOND },
        listeners: vec![listener],
        pools,
    }
}

/// One request that is tried on every backend that will have it, some failing.
fn request(view: &View, path: &str, number: u64, dice: &mut Dice) {
    let now = Instant::ORIGIN + Duration::from_millis(number);
    let listener = view.snapshot().listeners().next().expect("there is one").id;
    let plan = view.listener(listener).expect("there is one");
    let evenkeel::state::Protocol::Http(http) = &plan.protocol else { panic!("it speaks HTTP") };
    let ask = RouteAsk { host: "www.example.com", path, method: b"GET", fields: &Fields::default() };
    let route = http.routes.find(&ask).expect("the last route takes all");
    let Action::Forward(split) = &route.action else { panic!("all forward") };
    let pool = split.choose(dice.next());
    let mut tried = Tried::default();
    while let Ok(mut taken) = view.take(pool, now, number, &mut tried, dice) {
        taken.lease.sent(now);
        taken.lease.responded(now + SECOND, if number.is_multiple_of(3) { Verdict::Failed } else { Verdict::Good });
        let beside = view.take(pool, now, number, &mut tried, dice);
        taken.lease.finish(now + SECOND, Outcome::Completed { status: 200 });
        if let Ok(beside) = beside {
            beside.lease.finish(now, Outcome::ConnectFailed);
        }
    }
    assert!(view.take(pool, now, number, &mut tried, dice).is_err(), "also the news that there is none");
}

#[test]
fn a_request_is_routed_and_leased_without_an_allocation() {
    let snapshot = Snapshot::next(&config(), &evenkeel::tls::Materials::default(), None);
    snapshot.settle();
    let view = View::new(Arc::new(snapshot), None, 0, 1);
    let dice = &mut Dice::seeded(1);
    let mut requests = |numbers: std::ops::Range<u64>| {
        for number in numbers {
            for path in ["/only", "/v1/x", "/"] {
                request(&view, path, number, dice);
            }
        }
    };
    // A worker's memory of a backend is made when it first hears of it.
    requests(0..100);
    assert_eq!(allocations(|| requests(100..400)), 0);
}

#[test]
fn a_view_is_what_allocates() {
    let snapshot = Arc::new(Snapshot::next(&config(), &evenkeel::tls::Materials::default(), None));
    assert!(allocations(|| drop(View::new(snapshot, None, 0, 1))) > 0, "the count can fail");
}
