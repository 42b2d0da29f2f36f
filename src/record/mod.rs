//! What is remembered of the traffic: counts and response times per backend, and what happens at a pool apart from its
//! backends.
//!
//! Each worker writes into its own [`Recorder`], nobody else reads it; control asks for a copy and adds the copies up.
//! Counts only grow, and they hang on the backend's identity, so a reload keeps them for as long as it is there or drains.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::balance::Rung;
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

/// Something that happens to a request or connection at a pool, which is not the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolEvent {
    /// It was tried once more, and counted against the retry budget.
    Retried,
    /// It was tried once more and counted against no budget: nothing was sent, which costs nobody anything, or its backend is
    /// lost to all.
    RetriedFree,
    /// It would have been tried once more, but for the retry budget.
    RetryRefused,
    /// It waited for a place at a backend.
    Queued,
    /// It did not get one: the queue was full, or the time to wait over.
    QueueRefused,
    /// It was given to a backup.
    OnBackup,
    /// It was given to one of all primaries, whatever was said of it.
    InPanic,
    /// It was given to a backend that its breaker holds back.
    OnBreakerOpen,
    /// It was given to a backend that is down.
    OnFailOpen,
}

impl PoolEvent {
    /// What it is to be given to a backend on this rung; nothing that is worth counting on the first.
    #[must_use]
    pub fn on(rung: Rung) -> Option<PoolEvent> {
        match rung {
            Rung::Primaries => None,
            Rung::Backups => Some(PoolEvent::OnBackup),
            Rung::Panic => Some(PoolEvent::InPanic),
            Rung::BreakerOpen => Some(PoolEvent::OnBreakerOpen),
            Rung::FailOpen => Some(PoolEvent::OnFailOpen),
        }
    }
}

/// What one worker, or all of them together, saw of one pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolRecord {
    /// [`PoolEvent::Retried`]
    pub retried: u64,
    /// [`PoolEvent::RetriedFree`]
    pub retried_free: u64,
    /// [`PoolEvent::RetryRefused`]
    pub retries_refused: u64,
    /// [`PoolEvent::Queued`]
    pub queued: u64,
    /// [`PoolEvent::QueueRefused`]
    pub queue_refused: u64,
    /// [`PoolEvent::OnBackup`]
    pub on_backups: u64,
    /// [`PoolEvent::InPanic`]
    pub in_panic: u64,
    /// [`PoolEvent::OnBreakerOpen`]
    pub on_breaker_open: u64,
    /// [`PoolEvent::OnFailOpen`]
    pub on_fail_open: u64,
}

impl PoolRecord {
    fn add(&mut self, other: &PoolRecord) {
        self.retried += other.retried;
        self.retried_free += other.retried_free;
        self.retries_refused += other.retries_refused;
        self.queued += other.queued;
        self.queue_refused += other.queue_refused;
        self.on_backups += other.on_backups;
        self.in_panic += other.in_panic;
        self.on_breaker_open += other.on_breaker_open;
        self.on_fail_open += other.on_fail_open;
    }
}

/// All that one worker saw.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    /// By the serial number of the backend's state.
    pub backends: BySerial<BackendRecord>,
    /// By the number of the pool, of which there is one for every name that there ever was.
    pub pools: Vec<PoolRecord>,
}

impl Collected {
    /// Adds what another worker saw.
    pub fn add(&mut self, other: Collected) {
        for (backend, record) in other.backends {
            self.backends.entry(backend).or_default().add(&record);
        }
        self.pools.resize_with(self.pools.len().max(other.pools.len()), PoolRecord::default);
        self.pools.iter_mut().zip(&other.pools).for_each(|(sum, one)| sum.add(one));
    }
}

/// One worker's memory.
#[derive(Debug, Default)]
pub struct Recorder {
    seen: Collected,
}

impl Recorder {
    /// An attempt got its response head, or its connection, after this time.
    pub fn responded(&mut self, backend: u64, after: Duration) {
        let micros = u64::try_from(after.as_micros()).unwrap_or(LONGEST);
        self.seen.backends.entry(backend).or_default().latency.saturating_record(micros.clamp(1, LONGEST));
    }

    /// An attempt has ended.
    pub fn ended(&mut self, backend: u64, outcome: Outcome) {
        let record = self.seen.backends.entry(backend).or_default();
        record.attempts += 1;
        record.failures += u64::from(outcome.is_failure());
    }

    /// This happened at the pool of this number.
    pub fn happened(&mut self, pool: usize, event: PoolEvent) {
        let pools = &mut self.seen.pools;
        pools.resize_with(pools.len().max(pool + 1), PoolRecord::default);
        let record = &mut pools[pool];
        *match event {
            PoolEvent::Retried => &mut record.retried,
            PoolEvent::RetriedFree => &mut record.retried_free,
            PoolEvent::RetryRefused => &mut record.retries_refused,
            PoolEvent::Queued => &mut record.queued,
            PoolEvent::QueueRefused => &mut record.queue_refused,
            PoolEvent::OnBackup => &mut record.on_backups,
            PoolEvent::InPanic => &mut record.in_panic,
            PoolEvent::OnBreakerOpen => &mut record.on_breaker_open,
            PoolEvent::OnFailOpen => &mut record.on_fail_open,
        } += 1;
    }

    /// Forgets the backends that `keeps` denies: addresses come and go for as long as a process lives.
    pub fn retain(&mut self, keeps: impl Fn(u64) -> bool) {
        self.seen.backends.retain(|backend, _| keeps(*backend));
    }

    /// A copy of everything so far.
    #[must_use]
    pub fn collect(&self) -> Collected {
        self.seen.clone()
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
        two.happened(1, PoolEvent::Retried);
        one.happened(0, PoolEvent::RetryRefused);
        one.happened(1, PoolEvent::RetriedFree);
        two.happened(1, PoolEvent::Queued);
        let mut both = one.collect();
        both.add(two.collect());
        let refused = PoolRecord { retries_refused: 1, ..PoolRecord::default() };
        assert_eq!(
            both.pools,
            [refused, PoolRecord { retried: 1, retried_free: 1, queued: 1, ..PoolRecord::default() }]
        );
        let sum = both.backends.remove(&7).unwrap();
        assert_eq!((sum.attempts, sum.failures), (2, 1));
        let median = sum.quantile(0.5).unwrap();
        assert!(median >= Duration::from_micros(9_900) && median <= Duration::from_micros(10_200), "{median:?}");
    }

    #[test]
    fn each_rung_but_the_first_is_counted_for_itself() {
        let mut recorder = Recorder::default();
        let rungs = Rung::LADDER.iter().chain(&[Rung::Panic, Rung::Panic]);
        rungs.filter_map(|rung| PoolEvent::on(*rung)).for_each(|event| recorder.happened(0, event));
        let mut both = recorder.collect();
        both.add(recorder.collect());
        let PoolRecord { on_backups, in_panic, on_breaker_open, on_fail_open, .. } = both.pools[0];
        assert_eq!([on_backups, in_panic, on_breaker_open, on_fail_open], [2, 4, 2, 2]);
    }

    #[test]
    fn times_out_of_range_are_kept_at_its_ends() {
        let mut recorder = Recorder::default();
        recorder.responded(1, Duration::ZERO);
        recorder.responded(1, Duration::from_secs(3600));
        let record = recorder.collect().backends.remove(&1).unwrap();
        assert_eq!(record.latency.len(), 2);
        assert_eq!(record.quantile(0.0), Some(Duration::from_micros(1)));
    }
}
