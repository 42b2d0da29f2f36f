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

/// A `backends` line of these addresses.
pub fn backends(addresses: &[&str]) -> String {
    format!("backends = {addresses:?}\n")
}
