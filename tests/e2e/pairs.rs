//! What holds whichever protocols the client and the backend speak: one suite over all four pairs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::support::sides::{Backend, Caller, Down, Exchange, Length, Speaks, Up, leave};
use crate::support::{Daemon, End, Gate, Response, backends, eventually, pattern, web};

/// What both sides speak.
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
            let pair = Pair { client, backend };
            println!("{pair:?}");
            test(pair);
        }
    }
}

impl Pair {
    /// One backend with this script behind a daemon.
    fn scripted(self, script: impl Fn(&mut Exchange<'_>) + Send + Sync + 'static) -> Scene {
        self.scene("", "", Backend::scripted(self.backend, script))
    }

    /// The same with more lines for the listener and the pool.
    fn scene(self, listener: &str, pool: &str, backend: Backend) -> Scene {
        let daemon = Daemon::start(&self.file(listener, pool, &[&backend]));
        Scene { pair: self, daemon, backend }
    }

    fn file(self, listener: &str, pool: &str, to: &[&Backend]) -> String {
        let addresses: Vec<_> = to.iter().map(|backend| backend.address()).collect();
        let version = if self.backend == Speaks::H2 { "http_version = \"h2\"\n" } else { "" };
        let listener = format!("http_versions = [\"h1\", \"h2\"]\n{listener}");
        web(&listener, &format!("{}{version}{pool}", backends(&addresses)))
    }

    fn caller(self, daemon: &Daemon) -> Caller {
        Caller::connect(self.client, &daemon.address("web"))
    }
}

/// A daemon between one client and one backend.
struct Scene {
    pair: Pair,
    daemon: Daemon,
    backend: Backend,
}

impl Scene {
    fn caller(&self) -> Caller {
        self.pair.caller(&self.daemon)
    }

