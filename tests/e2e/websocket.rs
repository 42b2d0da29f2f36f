//! WebSockets over every pair of HTTP/1.1 (RFC 6455) and HTTP/2 (RFC 8441): opened by agreement alone, then as faithful as a
//! TCP session.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use h2::Reason;
use rustix::process::Signal;

use crate::support::h2::{Down, H2Client, Offers, Served, Up, serve, serve_as};
use crate::support::origin::Connection;
use crate::support::sides::Speaks;
use crate::support::{Client, Daemon, Ending, FAILED, Gate, Origin, TELLING, backends, eventually, pattern, web};

/// Who speaks what.
#[derive(Clone, Copy, Debug)]
struct Pair {
    client: Speaks,
    backend: Speaks,
}

/// Runs a test on every pair.
#[track_caller]
fn on_each_pair(test: impl Fn(Pair)) {
    for client in [Speaks::H1, Speaks::H2] {
        for backend in [Speaks::H1, Speaks::H2] {
            println!("{client:?} to {backend:?}");
            test(Pair { client, backend });
        }
    }
}

/// A backend's end of a WebSocket.
enum Tunnel<'a> {
    H1(&'a mut Connection),
    H2(Box<Served>),
}

impl Tunnel<'_> {
    /// Some of what the client sends; nothing at its end.
    fn some(&mut self) -> Vec<u8> {
        match self {
            Tunnel::H1(connection) => connection.some(),
            Tunnel::H2(served) => served.some().map(|some| some.to_vec()).unwrap_or_default(),
        }
    }

    fn say(&mut self, data: &[u8]) {
        match self {
            Tunnel::H1(connection) => connection.send(data),
            Tunnel::H2(served) => drop(served.say(data)),
        }
    }

    /// Ends its direction.
    fn finish(&mut self) {
        match self {
            Tunnel::H1(connection) => connection.finish_writing(),
            Tunnel::H2(served) => served.end(&[]),
        }
    }

    /// Sends back what comes, and ends when the client does.
    fn echo(&mut self) {
        loop {
            let some = self.some();
            if some.is_empty() {
                break;
            }
            self.say(&some);
        }
        // That of HTTP/1.1 is closed when the script is over; who has reset it is not to be told.
        if let Tunnel::H2(_) = self {
            self.finish();
        }
    }

    fn reset(self) {
        match self {
            Tunnel::H1(connection) => connection.wire().reset(),
            Tunnel::H2(mut served) => served.reset(Reason::CANCEL),
        }
    }
}

/// A backend that agrees to WebSockets and does this with them, and how many of them are open.
struct Backend {
    address: String,
    open: Arc<AtomicUsize>,
    _origin: Option<Origin>,
}

impl Backend {
    fn agreeing(speaks: Speaks, script: impl Fn(Tunnel<'_>) + Send + Sync + 'static) -> Backend {
        let open = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&open);
        if speaks == Speaks::H2 {
            let offers = Offers { hands: None, tunnels: true };
            let serve = move |mut served: Served| {
                assert_eq!(served.protocol.as_deref(), Some("websocket"));
                assert!(served.head.start.starts_with("CONNECT /chat "), "{:?}", served.head);
                assert_eq!(served.head.field("sec-websocket-key"), None);
                served.respond(200, &[("sec-websocket-protocol", "chat")], false);
                let _open = Open::counted(&counting);
                script(Tunnel::H2(Box::new(served)));
            };
            return Backend { address: serve_as(offers, serve, Arc::default()).to_string(), open, _origin: None };
        }
        let origin = Origin::scripted(move |mut connection| {
            let Some(request) = connection.head() else { return };
            assert!(request.head.start.starts_with("GET /chat "), "{request:?}");
            let accept = accept_of(request.head.field("sec-websocket-key").expect("a key"));
            connection.send(format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
            ));
            let _open = Open::counted(&counting);
            script(Tunnel::H1(&mut connection));
        });
        Backend { address: origin.address().to_owned(), open, _origin: Some(origin) }
    }

    fn echoing(speaks: Speaks) -> Backend {
        Backend::agreeing(speaks, |mut tunnel| tunnel.echo())
    }

    #[track_caller]
    fn has_open(&self, count: usize) {
        eventually("so many are open at the backend", || self.open.load(Ordering::SeqCst) == count);
    }
}

