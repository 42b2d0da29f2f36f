//! What the small steps of a request cost: `cargo bench --bench micro`, or `… -- parse` for those with that in their name.
//!
//! Each step is repeated in batches of some milliseconds; the cheapest batch counts, because whatever else the machine does
//! only ever adds. `cargo test` runs each step once, to see that it still does.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant as WallClock};

use evenkeel::balance::{
    AnyPicker, Ask, Candidate, ConsistentHash, Dice, Estimate, Picker, Policy, Rung, Standing, Tried,
};
use evenkeel::clock::Instant;
use evenkeel::config::from_text;
use evenkeel::http::fields::{Forwarding, Scheme};
use evenkeel::http::h1::body::{CHUNK_END, Decoder, Step, chunk_head, last_chunk};
use evenkeel::http::h1::parse::{self, HeadLimits};
use evenkeel::http::h1::write::{self, Connection, Reply};
use evenkeel::http::{Fields, Framing, Method, RequestHead, ResponseHead, Target, Version};
use evenkeel::outcome::{Outcome, Verdict};
use evenkeel::state::{Protocol, RouteAsk, Snapshot, View};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

const SMALL: &[u8] = b"GET /128 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";
const BROWSER: &[u8] = b"GET /articles/2024/a-page.html?from=start HTTP/1.1\r\nHost: www.example.com\r\nConnection: keep-alive\r\n\
    Cache-Control: max-age=0\r\nUpgrade-Insecure-Requests: 1\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 \
    (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\nReferer: https://www.example.com/articles/\r\n\
    Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; seen=1\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nServer: origin\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Type: text/plain\r\n\
    Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\nETag: \"0123456789\"\r\nCache-Control: max-age=600\r\nContent-Length: 4096\r\n\r\n";
const NOW: Instant = Instant::ORIGIN;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let wanted = arguments.iter().find(|argument| !argument.starts_with('-')).cloned();
    let bench = Bench { measures: arguments.iter().any(|argument| argument == "--bench"), wanted };
    heads(&bench);
    bodies(&bench);
    targets(&bench);
    pickers(&bench);
    decisions(&bench);
    handshakes(&bench);
}

/// Which steps are run, and whether they are measured.
struct Bench {
    measures: bool,
    wanted: Option<String>,
}

impl Bench {
    fn step(&self, name: &str, mut run: impl FnMut()) {
        if !self.wants(name) {
            return;
        }
        run();
        if self.measures {
            println!("{name:<48}{:>10.1} ns", nanoseconds(run));
        }
    }

    /// The same for a step that says itself how long its part took that counts.
    fn part(&self, name: &str, mut run: impl FnMut() -> Duration) {
        if !self.wants(name) {
            return;
        }
        run();
        if self.measures {
            let mut batch = || (0..50).map(|_| run()).sum::<Duration>() / 50;
            let cheapest = (0..25).map(|_| batch()).min().unwrap_or_default();
            println!("{name:<48}{:>10.1} ns", cheapest.as_secs_f64() * 1e9);
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| name.contains(wanted))
    }
}

/// The time of one run in the cheapest of several batches.
fn nanoseconds(mut run: impl FnMut()) -> f64 {
    const BATCHES: usize = 25;
    const BATCH: Duration = Duration::from_millis(4);
    let mut batch = |runs: u32| {
        let begin = WallClock::now();
        (0..runs).for_each(|_| run());
        begin.elapsed()
    };
    let mut runs = 1;
    while batch(runs) < BATCH {
        runs *= 2;
    }
    let cheapest = (0..BATCHES).map(|_| batch(runs)).min().unwrap_or_default();
    cheapest.as_secs_f64() * 1e9 / f64::from(runs)
}

