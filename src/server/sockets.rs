//! Binds listening sockets: all that are asked for, or none.
//!
//! A TCP address gets one socket a worker, joined by SO_REUSEPORT. That option would also let a second daemon join and
//! silently take half of the connections, so the first bind of an address is a probe without it. Between
//! sockets of this process the probe is left out where they overlap (`0.0.0.0:80` beside or in place of `127.0.0.1:80`): our
//! own must not be taken for another process's, and nobody else can have bound what we hold.
//!
//! A Unix address gets one socket. A file that a dead process left behind is removed first; one on which somebody still
//! accepts is a fault.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::places::{Place, Wanted, overlap};
use super::spread::Acceptors;
use crate::config::{Address, Name};

/// Connections that may wait to be accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Which bound address a message is about; no other one of this process has or had the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SocketId(u64);

impl SocketId {
    pub(super) fn unused() -> SocketId {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Relaxed: only that no two are the same matters.
        SocketId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// One address with its sockets.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) id: SocketId,
    pub(super) place: Place,
    /// Whose it is now.
    pub(super) listener: Name,
    /// Where it really listens: port 0 is resolved.
    pub(super) address: Address,
    /// Unlinked when this is dropped; it stands before the sockets so that clients find no file with nobody behind it.
    _file: Option<SocketFile>,
    /// One a worker, or one for all.
    pub(super) sockets: Vec<OwnedFd>,
    /// A copy of each, until they are lent to the workers. Made with the sockets, because a process that runs out of
    /// descriptors must notice while nothing has changed yet: a socket without a worker would let its clients wait for ever.
    pub(super) copies: Vec<OwnedFd>,
}

impl Bound {
    pub(super) fn acceptors(&self) -> Acceptors {
        match self.address {
            Address::Ip(_) => Acceptors::Every,
            Address::Unix(_) => Acceptors::One,
        }
    }
}

/// Why one address can not be listened on.
#[derive(Debug)]
pub struct BindFault {
    /// The listener that asks for it.
    pub listener: Name,
    /// The address as written.
    pub address: Address,
    /// What the system said.
    pub error: io::Error,
}

impl fmt::Display for BindFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {} for listener \"{}\": ", self.address, self.listener)?;
        match (self.error.kind(), &self.address) {
            (io::ErrorKind::AddrInUse, _) => f.write_str("address already in use (another process has it)"),
            (io::ErrorKind::AddrNotAvailable, _) => f.write_str("this machine has no such address"),
            (io::ErrorKind::PermissionDenied, Address::Ip(_)) => {
                f.write_str("permission denied (ports below 1024 need CAP_NET_BIND_SERVICE)")
            }
            (io::ErrorKind::NotFound, Address::Unix(_)) => f.write_str("its directory does not exist"),
            (io::ErrorKind::AlreadyExists, Address::Unix(_)) => {
                f.write_str("there is a file of this name that is not a socket")
            }
            _ => self.error.fmt(f),
        }
    }
}

/// Binds all of `wanted` beside what is held already, each with as many sockets as there are workers.
///
/// # Errors
/// Every address that can not be bound; then none of the others is kept.
pub(super) fn bind_all(wanted: &[&Wanted], held: &[Bound], workers: usize) -> Result<Vec<Bound>, Vec<BindFault>> {
    let (mut bound, mut faults) = (Vec::new(), Vec::new());
    for want in wanted {
        let ours = held.iter().chain(&bound).any(|other: &Bound| competes(&other.address, &want.address));
        match bind(want, ours, workers) {
            Ok(new) => bound.push(new),
            Err(error) => faults.push(fault(&want.listener, &want.address, error)),
        }
    }
    // Nobody is let in before all could be bound: what waits in a queue that is given up again would be reset.
    if faults.is_empty() {
        faults = bound
            .iter()
            .filter_map(|new| listen(new).err().map(|error| fault(&new.listener, &new.address, error)))
            .collect();
    }
    if faults.is_empty() { Ok(bound) } else { Err(faults) }
}

fn fault(listener: &Name, address: &Address, error: io::Error) -> BindFault {
    BindFault { listener: listener.clone(), address: address.clone(), error }
}

fn listen(bound: &Bound) -> io::Result<()> {
    bound.sockets.iter().try_for_each(|socket| SockRef::from(socket).listen(BACKLOG))
}

fn competes(held: &Address, wanted: &Address) -> bool {
    match (held, wanted) {
        (Address::Ip(held), Address::Ip(wanted)) => overlap(*held, *wanted),
        _ => false,
    }
}

fn bind(want: &Wanted, ours: bool, workers: usize) -> io::Result<Bound> {
    let (address, sockets, file) = match &want.address {
        Address::Ip(address) => {
            let (address, sockets) = bind_tcp(*address, ours, workers)?;
            (Address::Ip(address), sockets, None)
        }
        Address::Unix(path) => {
            let (file, socket) = bind_unix(path)?;
            (Address::Unix(path.clone()), vec![socket], Some(file))
        }
    };
    let copies = sockets.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
    let (id, place, listener) = (SocketId::unused(), want.place.clone(), want.listener.clone());
    Ok(Bound { id, place, listener, address, _file: file, sockets, copies })
}

fn bind_tcp(address: SocketAddr, ours: bool, workers: usize) -> io::Result<(SocketAddr, Vec<OwnedFd>)> {
    // The kernel never chooses a port that somebody has, so port 0 needs no probe.
    if !ours && address.port() != 0 {
        tcp_socket(address)?.bind(&address.into())?;
    }
    let first = reuse_port_socket(address)?;
    let address = first.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let siblings = (1..workers).map(|_| reuse_port_socket(address));
    let sockets = std::iter::once(Ok(first)).chain(siblings).map(|socket| socket.map(OwnedFd::from));
    Ok((address, sockets.collect::<io::Result<_>>()?))
}

fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // Without it, connections of an earlier run that are in TIME_WAIT would hold the address for a minute.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn reuse_port_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = tcp_socket(address)?;
    socket.set_reuse_port(true)?;
    // Linux gives the option to every accepted connection, which saves a call for each.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn bind_unix(path: &Path) -> io::Result<(SocketFile, OwnedFd)> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    Ok((SocketFile::at(path)?, socket.into()))
}

/// Removes the file of a socket on which nobody accepts any more.
fn remove_stale(path: &Path) -> io::Result<()> {
    let kind = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    // Not blocking: where the queue of a living one is full, a blocking call would wait for as long as it is busy.
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// The file of a Unix socket, unlinked at the end, unless somebody else has put another one there meanwhile.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<SocketFile> {
        Ok(SocketFile { path: path.to_path_buf(), identity: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            // Nobody is there to be told when this fails; the next start removes a stale file.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    fn want(address: Address) -> Wanted {
        Wanted { place: Place::Fixed(address.clone()), listener: "web".into(), address }
    }

    fn tcp(address: impl Into<SocketAddr>) -> Wanted {
        want(Address::Ip(address.into()))
    }

    fn port_of(bound: &Bound) -> SocketAddr {
        match bound.address {
            Address::Ip(address) => address,
            Address::Unix(_) => panic!("a TCP address was bound"),
        }
    }

    #[test]
    fn port_zero_is_resolved_once_for_all_workers() {
        let want = tcp(([127, 0, 0, 1], 0));
        let bound = bind_all(&[&want], &[], 3).unwrap();
        let port = port_of(&bound[0]).port();
        assert_ne!(port, 0);
        assert_eq!(bound[0].sockets.len(), 3);
        for socket in &bound[0].sockets {
            let local = SockRef::from(socket).local_addr().unwrap().as_socket().unwrap();
            assert_eq!(local.port(), port);
        }
    }

    #[test]
    fn an_address_that_another_has_is_a_clear_fault_and_nothing_else_stays_bound() {
        let taken = bind_all(&[&tcp(([127, 0, 0, 1], 0))], &[], 1).unwrap();
        let plain = TcpListener::bind("127.0.0.1:0").unwrap();
        let (first, second) = (port_of(&taken[0]), plain.local_addr().unwrap());
        let free = SocketAddr::from(([127, 0, 0, 7], first.port()));
        let (one, two, three) = (tcp(free), tcp(first), tcp(second));
        let faults = bind_all(&[&one, &two, &three], &[], 2).unwrap_err();
        let expected = |address: SocketAddr| {
            format!("cannot listen on {address} for listener \"web\": address already in use (another process has it)")
        };
        let texts: Vec<_> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(texts, [expected(first), expected(second)]);
        assert!(TcpStream::connect(free).is_err(), "what could be bound is free again");
    }

    #[test]
    fn our_own_wider_socket_does_not_stand_in_the_way() {
        let wide = bind_all(&[&tcp(([0, 0, 0, 0], 0))], &[], 2).unwrap();
        let narrow = tcp(([127, 0, 0, 1], port_of(&wide[0]).port()));
        assert!(bind_all(&[&narrow], &[], 2).is_err(), "to a stranger it does");
        assert!(bind_all(&[&narrow], &wide, 2).is_ok());
    }

    #[test]
    fn accepted_connections_have_no_delay_without_being_asked() {
        let bound = bind_all(&[&tcp(([127, 0, 0, 1], 0))], &[], 1).unwrap();
        let _client = TcpStream::connect(port_of(&bound[0])).unwrap();
        let listener = TcpListener::from(bound[0].sockets[0].try_clone().unwrap());
        let accepted = loop {
            match listener.accept() {
                Ok((accepted, _)) => break accepted,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        };
        assert!(accepted.nodelay().unwrap());
    }

    #[test]
    fn a_stale_socket_file_is_replaced_and_ours_is_unlinked_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a closed socket leaves its file");
        let want = want(Address::Unix(path.clone()));
        let bound = bind_all(&[&want], &[], 4).unwrap();
        assert_eq!(bound[0].sockets.len(), 1);
        assert!(UnixStream::connect(&path).is_ok());
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_file_that_is_in_use_or_not_a_socket_is_a_fault() {
        let directory = tempfile::tempdir().unwrap();
        let (live, file) = (directory.path().join("live.sock"), directory.path().join("file"));
        let _listener = UnixListener::bind(&live).unwrap();
        std::fs::write(&file, "precious").unwrap();
        let missing = directory.path().join("no/such.sock");
        let wanted = [live.clone(), file.clone(), missing].map(|path| want(Address::Unix(path)));
        let faults = bind_all(&wanted.iter().collect::<Vec<_>>(), &[], 1).unwrap_err();
        let texts: Vec<_> = faults.iter().map(ToString::to_string).collect();
        assert!(texts[0].ends_with("another process has it)"), "{}", texts[0]);
        assert!(texts[1].ends_with("that is not a socket"), "{}", texts[1]);
        assert!(texts[2].ends_with("directory does not exist"), "{}", texts[2]);
        assert!(live.exists() && std::fs::read(&file).unwrap() == b"precious");
    }

    #[test]
    fn a_socket_file_that_is_somebody_elses_by_now_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.sock");
        let bound = bind_all(&[&want(Address::Unix(path.clone()))], &[], 1).unwrap();
        let second = directory.path().join("second.sock");
        let _listener = UnixListener::bind(&second).unwrap();
        std::fs::rename(&second, &path).unwrap();
        drop(bound);
        assert!(path.exists());
    }
}
