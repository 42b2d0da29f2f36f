//! The endless demonstration: a table of who gets what while one server fails by schedule, and what is made of that.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::scene::Scene;
use super::screen::Screen;
use super::table::{History, Span};
use super::traffic::Tally;
use super::{FRAME, Trouble, schedule, table, words};
use crate::balance::Rung;
use crate::cli::log::Kept;
use crate::cli::turns::Turns;
use crate::cli::{Demo, Exit};
use crate::clock;
use crate::server::daemon::End;
use crate::server::{Listening, PoolReport};

/// Where nothing can be redrawn, every so-many-th look is printed as a line.
const FRAMES_A_LINE: u64 = 2;

/// Changes at backends below the table, where there is room for them, and where there is little.
const MOST_CHANGES: usize = 12;
const FEWEST_CHANGES: usize = 4;

/// Log lines below those.
const LOG_LINES: usize = 24;

/// The running demonstration.
pub struct Show {
    scene: Scene,
    screen: Screen,
    kept: Kept,
    history: History,
    pools: Vec<PoolReport>,
    /// The newest changes, as lines.
    changes: VecDeque<String>,
    frames: u64,
}

impl Show {
    /// Starts it.
    ///
    /// # Errors
    /// Whatever the system or the balancer says.
    pub async fn open(demo: &Demo, mut screen: Screen, kept: Kept, turns: Turns) -> Result<Show, Trouble> {
        let scene = Scene::open(demo, turns).await?;
        let _ = screen.say(&[String::new()]);
        let (history, pools, changes) = (History::default(), Vec::new(), VecDeque::new());
        let mut show = Show { scene, screen, kept, history, pools, changes, frames: 0 };
        if !show.screen.is_terminal() {
            let hints = show.hints();
            // Nobody looks any more: the first line of numbers notices too, and that is an end like any other.
            let _ = show.screen.say(&hints);
        }
        Ok(show)
    }

    /// Until the time is over, a signal, or nobody looks any more.
    pub async fn run(mut self, length: Option<Duration>) -> Exit {
        let end = length.map(|length| clock::timer(self.scene.begun + length));
        let mut frames = interval(FRAME);
        frames.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let ended = loop {
            // Waiting for an event loses nothing when it is given up (see `Daemon::next`), nor does a timer.
            let event = tokio::select! {
                event = self.scene.daemon.next() => Some(event),
                _ = frames.tick() => None,
                () = until(end) => break End::Stopped,
            };
            let Some(event) = event else {
                if self.frame().await.is_err() {
                    break End::Stopped;
                }
                continue;
            };
            if let ControlFlow::Break(end) = self.scene.daemon.handle(event).await {
                break end;
            }
        };
        self.close(ended).await
    }

    async fn frame(&mut self) -> io::Result<()> {
        let (mood, _) = schedule::at(self.elapsed());
        self.scene.company.direct(schedule::WHO, mood);
        self.look().await;
        let changes = self.changes();
        self.frames += 1;
        if self.screen.is_terminal() {
            self.changes.extend(changes);
            self.changes.drain(..self.changes.len().saturating_sub(MOST_CHANGES));
            let picture = self.picture();
            return self.screen.draw(&picture);
        }
        if !changes.is_empty() {
            self.screen.say(&changes)?;
        }
        // The first look comes at once and has seen nothing yet.
        if self.frames > 1 && self.frames % FRAMES_A_LINE == 1 {
            let numbers = table::line(&self.history, |pool| self.numbers(pool));
            let seconds = self.elapsed().as_secs();
            return self.screen.say(&[format!("{seconds} s{numbers}")]);
        }
        Ok(())
    }

    fn elapsed(&self) -> Duration {
        clock::now().since(self.scene.begun)
    }

    /// Takes the numbers, and leads the clients to where the listeners are now.
    async fn look(&mut self) {
        self.history.push(self.scene.samples().await);
        self.pools = self.scene.pools().await;
        self.scene.lead();
    }

    /// What has happened to backends since it was last asked.
    fn changes(&self) -> Vec<String> {
        self.scene.turns.take().iter().map(|turn| words::turn(turn, self.scene.begun)).collect()
    }

