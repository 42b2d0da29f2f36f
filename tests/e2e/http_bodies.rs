//! Bodies in both directions: how their ends are told, what goes with them, and that nothing waits for what need not be.

use std::io::Write;

use crate::support::message::Framing;
use crate::support::{Client, Daemon, End, Ending, Gate, Origin, backends, pattern, web};

fn daemon_before(origin: &Origin) -> Daemon {
    Daemon::start(&web("", &backends(&[origin.address()])))
}

fn client_of(daemon: &Daemon) -> Client {
    Client::connect(&daemon.address("web"))
}

const MIB: usize = 1024 * 1024;

#[test]
fn a_chunked_request_arrives_with_its_data_and_trailers() {
    let origin = Origin::answering("ok");
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    client.send(
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
         4;note=\"dropped\"\r\nWiki\r\n00000005\r\npedia\r\n0\r\nX-Sum: 42\r\nContent-Length: 3\r\nHost: other\r\n\r\n",
    );
    client.response().assert(200, "ok");
    let request = origin.request();
    assert_eq!(request.body, b"Wikipedia");
    assert_eq!(request.head.framing(Framing::None), Framing::Chunked);
    assert_eq!(request.trailers, [("X-Sum".to_owned(), "42".to_owned())], "framing and routing are no trailers");
}

#[test]
fn a_chunked_response_arrives_with_its_data_and_trailers() {
    let origin = Origin::saying(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
         6;note=1\r\nchunky\r\n0\r\nX-Sum: 7\r\nTransfer-Encoding: gzip\r\nSet-Cookie: a=b\r\n\r\n",
    );
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    for _ in 0..2 {
        let response = client.get("/");
        response.assert(200, "chunky");
        assert!(response.trailers.contains(&("X-Sum".to_owned(), "7".to_owned())), "{response:?}");
        assert!(response.trailers.iter().all(|(name, _)| !name.eq_ignore_ascii_case("transfer-encoding")));
    }
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn a_response_to_the_end_of_its_connection_becomes_chunked_for_http_1_1() {
    let origin = Origin::saying_once("HTTP/1.1 200 OK\r\n\r\nall there is");
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    for _ in 0..2 {
        let response = client.get("/");
        response.assert(200, "all there is");
        assert_eq!((response.end, response.head.field("transfer-encoding")), (End::Complete, Some("chunked")));
    }
}

#[test]
fn an_http_1_0_client_never_sees_chunks() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nplain\r\n0\r\n\r\n");
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    client.send("GET / HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\n\r\n");
    let response = client.response();
    response.assert(200, "plain");
    assert_eq!((response.end, response.head.field("transfer-encoding")), (End::Closed, None));
}

#[test]
fn a_large_response_arrives_unchanged() {
    let body = pattern(8 * MIB);
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    answer.extend_from_slice(&body);
    let origin = Origin::saying(answer);
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!(response.end, End::Complete);
        assert!(response.body == body, "{} bytes that differ from what was sent", response.body.len());
    }
}

#[test]
fn a_large_chunked_response_arrives_unchanged() {
    let body = pattern(4 * MIB);
    let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for chunk in body.chunks(70_001) {
        answer.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        answer.extend_from_slice(chunk);
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(b"0\r\n\r\n");
    let origin = Origin::saying(answer);
    let daemon = daemon_before(&origin);
    let response = client_of(&daemon).get("/");
    assert_eq!(response.end, End::Complete);
    assert!(response.body == body, "{} bytes that differ from what was sent", response.body.len());
}

#[test]
fn a_large_request_arrives_unchanged() {
    let origin = Origin::answering("got it");
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    let body = pattern(8 * MIB);
    client.send(format!("PUT /big HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len()));
    client.send(&body);
    client.response().assert(200, "got it");
    assert!(origin.request().body == body, "what arrived differs from what was sent");
}

#[test]
fn both_bodies_can_flow_at_once() {
    let origin = Origin::scripted(|mut connection| {
        connection.head();
        connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 4 * MIB));
        connection.echo();
    });
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    let body = pattern(4 * MIB);
    client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len()));
    let mut sender = client.sender();
    let sent = body.clone();
    let sending = std::thread::spawn(move || sender.write_all(&sent));
    let response = client.response();
    sending.join().expect("the sender does not panic").expect("the whole request is taken");
    assert_eq!(response.end, End::Complete);
    assert!(response.body == body, "the echo differs from what was sent");
}

