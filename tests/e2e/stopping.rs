//! How the daemon ends: what is under way is finished, within the time it is given, and nothing new is begun.

use rustix::process::Signal;

use crate::support::{Client, Daemon, Ending, Gate, Origin, backends, eventually, raw, web};

fn gated_origin(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::scripted(move |mut connection| {
        while connection.request().is_some() {
            gate.pass();
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
        }
    })
}

/// One HTTP listener with a grace of so long.
fn file(grace: &str, origin: &Origin) -> String {
    web("", &backends(&[origin.address()]))
        .replace("workers = 1", &format!("workers = 1\nshutdown_grace = \"{grace}\""))
}

/// A client whose request has reached the origin.
fn waiting_client(address: &str, origin: &Origin) -> Client {
    let mut client = Client::connect(address);
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("the request is at the backend", || origin.requests().len() == 1);
    client
}

#[test]
fn a_stop_finishes_what_is_under_way_and_begins_nothing_new() {
    for signal in [Signal::TERM, Signal::INT] {
        let gate = Gate::default();
        let origin = gated_origin(&gate);
        let mut daemon = Daemon::start(&file("60s", &origin));
        let address = daemon.address("web");
        let mut client = waiting_client(&address, &origin);
        daemon.signal(signal);
        eventually("nobody is accepted any more", || Client::try_connect(&address).is_none());
        assert!(daemon.is_running());
        gate.open();
        let response = client.response();
        response.assert(200, "done");
        assert!(response.head.lists("connection", "close"), "{response:?}");
        assert_eq!(client.ending(), Ending::Closed);
        assert_eq!(daemon.wait_exit().code(), Some(0));
    }
}

#[test]
fn a_stop_does_not_wait_for_idle_connections() {
    let origin = Origin::answering("hello");
    let mut daemon = Daemon::start(&file("60s", &origin));
    let mut idle = Client::connect(&daemon.address("web"));
    idle.get("/").assert(200, "hello");
    let mut silent = Client::connect(&daemon.address("web"));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit().code(), Some(0));
    assert_eq!(idle.ending(), Ending::Closed);
    silent.rest();
}

#[test]
fn a_stop_waits_no_longer_than_its_grace() {
    let origin = Origin::hanging();
    let mut daemon = Daemon::start(&file("300ms", &origin));
    let mut client = waiting_client(&daemon.address("web"), &origin);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit().code(), Some(0));
    client.rest();
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let origin = Origin::hanging();
    let mut daemon = Daemon::start(&file("1h", &origin));
    let address = daemon.address("web");
    let mut client = waiting_client(&address, &origin);
    daemon.signal(Signal::TERM);
    eventually("it is stopping", || Client::try_connect(&address).is_none());
    assert!(daemon.is_running());
    daemon.signal(Signal::TERM);
    daemon.wait_exit();
    client.rest();
}

#[test]
fn a_tcp_session_may_finish_during_a_stop() {
    let origin = Origin::echoing();
    let mut daemon = Daemon::start(&raw("", &backends(&[origin.address()])));
    let address = daemon.address("raw");
    let mut client = Client::connect(&address);
    client.expect_echo("before");
    daemon.signal(Signal::TERM);
    eventually("nobody is accepted any more", || Client::try_connect(&address).is_none());
    client.expect_echo("last words");
    client.finish_writing();
    assert_eq!(client.ending(), Ending::Closed);
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

#[test]
fn a_stop_takes_its_socket_file_away() {
    let origin = Origin::answering("unix");
    let place = tempfile::tempdir().expect("a temporary directory");
    let path = place.path().join("web.sock");
    let bind = format!("unix:{}", path.display());
    let mut daemon = Daemon::start(&web("", &backends(&[origin.address()])).replace("127.0.0.1:0", &bind));
    Client::connect(&bind).get("/").assert(200, "unix");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit().code(), Some(0));
    assert!(!path.exists());
}