    fn picture(&mut self) -> Vec<String> {
        let (elapsed, generation) = (self.elapsed(), self.scene.daemon.generation());
        let title = format!("Evenkeel demo · {} s · configuration {generation}", elapsed.as_secs());
        let mut lines = vec![title, schedule::sentence(elapsed), String::new()];
        lines.extend(self.table(Span::Recent));
        let (hints, (_, rows)) = (self.hints(), self.screen.size());
        let room = rows.saturating_sub(lines.len() + hints.len() + 3).max(FEWEST_CHANGES);
        lines.extend(self.changes.iter().rev().take(room).rev().cloned());
        if !self.changes.is_empty() {
            lines.push(String::new());
        }
        lines.extend(hints);
        let room = rows.saturating_sub(lines.len() + 2).min(LOG_LINES);
        lines.push(String::new());
        lines.extend(newest(self.kept.lines(), room));
        lines
    }

    fn table(&mut self, span: Span) -> Vec<String> {
        let (width, _) = self.screen.size();
        let listening = self.scene.daemon.server().listening();
        let note = |pool: &str| format!("{}{}", place(pool, &listening), self.numbers(pool));
        table::table(&self.history, span, note, width)
    }

    /// What is counted of a pool as a whole, by its clients and by the balancer.
    fn numbers(&self, pool: &str) -> String {
        let tallies = &self.scene.company.tallies;
        let tally = match pool {
            "http" => Some(&tallies.web),
            "tcp" => Some(&tallies.echo),
            _ => None,
        };
        numbers(tally, self.pools.iter().find(|report| &*report.pool == pool))
    }

    fn hints(&mut self) -> Vec<String> {
        let doors = self.scene.doors();
        let mut lines = Vec::new();
        if let Some(web) = doors.web {
            lines.push(format!("Try it    curl -i http://{web}/"));
        }
        let listening = self.scene.daemon.server().listening();
        if let Some(secure) = listening.iter().find(|listening| &*listening.name == "https") {
            lines.push(format!("          curl -ik https://{}/", secure.address));
        }
        if let Some(echo) = doors.echo {
            lines.push(format!("          curl -m 1 telnet://{echo}"));
        }
        lines.push(format!("Edit it   {}", self.scene.stage.file().display()));
        lines.push("          change a weight, the algorithm or a backend, save, and watch the shares".to_owned());
        lines.push("End it    Ctrl-C".to_owned());
        lines
    }

    /// The numbers of the whole show, after the clients have left.
    async fn close(mut self, ended: End) -> Exit {
        self.look().await;
        let mut lines = vec![format!("In {:.1} s:", self.elapsed().as_secs_f64()), String::new()];
        lines.extend(self.table(Span::Whole));
        let shown = if self.screen.is_terminal() { self.screen.draw(&lines) } else { self.screen.say(&lines) };
        self.scene.close().await;
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

fn numbers(tally: Option<&Tally>, report: Option<&PoolReport>) -> String {
    let mut parts = Vec::new();
    if let Some(tally) = tally {
        parts.push(format!("clients: {} served, {} failed", tally.served(), tally.failed()));
    }
    if let Some(report) = report {
        parts.push(format!("{} retried", report.record.retried + report.record.retried_free));
        if report.rung != Rung::Primaries {
            parts.push(words::rung(report.rung).to_owned());
        }
    }
    parts.join(" · ")
}

/// The listener of a pool's own name, as the demonstration's file has it.
fn place(pool: &str, listening: &[Listening]) -> String {
    let own = listening.iter().find(|listening| &*listening.name == pool);
    own.map_or(String::new(), |listening| format!("listens on {} · ", listening.address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::PoolRecord;

    #[test]
    fn the_beginning_of_a_refusal_is_seen() {
        let log = |lines: &[&str]| lines.iter().map(ToString::to_string).collect::<Vec<_>>();
        let refused = log(&["ready", "reload refused", "error", "-->", "help"]);
        assert_eq!(newest(refused.clone(), 2), log(&["reload refused", "error"]));
        assert_eq!(newest(refused.clone(), 9), refused[1..]);
        assert_eq!(newest(log(&["a", "b", "c"]), 2), log(&["b", "c"]));
    }

    #[test]
    fn a_pool_is_told_of_by_its_clients_its_retries_and_its_rung() {
        let record = PoolRecord { retried: 2, retried_free: 3, ..PoolRecord::default() };
        let report = |rung| PoolReport { pool: "http".into(), rung, waiting: 0, record };
        let usual = numbers(Some(&Tally::default()), Some(&report(Rung::Primaries)));
        assert_eq!(usual, "clients: 0 served, 0 failed · 5 retried");
        assert!(numbers(None, Some(&report(Rung::FailOpen))).starts_with("5 retried · fail-open"));
    }
}
