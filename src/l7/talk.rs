//! The head's part of an attempt: the request goes up, interim responses come down, until the final head is there.

use std::task::{Context, Poll};
use std::time::Duration;

use super::body::{Pump, PumpFault, Repeating, Sink, SourceFault, Waits};
use super::exchange::Way;
use super::h1::Connection;
use super::wire::{Wire, WireSource};
use crate::clock::{self, Instant};
use crate::config::{Repeats, Timeouts};
use crate::deadline::Deadline;
use crate::http::h1::parse::{self, HeadLimits, Parsed};
use crate::http::h1::write;
use crate::http::{Framing, Version};
use crate::local::{Desk, Phase};
use crate::outcome::{Outcome, Repeatable};
use crate::state::Lease;

/// How many interim responses a backend may send before its final one (security.md checklist 7).
const MOST_INTERIM: u32 = 10;

/// The head's part of an attempt: the request goes up, interim responses come down, until the final head is there.
pub(super) struct Talk<'a> {
    connection: &'a mut Connection,
    upstream: &'a mut Wire,
    desk: &'a mut Desk,
    lease: &'a mut Lease,
    timeouts: &'a Timeouts,
    /// The connection was idle before.
    reused: bool,
    /// The request's body on its way.
    sending: &'a mut Pump,
    wait: Wait,
    /// Since when it has been as it is.
    since: Instant,
    /// How long the whole request may take.
    whole: Option<Duration>,
    /// How much of the response's head was there when it was last looked at.
    seen: usize,
    /// How many interim responses have come, and how many bytes they had.
    interim: u32,
    interim_bytes: usize,
    /// One of them was the 100 that lets the client send its body.
    continued: bool,
    /// Any byte of a response has come.
    begun: bool,
}

/// What is to be done about the deadline when there is nothing to do but to wait.
#[derive(Clone, Copy)]
enum Wait {
    /// A new wait begins now.
    Anew,
    /// A new wait has begun then.
    Since(Instant),
    /// It goes on.
    On,
}

impl<'a> Talk<'a> {
    pub(super) fn new(
        way: &'a Way<'_>,
        connection: &'a mut Connection,
        upstream: &'a mut Wire,
        desk: &'a mut Desk,
        lease: &'a mut Lease,
        sending: &'a mut Pump,
        reused: bool,
    ) -> Talk<'a> {
        let (timeouts, whole) = (&way.view.pool(way.pool).timeouts, way.route.request_timeout);
        let (wait, since) = (Wait::Anew, lease.sent_at());
        Talk {
            connection,
            upstream,
            desk,
            lease,
            timeouts,
            reused,
            sending,
            wait,
            since,
            whole,
            seen: 0,
            interim: 0,
            interim_bytes: 0,
            continued: false,
            begun: false,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Outcome>> {
        self.connection.session.watch(cx);
        self.poll_request(cx)?;
        if let Poll::Ready(got) = self.poll_response(cx) {
            return Poll::Ready(got);
        }
        self.poll_client(cx)?;
        if self.connection.session.local().phase() == Phase::Cut || self.lease.is_cut() {
            return Poll::Ready(Err(Outcome::Cut));
        }
        self.poll_deadline(cx)
    }

    /// What speaks for and against sending the request once more, now.
    pub(super) fn repeatable(&self, repeats: Repeats) -> Repeatable {
        Repeatable {
            idempotent: repeats == Repeats::All || self.desk.request.method.is_idempotent(),
            body_kept: self.desk.kept.is_whole(),
            sent: self.upstream.outbound.written() > 0,
            heard: self.interim > 0,
        }
    }

    /// The use of the backend that it is about.
    pub(super) fn lease(&self) -> &Lease {
        self.lease
    }

    /// Moves the request up.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Result<(), Outcome> {
        if !self.sending.is_running() {
            return Ok(());
        }
        let Connection { wire, session, .. } = &mut *self.connection;
        let buffers = &session.local().buffers;
        let (mut from_client, _) = wire.split(buffers);
        let (_, mut to_backend) = self.upstream.split(buffers);
        let mut from_client = Repeating { kept: &mut self.desk.kept, source: &mut from_client };
        match self.sending.poll(cx, &mut from_client, &mut to_backend) {
            Poll::Ready(Ok(())) => self.is_sent(),
            // It may have answered before it stopped listening: wait for that answer.
            Poll::Ready(Err(PumpFault::Sink)) => {
                self.sending.abandon();
                self.is_sent();
            }
            Poll::Ready(Err(PumpFault::Source(fault))) => return Err(client_fault(fault)),
            Poll::Pending if self.sending.has_moved(&to_backend) => self.wait = Wait::Anew,
            Poll::Pending => {}
        }
        Ok(())
    }

    fn is_sent(&mut self) {
        let now = clock::now();
        self.lease.sent(now);
        self.wait = Wait::Since(now);
    }