/// Counts as one that is open.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn counted(count: &Arc<AtomicUsize>) -> Open {
        count.fetch_add(1, Ordering::SeqCst);
        Open(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// RFC 6455 §4.2.2
fn accept_of(key: &str) -> String {
    evenkeel::http::websocket::websocket_accept(key.as_bytes())
}

/// A client's end of a WebSocket.
enum Caller {
    H1(Client),
    H2 { client: H2Client, up: Up, down: Down },
}

impl Caller {
    /// Opens one.
    #[track_caller]
    fn open(speaks: Speaks, daemon: &Daemon) -> Caller {
        let address = daemon.address("web");
        match speaks {
            Speaks::H1 => {
                let mut client = Client::connect(&address);
                client.ask_for_websocket("/chat");
                let head = client.head();
                assert!(head.start.contains(" 101 "), "{head:?}");
                assert_eq!(head.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
                assert_eq!(head.field("sec-websocket-protocol"), Some("chat"));
                Caller::H1(client)
            }
            Speaks::H2 => {
                let client = H2Client::connect(&address);
                let (up, mut down) = client.connect_to("websocket", "/chat", &[("sec-websocket-version", "13")]);
                let head = down.head();
                assert_eq!((head.start.as_str(), head.field("sec-websocket-accept")), ("HTTP/2 200", None));
                assert_eq!(head.field("sec-websocket-protocol"), Some("chat"));
                Caller::H2 { client, up, down }
            }
        }
    }

    #[track_caller]
    fn say(&mut self, data: &[u8]) {
        match self {
            Caller::H1(client) => client.send(data),
            Caller::H2 { up, .. } => drop(up.say(data)),
        }
    }

    /// So many bytes.
    #[track_caller]
    fn hear(&mut self, length: usize) -> Vec<u8> {
        match self {
            Caller::H1(client) => client.bytes(length),
            Caller::H2 { down, .. } => {
                let mut got = Vec::new();
                while got.len() < length {
                    got.extend_from_slice(&down.some().expect("it goes on").expect("it is not reset"));
                }
                got
            }
        }
    }

    #[track_caller]
    fn expect_echo(&mut self, data: &[u8]) {
        self.say(data);
        assert_eq!(self.hear(data.len()), data);
    }

    fn finish(&mut self) {
        match self {
            Caller::H1(client) => client.finish_writing(),
            Caller::H2 { up, .. } => up.end(&[]),
        }
    }

    /// Whether the other direction ends in an orderly way, with nothing before that.
    #[track_caller]
    fn is_finished(&mut self) -> bool {
        match self {
            Caller::H1(client) => client.ending() == Ending::Closed,
            Caller::H2 { down, .. } => loop {
                // The end may come with an empty frame.
                match down.some() {
                    Some(Ok(data)) if data.is_empty() => {}
                    other => return other.is_none(),
                }
            },
        }
    }

    /// Waits until it is over, however.
    #[track_caller]
    fn is_over(&mut self) {
        match self {
            Caller::H1(client) => drop(client.rest()),
            Caller::H2 { down, .. } => while let Some(Ok(_)) = down.some() {},
        }
    }

    /// Resets it; of HTTP/2 the connection is left, which goes on.
    fn reset(self) -> Option<H2Client> {
        match self {
            Caller::H1(client) => {
                client.reset();
                None
            }
            Caller::H2 { client, mut up, .. } => {
                up.reset(Reason::CANCEL);
                Some(client)
            }
        }
    }
}

const BOTH: &str = "http_versions = [\"h1\", \"h2\"]\n";

fn pool(speaks: Speaks, address: &str) -> String {
    let version = if speaks == Speaks::H2 { "http_version = \"h2\"\n" } else { "" };
    format!("{}{version}", backends(&[address]))
}

impl Pair {
    fn file(self, listener: &str, backend: &Backend, more: &str) -> String {
        let pool = pool(self.backend, &backend.address);
        web(&format!("{BOTH}{listener}"), &format!("{pool}{more}"))
    }

    /// An open one, before a backend that echoes.
    fn open(self, listener: &str, more: &str) -> (Backend, Daemon, Caller) {
        let backend = Backend::echoing(self.backend);
        let daemon = Daemon::start(&self.file(listener, &backend, more));
        let caller = Caller::open(self.client, &daemon);
        (backend, daemon, caller)
    }
}

#[test]
fn both_ways_pass_small_and_large_amounts() {
    on_each_pair(|pair| {
        let (_backend, _daemon, mut caller) = pair.open("", "");
        caller.expect_echo(b"ping");
        for _ in 0..50 {
            caller.expect_echo(b"\x81\x02hi");
        }
        caller.expect_echo(&pattern(60_000));
    });
}

#[test]
fn a_mebibyte_passes_both_ways_at_once() {
    on_each_pair(|pair| {
        let (_backend, _daemon, mut caller) = pair.open("", "");
        let data = pattern(1 << 20);
        match &mut caller {
            Caller::H1(client) => {
                let (mut wire, sent) = (client.sender(), data.clone());
                let sender = std::thread::spawn(move || std::io::Write::write_all(&mut wire, &sent));
                assert!(client.bytes(data.len()) == data);
                sender.join().expect("no panic").expect("it was sent");
            }
            Caller::H2 { up, down, .. } => std::thread::scope(|scope| {
                scope.spawn(|| assert!(up.say(&data)));
                let mut got = Vec::new();
                while got.len() < data.len() {
                    got.extend_from_slice(&down.some().expect("it goes on").expect("it is not reset"));
                }
                assert!(got == data);
            }),
        }
    });
}

#[test]
fn the_client_may_finish_first_and_still_hears_the_rest() {
    on_each_pair(|pair| {
        let backend = Backend::agreeing(pair.backend, |mut tunnel| {
            let mut heard = Vec::new();
            loop {
                let some = tunnel.some();
                if some.is_empty() {
                    break;
                }
                heard.extend(some);
            }
            tunnel.say(&[b"you said ", heard.as_slice()].concat());
            tunnel.finish();
        });
        let daemon = Daemon::start(&pair.file("", &backend, TELLING));
        let mut caller = Caller::open(pair.client, &daemon);
        caller.say(b"bye");
        caller.finish();
        assert_eq!(caller.hear(12), b"you said bye");
        assert!(caller.is_finished());
        backend.has_open(0);
        daemon.wait_log("tunnel ended");
        assert!(daemon.has_logged("cause=\"completed\"") && !daemon.has_logged("breaker stays closed"));
    });
}

#[test]
fn the_backend_may_finish_first_and_still_hears_the_rest() {
    on_each_pair(|pair| {
        let heard = Arc::new(AtomicUsize::new(0));
        let hearing = Arc::clone(&heard);
        let backend = Backend::agreeing(pair.backend, move |mut tunnel| {
            tunnel.say(b"that was all");
            tunnel.finish();
            loop {
                let some = tunnel.some();
                if some.is_empty() {
                    return;
                }
                hearing.fetch_add(some.len(), Ordering::SeqCst);
            }
        });
        let daemon = Daemon::start(&pair.file("", &backend, ""));
        let mut caller = Caller::open(pair.client, &daemon);
        assert_eq!(caller.hear(12), b"that was all");
        assert!(caller.is_finished());
        caller.say(b"a last word");
        caller.finish();
        eventually("it is heard", || heard.load(Ordering::SeqCst) == 11);
        backend.has_open(0);
    });
}

#[test]
fn a_client_that_resets_ends_it_at_once_at_the_backend() {
    on_each_pair(|pair| {
        let (backend, daemon, mut caller) = pair.open("", TELLING);
        caller.expect_echo(b"ping");
        backend.has_open(1);
        let _going_on = caller.reset();
        backend.has_open(0);
        daemon.wait_log("cause=\"client_gone\"");
        assert!(!daemon.has_logged(FAILED) && !daemon.has_logged("breaker stays closed"));
    });
}

#[test]
fn a_backend_that_resets_ends_it_at_once_at_the_client() {
    on_each_pair(|pair| {
        let backend = Backend::agreeing(pair.backend, |mut tunnel| {
            tunnel.some();
            tunnel.reset();
        });
        let daemon = Daemon::start(&pair.file("", &backend, TELLING));
        let mut caller = Caller::open(pair.client, &daemon);
        caller.say(b"go");
        caller.is_over();
        daemon.wait_log("cause=\"session_cut\"");
        assert!(!daemon.has_logged("breaker stays closed"), "it had agreed to the switch");
    });
}

#[test]
fn who_has_finished_and_then_resets_ends_it_as_well() {
    for backend in [Speaks::H1, Speaks::H2] {
        let pair = Pair { client: Speaks::H2, backend };
        let gate = Gate::default();
        let opening = gate.clone();
        let backend = Backend::agreeing(pair.backend, move |mut tunnel| {
            while !tunnel.some().is_empty() {}
            tunnel.say(b"heard");
            match &mut tunnel {
                Tunnel::H1(_) => opening.pass(),
                Tunnel::H2(served) => served.is_left(),
            }
        });
        let daemon = Daemon::start(&pair.file("", &backend, ""));
        let mut caller = Caller::open(pair.client, &daemon);
        caller.finish();
        assert_eq!(caller.hear(5), b"heard");
        let _going_on = caller.reset();
        daemon.wait_log("cause=\"client_gone\"");
        gate.open();
        backend.has_open(0);
    }
    on_each_pair(|pair| {
        if pair.backend == Speaks::H1 {
            return;
        }
        let backend = Backend::agreeing(pair.backend, |mut tunnel| {
            tunnel.finish();
            tunnel.some();
            tunnel.reset();
        });
        let daemon = Daemon::start(&pair.file("", &backend, ""));
        let mut caller = Caller::open(pair.client, &daemon);
        assert!(caller.is_finished());
        caller.say(b"go");
        daemon.wait_log("cause=\"session_cut\"");
        backend.has_open(0);
    });
}

#[test]
fn one_in_which_nothing_moves_is_ended() {
    on_each_pair(|pair| {
        let (backend, daemon, mut caller) = pair.open("timeouts = { tunnel_idle = \"300ms\" }", "");
        caller.expect_echo(b"ping");
        caller.is_over();
        backend.has_open(0);
        daemon.wait_log("cause=\"tunnel_idle\"");
    });
}

#[test]
fn it_counts_as_in_flight_as_long_as_it_lasts() {
    on_each_pair(|pair| {
        let backend = Backend::echoing(pair.backend);
        let address = &backend.address;
        let limited = format!("[[pools.app.backends]]\naddress = {address:?}\nmax_connections = 1\n");
        let version = if pair.backend == Speaks::H2 { "http_version = \"h2\"\n" } else { "" };
        let queue = "queue = { timeout = \"100ms\" }\n";
        let daemon = Daemon::start(&web(BOTH, &format!("{version}{queue}{limited}")));
        let mut caller = Caller::open(pair.client, &daemon);
        assert_eq!(Client::connect(&daemon.address("web")).get("/chat").status(), 503);
        caller.expect_echo(b"still here");
        caller.finish();
        assert!(caller.is_finished());
        Caller::open(pair.client, &daemon).expect_echo(b"the next one");
    });
}

#[test]
fn a_reload_leaves_it_alone_and_a_removed_backend_keeps_it_until_its_time_to_drain_is_over() {
    on_each_pair(|pair| {
        let (backend, daemon, mut caller) = pair.open("", "");
        caller.expect_echo(b"before");
        daemon.reload(&pair.file("", &backend, "balance = \"least_connections\"\n"));
        caller.expect_echo(b"after");
        let other = Backend::echoing(pair.backend);
        daemon.reload(&format!("[reload]\ndrain_timeout = \"400ms\"\n\n{}", pair.file("", &other, "")));
        caller.expect_echo(b"draining");
        caller.is_over();
        backend.has_open(0);
    });
}

#[test]
fn a_stop_waits_for_it_and_cuts_it_when_the_grace_is_over() {
    on_each_pair(|pair| {
        let backend = Backend::echoing(pair.backend);
        let file = pair.file("", &backend, "").replacen("[runtime]\n", "[runtime]\nshutdown_grace = \"500ms\"\n", 1);
        let mut daemon = Daemon::start(&file);
        let mut caller = Caller::open(pair.client, &daemon);
        daemon.signal(Signal::TERM);
        caller.expect_echo(b"not yet");
        caller.is_over();
        backend.has_open(0);
        assert!(daemon.wait_exit().success());
    });
}

#[test]
fn a_refusal_is_passed_on_and_the_connection_of_http2_goes_on() {
    let refusing = Origin::scripted(|mut connection| {
        while connection.head().is_some() {
            connection.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
        }
    });
    let refusing_h2 = serve_as(
        Offers { hands: None, tunnels: true },
        |mut served| {
            served.respond(403, &[], false);
            served.say(b"no");
            served.end(&[]);
        },
        Arc::default(),
    );
    for (speaks, address) in [(Speaks::H1, refusing.address()), (Speaks::H2, &refusing_h2.to_string())] {
        let daemon = Daemon::start(&web(BOTH, &pool(speaks, address)));
        let client = H2Client::connect(&daemon.address("web"));
        let (_up, mut down) = client.connect_to("websocket", "/chat", &[]);
        let response = down.response();
        assert_eq!((response.status(), response.body.as_slice()), (403, &b"no"[..]), "{speaks:?}");
        assert_eq!(client.get("/").status(), 403);
        let mut old = Client::connect(&daemon.address("web"));
        old.ask_for_websocket("/chat");
        old.response().assert(403, "no");
    }
}

#[test]
fn a_backend_that_does_not_know_extended_connect_is_a_501() {
    let plain = serve(|mut served| served.respond(200, &[], true), Arc::default()).to_string();
    let daemon = Daemon::start(&web(BOTH, &format!("{}{TELLING}", pool(Speaks::H2, &plain))));
    let client = H2Client::connect(&daemon.address("web"));
    let (_up, mut down) = client.connect_to("websocket", "/chat", &[]);
    assert_eq!(down.response().status(), 501);
    let mut old = Client::connect(&daemon.address("web"));
    old.ask_for_websocket("/chat");
    assert_eq!(old.response().status(), 501);
    assert_eq!(client.get("/").status(), 200);
    assert!(!daemon.has_logged("breaker stays closed"), "any client can ask for one");
}

#[test]
fn a_wrong_accept_value_is_a_502_where_we_have_asked() {
    let wrong = Origin::scripted(|mut connection| {
        connection.head();
        connection.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        );
        connection.ending();
    });
    let daemon = Daemon::start(&web(BOTH, &pool(Speaks::H1, wrong.address())));
    let client = H2Client::connect(&daemon.address("web"));
    let (_up, mut down) = client.connect_to("websocket", "/chat", &[]);
    assert_eq!(down.response().status(), 502);
    eventually("that connection is given up", || wrong.open() == 0);
}

#[test]
fn connect_for_anything_else_is_refused() {
    let backend = Backend::echoing(Speaks::H2);
    let daemon = Daemon::start(&web(BOTH, &pool(Speaks::H2, &backend.address)));
    let client = H2Client::connect(&daemon.address("web"));
    let (_up, mut down) = client.connect_to("connect-udp", "/chat", &[]);
    assert_eq!(down.response().status(), 501);
    backend.has_open(0);
}

#[test]
fn what_comes_early_waits_until_the_backend_has_agreed() {
    for backend in [Speaks::H1, Speaks::H2] {
        let backend = (Backend::echoing(backend), backend);
        let daemon = Daemon::start(&web(BOTH, &pool(backend.1, &backend.0.address)));
        let mut client = Client::connect(&daemon.address("web"));
        client.send(
            "GET /chat HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\nearly",
        );
        assert!(client.head().start.contains(" 101 "));
        assert_eq!(client.bytes(5), b"early");
        let client = H2Client::connect(&daemon.address("web"));
        let (mut up, mut down) = client.connect_to("websocket", "/chat", &[]);
        up.say(b"early");
        assert_eq!(down.head().start, "HTTP/2 200");
        assert_eq!(down.some().expect("it goes on").expect("no reset"), "early");
    }
}

#[test]
fn a_slow_reader_holds_the_other_side_back() {
    on_each_pair(|pair| {
        let sent = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&sent);
        let backend = Backend::agreeing(pair.backend, move |mut tunnel| {
            while counting.load(Ordering::SeqCst) < 32 << 20 {
                tunnel.say(&[0; 16 * 1024]);
                counting.fetch_add(16 * 1024, Ordering::SeqCst);
            }
            tunnel.finish();
        });
        let daemon = Daemon::start(&pair.file("", &backend, ""));
        let mut caller = Caller::open(pair.client, &daemon);
        eventually("it stalls", || {
            let before = sent.load(Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(200));
            before > 0 && before == sent.load(Ordering::SeqCst)
        });
        assert!(sent.load(Ordering::SeqCst) < 32 << 20, "all of it is on its way to a client that reads nothing");
        assert!(daemon.resident_bytes() < 64 << 20);
        caller.hear(1 << 20);
    });
}
