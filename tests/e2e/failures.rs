//! What clients see when backends fail, and that a failure is never repeated, hidden or told in more words than it should.

use crate::support::{
    Client, Daemon, Deaf, End, Ending, Gate, Origin, Response, Unlistened, backends, eventually, web,
};

fn daemon_before(addresses: &[&str]) -> Daemon {
    Daemon::start(&web("", &backends(addresses)))
}

fn client_of(daemon: &Daemon) -> Client {
    Client::connect(&daemon.address("web"))
}

/// Our own answer: typed, with an id to ask for, and nothing of what stands behind.
#[track_caller]
fn assert_own(response: &Response, status: u16, hidden: &str) {
    assert_eq!(response.status(), status, "{response:?}");
    assert!(response.looks_complete() && response.body.len() < 1000, "{response:?}");
    assert!(response.head.field("content-type").is_some(), "{response:?}");
    assert!(response.head.field("x-request-id").is_some_and(|id| id.len() >= 8), "{response:?}");
    let port = hidden.rsplit(':').next().unwrap_or(hidden);
    let told = format!("{:?} {}", response.head, response.text());
    assert!(!told.contains(hidden) && !told.contains(&format!(":{port}")), "it tells where the backend is: {told}");
}

#[test]
fn a_pool_of_refusing_backends_is_a_502() {
    let nowhere = Unlistened::new();
    let daemon = daemon_before(&[nowhere.address()]);
    let mut client = client_of(&daemon);
    assert_own(&client.get("/"), 502, nowhere.address());
    assert_own(&client.get("/"), 502, nowhere.address());
}

#[test]
fn a_pool_without_a_usable_backend_is_a_503() {
    let origin = Origin::answering("must not be seen");
    let maintained = format!("backends = [{{ address = \"{}\", maintenance = true }}]", origin.address());
    let daemon = Daemon::start(&web("", &maintained));
    assert_own(&client_of(&daemon).get("/"), 503, origin.address());
    assert_eq!(origin.accepted(), 0);
}

#[test]
fn our_own_answers_for_bad_and_unwanted_requests_have_an_id_too() {
    let daemon =
        Daemon::start("[listeners.web]\nbind = \"127.0.0.1:0\"\nroutes = [{ hosts = [\"x\"], redirect = \"/\" }]");
    assert_own(&client_of(&daemon).get("/"), 404, "127.0.0.1");
    let mut client = client_of(&daemon);
    client.send("GET / HTTP/1.1\r\n\r\n");
    assert_own(&client.response(), 400, "127.0.0.1");
}

#[test]
fn a_backend_that_does_not_answer_in_time_is_a_504() {
    let origin = Origin::hanging();
    let pool = backends(&[origin.address()]) + "timeouts = { response_header = \"200ms\" }";
    let daemon = Daemon::start(&web("", &pool));
    assert_own(&client_of(&daemon).get("/"), 504, origin.address());
    eventually("the late backend is hung up on", || origin.open() == 0);
    assert_eq!(origin.requests().len(), 1, "a request that may have been acted on is not repeated");
}

#[test]
fn a_client_that_does_not_finish_its_head_is_a_408() {
    let origin = Origin::answering("must not be seen");
    let daemon = Daemon::start(&web("timeouts = { client_header = \"200ms\" }", &backends(&[origin.address()])));
    let mut client = client_of(&daemon);
    client.send("GET / HTTP/1.1\r\nHost: te");
    assert_own(&client.response(), 408, origin.address());
    assert_eq!(client.ending(), Ending::Closed);
    assert_eq!(origin.accepted(), 0);
}

#[test]
fn a_client_that_waits_for_a_100_is_not_the_late_one() {
    let origin = Origin::hanging();
    let pool = backends(&[origin.address()]) + "timeouts = { response_header = \"200ms\" }";
    let daemon = Daemon::start(&web("", &pool));
    let mut client = client_of(&daemon);
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_own(&client.response(), 504, origin.address());
    assert_eq!(client.ending(), Ending::Closed);
    // Nor is the backend, or any client could make it look broken.
    daemon.wait_log("cause=\"continue_timeout\"");
}

#[test]
fn a_client_that_waits_for_a_100_is_not_late_because_it_heard_early_hints() {
    const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n";
    const WAITING: &str = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    let gate = Gate::default();
    let passing = gate.clone();
    let origin = Origin::scripted(move |mut connection| {
        connection.head();
        connection.send(HINTS);
        passing.pass();
        connection.send("HTTP/1.1 100 Continue\r\n\r\n");
        connection.take(5);
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        connection.ending();
    });
    let file = |response_header: &str, client_body: &str| {
        let pool = backends(&[origin.address()]) + &format!("timeouts = {{ response_header = \"{response_header}\" }}");
        web(&format!("timeouts = {{ client_body = \"{client_body}\" }}"), &pool)
    };
    let daemon = Daemon::start(&file("60s", "200ms"));
    let mut waiting = client_of(&daemon);
    waiting.send(WAITING);
    assert!(waiting.head().start.contains(" 103 "));
    // Meanwhile one that does not wait for anything is late.
    let mut late = client_of(&daemon);
    late.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(late.response().status(), 408);
    assert!(waiting.is_open());
    daemon.reload(&file("200ms", "60s"));
    // Nor do hints give the backend more time.
    let mut in_vain = client_of(&daemon);
    in_vain.send(WAITING);
    assert_own(&in_vain.response(), 504, origin.address());
    gate.open();
    assert!(waiting.head().start.contains(" 100 "));
    waiting.send("12345");
    waiting.response().assert(200, "ok");
}

