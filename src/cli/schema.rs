//! `evenkeel schema`: the JSON Schema of the file, or its reference.

use std::io::Write;
use std::process::ExitCode;

use crate::config::reference::reference;
use crate::config::schema::schema;

/// Prints the JSON Schema, or with `as_reference` the Markdown of `docs/configuration.md`.
#[must_use]
pub fn run(as_reference: bool) -> ExitCode {
    let text = if as_reference { reference() } else { format!("{:#}\n", schema()) };
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
