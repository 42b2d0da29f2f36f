//! What a pool's `health_check` means.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::{Address, HeaderMatch};

/// `[pools.NAME.health_check]`
#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    /// What is asked, and what is a good answer.
    pub probe: Probe,
    /// Where it is asked.
    pub aim: Aim,
    /// From the beginning of one probe to the beginning of the next. Default 2 s.
    pub interval: Duration,
    /// The same while going down or up, or not asked yet.
    pub fast_interval: Duration,
    /// The same while down.
    pub down_interval: Duration,
    /// For a whole probe; at most `interval`. Default 1 s.
    pub timeout: Duration,
    /// Successes one after the other that bring a backend up, 1–100. Default 2.
    pub rise: u8,
    /// Failures one after the other that take a backend down, 1–100. Default 3.
    pub fall: u8,
    /// By which share an interval varies, 0–0.5. Default 0.1.
    pub jitter: f64,
    /// What a backend is before it was asked.
    pub initial: Initial,
    /// What becomes of the sessions of a backend that goes down.
    pub on_down: OnDown,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// Whether a connection can be made.
    Tcp,
    /// A request over HTTP/1.1.
    Http(Box<HttpProbe>),
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// The service; empty: the server as a whole.
        service: String,
        /// The `:authority`; `None`: the address that is asked.
        host: Option<String>,
    },
}

/// A request over HTTP/1.1, and what is a good answer.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpProbe {
    /// One of the methods that probes may use.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The `Host`; `None`: the address that is asked.
    pub host: Option<String>,
    /// More headers; none of them frames the message.
    pub headers: Vec<(String, String)>,
    /// What is a good answer.
    pub expect: Expect,
}

/// What a good answer has; all of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Expect {
    /// One of these statuses; at least one range.
    pub status: Vec<RangeInclusive<u16>>,
    /// This text in the beginning of the body; not empty.
    pub body_contains: Option<String>,
    /// This expression in the beginning of the body.
    pub body_regex: Option<Pattern>,
    /// These headers.
    pub headers: Vec<HeaderMatch>,
}

impl Default for Expect {
    fn default() -> Expect {
        Expect { status: vec![200..=399], body_contains: None, body_regex: None, headers: Vec::new() }
    }
}

impl Expect {
    /// Whether the body has to be read to know.
    #[must_use]
    pub fn asks_for_body(&self) -> bool {
        self.body_contains.is_some() || self.body_regex.is_some()
    }
}

/// A regular expression, the same as another when it is written alike.
#[derive(Clone, Debug)]
pub struct Pattern(pub regex::Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// Where a backend is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Aim {
    /// Where it serves.
    Backend,
    /// At another port of its IP address.
    Port(u16),
    /// There, whichever backend it is.
    Address(Address),
}

impl Aim {
    /// Where a backend of this address is asked. A Unix socket has no other port, and no pool that has one sets `port`.
    #[must_use]
    pub fn of(&self, backend: &Address) -> Address {
        match (self, backend) {
            (Aim::Address(address), _) => address.clone(),
            (Aim::Port(port), Address::Ip(address)) => Address::Ip((address.ip(), *port).into()),
            (Aim::Backend | Aim::Port(_), own) => own.clone(),
        }
    }
}

/// `initial = …`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initial {
    /// It serves until it fails.
    Up,
    /// Its first probe decides.
    Down,
}

/// `on_down = …`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDown {
    /// They go on.
    KeepSessions,
    /// They are cut.
    CloseSessions,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_goes_to_the_backend_unless_told_otherwise() {
        let backend = Address::Ip(([10, 0, 0, 1], 3000).into());
        let unix = Address::Unix("/run/app".into());
        assert_eq!(Aim::Backend.of(&backend), backend);
        assert_eq!(Aim::Port(9).of(&backend), Address::Ip(([10, 0, 0, 1], 9).into()));
        assert_eq!(Aim::Address(unix.clone()).of(&backend), unix);
        assert_eq!(Aim::Backend.of(&unix), unix);
    }

    #[test]
    fn expressions_are_the_same_when_they_are_written_alike() {
        let pattern = |text: &str| Pattern(regex::Regex::new(text).unwrap());
        assert_eq!(pattern("^ok$"), pattern("^ok$"));
        assert_ne!(pattern("^ok$"), pattern("ok"));
    }
}
