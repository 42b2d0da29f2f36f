//! TLS towards clients: certificates by name, versions, what is demanded of clients, and files that change.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use crate::support::tls::{Authority, Tls};
use crate::support::{Client, Daemon, Launch, Origin, backends, eventually, pattern, raw, web};

/// A daemon whose listener has this certificate `own`, and more lines.
fn daemon_with(authority: &Authority, origin: &Origin, listener: &str) -> Daemon {
    let launch = Launch::new();
    authority.sign(&["a.example"]).write(launch.directory(), "own");
    let text = web(&format!("{OWN}{listener}"), &backends(&[origin.address()]));
    launch.write("evenkeel.toml", &text).start()
}

const OWN: &str = "tls.certificates = [{ cert = \"own.crt\", key = \"own.key\" }]\n";

#[test]
fn a_request_over_tls_reaches_its_backend_in_the_clear_and_says_so() {
    let (authority, origin) = (Authority::new("ca"), Origin::answering("hello"));
    let daemon = daemon_with(&authority, &origin, "");
    let mut client = Tls::trusting(&authority).connect(&daemon.address("web"), "a.example").unwrap();
    for _ in 0..3 {
        assert_eq!(client.get("/path").unwrap(), (200, "hello".to_owned()));
    }
    let request = &origin.requests()[0];
    assert_eq!(request.head.field("x-forwarded-proto"), Some("https"));
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn each_name_gets_its_certificate() {
    let (authority, origin) = (Authority::new("ca"), Origin::answering("hello"));
    let launch = Launch::new();
    let names: [(&str, &[&str]); 3] =
        [("first", &["a.example"]), ("wild", &["*.b.example"]), ("exact", &["www.b.example"])];
    for (file, names) in names {
        authority.sign(names).write(launch.directory(), file);
    }
    let list = names.map(|(file, _)| format!("{{ cert = \"{file}.crt\", key = \"{file}.key\" }}")).join(", ");
    let text = web(&format!("tls.certificates = [{list}]"), &backends(&[origin.address()]));
    let daemon = launch.write("evenkeel.toml", &text).start();
    let tls = Tls::trusting(&authority);
    for good in ["a.example", "img.b.example", "www.b.example"] {
        let mut client = tls.connect(&daemon.address("web"), good).unwrap();
        assert_eq!(client.get("/").unwrap().0, 200, "{good}");
    }
    let shown = |name: &str| tls.connect(&daemon.address("web"), name).unwrap().shown();
    assert_ne!(shown("img.b.example"), shown("www.b.example"));
    let other =
        tls.connect(&daemon.address("web"), "other.example").err().expect("it gets the first, which has not this name");
    assert!(other.to_string().contains("not valid for name"), "{other}");
}

#[test]
fn the_oldest_version_is_what_the_file_says() {
    let (authority, origin) = (Authority::new("ca"), Origin::answering("hello"));
    let daemon = daemon_with(&authority, &origin, "");
    let mut old = Tls::old(&authority).connect(&daemon.address("web"), "a.example").unwrap();
    assert_eq!(old.version(), rustls::ProtocolVersion::TLSv1_2);
    assert_eq!(old.get("/").unwrap().0, 200);
    let new = Tls::trusting(&authority).connect(&daemon.address("web"), "a.example").unwrap();
    assert_eq!(new.version(), rustls::ProtocolVersion::TLSv1_3);
    let daemon = daemon_with(&authority, &origin, "tls.min_version = \"1.3\"");
    assert!(Tls::old(&authority).connect(&daemon.address("web"), "a.example").is_err());
    assert!(Tls::trusting(&authority).connect(&daemon.address("web"), "a.example").is_ok());
}

#[test]
fn large_bodies_come_whole_through_tls_in_both_directions() {
    let body = pattern(5 * 1024 * 1024);
    let (authority, sent) = (Authority::new("ca"), body.clone());
    let origin = Origin::scripted(move |mut connection| {
        while let Some(request) = connection.request() {
            assert_eq!(request.body.len(), sent.len());
            assert!(request.body == sent);
            connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", sent.len()));
            connection.send(&sent);
        }
    });
    let daemon = daemon_with(&authority, &origin, "");
    for tls in [Tls::trusting(&authority), Tls::old(&authority)] {
        let mut client = tls.connect(&daemon.address("web"), "a.example").unwrap();
        for _ in 0..2 {
            let head = format!("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: {}\r\n\r\n", body.len());
            client.send(head).unwrap();
            client.send(&body).unwrap();
            let (_, length) = client.head().unwrap();
            assert!(client.bytes(length).unwrap() == body);
        }
    }
}

#[test]
fn a_body_that_is_cut_does_not_look_whole() {
    let origin = Origin::saying_once("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
    let authority = Authority::new("ca");
    let daemon = daemon_with(&authority, &origin, "");
    let mut client = Tls::trusting(&authority).connect(&daemon.address("web"), "a.example").unwrap();
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    client.rest().expect_err("neither a close_notify nor an orderly end");
}

#[test]
fn an_end_is_said_in_tls_too() {
    let (authority, origin) = (Authority::new("ca"), Origin::answering("hello"));
    let daemon = daemon_with(&authority, &origin, "");
    let mut client = Tls::trusting(&authority).connect(&daemon.address("web"), "a.example").unwrap();
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n").unwrap();
    assert!(client.rest().expect("with a close_notify").ends_with(b"hello"));
}

#[test]
fn a_tcp_listener_ends_tls_and_relays_what_is_in_it() {
    let (authority, origin) = (Authority::new("ca"), Origin::echoing());
    let launch = Launch::new();
    authority.sign(&["a.example"]).write(launch.directory(), "own");
    let daemon = launch.write("evenkeel.toml", &raw(OWN, &backends(&[origin.address()]))).start();
    let mut client = Tls::trusting(&authority).connect(&daemon.address("raw"), "a.example").unwrap();
    let bytes = pattern(300_000);
    for piece in bytes.chunks(70_000) {
        client.send(piece).unwrap();
        assert!(client.bytes(piece.len()).unwrap() == piece);
    }
    client.stream.conn.send_close_notify();
    client.stream.flush().unwrap();
    client.stream.sock.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(client.rest().expect("the echo ends in order").is_empty());
}

#[test]
fn clients_are_known_by_their_certificates() {
    let (authority, others, origin) = (Authority::new("ca"), Authority::new("others"), Origin::answering("hello"));
    let own = authority.sign_numbered(&["me"], 7);
    let revoked = authority.sign_numbered(&["me"], 8);
    let launch = Launch::new();
    authority.sign(&["a.example"]).write(launch.directory(), "own");
    let launch = launch.write("ca.pem", &authority.pem).write("crl.pem", &authority.revoke(&[8]));
    let auth = |mode: &str| {
        let auth = format!("tls.client_auth = {{ mode = \"{mode}\", ca = \"ca.pem\", crl = \"crl.pem\" }}");
        web(&format!("{OWN}{auth}"), &backends(&[origin.address()]))
    };
    let daemon = launch.write("evenkeel.toml", &auth("required")).start();
    let ask = |tls: Tls| tls.connect(&daemon.address("web"), "a.example").and_then(|mut client| client.get("/"));
    assert_eq!(ask(Tls::with(&authority, &own)).unwrap().0, 200);
    ask(Tls::with(&authority, &revoked)).expect_err("it is on the list");
    ask(Tls::with(&authority, &others.sign(&["me"]))).expect_err("somebody else signed it");
    ask(Tls::trusting(&authority)).expect_err("it has none");
    ask(Tls::old(&authority)).expect_err("nor has this one");
    daemon.reload(&auth("optional"));
    assert_eq!(ask(Tls::trusting(&authority)).unwrap().0, 200);
    assert_eq!(ask(Tls::with(&authority, &own)).unwrap().0, 200);
    ask(Tls::with(&authority, &others.sign(&["me"]))).expect_err("none is fine, a bad one is not");
}

#[test]
fn who_has_no_certificate_is_told_so_and_not_reset_for_what_it_has_sent_already() {
    let (authority, origin) = (Authority::new("ca"), Origin::answering("hello"));
    let own = authority.sign(&["a.example"]);
    let demand = "tls.client_auth = { ca = \"ca.pem\" }\n";
    let through = "tls.passthrough = [{ sni = [\"b.example\"], pool = \"app\" }]\n";
    for more in ["", through] {
        let text = web(&format!("{OWN}{demand}{more}"), &backends(&[origin.address()]));
        let launch = Launch::new().write("ca.pem", &authority.pem);
        own.write(launch.directory(), "own");
        let daemon = launch.write("evenkeel.toml", &text).start();
        let mut client = Tls::trusting(&authority).connect(&daemon.address("web"), "a.example").unwrap();
        daemon.wait_log("TLS handshake failed");
        // The first would be answered with a reset, and that would make the second fail.
        client.send("GET / HTTP/1.1\r\n").unwrap();
        client.send("Host: a.example\r\n\r\n").unwrap();
        let told = client.rest().expect_err("it has no certificate").to_string();
        assert!(told.contains("CertificateRequired"), "{told}");
    }
    assert_eq!(origin.accepted(), 0);
}

#[test]
fn sessions_are_taken_up_again_after_a_reload() {
    let (authority, origin) = (Authority::new("ca"), Origin::answering("hello"));
    let daemon = daemon_with(&authority, &origin, "");
    for tls in [Tls::trusting(&authority), Tls::old(&authority)] {
        let connect = || {
            let mut client = tls.connect(&daemon.address("web"), "a.example").unwrap();
            // The ticket comes with the first answer.
            assert_eq!(client.get("/").unwrap().0, 200);
            client.is_resumed()
        };
        assert!(!connect());
        assert!(connect());
        let more = format!("via = {}\n", other_via(&daemon));
        daemon.reload(&web(&format!("{OWN}{more}"), &backends(&[origin.address()])));
        assert!(connect(), "and with the same certificate");
    }
}

/// A value that differs from the one in the file.
fn other_via(daemon: &Daemon) -> bool {
    !std::fs::read_to_string(daemon.file()).expect("it is there").contains("via = true")
}

#[test]
fn a_renewed_certificate_is_used_without_a_reload_and_a_bad_one_is_not() {
    let (authority, origin) = (Authority::new("ca"), Origin::answering("hello"));
    let daemon = daemon_with(&authority, &origin, "");
    // A session that is taken up again would show what it was begun with.
    let shown = || Tls::trusting(&authority).connect(&daemon.address("web"), "a.example").unwrap().shown();
    let first = shown();
    let mut open = Tls::trusting(&authority).connect(&daemon.address("web"), "a.example").unwrap();
    authority.sign(&["a.example"]).write(daemon.directory(), "own");
    daemon.wait_log("certificates renewed");
    let second = shown();
    assert_ne!(first, second);
    assert_eq!(open.get("/").unwrap().0, 200, "who is connected stays so");
    std::fs::write(daemon.directory().join("own.crt"), "").unwrap();
    daemon.wait_log("certificates not renewed");
    daemon.wait_log("own.crt: the file is empty");
    assert_eq!(shown(), second);
    authority.sign(&["a.example"]).write(daemon.directory(), "own");
    eventually("the mended one is used", || shown() != second);
    assert_eq!(open.get("/").unwrap().0, 200);
}

#[test]
fn a_file_that_is_wrong_is_named_and_changes_nothing() {
    let (authority, origin) = (Authority::new("ca"), Origin::answering("hello"));
    let launch = Launch::new();
    let text = web(OWN, &backends(&[origin.address()]));
    let failed = launch.write("evenkeel.toml", &text).fail();
    assert_eq!(failed.status.code(), Some(78), "{failed:?}");
    assert!(failed.err.contains("own.crt: No such file") && failed.err.contains("evenkeel.toml:7"), "{}", failed.err);

    let daemon = daemon_with(&authority, &origin, "");
    let other = "tls.certificates = [{ cert = \"own.crt\", key = \"other.key\" }]\n";
    std::fs::write(daemon.directory().join("other.key"), authority.sign(&["a.example"]).key).unwrap();
    daemon.rewrite(&web(other, &backends(&[origin.address()])));
    daemon.wait_log("reload refused");
    daemon.wait_log("does not belong to the certificate");
    let mut client = Tls::trusting(&authority).connect(&daemon.address("web"), "a.example").unwrap();
    assert_eq!(client.get("/").unwrap().0, 200);
}

#[test]
fn who_does_not_shake_hands_is_left_and_hurts_nobody() {
    let (authority, origin) = (Authority::new("ca"), Origin::answering("hello"));
    let daemon = daemon_with(&authority, &origin, "timeouts = { tls_handshake = \"300ms\" }\n");
    let mut silent = TcpStream::connect(daemon.address("web")).unwrap();
    let mut half = TcpStream::connect(daemon.address("web")).unwrap();
    half.write_all(&[22, 3, 1]).unwrap();
    let mut plain = Client::connect(&daemon.address("web"));
    plain.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let (said, _) = plain.rest();
    assert!(!said.starts_with(b"HTTP"), "nothing is served in the clear");
    let mut client = Tls::trusting(&authority).connect(&daemon.address("web"), "a.example").unwrap();
    assert_eq!(client.get("/").unwrap().0, 200);
    for one in [&mut silent, &mut half] {
        one.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
        let ended = one.read(&mut [0; 64]);
        assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    }
    daemon.wait_log("TLS handshake took too long");
    assert!(origin.requests().len() == 1);
}
