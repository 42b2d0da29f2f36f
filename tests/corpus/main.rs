//! Strictness as data: every raw request and raw answer of the corpus goes through the real binary, and a judge that shares no
//! code with it says what arrived on the other side. README.md beside this tells how cases are written.

#[allow(dead_code, unused_imports, reason = "the end-to-end tests use the rest of it")]
#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, reason = "the properties use the rest of it")]
#[path = "../support/letter.rs"]
mod letter;

mod file;
mod lane;
mod letter_tests;
mod peers;
mod run;
mod talk;
mod verdict;

use std::collections::BTreeSet;
use std::time::Duration;

use file::{Case, Last, Verb, cases};
use run::{Kind, LANES, Program, run_all};
use support::Daemon;
use verdict::Who;

/// The daemon under test: one listener, with these keys in its table, and one pool for each lane.
fn evenkeel(lanes: &[lane::Lane], keys: &str) -> (Daemon, Program) {
    let mut toml = "[runtime]\nworkers = 1\n\n[defaults.timeouts]\nclient_header = \"6s\"\nclient_body = \"6s\"\nclient_write = \"6s\"\nresponse_header = \"4s\"\nresponse_body = \"4s\"\n".to_owned();
    for (number, lane) in lanes.iter().enumerate() {
        toml += &format!("\n[listeners.l{number}]\nbind = \"127.0.0.1:0\"\npool = \"p{number}\"\n{keys}\n");
        toml += &format!("\n[pools.p{number}]\nbackends = [\"{}\"]\n", lane.address);
    }
    let daemon = Daemon::start(&toml);
    let addresses = (0..lanes.len()).map(|number| daemon.address(&format!("l{number}"))).collect();
    (daemon, Program::evenkeel(addresses))
}

#[track_caller]
fn all_hold(kind: Kind, cases: &[Case]) {
    let lanes = run::lanes();
    let listeners: BTreeSet<_> = cases.iter().map(|case| &case.listener).collect();
    let mut faults = Vec::new();
    for listener in listeners {
        let cases: Vec<_> = cases.iter().filter(|case| case.listener == *listener).cloned().collect();
        // Dropped before a failure, which would print its log: what went through it says more.
        let (_daemon, program) = evenkeel(&lanes, listener);
        faults.extend(run_all(kind, &program, &lanes, &cases));
    }
    let list: String = faults.iter().map(|fault| format!("\n  {fault}")).collect();
    assert!(faults.is_empty(), "{} of {} cases failed:{list}", faults.len(), cases.len());
}

#[test]
fn every_raw_request_becomes_one_clear_message_or_nothing() {
    all_hold(Kind::Requests, &cases("requests"));
}

#[test]
fn every_raw_request_in_pieces_becomes_the_same() {
    all_hold(Kind::Requests, &in_pieces(cases("requests")));
}

#[test]
fn every_raw_answer_becomes_one_clear_message_or_a_failure_that_shows() {
    all_hold(Kind::Answers, &cases("answers"));
}

#[test]
fn every_raw_answer_in_pieces_becomes_the_same() {
    let mut cases = cases("answers");
    // What a backend sends behind its answer has to be there with the answer: later it is the answer to a later request for
    // everybody, and nothing in HTTP/1.1 tells otherwise.
    cases.retain(|case| case.last != Last::Stay || !case.has_bytes_behind());
    all_hold(Kind::Answers, &in_pieces(cases));
}

fn in_pieces(cases: Vec<Case>) -> Vec<Case> {
    cases.iter().map(Case::in_pieces).collect()
}

#[test]
fn expectations_that_are_wrong_are_noticed() {
    let lanes = run::lanes();
    let (_daemon, program) = evenkeel(&lanes, "");
    let program = Program { patience: Duration::from_secs(1), unfinished: Duration::from_secs(1), ..program };
    for kind in [Kind::Requests, Kind::Answers] {
        let cases = cases(&format!("wrong/{}", kind.folder()));
        let faults = run_all(kind, &program, &lanes, &cases);
        assert_eq!((faults.len(), cases.is_empty()), (cases.len(), false), "{faults:#?}");
    }
}

/// What every program lets happen, ours included: `scores` in README.md. nginx and HAProxy take part when they are asked for.
#[test]
fn scores_beside_nginx_and_haproxy() {
    if std::env::var_os("EVENKEEL_CORPUS_PEERS").is_none() {
        println!("no scores: EVENKEEL_CORPUS_PEERS=1 runs the corpus on nginx and HAProxy too");
        return;
    }
    let lanes = run::lanes();
    let (_daemon, program) = evenkeel(&lanes, "");
    let program = Program { who: Who::Peer, ..program };
    assert_eq!(score(&program, &lanes), 0, "Evenkeel has to be safe in every case");
    for peer in [peers::nginx(&lanes), peers::haproxy(&lanes)] {
        match peer {
            Ok(peer) => drop(score(&peer.program, &lanes)),
            Err(why) => println!("score: no score: {why}"),
        }
    }
}

/// Prints what is unsafe in a program, and its score; returns how many cases are unsafe.
fn score(program: &Program, lanes: &[lane::Lane]) -> usize {
    let mut line = format!("score: {}:", program.name);
    let mut unsafe_cases = 0;
    for kind in [Kind::Requests, Kind::Answers] {
        let mut cases = cases(kind.folder());
        cases.retain(|case| case.scored);
        let faults = run_all(kind, program, lanes, &cases);
        for fault in &faults {
            println!("unsafe: {}: {fault}", program.name);
        }
        line += &format!(" {} safe {} / {}", kind.folder(), cases.len() - faults.len(), cases.len());
        unsafe_cases += faults.len();
    }
    println!("{line}");
    unsafe_cases
}

#[test]
fn the_corpus_is_as_large_as_promised_and_has_both_forms_of_every_rule() {
    let (requests, answers) = (cases("requests"), cases("answers"));
    println!("{} requests, {} answers, {LANES} lanes", requests.len(), answers.len());
    assert!(requests.len() >= 300, "{}", requests.len());
    assert!(answers.len() >= 100, "{}", answers.len());
    for all in [&requests, &answers] {
        let names: BTreeSet<_> = all.iter().map(|case| (&case.name, &case.writes)).collect();
        assert_eq!(names.len(), all.len(), "a case is there twice");
        assert_both_forms(all);
    }
    assert_rules_are_named(&[requests, answers].concat());
}

/// Every file refuses something and lets its nearest neighbour pass.
fn assert_both_forms(cases: &[Case]) {
    let files: BTreeSet<_> = cases.iter().filter_map(|case| case.name.split('/').next()).collect();
    for file in files {
        let of_it = || cases.iter().filter(|case| case.name.split('/').next() == Some(file));
        let passes = of_it().filter(|case| case.want.verb == Verb::Pass).count();
        assert!(passes > 0 && passes < of_it().count(), "{file}: {passes} of {} pass", of_it().count());
    }
}

fn assert_rules_are_named(cases: &[Case]) {
    let named: BTreeSet<_> = cases.iter().flat_map(|case| case.rules.split(", ")).collect();
    let wanted = ["R1", "R2", "R3", "R4", "R6", "R7", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R29"];
    for rule in wanted {
        assert!(named.contains(rule), "no case is about {rule}");
    }
    for point in 1..=9 {
        assert!(named.contains(&*format!("checklist {point}")), "no case is about point {point} of the checklist");
    }
}
