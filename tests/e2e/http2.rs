//! What only HTTP/2 has: how it is agreed upon, its limits, its ends, what is refused in it, and that streams do not hold each
//! other up.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;

use crate::support::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS, MAX_HEADER_LIST_SIZE, NO_ERROR, PADDED, PING, PREFACE, PROTOCOL_ERROR, REFUSED_STREAM,
    RST_STREAM, Raw, SETTINGS, block, code, frame, get, head, ping, post, reset, settings, window_update,
};
use crate::support::h2::{H2Client, Wants, request};
use crate::support::origin::ok;
use crate::support::tls::{Authority, Tls};
use crate::support::{Client, Daemon, End, Gate, Launch, Origin, backends, eventually, pattern, web};

const BOTH: &str = "http_versions = [\"h1\", \"h2\"]\n";

/// A daemon that speaks both in the clear, with more lines for the listener.
fn daemon_before(origin: &Origin, listener: &str) -> Daemon {
    Daemon::start(&web(&format!("{BOTH}{listener}"), &backends(&[origin.address()])))
}

/// Answers a path `/LENGTH` with so many bytes, and any other shortly.
fn sized() -> Origin {
    Origin::scripted(|mut connection| {
        while let Some(request) = connection.request() {
            let length = request.head.start.split(' ').nth(1).and_then(|path| path[1..].parse().ok()).unwrap_or(0);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            connection.send([head.as_bytes(), &pattern(length)].concat());
        }
    })
}

/// Answers every request once the gate is open.
fn gated(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::scripted(move |mut connection| {
        while connection.request().is_some() {
            gate.pass();
            connection.send(ok("done"));
        }
    })
}

fn raw(daemon: &Daemon) -> Raw {
    Raw::connect(&daemon.address("web"), &[])
}

fn client(daemon: &Daemon) -> H2Client {
    H2Client::connect(&daemon.address("web"))
}

#[test]
fn over_tls_both_sides_agree_on_what_they_speak() {
    let (authority, origin) = (Authority::new("ca"), Origin::answering("hello"));
    let launch = Launch::new();
    authority.sign(&["a.example"]).write(launch.directory(), "own");
    let listener = "tls.certificates = [{ cert = \"own.crt\", key = \"own.key\" }]\n";
    let daemon = launch.write("evenkeel.toml", &web(listener, &backends(&[origin.address()]))).start();
    let tls = Tls::trusting(&authority);
    let client = H2Client::secured(&tls, &daemon.address("web"), "a.example");
    assert_eq!(client.alpn.as_deref(), Some("h2"));
    client.get("/").assert(200, "hello");
    let mut old = tls.connect(&daemon.address("web"), "a.example").expect("it shakes hands");
    assert_eq!(old.get("/").expect("an answer"), (200, "hello".to_owned()));
    assert_eq!(origin.requests()[0].head.field("x-forwarded-proto"), Some("https"));
}

#[test]
fn in_the_clear_the_first_bytes_tell_however_they_come() {
    let origin = Origin::answering("hello");
    let daemon = daemon_before(&origin, "");
    let mut slow = Raw::silent(&daemon.address("web"));
    for byte in [PREFACE, &settings(&[(1, 0)]), &get(1, "/")].concat() {
        assert!(slow.send([byte]));
    }
    assert_eq!(slow.status(1), 200);
    let mut at_once = Raw::silent(&daemon.address("web"));
    at_once.send([PREFACE, &settings(&[(1, 0)]), &get(1, "/")].concat());
    assert_eq!(at_once.status(1), 200);
    let mut old = Client::connect(&daemon.address("web"));
    for byte in b"PRI / HTTP/1.1\r\nHost: test\r\n\r\n" {
        old.send([*byte]);
    }
    old.response().assert(200, "hello");
    Client::connect(&daemon.address("web")).get("/").assert(200, "hello");
}

#[test]
fn a_listener_can_do_without_one_of_the_two() {
    let origin = Origin::answering("hello");
    let only = |versions: &str| {
        Daemon::start(&web(&format!("http_versions = [\"{versions}\"]"), &backends(&[origin.address()])))
    };
    let new = only("h2");
    client(&new).get("/").assert(200, "hello");
    let mut old = Client::connect(&new.address("web"));
    old.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let (said, _) = old.rest();
    assert!(!said.starts_with(b"HTTP/1.1 200"), "{}", said.escape_ascii());
    let old = only("h1");
    Client::connect(&old.address("web")).get("/").assert(200, "hello");
    let mut new = Client::connect(&old.address("web"));
    new.send(PREFACE);
    let (said, _) = new.rest();
    assert!(said.starts_with(b"HTTP/1.1 505") || said.starts_with(b"HTTP/1.1 400"), "{}", said.escape_ascii());
}

