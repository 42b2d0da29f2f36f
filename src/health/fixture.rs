//! Checks and backends for this room's tests, made without a file.

use std::sync::Arc;
use std::time::Duration;

use super::Subject;
use crate::config::{Address, Aim, HealthCheck, HttpVersion, Initial, OnDown, Probe};
use crate::state::{BackendKey, BackendState, Transport};

/// A tcp check with the documented defaults.
pub fn check() -> HealthCheck {
    let interval = Duration::from_secs(2);
    HealthCheck {
        probe: Probe::Tcp,
        aim: Aim::Backend,
        interval,
        fast_interval: interval,
        down_interval: interval,
        timeout: Duration::from_secs(1),
        rise: 2,
        fall: 3,
        jitter: 0.1,
        initial: Initial::Up,
        on_down: OnDown::KeepSessions,
    }
}

/// A backend with this number, which is asked so.
pub fn subject(id: u64, check: HealthCheck) -> Subject {
    let address = Address::Unix(format!("/run/{id}").into());
    let key = BackendKey { pool: "app".into(), address, transport: Transport::Plain };
    let state = Arc::new(BackendState::beginning(id, key, check.initial));
    Subject {
        name: "a".into(),
        state,
        queue: Arc::default(),
        check: Arc::new(check),
        announced: None,
        tls: None,
        http_version: HttpVersion::H1,
    }
}
