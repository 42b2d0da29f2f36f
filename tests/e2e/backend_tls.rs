//! TLS towards backends: who is believed to be one, what is shown to it, sessions, and what an end means.

use crate::support::tls::{Authority, Hands};
use crate::support::{
    Client, Daemon, Ending, Launch, Origin, TELLING, backends, eventually, origin, pattern, raw, run, web,
};

/// Answers every request with this text.
fn answering(hands: &Hands, text: &'static str) -> Origin {
    Origin::secured(hands, move |mut connection| {
        while connection.request().is_some() {
            connection.send(origin::ok(text));
        }
    })
}

/// Answers one request with this, and hangs up without a word.
fn saying_once(hands: &Hands, response: &'static str) -> Origin {
    Origin::secured(hands, move |mut connection| {
        connection.request();
        connection.send(response);
    })
}

/// The lines of a pool of these that are spoken to by this `tls`.
fn pool(origins: &[&Origin], tls: &str) -> String {
    let addresses: Vec<_> = origins.iter().map(|origin| origin.address()).collect();
    format!("{}tls = {{ {tls} }}\n", backends(&addresses))
}

/// A directory with the certificate of this authority as `ca.pem`.
fn with_ca(authority: &Authority) -> Launch {
    Launch::new().write("ca.pem", &authority.pem)
}

fn before(authority: &Authority, origins: &[&Origin], tls: &str) -> Daemon {
    with_ca(authority).write("evenkeel.toml", &web("", &(pool(origins, tls) + TELLING))).start()
}

fn client_of(daemon: &Daemon) -> Client {
    Client::connect(&daemon.address("web"))
}

/// What is logged when the only backend of a pool has failed.
const FAILED: &str = "breaker stays closed pool=app";

const NAMED: &str = "ca = 'ca.pem', sni = 'app.internal'";

#[test]
fn a_backend_is_believed_by_its_name_or_by_its_address() {
    let authority = Authority::new("ca");
    let origin = answering(&Hands::showing(&authority.sign(&["app.internal", "127.0.0.1"])), "secret");
    for (tls, name) in [(NAMED, Some("app.internal")), ("ca = 'ca.pem'", None)] {
        let daemon = before(&authority, &[&origin], tls);
        let mut client = client_of(&daemon);
        for _ in 0..3 {
            client.get("/").assert(200, "secret");
        }
        let shaken = origin.shaken().pop().expect("there was one");
        assert_eq!((shaken.name.as_deref(), shaken.alpn.as_deref()), (name, Some("http/1.1")));
        assert!(!shaken.has_shown && !shaken.resumed);
    }
    assert_eq!(origin.accepted(), 2, "one connection each");
}

#[test]
fn without_ca_whom_the_system_trusts_is_believed_and_nobody_else() {
    let (authority, others) = (Authority::new("ca"), Authority::new("others"));
    let good = answering(&Hands::showing(&authority.sign(&["127.0.0.1"])), "good");
    let bad = answering(&Hands::showing(&others.sign(&["127.0.0.1"])), "bad");
    let start = |origin: &Origin| {
        let launch = with_ca(&authority);
        let system = launch.directory().join("ca.pem").display().to_string();
        let launch = launch.environment("SSL_CERT_FILE", &system).environment("SSL_CERT_DIR", "");
        launch.write("evenkeel.toml", &web("", &pool(&[origin], "")))
    };
    client_of(&start(&good).start()).get("/").assert(200, "good");
    assert_eq!(client_of(&start(&bad).start()).get("/").status(), 502);
    let failed = start(&good).write("ca.pem", "").fail();
    assert!(
        failed.err.contains("the system trusts nobody") && failed.err.contains("ca-certificates"),
        "{}",
        failed.err
    );
}

