//! Backends at their limits: who comes then waits, in order, for as long as the queue allows, and not longer than he wants.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{Client, Daemon, Ending, Gate, Origin, Response, eventually, raw, web};

const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

/// An origin that answers nothing before the gate is open.
fn gated(gate: &Gate) -> Origin {
    let passing = gate.clone();
    Origin::scripted(move |mut connection| {
        while connection.request().is_some() {
            passing.pass();
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    })
}

/// A pool of backends that each take so many.
fn limited(origins: &[&Origin], limit: u32, queue: &str) -> String {
    let backend = |origin: &&Origin| format!("{{ address = \"{}\", max_connections = {limit} }}", origin.address());
    let backends: Vec<_> = origins.iter().map(backend).collect();
    format!("queue = {{ {queue} }}\nbackends = [{}]\n", backends.join(", "))
}

fn client_of(daemon: &Daemon) -> Client {
    Client::connect(&daemon.address("web"))
}

/// A client whose request is at the origin.
#[track_caller]
fn served(daemon: &Daemon, origin: &Origin) -> Client {
    let before = origin.requests().len();
    let mut client = client_of(daemon);
    client.send(GET);
    eventually("the request is at the backend", || origin.requests().len() == before + 1);
    client
}

/// A client whose request waits for its turn.
#[track_caller]
fn queued(daemon: &Daemon, path: &str) -> Client {
    let before = waits(daemon);
    let mut client = client_of(daemon);
    client.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
    eventually("the request waits", || waits(daemon) == before + 1);
    client
}

fn waits(daemon: &Daemon) -> usize {
    daemon.times_logged("all backends are full: it waits")
}

#[track_caller]
fn assert_busy(response: &Response, seconds: &str) {
    assert_eq!(response.status(), 503, "{response:?}");
    assert_eq!(response.head.field("retry-after"), Some(seconds), "{response:?}");
    assert!(response.head.field("x-request-id").is_some() && response.looks_complete(), "{response:?}");
}

fn paths(origin: &Origin) -> Vec<String> {
    let path = |start: &str| start.split(' ').nth(1).unwrap_or_default().to_owned();
    origin.requests().iter().map(|request| path(&request.head.start)).collect()
}

#[test]
fn those_who_wait_are_served_in_the_order_in_which_they_came_over_two_workers() {
    let gate = Gate::default();
    let origin = gated(&gate);
    let file = web("", &limited(&[&origin], 1, "timeout = \"60s\"")).replace("workers = 1", "workers = 2");
    let daemon = Daemon::start(&file);
    let mut first = served(&daemon, &origin);
    let mut waiting: Vec<_> = (1..=12).map(|number| queued(&daemon, &format!("/{number}"))).collect();
    gate.open();
    first.response().assert(200, "ok");
    waiting.iter_mut().for_each(|client| client.response().assert(200, "ok"));
    let expected: Vec<String> = (1..=12).map(|number| format!("/{number}")).collect();
    assert_eq!(paths(&origin)[1..], expected);
}

#[test]
fn who_waits_too_long_is_told_when_to_come_again_and_may_ask_on_the_same_connection() {
    let gate = Gate::default();
    let origin = gated(&gate);
    let daemon = Daemon::start(&web("", &limited(&[&origin], 1, "timeout = \"300ms\"")));
    let mut first = served(&daemon, &origin);
    let mut late = client_of(&daemon);
    assert_busy(&late.get("/late"), "1");
    gate.open();
    first.response().assert(200, "ok");
    late.get("/again").assert(200, "ok");
    assert_eq!(paths(&origin), ["/", "/again"], "who was sent away never reached the backend");
}

#[test]
fn a_full_queue_sends_away_at_once() {
    let gate = Gate::default();
    let origin = gated(&gate);
    let daemon = Daemon::start(&web("", &limited(&[&origin], 1, "max = 1, timeout = \"90s\"")));
    let mut first = served(&daemon, &origin);
    let mut second = queued(&daemon, "/second");
    assert_busy(&client_of(&daemon).get("/third"), "90");
    gate.open();
    first.response().assert(200, "ok");
    second.response().assert(200, "ok");
}

#[test]
fn a_client_that_leaves_frees_its_place_whether_it_resets_or_closes() {
    for resets in [true, false] {
        let gate = Gate::default();
        let origin = gated(&gate);
        let daemon = Daemon::start(&web("", &limited(&[&origin], 1, "max = 1, timeout = \"60s\"")));
        let mut first = served(&daemon, &origin);
        let leaving = queued(&daemon, "/leaving");
        if resets {
            leaving.reset()
        } else {
            drop(leaving)
        }
        let mut next = None;
        eventually("its place is free", || {
            let (before, mut client) = (waits(&daemon), client_of(&daemon));
            client.send("GET /next HTTP/1.1\r\nHost: test\r\n\r\n");
            eventually("it waits or is sent away", || waits(&daemon) > before || !client.is_open());
            next = (waits(&daemon) > before).then_some(client);
            next.is_some()
        });
        gate.open();
        first.response().assert(200, "ok");
        next.expect("it waits").response().assert(200, "ok");
        assert_eq!(paths(&origin), ["/", "/next"]);
    }
}

#[test]
fn a_client_that_closes_its_side_while_it_waits_still_gets_an_answer() {
    let gate = Gate::default();
    let origin = gated(&gate);
    let daemon = Daemon::start(&web("", &limited(&[&origin], 1, "timeout = \"60s\"")));
    let _first = served(&daemon, &origin);
    let mut closing = queued(&daemon, "/closing");
    closing.finish_writing();
    assert_busy(&closing.response(), "60");
}

#[test]
fn a_body_that_waits_with_its_request_arrives_whole() {
    let gate = Gate::default();
    let origin = gated(&gate);
    let daemon = Daemon::start(&web("", &limited(&[&origin], 1, "timeout = \"60s\"")));
    let mut first = served(&daemon, &origin);
    let mut client = client_of(&daemon);
    client.send("POST /post HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n01234");
    daemon.wait_log("all backends are full: it waits");
    client.send("56789");
    gate.open();
    first.response().assert(200, "ok");
    client.response().assert(200, "ok");
    assert_eq!(origin.requests()[1].body, b"0123456789");
}

#[test]
fn nobody_waits_while_a_backend_has_room_and_those_that_are_drained_are_none() {
    let gate = Gate::default();
    let (one, other) = (gated(&gate), gated(&gate));
    let pool = limited(&[&one, &other], 1, "timeout = \"60s\"");
    let pool = pool.replace("max_connections = 1 }]", "max_connections = 1, drain = true }]");
    let daemon = Daemon::start(&web("", &pool));
    let mut first = served(&daemon, &one);
    let mut second = queued(&daemon, "/second");
    daemon.reload(&web("", &limited(&[&one, &other], 1, "timeout = \"60s\"")));
    eventually("the backend that is back serves who waits", || paths(&other) == ["/second"]);
    gate.open();
    first.response().assert(200, "ok");
    second.response().assert(200, "ok");
}

#[test]
fn a_reload_that_raises_the_limit_lets_those_in_who_wait_and_one_that_does_not_sends_nobody_away() {
    let gate = Gate::default();
    let origin = gated(&gate);
    let file = |limit| web("", &limited(&[&origin], limit, "timeout = \"60s\""));
    let daemon = Daemon::start(&file(1));
    let mut clients = vec![served(&daemon, &origin)];
    clients.extend((1..=4).map(|number| queued(&daemon, &format!("/{number}"))));
    for _ in 0..5 {
        daemon.reload(&(file(1) + "# changed\n"));
        daemon.reload(&file(1));
    }
    daemon.reload(&file(3));
    eventually("as many as there is room for", || origin.requests().len() == 3);
    gate.open();
    clients.iter_mut().for_each(|client| client.response().assert(200, "ok"));
    let mut seen = paths(&origin);
    // The first two were let in at once, on connections of their own.
    seen[1..3].sort();
    assert_eq!(seen[..3], ["/", "/1", "/2"]);
    assert_eq!(seen.len(), 5);
}

#[test]
fn a_reload_that_leads_elsewhere_takes_those_along_who_wait() {
    let gate = Gate::default();
    let (old, new) = (gated(&gate), Origin::answering("new"));
    let before = web("", &limited(&[&old], 1, "timeout = \"60s\""));
    let daemon = Daemon::start(&before);
    let mut first = served(&daemon, &old);
    let mut waiting = [queued(&daemon, "/1"), queued(&daemon, "/2")];
    let after = format!(
        "[runtime]\nworkers = 1\n[listeners.web]\nbind = \"127.0.0.1:0\"\npool = \"next\"\n[pools.next]\nbackends = [\"{}\"]\n",
        new.address()
    );
    daemon.reload(&after);
    waiting.iter_mut().for_each(|client| client.response().assert(200, "new"));
    gate.open();
    first.response().assert(200, "ok");
}

#[test]
fn when_the_only_backend_goes_down_those_who_wait_for_it_are_told_at_once() {
    let (gate, well) = (Gate::default(), Arc::new(AtomicBool::new(true)));
    let (passing, how) = (gate.clone(), Arc::clone(&well));
    let origin = Origin::scripted(move |mut connection| {
        while let Some(request) = connection.request() {
            let is_probe = request.head.start.contains(" /healthz ");
            match is_probe {
                true if !how.load(Ordering::SeqCst) => return,
                true => {}
                false => passing.pass(),
            }
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let check =
        "health_check = { path = '/healthz', fall = 1, interval = '1s', fast_interval = '50ms' }\nfail_open = false\n";
    let daemon = Daemon::start(&web("", &format!("{}{check}", limited(&[&origin], 1, "timeout = \"60s\""))));
    let mut first = client_of(&daemon);
    first.send(GET);
    eventually("the request is at the backend", || paths(&origin).contains(&"/".to_owned()));
    let mut waiting = [queued(&daemon, "/1"), queued(&daemon, "/2"), queued(&daemon, "/3")];
    well.store(false, Ordering::SeqCst);
    waiting.iter_mut().for_each(|client| assert_eq!(client.response().status(), 503));
    gate.open();
    first.response().assert(200, "ok");
}

/// A TCP origin that says hello, and its pool, in which one session has a place.
fn sessions(queue: &str) -> (Origin, Daemon, Client) {
    let origin = Origin::greeting("hello");
    let daemon = Daemon::start(&raw("", &limited(&[&origin], 1, queue)));
    let mut first = Client::connect(&daemon.address("raw"));
    first.bytes(5);
    (origin, daemon, first)
}

#[test]
fn a_tcp_session_waits_with_what_its_client_has_said() {
    let (_origin, daemon, first) = sessions("timeout = \"60s\"");
    let mut second = Client::connect(&daemon.address("raw"));
    second.send("said before");
    daemon.wait_log("all backends are full: it waits");
    second.send(" and after");
    drop(first);
    assert_eq!(second.bytes(5), b"hello");
    assert_eq!(second.bytes(21), b"said before and after");
}

#[test]
fn a_tcp_session_that_waits_too_long_or_finds_the_queue_full_is_reset() {
    let (_origin, daemon, _first) = sessions("timeout = \"200ms\"");
    assert_eq!(Client::connect(&daemon.address("raw")).ending(), Ending::Reset);
    let (_origin, daemon, _first) = sessions("max = 1, timeout = \"60s\"");
    let waiting = Client::connect(&daemon.address("raw"));
    daemon.wait_log("all backends are full: it waits");
    assert_eq!(Client::connect(&daemon.address("raw")).ending(), Ending::Reset);
    assert!(waiting.is_open());
}

#[test]
fn a_tcp_client_that_leaves_frees_its_place() {
    let (origin, daemon, first) = sessions("max = 1, timeout = \"60s\"");
    for resets in [true, false] {
        let before = waits(&daemon);
        let leaving = Client::connect(&daemon.address("raw"));
        eventually("it waits", || waits(&daemon) == before + 1);
        if resets {
            leaving.reset()
        } else {
            drop(leaving)
        }
        eventually("it has left", || daemon.times_logged("Ended(ClientGone)") > usize::from(!resets));
    }
    let mut next = Client::connect(&daemon.address("raw"));
    eventually("it waits", || waits(&daemon) == 3);
    drop(first);
    assert_eq!(next.bytes(5), b"hello");
    assert_eq!(origin.accepted(), 2);
}
