//! What the health check says of one backend, as every worker reads it and as only the checks write it.
//!
//! What a pick has to know is one word: the state, how far a change of it has come, and how often the sessions were cut. The
//! rest, for people, is behind a lock that no request touches.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Instant;
use crate::config::Initial;
use crate::sync::{AtomicU64, Ordering};

/// What the health check says of a backend. Totals are the `rise` and `fall` in force when it was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// It is well, or nobody checks.
    Up,
    /// It is taken for well, though its last probes failed.
    GoingDown {
        /// How many, one after the other.
        failures: u8,
        /// How many take it down.
        fall: u8,
    },
    /// It is not well.
    Down,
    /// It is taken for not well, though its last probes succeeded.
    GoingUp {
        /// How many, one after the other.
        successes: u8,
        /// How many bring it up.
        rise: u8,
    },
    /// It was never asked, and is taken for not well until then: its first probe decides.
    Unasked,
}

impl Health {
    /// What a backend is before it was asked.
    #[must_use]
    pub fn initial(initial: Initial) -> Health {
        match initial {
            Initial::Up => Health::Up,
            Initial::Down => Health::Unasked,
        }
    }

    /// Whether it is taken for not well, so that nothing is given to it while there are others.
    #[must_use]
    pub fn is_down(self) -> bool {
        match self {
            Health::Up | Health::GoingDown { .. } => false,
            Health::Down | Health::GoingUp { .. } | Health::Unasked => true,
        }
    }

    /// The same without what was counted towards a change.
    #[must_use]
    pub fn settled(self) -> Health {
        match self {
            Health::GoingDown { .. } => Health::Up,
            Health::GoingUp { .. } => Health::Down,
            settled => settled,
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Health::Up => f.write_str("up"),
            Health::GoingDown { failures, fall } => write!(f, "going down {failures}/{fall}"),
            Health::Down => f.write_str("down"),
            Health::GoingUp { successes, rise } => write!(f, "going up {successes}/{rise}"),
            Health::Unasked => f.write_str("down, not asked yet"),
        }
    }
}

/// How often the sessions of a backend were cut because it went down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cuts(u32);

/// The shared word, taken apart: from the low end the state, two counts, and the cuts in the high half.
#[derive(Clone, Copy)]
struct Word(u64);

impl Word {
    const CUT: u64 = 1 << 32;

    fn of(health: Health) -> Word {
        let (state, count, total) = match health {
            Health::Up => (0, 0, 0),
            Health::GoingDown { failures, fall } => (1, failures, fall),
            Health::Down => (2, 0, 0),
            Health::GoingUp { successes, rise } => (3, successes, rise),
            Health::Unasked => (4, 0, 0),
        };
        Word(state | u64::from(count) << 8 | u64::from(total) << 16)
    }

    #[expect(clippy::cast_possible_truncation, reason = "each part is where its byte is")]
    fn health(self) -> Health {
        let (count, total) = ((self.0 >> 8) as u8, (self.0 >> 16) as u8);
        match self.0 as u8 {
            0 => Health::Up,
            1 => Health::GoingDown { failures: count, fall: total },
            2 => Health::Down,
            3 => Health::GoingUp { successes: count, rise: total },
            _ => Health::Unasked,
        }
    }

    fn cuts(self) -> Cuts {
        Cuts((self.0 >> 32) as u32)
    }

    /// With this state and one more cut if `cut`.
    fn with(self, health: Health, sessions: Sessions) -> Word {
        let cuts = self.0 & !(Word::CUT - 1);
        let more = if sessions == Sessions::Cut { Word::CUT } else { 0 };
        Word(cuts.wrapping_add(more) | Word::of(health).0)
    }
}

/// What becomes of the sessions of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sessions {
    /// They go on.
    Kept,
    /// They end as soon as they look.
    Cut,
}

/// What the probes of a backend were like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probed {
    /// When it last went up or down; `None`: never.
    pub changed: Option<Instant>,
    /// When the last probe ended, and how long it took.
    pub last: Option<(Instant, Duration)>,
    /// When a probe last failed, and why.
    pub failed: Option<(Instant, Arc<str>)>,
}

