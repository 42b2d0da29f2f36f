//! How an attempt on a backend, or a whole request or session, ended.
//!
//! One table answers every question about an ending: whose fault it is, in which phase it came, whether it counts
//! against the backend, whether another attempt may be made, and which status the client sees. Nothing here does
//! anything about it.

use std::time::Duration;

/// How it ended. Each variant is a termination cause; [`Outcome::code`] is its stable name in logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The backend answered in full with this status, or the TCP session ended cleanly (status 0).
    Completed {
        /// The response's status, 0 for a session without one.
        status: u16,
    },
    /// The backend refused the connection, or no route to it: nothing was sent.
    ConnectFailed,
    /// The connection was not made in `connect` time: nothing was sent.
    ConnectTimeout,
    /// The backend was connected, and TLS could not be agreed upon, or it is not who it should be: nothing was sent.
    TlsHandshakeFailed,
    /// We had no descriptor, local port or memory left to make the connection with: nothing was sent.
    NoSocket,
    /// The backend can not do what was asked for: its HTTP/2 knows no WebSockets.
    NotOffered,
    /// A connection from the idle pool turned out closed before any byte of the response.
    StaleIdle,
    /// A fresh connection was closed or reset before any byte of the response, or reset before any byte of the session.
    BackendClosed,
    /// No response head in `response_header` time.
    ResponseHeaderTimeout,
    /// The client held its body back for a 100 that did not come in `response_header` time. The backend may wait for the body
    /// as the client waits for the 100, and any client can bring that about: it is nobody's failure.
    ContinueTimeout,
    /// The backend was found to be down, or its breaker opened, while the request waited for its response head and could be
    /// tried elsewhere; or its time to drain was over.
    Withdrawn,
    /// The response broke the rules of its protocol.
    MalformedResponse,
    /// The backend closed or reset in the middle of the response body.
    BackendCut,
    /// The backend reset a session of raw bytes in which it had sent something. Many protocols end so.
    SessionCut,
    /// The backend sent no further body for `response_body` time.
    ResponseBodyTimeout,
    /// The backend took no more of the request body for `response_body` time.
    BackendWriteTimeout,
    /// The client closed or reset before it had its answer.
    ClientGone,
    /// The client sent no further request body for `client_body` time, or less than `client_min_rate`, or had not sent all
    /// of it when the time of its whole request was over.
    ClientTimeout,
    /// The client's request body broke the rules of its protocol.
    MalformedRequest,
    /// The client's trailer fields were more, or larger, than its listener allows.
    TrailersTooLarge,
    /// The client took no more of the response for `client_write` time, or less than `client_min_rate`, or had not taken all
    /// of it when the time of its whole request was over.
    ClientWriteTimeout,
    /// The whole request took longer than `request`, and most of that time it was this backend alone that was waited for.
    RequestTimeout,
    /// The whole request took longer than `request`, and most of that time had been spent elsewhere: in the queue, with other
    /// backends, with a client that sends or takes slowly. What was left is no measure of this backend.
    RequestLate,
    /// A tunnel or TCP session was idle for `tunnel_idle`.
    TunnelIdle,
    /// We ended it: the backend's drain deadline passed, or the process stops.
    Cut,
}

/// Whose doing an ending was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    /// The client.
    Client,
    /// Evenkeel itself.
    Proxy,
    /// The backend.
    Backend,
}

/// In which phase of an exchange it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Making the connection.
    Connect,
    /// Up to the response's head.
    Headers,
    /// In the bodies.
    Body,
    /// In a session of raw bytes.
    Tunnel,
    /// After everything was said.
    Done,
}

/// What a response head (L4: an established connection) says about its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The backend works; its latency sample is as good as any.
    Good,
    /// The backend answered, but with a failure: it must not look fast.
    Failed,
}

