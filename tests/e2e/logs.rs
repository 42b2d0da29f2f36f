//! What clients and backends say stays out of the log, at every level: nobody can forge a line there, drive the terminal of
//! who reads it, or fill the disk with one request.

use crate::support::{Client, Daemon, Launch, Origin};

/// What whoever forges lines would like to see in the log.
const FORGED: &str = "FORGED";

/// No line of ours is longer, not even at trace.
const LONGEST: usize = 1000;

/// Texts that do harm where they are written as they are.
fn hostile() -> Vec<Vec<u8>> {
    let texts: [&[u8]; 9] = [
        b"\r\n2026-01-01T00:00:00Z ERROR FORGED",
        b"\nERROR FORGED",
        b"\x1b[2J\x1b]0;FORGED\x07",
        b"\" cause=\"FORGED",
        b"FORGED\\\"'`$(reboot)",
        b"\x9b31mFORGED\xff\xfe",
        "\u{202e}FORGED\u{2028}".as_bytes(),
        b"FORGED\0\x7f\x08",
        b"%0d%0aFORGED%1b%00{}",
    ];
    let mut texts = texts.map(<[u8]>::to_vec).to_vec();
    texts.push(FORGED.repeat(5000).into_bytes());
    // As long as goes through nearly everywhere.
    texts.push(FORGED.repeat(40).into_bytes());
    texts
}

/// A request with this text in one place after the other, and some whose head or body goes wrong behind it.
fn requests(text: &[u8]) -> Vec<Vec<u8>> {
    let forms = [
        "@ / HTTP/1.1\r\nHost: test\r\n\r\n",
        "GET /@ HTTP/1.1\r\nHost: test\r\n\r\n",
        "GET /?q=@ HTTP/1.1\r\nHost: test\r\n\r\n",
        "GET http://@/ HTTP/1.1\r\nHost: test\r\n\r\n",
        "GET / @\r\nHost: test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: @\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\n@: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\nX-A: @\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\nX-Request-Id: @\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: @\r\nForwarded: for=@\r\nConnection: @\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\nExpect: @\r\nUser-Agent: @\r\nReferer: @\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: @\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: @\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: @\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n@\r\n",
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n1;@\r\nx\r\n0\r\n@: @\r\n\r\n",
        "GET /nowhere/@ HTTP/1.1\r\nHost: nobody\r\n\r\n",
        "@",
    ];
    forms.iter().map(|form| form.as_bytes().split(|&byte| byte == b'@').collect::<Vec<_>>().join(text)).collect()
}

/// A TLS client's first message that asks for this host: what a listener for raw bytes may come to look into.
fn client_hello(host: &[u8]) -> Vec<u8> {
    let host = &host[..host.len().min(1000)];
    let sized = |bytes: &[u8]| [&u16::try_from(bytes.len()).expect("it is short").to_be_bytes(), bytes].concat();
    let name = sized(&[&[0], &*sized(host)].concat());
    let extensions = sized(&[&[0, 0], &*sized(&name)].concat());
    let hello = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0], &extensions].concat();
    let length = u32::try_from(hello.len()).expect("it is short").to_be_bytes();
    let message = [&[1], &length[1..], &hello].concat();
    [&[22, 3, 1][..], &sized(&message)].concat()
}

/// Answers each connection in another hostile way.
fn hostile_origin() -> Origin {
    let texts = hostile();
    Origin::scripted(move |mut connection| {
        let text = &texts[connection.number / 4 % texts.len()];
        let (before, after): (&[u8], &[u8]) = match connection.number % 4 {
            0 => (b"HTTP/1.1 200 ", b"\r\nContent-Length: 0\r\n\r\n"),
            1 => (b"HTTP/1.1 200 OK\r\nX-A: ", b"\r\nContent-Length: 0\r\n\r\n"),
            2 => (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"\r\n"),
            _ => (b"", b"\r\n\r\n"),
        };
        if connection.request().is_some() {
            connection.send([before, text, after].concat());
        }
    })
}

/// Sends these bytes, and waits until all is said that is said to them.
fn provoke(address: &str, bytes: &[u8]) {
    let mut client = Client::connect(address);
    client.send(bytes);
    client.finish_writing();
    client.rest();
}

#[track_caller]
fn assert_clean(daemon: &Daemon) {
    for line in daemon.log() {
        assert!(line.len() <= LONGEST, "{} bytes: {}", line.len(), &line[..200]);
        assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{}", line.escape_debug());
        assert!(!line.contains(FORGED), "{line}");
    }
}

#[test]
fn nothing_that_a_client_or_a_backend_says_is_in_the_log_at_any_level() {
    for level in ["debug", "trace"] {
        let (origin, sessions) = (hostile_origin(), Origin::echoing());
        let file = format!(
            "[runtime]\nworkers = 1\n[listeners.web]\nbind = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.9\"]\n\
             routes = [{{ path.prefix = \"/\", hosts = [\"test\"], pool = \"app\" }}]\n\
             [listeners.raw]\nprotocol = \"tcp\"\nbind = \"127.0.0.1:0\"\npool = \"tcp\"\n\
             [pools.app]\nbackends = [\"{}\"]\n[pools.tcp]\nbackends = [\"{}\"]\n",
            origin.address(),
            sessions.address()
        );
        let daemon = Launch::new().level(level).write("evenkeel.toml", &file).start();
        let (web, raw) = (daemon.address("web"), daemon.address("raw"));
        for text in hostile() {
            requests(&text).iter().for_each(|request| provoke(&web, request));
            provoke(&raw, &text);
            provoke(&raw, &client_hello(&text));
            provoke(&raw, &[b"PROXY TCP4 ", &*text, b"\r\n"].concat());
        }
        // The one thing that is logged as it came: the id that a trusted proxy gives, if it has a token's letters.
        let with_id = |id: &[u8]| {
            let mut proxy = Client::connect_from("127.0.0.9", &web);
            proxy.send(
                [b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\nX-Request-Id: ", id, b"\r\n\r\n"].concat(),
            );
            proxy.rest();
        };
        hostile().iter().filter(|text| !text.iter().all(u8::is_ascii_alphabetic)).for_each(|text| with_id(text));
        with_id(b"good-Id.1");
        daemon.wait_log("id=\"good-Id.1\"");
        for known in ["request refused", "response refused", "routed", "no route", "request ended", "session ended"] {
            assert!(daemon.has_logged(known), "{known:?} was provoked at {level}");
        }
        assert_clean(&daemon);
    }
}
