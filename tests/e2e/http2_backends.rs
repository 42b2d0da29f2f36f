//! Backends of HTTP/2 that do what no good one does: who asks gets a whole answer, an honest failure or a cut one, in time,
//! and the next request is not harmed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;

use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE, LAST_REMEMBERED,
    MAX_CONCURRENT_STREAMS, REFUSED_STREAM, RST_STREAM, Raw, backend, block, frame, head, ping, remembered, settings,
    window_update,
};
use crate::support::{Client, Daemon, Deaf, FAILED, Launch, Origin, TELLING, backends, eventually, web};

/// A daemon before a backend that is spoken to in HTTP/2, with short deadlines.
fn before(address: &str) -> Daemon {
    let pool = format!(
        "{}http_version = \"h2\"\ntimeouts = {{ response_header = \"1s\", response_body = \"1s\" }}\n",
        backends(&[address])
    );
    Launch::new().level("debug").write("evenkeel.toml", &web("", &pool)).start()
}

fn client(daemon: &Daemon) -> Client {
    Client::connect(&daemon.address("web"))
}

/// A head with this status and these fields.
fn answer(stream: u32, flags: u8, status: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &block(&[&[(":status", status)], fields].concat()))
}

fn data(stream: u32, flags: u8, text: &str) -> Vec<u8> {
    frame(DATA, flags, stream, text.as_bytes())
}

/// An answer that nobody has anything to say against.
fn fine(stream: u32) -> Vec<u8> {
    [answer(stream, 0, "200", &[("content-length", "4")]), data(stream, END_STREAM, "fine")].concat()
}

/// A backend that says its settings and answers each request so; it is given the request's number, from zero, and its stream.
fn saying(more: &'static [(u16, u32)], script: impl Fn(usize, u32) -> Vec<u8> + Send + Sync + 'static) -> String {
    let asked = AtomicUsize::new(0);
    backend(move |mut raw: Raw| {
        raw.send(settings(more));
        while let Some(stream) = raw.request() {
            raw.send(script(asked.fetch_add(1, Ordering::SeqCst), stream));
        }
    })
}

const SPLIT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";

#[test]
fn an_answer_that_has_no_body_has_none_whatever_is_sent_as_one() {
    for status in ["204", "304"] {
        let address = saying(&[], move |at, stream| match at {
            0 => [answer(stream, 0, status, &[]), data(stream, END_STREAM, SPLIT)].concat(),
            _ => fine(stream),
        });
        let daemon = before(&address);
        let mut client = client(&daemon);
        client
            .send("GET / HTTP/1.1\r\nHost: test\r\n\r\nGET /next HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        let (bytes, _) = client.rest();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("evil"), "{status}: {text}");
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
    }
}

#[test]
fn data_for_a_head_request_is_not_passed_on() {
    let address = saying(&[], |_, stream| {
        [answer(stream, 0, "200", &[("content-length", "46")]), data(stream, END_STREAM, SPLIT)].concat()
    });
    let daemon = before(&address);
    let mut client = client(&daemon);
    client.send("HEAD / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    let (bytes, _) = client.rest();
    assert!(!String::from_utf8_lossy(&bytes).contains("evil"), "{}", bytes.escape_ascii());
}

#[test]
fn interim_answers_without_end_are_given_up() {
    let address = saying(&[], |at, stream| match at {
        0 => (0..5000).flat_map(|_| answer(stream, 0, "103", &[("link", "</a>")])).collect(),
        _ => fine(stream),
    });
    let daemon = before(&address);
    assert_eq!(client(&daemon).get("/").status(), 502);
    client(&daemon).get("/").assert(200, "fine");
}

#[test]
fn a_backend_that_lets_nobody_in_is_given_up_in_time_and_holds_nothing() {
    let address = saying(&[(MAX_CONCURRENT_STREAMS, 0)], |_, _| Vec::new());
    let daemon = before(&address);
    for _ in 0..2 {
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| assert_eq!(client(&daemon).get("/").status(), 504));
            }
        });
    }
    eventually("no client is left", || daemon.descriptors() < 40);
}

#[test]
fn a_backend_that_never_says_its_settings_is_served_all_the_same() {
    let address = backend(|mut raw| {
        while let Some(stream) = raw.request() {
            raw.send(fine(stream));
        }
    });
    let daemon = before(&address);
    let _ = client(&daemon).get("/").status();
}

#[test]
fn an_answer_of_http1_is_none() {
    let origin = Origin::scripted(|mut connection| {
        connection.some();
        connection.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        connection.ending();
    });
    let daemon = before(origin.address());
    assert_eq!(client(&daemon).get("/").status(), 502);
}

