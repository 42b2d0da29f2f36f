//! Who gets the next request: the seam that every balancing policy stands behind, and the ladder that all of them climb.
//!
//! A policy sees [`Candidate`]s, never backends: it reads weights, standings, in-flight counts and latency estimates and
//! answers with an index. It takes no lock, allocates nothing in [`Picker::pick`], reads no clock and rolls only the dice
//! it is handed. One picker belongs to one worker and one pool. `None` is a real answer (503), never index 0.

mod any;
#[cfg(test)]
mod conformance;
mod consistent_hash;
mod contenders;
mod dice;
mod ip_hash;
mod key;
mod latency;
mod least_connections;
mod least_response_time;
mod ramp;
mod reach;
mod round_robin;
mod two_choices;
mod weighted_round_robin;

use crate::clock::Instant;

pub use any::{AnyPicker, Policy};
pub use consistent_hash::{ConsistentHash, Table};
pub use dice::Dice;
pub use ip_hash::IpHash;
pub use key::{hash_key, ip_key};
pub use latency::{Estimate, peer_median};
pub use least_connections::LeastConnections;
pub use least_response_time::LeastResponseTime;
pub use ramp::{UNIT, ramped};
pub use reach::Reach;
pub use round_robin::RoundRobin;
pub use two_choices::TwoChoices;
pub use weighted_round_robin::WeightedRoundRobin;

/// Why a backend may or may not be given a request now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It may.
    Usable,
    /// Its health check says it is down.
    Down,
    /// Its breaker is open.
    Open,
    /// It is at its `max_connections`.
    Full,
    /// It finishes what it has and takes nothing new.
    Draining,
    /// An administrator took it out.
    Maintenance,
}

/// What a picker may know of a backend.
pub trait Candidate {
    /// Its configured weight, at least 1.
    fn weight(&self) -> u32;
    /// Its weight at `now`, in hundredths ([`UNIT`]): less than all of it while it comes back by a slow start. The policies
    /// that hash go by the configured one, because their answers are to be the same in every instance.
    fn weight_at(&self, _now: Instant) -> u32 {
        self.weight() * UNIT
    }
    /// Whether it may be picked at `now`, or why not. Where several reasons hold, the one that forbids most: maintenance,
    /// draining, down, open, and last of all full, because only of a backend that is otherwise usable it says something to
    /// be full: a request may wait for it. The ladder comes back to those that are down or open without asking whether they
    /// are full; a limit holds on every rung all the same, because whoever takes what was picked is refused.
    fn standing(&self, now: Instant) -> Standing;
    /// Requests (L7) or connections (L4) it has now, over all workers.
    fn in_flight(&self) -> u32;
    /// Its response-time estimate.
    fn latency(&self) -> Estimate;
    /// Whether it is only for when no primary is usable.
    fn is_backup(&self) -> bool;
    /// A number that stays the same over workers, restarts and instances, and differs between the backends of a pool.
    fn identity(&self) -> u64;
}

/// One step of the ladder of candidates, the same for every policy (semantics.md §1): never draining or in maintenance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rung {
    /// Usable primaries.
    Primaries,
    /// Usable backups.
    Backups,
    /// All primaries alike, whatever is said of them, because that is said of too many ([`Reach::panics`]).
    Panic,
    /// Those held back only by their breaker.
    BreakerOpen,
    /// Those that are down, rather than no answer at all.
    FailOpen,
}

/// The lowest step for a request that could wait instead: while a backend that works is merely full, a request is not
/// given to one that does not.
pub const LOWEST_WHILE_FULL: Rung = Rung::Backups;

impl Rung {
    /// Where a request looks, from the first to try to the last.
    pub const LADDER: [Rung; 4] = [Rung::Primaries, Rung::Backups, Rung::BreakerOpen, Rung::FailOpen];

    /// The same while verdicts are not believed. Below the primaries there are only backups then.
    pub const IN_PANIC: [Rung; 3] = [Rung::Panic, Rung::BreakerOpen, Rung::FailOpen];

    /// Whether a backend of this standing stands on this rung.
    #[must_use]
    pub fn holds(self, standing: Standing, is_backup: bool) -> bool {
        match self {
            Rung::Primaries => standing == Standing::Usable && !is_backup,
            Rung::Backups => standing == Standing::Usable && is_backup,
            Rung::Panic => matches!(standing, Standing::Usable | Standing::Down | Standing::Open) && !is_backup,
            Rung::BreakerOpen => standing == Standing::Open,
            Rung::FailOpen => standing == Standing::Down,
        }
    }

    /// As logs have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Rung::Primaries => "primaries",
            Rung::Backups => "backups",
            Rung::Panic => "panic",
            Rung::BreakerOpen => "breaker_open",
            Rung::FailOpen => "fail_open",
        }
    }
}

/// The backends that a request has tried already. Bounded: more tries than this fit no retry limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried {
    indices: [u16; Tried::MOST],
    count: u8,
}

impl Tried {
    /// How many can be remembered.
    pub const MOST: usize = 15;

    /// Remembers `index`; false when there is no room left, which ends the tries.
    pub fn add(&mut self, index: usize) -> bool {
        let (Ok(index), Some(slot)) = (u16::try_from(index), self.indices.get_mut(usize::from(self.count))) else {
            return false;
        };
        *slot = index;
        self.count += 1;
        true
    }