#[test]
fn a_client_that_stops_in_its_body_is_hung_up_on() {
    let origin = Origin::answering("must not be seen");
    let daemon = Daemon::start(&web("timeouts = { client_body = \"200ms\" }", &backends(&[origin.address()])));
    let mut client = client_of(&daemon);
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n12345");
    let (answer, _) = client.rest();
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408 "), "{}", answer.escape_ascii());
    eventually("the backend is not left waiting", || origin.open() == 0);
    assert!(origin.requests().iter().all(|request| request.end != End::Complete), "half a request is not a whole one");
}

#[test]
fn a_refused_connection_goes_to_another_backend_even_for_a_post() {
    let nowhere = Unlistened::new();
    let origin = Origin::answering("here");
    let daemon = daemon_before(&[nowhere.address(), origin.address()]);
    let mut client = client_of(&daemon);
    for _ in 0..6 {
        client.get("/").assert(200, "here");
        client.post("/", "once").assert(200, "here");
    }
    assert_eq!(origin.requests().len(), 12);
}

/// Answers the first request of its first connection, and closes that one at its second request without a word: what a
/// backend looks like whose idle time is over just when the next request comes.
fn stale_once(reset: bool) -> Origin {
    Origin::scripted(move |mut connection| {
        while connection.request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            if connection.number == 0 {
                connection.request();
                return if reset { connection.reset() } else { drop(connection) };
            }
        }
    })
}

#[test]
fn a_get_on_a_stale_connection_is_repeated_on_a_fresh_one() {
    for reset in [false, true] {
        let origin = stale_once(reset);
        let daemon = daemon_before(&[origin.address()]);
        let mut client = client_of(&daemon);
        client.get("/first").assert(200, "ok");
        client.get("/second").assert(200, "ok");
        let seen: Vec<_> = origin.requests().iter().map(|request| request.connection).collect();
        assert_eq!(seen, [0, 0, 1]);
    }
}

#[test]
fn a_post_is_never_sent_twice() {
    let origin = stale_once(false);
    let daemon = daemon_before(&[origin.address()]);
    let mut client = client_of(&daemon);
    client.get("/first").assert(200, "ok");
    let response = client.post("/second", "pay 100");
    assert!(matches!(response.status(), 200 | 502), "{response:?}");
    let posts = origin.requests().iter().filter(|request| request.head.start.starts_with("POST")).count();
    assert_eq!(posts, 1);
}

