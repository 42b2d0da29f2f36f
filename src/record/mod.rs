//! What is remembered of the traffic: counts and response times per backend.
//!
//! Each worker writes into its own [`Recorder`], nobody else reads it; control asks for a copy and adds the copies up.
//! Counts only grow, and they hang on the backend's identity, so a reload keeps them for as long as it is there or drains.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::outcome::Outcome;
use crate::serial::BySerial;

/// The longest response time that is told apart, in microseconds: one minute.
const LONGEST: u64 = 60_000_000;

/// What one worker, or all of them together, saw of one backend.
#[derive(Clone, Debug)]
pub struct BackendRecord {
    /// Attempts that have ended: requests (L7) or sessions (L4).
    pub attempts: u64,
    /// Those that count against the backend ([`Outcome::is_failure`]).
    pub failures: u64,
    /// Times to the response head (L7) or to the connection (L4), in microseconds from 1 to one minute, to 2 significant
    /// digits.
    pub latency: Histogram<u32>,
}

impl Default for BackendRecord {
    fn default() -> Self {
        let latency = Histogram::new_with_bounds(1, LONGEST, 2).expect("1 µs to 60 s at 2 digits is a valid range");
        BackendRecord { attempts: 0, failures: 0, latency }
    }
}

impl BackendRecord {
    /// Adds what another worker saw.
    pub fn add(&mut self, other: &BackendRecord) {
        self.attempts += other.attempts;
        self.failures += other.failures;
        self.latency.add(&other.latency).expect("all histograms have the same bounds");
    }

    /// The response time that this share (0–1) of the attempts did not exceed; `None` before the first.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let some = !self.latency.is_empty();
        some.then(|| Duration::from_micros(self.latency.value_at_quantile(share)))
    }
}

/// All that one worker saw, by the serial number of the backend's state.
pub type Collected = BySerial<BackendRecord>;

/// One worker's memory.
#[derive(Debug, Default)]
pub struct Recorder {
    backends: Collected,
}

impl Recorder {
    /// An attempt got its response head, or its connection, after this time.
    pub fn responded(&mut self, backend: u64, after: Duration) {
        let micros = u64::try_from(after.as_micros()).unwrap_or(LONGEST);
        self.backends.entry(backend).or_default().latency.saturating_record(micros.clamp(1, LONGEST));
    }

    /// An attempt has ended.
    pub fn ended(&mut self, backend: u64, outcome: Outcome) {
        let record = self.backends.entry(backend).or_default();
        record.attempts += 1;
        record.failures += u64::from(outcome.is_failure());
    }

    /// Forgets the backends that `keeps` denies: addresses come and go for as long as a process lives.
    pub fn retain(&mut self, keeps: impl Fn(u64) -> bool) {
        self.backends.retain(|backend, _| keeps(*backend));
    }

    /// A copy of everything so far.
    #[must_use]
    pub fn collect(&self) -> Collected {
        self.backends.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_add_up() {
        let (mut one, mut two) = (Recorder::default(), Recorder::default());
        one.responded(7, Duration::from_millis(10));
        one.ended(7, Outcome::Completed { status: 200 });
        two.responded(7, Duration::from_millis(90));
        two.ended(7, Outcome::Completed { status: 503 });
        let mut sum = one.collect().remove(&7).unwrap();
        sum.add(&two.collect()[&7]);
        assert_eq!((sum.attempts, sum.failures), (2, 1));
        let median = sum.quantile(0.5).unwrap();
        assert!(median >= Duration::from_micros(9_900) && median <= Duration::from_micros(10_200), "{median:?}");
    }

    #[test]
    fn times_out_of_range_are_kept_at_its_ends() {
        let mut recorder = Recorder::default();
        recorder.responded(1, Duration::ZERO);
        recorder.responded(1, Duration::from_secs(3600));
        let record = recorder.collect().remove(&1).unwrap();
        assert_eq!(record.latency.len(), 2);
        assert_eq!(record.quantile(0.0), Some(Duration::from_micros(1)));
    }
}
