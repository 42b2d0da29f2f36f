//! What is told of certificates, and what is demanded of clients by the name they ask for.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::tls::{Authority, Tls};
use crate::support::{Client, DEADLINE, Daemon, Finished, Launch, Origin, backends, run, web};

/// A listener `web` with these certificates; each is `NAME.crt` and `NAME.key`, with more keys.
fn listener(certificates: &[(&str, &str)], more: &str) -> String {
    let one = |(name, keys): &(&str, &str)| format!("{{ cert = \"{name}.crt\", key = \"{name}.key\"{keys} }}");
    let list: Vec<_> = certificates.iter().map(one).collect();
    format!("tls.certificates = [{}]\n{more}", list.join(", "))
}

/// One of the commands, about the file in this directory.
#[track_caller]
fn told(command: &str, folder: &Path, more: &[&str]) -> Finished {
    let file = folder.join("evenkeel.toml");
    run(&[&[command, "--config", file.to_str().expect("temporary paths are plain")], more].concat())
}

#[test]
fn certificates_are_listed_with_what_is_wrong() {
    let (authority, launch) = (Authority::new("the ca"), Launch::new());
    authority.sign(&["a.example", "*.a.example"]).write(launch.directory(), "good");
    authority.sign_until(&["old.example"], 1, 2001).write(launch.directory(), "old");
    let routes = "[[listeners.web.routes]]\nhosts = [\"a.example\", \"x.a.example\", \"x.y.a.example\", \"*.b.example\", \"*.a.example\"]\n\
                  pool = \"app\"";
    let both = listener(&[("good", ""), ("old", "")], routes);
    let launch = launch.write("evenkeel.toml", &web(&both, &backends(&["127.0.0.1:9"])));
    let listed = told("certs", launch.directory(), &[]);
    assert_eq!(listed.status.code(), Some(1), "{listed:?}");
    for part in [
        "listener web\n",
        "/good.crt\n",
        "names      a.example, *.a.example\n",
        "issuer     CN=the ca",
        "to 2100-01-01, ",
        "ECDSA P-256, chain of 2 certificates",
        "WARNING    expired",
        "no certificate for:\n               x.y.a.example, *.b.example\n",
        "3 things to look after",
    ] {
        assert!(listed.out.contains(part), "no {part:?} in {}", listed.out);
    }
    let json = told("certs", launch.directory(), &["--json"]);
    assert_eq!(json.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_str(&json.out).expect("it is JSON");
    let old = &json["listeners"][0]["certificates"][1];
    assert_eq!((&old["standing"], &old["not_after"]), (&"expired".into(), &"2001-01-01T00:00:00Z".into()));
    assert_eq!(json["listeners"][0]["hosts_without_certificate"][1], "*.b.example");

    let launch = launch.write("evenkeel.toml", &web(&listener(&[("good", "")], ""), &backends(&["127.0.0.1:9"])));
    let good = told("certs", launch.directory(), &[]);
    assert!(good.status.success() && good.out.ends_with("all is well"), "{good:?}");
    std::fs::write(launch.directory().join("good.key"), "").expect("it is ours");
    let bad = told("certs", launch.directory(), &[]);
    assert_eq!(bad.status.code(), Some(78), "{bad:?}");
    assert!(bad.out.is_empty() && bad.err.contains("good.key: the file is empty"), "{bad:?}");
}

#[test]
fn an_expired_certificate_is_used_and_told_of() {
    let (authority, origin, launch) = (Authority::new("ca"), Origin::answering("hello"), Launch::new());
    authority.sign_until(&["a.example"], 1, 2001).write(launch.directory(), "own");
    let text = web(&listener(&[("own", "")], ""), &backends(&[origin.address()]));
    let launch = launch.write("evenkeel.toml", &text);
    let checked = told("check", launch.directory(), &[]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    let warning = "own.crt: the certificate for a.example has expired on 2001-01-01";
    assert!(checked.err.contains("warning") && checked.err.contains(warning), "{checked:?}");

    let daemon = launch.start();
    let times = |daemon: &Daemon| daemon.times_logged("certificate has expired");
    assert_eq!(times(&daemon), 1);
    let line = daemon.log().into_iter().find(|line| line.contains("certificate has expired")).expect("it is logged");
    for part in ["WARN", "of=listener web", "own.crt", "name=a.example", "date=2001-01-01", "days=-"] {
        assert!(line.contains(part), "no {part:?} in {line}");
    }
    Tls::trusting(&authority).connect(&daemon.address("web"), "a.example").err().expect("clients decide");
    let mut careless = Tls::trusting_anybody().connect(&daemon.address("web"), "a.example").expect("it is used");
    assert_eq!(careless.get("/").expect("an answer").0, 200);
    daemon.signal(Signal::HUP);
    daemon.wait_log("reload unchanged");
    crate::support::eventually("it is told of again", || times(&daemon) == 2);
    // One that is renewed by another that has ended is told of, and a good one is not.
    authority.sign_until(&["a.example"], 2, 2002).write(daemon.directory(), "own");
    crate::support::eventually("and so is the next", || daemon.has_logged("date=2002-01-01"));
    let before = times(&daemon);
    authority.sign(&["a.example"]).write(daemon.directory(), "own");
    crate::support::eventually("the good one is used", || {
        Tls::trusting(&authority).connect(&daemon.address("web"), "a.example").is_ok()
    });
    assert_eq!(times(&daemon), before);
}

/// Certificates for `www.example`, and for `admin.example` with a demand of its own.
fn of_two(authority: &Authority, origin: &Origin, auth: &str) -> Launch {
    let launch = Launch::new();
    authority.sign(&["www.example"]).write(launch.directory(), "www");
    authority.sign(&["admin.example"]).write(launch.directory(), "admin");
    let auth = format!(", client_auth = {{ ca = \"ca.pem\"{auth} }}");
    let text = web(&listener(&[("www", ""), ("admin", &auth)], ""), &backends(&[origin.address()]));
    launch.write("ca.pem", &authority.pem).write("evenkeel.toml", &text)
}

#[test]
fn a_request_for_a_host_with_other_demands_is_misdirected() {
    let (authority, origin) = (Authority::new("ca"), Origin::answering("hello"));
    let daemon = of_two(&authority, &origin, "").start();
    let (stranger, known) = (Tls::trusting(&authority), Tls::with(&authority, &authority.sign(&["me"])));
    let connect = |tls: &Tls, name: &str| tls.connect(&daemon.address("web"), name);
    for (tls, name, right, wrong) in [
        (&stranger, "www.example", "www.example", "admin.example"),
        (&known, "www.example", "WWW.example:443", "Admin.example."),
        (&known, "admin.example", "admin.example", "www.example"),
    ] {
        let mut client = connect(tls, name).expect("a handshake");
        for (host, status) in [(right, 200), (wrong, 421), (right, 200)] {
            let answer = client.ask("/", &format!("Host: {host}\r\n")).expect("the connection stays");
            assert_eq!(answer.0, status, "{name}: {host}");
        }
        let absolute = format!("http://{wrong}/");
        assert_eq!(client.ask(&absolute, &format!("Host: {right}\r\n")).expect("an answer").0, 421, "{name}");
    }
    let refused = |mut client: crate::support::tls::TlsClient| client.ask("/", "Host: admin.example\r\n").is_err();
    assert!(connect(&stranger, "admin.example").map_or(true, refused), "it has no certificate");
    let mut nameless = stranger.nameless().connect(&daemon.address("web"), "www.example").expect("a handshake");
    assert_eq!(nameless.ask("/", "Host: www.example\r\n").expect("as the first certificate").0, 200);
    assert_eq!(nameless.ask("/", "Host: admin.example\r\n").expect("an answer").0, 421);
    assert_eq!(origin.requests().len(), 7);
}

#[test]
fn new_demands_hold_for_connections_that_are_open() {
    let (authority, origin) = (Authority::new("ca"), Origin::answering("hello"));
    let daemon = of_two(&authority, &origin, "").start();
    let connect = || Tls::trusting(&authority).connect(&daemon.address("web"), "www.example").expect("a handshake");
    let (mut one, mut other) = (connect(), connect());
    assert_eq!(one.ask("/", "Host: www.example\r\n").expect("an answer").0, 200);
    let all = "tls.client_auth = { ca = \"ca.pem\" }";
    daemon.reload(&web(&listener(&[("www", ""), ("admin", "")], all), &backends(&[origin.address()])));
    for client in [&mut one, &mut other] {
        client.send("GET / HTTP/1.1\r\nHost: www.example\r\n\r\n").expect("it is open");
        let answer = String::from_utf8(client.rest().expect("it is closed in order")).expect("it is text");
        assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
        assert!(answer.contains("Connection: close\r\n"), "{answer}");
    }
}

/// What is answered to these hosts one after the other, on a connection of HTTP/2 that was made for `name`. Before the last
/// there may be a reload, after which the connection has to come to its end.
fn asked_by_http_2(daemon: &Daemon, tls: &Tls, name: &'static str, hosts: &[&str], reload: Option<&str>) -> Vec<u16> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(daemon.address("web")).await.expect("it listens");
        let name = rustls::pki_types::ServerName::try_from(name).expect("it is one");
        let secured = tokio_rustls::TlsConnector::from(tls.offering(&["h2"]).config()).connect(name, socket).await;
        let (mut client, connection) = h2::client::handshake(secured.expect("a handshake")).await.expect("HTTP/2");
        let connection = tokio::spawn(connection);
        let mut statuses = Vec::new();
        for (at, host) in hosts.iter().enumerate() {
            if let Some(text) = reload.filter(|_| at + 1 == hosts.len()) {
                daemon.reload(text);
            }
            client = client.ready().await.expect("it takes requests");
            let request = http::Request::get(format!("https://{host}/")).body(()).expect("a request");
            let (response, _) = client.send_request(request, true).expect("it is sent");
            let response = tokio::time::timeout(DEADLINE, response).await.expect("in time").expect("an answer");
            statuses.push(response.status().as_u16());
        }
        if reload.is_some() {
            let ended = tokio::time::timeout(DEADLINE, connection).await.expect("it is told that it ends");
            // What the client says last may find nobody there any more.
            let _ = ended.expect("no panic");
        }
        drop(client);
        statuses
    })
}

