//! Whether, and how, a request is tried again after an attempt that brought no response.

use crate::outcome::{Outcome, Repeatable};

/// What to do after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The same backend on a fresh connection: the idle one was closed, which is nobody's failure and no attempt.
    FreshConnection,
    /// Another backend.
    AnotherBackend,
    /// Answer the client.
    GiveUp,
}

/// Decides by how the attempt ended, what the request allows and how many attempts are left (semantics.md §6).
#[must_use]
pub fn next(outcome: Outcome, request: Repeatable, attempts_left: usize) -> Next {
    if !outcome.may_repeat(request) {
        return Next::GiveUp;
    }
    match outcome {
        Outcome::StaleIdle => Next::FreshConnection,
        _ if attempts_left > 0 => Next::AnotherBackend,
        _ => Next::GiveUp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Repeatable = Repeatable { idempotent: true, body_untouched: true };
    const POST: Repeatable = Repeatable { idempotent: false, body_untouched: true };
    const HALF_SENT: Repeatable = Repeatable { idempotent: true, body_untouched: false };

    #[test]
    fn a_refused_connect_goes_to_another_backend_whatever_the_method() {
        assert_eq!(next(Outcome::ConnectFailed, GET, 1), Next::AnotherBackend);
        assert_eq!(next(Outcome::ConnectFailed, POST, 1), Next::AnotherBackend);
        assert_eq!(next(Outcome::ConnectFailed, GET, 0), Next::GiveUp);
    }

    #[test]
    fn a_stale_idle_connection_costs_no_attempt_but_only_for_what_may_be_repeated() {
        assert_eq!(next(Outcome::StaleIdle, GET, 0), Next::FreshConnection);
        assert_eq!(next(Outcome::StaleIdle, POST, 1), Next::GiveUp);
        assert_eq!(next(Outcome::StaleIdle, HALF_SENT, 1), Next::GiveUp);
    }

    #[test]
    fn nothing_is_repeated_once_a_backend_may_have_acted() {
        for outcome in [Outcome::BackendClosed, Outcome::ResponseHeaderTimeout, Outcome::MalformedResponse] {
            assert_eq!(next(outcome, GET, 1), Next::GiveUp, "{outcome:?}");
        }
    }
}
