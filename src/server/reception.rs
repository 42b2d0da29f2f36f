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
use super::handshake::{Handshakes, Sorted};
use super::introduction::{self, Client};
use super::spread::{Acceptors, Loads, Open};
use crate::client_hello::ClientHello;
use crate::clock;
use crate::config::Address;
use crate::l7::spoken::{self, Spoken};
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
    admitted: Admitted,
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
    handshakes: Rc<Handshakes>,
}

impl Reception {
    pub(super) fn new(
        worker: usize,
        local: Rc<Local>,
        loads: Arc<Loads>,
        admission: Arc<Admission>,
        colleagues: Box<[mpsc::Sender<Handed>]>,
    ) -> Reception {
        Reception { worker, local, loads, admission, colleagues, turn: Cell::new(worker), handshakes: Rc::default() }
    }

    /// Whose a connection is that came in at `address`, as far as the newest snapshot says.
    pub(super) fn owner(&self, known: ListenerId, address: &Address) -> Option<ListenerId> {
        owner(self.local.view().snapshot(), known, address)
    }

    /// Whether a connection of `client` may come in at a listener; `None` when there is no such listener.
    pub(super) fn admit(&self, listener: ListenerId, client: Option<SocketAddr>) -> Option<Entry> {
        let view = self.local.view();
        let plan = view.listener(listener)?;
        // Where a PROXY header is expected, it is a proxy; the client is counted when the header is there.
        let client = client.filter(|_| plan.proxy_protocol.is_none());
        Some(self.admission.admit(view.snapshot(), plan, client.map(|client| client.ip()), clock::now()))
    }

    /// Closes a connection that may not come in; a client that speaks HTTP is told.
    pub(super) fn turn_away(&self, listener: ListenerId, stream: Stream) {
        turn_away(&self.local, listener, stream);
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
        Seat { _open: self.loads.open(worker), admitted }
    }

    /// Serves a connection that another worker has accepted.
    pub(super) fn take_over(&self, handed: Handed) {
        match register(handed) {
            Ok((incoming, seat)) => self.serve(incoming, seat),
            Err(error) => tracing::debug!(%error, "connection lost while it was handed over"),
        }
    }

    /// Starts serving, after a PROXY header where the listener demands one.
    fn serve(&self, incoming: Incoming, mut seat: Seat) {
        let view = self.local.view();
        let Some(plan) = view.snapshot().listener(incoming.listener) else { return incoming.stream.reset() };
        let (local, handshakes) = (&self.local, &self.handshakes);
        if plan.proxy_protocol.is_none() {
            return secure(local, handshakes, incoming, seat);
        }
        let (plan, local, handshakes) = (Arc::clone(plan), Rc::clone(local), Rc::clone(handshakes));
        let admission = Arc::clone(&self.admission);
        start(async move {
            let trusted = plan.proxy_protocol.as_deref().unwrap_or_default();
            let Some((incoming, client)) = introduction::listen(&local, incoming, trusted).await else { return };
            if let Client::Told(client) = client
                && !admission.admit_told(&mut seat.admitted, &plan, client.ip(), clock::now())
            {
                return turn_away(&local, incoming.listener, incoming.stream);
            }
            secure(&local, &handshakes, incoming, seat);
        });
    }
}

/// Closes a connection that may not come in; a client that speaks HTTP is told.
fn turn_away(local: &Rc<Local>, listener: ListenerId, stream: Stream) {
    match local.view().listener(listener).map(|plan| (&plan.protocol, &plan.tls)) {
        // Who expects a TLS handshake understands nothing else.
        Some((Protocol::Http(_), None)) => l7::turn_away(local, stream),
        _ => stream.reset(),
    }
}