#[test]
fn streams_of_one_connection_are_misdirected_one_by_one() {
    let (authority, origin) = (Authority::new("ca"), Origin::answering("hello"));
    let daemon = of_two(&authority, &origin, "").start();
    let (stranger, known) = (Tls::trusting(&authority), Tls::with(&authority, &authority.sign(&["me"])));
    let hosts = ["www.example", "admin.example", "www.example"];
    assert_eq!(asked_by_http_2(&daemon, &stranger, "www.example", &hosts, None), [200, 421, 200]);
    assert_eq!(asked_by_http_2(&daemon, &known, "admin.example", &hosts, None), [421, 200, 421]);
    let all = listener(&[("www", ""), ("admin", "")], "tls.client_auth = { ca = \"ca.pem\" }");
    let text = web(&all, &backends(&[origin.address()]));
    assert_eq!(asked_by_http_2(&daemon, &stranger, "www.example", &hosts, Some(&text)), [200, 421, 421]);
}

const FACTS: &str = ", forward = [\"subject\", \"san\", \"serial\", \"fingerprint\", \"cert\"]";

/// What a client might claim.
const CLAIMS: &str = "X-Client-Cert-Subject: CN=root\r\nx-client-cert-verify: SUCCESS\r\nX_Client_Cert_Subject: CN=root\r\n\
                      Client-Cert: :AA==:\r\nClient-Cert-Chain: :AA==:\r\nX-Client-Certain: 1\r\nX-Other: kept\r\n";

