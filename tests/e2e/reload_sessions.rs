//! What is under way when the file changes: it goes on with the backend it has, and ends when it should.

use std::time::Instant;

use rustix::process::Signal;

use crate::support::{Client, DEADLINE, Daemon, Gate, Origin, backends, eventually, raw, web};

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Answers `/` when the gate is open, and anything that asks for an upgrade with one.
fn slow_origin(text: &'static str, gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::scripted(move |mut connection| {
        while let Some(request) = connection.request() {
            if request.head.field("upgrade").is_some() {
                connection.send(SWITCHED);
                return connection.echo();
            }
            gate.pass();
            connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()));
        }
    })
}

fn draining(limit: &str) -> String {
    format!("\n[reload]\ndrain_timeout = \"{limit}\"\n")
}

#[test]
fn a_removed_backend_finishes_its_requests() {
    let gate = Gate::default();
    let (old, new) = (slow_origin("old", &gate), Origin::answering("new"));
    let daemon = Daemon::start(&web("", &backends(&[old.address()])));
    let mut client = Client::connect(&daemon.address("web"));
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("the request is at the old backend", || old.requests().len() == 1);
    daemon.reload(&web("", &backends(&[new.address()])));
    Client::connect(&daemon.address("web")).get("/").assert(200, "new");
    gate.open();
    client.response().assert(200, "old");
    client.get("/").assert(200, "new");
    eventually("no idle connection to the removed backend is left", || old.open() == 0);
}

#[test]
fn a_session_on_a_removed_backend_is_cut_when_its_time_is_over() {
    let (old, new) = (Origin::echoing(), Origin::greeting("new"));
    let end = draining("300ms");
    let daemon = Daemon::start(&(raw("", &backends(&[old.address()])) + &end));
    let mut client = Client::connect(&daemon.address("raw"));
    client.expect_echo("before");
    daemon.reload(&(raw("", &backends(&[new.address()])) + &end));
    assert_eq!(Client::connect(&daemon.address("raw")).bytes(3), b"new");
    let (rest, _) = client.rest();
    assert!(rest.is_empty(), "{rest:?}");
    eventually("the removed backend is let go", || old.open() == 0);
}

#[test]
fn a_session_on_a_removed_backend_has_its_time() {
    let (old, new) = (Origin::echoing(), Origin::echoing());
    let daemon = Daemon::start(&raw("", &backends(&[old.address()])));
    let mut client = Client::connect(&daemon.address("raw"));
    client.expect_echo("before");
    daemon.reload(&raw("", &backends(&[new.address()])));
    client.expect_echo("after");
    assert_eq!((old.accepted(), new.accepted()), (1, 0));
}

#[test]
fn a_websocket_on_a_removed_backend_is_cut_when_its_time_is_over() {
    let (old, new) = (slow_origin("old", &Gate::default()), Origin::answering("new"));
    let end = draining("300ms");
    let daemon = Daemon::start(&(web("", &backends(&[old.address()])) + &end));
    let mut client = Client::connect(&daemon.address("web"));
    client.ask_for_websocket("/");
    client.head();
    client.expect_echo("before");
    daemon.reload(&(web("", &backends(&[new.address()])) + &end));
    client.rest();
    eventually("the removed backend is let go", || old.open() == 0);
}

#[test]
fn a_request_on_a_removed_backend_is_cut_when_its_time_is_over() {
    let (old, new) = (Origin::hanging(), Origin::answering("new"));
    let end = draining("300ms");
    let daemon = Daemon::start(&(web("", &backends(&[old.address()])) + &end));
    let mut client = Client::connect(&daemon.address("web"));
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("the request is at the old backend", || old.requests().len() == 1);
    daemon.reload(&(web("", &backends(&[new.address()])) + &end));
    eventually("the removed backend is let go", || old.open() == 0);
    assert_eq!(client.response().status(), 503);
}

