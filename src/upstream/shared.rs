//! Connections of HTTP/2 to backends, which requests share: on which the next one goes, and when another is made.
//!
//! One worker's, by backend. A connection takes as many requests at once as its backend allows, and no more than
//! [`STREAMS`]; another is made when all are full, one at a time, until there are [`MOST`]. Beyond that requests wait within
//! the connection that has the fewest. One on which nothing has been under way for long enough is closed.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{self, Connection, SendRequest};

use crate::clock::{self, Instant};
use crate::http::frames::Side;
use crate::serial::BySerial;
use crate::stream::{Seen, Stream, Watched};

/// How many connections one worker has to one backend.
pub const MOST: usize = 8;
/// How many requests are under way at once on one of them.
pub const STREAMS: usize = 100;

/// What a backend may send before any of it was used, in bytes: on one stream, and on all of a connection together. Those who use
/// it are different clients, so that the whole is all of its parts: however many of them take nothing, they hold up no other.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS as u32;
/// What waits on one stream for its turn on the connection, in bytes.
const SEND_BUFFER: usize = 64 * 1024;
/// How large a head or trailer fields may be, as HTTP/2 counts them, in bytes.
const HEADER_LIST: u32 = 64 * 1024;
/// Errors of its that are answered with a reset: with more, the connection ends (security.md R19).
const RESETS_OF_OURS: usize = 200;
/// So many streams are given up on one connection, by clients that go as a rule, before new requests go on another. Backends end
/// a connection with all that is under way on it when it brings too many resets: libraries let a thousand pass.
const RESETS: u32 = 500;
/// How long the end of a connection may take that nobody uses any more.
const FAREWELL: Duration = Duration::from_secs(2);

/// One worker's connections.
#[derive(Clone, Default)]
pub struct SharedConnections {
    backends: Rc<RefCell<BySerial<ToBackend>>>,
}

/// The connections to one backend.
#[derive(Default)]
struct ToBackend {
    connections: Vec<Rc<Carrier>>,
    /// Somebody is making one more.
    making: bool,
    waiting: Line,
}

/// Who waits for a connection that is being made, or for what is not known of one yet.
#[derive(Default)]
struct Line {
    wakers: Vec<Waker>,
    /// How often all of them were woken.
    round: u32,
}

/// Somebody's place in a line, in this round of it.
#[derive(Clone, Copy)]
struct Ticket {
    round: u32,
    at: usize,
}

impl Line {
    /// Notes who is to be woken. However often somebody comes, with the ticket he got he is in the line once.
    fn join(&mut self, ticket: &mut Option<Ticket>, cx: &Context<'_>) {
        let known =
            ticket.filter(|ticket| ticket.round == self.round).and_then(|ticket| self.wakers.get_mut(ticket.at));
        if let Some(waker) = known {
            return waker.clone_from(cx.waker());
        }
        *ticket = Some(Ticket { round: self.round, at: self.wakers.len() });
        self.wakers.push(cx.waker().clone());
    }

    /// All of them, who have to come again.
    fn take(&mut self) -> Vec<Waker> {
        self.round = self.round.wrapping_add(1);
        std::mem::take(&mut self.wakers)
    }
}

/// A connection, and what uses it.
struct Carrier {
    requests: RefCell<SendRequest<Bytes>>,
    seen: Rc<Seen>,
    uses: Cell<usize>,
    /// Since when there was none.
    idle: Cell<Instant>,
    /// What the backend can do is known: its first words were read, and it begins with that (RFC 9113 §3.4).
    settled: Cell<bool>,
    /// How many of its streams were given up.
    resets: Cell<u32>,
    /// Nothing new goes on it.
    distrusted: Cell<bool>,
}

impl Carrier {
    /// Whether it takes requests: the backend has neither closed it nor said that it will.
    fn is_open(&self) -> bool {
        if self.distrusted.get() || self.resets.get() >= RESETS || self.seen.flood().is_some() {
            return false;
        }
        let poll = self.requests.borrow_mut().poll_ready(&mut Context::from_waker(Waker::noop()));
        !matches!(poll, Poll::Ready(Err(_)))
    }

    fn has_room(&self) -> bool {
        self.uses.get() < STREAMS.min(self.requests.borrow().current_max_send_streams())
    }
}

/// A place on a connection, for one request; given back when it is dropped.
pub struct Place {
    carrier: Rc<Carrier>,
    /// The connection was there before.
    pub reused: bool,
}

