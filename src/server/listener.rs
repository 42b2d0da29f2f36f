//! Accepts on one listening socket, for one worker.
//!
//! Accepting is a task of its own for each socket. It takes connections in bounded batches, so that a flood of them does
//! not starve the ones that are served, and it never ends on an error: what concerns one connection is ignored,
//! what concerns the process (no descriptors, no memory) makes it pause, longer each time, with one warning until it
//! has gone well for a while.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::oneshot;

use super::admission::{Admitted, Entry, Gate};
use super::receipt::Receipt;
use super::reception::Reception;
use super::sockets::SocketId;
use super::spread::Acceptors;
use crate::clock::{self, Instant};
use crate::config::Address;
use crate::state::ListenerId;
use crate::stream::{Incoming, Stream};

/// Connections taken in one go before others get their turn.
const BATCH: usize = 64;

/// Connections taken at most when a socket is given up; more can not have been waiting.
const SWEEP: usize = 2 * 4096;

const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long it must have gone well before a shortage counts as over. At the limit of descriptors each connection that
/// ends lets one more in, and then none again: without this, every one of them would be two lines in the log.
const CALM: Duration = Duration::from_secs(5);

/// A listening socket on its way to a worker.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) id: SocketId,
    pub(super) socket: OwnedFd,
    /// Where it listens.
    pub(super) address: Address,
    pub(super) acceptors: Acceptors,
    pub(super) listener: ListenerId,
}

/// The accepting task of one socket.
pub(super) struct Acceptor {
    reception: Rc<Reception>,
    socket: Socket,
    address: Address,
    acceptors: Acceptors,
    /// Whose connections these are; a reload can give the address to another listener.
    listener: Rc<Cell<ListenerId>>,
    /// A connection that was accepted and waits for room.
    in_hand: Cell<Option<Accepted>>,
}

/// A listening socket that this worker's runtime watches.
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// An accepted connection, with the client's address.
type Accepted = (Stream, Option<SocketAddr>);

impl Acceptor {
    /// Registers the socket with this worker's runtime.
    pub(super) fn new(reception: Rc<Reception>, offer: Offer, listener: Rc<Cell<ListenerId>>) -> io::Result<Acceptor> {
        let socket = match offer.address {
            Address::Ip(_) => Socket::Tcp(TcpListener::from_std(offer.socket.into())?),
            Address::Unix(_) => Socket::Unix(UnixListener::from_std(offer.socket.into())?),
        };
        Ok(Acceptor {
            reception,
            socket,
            address: offer.address,
            acceptors: offer.acceptors,
            listener,
            in_hand: Cell::default(),
        })
    }

    /// Accepts until it is told to end; then takes those who wait already and closes the socket.
    pub(super) async fn run(self, end: oneshot::Receiver<Receipt>) {
        let receipt = tokio::select! {
            biased;
            // Cancelling loses nothing: a connection is placed, or put into the hand, in the same step in which it is accepted.
            receipt = end => receipt,
            never = self.accept_for_ever() => match never {},
        };
        self.sweep();
        drop(self.socket);
        drop(receipt);
    }

