//! Limits of a listener: what is just within one is served, what is just beyond is refused, and a reload changes them.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::support::{Client, Daemon, End, Ending, Launch, Origin, Response, backends, eventually, raw, web};

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
        (trailers_of(100), trailers_of(101), 431),
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
        (trailers_of(5), trailers_of(6), 431),
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
        (trailers_of(1000), trailers_of(1001), 431),
    ] {
        answer(&daemon, &within).assert(200, "within");
        assert_eq!(answer(&daemon, &beyond).status(), status);
    }
}

/// A response of 2 bytes whose head has exactly so many bytes.
fn response_head_of(bytes: usize) -> String {
    let start = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Fill: ";
    format!("{start}{}\r\n\r\nok", "x".repeat(bytes - start.len() - 4))
}

/// A response of 2 bytes with so many fields.
fn response_fields_of(count: usize) -> String {
    let fields: String = (1..count).map(|n| format!("X-{n}: y\r\n")).collect();
    format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{fields}\r\nok")
}

#[test]
fn answers_of_backends_have_limits_of_their_own_whatever_a_listener_allows() {
    for limits in ["header_bytes = \"1KiB\", headers = 5", "header_bytes = \"256KiB\", headers = 1000"] {
        for (within, beyond) in [
            (response_head_of(32 * 1024), response_head_of(32 * 1024 + 1)),
            (response_fields_of(100), response_fields_of(101)),
        ] {
            let origin = Origin::saying(&within);
            let daemon = Daemon::start(&limited(limits, &origin));
            Client::connect(&daemon.address("web")).get("/").assert(200, "ok");
            let origin = Origin::saying(&beyond);
            daemon.reload(&limited(limits, &origin));
            assert_eq!(Client::connect(&daemon.address("web")).get("/").status(), 502);
        }
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

/// So many connections, all of them served.
fn crowd(address: &str, size: usize) -> Vec<Client> {
    let mut crowd: Vec<_> = (0..size).map(|_| Client::connect(address)).collect();
    crowd.iter_mut().for_each(|client| client.get("/").assert(200, "served"));
    crowd
}

/// Whether this client, which has just asked, is left waiting while another listener answers three times.
fn waits(client: &Client, meanwhile: &str) -> bool {
    (0..3).for_each(|_| Client::connect(meanwhile).get("/").assert(200, "meanwhile"));
    client.is_open()
}

const MEANWHILE: &str = "[listeners.other]\nbind = '127.0.0.1:0'\n\
                         routes = [{ respond = { status = 200, body = 'meanwhile' } }]\n";

#[test]
fn at_the_limit_of_a_listener_more_wait_until_one_ends() {
    let origin = Origin::answering("served");
    for workers in [1, 2] {
        let file = limited("connections = 3", &origin).replace("workers = 1", &format!("workers = {workers}"));
        let daemon = Daemon::start(&(file + MEANWHILE));
        let (address, other) = (daemon.address("web"), daemon.address("other"));
        let mut open = crowd(&address, 3);
        let mut late: Vec<_> = (0..3).map(|_| Client::connect(&address)).collect();
        late.iter_mut().for_each(|client| client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n"));
        daemon.wait_log("the listener has all connections that its limits allow");
        assert!(late.iter().all(|client| waits(client, &other)), "nobody is turned away, and nobody served");
        open[0].get("/").assert(200, "served");
        open.clear();
        late.iter_mut().for_each(|client| client.response().assert(200, "served"));
        assert_eq!(daemon.times_logged("the listener has all connections"), 1, "one warning an episode");
    }
}

#[test]
fn at_the_limit_of_the_process_every_listener_waits() {
    let origin = Origin::answering("served");
    let file = web("", &backends(&[origin.address()])).replace("[runtime]", "[runtime]\nconnections = 3");
    let daemon = Daemon::start(&(file + MEANWHILE));
    let mut open = crowd(&daemon.address("web"), 3);
    let mut other = Client::connect(&daemon.address("other"));
    other.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    daemon.wait_log("all connections that runtime.connections allows are open");
    open[1].get("/").assert(200, "served");
    assert!(other.is_open());
    open.pop();
    other.response().assert(200, "meanwhile");
}

#[test]
fn without_a_word_half_of_the_descriptors_are_for_clients() {
    let origin = Origin::answering("served");
    let file = web("", &backends(&[origin.address()]));
    let daemon = Launch::new().limit("-n 100").write("evenkeel.toml", &file).start();
    let open = crowd(&daemon.address("web"), 50);
    let mut late = Client::connect(&daemon.address("web"));
    late.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    daemon.wait_log("all connections that runtime.connections allows are open");
    assert!(late.is_open() && !daemon.has_logged("cannot accept"));
    drop(open);
    late.response().assert(200, "served");
}

#[test]
fn a_client_that_has_all_its_connections_is_refused_and_others_are_not() {
    let origin = Origin::answering("served");
    let file = limited("connections_per_ip = 2", &origin).replace("workers = 1", "workers = 2");
    let daemon = Daemon::start(&file);
    let address = daemon.address("web");
    let mut open = crowd(&address, 2);
    for _ in 0..5 {
        let mut refused = Client::connect(&address);
        let response = refused.response();
        assert_eq!(response.status(), 503);
        assert!(response.head.lists("connection", "close"), "{response:?}");
        assert_eq!(refused.ending(), Ending::Closed);
    }
    for client in 2..6 {
        Client::connect_from(&format!("127.0.0.{client}"), &address).get("/").assert(200, "served");
    }
    open[0].get("/").assert(200, "served");
    open.pop();
    eventually("the place is free again", || Client::connect(&address).get("/").status() == 200);
    assert_eq!(daemon.times_logged("a client has all connections"), 1, "one warning an episode");
}

#[test]
fn a_tcp_client_that_has_all_its_connections_is_reset() {
    let origin = Origin::greeting("hello");
    let daemon = Daemon::start(&raw("limits = { connections_per_ip = 1 }", &backends(&[origin.address()])));
    let address = daemon.address("raw");
    let mut open = Client::connect(&address);
    assert_eq!(open.bytes(5), b"hello");
    assert_eq!(Client::connect(&address).ending(), Ending::Reset);
    let mut other = Client::connect_from("127.0.0.2", &address);
    assert_eq!(other.bytes(5), b"hello");
    open.expect_echo("still there");
    assert_eq!(origin.accepted(), 2);
}

#[test]
fn a_trusted_proxy_brings_connections_of_many_clients() {
    let origin = Origin::answering("served");
    let listener = "limits = { connections_per_ip = 1 }\ntrusted_proxies = [\"127.0.0.0/8\"]";
    let daemon = Daemon::start(&web(listener, &backends(&[origin.address()])));
    crowd(&daemon.address("web"), 5);
}

#[test]
fn a_reload_lets_in_who_waits_at_a_limit_that_it_raises() {
    let origin = Origin::answering("served");
    let daemon = Daemon::start(&limited("connections = 1", &origin));
    let _open = crowd(&daemon.address("web"), 1);
    let mut late: Vec<_> = (0..3).map(|_| Client::connect(&daemon.address("web"))).collect();
    daemon.wait_log("the listener has all connections");
    daemon.reload(&limited("connections = 4", &origin));
    late.iter_mut().for_each(|client| client.get("/").assert(200, "served"));
}

#[test]
fn at_a_stop_who_waits_for_room_is_let_go() {
    let origin = Origin::answering("served");
    let mut daemon = Daemon::start(&limited("connections = 1", &origin));
    let open = crowd(&daemon.address("web"), 1);
    let mut late = Client::connect(&daemon.address("web"));
    daemon.wait_log("the listener has all connections");
    daemon.signal(rustix::process::Signal::TERM);
    late.rest();
    drop(open);
    assert!(daemon.wait_exit().success());
}

/// A listener whose clients have to move their bodies at this rate, and may pause for a second.
fn paced(rate: &str, origin: &Origin) -> Daemon {
    let timeouts =
        format!("timeouts = {{ client_body = \"1s\", client_write = \"1s\", client_min_rate = \"{rate}\" }}");
    Daemon::start(&web(&timeouts, &backends(&[origin.address()])))
}

/// Sends this every twentieth of a second, until all is sent or an answer comes.
fn drip(client: &mut Client, piece: &[u8], times: usize) {
    for _ in 0..times {
        client.send(piece);
        std::thread::sleep(Duration::from_millis(50));
        if !client.is_open() {
            return;
        }
    }
}

#[test]
fn a_request_that_drips_in_is_answered_408_however_regularly() {
    let origin = Origin::answering("must not be seen");
    let daemon = paced("1KiB", &origin);
    for head in ["Content-Length: 1000", "Transfer-Encoding: chunked"] {
        let mut client = Client::connect(&daemon.address("web"));
        client.send(format!("POST / HTTP/1.1\r\nHost: test\r\n{head}\r\n\r\n"));
        let begun = Instant::now();
        drip(&mut client, if head.starts_with('C') { b"x" } else { b"1\r\nx\r\n" }, 1000);
        assert_eq!(client.response().status(), 408);
        assert!(begun.elapsed() >= Duration::from_secs(1), "it had its time");
        assert_eq!(client.ending(), Ending::Closed);
    }
    eventually("the backend is not left waiting", || origin.open() == 0);
    assert!(origin.requests().iter().all(|request| request.end != End::Complete), "half a request is not a whole one");
}

#[test]
fn a_request_that_comes_at_the_rate_may_take_its_time() {
    let origin = Origin::answering("served");
    for (rate, piece) in [("1KiB", 200), ("0B", 1)] {
        let daemon = paced(rate, &origin);
        let mut client = Client::connect(&daemon.address("web"));
        client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", 40 * piece));
        drip(&mut client, &vec![b'x'; piece], 40);
        client.response().assert(200, "served");
    }
}

#[test]
fn a_request_that_drips_in_while_it_is_answered_is_reset() {
    // It sends back what comes, at once.
    let origin = Origin::scripted(|mut connection| {
        connection.head();
        connection.send("HTTP/1.1 200 OK\r\n\r\n");
        connection.echo();
    });
    let daemon = paced("1KiB", &origin);
    let mut client = Client::connect(&daemon.address("web"));
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\n");
    client.head();
    let mut sender = client.sender();
    let dripping = std::thread::spawn(move || {
        while sender.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let (_, ending) = client.rest();
    assert_eq!(ending, Ending::Reset, "what is not whole must not look so");
    dripping.join().expect("sending does not panic");
    daemon.wait_log("cause=\"client_timeout\"");
}

/// An answer that is far larger than the kernel's buffers.
const LARGE: usize = 64 << 20;

/// Takes a large answer in pieces, twenty a second for two seconds, and then the rest. Says how much of it there was, `None`
/// when it ended by a reset.
fn sip(client: &mut Client) -> Option<usize> {
    client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    client.head();
    let mut taken = 0;
    for _ in 0..40 {
        taken += client.take(256 * 1024)?.len();
        std::thread::sleep(Duration::from_millis(50));
    }
    let (rest, ending) = client.rest();
    (ending == Ending::Closed).then_some(taken + rest.len())
}

#[test]
fn a_response_that_is_taken_too_slowly_is_reset_however_regularly() {
    let body = "x".repeat(LARGE);
    let origin = Origin::answering(&body);
    // Kernels move bytes in lumps: slow is what is far below the rate, not what takes single bytes.
    let daemon = paced("1GiB", &origin);
    let mut client = Client::connect(&daemon.address("web"));
    assert_eq!(sip(&mut client), None);
    daemon.wait_log("cause=\"client_write_timeout\"");
}

#[test]
fn a_response_that_is_taken_at_the_rate_may_take_its_time() {
    let body = "x".repeat(LARGE);
    let origin = Origin::answering(&body);
    for rate in ["240B", "0B"] {
        let daemon = paced(rate, &origin);
        let mut client = Client::connect(&daemon.address("web"));
        assert_eq!(sip(&mut client), Some(LARGE));
    }
}

/// A client that asks for a large answer, takes its head and then nothing for this long. Says whether it is whole after that.
fn pauses(daemon: &Daemon, pause: Duration) -> bool {
    let mut client = Client::connect(&daemon.address("web"));
    client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    client.head();
    std::thread::sleep(pause);
    let (rest, ending) = client.rest();
    ending == Ending::Closed && rest.len() == LARGE
}

#[test]
fn a_client_may_pause_in_a_response_for_client_write_whatever_client_body_says() {
    let origin = Origin::answering(&"x".repeat(LARGE));
    let file = |deadlines: &str| {
        web(&format!("timeouts = {{ {deadlines}, client_min_rate = \"0B\" }}"), &backends(&[origin.address()]))
    };
    let daemon = Daemon::start(&file("client_body = \"100ms\", client_write = \"60s\""));
    assert!(pauses(&daemon, Duration::from_millis(500)));
    let daemon = Daemon::start(&file("client_body = \"60s\", client_write = \"200ms\""));
    let stalled = std::thread::scope(|scope| {
        let client = scope.spawn(|| pauses(&daemon, Duration::from_secs(2)));
        daemon.wait_log("cause=\"client_write_timeout\"");
        client.join().expect("it does not panic")
    });
    assert!(!stalled, "what is cut must not look whole");
}