impl Verdict {
    /// The verdict of a status: 5xx is a failure except 501 and 505, which tell of the request (semantics.md §5).
    #[must_use]
    pub fn of_status(status: u16) -> Verdict {
        match status {
            501 | 505 => Verdict::Good,
            500..=599 => Verdict::Failed,
            _ => Verdict::Good,
        }
    }
}

/// How long who makes a call of gRPC waits for its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// As long as it takes.
    Patient,
    /// Until its own deadline.
    Hurried,
}

/// The HTTP status that says the same as this status of a call of gRPC, by which it is judged, counted and tried again.
///
/// The table is that of `google.rpc.Code`
/// (<https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto>), which Envoy's outlier detection goes by as
/// well: UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE and DATA_LOSS become failures, as they are for linkerd, while
/// NOT_FOUND, RESOURCE_EXHAUSTED and UNIMPLEMENTED do not. Apart from one thing: the end of a time that the client has set
/// itself is the client's, or whoever calls with a deadline of a nanosecond would open the breakers of backends that are well.
#[must_use]
pub fn status_of_grpc(code: u32, caller: Caller) -> u16 {
    match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 if caller == Caller::Hurried => 408,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        // UNKNOWN, INTERNAL, DATA_LOSS, and what does not exist.
        _ => 500,
    }
}

/// What is known of a request when the question is whether it may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeatable {
    /// Its method is idempotent (RFC 9110 §9.2.2), or who wrote the route says that it does no harm.
    pub idempotent: bool,
    /// No byte of its body has been taken from the client, or all that were are kept.
    pub body_kept: bool,
    /// Some of it was sent to the backend.
    pub sent: bool,
    /// The client has heard something of the response already.
    pub heard: bool,
}

impl Outcome {
    /// Whose doing it was; a completed one is nobody's fault and is booked to the backend.
    #[must_use]
    pub fn party(self) -> Party {
        use Outcome::*;
        match self {
            Completed { .. }
            | ConnectFailed
            | ConnectTimeout
            | TlsHandshakeFailed
            | BackendClosed
            | ResponseHeaderTimeout
            | MalformedResponse
            | BackendCut
            | SessionCut
            | ResponseBodyTimeout
            | BackendWriteTimeout
            | RequestTimeout => Party::Backend,
            ClientGone | ClientTimeout | MalformedRequest | TrailersTooLarge | ClientWriteTimeout => Party::Client,
            NoSocket | NotOffered | StaleIdle | ContinueTimeout | Withdrawn | RequestLate | TunnelIdle | Cut => {
                Party::Proxy
            }
        }
    }

    /// The phase it belongs to.
    #[must_use]
    pub fn phase(self) -> Phase {
        use Outcome::*;
        match self {
            ConnectFailed | ConnectTimeout | TlsHandshakeFailed | NoSocket | NotOffered => Phase::Connect,
            StaleIdle | BackendClosed | ResponseHeaderTimeout | ContinueTimeout | Withdrawn | MalformedResponse => {
                Phase::Headers
            }
            BackendCut | ResponseBodyTimeout | BackendWriteTimeout | RequestTimeout | RequestLate | ClientGone
            | ClientTimeout | MalformedRequest | TrailersTooLarge | ClientWriteTimeout => Phase::Body,
            SessionCut | TunnelIdle | Cut => Phase::Tunnel,
            Completed { .. } => Phase::Done,
        }
    }

    /// What it is when the time of a whole request, `whole`, is over in a wait that would end in this if it lasted, and has
    /// lasted for `waited`.
    ///
    /// A wait for the client is the client's. One for the backend counts against it only when it makes up half of the time
    /// at least: whoever is short of time because of a queue, of other backends or of a slow client would open breakers of
    /// backends that are well.
    #[must_use]
    pub fn of_whole_request(self, waited: Duration, whole: Duration) -> Outcome {
        match self {
            _ if self.party() != Party::Backend => self,
            _ if waited >= whole / 2 => Outcome::RequestTimeout,
            _ => Outcome::RequestLate,
        }
    }

