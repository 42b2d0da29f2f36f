//! How a backend's standing and what it goes through are said: text from values, no terminal and no clock.

use crate::balance::{Rung, Standing};
use crate::breaker::{Mode, Outlook};
use crate::cli::turns::Turn;
use crate::clock::Instant;
use crate::state::{BackendStatus, BreakerStatus, Health, PoolStatus};

/// How a backend stands, in a few words.
#[must_use]
pub fn standing(status: &BackendStatus) -> String {
    match status.standing {
        Standing::Maintenance => return "maintenance".to_owned(),
        Standing::Draining => return "draining".to_owned(),
        Standing::Usable | Standing::Full | Standing::Down | Standing::Open => {}
    }
    let health = status.health.filter(|health| *health != Health::Up).map(|health| health.to_string());
    let ramp = (status.ramp < 1.0).then(|| format!("slow start {:.0} %", 100.0 * status.ramp));
    let full = (status.standing == Standing::Full).then(|| "full".to_owned());
    let parts: Vec<_> = [health, status.breaker.and_then(breaker), ramp, full].into_iter().flatten().collect();
    if parts.is_empty() { "up".to_owned() } else { parts.join(", ") }
}

/// What a breaker is at, unless it is closed.
fn breaker(breaker: BreakerStatus) -> Option<String> {
    let said = match breaker.outlook {
        Outlook::Closed { .. } => return None,
        Outlook::Open { left } => format!("open {:.1} s", left.as_secs_f64()),
        Outlook::HalfOpen { passed, .. } => format!("half-open {passed}/{}", breaker.probes),
    };
    Some(match breaker.mode {
        Mode::Enforce => said,
        Mode::Observe => format!("({said})"),
    })
}

/// One line about a change, with the time from `begun`.
#[must_use]
pub fn turn(turn: &Turn, begun: Instant) -> String {
    let Turn { at, pool, backend, message, from, to, cause } = turn;
    let mut parts = Vec::new();
    if !from.is_empty() {
        parts.push(format!("{from} → {to}"));
    }
    if !cause.is_empty() {
        parts.push(cause.clone());
    }
    format!("{}  {:<12}  {message}: {}", seconds(*at, begun), format!("{pool}/{backend}"), parts.join("; "))
}

/// The time from `begun`, as wide as in an hour.
#[must_use]
pub fn seconds(at: Instant, begun: Instant) -> String {
    format!("{:>7.2} s", at.since(begun).as_secs_f64())
}

/// Who has how much of its weight, while any come back slowly.
#[must_use]
pub fn ramps(status: &PoolStatus) -> Option<String> {
    let ramping = status.backends.iter().filter(|backend| backend.ramp < 1.0);
    let parts: Vec<_> = ramping.map(|backend| format!("{} {:.0} %", backend.name, 100.0 * backend.ramp)).collect();
    (!parts.is_empty()).then(|| format!("slow start: {} of its weight", parts.join(", ")))
}

/// On which step of the ladder requests find their backends.
#[must_use]
pub fn rung(rung: Rung) -> &'static str {
    match rung {
        Rung::Primaries => "those that are usable get the requests",
        Rung::Backups => "backups get the requests: no other is usable",
        Rung::BreakerOpen => "those with open breakers get the requests: all others are down",
        Rung::FailOpen => "fail-open: all are down, and get the requests all the same",
        Rung::Panic => "panic: all get the requests alike, as too few are well",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Address;
    use crate::state::Probed;

    fn status(standing: Standing, health: Option<Health>, outlook: Outlook) -> BackendStatus {
        BackendStatus {
            name: "a1".into(),
            address: Address::Ip("127.0.0.1:1".parse().unwrap()),
            weight: 1,
            ramp: 1.0,
            standing,
            health,
            probed: Probed::default(),
            breaker: Some(BreakerStatus { outlook, probes: 3, mode: Mode::Enforce, trips: 0 }),
            in_flight: 0,
        }
    }

    #[test]
    fn a_standing_says_all_that_is_wrong_and_nothing_else() {
        let closed = Outlook::Closed { failures: 2 };
        let open = Outlook::Open { left: Duration::from_millis(1_440) };
        let half = Outlook::HalfOpen { probing: 2, passed: 1 };
        let falling = Some(Health::GoingDown { failures: 1, fall: 2 });
        for (stands, health, outlook, said) in [
            (Standing::Usable, Some(Health::Up), closed, "up"),
            (Standing::Usable, None, closed, "up"),
            (Standing::Full, None, closed, "full"),
            (Standing::Usable, falling, closed, "going down 1/2"),
            (Standing::Open, falling, open, "going down 1/2, open 1.4 s"),
            (Standing::Down, Some(Health::Down), half, "down, half-open 1/3"),
            (Standing::Down, Some(Health::GoingUp { successes: 1, rise: 2 }), closed, "going up 1/2"),
            (Standing::Draining, Some(Health::Down), open, "draining"),
            (Standing::Maintenance, Some(Health::Down), open, "maintenance"),
        ] {
            assert_eq!(standing(&status(stands, health, outlook)), said);
        }
        let ramping = BackendStatus { ramp: 0.371, ..status(Standing::Usable, Some(Health::Up), half) };
        assert_eq!(standing(&ramping), "half-open 1/3, slow start 37 %");
        let mut observed = status(Standing::Usable, None, open);
        observed.breaker.as_mut().unwrap().mode = Mode::Observe;
        assert_eq!(standing(&observed), "(open 1.4 s)");
    }

    #[test]
    fn those_who_come_back_slowly_are_named_and_nobody_else() {
        let backend = |ramp| BackendStatus { ramp, ..status(Standing::Usable, None, Outlook::Closed { failures: 0 }) };
        let of = |backends| ramps(&PoolStatus { pool: "http".into(), rung: Rung::Primaries, backends });
        assert_eq!(of(vec![backend(1.0)]), None);
        let said = of(vec![backend(0.26), backend(1.0), backend(0.5)]);
        assert_eq!(said.as_deref(), Some("slow start: a1 26 %, a1 50 % of its weight"));
    }

    #[test]
    fn a_change_is_told_with_its_time_and_cause() {
        let begun = Instant::ORIGIN + Duration::from_secs(5);
        let mut told = Turn {
            at: begun + Duration::from_millis(2_410),
            pool: "http".into(),
            backend: "flaky".into(),
            message: "breaker".into(),
            from: "closed".into(),
            to: "open".into(),
            cause: "3 failures in a row".into(),
        };
        assert_eq!(turn(&told, begun), "   2.41 s  http/flaky    breaker: closed → open; 3 failures in a row");
        (told.from, told.message) = (String::new(), "breaker stays closed".into());
        assert_eq!(turn(&told, begun), "   2.41 s  http/flaky    breaker stays closed: 3 failures in a row");
    }
}
