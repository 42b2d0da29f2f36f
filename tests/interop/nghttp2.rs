//! nghttp and h2load: the frames that curl never sends, and thousands of requests on few connections.

use crate::edge::Edge;
use crate::guest::guest;
use crate::support::pattern;
use crate::support::sides::Speaks;

#[test]
fn h2load_sees_no_failure_in_thousands_of_requests() {
    let Some(h2load) = guest("h2load") else { return };
    for speaks in [Speaks::H1, Speaks::H2] {
        let edge = Edge::before(speaks);
        for (listener, scheme) in [("tls", "https"), ("clear", "http")] {
            let url = format!("{scheme}://localhost:{}/", edge.port(listener));
            let said = h2load.succeed(&["-n", "4096", "-c", "16", "-m", "16", &url]);
            let wanted =
                "requests: 4096 total, 4096 started, 4096 done, 4096 succeeded, 0 failed, 0 errored, 0 timeout";
            assert!(said.out.contains(wanted), "{said:?}");
            assert!(said.out.contains("status codes: 4096 2xx"), "{said:?}");
        }
    }
}

#[test]
fn nghttp_pads_continues_and_narrows_its_windows() {
    let Some(nghttp) = guest("nghttp") else { return };
    for speaks in [Speaks::H1, Speaks::H2] {
        let edge = Edge::before(speaks);
        let (port, file) = (edge.port("tls"), edge.file("up"));
        let body: Vec<u8> = pattern(300_000).iter().map(|byte| b'a' + byte % 26).collect();
        std::fs::write(&file, &body).unwrap();
        let url = format!("https://localhost:{port}/echo");
        let ways: [&[&str]; 5] = [
            &[],
            &["--padding=255"],
            &["--continuation"],
            &["--window-bits=10", "--connection-window-bits=12"],
            &["--no-dep"],
        ];
        for way in ways {
            let said = nghttp.succeed(&[way, &[&format!("--data={file}"), &url]].concat());
            assert!(said.out.as_bytes() == body, "{way:?}: {} bytes; {}", said.out.len(), said.err);
        }
        let many = nghttp.succeed(&["--null-out", "--multiply=100", "--stat", &format!("https://localhost:{port}/")]);
        let answered = many.out.lines().filter(|line| line.contains(" 200 ") && line.ends_with('/')).count();
        assert_eq!(answered, 100, "{many:?}");
    }
}
