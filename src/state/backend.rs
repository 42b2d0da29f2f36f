//! One server of a pool: what the configuration says of it ([`Backend`]) and what is going on at it ([`BackendState`]).
//!
//! The state hangs on a [`BackendKey`], which holds all that the state depends on and nothing else, so it outlives every
//! configuration that names the key. It is a few words that all workers share. The first holds the in-flight count, the
//! epoch, the two bits that end a backend's service and one that says that somebody waits for a place, all in one word, so
//! that "is there room, and may it be taken?" is answered and acted on in one step: a limit is never exceeded, nothing is
//! taken after a drain began, nobody takes a place that others wait for, and whoever leaves knows whether there is somebody
//! to call. The second is the latency estimate, which is written only for pools whose policy reads it, the third the breaker's.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::breaking::PoolBreaker;
use super::health::Checkup;
use super::ramp::Return;
use crate::balance::{Candidate, Estimate, Standing, UNIT, hash_key, ramped};
use crate::breaker::Breaker;
use crate::clock::Instant;
use crate::config::{Address, Initial, Name, Service};
use crate::sync::{AtomicU64, Ordering};

/// How bytes travel to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// As they are.
    Plain,
    /// Over TLS. Other settings make another backend of it: what was said under less strict ones must not be believed, nor a
    /// connection be used that they let stand.
    Tls {
        /// The digest of its settings.
        settings: u64,
    },
}

/// Who a backend is: two backends of one key are the same backend, in whatever configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    /// The pool it is in: two pools judge the same address apart.
    pub pool: Name,
    /// Where it is.
    pub address: Address,
    /// How it is spoken to.
    pub transport: Transport,
}

impl BackendKey {
    /// A hash of the key that is the same in every process, for the policies that hash.
    fn identity(&self) -> u64 {
        let mut text = self.pool.as_bytes().to_vec();
        // No name holds a NUL, so no two keys of one configuration make the same text. How a backend is spoken to is no part of
        // it: that is the same for all of a pool, and changing it would send clients elsewhere.
        match &self.address {
            Address::Ip(address) => text.extend_from_slice(format!("\0ip\0{address}").as_bytes()),
            Address::Unix(path) => {
                text.extend_from_slice(b"\0unix\0");
                text.extend_from_slice(path.as_os_str().as_encoded_bytes());
            }
        }
        hash_key(&text)
    }
}

/// Why a backend was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// It takes nothing new.
    Draining,
    /// It is at its limit.
    Full,
    /// There is room, for which others wait.
    Queued,
    /// Its breaker lets nobody in any more; which shows in its standing now.
    Shut,
}

/// Who asks for a place at a backend with a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Somebody who has just come: takes nothing that others wait for.
    Newcomer,
    /// Somebody who has waited and was called.
    Waiter,
}

/// Counts how often a backend came back into service. A verdict that belongs to an earlier epoch is not recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(u32);

/// The first shared word, taken apart.
#[derive(Clone, Copy)]
struct Usage(u64);

impl Usage {
    const ONE: u64 = 1;
    const EPOCH_SHIFT: u32 = 32;
    const EPOCH_MASK: u64 = (1 << 29) - 1;
    const AWAITED: u64 = 1 << 61;
    const DRAINING: u64 = 1 << 62;
    const CUT: u64 = 1 << 63;

    #[expect(clippy::cast_possible_truncation, reason = "the low half is the count")]
    fn in_flight(self) -> u32 {
        self.0 as u32
    }

    fn epoch(self) -> Epoch {
        Epoch((self.0 >> Usage::EPOCH_SHIFT & Usage::EPOCH_MASK) as u32)
    }

    fn is_draining(self) -> bool {
        self.0 & Usage::DRAINING != 0
    }

    fn is_cut(self) -> bool {
        self.0 & Usage::CUT != 0
    }

    fn is_awaited(self) -> bool {
        self.0 & Usage::AWAITED != 0
    }

