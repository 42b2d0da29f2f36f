//! Watching over one backend: wait, ask, tell, without end.
//!
//! One task asks one backend, so no two probes of it overlap. Of all backends together only so many are asked at once; who
//! waits for a place has not begun, so waiting costs nobody its time.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};

use super::Subject;
use super::answer::{Answer, Fault};
use super::schedule::{self, Asked};
use super::streak::{Finding, Streak, Transition};
use crate::balance::Dice;
use crate::clock::{self, Instant};
use crate::state::{BackendState, Health};

/// How often it is said that probes can not be made.
const COMPLAINT: Duration = Duration::from_secs(10);

/// What all checkers of the thread share.
pub(super) struct Shared {
    slots: Semaphore,
    dice: RefCell<Dice>,
    /// Told that a backend went down.
    pub(super) fallen: Notify,
    complained: Cell<Option<Instant>>,
}

impl Shared {
    pub(super) fn new(slots: usize, dice: Dice) -> Rc<Shared> {
        let (fallen, complained) = (Notify::new(), Cell::new(None));
        Rc::new(Shared { slots: Semaphore::new(slots), dice: RefCell::new(dice), fallen, complained })
    }

    /// Says that a probe could not be made, now and then: it is the same for all of them.
    fn complain(&self, subject: &Subject, error: &io::Error) {
        let now = clock::now();
        if self.complained.get().is_none_or(|last| now.since(last) >= COMPLAINT) {
            self.complained.set(Some(now));
            let (pool, backend) = (&subject.state.key().pool, &subject.name);
            tracing::warn!(%pool, %backend, %error, "health checks can not be made: backends stay as they are");
        }
    }
}

/// Asks `subject` through `ask` again and again.
pub(super) async fn check(subject: Subject, shared: Rc<Shared>, ask: impl AsyncFn(&Subject) -> Answer) {
    let check = Arc::clone(&subject.check);
    let mut streak = Streak::resume(subject.state.checkup().health(), &check);
    let mut asked = Asked::Never;
    let mut next = schedule::first(&check, streak.health(), clock::now(), &mut shared.dice.borrow_mut());
    loop {
        tokio::time::sleep_until(clock::timer(next)).await;
        let slot = shared.slots.acquire().await.expect("nobody closes the semaphore");
        let began = clock::now();
        let answer = ask(&subject).await;
        drop(slot);
        let ended = clock::now();
        if tell(&subject, &shared, &mut streak, answer, (began, ended)) {
            asked = Asked::Before;
        }
        next = schedule::next(&check, streak.health(), asked, began, ended, &mut shared.dice.borrow_mut());
    }
}

/// Says whether the answer told of the backend.
fn tell(
    subject: &Subject,
    shared: &Shared,
    streak: &mut Streak,
    answer: Answer,
    (began, ended): (Instant, Instant),
) -> bool {
    let (finding, fault) = match answer {
        Answer::Good => (Finding::Good, None),
        Answer::Bad(fault) => (Finding::Bad, Some(fault)),
        Answer::Unable(error) => {
            shared.complain(subject, &error);
            return false;
        }
    };
    let checkup = subject.state.checkup();
    checkup.note_probe(ended, ended.since(began), fault.as_ref().map(|fault| fault.to_string().into()));
    if let Some(transition) = streak.observe(finding) {
        subject.follow(transition, ended);
        if transition.is_turn() && transition.to.is_down() {
            shared.fallen.notify_one();
        }
        log(subject, transition, fault.as_ref());
    }
    true
}

/// Before it is said that a backend is up, `from` being what was said until now. One that was down just because nobody had
/// asked yet comes from nowhere when the process begins, and into a pool at work when a reload has brought it.
pub(super) fn come_back(state: &BackendState, from: Health, now: Instant) {
    if from != Health::Unasked || state.came_back().is_some() {
        state.come_back(now);
    }
}

