//! TLS that passes through: to which pool by what its client asks for, however that comes in, and beside TLS that ends here.

use std::io::{Read, Write};
use std::net::TcpStream;

use rustls::{ServerConnection, StreamOwned};

use crate::support::tls::{Authority, Tls, TlsClient, server};
use crate::support::{Client, Daemon, Ending, Launch, Origin, Unlistened, eventually, pattern};

/// What a client is told that asks for a name which nobody has.
const UNRECOGNIZED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];

/// An origin that ends TLS itself with a certificate for these names, behind as many bytes as are not TLS; it says who it is,
/// and what stood in these bytes, and then echoes.
fn secured_behind(skipped: usize, authority: &Authority, names: &[&str], text: &'static str) -> Origin {
    let config = server(&authority.sign(names));
    Origin::scripted(move |connection| {
        let mut wire = connection.wire();
        let mut header = vec![0; skipped];
        if wire.read_exact(&mut header).is_err() {
            return;
        }
        let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).expect("it is sound"), wire);
        let mut bytes = [text.as_bytes(), &header].concat();
        while stream.write_all(&bytes).and_then(|()| stream.flush()).is_ok() {
            bytes.resize(64 * 1024, 0);
            let count = stream.read(&mut bytes).unwrap_or(0);
            bytes.truncate(count);
            if count == 0 {
                return;
            }
        }
    })
}

fn secured(authority: &Authority, names: &[&str], text: &'static str) -> Origin {
    secured_behind(0, authority, names, text)
}

/// A tcp listener `raw` with these lines, and pools of one backend each.
fn by_name(listener: &str, pools: &[(&str, &Origin)]) -> String {
    let pools: String =
        pools.iter().map(|(name, origin)| format!("[pools.{name}]\nbackends = [{:?}]\n", origin.address())).collect();
    format!("[runtime]\nworkers = 1\n[listeners.raw]\nprotocol = \"tcp\"\nbind = \"127.0.0.1:0\"\n{listener}\n{pools}")
}

#[track_caller]
fn expect_echo(client: &mut TlsClient, text: &str) {
    client.send(text).expect("it is taken");
    assert_eq!(client.bytes(text.len()).expect("it comes"), text.as_bytes());
}

/// Asserts that `tls` asking for `name` comes to the origin that says this.
#[track_caller]
fn reaches(tls: &Tls, daemon: &Daemon, name: &str, text: &str) -> TlsClient {
    let mut client = tls.connect(&daemon.address("raw"), name).expect("they shake hands");
    assert_eq!(client.bytes(text.len()).expect("it comes"), text.as_bytes());
    expect_echo(&mut client, "and back");
    client
}

#[test]
fn each_name_comes_to_its_pool_and_the_backend_has_the_certificate() {
    let authority = Authority::new("ca");
    let a = secured(&authority, &["a.example", "nobody.else"], "one");
    let wild = secured(&authority, &["*.a.example"], "wild");
    let exact = secured(&authority, &["www.a.example", "b.a.example"], "exact");
    let routes = "routes = [{ sni = ['*.a.example'], pool = 'wild' }, { sni = ['a.example'], pool = 'a' },
        { sni = ['www.A.example.'], pool = 'exact' }]";
    let daemon = Daemon::start(&by_name(routes, &[("a", &a), ("wild", &wild), ("exact", &exact)]));
    for tls in [Tls::trusting(&authority), Tls::old(&authority)] {
        reaches(&tls, &daemon, "a.example", "one");
        reaches(&tls, &daemon, "img.a.example", "wild");
        reaches(&tls, &daemon, "WWW.a.example", "exact");
        for stranger in ["nobody.else", "x.y.a.example"] {
            let refused = tls.connect(&daemon.address("raw"), stranger).err().expect("no route has it");
            assert!(refused.to_string().contains("UnrecognisedName"), "{refused}");
        }
    }
    daemon.wait_log("no route for a TLS connection");
    let mut client = Client::connect(&daemon.address("raw"));
    client.send(Tls::trusting(&authority).hello("nobody.else"));
    assert_eq!(client.rest(), (UNRECOGNIZED_NAME.to_vec(), Ending::Closed));
    assert_eq!((a.accepted(), wild.accepted(), exact.accepted()), (2, 2, 2));
}

