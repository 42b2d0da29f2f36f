//! The way of a request: a backend at once or after a wait, the attempt, and another one where that may be. Each step asks,
//! does and tells in the order in which the shells do it.

use std::time::Duration;

use super::super::actor::Fate;
use super::super::promise::of_pick;
use super::super::{Fault, IMPATIENCE, Pick, Promise, Scenario, audit};
use super::{Event, Whose, World};
use crate::balance::{Reach, Rung, Standing, Tried, hash_key};
use crate::clock::Instant;
use crate::l7::retry::{self, Charge, Next, is_lost};
use crate::outcome::{Outcome, Repeatable, Verdict};
use crate::state::{Lease, NoBackend, Permit, Place, Taken, Turn};

/// One request under way.
pub(super) struct Request {
    pub(super) number: u64,
    stage: u64,
    pub(super) key: u64,
    pub(super) worker: usize,
    arrived: Instant,
    idempotent: bool,
    pub(super) tried: Tried,
    /// Attempts that were made, the one under way included.
    pub(super) made: usize,
    permit: Option<Permit>,
    /// Whether that is beyond the share, by the ledger.
    beyond: bool,
    /// Since when it has waited in the queue, all waits together.
    waits: Option<Instant>,
    pub(super) at: At,
}

pub(super) enum At {
    /// Neither here nor there, for as long as it is handled.
    Between,
    Queue(Place),
    Backend(Use),
}

/// A backend in use.
pub(super) struct Use {
    lease: Lease,
    pub(super) index: usize,
    pub(super) rung: Rung,
    /// When it is a probe of the backend's breaker: since which opening.
    probes: Option<u64>,
    restores: u64,
    losses: u64,
    /// The head of the answer is there.
    heard: bool,
    /// It was looked whether there is another since this one was lost.
    looked: bool,
}

impl Request {
    fn whose(&self) -> Whose {
        Whose { request: self.number, stage: self.stage }
    }

    fn repeatable(&self, sent: bool) -> Repeatable {
        Repeatable { idempotent: self.idempotent, body_kept: true, sent, heard: false }
    }
}