    /// Whether nothing was tried yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether `index` was tried.
    #[must_use]
    pub fn contains(&self, index: usize) -> bool {
        self.indices[..usize::from(self.count)].iter().any(|&tried| usize::from(tried) == index)
    }
}

/// One request's question to a picker.
pub struct Ask<'a> {
    /// The time of the pick.
    pub now: Instant,
    /// The hash of what the policy hashes on (client address, header …); 0 for policies that do not.
    pub key: u64,
    /// What this request has tried already.
    pub tried: &'a Tried,
    /// The worker's dice.
    pub dice: &'a mut Dice,
    /// On which rung to look.
    pub rung: Rung,
}

impl Ask<'_> {
    /// Whether the candidate at `index` may be the answer.
    pub fn admits(&self, index: usize, candidate: &impl Candidate) -> bool {
        self.rung.holds(candidate.standing(self.now), candidate.is_backup()) && !self.tried.contains(index)
    }
}

/// A balancing policy at work: one worker's, for one pool.
pub trait Picker {
    /// The index of the candidate to use, or `None` when none is on the asked rung.
    fn pick<C: Candidate>(&mut self, among: &[C], ask: &mut Ask<'_>) -> Option<usize>;
}

/// Climbs the ladder: the pick of the first rung that has one, and the rung it stands on.
///
/// Without `fail_open` the last rung is left out. Nor is there a pick below the backups while an untried candidate is
/// full, panic apart: whoever asks may wait for that one.
pub fn climb<C: Candidate>(
    picker: &mut impl Picker,
    among: &[C],
    ask: &mut Ask<'_>,
    reach: Reach,
) -> Option<(usize, Rung)> {
    match reach.panics(among, ask.now) {
        true => climb_by(Rung::IN_PANIC, picker, among, ask, reach),
        false => climb_by(Rung::LADDER, picker, among, ask, reach),
    }
}

/// By a ladder that the compiler knows, so that each rung's picks are made for it.
#[inline]
fn climb_by<const RUNGS: usize, C: Candidate>(
    ladder: [Rung; RUNGS],
    picker: &mut impl Picker,
    among: &[C],
    ask: &mut Ask<'_>,
    reach: Reach,
) -> Option<(usize, Rung)> {
    for rung in ladder {
        if rung == Rung::FailOpen && !reach.fail_open {
            return None;
        }
        // Looked at once, below the rungs on which requests are found a backend as a rule.
        if rung == Rung::BreakerOpen && any_full(among, ask) {
            return None;
        }
        ask.rung = rung;
        if let Some(index) = picker.pick(among, ask) {
            return Some((index, rung));
        }
    }
    None
}

/// Why what was picked could not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// It has no room, or others wait for it.
    NoRoom,
    /// It takes nothing any more.
    Leaving,
    /// Its breaker lets nobody in any more: from now on it stands as open, which has a rung of its own.
    Shut,
}

/// How often a climb begins again because a breaker was shut. It opens and shuts with other workers' requests.
const LOOKS: usize = 16;

/// Why nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// Those that could be had are full: to wait makes sense.
    Full,
    /// None could be had.
    Nobody,
}

/// Climbs the ladder and takes what is found with `take`. Between the pick and the taking another worker may be faster;
/// then the one that was lost is passed over and the climb begins again. What was lost here may be tried again later, so it
/// is not put down in the request's `tried`.
///
/// # Errors
/// Says whether it makes sense to wait.
pub fn climb_and_take<C: Candidate, T>(
    picker: &mut impl Picker,
    among: &[C],
    ask: Ask<'_>,
    reach: Reach,
    mut take: impl FnMut(usize, Rung) -> Result<T, Lost>,
) -> Result<(T, usize, Rung), Missed> {
    let Ask { now, key, tried, dice, .. } = ask;
    let (mut passed_over, mut missed, mut lowest) = (*tried, Missed::Nobody, Rung::FailOpen);
    let mut looks = LOOKS;
    loop {
        let mut ask = Ask { now, key, tried: &passed_over, dice: &mut *dice, rung: Rung::Primaries };
        let Some((index, rung)) = climb(picker, among, &mut ask, reach).filter(|&(_, rung)| rung <= lowest) else {
            break;
        };
        match take(index, rung) {
            Ok(taken) => return Ok((taken, index, rung)),
            Err(Lost::NoRoom) => (missed, lowest) = (Missed::Full, lowest.min(rung.max(LOWEST_WHILE_FULL))),
            Err(Lost::Shut) if looks > 0 => {
                looks -= 1;
                continue;
            }
            Err(Lost::Shut | Lost::Leaving) => {}
        }
        // Bounded: there is room for a few, and each time one more is passed over.
        if !passed_over.add(index) {
            break;
        }
    }
    let ask = Ask { now, key, tried, dice, rung: Rung::Primaries };
    Err(if any_full(among, &ask) { Missed::Full } else { missed })
}

fn any_full<C: Candidate>(among: &[C], ask: &Ask<'_>) -> bool {
    let full =
        |(index, candidate): (usize, &C)| candidate.standing(ask.now) == Standing::Full && !ask.tried.contains(index);
    among.iter().enumerate().any(full)
}
