//! A change of a breaker's state, and the words for it.

use std::fmt;
use std::time::Duration;

/// The state of a breaker, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// All is let through.
    Closed,
    /// Nothing is.
    Open,
    /// A few probes are.
    HalfOpen,
}

impl State {
    /// As logs have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::Closed => "closed",
            State::Open => "open",
            State::HalfOpen => "half_open",
        }
    }
}

/// What a breaker is at: its state with what belongs to it, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// All is let through.
    Closed {
        /// Failures since the last success, over all workers.
        failures: u32,
    },
    /// Nothing is.
    Open {
        /// For so long still.
        left: Duration,
    },
    /// A few probes are.
    HalfOpen {
        /// Those under way.
        probing: u32,
        /// Those that succeeded.
        passed: u32,
    },
}

/// A change of state, made by whoever is handed this.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transition {
    /// From.
    pub from: State,
    /// To.
    pub to: State,
    /// Because of.
    pub reason: Reason,
}

/// Why a breaker changed its state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reason {
    /// So many failures in a row.
    Consecutive {
        /// How many.
        failures: u32,
        /// Then it stays open for.
        open_for: Duration,
    },
    /// A share of failures.
    Ratio {
        /// So many failures …
        failures: u64,
        /// … of so many requests …
        requests: u64,
        /// … within this time.
        window: Duration,
        /// Then it stays open for.
        open_for: Duration,
    },
    /// A share of slow answers.
    Slow {
        /// So many answers …
        slow: u64,
        /// … of so many …
        answers: u64,
        /// … took longer than this …
        above: Duration,
        /// … within this time.
        window: Duration,
        /// Then it stays open for.
        open_for: Duration,
    },
    /// A probe failed.
    ProbeFailed {
        /// Then it stays open for.
        open_for: Duration,
    },
    /// The open time has passed.
    TimeIsOver,
    /// Enough probes succeeded.
    ProbesSucceeded {
        /// So many.
        probes: u32,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Consecutive { failures, open_for } => {
                write!(f, "{failures} failures in a row, open for {open_for:.1?}")
            }
            Reason::Ratio { failures, requests, window, open_for } => {
                write!(f, "{failures} of {requests} requests failed within {window:?}, open for {open_for:.1?}")
            }
            Reason::Slow { slow, answers, above, window, open_for } => write!(
                f,
                "{slow} of {answers} answers took longer than {above:?} within {window:?}, open for {open_for:.1?}"
            ),
            Reason::ProbeFailed { open_for } => write!(f, "a probe failed, open for {open_for:.1?}"),
            Reason::TimeIsOver => write!(f, "its time is over"),
            Reason::ProbesSucceeded { probes } => write!(f, "{probes} probes succeeded"),
        }
    }
}
