//! Where a worker's connections begin: kept or handed to a less busy worker, then served to their end.
//!
//! A connection changes workers as a bare socket, registered with no runtime. It is counted for the worker that will serve
//! it from the moment it is handed over, so that a burst is not all sent to the same one.

use std::cell::Cell;
use std::io;
use std::net::{self, SocketAddr};
use std::os::unix;
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use super::admission::{Admission, Admitted, Entry};
use super::spread::{Acceptors, Loads, Open};
use crate::clock;
use crate::config::Address;
use crate::local::Local;
use crate::state::{ListenerId, Protocol, Snapshot};
use crate::stream::{Incoming, Stream};
use crate::{l4, l7};

/// A connection on its way to another worker, which it is counted for.
#[derive(Debug)]
pub(super) struct Handed {
    socket: Socket,
    listener: ListenerId,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    seat: Seat,
}

/// What counts a connection: for the worker that serves it, and against the limits.
#[derive(Debug)]
struct Seat {
    _open: Open,
    _admitted: Admitted,
}

/// A connected socket that no runtime watches; it does not block.
#[derive(Debug)]
enum Socket {
    Tcp(net::TcpStream),
    Unix(unix::net::UnixStream),
}

/// Where one worker receives its connections.
pub(super) struct Reception {
    worker: usize,
    local: Rc<Local>,
    loads: Arc<Loads>,
    admission: Arc<Admission>,
    /// Every worker's, its own included so that an index is a worker.
    colleagues: Box<[mpsc::Sender<Handed>]>,
    turn: Cell<usize>,
}

impl Reception {
    pub(super) fn new(
        worker: usize,
        local: Rc<Local>,
        loads: Arc<Loads>,
        admission: Arc<Admission>,
        colleagues: Box<[mpsc::Sender<Handed>]>,
    ) -> Reception {
        Reception { worker, local, loads, admission, colleagues, turn: Cell::new(worker) }
    }

    /// Whose a connection is that came in at `address`, as far as the newest snapshot says.
    pub(super) fn owner(&self, known: ListenerId, address: &Address) -> Option<ListenerId> {
        owner(self.local.view().snapshot(), known, address)
    }

    /// Whether a connection of `client` may come in at a listener; `None` when there is no such listener.
    pub(super) fn admit(&self, listener: ListenerId, client: Option<SocketAddr>) -> Option<Entry> {
        let view = self.local.view();
        let plan = view.listener(listener)?;
        Some(self.admission.admit(view.snapshot(), plan, client.map(|client| client.ip()), clock::now()))
    }

    /// Closes a connection that may not come in; a client that speaks HTTP is told.
    pub(super) fn turn_away(&self, listener: ListenerId, stream: Stream) {
        match self.local.view().listener(listener).map(|plan| &plan.protocol) {
            Some(Protocol::Http(_)) => l7::turn_away(&self.local, stream),
            Some(Protocol::Tcp { .. }) | None => stream.reset(),
        }
    }

    /// Serves a connection that this worker has accepted, or hands it over. Where the other's channel is full it is kept.
    pub(super) fn place(&self, incoming: Incoming, admitted: Admitted, acceptors: Acceptors) {
        let turn = self.turn.replace(self.turn.get().wrapping_add(1));
        let other = acceptors.hand_to(self.worker, &self.loads, turn);
        match other.and_then(|other| Some((other, self.colleagues[other].try_reserve().ok()?))) {
            Some((other, place)) => match release(incoming, self.seat(other, admitted)) {
                Ok(handed) => place.send(handed),
                Err(error) => tracing::debug!(%error, "connection lost while it was handed over"),
            },
            None => self.serve(incoming, self.seat(self.worker, admitted)),
        }
    }

    fn seat(&self, worker: usize, admitted: Admitted) -> Seat {
        Seat { _open: self.loads.open(worker), _admitted: admitted }
    }

    /// Serves a connection that another worker has accepted.
    pub(super) fn take_over(&self, handed: Handed) {
        match register(handed) {
            Ok((incoming, seat)) => self.serve(incoming, seat),
            Err(error) => tracing::debug!(%error, "connection lost while it was handed over"),
        }
    }

