//! Breakers at work in a pool: what a lease tells its backend's breaker, who is asked before one more may open, and what is
//! said of it. What a breaker makes of that is decided in [`breaker`](crate::breaker).

use std::sync::Arc;
use std::time::Duration;

use super::backend::{Backend, Refused};
use super::bell::Bells;
use super::lease::Hold;
use super::pool::Pool;
use crate::balance::{Candidate, Standing};
use crate::breaker::{
    Denied, Entry, Gate, Inside, Mode, News, Outlook, Peers, Settings, State, Teller, Ticket, Transition,
};
use crate::clock::Instant;

/// What all breakers of a pool have in common.
#[derive(Clone, Debug)]
pub(super) struct PoolBreaker {
    pub settings: Settings,
    gate: Arc<Gate>,
    bells: Arc<Bells>,
}

impl PoolBreaker {
    /// By these settings; the gate is that of the pool before it, if it had one: two configurations of a pool are in use
    /// for a moment.
    pub fn next(settings: &Settings, previous: Option<&PoolBreaker>, bells: &Arc<Bells>) -> PoolBreaker {
        let gate = previous.map(|previous| Arc::clone(&previous.gate)).unwrap_or_default();
        PoolBreaker { settings: settings.clone(), gate, bells: Arc::clone(bells) }
    }
}

impl Backend {
    /// Whether its breaker holds it back now.
    pub(super) fn is_held_back(&self, now: Instant) -> bool {
        let breaker = self.state.breaker();
        !breaker.is_closed() && self.breaker.as_ref().is_some_and(|pool| !breaker.admits(now, &pool.settings))
    }

    /// How many more its limit and its breaker leave room for.
    pub(super) fn room_by_all(&self, now: Instant) -> usize {
        let breaker = self.state.breaker();
        match &self.breaker {
            Some(pool) if !breaker.is_closed() => self.room().min(breaker.room(now, &pool.settings) as usize),
            _ => self.room(),
        }
    }

    /// Whether it could serve if it had room.
    fn is_well(&self, now: Instant) -> bool {
        matches!(self.standing(now), Standing::Usable | Standing::Full)
    }

    fn tell(&self, transition: &Transition, settings: &Settings) {
        let Transition { from, to, reason } = transition;
        let (pool, backend) = (&self.state.key().pool, &self.name);
        let (from, to, mode) = (from.name(), to.name(), settings.mode.name());
        let trips = self.state.breaker().trips();
        tracing::info!(%pool, %backend, from, to, %reason, mode, trips, "breaker");
    }

    fn tell_denied(&self, denied: Denied) {
        tracing::warn!(pool = %self.state.key().pool, backend = %self.name, reason = %denied, "breaker stays closed");
    }
}

impl Pool {
    /// Makes its breakers half-open whose open time is over at `now`; says when the next one's is.
    pub(super) fn turn_breakers(&self, now: Instant) -> Option<Instant> {
        let settings = &self.breaker.as_deref()?.settings;
        let (mut next, mut turned) = (None, false);
        for backend in &*self.backends {
            let breaker = backend.state.breaker();
            if let Some(transition) = breaker.half_open(now) {
                backend.tell(&transition, settings);
                turned = true;
            } else if let Outlook::Open { left } = breaker.outlook(now) {
                next = Some(next.map_or(now + left, |next: Instant| next.min(now + left)));
            }
        }
        // One is enough: whoever is served calls the next for as long as there is room, and that is how many probes may go.
        if turned {
            self.queue.call();
        }
        next
    }
}

impl Hold {
    /// Lets a request by the breaker of the backend at `index`.
    pub(super) fn pass_breaker(&self, index: usize, now: Instant, entry: Entry) -> Result<Ticket, Refused> {
        let backend = &self.backends()[index];
        let Some(pool) = backend.breaker.as_deref() else { return Ok(Ticket::UNHEARD) };
        let admitted = backend.state.breaker().admit(now, &pool.settings, entry);
        let (ticket, transition) = admitted.map_err(|_| Refused::Shut)?;
        if let Some(transition) = transition {
            self.follow(index, &transition, pool, now);
        }
        Ok(ticket)
    }