#[test]
fn an_upgrade_from_http1_is_not_offered() {
    let origin = Origin::answering("hello");
    let daemon = daemon_before(&origin, "");
    let mut client = Client::connect(&daemon.address("web"));
    client.send(
        "GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    );
    client.response().assert(200, "hello");
    assert_eq!(origin.request().head.field("http2-settings"), None);
}

#[test]
fn a_client_is_told_how_many_streams_it_may_have_and_refused_more() {
    let gate = Gate::default();
    let origin = gated(&gate);
    let daemon = daemon_before(&origin, "limits = { streams = 3 }");
    let mut raw = raw(&daemon);
    let told = raw.expect(SETTINGS, 0).payload;
    let told: Vec<_> = told.chunks(6).map(|one| (u16::from_be_bytes([one[0], one[1]]), code(&one[2..]))).collect();
    assert!(told.contains(&(MAX_CONCURRENT_STREAMS, 3)), "{told:?}");
    assert!(told.iter().any(|(name, value)| *name == MAX_HEADER_LIST_SIZE && *value >= 32 * 1024), "{told:?}");
    for stream in [1, 3, 5, 7] {
        raw.send(get(stream, "/"));
    }
    assert_eq!(raw.fate(7), Err(REFUSED_STREAM));
    gate.open();
    let mut answered: Vec<_> = (0..3)
        .map(|_| {
            loop {
                let frame = raw.next().expect("the connection goes on");
                if frame.kind == HEADERS {
                    break frame.stream;
                }
            }
        })
        .collect();
    answered.sort_unstable();
    assert_eq!(answered, [1, 3, 5]);
    eventually("a place is free", || {
        raw.send(get(9, "/"));
        raw.fate(9) == Ok(200)
    });
}

#[test]
fn with_the_last_request_a_client_is_told_and_what_is_under_way_is_finished() {
    let gate = Gate::default();
    let origin = gated(&gate);
    let daemon = daemon_before(&origin, "limits = { requests_per_connection = 3 }");
    let client = client(&daemon);
    let mut asked: Vec<_> = (0..3).map(|_| client.begin(request("GET", "/", &[]), true)).collect();
    eventually("all are at the backend", || origin.requests().len() == 3);
    eventually("the client knows", || client.try_begin(request("GET", "/", &[]), true).is_err());
    gate.open();
    for (_, down) in &mut asked {
        down.response().assert(200, "done");
    }
    client.ending().expect("an orderly end");
}

#[test]
fn who_does_not_hear_that_it_was_the_last_request_is_not_served_for_ever() {
    let origin = Origin::answering("hello");
    let daemon = daemon_before(&origin, "limits = { requests_per_connection = 1 }");
    let mut deaf = raw(&daemon);
    // It never acknowledges the PING that comes with the first GOAWAY, and goes on asking.
    let (_, ended) = {
        let mut stream = 1;
        let mut last = (None, false);
        for _ in 0..2000 {
            deaf.send(get(stream, "/"));
            stream += 2;
            last = deaf.flood(&[], Duration::from_millis(5));
            if last.1 {
                break;
            }
        }
        last
    };
    assert!(ended, "{} requests were served", origin.requests().len());
}

#[test]
fn a_stop_finishes_what_is_under_way_and_says_goaway() {
    let gate = Gate::default();
    let origin = gated(&gate);
    let file =
        web(BOTH, &backends(&[origin.address()])).replace("workers = 1", "workers = 1\nshutdown_grace = \"60s\"");
    let mut daemon = Daemon::start(&file);
    let (client, idle) = (client(&daemon), client(&daemon));
    let (_up, mut down) = client.begin(request("GET", "/", &[]), true);
    eventually("it is at the backend", || origin.requests().len() == 1);
    daemon.signal(Signal::TERM);
    idle.ending().expect("an orderly end");
    eventually("the client knows", || client.try_begin(request("GET", "/", &[]), true).is_err());
    assert!(daemon.is_running());
    gate.open();
    down.response().assert(200, "done");
    client.ending().expect("an orderly end");
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

#[test]
fn a_stop_does_not_wait_for_who_has_said_nothing() {
    let origin = Origin::answering("hello");
    let grace = |file: String| file.replace("workers = 1", "workers = 1\nshutdown_grace = \"60s\"");
    for versions in ["http_versions = [\"h2\"]", BOTH] {
        let listener = format!("{versions}\ntimeouts = {{ client_header = \"1h\" }}");
        let mut daemon = Daemon::start(&grace(web(&listener, &backends(&[origin.address()]))));
        let mut silent = Raw::silent(&daemon.address("web"));
        let mut begun = Raw::silent(&daemon.address("web"));
        begun.send(&PREFACE[..10]);
        client(&daemon).get("/").assert(200, "hello");
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.wait_exit().code(), Some(0));
        silent.ending();
        begun.ending();
    }
}

#[test]
fn a_listener_that_is_removed_says_goaway_and_finishes() {
    let gate = Gate::default();
    let origin = gated(&gate);
    let file = web(BOTH, &backends(&[origin.address()]));
    let daemon = Daemon::start(&file);
    let (client, mut idle) = (client(&daemon), raw(&daemon));
    let (_up, mut down) = client.begin(request("GET", "/", &[]), true);
    eventually("it is at the backend", || origin.requests().len() == 1);
    daemon.reload(&file.replace("listeners.web", "listeners.other"));
    assert_eq!(code(&idle.expect(GOAWAY, 0).payload[4..]), NO_ERROR);
    idle.ending();
    gate.open();
    down.response().assert(200, "done");
    client.ending().expect("an orderly end");
}

#[test]
fn an_idle_client_is_told_goaway_after_its_time() {
    let origin = Origin::answering("hello");
    let daemon = daemon_before(&origin, "timeouts = { client_idle = \"300ms\" }");
    let client = client(&daemon);
    client.get("/").assert(200, "hello");
    client.ending().expect("an orderly end");
    let mut silent = raw(&daemon);
    assert_eq!(silent.ending(), Some(NO_ERROR), "also one that never asked");
}

#[test]
fn a_client_whose_request_takes_long_is_not_idle() {
    let gate = Gate::default();
    let origin = gated(&gate);
    let daemon = daemon_before(&origin, "timeouts = { client_idle = \"100ms\" }");
    let (waiting, idle) = (client(&daemon), client(&daemon));
    let (_up, mut down) = waiting.begin(request("GET", "/", &[]), true);
    idle.ending().expect("an orderly end");
    gate.open();
    down.response().assert(200, "done");
}

#[test]
fn what_a_late_client_says_does_not_take_its_answer_away() {
    const LARGE: usize = 1 << 20;
    let origin = sized();
    let daemon = daemon_before(&origin, "limits = { requests_per_connection = 1 }");
    let mut slow = Raw::connect(&daemon.address("web"), &[(INITIAL_WINDOW_SIZE, 16 << 20)]);
    slow.send([window_update(0, 16 << 20), get(1, &format!("/{LARGE}"))].concat());
    daemon.wait_log("request ended");
    // It has not read a byte yet, and says what clients say while they read.
    for _ in 0..10 {
        slow.send([window_update(0, 1000), ping(), frame(PING, ACK, 0, b"\x0b\x7b\xa2\xf0\x8b\x9b\xfe\x54")].concat());
        std::thread::yield_now();
    }
    let mut length = 0;
    while let Some(frame) = slow.next() {
        length += if frame.kind == DATA { frame.payload.len() } else { 0 };
    }
    assert_eq!(length, LARGE);
}

/// The fields that every request has.
const PSEUDO: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "test")];