    /// Waits until a request has come to the backend, and so many are there.
    #[track_caller]
    fn reached(&self, count: usize) {
        eventually("the requests are at the backend", || self.backend.under_way() == count);
    }
}

/// A response that must not look whole.
#[track_caller]
fn assert_cut(response: &Response) {
    assert!(matches!(response.end, End::Cut | End::Reset), "{response:?}");
}

/// An answer of our own.
#[track_caller]
fn assert_own(response: &Response, status: u16) {
    assert_eq!(response.status(), status, "{response:?}");
    assert!(response.head.field("x-request-id").is_some() && response.looks_complete(), "{response:?}");
}

#[test]
fn requests_one_after_the_other_share_connections_on_both_sides() {
    on_each_pair(|pair| {
        let scene = pair.scene("", "", Backend::answering(pair.backend, "hello"));
        let mut caller = scene.caller();
        for at in 0..20 {
            let response = caller.get(&format!("/path/{at}?query"));
            response.assert(200, "hello");
            assert_eq!(response.head.field("content-length"), Some("5"));
        }
        assert_eq!((scene.backend.heads().len(), scene.backend.accepted()), (20, 1));
        assert!(scene.backend.heads()[7].start.starts_with("GET /path/7?query HTTP/"));
    });
}

#[test]
fn many_requests_at_once_each_get_their_own_answer() {
    on_each_pair(|pair| {
        let (gate, all) = (Gate::default(), Arc::new(AtomicUsize::new(0)));
        let (passing, counting) = (gate.clone(), Arc::clone(&all));
        let scene = pair.scripted(move |exchange| {
            let (body, ..) = exchange.body();
            counting.fetch_add(1, Ordering::SeqCst);
            passing.pass();
            let text = format!("{} {}", exchange.path(), String::from_utf8_lossy(&body));
            exchange.answer(200, &text);
        });
        let mut caller = scene.caller();
        let asked: Vec<_> = (0..50)
            .map(|at| {
                let text = format!("body {at}");
                let (mut up, down) = caller.begin("POST", &format!("/{at}"), &[], Length::Told(text.len()));
                up.say(text.as_bytes());
                up.end(&[]);
                (up, down)
            })
            .collect();
        eventually("all are there at once", || all.load(Ordering::SeqCst) == 50);
        gate.open();
        for (at, (_up, mut down)) in asked.into_iter().enumerate() {
            down.response().assert(200, &format!("/{at} body {at}"));
        }
    });
}

#[test]
fn the_answer_to_a_head_has_a_length_and_no_body() {
    on_each_pair(|pair| {
        let scene = pair.scene("", "", Backend::answering(pair.backend, "hello"));
        let mut caller = scene.caller();
        for _ in 0..2 {
            let response = caller.ask("HEAD", "/", &[], b"");
            response.assert(200, "");
            assert_eq!(response.head.field("content-length"), Some("5"));
        }
        caller.get("/").assert(200, "hello");
        assert_eq!(scene.backend.accepted(), 1);
    });
}

#[test]
fn a_get_may_have_a_body() {
    on_each_pair(|pair| {
        let scene = pair.scripted(|exchange| {
            let (body, _, end) = exchange.body();
            assert_eq!(end, End::Complete);
            exchange.answer(200, &String::from_utf8_lossy(&body));
        });
        scene.caller().ask("GET", "/", &[], b"with a body").assert(200, "with a body");
    });
}

#[test]
fn a_length_is_told_on_and_a_body_without_one_arrives_whole() {
    on_each_pair(|pair| {
        let scene = pair.scripted(|exchange| {
            let length = exchange.head.field("content-length").unwrap_or("untold").to_owned();
            let (body, _, end) = exchange.body();
            assert_eq!(end, End::Complete);
            exchange.begin(200, &[], Length::Untold);
            exchange.say(format!("{length}: ").as_bytes());
            exchange.say(&body);
            exchange.end(&[]);
        });
        let mut caller = scene.caller();
        caller.ask("POST", "/", &[], b"told").assert(200, "4: told");
        let (mut up, mut down) = caller.begin("POST", "/", &[], Length::Untold);
        up.say(b"of no ");
        up.say(b"known length");
        up.end(&[]);
        let response = down.response();
        response.assert(200, "untold: of no known length");
        caller.keep(down, &response);
        let (mut up, mut down) = caller.begin("POST", "/", &[], Length::Untold);
        up.end(&[]);
        down.response().assert(200, "untold: ");
    });
}

#[test]
fn large_bodies_move_in_both_directions_at_once() {
    const LARGE: usize = 3 << 20;
    on_each_pair(|pair| {
        let scene = pair.scripted(|exchange| exchange.echo());
        let (mut up, mut down) = scene.caller().begin("POST", "/", &[], Length::Untold);
        let sending = std::thread::spawn(move || {
            for piece in pattern(LARGE).chunks(100_000) {
                up.say(piece);
            }
            up.end(&[]);
            up
        });
        let response = down.response();
        drop(sending.join().expect("sending does not panic"));
        assert_eq!((response.status(), response.end), (200, End::Complete));
        assert!(response.body == pattern(LARGE), "{} bytes", response.body.len());
    });
}

#[test]
fn large_answers_of_known_length_arrive_whole_beside_each_other() {
    const LARGE: usize = 2 << 20;
    on_each_pair(|pair| {
        let scene = pair.scripted(|exchange| {
            exchange.body();
            exchange.answer_with(200, &[], &pattern(LARGE));
        });
        let mut caller = scene.caller();
        let asked: Vec<_> = (0..4).map(|_| caller.begin("GET", "/", &[], Length::None)).collect();
        std::thread::scope(|scope| {
            for (_up, mut down) in asked {
                scope.spawn(move || assert!(down.response().body == pattern(LARGE)));
            }
        });
    });
}

#[test]
fn trailers_pass_in_both_directions() {
    on_each_pair(|pair| {
        let scene = pair.scripted(|exchange| {
            let (_, trailers, end) = exchange.body();
            assert_eq!(end, End::Complete);
            let said: Vec<_> = trailers.iter().map(|(name, value)| format!("{name}={value}")).collect();
            exchange.begin(200, &[("trailer", "x-sum, grpc-status")], Length::Untold);
            exchange.say(said.join(";").to_lowercase().as_bytes());
            exchange.end(&[("x-sum", "abc"), ("grpc-status", "0"), ("content-length", "7")]);
        });
        let fields = [("te", "trailers"), ("trailer", "x-checksum")];
        let (mut up, mut down) = scene.caller().begin("POST", "/", &fields, Length::Untold);
        up.say(b"data");
        up.end(&[("x-checksum", "123"), ("authorization", "evil"), ("x-forwarded-for", "6.6.6.6")]);
        let response = down.response();
        response.assert(200, "x-checksum=123");
        let mut trailers: Vec<_> =
            response.trailers.iter().map(|(name, value)| (name.to_lowercase(), value.clone())).collect();
        trailers.sort();
        assert_eq!(trailers, [("grpc-status", "0"), ("x-sum", "abc")].map(|(a, b)| (a.to_owned(), b.to_owned())));
    });
}

#[test]
fn a_continue_and_early_hints_are_passed_on_in_their_order() {
    on_each_pair(|pair| {
        let scene = pair.scripted(|exchange| {
            exchange.interim(100, &[]);
            let (body, ..) = exchange.body();
            exchange.interim(103, &[("link", "</style.css>; rel=preload")]);
            exchange.answer(200, &String::from_utf8_lossy(&body));
        });
        let (mut up, mut down) =
            scene.caller().begin("POST", "/", &[("expect", "100-continue")], Length::Told("waited".len()));
        assert!(down.head().start.contains(" 100"));
        up.say(b"waited");
        up.end(&[]);
        let response = down.response();
        response.assert(200, "waited");
        let hints = &response.interim[0];
        assert!(hints.start.contains(" 103"), "{response:?}");
        assert_eq!(hints.field("link"), Some("</style.css>; rel=preload"));
    });
}

#[test]
fn a_refusal_instead_of_a_continue_arrives() {
    on_each_pair(|pair| {
        let scene = pair.scripted(|exchange| {
            exchange.answer(417, "no");
            exchange.hang_up();
        });
        let fields = [("expect", "100-continue")];
        let (_up, mut down) = scene.caller().begin("POST", "/", &fields, Length::Told(1000));
        down.response().assert(417, "no");
    });
}

#[test]
fn answers_without_a_body_end_with_their_head() {
    on_each_pair(|pair| {
        let scene = pair.scripted(|exchange| {
            exchange.body();
            let status = exchange.path()[1..].parse().expect("the path is a status");
            exchange.begin(status, &[("etag", "\"x\"")], Length::None);
        });
        let mut caller = scene.caller();
        for status in [204, 304, 204] {
            let response = caller.get(&format!("/{status}"));
            response.assert(status, "");
            assert_eq!(response.head.field("etag"), Some("\"x\""));
            assert_eq!((response.head.field("transfer-encoding"), response.trailers.len()), (None, 0));
        }
        assert_eq!(scene.backend.accepted(), 1);
    });
}

#[test]
fn an_empty_answer_is_whole() {
    on_each_pair(|pair| {
        let scene = pair.scripted(|exchange| {
            exchange.body();
            match exchange.path() {
                "/told" => exchange.answer(200, ""),
                _ => {
                    exchange.begin(200, &[], Length::Untold);
                    exchange.end(&[]);
                }
            }
        });
        let mut caller = scene.caller();
        for path in ["/told", "/untold", "/told"] {
            caller.get(path).assert(200, "");
        }
    });
}

#[test]
fn many_fields_pass_and_cookies_come_as_one() {
    on_each_pair(|pair| {
        let scene = pair.scripted(|exchange| {
            exchange.body();
            let many = exchange.head.fields.iter().filter(|(name, _)| name.to_lowercase().starts_with("x-many"));
            assert_eq!(many.count(), 80);
            let cookies = exchange.head.field("cookie").expect("one field of cookies").to_owned();
            let fields: Vec<_> = (0..80).map(|at| (format!("x-back-{at}"), "y".repeat(100))).collect();
            let mut fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            fields.extend([("set-cookie", "a=1"), ("set-cookie", "b=2")]);
            exchange.answer_with(200, &fields, cookies.as_bytes());
        });
        let many: Vec<_> = (0..80).map(|at| (format!("x-many-{at}"), "x".repeat(100))).collect();
        let mut fields: Vec<_> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        match pair.client {
            Speaks::H1 => fields.push(("cookie", "a=b; c=d; e=f")),
            Speaks::H2 => fields.extend([("cookie", "a=b"), ("cookie", "c=d"), ("cookie", "e=f")]),
        }
        let response = scene.caller().ask("GET", "/", &fields, b"");
        response.assert(200, "a=b; c=d; e=f");
        assert_eq!(response.head.values("set-cookie"), ["a=1", "b=2"], "these are never made one");
        assert_eq!(response.head.field("x-back-79").map(str::len), Some(100));
    });
}

#[test]
fn what_is_said_of_the_client_and_of_us_is_the_same() {
    on_each_pair(|pair| {
        let listener = "forwarded = true\nvia = true\nheaders = { request = { set = { X-Env = \"prod\" } }, \
                        response = { remove = [\"Server\"] } }";
        let backend = Backend::scripted(pair.backend, |exchange| {
            exchange.body();
            exchange.answer_with(200, &[("server", "secret"), ("x-kept", "1")], b"ok");
        });
        let scene = pair.scene(listener, "", backend);
        let claims = [("x-forwarded-for", "6.6.6.6"), ("x-request-id", "mine"), ("x-real-ip", "6.6.6.6")];
        let response = scene.caller().ask("GET", "/", &claims, b"");
        response.assert(200, "ok");
        assert_eq!((response.head.field("server"), response.head.field("x-kept")), (None, Some("1")));
        let head = scene.backend.head();
        assert_eq!(head.field("host"), Some("test"));
        assert_eq!(head.field("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(head.field("x-forwarded-host"), Some("test"));
        assert_eq!(head.field("x-env"), Some("prod"));
        assert!(head.field("forwarded").is_some_and(|value| value.contains("127.0.0.1")), "{head:?}");
        let via = if pair.client == Speaks::H2 { "2" } else { "1.1" };
        assert!(head.field("via").is_some_and(|value| value.starts_with(via)), "{head:?}");
        assert!(head.field("x-request-id").is_some_and(|id| id != "mine"), "{head:?}");
        for name in ["connection", "keep-alive", "upgrade", "transfer-encoding", "proxy-connection"] {
            assert_eq!(head.field(name), None, "{head:?}");
            assert_eq!(response.head.field(name), None, "{response:?}");
        }
    });
}

#[test]
fn routes_and_own_answers_are_the_same() {
    on_each_pair(|pair| {
        let backend = Backend::answering(pair.backend, "api");
        let routes = r#"routes = [
            { path = { prefix = "/api" }, pool = "app" },
            { path = { exact = "/teapot" }, respond = { status = 418, body = "short" } },
            { path = { exact = "/moved" }, redirect = { status = 302, to = "https://{host}/new{query}" } },
        ]"#;
        let file = pair.file(routes, "", &[&backend]).replace("pool = \"app\"\nhttp", "http");
        let daemon = Daemon::start(&file);
        let mut caller = pair.caller(&daemon);
        caller.get("/api/x").assert(200, "api");
        caller.get("/teapot").assert(418, "short");
        assert_own(&caller.get("/nothing"), 404);
        let moved = caller.get("/moved?a=b");
        assert_eq!((moved.status(), moved.head.field("location")), (302, Some("https://test/new?a=b")));
        let to_head = caller.ask("HEAD", "/teapot", &[], b"");
        to_head.assert(418, "");
        assert_own(&caller.ask("POST", "/nothing", &[], b"unread"), 404);
        caller.get("/api/y").assert(200, "api");
    });
}

#[test]
fn a_request_that_breaks_a_rule_is_refused_and_reaches_nobody() {
    on_each_pair(|pair| {
        let scene = pair.scene("", "", Backend::answering(pair.backend, "ok"));
        for (path, fields) in [("/%00", &[][..]), ("/../x", &[]), ("/", &[("expect", "wonders")])] {
            let response = scene.caller().ask("GET", path, fields, b"");
            assert!(matches!(response.status(), 400 | 417), "{path} {fields:?} {response:?}");
            assert!(response.looks_complete());
        }
        assert_eq!(scene.caller().ask("TRACE", "/", &[], b"").status(), 501);
        assert_eq!(scene.backend.heads().len(), 0);
        scene.caller().get("/").assert(200, "ok");
    });
}

#[test]
fn an_answer_before_the_body_was_read_arrives() {
    on_each_pair(|pair| {
        let scene = pair.scripted(|exchange| {
            exchange.answer(413, "too much");
            exchange.hang_up();
        });
        let (mut up, mut down) = scene.caller().begin("POST", "/", &[], Length::Told(8 << 20));
        let sending = std::thread::spawn(move || up.say(&vec![b'x'; 256 * 1024]));
        down.response().assert(413, "too much");
        sending.join().expect("sending does not panic");
        eventually("nothing is under way", || scene.backend.under_way() == 0);
    });
}

#[test]
fn a_backend_that_dies_before_its_head_is_answered_for() {
    on_each_pair(|pair| {
        let backend = Backend::scripted(pair.backend, |exchange| {
            exchange.body();
            exchange.break_off();
        });
        let scene = pair.scene("", "", backend);
        let mut caller = scene.caller();
        assert_own(&caller.get("/"), 502);
        assert_own(&caller.ask("POST", "/", &[], b"body"), 502);
    });
}

#[test]
fn a_get_that_a_backend_gave_up_is_tried_on_another_and_a_post_is_not() {
    on_each_pair(|pair| {
        let failing = Backend::scripted(pair.backend, |exchange| {
            exchange.body();
            exchange.break_off();
        });
        let well = Backend::answering(pair.backend, "well");
        let daemon = Daemon::start(&pair.file("", "", &[&failing, &well]));
        let mut caller = pair.caller(&daemon);
        for _ in 0..4 {
            caller.get("/").assert(200, "well");
        }
        assert!(!failing.heads().is_empty());
        let posted: Vec<_> = (0..4).map(|_| pair.caller(&daemon).ask("POST", "/", &[], b"once").status()).collect();
        assert!(posted.contains(&502), "{posted:?}");
        let posts = |backend: &Backend| backend.heads().iter().filter(|head| head.start.starts_with("POST")).count();
        assert_eq!(posts(&failing) + posts(&well), 4, "no POST was sent twice");
    });
}

#[test]
fn a_backend_that_dies_in_the_middle_of_its_answer_never_looks_done() {
    on_each_pair(|pair| {
        for length in [Length::Told(1000), Length::Untold] {
            let gate = Gate::default();
            let passing = gate.clone();
            let scene = pair.scripted(move |exchange| {
                exchange.body();
                exchange.begin(200, &[], length);
                exchange.say(b"half of it");
                passing.pass();
                exchange.break_off();
            });
            let (_up, mut down) = scene.caller().begin("GET", "/", &[], Length::None);
            let head = down.head();
            gate.open();
            let response = down.rest(head);
            assert_cut(&response);
            assert!(b"half of it".starts_with(&response.body), "{response:?}");
            eventually("nothing is under way", || scene.backend.under_way() == 0);
        }
    });
}

#[test]
fn a_client_that_leaves_ends_the_backends_work_at_once_and_gives_its_place_back() {
    on_each_pair(|pair| {
        let backend = Backend::scripted(pair.backend, |exchange| {
            let path = exchange.path().to_owned();
            match path.as_str() {
                "/before" => drop(exchange.body()),
                "/answering" => {
                    exchange.body();
                    exchange.begin(200, &[], Length::Untold);
                    exchange.say(b"some");
                }
                "/asking" => {}
                _ => {
                    exchange.body();
                    return exchange.answer(200, "ok");
                }
            }
            exchange.wait_left();
        });
        // One place: whoever comes next finds it free again, or does not get there.
        let scene = pair.scene("", "queue = { timeout = \"15s\" }\n", backend);
        let one = pair.file("", "", &[&scene.backend]).replace(
            &format!("[\"{}\"]", scene.backend.address()),
            &format!("[{{ address = \"{}\", max_connections = 1 }}]", scene.backend.address()),
        );
        scene.daemon.reload(&one);
        for path in ["/before", "/answering", "/asking"] {
            let length = if path == "/asking" { Length::Told(1000) } else { Length::None };
            let (mut up, mut down) = scene.caller().begin("POST", path, &[], length);
            if path == "/asking" {
                up.say(b"a part");
            }
            scene.reached(1);
            if path == "/answering" {
                assert!(down.head().start.contains(" 200"));
            }
            leave(up, down);
            eventually("the backend is left", || scene.backend.under_way() == 0);
            scene.caller().get("/next").assert(200, "ok");
        }
    });
}

#[test]
fn a_client_that_leaves_while_its_body_is_not_taken_is_noticed() {
    on_each_pair(|pair| {
        // With HTTP/1.1 a client's reset shows only to who reads.
        if pair.client == Speaks::H1 {
            return;
        }
        let gate = Gate::default();
        let passing = gate.clone();
        // It takes nothing, so that the body comes to a standstill.
        let scene = pair.scripted(move |_| passing.pass());
        let (mut up, down) = scene.caller().begin("POST", "/", &[], Length::Told(32 << 20));
        scene.reached(1);
        let Up::H2(stream) = &mut up else { unreachable!("it speaks HTTP/2") };
        stream.say_what_fits(32 << 20);
        leave(up, down);
        scene.daemon.wait_log("cause=\"client_gone\"");
        gate.open();
    });
}

#[test]
fn a_backend_that_does_not_answer_in_time_is_given_up() {
    on_each_pair(|pair| {
        let scene = pair.scene("", "timeouts = { response_header = \"300ms\" }\n", Backend::hanging(pair.backend));
        let mut caller = scene.caller();
        assert_own(&caller.get("/"), 504);
        eventually("the backend is left", || scene.backend.under_way() == 0);
    });
}

#[test]
fn a_backend_that_stops_in_the_middle_is_given_up_and_the_answer_is_cut() {
    on_each_pair(|pair| {
        let backend = Backend::scripted(pair.backend, |exchange| {
            exchange.body();
            exchange.begin(200, &[], Length::Told(100));
            exchange.say(b"part");
            exchange.wait_left();
        });
        let scene = pair.scene("", "timeouts = { response_body = \"300ms\" }\n", backend);
        assert_cut(&scene.caller().get("/"));
        eventually("the backend is left", || scene.backend.under_way() == 0);
    });
}

#[test]
fn a_client_that_stops_in_the_middle_of_its_body_is_told_and_the_backend_left() {
    on_each_pair(|pair| {
        let scene = pair.scene("timeouts = { client_body = \"300ms\" }", "", Backend::hanging(pair.backend));
        let (mut up, mut down) = scene.caller().begin("POST", "/", &[], Length::Told(100));
        up.say(b"part");
        assert_own(&down.response(), 408);
        eventually("the backend is left", || scene.backend.under_way() == 0);
    });
}

#[test]
fn who_finds_all_full_waits_and_who_finds_the_queue_full_is_sent_away() {
    on_each_pair(|pair| {
        let gate = Gate::default();
        let passing = gate.clone();
        let backend = Backend::scripted(pair.backend, move |exchange| {
            exchange.body();
            passing.pass();
            exchange.answer(200, "ok");
        });
        let file = pair.file("", "queue = { max = 2, timeout = \"60s\" }\n", &[&backend]).replace(
            &format!("[\"{}\"]", backend.address()),
            &format!("[{{ address = \"{}\", max_connections = 1 }}]", backend.address()),
        );
        let daemon = Daemon::start(&file);
        let mut caller = pair.caller(&daemon);
        let mut asked = vec![caller.begin("GET", "/first", &[], Length::None)];
        eventually("it is at the backend", || backend.under_way() == 1);
        for at in 1..=2 {
            asked.push(caller.begin("GET", "/waits", &[], Length::None));
            eventually("it waits", || daemon.times_logged("all backends are full: it waits") == at);
        }
        let away = caller.get("/away");
        assert_own(&away, 503);
        assert_eq!(away.head.field("retry-after"), Some("60"));
        gate.open();
        for (_up, mut down) in asked {
            down.response().assert(200, "ok");
        }
    });
}

#[test]
fn reloads_under_load_lose_nothing() {
    on_each_pair(|pair| {
        let (one, other) = (Backend::answering(pair.backend, "one"), Backend::answering(pair.backend, "other"));
        let files = [
            pair.file("", "", &[&one, &other]),
            pair.file("", "balance = \"least_connections\"\n", &[&other]),
            pair.file("via = true", "", &[&one]),
        ];
        let daemon = Daemon::start(&files[0]);
        let (done, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut caller = pair.caller(&daemon);
                    while done.load(Ordering::SeqCst) == 0 {
                        let response = caller.ask("POST", "/", &[], b"body");
                        if response.status() != 200 || !matches!(response.text().as_str(), "one" | "other") {
                            wrong.lock().expect("no holder panics").push(response);
                        }
                    }
                });
            }
            for at in 1..=9 {
                daemon.reload(&format!("{}# {at}\n", files[at % files.len()]));
            }
            done.store(1, Ordering::SeqCst);
        });
        let wrong = wrong.into_inner().expect("no holder panics");
        assert!(wrong.is_empty(), "{wrong:?}");
        assert!(one.heads().len() + other.heads().len() > 20);
    });
}

#[test]
fn a_backend_that_is_removed_finishes_what_it_has() {
    on_each_pair(|pair| {
        let gate = Gate::default();
        let passing = gate.clone();
        let old = Backend::scripted(pair.backend, move |exchange| {
            exchange.body();
            exchange.begin(200, &[], Length::Untold);
            exchange.say(b"first ");
            passing.pass();
            exchange.say(b"last");
            exchange.end(&[]);
        });
        let new = Backend::answering(pair.backend, "new");
        let daemon = Daemon::start(&pair.file("", "", &[&old]));
        let mut caller = pair.caller(&daemon);
        let (_up, mut down): (Up, Down) = caller.begin("GET", "/", &[], Length::None);
        let head = down.head();
        daemon.reload(&pair.file("", "", &[&new]));
        pair.caller(&daemon).get("/").assert(200, "new");
        caller.get("/").assert(200, "new");
        gate.open();
        down.rest(head).assert(200, "first last");
    });
}