/// Each of these is not who it should be, and the log says why.
#[test]
fn who_is_not_the_backend_gets_nothing() {
    let (authority, others) = (Authority::new("ca"), Authority::new("others"));
    for (own, why) in [
        (authority.sign(&["other.internal"]), "certificate not valid for name"),
        (authority.sign_expired(&["app.internal"]), "certificate expired"),
        (others.sign(&["app.internal"]), "UnknownIssuer"),
    ] {
        let origin = answering(&Hands::showing(&own), "secret");
        let daemon = before(&authority, &[&origin], NAMED);
        assert_eq!(client_of(&daemon).get("/").status(), 502, "{why}");
        daemon.wait_log("TLS handshake with the backend failed");
        daemon.wait_log(why);
        daemon.wait_log("cause=\"tls_handshake\"");
        daemon.wait_log(FAILED);
        assert!(origin.requests().is_empty(), "{why}");
    }
}

#[test]
fn what_comes_before_the_handshake_is_no_answer() {
    let authority = Authority::new("ca");
    let eager = Origin::scripted(|mut connection| {
        connection.send(origin::ok("forged"));
        connection.ending();
    });
    let daemon = before(&authority, &[&eager], NAMED);
    let response = client_of(&daemon).get("/");
    assert_eq!(response.status(), 502);
    assert!(!response.text().contains("forged"));
    daemon.wait_log("what it says is not TLS");
    daemon.wait_log("cause=\"tls_handshake\"");
}

#[test]
fn another_backend_is_tried_as_nothing_was_sent() {
    let authority = Authority::new("ca");
    let good = answering(&Hands::showing(&authority.sign(&["app.internal"])), "good");
    let bad = answering(&Hands::showing(&authority.sign(&["other.internal"])), "bad");
    let daemon = before(&authority, &[&good, &bad], NAMED);
    for _ in 0..4 {
        client_of(&daemon).post("/", "once").assert(200, "good");
    }
    daemon.wait_log("cause=\"tls_handshake\"");
    assert_eq!(good.requests().len(), 4);
}

#[test]
fn a_handshake_has_the_time_of_the_connect() {
    let authority = Authority::new("ca");
    let silent = Origin::scripted(|mut connection| {
        connection.ending();
    });
    let timeouts = "timeouts = { connect = '300ms' }\n";
    let text = web("", &(pool(&[&silent], NAMED) + timeouts + TELLING));
    let daemon = with_ca(&authority).write("evenkeel.toml", &text).start();
    assert_eq!(client_of(&daemon).get("/").status(), 504);
    daemon.wait_log("cause=\"connect_timeout\"");
}

#[test]
fn verification_can_be_left_out_which_is_said_loudly() {
    let (authority, others) = (Authority::new("ca"), Authority::new("others"));
    for hands in [Hands::showing(&others.sign_expired(&["x"])), Hands::old(&others.sign(&["x"]))] {
        let origin = answering(&hands, "whoever");
        let daemon = before(&authority, &[&origin], "insecure_skip_verify = true");
        client_of(&daemon).get("/").assert(200, "whoever");
        daemon.wait_log("INSECURE: the pool `app` takes any certificate");
    }
    let launch = with_ca(&authority);
    let file = launch.directory().join("evenkeel.toml").display().to_string();
    let text = web("", "backends = ['127.0.0.1:9']\ntls = { insecure_skip_verify = true }");
    let _kept = launch.write("evenkeel.toml", &text);
    let checked = run(&["check", "--config", &file]);
    assert!(checked.status.success() && checked.err.contains("INSECURE: the pool `app`"), "{checked:?}");
}

