//! The example of an edge, with certificates and backends of the test's own: it does what its comments say.

use std::io;
use std::path::Path;

use crate::support::tls::{Authority, Tls};
use crate::support::{Client, Daemon, Launch, Origin, run};

/// `conf/edge.toml` where all ports are free ones, files are in the directory of the launch, and this origin is all backends.
fn edge(launch: &Launch, origin: &Origin) -> String {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/edge.toml");
    let text = std::fs::read_to_string(file).expect("it is in the repository");
    let text = text.replace("/etc/evenkeel/tls", &launch.directory().display().to_string());
    let lines = text.lines().map(|line| match line.split_once(" = ").map(|(key, _)| key.trim()) {
        Some("bind") => "bind = \"127.0.0.1:0\"".to_owned(),
        Some("backends") => format!("backends = [\"{}\"]", origin.address()),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Writes the files that it names, all by one authority, where it has `/etc/evenkeel/tls`.
pub fn files(authority: &Authority, folder: &Path) {
    let write = |file: &Path, text: &[u8]| std::fs::write(folder.join(file), text).expect("it is ours");
    for names in [&["example.com", "www.example.com"][..], &["example.org"], &["admin.example.com"]] {
        let (own, signed) = (Path::new(names[0]), authority.sign(names));
        std::fs::create_dir(folder.join(own)).expect("it is new");
        write(&own.join("fullchain.pem"), signed.chain.as_bytes());
        write(&own.join("privkey.pem"), signed.key.as_bytes());
        write(&own.join("ocsp.der"), &OCSP);
    }
    for name in ["staff-ca.pem", "internal-ca.pem"] {
        write(Path::new(name), authority.pem.as_bytes());
    }
}

/// The shortest response: successful.
pub const OCSP: [u8; 5] = [0x30, 3, 0x0a, 1, 0];

fn ask(daemon: &Daemon, tls: &Tls, name: &str) -> io::Result<(u16, String)> {
    tls.connect(&daemon.address("https"), name)?.ask("/", &format!("Host: {name}\r\n"))
}

#[test]
fn all_hosts_of_the_edge_have_certificates() {
    let (authority, origin) = (Authority::new("ca"), Origin::answering("the site"));
    let launch = Launch::new();
    files(&authority, launch.directory());
    let text = edge(&launch, &origin);
    let launch = launch.write("evenkeel.toml", &text);
    let file = launch.directory().join("evenkeel.toml").display().to_string();
    let certificates = run(&["certs", "--config", &file]);
    assert!(certificates.status.success() && certificates.out.ends_with("all is well"), "{certificates:?}");
}

#[test]
fn the_edge_serves_as_it_says() {
    let (authority, origin) = (Authority::new("ca"), Origin::answering("the site"));
    let launch = Launch::new();
    files(&authority, launch.directory());
    let text = edge(&launch, &origin);
    let daemon = launch.write("evenkeel.toml", &text).start();
    let mut clear = Client::connect(&daemon.address("http"));
    clear.send("GET /page HTTP/1.1\r\nHost: example.com\r\n\r\n");
    assert_eq!(clear.response().head.field("location"), Some("https://example.com/page"));

    let tls = Tls::trusting(&authority);
    for (name, status) in [("www.example.com", 200), ("example.org", 200)] {
        assert_eq!(ask(&daemon, &tls, name).expect("a handshake").0, status, "{name}");
    }
    ask(&daemon, &tls, "other.example").expect_err("it gets the first certificate, which is for another");
    ask(&daemon, &tls, "admin.example.com").expect_err("who shows no certificate is no admin");
    let admin = Tls::with(&authority, &authority.sign(&["the admin"]));
    assert_eq!(ask(&daemon, &admin, "admin.example.com").expect("a handshake").0, 502, "its backend speaks no TLS");
    tls.connect(&daemon.address("imaps"), "other.example").err().expect("it has no certificates, and no such route");
}
