//! The PROXY protocol: what backends are told of a client's TLS, when that is asked for.

use std::sync::mpsc::{Receiver, channel};

use crate::support::h2::H2Client;
use crate::support::tls::{Authority, Tls};
use crate::support::{Client, DEADLINE, Daemon, Launch, Origin, backends, raw, web};

const ALL: &str = "{ version = \"v2\", tlvs = [\"alpn\", \"authority\", \"ssl\"] }";
const GET: &str = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
const OWN: &str = "tls.certificates = [{ cert = \"own.crt\", key = \"own.key\" }]\n";

/// Types and their values.
type Row = Vec<(u8, Vec<u8>)>;

fn parsed(mut row: &[u8]) -> Row {
    let mut all = Vec::new();
    while let [kind, high, low, rest @ ..] = row {
        let (value, next) = rest.split_at(usize::from(*high) << 8 | usize::from(*low));
        all.push((*kind, value.to_vec()));
        row = next;
    }
    assert!(row.is_empty(), "{row:?} is no TLV");
    all
}

/// An origin behind headers of version 2 that answers requests, and what stands behind the addresses in each header.
fn listening() -> (Origin, Receiver<Row>) {
    let (told, heard) = channel();
    let origin = Origin::scripted(move |mut connection| {
        let head = connection.take(16);
        if head.len() < 16 {
            return;
        }
        assert_eq!((&head[..12], head[13]), (&b"\r\n\r\n\0\r\nQUIT\n"[..], 0x11));
        let block = connection.take(u64::from(u16::from_be_bytes([head[14], head[15]])));
        drop(told.send(parsed(&block[12..])));
        while connection.request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        }
    });
    (origin, heard)
}

fn next(heard: &Receiver<Row>) -> Row {
    heard.recv_timeout(DEADLINE).expect("a header comes")
}

fn announcing(how: &str, origin: &Origin) -> String {
    format!("{}send_proxy_protocol = {how}\n", backends(&[origin.address()]))
}

/// A daemon that ends TLS as `a.example`.
fn ending(authority: &Authority, text: &str) -> Daemon {
    let launch = Launch::new().write("ca.pem", &authority.pem);
    authority.sign(&["a.example"]).write(launch.directory(), "own");
    launch.write("evenkeel.toml", text).start()
}

/// Of what is told of a handshake: flags and verdict, version, suite, common name.
fn ssl(row: &Row) -> (Vec<u8>, String, String, Option<String>) {
    let value = &row.iter().find(|(kind, _)| *kind == 0x20).expect("it tells of a handshake").1;
    let within = parsed(&value[5..]);
    let text = |wanted: u8| {
        let found = within.iter().find(|(kind, _)| *kind == wanted);
        found.map(|(_, value)| String::from_utf8(value.clone()).expect("it is text"))
    };
    (value[..5].to_vec(), text(0x21).expect("a version"), text(0x23).expect("a suite"), text(0x22))
}

fn alpn_and_authority(row: &Row) -> (Option<&[u8]>, Option<&[u8]>) {
    let value = |wanted: u8| row.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| &**value);
    (value(1), value(2))
}

#[test]
fn backends_are_told_what_the_clients_of_http_have_agreed_on() {
    let (authority, (origin, heard)) = (Authority::new("ca"), listening());
    let daemon = ending(&authority, &web(OWN, &announcing(ALL, &origin)));
    for (tls, version, suite) in [
        (Tls::trusting(&authority), "TLSv1.3", "TLS_AES_"),
        (Tls::old(&authority), "TLSv1.2", "ECDHE-ECDSA-AES"),
        (Tls::old(&authority).nameless().offering(&[]), "TLSv1.2", "ECDHE-ECDSA-AES"),
    ] {
        let is_plain = tls.config().alpn_protocols.is_empty();
        let mut client = tls.connect(&daemon.address("web"), "a.example").unwrap();
        for _ in 0..2 {
            assert_eq!(client.get("/").unwrap(), (200, "hello".to_owned()));
            let row = next(&heard);
            let expected = if is_plain { (None, None) } else { (Some(&b"http/1.1"[..]), Some(&b"a.example"[..])) };
            assert_eq!(alpn_and_authority(&row), expected);
            let (head, told_version, told_suite, common_name) = ssl(&row);
            assert_eq!((head, &*told_version, common_name), (vec![1, 0, 0, 0, 1], version, None));
            assert!(told_suite.starts_with(suite), "{told_suite}");
        }
    }
    // Requests that share a connection are each announced alike.
    let client = H2Client::secured(&Tls::trusting(&authority), &daemon.address("web"), "a.example");
    for _ in 0..2 {
        client.get("/").assert(200, "hello");
        let row = next(&heard);
        assert_eq!(alpn_and_authority(&row), (Some(&b"h2"[..]), Some(&b"a.example"[..])));
        assert_eq!(ssl(&row).1, "TLSv1.3");
    }
}