/// These without one of them.
fn without(name: &str) -> Vec<u8> {
    block(&PSEUDO.into_iter().filter(|(other, _)| *other != name).collect::<Vec<_>>())
}

#[test]
fn a_refused_request_is_answered_or_reset_and_the_connection_goes_on() {
    let origin = Origin::answering("hello");
    let daemon = daemon_before(&origin, "");
    let mut raw = raw(&daemon);
    let get_with = |field| head("GET", "/", &[field]);
    let behind = block(&[PSEUDO[0], ("x-a", "b"), PSEUDO[1], PSEUDO[2], PSEUDO[3]]);
    let twice = block(&[&PSEUDO[..], &[(":authority", "other")]].concat());
    let cases = [
        ("connection", get_with(("connection", "close"))),
        ("keep-alive", get_with(("keep-alive", "1"))),
        ("proxy-connection", get_with(("proxy-connection", "1"))),
        ("upgrade", get_with(("upgrade", "h2c"))),
        ("transfer-encoding", get_with(("transfer-encoding", "chunked"))),
        ("te", get_with(("te", "gzip"))),
        ("a host that differs", get_with(("host", "other"))),
        ("two authorities", twice),
        ("no authority", without(":authority")),
        ("no method", without(":method")),
        ("no path", without(":path")),
        ("no scheme", without(":scheme")),
        ("an empty path", head("GET", "", &[])),
        ("a path without a slash", head("GET", "x", &[])),
        ("a field of answers", get_with((":status", "200"))),
        ("a pseudo field behind others", behind),
        ("a line end in a path", head("GET", "/ HTTP/1.1\r\nevil: 1", &[])),
        ("a space in a path", head("GET", "/a b", &[])),
        ("a way above the root", head("GET", "/../a", &[])),
        ("a hidden nul in a path", head("GET", "/%00", &[])),
        ("a length and no body", head("POST", "/", &[("content-length", "5")])),
        ("a bad length", head("POST", "/", &[("content-length", "+5")])),
        ("two lengths", head("POST", "/", &[("content-length", "0"), ("content-length", "1")])),
        ("an empty length", head("POST", "/", &[("content-length", "")])),
    ];
    let mut stream = 1;
    for (what, block) in &cases {
        raw.send(frame(HEADERS, END_STREAM | END_HEADERS, stream, block));
        let fate = raw.fate(stream);
        assert!(matches!(fate, Ok(400) | Err(PROTOCOL_ERROR)), "{what}: {fate:?}");
        raw.send(get(stream + 2, "/"));
        assert_eq!(raw.fate(stream + 2), Ok(200), "behind {what}");
        stream += 4;
    }
    assert_eq!(origin.requests().len(), cases.len(), "only the good ones reached it");
}

