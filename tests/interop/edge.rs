//! What the clients meet: a daemon that ends TLS, with the backends behind it.

use std::path::Path;

use crate::support::sides::{Backend, Length, Speaks};
use crate::support::tls::Authority;
use crate::support::{Daemon, Launch};

/// A daemon with two listeners: `tls` with a certificate, and `clear` for HTTP/1.1 and HTTP/2 by prior knowledge.
pub struct Edge {
    pub daemon: Daemon,
    pub backend: Backend,
}

impl Edge {
    /// Before a backend that speaks this.
    pub fn before(speaks: Speaks) -> Edge {
        Edge::with(speaks, "", |_, _| {})
    }

    /// With more lines for the listener `tls`, and what they need.
    pub fn with(speaks: Speaks, listener: &str, prepare: impl FnOnce(&Authority, &Path)) -> Edge {
        let (authority, backend, launch) = (Authority::new("Test CA"), backend(speaks), Launch::new());
        authority.sign(&["a.example", "localhost", "127.0.0.1"]).write(launch.directory(), "own");
        authority.sign(&["b.example"]).write(launch.directory(), "other");
        prepare(&authority, launch.directory());
        let version = if speaks == Speaks::H2 { "h2" } else { "h1" };
        let text = format!(
            "[listeners.tls]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n\
             tls.certificates = [{{ cert = \"own.crt\", key = \"own.key\" }}, {{ cert = \"other.crt\", key = \"other.key\" }}]\n\
             {listener}\n\n\
             [listeners.clear]\nbind = \"127.0.0.1:0\"\npool = \"app\"\nhttp_versions = [\"h1\", \"h2\"]\n\n\
             [pools.app]\nbackends = [\"{}\"]\nhttp_version = \"{version}\"\n",
            backend.address()
        );
        // Every line of a load of thousands would be more than the tests look at.
        let launch = launch.write("ca.pem", &authority.pem).level("info");
        Edge { daemon: launch.write("evenkeel.toml", &text).start(), backend }
    }

    /// The port of a listener.
    pub fn port(&self, listener: &str) -> String {
        self.daemon.address(listener).rsplit(':').next().expect("an address has a port").to_owned()
    }

    /// A file of its directory.
    pub fn file(&self, name: &str) -> String {
        self.daemon.directory().join(name).display().to_string()
    }
}

/// It says 100 to who waits for that; `/echo` sends back the body, `/trailers` has trailer fields, and everything else says `hello`.
fn backend(speaks: Speaks) -> Backend {
    Backend::scripted(speaks, |exchange| {
        if exchange.head.field("expect").is_some() {
            exchange.interim(100, &[]);
        }
        let (body, ..) = exchange.body();
        match exchange.path() {
            "/echo" => exchange.answer_with(200, &[], &body),
            "/trailers" => {
                exchange.begin(200, &[("trailer", "x-sum")], Length::Untold);
                exchange.say(b"body");
                exchange.end(&[("x-sum", "7")]);
            }
            _ => exchange.answer(200, "hello"),
        }
    })
}
