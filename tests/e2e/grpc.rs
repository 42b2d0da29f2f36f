//! Calls of gRPC through HTTP/2 on both sides: what passes, how a backend is judged, what we answer ourselves, deadlines.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use h2::Reason;
use http::Request;

use crate::support::h2::{Down, Fields, H2Client, Offers, Served, Up, request, serve, serve_as};
use crate::support::tls::{Authority, Hands, Tls};
use crate::support::{
    Daemon, End, Gate, Launch, Origin, Response, TELLING, Unlistened, backends, eventually, pattern, web,
};

const TYPE: (&str, &str) = ("content-type", "application/grpc");
const OK: (&str, &str) = ("grpc-status", "0");

/// What is logged when the only backend of a pool has failed.
const FAILED: &str = "breaker stays closed pool=app";

const BOTH: &str = "http_versions = [\"h1\", \"h2\"]\n";

/// A backend of gRPC with this script.
fn origin(script: impl Fn(Served) + Send + Sync + 'static) -> String {
    serve(script, Arc::default()).to_string()
}

/// The file of a daemon before these, with more lines for the listener and the pool.
fn file(listener: &str, pool: &str, origins: &[&str]) -> String {
    web(&format!("{BOTH}{listener}"), &format!("{}http_version = \"h2\"\n{pool}", backends(origins)))
}

/// A daemon that tells whose failure something was.
fn telling(listener: &str, origins: &[&str]) -> Daemon {
    Daemon::start(&file(listener, TELLING, origins))
}

fn daemon_before(origin: &str) -> Daemon {
    telling("", &[origin])
}

fn client(daemon: &Daemon) -> H2Client {
    H2Client::connect(&daemon.address("web"))
}

fn call_of(path: &str, fields: Fields<'_>) -> Request<()> {
    request("POST", path, &[&[TYPE, ("te", "trailers")], fields].concat())
}

/// A message in its frame.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a short message");
    [&[0], &length.to_be_bytes()[..], message].concat()
}

/// Calls with one message and takes the answer.
#[track_caller]
fn ask(client: &H2Client, path: &str, fields: Fields<'_>, message: &[u8]) -> Response {
    let (mut up, mut down) = client.begin(call_of(path, fields), false);
    up.say(&framed(message));
    up.end(&[]);
    down.response()
}

#[track_caller]
fn say_hello(client: &H2Client) -> Response {
    ask(client, "/shop.Cart/Add", &[], b"hello")
}

/// How a call ended, wherever it says so.
fn status(response: &Response) -> Option<&str> {
    let told = response.trailers.iter().find(|(name, _)| name == "grpc-status").map(|(_, value)| value.as_str());
    told.or_else(|| response.head.field("grpc-status"))
}

/// An answer of our own: a head that is all, with this status.
#[track_caller]
fn assert_own(response: &Response, code: &str) {
    let Response { head, body, trailers, end, .. } = response;
    assert_eq!((response.status(), head.field("grpc-status")), (200, Some(code)), "{response:?}");
    assert_eq!(head.field("content-type"), Some("application/grpc"));
    assert!(head.field("grpc-message").is_some() && head.field("x-request-id").is_some(), "{response:?}");
    assert!(head.field("content-length").is_none() && body.is_empty() && trailers.is_empty(), "{response:?}");
    assert_eq!(*end, End::Complete);
}

/// Answers a call with what it was called with.
fn echo(mut served: Served) {
    let (body, _, end) = served.body();
    if end == End::Complete {
        served.respond(200, &[TYPE], false);
        served.say(&body);
        served.end(&[OK]);
    }
}

