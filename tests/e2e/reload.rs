//! A reload is all or nothing, and nobody who is served notices it.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::Signal;

use crate::support::{Client, Daemon, Ending, Gate, Origin, Response, backends, eventually, web};

/// Follows SIGHUP alone.
const BY_HAND: &str = "\n[reload]\nwatch = false\n";

fn file_for(origin: &Origin) -> String {
    web("", &backends(&[origin.address()]))
}

fn client_of(daemon: &Daemon) -> Client {
    Client::connect(&daemon.address("web"))
}

#[test]
fn an_edit_of_the_file_is_followed() {
    let (old, new) = (Origin::answering("old"), Origin::answering("new"));
    let daemon = Daemon::start(&file_for(&old));
    client_of(&daemon).get("/").assert(200, "old");
    daemon.rewrite(&file_for(&new));
    eventually("the new backend serves", || client_of(&daemon).get("/").text() == "new");
    daemon.wait_log("reload applied");
}

#[test]
fn sighup_makes_the_file_be_read_again() {
    let (old, new) = (Origin::answering("old"), Origin::answering("new"));
    let daemon = Daemon::start(&(file_for(&old) + BY_HAND));
    daemon.rewrite(&(file_for(&new) + BY_HAND));
    daemon.signal(Signal::HUP);
    eventually("the new backend serves", || client_of(&daemon).get("/").text() == "new");
}

#[test]
fn a_connection_kept_alive_follows_the_reload() {
    let (old, new) = (Origin::answering("old"), Origin::answering("new"));
    let daemon = Daemon::start(&file_for(&old));
    let mut client = client_of(&daemon);
    client.get("/").assert(200, "old");
    daemon.reload(&file_for(&new));
    client.get("/").assert(200, "new");
}

#[test]
fn a_file_with_a_fault_changes_nothing_and_is_shown_with_it() {
    let origin = Origin::answering("unmoved");
    let daemon = Daemon::start(&file_for(&origin));
    let mut client = client_of(&daemon);
    daemon.rewrite("[listeners.web]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n\n[pools.app]\nbackends = []\nbalanse = \"ip_hash\"\n");
    daemon.wait_log("reload refused");
    daemon.wait_log("evenkeel.toml:7:");
    daemon.wait_log("^^^");
    daemon.wait_log("balance");
    client.get("/").assert(200, "unmoved");
    client_of(&daemon).get("/").assert(200, "unmoved");
    assert!(!daemon.has_logged("reload applied"));
}

#[test]
fn a_file_that_is_gone_changes_nothing() {
    let origin = Origin::answering("unmoved");
    let daemon = Daemon::start(&file_for(&origin));
    std::fs::remove_file(daemon.file()).expect("it was there");
    daemon.wait_log("reload refused");
    client_of(&daemon).get("/").assert(200, "unmoved");
}

#[test]
fn a_mended_file_is_followed_after_a_broken_one() {
    let (old, new) = (Origin::answering("old"), Origin::answering("new"));
    let daemon = Daemon::start(&file_for(&old));
    daemon.rewrite("[listeners.web\n");
    daemon.wait_log("reload refused");
    daemon.reload(&file_for(&new));
    client_of(&daemon).get("/").assert(200, "new");
}

#[test]
fn a_new_listener_that_can_not_bind_leaves_everything_as_it_was() {
    let (old, new) = (Origin::answering("old"), Origin::answering("new"));
    let daemon = Daemon::start(&file_for(&old));
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = taken.local_addr().expect("a bound socket has an address").to_string();
    daemon.rewrite(&format!("{}[listeners.more]\nbind = \"{address}\"\npool = \"app\"\n", file_for(&new)));
    daemon.wait_log("reload refused");
    daemon.wait_log(&address);
    client_of(&daemon).get("/").assert(200, "old");
    assert_eq!(new.accepted(), 0, "no part of a refused file is in force");
    drop(taken);
    daemon.signal(Signal::HUP);
    eventually("with the port free the same file is applied", || client_of(&daemon).get("/").text() == "new");
    Client::connect(&address).get("/").assert(200, "new");
}

#[test]
fn an_unchanged_file_is_no_reload() {
    let origin = Origin::answering("same");
    let daemon = Daemon::start(&file_for(&origin));
    daemon.rewrite(&file_for(&origin));
    daemon.signal(Signal::HUP);
    daemon.wait_log("reload unchanged");
    assert!(!daemon.has_logged("reload applied"));
}