fn log(subject: &Subject, transition: Transition, fault: Option<&Fault>) {
    let Transition { from, to } = transition;
    let (pool, backend, address) = (&subject.state.key().pool, &subject.name, &subject.state.key().address);
    match (fault, transition.is_turn() || from == Health::Unasked) {
        (Some(cause), true) => tracing::warn!(%pool, %backend, %address, %from, %to, %cause, "backend is down"),
        (None, true) => {
            tracing::info!(%pool, %backend, %address, %from, %to, cause = "probes succeed", "backend is up")
        }
        (Some(cause), false) => tracing::debug!(%pool, %backend, %from, %to, %cause, "probe failed"),
        (None, false) => tracing::debug!(%pool, %backend, %from, %to, "probe succeeded"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HealthCheck, OnDown};
    use crate::health::answer::Stage;
    use crate::health::fixture::{check as usual, subject};
    use crate::state::Sessions;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn bad() -> Answer {
        Answer::Bad(Fault::Timeout { after: ms(1), stage: Stage::Waiting })
    }

    fn quick() -> HealthCheck {
        HealthCheck { jitter: 0.0, fast_interval: ms(500), down_interval: ms(5000), ..usual() }
    }

    /// Lets one backend be asked for `lasts`, with an answer by the number of the probe after so long; says when each began.
    async fn run(subject: &Subject, lasts: Duration, answer: impl Fn(usize) -> (Duration, Answer)) -> Vec<Instant> {
        let shared = Shared::new(8, Dice::seeded(3));
        run_with(&shared, subject, lasts, answer).await
    }

    async fn run_with(
        shared: &Rc<Shared>,
        subject: &Subject,
        lasts: Duration,
        answer: impl Fn(usize) -> (Duration, Answer),
    ) -> Vec<Instant> {
        let begun = RefCell::new(Vec::new());
        let ask = async |_: &Subject| {
            begun.borrow_mut().push(clock::now());
            let (takes, answer) = answer(begun.borrow().len());
            tokio::time::sleep(takes).await;
            answer
        };
        let _ = tokio::time::timeout(lasts, check(subject.clone(), Rc::clone(shared), ask)).await;
        begun.into_inner()
    }

    fn gaps(begun: &[Instant]) -> Vec<u128> {
        begun.windows(2).map(|pair| pair[1].since(pair[0]).as_millis()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn probes_come_in_the_period_of_the_state_they_bring_about() {
        let subject = subject(1, quick());
        let begun = run(&subject, ms(20_000), |number| match number {
            2..=5 => (ms(10), bad()),
            _ => (ms(10), Answer::Good),
        });
        // up; going down twice; down twice; going up; up
        assert_eq!(gaps(&begun.await)[..8], [2000, 500, 500, 5000, 5000, 500, 2000, 2000]);
        assert_eq!(subject.state.checkup().health(), Health::Up);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_takes_long_is_never_overtaken_by_the_next() {
        let subject = subject(1, HealthCheck { interval: ms(100), fast_interval: ms(100), ..quick() });
        let begun = run(&subject, ms(2000), |_| (ms(350), Answer::Good)).await;
        assert!(gaps(&begun).iter().all(|&gap| gap == 350), "{:?}", gaps(&begun));
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_are_asked_at_once_and_waiting_is_not_held_against_anybody() {
        let shared = Shared::new(2, Dice::seeded(3));
        let (now, most) = (Cell::new(0), Cell::new(0));
        let subjects: Vec<_> = (0..10).map(|id| subject(id, quick())).collect();
        let ask = async |_: &Subject| {
            now.set(now.get() + 1);
            most.set(most.get().max(now.get()));
            tokio::time::sleep(ms(400)).await;
            now.set(now.get() - 1);
            Answer::Good
        };
        let one = |subject: &Subject| check(subject.clone(), Rc::clone(&shared), ask);
        let mut all: Vec<_> = subjects.iter().map(|subject| Box::pin(one(subject))).collect();
        let together = std::future::poll_fn(|cx| {
            for checker in &mut all {
                assert!(checker.as_mut().poll(cx).is_pending());
            }
            std::task::Poll::<()>::Pending
        });
        let _ = tokio::time::timeout(ms(10_000), together).await;
        assert_eq!(most.get(), 2);
        for subject in &subjects {
            let probed = subject.state.checkup().probed();
            assert_eq!(probed.last.map(|(_, took)| took), Some(ms(400)));
            assert_eq!((subject.state.checkup().health(), probed.failed), (Health::Up, None));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_can_not_be_asked_stays_as_it_is() {
        let subject = subject(1, quick());
        subject.state.checkup().say(Health::Down, Sessions::Kept);
        let lacking = || Answer::Unable(io::Error::other("no descriptors"));
        let begun = run(&subject, ms(5000), |_| (ms(0), lacking())).await;
        assert!(gaps(&begun).iter().all(|&gap| gap == 500), "soon again: {:?}", gaps(&begun));
        assert_eq!(subject.state.checkup().health(), Health::Down);
        assert_eq!(subject.state.checkup().probed().last, None);
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_are_cut_once_at_the_turn_to_down_where_the_check_says_so() {
        for (on_down, cuts) in [(OnDown::CloseSessions, true), (OnDown::KeepSessions, false)] {
            let subject = subject(1, HealthCheck { on_down, ..quick() });
            let before = subject.state.checkup().cuts();
            let shared = Shared::new(1, Dice::seeded(3));
            run_with(&shared, &subject, ms(12_000), |_| (ms(1), bad())).await;
            assert_eq!(subject.state.checkup().health(), Health::Down);
            let after = subject.state.checkup().cuts();
            assert_eq!(after != before, cuts);
            let told = tokio::time::timeout(ms(1), shared.fallen.notified()).await.is_ok();
            assert!(told, "what waits for a response of it may go elsewhere in any case");
            let probed = subject.state.checkup().probed();
            assert!(probed.changed.is_some());
            assert_eq!(&*probed.failed.unwrap().1, "not within 1ms: an answer");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_goes_up_again_comes_back_and_one_that_is_first_asked_as_the_process_begins_does_not() {
        let subject = subject(1, HealthCheck { initial: crate::config::Initial::Down, ..quick() });
        let begun = run(&subject, ms(1000), |_| (ms(1), Answer::Good)).await;
        assert_eq!((begun.is_empty(), subject.state.came_back()), (false, None));
        run(&subject, ms(30_000), |number| (ms(1), if number <= 3 { bad() } else { Answer::Good })).await;
        assert_eq!(subject.state.checkup().health(), Health::Up);
        assert_eq!(subject.state.came_back(), subject.state.checkup().probed().changed);
    }

    #[test]
    fn one_that_a_reload_has_brought_comes_back_when_it_is_first_found_well() {
        let (subject, t0) = (subject(1, quick()), Instant::ORIGIN);
        subject.state.come_back(t0 + ms(5));
        come_back(&subject.state, Health::Unasked, t0 + ms(900));
        assert_eq!(subject.state.came_back(), Some(t0 + ms(900)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_begins_down_is_up_with_its_first_success() {
        let subject = subject(1, HealthCheck { initial: crate::config::Initial::Down, ..quick() });
        assert_eq!(subject.state.checkup().health(), Health::Unasked);
        run(&subject, ms(600), |_| (ms(1), Answer::Good)).await;
        assert_eq!(subject.state.checkup().health(), Health::Up);
    }
}