fn heads(bench: &Bench) {
    let limits = HeadLimits::default();
    let how = Forwarding {
        peer: Some([192, 0, 2, 10].into()),
        trusted: false,
        scheme: Scheme::Http,
        port: Some(8080),
        request_id: "0123456789abcdef0123456789abcdef",
        fallback_host: "",
        websocket_key: None,
        client_cert: None,
        forwarded: false,
        via: false,
        edits: &[],
    };
    let (mut head, mut out) = (RequestHead::default(), Vec::new());
    for (kind, text) in [("small", SMALL), ("browser's", BROWSER)] {
        bench.step(&format!("parse a {kind} request"), || {
            let parsed = parse::request(black_box(text), 0, &limits, &mut head);
            black_box(parsed).expect("it is well-formed");
        });
        parse::request(text, 0, &limits, &mut head).expect("it is well-formed");
        bench.step(&format!("write a {kind} request"), || {
            out.clear();
            write::request(&mut out, black_box(&head), &how);
        });
    }
    let mut head = ResponseHead::default();
    bench.step("parse a response", || {
        let parsed = parse::response(black_box(ANSWER), 0, &limits, Method::Get, &mut head);
        black_box(parsed).expect("it is well-formed");
    });
    parse::response(ANSWER, 0, &limits, Method::Get, &mut head).expect("it is well-formed");
    let reply = Reply {
        client: Version::Http11,
        framing: head.framing,
        connection: Connection::KeepAlive,
        edits: &[],
        via: false,
    };
    bench.step("write a response", || {
        out.clear();
        write::response(&mut out, black_box(&head), &reply);
    });
}

fn bodies(bench: &Bench) {
    for (kind, chunk, count) in [("16 chunks of 1 KiB", 1024, 16), ("1024 chunks of 1 byte", 1, 1024)] {
        let mut body = Vec::new();
        for _ in 0..count {
            chunk_head(&mut body, chunk);
            body.resize(body.len() + chunk, b'x');
            body.extend_from_slice(CHUNK_END);
        }
        last_chunk(&mut body, &Fields::default());
        bench.step(&format!("decode {kind}"), || {
            let (mut decoder, mut rest) = (Decoder::new(Framing::Chunked), black_box(&body[..]));
            while let Step::Data { skip, length } = decoder.decode(rest).expect("it is well-formed") {
                rest = &rest[skip + length..];
            }
        });
    }
}

fn targets(bench: &Bench) {
    let mut target = Target::default();
    for (kind, path) in [("plain", "/articles/2024/a-page.html?from=start"), ("crooked", "/a/./%62/../c//d%2fe/%7Ef/")]
    {
        bench.step(&format!("canonical form of a {kind} path"), || {
            target.set_path_and_query(black_box(path.as_bytes())).expect("it is well-formed");
        });
    }
    bench.step("canonical form of a host", || {
        target.set_authority(black_box(b"WWW.Example.com:8080")).expect("it is well-formed");
    });
}

/// A backend as a picker sees it.
struct Fixed {
    weight: u32,
    in_flight: u32,
    latency: Estimate,
    identity: u64,
}

impl Candidate for Fixed {
    fn weight(&self) -> u32 {
        self.weight
    }

    fn standing(&self, _: Instant) -> Standing {
        Standing::Usable
    }

    fn in_flight(&self) -> u32 {
        self.in_flight
    }

    fn latency(&self) -> Estimate {
        self.latency
    }

    fn is_backup(&self) -> bool {
        false
    }

    fn identity(&self) -> u64 {
        self.identity
    }
}

fn fixed(number: u32) -> Fixed {
    let latency = Estimate::default().observe(Duration::from_millis(u64::from(number) + 1), NOW);
    Fixed { weight: 1 + number % 3, in_flight: number % 5, latency, identity: u64::from(number) }
}

fn pickers(bench: &Bench) {
    for count in [4, 64] {
        let among: Vec<_> = (0..count).map(fixed).collect();
        let policies = [
            ("round_robin", Policy::RoundRobin),
            ("weighted_round_robin", Policy::WeightedRoundRobin),
            ("least_connections", Policy::LeastConnections),
            ("ip_hash", Policy::IpHash { bounded_load: None }),
            ("ip_hash, bounded", Policy::IpHash { bounded_load: Some(1.25) }),
            ("least_response_time", Policy::LeastResponseTime),
            ("random_two_choices", Policy::RandomTwoChoices),
            ("consistent_hash", Policy::ConsistentHash { table: ConsistentHash::table(&among) }),
        ];
        for (name, policy) in policies {
            let mut picker = AnyPicker::new(&policy, &among, 1);
            let (mut dice, tried, mut key) = (Dice::seeded(1), Tried::default(), 0_u64);
            bench.step(&format!("pick of {count}: {name}"), || {
                key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut ask = Ask { now: NOW, key, tried: &tried, dice: &mut dice, rung: Rung::Primaries };
                black_box(picker.pick(black_box(&among), &mut ask)).expect("all are usable");
            });
        }
    }
}