#[test]
fn trailers_that_are_too_large_cut_the_answer() {
    let address = saying(&[], |_, stream| {
        let value = "x".repeat(12_000);
        let fields: Vec<_> = ["a", "b", "c", "d", "e"].map(|name| (name, &*value)).to_vec();
        let block = block(&fields);
        let mut bytes = [answer(stream, 0, "200", &[]), data(stream, 0, "some")].concat();
        let chunks: Vec<_> = block.chunks(16_000).collect();
        for (at, chunk) in chunks.iter().enumerate() {
            let last = if at + 1 == chunks.len() { END_HEADERS } else { 0 };
            let (kind, flags) = if at == 0 { (HEADERS, END_STREAM | last) } else { (CONTINUATION, last) };
            bytes.extend(frame(kind, flags, stream, chunk));
        }
        bytes
    });
    let daemon = before(&address);
    let response = client(&daemon).get("/");
    assert!(!response.looks_complete(), "{response:?}");
}

#[test]
fn a_length_that_is_not_kept_cuts_the_answer() {
    for (told, sent) in [("4", "five5"), ("6", "five5")] {
        let address = saying(&[], move |_, stream| {
            [answer(stream, 0, "200", &[("content-length", told)]), data(stream, END_STREAM, sent)].concat()
        });
        let daemon = before(&address);
        let mut client = client(&daemon);
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        let response = client.response();
        assert!(!response.looks_complete() || response.status() == 502, "{told}: {response:?}");
    }
}

#[test]
fn what_comes_behind_the_end_of_a_stream_harms_no_other() {
    let address = saying(&[], |_, stream| [fine(stream), data(stream, 0, "more")].concat());
    let daemon = before(&address);
    for _ in 0..5 {
        client(&daemon).get("/").assert(200, "fine");
    }
}

#[test]
fn floods_end_the_connection_and_the_next_request_takes_another() {
    let floods = [
        ping().repeat(5000),
        settings(&[]).repeat(5000),
        frame(DATA, 0, 1, b"").repeat(5000),
        frame(0x2, 0, 1, b"12345").repeat(5000),
    ];
    for flood in floods {
        let kind = flood[3];
        let connections = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&connections);
        let address = backend(move |mut raw| {
            let first = seen.fetch_add(1, Ordering::SeqCst) == 0;
            raw.send(settings(&[]));
            while let Some(stream) = raw.request() {
                match first {
                    true => drop(raw.send(&flood)),
                    false => drop(raw.send(fine(stream))),
                }
            }
        });
        let daemon = before(&address);
        let status = client(&daemon).get("/").status();
        assert!(status == 502 || status == 200, "{kind}: {status}");
        client(&daemon).get("/").assert(200, "fine");
        assert!(connections.load(Ordering::SeqCst) >= 2, "{kind}");
    }
}

#[test]
fn what_a_goaway_leaves_out_is_sent_again_and_a_post_too() {
    let connections = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&connections);
    let address = backend(move |mut raw| {
        let first = seen.fetch_add(1, Ordering::SeqCst) == 0;
        raw.send(settings(&[]));
        while let Some(stream) = raw.request() {
            match first {
                true if stream == 1 => drop(raw.send(fine(stream))),
                true => drop(raw.send(frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]))),
                false => drop(raw.send(fine(stream))),
            }
        }
    });
    let daemon = before(&address);
    client(&daemon).get("/").assert(200, "fine");
    client(&daemon).post("/", "").assert(200, "fine");
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

#[test]
fn who_refuses_every_stream_is_asked_a_few_times_only() {
    let asked = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&asked);
    let address = saying(&[], move |_, stream| {
        seen.fetch_add(1, Ordering::SeqCst);
        frame(RST_STREAM, 0, stream, &REFUSED_STREAM.to_be_bytes())
    });
    let daemon = before(&address);
    assert_eq!(client(&daemon).get("/").status(), 502);
    assert!(asked.load(Ordering::SeqCst) <= 4, "{asked:?}");
}

#[test]
fn a_backend_whose_window_stays_shut_is_given_up() {
    let address = saying(&[(INITIAL_WINDOW_SIZE, 0)], |_, _| Vec::new());
    let daemon = before(&address);
    assert_eq!(client(&daemon).post("/", "hello").status(), 504);
}

#[test]
fn clients_that_take_nothing_do_not_hold_up_others_on_the_same_connection() {
    let asked = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&asked);
    let origin = crate::support::h2::serve(
        move |mut served| {
            seen.fetch_add(1, Ordering::SeqCst);
            served.respond(200, &[], false);
            let large = "x".repeat(8 << 20);
            served.say(if served.head.start.contains("/large") { large.as_bytes() } else { b"small" });
            served.end(&[]);
        },
        Arc::default(),
    );
    let daemon = before(&origin.to_string());
    let greedy: Vec<_> = (0..20)
        .map(|_| {
            let mut client = client(&daemon);
            client.send("GET /large HTTP/1.1\r\nHost: test\r\n\r\n");
            client
        })
        .collect();
    eventually("all are answered", || asked.load(Ordering::SeqCst) == 20);
    for _ in 0..20 {
        std::thread::sleep(std::time::Duration::from_millis(20));
        client(&daemon).get("/").assert(200, "small");
    }
    drop(greedy);
}

#[test]
fn who_answers_before_it_has_read_everything_and_wants_no_more_is_heard_to_the_end() {
    let address = saying(&[], |_, stream| [fine(stream), frame(RST_STREAM, 0, stream, &[0; 4])].concat());
    let daemon = before(&address);
    for _ in 0..10 {
        let mut client = client(&daemon);
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\nsome");
        client.response().assert(200, "fine");
    }
}