impl World<'_> {
    pub(super) fn arrive(&mut self) -> Result<(), Promise> {
        let key = hash_key(&self.dice.below(self.scenario.clients).to_le_bytes());
        let worker = self.dice.index(self.workers.len());
        let idempotent = self.dice.unit() >= self.scenario.posts;
        self.arrivals += 1;
        let request = Request {
            number: self.arrivals,
            stage: 0,
            key,
            worker,
            arrived: self.now,
            idempotent,
            tried: Tried::default(),
            made: 0,
            permit: None,
            beyond: false,
            waits: None,
            at: At::Between,
        };
        if self.dice.unit() < self.scenario.leaves {
            let at = self.now + IMPATIENCE.mul_f64(self.dice.unit());
            self.agenda.plan(at, Event::Leave(request.number));
        }
        self.workers[worker].view.count_request(self.pool, self.now);
        self.ledger.request(worker, self.now);
        self.seek(request)
    }

    /// A backend at once, or a place in the queue, or a refusal.
    fn seek(&mut self, mut request: Request) -> Result<(), Promise> {
        request.made += 1;
        let none = match self.take(&request)? {
            Ok((used, tried)) => {
                request.tried = tried;
                return self.begin(request, used);
            }
            Err(none) => none,
        };
        let Some(place) = self.workers[request.worker].view.join(self.pool, &none) else {
            return self.refuse(request, self.ledger.line.len());
        };
        self.ledger.line.push(request.number);
        self.report.queued += 1;
        self.stages += 1;
        (request.stage, request.at) = (self.stages, At::Queue(place));
        let since = *request.waits.get_or_insert(self.now);
        let whose = request.whose();
        self.agenda.plan(since + self.scenario.queue_timeout, Event::Late(whose));
        self.requests.insert(request.number, request);
        // As a task does that begins to wait: it looks whether it was called, and leaves its waker.
        self.follow(whose, false)
    }

    /// What one attempt asks of the view, and what is promised of the answer.
    fn take(&mut self, request: &Request) -> Result<Result<(Use, Tried), NoBackend>, Promise> {
        let fault = self.scenario.fault;
        let mut tried = match fault {
            Some(Fault::Forgets) => Tried::default(),
            _ => request.tried,
        };
        if fault == Some(Fault::Skips) {
            let others = self.actors.len().min(Tried::MOST) - 1;
            (0..others).for_each(|index| _ = tried.add(index));
        }
        let mut stands = self.stands(Turn::Newcomer);
        let goes_without = self.check_pick(&stands, &request.tried, None).is_ok();
        if goes_without && self.ledger.has_spare_room() {
            stands = self.stands(Turn::Waiter);
        }
        let worker = &mut self.workers[request.worker];
        let taken = worker.view.take(self.pool, self.now, request.key, &mut tried, &mut worker.dice);
        match taken {
            Ok(taken) => {
                let index = taken.index;
                let used = self.took(taken, Turn::Newcomer)?;
                self.check_pick(&stands, &request.tried, Some(index))?;
                Ok(Ok((used, tried)))
            }
            Err(none) => {
                self.check_pick(&stands, &request.tried, None)?;
                Ok(Err(none))
            }
        }
    }

    pub(super) fn stands(&self, turn: Turn) -> Vec<(Standing, bool)> {
        let of = |index| (self.ledger.standing(index, turn), self.ledger.backends[index].is_backup);
        (0..self.actors.len()).map(of).collect()
    }

    pub(super) fn check_pick(
        &self,
        stands: &[(Standing, bool)],
        tried: &Tried,
        picked: Option<usize>,
    ) -> Result<(), Promise> {
        // Of those that are open or down only their limit says whether they have room for who asks.
        let is_free = |index: usize| {
            let known = &self.ledger.backends[index];
            known.room() > 0 && (known.limit.is_none() || self.ledger.line.is_empty())
        };
        let has_room = |index: usize| stands[index].0 == Standing::Usable || is_free(index);
        let Scenario { fail_open, panic_threshold, .. } = *self.scenario;
        of_pick(stands, tried, Reach { fail_open, panic_threshold }, has_room, picked)
    }

    pub(super) fn took(&mut self, taken: Taken, turn: Turn) -> Result<Use, Promise> {
        let Taken { lease, index, rung } = taken;
        let is_asked = matches!(rung, Rung::Primaries | Rung::Backups);
        let has_limit = self.ledger.backends[index].limit.is_some();
        let probes = self.ledger.take(index, is_asked)?;
        if turn == Turn::Newcomer && has_limit {
            audit::of_turn(&self.ledger, self.overtaken(self.ledger.line.len(), rung))?;
        }
        let known = &self.ledger.backends[index];
        let peak = &mut self.report.peaks[index];
        *peak = (*peak).max(known.in_flight);
        let (restores, losses) = (known.restores, known.losses);
        Ok(Use { lease, index, rung, probes, restores, losses, heard: false, looked: false })
    }

    /// Begins an attempt.
    pub(super) fn begin(&mut self, mut request: Request, used: Use) -> Result<(), Promise> {
        if request.made > self.scenario.retry.attempts.max(1) {
            return Err(Promise::AttemptsAreBounded);
        }
        let (backend, rung, again) = (used.index, used.rung, request.made > 1);
        self.report.picks.push(Pick { at: self.elapsed(), backend, rung, again });
        self.stages += 1;
        request.stage = self.stages;
        let in_flight = self.ledger.backends[backend].in_flight;
        let fate = self.actors[backend].attempt(in_flight, self.scenario.response_header, &mut self.dice);
        let whose = request.whose();
        let (after, event) = match fate {
            Fate::Fails(after, outcome) => (after, Event::End(whose, outcome)),
            Fate::Answers(head, status, rest) => {
                (head, Event::Head(whose, status, rest, Outcome::Completed { status }))
            }
            Fate::Breaks(head, rest) => (head, Event::Head(whose, 200, rest, Outcome::BackendCut)),
        };
        self.agenda.plan(self.now + after, event);
        request.at = At::Backend(used);
        self.requests.insert(request.number, request);
        Ok(())
    }

    /// The request at this stage of its way, if it is there still.
    pub(super) fn claim(&mut self, whose: Whose) -> Option<Request> {
        let is_there = self.requests.get(&whose.request).is_some_and(|request| request.stage == whose.stage);
        if is_there { self.requests.remove(&whose.request) } else { None }
    }

    pub(super) fn head(&mut self, whose: Whose, status: u16, rest: Duration, end: Outcome) -> Result<(), Promise> {
        let Some(mut request) = self.claim(whose) else { return Ok(()) };
        let At::Backend(mut used) = std::mem::replace(&mut request.at, At::Between) else { return Ok(()) };
        let outcome = Outcome::Completed { status };
        let other = if status >= 400 { self.other(&mut request, outcome, false)? } else { None };
        used.lease.responded(self.now, Verdict::of_status(status));
        self.look_at_breaker(used.index)?;
        if let Some(other) = other {
            self.report.failures[used.index] += u64::from(outcome.is_failure());
            self.give_back(used, outcome)?;
            request.made += 1;
            return self.begin(request, other);
        }
        // A good answer makes room for the next probe, unless it tells of a time that is over.
        if used.restores == self.ledger.backends[used.index].restores {
            self.ledger.give_back(used.index, used.probes.take());
        }
        used.heard = true;
        self.waits_no_more(&mut request);
        request.at = At::Backend(used);
        self.requests.insert(request.number, request);
        match rest.is_zero() {
            true => self.end(whose, end),
            false => {
                self.agenda.plan(self.now + rest, Event::End(whose, end));
                Ok(())
            }
        }
    }

    /// An attempt ends, and another one begins where it failed and that may be.
    pub(super) fn end(&mut self, whose: Whose, outcome: Outcome) -> Result<(), Promise> {
        let Some(mut request) = self.claim(whose) else { return Ok(()) };
        let At::Backend(used) = std::mem::replace(&mut request.at, At::Between) else { return Ok(()) };
        let (index, heard) = (used.index, used.heard);
        self.report.failures[index] += u64::from(outcome.is_failure());
        let lost = self.give_back(used, outcome)?;
        if heard {
            return self.served(request, !outcome.is_failure());
        }
        let again = match self.after(&request, outcome) {
            Next::AnotherBackend(charge) => self.may(&mut request, charge, lost)?,
            Next::FreshConnection | Next::GiveUp => false,
        };
        if again { self.seek(request) } else { self.served(request, false) }
    }

    fn served(&mut self, mut request: Request, well: bool) -> Result<(), Promise> {
        self.waits_no_more(&mut request);
        match well {
            true => self.report.latencies.push(self.now.since(request.arrived)),
            false => self.report.failed += 1,
        }
        Ok(())
    }

    /// Gives a backend back; whether it is lost to all.
    fn give_back(&mut self, used: Use, outcome: Outcome) -> Result<bool, Promise> {
        let Use { mut lease, index, probes, .. } = used;
        lease.judge(self.now, outcome);
        let lost = is_lost(&lease, outcome);
        drop(lease);
        self.look_at_breaker(index)?;
        self.ledger.give_back(index, probes);
        self.ledger.release(index)?;
        Ok(lost)
    }

    fn after(&self, request: &Request, outcome: Outcome) -> Next {
        let sent = !matches!(outcome, Outcome::ConnectFailed | Outcome::ConnectTimeout);
        let left = self.told.retry.attempts.saturating_sub(request.made);
        retry::next(outcome, request.repeatable(sent), &self.told.retry, left)
    }

    /// Whether there may be one more attempt, by what it costs; `lost`: the backend of the one before is lost to all.
    fn may(&mut self, request: &mut Request, charge: Charge, lost: bool) -> Result<bool, Promise> {
        match charge {
            Charge::Budget if !lost => self.is_permitted(request),
            Charge::Budget | Charge::Free => Ok(true),
        }
    }

    fn is_permitted(&mut self, request: &mut Request) -> Result<bool, Promise> {
        let permit = self.workers[request.worker].view.permit_retry(self.pool, self.now);
        let goes_on = permit.is_some() || self.scenario.fault == Some(Fault::Insists);
        let beyond = self.ledger.repeat(request.worker, self.now, goes_on)?;
        self.waits_no_more(request);
        (request.permit, request.beyond) = (permit, beyond);
        self.report.repeated += u64::from(goes_on);
        Ok(goes_on)
    }

    /// The leave for the attempt that has just been waited for is given back.
    fn waits_no_more(&mut self, request: &mut Request) {
        request.permit = None;
        if std::mem::take(&mut request.beyond) {
            self.ledger.repeated();
        }
    }

    /// Takes another backend while the one under way could still be relied on, or its answer be passed on.
    fn other(&mut self, request: &mut Request, outcome: Outcome, lost: bool) -> Result<Option<Use>, Promise> {
        let Next::AnotherBackend(charge) = self.after(request, outcome) else { return Ok(None) };
        let Ok((used, tried)) = self.take(request)? else { return Ok(None) };
        if self.may(request, charge, lost)? {
            request.tried = tried;
            return Ok(Some(used));
        }
        let Use { lease, index, probes, .. } = used;
        drop(lease);
        self.ledger.give_back(index, probes);
        self.ledger.release(index)?;
        Ok(None)
    }

    /// Who waits for an answer of a backend that was lost since goes elsewhere, if there is another.
    pub(super) fn give_up_lost_ones(&mut self) -> Result<(), Promise> {
        let losses = self.ledger.backends.iter().map(|known| known.losses).sum();
        if std::mem::replace(&mut self.losses, losses) == losses {
            return Ok(());
        }
        let backends = &self.ledger.backends;
        let is_lost = |used: &Use| !used.heard && !used.looked && backends[used.index].losses != used.losses;
        let lost = |request: &&Request| matches!(&request.at, At::Backend(used) if is_lost(used));
        let lost: Vec<Whose> = self.requests.values().filter(lost).map(Request::whose).collect();
        lost.into_iter().try_for_each(|whose| self.give_up(whose))
    }

    fn give_up(&mut self, whose: Whose) -> Result<(), Promise> {
        let Some(mut request) = self.claim(whose) else { return Ok(()) };
        let At::Backend(mut used) = std::mem::replace(&mut request.at, At::Between) else { return Ok(()) };
        used.looked = used.lease.is_withdrawn() && self.scenario.fault != Some(Fault::Clings);
        if used.looked
            && let Some(other) =
                self.other(&mut request, Outcome::Withdrawn, is_lost(&used.lease, Outcome::Withdrawn))?
        {
            self.report.elsewhere += 1;
            self.give_back(used, Outcome::Withdrawn)?;
            request.made += 1;
            return self.begin(request, other);
        }
        // Whoever looked was refused by what is promised of picks and of the budget.
        let clings = !used.looked && matches!(self.after(&request, Outcome::Withdrawn), Next::AnotherBackend(_));
        request.at = At::Backend(used);
        self.requests.insert(request.number, request);
        if clings { Err(Promise::NobodyClingsToALostOne) } else { Ok(()) }
    }

    /// There is no backend for it, while `before` wait who came before.
    pub(super) fn refuse(&mut self, mut request: Request, before: usize) -> Result<(), Promise> {
        self.leave_line(request.number);
        audit::of_refusal(&self.ledger, &request.tried, before)?;
        self.waits_no_more(&mut request);
        self.report.without_backend += 1;
        Ok(())
    }

    pub(super) fn leave(&mut self, number: u64) -> Result<(), Promise> {
        let Some(mut request) = self.requests.remove(&number) else { return Ok(()) };
        self.report.left += 1;
        self.waits_no_more(&mut request);
        match request.at {
            At::Backend(used) if self.scenario.fault == Some(Fault::Leaks) => {
                let index = used.index;
                std::mem::forget(used);
                self.ledger.release(index)
            }
            At::Backend(used) => self.give_back(used, Outcome::ClientGone).map(drop),
            At::Queue(place) => {
                drop(place);
                self.leave_line(number);
                Ok(())
            }
            At::Between => Ok(()),
        }
    }
}