    /// Passes on what waits for the client; once the request is sent, looks whether the client is still there.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Result<(), Outcome> {
        let Connection { wire, session, .. } = &mut *self.connection;
        let (mut from_client, mut to_client) = wire.split(&session.local().buffers);
        if !self.sending.is_running() {
            watch_client(&mut from_client, cx)?;
        }
        match to_client.poll_flush(cx) {
            Poll::Ready(Err(_)) => Err(Outcome::ClientGone),
            _ => Ok(()),
        }
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Outcome>> {
        let (wait, late) = self.patience();
        let deadline = &mut self.connection.deadline;
        match std::mem::replace(&mut self.wait, Wait::On) {
            Wait::Anew => {
                let now = clock::now();
                let slow = self.sending.pace.turn(now, self.sending.taken, late == Outcome::ClientTimeout);
                deadline.set(slow.map_or(now + wait, |slow| slow.min(now + wait)));
                self.since = now;
            }
            Wait::Since(then) => {
                deadline.set(then + wait);
                self.since = then;
            }
            Wait::On => {}
        }
        deadline.poll(cx).map(|()| Err(overdue(deadline, self.whole, self.since, late)))
    }

    /// How long what is waited for now may take, and what it means when it takes longer.
    fn patience(&self) -> (Duration, Outcome) {
        // A client that asked for a 100 rightly sends nothing before it has heard it, whatever else it hears before.
        let held_back = self.desk.request.expects_continue && !self.continued && self.sending.taken == 0;
        match (self.sending.is_running(), self.sending.waits) {
            (true, Waits::ForSource) if held_back => (self.timeouts.response_header, Outcome::ContinueTimeout),
            (true, Waits::ForSource) => (self.connection.terms.body, Outcome::ClientTimeout),
            (true, Waits::ForSink) => (self.timeouts.response_body, Outcome::BackendWriteTimeout),
            _ => (self.timeouts.response_header, Outcome::ResponseHeaderTimeout),
        }
    }

    /// Reads heads until the final one; interim ones are passed on.
    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Outcome>> {
        loop {
            let (mut from_backend, _) = self.upstream.split(&self.connection.session.local().buffers);
            let limits = HeadLimits::default();
            let method = self.desk.request.method;
            match parse::response(from_backend.bytes(), self.seen, &limits, method, &mut self.desk.response) {
                Ok(Parsed::Complete(length)) => {
                    from_backend.begin(length, Framing::None);
                    self.seen = 0;
                    if !self.desk.response.is_interim() {
                        return Poll::Ready(self.accept());
                    }
                    self.pass_on_interim(length)?;
                    continue;
                }
                Ok(Parsed::Partial) => self.seen = from_backend.bytes().len(),
                Err(refusal) => {
                    tracing::debug!(backend = %self.lease.backend().name, why = refusal.why(), "response refused");
                    return Poll::Ready(Err(Outcome::MalformedResponse));
                }
            }
            from_backend.make_room(2 * limits.head_bytes);
            match from_backend.poll_fill(cx) {
                Poll::Ready(Ok(true)) => self.begun = true,
                Poll::Ready(_) => return Poll::Ready(Err(self.closed())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// The backend closed before its head was complete.
    fn closed(&self) -> Outcome {
        if self.reused && !self.begun { Outcome::StaleIdle } else { Outcome::BackendClosed }
    }

    /// A switch of protocols is only for those who asked for it (security.md R2).
    fn accept(&self) -> Result<(), Outcome> {
        let switched = self.desk.response.status == 101;
        let asked = self.desk.request.connection.websocket && self.desk.response.connection.websocket;
        if switched && !(asked && self.sending.is_done()) { Err(Outcome::MalformedResponse) } else { Ok(()) }
    }

    /// Puts an interim response of so many bytes down for the client; it leaves when there is nothing more to read from the
    /// backend. Until then, and for as long as the client takes none, all are held: together they may be as large as one head.
    fn pass_on_interim(&mut self, length: usize) -> Result<(), Outcome> {
        self.interim += 1;
        self.interim_bytes += length;
        if self.interim > MOST_INTERIM || self.interim_bytes > HeadLimits::default().head_bytes {
            return Err(Outcome::MalformedResponse);
        }
        if self.desk.response.status == 100 && !self.continued {
            self.continued = true;
            // From here on it is the client that is waited for.
            if self.sending.is_running() {
                self.wait = Wait::Anew;
            }
        }
        if self.desk.request.version == Version::Http11 {
            write::interim(&mut self.connection.wire.outbound.pending, &self.desk.response);
        }
        Ok(())
    }
}

/// What it means that a wait is over which has lasted since `since`: what it means by itself, `late`, or that the time of
/// the `whole` request is over.
pub(super) fn overdue(deadline: &Deadline, whole: Option<Duration>, since: Instant, late: Outcome) -> Outcome {
    let now = clock::now();
    match whole {
        Some(whole) if deadline.is_over_limit(now) => late.of_whole_request(now.since(since), whole),
        _ => late,
    }
}

/// Reads ahead on the client's side: what comes is the next request, an orderly end is fine, a reset ends the exchange.
pub(super) fn watch_client(from_client: &mut WireSource<'_>, cx: &mut Context<'_>) -> Result<(), Outcome> {
    from_client.poll_ahead(cx).map_err(|_| Outcome::ClientGone)
}

fn client_fault(fault: SourceFault) -> Outcome {
    match fault {
        SourceFault::Cut => Outcome::ClientGone,
        SourceFault::Malformed => Outcome::MalformedRequest,
        SourceFault::TooLarge => Outcome::TrailersTooLarge,
    }
}
