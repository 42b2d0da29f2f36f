//! How backends leave: those that a reload removed, and those in maintenance, finish what they have in flight, until
//! nothing is left or `reload.drain_timeout` is over; then the rest is cut.
//!
//! Leaving ends by count or deadline. A later reload moves no deadline: it only adds who leaves now as well, and forgets who
//! is back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::worker::Mail;
use crate::clock::{self, Instant};
use crate::state::BackendState;

/// How often the counts are looked at while somebody leaves. Nobody waits for the answer, so it need not be fast.
const LOOK: Duration = Duration::from_millis(100);

/// Orders that may wait; one comes with each reload.
const ORDERS: usize = 16;

/// All who are to leave under the newest snapshot, and how long those who are new among them have.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) leaving: Vec<Arc<BackendState>>,
    pub(super) timeout: Duration,
}

/// Those who are on their way out.
#[derive(Debug, Default)]
struct Leaving(Vec<Leaver>);

#[derive(Debug)]
struct Leaver {
    state: Arc<BackendState>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Finishing what it has.
    Until(Instant),
    /// Nothing is left to do. It is kept in the list so that the next order does not start it over.
    Over,
}

/// One that has left.
#[derive(Debug)]
struct Departure<'a> {
    state: &'a BackendState,
    /// How much it still had in flight when its time was over; nothing, if all was finished.
    left_over: u32,
}

impl Leaving {
    fn follow(&mut self, order: Order, now: Instant) {
        let mut before = std::mem::take(&mut self.0);
        self.0 = order
            .leaving
            .into_iter()
            .map(|state| match before.iter().position(|leaver| leaver.state.id() == state.id()) {
                Some(place) => before.swap_remove(place),
                None => Leaver::new(state, now + order.timeout),
            })
            .collect();
    }

    fn is_over(&self) -> bool {
        self.0.iter().all(|leaver| leaver.stage == Stage::Over)
    }

    /// Looks at the counts and says who has left since the last time.
    fn look(&mut self, now: Instant) -> Vec<Departure<'_>> {
        self.0.iter_mut().filter_map(|leaver| leaver.look(now)).collect()
    }
}

impl Leaver {
    fn new(state: Arc<BackendState>, deadline: Instant) -> Leaver {
        // It takes nothing new any more, so nothing in flight now is nothing for good.
        let stage = if state.in_flight() == 0 { Stage::Over } else { Stage::Until(deadline) };
        Leaver { state, stage }
    }

    fn look(&mut self, now: Instant) -> Option<Departure<'_>> {
        let Stage::Until(deadline) = self.stage else { return None };
        // A newer snapshot has put it back, and the order that says so is still on its way.
        if !self.state.is_draining() {
            return None;
        }
        let left_over = self.state.in_flight();
        if left_over > 0 && now < deadline {
            return None;
        }
        self.stage = Stage::Over;
        Some(Departure { state: &self.state, left_over })
    }
}

/// Where orders are sent to [`attend`].
pub(super) fn orders() -> (mpsc::Sender<Order>, mpsc::Receiver<Order>) {
    mpsc::channel(ORDERS)
}

/// Sees everybody out, for as long as orders may come. It wakes up only for an order or while somebody leaves.
///
/// The mailboxes are weak: they must not keep the workers alive when control lets go of them.
pub(super) async fn attend(mut orders: mpsc::Receiver<Order>, workers: Vec<mpsc::WeakSender<Mail>>) {
    let mut leaving = Leaving::default();
    loop {
        // Cancelling loses nothing: an order is received whole or not, and the sleep is started anew.
        tokio::select! {
            order = orders.recv() => match order {
                Some(order) => leaving.follow(order, clock::now()),
                None => return,
            },
            () = tokio::time::sleep(LOOK), if !leaving.is_over() => {}
        }
        let departures = leaving.look(clock::now());
        departures.iter().for_each(Departure::carry_out);
        if departures.iter().any(|departure| departure.left_over > 0) {
            wake(&workers);
        }
    }
}

impl Departure<'_> {
    fn carry_out(&self) {
        let key = self.state.key();
        if self.left_over == 0 {
            tracing::info!(pool = %key.pool, address = %key.address, "backend drained");
        } else {
            self.state.cut();
            tracing::info!(pool = %key.pool, address = %key.address, in_flight = self.left_over, "backend cut");
        }
    }
}