    fn is_full(self, limit: Option<NonZeroU32>) -> bool {
        // Without a limit the count still must not run into the epoch's bits.
        self.in_flight() >= limit.map_or(u32::MAX, NonZeroU32::get)
    }

    fn refusal(self, limit: Option<NonZeroU32>, turn: Turn) -> Option<Refused> {
        if self.is_draining() {
            Some(Refused::Draining)
        } else if self.is_full(limit) {
            Some(Refused::Full)
        } else if turn == Turn::Newcomer && self.is_awaited() && limit.is_some() {
            Some(Refused::Queued)
        } else {
            None
        }
    }

    /// In service again: the count stays, the bits go, the epoch is the next one. Who waits still waits.
    fn restored(self) -> Usage {
        let epoch = u64::from(self.epoch().0).wrapping_add(1) & Usage::EPOCH_MASK;
        Usage(u64::from(self.in_flight()) | epoch << Usage::EPOCH_SHIFT | self.0 & Usage::AWAITED)
    }
}

/// The words that all workers write, on a cache line of their own so that the fields beside them, which never change, are
/// not pulled from cache to cache with them.
#[derive(Debug)]
#[repr(align(64))]
struct Shared {
    usage: AtomicU64,
    latency: AtomicU64,
    breaker: Breaker,
}

/// What is going on at a backend now, over all workers and all configurations that name its key.
///
/// # Orderings
/// All are relaxed. Each word is read and changed on its own, no other memory is published through it, and what must hold
/// together (count, epoch, bits) is in one word, whose single modification order every thread agrees on.
#[derive(Debug)]
pub struct BackendState {
    /// Not beside the words that every request writes: it is written when the backend is withdrawn, and read while requests
    /// wait.
    withdrawals: AtomicU64,
    /// Written as seldom, and read where a pool has a slow start.
    returned: Return,
    id: u64,
    identity: u64,
    key: BackendKey,
    shared: Shared,
    /// Seldom written, so it is not among the shared words.
    checkup: Checkup,
}

impl BackendState {
    /// A backend that nothing has been sent to yet; `id` is unique in the process.
    #[must_use]
    pub fn new(id: u64, key: BackendKey) -> BackendState {
        BackendState::beginning(id, key, Initial::Up)
    }

    /// The same, of a pool whose health check says what it is before it was asked.
    #[must_use]
    pub fn beginning(id: u64, key: BackendKey, initial: Initial) -> BackendState {
        let latency = AtomicU64::new(Estimate::UNKNOWN.to_bits());
        let shared = Shared { usage: AtomicU64::new(0), latency, breaker: Breaker::default() };
        let (withdrawals, returned, checkup) = (AtomicU64::new(0), Return::never(), Checkup::new(initial));
        BackendState { withdrawals, returned, id, identity: key.identity(), key, shared, checkup }
    }

    /// A number that no other backend of this process has or had.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// A number that this key has in every process.
    #[must_use]
    pub fn identity(&self) -> u64 {
        self.identity
    }

    /// Who it is.
    #[must_use]
    pub fn key(&self) -> &BackendKey {
        &self.key
    }

    /// What the health check says of it.
    #[must_use]
    pub fn checkup(&self) -> &Checkup {
        &self.checkup
    }

    /// Counts one more in flight, unless it is draining, has `limit` already, or others wait for the place.
    ///
    /// # Errors
    /// Says which of these it was; then nothing was counted.
    pub fn take(&self, limit: Option<NonZeroU32>) -> Result<Epoch, Refused> {
        self.take_as(Turn::Newcomer, limit)
    }

    /// The same for somebody who may have waited.
    ///
    /// # Errors
    /// As [`take`](BackendState::take).
    pub fn take_as(&self, turn: Turn, limit: Option<NonZeroU32>) -> Result<Epoch, Refused> {
        let mut usage = self.usage();
        loop {
            if let Some(refused) = usage.refusal(limit, turn) {
                return Err(refused);
            }
            // Relaxed: see the type. The exchange fails when any part of the word moved, so the refusal was asked of
            // exactly the word that the count is added to.
            let next = usage.0 + Usage::ONE;
            match self.shared.usage.compare_exchange_weak(usage.0, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(usage.epoch()),
                Err(now) => usage = Usage(now),
            }
        }
    }

