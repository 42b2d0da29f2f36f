//! To the backend: making a connection, and keeping those that can be used again.

pub mod idle;

use std::io;

use rustix::io::Errno;
use tokio::net::{TcpStream, UnixStream};

use crate::config::Address;
use crate::outcome::Outcome;
use crate::stream::Stream;

/// A connection to `address`; else how the attempt ended, which is before anything was sent.
///
/// Whoever calls it has the deadline. Cancelling it closes the half-made connection.
pub async fn connect(address: &Address) -> Result<Stream, Outcome> {
    dial(address).await.map_err(|error| {
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
/// No connection could be made.
pub async fn dial(address: &Address) -> io::Result<Stream> {
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
