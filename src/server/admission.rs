//! How many client connections may be open at once: in all, of one listener, and of one client at a listener.
//!
//! At the limit of all and at that of a listener, nobody is turned away: whoever accepts stops doing so until a connection
//! ends, and new ones wait in the kernel's queue, as with `maxconn` in HAProxy. A client that has as many connections as it may
//! have is refused at once, because waiting would let it hold up everybody else.
//!
//! All workers count together. That costs a few shared words when a connection begins and when it ends, and nothing in between.
//! A count ends with the value that stands for it, so it can not be forgotten.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Notify;

use super::clients::{ClientPlace, Clients};
use crate::clock::Instant;
use crate::config::is_within;
use crate::state::{ListenerId, ListenerPlan, Protocol, Snapshot};
use crate::sync::{AtomicU64, Ordering};

/// How long nobody must have met a limit for the next who does to be worth a warning again.
const CALM: Duration = Duration::from_secs(60);

/// The counts of the whole process.
#[derive(Debug)]
pub(super) struct Admission {
    all: Arc<Gate>,
    /// Where the configuration says nothing, how many there may be in all.
    most: u64,
    /// By [`ListenerId`]; they are few, and a name that is gone leaves a hole of one gate.
    listeners: RwLock<Vec<Arc<Gate>>>,
    clients: Arc<Clients>,
}

/// What becomes of a connection.
#[derive(Debug)]
pub(super) enum Entry {
    /// It is counted until this is dropped.
    Admitted(Admitted),
    /// There is no room now; it may ask again when there is [news](Gate::news).
    Full(Arc<Gate>),
    /// The client has as many as it may have.
    Refused,
}

/// One connection that is counted.
#[derive(Debug)]
pub(super) struct Admitted {
    client: Option<ClientPlace>,
    _listener: Place,
    _all: Place,
}

/// One limit and how many count against it.
#[derive(Debug, Default)]
pub(super) struct Gate {
    open: AtomicU64,
    ended: Notify,
    met: Episode,
}

/// One that counts against a gate.
#[derive(Debug)]
struct Place(Arc<Gate>);

/// When a limit was met last, in nanoseconds since the clock's origin and at least 1; 0 is never.
#[derive(Debug, Default)]
pub(super) struct Episode(AtomicU64);

impl Admission {
    /// With so many connections in all, unless the configuration says how many.
    pub(super) fn new(most: u64) -> Arc<Admission> {
        Arc::new(Admission {
            all: Arc::default(),
            most: most.max(1),
            listeners: RwLock::default(),
            clients: Arc::default(),
        })
    }

    /// Counts a connection of `client` at a listener, by the limits of `snapshot`. The first who meets a limit after a
    /// calm time is warned of.
    pub(super) fn admit(
        &self,
        snapshot: &Snapshot,
        plan: &ListenerPlan,
        client: Option<IpAddr>,
        now: Instant,
    ) -> Entry {
        let client = match self.admit_client(plan, client, now) {
            Ok(place) => place,
            Err(entry) => return entry,
        };
        let limit = plan.limits.connections.map_or(u64::MAX, |limit| limit.get().into());
        let gate = self.gate(plan.id);
        let Some(listener) = gate.enter(limit) else {
            if gate.met.begins(now) {
                tracing::warn!(listener = %plan.name, limit, "the listener has all connections that its limits allow: more wait until some end");
            }
            return Entry::Full(gate);
        };
        let limit = snapshot.connections().map_or(self.most, |limit| limit.get().into());
        let Some(all) = self.all.enter(limit) else {
            if self.all.met.begins(now) {
                tracing::warn!(
                    limit,
                    "all connections that runtime.connections allows are open: more wait until some end"
                );
            }
            return Entry::Full(Arc::clone(&self.all));
        };
        Entry::Admitted(Admitted { client, _listener: listener, _all: all })
    }

    /// Counts a connection that was admitted from now on for `client` too, of whom a proxy has told; says whether it may stay.
    pub(super) fn admit_told(
        &self,
        admitted: &mut Admitted,
        plan: &ListenerPlan,
        client: IpAddr,
        now: Instant,
    ) -> bool {
        let place = self.admit_client(plan, Some(client), now);
        let may_stay = place.is_ok();
        admitted.client = place.ok().flatten();
        may_stay
    }