#[test]
fn an_echo_comes_back_while_the_request_is_still_being_sent() {
    let origin = Origin::scripted(|mut connection| {
        connection.head();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n");
        connection.echo();
    });
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 8\r\n\r\n");
    assert!(client.head().start.starts_with("HTTP/1.1 200"));
    client.expect_echo("ping");
    client.expect_echo("pong");
}

#[test]
fn data_of_a_response_does_not_wait_for_more_of_it() {
    let (origin_gate, gate) = twins();
    let origin = Origin::scripted(move |mut connection| {
        connection.request();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
        origin_gate.pass();
        connection.send("after");
    });
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    client.head();
    assert_eq!(client.bytes(5), b"first");
    gate.open();
    assert_eq!(client.bytes(5), b"after");
}

fn twins() -> (Gate, Gate) {
    let gate = Gate::default();
    (gate.clone(), gate)
}

#[test]
fn expect_100_continue_is_asked_of_the_backend_and_its_100_passed_on() {
    let origin = Origin::scripted(|mut connection| {
        let request = connection.head().expect("a request comes");
        if request.head.field("expect") == Some("100-continue") {
            connection.send("HTTP/1.1 100 Continue\r\n\r\n");
        }
        let body = connection.take(5);
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
        connection.send(body);
    });
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.head().start.split(' ').nth(1), Some("100"), "before a byte of the body was sent");
    client.send("12345");
    let response = client.response();
    response.assert(200, "12345");
    assert!(response.interim.is_empty(), "100 is said once: {response:?}");
}

#[test]
fn a_backend_that_refuses_the_body_is_heard_before_it_is_sent() {
    let origin = Origin::scripted(|mut connection| {
        connection.head();
        connection.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig");
        connection.ending();
    });
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5000\r\nExpect: 100-continue\r\n\r\n");
    let response = client.response();
    response.assert(413, "big");
    assert!(response.interim.is_empty(), "nobody may say 100: {response:?}");
    assert_eq!(client.ending(), Ending::Closed, "where the next request begins is not known");
}

#[test]
fn an_early_answer_arrives_while_the_client_still_sends() {
    let origin = Origin::scripted(|mut connection| {
        connection.head();
        connection.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
        connection.ending();
    });
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\npartial");
    let response = client.response();
    response.assert(403, "no");
    client.send("more of the body that nobody wants");
    assert_eq!(client.ending(), Ending::Closed);
    assert_eq!(origin.requests().len(), 1, "the rest of a body is never a request");
}

#[test]
fn interim_answers_are_passed_on_before_the_final_one() {
    let (origin_gate, gate) = twins();
    let origin = Origin::scripted(move |mut connection| {
        connection.request();
        connection.send("HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n");
        origin_gate.pass();
        connection.send("HTTP/1.1 103 Early Hints\r\nLink: </two.css>\r\n\r\n");
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
    });
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let hint = client.head();
    assert_eq!(hint.start.split(' ').nth(1), Some("103"), "while the final answer is not even made");
    assert_eq!(hint.field("link"), Some("</style.css>; rel=preload"));
    gate.open();
    let response = client.response();
    response.assert(200, "done");
    assert_eq!(response.interim.len(), 1);
}

#[test]
fn an_http_1_0_client_is_spared_interim_answers() {
    let origin = Origin::saying("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
    let daemon = daemon_before(&origin);
    let mut client = client_of(&daemon);
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.head().start.split(' ').nth(1), Some("200"));
}

#[test]
fn endless_interim_answers_are_a_failure_of_the_backend() {
    let origin = Origin::scripted(|mut connection| {
        connection.request();
        connection.send("HTTP/1.1 102 Processing\r\n\r\n".repeat(50));
        connection.ending();
    });
    let daemon = daemon_before(&origin);
    let response = client_of(&daemon).get("/");
    assert_eq!(response.status(), 502);
    assert!(response.interim.len() <= 10, "{}", response.interim.len());
}
