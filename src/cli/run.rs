//! `evenkeel run`: the daemon in the foreground.

use std::path::Path;

use tokio::runtime::Builder;

use super::log::{self, Sink};
use super::{Exit, check};
use crate::server::daemon::{Daemon, End, Fault};

/// Serves `path` until it is told to stop.
#[must_use]
pub fn run(path: &Path, log_level: Option<&str>) -> Exit {
    if let Err(error) = log::start(log_level, &Sink::Stderr) {
        eprintln!("error: {error}");
        return Exit::Usage;
    }
    // The control runtime: this thread and no other.
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return Exit::Failed;
        }
    };
    runtime.block_on(async {
        match Daemon::start(path).await {
            Ok(daemon) => match daemon.run().await {
                End::Stopped => Exit::Done,
                End::Broken => Exit::Failed,
            },
            Err(fault) => refuse(&fault),
        }
    })
}

fn refuse(fault: &Fault) -> Exit {
    match fault {
        Fault::Config(report) => {
            check::print_report(report);
            Exit::BadConfig
        }
        Fault::Server(_) | Fault::Signals(_) => {
            fault.to_string().lines().for_each(|line| tracing::error!("{line}"));
            Exit::Failed
        }
    }
}