    /// Counts one less in flight; once for each successful [`take`](BackendState::take). True when somebody waits for a
    /// place and is to be called.
    pub fn release(&self) -> bool {
        // Relaxed: the count guards no memory; who reads zero learns only that. A waiter who sets the bit later in the
        // word's order sees the place that is free.
        let before = Usage(self.shared.usage.fetch_sub(Usage::ONE, Ordering::Relaxed));
        debug_assert!(before.in_flight() > 0, "every release has its take");
        before.is_awaited()
    }

    /// From now on newcomers take no place that a limit leaves free, and every release says that it is awaited. Whether it
    /// could be taken until now.
    pub(super) fn await_release(&self, limit: Option<NonZeroU32>) -> bool {
        // Relaxed: a release is before this in the word's order, and then its place is seen here, or it sees the bit.
        let before = Usage(self.shared.usage.fetch_or(Usage::AWAITED, Ordering::Relaxed));
        before.refusal(limit, Turn::Waiter).is_none()
    }

    /// Nobody waits any more.
    pub(super) fn await_no_more(&self) {
        // Relaxed: a newcomer who still sees the bit queues, is alone there, and is called at once.
        self.shared.usage.fetch_and(!Usage::AWAITED, Ordering::Relaxed);
    }

    /// From now on nothing new is taken; what is in flight may finish.
    pub fn drain(&self) {
        // Relaxed: a take that comes later in the word's order sees the bit; one that came before counts already.
        self.shared.usage.fetch_or(Usage::DRAINING, Ordering::Relaxed);
    }

    /// Nothing new is taken and what is in flight must end now.
    pub fn cut(&self) {
        // Relaxed: sessions learn of it when they next look, there is nothing else to see.
        self.shared.usage.fetch_or(Usage::DRAINING | Usage::CUT, Ordering::Relaxed);
    }

    /// It is not to be relied on any more (it went down, or its breaker opened): requests that wait for its response head and
    /// may be repeated go elsewhere, as soon as their workers' sessions are woken. What it has may finish otherwise.
    pub fn withdraw(&self) {
        // Relaxed: waiting requests learn of it when they next look, there is nothing else to see.
        self.withdrawals.fetch_add(1, Ordering::Relaxed);
    }

    /// How often it was withdrawn.
    pub(super) fn withdrawals(&self) -> u64 {
        // Relaxed: see `withdraw`.
        self.withdrawals.load(Ordering::Relaxed)
    }

    /// It comes back at `now`, or into a pool that is at work: where its pool has a slow start, that begins. For whoever puts
    /// it back, just before that.
    pub fn come_back(&self, now: Instant) {
        self.returned.note(now);
    }

    /// When it last came back; `None`: it is here since the process began.
    #[must_use]
    pub fn came_back(&self) -> Option<Instant> {
        self.returned.at()
    }

    /// Back in service: a new epoch, if it was out of service at all.
    pub fn restore(&self) {
        let mut usage = self.usage();
        while usage.is_draining() {
            // Relaxed: the count is carried over inside the same exchange.
            let next = usage.restored().0;
            match self.shared.usage.compare_exchange_weak(usage.0, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => usage = Usage(now),
            }
        }
    }

