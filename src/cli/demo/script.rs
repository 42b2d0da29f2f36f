//! What a script for the demonstration consists of, and the judgement on how it went: values, no terminal and no clock.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use super::origins::Mood;
use crate::balance::Rung;
use crate::breaker::Outlook;
use crate::cli::turns::Turn;
use crate::config::Name;
use crate::state::{BackendStatus, PoolStatus};

/// The pool that it happens to.
pub const POOL: &str = "http";

/// One act: something befalls servers, and mostly passes.
#[derive(Debug)]
pub struct Act {
    /// What befalls them.
    pub title: &'static str,
    /// What comes of it and for what reason, as lines.
    pub why: &'static [&'static str],
    /// Whether clients may notice.
    pub loss: Loss,
    /// What is done, one after the other.
    pub steps: &'static [Step],
}

/// Whether clients may see failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Not one.
    Nobody,
    /// As there is nobody left to answer.
    Unavoidable,
}

/// One thing that is done, and what has to come of it before the next.
#[derive(Debug)]
pub struct Step {
    /// What, as a sentence.
    pub says: &'static str,
    /// To whom.
    pub who: &'static [&'static str],
    /// How they behave from then on.
    pub mood: Mood,
    /// For how long at least.
    pub lasts: Duration,
    /// What has to be seen.
    pub expects: &'static [Expect],
}