#[test]
fn a_backend_that_demands_a_certificate_is_shown_one() {
    let authority = Authority::new("ca");
    let origin = answering(&Hands::demanding(&authority.sign(&["app.internal"]), &authority), "welcome");
    let launch = with_ca(&authority);
    authority.sign(&["me"]).write(launch.directory(), "me");
    let text = web("", &pool(&[&origin], &format!("{NAMED}, cert = 'me.crt', key = 'me.key'")));
    let daemon = launch.write("evenkeel.toml", &text).start();
    client_of(&daemon).get("/").assert(200, "welcome");
    assert!(origin.shaken()[0].has_shown);
    daemon.reload(&web("", &pool(&[&origin], NAMED)));
    assert_eq!(client_of(&daemon).get("/").status(), 502, "other settings, other connections");
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn what_is_wrong_with_a_file_is_said_before_anything_is_served() {
    let (authority, nobody) = (Authority::new("ca"), Origin::answering("never"));
    for (tls, said) in [
        ("ca = 'gone.pem'", "gone.pem: No such file"),
        ("ca = 'empty.pem'", "empty.pem: the file is empty"),
        ("ca = 'me.key'", "me.key: there is no certificate in it"),
        ("cert = 'me.crt', key = 'other.key', ca = 'ca.pem'", "does not belong to the certificate"),
    ] {
        let launch = with_ca(&authority).write("empty.pem", "");
        authority.sign(&["me"]).write(launch.directory(), "me");
        authority.sign(&["me"]).write(launch.directory(), "other");
        let failed = launch.write("evenkeel.toml", &web("", &pool(&[&nobody], tls))).fail();
        assert_eq!(failed.status.code(), Some(78), "{failed:?}");
        assert!(failed.err.contains(said) && failed.err.contains("evenkeel.toml:"), "{}", failed.err);
    }
}

#[test]
fn sessions_are_taken_up_again_by_each_backend_and_over_reloads() {
    let authority = Authority::new("ca");
    let own = authority.sign(&["app.internal"]);
    for make in [Hands::showing, Hands::old] {
        let once = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
        let origins = [saying_once(&make(&own), once), saying_once(&make(&own), once)];
        let [one, two] = &origins;
        let daemon = before(&authority, &[one, two], NAMED);
        let ask = || {
            for _ in 0..2 {
                client_of(&daemon).get("/").assert(200, "ok");
            }
        };
        let resumed = |origin: &Origin| origin.shaken().iter().map(|shaken| shaken.resumed).collect::<Vec<_>>();
        ask();
        ask();
        let more = "timeouts = { response_header = '7s' }\n";
        daemon.reload(&web("", &(pool(&[one, two], NAMED) + more + TELLING)));
        ask();
        for origin in &origins {
            assert_eq!(resumed(origin), [false, true, true]);
        }
        daemon.reload(&web("", &(pool(&[one, two], "insecure_skip_verify = true, sni = 'app.internal'") + TELLING)));
        ask();
        for origin in &origins {
            assert_eq!(resumed(origin).last(), Some(&false), "what others have verified counts for nothing");
        }
    }
}

#[test]
fn connections_stay_when_a_reload_leaves_the_settings_and_go_when_it_does_not() {
    let authority = Authority::new("ca");
    let origin = answering(&Hands::showing(&authority.sign(&["app.internal"])), "hello");
    let daemon = before(&authority, &[&origin], NAMED);
    let mut client = client_of(&daemon);
    client.get("/").assert(200, "hello");
    let more = "timeouts = { response_header = '7s' }\n";
    daemon.reload(&web("", &(pool(&[&origin], NAMED) + more + TELLING)));
    client.get("/").assert(200, "hello");
    assert_eq!(origin.accepted(), 1);
    daemon.reload(&web("", &(pool(&[&origin], &format!("{NAMED}, min_version = '1.3'")) + TELLING)));
    client.get("/").assert(200, "hello");
    assert_eq!(origin.accepted(), 2);
    daemon.reload(&web("", &(backends(&[origin.address()]) + TELLING)));
    assert_eq!(client.get("/").status(), 502, "in the clear it is not understood");
}

#[test]
fn a_renewed_authority_is_believed_without_a_reload() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let origin = answering(&Hands::showing(&new.sign(&["app.internal"])), "hello");
    let daemon = before(&old, &[&origin], NAMED);
    assert_eq!(client_of(&daemon).get("/").status(), 502);
    std::fs::write(daemon.directory().join("ca.pem"), "").unwrap();
    daemon.wait_log("ca.pem: the file is empty");
    std::fs::write(daemon.directory().join("ca.pem"), &new.pem).unwrap();
    daemon.wait_log("certificates renewed");
    client_of(&daemon).get("/").assert(200, "hello");
}