/// Starts serving, after a handshake where the listener speaks TLS, or after its first message where that asks to pass through.
fn secure(local: &Rc<Local>, handshakes: &Rc<Handshakes>, incoming: Incoming, seat: Seat) {
    let view = local.view();
    let Some(plan) = view.snapshot().listener(incoming.listener) else { return incoming.stream.reset() };
    let Some(terms) = handshakes.terms(plan) else { return serve(local, incoming, seat) };
    let local = Rc::clone(local);
    start(async move {
        // In a task of its own, so that the connection does not keep room for it.
        match terms.secure(&local, incoming).await {
            Some(Sorted::Secured(incoming)) => serve(&local, incoming, seat),
            Some(Sorted::Through(incoming, hello)) => relay(&local, incoming, Some(hello), seat),
            None => {}
        }
    });
}

/// Relays a connection.
fn relay(local: &Rc<Local>, incoming: Incoming, hello: Option<Box<ClientHello>>, seat: Seat) {
    let local = Rc::clone(local);
    start(async move {
        l4::serve(local, incoming, hello).await;
        drop(seat);
    });
}

/// Serves a connection by what its listener speaks.
fn serve(local: &Rc<Local>, incoming: Incoming, seat: Seat) {
    let view = local.view();
    // By a reload, the listener can have gone while the connection was handed over: then so does the connection.
    let Some(plan) = view.snapshot().listener(incoming.listener) else { return incoming.stream.reset() };
    match &plan.protocol {
        Protocol::Tcp { .. } => relay(local, incoming, None, seat),
        // By a reload again: its TLS has ended here, or it has not said anything yet.
        Protocol::Passthrough(_) => incoming.stream.reset(),
        Protocol::Http(http) => {
            let spoken = Spoken::on(&incoming.stream, http.versions);
            serve_http(local, incoming, spoken, seat);
        }
    }
}

fn serve_http(local: &Rc<Local>, incoming: Incoming, spoken: Spoken, seat: Seat) {
    match spoken {
        Spoken::H1 => start(l7::h1::serve(local, incoming, seat)),
        Spoken::H2 => start(l7::h2::serve(local, incoming, seat)),
        Spoken::Unsaid => {
            let local = Rc::clone(local);
            // In a task of its own, so that the connection does not keep room for it.
            start(async move {
                if let Some((incoming, spoken)) = spoken::listen(&local, incoming).await {
                    serve_http(&local, incoming, spoken, seat);
                }
            });
        }
    }
}