    async fn accept_for_ever(&self) -> Infallible {
        let mut pauses = Pauses::default();
        loop {
            for _ in 0..BATCH {
                match self.socket.accept().await {
                    Ok(accepted) => {
                        self.end_episode(&mut pauses);
                        self.in_hand.set(Some(accepted));
                        self.let_in().await;
                    }
                    Err(error) => self.pause(&mut pauses, &error).await,
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Lets the connection in hand in, as soon as there is room for it. Meanwhile nothing is accepted here: who comes waits
    /// in the kernel's queue. Cancelled, it stays in hand.
    async fn let_in(&self) {
        let mut waited: Option<Arc<Gate>> = None;
        while let Some(full) = self.try_let_in() {
            full.news().await;
            waited = Some(full);
        }
        if let Some(gate) = waited {
            gate.pass_on();
        }
    }

    /// Lets the connection in hand in, unless a limit does not allow it: then it says which, and keeps it.
    fn try_let_in(&self) -> Option<Arc<Gate>> {
        let (stream, peer) = self.in_hand.take()?;
        // When nobody owns the address any more, the connection goes as well.
        let listener = self.reception.owner(self.listener.get(), &self.address)?;
        match self.reception.admit(listener, peer)? {
            Entry::Admitted(admitted) => self.place(stream, peer, listener, admitted),
            Entry::Refused => self.reception.turn_away(listener, stream),
            Entry::Full(gate) => {
                self.in_hand.set(Some((stream, peer)));
                return Some(gate);
            }
        }
        None
    }

    fn place(&self, stream: Stream, peer: Option<SocketAddr>, listener: ListenerId, admitted: Admitted) {
        let local = match (&stream, &self.address) {
            // A socket that listens on every address has to ask which one it was.
            (Stream::Tcp(stream), Address::Ip(bound)) if bound.ip().is_unspecified() => stream.local_addr().ok(),
            (_, Address::Ip(bound)) => Some(*bound),
            (_, Address::Unix(_)) => None,
        };
        let incoming = Incoming { stream, listener, peer, local, prefix: Vec::new() };
        self.reception.place(incoming, admitted, self.acceptors);
    }

    fn end_episode(&self, pauses: &mut Pauses) {
        if pauses.has_begun() && pauses.goes_well(clock::now()) {
            tracing::info!(address = %self.address, "accepting again");
        }
    }

    async fn pause(&self, pauses: &mut Pauses, error: &io::Error) {
        if Setback::of(error) == Setback::OneConnection {
            return;
        }
        if !pauses.has_begun() {
            tracing::warn!(address = %self.address, %error, "cannot accept connections for now");
        }
        tokio::time::sleep(pauses.next(clock::now())).await;
    }

    /// Takes all who wait, whatever the runtime believes of the socket's readiness, as long as there is room for them.
    fn sweep(&self) {
        for _ in 0..SWEEP {
            if self.try_let_in().is_some() {
                return;
            }
            match self.socket.accept_now() {
                Ok(accepted) => self.in_hand.set(Some(accepted)),
                Err(error) if Setback::of(&error) == Setback::OneConnection => {}
                Err(_) => return,
            }
        }
    }
}

impl Socket {
    async fn accept(&self) -> io::Result<Accepted> {
        Ok(match self {
            Socket::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                (Stream::Tcp(stream), Some(peer))
            }
            Socket::Unix(listener) => (Stream::Unix(listener.accept().await?.0), None),
        })
    }

    /// Asks the kernel itself; `WouldBlock` when nobody waits.
    fn accept_now(&self) -> io::Result<Accepted> {
        let socket = match self {
            Socket::Tcp(listener) => SockRef::from(listener),
            Socket::Unix(listener) => SockRef::from(listener),
        };
        let (accepted, peer) = socket.accept()?;
        accepted.set_nonblocking(true)?;
        Ok(match self {
            Socket::Tcp(_) => (Stream::Tcp(TcpStream::from_std(accepted.into())?), peer.as_socket()),
            Socket::Unix(_) => (Stream::Unix(UnixStream::from_std(accepted.into())?), None),
        })
    }
}

/// What an error of accept(2) is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setback {
    /// The connection that was to be accepted; the next may be fine. Linux passes on its pending network errors here.
    OneConnection,
    /// The process or the machine (or nobody waits), so that trying at once again would spin.
    Process,
}

impl Setback {
    fn of(error: &io::Error) -> Setback {
        match Errno::from_io_error(error) {
            Some(
                Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::INTR
                | Errno::PROTO
                | Errno::PERM
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NOPROTOOPT
                | Errno::NONET
                | Errno::OPNOTSUPP
                | Errno::TIMEDOUT,
            ) => Setback::OneConnection,
            _ => Setback::Process,
        }
    }
}

/// How long to pause when accepting fails again and again: 10 ms, doubled up to 1 s until one success. The episode goes on
/// until there was no failure for [`CALM`].
#[derive(Debug, Default)]
struct Pauses {
    episode: Option<Episode>,
}

#[derive(Clone, Copy, Debug)]
struct Episode {
    latest: Instant,
    pause: Duration,
}

impl Pauses {
    fn has_begun(&self) -> bool {
        self.episode.is_some()
    }

    fn next(&mut self, now: Instant) -> Duration {
        let pause = self.episode.map_or(SHORTEST_PAUSE, |episode| episode.pause);
        self.episode = Some(Episode { latest: now, pause: (pause * 2).min(LONGEST_PAUSE) });
        pause
    }

    /// One was accepted at `now`; says whether that ends an episode.
    fn goes_well(&mut self, now: Instant) -> bool {
        let Some(episode) = &mut self.episode else { return false };
        episode.pause = SHORTEST_PAUSE;
        let is_over = now.since(episode.latest) >= CALM;
        if is_over {
            self.episode = None;
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Instant = Instant::ORIGIN;

    #[test]
    fn pauses_double_up_to_a_second_and_start_over_after_a_success() {
        let mut pauses = Pauses::default();
        let millis: Vec<_> = (0..9).map(|_| pauses.next(T0).as_millis()).collect();
        assert_eq!(millis, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        pauses.goes_well(T0);
        assert_eq!(pauses.next(T0), SHORTEST_PAUSE);
    }

    #[test]
    fn now_and_then_a_success_ends_no_shortage() {
        let mut pauses = Pauses::default();
        assert!(!pauses.has_begun() && !pauses.goes_well(T0));
        for second in 0..60 {
            let now = T0 + Duration::from_secs(second);
            pauses.next(now);
            assert!(!pauses.goes_well(now + LONGEST_PAUSE));
        }
        assert!(pauses.has_begun(), "so that it is warned of once");
        let calm = T0 + Duration::from_secs(59) + CALM;
        assert!(!pauses.goes_well(calm - SHORTEST_PAUSE) && pauses.goes_well(calm));
        assert!(!pauses.has_begun() && !pauses.goes_well(calm));
    }

    #[test]
    fn an_aborted_connection_is_ignored_and_a_shortage_is_not() {
        let of = |errno: Errno| Setback::of(&errno.into());
        for one in [Errno::CONNABORTED, Errno::INTR, Errno::PROTO, Errno::PERM] {
            assert_eq!(of(one), Setback::OneConnection, "{one}");
        }
        for all in [Errno::AGAIN, Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::INVAL] {
            assert_eq!(of(all), Setback::Process, "{all}");
        }
    }
}