/// Answers with one message and this status.
fn ending_with(code: &'static str) -> impl Fn(Served) + Send + Sync + 'static {
    move |mut served| {
        served.body();
        served.respond(200, &[TYPE], false);
        served.say(&framed(b"so far"));
        served.end(&[("grpc-status", code)]);
    }
}

/// Answers with a head that is all, with this status.
fn refusing_with(code: &'static str) -> impl Fn(Served) + Send + Sync + 'static {
    move |mut served| {
        served.body();
        served.respond(200, &[TYPE, ("grpc-status", code), ("grpc-message", "so%20it%20is")], true);
    }
}

/// Takes the whole call and says nothing until it is left; counts those who have left.
fn hanging(left: &Arc<AtomicUsize>) -> impl Fn(Served) + Send + Sync + 'static {
    let left = Arc::clone(left);
    move |mut served| {
        served.is_left();
        left.fetch_add(1, Ordering::SeqCst);
    }
}

#[track_caller]
fn assert_told(daemon: &Daemon, fails: bool) {
    daemon.wait_log("request ended");
    if fails {
        daemon.wait_log(FAILED);
    }
    assert_eq!(daemon.has_logged(FAILED), fails, "{:?}", daemon.log());
}

#[test]
fn a_call_passes_with_its_metadata_and_its_trailers() {
    let origin = origin(|mut served| {
        let head = &served.head;
        assert!(head.start.starts_with("POST /shop.Cart/Add "), "{head:?}");
        assert_eq!(head.field("te"), Some("trailers"));
        assert_eq!(head.field("content-type"), Some("application/grpc"));
        assert_eq!((head.field("trace-bin"), head.field("grpc-encoding")), (Some("AAEC/w=="), Some("gzip")));
        let (body, _, _) = served.body();
        served.respond(200, &[TYPE, ("served-by", "a"), ("context-bin", "/w")], false);
        served.say(&body);
        served.end(&[OK, ("grpc-message", "a%20b"), ("details-bin", "CAUSAA==")]);
    });
    let daemon = daemon_before(&origin);
    let response =
        ask(&client(&daemon), "/shop.Cart/Add", &[("trace-bin", "AAEC/w=="), ("grpc-encoding", "gzip")], b"two apples");
    assert_eq!((response.status(), response.body.as_slice()), (200, framed(b"two apples").as_slice()));
    assert_eq!((response.head.field("served-by"), response.head.field("context-bin")), (Some("a"), Some("/w")));
    let trailers = [OK, ("grpc-message", "a%20b"), ("details-bin", "CAUSAA==")];
    let mut told: Vec<_> = response.trailers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    told.sort_unstable();
    assert_eq!(told, {
        let mut all = trailers;
        all.sort_unstable();
        all
    });
    assert_told(&daemon, false);
}

#[test]
fn a_thousand_calls_one_after_the_other_and_fifty_at_once() {
    let accepted = Arc::new(AtomicUsize::new(0));
    let daemon = daemon_before(&serve(echo, Arc::clone(&accepted)).to_string());
    let client = client(&daemon);
    for number in 0..1000u32 {
        let message = number.to_be_bytes();
        assert_eq!(ask(&client, "/a/B", &[], &message).body, framed(&message));
    }
    let mut calls: Vec<_> = (0..50u32).map(|number| (number, client.begin(call_of("/a/B", &[]), false))).collect();
    for (number, (up, _)) in &mut calls {
        up.say(&framed(&number.to_be_bytes()));
    }
    for (number, (mut up, mut down)) in calls.into_iter().rev() {
        up.end(&[]);
        assert_eq!(down.response().body, framed(&number.to_be_bytes()));
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 1, "all share one connection");
}

/// Answers each piece of a call with itself.
fn ping_pong(mut served: Served) {
    served.respond(200, &[TYPE], false);
    while let Some(some) = served.some() {
        served.say(&some);
    }
    served.end(&[OK]);
}

/// One message there and back.
#[track_caller]
fn ping(up: &mut Up, down: &mut Down, message: &[u8]) {
    let message = framed(message);
    assert!(up.say(&message));
    let mut got = Vec::new();
    while got.len() < message.len() {
        got.extend_from_slice(&down.some().expect("the stream goes on").expect("it is not reset"));
    }
    assert_eq!(got, message);
}

#[test]
fn messages_pass_at_once_in_both_directions_of_an_open_stream() {
    let daemon = daemon_before(&origin(ping_pong));
    let (mut up, mut down) = client(&daemon).begin(call_of("/a/Chat", &[]), false);
    assert_eq!(down.head().field("content-type"), Some("application/grpc"), "the head waits for no message");
    for number in 0..100u8 {
        ping(&mut up, &mut down, &[number; 3]);
    }
    up.end(&[]);
    let rest = down.rest(Vec::new(), down_head());
    assert_eq!((rest.end, status(&rest), rest.body.len()), (End::Complete, Some("0"), 0));
}

/// A head, where it does not matter which.
fn down_head() -> crate::support::Head {
    crate::support::Head { start: "HTTP/2 200".to_owned(), fields: Vec::new() }
}

#[test]
fn large_messages_arrive_whole_in_both_directions() {
    let daemon = daemon_before(&origin(ping_pong));
    let (mut up, mut down) = client(&daemon).begin(call_of("/a/Chat", &[]), false);
    let message = framed(&pattern(4 << 20));
    let sending = message.clone();
    let sender = std::thread::spawn(move || {
        up.say(&sending);
        up.end(&[]);
    });
    let response = down.response();
    sender.join().expect("it was sent");
    assert!(response.body == message, "{} bytes", response.body.len());
    assert_eq!(status(&response), Some("0"));
}

#[test]
fn a_client_streams_up_and_a_server_streams_down() {
    let daemon = daemon_before(&origin(|mut served| {
        let count = served.body().0.len() / framed(b"item").len();
        served.respond(200, &[TYPE], false);
        for _ in 0..count {
            served.say(&framed(b"item"));
        }
        served.end(&[OK]);
    }));
    let (mut up, mut down) = client(&daemon).begin(call_of("/a/List", &[]), false);
    for _ in 0..500 {
        up.say(&framed(b"item"));
    }
    up.end(&[]);
    let response = down.response();
    assert_eq!((response.body.len(), status(&response)), (500 * framed(b"item").len(), Some("0")));
}

#[test]
fn who_reads_slowly_holds_back_who_sends() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&sent);
    let daemon = daemon_before(&origin(move |mut served| {
        served.respond(200, &[TYPE], false);
        while served.say(&[0; 16 * 1024]) && counting.fetch_add(16 * 1024, Ordering::SeqCst) < 8 << 20 {}
        served.end(&[OK]);
    }));
    let (_up, mut down) = client(&daemon).begin(call_of("/a/Flood", &[]), true);
    down.head();
    eventually("the windows are full", || {
        let before = sent.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(200));
        before > 0 && before == sent.load(Ordering::SeqCst)
    });
    let held = sent.load(Ordering::SeqCst);
    assert!(held < 1 << 20, "{held} bytes are on their way to a client that reads nothing");
    let rest = down.rest(Vec::new(), down_head());
    assert_eq!(status(&rest), Some("0"));
    assert!(rest.body.len() > 8 << 20, "{}", rest.body.len());
}