const NAMES: [&str; 8] = [
    "x-client-cert-subject",
    "x-client-cert-san",
    "x-client-cert-serial",
    "x-client-cert-fingerprint",
    "client-cert",
    "client-cert-chain",
    "x-client-cert-verify",
    "x_client_cert_subject",
];

#[test]
fn backends_are_told_of_a_clients_certificate_when_that_is_asked_for() {
    let (authority, origin) = (Authority::new("ca"), Origin::answering("hello"));
    let daemon = of_two(&authority, &origin, FACTS).start();
    let known = Tls::with(&authority, &authority.sign_numbered(&["me.example"], 0xab12));
    for is_resumed in [false, true] {
        let mut client = known.connect(&daemon.address("web"), "admin.example").expect("a handshake");
        assert_eq!(client.is_resumed(), is_resumed);
        for _ in 0..2 {
            assert_eq!(client.ask("/", &format!("Host: admin.example\r\n{CLAIMS}")).expect("an answer").0, 200);
        }
    }
    let requests = origin.requests();
    for request in &requests {
        let field = |name: &str| request.head.field(name);
        assert_eq!(field("x-client-cert-subject"), Some("CN=me.example"));
        assert_eq!(field("x-client-cert-san"), Some("DNS:me.example"));
        assert_eq!(field("x-client-cert-serial"), Some("ab12"));
        assert_eq!(field("x-client-cert-fingerprint").map(str::len), Some(64));
        assert!(field("client-cert").is_some_and(|cert| cert.starts_with(":MII") && cert.ends_with(':')));
        assert_eq!((field("x-other"), field("x-client-certain")), (Some("kept"), Some("1")));
        assert!(NAMES[5..].iter().all(|name| field(name).is_none()), "{request:?}");
    }
    assert_eq!(requests.len(), 4);
}

