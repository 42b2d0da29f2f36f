//! Plays a script: does what it says to the servers, tells what the balancer makes of that as it happens, and judges.

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::scene::Scene;
use super::screen::Screen;
use super::script::{self, Account, Act, POOL, Sightings, Step, summary};
use super::table::Sample;
use super::{Trouble, words};
use crate::balance::Rung;
use crate::cli::turns::Turns;
use crate::cli::{Demo, Exit};
use crate::clock::{self, Instant};
use crate::server::PoolReport;
use crate::state::PoolStatus;

/// How often it is looked what has come of a step.
const LOOK: Duration = Duration::from_millis(50);

/// How often it is told how much of its weight a server has that comes back slowly, at the usual speed.
const RAMP: Duration = Duration::from_secs(1);

/// How much longer than it lasts a step may take until all is seen that should be; at any speed, because a machine that has
/// other things to do is no fault of ours.
const PATIENCE: Duration = Duration::from_secs(20);

/// A pause in looking that is worth a word beside a fault: longer than any that the work here brings about.
const STILL: Duration = Duration::from_secs(1);

/// Why a play is over before its end.
enum Cut {
    /// A signal, or a worker's death.
    Ended,
    /// Nobody reads what is told.
    Unread,
}

impl From<io::Error> for Cut {
    fn from(_: io::Error) -> Cut {
        Cut::Unread
    }
}

/// The running play.
pub struct Play {
    scene: Scene,
    screen: Screen,
    speed: u32,
    rung: Rung,
    /// Of the act: as many breakers were open at once.
    most_open: usize,
    drought: Drought,
    stillness: Stillness,
    ramp_told: Instant,
}

/// Whether clients are being served at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Drought {
    is_on: bool,
    served: u64,
    failed: u64,
}

impl Drought {
    /// Takes in the counts; true when one that was on has ended with them.
    fn ends(&mut self, served: u64, failed: u64) -> bool {
        let (is_served, is_failing) = (served > self.served, failed > self.failed);
        let is_on = !is_served && (self.is_on || is_failing);
        let before = std::mem::replace(self, Drought { is_on, served, failed });
        before.is_on && is_served
    }
}

/// The longest that this process did not get to look: one that is stopped, or starved, makes requests late by itself.
#[derive(Clone, Copy, Debug, Default)]
struct Stillness {
    looked: Option<Instant>,
    longest: Duration,
}

impl Stillness {
    fn look(&mut self, now: Instant) {
        let since = self.looked.replace(now).map_or(Duration::ZERO, |before| now.since(before));
        self.longest = self.longest.max(since);
    }

    /// What is to be said of it beside faults, since it was last asked.
    fn take(&mut self) -> Option<String> {
        let longest = std::mem::take(&mut self.longest);
        let seconds = longest.as_secs_f64();
        (longest >= STILL).then(|| format!("this process itself stood still for {seconds:.1} s, so it proves nothing"))
    }
}

/// What was counted when an act began.
struct Before {
    served: u64,
    failed: u64,
    retried: u64,
    samples: Vec<Sample>,
}

impl Play {
    /// Starts servers, balancer and clients.
    ///
    /// # Errors
    /// Whatever the system or the balancer says.
    pub async fn open(demo: &Demo, screen: Screen, turns: Turns) -> Result<Play, Trouble> {
        let mut scene = Scene::open(demo, turns).await?;
        scene.lead();
        let ramp_told = clock::now();
        Ok(Play {
            scene,
            screen,
            speed: demo.speed,
            rung: Rung::Primaries,
            most_open: 0,
            drought: Drought::default(),
            stillness: Stillness::default(),
            ramp_told,
        })
    }

    /// Plays all acts; says whether all went as it should.
    pub async fn run(mut self, acts: &[Act]) -> Exit {
        let mut accounts = Vec::new();
        let played = self.play(acts, &mut accounts).await;
        let all_well = accounts.iter().all(|account| account.faults.is_empty());
        let exit = if played.is_ok() && all_well { Exit::Done } else { Exit::Failed };
        if matches!(played, Err(Cut::Ended)) {
            eprintln!("error: the play was ended before its end");
        }
        self.scene.close().await;
        exit
    }

    async fn play(&mut self, acts: &[Act], accounts: &mut Vec<Account>) -> Result<(), Cut> {
        self.open_curtain()?;
        for (number, act) in (1..).zip(acts) {
            self.screen.say(&[String::new(), format!("Act {number}: {}", act.title)])?;
            let account = self.act(act).await?;
            accounts.push(account);
        }
        let mut lines = vec![String::new()];
        lines.extend(summary(accounts));
        Ok(self.screen.say(&lines)?)
    }

    fn open_curtain(&mut self) -> io::Result<()> {
        let doors = self.scene.doors();
        let mut lines =
            vec!["An outage, in seven acts: four servers, twelve clients, Evenkeel between them.".to_owned()];
        if let Some(web) = doors.web {
            lines.push(format!("Be one    curl -i http://{web}/"));
        }
        lines.push(format!("The file  {}", self.scene.stage.file().display()));
        self.screen.say(&lines)
    }

    async fn act(&mut self, act: &Act) -> Result<Account, Cut> {
        self.most_open = 0;
        let before = self.before().await;
        let mut faults = Vec::new();
        for step in act.steps {
            let missing = self.step(step).await?;
            faults.extend(missing.iter().map(ToString::to_string));
        }
        let after = self.before().await;
        let account = Account {
            title: act.title,
            requests: after.served + after.failed - before.served - before.failed,
            failed: after.failed - before.failed,
            retried: after.retried - before.retried,
            slowest: self.scene.company.tallies.web.take_slowest(),
            faults,
        };
        let mut account = account.judged(act.loss, self.most_open, after.samples.len());
        let stillness = self.stillness.take();
        if !account.faults.is_empty() {
            account.faults.extend(stillness);
        }
        let mut lines: Vec<_> = act.why.iter().map(|line| format!("           {line}")).collect();
        lines.push(format!("        =  {}", account.sentence()));
        lines.push(format!("           {}", shares(&before.samples, &after.samples)));
        lines.extend(account.faults.iter().map(|fault| format!("        !  {fault}")));
        self.screen.say(&lines)?;
        Ok(account)
    }

