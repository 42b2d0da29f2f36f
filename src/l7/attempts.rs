//! The attempts of a request: which backend, on which connection, and what is done when that does not bring the response.
//!
//! Whether there is another attempt is for [`retry`] to say; here it is made. An attempt that could still be relied on, or
//! whose answer can be passed on, is given up only when another backend has been taken already. Everything that is tried
//! again is tried with the same head and the body from its beginning; nothing is, once the client has heard of a response.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use super::backend::Upstream;
use super::bodies::{IS_RUNNING, Patience, Running};
use super::body::Pump;
use super::client::{Client, Front};
use super::exchange::{Course, Opened, Way};
use super::grpc::status_at_head;
use super::pace::Pace;
use super::replies::Answer;
use super::retry::{self, Charge, Next, is_lost};
use super::talk::{Talk, watch_client};
use crate::balance::{Rung, Tried};
use crate::clock::{self, Instant};
use crate::config::HttpVersion;
use crate::http::websocket::websocket_key;
use crate::http::{Framing, MOST_KEPT};
use crate::l4::elsewhere::{self, Elsewhere};
use crate::l4::wait::{Unserved, Waiting, Wanted, wait};
use crate::local::{Desk, Phase};
use crate::outcome::{Outcome, Repeatable, Verdict};
use crate::record::PoolEvent;
use crate::state::{Lease, NoBackend, Permit, Terms};
use crate::upstream::shared::Asking;

/// A request that can not be repeated takes an idle connection only when it was used this short a time ago: servers close
/// idle ones after 5 s and more, and one that is closed under a POST costs the client a 502.
const FRESH_ENOUGH: Duration = Duration::from_secs(4);

/// How one attempt ended that did not bring the response.
struct Failed {
    outcome: Outcome,
    request: Repeatable,
    /// Its backend is lost to all, so that the pool's retry budget is not asked.
    lost: bool,
}

/// Where a request stands between its attempts.
struct Tries<'a> {
    way: &'a Way<'a>,
    key: u64,
    tried: Tried,
    /// Attempts that are left after the one under way.
    left: usize,
    /// The backend of the next attempt, where that was taken before the one under way was given up.
    next: Option<Lease>,
    /// Leave for the attempt under way.
    permit: Option<Permit>,
    /// Such leave was refused, which is told once.
    refused: bool,
    elsewhere: Elsewhere,
}

