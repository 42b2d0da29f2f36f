//! The wait in the queue: who is called tries to take a backend, in the order of the line.

use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use super::super::{Fault, Promise, audit};
use super::requests::{At, Request, Use};
use super::{Whose, World};
use crate::balance::{Rung, Standing};
use crate::state::{NoBackend, Turn, Why};

/// Notes who was woken.
struct Bell {
    whose: Whose,
    woken: Arc<Mutex<Vec<Whose>>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.woken.lock().expect("nobody panics with it").push(self.whose);
    }
}

impl World<'_> {
    /// Who waits looks whether it was called, and tries to take a backend if so, or if it does not want to wait any longer.
    pub(super) fn follow(&mut self, whose: Whose, is_late: bool) -> Result<(), Promise> {
        let Some(mut request) = self.claim(whose) else { return Ok(()) };
        loop {
            let At::Queue(place) = &mut request.at else { return Ok(()) };
            let bell = Bell { whose, woken: Arc::clone(&self.woken) };
            let called = place.poll_called(&mut Context::from_waker(&Waker::from(Arc::new(bell)))).is_ready();
            let is_deaf = self.scenario.fault == Some(Fault::IsDeaf);
            if !is_late && (!called || is_deaf) {
                self.requests.insert(request.number, request);
                return Ok(());
            }
            if self.scenario.fault == Some(Fault::GivesUp) {
                let before = self.place_of(request.number);
                return self.refuse(request, before);
            }
            if self.scenario.fault == Some(Fault::Overtakes) {
                request = self.swap_with_last(request);
            }
            match self.take_waiting(&mut request)? {
                Ok(used) => return self.begin(request, used),
                Err(NoBackend { why: Why::Full, .. }) if called => {}
                Err(_) => {
                    let before = self.place_of(request.number);
                    return self.refuse(request, before);
                }
            }
        }
    }

    fn take_waiting(&mut self, request: &mut Request) -> Result<Result<Use, NoBackend>, Promise> {
        let (stands, before, had_tried) = (self.stands(Turn::Waiter), self.place_of(request.number), request.tried);
        let At::Queue(place) = &mut request.at else { return Err(Promise::QueueIsBounded) };
        let worker = &mut self.workers[request.worker];
        let (pool, now, key, tried) = (self.pool, self.now, request.key, &mut request.tried);
        let taken = match worker.view.take_waiting(pool, place, now, key, tried, &mut worker.dice) {
            Ok(taken) => taken,
            Err(none) => return Ok(Err(none)),
        };
        self.leave_line(request.number);
        let used = self.took(taken, Turn::Waiter)?;
        self.check_pick(&stands, &had_tried, Some(used.index))?;
        audit::of_turn(&self.ledger, self.overtaken(before, used.rung))?;
        Ok(Ok(used))
    }

    /// How many of the first `before` in the line could have had what was found on this step of the ladder: those that have
    /// tried nothing yet. Where calls take their time, one that reaches him who can not follow it may be overtaken by another
    /// on its way through the line; then those count who are on their way.
    pub(super) fn overtaken(&self, before: usize, rung: Rung) -> usize {
        // They wait for a better one, though it be full.
        let is_too_low = match rung {
            Rung::Primaries | Rung::Backups | Rung::Panic => false,
            Rung::BreakerOpen => self.ledger.has_working(),
            Rung::FailOpen => self.ledger.has_working() || self.ledger.has(Standing::Open),
        };
        if is_too_low {
            return 0;
        }
        let is_due = |number: &u64| self.scenario.dawdles.is_zero() || self.called.contains(number);
        let is_fresh = |number: &u64| self.requests.get(number).is_some_and(|request| request.made == 1);
        self.ledger.line[..before].iter().filter(|number| is_due(number) && is_fresh(number)).count()
    }

    /// How many wait who came before this one.
    pub(super) fn place_of(&self, number: u64) -> usize {
        self.ledger.line.iter().position(|other| *other == number).unwrap_or(self.ledger.line.len())
    }

    pub(super) fn leave_line(&mut self, number: u64) {
        self.ledger.line.retain(|other| *other != number);
    }

    /// The one who came last, in place of this one.
    fn swap_with_last(&mut self, request: Request) -> Request {
        let last = self.ledger.line.last().and_then(|last| self.requests.remove(last));
        match last {
            None => request,
            Some(last) => {
                self.requests.insert(request.number, request);
                last
            }
        }
    }

    /// When nobody is on the way to a place, there is none for anybody who waits.
    pub(super) fn check_waiting(&self) -> Result<(), Promise> {
        let beside_room = |number: &u64| {
            let tried = &self.requests[number].tried;
            self.ledger.room(tried, |standing| standing == Standing::Usable) > 0
        };
        if self.ledger.line.iter().any(beside_room) { Err(Promise::NobodyWaitsBesideRoom) } else { Ok(()) }
    }
}