#[test]
fn a_connection_that_the_backend_closed_while_idle_costs_no_request() {
    let origin = Origin::saying_once("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let daemon = daemon_before(&[origin.address()]);
    let mut client = client_of(&daemon);
    for number in 1..=5 {
        client.get("/").assert(200, "ok");
        eventually("the backend has closed", || origin.open() == 0);
        assert_eq!(origin.accepted(), number);
    }
}

#[test]
fn a_fresh_connection_that_ends_before_an_answer_is_a_502_and_not_repeated() {
    for reset in [false, true] {
        let origin = Origin::scripted(move |mut connection| {
            connection.request();
            if reset {
                connection.reset();
            }
        });
        let other = Origin::scripted(|mut connection| drop(connection.request()));
        let daemon = daemon_before(&[origin.address(), other.address()]);
        assert_own(&client_of(&daemon).post("/", "once"), 502, origin.address());
        assert_eq!(origin.requests().len() + other.requests().len(), 1);
    }
}

#[test]
fn half_a_head_is_a_502() {
    let origin = Origin::saying_once("HTTP/1.1 200 OK\r\nContent-Le");
    let daemon = daemon_before(&[origin.address()]);
    assert_own(&client_of(&daemon).get("/"), 502, origin.address());
}

/// A backend that says this and then dies, by FIN or RST, must not look complete to either version of client.
#[track_caller]
fn assert_never_complete(said: &'static str) {
    for reset in [false, true] {
        let gate = Gate::default();
        let dying = gate.clone();
        let origin = Origin::scripted(move |mut connection| {
            connection.request();
            connection.send(said);
            // The client has read the beginning: what is lost now is lost behind the head.
            dying.pass();
            if reset {
                connection.reset();
            }
        });
        let daemon = daemon_before(&[origin.address()]);
        let mut client = client_of(&daemon);
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        client.await_bytes();
        gate.open();
        let response = client.response();
        assert!(!response.looks_complete(), "after {said:?} and reset = {reset}: {response:?}");
    }
}

#[test]
fn a_backend_that_dies_within_its_length_never_looks_complete() {
    assert_never_complete("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly a part");
}

#[test]
fn a_backend_that_dies_between_chunks_never_looks_complete() {
    assert_never_complete("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\na part\r\n");
}

#[test]
fn a_backend_that_dies_within_a_chunk_never_looks_complete() {
    assert_never_complete("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\na part");
}

#[test]
fn a_backend_that_breaks_its_chunks_never_looks_complete() {
    assert_never_complete("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\na part\r\nnot a size\r\n");
}

#[test]
fn a_reset_of_a_response_to_the_end_of_its_connection_never_looks_complete() {
    let gate = Gate::default();
    let dying = gate.clone();
    let origin = Origin::scripted(move |mut connection| {
        connection.request();
        connection.send("HTTP/1.1 200 OK\r\n\r\nonly a part");
        dying.pass();
        connection.reset();
    });
    let daemon = daemon_before(&[origin.address()]);
    let mut client = client_of(&daemon);
    client.send("GET / HTTP/1.0\r\nHost: test\r\n\r\n");
    client.await_bytes();
    gate.open();
    assert_eq!(client.response().end, End::Reset, "for an HTTP/1.0 client a FIN would be the end");
}

#[test]
fn a_backend_that_stops_in_its_body_never_looks_complete() {
    let origin = Origin::scripted(|mut connection| {
        connection.request();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly a part");
        connection.ending();
    });
    let pool = backends(&[origin.address()]) + "timeouts = { response_body = \"200ms\" }";
    let daemon = Daemon::start(&web("", &pool));
    let response = client_of(&daemon).get("/");
    assert!(!response.looks_complete(), "{response:?}");
    eventually("the backend is hung up on", || origin.open() == 0);
}

#[test]
fn the_work_for_a_client_that_resets_is_given_up() {
    let origin = Origin::hanging();
    let daemon = daemon_before(&[origin.address()]);
    let mut client = client_of(&daemon);
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("the request reached the backend", || origin.requests().len() == 1);
    client.reset();
    eventually("the backend sees that nobody waits", || origin.open() == 0);
}

#[test]
fn a_client_that_resets_is_not_connected_for() {
    let deaf = Deaf::new();
    let pool = backends(&[deaf.address()]) + "timeouts = { connect = \"60s\" }";
    let daemon = Daemon::start(&web("", &pool));
    let mut client = client_of(&daemon);
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    client.reset();
    daemon.wait_log("cause=\"client_gone\"");
}

#[test]
fn a_backend_that_does_not_accept_in_time_is_a_504() {
    let deaf = Deaf::new();
    let pool = backends(&[deaf.address()]) + "timeouts = { connect = \"200ms\" }";
    let daemon = Daemon::start(&web("", &pool));
    assert_own(&client_of(&daemon).post("/", "once"), 504, deaf.address());
}

#[test]
fn a_backend_never_has_more_than_its_limit_and_the_others_get_503() {
    let gate = Gate::default();
    let passing = gate.clone();
    let origin = Origin::scripted(move |mut connection| {
        while connection.request().is_some() {
            passing.pass();
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let pool =
        format!("queue = {{ max = 0 }}\nbackends = [{{ address = \"{}\", max_connections = 2 }}]", origin.address());
    let daemon = Daemon::start(&web("", &pool));
    let mut waiting: Vec<_> = (0..2).map(|_| client_of(&daemon)).collect();
    for (sent, client) in waiting.iter_mut().enumerate() {
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        eventually("it reached the backend", || origin.requests().len() == sent + 1);
    }
    for _ in 0..3 {
        assert_own(&client_of(&daemon).get("/"), 503, origin.address());
    }
    assert_eq!(origin.requests().len(), 2);
    gate.open();
    for client in &mut waiting {
        client.response().assert(200, "ok");
    }
    client_of(&daemon).get("/").assert(200, "ok");
}

#[test]
fn a_backup_serves_only_when_no_primary_does() {
    let primary = Origin::answering("primary");
    let backup = Origin::answering("backup");
    let file = |maintenance: bool| {
        let pool = format!(
            "backends = [{{ address = \"{}\", maintenance = {maintenance} }}, {{ address = \"{}\", backup = true }}]",
            primary.address(),
            backup.address()
        );
        web("", &pool)
    };
    let daemon = Daemon::start(&file(false));
    let mut client = client_of(&daemon);
    for _ in 0..4 {
        client.get("/").assert(200, "primary");
    }
    daemon.reload(&file(true));
    client.get("/").assert(200, "backup");
}
