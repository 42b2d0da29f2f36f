//! On which rung of the ladder the requests of a pool stand, so that it is said once when that changes.
//!
//! A step down is said at once. A step up is said when no request has stood on the lower rung for a while: a pool whose
//! primaries are full now and then would else say both a thousand times a second.

use std::time::Duration;

use crate::balance::Rung;
use crate::clock::Instant;
use crate::sync::{AtomicU64, Ordering};

/// For how long nobody must have stood on the lower rung before a step up is said.
const CALM: Duration = Duration::from_secs(3);

/// How exactly it is known when somebody last stood there: not every request writes what all workers read.
const GRAIN: Duration = Duration::from_millis(100);

/// A change of it, said by whoever is handed this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub from: Rung,
    pub to: Rung,
}

/// Over all workers, and all configurations that name the pool.
#[derive(Debug)]
pub(super) struct Footing(AtomicU64);

impl Default for Footing {
    fn default() -> Self {
        Footing(AtomicU64::new(0))
    }
}

/// The word, taken apart: the rung, and when somebody last stood there, to 8 ns. Of the primaries that is not kept: their
/// word is 0.
#[derive(Clone, Copy)]
struct Word(u64);

impl Word {
    const RUNG: u64 = 7;
    const RUNGS: [Rung; 5] = [Rung::Primaries, Rung::Backups, Rung::Panic, Rung::BreakerOpen, Rung::FailOpen];

    fn new(rung: Rung, now: Instant) -> Word {
        if rung == Rung::Primaries {
            return Word(0);
        }
        let nanos = u64::try_from(now.since(Instant::ORIGIN).as_nanos()).unwrap_or(u64::MAX);
        Word(nanos & !Word::RUNG | rung as u64)
    }

    fn rung(self) -> Rung {
        Word::RUNGS[(self.0 & Word::RUNG) as usize]
    }

    fn seen(self) -> Instant {
        Instant::ORIGIN + Duration::from_nanos(self.0 & !Word::RUNG)
    }

    /// What it is after a request on `rung`, if that makes it another.
    fn after(self, rung: Rung, now: Instant) -> Option<Word> {
        let keeps_for = match rung.cmp(&self.rung()) {
            std::cmp::Ordering::Greater => Duration::ZERO,
            std::cmp::Ordering::Equal => GRAIN,
            std::cmp::Ordering::Less => CALM,
        };
        (now.since(self.seen()) >= keeps_for).then(|| Word::new(rung, now))
    }
}

impl Footing {
    /// The rung that was last said.
    pub(super) fn rung(&self) -> Rung {
        self.word().rung()
    }

    /// Whether that is the primaries: what every request asks.
    pub(super) fn is_usual(&self) -> bool {
        self.word().0 == 0
    }

    /// A request stands on `rung`; what is to be said of it.
    #[cold]
    pub(super) fn stand(&self, rung: Rung, now: Instant) -> Option<Step> {
        let mut word = self.word();
        loop {
            let next = word.after(rung, now)?;
            // Relaxed: the word is all there is to see; the exchange only makes one of many say it.
            match self.0.compare_exchange_weak(word.0, next.0, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return (word.rung() != rung).then_some(Step { from: word.rung(), to: rung }),
                Err(now) => word = Word(now),
            }
        }
    }

    fn word(&self) -> Word {
        // Relaxed: see `stand`.
        Word(self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::Rung::{Backups, BreakerOpen, FailOpen, Panic, Primaries};
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::ORIGIN + Duration::from_millis(millis)
    }

    #[test]
    fn a_word_says_which_rung_and_since_when() {
        for rung in [Backups, Panic, BreakerOpen, FailOpen] {
            let word = Word::new(rung, at(1234));
            assert_eq!((word.rung(), word.seen()), (rung, at(1234)));
        }
        assert_eq!((Word::new(Primaries, at(9)).0, Word(0).rung()), (0, Primaries));
    }

    #[test]
    fn a_step_down_is_said_at_once_and_a_step_up_after_a_calm() {
        let footing = Footing::default();
        assert_eq!(footing.stand(Backups, at(10)), Some(Step { from: Primaries, to: Backups }));
        assert_eq!(footing.stand(Panic, at(11)), Some(Step { from: Backups, to: Panic }));
        assert_eq!((footing.rung(), footing.is_usual()), (Panic, false));
        assert_eq!(footing.stand(Primaries, at(3010)), None);
        assert_eq!(footing.stand(Primaries, at(3012)), Some(Step { from: Panic, to: Primaries }));
        assert!(footing.is_usual());
        assert_eq!(footing.stand(Primaries, at(3013)), None);
    }

    #[test]
    fn a_pool_on_two_rungs_at_once_says_the_lower_one_and_says_it_once() {
        let footing = Footing::default();
        let said: Vec<_> = (0..60_000)
            .filter_map(|millis| footing.stand(if millis % 7 == 0 { Backups } else { Primaries }, at(millis)))
            .collect();
        assert_eq!(said, [Step { from: Primaries, to: Backups }]);
        assert_eq!(footing.stand(Primaries, at(62_900)), None);
        assert!(footing.stand(Primaries, at(63_000)).is_some());
    }

    #[test]
    fn of_many_workers_one_says_it() {
        let footing = Footing::default();
        let said = std::sync::atomic::AtomicUsize::new(0);
        let work = || {
            (0..1000).filter_map(|millis| footing.stand(FailOpen, at(millis))).for_each(|_| {
                // Relaxed: read when all have ended.
                said.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            });
        };
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(work))));
        assert_eq!(said.into_inner(), 1);
    }
}
