//! What HTTP/2 offers to those who mean ill: each attack ends within its bound, costs no more memory than is said here, and a
//! client beside it is served throughout.
//!
//! Bounds of memory are for the whole process, from before the attack to its peak; docs/limits.md says where they come from.
//! No time is measured: an attack that does not end fails by the deadline of all tests.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, INITIAL_WINDOW_SIZE, LAST_REMEMBERED,
    PING, PREFACE, PRIORITY, PROTOCOL_ERROR, RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE, frame, get, head, ping, post,
    remembered, reset, settings, window_update,
};
use crate::support::h2::H2Client;
use crate::support::origin::ok;
use crate::support::{DEADLINE, Daemon, Launch, Origin, backends, eventually, web};

const MIB: u64 = 1 << 20;

/// Deadlines short enough to be waited for.
const TIMEOUTS: &str = "timeouts = { client_header = \"1s\", client_body = \"1s\", client_write = \"1s\" }";

/// What the floods may cost, in bytes: they are stopped before they amount to anything.
const FLOOD: u64 = 16 * MIB;

/// A daemon that answers `/` shortly, `/large` with a MiB, and never `/hang`; who asks for `/full` waits for its turn there.
struct Arena {
    daemon: Daemon,
    address: String,
    origin: Origin,
}

impl Arena {
    fn new() -> Arena {
        let origin = Origin::scripted(|mut connection| {
            let large = ok(&"x".repeat(MIB as usize));
            while let Some(request) = connection.head() {
                match request.head.start.split(' ').nth(1) {
                    Some("/hang" | "/full") => drop(connection.ending()),
                    Some("/large") => connection.send(&large),
                    _ => {
                        connection.body(request.head.framing(crate::support::message::Framing::None));
                        connection.send(ok("small"));
                    }
                }
            }
        });
        let listener = format!(
            "http_versions = [\"h1\", \"h2\"]\n{TIMEOUTS}\n\
             routes = [{{ path = {{ exact = \"/full\" }}, pool = \"full\" }}, {{ pool = \"app\" }}]"
        );
        let file = web(&listener, &backends(&[origin.address()])).replacen("pool = \"app\"\n", "", 1);
        let file = format!(
            "{file}\n[pools.full]\nbackends = [{{ address = \"{}\", max_connections = 1 }}]\n\
             queue = {{ max = 1000, timeout = \"1s\" }}\n",
            origin.address()
        );
        let daemon = Launch::new().level("info").write("evenkeel.toml", &file).start();
        let address = daemon.address("web");
        Arena { daemon, address, origin }
    }

    /// Lets `attack` happen with so many clients at once; it may cost so many bytes at most, and all that it began is over after
    /// it.
    #[track_caller]
    fn withstands(&self, what: &str, most: u64, clients: usize, attack: impl Fn(Raw) + Sync) {
        let client = H2Client::connect(&self.address);
        // Once around, so that what is allocated for good is there.
        for _ in 0..200 {
            client.get("/").assert(200, "small");
        }
        let (rest, over) = (self.daemon.resident_bytes(), AtomicBool::new(false));
        let (served, under_way) = (AtomicUsize::new(0), AtomicUsize::new(clients));
        let mut growth = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    client.get("/").assert(200, "small");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
            let attackers: Vec<_> = (0..clients)
                .map(|_| {
                    scope.spawn(|| {
                        attack(Raw::silent(&self.address));
                        under_way.fetch_sub(1, Ordering::SeqCst);
                    })
                })
                .collect();
            while attackers.iter().any(|attacker| !attacker.is_finished()) {
                growth = growth.max(self.daemon.resident_bytes().saturating_sub(rest));
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            let (end, enough) = (std::time::Instant::now() + DEADLINE, served.load(Ordering::SeqCst) + 10);
            while served.load(Ordering::SeqCst) < enough && std::time::Instant::now() < end {
                std::thread::yield_now();
            }
            over.store(true, Ordering::SeqCst);
        });
        println!("{what}: {} KiB more, {} requests beside it", growth >> 10, served.load(Ordering::SeqCst));
        assert_eq!(under_way.load(Ordering::SeqCst), 0, "each attacker has seen its end");
        assert!(growth <= most, "{what}: it grew by {growth} bytes");
        client.get("/").assert(200, "small");
        drop(client);
        eventually("nothing is left of them", || self.daemon.descriptors() < 32);
        eventually("no work is left at the backend", || self.origin.open() <= 1);
    }
}