#[test]
fn an_answer_that_is_a_head_alone_passes_as_one() {
    let daemon = daemon_before(&origin(refusing_with("5")));
    let response = say_hello(&client(&daemon));
    assert_eq!((response.status(), response.head.field("grpc-status")), (200, Some("5")));
    assert_eq!(response.head.field("grpc-message"), Some("so%20it%20is"));
    assert!(response.head.field("content-length").is_none() && response.trailers.is_empty(), "{response:?}");
    assert_told(&daemon, false);
}

#[test]
fn what_would_be_5xx_counts_against_the_backend_and_nothing_else() {
    for (code, fails) in [("14", true), ("13", true), ("2", true), ("15", true), ("4", true), ("77", true)] {
        for end in [true, false] {
            let origin = if end { origin(refusing_with(code)) } else { origin(ending_with(code)) };
            let daemon = daemon_before(&origin);
            assert_eq!(status(&say_hello(&client(&daemon))), Some(code));
            assert_told(&daemon, fails);
        }
    }
    for code in ["0", "1", "5", "8", "12", "16"] {
        let daemon = daemon_before(&origin(ending_with(code)));
        assert_eq!(status(&say_hello(&client(&daemon))), Some(code));
        assert_told(&daemon, false);
    }
}

#[test]
fn an_answer_that_ends_without_a_status_is_a_failure_but_none_of_grpcs_is_not() {
    let daemon = daemon_before(&origin(|mut served| {
        served.body();
        served.respond(200, &[TYPE], false);
        served.end(&[]);
    }));
    assert_eq!(status(&say_hello(&client(&daemon))), None);
    assert_told(&daemon, true);

    let daemon = daemon_before(&origin(|mut served| {
        served.body();
        served.respond(200, &[("content-type", "text/html")], false);
        served.end(&[]);
    }));
    say_hello(&client(&daemon));
    assert_told(&daemon, false);
}

