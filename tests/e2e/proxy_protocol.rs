//! The PROXY protocol: who may say who a client is, what becomes of it, and what backends are told.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::support::tls::{Authority, Tls};
use crate::support::{Client, Daemon, Ending, Launch, Origin, backends, eventually, raw, web};

/// What makes a listener demand a header from us.
const ACCEPT: &str = "proxy_protocol = { accept = true, trusted = [\"127.0.0.1\"] }\n";
const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";
const UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

/// A header of version 2 for the same client, with an extension.
fn v2() -> Vec<u8> {
    let block = [192, 0, 2, 7, 198, 51, 100, 1, 220, 4, 1, 187, 1, 0, 2, b'h', b'2'];
    [SIGNATURE, &[0x21, 0x11, 0, 17], &block].concat()
}

/// The same for a client with an IPv6 address.
fn v2_six() -> Vec<u8> {
    let mut block = [0; 36];
    block[..2].copy_from_slice(&[0x20, 1]);
    block[15] = 7;
    block[32..].copy_from_slice(&[1, 2, 1, 187]);
    [SIGNATURE, &[0x21, 0x21, 0, 36], &block].concat()
}

fn local() -> Vec<u8> {
    [SIGNATURE, &[0x20, 0, 0, 0]].concat()
}

/// A web listener that demands a header, with more lines.
fn accepting(listener: &str, origin: &Origin) -> Daemon {
    Daemon::start(&web(&format!("{ACCEPT}{listener}"), &backends(&[origin.address()])))
}

#[test]
fn the_client_is_who_the_header_says() {
    let origin = Origin::answering("hello");
    let daemon = accepting("forwarded = true", &origin);
    for (header, client, port) in [
        (V1.to_vec(), "192.0.2.7", "443"),
        (v2(), "192.0.2.7", "443"),
        (v2_six(), "2001::7", "443"),
        (UNKNOWN.to_vec(), "127.0.0.1", ""),
        (local(), "127.0.0.1", ""),
    ] {
        let mut client_side = Client::connect(&daemon.address("web"));
        client_side.send([&header[..], GET.as_bytes()].concat());
        client_side.response().assert(200, "hello");
        client_side.get("/again").assert(200, "hello");
        let requests = origin.requests();
        for request in &requests[requests.len() - 2..] {
            assert_eq!(request.head.field("x-forwarded-for"), Some(client));
            if !port.is_empty() {
                assert_eq!(request.head.field("x-forwarded-port"), Some(port));
            }
        }
    }
}

#[test]
fn a_header_may_come_byte_by_byte_and_over_every_kind_of_socket() {
    let origin = Origin::answering("hello");
    let launch = Launch::new();
    let path = launch.directory().join("own.sock");
    let bind = format!("bind = [\"127.0.0.1:0\", \"[::1]:0\", \"unix:{}\"]", path.display());
    let trusting = ACCEPT.replace("\"127.0.0.1\"", "\"127.0.0.1\", \"::1\"");
    let text = web(&trusting, &backends(&[origin.address()])).replace("bind = \"127.0.0.1:0\"", &bind);
    let daemon = launch.write("evenkeel.toml", &text).start();
    for address in daemon.addresses("web", 3) {
        for header in [V1.to_vec(), v2(), v2_six()] {
            let mut client = Client::connect(&address);
            for byte in header {
                client.send([byte]);
            }
            client.get("/").assert(200, "hello");
            let requests = origin.requests();
            let told = requests[requests.len() - 1].head.field("x-forwarded-for").map(str::to_owned);
            assert!(matches!(told.as_deref(), Some("192.0.2.7" | "2001::7")), "{told:?}");
        }
    }
}

#[test]
fn trusted_proxies_are_compared_with_the_client_of_the_header() {
    let origin = Origin::answering("hello");
    let daemon = accepting("trusted_proxies = [\"192.0.2.0/24\"]", &origin);
    let forwarded = "GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n";
    for header in [V1.to_vec(), local()] {
        let mut client = Client::connect(&daemon.address("web"));
        client.send([&header[..], forwarded.as_bytes()].concat());
        client.response().assert(200, "hello");
    }
    let told = |index: usize| origin.requests()[index].head.field("x-forwarded-for").map(str::to_owned);
    assert_eq!(told(0).as_deref(), Some("203.0.113.9, 192.0.2.7"));
    assert_eq!(told(1).as_deref(), Some("127.0.0.1"), "the proxy itself is no such one");
}

