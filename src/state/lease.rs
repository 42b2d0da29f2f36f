//! One use of a backend, from the pick to its end.
//!
//! A lease counts as one in flight from the moment it is taken until it is gone, whichever way it goes, so the count can
//! not leak. What is learned from it about the backend is learned once: from [`Lease::responded`] or, when no response
//! came, from [`Lease::finish`]. A lease that is dropped unfinished teaches nothing. One taken before the backend was last
//! put back into service teaches nothing either: it tells of a time that is over. The backend's breaker hears of it all by
//! the same calls, and of a failure after the response too.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::backend::{Backend, BackendState, Epoch, Refused, Turn};
use super::health::Cuts;
use super::queue::Queue;
use crate::balance::peer_median;
use crate::breaker::{Entry, Ticket, Window};
use crate::clock::Instant;
use crate::config::Address;
use crate::outcome::{Outcome, Verdict};

/// Whether anybody reads the latency estimates of a pool; who does not, spares the writes to shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Latency {
    Unread,
    Read,
}

/// What a lease keeps of its pool for as long as it lasts: one worker's hold on the backends. Cloning it touches no memory
/// that another worker writes.
#[derive(Clone, Debug)]
pub(super) struct Hold(Rc<Held>);

#[derive(Debug)]
struct Held {
    backends: Arc<[Backend]>,
    latency: Latency,
    queue: Arc<Queue>,
    worker: usize,
    /// The worker's windows on the breakers, each made when something first happens there.
    windows: Box<[OnceCell<Arc<Window>>]>,
}

impl Hold {
    /// The hold of the worker of this number.
    pub(super) fn new(backends: Arc<[Backend]>, latency: Latency, queue: Arc<Queue>, worker: usize) -> Hold {
        let windows = backends.iter().map(|_| OnceCell::new()).collect();
        Hold(Rc::new(Held { backends, latency, queue, worker, windows }))
    }

    /// Takes the backend at `index`, which is one of the pool's.
    pub(super) fn take(&self, index: usize, now: Instant, turn: Turn, entry: Entry) -> Result<Lease, Refused> {
        let backend = &self.0.backends[index];
        let withdrawals = backend.state.withdrawals();
        let mut ticket = self.pass_breaker(index, now, entry)?;
        let epoch = match backend.state.take_as(turn, backend.limit) {
            Ok(epoch) => epoch,
            Err(refused) => {
                backend.state.breaker().give_back(&mut ticket);
                return Err(refused);
            }
        };
        let cuts = backend.state.checkup().cuts();
        let index = u32::try_from(index).expect("a pool has fewer backends than that");
        Ok(Lease { hold: self.clone(), index, epoch, ticket, withdrawals, cuts, sent: now, judged: None })
    }

    pub(super) fn backends(&self) -> &[Backend] {
        &self.0.backends
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.0.queue
    }

    /// This worker's window on the breaker of the backend at `index`.
    pub(super) fn window(&self, index: usize) -> &Window {
        self.0.windows[index].get_or_init(|| self.0.backends[index].state.breaker().window(self.0.worker))
    }
}

/// One use of a backend. Dropping it ends the use and says nothing about the backend.
#[derive(Debug)]
#[must_use = "dropping a lease gives the backend back at once"]
pub struct Lease {
    hold: Hold,
    /// Its place in the pool. All of a lease is kept small: it is handed from step to step.
    index: u32,
    epoch: Epoch,
    ticket: Ticket,
    /// How often the backend had been withdrawn.
    withdrawals: u64,
    /// How often the backend's sessions had been cut before.
    cuts: Cuts,
    /// From when the latency sample counts.
    sent: Instant,
    /// How the backend was judged by this lease already.
    judged: Option<Verdict>,
}