/// A listener with many routes, and a pool behind each.
fn configuration() -> String {
    let mut text =
        "[listeners.w]\nbind = '127.0.0.1:0'\npool = 'p'\n[pools.p]\nbackends = ['10.0.0.1:80', '10.0.0.2:80']\n"
            .to_owned();
    for number in 0..100 {
        text += &format!(
            "[[listeners.w.routes]]\nhosts = ['h{number}.example.com']\npath = {{ prefix = '/v1' }}\npool = 'p'\n"
        );
    }
    text
}

fn decisions(bench: &Bench) {
    let loaded = from_text("bench.toml", &configuration()).expect("the configuration checks");
    let snapshot = Snapshot::next(&loaded.config, &evenkeel::tls::Materials::default(), None);
    snapshot.settle();
    let view = View::new(Arc::new(snapshot), None, 0, 1);
    let id = view.snapshot().listeners().next().expect("there is one").id;
    let Some(Protocol::Http(http)) = view.listener(id).map(|plan| &plan.protocol) else { panic!("it speaks HTTP") };
    let fields = Fields::default();
    for (kind, host) in [("the last of 100 hosts", "h99.example.com"), ("no host", "other.example.com")] {
        let ask = RouteAsk { host, path: "/v1/things", method: b"GET", fields: &fields };
        bench.step(&format!("route to {kind}"), || {
            black_box(http.routes.find(black_box(&ask))).expect("one matches");
        });
    }
    let pool = view.snapshot().pool_id("p").expect("there is one");
    let mut dice = Dice::seeded(1);
    bench.step("take a backend, answer, give it back", || {
        let mut taken = view.take(pool, NOW, 0, &mut Tried::default(), &mut dice).expect("both are usable");
        taken.lease.sent(NOW);
        taken.lease.responded(NOW, Verdict::Good);
        taken.lease.finish(NOW, Outcome::Completed { status: 200 });
    });
}

/// What a new TLS 1.3 connection costs us, by the key exchange that its client offers; the certificate is on P-256.
fn handshakes(bench: &Bench) {
    let provider = evenkeel::tls::provider();
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[&TLS13]);
    let server = server.expect("TLS 1.3").with_no_client_auth();
    let server = server.with_single_cert(vec![own.cert.der().clone()], key.into()).expect("its key");
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone()).expect("a root");
    let (server, roots) = (Arc::new(server), Arc::new(roots));
    for group in &provider.kx_groups {
        let offering = CryptoProvider { kx_groups: vec![*group], ..CryptoProvider::clone(&provider) };
        let client = ClientConfig::builder_with_provider(Arc::new(offering)).with_protocol_versions(&[&TLS13]);
        let client = client.expect("TLS 1.3").with_root_certificates(Arc::clone(&roots)).with_no_client_auth();
        let client = Arc::new(client);
        let name = format!("handshake: server's part, {:?}", group.name());
        bench.part(&name, || shake(&client, &server).expect("they agree"));
    }
}

/// The server's time in one whole handshake without a session to go on with.
fn shake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<Duration, Box<dyn std::error::Error>> {
    let mut config = ClientConfig::clone(client);
    config.resumption = Resumption::disabled();
    let mut client = ClientConnection::new(Arc::new(config), "localhost".try_into()?)?;
    let (mut up, mut down, mut spent) = (Vec::new(), Vec::new(), Duration::ZERO);
    let begin = WallClock::now();
    let mut server = ServerConnection::new(Arc::clone(server))?;
    spent += begin.elapsed();
    while client.is_handshaking() || server.is_handshaking() {
        up.clear();
        while client.wants_write() {
            client.write_tls(&mut up)?;
        }
        down.clear();
        let begin = WallClock::now();
        server.read_tls(&mut up.as_slice())?;
        server.process_new_packets()?;
        while server.wants_write() {
            server.write_tls(&mut down)?;
        }
        spent += begin.elapsed();
        let mut said = down.as_slice();
        while !said.is_empty() {
            client.read_tls(&mut said)?;
            client.process_new_packets()?;
        }
    }
    Ok(spent)
}
