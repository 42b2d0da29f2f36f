//! `evenkeel demo`: servers, the balancer and clients in one process, and a table of who gets what.
//!
//! The balancer is the daemon that `evenkeel run` runs, following a file like any other; what is shown is what its workers
//! recorded, how it says its backends stand, and the changes that it logs. Only the servers, what is done to them, the
//! clients and the picture are the demonstration's own. There is one without an end ([`show`]), and scripted ones
//! ([`play`]), which judge whether all went as it should.

mod certificate;
mod company;
mod origins;
mod outage;
mod play;
mod scene;
mod schedule;
mod screen;
mod script;
mod show;
mod stage;
mod table;
mod traffic;
mod words;

use std::io;
use std::time::Duration;

use tokio::runtime::Builder;

use super::log::{Kept, Sink};
use super::turns::Turns;
use super::{Demo, Exit, check, log};
use crate::server::daemon::Fault;
use play::Play;
use screen::Screen;
use show::Show;

/// How often the numbers are looked at, and the table is drawn where it can be.
const FRAME: Duration = Duration::from_millis(500);

/// Runs the demonstration.
#[must_use]
pub fn run(demo: &Demo, log_level: Option<&str>) -> Exit {
    let screen = Screen::stdout();
    let (kept, turns) = (Kept::default(), Turns::default());
    let sink = if screen.is_terminal() { Sink::Kept(kept.clone()) } else { Sink::Stderr };
    if let Err(error) = log::start_apart(log_level, &sink, &turns) {
        eprintln!("error: {error}");
        return Exit::Usage;
    }
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let shown = runtime.block_on(async {
        match demo.scenario {
            Some(_) => Ok(Play::open(demo, screen, turns).await?.run(&outage::acts()).await),
            None => {
                let show = Show::open(demo, screen, kept, turns).await?;
                Ok(show.run(demo.seconds.map(Duration::from_secs)).await)
            }
        }
    });
    match shown {
        Ok(exit) => exit,
        Err(Trouble::Fault(fault)) => refused(&fault),
        Err(Trouble::System(error)) => failed(&error),
    }
}

fn failed(error: &io::Error) -> Exit {
    eprintln!("error: the demonstration can not start: {error}");
    Exit::Failed
}

/// The log may be kept for a table that is never drawn, so this goes to stderr itself.
fn refused(fault: &Fault) -> Exit {
    match fault {
        Fault::Config(report) => {
            check::print_report(report);
            Exit::BadConfig
        }
        Fault::Server(_) | Fault::Signals(_) => {
            eprintln!("error: {fault}");
            Exit::Failed
        }
    }
}

/// Why a demonstration can not begin.
enum Trouble {
    Fault(Fault),
    System(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::System(error)
    }
}