/// Makes every session look at what it stands on.
pub(super) fn wake(workers: &[mpsc::WeakSender<Mail>]) {
    for mailbox in workers.iter().filter_map(mpsc::WeakSender::upgrade) {
        // Full: so many messages wait that one of them wakes the sessions anyway, or the worker is stuck.
        let _ = mailbox.try_send(Mail::Wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Address;
    use crate::state::{BackendKey, Transport};

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn backend(id: u64) -> Arc<BackendState> {
        let address = Address::Unix(format!("/run/{id}").into());
        Arc::new(BackendState::new(id, BackendKey { pool: "app".into(), address, transport: Transport::Plain }))
    }

    /// As it follows when a snapshot was settled: all of them take nothing new any more.
    fn order(leaving: &[&Arc<BackendState>]) -> Order {
        leaving.iter().for_each(|state| state.drain());
        Order { leaving: leaving.iter().map(|&state| Arc::clone(state)).collect(), timeout: TIMEOUT }
    }

    /// Who has left, and with how much left over.
    fn look(leaving: &mut Leaving, now: Instant) -> Vec<(u64, u32)> {
        leaving.look(now).iter().map(|departure| (departure.state.id(), departure.left_over)).collect()
    }

    fn at(seconds: u64) -> Instant {
        Instant::ORIGIN + Duration::from_secs(seconds)
    }

    #[test]
    fn one_with_nothing_in_flight_is_gone_at_once() {
        let (idle, mut leaving) = (backend(1), Leaving::default());
        leaving.follow(order(&[&idle]), at(0));
        assert!(leaving.is_over());
        assert_eq!(look(&mut leaving, at(31)), []);
    }

    #[test]
    fn one_that_is_busy_leaves_when_its_last_request_has_ended() {
        let (busy, mut leaving) = (backend(1), Leaving::default());
        busy.take(None).unwrap();
        leaving.follow(order(&[&busy]), at(0));
        assert_eq!(look(&mut leaving, at(29)), []);
        assert!(!leaving.is_over());
        busy.release();
        assert_eq!(look(&mut leaving, at(29)), [(1, 0)]);
        leaving.follow(order(&[&busy]), at(30));
        assert!(leaving.is_over(), "once is enough");
    }

    #[test]
    fn what_is_left_at_the_deadline_is_cut_and_a_reload_does_not_move_it() {
        let (busy, other, mut leaving) = (backend(1), backend(2), Leaving::default());
        busy.take(None).unwrap();
        other.take(None).unwrap();
        leaving.follow(order(&[&busy]), at(0));
        leaving.follow(order(&[&other, &busy]), at(20));
        assert_eq!(look(&mut leaving, at(30)), [(1, 1)]);
        assert_eq!(look(&mut leaving, at(49)), []);
        assert_eq!(look(&mut leaving, at(50)), [(2, 1)]);
    }

    #[test]
    fn one_that_comes_back_is_forgotten_and_starts_over_when_it_leaves_again() {
        let (busy, mut leaving) = (backend(1), Leaving::default());
        busy.take(None).unwrap();
        leaving.follow(order(&[&busy]), at(0));
        leaving.follow(order(&[]), at(10));
        assert!(leaving.is_over());
        leaving.follow(order(&[&busy]), at(20));
        assert_eq!(look(&mut leaving, at(31)), [], "the first deadline counts no more");
        assert_eq!(look(&mut leaving, at(50)), [(1, 1)]);
    }

    #[test]
    fn one_that_was_put_back_is_not_cut_though_the_order_that_says_so_is_still_to_come() {
        let (busy, mut leaving) = (backend(1), Leaving::default());
        busy.take(None).unwrap();
        leaving.follow(order(&[&busy]), at(0));
        busy.restore();
        assert_eq!(look(&mut leaving, at(31)), []);
        leaving.follow(order(&[]), at(31));
        assert!(leaving.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_is_cut_and_the_workers_are_woken_when_the_time_is_over() {
        let (mailbox, mut inbox) = mpsc::channel(4);
        let (send, receive) = orders();
        let attendant = tokio::spawn(attend(receive, vec![mailbox.downgrade()]));
        let (busy, idle) = (backend(1), backend(2));
        busy.take(None).unwrap();
        send.send(order(&[&busy, &idle])).await.unwrap();
        let before = clock::now();
        assert!(matches!(inbox.recv().await, Some(Mail::Wake)));
        assert!(busy.is_cut() && !idle.is_cut());
        let waited = clock::now().since(before);
        assert!(waited >= TIMEOUT && waited <= TIMEOUT + 2 * LOOK, "{waited:?}");
        drop(send);
        attendant.await.unwrap();
    }
}