/// Something that has to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// This backend's breaker opened.
    Opened(&'static str),
    /// It opened again, because a probe failed.
    Reopened(&'static str),
    /// It let probes through and closed.
    Closed(&'static str),
    /// Its health check took it down.
    Down(&'static str),
    /// And brought it up.
    Up(&'static str),
    /// It had only a part of its weight.
    Ramped(&'static str),
    /// Requests were tried elsewhere.
    Retried,
    /// A breaker stayed closed because as many were open as may be, or nobody else was left.
    Capped,
    /// Requests went to backends that are down, because all were.
    FailOpen,
    /// All backends are up, their breakers closed, and requests find them as usual.
    Calm,
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expect::Opened(who) => write!(f, "the breaker of {who} did not open"),
            Expect::Reopened(who) => write!(f, "no probe opened the breaker of {who} again"),
            Expect::Closed(who) => write!(f, "the breaker of {who} did not close"),
            Expect::Down(who) => write!(f, "{who} was not found to be down"),
            Expect::Up(who) => write!(f, "{who} was not found to be up again"),
            Expect::Ramped(who) => write!(f, "{who} had all of its weight at once"),
            Expect::Retried => f.write_str("nothing was tried elsewhere"),
            Expect::Capped => f.write_str("no breaker was kept closed"),
            Expect::FailOpen => f.write_str("it did not fail open"),
            Expect::Calm => f.write_str("not all backends came back"),
        }
    }
}

/// What was seen since a step began.
#[derive(Debug, Default)]
pub struct Sightings {
    turns: Vec<Turn>,
    ramped: HashSet<Name>,
    has_retried: bool,
    has_failed_open: bool,
    is_calm: bool,
}

impl Sightings {
    /// Takes in a change.
    pub fn hear(&mut self, turn: Turn) {
        self.turns.push(turn);
    }

    /// Takes in how the pool stands, and how often it has retried since the step began.
    pub fn see(&mut self, status: &PoolStatus, retried: u64) {
        let ramping = status.backends.iter().filter(|backend| backend.ramp < 1.0);
        self.ramped.extend(ramping.map(|backend| backend.name.clone()));
        self.has_retried |= retried > 0;
        self.has_failed_open |= status.rung == Rung::FailOpen;
        self.is_calm = status.is_calm();
    }

    /// Whether this was seen.
    #[must_use]
    pub fn has(&self, expect: Expect) -> bool {
        let turned = |who: &str, is: &dyn Fn(&Turn) -> bool| {
            self.turns.iter().any(|turn| turn.pool == POOL && turn.backend == who && is(turn))
        };
        match expect {
            Expect::Opened(who) => turned(who, &|turn| turn.to == "open"),
            Expect::Reopened(who) => turned(who, &|turn| turn.from == "half_open" && turn.to == "open"),
            Expect::Closed(who) => turned(who, &|turn| turn.from == "half_open" && turn.to == "closed"),
            Expect::Down(who) => turned(who, &|turn| turn.to == "down"),
            Expect::Up(who) => turned(who, &|turn| turn.from.starts_with("going up") && turn.to == "up"),
            Expect::Capped => self.turns.iter().any(|turn| turn.pool == POOL && turn.message.contains("stays closed")),
            Expect::Ramped(who) => self.ramped.contains(who),
            Expect::Retried => self.has_retried,
            Expect::FailOpen => self.has_failed_open,
            Expect::Calm => self.is_calm,
        }
    }

    /// What is still to be seen of these.
    #[must_use]
    pub fn missing(&self, expects: &[Expect]) -> Vec<Expect> {
        expects.iter().copied().filter(|expect| !self.has(*expect)).collect()
    }
}

/// How many breakers of a pool are not closed.
#[must_use]
pub fn open(status: &PoolStatus) -> usize {
    let is_open =
        |backend: &&BackendStatus| backend.breaker.is_some_and(|it| !matches!(it.outlook, Outlook::Closed { .. }));
    status.backends.iter().filter(is_open).count()
}

/// How an act went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// The act's title.
    pub title: &'static str,
    /// Requests that clients made.
    pub requests: u64,
    /// Those that failed them.
    pub failed: u64,
    /// Attempts after the first.
    pub retried: u64,
    /// The longest that a client waited.
    pub slowest: Duration,
    /// What should have happened and did not.
    pub faults: Vec<String>,
}

impl Account {
    /// Adds what the numbers themselves say against it: failures that should not be, or more breakers open at once than half
    /// of so many backends.
    #[must_use]
    pub fn judged(mut self, loss: Loss, most_open: usize, backends: usize) -> Account {
        if loss == Loss::Nobody && self.failed > 0 {
            self.faults.push(format!("{} requests failed", self.failed));
        }
        if 2 * most_open > backends {
            self.faults.push(format!("{most_open} of {backends} breakers were open"));
        }
        if self.requests == self.failed {
            self.faults.push("no client was served".to_owned());
        }
        self
    }

    /// The numbers, as a sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Account { requests, failed, retried, slowest, .. } = self;
        format!("{requests} requests, {failed} failed, {retried} retried; the slowest took {}", millis(*slowest))
    }
}

/// The closing table.
#[must_use]
pub fn summary(accounts: &[Account]) -> Vec<String> {
    let mut lines =
        vec![format!("     {:<46} {:>8} {:>7} {:>8} {:>9}", "act", "requests", "failed", "retried", "slowest")];
    for (number, account) in (1..).zip(accounts) {
        let Account { title, requests, failed, retried, slowest, faults } = account;
        let slowest = millis(*slowest);
        let verdict = if faults.is_empty() { "as it should" } else { "NOT as it should" };
        lines.push(format!("  {number}  {title:<46} {requests:>8} {failed:>7} {retried:>8} {slowest:>9}  {verdict}"));
        lines.extend(faults.iter().map(|fault| format!("       {fault}")));
    }
    lines
}

fn millis(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Standing;
    use crate::breaker::Mode;
    use crate::config::Address;
    use crate::state::{BreakerStatus, Health, Probed};

    fn turn(backend: &str, message: &str, from: &str, to: &str) -> Turn {
        let [backend, message, from, to] = [backend, message, from, to].map(str::to_owned);
        Turn { pool: POOL.to_owned(), backend, message, from, to, ..Turn::default() }
    }

    fn seen(turns: &[Turn]) -> Sightings {
        Sightings { turns: turns.to_vec(), ..Sightings::default() }
    }

    fn status(outlook: Outlook, rung: Rung) -> PoolStatus {
        let breaker = Some(BreakerStatus { outlook, probes: 3, mode: Mode::Enforce, trips: 1 });
        let address = Address::Ip("127.0.0.1:1".parse().unwrap());
        let (name, health, probed) = ("swift".into(), Some(Health::Up), Probed::default());
        let standing = Standing::Usable;
        let backend =
            BackendStatus { name, address, weight: 1, ramp: 1.0, standing, health, probed, breaker, in_flight: 0 };
        PoolStatus { pool: POOL.into(), rung, backends: vec![backend] }
    }

    #[test]
    fn each_expectation_is_met_by_its_own_change_at_its_own_backend() {
        let all = [
            (Expect::Opened("swift"), turn("swift", "breaker", "closed", "open")),
            (Expect::Reopened("swift"), turn("swift", "breaker", "half_open", "open")),
            (Expect::Closed("swift"), turn("swift", "breaker", "half_open", "closed")),
            (Expect::Down("swift"), turn("swift", "backend is down", "going down 2/2", "down")),
            (Expect::Up("swift"), turn("swift", "backend is up", "going up 2/2", "up")),
            (Expect::Capped, turn("swift", "breaker stays closed", "", "")),
        ];
        let expects: Vec<_> = all.iter().map(|(expect, _)| *expect).collect();
        for (expect, turned) in &all {
            let missing = seen(std::slice::from_ref(turned)).missing(&expects);
            // One that opened again has opened.
            let met = if *expect == Expect::Reopened("swift") { 2 } else { 1 };
            assert!(!missing.contains(expect) && missing.len() == all.len() - met, "{expect:?}: {missing:?}");
            let elsewhere = Turn { pool: "tcp".to_owned(), ..turned.clone() };
            assert!(!seen(&[elsewhere]).has(*expect), "{expect:?} in another pool");
        }
        assert!(!seen(&[turn("steady", "breaker", "closed", "open")]).has(Expect::Opened("swift")));
        let one_step = turn("swift", "probe succeeded", "going up 1/2", "going up 2/2");
        assert!(!seen(&[one_step]).has(Expect::Up("swift")));
    }

    #[test]
    fn what_stands_so_is_seen_when_it_does() {
        let mut seen = Sightings::default();
        seen.see(&status(Outlook::Open { left: Duration::ZERO }, Rung::FailOpen), 0);
        assert_eq!(
            [Expect::Retried, Expect::FailOpen, Expect::Calm].map(|expect| seen.has(expect)),
            [false, true, false]
        );
        seen.see(&status(Outlook::Closed { failures: 0 }, Rung::Primaries), 2);
        assert_eq!([Expect::Retried, Expect::FailOpen, Expect::Calm].map(|expect| seen.has(expect)), [true; 3]);
        seen.see(&status(Outlook::HalfOpen { probing: 0, passed: 0 }, Rung::Primaries), 0);
        assert!(!seen.has(Expect::Calm), "it is calm or it is not");
        assert!(!seen.has(Expect::Ramped("swift")));
        let mut ramping = status(Outlook::Closed { failures: 0 }, Rung::Primaries);
        ramping.backends[0].ramp = 0.3;
        seen.see(&ramping, 0);
        assert!(seen.has(Expect::Ramped("swift")) && !seen.has(Expect::Ramped("steady")));
    }

    #[test]
    fn who_is_not_closed_counts_as_open() {
        assert_eq!(open(&status(Outlook::Closed { failures: 2 }, Rung::Primaries)), 0);
        assert_eq!(open(&status(Outlook::HalfOpen { probing: 1, passed: 0 }, Rung::Primaries)), 1);
    }

    #[test]
    fn a_failure_that_should_not_be_is_a_fault_and_one_that_must_be_is_not() {
        let lost = Account { title: "x", requests: 10, failed: 1, ..Account::default() };
        assert_eq!(lost.clone().judged(Loss::Nobody, 2, 4).faults, ["1 requests failed"]);
        assert!(lost.clone().judged(Loss::Unavoidable, 2, 4).faults.is_empty());
        assert_eq!(lost.judged(Loss::Unavoidable, 3, 4).faults, ["3 of 4 breakers were open"]);
        assert_eq!(Account::default().judged(Loss::Nobody, 0, 4).faults, ["no client was served"]);
    }

    #[test]
    fn the_closing_table_has_a_line_for_each_act_and_each_fault() {
        let good = Account {
            title: "swift is killed",
            requests: 480,
            failed: 0,
            retried: 5,
            slowest: Duration::from_millis(95),
            faults: Vec::new(),
        };
        let bad = Account { title: "all are", failed: 2, faults: vec![Expect::Calm.to_string()], ..good.clone() };
        assert_eq!(good.sentence(), "480 requests, 0 failed, 5 retried; the slowest took 95 ms");
        let wanted = [
            "     act                                            requests  failed  retried   slowest",
            "  1  swift is killed                                     480       0        5     95 ms  as it should",
            "  2  all are                                             480       2        5     95 ms  NOT as it should",
            "       not all backends came back",
        ];
        assert_eq!(summary(&[good, bad]), wanted);
    }
}