#[test]
fn sessions_on_kept_backends_live_through_reloads() {
    let (kept, other) = (slow_origin("kept", &Gate::default()), Origin::answering("other"));
    let echo = Origin::echoing();
    let file = |web_backends: &[&str], weight: u32| {
        format!(
            "{}[listeners.raw]\nprotocol = \"tcp\"\nbind = \"127.0.0.1:0\"\npool = \"echo\"\n\
             [pools.echo]\nbackends = [{{ address = \"{}\", weight = {weight} }}]\nbalance = \"least_connections\"\n{}",
            web("", &backends(web_backends)),
            echo.address(),
            draining("1ms")
        )
    };
    let daemon = Daemon::start(&file(&[kept.address()], 1));
    let mut websocket = Client::connect(&daemon.address("web"));
    websocket.ask_for_websocket("/");
    websocket.head();
    let mut session = Client::connect(&daemon.address("raw"));
    session.expect_echo("first");
    for (weight, backends) in [(2, vec![kept.address(), other.address()]), (3, vec![kept.address()])] {
        daemon.reload(&file(&backends, weight));
        websocket.expect_echo("a frame");
        session.expect_echo("a line");
    }
    assert_eq!((kept.open(), echo.open()), (1, 1));
}

#[test]
fn a_backend_that_comes_back_is_not_cut() {
    let (old, new) = (Origin::echoing(), Origin::echoing());
    let end = draining("2s");
    let with = |origin: &Origin| raw("", &backends(&[origin.address()])) + &end;
    let daemon = Daemon::start(&with(&old));
    let mut client = Client::connect(&daemon.address("raw"));
    client.expect_echo("before");
    daemon.reload(&with(&new));
    daemon.reload(&with(&old));
    // Beyond the time the drain would have taken: another session that is really cut says when it is over.
    let mut witness = Client::connect(&daemon.address("raw"));
    witness.expect_echo("kept as well");
    let other = Origin::echoing();
    let both = |addresses: &[&str]| raw("", &backends(addresses)) + &end;
    daemon.reload(&both(&[old.address(), other.address()]));
    let mut cut: Vec<_> = (0..2).map(|_| Client::connect(&daemon.address("raw"))).collect();
    cut.iter_mut().for_each(|client| client.expect_echo("x"));
    daemon.reload(&with(&old));
    eventually("the other backend's session is cut", || other.open() == 0);
    client.expect_echo("after");
    witness.expect_echo("after");
}

#[test]
fn a_drained_backend_gets_nothing_new_and_keeps_what_it_has() {
    let (held, free) = (Origin::echoing(), Origin::echoing());
    let file = |drain: bool| {
        let pool = format!(
            "backends = [{{ address = \"{}\", drain = {drain} }}, {{ address = \"{}\", backup = true }}]",
            held.address(),
            free.address()
        );
        raw("", &pool) + &draining("1ms")
    };
    let daemon = Daemon::start(&file(false));
    let mut client = Client::connect(&daemon.address("raw"));
    client.expect_echo("before");
    daemon.reload(&file(true));
    Client::connect(&daemon.address("raw")).expect_echo("new");
    assert_eq!((held.accepted(), free.accepted()), (1, 1));
    client.expect_echo("after");
}

#[test]
fn a_backend_that_is_taken_out_keeps_no_idle_connection() {
    for out in ["drain = true", "maintenance = true"] {
        let (held, free) = (Origin::answering("held"), Origin::answering("free"));
        let file = |out: &str| {
            let [held, free] = [&held, &free].map(Origin::address);
            web("", &format!("backends = [{{ address = \"{held}\"{out} }}, {{ address = \"{free}\", backup = true }}]"))
        };
        let daemon = Daemon::start(&file(""));
        let mut client = Client::connect(&daemon.address("web"));
        client.get("/").assert(200, "held");
        assert_eq!(held.open(), 1, "it is kept for the next request");
        let begun = Instant::now();
        daemon.reload(&file(&format!(", {out}")));
        eventually("it is closed without another request", || held.open() == 0);
        // At the deadline the origin would give up by itself.
        assert!(begun.elapsed() < DEADLINE / 2, "{out}");
        client.get("/").assert(200, "free");
    }
}

#[test]
fn a_sighup_without_a_change_touches_no_session() {
    let origin = Origin::echoing();
    let daemon = Daemon::start(&(raw("", &backends(&[origin.address()])) + &draining("1ms")));
    let mut client = Client::connect(&daemon.address("raw"));
    client.expect_echo("before");
    daemon.signal(Signal::HUP);
    daemon.wait_log("reload unchanged");
    client.expect_echo("after");
}
