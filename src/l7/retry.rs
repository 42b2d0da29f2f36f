//! Whether, and how, a request is tried again after an attempt that did not bring the answer that was hoped for.

use crate::config::{Retry, RetryOn};
use crate::outcome::{Outcome, Repeatable};
use crate::state::Lease;

/// What to do after such an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The same backend on a fresh connection: the idle one was closed, which is nobody's failure and no attempt.
    FreshConnection,
    /// Another backend.
    AnotherBackend(Charge),
    /// Answer the client.
    GiveUp,
}

/// Whether an attempt counts against the pool's retry budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// No: nothing was sent, so no backend has had any work of it.
    Free,
    /// Yes.
    Budget,
}

/// Decides by how the attempt ended, what the request and its route allow and how many attempts are left (semantics.md §6).
#[must_use]
pub fn next(outcome: Outcome, request: Repeatable, rules: &Retry, attempts_left: usize) -> Next {
    if !outcome.may_repeat(request) {
        return Next::GiveUp;
    }
    match outcome {
        Outcome::StaleIdle => Next::FreshConnection,
        _ if attempts_left == 0 || !is_reason(outcome, rules) => Next::GiveUp,
        Outcome::ConnectFailed | Outcome::ConnectTimeout | Outcome::TlsHandshakeFailed => {
            Next::AnotherBackend(Charge::Free)
        }
        Outcome::Withdrawn if !request.sent => Next::AnotherBackend(Charge::Free),
        _ => Next::AnotherBackend(Charge::Budget),
    }
}

/// Whether the route repeats for this.
fn is_reason(outcome: Outcome, rules: &Retry) -> bool {
    let reason = match outcome {
        Outcome::ConnectFailed | Outcome::ConnectTimeout | Outcome::TlsHandshakeFailed => RetryOn::Connect,
        Outcome::BackendClosed => RetryOn::Reset,
        Outcome::ResponseHeaderTimeout | Outcome::BackendWriteTimeout => RetryOn::Timeout,
        Outcome::Completed { status } => RetryOn::Status(status),
        // Nothing has gone wrong with the request: it is saved from where it would.
        Outcome::Withdrawn => return true,
        _ => return false,
    };
    rules.on.contains(&reason)
}

