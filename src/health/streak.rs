//! Rise and fall: what a row of probes says of a backend.
//!
//! Only what comes one after the other counts: one success forgives all failures before it, and the other way round. A probe
//! that could not be made says nothing and is not observed.

use crate::config::HealthCheck;
use crate::state::Health;

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// As it is expected of a backend that is well.
    Good,
    /// Otherwise.
    Bad,
}

/// A change of what is said of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// What was said.
    pub from: Health,
    /// What is said now.
    pub to: Health,
}

impl Transition {
    /// Whether the backend went up or down, and not just came nearer to it.
    #[must_use]
    pub fn is_turn(self) -> bool {
        self.from.is_down() != self.to.is_down()
    }
}

/// The findings of one backend, as far as they matter still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streak {
    health: Health,
    rise: u8,
    fall: u8,
}

impl Streak {
    /// Goes on from what is said of a backend. What was counted towards a change stays counted only if as much as before is
    /// asked for.
    #[must_use]
    pub fn resume(health: Health, check: &HealthCheck) -> Streak {
        let (rise, fall) = (check.rise, check.fall);
        let health = match health {
            Health::GoingDown { fall: before, .. } if before != fall => health.settled(),
            Health::GoingUp { rise: before, .. } if before != rise => health.settled(),
            _ => health,
        };
        Streak { health, rise, fall }
    }

    /// What is said now.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health
    }

    /// Takes the next finding, and says what it changes.
    pub fn observe(&mut self, finding: Finding) -> Option<Transition> {
        let from = self.health;
        self.health = self.after(finding);
        (from != self.health).then_some(Transition { from, to: self.health })
    }

    fn after(&self, finding: Finding) -> Health {
        match (self.health, finding) {
            (Health::Up | Health::GoingDown { .. } | Health::Unasked, Finding::Good) => Health::Up,
            (Health::Up, Finding::Bad) => self.falling(1),
            (Health::GoingDown { failures, .. }, Finding::Bad) => self.falling(failures.saturating_add(1)),
            (Health::Down | Health::GoingUp { .. } | Health::Unasked, Finding::Bad) => Health::Down,
            (Health::Down, Finding::Good) => self.rising(1),
            (Health::GoingUp { successes, .. }, Finding::Good) => self.rising(successes.saturating_add(1)),
        }
    }

    fn falling(&self, failures: u8) -> Health {
        if failures < self.fall { Health::GoingDown { failures, fall: self.fall } } else { Health::Down }
    }

    fn rising(&self, successes: u8) -> Health {
        if successes < self.rise { Health::GoingUp { successes, rise: self.rise } } else { Health::Up }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Finding::{Bad, Good};
    use super::*;
    use crate::health::fixture::check;

    fn streak(health: Health, rise: u8, fall: u8) -> Streak {
        Streak::resume(health, &HealthCheck { rise, fall, ..check() })
    }

    /// What is said after each of these findings.
    fn said(mut streak: Streak, findings: &[Finding]) -> Vec<Health> {
        let mut said = Vec::new();
        for &finding in findings {
            let before = streak.health();
            let transition = streak.observe(finding);
            let changed = (before != streak.health()).then_some(Transition { from: before, to: streak.health() });
            assert_eq!(transition, changed);
            said.push(streak.health());
        }
        said
    }

    #[test]
    fn failures_in_a_row_take_it_down_and_successes_in_a_row_bring_it_back() {
        let going_down = |failures| Health::GoingDown { failures, fall: 3 };
        let going_up = |successes| Health::GoingUp { successes, rise: 2 };
        assert_eq!(
            said(streak(Health::Up, 2, 3), &[Good, Bad, Bad, Bad, Bad, Good, Good]),
            [Health::Up, going_down(1), going_down(2), Health::Down, Health::Down, going_up(1), Health::Up]
        );
    }

    #[test]
    fn one_finding_of_the_other_kind_begins_the_count_anew() {
        let going_down = |failures| Health::GoingDown { failures, fall: 3 };
        assert_eq!(
            said(streak(Health::Up, 2, 3), &[Bad, Bad, Good, Bad, Bad]),
            [going_down(1), going_down(2), Health::Up, going_down(1), going_down(2)]
        );
        let going_up = Health::GoingUp { successes: 1, rise: 2 };
        assert_eq!(said(streak(Health::Down, 2, 3), &[Good, Bad, Good]), [going_up, Health::Down, going_up]);
    }

    #[test]
    fn the_first_finding_decides_about_one_that_began_down() {
        assert_eq!(said(streak(Health::Unasked, 5, 5), &[Good]), [Health::Up]);
        let going_up = Health::GoingUp { successes: 1, rise: 2 };
        assert_eq!(said(streak(Health::Unasked, 2, 5), &[Bad, Good]), [Health::Down, going_up]);
    }

    #[test]
    fn a_count_is_resumed_only_towards_the_same_total() {
        let counted = Health::GoingDown { failures: 2, fall: 3 };
        assert_eq!(said(streak(counted, 2, 3), &[Bad]), [Health::Down]);
        assert_eq!(said(streak(counted, 2, 4), &[Bad]), [Health::GoingDown { failures: 1, fall: 4 }]);
        let counted = Health::GoingUp { successes: 1, rise: 2 };
        assert_eq!(said(streak(counted, 2, 3), &[Good]), [Health::Up]);
        assert_eq!(streak(counted, 3, 3).health(), Health::Down);
    }

    #[test]
    fn a_turn_is_up_or_down_and_nothing_between() {
        let mut streak = streak(Health::Up, 1, 2);
        assert!(!streak.observe(Bad).unwrap().is_turn());
        assert!(streak.observe(Bad).unwrap().is_turn());
        assert_eq!(streak.observe(Bad), None);
        assert!(streak.observe(Good).unwrap().is_turn());
    }

    proptest! {
        /// Said again in other words: it turns down exactly where `fall` failures in a row stand while it is up, and up where
        /// `rise` successes in a row stand while it is down; a row begins anew at each turn.
        #[test]
        fn it_turns_after_as_many_in_a_row_as_asked_for_and_never_else(
            rise in 1u8..6, fall in 1u8..6, up: bool, findings in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            let mut streak = streak(if up { Health::Up } else { Health::Down }, rise, fall);
            let (mut up, mut row) = (up, 0);
            for good in findings {
                row = if good == up { 0 } else { row + 1 };
                if row == if up { fall } else { rise } {
                    (up, row) = (!up, 0);
                }
                let transition = streak.observe(if good { Good } else { Bad });
                prop_assert_eq!(!streak.health().is_down(), up);
                let count = match streak.health() {
                    Health::GoingDown { failures, fall: total } => { prop_assert_eq!(total, fall); failures }
                    Health::GoingUp { successes, rise: total } => { prop_assert_eq!(total, rise); successes }
                    Health::Up | Health::Down | Health::Unasked => 0,
                };
                prop_assert_eq!(count, row);
                prop_assert_eq!(transition.is_some_and(Transition::is_turn), row == 0 && good == up && transition.is_some_and(|t| t.from.is_down() == up));
            }
        }
    }
}
