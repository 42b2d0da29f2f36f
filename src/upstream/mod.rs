//! To the backend: making a connection, and keeping those that can be used again.

pub mod idle;

use std::io;
use std::net::SocketAddr;

use rustix::io::Errno;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};

use crate::config::Address;
use crate::outcome::Outcome;
use crate::proxy_protocol::{self, Addresses};
use crate::state::Pool;
use crate::stream::Stream;

/// The PROXY header that announces a client who came so; empty where the pool sends none.
#[must_use]
pub fn announcement(pool: &Pool, peer: Option<SocketAddr>, local: Option<SocketAddr>) -> Vec<u8> {
    let Some(version) = pool.send_proxy_protocol else { return Vec::new() };
    let addresses = peer.zip(local).map(|(source, destination)| Addresses { source, destination });
    proxy_protocol::encode(version, addresses)
}

/// A connection to `address` that begins with `announcement`; else how the attempt ended, which is before anything of the
/// client's was sent.
///
/// Whoever calls it has the deadline. Cancelling it closes the half-made connection.
pub async fn connect(address: &Address, announcement: &[u8]) -> Result<Stream, Outcome> {
    dial(address, announcement).await.map_err(|error| {
        tracing::debug!(%address, %error, "cannot connect");
        of_error(&error)
    })
}

/// Whether it was the backend that refused, or we that had nothing left to connect with: descriptors, memory, or local
/// ports to this address.
fn of_error(error: &io::Error) -> Outcome {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL) => Outcome::NoSocket,
        _ => Outcome::ConnectFailed,
    }
}

/// The same with what the system says of a failure.
///
/// # Errors
/// No connection could be made, or it broke at once.
pub async fn dial(address: &Address, announcement: &[u8]) -> io::Result<Stream> {
    let mut stream = open(address).await?;
    if !announcement.is_empty() {
        stream.write_all(announcement).await?;
    }
    Ok(stream)
}

async fn open(address: &Address) -> io::Result<Stream> {
    match address {
        Address::Ip(address) => {
            let stream = TcpStream::connect(address).await?;
            // Small requests must not wait for the acknowledgement of the one before.
            stream.set_nodelay(true)?;
            Ok(Stream::Tcp(stream))
        }
        Address::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_lack_is_not_the_backends_fault() {
        let of = |errno: Errno| of_error(&io::Error::from_raw_os_error(errno.raw_os_error()));
        for ours in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL] {
            assert_eq!(of(ours), Outcome::NoSocket, "{ours:?}");
        }
        for its in [Errno::CONNREFUSED, Errno::HOSTUNREACH, Errno::NETUNREACH, Errno::CONNRESET, Errno::AGAIN] {
            assert_eq!(of(its), Outcome::ConnectFailed, "{its:?}");
        }
    }
}