/// Serves a connection in a task of its own, which belongs to the worker's runtime and is dropped with it. A panic in it
/// ends this connection only: what it holds of the worker (its seat, session, deadline and lease, the block that houses its
/// exchange) is given back as it is dropped; buffers, pipes and a desk on loan are lost and made anew.
fn start(connection: impl Future<Output = ()> + 'static) {
    drop(spawn_local(connection));
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
        // A connection is handed over before its handshake, or not at all.
        Stream::Tls(_) => return Err(io::ErrorKind::Unsupported.into()),
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
    use std::future::poll_fn;
    use std::task::Poll;

    use arc_swap::ArcSwap;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::runtime::{Builder, LocalOptions};

    use super::*;
    use crate::balance::Tried;
    use crate::buffer::LARGEST;
    use crate::config::from_text;

    fn snapshot(listeners: &[(&str, &str)], previous: Option<&Snapshot>) -> Snapshot {
        let listener = |(name, bind): &(&str, &str)| format!("[listeners.{name}]\nbind = \"{bind}\"\npool = \"app\"\n");
        let text: String = listeners.iter().map(listener).collect();
        let loaded = from_text("test.toml", &(text + "[pools.app]\nbackends = [\"127.0.0.1:3000\"]\n")).unwrap();
        Snapshot::next(&loaded.config, &crate::tls::Materials::default(), previous)
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

    /// A worker's reception in the test's thread, before one backend that takes one request at once.
    struct Bench {
        reception: Reception,
        origin: TcpListener,
        front: TcpListener,
    }

    impl Bench {
        async fn new() -> Bench {
            let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let text = format!(
                "listeners.web = {{ bind = '127.0.0.1:0', pool = 'app', limits.connections = 2 }}\n\
                 pools.app = {{ queue.max = 0, backends = [{{ address = '{}', max_connections = 1 }}] }}\n",
                origin.local_addr().unwrap()
            );
            let snapshot =
                Snapshot::next(&from_text("test.toml", &text).unwrap().config, &crate::tls::Materials::default(), None);
            snapshot.settle();
            let local = Local::new(0, Arc::new(ArcSwap::from_pointee(snapshot)), 1);
            let reception = Reception::new(0, local, Loads::new(1), Admission::new(2), Box::default());
            Bench { reception, origin, front: TcpListener::bind("127.0.0.1:0").await.unwrap() }
        }

        /// Both ends of a client's connection that was let in.
        async fn client(&self) -> (TcpStream, Incoming, Seat) {
            let client = TcpStream::connect(self.front.local_addr().unwrap()).await.unwrap();
            let (stream, peer) = self.front.accept().await.unwrap();
            let listener = id(self.reception.local.view().snapshot(), "web");
            let Some(Entry::Admitted(admitted)) = self.reception.admit(listener, Some(peer)) else {
                panic!("there is no room for it")
            };
            let stream = Stream::Tcp(stream);
            let incoming = Incoming { stream, listener, peer: Some(peer), local: None, prefix: Vec::new() };
            (client, incoming, self.reception.seat(0, admitted))
        }

        /// One request and its answer.
        async fn exchange(&self, client: &mut TcpStream, backend: &mut Option<TcpStream>) {
            client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
            if backend.is_none() {
                *backend = Some(self.origin.accept().await.unwrap().0);
            }
            let backend = backend.as_mut().unwrap();
            let mut request = [0; 1024];
            assert!(backend.read(&mut request).await.unwrap() > 0);
            backend.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\nok") {
                answer.push(client.read_u8().await.unwrap());
            }
            assert!(answer.starts_with(b"HTTP/1.1 200"));
        }

        /// A connection as it is in the middle of an exchange, with all that one holds; then a panic.
        async fn panics(local: Rc<Local>, incoming: Incoming, seat: Seat) {
            let (session, mut deadline, desk) = (local.session(), local.deadline(), local.desk());
            let buffer = local.buffers.blocks.take(LARGEST);
            let (view, mut tried) = (local.view(), Tried::default());
            let pool = view.snapshot().pools().next().unwrap().0;
            let taken = local.roll(|dice| view.take(pool, clock::now(), 0, &mut tried, dice)).unwrap();
            deadline.set(clock::now());
            let exchange = local.housing.house(|| async {
                tokio::task::yield_now().await;
                poll_fn(|cx| {
                    session.watch(cx);
                    assert!(taken.lease.address().to_string().is_empty(), "on purpose");
                    Poll::<()>::Pending
                })
                .await;
            });
            exchange.await;
            drop((incoming, seat, desk, buffer, deadline));
        }
    }

    #[test]
    fn a_panic_ends_its_own_connection_and_gives_back_what_that_had_of_the_worker() {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let bench = Bench::new().await;
            let local = &bench.reception.local;
            let (mut well, incoming, seat) = bench.client().await;
            bench.reception.serve(incoming, seat);
            let mut backend = None;
            bench.exchange(&mut well, &mut backend).await;
            for _ in 0..3 {
                // It fills the listener, and the backend: were a place not given back, the next would find none.
                let (mut ill, incoming, seat) = bench.client().await;
                start(Bench::panics(Rc::clone(local), incoming, seat));
                assert_eq!(ill.read(&mut [0]).await.unwrap(), 0, "its connection ends");
                assert_eq!((local.connections(), bench.reception.loads.total()), (1, 1));
                bench.exchange(&mut well, &mut backend).await;
            }
        });
    }

    #[test]
    fn a_chosen_port_stays_with_its_listener() {
        let snapshot = snapshot(&[("web", "127.0.0.1:0"), ("shop", "127.0.0.1:1002")], None);
        let web = id(&snapshot, "web");
        assert_eq!(owner(&snapshot, web, &address("127.0.0.1:40000")), Some(web));
    }
}
