//! The files that most tests run on, short enough to be read where they are used.

/// One HTTP listener `web` on a free port before one pool `app`, one worker; with more lines for the listener and the pool.
pub fn web(listener: &str, pool: &str) -> String {
    format!(
        "[runtime]\nworkers = 1\n\n[listeners.web]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n{listener}\n\n[pools.app]\n{pool}\n"
    )
}

/// One TCP listener `raw` on a free port before one pool `app`, one worker; with more lines for the listener and the pool.
pub fn raw(listener: &str, pool: &str) -> String {
    format!(
        "[runtime]\nworkers = 1\n\n[listeners.raw]\nprotocol = \"tcp\"\nbind = \"127.0.0.1:0\"\npool = \"app\"\n{listener}\n\n\
         [pools.app]\n{pool}\n"
    )
}

/// The end of a pool whose breakers open at the first failure of a backend, say so ([`FAILED`]) and let everything through.
#[allow(dead_code, reason = "for the tests that ask whose failure it was")]
pub const TELLING: &str = "\n[pools.app.breaker]\nmode = \"observe\"\nconsecutive_failures = 1\n";

/// What is logged then.
#[allow(dead_code, reason = "for the tests that ask whose failure it was")]
pub const FAILED: &str = "to=\"open\"";

/// A `backends` line of these addresses.
pub fn backends(addresses: &[&str]) -> String {
    format!("backends = {addresses:?}\n")
}
