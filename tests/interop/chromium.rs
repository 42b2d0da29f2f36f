//! Chromium, without a window: a page with scripts over HTTPS, which tells what it saw.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::guest::{guest, script};
use crate::support::sides::{Backend, Speaks};
use crate::support::tls::Authority;
use crate::support::{Launch, eventually};

#[test]
fn a_page_of_chromium_comes_over_http_2() {
    let (Some(chromium), Some(script)) = (guest("chromium"), script("websockets_echo.py", "websockets")) else {
        return;
    };
    let (authority, echo, launch) = (Authority::new("Test CA"), script.serve(&["serve"]), Launch::new());
    authority.sign(&["a.example"]).write(launch.directory(), "own");
    let reported = AtomicBool::new(false);
    let backend = Backend::scripted(Speaks::H1, move |exchange| {
        let (body, ..) = exchange.body();
        match exchange.path() {
            "/" => exchange.answer_with(200, &[("content-type", "text/html")], include_bytes!("page.html")),
            "/report" => {
                reported.store(true, Ordering::Release);
                exchange.answer(200, "thanks");
            }
            "/wait" => {
                eventually("the page has reported", || reported.load(Ordering::Acquire));
                exchange.answer(404, "there is no picture");
            }
            "/echo" => exchange.answer_with(200, &[], &body),
            _ => exchange.answer(200, "hello"),
        }
    });
    let text = format!(
        "[listeners.tls]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n\
         tls.certificates = [{{ cert = \"own.crt\", key = \"own.key\" }}]\n\
         routes = [{{ path = {{ exact = \"/socket\" }}, pool = \"echo\" }}]\n\n\
         [pools.app]\nbackends = [\"{}\"]\n\n[pools.echo]\nbackends = [\"{}\"]\n",
        backend.address(),
        echo.address
    );
    let daemon = launch.write("evenkeel.toml", &text).start();
    let port = daemon.address("tls").rsplit(':').next().unwrap().to_owned();
    let home = tempfile::tempdir().unwrap();
    let said = chromium.succeed(&[
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--ignore-certificate-errors",
        // Nobody else is asked for anything.
        "--host-resolver-rules=MAP * 127.0.0.1",
        &format!("--user-data-dir={}", home.path().display()),
        "--dump-dom",
        &format!("https://a.example:{port}/"),
    ]);
    for part in ["page h2", "pictures 100", "upload true", "socket true"] {
        assert!(said.out.contains(&format!("<li>{part}</li>")), "no {part:?}: {said:?}");
    }
}
