//! Every wait has its deadline: what the client sees when it passes, and whether it is held against the backend. Each test has
//! two backends alike, so that a breaker may open.

use crate::support::origin::Connection;
use crate::support::{
    Client, Daemon, Deaf, End, Ending, FAILED, Gate, Origin, TELLING, Unlistened, backends, eventually, raw, web,
};

/// Before these backends, with these deadlines of the listener and of the pool.
fn http(client_side: &str, pool_side: &str, addresses: &[&str]) -> Daemon {
    let pool = format!("{}timeouts = {{ {pool_side} }}{TELLING}", backends(addresses));
    Daemon::start(&web(&format!("timeouts = {{ {client_side} }}"), &pool))
}

fn tcp(pool_side: &str, addresses: &[&str]) -> Daemon {
    Daemon::start(&raw("", &format!("{}timeouts = {{ {pool_side} }}{TELLING}", backends(addresses))))
}

/// Two backends that do this.
fn twins(script: impl Fn(Connection) + Clone + Send + Sync + 'static) -> [Origin; 2] {
    [Origin::scripted(script.clone()), Origin::scripted(script)]
}

fn addresses(origins: &[Origin; 2]) -> [&str; 2] {
    origins.each_ref().map(Origin::address)
}

fn client_of(daemon: &Daemon) -> Client {
    Client::connect(&daemon.address("web"))
}

const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

/// How it ended, and that it is held against the backend.
#[track_caller]
fn assert_failure(daemon: &Daemon, cause: &str) {
    daemon.wait_log(&format!("cause=\"{cause}\""));
    daemon.wait_log(FAILED);
}

/// How it ended, and that it is not.
#[track_caller]
fn assert_no_failure(daemon: &Daemon, cause: &str) {
    daemon.wait_log(&format!("cause=\"{cause}\""));
    assert!(!daemon.has_logged(FAILED));
}

#[test]
fn no_connection_is_502_when_it_is_refused_and_504_when_it_takes_too_long() {
    let nowhere = [Unlistened::new(), Unlistened::new()];
    let daemon = http("", "connect = \"60s\"", &nowhere.each_ref().map(Unlistened::address));
    assert_eq!(client_of(&daemon).get("/").status(), 502);
    assert_failure(&daemon, "connect_failed");

    let deaf = [Deaf::new(), Deaf::new()];
    let daemon = http("", "connect = \"200ms\"", &deaf.each_ref().map(Deaf::address));
    assert_eq!(client_of(&daemon).get("/").status(), 504);
    assert_failure(&daemon, "connect_timeout");
}

#[test]
fn a_tcp_client_whose_backends_do_not_accept_in_time_is_reset() {
    let deaf = [Deaf::new(), Deaf::new()];
    let daemon = tcp("connect = \"200ms\"", &deaf.each_ref().map(Deaf::address));
    assert_eq!(Client::connect(&daemon.address("raw")).ending(), Ending::Reset);
    daemon.wait_log(FAILED);
}

#[test]
fn no_head_of_an_answer_in_time_is_504() {
    let origins = [Origin::hanging(), Origin::hanging()];
    let daemon = http("", "response_header = \"200ms\"", &addresses(&origins));
    assert_eq!(client_of(&daemon).get("/").status(), 504);
    assert_failure(&daemon, "response_header_timeout");
}

#[test]
fn a_backend_that_takes_no_more_of_a_request_is_504() {
    let gate = Gate::default();
    let never = gate.clone();
    let origins = twins(move |mut connection| {
        connection.head();
        never.pass();
    });
    let daemon = http("", "response_body = \"300ms\"", &addresses(&origins));
    let mut client = client_of(&daemon);
    let length = 64 << 20;
    client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n"));
    let mut sender = client.sender();
    // It is never taken whole.
    let sending = std::thread::spawn(move || drop(std::io::Write::write_all(&mut sender, &vec![b'x'; length])));
    assert_eq!(client.response().status(), 504);
    assert_failure(&daemon, "backend_write_timeout");
    gate.open();
    client.reset();
    sending.join().expect("sending does not panic");
}