    /// Whether it counts against the backend: connect errors, time-outs, resets and failing statuses do; what the client
    /// or we did never does, nor does a stale idle connection (semantics.md §5 and §6), nor the end of a session that was
    /// under way.
    #[must_use]
    pub fn is_failure(self) -> bool {
        match self {
            Outcome::Completed { status } => Verdict::of_status(status) == Verdict::Failed,
            Outcome::SessionCut => false,
            other => other.party() == Party::Backend,
        }
    }

    /// Whether the request may be tried again, given how this attempt ended: with a status, or before any.
    ///
    /// Where nothing was sent anything may; else only a request that can be repeated, because the backend may have acted on
    /// it (RFC 9110 §9.2.2, RFC 9112 §9.3.1). Whether it should be is for the route to say.
    #[must_use]
    pub fn may_repeat(self, request: Repeatable) -> bool {
        use Outcome::*;
        let unanswered = match self {
            ConnectFailed
            | ConnectTimeout
            | TlsHandshakeFailed
            | NoSocket
            | StaleIdle
            | BackendClosed
            | ResponseHeaderTimeout
            | BackendWriteTimeout
            | Withdrawn
            | Completed { .. } => !request.heard,
            NotOffered | ContinueTimeout | MalformedResponse | BackendCut | ResponseBodyTimeout | RequestTimeout
            | RequestLate | ClientGone | ClientTimeout | MalformedRequest | TrailersTooLarge | ClientWriteTimeout
            | SessionCut | TunnelIdle | Cut => false,
        };
        unanswered && request.body_kept && (request.idempotent || !request.sent)
    }

    /// The status of our own answer when this ended the last attempt before a response head, `None` where the client gets
    /// no answer because it is gone or already has a part of one.
    #[must_use]
    pub fn own_status(self) -> Option<u16> {
        use Outcome::*;
        match self {
            ConnectFailed | TlsHandshakeFailed | StaleIdle | BackendClosed | MalformedResponse | BackendCut => {
                Some(502)
            }
            ConnectTimeout
            | ResponseHeaderTimeout
            | ContinueTimeout
            | ResponseBodyTimeout
            | BackendWriteTimeout
            | RequestTimeout
            | RequestLate => Some(504),
            ClientTimeout => Some(408),
            MalformedRequest => Some(400),
            TrailersTooLarge => Some(431),
            NotOffered => Some(501),
            NoSocket | Withdrawn | Cut => Some(503),
            Completed { .. } | SessionCut | ClientGone | ClientWriteTimeout | TunnelIdle => None,
        }
    }

