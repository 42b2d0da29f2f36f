//! Upgraded connections: raw bytes only after a 101 that was asked for, and then as faithful as a TCP session.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{Client, Daemon, Ending, Gate, Origin, backends, eventually, web};

fn daemon_before(origin: &Origin) -> Daemon {
    Daemon::start(&web("", &backends(&[origin.address()])))
}

fn client_of(daemon: &Daemon) -> Client {
    Client::connect(&daemon.address("web"))
}

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Switches and echoes.
fn websocket_origin() -> Origin {
    Origin::scripted(|mut connection| {
        if connection.head().is_some() {
            connection.send(SWITCHED);
            connection.echo();
        }
    })
}

#[test]
fn a_websocket_is_opened_by_101_and_relays_both_ways() {
    let origin = websocket_origin();
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    client.ask_for_websocket("/chat");
    let head = client.head();
    assert_eq!(head.start.split(' ').nth(1), Some("101"));
    assert!(head.lists("connection", "upgrade") && head.field("upgrade") == Some("websocket"), "{head:?}");
    assert_eq!(head.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    client.expect_echo("GET / HTTP/1.1\r\n\r\n is only data here");
    client.expect_echo("\0\u{1}\u{2}");
    let request = origin.request();
    assert!(request.head.lists("connection", "upgrade"), "{request:?}");
    assert_eq!(request.head.field("upgrade"), Some("websocket"));
    assert_eq!(request.head.field("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
}

#[test]
fn what_a_client_sends_behind_its_upgrade_reaches_the_backend_only_after_101() {
    let (gate, early) = (Gate::default(), Arc::new(AtomicBool::new(false)));
    let (opened, seen) = (gate.clone(), early.clone());
    let origin = Origin::scripted(move |mut connection| {
        connection.head();
        opened.pass();
        seen.store(connection.has_more(), Ordering::SeqCst);
        connection.send(SWITCHED);
        connection.echo();
    });
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    client.ask_for_websocket("/");
    client.send("early");
    eventually("the request is at the backend", || origin.requests().len() == 1);
    // A second exchange on the one worker: after it, the early bytes have been looked at too.
    let mut other = client_of(&daemon);
    other.ask_for_websocket("/");
    eventually("the second request is there too", || origin.requests().len() == 2);
    gate.open();
    assert!(client.head().start.contains(" 101 "));
    assert_eq!(client.bytes(5), b"early");
    assert!(!early.load(Ordering::SeqCst), "they came before the backend had agreed");
}

#[test]
fn what_a_backend_sends_right_behind_its_101_arrives() {
    let origin = Origin::scripted(|mut connection| {
        connection.head();
        connection.send(format!("{SWITCHED}welcome"));
        connection.echo();
    });
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    client.ask_for_websocket("/");
    client.head();
    assert_eq!(client.bytes(7), b"welcome");
}

#[test]
fn each_side_of_a_websocket_may_finish_first() {
    let origin = Origin::scripted(|mut connection| {
        connection.head();
        connection.send(SWITCHED);
        connection.finish_writing();
        let heard = connection.take(9);
        assert_eq!(heard, b"last word");
        connection.ending();
    });
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    client.ask_for_websocket("/");
    client.head();
    assert_eq!(client.ending(), Ending::Closed);
    client.send("last word");
    client.finish_writing();
    eventually("the backend heard it and the end", || origin.open() == 0);

    let origin = websocket_origin();
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    client.ask_for_websocket("/");
    client.head();
    client.send("said before the end");
    client.finish_writing();
    let (rest, ending) = client.rest();
    assert_eq!((rest.as_slice(), ending), (&b"said before the end"[..], Ending::Closed));
}

#[test]
fn a_refused_upgrade_is_an_ordinary_answer_and_no_tunnel() {
    let origin = Origin::scripted(|mut connection| {
        connection.head();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno");
        connection.ending();
    });
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    client.ask_for_websocket("/");
    client.response().assert(200, "no");
    client.send("GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n");
    let (rest, _) = client.rest();
    assert!(rest.is_empty(), "{}", rest.escape_ascii());
    assert_eq!(origin.requests().len(), 1, "nothing behind a refused upgrade reaches the backend");
}

#[test]
fn a_101_that_nobody_asked_for_is_a_502() {
    let origin = Origin::scripted(|mut connection| {
        connection.head();
        connection.send(SWITCHED);
        connection.send("raw bytes");
        connection.ending();
    });
    let daemon = daemon_before(&origin);
    assert_eq!(client_of(&daemon).get("/").status(), 502);
    eventually("that connection is given up", || origin.open() == 0);
}

#[test]
fn an_upgrade_to_anything_else_is_an_ordinary_request() {
    let origin = Origin::answering("plain");
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n");
    client.response().assert(200, "plain");
    let request = origin.request();
    assert_eq!((request.head.field("upgrade"), request.head.field("http2-settings")), (None, None));
    assert!(!request.head.lists("connection", "upgrade"), "{request:?}");
}

#[test]
fn an_upgrade_with_a_body_opens_no_tunnel() {
    let origin = Origin::answering("plain");
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    client.send(
        "POST / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 4\r\n\r\nbody",
    );
    let status = client.response().status();
    assert!(matches!(status, 200 | 400), "{status}");
    for request in origin.requests() {
        assert_eq!(request.head.field("upgrade"), None, "{request:?}");
    }
}

#[test]
fn a_tunnel_in_which_nothing_moves_is_ended() {
    let origin = websocket_origin();
    let daemon = Daemon::start(&web("timeouts = { tunnel_idle = \"200ms\" }", &backends(&[origin.address()])));
    let mut client = client_of(&daemon);
    client.ask_for_websocket("/");
    client.head();
    client.expect_echo("ping");
    client.rest();
    eventually("the backend is let go", || origin.open() == 0);
}