/// Whether the answer is not to come because of the backend alone: it was found to be down, or has hung up on this request as
/// on so many others that its breaker opened or it went down. Then the request leaves without the retry budget, by which all
/// beyond a fifth would be left behind to fail. Each leaves once, and such a backend gets nothing new, so this can not become
/// a load of its own; but what only waits at one whose breaker opened may well be at work still.
#[must_use]
pub fn is_lost(lease: &Lease, outcome: Outcome) -> bool {
    match outcome {
        Outcome::Withdrawn => lease.state().checkup().health().is_down(),
        Outcome::BackendClosed => lease.is_withdrawn(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Repeats;

    const GET: Repeatable = Repeatable { idempotent: true, body_kept: true, sent: true, heard: false };
    const POST: Repeatable = Repeatable { idempotent: false, ..GET };
    const UNSENT_POST: Repeatable = Repeatable { sent: false, ..POST };
    const LARGE: Repeatable = Repeatable { body_kept: false, ..GET };
    const HEARD: Repeatable = Repeatable { heard: true, ..GET };
    const CHARGED: Next = Next::AnotherBackend(Charge::Budget);
    const FREE: Next = Next::AnotherBackend(Charge::Free);

    fn rules(on: &[RetryOn]) -> Retry {
        Retry { attempts: 2, on: on.to_vec(), repeats: Repeats::Idempotent }
    }

    #[test]
    fn the_defaults_repeat_what_was_not_sent_and_what_can_be_repeated() {
        let unsent = |request| Repeatable { sent: false, ..request };
        for (outcome, request, expected) in [
            (Outcome::ConnectFailed, unsent(GET), FREE),
            (Outcome::TlsHandshakeFailed, UNSENT_POST, FREE),
            (Outcome::ConnectFailed, UNSENT_POST, FREE),
            (Outcome::ConnectTimeout, UNSENT_POST, FREE),
            (Outcome::ConnectFailed, unsent(LARGE), Next::GiveUp),
            (Outcome::BackendClosed, GET, CHARGED),
            (Outcome::BackendClosed, POST, Next::GiveUp),
            (Outcome::BackendClosed, UNSENT_POST, CHARGED),
            (Outcome::BackendClosed, LARGE, Next::GiveUp),
            (Outcome::BackendClosed, HEARD, Next::GiveUp),
            (Outcome::Withdrawn, GET, CHARGED),
            (Outcome::Withdrawn, unsent(GET), FREE),
            (Outcome::Withdrawn, UNSENT_POST, FREE),
            (Outcome::Withdrawn, POST, Next::GiveUp),
            (Outcome::Withdrawn, HEARD, Next::GiveUp),
            (Outcome::ResponseHeaderTimeout, GET, Next::GiveUp),
            (Outcome::BackendWriteTimeout, GET, Next::GiveUp),
            (Outcome::Completed { status: 503 }, GET, Next::GiveUp),
            (Outcome::MalformedResponse, GET, Next::GiveUp),
            (Outcome::ClientGone, GET, Next::GiveUp),
            (Outcome::ClientTimeout, GET, Next::GiveUp),
            (Outcome::Cut, GET, Next::GiveUp),
        ] {
            assert_eq!(next(outcome, request, &Retry::default(), 1), expected, "{outcome:?} of {request:?}");
        }
    }

    #[test]
    fn what_the_route_lists_is_repeated_and_nothing_else() {
        let status = |status| Outcome::Completed { status };
        for (on, outcome, expected) in [
            (RetryOn::Timeout, Outcome::ResponseHeaderTimeout, CHARGED),
            (RetryOn::Timeout, Outcome::BackendWriteTimeout, CHARGED),
            (RetryOn::Timeout, Outcome::ConnectTimeout, Next::GiveUp),
            (RetryOn::Status(503), status(503), CHARGED),
            (RetryOn::Status(503), status(502), Next::GiveUp),
            (RetryOn::Status(503), status(200), Next::GiveUp),
            (RetryOn::Status(503), Outcome::ConnectFailed, Next::GiveUp),
            (RetryOn::Reset, Outcome::BackendClosed, CHARGED),
            (RetryOn::Connect, Outcome::BackendClosed, Next::GiveUp),
            (RetryOn::Connect, Outcome::ConnectTimeout, FREE),
        ] {
            assert_eq!(next(outcome, GET, &rules(&[on]), 1), expected, "{outcome:?} on {on:?}");
        }
        assert_eq!(next(status(503), POST, &rules(&[RetryOn::Status(503)]), 1), Next::GiveUp);
        assert_eq!(next(Outcome::ConnectFailed, UNSENT_POST, &rules(&[]), 1), Next::GiveUp);
    }

    #[test]
    fn a_stale_idle_connection_costs_no_attempt_but_only_for_what_may_be_repeated() {
        assert_eq!(next(Outcome::StaleIdle, GET, &rules(&[]), 0), Next::FreshConnection);
        assert_eq!(next(Outcome::StaleIdle, UNSENT_POST, &rules(&[]), 0), Next::FreshConnection);
        for request in [POST, LARGE, HEARD] {
            assert_eq!(next(Outcome::StaleIdle, request, &rules(&[]), 1), Next::GiveUp, "{request:?}");
        }
    }

    #[test]
    fn the_attempts_are_bounded() {
        let on = [RetryOn::Connect, RetryOn::Reset, RetryOn::Timeout, RetryOn::Status(503)];
        for outcome in [Outcome::ConnectFailed, Outcome::BackendClosed, Outcome::Completed { status: 503 }] {
            assert_eq!(next(outcome, GET, &rules(&on), 0), Next::GiveUp, "{outcome:?}");
        }
        assert_eq!(next(Outcome::Withdrawn, GET, &rules(&on), 0), Next::GiveUp);
    }
}