    /// How many are in flight.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.usage().in_flight()
    }

    /// Whether nothing new is taken.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.usage().is_draining()
    }

    /// Whether nothing is in flight and nothing can be: until it is [restored](BackendState::restore) that stays so.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let usage = self.usage();
        usage.is_draining() && usage.in_flight() == 0
    }

    /// Whether what is in flight must end.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.usage().is_cut()
    }

    /// The epoch it is in.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.usage().epoch()
    }

    /// Its breaker.
    #[must_use]
    pub fn breaker(&self) -> &Breaker {
        &self.shared.breaker
    }

    /// The response-time estimate.
    #[must_use]
    pub fn latency(&self) -> Estimate {
        // Relaxed: the word is the whole estimate.
        Estimate::from_bits(self.shared.latency.load(Ordering::Relaxed))
    }

    /// A good response took `took`.
    pub fn observe(&self, now: Instant, took: Duration) {
        self.change_latency(|estimate| estimate.observe(took, now));
    }

    /// It failed after `took`: it reads at least that slow, and twice as slow as the `median` of its peers.
    pub fn observe_failure(&self, now: Instant, took: Duration, median: Option<Duration>) {
        self.change_latency(|estimate| estimate.failed(took, median, now));
    }

    fn change_latency(&self, change: impl Fn(Estimate) -> Estimate) {
        let mut bits = self.latency().to_bits();
        loop {
            let next = change(Estimate::from_bits(bits)).to_bits();
            // Relaxed: the word is the whole estimate; the exchange only keeps two samples from becoming one.
            match self.shared.latency.compare_exchange_weak(bits, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => bits = now,
            }
        }
    }

    fn usage(&self) -> Usage {
        // Relaxed: see the type.
        Usage(self.shared.usage.load(Ordering::Relaxed))
    }
}

/// One backend as one configuration describes it.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Its name.
    pub name: Name,
    /// 1–1000.
    pub weight: u32,
    /// How long it takes to have all of its weight when it comes back; `None`: it has it at once.
    pub slow_start: Option<Duration>,
    /// Concurrent requests (L7) or connections (L4) over all workers.
    pub limit: Option<NonZeroU32>,
    /// Used only when no primary is usable.
    pub backup: bool,
    /// Whether an administrator holds it back.
    pub service: Service,
    /// How its breaker is set; `None`: it has none.
    pub(super) breaker: Option<Arc<PoolBreaker>>,
    /// What is going on at it.
    pub state: Arc<BackendState>,
}

impl Backend {
    /// How many more its limit leaves room for.
    pub(super) fn room(&self) -> usize {
        let limit = self.limit.map_or(u32::MAX, NonZeroU32::get);
        limit.saturating_sub(self.state.in_flight()) as usize
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.state.key.address
    }
}

impl Candidate for Backend {
    fn weight(&self) -> u32 {
        self.weight
    }

    fn weight_at(&self, now: Instant) -> u32 {
        let Some(slow_start) = self.slow_start else { return self.weight * UNIT };
        let back_for = self.state.came_back().map_or(Duration::MAX, |at| now.since(at));
        ramped(self.weight, back_for, slow_start)
    }

    fn standing(&self, now: Instant) -> Standing {
        match self.service {
            Service::Maintenance => return Standing::Maintenance,
            Service::Drain => return Standing::Draining,
            Service::Active => {}
        }
        // Asked as a waiter asks: that others wait for its places is no reason that lies with the backend.
        let usage = self.state.usage();
        if usage.is_draining() {
            return Standing::Draining;
        }
        if self.state.checkup.health().is_down() {
            return Standing::Down;
        }
        if self.is_held_back(now) {
            return Standing::Open;
        }
        match usage.is_full(self.limit) {
            true => Standing::Full,
            false => Standing::Usable,
        }
    }

    fn in_flight(&self) -> u32 {
        self.state.in_flight()
    }

    fn latency(&self) -> Estimate {
        self.state.latency()
    }

    fn is_backup(&self) -> bool {
        self.backup
    }

    fn identity(&self) -> u64 {
        self.state.identity
    }
}

#[cfg(test)]
mod tests {
    use super::super::health::{Health, Sessions};
    use super::*;

    fn key(pool: &str, address: &str) -> BackendKey {
        BackendKey { pool: pool.into(), address: Address::Ip(address.parse().unwrap()), transport: Transport::Plain }
    }

    fn state() -> BackendState {
        BackendState::new(0, key("app", "127.0.0.1:3000"))
    }