#[test]
fn who_asks_again_is_told_again_why_a_file_is_refused() {
    let origin = Origin::answering("unmoved");
    let daemon = Daemon::start(&(file_for(&origin) + BY_HAND));
    daemon.rewrite("[listeners.web\n");
    for times in 1..=3 {
        daemon.signal(Signal::HUP);
        eventually("it is answered", || daemon.times_logged("reload refused") == times);
    }
}

#[test]
fn a_port_that_was_chosen_stays_until_its_address_changes() {
    let origin = Origin::answering("served");
    let daemon = Daemon::start(&file_for(&origin));
    let first = daemon.address("web");
    let bind = |list: &str| file_for(&origin).replace("\"127.0.0.1:0\"", list);
    daemon.reload(&bind("[\"127.0.0.2:0\", \"127.0.0.1:0\"]"));
    let second = daemon.addresses("web", 2).remove(1);
    assert!(second.starts_with("127.0.0.2:"), "{second}");
    for address in [&first, &second] {
        Client::connect(address).get("/").assert(200, "served");
    }
    daemon.reload(&bind("[\"127.0.0.2:0\"]"));
    eventually("the first is given up", || Client::try_connect(&first).is_none());
    Client::connect(&second).get("/").assert(200, "served");
}

#[test]
fn a_new_listener_serves_beside_the_old_one() {
    let origin = Origin::answering("both");
    let daemon = Daemon::start(&file_for(&origin));
    daemon.reload(&(file_for(&origin) + "[listeners.more]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n"));
    for listener in ["web", "more"] {
        Client::connect(&daemon.address(listener)).get("/").assert(200, "both");
    }
}

#[test]
fn a_removed_listener_accepts_nobody_while_its_requests_finish() {
    let gate = Gate::default();
    let passing = gate.clone();
    let origin = Origin::scripted(move |mut connection| {
        while connection.request().is_some() {
            passing.pass();
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow");
        }
    });
    let more = file_for(&origin) + "[listeners.more]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n";
    let daemon = Daemon::start(&more);
    let address = daemon.address("more");
    let mut running = Client::connect(&address);
    running.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("the request is at the backend", || origin.requests().len() == 1);
    daemon.reload(&file_for(&origin));
    eventually("nobody is accepted any more", || Client::try_connect(&address).is_none());
    gate.open();
    running.response().assert(200, "slow");
    assert_eq!(running.ending(), Ending::Closed, "a listener that is gone keeps nobody waiting");
    client_of(&daemon).get("/").assert(200, "slow");
}

#[test]
fn fifty_reloads_cost_no_request() {
    let (old, new) = (Origin::answering("old"), Origin::answering("new"));
    let daemon = Daemon::start(&(file_for(&old) + BY_HAND));
    let address = daemon.address("web");
    let over = AtomicBool::new(false);
    let served = thread::scope(|threads| {
        let keeping = threads.spawn(|| {
            let mut client = Client::connect(&address);
            until(&over, || client.get("/"))
        });
        let coming = threads.spawn(|| until(&over, || Client::connect(&address).get("/")));
        for round in 1..=50 {
            let origin = if round % 2 == 0 { &old } else { &new };
            daemon.rewrite(&(file_for(origin) + BY_HAND));
            daemon.signal(Signal::HUP);
            eventually("the reload is applied", || daemon.times_logged("reload applied") == round);
        }
        over.store(true, Ordering::Relaxed);
        [keeping, coming].map(|client| client.join().expect("every request is answered"))
    });
    assert!(served.iter().all(|count| *count > 50), "{served:?}");
}

/// Repeats a request until told otherwise; counts the answers, which have to be good and of one backend or the other.
fn until(over: &AtomicBool, mut request: impl FnMut() -> Response) -> usize {
    let mut count = 0;
    // Relaxed: it only ends the loop, nothing is read because of it.
    while !over.load(Ordering::Relaxed) {
        let response = request();
        assert!(response.status() == 200 && response.looks_complete(), "{response:?}");
        assert!(matches!(response.text().as_str(), "old" | "new"), "{response:?}");
        count += 1;
    }
    count
}