#[test]
fn fields_that_are_none_end_the_connection() {
    let origin = Origin::answering("hello");
    let daemon = daemon_before(&origin, "");
    for (method, field) in [
        ("GET", (":evil", "x")),
        ("GET", ("X-Upper", "1")),
        ("GET", ("", "1")),
        ("GET", ("x y", "1")),
        ("GET", ("x:y", "1")),
        ("GET", ("x-a", "b\r\nevil: 1")),
        ("GET", ("x-a", "b\0c")),
        ("GET / HTTP/1.1\r\nevil: 1\r\n\r\n", ("x-a", "b")),
    ] {
        let mut raw = raw(&daemon);
        raw.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &head(method, "/", &[field])));
        assert_eq!(raw.ending(), Some(PROTOCOL_ERROR), "{method:?} {field:?}");
    }
    assert_eq!(origin.requests().len(), 0);
}

#[test]
fn a_fragment_is_never_forwarded() {
    let origin = Origin::answering("hello");
    let daemon = daemon_before(&origin, "");
    let mut raw = raw(&daemon);
    raw.send(get(1, "/a#/../b"));
    assert_eq!(raw.fate(1), Ok(200));
    assert_eq!(origin.request().head.start, "GET /a HTTP/1.1");
}

#[test]
fn a_body_that_is_not_as_long_as_told_never_looks_whole_to_a_backend() {
    let origin = Origin::answering("hello");
    let daemon = daemon_before(&origin, "");
    let mut raw = raw(&daemon);
    for (at, (told, said)) in [("10", &b"short"[..]), ("3", b"longer")].into_iter().enumerate() {
        let stream = 4 * at as u32 + 1;
        raw.send(frame(HEADERS, END_HEADERS, stream, &head("POST", "/", &[("content-length", told)])));
        raw.send(frame(DATA, END_STREAM, stream, said));
        assert_eq!(raw.fate(stream), Err(PROTOCOL_ERROR), "{told}");
        raw.send(get(stream + 2, "/"));
        assert_eq!(raw.fate(stream + 2), Ok(200));
    }
    for request in origin.requests().iter().filter(|request| request.head.start.starts_with("POST")) {
        assert_ne!(request.end, End::Complete, "{request:?}");
    }
}

