//! The promises of `support/properties`, over seeds, over what fuzzers have found, and over thousands of seeds made worse.
//!
//! `fuzz/` makes its inputs for hours and by what it sees of the code; here they are made in seconds and by rule, so that
//! every test run asks the same questions.

#[path = "support/properties/mod.rs"]
mod properties;

use std::cell::Cell;
use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};

/// What is put into seeds: that which decides something somewhere.
const PIECES: &[&[u8]] = &[
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"\0",
    b"\x7f",
    b"\xff",
    b"_",
    b"0",
    b"1",
    b"%2e",
    b"%2F",
    b"%",
    b"..",
    b"//",
    b"?",
    b"#",
    b"a",
    b"http://h:80",
    b"HTTP/1.0",
    b"HEAD",
    b"204",
    b"101",
    b"0\r\n\r\n",
    b"\r\nConnection: close, x-a\r\n",
    b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n",
    b"\r\nContent-Length: 5\r\n",
    b"\r\nExpect: 100-continue\r\n",
    b"\r\nHost: b.\r\n",
    b"\r\nTE: trailers\r\n",
    b"\r\nTrailer: a\r\n",
    b"\r\nTransfer-Encoding: chunked\r\n",
    b"\r\nX-Forwarded-For: 1.2.3.4\r\n",
    b"\r\nX-Request-Id: theirs\r\n",
    b"\ncookie: c=d\n",
    b"\nte: trailers\n",
    b"= [",
    b"PROXY TCP4 ",
    b"\r\n\r\n\0\r\nQUIT\n",
    b"\x21",
    b"\x16\x03\x01\x00",
    b"\x01\x00\x00",
    b"\x00\x00\x00\x0e\x00\x0c\x00\x00\x09b.example",
    b"\"",
];

/// One change of a seed: from this place on so many bytes go, and these come.
#[derive(Clone, Debug)]
struct Change {
    place: Index,
    removed: usize,
    brought: Vec<u8>,
}

impl Change {
    fn apply(&self, input: &mut Vec<u8>) {
        let start = self.place.index(input.len() + 1);
        let end = input.len().min(start + self.removed);
        input.splice(start..end, self.brought.iter().copied());
    }
}

fn change() -> impl Strategy<Value = Change> {
    let brought = prop_oneof![
        4 => select(PIECES).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 0..3),
    ];
    (any::<Index>(), 0..3_usize, brought).prop_map(|(place, removed, brought)| Change { place, removed, brought })
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let entries = fs::read_dir(&folder).expect("there are seeds for it");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a readable seed")).collect()
}

/// Asks `property` of every seed and of `cases` changed ones; a fair part of those must be accepted, else little was asked.
fn holds(target: &str, cases: u32, property: fn(&[u8]) -> bool) {
    let seeds = seeds(target);
    let accepted = seeds.iter().filter(|seed| property(seed)).count();
    assert!(accepted * 2 > seeds.len(), "only {accepted} of {} seeds are accepted", seeds.len());
    let accepted = Cell::new(0);
    let inputs = (select(seeds), vec(change(), 0..4)).prop_map(|(mut input, changes)| {
        changes.iter().for_each(|change| change.apply(&mut input));
        input
    });
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&inputs, |input| {
        accepted.set(accepted.get() + u32::from(property(&input)));
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    // a quarter of the inputs are seeds as they are
    assert!(accepted.get() * 10 > cases, "only {} of {cases} inputs were accepted", accepted.get());
}

#[test]
fn request_heads_are_read_one_way() {
    holds("request_head", 1500, properties::request_head);
}

#[test]
fn response_heads_are_read_one_way() {
    holds("response_head", 1500, properties::response_head);
}

#[test]
fn chunked_bodies_are_read_one_way() {
    holds("chunked", 1500, properties::chunked);
}

#[test]
fn targets_have_one_form() {
    holds("target", 3000, properties::target);
}

#[test]
fn proxy_headers_are_read_one_way() {
    holds("proxy_protocol", 3000, properties::proxy_protocol);
}

#[test]
fn client_hellos_are_read_one_way() {
    holds("client_hello", 3000, properties::client_hello);
}

#[test]
fn configurations_check_or_say_why_not() {
    holds("configuration", 300, properties::configuration);
}

#[test]
fn requests_are_forwarded_as_one() {
    holds("forward_request", 1500, properties::forward_request);
}

#[test]
fn responses_are_forwarded_as_one() {
    holds("forward_response", 1500, properties::forward_response);
}

#[test]
fn heads_mean_the_same_in_both_protocols() {
    holds("h2_head", 1500, properties::h2_head);
}