#[test]
fn without_a_good_header_nothing_is_served() {
    let origin = Origin::answering("hello");
    let daemon = accepting("", &origin);
    let garbage: [&[u8]; 7] = [
        GET.as_bytes(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 56324\r\n",
        b"PROXY TCP4 999.0.2.7 198.51.100.1 56324 443\r\n",
        &[b'P'; 300],
        &[SIGNATURE, &[0x21, 0x11, 0, 4, 1, 2, 3, 4]].concat(),
        &[SIGNATURE, &[0x31, 0x11, 0, 12]].concat(),
        &[SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat(),
    ];
    for bytes in garbage {
        let mut client = Client::connect(&daemon.address("web"));
        client.send([bytes, GET.as_bytes()].concat());
        assert_eq!(client.ending(), Ending::Reset, "{}", bytes.escape_ascii());
    }
    let mut cut = Client::connect(&daemon.address("web"));
    cut.finish_writing();
    assert_eq!(cut.ending(), Ending::Reset);
    daemon.wait_log("there is no PROXY header");
    daemon.wait_log("before its PROXY header was whole");
    assert!(origin.requests().is_empty());
    let mut late = Client::connect(&daemon.address("web"));
    late.send(&V1[..20]);
    assert_eq!(late.ending(), Ending::Reset, "after three seconds");
    daemon.wait_log("was not whole in time");
}

#[test]
fn who_is_not_trusted_is_not_listened_to() {
    let origin = Origin::answering("hello");
    let daemon = accepting("", &origin);
    let mut stranger = Client::connect_from("127.0.0.2", &daemon.address("web"));
    stranger.send([V1, GET.as_bytes()].concat());
    // Whether by a reset that it still sees, it was closed without a word.
    stranger.ending();
    daemon.wait_log("not from a trusted proxy");
    assert!(origin.requests().is_empty());
}

#[test]
fn a_header_means_nothing_where_none_is_expected() {
    let origin = Origin::answering("hello");
    let daemon = Daemon::start(&web("", &backends(&[origin.address()])));
    let mut client = Client::connect(&daemon.address("web"));
    client.send([V1, GET.as_bytes()].concat());
    assert_eq!(client.response().status(), 400);
    assert!(origin.requests().is_empty());
}

#[test]
fn tls_follows_the_header_and_has_its_own_time() {
    let (authority, origin) = (Authority::new("ca"), Origin::answering("hello"));
    let launch = Launch::new();
    authority.sign(&["a.example"]).write(launch.directory(), "own");
    let own = "tls.certificates = [{ cert = \"own.crt\", key = \"own.key\" }]\n";
    let daemon = launch.write("evenkeel.toml", &web(&format!("{ACCEPT}{own}"), &backends(&[origin.address()]))).start();
    for header in [V1.to_vec(), v2()] {
        // Together with the first of the handshake, so that it is read along.
        let tls = Tls::trusting(&authority);
        let mut client = tls.connect_behind(&header, &daemon.address("web"), "a.example").unwrap();
        assert_eq!(client.get("/").unwrap(), (200, "hello".to_owned()));
        let requests = origin.requests();
        let head = &requests[requests.len() - 1].head;
        assert_eq!(
            (head.field("x-forwarded-for"), head.field("x-forwarded-proto")),
            (Some("192.0.2.7"), Some("https"))
        );
    }
    assert!(Tls::trusting(&authority).connect(&daemon.address("web"), "a.example").is_err(), "without a header");
}

#[test]
fn a_client_is_limited_behind_its_proxy_and_the_proxy_is_not() {
    let origin = Origin::answering("hello");
    let daemon = accepting("limits = { connections_per_ip = 1 }", &origin);
    let connect = |header: &[u8]| {
        let mut client = Client::connect(&daemon.address("web"));
        client.send([header, GET.as_bytes()].concat());
        client
    };
    let mut first = connect(V1);
    first.response().assert(200, "hello");
    assert_eq!(connect(&v2()).response().status(), 503);
    for other in [v2_six(), local(), UNKNOWN.to_vec()] {
        let mut other = connect(&other);
        other.response().assert(200, "hello");
        std::mem::forget(other);
    }
    drop(first);
    eventually("its place is free again", || {
        let mut again = connect(V1);
        again.response().status() == 200
    });
}

#[test]
fn a_tcp_listener_reads_a_header_and_relays_what_follows() {
    let origin = Origin::echoing();
    let daemon = Daemon::start(&raw(ACCEPT, &backends(&[origin.address()])));
    let mut client = Client::connect(&daemon.address("raw"));
    client.send([V1, b"first"].concat());
    assert_eq!(client.bytes(5), b"first");
    client.expect_echo("second");
}

/// A pool that announces clients so.
fn announcing(version: &str, origin: &Origin) -> String {
    format!("{}send_proxy_protocol = \"{version}\"\n", backends(&[origin.address()]))
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Reads a header of version 1, byte by byte.
fn line(mut some: impl FnMut() -> Vec<u8>) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let byte = some();
        assert!(!byte.is_empty(), "it ended after {}", line.escape_ascii());
        line.extend(byte);
    }
    text_of(&line)
}

#[test]
fn backends_of_tcp_are_told_who_connects() {
    let origin = Origin::echoing();
    let daemon = Daemon::start(&raw("", &announcing("v1", &origin)));
    let address = daemon.address("raw");
    let mut client = TcpStream::connect(&address).unwrap();
    client.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
    let mut echoed = |length: usize| {
        let mut bytes = vec![0; length];
        client.read_exact(&mut bytes).unwrap();
        bytes
    };
    let told = line(|| echoed(1));
    let (own, port) = (client.local_addr().unwrap().port(), address.rsplit(':').next().unwrap());
    assert_eq!(told, format!("PROXY TCP4 127.0.0.1 127.0.0.1 {own} {port}\r\n"));
    client.write_all(b"hello").unwrap();
    let mut bytes = [0; 5];
    client.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
}

#[test]
fn backends_of_a_unix_listener_are_told_that_the_client_is_unknown() {
    let origin = Origin::echoing();
    for (version, expected) in [("v1", UNKNOWN.to_vec()), ("v2", local())] {
        let launch = Launch::new();
        let bind = format!("bind = \"unix:{}\"", launch.directory().join("own.sock").display());
        let text = raw("", &announcing(version, &origin)).replace("bind = \"127.0.0.1:0\"", &bind);
        let daemon = launch.write("evenkeel.toml", &text).start();
        let mut client = Client::connect(&daemon.address("raw"));
        assert_eq!(client.bytes(expected.len()), expected);
    }
}

#[test]
fn each_request_is_announced_on_a_connection_of_its_own() {
    let (told, remember) = std::sync::mpsc::channel();
    let origin = Origin::scripted(move |mut connection| {
        drop(told.send(line(|| connection.take(1))));
        while connection.request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        }
    });
    let daemon = Daemon::start(&web("", &announcing("v1", &origin)));
    let address = daemon.address("web");
    for source in ["127.0.0.3", "127.0.0.4"] {
        let mut client = Client::connect_from(source, &address);
        for _ in 0..3 {
            client.get("/").assert(200, "hello");
            let line = remember.recv_timeout(crate::support::DEADLINE).unwrap();
            assert!(line.starts_with(&format!("PROXY TCP4 {source} 127.0.0.1 ")), "{line}");
        }
    }
    assert_eq!((origin.accepted(), origin.requests().len()), (6, 6));
    eventually("none of them is kept", || origin.open() == 0);
}