#[test]
fn what_belongs_to_tls_itself_leaves_an_idle_connection_usable() {
    let authority = Authority::new("ca");
    let origin = Origin::secured(&Hands::showing(&authority.sign(&["app.internal"])), |mut connection| {
        while connection.request().is_some() {
            connection.send(origin::ok("hello"));
            connection.change_keys();
        }
    });
    let daemon = before(&authority, &[&origin], NAMED);
    for _ in 0..20 {
        client_of(&daemon).get("/").assert(200, "hello");
    }
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn an_idle_connection_that_was_ended_or_has_said_something_is_not_used_again() {
    let authority = Authority::new("ca");
    let hands = Hands::showing(&authority.sign(&["app.internal"]));
    let ended = Origin::secured(&hands, |mut connection| {
        connection.request();
        connection.send(origin::ok("hello"));
        connection.say_end();
        connection.ending();
    });
    let talking = Origin::secured(&hands, |mut connection| {
        connection.request();
        connection.send(origin::ok("hello"));
        connection.send(origin::ok("forged"));
        connection.ending();
    });
    for origin in [&ended, &talking] {
        let daemon = before(&authority, &[origin], NAMED);
        for _ in 0..5 {
            client_of(&daemon).get("/").assert(200, "hello");
        }
        assert!(!daemon.has_logged(FAILED));
        assert_eq!(origin.requests().len(), 5);
        assert_eq!(origin.accepted(), 5);
    }
}

#[test]
fn a_body_up_to_the_end_is_whole_only_if_the_end_was_said() {
    let authority = Authority::new("ca");
    let hands = Hands::showing(&authority.sign(&["app.internal"]));
    let said = Origin::secured(&hands, |mut connection| {
        connection.request();
        connection.send("HTTP/1.1 200 OK\r\n\r\nwhole");
        connection.say_end();
    });
    let cut = saying_once(&hands, "HTTP/1.1 200 OK\r\n\r\nhalf");
    let counted = saying_once(&hands, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole");
    for (origin, is_whole) in [(&said, true), (&cut, false), (&counted, true)] {
        let daemon = before(&authority, &[origin], NAMED);
        let response = client_of(&daemon).get("/");
        assert_eq!((response.status(), response.looks_complete()), (200, is_whole), "{response:?}");
        daemon.wait_log(if is_whole { "cause=\"completed\"" } else { "cause=\"backend_cut\"" });
    }
}

#[test]
fn large_bodies_come_whole_in_both_directions() {
    let body = pattern(5 * 1024 * 1024);
    let (authority, sent) = (Authority::new("ca"), body.clone());
    let own = authority.sign(&["app.internal"]);
    for hands in [Hands::showing(&own), Hands::old(&own)] {
        let sent = sent.clone();
        let origin = Origin::secured(&hands, move |mut connection| {
            while let Some(request) = connection.request() {
                assert!(request.body == sent);
                connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", sent.len()));
                connection.send(&sent);
            }
        });
        let daemon = before(&authority, &[&origin], NAMED);
        let mut client = client_of(&daemon);
        for _ in 0..2 {
            client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len()));
            client.send(&body);
            let response = client.response();
            assert!(response.status() == 200 && response.body == body);
        }
        assert_eq!(origin.accepted(), 1);
    }
}

