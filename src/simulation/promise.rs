//! What must hold at every step of a run, said again in other words than the pickers use.

use std::fmt;
use std::time::Duration;

use crate::balance::{Candidate, Reach, Standing, Tried};
use crate::clock::Instant;

/// Something that must always hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// A picked backend may be used, and none that ought to come before it may.
    PickIsTheBestAllowed,
    /// There is an answer whenever a backend may be used and has room.
    NoneOnlyWhenThereIsNone,
    /// No request is given twice to one backend.
    NeverATriedOne,
    /// A backend never has more than its `max_connections`.
    WithinItsLimit,
    /// In-flight counts sum to the attempts under way, and end at zero.
    InFlightIsBalanced,
    /// A breaker that is open lets nobody in, and one that is half-open has no more than its probes under way.
    OnlyProbesPassAnOpenBreaker,
    /// No breaker opens when no other backend could serve.
    TheLastUsableStaysClosed,
    /// No more breakers than `max_open_ratio` says are open, one apart.
    OnlyAShareIsOpen,
    /// When all is over, every breaker that is not closed has all its probes again.
    ProbesComeBack,
}

/// The first promise a run broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which.
    pub promise: Promise,
    /// When, from the beginning.
    pub at: Duration,
    /// The seed of the run.
    pub seed: u64,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} was broken at {:?} of the run with seed {}", self.promise, self.at, self.seed)
    }
}

/// Checks one answer of the ladder.
pub(super) fn of_pick<C: Candidate>(
    among: &[C],
    tried: &Tried,
    reach: Reach,
    now: Instant,
    has_room: impl Fn(usize) -> bool,
    picked: Option<usize>,
) -> Result<(), Promise> {
    let panics = panics(among, reach.panic_threshold, now);
    let rank = |index: usize| match (among[index].standing(now), among[index].is_backup()) {
        (Standing::Usable | Standing::Down | Standing::Open, false) if panics => Some(0),
        (standing, is_backup) => preference(standing, is_backup, reach.fail_open),
    };
    let untried = || (0..among.len()).filter(|&index| !tried.contains(index));
    let best = untried().filter_map(rank).min();
    // Whoever could wait for one that works is not given to one that does not.
    let waits = untried().any(|index| among[index].standing(now) == Standing::Full);
    let best = best.filter(|&best| best <= 1 || !waits);
    let can_be_had = untried().any(|index| best.is_some() && rank(index) == best && has_room(index));
    match picked {
        None if can_be_had => Err(Promise::NoneOnlyWhenThereIsNone),
        Some(index) if tried.contains(index) => Err(Promise::NeverATriedOne),
        Some(index) if best.is_none() || rank(index) != best => Err(Promise::PickIsTheBestAllowed),
        _ => Ok(()),
    }
}

/// Whether the well ones are so few that nothing said of the primaries counts.
fn panics<C: Candidate>(among: &[C], threshold: f64, now: Instant) -> bool {
    let standings = |backups| {
        let such = among.iter().filter(move |candidate| candidate.is_backup() == backups);
        such.map(|candidate| candidate.standing(now))
    };
    let is_well = |standing: &Standing| matches!(standing, Standing::Usable | Standing::Full);
    let is_not = |standing: &Standing| matches!(standing, Standing::Down | Standing::Open);
    let (well, not) = (standings(false).filter(is_well).count(), standings(false).filter(is_not).count());
    let share = if well + not == 0 { 1.0 } else { well as f64 / (well + not) as f64 };
    share < threshold && !standings(true).any(|standing| is_well(&standing))
}

/// The order in which backends are to be used, `None` for those that never are.
fn preference(standing: Standing, is_backup: bool, fail_open: bool) -> Option<u8> {
    match standing {
        Standing::Usable => Some(u8::from(is_backup)),
        Standing::Open => Some(2),
        Standing::Down => fail_open.then_some(3),
        Standing::Full | Standing::Draining | Standing::Maintenance => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Backend, Service, What, world};
    use super::*;

    const NOW: Instant = Instant::ORIGIN;

    fn verdict(
        standings: [Standing; 3],
        tried: &[usize],
        fail_open: bool,
        picked: Option<usize>,
    ) -> Result<(), Promise> {
        let backend = |is_backup| Backend { backup: is_backup, ..Backend::new(Service::Constant(Duration::ZERO)) };
        let mut actors = world::actors(&[backend(false), backend(false), backend(true)]);
        actors.iter_mut().zip(standings).for_each(|(actor, standing)| actor.change(What::Stands(standing)));
        let mut remembered = Tried::default();
        tried.iter().for_each(|&index| assert!(remembered.add(index)));
        let reach = Reach { fail_open, panic_threshold: 0.0 };
        of_pick(&actors, &remembered, reach, NOW, |_| true, picked)
    }

    #[test]
    fn a_pick_that_skips_a_better_one_is_caught() {
        use Standing::{Down, Draining, Open, Usable};
        let caught = Err(Promise::PickIsTheBestAllowed);
        assert_eq!(verdict([Usable, Usable, Usable], &[], true, Some(2)), caught);
        assert_eq!(verdict([Down, Usable, Usable], &[], true, Some(0)), caught);
        assert_eq!(verdict([Open, Draining, Usable], &[], true, Some(0)), caught);
        assert_eq!(verdict([Open, Draining, Down], &[], true, Some(1)), caught);
        assert_eq!(verdict([Down, Draining, Down], &[], false, Some(0)), caught);
        assert_eq!(verdict([Down, Draining, Down], &[], true, Some(0)), Ok(()));
        assert_eq!(verdict([Open, Draining, Down], &[], true, Some(0)), Ok(()));
    }

    #[test]
    fn a_tried_one_and_a_missing_answer_are_caught() {
        use Standing::{Down, Full, Maintenance, Open, Usable};
        assert_eq!(verdict([Usable, Usable, Usable], &[0], true, Some(0)), Err(Promise::NeverATriedOne));
        assert_eq!(verdict([Usable, Usable, Usable], &[0, 1], true, Some(2)), Ok(()));
        assert_eq!(verdict([Down, Maintenance, Down], &[], true, None), Err(Promise::NoneOnlyWhenThereIsNone));
        assert_eq!(verdict([Down, Maintenance, Down], &[], false, None), Ok(()));
        assert_eq!(verdict([Down, Full, Open], &[], true, None), Ok(()), "it waits");
        assert_eq!(verdict([Down, Full, Open], &[], true, Some(0)), Err(Promise::PickIsTheBestAllowed));
        assert_eq!(verdict([Down, Full, Usable], &[], true, None), Err(Promise::NoneOnlyWhenThereIsNone));
    }
}
