//! Greedy clients: whatever they do, a well-behaved client beside them is served, memory stays bounded, and they are gone
//! after their deadline.
//!
//! Deadlines are short here. How long the well-behaved client waits is printed and not judged: machines that run tests
//! are busy.

#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "most of it is for the end-to-end tests")]
mod support;

mod attackers;
mod bystander;

use std::io::Read;
use std::time::Duration;

use attackers::{Attackers, Takes, flood};
use bystander::{Bystander, idle};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Client, Daemon, Launch, Origin, backends, eventually, web};

/// The deadlines of these tests, but for idle connections: of heads, and between two reads or writes.
const DEADLINES: &str = "client_header = \"2s\", client_body = \"2s\"";

/// How long an attacker may stay: its deadline, the two seconds of a lingering close, and slack for a busy machine.
const GONE_BY: Duration = Duration::from_secs(2 + 2 + 4);

const ATTACKERS: usize = 250;

/// What 250 attackers may cost, in bytes.
const GROWTH: u64 = 32 << 20;

/// An answer far larger than the kernel's buffers.
const LARGE: usize = 16 << 20;

const EVERY: Duration = Duration::from_millis(250);

/// A daemon with short deadlines, which answers `/` with a few bytes and `/large` with many.
struct Arena {
    daemon: Daemon,
    address: String,
    _origins: [Origin; 2],
    rest: u64,
}

impl Arena {
    fn new(limits: &str, idle: &str) -> Arena {
        let small = Origin::answering("small");
        let large = Origin::answering(&"x".repeat(LARGE));
        let listener = format!(
            "timeouts = {{ {DEADLINES}, client_idle = \"{idle}\" }}\nlimits = {{ {limits} }}\n\
             routes = [{{ path = {{ exact = \"/large\" }}, pool = \"large\" }}]"
        );
        let pool = |origin: &Origin| backends(&[origin.address()]) + "timeouts = { upstream_idle = \"1s\" }";
        let file = web(&listener, &pool(&small)) + "\n[pools.large]\n" + &pool(&large);
        let daemon = Launch::new().level("info").write("evenkeel.toml", &file).start();
        let address = daemon.address("web");
        // Once around, so that what is allocated for good is there.
        (0..50).for_each(|_| Client::connect(&address).get("/").assert(200, "small"));
        let rest = daemon.resident_bytes();
        Arena { daemon, address, _origins: [small, large], rest }
    }

    fn growth(&self) -> u64 {
        self.daemon.resident_bytes().saturating_sub(self.rest)
    }

    /// Attacks until all attackers are gone, in time, and asserts that a client beside them did not suffer.
    #[track_caller]
    fn withstands(&self, what: &str, attackers: Attackers) {
        let bystander = Bystander::beside(&self.address);
        let attack = attackers.attack(&self.address);
        let mut growth = 0;
        while attack.is_going_on() {
            growth = growth.max(self.growth());
            std::thread::sleep(Duration::from_millis(10));
        }
        let (seen, (first, last)) = (bystander.leave(), attack.stayed());
        println!("{what}: {seen}; {} KiB more at most; they stayed for {first:?} to {last:?}", growth >> 10);
        assert!(first >= Duration::from_secs(1), "that was no attack");
        assert!(last <= GONE_BY, "an attacker stayed for {last:?}");
        assert!(seen.served_share() >= 0.99, "{seen}");
        assert!(growth <= GROWTH, "it grew by {growth} bytes");
        eventually("nothing is left of them", || self.daemon.descriptors() < 64);
    }
}

#[test]
fn slow_heads_hurt_nobody() {
    Arena::new("", "2s").withstands(
        "slow heads",
        Attackers {
            count: ATTACKERS,
            opening: b"GET / HTTP/1.1\r\nHost: test\r\nX-Slow: ".into(),
            then: b"x".into(),
            every: EVERY,
            takes: Takes::Everything,
        },
    );
}

#[test]
fn slow_bodies_hurt_nobody() {
    Arena::new("", "2s").withstands(
        "slow bodies",
        Attackers {
            count: ATTACKERS,
            opening: b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n".into(),
            then: b"x".into(),
            every: Duration::from_secs(1),
            takes: Takes::Everything,
        },
    );
}

#[test]
fn slow_readers_hurt_nobody() {
    Arena::new("", "2s").withstands(
        "slow readers",
        Attackers {
            count: ATTACKERS,
            opening: b"GET /large HTTP/1.1\r\nHost: test\r\n\r\n".into(),
            then: Vec::new(),
            every: EVERY,
            takes: Takes::Sips,
        },
    );
}

#[test]
fn floods_of_pipelined_requests_hurt_nobody() {
    // It is the number of requests that ends them here; who reads nothing long enough ends as slow readers do.
    Arena::new("requests_per_connection = 500", "2s").withstands(
        "floods of requests",
        Attackers {
            count: 50,
            opening: Vec::new(),
            then: "GET / HTTP/1.1\r\nHost: test\r\n\r\n".repeat(2000).into(),
            every: Duration::from_millis(20),
            takes: Takes::Nothing,
        },
    );
}

#[test]
fn a_flood_of_connections_over_the_limit_of_a_client_hurts_nobody() {
    let arena = Arena::new("connections_per_ip = 50", "2s");
    let bystander = Bystander::beside(&arena.address);
    let (mut growth, mut open) = (0, 0);
    let ended = std::thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(&arena.address, Duration::from_secs(3)));
        while !flooding.is_finished() {
            (growth, open) = (growth.max(arena.growth()), open.max(arena.daemon.descriptors()));
        }
        flooding.join().expect("flooding does not panic")
    });
    let seen = bystander.leave();
    println!("a flood of connections: {seen}; {} KiB more; {ended} ended, {open} descriptors at most", growth >> 10);
    assert!(ended >= 200, "that was no flood");
    assert!((50..100).contains(&open), "{open} descriptors were open");
    assert!(seen.served_share() >= 0.99, "{seen}");
    assert!(growth <= GROWTH, "it grew by {growth} bytes");
    eventually("nothing is left of them", || arena.daemon.descriptors() < 64);
}

/// What an idle connection may cost in the daemon's memory, in bytes. That is generous, for builds without optimisation, in
/// which tasks are larger.
const IDLE_BYTES: u64 = 8 * 1024;

/// How many idle connections there are: 5,000, or as many as this process may have besides everything else.
fn idle_ones() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // When it can not be raised, the tests go on with what there is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let most = getrlimit(Resource::Nofile).current.or(current).unwrap_or(u64::MAX);
    usize::try_from(most.saturating_sub(1500)).unwrap_or(usize::MAX).min(5000)
}

#[test]
fn thousands_of_idle_connections_cost_little_and_end() {
    let count = idle_ones();
    let arena = Arena::new("", "6s");
    let bystander = Bystander::beside(&arena.address);
    let open = |_| idle(&arena.address).expect("there is room for all");
    let mut idle: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..count / 4).map(open).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("it does not panic")).collect()
    });
    let (open, growth) = (arena.daemon.descriptors(), arena.growth());
    let each = growth / idle.len() as u64;
    eventually("all are ended", || {
        idle.retain_mut(|stream| !matches!(stream.read(&mut [0]), Ok(0)));
        idle.is_empty()
    });
    let seen = bystander.leave();
    println!("{count} idle connections: {seen}; {each} bytes each");
    assert!(open >= count / 4 * 4, "{open} of {count} are open at once");
    assert!(each <= IDLE_BYTES, "{each} bytes each");
    assert!(seen.served_share() >= 0.99, "{seen}");
    eventually("nothing is left of them", || arena.daemon.descriptors() < 64);
}
