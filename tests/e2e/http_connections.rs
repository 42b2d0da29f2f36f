//! The client's connection: how long it lives, in which order it is answered, and what belongs to which response.

use crate::support::{Client, Daemon, End, Ending, Gate, Origin, backends, eventually, web};

fn daemon_before(origin: &Origin) -> Daemon {
    Daemon::start(&web("", &backends(&[origin.address()])))
}

fn client_of(daemon: &Daemon) -> Client {
    Client::connect(&daemon.address("web"))
}

#[test]
fn the_short_file_forwards_a_request_and_its_answer() {
    let origin = Origin::answering("hello");
    let daemon = Daemon::start(&format!(
        "[listeners.web]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n\n[pools.app]\nbackends = [\"{}\"]\n",
        origin.address()
    ));
    client_of(&daemon).get("/some/path?with=query").assert(200, "hello");
    assert_eq!(origin.request().head.start, "GET /some/path?with=query HTTP/1.1");
}

#[test]
fn many_requests_of_one_client_use_one_backend_connection() {
    let origin = Origin::answering("again");
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    for _ in 0..20 {
        client.get("/").assert(200, "again");
    }
    assert_eq!((origin.requests().len(), origin.accepted()), (20, 1));
}

#[test]
fn clients_one_after_the_other_share_a_backend_connection() {
    let origin = Origin::answering("shared");
    let daemon = daemon_before(&origin);
    for _ in 0..5 {
        client_of(&daemon).get("/").assert(200, "shared");
    }
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn a_backend_that_says_close_is_connected_to_again() {
    let origin = Origin::saying_once("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nonce");
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    for _ in 0..3 {
        let response = client.get("/");
        response.assert(200, "once");
        assert!(!response.head.lists("connection", "close"), "only the backend's connection ends: {response:?}");
    }
    assert_eq!(origin.accepted(), 3);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::scripted(|mut connection| {
        while let Some(request) = connection.request() {
            let path = request.head.start.split(' ').nth(1).unwrap_or_default().to_owned();
            connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len()));
        }
    });
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    let requests: String = (0..10).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: test\r\n\r\n")).collect();
    client.send(requests);
    for n in 0..10 {
        client.response().assert(200, &format!("/{n}"));
    }
}

#[test]
fn a_pipelined_request_behind_a_body_is_not_mixed_with_it() {
    let origin = Origin::answering("ok");
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    client.send(
        "POST /first HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n12345\
         POST /second HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
         GET /third HTTP/1.1\r\nHost: test\r\n\r\n",
    );
    for _ in 0..3 {
        client.response().assert(200, "ok");
    }
    let bodies: Vec<_> = origin.requests().into_iter().map(|request| request.body).collect();
    assert_eq!(bodies, [&b"12345"[..], b"abc", b""]);
}

#[test]
fn a_request_in_pieces_of_one_byte_is_the_same_request() {
    let origin = Origin::answering("whole");
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    for byte in b"POST /slow HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc" {
        client.send([*byte]);
    }
    client.response().assert(200, "whole");
    assert_eq!(origin.request().body, b"abc");
}

#[test]
fn a_client_that_says_close_is_answered_and_closed() {
    let origin = Origin::answering("bye");
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    let response = client.response();
    response.assert(200, "bye");
    assert!(response.head.lists("connection", "close"), "{response:?}");
    assert_eq!(client.ending(), Ending::Closed);
}

#[test]
fn an_http_1_0_client_is_answered_and_closed() {
    let origin = Origin::answering("old");
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    client.send("GET / HTTP/1.0\r\nHost: test\r\n\r\n");
    client.response().assert(200, "old");
    assert_eq!(client.ending(), Ending::Closed);
    assert_eq!(origin.request().head.start, "GET / HTTP/1.1", "the backend is spoken to in our own version");
}

#[test]
fn an_http_1_0_client_that_asks_for_keep_alive_gets_it() {
    let origin = Origin::answering("old");
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    for _ in 0..3 {
        client.send("GET / HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\n\r\n");
        let response = client.response();
        response.assert(200, "old");
        assert!(response.head.lists("connection", "keep-alive"), "{response:?}");
    }
}

#[test]
fn answers_without_a_body_have_none_and_the_connection_goes_on() {
    let origin = Origin::scripted(|mut connection| {
        while let Some(request) = connection.request() {
            connection.send(match request.head.start.split(' ').nth(1) {
                Some("/head") => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
                Some("/204") => "HTTP/1.1 204 No Content\r\n\r\n",
                _ => "HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\nETag: \"x\"\r\n\r\n",
            });
        }
    });
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    client.send("HEAD /head HTTP/1.1\r\nHost: test\r\n\r\n");
    let head = client.response_to_head();
    assert_eq!((head.status(), head.head.field("content-length")), (200, Some("1000")));
    client.get("/204").assert(204, "");
    let unchanged = client.get("/304");
    unchanged.assert(304, "");
    assert_eq!(unchanged.head.field("etag"), Some("\"x\""));
    assert_eq!(origin.accepted(), 1, "none of them costs the backend connection");
}

