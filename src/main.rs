//! Arguments → command → exit code, nothing else.

use std::process::ExitCode;

use clap::Parser;
use evenkeel::cli::{self, Arguments};

fn main() -> ExitCode {
    cli::execute(&Arguments::parse()).into()
}
