//! That every promise can be broken: with shells that do one thing wrong, or machines that were told something else than what
//! is promised, a storm breaks the very promise that speaks of it. (Those of the last usable backend and of lost probes,
//! which no setting and no shell can break, are tried at the foot of `src/simulation/audit.rs`.)

use evenkeel::simulation::{Fault, Promise, Scenario, run, run_told};

use super::storms::storm;

/// How many storms it may take.
const STORMS: u64 = 200;

/// Whether some storm breaks `promise` when what is told of it is changed like this.
fn is_broken_by(promise: Promise, misled: impl Fn(&mut Scenario)) -> bool {
    (0..STORMS).any(|seed| {
        let (scenario, mut told) = (storm(seed), storm(seed));
        misled(&mut told);
        run_told(&scenario, &told, seed).broken.is_some_and(|broken| broken.promise == promise)
    })
}

#[test]
fn a_shell_that_does_one_thing_wrong_breaks_the_promise_that_speaks_of_it() {
    for (fault, promise) in [
        (Fault::Leaks, Promise::InFlightIsBalanced),
        (Fault::Skips, Promise::PickIsTheBestAllowed),
        (Fault::Skips, Promise::NoneOnlyWhenThereIsNone),
        (Fault::Forgets, Promise::NeverATriedOne),
        (Fault::IsDeaf, Promise::NobodyWaitsBesideRoom),
        (Fault::GivesUp, Promise::NoRefusalBesideRoom),
        (Fault::Overtakes, Promise::QueueIsInOrder),
        (Fault::Clings, Promise::NobodyClingsToALostOne),
        (Fault::Insists, Promise::BudgetIsKept),
        (Fault::Flatters, Promise::StandingIsTrue),
    ] {
        let is_broken = |seed| {
            let scenario = Scenario { fault: Some(fault), ..storm(seed) };
            run(&scenario, seed).broken.is_some_and(|broken| broken.promise == promise)
        };
        assert!((0..STORMS).any(is_broken), "{fault:?} goes unseen by {promise:?}");
    }
}

#[test]
fn machines_that_were_told_something_else_break_what_is_promised() {
    let breaker = |change: fn(&mut evenkeel::breaker::Settings)| {
        move |told: &mut Scenario| told.breaker.iter_mut().for_each(change)
    };
    assert!(is_broken_by(Promise::OnlyProbesPassAnOpenBreaker, breaker(|told| told.half_open_probes += 1)));
    assert!(is_broken_by(Promise::OnlyAShareIsOpen, breaker(|told| told.max_open_ratio = 1.0)));
    assert!(is_broken_by(Promise::BudgetIsKept, |told| told.retry_budget = 1.0));
    assert!(is_broken_by(Promise::AttemptsAreBounded, |told| told.retry.attempts += 1));
    assert!(is_broken_by(Promise::QueueIsBounded, |told| told.queue += 1));
    assert!(is_broken_by(Promise::PickIsTheBestAllowed, |told| told.fail_open = true));
    assert!(is_broken_by(Promise::NoneOnlyWhenThereIsNone, |told| told.fail_open = false));
    assert!(is_broken_by(Promise::WithinItsLimit, |told| {
        let limits = told.backends.iter_mut().filter_map(|backend| backend.max_connections.as_mut());
        limits.for_each(|limit| *limit += 1);
    }));
}
