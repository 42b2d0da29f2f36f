//! What backends go through, heard from the log: each change of one's health or breaker as a value, with the cause that was
//! logged with it. For who shows them in a form of its own; the log does without them then.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use crate::clock::{self, Instant};

/// How many are kept until somebody takes them.
const KEPT: usize = 1000;

/// One change at one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// When it was logged.
    pub at: Instant,
    /// The pool's name.
    pub pool: String,
    /// The backend's name.
    pub backend: String,
    /// What happened, in the log's words.
    pub message: String,
    /// The state before, where there is another now.
    pub from: String,
    /// The state now.
    pub to: String,
    /// Why.
    pub cause: String,
}

/// The changes since they were last taken.
#[derive(Clone, Debug, Default)]
pub struct Turns(Arc<Mutex<VecDeque<Turn>>>);

impl Turns {
    /// All that are new, the oldest first.
    #[must_use]
    pub fn take(&self) -> Vec<Turn> {
        self.lock().drain(..).collect()
    }

    fn keep(&self, turn: Turn) {
        let mut kept = self.lock();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(turn);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Turn>> {
        // Nothing that holds it can leave it half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether such events tell of a change at a backend: all that name one and say to what it came, or why it did not.
#[must_use]
pub fn is_turn(event: &Metadata<'_>) -> bool {
    let has = |name| event.fields().field(name).is_some();
    event.is_event() && has("pool") && has("backend") && (has("to") || has("reason"))
}

impl<S: Subscriber> Layer<S> for Turns {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if is_turn(event.metadata()) {
            let mut turn = Turn { at: clock::now(), ..Turn::default() };
            event.record(&mut turn);
            self.keep(turn);
        }
    }
}

impl Turn {
    fn part(&mut self, field: &Field) -> Option<&mut String> {
        match field.name() {
            "pool" => Some(&mut self.pool),
            "backend" => Some(&mut self.backend),
            "message" => Some(&mut self.message),
            "from" => Some(&mut self.from),
            "to" => Some(&mut self.to),
            "cause" | "reason" => Some(&mut self.cause),
            _ => None,
        }
    }
}

impl Visit for Turn {
    fn record_str(&mut self, field: &Field, value: &str) {
        if let Some(part) = self.part(field) {
            *part = plain(value);
        }
    }

    /// What is logged by its `Display` comes here too.
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if let Some(part) = self.part(field) {
            *part = plain(&format!("{value:?}"));
        }
    }
}

/// What is put on a terminal can not move its cursor, whoever said it.
fn plain(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// What is heard of what `log` logs.
    fn heard(log: impl Fn()) -> Vec<Turn> {
        let turns = Turns::default();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(turns.clone()), log);
        turns.take()
    }

    #[test]
    fn a_change_is_heard_with_its_cause_and_nothing_else_is() {
        let heard = heard(|| {
            let (pool, backend) = ("app", "a1");
            tracing::warn!(%pool, %backend, from = "closed", to = "open", reason = %"5 in a row", trips = 1, "breaker");
            tracing::debug!(pool, backend, from = %"up", to = %"going down 1/2", cause = "refused", "probe failed");
            tracing::info!(%pool, %backend, error = "none left", "health checks can not be made");
            tracing::info!(from = "here", to = "there", "moved");
        });
        let turn = |message: &str, from: &str, to: &str, cause: &str| Turn {
            at: Instant::ORIGIN,
            pool: "app".into(),
            backend: "a1".into(),
            message: message.into(),
            from: from.into(),
            to: to.into(),
            cause: cause.into(),
        };
        let heard: Vec<_> = heard.into_iter().map(|turn| Turn { at: Instant::ORIGIN, ..turn }).collect();
        let first = turn("breaker", "closed", "open", "5 in a row");
        assert_eq!(heard, [first, turn("probe failed", "up", "going down 1/2", "refused")]);
    }

    #[test]
    fn what_a_cause_holds_moves_no_cursor() {
        let heard = heard(|| tracing::info!(pool = "app", backend = "a1", to = "down", cause = "bad\x1b[2J\n", "x"));
        assert_eq!(heard[0].cause, "bad\u{fffd}[2J\u{fffd}");
    }

    #[test]
    fn only_the_newest_are_kept_until_they_are_taken() {
        let turns = Turns::default();
        for number in 0..KEPT + 2 {
            turns.keep(Turn { message: number.to_string(), ..Turn::default() });
        }
        let taken = turns.take();
        assert_eq!((taken.len(), taken[0].message.as_str()), (KEPT, "2"));
        assert_eq!(turns.take(), []);
    }
}
