//! Limits of a listener: what is just within one is served, what is just beyond is refused, and a reload changes them.

use crate::support::{Client, Daemon, Ending, Origin, Response, backends, eventually, web};

fn limited(limits: &str, origin: &Origin) -> String {
    web(&format!("limits = {{ {limits} }}"), &backends(&[origin.address()]))
}

/// The answer to these bytes, which has to be the last on its connection unless it is a 200.
#[track_caller]
fn answer(daemon: &Daemon, request: &str) -> Response {
    let mut client = Client::connect(&daemon.address("web"));
    client.send(request);
    let response = client.response();
    if response.status() != 200 {
        assert!(response.head.lists("connection", "close"), "{response:?}");
        assert_eq!(client.ending(), Ending::Closed, "the answer must not be lost in a reset");
    }
    response
}

/// A request head of exactly so many bytes.
fn head_of(bytes: usize) -> String {
    let start = "GET / HTTP/1.1\r\nHost: test\r\nX-Fill: ";
    format!("{start}{}\r\n\r\n", "x".repeat(bytes - start.len() - 4))
}

/// A request line of exactly so many bytes, and a whole request with it.
fn line_of(bytes: usize) -> String {
    let frame = "GET / HTTP/1.1".len();
    format!("GET /{} HTTP/1.1\r\nHost: test\r\n\r\n", "x".repeat(bytes - frame))
}

/// A request with so many fields.
fn fields_of(count: usize) -> String {
    let fields: String = (1..count).map(|n| format!("X-{n}: y\r\n")).collect();
    format!("GET / HTTP/1.1\r\nHost: test\r\n{fields}\r\n")
}

/// A request with a chunked body and so many trailer fields.
fn trailers_of(count: usize) -> String {
    let fields: String = (0..count).map(|n| format!("X-{n}: y\r\n")).collect();
    format!("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n{fields}\r\n")
}

#[test]
fn the_default_limits_of_a_head_are_those_of_the_reference() {
    let origin = Origin::answering("within");
    let daemon = Daemon::start(&web("", &backends(&[origin.address()])));
    for (within, beyond, status) in [
        (head_of(32 * 1024), head_of(32 * 1024 + 1), 431),
        (fields_of(100), fields_of(101), 431),
        (line_of(8 * 1024), line_of(8 * 1024 + 1), 414),
        (trailers_of(100), trailers_of(101), 400),
    ] {
        answer(&daemon, &within).assert(200, "within");
        assert_eq!(answer(&daemon, &beyond).status(), status);
    }
}

#[test]
fn a_listener_has_its_own_limits_of_a_head() {
    let origin = Origin::answering("within");
    let daemon = Daemon::start(&limited("header_bytes = \"1KiB\", headers = 5, request_line = \"100B\"", &origin));
    for (within, beyond, status) in [
        (head_of(1024), head_of(1025), 431),
        (fields_of(5), fields_of(6), 431),
        (line_of(100), line_of(101), 414),
        (trailers_of(5), trailers_of(6), 400),
    ] {
        answer(&daemon, &within).assert(200, "within");
        assert_eq!(answer(&daemon, &beyond).status(), status);
    }
}

#[test]
fn limits_can_be_wider_than_the_defaults() {
    let origin = Origin::answering("within");
    let wide = "header_bytes = \"256KiB\", headers = 1000, request_line = \"64KiB\"";
    let daemon = Daemon::start(&limited(wide, &origin));
    for (within, beyond, status) in [
        (head_of(256 * 1024), head_of(256 * 1024 + 1), 431),
        (fields_of(1000), fields_of(1001), 431),
        (line_of(64 * 1024), line_of(64 * 1024 + 1), 414),
        (trailers_of(1000), trailers_of(1001), 400),
    ] {
        answer(&daemon, &within).assert(200, "within");
        assert_eq!(answer(&daemon, &beyond).status(), status);
    }
}

#[test]
fn a_head_without_an_end_is_refused_at_the_limit() {
    let origin = Origin::answering("must not be seen");
    let daemon = Daemon::start(&limited("header_bytes = \"1KiB\"", &origin));
    let endless = "GET / HTTP/1.1\r\nHost: test\r\nX-Fill: ".to_owned() + &"x".repeat(2000);
    assert_eq!(answer(&daemon, &endless).status(), 431);
    assert!(origin.requests().is_empty());
}

#[test]
fn the_next_request_of_an_open_connection_has_the_limits_of_a_reload() {
    let origin = Origin::answering("within");
    let daemon = Daemon::start(&limited("headers = 5", &origin));
    let mut client = Client::connect(&daemon.address("web"));
    client.send(fields_of(5));
    client.response().assert(200, "within");
    daemon.reload(&limited("headers = 4", &origin));
    client.send(fields_of(4));
    client.response().assert(200, "within");
    client.send(fields_of(5));
    assert_eq!(client.response().status(), 431);
    eventually("only what was within the limits is forwarded", || origin.requests().len() == 2);
}

#[test]
fn the_last_request_that_a_connection_may_bring_says_so_and_no_other_is_forwarded() {
    let origin = Origin::answering("served");
    let daemon = Daemon::start(&limited("requests_per_connection = 3", &origin));
    let mut client = Client::connect(&daemon.address("web"));
    for last in [false, false, true] {
        let response = client.get("/");
        response.assert(200, "served");
        assert_eq!(response.head.lists("connection", "close"), last);
    }
    assert_eq!(client.ending(), Ending::Closed);
    // A client that has sent more ahead gets its three answers, and no reset that could take one away.
    let mut ahead = Client::connect(&daemon.address("web"));
    ahead.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n".repeat(50));
    (0..3).for_each(|_| ahead.response().assert(200, "served"));
    assert_eq!(ahead.ending(), Ending::Closed);
    assert_eq!(origin.requests().len(), 6);
}

#[test]
fn our_own_answers_count_as_requests_too() {
    let daemon = Daemon::start(
        "listeners.web.bind = '127.0.0.1:0'\nlisteners.web.limits.requests_per_connection = 2\n\
         [[listeners.web.routes]]\nrespond = { status = 200, body = 'ours' }\n",
    );
    let mut client = Client::connect(&daemon.address("web"));
    assert!(!client.get("/").head.lists("connection", "close"));
    assert!(client.get("/").head.lists("connection", "close"));
    assert_eq!(client.ending(), Ending::Closed);
}
