//! What must hold at every step of a run, said again in other words than the machines use.

use std::fmt;
use std::time::Duration;

use crate::balance::{Reach, Standing, Tried};

/// Something that must always hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Promise {
    /// A picked backend may be used, and none that ought to come before it may: never one that drains or is in maintenance,
    /// one that is open or down only on its own step of the ladder.
    PickIsTheBestAllowed,
    /// There is an answer whenever a backend may be used and has room.
    NoneOnlyWhenThereIsNone,
    /// No request is given twice to one backend.
    NeverATriedOne,
    /// No request is tried more often than its route says.
    AttemptsAreBounded,
    /// A backend stands as its administrator, its probes, its breaker and its limit say.
    StandingIsTrue,
    /// A backend never has more than its `max_connections`.
    WithinItsLimit,
    /// In-flight counts are the attempts under way, backend by backend, and end at zero.
    InFlightIsBalanced,
    /// A breaker that is open lets nobody in, and one that is half-open has no more than its probes under way.
    OnlyProbesPassAnOpenBreaker,
    /// No breaker opens when no other backend could serve.
    TheLastUsableStaysClosed,
    /// No more breakers than `max_open_ratio` says are open, one apart.
    OnlyAShareIsOpen,
    /// When all is over, every breaker that is not closed has all its probes again.
    ProbesComeBack,
    /// What is tried again at the budget's cost is within the share of each worker's requests, or one of the few that may be
    /// under way beyond it; and what is within is granted.
    BudgetIsKept,
    /// No more wait than may, and nobody when all is over.
    QueueIsBounded,
    /// Who came first has a place before who came later.
    QueueIsInOrder,
    /// Nobody waits for a place while a backend that could serve has one, but for who is on the way to it.
    NobodyWaitsBesideRoom,
    /// Nobody is sent away while a usable backend has a place that is not for somebody who came before.
    NoRefusalBesideRoom,
    /// Who waits for the answer of a backend that goes down or open is tried elsewhere at once, if that may be and there is
    /// another.
    NobodyClingsToALostOne,
}

/// The first promise a run broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which.
    pub promise: Promise,
    /// When, from the beginning.
    pub at: Duration,
    /// The seed of the run.
    pub seed: u64,
    /// What had just happened, and how the backends stood.
    pub scene: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Broken { promise, at, seed, scene } = self;
        write!(f, "{promise:?} was broken at {at:?} of the run with seed {seed}: {scene}")
    }
}

/// Checks one answer of the ladder, by how the backends stood for who asked, and which are backups.
pub(super) fn of_pick(
    backends: &[(Standing, bool)],
    tried: &Tried,
    reach: Reach,
    has_room: impl Fn(usize) -> bool,
    picked: Option<usize>,
) -> Result<(), Promise> {
    let panics = panics(backends, reach.panic_threshold);
    let rank = |index: usize| match backends[index] {
        (Standing::Usable | Standing::Down | Standing::Open, false) if panics => Some(0),
        (standing, is_backup) => preference(standing, is_backup, reach.fail_open),
    };
    let untried = || (0..backends.len()).filter(|&index| !tried.contains(index));
    let best = untried().filter_map(rank).min();
    // Whoever could wait for one that works is not given to one that does not.
    let waits = untried().any(|index| backends[index].0 == Standing::Full);
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
pub(super) fn panics(backends: &[(Standing, bool)], threshold: f64) -> bool {
    let are_well = |backups: bool, wanted: bool| {
        let such = backends.iter().filter(move |(_, is_backup)| *is_backup == backups);
        such.filter(move |(standing, _)| match standing {
            Standing::Usable | Standing::Full => wanted,
            Standing::Down | Standing::Open => !wanted,
            Standing::Draining | Standing::Maintenance => false,
        })
    };
    let (well, not) = (are_well(false, true).count(), are_well(false, false).count());
    let share = if well + not == 0 { 1.0 } else { well as f64 / (well + not) as f64 };
    share < threshold && are_well(true, true).count() == 0
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
    use super::*;

    fn verdict(
        standings: [Standing; 3],
        tried: &[usize],
        fail_open: bool,
        picked: Option<usize>,
    ) -> Result<(), Promise> {
        let backends = [(standings[0], false), (standings[1], false), (standings[2], true)];
        let mut remembered = Tried::default();
        tried.iter().for_each(|&index| assert!(remembered.add(index)));
        let reach = Reach { fail_open, panic_threshold: 0.0 };
        of_pick(&backends, &remembered, reach, |_| true, picked)
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