#[test]
fn what_a_client_says_of_its_certificate_itself_never_passes() {
    let (authority, origin) = (Authority::new("ca"), Origin::answering("hello"));
    let nothing_asked = of_two(&authority, &origin, "").start();
    let optional = of_two(&authority, &origin, &format!("{FACTS}, mode = \"optional\"")).start();
    let plain = Daemon::start(&web("", &backends(&[origin.address()])));
    let trusting = "trusted_proxies = [\"127.0.0.1\"]\n";
    let behind = Daemon::start(&web(trusting, &backends(&[origin.address()])));
    let ask = |daemon: &Daemon, name: &str| {
        let mut client = Tls::trusting(&authority).connect(&daemon.address("web"), name).expect("a handshake");
        assert_eq!(client.ask("/", &format!("Host: {name}\r\n{CLAIMS}")).expect("an answer").0, 200);
    };
    ask(&nothing_asked, "www.example");
    ask(&optional, "www.example");
    ask(&optional, "admin.example");
    let said = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Other\r\n{CLAIMS}\r\n");
    for daemon in [&plain, &behind] {
        let mut client = Client::connect(&daemon.address("web"));
        client.send(&said);
        client.response().assert(200, "hello");
    }
    let requests = origin.requests();
    let (trusted, others) = requests.split_last().expect("there are some");
    assert_eq!(others.len(), 4);
    for request in others {
        assert!(NAMES.iter().all(|name| request.head.field(name).is_none()), "{request:?}");
    }
    assert_eq!(trusted.head.field("x-client-cert-subject"), Some("CN=root"), "a trusted proxy has verified that");
    assert_eq!(trusted.head.field("x_client_cert_subject"), None);
}

#[test]
fn handshakes_beyond_the_limit_wait() {
    let (authority, origin, launch) = (Authority::new("ca"), Origin::answering("hello"), Launch::new());
    authority.sign(&["a.example"]).write(launch.directory(), "own");
    let text = |limit: &str| {
        let limits = format!("limits = {{ handshakes = {limit} }}\n");
        web(&listener(&[("own", "")], &limits), &backends(&[origin.address()]))
    };
    let daemon = launch.write("evenkeel.toml", &text("1")).start();
    let connect = |bytes: &[u8]| {
        let mut socket = TcpStream::connect(daemon.address("web")).expect("it listens");
        socket.write_all(bytes).expect("it takes some bytes");
        socket.set_read_timeout(Some(Duration::from_millis(300))).expect("not zero");
        socket
    };
    let hello = Tls::trusting(&authority).hello("a.example");
    let half = connect(&hello[..7]);
    let mut waiting = connect(&hello);
    let nothing = waiting.read(&mut [0; 1]).expect_err("it has no place");
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    daemon.reload(&text("2"));
    let mut other = Tls::trusting(&authority).connect(&daemon.address("web"), "a.example").expect("there is room");
    assert_eq!(other.get("/").expect("an answer").0, 200);
    drop(half);
    waiting.set_read_timeout(Some(DEADLINE)).expect("not zero");
    assert_eq!(waiting.read(&mut [0; 1]).expect("it has its turn"), 1);
}