    /// Starts serving. The task belongs to the worker's runtime, which drops it when it ends itself; a panic in it ends
    /// this connection only.
    fn serve(&self, incoming: Incoming, seat: Seat) {
        let view = self.local.view();
        // By a reload, the listener can have gone while the connection was handed over: then so does the connection.
        let Some(plan) = view.snapshot().listener(incoming.listener) else { return incoming.stream.reset() };
        match plan.protocol {
            Protocol::Tcp { .. } => {
                let local = Rc::clone(&self.local);
                drop(spawn_local(async move {
                    l4::serve(local, incoming).await;
                    drop(seat);
                }));
            }
            Protocol::Http(_) => drop(spawn_local(l7::serve(&self.local, incoming, seat))),
        }
    }
}

/// Whose `address` is: `known`'s, unless a reload has just given it to another listener and the message that says so is
/// still in the mailbox. A port that the kernel chose stands in no listener and stays `known`'s.
fn owner(snapshot: &Snapshot, known: ListenerId, address: &Address) -> Option<ListenerId> {
    let known = snapshot.listener(known);
    if known.is_some_and(|plan| plan.bind.contains(address)) {
        return known.map(|plan| plan.id);
    }
    let renamed = snapshot.listeners().find(|plan| plan.bind.contains(address));
    renamed.or(known).map(|plan| plan.id)
}

/// Takes a connection away from this worker's runtime.
fn release(incoming: Incoming, seat: Seat) -> io::Result<Handed> {
    let socket = match incoming.stream {
        Stream::Tcp(stream) => Socket::Tcp(stream.into_std()?),
        Stream::Unix(stream) => Socket::Unix(stream.into_std()?),
    };
    Ok(Handed { socket, listener: incoming.listener, peer: incoming.peer, local: incoming.local, seat })
}

/// Registers a connection with this worker's runtime.
fn register(handed: Handed) -> io::Result<(Incoming, Seat)> {
    let Handed { socket, listener, peer, local, seat } = handed;
    let stream = match socket {
        Socket::Tcp(socket) => Stream::Tcp(TcpStream::from_std(socket)?),
        Socket::Unix(socket) => Stream::Unix(UnixStream::from_std(socket)?),
    };
    Ok((Incoming { stream, listener, peer, local, prefix: Vec::new() }, seat))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_text;

    fn snapshot(listeners: &[(&str, &str)], previous: Option<&Snapshot>) -> Snapshot {
        let listener = |(name, bind): &(&str, &str)| format!("[listeners.{name}]\nbind = \"{bind}\"\npool = \"app\"\n");
        let text: String = listeners.iter().map(listener).collect();
        let loaded = from_text("test.toml", &(text + "[pools.app]\nbackends = [\"127.0.0.1:3000\"]\n")).unwrap();
        Snapshot::next(&loaded.config, previous)
    }

    fn id(snapshot: &Snapshot, name: &str) -> ListenerId {
        snapshot.listeners().find(|plan| &*plan.name == name).unwrap().id
    }

    fn address(text: &str) -> Address {
        Address::Ip(text.parse().unwrap())
    }

    #[test]
    fn an_address_belongs_at_once_to_the_listener_that_a_reload_gave_it_to() {
        let (one, two) = ("127.0.0.1:1001", "127.0.0.1:1002");
        let before = snapshot(&[("web", one), ("shop", two)], None);
        let (web, shop) = (id(&before, "web"), id(&before, "shop"));
        assert_eq!(owner(&before, web, &address(one)), Some(web));
        let renamed = snapshot(&[("news", one), ("shop", two)], Some(&before));
        assert_eq!(owner(&renamed, web, &address(one)), Some(id(&renamed, "news")));
        let swapped = snapshot(&[("web", two), ("shop", one)], Some(&before));
        assert_eq!(owner(&swapped, web, &address(one)), Some(shop), "though there still is a web");
        let gone = snapshot(&[("shop", two)], Some(&before));
        assert_eq!(owner(&gone, web, &address(one)), None);
    }

    #[test]
    fn a_chosen_port_stays_with_its_listener() {
        let snapshot = snapshot(&[("web", "127.0.0.1:0"), ("shop", "127.0.0.1:1002")], None);
        let web = id(&snapshot, "web");
        assert_eq!(owner(&snapshot, web, &address("127.0.0.1:40000")), Some(web));
    }
}