impl Place {
    fn on(carrier: &Rc<Carrier>, reused: bool) -> Place {
        carrier.uses.set(carrier.uses.get() + 1);
        Place { carrier: Rc::clone(carrier), reused }
    }

    /// Its request is given up, of which the backend is told.
    pub fn reset(&self) {
        self.carrier.resets.set(self.carrier.resets.get().saturating_add(1));
    }

    /// An answer has not come in time to a request that was sent then. If nothing else has come since either, whoever comes next
    /// is not to be put on the same silent connection.
    pub fn answer_is_late(&self, sent: Instant) {
        if self.carrier.seen.heard().is_none_or(|heard| heard < sent) {
            self.carrier.distrusted.set(true);
        }
    }

    /// Whether the backend lets requests become tunnels; known of a place that was asked for a tunnel.
    #[must_use]
    pub fn offers_tunnels(&self) -> bool {
        self.carrier.requests.borrow().is_extended_connect_protocol_enabled()
    }

    /// What requests are sent with.
    #[must_use]
    pub fn requests(&self) -> SendRequest<Bytes> {
        self.carrier.requests.borrow().clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let left = self.carrier.uses.get() - 1;
        self.carrier.uses.set(left);
        if left == 0 {
            self.carrier.idle.set(clock::now());
        }
    }
}

/// What a place is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asking {
    /// Any request.
    Request,
    /// One that asks for a tunnel, which not every backend offers (RFC 8441 §3): it has to be known whether this one does.
    Tunnel,
}

/// Where a request goes.
pub enum Found {
    /// On this connection.
    Place(Place),
    /// On one that has to be made first.
    Making(Making),
}

impl SharedConnections {
    /// A place for a request to this backend, or leave to make a connection for it. It takes as long as another one makes a
    /// connection, and until is known what has to be.
    pub fn find(&self, backend: u64, asking: Asking) -> impl Future<Output = Found> + '_ {
        let mut ticket = None;
        poll_fn(move |cx| self.poll_find(backend, asking, &mut ticket, cx))
    }

    fn poll_find(
        &self,
        backend: u64,
        asking: Asking,
        ticket: &mut Option<Ticket>,
        cx: &mut Context<'_>,
    ) -> Poll<Found> {
        let mut backends = self.backends.borrow_mut();
        let to = backends.entry(backend).or_default();
        to.connections.retain(|carrier| carrier.is_open());
        let is_known = |carrier: &&Rc<Carrier>| asking == Asking::Request || carrier.settled.get();
        let known = || to.connections.iter().filter(is_known);
        if let Some(carrier) = known().find(|carrier| carrier.has_room()) {
            return Poll::Ready(Found::Place(Place::on(carrier, true)));
        }
        if to.making || known().count() < to.connections.len() {
            to.waiting.join(ticket, cx);
            return Poll::Pending;
        }
        if to.connections.len() < MOST {
            to.making = true;
            let all = Rc::clone(&self.backends);
            return Poll::Ready(Found::Making(Making { all, backend, done: false }));
        }
        let least = known().min_by_key(|carrier| carrier.uses.get()).expect("there are as many as there may be");
        Poll::Ready(Found::Place(Place::on(least, true)))
    }

    /// Closes those to backends that `keeps` denies, when what is under way on them has ended.
    pub fn retain_backends(&self, mut keeps: impl FnMut(u64) -> bool) {
        self.backends.borrow_mut().retain(|backend, to| {
            if keeps(*backend) {
                return true;
            }
            to.connections.clear();
            // Who waits is woken by the one that makes a connection, or by the end of those that are let go of.
            to.making || !to.waiting.wakers.is_empty()
        });
    }

    /// How many there are to this backend.
    #[cfg(test)]
    fn count(&self, backend: u64) -> usize {
        self.backends.borrow().get(&backend).map_or(0, |to| to.connections.len())
    }
}

/// Leave to make a connection. Dropped before there is one, it is somebody else's turn.
pub struct Making {
    all: Rc<RefCell<BySerial<ToBackend>>>,
    backend: u64,
    done: bool,
}