impl Lease {
    /// The backend as the configuration in force at the pick describes it.
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.hold.0.backends[self.index()]
    }

    fn index(&self) -> usize {
        self.index as usize
    }

    /// What is going on at the backend.
    #[must_use]
    pub fn state(&self) -> &Arc<BackendState> {
        &self.backend().state
    }

    /// Where the backend is.
    #[must_use]
    pub fn address(&self) -> &Address {
        self.backend().address()
    }

    /// Whether the use must end now, because the backend's time to drain is over.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.state().is_cut()
    }

    /// Whether the backend was [withdrawn](BackendState::withdraw) since this was taken.
    #[must_use]
    pub fn is_withdrawn(&self) -> bool {
        self.state().withdrawals() != self.withdrawals
    }

    /// Whether a session (TCP, or an upgraded connection) must end now: the use must, or the backend went down and its sessions
    /// are not to survive that. A request under way goes on, it has its own deadlines.
    #[must_use]
    pub fn session_is_cut(&self) -> bool {
        self.is_cut() || self.state().checkup().cuts() != self.cuts
    }

    /// The last byte of the request was sent at `now`: the latency sample starts here. Without this it starts at the pick.
    pub fn sent(&mut self, now: Instant) {
        self.sent = now;
    }

    /// From when the latency sample counts.
    #[must_use]
    pub fn sent_at(&self) -> Instant {
        self.sent
    }

    /// The response's head came at `now` (L4: the connection stands), with this verdict. Only the first call counts.
    pub fn responded(&mut self, now: Instant, verdict: Verdict) {
        self.responded_after(now, now.since(self.sent), verdict);
    }

    /// The same of a response that began so long after the request, of which there is no verdict before `now`.
    pub fn responded_after(&mut self, now: Instant, took: Duration, verdict: Verdict) {
        if self.judged.is_some() {
            return;
        }
        self.judged = Some(verdict);
        if !self.is_current() {
            return;
        }
        match verdict {
            Verdict::Good => self.hold.tell_success(self.index(), &mut self.ticket, now, took),
            Verdict::Failed => self.hold.tell_failure(self.index(), &mut self.ticket, now),
        }
        if self.hold.0.latency == Latency::Unread {
            return;
        }
        match verdict {
            Verdict::Good => self.state().observe(now, took),
            Verdict::Failed => {
                let median = peer_median(&self.hold.0.backends, self.index(), now);
                self.state().observe_failure(now, took, median);
            }
        }
    }

    /// The use ended at `now`. If that was the backend's fault it is a failure, unless it was told as one already; of
    /// its speed only the response tells.
    pub fn finish(mut self, now: Instant, outcome: Outcome) {
        self.judge(now, outcome);
    }

    /// The same while the place at the backend is kept for a moment, to see what the failure has come to.
    pub fn judge(&mut self, now: Instant, outcome: Outcome) {
        match self.judged {
            _ if !outcome.is_failure() => {}
            None => self.responded(now, Verdict::Failed),
            Some(Verdict::Good) if self.is_current() => self.hold.tell_failure(self.index(), &mut self.ticket, now),
            Some(_) => {}
        }
    }

    /// Whether the backend is in service as it was when this was taken.
    fn is_current(&self) -> bool {
        self.state().epoch() == self.epoch
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // The backend by its field, for the ticket is changed at the same time.
        let state = &self.hold.0.backends[self.index as usize].state;
        state.breaker().give_back(&mut self.ticket);
        if state.release() {
            self.hold.0.queue.call();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::config::Service;
    use crate::state::backend::{BackendKey, Transport};
    use crate::state::health::{Health, Sessions};

    const T0: Instant = Instant::ORIGIN;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn hold(backends: u64, latency: Latency) -> Hold {
        let backend = |id: u64| {
            let address = Address::Unix(format!("/run/{id}").into());
            let key = BackendKey { pool: "app".into(), address, transport: Transport::Plain };
            let state = Arc::new(BackendState::new(id, key));
            Backend {
                name: "a".into(),
                weight: 1,
                slow_start: None,
                limit: None,
                backup: false,
                service: Service::Active,
                breaker: None,
                state,
            }
        };
        Hold::new((0..backends).map(backend).collect(), latency, Arc::default(), 0)
    }

    fn estimate(hold: &Hold, index: usize, now: Instant) -> Option<Duration> {
        hold.0.backends[index].state.latency().read(now)
    }

    /// One use of `index` that takes `millis` to answer.
    fn answer(hold: &Hold, index: usize, millis: u64, verdict: Verdict) {
        let mut lease = hold.take(index, T0, Turn::Newcomer, Entry::Asked).unwrap();
        lease.responded(T0 + ms(millis), verdict);
        lease.finish(T0 + ms(millis), Outcome::Completed { status: 200 });
    }

    fn is_about(found: Option<Duration>, wanted: Duration) -> bool {
        found.is_some_and(|found| found.abs_diff(wanted) < ms(1))
    }

    #[test]
    fn it_counts_as_in_flight_until_it_is_gone_whichever_way() {
        let hold = hold(1, Latency::Read);
        let (a, b) = (
            hold.take(0, T0, Turn::Newcomer, Entry::Asked).unwrap(),
            hold.take(0, T0, Turn::Newcomer, Entry::Asked).unwrap(),
        );
        let state = Arc::clone(a.state());
        assert_eq!(state.in_flight(), 2);
        a.finish(T0, Outcome::Completed { status: 200 });
        assert_eq!(state.in_flight(), 1);
        drop(b);
        assert_eq!(state.in_flight(), 0);
    }

    #[test]
    fn the_sample_runs_from_the_last_request_byte_to_the_response_head() {
        let hold = hold(1, Latency::Read);
        let mut lease = hold.take(0, T0, Turn::Newcomer, Entry::Asked).unwrap();
        lease.sent(T0 + ms(500));
        lease.responded(T0 + ms(520), Verdict::Good);
        lease.responded(T0 + ms(900), Verdict::Failed);
        assert!(is_about(estimate(&hold, 0, T0 + ms(520)), ms(20)), "only the first response is the sample");
    }

    #[test]
    fn a_quick_failure_reads_as_twice_the_median_of_its_peers() {
        let hold = hold(4, Latency::Read);
        for (index, millis) in [(1, 30), (2, 40), (3, 50)] {
            answer(&hold, index, millis, Verdict::Good);
        }
        answer(&hold, 0, 1, Verdict::Failed);
        let read = estimate(&hold, 0, T0 + ms(50)).unwrap();
        assert!(read > ms(75) && read < ms(85), "{read:?}");
    }

    #[test]
    fn only_an_ending_by_the_backends_fault_is_a_failure_and_only_before_a_response() {
        let hold = hold(2, Latency::Read);
        answer(&hold, 1, 30, Verdict::Good);
        for outcome in [Outcome::ClientGone, Outcome::StaleIdle, Outcome::Cut] {
            hold.take(0, T0, Turn::Newcomer, Entry::Asked).unwrap().finish(T0 + ms(1), outcome);
            assert_eq!(estimate(&hold, 0, T0), None, "{outcome:?}");
        }
        let mut answered = hold.take(0, T0, Turn::Newcomer, Entry::Asked).unwrap();
        answered.responded(T0 + ms(5), Verdict::Good);
        answered.finish(T0 + ms(900), Outcome::BackendCut);
        assert!(is_about(estimate(&hold, 0, T0 + ms(5)), ms(5)));
        hold.take(0, T0, Turn::Newcomer, Entry::Asked).unwrap().finish(T0 + ms(5), Outcome::ConnectFailed);
        assert!(estimate(&hold, 0, T0 + ms(5)).unwrap() > ms(50));
    }

    #[test]
    fn dropped_unfinished_it_teaches_nothing() {
        let hold = hold(1, Latency::Read);
        drop(hold.take(0, T0, Turn::Newcomer, Entry::Asked).unwrap());
        assert_eq!(estimate(&hold, 0, T0), None);
    }

    #[test]
    fn what_was_taken_before_the_backend_came_back_teaches_nothing() {
        let hold = hold(1, Latency::Read);
        let mut lease = hold.take(0, T0, Turn::Newcomer, Entry::Asked).unwrap();
        lease.state().drain();
        lease.state().restore();
        lease.responded(T0 + ms(5), Verdict::Good);
        assert_eq!(estimate(&hold, 0, T0), None);
    }

    #[test]
    fn a_pool_whose_policy_reads_no_latency_is_spared_the_writes() {
        let hold = hold(1, Latency::Unread);
        answer(&hold, 0, 5, Verdict::Good);
        assert_eq!(hold.0.backends[0].state.latency(), crate::balance::Estimate::UNKNOWN);
    }

    #[test]
    fn the_limit_is_that_of_the_configuration_in_force_at_the_pick() {
        let held = hold(1, Latency::Unread);
        let mut lower = held.0.backends.to_vec();
        lower[0].limit = NonZeroU32::new(1);
        let lower = Hold::new(lower.into(), Latency::Unread, Arc::default(), 0);
        let _first = held.take(0, T0, Turn::Newcomer, Entry::Asked).unwrap();
        assert_eq!(lower.take(0, T0, Turn::Newcomer, Entry::Asked).unwrap_err(), Refused::Full);
        assert!(held.take(0, T0, Turn::Newcomer, Entry::Asked).is_ok());
    }

    #[test]
    fn a_cut_reaches_the_leases_that_are_out() {
        let hold = hold(1, Latency::Unread);
        let lease = hold.take(0, T0, Turn::Newcomer, Entry::Asked).unwrap();
        assert!(!lease.is_cut());
        lease.state().cut();
        assert!(lease.is_cut());
    }

    #[test]
    fn a_withdrawal_is_for_the_leases_that_are_out() {
        let hold = hold(1, Latency::Unread);
        let before = hold.take(0, T0, Turn::Newcomer, Entry::Asked).unwrap();
        before.state().withdraw();
        let after = hold.take(0, T0, Turn::Newcomer, Entry::Asked).unwrap();
        assert!(before.is_withdrawn());
        assert!(!after.is_withdrawn(), "whoever takes it all the same, as the last resort, knows what he does");
    }

    #[test]
    fn a_backend_that_goes_down_cuts_the_sessions_that_are_out_and_no_later_ones() {
        let hold = hold(1, Latency::Unread);
        let before = hold.take(0, T0, Turn::Newcomer, Entry::Asked).unwrap();
        assert!(!before.session_is_cut());
        before.state().checkup().say(Health::Down, Sessions::Cut);
        assert!(before.session_is_cut() && !before.is_cut());
        let last_resort = hold.take(0, T0, Turn::Newcomer, Entry::Asked).unwrap();
        before.state().checkup().say(Health::Up, Sessions::Kept);
        assert!(before.session_is_cut() && !last_resort.session_is_cut());
    }

    /// Run as the models of `backend.rs` are.
    #[cfg(evenkeel_loom)]
    mod loom_models {
        use super::*;
        use loom::thread;

        /// Two workers want the one place of a backend while it is taken out of service.
        #[test]
        fn leases_a_drain_and_a_limit_leave_nothing_in_flight() {
            loom::model(|| {
                let mut backends = hold(1, Latency::Unread).0.backends.to_vec();
                backends[0].limit = NonZeroU32::new(1);
                let backends: Arc<[Backend]> = backends.into();
                let worker = |backends: Arc<[Backend]>| {
                    let hold = Hold::new(backends, Latency::Unread, Arc::default(), 0);
                    if let Ok(lease) = hold.take(0, T0, Turn::Newcomer, Entry::Asked) {
                        assert_eq!(lease.state().in_flight(), 1);
                        assert!(!lease.state().is_drained());
                        lease.finish(T0, Outcome::Completed { status: 200 });
                    }
                };
                let other = {
                    let backends = Arc::clone(&backends);
                    thread::spawn(move || worker(backends))
                };
                let third = {
                    let backends = Arc::clone(&backends);
                    thread::spawn(move || worker(backends))
                };
                let state = &backends[0].state;
                state.drain();
                other.join().unwrap();
                third.join().unwrap();
                assert!(state.is_drained());
            });
        }
    }
}
