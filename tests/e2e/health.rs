//! Health checks: who goes down and why, who comes back, and what becomes of the traffic meanwhile.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::h2::{Offers, Served, serve_as};
use crate::support::tls::{Authority, Hands};
use crate::support::{
    Client, Daemon, Deaf, Ending, Gate, Launch, Origin, Unlistened, backends, eventually, origin, raw, web,
};

/// Times under which a test is short, and a busy machine late for nothing.
const PACE: &str = "interval = '1s', timeout = '1s', fast_interval = '50ms', down_interval = '50ms'";

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// The lines of a pool of these backends that are asked so, and served only while they are up.
fn checked(addresses: &[&str], check: &str) -> String {
    format!("{}health_check = {{ {check}, {PACE} }}\nfail_open = false\n", backends(addresses))
}

fn client_of(daemon: &Daemon) -> Client {
    Client::connect(&daemon.address("web"))
}

fn status_of(daemon: &Daemon) -> u16 {
    client_of(daemon).get("/").status()
}

fn down(address: &str) -> String {
    format!("backend is down pool=app backend={address} ")
}

fn up(address: &str) -> String {
    format!("backend is up pool=app backend={address} ")
}

/// Whether an origin is well, for the test to change.
#[derive(Clone)]
struct Well(Arc<AtomicBool>);

impl Well {
    fn new() -> Well {
        Well(Arc::new(AtomicBool::new(true)))
    }

    fn set(&self, well: bool) {
        self.0.store(well, Ordering::SeqCst);
    }