#[test]
fn what_a_backend_says_can_not_split_an_answer() {
    let origin = Origin::scripted(|mut connection| {
        while let Some(request) = connection.request() {
            let path = request.head.start.split(' ').nth(1).unwrap_or_default().to_owned();
            connection.send(match path.as_str() {
                "/nul" => "HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 0\r\n\r\n".to_owned(),
                "/cr" => "HTTP/1.1 200 OK\r\nX-A: a\rb\r\nContent-Length: 0\r\n\r\n".to_owned(),
                "/name" => "HTTP/1.1 200 OK\r\n:status: 204\r\nContent-Length: 0\r\n\r\n".to_owned(),
                "/latin" => "HTTP/1.1 200 OK\r\nX-A: caf\u{e9}\r\nContent-Length: 0\r\n\r\n".to_owned(),
                _ => ok("fine"),
            });
        }
    });
    let daemon = daemon_before(&origin, "");
    let client = client(&daemon);
    for path in ["/nul", "/cr", "/name"] {
        assert_eq!(client.get(path).status(), 502, "{path}");
    }
    assert_eq!(client.get("/latin").status(), 200);
    client.get("/").assert(200, "fine");
}

#[test]
fn a_head_that_is_too_large_is_refused_with_431_and_the_connection_goes_on() {
    let origin = Origin::answering("hello");
    let daemon = daemon_before(&origin, "");
    let mut raw = raw(&daemon);
    let large = "x".repeat(33 * 1024);
    let larger = "x".repeat(40 * 1024);
    let many: Vec<_> = (0..101).map(|at| (format!("x-{at}"), "y".to_owned())).collect();
    let many: Vec<_> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let crumbs = vec![("cookie", "a=b"); 101];
    let cases: [(&str, &[(&str, &str)]); 4] = [
        ("over the limit of a head", &[("x-large", &large)]),
        ("over the limit of the list", &[("x-large", &larger)]),
        ("too many fields", &many),
        ("too many crumbs", &crumbs),
    ];
    let mut stream = 1;
    for (what, fields) in cases {
        raw.send(in_pieces(stream, &head("GET", "/", fields)));
        assert_eq!(raw.fate(stream), Ok(431), "{what}");
        raw.send(get(stream + 2, "/"));
        assert_eq!(raw.fate(stream + 2), Ok(200), "behind {what}");
        stream += 4;
    }
    assert_eq!(origin.requests().len(), 4);
    let mut good = head("GET", "/", &vec![("cookie", "a=b"); 90]);
    good.extend(block(&[("x-large", &"x".repeat(16 * 1024))]));
    raw.send(in_pieces(stream, &good));
    assert_eq!(raw.fate(stream), Ok(200));
}

/// A head in as many frames as it needs.
fn in_pieces(stream: u32, block: &[u8]) -> Vec<u8> {
    let mut pieces = block.chunks(16 * 1024).peekable();
    let (mut bytes, mut kind, mut flags) = (Vec::new(), HEADERS, END_STREAM);
    while let Some(piece) = pieces.next() {
        let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        bytes.extend(frame(kind, flags | last, stream, piece));
        (kind, flags) = (CONTINUATION, 0);
    }
    bytes
}

#[test]
fn trailers_that_are_too_many_or_wrong_end_their_request_alone() {
    let origin = Origin::answering("hello");
    let daemon = daemon_before(&origin, "");
    let mut raw = raw(&daemon);
    let many = vec![("x-trailer", "y"); 101];
    for (at, trailers) in [block(&many), block(&[("connection", "close")])].iter().enumerate() {
        let stream = 4 * at as u32 + 1;
        raw.send(post(stream, "/"));
        raw.send(frame(DATA, 0, stream, b"data"));
        raw.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, trailers));
        let fate = raw.fate(stream);
        assert!(matches!(fate, Ok(400 | 431) | Err(_)), "{at}: {fate:?}");
        raw.send(get(stream + 2, "/"));
        assert_eq!(raw.fate(stream + 2), Ok(200));
    }
}

