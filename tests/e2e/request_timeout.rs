//! The deadline of a whole request: what it bounds, what the client sees then, and whom it is held against.

use std::time::{Duration, Instant};

use crate::support::{Client, Daemon, End, Ending, FAILED, Gate, Origin, Response, TELLING, backends, eventually, web};

/// Whole requests have so long, before these backends.
fn within(request: &str, pool: &str, origins: &[&Origin]) -> Daemon {
    let addresses: Vec<&str> = origins.iter().map(|origin| origin.address()).collect();
    let pool = format!("{}{pool}{TELLING}", backends(&addresses));
    Daemon::start(&web(&format!("timeouts = {{ request = \"{request}\" }}"), &pool))
}

fn client_of(daemon: &Daemon) -> Client {
    Client::connect(&daemon.address("web"))
}

#[track_caller]
fn assert_late(response: &Response) {
    assert_eq!(response.status(), 504, "{response:?}");
    assert!(response.looks_complete() && response.head.field("x-request-id").is_some(), "{response:?}");
}

#[test]
fn a_backend_that_lets_it_pass_before_it_answers_is_a_504_and_has_failed() {
    let origins = [Origin::hanging(), Origin::hanging()];
    let daemon = within("300ms", "", &origins.each_ref());
    let mut client = client_of(&daemon);
    let begun = Instant::now();
    assert_late(&client.get("/"));
    assert!(begun.elapsed() >= Duration::from_millis(300));
    daemon.wait_log("cause=\"request_timeout\"");
    daemon.wait_log(FAILED);
    assert_late(&client.get("/again"));
    eventually("the late ones are hung up on", || origins.iter().all(|origin| origin.open() == 0));
    assert_eq!(origins.each_ref().map(|origin| origin.requests().len()), [1, 1], "nothing is tried again");
}

