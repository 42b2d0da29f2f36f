//! Breakers at work in a pool: what a lease tells its backend's breaker, who is asked before one more may open, and what is
//! said of it. What a breaker makes of that is decided in [`breaker`](crate::breaker).

use std::sync::Arc;
use std::time::Duration;

use super::backend::{Backend, Refused};
use super::lease::Hold;
use crate::balance::{Candidate, Standing};
use crate::breaker::{Denied, Entry, Gate, Inside, News, Peers, Settings, Teller, Ticket, Transition};
use crate::clock::Instant;

/// What all breakers of a pool have in common.
#[derive(Clone, Debug)]
pub(super) struct PoolBreaker {
    pub settings: Settings,
    gate: Arc<Gate>,
}

impl PoolBreaker {
    /// By these settings; the gate is that of the pool before it, if it had one: two configurations of a pool are in use
    /// for a moment.
    pub fn next(settings: &Settings, previous: Option<&PoolBreaker>) -> PoolBreaker {
        let gate = previous.map(|previous| Arc::clone(&previous.gate)).unwrap_or_default();
        PoolBreaker { settings: settings.clone(), gate }
    }
}

impl Backend {
    /// Whether its breaker holds it back now.
    pub(super) fn is_held_back(&self, now: Instant) -> bool {
        let breaker = self.state.breaker();
        !breaker.is_closed() && self.breaker.as_ref().is_some_and(|pool| !breaker.admits(now, &pool.settings))
    }

    fn tell(&self, transition: &Transition, settings: &Settings) {
        let Transition { from, to, reason } = transition;
        let (pool, backend) = (&self.state.key().pool, &self.name);
        let (from, to, mode) = (from.name(), to.name(), settings.mode.name());
        let trips = self.state.breaker().trips();
        tracing::info!(%pool, %backend, from, to, %reason, mode, trips, "breaker");
    }

    fn tell_denied(&self, denied: Denied) {
        tracing::warn!(pool = %self.state.key().pool, backend = %self.name, reason = %denied, "breaker stays closed");
    }
}

impl Hold {
    /// Lets a request by the breaker of the backend at `index`.
    pub(super) fn pass_breaker(&self, index: usize, now: Instant, entry: Entry) -> Result<Ticket, Refused> {
        let backend = &self.backends()[index];
        let Some(PoolBreaker { settings, .. }) = backend.breaker.as_deref() else { return Ok(Ticket::UNHEARD) };
        let admitted = backend.state.breaker().admit(now, settings, entry);
        let (ticket, transition) = admitted.map_err(|_| Refused::Open)?;
        if let Some(transition) = transition {
            backend.tell(&transition, settings);
        }
        Ok(ticket)
    }

    /// Tells of a good answer after `took`.
    pub(super) fn tell_success(&self, index: usize, ticket: &mut Ticket, now: Instant, took: Duration) {
        self.tell(index, now, |pool, tell| {
            let breaker = self.backends()[index].state.breaker();
            breaker.succeed(ticket, took, tell, || self.reserve(pool, index, now))
        });
    }

    /// Tells of a failure.
    pub(super) fn tell_failure(&self, index: usize, ticket: &mut Ticket, now: Instant) {
        self.tell(index, now, |pool, tell| {
            let breaker = self.backends()[index].state.breaker();
            breaker.fail(ticket, tell, || self.reserve(pool, index, now))
        });
    }

    fn tell(&self, index: usize, now: Instant, what: impl FnOnce(&PoolBreaker, &Teller<'_>) -> Option<Transition>) {
        let backend = &self.backends()[index];
        let Some(pool) = backend.breaker.as_deref() else { return };
        let identity = backend.identity();
        let tell = Teller { now, settings: &pool.settings, window: self.window(index), identity };
        if let Some(transition) = what(pool, &tell) {
            backend.tell(&transition, &pool.settings);
        }
    }

    /// A place among the open breakers of the pool for the backend at `index`, held until it is dropped.
    fn reserve<'a>(&self, pool: &'a PoolBreaker, index: usize, now: Instant) -> Option<Inside<'a>> {
        let inside = pool.gate.enter(now)?;
        match self.peers(index, now).allow_one_more(pool.settings.max_open_ratio) {
            Ok(()) => Some(inside),
            Err(denied) => {
                if inside.deny(now) == News::Fresh {
                    self.backends()[index].tell_denied(denied);
                }
                None
            }
        }
    }

    fn peers(&self, index: usize, now: Instant) -> Peers {
        let mut peers = Peers { backends: self.backends().len(), ..Peers::default() };
        for (_, other) in self.backends().iter().enumerate().filter(|(other, _)| *other != index) {
            if !other.state.breaker().is_closed() {
                peers.open += 1;
            } else if matches!(other.standing(now), Standing::Usable | Standing::Full) {
                peers.serving += 1;
            }
        }
        peers
    }
}