#[test]
fn a_tcp_listener_relays_over_tls() {
    let authority = Authority::new("ca");
    let hands = Hands::showing(&authority.sign(&["app.internal"]));
    let orderly = Origin::secured(&hands, |mut connection| {
        connection.echo();
        connection.say_end();
    });
    let rude = Origin::secured(&hands, |mut connection| drop(connection.take(5)));
    let start = |origin: &Origin| {
        let text = raw("", &(pool(&[origin], NAMED) + TELLING));
        with_ca(&authority).write("evenkeel.toml", &text).start()
    };
    let daemon = start(&orderly);
    let mut client = Client::connect(&daemon.address("raw"));
    client.expect_echo("hello");
    let bytes = pattern(300_000);
    for piece in bytes.chunks(70_000) {
        client.send(piece);
        assert!(client.bytes(piece.len()) == piece);
    }
    client.finish_writing();
    assert_eq!(client.ending(), Ending::Closed);
    assert_eq!(orderly.shaken()[0].alpn, None, "who knows what is spoken");
    let daemon = start(&rude);
    let mut client = Client::connect(&daemon.address("raw"));
    client.send("hello");
    assert_eq!(client.ending(), Ending::Reset, "it may have been cut");
}

#[test]
fn a_tcp_listener_relays_nothing_to_who_is_not_the_backend() {
    let authority = Authority::new("ca");
    let origin = Origin::secured(&Hands::showing(&authority.sign(&["other.internal"])), |mut connection| {
        connection.echo();
    });
    let daemon = with_ca(&authority).write("evenkeel.toml", &raw("", &(pool(&[&origin], NAMED) + TELLING))).start();
    let mut client = Client::connect(&daemon.address("raw"));
    client.send("hello");
    assert!(client.rest().0.is_empty());
    daemon.wait_log("certificate not valid for name");
    daemon.wait_log(FAILED);
}

#[test]
fn who_the_client_is_goes_before_the_handshake() {
    let (authority, seen) = (Authority::new("ca"), std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::new(seen);
    let seeing = seen.clone();
    let origin = Origin::scripted(move |mut connection| {
        let mut bytes = connection.some();
        while !bytes.is_empty() && bytes.iter().position(|byte| *byte == b'\n').is_none_or(|at| bytes.len() < at + 2) {
            bytes.extend(connection.some());
        }
        seeing.lock().unwrap().push(bytes);
    });
    let text = web("", &(pool(&[&origin], NAMED) + "send_proxy_protocol = 'v1'\n"));
    let daemon = with_ca(&authority).write("evenkeel.toml", &text).start();
    assert_eq!(client_of(&daemon).get("/").status(), 502);
    let first = seen.lock().unwrap().first().cloned().expect("it was connected to");
    let line = first.iter().position(|byte| *byte == b'\n').expect("a line comes first");
    assert!(first.starts_with(b"PROXY TCP4 127.0.0.1 127.0.0.1 "));
    assert_eq!(first[line + 1], 22, "then the handshake");
}

#[test]
fn health_checks_ask_over_tls_and_find_a_bad_certificate() {
    let (authority, others) = (Authority::new("ca"), Authority::new("others"));
    let good = answering(&Hands::showing(&authority.sign(&["app.internal"])), "good");
    let bad = answering(&Hands::showing(&others.sign(&["app.internal"])), "bad");
    for check in ["type = 'tcp'", "path = '/healthz'"] {
        let pace = "interval = '1s', timeout = '1s', fast_interval = '50ms', down_interval = '50ms'";
        let check = format!("health_check = {{ {check}, {pace}, initial = 'down', rise = 1 }}\nfail_open = false\n");
        let daemon =
            with_ca(&authority).write("evenkeel.toml", &web("", &(pool(&[&good, &bad], NAMED) + &check))).start();
        daemon.wait_log(&format!("backend is up pool=app backend={} ", good.address()));
        daemon.wait_log("cause=TLS handshake failed: its certificate is signed by nobody who is trusted");
        for _ in 0..4 {
            client_of(&daemon).get("/").assert(200, "good");
        }
        assert!(!daemon.has_logged(&format!("backend is up pool=app backend={} ", bad.address())));
    }
    eventually("probes take up their sessions", || good.shaken().iter().any(|shaken| shaken.resumed));
    assert!(bad.requests().is_empty());
}
