//! Who gets the next request, seen from outside: every algorithm serves, and the hashing ones keep their word.

use std::collections::BTreeMap;

use crate::support::{Client, Daemon, Origin, backends, raw, web};

const ALGORITHMS: [&str; 7] = [
    "round_robin",
    "weighted_round_robin",
    "least_connections",
    "ip_hash",
    "least_response_time",
    "random_two_choices",
    "consistent_hash",
];

/// Three origins that answer who they are, and a daemon before them with these lines for the listener and the pool.
fn three(listener: &str, pool: &str) -> ([Origin; 3], Daemon) {
    let origins = ["a", "b", "c"].map(Origin::answering);
    let pool = backends(&origins.each_ref().map(Origin::address)) + pool;
    let daemon = Daemon::start(&web(listener, &pool));
    (origins, daemon)
}

/// Who answers a request with this target and these fields.
#[track_caller]
fn who(client: &mut Client, target: &str, fields: &str) -> String {
    client.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n"));
    let response = client.response();
    assert_eq!(response.status(), 200, "{response:?}");
    response.text()
}

/// Asks twice for each of forty keys: the same key has one backend, and all keys together have all three.
#[track_caller]
fn assert_sticks(listener: &str, pool: &str, request: impl Fn(usize) -> (String, String)) {
    let (_origins, daemon) = three(listener, pool);
    let mut client = Client::connect(&daemon.address("web"));
    let mut keys_of: BTreeMap<String, usize> = BTreeMap::new();
    for key in 0..40 {
        let (target, fields) = request(key);
        let first = who(&mut client, &target, &fields);
        assert_eq!(who(&mut client, &target, &fields), first, "{target} {fields}");
        *keys_of.entry(first).or_default() += 1;
    }
    assert_eq!(keys_of.len(), 3, "{keys_of:?}");
}

#[test]
fn every_algorithm_serves_http_and_tcp() {
    for algorithm in ALGORITHMS {
        let balance = format!("balance = \"{algorithm}\"");
        let (_origins, daemon) = three("", &balance);
        let mut client = Client::connect(&daemon.address("web"));
        for _ in 0..10 {
            who(&mut client, "/", "");
        }
        let echo = [Origin::echoing(), Origin::echoing()];
        let daemon = Daemon::start(&raw("", &(backends(&echo.each_ref().map(Origin::address)) + &balance)));
        for _ in 0..4 {
            Client::connect(&daemon.address("raw")).expect_echo(algorithm);
        }
        assert_eq!(echo.each_ref().map(Origin::accepted).iter().sum::<usize>(), 4);
    }
}

#[test]
fn round_robin_takes_each_backend_in_turn() {
    let (_origins, daemon) = three("", "");
    let mut client = Client::connect(&daemon.address("web"));
    let turns: Vec<_> = (0..12).map(|_| who(&mut client, "/", "")).collect();
    assert!(turns.windows(4).all(|four| four[0] == four[3] && four[0] != four[1] && four[1] != four[2]), "{turns:?}");
}

#[test]
fn weighted_round_robin_is_smooth() {
    let origins = ["a", "b", "c"].map(Origin::answering);
    let [a, b, c] = origins.each_ref().map(Origin::address);
    let daemon = Daemon::start(&web(
        "",
        &format!(
            "balance = \"weighted_round_robin\"\nbackends = [{{ address = \"{a}\", weight = 5 }}, \"{b}\", \"{c}\"]"
        ),
    ));
    let mut client = Client::connect(&daemon.address("web"));
    let turns: String = (0..21).map(|_| who(&mut client, "/", "")).collect();
    // Each worker begins at a phase of its own; from there on it is the one order that is known for 5, 1, 1.
    assert!("aabacaa".repeat(4).contains(&turns), "{turns}");
}

#[test]
fn consistent_hash_keeps_what_it_hashes_on_with_one_backend() {
    let hashing = |on: &str| format!("balance = \"consistent_hash\"\nhash_on = {on}");
    assert_sticks("", &hashing("\"uri\""), |key| (format!("/{key}"), String::new()));
    assert_sticks("", &hashing("{ header = \"X-User\" }"), |key| ("/".into(), format!("x-user: {key}\r\n")));
    assert_sticks("", &hashing("{ cookie = \"sid\" }"), |key| ("/".into(), format!("Cookie: a=b; sid={key}; c=d\r\n")));
    assert_sticks("", &hashing("{ query = \"id\" }"), |key| (format!("/?x=1&id={key}"), String::new()));
}

#[test]
fn ip_hash_goes_by_the_client_behind_a_trusted_proxy() {
    let trusted = "trusted_proxies = [\"127.0.0.0/8\"]";
    assert_sticks(trusted, "balance = \"ip_hash\"", |key| {
        ("/".into(), format!("X-Forwarded-For: 198.51.100.{key}\r\n"))
    });
}

#[test]
fn ip_hash_does_not_go_by_what_a_stranger_claims() {
    let (origins, daemon) = three("", "balance = \"ip_hash\"");
    let mut client = Client::connect(&daemon.address("web"));
    for key in 0..30 {
        who(&mut client, "/", &format!("X-Forwarded-For: 198.51.100.{key}\r\n"));
    }
    let used = origins.iter().filter(|origin| origin.accepted() > 0).count();
    assert_eq!(used, 1, "they all come from one address");
}

#[test]
fn only_the_clients_of_a_backend_that_left_move() {
    let origins = ["a", "b", "c"].map(Origin::answering);
    let file = |count: usize| {
        let addresses = origins.each_ref().map(Origin::address);
        web("", &(backends(&addresses[..count]) + "balance = \"consistent_hash\"\nhash_on = \"uri\""))
    };
    let daemon = Daemon::start(&file(3));
    let mut client = Client::connect(&daemon.address("web"));
    let mut ask = || -> Vec<String> { (0..60).map(|key| who(&mut client, &format!("/{key}"), "")).collect() };
    let before = ask();
    daemon.reload(&file(2));
    let after = ask();
    let moved = before.iter().zip(&after).filter(|(old, new)| *old != "c" && old != new).count();
    assert!(!after.iter().any(|who| who == "c"));
    // A table of consistent hashing moves one in some thousand of the others too, never half of them as a modulo would.
    assert!(moved <= 2, "{moved} of 60 moved without need");
}
