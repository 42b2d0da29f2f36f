//! The instruments measure right: what a test could not tell apart, it could not prove.

use crate::support::{Client, End, Ending, Origin, Unlistened, eventually};

fn get_from(origin: &Origin) -> crate::support::Response {
    Client::connect(origin.address()).get("/")
}

#[test]
fn every_end_of_a_body_is_told_apart() {
    for (said, end) in [
        ("Content-Length: 2\r\n\r\nok", End::Complete),
        ("Content-Length: 3\r\n\r\nok", End::Cut),
        ("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", End::Complete),
        ("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", End::Cut),
        ("Transfer-Encoding: chunked\r\n\r\n3\r\nok", End::Cut),
        ("\r\nok", End::Closed),
    ] {
        let response = get_from(&Origin::saying_once(format!("HTTP/1.1 200 OK\r\n{said}")));
        assert_eq!((response.text().as_str(), response.end), ("ok", end), "{said:?}");
        assert_eq!(response.looks_complete(), !matches!(end, End::Cut | End::Reset));
    }
}

#[test]
fn a_reset_is_not_a_close() {
    let resetting = Origin::scripted(|mut connection| {
        connection.request();
        connection.reset();
    });
    let mut client = Client::connect(resetting.address());
    client.send("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(client.ending(), Ending::Reset);
    let mut client = Client::connect(Origin::scripted(drop).address());
    assert_eq!(client.ending(), Ending::Closed);
}

#[test]
fn an_origin_remembers_what_came_and_on_which_connection() {
    let origin = Origin::answering("hello");
    let mut first = Client::connect(origin.address());
    first.post("/a", "body").assert(200, "hello");
    first.get("/b").assert(200, "hello");
    get_from(&origin).assert(200, "hello");
    let seen: Vec<_> = origin.requests().into_iter().map(|request| (request.connection, request.body)).collect();
    assert_eq!(seen, [(0, b"body".to_vec()), (0, Vec::new()), (1, Vec::new())]);
    assert_eq!(origin.accepted(), 2);
    drop(first);
    eventually("both are closed", || origin.open() == 0);
}

#[test]
fn an_origin_sees_a_clients_reset() {
    let origin = Origin::hanging();
    let mut client = Client::connect(origin.address());
    client.send("GET / HTTP/1.1\r\n\r\n");
    eventually("it arrived", || origin.requests().len() == 1);
    client.reset();
    eventually("the end arrived", || origin.open() == 0);
}

#[test]
fn an_unlistened_port_refuses() {
    let nowhere = Unlistened::new();
    assert!(Client::try_connect(nowhere.address()).is_none());
}

#[test]
fn interim_answers_are_kept_apart_from_the_final_one() {
    let origin =
        Origin::saying("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let response = get_from(&origin);
    assert_eq!((response.status(), response.interim.len()), (200, 1));
}

#[test]
#[should_panic(expected = "bare line feed")]
fn a_bare_line_feed_in_an_answer_is_not_let_pass() {
    get_from(&Origin::saying_once("HTTP/1.1 200 OK\nContent-Length: 0\n\n"));
}