#[test]
fn protocols_decide_and_who_asks_for_no_name_gets_what_is_for_all() {
    let authority = Authority::new("ca");
    let [plain, h2, rest] = ["plain", "h2", "rest"].map(|text| secured(&authority, &["a.example", "b.example"], text));
    let routes = "routes = [{ sni = ['a.example'], pool = 'plain' },
        { sni = ['a.example'], alpn = ['h3', 'h2'], pool = 'h2' }]";
    let pools = [("plain", &plain), ("h2", &h2), ("rest", &rest)];
    let daemon = Daemon::start(&by_name(&format!("pool = 'rest'\n{routes}"), &pools));
    let tls = Tls::trusting(&authority);
    let both = tls.offering(&["http/1.1", "h2"]);
    reaches(&both, &daemon, "a.example", "h2");
    reaches(&tls, &daemon, "a.example", "plain");
    reaches(&tls.offering(&[]), &daemon, "a.example", "plain");
    reaches(&both, &daemon, "b.example", "rest");
    reaches(&both.nameless(), &daemon, "a.example", "rest");

    daemon.reload(&by_name(routes, &pools[..2]));
    tls.nameless().connect(&daemon.address("raw"), "a.example").err().expect("nothing is for all any more");
}

#[test]
fn a_hello_may_come_in_any_pieces_and_records() {
    let authority = Authority::new("ca");
    let origin = secured(&authority, &["a.example"], "one");
    let daemon = Daemon::start(&by_name("routes = [{ sni = ['a.example'], pool = 'a' }]", &[("a", &origin)]));
    let tls = Tls::trusting(&authority);
    let in_records = |hello: &[u8], size: usize| {
        let record = |part: &[u8]| [&[22, 3, 1][..], &u16::try_from(part.len()).unwrap().to_be_bytes(), part].concat();
        hello[5..].chunks(size).flat_map(record).collect::<Vec<u8>>()
    };
    let byte_by_byte =
        |socket: &mut TcpStream, bytes: &[u8]| bytes.chunks(1).try_for_each(|byte| socket.write_all(byte));
    for size in [1, 3, 600] {
        let mut client = tls
            .connect_by(&daemon.address("raw"), "a.example", |socket, hello| socket.write_all(&in_records(hello, size)))
            .unwrap();
        assert_eq!(client.bytes(3).unwrap(), b"one");
    }
    let mut client = tls.connect_by(&daemon.address("raw"), "a.example", byte_by_byte).unwrap();
    assert_eq!(client.bytes(3).unwrap(), b"one");
    expect_echo(&mut client, "and back");
    let mut client = tls
        .connect_by(&daemon.address("raw"), "a.example", |socket, hello| byte_by_byte(socket, &in_records(hello, 9)))
        .unwrap();
    assert_eq!(client.bytes(3).unwrap(), b"one");
}

#[test]
fn much_passes_through_in_both_directions() {
    let authority = Authority::new("ca");
    let origin = secured(&authority, &["a.example"], "one");
    let daemon = Daemon::start(&by_name("routes = [{ sni = ['a.example'], pool = 'a' }]", &[("a", &origin)]));
    let mut client = reaches(&Tls::trusting(&authority), &daemon, "a.example", "one");
    let bytes = pattern(4 * 1024 * 1024);
    for piece in bytes.chunks(50_000) {
        client.send(piece).unwrap();
        assert!(client.bytes(piece.len()).unwrap() == piece);
    }
}