    /// Counts the client, where there is a limit and it is a client: a trusted proxy brings connections of many.
    fn admit_client(
        &self,
        plan: &ListenerPlan,
        client: Option<IpAddr>,
        now: Instant,
    ) -> Result<Option<ClientPlace>, Entry> {
        let (Some(limit), Some(client)) = (plan.limits.connections_per_ip, client) else { return Ok(None) };
        if matches!(&plan.protocol, Protocol::Http(http) if is_within(&http.trusted_proxies, client)) {
            return Ok(None);
        }
        if let Some(place) = self.clients.enter(plan.id, client, limit) {
            return Ok(Some(place));
        }
        if self.clients.met.begins(now) {
            tracing::warn!(listener = %plan.name, %client, %limit, "a client has all connections that connections_per_ip allows: more are refused");
        } else {
            tracing::debug!(listener = %plan.name, %client, "a connection too many of one client is refused");
        }
        Err(Entry::Refused)
    }

    /// The limits may have changed: those who wait look again.
    pub(super) fn look_again(&self) {
        self.all.ended.notify_one();
        let listeners = self.listeners.read().unwrap_or_else(PoisonError::into_inner);
        listeners.iter().for_each(|gate| gate.ended.notify_one());
    }

    fn gate(&self, id: ListenerId) -> Arc<Gate> {
        // Nothing panics while it is held, and a gate is whole at any time.
        if let Some(gate) = self.listeners.read().unwrap_or_else(PoisonError::into_inner).get(id.index()) {
            return Arc::clone(gate);
        }
        let mut listeners = self.listeners.write().unwrap_or_else(PoisonError::into_inner);
        while listeners.len() <= id.index() {
            listeners.push(Arc::default());
        }
        Arc::clone(&listeners[id.index()])
    }
}

impl Gate {
    /// Counts one more, if that is within the limit.
    fn enter(self: &Arc<Self>, limit: u64) -> Option<Place> {
        // Sequentially consistent, here and where one leaves: whoever finds it full and then waits has either seen the one
        // who left, or is seen waiting by it.
        let more = |open: u64| (open < limit).then_some(open + 1);
        self.open.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        Some(Place(Arc::clone(self)))
    }

    /// Waits until one has left, or the limit may be another. Not for every waiter that could enter is there a call: who
    /// has entered after waiting [passes it on](Gate::pass_on).
    pub(super) async fn news(&self) {
        self.ended.notified().await;
    }

    /// There may be room for another.
    pub(super) fn pass_on(&self) {
        self.ended.notify_one();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
        self.0.ended.notify_one();
    }
}

