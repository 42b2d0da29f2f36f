//! When a backend is asked next.
//!
//! First probes are spread over one interval, and every period is a little longer or shorter by chance, so that the probes
//! of many backends, and those of many load balancers, do not come in step.

use std::time::Duration;

use crate::balance::Dice;
use crate::clock::Instant;
use crate::config::HealthCheck;
use crate::state::Health;

/// Whether this check has asked before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Not yet: the next probe is the first.
    Never,
    /// It has.
    Before,
}

/// The first probe of a check that begins at `now`.
pub fn first(check: &HealthCheck, health: Health, now: Instant, dice: &mut Dice) -> Instant {
    now + period(check, health, Asked::Never).mul_f64(dice.unit())
}

/// The probe after one that began at `began` and ended at `ended`: a period later, or as soon as that one has ended.
pub fn next(
    check: &HealthCheck,
    health: Health,
    asked: Asked,
    began: Instant,
    ended: Instant,
    dice: &mut Dice,
) -> Instant {
    let factor = 1.0 + check.jitter * (2.0 * dice.unit() - 1.0);
    ended.max(began + period(check, health, asked).mul_f64(factor))
}

/// How far apart probes are, before chance.
fn period(check: &HealthCheck, health: Health, asked: Asked) -> Duration {
    match (asked, health) {
        (Asked::Never, _) | (_, Health::GoingDown { .. } | Health::GoingUp { .. } | Health::Unasked) => {
            check.fast_interval
        }
        (Asked::Before, Health::Up) => check.interval,
        (Asked::Before, Health::Down) => check.down_interval,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::health::fixture::check;

    const T0: Instant = Instant::ORIGIN;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn steady() -> HealthCheck {
        HealthCheck { jitter: 0.0, interval: ms(2000), fast_interval: ms(500), down_interval: ms(5000), ..check() }
    }

    fn after(health: Health, took: Duration) -> Duration {
        let mut dice = Dice::seeded(1);
        next(&steady(), health, Asked::Before, T0, T0 + took, &mut dice).since(T0)
    }

    #[test]
    fn each_state_has_its_period() {
        assert_eq!(after(Health::Up, ms(3)), ms(2000));
        assert_eq!(after(Health::Down, ms(3)), ms(5000));
        assert_eq!(after(Health::GoingDown { failures: 1, fall: 3 }, ms(3)), ms(500));
        assert_eq!(after(Health::GoingUp { successes: 1, rise: 2 }, ms(3)), ms(500));
        let mut dice = Dice::seeded(1);
        let never = next(&steady(), Health::Up, Asked::Never, T0, T0, &mut dice);
        assert_eq!(never, T0 + ms(500), "one that could not be asked is asked again soon");
    }

    #[test]
    fn a_probe_that_takes_longer_than_a_period_is_waited_for() {
        assert_eq!(after(Health::GoingDown { failures: 1, fall: 3 }, ms(900)), ms(900));
    }

    #[test]
    fn first_probes_are_spread_over_one_interval() {
        let mut dice = Dice::seeded(7);
        let mut quarters = [0; 4];
        for _ in 0..4000 {
            let at = first(&steady(), Health::Up, T0, &mut dice).since(T0);
            assert!(at < ms(500));
            quarters[usize::try_from(at.as_millis() / 125).unwrap()] += 1;
        }
        assert!(quarters.iter().all(|&count: &i32| (850..1150).contains(&count)), "{quarters:?}");
    }

    proptest! {
        #[test]
        fn a_period_varies_by_no_more_than_the_jitter(seed: u64, jitter in 0.0..0.5, took in 0u64..200) {
            let check = HealthCheck { jitter, ..steady() };
            let at = next(&check, Health::Up, Asked::Before, T0, T0 + ms(took), &mut Dice::seeded(seed)).since(T0);
            let about = at.as_secs_f64() / 2.0;
            prop_assert!(about >= 1.0 - jitter - 1e-6 && about <= 1.0 + jitter + 1e-6, "{}", about);
        }
    }
}
