//! How the backends of a pool stand at one moment, as values: what a table, a status command or a dashboard shows.
//!
//! It is read and never asked by a request. Each word is read on its own, so what two of them say may be a moment apart.

use super::backend::Backend;
use super::health::{Health, Probed};
use super::pool::Pool;
use crate::balance::{Candidate, Rung, Standing, UNIT};
use crate::breaker::{Mode, Outlook};
use crate::clock::Instant;
use crate::config::{Address, Name};

/// One pool at one moment.
#[derive(Clone, Debug)]
pub struct PoolStatus {
    /// Its name.
    pub pool: Name,
    /// The step of the ladder on which its requests find their backends.
    pub rung: Rung,
    /// Its backends, in the configuration's order.
    pub backends: Vec<BackendStatus>,
}

/// One backend at one moment.
#[derive(Clone, Debug)]
pub struct BackendStatus {
    /// Its name.
    pub name: Name,
    /// Where it is.
    pub address: Address,
    /// Its weight.
    pub weight: u32,
    /// How much of that it has while it comes back by a slow start, from 0.01 to 1.
    pub ramp: f64,
    /// Whether it may be picked, or why not: of several reasons the one that forbids most.
    pub standing: Standing,
    /// What its health check says, with how far a change of that has come; `None`: nobody checks it.
    pub health: Option<Health>,
    /// What its probes were like.
    pub probed: Probed,
    /// Its breaker, if it has one.
    pub breaker: Option<BreakerStatus>,
    /// Requests (L7) or sessions (L4) that it has, over all workers.
    pub in_flight: u32,
}

/// A backend's breaker at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerStatus {
    /// What it is at.
    pub outlook: Outlook,
    /// How many probes it lets through when half-open, and how many successes close it.
    pub probes: u32,
    /// Whether it acts on that.
    pub mode: Mode,
    /// How often it has opened.
    pub trips: u64,
}

impl BackendStatus {
    /// Whether it is well in every way: up with nothing counted against it, and its breaker closed or none.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        let closed = self.breaker.is_none_or(|breaker| matches!(breaker.outlook, Outlook::Closed { .. }));
        closed && matches!(self.health, None | Some(Health::Up)) && self.standing == Standing::Usable
    }
}

impl PoolStatus {
    /// Whether all is as it should be: every backend is calm, and requests find them on the first step of the ladder.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        self.rung == Rung::Primaries && self.backends.iter().all(BackendStatus::is_calm)
    }
}

impl Pool {
    /// How it and its backends stand at `now`.
    #[must_use]
    pub fn status(&self, now: Instant) -> PoolStatus {
        let backends = self.backends.iter().map(|backend| self.status_of(backend, now)).collect();
        PoolStatus { pool: self.name.clone(), rung: self.rung(), backends }
    }