#[test]
fn backends_of_tcp_are_told_the_same_of_tls_that_ends_here() {
    let (authority, (origin, heard)) = (Authority::new("ca"), listening());
    let daemon = ending(&authority, &raw(OWN, &announcing(ALL, &origin)));
    let tls = Tls::trusting(&authority).offering(&[]);
    let mut client = tls.connect(&daemon.address("raw"), "a.example").unwrap();
    assert_eq!(client.get("/").unwrap(), (200, "hello".to_owned()));
    let row = next(&heard);
    assert_eq!(alpn_and_authority(&row), (None, Some(&b"a.example"[..])), "no protocol is agreed on");
    assert_eq!(ssl(&row).1, "TLSv1.3");
}

#[test]
fn a_certificate_of_the_client_is_told_with_its_name_and_remembered() {
    let (authority, (origin, heard)) = (Authority::new("ca"), listening());
    let auth = "tls.client_auth = { mode = \"optional\", ca = \"ca.pem\" }\n";
    let daemon = ending(&authority, &web(&format!("{OWN}{auth}"), &announcing("{ tlvs = [\"ssl\"] }", &origin)));
    let told = |tls: &Tls| {
        let mut client = tls.connect(&daemon.address("web"), "a.example").unwrap();
        assert_eq!(client.get("/").unwrap().0, 200);
        let row = next(&heard);
        assert_eq!(row.len(), 1, "nothing else was asked for");
        let (head, .., common_name) = ssl(&row);
        (client.is_resumed(), head, common_name)
    };
    let known = Tls::with(&authority, &authority.sign(&["me"]));
    assert_eq!(told(&known), (false, vec![7, 0, 0, 0, 0], Some("me".to_owned())));
    assert_eq!(told(&known), (true, vec![5, 0, 0, 0, 0], Some("me".to_owned())));
    assert_eq!(told(&Tls::trusting(&authority)), (false, vec![1, 0, 0, 0, 1], None));
}

#[test]
fn nothing_is_told_that_was_not_asked_for_or_is_not_known() {
    let (authority, (origin, heard)) = (Authority::new("ca"), listening());
    let daemon = ending(&authority, &web(OWN, &announcing("\"v2\"", &origin)));
    let mut client = Tls::trusting(&authority).connect(&daemon.address("web"), "a.example").unwrap();
    assert_eq!(client.get("/").unwrap().0, 200);
    assert_eq!(next(&heard), []);
    for text in [web("", &announcing(ALL, &origin)), raw("", &announcing(ALL, &origin))] {
        let daemon = Daemon::start(&text);
        let listener = if text.contains("listeners.raw") { "raw" } else { "web" };
        Client::connect(&daemon.address(listener)).get("/").assert(200, "hello");
        assert_eq!(next(&heard), []);
    }
}

#[test]
fn what_another_proxy_has_told_is_not_passed_on() {
    let (origin, heard) = listening();
    let accept = "proxy_protocol = { accept = true, trusted = [\"127.0.0.1\"] }\n";
    // ALPN, authority, a handshake, and one that anybody may have for himself.
    let tlvs = b"\x01\0\x02h2\x02\0\x01x\x20\0\x05\x07\0\0\0\0\xe0\0\x01y";
    let block = [&[192, 0, 2, 7, 198, 51, 100, 1, 220, 4, 1, 187], &tlvs[..]].concat();
    let length = u8::try_from(block.len()).unwrap();
    let header = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0"[..], &[length], &block].concat();
    for (listener, text) in
        [("web", web(accept, &announcing(ALL, &origin))), ("raw", raw(accept, &announcing(ALL, &origin)))]
    {
        let daemon = Daemon::start(&text);
        let mut client = Client::connect(&daemon.address(listener));
        client.send([&header[..], GET.as_bytes()].concat());
        client.response().assert(200, "hello");
        assert_eq!(next(&heard), []);
    }
}

#[test]
fn of_tls_that_passes_through_only_the_name_is_told() {
    let (authority, (origin, heard)) = (Authority::new("ca"), listening());
    let pool = announcing(ALL, &origin);
    let text = raw("routes = [{ sni = [\"a.example\"], pool = \"app\" }, { pool = \"app\" }]", &pool)
        .replace("\npool = \"app\"\n", "\n");
    let daemon = Daemon::start(&text);
    for (tls, expected) in
        [(Tls::trusting(&authority), vec![(2, b"a.example".to_vec())]), (Tls::trusting(&authority).nameless(), vec![])]
    {
        // Nobody shakes hands with it.
        let mut client = Client::connect(&daemon.address("raw"));
        client.send(tls.hello("a.example"));
        assert_eq!(next(&heard), expected);
    }
}
