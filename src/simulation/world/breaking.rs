//! Breakers in a run: attempts pass them and tell them as leases do, and what they promise is looked at each time.

use std::time::Duration;

use super::super::Promise;
use super::{Actor, Ending, Request, World};
use crate::balance::{Rung, Standing};
use crate::breaker::{Entry, Mode, Peers, State, Teller, Ticket, Transition};

impl World<'_> {
    /// Lets an attempt by its backend's breaker, as a lease does.
    pub(super) fn pass_breaker(&mut self, request: &mut Request, rung: Rung) -> Result<Ticket, Promise> {
        request.probes = None;
        let actor = &mut self.actors[request.backend];
        let Some(settings) = &actor.settings else { return Ok(Ticket::UNHEARD) };
        let entry = match rung {
            Rung::Primaries | Rung::Backups => Entry::Asked,
            Rung::Panic | Rung::BreakerOpen | Rung::FailOpen => Entry::Forced,
        };
        let before = actor.breaker.state(self.now);
        let (probes, broken) = (settings.half_open_probes, Promise::OnlyProbesPassAnOpenBreaker);
        let Ok((ticket, transition)) = actor.breaker.admit(self.now, settings, entry) else { return Err(broken) };
        if transition.is_some() {
            (actor.changes, actor.probes) = (actor.changes + 1, 0);
        }
        // Who is forced in may find room for a probe, and counts as one; who is let in for observation's sake need not.
        let passes = entry == Entry::Asked && settings.mode == Mode::Enforce;
        if before != State::Closed && (passes || ticket.is_probe()) {
            request.probes = Some(actor.changes);
            actor.probes += 1;
            if before == State::Open || actor.probes > probes {
                return Err(broken);
            }
        }
        Ok(ticket)
    }

    /// Tells the breaker how an attempt ended, as a lease does.
    pub(super) fn tell_breaker(&mut self, place: usize, took: Duration, ending: Ending) -> Result<(), Promise> {
        let Request { backend, worker, probes, .. } = self.requests[place];
        if probes == Some(self.actors[backend].changes) {
            self.actors[backend].probes -= 1;
        }
        let actor = &self.actors[backend];
        let Some(settings) = &actor.settings else { return Ok(()) };
        let peers = self.peers(backend);
        let window = actor.breaker.window(worker);
        let reserve = || peers.allow_one_more(settings.max_open_ratio).ok();
        let tell = Teller { now: self.now, settings, window: &window, identity: actor.identity, reserve };
        let ticket = &mut self.tickets[place];
        let transition = match ending {
            Ending::Answers => actor.breaker.succeed(ticket, took, &tell),
            Ending::Fails => actor.breaker.fail(ticket, &tell),
            Ending::IsLeft => None,
        };
        actor.breaker.give_back(ticket);
        let Some(Transition { from, to, .. }) = transition else { return Ok(()) };
        let actor = &mut self.actors[backend];
        (actor.changes, actor.probes) = (actor.changes + 1, 0);
        if to == State::Closed && actor.settings.as_ref().is_some_and(|settings| settings.mode == Mode::Enforce) {
            actor.returned = Some(self.now);
        }
        if (from, to) == (State::Closed, State::Open) { self.check_opening(backend) } else { Ok(()) }
    }

    fn peers(&self, backend: usize) -> Peers {
        let mut peers = Peers { backends: self.actors.len(), ..Peers::default() };
        for (_, other) in self.actors.iter().enumerate().filter(|(other, _)| *other != backend) {
            if !other.breaker.is_closed() {
                peers.open += 1;
            } else if other.standing == Standing::Usable {
                peers.serving += 1;
            }
        }
        peers
    }

    /// Says again in other words what [`Peers`] is to see to.
    fn check_opening(&self, opened: usize) -> Result<(), Promise> {
        let is_up = |(index, actor): (usize, &Actor)| {
            let is_closed = actor.breaker.state(self.now) == State::Closed;
            index != opened && actor.standing == Standing::Usable && is_closed
        };
        if !self.actors.iter().enumerate().any(is_up) {
            return Err(Promise::TheLastUsableStaysClosed);
        }
        let open = self.actors.iter().filter(|actor| actor.breaker.state(self.now) != State::Closed).count();
        let ratio = self.scenario.breaker.as_ref().map_or(0.0, |settings| settings.max_open_ratio);
        let is_share = open as f64 <= ratio * self.actors.len() as f64 + 1e-6;
        if is_share || open == 1 { Ok(()) } else { Err(Promise::OnlyAShareIsOpen) }
    }

    /// Asks every breaker for all its probes, long after the end.
    pub(super) fn have_probes_come_back(&self) -> bool {
        let late = self.now + Duration::from_secs(86_400);
        let is_whole = |actor: &Actor| {
            let Some(settings) = actor.settings.as_ref().filter(|_| !actor.breaker.is_closed()) else { return true };
            let admitted = || actor.breaker.admit(late, settings, Entry::Asked).ok().filter(|it| it.0.is_probe());
            std::iter::from_fn(admitted).count() == settings.half_open_probes as usize
        };
        self.actors.iter().all(is_whole)
    }
}