/// Says the preface and these settings.
fn begin(raw: &mut Raw, more: &[(u16, u32)]) {
    raw.send([PREFACE, &settings(&[&[(1, 0)], more].concat())].concat());
}

/// Sends the same until the connection is ended.
#[track_caller]
fn flood(mut raw: Raw, bytes: &[u8]) {
    begin(&mut raw, &[]);
    let (code, ended) = raw.flood(&bytes.repeat(64), DEADLINE);
    assert!(ended, "nobody stops it");
    // A reset can be quicker than the words before it, and some of these are not allowed even once.
    assert!(matches!(code, None | Some(ENHANCE_YOUR_CALM | PROTOCOL_ERROR)), "{code:?}");
}

/// Sends these, one for each stream that they are about, and expects the connection to end before they do.
#[track_caller]
fn on_many_streams(mut raw: Raw, count: u32, bytes: impl Fn(u32) -> Vec<u8>) {
    begin(&mut raw, &[]);
    let (mut ended, begun) = (false, std::time::Instant::now());
    for at in 0..count {
        let bytes = bytes(2 * at + 1);
        let mut rest = &bytes[..];
        while !rest.is_empty() && !ended && begun.elapsed() < DEADLINE {
            let (sent, over) = raw.send_what_fits(rest);
            rest = &rest[sent..];
            ended = over;
        }
    }
    let end = std::time::Instant::now() + DEADLINE;
    while !ended && std::time::Instant::now() < end {
        ended = raw.send_what_fits(&[]).1;
    }
    assert!(ended, "nobody stops it");
}

#[test]
fn rapid_reset() {
    let arena = Arena::new();
    arena.withstands("rapid reset", FLOOD, 8, |raw| {
        on_many_streams(raw, 20_000, |stream| [get(stream, "/hang"), reset(stream)].concat());
    });
    arena.withstands("rapid reset, each seen first", FLOOD, 8, |raw| {
        on_many_streams(raw, 5_000, |stream| {
            std::thread::yield_now();
            [get(stream, "/hang"), ping(), reset(stream)].concat()
        });
    });
}

#[test]
fn made_you_reset() {
    let arena = Arena::new();
    type Way = fn(u32) -> Vec<u8>;
    let ways: [(&str, Way); 5] = [
        ("a window that overflows", |stream| window_update(stream, 0x7fff_ffff)),
        ("a window wider by nothing", |stream| window_update(stream, 0)),
        ("data behind the end", |stream| frame(DATA, 0, stream, b"more")),
        ("a head behind the end", |stream| frame(HEADERS, END_HEADERS, stream, &head("GET", "/", &[]))),
        ("a stream that depends on itself", |stream| {
            frame(PRIORITY, 0, stream, &[&stream.to_be_bytes()[..], &[1]].concat())
        }),
    ];
    for (what, way) in ways {
        arena.withstands(what, FLOOD, 4, |raw| {
            on_many_streams(raw, 20_000, |stream| [get(stream, "/hang"), way(stream)].concat());
        });
    }
}

#[test]
fn continuation_flood() {
    let arena = Arena::new();
    for piece in [b"".to_vec(), b"\0\x01x\x01y".to_vec(), [&b"\0\x01x\x7f\x81\x7e"[..], &[b'y'; 16_256]].concat()] {
        arena.withstands("CONTINUATION flood", FLOOD, 8, |mut raw| {
            begin(&mut raw, &[]);
            raw.send(frame(HEADERS, END_STREAM, 1, &head("GET", "/", &[])));
            let (_, ended) = raw.flood(&frame(CONTINUATION, 0, 1, &piece), DEADLINE);
            assert!(ended, "nobody stops it");
        });
    }
}

#[test]
fn hpack_bomb() {
    let arena = Arena::new();
    // Each byte of such a head stands for a field: of nothing, of much, of a cookie.
    let entries = [remembered("x", ""), remembered("x", &"y".repeat(3900)), remembered("cookie", "a=b")];
    for entry in entries {
        let bomb = [&head("GET", "/", &[])[..], &entry, &[LAST_REMEMBERED; 12_000][..]].concat();
        // What a head may become is dropped when it is too large, and what does not fit is never kept.
        arena.withstands("HPACK bomb", FLOOD, 8, |mut raw| {
            begin(&mut raw, &[]);
            for stream in (1..400).step_by(2) {
                if !raw.send(frame(HEADERS, END_STREAM | END_HEADERS, stream, &bomb)) {
                    break;
                }
                // Either it is told each time that this is too large, or no more.
                match raw.next_of_stream(stream) {
                    Some(frame) => assert!(matches!(frame.kind, HEADERS | RST_STREAM), "{frame:?}"),
                    None => break,
                }
            }
        });
    }
}