    #[test]
    fn a_limit_is_never_exceeded_and_a_release_makes_room() {
        let state = state();
        let limit = NonZeroU32::new(2);
        assert!(state.take(limit).is_ok());
        assert!(state.take(limit).is_ok());
        assert_eq!(state.take(limit), Err(Refused::Full));
        assert_eq!(state.in_flight(), 2);
        state.release();
        assert!(state.take(limit).is_ok());
    }

    #[test]
    fn a_lowered_limit_admits_nobody_until_enough_have_left() {
        let state = state();
        for _ in 0..3 {
            state.take(None).unwrap();
        }
        assert_eq!(state.take(NonZeroU32::new(2)), Err(Refused::Full));
        state.release();
        assert_eq!(state.take(NonZeroU32::new(2)), Err(Refused::Full));
        state.release();
        assert!(state.take(NonZeroU32::new(2)).is_ok());
    }

    #[test]
    fn a_place_that_others_wait_for_is_not_for_newcomers() {
        let (state, limit) = (state(), NonZeroU32::new(2));
        state.take(limit).unwrap();
        assert!(state.await_release(limit), "there is room");
        assert_eq!(state.take(limit), Err(Refused::Queued));
        assert!(state.take(None).is_ok(), "without a limit nobody waits for anything");
        assert!(!state.await_release(limit), "now it is full");
        assert!(state.release() && state.take_as(Turn::Waiter, limit).is_ok());
        state.drain();
        state.restore();
        assert!(state.release(), "who waits outlives a drain");
        state.await_no_more();
        assert!(state.take(limit).is_ok() && !state.release());
    }

    #[test]
    fn a_draining_backend_keeps_what_it_has_and_takes_nothing() {
        let state = state();
        state.take(None).unwrap();
        state.drain();
        assert_eq!(state.take(None), Err(Refused::Draining));
        assert!(!state.is_cut() && !state.is_drained());
        assert_eq!(state.in_flight(), 1);
        state.release();
        assert!(state.is_drained());
    }

    #[test]
    fn restoring_keeps_the_count_and_starts_an_epoch() {
        let state = state();
        let before = state.take(None).unwrap();
        state.cut();
        assert!(state.is_cut() && state.is_draining());
        state.restore();
        assert!(!state.is_cut() && !state.is_draining());
        assert_eq!(state.in_flight(), 1);
        assert_ne!(state.take(None).unwrap(), before);
    }

    #[test]
    fn restoring_what_is_in_service_changes_nothing() {
        let state = state();
        let before = state.epoch();
        state.restore();
        assert_eq!(state.epoch(), before);
    }

    #[test]
    fn the_epoch_wraps_without_touching_the_bits_beside_it() {
        let last = Usage(7 | Usage::EPOCH_MASK << Usage::EPOCH_SHIFT | Usage::DRAINING | Usage::CUT);
        let next = last.restored();
        assert_eq!((next.in_flight(), next.epoch(), next.is_awaited()), (7, Epoch(0), false));
        assert!(Usage(last.0 | Usage::AWAITED).restored().is_awaited());
        assert!(!next.is_draining() && !next.is_cut());
    }

    #[test]
    fn identities_are_the_same_everywhere_and_differ_by_pool_and_address() {
        let identity = key("app", "127.0.0.1:3000").identity();
        assert_eq!(identity, state().identity());
        assert_ne!(identity, key("app", "127.0.0.1:3001").identity());
        assert_ne!(identity, key("api", "127.0.0.1:3000").identity());
        let unix = BackendKey { address: Address::Unix("127.0.0.1:3000".into()), ..key("app", "127.0.0.1:3000") };
        assert_ne!(identity, unix.identity());
    }

