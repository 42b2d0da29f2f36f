//! A backend for who finds all of them full: a wait in the pool's queue.
//!
//! Waiting ends with a call and a backend, with the deadline, when the client leaves, or when the worker stops. A reload
//! does not end it: who is called and finds a newer configuration keeps the place and is sent on its way by that one, and
//! where the way still leads to this pool the place is good there.

use std::future::poll_fn;
use std::task::{Context, Poll};

use crate::balance::Tried;
use crate::clock::{self, Instant};
use crate::deadline::Deadline;
use crate::local::{Local, Phase, Session};
use crate::outcome::Outcome;
use crate::record::PoolEvent;
use crate::state::{NoBackend, Place, PoolId, Taken, View, Why};

/// What somebody wants: a backend of a pool.
pub struct Wanted<'a> {
    /// By which view.
    pub view: &'a View,
    /// Of which pool.
    pub pool: PoolId,
    /// What the policy hashes on.
    pub key: u64,
}

/// A wait, kept while its request is routed anew.
#[derive(Debug, Default)]
pub struct Waiting {
    place: Option<Place>,
    since: Option<Instant>,
}

impl Waiting {
    /// Whether there is a place in a queue.
    pub fn has_place(&self) -> bool {
        self.place.is_some()
    }
}

/// Why there is no backend.
#[derive(Debug)]
pub enum Unserved {
    /// To wait is of no use.
    Nobody(NoBackend),
    /// There is a newer view, by which there may be one.
    Outdated,
    /// The queue is full, or the time to wait is over.
    Busy,
    /// The wait was ended by this.
    Ended(Outcome),
}

/// Why a wait came to an end.
enum End {
    Called,
    Late,
}

/// A backend for who was just refused because of `none`. `client` looks whether the client is still there.
pub async fn wait(
    session: &Session,
    deadline: &mut Deadline,
    wanted: &Wanted<'_>,
    tried: &mut Tried,
    none: NoBackend,
    waiting: &mut Waiting,
    mut client: impl FnMut(&mut Context<'_>) -> Result<(), Outcome>,
) -> Result<Taken, Unserved> {
    let Wanted { view, pool, key } = *wanted;
    let local = session.local();
    let is_outdated = || !std::ptr::eq(view, &*local.view());
    let kept = waiting.place.take().filter(|place| view.is_place_in(pool, place));
    // Who brings a place along was called when it left it.
    let (mut place, mut end) = match kept {
        Some(place) => (place, Some(End::Called)),
        None if is_outdated() => return Err(Unserved::Outdated),
        None => {
            let Some(place) = view.join(pool, &none) else { return Err(refused(local, pool, none)) };
            local.happened(pool, PoolEvent::Queued);
            tracing::debug!(pool = %view.pool(pool).name, "all backends are full: it waits");
            (place, None)
        }
    };
    let since = *waiting.since.get_or_insert_with(clock::now);
    deadline.set(since + view.pool(pool).timeouts.queue);
    loop {
        let end = match end.take() {
            Some(end) => end,
            None => until_called(session, deadline, &mut place, &mut client).await.map_err(Unserved::Ended)?,
        };
        if is_outdated() {
            waiting.place = Some(place);
            return Err(Unserved::Outdated);
        }
        let now = clock::now();
        let taken = local.roll(|dice| view.take_waiting(pool, &mut place, now, key, tried, dice));
        match (taken, end) {
            (Ok(taken), _) => return Ok(taken),
            (Err(NoBackend { why: Why::Full, .. }), End::Called) => {}
            (Err(none), _) => return Err(refused(local, pool, none)),
        }
    }
}

fn refused(local: &Local, pool: PoolId, none: NoBackend) -> Unserved {
    if none.why != Why::Full {
        return Unserved::Nobody(none);
    }
    local.happened(pool, PoolEvent::QueueRefused);
    Unserved::Busy
}

/// Cancelling it leaves the place as it is.
async fn until_called(
    session: &Session,
    deadline: &mut Deadline,
    place: &mut Place,
    client: &mut impl FnMut(&mut Context<'_>) -> Result<(), Outcome>,
) -> Result<End, Outcome> {
    poll_fn(|cx| {
        session.watch(cx);
        client(cx)?;
        if session.local().phase() == Phase::Cut {
            return Poll::Ready(Err(Outcome::Cut));
        }
        if place.poll_called(cx).is_ready() {
            return Poll::Ready(Ok(End::Called));
        }
        // Who has no time left has no use for a backend.
        deadline.poll(cx).map(|()| match deadline.is_over_limit(clock::now()) {
            true => Err(Outcome::RequestLate),
            false => Ok(End::Late),
        })
    })
    .await
}