#[test]
fn what_a_reload_turns_on_is_not_sent_over_connections_from_before() {
    let origin = Origin::scripted(|mut connection| {
        let begins = text_of(&connection.take(1));
        if begins == "P" {
            line(|| connection.take(1));
        }
        while connection.request().is_some() {
            connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{begins}"));
        }
    });
    let daemon = Daemon::start(&web("", &backends(&[origin.address()])));
    let mut client = Client::connect(&daemon.address("web"));
    client.get("/").assert(200, "G");
    daemon.reload(&web("", &announcing("v1", &origin)));
    client.get("/").assert(200, "P");
    daemon.reload(&web("", &backends(&[origin.address()])));
    client.get("/").assert(200, "G");
}

#[test]
fn a_client_of_one_proxy_is_announced_by_the_next() {
    let origin = Origin::answering("hello");
    let inner = accepting("", &origin);
    let pool = |version: &str| format!("{}send_proxy_protocol = \"{version}\"\n", backends(&[&inner.address("web")]));
    for version in ["v1", "v2"] {
        for header in [V1.to_vec(), v2(), v2_six()] {
            let outer = Daemon::start(&raw(ACCEPT, &pool(version)));
            let mut client = Client::connect(&outer.address("raw"));
            client.send([&header[..], GET.as_bytes()].concat());
            client.response().assert(200, "hello");
            let requests = origin.requests();
            let head = &requests[requests.len() - 1].head;
            assert!(matches!(head.field("x-forwarded-for"), Some("192.0.2.7" | "2001::7")));
            assert_eq!(head.field("x-forwarded-port"), Some("443"));
        }
    }
}

#[test]
fn a_health_check_says_that_it_speaks_for_itself() {
    for (version, expected) in [("v1", UNKNOWN.to_vec()), ("v2", local())] {
        let (told, remember) = std::sync::mpsc::channel();
        let length = expected.len() as u64;
        let origin = Origin::scripted(move |mut connection| {
            drop(told.send(connection.take(length)));
            while connection.request().is_some() {
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
            }
        });
        let check = "health_check = { path = \"/healthz\", interval = \"100ms\", timeout = \"100ms\", rise = 1 }\n";
        let daemon = Daemon::start(&web("", &format!("{}{check}", announcing(version, &origin))));
        assert_eq!(remember.recv_timeout(crate::support::DEADLINE).unwrap(), expected);
        eventually("it was asked", || origin.requests().iter().any(|request| request.head.start.contains("/healthz")));
        assert!(!daemon.has_logged("backend is down"));
    }
    // Who answers elsewhere about the backend expects no header.
    let (origin, aside) = (Origin::hanging(), Origin::answering("well"));
    let check = format!("health_check = {{ path = \"/healthz\", address = \"{}\" }}\n", aside.address());
    let _daemon = Daemon::start(&web("", &format!("{}{check}", announcing("v2", &origin))));
    eventually("it was asked", || aside.requests().len() == 1);
}