#[test]
fn a_204_carries_no_framing_whatever_the_backend_says() {
    let origin =
        Origin::saying_once("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n");
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    let response = client.get("/");
    if response.status() == 204 {
        assert_eq!(response.head.field("transfer-encoding"), None);
        assert_ne!(client.get("/").text(), "evil", "bytes behind a 204 are never the next answer");
    } else {
        assert_eq!(response.status(), 502);
    }
}

#[test]
fn bytes_behind_a_response_are_never_the_next_answer() {
    let smuggled = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let origin = Origin::saying(smuggled);
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    for _ in 0..3 {
        client.get("/").assert(200, "ok");
    }
    assert_eq!(origin.accepted(), 3, "such a connection is not used again");
}

#[test]
fn a_half_closed_client_still_gets_its_answer() {
    let origin = Origin::answering("still here");
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    client.finish_writing();
    client.response().assert(200, "still here");
    assert_eq!(client.ending(), Ending::Closed);
}

#[test]
fn requests_before_a_half_close_are_all_answered() {
    let origin = Origin::answering("still here");
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    client.send("GET /1 HTTP/1.1\r\nHost: test\r\n\r\n".repeat(3));
    client.finish_writing();
    for _ in 0..3 {
        client.response().assert(200, "still here");
    }
    assert_eq!(client.ending(), Ending::Closed);
}

#[test]
fn what_one_client_did_not_take_is_never_sent_to_another() {
    let gate = Gate::default();
    let passing = gate.clone();
    let origin = Origin::scripted(move |mut connection| {
        while let Some(request) = connection.request() {
            passing.pass();
            let path = request.head.start.split(' ').nth(1).unwrap_or_default().to_owned();
            connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len()));
        }
    });
    let daemon = daemon_before(&origin);
    let mut gone = client_of(&daemon);
    // So much is sent ahead that nothing more is read from this client: its reset shows only when it is written to.
    gone.send(format!("GET /secret HTTP/1.1\r\nHost: test\r\n\r\n{}", "x".repeat(64 * 1024)));
    eventually("the request reached the backend", || origin.requests().len() == 1);
    gone.reset();
    gate.open();
    daemon.wait_log("cause=\"client_gone\"");
    client_of(&daemon).get("/other").assert(200, "/other");
}

#[test]
fn an_idle_client_is_closed_after_its_time() {
    let origin = Origin::answering("hello");
    let daemon = Daemon::start(&web("timeouts = { client_idle = \"200ms\" }", &backends(&[origin.address()])));
    let mut client = client_of(&daemon);
    client.get("/").assert(200, "hello");
    assert_eq!(client.ending(), Ending::Closed);
}

#[test]
fn an_idle_backend_connection_is_closed_after_its_time() {
    let origin = Origin::answering("hello");
    let pool = backends(&[origin.address()]) + "timeouts = { upstream_idle = \"200ms\" }";
    let daemon = Daemon::start(&web("", &pool));
    client_of(&daemon).get("/").assert(200, "hello");
    eventually("nobody holds the backend's connection", || origin.open() == 0);
}

#[test]
fn a_unix_socket_serves_and_is_served() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let origin = Origin::scripted_at(&place.path().join("app.sock"), |mut connection| {
        while connection.request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nunix");
        }
    });
    let listener = format!("unix:{}", place.path().join("web.sock").display());
    let daemon = Daemon::start(&format!(
        "[listeners.web]\nbind = \"{listener}\"\npool = \"app\"\n[pools.app]\n{}",
        backends(&[origin.address()])
    ));
    assert_eq!(daemon.address("web"), listener);
    client_of(&daemon).get("/").assert(200, "unix");
    let mut old = client_of(&daemon);
    old.send("GET / HTTP/1.0\r\n\r\n");
    old.response().assert(200, "unix");
    for request in origin.requests() {
        let host = request.head.field("host").expect("HTTP/1.1 demands one");
        assert!(host == "test" || host == "localhost", "a path is no host: {host}");
        assert_eq!(request.head.field("x-forwarded-port"), None, "a file has no port");
    }
}

#[test]
fn a_listener_on_several_addresses_serves_on_all() {
    let origin = Origin::answering("both");
    let daemon = Daemon::start(&format!(
        "[listeners.web]\nbind = [\"127.0.0.1:0\", \"[::1]:0\"]\npool = \"app\"\n[pools.app]\n{}",
        backends(&[origin.address()])
    ));
    for address in daemon.addresses("web", 2) {
        Client::connect(&address).get("/").assert(200, "both");
    }
}

#[test]
fn an_http_1_0_backend_is_understood() {
    let origin = Origin::saying_once("HTTP/1.0 200 OK\r\n\r\nto the end");
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    let response = client.get("/");
    response.assert(200, "to the end");
    assert_eq!(response.end, End::Complete, "an HTTP/1.1 client is told where it ends");
    client.get("/").assert(200, "to the end");
}
