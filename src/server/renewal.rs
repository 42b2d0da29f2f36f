//! What an operator is told of certificates while they are served: that one has ended, is about to, or has not begun.

use std::time::Duration;

use crate::clock::{self, Instant};
use crate::tls::{Materials, Standing};

/// How often it is told at least.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// When certificates were looked at last.
#[derive(Debug)]
pub(super) struct Calendar(Instant);

impl Calendar {
    /// Looks at them for the first time.
    pub(super) fn begin(materials: &Materials) -> Calendar {
        let mut calendar = Calendar(Instant::ORIGIN);
        calendar.look(materials);
        calendar
    }

    /// Warns of each that somebody has to look after.
    pub(super) fn look(&mut self, materials: &Materials) {
        self.0 = clock::now();
        for notice in materials.notices(clock::today()) {
            let (of, file, name) = (&notice.holder, &notice.file.from, &notice.name);
            let (date, days) = (notice.date, notice.days);
            match notice.standing {
                Standing::Good => {}
                Standing::EndsSoon => tracing::warn!(%of, %file, %name, %date, days, "certificate ends soon"),
                Standing::Expired => tracing::warn!(%of, %file, %name, %date, days, "certificate has expired"),
                Standing::NotYetValid => {
                    tracing::warn!(%of, %file, %name, %date, days, "certificate is not valid yet");
                }
            }
        }
    }

    /// Waits until it is time to look again. Giving up loses nothing.
    pub(super) async fn new_day(&self) {
        tokio::time::sleep_until(clock::timer(self.0 + DAY)).await;
    }
}
