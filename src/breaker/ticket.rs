//! What one request has to do with a breaker, from its entry to its end.

use super::told::Teller;
use super::window::{Event, Moment};
use super::word::Epoch;

/// Whether a request may be turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It goes elsewhere then.
    Asked,
    /// There is nowhere else: it goes in, uncounted, whatever the breaker says.
    Forced,
}

/// The breaker lets nobody in now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shut;

/// What one request has to do with a breaker. A probe's has to be [given back](super::Breaker::give_back).
#[derive(Debug)]
pub struct Ticket {
    pub(super) epoch: Epoch,
    /// When it was counted as an answer, if it was.
    pub(super) answered: Moment,
    pub(super) stake: Stake,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stake {
    /// None: its end is not heard.
    Nothing,
    /// One request of a closed breaker.
    Counts,
    /// One that was counted as an answer but can still fail.
    Answered,
    /// One of the few that a half-open breaker lets through.
    Probe,
    /// One that has given its place to the next but can still fail.
    Probed,
}

impl Ticket {
    /// That of a request whose end is not heard.
    pub const UNHEARD: Ticket = Ticket { epoch: Epoch::FIRST, stake: Stake::Nothing, answered: Moment::NONE };

    pub(super) fn new(epoch: Epoch, stake: Stake) -> Ticket {
        Ticket { epoch, stake, answered: Moment::NONE }
    }

    /// Counts it as an answer.
    pub(super) fn count<R>(&mut self, event: Event, tell: &Teller<'_, R>) {
        (self.stake, self.answered) = (Stake::Answered, Moment::of(tell.now));
        tell.window.add(tell.now, self.epoch, event);
    }

    /// Whether it holds one of the places of a half-open breaker.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.stake == Stake::Probe
    }
}
