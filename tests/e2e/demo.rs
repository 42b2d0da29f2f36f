//! The demonstration: what it shows, and that what it plays goes as it should.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::support::daemon::BINARY;
use crate::support::tls::Tls;
use crate::support::{Finished, run};

#[track_caller]
fn demo(arguments: &[&str]) -> Finished {
    let demo = run(&[&["demo", "--port", "0"], arguments].concat());
    assert_eq!(demo.status.code(), Some(0), "{demo:?}");
    assert!(!demo.out.contains('\u{1b}'), "no terminal, no colours: {}", demo.out);
    demo
}

#[test]
fn without_a_terminal_it_prints_plain_lines_and_a_summary() {
    for arguments in [&["--seconds", "3"][..], &["--seconds", "2", "--algorithm", "ip_hash"]] {
        let demo = demo(arguments);
        for part in ["http://127.0.0.1:", "evenkeel.toml", "swift", "steady", "slow", "flaky", "p50", "p99", " ms"] {
            assert!(demo.out.contains(part), "no {part:?} in {}", demo.out);
        }
    }
}

#[test]
fn it_serves_https_with_a_certificate_of_its_own() {
    let mut demo = Command::new(BINARY)
        .args(["demo", "--port", "0", "--tls", "--seconds", "20"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let lines = BufReader::new(demo.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
    let url = lines.filter_map(|line| Some(line.split_once("curl -ik https://")?.1.to_owned())).next();
    let url = url.expect("it says how to ask");
    let mut client = Tls::trusting_anybody().connect(url.trim_end_matches('/'), "localhost").expect("a handshake");
    let (status, _) = client.get("/").expect("an answer");
    assert_eq!(status, 200);
    demo.kill().expect("it still runs");
    demo.wait().expect("it has ended");
}

#[test]
fn it_shows_the_shares_that_the_weights_ask_for() {
    let demo = demo(&["--seconds", "4", "--algorithm", "weighted_round_robin"]);
    let summary = demo.out.rsplit("In ").next().expect("split gives one at least");
    let requests = |backend: &str| -> u32 {
        let line =
            summary.lines().find(|line| line.trim_start().starts_with(backend)).expect("each backend has a line");
        // … share, bar, active, requests, failed, two times with their unit.
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns[columns.len() - 6].parse().unwrap_or_else(|_| panic!("no requests in {line:?}"))
    };
    let (swift, steady, slow) = (requests("swift"), requests("steady"), requests("slow"));
    assert!(slow >= 3, "{summary}");
    // Weights 4, 2 and 1, exact per worker; what is under way is not counted yet.
    assert!(swift.abs_diff(2 * steady) <= 12 && steady.abs_diff(2 * slow) <= 12, "{summary}");
}

#[test]
fn one_server_fails_by_schedule_and_no_client_notices() {
    let demo = demo(&["--seconds", "9"]);
    for part in ["breaker: closed → open", "backend is down: going down 1/2 → down", "(down", " 0 failed · "] {
        assert!(demo.out.contains(part), "no {part:?} in {}", demo.out);
    }
    let summary = demo.out.lines().rfind(|line| line.starts_with("http")).expect("the pool has a line");
    assert!(!summary.contains(" 0 retried"), "refused connections are tried elsewhere: {summary}");
    assert!(!demo.err.contains("breaker"), "changes are told once: {}", demo.err);
}

#[test]
fn an_outage_goes_as_it_should_act_by_act() {
    // It has deadlines of its own, later than ours.
    let arguments = ["demo", "--port", "0", "--scenario", "outage", "--speed", "5"];
    let outage = Command::new(BINARY).args(arguments).output().expect("the binary runs");
    let out = String::from_utf8_lossy(&outage.stdout);
    assert_eq!(outage.status.code(), Some(0), "{out}");
    assert_eq!(out.lines().filter(|line| line.ends_with("  as it should")).count(), 7, "{out}");
    for part in [
        "fail-open: all are down",
        "which is max_open_ratio",
        "half_open → open; a probe failed",
        "an answer",
        "status 503",
        "slow start: swift",
        "clients are served again",
    ] {
        assert!(out.contains(part), "no {part:?} in {out}");
    }
}

#[test]
fn a_speed_is_for_a_script_alone_and_scripts_end_by_themselves() {
    for arguments in [
        &["demo", "--speed", "2"][..],
        &["demo", "--scenario", "outage", "--seconds", "5"],
        &["demo", "--scenario", "outage", "--algorithm", "ip_hash"],
        &["demo", "--scenario", "peace"],
    ] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
}