    #[test]
    fn standing_says_who_holds_it_back() {
        let now = Instant::ORIGIN;
        let mut backend = Backend {
            name: "a".into(),
            weight: 1,
            slow_start: None,
            limit: NonZeroU32::new(1),
            backup: false,
            service: Service::Active,
            breaker: None,
            state: Arc::new(state()),
        };
        assert_eq!(backend.standing(now), Standing::Usable);
        backend.state.take(backend.limit).unwrap();
        assert_eq!(backend.standing(now), Standing::Full);
        backend.state.checkup().say(Health::Down, Sessions::Kept);
        assert_eq!(backend.standing(now), Standing::Down, "nobody waits for one that is down");
        backend.state.drain();
        assert_eq!(backend.standing(now), Standing::Draining);
        backend.service = Service::Maintenance;
        assert_eq!(backend.standing(now), Standing::Maintenance);
    }

    /// `RUSTFLAGS="--cfg evenkeel_loom" cargo test --release --lib loom`, with a `CARGO_TARGET_DIR` of its own.
    #[cfg(evenkeel_loom)]
    mod loom_models {
        use super::super::*;
        use loom::thread;

        fn state() -> Arc<BackendState> {
            let address = Address::Unix("/run/app".into());
            Arc::new(BackendState::new(0, BackendKey { pool: "app".into(), address, transport: Transport::Plain }))
        }

        #[test]
        fn two_takers_never_exceed_the_limit() {
            loom::model(|| {
                let state = state();
                let limit = NonZeroU32::new(1);
                let takers: Vec<_> = (0..2)
                    .map(|_| {
                        let state = Arc::clone(&state);
                        thread::spawn(move || {
                            let taken = state.take(limit).is_ok();
                            assert!(state.in_flight() <= 1);
                            taken
                        })
                    })
                    .collect();
                let taken = takers.into_iter().filter_map(|taker| taker.join().unwrap().then_some(())).count();
                assert_eq!(taken, 1, "one wins, and one only");
                assert_eq!(state.in_flight(), 1);
            });
        }

        #[test]
        fn what_is_seen_drained_is_never_taken_again() {
            loom::model(|| {
                let state = state();
                let worker = {
                    let state = Arc::clone(&state);
                    thread::spawn(move || {
                        let taken = state.take(None).is_ok();
                        if taken {
                            state.release();
                        }
                        taken && state.is_drained()
                    })
                };
                state.drain();
                if state.is_drained() {
                    assert_eq!(state.take(None), Err(Refused::Draining));
                    worker.join().unwrap();
                    assert!(state.is_drained());
                } else {
                    let drained_behind_it = worker.join().unwrap();
                    assert!(state.is_drained(), "the last to leave leaves it drained");
                    assert!(drained_behind_it, "who was in flight when the drain began sees it drained on leaving");
                }
            });
        }

        #[test]
        fn a_restore_keeps_the_count_of_a_session_that_ends_meanwhile() {
            loom::model(|| {
                let state = state();
                let epoch = state.take(None).unwrap();
                state.drain();
                let session = {
                    let state = Arc::clone(&state);
                    thread::spawn(move || state.release())
                };
                let second = {
                    let state = Arc::clone(&state);
                    thread::spawn(move || state.take(NonZeroU32::new(2)))
                };
                state.restore();
                session.join().unwrap();
                let second = second.join().unwrap();
                assert_eq!(state.in_flight(), u32::from(second.is_ok()));
                if let Ok(later) = second {
                    assert_ne!(later, epoch, "what is taken after the drain belongs to the new epoch");
                }
            });
        }

        #[test]
        fn of_two_samples_at_once_neither_is_lost() {
            loom::model(|| {
                let state = state();
                let (short, long) = (Duration::from_millis(10), Duration::from_millis(20));
                let other = {
                    let state = Arc::clone(&state);
                    thread::spawn(move || state.observe(Instant::ORIGIN, long))
                };
                state.observe(Instant::ORIGIN, short);
                other.join().unwrap();
                let read = state.latency().read(Instant::ORIGIN).unwrap();
                assert!(read.abs_diff(long) < Duration::from_micros(1), "the peak stands: {read:?}");
            });
        }
    }
}
