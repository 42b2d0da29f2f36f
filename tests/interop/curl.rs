//! curl: HTTP/1.1 and HTTP/2, over TLS and in the clear, before backends that speak either.

use crate::edge::Edge;
use crate::guest::{Guest, Said, guest};
use crate::support::pattern;
use crate::support::sides::Speaks;

/// What it is told, where it goes, and the version that comes of it.
const WAYS: [(&[&str], &str, &str); 4] = [
    (&["--http1.1"], "tls", "1.1"),
    (&["--http2"], "tls", "2"),
    (&["--http1.1"], "clear", "1.1"),
    (&["--http2-prior-knowledge"], "clear", "2"),
];

/// Asks a listener of this edge, by a name and with trust in its authority.
#[track_caller]
fn ask(curl: &Guest, edge: &Edge, listener: &str, path: &str, arguments: &[&str]) -> Said {
    let (port, authority) = (edge.port(listener), edge.file("ca.pem"));
    let scheme = if listener == "tls" { "https" } else { "http" };
    let url = format!("{scheme}://a.example:{port}{path}");
    let resolve = format!("a.example:{port}:127.0.0.1");
    let usual = ["--silent", "--show-error", "--max-time", "60", "--resolve", &resolve, "--cacert", &authority];
    curl.run(&[&usual, arguments, &[&url]].concat(), b"")
}

#[test]
fn curl_speaks_every_version_before_every_backend() {
    let Some(curl) = guest("curl") else { return };
    for speaks in [Speaks::H1, Speaks::H2] {
        let edge = Edge::before(speaks);
        for (way, listener, version) in WAYS {
            let written = ["--write-out", " %{http_version} %{response_code}"];
            let said = ask(&curl, &edge, listener, "/", &[way, &written].concat());
            assert_eq!((said.code, &*said.out), (Some(0), &*format!("hello {version} 200")), "{way:?} {said:?}");
        }
        let proto: Vec<_> =
            edge.backend.heads().iter().map(|head| head.field("x-forwarded-proto").unwrap().to_owned()).collect();
        assert_eq!(proto, ["https", "https", "http", "http"]);
    }
}

#[test]
fn ten_megabytes_go_up_and_come_back_whole() {
    let Some(curl) = guest("curl") else { return };
    for speaks in [Speaks::H1, Speaks::H2] {
        let edge = Edge::before(speaks);
        let (up, down) = (edge.file("up"), edge.file("down"));
        let body = pattern(10 * 1024 * 1024);
        std::fs::write(&up, &body).unwrap();
        for (way, listener, _) in WAYS {
            for chunked in [&[][..], &["--header", "Transfer-Encoding: chunked"]] {
                let posting = ["--data-binary", &format!("@{up}"), "--output", &down];
                let said = ask(&curl, &edge, listener, "/echo", &[way, chunked, &posting].concat());
                assert_eq!(said.code, Some(0), "{way:?} {chunked:?} {said:?}");
                assert!(std::fs::read(&down).unwrap() == body, "{way:?} {chunked:?}: other bytes came back");
                std::fs::remove_file(&down).unwrap();
            }
        }
    }
}

#[test]
fn trailer_fields_reach_curl() {
    let Some(curl) = guest("curl") else { return };
    for speaks in [Speaks::H1, Speaks::H2] {
        let edge = Edge::before(speaks);
        for (way, listener, _) in WAYS {
            // HTTP/1.1 has trailers for those who say that they take them.
            let said = ask(
                &curl,
                &edge,
                listener,
                "/trailers",
                &[way, &["--header", "TE: trailers", "--dump-header", "-"]].concat(),
            );
            assert_eq!(said.code, Some(0), "{way:?} {said:?}");
            assert!(said.out.to_lowercase().contains("x-sum: 7"), "{way:?} {said:?}");
        }
    }
}

#[test]
fn curl_shows_its_certificate() {
    let Some(curl) = guest("curl") else { return };
    let demand = "tls.client_auth = { ca = \"ca.pem\", forward = [\"subject\"] }";
    let edge = Edge::with(Speaks::H1, demand, |authority, folder| {
        std::fs::write(folder.join("ca.pem"), &authority.pem).unwrap();
        authority.sign(&["me"]).write(folder, "me");
    });
    let (cert, key) = (edge.file("me.crt"), edge.file("me.key"));
    for way in ["--http1.1", "--http2"] {
        for version in ["1.2", "1.3"] {
            let shown = [way, "--tls-max", version, "--cert", &cert, "--key", &key];
            let said = ask(&curl, &edge, "tls", "/", &shown);
            assert_eq!((said.code, &*said.out), (Some(0), "hello"), "{said:?}");
            let refused = ask(&curl, &edge, "tls", "/", &[way, "--tls-max", version]);
            assert!(refused.code != Some(0) && refused.out.is_empty(), "{refused:?}");
            assert!(refused.err.contains("alert certificate required"), "{refused:?}");
        }
    }
    for head in edge.backend.heads() {
        assert_eq!(head.field("x-client-cert-subject"), Some("CN=me"));
    }
}

#[test]
fn the_oldest_and_the_newest_version_of_tls_are_what_curl_asks_for() {
    let Some(curl) = guest("curl") else { return };
    let edge = Edge::before(Speaks::H1);
    for (asked, version) in [(&["--tls-max", "1.2"], "TLSv1.2"), (&["--tls-max", "1.3"], "TLSv1.3")] {
        let said = ask(&curl, &edge, "tls", "/", &[&asked[..], &["--verbose"]].concat());
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.err.contains(&format!("SSL connection using {version}")), "{said:?}");
    }
}
