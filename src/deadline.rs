//! A deadline that is moved often and passes seldom.
//!
//! A connection has one [`Deadline`] and sets it anew at every step of a request. The timer underneath is touched only
//! when the new deadline is earlier than what the timer stands at; when the timer fires too early it is set to where the
//! deadline has moved meanwhile. So a busy keep-alive connection costs one timer operation in many seconds, not several a
//! request, and an idle one sleeps. This was taken instead of a wheel of our own because nothing is left to save: the timer is
//! not touched per request at all.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::Sleep;

use crate::clock::{self, Instant};

/// A point in time that a task must not wait beyond.
#[derive(Debug, Default)]
pub struct Deadline {
    due: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    armed: Instant,
}

impl Deadline {
    /// Moves it to `at`.
    pub fn set(&mut self, at: Instant) {
        self.due = Some(at);
    }

    /// There is none from now on.
    pub fn clear(&mut self) {
        self.due = None;
    }

    /// Ready when it has passed; pending for ever when there is none.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.due else { return Poll::Pending };
        loop {
            let timer = match &mut self.timer {
                Some(timer) if self.armed <= due => timer,
                Some(timer) => {
                    timer.as_mut().reset(clock::timer(due));
                    self.armed = due;
                    timer
                }
                none => {
                    self.armed = due;
                    none.insert(Box::pin(tokio::time::sleep_until(clock::timer(due))))
                }
            };
            std::task::ready!(timer.as_mut().poll(cx));
            if self.armed >= due || clock::now() >= due {
                return Poll::Ready(());
            }
            // It fired where the deadline stood earlier. Later than any due time, so that the loop arms it anew.
            self.armed = due + std::time::Duration::from_nanos(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn passes_after(deadline: &mut Deadline) -> Duration {
        let begin = clock::now();
        std::future::poll_fn(|cx| deadline.poll(cx)).await;
        clock::now().since(begin)
    }

    #[tokio::test(start_paused = true)]
    async fn it_passes_at_its_time_when_moved_later_and_when_moved_earlier() {
        let mut deadline = Deadline::default();
        deadline.set(clock::now() + Duration::from_secs(10));
        assert!(std::future::poll_fn(|cx| Poll::Ready(deadline.poll(cx).is_pending())).await);
        deadline.set(clock::now() + Duration::from_secs(30));
        let late = passes_after(&mut deadline).await;
        assert!(late >= Duration::from_secs(30) && late < Duration::from_secs(31), "{late:?}");

        deadline.set(clock::now() + Duration::from_secs(60));
        assert!(std::future::poll_fn(|cx| Poll::Ready(deadline.poll(cx).is_pending())).await);
        deadline.set(clock::now() + Duration::from_secs(2));
        let early = passes_after(&mut deadline).await;
        assert!(early >= Duration::from_secs(2) && early < Duration::from_secs(3), "{early:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_time_it_never_passes() {
        let mut deadline = Deadline::default();
        deadline.set(clock::now() + Duration::from_secs(1));
        deadline.clear();
        let waited = tokio::time::timeout(Duration::from_secs(100), passes_after(&mut deadline)).await;
        assert!(waited.is_err());
    }
}