    fn is(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Answers `/healthz` by how it is, switches who asks for it, and answers anything else with this text.
fn origin_that_is(text: &'static str, well: &Well) -> Origin {
    let well = well.clone();
    Origin::scripted(move |mut connection| {
        while let Some(request) = connection.request() {
            if request.head.field("upgrade").is_some() {
                connection.send(SWITCHED);
                return connection.echo();
            }
            let is_probe = request.head.start.contains(" /healthz ");
            match is_probe && !well.is() {
                true => connection.send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"),
                false => connection.send(origin::ok(text)),
            }
        }
    })
}

fn answering_at(path: &Path) -> Origin {
    let _ = std::fs::remove_file(path);
    Origin::scripted_at(path, |mut connection| {
        while connection.request().is_some() {
            connection.send(origin::ok("mortal"));
        }
    })
}

#[test]
fn a_killed_backend_goes_down_and_comes_back_when_it_is_well_again() {
    let (folder, steady) = (tempfile::tempdir().unwrap(), Origin::answering("steady"));
    let path = folder.path().join("mortal.sock");
    let mortal = answering_at(&path);
    let address = mortal.address().to_owned();
    let daemon = Daemon::start(&web("", &checked(&[&address, steady.address()], "path = '/healthz'")));
    eventually("both are asked", || !mortal.requests().is_empty() && !steady.requests().is_empty());
    let probe = mortal.requests().remove(0).head;
    assert_eq!(probe.start, "GET /healthz HTTP/1.1");
    assert_eq!((probe.field("host"), probe.field("connection")), (Some("localhost"), Some("close")));
    drop(mortal);
    daemon.wait_log(&down(&address));
    daemon.wait_log("from=going down 2/3 to=down cause=cannot connect: ");
    for _ in 0..10 {
        client_of(&daemon).get("/").assert(200, "steady");
    }
    let back = answering_at(&path);
    daemon.wait_log(&up(&address));
    daemon.wait_log("from=going up 1/2 to=up");
    eventually("traffic comes back", || client_of(&daemon).get("/").text() == "mortal");
    assert!(back.accepted() > 2);
    assert!(!daemon.has_logged(&down(steady.address())));
}

/// Each of these is bad, for the reason that stands behind it.
#[test]
fn what_is_not_as_expected_takes_a_backend_down_and_the_log_says_what_it_was() {
    let (hanging, deaf, nowhere) = (Origin::hanging(), Deaf::new(), Unlistened::new());
    let sick = Origin::saying("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n");
    let plain = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Env: test\r\n\r\nfine");
    let cut = Origin::saying_once("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfi");
    let mute = Origin::saying_once("");
    let rude = Origin::saying_once("SSH-2.0-OpenSSH_9.2\r\n");
    let endless = Origin::scripted(|mut connection| {
        connection.request();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok");
        connection.ending();
    });
    let quick = "interval = '300ms', fast_interval = '50ms'";
    let cases = [
        (hanging.address(), "path = '/'", "not within 300ms: an answer"),
        (endless.address(), "path = '/'", "not within 300ms: the end of the answer"),
        (deaf.address(), "type = 'tcp'", "not within 300ms: a connection"),
        (nowhere.address(), "type = 'tcp'", "cannot connect: Connection refused"),
        (sick.address(), "path = '/'", "status 500"),
        (plain.address(), "path = '/', expect = { status = 204 }", "status 200"),
        (plain.address(), "path = '/', expect = { body_contains = 'ok' }", "the body does not contain \"ok\""),
        (plain.address(), "path = '/', expect = { body_regex = '^ok' }", "nothing in the body matches \"^ok\""),
        (
            plain.address(),
            "path = '/', expect = { headers = { X-Env = 'live' } }",
            "the header `x-env` is not as expected",
        ),
        (cut.address(), "path = '/'", "the body of the answer is broken"),
        (mute.address(), "path = '/'", "closed before the whole answer"),
        (rude.address(), "path = '/'", "not an answer in HTTP"),
        (plain.address(), "type = 'grpc'", "HTTP/2"),
    ];
    let mut file = web("", &backends(&[plain.address()]));
    for (number, (address, check, _)) in cases.iter().enumerate() {
        let pool = format!("[pools.bad{number}]\n{}health_check = {{ {check}, {quick} }}\n", backends(&[address]));
        file.push_str(&pool);
    }
    let good = [
        "type = 'tcp'",
        "path = '/', method = 'HEAD'",
        "path = '/', expect = { status = [204, '200-201'], body_contains = 'in', body_regex = '^fine$', \
         headers = { X-Env = { present = true } } }",
    ];
    for (number, check) in good.iter().enumerate() {
        let pool =
            format!("[pools.good{number}]\n{}health_check = {{ {check}, {PACE} }}\n", backends(&[plain.address()]));
        file.push_str(&pool);
    }
    let daemon = Daemon::start(&file);
    for (number, (address, check, cause)) in cases.iter().enumerate() {
        eventually(&format!("{check} of {address} is bad: {cause}"), || {
            daemon.has_logged(&format!("backend is down pool=bad{number} "))
        });
        daemon.wait_log(&format!("cause={cause}"));
    }
    eventually("the good ones were asked as often", || plain.accepted() > 10);
    assert!(!daemon.has_logged("backend is down pool=good"), "the same backend, judged by each pool for itself");
}

#[test]
fn a_body_of_a_hundred_megabytes_is_cut_at_the_bound() {
    let (sent, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counting, ending) = (sent.clone(), ended.clone());
    let large = Origin::scripted(move |mut connection| {
        connection.request();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\nok");
        let block = vec![b'x'; 64 * 1024];
        for _ in 0..1600 {
            if connection.has_more() {
                break;
            }
            connection.send(&block);
            counting.fetch_add(block.len(), Ordering::SeqCst);
        }
        ending.fetch_add(1, Ordering::SeqCst);
    });
    let check = "path = '/', initial = 'down', expect = { body_contains = 'ok' }";
    let daemon = Daemon::start(&web("", &checked(&[large.address()], check)));
    daemon.wait_log(&up(large.address()));
    eventually("the probe hung up", || ended.load(Ordering::SeqCst) > 0);
    assert!(daemon.resident_bytes() < 100_000_000);
}

#[test]
fn one_that_begins_down_gets_nothing_before_its_first_success() {
    let gate = Gate::default();
    let opened = gate.clone();
    let slow = Origin::scripted(move |mut connection| {
        while let Some(request) = connection.request() {
            if request.head.start.contains(" /healthz ") {
                opened.pass();
            }
            connection.send(origin::ok("here"));
        }
    });
    let check = "path = '/healthz', initial = 'down', rise = 5";
    let daemon = Daemon::start(&web("", &checked(&[slow.address()], check)));
    assert_eq!(status_of(&daemon), 503);
    gate.open();
    daemon.wait_log(&up(slow.address()));
    client_of(&daemon).get("/").assert(200, "here");
}

#[test]
fn when_all_are_down_they_are_tried_anyway_unless_the_file_says_not_to() {
    let well = Well::new();
    well.set(false);
    let only = origin_that_is("still here", &well);
    let file = |fail_open: bool| {
        let pool = checked(&[only.address()], "path = '/healthz', fall = 1");
        web("", &pool.replace("fail_open = false", &format!("fail_open = {fail_open}")))
    };
    let daemon = Daemon::start(&file(true));
    daemon.wait_log(&down(only.address()));
    client_of(&daemon).get("/").assert(200, "still here");
    daemon.reload(&file(false));
    assert_eq!(status_of(&daemon), 503);
}

/// A TCP session and what is said about its backend, which is asked on another port.
fn session_on(on_down: &str) -> (Daemon, Client, Origin, Origin) {
    let (well, session) = (Well::new(), Origin::echoing());
    let health = origin_that_is("", &well);
    let check = format!("path = '/healthz', address = '{}', fall = 1{on_down}", health.address());
    let daemon = Daemon::start(&raw("", &checked(&[session.address()], &check)));
    let mut client = Client::connect(&daemon.address("raw"));
    client.expect_echo("before");
    well.set(false);
    daemon.wait_log(&down(session.address()));
    (daemon, client, session, health)
}

#[test]
fn sessions_of_a_backend_that_goes_down_are_closed_where_the_file_says_so() {
    let (_daemon, mut client, session, _health) = session_on(", on_down = 'close_sessions'");
    let (rest, _) = client.rest();
    assert!(rest.is_empty());
    eventually("the backend is let go as well", || session.open() == 0);
}

#[test]
fn sessions_of_a_backend_that_goes_down_go_on_where_nothing_is_said() {
    let (daemon, mut client, _session, _health) = session_on("");
    client.expect_echo("still there");
    assert_eq!(Client::connect(&daemon.address("raw")).ending(), Ending::Reset, "but nobody new gets it");
}

#[test]
fn a_websocket_is_closed_with_its_backend_and_requests_under_way_are_not() {
    let (well, gate) = (Well::new(), Gate::default());
    let (how, opened) = (well.clone(), gate.clone());
    let backend = Origin::scripted(move |mut connection| {
        while let Some(request) = connection.request() {
            if request.head.field("upgrade").is_some() {
                connection.send(SWITCHED);
                return connection.echo();
            }
            match request.head.start.contains(" /healthz ") {
                true if !how.is() => return,
                true => {}
                false => opened.pass(),
            }
            connection.send(origin::ok("late"));
        }
    });
    let check = "path = '/healthz', fall = 1, on_down = 'close_sessions'";
    let daemon = Daemon::start(&web("", &checked(&[backend.address()], check)));
    let (mut socket, mut request) = (client_of(&daemon), client_of(&daemon));
    socket.ask_for_websocket("/chat");
    assert!(socket.head().start.contains(" 101 "));
    socket.expect_echo("before");
    request.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let is_under_way = || backend.requests().iter().any(|request| request.head.start.starts_with("GET / "));
    eventually("the request is under way", is_under_way);
    well.set(false);
    daemon.wait_log(&down(backend.address()));
    assert!(socket.rest().0.is_empty());
    gate.open();
    request.response().assert(200, "late");
    well.set(true);
    daemon.wait_log(&up(backend.address()));
    let mut again = client_of(&daemon);
    again.ask_for_websocket("/chat");
    assert!(again.head().start.contains(" 101 "));
    again.expect_echo("a session after the return is left alone");
}

#[test]
fn another_port_is_asked_instead_of_the_backends_own() {
    let (backend, health) = (Origin::answering("served"), Origin::answering("well"));
    let port = health.address().rsplit(':').next().unwrap();
    let check = format!("path = '/healthz', initial = 'down', port = {port}, host = 'app.example.com'");
    let daemon = Daemon::start(&web("", &checked(&[backend.address()], &check)));
    daemon.wait_log(&up(backend.address()));
    client_of(&daemon).get("/").assert(200, "served");
    assert_eq!(backend.requests().len(), 1, "only the traffic");
    assert_eq!(health.requests()[0].head.field("host"), Some("app.example.com"));
}

#[test]
fn a_reload_keeps_who_is_down_and_a_check_that_is_gone_holds_nobody_down() {
    let well = Well::new();
    well.set(false);
    let (sick, steady) = (origin_that_is("sick", &well), Origin::answering("steady"));
    let both = [sick.address(), steady.address()];
    let check = "path = '/healthz', fall = 1";
    let daemon = Daemon::start(&web("", &checked(&both, check)));
    daemon.wait_log(&down(sick.address()));
    let only_steady = || (0..6).for_each(|_| client_of(&daemon).get("/").assert(200, "steady"));
    // Something else, then the check itself, then the backend away and back.
    daemon.reload(&web("via = true", &checked(&both, check)));
    only_steady();
    daemon.reload(&web("", &checked(&both, "path = '/healthz', fall = 2, rise = 3, initial = 'up'")));
    only_steady();
    daemon.reload(&web("", &checked(&[steady.address()], check)));
    only_steady();
    assert_eq!(daemon.times_logged("backend is up"), 0);
    daemon.reload(&web("", &backends(&both)));
    eventually("without a check it serves", || client_of(&daemon).get("/").text() == "sick");
}

#[test]
fn a_backend_that_is_put_back_is_asked_again() {
    let (kept, other) = (Origin::answering("kept"), Origin::answering("other"));
    let file = |addresses: &[&str]| web("", &checked(addresses, "path = '/healthz'"));
    let daemon = Daemon::start(&file(&[kept.address(), other.address()]));
    eventually("it is asked", || other.accepted() > 0);
    daemon.reload(&file(&[kept.address()]));
    let before = other.accepted();
    eventually("the other one is asked on", || kept.accepted() > 3);
    assert!(other.accepted() <= before + 1, "a probe was on its way at most");
    daemon.reload(&file(&[kept.address(), other.address()]));
    let before = other.accepted();
    eventually("it is asked again", || other.accepted() > before);
}

#[test]
fn who_drains_is_asked_on_and_who_is_in_maintenance_is_left_alone() {
    let (drained, away, active) = (Origin::answering("a"), Origin::answering("b"), Origin::answering("c"));
    let table = |origin: &Origin, how: &str| format!("{{ address = '{}', {how} = true }}", origin.address());
    let pool = format!(
        "backends = [{}, {}, '{}']\nhealth_check = {{ path = '/healthz', {PACE} }}\n",
        table(&drained, "drain"),
        table(&away, "maintenance"),
        active.address()
    );
    let daemon = Daemon::start(&web("", &pool));
    for _ in 0..4 {
        client_of(&daemon).get("/").assert(200, "c");
    }
    eventually("both others are asked", || drained.accepted() > 2 && active.accepted() > 2);
    assert_eq!(away.accepted(), 0);
    assert!(drained.requests().iter().all(|request| request.head.start.contains(" /healthz ")));
}

#[test]
fn no_probe_of_a_backend_begins_before_the_one_before_has_ended() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counting, highest) = (now.clone(), most.clone());
    let slow = Origin::scripted(move |mut connection| {
        highest.fetch_max(counting.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        if connection.request().is_some() {
            // It is meant to be slower than the interval.
            std::thread::sleep(Duration::from_millis(120));
            counting.fetch_sub(1, Ordering::SeqCst);
            connection.send(origin::ok("slow"));
        }
    });
    let check = "type = 'http', interval = '1s', timeout = '1s', fast_interval = '10ms', down_interval = '10ms', fall = 1, \
                 expect = { status = 404 }";
    let pool = format!("{}health_check = {{ {check} }}\n", backends(&[slow.address()]));
    let _daemon = Daemon::start(&web("", &pool));
    eventually("it is asked many times", || slow.accepted() > 8);
    assert_eq!(most.load(Ordering::SeqCst), 1);
}

#[test]
fn what_this_machine_lacks_takes_nobody_down() {
    let gate = Gate::default();
    let opened = gate.clone();
    let origin = Origin::scripted(move |mut connection| {
        while let Some(request) = connection.request() {
            if !request.head.start.contains(" /healthz ") {
                opened.pass();
            }
            connection.send(origin::ok("fine"));
        }
    });
    let pool = checked(&[origin.address()], "path = '/healthz', fall = 1");
    // Enough to start, and to fill up with clients and their backends.
    let daemon = Launch::new().write("evenkeel.toml", &web("", &pool)).limit("-n 64").start();
    let mut clients: Vec<Client> = Vec::new();
    eventually("probes can not be made any more", || {
        if clients.len() < 32 {
            let mut client = client_of(&daemon);
            client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
            clients.push(client);
        }
        daemon.has_logged("health checks can not be made")
    });
    gate.open();
    drop(clients);
    let probes = || origin.requests().iter().filter(|request| request.head.start.contains(" /healthz ")).count();
    let before = probes();
    eventually("it is asked again", || probes() > before + 1);
    assert!(!daemon.has_logged("backend is down"));
}

#[test]
fn a_pool_that_speaks_http2_is_asked_in_it_also_over_tls() {
    let authority = Authority::new("ca");
    let hands = Some(Hands::showing(&authority.sign(&["app.internal"])));
    for (hands, tls) in [(None, ""), (hands, "tls = { ca = 'ca.pem', sni = 'app.internal' }\n")] {
        let well = Well::new();
        let being = well.clone();
        let script = move |mut served: Served| {
            assert!(served.head.start.starts_with("GET /healthz "), "{:?}", served.head);
            served.respond(if being.is() { 200 } else { 503 }, &[], true);
        };
        let address = serve_as(Offers { hands, tunnels: false }, script, Arc::default()).to_string();
        let check = "type = 'http', path = '/healthz', initial = 'down', rise = 1, fall = 1";
        let pool = format!("{}http_version = \"h2\"\n{tls}", checked(&[&address], check));
        let daemon = Launch::new().write("ca.pem", &authority.pem).write("evenkeel.toml", &web("", &pool)).start();
        daemon.wait_log(&up(&address));
        well.set(false);
        daemon.wait_log(&down(&address));
        assert!(daemon.has_logged("status 503"));
    }
}
