//! The head's part of an attempt: the request goes up, interim responses come down, until the final head is there.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::backend::{HeadFault, Upstream};
use super::body::{Pump, PumpFault, Repeating, Sink, SourceFault, Waits};
use super::client::{Client, Front, Gone};
use super::exchange::Way;
use super::grpc::Whole;
use crate::clock::{self, Instant};
use crate::config::{Repeats, Timeouts};
use crate::deadline::Deadline;
use crate::http::Version;
use crate::http::h1::parse::HeadLimits;
use crate::local::{Desk, Phase};
use crate::outcome::{Outcome, Repeatable};
use crate::pipe::Buffers;
use crate::state::Lease;

/// How many interim responses a backend may send before its final one (security.md checklist 7).
const MOST_INTERIM: u32 = 10;

/// The head's part of an attempt: the request goes up, interim responses come down, until the final head is there.
pub(super) struct Talk<'a, F> {
    client: &'a mut Client<F>,
    upstream: &'a mut Upstream,
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
    whole: Option<Whole>,
    /// How many interim responses have come, and how many bytes they had.
    interim: u32,
    interim_bytes: usize,
    /// One of them was the 100 that lets the client send its body.
    continued: bool,
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

impl<'a, F: Front> Talk<'a, F> {
    pub(super) fn new(
        way: &'a Way<'_>,
        client: &'a mut Client<F>,
        upstream: &'a mut Upstream,
        desk: &'a mut Desk,
        lease: &'a mut Lease,
        sending: &'a mut Pump,
        reused: bool,
    ) -> Talk<'a, F> {
        let (timeouts, whole) = (&way.view.pool(way.pool).timeouts, way.whole);
        let (wait, since) = (Wait::Anew, lease.sent_at());
        Talk {
            client,
            upstream,
            desk,
            lease,
            timeouts,
            reused,
            sending,
            wait,
            since,
            whole,
            interim: 0,
            interim_bytes: 0,
            continued: false,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Outcome>> {
        self.client.session.watch(cx);
        self.poll_request(cx)?;
        if let Poll::Ready(got) = self.poll_response(cx) {
            return Poll::Ready(got);
        }
        self.poll_client(cx)?;
        if self.client.session.local().phase() == Phase::Cut || self.lease.is_cut() {
            return Poll::Ready(Err(Outcome::Cut));
        }
        self.poll_deadline(cx)
    }

    /// What speaks for and against sending the request once more, now.
    pub(super) fn repeatable(&self, repeats: Repeats) -> Repeatable {
        Repeatable {
            idempotent: repeats == Repeats::All || self.desk.request.method.is_idempotent(),
            body_kept: self.desk.kept.is_whole(),
            sent: self.upstream.has_sent(),
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
        let (sent, moved) = self.poll_sending(cx);
        match sent {
            Poll::Ready(Ok(())) => self.is_sent(),
            // It may have answered before it stopped listening: wait for that answer.
            Poll::Ready(Err(PumpFault::Sink)) => {
                self.sending.abandon();
                self.is_sent();
            }
            Poll::Ready(Err(PumpFault::Source(fault))) => return Err(client_fault(fault)),
            Poll::Pending if moved => self.wait = Wait::Anew,
            Poll::Pending => {}
        }
        Ok(())
    }

    /// Moves what there is of the request; says also whether anything moved, if that is not all.
    fn poll_sending(&mut self, cx: &mut Context<'_>) -> (Poll<Result<(), PumpFault>>, bool) {
        let buffers = &self.client.session.local().buffers;
        let (mut from_client, _) = self.client.wire.split(buffers);
        let (_, mut to_backend) = self.upstream.split(buffers);
        let mut from_client = Repeating { kept: &mut self.desk.kept, source: &mut from_client };
        let sent = self.sending.poll(cx, &mut from_client, &mut to_backend);
        let moved = sent.is_pending() && self.sending.has_moved(&to_backend);
        (sent, moved)
    }

    fn is_sent(&mut self) {
        let now = clock::now();
        self.lease.sent(now);
        self.wait = Wait::Since(now);
    }

    /// Passes on what waits for the client; once the request is sent, looks whether the client is still there.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Result<(), Outcome> {
        let Client { wire, session, .. } = &mut *self.client;
        let buffers = &session.local().buffers;
        if !self.sending.is_running() {
            watch_client(wire, buffers, cx)?;
        }
        match wire.split(buffers).1.poll_flush(cx) {
            Poll::Ready(Err(_)) => Err(Outcome::ClientGone),
            _ => Ok(()),
        }
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Outcome>> {
        let (wait, late) = self.patience();
        let deadline = &mut self.client.deadline;
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
            (true, Waits::ForSource) => (self.client.terms.body, Outcome::ClientTimeout),
            (true, Waits::ForSink) => (self.timeouts.response_body, Outcome::BackendWriteTimeout),
            _ => (self.timeouts.response_header, Outcome::ResponseHeaderTimeout),
        }
    }

    /// Reads heads until the final one; interim ones are passed on.
    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Outcome>> {
        loop {
            let buffers = &self.client.session.local().buffers;
            let method = self.desk.request.method;
            match ready!(self.upstream.poll_head(cx, buffers, method, &mut self.desk.response)) {
                Ok(_) if !self.desk.response.is_interim() => return Poll::Ready(self.accept()),
                Ok(length) => self.pass_on_interim(length)?,
                Err(HeadFault::Refused(refusal)) => {
                    tracing::debug!(backend = %self.lease.backend().name, why = refusal.why(), "response refused");
                    return Poll::Ready(Err(Outcome::MalformedResponse));
                }
                // It is the client that asked so, and no backend can be blamed.
                Err(HeadFault::Unsaid(refusal)) => {
                    tracing::debug!(why = refusal.why(), "the request can not be sent");
                    return Poll::Ready(Err(Outcome::MalformedRequest));
                }
                Err(HeadFault::Closed { heard: false }) if self.reused => return Poll::Ready(Err(Outcome::StaleIdle)),
                Err(HeadFault::Closed { .. }) => return Poll::Ready(Err(Outcome::BackendClosed)),
            }
        }
    }

    /// A switch of protocols is only for those who asked for it (security.md R2).
    fn accept(&mut self) -> Result<(), Outcome> {
        let (request, response) = (&self.desk.request, &mut self.desk.response);
        let agreed = self.upstream.agrees(request, response);
        let switched = response.status == 101;
        let asked = request.connection.websocket && response.connection.websocket && agreed;
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
        if self.desk.request.version != Version::Http10 {
            self.client.wire.interim(&self.desk.response);
        }
        Ok(())
    }
}

/// What it means that a wait is over which has lasted since `since`: what it means by itself, `late`, or that the time of
/// the `whole` request is over.
pub(super) fn overdue(deadline: &Deadline, whole: Option<Whole>, since: Instant, late: Outcome) -> Outcome {
    let now = clock::now();
    let Some(whole) = whole.filter(|_| deadline.is_over_limit(now)) else { return late };
    match late.of_whole_request(now.since(since), whole.limit) {
        Outcome::RequestTimeout if whole.is_clients => Outcome::RequestLate,
        outcome => outcome,
    }
}

/// Looks whether the client is still there, though nothing of it is waited for.
pub(super) fn watch_client(wire: &mut impl Front, buffers: &Buffers, cx: &mut Context<'_>) -> Result<(), Outcome> {
    wire.poll_gone(buffers, cx).map_err(|Gone| Outcome::ClientGone)
}

fn client_fault(fault: SourceFault) -> Outcome {
    match fault {
        SourceFault::Cut => Outcome::ClientGone,
        SourceFault::Malformed => Outcome::MalformedRequest,
        SourceFault::TooLarge => Outcome::TrailersTooLarge,
    }
}