#[test]
fn a_stream_that_takes_nothing_does_not_hold_up_another() {
    const LARGE: usize = 8 << 20;
    let origin = sized();
    let daemon = daemon_before(&origin, "");
    let client = H2Client::wanting(&daemon.address("web"), Wants { window: Some(64 * 1024) });
    let _stuck: Vec<_> = (0..20)
        .map(|_| {
            let (up, mut down) = client.begin(request("GET", &format!("/{LARGE}"), &[]), true);
            assert!(down.head().start.contains(" 200"));
            down.hoard(64 * 1024);
            (up, down)
        })
        .collect();
    for _ in 0..3 {
        assert_eq!(client.get("/100000").body, pattern(100_000));
    }
}

#[test]
fn a_stream_whose_body_is_not_taken_does_not_hold_up_another() {
    let gate = Gate::default();
    let passing = gate.clone();
    let origin = Origin::scripted(move |mut connection| {
        let Some(request) = connection.head() else { return };
        match request.head.start.starts_with("POST") {
            true => passing.pass(),
            false => connection.send(ok("quick")),
        }
    });
    let daemon = daemon_before(&origin, "");
    let client = client(&daemon);
    let mut stuck: Vec<_> = (0..8).map(|_| client.begin(request("POST", "/", &[]), false)).collect();
    for (up, _) in &mut stuck {
        up.say_what_fits(1 << 20);
    }
    for _ in 0..3 {
        client.get("/").assert(200, "quick");
    }
    for (up, _) in &mut stuck {
        up.reset(h2::Reason::CANCEL);
    }
    gate.open();
}

#[test]
fn a_stream_whose_window_stays_shut_is_reset_and_the_connection_goes_on() {
    let origin = sized();
    let daemon = daemon_before(&origin, "timeouts = { client_write = \"400ms\" }");
    let mut raw = Raw::connect(&daemon.address("web"), &[(INITIAL_WINDOW_SIZE, 0)]);
    raw.send(get(1, "/1000"));
    assert_eq!(raw.status(1), 200);
    assert!(raw.expect(RST_STREAM, 1).payload.len() == 4);
    raw.send([get(3, "/1000"), window_update(3, 1000)].concat());
    assert_eq!(raw.status(3), 200);
    assert_eq!(raw.expect(DATA, 3).payload.len(), 1000);
    daemon.wait_log("client_write_timeout");
}

#[test]
fn a_client_that_stops_reading_is_dropped_after_its_time() {
    let origin = sized();
    let daemon = daemon_before(&origin, "timeouts = { client_write = \"400ms\" }");
    let mut deaf = Raw::with_buffer(&daemon.address("web"), Some(16 * 1024));
    deaf.send([PREFACE, &settings(&[(INITIAL_WINDOW_SIZE, 64 << 20)]), &window_update(0, 64 << 20)].concat());
    deaf.send(get(1, &format!("/{}", 32 << 20)));
    eventually("it is dropped", || deaf.is_cut() || !deaf.send(window_update(1, 1)));
    client(&daemon).get("/5").assert(200, &String::from_utf8_lossy(&pattern(5)));
}

#[test]
fn half_a_head_and_then_silence_ends_after_the_time_of_a_head() {
    let gate = Gate::default();
    let origin = gated(&gate);
    let daemon = daemon_before(&origin, "timeouts = { client_header = \"400ms\" }");
    let open = |stream| frame(HEADERS, END_STREAM, stream, &head("GET", "/", &[]));
    let halves: [&dyn Fn(u32) -> Vec<u8>; 4] =
        [&|stream| get(stream, "/")[..20].to_vec(), &|stream| get(stream, "/")[..5].to_vec(), &open, &|stream| {
            [open(stream), frame(CONTINUATION, 0, stream, b"")].concat()
        }];
    for half in halves {
        let mut idle = raw(&daemon);
        idle.send(half(1));
        assert_eq!(idle.ending(), Some(ENHANCE_YOUR_CALM));
        let mut busy = raw(&daemon);
        busy.send([get(1, "/"), half(3)].concat());
        assert_eq!(busy.ending(), Some(ENHANCE_YOUR_CALM), "though something else is under way");
    }
    let mut dripping = raw(&daemon);
    dripping.send(open(1));
    eventually("it is ended however it drips", || !dripping.send(frame(CONTINUATION, 0, 1, &block(&[("x-a", "b")]))));
    // Who takes its time between heads is not meant.
    let mut patient = raw(&daemon);
    for stream in [1, 3, 5] {
        patient.send([post(stream, "/"), frame(DATA, 0, stream, b"x")].concat());
    }
    let begun = std::time::Instant::now();
    eventually("longer than a head may take", || begun.elapsed() > Duration::from_millis(800));
    gate.open();
    for stream in [1, 3, 5] {
        patient.send(frame(DATA, END_STREAM, stream, b"x"));
        assert_eq!(patient.status(stream), 200);
    }
}