impl Making {
    /// Speaks HTTP/2 on a connection that has just been made, and keeps it until nothing has been under way for `keep`.
    ///
    /// # Errors
    /// The connection broke at once.
    pub async fn made(mut self, stream: Stream, keep: Duration) -> Result<Place, h2::Error> {
        let (watched, seen) = Watched::new(stream, Vec::new(), Side::Client);
        let (requests, connection) = builder().handshake(watched).await?;
        let carrier = Rc::new(Carrier {
            requests: RefCell::new(requests),
            seen: Rc::clone(&seen),
            uses: Cell::new(0),
            idle: Cell::new(clock::now()),
            settled: Cell::new(false),
            resets: Cell::new(0),
            distrusted: Cell::new(false),
        });
        let place = Place::on(&carrier, false);
        // Owned by the worker's runtime; it ends when the connection does, which nobody uses then.
        let (all, carrier_of) = (Rc::downgrade(&self.all), Rc::downgrade(&carrier));
        let driver = Driver { all, backend: self.backend, carrier: carrier_of, seen, keep };
        tokio::task::spawn_local(driver.drive(connection));
        self.settle(|to| to.connections.push(carrier));
        Ok(place)
    }

    fn settle(&mut self, with: impl FnOnce(&mut ToBackend)) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        let waiting = {
            let mut backends = self.all.borrow_mut();
            let to = backends.entry(self.backend).or_default();
            to.making = false;
            with(to);
            to.waiting.take()
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        self.settle(|_| {});
    }
}

fn builder() -> client::Builder {
    let mut builder = client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(HEADER_LIST)
        .max_local_error_reset_streams(Some(RESETS_OF_OURS))
        .initial_max_send_streams(STREAMS);
    builder
}

/// What keeps a connection going.
struct Driver {
    all: Weak<RefCell<BySerial<ToBackend>>>,
    backend: u64,
    carrier: Weak<Carrier>,
    seen: Rc<Seen>,
    keep: Duration,
}

