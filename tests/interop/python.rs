//! Libraries of Python: the scripts beside this say what each does and asserts.

use crate::edge::Edge;
use crate::guest::script;
use crate::support::sides::Speaks;
use crate::support::tls::Authority;
use crate::support::{Daemon, Launch};

/// A script that asks our listener for pages.
#[track_caller]
fn asks(name: &str, modules: &str) {
    let Some(script) = script(name, modules) else { return };
    for speaks in [Speaks::H1, Speaks::H2] {
        let edge = Edge::before(speaks);
        script.succeed(&[&format!("https://localhost:{}", edge.port("tls")), &edge.file("ca.pem")]);
    }
}

#[test]
fn httpx_is_served_over_http_2() {
    asks("httpx_client.py", "httpx, h2");
}

#[test]
fn aiohttp_is_served_over_http_1() {
    asks("aiohttp_client.py", "aiohttp");
}

/// A daemon whose listener ends TLS, before a pool of these lines.
fn before(authority: &Authority, pool: &str) -> Daemon {
    let launch = Launch::new().write("ca.pem", &authority.pem).level("debug");
    authority.sign(&["localhost", "a.example"]).write(launch.directory(), "own");
    let listener = "[listeners.tls]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n\
                    tls.certificates = [{ cert = \"own.crt\", key = \"own.key\" }]\n";
    launch.write("evenkeel.toml", &format!("{listener}\n[pools.app]\n{pool}")).start()
}

#[test]
fn a_web_socket_goes_through_us() {
    let Some(script) = script("websockets_echo.py", "websockets") else { return };
    let (authority, echo) = (Authority::new("Test CA"), script.serve(&["serve"]));
    let daemon = before(&authority, &format!("backends = [\"{}\"]\n", echo.address));
    let port = daemon.address("tls").rsplit(':').next().unwrap().to_owned();
    let ca = daemon.directory().join("ca.pem").display().to_string();
    script.succeed(&["ask", &format!("wss://localhost:{port}/"), &ca]);
}

#[test]
fn grpc_goes_through_us_with_tls_on_both_sides() {
    let Some(script) = script("grpc_watch.py", "grpc, grpc_health") else { return };
    let (authority, folder) = (Authority::new("Test CA"), tempfile::tempdir().unwrap());
    authority.sign(&["grpc.internal"]).write(folder.path(), "backend");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let server = script.serve(&["serve", &file("backend.crt"), &file("backend.key")]);
    let pool = format!(
        "backends = [\"{}\"]\nhttp_version = \"h2\"\ntls = {{ ca = \"ca.pem\", sni = \"grpc.internal\" }}\n\
         health_check = {{ type = \"grpc\", initial = \"down\" }}\nfail_open = false\n\
         [pools.app.breaker]\nconsecutive_failures = 1\n",
        server.address
    );
    let daemon = before(&authority, &pool);
    let port = daemon.address("tls").rsplit(':').next().unwrap().to_owned();
    let ca = daemon.directory().join("ca.pem").display().to_string();
    daemon.wait_log("backend is up");
    script.succeed(&["ask", &format!("localhost:{port}"), &ca]);
    assert!(!daemon.has_logged("to=\"open\""), "none of that was the backend's fault");
}
