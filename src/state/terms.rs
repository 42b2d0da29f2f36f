//! What a listener grants a client, gathered from its timeouts and limits: one value per listener and view, which its
//! connections share. Each had a copy before, which was a quarter of what an idle connection held.

use std::time::Duration;

use super::ListenerPlan;
use crate::config::HeadLimits;

/// What a listener grants a client.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// For a whole head.
    pub header: Duration,
    /// For the next bytes of a request's body.
    pub body: Duration,
    /// For taking the next bytes of a response.
    pub write: Duration,
    /// Bytes a second of a body; 0: any rate.
    pub min_rate: u64,
    /// For the next request.
    pub idle: Duration,
    /// Of a tunnel; the pool has one too, the shorter counts.
    pub tunnel_idle: Duration,
    /// How large a head may be.
    pub head: HeadLimits,
    /// How many requests one connection may bring.
    pub requests: u32,
    /// How many of them may be under way at once, where one connection carries several.
    pub streams: u32,
}

impl Terms {
    /// Those of this listener.
    pub(super) fn of(plan: &ListenerPlan) -> Terms {
        let ListenerPlan { timeouts, limits, .. } = plan;
        Terms {
            header: timeouts.client_header,
            body: timeouts.client_body,
            write: timeouts.client_write,
            min_rate: timeouts.client_min_rate.0,
            idle: timeouts.client_idle,
            tunnel_idle: timeouts.tunnel_idle,
            head: limits.head,
            requests: limits.requests_per_connection,
            streams: limits.streams,
        }
    }
}