impl Driver {
    async fn drive(self, connection: Connection<Watched, Bytes>) {
        let mut connection = pin!(connection);
        loop {
            let until = self.idle_until();
            let mut timer = pin!(tokio::time::sleep_until(clock::timer(until)));
            let ended = poll_fn(|cx| {
                if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                    return Poll::Ready(Some(ended));
                }
                if let Some(flood) = self.seen.flood() {
                    tracing::debug!(backend = self.backend, why = %flood, "connection to a backend is given up");
                    return Poll::Ready(Some(Ok(())));
                }
                self.settle();
                timer.as_mut().poll(cx).map(|()| None)
            })
            .await;
            if let Some(ended) = ended {
                if let Err(error) = ended {
                    tracing::debug!(backend = self.backend, %error, "connection to a backend failed");
                }
                return self.forget();
            }
            if self.is_over() {
                break;
            }
        }
        // Nobody can use it any more, so it says goodbye by itself.
        self.forget();
        let limit = clock::timer(clock::now() + FAREWELL);
        let _ = tokio::time::timeout_at(limit, connection).await;
    }

    /// Until when there is nothing to look after by the clock.
    fn idle_until(&self) -> Instant {
        match self.carrier.upgrade() {
            Some(carrier) if carrier.uses.get() == 0 => carrier.idle.get() + self.keep,
            _ => clock::now() + self.keep,
        }
    }

    fn is_over(&self) -> bool {
        self.carrier.upgrade().is_none_or(|carrier| carrier.uses.get() == 0 && self.idle_until() <= clock::now())
    }

    /// The connection was looked after for the first time since the backend said what it can do: those who wait for that look
    /// again.
    fn settle(&self) {
        let Some(carrier) = self.carrier.upgrade() else { return };
        if self.seen.heard().is_some() && !carrier.settled.replace(true) {
            self.wake();
        }
    }

    fn forget(&self) {
        let Some(all) = self.all.upgrade() else { return };
        let mut backends = all.borrow_mut();
        if let Some(to) = backends.get_mut(&self.backend) {
            to.connections.retain(|carrier| !Weak::ptr_eq(&Rc::downgrade(carrier), &self.carrier));
        }
        drop(backends);
        self.wake();
    }

    fn wake(&self) {
        let Some(all) = self.all.upgrade() else { return };
        let waiting = all.borrow_mut().get_mut(&self.backend).map(|to| to.waiting.take());
        waiting.into_iter().flatten().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use h2::server;
    use tokio::net::UnixStream;
    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;

    const BACKEND: u64 = 7;
    const KEEP: Duration = Duration::from_secs(60);

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn making(found: Found) -> Making {
        let Found::Making(making) = found else { panic!("there is a connection") };
        making
    }

    fn place(found: Found) -> Place {
        let Found::Place(place) = found else { panic!("one has to be made first") };
        place
    }

    /// A connection to a backend that takes so many requests at once and answers none.
    async fn connected(making: Making, streams: u32) -> Place {
        let (ours, theirs) = UnixStream::pair().unwrap();
        spawn_local(async move {
            let mut builder = server::Builder::new();
            let mut backend = builder.max_concurrent_streams(streams).handshake::<_, Bytes>(theirs).await.unwrap();
            while backend.accept().await.is_some() {}
        });
        making.made(Stream::Unix(ours), KEEP).await.unwrap_or_else(|error| panic!("{error}"))
    }

    fn in_worker(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async { tokio::time::timeout(KEEP, test).await.expect("it ends") });
    }

    fn waiting(all: &SharedConnections) -> usize {
        all.backends.borrow()[&BACKEND].waiting.wakers.len()
    }

    #[test]
    fn one_makes_a_connection_and_all_others_use_it() {
        in_worker(async {
            let all = SharedConnections::default();
            let making = making(all.find(BACKEND, Asking::Request).await);
            let mut second = pin!(all.find(BACKEND, Asking::Request));
            assert!(poll(second.as_mut()).is_pending());
            let first = connected(making, 100).await;
            let second = place(second.await);
            assert!(!first.reused && second.reused && all.count(BACKEND) == 1);
        });
    }

    #[test]
    fn who_waits_stands_in_the_line_once_however_often_it_looks() {
        in_worker(async {
            let all = SharedConnections::default();
            let making = making(all.find(BACKEND, Asking::Request).await);
            let (mut one, mut other) =
                (pin!(all.find(BACKEND, Asking::Request)), pin!(all.find(BACKEND, Asking::Request)));
            for _ in 0..1000 {
                assert!(poll(one.as_mut()).is_pending() && poll(other.as_mut()).is_pending());
            }
            assert_eq!(waiting(&all), 2);
            drop(making);
            assert!(matches!(poll(one.as_mut()), Poll::Ready(Found::Making(_))), "the next one's turn");
            assert!(matches!(poll(other.as_mut()), Poll::Ready(Found::Making(_))), "which was given back at once");
        });
    }

    #[test]
    fn another_is_made_when_one_is_full_and_at_the_most_the_fewest_share() {
        in_worker(async {
            let all = SharedConnections::default();
            let mut places = Vec::new();
            for _ in 0..MOST {
                places.push(connected(making(all.find(BACKEND, Asking::Request).await), 1).await);
                // What it can do is told with its first words.
                while places.last().is_some_and(|place| place.carrier.has_room()) {
                    yield_now().await;
                }
            }
            let more = place(all.find(BACKEND, Asking::Request).await);
            assert_eq!((all.count(BACKEND), more.carrier.uses.get()), (MOST, 2));
        });
    }

    #[test]
    fn a_connection_on_which_too_much_was_given_up_takes_nothing_new() {
        in_worker(async {
            let all = SharedConnections::default();
            let first = connected(making(all.find(BACKEND, Asking::Request).await), 100).await;
            for _ in 0..RESETS {
                place(all.find(BACKEND, Asking::Request).await).reset();
            }
            making(all.find(BACKEND, Asking::Request).await);
            drop(first);
        });
    }

    #[test]
    fn who_waits_for_a_backend_that_is_retired_gets_his_turn() {
        in_worker(async {
            let all = SharedConnections::default();
            let first = connected(making(all.find(BACKEND, Asking::Request).await), 100).await;
            let tunnel = all.find(BACKEND, Asking::Tunnel);
            let mut tunnel = pin!(tunnel);
            assert!(poll(tunnel.as_mut()).is_pending(), "whether it offers tunnels is not known");
            all.retain_backends(|_| false);
            assert_eq!(all.count(BACKEND), 0);
            drop(first);
            making(tunnel.await);
            all.retain_backends(|_| false);
            assert!(all.backends.borrow().is_empty());
        });
    }

    #[test]
    fn a_connection_to_a_retired_backend_ends_with_its_last_request() {
        in_worker(async {
            let all = SharedConnections::default();
            let making = making(all.find(BACKEND, Asking::Request).await);
            let (ours, theirs) = UnixStream::pair().unwrap();
            let backend = spawn_local(async move {
                let mut backend = server::Builder::new().handshake::<_, Bytes>(theirs).await.unwrap();
                while backend.accept().await.is_some() {}
            });
            let place = making.made(Stream::Unix(ours), KEEP).await.unwrap_or_else(|error| panic!("{error}"));
            all.retain_backends(|_| false);
            for _ in 0..100 {
                yield_now().await;
            }
            assert!(!backend.is_finished(), "it is used");
            drop(place);
            backend.await.unwrap();
        });
    }
}
