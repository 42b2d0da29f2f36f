//! `evenkeel demo`: servers, the balancer and clients in one process, and a table of who gets what.
//!
//! The balancer is the daemon that `evenkeel run` runs, following a file like any other; the table shows what
//! its workers recorded. Only the servers, the clients and the picture are the demonstration's own.

mod company;
mod origins;
mod screen;
mod stage;
mod table;
mod traffic;

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::{MissedTickBehavior, interval};

use super::log::{Kept, Sink};
use super::{Demo, Exit, check, log};
use crate::clock::{self, Instant};
use crate::config::Address;
use crate::server::daemon::{Daemon, End, Fault};
use crate::server::{BackendReport, Listening};
use company::Company;
use screen::Screen;
use stage::{Ports, Stage};
use table::{History, Sample, Span};
use traffic::Doors;

/// How often the numbers are looked at, and the table is drawn where it can be.
const FRAME: Duration = Duration::from_millis(500);

/// Where nothing can be redrawn, every so-many-th look is printed as a line.
const FRAMES_A_LINE: u64 = 2;

/// Log lines below the table, where there is room for them.
const LOG_LINES: usize = 24;

/// Runs the demonstration.
#[must_use]
pub fn run(demo: &Demo, log_level: Option<&str>) -> Exit {
    let screen = Screen::stdout();
    let kept = Kept::default();
    let sink = if screen.is_terminal() { Sink::Kept(kept.clone()) } else { Sink::Stderr };
    if let Err(error) = log::start(log_level, &sink) {
        eprintln!("error: {error}");
        return Exit::Usage;
    }
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    runtime.block_on(async {
        match Show::open(demo, screen, kept).await {
            Ok(show) => show.run(demo.seconds.map(Duration::from_secs)).await,
            Err(Trouble::Fault(fault)) => refused(&fault),
            Err(Trouble::System(error)) => failed(&error),
        }
    })
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

enum Trouble {
    Fault(Fault),
    System(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::System(error)
    }
}

struct Show {
    // In the order in which they are dropped: the clients go before the balancer, and the file last.
    company: Company,
    daemon: Daemon,
    stage: Stage,
    screen: Screen,
    kept: Kept,
    history: History,
    begun: Instant,
    frames: u64,
}

impl Show {
    async fn open(demo: &Demo, mut screen: Screen, kept: Kept) -> Result<Show, Trouble> {
        let company = Company::start().await?;
        let ports = Ports::choose(demo.port, stage::is_free);
        let stage = Stage::build(&stage::script(ports, &demo.algorithm, &company.web, &company.echo))?;
        let daemon = Daemon::start(stage.file()).await.map_err(Trouble::Fault)?;
        let _ = screen.say(&[String::new()]);
        let (history, begun) = (History::default(), clock::now());
        let mut show = Show { company, daemon, stage, screen, kept, history, begun, frames: 0 };
        if !show.screen.is_terminal() {
            let hints = show.hints();
            // Nobody looks any more: the first line of numbers notices too, and that is an end like any other.
            let _ = show.screen.say(&hints);
        }
        Ok(show)
    }

    /// Until the time is over, a signal, or nobody looks any more.
    async fn run(mut self, length: Option<Duration>) -> Exit {
        let end = length.map(|length| clock::timer(self.begun + length));
        let mut frames = interval(FRAME);
        frames.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let ended = loop {
            // Waiting for an event loses nothing when it is given up (see `Daemon::next`), nor does a timer.
            let event = tokio::select! {
                event = self.daemon.next() => Some(event),
                _ = frames.tick() => None,
                () = until(end) => break End::Stopped,
            };
            let Some(event) = event else {
                if self.draw().await.is_err() {
                    break End::Stopped;
                }
                continue;
            };
            if let ControlFlow::Break(end) = self.daemon.handle(event).await {
                break end;
            }
        };
        self.close(ended).await
    }

    async fn draw(&mut self) -> io::Result<()> {
        self.look().await;
        if self.screen.is_terminal() {
            let picture = self.picture();
            return self.screen.draw(&picture);
        }
        self.frames += 1;
        // The first look comes at once and has seen nothing yet.
        if self.frames > 1 && self.frames % FRAMES_A_LINE == 1 {
            let seconds = clock::now().since(self.begun).as_secs();
            return self.screen.say(&[format!("{seconds} s{}", table::line(&self.history))]);
        }
        Ok(())
    }

    /// Takes the numbers, and leads the clients to where the listeners are now.
    async fn look(&mut self) {
        let server = self.daemon.server();
        let samples = server.observe().await.into_iter().map(sample).collect();
        let doors = doors(&server.listening());
        self.history.push(samples);
        self.company.lead_to(doors);
    }

    fn picture(&mut self) -> Vec<String> {
        let seconds = clock::now().since(self.begun).as_secs();
        let mut lines = vec![format!("Evenkeel demo · {seconds} s · configuration {}", self.daemon.generation())];
        lines.push(String::new());
        lines.extend(self.table(Span::Recent));
        lines.extend(self.hints());
        let (_, rows) = self.screen.size();
        let room = rows.saturating_sub(lines.len() + 2).min(LOG_LINES);
        lines.push(String::new());
        lines.extend(newest(self.kept.lines(), room));
        lines
    }

    fn table(&mut self, span: Span) -> Vec<String> {
        let (width, _) = self.screen.size();
        let listening = self.daemon.server().listening();
        table::table(&self.history, span, |pool| place(pool, &listening), width)
    }

    fn hints(&mut self) -> Vec<String> {
        let doors = doors(&self.daemon.server().listening());
        let mut lines = Vec::new();
        if let Some(web) = doors.web {
            lines.push(format!("Try it    curl -i http://{web}/"));
        }
        if let Some(echo) = doors.echo {
            lines.push(format!("          curl -m 1 telnet://{echo}"));
        }
        lines.push(format!("Edit it   {}", self.stage.file().display()));
        lines.push("          change a weight, the algorithm or a backend, save, and watch the shares".to_owned());
        lines.push("End it    Ctrl-C".to_owned());
        lines
    }

    /// The numbers of the whole show, after the clients have left.
    async fn close(mut self, ended: End) -> Exit {
        self.look().await;
        let seconds = clock::now().since(self.begun).as_secs_f64();
        let mut lines = vec![format!("In {seconds:.1} s:"), String::new()];
        lines.extend(self.table(Span::Whole));
        let shown = if self.screen.is_terminal() { self.screen.draw(&lines) } else { self.screen.say(&lines) };
        drop(self.company);
        self.daemon.stop().await;
        match ended {
            // Who closed our stdout has seen enough: that is an end like any other.
            End::Stopped => shown.map_or(Exit::Done, |()| Exit::Done),
            End::Broken => Exit::Failed,
        }
    }
}

/// As many log lines as there is room for: from the last reload on, else the last ones.
fn newest(mut log: Vec<String>, room: usize) -> Vec<String> {
    let tail = log.len().saturating_sub(room);
    let reload = log.iter().rposition(|line| line.contains("reload "));
    log.drain(..reload.unwrap_or(tail));
    log.truncate(room);
    log
}

async fn until(end: Option<tokio::time::Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

fn sample(report: BackendReport) -> Sample {
    let BackendReport { pool, status, record } = report;
    Sample {
        pool: pool.to_string(),
        backend: status.name.to_string(),
        weight: status.weight,
        in_flight: status.in_flight.into(),
        requests: record.attempts,
        failures: record.failures,
        p50: record.quantile(0.5),
        p99: record.quantile(0.99),
    }
}

/// The listener of a pool's own name, as the demonstration's file has it.
fn place(pool: &str, listening: &[Listening]) -> String {
    let own = listening.iter().find(|listening| &*listening.name == pool);
    own.map_or(String::new(), |listening| format!("listens on {}", listening.address))
}

fn doors(listening: &[Listening]) -> Doors {
    let find = |name| {
        listening.iter().filter(|listening| &*listening.name == name).find_map(|listening| match listening.address {
            Address::Ip(address) if address.is_ipv4() => Some(address),
            Address::Ip(_) | Address::Unix(_) => None,
        })
    };
    Doors { web: find("http"), echo: find("tcp") }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn the_beginning_of_a_refusal_is_seen() {
        let log = |lines: &[&str]| lines.iter().map(ToString::to_string).collect::<Vec<_>>();
        let refused = log(&["ready", "reload refused", "error", "-->", "help"]);
        assert_eq!(newest(refused.clone(), 2), log(&["reload refused", "error"]));
        assert_eq!(newest(refused.clone(), 9), refused[1..]);
        assert_eq!(newest(log(&["a", "b", "c"]), 2), log(&["b", "c"]));
    }

    #[test]
    fn clients_are_led_to_where_the_listeners_are() {
        let address: SocketAddr = "127.0.0.1:4711".parse().unwrap();
        let web = Listening { name: "http".into(), address: Address::Ip(address) };
        assert_eq!(doors(&[web]), Doors { web: Some(address), echo: None });
        assert_eq!(doors(&[]), Doors::default());
    }
}