#[test]
fn a_backend_that_resets_is_unavailable_before_its_head_and_a_reset_behind_it() {
    let daemon = daemon_before(&origin(|mut served| {
        served.body();
        served.reset(Reason::INTERNAL_ERROR);
    }));
    assert_own(&say_hello(&client(&daemon)), "14");
    daemon.wait_log(FAILED);

    let gate = Gate::default();
    let opening = gate.clone();
    let daemon = daemon_before(&origin(move |mut served| {
        served.body();
        served.respond(200, &[TYPE], false);
        served.say(&framed(b"so far"));
        opening.pass();
        served.reset(Reason::INTERNAL_ERROR);
    }));
    let (mut up, mut down) = client(&daemon).begin(call_of("/a/B", &[]), false);
    up.end(&[]);
    let head = down.head();
    gate.open();
    assert_eq!(down.rest(Vec::new(), head).end, End::Reset);
    daemon.wait_log(FAILED);
}

#[test]
fn our_own_answers_to_calls_are_grpcs() {
    let gone = Unlistened::new();
    let daemon = daemon_before(gone.address());
    assert_own(&say_hello(&client(&daemon)), "14");
    let plain = client(&daemon).get("/");
    assert_eq!((plain.status(), plain.head.field("grpc-status")), (502, None), "only calls are answered so");

    let routes = "[[listeners.web.routes]]\nhosts = [\"other\"]\npool = \"app\"\n\
                  [[listeners.web.routes]]\npath = { exact = \"/a/Fixed\" }\nrespond = { status = 403, body = \"Not \u{f6}pen.\" }\n";
    let listener = "[runtime]\nworkers = 1\n[listeners.web]\nbind = \"127.0.0.1:0\"\nhttp_versions = [\"h2\"]\n";
    let pool = format!("[pools.app]\n{}http_version = \"h2\"\n", backends(&[gone.address()]));
    let daemon = Daemon::start(&format!("{listener}{routes}{pool}"));
    let client = client(&daemon);
    assert_own(&say_hello(&client), "12");
    let fixed = ask(&client, "/a/Fixed", &[], b"");
    assert_own(&fixed, "7");
    assert_eq!(fixed.head.field("grpc-message"), Some("Not %C3%B6pen."));
    let refused = ask(&client, "/a/B", &[("expect", "nothing-we-know")], b"");
    assert_own(&refused, "2");
}

#[test]
fn a_backend_of_http1_can_not_be_called() {
    let origin = Origin::answering("plain");
    let daemon = Daemon::start(&web(BOTH, &backends(&[origin.address()])));
    let client = client(&daemon);
    assert_own(&say_hello(&client), "12");
    daemon.wait_log("http_version = ");
    assert!(origin.requests().is_empty());
    client.get("/").assert(200, "plain");
}

#[test]
fn a_call_that_is_refused_with_unavailable_is_tried_elsewhere_where_the_route_says_so() {
    let (bad, good) = (origin(refusing_with("14")), origin(echo));
    let routes = "[[listeners.web.routes]]\npool = \"app\"\n\
                  retry = { attempts = 2, on = [\"503\"], non_idempotent = true }\n";
    let listener = "[runtime]\nworkers = 1\n[listeners.web]\nbind = \"127.0.0.1:0\"\nhttp_versions = [\"h2\"]\n";
    let pool = format!("[pools.app]\n{}http_version = \"h2\"\n", backends(&[&bad, &good]));
    let daemon = Daemon::start(&format!("{listener}{routes}{pool}"));
    let client = client(&daemon);
    for _ in 0..3 {
        let response = say_hello(&client);
        assert_eq!((status(&response), response.body.as_slice()), (Some("0"), framed(b"hello").as_slice()));
    }
}