    fn status_of(&self, backend: &Backend, now: Instant) -> BackendStatus {
        let (state, checkup) = (&backend.state, backend.state.checkup());
        let breaker = backend.breaker.as_ref().map(|pool| BreakerStatus {
            outlook: state.breaker().outlook(now),
            probes: pool.settings.half_open_probes,
            mode: pool.settings.mode,
            trips: state.breaker().trips(),
        });
        BackendStatus {
            name: backend.name.clone(),
            address: backend.address().clone(),
            weight: backend.weight,
            ramp: f64::from(backend.weight_at(now)) / f64::from(backend.weight * UNIT),
            standing: backend.standing(now),
            health: self.health_check.as_ref().map(|_| checkup.health()),
            probed: checkup.probed(),
            breaker,
            in_flight: backend.in_flight(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::fixture::{backend, of_pools, pool};
    use super::super::{Health, Sessions, Snapshot, View};
    use super::*;
    use crate::balance::{Dice, Tried};
    use crate::breaker::Settings;
    use crate::config::{self, Policy, Service, from_text};
    use crate::outcome::Outcome;

    const T0: Instant = Instant::ORIGIN;

    /// Two primaries and a backup, with breakers.
    fn app() -> config::Pool {
        let mut backends = vec![backend(1), backend(2), backend(3)];
        backends[2].backup = true;
        config::Pool { breaker: Some(Settings::default()), ..pool("app", Policy::RoundRobin, backends) }
    }

    fn bound(app: config::Pool) -> Arc<Pool> {
        let snapshot = Snapshot::next(&of_pools(vec![app]), &crate::tls::Materials::default(), None);
        snapshot.settle();
        let (_, pool) = snapshot.pools().next().unwrap();
        Arc::clone(pool)
    }

    #[test]
    fn the_rung_is_that_of_the_requests() {
        let snapshot = Arc::new(Snapshot::next(&of_pools(vec![app()]), &crate::tls::Materials::default(), None));
        let view = View::new(snapshot, None, 0, 7);
        let id = view.snapshot().pool_id("app").unwrap();
        let request = |now| drop(view.take(id, now, 0, &mut Tried::default(), &mut Dice::seeded(1)));
        for (index, rung) in [Rung::Primaries, Rung::Primaries, Rung::Backups, Rung::FailOpen].into_iter().enumerate() {
            request(T0);
            let status = view.pool(id).status(T0);
            assert_eq!((status.rung, status.is_calm()), (rung, index == 0));
            if let Some(backend) = view.pool(id).backends.get(index) {
                backend.state.checkup().say(Health::Down, Sessions::Kept);
            }
        }
    }

    #[test]
    fn one_that_comes_back_tells_how_far_it_has_come() {
        let app = bound(config::Pool { slow_start: Some(Duration::from_secs(10)), ..app() });
        let ramp = |seconds| app.status(T0 + Duration::from_secs(seconds)).backends[0].ramp;
        assert_eq!(ramp(5), 1.0, "it was never away");
        app.backends[0].state.come_back(T0 + Duration::from_secs(20));
        assert!(ramp(20) <= 0.02 && (ramp(24) - 0.4).abs() < 0.02, "{} {}", ramp(20), ramp(24));
        assert_eq!(ramp(30), 1.0);
    }

    #[test]
    fn an_open_breaker_tells_for_how_long_and_then_how_far_it_has_come() {
        let mut config = app();
        config.backends.truncate(2);
        let snapshot = Arc::new(Snapshot::next(&of_pools(vec![config]), &crate::tls::Materials::default(), None));
        snapshot.settle();
        let view = View::new(snapshot, None, 0, 7);
        let id = view.snapshot().pool_id("app").unwrap();
        let breaker = |now| view.pool(id).status(now).backends[0].breaker.unwrap();
        let request = |now| view.take(id, now, 0, &mut Tried::default(), &mut Dice::seeded(1)).unwrap();
        assert!(view.pool(id).status(T0).backends[0].is_calm());
        for failures in 0..5 {
            assert_eq!(breaker(T0).outlook, Outlook::Closed { failures });
            let taken = std::iter::repeat_with(|| request(T0)).find(|taken| taken.index == 0).unwrap();
            taken.lease.finish(T0, Outcome::ConnectFailed);
        }
        let Outlook::Open { left } = breaker(T0).outlook else { panic!("{:?}", breaker(T0)) };
        assert!(left >= Duration::from_secs(4) && left <= Duration::from_secs(6), "{left:?}");
        assert_eq!(breaker(T0 + Duration::from_secs(1)).outlook, Outlook::Open { left: left - Duration::from_secs(1) });
        assert_eq!(view.pool(id).status(T0).backends[0].standing, Standing::Open);
        let later = T0 + left;
        assert_eq!(breaker(later).outlook, Outlook::HalfOpen { probing: 0, passed: 0 });
        let probe = std::iter::repeat_with(|| request(later)).find(|taken| taken.index == 0).unwrap();
        assert_eq!(breaker(later).outlook, Outlook::HalfOpen { probing: 1, passed: 0 });
        assert!(!view.pool(id).status(later).backends[0].is_calm());
        drop(probe);
        assert_eq!((breaker(later).trips, breaker(later).mode), (1, Mode::Enforce));
    }

    #[test]
    fn health_is_told_where_somebody_checks() {
        let text = "[listeners.web]\nbind = '127.0.0.1:0'\npool = 'app'\n\
                    [pools.app]\nbackends = ['127.0.0.1:1']\nhealth_check = 'tcp'\n";
        let snapshot =
            Snapshot::next(&from_text("test.toml", text).unwrap().config, &crate::tls::Materials::default(), None);
        let (_, checked) = snapshot.pools().next().unwrap();
        let counted = Health::GoingDown { failures: 2, fall: 3 };
        checked.backends[0].state.checkup().say(counted, Sessions::Kept);
        let status = &checked.status(T0).backends[0];
        assert_eq!((status.health, status.standing, status.is_calm()), (Some(counted), Standing::Usable, false));
        assert_eq!(bound(app()).status(T0).backends[0].health, None);
    }

    #[test]
    fn what_an_administrator_holds_back_says_so() {
        let mut config = app();
        (config.backends[0].service, config.backends[1].service) = (Service::Maintenance, Service::Drain);
        let standings = bound(config).status(T0).backends.iter().map(|backend| backend.standing).collect::<Vec<_>>();
        assert_eq!(standings, [Standing::Maintenance, Standing::Draining, Standing::Usable]);
    }
}
