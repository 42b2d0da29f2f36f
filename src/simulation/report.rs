//! What a run was like: shares, latencies, failures.

use std::ops::Range;
use std::time::Duration;

use super::Broken;
use crate::balance::Rung;

/// One attempt given to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// When, from the beginning.
    pub at: Duration,
    /// To which backend.
    pub backend: usize,
    /// On which step of the ladder it was found.
    pub rung: Rung,
    /// Whether an attempt on another backend had failed before.
    pub again: bool,
}

/// The outcome of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Every attempt, in order.
    pub picks: Vec<Pick>,
    /// How long each answered request took, all its attempts together, shortest first.
    pub latencies: Vec<Duration>,
    /// The most requests each backend had at once.
    pub peaks: Vec<u32>,
    /// Failed attempts by backend.
    pub failures: Vec<u64>,
    /// Requests whose last attempt failed.
    pub failed: u64,
    /// How often each backend's breaker opened.
    pub trips: Vec<u64>,
    /// Requests for which there was no backend, at first or for another attempt.
    pub without_backend: u64,
    /// How often somebody began to wait in the queue.
    pub queued: u64,
    /// Attempts that the retry budget was asked for and gave leave to.
    pub repeated: u64,
    /// Attempts that were given up for another backend because theirs was lost while its answer was waited for.
    pub elsewhere: u64,
    /// Requests that were given up by their clients.
    pub left: u64,
    /// The promise that ended the run, if one was broken.
    pub broken: Option<Broken>,
}

impl Report {
    /// The share of all attempts that `backend` got.
    #[must_use]
    pub fn share(&self, backend: usize) -> f64 {
        self.share_during(backend, Duration::ZERO..Duration::MAX)
    }

    /// The share of the attempts in that time which `backend` got; 0 when there were none.
    #[must_use]
    pub fn share_during(&self, backend: usize, time: Range<Duration>) -> f64 {
        let during = self.picks.iter().filter(|pick| time.contains(&pick.at));
        let (all, its) =
            during.fold((0u32, 0u32), |(all, its), pick| (all + 1, its + u32::from(pick.backend == backend)));
        f64::from(its) / f64::from(all.max(1))
    }

    /// The latency that this part of the answered requests stayed within: 0.5 for the median, 0.99 for p99.
    #[must_use]
    pub fn latency(&self, part: f64) -> Option<Duration> {
        let last = self.latencies.len().checked_sub(1)?;
        self.latencies.get((last as f64 * part.clamp(0.0, 1.0)).round() as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_count_only_the_time_asked_for() {
        let pick = |secs, backend| Pick { at: Duration::from_secs(secs), backend, rung: Rung::Primaries, again: false };
        let report = Report { picks: vec![pick(1, 0), pick(2, 1), pick(3, 1), pick(4, 1)], ..Report::default() };
        assert_eq!(report.share(0), 0.25);
        assert_eq!(report.share_during(0, Duration::ZERO..Duration::from_secs(3)), 0.5);
        assert_eq!(report.share_during(0, Duration::from_secs(9)..Duration::MAX), 0.0);
    }

    #[test]
    fn quantiles_are_of_what_was_answered() {
        let latencies = (1..=100).map(Duration::from_millis).collect();
        let report = Report { latencies, ..Report::default() };
        assert_eq!(report.latency(0.0), Some(Duration::from_millis(1)));
        assert_eq!(report.latency(0.99), Some(Duration::from_millis(99)));
        assert_eq!(report.latency(1.0), Some(Duration::from_millis(100)));
        assert_eq!(Report::default().latency(0.5), None);
    }
}
