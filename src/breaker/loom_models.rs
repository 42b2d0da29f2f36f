//! Models of what several workers do to one breaker at a time, run as those of `state/backend.rs` are.

use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use super::fixture::{T0, path, secs};
use super::word::Course;
use super::{Breaker, Entry, Gate, Peers, Settings, State, Teller, Transition};
use crate::clock::Instant;

/// Ratios are left out: they need many requests.
fn strict() -> Settings {
    Settings { consecutive_failures: 2, half_open_probes: 1, window: secs(1), ..Settings::default() }
}

/// With the windows of both workers: how they are made is the standard library's business, of which loom sees
/// nothing.
fn shared() -> Breaker {
    let breaker = Breaker::default();
    drop(breaker.window(1));
    breaker
}

/// Tells with this worker's window; `reserve` gives leave to open or not.
fn tell<R, T>(breaker: &Breaker, worker: usize, now: Instant, reserve: R, what: impl FnOnce(&Teller<'_, R>) -> T) -> T {
    let window = breaker.window(worker);
    what(&Teller { now, settings: &strict(), window: &window, identity: 7, reserve })
}

fn leave() -> Option<()> {
    Some(())
}

fn fails(breaker: &Breaker, worker: usize, now: Instant) -> Option<Transition> {
    let (mut ticket, _) = breaker.admit(now, &strict(), Entry::Asked).ok()?;
    tell(breaker, worker, now, leave, |tell| breaker.fail(&mut ticket, tell))
}

/// One whose open time is over at the returned time.
fn due() -> (Arc<Breaker>, Instant) {
    let breaker = Arc::new(shared());
    assert_eq!(fails(&breaker, 0, T0), None);
    assert!(fails(&breaker, 0, T0).is_some());
    (breaker, T0 + secs(100))
}

#[test]
fn two_failures_at_once_open_it_once() {
    loom::model(|| {
        let breaker = Arc::new(shared());
        let workers: Vec<_> = (0..2)
            .map(|worker| {
                let breaker = Arc::clone(&breaker);
                thread::spawn(move || fails(&breaker, worker, T0).is_some())
            })
            .collect();
        let opened = workers.into_iter().filter_map(|worker| worker.join().unwrap().then_some(())).count();
        assert_eq!(opened, 1);
        assert_eq!((breaker.state(T0), breaker.trips()), (State::Open, 1));
    });
}

#[test]
fn of_two_that_want_the_one_probe_one_gets_it_and_what_is_given_back_is_there() {
    loom::model(|| {
        let (breaker, now) = due();
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let breaker = Arc::clone(&breaker);
                thread::spawn(move || {
                    let Ok((ticket, began)) = breaker.admit(now, &strict(), Entry::Asked) else {
                        return (None, false);
                    };
                    (Some(ticket), began.is_some())
                })
            })
            .collect();
        let ends: Vec<_> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        assert_eq!(ends.iter().filter(|(_, began)| *began).count(), 1, "one tells of it");
        let mut probes: Vec<_> = ends.into_iter().filter_map(|(ticket, _)| ticket).collect();
        assert_eq!(probes.len(), 1);
        probes.iter_mut().for_each(|ticket| breaker.give_back(ticket));
        assert!(breaker.admit(now, &strict(), Entry::Asked).is_ok());
    });
}

#[test]
fn of_the_clock_and_a_request_one_makes_it_half_open_and_the_request_is_a_probe() {
    loom::model(|| {
        let (breaker, now) = due();
        let clock = {
            let breaker = Arc::clone(&breaker);
            thread::spawn(move || breaker.half_open(now).is_some())
        };
        let (ticket, began) = breaker.admit(now, &strict(), Entry::Asked).unwrap();
        assert!(ticket.is_probe());
        assert!(clock.join().unwrap() != began.is_some(), "one tells of it");
        assert!(matches!(breaker.parts().course, Course::HalfOpen { probing: 1, passed: 0 }));
    });
}

#[test]
fn a_probe_that_comes_back_while_another_asks_leaves_no_place_lost() {
    loom::model(|| {
        let (breaker, now) = due();
        let (mut probe, _) = breaker.admit(now, &strict(), Entry::Asked).unwrap();
        let other = {
            let breaker = Arc::clone(&breaker);
            thread::spawn(move || {
                if let Ok((mut ticket, _)) = breaker.admit(now, &strict(), Entry::Asked) {
                    breaker.give_back(&mut ticket);
                }
            })
        };
        breaker.give_back(&mut probe);
        other.join().unwrap();
        assert!(matches!(breaker.parts().course, Course::HalfOpen { probing: 0, passed: 0 }));
    });
}

#[test]
fn a_late_failure_beside_a_probe_that_closes_it_is_not_heard() {
    loom::model(|| {
        let breaker = Arc::new(shared());
        let (mut late, _) = breaker.admit(T0, &strict(), Entry::Asked).unwrap();
        fails(&breaker, 0, T0);
        fails(&breaker, 0, T0);
        let now = T0 + secs(100);
        let (mut probe, _) = breaker.admit(now, &strict(), Entry::Asked).unwrap();
        let other = {
            let breaker = Arc::clone(&breaker);
            thread::spawn(move || tell(&breaker, 1, now, leave, |tell| breaker.fail(&mut late, tell)))
        };
        let closed = tell(&breaker, 0, now, leave, |tell| breaker.succeed(&mut probe, Duration::ZERO, tell));
        assert_eq!(other.join().unwrap(), None);
        assert_eq!(path(closed), Some((State::HalfOpen, State::Closed)));
        assert_eq!(breaker.parts().course, Course::Closed { failures: 0 });
    });
}

/// Two backends of two, one place: they see each other through the gate alone.
#[test]
fn of_two_that_open_at_once_one_stays_closed() {
    loom::model(|| {
        let pool = Arc::new((Gate::default(), [shared(), shared()]));
        for breaker in &pool.1 {
            fails(breaker, 0, T0);
        }
        let opens = |pool: &(Gate, [Breaker; 2]), own: usize| {
            let (gate, breakers) = pool;
            let (mut ticket, _) = breakers[own].admit(T0, &strict(), Entry::Asked).unwrap();
            let reserve = || {
                let inside = gate.enter(T0)?;
                let closed = usize::from(breakers[1 - own].is_closed());
                let peers = Peers { backends: 2, open: 1 - closed, serving: closed };
                peers.allow_one_more(0.5).is_ok().then_some(inside)
            };
            tell(&breakers[own], own, T0, reserve, |tell| breakers[own].fail(&mut ticket, tell))
        };
        let other = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || opens(&pool, 1).is_some())
        };
        let own = opens(&pool, 0).is_some();
        let other = other.join().unwrap();
        assert!(!(own && other), "both are open");
        assert!(own || other, "whoever is first, opens");
    });
}
