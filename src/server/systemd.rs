//! Tells the service manager how it stands with us (sd_notify(3)). Without `NOTIFY_SOCKET` in the environment nothing
//! happens.
//!
//! Each call is one datagram. RELOADING=1 goes together with MONOTONIC_USEC, which `Type=notify-reload` asks for, and is
//! always followed by READY=1, also when the reload was refused: we do serve.

use std::time::Duration;

use sd_notify::NotifyState;

/// What an end takes beyond the grace: cutting what is left and joining the workers.
const MARGIN: Duration = Duration::from_secs(10);

/// We serve. `status` is what `systemctl status` shows, one line.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// We look at the file again.
pub fn reloading() {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now());
    states.push(NotifyState::Status("Reloading"));
    tell(&states);
}

/// We take nothing new and finish what we have, within `grace`; the manager is asked not to lose patience before that.
pub fn stopping(status: &str, grace: Duration) {
    let patience = u32::try_from((grace + MARGIN).as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(patience), NotifyState::Status(status)]);
}

fn tell(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
