//! Looks, after every event, at what must hold.

use super::ledger::{Known, Ledger};
use super::promise::Promise;
use crate::balance::{Candidate, Standing, Tried};
use crate::breaker::{Entry, Settings};
use crate::clock::Instant;
use crate::state::{Backend, Turn};

/// As many are in flight as are known to be, and no more breakers are open than may be. They have been looked at.
pub(super) fn of_counts(ledger: &Ledger, backends: &[Backend]) -> Result<(), Promise> {
    let is_balanced = |(backend, known): (&Backend, &Known)| backend.state.in_flight() == known.in_flight;
    if !backends.iter().zip(&ledger.backends).all(is_balanced) {
        return Err(Promise::InFlightIsBalanced);
    }
    if ledger.is_too_open() { Err(Promise::OnlyAShareIsOpen) } else { Ok(()) }
}

/// The backends stand as they are known to.
pub(super) fn of_standings(ledger: &Ledger, backends: &[Backend], now: Instant) -> Result<(), Promise> {
    let is_true = |(index, backend): (usize, &Backend)| backend.standing(now) == ledger.standing(index, Turn::Waiter);
    if backends.iter().enumerate().all(is_true) { Ok(()) } else { Err(Promise::StandingIsTrue) }
}

/// The queue is as long as it is known to be, and no longer than it may be.
pub(super) fn of_queue(ledger: &Ledger, waiting: usize, most: usize) -> Result<(), Promise> {
    if waiting == ledger.line.len() && waiting <= most { Ok(()) } else { Err(Promise::QueueIsBounded) }
}

/// One breaker opened.
pub(super) fn of_opening(ledger: &Ledger, opened: usize) -> Result<(), Promise> {
    if ledger.has_another(opened) { Ok(()) } else { Err(Promise::TheLastUsableStaysClosed) }
}

/// One is answered that there is nobody, while `before` wait who came before.
pub(super) fn of_refusal(ledger: &Ledger, tried: &Tried, before: usize) -> Result<(), Promise> {
    let room = ledger.room(tried, |standing| standing == Standing::Usable);
    if room > before { Err(Promise::NoRefusalBesideRoom) } else { Ok(()) }
}

/// One got a backend while so many wait who came before and could use any.
pub(super) fn of_turn(ledger: &Ledger, before: usize) -> Result<(), Promise> {
    if ledger.room_for_all() < before { Err(Promise::QueueIsInOrder) } else { Ok(()) }
}

/// Whether a breaker that is not closed gives out all its probes, long after the end.
pub(super) fn of_probes(backend: &Backend, settings: &Settings, late: Instant) -> Result<(), Promise> {
    let breaker = backend.state.breaker();
    let admitted = || breaker.admit(late, settings, Entry::Asked).ok().filter(|it| it.0.is_probe());
    let is_whole = breaker.is_closed() || std::iter::from_fn(admitted).count() == settings.half_open_probes as usize;
    if is_whole { Ok(()) } else { Err(Promise::ProbesComeBack) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Backend as Played, Scenario, Service};
    use super::*;
    use crate::breaker::Teller;
    use crate::config::{Policy, from_text};
    use crate::health::Finding;
    use crate::state::{Health, Snapshot};
    use crate::tls::Materials;

    const NOW: Instant = Instant::ORIGIN;

    fn ledger(backends: usize) -> Ledger {
        let backends = vec![Played::new(Service::Constant(Duration::ZERO)); backends];
        Ledger::new(&Scenario { breaker: Some(Settings::default()), ..Scenario::new(Policy::RoundRobin, backends) })
    }

    /// The backend of a pool of one, whose breaker opened at once.
    fn open(settings: &Settings) -> Backend {
        let file = "listeners.w = { bind = '127.0.0.1:1', pool = 'p' }\npools.p = { backends = ['127.0.0.1:2'] }";
        let snapshot = Snapshot::next(&from_text("test.toml", file).unwrap().config, &Materials::default(), None);
        let backend = snapshot.pools().next().unwrap().1.backends[0].clone();
        let (breaker, window) = (backend.state.breaker(), backend.state.breaker().window(0));
        let tell = Teller { now: NOW, settings, window: &window, identity: 1, reserve: || Some(()) };
        for _ in 0..settings.consecutive_failures {
            let (mut ticket, _) = breaker.admit(NOW, settings, Entry::Asked).unwrap();
            let _ = breaker.fail(&mut ticket, &tell);
        }
        backend
    }

    #[test]
    fn the_last_one_that_opens_is_noticed_whatever_keeps_the_others_away() {
        assert_eq!(of_opening(&ledger(1), 0), Err(Promise::TheLastUsableStaysClosed));
        let mut two = ledger(2);
        assert_eq!(of_opening(&two, 0), Ok(()));
        two.is_said(1, Health::Down);
        assert_eq!(of_opening(&two, 0), Err(Promise::TheLastUsableStaysClosed));
        two.is_said(1, Health::Up);
        two.serves(1, crate::config::Service::Drain);
        assert_eq!(of_opening(&two, 0), Err(Promise::TheLastUsableStaysClosed));
        let mut other = ledger(2);
        other.look_at(1, open(&Settings::default()).state.breaker(), NOW);
        assert_eq!(of_opening(&other, 0), Err(Promise::TheLastUsableStaysClosed));
    }

    #[test]
    fn a_probe_that_is_not_given_back_is_missed_at_the_end() {
        let (settings, late) = (Settings::default(), NOW + Duration::from_secs(1000));
        assert_eq!(of_probes(&open(&settings), &settings, late), Ok(()));
        let backend = open(&settings);
        let lost = backend.state.breaker().admit(late, &settings, Entry::Asked);
        assert!(lost.is_ok_and(|(lost, _)| lost.is_probe()));
        assert_eq!(of_probes(&backend, &settings, late), Err(Promise::ProbesComeBack));
    }

    #[test]
    fn findings_count_in_a_row() {
        use Finding::{Bad, Good};
        let mut ledger = ledger(1);
        ledger.found(0, Bad);
        assert!(!ledger.backends[0].is_down, "without a check nothing is found");
        let file = "listeners.w = { bind = '127.0.0.1:1', pool = 'p' }\n\
                    pools.p = { backends = ['127.0.0.1:2'], health_check = { rise = 2, fall = 2 } }";
        let check = from_text("test.toml", file).unwrap().config.pools[0].health_check.as_deref().cloned();
        let backends = vec![Played::new(Service::Constant(Duration::ZERO))];
        let mut ledger = Ledger::new(&Scenario { check, ..Scenario::new(Policy::RoundRobin, backends) });
        let is_down = |finding| {
            ledger.found(0, finding);
            ledger.backends[0].is_down
        };
        let findings = [Bad, Good, Bad, Bad, Good, Bad, Good, Good, Bad];
        let expected = [false, false, false, true, true, true, true, false, false];
        assert_eq!(findings.map(is_down), expected);
    }
}