    /// The stable name of the cause, for logs and metrics.
    #[must_use]
    pub fn code(self) -> &'static str {
        use Outcome::*;
        match self {
            Completed { .. } => "completed",
            ConnectFailed => "connect_failed",
            ConnectTimeout => "connect_timeout",
            TlsHandshakeFailed => "tls_handshake",
            NoSocket => "no_socket",
            NotOffered => "not_offered",
            StaleIdle => "stale_idle",
            BackendClosed => "backend_closed",
            ResponseHeaderTimeout => "response_header_timeout",
            ContinueTimeout => "continue_timeout",
            Withdrawn => "withdrawn",
            MalformedResponse => "malformed_response",
            BackendCut => "backend_cut",
            SessionCut => "session_cut",
            ResponseBodyTimeout => "response_body_timeout",
            BackendWriteTimeout => "backend_write_timeout",
            RequestTimeout => "request_timeout",
            RequestLate => "request_late",
            ClientGone => "client_gone",
            ClientTimeout => "client_timeout",
            MalformedRequest => "malformed_request",
            TrailersTooLarge => "trailers_too_large",
            ClientWriteTimeout => "client_write_timeout",
            TunnelIdle => "tunnel_idle",
            Cut => "cut",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_backends_own_endings_count_against_it() {
        assert!(Outcome::Completed { status: 500 }.is_failure());
        assert!(Outcome::ConnectFailed.is_failure() && Outcome::TlsHandshakeFailed.is_failure());
        for fine in [
            Outcome::Completed { status: 404 },
            Outcome::Completed { status: 501 },
            Outcome::Completed { status: 505 },
            Outcome::ClientGone,
            Outcome::TrailersTooLarge,
            Outcome::ContinueTimeout,
            Outcome::RequestLate,
            Outcome::StaleIdle,
            Outcome::NoSocket,
            Outcome::SessionCut,
            Outcome::Withdrawn,
            Outcome::Cut,
        ] {
            assert!(!fine.is_failure(), "{fine:?}");
        }
    }

    #[test]
    fn of_grpc_what_would_be_5xx_counts_but_unimplemented_and_a_deadline_of_the_clients() {
        let fails = |code| Verdict::of_status(status_of_grpc(code, Caller::Patient)) == Verdict::Failed;
        let failures: Vec<u32> = (0..20).filter(|code| fails(*code)).collect();
        assert_eq!(failures, [2, 4, 13, 14, 15, 17, 18, 19]);
        assert_eq!(Verdict::of_status(status_of_grpc(4, Caller::Hurried)), Verdict::Good);
        assert_eq!(status_of_grpc(14, Caller::Hurried), 503);
    }

    #[test]
    fn a_post_is_repeated_only_where_nothing_was_sent() {
        let post = Repeatable { idempotent: false, body_kept: true, sent: true, heard: false };
        let unsent = Repeatable { sent: false, ..post };
        let get = Repeatable { idempotent: true, ..post };
        for outcome in [Outcome::StaleIdle, Outcome::BackendClosed, Outcome::Withdrawn] {
            assert!(!outcome.may_repeat(post), "{outcome:?}");
            assert!(outcome.may_repeat(unsent) && outcome.may_repeat(get), "{outcome:?}");
            assert!(!outcome.may_repeat(Repeatable { body_kept: false, ..unsent }), "{outcome:?}");
        }
        for outcome in [Outcome::ConnectFailed, Outcome::TlsHandshakeFailed, Outcome::NoSocket] {
            assert!(outcome.may_repeat(unsent), "{outcome:?}");
        }
    }

    #[test]
    fn the_end_of_a_whole_requests_time_counts_against_a_backend_that_had_most_of_it() {
        let whole = Duration::from_secs(4);
        let at = |outcome: Outcome, waited| outcome.of_whole_request(Duration::from_secs(waited), whole);
        for waiting in [Outcome::ConnectTimeout, Outcome::ResponseHeaderTimeout, Outcome::ResponseBodyTimeout] {
            assert_eq!(at(waiting, 2), Outcome::RequestTimeout);
            assert_eq!(at(waiting, 1), Outcome::RequestLate);
        }
        assert!(Outcome::RequestTimeout.is_failure() && Outcome::RequestTimeout.own_status() == Some(504));
        for clients in [Outcome::ClientTimeout, Outcome::ClientWriteTimeout, Outcome::ContinueTimeout] {
            assert_eq!(at(clients, 4), clients, "who waits for the client, or held back by it, blames nobody");
        }
        let get = Repeatable { idempotent: true, body_kept: true, sent: false, heard: false };
        assert!(!Outcome::RequestTimeout.may_repeat(get) && !Outcome::RequestLate.may_repeat(get));
    }

    #[test]
    fn nothing_is_repeated_of_which_the_client_has_heard() {
        let heard = Repeatable { idempotent: true, body_kept: true, sent: false, heard: true };
        for outcome in [Outcome::BackendClosed, Outcome::ResponseHeaderTimeout, Outcome::Completed { status: 503 }] {
            assert!(!outcome.may_repeat(heard), "{outcome:?}");
        }
    }
}