#[test]
fn a_backend_that_answers_in_time_is_not_bounded_and_the_connection_may_idle_for_longer() {
    let origin = Origin::scripted(|mut connection| {
        while let Some(request) = connection.request() {
            if request.head.start.contains("/hang") {
                connection.ending();
                return;
            }
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let daemon = within("300ms", "", &[&origin]);
    let mut client = client_of(&daemon);
    client.get("/").assert(200, "ok");
    assert_late(&client_of(&daemon).get("/hang"));
    client.get("/").assert(200, "ok");
}

/// Answers with this head and then with one more piece now and again, for longer than it is given.
fn dripping(head: &'static str, piece: &'static str) -> Origin {
    Origin::scripted(move |mut connection| {
        connection.request();
        connection.send(head);
        for _ in 0..100 {
            connection.send(piece);
            std::thread::sleep(Duration::from_millis(20));
        }
        connection.ending();
    })
}

#[test]
fn an_answer_that_has_begun_is_cut_and_never_looks_whole() {
    for (head, piece, ending) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", "x", End::Cut),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n", End::Cut),
        ("HTTP/1.0 200 OK\r\n\r\n", "x", End::Reset),
    ] {
        let origins = [dripping(head, piece), dripping(head, piece)];
        let daemon = within("400ms", "", &origins.each_ref());
        let mut client = client_of(&daemon);
        client.send(if ending == End::Reset { "GET / HTTP/1.0\r\n\r\n" } else { "GET / HTTP/1.1\r\nHost: a\r\n\r\n" });
        let response = client.response();
        assert_eq!((response.status(), response.end), (200, ending), "{head}");
        assert!(!response.body.is_empty(), "what came in time is passed on");
        daemon.wait_log("cause=\"request_late\"");
        assert!(!daemon.has_logged(FAILED), "it sent all the time");
        eventually("the backend is hung up on", || origins.iter().all(|origin| origin.open() == 0));
    }
}

#[test]
fn a_backend_that_stops_in_its_answer_for_most_of_it_has_failed() {
    let stopping = || {
        Origin::scripted(|mut connection| {
            connection.request();
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly a part");
            connection.ending();
        })
    };
    let origins = [stopping(), stopping()];
    let daemon = within("300ms", "", &origins.each_ref());
    assert_eq!(client_of(&daemon).get("/").end, End::Cut);
    daemon.wait_log("cause=\"request_timeout\"");
    daemon.wait_log(FAILED);
}

#[test]
fn a_client_that_still_owes_its_body_is_a_408_and_nobodys_failure() {
    let origins = [Origin::answering("must not be seen"), Origin::answering("must not be seen")];
    let daemon = within("400ms", "", &origins.each_ref());
    let mut client = client_of(&daemon);
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n");
    let mut sender = client.sender();
    let dripping = std::thread::spawn(move || {
        while std::io::Write::write_all(&mut sender, &[b'x'; 100]).is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    assert_eq!(client.response().status(), 408);
    daemon.wait_log("cause=\"client_timeout\"");
    client.reset();
    dripping.join().expect("sending does not panic");
    assert!(!daemon.has_logged(FAILED));
}

#[test]
fn a_client_that_does_not_take_its_answer_is_reset_and_nobodys_failure() {
    let body = "x".repeat(64 << 20);
    let origins = [Origin::answering(&body), Origin::answering(&body)];
    let daemon = within("400ms", "", &origins.each_ref());
    let mut client = client_of(&daemon);
    client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    client.head();
    daemon.wait_log("cause=\"client_write_timeout\"");
    assert_eq!(client.rest().1, Ending::Reset);
    assert!(!daemon.has_logged(FAILED));
}

#[test]
fn a_client_that_holds_its_body_back_for_a_100_is_told_504_and_nobody_has_failed() {
    let origins = [Origin::hanging(), Origin::hanging()];
    let daemon = within("300ms", "", &origins.each_ref());
    let mut client = client_of(&daemon);
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_late(&client.response());
    assert_eq!(client.ending(), Ending::Closed);
    daemon.wait_log("cause=\"continue_timeout\"");
    assert!(!daemon.has_logged(FAILED));
}

#[test]
fn the_wait_in_a_queue_is_a_part_of_it() {
    let gate = Gate::default();
    let passing = gate.clone();
    let origin = Origin::scripted(move |mut connection| {
        connection.request();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n");
        passing.pass();
        connection.send("ok");
        connection.ending();
    });
    let (busy, file) = (origin.address(), |request: &str| format!("timeouts = {{ request = \"{request}\" }}"));
    let pool = format!(
        "backends = [{{ address = \"{busy}\", max_connections = 1 }}]\nqueue = {{ timeout = \"60s\" }}{TELLING}"
    );
    let daemon = Daemon::start(&web(&file("1h"), &pool));
    let mut first = client_of(&daemon);
    first.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    first.head();
    daemon.reload(&web(&file("300ms"), &pool));
    let mut second = client_of(&daemon);
    let late = second.get("/late");
    assert_late(&late);
    assert_eq!(late.head.field("retry-after"), None, "it says nothing about the queue");
    gate.open();
    assert_eq!(first.bytes(2), b"ok", "a request keeps the time it began with");
    assert_eq!(origin.requests().len(), 1, "who was sent away never reached the backend");
    assert!(!daemon.has_logged(FAILED));
}

#[test]
fn all_attempts_together_have_it_and_who_was_asked_last_is_not_to_blame() {
    let origins = [Origin::hanging(), Origin::hanging(), Origin::hanging(), Origin::hanging()];
    let addresses = origins.each_ref().map(Origin::address);
    let daemon = Daemon::start(&format!(
        "[runtime]\nworkers = 1\n[listeners.web]\nbind = \"127.0.0.1:0\"\n[[listeners.web.routes]]\npool = \"app\"\n\
         timeouts = {{ request = \"700ms\" }}\nretry = {{ attempts = 9, on = [\"timeout\"] }}\n\
         [pools.app]\n{}timeouts = {{ response_header = \"500ms\" }}\n",
        backends(&addresses)
    ));
    assert_late(&client_of(&daemon).get("/"));
    daemon.wait_log("cause=\"response_header_timeout\"");
    daemon.wait_log("cause=\"request_late\"");
    assert_eq!(origins.iter().map(|origin| origin.requests().len()).sum::<usize>(), 2, "and there is no third attempt");
}

#[test]
fn a_tunnel_that_is_up_has_none() {
    let origin = Origin::scripted(|mut connection| {
        connection.head();
        connection.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        connection.echo();
    });
    let daemon = within("300ms", "", &[&origin]);
    let mut client = client_of(&daemon);
    client.ask_for_websocket("/");
    assert!(client.head().start.contains(" 101 "));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        client.expect_echo("still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_route_has_its_own_or_none_instead_of_its_listeners() {
    let gate = Gate::default();
    let passing = gate.clone();
    let origin = Origin::scripted(move |mut connection| {
        connection.request();
        passing.pass();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        connection.ending();
    });
    let daemon = Daemon::start(&format!(
        "[defaults.timeouts]\nrequest = \"300ms\"\n[listeners.web]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n\
         routes = [{{ path.exact = \"/none\", pool = \"app\", timeouts.request = \"off\" }}, \
         {{ path.exact = \"/long\", pool = \"app\", timeouts.request = \"1h\" }}]\n[pools.app]\n{}",
        backends(&[origin.address()])
    ));
    let mut unbounded: Vec<_> = ["/none", "/long"]
        .into_iter()
        .map(|path| {
            let mut client = client_of(&daemon);
            client.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
            client
        })
        .collect();
    eventually("both are at the backend", || origin.requests().len() == 2);
    assert_late(&client_of(&daemon).get("/other"));
    gate.open();
    unbounded.iter_mut().for_each(|client| client.response().assert(200, "ok"));
}