#[test]
fn the_clients_deadline_ends_a_call_that_is_not_answered_and_is_nobodys_failure() {
    let left = Arc::default();
    let daemon = daemon_before(&origin(hanging(&left)));
    let client = client(&daemon);
    assert_own(&ask(&client, "/a/B", &[("grpc-timeout", "200m")], b""), "4");
    eventually("the backend is told", || left.load(Ordering::SeqCst) == 1);
    daemon.wait_log("request_late");
    // A client that still owes a part of its call is answered the same.
    let (_up, mut down) = client.begin(call_of("/a/B", &[("grpc-timeout", "200m")]), false);
    assert_own(&down.response(), "4");
    eventually("the backend is told again", || left.load(Ordering::SeqCst) == 2);
    assert!(!daemon.has_logged(FAILED));
}

#[test]
fn a_backend_that_keeps_the_clients_deadline_itself_has_not_failed() {
    let daemon = daemon_before(&origin(refusing_with("4")));
    let response = ask(&client(&daemon), "/a/B", &[("grpc-timeout", "10S")], b"");
    assert_eq!(status(&response), Some("4"));
    assert_told(&daemon, false);
}

#[test]
fn the_deadline_ends_a_stream_in_the_middle_with_its_status() {
    let left = Arc::new(AtomicUsize::new(0));
    let leaving = Arc::clone(&left);
    let daemon = daemon_before(&origin(move |mut served| {
        served.respond(200, &[TYPE], false);
        served.say(&framed(b"so far"));
        served.is_left();
        leaving.fetch_add(1, Ordering::SeqCst);
    }));
    let (_up, mut down) = client(&daemon).begin(call_of("/a/B", &[("grpc-timeout", "400m")]), false);
    let response = down.response();
    assert_eq!((response.end, status(&response)), (End::Complete, Some("4")), "{response:?}");
    assert_eq!(response.body, framed(b"so far"));
    eventually("the backend is told", || left.load(Ordering::SeqCst) == 1);
    assert_told(&daemon, false);
}

#[test]
fn the_routes_deadline_counts_where_it_is_shorter_and_is_the_backends_failure() {
    let left = Arc::default();
    let daemon = telling("timeouts = { request = \"200ms\" }", &[&origin(hanging(&left))]);
    assert_own(&ask(&client(&daemon), "/a/B", &[("grpc-timeout", "1H")], b""), "4");
    daemon.wait_log(FAILED);
    eventually("the backend is told", || left.load(Ordering::SeqCst) == 1);
}

#[test]
fn a_client_that_cancels_ends_the_backends_work_and_is_nobodys_failure() {
    let left = Arc::new(AtomicUsize::new(0));
    let leaving = Arc::clone(&left);
    let daemon = daemon_before(&origin(move |mut served| {
        served.respond(200, &[TYPE], false);
        if let Some(some) = served.some() {
            served.say(&some);
        }
        served.is_left();
        leaving.fetch_add(1, Ordering::SeqCst);
    }));
    let client = client(&daemon);
    let (mut up, mut down) = client.begin(call_of("/a/Chat", &[]), false);
    down.head();
    ping(&mut up, &mut down, b"one");
    up.reset(Reason::CANCEL);
    eventually("the backend is told", || left.load(Ordering::SeqCst) == 1);
    daemon.wait_log("client_gone");
    assert!(!daemon.has_logged(FAILED));
}