/// What the health check says of one backend.
#[derive(Debug)]
pub struct Checkup {
    word: AtomicU64,
    probed: Mutex<Probed>,
}

impl Checkup {
    pub(super) fn new(initial: Initial) -> Checkup {
        Checkup { word: AtomicU64::new(Word::of(Health::initial(initial)).0), probed: Mutex::default() }
    }

    /// What is said now.
    #[must_use]
    pub fn health(&self) -> Health {
        self.word().health()
    }

    /// How often its sessions were cut.
    #[must_use]
    pub fn cuts(&self) -> Cuts {
        self.word().cuts()
    }

    /// Says this from now on; for the one thread that checks.
    pub fn say(&self, health: Health, sessions: Sessions) {
        // Relaxed: the word is all there is to see. A load and a store, because there is one writer.
        self.word.store(self.word().with(health, sessions).0, Ordering::Relaxed);
    }

    /// What its probes were like.
    #[must_use]
    pub fn probed(&self) -> Probed {
        self.lock().clone()
    }

    /// Notes a probe that ended at `now` after `took`, with what failed if anything did.
    pub fn note_probe(&self, now: Instant, took: Duration, failure: Option<Arc<str>>) {
        let mut probed = self.lock();
        probed.last = Some((now, took));
        if let Some(failure) = failure {
            probed.failed = Some((now, failure));
        }
    }

    /// Notes that it went up or down at `now`.
    pub fn note_change(&self, now: Instant) {
        self.lock().changed = Some(now);
    }

    fn word(&self) -> Word {
        // Relaxed: the word is all there is to see.
        Word(self.word.load(Ordering::Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, Probed> {
        // Nothing that holds it can leave it half written.
        self.probed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Health; 5] = [
        Health::Up,
        Health::GoingDown { failures: 2, fall: 100 },
        Health::Down,
        Health::GoingUp { successes: 99, rise: 100 },
        Health::Unasked,
    ];

    #[test]
    fn a_word_says_again_what_it_was_told() {
        let checkup = Checkup::new(Initial::Up);
        assert_eq!(checkup.health(), Health::Up);
        for health in ALL {
            checkup.say(health, Sessions::Kept);
            assert_eq!(checkup.health(), health);
        }
        assert_eq!(Checkup::new(Initial::Down).health(), Health::Unasked);
    }

    #[test]
    fn a_cut_is_counted_beside_any_state_and_survives_the_next() {
        let checkup = Checkup::new(Initial::Up);
        let first = checkup.cuts();
        checkup.say(Health::Down, Sessions::Cut);
        let second = checkup.cuts();
        assert_ne!(first, second);
        for health in ALL {
            checkup.say(health, Sessions::Kept);
            assert_eq!((checkup.health(), checkup.cuts()), (health, second));
        }
        let last = Word(u64::MAX).with(Health::Down, Sessions::Cut);
        assert_eq!((last.health(), last.cuts()), (Health::Down, Cuts(0)), "the count wraps");
    }

    #[test]
    fn only_what_was_proven_is_down() {
        assert_eq!(ALL.map(Health::is_down), [false, false, true, true, true]);
        assert_eq!(ALL.map(Health::settled).map(Health::is_down), ALL.map(Health::is_down));
    }

    #[test]
    fn states_are_shown_with_how_far_they_have_come() {
        let shown = ALL.map(|health| health.to_string());
        assert_eq!(shown, ["up", "going down 2/100", "down", "going up 99/100", "down, not asked yet"]);
    }

    #[test]
    fn the_last_failure_stays_known_while_probes_succeed() {
        let (checkup, t0) = (Checkup::new(Initial::Up), Instant::ORIGIN);
        let took = Duration::from_millis(3);
        assert_eq!(checkup.probed(), Probed::default());
        checkup.note_probe(t0, took, Some("refused".into()));
        checkup.note_change(t0);
        let later = t0 + took;
        checkup.note_probe(later, took, None);
        let wanted = Probed { changed: Some(t0), last: Some((later, took)), failed: Some((t0, "refused".into())) };
        assert_eq!(checkup.probed(), wanted);
    }
}