/// What a stream may cost whose answer is not taken, in bytes: what was read of the answer, and the exchange itself.
const STALLED_STREAM: u64 = 64 << 10;

#[test]
fn zero_window_stall() {
    let arena = Arena::new();
    arena.withstands("zero-window stall", 500 * STALLED_STREAM, 5, |mut raw| {
        begin(&mut raw, &[(INITIAL_WINDOW_SIZE, 0)]);
        for stream in (1..200).step_by(2) {
            raw.send(get(stream, "/large"));
        }
        let mut left = 100;
        while left > 0 {
            let frame = raw.next().expect("the connection goes on");
            left -= i32::from(frame.kind == RST_STREAM);
        }
    });
}

/// What a connection may cost whose bodies wait to be taken, in bytes: its window, and the exchanges.
const STUCK_UPLOADS: u64 = 2 * MIB;

#[test]
fn bodies_that_nobody_takes() {
    let arena = Arena::new();
    let clients = 8;
    arena.withstands("bodies that nobody takes", clients as u64 * STUCK_UPLOADS, clients, |mut raw| {
        begin(&mut raw, &[]);
        for stream in (1..64).step_by(2) {
            raw.send(post(stream, "/full"));
        }
        // All that the windows allow, for requests that wait.
        raw.expect(WINDOW_UPDATE, 0);
        for stream in (1..32).step_by(2) {
            raw.send(frame(DATA, 0, stream, &[b'x'; 16_000]).repeat(4));
        }
        let mut ended = 0;
        while ended < 32 {
            let frame = raw.next().expect("the connection goes on");
            ended += i32::from(frame.kind == HEADERS);
        }
    });
}

#[test]
fn floods_of_frames_that_cost_nothing() {
    let arena = Arena::new();
    let floods = [
        ("SETTINGS", settings(&[])),
        ("SETTINGS that change much", settings(&[(1, 4096), (4, 1), (4, 0x7fff_ffff), (1, 0)])),
        ("answers to SETTINGS", frame(SETTINGS, 1, 0, b"")),
        ("PING", ping()),
        ("answers to PING", frame(PING, 1, 0, b"12345678")),
        ("PRIORITY", frame(PRIORITY, 0, 3, b"\0\0\0\x01\x10")),
        ("unknown frames", frame(0xbb, 0, 0, b"?")),
    ];
    for (what, bytes) in floods {
        arena.withstands(what, FLOOD, 8, |raw| flood(raw, &bytes));
    }
}

#[test]
fn floods_on_a_stream() {
    let arena = Arena::new();
    for (what, bytes) in [
        ("empty DATA", frame(DATA, 0, 1, b"")),
        ("padding", frame(DATA, 8, 1, b"\x02\0\0")),
        ("WINDOW_UPDATE", window_update(1, 1)),
    ] {
        arena.withstands(what, FLOOD, 8, |mut raw| {
            begin(&mut raw, &[]);
            raw.send(post(1, "/hang"));
            let (code, ended) = raw.flood(&bytes.repeat(64), DEADLINE);
            assert!(ended, "nobody stops it");
            assert!(matches!(code, None | Some(ENHANCE_YOUR_CALM)), "{code:?}");
        });
    }
}

#[test]
fn a_flood_by_who_takes_no_answer() {
    let arena = Arena::new();
    arena.withstands("PING and no reading", FLOOD, 8, |mut raw| {
        begin(&mut raw, &[]);
        // Slow enough for the budget, and with requests for answers that are not read.
        let mut stream = 1;
        eventually("it is ended", || {
            let requests: Vec<_> = (0..50).flat_map(|at| get(stream + 2 * at, "/")).collect();
            stream += 100;
            raw.send_what_fits_unread(&[requests, ping()].concat())
        });
    });
}

#[test]
fn prefaces_and_heads_that_never_end() {
    let arena = Arena::new();
    arena.withstands("half a preface", FLOOD, 100, |mut raw| {
        raw.send(&PREFACE[..20]);
        raw.ending();
    });
    arena.withstands("half a head", FLOOD, 100, |mut raw| {
        begin(&mut raw, &[]);
        raw.send([get(1, "/hang"), frame(HEADERS, 0, 3, &head("GET", "/", &[]))].concat());
        raw.ending();
    });
}