    /// Tells of a good answer after `took`.
    pub(super) fn tell_success(&self, index: usize, ticket: &mut Ticket, now: Instant, took: Duration) {
        let backend = &self.backends()[index];
        let Some(pool) = backend.breaker.as_deref() else { return };
        let was_probe = ticket.is_probe();
        if let Some(transition) = backend.state.breaker().succeed(ticket, took, &self.teller(pool, index, now)) {
            self.follow(index, &transition, pool, now);
        }
        // Its place is free long before the lease ends, if what follows is large.
        if was_probe {
            self.queue().call();
        }
    }

    /// Tells of a failure.
    pub(super) fn tell_failure(&self, index: usize, ticket: &mut Ticket, now: Instant) {
        let backend = &self.backends()[index];
        let Some(pool) = backend.breaker.as_deref() else { return };
        if let Some(transition) = backend.state.breaker().fail(ticket, &self.teller(pool, index, now)) {
            self.follow(index, &transition, pool, now);
        }
    }

    fn teller<'a>(
        &'a self,
        pool: &'a PoolBreaker,
        index: usize,
        now: Instant,
    ) -> Teller<'a, impl Fn() -> Option<Inside<'a>>> {
        let identity = self.backends()[index].identity();
        let reserve = move || self.reserve(pool, index, now);
        Teller { now, settings: &pool.settings, window: self.window(index), identity, reserve }
    }

    /// What follows from a transition, by whoever made it: who waits for a response of a backend that is left alone goes
    /// elsewhere, at once and on every worker; and who waits for a place may find one at a backend that is back, or may be
    /// the next to try whether it is. One that was only observed was never away.
    #[cold]
    fn follow(&self, index: usize, transition: &Transition, pool: &PoolBreaker, now: Instant) {
        let backend = &self.backends()[index];
        backend.tell(transition, &pool.settings);
        match transition.to {
            State::Open => {
                if pool.settings.mode == Mode::Enforce {
                    backend.state.withdraw();
                    pool.bells.withdrawn.ring();
                }
                pool.bells.opened.ring();
            }
            State::Closed => {
                if pool.settings.mode == Mode::Enforce {
                    backend.state.come_back(now);
                }
                self.queue().call();
            }
            State::HalfOpen => self.queue().call(),
        }
    }

    /// A place among the open breakers of the pool for the backend at `index`, held until it is dropped.
    fn reserve<'a>(&self, pool: &'a PoolBreaker, index: usize, now: Instant) -> Option<Inside<'a>> {
        let inside = pool.gate.enter(now)?;
        match self.peers(index, now).allow_one_more(pool.settings.max_open_ratio) {
            Ok(()) => Some(inside),
            Err(denied) => {
                if inside.deny(now) == News::Fresh {
                    self.backends()[index].tell_denied(denied);
                }
                None
            }
        }
    }

    fn peers(&self, index: usize, now: Instant) -> Peers {
        let mut peers = Peers { backends: self.backends().len(), ..Peers::default() };
        for (_, other) in self.backends().iter().enumerate().filter(|(other, _)| *other != index) {
            if !other.state.breaker().is_closed() {
                peers.open += 1;
            } else if other.is_well(now) {
                peers.serving += 1;
            }
        }
        peers
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Waker};

    use super::super::fixture::{backend, of_pools, pool};
    use super::super::{Lease, Listener, Place, Snapshot, View};
    use super::*;
    use crate::balance::{Dice, Rung, Tried};
    use crate::config::{self, Policy, Service};
    use crate::outcome::{Outcome, Verdict};

    const T0: Instant = Instant::ORIGIN;
    const LATER: Duration = Duration::from_secs(100);

    fn app(backends: Vec<config::Backend>, breaker: Option<Settings>) -> config::Pool {
        config::Pool { breaker, ..pool("app", Policy::RoundRobin, backends) }
    }

    fn ports(ports: &[u16]) -> config::Pool {
        app(ports.iter().copied().map(backend).collect(), Some(Settings::default()))
    }

    fn view(app: config::Pool, previous: Option<&View>) -> View {
        let snapshot = Snapshot::next(
            &of_pools(vec![app]),
            &crate::tls::Materials::default(),
            previous.map(|previous| &**previous.snapshot()),
        );
        snapshot.settle();
        View::new(Arc::new(snapshot), previous, 0, 7)
    }

    fn take(view: &View, now: Instant) -> (Lease, usize, Rung) {
        let id = view.snapshot().pool_id("app").unwrap();
        let taken = view.take(id, now, 0, &mut Tried::default(), &mut Dice::seeded(1)).unwrap();
        (taken.lease, taken.index, taken.rung)
    }

    /// One request, answered by `status`; says who got it and on which rung.
    fn request(view: &View, now: Instant, status: impl Fn(usize) -> u16) -> (usize, Rung) {
        let (mut lease, index, rung) = take(view, now);
        let status = status(index);
        lease.responded(now, Verdict::of_status(status));
        lease.finish(now, Outcome::Completed { status });
        (index, rung)
    }

    fn states(view: &View, now: Instant) -> Vec<State> {
        let id = view.snapshot().pool_id("app").unwrap();
        view.pool(id).backends.iter().map(|backend| backend.state.breaker().state(now)).collect()
    }

    /// The first of two that always fails.
    fn first_fails(index: usize) -> u16 {
        if index == 0 { 500 } else { 200 }
    }

    #[test]
    fn a_backend_that_fails_is_passed_over_until_its_probes_succeed() {
        let view = view(ports(&[1, 2]), None);
        let to_the_first = (0..100).filter(|_| request(&view, T0, first_fails).0 == 0).count();
        assert_eq!(to_the_first, 5, "each counts once");
        assert_eq!(states(&view, T0), [State::Open, State::Closed]);
        let later = T0 + LATER;
        let (probe, index, rung) = std::iter::repeat_with(|| take(&view, later)).find(|taken| taken.1 == 0).unwrap();
        assert_eq!((index, rung), (0, Rung::Primaries));
        drop(probe);
        let to_the_first = (0..100).filter(|_| request(&view, later, |_| 200).0 == 0).count();
        assert_eq!(to_the_first, 50);
        assert_eq!(states(&view, later), [State::Closed, State::Closed]);
    }

    #[test]
    fn a_breaker_that_closes_again_lets_its_backend_come_back_unless_it_was_only_observed() {
        for (mode, came_back) in [(Mode::Enforce, Some(T0 + LATER)), (Mode::Observe, None)] {
            let settings = Settings { mode, ..Settings::default() };
            let view = view(app(vec![backend(1), backend(2)], Some(settings)), None);
            for _ in 0..40 {
                request(&view, T0, first_fails);
            }
            for _ in 0..40 {
                request(&view, T0 + LATER, |_| 200);
            }
            assert_eq!(states(&view, T0 + LATER), [State::Closed, State::Closed]);
            let id = view.snapshot().pool_id("app").unwrap();
            let returns = [0, 1].map(|index: usize| view.pool(id).backends[index].state.came_back());
            assert_eq!(returns, [came_back, None]);
        }
    }

    #[test]
    fn an_only_backend_and_the_last_one_never_open() {
        let only = view(ports(&[1]), None);
        let half = view(ports(&[1, 2, 3, 4]), None);
        let two = view(
            app(vec![backend(1), config::Backend { service: Service::Drain, ..backend(2) }], Some(Settings::default())),
            None,
        );
        for number in 0..2000 {
            let now = T0 + number * Duration::from_millis(1);
            for view in [&only, &half, &two] {
                request(view, now, |_| 503);
            }
        }
        let now = T0 + Duration::from_secs(2);
        assert_eq!(states(&only, now), [State::Closed]);
        assert_eq!(states(&two, now)[0], State::Closed);
        assert_eq!(states(&half, now).iter().filter(|state| **state == State::Open).count(), 2);
    }

    #[test]
    fn an_open_one_serves_when_it_is_the_last_that_is_up() {
        let first = view(ports(&[1, 2]), None);
        for _ in 0..20 {
            request(&first, T0, first_fails);
        }
        let drained = vec![backend(1), config::Backend { service: Service::Drain, ..backend(2) }];
        let second = view(app(drained, Some(Settings::default())), Some(&first));
        for _ in 0..10 {
            assert_eq!(request(&second, T0, |_| 200), (0, Rung::BreakerOpen));
        }
        assert_eq!(states(&second, T0)[0], State::Open, "what it does then is not heard");
        let later = T0 + LATER;
        let held: Vec<_> = (0..10).map(|_| take(&second, later)).collect();
        let probes = held.iter().filter(|taken| taken.2 == Rung::Primaries).count();
        assert_eq!((probes, held.len()), (3, 10), "the others go past the breaker");
    }

    #[test]
    fn a_lease_that_comes_to_nothing_gives_its_probe_back() {
        let view = view(ports(&[1, 2]), None);
        for _ in 0..20 {
            request(&view, T0, first_fails);
        }
        let now = T0 + LATER;
        let probe = |end: &dyn Fn(Lease)| {
            let (lease, ..) = std::iter::repeat_with(|| take(&view, now)).find(|taken| taken.1 == 0).unwrap();
            end(lease);
        };
        for _ in 0..10 {
            probe(&|lease| drop(lease));
            probe(&|lease| lease.finish(now, Outcome::ClientGone));
            probe(&|lease| lease.finish(now, Outcome::NoSocket));
        }
        assert_eq!(states(&view, now), [State::HalfOpen, State::Closed]);
        probe(&|lease| lease.finish(now, Outcome::ConnectFailed));
        assert_eq!(states(&view, now), [State::Open, State::Closed]);
    }

    #[test]
    fn a_session_in_use_for_long_does_not_block_the_recovery() {
        let view = view(ports(&[1, 2]), None);
        for _ in 0..20 {
            request(&view, T0, first_fails);
        }
        let now = T0 + LATER;
        let mut sessions = Vec::new();
        while states(&view, now)[0] != State::Closed {
            let (mut lease, ..) = take(&view, now);
            lease.responded(now, Verdict::Good);
            sessions.push(lease);
        }
        assert!(sessions.len() < 10);
    }

    #[test]
    fn who_waits_for_a_response_sees_that_the_breaker_opened() {
        for (mode, withdrawn) in [(Mode::Enforce, true), (Mode::Observe, false)] {
            let settings = Settings { mode, ..Settings::default() };
            let view = view(app(vec![backend(1), backend(2)], Some(settings)), None);
            let (waiting, index, _) = take(&view, T0);
            assert!(!waiting.is_withdrawn());
            for _ in 0..20 {
                request(&view, T0, |other| if other == index { 500 } else { 200 });
            }
            assert_eq!((states(&view, T0)[index], waiting.is_withdrawn()), (State::Open, withdrawn));
        }
    }

    /// Whether it was rung since it was last looked.
    fn is_rung(listener: &mut Listener) -> bool {
        let rung = std::pin::pin!(listener.rung());
        rung.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_bell_rings_when_a_breaker_opens_and_at_nothing_else() {
        for mode in [Mode::Enforce, Mode::Observe] {
            let settings = Settings { mode, consecutive_failures: 1, ..Settings::default() };
            let first = view(app(vec![backend(1), backend(2)], Some(settings.clone())), None);
            let view = view(app(vec![backend(1), backend(2)], Some(settings)), Some(&first));
            let bells = first.snapshot().bells();
            let (mut withdrawn, mut opened) = (bells.withdrawn.listen(), bells.opened.listen());
            for _ in 0..10 {
                request(&view, T0, |_| 200);
            }
            assert!(!is_rung(&mut withdrawn) && !is_rung(&mut opened));
            while request(&view, T0, first_fails).0 != 0 {}
            assert_eq!((is_rung(&mut withdrawn), is_rung(&mut opened)), (mode == Mode::Enforce, true), "{mode:?}");
            let later = T0 + LATER;
            while states(&view, later)[0] != State::Closed {
                request(&view, later, |_| 200);
            }
            assert!(!is_rung(&mut withdrawn) && !is_rung(&mut opened), "{mode:?}");
        }
    }

    #[test]
    fn time_makes_breakers_half_open_though_nobody_asks_and_says_when_to_look_again() {
        let settings = Settings { consecutive_failures: 1, ..Settings::default() };
        let view = view(app((1..=6).map(backend).collect(), Some(settings)), None);
        let snapshot = view.snapshot();
        assert_eq!(snapshot.turn_breakers(T0), None);
        for _ in 0..20 {
            request(&view, T0, |index| if index < 3 { 500 } else { 200 });
        }
        let count = |now, wanted| states(&view, now).into_iter().filter(|state| *state == wanted).count();
        assert_eq!(count(T0, State::Open), 3);
        let (mut now, mut looks) = (T0, 0);
        while let Some(next) = snapshot.turn_breakers(now) {
            assert!(next > now, "it would look without end");
            (now, looks) = (next, looks + 1);
        }
        assert_eq!((count(now, State::HalfOpen), looks), (3, 3), "their times differ");
        assert!(now.since(T0) <= Duration::from_secs(6));
    }

    /// One of two that is open until `LATER`, while the other has all that it may; and five who wait.
    fn waiting(breaker: Settings) -> (View, Lease, [Place; 5]) {
        let limited = config::Backend { max_connections: std::num::NonZeroU32::new(1), ..backend(2) };
        let view = view(app(vec![backend(1), limited], Some(breaker)), None);
        while states(&view, T0)[0] != State::Open {
            request(&view, T0, first_fails);
        }
        let (busy, index, _) = take(&view, T0);
        assert_eq!(index, 1);
        let id = view.snapshot().pool_id("app").unwrap();
        let place = |_| {
            let none = view.take(id, T0, 0, &mut Tried::default(), &mut Dice::seeded(1)).unwrap_err();
            view.join(id, &none).unwrap()
        };
        let places = [(); 5].map(place);
        (view, busy, places)
    }

    fn follow(view: &View, place: &mut Place, now: Instant) -> Option<Lease> {
        let id = view.snapshot().pool_id("app").unwrap();
        let taken = view.take_waiting(id, place, now, 0, &mut Tried::default(), &mut Dice::seeded(1));
        taken.ok().map(|taken| taken.lease)
    }

    /// All who were called do what they were called for; the numbers of those who got a lease.
    fn quiet(view: &View, places: &mut [Place], leases: &mut [Option<Lease>], now: Instant) -> Vec<usize> {
        let mut served = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        while let Some(nth) =
            (0..places.len()).find(|&nth| leases[nth].is_none() && places[nth].poll_called(&mut cx).is_ready())
        {
            leases[nth] = follow(view, &mut places[nth], now);
            served.extend(leases[nth].is_some().then_some(nth));
        }
        served
    }

    #[test]
    fn the_one_probe_is_for_who_came_first_though_another_is_faster() {
        let settings = Settings { half_open_probes: 1, ..Settings::default() };
        let (view, _busy, mut places) = waiting(settings);
        let later = T0 + LATER;
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(view.snapshot().turn_breakers(later), None);
        let id = view.snapshot().pool_id("app").unwrap();
        (0..2).for_each(|_| view.pool(id).queue.call());
        let [first, second, ..] = &mut places;
        assert!(second.poll_called(&mut cx).is_ready());
        assert!(follow(&view, second, later).is_none(), "there is one place, and it is the first one's");
        assert!(first.poll_called(&mut cx).is_ready());
        assert!(follow(&view, first, later).is_some());
    }

    #[test]
    fn those_who_wait_are_its_probes_when_the_time_of_an_open_breaker_is_over() {
        let (view, _busy, mut places) = waiting(Settings::default());
        let mut leases = [const { None }; 5];
        assert_eq!(quiet(&view, &mut places, &mut leases, T0), [0; 0]);
        let later = T0 + LATER;
        assert_eq!(quiet(&view, &mut places, &mut leases, later), [0; 0], "nobody has looked at the time");
        assert_eq!(view.snapshot().turn_breakers(later), None);
        assert_eq!(quiet(&view, &mut places, &mut leases, later), [0, 1, 2], "as many as there are probes");
        leases[0].as_mut().unwrap().responded(later, Verdict::Good);
        assert_eq!(quiet(&view, &mut places, &mut leases, later), [3], "the place of one that has succeeded");
        leases[1].as_mut().unwrap().responded(later, Verdict::Good);
        leases[2].as_mut().unwrap().responded(later, Verdict::Good);
        assert_eq!(states(&view, later)[0], State::Closed);
        assert_eq!(quiet(&view, &mut places, &mut leases, later), [4], "with closing there is room for all");
    }

    #[test]
    fn a_probe_that_comes_to_nothing_lets_the_next_who_waits_try_and_one_that_fails_nobody() {
        let breaker = Settings { half_open_probes: 1, ..Settings::default() };
        let (view, _busy, mut places) = waiting(breaker);
        let (mut leases, later) = ([const { None }; 5], T0 + LATER);
        view.snapshot().turn_breakers(later);
        assert_eq!(quiet(&view, &mut places, &mut leases, later), [0]);
        drop(leases[0].take());
        assert_eq!(quiet(&view, &mut places[1..], &mut leases[1..], later), [0], "which is the second");
        let mut second = leases[1].take().unwrap();
        second.responded(later, Verdict::Failed);
        drop(second);
        assert_eq!(states(&view, later)[0], State::Open);
        assert_eq!(quiet(&view, &mut places[2..], &mut leases[2..], later), [0; 0]);
    }

    #[test]
    fn of_thousands_that_are_due_at_the_same_instant_each_gets_its_probes_and_no_more() {
        let backends = (1..=2000).map(backend).collect();
        let settings = Settings { consecutive_failures: 1, half_open_probes: 2, ..Settings::default() };
        let view = view(app(backends, Some(settings)), None);
        for _ in 0..2000 {
            request(&view, T0, |index| if index % 2 == 0 { 500 } else { 200 });
        }
        let count = |now, wanted| states(&view, now).into_iter().filter(|state| *state == wanted).count();
        assert_eq!(count(T0, State::Open), 1000);
        let later = T0 + LATER;
        assert_eq!(view.snapshot().turn_breakers(later), None);
        assert_eq!(count(later, State::HalfOpen), 1000);
        let mut held = [0u32; 2000];
        let leases: Vec<_> = (0..20_000).map(|_| take(&view, later)).collect();
        leases.iter().for_each(|(_, index, _)| held[*index] += 1);
        assert!(held.iter().step_by(2).all(|&held| held == 2), "half-open");
        assert!(held.iter().skip(1).step_by(2).all(|&held| held == 18), "closed");
    }

    #[test]
    fn what_began_before_the_last_transition_is_heard_of_by_no_later_one() {
        let view = view(ports(&[1, 2]), None);
        let mut early: Vec<_> = (0..12).map(|_| take(&view, T0)).filter(|taken| taken.1 == 0).collect();
        for _ in 0..20 {
            request(&view, T0, first_fails);
        }
        let later = T0 + LATER;
        view.snapshot().turn_breakers(later);
        for (lease, ..) in &mut early[..3] {
            lease.responded(later, Verdict::Good);
        }
        assert_eq!(states(&view, later)[0], State::HalfOpen, "three good answers, of which none is a probe's");
        early.into_iter().for_each(|(lease, ..)| lease.finish(later, Outcome::BackendCut));
        assert_eq!(states(&view, later)[0], State::HalfOpen, "nor do failures of that time open it");
        while states(&view, later)[0] != State::Closed {
            request(&view, later, |_| 200);
        }
    }

    #[test]
    fn observed_breakers_open_and_let_all_through() {
        let settings = Settings { mode: Mode::Observe, ..Settings::default() };
        let view = view(app(vec![backend(1), backend(2)], Some(settings)), None);
        let to_the_first = (0..100).filter(|_| request(&view, T0, first_fails) == (0, Rung::Primaries)).count();
        assert_eq!(to_the_first, 50);
        assert_eq!(states(&view, T0), [State::Open, State::Closed]);
    }

    #[test]
    fn a_reload_keeps_the_state_and_brings_the_settings() {
        let first = view(ports(&[1, 2]), None);
        (0..3).for_each(|_| while request(&first, T0, first_fails).0 != 0 {});
        let settings = Settings { consecutive_failures: 4, ..Settings::default() };
        let second = view(app(vec![backend(1), backend(2)], Some(settings)), Some(&first));
        while request(&second, T0, first_fails).0 != 0 {}
        assert_eq!(states(&second, T0), [State::Open, State::Closed], "the fourth failure in a row");
        let off = view(app(vec![backend(1), backend(2)], None), Some(&second));
        assert!((0..4).any(|_| request(&off, T0, |_| 500) == (0, Rung::Primaries)));
        assert_eq!(states(&off, T0), [State::Open, State::Closed], "kept for when they are on again");
        let moved = view(ports(&[3, 2]), Some(&off));
        assert_eq!(states(&moved, T0), [State::Closed, State::Closed], "another address is another backend");
    }

    #[test]
    fn workers_that_fail_everything_at_once_never_open_more_than_may_be() {
        let snapshot =
            Snapshot::next(&of_pools(vec![ports(&[1, 2, 3, 4, 5, 6, 7])]), &crate::tls::Materials::default(), None);
        let snapshot = Arc::new(snapshot);
        let work = |worker| {
            let view = View::new(Arc::clone(&snapshot), None, worker, worker as u64);
            for number in 0..20_000 {
                // Nothing is open for so short a time, so none comes back.
                let now = T0 + number * Duration::from_micros(10);
                request(&view, now, |_| 500);
                let open = states(&view, now).iter().filter(|state| **state != State::Closed).count();
                assert!(open <= 3, "{open} are open");
            }
        };
        std::thread::scope(|scope| (0..4).for_each(|worker| drop(scope.spawn(move || work(worker)))));
        let view = View::new(snapshot, None, 0, 1);
        assert_eq!(states(&view, T0).iter().filter(|state| **state != State::Closed).count(), 3);
    }

    #[test]
    fn workers_that_race_for_a_half_open_backend_send_it_its_probes_and_no_more() {
        let settled = view(ports(&[1, 2]), None);
        for _ in 0..20 {
            request(&settled, T0, first_fails);
        }
        let (snapshot, now) = (Arc::clone(settled.snapshot()), T0 + LATER);
        let barrier = std::sync::Barrier::new(4);
        let work = |worker| {
            let view = View::new(Arc::clone(&snapshot), None, worker, worker as u64);
            barrier.wait();
            let held: Vec<_> = (0..1000).map(|_| take(&view, now)).collect();
            let probes = held.iter().filter(|taken| taken.1 == 0).count();
            barrier.wait();
            probes
        };
        let probes: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|worker| scope.spawn(move || work(worker))).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(probes, 3);
        let (_, pool) = snapshot.pools().next().unwrap();
        assert!(pool.backends.iter().all(|backend| backend.state.in_flight() == 0));
    }
}