impl Tries<'_> {
    /// What is to be done after an attempt that ended so.
    fn after(&self, outcome: Outcome, request: Repeatable) -> Next {
        retry::next(outcome, request, &self.way.route.retry, self.left)
    }

    /// Whether there may be one more attempt, by what it costs; `lost`: the backend of the one before is lost to all.
    fn may(&mut self, charge: Charge, lost: bool) -> bool {
        let is_free = charge == Charge::Free || lost;
        if is_free {
            self.way.local.happened(self.way.pool, PoolEvent::RetriedFree);
        }
        is_free || self.is_permitted()
    }

    /// Whether the pool's retry budget allows one more attempt.
    fn is_permitted(&mut self) -> bool {
        let Way { local, view, pool, id, .. } = *self.way;
        self.permit = view.permit_retry(pool, clock::now());
        let permitted = self.permit.is_some();
        if permitted {
            local.happened(pool, PoolEvent::Retried);
        } else if !std::mem::replace(&mut self.refused, true) {
            local.happened(pool, PoolEvent::RetryRefused);
            tracing::debug!(pool = %view.pool(pool).name, id, "the retry budget is used up");
        }
        permitted
    }

    /// Takes a backend.
    fn take(&mut self, now: Instant) -> Result<Lease, NoBackend> {
        let Way { local, view, pool, .. } = *self.way;
        local.roll(|dice| view.take(pool, now, self.key, &mut self.tried, dice)).map(|taken| local.lease(pool, taken))
    }

    /// Takes another backend while that of `lease`, which is under way, could still be relied on, or its answer be passed on:
    /// only where there is one at once, no lower than on this step of the ladder. False: all stays as it is.
    fn goes_elsewhere(&mut self, lease: &Lease, outcome: Outcome, request: Repeatable, lowest: Rung) -> bool {
        let Next::AnotherBackend(charge) = self.after(outcome, request) else { return false };
        let (Way { local, view, pool, .. }, mut tried) = (*self.way, self.tried);
        let taken = local.roll(|dice| view.take(pool, clock::now(), self.key, &mut tried, dice));
        let Some(taken) = taken.ok().filter(|taken| taken.rung <= lowest) else { return false };
        let permitted = self.may(charge, is_lost(lease, outcome));
        if permitted {
            (self.tried, self.next) = (tried, Some(local.lease(pool, taken)));
        }
        permitted
    }

    /// Leaves the backend of `lease` for another one if it is not to be relied on any more: for whichever there is, if it is
    /// cut off, and else for one that is well.
    fn leaves(&mut self, lease: &Lease, request: Repeatable, cx: &mut Context<'_>) -> bool {
        let local = self.way.local;
        if local.phase() == Phase::Cut {
            return false;
        }
        if lease.is_cut() {
            return self.goes_elsewhere(lease, Outcome::Withdrawn, request, Rung::FailOpen);
        }
        if !self.elsewhere.is_due(lease, local, cx) {
            return false;
        }
        let leaves = self.goes_elsewhere(lease, Outcome::Withdrawn, request, elsewhere::LOWEST);
        if !leaves && self.after(Outcome::Withdrawn, request) != Next::GiveUp {
            self.elsewhere.in_vain(local, cx);
        }
        leaves
    }
}

impl<'a> Way<'a> {
    /// Tries backends until one responds or no attempt is left.
    pub(super) async fn attempts(
        &'a self,
        client: &mut Client<impl Front>,
        desk: &mut Desk,
        course: &mut Course,
    ) -> Opened {
        let pool = self.view.pool(self.pool);
        if desk.request.grpc && pool.http_version == HttpVersion::H1 {
            tracing::debug!(pool = %pool.name, id = self.id, "a call of gRPC needs a pool with http_version = \"h2\"");
            return Opened::Answer(Answer::plain(501));
        }
        let mut now = clock::now();
        self.view.count_request(self.pool, now);
        let begun = *course.begun.get_or_insert(now);
        client.deadline.limit(self.whole.map(|whole| begun + whole.limit));
        if self.idempotent(desk) {
            desk.kept.keep();
        }
        let (key, tried) = (self.key(desk), Tried::default());
        let elsewhere = Elsewhere::default();
        let mut tries = Tries { way: self, key, tried, left: 0, next: None, permit: None, refused: false, elsewhere };
        let mut failure = None;
        loop {
            course.made += 1;
            tries.left = self.route.retry.attempts.saturating_sub(course.made);
            let taken = match tries.next.take() {
                Some(lease) => Ok(lease),
                None => tries.take(now),
            };
            let lease = match taken {
                Ok(lease) => lease,
                Err(none) => match self.wait(client, &mut tries, none, &mut course.waiting).await {
                    Ok(lease) => lease,
                    Err(Unserved::Outdated) => {
                        course.made -= 1;
                        return Opened::Outdated;
                    }
                    Err(unserved) => return self.unserved(client, unserved, failure),
                },
            };
            let failed = match self.attempt(client, desk, lease, now, &mut tries, &mut course.running).await {
                Ok(opened) => return opened,
                Err(failed) => failed,
            };
            now = clock::now();
            tracing::debug!(pool = %pool.name, cause = failed.outcome.code(), id = self.id, "attempt failed");
            desk.kept.rewind();
            if tries.next.is_some() {
                continue;
            }
            let Some(status) = failed.outcome.own_status() else { return Opened::ClientGone };
            let again = match tries.after(failed.outcome, failed.request) {
                Next::AnotherBackend(charge) => tries.may(charge, failed.lost),
                Next::FreshConnection | Next::GiveUp => false,
            };
            if !again {
                let answer = Answer::plain(status);
                return Opened::Answer(if client.wire.is_read() { answer } else { answer.closing() });
            }
            failure = Some(status);
        }
    }

