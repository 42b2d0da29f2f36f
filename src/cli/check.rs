//! `evenkeel check`: says everything that is wrong with a configuration, and binds nothing.

use std::io::Write;
use std::path::Path;

use super::{Exit, log};
use crate::clock;
use crate::config::{self, Colour, Config, Protocol, Report, counted};
use crate::tls::{Materials, Notice};

/// Checks the file: what is to be said about it goes to stderr, one line to stdout when it is good.
#[must_use]
pub fn run(path: &Path) -> Exit {
    match config::load(path) {
        Ok(loaded) => {
            print_report(&loaded.warnings);
            match Materials::read(&loaded.config, None) {
                Ok(materials) => {
                    let notices = materials.notices(clock::today());
                    print_report(&loaded.report(notices.iter().map(Notice::diagnostic).collect()));
                }
                Err(faults) => {
                    print_report(&loaded.report(faults));
                    return Exit::BadConfig;
                }
            }
            // Who closed stdout does not want the line; the exit code says the same.
            let _ = writeln!(std::io::stdout(), "{} is good: {}", path.display(), summary(&loaded.config));
            Exit::Done
        }
        Err(report) => {
            print_report(&report);
            Exit::BadConfig
        }
    }
}

/// Prints a report to stderr, in colour on a terminal unless `NO_COLOR` is set.
pub fn print_report(report: &Report) {
    if report.is_empty() {
        return;
    }
    let colour = if log::is_coloured() { Colour::Ansi } else { Colour::Plain };
    // There is nowhere else to say that stderr can not be written to.
    let _ = writeln!(std::io::stderr(), "{}", report.render(colour));
}

/// `2 listeners, 3 routes, 2 pools, 6 backends`
#[must_use]
pub fn summary(config: &Config) -> String {
    let routes = config.listeners.iter().map(|listener| match &listener.protocol {
        Protocol::Http(http) => http.routes.len(),
        Protocol::Passthrough(routes) => routes.len(),
        Protocol::Tcp { .. } => 0,
    });
    let backends = config.pools.iter().map(|pool| pool.backends.len());
    [
        counted(config.listeners.len(), "listener"),
        counted(routes.sum(), "route"),
        counted(config.pools.len(), "pool"),
        counted(backends.sum(), "backend"),
    ]
    .join(", ")
}