#[test]
fn a_quiet_stream_lives_for_tunnel_idle_and_not_for_response_body() {
    let gate = Gate::default();
    let opening = gate.clone();
    let quiet = origin(move |mut served| {
        served.respond(200, &[TYPE], false);
        opening.pass();
        served.say(&framed(b"at last"));
        served.end(&[OK]);
    });
    let daemon = Daemon::start(&file("", &format!("timeouts = {{ response_body = \"100ms\" }}{TELLING}"), &[&quiet]));
    let (_up, mut down) = client(&daemon).begin(call_of("/a/Watch", &[]), true);
    let head = down.head();
    std::thread::sleep(Duration::from_millis(600));
    gate.open();
    assert_eq!(status(&down.rest(Vec::new(), head)), Some("0"));
    assert_told(&daemon, false);

    let left = Arc::new(AtomicUsize::new(0));
    let leaving = Arc::clone(&left);
    let silent = origin(move |mut served| {
        served.respond(200, &[TYPE], false);
        served.is_left();
        leaving.fetch_add(1, Ordering::SeqCst);
    });
    let daemon = Daemon::start(&file("", &format!("timeouts = {{ tunnel_idle = \"200ms\" }}{TELLING}"), &[&silent]));
    let (_up, mut down) = client(&daemon).begin(call_of("/a/Watch", &[]), false);
    assert!(down.try_response().is_none_or(|response| response.end == End::Reset));
    eventually("the backend is told", || left.load(Ordering::SeqCst) == 1);
    assert!(daemon.has_logged("tunnel_idle") && !daemon.has_logged(FAILED));
}

#[test]
fn a_stream_that_goes_on_for_ten_seconds_closes_a_half_open_breaker() {
    let well = Arc::new(AtomicUsize::new(0));
    let being = Arc::clone(&well);
    let served =
        origin(
            move |served| {
                if being.load(Ordering::SeqCst) == 0 { refusing_with("14")(served) } else { ping_pong(served) }
            },
        );
    let breaker = "[pools.app.breaker]\nconsecutive_failures = 1\nopen_for = \"200ms\"\nhalf_open_probes = 1\n";
    let spare = origin(|mut served| served.respond(200, &[TYPE, ("grpc-status", "5")], true));
    let daemon = Daemon::start(&file("", breaker, &[&served, &spare]));
    let client = client(&daemon);
    for _ in 0..2 {
        say_hello(&client);
    }
    daemon.wait_log("to=\"open\"");
    well.store(1, Ordering::SeqCst);
    let mut streams = Vec::new();
    eventually("it is probed", || {
        let (up, mut down) = client.begin(call_of("/a/Chat", &[]), false);
        streams.push((up, down.head().field("grpc-status").is_none()));
        daemon.has_logged("to=\"half_open\"")
    });
    assert!(!daemon.has_logged("to=\"closed\""), "a head alone does not tell");
    daemon.wait_log("to=\"closed\"");
}

#[test]
fn calls_pass_over_tls_on_both_sides() {
    let authority = Authority::new("ca");
    let hands = Some(Hands::showing(&authority.sign(&["app.internal"])));
    let address: SocketAddr = serve_as(Offers { hands, tunnels: false }, ping_pong, Arc::default());
    let launch = Launch::new().write("ca.pem", &authority.pem);
    authority.sign(&["a.example"]).write(launch.directory(), "own");
    let pool = format!(
        "{}http_version = \"h2\"\ntls = {{ ca = 'ca.pem', sni = 'app.internal' }}\n",
        backends(&[&address.to_string()])
    );
    let listener = "tls.certificates = [{ cert = \"own.crt\", key = \"own.key\" }]\n";
    let daemon = launch.write("evenkeel.toml", &web(listener, &pool)).start();
    let client = H2Client::secured(&Tls::trusting(&authority), &daemon.address("web"), "a.example");
    let mut calls: Vec<_> = (0..10).map(|_| client.begin(call_of("/a/Chat", &[]), false)).collect();
    for (up, down) in &mut calls {
        down.head();
        ping(up, down, &pattern(100_000));
    }
    for (mut up, mut down) in calls {
        up.end(&[]);
        assert_eq!(status(&down.rest(Vec::new(), down_head())), Some("0"));
    }
}