impl Episode {
    /// The limit was met at `now`; says whether that was the first time after a calm one.
    pub(super) fn begins(&self, now: Instant) -> bool {
        let nanos = now.since(Instant::ORIGIN).as_nanos();
        let stamp = u64::try_from(nanos).unwrap_or(u64::MAX).max(1);
        // Relaxed: it stands for nothing but itself. Of several workers that meet it at once one sees what was before.
        let last = self.0.swap(stamp, Ordering::Relaxed);
        last == 0 || stamp.saturating_sub(last) >= u64::try_from(CALM.as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_text;

    const T0: Instant = Instant::ORIGIN;

    /// Two listeners with these limits in a process with that one.
    fn snapshot(connections: &str, web: &str, raw: &str) -> Snapshot {
        let text = format!(
            "runtime = {{ {connections} }}\npools.app.backends = ['127.0.0.1:1']\n\
             [listeners.raw]\nbind = '127.0.0.1:0'\nprotocol = 'tcp'\npool = 'app'\nlimits = {{ {raw} }}\n\
             [listeners.web]\nbind = '127.0.0.1:0'\npool = 'app'\ntrusted_proxies = ['10.0.0.0/8']\nlimits = {{ {web} }}\n"
        );
        Snapshot::next(&from_text("test.toml", &text).unwrap().config, &crate::tls::Materials::default(), None)
    }

    fn admit(admission: &Admission, snapshot: &Snapshot, listener: &str, client: &str) -> Entry {
        let plan = snapshot.listeners().find(|plan| &*plan.name == listener).unwrap();
        admission.admit(snapshot, plan, client.parse().ok(), T0)
    }

    #[track_caller]
    fn admitted(entry: Entry) -> Admitted {
        match entry {
            Entry::Admitted(admitted) => admitted,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_listener_at_its_limit_is_full_and_the_others_are_not() {
        let (admission, snapshot) = (Admission::new(100), snapshot("", "connections = 2", ""));
        let first = admitted(admit(&admission, &snapshot, "web", "192.0.2.1"));
        let _second = admitted(admit(&admission, &snapshot, "web", "192.0.2.2"));
        assert!(matches!(admit(&admission, &snapshot, "web", "192.0.2.3"), Entry::Full(_)));
        let _other = admitted(admit(&admission, &snapshot, "raw", "192.0.2.3"));
        drop(first);
        let _third = admitted(admit(&admission, &snapshot, "web", "192.0.2.3"));
    }

    #[test]
    fn the_process_has_a_limit_of_its_own_over_all_listeners() {
        for (admission, limit) in [(Admission::new(2), ""), (Admission::new(100), "connections = 2")] {
            let snapshot = snapshot(limit, "connections = 100", "");
            let first = admitted(admit(&admission, &snapshot, "web", "192.0.2.1"));
            let _second = admitted(admit(&admission, &snapshot, "raw", "192.0.2.1"));
            assert!(matches!(admit(&admission, &snapshot, "web", "192.0.2.1"), Entry::Full(_)));
            drop(first);
            let _third = admitted(admit(&admission, &snapshot, "web", "192.0.2.1"));
        }
    }

    #[test]
    fn who_is_not_let_in_leaves_no_count_behind() {
        let snapshot = snapshot("connections = 1", "connections = 1, connections_per_ip = 1", "");
        let admission = Admission::new(100);
        let only = admitted(admit(&admission, &snapshot, "raw", "192.0.2.1"));
        for _ in 0..3 {
            assert!(matches!(admit(&admission, &snapshot, "web", "192.0.2.1"), Entry::Full(_)));
        }
        drop(only);
        let _now = admitted(admit(&admission, &snapshot, "web", "192.0.2.1"));
    }

    #[test]
    fn a_client_has_its_limit_and_a_trusted_proxy_or_a_unix_socket_none() {
        let (admission, snapshot) = (Admission::new(100), snapshot("", "connections_per_ip = 1", ""));
        let first = admitted(admit(&admission, &snapshot, "web", "192.0.2.1"));
        assert!(matches!(admit(&admission, &snapshot, "web", "192.0.2.1"), Entry::Refused));
        let _others: Vec<_> = ["192.0.2.2", "10.1.1.1", "10.1.1.1", "unix", "unix"]
            .map(|client| admitted(admit(&admission, &snapshot, "web", client)))
            .into();
        drop(first);
        let _again = admitted(admit(&admission, &snapshot, "web", "192.0.2.1"));
    }

    #[test]
    fn a_limit_that_a_reload_lowers_holds_for_the_next_one() {
        let admission = Admission::new(100);
        let wide = snapshot("", "connections = 3", "");
        let mut open: Vec<_> = (0..3).map(|_| admitted(admit(&admission, &wide, "web", "192.0.2.1"))).collect();
        let narrow = snapshot("", "connections = 2", "");
        open.pop();
        assert!(matches!(admit(&admission, &narrow, "web", "192.0.2.1"), Entry::Full(_)));
        open.pop();
        let _next = admitted(admit(&admission, &narrow, "web", "192.0.2.1"));
    }

    #[tokio::test]
    async fn of_those_who_wait_as_many_enter_as_there_is_room_for() {
        let gate = Arc::new(Gate::default());
        let open: Vec<_> = (0..8).map(|_| gate.enter(8).unwrap()).collect();
        let waiting: Vec<_> = (0..8)
            .map(|_| {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move {
                    loop {
                        if let Some(place) = gate.enter(8) {
                            gate.pass_on();
                            return place;
                        }
                        gate.news().await;
                    }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        drop(open);
        let mut entered = Vec::new();
        for one in waiting {
            entered
                .push(tokio::time::timeout(Duration::from_secs(10), one).await.expect("nobody is left out").unwrap());
        }
        assert!(gate.enter(8).is_none());
    }

    #[test]
    fn an_episode_is_warned_of_once() {
        let met = Episode::default();
        assert!(met.begins(T0));
        for second in 0..100 {
            assert!(!met.begins(T0 + Duration::from_secs(second)));
        }
        assert!(met.begins(T0 + Duration::from_secs(99) + CALM));
    }
}