    async fn before(&mut self) -> Before {
        let samples = self.scene.samples().await.into_iter().filter(|sample| sample.pool == POOL).collect();
        let retried = self.retried().await;
        let tally = &self.scene.company.tallies.web;
        Before { served: tally.served(), failed: tally.failed(), retried, samples }
    }

    async fn retried(&mut self) -> u64 {
        let of = |report: &PoolReport| report.record.retried + report.record.retried_free;
        self.scene.pools().await.iter().filter(|report| &*report.pool == POOL).map(of).sum()
    }

    /// Does it, and waits for what should come of it; says what did not.
    async fn step(&mut self, step: &Step) -> Result<Vec<script::Expect>, Cut> {
        let (begun, lasts) = (clock::now(), step.lasts / self.speed);
        self.tell(&format!(">> {}", step.says))?;
        step.who.iter().for_each(|who| self.scene.company.direct(who, step.mood));
        let (retried, mut seen) = (self.retried().await, Sightings::default());
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            // Waiting for an event loses nothing when it is given up (see `Daemon::next`), nor does a timer.
            let event = tokio::select! {
                event = self.scene.daemon.next() => Some(event),
                _ = looks.tick() => None,
            };
            if let Some(event) = event {
                match self.scene.daemon.handle(event).await {
                    ControlFlow::Break(_) => return Err(Cut::Ended),
                    ControlFlow::Continue(()) => continue,
                }
            }
            self.look(&mut seen, retried).await?;
            let (elapsed, missing) = (clock::now().since(begun), seen.missing(step.expects));
            if elapsed >= lasts && missing.is_empty() || elapsed >= lasts + PATIENCE {
                return Ok(missing);
            }
        }
    }

    /// Takes in, and tells, what has changed.
    async fn look(&mut self, seen: &mut Sightings, retried_before: u64) -> Result<(), Cut> {
        self.stillness.look(clock::now());
        self.scene.lead();
        for turn in self.scene.turns.take() {
            self.screen.say(&[words::turn(&turn, self.scene.begun)])?;
            seen.hear(turn);
        }
        let retried = self.retried().await - retried_before;
        let statuses = self.scene.daemon.server().status();
        for status in statuses.iter().filter(|status| &*status.pool == POOL) {
            seen.see(status, retried);
            self.most_open = self.most_open.max(script::open(status));
            if std::mem::replace(&mut self.rung, status.rung) != status.rung {
                self.tell(words::rung(status.rung))?;
            }
            self.tell_ramps(status)?;
        }
        let tally = &self.scene.company.tallies.web;
        if self.drought.ends(tally.served(), tally.failed()) {
            self.tell("clients are served again")?;
        }
        Ok(())
    }

    /// Tells now and then of those who come back slowly.
    fn tell_ramps(&mut self, status: &PoolStatus) -> io::Result<()> {
        let now = clock::now();
        if now.since(self.ramp_told) < RAMP / self.speed {
            return Ok(());
        }
        let Some(ramps) = words::ramps(status) else { return Ok(()) };
        self.ramp_told = now;
        self.tell(&ramps)
    }

    /// Tells of something that concerns the whole pool.
    fn tell(&mut self, what: &str) -> io::Result<()> {
        let seconds = words::seconds(clock::now(), self.scene.begun);
        self.screen.say(&[format!("{seconds}  {what}")])
    }
}

/// Who had how much of what came between.
fn shares(before: &[Sample], after: &[Sample]) -> String {
    let done = |after: &Sample| {
        let before = before.iter().find(|before| before.backend == after.backend);
        after.requests - before.map_or(0, |before| before.requests)
    };
    let parts: Vec<_> = after.iter().map(|sample| format!("{} {}", sample.backend, done(sample))).collect();
    format!("attempts: {}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::table::sample;
    use super::*;

    #[test]
    fn a_drought_begins_when_all_fail_and_ends_with_the_first_who_is_served() {
        let mut drought = Drought::default();
        let counts = [(9, 0), (12, 1), (12, 1), (12, 3), (12, 3), (13, 4), (14, 4), (14, 5), (15, 5)];
        let ends = counts.map(|(served, failed)| drought.ends(served, failed));
        assert_eq!(ends, [false, false, false, false, false, true, false, false, true]);
    }

    #[test]
    fn a_process_that_stood_still_says_so_once() {
        let (mut stillness, at) = (Stillness::default(), |millis| Instant::ORIGIN + Duration::from_millis(millis));
        [9_000, 9_050, 9_100].map(at).into_iter().for_each(|now| stillness.look(now));
        assert_eq!(stillness.take(), None);
        [11_600, 11_650].map(at).into_iter().for_each(|now| stillness.look(now));
        let said = stillness.take().unwrap();
        assert!(said.contains("2.5 s"), "{said}");
        assert_eq!(stillness.take(), None);
    }

    #[test]
    fn shares_are_those_of_the_time_between() {
        let (before, after) = ([sample(POOL, "swift", 7)], [sample(POOL, "swift", 9), sample(POOL, "new", 4)]);
        assert_eq!(shares(&before, &after), "attempts: swift 2, new 4");
    }
}
