//! What is never forwarded: messages that two readers could understand in two ways.

use crate::support::{Client, Daemon, Ending, Origin, backends, web};

/// Sends bytes that must be refused with 400 and a close, and checks that no byte of them reached the origin.
#[track_caller]
fn refused(request: &str) {
    refused_with(400, request);
}

#[track_caller]
fn refused_with(status: u16, request: &str) {
    let origin = Origin::answering("must not be seen");
    let daemon = Daemon::start(&web("", &backends(&[origin.address()])));
    let mut client = Client::connect(&daemon.address("web"));
    client.send(request);
    client.send("GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n");
    let response = client.response();
    assert_eq!(response.status(), status, "{request:?} was answered {response:?}");
    assert!(response.head.lists("connection", "close"), "{response:?}");
    let (rest, ending) = client.rest();
    assert!(rest.is_empty(), "{request:?} had a second answer: {}", rest.escape_ascii());
    assert_eq!(ending, Ending::Closed, "{request:?}: the answer must not be lost in a reset");
    assert!(origin.requests().is_empty(), "{request:?} reached the origin as {:?}", origin.requests());
}

#[test]
fn a_length_next_to_chunks_is_refused() {
    refused("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
}

#[test]
fn chunks_next_to_a_length_are_refused() {
    refused("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n");
}

#[test]
fn two_lengths_are_refused() {
    refused("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd");
}

#[test]
fn a_list_of_lengths_is_refused() {
    refused("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4, 5\r\n\r\nabcd");
}

#[test]
fn a_length_that_is_no_number_is_refused() {
    for length in ["+4", "-1", "0x4", "4 4", "", "99999999999999999999999"] {
        refused(&format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\nabcd"));
    }
}

#[test]
fn transfer_codings_other_than_one_chunked_are_refused() {
    for coding in ["gzip, chunked", "chunked, chunked", "xchunked", "chunked, identity"] {
        let origin = Origin::answering("must not be seen");
        let daemon = Daemon::start(&web("", &backends(&[origin.address()])));
        let mut client = Client::connect(&daemon.address("web"));
        client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n"));
        let status = client.response().status();
        assert!(matches!(status, 400 | 501), "{coding:?} was answered {status}");
        assert_eq!(client.ending(), Ending::Closed);
        assert!(origin.requests().is_empty());
    }
}

#[test]
fn two_transfer_encodings_are_refused() {
    refused(
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    );
}

#[test]
fn chunks_in_http_1_0_are_refused() {
    refused("POST / HTTP/1.0\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
}

#[test]
fn a_bare_line_feed_is_refused() {
    refused("GET / HTTP/1.1\nHost: test\n\n");
    refused("GET / HTTP/1.1\r\nHost: test\nX-A: b\r\n\r\n");
}

#[test]
fn a_request_without_host_is_refused() {
    refused("GET / HTTP/1.1\r\nAccept: */*\r\n\r\n");
}

#[test]
fn two_hosts_are_refused() {
    refused("GET / HTTP/1.1\r\nHost: one\r\nHost: two\r\n\r\n");
    refused("GET / HTTP/1.1\r\nHost: one\r\nHost: one\r\n\r\n");
}

#[test]
fn white_space_before_a_colon_and_folded_lines_are_refused() {
    refused("GET / HTTP/1.1\r\nHost: test\r\nX-A : b\r\n\r\n");
    refused("GET / HTTP/1.1\r\nHost: test\r\nX-A: b\r\n folded\r\n\r\n");
}

#[test]
fn control_characters_and_empty_names_are_refused() {
    refused("GET / HTTP/1.1\r\nHost: test\r\nX-A: a\0b\r\n\r\n");
    refused("GET / HTTP/1.1\r\nHost: test\r\n: empty\r\n\r\n");
    refused("GET / HTTP/1.1\r\nHost: test\r\nX-A: a\rb\r\n\r\n");
}

#[test]
fn a_target_that_is_read_in_two_ways_is_refused() {
    refused("GET /a#b HTTP/1.1\r\nHost: test\r\n\r\n");
    refused("GET /a\\b HTTP/1.1\r\nHost: test\r\n\r\n");
}

#[test]
fn a_broken_chunk_never_looks_like_a_whole_request() {
    for chunk in
        ["4\nabcd\r\n0\r\n\r\n", "0x4\r\nabcd\r\n0\r\n\r\n", "4\r\nabcdX\r\n0\r\n\r\n", "+4\r\nabcd\r\n0\r\n\r\n"]
    {
        let origin = Origin::answering("must not be seen");
        let daemon = Daemon::start(&web("", &backends(&[origin.address()])));
        let mut client = Client::connect(&daemon.address("web"));
        client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"));
        assert_eq!(client.response().status(), 400, "{chunk:?}");
        assert_eq!(client.ending(), Ending::Closed);
        let seen = origin.requests();
        assert!(seen.iter().all(|request| request.end != crate::support::End::Complete), "{chunk:?}: {seen:?}");
    }
}

#[test]
fn connect_and_trace_are_refused() {
    for request in
        ["CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n", "TRACE / HTTP/1.1\r\nHost: test\r\n\r\n"]
    {
        let origin = Origin::answering("must not be seen");
        let daemon = Daemon::start(&web("", &backends(&[origin.address()])));
        let mut client = Client::connect(&daemon.address("web"));
        client.send(request);
        let status = client.response().status();
        assert!(matches!(status, 400 | 403 | 405 | 501), "{request:?} was answered {status}");
        assert!(origin.requests().is_empty());
    }
}

#[test]
fn a_head_beyond_every_measure_is_refused() {
    let long = "x".repeat(50_000);
    let origin = Origin::answering("must not be seen");
    let daemon = Daemon::start(&web("", &backends(&[origin.address()])));
    let mut client = Client::connect(&daemon.address("web"));
    client.send(format!("GET / HTTP/1.1\r\nHost: test\r\nX-Long: {long}\r\n\r\n"));
    let status = client.response().status();
    assert!(matches!(status, 400 | 431), "{status}");
    assert!(origin.requests().is_empty());
}

#[test]
fn names_that_some_backends_read_as_others_do_not_pass() {
    let origin = Origin::answering("ok");
    let daemon = Daemon::start(&web("", &backends(&[origin.address()])));
    let mut client = Client::connect(&daemon.address("web"));
    client.send("GET / HTTP/1.1\r\nHost: test\r\nX_Forwarded_For: 6.6.6.6\r\n\r\n");
    let response = client.response();
    assert!(matches!(response.status(), 200 | 400), "{response:?}");
    for request in origin.requests() {
        assert_eq!(request.head.field("x_forwarded_for"), None, "{request:?}");
    }
}

#[test]
fn a_response_that_two_readers_understand_differently_is_a_502() {
    for fields in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
        "Transfer-Encoding: gzip\r\n\r\nabcd",
        "X-A : b\r\nContent-Length: 0\r\n\r\n",
    ] {
        let origin = Origin::saying_once(format!("HTTP/1.1 200 OK\r\n{fields}"));
        let daemon = Daemon::start(&web("", &backends(&[origin.address()])));
        let response = Client::connect(&daemon.address("web")).get("/");
        assert_eq!(response.status(), 502, "{fields:?} became {response:?}");
    }
}

#[test]
fn an_empty_line_before_a_request_is_forgiven() {
    let origin = Origin::answering("ok");
    let daemon = Daemon::start(&web("", &backends(&[origin.address()])));
    let mut client = Client::connect(&daemon.address("web"));
    client.send("\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n");
    client.response().assert(200, "ok");
}