#[test]
fn what_is_not_tls_reaches_nobody() {
    let authority = Authority::new("ca");
    let origin = secured(&authority, &["a.example"], "one");
    let routes = "pool = 'a'\nroutes = [{ sni = ['a.example'], pool = 'a' }]";
    let daemon = Daemon::start(&by_name(routes, &[("a", &origin)]));
    let mut client = Client::connect(&daemon.address("raw"));
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(client.ending(), Ending::Reset);
    daemon.wait_log("it does not speak TLS");
    let mut client = Client::connect(&daemon.address("raw"));
    client.send([22, 3, 1, 0, 4, 1, 0, 0, 0]);
    assert_eq!(client.rest(), (vec![21, 3, 3, 0, 2, 2, 50], Ending::Closed));
    daemon.wait_log("its ClientHello is malformed");
    let mut client = Client::connect(&daemon.address("raw"));
    client.send(&Tls::trusting(&authority).hello("a.example")[..100]);
    client.sender().finish_writing();
    client.ending();
    daemon.wait_log("it ended before its ClientHello was whole");
    assert_eq!(origin.accepted(), 0);
}

#[test]
fn a_slow_hello_is_cut() {
    let authority = Authority::new("ca");
    let origin = secured(&authority, &["a.example"], "one");
    let routes = "timeouts = { tls_handshake = '300ms' }\nroutes = [{ sni = ['a.example'], pool = 'a' }]";
    let daemon = Daemon::start(&by_name(routes, &[("a", &origin)]));
    let (mut silent, mut half) = (Client::connect(&daemon.address("raw")), Client::connect(&daemon.address("raw")));
    half.send(&Tls::trusting(&authority).hello("a.example")[..100]);
    reaches(&Tls::trusting(&authority), &daemon, "a.example", "one");
    for one in [&mut silent, &mut half] {
        one.ending();
    }
    eventually("both are cut", || daemon.times_logged("TLS handshake took too long") == 2);
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn one_listener_ends_the_tls_of_one_name_and_passes_another() {
    let authority = Authority::new("ca");
    let (own, through) = (Origin::answering("hello"), secured(&authority, &["b.example"], "through"));
    let launch = Launch::new();
    authority.sign(&["a.example"]).write(launch.directory(), "own");
    let listener = |bind: &str, protocol: &str| {
        format!(
            "[listeners.{bind}]\nbind = '127.0.0.1:0'\n{protocol}pool = 'own'\n\
             tls.certificates = [{{ cert = 'own.crt', key = 'own.key' }}]\n\
             tls.passthrough = [{{ sni = ['b.example'], pool = 'b' }}, {{ alpn = ['acme-tls/1'], pool = 'b' }}]\n"
        )
    };
    let pools = format!("pools.own.backends = [{:?}]\npools.b.backends = [{:?}]\n", own.address(), through.address());
    let accepting = "proxy_protocol = { accept = true, trusted = ['127.0.0.1'] }\n";
    let listeners =
        [listener("web", ""), listener("raw", "protocol = 'tcp'\n"), listener("behind", accepting)].concat();
    let daemon = launch.write("evenkeel.toml", &format!("{pools}{listeners}")).start();
    let tls = Tls::trusting(&authority);
    for (name, header) in
        [("web", &b""[..]), ("raw", b""), ("behind", b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n")]
    {
        let address = daemon.address(name);
        for old in [false, true] {
            let tls = if old { Tls::old(&authority) } else { tls.clone() };
            let mut client = tls.connect_behind(header, &address, "a.example").unwrap();
            for _ in 0..2 {
                assert_eq!(client.get("/").unwrap(), (200, "hello".to_owned()));
            }
            let mut client = tls.connect_behind(header, &address, "b.example").unwrap();
            assert_eq!(client.bytes(7).unwrap(), b"through");
            expect_echo(&mut client, "and back");
        }
        let byte_by_byte = |socket: &mut TcpStream, hello: &[u8]| {
            [header, hello].concat().chunks(1).try_for_each(|byte| socket.write_all(byte))
        };
        let mut client = tls.connect_by(&address, "a.example", byte_by_byte).unwrap();
        assert_eq!(client.get("/").unwrap(), (200, "hello".to_owned()));
    }
    let acme = tls.offering(&["acme-tls/1"]).connect(&daemon.address("web"), "a.example");
    let shown = acme.err().expect("it shows the certificate of another name").to_string();
    assert!(shown.contains("not valid for name"), "{shown}");
}

#[test]
fn who_the_client_is_is_told_before_the_hello() {
    let authority = Authority::new("ca");
    let header = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";
    let origin = secured_behind(header.len(), &authority, &["a.example"], "told ");
    let listener = "proxy_protocol = { accept = true, trusted = ['127.0.0.1'] }\n\
                    routes = [{ sni = ['a.example'], pool = 'a' }]";
    let text = by_name(listener, &[("a", &origin)]) + "send_proxy_protocol = 'v1'\n";
    let daemon = Daemon::start(&text);
    let tls = Tls::trusting(&authority);
    let mut client = tls.connect_behind(header, &daemon.address("raw"), "a.example").unwrap();
    assert_eq!(client.bytes(5 + header.len()).unwrap(), [b"told ", &header[..]].concat());
    expect_echo(&mut client, "and back");
}

#[test]
fn the_hello_is_kept_over_attempts_and_waits() {
    let authority = Authority::new("ca");
    let (refusing, origin) = (Unlistened::new(), secured(&authority, &["a.example"], "one"));
    let with = |lines: &str| {
        format!(
            "[runtime]\nworkers = 1\n[listeners.raw]\nprotocol = 'tcp'\nbind = '127.0.0.1:0'\n\
             routes = [{{ sni = ['a.example'], pool = 'a' }}]\n[pools.a]\nbreaker.mode = 'off'\n{lines}\n"
        )
    };
    let text = with(&format!("backends = [{:?}, {:?}]", refusing.address(), origin.address()));
    let daemon = Daemon::start(&text);
    let tls = Tls::trusting(&authority);
    for _ in 0..4 {
        reaches(&tls, &daemon, "a.example", "one");
    }

    let one =
        format!("backends = [{{ address = {:?}, max_connections = 1 }}]\nqueue.timeout = '15s'", origin.address());
    daemon.reload(&with(&one));
    let first = reaches(&tls, &daemon, "a.example", "one");
    let accepted = origin.accepted();
    let second = {
        let (tls, address) = (tls.clone(), daemon.address("raw"));
        std::thread::spawn(move || tls.connect(&address, "a.example").unwrap().bytes(3).unwrap())
    };
    eventually("the second is sorted", || daemon.times_logged("TLS passes through") == 6);
    assert_eq!(origin.accepted(), accepted, "it waits");
    drop(first);
    assert_eq!(second.join().unwrap(), b"one");
}

#[test]
fn sessions_go_on_over_a_reload_and_new_ones_follow_it() {
    let authority = Authority::new("ca");
    let [old, new] = ["old", "new"].map(|text| secured(&authority, &["a.example", "b.example"], text));
    let pools = [("old", &old), ("new", &new)];
    let route = |pool: &str| format!("routes = [{{ sni = ['a.example'], pool = '{pool}' }}]");
    let daemon = Daemon::start(&by_name(&route("old"), &pools));
    let tls = Tls::trusting(&authority);
    let mut open = reaches(&tls, &daemon, "a.example", "old");
    daemon.reload(&by_name(&route("new"), &pools));
    reaches(&tls, &daemon, "a.example", "new");
    expect_echo(&mut open, "still here");
    daemon.reload(&by_name("pool = 'new'", &pools));
    reaches(&tls, &daemon, "b.example", "new");
    expect_echo(&mut open, "still here");
    daemon.reload(&by_name(&route("new"), &pools[1..]));
    expect_echo(&mut open, "though its pool is gone");
    tls.connect(&daemon.address("raw"), "b.example").err().expect("no route has it");
}
