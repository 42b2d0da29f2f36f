//! The made-up backends: how long they take, and how they fail.

use std::time::Duration;

use super::{Backend, Failure, Service, What};
use crate::balance::Dice;
use crate::health::Finding;
use crate::outcome::Outcome;

/// How long a probe of a backend that is well takes.
const PROBE: Duration = Duration::from_millis(1);

/// One backend on its way through the run.
pub(super) struct Actor {
    backend: Backend,
    slowness: f64,
    share: f64,
    how: Failure,
    denies: bool,
}

/// What becomes of one attempt, if nothing comes between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It ends without an answer, after this time.
    Fails(Duration, Outcome),
    /// The head of an answer comes after this time, with a status; the rest of it takes as long again as the last says.
    Answers(Duration, u16, Duration),
    /// The same, but the rest never ends.
    Breaks(Duration, Duration),
}

impl Actor {
    pub fn new(backend: &Backend) -> Actor {
        let how = Failure::Refuses(Duration::ZERO);
        Actor { backend: backend.clone(), slowness: 1.0, share: 0.0, how, denies: false }
    }

    /// What becomes of an attempt that begins now as one of `in_flight`, by a client that waits for so long.
    pub fn attempt(&self, in_flight: u32, patience: Duration, dice: &mut Dice) -> Fate {
        let fails = dice.unit() < self.share;
        let crowd = f64::max(1.0, f64::from(in_flight) / f64::from(self.backend.slots.max(1)));
        let alone = match self.backend.service {
            Service::Constant(time) => time,
            Service::Exponential(mean) => exponential(mean.as_secs_f64(), dice),
        };
        let head = alone.mul_f64(self.slowness * crowd);
        let fate = match self.how {
            Failure::Refuses(after) if fails => Fate::Fails(after, Outcome::ConnectFailed),
            Failure::Resets(after) if fails => Fate::Fails(after, Outcome::BackendClosed),
            Failure::Answers(status) if fails => Fate::Answers(head, status, self.backend.body),
            Failure::Hangs if fails => Fate::Answers(Duration::MAX, 200, Duration::ZERO),
            Failure::Breaks(after) if fails => Fate::Breaks(head, after),
            _ => Fate::Answers(head, 200, self.backend.body),
        };
        match fate {
            Fate::Answers(head, ..) | Fate::Breaks(head, _) if head > patience => {
                Fate::Fails(patience, Outcome::ResponseHeaderTimeout)
            }
            fate => fate,
        }
    }

    /// What becomes of a probe, and when.
    pub fn probe(&self, timeout: Duration, dice: &mut Dice) -> (Duration, Finding) {
        let takes = PROBE.mul_f64(self.slowness);
        let takes = match self.how {
            _ if self.denies => return (takes.min(timeout), Finding::Bad),
            _ if dice.unit() >= self.share => takes,
            Failure::Refuses(after) | Failure::Resets(after) => return (after.min(timeout), Finding::Bad),
            Failure::Answers(_) | Failure::Breaks(_) => return (takes.min(timeout), Finding::Bad),
            Failure::Hangs => Duration::MAX,
        };
        if takes > timeout { (timeout, Finding::Bad) } else { (takes, Finding::Good) }
    }

    pub fn change(&mut self, what: What) {
        match what {
            What::Slows(times) => self.slowness = times.max(0.0),
            What::Fails { share, how } => (self.share, self.how) = (share, how),
            What::Denies(denies) => self.denies = denies,
            What::IsSaid(_) | What::Serves(_) | What::Weighs(_) => {}
        }
    }
}

pub(super) fn exponential(mean_seconds: f64, dice: &mut Dice) -> Duration {
    Duration::from_secs_f64(-(1.0 - dice.unit()).ln() * mean_seconds)
}