    /// A backend after a wait in the pool's queue, because there is none at once.
    async fn wait(
        &self,
        client: &mut Client<impl Front>,
        tries: &mut Tries<'_>,
        none: NoBackend,
        waiting: &mut Waiting,
    ) -> Result<Lease, Unserved> {
        let (local, tried) = (self.local, &mut tries.tried);
        let wanted = Wanted { view: self.view, pool: self.pool, key: tries.key };
        let Client { wire, session, deadline, .. } = client;
        let had_ended = wire.has_ended();
        let watch = |cx: &mut Context<'_>| {
            watch_client(wire, &local.buffers, cx)?;
            // Nothing was done for it yet, and who closes his side now, and not with his request, has given up as a rule.
            if wire.has_ended() && !had_ended { Err(Outcome::ClientGone) } else { Ok(()) }
        };
        // In a block of its own: it is seldom needed, and would be a part of every exchange.
        let taken = Box::pin(wait(session, deadline, &wanted, tried, none, waiting, watch)).await;
        taken.map(|taken| local.lease(self.pool, taken))
    }

    /// The answer where there is no backend; `failure` is how an earlier attempt is answered for.
    fn unserved(&self, client: &Client<impl Front>, unserved: Unserved, failure: Option<u16>) -> Opened {
        let pool = self.view.pool(self.pool);
        let status = failure.unwrap_or(503);
        let busy = Answer::busy(status, pool.timeouts.queue);
        match unserved {
            // It may still read: who closed only his own side gets an answer, and nobody else minds it.
            Unserved::Ended(Outcome::ClientGone) if client.wire.has_ended() => Opened::Answer(busy.closing()),
            Unserved::Ended(Outcome::ClientGone) => Opened::ClientGone,
            Unserved::Ended(Outcome::RequestLate) => Opened::Answer(Answer::plain(504)),
            Unserved::Ended(_) | Unserved::Outdated => Opened::Answer(Answer::plain(status).closing()),
            Unserved::Busy => {
                tracing::debug!(pool = %pool.name, id = self.id, "all backends are busy");
                Opened::Answer(busy)
            }
            Unserved::Nobody(none) => {
                tracing::debug!(pool = %pool.name, id = self.id, %none, "no backend");
                Opened::Answer(Answer::plain(status))
            }
        }
    }

    /// One attempt on one backend: on an idle connection if there is one, and once more on a fresh one when that was stale.
    async fn attempt(
        &self,
        client: &mut Client<impl Front>,
        desk: &mut Desk,
        mut lease: Lease,
        now: Instant,
        tries: &mut Tries<'_>,
        running: &mut Option<Running>,
    ) -> Result<Opened, Failed> {
        let local = self.local;
        let pool = self.view.pool(self.pool);
        let timeouts = &pool.timeouts;
        let backend = lease.state().id();
        // What will be kept can be sent again when a stale connection shows.
        let small = match desk.request.framing {
            Framing::None => true,
            Framing::Length(length) => length <= MOST_KEPT as u64,
            _ => false,
        };
        let repeats = small && desk.kept.is_whole() && self.idempotent(desk);
        let at_most = if repeats { Duration::MAX } else { FRESH_ENOUGH };
        // Who had to wait for the lease finds idle connections a moment younger than they are.
        let mut idle = match pool.send_proxy_protocol {
            None => local.take_idle(backend, now, at_most),
            // It may be from before the pool sent them.
            Some(_) => None,
        };
        let asking = if desk.request.connection.websocket { Asking::Tunnel } else { Asking::Request };
        let mut again = false;
        loop {
            let reused = idle.is_some();
            let (idempotent, body_kept) = (self.idempotent(desk), desk.kept.is_whole());
            let unsent = Repeatable { idempotent, body_kept, sent: false, heard: false };
            let mut leaves = |cx: &mut Context<'_>| tries.leaves(&lease, unsent, cx);
            let mut failed = match self.reach(client, idle.take(), asking, &lease, timeouts.connect, &mut leaves).await
            {
                Ok(upstream) => {
                    // Once is an accident.
                    let reused = !again && (reused || upstream.is_reused());
                    let stage = running.insert(self.stage(client, desk, upstream, lease));
                    match self.converse(client, desk, stage, reused, tries).await {
                        Ok(()) => return Ok(self.begin_response(client, desk, stage)),
                        Err(failed) => {
                            let Running { upstream, lease: back, .. } = running.take().expect(IS_RUNNING);
                            upstream.failed(failed.outcome, back.sent_at());
                            // Nobody uses it again, whatever it says of itself.
                            drop(upstream.end(local, desk));
                            lease = back;
                            failed
                        }
                    }
                }
                Err(outcome) => Failed { outcome, request: unsent, lost: false },
            };
            if tries.after(failed.outcome, failed.request) != Next::FreshConnection {
                local.ended(backend, failed.outcome);
                lease.judge(clock::now(), failed.outcome);
                failed.lost = is_lost(&lease, failed.outcome);
                return Err(failed);
            }
            again = true;
            desk.kept.rewind();
        }
    }

    /// The key of a WebSocket for a backend that expects one, where the client has none to give.
    fn websocket_key(&self) -> String {
        let random = self.local.roll(|dice| u128::from(dice.next()) << 64 | u128::from(dice.next()));
        websocket_key(random.to_le_bytes())
    }

    /// An attempt that is connected and has said nothing yet.
    fn stage(&self, client: &Client<impl Front>, desk: &Desk, upstream: Upstream, lease: Lease) -> Running {
        let Terms { min_rate, body, tunnel_idle, .. } = *client.terms;
        let pace = if desk.request.grpc { Pace::of_caller(min_rate, body) } else { Pace::of_sender(min_rate, body) };
        Running {
            upstream,
            lease,
            timeouts: Patience::of(self.view.pool(self.pool), tunnel_idle, self.whole),
            sending: Pump::paced(pace),
            call: None,
            keep_client: false,
            late: None,
        }
    }

    /// Sends the request, passes interim responses on, and reads the head of the final response into `desk.response`.
    async fn converse(
        &self,
        client: &mut Client<impl Front>,
        desk: &mut Desk,
        stage: &mut Running,
        reused: bool,
        tries: &mut Tries<'_>,
    ) -> Result<(), Failed> {
        let Running { upstream, lease, sending, .. } = stage;
        let address = Self::fallback_host(desk, lease);
        upstream.send(desk, &self.forwarding(client, &address), || self.websocket_key());
        let mut talk = Talk::new(self, client, upstream, desk, lease, sending, reused);
        let repeats = self.route.retry.repeats;
        let got = poll_fn(|cx| match talk.poll(cx) {
            // The backend is given up by others, or cut off: this request need not share its fate.
            Poll::Pending | Poll::Ready(Err(Outcome::Cut))
                if tries.leaves(talk.lease(), talk.repeatable(repeats), cx) =>
            {
                Poll::Ready(Err(Outcome::Withdrawn))
            }
            otherwise => otherwise,
        })
        .await;
        let request = talk.repeatable(repeats);
        let outcome = match got {
            Ok(()) => match status_at_head(&desk.request, &desk.response) {
                // It is thrown away, and its connection with what may still come on it.
                Some(status) if self.is_unwanted(status, lease, request, tries) => Outcome::Completed { status },
                _ => return Ok(()),
            },
            Err(outcome) => outcome,
        };
        Err(Failed { outcome, request, lost: false })
    }

    /// Whether the route tries another backend for a response with this status, and there is one. Then the backend is judged
    /// by it here, as nobody else sees it.
    fn is_unwanted(&self, status: u16, lease: &mut Lease, request: Repeatable, tries: &mut Tries<'_>) -> bool {
        let completed = Outcome::Completed { status };
        let unwanted = status >= 400 && tries.goes_elsewhere(lease, completed, request, Rung::FailOpen);
        if unwanted {
            let now = clock::now();
            lease.responded(now, Verdict::of_status(status));
            self.local.responded(lease.state().id(), now.since(lease.sent_at()));
        }
        unwanted
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::rc::Rc;
    use std::sync::Arc;

    use arc_swap::ArcSwap;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::runtime::{Builder, LocalOptions};

    use super::*;
    use crate::config::from_text;
    use crate::local::Local;
    use crate::state::{BackendState, Health, Sessions, Snapshot};
    use crate::stream::Incoming;
    use crate::stream::Stream;

    /// A worker on the thread of the test, with two backends of which the first to be asked never answers.
    struct Bench {
        local: Rc<Local>,
        origins: [TcpListener; 2],
    }

    impl Bench {
        async fn new() -> Bench {
            let origins =
                [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
            let addresses = origins.each_ref().map(|origin| origin.local_addr().unwrap().to_string());
            let file = format!(
                "[listeners.web]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n[pools.app]\nbackends = {addresses:?}\n"
            );
            let snapshot =
                Snapshot::next(&from_text("test.toml", &file).unwrap().config, &crate::tls::Materials::default(), None);
            snapshot.settle();
            Bench { local: Local::new(0, Arc::new(ArcSwap::from_pointee(snapshot)), 1), origins }
        }

        /// The other end of a client's connection that is served.
        async fn client(&self) -> TcpStream {
            let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let client = TcpStream::connect(front.local_addr().unwrap()).await.unwrap();
            let (stream, peer) = front.accept().await.unwrap();
            let view = self.local.view();
            let listener = view.snapshot().listeners().next().unwrap().id;
            let stream = Stream::Tcp(stream);
            let incoming = Incoming { stream, listener, peer: Some(peer), local: None, prefix: Vec::new() };
            tokio::task::spawn_local(crate::l7::h1::serve(&self.local, incoming, ()));
            client
        }

        /// Withdraws the backend at this address, as a breaker does that opens.
        fn withdraw(&self, address: SocketAddr) {
            self.state_of(address).withdraw();
            self.local.wake_all();
        }

        /// The same as the health check does it.
        fn find_down(&self, address: SocketAddr) {
            self.state_of(address).checkup().say(Health::Down, Sessions::Kept);
            self.withdraw(address);
        }

        fn state_of(&self, address: SocketAddr) -> Arc<BackendState> {
            let view = self.local.view();
            let (_, pool) = view.snapshot().pools().next().unwrap();
            let is_it = |text: String| text == address.to_string();
            Arc::clone(&pool.backends.iter().find(|backend| is_it(backend.address().to_string())).unwrap().state)
        }

        /// The next connection to any of the two, when its request's head is there.
        async fn asked(&self) -> (TcpStream, SocketAddr) {
            let [a, b] = &self.origins;
            let (mut stream, origin) = tokio::select! {
                accepted = a.accept() => (accepted.unwrap().0, a),
                accepted = b.accept() => (accepted.unwrap().0, b),
            };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            (stream, origin.local_addr().unwrap())
        }
    }

    fn in_worker<T>(test: impl Future<Output = T>) -> T {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(test)
    }

    #[test]
    fn a_request_that_waits_for_a_backend_which_is_withdrawn_is_tried_on_another() {
        in_worker(async {
            let bench = Bench::new().await;
            let mut client = bench.client().await;
            client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await.unwrap();
            let (mut hanging, address) = bench.asked().await;
            bench.withdraw(address);
            let (mut other, another) = bench.asked().await;
            assert_ne!(address, another);
            other.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother").await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("other"), "{answer}");
            assert_eq!(hanging.read(&mut [0]).await.unwrap(), 0, "the first is hung up on");
            let seen = bench.local.collect();
            assert_eq!(
                (seen.pools[0].retried, seen.backends.values().map(|record| record.failures).sum::<u64>()),
                (1, 0)
            );
        });
    }

    #[test]
    fn all_that_wait_for_a_backend_that_goes_down_leave_however_many_they_are() {
        in_worker(async {
            let bench = Bench::new().await;
            let (mut clients, mut asked) = (Vec::new(), Vec::new());
            // Far more than a fifth of them, and the three that may be repeated at any time.
            for _ in 0..20 {
                let mut client = bench.client().await;
                client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
                asked.push(bench.asked().await);
                clients.push(client);
            }
            let down = asked[0].1;
            let waiting = asked.iter().filter(|(_, address)| *address == down).count();
            assert_eq!(waiting, 10);
            bench.find_down(down);
            for left in 0..waiting {
                let next = tokio::time::timeout(Duration::from_secs(10), bench.asked()).await;
                let (stream, address) = next.unwrap_or_else(|_| panic!("only {left} of {waiting} left"));
                assert_ne!(address, down);
                asked.push((stream, address));
            }
            assert_eq!(bench.local.collect().pools.iter().map(|record| record.retried).sum::<u64>(), 0);
        });
    }

    #[test]
    fn all_that_a_killed_backend_hangs_up_on_are_answered_by_another() {
        in_worker(async {
            let bench = Bench::new().await;
            let (mut clients, mut asked) = (Vec::new(), Vec::new());
            for _ in 0..20 {
                let mut client = bench.client().await;
                client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await.unwrap();
                asked.push(bench.asked().await);
                clients.push(client);
            }
            let killed = asked[0].1;
            let (lost, mut served): (Vec<_>, Vec<_>) = asked.into_iter().partition(|(_, address)| *address == killed);
            assert_eq!(lost.len(), 10, "more than the budget allows");
            drop(lost);
            while served.len() < clients.len() {
                let (stream, address) = bench.asked().await;
                assert_ne!(address, killed);
                served.push((stream, address));
            }
            for (stream, _) in &mut served {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell").await.unwrap();
            }
            for mut client in clients {
                let mut answer = String::new();
                client.read_to_string(&mut answer).await.unwrap();
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            }
        });
    }

    #[test]
    fn nobody_leaves_a_backend_that_may_answer_for_one_that_is_down_itself() {
        in_worker(async {
            let bench = Bench::new().await;
            let [a, b] = bench.origins.each_ref().map(|origin| origin.local_addr().unwrap());
            bench.find_down(b);
            let mut client = bench.client().await;
            client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await.unwrap();
            let (mut slow, address) = bench.asked().await;
            assert_eq!(address, a);
            bench.find_down(a);
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            slow.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow").await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert!(answer.ends_with("slow"), "{answer}");
            assert_eq!(bench.local.collect().pools.iter().map(|record| record.retried_free).sum::<u64>(), 0);
        });
    }

    #[test]
    fn who_found_nobody_that_is_well_leaves_when_somebody_is() {
        in_worker(async {
            let bench = Bench::new().await;
            let [a, b] = bench.origins.each_ref().map(|origin| origin.local_addr().unwrap());
            bench.find_down(b);
            let mut client = bench.client().await;
            client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
            let (_hanging, address) = bench.asked().await;
            bench.find_down(a);
            tokio::task::yield_now().await;
            bench.state_of(b).checkup().say(Health::Up, Sessions::Kept);
            bench.local.wake_all();
            let (_, another) = bench.asked().await;
            assert_eq!((address, another), (a, b));
        });
    }

    #[test]
    fn one_that_may_not_be_repeated_goes_on_waiting() {
        in_worker(async {
            let bench = Bench::new().await;
            let mut client = bench.client().await;
            client
                .write_all(b"POST / HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                .await
                .unwrap();
            let (mut slow, address) = bench.asked().await;
            bench.withdraw(address);
            tokio::task::yield_now().await;
            slow.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow").await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert!(answer.ends_with("slow"), "{answer}");
        });
    }
}
