//! `evenkeel schema`: the JSON Schema of the file, or its reference.

use std::io::Write;

use super::Exit;
use crate::config::reference::reference;
use crate::config::schema::schema;

/// Prints the JSON Schema, or with `as_reference` the Markdown of `docs/configuration.md`.
#[must_use]
pub fn run(as_reference: bool) -> Exit {
    let text = if as_reference { reference() } else { format!("{:#}\n", schema()) };
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Exit::Done,
        Err(_) => Exit::Failed,
    }
}