#[test]
fn a_backend_that_stops_in_its_answer_is_cut_off_where_it_shows() {
    let origins = twins(|mut connection| {
        connection.request();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly a part");
        connection.ending();
    });
    let daemon = http("", "response_body = \"200ms\"", &addresses(&origins));
    let response = client_of(&daemon).get("/");
    assert_eq!((response.status(), response.end, &*response.body), (200, End::Cut, &b"only a part"[..]));
    assert_failure(&daemon, "response_body_timeout");
}

#[test]
fn a_client_that_does_not_finish_its_head_or_does_not_begin_one_is_408_or_closed() {
    let origins = [Origin::answering("well"), Origin::answering("well")];
    let daemon = http("client_header = \"200ms\", client_idle = \"200ms\"", "", &addresses(&origins));
    let mut slow = client_of(&daemon);
    slow.send("GET / HTTP/1.1\r\n");
    assert_eq!(slow.response().status(), 408);
    assert_eq!(slow.ending(), Ending::Closed);
    assert_eq!(client_of(&daemon).ending(), Ending::Closed, "it said nothing at all");
    let mut idle = client_of(&daemon);
    idle.get("/").assert(200, "well");
    assert_eq!(idle.ending(), Ending::Closed);
    assert_no_failure(&daemon, "completed");
}

#[test]
fn a_client_that_stops_in_its_body_is_408() {
    let origins = [Origin::answering("must not be seen"), Origin::answering("must not be seen")];
    let daemon = http("client_body = \"200ms\"", "", &addresses(&origins));
    let mut client = client_of(&daemon);
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n12345");
    assert_eq!(client.response().status(), 408);
    assert_eq!(client.ending(), Ending::Closed);
    assert_no_failure(&daemon, "client_timeout");
}

#[test]
fn a_client_that_takes_no_more_of_an_answer_is_reset() {
    let body = "x".repeat(64 << 20);
    let origins = [Origin::answering(&body), Origin::answering(&body)];
    let daemon = http("client_write = \"200ms\"", "", &addresses(&origins));
    let mut client = client_of(&daemon);
    client.send(GET);
    client.head();
    daemon.wait_log("cause=\"client_write_timeout\"");
    assert_eq!(client.rest().1, Ending::Reset);
    assert_no_failure(&daemon, "client_write_timeout");
}

#[test]
fn a_client_that_waits_for_a_100_is_504_and_no_failure() {
    let origins = [Origin::hanging(), Origin::hanging()];
    let daemon = http("client_body = \"50ms\"", "response_header = \"200ms\"", &addresses(&origins));
    let mut client = client_of(&daemon);
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.response().status(), 504);
    assert_no_failure(&daemon, "continue_timeout");
}

#[test]
fn a_wait_in_the_queue_that_lasts_too_long_is_503() {
    let origins = [Origin::hanging(), Origin::hanging()];
    let [one, other] = addresses(&origins);
    let pool = format!(
        "backends = [{{ address = \"{one}\", max_connections = 1 }}, {{ address = \"{other}\", max_connections = 1 }}]\n\
         queue = {{ timeout = \"200ms\" }}{TELLING}"
    );
    let daemon = Daemon::start(&web("", &pool));
    let mut busy = [client_of(&daemon), client_of(&daemon)];
    busy.iter_mut().for_each(|client| client.send(GET));
    eventually("both are busy", || origins.iter().all(|origin| origin.requests().len() == 1));
    let late = client_of(&daemon).get("/");
    assert_eq!((late.status(), late.head.field("retry-after")), (503, Some("1")));
    daemon.wait_log("all backends are busy");
    assert!(!daemon.has_logged(FAILED));
}

#[test]
fn a_tunnel_in_which_nothing_moves_ends_and_nobody_has_failed() {
    let origins = twins(|mut connection| {
        connection.head();
        connection.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        connection.echo();
    });
    let daemon = http("", "tunnel_idle = \"200ms\"", &addresses(&origins));
    let mut client = client_of(&daemon);
    client.ask_for_websocket("/");
    assert!(client.head().start.contains(" 101 "));
    client.expect_echo("moves");
    client.rest();
    assert_no_failure(&daemon, "tunnel_idle");

    let origins = [Origin::echoing(), Origin::echoing()];
    let daemon = tcp("tunnel_idle = \"200ms\"", &addresses(&origins));
    let mut client = Client::connect(&daemon.address("raw"));
    client.expect_echo("moves");
    client.rest();
    assert_no_failure(&daemon, "tunnel_idle");
}