#[test]
fn a_slow_preface_ends_after_the_time_of_a_head() {
    let origin = Origin::answering("hello");
    for versions in ["http_versions = [\"h2\"]", BOTH] {
        let listener = format!("{versions}\ntimeouts = {{ client_header = \"400ms\" }}");
        let daemon = Daemon::start(&web(&listener, &backends(&[origin.address()])));
        for said in [0, 1, 12, 23] {
            let mut slow = Raw::silent(&daemon.address("web"));
            slow.send(&PREFACE[..said]);
            slow.ending();
        }
    }
}

#[test]
fn a_client_that_hangs_up_ends_all_its_requests_and_each_is_accounted_for() {
    let origin = Origin::hanging();
    let daemon = daemon_before(&origin, "");
    let client = client(&daemon);
    let asked: Vec<_> = (0..10).map(|_| client.begin(request("GET", "/", &[]), true)).collect();
    eventually("all are at the backend", || origin.requests().len() == 10);
    client.hang_up();
    eventually("each has ended", || daemon.times_logged("cause=\"client_gone\"") == 10);
    eventually("the backend is left", || origin.open() == 0);
    drop(asked);
}

#[test]
fn many_clients_with_many_streams_are_all_served_by_all_workers() {
    let origin = Origin::scripted(|mut connection| {
        while let Some(request) = connection.request() {
            let path = request.head.start.split(' ').nth(1).unwrap_or_default().to_owned();
            connection.send(ok(&path));
        }
    });
    let file = web(BOTH, &backends(&[origin.address()])).replace("workers = 1", "workers = 2");
    let daemon = Daemon::start(&file);
    let served = Arc::new(AtomicUsize::new(0));
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let client = client(&daemon);
                for round in 0..5 {
                    let asked: Vec<_> = (0..20)
                        .map(|at| {
                            let path = format!("/{round}/{at}");
                            let (_, down) = client.begin(request("GET", &path, &[]), true);
                            (path, down)
                        })
                        .collect();
                    for (path, mut down) in asked {
                        let response = down.response();
                        if response.text() != path {
                            wrong.lock().expect("no holder panics").push(response);
                        }
                        served.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    assert_eq!(served.load(Ordering::SeqCst), 800);
    let wrong = wrong.into_inner().expect("no holder panics");
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn padded_and_reset_data_gives_its_place_in_the_window_back() {
    let origin = Origin::scripted(|mut connection| {
        while let Some(request) = connection.head() {
            match request.head.start.contains("/hang") {
                true => drop(connection.ending()),
                false => {
                    connection.body(request.head.framing(crate::support::message::Framing::None));
                    connection.send(ok("taken"));
                }
            }
        }
    });
    let daemon = daemon_before(&origin, "");
    let mut raw = raw(&daemon);
    // Far more than the window of a connection, a part of it padding, most of it for streams that are reset.
    let padded = [&[200][..], &[b'x'; 8000], &[0; 200]].concat();
    let mut window = i64::from(65_535);
    let mut stream = 1;
    for round in 0..400 {
        let path = if round % 2 == 0 { "/hang" } else { "/" };
        raw.send(post(stream, path));
        for at in 0..3 {
            while window < padded.len() as i64 {
                let frame = raw.expect(crate::support::frames::WINDOW_UPDATE, 0);
                window += i64::from(code(&frame.payload));
            }
            window -= padded.len() as i64;
            let ends = if round % 2 == 1 && at == 2 { END_STREAM } else { 0 };
            raw.send(frame(DATA, PADDED | ends, stream, &padded));
        }
        match round % 2 {
            0 => drop(raw.send(reset(stream))),
            _ => loop {
                let frame = raw.next().expect("the connection goes on");
                if frame.kind == crate::support::frames::WINDOW_UPDATE && frame.stream == 0 {
                    window += i64::from(code(&frame.payload));
                }
                if frame.kind == HEADERS && frame.stream == stream {
                    break;
                }
            },
        }
        stream += 2;
    }
}