#[test]
fn a_stream_that_a_goaway_leaves_in_is_answered() {
    let connections = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&connections);
    let address = backend(move |mut raw| {
        seen.fetch_add(1, Ordering::SeqCst);
        raw.send(settings(&[]));
        while let Some(stream) = raw.request() {
            let [.., s, t, u, v] = u64::from(stream).to_be_bytes();
            raw.send([frame(GOAWAY, 0, 0, &[s, t, u, v, 0, 0, 0, 0]), fine(stream)].concat());
        }
    });
    let daemon = before(&address);
    for asked in 1..5 {
        client(&daemon).post("/", "hello").assert(200, "fine");
        assert_eq!(connections.load(Ordering::SeqCst), asked);
    }
}

#[test]
fn a_stop_ends_shared_connections_and_does_not_wait_for_them() {
    let ended = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&ended);
    let address = backend(move |mut raw| {
        raw.send(settings(&[]));
        while let Some(stream) = raw.request() {
            raw.send(fine(stream));
        }
        seen.fetch_add(1, Ordering::SeqCst);
    });
    let mut daemon = before(&address);
    client(&daemon).get("/").assert(200, "fine");
    daemon.signal(Signal::TERM);
    assert!(daemon.wait_exit().success());
    eventually("its connection has ended", || ended.load(Ordering::SeqCst) == 1);
}

#[test]
fn a_request_that_http2_has_no_words_for_is_nobodys_failure_but_its_clients() {
    let asked = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&asked);
    let address = saying(&[], move |_, stream| {
        seen.fetch_add(1, Ordering::SeqCst);
        fine(stream)
    });
    let pool = format!("{}http_version = \"h2\"\n{TELLING}", backends(&[&address]));
    let limits = "limits = { header_bytes = \"256KiB\", request_line = \"128KiB\" }";
    let daemon = Daemon::start(&web(limits, &pool));
    for path in ["x".repeat(100_000), "\"".repeat(30_000)] {
        assert_eq!(client(&daemon).get(&format!("/?{path}")).status(), 400);
    }
    client(&daemon).get("/").assert(200, "fine");
    assert!(!daemon.has_logged(FAILED));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[test]
fn heads_that_unpack_to_much_cost_little() {
    let address = backend(|mut raw| {
        raw.send(settings(&[]));
        while let Some(stream) = raw.request() {
            let status = block(&[(":status", "103")]);
            let first = [&status[..], &remembered("a", "")].concat();
            let more = [&status[..], &[LAST_REMEMBERED; 1900]].concat();
            let mut bytes = frame(HEADERS, END_HEADERS, stream, &first);
            for _ in 0..300 {
                bytes.extend(frame(HEADERS, END_HEADERS, stream, &more));
            }
            raw.send(bytes);
        }
    });
    let daemon = before(&address);
    let rest = daemon.resident_bytes();
    for _ in 0..4 {
        // A slow machine may need more than its time to read them.
        assert!(matches!(client(&daemon).get("/").status(), 502 | 504));
    }
    let grown = daemon.resident_bytes().saturating_sub(rest);
    assert!(grown < 16 << 20, "{grown}");
}

#[test]
fn games_with_windows_end_their_connection_and_no_other() {
    let games = [
        // More than a window can be (RFC 9113 §6.9.1), none at all, and one that is no window.
        window_update(0, 0x7fff_ffff),
        window_update(0, 0),
        settings(&[(INITIAL_WINDOW_SIZE, 0x8000_0000)]),
        // What was never offered (§8.4), and an answer to what was never asked.
        frame(0x5, END_HEADERS, 1, &[&2u32.to_be_bytes()[..], &head("GET", "/", &[])].concat()),
        answer(99, END_STREAM, "200", &[]),
    ];
    for game in games {
        let shown = game.escape_ascii().to_string();
        let connections = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&connections);
        let address = backend(move |mut raw| {
            let first = seen.fetch_add(1, Ordering::SeqCst) == 0;
            raw.send(settings(&[]));
            while let Some(stream) = raw.request() {
                raw.send(if first { game.clone() } else { fine(stream) });
            }
        });
        let daemon = before(&address);
        let status = client(&daemon).get("/").status();
        assert!(matches!(status, 200 | 502), "{shown}: {status}");
        client(&daemon).post("/", "hello").assert(200, "fine");
        assert_eq!(connections.load(Ordering::SeqCst), 2, "{shown}");
    }
}

#[test]
fn all_who_wait_for_a_connection_that_is_never_made_are_answered_in_time() {
    let deaf = Deaf::new();
    let pool = format!("{}http_version = \"h2\"\ntimeouts = {{ connect = \"500ms\" }}\n", backends(&[deaf.address()]));
    let daemon = Daemon::start(&web("", &pool));
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| assert_eq!(client(&daemon).get("/").status(), 504));
        }
    });
    eventually("nothing is left of them", || daemon.descriptors() < 32);
}
