//! What the file says of a pool's breakers.

use std::time::Duration;

/// When a breaker opens, for how long, and how it closes again.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Whether it acts.
    pub mode: Mode,
    /// So many failures in a row open it; at least 1.
    pub consecutive_failures: u32,
    /// This share of failures within the window opens it; above 0 and up to 1.
    pub failure_ratio: f64,
    /// No share counts of fewer requests within the window; at least 1.
    pub min_requests: u32,
    /// Whole seconds, from 1 to 60.
    pub window: Duration,
    /// How long it stays open the first time.
    pub open_for: Duration,
    /// How long it stays open at most; no less than `open_for`.
    pub open_for_max: Duration,
    /// So many are let through at once when half-open, and so many successes close it; from 1 to 1000.
    pub half_open_probes: u32,
    /// At most this share of a pool's breakers is open; above 0 and up to 1.
    pub max_open_ratio: f64,
    /// Opens for slowness too.
    pub latency: Option<Latency>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            mode: Mode::Enforce,
            consecutive_failures: 5,
            failure_ratio: 0.5,
            min_requests: 20,
            window: Duration::from_secs(10),
            open_for: Duration::from_secs(5),
            open_for_max: Duration::from_secs(60),
            half_open_probes: 3,
            max_open_ratio: 0.5,
            latency: None,
        }
    }
}

/// Whether a breaker acts on what it decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It does.
    Enforce,
    /// It decides and tells, and lets everything through.
    Observe,
}

impl Mode {
    /// As it is written in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mode::Enforce => "enforce",
            Mode::Observe => "observe",
        }
    }
}

/// Opens when this quantile of the times to the response head (L4: to the connection) within the window lies above a bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    /// Above 0 and up to 1.
    pub quantile: f64,
    /// The bound.
    pub above: Duration,
}
