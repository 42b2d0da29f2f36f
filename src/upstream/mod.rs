//! To the backend: making a connection, and keeping those that can be used again.

pub mod idle;

use std::io;

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
        Outcome::ConnectFailed
    })
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
