//! Whether a backend that fails is left alone for a while: closed, open, half-open (semantics.md §5).
//!
//! A breaker is one word that all workers share, and a window of outcomes for each worker. A request is let in with a
//! [`Ticket`]; how it ends is told with that ticket. Answers in the steady state write nothing that is shared: the word
//! changes with a failure, with the first success after one, with a probe, and with a transition. Time alone turns open
//! into half-open, when somebody next asks, or looks at the time. What belongs to an earlier epoch is not heard.
//!
//! Whether *one more* breaker of a pool may open is not decided here: who [tells](Teller::reserve) is asked, who sees the pool
//! (see [`Peers`] and [`Gate`]).

mod entry;
#[cfg(test)]
mod fixture;
mod gate;
#[cfg(all(test, evenkeel_loom))]
mod loom_models;
mod settings;
mod ticket;
mod told;
mod transition;
mod window;
mod word;

use std::sync::Arc;

use crate::clock::Instant;
use crate::sync::{AtomicU64, Ordering};
use window::Windows;
use word::{Course, Parts};

pub use gate::{Denied, Gate, Inside, News, Peers};
pub use settings::{Latency, Mode, Settings};
pub use ticket::{Entry, Shut, Ticket};
pub use told::Teller;
pub use transition::{Outlook, Reason, State, Transition};
pub use window::{LONGEST as LONGEST_WINDOW, Window};
pub use word::Epoch;

/// By how much a product of a share and a count may miss the count it stands for.
const HAIR: f64 = 1e-9;

/// One backend's breaker.
///
/// # Orderings
/// All of the word are relaxed: it is the whole state, no memory is published through it, and every thread agrees on the
/// order of its changes.
#[derive(Debug)]
pub struct Breaker {
    word: AtomicU64,
    /// How often it opened.
    trips: AtomicU64,
    windows: Windows,
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker { word: AtomicU64::new(0), trips: AtomicU64::new(0), windows: Windows::default() }
    }
}

impl Breaker {
    /// The window of the worker of this number, from 0: only that worker's thread may tell with it.
    #[must_use]
    pub fn window(&self, worker: usize) -> Arc<Window> {
        self.windows.of(worker)
    }

    /// Whether it is closed: what every pick asks.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        word::is_closed(self.word.load(Ordering::Relaxed))
    }

    /// Its state. An open one whose time is over is half-open.
    #[must_use]
    pub fn state(&self, now: Instant) -> State {
        match self.parts().course {
            Course::Closed { .. } => State::Closed,
            Course::Open { until } if !until.is_over(now) => State::Open,
            Course::Open { .. } | Course::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// Its state with what belongs to it. An open one whose time is over is half-open, before anybody has asked.
    #[must_use]
    pub fn outlook(&self, now: Instant) -> Outlook {
        match self.parts().course {
            Course::Closed { failures } => Outlook::Closed { failures },
            Course::Open { until } if !until.is_over(now) => Outlook::Open { left: until.left(now) },
            Course::Open { .. } => Outlook::HalfOpen { probing: 0, passed: 0 },
            Course::HalfOpen { probing, passed } => Outlook::HalfOpen { probing, passed },
        }
    }

    /// How often it has opened.
    #[must_use]
    pub fn trips(&self) -> u64 {
        // Relaxed: a count that nothing depends on.
        self.trips.load(Ordering::Relaxed)
    }

    /// Makes a change in this epoch, unless it is over or `change` has none; says what the word is then.
    fn change(&self, epoch: Epoch, mut change: impl FnMut(Parts) -> Option<Parts>) -> Option<Parts> {
        let mut parts = self.parts();
        loop {
            let next = change(parts).filter(|_| parts.epoch == epoch)?;
            match self.exchange(parts, next) {
                Ok(()) => return Some(next),
                Err(now) => parts = now,
            }
        }
    }

    fn exchange(&self, from: Parts, to: Parts) -> Result<(), Parts> {
        // Relaxed: see the type.
        let changed = self.word.compare_exchange(from.word(), to.word(), Ordering::Relaxed, Ordering::Relaxed);
        changed.map(|_| ()).map_err(Parts::of)
    }

    fn parts(&self) -> Parts {
        // Relaxed: see the type.
        Parts::of(self.word.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::fixture::Bench;
    use super::*;

    /// What can be done to a breaker.
    #[derive(Clone, Debug)]
    enum Step {
        Admit,
        Succeed(usize),
        Fail(usize),
        Drop(usize),
        Wait(u64),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Admit),
            2 => any::<usize>().prop_map(Step::Succeed),
            3 => any::<usize>().prop_map(Step::Fail),
            1 => any::<usize>().prop_map(Step::Drop),
            1 => (0..20_000u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn it_goes_its_three_ways_only_and_never_has_more_probes_than_it_may(
            steps in prop::collection::vec(any_step(), 1..400),
        ) {
            let mut bench = Bench::new();
            let mut held: Vec<Ticket> = Vec::new();
            let mut state = State::Closed;
            for step in steps {
                let place = |number: usize, held: &[Ticket]| number % held.len().max(1);
                let transition = match step {
                    Step::Admit => match bench.breaker.admit(bench.now, &bench.settings, Entry::Asked) {
                        Ok((ticket, transition)) => {
                            prop_assert!(bench.state() != State::Open);
                            held.push(ticket);
                            transition
                        }
                        Err(Shut) => {
                            prop_assert!(bench.state() != State::Closed);
                            None
                        }
                    },
                    Step::Succeed(number) => {
                        let place = place(number, &held);
                        held.get_mut(place).and_then(|ticket| bench.succeed(ticket))
                    }
                    Step::Fail(number) if !held.is_empty() => {
                        let mut ticket = held.swap_remove(place(number, &held));
                        let transition = bench.fail(&mut ticket);
                        bench.breaker.give_back(&mut ticket);
                        transition
                    }
                    Step::Drop(number) if !held.is_empty() => {
                        bench.breaker.give_back(&mut held.swap_remove(place(number, &held)));
                        None
                    }
                    Step::Wait(millis) => {
                        bench.wait(Duration::from_millis(millis));
                        None
                    }
                    Step::Fail(_) | Step::Drop(_) => None,
                };
                if let Some(Transition { from, to, .. }) = transition {
                    prop_assert_eq!(from, state);
                    prop_assert!(matches!(
                        (from, to),
                        (State::Closed, State::Open)
                            | (State::Open, State::HalfOpen)
                            | (State::HalfOpen, State::Open | State::Closed)
                    ));
                    state = to;
                }
                let parts = bench.breaker.parts();
                if let Course::HalfOpen { probing, passed } = parts.course {
                    let own = held.iter().filter(|ticket| ticket.is_probe() && ticket.epoch == parts.epoch).count();
                    prop_assert_eq!(probing as usize, own);
                    prop_assert!(probing <= 3 && passed < 3);
                }
            }
            held.iter_mut().for_each(|ticket| bench.breaker.give_back(ticket));
            if let Course::HalfOpen { probing, .. } = bench.breaker.parts().course {
                prop_assert_eq!(probing, 0);
            }
        }
    }
}
